#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Networks as a small Linux guest and the host around it see them.

    net.py TRAPEZE
"""
import contextlib
import glob
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import tap
from daemon_client import until
from machine import FULL, LIMIT_S, Machine, image, scratch

TRAPEZE = sys.argv[1]
TINY = image("tiny", TRAPEZE)
LINUX = ["--kernel", TINY + "/Image", "--initrd", TINY + "/initrd", "--memory", "128M",
         ]
# A server in the background must not read the terminal, which would stop it, and must not find the
# end of its input, after which busybox's nc soon ends.
UP = ("ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; "
      "ip route add default via 10.0.2.2")


class Server(threading.Thread):
    """A TCP server on the host: answers with what `answer` makes of all that came in."""

    def __init__(self, answer, address="127.0.0.1"):
        super().__init__(daemon=True)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.create_server((address, 0), family=family)
        self.port = self.socket.getsockname()[1]
        self.answer, self.got = answer, None
        self.start()

    def run(self):
        while True:
            connection = self.socket.accept()[0]
            data = b""
            while part := connection.recv(1 << 16):
                data += part
                if data.endswith(b"END"):
                    break
            self.got = data
            connection.sendall(self.answer(data))
            connection.close()


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def command_of(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read().split("\0")


def backend(machine, name):
    return next(pid for pid in children(machine.process.pid) if name in command_of(pid))


def test_nat_gives_an_address_and_a_way_out():
    data = os.urandom(3 << 20)
    server = Server(lambda _: data)
    echo = Server(lambda got: str(len(got)).encode())
    with Machine(TRAPEZE, *LINUX, "--net", "nat,host-loopback=on") as machine:
        machine.shell()
        machine.run("ip link set eth0 up")
        lease = machine.run("udhcpc -i eth0 -n -q -s /bin/true 2>&1")
        assert "lease of 10.0.2.15 obtained from 10.0.2.2" in lease, lease
        machine.run(UP)
        assert "3 packets received" in machine.run("ping -c 3 -i 0.2 10.0.2.2")
        sums = machine.run(f"echo -n END | nc 10.0.2.2 {server.port} | sha256sum").split()[0]
        assert sums == hashlib.sha256(data).hexdigest()
        machine.run("dd if=/dev/urandom of=/tmp/up bs=64k count=40 2>/dev/null; "
                    "sha256sum /tmp/up > /tmp/sum; echo -n END >> /tmp/up")
        assert machine.run(f"nc 10.0.2.2 {echo.port} < /tmp/up").strip() == str(40 * 65536 + 3)
        inside = machine.run("cat /tmp/sum").split()[0]
        assert hashlib.sha256(echo.got[:-3]).hexdigest() == inside
        nic = machine.verb("status")["nics"][0]
        assert nic["up"] and nic["model"] == "virtio", nic
        # Offloads work: the frames were larger than Ethernet's.
        assert nic["received-bytes"] / nic["received-frames"] > 1514, nic
        machine.poweroff()


def test_a_nic_has_a_pair_of_queues_for_each_vcpu():
    server = Server(lambda got: str(len(got)).encode())
    with Machine(TRAPEZE, *LINUX, "--cpus", "4", "--net", "nat,host-loopback=on", "--net",
                 "hostonly,queues=2") as machine:
        machine.shell()
        for nic, pairs in (("eth0", 4), ("eth1", 2)):
            queues = machine.run(f"ls /sys/class/net/{nic}/queues").split()
            assert sorted(queues) == [f"{way}-{n}" for way in ("rx", "tx") for n in range(pairs)]
        machine.run(UP)
        # Every vCPU's connection goes out by its own pair and comes in by it.
        machine.run("for i in 0 1 2 3; do ((dd if=/dev/zero bs=64k count=16; echo -n END) | taskset "
                    f"$((1 << i)) nc 10.0.2.2 {server.port} > /tmp/$i) 2>/dev/null & done; wait")
        assert machine.run("cat /tmp/0 /tmp/1 /tmp/2 /tmp/3") == str((1 << 20) + 3) * 4
        lines = re.findall(r"((?: +\d+){4}) .*virtio\d+-(input|output)\.\d+",
                           machine.run("cat /proc/interrupts"))
        assert len(lines) == 12, lines
        inputs = [counts for counts, way in lines if way == "input"][:4]
        assert all(any(map(int, counts.split())) for counts in inputs), lines
        machine.poweroff()


def test_an_e1000_with_linux_own_driver():
    data = os.urandom(3 << 20)
    server, echo = Server(lambda _: data), Server(lambda got: str(len(got)).encode())
    with Machine(TRAPEZE, *LINUX, "--net", "nat,model=e1000,host-loopback=on", "--cpus", "2") as machine:
        machine.shell()
        assert "Intel(R) PRO/1000" in machine.run("dmesg | grep e1000")
        machine.run(UP)
        machine.run("until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.2; done")
        assert "3 packets received" in machine.run("ping -c 3 -i 0.2 10.0.2.2")
        sums = machine.run(f"echo -n END | nc 10.0.2.2 {server.port} | sha256sum").split()[0]
        assert sums == hashlib.sha256(data).hexdigest()
        machine.run("dd if=/dev/urandom of=/tmp/up bs=64k count=40 2>/dev/null; "
                    "sha256sum /tmp/up > /tmp/sum; echo -n END >> /tmp/up")
        assert machine.run(f"nc 10.0.2.2 {echo.port} < /tmp/up").strip() == str(40 * 65536 + 3)
        assert hashlib.sha256(echo.got[:-3]).hexdigest() == machine.run("cat /tmp/sum").split()[0]
        nic = machine.verb("status")["nics"][0]
        assert nic["model"] == "e1000", nic
        # The driver lets the NIC segment.
        assert nic["sent-bytes"] / nic["sent-frames"] > 1514, nic
        control(machine, "link", "nic=0", "up=false")
        machine.run("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.2; done")
        machine.poweroff()


def test_nat_over_ipv6():
    server = Server(lambda got: b"six " + got, "::1")
    port = free_port()
    with Machine(TRAPEZE, *LINUX, "--net", "nat,mac=02:00:00:00:00:42,host-loopback=on",
                 "--forward", f"tcp:[::1]:{port}:7") as machine:
        machine.shell()
        machine.run("ip link set lo up; ip link set eth0 up")
        machine.run("until ip -6 addr show dev eth0 | grep -v tentative | grep -q fec0; do "
                    "sleep 0.2; done")
        assert "fec0::ff:fe00:42" in machine.run("ip -6 addr show dev eth0")
        assert machine.run(f"echo -n END | nc fec0::2 {server.port}").strip() == "six END"
        machine.run("(echo inside | nc -l -p 7 > /tmp/got) & sleep 1")
        with socket.create_connection(("::1", port)) as connection:
            connection.settimeout(LIMIT_S)
            assert connection.recv(100) == b"inside\n"
            connection.shutdown(socket.SHUT_WR)
        machine.poweroff()


def test_ports_are_forwarded():
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    with Machine(TRAPEZE, *LINUX, "--net", "nat", "--forward", f"tcp:{tcp}:7", "--forward",
                 f"udp:{udp}:7") as machine:
        machine.shell()
        machine.run(UP)
        machine.run("(echo hello | nc -l -p 7 > /tmp/got) & sleep 1")
        with socket.create_connection(("127.0.0.1", tcp)) as connection:
            connection.settimeout(LIMIT_S)
            assert connection.recv(100) == b"hello\n"
            connection.sendall(b"from the host")
            connection.shutdown(socket.SHUT_WR)
        machine.run("until grep -q 'from the host' /tmp/got; do sleep 0.2; done")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            # Larger than the guest's MTU: it arrives in fragments, which the guest puts together.
            sender.sendto(b"d" * 4000, ("127.0.0.1", udp))
        machine.run("until set -- $(grep '^Ip: [0-9]' /proc/net/snmp); [ ${16} = 1 ]; do "
                    "sleep 0.2; done")
        # Who listens there already gets a sentence, and no machine.
        done = subprocess.run([TRAPEZE, "run", *LINUX, "--net", "nat", "--forward",
                               f"tcp:{tcp}:7"], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=False)
        assert done.returncode == 121 and "in use" in done.stderr and str(tcp) in done.stderr, done
        machine.poweroff()


def test_the_host_is_closed_unless_asked_for():
    server, server6 = Server(lambda _: b"reached"), Server(lambda _: b"reached", "::1")
    with Machine(TRAPEZE, *LINUX, "--net", "nat") as machine:
        machine.shell()
        machine.run(UP)
        # Refused at once, not after a timeout.
        said = machine.run(f"echo END | nc 10.0.2.2 {server.port} 2>&1; true")
        assert "refused" in said and "reached" not in said, said
        machine.run("until ip -6 addr show dev eth0 | grep -v tentative | grep -q fec0; do "
                    "sleep 0.2; done")
        said = machine.run(f"echo END | nc fec0::2 {server6.port} 2>&1; true")
        assert "refused" in said and "reached" not in said, said
        assert "1 packets received" in machine.run("ping -c 1 10.0.2.2")
        assert server.got is None and server6.got is None
        machine.poweroff()


def test_host_only_has_no_way_out():
    server, port = Server(lambda _: b"reached"), free_port()
    with Machine(TRAPEZE, *LINUX, "--net", f"hostonly,forward=tcp:{port}:7") as machine:
        machine.shell()
        machine.run(UP)
        assert machine.run(f"echo END | nc -w 3 10.0.2.2 {server.port} 2>/dev/null; true").strip() == ""
        machine.run("(echo inside | nc -l -p 7 > /dev/null) & sleep 1")
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(LIMIT_S)
            assert connection.recv(100) == b"inside\n"
        machine.poweroff()


def test_a_pulled_cable_a_rate_and_a_dead_backend():
    data = bytes(400000)
    server = Server(lambda _: data)
    with Machine(TRAPEZE, *LINUX, "--net", "nat,host-loopback=on") as machine:
        machine.shell()
        machine.run(UP)
        carrier = "cat /sys/class/net/eth0/carrier"
        assert machine.run(carrier).strip() == "1"
        control(machine, "link", "nic=0", "up=false")
        machine.run(f"until [ $({carrier}) = 0 ]; do sleep 0.1; done")
        assert not machine.verb("status")["nics"][0]["up"]
        control(machine, "link", "nic=0", "up=true")
        machine.run(f"until [ $({carrier}) = 1 ]; do sleep 0.1; done")
        machine.run("ping -c 1 10.0.2.2")
        control(machine, "rate", "nic=0", "kbit=1000")
        machine.run("t=$(cut -d. -f1 /proc/uptime); "
                    f"[ $(echo -n END | nc 10.0.2.2 {server.port} | wc -c) = 400000 ]; "
                    "u=$(cut -d. -f1 /proc/uptime); [ $((u - t)) -ge 2 ]")
        control(machine, "rate", "nic=0", "kbit=0")
        for arguments in (["nic=1", "kbit=1"], ["kbit=-1"], ["kbit"], ["nic=x", "kbit=1"]):
            done = subprocess.run([TRAPEZE, "control", machine.control, "rate", *arguments],
                                  capture_output=True, check=False)
            assert done.returncode in (120, 121), done
        os.kill(backend(machine, "net-nat"), signal.SIGKILL)
        machine.run(f"until [ $({carrier}) = 0 ]; do sleep 0.1; done")
        machine.run("nproc")
        errors = machine.poweroff()
        assert "net0" in errors and "link is down" in errors, errors


def control(machine, *words):
    subprocess.run([TRAPEZE, "control", machine.control, *words], check=True,
                   stdout=subprocess.DEVNULL)


def test_a_backend_never_outlives_its_machine():
    with Machine(TRAPEZE, *LINUX, "--net", "nat") as machine:
        machine.shell()
        pids = children(machine.process.pid)
        nat = backend(machine, "net-nat")
        # It holds no file but sockets and pipes, and cannot gain rights.
        for fd in glob.glob(f"/proc/{nat}/fd/*"):
            target = os.readlink(fd)
            assert re.match(r"socket:|pipe:|/dev/null|anon_inode:|/dev/pts|/dev/tty|/tmp", target), \
                target
        with open(f"/proc/{nat}/status") as file:
            status = file.read()
        assert re.search(r"^NoNewPrivs:\s*1$", status, re.M)
        assert re.search(r"^CapEff:\s*0+$", status, re.M)
        machine.process.kill()
        for pid in pids:
            until(lambda pid=pid: not os.path.exists(f"/proc/{pid}") or
                  "zombie" in open(f"/proc/{pid}/status").read())


def test_machines_meet_on_an_internal_network():
    name = f"test-{os.getpid()}"
    def guest(number, vlan=""):
        return Machine(TRAPEZE, *LINUX, "--net", f"internal:{name}{vlan}")
    def address(machine, number):
        machine.shell()
        machine.run(f"ip link set lo up; ip link set eth0 up; "
                    f"ip addr add 192.168.7.{number}/24 dev eth0")
    with guest(1) as one, guest(2) as two, guest(3, ",vlan=5") as three:
        for number, machine in enumerate((one, two, three), 1):
            address(machine, number)
        assert "3 packets received" in one.run("ping -c 3 -i 0.2 192.168.7.2")
        assert "3 packets received" in two.run("ping -c 3 -i 0.2 192.168.7.1")
        assert "0 packets received" in one.run("ping -c 2 -W 1 192.168.7.3; true")
        two.run("mkfifo /tmp/f; (nc -l -p 9 <> /tmp/f | sha256sum > /tmp/sum; echo > /tmp/done) & sleep 1")
        inside = one.run("dd if=/dev/urandom of=/tmp/x bs=64k count=50 2>/dev/null; "
                         "nc 192.168.7.2 9 < /tmp/x; sha256sum < /tmp/x").split()[0]
        assert inside in two.run("until [ -e /tmp/done ]; do sleep 0.2; done; cat /tmp/sum")
        nic = two.verb("status")["nics"][0]
        assert nic["received-bytes"] / nic["received-frames"] > 1514, nic
        switches = [pid for pid in os.listdir("/proc") if pid.isdigit() and
                    name in " ".join(readable_command(pid))]
        switches = [pid for pid in switches if "net-switch" in readable_command(pid)]
        assert len(switches) == 1, switches
        for machine in (one, two, three):
            machine.poweroff()
    # The last one has left.
    until(lambda: not os.path.exists(f"/proc/{switches[0]}"))


def readable_command(pid):
    try:
        return command_of(pid)
    except OSError:
        return []


def test_frames_are_captured():
    capture = scratch("nic.pcapng")
    with Machine(TRAPEZE, *LINUX, "--net", "nat", "--capture", capture) as machine:
        machine.shell()
        machine.run(UP)
        machine.run("ping -c 3 -i 0.2 10.0.2.2")
        machine.poweroff()
    with open(capture, "rb") as file:
        data = file.read()
    at, packets = 0, []
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert struct.unpack_from("<I", data, at + length - 4)[0] == length
        if kind == 6:
            size = struct.unpack_from("<I", data, at + 20)[0]
            packets.append(data[at + 28:at + 28 + size])
        at += length
    echoes = [p for p in packets if p[12:14] == b"\x08\x00" and p[23] == 1]
    assert len(echoes) == 6, len(echoes)  # requests and replies
    if shutil.which("tshark"):
        shown = subprocess.run(["tshark", "-r", capture, "-Y", "icmp"], capture_output=True,
                               text=True, check=True).stdout
        assert shown.count("Echo (ping) request") == 3, shown


def ip(*words, check=True):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


def test_tap_and_bridge():
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        raise tap.Skip("tap devices need root and /dev/net/tun")
    space = f"tz{os.getpid()}"
    if ip("netns", "add", space, check=False).returncode != 0:
        raise tap.Skip("this machine allows no network namespaces")
    try:
        inside = ["netns", "exec", space]
        ip("-n", space, "link", "set", "lo", "up")
        if ip("-n", space, "link", "add", "br0", "type", "bridge", check=False).returncode != 0:
            raise tap.Skip("this kernel has no bridges")
        ip("-n", space, "addr", "add", "192.168.9.1/24", "dev", "br0")
        ip("-n", space, "link", "set", "br0", "up")
        ip("-n", space, "tuntap", "add", "dev", "tap0", "mode", "tap")
        ip("-n", space, "addr", "add", "192.168.8.1/24", "dev", "tap0")
        ip("-n", space, "link", "set", "tap0", "up")
        wrapper = scratch("in-namespace")
        with open(wrapper, "w") as file:
            file.write(f"#!/bin/sh\nexec ip {' '.join(inside)} {TRAPEZE} \"$@\"\n")
        os.chmod(wrapper, 0o755)
        with Machine(wrapper, *LINUX, "--net", "tap:tap0", "--net", "bridge:br0") as machine:
            machine.shell()
            machine.run("ip link set eth0 up; ip addr add 192.168.8.2/24 dev eth0; "
                        "ip link set eth1 up; ip addr add 192.168.9.2/24 dev eth1")
            assert "2 packets received" in machine.run("ping -c 2 192.168.8.1")
            assert "2 packets received" in machine.run("ping -c 2 192.168.9.1")
            # Bulk data both ways, with the kernel's offloads on the other end.
            machine.run("(nc -l -p 9 < /dev/null > /tmp/got; echo > /tmp/done) & sleep 1")
            data = os.urandom(2 << 20)
            path = scratch("bulk")
            with open(path, "wb") as file:
                file.write(data)
            sender = ("import socket,sys; c=socket.create_connection(('192.168.8.2',9)); "
                      "c.sendall(open(sys.argv[1],'rb').read())")
            ip(*inside, sys.executable, "-c", sender, path)
            got = machine.run("until [ -e /tmp/done ]; do sleep 0.2; done; sha256sum < /tmp/got")
            assert got.split()[0] == hashlib.sha256(data).hexdigest()
            machine.poweroff()
        done = subprocess.run([wrapper, "run", *LINUX, "--net", "bridge:nosuch"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 121 and "nosuch" in done.stderr, done
    finally:
        ip("netns", "del", space, check=False)


def net(machine, *words, status=0):
    done = subprocess.run([TRAPEZE, "net", *words, machine.control], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == status, done
    return done.stdout + done.stderr


def serves(mac):
    """Whether the process behind the NIC of that address still runs."""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError), open(path) as file:
            words = file.read().split("\0")
            if "net-nat" in words and mac in words:
                return True
    return False


def test_nics_come_and_go():
    data = os.urandom(1 << 20)
    server = Server(lambda _: data)
    with Machine(TRAPEZE, *LINUX, "--cpus", "2", "--net", "hostonly") as machine:
        machine.shell()
        machine.run("modprobe virtio_net; modprobe e1000")
        for turn in range(100 if FULL else 10):
            mac = f"02:00:00:00:{os.getpid() & 0xff:02x}:{turn:02x}"
            model = "e1000" if turn % 5 == 4 else "virtio"
            said = net(machine, "attach", f"nat,mac={mac},model={model},host-loopback=on")
            assert said.startswith("NIC 1 ") and "rescan" in said, said
            place = re.search(r"at (0000:00:[0-9a-f]{2}\.0)\.", said)[1]
            machine.run("[ ! -e /sys/class/net/eth1 ]; echo 1 > /sys/bus/pci/rescan; "
                        "until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done; "
                        "ip link set eth1 up; "
                        "until [ $(cat /sys/class/net/eth1/carrier) = 1 ]; do sleep 0.1; done")
            assert machine.run("cat /sys/class/net/eth1/address").strip() == mac
            if turn % 5 == 0:
                lease = machine.run("udhcpc -i eth1 -n -q -s /bin/true 2>&1")
                assert "lease of 10.0.2.15 obtained from 10.0.2.2" in lease, lease
            machine.run("ip addr add 10.0.2.15/24 dev eth1; ping -c 1 10.0.2.2")
            sums = machine.run(f"echo -n END | nc 10.0.2.2 {server.port} | sha256sum").split()[0]
            assert sums == hashlib.sha256(data).hexdigest()
            assert place in net(machine, "list")
            said = net(machine, "detach", "1", status=121)
            assert f"devices/{place}/remove" in said, said
            machine.run(f"ip link set eth1 up && echo 1 > /sys/bus/pci/devices/{place}/remove")
            net(machine, "detach", "1")
            assert place not in net(machine, "list")
            until(lambda mac=mac: not serves(mac))
        for words, part, status in ((("attach", "nats"), "nats", 120), (("detach", "1"), "NIC 1", 120),
                                    (("detach", "x"), "number", 120),
                                    (("grow",), "attach, detach or list", 120)):
            said = net(machine, *words, status=status)
            assert part in said, said
        # One that the guest never looked at goes at once; one that came stays over a reset.
        net(machine, "attach", "nat")
        net(machine, "detach", "1")
        net(machine, "attach", "nat")
        machine.send("reboot -f\n")
        machine.shell()
        assert "eth1" in machine.run("ls /sys/class/net")
        machine.poweroff()


def a_shell_drives_hotplug(machine):
    """A reset through the port's bridge, by the kernel; then what a driver for hot-plug does, written
    by hand into slot 2's registers: on running vCPUs."""
    device = "/sys/bus/pci/devices/0000:01:00.0"
    machine.run(f"echo 0000:01:00.0 > {device}/driver/unbind && echo bus > {device}/reset_method && "
                f"echo 1 > {device}/reset && echo 0000:01:00.0 > /sys/bus/pci/drivers_probe && "
                f"[ -e {device}/driver ] && sleep 1; {UP}; ping -c 1 10.0.2.2")
    port = "/sys/bus/pci/devices/0000:00:03.0/config"
    machine.run("poke() { printf $2 | dd of=" + port + " bs=2 seek=$1 conv=notrunc 2>/dev/null; }; "
                "slot() { poke 44 $1; }; peek() { od -An -tx2 -j$1 -N2 " + port + "; }; "
                r"slot '\xc1\x07'; poke 45 '\xff\x01'")  # attention button, no power; no events
    said = net(machine, "attach", "nat")
    assert "The guest was told" in said, said
    assert machine.run("peek 90").split() == ["0049"]  # button, presence
    machine.run("echo 1 > /sys/bus/pci/rescan; [ ! -e /sys/class/net/eth1 ]")
    assert machine.run(r"slot '\xc1\x03'; peek 82").split() == ["2011"]  # the link is up
    machine.run("echo 1 > /sys/bus/pci/rescan; "
                "until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done; "
                "ip link set eth0 down; ip link set eth1 up; "
                "until [ $(cat /sys/class/net/eth1/carrier) = 1 ]; do sleep 0.1; done; "
                "ip addr add 10.0.2.15/24 dev eth1; ping -c 1 10.0.2.2")
    assert "asked to let go" in net(machine, "detach", "1")
    assert "goes" in net(machine, "list")
    assert "is leaving" in net(machine, "detach", "1", status=121)
    machine.run("echo 1 > /sys/bus/pci/devices/0000:02:00.0/remove; ip link set eth0 up")
    assert "goes" in net(machine, "list")
    assert machine.run(r"slot '\xc1\x07'; peek 82").split() == ["0000"]
    assert "  1  " not in net(machine, "list")
    machine.run(r"slot '\xc0\x03'")


