/* SPDX-License-Identifier: MIT
 *
 * See demand.h. A page is absent until its contents are written; meanwhile it may be claimed by the
 * stream that brings it. Flags of mem/ are what others see; the lists here are what the source is
 * held to.
 */
#include "migrate/demand.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/vclock.h"
#include "mem/mem.h"
#include "migrate/absent.h"

enum { WORDS_MAX = 4, ALIVE_PART = 5 /* of patience */ };

struct demand {
    struct mem_space *mem;
    struct mem_source source;
    struct wire *wire;
    int64_t patience_ns;
    void (*finish)(void *opaque);
    void *opaque;
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t changed;
    struct absent absent;
    struct absent claimed; /* ... and being written */
    struct absent wanted;  /* ... and asked for, perhaps not yet by us of the source */
    uint64_t *queue;       /* gpa: to be asked of the source; a ring */
    size_t first, count, capacity;
    enum wire_type words[WORDS_MAX];
    size_t word_count;
    bool begun, gave_up, runs, stop, over;
};

/* ---- those who ask: mem_source ---- */

/* With the lock. */
static void enqueue(struct demand *demand, uint64_t gpa)
{
    if (demand->count == demand->capacity) {
        size_t capacity = demand->capacity > 0 ? 2 * demand->capacity : 256;
        uint64_t *queue = alloc_zeroed(capacity, sizeof(*queue));
        for (size_t i = 0; i < demand->count; i++)
            queue[i] = demand->queue[(demand->first + i) % demand->capacity];
        free(demand->queue);
        demand->queue = queue;
        demand->capacity = capacity;
        demand->first = 0;
    }
    demand->queue[(demand->first + demand->count++) % demand->capacity] = gpa;
}

static void set(struct absent *absent, size_t region, uint64_t page)
{
    uint64_t *word = &absent->bits[region][page / 64], bit = UINT64_C(1) << (page % 64);
    absent->pages += (*word & bit) == 0;
    *word |= bit;
}

static void ask(void *opaque, struct mem_ram *ram, uint64_t offset)
{
    struct demand *demand = opaque;
    size_t region = absent_region(&demand->absent, ram);
    uint64_t page = offset >> MEM_PAGE_SHIFT;
    pthread_mutex_lock(&demand->lock);
    if (absent_has(&demand->absent, region, page) && !absent_has(&demand->wanted, region, page)) {
        set(&demand->wanted, region, page);
        enqueue(demand, ram->gpa + align_down(offset, MEM_PAGE_SIZE));
        pthread_cond_broadcast(&demand->changed);
    }
    pthread_mutex_unlock(&demand->lock);
}

/* State that is being loaded needs memory (rings of queues). The machine does not run, and whoever
 * waits here waits for as long as a stream may be silent at most: without the page there is no
 * machine here. Once it runs nobody comes here: devices that would make it impossible
 * (vm_can_run_without_memory()). */
static bool fetch(void *opaque, struct mem_ram *ram, uint64_t offset)
{
    struct demand *demand = opaque;
    size_t region = absent_region(&demand->absent, ram);
    uint64_t page = offset >> MEM_PAGE_SHIFT;
    int error = 0;
    ask(opaque, ram, offset);
    pthread_mutex_lock(&demand->lock);
    int64_t deadline = wire_now() + demand->patience_ns;
    const struct timespec until = {.tv_sec = deadline / NS_PER_S, .tv_nsec = deadline % NS_PER_S};
    while (absent_has(&demand->absent, region, page) && !demand->gave_up && error == 0)
        error = pthread_cond_timedwait(&demand->changed, &demand->lock, &until);
    bool there = !absent_has(&demand->absent, region, page);
    pthread_mutex_unlock(&demand->lock);
    return there;
}

/* ---- what comes ---- */

bool demand_claim(struct demand *demand, struct mem_ram *ram, uint64_t offset, uint64_t size)
{
    size_t region = absent_region(&demand->absent, ram);
    uint64_t first = offset >> MEM_PAGE_SHIFT, end = (offset + size) >> MEM_PAGE_SHIFT;
    bool good = true;
    pthread_mutex_lock(&demand->lock);
    for (uint64_t page = first; good && page < end; page++)
        good = absent_has(&demand->absent, region, page) &&
               !absent_has(&demand->claimed, region, page);
    for (uint64_t page = first; good && page < end; page++)
        set(&demand->claimed, region, page);
    pthread_mutex_unlock(&demand->lock);
    return good;
}

