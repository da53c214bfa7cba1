# SPDX-License-Identifier: MIT
"""A store of instances as its users reach it: by command line, and by HTTP on its unix socket.

Every answer of Client.api() is checked against the OpenAPI document that the daemon serves.
"""
import fcntl
import functools
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import time

import tap

USAGE, HOST = 120, 121
LIMIT_S = 300


def until(condition):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, condition
        time.sleep(0.05)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone, or going while it is read
        return False


class UnixConnection(http.client.HTTPConnection):
    """To STORE/daemon.sock, whose path may be too long for an address."""

    def __init__(self, store):
        super().__init__("localhost", timeout=LIMIT_S)
        self.store = store

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        folder = os.open(self.store, os.O_RDONLY)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/daemon.sock")
        finally:
            os.close(folder)


def check(value, schema, document, where):
    """The part of JSON Schema that the document uses."""
    if "$ref" in schema:
        return check(value, document["components"]["schemas"][schema["$ref"].split("/")[-1]],
                     document, where)
    if "anyOf" in schema:
        found = []
        for one in schema["anyOf"]:
            try:
                return check(value, one, document, where)
            except AssertionError as error:
                found.append(error)
        raise AssertionError((where, found))
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    assert isinstance(value, kinds[schema["type"]]), (where, value, schema)
    assert "enum" not in schema or value in schema["enum"], (where, value)
    if isinstance(value, dict):
        for name in schema.get("required", []):
            assert name in value, (where, name, value)
        for name, member in schema.get("properties", {}).items():
            if name in value:
                check(value[name], member, document, f"{where}.{name}")
    for member in value if isinstance(value, list) else []:
        check(member, schema["items"], document, f"{where}[]")
    return None


def operation_of(document, method, path):
    """The document's row for a path in which names stand for {name}."""
    for template, operations in document["paths"].items():
        pattern = re.escape(template).replace(re.escape("{name}"), "[^/]+")
        if re.fullmatch(pattern, path.split("?")[0]) and method.lower() in operations:
            return operations[method.lower()]
    raise AssertionError((method, path, "is not in the document"))


class Client:
    def __init__(self, program, store):
        self.program, self.store = program, store
        self.document = None

    def trapeze(self, *arguments, status=0, **options):
        options.setdefault("env", {**os.environ, "TRAPEZE_HOME": self.store})
        done = subprocess.run([self.program, *arguments], stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=LIMIT_S, text=True, check=False, **options)
        assert status is None or done.returncode == status, (arguments, done)
        return done

    def refuses(self, status, *wanted, arguments):
        done = self.trapeze(*arguments, status=status)
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("trapeze: "), done
        for part in wanted:
            assert part in lines[0], (part, lines[0])

    def connection(self):
        return UnixConnection(self.store)

    def raw(self, method, path, body=None):
        connection = self.connection()
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text)

    def api(self, method, path, body=None, status=None):
        """A call by the book: its operation is in the document, and so is its answer."""
        return self.call(method, path, body, status)[1]

    def call(self, method, path, body=None, status=None):
        """As api(): (status, answer)."""
        if self.document is None:
            self.document = self.raw("GET", "/v1/openapi.json")[1]
        operation = operation_of(self.document, method, path)
        got, answer = self.raw(method, path, json.dumps(body) if body is not None else None)
        good = str(got) in operation["responses"]
        response = operation["responses"][str(got) if good else "default"]
        check(answer, response["content"]["application/json"]["schema"], self.document, path)
        assert good == (got < 300) and (status is None or got == status), \
            (method, path, got, answer)
        return got, answer

    def events(self, after=0):
        """All of them; the daemon gives so many at once."""
        found = []
        while page := self.api("GET", f"/v1/events?after={after}")["events"]:
            found += page
            after = page[-1]["number"]
        return found

    def pid_of_daemon(self):
        return self.raw("GET", "/v1/version")[1]["pid"]

    def kill_daemon(self, number=signal.SIGKILL):
        pid = self.pid_of_daemon()
        os.kill(pid, number)
        until(lambda: not is_alive(pid))

    def killed_during(self, method, path, body, seconds):
        """The states of instances by their names, as the next daemon finds them."""
        connection = self.connection()
        connection.request(method, path, json.dumps(body))
        time.sleep(seconds)
        self.kill_daemon()
        connection.close()
        until(lambda: "adopting" not in [row["state"] for row in self.list()])
        return {row["name"]: row["state"] for row in self.list()}

    def info(self, name):
        return json.loads(self.trapeze("info", "--json", name).stdout)

    def clear(self):
        """No instances, whatever a test that failed has left; clones go before what they lie upon."""
        end, done = time.monotonic() + LIMIT_S / 5, None
        while rows := self.list() if os.path.exists(self.store) else []:
            assert time.monotonic() < end, done  # what protects a user's data protects a failed test's
            for row in rows:
                self.trapeze("stop", "--force", row["name"], status=None)
                done = self.trapeze("delete", row["name"], status=None)

    def alone(self, tests):
        """The functions of a module that are tests, each to begin with no instances."""
        def wrap(test):
            @functools.wraps(test)
            def run():
                self.clear()
                test()
            return run
        return [wrap(test) for name, test in list(tests.items()) if name.startswith("test_")]

    def end(self):
        """No daemon, either."""
        try:
            self.clear()
            self.kill_daemon(signal.SIGTERM)
        except OSError:
            pass

    def main(self, tests):
        """A whole program of them; its exit status."""
        status = tap.main(self.alone(tests))
        self.end()
        return status

    def list(self):
        return json.loads(self.trapeze("list", "--json").stdout)["instances"]


class FakeWorker:
    """Holds the instance's lock and listens at its control socket, as a worker does."""

    def __init__(self, folder):
        self.folder = folder
        self.lock = os.open(f"{self.folder}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        F_OFD_SETLK = 37
        fcntl.fcntl(self.lock, F_OFD_SETLK, struct.pack("hh4xqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        self.server = socket.socket(socket.AF_UNIX)
        folder = os.open(self.folder, os.O_RDONLY)
        self.server.bind(f"/proc/self/fd/{folder}/control.sock")
        os.close(folder)
        self.server.listen()
        self.link = None

    def accept(self):
        self.server.settimeout(LIMIT_S)
        self.link = self.server.accept()[0]

    def send(self, message):
        text = json.dumps(message, ensure_ascii=False).encode()
        self.link.sendall(struct.pack("<I", len(text)) + text)

    def ends(self):
        os.close(self.lock)
