"""Whatever a pack holds, it is made below its directory or refused: nothing else is touched, nothing else is
raised.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.transfer import Corrupt, NoSpace, pack, records
from daemon.transfer.records import Attributes, Kind
from daemon.transfer.unpack import unpack_from

pytestmark = pytest.mark.root
Raw = tuple[int, bytes, bytes]
LIMIT = 1 << 20
PLAIN = Attributes(mode=0o644, uid=0, gid=0, modified=0, accessed=0)
FOLDER, SHARED = records.attributes(PLAIN), records.attributes(Attributes(0o644, 0, 0, 0, 0, 0, True))
TIMELESS = records.attributes(Attributes(0, 0, 0, -(1 << 63), (1 << 63) - 1))
LABELLED = records.attributes(Attributes(0, 0, 0, 0, 0, xattrs=(("security.selinux", b"x"),)))
ROOT: Raw = (Kind.ROOT, b"", FOLDER)


def stream(*raw: Raw, totals: tuple[int, int] | None = None) -> bytes:
    """A pack with these records after the magic, and an end that fits."""
    made = records.MAGIC
    entries = sum(kind not in (Kind.ROOT, Kind.UP, Kind.DATA) for kind, _, _ in raw)
    data = sum(max(0, len(body) - 8) for kind, _, body in raw if kind == Kind.DATA)
    end = records.totals(*(totals or (entries, data)))
    for kind, name, body in (*raw, (Kind.END, b"", end)):
        made += struct.pack(">BxHI", kind, len(name), len(body)) + name + body
    return made


def unpacked(
    data: bytes, *, layer: bool = True, limit: int = LIMIT, entries: int = 100
) -> dict[str, os.stat_result]:
    """Unpacks into a new directory beside which there is another one, which stays as it is."""
    with tempfile.TemporaryDirectory() as directory:
        inside, outside = Path(directory, "in"), Path(directory, "out")
        inside.mkdir()
        outside.mkdir()
        (outside / "file").write_bytes(b"precious")
        (outside / "file").chmod(0o600)
        before = [path.lstat() for path in (outside, outside / "file")]
        try:
            unpack_from(io.BytesIO(data), str(inside), layer=layer, limit=limit, entries=entries)
        finally:
            assert [path.lstat()[:9] for path in (outside, outside / "file")] == [each[:9] for each in before]
            assert sorted(os.listdir(directory)) == ["in", "out"]
            assert len(os.listdir(outside)) == 1
        found = {str(path.relative_to(inside)): path.lstat() for path in inside.rglob("*")}
        for each in found.values():
            assert not stat.S_ISBLK(each.st_mode)
            assert not stat.S_ISCHR(each.st_mode) or (layer and each.st_rdev == 0)
        return found


REFUSED: dict[str, tuple[Raw, ...]] = {
    "a name that climbs": ((Kind.FILE, b"..", FOLDER),),
    "a name that is a path": ((Kind.FILE, b"../out/file", FOLDER),),
    "an absolute name": ((Kind.DIR, b"/etc", FOLDER),),
    "no name": ((Kind.FILE, b"", FOLDER),),
    "a name with an end in it": ((Kind.FILE, b"a\0b", FOLDER),),
    "more ways up than down": ((Kind.UP, b"", b""),),
    "an end within a directory": ((Kind.DIR, b"d", FOLDER),),
    "a further name for nothing": ((Kind.LINK, b"l", records.number(0)),),
    "a further name for what is not shared": (
        (Kind.FILE, b"f", FOLDER),
        (Kind.LINK, b"l", records.number(0)),
    ),
    "a further name in place of the first": (
        (Kind.FILE, b"f", SHARED),
        (Kind.LINK, b"f", records.number(0)),
    ),
    "a further name through a link that replaced a directory": (
        (Kind.DIR, b"d", FOLDER),
        (Kind.FILE, b"file", SHARED),
        (Kind.UP, b"", b""),
        (Kind.SYMLINK, b"d", FOLDER + b"../out"),
        (Kind.LINK, b"l", records.number(0)),
    ),
    "a second root": (ROOT,),
    "data without a file": ((Kind.DATA, b"", records.data(0, b"x")),),
    "data beyond a file": (
        (Kind.FILE, b"f", records.attributes(Attributes(0o644, 0, 0, 0, 0, 1))),
        (Kind.DATA, b"", records.data(0, b"xx")),
    ),
    "data that goes back": (
        (Kind.FILE, b"f", records.attributes(Attributes(0o644, 0, 0, 0, 0, 9))),
        (Kind.DATA, b"", records.data(4, b"xx")),
        (Kind.DATA, b"", records.data(5, b"xx")),
    ),
    "a file of an exabyte": (
        (Kind.FILE, b"f", records.attributes(Attributes(0o644, 0, 0, 0, 0, 1 << 60))),
    ),
    "the owner that chown leaves alone": (
        (Kind.FILE, b"f", records.attributes(Attributes(0, records.NOBODY, 0, 0, 0))),
    ),
    "a mode that is a type": ((Kind.FILE, b"f", records.attributes(Attributes(0o020644, 0, 0, 0, 0))),),
    "an attribute of the host's": ((Kind.FILE, b"f", LABELLED),),
    "a link that leads nowhere": ((Kind.SYMLINK, b"l", FOLDER),),
    "a link of 5000 characters": ((Kind.SYMLINK, b"l", FOLDER + b"x" * 5000),),
    "a pipe with content": ((Kind.FIFO, b"p", FOLDER + b"x"),),
    "attributes that are cut off": ((Kind.FILE, b"f", FOLDER[:-1]),),
    "attributes that are too long": ((Kind.DIR, b"d", FOLDER + b"x"), (Kind.UP, b"", b"")),
    "an unknown kind": ((99, b"", b""),),
    "a body of 16 MiB": ((Kind.FILE, b"f", bytes(16 << 20)),),
    "300 directories in one another": ((Kind.DIR, b"d", FOLDER),) * 300,

}  # fmt: skip


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_what_no_honest_pack_holds_is_refused(raw: tuple[Raw, ...]) -> None:
    with pytest.raises(Corrupt):
        unpacked(stream(ROOT, *raw))


@pytest.mark.parametrize("cut", range(0, 189, 7))
def test_a_pack_that_is_cut_off_is_refused_wherever_it_is(cut: int) -> None:
    whole = stream(ROOT, (Kind.DIR, b"d", FOLDER), (Kind.FILE, b"f", FOLDER), (Kind.UP, b"", b""))
    unpacked(whole)
    with pytest.raises(Corrupt):
        unpacked(whole[:cut])


def test_an_end_that_says_something_else_is_refused() -> None:
    for data in (
        stream(ROOT, totals=(1, 0)),
        stream(ROOT, totals=(0, 1)),
        stream(ROOT) + b"more",
        stream((Kind.DIR, b"d", FOLDER)),
        b"ARCHITECT-PACK-2\n",
        b"",
    ):
        with pytest.raises(Corrupt):
            unpacked(data)


def test_a_volume_holds_no_whiteouts_and_no_overlay_s_notes() -> None:
    noted = records.attributes(Attributes(0o755, 0, 0, 0, 0, xattrs=(("trusted.overlay.opaque", b"y"),)))
    for raw in ((Kind.WHITEOUT, b"w", b""), (Kind.FILE, b"f", noted)):
        assert list(unpacked(stream(ROOT, raw))) == [raw[1].decode()]
        with pytest.raises(Corrupt):
            unpacked(stream(ROOT, raw), layer=False)


def test_entries_and_bytes_are_counted() -> None:
    many = stream(ROOT, *((Kind.FIFO, str(n).encode(), FOLDER) for n in range(11)))
    assert len(unpacked(many, entries=11)) == 11
    with pytest.raises(Corrupt, match="more than 10 entries"):
        unpacked(many, entries=10)
    sized = records.attributes(Attributes(0o644, 0, 0, 0, 0, 1 << 30))
    data = stream(ROOT, (Kind.FILE, b"f", sized), (Kind.DATA, b"", records.data(5, bytes(100))))
    assert unpacked(data, limit=100)["f"].st_size == 1 << 30
    with pytest.raises(NoSpace):
        unpacked(data, limit=99)


NAMES = st.sampled_from([b"a", b"b", b"c", b"file", b"..", b".", b"", b"a/b", b"\xff", b"x" * 255])
NUMBERS = st.integers(0, (1 << 32) - 1) | st.integers(0, 7)
TIMES = st.integers(-(1 << 63), (1 << 63) - 1)
XATTRS = st.lists(
    st.tuples(
        st.sampled_from(["user.x", "user.", "trusted.overlay.opaque", "trusted.x", "system.posix_acl_access",
                         "security.capability", "user." + "y" * 250]),
        st.binary(max_size=20),
    ),
    max_size=3,
)  # fmt: skip
SIZES = st.integers(0, 1 << 41) | st.integers(0, 9)
ATTRIBUTES = st.builds(
    Attributes, NUMBERS, NUMBERS, NUMBERS, TIMES, TIMES, SIZES, st.booleans(), XATTRS.map(tuple)
)
RESTS = st.sampled_from([b"", b"", b"x", b"../out", b"../out/file", b"/", b"\0"])
BODIES = st.builds(records.attributes, ATTRIBUTES, RESTS)
GOOD = st.sampled_from([FOLDER, SHARED, FOLDER + b"../out", SHARED + b"../out/file"])
SMALL = st.binary(max_size=9)
RECORDS = st.one_of(
    st.tuples(st.sampled_from([*Kind, 0, 255]), NAMES, GOOD | BODIES | st.binary(max_size=60)),
    st.tuples(st.sampled_from([Kind.DIR, Kind.FILE, Kind.SYMLINK, Kind.FIFO]), NAMES, GOOD),
    st.tuples(st.just(Kind.LINK), NAMES, st.builds(records.number, st.integers(0, 3))),
    st.builds(lambda at, more: (Kind.DATA, b"", records.data(at, more)), st.integers(0, 9), SMALL),
    st.just((Kind.UP, b"", b"")),
    st.just((Kind.WHITEOUT, b"c", b"")),
)  # fmt: skip


@given(raw=st.lists(RECORDS, max_size=12), layer=st.booleans())
@example(
    raw=[(Kind.SYMLINK, b"a", FOLDER + b"../out"), (Kind.DIR, b"a", FOLDER), (Kind.FILE, b"file", FOLDER)],
    layer=True,
)
@example(raw=[(Kind.SYMLINK, b"a", FOLDER + b"../out/file"), (Kind.FILE, b"a", FOLDER)], layer=True)
@example(
    raw=[(Kind.FILE, b"a", records.attributes(Attributes(0, 0, 0, -(1 << 63), (1 << 63) - 1)))], layer=True
)
def test_any_records_are_made_inside_or_refused(raw: list[Raw], layer: bool) -> None:
    try:
        unpacked(stream(ROOT, *raw), layer=layer)
    except (Corrupt, NoSpace):
        pass


def _real() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "d").mkdir()
        (root / "d" / "file").write_bytes(b"content")
        os.link(root / "d" / "file", root / "link")
        (root / "symlink").symlink_to("../out/file")
        os.setxattr(root / "d", "user.x", b"y")
        output = io.BytesIO()
        pack(directory, output, layer=True)
        return output.getvalue()


@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
@example(changes=[(29, 255), (30, 255), (31, 255), (32, 255)])  # an impossible owner of the root
def test_a_real_pack_with_any_bytes_changed_stays_inside(changes: list[tuple[int, int]]) -> None:
    data = bytearray(_real())
    for at, value in changes:
        data[at % len(data)] = value
    try:
        unpacked(bytes(data))
    except (Corrupt, NoSpace):
        pass
