"""A container leaves its node instead of ending, and comes to another one; the test plays the daemons."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from architect.hooks import PRE_STOP
from architect.images import ImageDir
from architect.ttrpc import node_v1
from architect.ttrpc.node_v1 import State
from architect.ttrpc.server import Code, Method, RpcError, Server
from hack.control import await_phase, await_true, status
from hack.cri import Container
from shim import layer
from tests.node.asking import get, images_of
from tests.node.conftest import MakePod, Run, managed
from tests.node.test_failures import flip_a_byte, reasons
from tests.node.test_packets import hibernate_when_quiet

ARRIVING = Path("/var/lib/architect/arriving")
Come = Callable[..., Container]


class PlayedDaemon:
    """What a shim asks, answered as the test wants it. What leaves is saved, and can arrive."""

    def __init__(self) -> None:
        self.moves = self.expected = self.stays = False
        self.refuse_left = ""
        self.hold_left = threading.Event()
        self.hold_left.set()
        self.asked_to_take = threading.Event()
        self.asked: list[str] = []
        self.left: dict[str, node_v1.LeftRequest] = {}
        self.arrival: Future[node_v1.ArrivalResponse] = Future()
        self.settled: Future[node_v1.SettledRequest] = Future()
        self._server: Server | None = None

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        Path(node_v1.SOCKET).parent.mkdir(mode=0o700, exist_ok=True)
        Path(node_v1.SOCKET).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(node_v1.SOCKET)
        listener.listen(16)
        named = {name: getattr(self, f"_{name.lower()}") for name in node_v1.METHODS}
        methods = {name: Method(node_v1.METHODS[name][0], handler) for name, handler in named.items()}
        self._server = Server({node_v1.SERVICE: methods})
        self._run(self._server.start(listener))

    def stop(self) -> None:
        if self._server is not None:
            Path(node_v1.SOCKET).unlink(missing_ok=True)
            server, self._server = self._server, None
            self._run(self._end(server))
            self.hold_left.set()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(30)
            self._loop.close()

    async def _end(self, server: Server) -> None:
        """Without a word to who waits; who is just being accepted is hung up on as well."""
        await server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await asyncio.sleep(0)

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _leaves(self, request: node_v1.LeavesRequest) -> node_v1.LeavesResponse:
        assert request.container is not None
        self.asked.append(f"{request.container.name} leaves {'asleep' if request.asleep else 'awake'}")
        return node_v1.LeavesResponse(self.moves, "the test says so", 30, self.stays)

    async def _left(self, request: node_v1.LeftRequest) -> node_v1.LeftResponse:
        assert request.container is not None
        self.asked_to_take.set()
        await asyncio.to_thread(self.hold_left.wait, 30)
        if self.refuse_left:
            raise RpcError(Code.UNAVAILABLE, self.refuse_left)
        self._save(request.container.name, request.image, request.layer)
        self.left[request.container.name] = request
        return node_v1.LeftResponse()

    def _save(self, name: str, image: str, upper: str) -> None:
        source = ImageDir.at(image)
        home = ARRIVING / name
        target = ImageDir(f"{home}/image", source.pod_uid, source.container, source.generation)
        os.makedirs(target.engine_path)
        (home / "layer").mkdir()
        for file in (source.manifest_path, *map(str, Path(source.engine_path).iterdir())):
            os.link(file, file.replace(source.path, target.path))
        layer.carry(upper, f"{home}/layer", 60)

    def place(self, name: str = "app") -> tuple[Path, str]:
        """Where it is saved: its image, its layer."""
        (manifest,) = (ARRIVING / name).rglob("manifest.json")
        return manifest.parent, f"{ARRIVING}/{name}/layer"

    def here(self, name: str = "app") -> node_v1.ArrivalResponse:
        """The answer that it has come."""
        image, upper = self.place(name)
        return node_v1.ArrivalResponse(State.HERE, "", self.left[name].asleep, str(image), upper)

    async def _arrives(self, request: node_v1.ArrivesRequest) -> node_v1.ArrivesResponse:
        return node_v1.ArrivesResponse(self.expected, "the test says so", 60)

    async def _arrival(self, request: node_v1.ArrivalRequest) -> node_v1.ArrivalResponse:
        return await asyncio.wrap_future(self.arrival)

    async def _settled(self, request: node_v1.SettledRequest) -> node_v1.SettledResponse:
        self.settled.set_result(request)
        return node_v1.SettledResponse()


@pytest.fixture
def daemon_played() -> Iterator[PlayedDaemon]:
    with ExitStack() as stack:
        played = PlayedDaemon()
        played.start()
        stack.callback(shutil.rmtree, ARRIVING, ignore_errors=True)
        stack.callback(played.stop)
        yield played


@pytest.fixture
def come(make_pod: MakePod, daemon_played: PlayedDaemon) -> Come:
    """Starts the replacement: the same container in another pod, which somebody comes to be."""

    def start(**wanted: Any) -> Container:
        daemon_played.expected = True
        pod = make_pod(annotations=managed("app"))
        return pod.start("app", "web", **{"ports": [8080], **wanted})

    return start


def go(app: Container, played: PlayedDaemon) -> None:
    """It is told to end, and leaves."""
    played.moves = True
    app.stop(seconds=60)
    assert app.status().exit_code == 143


def test_a_running_container_leaves_and_runs_on_elsewhere(
    run: Run, come: Come, daemon_played: PlayedDaemon
) -> None:
    app = run()
    assert [get(app), get(app)] == ["1", "2"]
    app.exec("/usr/bin/python3", "-c", "open('/written', 'w').write('there')")
    go(app, daemon_played)
    assert daemon_played.asked == ["app leaves awake"]
    left = daemon_played.left["app"]
    assert not left.asleep
    assert left.freeze_us > 0
    again = come()
    assert (status(again).phase, again.status().state) == ("ARRIVING", 1)
    daemon_played.arrival.set_result(daemon_played.here())
    settled = daemon_played.settled.result(60)
    assert (settled.here, settled.reason, settled.restore_us > 0) == (True, "", True)
    now = status(again)
    assert (now.phase, now.failures) == ("RUNNING", [])
    assert now.started_ns < now.active_ns, "an initial delay is over for who has come from elsewhere"
    assert get(again) == "3"
    assert again.exec("/usr/bin/cat", "/written").stdout == b"there"
    hibernate_when_quiet(again)
    assert get(again) == "4"
    daemon_played.moves = False
    again.stop()
    assert again.status().exit_code == 0


def test_a_sleeper_leaves_and_arrives_asleep(run: Run, come: Come, daemon_played: PlayedDaemon) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    before = status(app)
    go(app, daemon_played)
    assert daemon_played.asked == ["app leaves asleep"]
    assert (daemon_played.left["app"].asleep, daemon_played.left["app"].freeze_us) == (True, 0)
    assert images_of(app) == [], "its own copy is gone with it"
    assert before.wakes == 0
    again = come()
    daemon_played.arrival.set_result(daemon_played.here())
    assert daemon_played.settled.result(60).here
    assert (status(again).phase, status(again).wakes) == ("SCALED_DOWN", 0)
    assert get(again) == "2"


def test_packets_and_execs_wait_for_what_comes(run: Run, come: Come, daemon_played: PlayedDaemon) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    go(app, daemon_played)
    again = come()
    with ThreadPoolExecutor(2) as pool:
        asked, executed = pool.submit(get, again), pool.submit(again.exec, "/usr/bin/cat", "/proc/1/comm")
        await_phase(again, "ARRIVING")
        daemon_played.arrival.set_result(daemon_played.here())
        assert asked.result(60) == "2"
        assert executed.result(60).stdout == b"python3\n"


def test_what_does_not_move_ends_like_any_other(run: Run, daemon_played: PlayedDaemon) -> None:
    app = run()
    app.stop()
    assert (app.status().exit_code, daemon_played.asked) == (0, ["app leaves awake"])


def test_a_daemon_that_cannot_be_asked_keeps_nobody_from_ending_or_starting(
    run: Run, daemon_played: PlayedDaemon
) -> None:
    daemon_played.stop()
    app = run()
    assert get(app) == "1"
    app.stop()
    assert app.status().exit_code == 0


HOOK = (PRE_STOP, "/usr/bin/python3", "-c", "print('told to end'); open('/told', 'w').close()")
RAN = b"told to end\n"
_WAS_TOLD = ("/usr/bin/python3", "-c", "import os; print(os.path.exists('/told'))")


@pytest.mark.parametrize("asleep", [False, True])
def test_what_moves_is_not_told_to_end_by_its_hook(
    run: Run, come: Come, daemon_played: PlayedDaemon, asleep: bool
) -> None:
    app = run()
    assert get(app) == "1"
    if asleep:
        hibernate_when_quiet(app)
    daemon_played.moves = True
    hook = app.exec(*HOOK)
    assert (hook.exit_code, hook.stdout, hook.stderr) == (0, b"", b"")
    app.stop(seconds=60)
    assert app.status().exit_code == 143
    assert daemon_played.asked == [f"app leaves {'asleep' if asleep else 'awake'}"]
    assert daemon_played.left["app"].asleep is asleep
    again = come()
    daemon_played.arrival.set_result(daemon_played.here())
    assert daemon_played.settled.result(60).here
    assert get(again) == "2"
    assert again.exec(*_WAS_TOLD).stdout == b"False\n"


@pytest.mark.parametrize("asleep", [False, True])
def test_what_ends_runs_its_hook_and_what_was_said_then_holds(
    run: Run, daemon_played: PlayedDaemon, asleep: bool
) -> None:
    app = run()
    if asleep:
        hibernate_when_quiet(app)
    assert app.exec(*HOOK).stdout == RAN
    daemon_played.moves = True
    app.stop()
    assert (app.status().exit_code, len(daemon_played.asked), daemon_played.left) == (0, 1, {})


def test_who_says_by_hand_that_it_is_a_hook_runs_a_command_and_no_more(
    run: Run, come: Come, daemon_played: PlayedDaemon
) -> None:
    app = run()
    daemon_played.stays = True
    assert app.exec(*HOOK).stdout == RAN
    assert get(app) == "1"
    daemon_played.stays = False
    go(app, daemon_played)
    assert daemon_played.asked == ["app leaves awake"] * 2
    daemon_played.arrival.set_result(daemon_played.here())
    again = come()
    assert daemon_played.settled.result(60).here
    assert get(again) == "2"


def test_a_hook_runs_where_nobody_can_be_asked(run: Run, daemon_played: PlayedDaemon) -> None:
    daemon_played.stop()
    app = run()
    assert app.exec(*HOOK).stdout == RAN
    assert app.exec(PRE_STOP, "/usr/bin/python3", "-c", "exit(3)").exit_code == 3


def test_a_hook_of_one_container_spares_all_of_its_pod(
    make_pod: MakePod, daemon_played: PlayedDaemon
) -> None:
    pod = make_pod(annotations=managed("one", "two"))
    one, two = pod.start("one", "web", ports=[8080]), pod.start("two", "holder", ports=[7000])
    for container in (one, two):
        container.await_line("listening")
    daemon_played.moves = True
    with ThreadPoolExecutor(2) as pool:
        hooks = list(pool.map(lambda container: container.exec(*HOOK), (one, two)))
    assert [(hook.exit_code, hook.stdout) for hook in hooks] == [(0, b""), (0, b"")]
    for container in (one, two):
        container.stop(seconds=60)
        await_true(lambda ended=container: ended.status().state == 2, "containerd knows that it has ended")  # type: ignore[misc]
        assert container.status().exit_code == 143
    assert sorted(daemon_played.left) == ["one", "two"]


def test_what_has_not_arrived_runs_no_hook(run: Run, come: Come, daemon_played: PlayedDaemon) -> None:
    app = run()
    assert get(app) == "1"
    go(app, daemon_played)
    again = come()
    assert (again.exec(*HOOK).stdout, status(again).phase) == (b"", "ARRIVING")
    daemon_played.arrival.set_result(daemon_played.here())
    assert daemon_played.settled.result(60).here
    assert get(again) == "2"


@pytest.mark.parametrize("asleep", [False, True])
def test_what_the_daemon_cannot_take_gets_its_signal(
    run: Run, daemon_played: PlayedDaemon, asleep: bool
) -> None:
    app = run()
    if asleep:
        hibernate_when_quiet(app)
    daemon_played.moves = True
    daemon_played.refuse_left = "the disk is full"
    app.stop(seconds=60)
    assert app.status().exit_code == 0, "it was woken, and has handled its signal"
    assert daemon_played.left == {}


def test_a_daemon_that_dies_while_it_takes_it_is_asked_again(
    run: Run, come: Come, daemon_played: PlayedDaemon
) -> None:
    app = run()
    assert get(app) == "1"
    daemon_played.moves = True
    daemon_played.hold_left.clear()
    daemon_played.refuse_left = "too late"
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(app.stop, 60)
        assert daemon_played.asked_to_take.wait(60)
        daemon_played.stop()
        assert status(app).phase == "LEAVING", "the daemon may have its state: it does not run again"
        daemon_played.refuse_left = ""
        daemon_played.start()
        stopping.result(60)
    assert app.status().exit_code == 143
    daemon_played.arrival.set_result(daemon_played.here())
    again = come()
    assert daemon_played.settled.result(60).here
    assert get(again) == "2"


def test_what_nobody_knows_to_be_taken_is_kept_and_does_not_run_again(
    run: Run, daemon_played: PlayedDaemon
) -> None:
    app = run()
    daemon_played.moves = True
    daemon_played.hold_left.clear()
    daemon_played.refuse_left = "too late"
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(app.stop, 20)
        await_phase(app, "LEAVING")
        daemon_played.stop()
        stopping.result(60)
    assert app.status().exit_code == 137, "kubelet's patience has ended"
    assert [image.name for image in images_of(app)] == ["1.quarantined"]


def test_sigkill_ends_what_leaves_at_once(run: Run, daemon_played: PlayedDaemon) -> None:
    app = run()
    daemon_played.moves = True
    daemon_played.hold_left.clear()
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(app.stop, 60)
        await_phase(app, "LEAVING")
        app.stop(seconds=0)
        stopping.result(60)
    assert app.status().exit_code == 137
    assert [image.name for image in images_of(app)] == ["1.quarantined"]


def test_containers_of_a_pod_leave_together(make_pod: MakePod, daemon_played: PlayedDaemon) -> None:
    pod = make_pod(annotations=managed("one", "two"))
    one, two = pod.start("one", "web", ports=[8080]), pod.start("two", "holder", ports=[7000])
    for container in (one, two):
        container.await_line("listening")
    daemon_played.moves = True
    one.stop(seconds=60)
    await_true(lambda: two.status().state == 2, "the other one has left with it")
    assert (one.status().exit_code, two.status().exit_code) == (143, 143)
    assert sorted(daemon_played.left) == ["one", "two"]


def test_what_does_not_come_is_started_fresh_and_held_packets_are_answered(
    come: Come, daemon_played: PlayedDaemon
) -> None:
    app = come()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(get, app)
        await_phase(app, "ARRIVING")
        daemon_played.arrival.set_result(node_v1.ArrivalResponse(State.LOST, "its node is gone"))
        assert asked.result(60) == "1"
    settled = daemon_played.settled.result(60)
    assert (settled.here, "its node is gone" in settled.reason) == (False, True)
    assert ["its node is gone" in reason for reason in reasons(app, "fresh start")] == [True]
    hibernate_when_quiet(app)
    assert get(app) == "2"


def test_what_does_not_fit_is_started_fresh(run: Run, come: Come, daemon_played: PlayedDaemon) -> None:
    app = run()
    assert get(app) == "1"
    go(app, daemon_played)
    again = come(args=["-v"])
    daemon_played.arrival.set_result(daemon_played.here())
    settled = daemon_played.settled.result(60)
    assert (settled.here, "its command is another" in settled.reason) == (False, True)
    again.await_line("listening")
    assert get(again) == "1"
    assert daemon_played.place()[0].exists(), "nothing of the daemon's was taken away"


def test_a_sleeper_that_was_damaged_on_its_way_is_started_fresh_when_it_is_needed(
    run: Run, come: Come, daemon_played: PlayedDaemon
) -> None:
    app = run()
    hibernate_when_quiet(app)
    go(app, daemon_played)
    flip_a_byte(daemon_played.place()[0])
    again = come()
    daemon_played.arrival.set_result(daemon_played.here())
    assert daemon_played.settled.result(60).here
    assert get(again) == "1"
    assert "damaged" in " ".join(reasons(again, "fresh start"))


def test_who_is_told_to_end_before_it_has_come_ends_at_once(come: Come, daemon_played: PlayedDaemon) -> None:
    app = come()
    app.stop(seconds=60)
    assert app.status().exit_code == 143
    assert not daemon_played.settled.result(60).here


def test_who_is_killed_before_it_has_come_is_gone(come: Come, daemon_played: PlayedDaemon) -> None:
    app = come()
    app.remove()
    assert not daemon_played.settled.result(60).here
