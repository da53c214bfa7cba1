#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Machines that are started again when they end: by policy, with growing waits, by the next daemon.

    restart.py TRAPEZE LOOP_ELF EXIT_ELF

The daemon's waits are multiples of a unit, which is milliseconds here and a second elsewhere.
Events outlive their instance, so each test has names of its own.
"""
import json
import os
import signal
import struct
import sys
import tempfile
import time

import tap
from daemon_client import Client, until, USAGE

TRAPEZE, LOOP_ELF, EXIT_ELF = (os.path.abspath(name) for name in sys.argv[1:4])
UNIT_MS, LONGEST, LONG_RUN = 10, 300, 600
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-restart-")
STORE = os.path.join(FOLDER.name, "store")
POWEROFF_ELF = os.path.join(FOLDER.name, "poweroff.elf")
os.environ["TRAPEZE_RESTART_UNIT_MS"] = str(UNIT_MS)


def make_poweroff():
    """exit.S with another number for the test device: 0x5555 in place of 7 << 16 | 0x3333."""
    with open(EXIT_ELF, "rb") as file:
        code = file.read()
    for before, after in ((0x000735b7, 0x000055b7), (0x3335859b, 0x5555859b)):  # lui, addiw
        assert code.count(struct.pack("<I", before)) == 1
        code = code.replace(struct.pack("<I", before), struct.pack("<I", after))
    with open(POWEROFF_ELF, "wb") as file:
        file.write(code)


CLIENT = Client(TRAPEZE, STORE)
trapeze, info, kill_daemon = CLIENT.trapeze, CLIENT.info, CLIENT.kill_daemon


def events(name, *types):
    text = trapeze("events", "--json").stdout
    found = [json.loads(line) for line in text.splitlines()]
    return [e for e in found if e["instance"] == name and (not types or e["type"] in types)]


def create(name, elf, *options, tries=None):
    trapeze("create", name, "--firmware", elf, "-m", "32", *options)
    if tries is not None:
        with open(f"{STORE}/instances/{name}/{name}.vmx", "a", encoding="utf-8") as vmx:
            vmx.write(f'trapeze.restartTries = "{tries}"\n')


def start(name):
    trapeze("start", name, status=None)  # it may be over before the answer


def waits(name):
    return [e["detail"]["wait-ms"] for e in events(name, "restarting")]


def pid_of(name):
    return events(name, "start")[-1]["detail"]["pid"]


def remove(*names):
    for name in names:
        trapeze("stop", "--force", name, status=None)
        trapeze("delete", name)


def test_a_crash_loop_waits_longer_and_ends():
    create("a1", EXIT_ELF, "--restart", "on-failure", tries=4)
    assert info("a1")["restart"] == "on-failure" and info("a1")["autostart"] is False
    start("a1")
    until(lambda: events("a1", "gave-up"))
    assert waits("a1") == [UNIT_MS * 2**i for i in range(4)], waits("a1")
    assert len(events("a1", "start")) == 5
    about = info("a1")
    assert about["state"] == "stopped", about
    assert about["restarts"] == {"tries": 4, "gave-up": True}, about
    start("a1")  # by hand: from the beginning
    until(lambda: len(events("a1", "gave-up")) == 2)
    assert waits("a1")[4:] == waits("a1")[:4]
    remove("a1")


def test_a_limit_to_the_wait():
    create("a2", EXIT_ELF, "--restart", "always", tries=0)
    start("a2")
    until(lambda: len(waits("a2")) > 10)
    assert max(waits("a2")) == waits("a2")[-1] == LONGEST * UNIT_MS
    until(lambda: info("a2")["state"] == "restarting")  # for three seconds
    assert "restarting" in trapeze("list").stdout
    assert trapeze("stop", "a2").stdout == "a2: stopped\n"
    assert "restarts" not in info("a2") and info("a2")["state"] == "stopped"
    before = len(events("a2"))
    trapeze("stop", "a2", status=USAGE)
    time.sleep(LONGEST * UNIT_MS / 1000)
    assert len(events("a2")) == before
    remove("a2")


def test_who_stops_it_means_it():
    create("a3", LOOP_ELF, "--restart", "always")
    start("a3")
    os.kill(pid_of("a3"), signal.SIGKILL)
    until(lambda: len(events("a3", "start")) == 2 and info("a3")["state"] == "running")
    trapeze("stop", "--force", "a3")
    start("a3")
    trapeze("control", f"{STORE}/instances/a3/control.sock", "quit")
    until(lambda: info("a3")["state"] == "stopped")
    time.sleep(20 * UNIT_MS / 1000)
    assert len(events("a3", "restarting")) == 1 and info("a3")["state"] == "stopped"
    remove("a3")


def test_what_is_no_failure():
    create("a4", POWEROFF_ELF, "--restart", "on-failure")
    create("b4", POWEROFF_ELF, "--restart", "always", tries=2)
    create("c4", EXIT_ELF)
    for name in ("a4", "b4", "c4"):
        start(name)
    until(lambda: events("b4", "gave-up"))
    until(lambda: events("a4", "ended") and events("c4", "ended"))
    assert info("b4")["last-end"]["end"] == "poweroff" and len(waits("b4")) == 2
    assert waits("a4") == waits("c4") == []
    assert "trapeze: " in trapeze("create", "d4", "--firmware", EXIT_ELF, "--restart", "maybe",
                                  status=USAGE).stderr
    remove("a4", "b4", "c4")


def test_a_long_run_is_a_new_beginning():
    create("a5", LOOP_ELF, "--restart", "on-failure")
    start("a5")
    for expected in (1, 2):
        os.kill(pid_of("a5"), signal.SIGKILL)
        until(lambda: len(events("a5", "start")) == expected + 1)
    assert info("a5")["restarts"] == {"tries": 2, "gave-up": False}
    time.sleep(LONG_RUN * UNIT_MS / 1000)
    os.kill(pid_of("a5"), signal.SIGKILL)
    until(lambda: len(waits("a5")) == 3)
    assert waits("a5") == [UNIT_MS, 2 * UNIT_MS, UNIT_MS]
    remove("a5")


def test_the_next_daemon_goes_on():
    create("a6", EXIT_ELF, "--restart", "always", tries=12)
    create("b6", LOOP_ELF, "--restart", "on-failure")
    create("c6", LOOP_ELF)
    for name in ("a6", "b6", "c6"):
        start(name)
    pids = [pid_of(name) for name in ("b6", "c6")]
    until(lambda: len(waits("a6")) >= 8)
    kill_daemon()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(events("b6", "start")) == 2 and info("b6")["state"] == "running")
    assert info("c6")["state"] == "stopped" and waits("c6") == []
    until(lambda: events("a6", "gave-up"))
    assert waits("a6") == [UNIT_MS * min(2**i, LONGEST) for i in range(12)], waits("a6")
    kill_daemon()
    assert info("a6")["restarts"] == {"tries": 12, "gave-up": True}  # and nobody tries again
    remove("a6", "b6", "c6")


def test_a_start_that_fails_is_a_failure():
    create("a7", LOOP_ELF, "--restart", "on-failure")
    firmware = f"{STORE}/instances/a7/firmware"
    start("a7")
    os.rename(firmware, firmware + ".away")
    os.kill(pid_of("a7"), signal.SIGKILL)
    until(lambda: len(waits("a7")) >= 4)
    assert info("a7")["last-end"]["end"] == "refused"
    until(lambda: trapeze("rename", "a7", "b7", status=None).returncode == 0)  # it may be at work
    os.rename(f"{STORE}/instances/b7/firmware.away", f"{STORE}/instances/b7/firmware")
    until(lambda: info("b7")["state"] == "running")
    os.unlink(f"{STORE}/instances/b7/firmware")
    os.kill(pid_of("b7"), signal.SIGKILL)
    until(lambda: len(waits("b7")) >= 2)
    trapeze("stop", "b7")
    trapeze("delete", "b7")


def test_a_policy_that_is_taken_away_holds_for_the_one_that_waits():
    create("a9", EXIT_ELF, "--restart", "always", tries=0)
    start("a9")
    until(lambda: len(waits("a9")) >= 9 and info("a9")["state"] == "restarting")  # 2.56 s
    until(lambda: trapeze("set", "a9", "restart=no", status=None).returncode == 0)
    before = len(events("a9", "start"))
    until(lambda: info("a9")["state"] == "stopped")
    assert len(events("a9", "start")) == before, events("a9")
    remove("a9")


def test_a_plan_that_makes_no_sense_is_none():
    """NAME/restart is a file: it may say anything."""
    least, most = -2**63, 2**63 - 1
    create("a10", LOOP_ELF, "--restart", "always")
    path = f"{STORE}/instances/a10/restart"
    plan = {"wanted": True, "gave-up": False, "tries": 1, "started": 0, "due": 0}
    for number, wrong in enumerate(({"due": least}, {"due": most}, {"started": least},
                                    {"started": most}, {"tries": most}, {"tries": -1},
                                    {"due": 1e300}, {"wanted": 1})):
        kill_daemon()
        with open(path, "w", encoding="ascii") as file:
            json.dump({**plan, **wrong}, file)
        about = info("a10")  # of the next daemon
        assert about["state"] == "stopped" and "restarts" not in about, (number, about)
    kill_daemon()
    with open(path, "w", encoding="ascii") as file:
        json.dump({**plan, "due": 2**52}, file)  # a clock that was wrong: not for ever
    until(lambda: info("a10")["state"] == "running")
    remove("a10")


def test_autostart_is_once_for_a_boot():
    create("a8", LOOP_ELF, "--autostart")
    create("b8", LOOP_ELF)
    kill_daemon()
    assert info("a8")["state"] == "stopped"  # the host has not started since
    kill_daemon()
    os.unlink(f"{STORE}/autostarted")
    until(lambda: info("a8")["state"] == "running")
    assert info("b8")["state"] == "stopped" and info("a8")["autostart"]
    trapeze("stop", "--force", "a8")
    kill_daemon()
    assert info("a8")["state"] == "stopped"
    time.sleep(20 * UNIT_MS / 1000)
    assert info("a8")["state"] == "stopped"
    remove("a8", "b8")


def main():
    make_poweroff()
    status = tap.main([test for name, test in list(globals().items()) if name.startswith("test_")])
    for name in os.listdir(f"{STORE}/instances"):
        trapeze("stop", "--force", name, status=None)
    kill_daemon()
    return status


if __name__ == "__main__":
    sys.exit(main())
