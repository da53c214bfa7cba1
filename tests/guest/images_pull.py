#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""'trapeze image' list, pull and remove, with servers that behave and servers that do not.

    images_pull.py TRAPEZE LOOP_ELF
"""
import contextlib
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import machine
import tap
import whole_disk
from daemon_client import HOST, LIMIT_S, USAGE, until
from machine import FULL, image
from namespace import in_namespace

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
MIB = 1 << 20
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-pull-")
TINY = image("tiny", TRAPEZE)  # of the user's own cache
DEBIAN = image("debian", TRAPEZE) if FULL else None
USERS_CACHE = os.environ.get("TRAPEZE_CACHE")
CACHE = os.path.join(FOLDER.name, "cache")
os.environ["TRAPEZE_HOME"] = os.path.join(FOLDER.name, "store")
os.environ["TRAPEZE_CACHE"] = CACHE


def scratch(name):
    return os.path.join(FOLDER.name, name)


def trapeze(*arguments, status=0):
    done = subprocess.run([TRAPEZE, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=LIMIT_S, text=True, check=False)
    assert status is None or done.returncode == status, (arguments, done)
    return done


def refuses(*wanted, arguments):
    done = trapeze(*arguments, status=None)
    lines = done.stderr.strip().splitlines()
    assert done.returncode in (USAGE, HOST) and len(lines) == 1, done
    assert all(part in lines[0] for part in wanted), (wanted, lines[0])


def read(path):
    with open(path, "rb") as file:
        return file.read()


def images():
    return {row["name"]: row for row in json.loads(trapeze("image", "list", "--json").stdout)}


def left_over():
    """What pulls have left, beside images."""
    found = []
    for folder in ("pull", "images"):
        with contextlib.suppress(FileNotFoundError):
            found += [name for name in os.listdir(f"{CACHE}/{folder}")
                      if folder == "pull" or name[0] == "."]
    return sorted(found)


def disk(seed, size=3 * MIB):
    """Begins like one with a partition table."""
    return random.Random(seed).randbytes(510) + b"\x55\xaa" + random.Random(seed + 1).randbytes(
        size - 512)


# ---- servers ----

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.behave(self)

    def send(self, data, *, status=200, headers=(), length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)

    def drop(self):
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(2)
        self.close_connection = True

    def send_ranges(self, data, etag='"one"', cut=None):
        """As a good server; with `cut` it breaks off after so many bytes."""
        begin, status, headers = 0, 200, [("ETag", etag)]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and self.headers.get("If-Range") == etag:
            begin = int(asked[1])
            status = 206
            headers.append(("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}"))
        rest = data[begin:]
        self.send(rest[:cut], status=status, headers=headers, length=len(rest))
        if cut is not None and len(rest) > cut:
            self.drop()


class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True

    def handle_error(self, request, client_address):
        """A client that is killed, or has had enough, is no error."""


@contextlib.contextmanager
def serving(behave, address=("127.0.0.1", 0)):
    server = Server(address, Handler)
    server.behave, server.requests = behave, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
    finally:
        server.shutdown()
        server.server_close()


# ---- what works ----

def test_an_image_from_a_server():
    data = disk(1)
    with serving(lambda h: h.send_ranges(data)) as server:
        done = trapeze("image", "pull", f"{server.url}/x/cloud-riscv64.raw?y=z", "--sha256",
                       hashlib.sha256(data).hexdigest().upper())
    assert done.stdout == "cloud-riscv64\n", done
    folder = f"{CACHE}/images/cloud-riscv64"
    assert read(f"{folder}/disk.img") == data and left_over() == []
    assert all(os.stat(f"{folder}/{name}").st_mode & 0o222 == 0 for name in os.listdir(folder))
    row = images()["cloud-riscv64"]
    assert row["pulled"] and row["bytes"] >= len(data) and row["used-by"] == ""
    assert "cloud-riscv64" in trapeze("image", "list").stdout
    assert trapeze("image", "path", "cloud-riscv64").stdout == folder + "\n"
    refuses("already", arguments=["image", "pull", scratch("any"), "cloud-riscv64"])
    trapeze("image", "remove", "cloud-riscv64")
    assert images() == {} and left_over() == []
    refuses("no image", arguments=["image", "remove", "cloud-riscv64"])


def test_a_download_goes_on_where_it_broke_off():
    data = disk(2)
    cuts = [MIB, MIB // 2, 100]

    def behave(handler):
        handler.send_ranges(data, cut=cuts.pop(0) if cuts else None)
    with serving(behave) as server:
        trapeze("image", "pull", f"{server.url}/a.img")
        ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=1048576-", "bytes=1572864-", "bytes=1572964-"], ranges
    assert read(f"{CACHE}/images/a/disk.img") == data and left_over() == []
    trapeze("image", "remove", "a")


def test_a_server_that_drips_is_given_up():
    """A byte in each of its answers, or the beginning again and again, brings nothing."""
    data = disk(14)
    for behave in (lambda h: h.send_ranges(data, cut=1),
                   lambda h: (h.send(data[:100], length=len(data)), h.drop())):
        with serving(behave) as server:
            refuses("cannot pull", arguments=["image", "pull", f"{server.url}/drip.img"])
            assert 1 < len(server.requests) <= 6, server.requests
        assert images() == {}
        trapeze("image", "clean")


def test_another_attempt_goes_on_too():
    """After a kill -9, and not if the file is another by then."""
    for same in (True, False):
        data, other = disk(3), disk(4)
        seen = threading.Event()

        def first(handler):
            handler.send(data[:MIB], length=len(data), headers=[("ETag", '"one"')])
            seen.set()
            time.sleep(60)
        with serving(first) as server:
            address = server.server_address
            pull = subprocess.Popen([TRAPEZE, "image", "pull", f"{server.url}/b.img"],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seen.wait(LIMIT_S)
            part = lambda: [name for name in left_over() if "." not in name]
            until(lambda: part() and os.path.getsize(f"{CACHE}/pull/{part()[0]}") == MIB)
            refuses("somebody else", arguments=["image", "pull", f"{server.url}/b.img"])
            pull.send_signal(signal.SIGKILL)
            pull.wait()
        assert images() == {}
        with serving((lambda h: h.send_ranges(data)) if same else
                     (lambda h: h.send_ranges(other, etag='"two"')), address) as server:
            trapeze("image", "pull", f"{server.url}/b.img")
            assert server.requests[0][1] == f"bytes={MIB}-"
        assert read(f"{CACHE}/images/b/disk.img") == (data if same else other)
        assert left_over() == []
        trapeze("image", "remove", "b")


def test_redirections():
    data = disk(5)

    def behave(handler):
        number = int(handler.path.rsplit("/", 1)[1].removesuffix(".img"))
        if number > 0:
            handler.send(b"elsewhere", status=302, headers=[("Location", f"/{number - 1}.img")])
        else:
            handler.send_ranges(data)
    with serving(behave) as server:
        trapeze("image", "pull", f"{server.url}/9.img", "c")
        assert read(f"{CACHE}/images/c/disk.img") == data
        trapeze("image", "remove", "c")
        refuses("redirects", arguments=["image", "pull", f"{server.url}/12.img", "c"])
    with serving(lambda h: h.send(b"", status=302, headers=[("Location", h.path)])) as server:
        refuses("redirects", arguments=["image", "pull", f"{server.url}/0.img", "c"])
    for target in ("file:///etc/passwd", "ftp://localhost/x", "gopher://localhost/"):
        with serving(lambda h, t=target: h.send(b"", status=302, headers=[("Location", t)])
                     ) as server:
            refuses("cannot pull", arguments=["image", "pull", f"{server.url}/0.img", "c"])
    assert images() == {}


# ---- what does not ----

def test_servers_that_do_not_behave():
    data = disk(6)
    cases = [
        (["not enough space", "MiB"], lambda h: h.send(data, length=1 << 60)),
        (["404"], lambda h: h.send(b"no", status=404)),
        (["500"], lambda h: h.send(b"no", status=500)),
        (["no partition table"], lambda h: h.send(b"<html>" + bytes(1018))),
        (["multiple of 512"], lambda h: h.send(b"<html>It works!</html>")),
        ([], lambda h: h.send(b"")),
        ([], lambda h: h.drop()),
        ([], lambda h: (h.wfile.write(b"\0" * 5000), h.drop())),
        ([], lambda h: (h.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200000), h.drop())),
        ([], lambda h: h.send(data, status=206, headers=[("Content-Range", "bytes 7-9/10")])),
    ]
    for number, (wanted, behave) in enumerate(cases):
        with serving(behave) as server:
            refuses(*wanted, arguments=["image", "pull", f"{server.url}/{number}.img", "d"])
        assert images() == {}, number
    trapeze("image", "clean")
    assert left_over() == []


def test_a_wrong_sum():
    data = disk(7)
    with serving(lambda h: h.send_ranges(data)) as server:
        refuses("SHA-256", hashlib.sha256(data).hexdigest(), arguments=[
            "image", "pull", f"{server.url}/e.img", "--sha256", "0" * 64])
        assert images() == {} and left_over() == []
        for text in ("0" * 63, "0" * 65, "g" * 64, ""):
            refuses("64 hexadecimal", arguments=["image", "pull", f"{server.url}/e.img",
                                                 "--sha256", text])


def test_names():
    path = scratch("some disk.raw")
    with open(path, "wb") as file:
        file.write(disk(8))
    refuses("no name", arguments=["image", "pull", path])
    for name in ("../x", "a/b", ".x", "", "x" * 64):
        refuses("no name", arguments=["image", "pull", path, name])
    for name in ("debian", "tiny"):
        refuses("is built", arguments=["image", "pull", path, name])
    trapeze("image", "pull", path, "f")
    assert read(f"{CACHE}/images/f/disk.img") == read(path)
    trapeze("image", "remove", "f")


def test_a_qcow2_that_lies_on_another_file_is_refused():
    secret = scratch("secret.raw")
    with open(secret, "wb") as file:
        file.write(disk(9))
    evil = scratch("evil.qcow2")
    trapeze("disk", "create", "--format", "qcow2", "--backing", secret, "--backing-format", "raw",
            evil)
    refuses(arguments=["image", "pull", evil])
    assert images() == {} and left_over() == []


def test_a_full_disk_leaves_nothing():
    data = disk(10, 80 * MIB)

    def fill():
        small = scratch("small")
        os.mkdir(small)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100M", "none", small],
                              check=False)
        if done.returncode != 0:
            os._exit(77)
        os.environ["TRAPEZE_CACHE"] = f"{small}/cache"
        path = scratch("g.raw")
        with open(path, "wb") as file:
            file.write(data)
        with open(f"{small}/ballast", "wb") as file:
            file.write(bytes(30 * MIB))
        refuses("No space", arguments=["image", "pull", path])
        assert os.listdir(f"{small}/cache/images") == []
        with serving(lambda h: h.send_ranges(data)) as server:
            refuses("space", arguments=["image", "pull", f"{server.url}/g.raw"])
        assert os.listdir(f"{small}/cache/images") == []
    in_namespace(fill)


# ---- what uses them ----

def test_an_image_that_is_used_stays():
    path = scratch("h.raw")
    with open(path, "wb") as file:
        file.write(disk(11))
    trapeze("image", "pull", path, "h")
    top = scratch("top.qcow2")
    trapeze("disk", "create", "--format", "qcow2", "--backing", f"{CACHE}/images/h/disk.img",
            "--backing-format", "raw", top)
    trapeze("create", "web", "--firmware", LOOP_ELF, "-m", "32", "--disk", f"{top},format=qcow2")
    assert images()["h"]["used-by"] == "web"
    refuses("in use by: web", arguments=["image", "remove", "h"])
    trapeze("delete", "web")
    trapeze("image", "remove", "h")
    assert images() == {}


def test_an_archive_becomes_an_image():
    data = disk(12)
    with open(scratch("i.raw"), "wb") as file:
        file.write(data)
    trapeze("create", "i", "--kernel", LOOP_ELF, "-m", "96", "--append", "console=ttyS0 x",
            "--disk", scratch("i.raw") + ",format=raw")
    trapeze("export", "i", scratch("i.trapeze"))
    trapeze("delete", "i")
    with serving(lambda h: h.send_ranges(read(scratch("i.trapeze")))) as server:
        trapeze("image", "pull", f"{server.url}/i.trapeze", "j")
    assert read(f"{CACHE}/images/j/disk.img") == data and left_over() == []
    trapeze("create", "k", "--image", "j")
    with open(f"{os.environ['TRAPEZE_HOME']}/instances/k/k.vmx", encoding="utf-8") as file:
        text = file.read()
    assert 'memsize = "96"' in text and "console=ttyS0 x" in text, text
    assert read(f"{os.environ['TRAPEZE_HOME']}/instances/k/disk.img") == data
    trapeze("delete", "k")
    trapeze("image", "remove", "j")


def test_a_disk_for_another_processor():
    path = scratch("debian-arm64.raw")
    with open(path, "wb") as file:
        file.write(disk(13))
    trapeze("image", "pull", path)
    refuses("aarch64", "cannot run", arguments=["create", "l", "--image", "debian-arm64"])
    trapeze("image", "remove", "debian-arm64")


def test_a_disk_for_x86_64_gets_firmware():
    """A BIOS, or OVMF if somebody says so. That it boots by it is efi.py's."""
    path = scratch("debian-amd64.raw")
    with open(path, "wb") as file:
        file.write(disk(13))
    trapeze("image", "pull", path)
    for number, (name, variable) in enumerate((("seabios", "TRAPEZE_SEABIOS"), ("ovmf", "TRAPEZE_OVMF"))):
        firmware = scratch(name)
        os.environ[variable] = firmware
        refuses("a whole disk", f"apt-get install {name}", arguments=["create", "l", "--image", "debian-amd64"])
        with open(firmware, "wb") as file:
            file.write(disk(14 + number)[:1 << 18])
        trapeze("create", "l", "--image", "debian-amd64")
        folder = f"{os.environ['TRAPEZE_HOME']}/instances/l"
        with open(f"{folder}/l.vmx", encoding="utf-8") as file:
            text = file.read()
        assert 'trapeze.arch = "x86_64"' in text and "trapeze.kernel" not in text, text
        assert 'trapeze.firmware = "firmware"' in text, text
        assert read(f"{folder}/firmware") == read(firmware)
        trapeze("delete", "l")
    del os.environ["TRAPEZE_OVMF"], os.environ["TRAPEZE_SEABIOS"]
    trapeze("image", "remove", "debian-amd64")


