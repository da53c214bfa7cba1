/* SPDX-License-Identifier: MIT
 *
 * vm_throttle(): vCPUs that stand still for a part of the time.
 */
#include "vm_world.h"

#include "base/vclock.h"

static const uint32_t loop_for_ever[] = {0x0000006f}; /* j . */
enum { PERCENT = 90, LOOKS = 2000 };

struct throttled {
    struct world w;
    struct vtimer *timer;
    int64_t begun;
    unsigned looks;
    double part, least; /* of the time that a vCPU ran, at the last look; the least ever */
    bool let_go;
    uint64_t retired;
};

static void quit(void *opaque)
{
    struct throttled *t = opaque;
    vm_quit(t->w.vm);
}

/* However late timers come, each turn is paid for by a hold: right behind one, the sum is right. On
 * a busy host the vCPU gets less. */
static void look(void *opaque)
{
    struct throttled *t = opaque;
    struct vm_cpu_time time;
    struct vm_status status;
    int64_t passed = vclock_now(t->w.vm->clock) - t->begun;
    assert_true(vm_cpu_time(&t->w.vm->cpus[0], &time));
    t->part = (double)time.used / (double)passed;
    if (passed > 100000000 && t->part < t->least)
        t->least = t->part;
    vtimer_arm(t->timer, vclock_now(t->w.vm->clock) + 3000000);
    if (!t->let_go && (t->least < 0.15 || ++t->looks == LOOKS)) {
        vm_throttle(t->w.vm, 0);
        t->let_go = true;
        vm_get_status(t->w.vm, &status);
        t->retired = status.retired;
        return;
    }
    vm_get_status(t->w.vm, &status);
    if (t->let_go && status.retired > t->retired + 1000000) {
        vtimer_disarm(t->timer);
        loop_post(t->w.env.loop, quit, t);
    }
}

static void a_part_of_the_time_is_kept(void **state)
{
    (void)state;
    struct throttled t = {.least = 1};
    world_open(&t.w);
    world_give(&t.w, &t.w.config.firmware, loop_for_ever, sizeof(loop_for_ever));
    world_make(&t.w);
    vm_throttle(t.w.vm, 0); /* nothing */
    t.timer = vtimer_new(t.w.vm->clock, look, &t);
    vm_throttle(t.w.vm, PERCENT / 2);
    vm_throttle(t.w.vm, PERCENT);
    vtimer_arm(t.timer, 1000000);
    world_run(&t.w);
    assert_true(t.least < 0.15);
    assert_true(t.let_go);
    vtimer_free(t.timer);
    world_close(&t.w);
}

/* Freed while it is held. */
static void it_can_end_in_the_middle(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        struct throttled t = {.least = 1, .let_go = true};
        world_open(&t.w);
        world_give(&t.w, &t.w.config.firmware, loop_for_ever, sizeof(loop_for_ever));
        world_make(&t.w);
        vm_throttle(t.w.vm, 1000); /* more than there is */
        t.timer = vtimer_new(t.w.vm->clock, quit, &t);
        vtimer_arm(t.timer, (int64_t)i * 700000);
        world_run(&t.w);
        vtimer_free(t.timer);
        world_close(&t.w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_part_of_the_time_is_kept),
        cmocka_unit_test(it_can_end_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
