#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The verifying guest moves from host to host (two network namespaces) over a slow link, one that loses,
delays and reorders frames, and one that breaks: nothing is lost, and it is on one side.

    migrate_links.py TRAPEZE WITNESS FORWARDER
"""
import os
import random
import re
import subprocess
import sys
import time

import keys
import machine
import moving
import tap
import witness
from daemon_client import Client
from handover import Handover

TRAPEZE, WITNESS, FORWARDER = (os.path.abspath(name) for name in sys.argv[1:4])
SEED = int(os.environ.get("TRAPEZE_SEED", "0")) or random.randrange(1 << 32)
CHOICE = random.Random(SEED)
SILENCE_NS = 3_000_000_000
DELAY_US = 20000


class Worlds:
    """What the tests need, made when the first wants it: a cable, a guest whose connection goes on over it."""
    cable = guest = None

    def need(self):
        if NET is None:
            raise tap.Skip("no network namespaces for us, or no tap devices in them")
        if self.cable is None:
            self.cable = moving.Cable(FORWARDER, SEED)
        self.cable.set(delay=0, loss=0, reorder=0, cut=0)
        return self.cable

    def need_guest(self):
        cable = self.need()
        if self.guest is None:
            self.guest = moving.Guest(TRAPEZE, initrd(), NET)
            self.guest.boot()
        return cable, self.guest

    def end(self):
        if self.guest is not None:
            self.guest.worker.end()
        if self.cable is not None:
            self.cable.end()


WORLDS = Worlds()


def initrd():
    return witness.initramfs(WITNESS, TRAPEZE, machine.scratch("initrd"))


def handover(guest, there, cable, disks, streams=3, **options):
    return Handover(guest.worker.control, there.control, streams,
                    {"disks": [disks], "rounds": 4, "last-resort": "stop", **options}, cable.connect)


def test_a_link_that_loses_and_reorders():
    """... one frame in twenty, and every tenth is overtaken."""
    cable, guest = WORLDS.need_guest()
    before = cable.set(delay=500, loss=50, reorder=100)
    for turn in range(20 if machine.FULL else 1):
        disks = ("copy", "shared")[turn % 2]
        there = guest.target(disks)
        with handover(guest, there, cable, disks, 4, compress=True) as way:
            way.commit()
            moved, _ = moving.judge(guest, there, way)
            assert moved
        guest.lives()
    after = cable.set()
    assert after["lost"] - before["lost"] > 20 and after["overtaken"] - before["overtaken"] > 50, after


def test_what_a_long_way_costs():
    """The downtime that is told has the journeys in it that standing still takes, and is no more than what is
    seen from outside."""
    cable, guest = WORLDS.need_guest()
    cable.set(delay=DELAY_US)
    there = guest.target()
    guest.lives()
    with handover(guest, there, cable, "shared") as way:
        way.commit()
        told = way.progress[-1]["downtime-ns"]
        moved, _ = moving.judge(guest, there, way)
        assert moved
    guest.lives()
    # That the last round and the state are loaded, and that it runs: to and fro each.
    assert told >= 4 * DELAY_US * 1000, told
    assert all(said["downtime-ns"] == 0 for said in way.progress if said["stage-number"] < 5), way.progress
    assert 0 < way.progress[-1]["rate"] < 10 << 30, way.progress[-1]


def test_a_link_that_breaks():
    """In any of the stages that take their time: it goes on here, or it stands still until it is known."""
    cable, guest = WORLDS.need_guest()
    outcomes = {}
    for turn in range(40 if machine.FULL else 2):
        stage = 2 + turn % 4 if machine.FULL else 4 + turn
        disks = CHOICE.choice(["shared", "copy"])
        there = guest.target(disks)
        with handover(guest, there, cable, disks, **{"patience-ns": SILENCE_NS}) as way:
            if stage < 4:
                moving.until(lambda: way.heard("source", 0.01) and
                             way.progress and way.progress[-1]["stage-number"] >= stage, way.said)
                time.sleep(CHOICE.random() * 0.1)
            elif way.wait("source", "commit?", "failed")["event"] == "failed":
                stage = 3  # a host that is busy is taken for silent
            if stage == 5:
                way.say("source", "commit")
            cable.set(cut=1)
            if stage == 4:
                way.say("source", "commit")

            def settled():
                event = way.heard("source", 0.01)
                if event == "commit?":
                    way.say("source", "commit")
                return way.over("source") and there.state() != "moving" and guest.worker.state() != "moving"
            moving.until(settled, lambda: (guest.worker.state(), there.state(), way.said))
            moved, _ = moving.judge(guest, there, way)
        cable.set(cut=0)
        guest.lives()
        what = (moving.STAGES[stage], way.said["source"][-1]["event"], moved)
        outcomes[what] = outcomes.get(what, 0) + 1
        if stage == 4:  # "go" never came
            assert what[1:] == ("uncertain", False), (what, way.said)
    print(f"# {outcomes}", flush=True)


# ---- daemons, over TLS ----

class Host:
    """A daemon that lives in one of the namespaces; the first one's listens to nobody."""

    def __init__(self, number, space):
        self.client = Client(TRAPEZE, machine.scratch(f"store-{number}"))
        self.log = open(machine.scratch(f"daemon-{number}"), "w+", encoding="utf-8")
        listens = ["--listen", f"tcp:{moving.Cable.ADDRESSES[number]}:0", "--certificate", machine.scratch("there.pem"),
                   "--key", machine.scratch("there.key"), "--client-ca", machine.scratch("ours.pem"),
                   "--accept-migrations"]
        self.process = subprocess.Popen(
            space.command(TRAPEZE, "daemon", "--verbose", "--store", self.client.store, *listens), stderr=self.log,
            stdin=subprocess.DEVNULL)
        moving.until(lambda: self.port() or self.process.poll() is not None, self.said)
        self.url = f"https://{moving.Cable.ADDRESSES[number]}:{self.port()}"

    def said(self):
        with open(self.log.name, encoding="utf-8") as file:
            return file.read()

    def port(self):
        found = re.search(r"listening at \S+, port (\d+)", self.said())
        return found and found.group(1)

    def end(self):
        self.client.end()
        self.process.wait(timeout=machine.LIMIT_S)
        self.log.close()


