#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Machines that move: export and import, and archives that somebody made to harm.

    transfer.py TRAPEZE LOOP_ELF
"""
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import tap
from archive_maker import Archive, member
from daemon_client import HOST, LIMIT_S, USAGE, is_alive, until
from machine import image
from namespace import in_namespace
from one_store import (EVIL, FOLDER, LOOP_ELF, MIB, TRAPEZE, client, contents, delete, end_daemon,
                       folder, instances, main, make_raw, read, scratch, trapeze, vmx)


def layered(name, raw):
    """A qcow2 on a raw disk, with writes of its own; and what a guest sees of both."""
    top = scratch(name)
    own = make_raw("own.raw", os.path.getsize(raw), 99)
    trapeze("disk", "create", "--format", "qcow2", "--backing", raw, "--backing-format", "raw", top)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -s {own} {MIB} 2M", top], check=True,
                   stdout=subprocess.DEVNULL)
    seen = bytearray(read(raw))
    pattern = read(own)[:2 * MIB]
    seen[MIB:3 * MIB] = pattern
    return top, bytes(seen)


# ---- there and back ----

def write_nvram(name, flash):
    """The flash of an .nvram file begins at 64 KiB."""
    content = b'trapeze.nvram = "1"\nrtc.offset = "5"\n'.ljust(64 << 10, b"\0") + flash
    with open(f"{folder(name)}/{name}.nvram", "wb") as file:
        file.write(content)
    return content


def manifest(archive):
    """Of one that is small enough to be the first thing in it."""
    out = subprocess.run(["tar", "-xO", "--zstd", "-f", archive, "manifest.json"], check=True,
                         capture_output=True)
    return json.loads(out.stdout)


def test_what_firmware_keeps_goes_along():
    """Whether the machine is switched off or suspended, and goes on at the other end or begins anew there."""
    kept = scratch("kept.trapeze")
    trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32")
    trapeze("export", "a", scratch("without.trapeze"))
    assert manifest(scratch("without.trapeze"))["trapeze-archive"] == 1  # as older ones know it
    content = write_nvram("a", random.Random(4).randbytes(5 * 4096))
    assert trapeze("export", "a", kept).stderr == ""
    assert manifest(kept)["trapeze-archive"] == 4
    trapeze("import", kept, "b")
    assert read(f"{folder('b')}/b.nvram") == content
    trapeze("start", "b")
    until(lambda: "ready" in trapeze("logs", "b").stdout)
    trapeze("suspend", "b")
    trapeze("export", "b", scratch("suspended.trapeze"))
    trapeze("import", "--keep-identity", scratch("suspended.trapeze"), "c")
    assert client().info("c")["state"] == "suspended"
    trapeze("start", "c")
    trapeze("import", scratch("suspended.trapeze"), "d")
    assert client().info("d")["state"] == "stopped"
    for name, kept_from in ("c", 64 << 10), ("d", 0):  # the clock of what goes on is its own
        assert read(f"{folder(name)}/{name}.nvram")[kept_from:] == content[kept_from:], name
        assert sorted(entry for entry in os.listdir(folder(name)) if "nvram" in entry) == [f"{name}.nvram"]
    delete("a", "b", "c", "d")
    trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32")
    with open(f"{folder('a')}/a.nvram", "wb") as file:
        file.truncate(1 << 30)  # by a worker that its guest has taken over
    assert trapeze("export", "a", scratch("huge.trapeze")).stderr == ""
    assert manifest(scratch("huge.trapeze"))["trapeze-archive"] == 1
    delete("a")


def test_a_machine_goes_into_a_file_and_comes_back():
    raw = make_raw("plain.raw", 64 * MIB, 1)
    top, seen = layered("top.qcow2", make_raw("base.raw", 16 * MIB, 2))
    trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32", "--disk", f"{top},format=qcow2",
            "--disk", f"{raw},format=raw,readonly", "--share", f"{FOLDER.name}:x",
            "--net", "nat,mac=02:00:00:00:00:07")
    path = f"{folder('a')}/a.vmx"
    text = read(path).decode() + "# a remark\n"
    # An image in the folder that lies on a file of the host which nobody has named: a worker that
    # its guest has taken over could write that.
    shutil.copy(top, f"{folder('a')}/layer.qcow2")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(top, "layer.qcow2"))
    done = trapeze("export", "a", scratch("a.trapeze"), status=None)
    assert done.returncode != 0 and "base.raw" in done.stderr, done
    os.remove(f"{folder('a')}/layer.qcow2")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)

    done = trapeze("export", "a", scratch("a.trapeze"))
    assert "shared folder" in done.stderr, done
    trapeze("export", "a", scratch("again.trapeze"))
    assert read(scratch("a.trapeze")) == read(scratch("again.trapeze"))
    before = vmx("a")
    delete("a")
    for name in ("base.raw", "plain.raw", "top.qcow2"):
        os.rename(scratch(name), scratch("gone-" + name))

    done = trapeze("import", scratch("a.trapeze"))
    assert done.stdout == "a: imported\n" and "shared folder" in done.stderr, done
    after = vmx("a")
    assert sorted(os.listdir(folder("a"))) == ["a.vmx", "disk-2.img", "disk.img", "firmware"]
    assert contents(f"{folder('a')}/disk.img", "qcow2") == seen
    assert read(f"{folder('a')}/disk-2.img") == read(scratch("gone-plain.raw"))
    status = os.stat(f"{folder('a')}/disk-2.img")
    assert status.st_blocks * 512 < status.st_size // 2  # holes are holes
    assert b"# a remark" in read(f"{folder('a')}/a.vmx")
    assert after["scsi0:1.mode"] == before["scsi0:1.mode"] == "trapeze-readonly"
    assert after["ethernet0.address"] != before["ethernet0.address"]
    assert not any(key.startswith("sharedFolder") for key in after)
    trapeze("start", "a")
    until(lambda: "ready" in trapeze("logs", "a").stdout)
    done = trapeze("export", "a", scratch("running.trapeze"), status=USAGE)
    assert "running" in done.stderr and not os.path.exists(scratch("running.trapeze"))
    delete("a")


def test_the_identity_is_kept_or_made_anew():
    trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32",
            "--net", "nat,mac=02:00:00:00:00:07")
    with open(f"{folder('a')}/a.vmx", "a", encoding="utf-8") as file:
        file.write('trapeze.vsockCid = "77"\ntrapeze.vsockSocket = "v"\n'
                   'uuid.bios = "56 4d 01 02 03 04 05 06-07 08 09 0a 0b 0c 0d 0e"\n')
    trapeze("export", "a", scratch("identity.trapeze"))
    keys = ("ethernet0.address", "trapeze.vsockCid", "uuid.bios")
    refused = trapeze("import", scratch("identity.trapeze"), status=USAGE)
    assert "there is an instance 'a' already" in refused.stderr
    trapeze("import", scratch("identity.trapeze"), "b")
    trapeze("import", "--keep-identity", scratch("identity.trapeze"), "c")
    for key in keys:
        assert vmx("c")[key] == vmx("a")[key] != vmx("b")[key], key
    assert vmx("b")["displayName"] == "b" and vmx("b")["trapeze.vsockSocket"] == "v"
    delete("a", "b", "c")


def test_what_came_back_boots_and_has_its_disks():
    files = image("tiny", TRAPEZE)
    data = make_raw("data.raw", 8 * MIB, 3)
    top, seen = layered("data.qcow2", data)
    script = scratch("script.img")
    with open(script, "wb") as out:
        out.write(b"sha256sum /dev/vdb; dd if=/dev/vdb of=/dev/vdb seek=1 bs=512 count=1 conv=fsync"
                  b" 2>/dev/null\n".ljust(65536, b"\0"))
    trapeze("create", "a", "--kernel", f"{files}/Image", "--initrd", f"{files}/initrd", "--append",
            "console=ttyS0 quiet trapeze.test=vda", "-m", "128", "--disk", f"{script},format=raw",
            "--disk", f"{top},format=qcow2")
    trapeze("export", "a", scratch("boots.trapeze"))
    delete("a")
    for name in (data, top, script):
        os.remove(name)
    trapeze("import", scratch("boots.trapeze"))
    trapeze("start", "a")
    until(lambda: "trapeze-test: exit" in trapeze("logs", "a").stdout)
    log = trapeze("logs", "a").stdout
    assert hashlib.sha256(seen).hexdigest() in log and "trapeze-test: exit 0" in log, log[-2000:]
    until(lambda: json.loads(trapeze("info", "--json", "a").stdout)["state"] == "stopped")
    disk = next(name for name in os.listdir(folder("a")) if name.endswith("-2.img"))
    assert contents(f"{folder('a')}/{disk}", "qcow2") == seen[:512] + seen[:512] + seen[1024:]
    delete("a")


def test_a_folder_is_copied_to_another_store_and_runs_there():
    """Cold migration: nothing but the folder, another daemon."""
    disk = make_raw("cold.raw", 4 * MIB, 4)
    trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32")
    shutil.copy(disk, f"{folder('a')}/disk.img")
    with open(f"{folder('a')}/a.vmx", "a", encoding="utf-8") as file:
        file.write('scsi0:0.fileName = "disk.img"\nscsi0:0.trapeze.format = "raw"\n')
    other = scratch("other")
    trapeze("list", store=other)
    shutil.copytree(folder("a"), folder("moved", other))
    delete("a")
    trapeze("start", "moved", store=other)
    until(lambda: "ready" in trapeze("logs", "moved", store=other).stdout)
    trapeze("stop", "--force", "moved", store=other)
    assert read(f"{folder('moved', other)}/disk.img") == read(disk)
    trapeze("delete", "moved", store=other)
    end_daemon(other)


# ---- what goes wrong on the way ----

def make_archive(name, size, seed):
    """Of random bytes: what takes long to send."""
    with open(scratch(name + ".raw"), "wb") as out:
        source = random.Random(seed)
        for _ in range(size // MIB):
            out.write(source.randbytes(MIB))
    trapeze("create", name, "--firmware", LOOP_ELF, "-m", "32", "--disk",
            scratch(name + ".raw") + ",format=raw")
    path = scratch(name + ".trapeze")
    trapeze("export", name, path)
    trapeze("delete", name)
    return path


def test_who_is_killed_in_the_middle_leaves_nothing():
    path = make_archive("big", 48 * MIB, 5)
    trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32", "--disk",
            scratch("big.raw") + ",format=raw")
    source = random.Random(6)
    target = scratch("target")
    os.mkdir(target)
    # A whole run's length, to kill at any point of it; how long that takes here proves nothing.
    begin = time.monotonic()
    trapeze("import", path, "b")
    length = time.monotonic() - begin
    delete("b")
    for turn in range(12):
        command = ["import", path, "b"] if turn % 2 == 0 else ["export", "a", f"{target}/x"]
        whom = ("command", "daemon")[turn // 2 % 2]
        daemon = client().pid_of_daemon()
        run = subprocess.Popen([TRAPEZE, *command], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(source.random() * length)
        os.kill(run.pid if whom == "command" else daemon, signal.SIGKILL)
        run.wait(timeout=LIMIT_S)
        if whom == "daemon":
            until(lambda: not is_alive(daemon))
        trapeze("list")  # of a daemon that is there again
        until(lambda: all(name[0] != "." for name in instances()))
        if "b" in instances():  # it was over
            trapeze("export", "b", f"{target}/whole")
            os.remove(f"{target}/whole")
            delete("b")
        if os.path.exists(f"{target}/x"):
            trapeze("import", f"{target}/x", "c")
            delete("c")
            os.remove(f"{target}/x")
        assert os.listdir(target) == [], os.listdir(target)
    assert instances() == ["a"]
    delete("a")


def test_a_full_disk_leaves_nothing():
    path = make_archive("full", 8 * MIB, 7)

    def fill():
        small = scratch("small")
        os.mkdir(small)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30M", "none", small], check=False)
        if done.returncode != 0:
            os._exit(77)
        os.environ["TRAPEZE_HOME"] = f"{small}/store"
        trapeze("list")
        trapeze("import", path, "fits")
        delete("fits")
        with open(f"{small}/ballast", "wb") as out:
            out.write(bytes(10 * MIB))
        done = trapeze("import", path, "a", status=HOST)
        assert "not enough space" in done.stderr and "MiB" in done.stderr, done
        assert instances() == []
        trapeze("create", "b", "--firmware", LOOP_ELF, "-m", "32", "--disk",
                scratch("full.raw") + ",format=raw")
        with open(f"{small}/ballast2", "wb") as out:
            out.write(bytes(15 * MIB))
        done = trapeze("export", "b", f"{small}/x", status=HOST)
        assert "No space left" in done.stderr and "Free some space" in done.stderr, done
        assert sorted(os.listdir(small)) == ["ballast", "ballast2", "store"]
        assert instances() == ["b"]
        end_daemon()
    in_namespace(fill)


def test_a_file_system_that_has_no_files_without_names():
    """As FAT's, on a stick."""
    disk, stick = scratch("stick.img"), scratch("stick")
    os.mkdir(stick)
    with open(disk, "wb") as out:
        out.truncate(16 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], check=True)
    if shutil.which("fuse2fs") is None or subprocess.run(
            ["fuse2fs", "-o", "fakeroot,rw", disk, stick], check=False).returncode != 0:
        raise tap.Skip("fuse2fs is not installed, or may not")
    try:
        trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32")
        for option in ((), ("--force",)):
            trapeze("export", *option, "a", f"{stick}/a.trapeze")
            assert sorted(os.listdir(stick)) == ["a.trapeze", "lost+found"]
        trapeze("export", "absent", f"{stick}/b.trapeze", status=USAGE)
        assert sorted(os.listdir(stick)) == ["a.trapeze", "lost+found"]
        trapeze("import", f"{stick}/a.trapeze", "b")
        delete("a", "b")
    finally:
        subprocess.run(["umount", stick], check=True)


