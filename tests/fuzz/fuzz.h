/* SPDX-License-Identifier: MIT
 *
 * What a fuzz target and whoever drives it agree on. A target is one file with
 * LLVMFuzzerTestOneInput(), as libFuzzer wants it, and fuzz_generate(), which knows enough
 * of the input's structure to reach behind the first checks without coverage feedback.
 *
 *     fuzz_NAME SEED_DIRECTORY       each file, then random inputs (many with sanitizers and
 *                                  TRAPEZE_TIER=full)
 *     fuzz_NAME FILE...              these inputs
 *     fuzz_NAME --random SEED COUNT  what a failure message says
 *
 * A finding is a crash: an assertion, a sanitizer, fuzz_check().
 */
#ifndef TRAPEZE_TESTS_FUZZ_H
#define TRAPEZE_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define FUZZ_INPUT_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Makes up an input of at most FUZZ_INPUT_MAX bytes; returns its size. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data);

/* splitmix64 */
static inline uint64_t fuzz_random(uint64_t *seed)
{
    uint64_t z = (*seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Input bytes, consumed from the front; zeros behind the end. */
struct fuzz_input {
    const uint8_t *data;
    size_t left;
};

static inline uint64_t fuzz_take(struct fuzz_input *input, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size && input->left > 0; i++, input->left--)
        value |= (uint64_t)*input->data++ << (8 * i);
    return value;
}

/* As assert(), also where NDEBUG is set: the property a target is about. */
#define fuzz_check(condition)                                                                      \
    ((condition)                                                                                   \
         ? (void)0                                                                                 \
         : (fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition), abort()))

#endif
