"""The figures of a bench: samples in, percentiles out, as a table for people and as bench.json.

Knows nothing of what is measured but the marks that some figures are to beat.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

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
)
"""Ours may cost so many times the other, at the median of the same run."""


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

    def p50(self, name: str) -> float:
        """The median of `name`."""
        return percentile(self.samples[name][1], 50)

    def rows(self) -> list[dict[str, str | float | int]]:
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

    def write(self, path: str) -> None:
        """Writes bench.json to `path`."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.rows(), file, indent=1)
            file.write("\n")

    def table(self) -> str:
        """Everything, for a terminal of 80 columns, with the verdicts."""
        head = f"{'':26}{'p50':>10}{'p99':>10}  {'unit':8}{'n':>6}   mark"
        lines = ["", head, "-" * len(head)]
        lines += [
            f"{row['name']:26}{row['p50']:10.2f}{row['p99']:10.2f}  {row['unit']:8}{row['n']:6d}"
            f"   {MARKS.get(str(row['name']), '')}".rstrip()
            for row in self.rows()
        ]
        lines.append("")
        for ours, other, mark in FACTORS:
            if {ours, other} <= set(self.samples):
                factor = self.p50(ours) / self.p50(other)
                met = "met" if factor <= mark else "MISSED"
                lines.append(f"{ours} / {other} = {factor:.2f}; mark: {mark}, {met}")
        return "\n".join(lines)


def percentile(values: list[float], percent: int) -> float:
    """The smallest of `values` that at least `percent` % of them do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]
