"""What a pod should say of its containers, and the next step towards it: pure functions.

Every step is right by itself: whoever takes some of them and dies leaves a pod from which the next one goes
on. Before requests are lowered the annotations keep them; the annotations go when the requests are back. So
of "lowered" and "kept" the second is always true first and last.

The trap: the API server refuses a resize that changes the pod's QoS class. Requests of a Guaranteed pod
equal its limits, and stay; a pod that asks for CPU alone, without limits, keeps a trace of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from daemon.kubernetes.pods import ORIGINALS, RESOURCES, STATUS, Kept, PodView
from daemon.kubernetes.quantities import amount

LOWERED: Final = {"cpu": "0", "memory": "1"}
"""What a sleeper asks for. A byte, not nothing: kubelet (1.35) never carries out a memory request of 0, its
status goes on to say the former request, and for the scheduler the memory stays taken.
"""
TRACE: Final = {"cpu": "1m", "memory": "1"}
"""What is left of the request that keeps a pod without limits from becoming BestEffort."""


class State(StrEnum):
    """What is to be said of a container. The first two are the label's values."""

    RUNNING = "RUNNING"
    SCALED_DOWN = "SCALED_DOWN"
    ENDED = "ENDED"
    CHANGING = "CHANGING"
    """On its way: what is said stays as it is."""


@dataclass(frozen=True, slots=True)
class Annotate:
    """Labels and annotations to set; None removes one."""

    labels: Mapping[str, str | None]
    annotations: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Resize:
    """Requests to set: container to resource to quantity. Either all are raised or all are lowered."""

    requests: Mapping[str, Mapping[str, str]]
    raising: bool


Step = Annotate | Resize
Place = tuple[str, str]
"""A container's name and a resource."""


def next_step(
    pod: PodView, states: Mapping[str, State], *, may_lower: bool = True, may_raise: bool = True
) -> Step | None:
    """The next step, or None when all is said. `may_lower`, `may_raise`: False after a refusal."""
    if pod.over:
        return None
    present = _present(pod)
    original = _originals(pod, present)
    target = _target(pod, states, present, original, may_lower=may_lower, may_raise=may_raise)
    # Wherever requests are not what they were, or are about to be.
    kept = {place: value for place, value in original.items() if not value == present[place] == target[place]}
    if any(pod.originals(resource).get(name) != value for (name, resource), value in kept.items()):
        return _annotate(pod, states, kept)
    for raising in (True, False):
        changed = {
            place: target[place]
            for place in present
            if target[place] != present[place] and (amount(target[place]) > amount(present[place])) is raising
        }
        if changed:
            return Resize(_by_container(changed), raising)
    step = _annotate(pod, states, kept)
    return step if step.labels or step.annotations else None


def released(pod: PodView, name: str) -> dict[str, str]:
    """What a container has given back for its sleep: resource to quantity."""
    present = _present(pod)
    original = _originals(pod, present)
    return {
        resource: original[name, resource]
        for resource in RESOURCES
        if (name, resource) in present and original[name, resource] != present[name, resource]
    }


def keeps_because(pod: PodView, name: str) -> str:
    """Why a container's requests stay while it sleeps, as a sentence; "" when they go."""
    container = next((found for found in pod.containers if found.name == name), None)
    if container is None or not any(amount(value) for value in container.requests.values()):
        return ""
    if pod.fixed:
        return f"Its requests stay while it sleeps: {pod.fixed}."
    if _qos(_requests(pod, _originals(pod, _present(pod)))) == "Guaranteed":
        return "Its requests stay while it sleeps: in a Guaranteed pod they have to equal the limits."
    restarted = sorted(container.restarted_by & container.requests.keys())
    if restarted:
        return (
            f"Its {' and '.join(restarted)} requests stay while it sleeps: its resizePolicy would restart it."
        )
    return ""


def _present(pod: PodView) -> dict[Place, str]:
    return {(c.name, resource): value for c in pod.containers for resource, value in c.requests.items()}


def _originals(pod: PodView, present: Mapping[Place, str]) -> dict[Place, str]:
    """The requests as they are without sleep. What somebody has set anew since, counts as it is now."""
    found = dict(present)
    for resource in RESOURCES:
        for name, value in pod.originals(resource).items():
            here = present.get((name, resource))
            if here is not None and amount(here) <= amount(TRACE[resource]) < amount(value):
                limit = next(c.limits.get(resource) for c in pod.containers if c.name == name)
                # A limit lowered meanwhile: more than it would be refused.
                found[name, resource] = (
                    limit if limit is not None and amount(limit) < amount(value) else value
                )
    return found


