#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""SCSI and AHCI disks, optical drives and hot-plug under Linux' stock drivers.

    drives.py TRAPEZE

One boot of the tiny guest for each engine, with drivers out of the Debian image; the full tier
attaches and detaches more often, and in Debian too, where udev looks at everything that comes.
"""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import drivers
import machine
import tap
from machine import FULL, LIMIT_S, Machine, image, scratch

TRAPEZE = os.path.abspath(sys.argv[1])
TINY, DEBIAN = image("tiny", TRAPEZE), image("debian", TRAPEZE)
DISK_MIB = 4
REFUSED = (120, 121)  # what the user asked for, or the host or machine
WAIT = "for i in $(seq 600); do {} && break; sleep 0.1; done; {}"


class Drives:
    """What a machine under test and the command line say about its drives."""

    def wait(self, condition):
        return self.run(WAIT.format(condition, condition))

    def disk(self, *words, status=(0,)):
        done = subprocess.run([TRAPEZE, "disk", *words, self.control], capture_output=True,
                              text=True, timeout=LIMIT_S, check=False)
        assert done.returncode in status, done
        return done.stdout + done.stderr

    def name_of(self, adapter, kind, serial=""):
        """The drive on the adapter whose driver is named so, perhaps the one with that serial."""
        command = (f"for d in /sys/block/{kind}*; do case $(readlink -f $d/device) in *{adapter}*) "
                   f"grep -qs '{serial}' $d/device/vpd_pg80 $d/device/model && basename $d;; esac; "
                   "done")
        self.wait(f"test -n \"$({command})\"")
        names = re.findall(r"^s[dr][a-z0-9]+$", self.run(command), re.MULTILINE)
        assert len(names) == 1, names
        return names[0]


class Tiny(Drives, Machine):
    def __init__(self, engine, initrd, *options):
        super().__init__(TRAPEZE, "--kernel", TINY + "/Image", "--initrd", initrd, "--memory",
                         "192M", "--cpus", "2", "--engine", engine, *options)
        self.shell()
        self.run(drivers.LOAD + "; dmesg -n 1")


def blank(name, mib=DISK_MIB):
    path = scratch(name)
    with open(path, "wb") as file:
        file.truncate(mib << 20)
    return path


def make_disc(name, text):
    if shutil.which("genisoimage") is None:
        raise tap.Skip("genisoimage is not installed")
    folder = scratch(name + ".d")
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    with open(os.path.join(folder, "hello.txt"), "w", encoding="ascii") as file:
        file.write(text)
    with open(os.path.join(folder, "random"), "wb") as file:
        file.write(os.urandom(len(text) << 14))
    path = scratch(name)
    subprocess.run(["genisoimage", "-quiet", "-R", "-V", "DISC", "-o", path, folder], check=True,
                   stderr=subprocess.DEVNULL)
    return path


def sum_of(path, offset=0, size=-1):
    with open(path, "rb") as file:
        file.seek(offset)
        return hashlib.sha256(file.read(size)).hexdigest()


def write_and_reread(guest, name, path):
    """Pieces of all sizes in odd places, reread past the cache, and found in the file."""
    guest.run(f"dd if=/dev/urandom of=/dev/{name} bs=64k count=20 conv=fsync 2>/dev/null && "
              f"dd if=/dev/urandom of=/dev/{name} bs=512 seek=3099 count=77 "
              "conv=notrunc,fsync 2>/dev/null")
    guest.run("echo 3 > /proc/sys/vm/drop_caches")
    inside = guest.run(f"sha256sum < /dev/{name}")
    assert sum_of(path) in inside, (inside, path)


def gives_space_back(guest, name, path):
    before = os.stat(path).st_blocks
    guest.run(f"blkdiscard -o 0 -l 1048576 /dev/{name}")
    assert os.stat(path).st_blocks * 512 <= before * 512 - (1 << 20), (before, os.stat(path))
    assert sum_of(path, 0, 1 << 20) == hashlib.sha256(bytes(1 << 20)).hexdigest()


def look_at_disc(guest, drive, disc, text):
    guest.run("mkdir -p /disc")
    assert text in guest.run(f"mount -r -t iso9660 /dev/{drive} /disc && cat /disc/hello.txt")
    size = os.path.getsize(disc)
    whole = guest.run(f"umount /disc; head -c {size} /dev/{drive} | sha256sum")
    assert sum_of(disc) in whole, whole
    assert guest.run(f"cat /sys/block/{drive}/size").strip() == str(size // 512)


def change_disc(guest, number, drive, disc, text):
    """The guest holds the disc, lets it go, has none, and has another one."""
    guest.run(f"mount -r -t iso9660 /dev/{drive} /disc")
    refused = guest.disk("eject", str(number), status=REFUSED)
    assert "locked" in refused, refused
    guest.run("umount /disc")
    guest.disk("eject", str(number), "--force")
    guest.run(f"! dd if=/dev/{drive} of=/dev/null bs=2048 count=1 2>/dev/null")
    guest.disk("insert", str(number), disc)
    look_at_disc(guest, drive, disc, text)


def change_disc_with_udev(guest, number, drive, disc, text):
    """udev locks every tray that has a disc, and opens it when it is asked to and may."""
    guest.run(f"mount -r -t iso9660 /dev/{drive} /disc")
    guest.run("umount /disc")
    for _ in range(100):
        said = guest.disk("eject", str(number), status=(0, *REFUSED))
        if "locked" not in said:
            break
        time.sleep(3)  # udev looks every two seconds
    assert not said, said
    guest.run(f"! dd if=/dev/{drive} of=/dev/null bs=2048 count=1 2>/dev/null")
    guest.disk("insert", str(number), disc)
    look_at_disc(guest, drive, disc, text)


# CDROM_LOCKDOOR, CDROMEJECT
EJECT = "perl -e 'open(F, q(/dev/{})) and ioctl(F, 0x5329, 0) and ioctl(F, 0x5309, 0) or exit 1'"


def eject_from_inside(guest, number, drive, disc, text):
    guest.run("sysctl -q dev.cdrom.autoclose=0")  # otherwise who reads closes the tray
    guest.run(EJECT.format(drive))
    guest.run(f"! dd if=/dev/{drive} of=/dev/null bs=2048 count=1 2>/dev/null")
    guest.disk("insert", str(number), disc)
    look_at_disc(guest, drive, disc, text)


def plug_and_unplug(guest, rounds, dirty="dd if=/tmp/word of=/dev/{} conv=notrunc 2>/dev/null"):
    path = blank("plug.img")
    for number in range(rounds):
        said = guest.disk("attach", path + ",serial=PLUG")
        index = re.search(r"Disk (\d+) is attached", said).group(1)
        assert "rescan" not in said
        name = guest.name_of("virtio", "sd", "PLUG")
        # Left in the page cache: the guest writes it back when it is told that the disk goes.
        guest.run(f"echo round {number} > /tmp/word; " + dirty.format(name))
        guest.disk("detach", index)
        with open(path, "rb") as file:
            assert file.read(16).startswith(f"round {number}\n".encode()), number
        guest.wait(f"! test -e /sys/block/{name}")
        disks = json.loads(guest.disk("list", "--json"))
        assert all(disk["disk"] != int(index) for disk in disks), disks
    os.unlink(path)


def pull_a_cable(guest):
    """Serial ATA: coming is the controller's hot-plug, leaving a pulled cable."""
    said = guest.disk("attach", blank("sata.img") + ",bus=ahci,serial=SATA-PLUG")
    name = guest.name_of("ata", "sd", "SATA-PLUG")
    guest.disk("detach", re.search(r"Disk (\d+)", said).group(1))
    guest.wait(f"! test -e /sys/block/{name}")


