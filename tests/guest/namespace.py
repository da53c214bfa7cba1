# SPDX-License-Identifier: MIT
"""A child with mounts of its own, for tests of file systems that are full."""
import ctypes
import os
import subprocess
import sys
import traceback

import tap

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000


def in_namespace(function):
    """Runs it in a child with mounts of its own."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            identity = (os.geteuid(), os.getegid())
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS if identity[0] != 0 else CLONE_NEWNS) != 0:
                status = 77
            else:
                if identity[0] != 0:
                    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {identity[0]} 1"),
                                       ("gid_map", f"0 {identity[1]} 1")):
                        with open("/proc/self/" + name, "w", encoding="ascii") as file:
                            file.write(text)
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
