/* SPDX-License-Identifier: MIT
 *
 * Virtual time and its timers.
 *
 * now = base_virtual + (running, real mode ? host clock - base_host : 0). The three are
 * written under the mutex inside a sequence lock, because reading the time is what guests do
 * all day long. In counted mode only base_virtual changes, by an atomic addition.
 *
 * Armed timers are a list sorted by deadline, those of equal deadline in order of arming, so
 * that counted mode fires them in the same order in every run. A VM has a few timers per
 * hart and device: a list beats a heap at that size. `earliest` mirrors its head for readers
 * without the lock.
 *
 * Every callback that runs has a `struct firing` on the stack of its thread, linked into the
 * clock: vtimer_free() waits on those of other threads, and detaches one of its own thread
 * (a callback that frees its own timer). One timer's callback never runs twice at once.
 */
#include "base/vclock.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"

struct vtimer {
    struct vclock *clock;
    vtimer_fn *fn;
    void *opaque;
    _Atomic int64_t deadline; /* written under the clock's lock */
    uint64_t armed_at;        /* clock->arm_count at the time */
    struct vtimer *previous, *next;
};

struct firing {
    struct vtimer *timer; /* NULL: freed by its own callback */
    pthread_t thread;
    struct firing *next;
};

struct vclock {
    enum vclock_mode mode;
    pthread_mutex_t lock;
    pthread_cond_t fired; /* a callback returned */

    _Atomic unsigned sequence; /* odd: the three below are being changed */
    _Atomic bool running;
    _Atomic int64_t base_virtual;
    _Atomic int64_t base_host;
    _Atomic int64_t wall_at_zero; /* wall-clock time of virtual time 0 */

    struct vtimer *head;
    struct firing *firings;
    _Atomic int64_t earliest;
    uint64_t arm_count;
    unsigned timer_count;

    void (*on_rearm)(void *opaque);
    void *on_rearm_opaque;
    void (*on_set_wall)(void *opaque);
    void *on_set_wall_opaque;
};

static int64_t host_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

struct vclock *vclock_new(enum vclock_mode mode, int64_t wall_epoch_ns)
{
    struct vclock *clock = alloc_zeroed(1, sizeof(*clock));
    clock->mode = mode;
    pthread_mutex_init(&clock->lock, NULL);
    pthread_cond_init(&clock->fired, NULL);
    atomic_init(&clock->wall_at_zero, wall_epoch_ns);
    atomic_init(&clock->earliest, VCLOCK_NEVER);
    return clock;
}

void vclock_free(struct vclock *clock)
{
    if (!clock)
        return;
    assert(clock->timer_count == 0 && !clock->firings);
    pthread_cond_destroy(&clock->fired);
    pthread_mutex_destroy(&clock->lock);
    free(clock);
}

enum vclock_mode vclock_mode(const struct vclock *clock)
{
    return clock->mode;
}

/* ---- time ---- */

int64_t vclock_now(struct vclock *clock)
{
    if (clock->mode == VCLOCK_COUNTED)
        return atomic_load_explicit(&clock->base_virtual, memory_order_acquire);
    for (;;) {
        unsigned before = atomic_load_explicit(&clock->sequence, memory_order_acquire);
        bool running = atomic_load_explicit(&clock->running, memory_order_acquire);
        int64_t virtual_ns = atomic_load_explicit(&clock->base_virtual, memory_order_acquire);
        int64_t base_host = atomic_load_explicit(&clock->base_host, memory_order_acquire);
        if (running)
            virtual_ns += host_now() - base_host;
        /* The loads above are acquires: none of them can sink below this one. */
        unsigned after = atomic_load_explicit(&clock->sequence, memory_order_relaxed);
        if (before == after && !(before & 1))
            return virtual_ns;
    }
}

/* Lock held. Between the two, vclock_now() waits. */
static void begin_change(struct vclock *clock)
{
    atomic_fetch_add(&clock->sequence, 1);
}

static void end_change(struct vclock *clock)
{
    atomic_fetch_add(&clock->sequence, 1);
}

int64_t vclock_wall_now(struct vclock *clock)
{
    /* A guest may set its RTC to any value: the sum wraps. */
    return (int64_t)((uint64_t)atomic_load(&clock->wall_at_zero) + (uint64_t)vclock_now(clock));
}

