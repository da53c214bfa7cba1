#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""x86-64 machines with firmware: Debian's OVMF and SeaBIOS on KVM, in the host that nested.py has.

    efi.py TRAPEZE

With OVMF the emulated processors count instructions: QEMU's (7.2) end with an assertion when a guest writes CR8 while
an interrupt waits for it, which firmware's handlers do when they are slower than its timer.
"""
import os
import shutil
import sys

import tap
import whole_disk
from kvm_host import KvmHost
from machine import FULL, SHELL_PROMPT, image, scratch

TRAPEZE = os.path.abspath(sys.argv[1])
SEABIOS = "/usr/share/seabios/bios-256k.bin"
OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd"
COUNTED = ("-icount", "shift=0,sleep=off")
RUN = "trapeze run --arch x86_64 --memory 256M --net none --firmware "


def needs(file):
    if not FULL:
        raise tap.Skip("full tier only: an emulated host takes minutes for it")
    if not os.path.exists(file) or shutil.which("mformat") is None:
        raise tap.Skip(f"there is no {file}, or mtools is not installed")


def small_disk():
    """GRUB for UEFI and for a BIOS, and the tiny image."""
    path, folder = scratch("whole-x86_64.raw"), scratch("grub")
    if not os.path.exists(path):
        os.mkdir(folder)
        whole_disk.write_small(path, image("tiny-x86_64", TRAPEZE), folder)
    return path


def is_up(host):
    host.expect(rb"trapeze-tiny: ready")
    host.expect(SHELL_PROMPT)


def runs_in_efi(host):
    assert "efi: EFI v2" in host.run("dmesg")
    assert host.run("ls /sys/firmware/efi/runtime").split()
    assert "TRAPEZPC" in host.run("dmesg | grep 'ACPI: '")  # our tables, put where OVMF wanted them
    assert "APIC" in host.run("ls /sys/firmware/acpi/tables")


def test_ovmf_starts_the_kernel_that_is_named():
    needs(OVMF)
    files = {"/tiny": image("tiny-x86_64", TRAPEZE), "/ovmf.fd": OVMF}
    with KvmHost(TRAPEZE, files, options=COUNTED) as host:
        host.begin()
        host.send(RUN + "/ovmf.fd --kernel /tiny/bzImage --initrd /tiny/initrd --append console=ttyS0; "
                  "echo ended'='$?\n")
        is_up(host)
        runs_in_efi(host)
        host.send("poweroff -f\n")
        host.expect(rb"ended=0\r")


def test_a_whole_disk_boots_by_a_bios():
    """SeaBIOS finds the first sector's loader, that GRUB, and GRUB the rest, by way of the BIOS; after a reset
    once more."""
    needs(SEABIOS)
    with KvmHost(TRAPEZE, {"/bios.bin": SEABIOS}, disks=[small_disk()]) as host:
        host.begin()
        host.send(RUN + "/bios.bin --cpus 2 --disk /dev/vda,format=raw; echo ended'='$?\n")
        host.expect(rb"SeaBIOS")  # how its screen is drawn on the serial port depends on the time of day
        host.expect(rb"Command line: BOOT_IMAGE=/bzImage")  # GRUB's word
        is_up(host)
        said = host.run("dmesg")
        assert "efi: EFI" not in said and "TRAPEZPC" in said
        assert host.run("nproc").strip() == "2"
        assert "virtio_blk" in host.run("ls -l /sys/block/vda/device/driver")
        host.run("grep -q -i virtio /proc/iomem")  # its registers are where the tables say they may be
        failed = host.run("dmesg | grep -E 'ACPI.*(Error|Warning)|BAR.*(no space|failed|can.t)' || true")
        assert failed == "", failed
        host.send("reboot -f\n")
        host.expect(rb"Command line: BOOT_IMAGE=/bzImage")
        is_up(host)
        host.send("poweroff -f\n")
        host.expect(rb"ended=0\r")


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
