#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The store when things go wrong: a daemon killed at any moment of any verb, a disk that is full.

    store.py TRAPEZE LOOP_ELF
"""
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

import tap
from daemon_client import HOST, LIMIT_S, USAGE, Client, is_alive, until
from machine import FULL

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
# In the life in a namespace of its own, with a disk of its own.
SMALL = sys.argv[3] if len(sys.argv) > 3 else None
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-store-")
STORE = SMALL or os.path.join(FOLDER.name, "store")
CLIENT = Client(TRAPEZE, STORE)
trapeze, refuses, api = CLIENT.trapeze, CLIENT.refuses, CLIENT.api
TURNS = 200 if FULL else 10
NAMES = [f"n{number}" for number in range(6)]
DISK = 256 << 10


def path_in(*parts):
    return os.path.join(STORE, "instances", *parts)


def make_template(size=DISK):
    disk = os.path.join(FOLDER.name, "disk")
    with open(disk, "wb") as file:
        file.write(os.urandom(size))
    trapeze("list")
    api("POST", "/v1/instances", {
        "name": "base", "vmx": 'memsize = "32"\ntrapeze.firmware = "elf"\n'
        'scsi0:0.fileName = "disk.img"\nscsi0:0.trapeze.format = "raw"\n',
        "files": [{"source": LOOP_ELF, "name": "elf"}, {"source": disk, "name": "disk.img"}]}, 201)
    trapeze("template", "base")


def check_store():
    """Catalogue and folders agree, and every instance is whole; the rows."""
    rows = CLIENT.list()
    assert all("error" not in row for row in rows), rows
    names = [row["name"] for row in rows]
    assert names == sorted(os.listdir(path_in())), (names, os.listdir(path_in()))
    # Closed also if the test fails: who keeps it open keeps the write-ahead log there.
    with contextlib.closing(sqlite3.connect(f"{STORE}/catalogue.db")) as catalogue:
        assert names == sorted(row[0] for row in catalogue.execute("SELECT name FROM instances"))
    templates = {row["name"] for row in rows if row["template"]}
    for row in rows:
        assert "parent" not in row or row["parent"] in templates, rows
        for disk in row["disks"] if row["state"] == "stopped" else []:
            if disk.endswith(".qcow2"):
                trapeze("disk", "check", disk)
            else:
                assert os.path.getsize(disk) == DISK, disk
    return rows


def test_killed_in_the_middle_of_any_verb():
    make_template()
    seed = int(os.environ.get("TRAPEZE_SEED", "0")) or random.randrange(1 << 32)
    choice = random.Random(seed)
    print(f"# TRAPEZE_SEED={seed}", flush=True)
    kinds = [
        lambda a, b: ["create", a, "--firmware", LOOP_ELF, "-m", "32"],
        lambda a, b: ["create", a, "--from-template", "base"],
        lambda a, b: ["create", a, "--from-template", "base", "-m", "64"],
        lambda a, b: ["clone", "base", a], lambda a, b: ["clone", "--full", "base", a],
        lambda a, b: ["clone", a, b], lambda a, b: ["clone", "--full", a, b],
        lambda a, b: ["rename", a, b], lambda a, b: ["delete", a], lambda a, b: ["template", a],
        lambda a, b: ["template", "--undo", a], lambda a, b: ["start", a],
        lambda a, b: ["stop", "--force", a], lambda a, b: ["restart", "--force", a],
        lambda a, b: ["delete", "base"], lambda a, b: ["rename", "base", a],
        lambda a, b: ["prune", "--unused", "0", "--yes"]]
    done, killed = 0, 0
    for turn in range(TURNS):
        if not any(row["name"] == "base" and row["template"] for row in CLIENT.list()):
            CLIENT.clear()
            make_template()
        pid = CLIENT.pid_of_daemon()
        # Each kind in its turn, with some others beside it.
        verbs = [kinds[turn % len(kinds)], *choice.choices(kinds[:-3], k=2)]
        processes = [subprocess.Popen([TRAPEZE, *verb(*choice.sample(NAMES, 2))],
                                      env={**os.environ, "TRAPEZE_HOME": STORE},
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL) for verb in verbs]
        time.sleep(choice.random() ** 2 * 0.15)
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not is_alive(pid))  # who comes now finds the next one
        status = [process.wait(timeout=LIMIT_S) for process in processes]
        assert set(status) <= {0, USAGE, HOST}, (status, turn)
        done, killed = done + status.count(0), killed + status.count(HOST)
        check_store()
    print(f"# killed {TURNS} times; of the verbs {done} were done, {killed} lost their daemon",
          flush=True)
    assert done > 0 and killed > 0


# ---- in a namespace, on a small disk ----

def fill():
    """Takes all of the space that is left; who removes the file gives it back."""
    with open(os.path.join(STORE, "filler"), "wb", buffering=0) as file:
        for size in 1 << 20, 4096:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def fails_for_space(*arguments):
    before = sorted(os.listdir(path_in()))
    done = trapeze(*arguments, status=HOST)
    assert "No space left on device" in done.stderr, done
    assert sorted(os.listdir(path_in())) == before, "something half-made is left"


def on_a_small_disk():
    make_template(6 << 20)
    trapeze("clone", "base", "a")
    trapeze("clone", "--full", "base", "b")
    fails_for_space("clone", "--full", "base", "c")
    fails_for_space("clone", "b", "c")
    trapeze("template", "a")
    fails_for_space("clone", "--full", "a", "c")  # what is written to a new image
    with open("/dev/shm/trapeze-store-large", "wb") as file:
        file.truncate(32 << 20)
        file.write(bytes([1]) * (32 << 20))
    try:
        fails_for_space("create", "c", "--firmware", "/dev/shm/trapeze-store-large", "-m", "32")
    finally:
        os.remove("/dev/shm/trapeze-store-large")
    fill()
    for verb in (["clone", "a", "c"], ["create", "c", "--from-template", "base"],
                 ["create", "c", "--from-template", "base", "-m", "64"],
                 ["create", "c", "--firmware", LOOP_ELF, "-m", "32"]):
        fails_for_space(*verb)
    names = [row["name"] for row in CLIENT.list()]
    assert names == ["a", "b", "base"], names
    trapeze("delete", "b")  # which is how there will be space
    os.remove(os.path.join(STORE, "filler"))
    trapeze("clone", "a", "c")
    trapeze("start", "c")
    trapeze("stop", "--force", "c")
    trapeze("clone", "--full", "c", "d")
    assert [row["name"] for row in CLIENT.list()] == ["a", "base", "c", "d"]


def test_a_disk_that_is_full():
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    folder = os.path.join(FOLDER.name, "small")
    os.mkdir(folder)
    mount = f"mount -t tmpfs -o size=16m,mode=700 trapeze '{folder}'"
    if subprocess.run([*namespace, "sh", "-c", mount], check=False).returncode != 0:
        raise tap.Skip("this host gives no namespaces, in which one may mount")
    done = subprocess.run([*namespace, "sh", "-c", mount + ' && exec "$@"', "sh", sys.executable,
                           os.path.abspath(__file__), TRAPEZE, LOOP_ELF, folder],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S * 4, check=False)
    assert done.returncode == 0, done.stdout


def test_a_job_that_dies_leaves_nothing():
    """As the kernel kills when memory runs out: the daemon removes what it was making."""
    make_template(64 << 20)
    process = subprocess.Popen([TRAPEZE, "clone", "--full", "base", "a"],
                               env={**os.environ, "TRAPEZE_HOME": STORE}, text=True,
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    daemon, job = CLIENT.pid_of_daemon(), None
    while job is None:
        assert process.poll() is None, "it was too fast"
        with open(f"/proc/{daemon}/task/{daemon}/children", encoding="ascii") as file:
            job = next(iter(map(int, file.read().split())), None)
    while not any(name.startswith(f".new-{job}-") for name in os.listdir(path_in())):
        assert process.poll() is None, "it was too fast"
    os.kill(job, signal.SIGKILL)
    assert "without a word" in process.communicate(timeout=LIMIT_S)[1]
    assert os.listdir(path_in()) == ["base"]


def main():
    if SMALL is not None:
        try:
            on_a_small_disk()
        finally:
            CLIENT.end()
        return 0
    status = tap.main(CLIENT.alone(globals()))
    CLIENT.end()
    return status


if __name__ == "__main__":
    sys.exit(main())
