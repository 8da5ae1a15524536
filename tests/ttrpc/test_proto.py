"""`proto/shim_v1.proto` and the declarations in Python say the same."""

import os
import re

from architect.ttrpc import codec, shim_v1

PROTO = os.path.join(os.path.dirname(__file__), "..", "..", "proto", "shim_v1.proto")


def _text() -> str:
    with open(PROTO, encoding="utf-8") as file:
        return re.sub(r"//[^\n]*", "", file.read())


def _spelled(spec: codec.FieldSpec) -> str:
    kind = spec.kind.name if isinstance(spec.kind, codec.Kind) else spec.kind.__name__
    return f"map<string, {kind}>" if spec.mapped else f"repeated {kind}" if spec.repeated else kind


def test_messages_have_the_same_fields_and_numbers() -> None:
    in_proto = {
        name: {
            field: (kind, int(number))
            for kind, field, number in re.findall(r"(\S[^;=]*?) (\w+) = (\d+);", body)
        }
        for name, body in re.findall(r"message (\w+) \{(.*?)\}", _text(), re.DOTALL)
    }
    in_python = {
        cls.__name__: {name: (_spelled(spec), spec.number) for name, spec in codec.declared(cls).items()}
        for cls in vars(shim_v1).values()
        if isinstance(cls, type) and cls.__module__ == shim_v1.__name__
    }
    assert in_python == in_proto


def test_the_service_has_the_same_methods() -> None:
    rpcs = re.findall(r"rpc (\w+)\((\w+)\) returns \((?:stream )?(\w+)\);", _text())
    in_python = [(name, one.__name__, other.__name__) for name, (one, other) in shim_v1.METHODS.items()]
    assert in_python == rpcs


def test_names_are_those_of_the_package() -> None:
    package = re.findall(r"^package (\S+);", _text(), re.MULTILINE)
    assert package == [shim_v1.SERVICE.rpartition(".")[0]]
    assert codec.full_name(shim_v1.Port) == f"{package[0]}.Port"