void vclock_set_wall(struct vclock *clock, int64_t wall_ns)
{
    /* A guest may write anything into its RTC: wrap instead of overflowing. */
    int64_t at_zero = (int64_t)((uint64_t)wall_ns - (uint64_t)vclock_now(clock));
    atomic_store(&clock->wall_at_zero, at_zero);
    pthread_mutex_lock(&clock->lock);
    void (*fn)(void *) = clock->on_set_wall;
    void *opaque = clock->on_set_wall_opaque;
    pthread_mutex_unlock(&clock->lock);
    if (fn)
        fn(opaque);
}

void vclock_on_set_wall(struct vclock *clock, void (*fn)(void *opaque), void *opaque)
{
    pthread_mutex_lock(&clock->lock);
    clock->on_set_wall = fn;
    clock->on_set_wall_opaque = opaque;
    pthread_mutex_unlock(&clock->lock);
}

static void tell_rearm(struct vclock *clock)
{
    pthread_mutex_lock(&clock->lock);
    void (*fn)(void *) = clock->on_rearm;
    void *opaque = clock->on_rearm_opaque;
    pthread_mutex_unlock(&clock->lock);
    if (fn)
        fn(opaque);
}

void vclock_on_rearm(struct vclock *clock, void (*fn)(void *opaque), void *opaque)
{
    pthread_mutex_lock(&clock->lock);
    clock->on_rearm = fn;
    clock->on_rearm_opaque = opaque;
    pthread_mutex_unlock(&clock->lock);
}

void vclock_set_now(struct vclock *clock, int64_t now_ns)
{
    assert(now_ns >= 0);
    pthread_mutex_lock(&clock->lock);
    assert(!atomic_load(&clock->running));
    begin_change(clock);
    atomic_store(&clock->base_virtual, now_ns);
    end_change(clock);
    pthread_mutex_unlock(&clock->lock);
}

void vclock_pause(struct vclock *clock)
{
    pthread_mutex_lock(&clock->lock);
    if (atomic_load(&clock->running)) {
        begin_change(clock);
        atomic_store(&clock->running, false);
        /* The host clock is read after begin_change(): whoever read a later time before
         * would see virtual time go back. */
        if (clock->mode == VCLOCK_REAL)
            atomic_fetch_add(&clock->base_virtual, host_now() - atomic_load(&clock->base_host));
        end_change(clock);
    }
    pthread_mutex_unlock(&clock->lock);
}

void vclock_resume(struct vclock *clock)
{
    pthread_mutex_lock(&clock->lock);
    if (!atomic_load(&clock->running)) {
        begin_change(clock);
        atomic_store(&clock->base_host, host_now());
        atomic_store(&clock->running, true);
        end_change(clock);
    }
    pthread_mutex_unlock(&clock->lock);
    tell_rearm(clock);
}

void vclock_advance(struct vclock *clock, int64_t delta_ns)
{
    assert(clock->mode == VCLOCK_COUNTED && delta_ns >= 0);
    atomic_fetch_add_explicit(&clock->base_virtual, delta_ns, memory_order_acq_rel);
}

int64_t vclock_next_deadline(struct vclock *clock)
{
    return atomic_load_explicit(&clock->earliest, memory_order_acquire);
}

int64_t vclock_host_delay(struct vclock *clock, int64_t deadline)
{
    if (deadline == VCLOCK_NEVER || !atomic_load(&clock->running))
        return INT64_MAX;
    int64_t now = vclock_now(clock);
    if (deadline <= now)
        return 0;
    /* No amount of sleeping moves a counted clock. */
    return clock->mode == VCLOCK_COUNTED ? INT64_MAX : deadline - now;
}

/* ---- timers ---- */

struct vtimer *vtimer_new(struct vclock *clock, vtimer_fn *fn, void *opaque)
{
    struct vtimer *timer = alloc_zeroed(1, sizeof(*timer));
    timer->clock = clock;
    timer->fn = fn;
    timer->opaque = opaque;
    atomic_init(&timer->deadline, VCLOCK_NEVER);
    pthread_mutex_lock(&clock->lock);
    clock->timer_count++;
    pthread_mutex_unlock(&clock->lock);
    return timer;
}

/* Lock held. */
static void refresh_earliest(struct vclock *clock)
{
    int64_t earliest = clock->head ? atomic_load(&clock->head->deadline) : VCLOCK_NEVER;
    atomic_store_explicit(&clock->earliest, earliest, memory_order_release);
}

