#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The sandbox as people meet it: which parts are in force, what is said when the host refuses some.

    sandbox.py TRAPEZE LOOP_ELF EXIT_ELF

What a worker inside cannot do is tests/unit/worker_sandbox.c's business.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile

import tap
from daemon_client import Client, until
from machine import Machine

TRAPEZE, LOOP_ELF, EXIT_ELF = (os.path.abspath(name) for name in sys.argv[1:4])
ALL = ["namespaces", "root", "privileges", "filter"]  # and landlock, where the kernel has it
HOST, INTERRUPTED = 121, 130
# A host that has no namespaces for the likes of us: inside of one where they are used up.
WITHOUT_NAMESPACES = ("for kind in user mnt pid net ipc uts; do "
                      "echo 0 > /proc/sys/user/max_${kind}_namespaces; done; exec \"$@\"")


def has_namespaces():
    done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "--pid", "--net",
                           "--fork", "true"], stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def parts_of(machine):
    done = subprocess.run([TRAPEZE, "control", machine.control, "status"], stdout=subprocess.PIPE,
                          text=True, check=True)
    return json.loads(done.stdout)["sandbox"].split(", ")


class Running(Machine):
    def __init__(self, *options):
        super().__init__(TRAPEZE, "--firmware", LOOP_ELF, "--memory", "32M", *options)
        self.expect(rb"ready")

    def worker(self):
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            return int(children.read().split()[0])

    def end(self, number=signal.SIGTERM):
        os.kill(self.worker(), number)
        return self.finish(INTERRUPTED)


def status_of(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def is_locked_in(pid):
    status = status_of(pid)
    return (status["Seccomp"] == "2" and status["NoNewPrivs"] == "1" and
            int(status["CapPrm"], 16) == 0 and int(status["CapInh"], 16) == 0)


def test_all_parts_are_in_force():
    if not has_namespaces():
        raise tap.Skip("this host refuses namespaces")
    machine = Running("--sandbox", "on")
    parts, worker = parts_of(machine), machine.worker()
    assert [part for part in parts if part != "landlock"] == ALL, parts
    assert is_locked_in(worker)
    for name in ("user", "mnt", "pid", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{worker}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
    assert os.listdir(f"/proc/{worker}/root") == []
    names = [status_of(f"{worker}/task/{thread}")["Name"]
             for thread in os.listdir(f"/proc/{worker}/task")]
    assert "vcpu0" in names, names
    if os.geteuid() == 0:
        assert status_of(worker)["Uid"].split() == ["65534"] * 4
    # The first process of a PID namespace would not hear this one by itself.
    assert "warning" not in machine.end(signal.SIGTERM)


def test_off():
    machine = Running("--sandbox", "off")
    assert parts_of(machine) == ["off"]
    assert status_of(machine.worker())["Seccomp"] == "0"
    machine.end(signal.SIGTERM)


def where_namespaces_are_refused(*options):
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", WITHOUT_NAMESPACES, "sh", TRAPEZE,
         "run", "--firmware", EXIT_ELF, *options], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False)


def test_a_host_that_refuses_namespaces():
    if not has_namespaces():
        raise tap.Skip("unshare does not work here")
    done = where_namespaces_are_refused()
    assert done.returncode == 7, done
    assert "the host refuses parts of the sandbox: namespaces (" in done.stderr, done.stderr
    assert "filter" in done.stderr.split("What is left:")[1], done.stderr
    done = where_namespaces_are_refused("--sandbox", "on")
    assert done.returncode == HOST, done
    assert "the host refuses parts of the sandbox: namespaces (" in done.stderr
    assert "--sandbox auto" in done.stderr
    done = where_namespaces_are_refused("--sandbox", "off")
    assert done.returncode == 7 and done.stderr == "", done


def test_a_word_that_is_none():
    done = subprocess.run([TRAPEZE, "run", "--firmware", EXIT_ELF, "--sandbox", "maybe"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 120 and "auto, on or off" in done.stderr, done


def test_instances_are_locked_in():
    with tempfile.TemporaryDirectory(prefix="trapeze-sandbox-") as folder:
        os.environ["TRAPEZE_HOME"] = store = os.path.join(folder, "store")
        client = Client(TRAPEZE, store)
        client.trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32", "--start")
        events = client.api("GET", "/v1/events")["events"]
        pid = [e for e in events if e["type"] == "start"][-1]["detail"]["pid"]
        until(lambda: is_locked_in(pid))
        client.trapeze("stop", "--force", "a")
        client.kill_daemon()


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
