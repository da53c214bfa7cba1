#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Debian's gdb-multiarch against `trapeze run --gdb`, over its machine interface; and clients
that are not GDB, over a bare socket.

    gdb.py TRAPEZE DEBUGGEE_ELF ENGINE...
"""
import os
import re
import signal
import socket
import subprocess
import sys
import time

import tap
from gdb_client import Gdb
from machine import LIMIT_S, Machine, image, scratch

TRAPEZE, DEBUGGEE, *ENGINES = sys.argv[1:]
USAGE, INTERRUPTED, VERDICT = 120, 130, 10


class Debuggee(Machine):
    """The bare-metal guest, and where to debug it."""

    def __init__(self, engine, *options):
        self.where = scratch(f"{time.monotonic_ns()}.gdb")
        super().__init__(TRAPEZE, "--firmware", DEBUGGEE, "--memory", "32M", "--cpus", "2",
                         "--engine", engine, "--gdb", "unix:" + self.where,
                         "--gdb-wait", *options)
        wait_for(self.where)


def wait_for(path):
    end = time.monotonic() + LIMIT_S
    while not os.path.exists(path):
        assert time.monotonic() < end
        time.sleep(0.01)


def session(engine, *options):
    """A machine that has not begun, and GDB attached to it."""
    machine = Debuggee(engine, *options)
    return machine, Gdb(machine.where, elf=DEBUGGEE)


def every_engine(test):
    def run_all():
        for engine in ENGINES:
            try:
                test(engine)
            except AssertionError as failure:
                raise AssertionError(f"engine {engine}") from failure
    run_all.__name__ = test.__name__
    return run_all


@every_engine
def test_breakpoints(engine):
    machine, gdb = session(engine)
    with machine, gdb:
        gdb.run("break work if turn == 3")
        gdb.run("hbreak twice")
        stop = gdb.go("continue", 'reason="breakpoint-hit"', 'thread-id="1"', 'func="work"')
        assert 'value="3"' in stop, stop
        assert "hart0" in gdb.run("backtrace")
        gdb.go("continue", 'func="twice"')
        assert gdb.value("value") == 20
        gdb.go("finish", 'reason="function-finished"')
        assert gdb.value("turn") == 20
        gdb.run("delete")
        assert 'exit-code="012"' in gdb.go()
        machine.finish(VERDICT)


@every_engine
def test_registers(engine):
    machine, gdb = session(engine)
    with machine, gdb:
        start = gdb.value("$pc")
        assert start == gdb.value("(unsigned long)&_start")
        for name in ["$" + word for word in "ra sp gp tp t0 s1 a0 a7 s11 t6".split()]:
            gdb.run(f"set {name} = 0x123456789abcdef0")
            assert gdb.value(name) == 0x123456789abcdef0, name
        for name in ("mscratch", "sscratch", "fcsr", "pmpaddr3", "mtvec"):
            gdb.run(f"set ${name} = 0x44")
            assert gdb.value("$" + name) == 0x44, name
        assert gdb.value("$mhartid") == 0 and gdb.value("$priv & 3") == 3
        assert gdb.value("$misa & 1") == 1
        gdb.refused("set $mhartid = 3")
        gdb.run("set $zero = 5")
        assert gdb.value("$zero") == 0
        gdb.run("set $fa0.double = 2.5")
        assert "2.5" in gdb.run("print $fa0.double")
        gdb.run("flushregs")
        assert gdb.value("$sp") == 0x123456789abcdef0 and gdb.value("$pc") == start
        gdb.run("break hart0")
        gdb.go()
        # A call made by GDB: writes registers and memory, runs, puts everything back.
        before = gdb.value("$sp")
        assert gdb.value("twice(21)") == 42
        assert gdb.value("$sp") == before
        # The program goes on elsewhere.
        gdb.run("break hart1 thread 1")
        gdb.run("set $pc = hart1")
        gdb.go("continue", 'func="hart1"', 'thread-id="1"')


@every_engine
def test_memory(engine):
    machine, gdb = session(engine)
    with machine, gdb:
        gdb.run("break work if turn == 25")
        gdb.go()
        assert gdb.value("watched") == 40
        gdb.run("set var watched = 0x1122334455667788")
        assert gdb.value("*(unsigned char *)&watched") == 0x88
        gdb.run("set var verdict = 76")
        # Across a page, more than a packet, and beyond the end of memory.
        blob, back = scratch("blob"), scratch("back")
        with open(blob, "wb") as out:
            out.write(os.urandom(50000))
        gdb.run(f"restore {blob} binary 0x80100ffd")
        gdb.run(f"dump binary memory {back} 0x80100ffd 0x80100ffd+50000")
        assert open(blob, "rb").read() == open(back, "rb").read()
        for address in ("0x1000", "0x82000000", "0x10000000", "-8"):
            assert "Cannot access memory" in gdb.refused(f"x/gx {address}"), address
        gdb.refused("set var *(long *)0x82000000 = 1")
        gdb.run("monitor physical on")
        assert gdb.value("watched") == 0x1122334455667788
        gdb.run("monitor physical off")
        # Code that has run is replaced: work() returns at once (c.jr ra).
        gdb.run("set var *(unsigned short *)work = 0x8082")
        gdb.run("delete")
        tail = gdb.value("tail[0]")
        gdb.run("set $pc = $ra")
        gdb.run("watch verdict")
        gdb.go()
        assert gdb.value("tail[0]") == tail
        gdb.run("delete")
        gdb.go()
        machine.finish(77)


@every_engine
def test_steps(engine):
    machine, gdb = session(engine)
    with machine, gdb:
        gdb.run("break work if turn == 20")
        gdb.go()
        gdb.run("delete")
        for count in range(1, 4):
            pc = gdb.value("$pc")
            gdb.go("stepi", 'reason="end-stepping-range"', 'thread-id="1"')
            assert gdb.value("$pc") - pc in (2, 4), count
        gdb.go("stepi 4")
        gdb.go("finish")
        gdb.run("break work")
        gdb.go()
        lines = []
        for _ in range(3):
            stop = gdb.go("next", 'reason="end-stepping-range"')
            lines.append(int(re.search(r'line="(\d+)"', stop).group(1)))
        assert lines[0] < lines[1] < lines[2], lines
        gdb.run("delete")
        gdb.run("tbreak twice")
        gdb.run("set var watched = 0")
        gdb.run("set var turns = 21")
        assert 'exit-code="011"' in gdb.go()
        machine.finish(9)


@every_engine
def test_watchpoints(engine):
    machine, gdb = session(engine)
    with machine, gdb:
        gdb.run("watch watched")
        stop = gdb.go("continue", 'reason="watchpoint-trigger"', 'func="work"')
        assert 'old="0",new="40"' in stop, stop
        gdb.run("delete")
        gdb.run("rwatch watched")
        gdb.go("continue", 'reason="read-watchpoint-trigger"', 'func="work"')
        assert gdb.value("turn") == 30
        gdb.run("delete")
        gdb.run("awatch seen")
        gdb.go("continue", 'reason="access-watchpoint-trigger"')
        assert gdb.value("seen") == 41
        gdb.run("delete")
        # Beside a watched word in the same page, and an atomic instruction of the other hart.
        gdb.run("set var turns = 1000000000000")
        gdb.run("watch tail[1]")
        gdb.run("awatch beside")
        gdb.go("continue", 'reason="access-watchpoint-trigger"', 'thread-id="2"')
        gdb.run("delete")
        gdb.run("set var turns = 0")
        gdb.go()
        machine.finish(9)


@every_engine
def test_threads(engine):
    machine, gdb = session(engine)
    with machine, gdb:
        threads = gdb.run("info threads")
        assert '"hart 0"' in threads and '"hart 1"' in threads, threads
        gdb.run("thread 2")
        assert gdb.value("$mhartid") == 1
        gdb.run("set var turns = 1000000000000")
        gdb.run("break hart1")
        gdb.go("continue", 'thread-id="2"')
        gdb.run("delete")
        # One hart alone: the other does not move.
        gdb.run("set scheduler-locking on")
        gdb.run("thread 1")
        before = gdb.value("beside")
        retired = gdb.value("$minstret")
        gdb.go("stepi 300", 'thread-id="1"')
        assert gdb.value("$minstret") == retired + 300
        assert gdb.value("beside") == before
        gdb.run("thread 2")
        gdb.run("watch beside")
        for count in range(1, 4):
            gdb.go("continue", 'thread-id="2"')
            assert gdb.value("beside") == before + count
        gdb.run("delete")
        gdb.run("thread 1")
        tail = gdb.value("tail[0]")
        gdb.run("thread 2")
        gdb.go("stepi 200")
        assert gdb.value("tail[0]") == tail and gdb.value("beside") > before + 3
        # Together again.
        gdb.run("set scheduler-locking off")
        gdb.run("break work")
        gdb.go("continue", 'thread-id="1"')
        gdb.go("continue", 'thread-id="1"')


@every_engine
def test_both_harts_at_one_breakpoint(engine):
    machine, gdb = session(engine)
    with machine, gdb:
        gdb.run("set var turns = 1000000000000")
        gdb.run("break *_start")
        gdb.run("break *((char *)_start + 4)")
        seen = [re.search(r'thread-id="(\d)"', gdb.go("continue", "breakpoint-hit")).group(1)
                for _ in range(2)]
        assert sorted(seen) == ["1", "2"], seen


@every_engine
def test_interrupt_and_time(engine):
    machine, gdb = session(engine)
    with machine, gdb:
        gdb.run("set var turns = 1000000000000")
        for _ in range(3):
            gdb.start()
            stop = gdb.interrupt()
            assert 'signal-name="SIGINT"' in stop, stop
        gdb.start()
        assert machine.verb("status")["state"] == "running"
        gdb.interrupt()
        clock = gdb.value("$time")
        turns = gdb.value("beside")
        time.sleep(0.3)
        gdb.run("flushregs")
        assert gdb.value("$time") == clock and gdb.value("beside") == turns
        # A pause from elsewhere and a stop of ours do not undo each other.
        machine.verb("pause")
        gdb.start()
        assert machine.verb("status") == machine.verb("status")
        gdb.interrupt()
        machine.verb("resume")
        assert gdb.value("beside") == turns
        gdb.run("set var turns = 0")
        gdb.go()
        machine.finish(9)


@every_engine
def test_detach_goes_on(engine):
    machine, gdb = session(engine)
    with machine, gdb:
        gdb.run("break work")
        gdb.go()
        gdb.run("detach")
        machine.finish(VERDICT)
        assert not os.path.exists(machine.where)


@every_engine
def test_a_debugger_that_dies(engine):
    machine, gdb = session(engine)
    with machine:
        with gdb:
            gdb.run("watch watched")
            gdb.run("break work")
            gdb.go()
        machine.finish(VERDICT)


@every_engine
def test_kill_ends_the_machine(engine):
    machine, gdb = session(engine)
    with machine, gdb:
        gdb.run("kill")
        machine.finish(INTERRUPTED)


@every_engine
def test_stops_do_not_change_what_a_deterministic_machine_does(engine):
    counts = []
    for stops in (False, True):
        machine, gdb = session(engine, "--deterministic")
        with machine, gdb:
            gdb.run("set var turns = 1000")
            if stops:
                gdb.run("watch seen")
                gdb.go("continue", 'reason="watchpoint-trigger"')
                gdb.run("delete")
                gdb.run("tbreak hart1")
                gdb.go("continue", 'thread-id="2"')
                gdb.run("awatch beside")
                for _ in range(3):
                    gdb.go("continue", 'thread-id="2"')
                gdb.run("delete")
            gdb.run("awatch verdict")
            gdb.go("continue", 'reason="access-watchpoint-trigger"', 'thread-id="1"')
            counts.append((gdb.value("$minstret"), gdb.value("beside"), gdb.value("$time")))
            gdb.run("delete")
            gdb.go()
            machine.finish(9)
    assert counts[0] == counts[1] and min(counts[0]) > 0, counts


def test_over_tcp():
    process = subprocess.Popen(
        [TRAPEZE, "run", "--firmware", DEBUGGEE, "--memory", "32M", "--cpus", "2", "--gdb",
         "tcp:0", "--gdb-wait"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    where = re.search(r"localhost:\d+", line).group()
    with Gdb(where, elf=DEBUGGEE) as gdb:
        gdb.run("break work")
        gdb.go()
        gdb.run("delete")
        gdb.go()
    assert process.wait(timeout=LIMIT_S) == VERDICT
    process.stderr.close()


def test_options_that_make_no_sense():
    for options, part in ((["--gdb", "tcp:70000"], "tcp:PORT"), (["--gdb", "/tmp/x"], "unix:PATH"),
                          (["--gdb", "tcp:"], "tcp:PORT"), (["--gdb-wait"], "--gdb")):
        done = subprocess.run([TRAPEZE, "run", "--firmware", DEBUGGEE, *options],
                              capture_output=True, stdin=subprocess.DEVNULL, text=True,
                              check=False)
        assert done.returncode == USAGE and part in done.stderr, done


# ---- clients that are not GDB ----

def packet(contents):
    return b"$%s#%02x" % (contents, sum(contents) & 0xff)


class Raw:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(path)
        self.data = b""

    def until(self, pattern):
        while not (match := re.search(pattern, self.data, re.S)):
            more = self.socket.recv(65536)
            assert more, (pattern, self.data)
            self.data += more
        self.data = self.data[match.end():]
        return match.group(1) if match.groups() else match.group()

    def ask(self, contents):
        self.socket.sendall(packet(contents))
        return self.until(rb"^\+*\$(.*?)#[0-9a-f]{2}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def test_protocol_errors():
    with Debuggee(ENGINES[0]) as machine:
        with Raw(machine.where) as raw:
            raw.socket.sendall(b"$g#00")
            raw.until(rb"^-")
            first = raw.ask(b"g")
            assert len(first) == 65 * 16
            raw.socket.sendall(b"-")
            assert raw.until(rb"^\+*\$(.*?)#..") == first
            assert raw.ask(b"vMustReplyEmpty") == b""
            for bad in (b"mxyz,4", b"m0,", b"p", b"pffffffffffffffffff", b"P0", b"G12", b"Z9,0,1",
                        b"Z2,ffffffffffffffff,8", b"Z2,0,0", b"Hg9", b"T3", b"vCont;x", b"vCont;",
                        b"vCont;c:9", b"M80000000,4:12", b"X80000000,ffffffff:a",
                        b"qXfer:features:read:target.xml:fffffff,10", b"Hq1"):
                assert raw.ask(bad).startswith(b"E"), bad
            for number in range(200):
                answer = raw.ask(b"Z0,%x,2" % (0x80000000 + 2 * number))
                assert answer == (b"OK" if number < 128 else b"E1c"), number
            assert raw.ask(b"m7ffffffffffffff0,40").startswith(b"E")
            assert raw.ask(b"m81fffff0,40") == b"0" * 32  # as much as there is
            assert raw.ask(b"QStartNoAckMode") == b"OK"
            raw.data = b""
            raw.socket.sendall(packet(b"qC"))
            assert raw.until(rb"^\$(.*?)#..") == b"QC1"
            raw.socket.sendall(b"$" + b"A" * 20000)
            try:
                while raw.socket.recv(65536):
                    pass
            except ConnectionResetError:
                pass
        machine.finish(VERDICT)


def test_packets_while_the_guest_runs():
    with Debuggee(ENGINES[-1]) as machine, Raw(machine.where) as raw:
        assert raw.ask(b"QStartNoAckMode") == b"OK"
        raw.ask(b"?")
        address = int(re.search(r"([0-9a-f]+) \w turns", subprocess.run(
            ["riscv64-linux-gnu-nm", DEBUGGEE], capture_output=True, text=True,
            check=True).stdout).group(1), 16)
        assert raw.ask(b"M%x,8:" % address + b"ff" * 7 + b"0f") == b"OK"
        raw.socket.sendall(packet(b"vCont;c"))
        for contents in (b"g", b"m80000000,4", b"c", b"s", b"D", b"k", b"Z0,0,2"):
            assert raw.ask(contents) == b"E10", contents
        raw.socket.sendall(b"\3")
        assert raw.until(rb"^\$(.*?)#..") == b"T02thread:1;"
        assert len(raw.ask(b"g")) == 65 * 16
        # A second client is heard when the first has gone.
        with Raw(machine.where) as second:
            raw.socket.close()
            second.ask(b"qC")
            assert second.ask(b"M%x,8:" % address + b"00" * 8) == b"OK"
            second.socket.sendall(packet(b"c"))
            second.until(rb"\$W(09|0a)#")
        machine.finish(9)


def test_an_answer_that_nobody_reads():
    with Debuggee(ENGINES[0]) as machine:
        with Raw(machine.where) as raw:
            assert raw.ask(b"QStartNoAckMode") == b"OK"
            raw.socket.setblocking(False)
            flood = packet(b"m80000000,1ff0") * 1000
            sent = 0
            for _ in range(100):
                try:
                    sent += raw.socket.send(flood)
                except BlockingIOError:
                    break
            else:
                raise AssertionError(f"{sent} bytes were read and not one answer taken")
        machine.finish(VERDICT)


# ---- Linux ----

def test_linux():
    tiny = image("tiny", TRAPEZE)
    for engine in ENGINES:
        where = scratch(f"linux-{engine}.gdb")
        with Machine(TRAPEZE, "--kernel", tiny + "/Image", "--initrd", tiny + "/initrd",
                     "--memory", "128M", "--cpus", "2", "--engine", engine, "--gdb",
                     "unix:" + where) as machine:
            machine.shell()
            machine.run("mount -t proc proc /proc 2>/dev/null; echo 0 > /proc/sys/kernel/kptr_restrict")
            symbol = machine.run("grep -w version_proc_show /proc/kallsyms")
            if not symbol.strip() or symbol.startswith("0000000000000000"):
                raise tap.Skip("the kernel does not tell its symbols")
            address = int(symbol.split()[0], 16)
            with Gdb(where, "architecture riscv:rv64") as gdb:
                gdb.run(f"hbreak *{address:#x}")
                gdb.start()
                machine.send("cat /proc/version; echo after'='\n")
                gdb.stopped()
                assert gdb.value("$pc") == address
                assert gdb.value("$priv & 3") == 1 and gdb.value("$satp") != 0
                gdb.run("x/4i $pc")
                assert gdb.value("*(unsigned short *)$pc & 3") in (0, 1, 2, 3)
                for _ in range(20):
                    gdb.go("stepi")
                gdb.run("delete")
                gdb.run("detach")
            text, _ = machine.expect(rb"after=")
            assert "Linux version" in text, text
            machine.shell()
            machine.poweroff()


def main():
    signal.alarm(3000)
    return tap.main([test for name, test in list(globals().items()) if name.startswith("test_")])


sys.exit(main())
