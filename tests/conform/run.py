#!/usr/bin/env python3
"""Run one conformance guest and judge it.

  run.py --vmm build/trapeze [--engine interp] [--cpus N] [--timeout S] GUEST.elf
  run.py --qemu [--cpus N] GUEST.elf      Debian's qemu-system-riscv64 as an oracle for the guests

A guest passes when its last summary line says PASS with at least one check, nothing printed
"not ok", and the run ended with exit status 0: a machine that stops early, or a console that loses
bytes, must not look like success.  With --qemu, failures that README.md lists as QEMU's own
deviations are forgiven (and only those).  Prints TAP.
"""
import argparse
import fnmatch
import os
import re
import subprocess
import sys
import tempfile

MAX_SHOWN = 60
HERE = os.path.dirname(os.path.abspath(__file__))
QEMU_CPU = "rv64,h=false,zba=true,zbb=true,zbs=true,sstc=true,svinval=true,svnapot=true,svpbmt=true"


def deviations(guest):
    """Globs of check names from the deviation table of README.md."""
    globs = []
    for line in open(os.path.join(HERE, "README.md")):
        m = re.match(r"\|\s*`([\w*]+)`\s*\|\s*`([^`]+)`\s*\|", line)
        if m and fnmatch.fnmatch(guest, m.group(1)):
            globs.append(m.group(2))
    return globs


def command(args, console):
    if args.qemu:
        machine = "virt,aclint=off" + (",aia=aplic-imsic" if args.interrupts == "aia" else "")
        return ["qemu-system-riscv64", "-M", machine, "-cpu", QEMU_CPU, "-m", "32M", "-smp",
                str(args.cpus), "-bios", args.guest, "-display", "none", "-monitor", "none",
                "-serial", "file:" + console]
    return [args.vmm, "run", "--engine", args.engine, "--firmware", args.guest, "--memory", "32M",
            "--cpus", str(args.cpus), "--interrupts", args.interrupts, "--console",
            "file:" + console, *args.options]


def run(args, console):
    try:
        p = subprocess.run(command(args, console), stdin=subprocess.DEVNULL, timeout=args.timeout,
                           capture_output=True, text=True, errors="replace")
        status, output = p.returncode, p.stdout + p.stderr
    except subprocess.TimeoutExpired as e:
        status, output = "timeout after %d s" % args.timeout, str(e.stderr or "")
    text = open(console, errors="replace").read() if os.path.exists(console) else ""
    return status, output, text


def judge(args, status, text):
    """Returns (problems, forgiven)."""
    guest = os.path.splitext(os.path.basename(args.guest))[0]
    problems, forgiven = [], []
    known = deviations(guest) if args.qemu else []
    failed = re.findall(r"^not ok %s (.*)$" % re.escape(guest), text, re.M)
    for f in failed:
        name = f.rsplit(": ", 1)[0]
        (forgiven if any(fnmatch.fnmatchcase(name, g) for g in known) else problems).append(f)
    summary = re.search(r"^(PASS|FAIL) %s checks=(\d+) failures=(\d+)$" % re.escape(guest), text,
                        re.M)
    if not summary:
        problems.append("no summary line on the console: the guest did not reach its end")
    elif int(summary.group(2)) == 0:
        problems.append("the guest checked nothing")
    elif int(summary.group(3)) > len(failed):
        problems.append("%s failures, of which %d were printed" % (summary.group(3), len(failed)))
    if status != 0 and not (forgiven and status == 1):
        problems.append("exit status: %s" % status)
    return problems, forgiven, summary


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--vmm")
    ap.add_argument("--qemu", action="store_true")
    ap.add_argument("--engine", default="interp")
    ap.add_argument("--option", dest="options", action="append", default=[],
                        help="given to trapeze run, as --option=--name=value")
    ap.add_argument("--cpus", type=int, default=1)
    ap.add_argument("--interrupts", default="plic")
    ap.add_argument("--timeout", type=int, default=120)
    ap.add_argument("--show", action="store_true", help="print the console even when the guest passes")
    ap.add_argument("guest")
    args = ap.parse_args()
    if bool(args.vmm) == args.qemu:
        ap.error("give one of --vmm PROGRAM and --qemu")

    name = os.path.splitext(os.path.basename(args.guest))[0]
    if args.qemu and "*" in deviations(name):
        print("1..1\nok 1 - %s # SKIP the oracle lacks what this guest is about" % name)
        return 0
    with tempfile.TemporaryDirectory() as tmp:
        status, output, text = run(args, os.path.join(tmp, "console"))
    problems, forgiven, summary = judge(args, status, text)
    print("1..1")
    if forgiven:
        print("# %d known deviations of the oracle" % len(forgiven))
    for p in problems[:MAX_SHOWN]:
        print("# " + p)
    if len(problems) > MAX_SHOWN:
        print("# ... and %d more" % (len(problems) - MAX_SHOWN))
    if problems or args.show:
        for line in (text + output).splitlines():
            if args.show or not line.startswith("not ok"):
                print("#   | " + line)
    checks = summary.group(2) if summary else 0
    print("%sok 1 - %s (%s checks)" % ("not " if problems else "", name, checks))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
