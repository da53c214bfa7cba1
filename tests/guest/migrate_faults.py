#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The verifying guest moves, and at any point of any stage a worker or its command is killed, whoever leads
the migration dies, the link is cut or hangs, or it is called off: it goes on, on one side, with nothing lost,
doubled or damaged, or dies with the worker that had it, and its disk holds what it had flushed.

    migrate_faults.py TRAPEZE WITNESS
"""
import contextlib
import os
import random
import signal
import sys

import machine
import moving
import tap
import witness
from handover import Handover

TRAPEZE, WITNESS = (os.path.abspath(name) for name in sys.argv[1:3])
SEED = int(os.environ.get("TRAPEZE_SEED", "0")) or random.randrange(1 << 32)
CHOICE = random.Random(SEED)
SILENCE_NS = 1_000_000_000


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def hang_up(way):
    for talk in way.talks.values():
        talk.close()


def say(way, side, what):
    with contextlib.suppress(OSError):
        way.say(side, what)


# What is done to whom: (way, source, target, link).
FAULTS = {
    "none": lambda way, here, there, link: None,
    "source killed": lambda way, here, there, link: kill(here.pid),
    "target killed": lambda way, here, there, link: kill(there.pid),
    "source's command killed": lambda way, here, there, link: here.process.kill(),
    "target's command killed": lambda way, here, there, link: there.process.kill(),
    "leader killed": lambda way, here, there, link: hang_up(way),
    "link cut": lambda way, here, there, link: link.cut(),
    "link hangs": lambda way, here, there, link: None,
    "called off here": lambda way, here, there, link: say(way, "source", "cancel"),
    "called off there": lambda way, here, there, link: say(way, "target", "cancel"),
}
OF_THE_SOURCE = ("source killed", "source's command killed")
OF_THE_TARGET = ("target killed", "target's command killed")


class Turn:
    """One migration and its fault."""

    def __init__(self, guest, fault, stage, pieces):
        self.guest, self.fault, self.stage = guest, fault, stage
        hangs = fault == "link hangs"
        self.disks = CHOICE.choice(["shared", "copy"])
        self.options = {"disks": [self.disks], "compress": CHOICE.random() < 0.3, "rounds": 4,
                        "last-resort": "stop", "converge": CHOICE.random() < 0.3}
        if hangs:
            self.options["patience-ns"] = SILENCE_NS
        self.commits_first = CHOICE.random() < 0.5  # of the fault and the answer to "commit?"
        self.link = moving.Link(stage, CHOICE.randrange(max(1, pieces[stage])), hangs or CHOICE.random() < 0.7)
        self.streams = CHOICE.randint(1, 3)
        self.there = guest.target(self.disks, "--engine", CHOICE.choice(["auto", "auto", "interp"]))

    def settled(self):
        return all(side.state() != "moving" for side in (self.guest.worker, self.there))

    def lead(self, way):
        """As a job does, until both sides know; meanwhile the fault comes."""
        here, link = self.guest.worker, self.link
        asked = committed = done = False

        def turn():
            nonlocal asked, committed, done
            with contextlib.suppress(OSError, ValueError):  # hung up by us
                asked = way.heard("source", 0.005) == "commit?" or asked
            if asked and not committed and (done or self.stage != 4 or self.commits_first):
                committed = True
                say(way, "source", "commit")
            if link.reached.is_set() and not done and (self.stage != 4 or committed or not self.commits_first):
                done = True
                FAULTS[self.fault](way, here, self.there, link)
                if self.fault != "link hangs":
                    link.release()
            return (done or way.over("source")) and self.settled()
        moving.until(turn, lambda: (here.state(), self.there.state(), way.said, link.stage, link.pieces))

    def run(self):
        guest = self.guest
        with Handover(guest.worker.control, self.there.control, self.streams, self.options,
                      self.link.connect) as way:
            self.lead(way)
            self.link.close()
            moved, died = moving.judge(guest, self.there, way, self.fault in OF_THE_SOURCE,
                                       self.fault in OF_THE_TARGET)
        if moved and self.fault == "source's command killed":
            guest.story.cut()  # the guest went on without a terminal until it had moved
        guest.lives()
        return ("moved" if moved else "stayed") + (", died" if died else "")


def plan():
    """Every fault in every stage; in the quick tier a few of them, of which one or two kill the machine."""
    pairs = [(fault, stage) for fault in FAULTS for stage in range(6)]
    if machine.FULL:
        turns = (pairs * 5)[:300]
        CHOICE.shuffle(turns)
        return turns
    gentle = [pair for pair in pairs if pair[0] not in OF_THE_SOURCE + OF_THE_TARGET and
              not (pair[0] == "link hangs" and pair[1] < 3)]
    return [("none", 5), ("link cut", CHOICE.randrange(5)), ("link cut", 5),
            ("target killed", CHOICE.randrange(5)), (CHOICE.choice(OF_THE_SOURCE), CHOICE.randrange(5)),
            *CHOICE.sample(gentle, 2)]


def test_faults_in_every_stage():
    initrd = witness.initramfs(WITNESS, TRAPEZE, machine.scratch("initrd"))
    guest = moving.Guest(TRAPEZE, initrd, NET)
    pieces, outcomes = [4, 4, 400, 60, 1, 2], {}  # 4: nothing passes before it is committed
    guest.boot()
    try:
        for number, (fault, stage) in enumerate(plan(), 1):
            turn = Turn(guest, fault, stage, pieces)
            try:
                outcome = turn.run()
            except BaseException:
                print(f"# turn {number}: {fault} in {moving.STAGES[stage]}, {turn.link.aim}, "
                      f"{turn.options}, {turn.streams} streams", flush=True)
                turn.there.end()
                raise
            seen = turn.link.pieces
            pieces = [(a + b + 1) // 2 if turn.link.stage > i != 4 else a
                      for i, (a, b) in enumerate(zip(pieces, seen))]
            if number % 50 == 0:
                print(f"# {number} faults: {outcomes}", flush=True)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        guest.end()
    finally:
        guest.worker.end()
    print(f"# {number} faults: {outcomes}; pieces of the stages: {pieces}", flush=True)


if __name__ == "__main__":
    print(f"# TRAPEZE_SEED={SEED}", flush=True)
    machine.image("tiny", TRAPEZE)  # as who we are
    NET = moving.network()
    sys.exit(tap.main([test_faults_in_every_stage]))
