#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs bench/guest natively, under Trapeze's engines and under QEMU, and compares.

Every system runs the same rows once per round, one system after the other; what counts is the
median of a row's rounds. All guests have the same kernel, initramfs, memory and number of harts, for
the rows about devices (bench/devices.py) the same disks and a network, and otherwise each machine's defaults: nothing is tuned for anybody. Results go to bench/results/ as
JSON and SVG. Exit status 1: a run failed, or two systems computed different things.
"""
import argparse
import hashlib
import json
import os
import platform
import re
import select
import shlex
import shutil
import subprocess
import sys
import time

import devices
import report
from initramfs import append_program

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(HERE)
ENGINES = ["interp", "dbt"]
QUICK_ROWS = ["fib", "matmul", "hash", "getppid", "fork", "touch", "pipe", "switch"]
PARALLEL_ROWS = [report.ALONE, report.TOGETHER]
APPEND = "console=ttyS0 rdinit=/bench -- "

RESULT = re.compile(r"^(\w+) (\d+\.\d+) ([0-9a-f]{16})$")
INIT = re.compile(r"^bench-init (\d+\.\d+)$")
QUIET = re.compile(r"^bench-quiet (\d+\.\d+)$")
DONE = re.compile(r"^bench-done (\d+) (\d+\.\d+)$")


class Failure(Exception):
    pass


def say(text):
    print("bench: " + text, file=sys.stderr, flush=True)


class System:
    """Something that runs rows. kind: native, qemu or trapeze."""

    def __init__(self, name, kind, version, command):
        self.name, self.kind, self.version = name, kind, version
        self.command = command  # of the list of rows, or of what else there is to start: a Job


class Job:
    """What a guest is started with: harts; (kernel, initrd, command line); devices of each kind of machine."""

    def __init__(self, cpus, linux, equipment=None):
        self.cpus, self.linux, self.equipment = cpus, linux, equipment

    def devices(self, kind):
        return getattr(self.equipment, kind)() if self.equipment else []


def lines_of(process, patience):
    """(line, host time of its end); ends with the output. Kills a process silent for too long."""
    pending = b""
    while True:
        if not select.select([process.stdout], [], [], patience)[0]:
            process.kill()
            raise Failure("silent for %d s" % patience)
        data = os.read(process.stdout.fileno(), 65536)
        now = time.monotonic()
        if not data:
            return
        pending += data
        *whole, pending = pending.split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").strip("\r"), now


class Run:
    """One run of a system: seconds and checksum by row, what the guest said, how true its clock is."""

    def __init__(self, system, rows, job, patience, progress):
        self.seconds, self.checksums, self.console = {}, {}, []
        self.clock = None  # the guest's seconds for one of the host's
        self.kernel = None
        self.quiet = None  # the guest's age in its own seconds when its kernel had come to rest
        self.progress = progress
        self.begun = time.monotonic()
        self.process = subprocess.Popen(system.command(rows, job), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            self.follow(patience)
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise Failure("did not end after its rows" + self.tail())
        except Failure as failure:
            raise Failure(str(failure) + self.tail())
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        missing = [row for row in rows if row not in self.seconds]
        if status != 0 or missing:
            raise Failure("exit status %d, rows without a result: %s%s" %
                          (status, ", ".join(missing) or "none", self.tail()))
        if self.clock and abs(self.clock - 1) > 0.02:
            say("%s: its second lasts %.3f of the host's" % (system.name, 1 / self.clock))

    def tail(self):
        return "".join("\n    | " + line for line in self.console[-15:])

    def follow(self, patience):
        init = None
        for line, now in lines_of(self.process, patience):
            self.console.append(line)
            result, began, done = RESULT.match(line), INIT.match(line), DONE.match(line)
            if result:
                self.note(result[1], float(result[2]))
                self.checksums[result[1]] = result[3]
            elif began:
                init = (float(began[1]), now)
                self.note("boot", now - self.begun)
            elif QUIET.match(line):
                self.quiet = float(QUIET.match(line)[1])
            elif done and init:
                # Of less than a second the console's own delays are too large a part.
                if now - init[1] > 1:
                    self.clock = (float(done[2]) - init[0]) / (now - init[1])
            elif "Linux version" in line:
                self.kernel = re.sub(r"^\[.*?\] ", "", line)

    def note(self, row, seconds):
        self.seconds[row] = seconds
        self.progress(row, seconds)

    def add(self, other):
        """Of another guest of the same system and round; its boot is not this one's."""
        self.seconds.update({row: value for row, value in other.seconds.items() if row != "boot"})
        self.checksums.update(other.checksums)


