/* SPDX-License-Identifier: MIT
 *
 * CSRs: which exist for whom, what a write leaves of a value (WARL), and the side effects.
 */
#include "rv_fixture.h"

#define ONES (~UINT64_C(0))

enum { MENVCFG = 0x30a, SENVCFG = 0x10a, MCOUNTEREN = 0x306, SCOUNTEREN = 0x106 };

/* An instruction that accesses `csr`: funct3 1 csrrw, 2 csrrs, 3 csrrc (+4: immediate). */
static struct rv_insn csr_insn(unsigned csr, unsigned funct3, unsigned rs1)
{
    return (struct rv_insn){
        .raw = csr << 20 | rs1 << 15 | funct3 << 12 | 0x73, .rs1 = (uint8_t)rs1, .length = 4};
}

/* csrrs or csrrc as the instruction does it: read, combine, write. */
static void modify(struct rv_hart *hart, unsigned csr, bool set, uint64_t bits)
{
    uint64_t old;
    hart->x[7] = bits;
    struct rv_insn insn = csr_insn(csr, set ? 2 : 3, 7);
    assert_true(rv_csr_read(hart, &insn, csr, true, &old));
    assert_true(rv_csr_write(hart, &insn, csr, set ? old | bits : old & ~bits));
}

/* ---- which exist ---- */

static const struct range {
    uint16_t first, last;
    uint16_t step; /* 0: 1 */
} existing[] = {
    {0x001, 0x003, 0}, {0xc00, 0xc1f, 0},                    /* FP, counters */
    {0x100, 0x100, 0}, {0x104, 0x106, 0}, {0x10a, 0x10a, 0}, /* sstatus ... senvcfg */
    {0x140, 0x144, 0}, {0x14d, 0x14d, 0}, {0x180, 0x180, 0}, /* sscratch ... satp */
    {0x300, 0x306, 0}, {0x30a, 0x30a, 0}, {0x320, 0x320, 0}, /* mstatus ... mcountinhibit */
    {0x323, 0x33f, 0}, {0x340, 0x344, 0},                    /* mhpmevent, mscratch ... mip */
    {0x3a0, 0x3ae, 2}, {0x3b0, 0x3ef, 0},                    /* PMP */
    {0xb00, 0xb00, 0}, {0xb02, 0xb1f, 0}, {0xf11, 0xf15, 0}, /* mcycle ..., mvendorid ... */
};

/* Of harts with an IMSIC only: windows, stopei, stopi and their machine-level counterparts,
 * mvien, mvip. */
static const struct range of_aia[] = {
    {0x150, 0x151, 0}, {0x15c, 0x15c, 0}, {0xdb0, 0xdb0, 0}, {0x308, 0x309, 0},
    {0x350, 0x351, 0}, {0x35c, 0x35c, 0}, {0xfb0, 0xfb0, 0},
};

static bool is_in(const struct range *ranges, size_t count, unsigned csr)
{
    for (size_t i = 0; i < count; i++)
        if (csr >= ranges[i].first && csr <= ranges[i].last &&
            (csr - ranges[i].first) % (ranges[i].step ? ranges[i].step : 1) == 0)
            return true;
    return false;
}

static bool model_exists(const struct rv_hart *hart, unsigned csr)
{
    return is_in(existing, ARRAY_SIZE(existing), csr) ||
           (hart->imsic.present && is_in(of_aia, ARRAY_SIZE(of_aia), csr));
}

