#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Snapshots of instances: what they hold, what becomes of them when somebody is killed, and what
other commands make of an instance that has some.

    snapshot.py TRAPEZE LOOP_ELF WRITER_ELF

What a machine goes on from after a snapshot was restored is told by writer.c, whose memory and
disk have to be of the same moment.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import tap
import writer
from daemon_client import HOST, LIMIT_S, USAGE, Client, is_alive, until
from machine import FULL, scratch
from writing import Writer

TRAPEZE, LOOP_ELF, WRITER_ELF = (os.path.abspath(name) for name in sys.argv[1:4])
STORE = scratch("store")
CLIENT = Client(TRAPEZE, STORE)
trapeze, refuses, api = CLIENT.trapeze, CLIENT.refuses, CLIENT.api
SIZE, BLOCK = 256 << 10, 4096
SEED = int(os.environ.get("TRAPEZE_SEED", time.time_ns() & 0xffffffff))
CHANCE = random.Random(SEED)


def folder(name, *parts):
    return os.path.join(STORE, "instances", name, *parts)


def rows(name):
    return json.loads(trapeze("snapshot", "list", "--json", name).stdout)["snapshots"]


def disks_of(name):
    return CLIENT.info(name)["disks"]


def content(path, name="content"):
    raw = scratch(name)
    layer = path.endswith(".qcow2")
    trapeze("disk", "convert", "--force", "--from", "qcow2" if layer else "raw", "--format", "raw",
            path, raw)
    with open(raw, "rb") as file:
        return file.read()


def check_images(name):
    """By others' judgement: none is damaged, and each lies on what is there."""
    for top, _, files in os.walk(folder(name, "snapshots")):
        for file in files:
            if file.endswith(".qcow2"):
                path = os.path.join(top, file)
                subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True,
                               timeout=LIMIT_S)
                subprocess.run(["qemu-img", "info", "--backing-chain", path], check=True,
                               stdout=subprocess.DEVNULL, timeout=LIMIT_S)


