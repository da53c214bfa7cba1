#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""x86-64 guests on KVM, on a host whose processor QEMU emulates (kvm_host.py).

    nested.py TRAPEZE
"""
import json
import os
import sys

import tap
from kvm_host import KvmHost
from machine import Shared

TRAPEZE = os.path.abspath(sys.argv[1])
HOST = Shared(lambda: KvmHost(TRAPEZE))


def test_kvm_is_found_usable_where_it_is():
    with HOST.use() as host:
        said = json.loads(host.run("trapeze host --json"))
        assert said["kvm"]["offer"] == "yes", said


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
