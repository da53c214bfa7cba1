/* SPDX-License-Identifier: MIT
 *
 * SYSTEM instructions and cache-block operations: who may execute them when, and what they
 * leave behind. One hart, instruction by instruction, without fetching.
 */
#include "support.h"

#include "hart.h"

#define RAM   UINT64_C(0x80000000)
#define PLACE (RAM + 0x1000)

enum { RD = 5, RS1 = 6 };

static int setup(void **state)
{
    static struct test_hart test;
    test_hart_init(&test, RAM, 64 * KIB);
    *state = &test;
    return 0;
}

static int teardown(void **state)
{
    test_hart_destroy(*state);
    return 0;
}

/* A fresh hart in this mode, all memory open to all modes. */
static struct rv_hart *enter_mode(struct test_hart *test, enum rv_privilege privilege)
{
    struct rv_hart *hart = test->hart;
    isa_riscv64.vcpu_reset(&hart->vcpu);
    rv_enter_supervisor(hart, RAM, 0, 0);
    hart->menvcfg = hart->senvcfg = 0;
    hart->privilege = (uint8_t)privilege;
    hart->mstatus |= RV_MSTATUS_FS;
    rv_mode_changed(hart);
    return hart;
}

/* ---- permission ---- */

#define U 1u
#define S 2u
#define M 4u

#define CBIE_FLUSH (UINT64_C(1) << RV_ENVCFG_CBIE_SHIFT)

static const struct {
    const char *name;
    uint32_t bits;
    uint64_t mstatus, menvcfg, senvcfg; /* these fields set, all others clear */
    unsigned allowed;                   /* modes in which it is not illegal */
} permissions[] = {
    {"mret", 0x30200073, 0, 0, 0, M},
    {"sret", 0x10200073, 0, 0, 0, S | M},
    {"sret TSR", 0x10200073, RV_MSTATUS_TSR, 0, 0, M},
    {"sret TW TVM", 0x10200073, RV_MSTATUS_TW | RV_MSTATUS_TVM, 0, 0, S | M},
    {"wfi", 0x10500073, 0, 0, 0, S | M},
    {"wfi TW", 0x10500073, RV_MSTATUS_TW, 0, 0, M},
    {"wfi TSR TVM", 0x10500073, RV_MSTATUS_TSR | RV_MSTATUS_TVM, 0, 0, S | M},
    {"sfence.vma", 0x12000073, 0, 0, 0, S | M},
    {"sfence.vma t1", 0x12030073, 0, 0, 0, S | M},
    {"sfence.vma TVM", 0x12000073, RV_MSTATUS_TVM, 0, 0, M},
    {"sfence.vma t1, t1 TVM", 0x12630073, RV_MSTATUS_TVM, 0, 0, M},
    {"sinval.vma", 0x16000073, 0, 0, 0, S | M},
    {"sinval.vma TVM", 0x16000073, RV_MSTATUS_TVM, 0, 0, M},
    {"sfence.w.inval", 0x18000073, 0, 0, 0, S | M},
    {"sfence.w.inval TVM", 0x18000073, RV_MSTATUS_TVM, 0, 0, S | M},
    {"sfence.inval.ir", 0x18100073, 0, 0, 0, S | M},
    {"sfence.inval.ir TVM", 0x18100073, RV_MSTATUS_TVM, 0, 0, S | M},
    {"wrs.nto", 0x00d00073, 0, 0, 0, U | S | M},
    {"wrs.sto", 0x01d00073, RV_MSTATUS_TW, 0, 0, U | S | M},
    {"fence.i", 0x0000100f, 0, 0, 0, U | S | M},
    {"hfence.vvma", 0x22000073, 0, 0, 0, 0},

    {"cbo.zero", 0x0043200f, 0, 0, 0, M},
    {"cbo.zero m", 0x0043200f, 0, RV_ENVCFG_CBZE, 0, S | M},
    {"cbo.zero s", 0x0043200f, 0, 0, RV_ENVCFG_CBZE, M},
    {"cbo.zero m s", 0x0043200f, 0, RV_ENVCFG_CBZE, RV_ENVCFG_CBZE, U | S | M},
    {"cbo.zero others", 0x0043200f, 0, RV_ENVCFG_CBCFE | RV_ENVCFG_CBIE,
     RV_ENVCFG_CBCFE | RV_ENVCFG_CBIE, M},
    {"cbo.clean", 0x0013200f, 0, 0, 0, M},
    {"cbo.clean m", 0x0013200f, 0, RV_ENVCFG_CBCFE, 0, S | M},
    {"cbo.clean m s", 0x0013200f, 0, RV_ENVCFG_CBCFE, RV_ENVCFG_CBCFE, U | S | M},
    {"cbo.flush m", 0x0023200f, 0, RV_ENVCFG_CBCFE, 0, S | M},
    {"cbo.flush m s", 0x0023200f, 0, RV_ENVCFG_CBCFE, RV_ENVCFG_CBCFE, U | S | M},
    {"cbo.flush others", 0x0023200f, 0, RV_ENVCFG_CBZE | RV_ENVCFG_CBIE,
     RV_ENVCFG_CBZE | RV_ENVCFG_CBIE, M},
    {"cbo.inval", 0x0003200f, 0, 0, 0, M},
    {"cbo.inval m flush", 0x0003200f, 0, CBIE_FLUSH, 0, S | M},
    {"cbo.inval m s", 0x0003200f, 0, RV_ENVCFG_CBIE, CBIE_FLUSH, U | S | M},
    {"cbo.inval others", 0x0003200f, 0, RV_ENVCFG_CBZE | RV_ENVCFG_CBCFE,
     RV_ENVCFG_CBZE | RV_ENVCFG_CBCFE, M},
};