static void every_number_for_every_privilege(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    poke(hart, RV_CSR_MSTATUS, RV_MSTATUS_FS);
    poke(hart, MCOUNTEREN, ONES);
    poke(hart, SCOUNTEREN, ONES);
    poke(hart, MENVCFG, RV_MENVCFG_STCE);
    if (hart->imsic.present) {
        poke(hart, 0x150, 0x72);
        poke(hart, 0x350, 0x72);
    }
    static const unsigned privileges[] = {RV_U, RV_S, RV_M};
    for (unsigned csr = 0; csr < 4096; csr++) {
        assert_int_equal(rv_csr_name(csr) != NULL, is_in(existing, ARRAY_SIZE(existing), csr) ||
                                                       is_in(of_aia, ARRAY_SIZE(of_aia), csr));
        for (size_t i = 0; i < ARRAY_SIZE(privileges); i++) {
            unsigned least = csr >> 8 & 3;
            bool readable = model_exists(hart, csr) && privileges[i] >= least;
            bool writable = readable && csr >> 10 != 3;
            struct rv_insn insn = csr_insn(csr, 2, 0);
            uint64_t value = 0, again;
            set_privilege(hart, privileges[i]);
            hart->trap = (struct rv_trap){0};
            assert_int_equal(rv_csr_read(hart, &insn, csr, false, &value), readable);
            if (!readable) {
                assert_int_equal(hart->trap.cause, RV_CAUSE_ILLEGAL);
                assert_int_equal(hart->trap.tval, insn.raw);
            }
            assert_int_equal(rv_csr_read(hart, &insn, csr, true, &again), writable);
            hart->trap = (struct rv_trap){0};
            /* Writing back what was read changes nothing. */
            assert_int_equal(rv_csr_write(hart, NULL, csr, value), writable);
            if (!writable) {
                assert_int_equal(hart->trap.cause, RV_CAUSE_ILLEGAL);
            } else if (csr != 0xb00 && csr != 0xb02) {
                assert_true(rv_csr_read(hart, &insn, csr, false, &again));
                assert_int_equal(again, value);
            }
        }
    }
    assert_null(rv_csr_name(4096));
    assert_string_equal(rv_csr_name(0x300), "mstatus");
    assert_string_equal(rv_csr_name(0xc1f), "hpmcounter31");
    assert_string_equal(rv_csr_name(0x3ef), "pmpaddr63");
}

/* ---- WARL ---- */

static const struct warl {
    unsigned csr;
    uint64_t before, written, read;
} warls[] = {
    {0x301, 0, 0, UINT64_C(0x800000000014112d)}, /* misa: writes ignored */
    {0x301, 0, ONES, UINT64_C(0x800000000014112d)},
    {0x300, 0, ONES, UINT64_C(0x8000000a007e79aa)},
    {0x300, 0, 0, UINT64_C(0x0000000a00000000)},
    {0x300, 3 << 11, 2 << 11, UINT64_C(0x0000000a00001800)}, /* MPP = 2: kept */
    {0x300, 0, 2 << 11, UINT64_C(0x0000000a00000000)},
    {0x300, 0, 1 << 11, UINT64_C(0x0000000a00000800)},
    {0x300, 0, 1 << 13, UINT64_C(0x0000000a00002000)}, /* FS initial, clean: no SD */
    {0x300, 0, 2 << 13, UINT64_C(0x0000000a00004000)},
    {0x100, 0, ONES, UINT64_C(0x80000002000c6122)},
    {0x100, 0, 0, UINT64_C(0x0000000200000000)},
    {0x302, 0, ONES, 0xb3ff}, /* medeleg: not ecall from M, not reserved ones */
    {0x303, 0, ONES, 0x222},
    {0x304, 0, ONES, 0xaaa},
    {0x344, 0, ONES, 0x222}, /* mip: STCE is off */
    {0x305, 0, ONES, ~UINT64_C(2)},
    {0x305, 0, 0x80000002, 0x80000000},
    {0x305, 0, 0x80000001, 0x80000001},
    {0x105, 0, ONES, ~UINT64_C(2)},
    {0x341, 0, ONES, ~UINT64_C(1)},
    {0x141, 0, ONES, ~UINT64_C(1)},
    {0x340, 0, ONES, ONES},
    {0x140, 0, ONES, ONES},
    {0x342, 0, ONES, ONES},
    {0x142, 0, UINT64_C(0x8000000000000005), UINT64_C(0x8000000000000005)},
    {0x343, 0, ONES, ONES},
    {0x143, 0, ONES, ONES},
    {MCOUNTEREN, 0, ONES, 0xffffffff},
    {SCOUNTEREN, 0, ONES, 0xffffffff},
    {0x320, 0, ONES, 5},
    {0x323, 0, ONES, 0}, /* mhpmevent3, mhpmcounter3 */
    {0xb03, 0, ONES, 0},
    {MENVCFG, 0, ONES, UINT64_C(0xe0000000000000f1)},
    {MENVCFG, 0x10, 0x20, 0x10}, /* CBIE = 2: kept */
    {MENVCFG, 0x30, 0xe0, 0xf0},
    {MENVCFG, 0x30, 0x00, 0x00},
    {SENVCFG, 0, ONES, 0xf1},
    {SENVCFG, 0x30, 0x20, 0x30},
    {0x180, 0, ONES, 0},                                                /* mode 15 */
    {0x180, 0, UINT64_C(0x1000000000000001), 0},                        /* mode 1 */
    {0x180, UINT64_C(0x8000000000012345), UINT64_C(0xb000000000000001), /* mode 11 */
     UINT64_C(0x8000000000012345)},
    {0x180, 0, UINT64_C(0x8fffffffffffffff), UINT64_C(0x8fffffffffffffff)}, /* 16 ASID bits */
    {0x180, 0, UINT64_C(0x9000000000000001), UINT64_C(0x9000000000000001)},
    {0x180, 0, UINT64_C(0xa000000000000001), UINT64_C(0xa000000000000001)},
    {0x3a0, 0, 0x1f, 0x1f},
    {0x3a0, 0, 0x60, 0},    /* reserved bits */
    {0x3a0, 0, 0x1a, 0x18}, /* W without R */
    {0x3a0, 0, UINT64_C(0x1f00000000000000), UINT64_C(0x1f00000000000000)},
    {0x3a2, 0, 0x1b1918, 0x1b1918},
    {0x3a4, 0, ONES, 0},
    {0x3ae, 0, ONES, 0},
    {0x3b0, 0, ONES, (UINT64_C(1) << 54) - 1},
    {0x3bf, 0, ONES, (UINT64_C(1) << 54) - 1},
    {0x3c0, 0, ONES, 0},
    {0x3ef, 0, ONES, 0},
    {0x14d, 0, ONES, ONES},
    {0x001, 0, ONES, 0x1f},
    {0x002, 0, ONES, 7},
    {0x003, 0, ONES, 0xff},
    {0x003, 0, 0xa5, 0xa5},
};