class Model:
    """A machine with two disks that does not run, and what they have to hold at each snapshot."""

    def __init__(self, name):
        self.name = name
        self.now = [bytearray(os.urandom(SIZE)), bytearray(SIZE)]
        self.snapshots = {}  # name: (contents, parent)
        self.current = None
        self.count = 0
        sources = []
        for number, data in enumerate(self.now):
            sources.append(scratch(f"{name}-{number}.img"))
            with open(sources[-1], "wb") as file:
                file.write(data)
        other = sources[1] + ".qcow2"
        trapeze("disk", "convert", "--force", "--from", "raw", "--format", "qcow2", sources[1],
                other)
        trapeze("list")
        api("POST", "/v1/instances", {
            "name": name, "vmx": 'memsize = "32"\ntrapeze.firmware = "elf"\n'
            'scsi0:0.fileName = "disk.img"\nscsi0:0.trapeze.format = "raw"\n'
            'scsi0:1.fileName = "data.qcow2"\nscsi0:1.trapeze.format = "qcow2"\n',
            "files": [{"source": LOOP_ELF, "name": "elf"},
                      {"source": sources[0], "name": "disk.img"},
                      {"source": other, "name": "data.qcow2"}]}, 201)

    def write(self):
        """As a guest would have."""
        for path, data in zip(disks_of(self.name), self.now):
            words = []
            for _ in range(CHANCE.randint(1, 3)):
                at = CHANCE.randrange(SIZE // BLOCK) * BLOCK
                size = min(CHANCE.randint(1, 8) * BLOCK, SIZE - at)
                byte = CHANCE.randrange(256)
                words += ["-c", f"write -z {at} {size}" if byte == 0 else
                          f"write -P {byte} {at} {size}"]
                data[at:at + size] = bytes([byte]) * size
            layer = path.endswith(".qcow2")
            subprocess.run(["qemu-io", "-t", "unsafe", "-f", "qcow2" if layer else "raw", *words, path], check=True,
                           stdout=subprocess.DEVNULL, timeout=LIMIT_S)

    def verb(self):
        """One at random: the words, and a function that says what is so afterwards."""
        names = list(self.snapshots)
        kind = CHANCE.choice(["create", "create", "restore", "delete"] if names else ["create"])
        if len(names) > 7:
            kind = "delete"
        if kind == "create":
            self.count += 1
            return ["create", self.name, f"s{self.count}"], self.create
        return [kind, self.name, CHANCE.choice(names)], getattr(self, kind)

    def create(self, name):
        self.snapshots[name] = ([bytes(data) for data in self.now], self.current)
        self.current = name

    def restore(self, name):
        self.now = [bytearray(data) for data in self.snapshots[name][0]]
        self.current = name

    def delete(self, name):
        parent = self.snapshots.pop(name)[1]
        self.snapshots = {child: (data, parent if above == name else above)
                          for child, (data, above) in self.snapshots.items()}
        self.current = parent if self.current == name else self.current

    def holds(self):
        """What is there, as a tree."""
        return ({name: parent for name, (_, parent) in self.snapshots.items()}, self.current)

    def found(self):
        tree = rows(self.name)
        current = [row["name"] for row in tree if row["current"]]
        return ({row["name"]: row.get("parent") for row in tree}, current[0] if current else None)

    def verify(self, snapshots=False):
        assert self.found() == self.holds(), (self.found(), self.holds())
        for path, data in zip(disks_of(self.name), self.now):
            assert content(path) == bytes(data), (path, self.holds())
        if not snapshots or not self.snapshots:
            return
        for name in self.snapshots:
            trapeze("snapshot", "restore", self.name, name)
            self.restore(name)
            self.verify()
        check_images(self.name)  # what somebody who was killed has left is gone by now

    def end(self):
        """Without any snapshot it is what it was at first: one image for each disk."""
        trapeze("snapshot", "create", self.name, "last")  # which looks for what is left over
        self.create("last")
        for name in list(self.snapshots):
            trapeze("snapshot", "delete", self.name, name)
            self.delete(name)
        self.verify()
        assert [os.path.basename(path) for path in disks_of(self.name)] == ["disk.img", "data.qcow2"]
        assert not os.path.exists(folder(self.name, "snapshots"))


def test_a_tree_of_disks():
    model = Model("a")
    for turn in range(200 if FULL else 12):
        model.write()
        words, then = model.verb()
        trapeze("snapshot", *words)
        then(words[2])
        model.verify(snapshots=turn % 20 == 11)
    model.end()


# ---- somebody is killed ----

def test_killed_in_the_middle_of_any_verb():
    """What is there afterwards is what was before, or what was asked for, and can go on."""
    model = Model("a")
    done = killed = 0
    for turn in range(200 if FULL else 12):
        model.write()
        words, then = model.verb()
        before = model.holds(), [bytes(data) for data in model.now]
        pid = CLIENT.pid_of_daemon()
        process = subprocess.Popen([TRAPEZE, "snapshot", *words], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env={**os.environ, "TRAPEZE_HOME": STORE})
        time.sleep(CHANCE.random() * 0.15)
        os.kill(pid, signal.SIGKILL)
        status = process.wait(timeout=LIMIT_S)
        assert status in (0, HOST), (status, words)
        until(lambda gone=pid: not is_alive(gone))
        # Any look with the lock finishes what was begun.
        trapeze("set", "a", "cpu-weight=200")
        trapeze("start", "a")
        trapeze("stop", "--force", "a")
        after = bytes(content(disks_of("a")[0]))
        if model.found() != before[0] or (words[0] == "restore" and after != before[1][0]):
            then(words[2])
            done += 1
        else:
            assert status != 0, words
            killed += 1
        model.verify(snapshots=turn % 10 == 9)
    print(f"# {done} were done, {killed} were not", flush=True)
    model.end()


# ---- a machine that runs ----

def test_a_machine_that_runs():
    machine = Writer(CLIENT, "w", WRITER_ELF)
    machine.start()
    at = {"disks": machine.go_on()}
    answer = api("POST", "/v1/instances/w/snapshots", {"snapshot": "disks", "memory": False}, 201)
    assert answer["memory"] is False and answer["paused-us"] >= 0, answer
    at["both"] = machine.go_on()
    trapeze("snapshot", "create", "w", "both")
    at["packed"] = machine.go_on()
    trapeze("snapshot", "create", "-z", "w", "packed")
    machine.go_on()
    assert CLIENT.info("w")["state"] == "running"
    tree = {row["name"]: row for row in rows("w")}
    assert [tree[name].get("parent") for name in ("disks", "both", "packed")] == \
        [None, "disks", "both"] and tree["packed"]["current"], tree
    assert tree["packed"]["memory-size"] < tree["both"]["memory-size"] > 0, tree
    # Its disks are as after a loss of power, with all that was flushed, and nothing of later.
    trapeze("snapshot", "restore", "--json", "w", "disks")
    assert CLIENT.info("w")["state"] == "running"  # as it was before
    trapeze("stop", "--force", "w")
    last = machine.verify(at["disks"])
    assert last < at["both"] + 4 * writer.FLUSH_EVERY, (last, at)
    # Memory and disk are of the same moment: the guest goes on where it was.
    for name in ("both", "packed", "both"):
        trapeze("snapshot", "restore", "w", name)
        assert CLIENT.info("w")["state"] == "suspended"
        refuses(USAGE, "still needs", arguments=["snapshot", "delete", "w", name])
        trapeze("start", "w")
        until(lambda: machine.flushed() > at[name])
        went = machine.go_on()
        trapeze("snapshot", "create", "w")  # of a machine that has just been brought back
        assert machine.go_on() > went
        flushed = machine.flushed()
        trapeze("stop", "--force", "w")
        machine.verify(flushed)
    for row in rows("w"):
        trapeze("snapshot", "delete", "w", row["name"])
    check_images("w")
    assert disks_of("w") == [folder("w", "disk.img")]
    machine.verify(flushed)


def test_snapshots_of_earlier_versions():
    """An instance's folder with "disks" (without memory) and "packed", as the version of that time made them:
    each can be restored, and the guest goes on with the disk of that moment."""
    golden = os.path.join(os.environ["TRAPEZE_SOURCE"], "tests/guest/golden")
    flushed = {"snapshots-2026-11.tar.xz": {"disks": 480, "packed": 896}}
    trapeze("list")
    for archive in sorted(os.listdir(golden)):
        subprocess.run(["tar", "-xJf", os.path.join(golden, archive), "-C", folder("")], check=True,
                       timeout=LIMIT_S)
        machine, at = Writer(CLIENT, "web", None), flushed[archive]
        tree = {row["name"]: row for row in rows("web")}
        assert tree["packed"]["parent"] == "disks" and tree["packed"]["memory"], tree
        trapeze("snapshot", "restore", "web", "disks")
        assert CLIENT.info("web")["state"] == "stopped"
        assert machine.verify(at["disks"]) < at["packed"] + 4 * writer.FLUSH_EVERY
        trapeze("snapshot", "restore", "web", "packed")
        assert CLIENT.info("web")["state"] == "suspended"
        trapeze("start", "web")
        until(lambda: machine.flushed() > at["packed"])
        went = machine.go_on()
        trapeze("stop", "--force", "web")
        machine.verify(went)
        for name in ("disks", "packed"):
            trapeze("snapshot", "delete", "web", name)
        machine.verify(went)
        trapeze("delete", "web")


# ---- what others make of it ----

def test_what_other_commands_make_of_it():
    model = Model("a")
    for name in "one", "two":
        trapeze("snapshot", "create", "a", name)
        model.create(name)
        model.write()
    now = [bytes(data) for data in model.now]

    def same(name):
        for path, data in zip(disks_of(name), now):
            assert content(path) == data, path

    trapeze("clone", "a", "copy")
    same("copy")
    assert not rows("copy") and not os.path.exists(folder("copy", "disk.img"))
    archive = scratch("a.trapeze")
    trapeze("export", "a", archive)
    trapeze("import", archive, "came")
    assert not rows("came")
    # What it lies upon is no orphan; what its disks and its memory take is its own.
    found = api("GET", "/v1/prune")["items"]
    assert not [item for item in found if item["kind"] == "file"], found
    assert CLIENT.info("a")["disk-used"] > 2 * CLIENT.info("copy")["disk-used"] // 2
    trapeze("rename", "a", "b")
    model.name = "b"
    model.verify(snapshots=True)
    # A template keeps them, and so does what has linked clones.
    model.write()
    now = [bytes(data) for data in model.now]
    trapeze("template", "b")
    for verb in ["create", "b"], ["restore", "b", "one"], ["delete", "b", "one"]:
        refuses(USAGE, "is a template", arguments=["snapshot", *verb])
    trapeze("clone", "b", "linked")
    same("linked")
    trapeze("snapshot", "create", "linked", "its-own")
    trapeze("start", "linked")
    trapeze("stop", "--force", "linked")
    trapeze("snapshot", "delete", "linked", "its-own")
    trapeze("delete", "linked")
    trapeze("template", "--undo", "b")
    # A disk that has grown since.
    trapeze("disk", "resize", "--format", "qcow2", disks_of("b")[0], "1M")
    model.now[0] += bytes((1 << 20) - SIZE)
    model.end()


def test_an_image_does_not_say():
    """What a worker that was taken over may have written is not what is opened next."""
    model = Model("a")
    trapeze("snapshot", "create", "a", "one")
    with open(scratch("secret"), "wb") as file:
        file.write(b"secret" * 1000 + bytes(SIZE))
    top = disks_of("a")[0]
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", scratch("secret"),
                    top], check=True, timeout=LIMIT_S)
    refuses(HOST, "no description says so", arguments=["start", "a"])
    trapeze("snapshot", "create", "a", "two")
    refuses(HOST, "no description says so", arguments=["snapshot", "delete", "a", "two"])
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "../disk.img", top],
                   check=True, timeout=LIMIT_S)
    trapeze("snapshot", "delete", "a", "one")
    trapeze("snapshot", "list", "a")
    model.verify()


