/* SPDX-License-Identifier: MIT
 *
 * What the dirty log costs while nobody reads it, and between two readings: nothing. A hart that
 * has its permissions stores by code that asks for no flag: the flags' memory is made inaccessible,
 * and each kind of store goes on, interpreted, translated and in a region. Reading the log leaves
 * the code as it is.
 */
#include "support.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "hart.h"
#include "rv_code.h"

#define RAM      UINT64_C(0x80000000)
#define RAM_SIZE (256 * KIB)
#define CODE     (RAM + 0x1000)
#define DATA     (RAM + 0x8000)
#define TURNS    20000

#define SB(rs2, a, imm)     s_type(0x00000023, rs2, a, imm)
#define SH(rs2, a, imm)     s_type(0x00001023, rs2, a, imm)
#define FSW(rs2, a, imm)    s_type(0x00002027, rs2, a, imm)
#define FSD(rs2, a, imm)    s_type(0x00003027, rs2, a, imm)
#define LR_D(rd, a)         r_type(0x1000302f, rd, a, 0)
#define SC_D(rd, rs, a)     r_type(0x1800302f, rd, a, rs)
#define AMOSWAP_W(rd, r, a) r_type(0x0800202f, rd, a, r)

enum { INSNS = 14 };

/* Each kind of store, into pages of their own; S6 counts down. */
static void put_stores(struct test_hart *test)
{
    const uint32_t stores[INSNS] = {
        SB(S6, S2, 0),        SH(S6, S2, 2),
        SW(S6, S2, 4),        SD(S6, S2, 8),
        FSW(0, S3, 0),        FSD(0, S3, 8),
        AMOADD_D(A0, S6, S4), AMOSWAP_W(A0, S6, S4),
        LR_D(A0, S5),         SC_D(A1, S6, S5),
        ADD(A2, A2, A1),      ADDI(S6, S6, -1),
        BNE(S6, 0, -4 * 12),  WFI,
    };
    test_hart_put(test, CODE, stores, INSNS);
}

struct way {
    const char *name;
    const struct engine *engine;
    unsigned hot, region_heat; /* 0: as it is */
};

static const struct way ways[] = {
    {"interpreted", &engine_interp, 0, 0},
    {"translated", &engine_dbt, 1, 1u << 30},
    {"in a region", &engine_dbt, 1, 2},
};

static void begin(struct test_hart *test, const struct way *way)
{
    test_hart_init_engine(test, RAM, RAM_SIZE, way->engine);
    if (way->hot > 0) {
        dbt_set_hot(&test->hart->vcpu, way->hot);
        dbt_set_region_heat(&test->hart->vcpu, way->region_heat);
    }
    put_stores(test);
}

static void run(struct test_hart *test, uint64_t turns)
{
    struct rv_hart *hart = test->hart;
    hart->pc = CODE;
    hart->x[S6] = turns;
    hart->x[A2] = 0;
    for (unsigned i = 0; i < 4; i++)
        hart->x[S2 + i] = DATA + i * MEM_PAGE_SIZE;
    assert_int_equal(test_hart_run(test, turns * INSNS + 100), VCPU_EXIT_WAIT);
    assert_int_equal(hart->x[S6], 0);
    assert_int_equal(hart->x[A2], 0); /* no sc failed */
}

static void close_flags(struct test_hart *test, bool closed)
{
    struct mem_ram *ram = mem_ram_at(test->mem, 0);
    size_t size = RAM_SIZE >> MEM_PAGE_SHIFT;
    assert_int_equal(
        mprotect((void *)ram->flags, size, closed ? PROT_NONE : PROT_READ | PROT_WRITE), 0);
}

/* And what a machine (vm/vm.c) has its harts do then. */
static uint64_t take(struct test_hart *test)
{
    uint64_t bitmap[RAM_SIZE / MEM_PAGE_SIZE / 64 + 1];
    uint64_t taken = mem_dirty_take(test->mem, mem_ram_at(test->mem, 0), RAM, RAM_SIZE, bitmap);
    vcpu_attention(&test->hart->vcpu, VCPU_ATTENTION_WRITES);
    return taken;
}

static sigjmp_buf out;
static void *volatile wanted;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    wanted = info->si_addr;
    siglongjmp(out, 1);
}

/* Whether the loop wants the flags; the hart stands anywhere in it then, and is of no more use. */
static bool wants_flags(struct test_hart *test)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER},
                     before;
    const uint8_t *flags = (const uint8_t *)(const void *)mem_ram_at(test->mem, 0)->flags;
    wanted = NULL;
    sigaction(SIGSEGV, &action, &before);
    if (sigsetjmp(out, 1) == 0) {
        close_flags(test, true);
        run(test, 10);
    }
    close_flags(test, false);
    sigaction(SIGSEGV, &before, NULL);
    return wanted != NULL &&
           (uint64_t)((const uint8_t *)wanted - flags) < RAM_SIZE >> MEM_PAGE_SHIFT;
}

static void pick(void *opaque, const char *name, uint64_t value)
{
    if (strcmp(name, "blocks-translated") == 0)
        *(uint64_t *)opaque += value;
}

static uint64_t translations(struct test_hart *test)
{
    uint64_t value = 0;
    const struct engine *engine = test->hart->vcpu.engine;
    if (engine->count != NULL)
        engine->count(&test->hart->vcpu, pick, &value);
    return value + (engine == &engine_dbt ? dbt_region_count(&test->hart->vcpu) : 0);
}

static void test_stores_ask_for_no_flag(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        struct test_hart test;
        begin(&test, &ways[i]);
        print_message("# %s\n", ways[i].name);
        run(&test, TURNS);
        close_flags(&test, true);
        run(&test, TURNS);
        close_flags(&test, false);
        test_hart_destroy(&test);
    }
}

/* A reading costs each page's next store a look-up; the code is that of before. */
static void test_readings_leave_the_code(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        struct test_hart test;
        begin(&test, &ways[i]);
        run(&test, TURNS);
        uint64_t made = translations(&test);
        assert_true(ways[i].hot == 0 || made > 0);
        assert_int_not_equal(take(&test), 0);
        for (unsigned turn = 0; turn < 5; turn++) {
            run(&test, TURNS);
            close_flags(&test, true);
            run(&test, TURNS);
            close_flags(&test, false);
            assert_int_equal(take(&test), 4); /* all that was written, and nothing else */
        }
        assert_int_equal(translations(&test), made);
        assert_true(wants_flags(&test)); /* so it would be noticed */
        test_hart_destroy(&test);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stores_ask_for_no_flag),
        cmocka_unit_test(test_readings_leave_the_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
