"""The installer on a real node: what it changes, that running pods do not notice, that nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from architect.ttrpc import node_v1
from hack.control import await_true, describe, hibernate, status
from hack.cri import Container, Cri, Pod
from tests.node.asking import get
from tests.node.conftest import managed

SHIPPED = Path("/opt/shipped/node")
HOME = Path("/opt/architect")
CONFIG = Path("/etc/containerd/config.toml")
PID_FILE = Path("/run/containerd/containerd.pid")
LOG = Path("/var/log/containerd.log")
SHIM = f"{HOME}/current/bin/containerd-shim-runc-architect-v1"

pytestmark = pytest.mark.skipif(not SHIPPED.exists(), reason="the box was made without --shipped")


class Supervised:
    """containerd as an init system keeps it: whenever it ends, it is started again."""

    def __init__(self) -> None:
        self.starts = 0
        self._keep = True
        self._end(int(PID_FILE.read_text()))
        self._process = self._start()
        self._thread = threading.Thread(target=self._supervise)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        with LOG.open("ab") as log:
            process = subprocess.Popen(["containerd"], stdout=log, stderr=log)
        self.starts += 1
        PID_FILE.write_text(f"{process.pid}\n")
        return process

    def _supervise(self) -> None:
        while True:
            self._process.wait()
            if not self._keep:
                return
            self._process = self._start()

    @staticmethod
    def _end(pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        await_true(lambda: not Path(f"/proc/{pid}").exists(), "containerd has ended")

    def leave(self) -> None:
        """Starts it once more, as its configuration now says, and lets it go."""
        self._keep = False
        self._process.terminate()
        self._thread.join()
        script = f"containerd >>{LOG} 2>&1 & echo $! >{PID_FILE}"
        subprocess.run(["sh", "-c", script], check=True, timeout=10)  # not as a child of ours


@pytest.fixture
def containerd() -> Iterator[Supervised]:
    """A supervised containerd that knows no runtime of ours, as on a user's node."""
    before = CONFIG.read_text()
    ours = next(line for line in before.splitlines() if line.endswith(".runtimes.runc-architect]"))
    CONFIG.write_text(before.partition(ours)[0] + '# The owner\'s own words: "ä".\n')
    supervised = Supervised()
    try:
        await_true(serves, "containerd serves")
        yield supervised
    finally:
        CONFIG.write_text(before)
        supervised.leave()
        await_true(serves, "containerd serves")


def serves() -> bool:
    """Whether containerd answers calls of the CRI; it answers others before."""
    try:
        Cri().close()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


def installer(*arguments: str, fails: bool = False) -> str:
    """Runs it as its container would; what it told."""
    argv = [sys.executable, "-m", "daemon.installer", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def install(source: Path = SHIPPED, *options: str) -> str:
    return installer("install", f"--source={source}", "--containerd-restart=signal", *options)


def uninstall() -> str:
    return installer("uninstall", "--containerd-restart=signal")


def etc() -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for path in sorted(Path("/etc/containerd").rglob("*"))
    }


def dumped_runtimes() -> dict[str, dict[str, object]]:
    dump = subprocess.run(["containerd", "config", "dump"], capture_output=True, check=True, timeout=60)
    plugins = tomllib.loads(dump.stdout.decode())["plugins"]
    plugin = plugins.get("io.containerd.cri.v1.runtime") or plugins["io.containerd.grpc.v1.cri"]
    found: dict[str, dict[str, object]] = plugin["containerd"]["runtimes"]
    return found


def next_version(tmp: Path) -> Path:
    """An image of the installer with another digest, the same otherwise."""
    old = next(SHIPPED.iterdir()).name
    new = "fedcba987654"
    shutil.copytree(SHIPPED / old, tmp / new, symlinks=True)
    for path in (tmp / new).rglob("*"):
        if path.is_file() and not path.is_symlink() and old.encode() in (content := path.read_bytes()):
            path.write_bytes(content.replace(old.encode(), new.encode()))
    return tmp


def digest_of(pod: Pod) -> str:
    """The install that a pod's shim runs from."""
    program = os.readlink(f"/proc/{describe(pod).shim_pid}/exe")
    return Path(program).relative_to(HOME).parts[0]


@contextmanager
def web(cri: Cri, name: str) -> Iterator[Container]:
    """A managed container in a pod of its own, whose shim has ended when this is left."""
    await_true(serves, "containerd serves")
    with Pod(cri, name, annotations=managed("app")) as pod:
        app = pod.start("app", "web", ports=[8080])
        app.await_line("listening")
        shim = describe(pod).shim_pid
        yield app
        await_true(serves, "containerd serves")
    await_true(lambda: not Path(f"/proc/{shim}").exists(), "the shim has ended")


