/* SPDX-License-Identifier: MIT
 *
 * Regions of the translator: each program runs on two harts, interpreted and with regions made
 * of every loop at its second turn, and must leave the same state wherever it stops.
 */
#include "support.h"

#include <pthread.h>
#include <time.h>

#include "hart.h"
#include "rv_code.h"

#define RAM      UINT64_C(0x80000000)
#define RAM_SIZE (256 * KIB)
#define CODE     (RAM + 0x1000)
#define DATA     (RAM + 0x8000)
#define TABLES   (RAM + 0x20000)
#define HANDLER  (RAM + 0x3000) /* holds a wfi: a trap ends as VCPU_EXIT_WAIT */

enum { INTERP, DBT, SIDES };

struct pair {
    struct test_hart sides[SIDES];
};

/* ---- two harts ---- */

static int setup(void **state)
{
    static const struct engine *const engines[] = {&engine_interp, &engine_dbt};
    struct pair *pair = calloc(1, sizeof(*pair));
    for (unsigned i = 0; i < SIDES; i++) {
        test_hart_init_engine(&pair->sides[i], RAM, RAM_SIZE, engines[i]);
        pair->sides[i].hart->mtvec = HANDLER;
        pair->sides[i].hart->pc = CODE;
        test_hart_put32(&pair->sides[i], HANDLER, WFI);
    }
    dbt_set_hot(&pair->sides[DBT].hart->vcpu, 1);
    dbt_set_region_heat(&pair->sides[DBT].hart->vcpu, 2);
    *state = pair;
    return 0;
}

static int teardown(void **state)
{
    struct pair *pair = *state;
    for (unsigned i = 0; i < SIDES; i++)
        test_hart_destroy(&pair->sides[i]);
    free(pair);
    return 0;
}

static void put(struct pair *pair, uint64_t gpa, const uint32_t *code, size_t count)
{
    for (unsigned i = 0; i < SIDES; i++)
        test_hart_put(&pair->sides[i], gpa, code, count);
}
#define PUT(pair, address, ...)                                                                    \
    put(pair, address, (const uint32_t[]){__VA_ARGS__}, sizeof((uint32_t[]){__VA_ARGS__}) / 4)

static void set_x(struct pair *pair, unsigned reg, uint64_t value)
{
    for (unsigned i = 0; i < SIDES; i++)
        pair->sides[i].hart->x[reg] = value;
}

static void set_pc(struct pair *pair, uint64_t pc)
{
    for (unsigned i = 0; i < SIDES; i++)
        pair->sides[i].hart->pc = pc;
}

static void store(struct pair *pair, uint64_t gpa, uint64_t value)
{
    for (unsigned i = 0; i < SIDES; i++)
        store_le64(test_hart_at(&pair->sides[i], gpa), value);
}

static struct rv_hart *translated(struct pair *pair)
{
    return pair->sides[DBT].hart;
}

static uint64_t regions(struct pair *pair)
{
    return dbt_region_count(&translated(pair)->vcpu);
}

struct wanted {
    const char *name;
    uint64_t value;
};

static void note_counter(void *opaque, const char *name, uint64_t value)
{
    struct wanted *wanted = opaque;
    if (strcmp(name, wanted->name) == 0)
        wanted->value = value;
}

static uint64_t counter(struct pair *pair, const char *name)
{
    struct wanted wanted = {name, UINT64_MAX};
    engine_dbt.count(&translated(pair)->vcpu, note_counter, &wanted);
    return wanted.value;
}

static enum vcpu_exit run(struct pair *pair, uint64_t budget)
{
    enum vcpu_exit exits[SIDES];
    for (unsigned i = 0; i < SIDES; i++)
        exits[i] = test_hart_run(&pair->sides[i], budget);
    const struct rv_hart *a = pair->sides[INTERP].hart, *b = translated(pair);
    assert_int_equal(exits[INTERP], exits[DBT]);
    assert_int_equal(a->pc, b->pc);
    assert_int_equal(a->vcpu.retired, b->vcpu.retired);
    for (unsigned i = 0; i < 32; i++)
        assert_int_equal(a->x[i], b->x[i]);
    assert_memory_equal(a->f, b->f, sizeof(a->f));
    assert_int_equal(a->fflags, b->fflags);
    assert_int_equal(a->mepc, b->mepc);
    assert_int_equal(a->mcause, b->mcause);
    assert_int_equal(a->mtval, b->mtval);
    return exits[DBT];
}

