# SPDX-License-Identifier: MIT
"""The verifying guest (witness.c) on its way between workers, for tests of live migration: its memory, a
disk, and a TCP connection to this process, whatever becomes of the workers and of the link between them.

    net = moving.network()                     # None: we may not have one; before there are threads
    guest = moving.Guest(TRAPEZE, initrd, net)
    guest.boot()
    there = guest.target("copy")
    link = moving.Link(stage=2, piece=100)     # stands still there, until link.release()
    with Handover(guest.worker.control, there.control, connect=link.connect) as way: ...
    guest.moved(there)                         # or guest.stayed(there)
    guest.lives()
"""
import collections
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
import time

import machine
import namespace
import witness
from daemon_client import is_alive
from handover import Control

SLOTS, DISK = 64, 1 << 20
MOVED, REFUSED = 0, 121  # exit statuses
HOST, OWN, INTERNAL = "10.9.0.1", "10.9.0.2", "moving"
STAGES = ["pre-migration", "reservation", "pre-copy", "stop-and-copy", "commitment", "activation"]


def until(condition, *says, pause=0.005):
    end = time.monotonic() + machine.LIMIT_S
    while not condition():
        assert time.monotonic() < end, [word() if callable(word) else word for word in says]
        time.sleep(pause)


# ---- the host's end of the guest's network ----

class Network(threading.Thread):
    """A tap device that is plugged into the internal network's switch: what the guest sends over it comes to
    this host's TCP, whichever worker runs it."""

    def __init__(self, tap_fd, runtime):
        super().__init__(daemon=True)
        self.tap, self.path = tap_fd, os.path.join(runtime, "trapeze", "net-" + INTERNAL)

    def plug_in(self):
        """As soon as there is a switch, which the first machine starts."""
        if self.is_alive():
            return
        self.switch = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        until(lambda: self.switch.connect_ex(self.path) == 0, self.path)
        self.start()

    def run(self):
        # net/link.h: kind, value, an offload header as a tap's, VLAN; net/frame.h.
        while True:
            ready = select.select([self.tap, self.switch], [], [])[0]
            if self.tap in ready:
                data = os.read(self.tap, 70000)
                self.switch.send(b"\0\0" + data[:10] + b"\0\0" + data[10:])
            if self.switch in ready:
                data = self.switch.recv(70000)
                if data[:1] == b"\0":
                    os.write(self.tap, data[2:12] + data[14:])


