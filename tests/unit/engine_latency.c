/* SPDX-License-Identifier: MIT
 *
 * A pending interrupt, or a kick, is obeyed within one turn of whatever loop the hart is in, under
 * every engine and in every kind of code that the translator makes.
 *
 * Nothing is timed: turns are counted. Who raises sets a flag in guest memory right behind that,
 * and each loop adds the flag up in every turn, so that the sum says how many turns began after the
 * raise: more than one is too many. It is raised by the loop itself, which stores its way
 * out of RAM into a register of ours, and by another thread at any moment.
 */
#include "support.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>

#include "hart.h"
#include "rv_code.h"

#define RAM      UINT64_C(0x80000000)
#define RAM_SIZE (64 * KIB)
#define CODE     (RAM + 0x1000)
#define HANDLER  (RAM + 0x4000)
#define DATA     (RAM + 0x5000) /* two pages */
#define FLAG     (RAM + 0x7000)
#define TURNS_AT (RAM + 0x8000)
#define IO       (RAM + RAM_SIZE)
#define OWN      300 /* turns before the loop raises itself */
#define MAX_CODE 112

#define CLEAR_MIE 0x30401073u /* csrrw x0, mie, x0 */
#define INSTRET   0xc02022f3u /* csrrs t0, instret, x0 */

enum raise { LINE, TIMER, KICK, RAISES };
static const char *const raise_names[] = {"a line", "a timer", "a kick"};

static const struct mode {
    const char *name;
    const struct engine *engine;
    bool regions;
} modes[] = {
    {"interpreted", &engine_interp, false},
    {"translated", &engine_dbt, false},
    {"translated with regions", &engine_dbt, true},
};

struct loop {
    const char *name;
    uint64_t start;
    bool region; /* it becomes one */
    uint32_t code[MAX_CODE];
};

/* What every turn does: s3 += flag, *a4 = a0, a4 += a5, a0++. */
#define BODY LW(T1, S2, 0), ADD(S3, S3, T1), SD(A0, A4, 0), ADD(A4, A4, A5), ADDI(A0, A0, 1)

#define TEN                                                                                        \
    ADDI(A1, A1, 1), XOR(A2, A2, A1), ADDI(A1, A1, 2), ADD(A3, A3, A2), ADDI(A1, A1, 3),           \
        XOR(A2, A3, A1), ADDI(A1, A1, 4), ADD(A3, A2, A2), ADDI(A1, A1, 5), XOR(A2, A2, A3)

enum { LOOPS = 16 };

static void make_loops(struct loop loops[LOOPS])
{
    const struct loop all[LOOPS] = {
        {"a block", CODE, true, {BODY, JAL(0, -20)}},
        {"a branch back", CODE, true, {BODY, BNE(A0, 0, -20)}},
        {"blocks",
         CODE,
         true,
         {BODY, ANDI(T0, A0, 1), BEQ(T0, 0, 8), ADDI(A1, A1, 1), JAL(0, -32)}},
        {"a loop in a loop",
         CODE,
         true,
         {ADDI(A1, 0, 4), BODY, ADDI(A1, A1, -1), BNE(A1, 0, -24), JAL(0, -32)}},
        {"more than a block", CODE, true, {BODY, TEN, TEN, TEN, TEN, TEN, TEN, TEN, JAL(0, -300)}},
        {"calls", CODE, false, {JAL(RA, 8), JAL(0, -4), BODY, JALR(0, RA, 0)}},
        {"far calls",
         CODE,
         false,
         {AUIPC(T0, 0), JALR(RA, T0, 12), JAL(0, -8), BODY, JALR(0, RA, 0)}},
        {"calls by register", CODE, false, {JALR(RA, S4, 0), JAL(0, -4), BODY, JALR(0, RA, 0)}},
        {"jumps by register", CODE, false, {JALR(0, S4, 0), JALR(0, S5, 0), BODY, JALR(0, S5, 0)}},
        {"accesses near each other",
         CODE,
         true,
         {BODY, LD(T0, S6, 0), LD(T2, S6, 8), SD(T0, S6, 16), LD(A2, S6, 24), SD(A2, S6, 32),
          JAL(0, -40)}},
        {"accesses that C serves", CODE, true, {BODY, LD(T0, S7, 0), SD(T0, S7, 0), JAL(0, -28)}},
        {"two pages", CODE + 0x1000 - 8, true, {BODY, JAL(0, -20)}},
        {"floating point", CODE, true, {BODY, FADD_D(1, 1, 2), FDIV_D(3, 1, 2), JAL(0, -28)}},
        {"atomics", CODE, true, {BODY, AMOADD_D(T0, A0, S6), JAL(0, -24)}},
        {"instructions in C", CODE, false, {BODY, INSTRET, JAL(0, -24)}},
        {"fences", CODE, false, {BODY, FENCE_I, JAL(0, -24)}},
    };
    memcpy(loops, all, sizeof(all));
}