def no_disk_complained(guest):
    errors = guest.run("dmesg | grep -iE 'I/O error|exception Emask|Sense Key' | grep -v 'sr[0-9]' "
                       "|| true")
    assert not re.search(r"\bsd[a-z]|failed command: (READ|WRITE)", errors), errors


def drives(engine, rounds):
    first, second = make_disc("first.iso", "a disc"), make_disc("second.iso", "another disc")
    scsi, ahci, lun = blank("scsi.img"), blank("ahci.img"), blank("lun.img")
    with Tiny(engine, drivers.initrd(TINY, DEBIAN), "--disk", scsi + ",bus=scsi,serial=SER-S",
              "--cdrom", first, "--disk", ahci + ",bus=ahci,serial=SER-A",
              "--cdrom", first + ",bus=ahci",
              "--disk", lun + ",bus=scsi,address=9:3,serial=SER-L") as guest:
        for adapter, serial, path in (("virtio", "SER-S", scsi), ("ata", "SER-A", ahci),
                                      ("virtio", "SER-L", lun)):
            name = guest.name_of(adapter, "sd", serial)
            write_and_reread(guest, name, path)
            gives_space_back(guest, name, path)
        assert ":0:9:3" in guest.run(f"readlink -f /sys/block/{name}/device")
        depth = guest.run(f"cat /sys/block/{guest.name_of('ata', 'sd')}/device/queue_depth")
        assert int(depth) >= 31, depth  # native queuing
        for adapter, number in (("virtio", 1), ("ata", 3)):
            drive = guest.name_of(adapter, "sr")
            look_at_disc(guest, drive, first, "a disc")
            change_disc(guest, number, drive, second, "another disc")
        plug_and_unplug(guest, rounds)
        pull_a_cable(guest)
        no_disk_complained(guest)
        guest.poweroff()


