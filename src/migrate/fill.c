/* SPDX-License-Identifier: MIT
 *
 * See fill.h.
 */
#include "migrate/fill.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "mem/mem.h"

enum { MAX_MAPPINGS = 4096 }; /* the host allows 65530, and other things need some */

enum chunk_state { ABSENT, COMING, THERE };

struct fill {
    struct mem_space *mem;
    const struct saved_image *image;
    struct fill_options options;
    struct mem_source source;
    bool mapped;
    size_t first[SAVED_MAX_REGIONS]; /* chunk of each region */
    pthread_mutex_t lock;            /* the states */
    pthread_cond_t changed;          /* a chunk is not COMING any more */
    uint8_t *states;                 /* enum chunk_state */
    _Atomic bool lost, stop;
    pthread_t thread;
    bool has_thread;
};

/* ---- one chunk ---- */

static void give_up(struct fill *fill, struct error *error)
{
    if (atomic_exchange(&fill->lost, true))
        error_free(error);
    else
        fill->options.lost(fill->options.opaque, error);
}

static bool load(struct fill *fill, struct mem_ram *ram, size_t index, uint64_t offset)
{
    uint32_t size = saved_chunk_size(fill->image, index);
    struct error *error = NULL;
    bool good;
    if (fill->mapped && saved_check_chunk(fill->image, index, ram->host + offset)) {
        good = true;
    } else {
        /* Also of a mapped chunk that is damaged: the sentence is the same. */
        void *scratch = alloc_zeroed(1, fill->image->chunk_size);
        good = saved_read_chunk(fill->image, index, ram->host + offset, scratch, &error);
        free(scratch);
    }
    if (good)
        mem_set_present(ram, offset, size);
    else
        give_up(fill, error);
    return good;
}

/* Chunk `index`, which begins at `offset` of the region. */
static bool want(struct fill *fill, struct mem_ram *ram, size_t index, uint64_t offset)
{
    pthread_mutex_lock(&fill->lock);
    while (fill->states[index] == COMING)
        pthread_cond_wait(&fill->changed, &fill->lock);
    bool there = fill->states[index] == THERE, lost = atomic_load(&fill->lost);
    if (!there && !lost)
        fill->states[index] = COMING;
    pthread_mutex_unlock(&fill->lock);
    if (there || lost)
        return there;
    bool good = load(fill, ram, index, offset);
    pthread_mutex_lock(&fill->lock);
    fill->states[index] = good ? THERE : ABSENT;
    pthread_cond_broadcast(&fill->changed);
    pthread_mutex_unlock(&fill->lock);
    return good;
}

static bool fetch(void *opaque, struct mem_ram *ram, uint64_t offset)
{
    struct fill *fill = opaque;
    size_t region = 0;
    while (mem_ram_at(fill->mem, region) != ram)
        region++;
    uint64_t number = offset / fill->image->chunk_size;
    return want(fill, ram, fill->first[region] + (size_t)number, number * fill->image->chunk_size);
}

/* ---- all of them ---- */

static void *get_the_rest(void *opaque)
{
    struct fill *fill = opaque;
    bool good = true;
    size_t index = 0;
    for (size_t r = 0; r < fill->image->region_count; r++) {
        struct mem_ram *ram = mem_ram_at(fill->mem, r);
        for (uint64_t offset = 0; good && offset < ram->size;
             offset += fill->image->chunk_size, index++)
            good = !atomic_load(&fill->stop) && want(fill, ram, index, offset);
        if (good)
            mem_set_complete(ram);
    }
    if (good && fill->options.complete != NULL)
        fill->options.complete(fill->options.opaque);
    return NULL;
}

/* ---- the beginning ---- */

/* Runs of chunks with bytes of their own; each gives a mapping. */
static size_t count_runs(const struct saved_image *image)
{
    size_t runs = 0;
    for (size_t i = 0; i < image->chunk_count; i++)
        runs += image->chunks[i].kind != SAVED_ZERO &&
                (i == 0 || image->chunks[i - 1].kind == SAVED_ZERO);
    return runs + image->region_count;
}

