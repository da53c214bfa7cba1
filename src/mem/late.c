/* SPDX-License-Identifier: MIT
 *
 * Guest-physical memory: contents that come when the machine runs already. See mem.h.
 */
#include <assert.h>
#include <time.h>

#include "base/bits.h"
#include "mem/mem.h"
#include "mem/space.h"

enum { LOOK_NS = 1000000 }; /* between two looks at whether a vCPU is wanted */

void mem_late_init(struct mem_space *space)
{
    pthread_condattr_t how;
    pthread_mutex_init(&space->late_lock, NULL);
    pthread_condattr_init(&how);
    pthread_condattr_setclock(&how, CLOCK_MONOTONIC);
    pthread_cond_init(&space->late_changed, &how);
    pthread_condattr_destroy(&how);
}

void mem_late_destroy(struct mem_space *space)
{
    pthread_cond_destroy(&space->late_changed);
    pthread_mutex_destroy(&space->late_lock);
}

/* ---- the source's side ---- */

void mem_set_source(struct mem_space *space, const struct mem_source *source)
{
    space->source = source;
}

void mem_set_absent(struct mem_ram *ram, uint64_t offset, uint64_t size)
{
    assert(offset % MEM_PAGE_SIZE == 0 && range_within(offset, size, ram->size));
    _Atomic uint8_t *flag = &ram->flags[offset >> MEM_PAGE_SHIFT];
    for (uint64_t i = 0; i < size >> MEM_PAGE_SHIFT; i++)
        atomic_fetch_and_explicit(&flag[i], (uint8_t)~MEM_PAGE_PRESENT, memory_order_relaxed);
    atomic_store(&ram->lazy, true);
}

void mem_set_present(struct mem_ram *ram, uint64_t offset, uint64_t size)
{
    assert(offset % MEM_PAGE_SIZE == 0 && range_within(offset, size, ram->size));
    _Atomic uint8_t *flag = &ram->flags[offset >> MEM_PAGE_SHIFT];
    for (uint64_t i = 0; i < size >> MEM_PAGE_SHIFT; i++)
        atomic_fetch_or_explicit(&flag[i], (uint8_t)MEM_PAGE_PRESENT, memory_order_release);
}

void mem_set_complete(struct mem_ram *ram)
{
    atomic_store(&ram->lazy, false);
}

/* Waiters are called without the lock: they take a device's, whose holder may be asking here. */
void mem_came(struct mem_space *space)
{
    pthread_mutex_lock(&space->late_lock);
    while (space->calling)
        pthread_cond_wait(&space->late_changed, &space->late_lock);
    space->calling = true;
    pthread_cond_broadcast(&space->late_changed);
    struct mem_waiter *waiter = space->waiters;
    space->waiters = NULL;
    while (waiter != NULL) {
        const struct mem_waiter one = *waiter;
        waiter->waits = false; /* from here on it may be listed again */
        pthread_mutex_unlock(&space->late_lock);
        one.came(one.opaque);
        pthread_mutex_lock(&space->late_lock);
        waiter = one.next;
    }
    space->calling = false;
    pthread_cond_broadcast(&space->late_changed);
    pthread_mutex_unlock(&space->late_lock);
}

/* ---- those who want something ---- */

static bool is_there(const struct mem_ram *ram, uint64_t offset)
{
    return (atomic_load_explicit(&ram->flags[offset >> MEM_PAGE_SHIFT], memory_order_acquire) &
            MEM_PAGE_PRESENT) != 0;
}

bool mem_want_slow(struct mem_space *space, struct mem_ram *ram, uint64_t gpa, uint64_t length)
{
    if (length == 0)
        return true;
    uint64_t first = gpa - ram->gpa, last = first + (length - 1);
    for (uint64_t at = align_down(first, MEM_PAGE_SIZE); at <= last; at += MEM_PAGE_SIZE)
        if (!is_there(ram, at) && !space->source->fetch(space->source->opaque, ram, at))
            return false;
    return true;
}

/* Until the page is there, or *stop. */
static bool wait_unless(struct mem_space *space, struct mem_ram *ram, uint64_t offset,
                        const _Atomic uint32_t *stop)
{
    space->source->ask(space->source->opaque, ram, offset);
    bool there;
    pthread_mutex_lock(&space->late_lock);
    while (!(there = is_there(ram, offset)) && atomic_load(stop) == 0) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&space->late_changed, &space->late_lock, &until);
    }
    pthread_mutex_unlock(&space->late_lock);
    return there;
}

enum mem_there mem_want_unless_slow(struct mem_space *space, struct mem_ram *ram, uint64_t gpa,
                                    uint64_t length, const _Atomic uint32_t *stop)
{
    if (space->source->ask == NULL)
        return mem_want_slow(space, ram, gpa, length) ? MEM_THERE : MEM_LOST;
    uint64_t first = gpa - ram->gpa, last = first + (length - 1);
    for (uint64_t at = align_down(first, MEM_PAGE_SIZE); length > 0 && at <= last;
         at += MEM_PAGE_SIZE)
        if (!is_there(ram, at) && !wait_unless(space, ram, at, stop))
            return MEM_LATER;
    return MEM_THERE;
}

bool mem_is_late(const struct mem_space *space)
{
    for (size_t i = 0; i < space->ram_count; i++)
        if (atomic_load_explicit(&space->ram[i]->lazy, memory_order_acquire))
            return space->source->ask != NULL;
    return false;
}

static bool all_there(struct mem_space *space, uint64_t gpa, uint64_t length, bool ask)
{
    bool all = true;
    while (length > 0) {
        struct mem_ram *ram = mem_ram_find(space, gpa);
        if (ram == NULL)
            return all;
        uint64_t offset = gpa - ram->gpa, part = MEM_PAGE_SIZE - offset % MEM_PAGE_SIZE;
        if (!is_there(ram, offset)) {
            all = false;
            if (ask)
                space->source->ask(space->source->opaque, ram, align_down(offset, MEM_PAGE_SIZE));
        }
        part = part < length ? part : length;
        if (gpa > UINT64_MAX - part)
            return all;
        gpa += part;
        length -= part;
    }
    return all;
}

bool mem_ready_slow(struct mem_space *space, uint64_t gpa, uint64_t length,
                    struct mem_waiter *waiter)
{
    if (all_there(space, gpa, length, false))
        return true;
    if (waiter == NULL)
        return all_there(space, gpa, length, true);
    pthread_mutex_lock(&space->late_lock);
    if (!waiter->waits) {
        waiter->waits = true;
        waiter->next = space->waiters;
        space->waiters = waiter;
    }
    pthread_mutex_unlock(&space->late_lock);
    /* Listed first, then asked: what comes in between is heard of. */
    return all_there(space, gpa, length, true);
}

void mem_forget_waiter(struct mem_space *space, struct mem_waiter *waiter)
{
    pthread_mutex_lock(&space->late_lock);
    while (space->calling)
        pthread_cond_wait(&space->late_changed, &space->late_lock);
    struct mem_waiter **link = &space->waiters;
    while (*link != NULL && *link != waiter)
        link = &(*link)->next;
    if (*link != NULL)
        *link = waiter->next;
    waiter->waits = false;
    pthread_mutex_unlock(&space->late_lock);
}
