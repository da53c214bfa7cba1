# SPDX-License-Identifier: MIT
"""Instances whose guest is writer.c: what it says is in their folder, and what their disk has to hold follows
from that."""
import os
import re
import socket

import writer
from daemon_client import until
from machine import scratch


class Writer:
    """One that is there already is taken as it is (elf=None)."""

    def __init__(self, client, name, elf, *options):
        self.client, self.name = client, name
        if elf is None:
            return
        disk = scratch(f"{name}.img")
        with open(disk, "wb") as file:
            file.truncate(writer.SECTORS * writer.SECTOR)
        client.trapeze("list")
        client.api("POST", "/v1/instances", {
            "name": name, "vmx": 'memsize = "32"\ntrapeze.firmware = "elf"\n' + "".join(options) +
            'scsi0:0.fileName = "disk.img"\nscsi0:0.trapeze.format = "raw"\n',
            "files": [{"source": elf, "name": "elf"},
                      {"source": disk, "name": "disk.img"}]}, 201)

    def folder(self, *parts):
        return os.path.join(self.client.store, "instances", self.name, *parts)

    def text(self):
        with open(self.folder("console.log"), "rb") as file:
            return file.read()

    def start(self):
        self.client.trapeze("start", self.name)
        until(lambda: b"?" in self.text())
        with socket.socket(socket.AF_UNIX) as console:
            at = os.open(self.folder(), os.O_RDONLY)
            console.connect(f"/proc/self/fd/{at}/console.sock")
            os.close(at)
            console.sendall(b"0\n")
        until(self.flushed)

    def flushed(self):
        """How many operations it has said to have flushed."""
        numbers = re.findall(rb"(\d+)\r?\n", self.text())
        return int(numbers[-1]) if numbers else 0

    def go_on(self):
        """Until it has flushed some more; how many."""
        before = self.flushed()
        until(lambda: self.flushed() > before + 300)
        return self.flushed()

    def content(self):
        path, raw = self.client.info(self.name)["disks"][0], scratch("content")
        with open(path, "rb") as file:
            layer = file.read(4) == b"QFI\xfb"
        self.client.trapeze("disk", "convert", "--force", "--from", "qcow2" if layer else "raw",
                            "--format", "raw", path, raw)
        with open(raw, "rb") as file:
            return file.read()

    def verify(self, flushed):
        found, _ = writer.verify(self.name, self.content(), [writer.ZERO] * writer.SECTORS, 0, flushed)
        return max(found)
