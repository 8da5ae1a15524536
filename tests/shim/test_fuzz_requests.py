"""Proper Task calls with hostile content: each is answered with a sentence and leaves nothing in the shim."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from architect.settings import PREFIX
from architect.ttrpc import containerd
from architect.ttrpc.codec import encode
from architect.ttrpc.containerd import Any as Wrapped
from architect.ttrpc.containerd import CreateTaskRequest, ExecProcessRequest, Mount, Options, RuntimeOptions
from architect.ttrpc.rpc import Code, RpcError, error_of
from tests.shim.living import ARENAS, LIVE, NEEDS_RUNC, Living, Usage, living, make_bundle, spec

pytestmark = [pytest.mark.root, NEEDS_RUNC]

REFUSALS = {
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.ALREADY_EXISTS,
    Code.UNIMPLEMENTED,
    Code.UNKNOWN,  # what runc or the kernel refused, in its words
}

DEEP = b"[" * 100_000
NO_SPECS = [b"", b"null", b"[]", b"{", DEEP, b'{"linux":[]}', b'{"root":{"path":"a\\u0000b"}}']
CRI = "io.kubernetes.cri."
MANAGED = {
    PREFIX + "managed-containers": '["app"]',
    CRI + "container-type": "container",
    **{f"{CRI}{name}": "x" for name in ("sandbox-id", "sandbox-namespace", "sandbox-name", "sandbox-uid")},
    CRI + "container-name": "app",
}
RUNS_NOTHING = spec()
"""A spec that the shim takes and runc does not: there is no program in it."""


class Place:
    """A living shim, and what lies beside it for a hostile request to name: bundles and paths."""

    def __init__(self, shim: Living) -> None:
        self.shim = shim
        here = shim.directory
        os.mkfifo(here / "fifo")
        (here / "file").write_bytes(b"BinaryName = [" * 10)
        configs: list[object] = [*NO_SPECS, RUNS_NOTHING, {**RUNS_NOTHING, "annotations": MANAGED}]
        self.bundles = [make_bundle(here / f"bundle{n}", config) for n, config in enumerate(configs)]
        (here / "program").write_text("#!/bin/sh\nexit 1\n")
        (here / "program").chmod(0o755)
        trap = here / "trap"
        trap.mkdir()
        os.mkfifo(trap / "config.json")
        self.taken = self.bundles[-2:]
        self.bundles += [str(trap), "", "/nonexistent", "relative", "a\0b", "/dev"]
        self.paths = [
            *(str(here / name) for name in ("fifo", "file", "program", "trap", "none")),
            *("", "/dev/zero", "/a\0b", "relative", "x" * 5000),
        ]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with living() as shim:
        yield Place(shim)


def tomls(paths: list[str]) -> st.SearchStrategy[bytes]:
    lines = st.sampled_from(
        [
            b"BinaryName = 7",
            b"IoUid = true",
            b"IoUid = -1",
            b"Root = 1979-05-27",
            b"a = " + DEEP,
            b"[a.b",
            b"\xff",
        ]
        + [b"n = " + b"9" * 10_000, b"x" * 100_000]
        + [f"Root = {json.dumps(path)}".encode() for path in paths]
    )
    return st.lists(lines, max_size=3).map(b"\n".join) | st.binary(max_size=30)


def seldom[T](usual: T, other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Mostly what is usual, so that other parts of a request are reached at all."""
    return st.integers(0, 3).flatmap(lambda chance: other if chance == 0 else st.just(usual))


@st.composite
def creations(draw: st.DrawFn, place: Place) -> CreateTaskRequest:
    path = st.sampled_from(place.paths)
    stream = path | path.map("file://{}".format) | st.sampled_from(["binary:///bin/true", "fifo://"])
    generic = st.builds(RuntimeOptions, config_path=path, config_body=st.just(b"") | tomls(place.paths))
    own = st.builds(Options, binary_name=path, root=path, systemd_cgroup=st.booleans())
    strange = st.builds(
        Wrapped,
        st.sampled_from(["", "containerd.runc.v1.Options", "x/runtimeoptions.v1.Options", "x"]),
        st.binary(),
    )
    mounts = st.deferred(lambda: st.builds(Mount, word, word, word, st.lists(word, max_size=2)))
    word = st.sampled_from(["tmpfs", "nosuch", "", "bind", "ro", "remount", "a\0b", "x" * 4096])
    return CreateTaskRequest(
        id=draw(seldom("new", st.sampled_from([LIVE, "", "../x", "a\0", "x" * 129]))),
        bundle=draw(seldom(place.taken[0], st.sampled_from(place.bundles))),
        rootfs=draw(seldom([], st.lists(mounts, max_size=2))),
        terminal=draw(st.booleans()),
        stdin=draw(seldom("", stream)),
        stdout=draw(seldom("", stream)),
        stderr=draw(seldom("", stream)),
        options=draw(seldom(None, generic.map(containerd.pack) | own.map(containerd.pack) | strange)),
    )


def refused(place: Place, method: str, request: object) -> None:
    """Asserts that a request is refused in a sentence, or done, and that the shim is as it was."""
    with place.shim.line() as line:
        error = error_of(line.ask(containerd.TASK_V3, method, encode(request)).status)
    assert error is None or (error.code in REFUSALS and error.message), str(error)
    place.shim.answers()


def again(place: Place, asked: list[tuple[str, object]], times: int) -> None:
    """Asks all of it again and asserts that the shim holds no more for it."""
    before: Usage | None = None
    for number in range(times):
        method, request = asked[number % len(asked)]
        with place.shim.line() as line:
            line.ask(containerd.TASK_V3, method, encode(request))
        if number == len(asked):
            before = place.shim.usage()
    place.shim.answers()
    assert before is not None
    place.shim.holds_no_more_than(before, ARENAS)


