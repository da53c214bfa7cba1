/* SPDX-License-Identifier: MIT
 *
 * Between pmp.c, walk.c, tlb.c, mmu.c and the CSRs. Owner thread of the hart only.
 */
#ifndef TRAPEZE_ISA_RISCV64_MMU_INTERNAL_H
#define TRAPEZE_ISA_RISCV64_MMU_INTERNAL_H

#include "isa/riscv64/mmu.h"
#include "mem/mem.h"

/* ---- pmp.c ---- */

/* Rebuilds hart->pmp from pmpcfg and pmpaddr. The caller flushes the TLB. */
void rv_pmp_update(struct rv_hart *hart);

/* RV_PMP_R|W|X that the range [first, last] has for `privilege`. *uniform: one entry (or
 * none) decides for all of its bytes; else an access to all of it fails (0), and a smaller one
 * may not. */
unsigned rv_pmp_permissions(const struct rv_hart *hart, uint64_t first, uint64_t last,
                            unsigned privilege, bool *uniform);

/* The largest end <= `last` such that no PMP entry begins or ends in (first, end]. */
uint64_t rv_pmp_uniform_last(const struct rv_hart *hart, uint64_t first, uint64_t last);

/* True if one access to [gpa, gpa+size) is allowed. */
static inline bool rv_pmp_allows(const struct rv_hart *hart, uint64_t gpa, unsigned size,
                                 enum rv_access access, unsigned privilege)
{
    static const uint8_t needed[RV_ACCESS_KINDS] = {
        [RV_LOAD] = RV_PMP_R, [RV_STORE] = RV_PMP_W, [RV_FETCH] = RV_PMP_X};
    bool uniform;
    return rv_pmp_permissions(hart, gpa, gpa + (size - 1), privilege, &uniform) & needed[access];
}

/* ---- walk.c ---- */

/* AGAIN: memory is still to come, and the hart is wanted elsewhere (RV_CAUSE_AGAIN). */
enum rv_fault { RV_FAULT_NONE, RV_FAULT_PAGE, RV_FAULT_ACCESS, RV_FAULT_AGAIN };
enum rv_fault rv_want(struct rv_hart *hart, struct mem_ram *ram, uint64_t gpa, unsigned size);

struct rv_translation {
    uint64_t gpa;       /* of the address asked for */
    bool global;        /* in every address space (P §10.3.1); a leaf's own bit only */
    uint64_t page_size; /* of the leaf: 4 KiB, 64 KiB (Svnapot), 2 MiB, ... */
};

/* Translates va for an access by `privilege` (effective), setting A and D as Svadu does.
 * No PMP check of the result. */
enum rv_fault rv_walk(struct rv_hart *hart, uint64_t va, enum rv_access access, unsigned privilege,
                      struct rv_translation *to);

/* ---- tlb.c ---- */

/* Drops the translations of the load banks (MXR changed), or of all banks but M's. */
void rv_tlb_flush_loads(struct rv_hart *hart);
void rv_tlb_flush_translated(struct rv_hart *hart);
/* Sets hart->satp. */
void rv_tlb_change_space(struct rv_hart *hart, uint64_t satp);
/* Remembers that va's page is at `host` (of va itself). */
void rv_tlb_fill(struct rv_hart *hart, struct rv_tlb *tlb, uint64_t va, const uint8_t *host,
                 const struct rv_translation *to);
/* Makes every bank empty whatever it holds: new harts. */
void rv_tlb_init(struct rv_hart *hart);

/* ---- mmu.c ---- */

/* mem_note_write() that still holds when it returns: what this hart obeys while a listener
 * waits may take the note back. */
void rv_note_write(struct rv_hart *hart, struct mem_ram *ram, uint64_t gpa);

#endif
