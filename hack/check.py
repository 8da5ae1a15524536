#!/usr/bin/env python3
"""What `make` runs: lint, test, test-vm, bench, demo; each in throw-away nodes, with one closing table.

Every step runs even when one before it failed; the exit status is 1 then. A flavour that this host cannot
offer is skipped and said so; when none ran, that is a failure.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import bench_figures
import box
import cluster
import footprint
import images
import programs
import recipe
import shipped
import trees
import vm

_QUIET = ["-p", "no:cacheprovider"]
_SHOWN = 20
"""Of what was left behind, so many are named."""
# A machine is emulated: it gets what depends on the kernel, and `make test` the heart of that.
_SHORT_IN_MACHINE = [f"tests/node/test_{name}.py" for name in ("stock_kernel", "sleep_and_wake")]
_ROW = "test_what_it_holds_is_kept_asleep_or_it_runs_on_and_says_why"
_ROWS_IN_MACHINE = (
    "processes-another_user",
    "memory-huge_pages",
    "files-watched_files",
    "sockets-crypto_socket",
    "sockets-sctp_socket",
)
_HOST_SCRIPTS = [
    *("node.py", "cluster.py", "check.py", "footprint.py", "vm.py"),
    *("init.py", "cluster_node.py", "services.py", "vm_init.py", "node_tree.py", "shipped.py"),
]
_IN_MACHINE = [
    *_SHORT_IN_MACHINE,
    *(f"tests/node/test_{name}.py" for name in ("exits", "packets")),
    "tests/gate",
    # What the boxes lack: CAP_SYS_RESOURCE, huge pages, and kernel modules.
    *(f"tests/node/test_what_criu_can.py::{_ROW}[{row}]" for row in _ROWS_IN_MACHINE),
]
_LINT: dict[str, list[str]] = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "mypy hack": ["env", "--chdir=hack", "mypy", "--config-file=../pyproject.toml", *_HOST_SCRIPTS],
    "imports": ["lint-imports", "--no-cache"],
}


def main() -> int:
    """Run the named check; returns the exit status."""
    verb = sys.argv[1] if len(sys.argv) == 2 else ""
    checks = {"lint": _lint, "test": _test, "test-vm": _test_vm, "bench": _bench, "demo": _demo}
    if verb not in checks:
        print(f"usage: check.py {'|'.join(checks)}", file=sys.stderr)
        return 2
    before = footprint.take()
    try:
        results = checks[verb]()
    except (trees.BuildFailed, programs.Unknown, TimeoutError) as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 1
    results["nothing left behind"] = _judged(footprint.remains(before, footprint.take()))
    print()
    for name, outcome in results.items():
        print(f"{name:24} {outcome}")
    outcomes = list(results.values())[:-1]
    nothing_ran = all(outcome.startswith("skipped") for outcome in outcomes)
    return int(nothing_ran or any(outcome.startswith("FAILED") for outcome in results.values()))


def _lint() -> dict[str, str]:
    forky = recipe.FLAVOURS["forky-v1"] if _offered("forky-v1") else recipe.FLAVOURS["forky-v2"]
    return {name: _step(name, forky, argv, node=False) for name, argv in _LINT.items()}


def _test() -> dict[str, str]:
    first = next((name for name in recipe.TESTED if _offered(name)), recipe.TESTED[0])
    argv = ["pytest", *_QUIET, "tests", *(f"--ignore=tests/{part}" for part in ("node", "e2e", "deploy"))]
    results = {"unit tests": _step("unit tests", recipe.FLAVOURS[first], argv)}
    for name in recipe.TESTED:
        title = f"node tests {name}"
        results[title] = _step(title, recipe.FLAVOURS[name], ["pytest", *_QUIET, "tests/node"])
    title = f"cluster tests {recipe.KUBERNETES}"
    results[title] = _cluster_step(title, ["pytest", *_QUIET, "tests/deploy", "tests/e2e", "tests/kube"])
    return results | _in_machine(_SHORT_IN_MACHINE)


def _test_vm() -> dict[str, str]:
    # Long runs are left out: in there, everything takes ten times as long.
    return _in_machine(["-k", "not 200_cycles and not 500_connections", *_IN_MACHINE])


def _in_machine(argv: list[str]) -> dict[str, str]:
    argv = ["pytest", *_QUIET, "--timeout=600", *argv]
    print(f"\n--- {' '.join(argv)}", flush=True)
    started = time.monotonic()
    status = vm.run(argv)
    outcome = "passed" if status == 0 else f"FAILED (exit status {status})"
    return {"tests on a stock kernel": f"{outcome}, {time.monotonic() - started:.0f} s"}


def _bench() -> dict[str, str]:
    """On a node, then on a cluster: one table, and one bench.json when neither failed."""
    node, cluster_ = "bench on a node", "bench on a cluster"
    results = {
        node: _step(node, recipe.FLAVOURS["forky-v1"], ["python3", "hack/bench.py"]),
        cluster_: _cluster_step(cluster_, ["python3", "hack/bench_cluster.py"]),
    }
    rows: list[bench_figures.Row] = []
    for title, file_name in ((node, "bench-node.json"), (cluster_, "bench-cluster.json")):
        if results[title].startswith("passed"):
            with open(os.path.join(recipe.OUT, file_name), encoding="utf-8") as file:
                rows += json.load(file)
    print(bench_figures.table(rows))
    if not any(outcome.startswith("FAILED") for outcome in results.values()):
        bench_figures.write(os.path.join(recipe.CHECKOUT, "bench.json"), rows)
    return results


def _demo() -> dict[str, str]:
    name = next((name for name in recipe.TESTED if _offered(name)), recipe.TESTED[0])
    return {"demo": _step("demo", recipe.FLAVOURS[name], ["python3", "hack/demo.py"])}


def _offered(name: str) -> bool:
    return not box.obstacle(recipe.FLAVOURS[name])


def _step(title: str, flavour: recipe.Flavour, argv: list[str], *, node: bool = True) -> str:
    obstacle = box.obstacle(flavour)
    if obstacle:
        return f"skipped: {obstacle}"
    loaded = images.directory() if node else ""
    contents = box.Contents({"/opt/images": loaded, **shipped.binds()}) if node else None
    return _timed(title, argv, lambda: box.run(flavour, argv, images=loaded, contents=contents))


def _cluster_step(title: str, argv: list[str]) -> str:
    obstacle = cluster.obstacle()
    return f"skipped: {obstacle}" if obstacle else _timed(title, argv, lambda: cluster.run(argv))


def _timed(title: str, argv: list[str], run: Callable[[], int]) -> str:
    print(f"\n--- {title}: {' '.join(argv)}", flush=True)
    started = time.monotonic()
    status = run()
    outcome = "passed" if status == 0 else f"FAILED (exit status {status})"
    return f"{outcome}, {time.monotonic() - started:.0f} s"


def _judged(found: list[str]) -> str:
    more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "\n  ".join(["FAILED", *found[:_SHOWN]]) + more if found else "passed"


if __name__ == "__main__":
    sys.exit(main())
