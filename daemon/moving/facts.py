"""What a checkpoint needs of a machine: told by the source, compared by the target before it fetches."""

from __future__ import annotations

import functools
import os

from architect.images.manifest import Manifest
from architect.migration.v1 import migration_pb2 as v1


def of_image(manifest: Manifest, image_digest: str) -> v1.Facts:
    """Of an image that was made on this machine, since it was booted or before. `image_digest`: of the image
    that its container was made from, "" when that is not known.
    """
    return v1.Facts(
        architecture=manifest.arch,
        kernel_release=manifest.kernel,
        cpu_flags=cpu_flags(),
        criu_version=manifest.facts.versions.get("criu", ""),
        engine=manifest.facts.engine,
        image_digest=image_digest,
    )


def of_machine(image_digest: str) -> v1.Facts:
    """As `of_image`, while that is being written: what is known of it before."""
    host = os.uname()
    return v1.Facts(
        architecture=host.machine,
        kernel_release=host.release,
        cpu_flags=cpu_flags(),
        image_digest=image_digest,
    )


def unfit(facts: v1.Facts) -> str:
    """Why what needs `facts` can not be restored on this machine, as a sentence; "" when nothing is known to
    speak against it. What the containers must have in common the shim knows.
    """
    host = os.uname()
    if facts.architecture != host.machine:
        return (
            f"it was dumped on {facts.architecture or 'another kind of machine'}, and this is {host.machine}"
        )
    if facts.kernel_release != host.release:
        return f"it was dumped under kernel {facts.kernel_release or '?'}, and this is {host.release}"
    lacking = sorted(set(facts.cpu_flags) - set(cpu_flags()))
    more = sorted(set(cpu_flags()) - set(facts.cpu_flags))
    if lacking:
        return f"this processor lacks {', '.join(lacking[:5])}"
    if more:
        # What was saved of a process has another layout there: XSAVE's, by the processor's features.
        return f"the processor it was dumped on lacks {', '.join(more[:5])}"
    return ""


def other_image(then: str, now: str) -> str:
    """Why it does not go on in a container made from another image by the same name, as a sentence; "" when
    that is the same, or one of the two digests is not known.
    """
    if not (then and now) or then == now:
        return ""
    return f"its image is another one here by the same name ({_short(then)} then, {_short(now)} now)"


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 12]


@functools.cache
def cpu_flags() -> tuple[str, ...]:
    """The processor's features as the kernel lists them, sorted."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):  # x86, arm64
                return tuple(sorted(value.split()))
    return ()
