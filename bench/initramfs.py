# SPDX-License-Identifier: MIT
"""A program more in an initramfs: Linux unpacks archives that follow each other, the later ones over
the earlier (Documentation/driver-api/early-userspace/buffer-format)."""
import os


def newc_node(name, mode, major, minor):
    """A device's."""
    return newc_entry(name, mode, device=(major, minor))


def newc_entry(name, mode, data=b"", device=(0, 0)):
    """One member of a cpio archive of the kind "newc": fields of 8 hexadecimal digits."""
    name = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name's size, check
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return padded(header, 4) + padded(data, 4)


def padded(data, to):
    return data + b"\0" * (-len(data) % to)


def append_program(base, program, output):
    """Writes to output the archive base, and behind it one with the program as /bench."""
    with open(base, "rb") as f:
        archive = padded(f.read(), 512)
    with open(program, "rb") as f:
        archive += newc_entry("bench", 0o100755, f.read())
    archive += newc_entry("TRAILER!!!", 0)
    with open(output + ".new", "wb") as f:
        f.write(padded(archive, 512))
    os.replace(output + ".new", output)
