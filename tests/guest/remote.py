#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The daemon's API over TCP: who is let in, what they may do, and what those who are not let in can
spoil.

    remote.py TRAPEZE LOOP_ELF
"""
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

import keys
import tap
from daemon_client import HOST, LIMIT_S, USAGE, Client, check, is_alive, operation_of, until

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-remote-")
LOCAL = Client(TRAPEZE, os.path.join(FOLDER.name, "store"))
for variable in [name for name in os.environ if name.startswith("TRAPEZE_")]:
    if variable not in ("TRAPEZE_SOURCE", "TRAPEZE_BUILD", "TRAPEZE_TIER"):
        del os.environ[variable]
os.environ["XDG_CONFIG_HOME"] = os.path.join(FOLDER.name, "config")


def at(name):
    return os.path.join(FOLDER.name, name)


def make_keys():
    for name in "ours", "theirs":
        keys.make_authority(FOLDER.name, name)
    keys.make_certificate(FOLDER.name, "server", "ours", "subjectAltName=IP:127.0.0.1,DNS:localhost",
                     "extendedKeyUsage=serverAuth")
    keys.make_certificate(FOLDER.name, "friend", "ours", "extendedKeyUsage=clientAuth")
    keys.make_certificate(FOLDER.name, "stranger", "theirs", "extendedKeyUsage=clientAuth")
    keys.make_certificate(FOLDER.name, "other-host", "ours", "subjectAltName=DNS:elsewhere")


class Daemon:
    """with Daemon("--listen", …) as daemon: daemon.port"""

    def __init__(self, *options):
        self.options = options or ("--listen", "tcp:127.0.0.1:0", "--certificate", at("server.pem"),
                                   "--key", at("server.key"), "--client-ca", at("ours.pem"))

    def __enter__(self):
        self.log = open(at("daemon.log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen([TRAPEZE, "daemon", "--verbose", "--store", LOCAL.store,
                                         *self.options], stderr=self.log, stdin=subprocess.DEVNULL)
        until(lambda: self.said("listening at") or self.process.poll() is not None)
        found = re.search(r"listening at \S+, port (\d+)", self.text())
        assert found, self.text()
        self.port = int(found.group(1))
        until(lambda: os.path.exists(f"{LOCAL.store}/daemon.sock"))
        return self

    def text(self):
        with open(at("daemon.log"), encoding="utf-8") as file:
            return file.read()

    def said(self, what):
        return what in self.text()

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=LIMIT_S) == 0, self.text()
        self.log.close()


def tls(certificate=None, **options):
    context = ssl.create_default_context(cafile=at("ours.pem"))
    for name, value in options.items():
        setattr(context, name, value)
    if certificate:
        context.load_cert_chain(at(certificate + ".pem"), at(certificate + ".key"))
    return context


def ask(daemon, method, path, body=None, token=None, certificate=None, plain=False):
    connection = (http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=LIMIT_S) if plain else
                  http.client.HTTPSConnection("127.0.0.1", daemon.port, timeout=LIMIT_S,
                                              context=tls(certificate)))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    is_json = answer.headers.get("Content-Type") == "application/json"
    return answer.status, json.loads(text) if is_json else None


def make_token(name):
    return LOCAL.trapeze("token", "create", name).stdout.strip()


def remotely(daemon, *arguments, status=0, token=None, **settings):
    env = {**os.environ, "TRAPEZE_HOST": f"https://127.0.0.1:{daemon.port}",
           "TRAPEZE_CA": at("ours.pem"), "TRAPEZE_HOME": at("nowhere"), **settings}
    if token:
        env["TRAPEZE_TOKEN"] = token
    return LOCAL.trapeze(*arguments, status=status, env=env)


def test_who_is_let_in():
    with Daemon() as daemon:
        token = make_token("laptop")
        assert re.fullmatch("trapeze-[0-9a-f]{64}", token), token
        with open(f"{LOCAL.store}/tokens.json", encoding="ascii") as file:
            kept = file.read()
        assert token[8:] not in kept and '"laptop"' in kept
        assert os.stat(f"{LOCAL.store}/tokens.json").st_mode & 0o777 == 0o600
        status, answer = ask(daemon, "GET", "/v1/instances", token=token)
        assert status == 200 and [row["name"] for row in answer["instances"]] == ["a"], answer
        assert ask(daemon, "GET", "/v1/instances", certificate="friend")[0] == 200
        for wrong in (dict(), dict(certificate="stranger"), dict(token=token[:-1]),
                      dict(token=token[:-1] + ("0" if token[-1] != "0" else "1")),
                      dict(token=token + "0"), dict(token=token.upper()), dict(token="trapeze-")):
            status, answer = ask(daemon, "GET", "/v1/instances", **wrong)
            assert status == 401 and "token" in answer["error"], (wrong, status, answer)
        # What is not there is not told to strangers either.
        assert ask(daemon, "GET", "/nowhere")[0] == 401
        assert daemon.said("came without a token")
        LOCAL.refuses(USAGE, "already", arguments=["token", "create", "laptop"])
        LOCAL.trapeze("token", "revoke", "laptop")
        LOCAL.refuses(USAGE, "no token", arguments=["token", "revoke", "laptop"])
        assert ask(daemon, "GET", "/v1/instances", token=token)[0] == 401
        assert LOCAL.trapeze("token", "list").stdout == ""


def test_tls_is_new_enough():
    with Daemon() as daemon:
        for version, good in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True),
                              (ssl.TLSVersion.TLSv1_3, True)):
            context = tls()
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
            with contextlib.ExitStack() as stack:
                plain = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port)))
                try:
                    stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1"))
                    done = True
                except (ssl.SSLError, ConnectionError):
                    done = False
            assert done == good, version


def test_command_line():
    with Daemon() as daemon:
        token = make_token("laptop")
        rows = json.loads(remotely(daemon, "list", "--json", token=token).stdout)["instances"]
        assert [row["name"] for row in rows] == ["a"]
        assert remotely(daemon, "start", "a", token=token).stdout == "a: running\n"
        # By options and a file, and by the settings file, and with a certificate.
        with open(at("token"), "w", encoding="ascii") as file:
            file.write(token + "\n")
        os.chmod(at("token"), 0o600)
        url = f"https://127.0.0.1:{daemon.port}"
        assert "running" in LOCAL.trapeze("--host", url, f"--ca={at('ours.pem')}", "--token-file",
                                          at("token"), "info", "a").stdout
        os.makedirs(at("config/trapeze"), exist_ok=True)
        with open(at("config/trapeze/client.conf"), "w", encoding="utf-8") as file:
            file.write(f'# mine\nhost = "{url}"\nca = "{at("ours.pem")}"\n'
                       f'certificate = "{at("friend.pem")}"\nkey = "{at("friend.key")}"\n')
        assert "running" in LOCAL.trapeze("info", "a").stdout
        assert "running" in LOCAL.trapeze("--host", "local", "info", "a").stdout
        os.remove(at("config/trapeze/client.conf"))
        remotely(daemon, "clone", "a", "b", status=USAGE, token=token)  # it runs
        remotely(daemon, "stop", "--force", "a", token=token)
        remotely(daemon, "clone", "a", "b", token=token)
        assert remotely(daemon, "events", "--json", token=token).stdout.count("\n") >= 3
        remotely(daemon, "delete", "b", token=token)
        remotely(daemon, "export", "a", at("a.trapeze"), token=token)
        done = remotely(daemon, "import", at("a.trapeze"), "c", status=USAGE, token=token)
        assert "host" in done.stderr, done
        LOCAL.trapeze("import", at("a.trapeze"), "c")
        LOCAL.trapeze("delete", "c")
        for settings, part in ((dict(), "takes a client certificate or a token"),
                               (dict(TRAPEZE_CA=at("theirs.pem")), "cannot reach the daemon"),
                               (dict(TRAPEZE_HOST="https://127.0.0.1:1"), "Connection refused"),
                               (dict(TRAPEZE_HOST="http://192.0.2.1:1"), "without TLS"),
                               (dict(TRAPEZE_HOST="ftp://x"), "no address of a daemon"),
                               (dict(TRAPEZE_TOKEN="a b"), "no token has"),
                               (dict(TRAPEZE_CERTIFICATE=at("friend.pem")), "go together"),
                               (dict(TRAPEZE_TOKEN_FILE=at("none")), "cannot read the token")):
            done = remotely(daemon, "list", status=None, **settings)
            assert done.returncode in (USAGE, HOST) and part in done.stderr, (settings, done)
        os.chmod(at("token"), 0o644)
        done = remotely(daemon, "list", status=USAGE, TRAPEZE_TOKEN_FILE=at("token"))
        assert "others can read" in done.stderr
        LOCAL.trapeze("token", "revoke", "laptop")


def test_a_server_has_to_prove_who_it_is():
    with Daemon("--listen", "tcp:127.0.0.1:0", "--certificate", at("other-host.pem"), "--key",
                at("other-host.key")) as daemon:
        done = remotely(daemon, "list", status=HOST, token="trapeze-" + "0" * 64)
        assert "name in the certificate" in done.stderr, done


def test_what_is_done_on_the_host_only():
    LOCAL.trapeze("list")
    document = LOCAL.raw("GET", "/v1/openapi.json")[1]
    LOCAL.kill_daemon(signal.SIGTERM)
    with Daemon() as daemon:
        open_to_all = set()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                # Nothing is called that could be done: no instance has this name.
                status, answer = ask(daemon, method.upper(), path.replace("{name}", "none"),
                                     certificate="friend")
                if status != 403:
                    open_to_all.add(operation["operationId"])
                if status >= 300:
                    check(answer, operation["responses"]["default"]["content"]["application/json"]
                          ["schema"], document, path)
        print("# over TCP: " + " ".join(sorted(open_to_all)), flush=True)
        # A verb that is added is closed until somebody has thought about it, and added it here.
        assert open_to_all <= REMOTE_VERBS, open_to_all - REMOTE_VERBS
        assert {"list", "start", "stop", "console"} <= open_to_all
        status, answer = ask(daemon, "POST", "/v1/instances",
                             {"name": "x", "vmx": "", "files": [{"source": "/etc/shadow",
                                                                 "name": "x"}]},
                             certificate="friend")
        assert status == 403 and "host" in answer["error"], answer


# Beside these: nothing that names files, sockets, networks or processes of the host.
REMOTE_VERBS = {"version", "list", "info", "delete", "rename", "clone", "template", "start", "stop",
                "restart", "pause", "resume", "logs", "events", "openapi", "console", "metrics",
                "export", "usage", "jobs", "prune", "suspend", "vsock", "certify", "migrate",
                "migrate-cancel", "migrate-resolve", "snapshot-create", "snapshot-list", "snapshot-delete",
                "snapshot-restore", "incoming", "incoming-archive", "incoming-take", "incoming-ask",
                "incoming-stream", "incoming-recover", "incoming-settle"}


def test_a_machine_comes_from_another_host():
    other = Client(TRAPEZE, at("other"))
    other.trapeze("create", "guest", "--firmware", LOOP_ELF, "-m", "32")
    tls_options = ("--listen", "tcp:127.0.0.1:0", "--certificate", at("server.pem"), "--key",
                   at("server.key"), "--client-ca", at("ours.pem"))
    try:
        with Daemon() as daemon:
            other.refuses(USAGE, "--accept-migrations", arguments=[
                "migrate", "guest", f"https://127.0.0.1:{daemon.port}", f"--ca={at('ours.pem')}",
                f"--certificate={at('friend.pem')}", f"--key={at('friend.key')}"])
        with Daemon(*tls_options, "--accept-migrations") as daemon:
            url, token = f"https://127.0.0.1:{daemon.port}", make_token("mover")
            other.refuses(HOST, "cannot reach", arguments=["migrate", "guest", url])
            other.refuses(USAGE, "certificate or a token", arguments=[
                "migrate", "guest", url, f"--ca={at('ours.pem')}"])
            with open(at("token"), "w", encoding="ascii") as file:
                file.write(token + "\n")
            os.chmod(at("token"), 0o600)
            done = other.trapeze("migrate", "guest", url, f"--ca={at('ours.pem')}",
                                 f"--token-file={at('token')}")
            assert done.stdout == f"guest: moved to {url}\n", done
            other.refuses(USAGE, url, arguments=["start", "guest"])
            assert token not in "".join(  # it is of no use any more, so it is gone
                open(os.path.join(path, name), encoding="utf-8", errors="replace").read()
                for path, _, files in os.walk(os.path.join(other.store, "moved")) for name in files)
            LOCAL.trapeze("start", "guest")
            LOCAL.trapeze("stop", "--force", "guest")
            # What a client over TCP asks for: not with a socket of the daemon's host, but onwards.
            done = remotely(daemon, "migrate", "guest", f"{other.store}/daemon.sock", token=token,
                            status=USAGE)
            assert "file of the daemon's host" in done.stderr, done
            LOCAL.trapeze("delete", "guest")
            # One that runs: its streams are connections of TLS, too.
            other.trapeze("create", "guest", "--firmware", LOOP_ELF, "-m", "64", "--start")
            done = other.trapeze("migrate", "guest", url, f"--ca={at('ours.pem')}",
                                 f"--token-file={at('token')}", "--connections", "3")
            assert done.stdout == f"guest: moved to {url}\n", done
            assert LOCAL.info("guest")["state"] == "running"
            LOCAL.trapeze("stop", "--force", "guest")
            LOCAL.trapeze("delete", "guest")
            LOCAL.trapeze("token", "revoke", "mover")
    finally:
        other.end()


@contextlib.contextmanager
def killed(process):
    """Whatever comes: who waits for it waits no longer."""
    try:
        yield
    finally:
        process.kill()


def test_console():
    with Daemon() as daemon:
        token = make_token("console")
        remotely(daemon, "start", "a", token=token)
        until(lambda: "ready" in remotely(daemon, "logs", "a", token=token).stdout)
        env = {**os.environ, "TRAPEZE_HOST": f"https://127.0.0.1:{daemon.port}",
               "TRAPEZE_CA": at("ours.pem"), "TRAPEZE_TOKEN": token}
        with subprocess.Popen([TRAPEZE, "console", "a"], env=env, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as console, killed(console):
            # What the guest prints at its next start is the next session's: here, its end.
            until(lambda: console_owner() == "token 'console'")
            for role, part in (("own", "token 'console' has it since 20"), ("x", "own, steal or watch")):
                with raw_upgrade(daemon, token, f"/v1/instances/a/console?role={role}",
                                 "trapeze-console") as client:
                    assert part in client.recv(65536).decode(), part
            with raw_upgrade(daemon, token, "/v1/instances/a/console?role=watch",
                             "trapeze-console") as client:
                assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
            console.stdin.write(b"x" * 100000)
            console.stdin.flush()
            before = daemon.cpu()
            time.sleep(1)
            assert daemon.cpu() - before < 0.5, "the daemon is busy with an idle console"
            LOCAL.trapeze("token", "revoke", "console")  # ends what was opened with it
            assert console.wait(timeout=LIMIT_S) == 0
            with contextlib.suppress(BrokenPipeError):
                console.stdin.close()
        token = make_token("console")
        done = remotely(daemon, "console", "none", status=USAGE, token=token)
        assert "no instance 'none'" in done.stderr
        status, answer = ask(daemon, "GET", "/v1/instances/a/console", token=token)
        assert status == 426, answer
        echo_through(daemon, token)
        remotely(daemon, "stop", "--force", "a", token=token)
        done = remotely(daemon, "console", "a", status=USAGE, token=token)
        assert "not running" in done.stderr
        LOCAL.trapeze("token", "revoke", "console")


def exchange(client, data):
    """Sends it all while receiving until the end; one thread, as a TLS session is for one."""
    client.setblocking(False)
    got, sent, end = bytearray(), 0, time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        moved = False
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if sent < len(data):
                sent += client.send(data[sent:sent + 16384])
                moved = True
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            chunk = client.recv(1 << 16)
            if not chunk:
                break
            got += chunk
            moved = True
        if not moved:
            select.select([client], [client] if sent < len(data) else [], [], 1)
    return bytes(got)


def raw_upgrade(daemon, token, path, protocol):
    client = tls().wrap_socket(socket.create_connection(("127.0.0.1", daemon.port)),
                               server_hostname="127.0.0.1")
    client.sendall((f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                    f"Upgrade: {protocol}\r\nAuthorization: Bearer {token}\r\n\r\n").encode())
    return client


def console_owner():
    path = f"{LOCAL.store}/instances/a/control.sock"
    return json.loads(LOCAL.trapeze("control", path, "status").stdout).get("console-owner")


def test_vsock_and_certificates():
    """What exec, ssh and cp are made of; with a guest they are in reach.py."""
    with Daemon() as daemon:
        token = make_token("reach")
        remotely(daemon, "start", "a", token=token)
        done = remotely(daemon, "exec", "a", "--", "true", status=USAGE, token=token)
        assert "no vsock" in done.stderr, done
        with raw_upgrade(daemon, token, "/v1/instances/a/vsock", "trapeze-vsock") as client:
            assert b" 409 " in client.recv(65536)
        assert ask(daemon, "GET", "/v1/instances/a/vsock", token=token)[0] == 426
        path = f"{LOCAL.store}/instances/a/vsock.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            with raw_upgrade(daemon, token, "/v1/instances/a/vsock", "trapeze-vsock") as client:
                client.sendall(b"CONNECT 22\n")
                peer = server.accept()[0]
                assert peer.recv(100) == b"CONNECT 22\n"
                peer.sendall(b"OK 1\nSSH-2.0-x\r\n")
                peer.shutdown(socket.SHUT_WR)
                got = b""
                while chunk := client.recv(65536):
                    got += chunk
                assert got.endswith(b"\r\n\r\nOK 1\nSSH-2.0-x\r\n"), got
                peer.close()
        os.remove(path)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at("id")], check=True)
        with open(at("id.pub"), encoding="ascii") as file:
            key = " ".join(file.read().split()[:2])
        certify = "/v1/instances/a/certify"
        status, answer = ask(daemon, "POST", certify, {"public-key": key, "user": "bob"}, token=token)
        assert status == 200, answer
        with open(at("id-cert.pub"), "w", encoding="ascii") as file:
            file.write(answer["certificate"])
        said = subprocess.run(["ssh-keygen", "-L", "-f", at("id-cert.pub")], check=True,
                              capture_output=True, text=True).stdout
        assert "bob" in said and "trapeze: a, for token 'reach'" in said and "user cert" in said, said
        for body in ({"public-key": key + " c", "user": "bob"}, {"public-key": key, "user": "-o"},
                     {"public-key": "ssh-rsa " + key[12:], "user": "bob"}, {"user": "bob"},
                     {"public-key": key + "\n" + key, "user": "bob"}, {"public-key": key, "user": "a b"},
                     {"public-key": key, "user": "a,b"}):
            assert ask(daemon, "POST", certify, body, token=token)[0] == 400, body
        assert not [name for name in os.listdir(f"{LOCAL.store}/instances") if name.startswith(".")]
        remotely(daemon, "stop", "--force", "a", token=token)
        LOCAL.trapeze("token", "revoke", "reach")


def echo_through(daemon, token):
    """We are the worker that is to attach a console: what goes in comes out, all of it, both ways at
    once, and its end is the stream's."""
    path = f"{LOCAL.store}/instances/a/control.sock"
    os.rename(path, path + ".real")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    data = os.urandom(3 << 20)

    def serve():
        link = server.accept()[0]
        request, fds, _, _ = socket.recv_fds(link, 65536, 1)
        assert b"console-attach" in request, request
        answer = b'{"id": 1, "result": {}}'
        link.sendall(struct.pack("<I", len(answer)) + answer)
        peer = socket.socket(fileno=fds[0])
        peer.setblocking(True)
        while chunk := peer.recv(50000):
            peer.sendall(chunk)
            if chunk.endswith(b"end"):
                break
        peer.close()
        link.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with raw_upgrade(daemon, token, "/v1/instances/a/console", "trapeze-console") as client:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        got = exchange(client, data + b"end")
    thread.join(LIMIT_S)
    server.close()
    os.rename(path + ".real", path)
    assert got == data + b"end", (len(got), len(data))


