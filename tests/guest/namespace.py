# SPDX-License-Identifier: MIT
"""Mounts and networks of a test's own."""
import ctypes
import os
import subprocess
import sys
import threading
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


class Space:
    """Another network namespace, which ends with us."""

    def __init__(self):
        self.process = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.process.stdout.readline()
        self.path = f"/proc/{self.process.pid}/ns/net"
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *words):
        return ["nsenter", "--net=" + self.path, *words]

    def run(self, *words):
        subprocess.run(self.command(*words), check=True, capture_output=True, text=True)

    def inside(self, function):
        """What function() returns in there: sockets and the like stay there."""
        result = []

        def work():
            fd = os.open(self.path, os.O_RDONLY)
            try:
                assert LIBC.setns(fd, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
                result.append(function())
            except Exception as error:  # pylint: disable=broad-except
                result.append(error)
            finally:
                os.close(fd)
        thread = threading.Thread(target=work)  # only this one goes there
        thread.start()
        thread.join()
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


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