static void warl(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    for (size_t i = 0; i < ARRAY_SIZE(warls); i++) {
        isa_riscv64.vcpu_reset(&hart->vcpu);
        poke(hart, MENVCFG, 0);
        if (warls[i].csr < 4)
            poke(hart, RV_CSR_MSTATUS, RV_MSTATUS_FS);
        poke(hart, warls[i].csr, warls[i].before);
        poke(hart, warls[i].csr, warls[i].written);
        uint64_t read = peek(hart, warls[i].csr);
        if (read != warls[i].read)
            fail_msg("%s: wrote %#llx, read %#llx, expected %#llx", rv_csr_name(warls[i].csr),
                     (unsigned long long)warls[i].written, (unsigned long long)read,
                     (unsigned long long)warls[i].read);
    }
    assert_int_equal(peek(hart, 0xf14), 3); /* mhartid */
    assert_int_equal(peek(hart, 0xf11), 0);
    assert_int_equal(peek(hart, 0xf12), 0);
    assert_int_not_equal(peek(hart, 0xf13), 0);
}

/* ---- who may access what depends on other CSRs ---- */

static bool may(struct rv_hart *hart, unsigned privilege, unsigned csr, bool write)
{
    uint64_t value;
    set_privilege(hart, privilege);
    bool ok = rv_csr_read(hart, NULL, csr, write, &value);
    set_privilege(hart, RV_M);
    return ok;
}

static void gates(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    poke(hart, RV_CSR_MSTATUS, RV_MSTATUS_TVM);
    assert_false(may(hart, RV_S, RV_CSR_SATP, false));
    assert_true(may(hart, RV_M, RV_CSR_SATP, true));
    poke(hart, RV_CSR_MSTATUS, 0);
    assert_true(may(hart, RV_S, RV_CSR_SATP, true));

    for (unsigned bit = 0; bit < 32; bit++) {
        for (unsigned enables = 0; enables < 4; enables++) {
            poke(hart, MCOUNTEREN, enables & 1 ? UINT64_C(1) << bit : ~(UINT64_C(1) << bit));
            poke(hart, SCOUNTEREN, enables & 2 ? UINT64_C(1) << bit : ~(UINT64_C(1) << bit));
            assert_true(may(hart, RV_M, 0xc00 + bit, false));
            assert_int_equal(may(hart, RV_S, 0xc00 + bit, false), enables & 1);
            assert_int_equal(may(hart, RV_U, 0xc00 + bit, false), enables == 3);
        }
    }
    for (unsigned enables = 0; enables < 4; enables++) {
        poke(hart, MCOUNTEREN, enables & 1 ? RV_COUNTER_TM : ~RV_COUNTER_TM);
        poke(hart, MENVCFG, enables & 2 ? RV_MENVCFG_STCE : 0);
        assert_int_equal(may(hart, RV_S, RV_CSR_STIMECMP, true), enables == 3);
        assert_true(may(hart, RV_M, RV_CSR_STIMECMP, true));
    }
    for (unsigned fs = 0; fs < 4; fs++) {
        poke(hart, RV_CSR_MSTATUS, (uint64_t)fs << 13);
        for (unsigned csr = 1; csr <= 3; csr++)
            assert_int_equal(may(hart, RV_M, csr, true), fs != 0);
    }
}

