#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""x86-64 guests on KVM, on a host whose processor QEMU emulates (kvm_host.py).

    nested.py TRAPEZE
"""
import json
import os
import re
import sys

import tap
from kvm_host import KvmHost
from machine import SHELL_PROMPT, Shared, image

TRAPEZE = os.path.abspath(sys.argv[1])
HOST = Shared(lambda: KvmHost(TRAPEZE, {"/tiny": image("tiny-x86_64", TRAPEZE)}))
RUN = ("trapeze run --arch x86_64 --kernel /tiny/bzImage --initrd /tiny/initrd --memory 192M "
       "--append 'console=ttyS0 quiet' ")


class Guest:
    """A guest whose console is the host's shell for as long as it lives; run() is about it then."""

    def __init__(self, host, *options):
        self.host = host
        host.send(RUN + " ".join(options) + "; echo ended'='$?\n")
        host.expect(rb"trapeze-tiny: ready")
        host.expect(SHELL_PROMPT)

    def ends(self, status=0):
        _, match = self.host.expect(rb"ended=(\d+)\r")
        assert int(match.group(1)) == status, self.host.tail()
        self.host.expect(SHELL_PROMPT)


def test_kvm_is_found_usable_where_it_is():
    with HOST.use() as host:
        said = json.loads(host.run("trapeze host --json"))
        assert said["kvm"]["offer"] == "yes", said


def test_debians_kernel_boots_and_switches_itself_off():
    """Interrupts by the I/O APIC, the clock that KVM offers, the button's registers."""
    with HOST.use() as host:
        guest = Guest(host, "--net none")
        assert host.run("nproc").strip() == "1"
        assert host.run("uname -m").strip() == "x86_64"
        assert re.search(r"IO-APIC +4-edge +ttyS0", host.run("cat /proc/interrupts"))
        clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        assert host.run(f"cat {clock}").strip() == "kvm-clock"
        host.send("poweroff -f\n")
        guest.ends()


def test_two_processors_a_disk_and_a_reset():
    """The disk's queues have messages; what is written before a reset is there after it."""
    with HOST.use(last=True) as host:
        host.run("dd if=/dev/zero of=/tmp/disk bs=1M count=8")
        guest = Guest(host, "--net none --cpus 2 --disk /tmp/disk,format=raw")
        assert host.run("nproc").strip() == "2"
        host.run("dd if=/bin/busybox of=/dev/vda bs=64k count=8 conv=fsync")
        wanted = host.run("dd if=/bin/busybox bs=64k count=8 | md5sum").splitlines()
        interrupts = host.run("cat /proc/interrupts")
        assert re.search(r"PCI-MSIX?-\S+ +\d+-edge +virtio\d+-req\.1", interrupts), interrupts
        host.send("reboot -f\n")
        host.expect(rb"trapeze-tiny: ready")
        host.expect(SHELL_PROMPT)
        found = host.run("dd if=/dev/vda bs=64k count=8 | md5sum").splitlines()
        assert [line for line in found if "-" in line] == [line for line in wanted if "-" in line]
        host.send("poweroff -f\n")
        guest.ends()


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
