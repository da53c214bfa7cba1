# SPDX-License-Identifier: MIT
"""Mounts and networks of a test's own."""
import ctypes
import os
import subprocess
import sys
import traceback

import tap

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def unshare(kinds):
    """This process, which has one thread, gets its own of these. False: it may not."""
    identity = (os.geteuid(), os.getegid())
    if LIBC.unshare(kinds if identity[0] == 0 else CLONE_NEWUSER | kinds) != 0:
        return False
    if identity[0] != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {identity[0]} 1"),
                           ("gid_map", f"0 {identity[1]} 1")):
            with open("/proc/self/" + name, "w", encoding="ascii") as file:
                file.write(text)
    return True


def in_namespace(function):
    """Runs it in a child with mounts of its own."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            if not unshare(CLONE_NEWNS):
                status = 77
            else:
                subprocess.run(["mount", "--make-rprivate", "/"], check=True)
                function()
                status = 0
        except BaseException:  # pylint: disable=broad-except
            for line in traceback.format_exc().splitlines():
                print("# " + line, file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 77:
        raise tap.Skip("no namespace of mounts for us")
    assert status == 0, status
