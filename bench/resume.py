#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How soon a suspended machine runs again: from the start of `trapeze run --resume` to what the guest
prints first, which it is about to do all the time; and to the moment when all of its memory is there.

    bench/resume.py TRAPEZE [ROUNDS [MIB]]

The guest is the tiny image, with MIB (512) of memory of which three fifths are random bytes. The file is
in the host's page cache, as it was just written.
"""
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

TRAPEZE = os.path.abspath(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 20
MIB = int(sys.argv[3]) if len(sys.argv) > 3 else 512


def read_until(process, mark):
    seen = b""
    while mark not in seen:
        data = os.read(process.stdout.fileno(), 65536)
        assert data, seen[-2000:]
        seen = seen[-4096:] + data


def start(*options):
    return subprocess.Popen([TRAPEZE, "run", *options], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def suspend(control, file, *options):
    begun = time.monotonic()
    subprocess.run([TRAPEZE, "suspend", *options, control, file], check=True)
    return time.monotonic() - begun


def first_bytes(file):
    """Milliseconds until the guest prints, and CPU time of all our processes then."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    process = start("--resume", file)
    os.read(process.stdout.fileno(), 1)
    took = time.monotonic() - begun
    process.terminate()
    process.stdout.read()
    process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * took, 1000 * cpu


def main():
    with tempfile.TemporaryDirectory(prefix="trapeze-resume-") as folder:
        control = os.path.join(folder, "sock")
        guest = start("--image", "tiny", "-m", str(MIB), "--control", control)
        read_until(guest, b" # ")
        guest.stdin.write(b"mkdir -p /r; mount -t tmpfs -o size=90%% tmpfs /r; "
                          b"dd if=/dev/urandom of=/r/a bs=1M count=%d; echo fil''led\n"
                          % (MIB * 3 // 5))
        guest.stdin.flush()
        read_until(guest, b"filled")
        guest.stdin.write(b"while :; do echo tick; done\n")
        guest.stdin.flush()
        read_until(guest, b"tick\r\ntick")
        # Its console must not stand still for want of a reader when it is suspended.
        plain, packed = os.path.join(folder, "plain"), os.path.join(folder, "packed")
        reader = subprocess.Popen(["cat"], stdin=guest.stdout, stdout=subprocess.DEVNULL)
        took = suspend(control, plain)
        guest.wait()
        reader.wait()
        print(f"{MIB} MiB: suspended in {took:.2f} s, {os.stat(plain).st_blocks // 2048} MiB on disk")
        again = start("--resume", plain, "--control", control)
        reader = subprocess.Popen(["cat"], stdin=again.stdout, stdout=subprocess.DEVNULL)
        while not os.path.exists(control):
            time.sleep(0.01)
        took = suspend(control, packed, "--compress")
        again.wait()
        reader.wait()
        print(f"compressed: in {took:.2f} s, {os.stat(packed).st_blocks // 2048} MiB on disk")
        for name, file in (("plain", plain), ("compressed", packed)):
            rounds = [first_bytes(file) for _ in range(ROUNDS)]
            times, cpu = [r[0] for r in rounds], [r[1] for r in rounds]
            print(f"{name}: first output after {statistics.median(times):.1f} ms "
                  f"({min(times):.1f} to {max(times):.1f}; CPU time until the end "
                  f"{statistics.median(cpu):.1f} ms), {ROUNDS} rounds")


main()
