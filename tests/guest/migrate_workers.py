#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Linux that goes from worker to worker by the verbs `migrate` and `incoming`.

    migrate_workers.py TRAPEZE
"""
import contextlib
import os
import sys

import machine
import tap
from handover import Control, Handover

TRAPEZE = os.path.abspath(sys.argv[1])
REFUSED = 121
OPTIONS = ["--image", "tiny", "--net", "none"]


machines = contextlib.ExitStack()  # none outlives the test


def start(*options, memory="128"):
    return machines.enter_context(machine.Machine(TRAPEZE, *OPTIONS, "-m", memory, *options))


def incoming(*options, **rest):
    return start("--incoming", *options, **rest)


def counts(guest):
    first = int(guest.run("cat /count"))
    guest.run("while [ $(cat /count) -le %d ]; do sleep 0.1; done" % first)
    return first


def refused(guest, verb, arguments, says):
    control = Control(guest.control)
    answer = control.ask(verb, arguments)
    control.close()
    assert says in answer["error"], answer


def goes_on(guest):
    """There and back; what is in memory stays, processes run, and what was typed arrives."""
    guest.run("dd if=/dev/urandom of=/a bs=1M count=16 2>/dev/null")
    guest.run("(i=0; while true; do i=$((i+1)); echo $i > /count.new; mv /count.new /count; "
              "sleep 0.05; done) & sleep 1")
    sums = guest.run("md5sum /a")
    for i, engine in enumerate(["interp", "auto"]):
        there = incoming("--engine", engine)
        refused(there, "resume", {}, "not arrived")
        count = counts(guest)
        with Handover(guest.control, there.control, streams=1 + i,
                      options={"compress": i == 1, "converge": True}) as way:
            way.commit()
            stages = [said["stage-number"] for said in way.progress]
            assert stages == sorted(stages) and stages[-1] == 5, stages
        assert "was migrated" in guest.finish()
        guest = there
        guest.send("\n")
        guest.shell()
        assert counts(guest) >= count
        assert guest.run("md5sum /a") == sums
    return guest


def stays(guest):
    """Called off, refused, or left alone by its target: it runs on, and can still go."""
    there = incoming()
    with Handover(guest.control, there.control) as way:
        way.wait("source", "commit?")
        refused(guest, "pause", {}, "being migrated")
        way.say("source", "cancel")
        assert "called off" in way.wait("source", "failed")["message"]
    there.finish(REFUSED)
    counts(guest)
    there = incoming(memory="96")
    with Handover(guest.control, there.control) as way:
        assert "ram " in way.wait("source", "failed")["message"]
    there.finish(REFUSED)
    counts(guest)
    there = incoming()
    with Handover(guest.control, there.control) as way:
        way.wait("source", "commit?")
        there.process.kill()
        there.process.wait()
        way.say("source", "commit")
        if way.wait("source", "failed", "uncertain")["event"] == "uncertain":
            refused(guest, "quit", {}, "not known")
            way.record.seek(0)
            assert way.record.read() == b""
            guest.verb("migrate-resolve", "where=here")
    counts(guest)


def test_a_linux_goes_there_and_back_and_stays_when_it_cannot():
    with machines:
        guest = start()
        guest.shell()
        guest = goes_on(guest)
        stays(guest)
        guest.poweroff()


if __name__ == "__main__":
    sys.exit(tap.main([test_a_linux_goes_there_and_back_and_stays_when_it_cannot]))