class LoginRun:
    """One start of Debian up to its login prompt."""

    def __init__(self, system, job, patience, progress):
        begun, text = time.monotonic(), b""
        process = subprocess.Popen(system.command([], job), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        try:
            while not job.equipment.PROMPT.search(text):
                left = begun + patience - time.monotonic()
                if left < 0 or not select.select([process.stdout], [], [], left)[0]:
                    raise Failure("no login prompt in %d s" % patience)
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    raise Failure("ended before its login prompt:\n" + text.decode(errors="replace")[-1000:])
                text = text[-4096:] + data
        finally:
            process.kill()
            process.wait()
        self.seconds, self.checksums = {devices.LOGIN: time.monotonic() - begun}, {}
        progress(devices.LOGIN, self.seconds[devices.LOGIN])


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return (done.stdout + done.stderr).strip().split("\n")[0]
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def knows_engine(trapeze, engine):
    """An engine is checked before the firmware is looked at, which here is none."""
    done = subprocess.run([trapeze, "run", "--engine", engine, "--firmware", os.devnull, "--console", "none"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return "no engine" not in done.stderr


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def commit_of(args):
    """The commit that the measured trapeze was built from, or why nobody can tell: the source tree
    of the build directory says so only while the binary is newer than everything in it."""
    if os.path.realpath(args.trapeze) != os.path.realpath(os.path.join(args.build, "trapeze")):
        return "commit unknown: not from the build directory"
    try:
        with open(os.path.join(args.build, "meson-info", "meson-info.json")) as f:
            source = json.load(f)["directories"]["source"]
    except (OSError, ValueError, KeyError):
        return "commit unknown: no build directory of meson"
    plan = subprocess.run(["ninja", "-C", args.build, "-n", "trapeze"], capture_output=True, text=True)
    if plan.returncode != 0 or "no work to do" not in plan.stdout:
        return "commit unknown: the sources have changed since the build"
    # A tree inside another repository (an unpacked archive, say) is not that repository's commit.
    top = subprocess.run(["git", "-C", source, "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    if top.returncode != 0 or os.path.realpath(top.stdout.strip()) != os.path.realpath(source):
        return "commit unknown: its source is no git work tree"
    return first_line(["git", "-C", source, "describe", "--always", "--dirty"])


def image(name):
    done = subprocess.run([os.path.join(SOURCE, "images", "build"), name],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failure("images/build %s could not make the guest's image" % name)
    return done.stdout.strip().split("\n")[-1]


def all_systems(args):
    """By name, in the order they run in."""
    guest = ["-m", args.memory]

    def linux(rows, job):
        kernel, initrd, append = job.linux
        return ["--kernel", kernel, "--initrd", initrd, "--append", append + " ".join(rows)]

    def qemu(path):
        return lambda rows, job: [path, "-M", "virt", *guest, "-smp", str(job.cpus), "-display", "none",
                                  "-monitor", "none", "-serial", "stdio", "-no-reboot",
                                  *[word.replace("--", "-", 1) if word.startswith("--") else word
                                    for word in linux(rows, job)], *job.devices("qemu")]

    def trapeze(engine):
        return lambda rows, job: [args.trapeze, "run", "--engine", engine, *guest, "--cpus", str(job.cpus),
                                  "--no-reboot", *linux(rows, job), *job.devices("trapeze")]

    host = os.path.join(args.build, "bench", "guest-host")
    systems = [System("native", "native", platform.release(), lambda rows, job: [host, *rows])]
    for word in [args.qemu] + args.also_qemu:
        name, _, path = word.rpartition("=")
        name = name or "qemu"
        if shutil.which(path):
            systems.append(System(name, "qemu", first_line([path, "--version"]), qemu(path)))
        elif not args.systems or name in args.systems:
            raise Failure("%s is not there; 'scripts/install-packages.sh bench' installs Debian's, "
                          "and --systems names what to run" % path)
    version = first_line([args.trapeze, "version"])
    commit = "%s; sha256 %s" % (commit_of(args), digest(args.trapeze)[:16])
    for engine in args.engines or ENGINES:
        if knows_engine(args.trapeze, engine):
            systems.append(System(engine, "trapeze", "%s (%s)" % (version, commit), trapeze(engine)))
        elif args.engines or engine in (args.systems or []):
            raise Failure("%s has no engine '%s'" % (args.trapeze, engine))
    if args.systems:
        unknown = set(args.systems) - {system.name for system in systems}
        if unknown:
            raise Failure("no system is called %s; there are %s" %
                          (", ".join(sorted(unknown)), ", ".join(s.name for s in systems)))
        systems = [system for system in systems if system.name in args.systems]
    return systems


def progress_line(head):
    """Says each figure as it comes, all on one line."""
    print(head, end="", file=sys.stderr, flush=True)

    def figure(row, seconds):
        print(" %s %.3g" % (row, seconds), end="", file=sys.stderr, flush=True)
    return figure


class Plan:
    """The rows of a round, and the jobs that run them: one guest for those of the processor, one for those
    of two harts at once, one for those of devices, one for the login."""

    def __init__(self, args, rows, io_rows, guest):
        self.login = devices.LOGIN in rows
        self.io = [row for row in rows if row in io_rows]
        self.parallel = [row for row in rows if row in PARALLEL_ROWS]
        self.plain = [row for row in rows if row not in io_rows and row not in [*PARALLEL_ROWS, devices.LOGIN]]
        self.patience = args.patience
        tiny = args.image or image("tiny")
        initrd = os.path.join(args.build, "bench", "initrd")
        append_program(os.path.join(tiny, "initrd"), guest, initrd)
        kernel, scratch = os.path.join(tiny, "Image"), os.path.join(args.build, "bench", "devices")
        self.plain_job = Job(args.cpus, (kernel, initrd, APPEND))
        self.parallel_job = Job(2, (kernel, initrd, APPEND))
        if self.io:
            sent = max(int(row["amount"] * 1e6) for row in io_rows.values() if row["what"].startswith("TCP"))
            equipment = devices.Devices(scratch, args.trapeze, sent)
            self.io_job = Job(args.cpus, (kernel, initrd, equipment.append() + APPEND), equipment)
        if self.login:
            equipment = devices.Login(scratch, image("debian"))
            self.login_job = Job(args.cpus, equipment.linux(), equipment)

    def run(self, system, progress):
        whole, native = None, system.kind == "native"
        if self.plain or not (self.parallel or self.io or self.login):
            whole = Run(system, self.plain, self.plain_job, self.patience, progress)
        if self.parallel:
            part = Run(system, self.parallel, self.parallel_job, self.patience, progress)
            if whole:
                whole.add(part)
            whole = whole or part
        if self.io and not native:
            self.io_job.equipment.fresh()
            part = Run(system, self.io, self.io_job, self.patience, progress)
            if whole:
                whole.add(part)
            whole = whole or part
        if self.login and not native:
            self.login_job.equipment.fresh()
            part = LoginRun(system, self.login_job, self.patience, progress)
            if whole:
                whole.add(part)
            whole = whole or part
        return whole

    def commands(self, system):
        jobs = [(self.plain, self.plain_job)] if self.plain or not (self.parallel or self.io or self.login) else []
        jobs += [(self.parallel, self.parallel_job)] if self.parallel else []
        if system.kind != "native":
            jobs += [(self.io, self.io_job)] if self.io else []
            jobs += [([], self.login_job)] if self.login else []
        return [system.command(rows, job) for rows, job in jobs]


def measure(args, systems, plan):
    """Runs all rounds; returns {system: [Run, ...]}."""
    runs = {system.name: [] for system in systems}
    total, number = args.runs * len(systems), 0
    for _ in range(args.runs):
        for system in systems:
            number += 1
            progress = progress_line("[%*d/%d] %-8s" % (len(str(total)), number, total, system.name))
            try:
                run = plan.run(system, progress)
            except Failure as failure:
                print(file=sys.stderr)
                raise Failure("%s: %s" % (system.name, failure))
            if run:
                runs[system.name].append(run)
            print(file=sys.stderr)
    return runs


def check_sums(runs, rows):
    for row in rows:
        sums = {name: sorted({run.checksums[row] for run in of if row in run.checksums})
                for name, of in runs.items()}
        if len({value for values in sums.values() for value in values}) > 1:
            raise Failure("%s: the systems computed different things: %s" % (row, sums))


def cpu_model():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe(args, systems, runs, load):
    kernels = {run.kernel for of in runs.values() for run in of if getattr(run, "kernel", None)}
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": "bench/bench.py " + shlex.join(sys.argv[1:]),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "kernel": platform.release(),
                    "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
                    "load_before": load},
        "guest": {"memory": args.memory, "cpus": args.cpus, "kernel": sorted(kernels), "append": APPEND,
                  "program_sha256": {name: digest(os.path.join(args.build, "bench", name))
                                     for name in ("guest-host", "guest-riscv64")}},
        "compilers": [first_line([compiler, "--version"])
                      for compiler in ("gcc", "riscv64-linux-gnu-gcc")],
        "systems": {s.name: {"kind": s.kind, "version": s.version} for s in systems},
        "quiet_after": {name: [getattr(run, "quiet", None) for run in of] for name, of in runs.items()},
        "clock": {name: [getattr(run, "clock", None) for run in of] for name, of in runs.items()},
    }


def words(text):
    return [word for word in text.split(",") if word]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", default=os.path.join(SOURCE, "build"), help="the build directory (default: build)")
    add("--trapeze", help="the trapeze to measure (default: the one in the build directory)")
    add("--engines", type=words, metavar="A,B",
        help="engines of trapeze (default: those it has of %s)" % ",".join(ENGINES))
    add("--qemu", default="qemu-system-riscv64", metavar="PATH", help="Debian's QEMU, the column 'qemu'")
    add("--also-qemu", action="append", default=[], metavar="NAME=PATH", help="a further QEMU, a column NAME")
    add("--systems", type=words, metavar="A,B", help="only these of native, qemu, NAME, interp, dbt")
    add("--rows", type=words, metavar="A,B", help="only these rows ('boot' is always measured); 'io': all of disks, network and login")
    add("--runs", type=int, help="rounds (default: 5; with --quick 3)")
    add("--quick", action="store_true", help="only the rows " + ",".join(QUICK_ROWS))
    add("--memory", default="512M", help="of each guest (default: 512M)")
    add("--cpus", type=int, default=1, help="harts of each guest (default: 1)")
    add("--image", metavar="DIR", help="directory with Image and initrd (default: that of images/build tiny)")
    add("--output", default=os.path.join(HERE, "results"), metavar="DIR", help="default: bench/results")
    add("--patience", type=int, default=600, metavar="S", help="a system silent for so long has failed")
    add("--show-command", action="store_true", help="print the command of each system and stop")
    args = parser.parse_args()
    args.trapeze = args.trapeze or os.path.join(args.build, "trapeze")
    args.runs = args.runs or (3 if args.quick else 5)
    for word in args.also_qemu:
        if "=" not in word:
            parser.error("--also-qemu wants NAME=PATH, not '%s'" % word)
    return args


def known_rows(args):
    host = os.path.join(args.build, "bench", "guest-host")
    guest = os.path.join(args.build, "bench", "guest-riscv64")
    for path in (args.trapeze, host, guest):
        if not os.access(path, os.X_OK):
            raise Failure("%s is not there; 'make bench' builds it, or: ninja -C %s trapeze "
                          "bench/guest-host bench/guest-riscv64" % (path, args.build))
    listed = subprocess.run([host, "--list"], capture_output=True, text=True, check=True).stdout
    known = dict(line.split(" ", 1) for line in listed.splitlines())
    io_rows = devices.known_rows(host)
    device_rows = [*io_rows, devices.LOGIN]
    rows = args.rows or (QUICK_ROWS if args.quick else [*known, *device_rows])
    rows = [one for row in rows if row != "boot" for one in (device_rows if row == "io" else [row])]
    known.update({row: of["what"] for row, of in io_rows.items()}, **{devices.LOGIN: devices.LOGIN_WHAT})
    for row in rows:
        if row not in known:
            raise Failure("there is no row '%s', only: %s" % (row, ", ".join(known)))
    if len(os.sched_getaffinity(0)) < 2 and set(rows) & set(PARALLEL_ROWS):
        say("skipped, this machine has one processor for us: " + ", ".join(PARALLEL_ROWS))
        rows = [row for row in rows if row not in PARALLEL_ROWS]
    return rows, known, io_rows, guest


def main():
    args = arguments()
    rows, known, io_rows, guest = known_rows(args)
    systems = all_systems(args)
    plan = Plan(args, rows, io_rows, guest)
    if args.show_command:
        for system in systems:
            for command in plan.commands(system):
                print("%s: %s" % (system.name, shlex.join(command)))
        return
    load = os.getloadavg()[0]
    if load > 0.3:
        say("this machine is busy (load %.1f): figures will be high and vary" % load)
    runs = measure(args, systems, plan)
    check_sums(runs, rows)
    systems = [system for system in systems if runs[system.name]]  # native: not if there are only devices
    result = describe(args, systems, runs, load)
    result["rows"] = report.summarize(systems, runs, ["boot"] + rows, known, io_rows)
    result["means"] = report.means(result)
    print(report.table(result))
    os.makedirs(args.output, exist_ok=True)
    stem = os.path.join(args.output, time.strftime("%Y-%m-%d-%H%M%S") + ("-quick" if args.quick else ""))
    report.save(result, stem)
    print("saved: %s.json, %s.svg" % (stem, stem))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        say(str(failure))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
