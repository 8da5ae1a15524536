"""What becomes of a pod at admission: a pure function from its JSON to a patch and warnings, or a refusal.

By label, everything that is missing is filled in. A pod that names the runtime class by hand keeps its
annotations as they are: not to have a network-monitor means something. Applied to its own result it changes
nothing more.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from architect.settings import (
    MANAGED,
    MONITOR,
    ContainerSettings,
    Monitor,
    Refused,
    container_settings,
)
from architect.settings import PORTS as DECLARED
from webhook.advice import advice
from webhook.asking import LABEL, Asker, Namespace, Unfit, asker, runtime_class
from webhook.doors import repoint
from webhook.environment import without_multipath_tcp
from webhook.fitness import check_named, check_pod, default_managed, init_names
from webhook.hooks import mark_hooks
from webhook.patches import Operation, difference
from webhook.pods import Fields, annotations_of, containers, section, text

__all__ = ["Mutation", "mutate"]


@dataclass(frozen=True, slots=True)
class Mutation:
    """A JSON Patch, empty when the pod stays as it is, and sentences for whoever creates it."""

    patch: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()


def mutate(pod: Mapping[str, Any], namespace: Namespace = Namespace.SILENT) -> Mutation:
    """What to do with a new pod. Raises Refused, with a sentence that names the key and the remedy."""
    asked_by = asker(pod, namespace)
    if asked_by is Asker.NOBODY:
        return Mutation()
    wanted = copy.deepcopy(dict(pod))
    notes: list[str] = []
    try:
        settings = _prepare(wanted, asked_by, notes)
    except Unfit as error:
        if asked_by is not Asker.NAMESPACE:
            raise
        return Mutation(warnings=(f"this pod will not sleep: {error}",))
    if settings:
        notes += advice(wanted, settings)
    return Mutation(tuple(difference(pod, wanted)), tuple(notes))


def _prepare(pod: Fields, asked_by: Asker, notes: list[str]) -> dict[str, ContainerSettings]:
    """Changes `pod` so that it can sleep; returns the settings of its managed containers."""
    by_hand = MANAGED in annotations_of(pod)
    if asked_by is Asker.CLASS and not by_hand:
        notes.append(
            f'nothing in this pod will sleep: it names no {MANAGED}; add them, or the label {LABEL}: "true"'
        )
        return {}
    managed = list(_settings(pod))
    check_pod(pod)
    section(pod, "spec")["runtimeClassName"] = runtime_class(pod)
    if by_hand:
        check_named(pod, managed)
        if not managed:
            notes.append(f"nothing in this pod will sleep: {MANAGED} is empty")
    else:
        managed = default_managed(pod, notes)
        _annotate(pod, MANAGED, managed)
    if asked_by is not Asker.CLASS:
        _watch(pod)
    repoint(pod, managed, notes)
    mark_hooks(pod, managed, notes)
    without_multipath_tcp(pod, managed, notes)
    return _settings(pod)


def _settings(pod: Fields) -> dict[str, ContainerSettings]:
    """What the shim will read of each managed container.

    Raises Refused as the shim would, and for names that are not those of the pod's containers.
    """
    # A container's ports come to the shim from kubelet, never from the pod's author.
    kept = {key: value for key, value in annotations_of(pod).items() if key != DECLARED}
    known = [text(container, "name") for container in containers(pod)]
    try:
        read = {name: container_settings(kept, name, known=known) for name in known}
    except Refused as error:
        # "No such container" would be true, and not what its author needs to hear.
        if error.key == MANAGED and (inits := init_names(pod) & _named(kept[MANAGED])):
            sentence = f'"{min(inits)}" is an init container, and those do not sleep; leave it out'
            raise Refused(MANAGED, sentence) from error
        raise
    return {name: settings for name, settings in read.items() if settings is not None}


def _named(value: str) -> set[str]:
    try:
        found = json.loads(value)
    except ValueError:
        return set()
    return {each for each in found if isinstance(each, str)} if isinstance(found, list) else set()


def _watch(pod: Fields) -> None:
    """Gives the managed containers without a mode the one that suits most."""
    missing = [name for name, each in _settings(pod).items() if each.monitor is Monitor.NONE]
    if missing:
        given = json.loads(annotations_of(pod).get(MONITOR, "{}"))
        _annotate(pod, MONITOR, given | dict.fromkeys(missing, str(Monitor.PACKETS)))


def _annotate(pod: Fields, key: str, value: object) -> None:
    section(section(pod, "metadata"), "annotations")[key] = json.dumps(value, separators=(",", ":"))
