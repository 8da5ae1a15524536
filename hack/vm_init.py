"""Process 1 of a virtual machine: mounts what a box gets from its maker, then does as init.py does.

The exit status goes to the second serial port, then the machine is switched off. The trap: when process 1
ends, whatever the reason, the kernel panics; vm.py sees that by the status that is missing.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import termios
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import init
import linux

_SAFE = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
_MOUNTS = (
    ("proc", "/proc", _SAFE, ""),
    ("sysfs", "/sys", _SAFE, ""),
    ("cgroup2", "/sys/fs/cgroup", _SAFE, ""),
    ("bpf", "/sys/fs/bpf", _SAFE, "mode=700"),
    ("devtmpfs", "/dev", linux.MS_NOSUID, "mode=755"),
    ("devpts", "/dev/pts", linux.MS_NOSUID, "ptmxmode=0666,mode=0620,gid=5"),
    ("tmpfs", "/dev/shm", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777"),
    ("mqueue", "/dev/mqueue", _SAFE, ""),
    ("tmpfs", "/run", linux.MS_NOSUID | linux.MS_NODEV, "mode=755"),
    ("tmpfs", "/tmp", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777"),
)
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_POWER_OFF = 0x4321FEDC  # RB_POWER_OFF, <linux/reboot.h>


def main() -> None:
    """Make the node, run the plan's command, tell its status, switch off."""
    for kind, place, flags, data in _MOUNTS:
        os.makedirs(place, exist_ok=True)
        linux.mount(kind, place, kind, flags, data)
    for name, target in _LINKS.items():
        os.symlink(target, f"/dev/{name}")
    _console()
    with open("/plan.json") as file:
        plan = json.load(file)
    os.environ.clear()
    os.environ.update(plan["environment"])
    for place, text in (
        ("/etc/resolv.conf", ""),
        ("/etc/hostname", "vm\n"),
        ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 vm\n"),
        ("/proc/sys/kernel/hostname", "vm"),
    ):
        with open(place, "w") as file:
            file.write(text)
    linux.mount("", "/", flags=linux.MS_REC | linux.MS_SHARED)
    os.makedirs("/out", exist_ok=True)
    os.chdir(plan["environment"]["PYTHONPATH"])
    try:
        status = init.main(["--node", "--", *plan["argv"]])
    except BaseException:  # noqa: BLE001  (nobody is above process 1 to be told)
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    with open("/dev/ttyS1", "w") as port:
        port.write(f"{status}\n")
        port.flush()
        termios.tcdrain(port.fileno())
    termios.tcdrain(1)
    os.sync()
    ctypes.CDLL(None).reboot(_POWER_OFF)


def _console() -> None:
    """Standard streams on the console, with lines ended as they were written."""
    console = os.open("/dev/ttyS0", os.O_RDWR | os.O_NOCTTY)
    modes = termios.tcgetattr(console)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(console, termios.TCSANOW, modes)
    nothing = os.open("/dev/null", os.O_RDONLY)
    for number, source in enumerate((nothing, console, console)):
        os.dup2(source, number)


if __name__ == "__main__":
    main()
