#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Instant clones: machines that go on from where another one is, and share nothing else with it.

    instant.py TRAPEZE LOOP_ELF

The full tier makes a storm of 100 clones, the quick one of 8.
"""
import ctypes
import os
import random
import re
import socket
import sys
import time

import tap
from daemon_client import LIMIT_S, USAGE, Client, is_alive, until
from machine import FULL, image, scratch

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
STORE = scratch("store")
CLIENT = Client(TRAPEZE, STORE)
trapeze, refuses, api, info = CLIENT.trapeze, CLIENT.refuses, CLIENT.api, CLIENT.info
COUNTER = "(i=0; while true; do i=$((i+1)); echo $i > /count; sleep 0.05; done) & true"
RESEEDED = "dmesg | grep -c 'reseeded due to virtual machine fork' || true"
KCMP, KCMP_FILE = 312, 0


def folder(name, *parts):
    return os.path.join(STORE, "instances", name, *parts)


class Console:
    """A shell on an instance's console."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT_S)
        place = os.open(folder(name), os.O_RDONLY)
        self.socket.connect(f"/proc/self/fd/{place}/console.sock")
        os.close(place)
        self.number, self.heard = random.randrange(1 << 30), b""

    def expect(self, pattern):
        while not (found := re.search(pattern, self.heard, re.S)):
            piece = self.socket.recv(65536)
            assert piece, self.heard
            self.heard += piece
        self.heard = self.heard[found.end():]
        return found

    def run(self, command):
        self.number += 1
        number = str(self.number)
        self.socket.sendall(f"echo; echo '<'{number}; {command}; echo \"=$?={number}>\"\n".encode())
        found = self.expect(rb"\n<%b\r\n(.*?)=(\d+)=%b>" % (number.encode(), number.encode()))
        assert found[2] == b"0", (command, found[1])
        return found[1].decode(errors="replace").replace("\r", "").strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def make_linux(name, keys=""):
    place = image("tiny", TRAPEZE)
    trapeze("list")
    api("POST", "/v1/instances", {"name": name, "vmx": f'''memsize = "128"
trapeze.kernel = "{place}/Image"
trapeze.initrd = "{place}/initrd"
trapeze.append = "console=ttyS0"
ethernet0.connectionType = "nat"
ethernet0.address = "02:00:00:00:00:01"
{keys}''', "files": []}, 201)
    trapeze("start", name)
    until(lambda: b"ready" in open(folder(name, "console.log"), "rb").read())


def make_program(name, keys=""):
    trapeze("list")
    api("POST", "/v1/instances", {
        "name": name, "vmx": 'memsize = "32"\ntrapeze.firmware = "elf"\n' + keys,
        "files": [{"source": LOOP_ELF, "name": "elf"}]}, 201)
    trapeze("start", name)


def vmx(name):
    with open(folder(name, name + ".vmx"), encoding="utf-8") as file:
        return dict(re.findall(r'^(\S+) = "(.*)"$', file.read(), re.M))


def worker_of(name):
    """Its process, by who holds the lock."""
    wanted = os.stat(folder(name, "lock")).st_ino
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{fd}"
                if os.stat(path).st_ino == wanted and os.readlink(path).endswith("/lock"):
                    return int(pid)
        except OSError:
            continue
    raise AssertionError(f"{name} has no worker")


def workers_like(pid):
    """The processes that began as this one, or as copies of it."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        wanted = file.read()
    found = []
    for other in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{other}/cmdline", "rb") as file:
                if file.read() == wanted and is_alive(other):
                    found.append(int(other))
        except OSError:
            continue
    return found


def shared_maps(pid):
    """Inodes of what it maps to write to it together with others."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as file:
        rows = [line.split(None, 5) for line in file]
    return {row[4] for row in rows if row[1][3] == "s" and row[4] != "0"}


def namespaces(pid):
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in ("pid", "mnt", "net", "user")}


def check_nothing_shared(one, other):
    libc = ctypes.CDLL(None, use_errno=True)
    files = [[int(fd) for fd in os.listdir(f"/proc/{pid}/fd")] for pid in (one, other)]
    assert len(files[0]) > 8 and len(files[1]) > 8, files
    for mine in files[0]:
        for theirs in files[1]:
            same = libc.syscall(KCMP, one, other, KCMP_FILE, mine, theirs)
            if same < 0:
                raise tap.Skip("this host does not tell whether files are the same (kcmp)")
            assert same != 0, os.readlink(f"/proc/{one}/fd/{mine}")
    assert not shared_maps(one) & shared_maps(other)


def counted(console):
    while not (text := console.run("cat /count")):
        pass  # between its end and its new content
    return int(text)


