# SPDX-License-Identifier: MIT
"""Debian's archive through the machine's own apt, set up for a foreign architecture in the cache.

apt resolves, downloads (resumably) and verifies: each Release file's signature against Debian's
keyring, each index and package by its hash from there. Nothing of the host's package state is read
or written; of its configuration only proxies and the like apply (they come in before our -c file).
"""
import hashlib
import os
import re
import shutil
import subprocess
from urllib.parse import urlsplit, urlunsplit

from .cache import remove
from .host import Failure, environment, run, tool

RELEASE = "trixie"
RELEASE_TITLE = "Debian 13 (trixie)"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Suites that Debian's main archive has: how one recognises it among a machine's sources.
DEBIAN_SUITES = {"bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"}
SCHEMES = r"(https?|ftp|file|copy|tor\+https?):"

CONFIG = """\
Dir::State "{dir}/state";
Dir::State::status "{dir}/status";
Dir::State::extended_states "{dir}/extended_states";
Dir::Cache "{dir}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "{dir}/log";
Dir::Etc::sourcelist "{dir}/trapeze.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
APT::Architecture "{arch}";
#clear APT::Architectures;
APT::Architectures {{ "{arch}"; }};
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::Assume-Yes "true";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::ForceHash "SHA256";
Acquire::Retries "3";
Acquire::AllowInsecureRepositories "false";
#clear Acquire::IndexTargets::deb::Contents-deb;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
"""


class Package:
    """A package of the resolved set: its name and the .deb file, whose hash has been checked."""

    def __init__(self, name, deb, sha256):
        self.name, self.deb, self.sha256 = name, deb, sha256


