"""A cgroup's counters as containerd's Metrics messages (v1 or v2), read from its files.

The cgroup outlives the sleep, so its CPU counter never goes back; asleep it holds next to no memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from architect.engine.cgroup import Cgroup
from architect.ttrpc import cgroup1, cgroup2

_UNLIMITED: Final = (1 << 64) - 1


def read(cgroup: Cgroup) -> cgroup1.Metrics | cgroup2.Metrics:
    """The metrics of `cgroup`; what its controllers do not count is absent or 0."""
    return _read_v2(cgroup.paths[""]) if cgroup.unified else _read_v1(cgroup)


def _number(path: str) -> int:
    """The number in a cgroup file; "max" is the greatest, a missing file 0."""
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return 0
    if text == "max":
        return _UNLIMITED
    return int(text) if text.isdigit() else 0


def _table(path: str) -> dict[str, int]:
    """A flat keyed cgroup file ("usage_usec 12"); empty when missing."""
    try:
        rows = [line.split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _read_v2(path: str) -> cgroup2.Metrics:
    cpu, memory, events = (
        _table(f"{path}/cpu.stat"),
        _table(f"{path}/memory.stat"),
        _table(f"{path}/memory.events"),
    )
    return cgroup2.Metrics(
        pids=cgroup2.PidsStat(current=_number(f"{path}/pids.current"), limit=_limit(f"{path}/pids.max")),
        cpu=cgroup2.CPUStat(
            usage_usec=cpu.get("usage_usec", 0),
            user_usec=cpu.get("user_usec", 0),
            system_usec=cpu.get("system_usec", 0),
            nr_periods=cpu.get("nr_periods", 0),
            nr_throttled=cpu.get("nr_throttled", 0),
            throttled_usec=cpu.get("throttled_usec", 0),
        ),
        memory=cgroup2.MemoryStat(
            anon=memory.get("anon", 0),
            file=memory.get("file", 0),
            kernel_stack=memory.get("kernel_stack", 0),
            slab=memory.get("slab", 0),
            shmem=memory.get("shmem", 0),
            inactive_anon=memory.get("inactive_anon", 0),
            active_anon=memory.get("active_anon", 0),
            inactive_file=memory.get("inactive_file", 0),
            active_file=memory.get("active_file", 0),
            pgfault=memory.get("pgfault", 0),
            pgmajfault=memory.get("pgmajfault", 0),
            usage=_number(f"{path}/memory.current"),
            usage_limit=_number(f"{path}/memory.max"),
            swap_usage=_number(f"{path}/memory.swap.current"),
            swap_limit=_number(f"{path}/memory.swap.max"),
        ),
        memory_events=cgroup2.MemoryEvents(
            low=events.get("low", 0),
            high=events.get("high", 0),
            max=events.get("max", 0),
            oom=events.get("oom", 0),
            oom_kill=events.get("oom_kill", 0),
        ),
    )


def _limit(path: str) -> int:
    """A limit of which 0 means none, as containerd's metrics have it."""
    number = _number(path)
    return 0 if number == _UNLIMITED else number


def _read_v1(cgroup: Cgroup) -> cgroup1.Metrics:
    metrics = cgroup1.Metrics()
    if path := cgroup.paths.get("pids"):
        metrics.pids = cgroup1.PidsStat(
            current=_number(f"{path}/pids.current"), limit=_limit(f"{path}/pids.max")
        )
    if path := cgroup.paths.get("cpuacct"):
        metrics.cpu = cgroup1.CPUStat(
            usage=cgroup1.CPUUsage(
                total=_number(f"{path}/cpuacct.usage"),
                user=_number(f"{path}/cpuacct.usage_user"),
                kernel=_number(f"{path}/cpuacct.usage_sys"),
            )
        )
    if path := cgroup.paths.get("memory"):
        table = _table(f"{path}/memory.stat")
        metrics.memory = cgroup1.MemoryStat(
            cache=table.get("cache", 0),
            rss=table.get("rss", 0),
            total_rss=table.get("total_rss", 0),
            total_cache=table.get("total_cache", 0),
            total_inactive_file=table.get("total_inactive_file", 0),
            total_active_file=table.get("total_active_file", 0),
            total_inactive_anon=table.get("total_inactive_anon", 0),
            total_active_anon=table.get("total_active_anon", 0),
            total_pg_fault=table.get("total_pgfault", 0),
            total_pg_maj_fault=table.get("total_pgmajfault", 0),
            usage=_entry(path, "memory"),
            swap=_entry(path, "memory.memsw"),
            kernel=_entry(path, "memory.kmem"),
        )
    return metrics


def _entry(path: str, prefix: str) -> cgroup1.MemoryEntry:
    return cgroup1.MemoryEntry(
        limit=_number(f"{path}/{prefix}.limit_in_bytes"),
        usage=_number(f"{path}/{prefix}.usage_in_bytes"),
        max=_number(f"{path}/{prefix}.max_usage_in_bytes"),
        failcnt=_number(f"{path}/{prefix}.failcnt"),
    )
