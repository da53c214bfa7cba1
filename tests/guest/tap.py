# SPDX-License-Identifier: MIT
"""The little of the Test Anything Protocol that our Python tests need."""
import os
import signal
import sys
import traceback


class Skip(Exception):
    """Raised by a test that cannot run here, with the reason."""


def main(tests):
    """Runs functions in order, one TAP line each; exit status 1 if any failed. TAP_ONLY in the
    environment picks those whose name contains it."""
    # What nohup and some CI systems ignore, programs under test would ignore too.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    only = os.environ.get("TAP_ONLY", "")
    tests = [test for test in tests if only in test.__name__]
    failed = 0
    print(f"1..{len(tests)}", flush=True)
    for number, test in enumerate(tests, 1):
        name = test.__name__.removeprefix("test_").replace("_", " ")
        try:
            test()
            print(f"ok {number} - {name}", flush=True)
        except Skip as reason:
            print(f"ok {number} - {name} # SKIP {reason}", flush=True)
        except BaseException as failure:  # pylint: disable=broad-except
            if isinstance(failure, KeyboardInterrupt):
                raise
            failed += 1
            print(f"not ok {number} - {name}", flush=True)
            for line in traceback.format_exc().splitlines():
                print("# " + line, file=sys.stderr)
    return 1 if failed else 0
