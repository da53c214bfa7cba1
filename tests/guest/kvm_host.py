# SPDX-License-Identifier: MIT
"""A host with KVM, for tests on hosts without: QEMU emulates a processor with AMD-V (nothing of
this host's KVM is used), on which Debian's kernel runs this trapeze as its only program.

    with KvmHost(trapeze, {"/tiny": image("tiny-x86_64", trapeze)}) as host:
        host.begin()
        host.run("trapeze host")
        host.screens[0].send("trapeze run …\n")

It is a Machine: run() and expect() are about its first shell; each of `screens` is one as well, for a
guest's console while the first shell is asked about it. What its kernel says is in kernel_log().
"""
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import types

import tap
from machine import Machine, SOURCE, image, scratch

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(SOURCE, "images"))
from maker import arch, initramfs, kernel  # noqa: E402

QEMU = "qemu-system-x86_64"
MODULES = ["kvm_amd"]
DISK_MODULES = ["virtio_blk"]
# The emulator does not let KVM see a guest's XSETBV: guests would find fewer registers in CPUID than
# they have switched on.
PROCESSOR = "EPYC,+svm,+npt,-xsave"
SCREENS = 3
LOADED_LATER = ["libarchive.so.13", "libcurl-gnutls.so.4", "libnbd.so.0", "libslirp.so.0", "libsqlite3.so.0",
                "libgcc_s.so.1"]

