/* SPDX-License-Identifier: MIT
 *
 * A hart's declared state: random states survive save, restore, save; hostile streams are
 * refused or leave a hart that CSR writes could have made.
 */
#include "rv_fixture.h"

/* What these show depends on what is selected. */
static bool is_window(unsigned csr)
{
    return csr == 0x151 || csr == 0x351;
}

static void randomise_files(struct rv_hart *hart, uint64_t *seed)
{
    for (unsigned select = 0x150; select <= 0x350; select += 0x200)
        for (unsigned number = 0x70; number < 0xd0; number += 2) {
            poke(hart, select, number);
            poke(hart, select + 1, random_next(seed) >> random_next(seed) % 64);
        }
}

/* Random values through the CSRs (so that WARL holds) and into the registers. */
static void randomise(struct rv_hart *hart, uint64_t *seed)
{
    static const uint8_t modes[] = {RV_U, RV_S, RV_M};
    isa_riscv64.vcpu_reset(&hart->vcpu);
    hart->vcpu.retired = random_next(seed);
    for (unsigned csr = 0; csr < RV_CSR_PMPADDR0 + 64; csr++)
        if (rv_csr_name(csr) && csr != RV_CSR_FFLAGS && csr != RV_CSR_FRM && csr != RV_CSR_FCSR &&
            !is_window(csr))
            poke(hart, csr, random_next(seed) >> random_next(seed) % 64);
    poke(hart, RV_CSR_SATP, (8 + random_next(seed) % 3) << 60 | random_next(seed) >> 4);
    poke(hart, 0xb00, random_next(seed));
    poke(hart, 0xb02, random_next(seed));
    for (unsigned i = 1; i < 33; i++)
        hart->x[i] = random_next(seed);
    for (unsigned i = 0; i < 32; i++)
        hart->f[i] = random_next(seed);
    hart->pc = random_next(seed) & ~UINT64_C(1);
    hart->fflags = random_next(seed) & 0x1f;
    hart->frm = random_next(seed) & 7;
    hart->reservation_size = (uint8_t[]){0, 4, 8}[random_next(seed) % 3];
    hart->reservation_gpa = random_next(seed);
    hart->reservation_value = random_next(seed);
    atomic_store(&hart->vcpu.interrupts, random_next(seed) & RV_MIP_ALL);
    randomise_files(hart, seed);
    set_privilege(hart, modes[random_next(seed) % 3]);
}

/* Every CSR reads the same, and what is derived agrees. */
static void assert_same(struct rv_hart *one, struct rv_hart *two)
{
    for (unsigned csr = 0; csr < 4096; csr++) {
        if (!rv_csr_name(csr) || (csr <= RV_CSR_FCSR && !(one->mstatus & RV_MSTATUS_FS)))
            continue;
        if (csr == 0xf14 || is_window(csr)) /* mhartid is the machine's to say */
            continue;
        uint64_t a = peek(one, csr), b = peek(two, csr);
        if (a != b)
            fail_msg("%s: %#llx became %#llx", rv_csr_name(csr), (unsigned long long)a,
                     (unsigned long long)b);
    }
    assert_int_equal(one->privilege, two->privilege);
    assert_int_equal(one->data_privilege, two->data_privilege);
    assert_int_equal(one->tlb_load - one->tlb[0], two->tlb_load - two->tlb[0]);
    assert_int_equal(one->tlb_store - one->tlb[0], two->tlb_store - two->tlb[0]);
    assert_int_equal(one->tlb_fetch - one->tlb[0], two->tlb_fetch - two->tlb[0]);
    assert_int_equal(one->pmp_count, two->pmp_count);
    assert_memory_equal(one->pmp, two->pmp, one->pmp_count * sizeof(one->pmp[0]));
    assert_int_equal(vtimer_deadline(one->stimer), vtimer_deadline(two->stimer));
    assert_memory_equal(one->x, two->x, 32 * sizeof(one->x[0]));
    assert_memory_equal(one->f, two->f, sizeof(one->f));
}

static void random_states_survive(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = 11;
    struct rv_hart *blank = fixture_hart_with(f, 4, true);
    for (unsigned long i = 0; i < tier_count(100, 5000); i++) {
        randomise(f->hart, &seed);
        struct state_buffer first = {0}, second = {0};
        struct error *err = NULL;
        size_t at = 0;
        state_save(&rv_hart_state, f->hart, &first);
        assert_true(state_restore(&rv_hart_state, blank, first.data, first.size, &at, &err));
        assert_int_equal(at, first.size);
        state_save(&rv_hart_state, blank, &second);
        assert_int_equal(second.size, first.size);
        assert_memory_equal(second.data, first.data, first.size);
        assert_same(f->hart, blank);
        state_buffer_free(&first);
        state_buffer_free(&second);
    }
    randomise(f->hart, &seed);
    assert_state_round_trip(&rv_hart_state, f->hart, blank);
    isa_riscv64.vcpu_free(&blank->vcpu);
}

/* Restoring drops translations of the state before. */
static void restoring_flushes(void **state)
{
    struct fixture *f = *state;
    struct state_buffer saved = {0};
    size_t at = 0;
    uint64_t value;
    state_save(&rv_hart_state, f->hart, &saved);
    assert_true(rv_load64(f->hart, RAM_BASE, &value));
    uint64_t epoch = f->hart->fence_i_epoch;
    assert_true(state_restore(&rv_hart_state, f->hart, saved.data, saved.size, &at, NULL));
    assert_int_equal(rv_tlb_slot(f->hart->tlb_load, RAM_BASE)->tag & 1, 1);
    assert_int_not_equal(f->hart->fence_i_epoch, epoch);
    state_buffer_free(&saved);
}

/* ---- hostile streams ---- */