def test_drives():
    drives("auto", 100 if FULL else 10)


def test_drives_under_the_interpreter():
    drives("interp", 10 if FULL else 2)


def test_what_cannot_be_gets_a_sentence():
    disk = blank("some.img")
    with Tiny("auto", drivers.initrd(TINY, DEBIAN), "--disk", disk, "--cdrom", "none") as guest:
        for words, said in (
                (("attach", disk), "some.img"),  # it is in use
                (("attach", "/nonexistent"), "cannot open"),
                (("attach", blank("other.img") + ",bus=usb"), "bus cannot be"),
                (("attach", blank("other.img") + ",bus=scsi,address=0"), "taken by"),
                (("attach", blank("other.img") + ",bus=scsi,address=99"), "no address"),
                (("attach", blank("other.img") + ",media=cdrom,bus=virtio"), "no optical drives"),
                (("detach", "0"), "cannot be detached"),
                (("detach", "7"), "no disk 7"),
                (("eject", "0"), "no optical drive"),
                (("insert", "0", blank("other.img")), "no optical drive"),
                (("insert", "1", "/nonexistent"), "cannot open")):
            answer = guest.disk(*words, status=REFUSED)
            assert said in answer and answer.count("\n") == 1, (words, answer)
        said = guest.disk("attach", blank("other.img"))
        index = re.search(r"Disk (\d+)", said).group(1)
        guest.verb("pause")
        assert "while it is paused" in guest.disk("detach", index, status=REFUSED)
        guest.disk("detach", "--force", index)
        guest.verb("resume")
        for words in (("detach",), ("detach", "x"), ("attach",), ("insert", "1")):
            done = subprocess.run([TRAPEZE, "disk", *words], capture_output=True, text=True,
                                  timeout=LIMIT_S, check=False)
            assert done.returncode == 120 and done.stderr.count("\n") == 1, (words, done)
        guest.poweroff()
    for option, said in ((disk + ",address=1", "no address="),
                         (disk + ",bus=scsi,address=16", "no address"),
                         (disk + ",bus=ahci,address=6", "no port"), (",media=cdrom", "needs a file"),
                         (disk + ",bus=scsi,media=tape", "media cannot be")):
        done = subprocess.run([TRAPEZE, "run", "--kernel", TINY + "/Image", "--disk", option],
                              text=True, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=LIMIT_S, check=False)
        assert done.returncode in (120, 121) and said in done.stderr, (option, done)
        assert done.stderr.count("\n") == 1, done.stderr


class Debian(Drives, machine.Debian):
    def login(self):
        super().login()
        self.run("dmesg -n 1")


def test_hot_plug_in_debian():
    first, second = make_disc("first.iso", "a disc"), make_disc("second.iso", "another disc")
    with Debian(TRAPEZE, "--image", "debian", "--quiet", "--cdrom", first,
                "--cdrom", first + ",bus=ahci") as guest:
        guest.login()
        for adapter, number in (("virtio", 1), ("ata", 2)):
            drive = guest.name_of(adapter, "sr")
            look_at_disc(guest, drive, first, "a disc")
            change_disc_with_udev(guest, number, drive, second, "another disc")
            eject_from_inside(guest, number, drive, first, "a disc")
        plug_and_unplug(guest, 20, "cp /tmp/word /dev/{0} && sync && mkdir -p /m && "
                        "mkfs.ext4 -q -F -E offset=1048576 /dev/{0} 3M && "
                        "mount -o loop,offset=1048576 /dev/{0} /m && cp /bin/ls /m && "
                        "umount /m && udevadm settle")  # what it has begun to read, it reads
        pull_a_cable(guest)
        no_disk_complained(guest)
        guest.poweroff()


def test_an_adapter_that_comes_later():
    with Debian(TRAPEZE, "--image", "debian", "--quiet") as guest:
        guest.login()
        said = guest.disk("attach", blank("late.img") + ",serial=LATE")
        assert "echo 1 > /sys/bus/pci/rescan" in said
        guest.run("echo 1 > /sys/bus/pci/rescan")
        guest.name_of("virtio", "sd", "LATE")
        guest.disk("detach", re.search(r"Disk (\d+)", said).group(1))
        guest.poweroff()


TESTS = [test_drives, test_drives_under_the_interpreter, test_what_cannot_be_gets_a_sentence]
FULL_TESTS = [test_hot_plug_in_debian, test_an_adapter_that_comes_later]
sys.exit(tap.main(TESTS + (FULL_TESTS if FULL else [])))