class Instance:
    """The verifying guest as an instance "web" of either daemon; its disk is one that both see."""

    def __init__(self, client, dirty):
        self.disk = machine.scratch("instance.raw")
        with open(self.disk, "wb") as file:
            file.truncate(moving.DISK)
        client.trapeze("create", "web", "-m", "96", *witness.linux(
            initrd(), TRAPEZE, "tick=20", "set=8", f"dirty={dirty}", "check=500", "disk=/dev/vda", "rate=50",
            f"slots={moving.SLOTS}"), "--disk", f"{self.disk},format=raw", "--net", "none")
        path = f"{client.store}/instances/web/web.vmx"  # what 'ssh' needs there is no word of the guest's
        with open(path, encoding="utf-8") as file:
            text = [line for line in file if "vsock" not in line]
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(text)
        client.trapeze("start", "web")
        self.ticks = self.records = 0
        self.lives(client)

    def log(self, client):
        text = client.trapeze("logs", "web").stdout
        assert "witness-failed" not in text, text[-500:]
        return text

    def lines(self, client, word):
        numbers = [int(line.split()[1]) for line in self.log(client).splitlines()[1:-1]
                   if re.fullmatch(word + r" \d+", line)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True, numbers
        return numbers

    def lives(self, client):
        """Its ticks and records go on where they were."""
        def goes_on():
            ticks, records = self.lines(client, "t"), self.lines(client, "d")
            return len(ticks) > 20 and ticks[-1] > self.ticks + 20 and records and records[-1] > self.records + 5
        moving.until(goes_on, lambda: self.log(client)[-500:], pause=0.1)
        self.ticks, self.records = self.lines(client, "t")[-1], self.lines(client, "d")[-1]


def test_daemons_over_tls():
    """A guest that writes faster than the link carries comes through with --auto-converge and --compress, and
    while the link loses and reorders; one that is broken for a while only delays it."""
    cable = WORLDS.need()
    keys.make_authority(machine.FOLDER.name, "ours")
    keys.make_certificate(machine.FOLDER.name, "there", "ours",
                          "subjectAltName=" + ",".join(f"IP:{address}" for address in cable.ADDRESSES),
                          "extendedKeyUsage=serverAuth")
    keys.make_certificate(machine.FOLDER.name, "mover", "ours", "extendedKeyUsage=clientAuth")
    shown = ["--ca", machine.scratch("ours.pem"), "--certificate", machine.scratch("mover.pem"), "--key",
             machine.scratch("mover.key")]
    hosts = [Host(number, space) for number, space in enumerate(cable.spaces)]
    try:
        instance = Instance(hosts[0].client, dirty=40)
        bad = [("24mbit", {}, ["--auto-converge", "--compress", "--downtime", "100ms"], 0)]
        if machine.FULL:
            bad += [("24mbit", {}, ["--auto-converge", "--downtime", "300ms"], 0),
                    ("100mbit", {"loss": 50, "reorder": 100, "delay": 500},
                     ["--compress", "--connections", "4", "--auto-converge", "--downtime", "1s"], 0),
                    ("100mbit", {"delay": 1000}, ["--bandwidth", "4M", "--compress", "--auto-converge",
                                                  "--downtime", "300ms"], 5)]
        for turn, (rate, values, options, broken_s) in enumerate(bad):
            source, target = hosts[turn % 2], hosts[(turn + 1) % 2]
            cable.rate(rate)
            cable.set(**{"delay": 0, "loss": 0, "reorder": 0, **values})
            process = subprocess.Popen([TRAPEZE, "migrate", "web", target.url, *shown, *options],
                                       env={**os.environ, "TRAPEZE_HOME": source.client.store},
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       text=True)
            if broken_s:
                time.sleep(1)
                cable.set(cut=1)
                time.sleep(broken_s)
                cable.set(cut=0)
            out, errors = process.communicate(timeout=machine.LIMIT_S)
            assert out == f"web: moved to {target.url}\n", (out, errors, source.said()[-2000:], target.said()[-2000:])
            instance.lives(target.client)
        target.client.trapeze("stop", "--force", "web")
        witness.check_disk(instance.disk, instance.records, moving.SLOTS)
    finally:
        cable.rate("10gbit")
        for host in hosts:
            host.end()


if __name__ == "__main__":
    print(f"# TRAPEZE_SEED={SEED}", flush=True)
    machine.image("tiny", TRAPEZE)  # as who we are
    NET = moving.network()
    try:
        status = tap.main([test_a_link_that_loses_and_reorders, test_what_a_long_way_costs, test_a_link_that_breaks,
                           test_daemons_over_tls])
    finally:
        WORLDS.end()
    sys.exit(status)
