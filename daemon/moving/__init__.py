"""What this node does when a container leaves it or comes to it: `architect.node.v1.Node` for the shims, the
control plane's contract as a client, the bytes by `daemon.transfer`.

The trap: it brings gRPC and protobuf. The daemon imports it only when it was told of a control plane.
"""
