#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The main job: Debian 13, built by images/build, to its login prompt and back.

    debian.py TRAPEZE [ENGINE]

The quick tier leaves the interpreter to `boot` and the suites conform and lockstep.
"""
import concurrent.futures
import fcntl
import hashlib
import math
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import time

import machine
import tap
from machine import FULL, LIMIT_S, LOGIN_PROMPT, SOURCE, image, scratch, Shared

TRAPEZE = os.path.abspath(sys.argv[1])
ENGINE = sys.argv[2] if len(sys.argv) > 2 else "auto"
if ENGINE == "interp" and not FULL:
    print("1..0 # SKIP full tier only")
    sys.exit(0)
image("debian", TRAPEZE)


class Debian(machine.Debian):
    def __init__(self, trapeze, *options):
        super().__init__(trapeze, "--engine", ENGINE, *options)


FOLDER, VSOCK_PATH = scratch("shared"), scratch("vsock")


def start_with_everything():
    """Two shared folders, one of them for reading only, and vsock."""
    os.makedirs(FOLDER + "/sub", exist_ok=True)
    return Debian(TRAPEZE, "--image", "debian", "--share", FOLDER + ":data", "--share",
                  FOLDER + ":look:ro", "--vsock", "7,socket=" + VSOCK_PATH)


# What most tests use, until the power button ends it.
MAIN = Shared(start_with_everything)


def check_programs(debian):
    """Programs compute what the same programs, or Python's, compute on the host."""
    count = 200000 if FULL else 60000
    lines = "".join(f"{n}\n" for n in range(1, count // 2 + 1)).encode()
    for tool, sums in (("sha256sum", hashlib.sha256), ("md5sum", hashlib.md5),
                       ("sha512sum", hashlib.sha512), ("b2sum", hashlib.blake2b)):
        got = debian.run(f"seq 1 {count // 2} | {tool}").split()[0]
        assert got == sums(lines).hexdigest(), tool
    got = debian.run("""perl -e 'my ($s, $f, %h) = (1, 0);
        for my $i (1..COUNT) { $s = ($s * 69069 + $i) % 4294967296; $h{$s % 1009} += $i;
            $f += sqrt($i) / ($s % 97 + 1) }
        printf "%d %d %.9g\\n", $s, $h{17}, $f'""".replace("\n", " ").replace("COUNT", str(count)))
    state, seventeen, floating = 1, 0, 0.0
    for i in range(1, count + 1):
        state = (state * 69069 + i) % 4294967296
        seventeen += i if state % 1009 == 17 else 0
        floating += math.sqrt(i) / (state % 97 + 1)
    assert got.strip() == "%d %d %.9g" % (state, seventeen, floating), got
    # A file system, an archiver and a sort, which end where they began.
    tree = "usr/share/doc" if FULL else "usr/share/doc/[a-b]*"
    debian.run(f"mkdir /tmp/t && cd / && tar cf /tmp/t/a.tar {tree} && cd /tmp/t && gzip -k a.tar && "
               f"gzip -dc a.tar.gz | cmp - a.tar && seq 1 {count // 4} > s && shuf s | sort -n | cmp - s && "
               "cd && rm -r /tmp/t")


def test_login_and_look_around():
    with MAIN.use() as debian:
        assert re.search(r"Linux debian .* riscv64 GNU/Linux", debian.run("uname -a"))
        assert "VERSION_ID=\"13\"" in debian.run("cat /etc/os-release")
        assert debian.run("apt-get --version").startswith("apt ")
        assert "vda" in debian.run("lsblk")
        failed = debian.run("systemctl --failed --no-legend --plain | cat").strip()
        assert failed == "", failed
        assert debian.run("systemd-detect-virt").strip() == "vm-other"
        nproc = debian.run("nproc").strip()
        assert nproc == "2", nproc
        assert debian.run("dpkg --audit").strip() == ""


def test_programs():
    with MAIN.use() as debian:
        check_programs(debian)


def test_a_reboot_and_a_private_disk():
    with MAIN.use() as debian:
        debian.run("touch /kept && sync")
        with Debian(TRAPEZE, "--image", "debian", "--cpus", "1") as other:
            other.login()
            other.run("test ! -e /kept && touch /again && sync")
            other.send("reboot\n")
            other.login()
            other.run("test ! -e /kept && test -e /again")
            other.poweroff()
        debian.run("test -e /kept && test ! -e /again")


def test_shared_folders():
    with open(FOLDER + "/../outside", "w", encoding="ascii") as out:
        out.write("not for the guest")
    os.symlink("../outside", FOLDER + "/up")
    with open(FOLDER + "/file", "w", encoding="ascii") as out:
        out.write("from the host\n")
    with MAIN.use() as debian:
        debian.run("mkdir /a /b; mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 data /a")
        debian.run("mount -t 9p -o trans=virtio,version=9p2000.L look /b")
        assert "from the host" in debian.run("cat /a/file /b/file")
        # A link means what it means in the guest, where there is no such file.
        debian.run("! cat /a/up; ! touch /b/new; ! rm /b/file; ! mknod /a/disk b 8 0")
        debian.run("tar -C /usr/share -cf - perl5 | tar -C /a/sub -xf -")
        debian.run("diff -r /usr/share/perl5 /a/sub/perl5 && diff -r /usr/share/perl5 /b/sub/perl5")
        debian.run("dd if=/dev/urandom of=/a/big bs=1M count=20 2>/dev/null; sync")
        inside = debian.run("mv /a/big /a/sub/big; ln /a/sub/big /a/again; sha256sum < /b/again")
        with open(FOLDER + "/sub/big", "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == inside.split()[0]
        debian.run("chmod 6755 /a/file; rm -r /a/sub/perl5; umount /a /b")
    assert os.stat(FOLDER + "/file").st_mode & 0o7777 == 0o755
    assert not os.path.exists(FOLDER + "/sub/perl5")


# listen PORT COMMAND: one COMMAND per connection, which it has as input and output.
# connect PORT COMMAND: sends COMMAND's output, ends that direction, prints the answer.
VSOCK = """my ($how, $port, $cmd) = @ARGV; socket(my $s, 40, 1, 0) or die;
sub at { pack("SSLLL", 40, 0, $port, $_[0], 0) }
if ($how eq "listen") {
bind($s, at(0xffffffff)) or die "bind: $!"; listen($s, 128) or die; $SIG{CHLD} = "IGNORE";
while (accept(my $c, $s)) { next if fork; $SIG{CHLD} = "DEFAULT";
open(STDIN, "<&", $c); open(STDOUT, ">&", $c); close $c; close $s; exec "sh", "-c", $cmd }
} else { connect($s, at(2)) or die "connect: $!";
if (!fork) { open(STDOUT, ">&", $s); exec "sh", "-c", $cmd }
wait; shutdown($s, 1); print while <$s>; }""".replace("\n", " ")


def vsock_ask(path, port, data):
    """What the guest's `port` answers to all of data, None if nobody is there."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"CONNECT %d\n" % port)
        stream = client.makefile("rb")
        if not stream.readline().startswith(b"OK "):
            return None
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return stream.read().decode()


def test_vsock():
    path, big = VSOCK_PATH, os.urandom(10 << 20)
    with MAIN.use() as debian, socket.socket(socket.AF_UNIX) as server:
        server.bind(path + "_5000")
        server.listen()
        debian.run("printf '%s' '" + VSOCK + "' > /v.pl")
        debian.run("until [ -e /dev/vsock ]; do sleep 1; done; (perl /v.pl listen 1234 sha256sum &)")
        end = time.monotonic() + LIMIT_S
        while (answer := vsock_ask(path, 1234, b"")) is None:
            assert time.monotonic() < end
        assert answer.split()[0] == hashlib.sha256(b"").hexdigest()
        assert vsock_ask(path, 1235, b"") is None
        assert vsock_ask(path, 1234, big).split()[0] == hashlib.sha256(big).hexdigest()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            parts = [big[i:i + 1000 + i] for i in range(100)]
            answers = pool.map(lambda part: vsock_ask(path, 1234, part), parts)
            for part, answer in zip(parts, answers):
                assert answer.split()[0] == hashlib.sha256(part).hexdigest()
        # And the other way round.
        debian.send("head -c 10485760 /dev/urandom >/big; perl /v.pl connect 5000 'cat /big'\n")
        peer = server.accept()[0]
        with peer, peer.makefile("rb") as stream:
            got = stream.read()  # to the guest's half-close
            assert len(got) == 10 << 20, len(got)
            peer.sendall(b"have read=" + hashlib.sha256(got).hexdigest().encode() + b"=\n")
        match = debian.expect(rb"have read=(\w+)=\r?\n")[1]
        debian.shell()
        assert debian.run("sha256sum </big").split()[0] == match.group(1).decode()
        debian.run("! perl /v.pl connect 5001 true")


def test_the_power_button():
    with MAIN.use(last=True) as debian:
        # logind opens the button some time after udev has found it.
        debian.run("until fuser -s /dev/input/event0; do sleep 1; done")
        debian.verb("powerdown")
        debian.expect(rb"systemd-shutdown\[1\]: All filesystems unmounted")
        debian.finish()
    assert not os.path.exists(VSOCK_PATH)


class Window:
    """A terminal of 47 lines and 133 columns that answers when it is asked where its cursor is."""

    def __init__(self, *options):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 47, 133, 0, 0))
        self.process = subprocess.Popen([TRAPEZE, "run", *options], stdin=slave, stdout=slave,
                                        stderr=slave, start_new_session=True)
        os.close(slave)
        self.log, self.at, self.asked = b"", 0, 0

    def expect(self, pattern):
        end = time.monotonic() + LIMIT_S
        while not (match := re.search(pattern, self.log[self.at:])):
            ready = select.select([self.master], [], [], end - time.monotonic())[0]
            assert ready, self.log[-2000:]
            self.log += os.read(self.master, 65536)
            for query in re.finditer(rb"(\x1b\[\d+;\d+H)?\x1b\[6n", self.log[self.asked:]):
                os.write(self.master, b"\x1b[47;133R" if query.group(1) else b"\x1b[1;1R")
            self.asked = max(self.log.rfind(b"\x1b[6n") + 4, self.asked)
        self.at += match.end()
        return match

    def send(self, text):
        os.write(self.master, text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_the_login_fits_the_window():
    # On the serial console, whose device has no notion of a size: systemd asks the terminal.
    with Window("--image", "debian") as window:
        window.expect(rb"Linux version")  # and the kernel's first message is there
        window.expect(LOGIN_PROMPT)
        window.send(b"root\n")
        window.expect(rb":~# ")
        window.send(b"stty size\n")
        match = window.expect(rb"\n(?:\x1b\S*\r)?(\d+ \d+)\r")
        assert match.group(1) == b"47 133", match
        window.send(b"poweroff\n")
        window.expect(rb"System Power Off")
        # A window that closes ends what has not ended yet.


def test_make_run_without_a_terminal():
    done = subprocess.run([os.path.join(SOURCE, "scripts", "run-unattended.py"), TRAPEZE,
                           "--image", "debian"], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done
    for part in ("riscv64 GNU/Linux", "Debian GNU/Linux 13", "Mem:", "vda", "apt 3"):
        assert part in done.stdout, part


TESTS = [test for name, test in list(globals().items()) if name.startswith("test_")]
sys.exit(tap.main(TESTS))
