"""Starts a cluster in this box, then becomes its command: `python3 -m hack.cluster_up -- COMMAND...`.

The control plane (etcd, API server, controllers, scheduler) runs in the box itself, each node in a box within
it (nodes.py). Order is what makes it quick: nodes boot while the API server starts, kubelets start when it
answers, so that no back-off is waited for. The trap: the API server has no kube-proxy beside it; it reaches
webhooks because `--enable-aggregator-routing` makes it resolve Services to their pods, which the box routes
to.
"""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from hack import api, nodes, services
from hack.certificates import Authority
from hack.nodes import CONTROL_PLANE, PODS, Node

ETC: Final = "/etc/kubernetes"
SERVICES: Final = "10.96.0.0/16"
_FIRST_SERVICE: Final = "10.96.0.1"
_SERVER: Final = f"https://{CONTROL_PLANE}:6443"
_PROGRAMS: Final = "/opt/kubernetes"
_NAMES: Final = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
                 "kubernetes.default.svc.cluster.local")  # fmt: skip

# user -> its groups
_USERS: Final = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
}


def main() -> None:
    """Start the cluster, say how long it took, become the command."""
    started = time.monotonic()
    try:
        number = _start()
    except BaseException:
        keep_logs("/out/cluster")
        raise
    print(f"cluster of {number} nodes up in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    argv = sys.argv[sys.argv.index("--") + 1 :]
    os.execvp(argv[0], argv)


def keep_logs(directory: str) -> None:
    """Copy what control plane and nodes have logged to `directory`."""
    shutil.rmtree(directory, ignore_errors=True)
    places = {"control-plane": "/var/log"}
    for name in os.listdir(f"{ETC}/nodes"):
        places[name] = f"/var/lib/nodes/{name}/root.upper/var/log"
    for name, place in places.items():
        os.makedirs(f"{directory}/{name}")
        for log in glob.glob(f"{place}/*.log"):
            shutil.copy(log, f"{directory}/{name}")
        for log in glob.glob(f"{place}/pods/architect_*/*/*.log"):  # NAMESPACE_POD_UID/CONTAINER/RUN.log
            pod, container, run = log.split("/")[-3:]
            shutil.copy(log, f"{directory}/{name}/{pod.split('_')[1]}-{container}-{run}")


def _start() -> int:
    made_of = json.loads(os.environ["CLUSTER"])
    members = [Node(number) for number in range(1, len(made_of["nodes"]) + 1)]
    _keys(members)
    tokens = _tokens(members)
    for member, place in zip(members, made_of["nodes"], strict=True):
        _furnish(member, place, made_of["cgroups"], tokens)
    _write(f"{ETC}/admin.conf", json.dumps(kubeconfig(_SERVER, f"{ETC}/ca.crt", tokens["admin"])))
    for user, file in (
        ("system:kube-controller-manager", "controllers"),
        ("system:kube-scheduler", "scheduler"),
    ):
        _write(f"{ETC}/{file}.conf", json.dumps(kubeconfig(_SERVER, f"{ETC}/ca.crt", tokens[user])))
    _write(
        services.TABLE, json.dumps({name: _service(name, argv) for name, argv in _control_plane().items()})
    )
    _write("/proc/sys/net/ipv4/ip_forward", "1")
    nodes.connect(members, SERVICES)
    services.start("etcd", "kube-apiserver")
    client = api.Api(f"{ETC}/admin.conf")
    with ThreadPoolExecutor() as pool:
        booting = [pool.submit(member.boot, members) for member in members]
        client.await_ready()
        services.start("kube-controller-manager", "kube-scheduler")
        for member, boot in zip(members, booting, strict=True):
            boot.result()
            member.start("kubelet", "kube-proxy")
    await_nodes(client, len(members))
    client.await_object("/api/v1/namespaces/default/serviceaccounts/default", bool)
    return len(members)


def await_nodes(client: api.Api, number: int) -> None:
    """Wait until that many nodes are ready. Raises TimeoutError."""
    client.await_list(
        "/api/v1/nodes",
        lambda found: len([each for each in found if api.has_condition(each, "Ready")]) == number,
    )


def kubeconfig(server: str, authority: str, token: str) -> dict[str, Any]:
    """A kubeconfig; written as JSON, which is YAML as well. `authority` is a path."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "box", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "box", "context": {"cluster": "box", "user": "user"}}],
        "current-context": "box",
    }


def _keys(members: list[Node]) -> None:
    authority = Authority(ETC)
    addresses = (CONTROL_PLANE, _FIRST_SERVICE, "127.0.0.1")
    names = [*(f"IP:{each}" for each in addresses), *(f"DNS:{each}" for each in _NAMES)]
    with ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(authority.issue, "apiserver", "/CN=kube-apiserver", names),
            pool.submit(authority.issue, "apiserver-kubelet", "/O=system:masters/CN=apiserver-kubelet"),
            pool.submit(authority.issue, "accounts", "/CN=accounts"),
            *(
                pool.submit(
                    authority.issue, each.name, f"/CN={each.name}", [f"IP:{each.address}", f"DNS:{each.name}"]
                )
                for each in members
            ),
        ]
        for job in jobs:
            job.result()


def _tokens(members: list[Node]) -> dict[str, str]:
    users = {**_USERS, **{f"system:node:{each.name}": "system:nodes" for each in members}}
    tokens = {user: secrets.token_hex(16) for user in users}
    lines = [f'{tokens[user]},{user},{user},"{group}"\n' for user, group in users.items()]
    _write(f"{ETC}/tokens.csv", "".join(lines))
    return tokens


def _control_plane() -> dict[str, list[str]]:
    """Command lines by service."""
    store = "http://127.0.0.1:2379"
    authority = f"{ETC}/ca.crt"
    return {
        "etcd": [
            "etcd",
            "--data-dir=/var/lib/etcd",
            "--unsafe-no-fsync",  # the box does not outlive a power failure
            "--log-level=warn",
            f"--listen-client-urls={store}",
            f"--advertise-client-urls={store}",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ],
        "kube-apiserver": [
            "kube-apiserver",
            f"--etcd-servers={store}",
            f"--advertise-address={CONTROL_PLANE}",
            f"--tls-cert-file={ETC}/apiserver.crt",
            f"--tls-private-key-file={ETC}/apiserver.key",
            f"--client-ca-file={authority}",
            f"--token-auth-file={ETC}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--enable-aggregator-routing=true",
            f"--service-cluster-ip-range={SERVICES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={ETC}/accounts.crt",
            f"--service-account-signing-key-file={ETC}/accounts.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={authority}",
            f"--kubelet-client-certificate={ETC}/apiserver-kubelet.crt",
            f"--kubelet-client-key={ETC}/apiserver-kubelet.key",
        ],
        "kube-controller-manager": [
            "kube-controller-manager",
            f"--kubeconfig={ETC}/controllers.conf",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={ETC}/accounts.key",
            f"--root-ca-file={authority}",
            f"--cluster-signing-cert-file={authority}",
            f"--cluster-signing-key-file={ETC}/ca.key",
        ],
        "kube-scheduler": ["kube-scheduler", f"--kubeconfig={ETC}/scheduler.conf", "--leader-elect=false"],
    }


def _service(program: str, argv: list[str]) -> dict[str, Any]:
    return {"argv": [f"{_PROGRAMS}/{program}", *argv[1:]], "cri": ""}


def _furnish(member: Node, tree: str, cgroups: int, tokens: dict[str, str]) -> None:
    """Write what the node finds in its /etc/kubernetes."""
    at = f"{ETC}/nodes/{member.name}"
    os.makedirs(at)
    for source, target in (
        ("ca.crt", "ca.crt"),
        (f"{member.name}.crt", "kubelet.crt"),
        (f"{member.name}.key", "kubelet.key"),
    ):
        shutil.copy(f"{ETC}/{source}", f"{at}/{target}")
    for user, name in ((f"system:node:{member.name}", "kubelet"), ("system:kube-proxy", "kube-proxy")):
        _write(f"{at}/{name}.conf", json.dumps(kubeconfig(_SERVER, f"{ETC}/ca.crt", tokens[user])))
    _write(f"{at}/kubelet.json", json.dumps(_kubelet()))
    _write(f"{at}/kube-proxy.json", json.dumps(_kube_proxy(member)))
    _write(f"{at}/node.json", json.dumps({"tree": tree, "cgroups": cgroups, "pods": member.pods}))
    kubelet = [
        "kubelet",
        f"--config={ETC}/kubelet.json",
        f"--kubeconfig={ETC}/kubelet.conf",
        f"--node-ip={member.address}",
        f"--hostname-override={member.name}",
        "--housekeeping-interval=2s",  # what it says of memory is 10 s old otherwise
    ]
    table = {
        "containerd": {"argv": ["containerd"], "cri": "/run/containerd/containerd.sock"},
        "kubelet": _service("kubelet", kubelet),
        "kube-proxy": _service("kube-proxy", ["kube-proxy", f"--config={ETC}/kube-proxy.json"]),
    }
    _write(f"{at}/services.json", json.dumps(table))


def _kubelet() -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{ETC}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{ETC}/kubelet.crt",
        "tlsPrivateKeyFile": f"{ETC}/kubelet.key",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        # The machine belongs to others: what is full or swapped there is none of a node's business.
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "failSwapOn": False,
        "failCgroupV1": False,
        # It tolerates kernel settings and OOM scores that it may not set.
        "featureGates": {"KubeletInUserNamespace": True},
        "oomScoreAdj": 0,
    }


def _kube_proxy(member: Node) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{ETC}/kube-proxy.conf"},
        "hostnameOverride": member.name,
        "mode": "iptables",  # nftables asks for more than some kernels have
        "clusterCIDR": PODS,
        "detectLocalMode": "ClusterCIDR",
        # Kernel settings of the whole machine stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "oomScoreAdj": 0,
    }


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
