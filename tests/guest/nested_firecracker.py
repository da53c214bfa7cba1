#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Linux on x86-64 by Firecracker's API alone, on a host whose processor QEMU emulates (kvm_host.py).

    nested_firecracker.py TRAPEZE

A client, curl, configures and starts it, keeps it in files and has it go on in other processes. As in
nested.py a test takes the guest as the one before has left it; full tier only, as it costs two boots.
"""
import json
import os
import re
import shutil
import sys

import tap
from kvm_host import KvmHost, libraries
from machine import FULL, SHELL_PROMPT, Shared, image

TRAPEZE = os.path.abspath(sys.argv[1])
CURL = shutil.which("curl") or sys.exit("nested_firecracker.py: needs curl")
HOST = Shared(lambda: KvmHost(TRAPEZE, {"/bin/curl": CURL, **libraries(CURL),
                                        "/tiny": image("tiny-x86_64", TRAPEZE)},
                              modules=["tun"]))
MEMORY_MIB = 192
DOCUMENT = {"latest": {"meta-data": {"name": "web"}}}
INTERRUPTED = 130


class MicroVM:
    """A process that serves the API; its console is one of the host's screens."""

    def __init__(self, host, number):
        self.host, self.screen, self.socket = host, host.screens[number], f"/tmp/fc{number}.api"
        self.run, self.send, self.expect = self.screen.run, self.screen.send, self.screen.expect
        host.run(f"ln -sf /bin/trapeze /bin/firecracker; rm -f {self.socket}")
        self.send(f"firecracker --api-sock {self.socket}; echo ended'='$?\n")
        host.run(f"until [ -S {self.socket} ]; do sleep 0.1; done")

    def ask(self, method, path, body=None):
        data = f"-d '{json.dumps(body)}'" if body is not None else ""
        said = self.host.run(f"curl -s -w '\\ncode=%{{http_code}}' --unix-socket {self.socket} "
                             f"-X {method} http://localhost{path} {data}; echo")
        answer, _, status = said.rpartition("code=")
        return int(status), json.loads(answer) if answer.strip() else None

    def accepts(self, method, path, body):
        answer = self.ask(method, path, body)
        assert answer == (204, None), (path, body, answer)

    def put(self, path, **body):
        self.accepts("PUT", path, body)

    def patch(self, path, **body):
        self.accepts("PATCH", path, body)

    def get(self, path):
        status, answer = self.ask("GET", path)
        assert status == 200, (path, status, answer)
        return answer

    def link(self):
        """The host's end of its interface, which is there for as long as the process."""
        self.host.run("ip addr add 172.16.0.1/24 dev fctap0; ip link set fctap0 up")

    def answers(self):
        self.send("\n")
        self.expect(SHELL_PROMPT)

    def ends(self, status=0):
        _, match = self.expect(rb"ended=(\d+)\r")
        assert int(match.group(1)) == status, self.screen.tail()
        self.expect(SHELL_PROMPT)

    def killed(self):
        self.host.run(f"kill $(pidof firecracker)")
        self.ends(INTERRUPTED)

    def by_nc(self, text):
        return self.run(f"printf '{text}\\r\\n' | nc 169.254.169.254 80")

    def metadata(self, path):
        """By a token of its own."""
        token = self.by_nc(r"PUT /latest/api/token HTTP/1.1\r\nConnection: close\r\n"
                           r"X-metadata-token-ttl-seconds: 600\r\n").split()[-1]
        return self.by_nc(rf"GET {path} HTTP/1.1\r\nConnection: close\r\n"
                          rf"X-metadata-token: {token}\r\n").split()[-1]

    def counted(self):
        return int(self.run("cat /count"))

    def counts_on(self, before):
        first = self.counted()
        assert first >= before, (first, before)
        self.run(f"until [ $(cat /count) -gt {first} ]; do sleep 0.1; done")


def started(host):
    """The guest that the tests share: its process and console change as it goes on in others."""
    if "fc" in host.guests:
        return host.guests["fc"]
    vm = MicroVM(host, 0)
    host.run("dd if=/dev/zero of=/root/drive bs=1M count=2 2>/dev/null; "
             "printf 'of the host' | dd of=/root/drive conv=notrunc 2>/dev/null; "
             "mkdir -p /tmp/www; echo from'-'the-host >/tmp/www/page; httpd -h /tmp/www")
    vm.put("/machine-config", vcpu_count=1, mem_size_mib=MEMORY_MIB, track_dirty_pages=True)
    vm.put("/boot-source", kernel_image_path="/tiny/bzImage", initrd_path="/tiny/initrd",
           boot_args="console=ttyS0 reboot=k panic=1 mitigations=off quiet")
    vm.put("/cpu-config", cpuid_modifiers=[{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
        {"register": "ecx", "bitmap": "0bxxxxxxxx0" + 23 * "x"}]}]) # no popcnt
    vm.put("/drives/d", drive_id="d", path_on_host="/root/drive", is_root_device=False)
    vm.put("/network-interfaces/eth0", iface_id="eth0", host_dev_name="fctap0",
           guest_mac="02:00:00:00:00:01")
    vm.put("/mmds/config", network_interfaces=["eth0"], version="V2")
    vm.put("/mmds", **DOCUMENT)
    vm.put("/balloon", amount_mib=0, deflate_on_oom=True, stats_polling_interval_s=1)
    vm.put("/actions", action_type="InstanceStart")
    vm.expect(rb"trapeze-tiny: ready")
    vm.expect(SHELL_PROMPT)
    vm.link()
    vm.run("ip addr add 172.16.0.2/24 dev eth0; ip link set eth0 up; "
           "ip route add 169.254.169.254 dev eth0")
    vm.run("(i=0; while sleep 0.1; do i=$((i+1)); echo $i >/count.new; mv /count.new /count; done) & true")
    vm.run("until [ -e /count ]; do sleep 0.1; done")
    host.guests["fc"] = vm
    return vm


