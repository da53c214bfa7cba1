/* SPDX-License-Identifier: MIT
 *
 * A hart's incoming message-signalled interrupt controller (IMSIC): one interrupt file for
 * machine level and one for supervisor level ("The RISC-V Advanced Interrupt Architecture" 1.0,
 * chapter 3; cited as A §x). A file is hart state; who writes to its page of memory
 * (dev/imsic.c) ends up in vcpu.messages->send().
 *
 * A file drives the hart's external interrupt line (MEIP, SEIP): up while delivery is on and
 * something below the threshold is pending and enabled.
 *
 * Threads: a message comes from any thread, the rest from the vCPU's owner. The lock is a leaf
 * but for the owner's wake-up.
 */
#ifndef TRAPEZE_ISA_RISCV64_IMSIC_H
#define TRAPEZE_ISA_RISCV64_IMSIC_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct rv_hart;
struct rv_insn;
struct state_table;
struct vcpu_messages;

#define RV_IMSIC_IDENTITIES 255 /* 1 to 255, as QEMU's `virt` */
#define RV_IMSIC_WORDS      4

/* The numbers are those of vcpu.messages->send(). */
enum rv_imsic_level { RV_IMSIC_M, RV_IMSIC_S, RV_IMSIC_LEVELS };

struct rv_imsic_file {
    uint64_t delivery;  /* eidelivery: 0 or 1 */
    uint64_t threshold; /* eithreshold; 0: none */
    uint64_t pending[RV_IMSIC_WORDS], enabled[RV_IMSIC_WORDS];
    unsigned reported; /* what the owner's last read of *topei said */
};

struct rv_imsic {
    bool present;
    pthread_mutex_t lock;
    struct rv_imsic_file file[RV_IMSIC_LEVELS]; /* lock */
};

void rv_imsic_init(struct rv_hart *hart, bool present);
void rv_imsic_destroy(struct rv_hart *hart);
/* Drives the lines as the files say: after a restore. */
void rv_imsic_restored(struct rv_hart *hart);

/* *topei: the identity as the register shows it, or 0. */
uint64_t rv_imsic_top(struct rv_hart *hart, enum rv_imsic_level level);
/* Claims an interrupt: what the last rv_imsic_top() reported, or else the top one. */
void rv_imsic_claim(struct rv_hart *hart, enum rv_imsic_level level, bool reported);

/* Registers by their numbers in *iselect; those that exist. */
bool rv_imsic_exists(unsigned number);
uint64_t rv_imsic_read(struct rv_hart *hart, enum rv_imsic_level level, unsigned number);
/* Sets and clears bits and leaves the others, which a message may set meanwhile. */
void rv_imsic_write(struct rv_hart *hart, enum rv_imsic_level level, unsigned number, uint64_t set,
                    uint64_t clear);

extern const struct vcpu_messages rv_imsic_messages;
extern const struct state_table rv_imsic_file_state;

#endif
