"""Metrics of a container under cgroup v2, as `Stats` answers them and containerd hands them to the kubelet.

Memory in bytes, CPU in microseconds; an unlimited limit ("max") is the greatest 64-bit number.
Source: containerd/cgroups v3, cgroup2/stats (pressure since 3.0.3).
"""

from dataclasses import dataclass

from architect.ttrpc.codec import DOUBLE, STRING, UINT32, UINT64, field, message


@message("io.containerd.cgroups.v2.PSIData")
@dataclass(slots=True)
class PSIData:
    """Shares of time in percent, and `total` in microseconds."""

    avg10: float = field(1, DOUBLE)
    avg60: float = field(2, DOUBLE)
    avg300: float = field(3, DOUBLE)
    total: int = field(4, UINT64)


@message("io.containerd.cgroups.v2.PSIStats")
@dataclass(slots=True)
class PSIStats:
    """Pressure: some tasks stalled, all tasks stalled."""

    some: PSIData | None = field(1, PSIData)
    full: PSIData | None = field(2, PSIData)


@message("io.containerd.cgroups.v2.PidsStat")
@dataclass(slots=True)
class PidsStat:
    """Processes and threads, and how many there may be."""

    current: int = field(1, UINT64)
    limit: int = field(2, UINT64)


@message("io.containerd.cgroups.v2.CPUStat")
@dataclass(slots=True)
class CPUStat:
    """The lines of cpu.stat."""

    usage_usec: int = field(1, UINT64)
    user_usec: int = field(2, UINT64)
    system_usec: int = field(3, UINT64)
    nr_periods: int = field(4, UINT64)
    nr_throttled: int = field(5, UINT64)
    throttled_usec: int = field(6, UINT64)
    psi: PSIStats | None = field(7, PSIStats)
    nr_bursts: int = field(8, UINT64)
    burst_usec: int = field(9, UINT64)


@message("io.containerd.cgroups.v2.MemoryStat")
@dataclass(slots=True)
class MemoryStat:
    """The lines of memory.stat, and usage, limits and peaks."""

    anon: int = field(1, UINT64)
    file: int = field(2, UINT64)
    kernel_stack: int = field(3, UINT64)
    slab: int = field(4, UINT64)
    sock: int = field(5, UINT64)
    shmem: int = field(6, UINT64)
    file_mapped: int = field(7, UINT64)
    file_dirty: int = field(8, UINT64)
    file_writeback: int = field(9, UINT64)
    anon_thp: int = field(10, UINT64)
    inactive_anon: int = field(11, UINT64)
    active_anon: int = field(12, UINT64)
    inactive_file: int = field(13, UINT64)
    active_file: int = field(14, UINT64)
    unevictable: int = field(15, UINT64)
    slab_reclaimable: int = field(16, UINT64)
    slab_unreclaimable: int = field(17, UINT64)
    pgfault: int = field(18, UINT64)
    pgmajfault: int = field(19, UINT64)
    workingset_refault: int = field(20, UINT64)
    workingset_activate: int = field(21, UINT64)
    workingset_nodereclaim: int = field(22, UINT64)
    pgrefill: int = field(23, UINT64)
    pgscan: int = field(24, UINT64)
    pgsteal: int = field(25, UINT64)
    pgactivate: int = field(26, UINT64)
    pgdeactivate: int = field(27, UINT64)
    pglazyfree: int = field(28, UINT64)
    pglazyfreed: int = field(29, UINT64)
    thp_fault_alloc: int = field(30, UINT64)
    thp_collapse_alloc: int = field(31, UINT64)
    usage: int = field(32, UINT64)
    usage_limit: int = field(33, UINT64)
    swap_usage: int = field(34, UINT64)
    swap_limit: int = field(35, UINT64)
    max_usage: int = field(36, UINT64)
    swap_max_usage: int = field(37, UINT64)
    psi: PSIStats | None = field(38, PSIStats)


@message("io.containerd.cgroups.v2.MemoryEvents")
@dataclass(slots=True)
class MemoryEvents:
    """The lines of memory.events."""

    low: int = field(1, UINT64)
    high: int = field(2, UINT64)
    max: int = field(3, UINT64)
    oom: int = field(4, UINT64)
    oom_kill: int = field(5, UINT64)


@message("io.containerd.cgroups.v2.RdmaEntry")
@dataclass(slots=True)
class RdmaEntry:
    """RDMA objects of one device."""

    device: str = field(1, STRING)
    hca_handles: int = field(2, UINT32)
    hca_objects: int = field(3, UINT32)


@message("io.containerd.cgroups.v2.RdmaStat")
@dataclass(slots=True)
class RdmaStat:
    """RDMA objects in use and allowed."""

    current: list[RdmaEntry] = field(1, RdmaEntry, repeated=True)
    limit: list[RdmaEntry] = field(2, RdmaEntry, repeated=True)


@message("io.containerd.cgroups.v2.IOEntry")
@dataclass(slots=True)
class IOEntry:
    """The line of one device in io.stat."""

    major: int = field(1, UINT64)
    minor: int = field(2, UINT64)
    rbytes: int = field(3, UINT64)
    wbytes: int = field(4, UINT64)
    rios: int = field(5, UINT64)
    wios: int = field(6, UINT64)


@message("io.containerd.cgroups.v2.IOStat")
@dataclass(slots=True)
class IOStat:
    """Block I/O by device."""

    usage: list[IOEntry] = field(1, IOEntry, repeated=True)
    psi: PSIStats | None = field(2, PSIStats)


@message("io.containerd.cgroups.v2.HugeTlbStat")
@dataclass(slots=True)
class HugeTlbStat:
    """Huge pages of one size, in bytes."""

    current: int = field(1, UINT64)
    max: int = field(2, UINT64)
    pagesize: str = field(3, STRING)


@message("io.containerd.cgroups.v2.NetworkStat")
@dataclass(slots=True)
class NetworkStat:
    """Counters of one network interface."""

    name: str = field(1, STRING)
    rx_bytes: int = field(2, UINT64)
    rx_packets: int = field(3, UINT64)
    rx_errors: int = field(4, UINT64)
    rx_dropped: int = field(5, UINT64)
    tx_bytes: int = field(6, UINT64)
    tx_packets: int = field(7, UINT64)
    tx_errors: int = field(8, UINT64)
    tx_dropped: int = field(9, UINT64)


@message("io.containerd.cgroups.v2.Metrics")
@dataclass(slots=True)
class Metrics:
    """Everything about one cgroup."""

    pids: PidsStat | None = field(1, PidsStat)
    cpu: CPUStat | None = field(2, CPUStat)
    memory: MemoryStat | None = field(4, MemoryStat)
    rdma: RdmaStat | None = field(5, RdmaStat)
    io: IOStat | None = field(6, IOStat)
    hugetlb: list[HugeTlbStat] = field(7, HugeTlbStat, repeated=True)
    memory_events: MemoryEvents | None = field(8, MemoryEvents)
    network: list[NetworkStat] = field(9, NetworkStat, repeated=True)
