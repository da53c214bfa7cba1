#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Machines whose disks and NICs came and went while they ran: suspended, moved, brought back.

    plugged.py TRAPEZE

What becomes of numbers and places is vm_arrange's to test; here a Linux goes on with its drivers
at work on all of it.
"""
import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import drivers
import machine
import tap
from daemon_client import Client
from handover import Handover

TRAPEZE = os.path.abspath(sys.argv[1])
HOST = 121
TINY = machine.image("tiny", TRAPEZE)
LINUX = ["--kernel", TINY + "/Image", "--initrd", drivers.initrd(TINY, machine.image("debian", TRAPEZE))]
client = Client(TRAPEZE, machine.scratch("store"))


def command(*arguments, status=0, **options):
    done = subprocess.run([TRAPEZE, *arguments], capture_output=True, text=True, check=False,
                          timeout=machine.LIMIT_S, stdin=subprocess.DEVNULL, **options)
    assert done.returncode == status, done
    return done.stdout + done.stderr


def disk(name):
    path = machine.scratch(name)
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    return path


def wait_for(guest, serial):
    guest.run("until " + "for d in /sys/block/sd*; do tr -d '\\0' < $d/device/vpd_pg80; done "
              f"2>/dev/null | grep -q {serial}; do sleep 0.1; done")
    return name_of(guest, serial)


def name_of(guest, serial):
    return guest.run("for d in /sys/block/sd*; do tr -d '\\0' < $d/device/vpd_pg80 2>/dev/null | "
                     f"grep -q {serial} && basename $d; done; true").strip()


def fill(guest, name):
    guest.run(f"dd if=/dev/urandom of=/dev/{name} bs=64k count=4 2>/dev/null; sync")


def sums(guest, names):
    guest.run("echo 3 > /proc/sys/vm/drop_caches")
    return guest.run("md5sum " + " ".join(f"/dev/{name}" for name in names))


def nic_up(guest, name):
    guest.run(f"ip link set {name} up; ip addr flush dev {name}; ip addr add 10.0.2.15/24 dev {name}; "
              "ping -c 1 10.0.2.2")


class Plugged:
    """A Linux to which disks and a NIC came and from which some went, and what it shall still have."""

    def __init__(self, guest, attach_disk, detach_disk, attach_nic):
        self.guest = guest
        guest.run("modprobe virtio_net; " + drivers.LOAD)
        first = wait_for(guest, "FIRST")
        fill(guest, first)
        attach_disk(disk("second.img") + ",format=raw,serial=SECOND")
        attach_disk(disk("third.img") + ",format=raw,serial=THIRD")
        self.names = [wait_for(guest, "SECOND"), wait_for(guest, "THIRD")]
        detach_disk("1")
        guest.run(f"until ! [ -e /sys/block/{first} ]; do sleep 0.1; done")
        attach_disk(disk("fourth.img") + ",format=raw,serial=FOURTH")
        self.names.append(wait_for(guest, "FOURTH"))
        for name in self.names:
            fill(guest, name)
        attach_nic()
        guest.run("echo 1 > /sys/bus/pci/rescan; until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done")
        nic_up(guest, "eth1")
        self.state = self.look()

    def look(self):
        guest = self.guest
        return sums(guest, ["vda", *self.names]), guest.run(
            "ls -d /sys/block/sd*/device/scsi_disk/* /sys/class/net/eth*; "
            "for d in /sys/bus/pci/devices/*; do echo $d $(cat $d/device); done; "
            "for d in /sys/block/sd*; do tr -d '\\0' < $d/device/vpd_pg80; done; "
            "ls /sys/block | grep -c sd")

    def check(self, guest):
        """It is all there, what went is gone, and it works."""
        self.guest = guest
        guest.send("\n")
        guest.shell()
        assert self.look() == self.state
        guest.run("! dmesg | grep -i 'i/o error'")
        for name in self.names:
            fill(guest, name)
        nic_up(guest, "eth1")
        self.state = self.look()


def machine_plugged(guest):
    return Plugged(guest,
                   lambda what: command("disk", "attach", what, guest.control),
                   lambda what: command("disk", "detach", what, guest.control),
                   lambda: command("net", "attach", "nat", guest.control))


def test_suspended_and_moved():
    """... and a disc comes, goes, and another one is there."""
    state = machine.scratch("plugged.saved")
    with contextlib.ExitStack() as machines:
        def start(*options):
            return machines.enter_context(machine.Machine(TRAPEZE, *options))

        guest = start(*LINUX, "-m", "128", "--pci-slots", "1", "--balloon",
                      "--disk", disk("boot.img") + ",format=raw",
                      "--disk", disk("first.img") + ",format=raw,bus=scsi,serial=FIRST",
                      "--disk", disk("disc.iso") + ",format=raw,media=cdrom", "--net", "none")
        guest.shell()
        command("net", "attach", "hostonly", guest.control)  # into the slot
        guest.run("echo 1 > /sys/bus/pci/rescan")
        plugged = machine_plugged(guest)
        command("disk", "eject", "2", guest.control)
        other = disk("other.iso")
        with open(other, "r+b") as file:
            file.write(b"the other disc")
            file.truncate(512 << 10)
        command("disk", "insert", "2", other, guest.control)
        for engine in "interp", "auto":
            before = guest.verb("disks"), [nic["mac"] for nic in guest.verb("status")["nics"]]
            command("suspend", guest.control, state)
            assert "was suspended" in guest.finish()
            guest = start("--resume", state, "--engine", engine)
            plugged.check(guest)
            assert (guest.verb("disks"), [nic["mac"] for nic in guest.verb("status")["nics"]]) == before
            assert "the other disc" in guest.run("head -c 14 /dev/sr0")
        # To another worker, whose disks are new, and told in the order in which they came.
        macs = [nic["mac"] for nic in guest.verb("status")["nics"]]
        there = start("--incoming", *LINUX, "-m", "128", "--pci-slots", "1", "--balloon",
                      "--disk", disk("boot2.img") + ",format=raw",
                      "--disk", other + ",format=raw,media=cdrom",
                      *(word for name in ("SECOND", "THIRD", "FOURTH")
                        for word in ("--disk", disk(name + "2") + f",format=raw,bus=scsi,serial={name}")),
                      "--net", f"hostonly,mac={macs[0]}", "--net", f"nat,mac={macs[1]}")
        with Handover(guest.control, there.control,
                      options={"disks": ["copy", "shared", "copy", "copy", "copy"]}) as way:
            way.commit()
        assert "was migrated" in guest.finish()
        plugged.check(there)
        guest = there
        guest.poweroff()


if __name__ == "__main__":
    sys.exit(tap.main([test_suspended_and_moved]))
