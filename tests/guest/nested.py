#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""x86-64 guests on KVM, on a host whose processor QEMU emulates (kvm_host.py).

    nested.py TRAPEZE KVM_ENGINE

All tests have one host, and most of them one guest, in the order in which they stand here: a boot
costs 20 s of CPU time. A test of something else takes the guest as it finds it and leaves it
running; where it fails, the next one finds a new host and a new guest:

    def test_something():
        with HOST.use() as host:
            guest = web(host)
            guest.run("…")                 # in the guest's shell
            host.run("trapeze … web")      # in the host's
"""
import json
import os
import re
import shutil
import sys

import tap
from kvm_host import KvmHost, guest_initrd, libraries
from machine import SHELL_PROMPT, SOURCE, Shared, image, scratch

sys.path.insert(0, os.path.join(SOURCE, "bench"))
from microvm import payload  # noqa: E402

CURL = shutil.which("curl") or sys.exit("nested.py: needs curl")
TRAPEZE, KVM_ENGINE = (os.path.abspath(name) for name in sys.argv[1:3])
PAYLOAD = scratch("payload")
with open(PAYLOAD, "wb") as out:
    out.write(payload("x86_64"))
HOST = Shared(lambda: KvmHost(TRAPEZE, {
    "/payload": PAYLOAD, "/bin/curl": CURL, **libraries(CURL),
    "/bin/kvm_engine": KVM_ENGINE, **libraries(KVM_ENGINE),
    "/tiny": image("tiny-x86_64", TRAPEZE),
    "/tiny/initrd": guest_initrd(TRAPEZE, ["virtio_scsi", "sd_mod"])}))
WHAT = "--arch x86_64 --kernel /tiny/bzImage --initrd /tiny/initrd --memory 192M "
STORE = "/root/.local/share/trapeze"
QUIET = "--append 'console=ttyS0 quiet mitigations=off' "


class Guest:
    """A guest of `trapeze run` whose console is one of the host's screens for as long as it lives."""

    def __init__(self, host, *options, number=0):
        self.screen = host.screens[number]
        self.run, self.send, self.expect = self.screen.run, self.screen.send, self.screen.expect
        self.send(f"trapeze run {WHAT} {' '.join(options)}; echo ended'='$?\n")
        self.is_up()

    def is_up(self):
        self.expect(rb"trapeze-tiny: ready")
        self.expect(SHELL_PROMPT)

    def ends(self, status=0):
        _, match = self.expect(rb"ended=(\d+)\r")
        assert int(match.group(1)) == status, self.screen.tail()
        self.expect(SHELL_PROMPT)

    def poweroff(self):
        self.send("poweroff -f\n")
        self.ends()


class Instance(Guest):
    """A guest that is an instance, with its console on a screen."""

    def __init__(self, host, name, number=0):  # pylint: disable=super-init-not-called
        self.host, self.name, self.screen = host, name, host.screens[number]
        self.run, self.send, self.expect = self.screen.run, self.screen.send, self.screen.expect

    def attach(self, store=""):
        self.send(f"{store} trapeze console {self.name}; echo ended'='$?\n")

    def answers(self):
        """It goes on from where it was, perhaps behind output that nobody saw."""
        self.send("\n")
        self.expect(SHELL_PROMPT)

    def becomes(self, state):
        self.host.run(f"until trapeze info --json {self.name} | grep -q '\"state\": *\"{state}\"'; do "
                      "sleep 0.2; done")


def web(host):
    """The instance that the tests share; runs, and its console is the first screen."""
    if "web" not in host.guests:
        host.run("dd if=/dev/zero of=/root/disk bs=1M count=8 2>/dev/null; "
                 "echo 'trapeze.pciSlots = \"2\"' >/root/slots.vmx")
        host.run(f"trapeze create web {WHAT} --append 'console=ttyS0 loglevel=4 mitigations=off' --cpus 2 --balloon "
                 "--vmx /root/slots.vmx --net nat --disk /root/disk,format=raw --start")
        guest = host.guests["web"] = Instance(host, "web")
        guest.attach()
        guest.is_up()
    return host.guests["web"]


def test_kvm_is_found_usable_where_it_is():
    with HOST.use() as host:
        said = json.loads(host.run("trapeze host --json"))
        assert said["kvm"]["offer"] == "yes", said


def test_small_programs():
    """What the unit test kvm_engine has, here on a processor that runs guests."""
    with HOST.use() as host:
        said = host.run("CMOCKA_MESSAGE_OUTPUT=TAP kvm_engine 2>&1")
        assert re.search(r"^ok \d+ - time_stamp_counters_stand_still$", said, re.M), said


