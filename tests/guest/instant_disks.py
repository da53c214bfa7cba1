#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Instant clones of machines that write to disks: each has the disk of the moment in which it began, and
writes to its own.

    instant_disks.py TRAPEZE WRITER_ELF

The guest is writer.c, whose memory and disk have to be of the same moment. The full tier makes a storm
of 100 clones, the quick one of 6.
"""
import json
import os
import random
import re
import subprocess
import sys
import time

import tap
from daemon_client import HOST, LIMIT_S, USAGE, Client, until
from machine import FULL, scratch
from writing import Writer

TRAPEZE, WRITER_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
STORE = scratch("store")
CLIENT = Client(TRAPEZE, STORE)
trapeze, refuses, api, info = CLIENT.trapeze, CLIENT.refuses, CLIENT.api, CLIENT.info


def folder(name, *parts):
    return os.path.join(STORE, "instances", name, *parts)


def clone(original, name, *options):
    trapeze("clone", "--instant", *options, original, name)
    return Writer(CLIENT, name, None)


def check_images(name):
    """By others' judgement."""
    for path in info(name)["disks"]:
        layer = path.endswith(".qcow2")
        if layer:
            subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True, timeout=LIMIT_S)
        subprocess.run(["qemu-img", "info", "--backing-chain", path], check=True,
                       stdout=subprocess.DEVNULL, timeout=LIMIT_S)


def depth(name):
    text = subprocess.run(["qemu-img", "info", "--output", "json", "-U", "--backing-chain",
                           info(name)["disks"][0]], check=True, stdout=subprocess.PIPE, timeout=LIMIT_S)
    return len(json.loads(text.stdout))


def snapshots(name):
    place = folder(name, "snapshots")
    return sorted(os.listdir(place)) if os.path.exists(place) else []


def end(*machines):
    """They hold what they have flushed."""
    flushed = [machine.flushed() for machine in machines]
    for machine in machines:
        trapeze("stop", "--force", machine.name, status=None)
    for machine, least in zip(machines, flushed):
        check_images(machine.name)
        machine.verify(least)


def remove(*names):
    for name in names:
        trapeze("stop", "--force", name, status=None)
        trapeze("delete", name)


def test_memory_and_disk_are_of_one_moment():
    base = Writer(CLIENT, "base", WRITER_ELF)
    base.start()
    before = base.go_on()
    web = clone("base", "web")
    assert [info(name)["state"] for name in ("base", "web")] == ["running", "running"]
    assert web.go_on() > before and base.go_on() > before
    child = clone("web", "child")  # a clone's clone
    for machine in (base, web, child):
        machine.go_on()
    assert not json.loads(trapeze("snapshot", "list", "--json", "base").stdout)["snapshots"]
    end(base, web, child)
    refuses(USAGE, "'base' has linked clones", "web", arguments=["rename", "base", "other"])
    refuses(USAGE, "'base' has linked clones", "web", arguments=["delete", "base"])
    refuses(USAGE, "'web' has linked clones", "child", arguments=["delete", "web"])
    # What the others lie upon is kept, whatever becomes of the machine that wrote it.
    trapeze("snapshot", "create", "base", "s")
    base.verify(0)
    trapeze("snapshot", "restore", "base", "s")
    trapeze("snapshot", "delete", "base", "s")
    for machine in (base, web, child):
        machine.start()
        machine.go_on()
    end(base, web, child)
    assert not [item for item in api("GET", "/v1/prune")["items"] if item["kind"] == "file"]
    # Without clones all of it becomes one again.
    assert depth("base") > 1
    remove("child", "web")
    base.start()
    assert depth("base") == 1 and not snapshots("base"), snapshots("base")
    end(base)
    remove("base")


def test_what_others_make_of_a_clone():
    base = Writer(CLIENT, "base", WRITER_ELF)
    base.start()
    base.go_on()
    web = clone("base", "web")
    web.go_on()
    trapeze("snapshot", "create", "web", "here")
    web.go_on()
    flushed = web.flushed()
    trapeze("stop", "--force", "web")
    trapeze("clone", "--full", "web", "copy")
    archive = scratch("web.trapeze")
    trapeze("export", "web", archive)
    trapeze("import", archive, "came")
    trapeze("snapshot", "restore", "web", "here")
    trapeze("start", "web")
    web.go_on()
    end(web, base)
    trapeze("snapshot", "delete", "web", "here")
    trapeze("rename", "web", "site")
    remove("site", "base")
    for name in ("copy", "came"):  # which need nobody
        assert not vmx(name).get("trapeze.parent")
        Writer(CLIENT, name, None).verify(0)
    assert Writer(CLIENT, "copy", None).content() == Writer(CLIENT, "came", None).content()
    assert flushed > 0
    remove("copy", "came")


