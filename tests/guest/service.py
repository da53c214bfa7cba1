#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The daemon as a service: what it counts, sockets from a service manager, its logs and events.

    service.py TRAPEZE LOOP_ELF BUILD
"""
import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import tap
from daemon_client import HOST, LIMIT_S, USAGE, Client, FakeWorker, until
from namespace import in_namespace

TRAPEZE, LOOP_ELF, BUILD = (os.path.abspath(name) for name in sys.argv[1:4])
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-service-")
CLIENT = Client(TRAPEZE, os.path.join(FOLDER.name, "store"))
FULL = os.environ.get("TRAPEZE_TIER") == "full"

# Every metric, a counter without its _total: its type, and the labels of its samples.
METRICS = {
    "trapeze_build_info": ("gauge", {"version"}),
    "trapeze_daemon_start_time_seconds": ("gauge", set()),
    "trapeze_daemon_cpu_seconds": ("counter", set()),
    "trapeze_daemon_jobs_running": ("gauge", set()),
    "trapeze_daemon_jobs": ("counter", set()),
    "trapeze_http_requests": ("counter", {"verb", "status"}),
    "trapeze_instances": ("gauge", {"state"}),
    "trapeze_instance_up": ("gauge", {"instance"}),
    "trapeze_instance_cpu_seconds": ("counter", {"instance"}),
    "trapeze_instance_resident_memory_bytes": ("gauge", {"instance"}),
    "trapeze_instance_memory_bytes": ("gauge", {"instance"}),
    "trapeze_instance_balloon_bytes": ("gauge", {"instance"}),
    "trapeze_instance_vcpus": ("gauge", {"instance"}),
    "trapeze_instance_instructions": ("counter", {"instance", "vcpu"}),
    "trapeze_instance_exits": ("counter", {"instance", "vcpu", "reason"}),
    "trapeze_instance_tlb_refills": ("counter", {"instance", "vcpu", "access"}),
    "trapeze_instance_tlb_flushes": ("counter", {"instance", "vcpu", "extent"}),
    "trapeze_instance_translations": ("counter", {"instance", "vcpu"}),
    "trapeze_instance_disk_reads": ("counter", {"instance", "disk"}),
    "trapeze_instance_disk_read_bytes": ("counter", {"instance", "disk"}),
    "trapeze_instance_disk_writes": ("counter", {"instance", "disk"}),
    "trapeze_instance_disk_written_bytes": ("counter", {"instance", "disk"}),
    "trapeze_instance_network_sent_bytes": ("counter", {"instance", "nic"}),
    "trapeze_instance_network_sent_frames": ("counter", {"instance", "nic"}),
    "trapeze_instance_network_received_bytes": ("counter", {"instance", "nic"}),
    "trapeze_instance_network_received_frames": ("counter", {"instance", "nic"}),
}


def parser():
    """Debian's packages are for its own Python, which need not be ours."""
    sys.path.append("/usr/lib/python3/dist-packages")
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise tap.Skip("python3-prometheus-client is not installed") from error
    return text_string_to_metric_families


def scrape():
    connection = CLIENT.connection()
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return text


