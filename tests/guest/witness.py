# SPDX-License-Identifier: MIT
"""The host's side of the verifying guest (witness.c, where its words and lines are told).

    initrd = witness.initramfs(WITNESS, TRAPEZE, witness_folder)
    options = witness.linux(initrd, TRAPEZE, "tick=10", "set=64", "dirty=50")      # for `trapeze run`
    echo = witness.Echo()                             # "tcp=10.0.2.2:%d" % echo.port
    story = witness.Story()
    story.hear(bytes)                                 # of the console, as they come, from whoever has it
    story.good()                                      # asserts; story.sums, story.durable, story.ticks
    witness.check_disk(path, story.durable)

Beside it a program may take lines from several consoles (the one before and the one after a migration):
one Story for all, in the order in which the machine ran.
"""
import os
import re
import socket
import struct
import sys
import threading

import machine

sys.path.insert(0, os.path.join(machine.SOURCE, "bench"))
from initramfs import append_program  # noqa: E402

MASK = (1 << 64) - 1
STREAM = 0x7463702073747265
PAGE, SLOTS = 4096, 256


def pattern(of, i):
    z = ((of + 1) * 0x9e3779b97f4a7c15 + i) & MASK
    z = ((z ^ z >> 30) * 0xbf58476d1ce4e5b9) & MASK
    return z ^ z >> 31


def record(number):
    return struct.pack("<512Q", number, *(pattern(number, i) for i in range(1, PAGE // 8)))


def initramfs(program, trapeze, path):
    append_program(os.path.join(machine.image("tiny", trapeze), "initrd"), program, path)
    return path


def linux(initrd, trapeze, *words):
    """Options of `trapeze run` or `create`."""
    return ["--kernel", os.path.join(machine.image("tiny", trapeze), "Image"), "--initrd", initrd,
            "--append", "console=ttyS0 rdinit=/bench -- " + " ".join(words)]


class Echo(threading.Thread):
    """Sends back what comes, and compares it; for one guest after the other."""

    def __init__(self, host="127.0.0.1", spoil_at=None):
        super().__init__(daemon=True)
        self.socket = socket.create_server((host, 0))
        self.port = self.socket.getsockname()[1]
        self.spoil_at, self.received, self.wrong, self.connections = spoil_at, 0, None, 0
        self.start()

    def run(self):
        while True:
            connection = self.socket.accept()[0]
            self.connections += 1
            try:
                self.serve(connection)
            except OSError:
                pass  # a guest that was ended
            connection.close()

    def serve(self, connection):
        self.received, pending = 0, b""
        while data := connection.recv(65536):
            pending += data
            whole = len(pending) // 8
            first = (self.received - (len(pending) - len(data))) // 8
            wanted = struct.pack(f"<{whole}Q", *(pattern(STREAM, first + i) for i in range(whole)))
            if pending[:8 * whole] != wanted and self.wrong is None:
                self.wrong = 8 * first
            pending = pending[8 * whole:]
            self.received += len(data)
            if self.spoil_at is not None and self.received > self.spoil_at:
                data = data[:-1] + bytes([data[-1] ^ 1])
            connection.sendall(data)


class Story:
    """What the guest has said so far."""

    def __init__(self):
        self.rest, self.ready, self.failed = b"", False, None
        self.ticks, self.durable, self.sums, self.other = 0, 0, [], []
        self.gaps = set()

    def cut(self):
        """Some of it was lost with whoever relayed it; it goes on within any line."""
        self.rest, self.gaps = b"", {"ticks", "durable"}

    def next(self, what, number):
        before = getattr(self, what)
        if what in self.gaps:
            self.gaps.remove(what)
            assert number > before, f"{what}: {number} came after {before}"
        else:
            assert number == before + 1, f"{what}: {number} came after {before}"
        setattr(self, what, number)

    def hear(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.line(line.decode(errors="replace").strip("\r"))

    def line(self, line):
        word, _, rest = line.partition(" ")
        if re.fullmatch(r"t \d+", line):
            self.next("ticks", int(rest))
        elif re.fullmatch(r"d \d+", line):
            self.next("durable", int(rest))
        elif word == "sum":
            self.sums.append({key: int(value) for key, value in (pair.split("=") for pair in rest.split())})
        elif word == "witness-ready":
            self.ready = True
        elif word == "witness-failed":
            self.failed = rest
        else:
            self.other.append(line)

    def good(self):
        assert self.failed is None, self.failed


def check_disk(path, durable, slots=SLOTS):
    """A raw disk after the end: in each slot the record that was durable, or a later one."""
    with open(path, "rb") as disk:
        content = disk.read(slots * PAGE)
    for slot in range(slots):
        data = content[slot * PAGE:(slot + 1) * PAGE]
        number = struct.unpack_from("<Q", data)[0]
        wanted = durable - (durable - slot) % slots
        if wanted <= 0 and number == 0:
            continue
        assert number >= wanted and number % slots == slot, f"slot {slot}: record {number}, not {wanted}"
        assert data == record(number), f"record {number} is damaged"
