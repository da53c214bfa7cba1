# SPDX-License-Identifier: MIT
"""The guests' instruction sets: what Debian calls each, and in what its kernel differs."""
import gzip
import struct

from .host import Failure

RISCV_MAGIC = b"RSC\x05"  # magic2 of the RISC-V boot image header, offset 56
ZBOOT_MAGIC = b"zimg"     # EFI zboot: a PE stub around the compressed Image, offset 4
X86_MAGIC = b"HdrS"       # of the x86 boot protocol's header, offset 0x202


class Architecture:
    def __init__(self, isa, debian, suffix, kernel_file, read_kernel):
        self.isa, self.debian = isa, debian
        self.suffix = suffix            # of its images' names; the first one has none
        self.stage = f"{isa}-" if suffix else ""  # begins its stages' names
        self.title = f" for {isa}" if suffix else ""  # behind an image's
        self.meta_package = f"linux-image-{debian}"
        self.kernel_file = kernel_file  # what an image calls its kernel
        self.read_kernel = read_kernel  # what lies under /boot -> what the boot loader reads


def riscv_image(data, name):
    """Peels gzip and EFI zboot wrappings off."""
    if data[:2] == b"\x1f\x8b":
        return riscv_image(gzip.decompress(data), name)
    if data[4:8] == ZBOOT_MAGIC:
        offset, size = struct.unpack_from("<II", data, 8)
        kind = data[24:56].split(b"\0")[0]
        if kind != b"gzip":
            raise Failure(f"the kernel is compressed with {kind.decode('ascii', 'replace')}, "
                          "which the image builder does not know")
        return riscv_image(data[offset:offset + size], name)
    if data[56:60] != RISCV_MAGIC:
        raise Failure(f"{name} is no RISC-V Linux Image")
    return data


def x86_image(data, name):
    if data[0x202:0x206] != X86_MAGIC:
        raise Failure(f"{name} is no x86 Linux bzImage")
    return data


RISCV64 = Architecture("riscv64", "riscv64", "", "Image", riscv_image)
X86_64 = Architecture("x86_64", "amd64", "-x86_64", "bzImage", x86_image)
ALL = [RISCV64, X86_64]


def of(name):
    """(name without its architecture, architecture): tiny-x86_64 is tiny for x86_64."""
    for arch in ALL:
        if arch.suffix and name.endswith(arch.suffix):
            return name[:-len(arch.suffix)], arch
    return name, RISCV64