struct world {
    struct test_hart test;
    struct mem_io io;
    enum raise raise;
    unsigned stores; /* of the loop to our register */
    uint64_t after;  /* the thread raises behind so many turns */
    _Atomic bool ended;
};

/* ---- raising ---- */

static void raise_it(struct world *world)
{
    struct vcpu *vcpu = &world->test.hart->vcpu;
    switch (world->raise) {
    case LINE:
        vcpu_set_interrupt(vcpu, RV_IRQ_MEI, true);
        break;
    case TIMER:
        vclock_advance(world->test.clock, 1000000);
        vclock_run_timers(world->test.clock);
        break;
    default:
        vcpu_kick(vcpu);
    }
    _Atomic uint32_t *flag = (_Atomic uint32_t *)(void *)test_hart_at(&world->test, FLAG);
    atomic_store(flag, 1);
}

static void register_written(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct world *world = opaque;
    (void)offset, (void)value, (void)size;
    if (world->stores++ == 0)
        raise_it(world);
}

static uint64_t register_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset, (void)size;
    return 0;
}

static void *raise_later(void *opaque)
{
    struct world *world = opaque;
    _Atomic uint64_t *turns = (_Atomic uint64_t *)(void *)test_hart_at(&world->test, TURNS_AT);
    while (atomic_load(turns) < world->after && !atomic_load(&world->ended))
        sched_yield();
    raise_it(world);
    return NULL;
}

/* ---- a hart in a loop ---- */

static const struct mem_io_ops register_ops = {register_read, register_written, 1, 8};

static void open_world(struct world *world, const struct mode *mode, const struct loop *loop)
{
    *world = (struct world){
        .io =
            {.name = "register", .gpa = IO, .size = 4 * KIB, .ops = &register_ops, .opaque = world},
    };
    struct test_hart *test = &world->test;
    test_hart_init_engine(test, RAM, RAM_SIZE, mode->engine);
    vclock_resume(test->clock);
    assert_true(mem_io_add(test->mem, &world->io));
    if (mode->engine == &engine_dbt) {
        dbt_set_hot(&test->hart->vcpu, 1);
        dbt_set_region_heat(&test->hart->vcpu, mode->regions ? 2 : 0);
    }
    test_hart_put(test, loop->start, loop->code, MAX_CODE);
    test_hart_put32(test, HANDLER, CLEAR_MIE);
    test_hart_put32(test, HANDLER + 4, WFI);
}

static void close_world(struct world *world)
{
    mem_io_remove(world->test.mem, &world->io);
    test_hart_destroy(&world->test);
}

static void prepare(struct world *world, const struct loop *loop, enum raise raise)
{
    struct test_hart *test = &world->test;
    struct rv_hart *hart = test->hart;
    isa_riscv64.vcpu_reset(&hart->vcpu);
    atomic_store(&hart->vcpu.attention, 0);
    vcpu_set_interrupt(&hart->vcpu, RV_IRQ_MEI, false);
    hart->mstatus |= RV_MSTATUS_FS | RV_MSTATUS_MIE;
    hart->mtvec = HANDLER;
    hart->mie = UINT64_C(1) << RV_IRQ_MEI | UINT64_C(1) << RV_IRQ_STI;
    assert_true(rv_csr_write(hart, NULL, 0x30a, RV_MENVCFG_STCE));
    atomic_store(&hart->stimecmp, vcpu_time(hart->vcpu.timebase) + 1000);
    rv_stimer_update(hart);
    rv_mode_changed(hart);
    hart->pc = loop->start;
    hart->x[S2] = FLAG;
    hart->x[S4] = CODE + 8;
    hart->x[S5] = CODE;
    hart->x[S6] = DATA;
    hart->x[S7] = DATA + 4093; /* over the end of its page */
    hart->x[A0] = 1;
    store_le32(test_hart_at(test, FLAG), 0);
    store_le64(test_hart_at(test, TURNS_AT), 0);
    world->raise = raise;
    world->stores = 0;
}

