"""Child processes: every end is delivered, once, to whoever asks, before or after."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator

import pytest

from architect.engine.children import Children
from architect.engine.errors import EngineError

ENV = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    loop = asyncio.get_running_loop()
    made = Children(time.time_ns)
    made.start(loop)
    yield made
    loop.remove_signal_handler(signal.SIGCHLD)


async def test_the_exit_code_of_a_child_is_what_a_shell_would_show(children: Children) -> None:
    _, end = children.spawn(["/bin/sh", "-c", "exit 7"], fds={}, env=ENV)
    assert (await end).code == 7
    pid, end = children.spawn(["/bin/sleep", "100"], fds={}, env=ENV)
    os.kill(pid, signal.SIGTERM)
    assert (await end).code == 128 + signal.SIGTERM


async def test_an_end_that_came_before_anybody_asked_is_kept(children: Children) -> None:
    first = os.posix_spawn("/bin/true", ["true"], ENV)  # noqa: ASYNC221  (the point: nobody asked yet)
    _, later = children.spawn(["/bin/sh", "-c", "exit 0"], fds={}, env=ENV)
    await later
    assert (await asyncio.wait_for(children.ended(first), 5)).code == 0


async def test_a_program_that_takes_too_long_is_killed_and_named(children: Children) -> None:
    with pytest.raises(EngineError, match="/bin/sleep 100"):
        await children.run(["/bin/sleep", "100"], fds={}, env=ENV, seconds=0.05)


async def test_a_program_that_is_not_there_is_an_error_with_its_name(children: Children) -> None:
    with pytest.raises(EngineError, match="/no/such/program"):
        children.spawn(["/no/such/program"], fds={}, env=ENV)


async def test_descriptors_arrive_under_their_numbers_even_when_they_cross(children: Children) -> None:
    first, second = os.pipe(), os.pipe()
    fds = {first[1]: second[1], second[1]: first[1], 1: first[1]}
    argv = [sys.executable, "-c", f"import os; os.write({second[1]}, b'crossed')"]
    _, end = children.spawn(argv, fds=fds, env=ENV)
    try:
        assert (await end).code == 0
        assert os.read(first[0], 100) == b"crossed"
    finally:
        for fd in (*first, *second):
            os.close(fd)


async def test_what_is_prepared_between_fork_and_exec_is_seen_by_the_program(children: Children) -> None:
    reader, writer = os.pipe()
    try:
        _, end = children.fork_exec(["/bin/pwd"], fds={1: writer}, env=ENV, prepare=lambda: os.chdir("/usr"))
        assert (await end).code == 0
        assert os.read(reader, 100) == b"/usr\n"
    finally:
        os.close(reader)
        os.close(writer)


async def test_a_preparation_that_fails_ends_the_child_and_not_us(children: Children) -> None:
    def fail() -> None:
        raise OSError("no")

    _, end = children.fork_exec(["/bin/true"], fds={}, env=ENV, prepare=fail)
    assert (await end).code == 127
