#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Live migration, ours beside QEMU's: the same guest (tests/guest/witness.c in the tiny image, 512 MiB, one
hart), idle and writing 50 and 400 MiB a second, moved from one process to another on this machine, over TCP.

    ninja -C build trapeze tests/guest/witness; bench/migrate.py --build build [--rounds 5] [--rates 0,50,400]

Downtime is seen from outside: the guest prints a tick every millisecond, and the figure is the time between
the last one from the source and the first one from the target, as their reader stamps them, less one
millisecond. QEMU: TCG, downtime-limit 20 ms, no limit of bandwidth, else its defaults. Rounds alternate. A guest
that finds anything damaged, or a tick that is lost or comes twice, ends the benchmark.
"""
import argparse
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(HERE)
os.environ.setdefault("TRAPEZE_SOURCE", SOURCE)
sys.path[:0] = [HERE, os.path.join(SOURCE, "tests", "guest")]
from handover import Handover  # noqa: E402
from initramfs import append_program  # noqa: E402

PATIENCE = 300
ASLEEP = 10  # seconds without a tick; QEMU 7.2 loses a riscv64 guest's timer now and then, and it sleeps for good
SET = {0: 0, 50: 64, 400: 256}  # MiB that the guest writes to
TICK = 0.001


class Failure(Exception):
    pass


class Console(threading.Thread):
    """Stamps what comes from a guest's console."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream, self.pieces = stream, []  # (bytes, time)
        self.start()

    def run(self):
        while data := os.read(self.stream.fileno(), 65536):
            self.pieces.append((data, time.monotonic()))


class Story:
    """What a guest says, on one console after the other: the last line of the first may be in halves."""

    def __init__(self):
        self.rest, self.ticks, self.sums, self.words = b"", [], 0, {}  # ticks: times

    def hear(self, console):
        while console.pieces:
            data, now = console.pieces.pop(0)
            *lines, self.rest = (self.rest + data).split(b"\n")
            for line in lines:
                self.line(line.decode(errors="replace").strip("\r"), now)

    def line(self, line, now):
        if re.fullmatch(r"t \d+", line):
            if int(line[2:]) != len(self.ticks) + 1:
                raise Failure(f"tick {line[2:]} came after {len(self.ticks)}")
            self.ticks.append(now)
        elif line.startswith("sum "):
            self.sums += 1
        elif line.startswith("witness-failed"):
            raise Failure(line)
        elif line.startswith("witness-"):
            self.words[line] = now


def wait_for(what, condition, process=None):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end or (process and process.poll() is not None):
            raise Failure("in vain: " + what)
        time.sleep(0.002)


class Guest:
    """A source and a target, of either kind; ends both."""
    may_sleep = False

    def __init__(self, args, linux, folder):
        self.args, self.linux, self.folder = args, linux, folder
        self.processes, self.story = [], Story()

    def spawn(self, command, **options):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, **options)
        self.processes.append(process)
        return Console(process.stdout)

    def until(self, what, console, condition):
        def heard():
            self.story.hear(console)
            return condition()
        wait_for(what, heard)

    def move(self):
        """Returns downtime (None: for ever) and total time in ms, and what the machine itself says of them."""
        self.start()
        story = self.story
        self.until("the guest's start", self.source, lambda: "witness-ready" in story.words)
        sums = story.sums
        ready = len(story.ticks)
        self.until("a second of work", self.source,
                   lambda: story.sums > sums + 1 or len(story.ticks) > ready + 2000)
        begun = time.monotonic()
        said = self.migrate()
        total = time.monotonic() - begun
        time.sleep(0.2)
        story.hear(self.source)
        last, ticks, sums = story.ticks[-1], len(story.ticks), story.sums
        heard = [time.monotonic(), ticks]

        def works():
            now, count = time.monotonic(), len(story.ticks)
            if count != heard[1]:
                heard[:] = now, count
            # A machine that is slower than the ticks has time for nothing else.
            return story.sums > sums + 1 or count > ticks + 2000 or now > heard[0] + ASLEEP
        self.until("two seconds of work there", self.target, works)
        if time.monotonic() > heard[0] + ASLEEP:
            if not self.may_sleep:
                raise Failure("the guest does not tick on the other side")
            return None, total * 1000, said
        return (story.ticks[ticks] - last - TICK) * 1000, total * 1000, said

    def end(self):
        for process in self.processes:
            process.kill()
            process.communicate()


