#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""For how long a machine stands still while a snapshot of it is made: as `snapshot create --json` tells,
medians of N (7 at most, 6) snapshots with memory and as many without, of a guest that dirties memory and its disk.

    bench/snapshot.py TRAPEZE [N [MIB]]

The guest is the tiny image with MIB (512) of memory, of which three fifths are random bytes, and one disk
that it writes 2 MiB to every tenth of a second. Snapshots are deleted as they are made. `cpu`: CPU time of the
worker for one snapshot, from before it to after it, what the guest used meanwhile included.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

TRAPEZE = os.path.abspath(sys.argv[1])
COUNT = min(int(sys.argv[2]), 7) if len(sys.argv) > 2 else 6  # a chain has 16 images
MIB = int(sys.argv[3]) if len(sys.argv) > 3 else 512
LOAD = (f"mkdir -p /r; mount -t tmpfs -o size=90% tmpfs /r; dd if=/dev/urandom of=/r/a bs=1M count={MIB * 3 // 5}; "
        "(i=0; while :; do i=$((i+1)); dd if=/r/a of=/dev/vda bs=1M count=2 seek=$((i % 30)) conv=notrunc; "
        "dd if=/dev/zero of=/r/a bs=1M count=4 conv=notrunc; sleep 0.1; done) >/dev/null 2>&1 & echo fil''led\n")


class Bench:
    def __init__(self, folder):
        self.environment = dict(os.environ, TRAPEZE_HOME=os.path.join(folder, "store"))
        self.disk = os.path.join(folder, "disk.img")
        self.daemon = None

    def trapeze(self, *arguments):
        return subprocess.run([TRAPEZE, *arguments], env=self.environment, check=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True).stdout

    def start(self):
        self.daemon = subprocess.Popen([TRAPEZE, "daemon"], env=self.environment, stdin=subprocess.DEVNULL)
        while not os.path.exists(os.path.join(self.environment["TRAPEZE_HOME"], "daemon.sock")):
            time.sleep(0.01)
        with open(self.disk, "wb") as file:
            file.truncate(64 << 20)
        self.trapeze("create", "bench", "--image", "tiny", "-m", str(MIB), "--net", "none",
                     "--disk", self.disk + ",format=raw", "--start")
        with subprocess.Popen([TRAPEZE, "console", "bench"], env=self.environment, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as console:
            for text, mark in (("\n", b" # "), (LOAD, b"filled")):
                console.stdin.write(text.encode())
                console.stdin.flush()
                seen = b""
                while mark not in seen:
                    data = os.read(console.stdout.fileno(), 65536)
                    assert data, seen
                    seen += data
            console.kill()

    def cpu(self):
        """Seconds of CPU time of the worker so far."""
        control = os.path.join(self.environment["TRAPEZE_HOME"], "instances", "bench", "control.sock")
        return json.loads(self.trapeze("control", control, "usage"))["cpu-ns"] / 1e9

    def snapshot(self, *options):
        before = self.cpu()
        said = json.loads(self.trapeze("snapshot", "create", "bench", "--json", *options))
        cpu = self.cpu() - before
        self.trapeze("snapshot", "delete", "bench", said["snapshot"])
        time.sleep(0.2)
        return said["paused-us"] / 1000, cpu * 1000


def main():
    with tempfile.TemporaryDirectory(prefix="trapeze-snapshot-") as folder:
        bench = Bench(folder)
        bench.start()
        try:
            kinds = {"with memory": [], "without": ["--no-memory"]}
            runs = {kind: [] for kind in kinds}
            for _ in range(COUNT):
                for kind, options in kinds.items():
                    runs[kind].append(bench.snapshot(*options))
            print(f"{MIB} MiB, {COUNT} snapshots of each kind, ms")
            print(f"{'':12}{'median':>9}{'best':>9}{'worst':>9}{'cpu':>9}")
            for kind, rows in runs.items():
                paused, cpu = zip(*rows)
                print(f"{kind:12}{statistics.median(paused):9.2f}{min(paused):9.2f}{max(paused):9.2f}"
                      f"{statistics.median(cpu):9.0f}")
        finally:
            bench.trapeze("stop", "--force", "bench")
            bench.daemon.terminate()
            bench.daemon.wait()


main()
