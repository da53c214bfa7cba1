/* SPDX-License-Identifier: MIT
 *
 * Rows that compute on registers and arrays. Sizes pass through a volatile, lest a compiler
 * calculates the answer itself.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rows.h"

static volatile size_t opaque;

static size_t size_of(size_t n)
{
    opaque = n;
    return opaque;
}

static void *allocate(size_t size)
{
    void *memory = malloc(size);
    if (!memory)
        fail("malloc");
    return memory;
}

uint64_t row_sieve(void)
{
    size_t size = size_of(20000000);
    uint8_t *composite = allocate(size);
    memset(composite, 0, size);
    for (size_t i = 2; i * i < size; i++)
        if (!composite[i])
            for (size_t j = i * i; j < size; j += i)
                composite[j] = 1;
    uint64_t primes = 0;
    for (size_t i = 2; i < size; i++)
        primes += !composite[i];
    free(composite);
    return primes;
}

static __attribute__((noinline)) uint64_t fib(uint64_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

uint64_t row_fib(void)
{
    return fib(size_of(35));
}

/* The entries are small integers and all sums exact: the same with fused multiply-adds, which
 * compilers for RISC-V emit by default, and without. */
#define MATRIX 256

uint64_t row_matmul(void)
{
    size_t n = size_of(MATRIX);
    double(*a)[MATRIX] = allocate(sizeof(double[MATRIX][MATRIX]));
    double(*b)[MATRIX] = allocate(sizeof(double[MATRIX][MATRIX]));
    double(*c)[MATRIX] = allocate(sizeof(double[MATRIX][MATRIX]));
    uint64_t random = 88172645463325252u;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            a[i][j] = (double)(next_random(&random) % 2001) - 1000;
            b[i][j] = (double)(next_random(&random) % 2001) - 1000;
        }
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
    }
    uint64_t checksum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            checksum = mix(checksum, (uint64_t)(int64_t)c[i][j]);
    free(a);
    free(b);
    free(c);
    return checksum;
}

uint64_t row_hash(void)
{
    uint32_t rounds = (uint32_t)size_of(100000000), hash = 0x811c9dc5;
    for (uint32_t i = 0; i < rounds; i++) {
        hash = (hash ^ i) * 0x01000193;
        hash ^= hash >> 15;
    }
    return hash;
}

static int compare_ints(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

uint64_t row_sort(void)
{
    size_t count = size_of(2000000);
    int *values = allocate(count * sizeof(*values));
    uint64_t random = 88172645463325252u;
    for (size_t i = 0; i < count; i++)
        values[i] = (int)next_random(&random);
    start_clock();
    qsort(values, count, sizeof(*values), compare_ints);
    uint64_t checksum = 0;
    for (size_t i = 0; i < count; i++)
        checksum = mix(checksum, (uint32_t)values[i]);
    free(values);
    return checksum;
}

#define LONGEST ((size_t)65536)

uint64_t row_string(void)
{
    size_t room = 2 * LONGEST + 64;
    char *from = allocate(room), *to = allocate(room);
    memset(from, 'x', room);
    memset(to, 0, room);
    uint64_t checksum = 0, random = 88172645463325252u;
    start_clock();
    for (size_t length = 16; length <= LONGEST; length *= 2) {
        /* 24 MiB of each length, at changing offsets */
        size_t turns = size_of((24 << 20) / length);
        for (size_t turn = 0; turn < turns; turn++) {
            size_t offset = next_random(&random) % 64;
            from[offset + length] = 0;
            memcpy(to + (offset ^ 8), from + offset, length + 1);
            checksum = mix(checksum, strlen(to + (offset ^ 8)) + offset);
            from[offset + length] = 'x';
        }
    }
    free(from);
    free(to);
    return checksum;
}