def value(families, name, **labels):
    found = [sample.value for family in families for sample in family.samples
             if sample.name == name and all(sample.labels[key] == labels[key] for key in labels)]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def test_metrics():
    parse = parser()
    with open(os.path.join(FOLDER.name, "disk"), "wb") as file:
        file.truncate(1 << 20)
    CLIENT.trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32", "--cpus", "2", "--net", "nat",
                   "--balloon", "--disk", os.path.join(FOLDER.name, "disk"))
    CLIENT.trapeze("create", "b", "--firmware", LOOP_ELF, "-m", "32")
    CLIENT.trapeze("start", "a")
    text = scrape()
    families = list(parse(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), names
    seen = {family.name for family in families}
    wanted = set(METRICS)
    # The translator is not everywhere.
    assert seen - wanted == set() and wanted - seen <= {"trapeze_instance_translations"}, \
        seen ^ wanted
    samples = [(s.name, tuple(sorted(s.labels.items()))) for f in families for s in f.samples]
    assert len(samples) == len(set(samples)), "a sample stands there twice"
    for family in families:
        kind, labels = METRICS[family.name]
        assert family.type == kind and family.documentation, family
        for sample in family.samples:
            assert set(sample.labels) == labels and sample.value >= 0, sample
            assert sample.name.endswith("_total") == (kind == "counter"), sample
    assert value(families, "trapeze_instances", state="stopped") == 1
    assert value(families, "trapeze_instance_up", instance="a") == 1
    assert value(families, "trapeze_instance_memory_bytes", instance="a") == 32 << 20
    assert value(families, "trapeze_instance_vcpus", instance="a") == 2
    assert value(families, "trapeze_instance_disk_reads_total", instance="a", disk="0") == 0
    assert value(families, "trapeze_http_requests_total", verb="start", status="200") == 1
    until(lambda: value(list(parse(scrape())), "trapeze_instance_instructions_total", instance="a",
                        vcpu="0") >
          value(families, "trapeze_instance_instructions_total", instance="a", vcpu="0"))
    later = list(parse(scrape()))
    for name in ("trapeze_instance_cpu_seconds_total", "trapeze_daemon_cpu_seconds_total"):
        before = [s.value for f in families for s in f.samples if s.name == name]
        after = [s.value for f in later for s in f.samples if s.name == name]
        assert len(before) == len(after) == 1 and after[0] >= before[0] > 0, (name, before, after)
    CLIENT.trapeze("pause", "a")
    assert value(list(parse(scrape())), "trapeze_instances", state="paused") == 1
    for name in "ab":
        CLIENT.trapeze("stop", "--force", name, status=None)
        CLIENT.trapeze("delete", name)


# As systemd does it: descriptors from 3 on, and the process's own number.
ACTIVATE = """
import os, sys
for number, fd in enumerate(sys.argv[1].split(",")):
    os.dup2(int(fd), 3 + number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def start_activated(sockets, notify, *options):
    env = {**os.environ, "LISTEN_FDS": str(len(sockets)), "NOTIFY_SOCKET": notify}
    fds = [opened.fileno() for opened in sockets]
    assert min(fds) > 8  # so that none is overwritten by those that they become
    return subprocess.Popen([sys.executable, "-c", ACTIVATE, ",".join(map(str, fds)), TRAPEZE,
                             "daemon", "--verbose", "--store", CLIENT.store, *options], env=env,
                            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            pass_fds=fds)


def high(opened):
    return socket.socket(fileno=fcntl.fcntl(opened.detach(), fcntl.F_DUPFD, 20))


def listening(path):
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    opened = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    opened.bind(path)
    os.chmod(path, 0o600)
    opened.listen()
    return high(opened)


def test_sockets_of_a_service_manager():
    with contextlib.suppress(OSError):
        CLIENT.kill_daemon(signal.SIGTERM)
    os.makedirs(CLIENT.store, mode=0o700, exist_ok=True)
    path = f"{CLIENT.store}/daemon.sock"
    local = listening(path)
    tcp = socket.create_server(("127.0.0.1", 0))
    port = tcp.getsockname()[1]
    tcp = high(tcp)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind("\0trapeze-test-%d" % os.getpid())
    notify.settimeout(LIMIT_S)
    for _ in range(2):  # the sockets outlive the daemon
        daemon = start_activated([local, tcp], "@trapeze-test-%d" % os.getpid(), "--insecure")
        assert notify.recv(100) == b"READY=1"
        assert CLIENT.raw("GET", "/v1/version")[1]["pid"] == daemon.pid
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /v1/version HTTP/1.0\r\n\r\n")
            assert b" 401 " in client.recv(20)
        daemon.send_signal(signal.SIGTERM)
        assert notify.recv(100) == b"STOPPING=1"
        assert daemon.wait(timeout=LIMIT_S) == 0, daemon.stderr.read()
        daemon.stderr.close()
        assert os.path.exists(path)
    # Somebody else's descriptors are not ours.
    env = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1", "TRAPEZE_HOME": CLIENT.store}
    local.close()
    os.remove(path)
    assert json.loads(CLIENT.trapeze("list", "--json", env=env).stdout) == {"instances": []}
    CLIENT.kill_daemon(signal.SIGTERM)
    # What makes no sense is said.
    with start_activated([high(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))], "") as daemon:
        assert daemon.wait(timeout=LIMIT_S) == USAGE
        assert "of no use here" in daemon.stderr.read()
    with start_activated([tcp], "") as daemon:  # TCP, and no word of TLS
        assert daemon.wait(timeout=LIMIT_S) == USAGE
        assert "needs TLS" in daemon.stderr.read()


def test_an_idle_daemon_ends():
    """As systemd's socket units: who finds nobody at the socket starts the daemon."""
    with contextlib.suppress(OSError):
        CLIENT.kill_daemon(signal.SIGTERM)
    CLIENT.refuses(USAGE, "service manager", arguments=["daemon", "--idle-exit", "1"])
    CLIENT.refuses(USAGE, "--idle-exit", arguments=["daemon", "--idle-exit", "-1"])
    local = listening(f"{CLIENT.store}/daemon.sock")
    daemons, stop = [], threading.Event()

    def manager():
        while not stop.is_set():
            if not select.select([local], [], [], 0.1)[0]:
                continue
            daemon = start_activated([local], "", "--idle-exit", "1")
            daemons.append(daemon)
            daemon.wait()

    thread = threading.Thread(target=manager)
    thread.start()
    try:
        CLIENT.trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32", "--restart", "always")
        daemons[0].wait(timeout=LIMIT_S)
        assert daemons[0].returncode == 0
        # Every one of these starts another; at the seams nothing gets lost, whatever the pause.
        for step in range(12 if FULL else 3):
            assert [row["name"] for row in CLIENT.list()] == ["a"]
            time.sleep(0.9 + 0.05 * step)
        count = len(daemons)
        assert count > 1
        # Not while a machine runs or waits for its next start, or a client is connected.
        CLIENT.trapeze("start", "a")
        pid = CLIENT.pid_of_daemon()
        time.sleep(3)
        assert CLIENT.pid_of_daemon() == pid
        CLIENT.trapeze("stop", "--force", "a")
        connection = CLIENT.connection()
        connection.request("GET", "/v1/events?after=1000000&wait=3")
        assert json.loads(connection.getresponse().read()) == {"events": []}
        pid = CLIENT.pid_of_daemon()
        connection.request("GET", "/v1/version")
        assert json.loads(connection.getresponse().read())["pid"] == pid
        connection.close()
        until(lambda: daemons[-1].poll() is not None)
        CLIENT.trapeze("delete", "a")
        until(lambda: daemons[-1].poll() is not None)
    finally:
        stop.set()
        thread.join(LIMIT_S)
        for daemon in daemons:
            daemon.terminate()
            assert daemon.wait(timeout=LIMIT_S) == 0, daemon.stderr.read()
            daemon.stderr.close()
        local.close()
        os.remove(f"{CLIENT.store}/daemon.sock")


def test_a_daemon_that_ends_under_a_command():
    """What it has not taken, or what changes nothing, the next one is asked."""
    path = f"{CLIENT.store}/daemon.sock"

    def dying(behaviour, *arguments, status=0):
        with contextlib.suppress(OSError):
            CLIENT.kill_daemon(signal.SIGTERM)
        server = listening(path)

        def die():
            link = server.accept()[0]
            behaviour(link)
            os.remove(path)
            server.close()
            link.close()

        thread = threading.Thread(target=die)
        thread.start()
        done = CLIENT.trapeze(*arguments, status=status)
        thread.join(LIMIT_S)
        return done

    def take(link):
        text = b""
        while b"\r\n\r\n" not in text:
            text += link.recv(65536)
        head, body = text.split(b"\r\n\r\n", 1)
        length = re.search(rb"Content-Length: (\d+)", head)
        while length and len(body) < int(length.group(1)):
            body += link.recv(65536)

    def put_off(link):
        take(link)
        link.sendall(b'HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 13'
                     b'\r\n\r\n{"error":"x"}')

    def unread(link):
        select.select([link], [], [])

    create = ["create", "--firmware", LOOP_ELF, "-m", "32"]
    dying(unread, *create, "a")
    dying(put_off, *create, "b")
    # It may be there or not; who asks again does not know either.
    done = dying(take, *create, "c", status=HOST)
    assert "middle of its answer" in done.stderr, done
    for behaviour in unread, take, put_off:
        rows = json.loads(dying(behaviour, "list", "--json").stdout)["instances"]
        assert sorted(row["name"] for row in rows) == ["a", "b"]
    dying(take, "export", "a", os.path.join(FOLDER.name, "exported"))
    for name in "ab":
        CLIENT.trapeze("delete", name)


def test_units():
    if not shutil.which("systemd-analyze"):
        raise tap.Skip("systemd-analyze is not installed")
    for kind in "system", "user":
        folder = os.path.join(FOLDER.name, kind)
        os.mkdir(folder)
        for unit in "trapeze.service", "trapeze.socket":
            with open(f"{BUILD}/systemd/{kind}-{unit}", encoding="utf-8") as file:
                text = file.read()
            assert "@" not in text.replace("# SPDX", ""), text
            with open(f"{folder}/{unit}", "w", encoding="utf-8") as file:
                file.write(re.sub(r"ExecStart=\S+", "ExecStart=" + TRAPEZE, text))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
                               *(["--user"] if kind == "user" else []),
                               f"{folder}/trapeze.service", f"{folder}/trapeze.socket"],
                              capture_output=True, text=True, timeout=LIMIT_S, check=False,
                              env={**os.environ, "XDG_RUNTIME_DIR": FOLDER.name})
        said = [line for line in done.stderr.splitlines() if "trapeze" in line]
        assert not said, done
        if done.returncode != 0:
            raise tap.Skip(f"systemd-analyze does not work here: {done.stderr.strip()}")


