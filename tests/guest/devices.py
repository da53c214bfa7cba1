#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Instances under their own names for what once wanted a control socket: disks and NICs that come and
go and are kept, and what a machine uses.

    devices.py TRAPEZE LOOP_ELF WRITER_ELF
"""
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile

import tap
from daemon_client import Client, until, HOST, USAGE

TRAPEZE, LOOP_ELF, WRITER_ELF = (os.path.abspath(name) for name in sys.argv[1:4])
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-devices-")
# Longer than a socket's address.
STORE = os.path.join(FOLDER.name, "a-folder-with-a-long-name" * 4, "store")
CLIENT = Client(TRAPEZE, STORE)
trapeze = CLIENT.trapeze


def scratch(name, size=1 << 20):
    path = os.path.join(FOLDER.name, name)
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def create(name, *options, elf=LOOP_ELF):
    trapeze("create", name, "--firmware", elf, "-m", "32", "--start", *options)


def remove(*names):
    for name in names:
        trapeze("stop", "--force", name, status=None)
        trapeze("delete", name)


def vmx(name):
    with open(f"{STORE}/instances/{name}/{name}.vmx", encoding="utf-8") as file:
        return file.read()


def disks(name):
    return [disk["file"] for disk in json.loads(trapeze("disk", "list", "--json", name).stdout)]


def test_disks_by_name():
    data, more, disc = scratch("data.img"), scratch("more.img"), scratch("disc.iso")
    create("a", "--cdrom", "none")
    assert disks("a") == [""]
    assert "Disk 1 is attached" in trapeze("disk", "attach", "a", data + ",serial=S1").stdout
    trapeze("disk", "attach", more, "a", "--live")  # the name may stand behind
    assert disks("a") == ["", data, more]
    assert data in vmx("a") and '"S1"' in vmx("a") and more not in vmx("a")
    trapeze("disk", "insert", "a", "0", disc)
    assert disc in vmx("a")
    trapeze("restart", "--force", "a")
    assert disks("a") == [disc, data]
    trapeze("disk", "eject", "a", "0")
    trapeze("disk", "detach", "--force", "a", "1")
    assert disc not in vmx("a") and data not in vmx("a")
    trapeze("disk", "attach", "a", more)
    trapeze("disk", "detach", "--force", "--live", "a", "1")
    assert disks("a") == [""] and more in vmx("a")
    trapeze("restart", "--force", "a")
    assert disks("a") == ["", more]
    before = vmx("a")
    CLIENT.refuses(HOST, "nowhere.img", arguments=["disk", "attach", "a", "nowhere.img"])
    CLIENT.refuses(HOST, "no disk", arguments=["disk", "detach", "a", "7"])
    assert vmx("a") == before
    trapeze("stop", "--force", "a")
    CLIENT.refuses(USAGE, "'a' is not running", "trapeze start a", arguments=["disk", "list", "a"])
    CLIENT.refuses(USAGE, "not running", arguments=["stats", "a"])
    trapeze("delete", "a")


def test_nics_by_name():
    create("a")
    trapeze("net", "attach", "a", "internal:lab,mac=02:00:00:00:00:07")
    trapeze("net", "attach", "internal:other", "a", "--live")
    assert "internal:lab" in vmx("a") and "internal:other" not in vmx("a")
    assert len(trapeze("net", "list", "a").stdout.splitlines()) == 3
    trapeze("restart", "--force", "a")
    assert len(trapeze("net", "list", "a").stdout.splitlines()) == 2
    CLIENT.refuses(USAGE, "no NIC 5", arguments=["net", "detach", "a", "5"])
    trapeze("net", "detach", "a", "0")
    assert "internal:lab" not in vmx("a") and "02:00:00:00:00:07" not in vmx("a")
    remove("a")


def test_the_description_through_http():
    create("a")
    path = "/v1/instances/a/devices"
    for body in ({}, {"add": 1}, {"ad": "x"}, {"disc-before": "/x", "disc": "/y"},
                 {"add": 'scsi0:0.fileName = "x"\nnonsense'}):
        CLIENT.api("POST", path, body, status=400)
    many = "".join(f'scsi0:{i}.fileName = "/d{i}"\n' for i in range(16) if i != 7)
    CLIENT.api("POST", path, {"add": many}, status=200)
    CLIENT.api("POST", path, {"add": many}, status=400)
    CLIENT.api("POST", path, {"remove-disk": "/d3", "remove-nic": "02:00:00:00:00:99"}, status=200)
    assert '"/d3"' not in vmx("a") and '"/d4"' in vmx("a") and "# " not in vmx("a")
    remove("a")


def used(name):
    return next(row for row in CLIENT.api("GET", "/v1/usage")["instances"] if row["name"] == name)


def say(name, text):
    folder = os.open(f"{STORE}/instances/{name}", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(f"/proc/self/fd/{folder}/console.sock")
        console.sendall(text)
    os.close(folder)


def test_top():
    disk = scratch("written.img", 16 << 20)
    create("a")
    create("w", "--disk", disk, elf=WRITER_ELF)
    say("w", b"0\n")  # which operation it begins with
    trapeze("create", "off", "--firmware", LOOP_ELF, "-m", "32")
    until(lambda: used("w").get("disk-written-bytes", 0) > 0)
    until(lambda: used("a")["cpu-ns"] > 0)
    rows = {r["name"]: r for r in json.loads(trapeze("top", "--once", "--json").stdout)["instances"]}
    assert sorted(rows) == ["a", "w"], rows
    assert rows["a"]["memory"] == 32 << 20 and rows["a"]["cpus"] == 1, rows
    assert 0 < rows["a"]["resident"] < 1 << 30 and rows["a"]["cpu-percent"] > 0, rows
    assert rows["a"]["disk-written-bytes"] == 0 and rows["w"]["disk-writes"] > 0, rows
    lines = trapeze("top", "-n", "2", "-d", "1").stdout.splitlines()
    assert [line.split()[0] for line in lines if "NAME" in line] == ["NAME"] * 2, lines
    assert len(lines) == 6, lines
    os.kill(pid_of("a"), signal.SIGSTOP)  # the others are shown all the same
    try:
        assert "resident" not in used("a") and "resident" in used("w")
    finally:
        os.kill(pid_of("a"), signal.SIGCONT)
    CLIENT.refuses(USAGE, "--delay", arguments=["top", "-d", "0"])
    remove("a", "w", "off")


def pid_of(name):
    events = [json.loads(line) for line in trapeze("events", "--json").stdout.splitlines()]
    return [e for e in events if e["instance"] == name and e["type"] == "start"][-1]["detail"]["pid"]


def test_top_on_a_terminal():
    create("a")
    main, end = pty.openpty()
    process = subprocess.Popen([TRAPEZE, "top"], stdin=end, stdout=end, stderr=end,
                               env={**os.environ, "TRAPEZE_HOME": STORE})
    os.close(end)
    text = b""
    while b"running" not in text:
        text += os.read(main, 4096)
    os.write(main, b"q")
    try:
        while data := os.read(main, 4096):
            text += data
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    assert text.startswith(b"\x1b[?1049h") and text.endswith(b"\x1b[?1049l"), text
    os.close(main)
    remove("a")


def main():
    status = tap.main([test for name, test in list(globals().items()) if name.startswith("test_")])
    for name in os.listdir(f"{STORE}/instances"):
        trapeze("stop", "--force", name, status=None)
    CLIENT.kill_daemon()
    return status


if __name__ == "__main__":
    sys.exit(main())
