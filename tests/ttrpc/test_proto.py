"""The contracts in `proto/` that ttrpc carries and the declarations in Python say the same."""

import re
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

import pytest

from architect.ttrpc import codec, node_v1, shim_v1

PROTO = Path(__file__).parents[2] / "proto"
contracts = pytest.mark.parametrize("contract", [shim_v1, node_v1], ids=["shim_v1", "node_v1"])


def _text(contract: ModuleType) -> str:
    name = contract.__name__.rpartition(".")[2]
    return re.sub(r"//[^\n]*", "", (PROTO / f"{name}.proto").read_text(encoding="utf-8"))


def _declared(contract: ModuleType) -> list[type]:
    return [
        cls
        for cls in vars(contract).values()
        if isinstance(cls, type) and is_dataclass(cls) and cls.__module__ == contract.__name__
    ]


def _spelled(spec: codec.FieldSpec) -> str:
    kind = spec.kind.name if isinstance(spec.kind, codec.Kind) else spec.kind.__name__
    return f"map<string, {kind}>" if spec.mapped else f"repeated {kind}" if spec.repeated else kind


@contracts
def test_messages_have_the_same_fields_and_numbers(contract: ModuleType) -> None:
    in_proto = {
        name: {
            field: (kind, int(number))
            for kind, field, number in re.findall(r"(\S[^;=]*?) (\w+) = (\d+);", body)
        }
        for name, body in re.findall(r"message (\w+) \{(.*?)\}", _text(contract), re.DOTALL)
    }
    in_python = {
        cls.__name__: {name: (_spelled(spec), spec.number) for name, spec in codec.declared(cls).items()}
        for cls in _declared(contract)
    }
    assert in_python == in_proto


@contracts
def test_the_service_has_the_same_methods(contract: ModuleType) -> None:
    rpcs = re.findall(r"rpc (\w+)\((\w+)\) returns \((?:stream )?(\w+)\);", _text(contract))
    in_python = [(name, one.__name__, other.__name__) for name, (one, other) in contract.METHODS.items()]
    assert in_python == rpcs


@contracts
def test_names_are_those_of_the_package(contract: ModuleType) -> None:
    package = re.findall(r"^package (\S+);", _text(contract), re.MULTILINE)
    assert package == [contract.SERVICE.rpartition(".")[0]]
    assert all(codec.full_name(cls) == f"{package[0]}.{cls.__name__}" for cls in _declared(contract))
