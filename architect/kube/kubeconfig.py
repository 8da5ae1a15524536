"""A kubeconfig as kubectl reads it: contexts, certificates inline or in files, tokens, credential plugins.

Used by the command line, and by the daemon where it does not run in a pod. What kubectl no longer knows
(passwords, built-in cloud providers) is refused with a sentence.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import ssl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from architect.kube.access import Access, NoAccess, Renewed, read_token, trusting

DEFAULT: Final = "~/.kube/config"
_PLUGIN_SECONDS: Final = 60.0


def from_kubeconfig(path: str = "", context: str = "") -> Access:
    """The access of a context. `path`: a file; "": as $KUBECONFIG lists them, or ~/.kube/config.

    Raises NoAccess.
    """
    config = _Config.read(path)
    context = context or config.current
    if not context:
        raise NoAccess(f"{config.where} chooses no context; name one with --context")
    chosen = config.entry("contexts", "context", context)
    cluster = config.entry("clusters", "cluster", str(chosen.get("cluster") or ""))
    user = config.entry("users", "user", str(chosen["user"])) if chosen.get("user") else {}
    server = str(cluster.get("server") or "").rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise NoAccess(f"{config.where}: the cluster of context {context!r} has no server")
    if cluster.get("proxy-url"):
        raise NoAccess(f"{config.where}: proxy-url is not supported")
    certificate, token = _credentials(user, config.where)
    return Access(
        server,
        str(chosen.get("namespace") or "default"),
        _tls(cluster, certificate, config.where) if server.startswith("https") else lambda: None,
        token,
        str(cluster.get("tls-server-name") or ""),
    )


class _Config:
    """Some kubeconfig files as one; of two entries with one name the first counts, as for kubectl."""

    def __init__(self, where: str, documents: Sequence[Mapping[str, Any]]) -> None:
        self.where = where
        self._documents = documents
        self.current = next((str(d["current-context"]) for d in documents if d.get("current-context")), "")

    @classmethod
    def read(cls, path: str) -> _Config:
        listed = [path] if path else [p for p in os.environ.get("KUBECONFIG", "").split(":") if p]
        paths = [os.path.expanduser(p) for p in listed or [DEFAULT]]
        present = [p for p in paths if os.path.exists(p)]
        if not present:
            raise NoAccess(f"there is no kubeconfig {', '.join(paths)}; name one with --kubeconfig")
        return cls(", ".join(present), [_document(p) for p in present])

    def entry(self, plural: str, single: str, name: str) -> dict[str, Any]:
        for document in self._documents:
            for item in document.get(plural) or []:
                if isinstance(item, dict) and item.get("name") == name:
                    found = item.get(single)
                    return found if isinstance(found, dict) else {}
        raise NoAccess(f"{self.where}: there is no {single} {name!r}")


def _document(path: str) -> dict[str, Any]:
    import yaml  # 20 ms that nobody in a pod needs

    try:
        with open(path, "rb") as file:
            found = yaml.safe_load(file)
    except OSError as error:
        raise NoAccess(f"the kubeconfig cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise NoAccess(f"the kubeconfig {path} is no YAML: {error}") from error
    if not isinstance(found, dict):
        raise NoAccess(f"the kubeconfig {path} is empty")
    directory = os.path.dirname(os.path.abspath(path))
    for plural, single in (("clusters", "cluster"), ("users", "user")):
        for item in found.get(plural) or []:
            entry = item.get(single) if isinstance(item, dict) else None
            for key in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
                if isinstance(entry, dict) and entry.get(key):  # relative to the file that names them
                    entry[key] = os.path.join(directory, str(entry[key]))
    return found


Certificate = tuple[str | bytes, str | bytes]
"""A client's certificate and key: a path, or the PEM itself."""


def _credentials(user: Mapping[str, Any], where: str) -> tuple[Certificate | None, Callable[[], str]]:
    certificate: Certificate | None = None
    if user.get("exec"):
        status = _plugin(user["exec"], where)
        if status.get("clientCertificateData"):
            pair = status["clientCertificateData"], status.get("clientKeyData", "")
            certificate = str(pair[0]).encode(), str(pair[1]).encode()
        token = str(status.get("token") or "")
        return certificate, lambda: token
    public = _either(user, "client-certificate", where)
    private = _either(user, "client-key", where)
    if public is not None and private is not None:
        certificate = public, private
    if user.get("tokenFile"):
        return certificate, Renewed(str(user["tokenFile"]), read_token).get
    if user.get("username") or user.get("auth-provider"):
        raise NoAccess(f"{where}: passwords and auth-providers are no longer known to Kubernetes")
    fixed = str(user.get("token") or "")
    return certificate, lambda: fixed


def _either(entry: Mapping[str, Any], key: str, where: str) -> str | bytes | None:
    """`<key>-data`, decoded, or the path `<key>`, or None."""
    if entry.get(f"{key}-data"):
        try:
            return base64.b64decode(str(entry[f"{key}-data"]), validate=True)
        except binascii.Error as error:
            raise NoAccess(f"{where}: {key}-data is not base64") from error
    return str(entry[key]) if entry.get(key) else None


def _tls(
    cluster: Mapping[str, Any], certificate: Certificate | None, where: str
) -> Callable[[], ssl.SSLContext | None]:
    authority = _either(cluster, "certificate-authority", where)
    try:
        if isinstance(authority, bytes):
            context = ssl.create_default_context(cadata=authority.decode("ascii"))
        else:
            context = trusting(authority) if authority else ssl.create_default_context()
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate is not None:
            _present(context, *certificate)
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        raise NoAccess(f"{where}: its certificates cannot be used: {error}") from error
    return lambda: context


def _present(context: ssl.SSLContext, public: str | bytes, private: str | bytes) -> None:
    """Loads a client certificate. OpenSSL reads files only: PEM text goes through memory, not the disk."""
    kept: list[int] = []

    def path(part: str | bytes) -> str:
        if isinstance(part, str):
            return part
        fd = os.memfd_create("kubeconfig", os.MFD_CLOEXEC)
        kept.append(fd)
        os.write(fd, part)
        return f"/proc/self/fd/{fd}"

    try:
        context.load_cert_chain(path(public), path(private))
    finally:
        for fd in kept:
            os.close(fd)


def _plugin(wanted: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The status of a credential plugin's answer (client-go's exec plugins, `ExecCredential`)."""
    command = str(wanted.get("command") or "")
    argv = [command, *(str(argument) for argument in wanted.get("args") or [])]
    version = str(wanted.get("apiVersion") or "client.authentication.k8s.io/v1")
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    environment = dict(os.environ) | {"KUBERNETES_EXEC_INFO": json.dumps(info)}
    environment |= {str(e.get("name")): str(e.get("value")) for e in wanted.get("env") or []}
    try:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_PLUGIN_SECONDS,
        )
        status = json.loads(done.stdout)["status"]
        if not isinstance(status, dict):
            raise TypeError("its status is no object")
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()[-300:]
        raise NoAccess(f"{where}: the credential plugin {command} failed: {said}") from error
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise NoAccess(f"{where}: the credential plugin {command} gave no credential: {error}") from error
    return status