/* ---- loops ---- */

/* Two loops, one in the other, with a way out of the inner one. */
static void put_nest(struct pair *pair)
{
    PUT(pair, CODE,                                        /* */
        ADDI(A0, 0, 0), ADDI(S2, 0, 0),                    /* */
        ADDI(A1, 0, 0),                                    /* outer: */
        ADD(A0, A0, A1), XOR(S3, A0, S2), BLT(A2, A0, 20), /* inner: */
        ADDI(A1, A1, 1), BNE(A1, A3, -16),                 /* */
        ADDI(S2, S2, 1), BNE(S2, A3, -28),                 /* */
        WFI);
    set_x(pair, A2, 1 << 30);
    set_x(pair, A3, 20);
}

static void test_nested_loops(void **state)
{
    struct pair *pair = *state;
    put_nest(pair);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_int_equal(translated(pair)->x[A0], 20 * 190);
    assert_true(regions(pair) > 0);
}

static void test_side_exit(void **state)
{
    struct pair *pair = *state;
    put_nest(pair);
    set_x(pair, A2, 1000);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_true(translated(pair)->x[A0] > 1000 && regions(pair) > 0);
}

static void test_budget_ends_anywhere(void **state)
{
    struct pair *pair = *state;
    put_nest(pair);
    for (uint64_t budget = 1; budget < 90; budget++) {
        set_pc(pair, CODE);
        while (run(pair, budget) == VCPU_EXIT_BUDGET)
            continue;
    }
    assert_true(regions(pair) > 0);
}

static void *kick_later(void *opaque)
{
    const struct timespec while_it_runs = {.tv_nsec = 30000000};
    nanosleep(&while_it_runs, NULL);
    vcpu_kick(opaque);
    return NULL;
}

static void test_endless_loop_is_kicked(void **state)
{
    struct pair *pair = *state;
    PUT(pair, CODE, ADDI(A0, A0, 1), BNE(A0, 0, -4));
    pthread_t thread;
    struct vcpu *vcpu = &translated(pair)->vcpu;
    assert_int_equal(pthread_create(&thread, NULL, kick_later, vcpu), 0);
    assert_int_equal(test_hart_run(&pair->sides[DBT], UINT64_MAX), VCPU_EXIT_KICK);
    pthread_join(thread, NULL);
    assert_true(regions(pair) > 0);
    assert_int_equal(vcpu->retired, 2 * translated(pair)->x[A0] - (translated(pair)->pc != CODE));
}

/* ---- words ---- */

static void test_upper_halves(void **state)
{
    struct pair *pair = *state;
    PUT(pair, CODE, ADD(T0, T0, A4),                                            /* */
        XOR(A0, A0, A4), MULW(A0, A0, A2), SRLIW(A5, A0, 15), XOR(A0, A0, A5),  /* */
        ADDIW(A4, A4, 1), ADDIW(A0, A0, 0), SLLI(S2, A0, 32), SRLI(S2, S2, 32), /* */
        ADD(S3, S3, S2), ADDW(S4, S4, A0), BNE(A4, A1, -44),                    /* */
        WFI);
    set_x(pair, A1, 50);
    set_x(pair, A2, 0x1000193);
    set_x(pair, A0, 0x811c9dc5);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_true(regions(pair) > 0);
    /* Now the region is there, and its registers come with upper halves that mean something. */
    for (unsigned i = 0; i < 4; i++) {
        set_pc(pair, CODE);
        set_x(pair, A0, UINT64_C(0x123456789abcdef0) << i);
        set_x(pair, A4, 40 | (uint64_t)(i & 1) << 40);
        set_x(pair, S4, UINT64_MAX / 3 << i);
        for (unsigned stop = 50; stop > 3; stop -= 7)
            (void)run(pair, stop);
    }
}

/* ---- branches over a little ---- */

