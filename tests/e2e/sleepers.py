"""Pods that sleep, as a user of Kubernetes sees them: made with one label, looked at through the API."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from hack.api import Api, Object, has_condition
from hack.nodes import Node
from tests.e2e import release
from tests.e2e.conftest import deployment

PREFIX: Final = "architect.loopholelabs.io"
STATUS: Final = f"status.{PREFIX}/app"
LIMITS: Final = {
    "requests": {"cpu": "100m", "memory": "60Mi"},
    "limits": {"cpu": "1", "memory": "200Mi"},
}
NOTHING: Final = {"cpu": "0", "memory": "1"}
"""What a sleeper requests: a byte of memory, since kubelet does not carry out less."""
_SECONDS: Final = 60.0


def sleeping(
    name: str,
    image: str = "web",
    *,
    node: Node | None = None,
    idle: str = "2s",
    replicas: int = 1,
    annotations: Mapping[str, str] | None = None,
    **container: Any,
) -> Object:
    """A Deployment of a test image with the one label; its container sleeps after `idle`."""
    made = deployment(name, image, replicas=replicas, **{"resources": LIMITS, **container})
    template = made["spec"]["template"]
    template["metadata"]["labels"] |= {f"{PREFIX}/hibernate": "true"}
    durations = json.dumps({"app": idle})
    template["metadata"]["annotations"] = {f"{PREFIX}/scaledown-durations": durations, **(annotations or {})}
    if node:
        template["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node.name}
    return made


@dataclass(frozen=True)
class Sleeper:
    """A pod whose container `app` sleeps."""

    api: Api
    namespace: str
    name: str

    @property
    def path(self) -> str:
        """Where the API has it."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    def read(self) -> Object:
        """The pod as it is now."""
        return self.api.get(self.path)

    @property
    def address(self) -> str:
        """Its address among the pods."""
        return str(self.read()["status"]["podIP"])

    def await_label(self, value: str, seconds: float = _SECONDS) -> Object:
        """Wait until its label says so; the pod then."""
        return self.api.await_object(
            self.path, lambda seen: seen["metadata"]["labels"].get(STATUS) == value, seconds
        )

    def await_asleep(self, seconds: float = _SECONDS) -> Object:
        """Wait until it sleeps and has given its requests back; the pod then."""
        self.await_label("SCALED_DOWN", seconds)
        return self.await_requests(NOTHING, seconds)

    def await_awake(self, seconds: float = _SECONDS) -> Object:
        """Wait until it is said to run and has its requests, none kept aside; the pod then.

        It is held awake meanwhile: kubelet may take longer over a resize than the pod's idle time.
        """
        with self.held_awake():
            self.await_label("RUNNING", seconds)
            self.await_requests(LIMITS["requests"], seconds)
            return self.api.await_object(
                self.path,
                lambda seen: not any("-requests" in key for key in seen["metadata"]["annotations"]),
                seconds,
            )

    def hibernate(self) -> None:
        """Put it to sleep by `kubectl architect hibernate`."""
        command = ("python3", "-c", "from architect.cli import kubectl; kubectl()", "hibernate")
        release.run(*command, f"--namespace={self.namespace}", f"{self.name}/app")

    @contextmanager
    def held_awake(self) -> Iterator[None]:
        """Meanwhile an exec runs in it, and whoever has one does not fall asleep."""
        argv = ["kubectl", f"--namespace={self.namespace}", "exec", "--stdin", self.name, "--", "cat"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as held:
            assert held.stdin
            assert held.stdout
            try:
                held.stdin.write("held\n")
                held.stdin.flush()
                assert held.stdout.readline() == "held\n", "it cannot be held awake"
                yield
            finally:
                held.stdin.close()

    def await_requests(self, wanted: Mapping[str, str], seconds: float = _SECONDS) -> Object:
        """Wait until kubelet has allotted these requests; the pod then."""
        return self.api.await_object(
            self.path, lambda seen: app(seen)["allocatedResources"] == wanted, seconds
        )

    def reasons(self) -> dict[str, int]:
        """How often its Events say what."""
        listed = self.api.get(
            f"/api/v1/namespaces/{self.namespace}/events", fieldSelector=f"involvedObject.name={self.name}"
        )
        counts: dict[str, int] = {}
        for each in listed["items"]:
            counts[each["reason"]] = counts.get(each["reason"], 0) + int(each.get("count") or 1)
        return counts

    def await_events(self, known: Object, seconds: float = _SECONDS) -> None:
        """Wait until its Events have told of every sleep and wake that `known_to` its node."""
        for reason, counter in (("ScaleDownCompleted", "sleeps"), ("ScaleUpCompleted", "wakes")):
            self.await_reason(reason, known[counter], seconds)
            assert self.reasons().get(reason, 0) == known[counter]

    def await_reason(self, reason: str, count: int = 1, seconds: float = _SECONDS) -> None:
        """Wait until its Events have told of that so often."""
        self.api.await_list(
            f"/api/v1/namespaces/{self.namespace}/events",
            lambda found: sum(int(each.get("count") or 1) for each in found) >= count,
            seconds,
            fieldSelector=f"involvedObject.name={self.name},reason={reason}",
        )


def pods_of(api: Api, namespace: str, name: str, count: int = 1) -> list[Sleeper]:
    """The pods of a Deployment, when there are so many and all are ready, sorted by node."""
    found = api.await_list(
        f"/api/v1/namespaces/{namespace}/pods",
        lambda pods: len(pods) == count and all(has_condition(pod, "Ready") for pod in pods),
        labelSelector=f"app={name}",
    )
    found.sort(key=lambda pod: str(pod["spec"]["nodeName"]))
    return [Sleeper(api, namespace, pod["metadata"]["name"]) for pod in found]


def app(pod: Object) -> Object:
    """The status of its container `app`."""
    status: Object = next(each for each in pod["status"]["containerStatuses"] if each["name"] == "app")
    return status


def never_disturbed(pod: Object) -> bool:
    """Whether it has been Running and Ready, with no restart, ever since it was first ready."""
    ready = next(each for each in pod["status"]["conditions"] if each["type"] == "Ready")
    return (
        pod["status"]["phase"] == "Running"
        and ready["status"] == "True"
        and app(pod)["ready"]
        and app(pod)["restartCount"] == 0
        and "terminated" not in app(pod)["lastState"]
    )


def ready_since(pod: Object) -> str:
    """When it last became ready."""
    return str(
        next(each for each in pod["status"]["conditions"] if each["type"] == "Ready")["lastTransitionTime"]
    )


def fetch(node: Node, url: str) -> str:
    """What `url` answers to the node, at the first attempt."""
    return node.run(["curl", "--silent", "--show-error", "--fail", "--max-time", "30", url])


def known_to(node: Node, pod: Sleeper) -> Object:
    """The pod's container as the node's daemon knows it."""
    url = ["--unix-socket", "/run/architect/architectd.sock", "http://architectd/v1/containers"]
    found = json.loads(node.run(["curl", "--silent", "--fail", *url]))["containers"]
    mine: Object = next(each for each in found if each["pod"] == pod.name)
    return mine


@contextmanager
def port_forward(namespace: str, pod: str) -> Iterator[str]:
    """The URL of a port of ours that leads to the pod's port 8080."""
    argv = ["kubectl", f"--namespace={namespace}", "port-forward", f"pod/{pod}", ":8080"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout
            line = forward.stdout.readline()
            yield f"http://127.0.0.1:{line.rpartition(' -> ')[0].rpartition(':')[2]}"
        finally:
            forward.terminate()