class Archive:
    def __init__(self, cache, progress, arch):
        self.dir = cache.path(f"apt{arch.suffix}")
        self.arch = arch
        self.progress = progress
        self.sources = []  # (uri, suite)
        self.ready = False

    # -- set-up -----------------------------------------------------------------------------------

    def prepare(self):
        """Lists of the packages that the archive has, verified. Offline, the last ones serve."""
        if self.ready:
            return
        for name in ("state/lists/partial", "cache/archives/partial", "log"):
            os.makedirs(os.path.join(self.dir, name), exist_ok=True)
        open(os.path.join(self.dir, "status"), "w").close()
        with open(os.path.join(self.dir, "apt.conf"), "w") as out:
            out.write(CONFIG.format(dir=self.dir, arch=self.arch.debian))
        required, optional = find_sources()
        self.progress.step(f"package lists of {RELEASE_TITLE} {self.arch.debian} "
                           f"from {without_password(required)}")
        keyring = os.environ.get("TRAPEZE_KEYRING") or KEYRING
        if not os.path.exists(keyring):
            raise Failure(f"Debian's keyring {keyring} is missing, so no signature can be checked; "
                          "install it with: apt-get install debian-archive-keyring")
        if not self._update([required], keyring):
            keyring, current = self._explain_update(required, keyring)
            if not current:
                self._write_sources([required, *optional], keyring)
                self.sources, self.ready = [required, *optional], True
                return
        # Updates come on top where the machine itself uses them; a suite whose index does not match
        # its signed Release file (a mirror out of step) must not be used, and must not be fatal.
        accepted = [required]
        for source in optional:
            if self._update(accepted + [source], keyring):
                accepted.append(source)
            else:
                where = f"{source[1]} at {without_password(source)}"
                self.progress.note(f"warning: {where} cannot be used ({self._last_error()}); "
                                   "going on without it")
        if accepted[-1:] != (optional or [required])[-1:]:
            self._write_sources(accepted, keyring)
        self.sources = accepted
        self.ready = True

    def _write_sources(self, sources, keyring):
        with open(os.path.join(self.dir, "trapeze.sources"), "w") as out:
            for uri, suite in sources:
                out.write(f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n"
                          f"Signed-By: {keyring}\n\n")

    def _update(self, sources, keyring):
        self._write_sources(sources, keyring)
        done = subprocess.run([tool("apt-get"), "-c", self._config(), "-q", "update"],
                              env=environment(), text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.update_log = done.stdout
        return done.returncode == 0

    def _last_error(self):
        errors = [line for line in self.update_log.splitlines() if line.startswith(("E: ", "W: "))]
        return errors[0][3:] if errors else "apt-get update failed"

    def _explain_update(self, required, keyring):
        """The archive could not be refreshed: (keyring, True) with a newer keyring,
        (keyring, False) with the lists of the last time, or a sentence."""
        if "NO_PUBKEY" in self.update_log or "EXPKEYSIG" in self.update_log:
            newer = None if os.environ.get("TRAPEZE_KEYRING") else self._newer_keyring()
            if newer and self._update([required], newer):
                self.progress.note(f"{keyring} is too old; using the newer one that this machine's "
                                   "own apt sources vouch for")
                return newer, True
            raise Failure(f"the signature of {RELEASE_TITLE} cannot be checked with {keyring}: "
                          "it lacks that release's keys; install the newest debian-archive-keyring "
                          "(apt-get update && apt-get install debian-archive-keyring) "
                          "or name a keyring in TRAPEZE_KEYRING")
        if self._has_lists():
            self.progress.note(f"warning: the archive cannot be reached ({self._last_error()}); "
                               "using the package lists of the last time")
            return keyring, False
        raise Failure(f"the package lists of {RELEASE_TITLE} cannot be had from "
                      f"{without_password(required)}: {self._last_error()}\n"
                      "Check the network, or set TRAPEZE_MIRROR to another mirror of Debian")

    def _has_lists(self):
        done = subprocess.run([tool("apt-cache"), "-c", self._config(), "show",
                               self.arch.meta_package],
                              env=environment(), stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
        return done.returncode == 0

    def _newer_keyring(self):
        """The keyring as the machine's own, verified apt sources have it now, or None."""
        target = os.path.join(self.dir, "keyring")
        os.makedirs(target, exist_ok=True)
        try:
            run("apt-get", "download", "debian-archive-keyring", cwd=target, error="keyring")
            debs = sorted(name for name in os.listdir(target) if name.endswith(".deb"))
            run("dpkg-deb", "-x", os.path.join(target, debs[-1]), target, error="keyring")
        except (Failure, IndexError):
            return None
        path = target + KEYRING
        return path if os.path.exists(path) else None

    def _config(self):
        return os.path.join(self.dir, "apt.conf")

    def public_sources(self):
        """The sources as a guest may use them: reachable by network, without passwords."""
        return [(without_password(source), source[1]) for source in self.sources
                if source[0].startswith("http")]

    # -- packages ---------------------------------------------------------------------------------

    def _apt(self, *argv, error):
        return run("apt-get", "-c", self._config(), "-q", *argv, error=error)

    def resolve(self, names):
        """[(name, uri, file name, size, sha256)] of the packages and all they need, in the order
        in which apt would unpack them."""
        self.prepare()
        error = f"the packages for the image cannot be resolved ({' '.join(names[:3])} ...)"
        order = re.findall(r"^Inst (\S+)", self._apt("-s", "install", *names, error=error), re.M)
        listing = self._apt("--print-uris", "-o", "Dir::Cache::archives=/nonexistent",
                            "install", *names, error=error)
        found = {}
        for uri, file, size, sha256 in re.findall(
                r"^'(\S+)' (\S+\.deb) (\d+) SHA256:([0-9a-f]{64})$", listing, re.M):
            found[file.split("_")[0]] = (uri, file, int(size), sha256)
        names = [name.split(":")[0] for name in order]
        missing = set(names) ^ set(found)
        if missing:
            raise Failure(f"apt named no file or no hash for: {' '.join(sorted(missing))}")
        return [(name, *found[name]) for name in names]

    def version(self, resolved):
        return [f"{file}:{sha256}" for _, _, file, _, sha256 in resolved]

    def download(self, resolved, names):
        """Downloads what is not in the cache yet and checks every file; returns [Package]."""
        directory = os.path.join(self.dir, "cache/archives")
        wanted = [(file, size) for _, _, file, size, _ in resolved
                  if not os.path.exists(os.path.join(directory, file))]
        if wanted:
            total = sum(size for _, size in wanted)
            self.progress.step(f"downloading {len(wanted)} packages, {total / 1e6:.0f} MB")
            self._fetch(["--download-only", "install", *names], None, total)
        packages = []
        for name, _, file, _, sha256 in resolved:
            path = os.path.join(directory, file)
            if file_sha256(path) != sha256:
                os.unlink(path)
                raise Failure(f"the downloaded {file} was damaged and has been removed; "
                              "run the command again")
            packages.append(Package(name, path, sha256))
        return packages

    def fetch_one(self, resolved, name):
        """One package of a resolved set, without the rest of the set."""
        _, _, file, size, sha256 = next(entry for entry in resolved if entry[0] == name)
        path = os.path.join(self.dir, "cache/archives", file)
        if file_sha256(path) == sha256:
            return Package(name, path, sha256)
        self.progress.step(f"downloading {file}, {size / 1e6:.0f} MB")
        # "apt-get download" writes under the final name from the start, so it works in a directory
        # of its own, and only what has the right hash leaves it.
        directory = os.path.join(self.dir, "single")
        os.makedirs(directory, exist_ok=True)
        self._fetch(["download", name], directory, size)
        arrived = os.path.join(directory, file)
        if file_sha256(arrived) != sha256:
            remove(arrived)
            raise Failure(f"{file} did not arrive as the signed package list describes it; "
                          "run the command again")
        os.rename(arrived, path)
        return Package(name, path, sha256)

    def _fetch(self, argv, directory, total):
        """Runs an apt-get that downloads `total` bytes, and shows how far it is."""
        command = [tool("apt-get"), "-c", self._config(), "-q", "-o", "APT::Status-Fd=1", *argv]
        with subprocess.Popen(command, env=environment(), cwd=directory, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as apt:
            problems = []
            for line in apt.stdout:
                if line.startswith(("E: ", "W: ", "Err:")):
                    problems.append(line.strip())
                found = re.match(r"dlstatus:\d+:([\d.]+):(.*)", line)
                if found:
                    done = int(total * float(found.group(1)) / 100)
                    self.progress.update(done // 10**6, total // 10**6, f"MB  {found.group(2)}")
        self.progress.done()
        if apt.returncode != 0:
            raise Failure("the download failed: " + "; ".join(problems or ["apt-get said nothing"])
                          + "\nRun the command again: it resumes where it stopped")


def file_sha256(path):
    state = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
    except FileNotFoundError:
        return None
    return state.hexdigest()


def without_password(source):
    parts = urlsplit(source[0])
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def find_sources():
    """((uri, suite) of the release, [(uri, suite) of its updates]): from TRAPEZE_MIRROR, from the
    machine's apt configuration (apt itself reads its formats), or a bootstrap tool's default."""
    chosen = os.environ.get("TRAPEZE_MIRROR")
    if chosen:
        if not re.match(SCHEMES + r"/\S+$", chosen):
            raise Failure(f"TRAPEZE_MIRROR is '{chosen}', which is not the URI of a Debian archive "
                          "(http://, https:// or file:/)")
        return (chosen, RELEASE), []
    mains, extra = [], {}
    # Without --no-release-info apt names nothing on a machine that has no package lists yet.
    listing = run("apt-get", "indextargets", "--no-release-info", "--format",
                  "$(REPO_URI)|$(RELEASE)|$(COMPONENT)", "Created-By: Packages",
                  error="the machine's apt configuration cannot be read")
    for line in listing.splitlines():
        uri, suite, component = (line.split("|") + ["", ""])[:3]
        base, _, kind = suite.partition("-")
        if component != "main" or base not in DEBIAN_SUITES or not re.match(SCHEMES, uri):
            continue
        if not kind:
            mains.append(uri)
        elif kind in ("updates", "security"):
            extra.setdefault(kind, uri)
    # Third parties may name their suites like Debian's, but mirrors of Debian end in /debian.
    main = max(mains, key=lambda uri: uri.endswith("/debian/"), default=None) or tool_default()
    return (main, RELEASE), [(uri, f"{RELEASE}-{kind}") for kind, uri in sorted(extra.items())]


def tool_default():
    """The default archive of mmdebstrap or debootstrap, on a machine that is not Debian."""
    for name in ("debootstrap", "mmdebstrap"):
        path = shutil.which(name, path=environment()["PATH"])
        if not path:
            continue
        with open(path, errors="replace") as script:
            found = re.search(r"(?:DEF_MIRROR=|\$mirror\s*=\s*)[\"'](https?://[^\"'\s]+/debian)",
                              script.read())
        if found:
            return found.group(1)
    raise Failure("this machine's apt configuration names no archive of Debian; "
                  "set TRAPEZE_MIRROR to one (see the list of Debian mirrors)")
