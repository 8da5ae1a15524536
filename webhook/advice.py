"""What is legal but unwise, said as warnings to whoever creates the pod."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, Final

from architect.probes import PROBES, SHADOWS, doors
from architect.settings import DELAYS, DURATIONS, MANAGED, MONITOR, PREFIX, ContainerSettings, Monitor
from architect.untrusted import shown
from webhook.fitness import is_job
from webhook.pods import Fields, annotations_of, containers, declared, fields, init_containers, records, text

KNOWN: Final = frozenset(
    {
        MANAGED, DURATIONS, DELAYS, MONITOR, PROBES, SHADOWS,
        # written by the daemon; they come back in pods that are made from others
        f"{PREFIX}cpu-requests", f"{PREFIX}memory-requests",
    }
)  # fmt: skip
_COUNTED: Final = ("cpu", "memory")


def advice(pod: Mapping[str, Any], settings: Mapping[str, ContainerSettings]) -> list[str]:
    """The warnings about a pod that is ready to sleep; `settings` are those of its managed containers."""
    found = [
        f"the annotation {shown(key)} is not known in this release and has no effect"
        for key in annotations_of(pod)
        if key.startswith(PREFIX) and key not in KNOWN
    ]
    if is_job(pod):
        found.append("a Job does not finish while its pod sleeps")
    shadows = {door.shadow_port for door in doors(annotations_of(pod))}
    for container in containers(pod):
        if (name := text(container, "name")) in settings:
            found += _of_container(container, settings[name], shadows)
    return found + _of_requests(pod, settings)


def _of_container(container: Fields, settings: ContainerSettings, shadows: Collection[int]) -> list[str]:
    name, ports = text(container, "name"), declared(container)
    protocols = {port.protocol for port in ports}
    found = []
    if settings.monitor is Monitor.NONE:
        found.append(f'traffic does not wake container "{name}", only exec: it has no {MONITOR}')
    elif not ports:
        found.append(f'traffic does not wake container "{name}", only exec: it declares no ports')
    elif settings.monitor is Monitor.CONNECTIONS and "TCP" not in protocols:
        found.append(f'{MONITOR}.{name}: "connections" sees TCP only, and it declares none; use "packets"')
    if "SCTP" in protocols:
        found.append(f'container "{name}" declares an SCTP port; a container with SCTP sockets cannot sleep')
    found += [
        f'container "{name}" declares the shadow port {port.number}; leave that out, or its traffic wakes it'
        for port in ports
        if port.number in shadows
    ]
    rootfs = fields(container, "securityContext").get("readOnlyRootFilesystem")
    mounted = {text(mount, "mountPath").rstrip("/") for mount in records(container, "volumeMounts")}
    if rootfs is True and "/tmp" not in mounted:  # noqa: S108  (a path in the container)
        found.append(
            f'container "{name}" has a read-only root file system; it can sleep only if its image has a /tmp'
        )
    return found


def _of_requests(pod: Mapping[str, Any], managed: Collection[str]) -> list[str]:
    """Whether requests can go to zero during sleep: a resize must not change the pod's QoS class."""
    if fields(pod, "spec").get("resources"):
        return []  # of the whole pod: another rule
    asleep = copy.deepcopy(dict(pod))
    zeroed = False
    for container in containers(asleep):
        requests = fields(fields(container, "resources"), "requests")
        if text(container, "name") in managed:
            for name in _COUNTED:
                zeroed |= not _is_zero(requests.pop(name, None))
    before = _qos(pod)
    if not zeroed or before == _qos(asleep):
        return []
    remedy = "set requests below limits" if before == "Guaranteed" else "set limits for CPU or memory"
    return [
        f"its requests stay reserved while it sleeps, since its QoS class ({before}) may not change; {remedy}"
    ]


def _qos(pod: Mapping[str, Any]) -> str:
    """The pod's class as Kubernetes computes it, of CPU and memory. Absent requests count as none.

    (The API server has filled them in from the limits before it asks us.)
    """
    guaranteed, any_set = True, False
    for container in [*containers(pod), *init_containers(pod)]:
        resources = fields(container, "resources")
        requests, limits = fields(resources, "requests"), fields(resources, "limits")
        for name in _COUNTED:
            request, limit = requests.get(name), limits.get(name)
            any_set |= not (_is_zero(request) and _is_zero(limit))
            guaranteed &= not _is_zero(limit) and request == limit
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _is_zero(quantity: object) -> bool:
    """Whether a quantity is none. The API server sends them in their canonical form: zero is "0"."""
    return quantity in (None, "", "0", 0)
