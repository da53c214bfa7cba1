#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Firecracker's API as its clients use it: over its socket, started by its name.

    firecracker.py TRAPEZE
"""
import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

import namespace
import tap
from kernels import bzimage
from machine import FULL, Machine, image, scratch

TRAPEZE = os.path.abspath(sys.argv[1])
TINY = image("tiny", TRAPEZE)
BOOT = {"kernel_image_path": TINY + "/Image", "initrd_path": TINY + "/initrd",
        "boot_args": "console=ttyS0"}
USAGE, HOST_FAILURE, INTERRUPTED = 120, 121, 130


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=600)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def program():
    """Ours by the name that clients look for."""
    path = scratch("firecracker")
    if not os.path.lexists(path):
        os.symlink(TRAPEZE, path)
    return path


class MicroVM(Machine):
    def __init__(self, *options, api=True):  # pylint: disable=super-init-not-called
        self.socket = scratch(f"{time.monotonic_ns()}.api")
        where = ["--api-sock", self.socket] if api else ["--no-api"]
        self.process = subprocess.Popen([program(), *where, *options], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.log, self.at = b"", 0
        while api and not self.listens():
            assert self.process.poll() is None, self.tail()
            time.sleep(0.01)

    def listens(self):
        with socket.socket(socket.AF_UNIX) as trial:
            return trial.connect_ex(self.socket) == 0

    def ask(self, method, path, body=None):
        connection = Connection(self.socket)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, json.loads(data) if data else None

    def put(self, path, **body):
        self.accepts("PUT", path, body)

    def accepts(self, method, path, body):
        answer = self.ask(method, path, body)
        assert answer == (204, None), (path, body, answer)

    def refuses(self, method, path, body, part):
        status, answer = self.ask(method, path, body)
        assert status == 400 and list(answer) == ["fault_message"], (status, answer)
        assert part in answer["fault_message"], answer

    def get(self, path):
        status, answer = self.ask("GET", path)
        assert status == 200, (path, status, answer)
        return answer


def make_disk(name="disk.img", text=b"trapeze!", count=131072):
    path = scratch(name)
    with open(path, "wb") as out:
        out.write(text * count)
    return path


def is_locked(path, kind=fcntl.F_WRLCK):
    """As another machine would have it."""
    with open(path, "r+b") as file:
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, 0, 0, 0))
            return False
        except OSError:
            return True


def sectors(vm):
    return int(vm.run("cat /sys/class/block/vda/size"))


def replace_drive(vm, path):
    vm.accepts("PATCH", "/drives/data", {"drive_id": "data", "path_on_host": path})


def first_bytes(vm):
    return vm.run("dd if=/dev/vda bs=8 count=1 iflag=direct 2>/dev/null || "
                  "{ echo 3 >/proc/sys/vm/drop_caches; head -c 8 /dev/vda; }; echo").strip()


def drive_gets_other_files(vm, old):
    """Another file, refused ones, the same one after it has grown, one for a machine that is paused."""
    new, third = make_disk("new.img", b"another!", 1 << 18), make_disk("third.img", b"a third!", 64)
    patch = {"drive_id": "data"}
    assert sectors(vm) == 2048 and is_locked(old) and not is_locked(new)
    replace_drive(vm, new)
    assert vm.get("/vm/config")["drives"][0]["path_on_host"] == new
    assert is_locked(new) and not is_locked(old)
    vm.run("until [ $(cat /sys/class/block/vda/size) = 4096 ]; do true; done")
    assert first_bytes(vm) == "another!"
    with open(old, "r+b") as file: # somebody writes to it
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        vm.refuses("PATCH", "/drives/data", dict(patch, path_on_host=old), "is writing to it")
    vm.refuses("PATCH", "/drives/data", dict(patch, path_on_host="/not/there"), "No such file")
    vm.refuses("PATCH", "/drives/data", dict(patch, path_on_host=make_disk("odd.img", b"x", 513)), "multiple of 512")
    assert vm.get("/vm/config")["drives"][0]["path_on_host"] == new and first_bytes(vm) == "another!"
    os.truncate(new, 1 << 22)
    replace_drive(vm, new)
    assert is_locked(new)
    vm.run("until [ $(cat /sys/class/block/vda/size) = 8192 ]; do true; done")
    vm.accepts("PATCH", "/vm", {"state": "Paused"})
    replace_drive(vm, third)
    vm.accepts("PATCH", "/vm", {"state": "Resumed"})
    vm.run("until [ $(cat /sys/class/block/vda/size) = 1 ]; do true; done")
    assert first_bytes(vm) == "a third!"


def test_a_client_configures_and_runs_a_machine():
    log, metrics, vsock = scratch("log"), scratch("metrics"), scratch("v.sock")
    with MicroVM("--id", "web", "--boot-timer") as vm:
        assert vm.get("/")["state"] == "Not started" and vm.get("/")["id"] == "web"
        vm.put("/logger", log_path=log, level="Info")
        vm.put("/metrics", metrics_path=metrics)
        vm.put("/machine-config", vcpu_count=2, mem_size_mib=128)
        vm.refuses("PUT", "/machine-config", {"vcpu_count": 2}, "missing field `mem_size_mib`")
        vm.put("/boot-source", **BOOT)
        vm.put("/drives/data", drive_id="data", is_root_device=False, path_on_host=make_disk(),
               is_read_only=True)
        vm.put("/vsock", guest_cid=3, uds_path=vsock)
        vm.put("/balloon", amount_mib=0, deflate_on_oom=True, stats_polling_interval_s=1)
        vm.put("/entropy", rate_limiter={"bandwidth": {"size": 1 << 20, "refill_time": 100},
                                         "ops": {"size": 1000, "refill_time": 100}})
        vm.put("/serial", rate_limiter={"size": 1 << 30, "refill_time": 100})
        vm.refuses("PATCH", "/vm", {"state": "Paused"}, "before starting")
        vm.put("/actions", action_type="InstanceStart")
        vm.refuses("PUT", "/boot-source", BOOT, "after starting")
        vm.shell()
        assert vm.run("nproc").strip() == "2"
        assert "virtio_mmio" in vm.run("readlink -f /sys/class/block/vda")
        assert vm.run("head -c 8 /dev/vda; echo").strip() == "trapeze!"
        assert os.path.exists(vsock)
        drive_gets_other_files(vm, scratch("disk.img"))
        vm.accepts("PATCH", "/vm", {"state": "Paused"})
        assert vm.get("/")["state"] == "Paused"
        vm.accepts("PATCH", "/vm", {"state": "Resumed"})
        vm.accepts("PATCH", "/drives/data", {"drive_id": "data", "rate_limiter": {
            "ops": {"size": 1000, "refill_time": 1000}}})
        vm.accepts("PATCH", "/balloon", {"amount_mib": 16})
        assert vm.get("/balloon/statistics")["target_mib"] == 16
        assert vm.get("/vm/config")["machine-config"]["vcpu_count"] == 2
        vm.put("/actions", action_type="FlushMetrics")
        vm.run("devmem 0x103000 8 7")
        vm.run("devmem 0x103000 8 123")
        vm.poweroff()
        assert not os.path.exists(vm.socket)
    with open(log, encoding="utf-8") as file:
        lines = file.read()
    booted = re.findall(r"Guest-boot-time = +(\d+) us (\d+) ms, +(\d+) CPU us (\d+) CPU ms\n", lines)
    assert len(booted) == 1 and int(booted[0][0]) // 1000 == int(booted[0][1]) > 0, lines
    assert int(booted[0][2]) > 0, lines
    assert "[web] PUT /actions: 204" in lines and "400 An error occurred" in lines, lines
    with open(metrics, encoding="utf-8") as file:
        line = json.loads(file.readline())
    assert line["api_server"]["failures"] == 6 and line["uart"] == {"rate_limiter_dropped_bytes": 0}, line


COUNT = "(i=0; while true; do i=$((i+1)); echo $i > /count.new; mv /count.new /count; done) & true"


def counted(vm):
    return int(vm.run("cat /count"))


def counts_on(vm, before):
    """From where it was, at least; what it is at."""
    first = counted(vm)
    assert first >= before, (first, before)
    while counted(vm) == first:
        pass
    return first


def loaded(load):
    """A new process that has a snapshot."""
    vm = MicroVM()
    vm.accepts("PUT", "/snapshot/load", load)
    return vm


def shell_again(vm):
    vm.send("\n")
    vm.shell()


def control(vm, verb):
    """What is said of a verb that its worker refuses."""
    sockets = subprocess.run([TRAPEZE, "control"], capture_output=True, text=True, check=True).stdout
    path = re.search(rf"\S*/{vm.process.pid}\.sock", sockets).group()
    done = subprocess.run([TRAPEZE, "control", path, verb], capture_output=True, text=True, check=False)
    assert done.returncode == HOST_FAILURE, done
    return done.stderr


def test_a_snapshot_is_loaded_by_new_processes():
    """As clients do it: pause, create, kill; then in new processes load and resume, twice from the same files;
    and changes on top of it."""
    state, memory = scratch("vmstate"), scratch("mem")
    files = {"snapshot_path": state, "mem_file_path": memory}
    load = {"snapshot_path": state, "mem_backend": {"backend_type": "File", "backend_path": memory}}
    disk = make_disk()
    with MicroVM() as vm:
        vm.put("/machine-config", vcpu_count=1, mem_size_mib=96, track_dirty_pages=True)
        vm.put("/boot-source", **BOOT)
        vm.put("/drives/data", drive_id="data", is_root_device=False, path_on_host=disk,
               is_read_only=True)
        vm.put("/vsock", guest_cid=3, uds_path=scratch("s.sock"))
        vm.put("/actions", action_type="InstanceStart")
        vm.shell()
        vm.run(COUNT)
        vm.run("until [ -e /count ]; do true; done")
        vm.refuses("PUT", "/snapshot/create", files, "unavailable while running")
        vm.accepts("PATCH", "/vm", {"state": "Paused"})
        vm.refuses("PUT", "/snapshot/create", dict(files, mem_file_path="/dev/null"), "regular")
        vm.refuses("PUT", "/snapshot/create", dict(files, mem_file_path=state), "two files")
        vm.refuses("PUT", "/snapshot/create", dict(files, mem_file_path="/not/there/m"), "/not/there")
        assert not os.path.exists(state)
        vm.accepts("PUT", "/snapshot/create", files)
        assert os.path.getsize(memory) == 96 << 20 and os.stat(memory).st_blocks << 9 < 80 << 20
        vm.accepts("PATCH", "/vm", {"state": "Resumed"})
        counts_on(vm, 1)
        vm.process.kill()
        vm.process.wait()
    before = 1
    with open(memory, "rb") as file:
        whole = hashlib.sha256(file.read()).digest()
    for resume in (True, False):
        with loaded(dict(load, resume_vm=resume, track_dirty_pages=True)) as vm:
            assert vm.get("/")["state"] == ("Running" if resume else "Paused")
            vm.refuses("PUT", "/boot-source", BOOT, "after starting")
            assert "cannot start anew" in control(vm, "reset")
            assert vm.get("/vm/config")["drives"][0]["path_on_host"] == disk
            vm.accepts("PATCH", "/vm", {"state": "Resumed"})
            shell_again(vm)
            counts_on(vm, before)
            assert vm.run("head -c 8 /dev/vda; echo").strip() == "trapeze!"
            vm.run("echo changed > /changed")
            if resume:
                vm.poweroff()
                continue
            before = counted(vm)
            vm.accepts("PATCH", "/vm", {"state": "Paused"})
            changes, both = dict(files, snapshot_type="Diff"), scratch("mem.2")
            shutil.copyfile(memory, both)
            changes["mem_file_path"] = both
            changes["snapshot_path"] = scratch("vmstate.2")
            vm.accepts("PUT", "/snapshot/create", changes) # onto what is there
            alone = dict(changes, mem_file_path=scratch("mem.diff"))
            vm.accepts("PUT", "/snapshot/create", alone)
            # Nothing has run since: there is nothing in it but holes.
            assert os.stat(alone["mem_file_path"]).st_blocks << 9 < 1 << 20
            vm.process.terminate()
            vm.finish(INTERRUPTED)
    with open(memory, "rb") as file:
        assert hashlib.sha256(file.read()).digest() == whole # none of them wrote to it
    with loaded({"snapshot_path": scratch("vmstate.2"), "mem_file_path": scratch("mem.2"),
                 "resume_vm": True}) as vm:
        shell_again(vm)
        counts_on(vm, before)
        assert vm.run("cat /changed").strip() == "changed"
        vm.poweroff()
    with MicroVM() as vm:
        vm.refuses("PUT", "/snapshot/load", dict(load, snapshot_path=memory), "no suspended machine")
        assert "snapshot" in vm.finish(HOST_FAILURE)
    with open(memory, "r+b") as file:
        file.truncate(95 << 20)
    with MicroVM() as vm:
        vm.refuses("PUT", "/snapshot/load", load, "not as large")
        vm.finish(HOST_FAILURE)


def write_something(vm, turn):
    vm.run(f"echo {turn} >/turn; dd if=/dev/urandom of=/random bs=64k count=64 2>/dev/null; md5sum /random >/sum")


def killed_meanwhile(vm, create, most):
    """At some moment of a request, within so many seconds."""
    def ask():
        try:
            vm.ask("PUT", "/snapshot/create", create)
        except (OSError, http.client.HTTPException):
            pass
    request = threading.Thread(target=ask)
    request.start()
    time.sleep(random.uniform(0, most))
    vm.process.kill()
    request.join()


def test_a_snapshot_is_whole_or_not_there():
    """Whoever writes one is killed at any moment: what is loaded then is the one before or the new one."""
    state, memory = scratch("killed.state"), scratch("killed.mem")
    create = {"snapshot_path": state, "mem_file_path": memory}
    load = dict(create, resume_vm=True, track_dirty_pages=True)
    kept = [(path, path + ".kept") for path in (state, memory)]
    with MicroVM() as vm:
        vm.put("/machine-config", vcpu_count=1, mem_size_mib=96)
        vm.put("/boot-source", **BOOT)
        vm.put("/actions", action_type="InstanceStart")
        vm.shell()
        write_something(vm, 0)
        vm.accepts("PATCH", "/vm", {"state": "Paused"})
        begin = time.monotonic()
        vm.accepts("PUT", "/snapshot/create", create)
        most = 1.2 * (time.monotonic() - begin)
        vm.process.kill()
    for path, copy in kept:
        shutil.copyfile(path, copy)
    last = kept_turn = 0
    for number in range(50 if FULL else 3):
        with MicroVM() as vm:
            status, answer = vm.ask("PUT", "/snapshot/load", load)
            if status != 204: # between the two names' renaming
                assert not os.path.exists(state) and "No such file" in answer["fault_message"], answer
                vm.finish(HOST_FAILURE)
                for path, copy in kept:
                    shutil.copyfile(copy, path)
                last = kept_turn
                continue
            shell_again(vm)
            turn = int(vm.run("cat /turn"))
            assert turn in (last, last + 1), (turn, last)
            vm.run("md5sum -c /sum")
            last = turn
            write_something(vm, last + 1)
            vm.accepts("PATCH", "/vm", {"state": "Paused"})
            killed_meanwhile(vm, dict(create, snapshot_type=("Full", "Diff")[number % 2]), most)


def metadata_by_wget(vm, path, header=None):
    """Busybox' wget closes after each answer."""
    option = f'--header "{header}" ' if header else ""
    return vm.run(f"wget -q -O - {option}http://169.254.169.254{path} 2>&1; echo").strip()


