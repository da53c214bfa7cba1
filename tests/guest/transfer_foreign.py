#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Machines of other makers: OVA, OVF and VMware's folders, and those that somebody made to harm.

    transfer_foreign.py TRAPEZE LOOP_ELF
"""
import os
import subprocess
import sys
import tarfile

from archive_maker import member
from daemon_client import HOST, USAGE
from one_store import (MIB, contents, delete, folder, instances, main, make_raw, read, scratch,
                       trapeze, vmx)
from ova_maker import Ova, item, sparse_vmdk


def test_an_ova_by_other_software():
    disks = [make_raw(f"ova{n}.raw", (n + 3) * MIB, 20 + n) for n in range(3)]
    for version, algorithm, os_type in ((1, "sha1", "debian12_64Guest"), (2, "sha256", "riscv64")):
        ova = Ova([(disks[0], 4, 0), (disks[1], 3, 1), (disks[2], 3, 0)], version=version,
                  os_type=os_type)
        ova.algorithm = algorithm
        ova.items += [item(InstanceID=20, ResourceType=10, ResourceSubType="E1000",
                           Connection="VM Network", ElementName="net 1"),
                      item(InstanceID=21, ResourceType=10, ResourceSubType="VmxNet3",
                           ElementName="net 2"),
                      item(InstanceID=22, ResourceType=35, ElementName="sound card")]
        done = trapeze("import", ova.write())
        assert done.stdout == "My-Appliance: imported\n", done
        text = vmx("My-Appliance")
        assert text["memsize"] == "96" and text["numvcpus"] == "2" and text["guestOS"] == os_type
        names = [text[f"{place}.fileName"] for place in ("scsi0:0", "scsi0:1", "sata0:0")]
        for name, raw in zip(names, (disks[2], disks[1], disks[0])):
            path = f"{folder('My-Appliance')}/{name}"
            assert contents(path, "qcow2") == read(raw), name
            subprocess.run(["qemu-img", "check", "-q", path], check=True)
        assert text["ethernet0.virtualDev"] == "e1000", text
        assert text.get("ethernet1.virtualDev", "virtio") == "virtio", text
        for word in ("sound card", "VmxNet3"):
            assert word in done.stderr, done.stderr
        if os_type == "riscv64":
            assert "will not run" not in done.stderr
            assert ("trapeze.kernel" in text) == os.path.exists(
                "/usr/lib/u-boot/qemu-riscv64_smode/uboot.elf")
        else:
            assert "debian12_64Guest" in done.stderr and "will not run" in done.stderr
        delete("My-Appliance")


def test_an_ovf_beside_its_disks():
    raw = make_raw("ovf.raw", 4 * MIB, 30)
    ova = Ova([(raw, 3, 0)], name="beside")
    place = scratch("beside")
    os.mkdir(place)
    for name, data in ova.members().items():
        with open(f"{place}/{name}", "wb") as file:
            file.write(data)
    for path, name in ((f"{place}/appliance.ovf", "one"), (place, "two")):
        trapeze("import", path, name)
        assert contents(f"{folder(name)}/{vmx(name)['scsi0:0.fileName']}", "qcow2") == read(raw)
        delete(name)


def test_hostile_ovas_are_refused():
    secret = scratch("secret.flat")
    with open(secret, "wb") as file:
        file.write(b"SECRET" * 200000)
    raw = make_raw("small.raw", 2 * MIB, 31)
    descriptor = ("# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID={parent}\n"
                  "createType=\"monolithicFlat\"\n{hint}RW 2048 FLAT \"{path}\" 0\n")
    plain_text = descriptor.format(parent="ffffffff", hint="", path=secret)
    cases = []

    def case(*wanted, disks=((raw, 3, 0),), **options):
        cases.append((Ova(disks, **options), wanted))
        return cases[-1][0]
    case("document type").texts["doctype"] = ('<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
                                              '<!ENTITY b "&a;&a;&a;&a;&a;&a;">]>')
    case("document type").texts["doctype"] = '<!DOCTYPE x SYSTEM "file:///etc/passwd">'
    case("deep").texts["files"] += "<a>" * 100 + "</a>" * 100
    case("line").texts["files"] += "<a>"
    case("0 machines").systems = 0
    case("2 machines").systems = 2
    case("too large").texts["files"] += "<!--" + "x" * MIB + "-->"
    case("items").items += [item(ResourceType=17)] * 200
    case("sum").spoil = lambda text: text.replace("= ", "= 0", 1)
    case("header").files["appliance disk0.vmdk"] = b"KDMV"
    case("makes no sense").spoil = lambda text: "SHA256 of everything\n"
    case("not known").spoil = lambda text: text.replace("SHA256", "MD5")
    case("sum").spoil = lambda text: text + "SHA256(other)= 00\n"
    for href in ("../x.vmdk", "/etc/passwd", "a/b.vmdk", ".hidden"):
        spoiled = case("archive" if "/" in href or href[0] == "." else "", disks=())
        spoiled.add(href, b"x", 512)
    case("capacity").texts["disks"] += '<Disk ovf:diskId="x" ovf:capacity="99999999999999999999"/>'
    for wanted, data in (("other files", plain_text.encode()),
                         ("header", sparse_vmdk(0, plain_text)),
                         ("announced", sparse_vmdk(1 << 40)),
                         ("another disk", plain_text.replace(
                             "RW", f'parentFileNameHint="{secret}"\nRW').encode()),
                         ("other files", plain_text.replace("RW", "\v\fRW").encode()),
                         ("other files", plain_text.replace("RW ", "RW\n").encode()),
                         ("ESX", b"COWD" + bytes(1000)),
                         ("", b"QFI\xfb" + bytes(1000)), ("", b"")):
        case(wanted, disks=()).add("d.vmdk", data, MIB)
    case("lies on another").add("d.vmdk", b"x", 512, more=' ovf:parentRef="d0"')
    case("gzip").add("d.vmdk", b"x", 512, file_more=' ovf:compression="gzip"')
    case("").add("d.vmdk", b"x", 512, file_more=' ovf:chunkSize="7"')
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        case("archive").more.append(member("more", kind, b"", linkname=secret))
    case("twice").more.append(member("appliance.ovf"))
    for number, (ova, wanted) in enumerate(cases):
        done = trapeze("import", ova.write(), "evil", status=None)
        lines = done.stderr.strip().splitlines()
        assert done.returncode in (USAGE, HOST) and len(lines) == 1, (number, wanted, done)
        assert all(part in lines[0] for part in wanted), (number, wanted, done)
        assert instances() == [], number
    # A VMDK that claims to lie on a file of the host: what it has not is zero.
    ova = Ova()
    child, parent = scratch("child.vmdk"), scratch("parent.vmdk")
    subprocess.run(["qemu-img", "convert", "-O", "vmdk", raw, parent], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", child],
                   check=True)
    ova.add("child.vmdk", read(child), 2 * MIB)
    if trapeze("import", ova.write(), "evil", status=None).returncode == 0:
        disk = f"{folder('evil')}/{vmx('evil')['scsi0:0.fileName']}"
        assert contents(disk, "qcow2") == bytes(2 * MIB)
        delete("evil")
    assert instances() == []


def test_a_folder_by_vmware():
    """As Workstation writes it: a flat disk with its descriptor, keys that mean nothing here."""
    raw = make_raw("ws.raw", 3 * MIB, 33)
    secret = make_raw("secret2.raw", MIB, 34)
    place = scratch("Debian 12 64-bit")
    os.mkdir(place)
    subprocess.run(["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw,
                    f"{place}/Debian 12.vmdk"], check=True)
    text = f""".encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = "Debian 12 64-bit"
