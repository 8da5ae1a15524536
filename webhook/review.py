"""AdmissionReview (admission.k8s.io/v1): the API server's question read from bytes, and our answer to it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Final

from architect.settings import Refused
from architect.untrusted import Unreadable, parse
from webhook.mutation import Mutation
from webhook.pods import Fields, fields, text

MAX_BYTES: Final = 8 << 20
"""An object has at most 3 MiB in a request; it comes with the review around it, escaped."""

_MAX_UID: Final = 128
_DEPTH: Final = 64  # managedFields of a pod alone reach 17
_WARNING_CHARS: Final = 256  # the API server cuts longer ones
_WARNINGS: Final = 12  # and drops all beyond 4096 characters together
_UNPROCESSABLE: Final = 422
_API: Final = "admission.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Question:
    """One pod that is about to be created; `pod` is None when the question is about something else."""

    uid: str
    namespace: str
    name: str
    pod: Fields | None
    dry_run: bool


def read(body: bytes) -> Question:
    """Reads a review. Raises Unreadable for what is none; it is the API server that asks, or nobody."""
    review = parse(body, limit=MAX_BYTES, depth=_DEPTH)
    version = review.member("apiVersion").text(limit=64)
    if version != _API:
        review.refuse(f"is a review of {version}; {_API} is spoken here")
    request = review.member("request")
    uid = request.member("uid").text(limit=_MAX_UID)
    asked: dict[str, Any] = dict(request.mapping())
    pod = asked.get("object")
    metadata = fields(fields(asked, "object"), "metadata")
    concerns = (
        fields(asked, "kind").get("kind") == "Pod"
        and asked.get("operation") == "CREATE"
        and not asked.get("subResource")
        and isinstance(pod, dict)
    )
    return Question(
        uid=uid,
        namespace=text(asked, "namespace"),
        name=text(metadata, "name") or text(metadata, "generateName"),
        pod=pod if concerns else None,
        dry_run=asked.get("dryRun") is True,
    )


def allowed(uid: str, mutation: Mutation) -> bytes:
    """The answer that lets the pod pass, changed by the patch."""
    answer: dict[str, Any] = {"uid": uid, "allowed": True}
    if mutation.patch:
        answer["patchType"] = "JSONPatch"
        answer["patch"] = base64.b64encode(json.dumps(mutation.patch).encode()).decode()
    if mutation.warnings:
        answer["warnings"] = [f"architect: {each}"[:_WARNING_CHARS] for each in mutation.warnings[:_WARNINGS]]
    return _review(answer)


def denied(uid: str, error: Refused) -> bytes:
    """The answer that refuses the pod."""
    status = {"code": _UNPROCESSABLE, "reason": "Invalid", "message": str(error)}
    return _review({"uid": uid, "allowed": False, "status": status})


def _review(answer: dict[str, Any]) -> bytes:
    return json.dumps({"apiVersion": _API, "kind": "AdmissionReview", "response": answer}).encode()


__all__ = ["MAX_BYTES", "Question", "Unreadable", "allowed", "denied", "read"]
