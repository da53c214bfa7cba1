#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What disks hold after the worker of a machine was killed (SIGKILL) under load: everything that
the guest had flushed, and images without errors.

    crash.py TRAPEZE GUEST

The guest (writer.c) carries out operations that follow from their numbers, and prints how many of
them it has flushed. After each kill every sector must hold what the last flushed operation on it
left there, or a later one; the next machine goes on with the same image, and a new one is made
now and then. Quick tier: each kind of disk twice; full: 36 times, 252 kills.
"""
import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import tap
import writer
from machine import FULL, LIMIT_S, scratch

TRAPEZE, GUEST = sys.argv[1:3]
ROUNDS, LIVES = (36, 6) if FULL else (2, 2)


def trapeze(*arguments, statuses=(0,)):
    done = subprocess.run([TRAPEZE, *arguments], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=LIMIT_S)
    assert done.returncode in statuses, (arguments, done)
    return done.stdout


class Life:
    """A machine from its start until it is killed."""

    def __init__(self, disk, start):
        control = scratch(f"{time.monotonic_ns()}.sock")
        self.process = subprocess.Popen(
            [TRAPEZE, "run", "--firmware", GUEST, "--memory", "32M", "--net", "none", "--control",
             control, "--disk", disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.text = b""
        self.read_until(lambda: b"?" in self.text)
        with socket.socket(socket.AF_UNIX) as greeting:
            greeting.connect(control)
            data = greeting.recv(4096, socket.MSG_PEEK)
            self.worker = json.loads(data[4:4 + struct.unpack("<I", data[:4])[0]])["pid"]
        self.process.stdin.write(b"%d\n" % start)
        self.process.stdin.flush()

    def read_until(self, condition):
        while not condition():
            ready = select.select([self.process.stdout], [], [], LIMIT_S)[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, (self.text[-200:], self.process.stderr.read())
            self.text += data

    def kill(self):
        """How many operations are known to be flushed."""
        os.kill(self.worker, signal.SIGKILL)
        rest, errors = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == 121 and b"killed by signal 9" in errors, errors
        numbers = re.findall(rb"(\d+)\r?\n", self.text + rest)
        return int(numbers[-1])


class Disk:
    def __init__(self, name, options, *create):
        self.name, self.options, self.create = name, options, create
        self.path = scratch(name)
        self.format = create[create.index("--format") + 1]
        self.next = 0     # the first operation of the next life
        self.holds = None # of each sector: the operation that wrote it, or ZERO
        self.kills = 0

    def renew(self):
        base = scratch("base.raw")
        if "--backing" in self.create:
            trapeze("disk", "create", "--force", "--format", "raw", base, "8M")
            trapeze("disk", "create", "--force", *self.create, self.path)
        else:
            trapeze("disk", "create", "--force", *self.create, self.path, "8M")
        self.holds = [writer.ZERO] * writer.SECTORS

    def content(self):
        if self.format != "qcow2":
            with open(self.path, "rb") as file:
                return file.read()
        raw = scratch("content.raw")
        check = json.loads(trapeze("disk", "check", "--json", "--format", "qcow2", self.path,
                                   statuses=(0, 3)))
        assert check["corruptions"] == 0, check
        if shutil.which("qemu-img") is not None:
            # 3: clusters that nobody refers to, which a killed writer leaves
            done = subprocess.run(["qemu-img", "check", "-f", "qcow2", self.path], check=False,
                                  capture_output=True, text=True, timeout=LIMIT_S)
            assert done.returncode in (0, 3), done
        trapeze("disk", "convert", "--force", "--from", "qcow2", "--format", "raw", self.path, raw)
        with open(raw, "rb") as file:
            return file.read()

    def survive(self, flushes, delay):
        """One life, so many flushes long and `delay` seconds more."""
        if self.kills % LIVES == 0:
            self.renew()
        self.kills += 1
        life = Life(f"{self.path},format={self.format}{self.options}", self.next)
        life.read_until(lambda: life.text.count(b"\n") >= flushes)
        time.sleep(delay)
        self.verify(life.kill())

    def verify(self, flushed):
        self.holds, end = writer.verify(self.name, self.content(), self.holds, self.next, flushed)
        self.next = -(-end // writer.FLUSH_EVERY) * writer.FLUSH_EVERY


DISKS = [
    Disk("raw", "", "--format", "raw"),
    Disk("fixed", "", "--format", "fixed"),
    Disk("direct.raw", ",cache=none", "--format", "raw"),
    Disk("qcow2", "", "--format", "qcow2"),
    Disk("small.qcow2", "", "--format", "qcow2", "--cluster-size", "4096"),
    Disk("direct.qcow2", ",cache=none", "--format", "qcow2"),
    Disk("layer.qcow2", "", "--format", "qcow2", "--backing", "base.raw", "--backing-format",
         "raw"),
]


def test_the_operations_are_the_guests():
    """A guest that is left alone writes what writer.operation() says."""
    disk = DISKS[0]
    disk.survive(4, 0)
    assert any(held != writer.ZERO for held in disk.holds)


def test_what_was_flushed_survives_a_killed_worker():
    seed = int(os.environ.get("TRAPEZE_SEED", time.time_ns() & 0xffffffff))
    print(f"# TRAPEZE_SEED={seed}", flush=True)
    chance = random.Random(seed)
    for number, disk in itertools.product(range(ROUNDS), DISKS):
        disk.survive(chance.randint(1, 30), chance.random() * 0.02)
        if FULL and number % 6 == 5:
            print(f"# {disk.name}: {disk.kills} kills", flush=True)


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
