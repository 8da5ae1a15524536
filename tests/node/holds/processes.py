"""Rows about processes, their relations and attributes."""

from __future__ import annotations

import ctypes
import os
import pty
import resource
import signal
import threading
import time
from collections.abc import Iterator

from tests.node.holds.rows import (
    ASLEEP_SECONDS,
    call,
    checked,
    child,
    ended,
    lacking,
    libc,
    status_field,
    stop,
)

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000


def many_processes() -> Iterator[None]:
    """2,000 processes"""
    read, write = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, read, 0)]
    pids = [os.posix_spawn("/usr/bin/cat", ["cat"], {}, file_actions=actions) for _ in range(2000)]
    yield
    for pid in pids[::2]:
        os.kill(pid, signal.SIGTERM)
    os.close(write)
    assert [ended(pid) for pid in pids] == [-signal.SIGTERM, 0] * 1000


def threads_on_futexes() -> Iterator[None]:
    """50 threads, each waiting for a futex"""
    event = threading.Event()
    seen: list[int] = []

    def wait(number: int) -> None:
        event.wait()
        seen.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    yield
    event.set()
    for thread in threads:
        thread.join(20)
    assert sorted(seen) == list(range(50))


def thread_names() -> Iterator[None]:
    """names of processes and threads"""
    checked(libc.prctl(15, b"sleeper", 0, 0, 0))
    yield
    with open("/proc/self/comm", encoding="ascii") as file:
        assert file.read() == "sleeper\n"


def stopped_child() -> Iterator[None]:
    """a child that is stopped (SIGSTOP)"""

    def work() -> int:
        stop()
        return 7

    pid = child(work)
    os.waitpid(pid, os.WUNTRACED)
    yield
    assert status_field("State", pid).startswith("T")
    os.kill(pid, signal.SIGCONT)
    assert ended(pid) == 7


def zombie_child() -> Iterator[None]:
    """a child that has ended and is not yet waited for"""
    pid = child(lambda: 5)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield
    assert ended(pid) == 5


def session_leader() -> Iterator[None]:
    """a session leader with children in process groups of their own"""
    read, write = os.pipe()
    back_read, back_write = os.pipe()

    def lead() -> int:
        os.setsid()
        session = os.getsid(0)

        def member() -> int:
            os.setpgid(0, 0)
            group = os.getpgid(0)
            os.write(back_write, b"r")
            os.read(read, 1)
            return int((os.getsid(0), os.getpgid(0)) != (session, group))

        members = [child(member) for _ in range(3)]
        return sum(ended(pid) for pid in members)

    leader = child(lead)
    ready = b""
    while len(ready) < 3:
        ready += os.read(back_read, 3)
    yield
    os.write(write, b"xxx")
    assert ended(leader) == 0


def orphans_of_a_leader() -> Iterator[None]:
    """an orphan whose session leader has ended"""
    read, write = os.pipe()
    up_read, up_write = os.pipe()

    def lead() -> None:
        os.setsid()

        def orphan() -> None:
            os.write(up_write, f"{os.getpid()} {os.getsid(0)}\n".encode())
            os.read(read, 1)
            os.write(up_write, f"{os.getpid()} {os.getsid(0)}\n".encode())

        child(orphan)

    ended(child(lead))
    before = os.read(up_read, 100)
    yield
    os.write(write, b"x")
    assert os.read(up_read, 100) == before


def traced_child() -> Iterator[None]:
    """a child under ptrace (a debugger)"""

    def work() -> int:
        libc.ptrace(0, 0, 0, 0)
        stop()
        return 3

    pid = child(work)
    os.waitpid(pid, os.WUNTRACED)
    yield
    assert status_field("TracerPid", pid) == str(os.getpid())
    checked(libc.ptrace(7, pid, None, None))
    assert ended(pid) == 3


