#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Commands, files and shells in a guest without a network: trapeze ssh, exec and cp.

    reach.py TRAPEZE LOOP_ELF
"""
import json
import os
import re
import subprocess
import sys
import tempfile

import tap
from daemon_client import Client, until
from machine import LIMIT_S, image

TRAPEZE, LOOP_ELF = (os.path.abspath(name) for name in sys.argv[1:3])
USAGE, HOST = 120, 121
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-reach-")
# Longer than a socket's address, and with what shells and ssh's options take apart.
STORE = os.path.join(FOLDER.name, "a folder with 'quotes', $x, 100% " * 4, "store")
os.environ["TRAPEZE_HOME"] = STORE
image("debian", TRAPEZE)


def trapeze(*arguments, status=0, given=b"", **options):
    done = subprocess.run([TRAPEZE, *arguments], input=given, capture_output=True, check=False,
                          timeout=LIMIT_S, **options)
    assert status is None or done.returncode == status, (arguments, done)
    return done


def refuses(status, *wanted, arguments):
    done = trapeze(*arguments, status=status)
    lines = done.stderr.decode().strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("trapeze: "), done
    for part in wanted:
        assert part in lines[0], (part, lines[0])


def run(*words, **options):
    return trapeze("exec", "--timeout", str(LIMIT_S), "deb", "--", *words, **options)


def said(done):
    """Standard error, but for a word about waiting: the host may be busy."""
    return [line for line in done.stderr.splitlines() if b"waiting for" not in line]


def folder_of(name):
    return f"{STORE}/instances/{name}"


def test_what_cannot_be_reached():
    trapeze("create", "loop", "--firmware", LOOP_ELF, "-m", "32")
    refuses(USAGE, "no instance 'nobody'", arguments=["exec", "nobody", "--", "true"])
    refuses(USAGE, "not running", "trapeze start loop", arguments=["ssh", "loop"])
    trapeze("start", "loop")
    refuses(USAGE, "no vsock", "trapeze.vsockCid", arguments=["cp", "loop:/x", "."])
    trapeze("stop", "--force", "loop")
    with open(f"{folder_of('loop')}/loop.vmx", "a", encoding="utf-8") as vmx:
        vmx.write('trapeze.vsockCid = "3"\n')
    trapeze("start", "loop")
    done = trapeze("exec", "--timeout", "2", "loop", "--", "true", status=HOST)
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 2 and "waiting for 'loop'" in lines[0], lines
    assert "nothing listens" in lines[1] and "--timeout" in lines[1], lines
    done = trapeze("clone", "--instant", "--identity", "--timeout", "2", "loop", "twin",
                   status=HOST)
    assert b"nothing was cloned: " in done.stderr and b"nothing listens" in done.stderr, done
    assert os.listdir(f"{STORE}/instances") == ["loop"]
    refuses(USAGE, "--instant", arguments=["clone", "--identity", "loop", "twin"])
    refuses(USAGE, "--identity", arguments=["clone", "--instant", "--user", "x", "loop", "twin"])
    trapeze("pause", "loop")
    clones, message = clone_with_identity("--timeout", "2", "--count", "2", "loop", "twin", status=HOST)
    assert [row["identity"] for row in clones] == [False, False], clones
    assert "nothing listens" in clones[0]["message"] and "was not asked" in clones[1]["message"]
    assert "2 of 2" in message and "'loop': 'twin-1', 'twin-2' (" in message, message
    for name in ("twin-1", "twin-2"):
        trapeze("stop", "--force", name)
        trapeze("delete", name)
    refuses(USAGE, "paused", "trapeze resume loop", arguments=["exec", "loop", "--", "true"])
    trapeze("resume", "loop")
    refuses(USAGE, "--timeout", arguments=["ssh", "--timeout", "soon", "loop"])
    refuses(USAGE, "command is missing", arguments=["exec", "loop"])
    refuses(USAGE, "none of these", arguments=["cp", "a", "b"])
    refuses(USAGE, "one instance", arguments=["cp", "a:x", "b:y", "."])
    refuses(USAGE, "one instance", arguments=["cp", "x", "a:x", "a:y"])
    refuses(USAGE, "by hand", arguments=["vsock-pass"])
    done = trapeze("exec", "loop", "--", "true", status=HOST,
                   env={**os.environ, "TRAPEZE_HOST": "https://127.0.0.1:1"})
    assert b"cannot reach the daemon at 127.0.0.1" in done.stderr, done
    trapeze("stop", "--force", "loop")
    assert not os.path.exists(f"{folder_of('loop')}/vsock.sock")
    trapeze("delete", "loop")


def test_exec_is_the_command():
    trapeze("create", "deb", "--image", "debian", "--net", "nat", "--cpus", "2", "--max-cpus",
            "4", "--start")
    done = run("sh", "-c", "cat; echo err >&2; exit 7", given=b"\0in\xff", status=7)
    assert done.stdout == b"\0in\xff" and b"err\n" in done.stderr, done
    assert b"Warning" not in done.stderr, done
    words = ["a  b", "it's", "$HOME", "*", "", "\\", '"', "-x"]
    assert run("printf", "%s\n", *words).stdout.decode() == "".join(w + "\n" for w in words)
    assert said(run("test", "-t", "0", status=1)) == []
    trapeze("exec", "-t", "deb", "--", "test", "-t", "0")
    data = os.urandom(1 << 20)
    assert run("cat", given=data).stdout == data
    assert os.stat(f"{STORE}/ssh/id_ed25519").st_mode & 0o777 == 0o600


def test_ssh_takes_options_and_a_command():
    done = trapeze("ssh", "deb", "--", "-v", "echo $((6 * 7)); id -un")
    assert done.stdout == b"42\nroot\n" and b"debug1" in done.stderr, done
    run("useradd", "-m", "bob")
    assert trapeze("exec", "-u", "bob", "deb", "--", "id", "-un").stdout == b"bob\n"
    assert run("systemctl", "--failed", "--no-legend", "--plain").stdout == b""
    # There is no other way.
    run("sh", "-c", "systemctl stop trapeze-dhcp; ip link set dev $(ls /sys/class/net | grep -v lo) down")
    assert run("ip", "-br", "link", "show", "up").stdout.split()[0::4] == [b"lo"]


def who(name):
    """The guest's own view of who it is."""
    done = trapeze("exec", name, "--", "sh", "-c",
                   "hostname; cat /etc/hostname /etc/machine-id /sys/class/net/[!l]*/address; "
                   "grep 127.0 /etc/hosts; grep elsewhere /etc/hosts")
    return done.stdout.decode().split("\n")