void demand_arrived(struct demand *demand, struct mem_ram *ram, uint64_t offset, uint64_t size)
{
    size_t region = absent_region(&demand->absent, ram);
    uint64_t first = offset >> MEM_PAGE_SHIFT, end = (offset + size) >> MEM_PAGE_SHIFT;
    bool wanted = false;
    mem_set_present(ram, offset, size);
    pthread_mutex_lock(&demand->lock);
    for (uint64_t page = first; page < end; page++) {
        wanted = absent_take(&demand->wanted, region, page) || wanted;
        (void)absent_take(&demand->claimed, region, page);
        (void)absent_take(&demand->absent, region, page);
    }
    if (wanted || demand->absent.pages == 0)
        pthread_cond_broadcast(&demand->changed);
    pthread_mutex_unlock(&demand->lock);
    if (wanted)
        mem_came(demand->mem);
}

uint64_t demand_left(struct demand *demand)
{
    pthread_mutex_lock(&demand->lock);
    uint64_t left = demand->absent.pages << MEM_PAGE_SHIFT;
    pthread_mutex_unlock(&demand->lock);
    return left;
}

bool demand_is_over(struct demand *demand)
{
    pthread_mutex_lock(&demand->lock);
    bool over = demand->over;
    pthread_mutex_unlock(&demand->lock);
    return over;
}

/* ---- asking the source ---- */

static bool send_wanted(struct demand *demand, struct wire *wire)
{
    uint8_t body[8 * WIRE_WANT_MAX];
    size_t count = 0;
    for (; demand->count > 0 && count < WIRE_WANT_MAX; demand->count--, count++) {
        store_le64(body + 8 * count, demand->queue[demand->first]);
        demand->first = (demand->first + 1) % demand->capacity;
    }
    pthread_mutex_unlock(&demand->lock);
    bool good = wire_put(wire, WIRE_WANT, body, 8 * count, demand->patience_ns, NULL);
    pthread_mutex_lock(&demand->lock);
    return good;
}

static bool send_word(struct demand *demand, enum wire_type word)
{
    pthread_mutex_unlock(&demand->lock);
    bool good = wire_put(demand->wire, word, NULL, 0, demand->patience_ns, NULL);
    pthread_mutex_lock(&demand->lock);
    return good;
}

static bool speak_once(struct demand *demand)
{
    if (demand->word_count > 0) {
        enum wire_type word = demand->words[0];
        for (size_t i = 1; i < demand->word_count; i++)
            demand->words[i - 1] = demand->words[i];
        demand->word_count--;
        return send_word(demand, word);
    }
    if (demand->count > 0)
        return send_wanted(demand, demand->wire);
    if (demand->absent.pages == 0 && demand->runs) {
        /* First: the source closes the streams as soon as it hears it. If it does not hear it, it asks. */
        demand->over = true;
        (void)send_word(demand, WIRE_ALL);
        return false;
    }
    int64_t alive = wire_now() + demand->patience_ns / ALIVE_PART;
    const struct timespec until = {.tv_sec = alive / NS_PER_S, .tv_nsec = alive % NS_PER_S};
    return pthread_cond_timedwait(&demand->changed, &demand->lock, &until) == 0 ||
           send_word(demand, WIRE_ALIVE);
}

/* That a stream is dead hears whoever reads from it. */
static void *speak(void *opaque)
{
    struct demand *demand = opaque;
    pthread_mutex_lock(&demand->lock);
    while (!demand->stop && speak_once(demand))
        ;
    bool stop = demand->stop;
    pthread_mutex_unlock(&demand->lock);
    if (!stop)
        demand->finish(demand->opaque);
    return NULL;
}

