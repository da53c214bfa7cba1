/* SPDX-License-Identifier: MIT
 *
 * base/vclock.h. Counted mode is exact; of real mode only what holds on however slow a host
 * is asserted: order, standing still, and that waiting ends.
 */
#include "support.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/vclock.h"

/* What the timers of a test did, in order. */
struct record {
    struct vclock *clock;
    int order[32];
    int64_t times[32];
    unsigned count;
};

struct marker {
    struct record *record;
    int id;
    struct vtimer *timer;
    int64_t rearm_to; /* VCLOCK_NEVER: do not */
    bool free_itself;
    struct vtimer *disarms; /* another timer, or NULL */
};

static void mark(void *opaque)
{
    struct marker *marker = opaque;
    struct record *record = marker->record;
    assert_true(record->count < 32);
    record->order[record->count] = marker->id;
    record->times[record->count++] = vclock_now(record->clock);
    if (marker->disarms)
        vtimer_disarm(marker->disarms);
    if (marker->rearm_to != VCLOCK_NEVER)
        vtimer_arm(marker->timer, marker->rearm_to);
    if (marker->free_itself) {
        vtimer_free(marker->timer);
        marker->timer = NULL;
    }
}

static void make(struct marker *marker, struct record *record, int id)
{
    *marker = (struct marker){.record = record, .id = id, .rearm_to = VCLOCK_NEVER};
    marker->timer = vtimer_new(record->clock, mark, marker);
}

static void count(void *opaque)
{
    ++*(unsigned *)opaque;
}

static void counted_time_is_what_was_advanced(void **state)
{
    (void)state;
    struct vclock *clock = vclock_new(VCLOCK_COUNTED, 1000);
    assert_int_equal(vclock_mode(clock), VCLOCK_COUNTED);
    assert_int_equal(vclock_now(clock), 0);
    assert_int_equal(vclock_wall_now(clock), 1000);
    vclock_resume(clock);
    vclock_advance(clock, 5);
    vclock_advance(clock, 0);
    vclock_advance(clock, 7);
    assert_int_equal(vclock_now(clock), 12);
    assert_int_equal(vclock_wall_now(clock), 1012);
    vclock_set_wall(clock, 5000);
    vclock_advance(clock, 1);
    assert_int_equal(vclock_wall_now(clock), 5001);
    assert_int_equal(vclock_now(clock), 13);
    vclock_pause(clock);
    vclock_advance(clock, 2);
    assert_int_equal(vclock_now(clock), 15);
    vclock_set_now(clock, 100);
    assert_int_equal(vclock_now(clock), 100);
    vclock_set_wall(clock, INT64_MIN); /* a guest may: nothing overflows */
    vclock_set_wall(clock, INT64_MAX - 200);
    assert_int_equal(vclock_wall_now(clock), INT64_MAX - 200);
    unsigned told = 0;
    vclock_on_set_wall(clock, count, &told);
    vclock_set_wall(clock, 1);
    vclock_set_wall(clock, 1);
    vclock_on_set_wall(clock, NULL, NULL);
    vclock_set_wall(clock, 2);
    assert_int_equal(told, 2);
    vclock_free(clock);
    vclock_free(NULL);
}

