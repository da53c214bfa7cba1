/* SPDX-License-Identifier: MIT
 *
 * The page-table walk (P §10.3 to §10.7, Svnapot, Svpbmt, Svadu): who may do what to which
 * page, which PTEs are malformed, what becomes of A and D.
 */
#include "rv_mmu_fixture.h"

/* Which of R, W, X an access needs, and of whom: one line per row of the manual's rules. */
static bool model_permits(unsigned flags, enum rv_access access, unsigned privilege, bool sum,
                          bool mxr)
{
    if ((flags & (R | W)) == W || (flags & (R | W | X)) == 0)
        return false; /* reserved, or a pointer where no table can follow */
    if (privilege == RV_U ? !(flags & U) : (flags & U) && (access == RV_FETCH || !sum))
        return false;
    static const unsigned needs[] = {[RV_LOAD] = R, [RV_STORE] = W, [RV_FETCH] = X};
    return flags & (needs[access] | (access == RV_LOAD && mxr ? X : 0));
}

static void matrix_case(struct fixture *f, uint64_t at, unsigned flags, unsigned how, bool adue)
{
    struct rv_hart *hart = f->hart;
    bool mprv = how & 1, sum = how & 4, mxr = how & 8;
    unsigned privilege = how & 2 ? RV_S : RV_U;
    for (enum rv_access access = RV_LOAD; access < RV_ACCESS_KINDS; access++) {
        if (mprv && access == RV_FETCH)
            continue; /* MPRV is about loads and stores */
        poke(hart, RV_CSR_MSTATUS,
             (mprv ? RV_MSTATUS_MPRV | (uint64_t)privilege << RV_MSTATUS_MPP_SHIFT : 0) |
                 (sum ? RV_MSTATUS_SUM : 0) | (mxr ? RV_MSTATUS_MXR : 0));
        set_privilege(hart, mprv ? RV_M : privilege);
        uint64_t before = pte_of(DATA, V | flags), after = before;
        ram_put(f, at, before);
        rv_tlb_flush_page(hart, VA);
        atomic_store(&f->ram->flags[(at - RAM_BASE) >> 12], 0);

        bool ok = model_permits(flags, access, privilege, sum, mxr);
        uint64_t wanted = before | A | (access == RV_STORE ? D : 0);
        if (ok && wanted != before && adue)
            after = wanted;
        else if (wanted != before)
            ok = false;
        expect(f, access, VA, ok ? -1 : page_fault[access]);
        assert_int_equal(ram_get(f, at), after);
        /* A PTE that was written is a page that was written. */
        unsigned noted = atomic_load(&f->ram->flags[(at - RAM_BASE) >> 12]);
        assert_int_equal(noted & MEM_PAGE_DIRTY, after != before ? MEM_PAGE_DIRTY : 0);
    }
}

static void permission_matrix(void **state)
{
    struct fixture *f = *state;
    struct tables t = tables_new(f, 3);
    uint64_t at = map(&t, VA, 0, DATA, 0);
    for (unsigned adue = 0; adue < 2; adue++) {
        poke(f->hart, 0x30a, adue ? RV_MENVCFG_ADUE : 0);
        for (unsigned bits = 0; bits < 64; bits++) {
            unsigned flags = (bits & 15) << 1 | (bits & 48) << 2; /* R W X U, A D */
            for (unsigned how = 0; how < 16; how++)
                matrix_case(f, at, flags, how, adue);
        }
    }
}

static void every_level_of_every_mode(void **state)
{
    struct fixture *f = *state;
    for (unsigned levels = 3; levels <= 5; levels++) {
        for (unsigned level = 0; level < levels; level++) {
            uint64_t size = UINT64_C(1) << (12 + 9 * level);
            uint64_t base = align_down(DATA, size), offset = (DATA & (size - 1)) + 0x8;
            struct tables t = tables_new(f, levels);
            uint64_t va = align_down(UINT64_C(0x2a15263748), size);
            map(&t, va, level, base, RWX_AD);
            set_privilege(f->hart, RV_S);
            expect_at(f, RV_LOAD, va + offset, base + offset);
            expect_at(f, RV_STORE, va + offset, base + offset);
            expect_at(f, RV_FETCH, va + offset, base + offset);
            uint64_t gpa = 0;
            assert_true(isa_riscv64.translate(&f->hart->vcpu, va + offset, &gpa));
            assert_int_equal(gpa, base + offset);
            for (unsigned bit = 0; bit < 9 * level; bit++) { /* misaligned superpages */
                map(&t, va, level, base, RWX_AD | UINT64_C(1) << (10 + bit));
                rv_tlb_flush_page(f->hart, va);
                expect(f, RV_LOAD, va + offset, page_fault[RV_LOAD]);
                assert_false(isa_riscv64.translate(&f->hart->vcpu, va + offset, &gpa));
            }
        }
    }
}

