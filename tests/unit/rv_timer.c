/* SPDX-License-Identifier: MIT
 *
 * The guest's time: deadlines of the time base, and Sstc's comparator (P §15) on a counted
 * clock.
 */
#include "rv_fixture.h"

#define STCE_ON(hart)  poke((hart), 0x30a, RV_MENVCFG_STCE)
#define STCE_OFF(hart) poke((hart), 0x30a, 0)

/* The clock moves to `ticks`, and its timers fire. */
static void advance_to(struct fixture *f, uint64_t ticks)
{
    int64_t target = (int64_t)ticks * NS_PER_TICK;
    vclock_advance(f->clock, target - vclock_now(f->clock));
    vclock_run_timers(f->clock);
}

static void deadlines(void **state)
{
    struct fixture *f = *state;
    struct vcpu_timebase *base = &f->timebase;
    vclock_advance(f->clock, 1050); /* in the middle of tick 10 */
    assert_int_equal(vcpu_time(base), 10);
    assert_int_equal(vcpu_time_to_deadline(base, 10), 1050); /* reached: now */
    assert_int_equal(vcpu_time_to_deadline(base, 0), 1050);
    assert_int_equal(vcpu_time_to_deadline(base, 11), 1100);
    assert_int_equal(vcpu_time_to_deadline(base, 1000), 100000);
    uint64_t last = (uint64_t)INT64_MAX / NS_PER_TICK;
    assert_int_equal(vcpu_time_to_deadline(base, last), (int64_t)(last * NS_PER_TICK));
    assert_int_equal(vcpu_time_to_deadline(base, last + 1), VCLOCK_NEVER);
    assert_int_equal(vcpu_time_to_deadline(base, UINT64_MAX), VCLOCK_NEVER);
    /* Firmware wrote mtime: ahead, behind (a huge offset that wraps), and just before its end. */
    atomic_store(&base->offset_ticks, 1000);
    assert_int_equal(vcpu_time_to_deadline(base, 1011), 1100);
    atomic_store(&base->offset_ticks, (uint64_t)-4);
    assert_int_equal(vcpu_time(base), 6);
    assert_int_equal(vcpu_time_to_deadline(base, 7), 1100);
    assert_int_equal(vcpu_time_to_deadline(base, last - 4), (int64_t)(last * NS_PER_TICK));
    assert_int_equal(vcpu_time_to_deadline(base, last - 3), VCLOCK_NEVER);
    atomic_store(&base->offset_ticks, UINT64_MAX - 20);
    assert_int_equal(vcpu_time_to_deadline(base, UINT64_MAX), 2000);
    assert_int_equal(vcpu_time_to_deadline(base, UINT64_MAX - 20), 1050);
}

static void every_deadline_is_the_first_moment(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = 3;
    for (unsigned i = 0; i < 2000; i++) {
        vclock_advance(f->clock, (int64_t)(random_next(&seed) % 1000));
        atomic_store(&f->timebase.offset_ticks, random_next(&seed) >> random_next(&seed) % 64);
        uint64_t ticks = vcpu_time(&f->timebase) + random_next(&seed) % 5000;
        int64_t now = vclock_now(f->clock), at = vcpu_time_to_deadline(&f->timebase, ticks);
        uint64_t offset = atomic_load(&f->timebase.offset_ticks);
        if (ticks < vcpu_time(&f->timebase)) { /* beyond the end of the counter */
            assert_int_equal(at, now);
            continue;
        }
        assert_true(at >= now);
        assert_true((uint64_t)(at / NS_PER_TICK) + offset >= ticks);
        if (at > now)
            assert_true((uint64_t)((at - 1) / NS_PER_TICK) + offset < ticks);
    }
}

static uint64_t stip(struct rv_hart *hart)
{
    return peek(hart, RV_CSR_MIP) & RV_MIP_STIP;
}

