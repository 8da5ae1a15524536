from __future__ import annotations

from copy import deepcopy

from architect.ttrpc.shim_v1 import ContainerStatus, Failure
from daemon.kubernetes.happenings import Happening, happened
from tests.daemon.fake_shim import container

ID = "c" * 64


def told(before: ContainerStatus | None, **fields: object) -> list[Happening]:
    now = deepcopy(before) if before is not None else container(ID)
    for field, value in fields.items():
        setattr(now, field, value)
    return happened(before, now)


def test_a_container_that_is_new_here_has_no_history() -> None:
    assert told(None, sleeps=3, wakes=3, failures=[Failure(1, "wake", "x")]) == []


def test_a_container_that_begins_without_the_memory_of_the_one_before_it_says_so() -> None:
    lost = [Failure(1, "fresh start", "it slept when its node ended")]
    [warning] = told(None, failures=lost)
    assert (warning.reason, warning.warning) == ("StartedFresh", True)
    assert told(None, failures=lost, sleeps=1) == []


def test_a_sleep_is_two_events_and_a_wake_one() -> None:
    slept = told(container(ID), sleeps=1, last_sleep_us=70_400, saved_bytes=50 << 20, image_bytes=3 << 30)
    assert slept == [
        Happening("CheckpointCreated", "Memory of container app was written to disk: 3.0 GiB"),
        Happening("ScaleDownCompleted", "Container app sleeps; 50 MiB of memory given back in 70 ms"),
    ]
    woke = told(container(ID), wakes=1, last_wake_us=41_600, last_wake_cause="packet")
    assert woke == [Happening("ScaleUpCompleted", "Container app was woken by packet in 42 ms")]


def test_failures_are_warnings_each_told_once() -> None:
    first, second = Failure(1, "hibernate", "disk full"), Failure(2, "fresh start", "image damaged")
    before = container(ID, failures=[first])
    assert told(before, failures=[first, second]) == [
        Happening(
            "StartedFresh", "Container app was started fresh instead of woken: image damaged", warning=True
        )
    ]
    assert [h.reason for h in told(container(ID), failures=[first])] == ["ScaleDownFailed"]
    no_room = Failure(1, "room", "it needs 50 MiB of memory and the node has 10 MiB to spare")
    assert [h.reason for h in told(container(ID), failures=[no_room])] == ["ScaleUpRefused"]
    assert [h.reason for h in told(container(ID), failures=[Failure(1, "odd", "x")])] == ["OperationFailed"]


def test_annotations_that_were_refused_are_told_at_once_and_once() -> None:
    refused = told(None, managed=False, settings_error="it is no JSON")
    assert [h.reason for h in refused] == ["SettingsRefused"]
    assert told(container(ID, managed=False, settings_error="x"), managed=False) == []


def test_of_a_container_that_is_not_managed_nothing_is_told() -> None:
    assert told(container(ID, managed=False), sleeps=1) == []


def test_a_long_reason_is_cut() -> None:
    [long] = told(container(ID), failures=[Failure(1, "wake", "x" * 5000)])
    assert len(long.sentence) < 1024
