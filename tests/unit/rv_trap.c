/* SPDX-License-Identifier: MIT
 *
 * Traps and interrupts (P §3.1.6 to §3.1.9): where they go, what is stacked, which one first.
 */
#include "rv_fixture.h"

#define MTVEC UINT64_C(0x80001000)
#define STVEC UINT64_C(0x80002000)
#define EPC   UINT64_C(0x80004242)

static const unsigned privileges[] = {RV_U, RV_S, RV_M};

static void prepare(struct rv_hart *hart, unsigned privilege, uint64_t status, bool vectored)
{
    isa_riscv64.vcpu_reset(&hart->vcpu);
    poke(hart, 0x305, MTVEC | vectored);
    poke(hart, 0x105, STVEC | vectored);
    poke(hart, RV_CSR_MSTATUS, status);
    set_privilege(hart, privilege);
    hart->pc = EPC;
}

/* What a trap to `to` leaves behind. */
static void check_entry(struct rv_hart *hart, unsigned from, unsigned to, uint64_t status,
                        uint64_t cause, uint64_t tval, uint64_t pc)
{
    uint64_t now = peek(hart, RV_CSR_MSTATUS), expected;
    assert_int_equal(hart->privilege, to);
    assert_int_equal(hart->pc, pc);
    if (to == RV_M) {
        expected = status & ~(RV_MSTATUS_MIE | RV_MSTATUS_MPIE | RV_MSTATUS_MPP);
        expected |= (status & RV_MSTATUS_MIE ? RV_MSTATUS_MPIE : 0) | (uint64_t)from << 11;
        assert_int_equal(peek(hart, 0x341), EPC);
        assert_int_equal(peek(hart, 0x342), cause);
        assert_int_equal(peek(hart, 0x343), tval);
        assert_int_equal(peek(hart, 0x141) | peek(hart, 0x142) | peek(hart, 0x143), 0);
    } else {
        expected = status & ~(RV_MSTATUS_SIE | RV_MSTATUS_SPIE | RV_MSTATUS_SPP);
        expected |= (status & RV_MSTATUS_SIE ? RV_MSTATUS_SPIE : 0) | (uint64_t)(from & 1) << 8;
        assert_int_equal(peek(hart, 0x141), EPC);
        assert_int_equal(peek(hart, 0x142), cause);
        assert_int_equal(peek(hart, 0x143), tval);
        assert_int_equal(peek(hart, 0x341) | peek(hart, 0x342) | peek(hart, 0x343), 0);
    }
    assert_int_equal(now & RV_MSTATUS_WRITABLE, expected);
}

static void delegation_table(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    static const uint8_t causes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15};
    static const uint64_t statuses[] = {
        0,
        RV_MSTATUS_SIE | RV_MSTATUS_MIE,
        RV_MSTATUS_SPIE | RV_MSTATUS_MPIE | RV_MSTATUS_SPP | RV_MSTATUS_MPP,
        RV_MSTATUS_WRITABLE & ~(RV_MSTATUS_MPRV | RV_MSTATUS_SD),
    };
    for (size_t c = 0; c < ARRAY_SIZE(causes); c++) {
        for (size_t p = 0; p < ARRAY_SIZE(privileges); p++) {
            for (unsigned how = 0; how < 16; how++) {
                unsigned cause = causes[c], from = privileges[p];
                bool vectored = how & 1, delegated = how & 2;
                uint64_t status = statuses[how >> 2];
                prepare(hart, from, status, vectored);
                uint64_t bit = UINT64_C(1) << cause;
                poke(hart, 0x302, delegated ? bit : ~bit);
                bool to_s = delegated && from != RV_M && cause != RV_CAUSE_ECALL_M;
                hart->trap = (struct rv_trap){cause, 0x1234567890 + cause};
                rv_take_trap(hart, EPC);
                /* Exceptions go to the base also in vectored mode. */
                check_entry(hart, from, to_s ? RV_S : RV_M, status, cause, 0x1234567890 + cause,
                            to_s ? STVEC : MTVEC);
            }
        }
    }
}

/* The manual's rules, read once more: which interrupt is taken, and into which mode. */
static bool model_interrupt(uint64_t mip, uint64_t mie, uint64_t mideleg, unsigned privilege,
                            uint64_t status, unsigned *number, unsigned *to)
{
    static const unsigned order[] = {11, 3, 7, 9, 1, 5};
    for (*to = RV_M;; *to = RV_S) {
        bool enabled =
            privilege < *to ||
            (privilege == *to && (status & (*to == RV_M ? RV_MSTATUS_MIE : RV_MSTATUS_SIE)));
        for (size_t i = 0; enabled && i < ARRAY_SIZE(order); i++) {
            *number = order[i];
            bool for_s = mideleg >> *number & 1;
            if ((mip & mie) >> *number & 1 && for_s == (*to == RV_S))
                return true;
        }
        if (*to == RV_S)
            return false;
    }
}

