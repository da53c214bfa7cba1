#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""x86-64 machines with firmware: Debian's OVMF on KVM, in the host that nested.py has.

    efi.py TRAPEZE

The emulated processors count instructions: QEMU's (7.2) end with an assertion when a guest writes CR8 while
an interrupt waits for it, which firmware's handlers do when they are slower than its timer.
"""
import os
import sys

import tap
from kvm_host import KvmHost
from machine import FULL, SHELL_PROMPT, image

TRAPEZE = os.path.abspath(sys.argv[1])
OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd"
COUNTED = ("-icount", "shift=0,sleep=off")
RUN = ("trapeze run --arch x86_64 --memory 256M --net none --firmware /ovmf.fd ")


def needs_ovmf():
    if not FULL:
        raise tap.Skip("full tier only: an emulated host takes minutes for it")
    if not os.path.exists(OVMF):
        raise tap.Skip("Debian's ovmf is not installed")


def runs_in_efi(host):
    assert "efi: EFI v2" in host.run("dmesg")
    assert host.run("ls /sys/firmware/efi/runtime").split()
    assert "TRAPEZPC" in host.run("dmesg | grep 'ACPI: '")  # our tables, put where OVMF wanted them
    assert "APIC" in host.run("ls /sys/firmware/acpi/tables")


def test_ovmf_starts_the_kernel_that_is_named():
    needs_ovmf()
    files = {"/tiny": image("tiny-x86_64", TRAPEZE), "/ovmf.fd": OVMF}
    with KvmHost(TRAPEZE, files, options=COUNTED) as host:
        host.begin()
        host.send(RUN + "--kernel /tiny/bzImage --initrd /tiny/initrd --append console=ttyS0; "
                  "echo ended'='$?\n")
        host.expect(rb"trapeze-tiny: ready")
        host.expect(SHELL_PROMPT)
        runs_in_efi(host)
        host.send("poweroff -f\n")
        host.expect(rb"ended=0\r")


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
