# SPDX-License-Identifier: MIT
"""The images: which stages each one is made of, and what its manifest says."""
import os
import string

from . import arch, firstboot, initramfs, kernel, rootfs
from .archive import RELEASE_TITLE, Archive
from .cache import digest, remove

# Root file systems of Debian: what is installed in each, by files beside images/build.
DEBIANS = {
    "debian": {"packages": ["packages.debian"], "title": "", "memory_mib": 512, "cpus": 2},
    "debian-dev": {"packages": ["packages.debian", "packages.debian-dev"],
                   "title": " with compiler, Python and stress-ng", "memory_mib": 1024, "cpus": 2},
}
NAMES = [name + each.suffix for each in arch.ALL for name in ["tiny", *DEBIANS]]
FORMAT = 1
# Debian's own list of security modules (CONFIG_LSM) without bpf: where that is, systemd parses the
# kernel's type information for a restriction that no unit of ours uses, 0.7 G instructions a boot.
DEBIAN_APPEND = [f"root=LABEL={rootfs.LABEL}", "rw", "console=ttyS0",
                 "lsm=landlock,lockdown,yama,loadpin,safesetid,ipe,apparmor"]
GUEST_DIR = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "guest")


def build(cache, progress, options):
    """Builds what options.command names unless it is there; returns its directory."""
    name = options.command
    if not options.rebuild and name in NAMES and cache.image(name, recipe(name)):
        return cache.image(name)
    cache.lock()
    if not options.rebuild and name in NAMES and cache.image(name, recipe(name)):
        return cache.image(name)  # made by the builder we waited for
    base, isa = arch.of(name)
    if not options.rebuild and base == "kernel" and cache.finished(f"{isa.stage}kernel"):
        return cache.finished(f"{isa.stage}kernel")  # and the archive is not asked for a newer one
    return BUILDERS[base](cache, progress, Archive(cache, progress, isa), options)


def clean(cache, name):
    remove(cache.path("images", name) if name else cache.path("work"))


def source_bytes(*names):
    """Names and contents of builder and guest files, so that a changed one makes a stage anew."""
    data = []
    for name in names:
        with open(os.path.join(os.path.dirname(GUEST_DIR), name), "rb") as file:
            data += [name.encode(), file.read()]
    return b"\0".join(data)


def kernel_stage(cache, progress, archive):
    cache.require_space(1000, "the kernel")
    resolved = archive.resolve([archive.arch.meta_package, "busybox-static"])
    package = archive.fetch_one(resolved, kernel.kernel_package(resolved, archive.arch))
    return kernel.make(cache, progress, package, archive.arch), resolved


def boot_stages(cache, progress, archive):
    """(kernel, path of the initrd): what every image boots with."""
    made, resolved = kernel_stage(cache, progress, archive)
    busybox = archive.fetch_one(resolved, "busybox-static")
    key = digest(made.release, busybox.sha256,
                 source_bytes(*BOOT_SOURCES))
    return made, initramfs.make(cache, progress, made, busybox, GUEST_DIR, key)


# What determines an image besides the archive: a changed file makes the next build a new one.
BOOT_SOURCES = ["maker/arch.py", "maker/kernel.py", "maker/initramfs.py", "maker/elf.py", "guest/init"]
ROOT_SOURCES = ["maker/package.py", "maker/rootfs.py"]
# Recipes that make what an earlier one made, whose images need no building anew:
# {(name, digest): the earlier one's}.
SAME_AS = {
    ("debian", "6f8c828711ac0056"): "f4c7c492627da83d",
    ("debian-dev", "231cb8453d4132c2"): "55036ea72c037627",
}


def root_sources(name):
    return [*ROOT_SOURCES, *DEBIANS[name]["packages"]]


def recipe(name):
    base, _ = arch.of(name)
    extra = ([*root_sources(base), "maker/firstboot.py", *overlay_files()]
             if base in DEBIANS else [])
    made = digest(FORMAT, DEBIAN_APPEND, source_bytes(*BOOT_SOURCES, *extra))
    return SAME_AS.get((name, made), made)


def overlay_files():
    base = os.path.join(GUEST_DIR, "debian")
    return sorted(os.path.relpath(os.path.join(parent, name), os.path.dirname(GUEST_DIR))
                  for parent, _, files in os.walk(base) for name in files)


def manifest(made, base, title, append, **keys):
    name = base + made.arch.suffix
    return {"format": FORMAT, "recipe": recipe(name), "name": name, "title": title,
            "isa": made.arch.isa, "kernel": made.arch.kernel_file, "initrd": "initrd",
            "append": append, **keys}


def build_kernel(cache, progress, archive, _options):
    return os.path.dirname(kernel_stage(cache, progress, archive)[0].image)


def build_tiny(cache, progress, archive, _options):
    made, initrd = boot_stages(cache, progress, archive)
    about = manifest(made, "tiny", f"busybox on the kernel of {RELEASE_TITLE}"
                     + made.arch.title, "console=ttyS0",
                     memory_mib=128, cpus=1)
    return cache.publish(about["name"], about, {made.arch.kernel_file: made.image,
                                                "initrd": initrd})


def package_names(name, isa):
    """Of an image's name without its architecture."""
    names = []
    for path in DEBIANS[name]["packages"]:
        with open(os.path.join(os.path.dirname(GUEST_DIR), path)) as file:
            text = string.Template(file.read()).substitute(arch=isa.debian)
        names += [line.split("#")[0].strip() for line in text.splitlines()]
    return [package for package in names if package]


def build_debian(cache, progress, archive, options):
    base, isa = arch.of(options.command)
    about = DEBIANS[base]
    trapeze = firstboot.find_trapeze(options.trapeze)  # before the work, not after it
    firstboot.check_trapeze(trapeze, isa)
    cache.require_space(3000, "the Debian image")
    made, initrd = boot_stages(cache, progress, archive)
    names = package_names(base, isa)
    resolved = archive.resolve(names)
    packages = archive.download(resolved, names)
    key = digest(archive.version(resolved), names,
                 source_bytes(*root_sources(base), *overlay_files()))
    unpacked = rootfs.make(cache, progress, packages, set(names), made, GUEST_DIR,
                           archive.public_sources(), key)
    with cache.scratch("configured") as directory:
        root = firstboot.configure(progress, trapeze, made, initrd, unpacked, directory,
                                   len(packages))
        wanted = manifest(made, base, f"{RELEASE_TITLE} {isa.isa}" + about["title"],
                          " ".join(DEBIAN_APPEND), disk="root.img",
                          memory_mib=about["memory_mib"], cpus=about["cpus"], login="root")
        path = cache.publish(wanted["name"], wanted,
                             {made.arch.kernel_file: made.image, "initrd": initrd,
                              "root.img": root})
    return path


BUILDERS = {"kernel": build_kernel, "tiny": build_tiny, **dict.fromkeys(DEBIANS, build_debian)}
