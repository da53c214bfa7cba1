/* SPDX-License-Identifier: MIT
 *
 * The TLB's invariants (mmu.c) and the accesses that it does not serve: misaligned, across
 * pages, I/O, HTIF, cache blocks.
 */
#include "rv_mmu_fixture.h"

static unsigned flags_of(struct fixture *f, uint64_t gpa)
{
    return atomic_load(&f->ram->flags[(gpa - RAM_BASE) >> MEM_PAGE_SHIFT]);
}

static bool cached(const struct rv_tlb *tlb, uint64_t va)
{
    return tlb->entry[va >> 12 & (RV_TLB_ENTRIES - 1)].tag == align_down(va, 0x1000);
}

/* ---- the TLB ---- */

static void an_empty_tlb_hits_nothing(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    /* va 1 with any size: the tag of an empty entry must differ from every masked address. */
    for (uint64_t va = 0; va < 16; va++) {
        uint8_t u8;
        uint16_t u16;
        uint32_t u32;
        uint64_t u64;
        assert_false(rv_load8(hart, va, &u8) || rv_load16(hart, va, &u16) ||
                     rv_load32(hart, va, &u32) || rv_load64(hart, va, &u64));
        assert_int_equal(hart->trap.cause, RV_CAUSE_LOAD_ACCESS);
        assert_false(rv_store8(hart, va, 0) || rv_store64(hart, va, 0));
        assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_ACCESS);
    }
}

static void flushes_take_effect(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    struct tables t = tables_new(f, 3);
    set_privilege(hart, RV_S);
    /* Fewer and more fills than are logged, and a second round in the same entries. */
    static const unsigned fills[] = {1, RV_TLB_LOG - 1, RV_TLB_LOG, RV_TLB_LOG + 1, 700};
    for (size_t i = 0; i < ARRAY_SIZE(fills); i++) {
        for (unsigned round = 0; round < 2; round++) {
            uint64_t there = DATA + round * 0x1000;
            for (unsigned page = 0; page < fills[i]; page++)
                map(&t, VA + page * 0x1000, 0, there, RWX_AD);
            rv_tlb_flush_all(hart);
            for (unsigned page = 0; page < fills[i]; page++)
                for (enum rv_access access = RV_LOAD; access < RV_ACCESS_KINDS; access++)
                    expect_at(f, access, VA + page * 0x1000, there);
            assert_true(cached(hart->tlb_load, VA) && cached(hart->tlb_store, VA) &&
                        cached(hart->tlb_fetch, VA));
        }
    }
    rv_tlb_flush_all(hart);
    for (unsigned bank = 0; bank < RV_BANKS; bank++)
        for (unsigned kind = 0; kind < RV_ACCESS_KINDS; kind++)
            for (unsigned i = 0; i < RV_TLB_ENTRIES; i++)
                assert_int_equal(hart->tlb[bank][kind].entry[i].tag, rv_tlb_empty(i));
}

static void flushing_a_page_keeps_others(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    struct tables t = tables_new(f, 3);
    const uint64_t high = UINT64_C(0xffffffc000000000);
    set_privilege(hart, RV_S);
    map(&t, VA, 0, DATA, RWX_AD);
    map(&t, VA + 0x1000, 0, DATA + 0x1000, RWX_AD);
    map(&t, high, 1, DATA, RWX_AD); /* a superpage far away */
    expect_at(f, RV_LOAD, VA, DATA);
    expect_at(f, RV_LOAD, VA + 0x1000, DATA + 0x1000);
    expect_at(f, RV_LOAD, high + 0x3000, DATA + 0x3000);
    map(&t, VA, 0, DATA + 0x5000, RWX_AD);
    rv_tlb_flush_page(hart, VA + 0x123);
    expect_at(f, RV_LOAD, VA, DATA + 0x5000);
    assert_true(cached(hart->tlb_load, VA + 0x1000));
    assert_true(cached(hart->tlb_load, high + 0x3000));
    /* Any address of a superpage is for all of it. */
    map(&t, high, 1, DATA + 0x200000, RWX_AD);
    rv_tlb_flush_page(hart, high + 0x1ff000);
    expect_at(f, RV_LOAD, high + 0x3000, DATA + 0x203000);
}

