# SPDX-License-Identifier: MIT
"""Our initramfs: busybox, the modules a guest of Trapeze can need, and guest/init.

It serves the tiny image and boots the Debian one. It stays uncompressed: the loader copies it into
guest memory at host speed, while the guest would inflate it in an interpreter.
"""
import lzma
import os
import re

from . import elf
from .host import Failure, run

# Modules by name; what they depend on comes along. A name that is built in is simply not there.
MODULES = ["virtio_blk", "virtio_mmio", "virtio_net", "virtio_rng", "virtio_balloon", "e1000", "ext4",
           "crc32c_generic"]

# Applets that /init, the kernel (modprobe) and test scripts call by path or before PATH is set.
LINKS = {"sbin/modprobe": "../bin/busybox", "bin/sh": "busybox", "sbin/init": "../init"}


def module_name(path):
    return re.sub(r"\.ko(\..*)?$", "", os.path.basename(path)).replace("-", "_")


def closure(kernel, names):
    """modules.dep's lines for modules and everything they need: {path: [paths it needs]}."""
    needs = {}
    with open(os.path.join(kernel.modules, "modules.dep")) as file:
        for line in file:
            path, _, rest = line.partition(":")
            needs[path] = rest.split()
    wanted = {path for path in needs if module_name(path) in names}
    for path in list(wanted):
        wanted.update(needs[path])
    return {path: needs[path] for path in sorted(wanted)}


SIGNATURE_END = b"~Module signature appended~\n"


def read_module(path):
    """A module as the guest loads it: inflated, without labels, without its signature.

    ext4 and what it needs are 9 MB; the kernel hashes a signed module at 130 instructions a byte,
    which is over 1 G before the root disk is there. The package's own signature has been checked
    on the host, and the disk holds the signed modules. The kernel notes it: taint flag E."""
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".xz"):
        data = lzma.decompress(data)
    if data.endswith(SIGNATURE_END):
        # struct module_signature stands before the marker; its last field is the big-endian length
        # of what stands before it.
        end = len(data) - len(SIGNATURE_END)
        length = int.from_bytes(data[end - 4:end], "big")
        if length > end - 12:
            raise Failure(f"{os.path.basename(path)} has a damaged signature")
        data = data[:end - 12 - length]
    return elf.drop_labels(data)


class Cpio:
    """Writes a newc archive; everything belongs to root, times are zero: same input, same bytes."""

    def __init__(self, out):
        self.out, self.inode = out, 0
        self.directories = set()

    def add(self, name, mode, data=b"", device=(0, 0)):
        parent = os.path.dirname(name)
        if parent and parent not in self.directories:
            self.directories.add(parent)
            self.add(parent, 0o40755)
        self.inode += 1
        encoded = name.encode() + b"\0"
        fields = [self.inode, mode, 0, 0, 2 if mode & 0o40000 else 1, 0, len(data), 0, 0,
                  *device, len(encoded), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self.out.write(header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4))
        if mode & 0o170000 == 0o40000:
            self.directories.add(name)

    def end(self):
        self.add("TRAILER!!!", 0)


def make(cache, progress, kernel, busybox, guest_dir, key):
    def build(directory):
        progress.step("initramfs: busybox and modules")
        tree = os.path.join(directory, "busybox")
        run("dpkg-deb", "-x", busybox.deb, tree, error="busybox cannot be unpacked")
        with open(os.path.join(directory, "initrd"), "wb") as out:
            write(Cpio(out), kernel, os.path.join(tree, "usr/bin/busybox"), guest_dir)

    return os.path.join(cache.stage(f"{kernel.arch.stage}initrd", key, build), "initrd")


def write(cpio, kernel, busybox, guest_dir):
    # The kernel opens /dev/console for /init before anything is mounted.
    cpio.add("dev/console", 0o20600, device=(5, 1))
    for name in ("proc", "sys", "run", "tmp", "root", "mnt", "newroot"):
        cpio.add(name, 0o40755)
    for name, mode in (("init", 0o100755),):
        with open(os.path.join(guest_dir, name), "rb") as file:
            cpio.add(name, mode, file.read())
    with open(busybox, "rb") as file:
        cpio.add("bin/busybox", 0o100755, file.read())
    for name, target in LINKS.items():
        cpio.add(name, 0o120777, target.encode())

    needs = closure(kernel, MODULES)
    if not any(module_name(path) == "virtio_blk" for path in needs):
        raise Failure("the kernel package has no virtio_blk module; images/maker must follow it")
    write_modules(cpio, kernel, needs)
    cpio.end()


def write_modules(cpio, kernel, needs):
    """Modules with the index that modprobe reads."""
    base = f"lib/modules/{kernel.release}"
    plain = {path: re.sub(r"\.ko\..*$", ".ko", path) for path in needs}
    for path, name in plain.items():
        cpio.add(f"{base}/{name}", 0o100644, read_module(os.path.join(kernel.modules, path)))
    lines = [f"{plain[path]}: {' '.join(plain[need] for need in rest)}".rstrip()
             for path, rest in needs.items()]
    cpio.add(f"{base}/modules.dep", 0o100644, ("\n".join(lines) + "\n").encode())
    names = {module_name(path) for path in needs}
    with open(os.path.join(kernel.modules, "modules.alias")) as file:
        aliases = [line for line in file if line.split()[-1].replace("-", "_") in names]
    cpio.add(f"{base}/modules.alias", 0o100644, "".join(aliases).encode())
