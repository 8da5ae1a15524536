"""A pod that moves while something fails: its service, how far the move is, what is broken, who is the judge.

The service makes a token when it starts and numbers its answers. Somebody asks all the time: if a number were
given twice, or a token were answered with by two pods in turn, two copies of one state would live.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Self

from hack.api import Api, Object, Refused
from hack.nodes import Node
from tests.e2e import release, sleepers
from tests.e2e.conftest import Kubectl
from tests.e2e.sleepers import Sleeper

TRANSFER_PORT: Final = 9646
FINAL: Final = ("Arrived", "Kept", "Lost")
_SERVE: Final = (
    "import itertools, os, secrets, sys; sys.path.insert(0, '/app'); from service import serve; "
    "heap = os.urandom(int(os.environ['HEAP_MB']) << 20); token = secrets.token_hex(8); "
    "calls = itertools.count(1); serve({'/': lambda *_: f'{token} {next(calls)}\\n'})"
)
_GRACE: Final = 30
_SECONDS: Final = 90.0
_PAUSE_SECONDS: Final = 0.1


def service(name: str, *, heap_mb: int = 10, idle: str = "1h") -> Object:
    """A Deployment of one pod that answers `TOKEN NUMBER`; its replacement goes to another node."""
    env = [{"name": "HEAP_MB", "value": str(heap_mb)}]
    made = sleepers.sleeping(name, idle=idle, env=env, command=["/usr/bin/python3", "-B", "-c", _SERVE])
    pod = made["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = _GRACE
    # The scheduler may hear of a cordoned node after it heard of the pod that is to go.
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": name}}}
    pod["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    return made


def first_answer(pod: Sleeper) -> str:
    """The token of a pod that may not listen yet, or gets another address since its sandbox has ended."""
    deadline = time.monotonic() + _SECONDS
    while True:
        address = pod.address
        try:
            return ask(address)[0]
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
                raise
            assert time.monotonic() < deadline, f"nobody listens at {address}"
            time.sleep(_PAUSE_SECONDS)


def ask(address: str, seconds: float = 60) -> tuple[str, int]:
    """Its token, and the number of this answer. Raises OSError, http.client.HTTPException."""
    connection = http.client.HTTPConnection(address, 8080, timeout=seconds)
    try:
        connection.request("GET", "/")
        token, number = connection.getresponse().read().decode().split()
    finally:
        connection.close()
    return token, int(number)


@dataclass
class Clients:
    """Ask every pod of a Deployment, again and again, until the block ends."""

    api: Api
    namespace: str
    app: str
    answers: list[tuple[str, str, int]] = field(default_factory=list)
    """Pod, token, number; in the order in which they came."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: dict[tuple[str, str], threading.Thread] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in (self._looking, *self._threads.values()):
            thread.join(30)

    def check(self) -> None:
        """Fails when two copies of one state were alive."""
        given = Counter((token, number) for _, token, number in self.answers)
        assert not [each for each, times in given.items() if times > 1], "a number was given twice"
        for state in {token for _, token, _ in self.answers}:
            pods = [pod for pod, token, _ in self.answers if token == state]
            turns = [pod for pod, _ in groupby(pods)]
            assert len(turns) == len(set(turns)), f"two pods answer as {state} in turn: {turns}"

    def _look(self) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        while not self._ended.wait(_PAUSE_SECONDS):
            try:
                pods = self.api.get(path, labelSelector=f"app={self.app}")["items"]
            except (OSError, Refused, http.client.HTTPException):
                continue  # it may be the API server that was killed
            for pod in pods:
                key = pod["metadata"]["name"], pod["status"].get("podIP", "")
                if key[1] and key not in self._threads:
                    self._threads[key] = threading.Thread(target=self._ask, args=key, daemon=True)
                    self._threads[key].start()

    def _ask(self, pod: str, address: str) -> None:
        while not self._ended.wait(_PAUSE_SECONDS):
            try:
                self.answers.append((pod, *ask(address, 3)))
            except (OSError, ValueError, http.client.HTTPException):
                continue


