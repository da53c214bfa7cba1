/* SPDX-License-Identifier: MIT
 *
 * The narrow waist between a vCPU (an ISA's architectural state, run by an engine) and its
 * machine. Neither side knows more of the other than this header.
 *
 *   machine → vCPU   engine->run(), vcpu_set_interrupt(), vcpu_attention(), vcpu_kick()
 *   vCPU → machine   the exit reason run() returns; time through vcpu_timebase; wake()
 *
 * Threads: a vCPU is run by one thread at a time, its owner; everything in the architectural
 * state belongs to that thread (while no thread runs it, to whoever quiesced it). What other
 * threads may touch are the atomics below, through the functions below.
 *
 * Architectural state is exact whenever run() is not running; an engine may keep it elsewhere
 * in between.
 */
#ifndef TRAPEZE_ISA_VCPU_H
#define TRAPEZE_ISA_VCPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/vclock.h"

struct engine;
struct error;
struct isa;
struct log;
struct mem_space;
struct state_table;

/* Why run() returned. The machine acts on it and calls run() again. */
enum vcpu_exit {
    VCPU_EXIT_KICK,   /* vcpu_kick() was called */
    VCPU_EXIT_BUDGET, /* the instruction budget is used up */
    VCPU_EXIT_WAIT,   /* the guest waits for an interrupt (wfi, wrs.nto, hlt) */
    VCPU_EXIT_ECALL,  /* hypercall to the machine (SBI call); arguments in the registers, the
                         program counter already behind it */
    VCPU_EXIT_HTIF,   /* a store to the ELF's tohost symbol was made (htif_value) */
    VCPU_EXIT_WEDGED  /* the guest traps at its own trap vector for ever: it has crashed */
};

/* Things that make a running vCPU look up between two blocks; bits of vcpu.attention. */
enum vcpu_attention {
    VCPU_ATTENTION_KICK = 1,     /* leave run() with VCPU_EXIT_KICK */
    VCPU_ATTENTION_IRQ = 2,      /* interrupt lines changed */
    VCPU_ATTENTION_TIMER = 4,    /* the ISA's own timer comparator may have fired */
    VCPU_ATTENTION_TLB = 8,      /* drop every cached address translation */
    VCPU_ATTENTION_FENCE_I = 16  /* drop everything derived from instructions not yet fenced */
};

/* The guest's counter of time: ticks = clock / ns_per_tick + offset. Shared by all vCPUs and
 * the timer device of a machine; the offset changes when firmware writes mtime. */
struct vcpu_timebase {
    struct vclock *clock;
    int64_t ns_per_tick;
    _Atomic uint64_t offset_ticks;
};

static inline uint64_t vcpu_time(struct vcpu_timebase *timebase)
{
    return (uint64_t)(vclock_now(timebase->clock) / timebase->ns_per_tick) +
           atomic_load_explicit(&timebase->offset_ticks, memory_order_relaxed);
}

/* Virtual ns at which vcpu_time() reaches `ticks` (now or the past if it already has);
 * VCLOCK_NEVER if that is beyond the clock's range. */
int64_t vcpu_time_to_deadline(struct vcpu_timebase *timebase, uint64_t ticks);

/* The generic part: the first member of every ISA's state struct. */
struct vcpu {
    const struct isa *isa;
    const struct engine *engine;
    void *engine_data; /* the engine's own, made by attach() */
    unsigned index;    /* 0 .. number of vCPUs - 1 */
    struct mem_space *mem;
    struct vcpu_timebase *timebase;
    struct log *log;

    _Atomic uint32_t attention;  /* enum vcpu_attention */
    _Atomic uint64_t interrupts; /* lines driven from outside; bit numbers are the ISA's */
    /* Inside run(): requests in attention are not yet obeyed. An engine sets it (seq_cst)
     * before it looks at attention for the first time; it is also false during I/O callbacks,
     * so that who waits in vcpu_attention_sync() does not wait for a device's lock. */
    _Atomic bool in_guest;

    uint64_t retired; /* instructions retired since reset; exact outside run() */

    /* Bare-metal test convention: a store to this gpa (0 = none) leaves run(). */
    uint64_t htif_tohost;
    uint64_t htif_value;

    /* Makes the owner thread return from its wait; called after attention was set. */
    void (*wake)(struct vcpu *vcpu);
    void *owner; /* the machine's own data for this vCPU */
};

/* What a new vCPU is made from. Everything is borrowed and outlives the vCPU. */
struct vcpu_setup {
    unsigned index;
    struct mem_space *mem;
    struct vcpu_timebase *timebase;
    struct log *log;
    void (*wake)(struct vcpu *vcpu);
    void *owner;
};

/* An instruction-set architecture. All of it is const data and functions. */
struct isa {
    const char *name; /* "riscv64" */
    const struct state_table *state;
    struct vcpu *(*vcpu_new)(const struct vcpu_setup *setup, struct error **err);
    void (*vcpu_free)(struct vcpu *vcpu);
    void (*vcpu_reset)(struct vcpu *vcpu); /* architectural reset; interrupt lines stay */
    uint64_t (*pc)(const struct vcpu *vcpu);
    /* True if the vCPU would take or be woken by an interrupt now; owner thread. */
    bool (*wait_is_over)(struct vcpu *vcpu);
    /* Drops what those of TLB and FENCE_I in `bits` name; owner thread, perhaps in the middle
     * of an instruction that waits (vcpu_attention_sync, an I/O callback). */
    void (*drop)(struct vcpu *vcpu, uint32_t bits);
    /* Debugger's view: no side effects, no faults. False if not mapped. */
    bool (*translate)(struct vcpu *vcpu, uint64_t va, uint64_t *gpa);
    /* Writes one instruction as text; returns its length in bytes (2 or 4 ...), 0 if the
     * `available` bytes do not hold a whole one. */
    unsigned (*disassemble)(const uint8_t *code, size_t available, uint64_t pc, char *text,
                            size_t text_size);
    /* Registers and the likes as lines of text for logs. */
    void (*dump)(const struct vcpu *vcpu, char *text, size_t text_size);
};

/* A way to run vCPUs. */
struct engine {
    const char *name; /* "interp" */
    bool (*supports)(const struct isa *isa);
    bool (*attach)(struct vcpu *vcpu, struct error **err);
    void (*detach)(struct vcpu *vcpu);
    /* Runs at most `budget` instructions (UINT64_MAX: no limit); owner thread. Obeys
     * attention before the first and between blocks. Retires exactly at most `budget`. */
    enum vcpu_exit (*run)(struct vcpu *vcpu, uint64_t budget);
};

/* Drives one interrupt line; any thread. */
void vcpu_set_interrupt(struct vcpu *vcpu, unsigned line, bool level);

/* Raises attention bits and wakes the owner; any thread, does not wait. */
void vcpu_attention(struct vcpu *vcpu, uint32_t bits);

static inline void vcpu_kick(struct vcpu *vcpu)
{
    vcpu_attention(vcpu, VCPU_ATTENTION_KICK);
}

/* Raises the bits (TLB, FENCE_I) in each of `count` vCPUs and returns when none can still
 * act on what they drop: each has obeyed or is not in the guest. `self` (may be NULL) is the
 * calling thread's own vCPU: its requests are obeyed while it waits, so that two vCPUs
 * may do this to each other. The caller may hold locks that vCPUs take in I/O callbacks, but
 * none that they take elsewhere inside run(). */
void vcpu_attention_sync(struct vcpu *self, struct vcpu *const *vcpus, size_t count,
                         uint32_t bits);

#endif
