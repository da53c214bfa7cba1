#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A deterministic machine does not depend on the engine that runs it: Linux boots with the same
log, time stamps (which count instructions) included.

    engines.py TRAPEZE
"""
import re
import sys

import tap
from machine import Machine, image

TRAPEZE = sys.argv[1]
TINY = image("tiny", TRAPEZE)


def boot(engine, cpus):
    options = ["--kernel", TINY + "/Image", "--initrd", TINY + "/initrd", "--memory", "128M",
               "--append", "console=ttyS0", "--cpus", str(cpus), "--deterministic=7",
               "--engine", engine]
    with Machine(TRAPEZE, *options) as machine:
        machine.shell()
        log = machine.log.decode(errors="replace")
    return [line for line in log.splitlines() if re.match(r"\[ *\d+\.\d+\] ", line)]


def same_on_both(cpus):
    logs = [boot(engine, cpus) for engine in ("interp", "dbt")]
    for number, lines in enumerate(zip(*logs)):
        assert lines[0] == lines[1], f"line {number}:\n{lines[0]}\n{lines[1]}"
    count = min(len(log) for log in logs)
    # The shell's prompt came; what the kernel says while we looked may be cut off.
    assert count > 100 and abs(len(logs[0]) - len(logs[1])) <= 3, [len(log) for log in logs]


def test_one_hart_boots_alike_under_both_engines():
    same_on_both(1)


def test_three_harts_boot_alike_under_both_engines():
    same_on_both(3)


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
