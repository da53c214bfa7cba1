#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The PC's ACPI tables as ACPICA reads them (iasl, acpiexec).  acpi.py ACPI_TABLES-PROGRAM"""
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

SOURCE = os.environ.get("TRAPEZE_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
sys.path.insert(0, os.path.join(SOURCE, "tests/guest"))
import tap  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
GPA = 0xe0000
FOLDER = tempfile.TemporaryDirectory()


def run(*argv, status=0):
    done = subprocess.run(argv, capture_output=True, text=True, cwd=FOLDER.name, check=False,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == status, done
    return done.stdout + done.stderr


def needs(tool):
    if not shutil.which(tool):
        raise tap.Skip("Debian's acpica-tools is not installed")


def tables(cpus, *keyboard):
    """{signature: bytes}, found as an operating system finds them."""
    run(PROGRAM, str(cpus), FOLDER.name, *keyboard)
    with open(os.path.join(FOLDER.name, "memory"), "rb") as file:
        memory = file.read()

    def table(gpa):
        at = gpa - GPA
        size, = struct.unpack_from("<I", memory, at + 4)
        data = memory[at:at + size]
        assert len(data) == size and gpa % 16 == 0
        return data
    rsdp = memory[:36]
    assert rsdp[:8] == b"RSD PTR " and rsdp[15] == 2
    assert sum(rsdp[:20]) % 256 == 0 and sum(rsdp) % 256 == 0
    xsdt = table(struct.unpack_from("<Q", rsdp, 24)[0])
    found = {}
    for at in range(36, len(xsdt), 8):
        data = table(struct.unpack_from("<Q", xsdt, at)[0])
        found[data[:4].decode()] = data
    facp = found["FACP"]
    found["FACS"] = table(struct.unpack_from("<I", facp, 36)[0])
    found["DSDT"] = table(struct.unpack_from("<I", facp, 40)[0])
    assert struct.unpack_from("<Q", facp, 140)[0] == struct.unpack_from("<I", facp, 40)[0]
    for name, data in found.items():
        assert name == "FACS" or sum(data) % 256 == 0, name
        with open(os.path.join(FOLDER.name, name + ".aml"), "wb") as out:
            out.write(data)
    return found


def test_every_table_is_there_and_iasl_reads_it():
    needs("iasl")
    for cpus in (1, 8):
        found = tables(cpus)
        assert set(found) == {"FACP", "FACS", "DSDT", "APIC", "MCFG"}
        for name in found:
            said = run("iasl", "-d", name + ".aml")
            assert not re.search(r"(?i)error|warning|invalid|unknown|checksum", said), said
        with open(os.path.join(FOLDER.name, "APIC.dsl"), encoding="utf-8") as file:
            text = file.read()
        assert text.count("[Processor Local APIC]") == cpus, text


def test_what_was_read_compiles_again_without_remarks():
    needs("iasl")
    tables(2)
    run("iasl", "-d", "DSDT.aml")
    said = run("iasl", "-p", "again", "DSDT.dsl")
    assert "0 Errors, 0 Warnings" in said, said


def test_the_fadt_is_what_the_ports_are():
    needs("iasl")
    tables(1)
    run("iasl", "-d", "FACP.aml")
    with open(os.path.join(FOLDER.name, "FACP.dsl"), encoding="utf-8") as file:
        text = file.read()
    for line in ("SCI Interrupt : 0009", "PM1A Event Block Address : 00000600",
                 "PM1A Control Block Address : 00000604", "PM Timer Block Address : 00000608",
                 "PM1 Event Block Length : 04", "PM1 Control Block Length : 02",
                 "PM Timer Block Length : 04", "Value to cause reset : FE",
                 "Reset Register Supported (V2) : 1", "Control Method Power Button (V1) : 0",
                 "Control Method Sleep Button (V1) : 1", "Hardware Reduced (V5) : 0",
                 "32-bit PM Timer (V1) : 1", "8042 Present on ports 60/64 (V2) : 0",
                 "Boot Flags (decoded below) : 0015"):
        assert line in text, (line, text)


def test_a_keyboard_is_where_drivers_look_for_it():
    needs("iasl")
    tables(1, "keyboard")
    text = ""
    for name in "FACP", "DSDT":
        run("iasl", "-d", name + ".aml")
        with open(os.path.join(FOLDER.name, name + ".dsl"), encoding="utf-8") as file:
            text += file.read()
    assert "8042 Present on ports 60/64 (V2) : 1" in text, text
    keyboard = re.search(r"Device \(KBD_?\)(.*?)\n        \}\n", text, re.DOTALL).group(1)
    assert "PNP0303" in keyboard and "0x0060" in keyboard and "0x0064" in keyboard, keyboard
    assert re.search(r"Interrupt \(ResourceConsumer, Edge, ActiveHigh.*?\{\s*0x00000001", keyboard, re.DOTALL), keyboard


def test_acpica_loads_and_runs_it():
    needs("acpiexec")
    tables(2)

    def evaluate(command):
        return run("acpiexec", "-b", command, "DSDT.aml")
    said = evaluate("namespace")
    assert not re.search(r"ACPI (Error|Warning|Exception)", said), said
    for name in ("PCI0", "COM1", "RTC_", "VGEN", "VGED", "C000", "C001", "_S5_"):
        assert name in said, (name, said)
    said = evaluate("resources \\_SB.PCI0")
    assert re.search(r"Address Minimum : 00000000C0000000|Address Minimum : C0000000", said), said
    said = evaluate("evaluate \\_SB.PCI0._PRT")
    assert said.count("[Package]") > 100 and "ACPI Error" not in said, said
    said = evaluate("evaluate \\_SB.VGEN.ADDR")
    assert "FEB00000" in said, said


def test_virtio_slots_are_as_linux_driver_knows_them():
    needs("iasl")
    tables(1)
    run("iasl", "-d", "DSDT.aml")
    with open(os.path.join(FOLDER.name, "DSDT.dsl"), encoding="utf-8") as file:
        slots = re.findall(r"Device \(VR(\d\d)\)(.*?)\n        \}\n", file.read(), re.DOTALL)
    assert [number for number, _ in slots] == ["00", "01", "02"], slots
    for number, (_, text) in enumerate(slots):
        said = " ".join(re.sub(r"//.*", "", text).split())
        shared, irq = ("Exclusive", 0x15) if number == 1 else ("Shared", 5)
        assert '_HID, "LNRO0005"' in said and "_CCA, One" in said, said
        assert f"0xFEA0{number}000, 0x00001000," in said, said
        assert re.search(rf"Interrupt \(ResourceConsumer, Level, ActiveHigh, {shared}, ,, \) "
                         rf"\{{ 0x{irq:08X}, \}}", said), said


def osc(uuid, asked):
    """What acpiexec prints of _OSC's answer to capabilities that a system asks for."""
    words = " ".join(f"{byte:02X}" for byte in struct.pack("<III", 0, 0, asked))
    uuid = " ".join(uuid[2 * i:2 * i + 2] for i in range(16))
    return run("acpiexec", "-b",
               f"evaluate \\_SB.PCI0._OSC ({uuid}) 1 3 ({words})", "DSDT.aml")


def test_hot_plug_is_the_systems_affair():
    needs("acpiexec")
    tables(1)
    said = osc("5b4ddb33f71f1c4096577441c03dd766", 0x1f)
    assert re.search(r"00 00 00 00 00 00 00 00 11 00 00 00", said), said
    said = osc("00000000000000000000000000000000", 0x1f)
    assert re.search(r"04 00 00 00 00 00 00 00 1F 00 00 00", said), said


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
