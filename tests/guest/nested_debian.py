#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Debian for x86-64, built by images/build, on KVM, in the host that nested.py has.

    nested_debian.py TRAPEZE

A boot with systemd in two emulations costs minutes: the full tier only.
"""
import os
import re
import subprocess
import sys

import machine
import tap
from kvm_host import KvmHost
from machine import LIMIT_S, SHELL_PROMPT, full_tier_image, scratch

TRAPEZE = os.path.abspath(sys.argv[1])
IMAGE = "debian-x86_64"
ADDRESS = "ip -4 address show scope global | grep 10.0.2."  # by DHCP from NAT
WHY_NOT = ("systemctl --no-pager list-jobs; systemctl --no-pager --full status trapeze-dhcp; "
           "ip -s link; cat /proc/interrupts")


class Console(machine.Debian):
    """Of a guest that was started on one of the host's screens."""

    def __init__(self, screen):  # pylint: disable=super-init-not-called
        self.screen, self.process, self.log, self.at = screen, screen.process, b"", 0

    def tail(self):
        return f"{self.log[-3000:].decode(errors='replace')}\n--- the host:\n{self.screen.host.tail()}"


def cache_disk(image):
    """A file system with what a user's cache has, and room for a copy of the guest's disk."""
    path, root = scratch("cache.raw"), scratch("cache")
    os.makedirs(f"{root}/images")
    subprocess.run(["cp", "-r", "--sparse=always", image, f"{root}/images/"], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-d", root, path, "4G"], check=True, stdout=subprocess.DEVNULL)
    return path


def test_debian_boots_to_a_login():
    image = full_tier_image(IMAGE, TRAPEZE)
    with KvmHost(TRAPEZE, memory="2G", disks=[cache_disk(image)], modules=["crc32c_generic", "ext4"]) as host:
        host.begin()
        host.run("mkdir -p /cache && mount -t ext4 /dev/vda /cache")
        screen = host.screens[0]
        screen.send("trapeze run --image debian --arch x86_64 --cpus 2; echo ended'='$?\n")
        guest = Console(screen)
        guest.login()
        assert re.search(r"Linux debian .* x86_64 GNU/Linux", guest.run("uname -a"))
        assert 'VERSION_ID="13"' in guest.run("cat /etc/os-release")
        assert guest.run("nproc").strip() == "2"
        assert guest.run("systemd-detect-virt").strip() == "kvm"
        assert guest.run("systemctl --failed --no-legend --plain | cat").strip() == ""
        assert guest.run("dpkg --audit; dpkg --print-architecture").strip() == "amd64"
        said = guest.run("dmesg --level=err,crit,alert,emerg | grep -E 'ACPI|PCI|virtio' || true")
        assert said.strip() == "", said
        guest.run(f"SECONDS=0; until {ADDRESS}; do [ $SECONDS -lt {LIMIT_S} ] || "  # no login waits for it
                  f"{{ {WHY_NOT}; break; }}; sleep 1; done; {ADDRESS}")
        guest.send("poweroff\n")
        guest.expect(rb"ended=0\r")
        guest.expect(SHELL_PROMPT)


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
