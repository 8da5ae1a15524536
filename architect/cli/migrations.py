"""What `kubectl architect migrations` tells: the control plane's records, one entry for each container."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from architect.kube import Client, NotFound

API: Final = "/apis/architect.loopholelabs.io/v1alpha1"


async def recorded(client: Client, namespace: str) -> list[dict[str, Any]]:
    """Every container that moves or has moved, the last first; of a namespace, or with "" of all of them.

    None at all where the cluster knows no migrations. Raises ApiError.
    """
    where = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    try:
        records = await client.all(f"{API}{where}/migrations")
    except NotFound:
        return []
    entries = [entry for record in records for entry in moved(record)]
    return sorted(entries, key=lambda entry: float(entry["left"]), reverse=True)


def moved(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The containers of one record. Times are Unix seconds, and 0 for what has not happened."""
    spec, status = record.get("spec") or {}, record.get("status") or {}
    known = {str(part.get("name")): part for part in status.get("containers") or []}
    target, left = status.get("target") or {}, _moment(spec.get("leftTime"))
    entries = []
    for name in spec.get("containers") or []:
        part = known.get(str(name)) or {}
        state = str(part.get("state") or "Expected")
        over = _moment(part.get("since")) if state in ("Arrived", "Kept", "Lost") else 0.0
        entries.append(
            {
                "namespace": str(record["metadata"].get("namespace") or ""),
                "migration": str(record["metadata"]["name"]),
                "pod": str((spec.get("pod") or {}).get("name") or ""),
                "container": str(name),
                "from": str(spec.get("node") or ""),
                "to": str(target.get("node") or ""),
                "replacement": str(target.get("name") or ""),
                "state": state,
                "asleep": part.get("asleep") is True,
                "left": left,
                "seconds": round(max(0.0, over - left), 3) if over else 0.0,
                "bytes": int(part.get("sizeBytes") or 0),
                "received": int(part.get("receivedBytes") or 0),
                "freeze_us": int(part.get("freezeMicroseconds") or 0),
                "restore_us": int(part.get("restoreMicroseconds") or 0),
                "reason": str(part.get("reason") or ""),
            }
        )
    return entries


def _moment(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
