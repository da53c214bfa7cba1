#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The dirty log tells of every write: a copy of the guest's memory that is kept by it alone is compared
with the memory, from the first instruction on, while a Linux boots and then writes in every way there is
(dirty_log.c): harts, page tables, disk, network, entropy, balloon.

    dirty_log.py TRAPEZE DIRTY_LOG WITNESS
"""
import os
import re
import subprocess
import sys

import machine
import tap
import witness

TRAPEZE, DIRTY_LOG, WITNESS = (os.path.abspath(name) for name in sys.argv[1:4])
INITRD = witness.initramfs(WITNESS, TRAPEZE, machine.scratch("initrd"))
SCRIPT = b"""ifconfig eth0 10.0.2.15 up
cat /dev/hwrng | head -c 1000 >/dev/null || exit 1
(while :; do head -c 20000 /dev/hwrng >/dev/null; sleep 0.1; done) &
(while :; do echo 3 >/proc/sys/vm/drop_caches; cat /dev/vdc >/dev/null; done) &
/bench set=24 dirty=50 disk=/dev/vdb rate=300
"""


def compared(engine, harts, comparisons, seed=1, ready="witness-ready"):
    script, disk, read = (machine.scratch(name) for name in ("script", "disk", "read"))
    with open(script, "wb") as file:
        file.write(SCRIPT.ljust(65536, b"\0"))
    with open(disk, "wb") as file:
        file.truncate(16 << 20)
    with open(read, "wb") as file:
        file.write(os.urandom(8 << 20))
    words = {"kernel": os.path.join(machine.image("tiny", TRAPEZE), "Image"), "initrd": INITRD,
             "append": "console=ttyS0 trapeze.test=vda", "engine": engine, "cpus": harts, "memory": 160,
             "every": 4000, "compare": comparisons, "frames": 1, "balloon": 1, "ready": ready, "seed": seed}
    command = [DIRTY_LOG, *(f"{key}={value}" for key, value in words.items()), f"disk={script}", f"disk={disk}", f"disk={read}", "iops=100"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    text = done.stdout.decode(errors="replace")
    assert done.returncode == 0, text[-2000:] + done.stderr.decode(errors="replace")
    said = re.search(r"dirty-log rounds=(\d+) pages=(\d+) comparisons=(\d+)", text)
    rounds, pages, comparisons_done = (int(value) for value in said.groups())
    assert comparisons_done >= comparisons and rounds > 20 * comparisons and pages > rounds, said[0]
    assert ready in text and "witness-failed" not in text, text[-2000:]


def test_translator():
    for harts, comparisons, seed in ((4, 8, 1),) if not machine.FULL else ((n, 200, n) for n in (1, 2, 4)):
        compared("auto", harts, comparisons, seed)


def test_interpreter():
    if not machine.FULL:  # as far as the first process
        compared("interp", 1, 4, ready="Run /init as init process")
        return
    for harts in 1, 2, 4:
        compared("interp", harts, 100, harts)


if __name__ == "__main__":
    sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