def goes_on(host, number, state, memory):
    """In a new process; what has the same names is of this one from then on."""
    vm = host.guests["fc"] = MicroVM(host, number)
    vm.put("/snapshot/load", snapshot_path=state, mem_backend={"backend_type": "File", "backend_path": memory},
           track_dirty_pages=True)
    assert vm.get("/")["state"] == "Paused"
    vm.patch("/vm", state="Resumed")
    vm.link()
    vm.answers()
    return vm


def reaches_the_host(vm):
    return vm.run("wget -q -O - http://172.16.0.1/page").strip() == "from-the-host"


def test_a_client_starts_linux():
    """Drive, interface and balloon are at addresses that ACPI and the command line name."""
    with HOST.use() as host:
        vm = started(host)
        assert " pci=off" in vm.run("cat /proc/cmdline")
        assert " popcnt" in host.run("cat /proc/cpuinfo") and " popcnt" not in vm.run("cat /proc/cpuinfo")
        interrupts = vm.run("cat /proc/interrupts")
        assert "IO-APIC" in interrupts and "virtio" in interrupts and "PCI-MSI" not in interrupts, interrupts
        assert vm.run("head -c 11 /dev/vda; echo").strip() == "of the host"
        vm.run("printf guest | dd of=/dev/vda conv=fsync 2>/dev/null")
        assert host.run("head -c 5 /root/drive; echo").strip() == "guest"
        assert reaches_the_host(vm)
        said = vm.run("dmesg | grep -E 'ACPI.*(Error|Warning)|WARNING: CPU|BUG:' || true")
        assert said == "", said


def test_the_metadata_service():
    with HOST.use() as host:
        vm = started(host)
        assert "401" in vm.by_nc(r"GET /latest HTTP/1.1\r\nConnection: close\r\n")
        assert vm.metadata("/latest/meta-data/name") == "web"
        vm.patch("/mmds", latest={"meta-data": {"name": "shop"}})
        assert vm.metadata("/latest/meta-data/name") == "shop"


def test_a_balloon():
    with HOST.use() as host:
        vm = started(host)
        for amount in 32, 0:
            vm.patch("/balloon", amount_mib=amount)
            while vm.get("/balloon/statistics")["actual_mib"] != amount:
                host.run("sleep 0.2")
        said = vm.get("/balloon/statistics")
        assert said["total_memory"] > 0 and said["oom_kill"] == 0, said


def test_it_goes_on_in_another_process():
    """From a full snapshot: its processes, its interface and, told anew, its metadata."""
    with HOST.use() as host:
        vm = started(host)
        status, answer = vm.ask("PUT", "/snapshot/create", {"snapshot_path": "/root/s", "mem_file_path": "/root/m"})
        assert status == 400 and "while running" in answer["fault_message"], answer
        before = vm.counted()
        vm.patch("/vm", state="Paused")
        vm.put("/snapshot/create", snapshot_path="/root/s", mem_file_path="/root/m")
        vm.killed()
        vm = goes_on(host, 1, "/root/s", "/root/m")
        vm.counts_on(before)
        assert reaches_the_host(vm)
        vm.run("printf again | dd of=/dev/vda conv=fsync 2>/dev/null")
        assert host.run("head -c 5 /root/drive; echo").strip() == "again"
        assert vm.get("/mmds") == {}
        vm.put("/mmds", **DOCUMENT)
        assert vm.metadata("/latest/meta-data/name") == "web"
        assert "crng reseeded due to virtual machine fork" in vm.run("dmesg | tail -n 20")


def test_it_goes_on_from_changes():
    """What has been written since, put into the other snapshot's memory."""
    with HOST.use() as host:
        vm = started(host)
        vm.run("echo changed >/changed")
        before = vm.counted()
        vm.patch("/vm", state="Paused")
        vm.put("/snapshot/create", snapshot_path="/root/s2", mem_file_path="/root/m", snapshot_type="Diff")
        vm.killed()
        vm = goes_on(host, 0, "/root/s2", "/root/m")
        vm.counts_on(before)
        assert vm.run("cat /changed").strip() == "changed"
        assert reaches_the_host(vm)


def test_ctrl_alt_del_ends_it():
    """Linux starts again, as nobody has told it otherwise, and that is the end of such a machine."""
    with HOST.use(last=True) as host:
        vm = started(host)
        interrupts = vm.run("cat /proc/interrupts")
        assert re.search(r"IO-APIC +1-edge +i8042", interrupts), interrupts
        assert "Set 2 keyboard" in vm.run("cat /proc/bus/input/devices")
        vm.put("/actions", action_type="SendCtrlAltDel")
        vm.ends()


if __name__ == "__main__":
    if not FULL:
        print("1..0 # SKIP full tier only")
        sys.exit(0)
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
