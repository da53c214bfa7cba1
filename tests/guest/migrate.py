#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Machines that move from one daemon to another: on exactly one side at every moment, whatever is
killed or cut off.

    migrate.py TRAPEZE LOOP_ELF WRITER_ELF WITNESS
"""
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import witness
from daemon_client import HOST, LIMIT_S, USAGE, Client, until
from machine import FULL
from two_stores import (A, B, CHOICE, FOLDER, LOOP_ELF, MIB, SHARED, TRAPEZE, Gate, Life, at, flushed, folder,
                    is_running, is_settled, job_of, kill, known, logs, main, make_writer, names,
                    other, pid_of_worker, socket_of, the_owner)

WITNESS = os.path.abspath(sys.argv[4])


def make(client, name="web", size=MIB):
    """An instance with a disk of its own; the disk's content."""
    content = CHOICE.randbytes(size)
    client.trapeze("list")
    with open(at("disk.raw"), "wb") as file:
        file.write(content)
    vmx = ('memsize = "32"\ntrapeze.firmware = "elf"\nscsi0:0.fileName = "disk.img"\n'
           'scsi0:0.trapeze.format = "raw"\nethernet0.present = "TRUE"\n'
           'ethernet0.connectionType = "nat"\nethernet0.address = "02:00:00:00:00:07"\n'
           'uuid.bios = "56 4d 01 02 03 04 05 06-07 08 09 0a 0b 0c 0d 0e"\n')
    client.api("POST", "/v1/instances", {
        "name": name, "vmx": vmx, "files": [{"source": LOOP_ELF, "name": "elf"},
                                            {"source": at("disk.raw"), "name": "disk.img"}]}, 201)
    return content


def content_of(client, name="web"):
    disks = client.info(name)["disks"]
    with open(disks[0], "rb") as file:
        return file.read()


def exactly_one_has(content, name="web", clean=True):
    """The one that has it, and can start it. What was on its way when its sender was killed may yet be
    carried out, so that it moves after all: where it starts it stays."""
    found = []

    def starts():
        found[:] = [the_owner(name)]
        return found[0].trapeze("start", name, status=None).returncode == 0

    until(starts)
    owner = found[0]
    assert content_of(owner, name) == content
    owner.trapeze("stop", "--force", name)
    for client in (A, B) if clean else ():  # nothing half-made stays
        until(lambda: not any(entry.startswith(".")
                              for entry in os.listdir(os.path.join(client.store, "instances"))))
    return owner


def refusal(client, *arguments):
    """What is said, when the daemon is not just asking the other one."""
    while True:
        done = client.trapeze(*arguments, status=None)
        assert done.returncode != 0, (arguments, done)
        if "somebody else" not in done.stderr:
            return done.stderr


# ---- a machine that does not run ----

def test_there_and_back():
    content = make(A)
    with open(f"{folder(A, 'web')}/web.nvram", "w", encoding="ascii") as file:
        file.write('trapeze.nvram = "1"\nrtc.offset = "-3600000000000"\n')
    with open(f"{folder(A, 'web')}/known_hosts", "w", encoding="ascii") as file:
        file.write("vsock/web ssh-ed25519 AAAA\n")
    B.trapeze("list")
    done = A.trapeze("migrate", "web", socket_of(B))
    assert done.stdout == f"web: moved to {socket_of(B)}\n" and done.stderr == "", done
    A.refuses(USAGE, "no instance", "moved to", socket_of(B), arguments=["start", "web"])
    assert names(A) == [] and names(B) == ["web"]
    assert exactly_one_has(content) is B
    with open(f"{folder(B, 'web')}/web.vmx", encoding="utf-8") as file:
        text = file.read()
    assert "02:00:00:00:00:07" in text and "56 4d 01 02" in text, text
    for name, part in (("web.nvram", "-3600000000000"), ("known_hosts", "AAAA")):
        with open(f"{folder(B, 'web')}/{name}", encoding="ascii") as file:
            assert part in file.read(), name
    answer = json.loads(B.trapeze("migrate", "--json", "web", socket_of(A)).stdout)
    assert answer == {"name": "web", "to": socket_of(A), "notes": []}, answer
    assert exactly_one_has(content) is A
    B.refuses(USAGE, "no instance", "moved to", arguments=["info", "web"])
    kinds = [event["type"] for event in A.api("GET", "/v1/events")["events"]]
    assert "moved" in kinds and "arrived" in kinds, kinds
    A.trapeze("delete", "web")
    A.refuses(USAGE, "there is no instance 'web'", arguments=["info", "web"])
    assert "moved" not in A.trapeze("info", "web", status=USAGE).stderr


