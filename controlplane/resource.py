"""Records as objects of the API: the custom resource Migration (deploy/charts/architect/resources).

`spec` is written once, `status` with every change. Anybody with the right may have written what is read here:
it is checked once more, although the API server holds it against the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from architect.untrusted import Unreadable, Value
from controlplane.pods import Owner
from controlplane.records import Part, Record, State, Target, phase
from controlplane.times import seconds, written

GROUP: Final = "architect.loopholelabs.io"
VERSION: Final = "v1alpha1"
RESTORE: Final = f"{GROUP}/restore"
"""The annotation by which somebody asks for a copy that is kept; its value does not matter."""
FINALIZER: Final = f"{GROUP}/migration"
ALL: Final = f"/apis/{GROUP}/{VERSION}/migrations"
_LONGEST: Final = 1024
_MAX_PARTS: Final = 256

Object = dict[str, Any]


def collection(namespace: str) -> str:
    """The path of a namespace's records."""
    return f"/apis/{GROUP}/{VERSION}/namespaces/{quote(namespace, safe='')}/migrations"


def path(record: Record, subresource: str = "") -> str:
    """The path of a record."""
    found = f"{collection(record.namespace)}/{quote(record.name, safe='')}"
    return f"{found}/{subresource}" if subresource else found


def to_create(record: Record) -> Object:
    """The object as it is created; its status comes with the first change."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Migration",
        "metadata": {"name": record.name, "namespace": record.namespace, "finalizers": [FINALIZER]},
        "spec": {
            "pod": {"name": record.pod, "uid": record.pod_uid},
            "node": record.node,
            "owner": {"kind": record.owner.kind, "name": record.owner.name, "uid": record.owner.uid},
            "slot": record.slot,
            "reason": record.reason,
            "leftTime": written(record.left),
            "killTime": written(record.kill),
            "containers": [part.name for part in record.parts],
        },
    }


def status(record: Record) -> Object:
    """Its status, whole: what is not set is null, so that a merge removes it."""
    target = record.target
    reasons = [part.reason for part in record.parts if part.reason]
    return {
        "phase": phase(record).value,
        "reason": reasons[0] if reasons else None,
        "target": {"name": target.name, "uid": target.uid, "node": target.node} if target else None,
        "announcedTime": _moment(record.announced),
        "claimedTime": _moment(record.claimed),
        "reopenedTime": _moment(record.reopened),
        "endTime": _moment(record.ended),
        "containers": [_part(part) for part in record.parts],
    }


def _moment(moment: float) -> str | None:
    return written(moment) if moment else None


def _part(part: Part) -> Object:
    found = {
        "name": part.name,
        "state": part.state.value,
        "since": _moment(part.since),
        "asleep": part.asleep,
        "taken": part.taken,
        "sizeBytes": part.size,
        "receivedBytes": part.received,
        "freezeMicroseconds": part.freeze_us,
        "restoreMicroseconds": part.restore_us,
        "reason": part.reason,
    }
    return {key: value for key, value in found.items() if value not in ("", 0, False, None)}


def record(found: Mapping[str, Any]) -> Record:
    """The record that an object is. Raises Unreadable."""
    value = Value(found)
    metadata, spec = value.member("metadata"), value.member("spec")
    status = _maybe(value, "status")
    target = _maybe(status, "target") if status else None
    owner = spec.member("owner")
    parts = tuple(_parts(spec, status, seconds(_text(metadata, "creationTimestamp"))))
    if not parts:
        spec.refuse("names no containers")
    return Record(
        namespace=_text(metadata, "namespace"),
        name=_text(metadata, "name"),
        pod=_text(spec.member("pod"), "name"),
        pod_uid=_text(spec.member("pod"), "uid"),
        node=_text(spec, "node"),
        owner=Owner(_text(owner, "kind"), _text(owner, "name"), _text(owner, "uid")),
        slot=_text(spec, "slot"),
        reason=_text(spec, "reason"),
        left=seconds(_text(spec, "leftTime")),
        kill=seconds(_text(spec, "killTime")),
        parts=parts,
        target=Target(_text(target, "name"), _text(target, "uid"), _text(target, "node")) if target else None,
        announced=seconds(_text(status, "announcedTime")),
        claimed=seconds(_text(status, "claimedTime")),
        reopened=seconds(_text(status, "reopenedTime")),
        ended=seconds(_text(status, "endTime")),
        version=_text(metadata, "resourceVersion"),
        deleting=bool(_text(metadata, "deletionTimestamp")),
        wanted=_maybe(_maybe(metadata, "annotations"), RESTORE) is not None,
        held=FINALIZER in [each.raw for each in _list(metadata, "finalizers")],
    )


def _parts(spec: Value, status: Value | None, created: float) -> list[Part]:
    """In the order of the specification; what the status does not know is expected still."""
    known: dict[str, Part] = {}
    for each in _list(status, "containers"):
        name, state = _text(each, "name"), each.member("state")
        if state.raw not in {one.value for one in State}:
            state.refuse("is no state that this release knows")
        known[name] = Part(
            name=name,
            state=State(str(state.raw)),
            since=seconds(_text(each, "since")),
            asleep=_flag(each, "asleep"),
            taken=_flag(each, "taken"),
            size=_number(each, "sizeBytes"),
            received=_number(each, "receivedBytes"),
            freeze_us=_number(each, "freezeMicroseconds"),
            restore_us=_number(each, "restoreMicroseconds"),
            reason=_text(each, "reason"),
        )
    names = [each.text(limit=_LONGEST) for each in spec.member("containers").items(limit=_MAX_PARTS)]
    return [known.get(name, Part(name, since=created)) for name in names]


def _maybe(value: Value | None, name: str) -> Value | None:
    """A member that may be missing, or null."""
    if value is None or value.mapping().get(name) is None:
        return None
    return value.member(name)


def _list(value: Value | None, name: str) -> list[Value]:
    found = _maybe(value, name)
    return found.items(limit=_MAX_PARTS) if found else []


def _text(value: Value | None, name: str) -> str:
    found = _maybe(value, name)
    return found.text(limit=_LONGEST) if found else ""


def _number(value: Value, name: str) -> int:
    found = _maybe(value, name)
    return found.integer() if found else 0


def _flag(value: Value, name: str) -> bool:
    found = _maybe(value, name)
    return found is not None and found.raw is True


__all__ = ["ALL", "FINALIZER", "Unreadable", "collection", "path", "record", "status", "to_create"]
