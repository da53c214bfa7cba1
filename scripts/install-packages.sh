#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Installs the Debian packages that one of our purposes needs, and only the missing ones:
#
#     scripts/install-packages.sh build|run|test|bench|list
#
# Asks dpkg first: when everything is there it takes a moment and needs no network and no
# rights. `list` prints the table for people whose system is not a Debian.
set -eu

# One package per line; a|b: whichever the release has (either one is enough).
build_packages='
gcc|clang
libc6-dev
make
meson
ninja-build
pkgconf|pkg-config
libfdt-dev
libgnutls28-dev
libjansson-dev
liburing-dev
libseccomp-dev
libnbd-dev
libxxhash-dev
libzstd-dev
zlib1g-dev
libslirp-dev
libmicrohttpd-dev
libsqlite3-dev
libarchive-dev
libexpat1-dev
libcurl4-gnutls-dev
'
# images/build makes the guest's disk with these (apt and dpkg are there).
run_packages="
$build_packages
python3
debian-archive-keyring
gpgv
kmod
e2fsprogs
"
test_packages="
$run_packages
libcmocka-dev
curl
gcc-riscv64-linux-gnu
libc6-dev-riscv64-cross
qemu-user
opensbi
device-tree-compiler
gdb-multiarch
iperf3
iproute2
mandoc
openssh-client
tshark
qemu-utils
nbdkit
genisoimage
openssl
mtools
fuse2fs
u-boot-qemu
ovmf
seabios
qemu-system-x86
acpica-tools
zstd
"
# bench/bench.py: the same benchmark compiled twice, and the machine to compare with.
bench_packages="
$run_packages
gcc
gcc-riscv64-linux-gnu
libc6-dev-riscv64-cross
qemu-system-riscv|qemu-system-misc
opensbi
"

say() {
    echo "trapeze: $*" >&2
}

case "${1:-}" in
build) wanted=$build_packages ;;
run) wanted=$run_packages ;;
test) wanted=$test_packages ;;
bench) wanted=$bench_packages ;;
list)
    for set in build run test bench; do
        eval "echo \"$set:\" \$${set}_packages"
    done
    exit 0
    ;;
*)
    say "usage: $0 build|run|test|bench|list"
    exit 2
    ;;
esac

is_installed() {
    # shellcheck disable=SC2016 # dpkg's own ${}
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Any of a|b|c.
any_installed() {
    for name in $(echo "$1" | tr '|' ' '); do
        is_installed "$name" && return 0
    done
    return 1
}

# The first of a|b|c that apt could install; the first at all if it knows none.
choose() {
    for name in $(echo "$1" | tr '|' ' '); do
        if apt-cache policy "$name" 2>/dev/null | grep -q 'Candidate: [^(]'; then
            echo "$name"
            return
        fi
    done
    echo "${1%%|*}"
}

if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    say "this system has no apt-get, so nothing was installed; what Debian calls" $wanted \
        "must be there"
    exit 0
fi

missing=
for package in $wanted; do
    any_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

# For people to read: the first of each a|b.
shown=
for package in $missing; do
    shown="$shown ${package%%|*}"
done

if [ "$(id -u)" = 0 ]; then
    as_root=env
elif command -v sudo >/dev/null 2>&1; then
    as_root='sudo env'
else
    say "packages are missing; install them as root with: apt-get install$shown"
    exit 1
fi

say "installing:$shown"
# Several of us may run at once, and a package system that asks questions stops a script.
apt="$as_root DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600"
$apt update >/dev/null || say "apt-get update failed; trying with the package lists of last time"
names=
for package in $missing; do
    names="$names $(choose "$package")"
done
# shellcheck disable=SC2086 # words on purpose
if ! $apt install --no-install-recommends $names; then
    say "apt-get could not install:$names"
    say "look at its message above; without a network, install them some other way first"
    exit 1
fi