def test_certificates_are_read_again():
    def presented():
        with tls().wrap_socket(socket.create_connection(("127.0.0.1", daemon.port)),
                               server_hostname="127.0.0.1") as client:
            return dict(part[0] for part in client.getpeercert()["subject"])["commonName"]

    def put(name):
        for ending in "pem", "key":
            shutil.copyfile(at(f"{name}.{ending}"), at(f"hup.{ending}.new"))
            os.chmod(at(f"hup.{ending}.new"), 0o600)
            os.replace(at(f"hup.{ending}.new"), at(f"hup.{ending}"))
    keys.make_certificate(FOLDER.name, "renewed", "ours", "subjectAltName=IP:127.0.0.1", "extendedKeyUsage=serverAuth")
    put("server")
    with Daemon("--listen", "tcp:127.0.0.1:0", "--certificate", at("hup.pem"), "--key", at("hup.key"),
                "--client-ca", at("ours.pem")) as daemon:
        assert presented() == "server"
        token = make_token("hup")
        held = raw_upgrade(daemon, token, "/v1/version", "x")
        put("renewed")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.said("certificates were read again"))
        assert presented() == "renewed"
        assert held.recv(12) == b"HTTP/1.1 200"  # a connection of before
        held.close()
        assert ask(daemon, "GET", "/v1/version", certificate="friend")[0] == 200
        assert ask(daemon, "GET", "/v1/version")[0] == 401
        shutil.copyfile(at("friend.key"), at("hup.key"))  # which is another's
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.said("certificates stay as they were"))
        assert presented() == "renewed"
        LOCAL.trapeze("token", "revoke", "hup")


