#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What reading the dirty log costs a guest: rows of the benchmark (guest/) while the log of all its memory
is taken every 100 ms and every 20 ms, and while it is not. Nothing is copied: that is a migration's cost.

    ninja -C build tests/guest/dirty_log bench/guest-riscv64; bench/dirty.py build [ROUNDS [ROWS]]

Rounds alternate. A figure is the CPU time of the whole process from the row's start to the guest's end,
the median of the rounds, and what it is more than without: so other work on the machine does not matter much.
"""
import os
import re
import statistics
import subprocess
import sys

from initramfs import append_program

BUILD = sys.argv[1]
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
ROWS = (sys.argv[3] if len(sys.argv) > 3 else "integer,bytecode,sieve,sort,string,touch").split(",")
EVERY = {"off": 0, "100 ms": 100000, "20 ms": 20000}
TIMES = 12  # a row is short


def image():
    builder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "images", "build")
    done = subprocess.run([builder, "tiny"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().split("\n")[-1]


def run(kernel, initrd, row, every):
    command = [os.path.join(BUILD, "tests", "guest", "dirty_log"), "kernel=" + kernel, "initrd=" + initrd,
               "append=console=ttyS0 rdinit=/bench -- " + " ".join([row] * TIMES), "memory=512", "ready=bench-quiet",
               f"every={every}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                          check=True)
    said = re.search(r"rounds=(\d+) pages=(\d+) .*take-us=(\S+) most-us=\S+ cpu-s=(\S+)", done.stdout)
    rounds, pages, take, cpu = (float(value) for value in said.groups())
    return cpu, pages / rounds if rounds else 0, take


def main():
    tiny, initrd = image(), os.path.join(BUILD, "bench", "dirty-initrd")
    append_program(os.path.join(tiny, "initrd"), os.path.join(BUILD, "bench", "guest-riscv64"), initrd)
    print(f"{'row':10}" + "".join(f"{name:>34}" for name in EVERY))
    for row in ROWS:
        runs = {name: [] for name in EVERY}
        for _ in range(ROUNDS):
            for name, every in EVERY.items():
                runs[name].append(run(os.path.join(tiny, "Image"), initrd, row, every))
        line, off = f"{row:10}", statistics.median(cpu for cpu, _, _ in runs["off"])
        for name, of in runs.items():
            cpu, pages, take = (statistics.median(column) for column in zip(*of))
            more = f" {100 * (cpu / off - 1):+5.1f} % {pages:6.0f} pages {take:4.0f} us" if name != "off" else ""
            line += f"{cpu:.3f} s{more}".rjust(34)
        print(line, flush=True)


main()
