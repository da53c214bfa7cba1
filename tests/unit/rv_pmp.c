/* SPDX-License-Identifier: MIT
 *
 * PMP (P §3.7) against a model that decides byte by byte, as the manual's text does; through
 * everything that accesses memory, with and without the TLB having been filled.
 */
#include "rv_fixture.h"

#define AREA (RAM_BASE + 0x10000) /* addresses and entries are drawn from three pages here */

/* The lowest entry that matches this byte, or -1. */
static int model_match(const struct rv_hart *hart, uint64_t byte)
{
    uint64_t word = byte >> 2;
    for (int i = 0; i < RV_PMP_COUNT; i++) {
        uint64_t address = hart->pmpaddr[i], below = i > 0 ? hart->pmpaddr[i - 1] : 0;
        uint64_t ignored;
        switch (hart->pmpcfg[i] >> 3 & 3) {
        case 1:
            if (below <= word && word < address)
                return i;
            break;
        case 2:
            if (word == address)
                return i;
            break;
        case 3:
            ignored = address ^ (address + 1); /* the trailing ones and the zero above them */
            if (((word ^ address) & ~ignored) == 0)
                return i;
            break;
        }
    }
    return -1;
}

static bool model_allows(const struct rv_hart *hart, uint64_t gpa, unsigned size,
                         enum rv_access access, unsigned privilege)
{
    int entry = model_match(hart, gpa);
    for (unsigned i = 1; i < size; i++)
        if (model_match(hart, gpa + i) != entry)
            return false;
    if (entry < 0)
        return privilege == RV_M;
    uint8_t config = hart->pmpcfg[entry];
    if (privilege == RV_M && !(config & 0x80))
        return true;
    return config >> (access == RV_LOAD ? 0 : access == RV_STORE ? 1 : 2) & 1;
}

static void random_entries(struct rv_hart *hart, uint64_t *seed)
{
    isa_riscv64.vcpu_reset(&hart->vcpu);
    unsigned count = (unsigned)(random_next(seed) % (RV_PMP_COUNT + 1));
    for (unsigned i = 0; i < count; i++) {
        uint64_t offset = random_next(seed) % 0x3000;
        uint64_t address = (AREA + offset) >> 2;
        if (random_next(seed) % 2) /* NAPOT of 8 bytes ... 16 KiB */
            address |= (UINT64_C(1) << random_next(seed) % 12) - 1;
        if (random_next(seed) % 8 == 0)
            address = random_next(seed) % 2 ? ~UINT64_C(0) : 0;
        poke(hart, RV_CSR_PMPADDR0 + i, address);
    }
    uint64_t config[2] = {0};
    for (unsigned i = 0; i < count; i++) {
        uint64_t byte = random_next(seed) & 0x9f;
        config[i / 8] |= byte << (i % 8 * 8);
    }
    poke(hart, RV_CSR_PMPCFG0, config[0]);
    poke(hart, RV_CSR_PMPCFG0 + 2, config[1]);
}

static void check_access(struct rv_hart *hart, uint64_t gpa, unsigned size, bool slow)
{
    uint64_t value;
    uint8_t byte;
    uint32_t word;
    bool expected = model_allows(hart, gpa, size, RV_LOAD, hart->data_privilege);
    bool ok = slow        ? rv_load_slow(hart, gpa, size, &value)
              : size == 1 ? rv_load8(hart, gpa, &byte)
              : size == 4 ? rv_load32(hart, gpa, &word)
                          : rv_load64(hart, gpa, &value);
    assert_int_equal(ok, expected);
    if (!ok) {
        assert_int_equal(hart->trap.cause, RV_CAUSE_LOAD_ACCESS);
        assert_int_equal(hart->trap.tval, gpa);
    }
    expected = model_allows(hart, gpa, size, RV_STORE, hart->data_privilege);
    ok = slow        ? rv_store_slow(hart, gpa, size, 0)
         : size == 1 ? rv_store8(hart, gpa, 0)
         : size == 4 ? rv_store32(hart, gpa, 0)
                     : rv_store64(hart, gpa, 0);
    assert_int_equal(ok, expected);
    if (!ok)
        assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_ACCESS);
}

static void check_fetch(struct rv_hart *hart, uint64_t gpa)
{
    const uint8_t *host;
    unsigned in_page;
    uint64_t found;
    bool expected = model_allows(hart, gpa, 2, RV_FETCH, hart->privilege);
    assert_int_equal(rv_fetch_pointer(hart, gpa, &host, &in_page, &found), expected);
    if (!expected) {
        assert_int_equal(hart->trap.cause, RV_CAUSE_FETCH_ACCESS);
        return;
    }
    assert_int_equal(found, gpa);
    assert_in_range(in_page, 2, 4096 - (gpa & 0xfff));
    /* All that is offered may be executed, and what the TLB took may be so as a whole. */
    for (unsigned i = 0; i < in_page; i += 2)
        assert_true(model_allows(hart, gpa + i, 2, RV_FETCH, hart->privilege));
    if (rv_tlb_slot(hart->tlb_fetch, gpa)->tag == align_down(gpa, 0x1000))
        assert_int_equal(in_page, 4096 - (gpa & 0xfff));
}

