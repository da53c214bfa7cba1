# SPDX-License-Identifier: MIT
"""What the builder asks of the host: to run tools, to show progress, to fail with a sentence."""
import os
import shutil
import signal
import subprocess
import sys
import time

EXIT_HOST, EXIT_USAGE, EXIT_GUEST, EXIT_ABSENT, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

# Tools in /sbin (depmod, mke2fs) are not on an ordinary user's PATH on Debian.
TOOL_PATH = os.pathsep.join([os.environ.get("PATH", "/usr/bin:/bin"), "/usr/sbin", "/sbin"])

# tool -> the Debian package that brings it, so that a missing tool becomes a remedy
PACKAGE_OF = {
    "apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg", "gpgv": "gpgv",
    "depmod": "kmod", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs", "e2fsck": "e2fsprogs",
    "cp": "coreutils",
}


class Failure(Exception):
    """An error of the host's or the user's making: a sentence with cause and remedy."""

    def __init__(self, message, status=EXIT_HOST):
        super().__init__(message)
        self.status = status


def tool(name):
    path = shutil.which(name, path=TOOL_PATH)
    if not path:
        raise Failure(f"'{name}' is not installed; install it with: "
                      f"apt-get install {PACKAGE_OF.get(name, name)}")
    return path


def environment():
    """The environment for tools: their messages are read here, so they must not be translated."""
    env = dict(os.environ, PATH=TOOL_PATH, LC_ALL="C.UTF-8")
    env.pop("LANGUAGE", None)
    return env


def run(*argv, error, **options):
    """Runs a tool and returns its standard output; `error` opens the failure sentence."""
    done = subprocess.run([tool(argv[0]), *argv[1:]], env=environment(), text=True,
                          stdin=options.pop("stdin", subprocess.DEVNULL),
                          stdout=options.pop("stdout", subprocess.PIPE),
                          stderr=options.pop("stderr", subprocess.PIPE), **options)
    if done.returncode != 0:
        detail = "\n".join(text.strip() for text in (done.stdout, done.stderr) if text).strip()
        raise Failure(f"{error}: {argv[0]} failed with status {done.returncode}"
                      + (f":\n{detail}" if detail else ""))
    return done.stdout


class Progress:
    """Progress on standard error: redrawn on a terminal, else a line per step and now and then."""

    PLAIN_INTERVAL = 10  # seconds between lines when nothing can be redrawn

    def __init__(self):
        self.terminal = sys.stderr.isatty()
        self.drawn = False
        self.last = 0.0

    def step(self, text):
        self._clear()
        print(f"==> {text}", file=sys.stderr, flush=True)
        self.last = time.monotonic()

    def note(self, text):
        self._clear()
        print(f"    {text}", file=sys.stderr, flush=True)

    def update(self, done, total, what=""):
        percent = 100 * done // total if total else 100
        line = f"    {percent:3d}%  {done}/{total}  {what}"
        now = time.monotonic()
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\x1b[K" + line[:width])
            sys.stderr.flush()
            self.drawn = True
        elif now - self.last >= self.PLAIN_INTERVAL:
            print(line, file=sys.stderr, flush=True)
            self.last = now

    def _clear(self):
        if self.drawn:
            sys.stderr.write("\r\x1b[K")
            self.drawn = False

    done = _clear


def stop_on_signals():
    """SIGTERM and SIGHUP end the builder the way Ctrl-C does: through its clean-up."""
    def interrupt(_number, _frame):
        raise KeyboardInterrupt
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