/* A CRC and a maximum: from whole and from narrow values, with budgets that end everywhere. */
static void test_branches_without_jump(void **state)
{
    struct pair *pair = *state;
    PUT(pair, CODE, XOR(A5, A0, A1), SLLI(A5, A5, 63), SRLI(A0, A0, 1), BEQ(A5, 0, 16), /* */
        XOR(A0, A0, A2), SLLI(A0, A0, 48), SRLI(A0, A0, 48),                            /* */
        BLT(A0, S2, 12), ADDI(S2, A0, 0), ADDI(S3, A1, 0),                              /* */
        ADDW(S4, S4, A0), BLT(A4, A1, 8), ADDIW(S4, S4, -7),                            /* */
        BNE(A5, 0, 8), XOR(S4, S4, A1), /* a word or all 64 bits */                     /* */
        ADD(T0, T0, S4), SRLI(A1, A1, 1), ADDI(A4, A4, -1), BNE(A4, 0, -72),            /* */
        WFI);
    for (uint64_t turn = 0; turn < 40; turn++) {
        set_pc(pair, CODE);
        set_x(pair, A0, turn < 20 ? turn * 0x1234567 : UINT64_C(0x123456789abcdef) << turn);
        set_x(pair, A1, UINT64_MAX / 5 >> turn);
        set_x(pair, A2, turn & 1 ? 0xa001 : UINT64_C(0xffffffffffffa001));
        set_x(pair, A4, 33);
        set_x(pair, S2, turn & 2 ? 0 : turn);
        set_x(pair, S4, turn * UINT64_C(0x5555555555));
        while (run(pair, turn < 3 ? 100000 : 20 + turn) == VCPU_EXIT_BUDGET)
            continue;
    }
    assert_true(regions(pair) > 0);
    assert_true(counter(pair, "branches-without-jump") >= 4);
}

/* ---- traps ---- */

static void test_trap_in_the_middle(void **state)
{
    struct pair *pair = *state;
    PUT(pair, CODE, /* loads and stores upwards until RAM ends */
        ADDI(A0, A0, 1), ADDW(S4, S4, A0), LD(A5, A4, 0), ADD(S3, S3, A5), SW(A0, A4, 4),
        ADDI(A4, A4, 512), BNE(A0, 0, -24));
    set_x(pair, A4, RAM + RAM_SIZE - 100 * 512);
    set_x(pair, S4, 0x7ffffff0);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_int_equal(translated(pair)->mepc, CODE + 8);
    assert_int_equal(translated(pair)->mcause, RV_CAUSE_LOAD_ACCESS);
    assert_int_equal(translated(pair)->x[A0], 101);
    assert_true(regions(pair) > 0);
}

/* The first load traps where shifts of the turn before are still to be seen, the second where half
 * of a rotation is, of what is overwritten behind it. */
static void test_trap_amid_rotations(void **state)
{
    struct pair *pair = *state;
    PUT(pair, CODE, LD(A5, A4, 0), SLLIW(T0, A0, 7), SRLI(S2, A1, 11), LD(A5, S3, 0), /* */
        SRLIW(A3, A0, 25), SLLI(A2, A1, 53), OR(A0, A3, T0), OR(A2, A2, S2),          /* */
        ADD(A1, A1, A2), SLLIW(A3, A0, 13), SRLIW(A0, A0, 19), ADDIW(A0, A0, 0),      /* */
        OR(A0, A0, A3), ADDI(A4, A4, 512), ADDI(S3, S3, 512), BNE(A4, 0, -60));
    for (int64_t ahead = -512; ahead <= 512; ahead += 512) {
        set_pc(pair, CODE);
        set_x(pair, A0, 0x89abcdef);
        set_x(pair, A1, UINT64_C(0x0123456789abcdef));
        set_x(pair, A4, RAM + RAM_SIZE - 100 * 512);
        set_x(pair, S3, RAM + RAM_SIZE - 100 * 512 + (uint64_t)ahead);
        assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
        assert_int_equal(translated(pair)->mcause, RV_CAUSE_LOAD_ACCESS);
        assert_int_equal(translated(pair)->mepc, CODE + (ahead > 0 ? 12 : 0));
    }
    assert_true(regions(pair) > 0);
    assert_true(counter(pair, "rotations") >= 2);
}

/* ---- code that changes ---- */

/* A loop of two pages: its branch back is the first instruction of the second. */
#define ACROSS (CODE + 0x1000 - 8)