static void timers_fire_by_deadline_then_by_arming(void **state)
{
    (void)state;
    struct record record = {.clock = vclock_new(VCLOCK_COUNTED, 0)};
    struct marker markers[6];
    for (int i = 0; i < 6; i++)
        make(&markers[i], &record, i);
    vclock_resume(record.clock);
    vtimer_arm(markers[0].timer, 30);
    vtimer_arm(markers[1].timer, 10);
    vtimer_arm(markers[2].timer, 20);
    vtimer_arm(markers[3].timer, 10);
    vtimer_arm(markers[4].timer, 5);
    vtimer_arm(markers[5].timer, 20);
    vtimer_arm(markers[4].timer, 20); /* replaces 5 */
    vtimer_disarm(markers[5].timer);
    vtimer_disarm(markers[5].timer);
    assert_int_equal(vclock_next_deadline(record.clock), 10);
    assert_int_equal(vtimer_deadline(markers[4].timer), 20);
    assert_int_equal(vtimer_deadline(markers[5].timer), VCLOCK_NEVER);

    vclock_advance(record.clock, 9);
    vclock_run_timers(record.clock);
    assert_int_equal(record.count, 0);
    assert_int_equal(vclock_host_delay(record.clock, 10), INT64_MAX);
    assert_int_equal(vclock_host_delay(record.clock, 9), 0);
    vclock_advance(record.clock, 1);
    vclock_run_timers(record.clock);
    assert_int_equal(record.count, 2);
    vclock_advance(record.clock, 100);
    vclock_run_timers(record.clock);
    static const int expected[] = {1, 3, 2, 4, 0};
    assert_int_equal(record.count, 5);
    assert_memory_equal(record.order, expected, sizeof(expected));
    assert_int_equal(record.times[0], 10);
    assert_int_equal(vclock_next_deadline(record.clock), VCLOCK_NEVER);
    assert_int_equal(vtimer_deadline(markers[0].timer), VCLOCK_NEVER);
    vclock_run_timers(record.clock);
    assert_int_equal(record.count, 5); /* one-shot */
    for (int i = 0; i < 6; i++)
        vtimer_free(markers[i].timer);
    vtimer_free(NULL);
    vclock_free(record.clock);
}

static void no_timer_fires_while_paused(void **state)
{
    (void)state;
    struct record record = {.clock = vclock_new(VCLOCK_COUNTED, 0)};
    struct marker marker;
    make(&marker, &record, 1);
    vtimer_arm(marker.timer, -5); /* long due */
    vclock_run_timers(record.clock);
    assert_int_equal(record.count, 0);
    assert_int_equal(vclock_host_delay(record.clock, -5), INT64_MAX);
    vclock_resume(record.clock);
    assert_int_equal(vclock_host_delay(record.clock, -5), 0);
    vclock_run_timers(record.clock);
    assert_int_equal(record.count, 1);
    vtimer_free(marker.timer);
    vclock_free(record.clock);
}

static void callbacks_may_arm_disarm_and_free(void **state)
{
    (void)state;
    struct record record = {.clock = vclock_new(VCLOCK_COUNTED, 0)};
    struct marker again, victim, suicide;
    make(&again, &record, 1);
    make(&victim, &record, 2);
    make(&suicide, &record, 3);
    again.rearm_to = 0; /* due at once: must not keep vclock_run_timers() from returning */
    again.disarms = victim.timer;
    suicide.free_itself = true;
    suicide.rearm_to = 1; /* armed when it is freed */
    vclock_resume(record.clock);
    vtimer_arm(again.timer, 0);
    vtimer_arm(victim.timer, 0);
    vtimer_arm(suicide.timer, 0);
    vclock_run_timers(record.clock);
    static const int expected[] = {1, 3};
    assert_int_equal(record.count, 2);
    assert_memory_equal(record.order, expected, sizeof(expected));
    assert_null(suicide.timer);
    assert_int_equal(vclock_next_deadline(record.clock), 0);
    vclock_advance(record.clock, 10);
    vclock_run_timers(record.clock);
    assert_int_equal(record.count, 3);
    vtimer_free(again.timer);
    vtimer_free(victim.timer);
    assert_int_equal(vclock_next_deadline(record.clock), VCLOCK_NEVER);
    vclock_free(record.clock);
}

static void run_nested(void *opaque)
{
    struct marker *marker = opaque;
    mark(marker);
    vtimer_arm(marker->timer, 0);
    /* Its own callback is running: firing it now would be a second call inside the first. */
    vclock_run_timers(marker->record->clock);
}

static void nested_runs_do_not_enter_a_running_callback(void **state)
{
    (void)state;
    struct record record = {.clock = vclock_new(VCLOCK_COUNTED, 0)};
    struct marker outer, other;
    outer = (struct marker){.record = &record, .id = 1, .rearm_to = VCLOCK_NEVER};
    outer.timer = vtimer_new(record.clock, run_nested, &outer);
    make(&other, &record, 2);
    vclock_resume(record.clock);
    vtimer_arm(outer.timer, 0);
    vtimer_arm(other.timer, 0);
    vclock_run_timers(record.clock);
    static const int expected[] = {1, 2};
    assert_int_equal(record.count, 2);
    assert_memory_equal(record.order, expected, sizeof(expected));
    assert_int_equal(vtimer_deadline(outer.timer), 0);
    vtimer_free(outer.timer);
    vtimer_free(other.timer);
    vclock_free(record.clock);
}