static size_t payload_of(const struct state_buffer *saved, const char *field)
{
    size_t length = strlen(field);
    for (size_t at = 0; at + length + 6 < saved->size; at++)
        if (saved->data[at] == length && memcmp(saved->data + at + 1, field, length) == 0)
            return at + 1 + length + 5;
    fail_msg("no field %s", field);
    return 0;
}

static const struct {
    const char *field;
    uint64_t value;
    unsigned size, index;
} impossible[] = {
    {"pc", 1, 8, 0},
    {"x", 1, 8, 0},
    {"fflags", 0x20, 1, 0},
    {"frm", 8, 1, 0},
    {"privilege", 2, 1, 0},
    {"privilege", 4, 1, 0},
    {"privilege", 255, 1, 0},
    {"reservation_size", 1, 1, 0},
    {"interrupts", 1, 8, 0},
    {"mstatus", 0, 8, 0},
    {"mstatus", RV_MSTATUS_FIXED | UINT64_C(1) << 32, 8, 0},
    {"mstatus", RV_MSTATUS_FIXED | UINT64_C(2) << 11, 8, 0},
    {"mstatus", RV_MSTATUS_FIXED | RV_MSTATUS_SD, 8, 0},
    {"medeleg", 1 << 11, 8, 0},
    {"mideleg", RV_MIP_MTIP, 8, 0},
    {"mie", 1, 8, 0},
    {"mip_software", RV_MIP_MTIP, 8, 0},
    {"mtvec", 2, 8, 0},
    {"stvec", 2, 8, 0},
    {"mepc", 1, 8, 0},
    {"sepc", 1, 8, 0},
    {"satp", UINT64_C(1) << 60, 8, 0},
    {"satp", UINT64_C(11) << 60, 8, 0},
    {"mcounteren", UINT64_C(1) << 32, 8, 0},
    {"scounteren", UINT64_C(1) << 32, 8, 0},
    {"mcountinhibit", 2, 8, 0},
    {"menvcfg", 2, 8, 0},
    {"menvcfg", 0x20, 8, 0},
    {"senvcfg", 0x20, 8, 0},
    {"senvcfg", UINT64_C(1) << 63, 8, 0},
    {"pmpcfg", 0x20, 1, 5},
    {"pmpcfg", 0x02, 1, 15},
    {"pmpaddr", UINT64_C(1) << 54, 8, 15},
    {"miselect", 0x1000, 8, 0},
    {"siselect", 0x1000, 8, 0},
};

static void impossible_values_are_refused(void **state)
{
    struct fixture *f = *state;
    struct state_buffer saved = {0};
    state_save(&rv_hart_state, f->hart, &saved);
    for (size_t i = 0; i < ARRAY_SIZE(impossible); i++) {
        struct error *err = NULL;
        size_t at = 0;
        size_t where =
            payload_of(&saved, impossible[i].field) + impossible[i].index * impossible[i].size;
        uint8_t before[8];
        memcpy(before, saved.data + where, sizeof(before));
        memcpy(saved.data + where, &impossible[i].value, impossible[i].size);
        if (state_restore(&rv_hart_state, f->hart, saved.data, saved.size, &at, &err))
            fail_msg("'%s' = %#llx was accepted", impossible[i].field,
                     (unsigned long long)impossible[i].value);
        assert_error(&err, ERROR_HOST, impossible[i].field);
        memcpy(saved.data + where, before, sizeof(before));
        assert_true(state_restore(&rv_hart_state, f->hart, saved.data, saved.size, &at, &err));
    }
    state_buffer_free(&saved);
}

/* Whatever is accepted can be used: accesses, traps and interrupts do not trip over it. */
static void use(struct rv_hart *hart)
{
    const uint8_t *host;
    unsigned in_page;
    uint64_t gpa, value;
    for (uint64_t va = 0; va < 4; va++) {
        (void)rv_load64(hart, RAM_BASE + va * 0x1ffe, &value);
        (void)rv_store64(hart, hart->x[va] + va, 0);
        (void)rv_fetch_pointer(hart, RAM_BASE + va * 2, &host, &in_page, &gpa);
    }
    hart->trap = (struct rv_trap){RV_CAUSE_ILLEGAL, 0};
    rv_take_trap(hart, hart->pc);
    rv_obey_attention(hart);
    (void)rv_take_interrupt(hart);
    for (unsigned csr = 0; csr < 4096; csr++)
        (void)rv_csr_read(hart, NULL, csr, false, &value);
}

static void damaged_streams(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = 99;
    unsigned long accepted = 0, refused = 0;
    for (unsigned long i = 0; i < tier_count(3000, 100000); i++) {
        struct state_buffer saved = {0};
        randomise(f->hart, &seed);
        f->hart->sbi_calls = random_next(&seed) % 2;
        state_save(&rv_hart_state, f->hart, &saved);
        for (uint64_t hits = random_next(&seed) % 4; hits < 4; hits++)
            saved.data[random_next(&seed) % saved.size] ^= (uint8_t)(1u << random_next(&seed) % 8);
        size_t size = random_next(&seed) % 8 ? saved.size : random_next(&seed) % saved.size;
        struct error *err = NULL;
        size_t at = 0;
        if (state_restore(&rv_hart_state, f->hart, saved.data, size, &at, &err)) {
            accepted++;
            use(f->hart);
        } else {
            refused++;
            assert_non_null(err);
            error_free(err);
        }
        state_buffer_free(&saved);
    }
    assert_true(accepted > 0 && refused > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_AIA(random_states_survive),
        FIXTURE_TEST_AIA(restoring_flushes),
        FIXTURE_TEST_AIA(impossible_values_are_refused),
        FIXTURE_TEST_AIA(damaged_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