static bool map_region(struct fill *fill, struct mem_ram *ram, size_t region, struct error **err)
{
    const struct saved_image *image = fill->image;
    size_t index = fill->first[region], first = 0;
    uint64_t begin = 0;
    bool in_run = false;
    for (uint64_t offset = 0;; offset += image->chunk_size, index++) {
        bool bytes = offset < ram->size && image->chunks[index].kind != SAVED_ZERO;
        uint64_t end = offset < ram->size ? offset : ram->size;
        if (bytes && !in_run) {
            begin = offset;
            first = index;
        } else if (!bytes && in_run &&
                   !mem_map_file(ram, begin, end - begin, image->memory, image->chunks[first].at, err)) {
            return false;
        }
        in_run = bytes;
        if (offset >= ram->size)
            return true;
    }
}

static bool prepare_region(struct fill *fill, size_t region, struct error **err)
{
    const struct saved_image *image = fill->image;
    struct mem_ram *ram = mem_ram_at(fill->mem, region);
    if (fill->mapped && !map_region(fill, ram, region, err))
        return false;
    size_t index = fill->first[region];
    for (uint64_t offset = 0; offset < ram->size; offset += image->chunk_size, index++) {
        if (image->chunks[index].kind == SAVED_ZERO)
            fill->states[index] = THERE; /* as it is */
        else
            mem_set_absent(ram, offset, saved_chunk_size(image, index));
    }
    return true;
}

static bool same_regions(const struct fill *fill, struct error **err)
{
    bool same = mem_ram_count(fill->mem) == fill->image->region_count;
    for (size_t i = 0; same && i < fill->image->region_count; i++) {
        const struct mem_ram *ram = mem_ram_at(fill->mem, i);
        same = ram->gpa == fill->image->regions[i].gpa && ram->size == fill->image->regions[i].size;
    }
    return same || error_set(err, ERROR_USAGE, "the suspended machine has other memory");
}

struct fill *fill_new(struct mem_space *mem, const struct saved_image *image,
                      const struct fill_options *options, struct error **err)
{
    struct fill *fill = alloc_zeroed(1, sizeof(*fill));
    fill->mem = mem;
    fill->image = image;
    fill->options = *options;
    fill->source = (struct mem_source){.fetch = fetch, .opaque = fill};
    pthread_mutex_init(&fill->lock, NULL);
    pthread_cond_init(&fill->changed, NULL);
    fill->states = alloc_zeroed(image->chunk_count, 1);
    fill->mapped = options->map && !image->compressed && count_runs(image) <= MAX_MAPPINGS;
    bool good = same_regions(fill, err);
    for (size_t i = 0, first = 0; good && i < image->region_count; i++) {
        struct mem_ram *ram = mem_ram_at(mem, i);
        fill->first[i] = first;
        first += (size_t)((ram->size + image->chunk_size - 1) / image->chunk_size);
        fill->mapped = fill->mapped && ram->backend == MEM_BACKEND_ANONYMOUS;
    }
    for (size_t i = 0; good && i < image->region_count; i++)
        good = prepare_region(fill, i, err);
    if (good) {
        mem_set_source(mem, &fill->source);
        return fill;
    }
    fill_free(fill);
    return NULL;
}

bool fill_start(struct fill *fill, struct error **err)
{
    int error = pthread_create(&fill->thread, NULL, get_the_rest, fill);
    fill->has_thread = error == 0;
    return error == 0 || error_set_errno(err, error, "cannot start a thread");
}

void fill_stop(struct fill *fill)
{
    atomic_store(&fill->stop, true);
    if (fill->has_thread)
        pthread_join(fill->thread, NULL);
    fill->has_thread = false;
}

void fill_abandon(struct fill *fill)
{
    fill_stop(fill);
    for (size_t i = 0; i < fill->image->region_count; i++)
        mem_set_complete(mem_ram_at(fill->mem, i));
}

void fill_free(struct fill *fill)
{
    if (fill == NULL)
        return;
    pthread_cond_destroy(&fill->changed);
    pthread_mutex_destroy(&fill->lock);
    free(fill->states);
    free(fill);
}
