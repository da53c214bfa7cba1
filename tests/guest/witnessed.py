#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The verifying guest verified: it says nothing while all is well, and notices one bit.

    witnessed.py TRAPEZE WITNESS
"""
import os
import subprocess
import sys

import machine
import tap
import witness

TRAPEZE, WITNESS = (os.path.abspath(name) for name in sys.argv[1:3])
INITRD = witness.initramfs(WITNESS, TRAPEZE, machine.scratch("initrd"))


def disk():
    path = machine.scratch("disk.raw")
    with open(path, "wb") as file:
        file.truncate(8 << 20)
    return path


def watch(story, until, *words, extra=()):
    """Starts it, hears it until `until` is true, and ends it."""
    command = [TRAPEZE, "run", "-m", "160", *witness.linux(INITRD, TRAPEZE, *words), *extra]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)
    try:
        while not until():
            data = process.stdout.read(65536)
            assert data, "\n".join(story.other[-20:])
            story.hear(data)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_all_is_well():
    path, echo, story = disk(), witness.Echo(), witness.Story()
    watch(story, lambda: len(story.sums) > 3 and story.durable > 300, "tick=20", "set=16", "dirty=20", "disk=/dev/vda",
          "rate=200", "check=500", f"tcp=10.0.2.2:{echo.port}", extra=[
              "--disk", path + ",format=raw", "--net", "nat,host-loopback=on"])
    story.good()
    last = story.sums[-1]
    assert story.ready and last["visits"] > 0 and last["checked"] > 0 and last["t"] > 0, last
    assert 0 < last["echoed"] <= last["sent"] and last["echoed"] <= echo.received, last
    assert echo.wrong is None
    witness.check_disk(path, story.durable)


def test_a_bit_of_memory():
    story = witness.Story()
    watch(story, lambda: story.failed, "set=8", "check=4000", "spoil=1")
    assert story.failed.startswith("memory: page 1024 word 170 is "), story.failed


def test_a_bit_of_a_page_that_is_written():
    story = witness.Story()
    watch(story, lambda: story.failed, "set=8", "dirty=400", "check=0", "spoil=1")
    assert story.failed.startswith("memory: page 1024 word 170 is "), story.failed


def test_a_byte_of_the_stream():
    echo, story = witness.Echo(spoil_at=100000), witness.Story()
    watch(story, lambda: story.failed, f"tcp=10.0.2.2:{echo.port}", extra=["--net", "nat,host-loopback=on"])
    assert story.failed.startswith("tcp: byte "), story.failed
    assert echo.wrong is None


def test_a_record_of_the_disk():
    path, story = disk(), witness.Story()

    def failed():
        if story.durable > 20:
            with open(path, "r+b") as file:
                file.seek(10 * witness.PAGE + 1000)
                file.write(b"spoilt")
        return story.failed

    watch(story, failed, "disk=/dev/vda", "rate=200", "slots=32", extra=["--disk", path + ",format=raw"])
    assert story.failed.startswith("disk: record "), story.failed
    try:
        witness.check_disk(path, story.durable, 32)
    except AssertionError as error:
        assert "is damaged" in str(error), error
    else:
        assert False, "the host's check found nothing"


if __name__ == "__main__":
    sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
