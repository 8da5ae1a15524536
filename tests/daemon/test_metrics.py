"""What Prometheus reads before anything has happened."""

from __future__ import annotations

import re

from daemon.containers import Containers
from daemon.metrics import CAUSES, OPERATIONS, REASONS, Metrics


def test_every_counter_begins_at_nothing_so_that_its_first_increase_is_seen() -> None:
    text = Metrics(Containers()).text().decode()
    begun = dict(re.findall(r"^(architect_(?:wakes|failures)_total{.*}) (.*)$", text, re.MULTILINE))
    wanted = {f'architect_wakes_total{{cause="{cause}"}}' for cause in CAUSES}
    wanted |= {
        f'architect_failures_total{{operation="{operation}",reason="{reason}"}}'
        for operation in OPERATIONS
        for reason, _ in REASONS
    }
    assert wanted < begun.keys()
    assert set(begun.values()) == {"0.0"}
