#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The verifying guest goes to and fro between workers, from engine to engine, with a disk and a TCP connection:
nothing is lost, and a worker that a machine has come to is no larger after the hundredth time than after the
first, nor one that it has stayed at after being called off.

    migrate_pingpong.py TRAPEZE WITNESS
"""
import os
import sys

import machine
import moving
import tap
import witness
from handover import Handover

TRAPEZE, WITNESS = (os.path.abspath(name) for name in sys.argv[1:3])
TIMES = 100 if machine.FULL else 6
ENGINES = ["interp", "auto"] if machine.FULL else ["auto", "auto"]  # a guest is slow in the interpreter
GROWTH = 8 << 20  # bytes: of tables, translations and heaps, which are as large as it happens


def descriptors(worker):
    return len(os.listdir(f"/proc/{worker.pid}/fd"))


def memory(worker):
    """Bytes of its own beside the guest's: what is in its heap and in small maps."""
    total, size = 0, 0
    with open(f"/proc/{worker.pid}/smaps", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[0] == "Size:":
                size = int(words[1]) << 10
            elif words[0] == "Anonymous:" and size < 16 << 20:  # not the guest's, nor translations
                total += int(words[1]) << 10
    return total


def call_off(guest):
    """The machine stays; what the attempt has taken is given back."""
    before = descriptors(guest.worker)
    there = guest.target("copy")
    with Handover(guest.worker.control, there.control, 2, {"disks": ["copy"]}) as way:
        way.wait("source", "commit?")
        way.say("source", "cancel")
        way.wait("source", "failed")
        moved, _ = moving.judge(guest, there, way)
        assert not moved
    moving.until(lambda: descriptors(guest.worker) == before, before, lambda: descriptors(guest.worker))


def test_to_and_fro():
    guest = moving.Guest(TRAPEZE, witness.initramfs(WITNESS, TRAPEZE, machine.scratch("initrd")), NET)
    guest.boot()
    sizes, counts = {}, {}
    try:
        for turn in range(TIMES):
            engine, disks = ENGINES[turn % 2], ("shared", "copy")[turn // 2 % 2]
            there = guest.target(disks, "--engine", engine)
            with Handover(guest.worker.control, there.control, 1 + turn % 3,
                          {"disks": [disks], "compress": turn % 4 == 3, "rounds": 4, "last-resort": "stop"}) as way:
                way.commit()
                moved, _ = moving.judge(guest, there, way)
                assert moved
            guest.lives()
            if turn % 2 == 1:
                call_off(guest)
                guest.lives()
            # The same way round: engines have descriptors and memory of their own.
            sizes.setdefault(turn % 2, []).append(memory(guest.worker))
            counts.setdefault(turn % 2, []).append(descriptors(guest.worker))
        guest.end()
    finally:
        guest.worker.end()
    print(f"# own memory in KiB, first and last: "
          f"{[(row[0] >> 10, row[-1] >> 10) for row in sizes.values()]}, descriptors: {list(counts.values())[0][-1]}",
          flush=True)
    for row in counts.values():
        assert len(set(row)) == 1, counts
    for row in sizes.values():
        assert row[-1] < max(row[:len(row) // 2 + 1]) + GROWTH, sizes


if __name__ == "__main__":
    machine.image("tiny", TRAPEZE)  # as who we are
    NET = moving.network()
    sys.exit(tap.main([test_to_and_fro]))
