/* SPDX-License-Identifier: MIT
 *
 * How many guest instructions a second the interpreter retires: three loops without an
 * operating system, each run three times, the fastest counts.
 *
 *     ninja -C build bench/interp_speed && build/bench/interp_speed
 */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "hart.h"

#define RAM    UINT64_C(0x80000000)
#define TURNS  UINT64_C(30000000)
#define REPEAT 3

/* a0 counts turns down; the loop ends in wfi. */
static const struct {
    const char *name;
    uint32_t code[16];
} loops[] = {
    {"integer",
     {
         0x00c5c5b3, /* 1: xor a1, a1, a2 */
         0x00a606b3, /* add a3, a2, a0 */
         0x00361613, /* slli a2, a2, 3 */
         0x0055d713, /* srli a4, a1, 5 */
         0x00e60633, /* add a2, a2, a4 */
         0xfff50513, /* addi a0, a0, -1 */
         0xfe0514e3, /* bnez a0, 1b */
         0x10500073,
     }},
    {"memory",
     {
         0x3f857713, /* 1: andi a4, a0, 1016 */
         0x00e607b3, /* add a5, a2, a4 */
         0x0007b803, /* ld a6, 0(a5) */
         0x00180813, /* addi a6, a6, 1 */
         0x00e687b3, /* add a5, a3, a4 */
         0x0107b023, /* sd a6, 0(a5) */
         0xfff50513, /* addi a0, a0, -1 */
         0xfe0512e3, /* bnez a0, 1b */
         0x10500073,
     }},
    {"calls",
     {
         0x010000ef,             /* 1: jal ra, 2f */
         0xfff50513,             /* addi a0, a0, -1 */
         0xfe051ce3,             /* bnez a0, 1b */
         0x10500073, 0x00008293, /* 2: mv t0, ra */
         0x00c000ef,             /* jal ra, 3f */
         0x00028093,             /* mv ra, t0 */
         0x00008067,             /* ret */
         0x00158593,             /* 3: addi a1, a1, 1 */
         0x00008067,             /* ret */
     }},
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double measure(struct test_hart *test, size_t which, uint64_t *instructions)
{
    double best = 0;
    test_hart_put(test, RAM, loops[which].code, ARRAY_SIZE(loops[which].code));
    for (unsigned i = 0; i < REPEAT; i++) {
        struct rv_hart *hart = test->hart;
        isa_riscv64.vcpu_reset(&hart->vcpu);
        hart->pc = RAM;
        hart->x[10] = TURNS;
        hart->x[12] = RAM + 0x4000;
        hart->x[13] = RAM + 0x8000;
        double start = now();
        enum vcpu_exit exit = test_hart_run(test, UINT64_MAX);
        double taken = now() - start;
        assert(exit == VCPU_EXIT_WAIT);
        (void)exit;
        *instructions = hart->vcpu.retired;
        if (i == 0 || taken < best)
            best = taken;
    }
    return best;
}

int main(void)
{
    struct test_hart test;
    test_hart_init(&test, RAM, 64 * KIB);
    for (size_t i = 0; i < ARRAY_SIZE(loops); i++) {
        uint64_t instructions;
        double seconds = measure(&test, i, &instructions);
        printf("%-8s %11" PRIu64 " instructions  %.3f s  %.1f M/s\n", loops[i].name, instructions,
               seconds, (double)instructions / seconds / 1e6);
    }
    test_hart_destroy(&test);
    return 0;
}
