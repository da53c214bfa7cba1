#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How soon an instant clone runs, and what it costs: from the request to the daemon to its answer, when
the clone has run for a while (its worker has said so); the CPU time of the daemon and its jobs; and what
memory the clone of an idle original has of its own then.

    bench/instant.py TRAPEZE [ROUNDS [MIB [NETWORK]]]

The guest is the tiny image, with MIB (512) of memory of which three fifths are random bytes, and a NIC
("nat", or "none"). Memory is private dirty pages and page tables of the clone's worker. On a machine that
is busy with other things: TMPDIR=/dev/shm chrt -r 1 bench/instant.py ...
"""
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TRAPEZE = os.path.abspath(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 20
MIB = int(sys.argv[3]) if len(sys.argv) > 3 else 512
NETWORK = sys.argv[4] if len(sys.argv) > 4 else "nat"
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-instant-")
STORE = os.path.join(FOLDER.name, "store")


def trapeze(*arguments):
    return subprocess.run([TRAPEZE, *arguments], env={**os.environ, "TRAPEZE_HOME": STORE},
                          check=True, stdout=subprocess.PIPE, text=True).stdout


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.path.join(STORE, "daemon.sock"))


def log_of(name):
    return os.path.join(STORE, "instances", name, "console.log")


def cpu_of(pid):
    """Of a process and of the children that it has waited for; ms."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        words = file.read().rpartition(")")[2].split()
    return sum(int(word) for word in words[11:15]) * 1000 / os.sysconf("SC_CLK_TCK")


def type_to(name, text):
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(os.path.join(STORE, "instances", name, "console.sock"))
        console.sendall(text.encode() + b"\n")
        time.sleep(0.5)


def wait_for(name, mark):
    while True:
        with open(log_of(name), "rb") as file:
            if mark in file.read():
                return
        time.sleep(0.05)


def memory_of(pid):
    """KiB: private dirty pages, page tables."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        dirty = [int(line.split()[1]) for line in file if line.startswith("Private_Dirty:")][0]
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        tables = [int(line.split()[1]) for line in file if line.startswith("VmPTE:")][0]
    return dirty, tables


def clone(name):
    connection = Connection("localhost")
    begun = time.monotonic()
    connection.request("POST", "/v1/instances/base/clone",
                       json.dumps({"to": name, "instant": True}))
    answer = json.loads(connection.getresponse().read())
    took = time.monotonic() - begun
    connection.close()
    return answer["clones"][0]["pid"], took


def measure(number):
    pid, took = clone(f"c{number}")
    memory = memory_of(pid)
    trapeze("stop", "--force", f"c{number}")
    trapeze("delete", f"c{number}")
    return memory, took


def show(what, values, unit):
    values = list(values)
    print(f"{what}: median {statistics.median(values):.1f} {unit}, {min(values):.1f} to "
          f"{max(values):.1f}")


def main():
    trapeze("create", "base", "--image", "tiny", "-m", str(MIB), "--net", NETWORK)
    trapeze("start", "base")
    connection = Connection("localhost")
    connection.request("GET", "/v1/version")
    daemon = json.loads(connection.getresponse().read())["pid"]
    wait_for("base", b"# ")
    type_to("base", f"mkdir -p /r; mount -t tmpfs -o size=90% tmpfs /r; dd if=/dev/urandom of=/r/a "
            f"bs=1M count={MIB * 3 // 5}; echo fil''led")
    wait_for("base", b"filled")
    before = cpu_of(daemon)
    rounds = [measure(number) for number in range(ROUNDS)]
    print(f"CPU time of the daemon and its jobs, clone, stop and delete: "
          f"{(cpu_of(daemon) - before) / ROUNDS:.1f} ms a round")
    show("private dirty", [memory[0] for memory, _ in rounds], "KiB")
    show("page tables", [memory[1] for memory, _ in rounds], "KiB")
    show("request to answer", [1000 * took for _, took in rounds], "ms")
    trapeze("stop", "--force", "base")
    trapeze("delete", "base")
    os.kill(daemon, 15)


main()