static uint64_t spread(unsigned six)
{
    uint64_t bits = 0;
    for (unsigned i = 0; i < 6; i++)
        bits |= (uint64_t)(six >> i & 1) << (2 * i + 1);
    return bits;
}

static void interrupt_case(struct rv_hart *hart, uint64_t mip, uint64_t mie, uint64_t mideleg,
                           unsigned from, uint64_t status, bool vectored)
{
    prepare(hart, from, status, vectored);
    poke(hart, 0x303, mideleg);
    poke(hart, 0x304, mie);
    atomic_store(&hart->vcpu.attention, 0);
    atomic_store(&hart->vcpu.interrupts, 0);
    for (unsigned line = 0; line < 12; line++)
        if (mip >> line & 1)
            vcpu_set_interrupt(&hart->vcpu, line, true);
    assert_int_equal(atomic_load(&hart->vcpu.attention), mip ? VCPU_ATTENTION_IRQ : 0);
    assert_int_equal(isa_riscv64.wait_is_over(&hart->vcpu), (mip & mie) != 0);

    unsigned number, to;
    bool expected = model_interrupt(mip, mie, mideleg, from, status, &number, &to);
    assert_int_equal(rv_take_interrupt(hart), expected);
    if (!expected) {
        assert_int_equal(hart->pc, EPC);
        assert_int_equal(hart->privilege, from);
        return;
    }
    check_entry(hart, from, to, status, UINT64_C(1) << 63 | number, 0,
                (to == RV_M ? MTVEC : STVEC) + (vectored ? 4 * number : 0));
}

static void every_interrupt_combination(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = 7;
    bool full = tier_count(0, 1);
    for (unsigned mip = 0; mip < 64; mip++) {
        for (unsigned how = 0; how < 8 * 3 * 4; how++) {
            unsigned deleg = how % 8, from = privileges[how / 8 % 3], enables = how / 24;
            uint64_t mideleg = (deleg & 1 ? 2 : 0) | (deleg & 2 ? 32 : 0) | (deleg & 4 ? 512 : 0);
            uint64_t status =
                (enables & 1 ? RV_MSTATUS_SIE : 0) | (enables & 2 ? RV_MSTATUS_MIE : 0);
            for (unsigned tries = 0; tries < (full ? 64u : 3u); tries++) {
                unsigned mie = full ? tries : tries == 0 ? 63 : (unsigned)random_next(&seed) % 64;
                interrupt_case(f->hart, spread(mip), spread(mie), mideleg, from, status,
                               (how ^ tries) & 1);
            }
        }
    }
    vcpu_set_interrupt(&f->hart->vcpu, RV_IRQ_MTI, false);
}

/* Interrupts are looked at only on demand: everything that may make one takeable demands. */
static void what_may_enable_an_interrupt_asks_to_look(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    _Atomic uint32_t *attention = &hart->vcpu.attention;
    poke(hart, 0x303, RV_MIP_S);
    vcpu_set_interrupt(&hart->vcpu, RV_IRQ_SEI, true);
    static const struct {
        unsigned csr;
        uint64_t off, on;
    } writes[] = {
        {0x304, 0, RV_MIP_SEIP},    {0x104, 0, RV_MIP_SEIP}, {0x300, 0, RV_MSTATUS_SIE},
        {0x100, 0, RV_MSTATUS_SIE}, {0x303, 0, RV_MIP_S},
    };
    for (size_t i = 0; i < ARRAY_SIZE(writes); i++) {
        poke(hart, writes[i].csr, writes[i].off);
        atomic_store(attention, 0);
        assert_true(rv_csr_write(hart, NULL, writes[i].csr, writes[i].on));
        assert_int_equal(atomic_load(attention), VCPU_ATTENTION_IRQ);
    }
    atomic_store(attention, 0);
    set_privilege(hart, RV_S);
    assert_int_equal(atomic_load(attention), VCPU_ATTENTION_IRQ);
    rv_obey_attention(hart);
    assert_int_equal(atomic_load(attention), 0);
    assert_true(rv_take_interrupt(hart));
    /* A line that falls asks nobody; KICK is not the hart's to obey. */
    atomic_store(attention, 0);
    vcpu_set_interrupt(&hart->vcpu, RV_IRQ_SEI, false);
    assert_int_equal(atomic_load(attention), 0);
    vcpu_kick(&hart->vcpu);
    rv_obey_attention(hart);
    assert_int_equal(atomic_load(attention), VCPU_ATTENTION_KICK);
}

