from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Pod(_message.Message):
    __slots__ = ("namespace", "name", "uid")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    uid: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ...) -> None: ...

class Facts(_message.Message):
    __slots__ = ("architecture", "kernel_release", "cpu_flags", "criu_version", "engine", "image_digest", "mounts_digest")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    CPU_FLAGS_FIELD_NUMBER: _ClassVar[int]
    CRIU_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    kernel_release: str
    cpu_flags: _containers.RepeatedScalarFieldContainer[str]
    criu_version: str
    engine: str
    image_digest: str
    mounts_digest: str
    def __init__(self, architecture: _Optional[str] = ..., kernel_release: _Optional[str] = ..., cpu_flags: _Optional[_Iterable[str]] = ..., criu_version: _Optional[str] = ..., engine: _Optional[str] = ..., image_digest: _Optional[str] = ..., mounts_digest: _Optional[str] = ...) -> None: ...

class CertifyRequest(_message.Message):
    __slots__ = ("token", "request")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    token: str
    request: bytes
    def __init__(self, token: _Optional[str] = ..., request: _Optional[bytes] = ...) -> None: ...

class CertifyResponse(_message.Message):
    __slots__ = ("node", "certificate", "authorities", "renew_after_seconds")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    RENEW_AFTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    node: str
    certificate: str
    authorities: str
    renew_after_seconds: int
    def __init__(self, node: _Optional[str] = ..., certificate: _Optional[str] = ..., authorities: _Optional[str] = ..., renew_after_seconds: _Optional[int] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("pod", "containers")
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    containers: _containers.RepeatedCompositeFieldContainer[LeavingContainer]
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ..., containers: _Optional[_Iterable[_Union[LeavingContainer, _Mapping]]] = ...) -> None: ...

