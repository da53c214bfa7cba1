#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Control groups on a real kernel: client/cgroup.c runs in a Debian guest, which has cgroup v2.

    cgroup.py TRAPEZE CGROUP_GUEST
"""
import os
import re
import shutil
import sys

import machine
import tap

TRAPEZE, PROGRAM = (os.path.abspath(name) for name in sys.argv[1:3])
SECONDS = 8 if machine.FULL else 3  # of CPU time for each ratio


def judge(text, place):
    found = dict(re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE))
    assert text.strip().endswith("done"), text
    assert re.search(place, found["place"]), text
    assert found["same"] == found["gone"] == found["throttled"] == found["killed"] == "1", text
    # Wide, as the guest's kernel takes the time that its host took away for used by whoever was next:
    # these would be 1, 1 and 1 if nothing of what was written meant anything.
    assert 1.5 < float(found["ratio"]) < 8 and 1.5 < float(found["reverse"]) < 8, text
    assert 0.05 < float(found["cap"]) < 0.6, text


def test_groups_in_debian():
    folder = machine.scratch("probe")
    os.mkdir(folder)
    shutil.copy(PROGRAM, os.path.join(folder, "probe"))
    with machine.Debian(TRAPEZE, "--image", "debian", "--share", f"{folder}:probe", "-c",
                        "2") as debian:
        debian.begin()
        debian.run("mkdir -p /p && mount -t 9p -o trans=virtio,version=9p2000.L probe /p")
        delegated = "systemd-run --wait --pipe -q -p Delegate=yes"
        judge(debian.run(f"{delegated} /p/probe {SECONDS}"), r"/system\.slice/run-.*\.service$")
        if machine.FULL:
            judge(debian.run(f"/p/probe {SECONDS}"), "^/sys/fs/cgroup/trapeze$")
        debian.poweroff()


sys.exit(tap.main([test_groups_in_debian]))