def test_what_its_firmware_keeps_goes_along():
    """Unless the target does not know how: an older one does not say that it does."""
    make(A)
    content = b'trapeze.nvram = "1"\nrtc.offset = "7"\n'.ljust(64 << 10, b"\0") + CHOICE.randbytes(3 * 4096)
    with open(f"{folder(A, 'web')}/web.nvram", "wb") as file:
        file.write(content)
    B.trapeze("list")
    assert A.trapeze("migrate", "web", socket_of(B)).stderr == ""
    with open(f"{folder(B, 'web')}/web.nvram", "rb") as file:
        assert file.read() == content
    with Gate(A, answer=lambda data: data.replace(b'"archive"', b'"ARCHIVE"')) as gate:
        done = B.trapeze("migrate", "web", gate.path)
    assert "what its firmware keeps" in done.stderr and "too old" in done.stderr, done
    with open(f"{folder(A, 'web')}/web.nvram", "rb") as file:
        assert file.read() == content.split(b"\0")[0]
    A.trapeze("delete", "web")


def test_what_is_refused():
    content = make(A)
    make(B, "taken")
    make(A, "taken")
    A.refuses(USAGE, socket_of(B), "already", arguments=["migrate", "taken", socket_of(B)])
    A.refuses(USAGE, "already", arguments=["migrate", "web", socket_of(A)])
    A.refuses(HOST, "cannot connect", arguments=["migrate", "web", at("nowhere")])
    A.refuses(USAGE, "no address", arguments=["migrate", "web", "ftp://x"])
    A.refuses(USAGE, "not migrating", arguments=["migrate", "--cancel", "web"])
    A.refuses(USAGE, "it is known", arguments=["migrate", "--resolve", "here", "web"])
    A.refuses(USAGE, "'here' or 'there'", arguments=["migrate", "--resolve", "x", "web"])
    A.refuses(USAGE, "no instance", arguments=["migrate", "none", socket_of(B)])
    A.trapeze("clone", "web", "t")
    A.trapeze("template", "t")
    A.refuses(USAGE, "template", arguments=["migrate", "t", socket_of(B)])
    with open(f"{folder(A, 'web')}/web.vmx", "a", encoding="utf-8") as file:
        file.write('sharedFolder0.present = "TRUE"\nsharedFolder0.enabled = "TRUE"\n'
                   f'sharedFolder0.hostPath = "{FOLDER.name}"\nsharedFolder0.guestName = "x"\n')
    A.refuses(USAGE, "shared folder", arguments=["migrate", "web", socket_of(B)])
    assert exactly_one_has(content) is A
    status, answer = B.call("POST", "/v1/migrations/" + "0" * 32 + "/take")
    assert status == 404 and "no such migration" in answer["error"], answer


def test_a_machine_keeps_its_layers_content():
    """A linked clone moves without its template."""
    content = make(A, "base")
    A.trapeze("template", "base")
    A.trapeze("clone", "base", "web")
    A.trapeze("migrate", "web", socket_of(B))
    until(lambda: is_settled(B))
    disk = B.info("web")["disks"][0]
    B.trapeze("disk", "convert", "--force", "--format", "raw", disk, at("flat.raw"))
    with open(at("flat.raw"), "rb") as file:
        assert file.read() == content
    assert names(A) == ["base"]


# ---- what is cut off ----

def test_cut_off_before_it_counts():
    content = make(A)
    for verb in ("migrations", "archive"):
        for what in ("drop", "mute") if FULL else ("drop",):  # silence is borne for 30 s
            with Gate(B, lambda seen: what if seen == verb else "pass") as gate:
                A.trapeze("migrate", "web", gate.path, status=HOST)
                assert (verb, what) in gate.seen, gate.seen
                assert known(A)["state"] == "stopped" and is_settled(A)
    assert exactly_one_has(content) is A