def efi_disk(path):
    """A disk with an EFI system partition, on which the boot loader is Linux itself (its EFI
    stub)."""
    size = 62 * MIB
    at = whole_disk.write_table(path, [(whole_disk.ESP, "esp", size)])[0]
    whole_disk.write_esp(path, at, size, [(f"{TINY}/Image", "EFI/BOOT/BOOTRISCV64.EFI")])


def needs_boot_loader():
    if shutil.which("mformat") is None or not os.path.exists(
            "/usr/lib/u-boot/qemu-riscv64_smode/uboot.elf"):
        raise tap.Skip("mtools or u-boot-qemu is not installed")


def test_a_whole_disk_boots_by_its_own_boot_loader():
    needs_boot_loader()
    path = scratch("whole-riscv64.raw")
    efi_disk(path)
    trapeze("image", "pull", path, "whole")
    os.environ["TRAPEZE_UBOOT"] = scratch("absent")
    refuses("U-Boot", "apt-get install u-boot-qemu", arguments=["create", "m", "--image", "whole"])
    del os.environ["TRAPEZE_UBOOT"]
    trapeze("create", "m", "--image", "whole", "-m", "256")
    trapeze("start", "m")
    until(lambda: "end Kernel panic" in trapeze("logs", "m").stdout)  # it has no root file system
    log = trapeze("logs", "m").stdout
    assert "U-Boot" in log and "efi: EFI v" in log and "Linux version" in log, log[-2000:]
    trapeze("stop", "--force", "m", status=None)
    until(lambda: json.loads(trapeze("info", "--json", "m").stdout)["state"] == "stopped")
    trapeze("delete", "m")
    trapeze("image", "remove", "whole")