/* Until something ends it, or turns too many say that nothing will. */
static enum vcpu_exit run(struct world *world)
{
    enum vcpu_exit exit;
    do
        exit = test_hart_run(&world->test, 1000000);
    while (exit == VCPU_EXIT_BUDGET && world->test.hart->x[S3] <= 1);
    return exit;
}

static void check(const struct world *world, enum vcpu_exit exit, const char *of, const char *in)
{
    const struct rv_hart *hart = world->test.hart;
    uint64_t cause = world->raise == LINE ? RV_IRQ_MEI : RV_IRQ_STI;
    const char *what = raise_names[world->raise];
    if (hart->x[S3] > 1)
        fail_msg("%s, %s: %" PRIu64 " turns began behind %s", of, in, hart->x[S3], what);
    if (exit != (world->raise == KICK ? VCPU_EXIT_KICK : VCPU_EXIT_WAIT))
        fail_msg("%s, %s: left with %d behind %s", of, in, (int)exit, what);
    if (world->raise != KICK)
        assert_int_equal(hart->mcause, RV_CAUSE_INTERRUPT | cause);
}

typedef void try_fn(struct world *world, const struct mode *mode, const struct loop *loop);

static void each(try_fn *try)
{
    struct loop *loops = calloc(LOOPS, sizeof(*loops));
    struct world world;
    make_loops(loops);
    for (unsigned i = 0; i < LOOPS; i++)
        for (unsigned j = 0; j < ARRAY_SIZE(modes); j++) {
            open_world(&world, &modes[j], &loops[i]);
            try(&world, &modes[j], &loops[i]);
            if (modes[j].regions &&
                (dbt_region_count(&world.test.hart->vcpu) > 0) != loops[i].region)
                fail_msg("%s: region or not, the other was expected", loops[i].name);
            close_world(&world);
        }
    free(loops);
}

/* ---- the loop raises it itself ---- */

static void raise_self(struct world *world, const struct mode *mode, const struct loop *loop)
{
    for (unsigned raise = 0; raise < RAISES; raise++) {
        prepare(world, loop, (enum raise)raise);
        world->test.hart->x[A4] = IO - 8 * OWN;
        world->test.hart->x[A5] = 8;
        check(world, run(world), loop->name, mode->name);
        if (world->stores < 1 || world->stores > 2)
            fail_msg("%s, %s: %u turns stored", loop->name, mode->name, world->stores);
    }
}

static void test_raised_by_the_loop(void **state)
{
    (void)state;
    each(raise_self);
}

/* ---- another thread does ---- */

static void raise_from_outside(struct world *world, const struct mode *mode,
                               const struct loop *loop)
{
    uint64_t seed = 1;
    for (unsigned long round = 0; round < tier_count(12, 1000); round++) {
        pthread_t thread;
        prepare(world, loop, (enum raise)(round % RAISES));
        world->test.hart->x[A4] = TURNS_AT;
        world->after = OWN + random_next(&seed) % 5000;
        atomic_store(&world->ended, false);
        assert_int_equal(pthread_create(&thread, NULL, raise_later, world), 0);
        enum vcpu_exit exit = run(world);
        atomic_store(&world->ended, true);
        pthread_join(thread, NULL);
        check(world, exit, loop->name, mode->name);
        assert_true(world->test.hart->x[A0] >= world->after);
    }
}

static void test_raised_by_another_thread(void **state)
{
    (void)state;
    each(raise_from_outside);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raised_by_the_loop),
        cmocka_unit_test(test_raised_by_another_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
