/* SPDX-License-Identifier: MIT
 *
 * A memory image that runs random programs one after the other and writes what each of them
 * left behind to standard output, by two Linux system calls: write and exit. The same bytes
 * run as a static ELF under qemu-riscv64 and on a hart of ours.
 *
 *     CODE  for each program: load its state, its items, store its results; write; exit
 *     DATA  for each program: struct of initial state, then the results
 *
 * The scratch buffer lies in the results, filled beforehand, and crosses a page.
 */
#ifndef TRAPEZE_TESTS_LOCKSTEP_IMAGE_H
#define TRAPEZE_TESTS_LOCKSTEP_IMAGE_H

#include "program.h"

#define IMAGE_CODE UINT64_C(0x00100000)
#define IMAGE_DATA UINT64_C(0x00800000)
#define IMAGE_END  UINT64_C(0x01000000)

#define IMAGE_SYS_WRITE 64
#define IMAGE_SYS_EXIT  93

/* Loaded into the registers by the code of the program. */
struct image_state {
    uint64_t x[32], f[32], fcsr;
};

/* Two pages each; the end of the first is in the middle of the scratch buffer. */
struct image_result {
    struct image_state end;
    uint8_t before[4096 - SCRATCH_SIZE / 2 - sizeof(struct image_state)];
    uint8_t scratch[SCRATCH_SIZE];
    uint8_t after[4096 - SCRATCH_SIZE / 2];
};

struct image {
    uint8_t *code, *data; /* as at IMAGE_CODE and IMAGE_DATA */
    uint64_t code_size, data_size;
    uint64_t results; /* address of the first result */
    size_t programs;
};

struct image *image_new(void);
void image_free(struct image *image);

/* How many programs fit in an image. */
size_t image_capacity(void);

/* Program i runs its first counts[i] items; branches beyond go to the end. counts NULL: all. */
void image_build(struct image *image, const struct program *const *programs, const unsigned *counts,
                 size_t count);

/* Writes the image as a static ELF executable. */
bool image_write_elf(const struct image *image, const char *path);

#endif
