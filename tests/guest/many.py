#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many instances at once: created, started to their prompts, listed, stopped, deleted; what each
step took, and what each worker needs beyond its guest's memory.

    many.py TRAPEZE

8 of them; the full tier has 50.
"""
import concurrent.futures
import os
import re
import signal
import sys
import tempfile
import time

import tap
from daemon_client import Client, is_alive, until
from machine import FULL, image

TRAPEZE = os.path.abspath(sys.argv[1])
COUNT = 50 if FULL else 8
MEMORY_KIB = 128 << 10
BEYOND_KIB = 8 << 10  # the promise of docs/SPECIFICATION.md
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-many-")
CLIENT = Client(TRAPEZE, os.path.join(FOLDER.name, "store"))
NAMES = [f"vm{number:02}" for number in range(COUNT)]


def step(what, function, names=NAMES):
    """For all of the names, four at a time, as a script with xargs -P would."""
    start, cpu = time.monotonic(), os.times()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(function, names))
    now = os.times()
    spent = now.children_user + now.children_system - cpu.children_user - cpu.children_system
    print(f"# {what}: {COUNT} in {time.monotonic() - start:.2f} s, of which the commands themselves "
          f"needed {spent:.2f} s of CPU", flush=True)
    return results


def pids():
    return {e["instance"]: e["detail"]["pid"] for e in CLIENT.events() if e["type"] == "start"}


def memory_of(pid):
    """KiB of a worker: {"guest", "code", "decoded and data", "beyond"}; "beyond" is what it has
    written to, and alone, besides its guest's RAM and the translator's caches, which are left out
    of core dumps (VmFlags dd) and so are known by that."""
    sums, size, name, field = {"guest": 0, "code": 0, "data": 0, "beyond": 0}, 0, "", {}
    codes = []
    with open(f"/proc/{pid}/smaps", encoding="ascii") as file:
        for line in file:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)", line)
            if head:
                size = int(head.group(2), 16) - int(head.group(1), 16) >> 10
                name, field = head.group(3), {}
            elif not line.startswith("VmFlags:"):
                field[line.split(":")[0]] = line.split()[1]
            elif "trapeze-code" in name:
                codes.append(int(field["Rss"]))
            else:
                dirty = int(field["Private_Dirty"])
                without_dump = "dd" in line.split()
                sums["guest" if without_dump and size == MEMORY_KIB else
                     "data" if without_dump else "beyond"] += dirty
    sums["code"] = max(codes, default=0)  # mapped twice
    return sums


def test_a_life_of_many():
    folder = image("tiny", TRAPEZE)
    step("create", lambda name: CLIENT.trapeze(
        "create", name, "--kernel", folder + "/Image", "--initrd", folder + "/initrd",
        "-m", str(MEMORY_KIB >> 10)))
    assert [row["name"] for row in CLIENT.list()] == NAMES
    assert all(row["state"] == "stopped" for row in CLIENT.list())
    step("start", lambda name: CLIENT.trapeze("start", name))
    step("to the prompt", lambda name: until(
        lambda: "~ #" in CLIENT.api("GET", f"/v1/instances/{name}/logs")["text"]))
    rows = step("list, once each", lambda name: CLIENT.list())
    assert all([row["name"] for row in listed] == NAMES for listed in rows)
    assert all(row["state"] == "running" for listed in rows for row in listed)

    workers = pids()
    memory = [memory_of(workers[name]) for name in NAMES]
    for what in memory[0]:
        values = sorted(row[what] for row in memory)
        print(f"# KiB of a worker, {what}: {values[0]} to {values[-1]}, "
              f"median {values[len(values) // 2]}", flush=True)
    assert all(row["guest"] > 16 << 10 for row in memory), "guest memory was not found"
    assert all(row["beyond"] <= BEYOND_KIB for row in memory), memory

    step("pause and resume", lambda name: (CLIENT.trapeze("pause", name),
                                           CLIENT.trapeze("resume", name)))
    step("stop --force", lambda name: CLIENT.trapeze("stop", "--force", name))
    assert not any(is_alive(pid) for pid in workers.values())
    assert all(row["state"] == "stopped" for row in CLIENT.list())
    step("delete", lambda name: CLIENT.trapeze("delete", name))
    assert CLIENT.list() == []
    assert os.listdir(os.path.join(CLIENT.store, "instances")) == []


def main():
    status = tap.main([test_a_life_of_many])
    try:
        for row in CLIENT.list():  # of a test that has failed
            CLIENT.trapeze("stop", "--force", row["name"], status=None)
        CLIENT.kill_daemon(signal.SIGTERM)
    except OSError:
        pass
    return status


if __name__ == "__main__":
    sys.exit(main())
