"""Marks the preStop hooks of managed containers, so that the shim can leave them out (architect/hooks.py).

The trap: as in `doors.py`, this runs again over its own result.
"""

from __future__ import annotations

from collections.abc import Collection

from architect.hooks import PRE_STOP
from webhook.pods import Fields, containers, fields, text


def mark_hooks(pod: Fields, managed: Collection[str], notes: list[str]) -> None:
    """Changes the commands of the `managed` containers' preStop hooks; a hook by HTTP is said in `notes`.

    Kubelet itself carries out the other kinds, before the runtime hears of anything: `sleep` harms nothing.
    """
    for container in containers(pod):
        name = text(container, "name")
        if name not in managed:
            continue
        hook = fields(fields(container, "lifecycle"), "preStop")
        handler = fields(hook, "exec")
        command = handler.get("command")
        if isinstance(command, list) and command and command[0] != PRE_STOP:
            handler["command"] = [PRE_STOP, *command]
        if "httpGet" in hook:
            notes.append(
                f'the preStop hook of container "{name}" is a request, which is made even when the pod moves '
                "to another node with its memory; one by exec is left out then"
            )
