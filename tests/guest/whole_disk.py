# SPDX-License-Identifier: MIT
"""Whole disks as distributions have them: a GPT, an EFI system partition, a boot loader; for x86-64 one
that a BIOS finds as well.

    whole_disk.py DISK IMAGE    writes one with Debian's GRUB and the root file system of our image
"""
import collections
import json
import os
import pathlib
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
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
TOOL = "grub-common"
PREFIX = "/EFI/debian"
MODULES = ["part_gpt", "fat", "ext2", "linux", "search", "search_label", "normal", "echo", "boot"]

# What Debian calls the package, and EFI the program. A BIOS's GRUB needs a driver for disks, and does not know
# which partition it came from.
Grub = collections.namedtuple("Grub", "package platform prefix modules")
GRUBS = {"riscv64": ("BOOTRISCV64.EFI", Grub("grub-efi-riscv64-bin", "riscv64-efi", PREFIX, [])),
         "x86_64": ("BOOTX64.EFI", Grub("grub-efi-amd64-bin", "x86_64-efi", PREFIX, []))}
BIOS_GRUB = Grub("grub-pc-bin", "i386-pc", "(hd0,gpt1)" + PREFIX, ["biosdisk"])

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
    table, disk = entries.ljust(128 * 128, b"\0"), uuid.uuid4().bytes_le

    def header(here, other, where):
        text = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, here, other, 34,
                           sectors - 34, disk, where, 128, 128, zlib.crc32(table))
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


def read_manifest(image):
    with open(f"{image}/image.json", encoding="utf-8") as file:
        return json.load(file)


def make_grubs(folder, isa, grubs):
    """As grub-install does: programs of Debian's modules, their signatures checked as those of everything in
    our images, as folder/PLATFORM. They want their own version of grub-mkimage, and that its C library."""
    sys.path.insert(0, os.path.join(os.environ["TRAPEZE_SOURCE"], "images"))
    # pylint: disable=import-outside-toplevel,import-error
    from maker import arch, archive, cache, host
    progress = host.Progress()
    store = cache.Cache(progress)
    store.lock()
    guests = archive.Archive(store, progress, {each.isa: each for each in arch.ALL}[isa])
    names = [grub.package for grub in grubs]
    hosts = archive.Archive(store, progress, arch.X86_64)
    for owner, wanted in (guests, names), (hosts, [TOOL]):
        for one in owner.download(owner.resolve(wanted), wanted):
            subprocess.run(["dpkg-deb", "-x", one.deb, folder], check=True)
    libraries = f"{folder}/usr/lib/x86_64-linux-gnu"
    for grub in grubs:
        subprocess.run([f"{libraries}/ld-linux-x86-64.so.2", "--library-path", libraries,
                        f"{folder}/usr/bin/grub-mkimage", "-O", grub.platform, "-p", grub.prefix,
                        "-d", f"{folder}/usr/lib/grub/{grub.platform}",
                        "-o", f"{folder}/{grub.platform}", *MODULES, *grub.modules], check=True)


def write_bios_grub(path, at, folder):
    """The first sector and the partition at `at`, as grub-bios-setup does: each says where on the disk what it
    loads begins (GRUB's kernel_sector, and the first entry of its block list)."""
    core = bytearray(pathlib.Path(f"{folder}/{BIOS_GRUB.platform}").read_bytes())
    code = pathlib.Path(f"{folder}/usr/lib/grub/{BIOS_GRUB.platform}/boot.img").read_bytes()
    first = at // SECTOR
    struct.pack_into("<QH", core, 0x1f4, first + 1, -(-len(core) // SECTOR) - 1)
    with open(path, "r+b") as out:
        sector = bytearray(out.read(SECTOR))
        sector[:0x1b8] = code[:0x1b8]
        struct.pack_into("<Q", sector, 0x5c, first)
        struct.pack_into("<H", sector, 0x66, 0x9090)  # the drive is the one that the BIOS names
        out.seek(0)
        out.write(sector)
        out.seek(at)
        out.write(core)


def write_disk(path, isa, folder, files, root=None):
    """`files`: more of the system partition's; root: a file system, or none."""
    (program, grub), esp = GRUBS[isa], 64 * MIB
    has_bios = isa == "x86_64"
    make_grubs(folder, isa, [grub, BIOS_GRUB] if has_bios else [grub])
    partitions = [(ESP, "esp", esp)]
    if has_bios:
        partitions.append((BIOS_BOOT, "bios", MIB))
    if root:
        partitions.append((LINUX, "root", os.path.getsize(root)))
    places = write_table(path, partitions)
    write_esp(path, places[0], esp, [(f"{folder}/{grub.platform}", f"EFI/BOOT/{program}"),
                                     (f"{folder}/grub.cfg", f"{PREFIX[1:]}/grub.cfg"), *files])
    if has_bios:
        write_bios_grub(path, places[1], folder)
    if root:
        copy_sparse(root, path, places[-1])


def write_debian(path, image, folder):
    """`image`: the folder of our own, whose root file system it gets."""
    manifest = read_manifest(image)
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
    write_disk(path, manifest["isa"], folder, [(f"{image}/{manifest['initrd']}", "initrd")], root)


def write_small(path, image, folder):
    """With nothing but the kernel and the initramfs of a folder of ours."""
    manifest = read_manifest(image)
    with open(f"{folder}/grub.cfg", "w", encoding="utf-8") as file:
        file.write("echo 'GRUB was here'\n"
                   f"linux /{manifest['kernel']} {manifest['append']}\ninitrd /initrd\nboot\n")
    write_disk(path, manifest["isa"], folder,
               [(f"{image}/{name}", name) for name in (manifest["kernel"], "initrd")])


def write_boot_sector(path, text):
    """What a BIOS starts: reads the second sector by it, writes that to the serial port (the BIOS's screen there is
    drawn at interrupts), and switches the machine off."""
    code = bytes.fromhex("31c0 8ed8 8ec0"       # xor ax, ax; mov ds, ax; mov es, ax
                         "be2a7c b442 cd13"     # mov si, packet; mov ah, 0x42; int 0x13
                         "7218 be007e"          # jc hang; mov si, 0x7e00
                         "fa baf803"            # cli; mov dx, 0x3f8
                         "ac 84c0 7405"         # next: lodsb; test al, al; jz off
                         "ee ebf8 9090"         # out dx, al; jmp next
                         "ba0406 b80034 ef"     # off: mov dx, 0x604; mov ax, 0x3400; out dx, ax
                         "f4 ebfd"              # hang: hlt; jmp hang
                         "1000 0100 007e0000 0100000000000000")  # packet: one sector, number 1
    with open(path, "wb") as out:
        out.write(code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa" + text.ljust(MIB - SECTOR, b"\0"))


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
