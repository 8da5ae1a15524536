"""What there is to say about a container, as JSON for people and the command line. Pure functions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from architect.settings import Monitor
from architect.states import Phase
from daemon.containers import Container

_DOING: Final = {
    Phase.CREATED: "It has not been started.",
    Phase.HIBERNATING: "It is falling asleep.",
    Phase.SCALED_DOWN: "It is asleep.",
    Phase.WAKING: "It is waking up.",
    Phase.LEAVING: "It leaves for another node.",
    Phase.ARRIVING: "It waits for its memory to come from another node.",
    Phase.STOPPED: "It has ended.",
}
_NO_TRAFFIC: Final = "Traffic does not wake it, only exec: it has no network-monitor."
_NO_PORTS: Final = (
    "Traffic does not wake it, only exec: it declares no ports that its network-monitor could watch."
)


def listed(container: Container) -> dict[str, Any]:
    """A container in a list."""
    status, pod = container.status, container.pod
    return {
        "id": status.id,
        "namespace": pod.namespace,
        "pod": pod.name,
        "pod_uid": pod.uid,
        "container": status.name,
        "managed": status.managed,
        "state": status.phase,
        "since_ns": status.since_ns,
        "pid": status.pid,
        "execs": status.execs,
        "generation": status.generation,
        "saved_bytes": status.saved_bytes,
        "image_bytes": status.image_bytes,
        "sleeps": status.sleeps,
        "wakes": status.wakes,
        "last_sleep_us": status.last_sleep_us,
        "last_wake_us": status.last_wake_us,
        "last_wake_cause": status.last_wake_cause,
        "refusal": status.refusal,
        "settings_error": status.settings_error,
    }


def explained(container: Container, beyond: Mapping[str, Any]) -> dict[str, Any]:
    """All there is to say about a container; `sentences` says it to a person.

    `beyond`: what is known of it beyond this node (`audience.py`).
    """
    status = container.status
    due = None if container.due_ns is None else max(0.0, (container.due_ns - time.monotonic_ns()) / 1e9)
    facts = {key: value for key, value in beyond.items() if key != "sentences"}
    return (
        listed(container)
        | facts
        | {
            "eligible": status.managed and not status.refusal and not status.settings_error,
            "sentences": [*_sentences(container, due), *beyond["sentences"]],
            "waiting_for": container.waiting_for,
            "next_look_seconds": due,
            "attempts_failed": container.failures,
            "settings": {
                "idle_ns": status.idle_ns,
                "initial_delay_ns": status.initial_delay_ns,
                "network_monitor": status.monitor,
                "ports": [{"number": port.number, "protocol": port.protocol} for port in status.ports],
            },
            "failures": [
                {"at_ns": f.at_ns, "operation": f.operation, "reason": f.reason} for f in status.failures
            ],
        }
    )


def _sentences(container: Container, due: float | None) -> list[str]:
    status = container.status
    if status.settings_error:
        return [f"It cannot hibernate: its annotations were refused: {status.settings_error}."]
    if not status.managed:
        return ["It cannot hibernate: it is not in the pod's managed-containers annotation."]
    said = [f"It cannot hibernate: {status.refusal}." if status.refusal else "It can hibernate."]
    if status.phase == Phase.RUNNING:
        if container.attempt:
            said.append("It is about to be put to sleep.")
        elif not status.refusal and container.waiting_for:
            when = "" if due is None else f"; the next look is in {_seconds(due)}"
            said.append(f"It is awake because {container.waiting_for}{when}.")
        tried = [failure.reason for failure in status.failures if failure.operation == "hibernate"]
        if container.failures and tried:
            said.append(f"The last attempt to put it to sleep failed: {tried[-1]}.")
    elif status.phase in Phase.__members__:
        said.append(_DOING[Phase(status.phase)])
    said.extend(
        f"It was started fresh instead of woken: {failure.reason}."
        for failure in status.failures
        if failure.operation == "fresh start"
    )
    if status.monitor == Monitor.NONE:
        said.append(_NO_TRAFFIC)
    elif not status.ports:
        said.append(_NO_PORTS)
    return said


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