def request_by_nc(vm, text):
    """The whole answer, to requests that wget cannot make."""
    return vm.run(f"printf '{text}' | nc 169.254.169.254 80")


def test_metadata():
    """Documents of both versions over a tap device, whose other traffic goes on; after a load, too."""
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        raise tap.Skip("tap devices need root and /dev/net/tun")
    if not namespace.unshare(namespace.CLONE_NEWNET):
        raise tap.Skip("this machine allows no network namespaces")
    for words in (["tuntap", "add", "dev", "tap0", "mode", "tap"],
                  ["addr", "add", "172.16.0.1/24", "dev", "tap0"], ["link", "set", "tap0", "up"]):
        subprocess.run(["ip", *words], check=True)
    state, memory = scratch("mmds.state"), scratch("mmds.mem")
    document = {"latest": {"meta-data": {"name": "web", "large": "x" * 20000}}}
    with MicroVM("--id", "mmds") as vm:
        vm.put("/machine-config", vcpu_count=1, mem_size_mib=96)
        vm.put("/boot-source", **BOOT)
        vm.put("/network-interfaces/eth0", iface_id="eth0", host_dev_name="tap0",
               guest_mac="02:00:00:00:00:01")
        vm.put("/mmds/config", network_interfaces=["eth0"], version="V2")
        vm.accepts("PUT", "/mmds", document)
        vm.put("/actions", action_type="InstanceStart")
        vm.shell()
        vm.run("ip addr add 172.16.0.2/24 dev eth0; ip link set eth0 up; "
               "ip route add 169.254.169.254 dev eth0")
        vm.accepts("PATCH", "/network-interfaces/eth0", {"iface_id": "eth0", "rx_rate_limiter": {
            "ops": {"size": 500, "refill_time": 100}}})
        vm.run("ping -c 1 172.16.0.1")
        assert "401" in request_by_nc(vm, r"GET /latest HTTP/1.1\r\nConnection: close\r\n\r\n")
        token = request_by_nc(vm, r"PUT /latest/api/token HTTP/1.1\r\nConnection: close\r\n"
                                  r"X-metadata-token-ttl-seconds: 600\r\n\r\n").split()[-1]
        header = "X-metadata-token: " + token
        assert metadata_by_wget(vm, "/latest/meta-data/name", header) == "web"
        assert metadata_by_wget(vm, "/latest/meta-data", header).split() == ["large", "name"]
        assert metadata_by_wget(vm, "/latest/meta-data/large", header) == "x" * 20000
        vm.accepts("PATCH", "/mmds", {"latest": {"meta-data": {"name": "shop"}}})
        assert metadata_by_wget(vm, "/latest/meta-data/name", header) == "shop"
        vm.run("ping -c 1 172.16.0.1")
        vm.accepts("PATCH", "/vm", {"state": "Paused"})
        vm.put("/snapshot/create", snapshot_path=state, mem_file_path=memory)
        vm.process.terminate()
        vm.finish(INTERRUPTED)
    with loaded({"snapshot_path": state, "mem_file_path": memory, "resume_vm": True}) as vm:
        shell_again(vm)
        assert vm.get("/mmds") == {} # that is in no snapshot
        vm.accepts("PUT", "/mmds", document)
        assert "401" in request_by_nc(vm, r"GET / HTTP/1.1\r\nConnection: close\r\n"
                                          rf"X-metadata-token: {token}\r\n\r\n") # another life
        token = request_by_nc(vm, r"PUT /latest/api/token HTTP/1.1\r\nConnection: close\r\n"
                                  r"X-aws-ec2-metadata-token-ttl-seconds: 9000\r\n\r\n").split()[-1]
        assert metadata_by_wget(vm, "/latest/meta-data/name", "X-metadata-token: " + token) == "web"
        vm.poweroff()


