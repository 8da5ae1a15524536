"""Who asks for sleep: the label of a pod, else the label of its namespace, else its runtime class.

The API server sends the namespace's name but not its labels, so that the webhook's configuration chooses by
them and says with the path what it chose (see configuration.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from architect.settings import PREFIX, Refused
from architect.untrusted import shown
from webhook.pods import fields, strings, text

LABEL: Final = PREFIX + "hibernate"
RUNC: Final = "runc-architect"
RUNSC: Final = "runsc-architect"
YES: Final = ("true", "runc")
NO: Final = "false"

_GVISOR: Final = "gVisor (runsc) is not in this release"
_ALLOWED: Final = '"true" and "runc" let a pod sleep, "false" does not'


class Unfit(Refused):
    """The pod is well-formed, but its like cannot sleep.

    Who asked for that one pod is refused. A namespace asks for whatever comes: such a pod is left as it is.
    """


class Namespace(StrEnum):
    """What the label of the pod's namespace says."""

    SILENT = ""
    ASKS = "asks"
    UNCLEAR = "unclear"


class Asker(StrEnum):
    """Who asked."""

    NOBODY = "nobody"
    LABEL = "label"
    NAMESPACE = "namespace"
    CLASS = "class"


def asker(pod: Mapping[str, Any], namespace: Namespace) -> Asker:
    """Who asks for this pod to sleep. Raises Refused for a label that says neither yes nor no."""
    labels = strings(fields(pod, "metadata"), "labels")
    if LABEL in labels:
        value = labels[LABEL]
        if value == NO:
            return Asker.NOBODY
        if value not in YES:
            known = f'{_GVISOR}; use "runc"' if value == "runsc" else f"{shown(value)} is unknown; {_ALLOWED}"
            raise Refused(LABEL, known)
        return Asker.LABEL
    if namespace is Namespace.UNCLEAR:
        raise Refused(
            LABEL,
            f"the namespace's label has a value that this release does not know; {_ALLOWED} ({_GVISOR})",
        )
    if namespace is Namespace.ASKS:
        return Asker.NAMESPACE
    if text(fields(pod, "spec"), "runtimeClassName") in (RUNC, RUNSC):
        return Asker.CLASS
    return Asker.NOBODY


def runtime_class(pod: Mapping[str, Any]) -> str:
    """The runtime class that the pod needs. Raises Unfit when it names another."""
    named = text(fields(pod, "spec"), "runtimeClassName")
    if named == RUNSC:
        raise Refused("spec.runtimeClassName", f"{_GVISOR}; use {RUNC}")
    if named not in ("", RUNC):
        raise Unfit(
            "spec.runtimeClassName",
            f"{shown(named)} is set, and {RUNC} is what lets a pod sleep; leave it out, "
            f'or label the pod {LABEL}: "{NO}"',
        )
    return RUNC