def test_a_clone_goes_on_by_itself():
    make_linux("base", 'trapeze.vsockCid = "7"\n')
    with Console("base") as base:
        base.run("dd if=/dev/urandom of=/content bs=1M count=8 2>/dev/null")
        base.run(COUNTER)
        until(lambda: base.run("cat /count 2>/dev/null || true") and counted(base) > 3)
        before, content = counted(base), base.run("md5sum /content")
        origin = worker_of("base")
        trapeze("clone", "--instant", "base", "web")
        assert [info(name)["state"] for name in ("base", "web")] == ["running", "running"]
        copy = worker_of("web")
        assert copy != origin
        with Console("web") as web:
            assert web.run("md5sum /content") == content  # its memory
            web.run("dd if=/dev/zero of=/content bs=1M count=8 2>/dev/null; touch /mine")
            base.run("touch /theirs")
            assert base.run("md5sum /content; ls /mine 2>/dev/null || true") == content
            assert web.run("ls /theirs 2>/dev/null || true") == ""
            until(lambda: counted(web) > before)  # its processes
            until(lambda: counted(base) > before)
            one, other = vmx("base"), vmx("web")
            assert one["ethernet0.address"] != other["ethernet0.address"]
            assert other["trapeze.vsockCid"] != "7" and os.path.exists(folder("web", "vsock.sock"))
            assert other["displayName"] == "web" and other["trapeze.parent"] == "base", other
            check_nothing_shared(origin, copy)
            assert web.run(RESEEDED) == "1" and base.run(RESEEDED) == "0"  # its random numbers
            driver = "/sys/bus/virtio/drivers/virtio_net"
            address = web.run("cat /sys/class/net/eth0/address")
            assert address == one["ethernet0.address"], address  # until its driver looks again
            web.run(f"d=$(basename $(readlink /sys/class/net/eth0/device)); "
                    f"echo $d > {driver}/unbind; echo $d > {driver}/bind")
            assert web.run("cat /sys/class/net/eth0/address") == other["ethernet0.address"]
            trapeze("stop", "--force", "base")
            until(lambda: not is_alive(origin))
            refuses(USAGE, "'base' has linked clones", "web", arguments=["rename", "base", "other"])
            now = counted(web)
            until(lambda: counted(web) > now)  # without the original
            refuses(USAGE, "'base' has linked clones", "web", arguments=["delete", "base"])
            trapeze("clone", "--instant", "web", "child")  # a clone's clone
            trapeze("start", "base")
            with Console("child") as child:
                assert child.run("ls /mine") == "/mine"
    family = worker_of("web")
    for name in ("child", "web", "base"):
        trapeze("stop", "--force", name)
        trapeze("delete", name)
    assert not is_alive(family)


def test_a_clone_that_is_killed_takes_nobody_along():
    make_program("base")
    trapeze("clone", "--instant", "--count", "3", "base", "web")
    names = ["base", "web-1", "web-2", "web-3"]
    pids = {name: worker_of(name) for name in names}
    assert len(set(pids.values())) == 4
    spaces = namespaces(pids["base"])
    if spaces["pid"] != os.readlink("/proc/self/ns/pid"):
        assert all(namespaces(pid) == spaces for pid in pids.values())
    for victim in ("web-2", "base"):  # the original itself, too
        os.kill(pids[victim], 9)
        until(lambda gone=victim: info(gone)["state"] == "stopped")
        names.remove(victim)
        assert [info(name)["state"] for name in names] == ["running"] * len(names)
    for name in ("web-1", "web-2", "web-3", "base"):
        trapeze("stop", "--force", name, status=None)
        trapeze("delete", name)
    until(lambda: not any(is_alive(pid) for pid in pids.values()))


def test_what_is_refused():
    make_program("base")
    trapeze("clone", "--instant", "base", "web")
    refuses(USAGE, "there is an instance 'web' already",
            arguments=["clone", "--instant", "base", "web"])
    refuses(USAGE, "'full'", arguments=["clone", "--instant", "--full", "base", "a"])
    refuses(USAGE, "'count'", arguments=["clone", "--count", "2", "base", "a"])
    refuses(USAGE, "from 1 to 256", arguments=["clone", "--instant", "--count", "0", "base", "a"])
    refuses(USAGE, "no name for an instance", arguments=["clone", "--instant", "base", ".a"])
    trapeze("clone", "--instant", "base", "many-2")
    refuses(USAGE, "'many-2' already",  # none of them, then
            arguments=["clone", "--instant", "--count", "3", "base", "many"])
    assert [row["name"] for row in CLIENT.list()] == ["base", "many-2", "web"]
    until(lambda: len(workers_like(worker_of("base"))) == 3)
    for name in ("many-2", "web"):
        trapeze("stop", "--force", name)
        trapeze("delete", name)
    trapeze("stop", "--force", "base")
    refuses(USAGE, "not running", arguments=["clone", "--instant", "base", "a"])
    trapeze("delete", "base")


def test_a_daemon_that_is_killed_leaves_whole_clones_or_none():
    make_program("base")
    origin = worker_of("base")
    for number in range(12 if FULL else 4):
        rows = CLIENT.killed_during("POST", "/v1/instances/base/clone", {"to": "web", "instant": True},
                                    random.random() * 0.04)
        assert rows["base"] == "running" and set(rows) <= {"base", "web"}, rows
        assert not [name for name in os.listdir(os.path.join(STORE, "instances"))
                    if name.startswith(".new")], number
        expected = 1 + (rows.get("web") == "running")
        until(lambda count=expected: len(workers_like(origin)) == count)
        if "web" in rows:
            trapeze("stop", "--force", "web", status=None)
            trapeze("delete", "web")
    trapeze("stop", "--force", "base")
    trapeze("delete", "base")


def test_a_storm_of_clones():
    count = 100 if FULL else 8
    make_linux("base")
    with Console("base") as base:
        base.run("echo of base > /whose")
    begun = time.monotonic()
    trapeze("clone", "--instant", "--count", str(count), "base", "web")
    print(f"# {count} clones in {time.monotonic() - begun:.2f} s")
    names = [f"web-{i + 1}" for i in range(count)]
    consoles = [Console(name) for name in names]
    for name, console in zip(names, consoles):
        assert console.run("cat /whose") == "of base"
        console.run(f"echo of {name} > /whose")
    for name, console in zip(names, consoles):
        assert console.run("cat /whose") == f"of {name}"
        console.socket.close()
    addresses = {vmx(name)["ethernet0.address"] for name in ["base", *names]}
    assert len(addresses) == count + 1
    for name in [*names, "base"]:
        trapeze("stop", "--force", name)
        trapeze("delete", name)


if __name__ == "__main__":
    sys.exit(CLIENT.main(globals()))
