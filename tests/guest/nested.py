#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""x86-64 guests on KVM, on a host whose processor QEMU emulates (kvm_host.py).

    nested.py TRAPEZE KVM_ENGINE KVM_DEBUG TRAPS

All tests have one host, and most of them one guest, in the order in which they stand here: a boot
costs 20 s of CPU time. A test of something else takes the guest as it finds it and leaves it
running; where it fails, the next one finds a new host and a new guest:

    def test_something():
        with HOST.use() as host:
            guest = web(host)
            guest.run("…")                 # in the guest's shell
            host.run("trapeze … web")      # in the host's
"""
import contextlib
import json
import os
import re
import select
import shutil
import socket
import sys
import threading
import time

import tap
import whole_disk
from gdb_client import Gdb
from kvm_host import KvmHost, guest_initrd, libraries
from machine import SHELL_PROMPT, SOURCE, Shared, image, scratch

sys.path.insert(0, os.path.join(SOURCE, "bench"))
from microvm import payload  # noqa: E402

CURL = shutil.which("curl") or sys.exit("nested.py: needs curl")
TRAPEZE, KVM_ENGINE, KVM_DEBUG, TRAPS = (os.path.abspath(name) for name in sys.argv[1:5])
PAYLOAD = scratch("payload")
with open(PAYLOAD, "wb") as out:
    out.write(payload("x86_64"))
SEABIOS = "/usr/share/seabios/bios-256k.bin"  # Debian's QEMU brings it
SECTOR = scratch("boot-sector")
whole_disk.write_boot_sector(SECTOR, b"the second sector speaks\r\n\0")
HOST = Shared(lambda: KvmHost(TRAPEZE, {
    "/payload": PAYLOAD, "/boot-sector": SECTOR, "/bios.bin": SEABIOS, "/bin/curl": CURL, **libraries(CURL),
    "/bin/kvm_engine": KVM_ENGINE, **libraries(KVM_ENGINE),
    "/bin/kvm_debug": KVM_DEBUG, **libraries(KVM_DEBUG),
    "/tiny": image("tiny-x86_64", TRAPEZE),
    "/tiny/initrd": guest_initrd(TRAPEZE, ["virtio_scsi", "sd_mod"], {"/bin/traps": TRAPS})}))
WHAT = "--arch x86_64 --kernel /tiny/bzImage --initrd /tiny/initrd --memory 192M "
STORE = "/root/.local/share/trapeze"
NO_STALLS = "rcupdate.rcu_cpu_stall_suppress=1"  # the kernel's complaints that the host is slow
QUIET = f"--append 'console=ttyS0 quiet mitigations=off {NO_STALLS}' "


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


def plain(host):
    """Another one, of `run`, without disk and NIC; the first screen is its console."""
    if "plain" not in host.guests:
        host.guests["plain"] = Guest(host, QUIET, "--net none --cpus 1 --max-cpus 2 --gdb tcp:1234",
                                     "--control /tmp/plain.sock")
    return host.guests["plain"]


def web(host):
    """The instance that the tests share; runs, and its console is the first screen."""
    if "web" not in host.guests:
        host.run("dd if=/dev/zero of=/root/disk bs=1M count=8 2>/dev/null; "
                 "echo 'trapeze.pciSlots = \"2\"' >/root/slots.vmx")
        host.run(f"trapeze create web {WHAT} --append 'console=ttyS0 loglevel=4 mitigations=off {NO_STALLS}' "
                 "--cpus 2 --balloon --vmx /root/slots.vmx --net nat --disk /root/disk,format=raw --start")
        guest = host.guests["web"] = Instance(host, "web")
        guest.attach()
        guest.is_up()
    return host.guests["web"]


def test_kvm_is_found_usable_where_it_is():
    with HOST.use() as host:
        said = json.loads(host.run("trapeze host --json"))
        assert said["kvm"]["offer"] == "yes", said


def test_small_programs():
    """What these unit tests have, here on a processor that runs guests."""
    with HOST.use() as host:
        for program, name in (("kvm_engine", "time_stamp_counters_stand_still"),
                              ("kvm_debug", "a_guest_keeps_its_own_steps")):
            said = host.run(f"CMOCKA_MESSAGE_OUTPUT=TAP {program} 2>&1")
            assert re.search(rf"^ok \d+ - {name}$", said, re.M) and f"SKIP {name}" not in said, said


def test_debians_kernel_boots():
    """Interrupts by the I/O APIC, the clock that KVM offers."""
    with HOST.use() as host:
        guest = plain(host)
        assert guest.run("nproc").strip() == "1"
        assert guest.run("uname -m").strip() == "x86_64"
        assert re.search(r"IO-APIC +4-edge +ttyS0", guest.run("cat /proc/interrupts"))
        clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        assert guest.run(f"cat {clock}").strip() == "kvm-clock"


def test_a_processor_comes_and_goes():
    """There is room for two; who looks from outside sees what is on."""
    with HOST.use() as host:
        guest = plain(host)
        switch = "/sys/devices/system/cpu/cpu1/online"
        for on, count in (None, 1), (1, 2), (0, 1), (1, 2):
            if on is not None:
                guest.run(f"echo {on} >{switch}")
            assert guest.run("nproc").strip() == str(count)
            said = json.loads(host.run("trapeze control /tmp/plain.sock cpus"))
            assert said == {"max": 2, "started": count}, said


def relay(listener, screen):
    """Between the first client that comes and a screen, until the client goes."""
    client, _ = listener.accept()
    with client:
        while True:
            for end in select.select([client, screen], [], [])[0]:
                data = end.recv(65536)
                if not data:
                    return
                (screen if end is client else client).sendall(data)


@contextlib.contextmanager
def debugger(host):
    """GDB at the plain guest, by way of the last screen."""
    screen, path = host.screens[-1], scratch(f"{time.monotonic_ns()}.gdb")
    screen.send("stty raw -echo; echo rea'dy'; nc 127.0.0.1 1234; stty sane; echo en'ded'\n")
    screen.expect(rb"ready\r?\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        thread = threading.Thread(target=relay, args=(listener, screen.process.stdout), daemon=True)
        thread.start()
        with Gdb(path, "remotetimeout 1000") as gdb:
            yield gdb
        thread.join()
    host.run("kill $(pidof nc)")
    screen.expect(rb"ended")
    screen.expect(SHELL_PROMPT)


def symbols(guest, *names):
    """Their addresses in the plain guest's kernel."""
    said = guest.run(f"grep -wE '{'|'.join(names)}' /proc/kallsyms")
    found = {line.split()[2]: int(line.split()[0], 16) for line in said.splitlines()}
    return [found[name] for name in names]


