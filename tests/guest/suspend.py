#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Machines that are suspended and go on: of `trapeze run`, and instances.

    suspend.py TRAPEZE LOOP_ELF

Where a machine may be suspended, and what it does then, is vm_suspend's to test, instruction by
instruction; here a Linux goes on, with its disks, by the commands that people use.
"""
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import machine
import tap
from daemon_client import Client, until

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
USAGE, HOST = 120, 121
client = Client(TRAPEZE, machine.scratch("store"))


def command(*arguments, status=0, **options):
    done = subprocess.run([TRAPEZE, *arguments], capture_output=True, text=True, check=False,
                          timeout=machine.LIMIT_S, stdin=subprocess.DEVNULL, **options)
    assert done.returncode == status, done
    return done


def suspend(guest, file, *options):
    command("suspend", *options, guest.control, file)
    said = guest.finish()
    assert "was suspended" in said, said


def resume(file, *options):
    return machine.Machine(TRAPEZE, "--resume", file, *options)


def disk(name, size="64M"):
    path = machine.scratch(name)
    command("disk", "create", path, size)
    return path


def linux(*options):
    guest = machine.Machine(TRAPEZE, "--image", "tiny", "-m", "128", *options)
    guest.shell()
    return guest


def refuses_nbd(guest):
    """libnbd is loaded at a start, and one that goes on without such disks spares that."""
    place = machine.scratch("nbd.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        attach = [TRAPEZE, "disk", "attach", f"nbd+unix:///?socket={place},format=raw", guest.control]
        with subprocess.Popen(attach, stderr=subprocess.PIPE, text=True) as asker:
            with listener.accept()[0] as server:
                server.sendall(b"NBDMAGICIHAVEOPT\0\3")
                said = asker.communicate(timeout=machine.LIMIT_S)[1]
            assert asker.returncode in (USAGE, HOST) and "before it is started anew" in said, said
    os.unlink(place)


def goes_on(engines, kinds):
    """What is in memory, in the page cache and on the disk is there again; so are processes."""
    path = disk("data.qcow2")
    file = machine.scratch("linux.saved")
    with linux("--engine", engines[0], "--disk", path + ",format=qcow2") as guest:
        guest.run("dd if=/dev/urandom of=/dev/shm/a bs=1M count=16 2>/dev/null || "
                  "dd if=/dev/urandom of=/a bs=1M count=16")
        guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=8")
        sums = guest.run("md5sum /dev/shm/a /a 2>/dev/null; md5sum /dev/vda; true")
        guest.run("(i=0; while true; do i=$((i+1)); echo $i > /count; sleep 0.1; done) & true")
        guest.run("sync")
        before = int(guest.run("cat /proc/uptime").split(".")[0])
        suspend(guest, file, *kinds[0])
    for i, kind in enumerate(kinds[1:] + [[]]):
        with resume(file, "--engine", engines[(i + 1) % len(engines)]) as guest:
            guest.send("\n")
            guest.shell()
            assert guest.run("md5sum /dev/shm/a /a 2>/dev/null; md5sum /dev/vda; true") == sums
            count = int(guest.run("cat /count") or 0)
            guest.run("sleep 1")
            assert int(guest.run("cat /count")) > count  # it runs
            assert int(guest.run("cat /proc/uptime").split(".")[0]) < before + 600
            if i == 0:
                refuses_nbd(guest)
            if i < len(kinds) - 1:
                guest.run(f"echo {i} > /dev/vda; sync")
                sums = guest.run("md5sum /dev/shm/a /a 2>/dev/null; md5sum /dev/vda; true")
                suspend(guest, file, *kind)
            else:
                guest.poweroff()
    os.unlink(path)


def test_a_linux_goes_on():
    goes_on(["auto", "interp"] if machine.FULL else ["auto"], [[], ["--compress"]])


def test_a_connection_goes_on_elsewhere():
    """TCP between two guests, of which one goes on in another process; the network hears of it."""
    net = ["--net", f"internal:move-{os.getpid()}"]
    capture, file = machine.scratch("move.pcapng"), machine.scratch("move.saved")

    def on_network(number, *options):
        guest = linux(*net, *options)
        guest.run("ip link set lo up; ip link set eth0 up; "
                  f"ip addr add 192.168.7.{number}/24 dev eth0")
        return guest

    with on_network(1, "--capture", capture) as one:
        with on_network(2) as two:
            two.run("mkfifo /f; (nc -l -p 9 <> /f | md5sum > /sum; echo > /done) & sleep 1")
            one.run("dd if=/dev/urandom of=/x bs=64k count=60 2>/dev/null; (for i in $(seq 0 59); do "
                    "dd if=/x bs=64k skip=$i count=1 2>/dev/null; sleep 0.1; done | "
                    "nc 192.168.7.2 9; echo > /sent) & true")
            two.run("until [ $(cat /sys/class/net/eth0/statistics/rx_bytes) -gt 300000 ]; do "
                    "sleep 0.1; done")
            suspend(two, file)
        with resume(file) as two:
            two.send("\n")
            two.shell()
            wanted = one.run("until [ -e /sent ]; do sleep 0.2; done; md5sum < /x").split()[0]
            assert wanted in two.run("until [ -e /done ]; do sleep 0.2; done; cat /sum")
            two.poweroff()
        one.poweroff()
    with open(capture, "rb") as frames:
        seen = frames.read()
    # RARP by us, and gratuitous ARP by the guest, which virtio asked for it.
    rarp = re.findall(rb"\xff{6}(.{6})\x80\x35\x00\x01\x08\x00\x06\x04\x00\x03(.{6})", seen, re.DOTALL)
    assert rarp and all(mac == sender for mac, sender in rarp), rarp
    arp = re.findall(rb"\xff{6}(.{6})\x08\x06\x00\x01\x08\x00\x06\x04\x00[\x01\x02].{6}\xc0\xa8\x07\x02"
                     rb".{6}\xc0\xa8\x07\x02", seen, re.DOTALL)
    assert rarp[0][0] in arp, (rarp, arp)


def test_hardware_is_as_the_guest_left_it():
    """A hart that it has switched off and memory that it has given up stay so, and both come back."""
    file, given = machine.scratch("hardware.saved"), 40 << 20
    balloon, online = "balloon", "cat /sys/devices/system/cpu/online"
    with linux("--cpus", "2", "--balloon") as guest:
        guest.run("echo 0 > /sys/devices/system/cpu/cpu1/online")
        guest.verb(balloon, "size=88M")
        until(lambda: guest.verb(balloon)["given-up"] == given)
        suspend(guest, file)
    for last in (False, True):
        with resume(file) as guest:
            guest.send("\n")
            guest.shell()
            assert guest.run(online).strip() == ("0-1" if last else "0")
            assert guest.verb(balloon)["given-up"] == given
            if last:
                guest.verb(balloon, "size=128M")
                until(lambda: guest.verb(balloon)["given-up"] == 0)
                guest.run("echo 0 > /sys/devices/system/cpu/cpu1/online")
                assert guest.run(online).strip() == "0"
                guest.poweroff()
            else:
                guest.run("echo 1 > /sys/devices/system/cpu/cpu1/online")
                assert guest.run(online).strip() == "0-1"
                suspend(guest, file)


def test_the_clock_is_put_forward():
    file = machine.scratch("clock.saved")
    with linux() as guest:
        suspend(guest, file)
    time.sleep(3)
    with resume(file) as guest:
        guest.send("\n")
        guest.shell()
        rtc = guest.run("cat /sys/class/rtc/rtc0/since_epoch")
        assert abs(int(rtc) - time.time()) < 60, (rtc, time.time())
        guest.poweroff()


def test_a_disk_that_changed_is_refused():
    path, file = disk("changed.img"), machine.scratch("changed.saved")
    with linux("--disk", path + ",format=raw") as guest:
        suspend(guest, file)
    with open(path, "r+b") as image:
        image.write(b"somebody else")
    said = command("run", "--resume", file, status=USAGE).stderr
    assert "disk 0 is not as it was" in said and "--force" in said, said
    with resume(file, "--force") as guest:
        guest.send("\n")
        guest.shell()
        guest.poweroff()


def test_what_cannot_be_suspended():
    with linux("--disk", disk("a.img") + ",format=raw,bus=scsi") as guest:
        said = command("suspend", guest.control, "/nowhere/no.saved", status=HOST).stderr
        assert "No such file" in said, said
        assert guest.verb("status")["state"] == "running"
        guest.run("true")
        command("suspend", guest.control, status=USAGE)


def test_damage_is_a_sentence():
    file = machine.scratch("damaged.saved")
    with linux() as guest:
        suspend(guest, file)
    good = open(file, "rb").read()
    for at, says in ((100, "checksum"), (4096 + (1 << 20), "damaged")):
        bad = bytearray(good)
        while at > 4096 and bad[at] == 0:
            at += 1
        bad[at] ^= 1
        open(file, "wb").write(bad)
        said = command("run", "--resume", file, status=HOST).stderr
        assert says in said, said
    open(file, "wb").write(good[:-1])
    assert "cut off" in command("run", "--resume", file, status=HOST).stderr


def test_a_client_that_is_killed_leaves_the_machine():
    """Wherever it is: the machine runs on, or is whole in its file."""
    rounds = 40 if machine.FULL else 6
    file = machine.scratch("killed.saved")
    guest = linux()
    random.seed(1)
    for _ in range(rounds):
        asking = subprocess.Popen([TRAPEZE, "suspend", guest.control, file],
                                  stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(0, 0.4))
        asking.kill()
        asking.wait()
        if guest.process.poll() is None:
            try:
                until(lambda g=guest: json.loads(subprocess.run(
                    [TRAPEZE, "control", g.control, "status"], capture_output=True, text=True,
                    check=True).stdout)["state"] == "running")
            except subprocess.CalledProcessError:
                pass  # it ended just now
            else:
                guest.run("true")
                continue
        guest.finish()
        guest.__exit__()
        guest = resume(file)
        guest.send("\n")
        guest.shell()
    guest.__exit__()


# ---- instances ----

def test_an_instance():
    client.trapeze("create", "web", "--firmware", LOOP_ELF, "-m", "64", "--start")
    folder = os.path.join(machine.scratch("store"), "instances", "web")
    before = int(json.loads(client.trapeze("control", os.path.join(folder, "control.sock"),
                                           "status").stdout)["instructions"])
    assert "web: suspended" in client.trapeze("suspend", "web").stdout
    assert client.info("web")["state"] == "suspended"
    assert os.path.exists(os.path.join(folder, "suspended.vmss"))
    client.refuses(USAGE, "suspended", arguments=["clone", "web", "copy"])
    client.api("POST", "/v1/instances/web/suspend", {}, 409)
    client.trapeze("start", "web")
    assert client.info("web")["state"] == "running"
    until(lambda: not os.path.exists(os.path.join(folder, "suspended.vmss")))
    now = int(json.loads(client.trapeze("control", os.path.join(folder, "control.sock"),
                                        "status").stdout)["instructions"])
    assert now > before, (now, before)
    # Once more by HTTP, compressed; given up; and away with it.
    client.api("POST", "/v1/instances/web/suspend", {"compress": True}, 200)
    client.kill_daemon()
    assert client.info("web")["state"] == "suspended"
    client.trapeze("start", "--discard-suspended", "web")
    assert client.info("web")["state"] == "running"
    client.trapeze("suspend", "web")
    client.trapeze("delete", "web")
    assert not os.path.exists(folder)


def test_a_suspended_instance_travels():
    """With its memory, its disk, which becomes another file, and its clock; and goes on there."""
    def instructions(name):
        path = os.path.join(machine.scratch("store"), "instances", name, "control.sock")
        return int(json.loads(client.trapeze("control", path, "status").stdout)["instructions"])
    base, data = disk("base.img", "1M"), machine.scratch("top.qcow2")
    command("disk", "create", "--format", "qcow2", "--backing", base, "--backing-format",
            "raw", data)
    archive = machine.scratch("web.trapeze")
    client.trapeze("create", "web", "--firmware", LOOP_ELF, "-m", "64", "--disk",
                   data + ",format=qcow2", "--net", "nat")
    folder = os.path.join(machine.scratch("store"), "instances")
    with open(f"{folder}/web/web.nvram", "w", encoding="ascii") as file:
        file.write('trapeze.nvram = "1"\nrtc.offset = "-3600000000000"\n')
    client.trapeze("start", "web")
    client.trapeze("pause", "web")
    before = instructions("web")
    client.trapeze("suspend", "web")
    client.trapeze("export", "web", archive)
    assert client.info("web")["state"] == "suspended"
    done = client.trapeze("import", archive, "new")
    assert "it was suspended" in done.stderr and client.info("new")["state"] == "stopped", done
    client.trapeze("delete", "new")
    client.trapeze("import", "--keep-identity", archive, "far")
    with open(f"{folder}/far/far.nvram", encoding="ascii") as file:
        assert 'rtc.offset = "-3600000000000"' in file.read()
    with open(f"{folder}/far/suspended.vmss", "rb") as file:
        state = file.read()
    assert os.stat(f"{folder}/far/suspended.vmss").st_blocks * 512 < 8 << 20  # holes are holes
    client.trapeze("export", "far", machine.scratch("again.trapeze"))  # its disks are those it knows
    assert client.info("far")["state"] == "suspended"
    client.trapeze("start", "far")
    client.trapeze("resume", "far", status=None)  # it was paused
    until(lambda: instructions("far") > before)
    client.trapeze("suspend", "far")
    # Not with a disk that was written to.
    os.utime(data)
    client.refuses(USAGE, "not as it was", "--discard-suspended", arguments=["export", "web", archive + "2"])
    assert len(state) > 64 << 20 and not os.path.exists(archive + "2")
    for name in "web", "far":
        client.trapeze("delete", name)


def test_an_instance_whose_disks_came_and_went():
    """What was attached for good is there again; what is not in the description is not forgotten."""
    first, second, third = (disk(name) for name in ("p1.img", "p2.img", "p3.img"))
    client.trapeze("create", "plug", "--firmware", LOOP_ELF, "-m", "64", "--disk",
                   first + ",format=raw,bus=scsi", "--start")
    client.trapeze("disk", "attach", "plug", second + ",format=raw", "--live")
    client.refuses(USAGE, "2 disks", "--live", arguments=["suspend", "plug"])
    assert client.info("plug")["state"] == "running"
    client.trapeze("disk", "detach", "plug", "1", "--force", "--live")
    client.trapeze("disk", "attach", "plug", second + ",format=raw")
    client.trapeze("disk", "attach", "plug", third + ",format=raw")
    client.trapeze("disk", "detach", "plug", "0", "--force")
    client.trapeze("disk", "attach", "plug", first + ",format=raw")
    before = client.trapeze("disk", "list", "plug").stdout
    client.trapeze("suspend", "plug")
    client.trapeze("start", "plug")
    assert client.trapeze("disk", "list", "plug").stdout == before
    client.trapeze("snapshot", "create", "plug", "s")
    client.trapeze("disk", "detach", "plug", "1", "--force")
    client.trapeze("snapshot", "restore", "plug", "s")
    assert len(client.trapeze("disk", "list", "plug").stdout.splitlines()) == 3
    client.trapeze("stop", "--force", "plug")
    client.trapeze("snapshot", "delete", "plug", "s")
    client.trapeze("delete", "plug")


def test_a_damaged_state_keeps_the_instance():
    client.trapeze("create", "hurt", "--firmware", LOOP_ELF, "-m", "64", "--start")
    file = os.path.join(machine.scratch("store"), "instances", "hurt", "suspended.vmss")
    client.trapeze("suspend", "hurt")
    with open(file, "r+b") as state:
        state.seek(50)
        state.write(b"x")
    client.refuses(HOST, "checksum", "--discard-suspended", arguments=["start", "hurt"])
    assert client.info("hurt")["state"] == "suspended"
    client.trapeze("start", "--discard-suspended", "hurt")
    client.trapeze("stop", "--force", "hurt")
    client.trapeze("delete", "hurt")


def main():
    status = tap.main([test for name, test in list(globals().items()) if name.startswith("test_")])
    try:
        for row in client.list():  # of a test that has failed
            client.trapeze("stop", "--force", row["name"], status=None)
        client.kill_daemon(signal.SIGTERM)
    except OSError:
        pass
    return status


if __name__ == "__main__":
    sys.exit(main())