def clone_with_identity(*words, status=0):
    done = trapeze("clone", "--instant", "--identity", "--json", *words, status=status)
    return json.loads(done.stdout)["clones"], done.stderr.decode()


def test_instant_clones_are_told_who_they_are():
    def address(name):
        with open(f"{folder_of(name)}/{name}.vmx", encoding="utf-8") as vmx:
            return re.search(r'^ethernet0.*ddress = "([0-9a-f:]+)"$', vmx.read(), re.M)[1]

    run("sh", "-c", "systemctl start trapeze-dhcp; hostname old; echo old >/etc/hostname; "
                    "echo '127.0.0.1 localhost\n127.0.1.1 old.lan old old-x\n10.1.1.1 old elsewhere' "
                    ">/etc/hosts; mkdir /etc/hosts.new")
    before = who("deb")
    clones, message = clone_with_identity("deb", "wrong", status=HOST)
    assert clones[0]["identity"] is False and "hosts.new" in clones[0]["message"], clones
    assert "1 of 1" in message and "'deb': 'wrong' (" in message, message
    trapeze("stop", "--force", "wrong")
    trapeze("delete", "wrong")
    run("rmdir", "/etc/hosts.new")
    clones, _ = clone_with_identity("--count", "2", "deb", "twin")
    names = ["twin-1", "twin-2"]
    assert [(row["name"], row["identity"]) for row in clones] == [(n, True) for n in names], clones
    rows = {name: who(name) for name in names}
    for name, row in rows.items():
        assert row[:2] == [name, name] and row[3] == address(name), (name, row)
        assert row[4:6] == ["127.0.0.1 localhost", f"127.0.1.1 {name}.lan {name} old-x"], row
        assert row[6] == "10.1.1.1 old elsewhere", row
        assert re.fullmatch("[0-9a-f]{32}", row[2]), row
    assert who("deb") == before and before[:2] == ["old", "old"], before
    assert len({row[2] for row in (before, *rows.values())}) == 3, rows
    # Its network works again.
    until(lambda: b"10.0.2." in trapeze("exec", "twin-2", "--", "ip", "-br", "-4", "addr", "show",
                                        "scope", "global").stdout)
    for name in names:
        trapeze("stop", "--force", name)
        trapeze("delete", name)