static void count_rearm(void *opaque)
{
    ++*(unsigned *)opaque;
}

static void rearm_is_told_only_of_earlier_deadlines(void **state)
{
    (void)state;
    struct record record = {.clock = vclock_new(VCLOCK_REAL, 0)};
    struct marker a, b;
    make(&a, &record, 1);
    make(&b, &record, 2);
    unsigned told = 0;
    vclock_on_rearm(record.clock, count_rearm, &told);
    vtimer_arm(a.timer, 100 * NS_PER_S);
    assert_int_equal(told, 1);
    vtimer_arm(b.timer, 200 * NS_PER_S);
    assert_int_equal(told, 1);
    vtimer_arm(b.timer, 50 * NS_PER_S);
    assert_int_equal(told, 2);
    vtimer_arm(b.timer, 300 * NS_PER_S); /* back: whoever sleeps wakes once in vain */
    assert_int_equal(told, 2);
    vclock_resume(record.clock);
    assert_int_equal(told, 3);
    vclock_on_rearm(record.clock, NULL, NULL);
    vtimer_arm(b.timer, 1);
    assert_int_equal(told, 3);
    vtimer_free(a.timer);
    vtimer_free(b.timer);
    vclock_free(record.clock);
}

static void real_time_runs_and_stands_still(void **state)
{
    (void)state;
    struct vclock *clock = vclock_new(VCLOCK_REAL, 77);
    assert_int_equal(vclock_now(clock), 0);
    assert_int_equal(vclock_now(clock), 0); /* starts paused */
    vclock_resume(clock);
    int64_t last = 0;
    while (last < 1000000) { /* ends: time passes */
        int64_t now = vclock_now(clock);
        assert_true(now >= last);
        last = now;
    }
    int64_t far = vclock_now(clock) + 1000 * NS_PER_S;
    int64_t delay = vclock_host_delay(clock, far);
    assert_true(delay > 0 && delay <= 1000 * NS_PER_S);
    assert_int_equal(vclock_host_delay(clock, VCLOCK_NEVER), INT64_MAX);
    vclock_pause(clock);
    int64_t stopped = vclock_now(clock);
    assert_true(stopped >= last);
    vclock_pause(clock);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(vclock_now(clock), stopped);
    assert_int_equal(vclock_wall_now(clock), stopped + 77);
    assert_int_equal(vclock_host_delay(clock, 0), INT64_MAX);
    vclock_set_now(clock, 123 * NS_PER_S);
    assert_int_equal(vclock_now(clock), 123 * NS_PER_S);
    vclock_resume(clock);
    assert_true(vclock_now(clock) >= 123 * NS_PER_S);
    vclock_free(clock);
}

struct watcher {
    struct vclock *clock;
    _Atomic bool stop;
    _Atomic bool went_back;
};

static void *watch_time(void *opaque)
{
    struct watcher *watcher = opaque;
    int64_t last = 0;
    while (!atomic_load(&watcher->stop)) {
        int64_t now = vclock_now(watcher->clock);
        if (now < last)
            atomic_store(&watcher->went_back, true);
        last = now;
    }
    return NULL;
}

static void time_never_goes_back_across_pauses(void **state)
{
    (void)state;
    struct watcher watcher = {.clock = vclock_new(VCLOCK_REAL, 0)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, watch_time, &watcher), 0);
    for (int i = 0; i < 5000; i++) {
        vclock_resume(watcher.clock);
        if (i % 50 == 0)
            sched_yield();
        vclock_pause(watcher.clock);
    }
    atomic_store(&watcher.stop, true);
    pthread_join(thread, NULL);
    assert_false(atomic_load(&watcher.went_back));
    vclock_free(watcher.clock);
}

/* A callback that is inside when another thread frees its timer. */
struct slow {
    struct vclock *clock;
    struct vtimer *timer;
    _Atomic int stage; /* 1: inside, 2: may leave, 3: left */
    _Atomic bool freed;
};

