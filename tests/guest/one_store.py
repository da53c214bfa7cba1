# SPDX-License-Identifier: MIT
"""One store with its daemon, for tests that move machines into it and out of it. The first two arguments
of their command lines are TRAPEZE and LOOP_ELF."""
import functools
import os
import signal
import sys
import tempfile

import raw_disks
import tap
from daemon_client import Client

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
MIB = 1 << 20
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-transfer-")
make_raw = functools.partial(raw_disks.make_raw, FOLDER.name)
STORE = os.path.join(FOLDER.name, "store")
os.environ["TRAPEZE_HOME"] = STORE
EVIL = os.path.join(FOLDER.name, "evil.trapeze")


def scratch(name):
    return os.path.join(FOLDER.name, name)


def client(store=None):
    return Client(TRAPEZE, store or os.environ["TRAPEZE_HOME"])


def trapeze(*arguments, status=0, store=None):
    return client(store).trapeze(*arguments, status=status)


def folder(name, store=None):
    return os.path.join(store or os.environ["TRAPEZE_HOME"], "instances", name)


def instances(store=None):
    return sorted(os.listdir(folder("", store)))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def contents(disk, form):
    out = scratch("contents.raw")
    trapeze("disk", "convert", "--force", "--from", form, "--format", "raw", disk, out)
    return read(out)


def vmx(name, store=None):
    with open(f"{folder(name, store)}/{name}.vmx", encoding="utf-8") as file:
        lines = [line.rstrip("\n").split(" = ") for line in file if " = " in line]
    return {key: value.strip('"') for key, value in lines}


def delete(*names):
    for name in names:
        trapeze("stop", "--force", name, status=None)
        trapeze("delete", name)


def end_daemon(store=None):
    trapeze("list", store=store)
    client(store).kill_daemon(signal.SIGTERM)


def main(found):
    """A whole program of the functions of a module that are tests; its exit status."""
    trapeze("list")
    status = tap.main([test for name, test in list(found.items()) if name.startswith("test_")])
    try:
        end_daemon()
    except (OSError, AssertionError):
        pass
    return status
