#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints "N passed, N failed, N skipped" for the test runs of build directories.

    count_tests.py BUILD_DIRECTORY...

Reads meson-logs/testlog.json. A program that speaks TAP counts as many tests as it ran,
any other counts as one; a program that failed otherwise than by a failed case (a crash, a
timeout, a wrong plan) counts as one more failure, and so does a directory where nothing
ran. What failed is named before that line, with the end of what the program said of it: often
that line's neighbourhood is all that is kept of a run. Exit status 0 only if something passed
and nothing failed.
"""
import collections
import json
import pathlib
import re
import sys

CASE = re.compile(r"^(not )?ok\b[^#\n]*(?:#\s*(\w+))?", re.MULTILINE)
NOT_RUN = re.compile(r"^# SKIP \w+$", re.MULTILINE)  # before the "ok" of a case (tests/support.h)
SAID_LINES = 16


def count_program(record):
    """Outcomes of one program: a Counter of passed, failed, skipped."""
    counts = collections.Counter()
    for case in CASE.finditer(record.get("stdout") or ""):
        directive = (case[2] or "").upper()
        if directive.startswith("SKIP"):
            counts["skipped"] += 1
        elif case[1] and directive != "TODO":
            counts["failed"] += 1
        else:
            counts["passed"] += 1
    not_run = len(NOT_RUN.findall(record.get("stdout") or ""))
    counts.update(passed=-not_run, skipped=not_run)
    result = record["result"]
    if result == "SKIP":
        counts["skipped"] += not counts["skipped"]
    elif result not in ("OK", "EXPECTEDFAIL"):
        counts["failed"] += not counts["failed"]
    elif not counts:
        counts["passed"] += 1
    return counts


def what_failed(record):
    """The failed cases of one program and the end of its standard error, as lines."""
    cases = [case[0].strip() for case in CASE.finditer(record.get("stdout") or "")
             if case[1] and (case[2] or "").upper() not in ("SKIP", "TODO")]
    said = (record.get("stderr") or "").rstrip().splitlines()[-SAID_LINES:]
    return ["    " + line[-400:] for line in cases + said]


def main(directories):
    total = collections.Counter()
    bad = []
    for directory in directories:
        log = pathlib.Path(directory, "meson-logs", "testlog.json")
        records = []
        if log.exists():
            records = [json.loads(line) for line in log.read_text().splitlines() if line]
        if not records:
            total["failed"] += 1
            bad.append(f"failed in {directory}: it did not build, or no test ran")
        for record in records:
            counts = count_program(record)
            total += counts
            if counts["failed"]:
                bad.append(f"failed in {directory}: {record['name']}: {record['result']}, "
                           f"see {log.with_suffix('.txt')}")
                bad += what_failed(record)
    print()
    for line in bad:
        print(line)
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 0 if total["passed"] and not total["failed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
