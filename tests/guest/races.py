#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Eight clients at once on the same few instances, over HTTP: every answer is one that the OpenAPI
document has, none is a failure of the daemon's, and afterwards folders, catalogue and workers agree.

    races.py TRAPEZE LOOP_ELF

20 rounds; the full tier has 200. TRAPEZE_SEED in the environment repeats what was asked, though not
the order in which the daemon heard it.
"""
import collections
import concurrent.futures
import contextlib
import os
import random
import signal
import sqlite3
import sys
import tempfile

import tap
from daemon_client import Client, is_alive, until
from machine import FULL

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
CLIENTS, ROUNDS, TURNS = 8, 200 if FULL else 20, 3
NAMES = ["a", "b", "c"]
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-races-")
CLIENT = Client(TRAPEZE, os.path.join(FOLDER.name, "store"))
SEED = int(os.environ.get("TRAPEZE_SEED", random.randrange(1 << 32)))

VMX = 'memsize = "32"\ntrapeze.firmware = "elf"\n'
# What is asked for, and how often for its weight: a name of its own stands for {n}, any for {o}.
VERBS = [
    ("POST", "/v1/instances", {"name": "{n}", "vmx": VMX,
                               "files": [{"source": LOOP_ELF, "name": "elf"}]}, 4),
    ("POST", "/v1/instances/{n}/start", None, 6),
    ("POST", "/v1/instances/{n}/stop", {"force": True}, 4),
    ("POST", "/v1/instances/{n}/restart", {"force": True}, 2),
    ("POST", "/v1/instances/{n}/pause", None, 1),
    ("POST", "/v1/instances/{n}/resume", None, 1),
    ("POST", "/v1/instances/{n}/rename", {"to": "{o}"}, 3),
    ("POST", "/v1/instances/{n}/clone", {"to": "{o}"}, 3),
    ("POST", "/v1/instances/{n}/template", {"undo": True}, 1),
    ("DELETE", "/v1/instances/{n}", None, 3),
    ("GET", "/v1/instances/{n}", None, 1),
    ("GET", "/v1/instances", None, 1),
    ("GET", "/v1/instances/{n}/logs", None, 1),
]
# Done, or: there is no such instance, not now. 400: to a name that there is already.
ANSWERS = {200, 201, 400, 404, 409}


def client(seed):
    """One client's turns: [(verb, status)]."""
    choose, got = random.Random(seed), []
    for _ in range(TURNS):
        method, path, body, _ = choose.choices(VERBS, [row[3] for row in VERBS])[0]
        names = {"{n}": choose.choice(NAMES), "{o}": choose.choice(NAMES)}
        if body is not None:
            body = {key: names.get(value, value) if isinstance(value, str) else value
                    for key, value in body.items()}
        status, answer = CLIENT.call(method, path.replace("{n}", names["{n}"]), body)
        assert status in ANSWERS, (method, path, body, status, answer)
        got.append((f"{method} {path}", status))
    return got


def folders():
    return sorted(os.listdir(f"{CLIENT.store}/instances"))


def check_store():
    rows = CLIENT.list()
    names = [row["name"] for row in rows]
    assert all(row["state"] in ("running", "paused", "stopped") for row in rows), rows
    # What a job has staged goes with it, perhaps after its answer.
    until(lambda: not [name for name in folders() if name.startswith(".")])
    assert names == folders(), (names, folders())
    with contextlib.closing(sqlite3.connect(f"{CLIENT.store}/catalogue.db")) as catalogue:
        listed = [row[0] for row in catalogue.execute("SELECT name FROM instances ORDER BY name")]
    assert names == listed, (names, listed)
    for row in rows:
        folder = os.path.join(CLIENT.store, "instances", row["name"])
        assert os.path.getsize(f"{folder}/elf") == os.path.getsize(LOOP_ELF)
        assert os.path.exists(f"{folder}/{row['name']}.vmx"), os.listdir(folder)
        assert (row["state"] == "stopped") != os.path.exists(f"{folder}/control.sock"), row
    return rows


def check_workers(rows):
    """As many as there are machines that run."""
    pids = {event["detail"]["pid"] for event in CLIENT.events() if event["type"] == "start"}
    alive = [pid for pid in pids if is_alive(pid)]
    assert len(alive) == sum(row["state"] != "stopped" for row in rows), (alive, rows)


def test_many_clients_on_one_instance():
    print(f"# TRAPEZE_SEED={SEED}", flush=True)
    CLIENT.trapeze("list")
    choose, counts = random.Random(SEED), collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        for _ in range(ROUNDS):
            seeds = [choose.random() for _ in range(CLIENTS)]
            for got in pool.map(client, seeds):
                counts.update(got)
            check_store()
    check_workers(check_store())
    for (verb, status), count in sorted(counts.items()):
        print(f"# {verb}: {status} {count} times", flush=True)
    # It was worth the trouble: what matters has both been done and been refused.
    for verb in ("POST /v1/instances/{n}/start", "DELETE /v1/instances/{n}", "POST /v1/instances"):
        statuses = {status for (name, status) in counts if name == verb}
        assert statuses & {200, 201} and statuses & {400, 404, 409}, (verb, statuses)


def main():
    status = tap.main([test_many_clients_on_one_instance])
    try:
        for row in CLIENT.list():
            CLIENT.trapeze("stop", "--force", row["name"], status=None)
        until(lambda: all(row["state"] == "stopped" for row in CLIENT.list()))
        CLIENT.kill_daemon(signal.SIGTERM)
    except OSError:
        pass
    return status


if __name__ == "__main__":
    sys.exit(main())