def test_damaged_archives_are_refused():
    path = make_archive("damaged", 2 * MIB, 8)
    good = read(path)
    source = random.Random(9)
    broken = scratch("broken.trapeze")
    cases = [good[:-1], good[:len(good) // 2], good[:100], good + b"x", good + good, good[:3], b""]
    for _ in range(12):
        copy = bytearray(good)
        copy[source.randrange(len(copy))] ^= 1 << source.randrange(8)
        cases.append(bytes(copy))
    for number, case in enumerate(cases):
        with open(broken, "wb") as out:
            out.write(case)
        done = trapeze("import", broken, "b", status=None)
        lines = done.stderr.strip().splitlines()
        assert done.returncode in (USAGE, HOST) and len(lines) == 1, (number, done)
        assert instances() == [], number


# ---- what somebody made to harm ----

def plain():
    return Archive('memsize = "32"\ntrapeze.firmware = "firmware"\n', {"firmware": read(LOOP_ELF)})


def test_what_other_software_wrote_is_taken():
    trapeze("import", plain().write(EVIL))
    trapeze("start", "evil")
    until(lambda: "ready" in trapeze("logs", "evil").stdout)
    delete("evil")


def test_hostile_archives_are_refused():
    secret = scratch("secret")
    with open(secret, "w", encoding="ascii") as file:
        file.write("untouched")
    cases = []

    def case(*wanted):
        cases.append((plain(), wanted))
        return cases[-1][0]
    for name in ("../escape", "/tmp/escape", "a/b", "..", ".hidden", "a\\b", "lock", "console.log",
                 "other.vmx", "x.vmtx", "", "y" * 64, "evil.vmx"):
        spoiled = case("manifest")
        spoiled.manifest["files"].append({"name": name, "size": 1, "data": 1})
        spoiled.more.append(member(name, data=b"x"))
    for name in ("../escape", "/tmp/escape", "a/b", "firmware", "FIRMWARE", "extra"):
        case("archive").more.append(member(name))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        spoiled = case("archive")
        del spoiled.files["firmware"]
        spoiled.more.append(member("firmware", kind, b"", linkname=secret))
    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        spoiled = case("archive")
        del spoiled.files["firmware"]
        spoiled.more.append(member("firmware", kind, b""))
    for size, data in ((1, 1), (10**9, 5), (2**62, 2**62), (-1, -1)):
        row = case("archive").manifest["files"][0]
        row["size"], row["data"] = size, data
    spoiled = case("space")
    spoiled.manifest["files"][0].update(size=2**49, data=2**49)
    spoiled = case("space")  # taken at once, as the format has it
    spoiled.manifest["files"][0].update(size=2**49, data=5576, format="fixed")
    for name in ("vmdk", "nbd", "../raw"):
        case("format").manifest["files"][0]["format"] = name
    case("newer").manifest["trapeze-archive"] = 5
    for row in ({"name": "evil.nvram"}, {"role": "suspended"}, {"format": "raw"}, {"data": 5},
                {"size": 1 << 25, "data": 1 << 25}):
        case("role" if "data" not in row or "size" in row else "holes").manifest["files"].append(
            {"name": "machine.nvram", "size": 9, "data": 9, "role": "nvram", **row})
    case("manifest").manifest["files"].append({"name": "machine.nvram", "size": 9, "data": 9})
    case(".nvram", "no number").add("machine.nvram", b'trapeze.nvram = "1"\nrtc.offset = "x"\n', role="nvram")
    for row in ({"name": "state"}, {"role": "x"}, {"format": "raw"}, {"name": "SUSPENDED.vmss"}):
        spoiled = case("role")
        spoiled.manifest["files"].append({"name": "suspended.vmss", "size": 512, "data": 512,
                                          "role": "suspended", **row})
    case("manifest").manifest["files"].append({"name": "suspended.vmss", "size": 1, "data": 1})
    for offset in 1 << 62, -(1 << 63) + 1:
        case("clock").manifest["rtc-offset"] = offset
    case("manifest").manifest["trapeze-archive"] = "1"
    case("manifest").manifest["name"] = "../../escape"
    case("manifest").manifest["files"] = {}
    case("JSON").manifest = b"[" * 100000
    case("JSON").manifest = b'{"trapeze-archive": 1, "trapeze-archive": 1}'
    case("too large").manifest = b" " * (5 * MIB)
    case("checksum").sums["firmware"] = "0" * 64
    case("checksum").sums = {}
    case("follows").tail = b"\0" * (2 * MIB)
    case("follows").run = 1 << 40 >> 6  # 16 GiB of zeros in 512 KiB
    case("").text = b"memsize = \"32\"\ntrapeze.frimware = \"firmware\"\n"
    for number, (archive, wanted) in enumerate(cases):
        done = trapeze("import", archive.write(EVIL), "evil", status=None)
        lines = done.stderr.strip().splitlines()
        assert done.returncode in (USAGE, HOST) and len(lines) == 1, (number, wanted, done)
        assert all(part in lines[0] for part in wanted), (number, wanted, done)
        assert instances() == [], (number, instances())
    assert read(secret) == b"untouched" and not os.path.exists("/tmp/escape")


def test_a_bomb_of_headers_is_bounded():
    """A sparse file's map, or a long name, that never ends."""
    archive = plain()
    info = tarfile.TarInfo("firmware")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                        "GNU.sparse.name": "firmware", "GNU.sparse.realsize": "5576"}
    del archive.files["firmware"]
    archive.more.append((info, b"9999999\n" + b"0\n0\n" * (4 * MIB)))
    done = trapeze("import", archive.write(EVIL), "evil", status=HOST)
    assert "headers are unreasonably long" in done.stderr, done
    archive = plain()
    archive.more.append(member("n" * (12 * MIB)))
    done = trapeze("import", archive.write(EVIL), "evil", status=HOST)
    assert len(done.stderr) < 1000, done.stderr[:1000]
    assert instances() == []


def test_what_a_stranger_describes_reaches_nothing_of_this_host():
    secret = make_raw("secret.raw", MIB, 10)
    archive = Archive(f'''memsize = "32"
trapeze.firmware = "firmware"
trapeze.kernel = "{secret}"
trapeze.initrd = "../../../etc/passwd"
scsi0:0.fileName = "{secret}"
scsi0:1.fileName = "disk.img"
scsi0:2.fileName = "nbd://localhost/x"
scsi0:3.fileName = "../{secret}"
trapeze.autostart = "TRUE"
trapeze.owner = "mallory"
sharedFolder0.hostPath = "/"
sharedFolder0.guestName = "root"
sharedFolder0.writeAccess = "TRUE"
serial0.fileType = "file"
serial0.fileName = "/tmp/escape"
trapeze.dumpDeviceTree = "../escape"
trapeze.vsockCid = "9"
trapeze.vsockSocket = "{FOLDER.name}/v"
ethernet0.connectionType = "nat"
ethernet0.trapeze.hostLoopback = "TRUE"
ethernet0.trapeze.capture = "/tmp/escape"
''', {"firmware": read(LOOP_ELF), "disk.img": bytes(4096)})
    done = trapeze("import", archive.write(EVIL))
    text = vmx("evil")
    assert not any(part in value for value in text.values()
                   for part in ("/", "nbd:", "..")), text
    assert [value for key, value in text.items() if key.endswith("fileName")] == ["disk.img"], text
    assert text.get("ethernet0.trapeze.hostLoopback", "FALSE") == "FALSE", text
    assert text.get("trapeze.autostart", "FALSE") == "FALSE" and "mallory" not in text.values()
    for word in ("kernel", "initrd", "disk", "nbd://", "shared folder", "console", "device tree",
                 "vsock", "loopback", "capture"):
        assert word in done.stderr, (word, done.stderr)
    delete("evil")


def test_a_disk_of_a_stranger_lies_on_nothing_of_this_host():
    """A member that is a qcow2 image of the stranger's making, and a description that says so."""
    secret = make_raw("secret.raw", MIB, 11)
    overlay = scratch("overlay.qcow2")
    trapeze("disk", "create", "--format", "qcow2", "--backing", secret, "--backing-format", "raw",
            overlay)
    for rest in ("", 'scsi0:0.deviceType = "cdrom-image"\n'):
        archive = Archive('''memsize = "32"
trapeze.firmware = "firmware"
scsi0:0.fileName = "disk.img"
scsi0:0.trapeze.format = "qcow2"
''' + rest, {"firmware": read(LOOP_ELF), "disk.img": read(overlay)})
        trapeze("import", archive.write(EVIL))
        trapeze("export", "--force", "evil", scratch("evil-again.trapeze"))
        delete("evil")
        trapeze("import", scratch("evil-again.trapeze"))
        assert read(f"{folder('evil')}/disk.img") == read(overlay), rest
        delete("evil")


def test_a_stranger_s_words_do_nothing_to_the_terminal():
    archive = Archive('memsize = "32"\ntrapeze.firmware = "firmware"\n',
                      {"firmware": read(LOOP_ELF)})
    archive.manifest["notes"] = ["\033]0;mine\007\033[2J", "\x9b31m\r"]
    done = trapeze("import", archive.write(EVIL))
    assert "?]0;mine" in done.stderr and "31m" in done.stderr, done
    assert not set(done.stderr) & set("\033\007\r\x9b"), done
    delete("evil")


def test_a_stranger_s_machine_does_not_write_its_own_description():
    for name in ("evil.vmx", "other.vmtx", "restart", "control.sock"):
        archive = Archive(f'''memsize = "32"
trapeze.firmware = "firmware"
serial0.fileType = "file"
serial0.fileName = "{name}"
trapeze.dumpDeviceTree = "{name}"
trapeze.vsockCid = "9"
trapeze.vsockSocket = "{name}"
ethernet0.connectionType = "nat"
ethernet0.trapeze.capture = "{name}"
''', {"firmware": read(LOOP_ELF)})
        done = trapeze("import", archive.write(EVIL))
        assert name not in vmx("evil").values(), (name, vmx("evil"))
        assert done.stderr.count(name) == 4, done.stderr
        delete("evil")


NICS = """ethernet0.connectionType = "bridged"
ethernet0.vnet = "br0"
ethernet1.connectionType = "custom"
ethernet1.vnet = "tap:tap0"
ethernet2.connectionType = "custom"
ethernet2.vnet = "internal:lan"
ethernet2.trapeze.vlan = "7"
ethernet3.connectionType = "hostonly"
ethernet3.vnet = "192.168.77.1/24"
ethernet4.connectionType = "nat"
ethernet4.trapeze.forward = "tcp:2222:22"
ethernet5.connectionType = "nat"
ethernet5.trapeze.hostLoopback = "TRUE"
"""


def test_a_stranger_s_machine_is_on_no_network_of_the_host():
    """Unless its user says so."""
    text = f'''memsize = "32"
trapeze.firmware = "firmware"
trapeze.perf = "jitdump:{FOLDER.name}"
trapeze.trace = "blocks"
{NICS}'''
    archive = Archive(text, {"firmware": read(LOOP_ELF)}).write(EVIL)
    done = trapeze("import", archive)
    after = vmx("evil")
    for number in range(6):
        wanted = "hostonly" if number == 3 else "nat"
        assert after.get(f"ethernet{number}.connectionType", "nat") == wanted, after
    for key in after:
        assert not key.endswith((".vnet", ".forward", ".perf", ".trace")), key
    assert after.get("ethernet2.trapeze.vlan", "0") == "0", after
    assert after.get("ethernet5.trapeze.hostLoopback", "FALSE") == "FALSE", after
    for word in ("'br0'", "'tap:tap0'", "'internal:lan'", "'192.168.77.1/24'", "'tcp:2222:22'",
                 "--keep-networks", "jitdump"):
        assert word in done.stderr, (word, done.stderr)
    trapeze("start", "evil")
    delete("evil")
    assert not [name for name in os.listdir(FOLDER.name) if name.startswith("jit-")]
    done = trapeze("import", "--keep-networks", archive)
    after = vmx("evil")
    for line in NICS.splitlines():
        key, value = line.split(" = ")
        if value != '"nat"' and "hostLoopback" not in key:
            assert after[key] == value.strip('"'), (key, after)
    assert after.get("ethernet5.trapeze.hostLoopback", "FALSE") == "FALSE", after
    assert "'br0'" not in done.stderr, done.stderr
    delete("evil")
    status, answer = client().raw("POST", "/v1/import?name=x&networks=all", b"")
    assert status == 400 and "networks" in answer["error"], answer


def test_a_state_by_a_stranger():
    """Of a suspended machine: refused if it makes no sense, and nothing else becomes one."""
    for size in 1, 4096, 10000:
        archive = plain()
        archive.add("suspended.vmss", os.urandom(size), role="suspended")
        done = trapeze("import", "--keep-identity", archive.write(EVIL), "evil", status=HOST)
        assert "suspended machine" in done.stderr and instances() == [], done
        done = trapeze("import", archive.write(EVIL), "evil")  # nobody looks at it
        assert "it was suspended" in done.stderr and "--keep-identity" in done.stderr, done
        assert client().info("evil")["state"] == "stopped"
        assert not os.path.exists(f"{folder('evil')}/suspended.vmss")
        delete("evil")
    archive = Archive("""memsize = "32"
trapeze.firmware = "firmware"
scsi0:0.fileName = "suspended.vmss"
serial0.fileType = "file"
serial0.fileName = "suspended.vmss"
""", {"firmware": read(LOOP_ELF)})
    archive.add("suspended.vmss", os.urandom(4096), role="suspended")
    trapeze("import", archive.write(EVIL), "evil")
    assert "suspended.vmss" not in vmx("evil").values(), vmx("evil")
    delete("evil")


if __name__ == "__main__":
    sys.exit(main(globals()))
