"""The control plane goes for good: nothing of it holds up the deletion of records any more.

Run once when the release is deleted, `python3 -m controlplane.farewell`: a record that is under way carries a
finalizer, and nobody would be left to take it off; its namespace could never be deleted. The records stay,
for people to read.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import quote

from architect.kube import ApiError, Client, NoAccess, NotFound, in_cluster
from controlplane.resource import ALL, FINALIZER, collection


async def leave(client: Client) -> list[str]:
    """Takes the finalizer off every record; a sentence for each. Raises ApiError."""
    try:
        found = await client.all(ALL)
    except NotFound:  # the resource has never been there
        return []
    said = []
    for each in found:
        metadata = each["metadata"]
        if FINALIZER not in metadata.get("finalizers", ()):
            continue
        others = [name for name in metadata["finalizers"] if name != FINALIZER]
        path = f"{collection(metadata['namespace'])}/{quote(metadata['name'], safe='')}"
        try:
            await client.patch(path, {"metadata": {"finalizers": others or None}})
        except NotFound:
            continue  # it has ended meanwhile
        said.append(f"{metadata['namespace']}/{metadata['name']} was under way, and is not followed any more")
    return said


def main() -> int:
    """Say farewell; the exit code."""
    try:
        said = asyncio.run(_main())
    except (ApiError, NoAccess) as error:
        sys.stderr.write(f"records of migrations keep their finalizers: {error}\n")
        return 1
    sys.stderr.writelines(f"{sentence}\n" for sentence in said)
    return 0


async def _main() -> list[str]:
    async with Client(in_cluster()) as client:
        return await leave(client)


if __name__ == "__main__":
    sys.exit(main())