static void test_permissions(void **state)
{
    struct test_hart *test = *state;
    static const enum rv_privilege modes[] = {RV_U, RV_S, RV_M};
    for (size_t i = 0; i < ARRAY_SIZE(permissions); i++) {
        for (unsigned mode = 0; mode < 3; mode++) {
            struct rv_hart *hart = enter_mode(test, modes[mode]);
            hart->mstatus |= permissions[i].mstatus;
            hart->menvcfg = permissions[i].menvcfg;
            hart->senvcfg = permissions[i].senvcfg;
            hart->x[RS1] = PLACE;
            enum rv_result result = test_hart_execute(test, permissions[i].bits);
            bool illegal = result == RV_TRAP && hart->trap.cause == RV_CAUSE_ILLEGAL;
            if (illegal == (permissions[i].allowed >> mode & 1))
                fail_msg("%s in mode %u: result %d, cause %d", permissions[i].name, mode,
                         (int)result, (int)hart->trap.cause);
            if (illegal)
                assert_int_equal(hart->trap.tval, permissions[i].bits);
            else
                assert_int_not_equal(result, RV_TRAP);
        }
    }
}

/* ---- ecall and ebreak ---- */

static void test_environment(void **state)
{
    struct test_hart *test = *state;
    static const struct {
        enum rv_privilege mode;
        uint64_t cause;
    } calls[] = {{RV_U, 8}, {RV_S, 9}, {RV_M, 11}};
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        struct rv_hart *hart = enter_mode(test, calls[i].mode);
        assert_int_equal(test_hart_execute(test, 0x00000073), RV_TRAP);
        assert_int_equal(hart->trap.cause, calls[i].cause);
        assert_int_equal(hart->trap.tval, 0);
        assert_int_equal(test_hart_execute(test, 0x00100073), RV_TRAP);
        assert_int_equal(hart->trap.cause, RV_CAUSE_BREAKPOINT);
        assert_int_equal(hart->trap.tval, RAM);
        assert_int_equal(test_hart_execute(test, 0x9002), RV_TRAP);
        assert_int_equal(hart->trap.cause, RV_CAUSE_BREAKPOINT);
    }
    struct rv_hart *hart = enter_mode(test, RV_S);
    hart->sbi_calls = true;
    assert_int_equal(test_hart_execute(test, 0x00000073), RV_EXIT);
    assert_int_equal(hart->exit, VCPU_EXIT_ECALL);
    assert_int_equal(hart->pc, RAM + 4);
    enter_mode(test, RV_U);
    assert_int_equal(test_hart_execute(test, 0x00000073), RV_TRAP);
    assert_int_equal(hart->trap.cause, RV_CAUSE_ECALL_U);
    hart->sbi_calls = false;
}

/* ---- returns ---- */

#define STATUS_BITS                                                                                \
    (RV_MSTATUS_MIE | RV_MSTATUS_MPIE | RV_MSTATUS_MPP | RV_MSTATUS_SIE | RV_MSTATUS_SPIE |        \
     RV_MSTATUS_SPP | RV_MSTATUS_MPRV)
#define MPP(mode) ((uint64_t)(mode) << RV_MSTATUS_MPP_SHIFT)

