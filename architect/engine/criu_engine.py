"""The CRIU engine: dumps a frozen container, restores it into its cgroup, network namespace and streams."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from architect.engine import Adapted, Decide, Subject, affinity, criu_files, plan, undumpable, watches
from architect.engine.children import Children, Ended
from architect.engine.criu import FIRST_FD, Worker, log_tail
from architect.engine.criu_messages import Notify, RequestType
from architect.engine.errors import Declined, EngineError, Refused
from architect.files import read_whole

log = logging.getLogger(__name__)

DUMP_SECONDS: Final = 120.0
RESTORE_SECONDS: Final = 120.0
# Descriptor numbers inside the CRIU process. (Its image and log directories are named by numbers of ours
# instead: CRIU opens them through /proc/<pid of the socket's other end>/fd.)
_NETNS, _STREAMS = FIRST_FD, FIRST_FD + 1


class CriuEngine:
    """Engine `criu` (see `architect.engine.Engine`), with at most one waiting worker per container."""

    def __init__(self, binary: str, children: Children) -> None:
        self._binary = binary
        self._children = children
        self._waiting: dict[str, Worker] = {}
        self._working: dict[str, Worker] = {}

    @property
    def name(self) -> str:
        """See `Engine.name`."""
        return "criu"

    def refusal(self, subject: Subject) -> str:
        """Why CRIU can not dump this container; "" when nothing known speaks against it."""
        if not os.access(self._binary, os.X_OK):
            return f"there is no CRIU at {self._binary} on this node"
        return plan.refusal(subject.spec, subject.rootfs)

    def prepare(self, subject: Subject) -> None:
        """See `Engine.prepare`: CRIU takes 10 ms to load its libraries."""
        obstacle = undumpable.stopped(subject.cgroup.pids())
        if obstacle:
            raise Refused(obstacle)
        try:
            self._waiting[subject.container_id] = self._dumper(subject)
        except EngineError:
            return  # `sleep` tries again and says what is wrong

    async def sleep(
        self, subject: Subject, pid: int, image: str, log_dir: str, decide: Decide, *, final: bool = False
    ) -> None:
        """See `Engine.sleep`. The dumped processes die by CRIU's hand, their sockets in repair mode: no FIN,
        no RST.
        """
        pids = subject.cgroup.pids()
        obstacle = undumpable.halted(pids) or undumpable.held(pids)
        if obstacle:
            raise Refused(obstacle)
        if not final:
            _raise_if_unread(pids)
        table = plan.mount_table(Path(f"/proc/{pid}/mountinfo").read_text())
        external = plan.external_mounts(subject.spec, table, subject.cgroup)
        extra = {
            "external": external,
            "streams": _stream_names(pid),
            "processors": affinity.bound(subject.cgroup),
        }
        declined = False

        async def answer(notify: Notify) -> bool:
            nonlocal declined
            if notify.script != "post-dump":
                return True
            if not final and watches.unread(pids):
                declined = True
            else:
                _rearm(image)
                declined = not await decide(extra)
            return not declined

        with ExitStack() as stack:
            options = plan.dump_options(
                pid=pid,
                root=subject.rootfs,
                netns_inode=os.stat(f"/proc/{pid}/ns/net").st_ino,
                freezer=subject.cgroup.freezer,
                external=external,
                watched=watches.places(pids),
                image_fd=_directory(image, stack),
                log_fd=_directory(log_dir, stack),
                final=final,
            )
            worker = self._waiting.pop(subject.container_id, None)  # not before all else is known to be there
            if worker is None or worker.end.done():
                worker = self._dumper(subject)
            with self._at_work(subject, worker):
                response = await worker.request(RequestType.DUMP, options, DUMP_SECONDS, answer)
        if declined:
            raise Declined("the container was needed while it was being put to sleep")
        if not response.success:
            raise _failure("dump", response.errmsg, Path(log_dir, "dump.log"))

    async def ready(self, subject: Subject) -> None:
        """See `Engine.ready`: starts the worker that will restore, already inside the container's cgroup."""
        try:
            self._waiting[subject.container_id] = self._restorer(subject)
        except (EngineError, OSError):
            return  # the wake starts one itself, some milliseconds slower, and reports what is wrong then

    def adapt(
        self, subject: Subject, pid: int, image: str, extra: Mapping[str, Any], addresses: Collection[str]
    ) -> Adapted:
        """See `Engine.adapt`: mounts come from elsewhere, sockets are bound to other addresses."""
        table = plan.mount_table(Path(f"/proc/{pid}/mountinfo").read_text())
        now = plan.external_mounts(subject.spec, table, subject.cgroup)
        external = plan.moved_mounts(extra["external"], now)
        data = read_whole(f"{image}/{criu_files.FILES}", criu_files.MAX_BYTES)
        try:
            made_anew = criu_files.remapped(read_whole(f"{image}/{criu_files.REMAPS}", criu_files.MAX_BYTES))
        except FileNotFoundError:
            made_anew = set()
        for file in criu_files.open_files(data):
            if file.number not in made_anew:
                _raise_if_lost(file, external)
        moved = criu_files.readdressed(data, addresses)
        files = {criu_files.FILES: moved} if moved != data else {}
        return Adapted({**extra, "external": external, "closed": True}, files)

    async def forget(self, container_id: str) -> None:
        """See `Engine.forget`."""
        worker = self._waiting.pop(container_id, None)
        if worker is not None:
            await worker.stop()

    def cut_short(self, container_id: str) -> None:
        """See `Engine.cut_short`."""
        worker = self._working.get(container_id)
        if worker is not None:
            worker.kill()

    @contextmanager
    def _at_work(self, subject: Subject, worker: Worker) -> Iterator[None]:
        self._working[subject.container_id] = worker
        try:
            yield
        finally:
            del self._working[subject.container_id]

    def _dumper(self, subject: Subject) -> Worker:
        return Worker.spawn(self._binary, self._children, {}, lambda: _enter_ipc(subject.spec))

    def _restorer(self, subject: Subject) -> Worker:
        def prepare() -> None:
            _enter_ipc(subject.spec)
            subject.cgroup.enter()
            if subject.cgroup.unified:
                # The restored processes inherit CRIU's cgroup namespace; on v2 runc gave them one rooted
                # here.
                os.unshare(os.CLONE_NEWCGROUP)

        netns = os.open(subject.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fds = {_NETNS: netns} | {_STREAMS + number: fd for number, fd in subject.streams.items()}
            return Worker.spawn(self._binary, self._children, fds, prepare)
        finally:
            os.close(netns)

    async def wake(
        self,
        subject: Subject,
        image: str,
        log_dir: str,
        extra: Mapping[str, Any],
        sound: Callable[[], Awaitable[bool]],
    ) -> tuple[int, asyncio.Future[Ended]]:
        """See `Engine.wake`."""
        streams = {name: int(number) for number, name in extra["streams"].items()}
        with ExitStack() as stack:
            options = plan.restore_options(
                root=subject.rootfs,
                spaces=plan.namespace_paths(subject.spec),
                external=extra["external"],
                image_fd=_directory(image, stack),
                log_fd=_directory(log_dir, stack),
                netns_fd=_NETNS,
                pipes={
                    name: _STREAMS + number for name, number in streams.items() if number in subject.streams
                },
                closed=bool(extra.get("closed")),
            )
            worker = self._waiting.pop(subject.container_id, None)
            if worker is None or worker.end.done():
                worker = self._restorer(subject)
            judged = asyncio.ensure_future(sound())
            # At once, not when CRIU asks: pages that end too early keep CRIU 4.2 reading for ever.
            judged.add_done_callback(lambda done: None if _good(done) else worker.kill())

            async def answer(notify: Notify) -> bool:
                return notify.script != "post-restore" or await judged

            with self._at_work(subject, worker):
                response = await worker.request(RequestType.RESTORE, options, RESTORE_SECONDS, answer)
        if not response.success or response.restore is None:
            raise _failure("restore", response.errmsg, Path(log_dir, "restore.log"))
        for refused in affinity.bind(subject.cgroup, extra["processors"]):
            log.warning("container %s: %s", subject.container_id, refused)
        return response.restore.pid, self._children.ended(response.restore.pid)


def _raise_if_lost(file: criu_files.OpenFile, external: Mapping[str, str]) -> None:
    """Raises Refused for an open file on a volume (or in /dev/shm) that is not there any more as it was."""
    above = [point for point in external if file.path == point or file.path.startswith(f"{point}/")]
    if not above or external[max(above, key=len)] == plan.MASK:
        return
    point = max(above, key=len)
    try:
        found = os.stat(external[point] + file.path[len(point) :], follow_symlinks=False)
    except OSError as error:
        raise Refused(f"it has {file.path} open, which is lost: {error.strerror}") from error
    if stat.S_ISREG(found.st_mode) and file.size is not None and file.size != found.st_size:
        raise Refused(
            f"it has {file.path} open, which had {file.size} bytes then and has {found.st_size} now"
        )


def _rearm(image: str) -> None:
    """Has the image's timers go on; before it is sealed, for then no byte of it changes any more. Raises
    EngineError.
    """
    path = f"{image}/{criu_files.FILES}"
    try:
        data = read_whole(path, criu_files.MAX_BYTES)
        rearmed = criu_files.rearmed(data)
        if rearmed != data:
            Path(path).write_bytes(rearmed)  # in its place: whoever sends it along sees no other file
    except OSError as error:
        raise EngineError(f"the timers in its image could not be set right: {error}") from error


def _raise_if_unread(pids: list[int]) -> None:
    unread = watches.unread(pids)
    if unread:
        raise Declined(unread)


def _enter_ipc(spec: Mapping[str, Any]) -> None:
    """Enters the IPC namespace of the container's pod, if that is whose it is.

    CRIU dumps an IPC namespace that is not its own and makes everything in it anew. The pod's lives on, with
    what other containers have in it; CRIU 4.2 would fail to restore over it, and the memory would be lost.
    """
    path = plan.namespace_paths(spec).get("ipc")
    if path:
        namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.setns(namespace, os.CLONE_NEWIPC)
        finally:
            os.close(namespace)


def _good(done: asyncio.Future[bool]) -> bool:
    return not done.cancelled() and done.exception() is None and done.result()


def _directory(path: str, stack: ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _stream_names(pid: int) -> dict[str, str]:
    """What stands behind descriptors 0-2 of `pid`, where it is a pipe: number to "pipe:[inode]"."""
    names: dict[str, str] = {}
    for number in range(3):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue  # the application closed it
        if target.startswith("pipe:["):
            names[str(number)] = target
    return names


def _failure(operation: str, message: str, log: Path) -> EngineError:
    evidence = log_tail(log)
    # The first error is the cause, the later ones are what came of it.
    reason = next((line for line in evidence.splitlines() if "Error" in line), "") or message.strip()
    return EngineError(
        f"CRIU could not {operation} it: {reason or 'no reason given'} (log: {log})", evidence=evidence
    )
