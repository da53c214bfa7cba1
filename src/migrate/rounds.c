/* SPDX-License-Identifier: MIT
 *
 * See rounds.h. Streams take blocks of memory one after the other, copy the marked pages of them
 * into a frame of their own (the guest may be writing to them), and send it when it is full.
 */
#include "migrate/rounds.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "mem/mem.h"
#include "migrate/batch.h"
#include "migrate/delta.h"
#include "migrate/wire.h"

enum {
    BLOCK_PAGES = 512, /* a huge page's; a multiple of 64 */
    MAX_REGIONS = 16,
    NAP_NS = 20000000
};
/* What copies for deltas may take of the host: an eighth of the guest's memory, or this if that is
 * more. */
#define COPIES_MIN (UINT64_C(64) << 20)

struct region {
    struct mem_ram *ram;
    uint64_t *marked; /* a bit for each page */
    size_t first;     /* block */
};

/* What one stream's thread works with. */
struct sender {
    struct rounds *rounds;
    struct wire *wire;
    pthread_t thread;
    bool has_thread;
    struct batch batch;
    uint64_t copied; /* bytes of the block so far */
};

struct rounds {
    struct mem_space *mem;
    struct region regions[MAX_REGIONS];
    size_t region_count, block_count;
    uint64_t total;
    struct sender *senders;
    size_t count;
    struct delta_cache *deltas; /* NULL: none are sent */

    struct round_options options; /* of the round under way: written while no sender works */
    _Atomic size_t next;          /* block to take */
    _Atomic uint64_t left, copied;

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t changed;
    unsigned round; /* how many have been begun */
    size_t working; /* senders with threads that are not done with it */
    bool stop;
    int64_t pace_ns;     /* when bandwidth allows more; CLOCK_MONOTONIC */
    struct error *error; /* the first */
};

/* ---- pages ---- */

void rounds_mark_all(struct rounds *rounds)
{
    rounds_mark_dirty(rounds); /* these are included; what comes is noted anew */
    for (size_t i = 0; i < rounds->region_count; i++) {
        struct region *region = &rounds->regions[i];
        uint64_t pages = region->ram->size >> MEM_PAGE_SHIFT;
        memset(region->marked, 0xff, (size_t)(pages / 64 * sizeof(uint64_t)));
        if (pages % 64 != 0)
            region->marked[pages / 64] = (UINT64_C(1) << (pages % 64)) - 1;
        mem_drop_untouched(rounds->mem, region->ram, region->marked);
    }
}

void rounds_mark_dirty(struct rounds *rounds)
{
    for (size_t i = 0; i < rounds->region_count; i++) {
        struct region *region = &rounds->regions[i];
        mem_dirty_take(rounds->mem, region->ram, region->ram->gpa, region->ram->size,
                       region->marked);
    }
}

void rounds_hand_over(struct rounds *rounds, rounds_marked_fn *fn, void *opaque)
{
    for (size_t i = 0; i < rounds->region_count; i++) {
        struct region *region = &rounds->regions[i];
        uint64_t pages = region->ram->size >> MEM_PAGE_SHIFT;
        fn(opaque, i, region->marked);
        memset(region->marked, 0, (size_t)((pages + 63) / 64 * sizeof(uint64_t)));
    }
}

uint64_t rounds_dirty(const struct rounds *rounds)
{
    uint64_t pages = 0;
    for (size_t i = 0; i < rounds->region_count; i++)
        pages += mem_dirty_count(rounds->mem, rounds->regions[i].ram);
    return pages << MEM_PAGE_SHIFT;
}

uint64_t rounds_total(const struct rounds *rounds)
{
    return rounds->total;
}

uint64_t rounds_left(const struct rounds *rounds)
{
    return atomic_load_explicit(&rounds->left, memory_order_relaxed);
}

uint64_t rounds_copied(const struct rounds *rounds)
{
    return atomic_load_explicit(&rounds->copied, memory_order_relaxed);
}

/* ---- one frame ---- */

static bool is_stopped(struct rounds *rounds)
{
    pthread_mutex_lock(&rounds->lock);
    bool stop = rounds->stop;
    pthread_mutex_unlock(&rounds->lock);
    return stop;
}

/* Waits until so many bytes more do not exceed the bandwidth. */
static bool pace(struct rounds *rounds, size_t bytes, struct error **err)
{
    if (rounds->options.bandwidth == 0)
        return true;
    int64_t now = wire_now();
    pthread_mutex_lock(&rounds->lock);
    int64_t when = rounds->pace_ns > now ? rounds->pace_ns : now;
    rounds->pace_ns = when + (int64_t)((double)bytes * 1e9 / (double)rounds->options.bandwidth);
    pthread_mutex_unlock(&rounds->lock);
    for (; now < when; now = wire_now()) {
        if (is_stopped(rounds))
            return error_set(err, ERROR_HOST, "the migration was called off");
        int64_t nap = when - now < NAP_NS ? when - now : NAP_NS;
        nanosleep(&(struct timespec){.tv_nsec = (long)nap}, NULL);
    }
    return true;
}

