"""containerd's Task service (v2 and v3 share their messages): every call, for containers awake and asleep.

Questions are answered from memory at once, also while a dump or restore runs. What needs a live process wakes
the container first. Update is kept until the wake, SIGKILL ends a sleeper without waking it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from architect.engine.errors import EngineError
from architect.states import Answer, Operation, Phase
from architect.ttrpc import containerd
from architect.ttrpc.containerd import Empty
from architect.ttrpc.frames import MAX_PAYLOAD
from architect.ttrpc.server import Code, Method, RpcError
from architect.untrusted import Unreadable, parse
from shim import stats
from shim.bundle import Bundle, runtime_options, safe_id
from shim.container import Container
from shim.export import Import, absolute, checkpoint_options, export
from shim.guests import host_of, lead
from shim.process import Process, Status
from shim.room import wait_for_room
from shim.streams import Uris

if TYPE_CHECKING:
    from shim.pod import Pod

SERVICES: Final = (containerd.TASK_V2, containerd.TASK_V3)


_ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGRTMIN + 3)
"""What images name as the signal that is to end them."""


class TaskService:
    """The Task calls, over the containers of one pod."""

    def __init__(self, pod: Pod, shutdown: Callable[[], None]) -> None:
        self._pod = pod
        self._shutdown = shutdown

    def methods(self) -> dict[str, Method[Any, Any]]:
        """The service's methods, for the ttrpc server: the method `CloseIO` is our `close_io`."""
        handlers = {name.lower(): getattr(self, name) for name in dir(self) if not name.startswith("_")}
        named = {key.replace("_", ""): handler for key, handler in handlers.items()}
        return {
            name: Method(request, named[name.lower()], waits=name == "Wait")
            for name, (request, _) in containerd.TASK_METHODS.items()
        }

    async def create(self, request: containerd.CreateTaskRequest) -> containerd.CreateTaskResponse:
        """Makes a container; nothing of it runs yet. With a checkpoint, all of it is done by Start."""
        bundle = Bundle.load(safe_id(request.id), request.bundle)
        options = runtime_options(request.options)
        origin = None
        if request.checkpoint:
            work = absolute(options.criu_work_path or os.path.join(request.bundle, "work"))
            parent = request.parent_checkpoint and absolute(request.parent_checkpoint)
            origin = Import(absolute(request.checkpoint), parent, work)
        container = self._pod.add(bundle, options)
        try:
            uris = Uris(request.stdin, request.stdout, request.stderr, request.terminal)
            await self._lead(container)
            await container.create(uris, request.rootfs, origin)
        except BaseException:
            self._pod.remove(container.id)
            raise
        self._pod.publish(
            containerd.TaskCreate(
                container_id=container.id,
                bundle=request.bundle,
                rootfs=request.rootfs,
                io=containerd.TaskIO(
                    stdin=request.stdin,
                    stdout=request.stdout,
                    stderr=request.stderr,
                    terminal=request.terminal,
                ),
                checkpoint=request.checkpoint,
                pid=container.init.pid,
            ),
        )
        return containerd.CreateTaskResponse(pid=container.init.pid)

    async def _lead(self, container: Container) -> None:
        """A container that joins the processes of another one gets there, awake and as it is called now."""
        host = host_of(container.bundle, self._pod.containers.values())
        if host is None:
            return
        host.guests.append(container)  # from here on it does not fall asleep
        await _clear(host, Operation.EXEC)
        try:
            lead(container.bundle, host.init.pid)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RpcError(
                Code.UNKNOWN, f"container {container.id} cannot join {host.id}: {error}"
            ) from error

    async def start(self, request: containerd.StartRequest) -> containerd.StartResponse:
        """Starts a created container or exec; its exit event can not overtake its start event."""
        container = self._pod.get(request.id)
        if request.exec_id:
            return await self._start_exec(container, container.process(request.exec_id))
        try:
            await container.start()
        except EngineError as error:
            raise _rpc(error) from error
        self._pod.changed(container.id)
        return containerd.StartResponse(pid=container.init.pid)

    async def _start_exec(self, container: Container, process: Process) -> containerd.StartResponse:
        if process.status is not Status.CREATED or process.starting:
            raise RpcError(Code.FAILED_PRECONDITION, f"exec {process.exec_id} of {container.id} was started")
        if process.probe and container.resting():
            await container.answer(process)
            return containerd.StartResponse(pid=process.pid)
        if process.hook and await self._left_out(container, process):
            return containerd.StartResponse(pid=process.pid)
        process.starting = True  # from here on the container does not fall asleep
        try:
            await _clear(container, Operation.EXEC)
            await container.start_exec(process)
        except (EngineError, OSError) as error:
            raise _rpc(error) from error
        finally:
            process.starting = False
            if process.status is Status.CREATED:
                process.left.set()
                container.hook_over(process)
        self._pod.publish(
            containerd.TaskExecStarted(container_id=container.id, exec_id=process.exec_id, pid=process.pid),
        )
        container.watch_exec(process)
        if not process.probe:
            self._pod.changed(container.id)
        return containerd.StartResponse(pid=process.pid)

    async def _left_out(self, container: Container, process: Process) -> bool:
        """Whether a preStop hook is not to run: its container goes on elsewhere, or has not begun.

        It is asked once: what is said now holds when kubelet, right after the hook, tells it to end.
        """
        process.starting = process.asking = True
        try:
            if await self._pod.leaves(container, signal.SIGTERM, hook=True):
                await container.answer(process)
                return True
        finally:
            process.starting = False
        process.asking = False
        if container.sleeper is None or not container.sleeper.stays:
            container.preparing()  # whoever says by hand that this is a hook does not end the container
        return False

    async def delete(self, request: containerd.DeleteRequest) -> containerd.DeleteResponse:
        """Removes an ended container or exec and answers how it ended."""
        container = self._pod.get(request.id)
        process = container.process(request.exec_id)
        if request.exec_id:
            await container.delete_exec(process)
        else:
            try:
                await container.delete()
            except EngineError as error:
                raise _rpc(error) from error
            self._pod.remove(container.id)
        response = containerd.DeleteResponse(pid=process.pid)
        if process.ended is not None:
            response.exit_status = process.ended.code
            response.exited_at = containerd.timestamp(process.ended.at_ns)
        if not request.exec_id:
            self._pod.publish(
                containerd.TaskDelete(
                    container_id=container.id,
                    pid=process.pid,
                    exit_status=response.exit_status,
                    exited_at=response.exited_at,
                ),
            )
        return response

    async def exec(self, request: containerd.ExecProcessRequest) -> Empty:
        """Registers another process for a container; Start runs it."""
        container = self._pod.get(request.id)
        if container.init.ended is not None:
            raise RpcError(Code.FAILED_PRECONDITION, f"container {container.id} has ended")
        if container.paused:
            raise RpcError(Code.FAILED_PRECONDITION, f"container {container.id} is paused: resume it first")
        uris = Uris(request.stdin, request.stdout, request.stderr, request.terminal)
        spec = request.spec.value if request.spec is not None else b""
        await container.add_exec(safe_id(request.exec_id), uris, spec)
        self._pod.publish(
            containerd.TaskExecAdded(container_id=container.id, exec_id=request.exec_id),
        )
        return Empty()

    async def state(self, request: containerd.StateRequest) -> containerd.StateResponse:
        """What a process is: a sleeper runs, as far as anybody can tell."""
        container = self._pod.get(request.id)
        process = container.process(request.exec_id)
        status = process.status
        if not request.exec_id and container.paused and status is Status.RUNNING:
            status = Status.PAUSED
        uris = process.streams.uris
        if not request.exec_id:
            container.known_as.add(process.pid)
        response = containerd.StateResponse(
            id=request.exec_id or container.id,  # as containerd's shim answers; it leaves exec_id empty
            bundle=container.bundle.path,
            pid=process.pid,
            status=int(status),
            stdin=uris.stdin,
            stdout=uris.stdout,
            stderr=uris.stderr,
            terminal=uris.terminal,
        )
        if process.ended is not None:
            response.exit_status = process.ended.code
            response.exited_at = containerd.timestamp(process.ended.at_ns)
        return response

    async def pids(self, request: containerd.PidsRequest) -> containerd.PidsResponse:
        """The container's processes; asleep, the one it had (containerd deletes a task that has none). None
        once it has ended.
        """
        container = self._pod.get(request.id)
        asleep = container.sleeper is not None and container.sleeper.phase is not Phase.RUNNING
        found = [] if asleep or container.cgroup is None else container.cgroup.pids()
        by_pid = {process.pid: process.exec_id for process in container.execs.values() if process.pid}
        infos = []
        if not found and container.init.ended is None:
            found = [container.init.pid]
        for pid in found:
            info = containerd.ProcessInfo(pid=pid)
            if pid in by_pid:
                info.info = containerd.pack(containerd.ProcessDetails(exec_id=by_pid[pid]))
            infos.append(info)
        return containerd.PidsResponse(processes=infos)

    async def pause(self, request: containerd.PauseRequest) -> Empty:
        """Freezes a container; a sleeper is woken first, so that Resume has something to resume."""
        container = self._pod.get(request.id)
        await _clear(container, Operation.PAUSE)
        async with container.lock:
            await _asking_runc(container.runc.pause())
            container.paused = True
        self._pod.publish(containerd.TaskPaused(container_id=container.id))
        return Empty()

    async def resume(self, request: containerd.ResumeRequest) -> Empty:
        """Thaws a paused container."""
        container = self._pod.get(request.id)
        async with container.lock:
            await _asking_runc(container.runc.resume())
            container.paused = False
        self._pod.publish(containerd.TaskResumed(container_id=container.id))
        return Empty()

    async def kill(self, request: containerd.KillRequest) -> Empty:
        """Signals a process. A sleeper is killed as it sleeps (or falls asleep, or wakes), and woken for any
        other signal: it may handle it.
        """
        if request.signal >= signal.NSIG:
            raise RpcError(Code.INVALID_ARGUMENT, f"there is no signal {request.signal}")
        container = self._pod.get(request.id)
        process = container.process(request.exec_id)
        if not request.exec_id and container.init.ended is None:
            if request.signal in _ENDING and await self._pod.leaves(container, request.signal):
                return Empty()
            if request.signal != signal.SIGKILL:
                await _clear(container, Operation.SIGNAL)
            elif container.sleeper is not None and await container.sleeper.kill():
                return Empty()
        container.kill(process, request.signal, everyone=request.all)
        if container.paused and request.signal == signal.SIGKILL and container.cgroup is not None:
            container.cgroup.thaw()  # cgroup v1 holds even the killed until they are thawed
            container.paused = False
        return Empty()

    async def resize_pty(self, request: containerd.ResizePtyRequest) -> Empty:
        """Sets a terminal's size; of a process without one there is nothing to set."""
        process = self._pod.get(request.id).process(request.exec_id)
        if process.streams.terminal is None:
            return Empty()
        import termios  # only interactive sessions come here

        size = (min(request.height, 0xFFFF), min(request.width, 0xFFFF))
        termios.tcsetwinsize(process.streams.terminal, size)
        return Empty()

    async def close_io(self, request: containerd.CloseIORequest) -> Empty:
        """Ends a process's input."""
        process = self._pod.get(request.id).process(request.exec_id)
        if request.stdin:
            await process.streams.close_stdin()
        return Empty()

    async def update(self, request: containerd.UpdateTaskRequest) -> Empty:
        """Changes limits; those of a sleeper are applied when it wakes."""
        container = self._pod.get(request.id)
        resources = _limits(container.id, request.resources)
        what = await _clear(container, Operation.UPDATE)
        if container.sleeper is not None and what is Answer.KEEP:
            container.sleeper.hold_update(resources)
            return Empty()
        async with container.lock:
            await _asking_runc(container.runc.update(resources))
        if container.sleeper is not None:
            container.sleeper.updated(resources)
        return Empty()

    async def stats(self, request: containerd.StatsRequest) -> containerd.StatsResponse:
        """The cgroup's counters: they live on through sleep."""
        container = self._pod.get(request.id)
        if container.cgroup is None:
            raise RpcError(Code.FAILED_PRECONDITION, f"container {container.id} has no cgroup")
        return containerd.StatsResponse(stats=containerd.pack(stats.read(container.cgroup)))

    async def wait(self, request: containerd.WaitRequest) -> containerd.WaitResponse:
        """Answers when the process has ended for good; sleep is no end."""
        ended = await self._pod.get(request.id).process(request.exec_id).wait()
        return containerd.WaitResponse(exit_status=ended.code, exited_at=containerd.timestamp(ended.at_ns))

    async def connect(self, request: containerd.ConnectRequest) -> containerd.ConnectResponse:
        """Who serves this container."""
        container = self._pod.find(request.id)
        return containerd.ConnectResponse(
            shim_pid=os.getpid(), task_pid=container.init.pid if container else 0
        )

    async def shutdown(self, request: containerd.ShutdownRequest) -> Empty:
        """Ends the shim when no container is left."""
        if not self._pod.containers:
            asyncio.get_running_loop().call_later(0.05, self._shutdown)  # after this answer is on its way
        return Empty()

    async def checkpoint(self, request: containerd.CheckpointTaskRequest) -> Empty:
        """Writes a checkpoint for containerd to pack; the container goes on, or ends if so wanted."""
        container = self._pod.get(request.id)
        options = checkpoint_options(request.options)
        if container.init.status is Status.CREATED:
            raise RpcError(Code.FAILED_PRECONDITION, f"container {container.id} has not been started")
        path = absolute(request.path)
        await _clear(container, Operation.CHECKPOINT)
        async with container.lock:
            await _asking_runc(export(container.runc, path, options))
        return Empty()


async def _clear(container: Container, operation: Operation) -> Answer:
    """Waits until `operation` can be done, with a wake if need be. Raises RpcError when it can not."""
    if container.sleeper is not None:
        if operation is Operation.EXEC:
            await wait_for_room(container.sleeper)
        return await container.sleeper.clear_for(operation)
    if container.init.ended is not None:
        raise RpcError(Code.FAILED_PRECONDITION, f"container {container.id} has ended")
    return Answer.DO


def _limits(container_id: str, wanted: containerd.Any | None) -> bytes:
    """The JSON of an update's limits; looked at now: a sleeper's are applied when nobody can be told."""
    resources = wanted.value if wanted is not None else b""
    try:
        parse(resources, limit=MAX_PAYLOAD).mapping()
    except Unreadable as error:
        raise RpcError(
            Code.INVALID_ARGUMENT, f"the new limits of container {container_id} cannot be read: {error}"
        ) from error
    return resources


async def _asking_runc(work: Any) -> None:
    try:
        await work
    except EngineError as error:
        raise _rpc(error) from error


def _rpc(error: Exception) -> RpcError:
    return error if isinstance(error, RpcError) else RpcError(Code.UNKNOWN, str(error))
