#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Debian guest that is usable at once: OpenSSH, apt, iperf3, through NAT.

    ssh.py TRAPEZE
"""
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import tap
from machine import FULL, LIMIT_S, LOGIN_PROMPT, image, Machine, scratch, Shared

TRAPEZE = os.path.abspath(sys.argv[1])
image("debian", TRAPEZE)
PROMPT = rb"root@\S+:\S+# (\x1b\[[0-9;?]*[a-zA-Z])*$"

# The guest has its address and the key from its seed; or else what there is to know about it.
READY = "ip -4 addr | grep -q 10.0.2.15 && [ -s /root/.ssh/authorized_keys ]"
WHY_NOT = ("ip addr; systemctl --no-pager --full status trapeze-dhcp trapeze-seed; "
           "systemctl --no-pager list-jobs; ls -l /dev/vd* /dev/disk/by-label; "
           "cat /proc/interrupts; journalctl --no-pager -b | tail -n 80")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Debian(Machine):
    """Logged in on the console, with an address, and reachable by self.ssh()."""

    def __init__(self, *options):
        self.key, self.port = scratch("key"), free_port()
        if not os.path.exists(self.key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key],
                           check=True)
        super().__init__(TRAPEZE, "--image", "debian", "--net", "nat,host-loopback=on",
                         "--forward", f"tcp:{self.port}:22", "--ssh-key", self.key + ".pub",
                         "--hostname", "lab-1", *options)

    def begin(self):
        self.expect(LOGIN_PROMPT)
        self.send("root\n")
        self.expect(PROMPT)
        self.send("PS1=\"~ # \"; bind 'set enable-bracketed-paste off'; cd\n")
        self.shell()
        self.run(f"SECONDS=0; until {READY}; do [ $SECONDS -lt {LIMIT_S * 2 // 3} ] || "
                 f"{{ {WHY_NOT}; break; }}; sleep 1; done; {READY}")

    def ssh(self, *command, given=None, program="ssh", port="-p"):
        return subprocess.run(
            [program, "-i", self.key, "-o", "StrictHostKeyChecking=accept-new", "-o",
             f"UserKnownHostsFile={scratch('hosts')}", "-o", "BatchMode=yes", port,
             str(self.port), *command], input=given, capture_output=True, check=False,
            timeout=LIMIT_S)

    def poweroff(self):
        self.send("poweroff\n")
        return self.finish()


MAIN = Shared(Debian)


def archive_of(debian):
    """What the guest's apt is set up for: its Release file, if this host, too, reaches it."""
    base = debian.run("apt-get indextargets --no-release-info --format '$(BASE_URI)' "
                      "'Created-By: Packages' | head -n 1").strip()
    assert base, "the guest's apt has no archive"
    try:
        with urllib.request.urlopen(base + "InRelease", timeout=10) as answer:
            return base + "InRelease", answer.read()
    except OSError as error:
        raise tap.Skip("the guest's Debian archive cannot be reached from here") from error


def test_ssh_reaches_a_new_machine():
    with MAIN.use() as debian:
        done = debian.ssh("root@127.0.0.1", "hostname; id -un; cat", given=b"through the tunnel")
        assert done.returncode == 0, done
        assert done.stdout == b"lab-1\nroot\nthrough the tunnel", done
        data = os.urandom(1 << 20)
        with open(scratch("sent"), "wb") as file:
            file.write(data)
        for words in ((scratch("sent"), "root@127.0.0.1:/tmp/x"),
                      ("root@127.0.0.1:/tmp/x", scratch("got"))):
            done = debian.ssh(*words, program="scp", port="-P")
            assert done.returncode == 0, done
        with open(scratch("got"), "rb") as file:
            assert file.read() == data
        # Who has no key stays outside.
        debian.run("rm /root/.ssh/authorized_keys")
        assert debian.ssh("root@127.0.0.1", "true").returncode == 255
        failed = debian.run("systemctl --failed --no-legend --plain | cat").strip()
        assert failed == "", failed
        assert "nameserver 10.0.2.3" in debian.run("cat /etc/resolv.conf")


def test_user_data_runs_a_script():
    script = scratch("user-data")
    with open(script, "w") as file:
        file.write("#!/bin/sh\necho 'user-data ran' > /root/ran\n")
    with Machine(TRAPEZE, "--image", "debian", "--user-data", script) as debian:
        Debian.expect(debian, LOGIN_PROMPT)
        debian.send("root\n")
        debian.expect(PROMPT)
        debian.send("PS1=\"~ # \"; bind 'set enable-bracketed-paste off'; cd\n")
        debian.shell()
        assert "user-data ran" in debian.run("until [ -e ran ]; do sleep 1; done; cat ran")
        debian.send("poweroff\n")
        debian.finish()


def test_the_archive_is_reached_through_nat():
    with MAIN.use(last=not FULL) as debian:
        url, release = archive_of(debian)
        debian.run(f"/usr/lib/apt/apt-helper download-file {url} /tmp/release >/tmp/log 2>&1 || "
                   "{ cat /tmp/log; false; }")
        assert debian.run("sha256sum /tmp/release").split()[0] == hashlib.sha256(release).hexdigest()
        if not FULL:
            debian.poweroff()


def test_packages_come_through_nat_and_iperf3_is_fast():
    if not FULL:
        raise tap.Skip("full tier only: the guest takes half a minute to read the archive's lists")
    if not shutil.which("iperf3"):
        raise tap.Skip("iperf3 is not installed on the host")
    with MAIN.use(last=True) as debian:
        archive_of(debian)
        debian.run("apt-get -q update >/tmp/log 2>&1 || { cat /tmp/log; false; }")
        debian.run("DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "
                   "iperf3 >/tmp/log 2>&1 || { tail /tmp/log; false; }")
        port = free_port()
        server = subprocess.Popen(["iperf3", "-s", "-p", str(port)], stdout=subprocess.DEVNULL)
        try:
            time.sleep(1)
            for way in ("", "-R"):
                text = debian.run(f"iperf3 -J -c 10.0.2.2 -p {port} -t 5 {way}")
                end = json.loads(text[text.index("{"):text.rindex("}") + 1])["end"]
                rate = end["sum_received"]["bits_per_second"]
                print(f"# iperf3 {way or 'up'}: {rate / 1e6:.0f} Mbit/s", flush=True)
                assert rate > 1e6, end
        finally:
            server.kill()
            server.wait()
        assert re.search(r"iperf 3", debian.run("iperf3 --version"))
        debian.poweroff()


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