static void random_entries_match_the_model(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    uint64_t seed = 1;
    unsigned long sets = tier_count(400, 20000);
    for (unsigned long set = 0; set < sets; set++) {
        random_entries(hart, &seed);
        static const uint8_t privileges[] = {RV_U, RV_S, RV_M, RV_M};
        unsigned which = (unsigned)(random_next(&seed) % 4);
        set_privilege(hart, privileges[which]);
        if (which == 3) /* M that loads and stores as U */
            poke(hart, RV_CSR_MSTATUS, RV_MSTATUS_MPRV);
        for (unsigned i = 0; i < 100; i++) {
            uint64_t gpa = AREA + random_next(&seed) % 0x2ff0;
            unsigned size = (unsigned[]){1, 4, 8}[random_next(&seed) % 3];
            gpa = align_down(gpa, size);
            check_access(hart, gpa, size, random_next(&seed) % 2);
            check_fetch(hart, align_down(gpa, 2));
        }
    }
}

/* The parts of a page-crossing access are checked one by one. */
static void crossing_faults_at_its_part(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    poke(hart, RV_CSR_PMPADDR0, (AREA + 0x1000) >> 2);
    poke(hart, RV_CSR_PMPCFG0, RV_PMP_TOR | RV_PMP_R | RV_PMP_W);
    set_privilege(hart, RV_S);
    ram_put(f, AREA + 0xff8, 0x1111111111111111);
    assert_false(rv_store64(hart, AREA + 0xffd, 0x2222222222222222));
    assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_ACCESS);
    assert_int_equal(hart->trap.tval, AREA + 0x1000);
    assert_int_equal(ram_get(f, AREA + 0xff8), 0x1111111111111111);
    uint32_t value;
    assert_false(rv_load32(hart, AREA + 0xffe, &value));
    assert_int_equal(hart->trap.cause, RV_CAUSE_LOAD_ACCESS);
    assert_int_equal(hart->trap.tval, AREA + 0x1000);
    /* Within the page a partial match fails the access as a whole. */
    poke(hart, RV_CSR_PMPADDR0, (AREA + 0x800) >> 2);
    assert_false(rv_load32(hart, AREA + 0x7fe, &value));
    assert_int_equal(hart->trap.tval, AREA + 0x7fe);
    assert_true(rv_load32(hart, AREA + 0x7fc, &value));
}

static void locked_entries_do_not_change(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    poke(hart, RV_CSR_PMPADDR0 + 0, 0x100);
    poke(hart, RV_CSR_PMPADDR0 + 1, 0x200);
    poke(hart, RV_CSR_PMPADDR0 + 2, 0x300);
    /* 1 is a locked TOR: it locks the addresses 0 and 1 and its own configuration. */
    poke(hart, RV_CSR_PMPCFG0, (RV_PMP_L | RV_PMP_TOR) << 8);
    for (unsigned i = 0; i < 3; i++)
        poke(hart, RV_CSR_PMPADDR0 + i, 0x999);
    poke(hart, RV_CSR_PMPCFG0, 0x0f0f0f);
    assert_int_equal(peek(hart, RV_CSR_PMPADDR0 + 0), 0x100);
    assert_int_equal(peek(hart, RV_CSR_PMPADDR0 + 1), 0x200);
    assert_int_equal(peek(hart, RV_CSR_PMPADDR0 + 2), 0x999);
    assert_int_equal(peek(hart, RV_CSR_PMPCFG0), 0x0f880f);
    /* A locked NAPOT entry locks its own address only. */
    poke(hart, RV_CSR_PMPCFG0, (uint64_t)(RV_PMP_L | RV_PMP_NAPOT) << 40);
    poke(hart, RV_CSR_PMPADDR0 + 4, 0x444);
    poke(hart, RV_CSR_PMPADDR0 + 5, 0x555);
    assert_int_equal(peek(hart, RV_CSR_PMPADDR0 + 4), 0x444);
    assert_int_equal(peek(hart, RV_CSR_PMPADDR0 + 5), 0);
    isa_riscv64.vcpu_reset(&hart->vcpu);
    assert_int_equal(peek(hart, RV_CSR_PMPCFG0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(random_entries_match_the_model),
        FIXTURE_TEST(crossing_faults_at_its_part),
        FIXTURE_TEST(locked_entries_do_not_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