static bool flush(struct sender *sender, struct error **err)
{
    struct rounds *rounds = sender->rounds;
    if (sender->batch.size == 0)
        return true;
    size_t size;
    uint8_t *frame = batch_finish(&sender->batch, &size);
    return pace(rounds, WIRE_HEADER + size, err) &&
           wire_send(sender->wire, WIRE_MEMORY, frame, size, rounds->options.patience_ns, err);
}

/* False: it has to be sent whole. */
static bool add_delta(struct sender *sender, uint64_t number, uint64_t gpa, const uint8_t *page)
{
    uint8_t delta[DELTA_MAX];
    size_t size = delta_next(sender->rounds->deltas, number, page, delta);
    if (size != SIZE_MAX)
        batch_add_delta(&sender->batch, gpa, delta, size);
    return size != SIZE_MAX;
}

/* `number`: of the page, of all regions'. */
static bool send_page(struct sender *sender, const struct mem_ram *ram, uint64_t offset,
                      uint64_t number, struct error **err)
{
    struct rounds *rounds = sender->rounds;
    uint64_t gpa = ram->gpa + offset;
    if (batch_is_full(&sender->batch) && !flush(sender, err))
        return false;
    uint8_t *page = batch_room(&sender->batch, gpa);
    bool zero = batch_copy(page, ram->host + offset);
    sender->copied += zero ? 0 : MEM_PAGE_SIZE;
    if (rounds->deltas != NULL && !rounds->options.fresh && add_delta(sender, number, gpa, page))
        return true;
    if (!zero || !rounds->options.fresh)
        batch_add(&sender->batch, zero ? WIRE_RUN_ZERO : WIRE_RUN_BYTES, gpa);
    return true;
}

/* ---- one round ---- */

static bool send_block(struct sender *sender, size_t block, struct error **err)
{
    struct rounds *rounds = sender->rounds;
    size_t r = 0;
    while (r + 1 < rounds->region_count && block >= rounds->regions[r + 1].first)
        r++;
    const struct region *region = &rounds->regions[r];
    uint64_t first = (uint64_t)(block - region->first) * BLOCK_PAGES;
    uint64_t pages = region->ram->size >> MEM_PAGE_SHIFT;
    uint64_t end = first + BLOCK_PAGES < pages ? first + BLOCK_PAGES : pages;
    uint64_t sent = 0;
    sender->copied = 0;
    for (uint64_t word = first / 64; word * 64 < end; word++)
        for (uint64_t bits = region->marked[word]; bits != 0; bits &= bits - 1) {
            uint64_t offset = (word * 64 + (uint64_t)__builtin_ctzll(bits)) << MEM_PAGE_SHIFT;
            if (!mem_want(rounds->mem, region->ram, region->ram->gpa + offset, MEM_PAGE_SIZE))
                return error_set(err, ERROR_HOST, "contents of the guest's memory are lost");
            uint64_t number = (uint64_t)region->first * BLOCK_PAGES + (offset >> MEM_PAGE_SHIFT);
            if (!send_page(sender, region->ram, offset, number, err))
                return false;
            sent += MEM_PAGE_SIZE;
        }
    atomic_fetch_add_explicit(&rounds->copied, sender->copied, memory_order_relaxed);
    atomic_fetch_sub_explicit(&rounds->left, sent, memory_order_relaxed);
    return true;
}

static bool send_blocks(struct sender *sender, struct error **err)
{
    struct rounds *rounds = sender->rounds;
    uint8_t body[8];
    for (size_t block; (block = atomic_fetch_add(&rounds->next, 1)) < rounds->block_count;)
        if (!send_block(sender, block, err))
            return false;
    store_le32(body, rounds->options.number);
    store_le32(body + 4, (uint32_t)rounds->options.last);
    return flush(sender, err) &&
           wire_put(sender->wire, WIRE_ROUND, body, sizeof(body), rounds->options.patience_ns, err);
}

/* A stream that fails ends the others' work. */
static void work(struct sender *sender)
{
    struct rounds *rounds = sender->rounds;
    struct error *error = NULL;
    batch_empty(&sender->batch);
    if (send_blocks(sender, &error))
        return;
    pthread_mutex_lock(&rounds->lock);
    bool first = rounds->error == NULL;
    if (first)
        rounds->error = error;
    pthread_mutex_unlock(&rounds->lock);
    if (!first)
        error_free(error);
    for (size_t i = 1; first && i < rounds->count; i++) /* on the first the target may say why */
        wire_cut(rounds->senders[i].wire);
}

static void *run(void *opaque)
{
    struct sender *sender = opaque;
    struct rounds *rounds = sender->rounds;
    unsigned done = 0;
    pthread_mutex_lock(&rounds->lock);
    for (;;) {
        while (rounds->round == done && !rounds->stop)
            pthread_cond_wait(&rounds->changed, &rounds->lock);
        if (rounds->stop)
            break;
        done = rounds->round;
        pthread_mutex_unlock(&rounds->lock);
        work(sender);
        pthread_mutex_lock(&rounds->lock);
        rounds->working--;
        pthread_cond_broadcast(&rounds->changed);
    }
    pthread_mutex_unlock(&rounds->lock);
    return NULL;
}