static void fp_writes_make_fs_dirty(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    for (unsigned csr = 1; csr <= 3; csr++) {
        poke(hart, RV_CSR_MSTATUS, 1 << 13);
        (void)peek(hart, csr);
        assert_int_equal(peek(hart, RV_CSR_MSTATUS) & RV_MSTATUS_FS, 1 << 13);
        poke(hart, csr, 0);
        assert_int_equal(peek(hart, RV_CSR_MSTATUS) & RV_MSTATUS_FS, RV_MSTATUS_FS);
        assert_int_equal(peek(hart, RV_CSR_MSTATUS) >> 63, 1);
    }
}

/* ---- interrupts pending and enabled ---- */

static void pending_bits_that_lines_drive(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    struct vcpu *vcpu = &hart->vcpu;
    /* SEIP: csrrs and csrrc act on the software bit, not on what the line shows. */
    vcpu_set_interrupt(vcpu, RV_IRQ_SEI, true);
    assert_int_equal(peek(hart, RV_CSR_MIP), RV_MIP_SEIP);
    modify(hart, RV_CSR_MIP, true, RV_MIP_SSIP);
    modify(hart, RV_CSR_MIP, false, RV_MIP_SEIP);
    assert_int_equal(peek(hart, RV_CSR_MIP), RV_MIP_SEIP | RV_MIP_SSIP);
    vcpu_set_interrupt(vcpu, RV_IRQ_SEI, false);
    assert_int_equal(peek(hart, RV_CSR_MIP), RV_MIP_SSIP);
    modify(hart, RV_CSR_MIP, true, RV_MIP_SEIP);
    assert_int_equal(peek(hart, RV_CSR_MIP), RV_MIP_SSIP | RV_MIP_SEIP);
    poke(hart, RV_CSR_MIP, 0);
    assert_int_equal(peek(hart, RV_CSR_MIP), 0);
    /* Lines that software cannot write. */
    vcpu_set_interrupt(vcpu, RV_IRQ_MTI, true);
    vcpu_set_interrupt(vcpu, RV_IRQ_MSI, true);
    vcpu_set_interrupt(vcpu, RV_IRQ_MEI, true);
    poke(hart, RV_CSR_MIP, 0);
    assert_int_equal(peek(hart, RV_CSR_MIP), RV_MIP_MTIP | RV_MIP_MSIP | RV_MIP_MEIP);
    assert_int_equal(peek(hart, RV_CSR_SIP), 0);
}

static void ssip_from_outside_is_cleared_by_software(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    poke(hart, 0x303, RV_MIP_SSIP | RV_MIP_SEIP);
    set_privilege(hart, RV_S);
    vcpu_set_interrupt(&hart->vcpu, RV_IRQ_SSI, true);
    assert_int_equal(peek(hart, RV_CSR_SIP), RV_MIP_SSIP);
    modify(hart, RV_CSR_SIP, false, RV_MIP_SEIP | RV_MIP_STIP); /* other bits: not touched */
    assert_int_equal(peek(hart, RV_CSR_SIP), RV_MIP_SSIP);
    modify(hart, RV_CSR_SIP, false, RV_MIP_SSIP);
    assert_int_equal(peek(hart, RV_CSR_SIP), 0);
    /* An IPI that comes between the read and the write of csrrc is not lost. */
    struct rv_insn insn = csr_insn(RV_CSR_SIP, 3, 7);
    uint64_t old;
    hart->x[7] = RV_MIP_SEIP;
    assert_true(rv_csr_read(hart, &insn, RV_CSR_SIP, true, &old));
    vcpu_set_interrupt(&hart->vcpu, RV_IRQ_SSI, true);
    assert_true(rv_csr_write(hart, &insn, RV_CSR_SIP, old & ~RV_MIP_SEIP));
    assert_int_equal(peek(hart, RV_CSR_SIP), RV_MIP_SSIP);
    /* The immediate forms. */
    insn = csr_insn(RV_CSR_SIP, 7, 2);
    assert_true(rv_csr_write(hart, &insn, RV_CSR_SIP, 0));
    assert_int_equal(peek(hart, RV_CSR_SIP), 0);
    insn = csr_insn(RV_CSR_SIP, 6, 2);
    assert_true(rv_csr_write(hart, &insn, RV_CSR_SIP, 2));
    assert_int_equal(peek(hart, RV_CSR_SIP), RV_MIP_SSIP);
    /* SEIP and STIP are not S-mode's to write. */
    assert_true(rv_csr_write(hart, NULL, RV_CSR_SIP, ONES));
    assert_int_equal(peek(hart, RV_CSR_MIP), RV_MIP_SSIP);
}

