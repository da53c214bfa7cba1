#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Builds and runs all tests, then prints as its last line "N passed, N failed, N skipped":
#
#     scripts/test.sh quick|full
#
# First everything in the ordinary build, then the suites unit and fuzz once more under
# AddressSanitizer and UndefinedBehaviorSanitizer. Tests read the tier from TRAPEZE_TIER.
# Many programs wait more than they compute (for guests, retries, time limits), so twice as many and one run
# beside each other as there are processors, with full counts, of which some wait for an hour, thrice as
# many; none judges by time.
# TRAPEZE_BUILD_ROOT says where the build directories go (default: the top of the source).
set -eu
cd "$(dirname "$0")/.."
TRAPEZE_TIER=${1:-quick}
export TRAPEZE_TIER
root=${TRAPEZE_BUILD_ROOT:-.}
plain=$root/build
sanitized=$root/build-asan

processors=$(nproc)
case $TRAPEZE_TIER in
quick) timeouts=1 beside=$((processors * 2 + 1)) ;;
full) timeouts=20 beside=$((processors * 3)) ;;
*)
    echo "usage: $0 quick|full" >&2
    exit 2
    ;;
esac
MESON_TESTTHREADS=${MESON_TESTTHREADS:-$beside}
export MESON_TESTTHREADS

# run_suites DIRECTORY TIMEOUT_MULTIPLIER MESON_OPTIONS [OPTIONS OF meson test]
# A configuration or a build that fails is a failed test, not the end without a closing line.
run_suites() {
    directory=$1
    multiplier=$2
    options=$3
    shift 3
    rm -f "$directory/meson-logs/testlog.json"
    # shellcheck disable=SC2086 # words on purpose
    if scripts/configure.sh "$directory" -Dtests=enabled $options && ninja -C "$directory"; then
        meson test -C "$directory" --print-errorlogs -t "$multiplier" "$@" || true
    fi
}

run_suites "$plain" "$timeouts" ""
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}"
# Sanitizers slow a program down by a factor of three or so; with -O1 compiling takes two thirds of the time.
run_suites "$sanitized" $((timeouts * 3)) "-Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1" \
    --suite unit --suite fuzz

exec python3 scripts/count_tests.py "$plain" "$sanitized"