class LeavingContainer(_message.Message):
    __slots__ = ("name", "asleep")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ASLEEP_FIELD_NUMBER: _ClassVar[int]
    name: str
    asleep: bool
    def __init__(self, name: _Optional[str] = ..., asleep: _Optional[bool] = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ("verdict", "reason", "migration", "seconds_left", "keep_seconds")
    class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERDICT_UNSPECIFIED: _ClassVar[LeaveResponse.Verdict]
        ENDS: _ClassVar[LeaveResponse.Verdict]
        MOVES: _ClassVar[LeaveResponse.Verdict]
    VERDICT_UNSPECIFIED: LeaveResponse.Verdict
    ENDS: LeaveResponse.Verdict
    MOVES: LeaveResponse.Verdict
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    KEEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    verdict: LeaveResponse.Verdict
    reason: str
    migration: str
    seconds_left: int
    keep_seconds: int
    def __init__(self, verdict: _Optional[_Union[LeaveResponse.Verdict, str]] = ..., reason: _Optional[str] = ..., migration: _Optional[str] = ..., seconds_left: _Optional[int] = ..., keep_seconds: _Optional[int] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("namespace", "migration")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    migration: str
    def __init__(self, namespace: _Optional[str] = ..., migration: _Optional[str] = ...) -> None: ...

class FollowEvent(_message.Message):
    __slots__ = ("container", "state", "node", "target", "reason")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[FollowEvent.State]
        WAITING: _ClassVar[FollowEvent.State]
        CLAIMED: _ClassVar[FollowEvent.State]
        TAKEN: _ClassVar[FollowEvent.State]
        DROP: _ClassVar[FollowEvent.State]
        KEEP: _ClassVar[FollowEvent.State]
    STATE_UNSPECIFIED: FollowEvent.State
    WAITING: FollowEvent.State
    CLAIMED: FollowEvent.State
    TAKEN: FollowEvent.State
    DROP: FollowEvent.State
    KEEP: FollowEvent.State
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    container: str
    state: FollowEvent.State
    node: str
    target: Pod
    reason: str
    def __init__(self, container: _Optional[str] = ..., state: _Optional[_Union[FollowEvent.State, str]] = ..., node: _Optional[str] = ..., target: _Optional[_Union[Pod, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class OfferRequest(_message.Message):
    __slots__ = ("namespace", "migration", "container", "address", "ticket", "for_node", "complete", "size_bytes", "digest", "facts", "freeze_us")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    FOR_NODE_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    FREEZE_US_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    migration: str
    container: str
    address: str
    ticket: str
    for_node: str
    complete: bool
    size_bytes: int
    digest: str
    facts: Facts
    freeze_us: int
    def __init__(self, namespace: _Optional[str] = ..., migration: _Optional[str] = ..., container: _Optional[str] = ..., address: _Optional[str] = ..., ticket: _Optional[str] = ..., for_node: _Optional[str] = ..., complete: _Optional[bool] = ..., size_bytes: _Optional[int] = ..., digest: _Optional[str] = ..., facts: _Optional[_Union[Facts, _Mapping]] = ..., freeze_us: _Optional[int] = ...) -> None: ...

class OfferResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WithdrawRequest(_message.Message):
    __slots__ = ("namespace", "migration", "container", "reason")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    migration: str
    container: str
    reason: str
    def __init__(self, namespace: _Optional[str] = ..., migration: _Optional[str] = ..., container: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class WithdrawResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClaimRequest(_message.Message):
    __slots__ = ("pod", "container")
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    container: str
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ..., container: _Optional[str] = ...) -> None: ...

class ClaimEvent(_message.Message):
    __slots__ = ("state", "migration", "reason", "asleep", "wait_seconds", "offer", "source_node")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[ClaimEvent.State]
        NOBODY: _ClassVar[ClaimEvent.State]
        EXPECTED: _ClassVar[ClaimEvent.State]
        READY: _ClassVar[ClaimEvent.State]
        TAKEN: _ClassVar[ClaimEvent.State]
        LOST: _ClassVar[ClaimEvent.State]
    STATE_UNSPECIFIED: ClaimEvent.State
    NOBODY: ClaimEvent.State
    EXPECTED: ClaimEvent.State
    READY: ClaimEvent.State
    TAKEN: ClaimEvent.State
    LOST: ClaimEvent.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ASLEEP_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_NODE_FIELD_NUMBER: _ClassVar[int]
    state: ClaimEvent.State
    migration: str
    reason: str
    asleep: bool
    wait_seconds: int
    offer: OfferRequest
    source_node: str
    def __init__(self, state: _Optional[_Union[ClaimEvent.State, str]] = ..., migration: _Optional[str] = ..., reason: _Optional[str] = ..., asleep: _Optional[bool] = ..., wait_seconds: _Optional[int] = ..., offer: _Optional[_Union[OfferRequest, _Mapping]] = ..., source_node: _Optional[str] = ...) -> None: ...

class ProgressRequest(_message.Message):
    __slots__ = ("pod", "migration", "container", "received_bytes", "size_bytes")
    POD_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    migration: str
    container: str
    received_bytes: int
    size_bytes: int
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ..., migration: _Optional[str] = ..., container: _Optional[str] = ..., received_bytes: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ProgressResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TakeRequest(_message.Message):
    __slots__ = ("pod", "migration", "container")
    POD_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    migration: str
    container: str
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ..., migration: _Optional[str] = ..., container: _Optional[str] = ...) -> None: ...

class TakeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConfirmRequest(_message.Message):
    __slots__ = ("pod", "migration", "container", "restore_us")
    POD_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    RESTORE_US_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    migration: str
    container: str
    restore_us: int
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ..., migration: _Optional[str] = ..., container: _Optional[str] = ..., restore_us: _Optional[int] = ...) -> None: ...

class ConfirmResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AbandonRequest(_message.Message):
    __slots__ = ("pod", "migration", "container", "reason")
    POD_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    migration: str
    container: str
    reason: str
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ..., migration: _Optional[str] = ..., container: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AbandonResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
