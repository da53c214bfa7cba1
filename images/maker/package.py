# SPDX-License-Identifier: MIT
"""Unpacks .deb files into a tree as `dpkg --unpack` would have, without running any of their code.

Why not dpkg: with a foreign --root it runs the packages' preinst scripts, which are for the guest's
instruction set, or, told not to chroot, would run them against the host. The guest runs them
instead, before it configures (guest/debian/var/lib/trapeze-setup/first-boot).

Invariants: file modes in the tree are harmless on the host (never set-id, always readable by the
builder); the true owner and mode of each path are in Tree.meta, for whoever writes the file system.
Nothing is ever written outside the tree, whatever a package's tar archive says.
"""
import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import tarfile

from .host import Failure, tool

# dpkg's database as a fresh installation has it, besides what packages bring.
EMPTY_FILES = ["available", "diversions", "statoverride", "triggers/Lock", "triggers/Unincorp"]
DATABASE = "var/lib/dpkg"

# control members that do not go to info/: the paragraph itself becomes the status entry
NOT_INFO = {"control"}

# Files of base-passwd's static ids may belong to these; any other id is the packager's accident.
STATIC_IDS = range(0, 100)


class Tree:
    def __init__(self, root):
        self.root = root
        self.meta = {}  # path without leading slash -> (mode with type, uid, gid)
        os.makedirs(root, exist_ok=True)
        self.meta[""] = (stat.S_IFDIR | 0o755, 0, 0)

    def host_path(self, path):
        """Where `path` lies on the host; follows the tree's own links among its directories."""
        at, parts, hops = "", [p for p in path.split("/") if p not in ("", ".")], 0
        while parts:
            part = parts.pop(0)
            if part == "..":
                at = os.path.dirname(at)
                continue
            entry = os.path.join(at, part)
            if parts and os.path.islink(os.path.join(self.root, entry)):
                hops += 1
                if hops > 40:
                    raise Failure(f"a package's path {path} runs through a loop of links")
                target = os.readlink(os.path.join(self.root, entry))
                if target.startswith("/"):
                    at = ""
                parts = [p for p in target.split("/") if p not in ("", ".")] + parts
                continue
            at = entry
        return at

    def directory(self, path, mode=0o755, uid=0, gid=0):
        """Like dpkg, an existing directory (or link to one) keeps what it has."""
        at = self.host_path(path)
        full = os.path.join(self.root, at)
        if os.path.isdir(full) or os.path.islink(full):
            self.meta.setdefault(at, (stat.S_IFDIR | mode, uid, gid))
            return
        os.makedirs(full)
        os.chmod(full, mode & 0o777 | 0o700)
        while at and at not in self.meta:
            self.meta[at] = (stat.S_IFDIR | mode, uid, gid)
            at, mode, uid, gid = os.path.dirname(at), 0o755, 0, 0

    def file(self, path, data, mode=0o644, uid=0, gid=0, mtime=None):
        """`data` is bytes or a binary file; replaces what was there."""
        at = self.host_path(path)
        full = self._clear(at)
        with open(full, "wb") as out:
            if isinstance(data, (bytes, bytearray)):
                out.write(data)
            else:
                shutil.copyfileobj(data, out, 1 << 20)
            os.fchmod(out.fileno(), mode & 0o777 | 0o600)
        if mtime is not None:
            os.utime(full, (mtime, mtime))
        self.meta[at] = (stat.S_IFREG | mode, uid, gid)

    def symlink(self, path, target, uid=0, gid=0):
        at = self.host_path(path)
        os.symlink(target, self._clear(at))
        self.meta[at] = (stat.S_IFLNK | 0o777, uid, gid)

    def hardlink(self, path, target):
        at, source = self.host_path(path), self.host_path(target)
        if source not in self.meta or not stat.S_ISREG(self.meta[source][0]):
            raise Failure(f"a package links {path} to {target}, which is not one of its files")
        os.link(os.path.join(self.root, source), self._clear(at))
        self.meta[at] = self.meta[source]

    def append(self, path, text):
        at = self.host_path(path)
        with open(os.path.join(self.root, at), "a") as out:
            out.write(text)
        self.meta.setdefault(at, (stat.S_IFREG | 0o644, 0, 0))

    def _clear(self, at):
        full = os.path.join(self.root, at)
        parent = os.path.dirname(at)
        if not os.path.isdir(os.path.join(self.root, parent)):
            self.directory(parent)
        if os.path.isdir(full) and not os.path.islink(full):
            raise Failure(f"a package holds a file where another has the directory /{at}")
        if os.path.lexists(full):
            os.unlink(full)
        return full


