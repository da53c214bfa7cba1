#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""'trapeze disk' and qemu-img: what one writes the other reads, and both find it sound.

    disk_images.py TRAPEZE
"""
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import raw_disks
import tap

TRAPEZE = sys.argv[1]
FOLDER = tempfile.TemporaryDirectory(prefix="trapeze-test-")
MIB = 1 << 20
make_raw = functools.partial(raw_disks.make_raw, FOLDER.name)


def scratch(name):
    return os.path.join(FOLDER.name, name)


def run(*command, status=0):
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          check=False)
    assert done.returncode == status, (command, done)
    return done.stdout + done.stderr


def disk(*arguments, status=0):
    return run(TRAPEZE, "disk", *arguments, status=status)


def qemu(*arguments, status=0):
    if shutil.which("qemu-img") is None:
        raise tap.Skip("qemu-img is not installed")
    return run("qemu-img", *arguments, status=status)


def same(one, other):
    with open(one, "rb") as a, open(other, "rb") as b:
        return a.read() == b.read()


def both_find_it_sound(path):
    disk("check", path)
    qemu("check", "-f", "qcow2", path)


def test_what_we_write_qemu_reads():
    for seed, (cluster, size) in enumerate((("512", 3 * MIB + 512), ("4K", 9 * MIB), ("64K", 30 * MIB),
                                            ("2M", 30 * MIB + 1024))):
        raw, image = make_raw("a.raw", size, seed), scratch("a.qcow2")
        disk("convert", "--force", "--from", "raw", "--cluster-size", cluster, raw, image)
        both_find_it_sound(image)
        qemu("compare", "-f", "raw", "-F", "qcow2", raw, image)
        back = scratch("back.raw")
        disk("convert", "--force", "--format", "raw", image, back)
        assert same(raw, back), cluster


def test_what_qemu_writes_we_read():
    options = ["cluster_size=512,refcount_bits=1", "cluster_size=1024,refcount_bits=2",
               "cluster_size=4096,refcount_bits=4", "refcount_bits=8", "refcount_bits=32",
               "refcount_bits=64", "compat=0.10", "cluster_size=2M", "lazy_refcounts=on",
               "preallocation=metadata", "preallocation=full"]
    for seed, option in enumerate(options):
        raw, image, back = make_raw("b.raw", 9 * MIB, 100 + seed), scratch("b.qcow2"), scratch("b.back")
        qemu("convert", "-f", "raw", "-O", "qcow2", "-o", option, raw, image)
        disk("check", image)
        disk("convert", "--force", "--format", "raw", "--from", "qcow2", image, back)
        assert same(raw, back), option
    for kind in ("zlib", "zstd"):
        raw, image, back = make_raw("c.raw", 9 * MIB, 200), scratch("c.qcow2"), scratch("c.back")
        qemu("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind}", raw, image)
        assert json.loads(disk("check", "--json", image))["compressed-clusters"] > 0
        disk("convert", "--force", "--format", "raw", image, back)
        assert same(raw, back), kind


def test_we_change_what_qemu_made():
    """Refcounts of every width are changed: a layer on top is committed into each."""
    for seed, option in enumerate(("cluster_size=512,refcount_bits=1", "refcount_bits=2",
                                   "cluster_size=1024,refcount_bits=4", "refcount_bits=8",
                                   "refcount_bits=32", "refcount_bits=64", "compat=0.10")):
        old, new = make_raw("d.raw", 9 * MIB, 300 + seed), make_raw("e.raw", 9 * MIB, 400 + seed)
        base, layer, back = scratch("d.qcow2"), scratch("e.qcow2"), scratch("d.back")
        # Compressed, so that writing has to replace clusters as well.
        qemu("convert", *(["-c"] if seed % 2 else []), "-f", "raw", "-O", "qcow2", "-o", option, old,
             base)
        disk("create", "--force", "--backing", base, "--backing-format", "qcow2", layer)
        qemu("convert", "-n", "-f", "raw", "-O", "qcow2", new, layer)
        qemu("compare", "-f", "raw", "-F", "qcow2", new, layer)
        disk("commit", layer)
        both_find_it_sound(base)
        both_find_it_sound(layer)
        disk("convert", "--force", "--format", "raw", "--from", "qcow2", base, back)
        assert same(new, back), option
        qemu("compare", "-f", "raw", "-F", "qcow2", new, layer)


def test_resizing():
    image, raw = scratch("f.qcow2"), make_raw("f.raw", 2 * MIB, 5)
    disk("convert", "--from", "raw", "--cluster-size", "512", raw, image)
    disk("resize", image, "+300M")
    both_find_it_sound(image)
    assert json.loads(qemu("info", "--output", "json", image))["virtual-size"] == 302 * MIB
    assert "would become smaller" in disk("resize", image, "2M", status=120)
    disk("resize", "--shrink", image, "2M")
    both_find_it_sound(image)
    qemu("compare", "-f", "raw", "-F", "qcow2", raw, image)
    for name in ("raw", "fixed"):
        path = scratch("size." + name)
        disk("create", "--format", name, path, "1M")
        disk("resize", "--format", name, path, "3M")
        assert os.path.getsize(path) == 3 * MIB
    assert os.stat(scratch("size.fixed")).st_blocks * 512 >= 3 * MIB
    assert os.stat(scratch("size.raw")).st_blocks == 0


def test_maps_agree():
    raw, image = make_raw("g.raw", 9 * MIB, 6), scratch("g.qcow2")
    disk("convert", "--from", "raw", raw, image)
    ours = json.loads(disk("map", "--json", image))
    theirs = json.loads(qemu("map", "--output", "json", "-f", "qcow2", image))

    def spread(rows, is_data):
        return [is_data(row) for row in rows for _ in range(row["length"] // 512)]
    assert spread(ours, lambda r: r["kind"] == "data") == spread(theirs, lambda r: r["data"])
    assert sum(row["length"] for row in ours) == 9 * MIB


def test_leaks_are_repaired_as_qemu_sees_it():
    image = scratch("h.qcow2")
    disk("create", image, "10M")
    with open(image, "r+b") as out:
        out.seek(2 * 65536 + 2 * 50)
        out.write(b"\0\1")
    assert json.loads(disk("check", "--json", image, status=3))["leaks"] == 1
    assert "Repaired: 1 leaked" in disk("check", "--repair", image)
    both_find_it_sound(image)


def test_what_others_made_is_converted():
    for driver in ("vmdk", "vdi", "vpc", "vhdx"):
        raw, theirs, ours = make_raw("i.raw", 8 * MIB, 7), scratch("i." + driver), scratch("i.qcow2")
        extra = ["-o", "force_size"] if driver == "vpc" else []
        qemu("convert", "-f", "raw", "-O", driver, *extra, raw, theirs)
        if os.path.exists(ours):
            assert "exists" in disk("convert", theirs, ours, status=121)
        disk("convert", "--force", theirs, ours)
        both_find_it_sound(ours)
        qemu("compare", "-f", "raw", "-F", "qcow2", raw, ours)
    path = dict(os.environ, PATH="/nonexistent")
    done = subprocess.run([TRAPEZE, "disk", "convert", "--force", theirs, ours], env=path,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 121 and "qemu-utils" in done.stderr, done


def nbd(*arguments, uri, check):
    if shutil.which("nbdkit") is None:
        raise tap.Skip("nbdkit is not installed")
    socket = scratch("nbd.sock")
    server = subprocess.Popen(["nbdkit", "--foreground", "--unix", socket, *arguments],
                              stderr=subprocess.DEVNULL)
    try:
        while not os.path.exists(socket):
            assert server.poll() is None
            time.sleep(0.01)
        check(uri.format(socket=socket))
    finally:
        server.kill()
        server.wait()
        os.unlink(socket)


def test_servers_with_and_without_tls():
    raw, back, keys = make_raw("n.raw", 9 * MIB, 8), scratch("n.back"), scratch("keys.psk")
    with open(keys, "w", encoding="ascii") as out:
        out.write(f"alice:{os.urandom(32).hex()}\n")

    def copies(uri):
        disk("convert", "--force", "--from", "raw", "--format", "raw", uri, back)
        assert same(raw, back), uri
        assert json.loads(disk("info", "--json", "--format", "raw", uri))["size"] == 9 * MIB

    def refused(uri):
        assert "cannot connect" in disk("info", "--format", "raw", uri, status=121)
    plain, secure = "nbd+unix:///?socket={socket}", "nbds+unix://alice@/?socket={socket}"
    tls = ["--tls=require", f"--tls-psk={keys}"]
    nbd("file", raw, uri=plain, check=copies)
    nbd(*tls, "file", raw, uri=f"{secure}&tls-psk-file={keys}", check=copies)
    nbd(*tls, "file", raw, uri=plain, check=refused)
    nbd("file", raw, uri=f"{secure}&tls-psk-file={keys}", check=refused)


def listening_port(process):
    """Of a server that chose one by itself."""
    while process.poll() is None:
        inodes = set()
        for name in os.listdir(f"/proc/{process.pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{process.pid}/fd/{name}")
                inodes.add(target.removeprefix("socket:[").rstrip("]"))
        with open("/proc/net/tcp", encoding="ascii") as table:
            for line in table.readlines()[1:]:
                words = line.split()
                if words[3] == "0A" and words[9] in inodes:
                    return int(words[1].split(":")[1], 16)
        time.sleep(0.01)
    raise AssertionError("the server has ended")


def make_certificates(folder):
    """An authority, and a server called localhost that it vouches for."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    os.mkdir(folder)
    new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    openssl(*new, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=authority")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server-key.pem", "-out", "server.csr",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem",
            "-days", "2", "-copy_extensions", "copy", "-out", "server-cert.pem")
    return folder


