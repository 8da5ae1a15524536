"""Moving a pod's memory to another node, as nodes and the control plane speak of it: contract and client.

`v1/` is generated from `proto/architect/migration/v1/migration.proto` (proto/README.md tells how),
`methods.py` names its calls, `client.py` makes them, `identity.py` is a node's key and certificate,
`request.py` makes that key.

The trap: grpc and protobuf take 20 MiB. A process imports this when it has something to move.
"""