def test_nics_behind_root_ports():
    """Debian's kernel has no driver for hot-plug: it looks for itself, and a NIC pulled out under it
    is one that no longer answers. (e1000 stands that; virtio's drivers wait for the answer to a reset
    for ever, whoever the host is.)"""
    for turn, interrupts in enumerate(("aia", "plic")):
        with Machine(TRAPEZE, *LINUX, "--cpus", "2", "--interrupts", interrupts, "--pci-slots", "3",
                     "--net", "nat") as machine:
            machine.shell()
            machine.run("dmesg -n 1; modprobe virtio_net; modprobe e1000; " + UP +
                        "; ping -c 1 10.0.2.2")
            buses = machine.run("for d in /sys/bus/pci/devices/*; do echo $(basename $d) "
                                "$(cat $d/vendor) $(cat $d/class); done")
            ports = re.findall(r"(\S+) 0x1b36 0x060400", buses)
            assert len(ports) == 3 and "0000:01:00.0 0x1af4 0x020000" in buses, buses
            log = machine.run("dmesg | grep -i pci")
            assert log.count("bridge window [mem 0x4") >= 6 and "PCIe Root Port" in log, log
            assert not re.search(r"can't assign|no space|failed", log), log
            assert log.count("pcieport 0000:00:0") == 6, log  # three ports, enabled and served
            assert "0000:01:00.0  up" in net(machine, "list")
            model = ("virtio", "e1000")[turn]
            for force in (False, model == "e1000"):
                said = net(machine, "attach", f"nat,model={model}")
                assert "NIC 1 " in said and "PCIe slot 2" in said and "rescan" in said, said
                machine.run("[ ! -e /sys/class/net/eth1 ] && echo 1 > /sys/bus/pci/rescan; "
                            "until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done; "
                            "ip link set eth0 down; ip link set eth1 up; "
                            "until [ $(cat /sys/class/net/eth1/carrier) = 1 ]; do sleep 0.1; done; "
                            "ip addr add 10.0.2.15/24 dev eth1; ping -c 1 10.0.2.2")
                place = re.search(r"  1  .*(0000:0[1-9]:00\.0)", net(machine, "list"))[1]
                said = net(machine, "detach", "1", status=121)
                assert f"devices/{place}/remove" in said, said
                if not force:
                    machine.run(f"echo 1 > /sys/bus/pci/devices/{place}/remove")
                    net(machine, "detach", "1")
                else:
                    net(machine, "detach", "1", "--force")
                    machine.run(f"od -An -tx4 -N4 /sys/bus/pci/devices/{place}/config | "
                                "grep -q ffffffff && "
                                f"echo 1 > /sys/bus/pci/devices/{place}/remove")
                assert "  1  " not in net(machine, "list")
                machine.run("[ ! -e /sys/class/net/eth1 ] && ip link set eth0 up && "
                            "ping -c 1 10.0.2.2")
            a_shell_drives_hotplug(machine)
            # What is in its slot stays there over a reset.
            net(machine, "attach", "nat")
            machine.send("reboot -f\n")
            machine.shell()
            assert "eth1" in machine.run("modprobe virtio_net; sleep 1; ls /sys/class/net")
            machine.poweroff()


