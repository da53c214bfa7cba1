#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The main job: Debian 13, built by images/build, to its login prompt and back.

    debian.py TRAPEZE
"""
import os
import re
import subprocess
import sys

import tap
from machine import Machine, SOURCE, image

TRAPEZE = os.path.abspath(sys.argv[1])
image("debian", TRAPEZE)
PROMPT = rb"root@\S+:\S+# (\x1b\[[0-9;?]*[a-zA-Z])*$"


class Debian(Machine):
    def login(self):
        self.expect(rb"login: *$")
        self.send("root\n")
        self.expect(PROMPT)
        self.send("PS1=\"~ # \"; bind 'set enable-bracketed-paste off'; cd\n")
        self.shell()

    def poweroff(self):
        self.send("poweroff\n")
        return self.finish()


def test_login_look_around_and_poweroff():
    with Debian(TRAPEZE, "--image", "debian") as debian:
        debian.login()
        assert re.search(r"Linux debian .* riscv64 GNU/Linux", debian.run("uname -a"))
        assert "VERSION_ID=\"13\"" in debian.run("cat /etc/os-release")
        assert debian.run("apt-get --version").startswith("apt ")
        assert "vda" in debian.run("lsblk")
        failed = debian.run("systemctl --failed --no-legend --plain | cat").strip()
        assert failed == "", failed
        assert debian.run("systemd-detect-virt").strip() == "vm-other"
        assert debian.run("nproc").strip() == "2"
        assert debian.run("dpkg --audit").strip() == ""
        debian.poweroff()


def test_a_reboot_and_a_private_disk():
    with Debian(TRAPEZE, "--image", "debian", "--cpus", "1") as debian:
        debian.login()
        debian.run("touch /kept && sync")
        debian.send("reboot\n")
        debian.login()
        debian.run("test -e /kept")
        debian.poweroff()
    with Debian(TRAPEZE, "--image", "debian") as debian:
        debian.login()
        debian.run("test ! -e /kept")
        debian.poweroff()


def test_the_power_button():
    with Debian(TRAPEZE, "--image", "debian") as debian:
        debian.login()
        # logind opens the button some time after udev has found it.
        debian.run("until fuser -s /dev/input/event0; do sleep 1; done")
        debian.verb("powerdown")
        debian.expect(rb"systemd-shutdown\[1\]: All filesystems unmounted")
        debian.finish()


def test_make_run_without_a_terminal():
    done = subprocess.run([os.path.join(SOURCE, "scripts", "run-unattended.py"), TRAPEZE,
                           "--image", "debian"], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done
    for part in ("riscv64 GNU/Linux", "Debian GNU/Linux 13", "Mem:", "vda", "apt 3"):
        assert part in done.stdout, part


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