static void test_second_page_changes(void **state)
{
    struct pair *pair = *state;
    PUT(pair, ACROSS, ADDI(A0, A0, 1), ADDI(A1, A1, 1), ADDI(A2, A2, 1), BNE(A0, A3, -12), WFI);
    PUT(pair, CODE, SW(A4, A5, 0), FENCE_I, JALR(0, S2, 0));
    set_pc(pair, ACROSS);
    set_x(pair, A3, 100);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_int_equal(regions(pair), 1);
    set_x(pair, A0, 0);
    set_x(pair, A4, ADDI(A2, A2, 3));
    set_x(pair, A5, ACROSS + 8);
    set_x(pair, S2, ACROSS);
    set_pc(pair, CODE);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_int_equal(translated(pair)->x[A2], 100 + 300);
    assert_int_equal(regions(pair), 2);
}

/* The immediate of the second instruction is on the second page. */
static void test_straddling_changes(void **state)
{
    const uint64_t start = CODE + 0x1000 - 6;
    struct pair *pair = *state;
    PUT(pair, start, ADDI(A0, A0, 1), ADDI(A2, A2, 1), BNE(A0, A3, -8), WFI);
    PUT(pair, CODE, SW(A4, A5, 0), FENCE_I, JALR(0, S2, 0));
    set_pc(pair, start);
    set_x(pair, A3, 100);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_int_equal(regions(pair), 1);
    set_x(pair, A0, 0);
    set_x(pair, A4, ADDI(A2, A2, 3));
    set_x(pair, A5, start + 4);
    set_x(pair, S2, start);
    set_pc(pair, CODE);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_int_equal(translated(pair)->x[A2], 100 + 300);
    assert_int_equal(regions(pair), 2);
}

static void pick_translated(void *opaque, const char *name, uint64_t value)
{
    if (strcmp(name, "blocks-translated") == 0)
        *(uint64_t *)opaque = value;
}

static uint64_t blocks_translated(struct pair *pair)
{
    uint64_t value = UINT64_MAX;
    engine_dbt.count(&translated(pair)->vcpu, pick_translated, &value);
    return value;
}

/* Eight turns of a loop whose code was just written, as often as wanted. */
static void test_page_that_keeps_changing_is_interpreted(void **state)
{
    const uint64_t loop = CODE + 0x1000;
    struct pair *pair = *state;
    PUT(pair, loop, ADDI(A2, A2, 0), ADDI(A0, A0, 1), BNE(A0, A3, -8), WFI);
    PUT(pair, CODE, SW(A4, A5, 0), FENCE_I, JALR(0, S2, 0));
    PUT(pair, CODE + 0x40, FENCE_I, ADDI(A0, A0, -1), BNE(A0, 0, -8), WFI);
    set_x(pair, A3, 8);
    set_x(pair, S2, loop);
    uint64_t sum = 0, settled = 0;
    for (int turn = 1; turn <= 40; turn++) {
        set_x(pair, A0, 0);
        set_x(pair, A4, ADDI(A2, A2, turn));
        set_x(pair, A5, loop);
        set_pc(pair, CODE);
        assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
        sum += 8 * (uint64_t)turn;
        assert_int_equal(translated(pair)->x[A2], sum);
        if (turn == 10)
            settled = blocks_translated(pair);
    }
    assert_true(blocks_translated(pair) - settled <= 3); /* the wfi is executed 30 times, too */
    /* Left alone for long enough, it is translated again. */
    set_x(pair, A0, 1000);
    set_pc(pair, CODE + 0x40);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    settled = blocks_translated(pair);
    set_x(pair, A0, 0);
    set_pc(pair, loop);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_true(blocks_translated(pair) > settled);
}

/* Sv39, one gigapage of its own for code: two pages of it, each mapped by itself. */
#define VA UINT64_C(0x40000000)
enum { PTE_V = 1, PTE_RWX = 14, PTE_AD = 0xc0 };

static void map(struct pair *pair, uint64_t second)
{
    store(pair, TABLES + 8 * (VA >> 30), (TABLES + 0x1000) >> 2 | PTE_V);
    store(pair, TABLES + 0x1000, (TABLES + 0x2000) >> 2 | PTE_V);
    store(pair, TABLES + 0x2000, CODE >> 2 | PTE_AD | PTE_RWX | PTE_V);
    store(pair, TABLES + 0x2008, second >> 2 | PTE_AD | PTE_RWX | PTE_V);
}