def test_the_host_has_an_end_of_a_host_only_network():
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        raise tap.Skip("interfaces of this host need root and /dev/net/tun")
    space = f"tzh{os.getpid()}"
    if ip("netns", "add", space, check=False).returncode != 0:
        raise tap.Skip("this machine allows no network namespaces")
    try:
        wrapper = scratch("in-namespace")
        with open(wrapper, "w") as file:
            file.write(f"#!/bin/sh\nexec ip netns exec {space} $WRAP {TRAPEZE} \"$@\"\n")
        os.chmod(wrapper, 0o755)
        options = [*LINUX, "--net", "hostonly:192.168.77.1/24"]
        with Machine(wrapper, *options) as machine:
            machine.shell()
            machine.run("ip link set eth0 up")
            lease = machine.run("udhcpc -i eth0 -n -q -s /bin/true 2>&1")
            assert "lease of 192.168.77.16 obtained from 192.168.77.1" in lease, lease
            machine.run("ip addr add 192.168.77.16/24 dev eth0")
            assert "2 packets received" in machine.run("ping -c 2 192.168.77.1")
            machine.run("(echo inside | nc -l -p 9 > /tmp/got) & sleep 1")
            asked = ip("netns", "exec", space, sys.executable, "-c",
                       "import socket; print(socket.create_connection(('192.168.77.16', 9))"
                       ".recv(9))").stdout
            assert "inside" in asked, asked
            assert "trapeze0" in ip("-n", space, "link").stdout
            machine.poweroff()
        until(lambda: "trapeze0" not in ip("-n", space, "link").stdout)
        if shutil.which("setpriv"):
            done = subprocess.run([wrapper, "run", *options], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, check=False,
                                  env={**os.environ, "WRAP": "setpriv --bounding-set=-net_admin"})
            assert done.returncode == 121 and "--forward" in done.stderr, done
    finally:
        ip("netns", "del", space, check=False)


