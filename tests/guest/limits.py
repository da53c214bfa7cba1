#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a machine may use of the host's CPUs: weights and caps, by the work that guests get done.

    limits.py TRAPEZE LOOP_ELF IDLE_ELF

The host may be busy with anything else meanwhile: ratios of work are judged, not how long it took.
"""
import contextlib
import os
import subprocess
import sys
import time

import machine
import tap

TRAPEZE, LOOP_ELF, IDLE_ELF = (os.path.abspath(name) for name in sys.argv[1:4])
TOLERANCE = 0.10 if machine.FULL else 0.35
CPU_S = 12 if machine.FULL else 2  # of all machines together, for each ratio
os.environ["XDG_RUNTIME_DIR"] = machine.FOLDER.name  # no other test's machines share with ours


class Looping(machine.Machine):
    """A guest that never rests, on one CPU of the host."""

    def __init__(self, *options, elf=LOOP_ELF):
        super().__init__(TRAPEZE, "--firmware", elf, "-m", "32", *options)
        self.expect(b"ready")
        pid = int(subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True,
                                 check=True, text=True).stdout)
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), {min(os.sched_getaffinity(0))})

    def done(self):
        """(time, instructions, CPU time it had, was held, waited: seconds)"""
        stats = self.verb("stats")
        cpu = stats["cpu"]
        return (time.monotonic(), stats["instructions"],
                *(cpu[name] / 1e9 for name in ("used-ns", "held-ns", "waited-ns")))


def looping(stack, *options, **others):
    return stack.enter_context(Looping(*options, **others))


def measure(machines, seconds=CPU_S, warm_up=0.3):
    """What each did until all together had `seconds` of CPU time."""
    def until_used(begun, much):
        while True:
            now = [one.done() for one in machines]
            if sum(b[2] - a[2] for a, b in zip(begun, now)) >= much:
                return now
            time.sleep(0.1)
    before = until_used([one.done() for one in machines], warm_up)
    after = until_used(before, seconds)
    return [tuple(y - x for x, y in zip(a, b)) for a, b in zip(before, after)]


def judge(weights, work):
    total, sum_of_weights = sum(work), sum(weights)
    for weight, one in zip(weights, work):
        wanted = weight / sum_of_weights
        assert abs(one / total / wanted - 1) <= TOLERANCE, (weights, [w / total for w in work])


def share(weights, *, harts=None, change=None):
    with contextlib.ExitStack() as stack:
        machines = [looping(stack, "--cpu-weight", str(weight), "-c", str(count))
                    for weight, count in zip(weights, harts or [1] * len(weights))]
        time.sleep(1.5)  # once a second a machine looks who else is there
        judge(weights, [one[1] for one in measure(machines)])
        if change is not None:  # while they run
            for one, weight in zip(machines, change):
                one.verb("cpu", f"weight={weight}")
            judge(change, [one[1] for one in measure(machines, warm_up=1)])


def test_equal_weights():
    share([100, 100], harts=[1, 4])


def test_three_to_one_and_changed():
    share([100, 300], change=[300, 100])


def test_four_machines():
    share([100, 200, 300, 400])


def test_who_does_not_run_gives_its_share_away():
    with contextlib.ExitStack() as stack:
        small = looping(stack, "--cpu-weight", "10")
        looping(stack, "--cpu-weight", "10000", elf=IDLE_ELF)
        paused = looping(stack, "--cpu-weight", "10000")
        paused.verb("pause")
        time.sleep(1.5)
        one = measure([small], seconds=0.5)[0]
        assert one[3] == 0, one


def test_without_weights_nobody_is_held():
    with contextlib.ExitStack() as stack:
        machines = [looping(stack, "-c", "2"), looping(stack)]
        time.sleep(1.5)
        assert all(one[3] == 0 for one in measure(machines, seconds=0.5))


def cap_holds(one, cap):
    """It uses what it may, not more; less only for as long as the host has no CPU for it."""
    passed, _, used, held, waited = measure([one], seconds=max(cap / 100, 0.2),
                                            warm_up=cap / 1000)[0]
    most = passed * cap / 100
    # Beside busy neighbours the thread that holds vCPUs may come late once; that is owed, not lost.
    assert used <= most * 1.05 + 0.08, (cap, passed, used, held)
    assert used + waited >= most * 0.9 - 0.08, (cap, passed, used, waited)
    assert held > 0 or waited > 0, (cap, passed, used, held)


def test_a_cap():
    with contextlib.ExitStack() as stack:
        one = looping(stack, "--cpu-cap", "25", "-c", "2")
        cap_holds(one, 25)
        for cap in (3, 60):
            assert one.verb("cpu", f"cap={cap}")["cap"] == cap
            cap_holds(one, cap)
        free = looping(stack)  # a quarter of what one without a cap gets done in that CPU time
        capped, uncapped = measure([one], seconds=0.3)[0], measure([free], seconds=0.3)[0]
        rate = capped[1] / capped[2] / (uncapped[1] / uncapped[2])
        assert 0.5 <= rate <= 2, rate  # how much a core gets done depends on the other one
        one.verb("cpu", "cap=1")
        assert one.verb("pause") == {} and one.verb("status")["state"] == "paused"
        assert one.verb("resume") == {}
        one.verb("cpu", "cap=0")
        assert measure([one], seconds=0.2, warm_up=0.2)[0][3] == 0


def test_deterministic_machines_do_not_notice():
    with contextlib.ExitStack() as stack:
        one = looping(stack, "--cpu-cap", "5", "--deterministic")
        cap_holds(one, 5)


def test_what_makes_no_sense():
    for option, value in (("--cpu-weight", "10001"), ("--cpu-cap", "100001"), ("--cpu-cap", "x")):
        done = subprocess.run([TRAPEZE, "run", "--firmware", LOOP_ELF, option, value],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 120 and len(done.stderr.splitlines()) == 1, done
    with contextlib.ExitStack() as stack:
        one = looping(stack)
        for bad in ("weight=10001", "cap=-1", "weight=much"):
            done = subprocess.run([TRAPEZE, "control", one.control, "cpu", bad],
                                  capture_output=True, text=True, check=False)
            assert done.returncode != 0 and len(done.stderr.splitlines()) == 1, done


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