def test_what_is_refused():
    model = Model("a")
    for words, what in (["restore", "a", "no"], "no snapshot 'no'"), (["create", "a", "-x"], ""), \
            (["delete", "a"], "snapshot"), (["make", "a"], "create, list"):
        refuses(USAGE, what, arguments=["snapshot", *words])
    trapeze("snapshot", "create", "a", "one")
    refuses(USAGE, "already", arguments=["snapshot", "create", "a", "one"])
    for number in range(14):
        trapeze("snapshot", "create", "a", f"deep{number}")
    refuses(USAGE, "16 deep", arguments=["snapshot", "create", "a", "deeper"])
    assert len(rows("a")) == 15
    trapeze("start", "a")
    refuses(USAGE, "16 deep", arguments=["snapshot", "create", "a", "deeper"])
    trapeze("stop", "--force", "a")
    for row in rows("a"):
        trapeze("snapshot", "delete", "a", row["name"])
    model.verify()
    # Without its memory a suspended machine is one that lost its power; with it, it costs nothing.
    trapeze("start", "a")
    trapeze("suspend", "a")
    refuses(USAGE, "is suspended", arguments=["snapshot", "create", "--no-memory", "a", "s"])
    trapeze("snapshot", "create", "a", "s")
    assert rows("a")[0]["memory"] and CLIENT.info("a")["state"] == "suspended"
    trapeze("start", "a")
    trapeze("snapshot", "restore", "a", "s")
    assert CLIENT.info("a")["state"] == "running"
    # A disk of somebody else's keeps what was written to it.
    disk = scratch("elsewhere.qcow2")
    trapeze("disk", "create", disk, "1M")
    trapeze("create", "e", "--firmware", LOOP_ELF, "-m", "32", "--disk", disk + ",format=qcow2")
    trapeze("snapshot", "create", "e", "s")
    refuses(USAGE, "would be lost", arguments=["delete", "e"])
    trapeze("snapshot", "delete", "e", "s")
    assert disks_of("e") == [disk]
    trapeze("delete", "e")


