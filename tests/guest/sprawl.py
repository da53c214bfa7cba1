#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What instances take, how old they are, and what of them can go.

    sprawl.py TRAPEZE LOOP_ELF
"""
import calendar
import json
import os
import pty
import subprocess
import sys
import tempfile
import time

from daemon_client import USAGE, Client

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-sprawl-")
STORE = os.path.join(FOLDER.name, "store")
CLIENT = Client(TRAPEZE, STORE)
trapeze, refuses, api, info = CLIENT.trapeze, CLIENT.refuses, CLIENT.api, CLIENT.info
DAY_S = 86400


def path_in(*parts):
    return os.path.join(STORE, "instances", *parts)


def make(name, size=1 << 20, keys=""):
    """With a disk of so many bytes that are no zeros."""
    disk = os.path.join(FOLDER.name, "disk")
    with open(disk, "wb") as file:
        file.write(os.urandom(size))
    trapeze("list")
    api("POST", "/v1/instances", {
        "name": name, "vmx": 'memsize = "32"\ntrapeze.firmware = "elf"\n'
        'scsi0:0.fileName = "disk.img"\nscsi0:0.trapeze.format = "raw"\n' + keys,
        "files": [{"source": LOOP_ELF, "name": "elf"}, {"source": disk, "name": "disk.img"}]}, 201)


def put(name, size=1 << 16):
    with open(path_in(name), "wb") as file:
        file.write(os.urandom(size))


def used_ago(name, seconds):
    """Its machine ran then."""
    moment = time.time() - seconds
    with open(path_in(name, "end"), "a", encoding="ascii"):
        os.utime(path_in(name, "end"), (moment, moment))


def proposals(*options):
    answer = json.loads(trapeze("prune", "--json", *options).stdout)
    return {(item["name"] if item["kind"] == "instance" else os.path.relpath(item["path"], path_in())):
            item["why"] for item in answer["items"]}


def test_what_it_takes_and_how_old_it_is():
    make("base", 4 << 20)
    assert "used" not in info("base")
    trapeze("template", "base")
    trapeze("clone", "base", "a", "--expires", "2040-02-03")
    rows = {row["name"]: row for row in CLIENT.list()}
    assert 4 << 20 <= rows["base"]["disk-used"] < 5 << 20, rows
    assert rows["a"]["disk-used"] < 1 << 20, rows
    assert rows["a"]["parent"] == "base" and "parent" not in rows["base"]
    assert rows["a"]["expires"] == calendar.timegm((2040, 2, 3, 0, 0, 0))
    assert abs(rows["a"]["created"] - time.time()) < 600
    assert api("GET", "/v1/instances/base")["clones"] == ["a"]
    assert "clones" not in api("GET", "/v1/instances/a")
    trapeze("start", "a")
    assert abs(info("a")["used"] - time.time()) < 5
    trapeze("stop", "--force", "a")
    used_ago("a", 3 * DAY_S)
    assert abs(info("a")["used"] - (time.time() - 3 * DAY_S)) < 600
    line = next(line for line in trapeze("list").stdout.splitlines() if line.startswith("a "))
    assert "3 days" in line and line.endswith(" base"), line
    said = trapeze("info", "a").stdout
    assert "expires: 2040-02-03T00:00:00Z\n" in said and "parent: base\n" in said, said


def test_prune_proposes_and_asks():
    make("old")
    make("new")
    make("never")
    make("expired", keys='trapeze.expires = "2020-01-01"\n')
    make("base", keys='trapeze.expires = "2020-01-01"\n')
    trapeze("template", "base")
    trapeze("clone", "base", "upon")
    used_ago("old", 40 * DAY_S)
    used_ago("new", 20 * DAY_S)
    assert proposals() == {"old": "unused", "expired": "expired"}
    assert proposals("--unused", "10") == {"old": "unused", "new": "unused", "expired": "expired"}
    assert set(proposals("--unused", "0")) == {"old", "new", "never", "expired", "upon"}
    trapeze("start", "old")  # what runs is no one's to propose
    assert proposals() == {"expired": "expired"}
    trapeze("stop", "--force", "old")
    assert proposals() == {"expired": "expired"}  # nor what has just run
    used_ago("old", 40 * DAY_S)
    before = sorted(os.listdir(path_in()))
    said = trapeze("prune").stdout
    assert "Nothing is deleted without --yes." in said and "MiB" in said, said
    assert typed(b"no\n") == 0 and typed(b"y\n") == 0
    assert sorted(os.listdir(path_in())) == before
    assert typed(b"yes\n") == 0
    assert sorted(os.listdir(path_in())) == ["base", "never", "new", "upon"]
    assert "nothing to delete" in trapeze("prune", "--yes").stdout
    trapeze("prune", "--unused", "0", "--yes")
    assert os.listdir(path_in()) == ["base"]
    trapeze("prune", "--yes")  # it has no clones now
    assert os.listdir(path_in()) == []
    for options in ["--unused", "x"], ["--unused", "-1"], ["name"]:
        refuses(USAGE, "", arguments=["prune", *options])
    api("GET", "/v1/prune?unused=-1", None, 400)
    api("POST", "/v1/prune", {"files": "x"}, 400)


def typed(answer):
    """Status of a prune that a person answers."""
    master, slave = pty.openpty()
    process = subprocess.Popen([TRAPEZE, "prune"], stdin=slave, stdout=slave, stderr=slave,
                               env={**os.environ, "TRAPEZE_HOME": STORE})
    os.close(slave)
    said = b""
    while b"Type 'yes'" not in said:
        said += os.read(master, 4096)
    os.write(master, answer)
    try:
        while os.read(master, 4096):
            pass
    except OSError:
        pass
    os.close(master)
    return process.wait(timeout=300)


def test_orphaned_images():
    make("a", keys='scsi0:1.fileName = "upper.qcow2"\nscsi0:1.trapeze.format = "qcow2"\n'
         f'scsi0:2.fileName = "{path_in("b", "lent.img")}"\n')
    make("b")
    trapeze("disk", "create", path_in("a", "lower.qcow2"), "1M", "--format", "qcow2")
    trapeze("disk", "create", path_in("a", "upper.qcow2"), "--format", "qcow2", "--backing",
            "lower.qcow2", "--backing-format", "qcow2")
    for name in "a/left.img", "a/notes.txt", "b/lent.img", "b/left.qcow2", "b/b.key":
        put(name)
    assert proposals() == {"a/left.img": "orphaned", "b/left.qcow2": "orphaned"}
    answer = api("POST", "/v1/prune", {"files": [path_in("a", "lower.qcow2"), "/etc/passwd", "x",
                                                 path_in("b", "lent.img"), path_in("..", "lock")]})
    assert answer["deleted"] == [] and len(answer["kept"]) == 5, answer
    with open(path_in("b", "b.vmx"), "a", encoding="utf-8") as file:
        file.write("nonsense\n")  # it might name any of them
    assert proposals() == {}
    assert "not looked for" in trapeze("prune").stderr
    with open(path_in("b", "b.vmx"), encoding="utf-8") as file:
        text = file.read().replace("nonsense\n", "")
    with open(path_in("b", "b.vmx"), "w", encoding="utf-8") as file:
        file.write(text)
    trapeze("start", "b")  # what is attached to it may be in no description
    assert proposals() == {"a/left.img": "orphaned"}
    assert api("POST", "/v1/prune", {"files": [path_in("b", "left.qcow2")]})["deleted"] == []
    trapeze("stop", "--force", "b")
    trapeze("prune", "--yes")
    assert sorted(os.listdir(path_in("a"))) == ["a.vmx", "disk.img", "elf", "lock", "lower.qcow2",
                                                "notes.txt", "upper.qcow2"]
    assert not os.path.exists(path_in("b", "left.qcow2"))
    assert os.path.exists(path_in("b", "lent.img"))


if __name__ == "__main__":
    sys.exit(CLIENT.main(globals()))