static void translation_csrs_flush(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    struct tables t = tables_new(f, 3);
    uint64_t at = map(&t, VA, 0, DATA, RWX_AD | PBMT(1));
    poke(hart, 0x30a, RV_MENVCFG_PBMTE);
    set_privilege(hart, RV_S);
    expect_at(f, RV_LOAD, VA, DATA);
    poke(hart, 0x30a, 0); /* PBMTE makes the PTE malformed */
    expect(f, RV_LOAD, VA, page_fault[RV_LOAD]);
    ram_put(f, at, pte_of(DATA, V | X | A));
    poke(hart, RV_CSR_MSTATUS, RV_MSTATUS_MXR);
    expect_at(f, RV_LOAD, VA, DATA);
    poke(hart, RV_CSR_MSTATUS, 0);
    expect(f, RV_LOAD, VA, page_fault[RV_LOAD]);
    ram_put(f, at, pte_of(DATA, RWX_AD));
    expect_at(f, RV_LOAD, VA, DATA);
    poke(hart, RV_CSR_SATP, 0); /* Bare */
    expect(f, RV_LOAD, VA, access_fault[RV_LOAD]);
    expect_at(f, RV_LOAD, DATA, DATA);
    poke(hart, RV_CSR_PMPCFG0, 0);
    expect(f, RV_LOAD, DATA, access_fault[RV_LOAD]);
}

static void change_space(struct rv_hart *hart, uint64_t asid)
{
    poke(hart, RV_CSR_SATP, bits_set(hart->satp, RV_SATP_ASID_SHIFT, 16, asid));
}

/* A space that the hart comes back to is as it was, but for what was fenced meanwhile. */
static void spaces_are_kept(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    struct tables t = tables_new(f, 3);
    enum { PAGES = 6 };
    for (unsigned i = 0; i < PAGES; i++)
        map(&t, VA + i * 0x1000, 0, DATA + i * 0x1000, RWX_AD | U);
    set_privilege(hart, RV_U);
    change_space(hart, 1);
    for (unsigned i = 0; i < PAGES; i++)
        for (enum rv_access access = RV_LOAD; access < RV_ACCESS_KINDS; access++)
            expect_at(f, access, VA + i * 0x1000, DATA + i * 0x1000);
    change_space(hart, 2);
    assert_false(cached(hart->tlb_load, VA) || cached(hart->tlb_store, VA) ||
                 cached(hart->tlb_fetch, VA));
    rv_tlb_flush_page_of(hart, VA + 0x1000, 1);
    rv_tlb_flush_page_of(hart, VA + 0x2000, 2); /* not its space */
    rv_tlb_flush_asid(hart, 2);
    rv_tlb_flush_page(hart, VA + 0x3000);
    rv_tlb_drop_stores(hart, f->ram->host + (DATA + 0x4000 - RAM_BASE));
    change_space(hart, 1);
    for (unsigned i = 0; i < PAGES; i++) {
        bool kept = i != 1 && i != 3;
        assert_int_equal(cached(hart->tlb_load, VA + i * 0x1000), kept);
        assert_int_equal(cached(hart->tlb_fetch, VA + i * 0x1000), kept);
        assert_int_equal(cached(hart->tlb_store, VA + i * 0x1000), kept && i != 4);
    }
    assert_int_equal(hart->counts.spaces_kept, 1);
    change_space(hart, 2);
    rv_tlb_flush_asid(hart, 1);
    change_space(hart, 1);
    assert_false(cached(hart->tlb_load, VA));
}

