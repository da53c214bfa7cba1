# SPDX-License-Identifier: MIT
"""The first boot: a guest of trapeze configures the packages on a working copy of the disk."""
import json
import os
import re
import selectors
import shutil
import subprocess

from . import arch
from .host import EXIT_GUEST, Failure, run
from .rootfs import WORK_DIR, read_file

MEMORY = "1024M"
APPEND = ("console=ttyS0 quiet root=LABEL=trapeze-root rw panic=-1 "
          f"init=/{WORK_DIR}/first-boot")
LONGEST_LINE = 4096  # of the guest's console: what is longer is no status line
SILENCE = 900  # seconds without a byte from the guest after which it is given up


def find_trapeze(given):
    """The trapeze to run the guest with."""
    beside = os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../build/trapeze")
    chosen = given or os.environ.get("TRAPEZE")
    for path in [chosen] if chosen else [os.path.normpath(beside), shutil.which("trapeze")]:
        if path and shutil.which(path):
            return path
    raise Failure(f"there is no trapeze at '{chosen}'" if chosen else
                  "the image is configured by a guest of trapeze, which is not built yet; "
                  "run 'make' first or name it with --trapeze PATH")


def check_trapeze(trapeze, isa):
    """Whether it can run a guest of that architecture here; x86-64 needs KVM."""
    if isa is not arch.X86_64:
        return
    said = run(trapeze, "host", "--json", error=f"{trapeze} does not say what it can run here")
    try:
        kvm = json.loads(said)["kvm"]
        usable, why = kvm["offer"] == "yes", kvm["text"]
    except (ValueError, KeyError, TypeError):
        raise Failure(f"{trapeze} does not say what it can run here")
    if not usable:
        raise Failure("the image is configured by a guest of its own, and guests for "
                      f"{isa.isa} need KVM, which cannot be used here: {why}")


def configure(progress, trapeze, kernel, initrd, unpacked, directory, total):
    """Makes directory/root.img out of the unpacked image. The guest's console is kept in a log."""
    image = os.path.join(directory, "root.img")
    run("cp", "--reflink=auto", "--sparse=always", unpacked, image,
        error="the disk cannot be copied")
    os.chmod(image, 0o644)
    progress.step("configuring the packages in a guest (once; later boots start from the result)")
    log_path = os.path.join(os.path.dirname(directory), "first-boot.log")
    command = [trapeze, "run", "--arch", kernel.arch.isa, "--kernel", kernel.image, "--initrd", initrd, "--disk", image,
               "--memory", MEMORY, "--cpus", "1", "--no-reboot", "--append", APPEND]
    with open(log_path, "wb") as log:
        status, said = watch(progress, command, log, total)
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        raise Failure(f"trapeze failed with {how} while the guest configured its packages"
                      + (f" ({said})" if said else "") + f"; the whole console is in {log_path}",
                      EXIT_GUEST)
    verify(progress, image, log_path)
    return image


def watch(progress, command, log, total):
    """Runs trapeze to its end; returns (exit status, last words)."""
    guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
    installed, pending, last = set(), b"", ""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(guest.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(SILENCE):
                    raise Failure(f"the guest has said nothing for {SILENCE // 60} minutes while "
                                  f"it configured its packages; the console is in {log.name}",
                                  EXIT_GUEST)
                data = os.read(guest.stdout.fileno(), 65536)
                if not data:
                    break
                log.write(data)
                log.flush()
                *lines, pending = (pending[-LONGEST_LINE:] + data).split(b"\n")
                for line in lines:
                    last = show(progress, line.decode(errors="replace").strip(), installed,
                                total) or last
        return guest.wait(), last
    finally:
        progress.done()
        if guest.poll() is None:
            guest.terminate()
            try:
                guest.wait(10)
            except subprocess.TimeoutExpired:
                guest.kill()
                guest.wait()


def show(progress, line, installed, total):
    """Turns a console line into progress; returns it if it may matter in a failure sentence."""
    status = re.match(r"status: (\S+): ([a-z-]+)$", line)
    if status:
        if status.group(2) == "installed":
            installed.add(status.group(1))
            progress.update(len(installed), total, status.group(1))
        return None
    return line or None


def verify(progress, image, log_path):
    """The disk must be sound, and every package installed: trust the disk, not the console."""
    progress.step("checking the result")
    # The guest remounted the disk read-only before it powered off: nothing may be left to repair.
    run("e2fsck", "-f", "-n", image, error="the file system is damaged after the first boot")
    where = f"the whole console is in {log_path}"
    status = read_file(image, "/var/lib/dpkg/status") or ""
    states = re.findall(r"^Package: (\S+)\nStatus: (.*)$", status, re.M)
    left = [name for name, state in states if state != "install ok installed"]
    if left or not states:
        raise Failure(f"{len(left)} packages are not configured ({' '.join(left[:5])}); {where}",
                      EXIT_GUEST)
    if read_file(image, f"/{WORK_DIR}/first-boot"):
        raise Failure(f"the guest did not finish its setup; {where}", EXIT_GUEST)