def test_bad_options_get_a_sentence():
    for options, part in (
            (["--net", "nats"], "nats"), (["--net", "nat,mac=01:00:00:00:00:00"], "01:00"),
            (["--net", "nat,mtu=100"], "MTU"), (["--net", "nat,vlan=5"], "vlan"),
            (["--net", "internal:a/b"], "a/b"), (["--net", "nat,model=ne2000"], "ne2000"),
            (["--forward", "tcp:1:1"], "--net nat"), (["--net", "nat", "--forward", "x"], "'x'"),
            (["--net", "nat", "--deterministic"], "--net none"),
            (["--net", "none", "--net", "nat"], "none"), (["--net", "nat,rate=5"], "10M"),
            (["--net", "nat,host-loopback=yes"], "'yes'"),
            (["--net", "hostonly:192.168.77.1"], "192.168.77.1/24"),
            (["--net", "hostonly:192.168.77.1/27"], "8 to 26"),
            (["--net", "hostonly:10.0.0.300/8"], "10.0.0.300"),
            (["--net", "hostonly:10.0.0.3/8,forward=tcp:1:1"], "no ports"),
            (["--net", "hostonly,host-loopback=on"], "goes with 'nat'"),
            (["--net", "nat,speed=5"], "speed"), (["--capture", "x"], "--net nat"),
            (["--net", "tap:"], "tap:INTERFACE")):
        done = subprocess.run([TRAPEZE, "run", *LINUX, *options], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 120 and part in done.stderr, (options, done)


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
