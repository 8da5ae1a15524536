"""What a container's last probes said."""

from __future__ import annotations

import pytest

from shim import health
from shim.health import Health


async def test_who_fails_a_probe_is_ill_until_the_same_probe_succeeds() -> None:
    told: list[str] = []
    found = Health(lambda: told.append(found.complaint))
    found.noted("ready", "")
    assert (found.complaint, told) == ("", [])
    found.noted("ready", "no answer")
    found.noted("alive", "status 500")
    found.noted("alive", "")
    assert found.complaint == "no answer"
    found.noted("ready", "")
    assert (found.complaint, told) == ("", ["no answer", ""])


async def test_of_many_failed_probes_the_newest_are_remembered() -> None:
    found = Health(lambda: None)
    for number in range(100):
        found.noted(f"/{number}", "no answer")
    for number in range(100 - health._PROBES_KEPT, 100):
        assert found.complaint
        found.noted(f"/{number}", "")
    assert not found.complaint


async def test_a_probe_that_is_asked_no_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    well = asyncio.Event()
    monkeypatch.setattr(health, "_FORGET_SECONDS", 0.01)
    found = Health(lambda: None if found.complaint else well.set())
    found.noted("startup", "no answer")
    assert found.complaint == "no answer"
    await asyncio.wait_for(well.wait(), 30)
