#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the seeds of fuzz_archive, whose head says what an input is.

    make_archive_seeds.py FOLDER
"""
import io
import os
import sys
import tarfile

CHECKSUMS, ANYWHERE, WHOLE, FRAME, SAME, TREE = 1, 2, 4, 8, 16, 32


def patch(flags, *patches):
    return bytes([flags]) + b"".join(
        offset.to_bytes(2, "little") + bytes([len(data)]) + data for offset, data in patches)


def tar(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), "/etc/passwd"
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue().rstrip(b"\0")[:4000]


MANIFEST = (b'{"trapeze-archive":1,"name":"w","description":"w.vmx","files":'
            b'[{"name":"f","size":1,"data":1}]}')
SEEDS = {
    "good": patch(0),
    "good-same": patch(SAME),
    "tree": patch(TREE),
    "tree-manifest": patch(TREE, (560, b"{{")),
    "link": patch(CHECKSUMS, (156, b"2")),
    "device": patch(CHECKSUMS, (156, b"3")),
    "other-name": patch(CHECKSUMS, (0, b"../x\0")),
    "size": patch(CHECKSUMS, (124, b"77777777777")),
    "negative-size": patch(CHECKSUMS, (124, b"\xff" * 12)),
    "manifest-version": patch(0, (535, b"9")),
    "manifest-text": patch(0, (512, b"{{")),
    "description": patch(0, (1536 + 512, b"memsize = \"x\"")),
    "map": patch(0, (5120, b"99999999\n0\n")),
    "whole": bytes([WHOLE]) + tar(("manifest.json", tarfile.REGTYPE, MANIFEST),
                                  ("w.vmx", tarfile.REGTYPE, b'memsize = "32"\n')),
    "whole-link": bytes([WHOLE]) + tar(("manifest.json", tarfile.SYMTYPE, b"")),
    "frame": bytes([FRAME]) + b"\x28\xb5\x2f\xfd\x00\x38\x03\x00\x10\0",
    "frame-window": bytes([FRAME]) + b"\x28\xb5\x2f\xfd\x00\xf8\x03\x00\x10\0",
}
for seed, content in SEEDS.items():
    with open(os.path.join(sys.argv[1], seed), "wb") as file:
        file.write(content)
