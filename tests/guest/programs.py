#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Real programs that judge themselves, in Debian with compiler, openssl and stress-ng (the
debian-dev image). Full tier only: the image costs a download and some minutes once.

    programs.py TRAPEZE [ENGINE]
"""
import hashlib
import os
import re
import subprocess
import sys

os.environ.setdefault("TRAPEZE_TEST_LIMIT_S", "3000")  # one command is minutes of work
import tap  # noqa: E402
from machine import Debian, Shared, full_tier_image, scratch  # noqa: E402

TRAPEZE = os.path.abspath(sys.argv[1])
ENGINE = sys.argv[2] if len(sys.argv) > 2 else "auto"
SECONDS = int(os.environ.get("TRAPEZE_STRESS_S", "10"))  # of each stressor


def put_files(name, files):
    """A disk of files, which a guest reads as /dev/vdb with tar."""
    folder = scratch(name)
    os.makedirs(folder, exist_ok=True)
    for file, text in files.items():
        with open(os.path.join(folder, file), "w", encoding="ascii") as out:
            out.write(text)
    subprocess.run(["tar", "-cf", folder + ".tar", "-C", folder, "--sort=name", *files], check=True)
    with open(folder + ".tar", "ab") as out:
        out.truncate((os.path.getsize(folder + ".tar") + 65536) & ~65535)
    return folder + ".tar"


COMPUTE = r"""
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 200000, THREADS = 4, TURNS = 100000 };
static uint64_t seed = 88172645463325252u;
static uint64_t draw(void)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed;
}
static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}
static uint64_t fold(uint64_t sum, uint64_t value) { return (sum ^ value) * 0x100000001b3u; }
static uint64_t fold_double(uint64_t sum, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return fold(sum, bits);
}
static long shared;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic long counted;
static void *thread(void *opaque)
{
    for (int i = 0; i < TURNS; i++) {
        pthread_mutex_lock(&lock);
        shared++;
        pthread_mutex_unlock(&lock);
        counted += 2;
    }
    return opaque;
}
int main(void)
{
    static uint64_t values[COUNT];
    static double a[64][64], b[64][64], c[64][64];
    uint64_t sum = 1;
    pthread_t threads[THREADS];
    for (int i = 0; i < COUNT; i++)
        values[i] = draw();
    qsort(values, COUNT, sizeof(values[0]), by_value);
    for (int i = 0; i < COUNT; i++)
        sum = fold(sum, values[i]);
    for (int i = 0; i < 64 * 64; i++) {
        a[i / 64][i % 64] = (double)(int64_t)draw() / 3;
        b[i / 64][i % 64] = 1.0 / (double)(draw() | 1);
    }
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++)
            for (int k = 0; k < 64; k++)
                c[i][j] += a[i][k] * b[k][j];
    for (int i = 0; i < 64 * 64; i++)
        sum = fold_double(sum, sqrt(fabs(c[i / 64][i % 64])));
    for (int i = 0; i < COUNT; i++) {
        uint64_t x = draw(), y = draw() >> (i & 63) | 1;
        sum = fold(sum, x / y + x % y + (uint64_t)((int64_t)x / (int64_t)y));
        sum = fold(sum, (uint64_t)((unsigned __int128)x * y >> 64));
    }
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, thread, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%016llx %ld %ld\n", (unsigned long long)sum, shared, (long)counted);
    return 0;
}
"""


def large_program(functions=80):
    """Much code, so that compiler and code cache have something to do; and what it prints."""
    lines, value = ["#include <stdio.h>", "typedef unsigned long u;"], 7
    for n in range(functions):
        a, b, shift = n * 2654435761 % 65521 + 3, n * 40503 % 9973 + 1, n % 13 + 1
        lines += [f"static __attribute__((noinline)) u f{n}(u x) {{",
                  f"  for (int i = 0; i < {n % 5 + 1}; i++)",
                  f"    x = x % {a} ? x * {b}u + (x >> {shift}) : x ^ {a * b}u;",
                  "  return x; }"]
        for _ in range(n % 5 + 1):
            value = (value * b + (value >> shift) if value % a else value ^ (a * b)) % (1 << 64)
    lines += ["int main(void) { u x = 7;", *(f"  x = f{n}(x);" for n in range(functions)),
              '  printf("%lu\\n", x); return 0; }', ""]
    return "\n".join(lines), str(value)


LARGE, PRINTED = large_program()


def start(cpus):
    """Debian with the sources on its second disk."""
    full_tier_image("debian-dev", TRAPEZE)
    disk = put_files(f"sources{cpus}", {"compute.c": COMPUTE, "large.c": LARGE})
    return Debian(TRAPEZE, "--engine", ENGINE, "--image", "debian-dev", "--cpus", str(cpus),
                  "--memory", "1536M", "--disk", disk + ",readonly")


TWO, FOUR = Shared(lambda: start(2)), Shared(lambda: start(4))


def compile_and_run(shared):
    with shared.use() as debian:
        host = scratch("compute")
        subprocess.run(["gcc", "-O2", "-ffp-contract=off", "-pthread", "-x", "c", "-", "-o", host,
                        "-lm"], input=COMPUTE, text=True, check=True)
        expected = subprocess.run([host], capture_output=True, text=True, check=True).stdout
        debian.run("cd /root && tar xf /dev/vdb")
        for level in ("-O0", "-O2", "-O3"):
            debian.run(f"gcc {level} -ffp-contract=off -pthread compute.c -o compute -lm")
            assert debian.run("./compute") == expected, level
            debian.run(f"gcc {level} large.c -o large")
            assert debian.run("./large").strip() == PRINTED, level
        # Compilers at the same time make the same bytes.
        debian.run("for i in 1 2 3 4; do gcc -O2 -c large.c -o $i.o & done; wait")
        debian.run("for i in 2 3 4; do cmp 1.o $i.o || exit 1; done")


def test_gcc_on_two_harts():
    compile_and_run(TWO)


def test_gcc_on_four_harts():
    compile_and_run(FOUR)


# Stressors with --verify, in groups that run at the same time.
STRESS = (
    "--cpu {n} --cpu-method all",
    "--vm {n} --vm-bytes 48M --vm-method all",
    "--atomic {n} --futex {n} --mutex {n}",
    "--memcpy {n} --memcpy-method all --str {n} --str-method all",
    "--matrix {n} --matrix-method all --fp {n} --fp-method all",
    "--qsort {n} --heapsort {n} --bsearch {n} --hash {n} --crypt 1",
    "--fork {n} --clone {n} --switch {n} --pipe {n} --sigsegv {n}",
    "--mmap {n} --mmap-bytes 32M --mremap {n} --mremap-bytes 16M --fault {n}",
    "--tlb-shootdown {n} --membarrier {n} --mprotect {n} --icache {n} --flushcache {n}",
    "--branch {n} --far-branch {n} --funccall {n} --funcret {n} --goto {n} --longjmp {n}",
)


def stress(shared, last=False):
    with shared.use(last) as debian:
        known = debian.run("stress-ng --stressors").split()
        for group in STRESS:
            words = [word.format(n=2) for word in group.split()]
            assert all(word[2:].split("-method")[0].split("-bytes")[0] in known
                       for word in words if word.startswith("--")), words
            debian.send(f"stress-ng --verify --timeout {SECONDS} --metrics-brief --no-rand-seed "
                        f"{' '.join(words)} > log 2>&1; echo ended=$? >> log\n")
            debian.shell()
            log = debian.run("tail -n 60 log")
            assert "ended=0" in log and "stress-ng: fail" not in log, (words, log)
            assert re.search(r"passed: [1-9]", log) and "failed: 0" in log, (words, log)
            print("#", re.search(r"passed: .*", log).group(), flush=True)
        trouble = debian.run("dmesg | grep -E 'BUG|Oops|WARNING|stall|rcu:.*detected' || true")
        assert trouble == "", trouble
        if last:
            debian.poweroff()


def test_stress_on_two_harts():
    stress(TWO, last=True)


def test_stress_on_four_harts():
    stress(FOUR)


def test_openssl_agrees_with_itself_and_the_host():
    with FOUR.use(last=True) as debian:
        data = b"".join(b"%d\n" % n for n in range(1, 1000001))
        debian.run("seq 1 1000000 > data")
        for name in ("md5", "sha1", "sha256", "sha512", "sha3-256", "blake2b512"):
            host = hashlib.new(name.replace("-", "_").replace("blake2b512", "blake2b"), data)
            assert host.hexdigest() in debian.run(f"openssl dgst -{name} data"), name
        for cipher in ("aes-256-ctr", "aes-128-cbc", "chacha20", "camellia-256-cbc"):
            debian.run(f"openssl enc -{cipher} -pbkdf2 -k word -in data -out cipher && "
                       f"openssl enc -d -{cipher} -pbkdf2 -k word -in cipher | cmp - data")
        for make in ("genrsa -out key 2048", "ecparam -name prime256v1 -genkey -noout -out key",
                     "genpkey -algorithm ed25519 -out key"):
            debian.run(f"openssl {make} 2> /dev/null; openssl pkey -in key -pubout -out public")
            debian.run("openssl pkeyutl -sign -inkey key -rawin -in public -out signature && "
                       "openssl pkeyutl -verify -pubin -inkey public -rawin -in public "
                       "-sigfile signature")
        debian.run("openssl speed -multi 4 -seconds 1 sha256 aes-128-cbc ecdsap256 rsa2048 2>&1 "
                   "| tail -n 20")
        debian.poweroff()


if __name__ == "__main__":
    sys.exit(tap.main([value for name, value in list(globals().items())
                       if name.startswith("test_")]))
