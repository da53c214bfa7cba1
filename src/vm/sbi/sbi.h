/* SPDX-License-Identifier: MIT
 *
 * The supervisor binary interface, served by the VMM: the guest's hypercall interface.
 * Reference: RISC-V SBI specification 2.0, cited as SBI §x.
 *
 * An extension is one file and one row of the table in sbi.c. Its function gets the six
 * arguments and says the result; what comes from the guest is checked before use.
 *
 * Threads: the calling vCPU's own; other harts only through vcpu.h and their atomic state.
 */
#ifndef TRAPEZE_VM_SBI_SBI_H
#define TRAPEZE_VM_SBI_SBI_H

#include "isa/riscv64/hart.h"
#include "vm/machine.h"

/* SBI §3, table 1. */
enum sbi_error {
    SBI_SUCCESS = 0,
    SBI_ERR_FAILED = -1,
    SBI_ERR_NOT_SUPPORTED = -2,
    SBI_ERR_INVALID_PARAM = -3,
    SBI_ERR_DENIED = -4,
    SBI_ERR_INVALID_ADDRESS = -5,
    SBI_ERR_ALREADY_AVAILABLE = -6,
    SBI_ERR_ALREADY_STARTED = -7,
    SBI_ERR_ALREADY_STOPPED = -8
};

struct sbi_call {
    struct vm_cpu *cpu;
    uint64_t extension, function;
    uint64_t args[6]; /* a0..a5 */
    uint64_t value;   /* result in a1; for the legacy extensions in a0 */
    bool wait;        /* the hart waits for an interrupt after the call (suspend, stop) */
    bool silent;      /* the call does not return: leave the registers alone */
    bool again;       /* nothing was done: memory is still to come (sbi_want()) */
};

typedef int64_t sbi_fn(struct sbi_call *call); /* enum sbi_error, or a legacy result */

struct sbi_extension {
    uint64_t first, last; /* extension ids */
    sbi_fn *run;
    bool legacy; /* result in a0, a1 preserved */
};

/* Serves the call in the registers; true: the hart waits for an interrupt now. */
bool sbi_call(struct vm_cpu *cpu);
bool sbi_has_extension(uint64_t id);

/* Calls fn for each hart of (mask, base), SBI §3.1; SBI_ERR_INVALID_PARAM if one does not
 * exist (then none is called). */
int64_t sbi_for_harts(struct sbi_call *call, uint64_t mask, uint64_t base,
                      void (*fn)(struct sbi_call *call, struct vm_cpu *target));

sbi_fn sbi_base, sbi_time, sbi_ipi, sbi_rfence, sbi_hsm, sbi_srst, sbi_dbcn, sbi_legacy;

/* Before guest memory is reached. False: the hart is wanted elsewhere before that is there, and makes the
 * call once more. */
bool sbi_want(struct sbi_call *call, uint64_t gpa, uint64_t size);

/* Shared by legacy and newer extensions. */
void sbi_set_timer(struct vm_cpu *cpu, uint64_t ticks);
void sbi_send_ipi(struct sbi_call *call, struct vm_cpu *target);
/* fence.i and sfence.vma on the harts of a mask (bit = hart index); both return when all have obeyed.
 * range: start, size and, if `one_space`, ASID, as SBI §8 has them. */
void sbi_fence_i(struct vm_cpu *cpu, uint64_t harts);
void sbi_sfence(struct vm_cpu *cpu, uint64_t harts, const uint64_t *range, bool one_space);
void sbi_put(struct vm_cpu *cpu, const uint8_t *data, size_t size);
int sbi_get(struct vm_cpu *cpu); /* a byte typed on the console, or -1 */

#endif
