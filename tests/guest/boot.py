#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Debian's own kernel in every way a machine can start, with the drivers it brings.

    boot.py TRAPEZE [ENGINE]

The quick tier tries the interpreter on some of them only.
"""
import glob
import hashlib
import os
import re
import subprocess
import sys
import time

import tap
from machine import FULL, Machine, Shared, image, scratch

TRAPEZE = sys.argv[1]
ENGINE = sys.argv[2] if len(sys.argv) > 2 else "auto"
TINY = image("tiny", TRAPEZE)
LINUX = ["--kernel", TINY + "/Image", "--initrd", TINY + "/initrd", "--memory", "128M",
         "--engine", ENGINE]
CRASH = 122


# Machines that several tests use.
ONE = Shared(lambda: Machine(TRAPEZE, *LINUX, "--append", "console=ttyS0 earlycon=sbi"))
FOUR = Shared(lambda: Machine(TRAPEZE, *LINUX, "--cpus", "4"))
PLIC = Shared(lambda: Machine(TRAPEZE, *LINUX, "--cpus", "3", "--interrupts", "plic", "--append",
                              "console=ttyS0 no5lvl"))
AIA = Shared(lambda: Machine(TRAPEZE, *LINUX, "--cpus", "3", "--interrupts", "aia", "--append",
                             "console=ttyS0 no4lvl"))
HVC = Shared(lambda: Machine(TRAPEZE, *LINUX, "--console-device", "virtio", "--no-reboot",
                             "--append", "console=hvc0"))


def make_disk(name, mib):
    path = scratch(name)
    with open(path, "wb") as out:
        out.truncate(mib << 20)
    return path


def start_with_disks():
    """Disks to write on, to read, and with a file system."""
    files = make_disk("fs.img", 64)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", files], check=True)
    return Machine(TRAPEZE, *LINUX, "--cpus", "2", "--disk", make_disk("a.img", 64) + ",serial=SER1",
                   "--disk", make_disk("b.img", 8) + ",readonly", "--disk", files)


DISKS = Shared(start_with_disks)


def firmware(name):
    found = glob.glob("/usr/lib/riscv64-linux-gnu/opensbi/generic/" + name)
    if not found:
        raise tap.Skip("Debian's opensbi package is not installed")
    return found[0]


def test_one_hart_with_our_sbi():
    with ONE.use() as machine:
        assert machine.run("nproc").strip() == "1"
        log = machine.run("dmesg")
        assert "SBI specification v2.0 detected" in log
        for extension in ("TIME", "IPI", "RFENCE", "SRST", "DBCN"):
            assert f"SBI {extension} extension detected" in log, extension


def test_four_harts_with_our_sbi():
    with FOUR.use() as machine:
        assert machine.run("nproc").strip() == "4"


def test_eight_harts():
    with Machine(TRAPEZE, *LINUX, "--cpus", "8") as machine:
        machine.shell()
        assert machine.run("nproc").strip() == "8"
        machine.poweroff()


def test_harts_that_come_and_go():
    """Room for four; two at the start. What is off uses nothing, and a reset starts what is wished for."""
    cpu = "/sys/devices/system/cpu"
    with Machine(TRAPEZE, *LINUX, "--cpus", "2", "--max-cpus", "4", "--append",
                 "console=ttyS0 quiet") as machine:
        machine.shell()
        assert machine.run(f"cat {cpu}/present {cpu}/online").split() == ["0-3", "0-1"]
        assert "maxcpus=2 console=ttyS0 quiet" in machine.run("cat /proc/cmdline")
        assert machine.verb("cpus") == {"max": 4, "started": 2}
        machine.run(f"echo 1 >{cpu}/cpu2/online; echo 1 >{cpu}/cpu3/online; echo 0 >{cpu}/cpu1/online")
        assert machine.verb("cpus") == {"max": 4, "started": 3}
        before = [vcpu["instructions"] for vcpu in machine.verb("stats")["vcpus"]]
        assert machine.run("for i in 1 2 3 4; do (seq 20000 >/dev/null) & done; wait; nproc").strip() == "3"
        after = [vcpu["instructions"] for vcpu in machine.verb("stats")["vcpus"]]
        assert after[1] == before[1] > 0 and after[0] > before[0] and after[3] > before[3], (before, after)
        assert machine.verb("cpus", "count=3")["max"] == 4
        machine.verb("reset")
        machine.shell()
        assert machine.run(f"cat {cpu}/online").strip() == "0-2"
        machine.poweroff()


def check_interrupts(machine, kind):
    lines = machine.run("cat /proc/interrupts; dd if=/dev/hwrng of=/dev/null count=4")
    assert ("SiFive PLIC" in lines) == (kind == "plic"), lines
    assert ("PCI-MSIX" in lines) == (kind == "aia"), lines
    log = machine.log.decode(errors="replace")
    assert ("providing IPIs using interrupt" in log) == (kind == "aia")


def opensbi_version(machine):
    found = re.search(r"OpenSBI v(\d+)\.(\d+)", machine.log.decode(errors="replace"))
    return tuple(map(int, found.groups()))


def test_opensbi_as_firmware():
    order = []
    ways = (("fw_jump.elf", 1, "aia"), ("fw_dynamic.bin", 3, "plic"),
            ("fw_dynamic.elf", 4, "aia"), ("fw_jump.bin", 4, "plic"))
    for name, cpus, kind in ways if FULL else ways[:2]:
        with Machine(TRAPEZE, *LINUX, "--firmware", firmware(name), "--cpus", str(cpus),
                     "--interrupts", kind, *order) as machine:
            machine.shell()
            assert machine.run("nproc").strip() == str(cpus)
            check_interrupts(machine, kind)
            assert machine.verb("cpus") == {"max": cpus, "started": 0}  # only OpenSBI knows
            machine.poweroff()
        log = machine.log.decode(errors="replace")
        assert "SBI implementation ID=0x1 " in log, name
        # Before 1.3 its hart_start marks a hart as started and then says where: a hart that looks
        # in between, as may be on a busy host, goes to where the kernel begins and destroys it.
        if opensbi_version(machine) < (1, 3):
            order = ["--deterministic"]


def test_interrupt_controllers():
    for shared, kind in ((PLIC, "plic"), (AIA, "aia")):
        with shared.use() as machine:
            check_interrupts(machine, kind)


def test_aia_is_chosen_for_a_kernel_that_knows_it():
    with ONE.use() as machine:
        assert "PCI-MSIX" in machine.run("cat /proc/interrupts")


def test_paging_modes():
    for shared, mode, last in ((ONE, "sv57", False), (PLIC, "sv48", True), (AIA, "sv39", True)):
        with shared.use(last) as machine:
            assert re.search(rf"mmu\s*: {mode}\b", machine.run("cat /proc/cpuinfo")), mode
            assert int(machine.run("grep -c . /proc/self/maps")) > 3, mode
            if last:
                machine.poweroff()


def test_devices_as_linux_sees_them():
    with ONE.use() as machine:
        log = machine.log.decode(errors="replace")
        assert "rtc-goldfish" in log or "goldfish_rtc" in log
        assert "virtio_rng.0" in machine.run("cat /sys/class/misc/hw_random/rng_available")
        machine.run("dd if=/dev/hwrng of=/dev/null bs=64 count=64")
        tree = "/proc/device-tree"
        assert machine.run(f"cat {tree}/model").strip("\0\n") == "trapeze,virt"
        extensions = machine.run(
            f"tr '\\0' ' ' < {tree}/cpus/cpu@0/riscv,isa-extensions; echo").split()
        for wanted in ("i m a f d c zicsr zifencei zicntr zba zbb zbs zicbom zicbop zicboz zicond "
                       "zawrs zihintpause sstc svinval svnapot svpbmt svadu svvptc").split():
            assert wanted in extensions, wanted
        assert "svade" not in extensions
        assert "trapeze" in machine.run(f"cat {tree}/hypervisor/compatible")
        date = int(machine.run("date +%s"))
        assert abs(date - int(subprocess.run(["date", "+%s"], capture_output=True,
                                             check=True).stdout)) < 3600


def sha256_of(path, size):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()


def sum_of_the_disk(machine):
    machine.run("echo 3 > /proc/sys/vm/drop_caches")
    return machine.run("dd if=/dev/vda bs=64k count=500 2>/dev/null | sha256sum").split()[0]


def test_a_disk_keeps_what_was_written():
    with DISKS.use() as machine:
        machine.run("dd if=/dev/urandom of=/dev/vda bs=64k count=500 conv=fsync")
        assert sum_of_the_disk(machine) == sha256_of(scratch("a.img"), 500 * 65536)
        assert machine.run("cat /sys/block/vda/serial").strip() == "SER1"
        assert machine.run("cat /sys/block/vdb/ro").strip() == "1"
        assert machine.run("cat /sys/block/vdb/size").strip() == str((8 << 20) // 512)


def test_a_disk_has_a_queue_for_each_vcpu():
    many, few = make_disk("many.img", 16), make_disk("few.img", 16)
    disks = ["--disk", many, "--disk", few + ",queues=2"]
    for kind, queues in (("aia", (4, 2)), ("plic", (1, 2))):
        with Machine(TRAPEZE, *LINUX, "--cpus", "4", "--interrupts", kind, *disks) as machine:
            machine.shell()
            for name, count in zip(("vda", "vdb"), queues):
                assert len(machine.run(f"ls /sys/block/{name}/mq").split()) == count, (kind, name)
                # Each queue, from the vCPU that it belongs to.
                machine.run("for i in 0 1 2 3; do (on=\"taskset $((1 << i))\"; $on dd if=/dev/zero "
                            f"of=/dev/{name} bs=64k count=16 seek=$((16 * i)) oflag=direct; "
                            f"$on dd if=/dev/{name} of=/tmp/$i bs=64k count=16 skip=$((16 * i)) "
                            "iflag=direct) 2>/dev/null & done; wait")
                assert machine.run("cat /tmp/? | wc -c").strip() == str(4 << 20)
            if kind == "aia":
                lines = re.findall(r"((?: +\d+){4}) .*virtio\d+-req\.\d+",
                                   machine.run("cat /proc/interrupts"))
                assert len(lines) == 6 and all(any(map(int, line.split())) for line in lines), lines
            machine.poweroff()


def test_a_file_system_on_a_disk():
    with DISKS.use() as machine:
        machine.run("modprobe ext4 2>/dev/null; mkdir -p /mnt; mount -t ext4 /dev/vdc /mnt")
        for number in range(8):
            machine.run(f"dd if=/dev/urandom of=/mnt/{number} bs=100k count=10 2>/dev/null")
        machine.run("cd /mnt; sha256sum 0 1 2 3 4 5 6 7 > sums; sync; cd /")
        machine.run("umount /mnt; echo 3 > /proc/sys/vm/drop_caches; mount -t ext4 /dev/vdc /mnt")
        machine.run("cd /mnt; sha256sum -c sums; cd /; umount /mnt")
    subprocess.run(["/sbin/e2fsck", "-fn", scratch("fs.img")], check=True,
                   stdout=subprocess.DEVNULL)


def test_virtio_devices_without_pci():
    path = make_disk("mmio.img", 16)
    with Machine(TRAPEZE, *LINUX, "--virtio", "mmio", "--disk", path + ",serial=SER2", "--net",
                 "internal:boot-mmio", "--balloon") as machine:
        machine.shell()
        for kind in ("block/vda", "net/eth0"):
            assert "virtio_mmio" in machine.run(f"readlink -f /sys/class/{kind}"), kind
        assert "SER2" in machine.run("cat /sys/block/vda/serial")
        assert "virtio_rng" in machine.run("cat /sys/class/misc/hw_random/rng_available")
        machine.run("ip link set eth0 up; yes trapeze | head -c 1000000 > /dev/vda; sync")
        machine.send("reboot -f\n")
        machine.expect(rb"Restarting system|reboot: ")
        machine.shell()
        out = machine.run("head -c 1000000 /dev/vda | sha256sum")
        assert hashlib.sha256(b"trapeze\n" * 125000).hexdigest() in out, out
        machine.poweroff()


def test_a_disk_in_use_is_refused():
    with DISKS.use():
        done = subprocess.run([TRAPEZE, "run", *LINUX, "--disk", scratch("a.img")],
                              capture_output=True, stdin=subprocess.DEVNULL, text=True,
                              check=False)
        assert done.returncode == 121 and "a.img" in done.stderr, done


def test_a_reboot_starts_again_in_place():
    with DISKS.use(last=True) as machine:
        for _ in range(2 if FULL else 1):
            machine.send("reboot -f\n")
            machine.expect(rb"Restarting system|reboot: ")
            machine.shell()
            assert machine.run("nproc").strip() == "2"
            assert sum_of_the_disk(machine) == sha256_of(scratch("a.img"), 500 * 65536)
        machine.poweroff()


def resident_mib(machine):
    """Memory of the worker, whose parent is the command."""
    parent = machine.process.pid
    with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
        worker = file.read().split()[0]
    with open(f"/proc/{worker}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20


def wait_until(condition, what):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(what)


def test_a_balloon_gives_memory_back():
    with Machine(TRAPEZE, *LINUX, "--memory", "512M", "--balloon") as machine:
        machine.shell()
        before = resident_mib(machine)
        machine.run("dd if=/dev/zero of=/tmp/x bs=1M count=150 2>/dev/null")
        full = resident_mib(machine)
        assert full > before + 100, (before, full)
        machine.run("rm /tmp/x")
        # Free page reporting: nobody asks for it.
        wait_until(lambda: resident_mib(machine) < full - 100, "free pages are not given back")
        machine.verb("balloon", "size=250M")
        wait_until(lambda: machine.verb("balloon")["given-up"] == (512 - 250) << 20, "no inflation")
        assert int(machine.run("free -m | sed -n 's/^Mem: *[0-9]* *//p'").split()[0]) > 250
        wait_until(lambda: machine.verb("balloon")["guest"]["free"] < 230 << 20, "no statistics")
        machine.verb("balloon", "size=512M")
        wait_until(lambda: machine.verb("balloon")["given-up"] == 0, "no deflation")
        machine.poweroff()
    with Machine(TRAPEZE, *LINUX, "--memory", "512M", "--balloon=300M") as machine:
        machine.shell()
        wait_until(lambda: machine.verb("balloon")["given-up"] == 212 << 20, "no inflation")
        # More than is left: the balloon lets go instead of the guest killing somebody.
        machine.run("dd if=/dev/zero of=/tmp/x bs=1M count=200 2>/dev/null; ls -l /tmp/x")
        machine.poweroff()


def test_the_virtio_console():
    with HVC.use() as machine:
        text = machine.run("seq 1 3000")
        assert text.split() == [str(n) for n in range(1, 3001)]


def test_no_reboot_ends_instead():
    with HVC.use(last=True) as machine:
        machine.send("reboot -f\n")
        machine.finish(0)


def test_a_kernel_panic_is_a_crash():
    with ONE.use(last=True) as machine:
        machine.send("echo c > /proc/sysrq-trigger\n")
        assert "Kernel panic - not syncing" in machine.finish(CRASH)


def test_pause_and_resume_under_load():
    with FOUR.use(last=True) as machine:
        machine.send("for i in 1 2 3 4; do (seq 1 30000 | sha256sum; echo part'=done') & done; "
                     "wait; echo all'=done'\n")
        for _ in range(20):
            machine.verb("pause")
            before = machine.verb("status")
            assert before["state"] == "paused"
            assert machine.verb("status") == before
            machine.verb("resume")
        machine.expect(rb"all=done")
        sums = re.findall(rb"([0-9a-f]{64})  -", machine.log)
        expected = hashlib.sha256("".join(f"{n}\n" for n in range(1, 30001)).encode()).hexdigest()
        assert [s.decode() for s in sums] == [expected] * 4, sums
        machine.poweroff()


def test_a_deterministic_machine_runs_the_same_twice():
    script = scratch("script.img")
    with open(script, "wb") as out:
        out.write(b"head -c 1000 /dev/urandom | sha256sum; cat /proc/uptime; date; "
                  b"dd if=/dev/vda bs=4k count=100 2>/dev/null | sha256sum\n".ljust(8192, b"\0"))
    disk = make_disk("det.img", 4)
    logs = []
    again = [("7", ENGINE)] if FULL or ENGINE == "interp" else []
    for seed, engine in [("8", ENGINE), ("7", ENGINE), ("7", "interp")] + again:
        done = subprocess.run(
            [TRAPEZE, "run", *LINUX, "--engine", engine, "--cpus", "2", f"--deterministic={seed}",
             "--append",
             "console=ttyS0 trapeze.test=vdb", "--disk", disk, "--disk", script],
            capture_output=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, done
        assert b"trapeze-test: exit 0" in done.stdout, done.stdout[-2000:]
        logs.append(done.stdout)
    assert all(log == logs[1] for log in logs[2:])
    assert logs[0] != logs[1]


INTERP_QUICK = ("four_harts", "devices", "keeps", "panic")
TESTS = [test for name, test in list(globals().items()) if name.startswith("test_")]
if ENGINE == "interp" and not FULL:
    TESTS = [test for test in TESTS if any(word in test.__name__ for word in INTERP_QUICK)]
sys.exit(tap.main(TESTS))
