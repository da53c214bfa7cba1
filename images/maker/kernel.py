# SPDX-License-Identifier: MIT
"""The distribution's kernel: the file that the boot loader reads, and its modules."""
import os
import re
import shutil

from .host import Failure, run


class Kernel:
    """A kernel stage: the image, release (its `uname -r`), root/ with the modules and their index."""

    def __init__(self, directory, arch):
        self.arch = arch
        self.image = os.path.join(directory, arch.kernel_file)
        self.root = os.path.join(directory, "root")
        self.release = os.listdir(os.path.join(self.root, "usr/lib/modules"))[0]
        self.modules = os.path.join(self.root, "usr/lib/modules", self.release)


def kernel_package(resolved, arch):
    for name, *_ in resolved:
        if re.match(r"linux-image-\d", name):
            return name
    raise Failure(f"{arch.meta_package} depends on no linux-image package: the archive has changed; "
                  "images/maker/kernel.py must follow")


def make(cache, progress, package, arch):
    def build(directory):
        progress.step(f"unpacking {package.name}")
        root = os.path.join(directory, "root")
        run("dpkg-deb", "-x", package.deb, root, error="the kernel package cannot be unpacked")
        boot = os.path.join(root, "boot")
        file = next((f for f in sorted(os.listdir(boot)) if f.startswith("vmlinu")), None)
        if file is None:
            raise Failure(f"{package.name} holds no kernel under /boot")
        write_image(os.path.join(boot, file), os.path.join(directory, arch.kernel_file), arch)
        shutil.rmtree(boot)
        # depmod here spares the guest from decompressing every module in an interpreter.
        progress.step("indexing the kernel's modules (depmod)")
        release = os.listdir(os.path.join(root, "usr/lib/modules"))[0]
        run("depmod", "-b", usr_merged(root), release, error="the module index cannot be made")

    return Kernel(cache.stage(f"{arch.stage}kernel", package.sha256[:16], build), arch)


def usr_merged(root):
    """depmod reads BASE/lib/modules (unless built for /usr): give the tree Debian's /lib link."""
    if not os.path.lexists(os.path.join(root, "lib")):
        os.symlink("usr/lib", os.path.join(root, "lib"))
    return root


def write_image(source, target, arch):
    with open(source, "rb") as file:
        data = file.read()
    with open(target, "wb") as out:
        out.write(arch.read_kernel(data, os.path.basename(source)))
