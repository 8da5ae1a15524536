#!/usr/bin/env python3
"""Measures Architect beside plain runc: writes bench-node.json. Runs in a node (`make bench`).

The file, in the directory that the node may write for its caller, is a list of {name, unit, p50, p99, n}.
What is measured and how: bench_times.py, bench_costs.py.
"""

from __future__ import annotations

from hack.bench_costs import costs
from hack.bench_figures import Figures
from hack.bench_times import times
from hack.cri import Cri


def main() -> None:
    """Measure everything, in one run."""
    figures = Figures()
    with Cri() as cri:
        times(cri, figures)
        costs(cri, figures)
    figures.write("bench-node.json")


if __name__ == "__main__":
    main()