static void enter_supervisor(struct pair *pair)
{
    for (unsigned i = 0; i < SIDES; i++) {
        struct rv_hart *hart = pair->sides[i].hart;
        rv_csr_write(hart, NULL, RV_CSR_PMPADDR0, UINT64_MAX >> 10);
        rv_csr_write(hart, NULL, RV_CSR_PMPCFG0, RV_PMP_NAPOT | RV_PMP_R | RV_PMP_W | RV_PMP_X);
        hart->privilege = RV_S;
        rv_csr_write(hart, NULL, RV_CSR_SATP, UINT64_C(8) << 60 | TABLES >> 12);
        rv_mode_changed(hart);
        hart->pc = VA + 0xff8;
    }
}

static void test_second_page_is_mapped_elsewhere(void **state)
{
    struct pair *pair = *state;
    PUT(pair, ACROSS, ADDI(A0, A0, 1), ADDI(A1, A1, 1), ADDI(A2, A2, 1), BNE(A0, A3, -12), WFI);
    PUT(pair, DATA, ADDI(A2, A2, 5), BNE(A0, A3, -12), WFI);
    set_x(pair, A3, 100);
    map(pair, CODE + 0x1000);
    enter_supervisor(pair);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_int_equal(regions(pair), 1);
    for (unsigned turn = 0; turn < 4; turn++) {
        uint64_t before = translated(pair)->x[A2];
        map(pair, turn & 1 ? CODE + 0x1000 : DATA);
        for (unsigned i = 0; i < SIDES; i++)
            rv_tlb_flush_all(pair->sides[i].hart);
        set_pc(pair, VA + 0xff8);
        set_x(pair, A0, 0);
        assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
        assert_int_equal(translated(pair)->x[A2] - before, turn & 1 ? 100 : 500);
    }
}

/* ---- floating point ---- */

#define QUIET     UINT64_C(0x7ff8000000000000)
#define SIGNALING UINT64_C(0x7ff0000000000001)

static void test_flags_of_a_region(void **state)
{
    struct pair *pair = *state;
    PUT(pair, CODE, ADDI(A0, A0, 1), FCVT_D_L(1, A0), FDIV_D(2, 3, 1), FADD_D(4, 4, 2),
        BNE(A0, A1, -16), READ_FFLAGS(A2), WFI);
    set_x(pair, A1, 64);
    for (unsigned i = 0; i < SIDES; i++)
        pair->sides[i].hart->f[3] = UINT64_C(0x3ff0000000000000);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_int_equal(translated(pair)->x[A2], 1); /* inexact */
    assert_true(regions(pair) > 0);
}

/* isless() of compilers: no flag, not even of a signaling NaN; flags from before stay. */
static void test_quiet_comparison(void **state)
{
    static const uint64_t values[] = {QUIET, SIGNALING, 0, UINT64_C(0xbff0000000000000)};
    struct pair *pair = *state;
    PUT(pair, CODE, ADDI(A0, A0, 1), READ_FFLAGS(A2), FLT_D(A3, 1, 2), WRITE_FFLAGS(A2),
        ADD(A4, A4, A3), BNE(A0, A1, -20), WFI);
    set_x(pair, A1, 20);
    for (unsigned i = 0; i < 4 * 4 * 2; i++) {
        for (unsigned j = 0; j < SIDES; j++) {
            struct rv_hart *hart = pair->sides[j].hart;
            hart->f[1] = values[i & 3];
            hart->f[2] = values[i >> 2 & 3];
            hart->fflags = i & 16 ? 5 : 0;
        }
        set_pc(pair, CODE);
        set_x(pair, A0, 0);
        assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
        assert_int_equal(translated(pair)->fflags, i & 16 ? 5 : 0);
    }
    assert_true(regions(pair) > 0);
}

static void test_nan_in_a_region(void **state)
{
    struct pair *pair = *state;
    PUT(pair, CODE, ADDI(A0, A0, 1), FADD_D(4, 4, 2), FDIV_D(5, 6, 6), FADD_D(7, 7, 4),
        BNE(A0, A1, -16), WFI);
    set_x(pair, A1, 20);
    for (unsigned i = 0; i < SIDES; i++)
        pair->sides[i].hart->f[2] = QUIET | 1;
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    assert_int_equal(translated(pair)->f[4], QUIET);
    assert_int_equal(translated(pair)->fflags, 0x10); /* 0 / 0 */
    assert_true(regions(pair) > 0);
}

/* ---- groups of accesses ---- */

