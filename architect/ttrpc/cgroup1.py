"""Metrics of a container under cgroup v1, as `Stats` answers them and containerd hands them to the kubelet.

Memory in bytes, CPU in nanoseconds; a limit that is not set is what the kernel shows for it, not zero.
Source: containerd/cgroups, cgroup1/stats.
"""

from dataclasses import dataclass

from architect.ttrpc.codec import STRING, UINT32, UINT64, field, message


@message("io.containerd.cgroups.v1.HugetlbStat")
@dataclass(slots=True)
class HugetlbStat:
    """Huge pages of one size, in bytes."""

    usage: int = field(1, UINT64)
    max: int = field(2, UINT64)
    failcnt: int = field(3, UINT64)
    pagesize: str = field(4, STRING)


@message("io.containerd.cgroups.v1.PidsStat")
@dataclass(slots=True)
class PidsStat:
    """Processes and threads, and how many there may be."""

    current: int = field(1, UINT64)
    limit: int = field(2, UINT64)


@message("io.containerd.cgroups.v1.CPUUsage")
@dataclass(slots=True)
class CPUUsage:
    """CPU time."""

    total: int = field(1, UINT64)
    kernel: int = field(2, UINT64)
    user: int = field(3, UINT64)
    per_cpu: list[int] = field(4, UINT64, repeated=True)


@message("io.containerd.cgroups.v1.Throttle")
@dataclass(slots=True)
class Throttle:
    """How often and how long the quota held the container back."""

    periods: int = field(1, UINT64)
    throttled_periods: int = field(2, UINT64)
    throttled_time: int = field(3, UINT64)


@message("io.containerd.cgroups.v1.CPUStat")
@dataclass(slots=True)
class CPUStat:
    """CPU time and throttling."""

    usage: CPUUsage | None = field(1, CPUUsage)
    throttling: Throttle | None = field(2, Throttle)


@message("io.containerd.cgroups.v1.MemoryEntry")
@dataclass(slots=True)
class MemoryEntry:
    """One memory controller file group: limit, usage, peak, failures."""

    limit: int = field(1, UINT64)
    usage: int = field(2, UINT64)
    max: int = field(3, UINT64)
    failcnt: int = field(4, UINT64)


@message("io.containerd.cgroups.v1.MemoryStat")
@dataclass(slots=True)
class MemoryStat:
    """The lines of memory.stat, and the controllers beside it."""

    cache: int = field(1, UINT64)
    rss: int = field(2, UINT64)
    rss_huge: int = field(3, UINT64)
    mapped_file: int = field(4, UINT64)
    dirty: int = field(5, UINT64)
    writeback: int = field(6, UINT64)
    pg_pg_in: int = field(7, UINT64)
    pg_pg_out: int = field(8, UINT64)
    pg_fault: int = field(9, UINT64)
    pg_maj_fault: int = field(10, UINT64)
    inactive_anon: int = field(11, UINT64)
    active_anon: int = field(12, UINT64)
    inactive_file: int = field(13, UINT64)
    active_file: int = field(14, UINT64)
    unevictable: int = field(15, UINT64)
    hierarchical_memory_limit: int = field(16, UINT64)
    hierarchical_swap_limit: int = field(17, UINT64)
    total_cache: int = field(18, UINT64)
    total_rss: int = field(19, UINT64)
    total_rss_huge: int = field(20, UINT64)
    total_mapped_file: int = field(21, UINT64)
    total_dirty: int = field(22, UINT64)
    total_writeback: int = field(23, UINT64)
    total_pg_pg_in: int = field(24, UINT64)
    total_pg_pg_out: int = field(25, UINT64)
    total_pg_fault: int = field(26, UINT64)
    total_pg_maj_fault: int = field(27, UINT64)
    total_inactive_anon: int = field(28, UINT64)
    total_active_anon: int = field(29, UINT64)
    total_inactive_file: int = field(30, UINT64)
    total_active_file: int = field(31, UINT64)
    total_unevictable: int = field(32, UINT64)
    usage: MemoryEntry | None = field(33, MemoryEntry)
    swap: MemoryEntry | None = field(34, MemoryEntry)
    kernel: MemoryEntry | None = field(35, MemoryEntry)
    kernel_tcp: MemoryEntry | None = field(36, MemoryEntry)


