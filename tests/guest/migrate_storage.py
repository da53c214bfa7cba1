#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Disks of a machine that moves while it runs: those that both sides see stay where they are, the
others come along (`--copy-storage`), and whatever fails the source goes on with its own.

    migrate_storage.py TRAPEZE LOOP_ELF WRITER_ELF
"""
import json
import os
import subprocess
import sys

import writer
from daemon_client import LIMIT_S, USAGE, until
from machine import FULL
from two_stores import (A, B, CHOICE, MIB, SHARED, TRAPEZE, WRITER_ELF, Gate, Life, at, folder,
                    flushed, is_settled, known, main, names, other, pid_of_worker, kill, socket_of)

SIZE = writer.SECTORS * writer.SECTOR


def image(path, *how, size=SIZE):
    A.trapeze("disk", "create", "--force", *how, path, *([f"{size >> 20}M"] if size else []))
    return path


def raw_of(client, number=0, name="web"):
    """What a guest would see of the disk of a machine that does not run."""
    disk = client.info(name)["disks"][number]
    client.trapeze("disk", "convert", "--force", "--format", "raw", "--from",
                   "raw" if disk.endswith(".raw") else "qcow2", disk, at("seen.raw"))
    with open(at("seen.raw"), "rb") as file:
        return file.read()


def is_clean(path):
    done = subprocess.run(["qemu-img", "check", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "No errors were found" in done.stdout, done


def vmx(*disks):
    lines = ['memsize = "32"', 'trapeze.firmware = "elf"', 'ethernet0.present = "FALSE"']
    for number, (name, form, only_read) in enumerate(disks):
        lines += [f'scsi0:{number}.fileName = "{name}"']
        lines += [f'scsi0:{number}.trapeze.format = "{form}"'] if form else []
        lines += [f'scsi0:{number}.mode = "trapeze-readonly"'] if only_read else []
    return "\n".join(lines) + "\n"


def own(client, name, elf, *disks):
    """A machine whose disks are in its folder: (path, format, read-only)."""
    files = [{"source": elf, "name": "elf"}] + [
        {"source": path, "name": os.path.basename(path)} for path, _, _ in disks]
    client.trapeze("list")
    text = vmx(*((os.path.basename(path), form, only_read) for path, form, only_read in disks))
    client.api("POST", "/v1/instances", {"name": name, "vmx": text, "files": files}, 201)


def nothing_of_it(client, name="web"):
    """Neither the instance nor anything half-made."""
    until(lambda: known(client, name) is None)
    until(lambda: not any(entry.startswith(".") or entry == name for entry in
                          os.listdir(os.path.join(client.store, "instances"))))


def owner_reads():
    """The disk of the writer's machine, wherever that has died."""
    return raw_of(A if known(A) else B)


def test_a_clone_takes_its_disks_along():
    """An overlay on a template's image, a raw disk, one that is only read: there as the guest sees
    them, what it has flushed is there, and here nothing is left."""
    data = CHOICE.randbytes(2 * MIB)
    for name in ("plain.raw", "data.raw"):
        with open(at(name), "wb") as file:
            file.write(data)
    own(A, "base", WRITER_ELF, (image(at("disk.qcow2"), "--format", "qcow2"), "qcow2", False),
        (at("plain.raw"), "raw", False), (at("data.raw"), "raw", True))
    A.trapeze("template", "base")
    A.trapeze("clone", "base", "web")
    life = Life(owner_reads)
    A.refuses(USAGE, "instance's folder", "--copy-storage", arguments=["migrate", "web", socket_of(B)])
    assert flushed(A) > 0
    done = A.trapeze("migrate", "--json", "--copy-storage", "--downtime", "200ms", "web", socket_of(B))
    assert json.loads(done.stdout) == {"name": "web", "to": socket_of(B), "notes": []}, done
    until(lambda: is_settled(B))
    nothing_of_it(A)
    said = flushed(B)
    until(lambda: flushed(B) > said)
    B.trapeze("stop", "--force", "web")
    life.check(flushed(B))
    assert raw_of(B, 1) == data
    disks = B.info("web")["disks"]
    assert all(disk.startswith(folder(B, "web") + "/") for disk in disks), disks
    is_clean(disks[0])
    shown = json.loads(B.trapeze("disk", "info", "--json", disks[0]).stdout)
    assert shown["format"] == "qcow2" and not shown.get("backing"), shown
    with open(disks[2], "rb") as file:  # what is only read is as it was
        assert file.read() == data, disks
    B.trapeze("start", "web")
    B.trapeze("stop", "--force", "web")


def disks_left(client):
    """Bytes of disks that are still to be copied, of the only job."""
    jobs = client.api("GET", "/v1/jobs")["jobs"]
    return jobs and jobs[0].get("migration", {}).get("round") == 0 and \
        jobs[0]["migration"]["stage"] == "pre-copy" and jobs[0]["migration"]["disk-left"]