/* Lock held. */
static void unlink_timer(struct vtimer *timer)
{
    struct vclock *clock = timer->clock;
    if (atomic_load(&timer->deadline) == VCLOCK_NEVER)
        return;
    if (timer->previous)
        timer->previous->next = timer->next;
    else
        clock->head = timer->next;
    if (timer->next)
        timer->next->previous = timer->previous;
    timer->previous = timer->next = NULL;
    atomic_store(&timer->deadline, VCLOCK_NEVER);
}

/* Lock held; the timer is not linked. */
static void link_timer(struct vtimer *timer, int64_t deadline)
{
    struct vclock *clock = timer->clock;
    struct vtimer *before = NULL;
    struct vtimer *after = clock->head;
    while (after && atomic_load(&after->deadline) <= deadline) {
        before = after;
        after = after->next;
    }
    timer->previous = before;
    timer->next = after;
    if (before)
        before->next = timer;
    else
        clock->head = timer;
    if (after)
        after->previous = timer;
    atomic_store(&timer->deadline, deadline);
    timer->armed_at = clock->arm_count++;
}

void vtimer_arm(struct vtimer *timer, int64_t deadline_ns)
{
    struct vclock *clock = timer->clock;
    pthread_mutex_lock(&clock->lock);
    int64_t earliest_before = atomic_load(&clock->earliest);
    unlink_timer(timer);
    if (deadline_ns != VCLOCK_NEVER)
        link_timer(timer, deadline_ns);
    refresh_earliest(clock);
    bool earlier = atomic_load(&clock->earliest) < earliest_before;
    pthread_mutex_unlock(&clock->lock);
    if (earlier)
        tell_rearm(clock);
}

void vtimer_disarm(struct vtimer *timer)
{
    vtimer_arm(timer, VCLOCK_NEVER);
}

int64_t vtimer_deadline(const struct vtimer *timer)
{
    return atomic_load(&timer->deadline);
}

/* Lock held. The running callback of a timer, or NULL. */
static struct firing *find_firing(const struct vtimer *timer)
{
    struct firing *firing = timer->clock->firings;
    while (firing && firing->timer != timer)
        firing = firing->next;
    return firing;
}

void vtimer_free(struct vtimer *timer)
{
    if (!timer)
        return;
    struct vclock *clock = timer->clock;
    pthread_mutex_lock(&clock->lock);
    struct firing *firing;
    while ((firing = find_firing(timer)) && !pthread_equal(firing->thread, pthread_self()))
        pthread_cond_wait(&clock->fired, &clock->lock);
    if (firing)
        firing->timer = NULL;
    unlink_timer(timer); /* the callback may have armed it again */
    refresh_earliest(clock);
    clock->timer_count--;
    pthread_mutex_unlock(&clock->lock);
    free(timer);
}

/* Lock held; released while the callback runs. */
static void fire(struct vclock *clock, struct vtimer *timer)
{
    struct firing firing = {timer, pthread_self(), clock->firings};
    clock->firings = &firing;
    unlink_timer(timer);
    refresh_earliest(clock);
    vtimer_fn *fn = timer->fn;
    void *opaque = timer->opaque;
    pthread_mutex_unlock(&clock->lock);

    fn(opaque);

    pthread_mutex_lock(&clock->lock);
    struct firing **link = &clock->firings;
    while (*link != &firing)
        link = &(*link)->next;
    *link = firing.next;
    pthread_cond_broadcast(&clock->fired);
}

void vclock_run_timers(struct vclock *clock)
{
    pthread_mutex_lock(&clock->lock);
    /* What callbacks arm, even in the past, is for the next call: this one must end. */
    uint64_t limit = clock->arm_count;
    int64_t now = vclock_now(clock);
    struct vtimer *timer = clock->head;
    while (timer && atomic_load(&clock->running) && atomic_load(&timer->deadline) <= now) {
        const struct firing *firing = find_firing(timer);
        bool nested = firing && pthread_equal(firing->thread, pthread_self());
        if (timer->armed_at >= limit || nested) {
            timer = timer->next;
            continue;
        }
        if (firing)
            pthread_cond_wait(&clock->fired, &clock->lock);
        else
            fire(clock, timer);
        timer = clock->head; /* the lock was released: anything may have changed */
    }
    pthread_mutex_unlock(&clock->lock);
}
