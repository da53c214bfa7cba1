# SPDX-License-Identifier: MIT
"""Appliances (OVF, OVA, VMDK) as other software writes them, and as nobody should."""
import hashlib
import io
import os
import struct
import subprocess
import tarfile
import tempfile

FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-ova-")
MIB = 1 << 20

OVF = """<?xml version="1.0"?>
{doctype}<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/{version}"
 xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/{version}"
 xmlns:vmw="http://www.vmware.com/schema/ovf"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
 <References>{files}</References>
 <DiskSection><Info>disks</Info>{disks}</DiskSection>
 <NetworkSection><Info>networks</Info><Network ovf:name="VM Network"/></NetworkSection>
 {systems}
</Envelope>"""
SYSTEM = """<VirtualSystem ovf:id="vm"><Info>a machine</Info><Name>{name}</Name>
  <OperatingSystemSection ovf:id="96" vmw:osType="{os}"><Info>os</Info></OperatingSystemSection>
  <VirtualHardwareSection><Info>hardware</Info>{items}</VirtualHardwareSection>
 </VirtualSystem>"""


def item(**fields):
    order = sorted(fields)
    return "<Item>" + "".join(f"<rasd:{key}>{fields[key]}</rasd:{key}>" for key in order) + "</Item>"


class Ova:
    """An appliance from a table; what is written is by tarfile and qemu-img."""

    def __init__(self, disks=(), name="My Appliance", os_type="debian12_64Guest", version=1):
        self.files = {}  # name: bytes
        self.texts = {"version": version, "doctype": "", "files": "", "disks": ""}
        self.items = [item(InstanceID=1, ResourceType=3, VirtualQuantity=2, ElementName="cpus"),
                      item(InstanceID=2, ResourceType=4, VirtualQuantity=96,
                           AllocationUnits="byte * 2^20", ElementName="memory"),
                      item(InstanceID=3, ResourceType=6, ResourceSubType="lsilogic",
                           ElementName="SCSI"),
                      item(InstanceID=4, ResourceType=20, ResourceSubType="AHCI",
                           ElementName="SATA")]
        self.name, self.os = name, os_type
        self.systems = 1
        self.algorithm = "sha256"
        self.spoil = None  # of the manifest
        self.more = []
        for number, (raw, controller, unit) in enumerate(disks):
            vmdk = os.path.join(FOLDER.name, "disk.vmdk")
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o",
                            "subformat=streamOptimized", raw, vmdk], check=True)
            with open(vmdk, "rb") as file:
                data = file.read()
            self.add(f"appliance disk{number}.vmdk", data, os.path.getsize(raw), controller,
                     unit)

    def add(self, href, data, capacity, controller=3, unit=0, more="", file_more=""):
        number = len(self.files)
        self.files[href] = data
        self.texts["files"] += (f'<File ovf:id="f{number}" ovf:href="{href}" '
                                f'ovf:size="{len(data)}"{file_more}/>')
        self.texts["disks"] += (f'<Disk ovf:diskId="d{number}" ovf:fileRef="f{number}" '
                                f'ovf:capacity="{capacity}"{more}/>')
        self.items.append(item(InstanceID=10 + number, ResourceType=17, Parent=controller,
                               AddressOnParent=unit, HostResource=f"ovf:/disk/d{number}",
                               ElementName=f"disk {number}"))

    def ovf(self):
        system = SYSTEM.format(name=self.name, os=self.os, items="".join(self.items))
        return OVF.format(systems=system * self.systems, **self.texts).encode()

    def members(self):
        members = {"appliance.ovf": self.ovf(), **self.files}
        lines = "".join(f"{self.algorithm.upper()}({name})= "
                        f"{hashlib.new(self.algorithm, data).hexdigest()}\n"
                        for name, data in members.items())
        return {**members, "appliance.mf": self.spoil(lines).encode() if self.spoil
                else lines.encode()}

    def write(self):
        path = os.path.join(FOLDER.name, "appliance.ova")
        with tarfile.open(path, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in self.members().items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            for info, data in self.more:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path


def sparse_vmdk(sectors, text=""):
    """A header (Virtual Disk Format 5.0, "Hosted Sparse Extent Header"), and a descriptor."""
    header = struct.pack("<4sIIQQQQIQQQBBBBBH", b"KDMV", 3, 3, sectors, 128, 1, 20, 512, 0, 21, 128,
                         0, 10, 32, 13, 10, 1)
    return (header.ljust(512, b"\0") + text.encode().ljust(20 * 512, b"\0")).ljust(MIB, b"\0")