static void comparator(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    poke(hart, RV_CSR_STIMECMP, 50);
    assert_int_equal(vtimer_deadline(hart->stimer), VCLOCK_NEVER); /* STCE is off */
    advance_to(f, 100);
    assert_int_equal(stip(hart), 0);
    STCE_ON(hart);
    assert_int_equal(stip(hart), RV_MIP_STIP);
    poke(hart, RV_CSR_STIMECMP, 101);
    assert_int_equal(stip(hart), 0);
    assert_int_equal(vtimer_deadline(hart->stimer), 10100);
    /* Reads are exact even before the timer has fired. */
    vclock_advance(f->clock, 99);
    assert_int_equal(stip(hart), 0);
    vclock_advance(f->clock, 1);
    assert_int_equal(stip(hart), RV_MIP_STIP);
    /* Nothing but stimecmp clears it: not even M. */
    poke(hart, RV_CSR_MIP, 0);
    assert_int_equal(stip(hart), RV_MIP_STIP);
    poke(hart, RV_CSR_STIMECMP, UINT64_MAX);
    assert_int_equal(stip(hart), 0);
    assert_int_equal(vtimer_deadline(hart->stimer), VCLOCK_NEVER);
    poke(hart, RV_CSR_MIP, RV_MIP_STIP);
    assert_int_equal(stip(hart), 0);
    STCE_OFF(hart); /* then STIP is M's bit */
    poke(hart, RV_CSR_MIP, RV_MIP_STIP);
    assert_int_equal(stip(hart), RV_MIP_STIP);
}

static void the_timer_interrupts(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    struct vcpu *vcpu = &hart->vcpu;
    hart->sbi_calls = true;
    rv_enter_supervisor(hart, RAM_BASE, 0, 0);
    poke(hart, 0x105, RAM_BASE + 0x100);
    poke(hart, 0x104, RV_MIP_STIP);
    poke(hart, RV_CSR_MSTATUS, RV_MSTATUS_SIE);
    poke(hart, RV_CSR_STIMECMP, 40);
    atomic_store(&vcpu->attention, 0);
    f->wakes = 0;
    advance_to(f, 39);
    assert_int_equal(atomic_load(&vcpu->attention), 0);
    assert_false(isa_riscv64.wait_is_over(vcpu));
    assert_false(rv_take_interrupt(hart));
    advance_to(f, 40);
    assert_int_equal(f->wakes, 1);
    assert_int_equal(atomic_load(&vcpu->attention), VCPU_ATTENTION_TIMER);
    rv_obey_attention(hart);
    assert_int_equal(atomic_load(&vcpu->attention), VCPU_ATTENTION_IRQ);
    assert_true(isa_riscv64.wait_is_over(vcpu));
    assert_true(rv_take_interrupt(hart));
    assert_int_equal(peek(hart, 0x142), UINT64_C(1) << 63 | RV_IRQ_STI);
    assert_false(rv_take_interrupt(hart)); /* SIE is off now */
    /* Level-triggered: pending until stimecmp moves on. */
    poke(hart, RV_CSR_MSTATUS, RV_MSTATUS_SIE);
    assert_true(rv_take_interrupt(hart));
    poke(hart, RV_CSR_STIMECMP, 60);
    poke(hart, RV_CSR_MSTATUS, RV_MSTATUS_SIE);
    assert_false(rv_take_interrupt(hart));
    /* The comparison that a waiting hart makes itself asks to look at once. */
    vclock_advance(f->clock, 20 * NS_PER_TICK);
    rv_obey_attention(hart);
    atomic_store(&vcpu->attention, 0);
    hart->stip_timer = false;
    assert_true(isa_riscv64.wait_is_over(vcpu));
    assert_int_equal(atomic_load(&vcpu->attention), VCPU_ATTENTION_IRQ);
    assert_true(rv_take_interrupt(hart));
}

static void mtime_may_jump(void **state)
{
    struct fixture *f = *state;
    struct rv_hart *hart = f->hart;
    STCE_ON(hart);
    poke(hart, RV_CSR_STIMECMP, 1000);
    assert_int_equal(vtimer_deadline(hart->stimer), 100000);
    atomic_store(&f->timebase.offset_ticks, 900);
    vcpu_attention(&hart->vcpu, VCPU_ATTENTION_TIMER);
    rv_obey_attention(hart);
    assert_int_equal(vtimer_deadline(hart->stimer), 10000);
    advance_to(f, 100);
    rv_obey_attention(hart);
    assert_true(hart->stip_timer);
    assert_int_equal(vtimer_deadline(hart->stimer), VCLOCK_NEVER);
    atomic_store(&f->timebase.offset_ticks, 0); /* back: not yet after all */
    vcpu_attention(&hart->vcpu, VCPU_ATTENTION_TIMER);
    rv_obey_attention(hart);
    assert_false(hart->stip_timer);
    assert_int_equal(vtimer_deadline(hart->stimer), 100000);
    isa_riscv64.vcpu_reset(&hart->vcpu);
    assert_int_equal(vtimer_deadline(hart->stimer), VCLOCK_NEVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(deadlines),      FIXTURE_TEST(every_deadline_is_the_first_moment),
        FIXTURE_TEST(comparator),     FIXTURE_TEST(the_timer_interrupts),
        FIXTURE_TEST(mtime_may_jump),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