def test_a_start_that_fails_can_be_mended():
    nothing = scratch("nothing")
    with open(nothing, "wb") as out:
        out.write(b"no kernel" * 100)
    with MicroVM() as vm:
        vm.put("/boot-source", kernel_image_path=nothing)
        vm.refuses("PUT", "/actions", {"action_type": "InstanceStart"}, "nothing")
        assert vm.get("/")["state"] == "Not started"
        vm.put("/boot-source", **BOOT)
        vm.put("/vsock", guest_cid=3, uds_path="/not/there/v.sock")
        vm.refuses("PUT", "/actions", {"action_type": "InstanceStart"}, "/not/there")
        vm.process.terminate()
        vm.finish(INTERRUPTED)
        assert not os.path.exists(vm.socket)


def test_an_x86_kernel_without_kvm():
    done = subprocess.run([TRAPEZE, "host", "--json"], capture_output=True, check=True)
    if json.loads(done.stdout)["kvm"]["offer"] == "yes":
        raise tap.Skip("KVM runs guests here")
    kernel = scratch("bzImage")
    with open(kernel, "wb") as out:
        out.write(bzimage())
    with MicroVM() as vm:
        vm.put("/boot-source", kernel_image_path=kernel, boot_args="console=ttyS0")
        vm.refuses("PUT", "/actions", {"action_type": "InstanceStart"},
                   "x86_64 guests run on KVM alone")
        vm.put("/boot-source", **BOOT)
        vm.put("/actions", action_type="InstanceStart")
        vm.process.terminate()
        vm.finish(INTERRUPTED)