/* Each way to lose all of a space. */
static void spaces_are_forgotten(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    struct tables t = tables_new(f, 3);
    map(&t, VA, 0, DATA, RWX_AD | U);
    set_privilege(hart, RV_U);
    enum { ALL, LOADS, MODE, TOO_MANY_FENCES, TOO_MANY_SPACES, WAYS };
    for (unsigned way = 0; way < WAYS; way++) {
        change_space(hart, 1);
        expect_at(f, RV_LOAD, VA, DATA);
        change_space(hart, 2);
        uint64_t satp = hart->satp;
        if (way == ALL)
            rv_tlb_flush_all(hart);
        if (way == LOADS)
            poke(hart, RV_CSR_MSTATUS, hart->mstatus ^ RV_MSTATUS_MXR);
        if (way == MODE) {
            poke(hart, RV_CSR_SATP, 0);
            poke(hart, RV_CSR_SATP, satp);
        }
        for (unsigned i = 0; way == TOO_MANY_FENCES && i <= RV_SPACE_FENCES; i++)
            rv_tlb_flush_page_of(hart, VA + 0x100000 + i * 0x1000, 1);
        for (unsigned i = 0; way == TOO_MANY_SPACES && i <= RV_SPACES; i++)
            change_space(hart, 10 + i);
        change_space(hart, 1);
        assert_false(cached(hart->tlb_load, VA));
    }
    /* More entries than are logged: those that are come back, the others are not there. */
    rv_tlb_flush_all(hart);
    for (uint64_t i = 0; i < 2 * RV_TLB_LOG; i++) {
        map(&t, VA + i * 0x1000, 0, DATA + i % 64 * 0x1000, RWX_AD | U);
        expect_at(f, RV_LOAD, VA + i * 0x1000, DATA + i % 64 * 0x1000);
    }
    change_space(hart, 2);
    for (uint64_t i = 0; i < RV_TLB_ENTRIES; i++)
        assert_int_equal(hart->tlb_load->entry[i].tag, rv_tlb_empty(i));
    change_space(hart, 1);
    unsigned back = 0;
    for (uint64_t i = 0; i < 2 * RV_TLB_LOG; i++)
        back += cached(hart->tlb_load, VA + i * 0x1000);
    assert_int_equal(back, RV_TLB_LOG);
}

/* A change of privilege, SUM or MPRV selects a bank and needs no flush. */
static void banks_do_not_leak(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    struct tables t = tables_new(f, 3);
    map(&t, VA, 0, DATA, RWX_AD | U);
    set_privilege(hart, RV_U);
    expect_at(f, RV_STORE, VA, DATA);
    expect_at(f, RV_FETCH, VA, DATA);
    set_privilege(hart, RV_S);
    expect(f, RV_STORE, VA, page_fault[RV_STORE]);
    expect(f, RV_FETCH, VA, page_fault[RV_FETCH]);
    poke(hart, RV_CSR_MSTATUS, RV_MSTATUS_SUM);
    expect_at(f, RV_STORE, VA, DATA);
    expect(f, RV_FETCH, VA, page_fault[RV_FETCH]);
    poke(hart, RV_CSR_MSTATUS, 0);
    expect(f, RV_STORE, VA, page_fault[RV_STORE]);
    set_privilege(hart, RV_M);
    expect(f, RV_STORE, VA, access_fault[RV_STORE]);
    poke(hart, RV_CSR_MSTATUS, RV_MSTATUS_MPRV); /* MPP = U */
    expect_at(f, RV_STORE, VA, DATA);
    expect(f, RV_FETCH, VA, access_fault[RV_FETCH]);
}

static void store_entries_need_a_noted_page_without_code(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    /* A clean page is noted once and then written without asking. */
    assert_int_equal(flags_of(f, DATA) & MEM_PAGE_DIRTY, 0);
    assert_true(rv_store64(hart, DATA, 1));
    assert_int_equal(flags_of(f, DATA) & MEM_PAGE_DIRTY, MEM_PAGE_DIRTY);
    assert_true(cached(hart->tlb_store, DATA));
    /* A load does not give the permission to store. */
    uint64_t value;
    assert_true(rv_load64(hart, DATA + 0x1000, &value));
    assert_false(cached(hart->tlb_store, DATA + 0x1000));
    assert_int_equal(flags_of(f, DATA + 0x1000) & MEM_PAGE_DIRTY, 0);
    /* Code: the write is noted, which takes the flag away; only then is it cached. */
    mem_note_code(f->mem, f->ram, DATA + 0x1000);
    assert_true(rv_store8(hart, DATA + 0x1000, 1));
    assert_int_equal(flags_of(f, DATA + 0x1000) & (MEM_PAGE_CODE | MEM_PAGE_DIRTY), MEM_PAGE_DIRTY);
    /* A page that crosses into the next notes both. */
    assert_true(rv_store64(hart, DATA + 0x2ffc, ~UINT64_C(0)));
    assert_int_equal(flags_of(f, DATA + 0x2000) & MEM_PAGE_DIRTY, MEM_PAGE_DIRTY);
    assert_int_equal(flags_of(f, DATA + 0x3000) & MEM_PAGE_DIRTY, MEM_PAGE_DIRTY);
}

