"""Whatever is asked of it, our shim answers as containerd's own does, awake and asleep.

Each case runs once with each shim; `doze` marks where ours is asleep in the third run.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from architect.ttrpc import containerd
from tests.node.comparison import PATIENT, Cases, ready
from tests.node.parity import Shim

pytestmark = [pytest.mark.containerd, pytest.mark.root]

CASES = Cases()
case = CASES.case


@case()
async def an_end_of_its_own(shim: Shim) -> None:
    for name, script in (("c1", "echo out; echo err >&2; exit 0"), ("c2", "exit 3"), ("c3", "kill -9 $$")):
        await shim.run(name, "/bin/sh", "-c", script)
        await shim.call("Wait", id=shim.full(name))
        await shim.call("State", id=shim.full(name))
        await shim.call("Delete", id=shim.full(name))


@case("ours", "asleep")
async def killed_while_waited_for(shim: Shim) -> None:
    await ready(shim)
    waiting = asyncio.create_task(shim.call("Wait", id=shim.full("c1")))
    await shim.doze("c1")
    await shim.call("State", id=shim.full("c1"))
    assert not waiting.done()
    await shim.call("Kill", id=shim.full("c1"), signal=signal.SIGKILL)
    await waiting
    await shim.call("State", id=shim.full("c1"))
    await shim.call("Kill", id=shim.full("c1"), signal=signal.SIGKILL)
    await shim.call("Pids", id=shim.full("c1"))
    await shim.call("Delete", id=shim.full("c1"))
    await shim.call("Delete", id=shim.full("c1"))


@case("ours", "asleep")
async def asked_to_end(shim: Shim) -> None:
    script = "import signal, sys; signal.signal(15, lambda *_: sys.exit(9)); print('ready', flush=True)"
    await ready(shim, "/usr/bin/python3", "-c", f"{script}\nwhile True: signal.pause()")
    await shim.doze("c1")
    await shim.end("c1", signal.SIGTERM)


@case("ours", "asleep")
async def every_signal_at_once(shim: Shim) -> None:
    await ready(shim)
    await shim.exec("c1", "e1", "/bin/sleep", "1000")
    await shim.call("Kill", id=shim.full("c1"), exec_id="e1", signal=signal.SIGTERM)
    await shim.call("Wait", id=shim.full("c1"), exec_id="e1")
    await shim.call("Delete", id=shim.full("c1"), exec_id="e1")
    await shim.doze("c1")
    await shim.call("Kill", id=shim.full("c1"), signal=signal.SIGKILL, all=True)
    await shim.call("Wait", id=shim.full("c1"))
    await shim.call("Delete", id=shim.full("c1"))


@case("ours", "asleep")
async def made_or_started_twice_or_deleted_too_soon(shim: Shim) -> None:
    await ready(shim)
    await shim.doze("c1")
    await shim.call("Start", id=shim.full("c1"))
    await shim.call("Delete", id=shim.full("c1"))
    await shim.call("State", id=shim.full("c1"))
    await shim.end("c1")
    await shim.call("Start", id=shim.full("c1"))


@case()
async def the_same_id_twice(shim: Shim) -> None:
    await shim.create("c1", *PATIENT)
    await shim.create_in(shim.home / "bundles" / shim.full("c1"), "c1")
    await shim.call("State", id=shim.full("c1"))


@case("ours", "asleep")
async def what_nobody_knows(shim: Shim) -> None:
    await ready(shim)
    await shim.doze("c1")
    for method in containerd.TASK_METHODS:
        if method not in ("Create", "Shutdown"):
            await shim.call(method, id="nobody")
    for method in ("Start", "State", "Kill", "ResizePty", "CloseIO", "Wait", "Delete"):
        await shim.call(method, id=shim.full("c1"), exec_id="nobody")


@case()
async def a_bundle_that_is_none(shim: Shim) -> None:
    await ready(shim)
    (shim.home / "bundles" / "empty").mkdir()
    await shim.create_in(shim.home / "bundles" / "empty", "c2")
    await shim.create_in(shim.home / "bundles" / "missing", "c3")


@case()
async def a_spec_that_is_no_json(shim: Shim) -> None:
    await ready(shim)
    bundle = shim.bundle("c2", *PATIENT)
    (bundle / "config.json").write_text("{")
    await shim.create_in(bundle, "c2")


@case()
async def a_root_that_cannot_be_mounted(shim: Shim) -> None:
    await shim.create(
        "c1", *PATIENT, mounts=[containerd.Mount(type="overlay", source="overlay", options=["x=y"])]
    )
    await shim.call("State", id=shim.full("c1"))


@case()
async def a_program_that_is_not_there(shim: Shim) -> None:
    await shim.create("c1", "/no/such/program")
    await shim.call("Start", id=shim.full("c1"))
    await shim.call("State", id=shim.full("c1"))


@case()
async def killed_before_its_start(shim: Shim) -> None:
    await shim.create("c1", *PATIENT)
    await shim.call("State", id=shim.full("c1"))
    await shim.call("Pids", id=shim.full("c1"))
    await shim.end("c1")


@case()
async def deleted_before_its_start(shim: Shim) -> None:
    await shim.create("c1", *PATIENT)
    await shim.call("Delete", id=shim.full("c1"))
    await shim.call("State", id=shim.full("c1"))


@case("ours", "asleep")
async def execs(shim: Shim) -> None:
    await ready(shim)
    await shim.doze("c1")
    for exec_id, script in (("e1", "echo out; echo err >&2"), ("e2", "exit 7"), ("e3", "kill -9 $$")):
        await shim.exec("c1", exec_id, "/bin/sh", "-c", script)
        await shim.call("Wait", id=shim.full("c1"), exec_id=exec_id)
        await shim.call("State", id=shim.full("c1"), exec_id=exec_id)
        await shim.call("Kill", id=shim.full("c1"), exec_id=exec_id, signal=signal.SIGKILL)
        await shim.call("Delete", id=shim.full("c1"), exec_id=exec_id)


@case()
async def an_exec_of_nothing(shim: Shim) -> None:
    await ready(shim)
    await shim.exec("c1", "e1", "/no/such/program")
    await shim.call("State", id=shim.full("c1"), exec_id="e1")
    await shim.call("Delete", id=shim.full("c1"), exec_id="e1")
    await shim.call("Exec", id=shim.full("c1"), exec_id="e2", spec=containerd.Any(type_url="x", value=b"{"))


@case()
async def an_exec_that_is_added_only(shim: Shim) -> None:
    await ready(shim)
    await shim.exec("c1", "e1", "/bin/true", start=False)
    await shim.call("Exec", id=shim.full("c1"), exec_id="e1", spec=containerd.Any(type_url="x", value=b"{}"))
    await shim.call("State", id=shim.full("c1"), exec_id="e1")
    await shim.call("Kill", id=shim.full("c1"), exec_id="e1", signal=signal.SIGKILL)
    await shim.call("Delete", id=shim.full("c1"), exec_id="e1")
    await shim.call("State", id=shim.full("c1"), exec_id="e1")


@case()
async def an_exec_that_runs(shim: Shim) -> None:
    await ready(shim)
    await shim.exec("c1", "e1", *PATIENT)
    await shim.streams["c1.e1"].out.until(b"ready")
    await shim.call("State", id=shim.full("c1"), exec_id="e1")
    await shim.call("Pids", id=shim.full("c1"))
    await shim.call("Delete", id=shim.full("c1"), exec_id="e1")
    await shim.call("Kill", id=shim.full("c1"), exec_id="e1", signal=signal.SIGTERM)
    await shim.call("Wait", id=shim.full("c1"), exec_id="e1")


@case()
async def an_exec_that_outlives_its_container(shim: Shim) -> None:
    await ready(shim)
    await shim.exec("c1", "e1", *PATIENT)
    await shim.streams["c1.e1"].out.until(b"ready")
    await shim.call("Kill", id=shim.full("c1"), signal=signal.SIGKILL)
    await shim.call("Wait", id=shim.full("c1"))
    await shim.call("Wait", id=shim.full("c1"), exec_id="e1")
    await shim.exec("c1", "e2", "/bin/true")
    await shim.call("Delete", id=shim.full("c1"))


@case("ours", "asleep")
async def input_to_its_end(shim: Shim) -> None:
    await ready(shim)
    await shim.doze("c1")
    streams = await shim.exec("c1", "e1", "/bin/cat", stdin=True)
    streams.type(b"one\ntwo\n")
    await streams.out.until(b"two")
    streams.hang_up()
    await shim.call("CloseIO", id=shim.full("c1"), exec_id="e1", stdin=True)
    await shim.call("Wait", id=shim.full("c1"), exec_id="e1")
    await shim.call("Delete", id=shim.full("c1"), exec_id="e1")
    await shim.call("CloseIO", id=shim.full("c1"), stdin=True)


@case()
async def terminals(shim: Shim) -> None:
    script = "stty size; stty -echo; echo ready; read line; echo got $line; stty size"
    streams = await shim.run("c1", "/bin/sh", "-c", script, terminal=True, stdin=True)
    await streams.out.until(b"ready")
    await shim.call("ResizePty", id=shim.full("c1"), width=99, height=33)
    await shim.call("State", id=shim.full("c1"))
    streams.type(b"line\n")
    await shim.call("Wait", id=shim.full("c1"))
    await shim.call("ResizePty", id=shim.full("c1"), width=9, height=3)
    await shim.call("Delete", id=shim.full("c1"))


@case("ours", "asleep")
async def a_terminal_for_an_exec(shim: Shim) -> None:
    await ready(shim)
    await shim.doze("c1")
    streams = await shim.exec(
        "c1", "e1", "/bin/sh", "-c", "tty; read x; stty size", terminal=True, stdin=True
    )
    await streams.out.until(b"pts")
    await shim.call("ResizePty", id=shim.full("c1"), exec_id="e1", width=99, height=33)
    streams.type(b"x\n")
    await shim.call("Wait", id=shim.full("c1"), exec_id="e1")
    await shim.call("Delete", id=shim.full("c1"), exec_id="e1")


@case()
async def no_terminal_to_resize(shim: Shim) -> None:
    await ready(shim)
    await shim.call("ResizePty", id=shim.full("c1"), width=99, height=33)


@case()
async def much_output_and_a_slow_reader(shim: Shim) -> None:
    script = "i=0; while [ $i -lt 50 ]; do head -c 100000 /dev/zero | tr '\\\\0' x; echo $i; i=$((i+1)); done"
    await shim.create("c1", "/bin/sh", "-c", script)
    streams = shim.streams["c1"]
    streams.out.hold()
    await shim.call("Start", id=shim.full("c1"))
    await shim.call("State", id=shim.full("c1"))
    streams.out.read()
    await shim.call("Wait", id=shim.full("c1"))
    await shim.call("Delete", id=shim.full("c1"))
    assert len(streams.out.bytes) > 5_000_000


@case("ours", "asleep")
async def paused(shim: Shim) -> None:
    await ready(shim)
    await shim.call("Resume", id=shim.full("c1"))
    await shim.doze("c1")
    await shim.call("Pause", id=shim.full("c1"))
    await shim.call("State", id=shim.full("c1"))
    await shim.call("Pause", id=shim.full("c1"))
    await shim.exec("c1", "e1", "/bin/true")
    await shim.call("Delete", id=shim.full("c1"))
    await shim.call("Resume", id=shim.full("c1"))
    await shim.call("State", id=shim.full("c1"))
    await shim.end("c1")


@case()
async def killed_while_paused(shim: Shim) -> None:
    await ready(shim)
    await shim.call("Pause", id=shim.full("c1"))
    await shim.call("Kill", id=shim.full("c1"), signal=signal.SIGKILL)
    await shim.call("Wait", id=shim.full("c1"))
    await shim.call("Delete", id=shim.full("c1"))


@case("ours", "asleep")
async def questions(shim: Shim) -> None:
    await ready(shim)
    await shim.doze("c1")
    await shim.call("State", id=shim.full("c1"))
    await shim.call("Stats", id=shim.full("c1"))
    await shim.call("Pids", id=shim.full("c1"))
    await shim.call("Connect", id=shim.full("c1"))
    await shim.call("Shutdown", id=shim.full("c1"))
    await shim.call("State", id=shim.full("c1"))


@case("ours", "asleep")
async def new_limits(shim: Shim) -> None:
    if not any(os.path.exists(f"/sys/fs/cgroup/{name}") for name in ("memory", "memory.stat")):
        pytest.skip("this node's cgroups have no controllers")
    await update(shim, b'{"cpu": {"shares": 512}}', b'{"memory": {"limit": 104857600}}')


@case("ours", "asleep")
async def limits_that_are_none(shim: Shim) -> None:
    await update(shim, b"{", b"")


async def update(shim: Shim, *limits: bytes) -> None:
    await ready(shim)
    await shim.doze("c1")
    url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
    for document in limits:
        await shim.call("Update", id=shim.full("c1"), resources=containerd.Any(type_url=url, value=document))
    await shim.call("State", id=shim.full("c1"))


@case()
async def questions_after_the_end(shim: Shim) -> None:
    await shim.run("c1", "/bin/true")
    await shim.call("Wait", id=shim.full("c1"))
    for method in (
        "State",
        "Stats",
        "Pids",
        "Connect",
        "Pause",
        "Resume",
        "Update",
        "CloseIO",
        "Checkpoint",
        "Start",
    ):
        await shim.call(method, id=shim.full("c1"))


@case()
async def a_checkpoint_to_nowhere(shim: Shim) -> None:
    await ready(shim)
    await shim.call("Checkpoint", id=shim.full("c1"), path="/proc/nowhere")
    await shim.call("State", id=shim.full("c1"))


@case("ours", "asleep")
async def two_containers_of_a_pod(shim: Shim) -> None:
    await ready(shim)
    await shim.run("c2", *PATIENT)
    await shim.streams["c2"].out.until(b"ready")
    await shim.call("Connect", id=shim.full("c1"))
    await shim.doze("c1")
    await shim.call("Connect", id=shim.full("c2"))
    await shim.end("c2")
    await shim.call("State", id=shim.full("c1"))
    await shim.end("c1")


@pytest.mark.parametrize(("name", "kind"), CASES.runs())
async def test_the_shim_answers_as_containerds_own_does(name: str, kind: str) -> None:
    await CASES.compare(name, kind)


@pytest.mark.parametrize("kind", ["ours", "asleep"])
@pytest.mark.parametrize("name", ["execs", "questions", "killed_while_waited_for", "asked_to_end"])
async def test_it_does_so_in_the_protocol_of_containerd_1_7(name: str, kind: str) -> None:
    await CASES.compare(name, kind, version=2)
