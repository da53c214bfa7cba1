/* SPDX-License-Identifier: MIT
 *
 * The page-table walk of Sv39, Sv48 and Sv57 (P §10.3.2, §10.4 to §10.7) with Svnapot, Svpbmt
 * and Svadu. The steps below are numbered as in P §10.3.2.
 *
 * Page tables are guest memory that other harts and devices write at the same time: every
 * PTE is read once, atomically, and judged by that value; A and D are set by compare-and-swap
 * against it, so that a walk never revives a PTE that was changed meanwhile.
 */
#include "isa/riscv64/mmu_internal.h"

#define PTE_V        (UINT64_C(1) << 0)
#define PTE_R        (UINT64_C(1) << 1)
#define PTE_W        (UINT64_C(1) << 2)
#define PTE_X        (UINT64_C(1) << 3)
#define PTE_U        (UINT64_C(1) << 4)
#define PTE_G        (UINT64_C(1) << 5)
#define PTE_A        (UINT64_C(1) << 6)
#define PTE_D        (UINT64_C(1) << 7)
#define PTE_PBMT     (UINT64_C(3) << 61)
#define PTE_N        (UINT64_C(1) << 63)
#define PTE_RESERVED (UINT64_C(0x7f) << 54)

#define NAPOT_64K_BITS 4 /* pages of 64 KiB: ppn[3:0] = 1000 (P §12.1) */

struct walk {
    struct rv_hart *hart;
    uint64_t va;
    enum rv_access access;
    unsigned privilege;
    bool debug; /* no permissions, no PMP, no A and D: is it mapped? */
};

/* Number of levels; 0 for Bare. satp holds no other mode. */
static unsigned satp_levels(uint64_t satp)
{
    uint64_t mode = satp >> RV_SATP_MODE_SHIFT;
    return mode == RV_SATP_BARE ? 0 : (unsigned)(mode - RV_SATP_SV39) + 3;
}

static uint64_t pte_ppn(uint64_t pte)
{
    return bits_get(pte, 10, 44);
}

/* Step 3 and what belongs to it: encodings that are invalid or reserved. */
static bool pte_valid(const struct rv_hart *hart, uint64_t pte, unsigned level)
{
    if (!(pte & PTE_V) || (!(pte & PTE_R) && (pte & PTE_W)) || (pte & PTE_RESERVED))
        return false;
    if (!(pte & (PTE_R | PTE_X))) /* a pointer to the next level: step 4 */
        return level > 0 && !(pte & (PTE_A | PTE_D | PTE_U | PTE_PBMT | PTE_N));
    if ((pte & PTE_PBMT) && (!(hart->menvcfg & RV_MENVCFG_PBMTE) || (pte & PTE_PBMT) == PTE_PBMT))
        return false;
    if ((pte & PTE_N) && (level != 0 || bits_get(pte_ppn(pte), 0, NAPOT_64K_BITS) != 8))
        return false;
    /* Step 7: a superpage must be aligned. */
    return level == 0 || bits_get(pte_ppn(pte), 0, 9 * level) == 0;
}

/* Step 6: may this privilege do this to a page with these bits? */
static bool pte_permits(const struct walk *walk, uint64_t pte)
{
    uint64_t status = walk->hart->mstatus;
    if (walk->privilege == RV_U && !(pte & PTE_U))
        return false;
    if (walk->privilege == RV_S && (pte & PTE_U) &&
        (walk->access == RV_FETCH || !(status & RV_MSTATUS_SUM)))
        return false;
    switch (walk->access) {
    case RV_FETCH:
        return pte & PTE_X;
    case RV_STORE:
        return pte & PTE_W;
    default:
        return (pte & PTE_R) || ((status & RV_MSTATUS_MXR) && (pte & PTE_X));
    }
}

/* Contents that come late. In the guest only: outside of it nobody can be called away. */
enum rv_fault rv_want(struct rv_hart *hart, struct mem_ram *ram, uint64_t gpa, unsigned size)
{
    switch (mem_want_unless(hart->vcpu.mem, ram, gpa, size, &hart->vcpu.attention)) {
    case MEM_THERE:
        return RV_FAULT_NONE;
    case MEM_LATER:
        return RV_FAULT_AGAIN;
    default:
        return RV_FAULT_ACCESS;
    }
}

/* Step 2: where PTE number `index` of a table is. Implicit accesses are S-mode's (P §3.7.1). */
static enum rv_fault find_pte(const struct walk *walk, uint64_t gpa, struct mem_ram **ram,
                              _Atomic uint64_t **pte)
{
    struct rv_hart *hart = walk->hart;
    if (!walk->debug && !rv_pmp_allows(hart, gpa, 8, RV_LOAD, RV_S))
        return RV_FAULT_ACCESS;
    *ram = mem_ram_find(hart->vcpu.mem, gpa);
    if (!*ram || (walk->debug && !mem_ready(hart->vcpu.mem, gpa, 8, NULL)))
        return RV_FAULT_ACCESS;
    /* RAM regions are whole pages and PTEs are aligned: all 8 bytes are there. */
    *pte = (_Atomic uint64_t *)(void *)((*ram)->host + (gpa - (*ram)->gpa));
    return rv_want(hart, *ram, gpa, 8);
}

