#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Does objdump read what engine/emit wrote?  emit_x86.py EMIT_CASES-PROGRAM.  Prints TAP."""
import os
import re
import subprocess
import sys
import tempfile


def main():
    lines = subprocess.run([sys.argv[1]], capture_output=True, text=True, check=True).stdout
    cases = [line.split("\t") for line in lines.splitlines()]
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "code")
        with open(path, "wb") as f:
            f.write(b"".join(bytes.fromhex(case[0]) for case in cases))
        listing = subprocess.run(["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel",
                                  "--insn-width=16", path], capture_output=True, text=True,
                                 check=True).stdout
    read = {}
    for line in listing.splitlines():
        m = re.match(r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t(.*)", line)
        if m:
            read[int(m.group(1), 16)] = (m.group(2).replace(" ", ""),
                                         re.sub(r"\s+", " ", m.group(3)).strip())
    at, wrong = 0, []
    for code, expected in cases:
        got = read.get(at, ("", "nothing"))
        if got != (code, expected):
            wrong.append("%s: wanted '%s', objdump reads '%s' (%s)" % (code, expected, got[1], got[0]))
        at += len(code) // 2
    print("1..1")
    for line in wrong[:20]:
        print("# " + line)
    good = not wrong and len(cases) > 10000
    print("%sok 1 - %d instructions" % ("" if good else "not ", len(cases)))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
