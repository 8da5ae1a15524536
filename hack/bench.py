#!/usr/bin/env python3
"""Measures Architect beside plain runc in a throw-away node: prints a table, writes ./bench.json.

`bench.py [FLAVOUR]` on the host makes the node and starts itself in it; in a node it measures there.
bench.json is a list of {name, unit, p50, p99, n}. What is measured how: bench_times.py, bench_costs.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

RESULT = "bench.json"
DEFAULT = "forky-v1"


def main() -> int:
    """Run the bench in a node; returns its exit status."""
    if "NODE_FLAVOUR" in os.environ:
        return _measure()
    import box
    import images
    import recipe
    import trees

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("flavour", nargs="?", default=DEFAULT, choices=recipe.FLAVOURS)
    flavour = recipe.FLAVOURS[parser.parse_args().flavour]
    try:
        status = box.run(flavour, ["python3", "hack/bench.py"], images=images.directory())
    except (box.Impossible, trees.BuildFailed) as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return 1
    if status == 0:
        shutil.copyfile(os.path.join(recipe.OUT, RESULT), RESULT)
    return status


def _measure() -> int:
    # The node's Python and its packages: nothing of these may be imported on the host.
    from hack.bench_costs import costs
    from hack.bench_figures import Figures
    from hack.bench_times import times
    from hack.cri import Cri

    figures = Figures()
    with Cri() as cri:
        times(cri, figures)
        costs(cri, figures)
    print(figures.table())
    figures.write(os.path.join(os.environ["ARCHITECT_OUT"], RESULT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
