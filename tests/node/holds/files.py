"""Rows about files, mounts, memory and what the kernel keeps behind descriptors."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import struct
import tempfile
import threading
from collections.abc import Iterator

from tests.node.holds.rows import Lacking, call, checked, child, ended, lacking, libc


def many_descriptors() -> Iterator[None]:
    """500 open files, each at a place of its own"""
    files = []
    for number in range(500):
        file = open(f"/tmp/file-{number}", "w+b", buffering=0)  # noqa: SIM115
        file.write(b"%d" % number * 10)
        file.seek(number % 7)
        files.append(file)
    yield
    for number, file in enumerate(files):
        assert file.tell() == number % 7
        assert file.read() == (b"%d" % number * 10)[number % 7 :]


def deleted_file() -> Iterator[None]:
    """a file that is open and deleted"""
    file = open("/tmp/ghost", "w+b", buffering=0)  # noqa: SIM115
    file.write(b"boo" * 100_000)
    os.unlink("/tmp/ghost")
    yield
    file.seek(0)
    assert file.read() == b"boo" * 100_000
    assert not os.path.exists("/tmp/ghost")


def unnamed_file() -> Iterator[None]:
    """a file that never had a name (O_TMPFILE)"""
    try:
        fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        raise Lacking(f"O_TMPFILE: {error}") from None
    os.write(fd, b"unnamed")
    yield
    assert os.pread(fd, 10, 0) == b"unnamed"


def renamed_file() -> Iterator[None]:
    """an open file that was renamed, and one of which a second link remains"""
    first = open("/tmp/before", "w+b", buffering=0)  # noqa: SIM115
    os.rename("/tmp/before", "/tmp/after")
    second = open("/tmp/one", "w+b", buffering=0)  # noqa: SIM115
    os.link("/tmp/one", "/tmp/other")
    os.unlink("/tmp/one")
    yield
    first.write(b"1")
    second.write(b"2")
    with open("/tmp/after", "rb") as one, open("/tmp/other", "rb") as other:
        assert one.read() + other.read() == b"12"


def mapped_files() -> Iterator[None]:
    """files mapped shared and private, also deleted"""
    with open("/tmp/mapped", "w+b") as file:
        os.truncate("/tmp/mapped", 1 << 20)
        shared = mmap.mmap(file.fileno(), 1 << 20)
        private = mmap.mmap(file.fileno(), 1 << 20, access=mmap.ACCESS_COPY)
    shared[:4], private[4096:4100] = b"here", b"mine"
    yield
    assert (shared[:4], private[4096:4100], shared[4096:4100]) == (b"here", b"mine", bytes(4))
    shared[:4] = b"gone"
    with open("/tmp/mapped", "rb") as file:
        assert file.read(4) == b"gone"


def shared_memory() -> Iterator[None]:
    """memory shared between parent and child"""
    area = mmap.mmap(-1, 1 << 20)
    read, write = os.pipe()
    pid = child(lambda: os.read(read, 1) and area[7])
    area[7] = 77
    yield
    area[7] += 1
    os.write(write, b"x")
    assert ended(pid) == 78


def posix_shared_memory() -> Iterator[None]:
    """POSIX shared memory (/dev/shm)"""
    fd = os.open("/dev/shm/area", os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(fd, 1 << 20)
    area = mmap.mmap(fd, 1 << 20)
    area[:5] = b"hello"
    yield
    assert area[:5] == b"hello"
    area[:5] = b"again"
    assert os.pread(fd, 5, 0) == b"again"


def deleted_posix_shared_memory() -> Iterator[None]:
    """POSIX shared memory that is unlinked, as databases and browsers keep it"""
    fd = os.open("/dev/shm/secret", os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(fd, 1 << 20)
    area = mmap.mmap(fd, 1 << 20)
    area[:5] = b"hello"
    os.unlink("/dev/shm/secret")
    yield
    assert area[:5] == b"hello"


def memfd() -> Iterator[None]:
    """a memfd, sealed"""
    fd = os.memfd_create("box", os.MFD_ALLOW_SEALING)
    os.write(fd, b"sealed")
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    yield
    assert os.pread(fd, 6, 0) == b"sealed"
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK


def system_v_shared_memory() -> Iterator[None]:
    """System V shared memory that is attached (the pod's namespace of them)"""
    libc.shmat.restype = ctypes.c_void_p
    number = checked(libc.shmget(0, 65536, 0o1600))
    address = libc.shmat(number, None, 0)
    ctypes.memmove(address, b"hello", 5)
    yield
    assert ctypes.string_at(address, 5) == b"hello"
    checked(libc.shmctl(number, 0, None))


def system_v_semaphores() -> Iterator[None]:
    """System V semaphores and message queues (they are the pod's, and stay)"""
    number = checked(libc.semget(0, 1, 0o1600))
    checked(libc.semctl(number, 0, 16, 5))
    queue = checked(libc.msgget(0, 0o1600))
    checked(libc.msgsnd(queue, struct.pack("l5s", 1, b"hello"), 5, 0))
    yield
    assert libc.semctl(number, 0, 12) == 5
    buffer = ctypes.create_string_buffer(32)
    assert libc.msgrcv(queue, buffer, 5, 0, 0) == 5


def message_queue() -> Iterator[None]:
    """an open POSIX message queue"""
    fd = lacking(libc.mq_open(b"/queue", os.O_RDWR | os.O_CREAT, 0o600, None), "mq_open")
    checked(libc.mq_send(fd, b"hello", 5, 0))
    yield
    buffer = ctypes.create_string_buffer(8192)
    assert libc.mq_receive(fd, buffer, 8192, None) == 5
    checked(libc.mq_unlink(b"/queue"))


def full_pipes() -> Iterator[None]:
    """pipes full of data, one end already closed"""
    read, write = os.pipe2(os.O_NONBLOCK)
    sent = b""
    try:
        while True:
            sent += b"y" * os.write(write, b"y" * 4096)
    except BlockingIOError:
        os.close(write)
    yield
    got = b""
    while data := os.read(read, 65536):
        got += data
    assert got == b"y" * len(sent)


def packet_pipe() -> Iterator[None]:
    """a pipe of another size, and in packet mode (O_DIRECT)"""
    read, write = os.pipe2(os.O_DIRECT)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 18)
    os.write(write, b"one")
    os.write(write, b"two")
    yield
    assert fcntl.fcntl(read, fcntl.F_GETPIPE_SZ) == 1 << 18
    assert [os.read(read, 100), os.read(read, 100)] == [b"one", b"two"]