enum update { UPDATE_DONE, UPDATE_CHANGED, UPDATE_PAGE_FAULT, UPDATE_ACCESS_FAULT };

/* Step 9: sets A, and D for a store. */
static enum update pte_update(const struct walk *walk, uint64_t gpa, struct mem_ram *ram,
                              _Atomic uint64_t *at, uint64_t pte)
{
    struct rv_hart *hart = walk->hart;
    uint64_t wanted = pte | PTE_A | (walk->access == RV_STORE ? PTE_D : 0);
    if (wanted == pte)
        return UPDATE_DONE;
    if (!(hart->menvcfg & RV_MENVCFG_ADUE))
        return UPDATE_PAGE_FAULT;
    if (!rv_pmp_allows(hart, gpa, 8, RV_STORE, RV_S))
        return UPDATE_ACCESS_FAULT;
    rv_note_write(hart, ram, gpa);
    return atomic_compare_exchange_strong(at, &pte, wanted) ? UPDATE_DONE : UPDATE_CHANGED;
}

static void leaf_address(const struct walk *walk, uint64_t pte, unsigned level,
                         struct rv_translation *to)
{
    unsigned page_bits = 12 + 9 * level;
    uint64_t ppn = pte_ppn(pte);
    if (pte & PTE_N) {
        page_bits += NAPOT_64K_BITS;
        ppn = align_down(ppn, UINT64_C(1) << NAPOT_64K_BITS);
    }
    to->page_size = UINT64_C(1) << page_bits;
    to->global = pte & PTE_G;
    to->gpa = (ppn << 12) | (walk->va & (to->page_size - 1));
}

static enum rv_fault walk_tables(const struct walk *walk, unsigned levels,
                                 struct rv_translation *to)
{
    struct rv_hart *hart = walk->hart;
    /* Bits above the address must all equal its top bit (P §10.4.1). */
    if ((uint64_t)sign_extend(walk->va, 12 + 9 * levels) != walk->va)
        return RV_FAULT_PAGE;

    uint64_t table = (hart->satp & RV_SATP_PPN) << 12;
    unsigned level = levels - 1;
    for (;;) {
        uint64_t gpa = table + 8 * bits_get(walk->va, 12 + 9 * level, 9);
        struct mem_ram *ram;
        _Atomic uint64_t *at;
        enum rv_fault what = find_pte(walk, gpa, &ram, &at);
        if (what != RV_FAULT_NONE)
            return what;
        uint64_t pte = atomic_load_explicit(at, memory_order_acquire);
        if (!pte_valid(hart, pte, level))
            return RV_FAULT_PAGE;
        if (!(pte & (PTE_R | PTE_X))) {
            table = pte_ppn(pte) << 12;
            level--;
            continue;
        }
        if (!walk->debug) {
            if (!pte_permits(walk, pte))
                return RV_FAULT_PAGE;
            switch (pte_update(walk, gpa, ram, at, pte)) {
            case UPDATE_CHANGED:
                continue; /* step 9b: again from step 2, at this level */
            case UPDATE_PAGE_FAULT:
                return RV_FAULT_PAGE;
            case UPDATE_ACCESS_FAULT:
                return RV_FAULT_ACCESS;
            case UPDATE_DONE:
                break;
            }
        }
        leaf_address(walk, pte, level, to);
        return RV_FAULT_NONE;
    }
}

static enum rv_fault translate(const struct walk *walk, struct rv_translation *to)
{
    unsigned levels = walk->privilege == RV_M ? 0 : satp_levels(walk->hart->satp);
    if (levels > 0)
        return walk_tables(walk, levels, to);
    *to = (struct rv_translation){.gpa = walk->va, .page_size = MEM_PAGE_SIZE};
    return RV_FAULT_NONE;
}

enum rv_fault rv_walk(struct rv_hart *hart, uint64_t va, enum rv_access access, unsigned privilege,
                      struct rv_translation *to)
{
    const struct walk walk = {
        .hart = hart, .va = va, .access = access, .privilege = privilege, .debug = false};
    return translate(&walk, to);
}

bool rv_translate_debug(struct rv_hart *hart, uint64_t va, uint64_t *gpa)
{
    const struct walk walk = {
        .hart = hart, .va = va, .access = RV_LOAD, .privilege = RV_S, .debug = true};
    struct rv_translation to;
    if (translate(&walk, &to) != RV_FAULT_NONE)
        return false;
    *gpa = to.gpa;
    return true;
}
