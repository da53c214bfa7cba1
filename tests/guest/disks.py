#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every kind of disk under a Linux guest; qemu-img and nbdkit where they are installed.

    disks.py TRAPEZE
"""
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import tap
from machine import LIMIT_S, Machine, image, scratch
from namespace import in_namespace

TRAPEZE = sys.argv[1]
TINY = image("tiny", TRAPEZE)
LINUX = ["--kernel", TINY + "/Image", "--initrd", TINY + "/initrd", "--memory", "128M"]
SIZE = 12 << 20
# Writes in pieces of all sizes, in no order, flushed at times, some discarded.
LOAD = ("for i in 7 3 5 0 2; do dd if=/dev/urandom of=/dev/{0} bs=65536 seek=$((i*20)) count=7 "
        "conv=notrunc 2>/dev/null; dd if=/dev/urandom of=/dev/{0} bs=512 seek=$((i*2973+11)) "
        "count=201 conv=notrunc,fsync 2>/dev/null; done; sync")


def trapeze(*arguments, status=0):
    done = subprocess.run([TRAPEZE, *arguments], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=False)
    assert done.returncode == status, (arguments, done)
    return done


def need(program):
    if shutil.which(program) is None:
        raise tap.Skip(f"{program} is not installed")


def content(path, *options):
    """The sum of a disk's bytes, read by qemu-img where it is there, else by us."""
    raw = scratch("content.raw")
    trapeze("disk", "convert", "--force", "--format", "raw", *options, path, raw)
    with open(raw, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def sum_inside(machine, disk="vda"):
    machine.run("echo 3 > /proc/sys/vm/drop_caches")
    found = re.search(r"\b[0-9a-f]{64}\b", machine.run(f"sha256sum < /dev/{disk}"))
    return found.group(0)


def load(*disks):
    """The guest writes on every disk, reads it back, and sees the same in its next life; the sums."""
    names = ["vd" + chr(ord("a") + index) for index in range(len(disks))]
    with Machine(TRAPEZE, *LINUX, "--cpus", "2",
                 *(word for disk in disks for word in ("--disk", disk))) as machine:
        machine.shell()
        for name in names:
            assert machine.run(f"cat /sys/block/{name}/size").strip() == str(SIZE // 512)
            machine.run(LOAD.format(name))
        before = [sum_inside(machine, name) for name in names]
        machine.poweroff()
    assert len(set(before)) == len(disks)
    with Machine(TRAPEZE, *LINUX,
                 *(word for disk in disks for word in ("--disk", disk + ",readonly"))) as machine:
        machine.shell()
        assert [sum_inside(machine, name) for name in names] == before
        machine.poweroff()
    return before


def checked(path):
    trapeze("disk", "check", path)
    if shutil.which("qemu-img") is not None:
        subprocess.run(["qemu-img", "check", "-f", "qcow2", path], check=True,
                       stdout=subprocess.DEVNULL)


def test_every_format_keeps_what_the_guest_wrote():
    names = ("raw", "fixed", "qcow2")
    for name in names:
        trapeze("disk", "create", "--format", name, scratch("disk." + name), "12M")
    sums = load(*(scratch("disk." + name) + ",format=" + name for name in names))
    for name, written in zip(names, sums):
        path = scratch("disk." + name)
        assert content(path, "--from", name) == written, name
        if name == "qcow2":
            checked(path)
        else:
            assert os.path.getsize(path) == SIZE


def test_small_and_large_clusters():
    paths = [scratch(f"cluster-{cluster}.qcow2") for cluster in ("512", "2M")]
    for cluster, path in zip(("512", "2M"), paths):
        trapeze("disk", "create", "--cluster-size", cluster, path, "12M")
    for path, written in zip(paths, load(*paths)):
        assert content(path) == written
        checked(path)


def test_without_the_hosts_cache_and_without_flushes():
    kinds = [(cache, name) for cache in ("none", "unsafe") for name in ("raw", "qcow2")]
    paths = [scratch(f"{cache}.{name}") for cache, name in kinds]
    for (_, name), path in zip(kinds, paths):
        trapeze("disk", "create", "--format", name, path, "12M")
    sums = load(*(f"{path},format={name},cache={cache}"
                  for (cache, name), path in zip(kinds, paths)))
    for (_, name), path, written in zip(kinds, paths, sums):
        assert content(path, "--from", name) == written
        if name == "qcow2":
            checked(path)


def test_a_layer_leaves_what_is_below_alone():
    base, layer = scratch("base.raw"), scratch("layer.qcow2")
    with open(base, "wb") as out:
        out.write(os.urandom(SIZE))
    before = content(base, "--from", "raw")
    trapeze("disk", "create", "--backing", "base.raw", "--backing-format", "raw", layer)
    [written] = load(f"{layer},format=qcow2")
    assert written != before and content(base, "--from", "raw") == before
    assert content(layer, "--from", "qcow2") == written
    checked(layer)
    trapeze("disk", "commit", layer)
    assert content(base, "--from", "raw") == written
    assert content(layer, "--from", "qcow2") == written
    checked(layer)


def test_discards_give_space_back():
    path = scratch("discard.qcow2")
    trapeze("disk", "create", path, "12M")
    with Machine(TRAPEZE, *LINUX, "--disk", path) as machine:
        machine.shell()
        machine.run("dd if=/dev/urandom of=/dev/vda bs=1M count=10 conv=fsync 2>/dev/null")
        assert os.stat(path).st_blocks * 512 >= 10 << 20
        assert int(machine.run("cat /sys/block/vda/queue/discard_max_bytes")) > 0
        assert int(machine.run("cat /sys/block/vda/queue/write_zeroes_max_bytes")) > 0
        machine.run("blkdiscard /dev/vda")
        assert os.stat(path).st_blocks * 512 < 1 << 20
        assert int(machine.run("tr -d '\\0' < /dev/vda | wc -c")) == 0
        machine.poweroff()
    checked(path)


def test_limits_hold():
    path = scratch("limits.img")
    trapeze("disk", "create", "--format", "raw", path, "12M")
    with Machine(TRAPEZE, *LINUX, "--disk", f"{path},format=raw,bps=2M") as machine:
        machine.shell()
        start = time.monotonic()
        machine.run("dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null || "
                    "dd if=/dev/vda of=/dev/null bs=1M count=8 2>/dev/null")
        # 8 MiB at 2 MiB/s, less the burst: a machine that is slow besides only takes longer.
        assert time.monotonic() - start > 3
        machine.poweroff()


def test_limits_change_while_the_machine_runs():
    path = scratch("live.img")
    trapeze("disk", "create", "--format", "raw", path, "12M")
    read = "dd if=/dev/vda of=/dev/null bs=64k count=%d 2>/dev/null"
    with Machine(TRAPEZE, *LINUX, "--disk", f"{path},format=raw,iops=5000") as machine:
        def timed(count):
            machine.run("echo 3 > /proc/sys/vm/drop_caches")
            start = time.monotonic()
            machine.run(read % count)
            return time.monotonic() - start
        machine.shell()
        assert machine.verb("limit", "disk=0") == {"iops": 5000, "bps": 0}
        assert machine.verb("limit", "disk=0", "bps=1M") == {"iops": 5000, "bps": 1 << 20}
        assert timed(64) > 3  # 4 MiB
        assert machine.verb("limit", "iops=4", "bps=0") == {"iops": 4, "bps": 0}
        assert timed(16) > 1  # read ahead of 128 KiB: 8 requests or more
        # What waits when a limit is lifted waits no longer: at 1 byte/s it would for ever.
        machine.run("echo 3 > /proc/sys/vm/drop_caches")
        machine.verb("limit", "iops=0", "bps=1")
        machine.send(read % 160 + "; echo read'=it'\n")
        time.sleep(1)
        assert b"read=it" not in machine.log
        machine.verb("limit", "bps=0")
        machine.expect(rb"read=it")
        machine.shell()
        for arguments, words in ((("disk=1",), "no disk 1"), (("disk=-1",), "number of a disk"),
                                 (("bps=fast",), "0 for no limit"), (("iops=-4",), "0 for no")):
            done = trapeze("control", machine.control, "limit", *arguments, status=121)
            assert words in done.stderr, done
        machine.poweroff()


@contextlib.contextmanager
def nbd_server(*arguments):
    need("nbdkit")
    socket = scratch(f"{time.monotonic_ns()}.nbd")
    command = ["nbdkit", "--foreground", "--unix", socket, *arguments]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not os.path.exists(socket):
        assert server.poll() is None, command
        time.sleep(0.01)
    try:
        yield f"nbd+unix:///?socket={socket}", server, command
    finally:
        server.kill()
        server.wait()


def test_a_disk_on_an_nbd_server():
    path = scratch("nbd.img")
    with open(path, "wb") as out:
        out.truncate(SIZE)
    with nbd_server("file", path, "--filter=delay", "delay-read=1ms", "delay-write=2ms") as (uri, *_):
        [written] = load(f"{uri},format=raw")
    assert content(path, "--from", "raw") == written


def test_a_server_that_goes_is_waited_for():
    path = scratch("nbd-gone.img")
    with open(path, "wb") as out:
        out.truncate(SIZE)
    with nbd_server("file", path) as (uri, server, command):
        with Machine(TRAPEZE, *LINUX, "--disk", f"{uri},format=raw") as machine:
            machine.shell()
            machine.send(LOAD.format("vda") + "; echo load'=done'\n")
            time.sleep(1)
            server.kill()
            server.wait()
            os.unlink(command[3])
            time.sleep(1)
            again = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                machine.expect(rb"load=done")
                machine.shell()
                assert "I/O error" not in machine.run("dmesg")
                written = sum_inside(machine)
                machine.poweroff()
            finally:
                again.kill()
                again.wait()
    assert content(path, "--from", "raw") == written


def test_a_server_that_stays_away_is_an_error():
    path = scratch("nbd-away.img")
    with open(path, "wb") as out:
        out.truncate(SIZE)
    with nbd_server("file", path) as (uri, server, _):
        with Machine(TRAPEZE, *LINUX, "--disk", f"{uri},format=raw,reconnect=0") as machine:
            machine.shell()
            server.kill()
            server.wait()
            machine.run("! dd if=/dev/vda of=/dev/null bs=4096 count=1 2>/dev/null")
            assert "I/O error" in machine.run("dmesg")
            machine.poweroff()


def wait_for_state(machine, wanted):
    end = time.monotonic() + LIMIT_S
    while machine.verb("status")["state"] != wanted:
        assert time.monotonic() < end, wanted
        time.sleep(0.05)


def full_disk(policy, check):
    path, trigger = scratch("full.img"), scratch("full.trigger")
    with open(path, "wb") as out:
        out.truncate(SIZE)
    with nbd_server("file", path, "--filter=error", "error-pwrite=ENOSPC", "error-pwrite-rate=100%",
                    f"error-pwrite-file={trigger}") as (uri, *_):
        with Machine(TRAPEZE, *LINUX, "--disk", f"{uri},format=raw{policy}") as machine:
            machine.shell()
            check(machine, trigger)
            machine.poweroff()
    return path


def test_a_full_host_pauses_the_machine_and_nothing_is_lost():
    sums = []

    def check(machine, trigger):
        machine.run("head -c 1000000 /dev/urandom > /tmp/data")
        with open(trigger, "wb"):
            pass
        machine.send("dd if=/tmp/data of=/dev/vda bs=4096 conv=fsync; echo copied'='$?\n")
        wait_for_state(machine, "paused")
        os.unlink(trigger)
        machine.verb("resume")
        machine.expect(rb"copied=0")
        machine.shell()
        sums.append(machine.run("sha256sum < /tmp/data").split()[0])
        assert "I/O error" not in machine.run("dmesg")
    path = full_disk("", check)
    with open(path, "rb") as file:
        assert hashlib.sha256(file.read(1000000)).hexdigest() == sums[0]


def test_or_the_guest_is_told():
    def check(machine, trigger):
        with open(trigger, "wb"):
            pass
        machine.run("! dd if=/dev/zero of=/dev/vda bs=4096 count=10 conv=fsync 2>/dev/null")
        assert "I/O error" in machine.run("dmesg")
        os.unlink(trigger)
    full_disk(",werror=report", check)


def test_a_paused_disk_does_not_hinder_a_reset_or_the_end():
    def check(machine, trigger):
        for verb in ("reset", None):
            with open(trigger, "wb"):
                pass
            machine.send("dd if=/dev/urandom of=/dev/vda bs=4096 count=100 conv=fsync\n")
            wait_for_state(machine, "paused")
            os.unlink(trigger)
            if verb is not None:
                machine.verb(verb)
            machine.verb("resume")
            machine.shell()
    full_disk("", check)


def fill_the_host(name):
    """A file system that is too small, then is not."""
    folder = scratch("host-" + name)
    os.mkdir(folder)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5M", "none", folder], check=False)
    if done.returncode != 0:
        os._exit(77)
    path = os.path.join(folder, "disk")
    trapeze("disk", "create", "--format", name, path, "12M")
    with Machine(TRAPEZE, *LINUX, "--disk", f"{path},format={name}") as machine:
        machine.shell()
        machine.run("head -c 9000000 /dev/urandom > /tmp/data")
        machine.send("dd if=/tmp/data of=/dev/vda bs=65536 conv=fsync; echo copied'='$?\n")
        wait_for_state(machine, "paused")
        for _ in range(3):  # in vain
            machine.verb("resume")
            wait_for_state(machine, "paused")
        assert os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize < 1 << 20
        assert b"copied=" not in machine.log
        subprocess.run(["mount", "-o", "remount,size=32M", folder], check=True)
        machine.verb("resume")
        machine.expect(rb"copied=0")
        machine.shell()
        wanted = machine.run("sha256sum < /tmp/data").split()[0]
        assert "I/O error" not in machine.run("dmesg")
        machine.poweroff()
    raw = scratch("filled.raw")
    if name == "qcow2":
        checked(path)
    trapeze("disk", "convert", "--force", "--from", name, "--format", "raw", path, raw)
    with open(raw, "rb") as file:
        assert hashlib.sha256(file.read(9000000)).hexdigest() == wanted
    # The guest is told, if that is wanted, and goes on living.
    subprocess.run(["umount", folder], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5M", "none", folder], check=True)
    trapeze("disk", "create", "--format", name, path, "12M")
    with Machine(TRAPEZE, *LINUX, "--disk", f"{path},format={name},werror=report") as machine:
        machine.shell()
        machine.run("! dd if=/dev/urandom of=/dev/vda bs=65536 count=150 conv=fsync 2>/dev/null")
        assert "I/O error" in machine.run("dmesg")
        machine.poweroff()
    if name == "qcow2":
        checked(path)


def test_a_file_system_of_the_host_that_is_full():
    for name in ("raw", "qcow2"):
        in_namespace(lambda name=name: fill_the_host(name))


def test_disks_that_cannot_be_used_get_a_sentence():
    broken, foreign = scratch("broken.qcow2"), scratch("foreign.img")
    with open(broken, "wb") as out:
        out.write(b"QFI\xfb" + b"\xff" * 508)
    with open(foreign, "wb") as out:
        out.write(b"KDMV".ljust(1 << 20, b"\0"))
    layer, gone = scratch("orphan.qcow2"), scratch("gone.raw")
    with open(gone, "wb") as out:
        out.truncate(1 << 20)
    trapeze("disk", "create", "--backing", gone, "--backing-format", "raw", layer)
    os.unlink(gone)
    for disk, words in ((f"{broken},format=qcow2", "version"), (foreign, "begins like a VMDK"),
                        (f"{layer},format=qcow2", "gone.raw"), (layer, "format=qcow2"),
                        (f"{foreign},format=qcow2", "no qcow2 image"),
                        (f"{foreign},format=zip", "no disk format"),
                        (f"{foreign},cache=fast", "cache cannot be"),
                        (f"{foreign},chache=none", "Did you mean cache="),
                        ("nbd+unix:///?socket=/nonexistent", "cannot connect")):
        done = subprocess.run([TRAPEZE, "run", *LINUX, "--disk", disk], capture_output=True,
                              text=True, stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=False)
        assert done.returncode in (120, 121) and words in done.stderr, (disk, done)
        assert done.stderr.count("\n") == 1, done.stderr


def test_a_qcow2_disk_in_use_is_refused():
    path = scratch("used.qcow2")
    trapeze("disk", "create", path, "12M")
    with Machine(TRAPEZE, *LINUX, "--disk", path) as machine:
        machine.shell()
        for command in (["run", *LINUX, "--disk", path], ["disk", "check", path],
                        ["disk", "resize", path, "1G"], ["disk", "create", "--force", path, "1G"]):
            assert "probably a running VM" in trapeze(*command, status=121).stderr, command
        assert json.loads(trapeze("disk", "info", "--json", path).stdout)["format"] == "qcow2"
        machine.poweroff()
    checked(path)


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