@dataclass
class Move:
    """A pod of one node that is to go on, on the other, and what is known of it."""

    api: Api
    kubectl: Kubectl
    namespace: str
    nodes: list[Node]
    before: Sleeper
    seen: Object
    """The pod, before it was evicted."""
    token: str
    clients: Clients

    @property
    def app(self) -> str:
        return str(self.seen["metadata"]["labels"]["app"])

    @property
    def here(self) -> Node:
        """Where it was."""
        return next(node for node in self.nodes if node.name == self.seen["spec"]["nodeName"])

    @property
    def there(self) -> Node:
        """Where it goes."""
        return next(node for node in self.nodes if node != self.here)

    @property
    def records(self) -> str:
        return f"/apis/{sleepers.PREFIX}/v1alpha1/namespaces/{self.namespace}/migrations"

    # ---- how far it is

    def evict(self) -> None:
        """Tell it to go; nothing may come to its node."""
        cordon(self.api, self.here, unschedulable=True)
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": self.before.name, "namespace": self.namespace},
        }
        self.api.create(f"{self.before.path}/eviction", eviction)

    def await_record(self, holds: Callable[[Object], Any], seconds: float = _SECONDS) -> Object:
        """Wait until its migration is so; the migration then."""
        uid = self.seen["metadata"]["uid"]

        def mine(found: list[Object]) -> Any:
            return any(each["spec"]["pod"]["uid"] == uid and holds(each) for each in found)

        found = self.api.await_list(self.records, mine, seconds)
        return next(each for each in found if each["spec"]["pod"]["uid"] == uid)

    def await_phase(self, *phases: str, seconds: float = _SECONDS) -> Object:
        return self.await_record(lambda seen: phase(seen) in phases, seconds)

    def await_claimed(self) -> Object:
        """Wait until there is a replacement and its node waits for it; the pod."""
        record = self.await_record(lambda seen: (seen.get("status") or {}).get("target"))
        return self.api.get(f"/api/v1/namespaces/{self.namespace}/pods/{record['status']['target']['name']}")

    def await_waiting(self) -> Object:
        """Wait until the replacement's container is there, and waits for its state; the pod then."""
        claims = self.await_claimed()
        deadline = time.monotonic() + _SECONDS
        while ("ARRIVING", claims["metadata"]["name"]) not in _containers(self.there):
            assert time.monotonic() < deadline, f"none of {_containers(self.there)} waits"
            time.sleep(_PAUSE_SECONDS)
        return claims

    def await_given(self, waiting: Object) -> None:
        """Wait until the replacement's container was told where its state is: from now on it may run."""
        home = f"/var/lib/architect/arriving/{waiting['metadata']['uid']}"
        note = Path(f"/var/lib/nodes/{self.there.name}{home}/app/arrival.json")
        deadline = time.monotonic() + _SECONDS
        while '"given"' not in _read(str(note)):
            assert time.monotonic() < deadline, f"nothing was given: {_read(str(note))}"
            time.sleep(0.005)  # it restores within a tenth of a second

    # ---- the judge

    def arrived(self) -> Sleeper:
        """Wait until the state has arrived somewhere; the pod that has it."""
        self.await_phase("Arrived")
        (after,) = sleepers.pods_of(self.api, self.namespace, self.app)
        return after

    def settled(self) -> Sleeper:
        """Wait until it is over, one way or another, and nothing is stuck; the pod that replaces it."""
        self.await_phase(*FINAL)
        self.api.await_gone(self.before.path, _SECONDS)
        (after,) = sleepers.pods_of(self.api, self.namespace, self.app)
        after.await_label("RUNNING")
        for node in self.nodes:
            await_nothing_under_way(node)
        return after

    def check(self, *, moved: bool | None) -> Sleeper:
        """It has gone on with its memory, or started fresh and said so; never both, and nothing is stuck.

        `moved`: which of them is expected; None: that depends on who was quicker.
        """
        after = self.settled()
        token = first_answer(after)
        self.clients.check()
        record = self.await_phase(*FINAL)
        if moved or (moved is None and phase(record) == "Arrived"):
            assert moved is None or (token, phase(record)) == (self.token, "Arrived"), record["status"]
        else:
            assert token != self.token
            assert phase(record) in ("Kept", "Lost"), record["status"]
            after.await_reason("MigrationFailed")
            assert warnings(after), "it started fresh, and nobody was warned"
        return after

    def restore(self, fresh: Sleeper) -> Sleeper:
        """Ask for the copy that is kept, for a pod that has started fresh, and delete that; the next pod."""
        record = self.await_phase("Kept")
        wish = {"metadata": {"annotations": {f"{sleepers.PREFIX}/restore": ""}}}
        self.api.patch(f"{self.records}/{record['metadata']['name']}", wish, "merge")
        self.api.delete(fresh.path)
        self.api.await_gone(fresh.path, _SECONDS)
        self.await_phase("Arrived")
        return self.settled()