class Qmp:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        wait_for("QEMU's monitor", lambda: self.socket.connect_ex(path) == 0)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        json.dump({"execute": command, "arguments": arguments}, self.file)
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise Failure(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


class Qemu(Guest):
    name = "qemu"
    may_sleep = True

    def start(self):
        kernel, initrd, append = self.linux
        command = [self.args.qemu, "-M", "virt", "-m", "512", "-display", "none", "-serial", "stdio", "-kernel", kernel,
                   "-initrd", initrd, "-append", append]
        sockets = [os.path.join(self.folder, f"qmp{i}") for i in range(2)]
        for path in sockets:
            if os.path.exists(path):
                os.unlink(path)
        monitor = "unix:%s,server=on,wait=off"
        self.source = self.spawn([*command, "-qmp", monitor % sockets[0]])
        self.from_there = Qmp(sockets[0])
        self.target = self.spawn([*command, "-qmp", monitor % sockets[1], "-incoming", "defer"])
        self.to_there = Qmp(sockets[1])

    def migrate(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            uri = "tcp:127.0.0.1:%d" % free.getsockname()[1]
        self.to_there.ask("migrate-incoming", uri=uri)
        self.from_there.ask("migrate-set-parameters", **{"downtime-limit": 20, "max-bandwidth": 1 << 40})
        self.from_there.ask("migrate", uri=uri)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            state = self.from_there.ask("query-migrate")
            if state["status"] == "completed":
                return {"downtime": state["downtime"], "rounds": state["ram"]["dirty-sync-count"]}
            if state["status"] in ("failed", "cancelled"):
                raise Failure(f"QEMU: {state}")
            time.sleep(0.002)
        raise Failure("QEMU's migration does not come to an end")


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other = server.accept()[0]
    for end in one, other:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


class Link:
    """Streams that are as slow as a link, all together, from the source on; it keeps 256 KiB of each."""

    def __init__(self, rate):
        self.rate, self.free, self.lock = rate, 0.0, threading.Lock()

    def connect(self):
        ends = [socket.socketpair() for _ in range(2)]
        for i in range(2):
            threading.Thread(target=self.carry, args=(ends[i][1], ends[1 - i][1], i == 0), daemon=True).start()
        return ends[0][0], ends[1][0]

    def carry(self, source, target, slow):
        try:
            while data := source.recv(65536):
                if slow:
                    with self.lock:
                        self.free = max(self.free, time.monotonic()) + len(data) / self.rate
                        until = self.free
                    time.sleep(max(0, until - time.monotonic()))
                target.sendall(data)
        except OSError:
            pass
        for end in source, target:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Trapeze(Guest):
    """Two workers, without a daemon."""
    name = "trapeze"

    def start(self):
        kernel, initrd, append = self.linux
        command = [os.path.join(self.args.build, "trapeze"), "run", "-m", "512", "--kernel", kernel, "--initrd",
                   initrd, "--append", append]
        self.controls = [os.path.join(self.folder, f"control{i}") for i in range(2)]
        for path in self.controls:
            if os.path.exists(path):
                os.unlink(path)
        self.source = self.spawn([*command, "--control", self.controls[0]])
        self.target = self.spawn([*command, "--control", self.controls[1], "--incoming"])

    def migrate(self):
        options, connect = {"downtime-ns": 20000000}, tcp_pair
        if self.args.link:
            options.update({"post-copy": self.args.post_copy, "rounds": 5, "last-resort": "stop"})
            connect = Link(self.args.link << 20).connect
        with Handover(*self.controls, streams=self.args.streams, options=options, connect=connect) as handover:
            handover.commit()
            last = handover.progress[-1]
            return {"downtime": round(last["downtime-ns"] / 1e6, 2), "rounds": last["round"],
                    "MB/s": round(last["rate"] / 1e6)}


SYSTEMS = [Qemu, Trapeze]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(HERE, "..", "build"))
    parser.add_argument("--qemu", default="qemu-system-riscv64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rates", default="0,50,400", help="MiB that the guest writes a second")
    parser.add_argument("--streams", type=int, default=1, help="of ours; QEMU has one unless told otherwise")
    parser.add_argument("--link", type=int, default=0, help="ours over a link of so many MiB a second, stopped after 5 rounds")
    parser.add_argument("--post-copy", action="store_true", help="... or gone over by post-copy")
    parser.add_argument("--systems", default=",".join(system.name for system in SYSTEMS))
    return parser.parse_args()


def main():
    args = arguments()
    tiny = subprocess.run([os.path.join(HERE, "..", "images", "build"), "tiny"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True, check=True).stdout.strip().split("\n")[-1]
    systems = [system for system in SYSTEMS if system.name in args.systems.split(",")]
    with tempfile.TemporaryDirectory(prefix="trapeze-migrate-") as folder:
        initrd = os.path.join(folder, "initrd")
        append_program(os.path.join(tiny, "initrd"), os.path.join(args.build, "tests", "guest", "witness"), initrd)
        for rate in (int(word) for word in args.rates.split(",")):
            words = "tick=1" + (f" set={SET[rate]} dirty={rate} check=100" if rate else "")
            linux = (os.path.join(tiny, "Image"), initrd, "console=ttyS0 rdinit=/bench -- " + words)
            runs = {system.name: [] for system in systems}
            for _ in range(args.rounds):
                for system in systems:
                    guest = system(args, linux, folder)
                    try:
                        runs[system.name].append(guest.move())
                    finally:
                        guest.end()
            for name, of in runs.items():
                down, total = [run[0] for run in of if run[0] is not None], [run[1] for run in of]
                if len(down) < len(of):
                    print(f"{rate:4} MiB/s  {name:8} in {len(of) - len(down)} of {len(of)} rounds the guest never ticked "
                          "again on the other side")
                down = down or [float("nan")]
                print(f"{rate:4} MiB/s  {name:8} downtime {statistics.median(down):6.1f} ms ({min(down):.1f} to "
                      f"{max(down):.1f}), total {statistics.median(total):7.0f} ms ({min(total):.0f} to "
                      f"{max(total):.0f}); it says {of[-1][2]}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"migrate.py: {failure}")