def test_logs_stay_small():
    CLIENT.trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32")
    CLIENT.trapeze("start", "a")
    logs = [f"{CLIENT.store}/daemon.log", f"{CLIENT.store}/instances/a/worker.log"]
    for log in logs:
        with open(log, "ab") as file:
            file.write(b"a line\n" * 200000 + b"the last line\n")
    until(lambda: all(os.path.getsize(log) < 1000 for log in logs))
    for log in logs:
        with open(log + ".1", "rb") as file:
            kept = file.read()
        assert len(kept) == 1 << 20 and kept.endswith(b"the last line\n"), len(kept)
    CLIENT.trapeze("stop", "--force", "a")
    CLIENT.trapeze("delete", "a")


def stamps_of(path):
    with open(path, encoding="utf-8") as file:
        return [re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z trapeze.*", line.rstrip())
                is not None for line in file]


def journal_of_a_daemon():
    """The journal's socket is ours. Its daemon's standard error is "the journal", too."""
    folder = "/run/systemd/journal"
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    os.makedirs(folder)
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(folder + "/socket")
    journal.settimeout(LIMIT_S)

    def entry(wanted):
        while True:
            fields = dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())
            assert fields["SYSLOG_IDENTIFIER"] == "trapeze" and fields["TRAPEZE_INSTANCE"] == "a"
            if wanted.items() <= fields.items():
                return fields

    reading, writing = os.pipe()
    status = os.fstat(writing)
    env = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    with subprocess.Popen([TRAPEZE, "daemon", "--store", CLIENT.store], env=env, stderr=writing,
                          stdin=subprocess.DEVNULL) as daemon:
        until(lambda: os.path.exists(f"{CLIENT.store}/daemon.sock"))
        CLIENT.trapeze("start", "a")
        entry({"TRAPEZE_EVENT": "start"})
        with open(f"{CLIENT.store}/instances/a/worker.log", "a", encoding="utf-8") as file:
            file.write("trapeze: warning: the guest is odd\n")
        entry({"TRAPEZE_SOURCE": "worker", "PRIORITY": "4",
               "MESSAGE": "trapeze: warning: the guest is odd"})
        CLIENT.trapeze("stop", "--force", "a")
        entry({"TRAPEZE_EVENT": "ended"})
        daemon.send_signal(signal.SIGTERM)
    os.close(reading)