static void addresses_must_be_canonical(void **state)
{
    struct fixture *f = *state;
    for (unsigned levels = 3; levels <= 5; levels++) {
        struct tables t = tables_new(f, levels);
        unsigned top = 12 + 9 * levels - 1;
        uint64_t low = UINT64_C(1) << (top - 1), high = ~UINT64_C(0) << top;
        map(&t, low, 0, DATA, RWX_AD);
        map(&t, high, 0, DATA + 0x1000, RWX_AD);
        set_privilege(f->hart, RV_S);
        expect_at(f, RV_LOAD, low, DATA);
        expect_at(f, RV_LOAD, high, DATA + 0x1000);
        for (unsigned bit = top; bit < 64; bit++) {
            expect(f, RV_LOAD, low ^ UINT64_C(1) << bit, page_fault[RV_LOAD]);
            expect(f, RV_FETCH, low ^ UINT64_C(1) << bit, page_fault[RV_FETCH]);
            if (bit > top)
                expect(f, RV_STORE, high ^ UINT64_C(1) << bit, page_fault[RV_STORE]);
        }
    }
}

static const struct malformed {
    const char *what;
    uint64_t pte; /* added to, or instead of, what is right */
    bool pbmte;
    bool ok;
} leaves[] =
    {
        {"plain", RWX_AD, false, true},
        {"global", RWX_AD | G, false, true},
        {"software bits", RWX_AD | 0x300, false, true},
        {"V = 0", RWX_AD & ~V, false, false},
        {"bit 54", RWX_AD | UINT64_C(1) << 54, true, false},
        {"bit 55", RWX_AD | UINT64_C(1) << 55, true, false},
        {"bit 60", RWX_AD | UINT64_C(1) << 60, true, false},
        {"PBMT NC", RWX_AD | PBMT(1), true, true},
        {"PBMT IO", RWX_AD | PBMT(2), true, true},
        {"PBMT reserved", RWX_AD | PBMT(3), true, false},
        {"PBMT NC, PBMTE off", RWX_AD | PBMT(1), false, false},
        {"PBMT IO, PBMTE off", RWX_AD | PBMT(2), false, false},
        {"NAPOT, ppn 0", RWX_AD | NAPOT, false, false},
},
  pointers[] = {
      {"plain", V, false, true},
      {"global", V | G, false, true},
      {"software bits", V | 0x300, false, true},
      {"V = 0", 0, false, false},
      {"W alone", V | W, false, false},
      {"WX", V | W | X, false, false},
      {"A", V | A, false, false},
      {"D", V | D, false, false},
      {"U", V | U, false, false},
      {"PBMT", V | PBMT(1), true, false},
      {"N", V | NAPOT, false, false},
      {"bit 57", V | UINT64_C(1) << 57, false, false},
};

static void malformed_entries_fault(void **state)
{
    struct fixture *f = *state;
    struct tables t = tables_new(f, 3);
    uint64_t leaf = map(&t, VA, 0, DATA, RWX_AD);
    uint64_t pointer = pte_place(&t, VA, 1), right = ram_get(f, pointer);
    set_privilege(f->hart, RV_S);
    for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
        poke(f->hart, 0x30a, leaves[i].pbmte ? RV_MENVCFG_PBMTE : 0);
        ram_put(f, leaf, pte_of(DATA, leaves[i].pte));
        rv_tlb_flush_all(f->hart);
        expect(f, RV_LOAD, VA, leaves[i].ok ? -1 : page_fault[RV_LOAD]);
    }
    ram_put(f, leaf, pte_of(DATA, RWX_AD));
    for (size_t i = 0; i < ARRAY_SIZE(pointers); i++) {
        poke(f->hart, 0x30a, pointers[i].pbmte ? RV_MENVCFG_PBMTE : 0);
        ram_put(f, pointer, (right & ~UINT64_C(0x3ff)) | pointers[i].pte);
        rv_tlb_flush_all(f->hart);
        expect(f, RV_LOAD, VA, pointers[i].ok ? -1 : page_fault[RV_LOAD]);
    }
    ram_put(f, pointer, right); /* a pointer at the last level */
    ram_put(f, leaf, pte_of(DATA, V));
    expect(f, RV_STORE, VA, page_fault[RV_STORE]);
}