def test_those_who_try_too_often_wait():
    with Daemon() as daemon:
        token = make_token("late")
        statuses = [ask(daemon, "GET", "/v1/version", token="trapeze-" + "1" * 64)[0]
                    for _ in range(25)]
        assert statuses == [401] * 20 + [429] * 5, statuses
        assert ask(daemon, "GET", "/v1/version", token=token)[0] == 429  # from there, no token
        assert ask(daemon, "GET", "/v1/version", certificate="friend")[0] == 200
        assert LOCAL.raw("GET", "/v1/version")[0] == 200  # the owner is not concerned
        LOCAL.trapeze("token", "revoke", "late")


def test_those_who_hold_on_spoil_nothing():
    """Connections that say nothing, that stop in the middle, that send for ever."""
    with Daemon() as daemon:
        token, held = make_token("patient"), []
        for number in range(40):  # one address has 16
            plain = socket.create_connection(("127.0.0.1", daemon.port))
            held.append(plain)
            if number % 3 == 1:
                plain.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a greeting
            elif number % 3 == 2:
                plain.sendall(b"GET / HTTP/1.1\r\n")  # no TLS
        assert LOCAL.raw("GET", "/v1/instances")[0] == 200
        before = daemon.cpu()
        time.sleep(1)
        assert daemon.cpu() - before < 0.5, "the daemon is busy with those who say nothing"
        for plain in held:
            plain.close()
        until(lambda: served(daemon, token))
        # A body without end, and none of it is kept.
        with tls().wrap_socket(socket.create_connection(("127.0.0.1", daemon.port)),
                               server_hostname="127.0.0.1") as client:
            client.sendall(b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n"
                           b"\r\n")
            head = client.recv(100)
            assert head.startswith(b"HTTP/1.1 401 "), head
            with contextlib.suppress(OSError):  # it hangs up on us
                for _ in range(1000):
                    client.sendall(bytes(1 << 16))
        with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as file:
            peak = int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1))
        assert peak < 64 << 10, peak
        LOCAL.trapeze("token", "revoke", "patient")


