from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.inotify import changes
from architect.program import Unable
from tests.daemon.conftest import Box, until
from tests.daemon.fake_shim import container

ID = "c" * 64


async def test_shims_are_found_that_were_there_before_and_that_come_later(
    box: Box, stack: AsyncExitStack
) -> None:
    await stack.enter_async_context(box.shim("before", container(ID)))
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "RUNNING")
    async with box.shim("later", container("d" * 64)):
        await box.until_state("d" * 64, "RUNNING")
        assert await box.metric("architect_shims") == 2
    await box.until_state("d" * 64, None)
    assert await box.metric("architect_shims") == 1


async def test_a_pod_whose_name_comes_later_is_known_by_it(box: Box, stack: AsyncExitStack) -> None:
    shim = box.shim("pod1", pod="")
    await stack.enter_async_context(shim)
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.readers)
    shim.identity = "default", "web-7", "uid-web"
    shim.add(container(ID))
    await box.until_state(ID, "RUNNING")
    assert (await box.ask("GET", "/v1/containers/default/web-7/app/explain"))[0] == 200


async def test_a_broken_shim_disturbs_no_other(box: Box, stack: AsyncExitStack) -> None:
    for name, greeting in (("mute", b""), ("rude", os.urandom(4096))):
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"{box.shims}/{name}.sock")
        listener.setblocking(False)
        listener.listen()

        def accept(listener: socket.socket = listener, greeting: bytes = greeting) -> None:
            connection, _ = listener.accept()
            stack.callback(connection.close)
            connection.send(greeting or b"\0")

        asyncio.get_running_loop().add_reader(listener, accept)
        stack.callback(asyncio.get_running_loop().remove_reader, listener)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{box.shims}/dead.sock")
    os.mkfifo(f"{box.shims}/fifo.sock")
    os.mkdir(f"{box.shims}/directory.sock")
    os.symlink("/nowhere", f"{box.shims}/link.sock")
    (await asyncio.to_thread(open, f"{box.shims}/not a shim.sock", "w")).close()
    await stack.enter_async_context(box.daemon())
    shim = await stack.enter_async_context(box.shim("good", container(ID)))
    await box.until_state(ID, "RUNNING")
    status, _ = await box.ask("POST", f"/v1/containers/{ID}/hibernate")
    assert status == 200
    assert shim.asked("hibernate", ID) == 1


async def test_a_connection_that_ends_is_made_again(box: Box, stack: AsyncExitStack) -> None:
    shim = await stack.enter_async_context(box.shim("pod1", container(ID)))
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "RUNNING")
    for connection in list(shim._server.connections):
        connection.abort()
    await box.until_state(ID, None)
    await box.until_state(ID, "RUNNING")


async def test_a_directory_that_is_removed_is_made_and_watched_again(box: Box, stack: AsyncExitStack) -> None:
    async with box.shim("pod1", container(ID)):
        await stack.enter_async_context(box.daemon())
        await box.until_state(ID, "RUNNING")
        shutil.rmtree(box.shims)
    await box.until_state(ID, None)
    await until(lambda: os.path.isdir(box.shims))
    await stack.enter_async_context(box.shim("pod2", container("d" * 64)))
    await box.until_state("d" * 64, "RUNNING")


async def test_the_same_container_is_not_taken_from_the_shim_that_had_it_first(
    box: Box, stack: AsyncExitStack
) -> None:
    first = await stack.enter_async_context(box.shim("pod1", container(ID)))
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "RUNNING")
    second = await stack.enter_async_context(
        box.shim("pod2", container(ID, phase="SCALED_DOWN", sleeps=9), container("d" * 64))
    )
    await box.until_state("d" * 64, "RUNNING")
    assert await box.state(ID) == "RUNNING"
    await box.ask("POST", f"/v1/containers/{ID}/hibernate")
    assert (len(first.calls), len(second.calls)) == (1, 0)


async def test_a_second_daemon_on_the_same_node_is_refused(box: Box, stack: AsyncExitStack) -> None:
    await stack.enter_async_context(box.daemon())
    with pytest.raises(Unable, match="another architectd serves this node"):
        await stack.enter_async_context(box.daemon())
    assert (await box.ask("GET", "/v1/health"))[0] == 200


@given(st.binary(max_size=400))
def test_any_bytes_are_read_as_events_without_an_error(data: bytes) -> None:
    assert all(isinstance(change.name, str) for change in changes(data))
