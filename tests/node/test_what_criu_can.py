"""What an application may hold and still sleep: a row of shim/WHAT-SLEEPS.md each, proved in a container."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from architect.ttrpc.client import Code, RpcError
from hack import cri_messages as m
from hack.control import await_true, hibernate, status, wake
from hack.cri import Container, Cri, Pod
from tests.node.asking import images_of
from tests.node.conftest import managed
from tests.node.holds import files, memory, processes, sockets
from tests.node.holds.rows import ASLEEP_SECONDS

CHECKOUT = Path(__file__).parents[2]
TABLE = CHECKOUT / "shim" / "WHAT-SLEEPS.md"
MODULES = {
    "Processes": processes,
    "Memory": memory,
    "Files, mounts and the kernel's objects": files,
    "Sockets": sockets,
}

STAYS_AWAKE = {
    "stopped_child": ("is stopped", "CRIU would wait for it for ever"),
    "traced_child": ("is being debugged", "only one process at a time can trace another"),
    "own_user_namespace": ("nested user namespace", "CRIU cannot dump nested user namespaces"),
    "own_process_namespace": ("nested pid namespace", "CRIU cannot dump nested process namespaces"),
    "read_only_root_without_tmp": ("read-only and has no /tmp", "CRIU needs that folder for a moment"),
    "system_v_shared_memory": (
        "SysVIPC shmem",
        "it is the pod's, and CRIU would take it for the container's",
    ),
    "message_queue": ("Can't lookup mount", "CRIU knows no POSIX message queues"),
    "packet_pipe": ("packetized mode", "CRIU knows no pipes in packet mode"),
    "unread_watch": ("has not read yet", "CRIU would lose it; read, it sleeps"),
    "user_fault": ("userfaultfd", "CRIU cannot read what is behind it"),
    "io_uring": ("io_uring", "CRIU cannot read what is behind it"),
    "bpf_map": ("BPF", "it would need the node's kernel to take it back"),
    "performance_counter": ("performance counter", "CRIU cannot read what is behind it"),
    "unix_waiting": ("in-flight socket", "CRIU cannot give back data on a connection not yet accepted"),
    "unix_to_another_container": ("half of stream unix connection", "the other end would not sleep with it"),
    "mptcp_listener": ("Unsupported proto 262", "CRIU knows no Multipath TCP"),
    "sctp_socket": ("Unsupported proto 132", "CRIU knows no SCTP"),
    "virtual_machine_socket": ("family 40", "CRIU knows no AF_VSOCK"),
    "crypto_socket": ("family 38", "CRIU knows no AF_ALG"),
}
"""Rows that run on: what the refusal says (a pattern), and why, for people."""

LOST = {
    "processor_time": "each process counts anew after a wake; the container's own count goes on",
}
"""Rows that sleep and are not kept."""

_CAP_SYS_RESOURCE = 24
LACKING = {"another_user": "rlimit"}
"""Rows that run on where the node lacks CAP_SYS_RESOURCE, and what the refusal says then."""

ONCE = {"many_processes"}
"""Rows that sleep once: they take long."""

NODE_DECIDES = {
    # How it is frozen, limited and counted: its cgroups, of either version.
    *("threads_on_futexes", "stopped_child", "traced_child", "sleeping_in_the_kernel", "limits", "affinity"),
    *("clocks", "processor_time", "out_of_memory_score", "memory_of_all_kinds"),
    # What containerd and runc give it: its environment, root, mounts and devices, who may connect to it.
    *("environment", "umask_and_directory", "terminal_of_its_own", "own_user_namespace", "odd_files"),
    *("posix_shared_memory", "system_v_shared_memory", "message_queue", "root_files", "watched_files"),
    *("mounts_from_outside", "watched_volume", "io_uring", "unix_named", "unix_to_another_container"),
    *("tcp_listener", "tcp_connection", "udp_socket"),
}
"""With what a row of WANTED asks for: rows on which flavours of nodes may differ. The others are decided by
kernel and CRIU alone, which flavours share."""

HEAD = """# What a container may hold and still sleep

Each row is a container of `tests/node/holds/` that sleeps and wakes, mostly twice, and then proves that it
has kept what it held, or is asked to sleep, runs on, and says why. Written by
`python3 -m tests.node.test_what_criu_can`, and checked by that test.