def test_journal():
    CLIENT.trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32")
    CLIENT.kill_daemon(signal.SIGTERM)
    in_namespace(journal_of_a_daemon)
    CLIENT.trapeze("delete", "a")


def test_lines_have_a_time():
    CLIENT.trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32")
    CLIENT.kill_daemon(signal.SIGTERM)
    os.chmod(f"{CLIENT.store}/catalogue.db", 0o600)
    with open(f"{CLIENT.store}/catalogue.db", "r+b") as file:
        file.write(b"\xff" * 5000)  # it says so
    os.truncate(f"{CLIENT.store}/daemon.log", 0)
    CLIENT.trapeze("start", "a")
    CLIENT.trapeze("stop", "--force", "a")
    stamps = stamps_of(f"{CLIENT.store}/daemon.log")
    assert stamps and all(stamps), stamps
    CLIENT.trapeze("delete", "a")


def test_a_flood_of_states():
    """A worker of ours that changes its state without end: the events stay few, and tell so."""
    CLIENT.trapeze("create", "a", "--firmware", LOOP_ELF, "-m", "32")
    CLIENT.kill_daemon(signal.SIGTERM)
    worker = FakeWorker(f"{CLIENT.store}/instances/a")

    def flood():
        worker.accept()
        with contextlib.suppress(OSError):
            worker.send({"trapeze": "worker", "protocol": 1, "pid": 1})
            for number in range(5000):
                worker.send({"event": "state", "state": "paused" if number % 2 else "running"})
            while worker.link.recv(1000):
                pass

    thread = threading.Thread(target=flood)
    thread.start()

    def states():
        return [e for e in CLIENT.api("GET", "/v1/events")["events"]
                if e["instance"] == "a" and e["type"] == "state"]

    def changes():
        return sum(event["detail"].get("left-out", 1) for event in states())

    try:
        CLIENT.trapeze("list")  # starts a daemon, which adopts it
        until(lambda: changes() >= 5000)  # none is forgotten
        told = states()
        assert len(told) * 10 < 5000, len(told)
        assert "left-out" in told[-1]["detail"] and told[-1]["detail"]["state"] == "paused", told
        CLIENT.kill_daemon(signal.SIGTERM)
        thread.join(LIMIT_S)
    finally:  # who holds the lock would be stopped as a worker
        worker.server.close()
        worker.ends()
    CLIENT.trapeze("delete", "a")


def main():
    status = tap.main([test for name, test in list(globals().items()) if name.startswith("test_")])
    with contextlib.suppress(OSError):
        for row in CLIENT.list():
            CLIENT.trapeze("stop", "--force", row["name"], status=None)
        CLIENT.kill_daemon(signal.SIGTERM)
    return status


if __name__ == "__main__":
    sys.exit(main())
