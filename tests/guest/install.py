#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is installed, and that it works where it lies and not only where it was built.

    install.py BUILD PREFIX BINDIR DATADIR MANDIR
"""
import os
import shutil
import stat
import subprocess
import sys
import tempfile

import tap

BUILD, PREFIX, BINDIR, DATADIR, MANDIR = sys.argv[1:6]
FOLDER = tempfile.TemporaryDirectory()
ROOT = os.path.join(FOLDER.name, "moved")


def installed(*parts):
    return os.path.join(ROOT, *parts)


def run(*command, **options):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, **options)


def install():
    """Installs, and moves the result away from the prefix that the build knows."""
    stage = os.path.join(FOLDER.name, "stage")
    done = run("meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", stage)
    assert done.returncode == 0, done
    os.rename(stage + PREFIX, ROOT)


def test_files():
    for parts in [(BINDIR, "trapeze"), (MANDIR, "man1", "trapeze.1"),
                  (DATADIR, "bash-completion/completions/trapeze.bash"),
                  (DATADIR, "zsh/site-functions/_trapeze"),
                  (DATADIR, "fish/vendor_completions.d/trapeze.fish"),
                  ("lib/systemd/system/trapeze.service",), ("lib/systemd/system/trapeze.socket",),
                  ("lib/systemd/user/trapeze.service",), ("lib/systemd/user/trapeze.socket",),
                  ("lib/sysusers.d/trapeze.conf",),
                  (DATADIR, "trapeze/images/build"), (DATADIR, "trapeze/images/packages.debian")]:
        assert os.path.getsize(installed(*parts)) > 50, parts
    assert run(installed(BINDIR, "trapeze"), "version").stdout.startswith("trapeze ")


def test_units_start_what_is_installed():
    for kind in "system", "user":
        with open(installed(f"lib/systemd/{kind}/trapeze.service"), encoding="utf-8") as file:
            text = file.read()
        assert f"ExecStart={PREFIX}/{BINDIR}/trapeze daemon" in text, text
        assert "KillMode=process" in text and "Type=notify" in text, text


def test_the_builder_is_complete():
    """Every file of images/ with the mode it has there: some go into the guest's disk."""
    source = os.path.join(os.environ["TRAPEZE_SOURCE"], "images")
    count = 0
    for parent, folders, files in os.walk(source):
        if "__pycache__" in folders:
            folders.remove("__pycache__")
        for name in files:
            here = os.path.join(parent, name)
            there = installed(DATADIR, "trapeze/images", os.path.relpath(here, source))
            with open(here, "rb") as original, open(there, "rb") as copy:
                assert original.read() == copy.read(), there
            assert bool(os.stat(here).st_mode & stat.S_IXUSR) == \
                bool(os.stat(there).st_mode & stat.S_IXUSR), there
            count += 1
    assert count > 10, count


def test_the_installed_builder_is_used():
    env = dict(os.environ, TRAPEZE_CACHE=os.path.join(FOLDER.name, "cache"))
    env.pop("TRAPEZE_BUILDER", None)
    absent = run(installed(BINDIR, "trapeze"), "image", "path", "tiny", env=env)
    assert "there is no image 'tiny'" in absent.stderr, absent
    builder = installed(DATADIR, "trapeze/images/build")
    shutil.move(builder, builder + ".original")
    with open(builder, "w") as out:
        out.write('#!/bin/sh\necho "I am $0"\n')
    os.chmod(builder, 0o755)
    said = run(installed(BINDIR, "trapeze"), "image", "path", "tiny", env=env)
    shutil.move(builder + ".original", builder)
    assert said.stdout == f"I am {os.path.realpath(builder)}\n", said
    # An executable that lies in no bin/ does not look beside itself: that is anybody's folder.
    loose = installed("loose/trapeze")
    os.makedirs(os.path.dirname(loose))
    shutil.copy(installed(BINDIR, "trapeze"), loose)
    said = run(loose, "image", "path", "tiny", env=env)
    assert "I am" not in said.stdout and "there is no image 'tiny'" in said.stderr, said


def test_manual():
    if not shutil.which("mandoc"):
        raise tap.Skip("mandoc is not installed")
    done = run("mandoc", "-T", "lint", "-W", "warning", installed(MANDIR, "man1/trapeze.1"))
    assert done.returncode == 0 and done.stdout == "", done
    text = run("mandoc", "-T", "ascii", installed(MANDIR, "man1/trapeze.1")).stdout
    assert "TRAPEZE_CACHE" in text and ".Pq" not in text and ".Ar" not in text, text


def test_completions_are_scripts():
    checked = [shell for shell, parts in
               [("bash", "bash-completion/completions/trapeze.bash"),
                ("zsh", "zsh/site-functions/_trapeze"),
                ("fish", "fish/vendor_completions.d/trapeze.fish")]
               if shutil.which(shell) and
               run(shell, "-n", installed(DATADIR, parts)).returncode == 0]
    assert checked == [shell for shell in ("bash", "zsh", "fish") if shutil.which(shell)], checked


install()
sys.exit(tap.main([test for name, test in list(globals().items()) if name.startswith("test_")]))