After a reboot of its node a sleeper has all of it but connections, which come back closed, files of
`/dev/shm` and of other memory (open ones mean a fresh start), and the pod's own semaphores and message
queues.
"""
UNCONFINED = m.SecurityProfile(m.Profile.UNCONFINED)


def rows(module: ModuleType) -> list[str]:
    """The names of a module's rows, in its order."""
    found = inspect.getmembers(module, inspect.isfunction)
    own = [
        each for _, each in found if each.__module__ == module.__name__ and not each.__name__.startswith("_")
    ]
    return [each.__name__ for each in sorted(own, key=lambda each: each.__code__.co_firstlineno)]


def security(*capabilities: str, **wanted: Any) -> dict[str, Any]:
    added = m.Capability(add_capabilities=list(capabilities))
    return {"security": m.ContainerSecurity(**{"capabilities": added, "seccomp": UNCONFINED, **wanted})}


WANTED: dict[str, dict[str, Any]] = {
    "no_new_privileges": security(no_new_privs=True),
    "another_user": security(run_as_user=m.Int64Value(1000), no_new_privs=True),
    "seccomp_profile": security(seccomp=m.SecurityProfile(m.Profile.RUNTIME_DEFAULT)),
    "read_only_root": security(readonly_rootfs=True),
    "read_only_root_without_tmp": security(readonly_rootfs=True),
    "another_root": security("SYS_CHROOT"),
    "scheduling": security("SYS_NICE"),
    "mounts_from_inside": security("SYS_ADMIN"),
    "bind_from_inside": security("SYS_ADMIN"),
    "own_mount_namespace": security("SYS_ADMIN"),
    "own_network_namespace": security("SYS_ADMIN"),
    "own_process_namespace": security("SYS_ADMIN"),
    "bpf_map": security("BPF", "SYS_ADMIN"),
    "performance_counter": security("PERFMON", "SYS_ADMIN"),
    "user_fault": security("SYS_PTRACE"),
    "locked_memory": security("IPC_LOCK"),
}


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[list[m.Mount]]:
    """Volumes within volumes: folders, a file, a tmpfs."""
    found = []
    for place in ("data", "data/a", "data/a/b/c", "data/tmpfs"):
        volume = tmp_path / place.replace("/", "-")
        volume.mkdir()
        found.append(m.Mount(container_path=f"/{place}", host_path=str(volume)))
    (tmp_path / "single").write_text("single")
    found.append(m.Mount(container_path="/data/single", host_path=str(tmp_path / "single"), readonly=True))
    tmpfs = tmp_path / "data-tmpfs"
    subprocess.run(["mount", "-t", "tmpfs", "volume", str(tmpfs)], check=True)
    yield found
    subprocess.run(["umount", str(tmpfs)], check=True)


@contextmanager
def echo_on(path: Path) -> Iterator[None]:
    """A process of the node that echoes on a unix socket in a volume, until left."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(100):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
    thread.join(20)


class Rows:
    """Runs containers of rows, one after the other, in one pod; after a row that failed, in a new one."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri
        self._pod: Pod | None = None
        self._number = count()

    @contextmanager
    def holding(
        self, module: str, name: str, mounts: Sequence[m.Mount], **wanted: Any
    ) -> Iterator[Container]:
        """A container that holds what row `name` is about; skips when the kernel does not offer it."""
        number = next(self._number)
        with ExitStack() as stack:
            pod = self._pod or Pod(self._cri, f"rows-{number}", annotations=managed("app"))
            self._pod = None
            stack.enter_context(pod)
            source = m.Mount(container_path="/src/tests", host_path=str(CHECKOUT / "tests"), readonly=True)
            app = pod.start(
                "app",
                "web",
                command=["/usr/bin/python3", "-B", "-m", "tests.node.holds", module, name],
                env={"PYTHONPATH": "/src", "WHO": "me"},
                mounts=[source, *mounts],
                restarts=number,
                **wanted,
            )
            await_true(lambda: any(app.lines()), "it holds")
            line = app.lines()[0]
            if line.startswith("lacking"):
                pytest.skip(line)
            assert line == "holding", "\n".join(app.lines())
            yield app
            app.remove()
            stack.pop_all()
            self._pod = pod

    def close(self) -> None:
        if self._pod is not None:
            self._pod.remove()


