# SPDX-License-Identifier: MIT
"""The tiny guest with drivers for SCSI, AHCI and optical drives, out of the Debian image."""
import os
import re
import subprocess
import sys

import machine

sys.path.insert(0, os.path.join(machine.SOURCE, "images"))
from maker import initramfs  # pylint: disable=wrong-import-position

# In the order in which they can be loaded.
DRIVERS = ["scsi/scsi_common", "scsi/scsi_mod", "cdrom/cdrom", "scsi/sd_mod", "scsi/sr_mod",
           "scsi/virtio_scsi", "ata/libata", "ata/libahci", "ata/ahci"]
LOAD = "for i in /drivers/*; do insmod $i; done"  # what a shell in there begins with


def debugfs(debian, command):
    done = subprocess.run(["/sbin/debugfs", "-R", command, os.path.join(debian, "root.img")],
                          capture_output=True, text=True, timeout=machine.LIMIT_S, check=True)
    return done.stdout


def initrd(tiny, debian):
    """The tiny image's, and behind it another one with the modules."""
    modules = "/usr/lib/modules"
    release = re.search(r"/(\d+\.[^/]+)/", debugfs(debian, f"ls -p {modules}")).group(1)
    path, module = machine.scratch("initrd"), machine.scratch("module.ko.xz")
    with open(path, "wb") as out:
        with open(os.path.join(tiny, "initrd"), "rb") as first:
            out.write(first.read())
        out.write(b"\0" * (-out.tell() % 4))
        cpio = initramfs.Cpio(out)
        names = [f"kernel/drivers/{name}" for name in DRIVERS] + ["kernel/fs/isofs/isofs"]
        for number, name in enumerate(names):
            debugfs(debian, f"dump {modules}/{release}/{name}.ko.xz {module}")
            cpio.add(f"drivers/{number:02}.ko", 0o100644, initramfs.read_module(module))
        cpio.end()
    return path
