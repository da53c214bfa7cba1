#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Linux that goes from worker to worker by the verbs `migrate` and `incoming`.

    migrate_workers.py TRAPEZE
"""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
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


class Cable:
    """Makes streams, and cuts all that it has made."""

    def __init__(self):
        self.ends = []

    def connect(self):
        pair = socket.socketpair()
        self.ends.append(pair[0].dup())
        return pair

    def cut(self):
        for end in self.ends:
            end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.ends = []


def stage(guest):
    return guest.verb("status")["migration"]["stage"]


def goes_before_its_memory(guest):
    """Post-copy: what it runs with comes when it is wanted; without its streams it stands still."""
    guest.run("copy() { dd if=/a of=/b bs=1M count=2 conv=notrunc 2>/dev/null; }; "
              "(while true; do copy; done) & sleep 1")
    sums = guest.run("md5sum /a")
    there, cable = incoming(), Cable()
    options = {"post-copy": True, "rounds": 1, "bandwidth": 16 << 20, "downtime-ns": 1}
    with Handover(guest.control, there.control, options=options, connect=cable.connect) as way:
        assert way.wait("source", "commit?", "failed")["event"] == "commit?", way.said
        way.say("source", "commit")
        for side in "target", "source":
            way.wait(side, "switched")
        assert way.taken()
        cable.cut()
        way.wait("source", "disconnected")
        assert "connection" in way.wait("target", "post-copy-paused")["message"]
        assert stage(guest) == "post-copy-disconnected" and stage(there) == "post-copy-paused"
        assert there.verb("status")["state"] == "paused"
        refused(guest, "resume", {}, "being migrated")
        for verb in "resume", "suspend", "pause":
            refused(there, verb, {}, "post-copy")
        way.recover(guest.control, there.control)
        way.wait("target", "switched")
        way.wait("source", "done")
        way.wait("target", "done")
        assert any(said["stage"] == "post-copy" and said["left"] > 0 for said in way.progress)
    assert "was migrated" in guest.finish()
    there.send("\n")
    there.shell()
    again = there.run("md5sum /a")
    assert again == sums, (again, sums)
    counts(there)
    there.run("kill $!; sleep 0.1; copy; head -c 2097152 /a | cmp - /b")
    return there


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
    control = Control(there.control)
    worker = control.pid
    control.close()
    with Handover(guest.control, there.control) as way:
        way.wait("source", "commit?")
        # The worker itself: one that loses its command only ends soon, and may take the machine over before.
        os.kill(worker, signal.SIGKILL)
        there.process.wait()
        way.say("source", "commit")
        if way.wait("source", "failed", "uncertain")["event"] == "uncertain":
            refused(guest, "quit", {}, "not known")
            way.record.seek(0)
            assert way.record.read().strip() == b""
            guest.verb("migrate-resolve", "where=here")
    counts(guest)


def test_a_linux_goes_there_and_back_and_stays_when_it_cannot():
    with machines:
        guest = start()
        guest.shell()
        guest = goes_on(guest)
        stays(guest)
        guest = goes_before_its_memory(guest)
        guest.poweroff()


def disk(name, *how):
    path = machine.scratch(name)
    subprocess.run([TRAPEZE, "disk", "create", *how, path, "48M"], check=True,
                   stdout=subprocess.DEVNULL)
    return path


def drives(*paths):
    """The same of both sides: three disks, and a disc that is only read."""
    raw, layers, only_read = paths
    return ["--disk", raw + ",format=raw", "--disk", layers + ",format=qcow2,bus=scsi",
            "--disk", only_read + ",format=raw,readonly"]


def test_its_disks_come_along():
    """... while it writes to them; what does not fit is a sentence, and it stays."""
    base, seen = disk("base.raw", "--format", "raw"), disk("seen.raw", "--format", "raw")
    with open(base, "r+b") as file:
        file.write(os.urandom(1 << 20) * 8)
    with open(seen, "r+b") as file:
        file.write(os.urandom(1 << 20) * 3)
    shutil.copyfile(seen, seen + ".there")
    subprocess.run([TRAPEZE, "disk", "create", "--backing", base, "--backing-format", "raw",
                    machine.scratch("top.qcow2")], check=True, stdout=subprocess.DEVNULL)
    options = {"disks": ["copy", "copy", "verify"], "bandwidth": 64 << 20}
    folders = [machine.scratch(name) for name in ("folder", "elsewhere")]
    for folder in folders:
        os.mkdir(folder)
    share = ["--share", folders[0] + ":data"]
    with machines:
        guest = start(*drives(disk("one.raw", "--format", "raw"), machine.scratch("top.qcow2"), seen),
                      *share)
        guest.shell()
        guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=12 2>/dev/null; "
                  "dd if=/dev/urandom of=/dev/sda bs=1M seek=4 count=2 2>/dev/null; sync; "
                  "blockdev --flushbufs /dev/vda 2>/dev/null; true")
        sums = guest.run("md5sum /dev/sda; dd if=/dev/vda bs=1M count=12 2>/dev/null | md5sum")
        guest.run("(i=0; while true; do i=$((i+1)); echo $i | dd of=/dev/vda bs=512 seek=$((32768 + i)) "
                  "conv=notrunc,fsync 2>/dev/null; echo $i > /count; done) & sleep 1")
        for wrong, folder, says in (
                (machine.scratch("full.raw"), folders[0], "not empty"),
                (disk("small.raw", "--format", "raw"), folders[0], "disk 0"),
                (disk("good.raw", "--format", "raw"), folders[1], "folder 'data' is another one")):
            if says == "not empty":
                shutil.copyfile(seen, wrong)
            elif says == "disk 0":
                os.truncate(wrong, 47 << 20)
            there = incoming(*drives(wrong, disk(f"other-{len(says)}.qcow2"), seen),
                             "--share", folder + ":data")
            with Handover(guest.control, there.control, options=options) as way:
                said = way.wait("source", "failed")["message"]
                assert says in said, said
            there.finish(REFUSED)
            guest.run("true")
        new = disk("new.qcow2"), disk("flat.raw", "--format", "raw")
        there = incoming("--disk", new[0] + ",format=qcow2", "--disk", new[1] + ",format=raw,bus=scsi",
                         "--disk", seen + ".there,format=raw,readonly", *share)
        with Handover(guest.control, there.control, options=options) as way:
            way.commit()
            assert way.progress[-1]["disk-total"] >= 20 << 20, way.progress[-1]
        assert "was migrated" in guest.finish()
        guest = there
        guest.send("\n")
        guest.shell()
        count = int(guest.run("cat /count"))
        guest.run(f"until [ $(cat /count) -gt {count} ]; do sleep 0.1; done; echo 3 > /proc/sys/vm/drop_caches")
        assert guest.run("md5sum /dev/sda; dd if=/dev/vda bs=1M count=12 2>/dev/null | md5sum") == sums
        # Every number that it wrote and flushed is where it wrote it.
        guest.run(f"for i in $(seq 1 {count}); do [ $(dd if=/dev/vda bs=512 skip=$((32768 + i)) count=1 "
                  "2>/dev/null | head -n 1) = $i ] || exit 1; done")
        guest.poweroff()


def test_a_disk_is_written_too_fast():
    """... for the link: by large requests, which a processor that hardly runs can still make."""
    if not machine.FULL:
        raise tap.Skip("full tier only")
    options = {"disks": ["copy"], "converge": True, "bandwidth": 8 << 20, "rounds": 100,
               "last-resort": "fail", "downtime-ns": 300_000_000}
    with machines:
        guest = start("--disk", disk("from.raw", "--format", "raw") + ",format=raw", memory="160")
        guest.shell()
        guest.run("dd if=/dev/urandom of=/a bs=1M count=16 2>/dev/null; md5sum < /a > /sum")
        guest.run("(while true; do dd if=/a of=/dev/vda bs=1M conv=notrunc,fsync 2>/dev/null; done) & sleep 1")
        there = incoming("--disk", disk("to.raw", "--format", "raw") + ",format=raw", memory="160")
        with Handover(guest.control, there.control, options=options) as way:
            way.commit()
            assert max(said["throttle"] for said in way.progress) > 0
        assert "was migrated" in guest.finish()
        there.send("\n")
        there.shell()
        # No longer slowed down: by the limit of then this would take minutes.
        there.run("kill $!; wait; for i in 1 2 3; do dd if=/a of=/dev/vda bs=1M conv=notrunc,fsync 2>/dev/null; done")
        there.run("echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count=16 2>/dev/null | md5sum | cmp - /sum")
        there.poweroff()


if __name__ == "__main__":
    sys.exit(tap.main([test_a_linux_goes_there_and_back_and_stays_when_it_cannot,
                       test_its_disks_come_along, test_a_disk_is_written_too_fast]))