def named_pipe() -> Iterator[None]:
    """a named pipe with data"""
    os.mkfifo("/tmp/fifo")
    fd = os.open("/tmp/fifo", os.O_RDWR)
    os.write(fd, b"inside")
    yield
    assert os.read(fd, 100) == b"inside"


def file_locks() -> Iterator[None]:
    """file locks: flock, fcntl and open file description locks"""
    files = [open(f"/tmp/lock-{n}", "w+b") for n in range(3)]  # noqa: SIM115
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.flock(files[0], fcntl.LOCK_EX)
    fcntl.lockf(files[1], fcntl.LOCK_EX)
    fcntl.fcntl(files[2], 37, whole)  # F_OFD_SETLK
    yield

    def taken() -> int:
        free = 0
        with (
            open("/tmp/lock-0", "r+b") as one,
            open("/tmp/lock-1", "r+b") as two,
            open("/tmp/lock-2", "r+b") as three,
        ):
            for lock in (
                lambda: fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB),
                lambda: fcntl.lockf(two, fcntl.LOCK_EX | fcntl.LOCK_NB),
                lambda: fcntl.fcntl(three, 37, whole),
            ):
                try:
                    lock()
                    free += 1
                except (BlockingIOError, PermissionError):
                    continue
        return free

    assert ended(child(taken)) == 0


def lease() -> Iterator[None]:
    """a lease on a file (fcntl F_SETLEASE)"""
    fd = os.open("/tmp/leased", os.O_RDONLY | os.O_CREAT, 0o600)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    yield
    assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def descriptor_flags() -> Iterator[None]:
    """flags, duplicates and owners of descriptors"""
    fd = os.open("/tmp/flags", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600)
    twin = os.dup2(fd, 700, inheritable=True)
    read, _ = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(read, 10, signal.SIGUSR2)  # F_SETSIG
    before = fcntl.fcntl(fd, fcntl.F_GETFL)
    yield
    assert fcntl.fcntl(twin, fcntl.F_GETFL) == before
    assert (os.get_inheritable(fd), os.get_inheritable(twin)) == (False, True)
    os.write(fd, b"12345")
    assert os.lseek(twin, 0, os.SEEK_CUR) == 5, "one position for both"
    assert (fcntl.fcntl(read, fcntl.F_GETOWN), fcntl.fcntl(read, 11)) == (os.getpid(), signal.SIGUSR2)