bool demand_connect(struct demand *demand, struct wire *wire, int64_t patience_ns,
                    void (*finish)(void *opaque), void *opaque, struct error **err)
{
    size_t region = 0;
    pthread_mutex_lock(&demand->lock);
    demand->wire = wire;
    demand->patience_ns = patience_ns;
    demand->finish = finish;
    demand->opaque = opaque;
    demand->stop = false;
    demand->count = demand->word_count = 0;
    for (uint64_t page = 0, left = demand->wanted.pages; left > 0; left--, page++) {
        (void)absent_next(&demand->wanted, &region, &page);
        enqueue(demand, mem_ram_at(demand->mem, region)->gpa + (page << MEM_PAGE_SHIFT));
    }
    pthread_mutex_unlock(&demand->lock);
    int error = pthread_create(&demand->thread, NULL, speak, demand);
    demand->has_thread = error == 0;
    return error == 0 || error_set_errno(err, error, "cannot start a thread");
}

void demand_disconnect(struct demand *demand)
{
    pthread_mutex_lock(&demand->lock);
    demand->stop = true;
    pthread_cond_broadcast(&demand->changed);
    pthread_mutex_unlock(&demand->lock);
    if (demand->has_thread)
        pthread_join(demand->thread, NULL);
    demand->has_thread = false;
}

void demand_give_up(struct demand *demand)
{
    pthread_mutex_lock(&demand->lock);
    demand->gave_up = true;
    pthread_cond_broadcast(&demand->changed);
    pthread_mutex_unlock(&demand->lock);
}

void demand_say(struct demand *demand, enum wire_type type)
{
    pthread_mutex_lock(&demand->lock);
    if (demand->word_count < WORDS_MAX)
        demand->words[demand->word_count++] = type;
    pthread_cond_broadcast(&demand->changed);
    pthread_mutex_unlock(&demand->lock);
}

void demand_runs(struct demand *demand)
{
    pthread_mutex_lock(&demand->lock);
    demand->runs = true;
    pthread_cond_broadcast(&demand->changed);
    pthread_mutex_unlock(&demand->lock);
}

/* ---- life ---- */

struct demand *demand_new(struct mem_space *mem)
{
    struct demand *demand = alloc_zeroed(1, sizeof(*demand));
    pthread_condattr_t how;
    demand->mem = mem;
    demand->source = (struct mem_source){.fetch = fetch, .ask = ask, .opaque = demand};
    absent_init(&demand->absent, mem);
    absent_init(&demand->claimed, mem);
    absent_init(&demand->wanted, mem);
    pthread_mutex_init(&demand->lock, NULL);
    pthread_condattr_init(&how);
    pthread_condattr_setclock(&how, CLOCK_MONOTONIC);
    pthread_cond_init(&demand->changed, &how);
    pthread_condattr_destroy(&how);
    return demand;
}

void demand_free(struct demand *demand)
{
    if (demand == NULL)
        return;
    demand_disconnect(demand);
    if (demand->begun) {
        for (size_t i = 0; i < mem_ram_count(demand->mem); i++)
            mem_set_complete(mem_ram_at(demand->mem, i));
        mem_set_source(demand->mem, NULL);
    }
    absent_clear(&demand->absent);
    absent_clear(&demand->claimed);
    absent_clear(&demand->wanted);
    free(demand->queue);
    pthread_cond_destroy(&demand->changed);
    pthread_mutex_destroy(&demand->lock);
    free(demand);
}

bool demand_add(struct demand *demand, const struct wire_frame *absent, struct error **err)
{
    return absent_receive(&demand->absent, absent, err);
}

void demand_begin(struct demand *demand)
{
    size_t region = 0;
    demand->begun = true;
    mem_set_source(demand->mem, &demand->source);
    for (uint64_t page = 0, left = demand->absent.pages; left > 0; left--, page++) {
        (void)absent_next(&demand->absent, &region, &page);
        mem_set_absent(mem_ram_at(demand->mem, region), page << MEM_PAGE_SHIFT, MEM_PAGE_SIZE);
    }
}

bool demand_send_list(struct demand *demand, struct wire *wire, int64_t patience_ns,
                      struct error **err)
{
    return absent_send(&demand->absent, wire, patience_ns, err);
}
