#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The NAT process alone: this program is the machine at the other end of its frame socket, with as
much of TCP/IP as it takes to look at what no guest's kernel would do.

    nat.py TRAPEZE
"""
import os
import socket
import struct
import subprocess
import sys
import time

import tap

TRAPEZE = os.path.abspath(sys.argv[1])
LIMIT_S = 120  # ends what hangs
MAC, HOST_MAC = bytes.fromhex("020000000042"), bytes.fromhex("52550a000202")
ME, HOST, NOWHERE = "10.0.2.15", "10.0.2.2", "127.0.0.1"
TCP, UDP = 6, 17
FIN, SYN, RST, ACK = 1, 2, 4, 16


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total ^ 0xffff


class Nat:
    """with Nat("open", "udp:5353:53") as nat: nat.send(...); nat.receive()"""

    def __init__(self, mode, *forwards):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ready, status = os.pipe()
        self.process = subprocess.Popen(
            [TRAPEZE, "net-nat", str(status), str(theirs.fileno()), mode, "1500",
             MAC.hex(":"), *forwards], pass_fds=(status, theirs.fileno()))
        theirs.close()
        os.close(status)
        with os.fdopen(ready, "rb") as file:
            told = file.read()
        assert told == b"", told
        self.socket.settimeout(LIMIT_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.wait(timeout=LIMIT_S)  # the machine is gone: so is its NAT

    def frame(self, data):
        self.socket.send(bytes(14) + data)

    def send(self, to, protocol, payload):
        """An IPv4 packet; `payload` with a transport header whose checksum is filled in."""
        source, target = socket.inet_aton(ME), socket.inet_aton(to)
        pseudo = source + target + struct.pack(">BBH", 0, protocol, len(payload))
        at = 16 if protocol == TCP else 6
        payload = payload[:at] + struct.pack(">H", checksum(pseudo + payload)) + payload[at + 2:]
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
        sum_ = struct.pack(">H", checksum(header + source + target))
        self.frame(HOST_MAC + MAC + b"\x08\x00" + header[:10] + sum_ + source + target + payload)

    def tcp(self, to, port, flags, sequence=0, acknowledged=0, window=65535, options=b""):
        header = struct.pack(">HHIIBBHHH", 1024, port, sequence, acknowledged,
                             (20 + len(options)) // 4 << 4, flags, window, 0, 0)
        self.send(to, TCP, header + options)

    def udp(self, to, port, data, source=7):
        self.send(to, UDP, struct.pack(">HHHH", source, port, 8 + len(data), 0) + data)

    def receive(self, protocol):
        """The next packet of that protocol: (source, transport header and data). Answers ARP."""
        while True:
            message = self.socket.recv(1 << 17)
            kind, frame = message[0], message[14:]
            if kind != 0:
                continue
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\x01":
                self.frame(frame[6:12] + MAC + b"\x08\x06" + frame[14:20] + b"\0\x02" + MAC +
                           frame[38:42] + frame[22:32])
            elif frame[12:14] == b"\x08\x00" and frame[23] == protocol:
                packet = frame[14:14 + struct.unpack(">H", frame[16:18])[0]]
                return socket.inet_ntoa(packet[12:16]), packet[20:]

    def connect(self, port):
        """Returns what the server's first byte is numbered."""
        self.tcp(HOST, port, SYN, 100, options=b"\x02\x04\x05\xb4")
        _, answer = self.receive(TCP)
        assert answer[13] & (SYN | ACK | RST) == SYN | ACK, answer.hex()
        first = struct.unpack(">I", answer[4:8])[0] + 1
        self.tcp(HOST, port, ACK, 101, first)
        return first


def test_a_small_window_is_used():
    """A kernel that is short of buffers offers two segments' room and no more until it gets some."""
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    with Nat("host") as nat:
        first = nat.connect(port)
        connection = server.accept()[0]
        connection.setblocking(False)
        got, large, begin = 0, 1 << 20, time.monotonic()
        # What was under way when the window shrank, then twenty times two segments.
        while got < large + 65536 + 20 * 2920:
            try:
                connection.send(bytes(1 << 16))
            except BlockingIOError:
                pass
            _, segment = nat.receive(TCP)
            start = (struct.unpack(">I", segment[4:8])[0] - first) & 0xffffffff
            assert start <= got, (start, got)
            got = max(got, start + len(segment) - 20)
            nat.tcp(HOST, port, ACK, 101, first + got, 65535 if got < large else 3000)
        # Who waits for a larger window asks for it every five seconds.
        assert time.monotonic() - begin < 60


def test_the_host_is_closed():
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    port = server.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        for mode in ("open", "host", "restricted"):
            with Nat(mode) as nat:
                nat.tcp(NOWHERE, port, SYN)
                nat.udp(NOWHERE, listener.getsockname()[1], b"out")
                nat.udp(HOST, listener.getsockname()[1], b"up")
                nat.tcp(HOST, port, SYN)
                # In the order of what was sent: the first two were looked at before.
                _, answer = nat.receive(TCP)
                assert struct.unpack(">H", answer[:2])[0] == port
                assert answer[13] & (SYN | RST) == (SYN if mode == "host" else RST), mode
                if mode == "host":
                    server.accept()
                    assert listener.recv(10) == b"up"
        for what in (server.accept, lambda: listener.recv(10)):
            try:
                raise AssertionError(what())
            except BlockingIOError:
                pass


def test_who_came_by_a_forwarded_port_is_answered():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, \
            Nat("open", f"udp:{port}:7") as nat:
        for one in (asker, other):
            one.bind(("127.0.0.1", 0))
            one.settimeout(LIMIT_S)
        mine, theirs = asker.getsockname()[1], other.getsockname()[1]
        asker.sendto(b"question", ("127.0.0.1", port))
        source, datagram = nat.receive(UDP)
        assert source == HOST and datagram[8:] == b"question", (source, datagram)
        assert struct.unpack(">HH", datagram[:4]) == (mine, 7)
        nat.udp(HOST, theirs, b"never asked")
        nat.udp(HOST, mine, b"answer")
        assert asker.recvfrom(100) == (b"answer", ("127.0.0.1", port))
        other.sendto(b"question", ("127.0.0.1", port))
        nat.receive(UDP)
        nat.udp(HOST, theirs, b"answer")
        assert other.recvfrom(100) == (b"answer", ("127.0.0.1", port))


def test_a_burst_is_one_frame():
    server = socket.create_server(("127.0.0.1", 0))
    with Nat("host") as nat:
        nat.socket.send(struct.pack("<BB", 1, 7) + bytes(12))  # takes TCP of any size
        first = nat.connect(server.getsockname()[1])
        connection = server.accept()[0]
        data, got, largest = os.urandom(1 << 19), b"", 0
        connection.setblocking(False)
        sent = 0
        while len(got) < len(data):
            try:
                sent += connection.send(data[sent:]) if sent < len(data) else 0
            except BlockingIOError:
                pass
            _, segment = nat.receive(TCP)
            start = (struct.unpack(">I", segment[4:8])[0] - first) & 0xffffffff
            assert start == len(got), (start, len(got))
            got += segment[20:]
            largest = max(largest, len(segment))
            nat.tcp(HOST, server.getsockname()[1], ACK, 101, first + len(got))
        assert got == data
        assert largest > 16384, largest


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