def test_a_whole_debian_boots_by_grub():
    """A disk as Debian's installer leaves it: U-Boot, GRUB from its EFI system partition, the kernel
    and the root file system from another."""
    if not FULL:
        raise tap.Skip("full tier only")
    needs_boot_loader()
    path = scratch("grub-riscv64.raw")
    env = {**os.environ}
    env.pop("TRAPEZE_CACHE")
    if USERS_CACHE is not None:
        env["TRAPEZE_CACHE"] = USERS_CACHE
    done = subprocess.run([sys.executable, whole_disk.__file__, path, DEBIAN], env=env,
                          capture_output=True, text=True, check=False)
    if done.returncode != 0 and "maker.host.Failure" in done.stderr:
        raise tap.Skip("Debian's archive has no GRUB for us: " + done.stderr.splitlines()[-1])
    assert done.returncode == 0, done
    trapeze("image", "pull", path, "grub")
    os.remove(path)
    with machine.Debian(TRAPEZE, "--image", "grub", "-m", "1G") as debian:
        debian.login()
        log = debian.log.decode(errors="replace")
        assert "U-Boot" in log and "GRUB was here" in log and "efi: EFI v" in log, log[:4000]
        assert debian.run("findmnt -no SOURCE /").strip() == "/dev/vda2"
        assert debian.run("systemctl --failed --no-legend --plain | cat").strip() == ""
        debian.run("mkdir /esp && mount /dev/vda1 /esp && ls /esp/EFI/debian/grub.cfg")
        debian.poweroff()
    trapeze("image", "remove", "grub")


def main():
    status = tap.main([test for name, test in list(globals().items()) if name.startswith("test_")])
    with contextlib.suppress(OSError):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.environ["TRAPEZE_HOME"] in open(f"/proc/{pid}/cmdline",
                                                      encoding="utf-8").read():
                    os.kill(int(pid), signal.SIGTERM)
    return status


if __name__ == "__main__":
    sys.exit(main())
