# SPDX-License-Identifier: MIT
"""A host with KVM, for tests on hosts without: QEMU emulates a processor with AMD-V (nothing of
this host's KVM is used), on which Debian's kernel runs this trapeze as its only program.

    with KvmHost(trapeze, {"/tiny": image("tiny-x86_64", trapeze)}) as host:
        host.begin()
        host.run("trapeze host")

It is a Machine: run() and expect() are about its shell, and about guests' consoles once one is
started there. What its kernel says is in host.kernel_log().
"""
import os
import re
import shutil
import subprocess
import sys

import tap
from machine import Machine, SOURCE, image, scratch

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(SOURCE, "images"))
from maker import arch, initramfs, kernel  # noqa: E402

QEMU = "qemu-system-x86_64"
MODULES = ["kvm_amd"]

INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mkdir -p /dev/pts /dev/shm
/bin/busybox mount -t devpts pts /dev/pts
/bin/busybox mount -t tmpfs -o mode=1777 tmp /tmp
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/root TERM=dumb TRAPEZE_CACHE=/cache
for module in {modules}; do modprobe $module; done
ip link set lo up
echo 3 >/proc/sys/kernel/printk
cd /root
while :; do setsid sh -c 'exec sh -l </dev/hvc0 >/dev/hvc0 2>&1'; done
"""


def libraries(program):
    """What the dynamic linker would load: {path in there: path here}."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert "not found" not in said, said
    return {path: path for path in re.findall(r"(/\S+) \(0x", said)}


def tree(folder, at):
    """{path in there: path here} of a folder's files."""
    return {os.path.join(at, os.path.relpath(os.path.join(parent, name), folder)):
            os.path.join(parent, name)
            for parent, _, names in os.walk(folder) for name in names}


def write_initrd(path, made, files):
    """Behind the tiny image's initramfs comes ours; what is in both is ours."""
    tiny = os.path.join(image("tiny-x86_64", files["/bin/trapeze"]), "initrd")
    shutil.copyfile(tiny, path)
    os.chmod(path, 0o600)
    with open(path, "ab") as out:
        cpio = initramfs.Cpio(out)
        needs = initramfs.closure(made, MODULES)
        initramfs.write_modules(cpio, made, needs)
        cpio.add("init", 0o100755, INIT.format(modules=" ".join(MODULES)).encode())
        for target, source in files.items():
            with open(source, "rb") as file:
                cpio.add(target.lstrip("/"), 0o100755, file.read())
        cpio.end()


class KvmHost(Machine):
    def __init__(self, trapeze, files=None, memory="1024M", cpus=1, options=()):
        """`files`: {path in there: file or folder here}. With two processors QEMU's threads get lost in
        code that another one patches (KVM's static keys), and taking turns they wait for each other's
        interrupts for minutes."""
        if not shutil.which(QEMU):
            raise tap.Skip("Debian's qemu-system-x86 is not installed")
        self.trapeze = "trapeze"
        stripped = scratch("trapeze")
        if not os.path.exists(stripped):
            subprocess.run(["strip", "-o", stripped, trapeze], check=True)
        put = {"/bin/trapeze": stripped, **libraries(trapeze)}
        for target, source in (files or {}).items():
            put.update(tree(source, target) if os.path.isdir(source) else {target: source})
        made = kernel.Kernel(image("kernel-x86_64", trapeze), arch.X86_64)
        initrd, self.serial = scratch("host-initrd"), scratch("host-console")
        write_initrd(initrd, made, put)
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
             "-accel", "tcg", "-cpu", "EPYC,+svm,+npt", "-M", "pc", "-smp", str(cpus),
             "-m", memory, "-kernel", made.image, "-initrd", initrd,
             "-append", "console=ttyS0 panic=-1 mitigations=off random.trust_cpu=on no_timer_check",
             "-serial", "file:" + self.serial,
             "-chardev", "stdio,id=shell,signal=off", "-device", "virtio-serial-pci",
             "-device", "virtconsole,chardev=shell", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.log, self.at = b"", 0

    def kernel_log(self):
        with open(self.serial, "rb") as file:
            return file.read().decode(errors="replace")

    def tail(self):
        return f"{super().tail()}\n--- its kernel:\n{self.kernel_log()[-3000:]}"
