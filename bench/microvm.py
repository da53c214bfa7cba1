#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The two figures of a microVM, by Firecracker's API: how long it takes from InstanceStart to the
guest's init (the target is 100 ms on a host with KVM), and what memory it costs beside the guest's own
(4 MiB).

    ninja -C build trapeze bench/booted-ARCH
    bench/microvm.py build/trapeze [--arch ARCH] [--kernel FILE] [--rounds N] [--memory MIB]

ARCH is x86_64 (default where there is KVM) or riscv64. The kernel is the tiny image's, or FILE: what
others quote is measured with kernels made for microVMs, uncompressed (vmlinux), and without a serial
console, as here. If there is a program `firecracker` in the PATH, it does the same in turns with ours.

The guest's init is build/bench/booted-ARCH, alone in an initramfs: it writes to the boot timer, and its
time is what the log then says. CPU is that of the VMM's processes, the guest's included. Memory is that
of the mappings that are not the guest's RAM, after the boot, of the machine's process and of the one
that serves the API: private dirty pages (what a machine more costs), and resident ones (which is what
Firecracker's tests call overhead; shared libraries count once for each). "answer" is the time until
InstanceStart is answered. "first ms" is the VMM's own part of the way: from InstanceStart to the first
instruction of the guest, which is a program of a few bytes then, no Linux.

    bench/microvm.py --payload FILE --arch ARCH TRAPEZE

only writes that program, for a run where each instruction takes 1 ns of the host's clock: in QEMU
(-cpu EPYC,+svm,+npt -icount shift=0,sleep=off) with `trapeze firecracker --boot-timer` in it.

Compare figures of one run only, on a host that does nothing else.
"""
import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(__file__))
import initramfs  # noqa: E402

KVM_HOST = os.path.exists("/dev/kvm") and os.uname().machine == "x86_64"
QUIET = ("reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd "
         "swiotlb=noforce cryptomgr.notests quiet loglevel=0")
PATIENCE_S = 120


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("trapeze")
    parser.add_argument("--arch", choices=("x86_64", "riscv64"),
                        default="x86_64" if KVM_HOST else "riscv64")
    parser.add_argument("--kernel")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--payload", metavar="FILE")
    parser.add_argument("--memory", type=int, default=128, metavar="MIB")
    return parser.parse_args()


def tiny_kernel(trapeze, arch):
    name = "tiny" if arch == "riscv64" else "tiny-" + arch
    done = subprocess.run([trapeze, "image", "build", name, "--json"], capture_output=True, text=True,
                          check=False)
    folder = os.path.join(os.environ.get("TRAPEZE_CACHE", os.path.expanduser("~/.cache/trapeze")),
                          "images", name)
    file = os.path.join(folder, "Image" if arch == "riscv64" else "bzImage")
    if not os.path.exists(file):
        sys.exit(f"microvm.py: there is no {file}: {done.stderr}")
    return file


def payload(arch):
    """An ELF file that writes to the boot timer as the first thing it does, and waits."""
    if arch == "x86_64":  # mov eax, 0xc0000000; mov byte [rax], 123; hlt; jmp to it
        machine, gpa, code = 62, 0x1000000, bytes.fromhex("b8000000c0 c6007b f4 ebfd")
    else:  # lui a0, 0x103; li a1, 123; sb a1, (a0); wfi; j to it
        machine, gpa = 243, 0x80200000
        code = struct.pack("<5I", 0x00103537, 0x07b00593, 0x00b50023, 0x10500073, 0xffdff06f)
    header = 64 + 56
    size = header + len(code)
    return (struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, machine, 1, gpa + header, 64, 0, 0, 64,
                        56, 1, 0, 0, 0) +
            struct.pack("<IIQQQQQQ", 1, 7, 0, gpa, gpa, size, size, 4096) + code)


def write_initrd(program, output):
    archive = initramfs.newc_entry("dev", 0o40755) + initramfs.newc_node("dev/console", 0o20600, 5, 1)
    archive += initramfs.newc_node("dev/mem", 0o20600, 1, 1)
    with open(program, "rb") as file:
        archive += initramfs.newc_entry("init", 0o100755, file.read())
    with open(output, "wb") as file:
        file.write(initramfs.padded(archive + initramfs.newc_entry("TRAILER!!!", 0), 512))


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def put(path, resource, **body):
    connection = Connection(path)
    connection.request("PUT", resource, json.dumps(body))
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.close()
    if answer.status != 204:
        sys.exit(f"microvm.py: {resource}: {said}")


def wait_until(what, process):
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        if process.poll() is not None or time.monotonic() > end:
            sys.exit("microvm.py: the guest did not boot:\n" + process.stderr.read().decode()
                     if process.poll() is not None else "microvm.py: the guest does not say that it booted")
        time.sleep(0.001)
    return found


def descendants(pid):
    """A process and those that it started, and they."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        children = file.read().split()
    return [pid] + [other for child in children for other in descendants(int(child))]


def overhead(pid, ram):
    """(private dirty, resident) bytes of what is mapped besides `ram` bytes of guest memory."""
    size = dirty = resident = 0
    total = [0, 0]
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as file:
        for line in file:
            word, _, rest = line.partition(":")
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                first, last = (int(part, 16) for part in line.split()[0].split("-"))
                size, dirty, resident = last - first, 0, 0
            elif word == "Rss":
                resident = int(rest.split()[0]) * 1024
            elif word == "Private_Dirty":
                dirty = int(rest.split()[0]) * 1024
                if size < ram:
                    total[0] += dirty
                    total[1] += resident
    return total


def measure(argv, options, kernel, initrd, folder):
    path, log = os.path.join(folder, "api"), os.path.join(folder, "log")
    open(log, "w", encoding="ascii").close()
    with subprocess.Popen([*argv, "--api-sock", path, "--boot-timer"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_until(lambda: os.path.exists(path), process)
        put(path, "/logger", log_path=log, level="Info")
        put(path, "/machine-config", vcpu_count=1, mem_size_mib=options.memory)
        put(path, "/boot-source", kernel_image_path=kernel, boot_args=QUIET,
            **({"initrd_path": initrd} if initrd else {}))
        before = time.monotonic()
        put(path, "/actions", action_type="InstanceStart")
        answer = (time.monotonic() - before) * 1000

        def booted():
            with open(log, encoding="utf-8", errors="replace") as file:
                return re.search(r"Guest-boot-time = +(\d+) us \d+ ms, +(\d+) CPU us", file.read())
        said = wait_until(booted, process)
        memory = [overhead(pid, options.memory << 20) for pid in descendants(process.pid)]
        process.send_signal(signal.SIGTERM)
        process.wait()
    if os.path.exists(path):
        os.unlink(path)
    return {"boot ms": int(said.group(1)) / 1000, "CPU ms": int(said.group(2)) / 1000,
            "answer ms": answer, "private MiB": sum(each[0] for each in memory) / 2**20,
            "resident MiB": sum(each[1] for each in memory) / 2**20}


def main():
    options = arguments()
    if options.payload:
        with open(options.payload, "wb") as file:
            file.write(payload(options.arch))
        return
    trapeze = os.path.abspath(options.trapeze)
    kernel = options.kernel or tiny_kernel(trapeze, options.arch)
    program = os.path.join(os.path.dirname(trapeze), "bench", "booted-" + options.arch)
    programs = {"trapeze": [trapeze, "firecracker"]}
    other = shutil.which("firecracker")
    if other and options.arch == "x86_64" and os.path.realpath(other) != os.path.realpath(trapeze):
        programs["firecracker"] = [other]
    rows = {name: [] for name in programs}
    with tempfile.TemporaryDirectory(prefix="trapeze-microvm-") as folder:
        initrd = os.path.join(folder, "initrd")
        write_initrd(program, initrd)
        first = os.path.join(folder, "payload")
        with open(first, "wb") as file:
            file.write(payload(options.arch))
        for _ in range(options.rounds):
            for name, argv in programs.items():
                row = measure(argv, options, kernel, initrd, folder)
                row["first ms"] = measure(argv, options, first, None, folder)["boot ms"]
                rows[name].append(row)
    print(f"{options.arch}, {kernel}, {options.memory} MiB, {options.rounds} rounds: median (best)")
    for name, measured in rows.items():
        for figure in measured[0]:
            values = [row[figure] for row in measured]
            print(f"{name:12} {figure:14} {statistics.median(values):10.2f} ({min(values):.2f})")


if __name__ == "__main__":
    main()
