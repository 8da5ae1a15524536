"""The figures of a bench: samples in, percentiles out, as a table for people and as bench.json.

Samples are taken in boxes, the table is made on the host: Python 3.10, standard library. Knows nothing
of what is measured but the marks that some figures are to beat.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

MARKS: Final = {
    "wake_first_byte": "45-65",
    "hibernate": "166",
    "shim_pss_awake": "17.3",
}
"""What the closest project needs for the same, in the figure's unit."""
FACTORS: Final = (
    ("wake_first_byte", "bare_restore", 1.25),
    ("pod_start", "pod_start_runc", 1.1),
    ("exec", "exec_runc", 1.25),
    ("deployment_rollout", "deployment_rollout_runc", None),
    ("wake_first_byte_service", "wake_first_byte_pod_ip", None),
    ("migrate_live_100mb", "drain_100mb_runc", None),
    ("migrate_live_100mb_gap", "drain_100mb_runc_gap", None),
    ("transfer", "transfer_copy", None),
)
"""Ours may cost so many times the other, at the median of the same run, where there is a mark."""
Row = dict[str, Any]


@dataclass
class Figures:
    """All figures of a run, in the order of their first samples."""

    samples: dict[str, tuple[str, list[float]]] = field(default_factory=dict)

    def add(self, name: str, unit: str, value: float) -> None:
        """One more sample of `name`."""
        self.samples.setdefault(name, (unit, []))[1].append(value)

    @contextmanager
    def timed(self, name: str, *, unit: str = "ms") -> Iterator[None]:
        """The time its body takes is a sample of `name`, unless the body raises."""
        began = time.perf_counter()
        yield
        self.add(name, unit, (time.perf_counter() - began) * (1e6 if unit == "us" else 1e3))

    def rows(self) -> list[Row]:
        """What bench.json holds."""
        return [
            {
                "name": name,
                "unit": unit,
                "p50": round(percentile(values, 50), 3),
                "p99": round(percentile(values, 99), 3),
                "n": len(values),
            }
            for name, (unit, values) in self.samples.items()
        ]

    def write(self, name: str) -> None:
        """Leaves the rows to the caller of this box: in its folder, as a file of that name."""
        write(os.path.join(os.environ["ARCHITECT_OUT"], name), self.rows())


def write(path: str, rows: Sequence[Row]) -> None:
    """Write what bench.json holds."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=1)
        file.write("\n")


def table(rows: Sequence[Row]) -> str:
    """Rows of bench.json for a terminal of 80 columns, with the verdicts."""
    head = f"{'':26}{'p50':>10}{'p99':>10}  {'unit':8}{'n':>6}   mark"
    lines = ["", head, "-" * len(head)]
    lines += [
        f"{row['name']:26}{row['p50']:10.2f}{row['p99']:10.2f}  {row['unit']:8}{row['n']:6d}"
        f"   {MARKS.get(row['name'], '')}".rstrip()
        for row in rows
    ]
    lines.append("")
    medians = {row["name"]: row["p50"] for row in rows}
    for ours, other, mark in FACTORS:
        if {ours, other} <= set(medians):
            factor = medians[ours] / medians[other]
            verdict = "" if mark is None else f"; mark: {mark}, {'met' if factor <= mark else 'MISSED'}"
            lines.append(f"{ours} / {other} = {factor:.2f}{verdict}")
    return "\n".join(lines)


def percentile(values: list[float], percent: int) -> float:
    """The smallest of `values` that at least `percent` % of them do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]
