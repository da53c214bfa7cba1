# SPDX-License-Identifier: MIT
"""The distribution's kernel: the raw RISC-V `Image` that the boot loader reads, and its modules."""
import gzip
import os
import re
import shutil
import struct

from .host import Failure, run

META_PACKAGE = "linux-image-riscv64"
IMAGE_MAGIC = b"RSC\x05"  # magic2 of the RISC-V boot image header, offset 56
ZBOOT_MAGIC = b"zimg"     # EFI zboot: a PE stub around the compressed Image, offset 4


class Kernel:
    """A kernel stage: Image, release (its `uname -r`), root/ with the modules and their index."""

    def __init__(self, directory):
        self.image = os.path.join(directory, "Image")
        self.root = os.path.join(directory, "root")
        self.release = os.listdir(os.path.join(self.root, "usr/lib/modules"))[0]
        self.modules = os.path.join(self.root, "usr/lib/modules", self.release)


def kernel_package(resolved):
    for name, *_ in resolved:
        if re.match(r"linux-image-\d", name):
            return name
    raise Failure(f"{META_PACKAGE} depends on no linux-image package: the archive has changed; "
                  "images/maker/kernel.py must follow")


def make(cache, progress, package):
    def build(directory):
        progress.step(f"unpacking {package.name}")
        root = os.path.join(directory, "root")
        run("dpkg-deb", "-x", package.deb, root, error="the kernel package cannot be unpacked")
        boot = os.path.join(root, "boot")
        file = next((f for f in sorted(os.listdir(boot)) if f.startswith("vmlinu")), None)
        if file is None:
            raise Failure(f"{package.name} holds no kernel under /boot")
        write_raw_image(os.path.join(boot, file), os.path.join(directory, "Image"))
        shutil.rmtree(boot)
        # depmod here spares the guest from decompressing every module in an interpreter.
        progress.step("indexing the kernel's modules (depmod)")
        release = os.listdir(os.path.join(root, "usr/lib/modules"))[0]
        run("depmod", "-b", usr_merged(root), release, error="the module index cannot be made")

    return Kernel(cache.stage("kernel", package.sha256[:16], build))


def usr_merged(root):
    """depmod reads BASE/lib/modules (unless built for /usr): give the tree Debian's /lib link."""
    if not os.path.lexists(os.path.join(root, "lib")):
        os.symlink("usr/lib", os.path.join(root, "lib"))
    return root


def write_raw_image(source, target):
    with open(source, "rb") as file:
        data = file.read()
    data = decompress(data)
    if data[56:60] != IMAGE_MAGIC:
        raise Failure(f"{os.path.basename(source)} is no RISC-V Linux Image")
    with open(target, "wb") as out:
        out.write(data)


def decompress(data):
    """Peels gzip and EFI zboot wrappings off; what is neither is returned as it is."""
    if data[:2] == b"\x1f\x8b":
        return decompress(gzip.decompress(data))
    if data[4:8] == ZBOOT_MAGIC:
        offset, size = struct.unpack_from("<II", data, 8)
        kind = data[24:56].split(b"\0")[0]
        if kind != b"gzip":
            raise Failure(f"the kernel is compressed with {kind.decode('ascii', 'replace')}, "
                          "which the image builder does not know")
        return decompress(data[offset:offset + size])
    return data
