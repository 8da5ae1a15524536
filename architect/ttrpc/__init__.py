"""ttrpc: remote calls over a unix socket, as containerd speaks them to its shims.

`frames` cuts a byte stream into frames, `codec` turns dataclasses into protobuf bytes and back, `rpc` holds
the envelope and the status of a call, `server` and `client` are the two ends; `containerd`, `runtime_info`,
`cgroup1`, `cgroup2` and `shim_v1` declare messages. Nothing is imported here: one pays for what one names.
"""
