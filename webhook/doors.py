"""Points the probes of managed containers at shadow ports, which the shim answers (architect/probes.py).

A mapping that somebody wrote by hand stays and is used. Two probes of one kind at one port share a door.
The trap: this runs again over its own result when another webhook has changed the pod; a probe that already
leads to a shadow port, or begins with the sentinel, is done.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from architect.probes import EXEC_PROBE, PROBES, Protocol, doors
from architect.settings import Refused
from architect.untrusted import shown
from webhook.pods import (
    Fields,
    annotations_of,
    containers,
    declared_numbers,
    fields,
    init_containers,
    number,
    probes,
    records,
    section,
    text,
)

FIRST_SHADOW_PORT: Final = 29_000
MESH_PATH: Final = "/app-health/"
"""Istio has replaced the probe by one of its own proxy's, which asks the application's port in its turn."""

_HANDLERS: Final = ("httpGet", "tcpSocket", "grpc")


def repoint(pod: Fields, managed: Collection[str], notes: list[str]) -> None:
    """Changes the probes of the `managed` containers and the annotation that tells the shim of them.

    What is left alone although it will wake its container is said in `notes`. Raises Refused for an
    annotation that does not hold together.
    """
    plan = _Plan(pod)
    for container in containers(pod):
        if text(container, "name") in managed:
            for kind, probe in probes(container):
                _repoint(probe, _Place(pod, container, kind), plan, notes)
    plan.write(pod)


class _Place:
    """Which probe of which container is meant."""

    def __init__(self, pod: Fields, container: Fields, kind: str) -> None:
        self.name = text(container, "name")
        self.kind = kind
        self.container = container
        self._others = [each for each in containers(pod) if each is not container]

    def port(self, given: object) -> int | None:
        """The number of a probe's port as kubelet finds it: a number, the name of one, or digits."""
        if not isinstance(given, str):
            return number(given)
        for port in records(self.container, "ports"):
            if port.get("name") == given:
                return number(port.get("containerPort"))
        return number(int(given)) if given.isascii() and given.isdigit() and len(given) < 6 else None

    def owner(self, port: int) -> str:
        """Another container that declares `port`, when this one does not; or ""."""
        if port in declared_numbers(self.container):
            return ""
        return next((text(each, "name") for each in self._others if port in declared_numbers(each)), "")

    def note(self, sentence: str) -> str:
        return f'the {self.kind} of container "{self.name}" is left as it is and will wake it: {sentence}'


class _Plan:
    """The doors there are, and those that are added."""

    def __init__(self, pod: Fields) -> None:
        given = annotations_of(pod)
        known = {text(container, "name") for container in containers(pod)}
        found = doors(given, known=known)
        self._mappings: list[Any] = json.loads(given[PROBES])["mappings"] if PROBES in given else []
        self._added = False
        self.shadows = {door.shadow_port for door in found}
        self._doors = {
            (door.container, door.app_port, door.protocol): door.shadow_port for door in found if door.probe
        }
        self._taken = self.shadows | {door.app_port for door in found} | _named_ports(pod)

    def shadow(self, container: str, port: int, protocol: Protocol) -> int:
        """The shadow port that leads to `port`."""
        key = (container, port, protocol)
        if key not in self._doors:
            free = next((at for at in range(FIRST_SHADOW_PORT, 65536) if at not in self._taken), None)
            if free is None:
                raise Refused(PROBES, f"no port from {FIRST_SHADOW_PORT} on is free; the pod names them all")
            self._doors[key] = free
            self._taken.add(free)
            self.shadows.add(free)
            self._mappings.append(
                {"containerName": container, "appPort": port, "shadowPort": free, "protocol": str(protocol)}
            )
            self._added = True
        return self._doors[key]

    def write(self, pod: Fields) -> None:
        if not self._added:
            return
        kept = section(section(pod, "metadata"), "annotations")
        kept[PROBES] = json.dumps({"mappings": self._mappings}, separators=(",", ":"))
        doors(annotations_of(pod))  # also what was added must be what the shim accepts


def _named_ports(pod: Mapping[str, Any]) -> set[int]:
    """Every number that the pod uses as a port anywhere."""
    found: set[int] = set()
    for container in [*containers(pod), *init_containers(pod)]:
        found |= declared_numbers(container)
        lifecycle = fields(container, "lifecycle")
        askers = [probe for _, probe in probes(container)]
        askers += [fields(lifecycle, name) for name in ("postStart", "preStop")]
        for asker in askers:
            numbers = (number(fields(asker, handler).get("port")) for handler in _HANDLERS)
            found |= {at for at in numbers if at is not None}
    return found


def _repoint(probe: Fields, place: _Place, plan: _Plan, notes: list[str]) -> None:
    if command := fields(probe, "exec").get("command"):
        if isinstance(command, list) and command[0] != EXEC_PROBE:
            probe["exec"]["command"] = [EXEC_PROBE, *command]
        return
    kind = next((name for name in _HANDLERS if isinstance(probe.get(name), dict)), "")
    if not kind:
        return
    handler: Fields = probe[kind]
    port = place.port(handler.get("port"))
    if port in plan.shadows:
        return
    if text(handler, "host"):
        notes.append(place.note("it names a host; leave that out, so that it asks the pod"))
    elif port is None:
        notes.append(place.note(f"the container has no port {shown(handler.get('port'))}"))
    elif text(handler, "path").startswith(MESH_PATH):
        notes.append(
            place.note('Istio answers it; set the annotation sidecar.istio.io/rewriteAppHTTPProbers: "false"')
        )
    elif owner := place.owner(port):
        notes.append(place.note(f'port {port} is container "{owner}"\'s'))
    else:
        _lead(probe, kind, place.name, port, plan)


def _lead(probe: Fields, kind: str, container: str, port: int, plan: _Plan) -> None:
    """Makes `probe` ask the shim, in a way that the shim can answer in the application's place."""
    handler: Fields = probe[kind]
    if kind == "grpc":
        handler["port"] = plan.shadow(container, port, Protocol.GRPC)
    elif kind == "tcpSocket":
        # The shim listens whether the application does or not: a mere connection would tell nothing.
        shadow = plan.shadow(container, port, Protocol.TCP)
        del probe["tcpSocket"]
        probe["httpGet"] = {"path": "/", "port": shadow, "scheme": "HTTP"}
    else:
        tls = text(handler, "scheme").upper() == "HTTPS"
        handler["port"] = plan.shadow(container, port, Protocol.HTTPS if tls else Protocol.HTTP)
        if tls:  # the shim has no certificate; it is the shim that speaks TLS with the application
            handler["scheme"] = "HTTP"
