"""Cases that run once with containerd's own shim and once with ours; what was seen must be the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from tests.node.differences import ALLOWED
from tests.node.parity import Shim

Case = Callable[[Shim], Awaitable[None]]
PATIENT: Final = ("/bin/sh", "-c", "echo ready; exec sleep 1000")


class Cases:
    """The cases of one file, by name."""

    def __init__(self) -> None:
        self._cases: dict[str, tuple[Case, tuple[str, ...]]] = {}

    def case(self, *kinds: str) -> Callable[[Case], Case]:
        """A case, compared with containerd's shim once for each of `kinds`."""

        def register(function: Case) -> Case:
            self._cases[function.__name__] = function, kinds or ("ours",)
            return function

        return register

    def runs(self) -> list[tuple[str, str]]:
        """Every case with each of its kinds."""
        return [(name, kind) for name, (_, kinds) in self._cases.items() for kind in kinds]

    async def compare(self, name: str, kind: str, version: int = 3) -> None:
        """Runs a case with both shims; fails for a difference that is not listed, and for none that is."""
        seen = []
        for which in ("runc", kind):
            async with Shim(which, name) as shim:
                shim.version = version
                await self._cases[name][0](shim)
                seen.append(await shim.finish())
        theirs, ours = seen
        differing = {
            entry for entry in theirs | ours if theirs.get(entry, "nothing") != ours.get(entry, "nothing")
        }
        allowed = set(ALLOWED.get(name, {}))
        wrong = [
            f"{entry}:\n  containerd's: {theirs.get(entry, 'nothing')}\n  ours: {ours.get(entry, 'nothing')}"
            for entry in sorted(differing - allowed - set(ALLOWED["*"]))
        ]
        wrong += [f"{entry}: is listed as different and is not" for entry in sorted(allowed - differing)]
        if wrong:
            pytest.fail("\n".join(wrong), pytrace=False)


async def ready(shim: Shim, *args: str) -> None:
    await shim.run("c1", *(args or PATIENT))
    await shim.streams["c1"].out.until(b"ready")