@pytest.fixture(scope="module")
def rows_of(cri: Cri) -> Iterator[Rows]:
    if os.environ.get("NODE_FLAVOUR") == "vm":  # a kernel of its own: nobody else's knob
        Path("/proc/sys/vm/nr_hugepages").write_text("8\n")
    running = Rows(cri)
    yield running
    running.close()


def prove(app: Container, name: str) -> None:
    """Has the application prove that it still holds what it held."""
    os.kill(status(app).pid, signal.SIGUSR1)
    await_true(lambda: len(app.lines()) > 1, "it has looked")
    (verdict,) = app.lines()[1:]
    assert verdict.startswith("lost: AssertionError" if name in LOST else "kept"), verdict
    await_true(lambda: app.status().finished_at > 0, "it has ended")
    assert app.status().exit_code == int(name in LOST)


def sleeps_or_says_why(app: Container, name: str) -> None:
    reason = LACKING.get(name, "") if not capable() else ""
    reason = reason or STAYS_AWAKE.get(name, ("", ""))[0]
    if reason:
        with pytest.raises(RpcError, match=reason) as refused:
            hibernate(app)
        assert refused.value.code in (Code.INTERNAL, Code.FAILED_PRECONDITION, Code.ABORTED)
        assert (status(app).phase, images_of(app)) == ("RUNNING", [])
        return
    for generation in (1,) if name in ONCE else (1, 2):
        hibernate(app)
        asleep = time.time()
        if name == "clocks":
            await_true(lambda: time.time() > asleep + ASLEEP_SECONDS, "some time has passed")  # noqa: B023
        assert wake(app).sleeps == generation
        assert not status(app).failures, [failure.reason for failure in status(app).failures]


def capable() -> bool:
    """Whether this node may do everything; test machines that are containers lack CAP_SYS_RESOURCE."""
    lines = Path("/proc/self/status").read_text().splitlines()
    bounds = next(line for line in lines if line.startswith("CapBnd")).split()[1]
    return bool(int(bounds, 16) >> _CAP_SYS_RESOURCE & 1)


CASES = [(each.__name__.rsplit(".", 1)[-1], row) for each in MODULES.values() for row in rows(each)]


def case(module: str, name: str) -> Any:
    """A row as a parameter; it is asked of one flavour only if all would answer the same."""
    marks = [] if name in NODE_DECIDES | WANTED.keys() else [pytest.mark.same_everywhere]
    return pytest.param(module, name, marks=marks)


@pytest.mark.parametrize(("module", "name"), [case(*each) for each in CASES])
def test_what_it_holds_is_kept_asleep_or_it_runs_on_and_says_why(
    rows_of: Rows, volumes: list[m.Mount], tmp_path: Path, module: str, name: str
) -> None:
    mounts = {
        "mounts_from_outside": volumes,
        "watched_volume": volumes,
        "read_only_root": [m.Mount(container_path="/tmp", host_path=str(tmp_path))],
        "unix_to_another_container": [m.Mount(container_path="/shared", host_path=str(tmp_path))],
    }
    with ExitStack() as stack:
        if name == "unix_to_another_container":
            stack.enter_context(echo_on(tmp_path / "socket"))
        wanted = WANTED.get(name, {})
        app = stack.enter_context(rows_of.holding(module, name, mounts.get(name, []), **wanted))
        sleeps_or_says_why(app, name)
        prove(app, name)


def test_the_table_in_the_docs_is_what_is_proved_here() -> None:
    assert TABLE.read_text() == table(), "write it anew: python3 -m tests.node.test_what_criu_can"


def table() -> str:
    """The text of shim/WHAT-SLEEPS.md."""
    assert {*STAYS_AWAKE, *LOST, *WANTED, *NODE_DECIDES} <= {name for _, name in CASES}
    text = HEAD
    for title, module in MODULES.items():
        text += (
            f"\n## {title}\n\n| What a container holds | Sleeps | Why not, or what to know |\n|---|---|---|\n"
        )
        for name in rows(module):
            what = inspect.getdoc(getattr(module, name))
            _, why = STAYS_AWAKE.get(name, ("", LOST.get(name, "")))
            verdict = "no, runs on" if name in STAYS_AWAKE else "yes, but not kept" if name in LOST else "yes"
            text += f"| {what} | {verdict} | {why} |\n"
    return text


if __name__ == "__main__":
    TABLE.write_text(table())