def test_debians_kernel_boots_and_switches_itself_off():
    """Interrupts by the I/O APIC, the clock that KVM offers, the button's registers."""
    with HOST.use() as host:
        guest = Guest(host, QUIET, "--net none")
        assert guest.run("nproc").strip() == "1"
        assert guest.run("uname -m").strip() == "x86_64"
        assert re.search(r"IO-APIC +4-edge +ttyS0", guest.run("cat /proc/interrupts"))
        clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        assert guest.run(f"cat {clock}").strip() == "kvm-clock"
        guest.poweroff()


def test_two_processors_and_a_disk():
    """The disk's queues have messages; what our tables say is to the kernel's taste."""
    with HOST.use() as host:
        guest = web(host)
        assert guest.run("nproc").strip() == "2"
        guest.run("dd if=/bin/busybox of=/dev/vda bs=64k count=8 conv=fsync 2>/dev/null")
        interrupts = guest.run("cat /proc/interrupts")
        assert re.search(r"PCI-MSIX?-\S+ +\d+-edge +virtio\d+-req\.1", interrupts), interrupts
        said = guest.run("dmesg | grep -E 'ACPI.*(Error|Warning)|WARNING: CPU|BUG:' || true")
        assert said == "", said


def test_a_network_by_address_translation():
    """A lease from NAT, and a page from a server on the host."""
    with HOST.use() as host:
        guest = web(host)
        host.run("ip addr add 192.0.2.1/24 dev lo; mkdir /tmp/www; echo from'-'the-host >/tmp/www/page; "
                 "httpd -p 192.0.2.1:80 -h /tmp/www")
        guest.run("ip link set eth0 up")
        lease = guest.run("udhcpc -i eth0 -n -q -s /bin/true 2>&1")
        assert "lease of 10.0.2.15 obtained from 10.0.2.2" in lease, lease
        guest.run("ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2")
        assert guest.run("wget -q -O - http://192.0.2.1/page").strip() == "from-the-host"


def test_it_is_suspended_and_goes_on():
    """Its processes go on, its clocks have stood still, and it knows that it may be one of several."""
    with HOST.use() as host:
        guest = web(host)
        guest.run("echo kept >/tmp/kept; (while sleep 0.2; do echo >>/tmp/ticks; done) & "
                  "echo $! >/tmp/pid; mount -t tmpfs none /mnt; dd if=/dev/urandom of=/mnt/random "
                  "bs=1M count=4 2>/dev/null; md5sum /mnt/random >/tmp/sum")
        before = float(guest.run("cat /proc/uptime").split()[0])
        host.run("trapeze suspend web >/dev/null")
        guest.ends()
        guest.becomes("suspended")
        host.run("sleep 2; trapeze start web")
        guest.attach()
        guest.answers()
        assert guest.run("cat /tmp/kept").strip() == "kept"
        guest.run("md5sum -c /tmp/sum; rm /mnt/random")
        guest.run("n=$(wc -l </tmp/ticks); while [ $(wc -l </tmp/ticks) = $n ]; do sleep 0.1; done; "
                  "kill $(cat /tmp/pid)")
        assert float(guest.run("cat /proc/uptime").split()[0]) > before
        assert "crng reseeded due to virtual machine fork" in guest.run("dmesg | tail -n 20")
        assert guest.run("wget -q -O - http://192.0.2.1/page").strip() == "from-the-host"


def test_a_balloon():
    with HOST.use() as host:
        web(host)
        control = f"trapeze control {STORE}/instances/web/control.sock balloon"
        for size in 160, 192:
            host.run(f"{control} size={size}M >/dev/null")
            host.run(f"until {control} | grep -q '\"given-up\": {(192 - size) << 20}[,]*$'; do sleep 0.2; done")


def moves(host, guest, store, there):
    """It writes all the while, and compares what it has written."""
    host.run(f"TRAPEZE_HOME={store} trapeze migrate --downtime 2s web {there}/daemon.sock >/dev/null")
    guest.ends()
    guest.attach(f"TRAPEZE_HOME={there}")
    guest.answers()
    assert guest.run("ls /tmp/differs 2>/dev/null || true") == ""


def test_it_moves_while_it_runs():
    """To another daemon's store and back."""
    with HOST.use() as host:
        guest = web(host)
        guest.run("mount -t tmpfs none /mnt; dd if=/dev/urandom of=/mnt/random bs=64k count=16 "
                  "2>/dev/null; (while cp /mnt/random /mnt/copy; cmp /mnt/random /mnt/copy; do :; done; "
                  "echo 1 >/tmp/differs) & echo $! >/tmp/pid")
        host.run("TRAPEZE_HOME=/root/b trapeze list >/dev/null")
        moves(host, guest, STORE, "/root/b")
        moves(host, guest, "/root/b", STORE)
        guest.run("kill $(cat /tmp/pid); rm /mnt/*")