def test_cpus_come_and_go():
    def sets(words, *parts):
        answer = json.loads(trapeze("set", "--json", *words).stdout)
        assert answer["live"] == ([] if parts else ["cpus"]), answer
        for part in parts:
            assert part in answer["next-start"][0]["reason"], (part, answer)

    def started():
        done = trapeze("control", "control.sock", "cpus", cwd=folder_of("deb"))
        return json.loads(done.stdout)["started"]

    assert run("nproc").stdout == b"2\n"
    sets(["deb", "cpus=4"])
    assert run("nproc").stdout == b"4\n" and started() == 4
    sets(["deb", "cpus=1"])
    assert run("nproc").stdout == b"1\n" and started() == 1
    sets(["deb", "cpus=5", "max-cpus=8"], "room for 4", "max-cpus")
    with open(f"{folder_of('deb')}/deb.vmx", encoding="utf-8") as vmx:
        text = vmx.read()
    assert 'numvcpus = "5"' in text and 'trapeze.maxcpus = "8"' in text, text
    # The guest lets nobody do it but root, and has no sudo.
    sets(["-u", "bob", "deb", "cpus=3"], "did not do it", "sudo", "echo 0 > /sys/")
    assert started() == 1
    trapeze("pause", "deb")
    sets(["deb", "cpus=3"], "does not run just now", "echo 0 > /sys/")
    trapeze("resume", "deb")
    refuses(USAGE, "no user", arguments=["set", "-u", "-x", "deb", "cpus=3"])
    # It says that it did, and did not.
    run("sh", "-c", "printf '#!/bin/bash\\nexit 0\\n' >/usr/local/bin/sh; chmod +x /usr/local/bin/sh")
    sets(["deb", "cpus=3"], "says that it did it, and 1 run", "echo 0 > /sys/")
    run("rm", "/usr/local/bin/sh")


def test_cp_copies_both_ways():
    source, back = os.path.join(FOLDER.name, "in"), os.path.join(FOLDER.name, "out")
    os.makedirs(f"{source}/deep er")
    data = os.urandom(3 << 20)
    for name in ("x", "deep er/it's", "a:b"):
        with open(f"{source}/{name}", "wb") as file:
            file.write(data)
    os.mkdir(back)
    trapeze("cp", source, "deb:/tmp/")
    trapeze("cp", "./a:b", "x", "deb:", cwd=source)
    trapeze("cp", "deb:/tmp/in", "deb:a:b", back)
    for name in ("in/x", "in/deep er/it's", "in/a:b", "a:b"):
        with open(f"{back}/{name}", "rb") as file:
            assert file.read() == data, name
    assert trapeze("cp", "deb:/nowhere", back, status=None).returncode not in (0, USAGE)


