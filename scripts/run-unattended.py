#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Boots a guest image with nobody at the keyboard: logs in, looks around, powers off.

    scripts/run-unattended.py TRAPEZE [run options...]

What the guest prints goes to standard output. Exit status: the machine's own, or 1 with a
sentence if the guest did not do its part in time.
"""
import os
import re
import select
import subprocess
import sys
import time

BOOT_LIMIT_S = 1800  # a slow, loaded host and the image's first build
STEP_LIMIT_S = 300
COMMANDS = ["uname -a", "cat /etc/os-release", "free -m", "lsblk", "apt-get --version"]
PROMPT = rb"[#$] (\x1b\[[0-9;?]*[a-zA-Z])*$"


class Guest:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.seen = b""

    def read(self, limit):
        """One chunk of output, passed on; None at its end, b"" when the time is up."""
        if not select.select([self.process.stdout], [], [], max(0, limit))[0]:
            return b""
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            return None
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return data

    def expect(self, pattern, seconds, what):
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            data = self.read(end - time.monotonic())
            if data is None:
                status = self.process.wait()
                sys.exit(status if status else fail("the guest ended before " + what))
            if data == b"" and time.monotonic() >= end:
                self.process.kill()
                sys.exit(fail(f"the guest did not come to {what} within {seconds} s"))
            self.seen = (self.seen + data)[-65536:]
        # The prompt often comes in the same chunk as the output before it: keep what follows.
        self.seen = self.seen[found.end():]

    def send(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def run(self, command):
        # The answer's marker is spelled differently in the echoed command.
        self.send(command + "; echo 'done'-$?")
        self.expect(rb"done-\d+", STEP_LIMIT_S, f"the end of '{command}'")
        self.expect(PROMPT, STEP_LIMIT_S, "its prompt")


def fail(sentence):
    print(f"\ntrapeze: {sentence}", file=sys.stderr)
    return 1


def main():
    guest = Guest(sys.argv[1:2] + ["run"] + sys.argv[2:])
    guest.expect(rb"login: *$", BOOT_LIMIT_S, "its login prompt")
    guest.send("root")
    guest.expect(PROMPT, STEP_LIMIT_S, "a shell prompt")
    for command in COMMANDS:
        guest.run(command)
    guest.send("poweroff")
    end = time.monotonic() + STEP_LIMIT_S
    while guest.read(end - time.monotonic()):
        pass
    try:
        return guest.process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        guest.process.kill()
        return fail("the guest did not power off")


if __name__ == "__main__":
    sys.exit(main())