def steps(gdb, count):
    """Instructions follow one another in memory, but for those that go elsewhere."""
    followed = 0
    for _ in range(count):
        lines = re.findall(r"^(?:=>)?\s*0x([0-9a-f]+)[^:]*:\s+(\w+)", gdb.run("x/2i $pc"), re.M)
        gdb.go("stepi", 'reason="end-stepping-range"')
        if not re.match("j|call|ret|iret|sys|loop|rep|int|hlt", lines[0][1]):
            assert gdb.value("(unsigned long)$pc") == int(lines[1][0], 16), lines
            followed += 1
    assert followed > 0


def test_gdb_and_a_whole_guest():
    """Break- and watchpoints are not to be had here: QEMU's emulation of a processor with AMD-V loads no
    debug registers of guests."""
    with HOST.use() as host:
        guest = plain(host)
        banner, timeout = symbols(guest, "linux_banner", "panic_timeout")
        guest.run("(while :; do :; done) & echo $! >/tmp/busy")
        with debugger(host) as gdb:
            threads = gdb.run("info threads")
            assert len(re.findall(r"^[* ] +\d ", threads, re.M)) == 2, threads
            for number in 1, 2:
                gdb.run(f"thread {number}")
                assert gdb.value("$efer & 0x500") == 0x500 and gdb.value("$cr3 & 0xfff") == 0
                assert (gdb.value("$cs & 3") == 0) == (gdb.value("(unsigned long)$pc") >> 63 == 1)
            assert '"Linux version' in gdb.run(f"x/s {banner:#x}")
            gdb.run(f"set var *(int *){timeout:#x} = 77")
            gdb.start()
            assert guest.run("cat /proc/sys/kernel/panic; echo 78 >/proc/sys/kernel/panic").strip() == "77"
            assert 'signal-name="SIGINT"' in gdb.interrupt()
            assert gdb.value(f"*(int *){timeout:#x}") == 78
            for number in 1, 2:
                gdb.run(f"thread {number}")
                steps(gdb, 10)
            gdb.run("detach")
        assert guest.run("kill $(cat /tmp/busy); uname -s").strip() == "Linux"