def subreaper_and_death_signal() -> Iterator[None]:
    """a subreaper, and a signal at the parent's death (prctl)"""
    checked(libc.prctl(36, 1, 0, 0, 0))
    checked(libc.prctl(1, signal.SIGHUP, 0, 0, 0))
    yield
    found = ctypes.c_int()
    checked(libc.prctl(37, ctypes.byref(found), 0, 0, 0))
    assert found.value == 1, "subreaper"
    checked(libc.prctl(2, ctypes.byref(found), 0, 0, 0))
    assert found.value == signal.SIGHUP, "death signal"


def limits() -> Iterator[None]:
    """resource limits"""
    wanted = {
        resource.RLIMIT_NOFILE: (333, 555),
        resource.RLIMIT_CORE: (0, 4096),
        resource.RLIMIT_CPU: (7000, 8000),
    }
    for which, values in wanted.items():
        resource.setrlimit(which, values)
    yield
    assert {which: resource.getrlimit(which) for which in wanted} == wanted


def environment() -> Iterator[None]:
    """environment and command line"""

    def read() -> list[bytes]:
        found = []
        for name in ("environ", "cmdline"):
            with open(f"/proc/self/{name}", "rb") as file:
                found.append(file.read())
        return found

    before = read()
    yield
    assert read() == before
    assert b"WHO=me" in before[0]


def privileges() -> Iterator[None]:
    """user, groups, capabilities and no_new_privs"""
    names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
    before = {name: status_field(name) for name in names}
    yield
    assert {name: status_field(name) for name in names} == before


def no_new_privileges() -> Iterator[None]:
    """allowPrivilegeEscalation: false"""
    assert status_field("NoNewPrivs") == "1"
    yield from privileges()


def another_user() -> Iterator[None]:
    """a container that runs as a user other than root"""
    assert os.getuid() == 1000
    read, write = os.pipe()
    pid = child(lambda: os.read(read, 1) and (os.getuid() != 1000))
    yield from privileges()
    os.write(write, b"x")
    assert ended(pid) == 0


def seccomp_profile() -> Iterator[None]:
    """a seccomp profile (RuntimeDefault)"""
    assert status_field("Seccomp") == "2"
    yield
    assert status_field("Seccomp") == "2"
    assert libc.unshare(_CLONE_NEWNS) == -1


def umask_and_directory() -> Iterator[None]:
    """umask and working directory"""
    os.umask(0o027)
    os.makedirs("/tmp/here", exist_ok=True)
    os.chdir("/tmp/here")
    yield
    assert os.umask(0) == 0o027
    assert os.getcwd() == "/tmp/here"


def another_root() -> Iterator[None]:
    """a process in a chroot"""
    os.makedirs("/tmp/jail/inner", exist_ok=True)
    read, write = os.pipe()
    up_read, up_write = os.pipe()

    def jailed() -> int:
        os.chroot("/tmp/jail")
        os.chdir("/inner")
        os.write(up_write, b"r")
        os.read(read, 1)
        return int(os.listdir("/") != ["inner"] or os.getcwd() != "/inner")

    pid = child(jailed)
    os.read(up_read, 1)
    yield
    os.write(write, b"x")
    assert ended(pid) == 0


def signals() -> Iterator[None]:
    """signal handlers, masks, and a signal that waits"""
    seen: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: seen.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH, signal.SIGUSR2])
    os.kill(os.getpid(), signal.SIGUSR2)
    names = ("SigBlk", "SigIgn", "SigCgt", "ShdPnd")
    before = {name: status_field(name) for name in names}
    yield
    assert {name: status_field(name) for name in names} == before
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    assert seen == [signal.SIGUSR2]


def scheduling() -> Iterator[None]:
    """nice values and scheduling policy"""
    os.nice(5)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    yield
    assert os.nice(0) == 5
    assert os.sched_getscheduler(0) == os.SCHED_BATCH


def affinity() -> Iterator[None]:
    """the set of processors that a process or a thread has bound itself to"""
    processors = os.sched_getaffinity(0)
    if len(processors) < 2:
        lacking(-1, "two processors")
    first, last = {min(processors)}, {max(processors)}
    proceed, bound = threading.Event(), threading.Event()
    seen: list[set[int]] = []

    def work() -> None:
        os.sched_setaffinity(0, first)
        bound.set()
        proceed.wait()
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    bound.wait()
    os.sched_setaffinity(0, last)
    yield
    proceed.set()
    thread.join()
    assert (os.sched_getaffinity(0), seen) == (last, [first])