def _target(
    pod: PodView,
    states: Mapping[str, State],
    present: Mapping[Place, str],
    original: Mapping[Place, str],
    *,
    may_lower: bool,
    may_raise: bool,
) -> dict[Place, str]:
    """The requests that should be. What may be neither lowered nor raised is as it is."""
    target = dict(present)
    for (name, resource), value in original.items():
        state = states.get(name, State.CHANGING)
        awake = state in (State.RUNNING, State.ENDED) or (state is State.SCALED_DOWN and not may_lower)
        if awake and may_raise and not pod.fixed:
            target[name, resource] = value
    if not may_lower or pod.fixed:
        return target
    policy = {container.name: container.restarted_by for container in pod.containers}
    asleep = [
        (name, resource)
        for name, resource in present
        if states.get(name) is State.SCALED_DOWN
        and resource not in policy[name]
        and amount(original[name, resource]) > amount(TRACE[resource])
    ]
    before = _qos(_requests(pod, original))
    for lowered in _lowerings(asleep):
        if _qos(_requests(pod, target | lowered)) == before:
            return target | lowered
    return target


def _lowerings(asleep: Iterable[Place]) -> Iterable[dict[Place, str]]:
    """Ways to lower, the best first: all to nothing, or a trace left of one, rather of CPU."""
    asleep = sorted(asleep, key=lambda place: RESOURCES.index(place[1]))
    nothing = {place: LOWERED[place[1]] for place in asleep}
    yield nothing
    for place in asleep[:1]:
        yield nothing | {place: TRACE[place[1]]}


def _requests(pod: PodView, wanted: Mapping[Place, str]) -> list[tuple[Kept, Mapping[str, str]]]:
    """Every container with its requests as `wanted` has them."""
    changed = [(c, {r: wanted.get((c.name, r), c.requests[r]) for r in c.requests}) for c in pod.containers]
    return [*changed, *((c, c.requests) for c in pod.others)]


def _qos(requests: Iterable[tuple[Kept, Mapping[str, str]]]) -> str:
    """The QoS class, as Kubernetes computes it: only what is more than zero counts."""
    asked: dict[str, Fraction] = {}
    limited: dict[str, Fraction] = {}
    guaranteed = True
    for container, wanted in requests:
        for resource, value in wanted.items():
            if amount(value) > 0:
                asked[resource] = asked.get(resource, Fraction(0)) + amount(value)
        limits = {
            resource: amount(value) for resource, value in container.limits.items() if amount(value) > 0
        }
        for resource, most in limits.items():
            limited[resource] = limited.get(resource, Fraction(0)) + most
        guaranteed = guaranteed and len(limits) == len(RESOURCES)
    if not asked and not limited:
        return "BestEffort"
    return "Guaranteed" if guaranteed and asked == limited else "Burstable"


def _annotate(pod: PodView, states: Mapping[str, State], kept: Mapping[Place, str]) -> Annotate:
    """Labels as they should be, annotations that keep exactly `kept`; what is so already is left out."""
    names = {container.name for container in pod.containers}
    labels: dict[str, str | None] = {key: None for key in pod.labels if key.removeprefix(STATUS) not in names}
    for name in sorted(names & states.keys()):
        key, state = STATUS + name, states[name]
        if state is State.ENDED and key in pod.labels:
            labels[key] = None
        elif state in (State.RUNNING, State.SCALED_DOWN) and pod.labels.get(key) != state:
            labels[key] = str(state)
    annotations: dict[str, str | None] = {}
    for resource, key in ORIGINALS.items():
        values = {name: value for (name, of), value in sorted(kept.items()) if of == resource}
        if values and pod.originals(resource) != values:
            annotations[key] = json.dumps(values, separators=(",", ":"))
        elif not values and key in pod.annotations:
            annotations[key] = None
    return Annotate(labels, annotations)


def _by_container(changed: Mapping[Place, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for (name, resource), value in sorted(changed.items()):
        found.setdefault(name, {})[resource] = value
    return found