def test_resources_from_a_file():
    resources = scratch("resources.json")

    def write(**what):
        with open(resources, "w", encoding="utf-8") as out:
            json.dump(what, out)

    write(**{"boot-source": dict(BOOT, boot_args="console=ttyS0 trapeze.none"),
             "machine-config": {"vcpu_count": 1, "mem_size_mib": 96},
             "drives": [{"drive_id": "d", "is_root_device": False, "path_on_host": make_disk()}]})
    with MicroVM("--config-file", resources, api=False) as vm:
        vm.shell()
        assert "trapeze.none" in vm.run("cat /proc/cmdline")
        assert vm.run("nproc").strip() == "1"
        vm.poweroff()
    template = scratch("template.json")
    with open(template, "w", encoding="utf-8") as out:
        json.dump({"msr_modifiers": [{"addr": "0x10a", "bitmap": "2"}]}, out)
    for what, part in [({"drives": [{"drive_id": "d"}]}, "missing field"), ({"disk": {}}, "'disk'"),
                       ({"cpu-config": "/not/there"}, "/not/there"), ({"cpu-config": template}, "[2] as a bitmap"),
                       ({}, "without kernel configuration")]:
        write(**what)
        with MicroVM("--config-file", resources, api=False) as vm:
            errors = vm.finish(USAGE)
            assert part in errors, errors


