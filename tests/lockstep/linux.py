#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Linux in lockstep under both engines: finds the guest image for machines.c.

    linux.py TRAPEZE MACHINES ARGUMENT...
"""
import os
import sys

sys.path.insert(0, os.path.join(os.environ["TRAPEZE_SOURCE"], "tests", "guest"))
from machine import FULL, image  # noqa: E402

folder = image("tiny", sys.argv[1])
cpus = ("1", "3") if FULL else ("1",)
sys.stdout.flush()
os.execv(sys.argv[2], [*sys.argv[2:], *(f"linux:{count}:{folder}" for count in cpus)])
