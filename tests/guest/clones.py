#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Templates and their clones, through the command line and HTTP.

    clones.py TRAPEZE LOOP_ELF
"""
import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile

from daemon_client import HOST, USAGE, Client, until
from machine import image

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-clones-")
STORE = os.path.join(FOLDER.name, "store")
CLIENT = Client(TRAPEZE, STORE)
trapeze, refuses, api, info = CLIENT.trapeze, CLIENT.refuses, CLIENT.api, CLIENT.info
SECTORS = 2048
# What was there, and then something else: on the disk, and in the clock.
SCRIPT = """echo "found=$(head -n 1 /dev/vda)="
echo "year=$(cut -c1-4 /sys/class/rtc/rtc0/date)="
echo mine >/dev/vda
sync
date -u -s '2001-02-03 04:05:06' >/dev/null
busybox hwclock -u -w
"""


def scratch(name):
    return os.path.join(FOLDER.name, name)


def path_in(*parts):
    return os.path.join(STORE, "instances", *parts)


def make_disk(name, text):
    with open(scratch(name), "wb") as file:
        file.write(text.encode())
        file.truncate(SECTORS * 512)
    return scratch(name)


def make_template(name, keys="", files=(), disk=None):
    """Of a bare-metal program, with a disk that begins with "original"."""
    disk = disk or make_disk("original", "original\n")
    trapeze("list")
    api("POST", "/v1/instances", {
        "name": name, "vmx": '# by hand\nmemsize = "32"\ntrapeze.firmware = "elf"\n'
        'scsi0:0.fileName = "disk.img"\nscsi0:0.trapeze.format = "raw"\n' + keys,
        "files": [{"source": LOOP_ELF, "name": "elf"}, {"source": disk, "name": "disk.img"},
                  *files]}, 201)
    trapeze("template", name)


def delete(*names):
    for name in names:
        trapeze("stop", "--force", name, status=None)
        trapeze("delete", name)


def vmx(name):
    with open(path_in(name, name + ".vmx"), encoding="utf-8") as file:
        return dict(re.findall(r'^(\S+) = "(.*)"$', file.read(), re.M))


def first_line(disk, form):
    """What a guest would read at the beginning of the disk."""
    trapeze("disk", "convert", "--from", form, "--format", "raw", "--force", disk, scratch("flat"))
    with open(scratch("flat"), "rb") as file:
        return file.read(512).split(b"\n")[0].decode()


def test_clones_of_a_template_run_beside_each_other():
    make_template("base", 'ethernet0.connectionType = "nat"\n')
    trapeze("clone", "base", "a")
    trapeze("clone", "base", "b")
    keys = vmx("a")
    assert sorted(os.listdir(path_in("a"))) == ["a.vmx", "disk.qcow2"]
    assert keys["trapeze.firmware"] == "../base/elf" and keys["trapeze.parent"] == "base", keys
    assert keys["ethernet0.address"] != vmx("b")["ethernet0.address"]
    details = json.loads(trapeze("disk", "info", "--json", path_in("a", "disk.qcow2")).stdout)
    assert "../base/disk.img" in json.dumps(details), details
    for name in "ab":
        trapeze("start", name)
    assert [info(name)["state"] for name in "ab"] == ["running", "running"]
    for verb in (["delete", "base"], ["rename", "base", "c"], ["template", "--undo", "base"]):
        refuses(USAGE, "'base' has linked clones", "a, b", arguments=verb)
    refuses(USAGE, "template", arguments=["start", "base"])
    trapeze("stop", "--force", "a")
    trapeze("rename", "a", "c")
    refuses(USAGE, "b, c", arguments=["delete", "base"])
    trapeze("start", "c")
    delete("b", "c")
    trapeze("template", "--undo", "base")
    trapeze("start", "base")
    delete("base")
    assert os.listdir(path_in()) == []


def test_what_a_guest_writes_stays_in_its_clone():
    """On its disk; and its clock, which is the clone's of what the original's was when it was cloned,
    is kept."""
    folder = image("tiny", TRAPEZE)
    disk, script = make_disk("original", "original\n"), make_disk("script", SCRIPT)
    trapeze("list")
    api("POST", "/v1/instances", {
        "name": "base", "vmx": f'''memsize = "128"
trapeze.kernel = "{folder}/Image"
trapeze.initrd = "{folder}/initrd"
trapeze.append = "console=ttyS0 trapeze.test=vdb"
scsi0:0.fileName = "disk.img"
scsi0:0.trapeze.format = "raw"
scsi0:1.fileName = "script"
scsi0:1.mode = "trapeze-readonly"
scsi0:1.trapeze.format = "raw"
''', "files": [{"source": disk, "name": "disk.img"}, {"source": script, "name": "script"}]}, 201)
    trapeze("template", "base")
    trapeze("clone", "base", "a")
    said = []
    for name in "a", "b":
        trapeze("start", name)
        until(lambda: info(name)["state"] == "stopped")
        log = trapeze("logs", name).stdout
        assert "trapeze-test: exit 0" in log, log
        said += re.findall("(?:found|year)=(.*)=", log)
        if name == "a":  # upon it, with what its guest has written
            trapeze("template", "a")
            trapeze("clone", "a", "b")
    assert said[:1] + said[2:] == ["original", "mine", "2001"] and int(said[1]) > 2025, said
    with open(path_in("b", "b.nvram"), encoding="ascii") as file:
        assert 'rtc.offset = "-' in file.read()
    assert vmx("b")["scsi0:1.fileName"] == "../base/script"
    trapeze("disk", "check", path_in("b", "disk.qcow2"))
    trapeze("clone", "--full", "b", "c")
    assert first_line(path_in("base", "disk.img"), "raw") == "original"
    for name in "b", "a", "base":
        trapeze("delete", name)
    assert first_line(path_in("c", "disk.qcow2"), "qcow2") == "mine"
    assert "trapeze.parent" not in vmx("c")
    trapeze("start", "c")
    until(lambda: info("c")["state"] == "stopped")
    assert "found=mine=" in trapeze("logs", "c").stdout
    trapeze("rename", "c", "d")
    with open(path_in("d", "d.nvram"), "w", encoding="ascii") as file:
        file.write('trapeze.nvram = "1"\nrtc.offset = "soon"\n')
    refuses(HOST, "nvram", ":2", "'soon'", "Without that file", arguments=["start", "d"])
    os.remove(path_in("d", "d.nvram"))
    trapeze("start", "d")
    delete("d")


def test_an_image_does_not_say_what_it_lies_upon():
    """A worker that its guest has taken over writes to its disk what it likes, names of files too."""
    secret = make_disk("secret", "secret\n")
    make_template("base", files=[{"source": secret, "name": "other.img"}])
    trapeze("clone", "base", "a")
    trapeze("template", "a")
    trapeze("clone", "a", "b")
    for name, victim in ("b", "b"), ("a", "b"):
        disk = path_in(name, "disk.qcow2")
        with open(disk, "rb") as file:
            before = file.read()
        for wanted in secret, "../base/other.img":
            os.remove(disk)
            trapeze("disk", "create", disk, "--format", "qcow2", "--backing", wanted,
                    "--backing-format", "raw")
            refuses(HOST, os.path.basename(wanted), "no description says so",
                    arguments=["start", victim])
        with open(disk, "wb") as file:
            file.write(before)
    trapeze("start", "b")
    trapeze("stop", "--force", "b")
    trapeze("disk", "create", path_in("b", "lower.qcow2"), "1M", "--format", "qcow2")
    os.remove(path_in("b", "disk.qcow2"))
    trapeze("disk", "create", path_in("b", "disk.qcow2"), "--format", "qcow2", "--backing",
            "lower.qcow2", "--backing-format", "qcow2")
    refuses(HOST, "lower.qcow2", arguments=["start", "b"])
    with open(path_in("b", "b.vmx"), encoding="utf-8") as file:
        text = file.read().replace('trapeze.backing = "../a/disk.qcow2"',
                                   'trapeze.backing = "lower.qcow2"')
    for change in text, re.sub(".*backing.*\n", "", text):  # named, or in the same folder
        with open(path_in("b", "b.vmx"), "w", encoding="utf-8") as file:
            file.write(change)
        trapeze("start", "b")
        trapeze("stop", "--force", "b")
    delete("b", "a", "base")


def test_a_full_copy_takes_nothing_of_the_host_along():
    """What a disk lies upon is looked at before it is copied, as before a start; who follows its
    tables is confined."""
    secret = make_disk("secret", "secret\n")
    make_template("base")
    trapeze("clone", "base", "a")
    disk = path_in("a", "disk.qcow2")
    with open(disk, "rb") as file:
        before = file.read()
    os.remove(disk)
    trapeze("disk", "create", disk, "--format", "qcow2", "--backing", secret, "--backing-format",
            "raw")
    refuses(HOST, "secret", "no description says so", arguments=["clone", "--full", "a", "b"])
    with open(disk, "wb") as file:
        file.write(before)
    trapeze("clone", "--full", "a", "b")
    assert first_line(path_in("b", "disk.qcow2"), "qcow2") == "original"
    with open(disk, "r+b") as file:  # an L1 table that is nowhere
        file.seek(40)
        file.write(b"\0\0\xff\xff\xff\xff\0\0")
    refuses(USAGE, "disk.qcow2", "damaged", arguments=["clone", "--full", "a", "c"])
    assert sorted(os.listdir(path_in())) == ["a", "b", "base"]
    delete("a", "b", "base")


def test_create_from_a_template():
    seed = make_disk("seed", "seed of the template")
    make_template("base", 'annotation = "ours"\nscsi0:1.fileName = "seed.iso"\n'
                  'scsi0:1.mode = "trapeze-readonly"\ntrapeze.vsockCid = "9"\n'
                  f'trapeze.vsockSocket = "{FOLDER.name}/v"\n',
                  [{"source": seed, "name": "seed.iso"}])
    trapeze("create", "a", "--from-template", "base", "--start", "--expires", "2d")
    assert info("a")["state"] == "running"
    assert vmx("a")["scsi0:1.fileName"] == "../base/seed.iso"
    assert vmx("a")["trapeze.vsockSocket"] == f"{FOLDER.name}/v-a"
    assert vmx("a")["trapeze.vsockCid"] != "9"
    trapeze("create", "b", "--from-template", "base", "--memory", "64", "--hostname", "b",
            "--disk", scratch("original"), "--expires", "2040-02-03")
    keys = vmx("b")
    assert sorted(os.listdir(path_in("b"))) == ["b.vmx", "disk.qcow2", "seed.iso"]
    assert keys["memsize"] == "64" and keys["annotation"] == "ours" and keys["displayName"] == "b"
    assert keys["trapeze.expires"] == "2040-02-03T00:00:00Z", keys
    assert [keys[f"scsi0:{unit}.fileName"] for unit in range(3)] == \
        ["disk.qcow2", scratch("original"), "seed.iso"], keys
    assert [keys.get(f"scsi0:{unit}.mode", "persistent") for unit in range(3)] == \
        ["persistent", "persistent", "trapeze-readonly"], keys
    trapeze("start", "b")
    delete("a", "b")
    refuses(USAGE, "--from-template", "--image",
            arguments=["create", "c", "--from-template", "base", "--image", "tiny"])
    refuses(USAGE, "no instance 'nobody'", arguments=["create", "c", "--from-template", "nobody"])
    refuses(USAGE, "30d", arguments=["create", "c", "--from-template", "base", "--expires", "soon"])
    refuses(USAGE, "'a/b'", arguments=["create", "c", "--from-template", "a/b"])
    refuses(USAGE, "own template", arguments=["create", "base", "--from-template", "base"])
    trapeze("clone", "--full", "base", "c")
    for options in [], ["-m", "64"]:
        refuses(USAGE, "'c' is no template", "trapeze template c",
                arguments=["create", "d", "--from-template", "c", *options])
    refuses(USAGE, "'c' already", arguments=["create", "c", "--from-template", "base"])
    for body in ({"name": "d"}, {"name": "d", "template": 7}, {"name": "d", "template": "../x"},
                 {"name": "d", "template": "base", "expires": "2026-02-30"}):
        api("POST", "/v1/instances", body, 400)
    for body in {"to": "d", "full": 1}, {"to": "d", "expires": "never"}:
        api("POST", "/v1/instances/base/clone", body, 400)
    assert sorted(os.listdir(path_in())) == ["base", "c"]
    delete("c", "base")


def test_a_clone_does_not_know_the_original_s_host_key():
    """Its ssh server may have made itself another one; and no archive brings any."""
    make_template("base")
    trapeze("template", "--undo", "base")
    for name in "known_hosts", "notes":
        with open(path_in("base", name), "w", encoding="ascii") as file:
            file.write("* ssh-ed25519 AAAA\n")
    trapeze("clone", "base", "a")  # of an instance: full
    trapeze("template", "base")
    trapeze("clone", "base", "b")
    trapeze("clone", "--full", "base", "c")
    there = {name: sorted(os.listdir(path_in(name))) for name in ("a", "b", "c")}
    assert all("known_hosts" not in files for files in there.values()), there
    assert "notes" in there["a"] and "notes" in there["c"], there
    assert "known_hosts" in os.listdir(path_in("base"))
    trapeze("export", "c", scratch("c.trapeze"))
    trapeze("import", scratch("c.trapeze"), "d")
    assert "known_hosts" not in os.listdir(path_in("d"))
    api("POST", "/v1/instances", {
        "name": "e", "vmx": 'memsize = "32"\ntrapeze.firmware = "elf"\n',
        "files": [{"source": LOOP_ELF, "name": "elf"},
                  {"source": LOOP_ELF, "name": "known_hosts"}]}, 400)
    delete("a", "b", "c", "d", "base")


def test_clones_that_cannot_be():
    make_template("base", 'scsi0:1.fileName = "nbd://localhost/x"\n')
    for full in [], ["--full"]:
        refuses(USAGE, "nbd://localhost/x", "read-only", arguments=["clone", *full, "base", "a"])
    assert os.listdir(path_in()) == ["base"]
    delete("base")
    make_template("t0")
    for level in range(1, 16):
        trapeze("clone", f"t{level - 1}", f"t{level}")
        trapeze("template", f"t{level}")
    refuses(USAGE, "more than 16 deep", "full", arguments=["clone", "t15", "t16"])
    trapeze("clone", "--full", "t15", "flat")
    for level in range(15, -1, -1):
        trapeze("delete", f"t{level}")
    assert first_line(path_in("flat", "disk.qcow2"), "qcow2") == "original"
    trapeze("start", "flat")
    delete("flat")


def test_clones_made_at_once():
    make_template("base")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda number: trapeze("clone", "base", f"c{number % 8}", status=None),
                             range(12)))
    assert sorted(one.returncode for one in done) == [0] * 8 + [USAGE] * 4, done
    assert all("already" in one.stderr for one in done if one.returncode), done
    assert [row["name"] for row in CLIENT.list()] == ["base"] + [f"c{n}" for n in range(8)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # one wins, and nothing is half-done
        deletion = pool.submit(lambda: trapeze("delete", "base", status=None).returncode)
        pool.map(lambda number: trapeze("delete", f"c{number}"), range(8))
    assert deletion.result() in (0, USAGE)
    trapeze("delete", "base", status=None)
    assert os.listdir(path_in()) == []


def listening(pid):
    """The process' unix sockets that others can connect to."""
    with open("/proc/net/unix", encoding="utf-8") as file:
        inodes = {line.split()[6] for line in file if line.split()[3] == "00010000"}
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return [link for link in links if link.removeprefix("socket:[").rstrip("]") in inodes]