def out_of_memory_score() -> Iterator[None]:
    """the score for the kernel's out-of-memory killer"""
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        before = file.read()
    yield
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        assert file.read() == before


def terminal_of_its_own() -> Iterator[None]:
    """a child in a terminal of the application's own (as tmux or ssh make them)"""
    pid, master = pty.fork()
    if pid == 0:
        os.write(1, b"ready\n")
        os._exit(4 if os.read(0, 100) == b"word\n" else 1)
    os.read(master, 100)
    yield
    os.write(master, b"word\n")
    assert ended(pid) == 4


def _in_namespace(flag: int, inside: int = 0) -> Iterator[None]:
    read, write = os.pipe()
    up_read, up_write = os.pipe()

    def wait() -> None:
        os.write(up_write, b"r")
        os.read(read, 1)

    def work() -> int:
        if libc.unshare(flag):
            os.write(up_write, b"n")
            return 0
        if inside:
            return ended(child(wait))
        wait()
        return 0

    pid = child(work)
    if os.read(up_read, 1) == b"n":
        ctypes.set_errno(1)
        lacking(-1, "unshare")
    names = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in ("mnt", "net")}
    own = {name: os.readlink(f"/proc/self/ns/{name}") for name in names}
    yield
    after = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in names}
    mine = {name: os.readlink(f"/proc/self/ns/{name}") for name in names}
    assert [after[name] == mine[name] for name in names] == [names[name] == own[name] for name in names]
    os.write(write, b"x")
    assert ended(pid) == 0


def own_mount_namespace() -> Iterator[None]:
    """a process in a mount namespace of its own"""
    yield from _in_namespace(_CLONE_NEWNS)


def own_network_namespace() -> Iterator[None]:
    """a process in a network namespace of its own"""
    yield from _in_namespace(_CLONE_NEWNET)


def own_user_namespace() -> Iterator[None]:
    """a process in a user namespace of its own (browsers, rootless builders)"""
    yield from _in_namespace(_CLONE_NEWUSER)


def own_process_namespace() -> Iterator[None]:
    """a process in a process namespace of its own"""
    yield from _in_namespace(_CLONE_NEWPID, inside=1)


def clocks() -> Iterator[None]:
    """clocks: while it sleeps its monotonic clocks stand still, and the wall clock jumps at the wake"""
    wall, monotonic, boot = time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    yield
    passed = time.monotonic() - monotonic
    assert passed > 0, "it never goes back"
    assert time.time() - wall - passed >= ASLEEP_SECONDS
    assert abs(time.clock_gettime(time.CLOCK_BOOTTIME) - boot - passed) < ASLEEP_SECONDS / 2


def processor_time() -> Iterator[None]:
    """the processor time that its processes have used (times, CLOCK_PROCESS_CPUTIME_ID)"""
    while (used := time.process_time()) < 0.5:
        pass
    yield
    assert time.process_time() >= used


def sleeping_in_the_kernel() -> Iterator[None]:
    """a process in the middle of nanosleep, of poll, of a blocking read and of wait"""
    read, write = os.pipe()

    def waits() -> int:
        return ended(child(lambda: os.read(read, 1) and 6))

    def naps() -> int:
        time.sleep(0.3)
        return 8

    sleeper, waiter = child(naps), child(waits)
    yield
    os.write(write, b"x")
    assert (ended(sleeper), ended(waiter)) == (8, 6)


def pidfd() -> Iterator[None]:
    """a pidfd"""
    read, write = os.pipe()
    pid = child(lambda: os.read(read, 1) and 2)
    fd = os.pidfd_open(pid)
    yield
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    assert write


def robust_and_rseq() -> Iterator[None]:
    """restartable sequences (rseq) as glibc registers them"""
    yield
    cpu = ctypes.c_uint()
    checked(call("getcpu", ctypes.byref(cpu), None, None))
    assert libc.sched_getcpu() >= 0
