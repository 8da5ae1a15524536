#!/usr/bin/env python3
"""Measures Architect on Kubernetes: writes bench-cluster.json. Runs beside a control plane (`make bench`).

The cluster is as the tests have it, and Architect on it as its chart installs it. The file is as that of
bench.py. What is measured and how: bench_cluster_times.py, bench_cluster_costs.py, bench_cluster_moves.py.
"""

from __future__ import annotations

from typing import Final

from hack.api import Api
from hack.bench_cluster_costs import costs
from hack.bench_cluster_moves import moves
from hack.bench_cluster_times import times
from hack.bench_figures import Figures
from hack.nodes import Node
from tests.e2e import release

_NAMESPACE: Final = "bench"


def main() -> None:
    """Install Architect and measure everything, in one run."""
    figures = Figures()
    api, nodes = Api(), [Node(1), Node(2)]
    release.load_images(nodes)
    release.choose(api, nodes)
    release.install(nodes)
    api.create("/api/v1/namespaces", {"metadata": {"name": _NAMESPACE}})
    api.await_object(f"/api/v1/namespaces/{_NAMESPACE}/serviceaccounts/default", bool)
    times(api, _NAMESPACE, nodes, figures)
    costs(api, _NAMESPACE, nodes[0], figures)
    moves(api, _NAMESPACE, nodes, figures)
    figures.write("bench-cluster.json")


if __name__ == "__main__":
    main()
