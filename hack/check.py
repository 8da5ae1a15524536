#!/usr/bin/env python3
"""What `make` runs: lint, test, test-vm, bench, demo; each in throw-away nodes, with one closing table.

The exit status is 1 when a step failed. A flavour that this host cannot offer is skipped and said so; when
none ran, that is a failure.
"""

from __future__ import annotations

import json
import os
import sys

import bench_figures
import box
import cluster
import footprint
import recipe
import steps
from steps import Step

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
    *("node.py", "cluster.py", "check.py", "footprint.py", "steps.py", "vm.py"),
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
    results = checks[verb]()
    results["nothing left behind"] = _judged(footprint.remains(before, footprint.take()))
    print()
    for name, outcome in results.items():
        print(f"{name:24} {outcome}")
    outcomes = list(results.values())[:-1]
    nothing_ran = all(outcome.startswith("skipped") for outcome in outcomes)
    return int(nothing_ran or any(outcome.startswith("FAILED") for outcome in results.values()))


def _lint() -> dict[str, str]:
    return steps.in_turn([_on_node(name, _first(), argv, "--bare") for name, argv in _LINT.items()])


def _test() -> dict[str, str]:
    """Two at a time: most of what tests take is waiting, for disks, for the kernel, for time to pass."""
    unit = ["pytest", *_QUIET, "tests", *(f"--ignore=tests/{part}" for part in ("node", "e2e", "deploy"))]
    on_cluster = ["pytest", *_QUIET, "tests/deploy", "tests/e2e", "tests/kube"]
    nodes = []
    for name in recipe.TESTED:
        chosen = [] if name == _first() else ["-m", "not same_everywhere"]
        argv = ["pytest", *_QUIET, *chosen, "tests/node"]
        nodes.append(_on_node(f"node tests {name}", name, argv, "--shipped"))
    found = [
        _on_cluster(f"cluster tests {recipe.KUBERNETES}", on_cluster),  # the longest one
        *nodes,
        _on_node("unit tests", _first(), unit, "--shipped"),
        _in_machine(_SHORT_IN_MACHINE),
    ]
    return steps.side_by_side(found, 2)


def _test_vm() -> dict[str, str]:
    # Long runs are left out: in there, everything takes ten times as long.
    return steps.in_turn([_in_machine(["-k", "not 200_cycles and not 500_connections", *_IN_MACHINE])])


def _bench() -> dict[str, str]:
    """On a node, then on a cluster: one table, and one bench.json when neither failed."""
    results = steps.in_turn(
        [
            _on_node("bench on a node", "forky-v1", ["python3", "hack/bench.py"]),
            _on_cluster("bench on a cluster", ["python3", "hack/bench_cluster.py"]),
        ]
    )
    rows: list[bench_figures.Row] = []
    for outcome, file_name in zip(results.values(), ("bench-node.json", "bench-cluster.json"), strict=True):
        if outcome.startswith("passed"):
            with open(os.path.join(recipe.OUT, file_name), encoding="utf-8") as file:
                rows += json.load(file)
    print(bench_figures.table(rows))
    if not any(outcome.startswith("FAILED") for outcome in results.values()):
        bench_figures.write(os.path.join(recipe.CHECKOUT, "bench.json"), rows)
    return results


def _demo() -> dict[str, str]:
    return steps.in_turn([_on_node("demo", _first(), ["python3", "hack/demo.py"])])


def _first() -> str:
    """The first flavour that this host offers."""
    offered = [name for name in recipe.TESTED if not box.obstacle(recipe.FLAVOURS[name])]
    return offered[0] if offered else recipe.TESTED[0]


def _on_node(title: str, flavour: str, argv: list[str], *switches: str) -> Step:
    command = ["node.py", "run", *switches, flavour, "--", *argv]
    return Step(title, command, box.obstacle(recipe.FLAVOURS[flavour]))


def _on_cluster(title: str, argv: list[str]) -> Step:
    return Step(title, ["cluster.py", "run", "--", *argv], cluster.obstacle())


def _in_machine(argv: list[str]) -> Step:
    pytest = ["pytest", *_QUIET, "--timeout=600", *argv]
    return Step("tests on a stock kernel", ["vm.py", "run", "--", *pytest])


def _judged(found: list[str]) -> str:
    more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "\n  ".join(["FAILED", *found[:_SHOWN]]) + more if found else "passed"


if __name__ == "__main__":
    sys.exit(main())