def test_not_known_until_the_target_answers():
    """The request that decides or its answer is lost, the target cannot be asked, the source's daemon
    dies: it is found out by itself."""
    content = make(A)
    A.trapeze("list")
    for what, owner in (("drop", A), ("mute", B)):
        cut = True
        rule = lambda verb: what if verb == "take" else "drop" if cut and verb == "ask" else "pass"
        with Gate(B, rule) as gate:
            A.refuses(HOST, "not known", "--resolve", arguments=["migrate", "web", gate.path])
            assert known(A)["state"] == "uncertain", known(A)
            for arguments in (["start", "web"], ["delete", "web"], ["clone", "web", "x"],
                              ["rename", "web", "x"], ["export", "web", at("x.trapeze")],
                              ["migrate", "web", socket_of(B)]):
                assert gate.path in refusal(A, *arguments), arguments
            if owner is B:
                B.trapeze("start", "web")
                B.trapeze("stop", "--force", "web")
                for arguments in (["delete", "web"], ["migrate", "web", socket_of(A)]):
                    assert "does not know" in refusal(B, *arguments), arguments
            A.kill_daemon()
            assert known(A)["state"] == "uncertain", known(A)
            cut = False
            assert exactly_one_has(content) is owner


def test_what_arrives_too_late_does_nothing():
    """'take' is under way for so long that the source has asked before, and been told no."""
    content = make(A)
    with Gate(B, lambda verb: "hold" if verb == "take" else "pass") as gate:
        A.refuses(HOST, arguments=["migrate", "web", gate.path])
        assert exactly_one_has(content) is A
        gate.release()
        until(lambda: gate.answers)
        assert b" 404 " in gate.answers[0], gate.answers
    assert exactly_one_has(content) is A


def test_nobody_answers_for_another_store():
    content = make(A)
    rule = {"take": "drop", "ask": "drop"}
    C = Client(TRAPEZE, at("c"))
    C.trapeze("list")
    try:
        with Gate(B, lambda verb: rule.get(verb, "pass")) as gate:
            A.refuses(HOST, "not known", arguments=["migrate", "web", gate.path])
            gate.client, before = C, len(gate.seen)
            rule.clear()
            until(lambda: ("ask", "pass") in gate.seen[before:])
            time.sleep(0.2)
            assert known(A)["state"] == "uncertain", known(A)
            gate.client = B
            assert exactly_one_has(content) is A
    finally:
        C.end()


def resolve(client, where):
    until(lambda: client.trapeze("migrate", "--resolve", where, "web", status=None).returncode == 0)


def test_a_person_knows():
    for what, where, owner in (("drop", "here", A), ("mute", "there", B), ("mute", "here", B)):
        content = make(A)
        with Gate(B, lambda verb: what if verb == "take" else "drop" if verb in ("ask", "settle")
                  else "pass") as gate:
            A.refuses(HOST, "not known", arguments=["migrate", "web", gate.path])
            A.trapeze("list")
            if owner is B and where == "here":  # there, by somebody who has seen that A is gone
                B.trapeze("migrate", "--resolve", "here", "web")
                assert is_settled(B)
                resolve(A, "there")
            else:
                resolve(A, where)
                if owner is B:
                    assert known(B)["migration"]["stage"] == "arrived"
                    B.trapeze("migrate", "--resolve", "here", "web")
            assert exactly_one_has(content, clean=False) is owner
        owner.trapeze("delete", "web")


