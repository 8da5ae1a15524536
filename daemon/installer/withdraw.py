"""Takes Architect off all nodes: `python3 -m daemon.installer.withdraw`, before a Helm release is deleted.

The node pods are told to uninstall instead of to install, by a change of their DaemonSet, and to give the
requests of sleepers back (`kubernetes/farewell.py`). This waits until each of them has done so. A node that
is down meanwhile keeps what it has, and is named.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

from daemon.installer.errors import Refused

DAEMON_SET: Final = "architectd"
_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_LOOK_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 30.0
_STAY: Final = "import signal; signal.sigwait({signal.SIGTERM})"


def main(argv: Sequence[str] | None = None) -> int:
    """Withdraw; the exit code."""
    parser = argparse.ArgumentParser("python3 -m daemon.installer.withdraw", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the nodes may take")
    options = parser.parse_args(argv)
    try:
        withdraw(ClusterApi(), options.seconds)
    except (Refused, OSError, http.client.HTTPException) as error:
        print(f"installer: {error}", file=sys.stderr)
        return 1
    return 0


def patch(daemon_set: dict[str, Any]) -> dict[str, Any]:
    """What makes the node pods uninstall: a strategic merge patch, which merges lists by name."""
    (installer,) = daemon_set["spec"]["template"]["spec"]["initContainers"][:1]
    farewell = {
        "name": "farewell",
        "image": installer["image"],
        "imagePullPolicy": installer["imagePullPolicy"],
        "command": ["python3", "-m", "daemon.kubernetes.farewell", "--node-name=$(NODE_NAME)"],
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    uninstaller = {"name": "installer", "command": ["python3", "-m", "daemon.installer", "uninstall"]}
    stay = {
        "name": "architectd",
        "command": ["python3", "-c", _STAY],
        "args": [],
        "readinessProbe": None,
        "volumeMounts": [{"$patch": "replace"}],
    }
    pods = {
        "initContainers": [farewell, uninstaller],
        "containers": [stay],
        # kubelet would make the folders again that are being removed.
        "volumes": [{"$patch": "replace"}],
    }
    return {
        "spec": {
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {
                "metadata": {"annotations": {"architect.loopholelabs.io/withdrawn": "true"}},
                "spec": pods,
            },
        }
    }


class Api(Protocol):
    """The DaemonSet, to be read and patched."""

    def call(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]: ...


def progress(daemon_set: dict[str, Any]) -> tuple[int, int]:
    """How many nodes are done, and how many there are; (0, 1) while the change is not yet seen."""
    status = daemon_set.get("status", {})
    wanted = int(status.get("desiredNumberScheduled", 0))
    if int(status.get("observedGeneration", 0)) < int(daemon_set["metadata"]["generation"]):
        return 0, max(1, wanted)
    # Ready pods may be of before; unavailable ones are still at it.
    updated, ready = int(status.get("updatedNumberScheduled", 0)), int(status.get("numberReady", 0))
    return min(updated, ready), wanted


def withdraw(api: Api, seconds: float) -> None:
    """Tell the nodes and wait for them. Raises Refused when not all are done in time."""
    api.call("PATCH", patch(api.call("GET")))
    deadline = time.monotonic() + seconds
    while True:
        done, wanted = progress(api.call("GET"))
        if done >= wanted:
            print(f"{wanted} nodes are as they were before Architect")
            return
        if time.monotonic() > deadline:
            raise Refused(
                f"{wanted - done} of {wanted} nodes did not uninstall within {seconds:.0f} s: see the logs of"
                f" the pods of DaemonSet {DAEMON_SET} that are not ready. `helm uninstall --no-hooks` leaves"
                " these nodes as they are"
            )
        time.sleep(_LOOK_SECONDS)


class ClusterApi:
    """The DaemonSet at the API server, by the pod's service account."""

    def __init__(self) -> None:
        with open(f"{_ACCOUNT}/namespace", encoding="ascii") as file:
            namespace = file.read().strip()
        self._path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{DAEMON_SET}"
        self._tls = ssl.create_default_context(cafile=f"{_ACCOUNT}/ca.crt")
        self._host = os.environ["KUBERNETES_SERVICE_HOST"]
        self._port = int(os.environ["KUBERNETES_SERVICE_PORT"])

    def call(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request; the DaemonSet as it is then. Raises Refused with the API's sentence."""
        with open(f"{_ACCOUNT}/token", encoding="ascii") as file:
            headers = {"Authorization": f"Bearer {file.read().strip()}", "Accept": "application/json"}
        if body:
            headers["Content-Type"] = "application/strategic-merge-patch+json"
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=_ANSWER_SECONDS, context=self._tls
        )
        try:
            connection.request(method, self._path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            found = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK or not isinstance(found, dict):
            raise Refused(
                f"the API server refused {method} {self._path}: {found.get('message', answer.status)}"
            )
        return found


if __name__ == "__main__":
    sys.exit(main())
