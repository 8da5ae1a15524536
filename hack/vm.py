#!/usr/bin/env python3
"""A node in a virtual machine on Debian's stock kernel: `vm.py run -- COMMAND...` runs it in a fresh one.

It is what users' nodes look like and a box is not: cgroup v2 with every controller, the packet filter of
another kernel as modules, all capabilities. The processor is emulated (KVM is not asked for: few hosts that
are machines themselves offer it), so that it tells right from wrong and nothing about speed.

In come the forky tree, the test images and the checkout; out go the console and the exit status. The disk is
never written: QEMU keeps what changes in a nameless file. Everything ends with the caller.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from typing import IO

import box
import images
import recipe
import trees

_KERNEL_TREE, _KERNEL = "trixie", "linux-image-cloud-amd64"  # 6.12, the long-lived one
_PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "mke2fs": "e2fsprogs"}
_SECONDS = 3600
_SLOWER = 5
"""How much longer a machine may take for everything than the host would; tests multiply their deadlines."""
_LEFT_OUT = {".git", "out", "__pycache__"}

# Only what holds the root file system is loaded here; the rest comes through the kernel's calls of modprobe.
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox insmod /virtio_blk.ko
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox tar -xf /dev/vdb -C /root
exec /bin/busybox switch_root /root /usr/bin/python3 -IS /opt/architect/src/hack/vm_init.py
"""

_FETCH = f"""
cd /made
apt-get -o Acquire::Check-Valid-Until=false update
package="$(apt-cache depends {_KERNEL} | sed -n 's/ *Depends: \\(linux-image-[0-9].*\\)/\\1/p' | head -n 1)"
apt-get -o APT::Sandbox::User=root download "$package"
dpkg-deb -x "$package"_*.deb unpacked
rm "$package"_*.deb
"""


def machine() -> str:
    """The directory with `kernel`, `initramfs` and `disk`; built first if need be."""
    made_of = [trees.tree("forky"), trees.environment("forky"), images.directory(), trees.tree(_KERNEL_TREE)]
    names = [os.path.basename(path) for path in made_of]
    return trees.product(f"machines/{recipe.digest(names, _FETCH, _INIT)}", _build)


def _build(at: str, log: str) -> None:
    trees.install([package for program, package in _PROGRAMS.items() if not shutil.which(program)], log)
    places = ("/etc/resolv.conf", "/etc/ssl/certs")
    binds = {at: "/made", **{place: place for place in places if os.path.exists(place)}}
    trees.in_tree(trees.tree(_KERNEL_TREE), ["/bin/sh", "-euc", _FETCH], log, binds)
    unpacked, root, early = f"{at}/unpacked", f"{at}/root", f"{at}/early"
    modules = f"{unpacked}/usr/lib/modules"
    (version,) = os.listdir(modules)
    os.rename(f"{unpacked}/boot/vmlinuz-{version}", f"{at}/kernel")
    compressed = [
        f"{path}/{name}" for path, _, names in os.walk(modules) for name in names if name.endswith(".xz")
    ]
    trees.run(["xz", "-d", *compressed], log)  # busybox' modprobe then needs nothing to read them
    # Links instead of copies: nothing writes to the tree's files, a name is at most replaced.
    for source, target in (
        (trees.tree("forky"), root),
        (trees.environment("forky"), f"{root}/opt/venv"),
        (images.directory(), f"{root}/opt/images"),
        (modules, f"{root}/usr/lib/modules"),
    ):
        trees.run(["cp", "-al", source, target], log)
    shutil.copyfile(f"{modules}/{version}/kernel/drivers/block/virtio_blk.ko", f"{at}/virtio_blk.ko")
    busybox = shutil.which("busybox") or "busybox"
    shutil.copy(busybox, f"{at}/modprobe")
    os.rename(f"{at}/modprobe", f"{root}/usr/sbin/modprobe")
    trees.run([busybox, "depmod", "-b", root, version], log)
    trees.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, f"{at}/disk", "8G"], log)
    for place in ("bin", "dev", "root"):
        os.makedirs(f"{early}/{place}")
    shutil.copy(busybox, f"{early}/bin/busybox")
    os.rename(f"{at}/virtio_blk.ko", f"{early}/virtio_blk.ko")
    with open(f"{early}/init", "w", opener=lambda path, flags: os.open(path, flags, 0o755)) as file:
        file.write(_INIT)
    archive = f"cd {early} && {busybox} find . | {busybox} cpio -o -H newc | gzip -1 > ../initramfs"
    trees.run(["/bin/sh", "-euc", archive], log)
    for place in (unpacked, root, early):
        shutil.rmtree(place)


def run(argv: list[str]) -> int:
    """Run `argv` in a fresh machine and return its exit status; its output goes to standard output.

    Raises trees.BuildFailed, and TimeoutError when the machine has not ended after an hour.
    """
    made = machine()
    with tempfile.TemporaryFile() as checkout, tempfile.TemporaryFile() as status:
        _pack(checkout, argv)
        files = [checkout.fileno(), status.fileno()]
        paths = [f"/proc/self/fd/{number}" for number in files]
        command = [
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config"),
            # One thread: with more, kernels that patch themselves die of it now and then (QEMU 7.2). Without
            # cx16, whose flags QEMU 7.2 gets wrong: the kernel's allocator depends on them.
            *("-accel", "tcg,thread=single", "-cpu", "max,-cx16", "-smp", "2", "-m", "4096"),
            *(
                "-display",
                "none",
                "-nic",
                "none",
                "-no-reboot",
                "-serial",
                "stdio",
                "-serial",
                f"file:{paths[1]}",
            ),
            *("-kernel", f"{made}/kernel", "-initrd", f"{made}/initramfs"),
            *("-append", "console=ttyS0 quiet panic=-1"),
            *("-drive", f"file={made}/disk,format=raw,if=virtio,snapshot=on"),
            *("-drive", f"file={paths[0]},format=raw,if=virtio,snapshot=on"),
        ]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=files)
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the machine was still running {argv} after {_SECONDS} s") from None
        finally:
            process.kill()
            process.wait()
        status.seek(0)
        said = status.read().strip()
    if not said.isdigit():
        print("the machine ended without an exit status; see its last lines above", file=sys.stderr)
        return 1
    return int(said)


def _pack(file: IO[bytes], argv: list[str]) -> None:
    """Write what is new in this machine to `file`: the checkout and /plan.json, as a tar on a raw disk."""
    slower = {"NODE_FLAVOUR": "vm", "NODE_SLOWNESS": str(_SLOWER)}
    plan = {"argv": argv, "environment": {**box.ENVIRONMENT, "TERM": "dumb", **slower}}
    content = json.dumps(plan).encode()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo("plan.json")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
        tar.add(recipe.CHECKOUT, box.SOURCE.lstrip("/"), filter=_wanted)
    file.truncate((file.tell() + 511) // 512 * 512)
    file.flush()


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if os.path.basename(entry.name) in _LEFT_OUT:
        return None
    entry.uid = entry.gid = 0
    return entry


def main() -> int:
    """Parse the command line and do it; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    started = verbs.add_parser("run", help="run a command in a fresh machine")
    started.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- command")
    arguments = parser.parse_args()
    argv = [part for part in arguments.argv[:1] if part != "--"] + arguments.argv[1:]
    try:
        return run(argv)
    except (trees.BuildFailed, TimeoutError) as error:
        print(f"vm.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