@contextmanager
def moving(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node], name: str = "web", **wanted: Any
) -> Iterator[Move]:
    """A pod that answers, and clients that ask it all the time; it is not evicted yet."""
    kubectl("apply", "-f", "-", stdin=service(name, **wanted))
    (pod,) = sleepers.pods_of(api, namespace, name)
    token = first_answer(pod)
    try:
        with Clients(api, namespace, name) as clients:
            yield Move(api, kubectl, namespace, nodes, pod, pod.read(), token, clients)
    finally:
        for node in nodes:
            cordon(api, node, unschedulable=False)


def phase(record: Object) -> str:
    """How far a migration is."""
    return str((record.get("status") or {}).get("phase") or "Expected")


def warnings(pod: Sleeper) -> list[str]:
    """What its Events warn of."""
    listed = pod.api.get(
        f"/api/v1/namespaces/{pod.namespace}/events", fieldSelector=f"involvedObject.name={pod.name}"
    )
    told = ("MigrationFailed", "StartedFresh")
    return [
        f"{each['reason']}: {each['message']}"
        for each in listed["items"]
        if each["type"] == "Warning" and each["reason"] in told
    ]


def cordon(api: Api, node: Node, *, unschedulable: bool) -> None:
    """Whether new pods may come to the node."""
    api.patch(f"/api/v1/nodes/{node.name}", {"spec": {"unschedulable": unschedulable or None}}, "merge")


def await_nothing_under_way(node: Node, seconds: float = _SECONDS) -> None:
    """Wait until nothing waits to leave the node, or to come to it."""
    deadline = time.monotonic() + seconds
    argv = ["curl", "--silent", "--fail", f"http://{node.address}:9644/metrics"]
    wanted = {"architect_migrations_leaving": 0.0, "architect_migrations_arriving": 0.0}
    while True:
        told = node.run(["sh", "-c", " ".join(argv) + " || true"])
        pairs = (line.rpartition(" ") for line in told.splitlines() if not line.startswith("#"))
        found = {name: float(value) for name, _, value in pairs if name in wanted}
        if found == wanted:
            return
        assert time.monotonic() < deadline, f"{node.name}: {found}"
        time.sleep(_PAUSE_SECONDS * 2)  # nobody tells


def _containers(node: Node) -> list[tuple[str, str]]:
    """The containers that the node's daemon knows: state and pod."""
    url = "--unix-socket /run/architect/architectd.sock http://architectd/v1/containers"
    told = node.run(["sh", "-c", f"curl --silent --fail {url} || true"])
    return [(each["state"], each["pod"]) for each in json.loads(told or "{}").get("containers", [])]


# ---- what is broken


def daemon(node: Node) -> int:
    """The pid of a node's daemon, as this process knows it."""
    return _one(f"the daemon of {node.name}", lambda pid: _runs(pid, "daemon") and _within(pid, node))


def leader(api: Api) -> int:
    """The pid of the control plane that leads."""
    (found,) = leaders(api)
    return found