# The root becomes a file system of its own: no process can be walled off from an initramfs.
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir /new
$b mount -t tmpfs -o size=80% new /new
for name in /*; do
    [ $name = /new ] || $b cp -a $name /new/
done
exec $b switch_root /new /bin/start
"""
START = """#!/bin/busybox sh
busybox=/bin/busybox
$busybox mkdir -p /dev /proc /sys /run /tmp /root
$busybox mount -t devtmpfs dev /dev
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sys /sys
$busybox mkdir -p /dev/pts /dev/shm
$busybox mount -t devpts pts /dev/pts
$busybox mount -t tmpfs -o mode=1777 shm /dev/shm
$busybox chmod 1777 /tmp
$busybox --install -s /bin
export PATH=/bin:/sbin HOME=/root TERM=dumb TRAPEZE_CACHE=/cache
for module in {modules}; do modprobe $module; done
ip link set lo up
echo 3 >/proc/sys/kernel/printk
cd /root
shells() {{
    while :; do setsid sh -c "exec sh -l </dev/hvc$1 >/dev/hvc$1 2>&1"; done
}}
for screen in $(seq {screens}); do shells $screen & done
shells 0
"""


def libraries(program):
    """What the dynamic linker would load: {path in there: path here}."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert "not found" not in said, said
    return {path: path for path in re.findall(r"(/\S+) \(0x", said)}


def loaded_later():
    """The same of what trapeze loads when it needs it, as far as it is installed here."""
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    names = "|".join(map(re.escape, LOADED_LATER))
    found = re.findall(rf"\s(?:{names}) \(.*x86-64.*=> (\S+)", known)
    return {there: here for library in found
            for there, here in {library: library, **libraries(library)}.items()}


def tree(folder, at):
    """{path in there: path here} of a folder's files."""
    return {os.path.join(at, os.path.relpath(os.path.join(parent, name), folder)):
            os.path.join(parent, name)
            for parent, _, names in os.walk(folder) for name in names}


def the_kernel(trapeze):
    return kernel.Kernel(image("kernel-x86_64", trapeze), arch.X86_64)


@contextlib.contextmanager
def more_than_tiny(path, trapeze, modules):
    """Behind the tiny image's initramfs comes ours; what is in both is ours."""
    shutil.copyfile(os.path.join(image("tiny-x86_64", trapeze), "initrd"), path)
    os.chmod(path, 0o600)
    made = the_kernel(trapeze)
    with open(path, "ab") as out:
        cpio = initramfs.Cpio(out)
        initramfs.write_modules(cpio, made, initramfs.closure(made, modules))
        yield cpio
        cpio.end()


def add_files(cpio, files):
    for target, source in files.items():
        with open(source, "rb") as file:
            cpio.add(target.lstrip("/"), 0o100755, file.read())


def guest_initrd(trapeze, modules, files=None):
    """The tiny image's, with these modules as well, and {path in there: path here}."""
    path = scratch("guest-initrd")
    with more_than_tiny(path, trapeze, [*initramfs.MODULES, *modules]) as cpio:
        add_files(cpio, files or {})
    return path


def write_initrd(path, trapeze, files, modules):
    with more_than_tiny(path, trapeze, modules) as cpio:
        cpio.add("init", 0o100755, INIT.encode())
        cpio.add("bin/start", 0o100755,
                 START.format(modules=" ".join(modules), screens=SCREENS).encode())
        add_files(cpio, files)


class Screen(Machine):
    """Another shell of a host's."""

    def __init__(self, host, end):
        self.host, self.trapeze = host, host.trapeze
        self.process = types.SimpleNamespace(stdin=end.makefile("wb"), stdout=end, poll=host.process.poll,
                                             stderr=host.process.stderr)
        self.log, self.at = b"", 0

    def tail(self):
        return f"{self.log[-3000:].decode(errors='replace')}\n--- the host:\n{self.host.tail()}"


class KvmHost(Machine):
    def __init__(self, trapeze, files=None, memory="1536M", cpus=1, disks=(), options=(), modules=()):
        """`files`: {path in there: file or folder here}; `disks`: files here, raw, which are /dev/vda and so on in
        there, where what is written to them is lost; `modules`: of the kernel, more than KVM's. With two processors QEMU's threads get lost in
        code that another one patches (KVM's static keys), and taking turns they wait for each other's
        interrupts for minutes."""
        if not shutil.which(QEMU):
            raise tap.Skip("Debian's qemu-system-x86 is not installed")
        self.trapeze = "trapeze"
        stripped = scratch("trapeze")
        if not os.path.exists(stripped):
            subprocess.run(["strip", "-o", stripped, trapeze], check=True)
        put = {"/bin/trapeze": stripped, **libraries(trapeze), **loaded_later()}
        for target, source in (files or {}).items():
            put.update(tree(source, target) if os.path.isdir(source) else {target: source})
        initrd, self.serial = scratch("host-initrd"), scratch("host-console")
        write_initrd(initrd, trapeze, put, [*MODULES, *(DISK_MODULES if disks else []), *modules])
        pairs = [socket.socketpair() for _ in range(SCREENS)]
        more = []
        for number, (_, theirs) in enumerate(pairs):
            more += ["-chardev", f"socket,id=screen{number},fd={theirs.fileno()}",
                     "-device", f"virtconsole,chardev=screen{number}"]
        for path in disks:
            more += ["-drive", f"file={path},if=virtio,format=raw,snapshot=on"]
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
             "-accel", "tcg", "-cpu", PROCESSOR, "-M", "pc", "-smp", str(cpus),
             "-m", memory, "-kernel", the_kernel(trapeze).image, "-initrd", initrd,
             "-append", "console=ttyS0 panic=-1 mitigations=off random.trust_cpu=on no_timer_check",
             "-serial", "file:" + self.serial,
             "-chardev", "stdio,id=shell,signal=off", "-device", "virtio-serial-pci",
             "-device", "virtconsole,chardev=shell", *more, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno() for _, theirs in pairs])
        self.log, self.at = b"", 0
        for _, theirs in pairs:
            theirs.close()
        self.screens = [Screen(self, ours) for ours, _ in pairs]
        self.guests = {}  # what tests have running in there and share

    def begin(self):
        for shell in self, *self.screens:
            shell.shell()

    def kernel_log(self):
        with open(self.serial, "rb") as file:
            return file.read().decode(errors="replace")

    def tail(self):
        return f"{super().tail()}\n--- its kernel:\n{self.kernel_log()[-3000:]}"
