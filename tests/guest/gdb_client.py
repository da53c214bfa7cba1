# SPDX-License-Identifier: MIT
"""Debian's gdb-multiarch, over its machine interface."""
import os
import re
import select
import shutil
import subprocess
import time

import tap
from machine import LIMIT_S


class Gdb:
    """A gdb-multiarch process, told what to do by GDB/MI."""

    def __init__(self, where, *options, elf=None):
        if not shutil.which("gdb-multiarch"):
            raise tap.Skip("gdb-multiarch is not installed")
        self.process = subprocess.Popen(
            ["gdb-multiarch", "-q", "-nx", "--interpreter=mi3", *([elf] if elf else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.data, self.said, self.stops = b"", "", []
        for setting in ("confirm off", "pagination off", "mi-async on", *options):
            self.mi("-gdb-set " + setting)
        self.mi("-target-select remote " + where)

    def record(self):
        """The next line of GDB's; what it prints and where the guest stops is kept."""
        end = time.monotonic() + LIMIT_S
        while b"\n" not in self.data:
            ready = select.select([self.process.stdout], [], [], end - time.monotonic())[0]
            more = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert more, f"GDB has gone, or says nothing; last: {self.said[-2000:]}"
            self.data += more
        line, self.data = self.data.split(b"\n", 1)
        line = line.decode(errors="replace").rstrip("\r")
        if line.startswith(("~", "@")):
            self.said += line[2:-1].encode().decode("unicode_escape")
        elif line.startswith("*stopped"):
            self.stops.append(line)
        return line

    def mi(self, command, wanted=("done", "running", "connected", "exit")):
        self.said = ""
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        while not (line := self.record()).startswith("^"):
            pass
        assert line[1:].split(",")[0] in wanted, (command, line)
        return line

    def run(self, command, wanted=("done", "running")):
        """A command as a user types it; its output."""
        self.mi(f'-interpreter-exec console "{command}"', wanted)
        return self.said

    def refused(self, command):
        return self.mi(f'-interpreter-exec console "{command}"', ("error",))

    def value(self, expression):
        answer = self.mi(f'-data-evaluate-expression "{expression}"')
        return int(re.search(r'value="(-?\w+)', answer).group(1), 0)

    def stopped(self):
        """Waits until the guest stands still; GDB's record of it."""
        while not self.stops:
            self.record()
        return self.stops.pop(0)

    def go(self, command="continue", *wanted):
        self.stops.clear()
        self.run(command)
        stop = self.stopped()
        for part in wanted:
            assert part in stop, (command, part, stop)
        return stop

    def start(self):
        self.stops.clear()
        self.mi("-exec-continue")

    def interrupt(self):
        self.mi("-exec-interrupt")
        return self.stopped()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