/* The dirty log was read: who writes asks again, and nothing else is lost. */
static void permissions_to_write_are_dropped_alone(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    struct tables t = tables_new(f, 3);
    map(&t, VA, 0, DATA, RWX_AD | U);
    map(&t, VA + 0x1000, 0, DATA + 0x1000, RWX_AD | U);
    set_privilege(hart, RV_U);
    change_space(hart, 1);
    for (enum rv_access access = RV_LOAD; access < RV_ACCESS_KINDS; access++)
        expect_at(f, access, VA, DATA);
    change_space(hart, 2); /* the first space is kept in a list */
    for (enum rv_access access = RV_LOAD; access < RV_ACCESS_KINDS; access++)
        expect_at(f, access, VA + 0x1000, DATA + 0x1000);
    uint64_t generation = hart->tlb_generation;
    isa_riscv64.drop(&hart->vcpu, VCPU_ATTENTION_WRITES);
    assert_int_not_equal(hart->tlb_generation, generation);
    assert_true(cached(hart->tlb_load, VA + 0x1000) && cached(hart->tlb_fetch, VA + 0x1000));
    assert_false(cached(hart->tlb_store, VA + 0x1000));
    change_space(hart, 1);
    assert_true(cached(hart->tlb_load, VA) && cached(hart->tlb_fetch, VA));
    assert_false(cached(hart->tlb_store, VA));
    atomic_fetch_and(&f->ram->flags[(DATA - RAM_BASE) >> 12], (uint8_t)~MEM_PAGE_DIRTY);
    assert_true(rv_store8(hart, VA, 1));
    assert_int_equal(flags_of(f, DATA) & MEM_PAGE_DIRTY, MEM_PAGE_DIRTY);
}

/* A listener in whose call this hart obeys a flush (as vcpu_attention_sync() makes it do), and
 * in the middle of which something else has changed. */
struct meddler {
    struct mem_listener listener;
    struct fixture *f;
    unsigned calls;
    uint64_t pte_at, pte; /* written at the first call */
    bool code_again;
};

static void meddle(void *opaque, struct mem_ram *ram, uint64_t gpa)
{
    struct meddler *m = opaque;
    if (m->calls++ > 0)
        return;
    if (m->pte_at != 0)
        ram_put(m->f, m->pte_at, m->pte);
    if (m->code_again) { /* another vCPU decoded the page again */
        mem_note_code(m->f->mem, ram, gpa);
        return;
    }
    atomic_fetch_and(&ram->flags[(gpa - ram->gpa) >> 12], (uint8_t)~MEM_PAGE_DIRTY);
    isa_riscv64.drop(&m->f->hart->vcpu, VCPU_ATTENTION_TLB);
}

