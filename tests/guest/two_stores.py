# SPDX-License-Identifier: MIT
"""Two stores, A and B, and machines that go from one to the other; ways to hinder them.

For programs that are called with TRAPEZE LOOP_ELF WRITER_ELF, and perhaps more.
"""
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading

import tap
import writer
from daemon_client import LIMIT_S, Client, is_alive, until

TRAPEZE, LOOP_ELF, WRITER_ELF = (os.path.abspath(name) for name in sys.argv[1:4])
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-migrate-")
MIB = 1 << 20
for variable in [name for name in os.environ if name.startswith("TRAPEZE_")]:
    if variable not in ("TRAPEZE_SOURCE", "TRAPEZE_BUILD", "TRAPEZE_TIER", "TRAPEZE_SEED"):
        del os.environ[variable]
os.environ["XDG_CONFIG_HOME"] = os.path.join(FOLDER.name, "config")


def at(*names):
    return os.path.join(FOLDER.name, *names)


A, B = (Client(TRAPEZE, at(name)) for name in ("a", "b"))
SEED = int(os.environ.get("TRAPEZE_SEED", "0")) or random.randrange(1 << 32)
CHOICE = random.Random(SEED)


def socket_of(client):
    return os.path.join(client.store, "daemon.sock")


def other(client):
    return B if client is A else A


def folder(client, name):
    return os.path.join(client.store, "instances", name)


def names(client):
    return [row["name"] for row in client.list()]