def test_a_snapshot():
    """What is in memory and on the disk is what was there then."""
    with HOST.use() as host:
        guest = web(host)
        sum_of_disk = "dd if=/dev/vda bs=64k count=8 iflag=direct 2>/dev/null | md5sum"
        guest.run("echo before >/tmp/when; dd if=/dev/urandom of=/dev/vda bs=64k count=8 conv=fsync "
                  "2>/dev/null")
        wanted = guest.run(sum_of_disk)
        host.run("trapeze snapshot create web then >/dev/null")
        guest.run("echo after >/tmp/when; dd if=/dev/urandom of=/dev/vda bs=64k count=8 conv=fsync "
                  "2>/dev/null")
        assert guest.run(sum_of_disk) != wanted
        host.run("trapeze snapshot restore web then >/dev/null")
        guest.ends()
        guest.attach()
        guest.answers()
        assert guest.run("cat /tmp/when").strip() == "before"
        assert guest.run(sum_of_disk) == wanted


def test_an_instant_clone():
    """It goes on from the same moment, with memory and a disk of its own, and knows that it is another."""
    with HOST.use() as host:
        guest = web(host)
        guest.run("echo both >/tmp/who; dmesg -c >/dev/null")
        host.run("trapeze clone --instant web twin")
        twin = Instance(host, "twin", 1)
        twin.attach()
        twin.answers()
        assert twin.run("cat /tmp/who").strip() == "both"
        assert "crng reseeded due to virtual machine fork" in twin.run("dmesg")
        assert "crng reseeded" not in guest.run("dmesg")
        twin.run("echo twin >/tmp/who; echo twin | dd of=/dev/vda conv=fsync 2>/dev/null")
        guest.run("echo web | dd of=/dev/vda conv=fsync 2>/dev/null")
        assert guest.run("cat /tmp/who; nproc") == "both\n2\n"
        for one in twin, guest:
            said = one.run("dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | head -n 1")
            assert said.strip() == one.name, said
        twin.poweroff()
        host.run("trapeze delete twin")


def test_a_reset():
    """What is written before it is there after it."""
    with HOST.use() as host:
        guest = web(host)
        sum_of_disk = "dd if=/dev/vda bs=64k count=8 2>/dev/null | md5sum"
        guest.run("dd if=/bin/busybox of=/dev/vda bs=64k count=8 conv=fsync 2>/dev/null")
        wanted = guest.run(sum_of_disk)
        guest.send("reboot -f\n")
        guest.is_up()
        assert guest.run(sum_of_disk) == wanted


class Client:
    """What curl asks of `firecracker` on the host."""

    def __init__(self, host, *options):
        self.host = host
        host.run("rm -f /tmp/fc*; ln -sf /bin/trapeze /bin/firecracker")
        host.run(f"(firecracker --api-sock /tmp/fc.api {' '.join(options)} </dev/null "
                 ">/tmp/fc.console 2>/tmp/fc.log; echo ended=$? >/tmp/fc.end) & true")
        host.run("until [ -S /tmp/fc.api ]; do sleep 0.1; done")

    def put(self, path, **body):
        said = self.host.run(f"curl -s -w 'status=%{{http_code}}' --unix-socket /tmp/fc.api -X PUT "
                             f"http://localhost{path} -d '{json.dumps(body)}'")
        assert "status=204" in said, (path, said)

    def wait_for(self, file, words):
        """In seconds of the host, which are not ours."""
        found = self.host.run(f"n=0; until grep -q '{words}' {file} || [ $n = 600 ]; do n=$((n+1)); "
                              f"sleep 0.5; done; tail -n 30 {file}")
        assert words in found, found


def test_a_client_of_firecracker_starts_a_program():
    """Its first instructions say that it has booted."""
    with HOST.use() as host:
        client = Client(host, "--boot-timer")
        client.put("/boot-source", kernel_image_path="/payload")
        client.put("/actions", action_type="InstanceStart")
        client.wait_for("/tmp/fc.log", "Guest-boot-time")
        host.run("kill $(pidof firecracker)")
        client.wait_for("/tmp/fc.end", "ended=130")


def test_it_switches_itself_off():
    with HOST.use(last=True) as host:
        guest = web(host)
        guest.poweroff()
        guest.becomes("stopped")


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
