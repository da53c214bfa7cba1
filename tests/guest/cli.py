#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The command line as a user meets it: sentences for bad input, exit codes, the terminal.

    cli.py TRAPEZE LOOP_ELF EXIT_ELF HTIF_ELF WEDGE_ELF

LOOP_ELF runs for ever after printing "ready"; EXIT_ELF ends with exit code 7 through the test
device, HTIF_ELF with 9 through tohost; WEDGE_ELF traps at its own trap vector for ever.
"""
import hashlib
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest.mock

import tap
from kernels import bzimage

TRAPEZE, LOOP_ELF, EXIT_ELF, HTIF_ELF, WEDGE_ELF = sys.argv[1:6]
USAGE, HOST, CRASH, INTERRUPTED = 120, 121, 122, 130
FOLDER = tempfile.TemporaryDirectory()
LIMIT_S = 120


def path(name, data=None):
    full = os.path.join(FOLDER.name, name)
    if data is not None:
        with open(full, "wb") as out:
            out.write(data)
    return full


def trapeze(*arguments):
    return subprocess.run([TRAPEZE, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=LIMIT_S, text=True)


def refuses(status, *wanted, arguments):
    result = trapeze(*arguments)
    assert result.returncode == status, (arguments, result)
    assert result.stdout == "", result
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("trapeze: "), result
    for part in wanted:
        assert part in lines[0], (part, lines[0])


def riscv_image(text=b"", image_size=None, magic=b"RSC\x05", load=0x200000):
    size = image_size if image_size is not None else 64 + len(text)
    return struct.pack("<IIQQQIIQ8s4sI", 0x6f, 0, load, size, 0, 2, 0, 0, b"RISCV\0\0\0", magic,
                       0) + text


def test_unknown_option_names_the_nearest():
    refuses(USAGE, "--memroy", "--memory", arguments=["run", "--memroy", "1G"])
    refuses(USAGE, "--kernal", "--kernel", arguments=["run", "--kernal=x"])
    refuses(USAGE, "-Z", "--help", arguments=["run", "-Z"])
    refuses(USAGE, "needs a value", arguments=["run", "--memory"])


def test_unknown_command_names_the_nearest():
    refuses(USAGE, "'rnu'", "trapeze run", arguments=["rnu"])
    refuses(USAGE, "'xyzzy'", "trapeze help", arguments=["xyzzy"])


def test_nothing_to_run():
    refuses(USAGE, "nothing to run", "--image", arguments=["run"])
    refuses(USAGE, "goes with a kernel", arguments=["run", "--firmware", EXIT_ELF, "--append", "x"])


def test_bad_values():
    for option, value, part in [("--memory", "lots", "512M"), ("--memory", "1", "32 MiB"),
                                ("--memory", "99999999999999999999G", "size"),
                                ("--cpus", "0", "1 to 8"), ("--cpus", "9", "1 to 8"),
                                ("--cpus", "two", "number"), ("--pci-slots", "9", "at most 8"),
                                ("--pci-slots", "-1", "number"), ("--disk", "a,rw", "readonly"),
                                ("--disk", ",readonly", "file name"),
                                ("--engine", "warp", "interp"), ("--console", "tty", "stdio"),
                                ("--ram-backend", "disk", "--help"),
                                ("--deterministic", None, None)]:
        if value is not None:
            status = USAGE
            refuses(status, part, arguments=["run", "--firmware", EXIT_ELF, option, value])
    refuses(USAGE, "65536", "1023", arguments=["run", "--kernel", EXIT_ELF, "--append", "x" * 70000])


def test_missing_files_are_named_with_their_option():
    for option in ["--kernel", "--firmware"]:
        refuses(HOST, option, "/nowhere", "No such file", arguments=["run", option, "/nowhere"])
        refuses(HOST, option, "folder", arguments=["run", option, FOLDER.name])
    kernel = path("Image", riscv_image(b"\0" * 4096))
    for option in ["--initrd", "--disk"]:
        refuses(HOST, option, "/nowhere",
                arguments=["run", "--kernel", kernel, option, "/nowhere"])


def test_files_that_are_no_kernel():
    for name, data, part in [
            ("empty", b"", "empty"), ("text", b"hello\n" * 100, "not a"),
            ("truncated", riscv_image(image_size=1 << 20)[:40], None),
            ("gzip", b"\x1f\x8b\x08" + b"\0" * 100, "gzip"),
            ("x86.elf", b"\x7fELF\2\1\1" + b"\0" * 9 + struct.pack("<HH", 2, 62) + b"\0" * 100,
             "x86"),
            ("arm64.Image", b"\0" * 56 + b"ARM\x64" + b"\0" * 100, "ARM"),
    ]:
        result = trapeze("run", "--kernel", path(name, data))
        assert result.returncode in (USAGE, HOST), (name, result)
        assert result.stderr.startswith("trapeze: ") and name in result.stderr, result
        if part:
            assert part.lower() in result.stderr.lower(), (name, result.stderr)


def test_too_little_memory_says_how_much():
    kernel = path("big", riscv_image(b"\0" * 4096, image_size=60 << 20))
    result = trapeze("run", "--kernel", kernel, "--memory", "40M")
    assert result.returncode in (USAGE, HOST), result
    assert "MiB" in result.stderr and "--memory" in result.stderr, result


def test_disks():
    kernel = path("Image", riscv_image(b"\0" * 4096))
    odd = path("odd.img", b"x" * 1000)
    result = trapeze("run", "--kernel", kernel, "--disk", odd)
    assert result.returncode in (USAGE, HOST) and "512" in result.stderr, result


def test_exit_code_of_a_bare_metal_program():
    result = trapeze("run", "--firmware", EXIT_ELF, "--memory", "32M")
    assert result.returncode == 7, result
    result = trapeze("run", "--firmware", HTIF_ELF, "--memory", "32M")
    assert result.returncode == 9, result


def test_a_wedged_guest_is_a_crash():
    for cpus in ("1", "4"):
        result = trapeze("run", "--firmware", WEDGE_ELF, "--memory", "32M", "--cpus", cpus)
        assert result.returncode == CRASH and "trap" in result.stderr, result


def test_vmx_file():
    vmx = path("good.vmx", f'memsize = "32"\ntrapeze.firmware = "{os.path.abspath(EXIT_ELF)}"\n'.encode())
    assert trapeze("run", "--vmx", vmx).returncode == 7
    bad = path("bad.vmx", b'memsize = "32"\n\nmemsizes = "1"\n')
    refuses(USAGE, "bad.vmx:3:", "memsize?", arguments=["run", "--vmx", bad])
    with open(EXIT_ELF, "rb") as elf:
        path("beside.elf", elf.read())
    vmx = path("vmware.vmx", b'sound.present = "TRUE"\r\nmemsize = "32"\r\nusb.present = "FALSE"\r\n'
               b'trapeze.firmware = "beside.elf"\r\nserial0.fileType = "file"\r\n'
               b'serial0.fileName = "beside.txt"\r\n')
    result = trapeze("run", "--vmx", vmx)  # names are those of its own folder
    assert result.returncode == 7, result
    assert "not honoured: sound.present (line 1)\n" in result.stderr, result
    assert os.path.exists(os.path.join(FOLDER.name, "beside.txt"))


def test_help_and_manual():
    for arguments in [["--help"], ["help"], ["run", "--help"], ["help", "run"], ["image", "-h"]]:
        result = trapeze(*arguments)
        assert result.returncode == 0 and "usage:" in result.stdout, (arguments, result)
    assert trapeze().returncode == USAGE
    manual = trapeze("help", "--man").stdout
    for word in ["memory", "firmware", "EXIT STATUS"]:
        assert word in manual, word
    assert trapeze("--version").stdout.startswith("trapeze ")


def test_bash_completion_completes():
    script = trapeze("completion", "bash").stdout
    probe = script + ('COMP_WORDS=(trapeze run --mem); COMP_CWORD=2; _trapeze; '
                      'echo "${COMPREPLY[*]}"; COMP_WORDS=(trapeze ve); COMP_CWORD=1; _trapeze; '
                      'echo "${COMPREPLY[*]}"')
    out = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, timeout=30)
    assert out.stdout.split() == ["--memory", "version"], out


def test_what_the_host_offers():
    result = trapeze("host", "--json")
    assert result.returncode == 0, result
    offers = json.loads(result.stdout)
    assert set(offers) == {"translation", "kvm", "cpu-models", "sandbox", "io_uring",
                           "huge-pages", "cgroups"}
    assert all(one["offer"] in ("yes", "partly", "no") and one["text"] for one in offers.values())
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        able = any(flag in file.read().split() for flag in ("vmx", "svm"))
    assert able or offers["kvm"]["offer"] == "no", offers["kvm"]
    assert "Sandbox" in trapeze("host").stdout


def test_x86_guests_without_kvm():
    refuses(USAGE, "no guest architecture 'sparc'", "x86_64", arguments=["run", "--arch", "sparc"])
    kernel = path("bzImage", bzimage())
    arguments = ["run", "--arch", "x86_64", "--kernel", kernel, "--net", "none"]
    refuses(USAGE, "no engine 'dbt' for x86_64", "kvm", arguments=[*arguments, "--engine", "dbt"])
    refuses(USAGE, "no model 'Epic'", "EPYC-Rome, ", "Skylake-Server", arguments=[*arguments, "--cpu", "Epic"])
    refuses(USAGE, "no feature 'avx9'", arguments=[*arguments, "--cpu", "host,avx9=on"])
    refuses(USAGE, "riscv64 have no processor models", "--arch x86_64",
            arguments=["run", "--firmware", EXIT_ELF, "--cpu", "EPYC"])
    if json.loads(trapeze("host", "--json").stdout)["kvm"]["offer"] == "yes":
        raise tap.Skip("KVM runs guests here")
    said = "x86_64 guests run on KVM alone", "trapeze host", "--arch riscv64"
    for engine in "auto", "kvm":
        refuses(HOST, *said, arguments=[*arguments, "--engine", engine])
    with unittest.mock.patch.dict(os.environ, TRAPEZE_CACHE=path("empty-cache")):
        refuses(HOST, *said, "'debian-x86_64', which is not there",
                arguments=["run", "--image", "debian", "--arch", "x86_64"])


# ---- running machines ----

class Running:
    """A machine that loops for ever, its standard streams pipes."""

    def __init__(self, *extra):
        self.control = path(f"control-{time.monotonic_ns()}.sock")
        self.process = subprocess.Popen(
            [TRAPEZE, "run", "--firmware", LOOP_ELF, "--memory", "32M", "--control", self.control,
             *extra], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.seen = b""

    def wait_ready(self):
        while b"ready\r\n" not in self.seen:
            data = os.read(self.process.stdout.fileno(), 4096)
            assert data, self.process.stderr.read()
            self.seen += data

    def finish(self, status):
        out = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == status, (self.process.returncode, out)
        assert not os.path.exists(self.control)
        return out[1].decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def verb(control, name):
    result = trapeze("control", control, name)
    assert result.returncode == 0, result
    return json.loads(result.stdout)


def test_control_verbs():
    with Running() as machine:
        machine.wait_ready()
        assert verb(machine.control, "status")["state"] == "running"
        verb(machine.control, "pause")
        paused = verb(machine.control, "status")
        assert paused["state"] == "paused", paused
        assert verb(machine.control, "status") == paused  # time and instructions stand still
        verb(machine.control, "resume")
        while verb(machine.control, "status")["instructions"] == paused["instructions"]:
            pass
        assert "ready" in verb(machine.control, "console")
        refuses(HOST, "power button", "'quit'", arguments=["control", machine.control, "powerdown"])
        verb(machine.control, "pause")
        refuses(HOST, "paused", arguments=["control", machine.control, "powerdown"])
        verb(machine.control, "resume")
        refuses(HOST, "'stauts'", "status", arguments=["control", machine.control, "stauts"])
        verb(machine.control, "quit")
        assert "ended" in machine.finish(INTERRUPTED)
    refuses(HOST, "cannot reach", arguments=["control", machine.control, "status"])


def test_reset_restarts_in_place():
    with Running() as machine:
        machine.wait_ready()
        machine.seen = b""
        verb(machine.control, "reset")
        machine.wait_ready()
        verb(machine.control, "quit")
        machine.finish(INTERRUPTED)


def test_a_silent_nbd_server_does_not_hold_up_the_machine():
    listener = socket.socket(socket.AF_UNIX)
    place = path("silent.sock")
    listener.bind(place)
    listener.listen()
    with Running() as machine:
        machine.wait_ready()
        attach = [TRAPEZE, "disk", "attach", f"nbd+unix:///?socket={place},format=raw",
                  machine.control]
        for greeting, words in ((b"", "does not answer"),
                                (b"NBDMAGICIHAVEOPT\0\3", "falls silent")):
            with subprocess.Popen(attach, stderr=subprocess.PIPE, text=True) as client:
                server = listener.accept()[0]
                server.sendall(greeting)
                if not greeting:  # only who asked waits
                    assert verb(machine.control, "status")["state"] == "running"
                    assert client.poll() is None
                said = client.communicate(timeout=LIMIT_S)[1]
                assert client.returncode == HOST and words in said and place in said, said
                server.close()
            assert verb(machine.control, "disks") == []
        machine.process.terminate()
        machine.finish(INTERRUPTED)
    listener.close()


def test_hostile_control_clients():
    with Running() as machine:
        machine.wait_ready()
        clients = []
        for data in [b"\xff" * 64, struct.pack("<I", 5) + b"hello", struct.pack("<I", 2) + b"[]",
                     struct.pack("<I", 65536) + b"[" * 65536, struct.pack("<I", 100) + b"{",
                     struct.pack("<I", 30) + b'{"id":{"a":[1]},"verb":{"x":1}}'[:30]]:
            client = socket.socket(socket.AF_UNIX)
            client.connect(machine.control)
            client.sendall(data)
            clients.append(client)
        flood = socket.socket(socket.AF_UNIX)  # asks without ever reading
        flood.connect(machine.control)
        flood.setblocking(False)
        request = b'{"id":1,"verb":"console"}'
        for _ in range(3000):
            try:
                flood.send(struct.pack("<I", len(request)) + request)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                break
        assert verb(machine.control, "status")["state"] == "running"
        verb(machine.control, "quit")
        machine.finish(INTERRUPTED)


def test_signals_end_the_machine():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Running() as machine:
            machine.wait_ready()
            machine.process.send_signal(number)
            machine.finish(INTERRUPTED)


def worker_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
        return int(children.read().split()[0])


def test_a_killed_worker_is_explained():
    with Running() as machine:
        machine.wait_ready()
        os.kill(worker_of(machine.process.pid), signal.SIGKILL)
        assert "signal 9" in machine.finish(HOST)


def test_a_killed_client_takes_its_worker_along():
    with Running() as machine:
        machine.wait_ready()
        worker = worker_of(machine.process.pid)
        machine.process.kill()
        machine.process.communicate()
        for _ in range(LIMIT_S * 10):
            try:
                with open(f"/proc/{worker}/stat", encoding="ascii") as stat:
                    if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                        return
            except (FileNotFoundError, ProcessLookupError):
                return
            time.sleep(0.1)
        raise AssertionError("the worker lives on")


def test_the_console_to_a_file_and_to_nothing():
    out = path("console.txt")
    with Running("--console", "file:" + out) as machine:
        while b"ready" not in (open(out, "rb").read() if os.path.exists(out) else b""):
            assert machine.process.poll() is None
            time.sleep(0.05)
        verb(machine.control, "quit")
        machine.finish(INTERRUPTED)
    with Running("--console", "none") as machine:
        while not os.path.exists(machine.control) or \
                "ready" not in (trapeze("control", machine.control, "console").stdout):
            assert machine.process.poll() is None
        verb(machine.control, "quit")
        machine.finish(INTERRUPTED)


def test_a_console_that_nobody_reads():
    fifo = path("fifo")
    os.mkfifo(fifo)
    refuses(HOST, "nobody reads", "fifo", arguments=["run", "--firmware", EXIT_ELF, "--memory",
                                                     "32M", "--console", "file:" + fifo])
    result = trapeze("run", "--firmware", EXIT_ELF, "--memory", "32M", "--dump-fdt", fifo)
    assert result.returncode == 7 and "fifo" in result.stderr, result
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with Running("--console", "file:" + fifo) as machine:
        while not os.path.exists(machine.control) or \
                "ready" not in (trapeze("control", machine.control, "console").stdout):
            assert machine.process.poll() is None
        assert b"ready" in os.read(reader, 4096)
        os.close(reader)
        verb(machine.control, "reset")  # prints "ready" again, to nobody
        while verb(machine.control, "status")["console-lost"] == 0:
            pass
        verb(machine.control, "quit")
        assert "were dropped" in machine.finish(INTERRUPTED)


def test_inputs_are_not_overwritten():
    kernel = path("precious.Image", riscv_image(b"\0" * 4096))
    others = {name: path("precious." + name, os.urandom(4096)) for name in ("initrd", "disk")}
    vmx = path("precious.vmx", f'memsize = "32"\ntrapeze.kernel = "{kernel}"\n'.encode())
    inputs = ["--vmx", vmx, "--initrd", others["initrd"], "--disk", others["disk"] + ",readonly"]
    before = {name: open(name, "rb").read() for name in (kernel, vmx, *others.values())}
    os.symlink(kernel, path("symlink"))
    os.link(others["disk"], path("hardlink"))
    for name, option in ((kernel, "--kernel"), (vmx, "--vmx"), (others["initrd"], "--initrd"),
                         (others["disk"], "--disk"), (path("symlink"), "--kernel"),
                         (path("hardlink"), "--disk")):
        for output, value in (("--dump-fdt", name), ("--console", "file:" + name)):
            refuses(USAGE, "overwrite", option, output,
                    arguments=["run", *inputs, output, value])
    refuses(USAGE, "overwrite", "--firmware",
            arguments=["run", "--firmware", EXIT_ELF, "--dump-fdt", EXIT_ELF])
    for name, data in before.items():
        assert open(name, "rb").read() == data, name


def test_a_signal_leaves_no_part_of_a_disk_copy():
    cache = path("cache")
    folder = os.path.join(cache, "images", "large")
    os.makedirs(folder)
    with open(os.path.join(folder, "image.json"), "w", encoding="ascii") as out:
        json.dump({"format": 1, "title": "large", "kernel": "Image", "disk": "root.img",
                   "append": "", "memory_mib": 64, "cpus": 1}, out)
    with open(os.path.join(folder, "Image"), "wb") as out:
        out.write(riscv_image(b"\0" * 4096))
    with open(os.path.join(folder, "root.img"), "wb") as out:
        for _ in range(256):
            out.write(b"x" * (1 << 20))
    runs = os.path.join(cache, "runs")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process = subprocess.Popen([TRAPEZE, "run", "--image", "large"], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env={**os.environ, "TRAPEZE_CACHE": cache})
        while not os.path.isdir(runs) or not os.listdir(runs):
            assert process.poll() is None
        process.send_signal(signal.SIGSTOP)  # most likely in the middle of the copy
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=LIMIT_S) in (-number, INTERRUPTED)
        assert os.listdir(runs) == [], number


def test_ignored_signals_stay_ignored():
    control = path("nohup.sock")
    process = subprocess.Popen(["nohup", TRAPEZE, "run", "--firmware", LOOP_ELF, "--memory", "32M",
                                "--control", control], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        os.read(process.stdout.fileno(), 4096)
        process.send_signal(signal.SIGHUP)
        assert verb(control, "status")["state"] == "running"
        process.terminate()
        assert process.wait(timeout=LIMIT_S) == INTERRUPTED
    finally:
        process.kill()
        process.communicate()


def test_the_console_on_a_socket():
    where = path("console.sock")
    with Running("--console", "socket:" + where) as machine:
        while not os.path.exists(where):
            assert machine.process.poll() is None
        for _ in range(2):  # one after the other
            client = socket.socket(socket.AF_UNIX)
            client.connect(where)
            verb(machine.control, "reset")
            seen = b""
            while b"ready" not in seen:
                data = client.recv(4096)
                assert data
                seen += data
            client.close()
        verb(machine.control, "quit")
        machine.finish(INTERRUPTED)


def test_a_refused_console_socket_is_left_alone():
    precious = path("precious", b"do not lose")
    result = trapeze("run", "--firmware", EXIT_ELF, "--memory", "32M", "--console",
                     "socket:" + precious)
    assert result.returncode == HOST and "precious" in result.stderr, result
    assert open(precious, "rb").read() == b"do not lose"


def test_a_reader_that_leaves_ends_the_machine():
    with Running() as machine:
        machine.wait_ready()
        machine.process.stdout.close()
        verb(machine.control, "reset")  # prints "ready" again, to nobody
        machine.process.wait(timeout=LIMIT_S)
        assert machine.process.returncode == INTERRUPTED
        assert not os.path.exists(machine.control)


def test_a_full_pipe_does_not_hold_up_the_end():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    control = path("full.sock")
    process = subprocess.Popen([TRAPEZE, "run", "--firmware", LOOP_ELF, "--memory", "32M",
                                "--control", control], stdin=subprocess.DEVNULL, stdout=writing,
                               stderr=subprocess.DEVNULL)
    try:
        while not os.path.exists(control) or \
                "ready" not in trapeze("control", control, "console").stdout:
            assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=LIMIT_S) == INTERRUPTED
        assert os.get_blocking(writing)  # shared with whoever gave it to us
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


def test_the_worker_inherits_nothing():
    ours = os.open(path("secret", b"secret"), os.O_RDWR)
    control = path("heir.sock")
    process = subprocess.Popen([TRAPEZE, "run", "--firmware", LOOP_ELF, "--memory", "32M",
                                "--control", control], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[ours])
    try:
        os.read(process.stdout.fileno(), 4096)
        folder = f"/proc/{worker_of(process.pid)}/fd"
        links = {fd: os.readlink(os.path.join(folder, fd)) for fd in os.listdir(folder)}
        assert links["0"] == links["1"] == "/dev/null", links
        assert not any("secret" in link for link in links.values()), links
    finally:
        process.terminate()
        process.communicate()
        os.close(ours)


def test_closed_standard_streams():
    # The first files that are opened must not take the places of the closed ones.
    for closed in ("<&-", ">&-", "<&- >&- 2>&-"):
        result = subprocess.run(["sh", "-c", f'exec "$0" run --firmware "$1" --memory 32M {closed}',
                                 TRAPEZE, EXIT_ELF], capture_output=True, timeout=LIMIT_S)
        assert result.returncode == 7, (closed, result)


def test_dead_sockets_are_not_listed():
    runtime = path("runtime")
    os.mkdir(runtime, 0o700)
    os.mkdir(os.path.join(runtime, "trapeze"), 0o700)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(runtime, "trapeze", "live.sock"))
    listener.listen()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(os.path.join(runtime, "trapeze", "dead.sock"))
    dead.close()
    result = subprocess.run([TRAPEZE, "control"], env={**os.environ, "XDG_RUNTIME_DIR": runtime},
                            capture_output=True, timeout=LIMIT_S, text=True)
    assert result.stdout.split() == [os.path.join(runtime, "trapeze", "live.sock")], result


def test_a_file_name_that_is_no_text_is_still_named():
    kernel = path("none", None).encode() + b"\xff"
    with open(kernel, "wb") as out:
        out.write(b"hello\n" * 100)
    result = subprocess.run([TRAPEZE, "run", "--kernel", kernel], stdin=subprocess.DEVNULL,
                            capture_output=True, timeout=LIMIT_S)
    assert result.returncode == USAGE and b"none?' is not a" in result.stderr, result


def test_read_only_files_are_not_written():
    disk = path("ro.img", os.urandom(65536))
    before = hashlib.sha256(open(disk, "rb").read()).digest(), os.stat(disk).st_mtime_ns
    os.chmod(disk, 0o444)
    result = trapeze("run", "--firmware", EXIT_ELF, "--memory", "32M", "--disk",
                     disk + ",readonly")
    assert result.returncode == 7, result
    assert before == (hashlib.sha256(open(disk, "rb").read()).digest(), os.stat(disk).st_mtime_ns)


# ---- the terminal ----

class Terminal:
    """A machine on a pseudo-terminal."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [TRAPEZE, "run", "--firmware", LOOP_ELF, "--memory", "32M"], stdin=self.slave,
            stdout=self.slave, stderr=self.slave, start_new_session=True)
        self.seen = b""

    def wait_for(self, text):
        end = time.monotonic() + LIMIT_S
        while text not in self.seen:
            assert select.select([self.master], [], [], end - time.monotonic())[0], self.seen
            self.seen += os.read(self.master, 4096)

    def finish(self):
        self.process.wait(timeout=LIMIT_S)
        after = termios.tcgetattr(self.slave)
        os.close(self.master)
        os.close(self.slave)
        assert after == self.before, "the terminal was not restored"
        return self.process.returncode


def test_the_escape_key_ends_and_restores():
    terminal = Terminal()
    terminal.wait_for(b"Ctrl-]")
    terminal.wait_for(b"ready")
    assert termios.tcgetattr(terminal.slave) != terminal.before
    os.write(terminal.master, b"\x1d")
    assert terminal.finish() == INTERRUPTED


def test_ctrl_c_goes_to_the_guest():
    terminal = Terminal()
    terminal.wait_for(b"ready")
    os.write(terminal.master, b"\x03")
    time.sleep(0.3)
    assert terminal.process.poll() is None
    os.write(terminal.master, b"\x1d")
    assert terminal.finish() == INTERRUPTED


def test_the_terminal_is_restored_after_every_end():
    def kill_worker(terminal):
        os.kill(worker_of(terminal.process.pid), signal.SIGKILL)
        return HOST

    def terminate(terminal):
        terminal.process.terminate()
        return INTERRUPTED

    def hang_up(terminal):
        terminal.process.send_signal(signal.SIGHUP)
        return INTERRUPTED

    for end in (kill_worker, terminate, hang_up):
        terminal = Terminal()
        terminal.wait_for(b"ready")
        wanted = end(terminal)
        assert terminal.finish() == wanted, end.__name__


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