@message("io.containerd.cgroups.v1.MemoryOomControl")
@dataclass(slots=True)
class MemoryOomControl:
    """The lines of memory.oom_control."""

    oom_kill_disable: int = field(1, UINT64)
    under_oom: int = field(2, UINT64)
    oom_kill: int = field(3, UINT64)


@message("io.containerd.cgroups.v1.BlkIOEntry")
@dataclass(slots=True)
class BlkIOEntry:
    """One figure of one device."""

    op: str = field(1, STRING)
    device: str = field(2, STRING)
    major: int = field(3, UINT64)
    minor: int = field(4, UINT64)
    value: int = field(5, UINT64)


@message("io.containerd.cgroups.v1.BlkIOStat")
@dataclass(slots=True)
class BlkIOStat:
    """Block I/O by kind."""

    io_service_bytes_recursive: list[BlkIOEntry] = field(1, BlkIOEntry, repeated=True)
    io_serviced_recursive: list[BlkIOEntry] = field(2, BlkIOEntry, repeated=True)
    io_queued_recursive: list[BlkIOEntry] = field(3, BlkIOEntry, repeated=True)
    io_service_time_recursive: list[BlkIOEntry] = field(4, BlkIOEntry, repeated=True)
    io_wait_time_recursive: list[BlkIOEntry] = field(5, BlkIOEntry, repeated=True)
    io_merged_recursive: list[BlkIOEntry] = field(6, BlkIOEntry, repeated=True)
    io_time_recursive: list[BlkIOEntry] = field(7, BlkIOEntry, repeated=True)
    sectors_recursive: list[BlkIOEntry] = field(8, BlkIOEntry, repeated=True)


@message("io.containerd.cgroups.v1.RdmaEntry")
@dataclass(slots=True)
class RdmaEntry:
    """RDMA objects of one device."""

    device: str = field(1, STRING)
    hca_handles: int = field(2, UINT32)
    hca_objects: int = field(3, UINT32)


@message("io.containerd.cgroups.v1.RdmaStat")
@dataclass(slots=True)
class RdmaStat:
    """RDMA objects in use and allowed."""

    current: list[RdmaEntry] = field(1, RdmaEntry, repeated=True)
    limit: list[RdmaEntry] = field(2, RdmaEntry, repeated=True)


@message("io.containerd.cgroups.v1.NetworkStat")
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


@message("io.containerd.cgroups.v1.CgroupStats")
@dataclass(slots=True)
class CgroupStats:
    """Tasks by scheduler state."""

    nr_sleeping: int = field(1, UINT64)
    nr_running: int = field(2, UINT64)
    nr_stopped: int = field(3, UINT64)
    nr_uninterruptible: int = field(4, UINT64)
    nr_io_wait: int = field(5, UINT64)


@message("io.containerd.cgroups.v1.Metrics")
@dataclass(slots=True)
class Metrics:
    """Everything about one cgroup."""

    hugetlb: list[HugetlbStat] = field(1, HugetlbStat, repeated=True)
    pids: PidsStat | None = field(2, PidsStat)
    cpu: CPUStat | None = field(3, CPUStat)
    memory: MemoryStat | None = field(4, MemoryStat)
    blkio: BlkIOStat | None = field(5, BlkIOStat)
    rdma: RdmaStat | None = field(6, RdmaStat)
    network: list[NetworkStat] = field(7, NetworkStat, repeated=True)
    cgroup_stats: CgroupStats | None = field(8, CgroupStats)
    memory_oom_control: MemoryOomControl | None = field(9, MemoryOomControl)