def test_from_another_host():
    """As the same host, but for what is kept: over TCP, with a key that is certified for a day."""
    Client(TRAPEZE, STORE).kill_daemon()
    token = trapeze("token", "create", "far").stdout.decode().strip()
    Client(TRAPEZE, STORE).kill_daemon()
    away, log = os.path.join(FOLDER.name, "away"), os.path.join(FOLDER.name, "daemon.log")
    source, back = os.path.join(FOLDER.name, "sent"), os.path.join(FOLDER.name, "got")
    os.mkdir(back)
    for name in "one", "two":
        with open(f"{source}-{name}", "wb") as file:
            file.write(os.urandom(1 << 20))
    with open(log, "wb") as out:
        daemon = subprocess.Popen([TRAPEZE, "daemon", "--store", STORE, "--verbose", "--listen",
                                   "tcp:127.0.0.1:0", "--insecure"], stderr=out)
    try:
        def port():
            with open(log, encoding="utf-8") as file:
                return re.search(r"listening at \S+, port (\d+)", file.read())
        until(port)
        env = {**os.environ, "TRAPEZE_HOST": f"http://127.0.0.1:{port().group(1)}",
               "TRAPEZE_TOKEN": token, "TRAPEZE_HOME": away, "XDG_RUNTIME_DIR": FOLDER.name}
        done = run("sh", "-c", "cat; id -un; exit 7", given=b"\0in\xff", status=7, env=env)
        assert done.stdout == b"\0in\xffroot\n", done
        assert trapeze("exec", "-u", "bob", "deb", "--", "id", "-un", env=env).stdout == b"bob\n"
        assert trapeze("ssh", "deb", "--", "echo $((6 * 7))", env=env).stdout == b"42\n"
        trapeze("cp", f"{source}-one", f"{source}-two", "deb:/tmp/", env=env)
        trapeze("cp", "deb:/tmp/sent-one", "deb:/tmp/sent-two", back, env=env)
        for name in "one", "two":
            with open(f"{source}-{name}", "rb") as sent, open(f"{back}/sent-{name}", "rb") as got:
                assert sent.read() == got.read(), name
        assert sorted(os.listdir(away)) == ["known_hosts"], os.listdir(away)
        assert os.listdir(f"{FOLDER.name}/trapeze") == [], os.listdir(f"{FOLDER.name}/trapeze")
        done = trapeze("exec", "deb", "--", "true", status=USAGE, env={**env, "TRAPEZE_TOKEN": "x"})
        assert b"token" in done.stderr or b"certificate" in done.stderr, done
    finally:
        daemon.terminate()
        daemon.wait(timeout=LIMIT_S)


def test_another_host_key_is_refused():
    hosts = f"{folder_of('deb')}/known_hosts"
    with open(hosts, encoding="ascii") as file:
        known = file.read()
    assert known.startswith("guest ssh-ed25519 ") and known.count("\n") == 1, known
    run("sh", "-c", "rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' "
                    "-f /etc/ssh/ssh_host_ed25519_key")
    assert b"HAS CHANGED" in run("true", status=255).stderr
    os.unlink(hosts)
    run("true")


def test_stores_do_not_share_keys():
    other = os.path.join(FOLDER.name, "other")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    key = f"{STORE}/ssh/id_ed25519"
    os.rename(key, key + ".kept")
    os.rename(other, key)
    assert b"Permission denied" in run("true", status=255).stderr
    os.rename(key + ".kept", key)
    trapeze("stop", "--timeout", str(LIMIT_S), "deb")
    trapeze("delete", "deb")


def main():
    status = tap.main([test for name, test in list(globals().items()) if name.startswith("test_")])
    for name in ("loop", "deb"):
        trapeze("stop", "--force", name, status=None)
    Client(TRAPEZE, STORE).kill_daemon()
    return status


if __name__ == "__main__":
    sys.exit(main())
