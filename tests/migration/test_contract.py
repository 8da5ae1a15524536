"""The contract's .proto, what is generated from it, and the table of its calls say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_tools import protoc

from architect.migration import methods
from architect.migration.v1 import migration_pb2 as v1

CHECKOUT = Path(__file__).parents[2]
CONTRACT = "architect/migration/v1/migration.proto"
GENERATED = ("architect/migration/v1/migration_pb2.py", "architect/migration/v1/migration_pb2.pyi")


@pytest.mark.parametrize("path", GENERATED)
def test_what_is_committed_is_what_the_contract_generates(path: str, tmp_path: Path) -> None:
    argv = [f"-I{CHECKOUT / 'proto'}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", CONTRACT]
    assert protoc.main(["protoc", *argv]) == 0
    assert (CHECKOUT / path).read_text() == (tmp_path / path).read_text()


def test_the_table_of_calls_is_that_of_the_contract() -> None:
    in_contract: list[tuple[str, str, str, str, bool]] = []
    for service in v1.DESCRIPTOR.services_by_name.values():
        call: MethodDescriptor
        for call in service.methods:
            assert not call.client_streaming
            names = call.input_type.name, call.output_type.name
            in_contract.append((service.full_name, call.name, *names, call.server_streaming))
    in_table = [
        (each.service, each.name, each.request.__name__, each.answer.__name__, each.streams)
        for each in vars(methods).values()
        if isinstance(each, methods.Method)
    ]
    assert sorted(in_table) == sorted(in_contract)