def test_progress_of_a_copy():
    """A job is stopped in the middle of its copy, for longer than a bar is patient."""
    disk = scratch("large")
    with open(disk, "wb") as file:
        for _ in range(128):
            file.write(os.urandom(1 << 20))
    make_template("base", disk=disk)
    master, slave = os.openpty()
    process = subprocess.Popen(
        [TRAPEZE, "clone", "--full", "base", "copy"], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=slave, env={**os.environ, "TRAPEZE_HOME": STORE})
    os.close(slave)
    daemon, job = CLIENT.pid_of_daemon(), None
    while job is None:
        assert process.poll() is None, "it was too fast"
        with open(f"/proc/{daemon}/task/{daemon}/children", encoding="ascii") as file:
            job = next(iter(map(int, file.read().split())), None)
    while True:
        os.kill(job, signal.SIGSTOP)
        jobs = api("GET", "/v1/jobs")["jobs"]
        if jobs and jobs[0]["total"] == 128 << 20:
            break
        os.kill(job, signal.SIGCONT)
    assert jobs[0]["instance"] == "base" and jobs[0]["to"] == "copy", jobs
    assert 0 <= jobs[0]["done"] < jobs[0]["total"], jobs
    # It may outlive a daemon that is killed by a moment, and nobody is to connect to it then.
    assert listening(daemon) and not listening(job), (listening(daemon), listening(job))
    seen = b""
    while b"copying [" not in seen:
        seen += os.read(master, 4096)
    os.kill(job, signal.SIGCONT)
    assert process.wait(timeout=300) == 0
    os.close(master)
    assert api("GET", "/v1/jobs")["jobs"] == []
    assert subprocess.run(["cmp", disk, path_in("copy", "disk.img")], check=False).returncode == 0
    delete("copy", "base")


if __name__ == "__main__":
    sys.exit(CLIENT.main(globals()))