static void a_handler_that_traps_into_itself_is_noticed(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    prepare(hart, RV_S, 0, false);
    poke(hart, 0x302, 1 << RV_CAUSE_FETCH_PAGE);
    hart->trap = (struct rv_trap){RV_CAUSE_FETCH_PAGE, STVEC};
    rv_take_trap(hart, EPC); /* into the handler: nothing wrong yet */
    assert_int_equal(hart->wedge_count, 0);
    for (unsigned i = 1; i <= RV_WEDGE_LIMIT; i++) {
        rv_take_trap(hart, STVEC);
        assert_int_equal(hart->wedge_count, i);
    }
    rv_take_trap(hart, EPC);
    assert_int_equal(hart->wedge_count, 0);
    /* From U to S at the same address is not the same handler. */
    set_privilege(hart, RV_U);
    rv_take_trap(hart, STVEC);
    assert_int_equal(hart->wedge_count, 0);
}

static void supervisor_start(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    uint64_t value;
    hart->sbi_calls = true;
    rv_enter_supervisor(hart, 0x80200000, 5, 0x87000000);
    assert_int_equal(hart->privilege, RV_S);
    assert_int_equal(hart->pc, 0x80200000);
    assert_int_equal(hart->x[10], 5);
    assert_int_equal(hart->x[11], 0x87000000);
    assert_int_equal(peek(hart, 0x302), 0xb3ff);
    assert_int_equal(peek(hart, 0x303), 0x222);
    assert_int_equal(peek(hart, 0x30a), UINT64_C(0xe0000000000000f0));
    assert_int_equal(peek(hart, RV_CSR_MSTATUS) & RV_MSTATUS_WRITABLE, 0);
    assert_int_equal(peek(hart, RV_CSR_SATP), 0);
    for (unsigned csr = 0xc00; csr <= 0xc02; csr++)
        assert_true(rv_csr_read(hart, NULL, csr, false, &value));
    assert_true(rv_csr_write(hart, NULL, RV_CSR_STIMECMP, 1000));
    assert_true(rv_store64(hart, RAM_BASE, 1) && rv_load64(hart, RAM_BASE, &value));
    /* All that S and U can raise is the supervisor's. */
    for (unsigned cause = 0; cause < 16; cause++) {
        if (!(0xb3ff >> cause & 1))
            continue;
        hart->trap = (struct rv_trap){cause, 0};
        rv_take_trap(hart, EPC);
        assert_int_equal(hart->privilege, RV_S);
    }
    /* A hart that was never started has nowhere to trap to. */
    isa_riscv64.vcpu_reset(&hart->vcpu);
    hart->trap = (struct rv_trap){RV_CAUSE_FETCH_ACCESS, 0};
    rv_take_trap(hart, 0);
    assert_int_equal(hart->wedge_count, RV_WEDGE_LIMIT);
}

static void isa_description(void **state)
{
    (void)state;
    char text[RV_ISA_STRING_MAX];
    rv_isa_string(false, text, sizeof(text));
    assert_string_equal(text, "rv64imafdc_zicbom_zicbop_zicboz_zicntr_zicond_zicsr_zifencei_"
                              "zihintpause_zihpm_zawrs_zba_zbb_zbs_sstc_svadu_svinval_svnapot_"
                              "svpbmt_svvptc");
    rv_isa_string(true, text, sizeof(text));
    assert_non_null(strstr(text, "_zbs_smaia_ssaia_sstc_"));
    assert_string_equal(rv_isa_extension(false, 0), "i");
    assert_null(rv_isa_extension(false, 25));
    assert_null(rv_isa_extension(true, 27));
}

static void dump_is_cut_not_overrun(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    char text[4096], small[100];
    hart->x[10] = 0xabcdef;
    isa_riscv64.dump(&hart->vcpu, text, sizeof(text));
    assert_non_null(strstr(text, "hart 3:"));
    assert_non_null(strstr(text, "a0 0000000000abcdef"));
    assert_non_null(strstr(text, "mstatus 0000000a00000000"));
    memset(small, 'x', sizeof(small));
    isa_riscv64.dump(&hart->vcpu, small, 50);
    assert_int_equal(strlen(small), 49);
    assert_memory_equal(small, text, 49);
    assert_int_equal(small[50], 'x');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(delegation_table),
        FIXTURE_TEST(every_interrupt_combination),
        FIXTURE_TEST(what_may_enable_an_interrupt_asks_to_look),
        FIXTURE_TEST(a_handler_that_traps_into_itself_is_noticed),
        FIXTURE_TEST(supervisor_start),
        FIXTURE_TEST(isa_description),
        FIXTURE_TEST(dump_is_cut_not_overrun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