def served(daemon, token):
    try:
        return ask(daemon, "GET", "/v1/instances", token=token)[0] == 200
    except OSError:
        return False


def make_large(name, size):
    """With a disk that takes more than sockets' buffers."""
    with open(at("large.raw"), "wb") as file:
        file.write(os.urandom(size))
    LOCAL.trapeze("create", name, "--firmware", LOOP_ELF, "-m", "32", "--disk",
                  at("large.raw") + ",format=raw")


def only_child(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        child, = file.read().split()
    return int(child)


def trickle(port):
    """A byte now and then keeps libmicrohttpd's own limit away: ours is 60 s for a request."""
    with tls().wrap_socket(socket.create_connection(("127.0.0.1", port)),
                           server_hostname="127.0.0.1") as client:
        client.settimeout(0.01)
        start, sent = time.monotonic(), 0
        client.sendall(b"GET /v1/instances HTTP/1.1\r\nx: ")
        with contextlib.suppress(OSError):
            while time.monotonic() - start < LIMIT_S:
                client.sendall(b"x")
                sent += 1
                with contextlib.suppress(TimeoutError):
                    if not client.recv(100):
                        break
                time.sleep(1)
        return time.monotonic() - start, sent


def test_those_who_are_slow_are_cut_off():
    """An export at a byte a second does not hold the instance: 60 s for each MiB are enough. Beside it,
    as that takes its time, a request that comes by bytes."""
    make_large("slow", 24 << 20)
    LOCAL.kill_daemon(signal.SIGTERM)
    with Daemon() as daemon, concurrent.futures.ThreadPoolExecutor(1) as pool:
        trickled = pool.submit(trickle, daemon.port)
        token = make_token("slow")
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect(("127.0.0.1", daemon.port))
            client = tls().wrap_socket(plain, server_hostname="127.0.0.1")
            client.sendall(f"GET /v1/instances/slow/export HTTP/1.1\r\nHost: x\r\n"
                           f"Authorization: Bearer {token}\r\n\r\n".encode())
            assert client.recv(12) == b"HTTP/1.1 200"
            LOCAL.refuses(USAGE, "at work", arguments=["start", "slow"])
            # Who reads the disk is the job's child, and confined.
            reader = only_child(only_child(daemon.process.pid))
            with open(f"/proc/{reader}/status", encoding="ascii") as file:
                about = file.read()
            assert "Seccomp:\t2" in about and "CapEff:\t0000000000000000" in about, about
            end = time.monotonic() + LIMIT_S
            with contextlib.suppress(OSError):
                while time.monotonic() < end and client.recv(1):
                    if LOCAL.trapeze("start", "slow", status=None).returncode == 0:
                        break
                    time.sleep(1)
            client.close()
        until(lambda: LOCAL.info("slow")["state"] == "running" or
              LOCAL.trapeze("start", "slow", status=None).returncode == 0)
        assert time.monotonic() < end
        took, sent = trickled.result()
        assert 50 < took < LIMIT_S and sent > 10, (took, sent)
        LOCAL.trapeze("stop", "--force", "slow")
        LOCAL.trapeze("token", "revoke", "slow")
        LOCAL.trapeze("delete", "slow")


def descriptors(daemon):
    return {int(name) for name in os.listdir(f"/proc/{daemon.process.pid}/fd")}


def test_addresses_of_ipv4_are_told_apart_at_an_ipv6_socket():
    try:
        with socket.socket(socket.AF_INET6) as six:
            six.bind(("::", 0))
    except OSError as reason:
        raise tap.Skip("no IPv6 here") from reason
    with Daemon("--listen", "tcp:[::]:0", "--certificate", at("server.pem"), "--key",
                at("server.key")) as daemon, contextlib.ExitStack() as stack:
        before = len(descriptors(daemon))
        for _ in range(16):  # as many as one has
            stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port)))
        until(lambda: len(descriptors(daemon)) == before + 16)
        other = socket.create_connection(("127.0.0.1", daemon.port), source_address=("127.0.0.2", 0))
        with tls().wrap_socket(other, server_hostname="127.0.0.1") as client:
            client.sendall(b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 401 ")


def test_without_tls():
    with Daemon("--listen", "tcp:127.0.0.1:0", "--insecure") as daemon:
        token = make_token("near")
        assert ask(daemon, "GET", "/v1/version", plain=True)[0] == 401
        assert ask(daemon, "GET", "/v1/version", plain=True, token=token)[0] == 200
        done = remotely(daemon, "list", token=token,
                        TRAPEZE_HOST=f"http://localhost:{daemon.port}")
        assert "a " in done.stdout, done
        remotely(daemon, "start", "a", token=token, TRAPEZE_HOST=f"http://127.0.0.1:{daemon.port}")
        with subprocess.Popen([TRAPEZE, "console", "a"], stdin=subprocess.PIPE,
                              env={**os.environ, "TRAPEZE_TOKEN": token, "TRAPEZE_HOST":
                                   f"http://127.0.0.1:{daemon.port}"}) as console, \
                killed(console):
            until(lambda: console_owner() == "token 'near'")
            LOCAL.trapeze("stop", "--force", "a")  # its end is the console's
            assert console.wait(timeout=LIMIT_S) == 0
        LOCAL.trapeze("token", "revoke", "near")


def test_sentences():
    for options, part in (
            (["--listen", "tcp:127.0.0.1:0"], "needs TLS"),
            (["--listen", "tcp:0.0.0.0:0", "--insecure"], "is for loopback addresses"),
            (["--listen", "127.0.0.1:0", "--insecure"], "not a place to listen at"),
            (["--listen", "tcp:::1:7", "--insecure"], "not a place to listen at"),
            (["--listen", "tcp:127.0.0.1:70000", "--insecure"], "not a place to listen at"),
            (["--listen", "tcp:192.0.2.1:0", "--certificate", at("server.pem"), "--key",
              at("server.key")], "cannot listen"),
            (["--listen", "tcp:127.0.0.1:0", "--insecure", "--key", at("server.key")], "without TLS"),
            (["--listen", "tcp:127.0.0.1:0", "--certificate", at("server.pem"), "--key",
              at("friend.key")], "no certificate and its key"),
            (["--listen", "tcp:127.0.0.1:0", "--certificate", at("server.pem"), "--key",
              at("server.key"), "--client-ca", at("server.key")], "no certificate of an authority"),
            (["--listen", "tcp:127.0.0.1:0", "--certificate", at("none"), "--key",
              at("server.key")], "cannot read")):
        done = LOCAL.trapeze("daemon", "--store", LOCAL.store, *options, status=None)
        assert done.returncode in (USAGE, HOST) and part in done.stderr, (options, done)
        assert len(done.stderr.splitlines()) == 1, done
    os.chmod(at("server.key"), 0o640)
    done = LOCAL.trapeze("daemon", "--store", LOCAL.store, "--listen", "tcp:127.0.0.1:0",
                         "--certificate", at("server.pem"), "--key", at("server.key"), status=USAGE)
    assert "others can read the key" in done.stderr
    os.chmod(at("server.key"), 0o600)
    with open(f"{LOCAL.store}/tokens.json", "w", encoding="ascii") as file:
        file.write("{")
    LOCAL.refuses(HOST, "others can read or write", arguments=["token", "list"])
    os.chmod(f"{LOCAL.store}/tokens.json", 0o600)
    LOCAL.refuses(HOST, "damaged", arguments=["token", "list"])
    os.remove(f"{LOCAL.store}/tokens.json")


def alone(test):
    """With an instance, and no daemon but the test's own."""
    def run():
        with contextlib.suppress(FileNotFoundError):  # of a test that has failed
            os.remove(f"{LOCAL.store}/tokens.json")
        LOCAL.trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32", status=None)
        LOCAL.kill_daemon(signal.SIGTERM)
        test()
    run.__name__ = test.__name__
    return run


def main():
    make_keys()
    status = tap.main([alone(test) for name, test in list(globals().items())
                       if name.startswith("test_")])
    with contextlib.suppress(OSError):
        LOCAL.trapeze("stop", "--force", "a", status=None)
        LOCAL.kill_daemon(signal.SIGTERM)
    return status


if __name__ == "__main__":
    sys.exit(main())