static void supervisor_views_follow_delegation(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    for (unsigned which = 0; which < 8; which++) {
        uint64_t delegated = (which & 1 ? RV_MIP_SSIP : 0) | (which & 2 ? RV_MIP_STIP : 0) |
                             (which & 4 ? RV_MIP_SEIP : 0);
        isa_riscv64.vcpu_reset(&hart->vcpu);
        poke(hart, 0x303, delegated);
        poke(hart, 0x304, RV_MIP_MTIP | RV_MIP_STIP);
        poke(hart, RV_CSR_MIP, RV_MIP_S);
        assert_int_equal(peek(hart, 0x104), RV_MIP_STIP & delegated);
        assert_int_equal(peek(hart, RV_CSR_SIP), delegated);
        poke(hart, 0x104, ONES);
        assert_int_equal(peek(hart, 0x304), RV_MIP_MTIP | RV_MIP_STIP | delegated);
        poke(hart, 0x104, 0);
        assert_int_equal(peek(hart, 0x304), (RV_MIP_MTIP | RV_MIP_STIP) & ~delegated);
        poke(hart, RV_CSR_SIP, 0);
        assert_int_equal(peek(hart, RV_CSR_MIP), RV_MIP_S & ~(delegated & RV_MIP_SSIP));
    }
}

/* ---- counters ---- */

static void counters_count_instructions(void **state)
{
    struct rv_hart *hart = ((struct fixture *)*state)->hart;
    struct rv_insn insn = csr_insn(0xb02, 1, 7);
    uint64_t value;
    hart->vcpu.retired = 100;
    insn.index = 7; /* the eighth of its block */
    for (unsigned csr = 0xb00; csr <= 0xb02; csr += 2) {
        assert_true(rv_csr_read(hart, &insn, csr, false, &value));
        assert_int_equal(value, 107);
        assert_true(rv_csr_read(hart, &insn, csr + 0x100, false, &value));
        assert_int_equal(value, 107);
        /* The next instruction reads what was written. */
        assert_true(rv_csr_write(hart, &insn, csr, 5000));
        insn.index = 8;
        assert_true(rv_csr_read(hart, &insn, csr, false, &value));
        assert_int_equal(value, 5000);
        insn.index = 10;
        assert_true(rv_csr_read(hart, &insn, csr, false, &value));
        assert_int_equal(value, 5002);
        insn.index = 7;
    }
    /* Inhibited counters stand still, can be written, and go on from there. */
    hart->vcpu.retired = 200;
    poke(hart, 0xb00, 1000);
    hart->vcpu.retired = 201;
    poke(hart, 0x320, RV_COUNTER_CY);
    hart->vcpu.retired = 300;
    assert_int_equal(peek(hart, 0xb00), 1001);
    assert_int_equal(peek(hart, 0xb02), 5192);
    poke(hart, 0xb00, 7);
    hart->vcpu.retired = 400;
    assert_int_equal(peek(hart, 0xb00), 7);
    poke(hart, 0x320, 0);
    hart->vcpu.retired = 401;
    assert_int_equal(peek(hart, 0xb00), 7);
    hart->vcpu.retired = 411;
    assert_int_equal(peek(hart, 0xb00), 17);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(every_number_for_every_privilege),
        FIXTURE_TEST_AIA(every_number_for_every_privilege),
        FIXTURE_TEST(warl),
        FIXTURE_TEST(gates),
        FIXTURE_TEST(fp_writes_make_fs_dirty),
        FIXTURE_TEST(pending_bits_that_lines_drive),
        FIXTURE_TEST(ssip_from_outside_is_cleared_by_software),
        FIXTURE_TEST(supervisor_views_follow_delegation),
        FIXTURE_TEST(counters_count_instructions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