static const struct {
    uint32_t bits;
    uint64_t before, after;
    enum rv_privilege mode;
} returns[] = {
    /* mret: MIE = MPIE, MPIE = 1, MPP = U; MPRV goes unless to M */
    {0x30200073, MPP(RV_U) | RV_MSTATUS_MPIE, RV_MSTATUS_MPIE | RV_MSTATUS_MIE, RV_U},
    {0x30200073, MPP(RV_S) | RV_MSTATUS_MIE | RV_MSTATUS_MPRV, RV_MSTATUS_MPIE, RV_S},
    {0x30200073, MPP(RV_M) | RV_MSTATUS_MPRV | RV_MSTATUS_MPIE,
     RV_MSTATUS_MPIE | RV_MSTATUS_MIE | RV_MSTATUS_MPRV, RV_M},
    {0x30200073, MPP(RV_U) | RV_MSTATUS_SPP | RV_MSTATUS_SIE,
     RV_MSTATUS_MPIE | RV_MSTATUS_SPP | RV_MSTATUS_SIE, RV_U},
    /* sret likewise; MPP stays; MPRV always goes (to S or U) */
    {0x10200073, RV_MSTATUS_SPIE, RV_MSTATUS_SPIE | RV_MSTATUS_SIE, RV_U},
    {0x10200073, RV_MSTATUS_SPP | RV_MSTATUS_SIE | RV_MSTATUS_MPRV | MPP(RV_M),
     RV_MSTATUS_SPIE | MPP(RV_M), RV_S},
};

static void test_returns(void **state)
{
    struct test_hart *test = *state;
    for (size_t i = 0; i < ARRAY_SIZE(returns); i++) {
        struct rv_hart *hart = enter_mode(test, RV_M);
        hart->mstatus = (hart->mstatus & ~STATUS_BITS) | returns[i].before;
        hart->mepc = RAM + 0x100;
        hart->sepc = RAM + 0x202;
        rv_mode_changed(hart);
        assert_int_equal(test_hart_execute(test, returns[i].bits), RV_JUMP);
        assert_int_equal(hart->mstatus & STATUS_BITS, returns[i].after);
        assert_int_equal(hart->privilege, returns[i].mode);
        assert_int_equal(hart->pc, returns[i].bits == 0x30200073 ? RAM + 0x100 : RAM + 0x202);
        assert_int_equal(hart->data_privilege, returns[i].mode == RV_M ? RV_U : returns[i].mode);
    }
}

/* ---- waiting ---- */

static void test_wfi(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = enter_mode(test, RV_S);
    assert_int_equal(test_hart_execute(test, 0x10500073), RV_EXIT);
    assert_int_equal(hart->exit, VCPU_EXIT_WAIT);
    assert_int_equal(hart->pc, RAM + 4);
    /* Pending and enabled, though mstatus.SIE forbids to take it: goes on. */
    hart->pc = RAM;
    hart->mip_software = RV_MIP_SSIP;
    hart->mie = RV_MIP_SSIP;
    assert_int_equal(test_hart_execute(test, 0x10500073), RV_JUMP);
    assert_int_equal(hart->pc, RAM + 4);
    hart->pc = RAM;
    hart->mie = 0;
    assert_int_equal(test_hart_execute(test, 0x10500073), RV_EXIT);
}

/* wrs.nto with TW: illegal only where it would go on waiting. */
static void test_wrs(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = enter_mode(test, RV_S);
    hart->mstatus |= RV_MSTATUS_TW;
    assert_int_equal(test_hart_execute(test, 0x00d00073), RV_NEXT);
    hart->x[RS1] = PLACE;
    assert_int_equal(test_hart_execute(test, 0x100322af), RV_NEXT); /* lr.w t0, (t1) */
    assert_int_equal(test_hart_execute(test, 0x00d00073), RV_TRAP);
    assert_int_equal(hart->trap.cause, RV_CAUSE_ILLEGAL);
    hart->mip_software = hart->mie = RV_MIP_SSIP;
    assert_int_equal(test_hart_execute(test, 0x00d00073), RV_NEXT);
    hart->mie = 0;
    hart->mstatus &= ~RV_MSTATUS_TW;
    assert_int_equal(test_hart_execute(test, 0x00d00073), RV_NEXT);
}

/* ---- cache blocks ---- */

static void test_cache_blocks(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = enter_mode(test, RV_M);
    uint8_t *memory = test_hart_at(test, PLACE - 64);
    memset(memory, 0xee, 192);
    hart->x[RS1] = PLACE + 37; /* anywhere in the block */
    assert_int_equal(test_hart_execute(test, 0x0043200f), RV_NEXT);
    for (unsigned i = 0; i < 192; i++)
        assert_int_equal(memory[i], i >= 64 && i < 128 ? 0 : 0xee);
    /* The others leave memory alone, and all of them fault as stores. */
    static const uint32_t operations[] = {0x0003200f, 0x0013200f, 0x0023200f, 0x0043200f};
    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        memset(memory, 0x77, 192);
        hart->x[RS1] = PLACE;
        assert_int_equal(test_hart_execute(test, operations[i]), RV_NEXT);
        assert_int_equal(memory[64], i < 3 ? 0x77 : 0);
    }
    hart->x[RS1] = 0x1234;
    assert_int_equal(test_hart_execute(test, 0x0043200f), RV_TRAP);
    assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_ACCESS);
    assert_int_equal(hart->trap.tval, 0x1234);
}

