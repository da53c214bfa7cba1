#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How long it takes from wanting a machine to being in it: a clone of a Debian template, made,
started and answering ssh, beside what the same guest takes to boot once more.

    provision.py TRAPEZE

Times of the wall are printed; what is compared is CPU time, of the worker and of the commands.
"""
import os
import socket
import subprocess
import sys
import tempfile
import time

import tap
from daemon_client import Client
from machine import LIMIT_S, full_tier_image

TRAPEZE = os.path.abspath(sys.argv[1])
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-provision-")
CLIENT = Client(TRAPEZE, os.path.join(FOLDER.name, "store"))
KEY = os.path.join(FOLDER.name, "key")
CREATIONS = 20
CREATE_CPU_S = 0.05  # the promise of docs/SPECIFICATION.md
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def cpu_of(pid):
    """Seconds of a process and of the children that it has waited for."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:15])) * TICK_S


def own_cpu():
    now = os.times()
    return now.children_user + now.children_system


def wait_for_ssh(port):
    end = time.monotonic() + LIMIT_S
    while subprocess.run(
            ["ssh", "-i", KEY, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
             "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-p", str(port), "root@127.0.0.1",
             "true"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        assert time.monotonic() < end, "no ssh"
        time.sleep(0.2)


def worker_of(name):
    events = CLIENT.api("GET", "/v1/events")["events"]
    return [e for e in events if e["instance"] == name and e["type"] == "start"][-1]["detail"]["pid"]


def boot(name, port):
    """Starts it; seconds until it answered, and its worker's seconds of CPU until then."""
    begun = time.monotonic()
    CLIENT.trapeze("start", name)
    wait_for_ssh(port)
    return time.monotonic() - begun, cpu_of(worker_of(name))


def test_a_machine_from_a_template():
    full_tier_image("debian", TRAPEZE)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY], check=True)
    CLIENT.trapeze("create", "base", "--image", "debian")
    CLIENT.trapeze("template", "base")
    daemon = CLIENT.pid_of_daemon()
    walls, begun_cpu = [], own_cpu() + cpu_of(daemon)
    for number in range(CREATIONS):
        begun = time.monotonic()
        CLIENT.trapeze("create", f"c{number}", "--from-template", "base")
        walls.append((time.monotonic() - begun) * 1000)
    create_cpu = (own_cpu() + cpu_of(daemon) - begun_cpu) / CREATIONS
    walls.sort()
    print(f"# create --from-template: {walls[0]:.0f} to {walls[-1]:.0f} ms, median "
          f"{walls[CREATIONS // 2]:.0f} ms; {create_cpu * 1000:.1f} ms of CPU", flush=True)

    port = free_port()
    begun, begun_cpu = time.monotonic(), own_cpu() + cpu_of(daemon)
    CLIENT.trapeze("create", "web", "--from-template", "base", "--hostname", "web", "--ssh-key",
                   KEY + ".pub", "--forward", f"tcp:{port}:22")
    made, made_cpu = time.monotonic() - begun, own_cpu() + cpu_of(daemon) - begun_cpu
    first, first_cpu = boot("web", port)
    CLIENT.trapeze("stop", "web")
    again, again_cpu = boot("web", port)
    print(f"# a clone answers ssh after {made + first:.2f} s ({made_cpu + first_cpu:.2f} s of CPU), "
          f"the same guest booted again after {again:.2f} s ({again_cpu:.2f} s of CPU): "
          f"{(made + first) / again:.2f} times, by CPU {(made_cpu + first_cpu) / again_cpu:.2f} times",
          flush=True)
    assert create_cpu <= CREATE_CPU_S, create_cpu
    assert made_cpu + first_cpu <= 2 * again_cpu, (made_cpu, first_cpu, again_cpu)


def main():
    status = tap.main([test_a_machine_from_a_template])
    CLIENT.end()
    return status


if __name__ == "__main__":
    sys.exit(main())