static void be_slow(void *opaque)
{
    struct slow *slow = opaque;
    atomic_store(&slow->stage, 1);
    while (atomic_load(&slow->stage) != 2)
        sched_yield();
    for (int i = 0; i < 1000; i++)
        assert_false(atomic_load(&slow->freed));
    atomic_store(&slow->stage, 3);
}

static void *free_timer(void *opaque)
{
    struct slow *slow = opaque;
    vtimer_free(slow->timer);
    assert_int_equal(atomic_load(&slow->stage), 3);
    atomic_store(&slow->freed, true);
    return NULL;
}

static void *run_timers(void *opaque)
{
    vclock_run_timers(((struct slow *)opaque)->clock);
    return NULL;
}

static void free_waits_for_a_callback_of_another_thread(void **state)
{
    (void)state;
    struct slow slow = {.clock = vclock_new(VCLOCK_COUNTED, 0)};
    slow.timer = vtimer_new(slow.clock, be_slow, &slow);
    vclock_resume(slow.clock);
    vtimer_arm(slow.timer, 0);
    pthread_t runner, freer;
    assert_int_equal(pthread_create(&runner, NULL, run_timers, &slow), 0);
    while (atomic_load(&slow.stage) != 1)
        sched_yield();
    assert_int_equal(pthread_create(&freer, NULL, free_timer, &slow), 0);
    for (int i = 0; i < 1000; i++) {
        assert_false(atomic_load(&slow.freed));
        sched_yield();
    }
    atomic_store(&slow.stage, 2);
    pthread_join(freer, NULL);
    pthread_join(runner, NULL);
    assert_true(atomic_load(&slow.freed));
    vclock_free(slow.clock);
}

/* Threads that arm, disarm and run the same timers: the sanitizers look on. */
struct crowd {
    struct vclock *clock;
    struct vtimer *timers[4];
    _Atomic unsigned fired;
};

static void count_fired(void *opaque)
{
    atomic_fetch_add((_Atomic unsigned *)opaque, 1);
}

static void *jostle(void *opaque)
{
    struct crowd *crowd = opaque;
    uint64_t seed = (uint64_t)(uintptr_t)pthread_self();
    for (int i = 0; i < 5000; i++) {
        uint64_t random = random_next(&seed);
        struct vtimer *timer = crowd->timers[random % 4];
        if (random & 16)
            vtimer_arm(timer, vclock_now(crowd->clock) + (int64_t)(random >> 32) % 5);
        else if (random & 32)
            vtimer_disarm(timer);
        else
            vclock_run_timers(crowd->clock);
        vclock_advance(crowd->clock, 1);
    }
    return NULL;
}

static void threads_may_jostle(void **state)
{
    (void)state;
    struct crowd crowd = {.clock = vclock_new(VCLOCK_COUNTED, 0)};
    for (int i = 0; i < 4; i++)
        crowd.timers[i] = vtimer_new(crowd.clock, count_fired, &crowd.fired);
    vclock_resume(crowd.clock);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, jostle, &crowd), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_true(atomic_load(&crowd.fired) > 0);
    assert_int_equal(vclock_now(crowd.clock), 15000);
    vclock_advance(crowd.clock, 10);
    vclock_run_timers(crowd.clock);
    assert_int_equal(vclock_next_deadline(crowd.clock), VCLOCK_NEVER);
    for (int i = 0; i < 4; i++)
        vtimer_free(crowd.timers[i]);
    vclock_free(crowd.clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counted_time_is_what_was_advanced),
        cmocka_unit_test(timers_fire_by_deadline_then_by_arming),
        cmocka_unit_test(no_timer_fires_while_paused),
        cmocka_unit_test(callbacks_may_arm_disarm_and_free),
        cmocka_unit_test(nested_runs_do_not_enter_a_running_callback),
        cmocka_unit_test(rearm_is_told_only_of_earlier_deadlines),
        cmocka_unit_test(real_time_runs_and_stands_still),
        cmocka_unit_test(time_never_goes_back_across_pauses),
        cmocka_unit_test(free_waits_for_a_callback_of_another_thread),
        cmocka_unit_test(threads_may_jostle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
