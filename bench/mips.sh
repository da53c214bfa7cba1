#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Guest instructions a second on an integer loop, in one line:
#
#     bench/mips.sh [ENGINE]              (interp)
#     BUILD=DIRECTORY bench/mips.sh       (build)
#
# The loop is tests/conform/guests/loop_mips.c on a machine without an operating system; it counts
# its own instructions (minstret) and its time (mtime). Three runs, of which the median counts.
set -eu
engine=${1:-interp}
cd "$(dirname "$0")/.."
BUILD=${BUILD:-build}
guest=tests/conform/loop_mips.elf

say() {
    echo "mips: $*" >&2
}

if ! built=$(ninja -C "$BUILD" trapeze "$guest" 2>&1); then
    say "$built"
    say "it needs a build directory ($BUILD) whose tests are enabled: make test makes one"
    exit 1
fi

one_run() {
    timeout 900 "$BUILD/trapeze" run --engine "$engine" --firmware "$BUILD/$guest" \
        --memory 32M --cpus 1 </dev/null
}

rates=
for run in 1 2 3; do
    if ! output=$(one_run); then
        say "run $run failed: $output"
        exit 1
    fi
    # The guest's figures, only if it also passed its own checks.
    rate=$(echo "$output" | tr -d '\r' | awk '
        $1 == "instructions" && $3 == "ticks" && $5 == "timebase" && $4 > 0 { rate = $2 * $6 / $4 / 1e6; count = $2 }
        $1 == "PASS" { good = 1 }
        END { if (!good || !rate) exit 1; printf "%.1f:%.2f", rate, count / 1e9 }') || {
        say "the guest did not pass: $output"
        exit 1
    }
    rates="$rates $rate"
done

echo "$rates" | tr ' ' '\n' | sort -n | awk -F: -v engine="$engine" -v version="$("$BUILD/trapeze" version)" \
    -v cpu="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" '
    NF == 2 { rate[++n] = $1; count = $2 }
    END {
        printf "%s: %.1f M guest instructions/s on an integer loop of %.2f G " \
            "(median of %d runs, %.1f to %.1f; %s; %s)\n",
            engine, rate[int((n + 1) / 2)], count, n, rate[1], rate[n], version, cpu
    }'
