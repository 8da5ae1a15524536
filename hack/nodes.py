"""The nodes of a cluster, seen from its box: switched on and off, services killed, commands run there.

For hack/cluster_up.py and for tests. A node keeps its disk when it is switched off. Blocking calls.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

CONTROL_PLANE: Final = "172.30.0.1"
PODS: Final = "10.244.0.0/16"
_NETWORK: Final = 24
_UP_SECONDS: Final = 60.0
_SCRIPT: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cluster_node.py")
_SERVICES: Final = "/opt/box/hack/services.py"
_SWITCH: Final = "nodes"
"""The bridge that stands for the network between the nodes."""
_DAY: Final = 24 * 3600
_UPTIME: Final = {2: {"monotonic": 5 * _DAY, "boottime": 9 * _DAY}}
"""By how many seconds a node's clocks are ahead of this machine's: real nodes are not booted together, and
these share a kernel. Wall time is everybody's.
"""


@dataclasses.dataclass(frozen=True)
class Node:
    """A node by its number, from 1."""

    number: int

    @property
    def name(self) -> str:
        """Its name in Kubernetes, and its host name."""
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        """Its address among the nodes."""
        return f"172.30.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """What its pods get addresses from."""
        return f"10.244.{self.number}.0/24"

    @property
    def uptime(self) -> dict[str, int]:
        """By how many seconds its clocks `monotonic` and `boottime` are ahead of this machine's."""
        return _UPTIME.get(self.number, {})

    @property
    def log(self) -> str:
        """What its process 1 said."""
        return f"/var/log/{self.name}.log"

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command in the node; `options` are subprocess's."""
        return subprocess.Popen(_script("exec", self.name, *argv), **options)

    def run(self, argv: Sequence[str], *, timeout: float = 60, **options: Any) -> str:
        """Run a command in the node and return what it printed. Raises subprocess.CalledProcessError.

        `options` are subprocess's.
        """
        argv = _script("exec", self.name, *argv)
        done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=timeout, **options)
        return str(done.stdout)

    def start(self, *services: str) -> None:
        """Start services of the node: containerd, kubelet, kube-proxy."""
        self.run(["/usr/bin/python3", "-IS", _SERVICES, "start", *services])

    def kill(self, *services: str) -> None:
        """Kill -9 services of the node; nobody starts them again but `start`."""
        self.run(["/usr/bin/python3", "-IS", _SERVICES, "kill", *services])

    @contextlib.contextmanager
    def keep(self, service: str) -> Iterator[None]:
        """Meanwhile, a service that ends is started again, as an operating system does it."""
        argv = ["/usr/bin/python3", "-IS", _SERVICES, "keep", service]
        with self.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
            try:
                assert keeper.stdout
                if keeper.stdout.readline() != "kept\n":
                    raise RuntimeError(f"{service} does not run on {self.name}")
                yield
            finally:
                assert keeper.stdin
                keeper.stdin.close()

    def boot(self, others: Sequence[Node]) -> None:
        """Switch it on: returns when containerd runs. `others`: the nodes whose pods it is to reach."""
        self._connect(others)
        enter = [
            *("setsid", "--fork", "nsenter", f"--net=/run/netns/{self.name}"),
            *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
            *(f"--{clock}={ahead}" for clock, ahead in self.uptime.items()),
            *("--time", "--propagation", "private", *_script("enter", self.name)),
        ]
        said, says = os.pipe()
        with open(self.log, "ab") as log, open(said, encoding="utf-8") as lines:
            with open(says, "wb") as end:
                subprocess.run(
                    enter, stdin=subprocess.DEVNULL, stdout=end, stderr=log, check=True, timeout=30
                )
            if _line(lines) != "up\n":
                with open(self.log, encoding="utf-8", errors="replace") as file:
                    tail = "".join(file.readlines()[-20:])
                raise RuntimeError(f"{self.name} did not come up; {self.log} ends with:\n{tail}")

    def power_off(self) -> None:
        """End everything in it at once, as if its plug were pulled."""
        with open(f"/run/nodes/{self.name}.pid", encoding="ascii") as file:
            pid = int(file.read())
        with open(os.pidfd_open(pid), "rb", buffering=0) as process:
            signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)
            subprocess.run(_script("clear", self.name), check=True, timeout=60)  # thaws: nothing frozen ends
            if not select.select([process], [], [], _UP_SECONDS)[0]:
                raise TimeoutError(f"process 1 of {self.name} does not end")
        self._disconnect()

    def power_on(self, others: Sequence[Node]) -> None:
        """Boot it with its services, as after a power failure; returns before kubelet has registered."""
        self.boot(others)
        self.start("kubelet", "kube-proxy")

    def _connect(self, others: Sequence[Node]) -> None:
        """A network namespace with eth0, routes to the other nodes' pods and to the control plane."""
        _ip("netns", "add", self.name)
        _ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self.name, "master", _SWITCH, "up")
        inside = ("-n", self.name)
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "address", "add", f"{self.address}/{_NETWORK}", "dev", "eth0")
        _ip(*inside, "route", "add", "default", "via", CONTROL_PLANE)
        for other in others:
            if other != self:
                _ip(*inside, "route", "add", other.pods, "via", other.address)
        _ip("netns", "exec", self.name, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def _disconnect(self) -> None:
        _ip("link", "delete", self.name)
        _ip("netns", "delete", self.name)


def connect(nodes: Sequence[Node], services: str) -> None:
    """Lay the network between nodes and control plane.

    `services`: the addresses that kube-proxy answers for.
    """
    _ip("link", "add", _SWITCH, "type", "bridge")
    _ip("link", "set", _SWITCH, "up")
    _ip("address", "add", f"{CONTROL_PLANE}/{_NETWORK}", "dev", _SWITCH)
    for node in nodes:
        _ip("route", "add", node.pods, "via", node.address)
    # No kube-proxy here: the first node's answers, and masquerades what does not come from a pod.
    _ip("route", "add", services, "via", nodes[0].address)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)


def _script(*arguments: str) -> list[str]:
    return ["/usr/bin/python3", "-IS", _SCRIPT, *arguments]


def _line(lines: IO[str]) -> str:
    """The next line, "" if the other end is gone. Raises TimeoutError."""
    if not select.select([lines], [], [], _UP_SECONDS)[0]:
        raise TimeoutError(f"a node says nothing for {_UP_SECONDS:.0f} s")
    return lines.readline()