def installs() -> set[str]:
    return {path.name for path in HOME.iterdir() if len(path.name) == 12 and path.is_dir()}


def test_a_pod_sleeps_on_an_installed_node_and_uninstalling_leaves_every_byte_as_it_was(
    containerd: Supervised, cri: Cri
) -> None:
    before, others = etc(), set(os.listdir(HOME))
    install()
    runtime = dumped_runtimes()["runc-architect"]
    assert runtime["runtime_path"] == SHIM
    assert runtime["options"] == dumped_runtimes()["runc"]["options"]
    assert set(dumped_runtimes()) == {"runc", "runc-architect"}
    with web(cri, "installed") as app:
        assert digest_of(app.pod) == next(SHIPPED.iterdir()).name
        assert get(app) == "1"
        hibernate(app)
        assert get(app) == "2"
    uninstall()
    assert etc() == before
    assert set(os.listdir(HOME)) == others
    assert not any(Path(path).exists() for path in ("/run/architect", "/var/lib/architect/pods"))
    assert set(dumped_runtimes()) == {"runc"}


def test_containerd_is_restarted_once_and_a_second_install_changes_nothing(containerd: Supervised) -> None:
    install()
    assert containerd.starts == 2
    after = etc()
    assert install() == ""
    assert (etc(), containerd.starts) == (after, 2)
    uninstall()
    assert containerd.starts == 3


def test_shims_know_whether_a_daemon_is_to_be_asked_before_there_is_one(containerd: Supervised) -> None:
    del containerd
    promise = Path(node_v1.PROMISE)
    found = []
    for options in (["--moves"], [], ["--moves"]):
        install(SHIPPED, *options)
        found.append(promise.exists())
    uninstall()
    assert (found, promise.exists()) == ([True, False, True], False)


def test_pods_sleep_through_an_upgrade_and_the_old_install_goes_with_the_last_of_them(
    containerd: Supervised, cri: Cri, tmp_path: Path
) -> None:
    install()
    first = next(SHIPPED.iterdir()).name
    with web(cri, "sleeper") as app:
        assert get(app) == "1"
        hibernate(app)
        upgrade = next_version(tmp_path)
        told = install(upgrade)
        second = next(upgrade.iterdir()).name
        assert first in told.splitlines()[-1]
        assert containerd.starts == 2, "a new shim is no reason to restart containerd"
        assert status(app).phase == "SCALED_DOWN"
        assert get(app) == "2"
        assert (digest_of(app.pod), installs()) == (first, {first, second})
        with web(cri, "newer") as newer:
            assert digest_of(newer.pod) == second
    install(upgrade)
    assert installs() == {second}
    uninstall()
    assert installs() == set()


def test_uninstalling_under_a_sleeping_pod_leaves_it_able_to_wake(containerd: Supervised, cri: Cri) -> None:
    before = etc()
    install()
    with web(cri, "asleep") as app:
        assert get(app) == "1"
        hibernate(app)
        assert "pods still run" in uninstall()
        assert etc() == before
        assert get(app) == "2"
        hibernate(app)
    uninstall()
    assert installs() == set()


def test_what_a_person_writes_into_the_configuration_meanwhile_stays(containerd: Supervised) -> None:
    before = CONFIG.read_text()
    install()
    CONFIG.write_text(CONFIG.read_text().replace("# The owner's own words", "# Other words"))
    uninstall()
    assert CONFIG.read_text() == before.replace("# The owner's own words", "# Other words")


def test_a_node_without_a_configuration_file_gets_one_and_loses_it_again(containerd: Supervised) -> None:
    words = CONFIG.read_text()
    CONFIG.unlink()
    try:
        install()
        assert dumped_runtimes()["runc-architect"]["runtime_path"] == SHIM
        uninstall()
        assert etc() == {}
    finally:
        CONFIG.write_text(words)


def test_a_broken_configuration_is_refused_and_left_as_it_is(containerd: Supervised) -> None:
    words = CONFIG.read_text()
    CONFIG.write_text(words + "[plugins\n")
    try:
        before = etc()
        told = installer("install", f"--source={SHIPPED}", "--containerd-restart=signal", fails=True)
        assert "is no TOML" in told
        assert etc() == before
        assert containerd.starts == 1
    finally:
        CONFIG.write_text(words)
        uninstall()


def test_containerd_that_nobody_would_start_again_is_not_ended(containerd: Supervised) -> None:
    told = installer("install", f"--source={SHIPPED}", fails=True)
    assert "is not a service of systemd" in told
    assert containerd.starts == 1
    assert "restarted containerd" in install(), "it is still to be done"
    uninstall()