guestOS = "debian12-64"
memsize = "128"
numvcpus = "2"
uuid.bios = "56 4d 01 02 03 04 05 06-07 08 09 0a 0b 0c 0d 0e"
scsi0.present = "TRUE"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "Debian 12.vmdk"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "{secret}"
ethernet0.present = "TRUE"
ethernet0.connectionType = "nat"
ethernet0.virtualDev = "e1000"
sound.present = "TRUE"
"""
    with open(f"{place}/Debian.vmx", "w", encoding="utf-8") as file:
        file.write(text)
    done = trapeze("import", place)
    assert done.stdout == "Debian: imported\n", done
    for word in ("secret2.raw", "sound.present", "will not run"):
        assert word in done.stderr, (word, done.stderr)
    after = vmx("Debian")
    disks = [value for key, value in after.items() if key.endswith("fileName")]
    assert len(disks) == 1 and contents(f"{folder('Debian')}/{disks[0]}", "qcow2") == read(raw)
    assert after["memsize"] == "128" and after["uuid.bios"] not in text
    delete("Debian")
    # Descriptors that lead elsewhere.
    descriptor = read(f"{place}/Debian 12.vmdk").decode()
    flat = "Debian 12-flat.vmdk"
    assert flat in descriptor
    for spoiled in (descriptor.replace(flat, secret), descriptor.replace(flat, "../secret2.raw"),
                    descriptor.replace(flat, secret).replace("\nRW ", "\n\vRW "),
                    descriptor.replace(flat, secret).replace("\nRW ", "\nRW\n"),
                    descriptor.replace(flat, secret).replace(' "/', '\n"/'),
                    descriptor.replace(flat, "link"),
                    descriptor.replace("RW ", f'parentFileNameHint="{secret}"\nRW ', 1)):
        with open(f"{place}/Debian 12.vmdk", "w", encoding="utf-8") as file:
            file.write(spoiled)
        if not os.path.lexists(f"{place}/link"):
            os.symlink(secret, f"{place}/link")
        done = trapeze("import", place, status=None)
        assert done.returncode in (USAGE, HOST) and instances() == [], done


if __name__ == "__main__":
    sys.exit(main(globals()))
