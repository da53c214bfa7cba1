# SPDX-License-Identifier: MIT
"""A machine under test: `trapeze run` with its console on pipes, and what tests ask of it."""
import atexit
import contextlib
import functools
import json
import os
import re
import select
import subprocess
import tempfile
import time

import tap

SOURCE = os.environ["TRAPEZE_SOURCE"]
FULL = os.environ.get("TRAPEZE_TIER") == "full"
# What the kernel says when the host is slow ("hrtimer: interrupt took ...") comes at any moment.
KERNEL_LINE = r"\[ *\d+\.\d{6}\] [^\n]*\n"
SHELL_PROMPT = rb"(~|/[\w/]*) # (\x1b\[6n)?(" + KERNEL_LINE.encode() + rb")*$"
LOGIN_PROMPT = rb"login: *(" + KERNEL_LINE.encode() + rb")*$"
LIMIT_S = int(os.environ.get('TRAPEZE_TEST_LIMIT_S', '600'))  # a test never judges by time; this only ends what hangs
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-test-")


def scratch(name):
    return os.path.join(FOLDER.name, name)


@functools.cache
def image(name, trapeze):
    """The folder of a guest image, built first if it is missing."""
    builder = os.path.join(SOURCE, "images", "build")
    done = subprocess.run([builder, name, "--trapeze", os.path.abspath(trapeze)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def full_tier_image(name, trapeze):
    """The same, for a test of the full tier only: the image costs a download and some minutes once."""
    if not FULL:
        raise tap.Skip("full tier only")
    try:
        return image(name, trapeze)
    except subprocess.CalledProcessError as failure:
        if failure.returncode != 1:
            raise
        raise tap.Skip(f"the {name} image cannot be made here: images/build says why") from failure


class Machine:
    """with Machine(trapeze, "--image", "tiny") as m: m.shell(); m.run("nproc") ..."""

    def __init__(self, trapeze, *options):
        self.trapeze = trapeze
        self.control = scratch(f"{time.monotonic_ns()}.sock")
        self.process = subprocess.Popen(
            [trapeze, "run", "--control", self.control, *options], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.log = b""  # everything the guest printed
        self.at = 0     # how much of it expect() has passed

    def expect(self, pattern):
        end = time.monotonic() + LIMIT_S
        while True:
            match = re.search(pattern, self.log[self.at:])
            if match:
                text = self.log[self.at:self.at + match.start()]
                self.at += match.end()
                return text.decode(errors="replace"), match
            ready = select.select([self.process.stdout], [], [], end - time.monotonic())[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"no {pattern} in:\n{self.tail()}"
            self.log += data

    def tail(self):
        errors = ""
        if self.process.poll() is not None:
            errors = self.process.stderr.read().decode(errors="replace")
        return self.log[-3000:].decode(errors="replace") + errors

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def shell(self):
        self.expect(SHELL_PROMPT)

    def begin(self):
        """Waits until it takes commands."""
        self.shell()

    def run(self, command):
        """The command's output; asserts that it succeeds."""
        # The marks are spelled differently in the command, which the shell echoes. The kernel may
        # print between a mark and its line's end.
        self.send(f"echo begin'='; {command}; echo status'='$?\n")
        self.expect(rb"begin=")
        text, match = self.expect(rb"status=(\d+)(\r*\n|\[)")
        self.expect(SHELL_PROMPT)
        assert match.group(1) == b"0", f"{command}: {text}"
        text = text.replace("\r", "")
        if "dmesg" not in command:
            text = re.sub(KERNEL_LINE, "", text)
        return text.removeprefix("\n")

    def finish(self, status=0):
        """Waits for the end; returns standard error."""
        while True:
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                break
            self.log += data
        errors = self.process.stderr.read().decode(errors="replace")
        got = self.process.wait(timeout=LIMIT_S)
        assert got == status, (got, errors, self.log[-2000:].decode(errors="replace"))
        return errors

    def poweroff(self):
        self.send("poweroff -f\n")
        return self.finish()

    def verb(self, name, *arguments):
        done = subprocess.run([self.trapeze, "control", self.control, name, *arguments],
                              capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Shared:
    """One machine for several tests, because booting is most of what a test costs. make() starts it
    for the first that wants it, who also waits until it is up; a test that fails takes it along,
    and the next gets a new one, as it does after the `last` one, which ends it.

        with SHARED.use() as machine: ...
        with SHARED.use(last=True) as machine: ...; machine.poweroff()
    """

    def __init__(self, make):
        self.make, self.machine = make, None
        atexit.register(self.end)

    @contextlib.contextmanager
    def use(self, last=False):
        machine, self.machine = self.machine, None
        new = machine is None
        with contextlib.ExitStack() as stack:
            machine = stack.enter_context(self.make() if new else machine)
            if new:
                machine.begin()
            yield machine
            if not last:
                stack.pop_all()
                self.machine = machine

    def end(self):
        if self.machine is not None:
            self.machine.__exit__()


class Debian(Machine):
    """One that boots Debian to a login."""
    PROMPT = rb"root@\S+:\S+# (\x1b\[[0-9;?]*[a-zA-Z])*(" + KERNEL_LINE.encode() + rb")*$"

    def begin(self):
        self.login()

    def login(self):
        self.expect(LOGIN_PROMPT)
        self.send("root\n")
        self.expect(self.PROMPT)
        self.send("PS1=\"~ # \"; bind 'set enable-bracketed-paste off'; cd\n")
        self.shell()

    def poweroff(self):
        self.send("poweroff\n")
        return self.finish()