def test_cut_off_it_goes_on_with_its_own():
    """Called off, the link cut, the target's worker or daemon killed while the disk is on its way."""
    own(A, "web", WRITER_ELF, (image(at("disk.raw"), "--format", "raw"), "raw", False))
    life = Life(owner_reads)
    for turn in range(80 if FULL else 4):
        said = flushed(A)
        daemon = B.pid_of_daemon()
        with Gate(B, lambda verb: "pass") as gate:
            process = subprocess.Popen(
                [TRAPEZE, "migrate", "web", gate.path, "--copy-storage", "--bandwidth", "1M"],
                env={**os.environ, "TRAPEZE_HOME": A.store}, text=True, stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE)
            until(lambda: disks_left(A) or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            victim = turn % 4
            if victim == 0:
                A.trapeze("migrate", "--cancel", "web")
            elif victim == 1:
                gate.cut()
            else:
                kill(daemon if victim == 2 else pid_of_worker(B))
            assert process.wait(timeout=LIMIT_S) != 0
            process.communicate()
        assert life.settle(said) is A and life.deaths == 0
        B.trapeze("list")
        nothing_of_it(B)
    said = flushed(A)
    A.trapeze("migrate", "web", socket_of(B), "--copy-storage")
    assert life.settle(said) is B and life.deaths == 0
    B.trapeze("stop", "--force", "web")
    disk = B.info("web")["disks"][0]
    assert os.path.getsize(disk) == SIZE and disk == os.path.join(folder(B, "web"), "disk.raw"), disk
    life.check(flushed(B))


def test_shared_images_stay_where_they_are():
    """A qcow2 image upon another one, in another folder: what was flushed here is read there, there
    and back, and the image is in order after each move."""
    below = at("below")
    os.makedirs(SHARED, exist_ok=True)
    os.makedirs(below, exist_ok=True)
    base = image(os.path.join(below, "base.qcow2"), "--format", "qcow2")
    top = image(os.path.join(SHARED, "top.qcow2"), "--backing", base, "--backing-format", "qcow2",
                size=None)
    A.trapeze("create", "web", "--firmware", WRITER_ELF, "-m", "32", "--disk", f"{top},format=qcow2",
              "--net", "none")
    life, owner = Life(owner_reads), A
    for _ in range(20 if FULL else 2):
        said = flushed(owner)
        done = owner.trapeze("migrate", "web", socket_of(other(owner)), "--copy-storage")
        assert done.stderr == "", done  # nothing was copied
        owner = life.settle(said)
        assert owner.info("web")["disks"] == [top] and life.deaths == 0
        owner.trapeze("stop", "--force", "web")
        is_clean(top)
        assert life.settle(flushed(owner)) is owner  # what it holds is looked at; it starts again
        life.deaths = 0
    owner.trapeze("stop", "--force", "web")
    is_clean(top)
    is_clean(base)
    assert sorted(os.listdir(below)) == ["base.qcow2"]


def reserve(wanted, proofs=None, **rest):
    """What a target says to a source that asks for these: (path, format, bytes)."""
    live = {"vmx": vmx(*((path, form, False) for path, form, _ in wanted)), "proofs": proofs or {},
            "disks": [{"size": size, "data": size} for _, _, size in wanted], "streams": 1}
    live.update(rest)
    status, answer = B.raw("POST", "/v1/migrations", json.dumps(
        {"name": "web", "from": "test", "source": "0" * 32, "live": live}))
    if status == 201:
        B.raw("POST", f"/v1/migrations/{answer['id']}/ask")
    return answer


def test_what_a_target_is_told_of_disks():
    """Nothing is opened but what the source could have written beside; no more is taken than fits."""
    B.trapeze("list")
    os.makedirs(SHARED, exist_ok=True)
    secret = image(os.path.join(at(), "secret.raw"), "--format", "raw", size=MIB)
    top = image(os.path.join(SHARED, "lead.qcow2"), "--backing", secret, "--backing-format", "raw",
                size=None)
    proof = ".trapeze-" + "0" * 32
    with open(os.path.join(SHARED, proof), "wb"):
        pass
    seen = [(top, "qcow2", MIB)]
    # Beside the image there is a proof, beside what it lies upon there is none.
    assert "does not see" in reserve(seen, {top: proof})["error"]
    assert reserve(seen, {top: proof}, **{"copy-storage": True})["disks"] == ["copy"]
    assert "does not see" in reserve(seen, {top: proof, secret: "secret.raw"})["error"]
    plain = image(os.path.join(SHARED, "plain.raw"), "--format", "raw", size=MIB)
    assert reserve([(plain, "raw", MIB)], {plain: proof})["disks"] == ["shared"]
    # Its guest could make it look like another format at any moment.
    assert "does not see" in reserve([(plain, None, MIB)], {plain: proof})["error"]
    assert "--copy-storage" in reserve([("/nowhere/x", "raw", MIB)])["error"]
    copies = {"copy-storage": True}
    assert "to spare" in reserve([("/nowhere/x", "raw", 1 << 49)], **copies)["error"]
    assert "too large" in reserve([("/nowhere/x", "raw", 1 << 51)], **copies)["error"]
    assert "each of its disks" in reserve([("/x", "raw", 1)], **copies, disks=[])["error"]
    assert names(B) == []
    os.remove(os.path.join(SHARED, proof))


def test_two_share_what_space_there_is():
    """What is promised to one is not there for another."""
    B.trapeze("list")
    status = os.statvfs(B.store)
    most = status.f_bavail * status.f_frsize // 3 * 2
    wanted = {"vmx": vmx(("/nowhere/x", "raw", False)), "proofs": {}, "copy-storage": True,
              "disks": [{"size": 4096, "data": most}], "streams": 1}
    answers = [B.raw("POST", "/v1/migrations", json.dumps(
        {"name": name, "from": "test", "source": "0" * 32, "live": wanted})) for name in ("x", "y")]
    assert [status for status, _ in answers] == [201, 400], answers
    assert "to spare" in answers[1][1]["error"], answers
    B.raw("POST", f"/v1/migrations/{answers[0][1]['id']}/ask")


if __name__ == "__main__":
    sys.exit(main(globals()))
