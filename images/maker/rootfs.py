# SPDX-License-Identifier: MIT
"""The root disk before its first boot: a tree of unpacked packages, written as ext4 by mke2fs.

mke2fs copies the tree as it lies on the host; then debugfs gives every inode the owner and mode
that its package says. So the builder needs neither root nor fakeroot, and no set-id file ever lies
in the cache directory.
"""
import os
import stat

from .host import Failure, run
from .package import Tree, Unpacker

LABEL = "trapeze-root"
SIZE_MIB = 2048
JOURNAL_MIB = 32
WORK_DIR = "var/lib/trapeze-setup"  # the guest's setup; it removes it when all is done

# Debian's merged /usr; base-files brings these links, and other packages may come before it.
MERGED = ("bin", "lib", "sbin")

# Units that do nothing but load a large module which no guest of ours has hardware for (drm: 2 G
# instructions, most of them for its signature); udev loads it when there is such hardware.
MASKED = ["modprobe@drm.service"]

# Shims ahead on PATH while packages are configured, and why each is right:
SHIMS = {
    "depmod": "the builder has indexed the modules on the host",
    "update-initramfs": "trapeze boots the image with its own initrd",
    "ssh-keygen": "host keys are made by each instance at its first connection",
    "systemd-hwdb": "compiling names of hardware that no guest of ours has takes a minute",
}


def make(cache, progress, packages, manual, kernel, guest_dir, sources, key):
    """The stage with root.img, unpacked but not configured."""
    def build(directory):
        tree = Tree(os.path.join(directory, "tree"))
        names = unpack(progress, tree, packages)
        add_kernel_index(tree, kernel)
        add_apt_state(tree, names, manual, sources, kernel.arch.debian)
        add_overlay(tree, os.path.join(guest_dir, "debian"))
        progress.step("writing the file system")
        write_ext4(directory, tree)
        cache.discard(tree.root)

    return os.path.join(cache.stage(f"{kernel.arch.stage}rootfs", key, build), "root.img")


def unpack(progress, tree, packages):
    progress.step(f"unpacking {len(packages)} packages")
    for name in MERGED:
        tree.directory(f"usr/{name}")
        tree.symlink(name, f"usr/{name}")
    for name in ("dev", "proc", "sys", "run"):
        tree.directory(name)
    tree.directory("tmp", 0o1777)
    unpacker = Unpacker(tree)
    for number, package in enumerate(packages):
        progress.update(number, len(packages), package.name)
        unpacker.unpack(package)
    progress.done()
    unpacker.finish()
    tree.file(f"{WORK_DIR}/preinst", ("\n".join(unpacker.preinst) + "\n").encode())
    for name in MASKED:
        tree.symlink(f"etc/systemd/system/{name}", "/dev/null")
    for name, why in SHIMS.items():
        tree.file(f"{WORK_DIR}/bin/{name}", f"#!/bin/sh\n# {why}\nexit 0\n".encode(), 0o755)
    return [package.name for package in packages]


def add_kernel_index(tree, kernel):
    for name in os.listdir(kernel.modules):
        path = os.path.join(kernel.modules, name)
        if name.startswith("modules.") and os.path.isfile(path):
            with open(path, "rb") as file:
                tree.file(f"usr/lib/modules/{kernel.release}/{name}", file.read())


def add_apt_state(tree, names, manual, sources, architecture):
    """Which packages came as dependencies (apt autoremove), and where more come from."""
    tree.file("var/lib/apt/extended_states", "".join(
        f"Package: {name}\nArchitecture: {architecture}\nAuto-Installed: 1\n\n"
        for name in names if name not in manual).encode())
    text = "".join(f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n"
                   "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
                   for uri, suite in sources)
    tree.file("etc/apt/sources.list.d/debian.sources", text.encode())


def add_overlay(tree, directory):
    """Our own files; directories and modes as they lie in images/guest/debian."""
    for parent, _, files in os.walk(directory):
        for name in files:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                tree.file(os.path.relpath(path, directory), file.read(),
                          0o755 if os.access(path, os.X_OK) else 0o644)


def write_ext4(directory, tree):
    image = os.path.join(directory, "root.img")
    # A new file is all zeroes, so the inode tables need no zeroing: the image stays sparse and the
    # guest's kernel starts no thread to do it later.
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", LABEL, "-m", "1", "-J", f"size={JOURNAL_MIB}",
        "-E", "root_owner=0:0,assume_storage_prezeroed=1,no_copy_xattrs",
        "-d", tree.root, image, f"{SIZE_MIB}M", error="the file system cannot be made")
    script = os.path.join(directory, "owners")
    with open(script, "w") as out:
        for path, (mode, uid, gid) in sorted(tree.meta.items()):
            out.writelines(corrections(tree.root, path, mode, uid, gid))
    done = run("debugfs", "-w", "-f", script, image, error="the owners of files cannot be set")
    wrong = [line for line in done.splitlines() if line and not line.startswith("debugfs: ")]
    if wrong:
        raise Failure(f"the owners of files cannot be set: {wrong[0]}")
    os.unlink(script)
    run("e2fsck", "-f", "-n", image, error="the file system just made is not sound")


def corrections(root, path, mode, uid, gid):
    """debugfs commands that turn what mke2fs copied from the host into what the package says."""
    found = os.lstat(os.path.join(root, path))
    if '"' in path or "\n" in path:
        raise Failure(f"a package holds a path that debugfs cannot take: {path!r}")
    wanted = {"uid": (found.st_uid, uid), "gid": (found.st_gid, gid)}
    if not stat.S_ISLNK(mode):
        wanted["mode"] = (found.st_mode, mode)
    for field, (have, want) in wanted.items():
        if have != want:
            yield f'sif "/{path}" {field} {"0%o" % want if field == "mode" else want}\n'


def read_file(image, path):
    """A file's content from an ext4 image; None if it is not there."""
    text = run("debugfs", "-R", f'cat "{path}"', image, error=f"{path} cannot be read")
    return text or None