def odd_files() -> Iterator[None]:
    """open directories, devices, and files of /proc and /sys"""
    directory = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY)
    zero, null = os.open("/dev/zero", os.O_RDWR), os.open("/dev/null", os.O_RDWR)
    random, process = os.open("/dev/urandom", os.O_RDONLY), os.open("/proc/self/status", os.O_RDONLY)
    path = os.open("/etc", getattr(os, "O_PATH", 0))
    system = os.open("/sys/kernel/mm", os.O_RDONLY)
    yield
    assert isinstance(os.listdir(directory), list)
    assert os.read(zero, 4) == bytes(4)
    assert os.write(null, b"x") == 1
    assert len(os.read(random, 8)) == 8
    assert os.pread(process, 5, 0) == b"Name:"
    assert os.fstat(path)
    assert os.listdir(system)


def mounts_from_outside() -> Iterator[None]:
    """volumes in volumes, volumes of single files, tmpfs volumes, with files open in all of them"""
    places = ["/data", "/data/a", "/data/a/b/c", "/data/tmpfs"]
    files = []
    for place in places:
        file = open(f"{place}/held", "w+b", buffering=0)  # noqa: SIM115
        file.write(place.encode())
        files.append(file)
    os.chdir("/data/a/b/c")
    with open("/proc/self/mountinfo", encoding="ascii") as file_:
        before = [line.split(" ")[3:6] for line in file_]
    yield
    for place, file in zip(places, files, strict=True):
        assert os.pread(file.fileno(), 100, 0) == place.encode()
        with open(f"{place}/held", "rb") as again:
            assert again.read() == place.encode()
    with open("/data/single", encoding="ascii") as single:
        assert single.read() == "single"
    assert os.getcwd() == "/data/a/b/c"
    with open("/proc/self/mountinfo", encoding="ascii") as file_:
        after = [line.split(" ")[3:6] for line in file_]
    assert sorted(row[1] for row in after) == sorted(row[1] for row in before)


def mounts_from_inside() -> Iterator[None]:
    """a tmpfs with files that the application has mounted itself"""
    os.makedirs("/tmp/own", exist_ok=True)
    lacking(libc.mount(b"own", b"/tmp/own", b"tmpfs", 0, b"size=1m"), "mount")
    with open("/tmp/own/file", "w", encoding="ascii") as file:
        file.write("inside")
    yield
    with open("/tmp/own/file", encoding="ascii") as file:
        assert file.read() == "inside"


def bind_from_inside() -> Iterator[None]:
    """a bind mount that the application has made itself"""
    os.makedirs("/tmp/from", exist_ok=True)
    os.makedirs("/tmp/to", exist_ok=True)
    lacking(libc.mount(b"/tmp/from", b"/tmp/to", None, 4096, None), "mount")
    with open("/tmp/from/file", "w", encoding="ascii") as file:
        file.write("inside")
    yield
    with open("/tmp/to/file", encoding="ascii") as file:
        assert file.read() == "inside"


def root_files() -> Iterator[None]:
    """files written to the container's own file system"""
    with open("/etc/written", "w", encoding="ascii") as file:
        file.write("by me")
    os.makedirs("/opt/deep/er", exist_ok=True)
    yield
    with open("/etc/written", encoding="ascii") as file:
        assert file.read() == "by me"
    assert os.path.isdir("/opt/deep/er")


def _read_only() -> bool:
    try:
        os.mkdir("/etc/nothing")
    except OSError as error:
        return error.errno == errno.EROFS
    return False


def read_only_root() -> Iterator[None]:
    """readOnlyRootFilesystem: true"""
    assert _read_only()
    yield
    assert _read_only()


def read_only_root_without_tmp() -> Iterator[None]:
    """readOnlyRootFilesystem: true, in an image without /tmp"""
    yield from read_only_root()


def event_descriptors() -> Iterator[None]:
    """eventfd, and epoll over it, a pipe and a nested epoll"""
    event = os.eventfd(5)
    read, write = os.pipe()
    inner, outer = select.epoll(), select.epoll()
    inner.register(read, select.EPOLLIN | select.EPOLLET)
    outer.register(inner.fileno(), select.EPOLLIN)
    outer.register(event, select.EPOLLIN | select.EPOLLONESHOT)
    yield
    assert dict(outer.poll(5)) == {event: select.EPOLLIN}
    assert os.eventfd_read(event) == 5
    os.write(write, b"x")
    assert dict(outer.poll(5)) == {inner.fileno(): select.EPOLLIN}
    assert dict(inner.poll(5)) == {read: select.EPOLLIN}


