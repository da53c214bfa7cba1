#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Snapshots move with their machine: at the target there is the same tree, of which each one can be
restored and deleted; whatever is killed, it is whole on exactly one side.

    migrate_snapshots.py TRAPEZE LOOP_ELF WRITER_ELF
"""
import contextlib
import json
import os
import re
import subprocess
import sys
import time

import writer
from daemon_client import LIMIT_S, USAGE, until
from machine import FULL
from two_stores import (A, B, CHOICE, LOOP_ELF, SHARED, TRAPEZE, WRITER_ELF, Gate, at, flushed, folder,
                        is_running, is_settled, job_of, kill, known, main, make_writer, names, other,
                        pid_of_worker, socket_of, start_writer, the_owner)
from writing import Writer

SIZE, BLOCK = 256 << 10, 4096


def tree(client, name="web"):
    """{name: (parent, created, with memory)}, and which one it is upon."""
    rows = json.loads(client.trapeze("snapshot", "list", "--json", name).stdout)["snapshots"]
    return ({row["name"]: (row.get("parent"), row["created"], row["memory"]) for row in rows},
            [row["name"] for row in rows if row["current"]])


def content(client, path):
    layer = path.endswith(".qcow2")
    client.trapeze("disk", "convert", "--force", "--from", "qcow2" if layer else "raw", "--format",
                   "raw", path, at("content"))
    with open(at("content"), "rb") as file:
        return file.read()


def contents(client, name="web"):
    return [content(client, path) for path in client.info(name)["disks"]]


def check_images(client, name="web"):
    """By another's judgement."""
    for top, _, files in os.walk(folder(client, name)):
        for file in files:
            if file.endswith(".qcow2"):
                path = os.path.join(top, file)
                subprocess.run(["qemu-img", "check", "-q", path], check=True, timeout=LIMIT_S)
                subprocess.run(["qemu-img", "info", "--backing-chain", path], check=True,
                               stdout=subprocess.DEVNULL, timeout=LIMIT_S)


def nothing_of_it(client, name="web"):
    until(lambda: known(client, name) is None)
    until(lambda: not any(entry.startswith(".") or entry == name for entry in
                          os.listdir(os.path.join(client.store, "instances"))))


def files_of(client, name="web"):
    """Regular files in the folder, by their names, without what a worker leaves."""
    found = set()
    for top, _, files in os.walk(folder(client, name)):
        found.update(os.path.relpath(os.path.join(top, file), folder(client, name)) for file in files)
    return found


def blind(client):
    """A way to a daemon on another host, which sees nothing of this one's: no proof is right."""
    return Gate(client, change=lambda data: re.sub(rb"\.trapeze-[0-9a-f]{32}", b".trapeze-" + b"0" * 32,
                                                   data))


# ---- a machine that does not run ----