static void a_flush_in_the_middle_restarts(void **state)
{
    struct fixture *f = *state;
    struct meddler m = {.listener = {.code_written = meddle}, .f = f};
    m.listener.opaque = &m;
    mem_listen(f->mem, &m.listener);
    struct tables t = tables_new(f, 3);
    m.pte_at = map(&t, VA, 0, DATA, RWX_AD);
    m.pte = pte_of(DATA + 0x1000, RWX_AD);
    ram_put(f, DATA, 0x1111);
    set_privilege(f->hart, RV_S);
    mem_note_code(f->mem, f->ram, DATA);
    assert_true(rv_store64(f->hart, VA, 0x2222));
    assert_int_equal(m.calls, 1);
    assert_int_equal(ram_get(f, DATA), 0x1111); /* the old translation was not used */
    assert_int_equal(ram_get(f, DATA + 0x1000), 0x2222);

    /* The dirty flag was taken after the note: noted again before the write. */
    m = (struct meddler){.listener = m.listener, .f = f, .calls = 0};
    mem_note_code(f->mem, f->ram, DATA + 0x4ffc);
    map(&t, VA, 0, DATA + 0x4000, RWX_AD);
    map(&t, VA + 0x1000, 0, DATA + 0x5000, RWX_AD);
    rv_tlb_flush_all(f->hart);
    assert_true(rv_store64(f->hart, VA + 0xffc, ~UINT64_C(0)));
    assert_int_equal(m.calls, 1);
    assert_int_equal(flags_of(f, DATA + 0x4000) & MEM_PAGE_DIRTY, MEM_PAGE_DIRTY);
    assert_int_equal(flags_of(f, DATA + 0x5000) & MEM_PAGE_DIRTY, MEM_PAGE_DIRTY);

    /* So is a page table whose A bit is set. */
    m = (struct meddler){.listener = m.listener, .f = f};
    uint64_t at = map(&t, VA, 0, DATA, RWX_AD & ~A), value;
    poke(f->hart, 0x30a, RV_MENVCFG_ADUE);
    rv_tlb_flush_all(f->hart);
    mem_note_code(f->mem, f->ram, at);
    assert_true(rv_load64(f->hart, VA, &value));
    assert_int_equal(m.calls, 1);
    assert_int_equal(ram_get(f, at), pte_of(DATA, RWX_AD));
    assert_int_equal(flags_of(f, at) & MEM_PAGE_DIRTY, MEM_PAGE_DIRTY);

    /* A page that is code again by the time it is written is not cached. */
    m = (struct meddler){.listener = m.listener, .f = f, .code_again = true};
    mem_note_code(f->mem, f->ram, DATA);
    assert_true(rv_store64(f->hart, VA, 1));
    assert_int_equal(m.calls, 1);
    assert_false(cached(f->hart->tlb_store, VA));
    mem_unlisten(f->mem, &m.listener);
}

/* ---- misaligned ---- */

static void misaligned_accesses_work(void **state)
{
    struct fixture *f = *state;
    struct tables t = tables_new(f, 3);
    map(&t, VA, 0, DATA + 0x3000, RWX_AD); /* neighbours in VA, not in gpa */
    map(&t, VA + 0x1000, 0, DATA, RWX_AD);
    set_privilege(f->hart, RV_S);
    for (unsigned round = 0; round < 2; round++) {
        for (uint64_t va = VA + 0xff0; va < VA + 0x1010; va++) {
            uint64_t value = UINT64_C(0x8877665544332211) + va, got;
            uint32_t got32;
            uint16_t got16;
            assert_true(rv_store64(f->hart, va, value));
            assert_true(rv_load64(f->hart, va, &got));
            assert_int_equal(got, value);
            for (unsigned i = 0; i < 8; i++) {
                uint8_t byte;
                assert_true(rv_load8(f->hart, va + i, &byte));
                assert_int_equal(byte, value >> (8 * i) & 0xff);
            }
            assert_true(rv_store32(f->hart, va, 0xdeadbeef));
            assert_true(rv_load32(f->hart, va, &got32));
            assert_int_equal(got32, 0xdeadbeef);
            assert_true(rv_store16(f->hart, va, 0x1234));
            assert_true(rv_load16(f->hart, va, &got16));
            assert_int_equal(got16, 0x1234);
            assert_true(rv_load64(f->hart, va, &got));
            assert_int_equal(got, (value & ~UINT64_C(0xffffffff)) | 0xdead1234);
        }
        rv_tlb_flush_all(f->hart);
    }
}

static void a_crossing_store_that_faults_writes_nothing(void **state)
{
    struct fixture *f = *state;
    struct tables t = tables_new(f, 3);
    map(&t, VA, 0, DATA, RWX_AD);
    map(&t, VA + 0x1000, 0, DATA + 0x1000, V | R | A);
    set_privilege(f->hart, RV_S);
    ram_put(f, DATA + 0xff8, 0x5555);
    assert_false(rv_store64(f->hart, VA + 0xffb, ~UINT64_C(0)));
    assert_int_equal(f->hart->trap.cause, RV_CAUSE_STORE_PAGE);
    assert_int_equal(f->hart->trap.tval, VA + 0x1000);
    assert_int_equal(ram_get(f, DATA + 0xff8), 0x5555);
    map(&t, VA + 0x1000, 0, IO_BASE, RWX_AD);
    rv_tlb_flush_all(f->hart);
    uint64_t value;
    assert_false(rv_load64(f->hart, VA + 0xffb, &value));
    assert_int_equal(f->hart->trap.cause, RV_CAUSE_LOAD_ACCESS);
    assert_int_equal(f->hart->trap.tval, VA + 0x1000);
    /* A fault of the first part comes first. */
    map(&t, VA, 0, DATA, 0);
    rv_tlb_flush_all(f->hart);
    assert_false(rv_load64(f->hart, VA + 0xffb, &value));
    assert_int_equal(f->hart->trap.cause, RV_CAUSE_LOAD_PAGE);
    assert_int_equal(f->hart->trap.tval, VA + 0xffb);
    assert_int_equal(f->io_reads + f->io_writes, 0);
}

