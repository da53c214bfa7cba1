# SPDX-License-Identifier: MIT
"""The rows about devices: what a guest needs for them on the host's side, and their runs.

Disks are made anew for each run from one template: 64 MiB to be read, 64 MiB to be overwritten, 64 MiB
that nobody has written yet, in that order; the first two are filled with what guest/io.c expects.
"""
import json
import os
import re
import socket
import struct
import subprocess
import threading

BLOCK, REGION = 4096, 64 << 20
TCP_BUFFER = 128 << 10
LOGIN = "login"
LOGIN_WHAT = "from the start of the VMM to the login prompt of Debian"


def word(block):
    """block_word() of guest/io.c."""
    return struct.pack("<Q", (block + 1) * 0x9e3779b97f4a7c15 % (1 << 64))


def known_rows(host_program):
    """{name: {"what", "amount", "unit"}} of the rows that the guest's program has."""
    listed = subprocess.run([host_program, "--list-io"], capture_output=True, text=True, check=True).stdout
    rows = {}
    for line in listed.splitlines():
        name, amount, unit, what = line.split(" ", 3)
        rows[name] = {"what": what, "amount": float(amount), "unit": unit}
    return rows


class Server(threading.Thread):
    """The host's end of the network rows: a stream is taken and compared, or given."""

    def __init__(self, to_send):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.to_send = to_send  # bytes
        self.pattern = b"".join(word(i) + bytes(BLOCK - 16) + word(i) for i in range(TCP_BUFFER // BLOCK))
        self.start()

    def run(self):
        while True:
            connection = self.socket.accept()[0]
            try:
                self.serve(connection)
            except OSError:
                pass  # a guest that was killed; its run says so
            connection.close()

    def serve(self, connection):
        if connection.recv(1) == b"R":
            for _ in range(self.to_send // TCP_BUFFER):
                connection.sendall(self.pattern)
            return
        buffer, good, filled = bytearray(TCP_BUFFER), 0, 0
        view = memoryview(buffer)
        while got := connection.recv_into(view[filled:]):
            filled += got
            if filled == TCP_BUFFER:
                good += TCP_BUFFER if buffer == self.pattern else 0
                filled = 0
        connection.sendall(struct.pack("<Q", good))


class Devices:
    """Two disks, made anew by fresh(), and a server; their place in the commands of both kinds."""

    def __init__(self, directory, trapeze, bytes_to_send):
        os.makedirs(directory, exist_ok=True)
        self.templates = [os.path.join(directory, "template." + kind) for kind in ("raw", "qcow2")]
        self.disks = [os.path.join(directory, "disk." + kind) for kind in ("raw", "qcow2")]
        self.server = Server(bytes_to_send)
        self.make_templates(trapeze)

    def make_templates(self, trapeze):
        raw, qcow2 = self.templates
        with open(raw, "wb") as file:
            for block in range(2 * REGION // BLOCK):
                file.write(word(block) * (BLOCK // 8))
            file.truncate(3 * REGION)
        subprocess.run([trapeze, "disk", "convert", "--force", "--format", "qcow2", raw, qcow2],
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)

    def fresh(self):
        """Copies that share nothing with the last run's, holes and all; on the medium, so that writing
        them back is no part of what is measured."""
        for template, disk in zip(self.templates, self.disks):
            if os.path.exists(disk):
                os.unlink(disk)
            subprocess.run(["cp", "--sparse=always", "--reflink=never", template, disk], check=True)
            with open(disk, "rb") as file:
                os.fsync(file.fileno())

    def append(self):
        return "bench_port=%d " % self.server.port

    def trapeze(self):
        disks = [["--disk", "%s,format=%s,cache=writeback" % (path.replace(",", ",,"), kind)]
                 for path, kind in zip(self.disks, ("raw", "qcow2"))]
        return [*disks[0], *disks[1], "--net", "nat,host-loopback=on"]

    def qemu(self):
        words = []
        for number, (path, kind) in enumerate(zip(self.disks, ("raw", "qcow2"))):
            words += qemu_disk("disk%d" % number, path, kind)
        return words + ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]


def qemu_disk(name, path, kind):
    return ["-drive", "if=none,id=%s,file=%s,format=%s,cache=writeback" % (name, path.replace(",", ",,"), kind),
            "-device", "virtio-blk-pci,drive=" + name]


class Login:
    """Debian to its login prompt, on a copy of the image's disk for each run; then the VMM is killed."""

    PROMPT = re.compile(rb"login: *$")

    def __init__(self, directory, image):
        os.makedirs(directory, exist_ok=True)
        self.image, self.disk = image, os.path.join(directory, "debian.raw")
        with open(os.path.join(image, "image.json")) as file:
            self.append = json.load(file)["append"]

    def fresh(self):
        if os.path.exists(self.disk):
            os.unlink(self.disk)
        subprocess.run(["cp", "--sparse=always", os.path.join(self.image, "root.img"), self.disk], check=True)
        os.chmod(self.disk, 0o600)

    def linux(self):
        return (os.path.join(self.image, "Image"), os.path.join(self.image, "initrd"), self.append)

    def trapeze(self):
        return ["--disk", self.disk.replace(",", ",,") + ",format=raw,cache=writeback"]

    def qemu(self):
        return qemu_disk("root", self.disk, "raw")
