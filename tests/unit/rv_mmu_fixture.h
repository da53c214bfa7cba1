/* SPDX-License-Identifier: MIT
 *
 * Page tables for the MMU tests: 4 KiB tables are taken from the last MiB of RAM.
 */
#ifndef TRAPEZE_TESTS_RV_MMU_FIXTURE_H
#define TRAPEZE_TESTS_RV_MMU_FIXTURE_H

#include "rv_fixture.h"

enum { V = 1, R = 2, W = 4, X = 8, U = 16, G = 32, A = 64, D = 128 };
#define RWX_AD  (V | R | W | X | A | D)
#define PBMT(n) ((uint64_t)(n) << 61)
#define NAPOT   (UINT64_C(1) << 63)

#define ROOT (RAM_BASE + 15 * MIB)
#define DATA (RAM_BASE + 0x200000) /* aligned to 2 MiB */
#define VA   UINT64_C(0x1234567000)

struct tables {
    struct fixture *f;
    unsigned levels;
    uint64_t next; /* free table */
};

static inline uint64_t pte_of(uint64_t gpa, uint64_t flags)
{
    return gpa >> 12 << 10 | flags;
}

/* Empty tables of 3, 4 or 5 levels in satp; PMP open. */
static inline struct tables tables_new(struct fixture *f, unsigned levels)
{
    memset(f->ram->host + (ROOT - RAM_BASE), 0, MIB);
    open_pmp(f->hart);
    poke(f->hart, RV_CSR_SATP, (uint64_t)(levels + 5) << 60 | ROOT >> 12);
    rv_tlb_flush_all(f->hart);
    return (struct tables){f, levels, ROOT + 0x1000};
}

/* gpa of the PTE of `va` at `level`, making the tables above it. */
static inline uint64_t pte_place(struct tables *t, uint64_t va, unsigned level)
{
    uint64_t table = ROOT;
    for (unsigned l = t->levels - 1;; l--) {
        uint64_t at = table + 8 * (va >> (12 + 9 * l) & 511);
        if (l == level)
            return at;
        if (ram_get(t->f, at) == 0) {
            ram_put(t->f, at, pte_of(t->next, V));
            t->next += 0x1000;
        }
        table = ram_get(t->f, at) >> 10 << 12;
    }
}

static inline uint64_t map(struct tables *t, uint64_t va, unsigned level, uint64_t gpa,
                           uint64_t flags)
{
    uint64_t at = pte_place(t, va, level);
    ram_put(t->f, at, pte_of(gpa, flags));
    return at;
}

/* One access of 8 (or 2 for a fetch) bytes: the cause, or -1 and the gpa it went to. */
static inline int try_access(struct fixture *f, enum rv_access access, uint64_t va, uint64_t *gpa)
{
    struct rv_hart *hart = f->hart;
    const uint8_t *host = NULL;
    void *pointer = NULL;
    unsigned in_page;
    bool ok = access == RV_FETCH
                  ? rv_fetch_pointer(hart, va, &host, &in_page, gpa)
                  : rv_atomic_pointer(hart, va, 8, access == RV_STORE, &pointer, gpa);
    if (ok) {
        const uint8_t *at = access == RV_FETCH ? host : pointer;
        assert_ptr_equal(at, f->ram->host + (*gpa - RAM_BASE));
    }
    /* The plain access must agree, whether or not the TLB has it now. */
    uint64_t value = 0, before = ok ? ram_get(f, *gpa) : 0;
    struct rv_trap trap = hart->trap;
    if (access == RV_LOAD) {
        assert_int_equal(rv_load64(hart, va, &value), ok);
        assert_int_equal(value, before);
    } else if (access == RV_STORE) {
        assert_int_equal(rv_store64(hart, va, ~before), ok);
        if (ok)
            assert_int_equal(ram_get(f, *gpa), ~before);
    }
    if (ok)
        return -1;
    assert_int_equal(hart->trap.cause, trap.cause);
    assert_int_equal(hart->trap.tval, va);
    assert_int_equal(trap.tval, va);
    return (int)trap.cause;
}

static const int page_fault[] = {[RV_LOAD] = RV_CAUSE_LOAD_PAGE,
                                 [RV_STORE] = RV_CAUSE_STORE_PAGE,
                                 [RV_FETCH] = RV_CAUSE_FETCH_PAGE};
static const int access_fault[] = {[RV_LOAD] = RV_CAUSE_LOAD_ACCESS,
                                   [RV_STORE] = RV_CAUSE_STORE_ACCESS,
                                   [RV_FETCH] = RV_CAUSE_FETCH_ACCESS};

#define expect(f, access, va, cause)                                                               \
    do {                                                                                           \
        uint64_t gpa_;                                                                             \
        assert_int_equal(try_access((f), (access), (va), &gpa_), (cause));                         \
    } while (0)
#define expect_at(f, access, va, gpa)                                                              \
    do {                                                                                           \
        uint64_t gpa_ = 0;                                                                         \
        assert_int_equal(try_access((f), (access), (va), &gpa_), -1);                              \
        assert_int_equal(gpa_, (gpa));                                                             \
    } while (0)

#endif
