/* SPDX-License-Identifier: MIT
 *
 * A machine that never ends and whose memory can be checked at any moment: each hart sweeps over pages of
 * its own, writes the next number to the first and the last word of each, and looks before whether what
 * it wrote there last is still there.
 */
#ifndef TRAPEZE_TESTS_VM_SWEEP_H
#define TRAPEZE_TESTS_VM_SWEEP_H

#include "vm_world.h"

enum { SWEEP_HARTS = 2, SWEEP_PAGES = 0x100, SWEEP_SPIN = 0x108, SWEEP_SIZE = 0x110 };

static const uint32_t sweep[] = {
    0x00000497, /* auipc s1,0x0 */
    0x1004b903, /* ld s2,256(s1) */
    0x1084bb03, /* ld s6,264(s1) */
    0x00010437, /* lui s0,0x10 */
    0x00940433, /* add s0,s0,s1 */
    0x00651293, /* slli t0,a0,0x6 */
    0x00540433, /* add s0,s0,t0 */
    0x010009b7, /* lui s3,0x1000 */
    0x013484b3, /* add s1,s1,s3 */
    0x01751293, /* slli t0,a0,0x17 */
    0x005484b3, /* add s1,s1,t0 */
    0x00100a93, /* li s5,1 */
    0x00ba9a93, /* slli s5,s5,0xb */
    0x00100993, /* li s3,1 */
    0x00048293, /* 1: mv t0,s1 */
    0x00090313, /* mv t1,s2 */
    0x41298e33, /* 2: sub t3,s3,s2 */
    0x01c04463, /* bgtz t3,3f */
    0x00000e13, /* li t3,0 */
    0x0002b383, /* 3: ld t2,0(t0) */
    0x03c39e63, /* bne t2,t3,5f */
    0x01528eb3, /* add t4,t0,s5 */
    0x7f8eb383, /* ld t2,2040(t4) */
    0x03c39863, /* bne t2,t3,5f */
    0x0132b023, /* sd s3,0(t0) */
    0x7f3ebc23, /* sd s3,2040(t4) */
    0x01343023, /* sd s3,0(s0) */
    0x00198993, /* addi s3,s3,1 */
    0x000b0f13, /* mv t5,s6 */
    0xffff0f13, /* 4: addi t5,t5,-1 */
    0xffe04ee3, /* bgtz t5,4b */
    0x015e82b3, /* add t0,t4,s5 */
    0xfff30313, /* addi t1,t1,-1 */
    0xfa031ee3, /* bnez t1,2b */
    0xfb1ff06f, /* j 1b */
    0x00543423, /* 5: sd t0,8(s0) */
    0x00100eb7, /* lui t4,0x100 */
    0x00013f37, /* lui t5,0x13 */
    0x333f0f13, /* addi t5,t5,819 */
    0x01eea023, /* sw t5,0(t4) */
    0x10500073, /* 6: wfi */
    0xffdff06f, /* j 6b */
};

#define SWEEP_AREA(hart) (RAM + 16 * MIB + (hart) * 8 * MIB)

/* `pages` of each hart, `spin` turns after each. */
static inline void open_sweep(struct world *w, const char *engine, uint64_t pages, uint64_t spin)
{
    uint8_t program[SWEEP_SIZE] = {0};
    for (size_t i = 0; i < ARRAY_SIZE(sweep); i++)
        store_le32(program + 4 * i, sweep[i]);
    store_le64(program + SWEEP_PAGES, pages);
    store_le64(program + SWEEP_SPIN, spin);
    world_open(w);
    free(w->config.engine);
    w->config.engine = strdup(engine);
    world_give(w, &w->config.firmware, program, sizeof(program));
    w->config.cpus = SWEEP_HARTS;
    world_make(w);
}

/* How many numbers it has written, all harts. The machine stands still; every page has to hold what was
 * written to it last, but for the one that is being written to. */
static inline uint64_t check_sweep(struct world *w)
{
    uint64_t sum = 0, pages = guest_word(w, RAM + SWEEP_PAGES);
    assert_int_equal(w->ends, 0);
    for (uint64_t hart = 0; hart < SWEEP_HARTS; hart++) {
        uint64_t count = guest_word(w, DATA_GPA + 64 * hart);
        assert_int_equal(guest_word(w, DATA_GPA + 64 * hart + 8), 0);
        for (uint64_t page = 0; page < pages; page++) {
            uint64_t age = (count + pages - 1 - page) % pages; /* numbers since it was written to */
            uint64_t last = count > age ? count - age : 0;
            for (uint64_t at = 0; at < 4096; at += 4088) {
                uint64_t word = guest_word(w, SWEEP_AREA(hart) + page * 4096 + at);
                if (word != last && (page != count % pages || word != count + 1))
                    fail_msg("hart %d, page %d: %d and not %d of %d", (int)hart, (int)page, (int)word,
                             (int)last, (int)count);
            }
        }
        sum += count;
    }
    return sum;
}

#endif