static void atomics_must_be_aligned(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    void *host;
    uint64_t gpa;
    for (unsigned size = 4; size <= 8; size += 4) {
        for (unsigned offset = 0; offset < 8; offset++) {
            bool aligned = offset % size == 0;
            for (unsigned store = 0; store < 2; store++) {
                assert_int_equal(rv_atomic_pointer(hart, DATA + offset, size, store, &host, &gpa),
                                 aligned);
                if (aligned)
                    continue;
                assert_int_equal(hart->trap.cause,
                                 store ? RV_CAUSE_STORE_MISALIGNED : RV_CAUSE_LOAD_MISALIGNED);
                assert_int_equal(hart->trap.tval, DATA + offset);
            }
        }
    }
    assert_false(rv_atomic_pointer(hart, IO_BASE, 4, true, &host, &gpa));
    assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_ACCESS);
    assert_false(rv_atomic_pointer(hart, IO_BASE, 4, false, &host, &gpa));
    assert_int_equal(hart->trap.cause, RV_CAUSE_LOAD_ACCESS);
}

/* ---- I/O, HTIF, cache blocks ---- */

static void io_is_exact(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    uint32_t u32;
    uint64_t u64;
    f->io_value = 0x99887766;
    for (unsigned times = 1; times <= 2; times++) { /* never cached */
        assert_true(rv_load32(hart, IO_BASE + 4, &u32));
        assert_int_equal(u32, 0x99887766);
        assert_int_equal(f->io_reads, times);
        assert_int_equal(f->io_offset, 4);
        assert_int_equal(f->io_size, 4);
    }
    assert_true(rv_store64(hart, IO_BASE + 8, 0x1122334455667788));
    assert_int_equal(f->io_writes, 1);
    assert_int_equal(f->io_value, 0x1122334455667788);
    /* Misaligned, of a size it does not take, or not there. */
    assert_false(rv_load32(hart, IO_BASE + 2, &u32));
    assert_int_equal(hart->trap.cause, RV_CAUSE_LOAD_ACCESS);
    assert_false(rv_load64(hart, IO_BASE + 4, &u64));
    assert_false(rv_store8(hart, IO_BASE, 1));
    assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_ACCESS);
    assert_int_equal(hart->trap.tval, IO_BASE);
    assert_false(rv_store32(hart, IO_BASE + 0x1000, 1));
    assert_false(rv_store64(hart, IO_BASE + 0xffc, 1));
    assert_int_equal(f->io_reads, 2);
    assert_int_equal(f->io_writes, 1);
}

static void io_counts_as_outside_of_the_guest(void **state)
{
    struct fixture *f = *state;
    struct vcpu *vcpu = &f->hart->vcpu;
    uint32_t value;
    assert_true(rv_store64(f->hart, DATA, 1));
    atomic_store(&vcpu->in_guest, true);
    f->io_in_guest = true;
    /* Requests that come during the callback: TLB is obeyed before the instruction ends,
     * what concerns the next block stays. */
    atomic_fetch_or(&vcpu->attention,
                    (uint32_t)(VCPU_ATTENTION_TLB | VCPU_ATTENTION_FENCE_I | VCPU_ATTENTION_IRQ));
    uint64_t epoch = f->hart->fence_i_epoch;
    assert_true(rv_load32(f->hart, IO_BASE, &value));
    assert_false(f->io_in_guest);
    assert_true(atomic_load(&vcpu->in_guest));
    assert_false(cached(f->hart->tlb_store, DATA));
    assert_int_equal(f->hart->fence_i_epoch, epoch);
    assert_int_equal(atomic_load(&vcpu->attention), VCPU_ATTENTION_FENCE_I | VCPU_ATTENTION_IRQ);
    atomic_store(&vcpu->in_guest, false);
}