def signal_descriptor() -> Iterator[None]:
    """signalfd with a signal that waits"""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    mask = ctypes.create_string_buffer(struct.pack("Q", 1 << (signal.SIGUSR2 - 1)), 128)
    fd = checked(libc.signalfd(-1, mask, 0))
    os.kill(os.getpid(), signal.SIGUSR2)
    yield
    assert struct.unpack_from("I", os.read(fd, 128))[0] == signal.SIGUSR2


def timers() -> Iterator[None]:
    """timers (setitimer, timer_create, timerfd): the time that is left stands still while it sleeps"""
    signal.setitimer(signal.ITIMER_REAL, 1000, 7)
    timer = ctypes.c_void_p()
    event = struct.pack("Pii48x", 0, signal.SIGUSR2, 0)
    checked(libc.timer_create(1, event, ctypes.byref(timer)))
    checked(libc.timer_settime(timer, 0, struct.pack("qqqq", 9, 0, 2000, 0), None))
    fd = checked(libc.timerfd_create(1, 0))
    checked(libc.timerfd_settime(fd, 0, struct.pack("qqqq", 11, 0, 3000, 0), None))
    yield
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert (950 < left <= 1000, interval) == (True, 7), left
    for get, which, seconds, every in (
        (libc.timer_gettime, timer, 2000, 9),
        (libc.timerfd_gettime, fd, 3000, 11),
    ):
        buffer = ctypes.create_string_buffer(32)
        checked(get(which, buffer))
        found = struct.unpack("qqqq", buffer.raw)
        assert found[0] == every
        assert seconds - 50 < found[2] <= seconds


def timers_that_fire() -> Iterator[None]:
    """a timer that fires again and again through sleep and wake"""
    fired = threading.Event()
    signal.signal(signal.SIGALRM, lambda *_: fired.set())
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    yield
    fired.clear()
    assert fired.wait(10)


def watched_files() -> Iterator[None]:
    """inotify on the container's own file system, with nothing unread"""
    fd = checked(libc.inotify_init1(os.O_NONBLOCK))
    folder = tempfile.mkdtemp()
    checked(libc.inotify_add_watch(fd, folder.encode(), 0x100))
    yield
    with open(f"{folder}/new", "w", encoding="ascii"):
        pass
    assert b"new" in os.read(fd, 4096)


def watched_volume() -> Iterator[None]:
    """inotify on a volume (as a reader of a ConfigMap has it), with nothing unread"""
    fd = checked(libc.inotify_init1(os.O_NONBLOCK))
    folders = ("/data", "/data/tmpfs")
    for folder in folders:
        checked(libc.inotify_add_watch(fd, folder.encode(), 0x100))
    yield
    for folder in folders:
        with open(f"{folder}/new", "w", encoding="ascii"):
            pass
        assert b"new" in os.read(fd, 4096)


def unread_watch() -> Iterator[None]:
    """inotify with an event that is not read yet"""
    fd = checked(libc.inotify_init1(os.O_NONBLOCK))
    folder = tempfile.mkdtemp()
    checked(libc.inotify_add_watch(fd, folder.encode(), 0x100))
    with open(f"{folder}/new", "w", encoding="ascii"):
        pass
    yield
    assert b"new" in os.read(fd, 4096)


def fanotify() -> Iterator[None]:
    """fanotify"""
    fd = lacking(libc.fanotify_init(0x200, os.O_RDONLY), "fanotify")
    yield
    assert os.fstat(fd)


def user_fault() -> Iterator[None]:
    """userfaultfd"""
    fd = lacking(call("userfaultfd", 1), "userfaultfd")
    yield
    assert os.fstat(fd)


def io_uring() -> Iterator[None]:
    """io_uring"""
    fd = lacking(call("io_uring_setup", 8, ctypes.create_string_buffer(120)), "io_uring")
    yield
    assert os.fstat(fd)


def bpf_map() -> Iterator[None]:
    """a BPF map"""
    attributes = ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 8, 4, 0), 128)
    fd = lacking(call("bpf", 0, attributes, 128), "bpf")
    yield
    assert os.fstat(fd)


def performance_counter() -> Iterator[None]:
    """a performance counter (perf_event_open)"""
    fd = lacking(
        call("perf_event_open", struct.pack("IIQ", 1, 64, 0) + bytes(48), 0, -1, -1, 0), "perf_event_open"
    )
    yield
    assert len(os.read(fd, 8)) == 8
