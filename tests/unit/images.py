#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The image builder (images/) without a network: packages made here, unpacked, written as ext4."""
import gzip
import hashlib
import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile

SOURCE = os.environ.get("TRAPEZE_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(SOURCE, "images"), os.path.join(SOURCE, "tests/guest")]

import tap  # noqa: E402
from maker import arch, archive, cache, elf, firstboot, host, images  # noqa: E402
from maker import initramfs, kernel, package, rootfs  # noqa: E402

FOLDER = tempfile.TemporaryDirectory()
QUIET = host.Progress()
QUIET.step = QUIET.note = lambda _text: None


def fresh(name):
    path = os.path.join(FOLDER.name, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def tar_bytes(entries):
    """A tar of (name, type, mode, uid, gid, content or link target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, mode, uid, gid, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid = kind, mode, uid, gid
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                tar.addfile(info)
    return out.getvalue()


def deb(name, files, control=None, fields=""):
    """Writes a .deb (an ar archive) and returns it as the builder sees it."""
    members = {"control": f"Package: {name}\nVersion: 1-1\nArchitecture: riscv64\n"
                          f"Maintainer: nobody\n{fields}Description: test\n", **(control or {})}
    parts = [("debian-binary", b"2.0\n"),
             ("control.tar", tar_bytes([("./" + n, tarfile.REGTYPE, 0o755, 0, 0, t.encode())
                                        for n, t in members.items()])),
             ("data.tar", tar_bytes(files))]
    path = os.path.join(FOLDER.name, name + ".deb")
    with open(path, "wb") as out:
        out.write(b"!<arch>\n")
        for member, data in parts:
            out.write(b"%-16s%-12d%-6d%-6d%-8o%-10d`\n"
                      % (member.encode(), 0, 0, 0, 0o644, len(data)))
            out.write(data + b"\n" * (len(data) % 2))
    return package.Unpacker, archive.Package(name, path, "")


FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def unpack(*debs):
    tree = package.Tree(os.path.join(fresh("tree"), "root"))
    unpacker = package.Unpacker(tree)
    for _, made in debs:
        unpacker.unpack(made)
    unpacker.finish()
    return tree, unpacker


def read(tree, path):
    with open(os.path.join(tree.root, path)) as file:
        return file.read()


def test_unpacking_leaves_what_dpkg_unpack_leaves():
    tree, unpacker = unpack(deb(
        "libx", [("./", DIR, 0o755, 0, 0, ""), ("./etc/", DIR, 0o755, 0, 0, ""),
                 ("./etc/x.conf", FILE, 0o640, 0, 42, b"x\n")],
        {"conffiles": "/etc/x.conf\nremove-on-upgrade /etc/old\n", "postinst": "#!/bin/sh\n",
         "preinst": "#!/bin/sh\nset -e\necho hello\n",
         "triggers": "interest-noawait ldconfig\ninterest /usr/lib/x\nactivate y\n"},
        "Multi-Arch: same\n"))
    status = read(tree, "var/lib/dpkg/status")
    assert "Package: libx\nStatus: install ok unpacked\n" in status, status
    # The hash of "x\n", as md5sum(1) says.
    assert "Conffiles:\n /etc/x.conf 401b30e3b8b5d629635a5c613cdb7919" in status, status
    assert "/etc/old" not in status
    assert read(tree, "var/lib/dpkg/info/libx:riscv64.list") == "/.\n/etc\n/etc/x.conf\n"
    assert os.access(os.path.join(tree.root, "var/lib/dpkg/info/libx:riscv64.postinst"), os.X_OK)
    assert read(tree, "var/lib/dpkg/triggers/ldconfig") == "libx:riscv64/noawait\n"
    assert read(tree, "var/lib/dpkg/triggers/File") == "/usr/lib/x libx:riscv64\n"
    assert unpacker.preinst == ["libx riscv64 libx:riscv64"]
    assert tree.meta["etc/x.conf"] == (0o100640, 0, 42)


def test_a_package_cannot_write_outside_the_tree():
    outside = os.path.join(FOLDER.name, "outside")
    tree, _ = unpack(deb("evil", [
        ("./../../outside", FILE, 0o644, 0, 0, b"1"),
        ("./link", LINK, 0o777, 0, 0, FOLDER.name),
        ("./link/outside", FILE, 0o644, 0, 0, b"2"),
        ("./up", LINK, 0o777, 0, 0, "../../../../.."),
        ("./up/outside2", FILE, 0o644, 0, 0, b"3")]))
    assert not os.path.exists(outside)
    assert read(tree, "outside") == "1"
    assert read(tree, FOLDER.name.lstrip("/") + "/outside") == "2"
    assert read(tree, "outside2") == "3"
    for entries in ([("./hard", HARD, 0o644, 0, 0, "./../../../../etc/passwd")],
                    [("./a", LINK, 0o777, 0, 0, "b"), ("./b", LINK, 0o777, 0, 0, "a"),
                     ("./a/x", FILE, 0o644, 0, 0, b"")],
                    [("./dev", tarfile.CHRTYPE, 0o666, 0, 0, "")]):
        try:
            unpack(deb("evil2", entries))
        except host.Failure:
            continue
        raise AssertionError(f"accepted {entries}")


def test_set_id_files_exist_in_the_image_only():
    tree, _ = unpack(deb("setid", [
        ("./bin/", DIR, 0o755, 0, 0, ""), ("./bin/su", FILE, 0o4755, 0, 0, b"su"),
        ("./bin/chage", FILE, 0o2755, 0, 42, b"chage"),
        ("./bin/odd name", FILE, 0o600, 1000, 7, b""),
        ("./bin/also", HARD, 0o4755, 0, 0, "./bin/su"), ("./tmp/", DIR, 0o1777, 0, 0, ""),
        ("./sh", LINK, 0o777, 0, 0, "bin/su")]))
    for parent, _, files in os.walk(tree.root):
        for name in files:
            assert os.lstat(os.path.join(parent, name)).st_mode & 0o7000 == 0, name
    directory = fresh("ext4")
    rootfs.write_ext4(directory, tree)
    image = os.path.join(directory, "root.img")
    assert os.stat(image).st_size == rootfs.SIZE_MIB << 20
    assert os.stat(image).st_blocks * 512 < 64 << 20, "the image is not sparse"
    for path, mode, uid, gid in (("/bin/su", "04755", 0, 0), ("/bin/chage", "02755", 0, 42),
                                 ("/bin/odd name", "0600", 0, 7), ("/bin/also", "04755", 0, 0),
                                 ("/tmp", "01777", 0, 0), ("/sh", "0777", 0, 0),
                                 ("/var/lib/dpkg/status", "0644", 0, 0)):
        said = host.run("debugfs", "-R", f'stat "{path}"', image, error="stat")
        words = said.replace(":", ": ").split()
        assert words[words.index("Mode:") + 1] == mode, (path, said)
        assert words[words.index("User:") + 1] == str(uid), (path, said)
        assert words[words.index("Group:") + 1] == str(gid), (path, said)
    assert rootfs.read_file(image, "/bin/su") == "su"
    assert rootfs.read_file(image, "/absent") is None


def test_a_preinst_of_upgrade_stanzas_only_is_not_run():
    assert not package.needs_to_run("#!/bin/sh\nset -e\n# Automatically added\n"
                                    "dpkg-maintscript-helper rm_conffile /x 1 -- \"$@\"\nexit 0\n")
    assert package.needs_to_run("#!/bin/sh\nset -e\n[ -e /etc/passwd ] || touch /etc/passwd\n")


def test_compressed_kernels_become_raw():
    raw = bytes(56) + b"RSC\x05" + b"kernel" * 100
    packed = gzip.compress(raw)
    zboot = (b"MZ\0\0zimg" + struct.pack("<II", 64, len(packed)) + bytes(8)
             + b"gzip".ljust(32, b"\0") + bytes(8) + packed)
    assert len(zboot) - len(packed) == 64
    target = os.path.join(FOLDER.name, "Image")
    for data in (raw, packed, zboot):
        source = os.path.join(FOLDER.name, "vmlinux")
        with open(source, "wb") as out:
            out.write(data)
        kernel.write_image(source, target, arch.RISCV64)
        with open(target, "rb") as file:
            assert file.read() == raw
    with open(source, "wb") as out:
        out.write(b"\x7fELF" + bytes(100))
    try:
        kernel.write_image(source, target, arch.RISCV64)
    except host.Failure as failure:
        assert "RISC-V" in str(failure)
    else:
        raise AssertionError("an ELF file passed for an Image")


def test_a_kernel_of_another_processor_is_refused():
    source, target = (os.path.join(FOLDER.name, name) for name in ("vmlinuz", "bzImage"))
    for data, good in ((bytes(0x202) + b"HdrS" + bytes(100), True),
                       (bytes(56) + b"RSC\x05" + bytes(1000), False), (b"MZ", False)):
        with open(source, "wb") as out:
            out.write(data)
        try:
            kernel.write_image(source, target, arch.X86_64)
            assert good
        except host.Failure as failure:
            assert not good and "bzImage" in str(failure), failure


def test_an_image_of_each_architecture_has_a_name_of_its_own():
    assert arch.of("tiny") == ("tiny", arch.RISCV64)
    assert arch.of("tiny-x86_64") == ("tiny", arch.X86_64)
    assert arch.of("debian-dev") == ("debian-dev", arch.RISCV64)
    assert len(set(images.NAMES)) == len(images.NAMES)
    assert {"tiny", "tiny-x86_64", "debian", "debian-dev", "debian-x86_64"} <= set(images.NAMES)


def test_both_architectures_are_made_of_the_same_list_of_packages():
    def without_kernel(isa):
        names = images.package_names("debian", isa)
        assert f"linux-image-{isa.debian}" in names and not any("$" in name for name in names)
        return [name for name in names if not name.startswith("linux-image-")]

    assert without_kernel(arch.RISCV64) == without_kernel(arch.X86_64)
    assert images.recipe("debian-x86_64") != images.recipe("debian-dev-x86_64")


def test_recipes_that_stand_for_earlier_ones_are_still_recipes():
    """An entry for a recipe that is no more would hide nothing, and stay for ever."""
    for name, recipe in images.SAME_AS:
        assert images.recipe(name) == images.SAME_AS[name, recipe], name


def test_a_finished_kernel_needs_no_archive():
    store = cache.Cache(None)
    store.root = fresh("cache-of-kernels")
    finished = os.path.join(store.root, "work", "x86_64-kernel-0123")
    os.makedirs(finished)
    os.makedirs(os.path.join(store.root, "work", "kernel-4567.part"))
    assert store.finished("x86_64-kernel") == finished
    assert store.finished("kernel") is None


def test_a_guest_for_x86_64_is_not_begun_without_kvm():
    trapeze = os.path.join(fresh("without-kvm"), "trapeze")
    for offer, good in (("yes", True), ("no", False)):
        with open(trapeze, "w") as out:
            out.write("#!/bin/sh\n"
                      f"""echo '{{"kvm": {{"offer": "{offer}", "text": "because"}}}}'\n""")
        os.chmod(trapeze, 0o755)
        firstboot.check_trapeze(trapeze, arch.RISCV64)
        try:
            firstboot.check_trapeze(trapeze, arch.X86_64)
            assert good
        except host.Failure as failure:
            assert not good and "because" in str(failure)


ASSEMBLY = """
    .text
    .globl start
start:
1:  auipc a0, %pcrel_hi(data)
    addi a0, a0, %pcrel_lo(1b)
.Lunused0:
    call other
.Lunused1:
    bnez a0, .Lloop
    nop
.Lloop:
    ret
local_function:
    .type local_function, @function
    j .Lloop
    .data
data:
    .dword start, .Lloop, other
"""


def test_dropping_labels_changes_no_relocation():
    compiler = shutil.which("riscv64-linux-gnu-as")
    if not compiler:
        raise tap.Skip("no riscv64-linux-gnu-as")
    plain, small = (os.path.join(FOLDER.name, name) for name in ("plain.o", "small.o"))
    subprocess.run([compiler, "-mrelax", "-L", "-o", plain], input=ASSEMBLY, text=True, check=True)
    with open(plain, "rb") as file:
        data = file.read()
    reduced = elf.drop_labels(data)
    with open(small, "wb") as out:
        out.write(reduced)

    def said(*options, path):
        text = subprocess.run(["riscv64-linux-gnu-" + options[0], *options[1:], path], text=True,
                              capture_output=True, check=True)
        assert text.stderr == "", text.stderr
        return text.stdout.replace(path, "")

    # objdump names the symbol of each relocation and shows the bytes of every section.
    for options in (("objdump", "-r"), ("objdump", "-s", "-j", ".text", "-j", ".data")):
        assert said(*options, path=plain) == said(*options, path=small)
    symbols = said("readelf", "-sW", path=small)
    assert ".Lunused" in said("readelf", "-sW", path=plain) and ".Lunused" not in symbols
    for name in ("start", "data", "local_function", ".Lloop", "other"):
        assert name in symbols, symbols
    assert len(reduced) < len(data)
    assert elf.drop_labels(reduced) == reduced
    assert elf.drop_labels(b"no module") == b"no module"


def test_modules_lose_their_signature_and_nothing_else():
    path = os.path.join(FOLDER.name, "m.ko")
    body, signature = b"module text", b"S" * 20
    trailer = bytes(8) + len(signature).to_bytes(4, "big") + initramfs.SIGNATURE_END
    for data, wanted in ((body, body), (body + signature + trailer, body)):
        with open(path, "wb") as out:
            out.write(data)
        assert initramfs.read_module(path) == wanted
    with open(path, "wb") as out:
        out.write(bytes(8) + (1 << 31).to_bytes(4, "big") + initramfs.SIGNATURE_END)
    try:
        initramfs.read_module(path)
    except host.Failure:
        return
    raise AssertionError("a signature longer than its file was believed")


def test_the_initramfs_is_an_archive_that_cpio_reads():
    out = io.BytesIO()
    archive_out = initramfs.Cpio(out)
    archive_out.add("dev/console", 0o20600, device=(5, 1))
    archive_out.add("a/b/file", 0o100755, b"12345")
    archive_out.add("a/link", 0o120777, b"b/file")
    archive_out.end()
    data, at, found = out.getvalue(), 0, {}
    while True:  # the kernel's Documentation/driver-api/early-userspace/buffer-format.rst
        assert data[at:at + 6] == b"070701"
        field = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110:at + 110 + field[11] - 1].decode()
        at = (at + 110 + field[11] + 3) & ~3
        if name == "TRAILER!!!":
            break
        found[name] = (field[1], data[at:at + field[6]], field[9:11])
        at = (at + field[6] + 3) & ~3
    assert list(found) == ["dev", "dev/console", "a", "a/b", "a/b/file", "a/link"]
    assert found["dev/console"] == (0o20600, b"", [5, 1])
    assert found["a/b/file"] == (0o100755, b"12345", [0, 0])


def with_sources(text, name):
    """find_sources() on a machine whose apt has just these sources."""
    directory = fresh("apt")
    os.makedirs(os.path.join(directory, "lists/partial"))
    with open(os.path.join(directory, name), "w") as out:
        out.write(text)
    with open(os.path.join(directory, "apt.conf"), "w") as out:
        out.write(f'Dir::Etc::sourcelist "{directory}/{name}";\n'
                  'Dir::Etc::sourceparts "/dev/null";\n'
                  f'Dir::State::lists "{directory}/lists";\n')
    os.environ["APT_CONFIG"] = os.path.join(directory, "apt.conf")
    try:
        return archive.find_sources()
    finally:
        del os.environ["APT_CONFIG"]


def test_the_archive_is_the_machines_own_in_either_format():
    wanted = (("http://mirror.example/debian/", "trixie"),
              [("http://security.example/debian-security/", "trixie-security"),
               ("http://mirror.example/debian/", "trixie-updates")])
    assert with_sources(
        "Types: deb\nURIs: http://third.example/tools\nSuites: stable\nComponents: main\n\n"
        "Types: deb deb-src\nURIs: http://mirror.example/debian\n"
        "Suites: bookworm bookworm-updates\nComponents: main contrib\n\n"
        "Types: deb\nURIs: http://security.example/debian-security\nSuites: bookworm-security\n"
        "Components: main\n", "debian.sources") == wanted
    assert with_sources(
        "deb [trusted=no] http://third.example/tools stable main\n"
        "deb http://mirror.example/debian trixie main\n"
        "deb http://mirror.example/debian trixie-updates main\n"
        "deb http://security.example/debian-security trixie-security main\n",
        "sources.list") == wanted


def test_the_override_wins_and_is_checked():
    os.environ["TRAPEZE_MIRROR"] = "https://user:secret@mirror.example/debian"
    try:
        source, updates = archive.find_sources()
        assert (source[1], updates) == ("trixie", [])
        assert archive.without_password(source) == "https://mirror.example/debian"
        os.environ["TRAPEZE_MIRROR"] = "mirror.example"
        try:
            archive.find_sources()
        except host.Failure as failure:
            assert "mirror.example" in str(failure)
        else:
            raise AssertionError("accepted a host name for a URI")
    finally:
        del os.environ["TRAPEZE_MIRROR"]


def test_an_archive_without_a_signature_is_refused():
    mirror, keyring = fresh("mirror"), os.path.join(fresh("keyring"), "keyring.gpg")
    index = b"Package: linux-image-riscv64\nArchitecture: riscv64\nVersion: 1\n" \
            b"Filename: evil.deb\nSize: 1\nSHA256: " + b"0" * 64 + b"\n\n"
    packages = os.path.join(mirror, "dists/trixie/main/binary-riscv64/Packages")
    os.makedirs(os.path.dirname(packages))
    with open(packages, "wb") as out:
        out.write(index)
    with open(os.path.join(mirror, "dists/trixie/Release"), "w") as out:
        out.write("Origin: Debian\nSuite: stable\nCodename: trixie\nComponents: main\n"
                  "Architectures: riscv64\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n"
                  f" {hashlib.sha256(index).hexdigest()} {len(index)} "
                  "main/binary-riscv64/Packages\n")
    with open(keyring, "wb"):
        pass
    os.environ.update(TRAPEZE_MIRROR="file:" + mirror, TRAPEZE_KEYRING=keyring,
                      TRAPEZE_CACHE=fresh("cache"))
    try:
        archive.Archive(cache.Cache(QUIET), QUIET, arch.RISCV64).prepare()
    except host.Failure as failure:
        assert "is not signed" in str(failure), failure
    else:
        raise AssertionError("took packages that nobody vouches for")
    finally:
        for name in ("TRAPEZE_MIRROR", "TRAPEZE_KEYRING"):
            del os.environ[name]


def test_the_cache_shows_complete_things_only():
    os.environ["TRAPEZE_CACHE"] = fresh("cache")
    store = cache.Cache(QUIET)
    store.lock()

    def half(directory):
        with open(os.path.join(directory, "file"), "w"):
            raise host.Failure("power cut")
    try:
        store.stage("s", "1", half)
    except host.Failure:
        pass
    assert os.listdir(store.path("work")) == ["s-1.part"]
    store.lock_file.close()
    store.lock()
    assert os.listdir(store.path("work")) == []

    made = []
    for key in ("1", "1", "2"):
        stage = store.stage("s", key, made.append)
    assert len(made) == 2 and os.listdir(store.path("work")) == ["s-2"]
    source = os.path.join(stage, "Image")
    with open(source, "w") as out:
        out.write("kernel")
    path = store.publish("tiny", {"recipe": "r1"}, {"Image": source})
    assert sorted(os.listdir(path)) == ["Image", "image.json"]
    assert all(os.stat(os.path.join(path, f)).st_mode & 0o222 == 0 for f in os.listdir(path))
    assert store.image("tiny") == store.image("tiny", "r1") == path
    assert store.image("tiny", "r2") is None and store.image("debian") is None


def test_the_guests_progress_and_last_words_are_understood():
    installed = set()
    assert firstboot.show(QUIET, "status: libc6:riscv64: installed", installed, 10) is None
    assert firstboot.show(QUIET, "status: dash: half-configured", installed, 10) is None
    assert installed == {"libc6:riscv64"}
    assert firstboot.show(QUIET, "trapeze-setup: failed: x", installed, 10)
    status, said = firstboot.watch(QUIET, ["sh", "-c", "echo status: a: installed; echo bye; "
                                           "exit 7"], io.BytesIO(), 1)
    assert (status, said) == (7, "bye")


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
