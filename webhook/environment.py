"""The environment that makes a program dumpable."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from webhook.pods import Fields, containers, records, text

NAME: Final = "GODEBUG"
SETTING: Final = "multipathtcp"


def without_multipath_tcp(pod: Fields, managed: Collection[str], notes: list[str]) -> None:
    """Switches off multi-path TCP in the `managed` containers.

    Go listens with it from 1.24 on, and CRIU 4.2 cannot dump such a socket (criu issue 2655). Every other
    program ignores the variable. What `envFrom` brings is not known here; a GODEBUG in it is hidden.
    """
    for container in containers(pod):
        if text(container, "name") in managed:
            _switch_off(container, notes)


def _switch_off(container: Fields, notes: list[str]) -> None:
    name = text(container, "name")
    found = [each for each in records(container, "env") if each.get("name") == NAME]
    if not found:
        if not isinstance(container.get("env"), list):
            container["env"] = []
        container["env"].append({"name": NAME, "value": f"{SETTING}=0"})
        return
    variable = found[-1]  # the last one counts
    if variable.get("valueFrom"):
        notes.append(
            f'container "{name}" takes {NAME} from elsewhere; '
            f"put {SETTING}=0 in there, or Go programs cannot sleep"
        )
        return
    given = text(variable, "value")
    settings = [each.strip() for each in given.split(",")]
    # As Go reads it: the last setting of a name wins.
    of_it = [each for each in settings if each.startswith(f"{SETTING}=")]
    if not of_it:
        variable["value"] = f"{given},{SETTING}=0" if given else f"{SETTING}=0"
    elif of_it[-1] != f"{SETTING}=0":
        notes.append(f'container "{name}" sets {NAME}={of_it[-1]}; a Go program that listens cannot sleep so')
