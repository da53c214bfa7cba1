#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Builds and runs all tests, then prints as its last line "N passed, N failed, N skipped":
#
#     scripts/test.sh quick|full
#
# First everything in the ordinary build, then the suites unit and fuzz once more under
# AddressSanitizer and UndefinedBehaviorSanitizer. Tests read the tier from TRAPEZE_TIER.
# TRAPEZE_BUILD_ROOT says where the build directories go (default: the top of the source).
set -eu
cd "$(dirname "$0")/.."
TRAPEZE_TIER=${1:-quick}
export TRAPEZE_TIER
root=${TRAPEZE_BUILD_ROOT:-.}
plain=$root/build
sanitized=$root/build-asan

case $TRAPEZE_TIER in
quick) timeouts=1 ;;
full) timeouts=20 ;;
*)
    echo "usage: $0 quick|full" >&2
    exit 2
    ;;
esac

# A build that fails is a failed test, not the end without a closing line.
run_suites() {
    directory=$1
    multiplier=$2
    shift 2
    rm -f "$directory/meson-logs/testlog.json"
    if ninja -C "$directory"; then
        meson test -C "$directory" --print-errorlogs -t "$multiplier" "$@" || true
    fi
}

scripts/configure.sh "$plain" -Dtests=enabled
scripts/configure.sh "$sanitized" -Dtests=enabled -Db_sanitize=address,undefined -Db_lundef=false
run_suites "$plain" "$timeouts"
# Sanitizers slow a program down by a factor of three or so.
ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1} \
UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1} \
    run_suites "$sanitized" $((timeouts * 3)) --suite unit --suite fuzz

exec python3 scripts/count_tests.py "$plain" "$sanitized"
