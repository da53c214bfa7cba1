#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`trapeze set`: what changes in the .vmx, and what of it while the machine runs.

    set.py TRAPEZE LOOP_ELF
"""
import json
import os
import pwd
import subprocess
import sys
import tempfile

import tap
from daemon_client import Client, USAGE

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-set-")
STORE = os.path.join(FOLDER.name, "store")
CLIENT = Client(TRAPEZE, STORE)
trapeze, refuses, api = CLIENT.trapeze, CLIENT.refuses, CLIENT.api
os.environ["XDG_RUNTIME_DIR"] = FOLDER.name


def create(name, *options):
    trapeze("create", name, "--firmware", LOOP_ELF, "-m", "64", *options)


def vmx(name):
    with open(f"{STORE}/instances/{name}/{name}.vmx", encoding="utf-8") as file:
        return file.read()


def change(name, *words):
    return json.loads(trapeze("set", "--json", name, *words).stdout)


def worker(name, verb, *arguments):
    done = subprocess.run([TRAPEZE, "control", f"{STORE}/instances/{name}/control.sock", verb,
                           *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def keys_of(rows):
    return [row["key"] for row in rows]


def test_a_machine_that_does_not_run():
    create("a")
    with open(f"{STORE}/instances/a/a.vmx", "a", encoding="utf-8") as file:
        file.write("# by hand\n")
    before = vmx("a")
    answer = change("a", "cpu-weight=300", "memory=128M", "cpus=2")
    assert answer == {"name": "a", "live": [],
                      "next-start": [{"key": key} for key in ("cpu-weight", "memory", "cpus")]}
    after = vmx("a")
    assert "# by hand\n" in after and 'trapeze.cpuWeight = "300"' in after, after
    assert 'memsize = "128"' in after and 'numvcpus = "2"' in after, after
    assert trapeze("set", "a", "memory=64").stdout == "a: from the next start on: memory\n"
    assert change("a", "cpu-weight=0", "cpus=1")["live"] == []
    assert vmx("a").replace('trapeze.cpuWeight = "0"\n', "") == before, vmx("a")
    assert change("a", "restart=always", "restart-tries=3", "autostart=on")["next-start"] == []
    assert (CLIENT.info("a")["restart"], CLIENT.info("a")["autostart"]) == ("always", True)
    assert 'trapeze.restartTries = "3"' in vmx("a")
    change("a", "restart=no", "autostart=off")
    assert change("a", "expires=2031-02-03")["live"] == ["expires"]
    assert CLIENT.info("a")["expires"] == 1927843200 and 'trapeze.expires = "2031-02-03' in vmx("a")
    assert " days " in trapeze("list").stdout, trapeze("list").stdout
    refuses(USAGE, "no day or moment", arguments=["set", "a", "expires=tomorrow"])
    assert change("a", "expires=never")["live"] == ["expires"]
    assert "expires" not in CLIENT.info("a") and "expires" not in vmx("a")
    trapeze("template", "a")
    change("a", "cpu-cap=50")
    trapeze("template", "--undo", "a")
    assert 'trapeze.cpuCap = "50"' in vmx("a")
    trapeze("delete", "a")


def test_what_makes_no_sense_changes_nothing():
    create("a", "--net", "nat")
    before = vmx("a")
    for words, part in ((["cpu-wieght=3"], "cpu-weight"), (["disk0.iosp=1"], "diskN.iops"),
                        (["zzz=1"], "--help"), (["cpus"], "cpus=VALUE"),
                        (["cpus=2", "cpus=3"], "twice"), (["cpus=9"], "1 to 8"),
                        (["cpus=3", "max-cpus=2"], "max-cpus"), (["max-cpus=9"], "1 to 8"),
                        (["--user", "a b", "cpus=2"], "user's name"),
                        (["cpus=2", "cpu-weight=10001"], "10000"), (["memory=x"], "512M"),
                        (["memory=1M"], "32 MiB"), (["disk0.iops=5"], "has none"),
                        (["net1.rate=5"], "0 to 0"), (["balloon=maybe"], "on|off"), (["restart=never"], "on-failure"),
                        (["cpu-cap=-1"], "PERCENT"), (["diskN.iops=1"], "no key"),
                        (["memory-limit=128M"], "64 MiB"), ([], "KEY=VALUE")):
        refuses(USAGE, part, arguments=["set", "a", *words])
    refuses(USAGE, "no instance 'b'", arguments=["set", "b", "cpus=2"])
    assert vmx("a") == before
    trapeze("delete", "a")


def test_http():
    create("a")
    path = "/v1/instances/a"
    answer = api("PATCH", path, {"cpu-weight": 7, "balloon": True, "memory": "96M"}, 200)
    assert keys_of(answer["next-start"]) == ["cpu-weight", "balloon", "memory"], answer
    assert 'trapeze.balloon = "TRUE"' in vmx("a") and 'memsize = "96"' in vmx("a")
    for body in ({}, {"cpus": None}, {"cpus": [2]}, {"cpus": 2.5}, {"": 1}, {"x" * 5000: 1},
                 {"disk99999999999999999999.iops": 1}, {"cpus": "2 "}, {"cpu-cap": -(1 << 62)}):
        api("PATCH", path, body, 400)
    api("PATCH", "/v1/instances/b", {"cpus": 2}, 404)
    schema = CLIENT.document["paths"]["/v1/instances/{name}"]["patch"]["requestBody"]["content"][
        "application/json"]["schema"]
    assert "cpu-cap" in schema["properties"], schema
    assert r"^disk[0-9]+\.iops$" in schema["patternProperties"], schema
    events = [e for e in api("GET", "/v1/events")["events"] if e["type"] == "set"]
    assert events[-1]["detail"] == {"cpu-weight": 7, "balloon": True, "memory": "96M"}, events
    trapeze("delete", "a")


def test_a_machine_that_runs():
    disk = os.path.join(FOLDER.name, "disk.img")
    with open(disk, "wb") as file:
        file.truncate(1 << 20)
    create("a", "--balloon", "--disk", disk, "--net", "nat", "--cpu-weight", "50")
    create("bare", "--cpus", "2")
    trapeze("start", "a")
    trapeze("start", "bare")
    assert worker("a", "cpu")["weight"] == 50
    said = trapeze("set", "a", "cpu-weight=200", "cpu-cap=20", "disk0.iops=500", "disk0.bps=1M",
                   "net0.rate=1000", "memory-limit=40M", "cpus=2").stdout
    assert said == ("a: in effect: cpu-weight, cpu-cap, disk0.iops, disk0.bps, net0.rate, "
                    "memory-limit\na: from the next start on: cpus (the machine was started with room "
                    "for 1 CPU. max-cpus says how many there is room for from the next start on.)\n"), said
    cpu = worker("a", "cpu")
    assert (cpu["weight"], cpu["cap"]) == (200, 20), cpu
    info = api("GET", "/v1/instances/a")
    assert (info["cpu-weight"], info["cpu-cap"], info["memory-limit"]) == (200, 20, 40 << 20), info
    assert info["cpu"]["used-ns"] > 0 and "waited-ns" in info["cpu"], info
    assert worker("a", "limit") == {"iops": 500, "bps": 1 << 20}
    assert worker("a", "balloon")["wanted"] == 24 << 20
    assert change("a", "memory-limit=0")["live"] == ["memory-limit"]
    assert worker("a", "balloon")["wanted"] == 0
    assert change("a", "memory=32M")["live"] == ["memory"]
    assert worker("a", "balloon")["wanted"] == 32 << 20
    late = change("a", "memory=128M")  # more than it was started with
    assert late["live"] == [] and "64 MiB" in late["next-start"][0]["reason"], late
    late = change("bare", "memory=32M", "cpu-cap=30")
    assert late["live"] == ["cpu-cap"] and "balloon" in late["next-start"][0]["reason"], late
    late = change("bare", "cpus=1")["next-start"]
    assert "no vsock" in late[0]["reason"] and "echo 0 > /sys/" in late[0]["reason"], late
    assert 'trapeze.maxcpus = "2"' in vmx("bare"), vmx("bare")  # it runs with two
    # The next start has it all.
    trapeze("stop", "--force", "a")
    trapeze("start", "a")
    cpu = worker("a", "cpu")
    assert (cpu["weight"], cpu["cap"]) == (200, 20), cpu
    status = worker("a", "status")
    assert status["memory"] == 128 << 20 and status["cpus"] == 2, status
    for name in "a", "bare":
        trapeze("stop", "--force", name)
        trapeze("delete", name)


def test_an_instance_has_an_owner():
    create("a")
    name = pwd.getpwuid(os.geteuid()).pw_name
    assert f'trapeze.owner = "{name}"' in vmx("a")
    row = CLIENT.list()[0]
    assert row["owner"] == name and row["uid"] == os.geteuid() and "cpu" not in row, row
    with open(f"{STORE}/instances/a/a.vmx", encoding="utf-8") as file:
        text = file.read()
    with open(f"{STORE}/instances/a/a.vmx", "w", encoding="utf-8") as file:
        file.write(text.replace(f'"{name}"', '"somebody"'))
    assert CLIENT.info("a")["owner"] == "somebody"
    trapeze("set", "a", "cpus=2")
    assert 'trapeze.owner = "somebody"' in vmx("a")
    trapeze("delete", "a")


def test_help_and_completion_know_the_keys():
    text = trapeze("set", "--help").stdout
    for key in ("cpu-weight=", "cpu-cap=PERCENT", "disk", "memory-limit=SIZE"):
        assert key in text, text
    assert "cpu-weight=" in trapeze("help", "--man").stdout
    for shell in "bash", "zsh", "fish":
        text = trapeze("completion", shell).stdout
        assert " cpu-weight=" in text and " disk0.iops=" in text, text
    done = subprocess.run(
        ["bash", "-c", f'source <({TRAPEZE} completion bash); COMP_WORDS=(trapeze set web cpu-w); '
                       'COMP_CWORD=3; _trapeze; echo "${COMPREPLY[*]}"'],
        capture_output=True, text=True, check=True)
    assert done.stdout == "cpu-weight=\n", done


try:
    STATUS = tap.main([test for name, test in list(globals().items()) if name.startswith("test_")])
finally:
    if os.path.exists(f"{STORE}/daemon.sock"):
        CLIENT.kill_daemon()
sys.exit(STATUS)
