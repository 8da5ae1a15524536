"""What of a pod can sleep: the shim's and CRIU's own refusals, as far as a pod's manifest shows them.

They are refused here for the same reasons as there (architect/engine/plan.py), but before the pod exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from architect.settings import MANAGED
from webhook.asking import Unfit
from webhook.pods import Fields, containers, declared, fields, init_containers, records, text

# Containers that service meshes and the like inject beside the application, to go on when that sleeps.
SIDECARS: Final = frozenset({"consul-dataplane", "daprd", "istio-proxy", "kuma-sidecar", "linkerd-proxy"})
WATCHED: Final = ("TCP", "UDP")

# Field of the pod's spec, what it says, why such a pod cannot sleep and what to do about it.
_PODS: Final[tuple[tuple[str, Callable[[Any], bool], str], ...]] = (
    ("hostNetwork", bool, "packets for a pod in the host's network cannot be held; leave it out"),
    ("hostPID", bool, "CRIU needs the pod to have a process namespace of its own; leave it out"),
    (
        "shareProcessNamespace",
        bool,
        "CRIU needs every container to have a process namespace of its own; leave it out",
    ),
    ("hostUsers", lambda value: value is False, "user namespaces are not supported yet; leave it out"),
    (
        "os",
        lambda value: isinstance(value, dict) and value.get("name", "linux") != "linux",
        "only Linux pods can sleep",
    ),
)
_GPU_DOMAINS: Final = ("nvidia.com/", "amd.com/gpu", "gpu.intel.com/", "habana.ai/")


def check_pod(pod: Mapping[str, Any]) -> None:
    """Raises Unfit, naming the field, for a pod of which no container can sleep."""
    spec = fields(pod, "spec")
    for name, hinders, sentence in _PODS:
        if name in spec and hinders(spec[name]):
            raise Unfit(f"spec.{name}", sentence)


def hindrance(container: Mapping[str, Any]) -> str:
    """Why this container cannot be dumped, and what to do about it; "" when its manifest shows no reason."""
    if container.get("tty") is True:
        return "has a terminal, which CRIU cannot give back; set tty: false"
    if fields(container, "securityContext").get("privileged") is True:
        return "is privileged, and its devices cannot be checkpointed; grant single capabilities instead"
    resources = fields(container, "resources")
    for name in [*fields(resources, "limits"), *fields(resources, "requests")]:
        if name.startswith(_GPU_DOMAINS):
            return f"asks for a GPU ({name}), which cannot be checkpointed yet; leave it to another container"
    if records(resources, "claims"):
        return (
            "claims devices (resources.claims), which cannot be checkpointed; leave them to another container"
        )
    return ""


def default_managed(pod: Fields, notes: list[str]) -> list[str]:
    """The containers to put to sleep when nobody has named them: all that declare ports and are no sidecars.

    Raises Unfit when none is left; those left out for a reason of their own are added to `notes`.
    """
    chosen: list[str] = []
    left_out: list[str] = []
    for container in containers(pod):
        name = text(container, "name")
        if name in SIDECARS or not any(port.protocol in WATCHED for port in declared(container)):
            continue
        if reason := hindrance(container):
            left_out.append(f'container "{name}" {reason}')
        else:
            chosen.append(name)
    if not chosen:
        raise Unfit(
            MANAGED,
            "; ".join(left_out)
            or "no container declares a TCP or UDP port whose traffic could wake it; declare its ports, "
            "or name the containers that only exec shall wake",
        )
    notes += [f"{each}; it stays awake" for each in left_out]
    return chosen


def check_named(pod: Fields, managed: list[str]) -> None:
    """Raises Unfit when one of the containers that somebody has named cannot sleep."""
    for container in containers(pod):
        name = text(container, "name")
        if name in managed and (reason := hindrance(container)):
            raise Unfit(MANAGED, f'container "{name}" {reason}')


def is_job(pod: Mapping[str, Any]) -> bool:
    """Whether a Job owns the pod."""
    return any(text(owner, "kind") == "Job" for owner in records(fields(pod, "metadata"), "ownerReferences"))


def init_names(pod: Mapping[str, Any]) -> set[str]:
    """The names of the init containers."""
    return {text(each, "name") for each in init_containers(pod)}
