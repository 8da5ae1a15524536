"""Which service containerd is, and when systemd may restart it."""

from __future__ import annotations

import pytest

from daemon.installer.containerd import restart_unit, service
from daemon.installer.errors import Refused


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/containerd.service\n", "containerd.service"),
        (
            "0::/../../../system.slice/containerd.service\n",
            "containerd.service",
        ),  # seen from a pod
        ("5:cpu,cpuacct:/system.slice\n1:name=systemd:/system.slice/k0s.service\n0::/\n", "k0s.service"),
        ("5:cpu:/system.slice/other.service\n", ""),
        ("0::/init.scope\n", ""),
        ("", ""),
    ],
)
def test_the_service_is_told_by_the_cgroup(cgroups: str, unit: str) -> None:
    assert service(cgroups) == unit


def test_systemd_restarts_containerd_only_where_the_containers_outlive_it() -> None:
    ran: list[str] = []

    def systemctl(kill_mode: str) -> None:
        def run(argv: list[str]) -> str:
            ran.append(argv[1])
            return f"{kill_mode}\n" if argv[1] == "show" else ""

        restart_unit("containerd.service", run)

    systemctl("process")
    assert ran == ["show", "restart"]
    ran.clear()
    with pytest.raises(Refused, match="KillMode is control-group"):
        systemctl("control-group")
    assert ran == ["show"]