def leaders(api: Api) -> list[int]:
    """The pid of the control plane that leads, if one does."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{release.NAMESPACE}/leases/architect-controlplane"
    told = api.get(path)["metadata"].get("annotations") or {}
    address = told.get(f"{sleepers.PREFIX}/address", "").rpartition(":")[0]
    pods = api.get(f"/api/v1/namespaces/{release.NAMESPACE}/pods")["items"]
    uids = [pod["metadata"]["uid"] for pod in pods if address and pod["status"].get("podIP") == address]
    return [pid for pid in _pids() for uid in uids if _runs(pid, "controlplane") and uid in _cgroups(pid)]


def shim(pod: Object) -> int:
    """The pid of a pod's shim: the parent of its first processes."""
    uid = pod["metadata"]["uid"]
    inside = {pid for pid in _pids() if uid in _cgroups(pid)}
    parents = {_parent(pid) for pid in inside} - inside
    assert len(parents) == 1, f"pod {pod['metadata']['name']} has {len(parents)} shims"
    return parents.pop()


def kill(pid: int) -> None:
    """kill -9; a process that stands still ends, too."""
    os.kill(pid, signal.SIGKILL)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Meanwhile a process stands still; it may be killed."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


@contextmanager
def cut(node: Node) -> Iterator[None]:
    """Meanwhile nobody can fetch anything from the node; connections hang."""
    wall(node)
    try:
        yield
    finally:
        wall(node, do="--delete")


def wall(node: Node, do: str = "--insert") -> None:
    """Let nobody fetch anything from the node, as long as it is on."""
    rule = ("INPUT", "--protocol", "tcp", "--dport", str(TRANSFER_PORT), "--jump", "DROP")
    node.run(["iptables", "--wait", do, *rule])


@contextmanager
def damaged(node: Node, namespace: str) -> Iterator[None]:
    """Meanwhile a byte of what has left the node from there, or is kept, is another one."""
    state = Path(f"/var/lib/nodes/{node.name}/var/lib/architect")
    homes = (state / name / namespace for name in ("leaving", "kept"))
    largest = max((path for home in homes for path in home.rglob("pages-*.img")), key=_size)
    middle = _size(largest) // 2
    with largest.open("r+b") as file:  # goes with the file to wherever it is moved meanwhile
        file.seek(middle)
        (byte,) = file.read(1)
        for value in (byte ^ 255, byte):
            file.seek(middle)
            file.write(bytes([value]))
            file.flush()
            if value != byte:
                yield


def renew(api: Api, nodes: Sequence[Node]) -> None:
    """Replace what was killed: kubelet makes a container wait longer each time that it ends."""
    path = f"/api/v1/namespaces/{release.NAMESPACE}/pods"
    killed = [
        pod["metadata"]["name"]
        for pod in api.get(path)["items"]
        if any(each["restartCount"] for each in pod["status"].get("containerStatuses", []))
    ]
    for name in killed:
        api.delete(f"{path}/{name}", gracePeriodSeconds="5")
    for name in killed:
        api.await_gone(f"{path}/{name}")
    release.await_certified(nodes)
    deadline = time.monotonic() + _SECONDS
    while not leaders(api):
        assert time.monotonic() < deadline, "nobody leads"
        time.sleep(_PAUSE_SECONDS)


def _size(path: Path) -> int:
    return path.stat().st_size


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _runs(pid: int, module: str) -> bool:
    words = _read(f"/proc/{pid}/cmdline").split("\0")
    return words[0].endswith("python3") and words[1:3] == ["-m", module]


def _cgroups(pid: int) -> str:
    return _read(f"/proc/{pid}/cgroup")


def _parent(pid: int) -> int:
    lines = _read(f"/proc/{pid}/status").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("PPid:")), 0)


def _within(pid: int, node: Node) -> bool:
    """Whether it is in the node's own network namespace."""
    first = Path(f"/run/nodes/{node.name}.pid").read_text()
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/proc/{first}/ns/net").st_ino
    except FileNotFoundError:
        return False


def _one(what: str, is_it: Callable[[int], bool]) -> int:
    found = [pid for pid in _pids() if is_it(pid)]
    assert len(found) == 1, f"{what}: {found}"
    return found[0]
