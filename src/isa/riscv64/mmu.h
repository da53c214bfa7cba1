/* SPDX-License-Identifier: MIT
 *
 * Memory as an instruction sees it: an inline TLB hit, else the slow path (walk, PMP, A/D
 * bits, page crossing, I/O). Every function that can fault returns false with hart->trap
 * set and nothing architectural changed.
 *
 * Misaligned loads and stores succeed on RAM (not atomic), also across pages; on I/O they
 * raise access faults. Misaligned AMO/LR/SC raise misaligned/access faults (P §3.6.3.3).
 *
 * The TLB holds RAM only. A store entry exists only while its page is noted as dirty and
 * holds no code. U/S/SUM are separate banks; MXR and PMP changes flush, satp changes do not.
 */
#ifndef TRAPEZE_ISA_RISCV64_MMU_H
#define TRAPEZE_ISA_RISCV64_MMU_H

#include <string.h>

#include "isa/riscv64/insn.h"

bool rv_load_slow(struct rv_hart *hart, uint64_t va, unsigned size, uint64_t *value);
bool rv_store_slow(struct rv_hart *hart, uint64_t va, unsigned size, uint64_t value);

/* Host pointer for an atomic access of `size` bytes (4 or 8; natural alignment checked, RAM
 * only), with store permission if `store`. Sets *gpa. False: trap set (store causes if
 * `store`, else load causes). AMOs and SC pass true. */
bool rv_atomic_pointer(struct rv_hart *hart, uint64_t va, unsigned size, bool store, void **host,
                       uint64_t *gpa);

/* Host pointer to at least 2 instruction bytes at va and how many bytes follow in the page. */
bool rv_fetch_pointer(struct rv_hart *hart, uint64_t va, const uint8_t **host,
                      unsigned *in_page, uint64_t *gpa);

/* cbo.*: checks store-like (or load-or-store) permission of the 64-byte block that holds va.
 * *host is the block's start; NULL if it is I/O, which only `store` = false permits. */
bool rv_cbo_pointer(struct rv_hart *hart, uint64_t va, bool store, void **host);

void rv_tlb_flush_all(struct rv_hart *hart);
/* What is not global in the spaces with an ASID. */
void rv_tlb_flush_asid(struct rv_hart *hart, uint64_t asid);
/* All of the leaf that holds va: in all spaces and global, or in the spaces with an ASID. */
void rv_tlb_flush_page(struct rv_hart *hart, uint64_t va);
void rv_tlb_flush_page_of(struct rv_hart *hart, uint64_t va, uint64_t asid);

/* Drops the permissions to store to the page of RAM at `host` (an engine holds its code), or all
 * of them (the dirty log was read). */
void rv_tlb_drop_stores(struct rv_hart *hart, const uint8_t *host);
void rv_tlb_drop_all_stores(struct rv_hart *hart);

/* Page-table walk without side effects, for debuggers: S-mode data view of va. */
bool rv_translate_debug(struct rv_hart *hart, uint64_t va, uint64_t *gpa);

static inline struct rv_tlb_entry *rv_tlb_slot(struct rv_tlb *tlb, uint64_t va)
{
    return &tlb->entry[(va >> 12) & (RV_TLB_ENTRIES - 1)];
}

/* Defines rv_loadN: zero-extended value. The mask lets misaligned accesses miss. */
#define RV_DEFINE_ACCESS(bits, type)                                                     \
    static inline bool rv_load##bits(struct rv_hart *hart, uint64_t va, type *value)    \
    {                                                                                    \
        const struct rv_tlb_entry *entry = rv_tlb_slot(hart->tlb_load, va);             \
        if (LIKELY((va & (~UINT64_C(0xfff) | (sizeof(type) - 1))) == entry->tag)) {     \
            *value = __atomic_load_n((const type *)(uintptr_t)(va + entry->addend),     \
                                     __ATOMIC_RELAXED);                                  \
            return true;                                                                 \
        }                                                                                \
        uint64_t wide;                                                                   \
        if (!rv_load_slow(hart, va, sizeof(type), &wide))                               \
            return false;                                                                \
        *value = (type)wide;                                                             \
        return true;                                                                     \
    }                                                                                    \
    static inline bool rv_store##bits(struct rv_hart *hart, uint64_t va, type value)    \
    {                                                                                    \
        const struct rv_tlb_entry *entry = rv_tlb_slot(hart->tlb_store, va);            \
        if (LIKELY((va & (~UINT64_C(0xfff) | (sizeof(type) - 1))) == entry->tag)) {     \
            __atomic_store_n((type *)(uintptr_t)(va + entry->addend), value,            \
                             __ATOMIC_RELAXED);                                          \
            return true;                                                                 \
        }                                                                                \
        return rv_store_slow(hart, va, sizeof(type), value);                             \
    }
RV_DEFINE_ACCESS(8, uint8_t)
RV_DEFINE_ACCESS(16, uint16_t)
RV_DEFINE_ACCESS(32, uint32_t)
RV_DEFINE_ACCESS(64, uint64_t)
#undef RV_DEFINE_ACCESS

#endif
