#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Instances through the command line and through HTTP, with a daemon that is killed now and then.

    instances.py TRAPEZE LOOP_ELF EXIT_ELF

Every answer of the API is checked against the OpenAPI document that the daemon serves.
"""
import contextlib
import functools
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

import tap
from daemon_client import HOST, LIMIT_S, USAGE, Client, FakeWorker, UnixConnection, is_alive, until

TRAPEZE, LOOP_ELF, EXIT_ELF = (os.path.abspath(name) for name in sys.argv[1:4])
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-instances-")
# Longer than what fits into a socket's address.
STORE = os.path.join(FOLDER.name, "a-folder-with-a-long-name" * 4, "store")
os.environ["TRAPEZE_HOME"] = STORE
CLIENT = Client(TRAPEZE, STORE)
trapeze, refuses, raw, api = CLIENT.trapeze, CLIENT.refuses, CLIENT.raw, CLIENT.api
pid_of_daemon, kill_daemon, info = CLIENT.pid_of_daemon, CLIENT.kill_daemon, CLIENT.info


# ---- instances ----

def create(name, *options, elf=LOOP_ELF):
    trapeze("create", name, "--firmware", elf, "-m", "32", *options)


def start(name):
    trapeze("start", name)
    starts = [e for e in CLIENT.events() if e["instance"] == name and e["type"] == "start"]
    return starts[-1]["detail"]["pid"]


def delete(*names):
    for name in names:
        trapeze("stop", "--force", name, status=None)
        trapeze("delete", name)


def test_a_life():
    create("a")
    assert os.stat(STORE).st_mode & 0o777 == 0o700
    assert sorted(os.listdir(f"{STORE}/instances/a")) == ["a.vmx", "firmware"]
    assert info("a")["state"] == "stopped" and info("a")["memory"] == 32 << 20
    pid = start("a")
    assert info("a")["state"] == "running"
    until(lambda: "ready" in trapeze("logs", "a").stdout)
    assert trapeze("pause", "a").stdout == "a: paused\n"
    assert info("a")["state"] == "paused"
    assert trapeze("resume", "a").stdout == "a: running\n"
    refuses(USAGE, "running", "Stop it first", arguments=["delete", "a"])
    refuses(USAGE, "running", arguments=["rename", "a", "b"])
    refuses(USAGE, "running", arguments=["start", "a"])
    refuses(USAGE, "power button", "--force", arguments=["stop", "a"])
    assert trapeze("stop", "--force", "a").stdout == "a: stopped\n"
    until(lambda: not is_alive(pid))  # its lock is free a moment before
    assert info("a")["last-end"]["end"] == "quit"
    assert "ready" in trapeze("logs", "a").stdout  # of one that has ended, too
    refuses(USAGE, "not running", arguments=["stop", "a"])
    refuses(USAGE, "not running", arguments=["pause", "a"])
    refuses(USAGE, "not running", "logs", arguments=["console", "a"])
    trapeze("delete", "a")
    assert os.listdir(f"{STORE}/instances") == []
    refuses(USAGE, "no instance 'a'", arguments=["info", "a"])
    refuses(USAGE, "no instance 'a'", arguments=["start", "a"])


def test_the_exit_code_is_kept():
    create("a", elf=EXIT_ELF)
    trapeze("start", "a", status=None)  # it may be over before the answer
    until(lambda: "ended" in info("a"))
    assert info("a")["last-end"]["end"] == "exit-code" and info("a")["last-end"]["code"] == 7
    trapeze("start", "a", status=None)  # as often as one likes
    until(lambda: info("a")["state"] == "stopped")
    delete_stopped("a")


def delete_stopped(*names):
    for name in names:
        until(lambda: info(name)["state"] == "stopped")
        trapeze("delete", name)


def test_console():
    create("a")
    start("a")
    until(lambda: "ready" in trapeze("logs", "a").stdout)
    def owner():
        done = subprocess.run([TRAPEZE, "control", "control.sock", "status"], stdout=subprocess.PIPE,
                              cwd=f"{STORE}/instances/a", check=True)
        return json.loads(done.stdout).get("console-owner")

    def attach(*options):
        return subprocess.Popen([TRAPEZE, "console", "a", *options], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, env={**os.environ, "TRAPEZE_HOME": STORE})
    console = attach()
    until(lambda: owner() == pwd.getpwuid(os.geteuid()).pw_name)
    refuses(HOST, "has it since 20", "--watch", "--steal", arguments=["console", "a"])
    refuses(USAGE, "exclude", arguments=["console", "--watch", "--steal", "a"])
    watcher, thief = attach("--watch"), attach("--steal")
    said = console.communicate(timeout=LIMIT_S)[0]  # it has ended
    assert said.endswith(b" took the console]\r\n") and console.returncode == 0, said
    until(lambda: owner() is not None)
    trapeze("restart", "--force", "a")  # its end is the console's
    for one in watcher, thief:
        assert one.wait(timeout=LIMIT_S) == 0
        one.communicate()
    assert info("a")["state"] == "running"
    for _ in range(10):  # when stop is done, the instance is free for anything
        trapeze("stop", "--force", "a")
        trapeze("rename", "a", "b")
        trapeze("rename", "b", "a")
        trapeze("start", "a")
        trapeze("restart", "--force", "a")
    delete("a")


def test_the_daemon_is_killed_and_the_machine_runs_on():
    create("a")
    create("b", elf=LOOP_ELF)
    create("c")
    pids = {name: start(name) for name in "abc"}
    trapeze("pause", "b")
    kill_daemon()
    assert all(is_alive(pid) for pid in pids.values())
    os.kill(pids["c"], signal.SIGKILL)  # while nobody looks
    until(lambda: info("a")["state"] == "running")  # a new daemon, which the command started
    until(lambda: info("b")["state"] == "paused")
    assert info("c")["state"] == "stopped"
    assert trapeze("resume", "b").stdout == "b: running\n"
    types = [e["type"] for e in CLIENT.events() if e["instance"] == "a"]
    assert types[-1] == "adopted", types
    refuses(USAGE, "running", arguments=["delete", "a"])
    os.kill(pids["a"], signal.SIGKILL)
    until(lambda: info("a")["state"] == "stopped")
    assert info("a")["last-end"]["end"] == "died"
    kill_daemon(signal.SIGTERM)
    assert not os.path.exists(f"{STORE}/daemon.sock")
    assert is_alive(pids["b"])
    delete("a", "b", "c")
    until(lambda: not is_alive(pids["b"]))


def test_what_ends_while_there_is_no_daemon():
    create("a")
    start("a")
    control = f"{STORE}/instances/a/control.sock"
    kill_daemon()
    folder = os.open(f"{STORE}/instances/a", os.O_RDONLY)
    trapeze("control", f"/proc/{os.getpid()}/fd/{folder}/control.sock", "quit")
    os.close(folder)
    until(lambda: os.path.getsize(f"{STORE}/instances/a/end") > 0)
    assert os.path.exists(control)  # nobody was there to remove it
    assert info("a")["state"] == "stopped"
    trapeze("start", "a")
    delete("a")


def test_killed_daemon_in_the_middle_of_verbs():
    """Whatever it was doing: catalogue and folders agree, and every instance is whole."""
    create("base")
    for turn in range(int(os.environ.get("TRAPEZE_TIER") == "full") * 30 + 10):
        pid = json.loads(trapeze("info", "--json", "base").stdout) and pid_of_daemon()
        verbs = [subprocess.Popen([TRAPEZE, *verb], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
                 for verb in (["clone", "base", f"x{turn}"],
                              ["create", f"y{turn}", "--firmware", LOOP_ELF, "-m", "32"],
                              ["start", f"y{turn - 1}"])]
        time.sleep(turn % 10 * 0.004)
        os.kill(pid, signal.SIGKILL)
        for verb in verbs:
            verb.wait(timeout=LIMIT_S)
        rows = json.loads(trapeze("list", "--json").stdout)["instances"]
        assert all("error" not in row for row in rows), rows
        names = [row["name"] for row in rows]
        assert names == sorted(os.listdir(f"{STORE}/instances")), names
        # Closed also if the test fails: who keeps it open keeps the write-ahead log there.
        with contextlib.closing(sqlite3.connect(f"{STORE}/catalogue.db")) as catalogue:
            assert names == sorted(row[0] for row in catalogue.execute("SELECT name FROM instances"))
        for row in rows:
            shutil.copyfile(os.path.join(row["path"], "firmware"), os.path.join(FOLDER.name, "f"))
            assert os.path.getsize(os.path.join(FOLDER.name, "f")) == os.path.getsize(LOOP_ELF)
    delete(*[row["name"] for row in json.loads(trapeze("list", "--json").stdout)["instances"]])


def test_names_clones_templates():
    create("a", "--net", "nat", "--hostname", "a")
    assert os.path.getsize(f"{STORE}/instances/a/seed.iso") > 0
    with open(f"{STORE}/instances/a/a.vmx", "a", encoding="utf-8") as file:
        file.write('# by hand\nannotation = "mine"\nsound.present = "TRUE"\n')
    assert info("a")["not-honoured"] == ["sound.present"]
    refuses(USAGE, "'a' already", arguments=["create", "a", "--firmware", LOOP_ELF])
    trapeze("rename", "a", "b")
    trapeze("template", "b")
    assert info("b")["template"]
    refuses(USAGE, "template", "clone b", arguments=["start", "b"])
    trapeze("clone", "--full", "b", "c")
    vmx = open(f"{STORE}/instances/c/c.vmx", encoding="utf-8").read()
    assert "# by hand\n" in vmx and 'displayName = "c"' in vmx
    old = open(f"{STORE}/instances/b/b.vmtx", encoding="utf-8").read()
    address = re.compile(r'ethernet0.address = "(.*)"')
    assert address.search(vmx).group(1) != address.search(old).group(1)
    trapeze("template", "--undo", "b")
    start("b")
    mac = address.search(old).group(1).encode()
    assert len(backends(mac)) == 1
    trapeze("stop", "--force", "b")
    until(lambda: not backends(mac))  # the process behind the NIC ends with the machine
    delete_stopped("b", "c")


def test_files_of_a_description_stay_where_they_are():
    """However the description is named; and a disc stays a disc."""
    folder = os.path.join(FOLDER.name, "described")
    os.mkdir(folder)
    shutil.copyfile(LOOP_ELF, f"{folder}/elf")
    with open(f"{folder}/disc.iso", "wb") as file:
        file.truncate(1 << 20)
    with open(f"{folder}/d.vmx", "w", encoding="utf-8") as file:
        file.write('memsize = "32"\ntrapeze.firmware = "elf"\nserial0.fileType = "file"\n'
                   'serial0.fileName = "said"\nsata0:1.deviceType = "cdrom-image"\n'
                   'sata0:1.fileName = "disc.iso"\n')
    for vmx in "d.vmx", "./d.vmx", f"{folder}/d.vmx":
        trapeze("create", "a", "--vmx", vmx, cwd=folder)
        text = open(f"{STORE}/instances/a/a.vmx", encoding="utf-8").read()
        said = os.path.normpath(re.search('serial0.fileName = "(.*)"', text).group(1))
        assert said == f"{folder}/said", text
        assert f'sata0:1.fileName = "{folder}/disc.iso"' in text, text
        assert 'sata0:1.deviceType = "cdrom-image"' in text, text
        assert 'trapeze.firmware = "firmware"' in text, text
        trapeze("delete", "a")


def test_a_store_that_cannot_be():
    for home, part in (("/proc/x", "cannot make the folder"), ("store", "absolute")):
        done = trapeze("list", status=None, env={**os.environ, "TRAPEZE_HOME": home})
        assert done.returncode in (USAGE, HOST) and part in done.stderr, done


def backends(mac):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
            executable = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        if executable == os.path.realpath(TRAPEZE) and mac in arguments:
            found.append(pid)
    return found


def test_a_description_by_hand_that_is_wrong():
    create("a")
    with open(f"{STORE}/instances/a/a.vmx", "a", encoding="utf-8") as file:
        file.write('memzise = "64"\n')
    refuses(USAGE, "a.vmx:", "memsize", arguments=["start", "a"])
    rows = json.loads(trapeze("list", "--json").stdout)["instances"]
    assert rows[0]["state"] == "broken" and "memsize" in rows[0]["error"], rows
    api("GET", "/v1/instances", status=200)
    trapeze("delete", "a")
    refuses(USAGE, "no name", arguments=["create", "../x", "--firmware", LOOP_ELF])
    refuses(USAGE, "nothing to run", arguments=["create", "x"])
    refuses(HOST, "/nowhere", arguments=["create", "x", "--firmware", "/nowhere"])
    assert os.listdir(f"{STORE}/instances") == []


def test_a_worker_that_refuses_says_why():
    trapeze("create", "a", "--kernel", "/etc/passwd")
    refuses(HOST, "kernel", "not a", arguments=["start", "a"])
    until(lambda: info("a")["state"] == "stopped")
    assert info("a")["last-end"]["end"] == "refused"
    types = [e["type"] for e in CLIENT.events() if e["instance"] == "a"]
    types = types[len(types) - types[::-1].index("create"):]
    assert types == ["ended"], types  # it never started
    trapeze("delete", "a")


def test_a_worker_that_hears_nothing():
    create("a")
    pid = start("a")
    os.kill(pid, signal.SIGSTOP)
    assert trapeze("stop", "--force", "a").stdout == "a: stopped\n"
    until(lambda: not is_alive(pid))
    assert info("a")["last-end"]["end"] == "died"
    trapeze("delete", "a")


def test_a_worker_that_was_taken_over():
    """A guest that has its worker do what it likes harms its own instance and no other."""
    create("a")
    kill_daemon(signal.SIGTERM)
    os.mkfifo(f"{STORE}/instances/a/end")
    os.mkfifo(f"{STORE}/instances/a/console.log")
    worker = FakeWorker(f"{STORE}/instances/a")
    trapeze("list")
    worker.accept()
    for state in ["a" * 22 + "\u00fc", "\u00fc" * 40, "", 7, None, {"state": []}, "a b", "x" * 70000]:
        worker.send({"event": "state", "state": state})
        worker.send({"id": 99, "result": {"state": state}})
    worker.send({"event": "state", "state": "odd"})
    until(lambda: info("a")["state"] == "odd")
    for event in CLIENT.events():
        assert event["type"] != "state" or len(event["detail"]["state"]) < 24, event
    assert trapeze("logs", "a").stdout == ""
    worker.link.close()  # but it lives on
    until(lambda: info("a")["state"] == "stopping")
    pid = pid_of_daemon()
    kill_daemon(signal.SIGTERM)
    assert not os.path.exists(f"{STORE}/catalogue.db-wal"), pid  # it ended as it should
    worker.server.close()
    assert info("a")["state"] == "stopping"
    worker.ends()
    until(lambda: info("a")["state"] == "stopped")
    assert info("a")["last-end"]["end"] == "died"
    os.remove(f"{STORE}/instances/a/end")
    os.remove(f"{STORE}/instances/a/console.log")
    trapeze("delete", "a")


def test_calls_at_the_end_of_the_daemon():
    """Whatever comes in when it ends is answered or dropped; it ends as it should."""
    trapeze("list")
    pid = pid_of_daemon()
    os.kill(pid, signal.SIGSTOP)
    waiting = [UnixConnection(STORE) for _ in range(8)]
    for connection in waiting:
        connection.request("GET", "/v1/events?after=1000000000&wait=100")
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    until(lambda: not is_alive(pid))
    for connection in waiting:
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            assert connection.getresponse().status == 503
        connection.close()
    assert not os.path.exists(f"{STORE}/catalogue.db-wal")


def test_a_store_that_others_can_write_to():
    trapeze("list")
    kill_daemon(signal.SIGTERM)
    for folder in STORE, f"{STORE}/instances":
        os.chmod(folder, 0o720)
        refuses(USAGE, folder, "chmod go-w", arguments=["daemon"])
        os.chmod(folder, 0o700)


def test_a_guest_that_prints_zeros():
    create("a")
    with open(f"{STORE}/instances/a/console.log", "wb") as file:
        file.write(b"a\0b\xff")
    done = subprocess.run([TRAPEZE, "logs", "a"], capture_output=True, check=True, timeout=LIMIT_S)
    assert done.stdout == b"a\0b\xff", done
    trapeze("delete", "a")


def test_the_folder_moves():
    """Cold migration: copied as it is, under another name, while the daemon serves."""
    create("a")
    start("a")
    trapeze("stop", "--force", "a")
    shutil.copytree(f"{STORE}/instances/a", f"{STORE}/instances/moved",
                    ignore=shutil.ignore_patterns("*.sock"))
    trapeze("delete", "a")
    assert info("moved")["state"] == "stopped"
    start("moved")
    delete("moved")


def test_the_catalogue_is_made_anew():
    create("a")
    made = info("a")["created"]
    kill_daemon(signal.SIGTERM)  # nothing is left in the write-ahead log, which would mend it
    with open(f"{STORE}/catalogue.db", "r+b") as file:
        file.write(b"\xff" * 5000)
    assert abs(info("a")["created"] - made) <= 1
    assert os.path.exists(f"{STORE}/catalogue.db.damaged")
    with open(f"{STORE}/daemon.log", encoding="utf-8") as file:
        assert "made anew" in file.read()
    kill_daemon()
    for name in os.listdir(STORE):
        if name.startswith("catalogue"):
            os.remove(os.path.join(STORE, name))
    assert abs(info("a")["created"] - made) <= 1
    trapeze("delete", "a")


def test_one_daemon():
    trapeze("list")
    refuses(HOST, "another daemon", "TRAPEZE_HOME", arguments=["daemon"])
    kill_daemon()
    commands = [subprocess.Popen([TRAPEZE, "list", "--json"], stdout=subprocess.PIPE)
                for _ in range(8)]  # each starts a daemon if it finds none
    for command in commands:
        assert json.loads(command.communicate(timeout=LIMIT_S)[0]) == {"instances": []}
        assert command.returncode == 0
    refuses(USAGE, "absolute", arguments=["daemon", "--store", "x"])


def test_http():
    create("a")
    document = api("GET", "/v1/openapi.json")
    names = {operation["operationId"] for path in document["paths"].values()
             for operation in path.values()}
    assert {"list", "create", "start", "stop", "events", "openapi"} <= names, names
    for method, path, body, status in [
            ("GET", "/v1/instances/b", None, 404), ("DELETE", "/v1/instances/b", None, 404),
            ("DELETE", "/v1/instances/a%00b", None, 404), ("DELETE", "/v1/instances/a%2f", None, 404),
            ("POST", "/v1/instances/a/stop", {}, 409), ("POST", "/v1/instances/a/pause", None, 409),
            ("POST", "/v1/instances/a/stop", {"force": 1}, 400),
            ("POST", "/v1/instances/a/stop", {"timeout": 0}, 400),
            ("POST", "/v1/instances/a/template", {"undo": 1}, 400),
            ("POST", "/v1/instances/a/rename", {}, 400),
            ("POST", "/v1/instances/a/clone", {"to": 7}, 400),
            ("POST", "/v1/instances/a/clone", {"to": "../x"}, 400),
            ("POST", "/v1/instances", {"name": "a"}, 400),
            ("POST", "/v1/instances", {"name": "a", "vmx": "", "x": 1}, 400),
            ("POST", "/v1/instances", {"name": "n", "vmx": "memsize"}, 400),
            ("POST", "/v1/instances", {"name": ".n", "vmx": ""}, 400),
            ("POST", "/v1/instances", {"name": "n", "vmx": 'trapeze.firmware = "f"',
                                       "files": [{"source": "f", "name": "f"}]}, 400),
            ("POST", "/v1/instances", {"name": "n", "vmx": 'trapeze.firmware = "f"',
                                       "files": [{"source": LOOP_ELF, "name": "../f"}]}, 400),
            *[("POST", "/v1/instances", {"name": "n", "vmx": 'trapeze.firmware = "f"',
                                         "files": [{"source": LOOP_ELF, "name": name}]}, 400)
              for name in ("lock", "end", "control.sock", "console.log", "n.vmx", ".f", "")],
            ("GET", "/v1/instances/a/logs?source=x", None, 400),
            ("GET", "/v1/events?wait=-1", None, 400),
            ("POST", "/v1/instances", {"name": "n", "vmx": 'trapeze.firmware = "f"\n',
                                       "files": [{"source": LOOP_ELF, "name": "f"}]}, 201),
            ("GET", "/v1/instances", None, 200), ("GET", "/v1/instances/n", None, 200),
            ("POST", "/v1/instances/n/start", None, 200),
            ("POST", "/v1/instances/n/start", None, 409), ("DELETE", "/v1/instances/n", None, 409),
            ("POST", "/v1/instances/n/rename", {"to": "m"}, 409),
            ("POST", "/v1/instances/n/stop", {"force": True}, 200),
            ("DELETE", "/v1/instances/n", None, 200)]:
        api(method, path, body, status)
    for method, path, body, status in [
            ("GET", "/nowhere", None, 404), ("PUT", "/v1/instances", None, 405),
            ("POST", "/v1/instances", "{", 400), ("POST", "/v1/instances", "[]", 400),
            ("POST", "/v1/instances", '{"a": 1, "a": 2}', 400),
            ("POST", "/v1/instances", "[" * 100000, 400),
            ("GET", "/v1/instances/%2e%2e", None, 404), ("GET", "/v1/instances/" + "a" * 80, None, 404),
            ("POST", "/v1/instances", "x" * (5 << 20), 413)]:
        got, answer = raw(method, path, body)
        assert got == status and isinstance(answer["error"], str), (path, got, answer)
    trapeze("delete", "a")


def test_events_are_waited_for():
    trapeze("list")  # there is a daemon
    last = api("GET", "/v1/events?after=0")["events"]
    number = last[-1]["number"] if last else 0
    got = []
    waiting = threading.Thread(
        target=lambda: got.append(api("GET", f"/v1/events?after={number}&wait=100")))
    waiting.start()
    time.sleep(0.3)
    assert not got
    create("a")
    waiting.join(timeout=LIMIT_S)
    assert got[0]["events"][0]["type"] == "create" and got[0]["events"][0]["instance"] == "a"
    assert api("GET", f"/v1/events?after={10 ** 9}&wait=1")["events"] == []
    lines = trapeze("events", "--json").stdout.splitlines()
    assert json.loads(lines[-1])["type"] == "create"
    trapeze("delete", "a")


def test_clients_race_for_one_instance():
    create("a")
    results = []

    def worry(verbs):
        for verb in verbs:
            results.append(trapeze(*verb, "a", status=None).returncode)

    threads = [threading.Thread(target=worry, args=([["start"], ["stop", "--force"]] * 4,))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(0) >= 2 and set(results) <= {0, USAGE, HOST}, results
    until(lambda: trapeze("stop", "--force", "a", status=None).returncode == USAGE)
    assert info("a")["state"] == "stopped"
    trapeze("delete", "a")


def alone(test):
    """With no instances of tests that have failed."""
    @functools.wraps(test)
    def run():
        if os.path.exists(f"{STORE}/instances"):
            delete(*[name for name in os.listdir(f"{STORE}/instances") if name[0] != "."])
        test()
    return run


def main():
    status = tap.main([alone(test) for name, test in list(globals().items())
                       if name.startswith("test_")])
    try:
        kill_daemon(signal.SIGTERM)
    except OSError:
        pass
    return status


if __name__ == "__main__":
    sys.exit(main())
