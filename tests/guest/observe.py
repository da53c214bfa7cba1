#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What can be seen of a running machine, and what can be asked of its translator: stats, profile,
traces, names for Linux perf, the code cache's bound, host CPU features, the choice of the engine.

    observe.py TRAPEZE LOOP.elf EXIT.elf
"""
import glob
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import time

import tap
from machine import LIMIT_S, Machine, image, scratch

TRAPEZE, LOOP, EXIT = sys.argv[1:4]
EXIT_CODE = 7
ENGINES = ("dbt", "interp")


def trapeze(*arguments, **more):
    return subprocess.run([TRAPEZE, *arguments], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=LIMIT_S, **more)


def looping(*options):
    return Machine(TRAPEZE, "--firmware", LOOP, "--memory", "32M", *options)


def ready(machine):
    """The control socket answers."""
    while not os.path.exists(machine.control) or "not built" in trapeze(
            "control", machine.control, "status").stderr:
        time.sleep(0.01)


def stats(machine):
    done = trapeze("stats", "--json", machine.control)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def linux(*options):
    folder = image("tiny", TRAPEZE)
    return Machine(TRAPEZE, "--kernel", folder + "/Image", "--initrd", folder + "/initrd",
                   "--memory", "128M", "--append", "console=ttyS0", *options)


# ---- counters ----

def test_instructions_are_live_under_every_engine():
    for engine in ENGINES:
        with looping("--engine", engine) as machine:
            ready(machine)
            seen = 0
            for _ in range(20):
                while (now := machine.verb("status")["instructions"]) == seen:
                    time.sleep(0.001)
                assert now > seen, engine
                seen = now


def test_stats_of_a_linux_boot():
    with linux("--cpus", "2", "--count-blocks") as machine:
        machine.shell()
        report = stats(machine)
        assert report["engine"] == "dbt" and len(report["vcpus"]) == 2
        first = report["vcpus"][0]
        for name in ("instructions", "exits-ecall", "exits-wait", "tlb-refills-load",
                     "tlb-refills-fetch", "tlb-refills-store", "tlb-flushes-all",
                     "blocks-translated", "jumps-linked", "inline-caches",
                     "instructions-interpreted", "code-bytes", "entered-code", "chain-hits",
                     "blocks-run", "cache-bytes-used"):
            assert first[name] > 0, (name, first)
        assert first["instructions-interpreted"] < first["instructions"] / 2, first
        assert first["chain-hits"] > 2 * first["entered-code"], first
        assert first["blocks-run"] <= first["instructions"]
        assert first["cache-bytes-used"] <= first["cache-bytes"] <= 64 << 20
        assert sum(vcpu["instructions"] for vcpu in report["vcpus"]) >= report["instructions"]
        table = trapeze("stats", machine.control)
        assert table.returncode == 0 and "vcpu1" in table.stdout, table
        assert re.search(r"^blocks-translated +\d+ +\d+ +\d+$", table.stdout, re.M), table.stdout
        again = stats(machine)["vcpus"][0]
        assert all(again[name] >= first[name] for name in first if name != "cache-bytes-used")
        machine.poweroff()


def test_stats_under_the_interpreter():
    with looping("--engine", "interp") as machine:
        ready(machine)
        report = stats(machine)
        assert report["engine"] == "interp"
        assert "instructions" in report["vcpus"][0]
        assert "blocks-translated" not in report["vcpus"][0]


def test_commands_find_the_only_machine():
    runtime = scratch("runtime")
    os.mkdir(runtime, 0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
    none = trapeze("stats", env=environment)
    assert none.returncode == 120 and "no machine runs" in none.stderr, none
    with subprocess.Popen([TRAPEZE, "run", "--firmware", LOOP, "--memory", "32M"], env=environment,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + LIMIT_S
            while (done := trapeze("stats", env=environment)).returncode != 0:
                assert time.monotonic() < end, done
            assert "instructions" in done.stdout
        finally:
            process.kill()


# ---- profile ----

def test_profile_finds_the_loop():
    for engine in ENGINES:
        with looping("--engine", engine) as machine:
            ready(machine)
            done = trapeze("profile", "--seconds", "1", "--json", machine.control)
            assert done.returncode == 0, done
            report = json.loads(done.stdout)
            assert report["samples"] > 20, report
            assert report["lost"] == 0
            assert sum(place["count"] for place in report["places"]) == report["samples"]
            assert all(place["mode"] == "M" for place in report["places"])
            pcs = [int(place["pc"], 16) for place in report["places"]]
            assert all(0x80000000 <= pc < 0x80000100 for pc in pcs), report
            assert machine.verb("status")["state"] == "running"


def test_profile_by_function():
    symbols = scratch("map")
    with open(symbols, "w", encoding="ascii") as out:
        out.write("0000000080000000 T the_loop\n0000000090000000 T behind\n")
    with looping() as machine:
        ready(machine)
        done = trapeze("profile", "-s", "1", "--symbols", symbols, machine.control)
        assert done.returncode == 0, done
        assert re.search(r"^100.00% +\d+  M  0x0000000080000000  the_loop$", done.stdout, re.M), done
        bad = trapeze("profile", "--symbols", LOOP + ".none", machine.control)
        assert bad.returncode == 121 and ".none" in bad.stderr, bad
        bad = trapeze("profile", "--frequency", "0", machine.control)
        assert bad.returncode == 120 and "--frequency" in bad.stderr, bad


def test_observing_does_not_change_what_a_deterministic_machine_does():
    logs = []
    for watched in (False, True):
        with linux("--deterministic=3", "--cpus", "2") as machine:
            if watched:
                ready(machine)
                profile = subprocess.Popen(  # pylint: disable=consider-using-with
                    [TRAPEZE, "profile", "--seconds", "1", "--frequency", "5000", machine.control],
                    stdout=subprocess.DEVNULL)
                for _ in range(30):
                    stats(machine)
            machine.shell()
            if watched:
                assert profile.wait(timeout=LIMIT_S) == 0
            log = machine.log.decode(errors="replace")
        logs.append([line for line in log.splitlines() if re.match(r"\[ *\d+\.\d+\] ", line)])
    assert len(logs[0]) > 100
    for plain, watched in zip(*logs):
        assert plain == watched


# ---- traces ----

def test_traces():
    where = scratch("trace")
    with linux("--trace", "blocks,exits,mmu:" + where) as machine:
        machine.shell()
        machine.poweroff()
    with open(where, encoding="ascii") as file:
        text = file.read()
    for pattern in (r"^vcpu0 block pc=[0-9a-f]+ mode=S instructions=\d+ bytes=\d+ ",
                    r"^vcpu0   [0-9a-f]+  \w+", r"^vcpu0 exit ecall pc=[0-9a-f]+ retired=\d+$",
                    r"^vcpu0 left-code jump pc=[0-9a-f]+ retired=\d+$",
                    r"^vcpu0 mmu refill load va=[0-9a-f]+ gpa=[0-9a-f]+ satp=[0-9a-f]+$",
                    r"^vcpu0 mmu flush \w+$"):
        assert re.search(pattern, text, re.M), pattern
    assert all(line.startswith("vcpu0 ") for line in text.splitlines())


def test_a_trace_of_one_topic_goes_to_standard_error():
    done = trapeze("run", "--firmware", EXIT, "--trace", "exits")
    assert done.returncode == EXIT_CODE, done
    lines = done.stderr.splitlines()
    assert lines and all(re.match(r"vcpu0 (exit|left-code) ", line) for line in lines), done


# ---- perf ----

def test_perf_map():
    with looping("--perf", "map", "--engine", "dbt") as machine:
        ready(machine)
        end = time.monotonic() + LIMIT_S
        while stats(machine)["vcpus"][0]["blocks-translated"] == 0:
            assert time.monotonic() < end
        pid = greeting(machine)["pid"]
        with open(f"/tmp/perf-{pid}.map", encoding="ascii") as file:
            lines = file.read().splitlines()
        os.unlink(f"/tmp/perf-{pid}.map")
        assert lines
        for line in lines:
            match = re.fullmatch(r"([0-9a-f]+) ([0-9a-f]+) guest-M( loop)? 0x[0-9a-f]+", line)
            assert match and int(match.group(1), 16) > 4096 and int(match.group(2), 16) > 0, line


def greeting(machine):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(machine.control)
        size = struct.unpack("<I", connection.recv(4, socket.MSG_WAITALL))[0]
        return json.loads(connection.recv(size, socket.MSG_WAITALL))


def test_jitdump():
    folder = scratch("jit")
    os.mkdir(folder)
    with linux("--cpus", "2", "--perf", "jitdump:" + folder) as machine:
        machine.shell()
        translated = [vcpu["blocks-translated"] for vcpu in stats(machine)["vcpus"]]
        machine.poweroff()
    [name] = glob.glob(folder + "/jit-*.dump")
    with open(name, "rb") as file:
        data = file.read()
    magic, version, size, mach, _, pid, begun, flags = struct.unpack_from("=IIIIIIQQ", data)
    assert (magic, version, size, mach, flags) == (0x4a695444, 1, 40, 62, 0)
    assert name.endswith(f"jit-{pid}.dump")
    at, loads, last, threads = size, 0, begun, set()
    while at < len(data):
        kind, size, when = struct.unpack_from("=IIQ", data, at)
        assert size >= 16 and at + size <= len(data) and when >= last, (kind, size, when)
        last = when
        if kind == 3:
            assert size == 16 and at + size == len(data)
            break
        assert kind == 0, kind
        owner, thread, vma, code, code_size, index = struct.unpack_from("=IIQQQQ", data, at + 16)
        assert owner == pid and vma == code and index == loads
        end = data.index(b"\0", at + 56)
        assert re.fullmatch(rb"guest-[USM]( loop)? 0x[0-9a-f]+", data[at + 56:end])
        assert end + 1 + code_size == at + size
        threads.add(thread)
        loads += 1
        at += size
    else:
        raise AssertionError("no closing record")
    assert loads >= sum(translated) > 1000, (loads, translated)
    # A thread's own number would be one of the worker's PID namespace, which perf is not in.
    assert threads == {pid}, threads


# ---- the translator's options ----

def test_a_tiny_code_cache_evicts_and_works():
    with linux("--code-cache", "256K", "--cpus", "2") as machine:
        machine.shell()
        assert machine.run("seq 1 3000 | sha256sum").split()[0] == \
            subprocess.run("seq 1 3000 | sha256sum", shell=True, capture_output=True, text=True,
                           check=True).stdout.split()[0]
        first = stats(machine)["vcpus"][0]
        assert first["cache-generations-evicted"] > 100, first
        assert first["cache-blocks-evicted"] > 1000, first
        assert first["cache-bytes-used"] <= first["cache-bytes"] <= 256 << 10, first
        machine.poweroff()


def test_sizes_that_make_no_sense():
    for size in ("0", "100K", "2G", "1", "x", "257"):
        done = trapeze("run", "--firmware", EXIT, "--code-cache", size)
        expected = EXIT_CODE if size in ("1", "257") else 120
        assert done.returncode == expected, (size, done)


def test_host_cpu_features():
    for good in ("none", "-fma", "-fma,-bmi2,-bmi1,-lzcnt,-popcnt,-avx", "none,-fma"):
        done = trapeze("run", "--firmware", EXIT, "--host-cpu-features", good)
        assert done.returncode == EXIT_CODE, (good, done)
    for bad in ("fma", "-sse9", "", "-"):
        done = trapeze("run", "--firmware", EXIT, "--engine", "dbt", "--host-cpu-features", bad)
        assert done.returncode == (120 if bad else EXIT_CODE), (bad, done)
        assert not bad or "popcnt" in done.stderr, done


def test_options_that_make_no_sense():
    for option, value in (("--trace", "blocks,jumps"), ("--trace", ""), ("--perf", "graph"),
                          ("--perf", "jitdump:"), ("--perf", "jitdumps")):
        done = trapeze("run", "--firmware", EXIT, option, value)
        assert done.returncode == 120, (option, value, done)
    done = trapeze("run", "--firmware", EXIT, "--trace", "mmu:/nonexistent/file")
    assert done.returncode == 121 and "/nonexistent/file" in done.stderr, done
    done = trapeze("run", "--firmware", EXIT, "--perf", "jitdump:/nonexistent")
    assert done.returncode == 121 and "/nonexistent" in done.stderr, done


def without_memory(*options):
    """A host that has no room for a large code cache, but for everything else."""
    limit = 900 << 20
    return trapeze("run", "--firmware", EXIT, "--memory", "64M", "--code-cache", "1G", *options,
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))


def test_the_default_engine():
    with looping() as machine:
        ready(machine)
        expected = "dbt" if os.uname().machine == "x86_64" else "interp"
        assert machine.verb("status")["engine"] == expected
    done = without_memory()
    assert done.returncode == EXIT_CODE, done
    assert "warning" in done.stderr and "'dbt' does not work here" in done.stderr, done
    done = without_memory("--engine", "dbt")
    assert done.returncode == 121 and "code-cache" in done.stderr, done


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