def test_a_server_has_to_prove_who_it_is():
    for program in ("nbdkit", "openssl"):
        if shutil.which(program) is None:
            raise tap.Skip(f"{program} is not installed")
    raw, back = make_raw("x.raw", 3 * MIB, 9), scratch("x.back")
    ours, theirs = make_certificates(scratch("pki")), make_certificates(scratch("other"))
    server = subprocess.Popen(
        ["nbdkit", "--foreground", "--port", "0", "--ipaddr", "127.0.0.1", "--tls=require",
         f"--tls-certificates={ours}", "--log=null", "file", raw], stderr=subprocess.DEVNULL)
    try:
        port = listening_port(server)
        for host, more, good in (("localhost", "", True), ("127.0.0.1", "", False),
                                 ("127.0.0.1", "&tls-hostname=localhost", True),
                                 ("127.0.0.1", "&tls-verify-peer=false", True)):
            uri = f"nbds://{host}:{port}/?tls-certificates={ours}{more}"
            if good:
                disk("convert", "--force", "--from", "raw", "--format", "raw", uri, back)
                assert same(raw, back), uri
            else:
                text = disk("info", "--format", "raw", uri, status=121)
                assert "TLS: " in text and "running" not in text, text
        stranger = f"nbds://localhost:{port}/?tls-certificates={theirs}"
        assert "TLS: " in disk("info", "--format", "raw", stranger, status=121)
        assert "ca-cert.pem" in disk("info", "--format", "raw", stranger + "/none", status=120)
    finally:
        server.kill()
        server.wait()


def test_mistakes_get_a_sentence():
    image = scratch("j.qcow2")
    disk("create", image, "10M")
    for arguments, status, words in (
            (["create", image, "10M"], 121, "--force replaces it"),
            (["create", scratch("k"), "ten"], 120, "not a size"),
            (["create", "--format", "vmdk", scratch("k"), "1M"], 120, "no disk format"),
            (["create", "--cluster-size", "100", scratch("k"), "1M"], 120, "power of two"),
            (["create", "--backing", image, scratch("k")], 120, "--backing-format"),
            (["create", "--backing", scratch("none"), "--backing-format", "raw", scratch("k")], 121,
             "No such file"),
            (["check", scratch("none")], 121, "No such file"),
            (["commit", image], 120, "lies on no other image"),
            (["frobnicate"], 120, "takes create")):
        text = disk(*arguments, status=status)
        assert words in text and text.count("\n") == 1, (arguments, text)
    assert not os.path.exists(scratch("k"))


sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