def test_a_guests_own_traps_are_its_own():
    """... without a debugger, and with one whose points are never met, for which all debug exceptions leave
    the guest."""
    with HOST.use() as host:
        guest = plain(host)
        wanted = "int3 3, steps 5\nsteps of a child 100\n"
        assert guest.run("traps") == wanted
        never, = symbols(guest, "__x64_sys_reboot")
        with debugger(host) as gdb:
            gdb.run(f"break *{never:#x}")
            gdb.start()
            assert guest.run("traps") == wanted
            gdb.interrupt()
            gdb.run("delete")
            gdb.run("detach")
        assert guest.run("traps") == wanted


def test_debians_kernel_switches_itself_off():
    with HOST.use() as host:
        plain(host).poweroff()
        del host.guests["plain"]


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


def test_set_is_about_processors_that_are_on():
    """What the guest's shell has done already, nobody has to tell it."""
    with HOST.use() as host:
        guest = web(host)
        for on, count in (0, 1), (1, 2):
            guest.run(f"echo {on} >/sys/devices/system/cpu/cpu1/online")
            said = json.loads(host.run(f"trapeze set --json web cpus={count}"))
            assert said["live"] == ["cpus"], said


def test_a_disks_requests_cost_no_exits_to_the_worker():
    """Its queues' doorbells stay with KVM, and it answers by messages."""
    with HOST.use() as host:
        guest = web(host)

        def accesses():
            said = json.loads(host.run("trapeze stats --json web"))
            return sum(vcpu["kvm-exits-mmio"] for vcpu in said["vcpus"])
        before = accesses()
        guest.run("dd if=/dev/vda of=/dev/null bs=4k count=500 iflag=direct 2>/dev/null")
        after = accesses()
        assert after - before < 50, (before, after)


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


def test_what_is_plugged_in_while_it_runs():
    """A NIC into a slot, whose interrupts tell the kernel; a disk onto an adapter for which it has to
    look. Both go away again."""
    with HOST.use() as host:
        guest = web(host)
        host.run("trapeze net attach --live web hostonly")
        guest.run("until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done; ip link set eth1 up; "
                  "udhcpc -i eth1 -n -q -s /bin/true")
        host.run("dd if=/dev/urandom of=/root/second bs=1M count=1 2>/dev/null")
        host.run("trapeze disk attach --live web /root/second,format=raw")
        guest.run("modprobe virtio_scsi; modprobe sd_mod; echo 1 >/sys/bus/pci/rescan; "
                  "until [ -b /dev/sda ]; do sleep 0.1; done")
        wanted = host.run("md5sum </root/second")
        assert guest.run("md5sum </dev/sda") == wanted
        guest.run("ip link set eth1 down")
        host.run("trapeze disk detach --live web 1; trapeze net detach --live web 1")
        guest.run("while [ -e /sys/class/net/eth1 ] || [ -b /dev/sda ]; do sleep 0.1; done")


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
        described = host.run(f"tail -c 1048576 {STORE}/instances/web/suspended.vmss | grep -a '^trapeze[.]'")
        assert 'trapeze.interrupts = "auto"' in described, described  # KVM's own, none of riscv64's
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
    """To another daemon's store and back. Only KVM knows which memory it wants, so not before all is there."""
    with HOST.use() as host:
        guest = web(host)
        guest.run("mount -t tmpfs none /mnt; dd if=/dev/urandom of=/mnt/random bs=64k count=16 "
                  "2>/dev/null; (while cp /mnt/random /mnt/copy; cmp /mnt/random /mnt/copy; do :; done; "
                  "echo 1 >/tmp/differs) & echo $! >/tmp/pid")
        host.run("TRAPEZE_HOME=/root/b trapeze list >/dev/null")
        said = host.run("! trapeze migrate --post-copy web /root/b/daemon.sock 2>&1")
        assert "kvm cannot wait for memory, so there is no post-copy with it" in said, said
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


def test_a_boot_sector_by_a_bios():
    """SeaBIOS finds disks on both kinds of bus, and reads what the first sector asks of it. Whole systems by it
    are efi.py's."""
    with HOST.use() as host:
        for bus in "virtio", "ahci":
            host.run("cp /boot-sector /tmp/sector")
            said = host.run("trapeze run --arch x86_64 --memory 64M --net none --firmware /bios.bin --disk "
                            f"/tmp/sector,format=raw,bus={bus} </dev/null")
            assert "SeaBIOS" in said and "the second sector speaks" in said, (bus, said)


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