static uint64_t marked(const struct rounds *rounds)
{
    uint64_t pages = 0;
    for (size_t i = 0; i < rounds->region_count; i++) {
        const struct region *region = &rounds->regions[i];
        for (uint64_t word = 0; word * 64 < region->ram->size >> MEM_PAGE_SHIFT; word++)
            pages += (uint64_t)__builtin_popcountll(region->marked[word]);
    }
    return pages << MEM_PAGE_SHIFT;
}

bool rounds_send(struct rounds *rounds, const struct round_options *options, struct error **err)
{
    pthread_mutex_lock(&rounds->lock);
    rounds->options = *options;
    atomic_store(&rounds->next, 0);
    atomic_store(&rounds->left, marked(rounds));
    atomic_store(&rounds->copied, 0);
    rounds->working = rounds->count - 1;
    rounds->round++;
    pthread_cond_broadcast(&rounds->changed);
    pthread_mutex_unlock(&rounds->lock);
    work(&rounds->senders[0]);
    pthread_mutex_lock(&rounds->lock);
    while (rounds->working > 0 && !rounds->stop)
        pthread_cond_wait(&rounds->changed, &rounds->lock);
    bool stop = rounds->stop;
    struct error *error = rounds->error;
    rounds->error = NULL;
    pthread_mutex_unlock(&rounds->lock);
    if (error != NULL)
        return error_propagate(err, error);
    return !stop || error_set(err, ERROR_HOST, "the migration was called off");
}

/* ---- life ---- */

void rounds_stop(struct rounds *rounds)
{
    pthread_mutex_lock(&rounds->lock);
    rounds->stop = true;
    pthread_cond_broadcast(&rounds->changed);
    pthread_mutex_unlock(&rounds->lock);
}

static void find_regions(struct rounds *rounds)
{
    rounds->region_count = mem_ram_count(rounds->mem);
    for (size_t i = 0; i < rounds->region_count; i++) {
        struct region *region = &rounds->regions[i];
        region->ram = mem_ram_at(rounds->mem, i);
        uint64_t pages = region->ram->size >> MEM_PAGE_SHIFT;
        region->first = rounds->block_count;
        region->marked = alloc_zeroed((size_t)(pages + 63) / 64, sizeof(uint64_t));
        rounds->block_count += (size_t)((pages + BLOCK_PAGES - 1) / BLOCK_PAGES);
        rounds->total += region->ram->size;
    }
}

static bool start_sender(struct rounds *rounds, size_t index, bool compress, struct error **err)
{
    struct sender *sender = &rounds->senders[index];
    if (!batch_init(&sender->batch, compress, err))
        return false;
    if (index == 0) /* who calls rounds_send() */
        return true;
    int error = pthread_create(&sender->thread, NULL, run, sender);
    sender->has_thread = error == 0;
    return error == 0 || error_set_errno(err, error, "cannot start a thread");
}

static bool start_deltas(struct rounds *rounds, struct error **err)
{
    uint64_t eighth = rounds->total / 8;
    rounds->deltas = delta_cache_new((uint64_t)rounds->block_count * BLOCK_PAGES,
                                     eighth > COPIES_MIN ? eighth : COPIES_MIN);
    return rounds->deltas != NULL || error_set(err, ERROR_HOST, "the host is out of memory");
}

struct rounds *rounds_new(struct mem_space *mem, struct wire *wires, size_t count, unsigned how,
                          struct error **err)
{
    struct rounds *rounds = alloc_zeroed(1, sizeof(*rounds));
    rounds->mem = mem;
    rounds->count = count;
    rounds->senders = alloc_zeroed(count, sizeof(*rounds->senders));
    pthread_mutex_init(&rounds->lock, NULL);
    pthread_cond_init(&rounds->changed, NULL);
    find_regions(rounds);
    for (size_t i = 0; i < count; i++) {
        rounds->senders[i].rounds = rounds;
        rounds->senders[i].wire = &wires[i];
    }
    bool good = (how & ROUNDS_DELTAS) == 0 || start_deltas(rounds, err);
    for (size_t i = 0; good && i < count; i++)
        good = start_sender(rounds, i, (how & ROUNDS_PACKED) != 0, err);
    if (good)
        return rounds;
    rounds_free(rounds);
    return NULL;
}

void rounds_free(struct rounds *rounds)
{
    if (rounds == NULL)
        return;
    rounds_stop(rounds);
    for (size_t i = 0; i < rounds->count; i++) {
        struct sender *sender = &rounds->senders[i];
        if (sender->has_thread)
            pthread_join(sender->thread, NULL);
        batch_clear(&sender->batch);
    }
    for (size_t i = 0; i < rounds->region_count; i++)
        free(rounds->regions[i].marked);
    mem_dirty_stop(rounds->mem);
    delta_cache_free(rounds->deltas);
    error_free(rounds->error);
    pthread_cond_destroy(&rounds->changed);
    pthread_mutex_destroy(&rounds->lock);
    free(rounds->senders);
    free(rounds);
}
