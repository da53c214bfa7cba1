#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Makes a build directory, or changes the options of one that exists:
#
#     scripts/configure.sh DIRECTORY [meson options]
set -eu
directory=$1
shift
cd "$(dirname "$0")/.."
if ! command -v meson >/dev/null 2>&1 || ! command -v ninja >/dev/null 2>&1; then
    echo "trapeze: meson and ninja are missing; scripts/install-packages.sh build installs them" >&2
    exit 1
fi
if [ ! -f "$directory/build.ninja" ]; then
    meson setup "$directory" "$@"
elif [ $# -gt 0 ]; then
    meson configure "$directory" "$@"
fi