def test_disks_on_servers_and_memory_that_others_share():
    server = "nbd+unix:///?socket=" + scratch("nobody.sock")
    trapeze("create", "n", "--firmware", LOOP_ELF, "-m", "32", "--disk", server + ",format=raw")
    refuses(USAGE, "is on a server", arguments=["snapshot", "create", "n", "s"])
    assert not rows("n") and disks_of("n") == [server] and not os.listdir(folder("n", "snapshots"))
    trapeze("delete", "n")
    disk = scratch("shared.img")
    with open(disk, "wb") as file:
        file.write(os.urandom(1 << 20))
    trapeze("create", "m", "--firmware", LOOP_ELF, "-m", "32", "--disk", disk + ",format=raw")
    with open(folder("m", "m.vmx"), "a", encoding="ascii") as vmx:
        vmx.write('trapeze.memoryBackend = "memfd"\n')
    trapeze("start", "m")
    refuses(None, "memfd", arguments=["snapshot", "create", "m", "s"])
    assert not rows("m") and disks_of("m") == [disk] and CLIENT.info("m")["state"] == "running"
    trapeze("snapshot", "create", "--no-memory", "m", "s")
    trapeze("stop", "--force", "m")
    trapeze("snapshot", "create", "m", "t")
    assert [row["name"] for row in rows("m")] == ["s", "t"]
    # What is deleted while the machine runs takes space until it has stopped, which is told.
    trapeze("start", "m")
    trapeze("snapshot", "delete", "m", "s")
    assert api("GET", "/v1/instances/m/snapshots")["deleted-size"] > 0
    assert "Deleted ones still take" in trapeze("snapshot", "list", "m").stdout
    trapeze("stop", "--force", "m")
    trapeze("snapshot", "delete", "m", "t")
    assert api("GET", "/v1/instances/m/snapshots")["deleted-size"] == 0
    assert "Deleted ones" not in trapeze("snapshot", "list", "m").stdout
    trapeze("delete", "m")


def main():
    if shutil.which("qemu-io") is None:
        print("1..0 # SKIP no qemu-io (qemu-utils)")
        return 0
    print(f"# TRAPEZE_SEED={SEED}", flush=True)
    status = tap.main(CLIENT.alone(globals()))
    CLIENT.end()
    return status


if __name__ == "__main__":
    sys.exit(main())
