# SPDX-License-Identifier: MIT
"""Whole disks as distributions have them: a GPT, an EFI system partition, a boot loader.

    whole_disk.py DISK IMAGE    writes one with Debian's GRUB and the root file system of our image
"""
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import uuid
import zlib

MIB = 1 << 20
SECTOR = 512
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
PACKAGE, TOOL = "grub-efi-riscv64-bin", "grub-common"
MODULES = ["part_gpt", "fat", "ext2", "linux", "search", "search_label", "normal", "echo", "boot"]

def write_table(path, partitions):
    """[(kind, name, bytes)] one behind the other from 1 MiB on; yields where each begins."""
    places, at = [], MIB
    entries = b""
    for kind, name, size in partitions:
        entries += struct.pack("<16s16sQQQ72s", uuid.UUID(kind).bytes_le, uuid.uuid4().bytes_le,
                               at // SECTOR, (at + size) // SECTOR - 1, 0, name.encode("utf-16le"))
        places.append(at)
        at += size
    sectors = (at + MIB) // SECTOR
    table = entries.ljust(128 * 128, b"\0")

    def header(here, other, where):
        text = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, here, other, 34,
                           sectors - 34, uuid.uuid4().bytes_le, where, 128, 128, zlib.crc32(table))
        return (text[:16] + struct.pack("<I", zlib.crc32(text)) + text[20:]).ljust(SECTOR, b"\0")
    protective = bytearray(SECTOR)
    protective[446:462] = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xee, 255, 255, 255, 1,
                                      sectors - 1)
    protective[510:] = b"\x55\xaa"
    with open(path, "wb") as out:
        out.truncate(sectors * SECTOR)
        out.write(bytes(protective) + header(1, sectors - 1, 2) + table)
        out.seek((sectors - 33) * SECTOR)
        out.write(table + header(sectors - 1, 1, sectors - 33))
    return places


def write_esp(path, at, size, files):
    """[(what, where)]"""
    partition = f"{path}@@{at}"
    subprocess.run(["mformat", "-i", partition, "-F", "-T", str(size // SECTOR), "::"], check=True)
    made = set()
    for what, where in files:
        folder = ""
        for part in where.split("/")[:-1]:
            folder += "/" + part
            if folder not in made:
                subprocess.run(["mmd", "-i", partition, "::" + folder], check=True)
                made.add(folder)
        subprocess.run(["mcopy", "-i", partition, what, "::" + where], check=True)


def copy_sparse(source, path, at):
    with open(source, "rb") as data, open(path, "r+b") as out:
        end, here = os.fstat(data.fileno()).st_size, 0
        while here < end:
            try:
                here = os.lseek(data.fileno(), here, os.SEEK_DATA)
            except OSError:  # nothing but a hole follows
                return
            stop = os.lseek(data.fileno(), here, os.SEEK_HOLE)
            os.lseek(out.fileno(), at + here, os.SEEK_SET)
            while here < stop:
                here += os.sendfile(out.fileno(), data.fileno(), here, stop - here)


def make_grub(folder):
    """As grub-install does: a program of Debian's modules for riscv64, their signatures checked as those
    of everything in our images. They want their own version of grub-mkimage, and that its C library."""
    sys.path.insert(0, os.path.join(os.environ["TRAPEZE_SOURCE"], "images"))
    # pylint: disable=import-outside-toplevel,import-error
    from maker import arch, archive, cache, host
    progress = host.Progress()
    store = cache.Cache(progress)
    store.lock()
    guests = archive.Archive(store, progress, arch.RISCV64)
    package = guests.fetch_one(guests.resolve([PACKAGE]), PACKAGE)
    hosts = archive.Archive(store, progress, arch.X86_64)
    tools = hosts.download(hosts.resolve([TOOL]), [TOOL])
    for deb in [package.deb] + [one.deb for one in tools]:
        subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
    made = f"{folder}/grub.efi"
    libraries = f"{folder}/usr/lib/x86_64-linux-gnu"
    subprocess.run([f"{libraries}/ld-linux-x86-64.so.2", "--library-path", libraries,
                    f"{folder}/usr/bin/grub-mkimage", "-O", "riscv64-efi", "-p", "/EFI/debian",
                    "-d", f"{folder}/usr/lib/grub/riscv64-efi", "-o", made, *MODULES], check=True)
    return made


def write_debian(path, image, folder):
    """`image`: the folder of our own, whose root file system it gets."""
    with open(f"{image}/image.json", encoding="utf-8") as file:
        manifest = json.load(file)
    root = f"{image}/{manifest['disk']}"
    listed = subprocess.run(["debugfs", "-R", "ls -p /boot", root], capture_output=True, text=True,
                            check=True).stdout
    kernel = re.search(r"/(vmlinu[xz]-[^/]+)/", listed).group(1)
    with open(f"{folder}/grub.cfg", "w", encoding="utf-8") as file:
        file.write("set esp=$root\n"
                   "search --no-floppy --set=root --label trapeze-root\n"
                   "echo 'GRUB was here'\n"
                   f"linux /boot/{kernel} {manifest['append']}\n"
                   "initrd ($esp)/initrd\nboot\n")
    esp = 64 * MIB
    places = write_table(path, [(ESP, "esp", esp), (LINUX, "root", os.path.getsize(root))])
    write_esp(path, places[0], esp, [(make_grub(folder), "EFI/BOOT/BOOTRISCV64.EFI"),
                                     (f"{folder}/grub.cfg", "EFI/debian/grub.cfg"),
                                     (f"{image}/{manifest['initrd']}", "initrd")])
    copy_sparse(root, path, places[1])


def main():
    path, image = sys.argv[1:]
    folder = path + ".parts"
    os.mkdir(folder)
    try:
        write_debian(path, image, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
