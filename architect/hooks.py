"""How a preStop hook is known: the runtime can not tell it from `kubectl exec`.

The webhook puts PRE_STOP in front of the command of `lifecycle.preStop.exec`; the shim takes it away and runs
the rest. If the container moves to another node instead of ending, it runs nothing: what moves must not have
been told to end. Whoever gives that word by `kubectl exec` gets the same: the node's daemon and the control
plane know by themselves which pods end.
"""

from __future__ import annotations

from typing import Final

from architect.settings import PREFIX

__all__ = ["PRE_STOP"]

PRE_STOP: Final = PREFIX + "pre-stop"
"""The first argument of a command that is a preStop hook; the command itself follows."""
