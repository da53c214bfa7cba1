#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares the #include lines of src/ with docs/includes.txt; output is TAP.

    check_includes.py SOURCE_ROOT

Includes in quotes are written from src/. A header named *_internal.h belongs to its folder
alone, and no header includes one of a folder that its own folder may not.
"""
import pathlib
import re
import sys
import tempfile

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
GENERATED = {"build.h"}  # and *.inc: made by Meson, so absent from the source tree


def read_table(text):
    table = {}
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if line:
            folder, _, allowed = line.partition(":")
            table[folder] = allowed.split()
    return table


def permissions(table, folder):
    """What `folder` may include, or None if neither it nor one above it has a line."""
    above = folder
    while above not in table and "/" in above:
        above = above.rpartition("/")[0]
    return table[above] + [above] if above in table else None


def covers(prefix, header):
    return header == prefix or (prefix != "." and header.startswith(prefix + "/"))


def problems_of(source, table, path):
    name = path.relative_to(source).as_posix()
    folder = path.parent.relative_to(source).as_posix()
    allowed = permissions(table, folder)
    if allowed is None:
        yield f"{name}: docs/includes.txt has no line for {folder}/"
        return
    for header in INCLUDE.findall(path.read_text()):
        if header in GENERATED:
            continue
        owner = header.rpartition("/")[0]
        if not header.endswith(".inc") and not (source / header).is_file():
            yield f'{name}: "{header}" is not a path from src/'
        elif (not any(covers(prefix, header) for prefix in allowed) or
              any(prefix[0] == "-" and covers(prefix[1:], header) for prefix in allowed)):
            yield f'{name}: {folder}/ may not include "{header}"'
        elif header.endswith("_internal.h") and owner != folder:
            yield f'{name}: "{header}" is internal to {owner}/'


def check(root):
    table = read_table((root / "docs/includes.txt").read_text())
    source = root / "src"
    files = sorted(f for f in source.rglob("*") if f.suffix in (".c", ".h", ".inc"))
    return len(files), [p for f in files for p in problems_of(source, table, f)]


def self_test():
    """The checker finds what it is for, in a tree made for it."""
    files = {
        "docs/includes.txt": "base:\nmem: base\nisa/a: mem/ok.h\n.: base # main\n"
                             "dev: base isa -isa/a\n",
        "src/base/base.h": "",
        "src/base/x_internal.h": "",
        "src/mem/ok.h": '#include "base/base.h"\n#include "mem/ok.h"\n#include <mem/none.h>\n',
        "src/mem/bad.h": '#include "isa/a/a.h"\n # include "base/none.h"\n'
                         '#include "base/x_internal.h"\n',
        "src/isa/a/a.h": '#include "mem/ok.h"\n#include "mem/bad.h"\n#include "build.h"\n',
        "src/isa/a/deep/d.c": '#include "isa/a/a.h"\n#include "base/base.h"\n',
        "src/new/n.c": "",
        "src/dev/d.c": '#include "base/base.h"\n#include "isa/b.h"\n#include "isa/a/a.h"\n',
        "src/isa/b.h": "",
        "src/main.c": '#include "base/base.h"\n#include "mem/ok.h"\n',
    }
    expected = [
        'isa/a/a.h: isa/a/ may not include "mem/bad.h"',
        'isa/a/deep/d.c: isa/a/deep/ may not include "base/base.h"',
        'dev/d.c: dev/ may not include "isa/a/a.h"',
        'isa/b.h: docs/includes.txt has no line for isa/',
        'main.c: ./ may not include "mem/ok.h"',
        'mem/bad.h: mem/ may not include "isa/a/a.h"',
        'mem/bad.h: "base/none.h" is not a path from src/',
        'mem/bad.h: "base/x_internal.h" is internal to base/',
        "new/n.c: docs/includes.txt has no line for new/",
    ]
    with tempfile.TemporaryDirectory() as directory:
        for name, text in files.items():
            path = pathlib.Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        found = check(pathlib.Path(directory))[1]
    return [f"expected: {p}" for p in expected if p not in found] + [
        f"unexpected: {p}" for p in found if p not in expected]


def report(number, name, problems):
    print(f"{'not ok' if problems else 'ok'} {number} - {name}")
    for problem in problems:
        print(f"# {problem}")
    return bool(problems)


def main():
    print("1..2")
    failed = report(1, "the checker finds violations", self_test())
    count, problems = check(pathlib.Path(sys.argv[1]))
    if count == 0:
        problems.append("no source files found")
    failed |= report(2, f"includes of {count} files match docs/includes.txt", problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