def test_a_creation_that_cannot_be_is_refused_and_undone(place: Place) -> None:
    asked: list[tuple[str, object]] = []
    new = partial(CreateTaskRequest, id="new", bundle=place.taken[0])

    @given(creations(place))
    @example(new(stdout="/a\0b"))
    @example(new(stdin=f"file://{place.paths[1]}"))
    @example(new(stdout=f"file://{place.paths[0]}"))
    @example(new(bundle="/a\0b"))
    @example(new(options=containerd.pack(Options(binary_name="/a\0b"))))
    @example(new(options=containerd.pack(RuntimeOptions(config_path=place.paths[0]))))
    @example(new(options=containerd.pack(RuntimeOptions(config_path="/dev/zero"))))
    @example(new(options=containerd.pack(RuntimeOptions(config_body=b"a = " + DEEP))))
    @example(new(options=containerd.pack(RuntimeOptions(config_body=b"n = " + b"9" * 10_000))))
    @example(new(rootfs=[Mount("tmpfs", "a\0b", "", ["ro"]), Mount("nosuch")]))
    def create(request: CreateTaskRequest) -> None:
        refused(place, "Create", request)
        asked.append(("Create", request))

    create()
    again(place, asked, 3 * len(asked))


def changes(place: Place) -> st.SearchStrategy[tuple[str, object]]:
    """Requests that would change the living container if they meant anything."""
    signals = st.sampled_from([0, 65, 1000, 2**31, 2**32 - 1])
    limits = st.sampled_from(
        [b"", b"null", b"[]", DEEP, b"\xff", b'{"memory":"x"}', b'{"pids":[]}', b'{"a":1,"a":2}']
    )
    path = st.sampled_from(place.paths)
    return st.one_of(
        st.tuples(
            st.just("Kill"),
            st.builds(containerd.KillRequest, st.just(LIVE), st.just(""), signals, st.booleans()),
        ),
        st.tuples(
            st.just("Update"),
            st.builds(containerd.UpdateTaskRequest, st.just(LIVE), st.builds(Wrapped, st.just("x"), limits)),
        ),
        st.tuples(
            st.just("Exec"),
            st.builds(
                ExecProcessRequest,
                st.just(LIVE),
                st.sampled_from(["", "../e", "e\0", "x" * 200]),
                spec=st.builds(Wrapped, st.text(max_size=3), limits),
            ),
        ),
        st.tuples(st.just("Checkpoint"), st.builds(containerd.CheckpointTaskRequest, st.just(LIVE), path)),
    )


def test_a_change_that_cannot_be_is_refused_and_changes_nothing(place: Place) -> None:
    asked: list[tuple[str, object]] = []

    @given(changes(place))
    @example(("Update", containerd.UpdateTaskRequest(LIVE, Wrapped("x", DEEP))))
    @example(("Exec", ExecProcessRequest(LIVE, "e", spec=Wrapped("x", DEEP))))
    @example(("Exec", ExecProcessRequest(LIVE, "e", spec=Wrapped("x", b"[]"))))
    @example(("Kill", containerd.KillRequest(LIVE, signal=2**32 - 1)))
    @example(("Kill", containerd.KillRequest(LIVE, signal=65)))
    def change(wanted: tuple[str, object]) -> None:
        refused(place, *wanted)
        asked.append(wanted)

    change()
    again(place, asked, 3 * len(asked))


PROCESSES: list[Any] = [
    *(None, [], 7, {}, {"args": []}, {"args": ["/nonexistent"], "cwd": "/"}, {"args": 7}),
    {"args": ["/bin/true"], "cwd": "/"},
    {"args": ["/bin/sleep", "infinity"], "cwd": "/", "terminal": "yes"},
]


def test_an_exec_of_anything_started_twice_is_ended_and_forgotten(place: Place) -> None:
    before = place.shim.usage()
    path = st.sampled_from(place.paths)

    @settings(max_examples=40)
    @given(
        st.sampled_from(PROCESSES),
        st.builds(ExecProcessRequest, st.just(LIVE), st.just("e"), st.booleans(), path, path, path),
    )
    @example(PROCESSES[-1], ExecProcessRequest(LIVE, "e", terminal=True, stdout="relative"))
    @example(PROCESSES[-1], ExecProcessRequest(LIVE, "e"))
    def run(process: Any, request: ExecProcessRequest) -> None:
        request.spec = Wrapped(containerd.OCI_PROCESS, json.dumps(process).encode())
        refused(place, "Exec", request)
        for _ in range(2):
            refused(place, "Start", containerd.StartRequest(LIVE, "e"))
        refused(place, "Kill", containerd.KillRequest(LIVE, "e", 9))
        refused(place, "CloseIO", containerd.CloseIORequest(LIVE, "e", stdin=True))
        with place.shim.line() as line, contextlib.suppress(RpcError):
            if line.call("State", containerd.StateRequest(LIVE, "e"), containerd.StateResponse).status != 1:
                line.call("Wait", containerd.WaitRequest(LIVE, "e"), containerd.WaitResponse)
        refused(place, "Delete", containerd.DeleteRequest(LIVE, "e"))
        with place.shim.line() as line, pytest.raises(RpcError) as gone:
            line.call("State", containerd.StateRequest(LIVE, "e"), containerd.StateResponse)
        assert gone.value.code is Code.NOT_FOUND

    run()
    place.shim.holds_no_more_than(before, ARENAS)
    pids = Path("/proc", str(place.shim.pid), "task", str(place.shim.pid), "children").read_text().split()
    assert pids == [str(place.shim.init)]
