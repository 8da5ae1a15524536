"""What CRIU is told, as pure functions of spec and mount table."""

from __future__ import annotations

from typing import Any

import pytest

from architect.engine import plan
from architect.engine.cgroup import Cgroup, hierarchies
from architect.engine.criu_messages import Options
from architect.ttrpc.codec import decode, encode

TABLE = """\
100 99 0:50 / / rw - overlay overlay rw
101 100 0:51 / /proc rw - proc proc rw
102 100 0:52 / /dev rw - tmpfs tmpfs rw
103 100 8:1 /etc/hosts /etc/hosts rw - ext4 /dev/vda rw
104 100 8:1 /data /mnt/my\\040data rw - ext4 /dev/vda rw
105 104 0:60 / /mnt/my\\040data/inner rw - tmpfs inner rw
106 101 0:52 /null /proc/kcore rw - tmpfs tmpfs rw
107 101 0:61 / /proc/acpi ro - tmpfs tmpfs ro
108 100 0:26 /pod/c1 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct
this row is torn
"""
SPEC: dict[str, Any] = {
    "process": {"terminal": False},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/etc/hosts", "type": "bind", "source": "/node/hosts"},
        {"destination": "/mnt/my data", "type": "none", "source": "/node/data", "options": ["rbind"]},
    ],
    "linux": {
        "maskedPaths": ["/proc/kcore", "/proc/acpi"],
        "namespaces": [
            {"type": "pid"},
            {"type": "network", "path": "/run/netns/x"},
            {"type": "ipc", "path": "/proc/7/ns/ipc"},
            {"type": "uts", "path": "/proc/7/ns/uts"},
        ],
    },
}
CGROUP = Cgroup({"cpu": "/sys/fs/cgroup/cpu,cpuacct/pod/c1", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/pod/c1"})


def test_mounts_from_outside_are_named_with_the_path_to_mount_again() -> None:
    external = plan.external_mounts(SPEC, plan.mount_table(TABLE), CGROUP)
    assert external == {
        "/etc/hosts": "/node/hosts",
        "/mnt/my data": "/node/data",
        "/mnt/my data/inner": "/node/data/inner",
        "/proc/kcore": plan.MASK,
        "/sys/fs/cgroup/cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/pod/c1",
    }


def test_a_dump_and_its_restore_agree_on_the_names_of_what_is_external() -> None:
    external = plan.external_mounts(SPEC, plan.mount_table(TABLE), CGROUP)
    dump = plan.dump_options(
        pid=1, root="/r", netns_inode=5, freezer="/f", external=external, watched=[], image_fd=3, log_fd=4
    )
    restore = plan.restore_options(
        root="/r",
        spaces=plan.namespace_paths(SPEC),
        external=external,
        image_fd=3,
        log_fd=4,
        netns_fd=10,
        pipes={},
        closed=False,
    )
    assert {item.value for item in dump.ext_mnt} == {item.key for item in restore.ext_mnt}
    assert [(item.ns, item.ns_file) for item in restore.join_ns] == [("uts", "/proc/7/ns/uts")]


def test_options_that_mean_no_travel_as_no_and_not_as_silence() -> None:
    options = plan.dump_options(
        pid=1, root="/r", netns_inode=5, freezer="/f", external={}, watched=[], image_fd=3, log_fd=4
    )
    received = decode(Options, encode(options))
    assert received.tcp_skip_in_flight is False
    assert received.tcp_close is False
    assert received.manage_cgroups_mode == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        pytest.param({"process": {"terminal": True}}, "tty", id="a terminal"),
        pytest.param(
            {"linux": {"namespaces": [{"type": "network", "path": "/x"}]}}, "process namespace", id="hostPID"
        ),
        pytest.param(
            {"linux": {"namespaces": [{"type": "pid", "path": "/p"}, {"type": "network", "path": "/x"}]}},
            "process namespace",
            id="shareProcessNamespace",
        ),
        pytest.param({"linux": {"namespaces": [{"type": "pid"}]}}, "host's network", id="hostNetwork"),
        pytest.param(
            {"linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/x"}, {"type": "user"}]}},
            "user namespace",
            id="hostUsers false",
        ),
    ],
)
def test_what_can_not_be_dumped_is_refused_in_a_sentence(change: dict[str, Any], word: str) -> None:
    assert plan.refusal(SPEC, "/") == ""
    assert word in plan.refusal({**SPEC, **change}, "/")


def test_a_subtree_mounted_from_another_root_is_understood() -> None:
    mounts = hierarchies("30 20 0:28 /box-1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    assert mounts[0].root == "/box-1"
    assert mounts[0].controllers == {"memory"}