def kill(pid):
    """It is dead: whoever asks next must not be answered half by one that is dying."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid))


def job_of(client):
    daemon = client.pid_of_daemon()
    with open(f"/proc/{daemon}/task/{daemon}/children", encoding="ascii") as file:
        return next(iter(map(int, file.read().split())), None)


def known(client, name="web"):
    """Its row, or None; never while it is not clear where it is."""
    rows = [row for row in client.list() if row["name"] == name]
    return rows[0] if rows else None


def is_settled(client, name="web"):
    row = known(client, name)
    return row is None or "migration" not in row


def the_owner(name="web"):
    """Waits until both daemons are clear about it, and one has it. A request that was on its way when
    its sender was killed may put "arriving" beside it for a while."""
    owners = []

    def is_clear():
        rows = {client: known(client, name) for client in (A, B)}
        owners[:] = [client for client, row in rows.items() if row]
        return len(owners) == 1 and "migration" not in rows[owners[0]]

    until(is_clear)
    return owners[0]


class Gate:
    """A socket in front of a daemon's: `rule` says of each request, by its first line, what happens:
    "pass"; "drop": it never arrives; "mute": its answer does not; "hold": it waits for release()."""

    def __init__(self, client, rule=lambda verb: "pass", change=lambda data: data, answer=lambda data: data):
        """`change`: of what is asked, a piece at a time; the length has to stay. `answer`: of what is answered."""
        self.client, self.rule, self.change, self.answer = client, rule, change, answer
        self.path = at(f"gate-{CHOICE.randrange(1 << 32)}")
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(self.path)
        self.server.listen()
        self.seen, self.opened, self.answers, self.open = [], threading.Event(), [], []
        self.flows = threading.Event()  # cleared: what comes from here on is kept back
        self.flows.set()

    def __enter__(self):
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.opened.set()
        os.remove(self.path)

    def release(self):
        self.opened.set()

    def cut(self):
        """The link breaks: all that is under way."""
        for end in self.open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(self):
        while True:
            near, _ = self.server.accept()
            threading.Thread(target=self.carry, args=(near,), daemon=True).start()

    def carry(self, near):
        first = near.recv(1 << 16)
        line = first.split(b"\r\n")[0].decode()
        verb = line.split()[1].rsplit("/", 1)[-1] if line else ""
        what = self.rule(verb)
        self.seen.append((verb, what))
        if what == "drop":
            near.close()
            return
        if what == "hold":
            near.close()  # whoever asked is gone meanwhile
            self.opened.wait(LIMIT_S)
        far = self.client.connection()
        try:
            far.connect()
            far.sock.sendall(self.change(first))
        except OSError:  # the daemon is dead
            near.close()
            return
        self.open += [near, far.sock]
        if what in ("mute", "hold"):
            self.answers.append(far.sock.recv(1 << 16).split(b"\r\n")[0])
            near.close()
            return

        def pump(one, two, change=lambda data: data):
            with contextlib.suppress(OSError):
                while data := one.recv(1 << 16):
                    self.flows.wait(LIMIT_S)
                    two.sendall(change(data))
            with contextlib.suppress(OSError):  # also when it was reset, as it had not read all
                two.shutdown(socket.SHUT_WR)
        back = threading.Thread(target=pump, args=(far.sock, near, self.answer), daemon=True)
        back.start()
        pump(near, far.sock, self.change)
        back.join(LIMIT_S)
        near.close()


SHARED = at("shared")


def is_running(client, name="web"):
    row = known(client, name)
    return row is not None and row["state"] == "running"


def pid_of_worker(client, name="web"):
    connection, where = socket.socket(socket.AF_UNIX), os.open(folder(client, name), os.O_RDONLY)
    try:
        connection.connect(f"/proc/self/fd/{where}/control.sock")
        size = struct.unpack("<I", connection.recv(4, socket.MSG_WAITALL))[0]
        return json.loads(connection.recv(size, socket.MSG_WAITALL))["pid"]
    finally:
        os.close(where)
        connection.close()


def logs(client, name="web"):
    return client.trapeze("logs", name).stdout


def make_writer(client, name="web"):
    os.makedirs(SHARED, exist_ok=True)
    disk = os.path.join(SHARED, "writer.raw")
    if not os.path.exists(disk):
        with open(disk, "wb") as file:
            file.truncate(writer.SECTORS * writer.SECTOR)
    client.trapeze("create", name, "--firmware", WRITER_ELF, "-m", "32", "--disk",
                   f"{disk},format=raw", "--net", "none")
    return disk


def start_writer(client, number, name="web"):
    client.trapeze("start", name)
    until(lambda: "?" in logs(client, name))
    connection, where = socket.socket(socket.AF_UNIX), os.open(folder(client, name), os.O_RDONLY)
    connection.connect(f"/proc/self/fd/{where}/console.sock")
    os.close(where)
    connection.sendall(f"{number}\n".encode())
    connection.close()
    until(lambda: flushed(client, name) > number)


def flushed(client, name="web"):
    """How many operations are said to be on the disk; each line is 32 more than the one before."""
    try:
        text = logs(client, name)
    except AssertionError:  # it has just moved
        return 0
    numbers = [int(line) for line in text.splitlines(keepends=True)[1:]
               if line.endswith("\n") and line.strip().isdigit()]
    assert all(two - one == writer.FLUSH_EVERY for one, two in zip(numbers, numbers[1:])), numbers
    return numbers[-1] if numbers else 0


def raw_writer():
    """Its disk is a raw file that both sides see; how to read it."""
    disk = make_writer(A)
    with open(disk, "r+b") as file:
        file.truncate(0)
        file.truncate(writer.SECTORS * writer.SECTOR)

    def content():
        bring_back(the_owner(), disk)
        with open(disk, "rb") as file:
            return file.read()
    return content


def bring_back(owner, disk):
    """If it was dead before it left, it went as what does not run does, with a disk of its own: it gets the one
    again that both see, with what is in its own."""
    own = owner.info("web")["disks"][0]
    if not os.path.samefile(own, disk):
        shutil.copyfile(own, disk)
        owner.trapeze("delete", "web")
        make_writer(owner)


class Life:
    """The writer's machine "web", on whichever side; checks its disk at each of its deaths."""

    def __init__(self, content=None):
        """`content` reads the disk of one that was made; None: a new one."""
        self.content = content or raw_writer()
        self.holds, self.number, self.deaths = [writer.ZERO] * writer.SECTORS, 0, 0
        start_writer(A, 0)

    def check(self, said):
        self.holds, self.number = writer.verify("the disk", self.content(), self.holds,
                                                self.number, said)

    def settle(self, said):
        """After a fault: the side that has it; it runs there, or its death is checked."""
        owner = the_owner()
        until(lambda: known(owner)["state"] in ("running", "stopped"))
        if known(owner)["state"] == "stopped":
            self.deaths += 1
            said = max(said, flushed(owner))
            self.check(said)
            start_writer(owner, self.number)
        now = flushed(owner)
        until(lambda: flushed(owner) > max(now, self.number))  # it really runs
        return owner


def main(found):
    """A whole program of the functions of a module that are tests; its exit status."""
    print(f"# TRAPEZE_SEED={SEED}", flush=True)

    def alone(test):
        def run():
            for client in A, B:
                for row in client.list() if os.path.exists(client.store) else []:
                    if "migration" in row:  # of a test that failed
                        client.trapeze("migrate", "--resolve", "here", row["name"], status=None)
                client.clear()
                client.trapeze("list")
            test()
        run.__name__ = test.__name__
        return run
    tests = [alone(test) for name, test in list(found.items()) if name.startswith("test_")]
    status = tap.main(tests)
    for client in A, B:
        client.end()
    return status