def open_tar(deb, member):
    """(process, tar stream) of a .deb's "ctrl" or "fsys" archive; dpkg-deb knows its format."""
    process = subprocess.Popen([tool("dpkg-deb"), f"--{member}-tarfile", deb],
                               stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    return process, tarfile.open(fileobj=process.stdout, mode="r|")


def close_tar(process, deb):
    process.stdout.read()
    process.stdout.close()
    if process.wait() != 0:
        raise Failure(f"{os.path.basename(deb)} cannot be unpacked; is it damaged?")


def read_control(deb):
    """{member name: (mode, bytes)} of the control archive."""
    process, tar = open_tar(deb, "ctrl")
    members = {}
    for entry in tar:
        if entry.isfile():
            members[os.path.basename(entry.name)] = (entry.mode, tar.extractfile(entry).read())
    close_tar(process, deb)
    return members


def fields(paragraph):
    """{name: value} of a control paragraph; enough for the one-line fields asked here."""
    return dict(re.findall(r"^([A-Za-z-]+): *(.*)$", paragraph, re.M))


class Unpacker:
    """Unpacks packages one by one into `tree`; finish() writes dpkg's database."""

    def __init__(self, tree):
        self.tree = tree
        self.status = []
        self.preinst = []   # "package architecture info-name", for the guest
        self.count = 0
        for name in EMPTY_FILES:
            tree.file(f"{DATABASE}/{name}", b"")
        for name in ("alternatives", "info", "parts", "triggers", "updates"):
            tree.directory(f"{DATABASE}/{name}")
        tree.file(f"{DATABASE}/info/format", b"1\n")
        tree.file(f"{DATABASE}/triggers/File", b"")

    def unpack(self, package):
        control = read_control(package.deb)
        paragraph = control["control"][1].decode().strip("\n")
        about = fields(paragraph)
        name = about["Package"]
        info = f"{name}:{about['Architecture']}" if about.get("Multi-Arch") == "same" else name
        listing = self._files(package.deb)
        base = f"{DATABASE}/info/{info}"
        self.tree.file(f"{base}.list", ("\n".join(listing) + "\n").encode())
        for member, (mode, data) in control.items():
            if member not in NOT_INFO:
                self.tree.file(f"{base}.{member}", data, 0o755 if mode & 0o111 else 0o644)
        self._triggers(info, control.get("triggers", (0, b""))[1].decode())
        if needs_to_run(control.get("preinst", (0, b""))[1].decode(errors="replace")):
            self.preinst.append(f"{name} {about['Architecture']} {info}")
        self._status(paragraph, control.get("conffiles", (0, b""))[1].decode())
        self.count += 1

    def finish(self):
        self.tree.file(f"{DATABASE}/status", ("\n\n".join(self.status) + "\n").encode())

    def _files(self, deb):
        process, tar = open_tar(deb, "fsys")
        listing = []
        for entry in tar:
            path = os.path.normpath("/" + entry.name).lstrip("/")
            listing.append("/" + path if path else "/.")
            uid, gid = (i if i in STATIC_IDS else 0 for i in (entry.uid, entry.gid))
            if not path:
                continue
            if entry.isdir():
                self.tree.directory(path, entry.mode & 0o7777, uid, gid)
            elif entry.issym():
                self.tree.symlink(path, entry.linkname, uid, gid)
            elif entry.islnk():
                self.tree.hardlink(path, os.path.normpath("/" + entry.linkname))
            elif entry.isfile():
                self.tree.file(path, tar.extractfile(entry), entry.mode & 0o7777, uid, gid,
                               entry.mtime)
            else:
                raise Failure(f"{os.path.basename(deb)} holds a device node (/{path}), "
                              "which Debian's packages never do")
        close_tar(process, deb)
        return listing

    def _status(self, paragraph, conffiles):
        """The status entry. The conffiles lie in their final place with their hash on record, which
        is the state that `dpkg --configure` makes of ".dpkg-new" files; it accepts either."""
        head, _, rest = paragraph.partition("\n")
        entry = f"{head}\nStatus: install ok unpacked\n{rest}"
        lines = []
        for line in conffiles.splitlines():
            path = line.strip()
            if not path or not path.startswith("/"):
                continue  # "remove-on-upgrade /path": the package does not hold that file
            full = os.path.join(self.tree.root, self.tree.host_path(path))
            with open(full, "rb") as file:
                lines.append(f" {path} {hashlib.md5(file.read()).hexdigest()}")
        if lines:
            entry += "\nConffiles:\n" + "\n".join(lines)
        self.status.append(entry)

    def _triggers(self, info, text):
        """Records the package's interests, as unpacking does (deb-triggers(5))."""
        for line in text.splitlines():
            words = line.split("#")[0].split()
            if len(words) != 2 or not words[0].startswith("interest"):
                continue
            # dpkg qualifies the name by architecture exactly as for the info files.
            owner = info + ("/noawait" if words[0] == "interest-noawait" else "")
            if words[1].startswith("/"):
                self.tree.append(f"{DATABASE}/triggers/File", f"{words[1]} {owner}\n")
            else:
                self.tree.append(f"{DATABASE}/triggers/{words[1]}", f"{owner}\n")


def needs_to_run(script):
    """Whether a preinst does anything on a first installation: the stanzas that debhelper adds
    (dpkg-maintscript-helper) act on upgrades only, so a script of nothing else is spared."""
    for line in io.StringIO(script):
        line = line.strip()
        if line and not line.startswith(("#", "dpkg-maintscript-helper", "set -", "exit 0")):
            return True
    return False
