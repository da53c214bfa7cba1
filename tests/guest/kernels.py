# SPDX-License-Identifier: MIT
"""Kernels that tests make themselves."""
import struct


def bzimage():
    """The smallest kernel of x86 that a boot loader takes (Linux, boot.rst); it does nothing."""
    image = bytearray(4096)
    for offset, form, value in ((0x1f1, "B", 1), (0x1f4, "<I", (4096 - 1024) // 16), (0x201, "B", 0x6a),
                                (0x202, "4s", b"HdrS"), (0x206, "<H", 0x20f), (0x22c, "<I", 0x7fffffff),
                                (0x230, "<I", 0x200000), (0x234, "B", 1), (0x236, "<H", 1),
                                (0x238, "<I", 2047), (0x258, "<Q", 0x1000000), (0x260, "<I", 0x10000)):
        struct.pack_into(form, image, offset, value)
    return bytes(image)
