"""The packet gate of a pod: packets to a sleeper are held in the kernel, in order, and go on when it is
awake.

`gate` closes, opens and watches; `queue` holds; `sockets` says what has come and has not been read;
`nftables`, `netlink` and `netns` are how. Standard library only, synchronous, no program is run. When to do
any of it is for others to decide.
"""

from architect.gate.errors import GateError
from architect.gate.gate import Activity, PodGate
from architect.gate.nftables import MARK
from architect.gate.queue import HeldQueue, QueueStats
from architect.gate.sockets import Endpoint
from architect.settings import Port

__all__ = ["MARK", "Activity", "Endpoint", "GateError", "HeldQueue", "PodGate", "Port", "QueueStats"]