def open_tap(name, flags=0x4000):
    """In the network namespace of whoever calls; with IFF_VNET_HDR (0x4000) frames have an offload header of 10
    bytes."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x1002 | flags))  # IFF_TAP | IFF_NO_PI
    return fd


def network():
    """This process and its children have a network of their own from now on. None: they may not."""
    runtime = machine.scratch("run")
    os.mkdir(runtime, 0o700)
    os.environ["XDG_RUNTIME_DIR"] = runtime
    if not namespace.unshare(namespace.CLONE_NEWNET):
        return None
    try:
        fd = open_tap("peer")
        for command in (["link", "set", "lo", "up"], ["addr", "add", HOST + "/24", "dev", "peer"],
                        ["link", "set", "peer", "up"]):
            subprocess.run(["ip", *command], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"# the guest has no network: {error}", flush=True)
        return None
    return Network(fd, runtime)


# ---- workers ----

class Worker:
    """`trapeze run`; its console is emptied as it comes."""

    def __init__(self, trapeze, options):
        self.control = machine.scratch(f"{time.monotonic_ns()}.sock")
        self.pieces, self.errors = collections.deque(), open(self.control + ".err", "w+b")
        self.process = subprocess.Popen([trapeze, "run", "--control", self.control, *options],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=self.errors, bufsize=0)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.pid = None

    def read(self):
        while data := self.process.stdout.read(65536):
            self.pieces.append(data)

    def greet(self):
        """Its process' number, once it is there."""
        control = Control(self.control)
        self.pid = control.pid
        control.close()
        return self

    def ask(self, verb, **arguments):
        """None: it is dead."""
        try:
            control = Control(self.control, 0)
            answer = control.ask(verb, arguments)
            control.close()
            return answer
        except (AssertionError, OSError):
            until(self.is_dead, self.said)
            return None

    def state(self):
        """"dead", "moving", "uncertain" or the machine's state."""
        if self.is_dead():
            return "dead"
        answer = self.ask("status")
        if answer is None:
            return "dead"
        assert "error" not in answer, answer
        moving = answer["result"].get("migration")
        if moving is None:
            return answer["result"]["state"]
        return "uncertain" if moving.get("uncertain") else "moving"

    def is_dead(self):
        if self.pid is not None and is_alive(self.pid):
            return False
        return self.process.poll() is not None

    def said(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def finish(self):
        """Its exit status; all that its guest said has been read."""
        status = self.process.wait(timeout=machine.LIMIT_S)
        self.reader.join()
        self.process.stdout.close()
        return status

    def end(self):
        if self.pid is not None and is_alive(self.pid):
            os.kill(self.pid, 9)
        if self.process.poll() is None:
            self.process.kill()
        self.finish()
        self.errors.close()


class Guest:
    """Wherever it runs. After its death another one boots, with a disk of its own."""

    def __init__(self, trapeze, initrd, net, words=("tick=20", "set=8", "dirty=5", "check=500"), options=()):
        self.trapeze, self.initrd, self.net = trapeze, initrd, net
        self.words, self.options = words, options
        self.lives_number = self.disks = 0
        self.worker = None

    def start(self, *options):
        nic = f"internal:{INTERNAL},mac=02:00:00:00:00:09" if self.net else "none"
        words = [*self.words, "disk=/dev/vda", "rate=50", f"slots={SLOTS}"]
        if self.net:
            words += [f"tcp={HOST}:{self.echo.port}", f"own={OWN}", "kib=64"]
        return Worker(self.trapeze, ["-m", "96", "--net", nic, *self.options,
                                     *witness.linux(self.initrd, self.trapeze, *words), *options])

    def new_disk(self):
        self.disks += 1
        path = machine.scratch(f"disk-{self.disks}.raw")
        with open(path, "wb") as file:
            file.truncate(DISK)
        return path

    def boot(self):
        self.lives_number += 1
        self.story, self.disk = witness.Story(), self.new_disk()
        if self.net:
            self.echo = witness.Echo(HOST)
        self.worker = self.start("--disk", self.disk + ",format=raw")
        if self.net:
            self.net.plug_in()
        self.worker.greet()
        until(lambda: self.heard().ready, self.where)

    def target(self, disks="shared", *options):
        """A worker for it; `disks`: "copy" or "shared"."""
        path = self.new_disk() if disks == "copy" else self.disk
        there = self.start("--incoming", "--disk", path + ",format=raw", *options)
        there.disk = path
        return there.greet()

    def heard(self):
        while self.worker.pieces:
            self.story.hear(self.worker.pieces.popleft())
        self.good()
        return self.story

    def good(self):
        self.story.good()
        assert not self.net or self.echo.wrong is None, f"byte {self.echo.wrong} is wrong"

    def where(self):
        return (f"life {self.lives_number}, tick {self.story.ticks}, record {self.story.durable}, "
                f"{self.worker.state()}, {self.worker.said()}, {self.story.other[-5:]}")

    def leave(self):
        """The worker has ended; all that its guest said counts."""
        status = self.worker.finish()
        self.heard()
        return status

    def moved(self, there):
        old, before = self.worker, self.disk
        status = self.leave()
        self.worker, self.disk = there, there.disk
        old.end()
        if before != self.disk:
            os.remove(before)
        return status

    def stayed(self, there):
        there.end()
        assert not there.pieces, there.pieces  # it has never run there
        if there.disk != self.disk:
            os.remove(there.disk)

    def lives(self):
        """Its ticks, disk and stream go on."""
        story = self.heard()
        ticks, durable = story.ticks + 3, story.durable + 2
        received = self.echo.received + 4096 if self.net else 0
        until(lambda: self.heard().ticks > ticks and story.durable > durable and
              (not self.net or self.echo.received > received), self.where,
              lambda: self.net and (received, self.echo.received))

    def died(self):
        """Its worker was killed: what it said was on the disk is there."""
        self.leave()
        self.worker.end()
        self.check_disk()

    def check_disk(self):
        witness.check_disk(self.disk, self.story.durable, SLOTS)
        os.remove(self.disk)

    def end(self):
        self.worker.end()
        self.heard()
        self.check_disk()


def judge(guest, there, way, source_dies=False, target_dies=False):
    """Both sides know how it ended, or stand still because they do not: exactly one has it, who alone runs.
    Whether that is the target. May a side be dead without having refused or given away anything?"""
    here, taken = guest.worker, way.taken()
    states = here.state(), there.state()
    if states[0] == "uncertain":
        assert "not known" in here.ask("pause")["error"]
        answer = here.ask("migrate-resolve", where="there" if taken else "here")
        assert "error" not in answer, answer
        assert taken or here.state() == "running", here.state()
    elif taken and not source_dies:
        until(here.is_dead, states, here.said)
    if not taken:
        assert there.finish() == REFUSED or target_dies, there.said()
    if taken:
        status = guest.moved(there)
        assert status == MOVED or source_dies, status
    else:
        guest.stayed(there)
    if guest.worker.is_dead():
        assert target_dies if taken else source_dies, guest.where()
        guest.died()
        guest.boot()
        return taken, True
    return taken, False


# ---- the link between them ----

class Link:
    """Passes on what two workers say to each other (migrate/wire.h) and knows by the frames which stage they
    are in. At `piece` of `stage` it says so (`reached`), and stands still if it is to hold."""
    HEADER, PIECE = 24, 32768
    ENDS = {2: 1, 4: 2, 8: 3, 11: 4, 12: 5, 13: 6}  # ACCEPT, READY, STOPPED, LOADED, GO, RUNS
    CARRIES_ON = 6

    def __init__(self, stage=CARRIES_ON, piece=0, hold=True):
        self.aim, self.hold = (stage, piece), hold
        self.lock = threading.Condition()
        self.stage, self.pieces = 0, [0] * (self.CARRIES_ON + 1)
        self.held = self.cut_off = False
        self.reached = threading.Event()
        self.ends, self.pumps = [], []
        with self.lock:
            self.look()

    def connect(self):
        source, near = socket.socketpair()
        target, far = socket.socketpair()
        self.join(near, far)
        return source, target

    def join(self, near, far):
        self.ends += [near, far]
        for one, two in ((near, far), (far, near)):
            self.pumps.append(threading.Thread(target=self.pump, args=(one, two), daemon=True))
            self.pumps[-1].start()

    def look(self):
        if not self.reached.is_set() and (self.stage, self.pieces[self.stage]) >= self.aim:
            self.held = self.hold
            self.reached.set()

    def pass_on(self, to, data):
        with self.lock:
            while self.held and not self.cut_off:
                self.lock.wait()
            if self.cut_off or not data:
                raise EOFError
        to.sendall(data)
        with self.lock:
            self.pieces[self.stage] += 1
            self.look()

    def pump(self, one, two):
        try:
            while True:
                header = one.recv(self.HEADER, socket.MSG_WAITALL)
                self.pass_on(two, header)
                kind, size = struct.unpack_from("<II", header)
                while size > 0:
                    data = one.recv(min(size, self.PIECE))
                    self.pass_on(two, data)
                    size -= len(data)
                with self.lock:
                    self.stage = max(self.stage, self.ENDS.get(kind, 0))
                    self.look()
        except (EOFError, OSError, struct.error):
            pass
        try:
            two.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def release(self):
        with self.lock:
            self.held = False
            self.lock.notify_all()

    def cut(self):
        with self.lock:
            self.cut_off = True
            self.lock.notify_all()
        for end in self.ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.cut()
        for pump in self.pumps:
            pump.join()
        for end in self.ends:
            end.close()


# ---- a cable between two hosts ----

class Cable:
    """Two network namespaces and what lies between them (forwarder.c).

    cable.set(delay=1000, loss=50)      # what the forwarder knows: us, per mille
    cable.rate("16mbit")                # of each direction (tbf)
    """
    ADDRESSES = ["10.8.0.1", "10.8.0.2"]

    def __init__(self, forwarder, seed):
        self.spaces = [namespace.Space(), namespace.Space()]
        fds = []
        for space, address in zip(self.spaces, self.ADDRESSES):
            fds.append(space.inside(lambda: open_tap("cable", 0)))
            os.set_blocking(fds[-1], False)
            space.run("ip", "addr", "add", address + "/24", "dev", "cable")
            space.run("ip", "link", "set", "cable", "up")
        self.process = subprocess.Popen([forwarder, *map(str, fds), str(seed)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, pass_fds=fds)
        for fd in fds:
            os.close(fd)

    def set(self, **values):
        """How many frames it has passed on so far, and so on."""
        self.process.stdin.write(" ".join(f"{name}={value}" for name, value in values.items()) + "\n")
        self.process.stdin.flush()
        words = self.process.stdout.readline().split()
        return dict(zip(words[::2], map(int, words[1::2])))

    def rate(self, rate):
        for space in self.spaces:
            space.run("tc", "qdisc", "replace", "dev", "cable", "root", "tbf", "rate", rate, "burst", "32kb",
                      "latency", "200ms")

    @staticmethod
    def reach(address):
        """Neighbours that a cut made unreachable remain so for some seconds."""
        end = time.monotonic() + machine.LIMIT_S
        while True:
            try:
                return socket.create_connection(address)
            except OSError as failure:
                if failure.errno != errno.EHOSTUNREACH or time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def connect(self):
        """A TCP connection: the end of the first host, and that of the second."""
        server = self.spaces[1].inside(lambda: socket.create_server((self.ADDRESSES[1], 0)))
        near = self.spaces[0].inside(lambda: self.reach(server.getsockname()))
        far = server.accept()[0]
        server.close()
        for end in near, far:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return near, far

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        for space in self.spaces:
            space.end()
