"""What fails costs nobody his container: it runs on, or it starts fresh and says so."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from architect.ttrpc.client import Code, RpcError
from hack.control import Daemon, await_phase, await_true, describe, hibernate, shim_socket, status, wake
from hack.cri import Container, Cri
from shim import tries
from shim.serve import CRIU_PATHS
from tests.node.asking import CONTAINERD_LOG, PODS, explain, get, images_of, processes_named
from tests.node.conftest import Run
from tests.node.test_packets import hibernate_when_quiet

STATE = PODS.parent


def reasons(app: Container, operation: str) -> list[str]:
    return [failure.reason for failure in status(app).failures if failure.operation == operation]


# ---- it cannot fall asleep


def test_what_cannot_be_dumped_runs_on_and_explain_says_why_and_attempts_back_off(
    run: Run, start_daemon: Callable[[], Daemon]
) -> None:
    app = run("uring", idle="200ms")
    start_daemon()
    assert get(app) == "1"
    await_true(lambda: explain(app).get("attempts_failed", 0) >= 4, "four attempts have failed")
    told = explain(app)
    tried = [failure for failure in told["failures"] if failure["operation"] == "hibernate"]
    assert all("io_uring" in failure["reason"] or "CRIU could not" in failure["reason"] for failure in tried)
    assert any(tried[-1]["reason"] in sentence for sentence in told["sentences"]), told["sentences"]
    moments = [failure["at_ns"] for failure in tried][:4]
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert pauses == sorted(pauses), "each pause is longer than the one before"
    assert pauses[-1] > 2 * pauses[0]
    assert get(app) == "2"
    assert (status(app).phase, images_of(app)) == ("RUNNING", [])


def test_without_criu_it_runs_on_and_says_what_is_missing_and_sleeps_once_it_is_there(run: Run) -> None:
    app = run()
    there = [path for path in map(Path, CRIU_PATHS) if path.exists()]
    for path in there:
        path.rename(path.with_suffix(".aside"))
    try:
        assert "CRIU" in status(app).refusal
        with pytest.raises(RpcError, match="no CRIU at") as refused:
            hibernate(app)
        assert refused.value.code is Code.FAILED_PRECONDITION
        assert get(app) == "1"
    finally:
        for path in there:
            path.with_suffix(".aside").rename(path)
    assert status(app).refusal == ""
    hibernate_when_quiet(app)
    assert get(app) == "2"


@pytest.fixture
def small_disk() -> Iterator[Callable[[str], None]]:
    """A disk of 2 MB for state and images; call it to give it another size."""
    STATE.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "small", str(STATE)], check=True)

    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(STATE)], check=True)

    yield resize
    subprocess.run(["umount", str(STATE)], check=True)  # refused if anything of a pod were left open


def test_a_full_disk_while_dumping_leaves_it_running_and_nothing_behind(
    small_disk: Callable[[str], None], run: Run
) -> None:
    app = run()
    get(app, "/heap?mb=16")
    assert get(app) == "1"
    for attempt in (2, 3):
        with pytest.raises(RpcError) as failed:
            hibernate(app)
        assert failed.value.code is Code.INTERNAL
        assert "space" in failed.value.message.lower()
        assert get(app) == str(attempt)
        assert images_of(app) == []
    small_disk("100%")
    hibernate_when_quiet(app)
    assert get(app) == "4"


def fill(path: Path) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def test_a_disk_without_a_free_byte_leaves_it_running(small_disk: Callable[[str], None], run: Run) -> None:
    app = run()
    small_disk("64m")
    filler = STATE / "filler"
    fill(filler)
    with pytest.raises(RpcError) as failed:
        hibernate(app)
    assert failed.value.code is Code.INTERNAL
    assert get(app) == "1"
    assert images_of(app) == []
    filler.unlink()
    hibernate_when_quiet(app)
    assert get(app) == "2"


def test_a_killed_criu_leaves_the_container_it_was_dumping_running(run: Run) -> None:
    app = run()
    get(app, "/heap?mb=150")
    with ThreadPoolExecutor(1) as pool:
        for attempt in range(1, 6):
            falling = pool.submit(hibernate_when_quiet, app)
            await_phase(app, "HIBERNATING")
            # At another point of the dump each time: as its image grows.
            await_true(lambda: bool(processes_named(app.pod, "criu")), "CRIU runs")
            wanted = max(1, (attempt - 1) * (30 << 20))
            await_true(lambda wanted=wanted: written(app) >= wanted, "the image has grown")  # type: ignore[misc]
            for pid in processes_named(app.pod, "criu"):
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(RpcError, match="CRIU ended before it answered") as failed:
                falling.result()
            assert failed.value.code is Code.INTERNAL
            assert get(app) == str(attempt)
            assert (status(app).phase, images_of(app)) == ("RUNNING", [])
        hibernate_when_quiet(app)
        assert get(app) == "6"
        assert get(app, "/heap?mb=1") == "1"


def written(app: Container) -> int:
    total = 0
    for image in images_of(app):
        for path in image.rglob("pages-*.img"):
            total += path.stat().st_size
    return total


# ---- it cannot wake


def flip_a_byte(image: Path) -> None:
    pages = image / "criu" / "pages-1.img"
    with pages.open("r+b") as file:
        file.seek(pages.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


def cut_short(image: Path) -> None:
    pages = image / "criu" / "pages-1.img"
    os.truncate(pages, pages.stat().st_size - 4096)


def lose_a_file(image: Path) -> None:
    (image / "criu" / "pstree.img").unlink()


def add_a_file(image: Path) -> None:
    (image / "criu" / "tcp-stream-99.img").write_bytes(b"x")


def garble_the_manifest(image: Path) -> None:
    (image / "manifest.json").write_text("{")


def lose_the_manifest(image: Path) -> None:
    (image / "manifest.json").unlink()


def lose_everything(image: Path) -> None:
    shutil.rmtree(image)


@pytest.mark.parametrize(
    "damage", [flip_a_byte, cut_short, lose_a_file, add_a_file, garble_the_manifest, lose_the_manifest]
)
def test_a_damaged_image_is_never_restored_but_kept_aside_and_the_container_starts_fresh(
    run: Run, damage: Callable[[Path], None]
) -> None:
    app = run()
    assert [get(app), get(app)] == ["1", "2"]
    hibernate_when_quiet(app)
    (image,) = images_of(app)
    damage(image)
    assert get(app) == "1", "it has no memory of before"
    (aside,) = images_of(app)
    assert aside.name == f"{image.name}.quarantined"
    assert "damaged" in (aside / "reason.txt").read_text()
    (said,) = reasons(app, "fresh start")
    assert str(aside) in said
    assert f"container {app.id} STARTS FRESH" in CONTAINERD_LOG.read_text()
    assert app.exec("/usr/bin/python3", "-c", "print(1)").stdout == b"1\n"
    hibernate_when_quiet(app)
    assert get(app) == "2"
    await_true(lambda: images_of(app) == [aside], "the image it woke from is removed, the damaged one kept")


def test_logs_that_were_tidied_away_cost_nothing(run: Run) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    shutil.rmtree("/var/log/architect")
    assert get(app) == "2"
    assert (status(app).wakes, status(app).failures) == (1, [])


def test_an_image_that_is_gone_means_a_fresh_start_that_says_so(run: Run) -> None:
    app = run()
    get(app)
    hibernate_when_quiet(app)
    for image in images_of(app):
        lose_everything(image)
    assert get(app) == "1"
    assert reasons(app, "fresh start")


def test_a_fresh_start_can_be_stopped_and_its_exit_is_the_containers(run: Run) -> None:
    app = run()
    hibernate_when_quiet(app)
    flip_a_byte(images_of(app)[0])
    wake(app)
    app.await_line("listening")
    get(app)
    app.stop()
    assert app.status().exit_code == 0


def restorer_of(app: Container) -> int:
    """CRIU, waiting for the wake; a moment after falling asleep it is still being started."""
    await_true(lambda: bool(processes_named(app.pod, "criu")), "CRIU waits")
    (restorer,) = processes_named(app.pod, "criu")
    return restorer


def test_a_killed_restorer_is_missed_by_nobody(run: Run) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    os.kill(restorer_of(app), signal.SIGKILL)
    await_true(lambda: not processes_named(app.pod, "criu"), "the restorer is gone")
    assert get(app) == "2"


def test_a_criu_killed_while_restoring_costs_a_second_try_and_not_the_memory(run: Run) -> None:
    app = run()
    get(app, "/heap?mb=150")
    assert get(app) == "1"
    hibernate_when_quiet(app)
    restorer = restorer_of(app)
    with ThreadPoolExecutor(1) as pool:
        waking = pool.submit(wake, app)
        await_phase(app, "WAKING")
        os.kill(restorer, signal.SIGKILL)
        assert waking.result().phase == "RUNNING"
    assert get(app) == "2"
    assert any("CRIU ended before it answered" in reason for reason in reasons(app, "wake"))
    assert reasons(app, "fresh start") == []


@contextlib.contextmanager
def no_restore_works(app: Container) -> Iterator[None]:
    """CRIU is there and fails at whatever it is asked; also the one that waits for the wake is gone."""
    there = [path for path in map(Path, CRIU_PATHS) if path.exists()]
    restorer = restorer_of(app)
    for path in there:
        path.rename(path.with_suffix(".aside"))
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    try:
        os.kill(restorer, signal.SIGKILL)
        yield
    finally:
        for path in there:
            path.with_suffix(".aside").rename(path)


def test_while_no_restore_works_it_sleeps_on_and_says_why_and_then_wakes_with_its_memory(run: Run) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    before = images_of(app)
    with ThreadPoolExecutor(1) as pool:
        with no_restore_works(app):
            with pytest.raises(RpcError, match="sleeps on, its memory is kept: CRIU ended") as refused:
                wake(app)
            assert refused.value.code is Code.UNAVAILABLE
            with pytest.raises(grpc.RpcError, match="sleeps on"):
                app.exec("/usr/bin/python3", "-c", "print(1)")
            failed = len(reasons(app, "wake"))
            held = pool.submit(get, app)
            await_true(lambda: len(reasons(app, "wake")) >= failed + 4, "two wakes for it have failed")
            assert status(app).phase in ("SCALED_DOWN", "WAKING")
            assert images_of(app) == before
        assert held.result() == "2"
    assert reasons(app, "fresh start") == []
    hibernate_when_quiet(app)
    assert get(app) == "3"


def test_a_sleeper_that_cannot_be_woken_can_be_ended(run: Run) -> None:
    app = run()
    hibernate_when_quiet(app)
    with no_restore_works(app):
        with pytest.raises(RpcError):
            wake(app)
        app.remove()
    assert images_of(app) == []


@pytest.mark.slow
@pytest.mark.same_everywhere
def test_when_no_restore_works_for_long_it_starts_fresh_and_its_image_is_kept(run: Run) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    (image,) = images_of(app)
    with no_restore_works(app), socket.socket() as client:
        client.setblocking(False)
        client.connect_ex((app.pod.addresses[0], 8080))
        await_true(lambda: status(app).wakes == 1, "it runs")
        assert len(reasons(app, "wake")) > tries.LEAST
        assert reasons(app, "fresh start")
    assert get(app) == "1", "it has no memory of before"
    (aside,) = images_of(app)
    assert aside.name == f"{image.name}.quarantined"


# ---- shim and containerd


def mounts_of(*ids: str) -> list[str]:
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in table if any(each in line for each in ids)]


def cgroups_of(*ids: str) -> list[str]:
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(folder) in ids]


def test_after_a_killed_shim_nothing_is_left_but_the_image(run: Run, cri: Cri, daemon: Daemon) -> None:
    app = run()
    get(app)
    hibernate_when_quiet(app)
    ids = (app.id, app.pod.id)
    (image,) = images_of(app)
    restorer = restorer_of(app)
    path = Path(shim_socket(app.pod))
    os.kill(describe(app.pod).shim_pid, signal.SIGKILL)
    await_true(lambda: app.status().state == 2, "containerd knows that the container has ended")
    await_true(lambda: not path.exists() and not path.with_suffix(".gate").exists(), "the sockets are gone")
    await_true(lambda: not cgroups_of(*ids), f"its cgroups are gone: {cgroups_of(*ids)}")
    await_true(lambda: not Path(f"/proc/{restorer}").exists(), "the restorer is gone")
    assert app.status().exit_code in (137, 255)  # 255: how containerd's CRI says that it could not hear it
    await_true(lambda: not [line for line in mounts_of(app.id) if "rootfs" in line], "no root file system")
    assert (image / "manifest.json").exists()
    app.pod.remove()
    assert mounts_of(*ids) == []
    await_true(lambda: not explain(app), "the daemon has forgotten it")


def restart_containerd() -> None:
    pid_file = Path("/run/containerd/containerd.pid")
    old = int(pid_file.read_text())
    os.kill(old, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # the first one is init's child, the next are ours
        os.waitpid(old, 0)
    await_true(lambda: not Path(f"/proc/{old}").exists(), "containerd is gone")
    with CONTAINERD_LOG.open("ab") as log:
        actions = [(os.POSIX_SPAWN_DUP2, log.fileno(), number) for number in (1, 2)]
        pid = os.posix_spawnp("containerd", ["containerd"], os.environ, file_actions=actions, setsid=True)
    pid_file.write_text(f"{pid}\n")


def containerd_serves() -> bool:
    try:
        Cri().close()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


def test_a_sleeper_outlives_containerd_and_wakes_with_its_memory(run: Run) -> None:
    app = run()
    assert get(app) == "1"
    hibernate_when_quiet(app)
    before = app.status()
    restart_containerd()
    await_true(containerd_serves, "containerd serves")
    assert (app.status().state, app.status().started_at) == (before.state, before.started_at)
    assert status(app).phase == "SCALED_DOWN"
    assert get(app) == "2"
    hibernate_when_quiet(app)
    assert app.exec("/usr/bin/python3", "-c", "print(1)").stdout == b"1\n"
    assert get(app) == "3"
    hibernate_when_quiet(app)
    app.stop()
    assert app.status().exit_code == 0