static void tohost_leaves_the_guest(void **state)
{
    struct fixture *f = *state;
    struct vcpu *vcpu = &f->hart->vcpu;
    vcpu->htif_tohost = DATA + 0x40;
    assert_true(rv_store64(f->hart, DATA + 0x48, 1));
    assert_true(rv_store64(f->hart, DATA + 0x40, 0));
    assert_true(rv_store8(f->hart, DATA + 0x41, 1));
    assert_int_equal(atomic_load(&vcpu->attention), 0);
    assert_false(cached(f->hart->tlb_store, DATA));
    assert_true(rv_store32(f->hart, DATA + 0x40, 0x80000003));
    assert_int_equal(vcpu->htif_value, 0x80000003);
    assert_int_equal(atomic_load(&vcpu->attention), VCPU_ATTENTION_KICK);
    assert_true(rv_store64(f->hart, DATA + 0x40, UINT64_C(0x0101000000000041)));
    assert_int_equal(vcpu->htif_value, UINT64_C(0x0101000000000041));
    assert_int_equal(ram_get(f, DATA + 0x40), UINT64_C(0x0101000000000041));
}

static void cache_blocks(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    struct tables t = tables_new(f, 3);
    uint64_t at = map(&t, VA, 0, DATA, V | R | A);
    void *host;
    set_privilege(hart, RV_S);
    assert_true(rv_cbo_pointer(hart, VA + 0x7f, false, &host));
    assert_ptr_equal(host, f->ram->host + (DATA - RAM_BASE) + 0x40);
    assert_false(rv_cbo_pointer(hart, VA + 0x7f, true, &host));
    assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_PAGE);
    ram_put(f, at, pte_of(DATA, V | X | A)); /* neither load nor store: as a store */
    rv_tlb_flush_all(hart);
    assert_false(rv_cbo_pointer(hart, VA + 0x40, false, &host));
    assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_PAGE);
    assert_int_equal(hart->trap.tval, VA + 0x40);
    ram_put(f, at, pte_of(DATA, RWX_AD));
    assert_true(rv_cbo_pointer(hart, VA + 0x7f, true, &host));
    assert_ptr_equal(host, f->ram->host + (DATA - RAM_BASE) + 0x40);
    assert_int_equal(flags_of(f, DATA) & MEM_PAGE_DIRTY, MEM_PAGE_DIRTY);
    map(&t, VA, 0, IO_BASE, RWX_AD);
    rv_tlb_flush_all(hart);
    assert_true(rv_cbo_pointer(hart, VA, false, &host));
    assert_null(host);
    assert_false(rv_cbo_pointer(hart, VA, true, &host));
    assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_ACCESS);
    map(&t, VA, 0, IO_BASE + 0x1000, RWX_AD); /* where nothing is */
    rv_tlb_flush_all(hart);
    for (unsigned store = 0; store < 2; store++) {
        assert_false(rv_cbo_pointer(hart, VA + 0x7f, store, &host));
        assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_ACCESS);
        assert_int_equal(hart->trap.tval, VA + 0x7f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(an_empty_tlb_hits_nothing),
        FIXTURE_TEST(flushes_take_effect),
        FIXTURE_TEST(flushing_a_page_keeps_others),
        FIXTURE_TEST(translation_csrs_flush),
        FIXTURE_TEST(spaces_are_kept),
        FIXTURE_TEST(permissions_to_write_are_dropped_alone),
        FIXTURE_TEST(spaces_are_forgotten),
        FIXTURE_TEST(banks_do_not_leak),
        FIXTURE_TEST(store_entries_need_a_noted_page_without_code),
        FIXTURE_TEST(a_flush_in_the_middle_restarts),
        FIXTURE_TEST(misaligned_accesses_work),
        FIXTURE_TEST(a_crossing_store_that_faults_writes_nothing),
        FIXTURE_TEST(atomics_must_be_aligned),
        FIXTURE_TEST(io_is_exact),
        FIXTURE_TEST(io_counts_as_outside_of_the_guest),
        FIXTURE_TEST(tohost_leaves_the_guest),
        FIXTURE_TEST(cache_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
