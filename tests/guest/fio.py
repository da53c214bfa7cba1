#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""fio in Debian, which writes at random, flushes, and verifies every block, on every kind of disk.

    fio.py TRAPEZE

Needs the debian-dev image: in the quick tier only if that is there already; the full tier makes it.
"""
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time

os.environ.setdefault("TRAPEZE_TEST_LIMIT_S", "1800")
import tap  # noqa: E402
from machine import FULL, LIMIT_S, SOURCE, Debian, image, scratch  # noqa: E402

TRAPEZE = os.path.abspath(sys.argv[1])
SIZE, WRITTEN = ("96M", "128M") if FULL else ("24M", "8M")
# Sizes and places at random, discards and flushes in between; what is read back has to be right.
JOB = ("fio --name=job --filename=/dev/disk/by-id/virtio-{serial} --ioengine={engine} --direct=1 "
       "--rw=randwrite --bsrange=4k-128k --blockalign=4k --size={size} --io_size={written} "
       "--iodepth={depth} --fsync=32 --randseed={seed} --norandommap=0 --verify=crc32c "
       "--verify_fatal=1 --do_verify=1 --output-format=terse --output=/dev/null {more}")


def trapeze(*arguments):
    subprocess.run([TRAPEZE, *arguments], check=True, stdout=subprocess.DEVNULL,
                   stdin=subprocess.DEVNULL, timeout=LIMIT_S)


def boot(*options):
    if not FULL:
        builder = [os.path.join(SOURCE, "images", "build"), "path", "debian-dev"]
        if subprocess.run(builder, capture_output=True, check=False).returncode != 0:
            raise tap.Skip("there is no debian-dev image (the full tier makes it)")
    else:
        try:
            image("debian-dev", TRAPEZE)
        except subprocess.CalledProcessError as failure:
            if failure.returncode != 1:
                raise
            raise tap.Skip("the debian-dev image cannot be made: no archive of Debian?") \
                from failure
    return Debian(TRAPEZE, "--image", "debian-dev", "--cpus", "2", "--net", "none", *options)


def local_disks():
    """Every format, with and without the host's cache: serial number and --disk's value."""
    def make(name, *create):
        path = scratch(name)
        trapeze("disk", "create", *create, path, SIZE)
        return path
    make("below.qcow2", "--format", "qcow2")
    layer = scratch("layer.qcow2")
    trapeze("disk", "create", "--backing", "below.qcow2", "--backing-format", "qcow2", layer)
    disks = {"raw": make("raw", "--format", "raw") + ",format=raw",
             "fixed": make("fixed", "--format", "fixed") + ",format=fixed,cache=none",
             "qcow2": make("qcow2", "--format", "qcow2") + ",format=qcow2",
             "layer": layer + ",format=qcow2"}
    if FULL:
        disks["qcow2-none"] = make("none", "--format", "qcow2") + ",format=qcow2,cache=none"
        disks["qcow2-small"] = make("small", "--format", "qcow2", "--cluster-size", "4096") + \
            ",format=qcow2"
        disks["raw-limited"] = make("limited", "--format", "raw") + ",format=raw,iops=2000"
    return disks


def serve(stack, name, *arguments):
    """The socket of an nbdkit that serves a new file."""
    path, place = scratch(name + ".served"), scratch(name + ".nbd")
    with open(path, "wb") as out:
        out.truncate(int(SIZE[:-1]) << 20)
    server = subprocess.Popen(["nbdkit", "--foreground", "--unix", place, "file", path, *arguments],
                              stderr=subprocess.DEVNULL)
    stack.callback(lambda: (server.kill(), server.wait()))
    while not os.path.exists(place):
        assert server.poll() is None, arguments
        time.sleep(0.01)
    return place


def remote_disks(stack):
    keys = scratch("keys.psk")
    with open(keys, "w", encoding="ascii") as out:
        out.write(f"alice:{os.urandom(32).hex()}\n")
    plain, secure = "nbd+unix:///?socket=%s", "nbds+unix://alice@/?socket=%s&tls-psk-file=" + keys
    tls = ["--tls=require", "--tls-psk=" + keys]
    disks = {"nbd": plain % serve(stack, "plain"),
             "nbd-tls": secure % serve(stack, "tls", *tls),
             # The host's disk is full now and then: the machine stops, and is told to go on.
             "nbd-full": plain % serve(stack, "full", "--filter=error", "error-pwrite=ENOSPC",
                                       "error-pwrite-rate=" + ("2%" if FULL else "10%"))}
    if FULL:
        disks["nbd-slow"] = plain % serve(stack, "slow", "--filter=delay", "delay-read=1ms",
                                          "delay-write=2ms")
        disks["nbd-tls-slow"] = secure % serve(stack, "tls-slow", *tls, "--filter=delay",
                                               "delay-write=2ms")
    return {serial: uri + ",format=raw" for serial, uri in disks.items()}


def keep_going(machine, stop, resumed):
    """Says 'resume' whenever a disk has stopped the machine."""
    while not stop.wait(0.05):
        done = subprocess.run([TRAPEZE, "control", machine.control, "status"], check=False,
                              capture_output=True, text=True, timeout=LIMIT_S)
        if done.returncode == 0 and json.loads(done.stdout)["state"] == "paused":
            subprocess.run([TRAPEZE, "control", machine.control, "resume"], check=False,
                           capture_output=True, timeout=LIMIT_S)
            resumed.append(time.monotonic())


def verify(machine, serial):
    jobs = [("libaio", 16, 1)] if not FULL else [("libaio", 16, 1), ("io_uring", 4, 2),
                                                 ("psync", 1, 3)]
    for engine, depth, seed in jobs:
        # One deep is slow: less of it.
        written = WRITTEN if depth > 1 else "16M"
        machine.run(JOB.format(serial=serial, engine=engine, depth=depth, seed=seed, size=SIZE,
                               written=written, more=""))
    machine.run("echo 3 > /proc/sys/vm/drop_caches")
    assert "I/O error" not in machine.run("dmesg"), serial


def run_all(disks, resumes=()):
    options = []
    for serial, disk in disks.items():
        options += ["--disk", f"{disk},serial={serial}"]
    stop, resumed = threading.Event(), []
    with boot(*options) as machine:
        machine.login()
        if "none" in machine.run("command -v fio || echo none"):
            assert not FULL
            raise tap.Skip("the debian-dev image is an older one, without fio")
        helper = threading.Thread(target=keep_going, args=(machine, stop, resumed))
        helper.start()
        try:
            for serial in disks:
                before = len(resumed)
                verify(machine, serial)
                print(f"# {serial}: verified", flush=True)
                assert (len(resumed) > before) == (serial in resumes), (serial, resumed)
            machine.poweroff()
        finally:
            stop.set()
            helper.join()


def test_fio_verifies_every_format():
    disks = local_disks()
    run_all(disks)
    for serial, disk in disks.items():
        path, _, options = disk.partition(",")
        if "format=qcow2" not in options:
            continue
        trapeze("disk", "check", "--format", "qcow2", path)
        if shutil.which("qemu-img") is not None:
            subprocess.run(["qemu-img", "check", "-f", "qcow2", path], check=True,
                           stdout=subprocess.DEVNULL, timeout=LIMIT_S)
        print(f"# {serial}: checked", flush=True)


def test_fio_verifies_disks_on_servers():
    if shutil.which("nbdkit") is None:
        raise tap.Skip("nbdkit is not installed")
    with contextlib.ExitStack() as stack:
        run_all(remote_disks(stack), resumes=("nbd-full",))


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
