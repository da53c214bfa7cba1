# SPDX-License-Identifier: MIT
"""The cache directory: one lock, stages named by their inputs' hash, images published by rename.

Invariant: a directory under images/ or a stage under work/ without the suffix ".part" is complete.
Whatever carries that suffix belongs to the holder of the lock and is removed by the next one.
"""
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat

from .host import Failure

PART = ".part"


def root():
    chosen = os.environ.get("TRAPEZE_CACHE")
    if not chosen:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        chosen = os.path.join(base, "trapeze")
    return os.path.abspath(chosen)


def digest(*parts):
    """A short name for a set of inputs (strings, bytes or lists of strings)."""
    state = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part).encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:16]


class Cache:
    def __init__(self, progress):
        self.root = root()
        self.progress = progress
        self.lock_file = None

    def path(self, *names):
        return os.path.join(self.root, *names)

    def image(self, name, recipe=None):
        """The directory of a finished image (made by that recipe, if one is given), or None."""
        path = self.path("images", name)
        try:
            with open(os.path.join(path, "image.json")) as file:
                made_by = json.load(file).get("recipe")
        except (OSError, ValueError):
            return None
        return path if recipe in (None, made_by) else None

    def lock(self):
        """Waits for other builders, then removes what interrupted ones left."""
        try:
            for name in ("images", "work"):
                os.makedirs(self.path(name), exist_ok=True)
            self.lock_file = open(self.path("lock"), "w")
        except OSError as error:
            raise Failure(f"the cache directory {self.root} cannot be used: {error.strerror}; "
                          "set TRAPEZE_CACHE to a directory that can be written")
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.progress.step(f"another image build is at work in {self.root}; waiting for it")
            fcntl.flock(self.lock_file, fcntl.LOCK_EX)
        for name in ("images", "work"):
            for entry in os.listdir(self.path(name)):
                if entry.endswith(PART):
                    remove(self.path(name, entry))

    def require_space(self, mib, what):
        free = shutil.disk_usage(self.root).free >> 20
        if free < mib:
            raise Failure(f"{what} needs about {mib} MiB in {self.root}, which has {free} MiB; "
                          "free some space or set TRAPEZE_CACHE to another file system")

    def finished(self, name):
        """The directory of a finished stage, whatever its key, or None."""
        for entry in sorted(os.listdir(self.path("work"))):
            if entry.startswith(name + "-") and not entry.endswith(PART):
                return self.path("work", entry)
        return None

    def stage(self, name, key, make):
        """The directory work/name-key; made by make(directory) unless it is there already."""
        final = self.path("work", f"{name}-{key}")
        if os.path.isdir(final):
            return final
        part = final + PART
        os.mkdir(part)
        make(part)
        # Earlier versions of the same stage serve nobody any more.
        for entry in os.listdir(self.path("work")):
            if entry.startswith(name + "-") and not entry.endswith(PART):
                remove(self.path("work", entry))
        os.rename(part, final)
        return final

    @contextlib.contextmanager
    def scratch(self, name):
        """A directory of this build only, removed at its end."""
        part = self.path("work", name + PART)
        os.mkdir(part)
        try:
            yield part
        finally:
            remove(part)

    def discard(self, path):
        """Removes a large intermediate tree."""
        remove(path)

    def publish(self, name, manifest, files):
        """Moves or links `files` ({name: path}) into images/NAME with its manifest, atomically."""
        part = self.path("images", name + PART)
        os.mkdir(part)
        for target, source in files.items():
            place(source, os.path.join(part, target))
        with open(os.path.join(part, "image.json"), "w") as out:
            json.dump(manifest, out, indent=2)
            out.write("\n")
        for entry in os.listdir(part):
            path = os.path.join(part, entry)
            os.chmod(path, 0o444)
            with open(path, "rb") as file:
                os.fsync(file.fileno())  # complete on disk before the rename makes it visible
        final = self.path("images", name)
        if os.path.isdir(final):
            remove(final)
        os.rename(part, final)
        fd = os.open(os.path.dirname(final), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        return final


def place(source, target):
    """The file under a second name: a hard link, since published files are never written."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove(path):
    """Removes a file or a tree, whatever modes its directories have."""
    if os.path.isdir(path) and not os.path.islink(path):
        for directory, _, _ in os.walk(path):
            os.chmod(directory, stat.S_IRWXU)
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