/* ---- CSR accesses ---- */

#define MSCRATCH 0x340u
#define CYCLE    0xc00u
#define SATP     0x180u
#define NO_CSR   0x5c0u

enum funct3 { CSRRW = 1, CSRRS, CSRRC, CSRRWI = 5, CSRRSI, CSRRCI };

static uint32_t csr_access(enum funct3 operation, uint32_t rd, uint32_t csr, uint32_t source)
{
    return 0x73u | (uint32_t)operation << 12 | rd << 7 | source << 15 | csr << 20;
}

static const struct {
    enum funct3 operation;
    uint32_t source; /* register (x6 = 0xf0) or immediate */
    uint64_t after;  /* of mscratch, 0xff before */
} accesses[] = {
    {CSRRW, RS1, 0xf0}, {CSRRW, 0, 0},     {CSRRS, RS1, 0xff}, {CSRRS, 0, 0xff},
    {CSRRC, RS1, 0x0f}, {CSRRC, 0, 0xff},  {CSRRWI, 21, 21},   {CSRRWI, 0, 0},
    {CSRRSI, 16, 0xff}, {CSRRSI, 0, 0xff}, {CSRRCI, 31, 0xe0}, {CSRRCI, 0, 0xff},
};

static void test_csr_values(void **state)
{
    struct test_hart *test = *state;
    static const uint32_t destinations[] = {RD, 0, RS1}; /* rd = rs1 swaps */
    for (size_t i = 0; i < ARRAY_SIZE(accesses); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(destinations); j++) {
            struct rv_hart *hart = enter_mode(test, RV_M);
            uint32_t rd = destinations[j];
            hart->mscratch = 0xff;
            hart->x[RS1] = 0xf0;
            assert_int_equal(test_hart_execute(test, csr_access(accesses[i].operation, rd, MSCRATCH,
                                                                accesses[i].source)),
                             RV_NEXT);
            assert_int_equal(hart->mscratch, accesses[i].after);
            assert_int_equal(hart->x[rd], rd == 0 ? 0 : 0xff);
            assert_int_equal(hart->x[0], 0);
        }
    }
    /* A write that later instructions depend on leaves the block. */
    struct rv_hart *hart = enter_mode(test, RV_S);
    assert_int_equal(test_hart_execute(test, csr_access(CSRRW, 0, SATP, 0)), RV_JUMP);
    assert_int_equal(hart->pc, RAM + 4);
}

/* What counts as a write is the register number, not the value (U §Zicsr). */
static const struct {
    enum funct3 operation;
    uint32_t rd, csr, source;
    bool allowed;
} rules[] = {
    {CSRRS, RD, CYCLE, 0, true},     {CSRRC, RD, CYCLE, 0, true},
    {CSRRSI, RD, CYCLE, 0, true},    {CSRRCI, 0, CYCLE, 0, true},
    {CSRRS, RD, CYCLE, 7, false},    {CSRRC, RD, CYCLE, 7, false}, /* x7 is 0 */
    {CSRRSI, RD, CYCLE, 1, false},   {CSRRCI, RD, CYCLE, 1, false},
    {CSRRW, RD, CYCLE, 0, false},    {CSRRWI, 0, CYCLE, 0, false},
    {CSRRS, RD, NO_CSR, 0, false},   {CSRRW, 0, NO_CSR, RS1, false},
    {CSRRS, RD, MSCRATCH, 0, false}, {CSRRW, 0, MSCRATCH, RS1, false}, /* from S-mode */
};

static void test_csr_rules(void **state)
{
    struct test_hart *test = *state;
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        struct rv_hart *hart = enter_mode(test, RV_S);
        hart->x[RD] = 77;
        hart->x[7] = 0;
        uint32_t bits = csr_access(rules[i].operation, rules[i].rd, rules[i].csr, rules[i].source);
        enum rv_result result = test_hart_execute(test, bits);
        if (rules[i].allowed) {
            assert_int_equal(result, RV_NEXT);
            continue;
        }
        if (result != RV_TRAP)
            fail_msg("%08x (case %zu) did not trap", bits, i);
        assert_int_equal(hart->trap.cause, RV_CAUSE_ILLEGAL);
        assert_int_equal(hart->trap.tval, bits);
        assert_int_equal(hart->x[RD], 77);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permissions), cmocka_unit_test(test_environment),
        cmocka_unit_test(test_returns),     cmocka_unit_test(test_wfi),
        cmocka_unit_test(test_wrs),         cmocka_unit_test(test_cache_blocks),
        cmocka_unit_test(test_csr_values),  cmocka_unit_test(test_csr_rules),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