def test_options_as_clients_and_jailers_give_them():
    log, metrics = scratch("log2"), scratch("metrics2")
    done = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True)
    assert re.match(r"Firecracker v\d+\.\d+\.\d+\n", done.stdout), done
    options = ["--id", "x", "--start-time-us", "1", "--start-time-cpu-us", "2",
               "--parent-cpu-time-us", "3", "--log-path", log, "--level", "Info", "--show-level",
               "--show-log-origin", "--metrics-path", metrics, "--http-api-max-payload-size", "99"]
    with MicroVM(*options) as vm:
        vm.refuses("PUT", "/metrics", {"metrics_path": metrics}, "Reinitialization")
        vm.put("/actions", action_type="FlushMetrics")
        assert vm.ask("PUT", "/boot-source", {"x": "y" * 100})[0] == 413
        vm.process.terminate()
        vm.finish(INTERRUPTED)
    with open(log, encoding="utf-8") as file:
        assert "[x] PUT /metrics: 400 Reinit" in file.read()
    with open(metrics, encoding="utf-8") as file:
        assert json.loads(file.readline())["api_server"]["failures"] == 1
    for bad, part in (["--log-path", "/not/there/log"], "/not/there/log"), (
            ["--http-api-max-payload-size", "0"], "--http-api-max-payload-size"):
        done = subprocess.run([program(), "--api-sock", scratch("no.api"), *bad], text=True,
                              capture_output=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode in (USAGE, HOST_FAILURE) and part in done.stderr, done


def test_what_cannot_be_served():
    with MicroVM() as vm:
        done = subprocess.run([program(), "--api-sock", vm.socket], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == HOST_FAILURE and vm.socket in done.stderr, done
        status, answer = vm.ask("PUT", "/machine-config", {"x": "y" * 60000})
        assert status == 413 and "too large" in answer["fault_message"], (status, answer)
        vm.process.terminate()
        vm.finish(INTERRUPTED)
    document = scratch("metadata.json")
    with open(document, "w", encoding="utf-8") as out:
        json.dump({"a": ["b"]}, out)
    with MicroVM("--metadata", document) as vm:
        assert vm.get("/mmds") == {"a": ["b"]}
        vm.process.terminate()
        vm.finish(INTERRUPTED)
    for options, part in [(["--metadata", document, "--mmds-size-limit", "5"], "doesn't fit"),
                          (["--mmds-size-limit", "many"], "--mmds-size-limit"),
                          (["--metadata", "/not/there"], "/not/there")]:
        done = subprocess.run([program(), "--api-sock", scratch("m.sock"), *options], text=True,
                              capture_output=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode != 0 and part in done.stderr, done
    done = subprocess.run([program(), "--no-api"], capture_output=True, text=True, check=False)
    assert done.returncode == USAGE and "--config-file" in done.stderr, done


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