def vmx(name):
    with open(folder(name, name + ".vmx"), encoding="utf-8") as file:
        return dict(re.findall(r'^(\S+) = "(.*)"$', file.read(), re.M))


def test_one_that_is_paused_is_frozen_once():
    base = Writer(CLIENT, "base", WRITER_ELF)
    base.start()
    base.go_on()
    trapeze("pause", "base")
    first = clone("base", "a-1")
    layers = depth("base")
    machines = [first] + [clone("base", f"a-{number}") for number in range(2, 5)]
    assert depth("base") == layers == 2
    assert {depth(machine.name) for machine in machines} == {2}
    assert info("base")["state"] == "paused"
    for machine in machines:
        assert info(machine.name)["state"] == "running"
        machine.go_on()
    trapeze("resume", "base")
    base.go_on()
    late = clone("base", "late")  # it has written meanwhile
    late.go_on()
    assert depth("base") == 3
    end(*machines, late, base)
    trapeze("delete", "late")
    remove(*[machine.name for machine in machines], "base")


def test_an_image_that_is_not_what_the_description_says():
    """A worker that its guest has taken over may name any file in its image."""
    base = Writer(CLIENT, "base", WRITER_ELF)
    base.start()
    base.go_on()
    clone("base", "web").go_on()
    trapeze("stop", "--force", "web")
    secret = scratch("secret")
    with open(secret, "wb") as file:
        file.write(b"secret" * 100000)
    with open(info("base")["disks"][0], "r+b") as layer:
        header = layer.read(24)
        assert header[:4] == b"QFI\xfb"
        layer.seek(int.from_bytes(header[8:16], "big"))  # where the backing file's name is
        layer.write(secret.encode())
        layer.seek(16)
        layer.write(len(secret).to_bytes(4, "big"))
    base.go_on()
    refuses(HOST, "no description says so", arguments=["clone", "--instant", "base", "thief"])
    assert info("base")["state"] == "running"
    base.go_on()
    remove("web", "base")


def test_a_daemon_that_is_killed_leaves_whole_clones_or_none():
    base = Writer(CLIENT, "base", WRITER_ELF)
    base.start()
    for number in range(30 if FULL else 4):
        base.go_on()
        rows = CLIENT.killed_during("POST", "/v1/instances/base/clone", {"to": "web", "instant": True},
                                    random.random() * 0.15)
        assert rows["base"] == "running" and set(rows) <= {"base", "web"}, rows
        assert not [name for name in os.listdir(os.path.join(STORE, "instances"))
                    if name.startswith(".new")], number
        base.go_on()
        others = [Writer(CLIENT, "web", None)] if "web" in rows else []
        for web in others:
            if rows["web"] == "running":
                web.go_on()
        end(base, *others)
        remove(*[web.name for web in others])
        trapeze("start", "base")  # what was begun is finished
        assert depth("base") == 1, snapshots("base")
        trapeze("stop", "--force", "base")
        base.start()
    remove("base")


def test_a_storm_of_clones():
    count = 100 if FULL else 6
    base = Writer(CLIENT, "base", WRITER_ELF)
    base.start()
    base.go_on()
    begun = time.monotonic()
    trapeze("clone", "--instant", "--count", str(count), "base", "web")
    print(f"# {count} clones in {time.monotonic() - begun:.2f} s")
    machines = [Writer(CLIENT, f"web-{number + 1}", None) for number in range(count)]
    assert {depth(machine.name) for machine in machines} == {2}  # all of one moment
    for machine in machines:
        machine.go_on()
    end(*machines, base)
    remove(*[machine.name for machine in machines])
    base.start()
    assert depth("base") == 1
    end(base)
    remove("base")


if __name__ == "__main__":
    sys.exit(CLIENT.main(globals()))