def test_called_off():
    content = make(A, size=64 * MIB)
    held = threading.Event()

    def rule(verb):
        if verb == "archive":
            held.wait(LIMIT_S)
        return "pass"
    with Gate(B, rule) as gate:
        process = subprocess.Popen([TRAPEZE, "migrate", "web", gate.path], text=True,
                                   env={**os.environ, "TRAPEZE_HOME": A.store},
                                   stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until(lambda: A.trapeze("migrate", "--cancel", "web", status=None).returncode == 0)
        assert "called off" in process.communicate(timeout=LIMIT_S)[1]
        held.set()
    assert exactly_one_has(content) is A


def test_killed_at_any_moment():
    turns = 150 if FULL else 5
    content = make(A, size=256 << 10)
    B.trapeze("list")
    owner, moved = A, 0
    for turn in range(turns):
        source, target = owner, other(owner)
        victims = [source.pid_of_daemon(), target.pid_of_daemon()]
        process = subprocess.Popen([TRAPEZE, "migrate", "web", socket_of(target)],
                                   env={**os.environ, "TRAPEZE_HOME": source.store},
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(CHOICE.random() ** 1.5 * 0.25)
        victim = turn % 5
        with contextlib.suppress(ProcessLookupError):
            if victim < 2:
                kill(victims[victim])
            elif victim == 2:
                process.kill()
            elif job := job_of(source if victim == 3 else target):
                kill(job)
        process.wait(timeout=LIMIT_S)
        owner = exactly_one_has(content, clean=False)
        moved += owner is target
    for client in A, B:
        client.kill_daemon(signal.SIGTERM)
        client.trapeze("list")
    assert exactly_one_has(content) is owner
    print(f"# killed {turns} times, moved {moved} times", flush=True)


# ---- a machine that runs ----

def test_a_running_machine_there_and_back():
    """Linux, with memory, a disk and ticks that notice whatever is lost."""
    os.makedirs(SHARED, exist_ok=True)
    disk = os.path.join(SHARED, "witness.raw")
    with open(disk, "wb") as file:
        file.truncate(8 << 20)
    initrd = witness.initramfs(WITNESS, TRAPEZE, at("initrd"))
    A.trapeze("create", "web", "-m", "160", *witness.linux(
        initrd, TRAPEZE, "tick=20", "set=16", "dirty=10", "disk=/dev/vda", "check=1000"),
        "--disk", f"{disk},format=raw", "--net", "nat")
    path = f"{folder(A, 'web')}/web.vmx"  # what 'ssh' needs on the command line is no word of the guest's
    with open(path, encoding="utf-8") as file:
        text = [line for line in file if "vsock" not in line]
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(text)
    A.trapeze("start", "web")
    until(lambda: "witness-ready" in logs(A))
    owner, ticks = A, 0
    options = [["--connections", "3", "--compress"], ["--downtime", "50ms"]]
    for turn in range(20 if FULL else 1):
        done = owner.trapeze("migrate", "web", socket_of(other(owner)), *options[turn % 2])
        assert done.stdout == f"web: moved to {socket_of(other(owner))}\n", done
        assert done.stderr.count("connections through NAT have ended") == 1, done
        owner.refuses(USAGE, "moved to", arguments=["start", "web"])
        owner = other(owner)
        until(lambda: is_settled(owner))
        assert is_running(owner), owner.list()

        def lines(word):
            return [int(line.split()[1]) for line in logs(owner).splitlines()[1:-1]
                    if line.startswith(word + " ") and line.split()[1].isdigit()]
        until(lambda: len(lines("t")) > 20 and lines("d"))
        seen = lines("t")
        assert seen == list(range(seen[0], seen[0] + len(seen))), seen
        assert seen[0] > ticks, (seen[0], ticks)
        ticks = seen[-1]
        assert "witness-failed" not in logs(owner), logs(owner)[-500:]
        # Its disk's lock has come along.
        done = owner.trapeze("create", "thief", "--firmware", LOOP_ELF, "-m", "32", "--disk",
                             f"{disk},format=raw", "--start", status=None)
        assert done.returncode != 0 and "using it" in done.stderr, done
        owner.trapeze("delete", "thief", status=None)
    durable = lines("d")[-1]
    owner.trapeze("stop", "--force", "web")
    witness.check_disk(disk, durable)


def test_what_a_running_machine_is_refused():
    disk = make_writer(A)
    make(A, "own")
    A.trapeze("start", "own")
    A.refuses(USAGE, "instance's folder", arguments=["migrate", "own", socket_of(B)])
    A.trapeze("stop", "--force", "own")
    for arguments, part in ((["--downtime", "10"], "no time"), (["--bandwidth", "x"], "bytes"),
                            (["--connections", "17"], "1 to 16")):
        A.refuses(USAGE, part, arguments=["migrate", "web", socket_of(B), *arguments])
    # A target that does not see the disk: what stands in for a proof is not there.
    for proof in (".trapeze-" + "0" * 32, os.path.basename(disk), f"../shared/{disk}"):
        status, answer = B.raw("POST", "/v1/migrations", json.dumps({
            "name": "web", "from": "test", "source": "0" * 32,
            "live": {"vmx": f'memsize = "32"\nscsi0:0.fileName = "{disk}"\n'
                            'scsi0:0.trapeze.format = "raw"\n',
                     "disks": [{"size": MIB, "data": MIB}], "proofs": {disk: proof}, "streams": 1}}))
        assert status == 400 and "does not see the disk" in answer["error"], answer
    assert names(B) == []
    # Nothing is left beside the disks.
    assert sorted(os.listdir(SHARED)) == sorted(
        entry for entry in os.listdir(SHARED) if not entry.startswith(".trapeze")), os.listdir(SHARED)


def arrive(name, **live):
    """What B says to an archive of a machine that A has, as of one that runs."""
    A.trapeze("export", name, "--force", at("arrives.trapeze"))
    reserved = B.api("POST", "/v1/migrations", {
        "name": name, "from": "test", "source": "0" * 32,
        "live": {"vmx": 'memsize = "32"\n', "disks": [], "proofs": {}, "streams": 1, **live}}, 201)
    with open(at("arrives.trapeze"), "rb") as file:
        status, answer = B.raw("POST", f"/v1/migrations/{reserved['id']}/archive", file.read())
    until(lambda: names(B) == [])
    return status, answer


def test_a_host_that_has_less():
    """A network and memory that the target has not."""
    B.trapeze("list")
    A.trapeze("create", "lost", "--firmware", LOOP_ELF, "-m", "32", "--net", "bridge:none-such")
    status, answer = arrive("lost")
    assert status // 100 in (4, 5) and "none-such" in answer["error"], answer
    A.trapeze("create", "big", "--firmware", LOOP_ELF, "-m", "262144", "--net", "none")
    status, answer = arrive("big")
    assert status == 400 and "262144 MiB" in answer["error"] and "to spare" in answer["error"], answer
    # One that does not run may go, and keeps its network.
    A.trapeze("migrate", "lost", socket_of(B))
    until(lambda: is_settled(B, "lost"))
    with open(f"{folder(B, 'lost')}/lost.vmx", encoding="utf-8") as file:
        assert "none-such" in file.read()


def test_a_running_machine_is_called_off():
    life = Life()
    with Gate(B, lambda verb: "pass") as gate:
        process = subprocess.Popen([TRAPEZE, "migrate", "web", gate.path, "--bandwidth", "1M"],
                                   env={**os.environ, "TRAPEZE_HOME": A.store}, text=True,
                                   stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until(lambda: A.trapeze("migrate", "--cancel", "web", status=None).returncode == 0)
        assert process.wait(timeout=LIMIT_S) != 0
        process.communicate()
    assert life.settle(0) is A and life.deaths == 0
    A.trapeze("stop", "--force", "web")


def stage(client):
    """Of the only job there is; None: it has not said."""
    jobs = client.api("GET", "/v1/jobs")["jobs"]
    return jobs[0].get("migration", {}).get("stage") if jobs else None


def test_it_goes_before_its_memory():
    """Post-copy over a slow link that breaks, then with both daemons; nothing is lost, and the one who
    stops it there meanwhile has stopped it."""
    life, owner = Life(), A
    for turn in range(3):
        source, target, said = owner, other(owner), flushed(owner)
        cut = []
        with Gate(target, lambda verb: "drop" if cut and turn == 2 else "pass") as gate:
            process = subprocess.Popen(
                [TRAPEZE, "migrate", "web", gate.path, "--post-copy", "--bandwidth", "200K"],
                env={**os.environ, "TRAPEZE_HOME": source.store}, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until(lambda: stage(source) == "post-copy" or process.poll() is not None)
            assert process.poll() is None
            until(lambda: is_running(target))  # as any other
            cut.append(True)
            gate.cut()
            if turn == 1:
                kill(source.pid_of_daemon())
                kill(target.pid_of_daemon())
            if turn == 2:
                until(lambda: known(target)["state"] == "paused")
                target.trapeze("stop", "--force", "web")
                assert known(source)["state"] != "stopped", known(source)
                cut.clear()
            status = process.wait(timeout=LIMIT_S)
            assert (status == 0) == (turn != 1), (turn, status)
            owner = life.settle(said)
            assert owner is target and life.deaths == (turn == 2), (turn, life.deaths)
    owner.trapeze("stop", "--force", "web")


@contextlib.contextmanager
def deaf_to(client, word):
    """The worker of "web" does not hear this word."""
    control, real = os.path.join(folder(client, "web"), "control.sock"), at("control.sock")
    os.rename(control, real)
    server = socket.socket(socket.AF_UNIX)
    server.bind(control)
    server.listen()

    def pump(one, two, lost=b""):
        with contextlib.suppress(OSError):
            while (data := one.recv(1 << 16)) and not (lost and lost in data):
                two.sendall(data)
        for end in (one, two):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve():
        while True:
            near, _ = server.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(real)
            threading.Thread(target=pump, args=(far, near), daemon=True).start()
            threading.Thread(target=pump, args=(near, far, b'"%s"' % word.encode()), daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
    yield
    os.rename(real, control)


def test_a_target_that_never_comes_back():
    """The machine went before its memory, and the other host is gone with what it wrote there: who
    knows that says so, and it begins anew here, as after a loss of power."""
    life = Life()
    with Gate(B, lambda verb: "pass") as gate:
        process = subprocess.Popen(
            [TRAPEZE, "migrate", "web", gate.path, "--post-copy", "--bandwidth", "200K"],
            env={**os.environ, "TRAPEZE_HOME": A.store}, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until(lambda: stage(A) == "post-copy" or process.poll() is not None)
        A.refuses(USAGE, "too late", arguments=["migrate", "--cancel", "web"])
        until(lambda: is_running(B))
        gate.flows.clear()
        said = flushed(A)
        kill(pid_of_worker(B))
        kill(B.pid_of_daemon())
        shutil.rmtree(B.store)
        gate.flows.set()
    errors = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == HOST and "--resolve" in errors, (process.returncode, errors)
    assert known(A)["state"] == "uncertain", known(A)

    def resolve(where):
        """It is asked after now and then, and somebody else is at work then."""
        done = []
        until(lambda: done.append(A.trapeze("migrate", "--resolve", where, "web", status=None))
              or "at work" not in done[-1].stderr)
        return done[-1]
    done = resolve("there")
    assert done.returncode == USAGE and "still here" in done.stderr, done
    if FULL:  # ten seconds
        with deaf_to(A, "quit"):
            done = A.trapeze("migrate", "--resolve", "here", "web", status=None)
        assert done.returncode == USAGE and "running" in done.stderr, done
        assert known(A)["state"] == "uncertain" and "migration" in known(A), known(A)
    assert resolve("here").returncode == 0
    assert known(A)["state"] == "stopped" and "migration" not in known(A), known(A)
    B.trapeze("list")
    assert life.settle(said) is A and life.deaths == 1
    A.trapeze("stop", "--force", "web")


def jobs_of(client):
    daemon = client.pid_of_daemon()
    with open(f"/proc/{daemon}/task/{daemon}/children", encoding="ascii") as file:
        return len(file.read().split())


def test_a_worker_that_dies_as_it_gets_the_streams():
    """Its daemon has just begun another job, which must not keep the streams open: the source would wait
    for an answer."""
    life, stopped, held = Life(), [], threading.Event()
    make(B, "other")

    def stop_it(verb):
        if verb == "stream" and not stopped:
            stopped.append(pid_of_worker(B))
            os.kill(stopped[0], signal.SIGSTOP)
        return "pass"

    def hold(verb):
        if verb == "archive":
            held.wait(LIMIT_S)
        return "pass"
    with Gate(B, stop_it) as gate, Gate(A, hold) as back:
        migrate = lambda client, name, to: subprocess.Popen(
            [TRAPEZE, "migrate", name, to.path], env={**os.environ, "TRAPEZE_HOME": client.store}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        process = migrate(A, "web", gate)
        until(lambda: stopped and jobs_of(B) == 1)
        another = migrate(B, "other", back)
        until(lambda: ("archive", "pass") in back.seen or jobs_of(B) == 2)
        kill(stopped[0])
        said = process.communicate(timeout=LIMIT_S)[1]
        assert process.returncode == HOST and "closed the connection" in said, said
        assert life.settle(0) is A and life.deaths == 0
        held.set()
        assert another.wait(timeout=LIMIT_S) == 0
    A.trapeze("stop", "--force", "web")


def test_a_running_machine_and_faults():
    turns = 300 if FULL else 7
    life, owner, moved = Life(), A, 0
    for turn in range(turns):
        source, target = owner, other(owner)
        said = flushed(source)
        victims = [source.pid_of_daemon(), target.pid_of_daemon(), pid_of_worker(source)]
        with Gate(target, lambda verb: "pass") as gate:
            process = subprocess.Popen(
                [TRAPEZE, "migrate", "web", gate.path, "--connections", str(1 + turn % 3)],
                env={**os.environ, "TRAPEZE_HOME": source.store}, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(CHOICE.random() ** 1.2 * 0.6)
            victim = turn % 7
            with contextlib.suppress(OSError):
                if victim < 3:
                    kill(victims[victim])
                elif victim == 3:
                    kill(pid_of_worker(target))
                elif victim == 4:
                    gate.cut()
                elif victim == 5:
                    process.kill()
                elif job := job_of(source):
                    kill(job)
            process.wait(timeout=LIMIT_S)
            owner = life.settle(said)
        moved += owner is target
    print(f"# {turns} faults, moved {moved} times, {life.deaths} machines died", flush=True)
    owner.trapeze("stop", "--force", "web")


if __name__ == "__main__":
    sys.exit(main(globals()))
