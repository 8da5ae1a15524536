"""One container for containerd: its processes, and its life under runc.

Whether it sleeps is the business of `sleeper.py`; a container that is not managed has no sleeper and is plain
runc.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from architect.engine.cgroup import Cgroup
from architect.engine.children import Children, Ended
from architect.engine.errors import EngineError
from architect.engine.runc import Runc, locate
from architect.files import make_private_dirs
from architect.hooks import PRE_STOP
from architect.probes import EXEC_PROBE
from architect.states import Phase
from architect.ttrpc import containerd
from architect.ttrpc.server import Code, RpcError
from architect.untrusted import Unreadable, Value
from shim import mounts, oom
from shim.bundle import RUNC_ROOT, Bundle
from shim.export import Import
from shim.health import Health
from shim.logger import Owner
from shim.offline import remember_deleted, remember_runtime
from shim.process import Process, Status
from shim.streams import Streams, Uris, read_to_end

if TYPE_CHECKING:
    from shim.probes import Doors
    from shim.traveller import Traveller

Publish = Callable[[Any], None]
_CONSOLE_SECONDS: Final = 10.0
_FLUSH_SECONDS: Final = 12.0
_PROBE_SECONDS: Final = 5.0
_HOOK_SECONDS: Final = 10.0
"""In which kubelet, done with a preStop hook, has told the container to end."""
_RESTING: Final = (Phase.HIBERNATING, Phase.SCALED_DOWN, Phase.WAKING, Phase.LEAVING)

log = logging.getLogger(__name__)


class Container:
    """A container and its processes. `lock` is held by what changes its state; questions do not take it."""

    def __init__(
        self,
        bundle: Bundle,
        options: containerd.Options,
        namespace: str,
        children: Children,
        publish: Publish,
    ) -> None:
        self.bundle = bundle
        self.options = options
        self._namespace = namespace
        self.children = children
        self.publish = publish
        self.lock = asyncio.Lock()
        self.execs: dict[str, Process] = {}
        self.init = Process("", Streams(Uris("", "", "", False)))
        self.cgroup: Cgroup | None = None
        self._oom: asyncio.Task[None] | None = None
        self.sleeper: Traveller | None = None
        self.doors: Doors | None = None
        self.health = Health(lambda: None)
        self.init_end: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.known_as: set[int] = set()
        """The pids of its init that containerd was told of."""
        self.guests: list[Container] = []
        """Containers that have joined its process namespace."""
        self._prepared_until = 0.0
        self.paused = False
        self.mounted = False
        self.rootfs: list[containerd.Mount] = []
        """The mounts of its root file system, if they were left to us."""
        self._origin: Import | None = None
        self.runc = Runc(
            children=children,
            binary=locate(options.binary_name),
            root=os.path.join(options.root or RUNC_ROOT, namespace),
            bundle=bundle.path,
            container_id=bundle.container_id,
            systemd_cgroup=options.systemd_cgroup,
        )

    @property
    def id(self) -> str:
        """Containerd's id of the container."""
        return self.bundle.container_id

    def process(self, exec_id: str) -> Process:
        """The process `exec_id` ("" for the init). Raises RpcError(NOT_FOUND)."""
        found = self.execs.get(exec_id) if exec_id else self.init
        if found is None:
            raise RpcError(Code.NOT_FOUND, f"process {exec_id} of container {self.id} not found")
        return found

    def visits(self) -> int:
        """How many execs run in it, and guests; probes are none."""
        ours = (process for process in self.execs.values() if not (process.probe or process.asking))
        execs = sum(process.running() for process in ours)
        return execs + sum(guest.init.ended is None for guest in self.guests)

    async def create(self, uris: Uris, rootfs: list[containerd.Mount], origin: Import | None = None) -> None:
        """Mounts the root file system and has runc create the container; that from a checkpoint (`origin`) is
        made only by its start. Undoes all of it on failure.
        """
        self.rootfs = rootfs
        if rootfs:
            os.makedirs(self.bundle.rootfs, mode=0o711, exist_ok=True)
            mounts.mount_all(rootfs, self.bundle.rootfs)
            self.mounted = True
        try:
            remember_runtime(self.bundle.path, self.runc.binary, self.runc.root)
            self.init.streams = await Streams.open(uris, self._owner(self.id))
            if origin is not None:
                self._origin = origin
                return
            self.init.pid = await self._runc_create()
            self.known_as.add(self.init.pid)
            self.init.streams.start()
            self._in_cgroup(Cgroup.of(self.init.pid))
        except (EngineError, OSError) as error:
            await self._undo_create()
            raise RpcError(Code.UNKNOWN, f"container {self.id} cannot be created: {error}") from error
        except BaseException:
            await asyncio.shield(self._undo_create())
            raise
        self.watch_init(self.children.ended(self.init.pid))

    def _owner(self, process_id: str) -> Owner:
        """Whose a process's streams are."""
        options = self.options
        return Owner(process_id, self._namespace, options.io_uid, options.io_gid, self.children)

    async def _undo_create(self) -> None:
        self.init.streams.close()
        try:
            await self.runc.delete(force=True)
        except EngineError as error:
            log.info("nothing of %s was left to delete: %s", self.id, error)
        if self.mounted:
            mounts.unmount(self.bundle.rootfs)

    async def _runc_create(self) -> int:
        pid_file = f"{self.bundle.path}/init.pid"
        flags = ["--no-pivot"] if self.options.no_pivot_root else []
        flags += ["--no-new-keyring"] if self.options.no_new_keyring else []
        if not self.init.streams.uris.terminal:
            return await self.runc.create(self.init.streams.process_ends(), pid_file, flags)
        async with Console(f"{self.bundle.path}/console.sock") as console:
            pid = await self.runc.create({}, pid_file, [*flags, "--console-socket", console.path])
            await self.init.streams.attach_terminal(await console.master())
        return pid

    async def _restore(self, origin: Import) -> None:
        """Starts the container as the checkpoint `origin` has it."""
        make_private_dirs(origin.work)
        flags = ["--no-pivot"] if self.options.no_pivot_root else []
        flags += ["--parent-path", origin.parent] if origin.parent else []
        pid_file = f"{self.bundle.path}/init.pid"
        streams = self.init.streams
        if streams.uris.terminal:
            async with Console(f"{self.bundle.path}/console.sock") as console:
                flags += ["--console-socket", console.path]
                self.init.pid = await self.runc.restore(origin.image, origin.work, {}, pid_file, flags)
                await streams.attach_terminal(await console.master())
        else:
            ends = streams.process_ends()
            self.init.pid = await self.runc.restore(origin.image, origin.work, ends, pid_file, flags)
            streams.start()
        self._origin = None
        self._in_cgroup(Cgroup.of(self.init.pid))
        self.watch_init(self.children.ended(self.init.pid))

    def _in_cgroup(self, cgroup: Cgroup) -> None:
        """Notes the cgroup that runc has made, and follows what the kernel kills in it."""
        self.cgroup = cgroup
        if self._oom is not None:
            self._oom.cancel()
        self._oom = oom.watch(cgroup, lambda: self.publish(containerd.TaskOOM(container_id=self.id)))

    async def recreate(self) -> None:
        """Makes the container anew from its bundle and starts it, for the same task: memory lost, all else
        kept.
        """
        await self.runc.delete(force=True)
        self.init.pid = await self._runc_create()
        self._in_cgroup(Cgroup.of(self.init.pid))
        await self.runc.start()

    def end_created(self) -> None:
        """Ends the process that runc has made to become the init, and that has run nothing yet."""
        try:
            os.kill(self.init.pid, signal.SIGKILL)
        except ProcessLookupError:
            log.info("the process that runc made for %s is gone already", self.id)

    async def start(self) -> None:
        """Starts the created init; containerd hears of the start before it hears of the end."""
        if self.init.status is not Status.CREATED or self.init.starting:
            raise RpcError(Code.FAILED_PRECONDITION, f"container {self.id} is not in state created")
        self.init.starting = True
        try:
            if self._origin is not None:
                await self._restore(self._origin)
            elif self.sleeper is None or not await self.sleeper.begin():
                await self.runc.start()
            self.init.status = Status.RUNNING
            self.publish(containerd.TaskStart(container_id=self.id, pid=self.init.pid))
            if self.sleeper is not None:
                self.sleeper.started()
        finally:
            self.init.starting = False
            if self.init_end.done():
                self._init_ended(self.init_end)

    def watch_init(self, end: asyncio.Future[Ended]) -> None:
        """Follows the end of the init's present incarnation; a late end of an earlier one is nobody's."""
        self.init_end = end
        end.add_done_callback(self._init_ended)

    def _init_ended(self, end: asyncio.Future[Ended]) -> None:
        if end is not self.init_end or end.cancelled() or self.init.starting:
            return
        if self.sleeper is not None and self.sleeper.take_end(end.result()):
            return
        self.finish_init(end.result())

    def finish_init(self, ended: Ended) -> None:
        """The container has ended for good: tells waiters and containerd."""
        if self.init.ended is not None:
            return
        self.init.end(ended)
        for process in self.execs.values():
            if process.ended is None and process.status is Status.RUNNING and self._own_pids():
                process.end(Ended(128 + signal.SIGKILL, ended.at_ns))
                self._publish_exit(process)
        self._publish_exit(self.init)
        if self.sleeper is not None:
            self.sleeper.stopped()

    def _own_pids(self) -> bool:
        """Whether the kernel kills every process here with the init (it has a pid namespace of its own)."""
        from architect.engine.plan import namespace_paths

        return namespace_paths(self.bundle.spec).get("pid") == ""

    def _publish_exit(self, process: Process) -> None:
        assert process.ended is not None
        self.publish(
            containerd.TaskExit(
                container_id=self.id,
                id=process.exec_id or self.id,
                pid=process.pid,
                exit_status=process.ended.code,
                exited_at=containerd.timestamp(process.ended.at_ns),
            ),
        )

    async def add_exec(self, exec_id: str, uris: Uris, spec: bytes) -> None:
        """Registers an exec; nothing runs yet."""
        if exec_id in self.execs:
            raise RpcError(Code.ALREADY_EXISTS, f"exec {exec_id} of container {self.id} already exists")
        try:
            document = {**Value(json.loads(spec)).mapping(), "terminal": uris.terminal}
        except (Unreadable, ValueError, RecursionError) as error:
            raise RpcError(
                Code.INVALID_ARGUMENT, f"the process of exec {exec_id} cannot be read: {error}"
            ) from error
        arguments: Any = document.get("args")
        first = arguments[0] if isinstance(arguments, list) and arguments else None
        probe, hook = first == EXEC_PROBE, first == PRE_STOP
        if probe or hook:
            document["args"] = arguments[1:]
        streams = Streams(uris, self._owner(exec_id))
        spec = json.dumps(document).encode()
        self.execs[exec_id] = Process(exec_id, streams, spec, probe=probe, hook=hook)

    async def start_exec(self, process: Process) -> None:
        """Has runc start a registered exec and follows it."""
        pid_file = f"{self.bundle.path}/exec-{process.exec_id}.pid"
        try:
            if process.streams.uris.terminal:
                async with Console(f"{self.bundle.path}/console-{process.exec_id}.sock") as console:
                    flags = ["--tty", "--console-socket", console.path]
                    process.pid = await self.runc.exec({}, process.spec, pid_file, flags)
                    await process.streams.attach_terminal(await console.master())
            else:
                uris, owner = process.streams.uris, process.streams.owner
                process.streams = await Streams.open(uris, owner)
                process.pid = await self.runc.exec(process.streams.process_ends(), process.spec, pid_file)
                process.streams.start()
        except (EngineError, OSError, RpcError, asyncio.CancelledError):
            process.streams.close()
            if process.pid:  # it runs, on a terminal that nobody holds
                os.kill(process.pid, signal.SIGKILL)
                process.pid = 0
            raise
        process.status = Status.RUNNING

    def watch_exec(self, process: Process) -> None:
        """Follows the end of a started exec."""
        end = self.children.ended(process.pid)
        end.add_done_callback(lambda done: self._exec_ended(process, done))

    def _exec_ended(self, process: Process, end: asyncio.Future[Ended]) -> None:
        if end.cancelled() or process.ended is not None:
            return
        process.end(end.result())
        self._publish_exit(process)
        self.hook_over(process)
        if process.probe:
            self._noted(process, end.result().code)
        elif self.sleeper is not None:
            self.sleeper.exec_ended()

    # ---- probes

    def resting(self) -> bool:
        """Whether it sleeps, falls asleep or wakes: its processes can be asked nothing now."""
        return self.sleeper is not None and self.sleeper.phase in _RESTING

    async def probes_over(self) -> str:
        """Waits until no probe is in a container that falls asleep: one that is would be dumped.

        Returns why it has to stay awake, as a sentence; "" when nothing speaks against sleep.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PROBE_SECONDS
        for process in [process for process in self.execs.values() if process.probe and process.running()]:
            try:
                async with asyncio.timeout_at(deadline):
                    await process.left.wait()
            except TimeoutError:
                return "an exec probe is running in it"
        if self.doors is not None and not await self.doors.quiet(self, max(0.0, deadline - loop.time())):
            return "a probe or a scraper waits for its answer"
        return self.health.complaint

    async def answer(self, process: Process) -> None:
        """An exec that is not run, a probe of who sleeps or a hook of who moves: as if it had, in this
        process, and found all well.

        It gets its pid with its end, in one step: who kills an exec that takes too long must not kill a shim.
        """
        process.starting = True
        try:
            await read_to_end(process.streams.uris)
        finally:
            process.starting = False
        process.pid = os.getpid()
        self.publish(
            containerd.TaskExecStarted(container_id=self.id, exec_id=process.exec_id, pid=process.pid)
        )
        process.end(Ended(0, time.time_ns()))
        self._publish_exit(process)

    # ---- its preStop hook

    def preparing(self) -> None:
        """Its preStop hook is to run: it ends, and does not move."""
        self._prepared_until = math.inf

    def hook_over(self, process: Process) -> None:
        """A process has ended, which may have been its hook."""
        if process.hook and self.prepared():
            self._prepared_until = time.monotonic() + _HOOK_SECONDS

    def prepared(self) -> bool:
        """Whether its preStop hook runs, or has just run: it is about to end, and what was said then holds.

        Not for ever: the one who says so may have been wrong.
        """
        return time.monotonic() < self._prepared_until

    def _noted(self, process: Process, code: int) -> None:
        command = json.dumps(json.loads(process.spec)["args"])[:200]
        self.health.noted(f"exec {command}", f"its last exec probe ended with status {code}" if code else "")

    def kill(self, process: Process, number: int, *, everyone: bool) -> None:
        """Signals a process, or every process of the container. Raises RpcError, NOT_FOUND once it
        ended.
        """
        if process.pid == 0 and process.ended is None:
            raise RpcError(
                Code.FAILED_PRECONDITION, f"process {process.exec_id} of {self.id} has not been started"
            )
        if process.ended is not None:
            raise RpcError(
                Code.NOT_FOUND, f"process {process.exec_id or 'init'} of {self.id}: process already finished"
            )
        pids = self.cgroup.pids() if everyone and self.cgroup is not None else [process.pid]
        for pid in pids or [process.pid]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    async def delete(self) -> None:
        """Removes the ended container: runc's state, the cgroup, the mount."""
        if self.init.ended is None and self.init.status is not Status.CREATED:
            raise RpcError(Code.FAILED_PRECONDITION, f"container {self.id} still runs")
        if self.init.finishing is not None:
            await asyncio.wait({self.init.finishing}, timeout=_FLUSH_SECONDS)
        if self.sleeper is not None:
            await self.sleeper.remove()
        if self._oom is not None:
            self._oom.cancel()
        await self._delete_in_runc()
        self.init.streams.close()
        if self.mounted:
            mounts.unmount(self.bundle.rootfs)
            self.mounted = False
        try:
            remember_deleted(self.bundle.path)
        except OSError as error:
            log.info("%s will be deleted once more: %s", self.id, error)

    async def _delete_in_runc(self) -> None:
        """Without force if nothing runs any more: from 1.2 on, runc begins with 100 ms of sleep otherwise."""
        if self.cgroup is not None and not self.cgroup.pids():
            try:
                await self.runc.delete(force=False)
            except EngineError as error:
                log.info("deleting %s by force: %s", self.id, error)
            else:
                return
        await self.runc.delete(force=True)

    async def delete_exec(self, process: Process) -> None:
        """Forgets an ended exec."""
        if process.ended is None and process.running():
            raise RpcError(Code.FAILED_PRECONDITION, f"exec {process.exec_id} of {self.id} still runs")
        if process.finishing is not None:
            await asyncio.wait({process.finishing}, timeout=_FLUSH_SECONDS)
        process.streams.close()
        Path(f"{self.bundle.path}/exec-{process.exec_id}.pid").unlink(missing_ok=True)
        self.execs.pop(process.exec_id, None)  # who asked twice at once finds it gone


class Console:
    """The unix socket on which runc hands over a new terminal's master (`--console-socket`)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    async def __aenter__(self) -> Self:
        Path(self.path).unlink(missing_ok=True)
        self._listener.bind(self.path)
        os.chmod(self.path, 0o600)
        self._listener.listen(1)
        self._listener.setblocking(False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        Path(self.path).unlink(missing_ok=True)

    async def master(self) -> int:
        """The terminal's master. Raises EngineError when runc sends none in time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONSOLE_SECONDS):
                connection, _ = await loop.sock_accept(self._listener)
        except TimeoutError:
            raise EngineError("runc sent no terminal") from None
        with connection:
            connection.setblocking(True)
            connection.settimeout(_CONSOLE_SECONDS)
            _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        if not fds:
            raise EngineError("runc sent no terminal")
        return fds[0]