class Tree:
    """A machine that does not run, with three disks (raw; qcow2; qcow2 upon a file elsewhere), and what
    each of its snapshots holds."""

    def __init__(self, base):
        self.now, self.held = [], {}
        for number in range(3):
            with open(at(f"{number}.img"), "wb") as file:
                file.write(CHOICE.randbytes(SIZE))
        A.trapeze("disk", "convert", "--force", "--from", "raw", "--format", "qcow2", at("1.img"),
                  at("data.qcow2"))
        os.makedirs(os.path.dirname(base), exist_ok=True)
        os.replace(at("2.img"), base)
        top = os.path.join(os.path.dirname(base), "top disk.qcow2")  # a name that does not go along
        A.trapeze("disk", "create", "--force", "--backing", base, "--backing-format", "raw", top)
        A.trapeze("list")
        A.api("POST", "/v1/instances", {
            "name": "web", "vmx": 'memsize = "32"\ntrapeze.firmware = "elf"\n'
            'scsi0:0.fileName = "disk.img"\nscsi0:0.trapeze.format = "raw"\n'
            'scsi0:1.fileName = "data.qcow2"\nscsi0:1.trapeze.format = "qcow2"\n'
            f'scsi0:2.fileName = "{top}"\nscsi0:2.trapeze.format = "qcow2"\n'
            f'scsi0:3.fileName = "{base}"\nscsi0:3.trapeze.format = "raw"\n'
            'scsi0:3.mode = "trapeze-readonly"\n',
            "files": [{"source": LOOP_ELF, "name": "elf"}, {"source": at("0.img"), "name": "disk.img"},
                      {"source": at("data.qcow2"), "name": "data.qcow2"}]}, 201)

    def write(self, client):
        """As a guest would have."""
        for path in client.info("web")["disks"][:3]:
            words = []
            for _ in range(4):
                place = CHOICE.randrange(SIZE // BLOCK - 8) * BLOCK
                words += ["-c", CHOICE.choice([f"write -z {place} {4 * BLOCK}", f"discard {place} {BLOCK}",
                                               f"write -P {CHOICE.randrange(256)} {place} {8 * BLOCK}"])]
            form = "qcow2" if path.endswith(".qcow2") else "raw"
            subprocess.run(["qemu-io", "-t", "unsafe", "-f", form, *words, path], check=True,
                           stdout=subprocess.DEVNULL, timeout=LIMIT_S)

    def snapshot(self, name):
        self.write(A)
        self.held[name] = contents(A)
        A.trapeze("snapshot", "create", "web", name)

    def grow(self):
        """one ─┬─ two ─ (deleted) ─┬─ four
                └─ three            └─ five, upon which it is"""
        for name in ("one", "two", "gone", "four"):
            self.snapshot(name)
        A.trapeze("snapshot", "restore", "web", "gone")
        self.snapshot("five")
        A.trapeze("snapshot", "restore", "web", "one")
        self.snapshot("three")
        A.trapeze("snapshot", "restore", "web", "five")
        A.trapeze("snapshot", "delete", "web", "gone")
        del self.held["gone"]
        self.write(A)
        self.now = contents(A)
        assert len(tree(A)[0]) == 5 and tree(A)[1] == ["five"], tree(A)

    def check(self, client, before):
        assert tree(client) == before, (tree(client), before)
        assert contents(client) == self.now
        for name, held in self.held.items():
            client.trapeze("snapshot", "restore", "web", name)
            assert contents(client) == held, name
        check_images(client)
        client.trapeze("start", "web")
        client.trapeze("stop", "--force", "web")
        client.trapeze("snapshot", "restore", "web", "five")
        for name in ("one", "four", "three", "two", "five"):
            client.trapeze("snapshot", "delete", "web", name)
        assert contents(client)[:3] == self.held["five"][:3]
        assert not os.path.exists(os.path.join(folder(client, "web"), "snapshots"))


def test_a_tree_moves_cold():
    """Of files that both sides see none moves."""
    whole = Tree(os.path.join(SHARED, "base.img"))
    whole.grow()
    before = tree(A)
    nvram = b'trapeze.nvram = "1"\n'.ljust(64 << 10, b"\0") + CHOICE.randbytes(4096)
    with open(os.path.join(folder(A, "web"), "web.nvram"), "wb") as file:
        file.write(nvram)
    done = A.trapeze("migrate", "web", socket_of(B))
    assert done.stdout == f"web: moved to {socket_of(B)}\n" and done.stderr == "", done
    nothing_of_it(A)
    with open(os.path.join(folder(B, "web"), "web.nvram"), "rb") as file:
        assert file.read() == nvram
    disks = B.info("web")["disks"]
    assert disks[3] == os.path.join(SHARED, "base.img"), disks
    assert not any("base" in name or "top disk" in name for name in files_of(B)), files_of(B)
    assert sorted(os.listdir(SHARED)) == ["base.img", "top disk.qcow2"]  # and no proof
    whole.check(B, before)


def test_whole_chains_move_cold():
    """What the other side does not see moves: an image upon another one, which then lies here."""
    hidden = at("hidden")
    whole = Tree(os.path.join(hidden, "base.img"))
    whole.grow()
    before = tree(A)
    with blind(B) as gate:
        A.trapeze("migrate", "web", gate.path)
    nothing_of_it(A)
    assert all(disk.startswith(folder(B, "web") + "/") for disk in B.info("web")["disks"])
    assert {"base.img", "file-1.qcow2"} <= files_of(B), files_of(B)
    os.rename(hidden, hidden + "-away")  # and nothing reaches out
    whole.check(B, before)
    os.rename(hidden + "-away", hidden)


# ---- a machine that runs ----

def grow_running(client):
    """disks ─ both ─ packed, upon which it goes on; what it had flushed at each."""
    machine = Writer(client, "web", None)
    flushed_at = {"disks": machine.go_on()}
    client.trapeze("snapshot", "create", "--no-memory", "web", "disks")
    flushed_at["both"] = machine.go_on()
    client.trapeze("snapshot", "create", "web", "both")
    flushed_at["packed"] = machine.go_on()
    client.trapeze("snapshot", "create", "-z", "web", "packed")
    machine.go_on()
    return flushed_at


def check_running(client, flushed_at, names=("both", "packed")):
    """Whatever it is brought back to, memory and disks are of that moment."""
    machine = Writer(client, "web", None)
    client.trapeze("stop", "--force", "web")
    machine.verify(machine.flushed())
    client.trapeze("snapshot", "restore", "web", "disks")
    last = machine.verify(flushed_at["disks"])
    assert last < flushed_at["both"] + 4 * writer.FLUSH_EVERY, (last, flushed_at)
    for name in names:
        client.trapeze("snapshot", "restore", "web", name)
        assert client.info("web")["state"] == "suspended"
        client.trapeze("start", "web")
        until(lambda: machine.flushed() > flushed_at[name])
        went = machine.go_on()
        client.trapeze("stop", "--force", "web")
        machine.verify(went)
    check_images(client)


def moves(source, target, *options, to=None):
    before = tree(source)
    said = flushed(source)
    done = source.trapeze("migrate", "web", to or socket_of(target), *options)
    until(lambda: is_settled(target))
    nothing_of_it(source)
    assert is_running(target) and tree(target) == before, tree(target)
    until(lambda: flushed(target) > said)
    return done


def test_whole_chains_move_live():
    """With --copy-storage; and on to where it came from."""
    machine = Writer(A, "web", WRITER_ELF)
    machine.start()
    flushed_at = grow_running(A)
    A.refuses(USAGE, "instance's folder", "--copy-storage", arguments=["migrate", "web", socket_of(B)])
    layers = files_of(A)
    sizes = {name: os.path.getsize(os.path.join(folder(A, "web"), name)) for name in layers
             if name.startswith("snapshots/disk")}
    done = moves(A, B, "--copy-storage")
    assert done.stderr == "", done
    wanted = {name for name in layers if name.startswith("snapshots/") or name == "disk.img"}
    assert wanted <= files_of(B), (wanted, files_of(B))
    for name in list(sizes)[:-1]:  # what is below comes as it is
        if name != os.path.relpath(B.info("web")["disks"][0], folder(B, "web")):
            assert os.path.getsize(os.path.join(folder(B, "web"), name)) == sizes[name], name
    B.trapeze("snapshot", "create", "--no-memory", "web", "there")
    moves(B, A, "--copy-storage", "--connections", "2")
    A.trapeze("snapshot", "delete", "web", "there")  # merged when it does not run
    check_running(A, flushed_at)
    for name in ("both", "disks", "packed"):
        A.trapeze("snapshot", "delete", "web", name, status=None if name == "packed" else 0)


def test_layers_move_and_shared_disks_stay():
    """What lies upon a disk that both sides see comes along without --copy-storage, and nothing else does."""
    disk = make_writer(A)
    shared = set(os.listdir(SHARED))
    start_writer(A, 0)
    flushed_at = grow_running(A)
    moves(A, B)
    assert "writer.raw" not in files_of(B), files_of(B)
    assert set(os.listdir(SHARED)) == shared, os.listdir(SHARED)  # and no proof
    assert B.info("web")["disks"][0].startswith(folder(B, "web") + "/snapshots/")
    with blind(A) as gate:  # where nobody sees it, it does not go
        B.refuses(USAGE, "does not see", "--copy-storage", arguments=["migrate", "web", gate.path])
        assert is_running(B) and names(A) == []
        moves(B, A, "--copy-storage", to=gate.path)
    assert "writer.raw" in files_of(A)
    os.rename(disk, disk + ".away")
    check_running(A, flushed_at, CHOICE.sample(["both", "packed"], 1))


# ---- somebody is killed ----

def hit(victim, source, target, process, pids, gate):
    """Whoever is not there has been lucky."""
    with contextlib.suppress(OSError, TypeError):
        if victim < 2:
            kill(pids[victim])
        elif victim == 2:
            process.kill()
        elif victim == 3:
            kill(job_of(source))
        elif victim == 4:
            kill(job_of(target))
        elif victim == 5:
            gate.cut()
        elif victim == 6:
            source.trapeze("migrate", "--cancel", "web", status=None)
        else:
            kill(pid_of_worker(target))


def one_has_all(before):
    """The one that has it has the whole tree. What the other was given until it heard no more is kept for
    two minutes: tidy() looks at that."""
    owner = the_owner()
    other(owner).trapeze("list")
    assert tree(owner) == before, (tree(owner), before)
    until(lambda: known(other(owner)) is None)
    return owner


def tidy(owner):
    """A daemon that begins leaves nothing lying about."""
    other(owner).kill_daemon()
    other(owner).trapeze("list")
    nothing_of_it(other(owner))


def go(before, source, target, victim, most):
    """Who has it afterwards."""
    pids = [source.pid_of_daemon(), target.pid_of_daemon()]
    with Gate(target) as gate:
        process = subprocess.Popen([TRAPEZE, "migrate", "web", gate.path, "--copy-storage"],
                                   env={**os.environ, "TRAPEZE_HOME": source.store},
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(CHOICE.random() ** 1.3 * most)
        hit(victim, source, target, process, pids, gate)
        process.wait(timeout=LIMIT_S)
        return one_has_all(before)  # while the target can be asked


def unhurt():
    """From A to B; seconds."""
    began = time.monotonic()
    A.trapeze("migrate", "web", socket_of(B), "--copy-storage")
    until(lambda: is_settled(B))
    return time.monotonic() - began


def test_killed_while_a_tree_moves_cold():
    whole = Tree(at("elsewhere", "base.img"))
    whole.grow()
    before, owner, moved, took = tree(A), B, 0, unhurt()
    turns = 150 if FULL else 2
    for _ in range(turns):
        source = owner
        owner = go(before, source, other(source), CHOICE.randrange(7), 1.3 * took)
        moved += owner is not source
        name = CHOICE.choice(list(whole.held))
        until(lambda: owner.trapeze("snapshot", "restore", "web", name, status=None).returncode == 0)
        assert contents(owner) == whole.held[name]
        before = (before[0], [name])
    tidy(owner)
    owner.trapeze("snapshot", "restore", "web", "five")
    whole.now = whole.held["five"]
    whole.check(owner, (before[0], ["five"]))
    print(f"# killed {turns} times, moved {moved} times", flush=True)


def test_killed_while_a_tree_moves_live():
    machine = Writer(A, "web", WRITER_ELF)
    machine.start()
    flushed_at = grow_running(A)
    before, owner, moved, took = tree(A), B, 0, unhurt()
    turns = 80 if FULL else 2
    for _ in range(turns):
        source = owner
        victim = CHOICE.randrange(8)
        owner = go(before, source, other(source), victim, 1.3 * took)
        moved += owner is not source
        until(lambda: known(owner)["state"] in ("running", "stopped"))
        if known(owner)["state"] == "stopped":  # it had moved, and its own worker was killed
            assert victim == 7 and owner is not source, (victim, owner.list())
            owner.trapeze("snapshot", "restore", "web", "packed")
            owner.trapeze("start", "web")
        said = flushed(owner)
        until(lambda: flushed(owner) > said)
    tidy(owner)
    print(f"# killed {turns} times, moved {moved} times", flush=True)
    check_running(owner, flushed_at, CHOICE.sample(["both", "packed"], 1))


if __name__ == "__main__":
    sys.exit(main(globals()))
