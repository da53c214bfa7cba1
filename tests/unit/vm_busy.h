/* SPDX-License-Identifier: MIT
 *
 * A deterministic machine whose every moment matters for how it ends, for tests that interrupt it.
 */
#ifndef TRAPEZE_TESTS_VM_BUSY_H
#define TRAPEZE_TESTS_VM_BUSY_H

#include "vm_world.h"

/* Two harts mix the time they see into a hash, spin and sleep for times that depend on it;
 * after 200 rounds each hart 0 switches the machine off. */
static const uint32_t busy[] = {
    0x00010417, /* auipc s0,0x10 */
    0x00651293, /* slli t0,a0,6 */
    0x00540433, /* add s0,s0,t0: DATA_GPA + 64 * hart */
    0x020044b7, /* lui s1,0x2004 */
    0x00351293, /* slli t0,a0,3 */
    0x005484b3, /* add s1,s1,t0: mtimecmp */
    0x08000293, /* li t0,0x80 */
    0x30429073, /* csrw mie,t0: wfi wakes for the timer, mstatus.MIE stays off */
    0x00050913, /* mv s2,a0: the hash */
    0x0c800993, /* li s3,200: rounds */
    0x02100a13, /* li s4,33 */
    0xc01022f3, /* 1: rdtime t0 */
    0x03490933, /* mul s2,s2,s4 */
    0x00590933, /* add s2,s2,t0 */
    0x3ff97313, /* andi t1,s2,1023 */
    0x1f430313, /* addi t1,t1,500 */
    0xfff30313, /* 2: addi t1,t1,-1 */
    0xfe031ee3, /* bnez t1,2b */
    0xc01022f3, /* rdtime t0 */
    0x04628293, /* addi t0,t0,70 */
    0x0054b023, /* sd t0,0(s1) */
    0x10500073, /* wfi */
    0x01243023, /* sd s2,0(s0) */
    0xfff98993, /* addi s3,s3,-1 */
    0xfc0996e3, /* bnez s3,1b */
    0x00100293, /* li t0,1 */
    0x00543423, /* sd t0,8(s0): done */
    0x02051263, /* bnez a0,4f */
    0x00010317, /* auipc t1,0x10 */
    0xfd830313, /* addi t1,t1,-40: hart 1's "done" */
    0x00033283, /* 3: ld t0,0(t1) */
    0xfe028ee3, /* beqz t0,3b */
    0x00100eb7, /* lui t4,0x100 */
    0x00005f37, /* lui t5,0x5 */
    0x555f0f13, /* addi t5,t5,0x555 */
    0x01eea023, /* sw t5,0(t4) */
    0x10500073, /* 4: wfi */
    0xffdff06f, /* j 4b */
};

/* Everything a machine consists of, as one number. */
static inline uint64_t machine_hash(struct vm *vm)
{
    struct state_buffer buffer = {0};
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    assert_true(mem_want(vm->mem, vm->ram, vm->ram->gpa, vm->ram->size));
    vm_save_state(vm, &buffer);
    for (size_t i = 0; i < buffer.size; i++)
        hash = (hash ^ buffer.data[i]) * UINT64_C(0x100000001b3);
    for (uint64_t at = 0; at < vm->ram->size; at += 8) {
        uint64_t word = load_le64(vm->ram->host + at);
        hash = (hash ^ word) * UINT64_C(0x100000001b3);
    }
    state_buffer_free(&buffer);
    return hash;
}

/* The same to look closer at: where two differ. */
struct picture {
    struct state_buffer state;
    uint8_t *ram;
};

static inline struct picture take_picture(struct vm *vm)
{
    struct picture picture = {.ram = malloc(vm->ram->size)};
    assert_true(mem_want(vm->mem, vm->ram, vm->ram->gpa, vm->ram->size));
    vm_save_state(vm, &picture.state);
    memcpy(picture.ram, vm->ram->host, vm->ram->size);
    return picture;
}

static inline void free_picture(struct picture *picture)
{
    state_buffer_free(&picture->state);
    free(picture->ram);
}

/* The first byte that is another one; "": none. */
static inline const char *find_difference(struct vm *vm, const struct picture *other, char text[100])
{
    struct picture own = take_picture(vm);
    size_t at = 0, size = own.state.size;
    text[0] = '\0';
    while (at < size && at < other->state.size && own.state.data[at] == other->state.data[at])
        at++;
    if (size != other->state.size)
        snprintf(text, 100, "%zu bytes of state, not %zu", size, other->state.size);
    else if (at < size)
        snprintf(text, 100, "byte %zu of its state is %#x, not %#x", at, own.state.data[at],
                 other->state.data[at]);
    else if (memcmp(own.ram, other->ram, vm->ram->size) != 0) {
        for (at = 0; own.ram[at] == other->ram[at]; at++)
            ;
        snprintf(text, 100, "byte %#zx of its memory is %#x, not %#x", at, own.ram[at],
                 other->ram[at]);
    }
    free_picture(&own);
    return text;
}

static inline void open_busy_with(struct world *w, uint64_t seed, const char *engine)
{
    world_open(w);
    free(w->config.engine);
    w->config.engine = strdup(engine);
    world_give(w, &w->config.firmware, busy, sizeof(busy));
    w->config.deterministic = true;
    w->config.cpus = 2;
    w->config.seed = seed;
    world_make(w);
}

static inline void open_busy(struct world *w, uint64_t seed)
{
    open_busy_with(w, seed, "auto");
}

#endif