static void svnapot_maps_64_kib(void **state)
{
    struct fixture *f = *state;
    struct tables t = tables_new(f, 3);
    uint64_t va = align_down(VA, 0x10000);
    for (unsigned i = 0; i < 16; i++)
        map(&t, va + i * 0x1000, 0, DATA + 0x8000, RWX_AD | NAPOT);
    set_privilege(f->hart, RV_S);
    for (unsigned i = 0; i < 16; i++)
        expect_at(f, RV_LOAD, va + i * 0x1000 + 8, DATA + i * 0x1000 + 8);
    for (unsigned low = 0; low < 16; low++) { /* only ppn[3:0] = 1000 is defined */
        map(&t, va, 0, DATA + low * 0x1000, RWX_AD | NAPOT);
        rv_tlb_flush_page(f->hart, va);
        expect(f, RV_LOAD, va, low == 8 ? -1 : page_fault[RV_LOAD]);
    }
    map(&t, va, 1, DATA, RWX_AD | NAPOT); /* nor superpages */
    rv_tlb_flush_all(f->hart);
    expect(f, RV_LOAD, va, page_fault[RV_LOAD]);
    map(&t, va, 1, DATA, RWX_AD);
    expect(f, RV_LOAD, va, -1);
}

/* Page tables where no RAM is, or where PMP lets S-mode not read or write. */
static void tables_out_of_reach(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    struct tables t = tables_new(f, 3);
    uint64_t leaf = map(&t, VA, 0, DATA, V | R | W | X);
    uint64_t pointer = pte_place(&t, VA, 1), right = ram_get(f, pointer);
    poke(hart, 0x30a, RV_MENVCFG_ADUE);
    for (enum rv_access access = RV_LOAD; access < RV_ACCESS_KINDS; access++) {
        static const uint64_t nowhere[] = {IO_BASE, 0, RAM_BASE + RAM_SIZE,
                                           UINT64_C(0xfffffffffff000)};
        for (size_t i = 0; i < ARRAY_SIZE(nowhere); i++) {
            ram_put(f, pointer, pte_of(nowhere[i], V));
            set_privilege(hart, RV_S);
            expect(f, access, VA, access_fault[access]);
        }
        ram_put(f, pointer, right);
        /* Entry 0 denies the table of leaves all, then writes only. */
        poke(hart, RV_CSR_PMPADDR0, (leaf & ~UINT64_C(0xfff)) >> 2 | 0x1ff);
        poke(hart, RV_CSR_PMPADDR0 + 1, ~UINT64_C(0));
        poke(hart, RV_CSR_PMPCFG0, 0x1f << 8 | RV_PMP_NAPOT);
        expect(f, access, VA, access_fault[access]);
        ram_put(f, leaf, pte_of(DATA, V | R | W | X));
        poke(hart, RV_CSR_PMPCFG0, 0x1f << 8 | RV_PMP_NAPOT | RV_PMP_R);
        expect(f, access, VA, access_fault[access]);
        assert_int_equal(ram_get(f, leaf), pte_of(DATA, V | R | W | X));
        ram_put(f, leaf, pte_of(DATA, RWX_AD)); /* nothing to write: nothing denied */
        expect(f, access, VA, -1);
        ram_put(f, leaf, pte_of(DATA, V | R | W | X));
        open_pmp(hart);
        expect(f, access, VA, -1);
    }
    /* A page that is nowhere; no I/O for fetches and atomics. */
    map(&t, VA, 0, RAM_BASE + RAM_SIZE, RWX_AD);
    rv_tlb_flush_all(hart);
    expect(f, RV_LOAD, VA, access_fault[RV_LOAD]);
    map(&t, VA, 0, IO_BASE, RWX_AD);
    expect(f, RV_FETCH, VA, access_fault[RV_FETCH]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(permission_matrix),           FIXTURE_TEST(every_level_of_every_mode),
        FIXTURE_TEST(addresses_must_be_canonical), FIXTURE_TEST(malformed_entries_fault),
        FIXTURE_TEST(svnapot_maps_64_kib),         FIXTURE_TEST(tables_out_of_reach),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