/* VA and the page behind it stand for other pages after each fence, also where what was found
 * before is remembered. */
static void test_groups_forget_at_fences(void **state)
{
    struct pair *pair = *state;
    PUT(pair, CODE,                                                   /* */
        ADDI(T0, 0, 3), ADDI(A4, A4, 1),                              /* */
        LD(A0, SP, 0), LD(A1, SP, 8), SD(A4, SP, 16), SD(A4, SP, 24), /* thrice */
        ADDI(T0, T0, -1), BNE(T0, 0, -20),                            /* */
        SD(A5, S2, 0), SFENCE, ADDI(T0, 0, 3),                        /* S2: the PTE */
        LD(A2, SP, 0), LD(A3, SP, 8), SD(A4, SP, 16), SD(A4, SP, 24), /* thrice */
        ADDI(T0, T0, -1), BNE(T0, 0, -20),                            /* */
        SD(S3, S2, 0), SFENCE, ADDI(S4, S4, -1), BNE(S4, 0, -80), WFI);
    map(pair, DATA);
    store(pair, TABLES + 0x2010, (TABLES + 0x2000) >> 2 | PTE_AD | PTE_RWX | PTE_V);
    for (unsigned i = 0; i < SIDES; i++) {
        const uint8_t *entry = test_hart_at(&pair->sides[i], TABLES + 0x2000 + 8);
        set_x(pair, S3, load_le64(entry));
        set_x(pair, A5, load_le64(entry) + (UINT64_C(4) << 10)); /* four pages on */
    }
    store(pair, DATA, 1);
    store(pair, DATA + 8, 2);
    store(pair, DATA + 0x4000, 3);
    store(pair, DATA + 0x4008, 4);
    set_x(pair, SP, VA + 0x1000);
    set_x(pair, S2, VA + 0x2000 + 8);
    set_x(pair, S4, 40);
    enter_supervisor(pair);
    set_pc(pair, VA);
    assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
    const struct rv_hart *hart = translated(pair);
    assert_int_equal(hart->x[A0] << 8 | hart->x[A1], 0x102);
    assert_int_equal(hart->x[A2] << 8 | hart->x[A3], 0x304);
    assert_int_equal(load_le64(test_hart_at(&pair->sides[DBT], DATA + 24)), 40);
    assert_int_equal(load_le64(test_hart_at(&pair->sides[DBT], DATA + 0x4018)), 40);
}

/* The last byte's page is page 0, which an empty slot must not seem to hold. */
static void test_across_the_end_of_addresses(void **state)
{
    const uint32_t accesses[] = {LD(A1, A0, 0), LW(A1, A0, 0), SD(A1, A0, 0), SW(A1, A0, 0)};
    struct pair *pair = *state;
    for (unsigned i = 0; i < sizeof(accesses) / sizeof(accesses[0]); i++) {
        PUT(pair, CODE + 64 * i, accesses[i], ADDI(A4, A4, 1), BNE(A4, A3, -8), ADDI(A0, S6, 0),
            ADDI(A3, A3, 40), JAL(0, -20));
        set_x(pair, A0, DATA);
        set_x(pair, A3, 40);
        set_x(pair, A4, 0);
        set_x(pair, S6, UINT64_MAX);
        set_pc(pair, CODE + 64 * i);
        assert_int_equal(run(pair, 100000), VCPU_EXIT_WAIT);
        assert_int_equal(translated(pair)->mcause, i < 2 ? 5 : 7);
        assert_int_equal(translated(pair)->x[A4], 40);
        assert_true(counter(pair, "blocks-translated") > i);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_nested_loops),
        TEST(test_side_exit),
        TEST(test_budget_ends_anywhere),
        TEST(test_endless_loop_is_kicked),
        TEST(test_upper_halves),
        TEST(test_branches_without_jump),
        TEST(test_trap_in_the_middle),
        TEST(test_trap_amid_rotations),
        TEST(test_second_page_changes),
        TEST(test_straddling_changes),
        TEST(test_page_that_keeps_changing_is_interpreted),
        TEST(test_second_page_is_mapped_elsewhere),
        TEST(test_flags_of_a_region),
        TEST(test_quiet_comparison),
        TEST(test_nan_in_a_region),
        TEST(test_groups_forget_at_fences),
        TEST(test_across_the_end_of_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
