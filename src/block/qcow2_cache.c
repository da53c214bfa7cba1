/* SPDX-License-Identifier: MIT
 *
 * Slices of L2 tables and refcount blocks in memory, and how they get back to the file: the
 * one place that writes metadata of an image in use, and keeps the order that
 * qcow2_internal.h promises.
 */
#include "block/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"

/* What was freed may gather between two flushes up to this, and in so many pieces. */
#define FREED_BYTES_MUCH (8 * MIB)
#define FREED_RUNS_MUCH  4096

/* --- slices --- */

void slice_cache_init(struct slice_cache *cache, uint32_t slice_size, size_t limit)
{
    *cache = (struct slice_cache){.slice_size = slice_size, .limit = limit, .bucket_count = 16};
    while (cache->bucket_count < limit)
        cache->bucket_count *= 2;
    cache->buckets = alloc_zeroed(cache->bucket_count, sizeof(struct slice *));
}

static struct slice **bucket_of(struct slice_cache *cache, uint64_t offset)
{
    uint64_t hash = (offset / cache->slice_size) * UINT64_C(0x9e3779b97f4a7c15);
    return &cache->buckets[(hash >> 24) & (cache->bucket_count - 1)];
}

static void unlink_slice(struct slice_cache *cache, struct slice *slice)
{
    struct slice **link = bucket_of(cache, slice->offset);
    while (*link != NULL && *link != slice)
        link = &(*link)->next;
    if (*link != NULL)
        *link = slice->next;
}

void slice_cache_clear(struct slice_cache *cache)
{
    for (size_t i = 0; i < cache->count; i++) {
        free(cache->slices[i]->data);
        free(cache->slices[i]);
    }
    free(cache->slices);
    free(cache->buckets);
    *cache = (struct slice_cache){0};
}

struct slice *slice_find(struct slice_cache *cache, uint64_t offset)
{
    struct slice *slice = *bucket_of(cache, offset);
    while (slice != NULL && slice->offset != offset)
        slice = slice->next;
    if (slice != NULL)
        slice->recent = true;
    return slice;
}

/* One to reuse: not dirty, not being written, not used since the hand last passed. */
static struct slice *find_victim(struct slice_cache *cache)
{
    for (size_t turn = 0; turn < 2 * cache->count; turn++) {
        struct slice *slice = cache->slices[cache->hand];
        cache->hand = (cache->hand + 1) % cache->count;
        if (slice->dirty || slice->writing)
            continue;
        if (!slice->recent)
            return slice;
        slice->recent = false;
    }
    return NULL;
}

static struct slice *new_slice(struct slice_cache *cache)
{
    struct slice *slice = cache->count >= cache->limit ? find_victim(cache) : NULL;
    if (slice != NULL) {
        unlink_slice(cache, slice);
        return slice;
    }
    void *data = aligned_alloc(4096, align_up(cache->slice_size, 4096));
    if (data == NULL)
        return NULL;
    if (cache->count == cache->room) {
        cache->room = cache->room > 0 ? cache->room * 2 : 16;
        cache->slices = alloc_resize(cache->slices, cache->room, sizeof(struct slice *));
    }
    slice = alloc_zeroed(1, sizeof(*slice));
    slice->data = data;
    cache->slices[cache->count++] = slice;
    return slice;
}

int slice_get(struct qcow2 *q, struct slice_cache *cache, uint64_t offset, struct slice **slice)
{
    *slice = slice_find(cache, offset);
    if (*slice != NULL)
        return 0;
    struct slice *made = new_slice(cache);
    if (made == NULL)
        return ENOMEM;
    int error = block_file_pread(q->file, offset, made->data, cache->slice_size);
    made->dirty = made->writing = made->recent = false;
    made->offset = error == 0 ? offset : UINT64_MAX; /* in no bucket: the next to be reused */
    if (error != 0) {
        made->next = NULL;
        return error;
    }
    struct slice **bucket = bucket_of(cache, offset);
    made->next = *bucket;
    made->recent = true;
    *bucket = made;
    *slice = made;
    return 0;
}

void slice_dirty(struct slice_cache *cache, struct slice *slice)
{
    if (!slice->dirty)
        cache->dirty++;
    slice->dirty = true;
}

void qcow2_mark_entry(uint64_t dirty[2], uint64_t index)
{
    if (dirty[0] == dirty[1]) {
        dirty[0] = index;
        dirty[1] = index + 1;
        return;
    }
    if (index < dirty[0])
        dirty[0] = index;
    if (index >= dirty[1])
        dirty[1] = index + 1;
}

/* --- writing back --- */

/* What is to be written, as it was at one moment. */
struct copies {
    struct slice **slices;
    uint8_t *data;
    size_t count;
};

struct table_copy {
    uint64_t offset, first, count;
    uint8_t *data;
};

static bool copy_slices(struct slice_cache *cache, struct copies *copies)
{
    *copies = (struct copies){0};
    if (cache->dirty == 0)
        return true;
    copies->data = aligned_alloc(4096, align_up(cache->dirty * cache->slice_size, 4096));
    if (copies->data == NULL)
        return false;
    copies->slices = alloc_zeroed(cache->dirty, sizeof(struct slice *));
    for (size_t i = 0; i < cache->count; i++) {
        struct slice *slice = cache->slices[i];
        if (!slice->dirty)
            continue;
        memcpy(copies->data + copies->count * cache->slice_size, slice->data, cache->slice_size);
        copies->slices[copies->count++] = slice;
        slice->dirty = false;
        slice->writing = true;
    }
    cache->dirty = 0;
    return true;
}

static void copies_end(struct slice_cache *cache, struct copies *copies, bool written)
{
    for (size_t i = 0; i < copies->count; i++) {
        struct slice *slice = copies->slices[i];
        slice->writing = false;
        if (!written)
            slice_dirty(cache, slice);
    }
    free(copies->slices);
    free(copies->data);
}

static void copy_table(const uint64_t *table, uint64_t offset, uint64_t dirty[2],
                       struct table_copy *copy)
{
    *copy = (struct table_copy){offset, dirty[0], dirty[1] - dirty[0], NULL};
    if (copy->count == 0)
        return;
    copy->data = alloc_zeroed((size_t)copy->count, 8);
    for (uint64_t i = 0; i < copy->count; i++)
        store_be64(copy->data + i * 8, table[copy->first + i]);
    dirty[0] = dirty[1] = 0;
}

static void table_end(uint64_t dirty[2], struct table_copy *copy, bool written)
{
    if (copy->count > 0 && !written) {
        qcow2_mark_entry(dirty, copy->first);
        qcow2_mark_entry(dirty, copy->first + copy->count - 1);
    }
    free(copy->data);
}

static int write_slices(struct qcow2 *q, const struct slice_cache *cache,
                        const struct copies *copies, enum place kind)
{
    int error = 0;
    for (size_t i = 0; error == 0 && i < copies->count; i++) {
        uint64_t offset = copies->slices[i]->offset; /* not reused while it is written */
        pthread_mutex_lock(&q->lock);
        bool right = place_find(&q->places, offset >> q->cluster_bits) == kind;
        pthread_mutex_unlock(&q->lock);
        if (!right)
            return qcow2_damaged(q, "metadata would be written to %llu, where none is",
                                 (unsigned long long)offset);
        error = block_file_pwrite(q->file, offset, copies->data + i * cache->slice_size,
                                  cache->slice_size);
    }
    return error;
}

static int write_table(struct qcow2 *q, const struct table_copy *copy)
{
    return copy->count == 0 ? 0
                            : block_file_pwrite(q->file, copy->offset + copy->first * 8, copy->data,
                                                (size_t)copy->count * 8);
}

static int flush(struct qcow2 *q, int error, bool needed)
{
    return error == 0 && needed ? q->file->ops->flush(q->file) : error;
}

/* Frees what nothing on disk refers to any more, and gives its space back to the host. */
static int carry_out_frees(struct qcow2 *q, const struct freed *given_up)
{
    struct freed freed = {0};
    int error = 0;
    pthread_mutex_lock(&q->lock);
    for (size_t i = 0; error == 0 && i < given_up->count; i++)
        error = qcow2_release(q, &given_up->runs[i], &freed);
    /* Nobody may write there before the hole is made. */
    for (size_t i = 0; i < freed.count; i++)
        (void)q->file->ops->discard(q->file, freed.runs[i].first << q->cluster_bits,
                                    freed.runs[i].count << q->cluster_bits);
    pthread_mutex_unlock(&q->lock);
    free(freed.runs);
    return error;
}

static int write_in_order(struct qcow2 *q)
{
    struct copies blocks, l2;
    struct table_copy table, l1;
    pthread_mutex_lock(&q->lock);
    struct freed freed = q->freed;
    bool room = copy_slices(&q->blocks, &blocks);
    room = copy_slices(&q->l2, &l2) && room;
    copy_table(q->table, q->table_offset, q->table_dirty, &table);
    copy_table(q->l1, q->l1_offset, q->l1_dirty, &l1);
    q->freed = (struct freed){0};
    pthread_mutex_unlock(&q->lock);

    /* What follows a bar has to find everything before it on stable storage. */
    bool tables = table.count > 0, more = l2.count > 0 || l1.count > 0 || freed.count > 0;
    int error = room ? write_slices(q, &q->blocks, &blocks, PLACE_BLOCK) : ENOMEM;
    error = flush(q, error, tables || more);
    if (error == 0)
        error = write_table(q, &table);
    error = flush(q, error, tables && more);
    if (error == 0)
        error = write_slices(q, &q->l2, &l2, PLACE_L2);
    error = flush(q, error, l1.count > 0 || freed.count > 0);
    if (error == 0)
        error = write_table(q, &l1);
    error = flush(q, error, l1.count > 0 && freed.count > 0);

    pthread_mutex_lock(&q->lock);
    copies_end(&q->blocks, &blocks, error == 0);
    copies_end(&q->l2, &l2, error == 0);
    table_end(q->table_dirty, &table, error == 0);
    table_end(q->l1_dirty, &l1, error == 0);
    for (size_t i = 0; error != 0 && i < freed.count; i++)
        freed_add(&q->freed, freed.runs[i].first, freed.runs[i].count);
    pthread_mutex_unlock(&q->lock);
    if (error == 0 && freed.count > 0)
        error = carry_out_frees(q, &freed);
    free(freed.runs);
    return error;
}

int qcow2_write_back(struct qcow2 *q)
{
    pthread_mutex_lock(&q->order);
    int error = q->broken ? EIO : write_in_order(q);
    pthread_mutex_unlock(&q->order);
    return error;
}

int qcow2_write_back_much(struct qcow2 *q)
{
    pthread_mutex_lock(&q->lock);
    bool much = q->freed.count > FREED_RUNS_MUCH ||
                q->freed.clusters << q->cluster_bits >= FREED_BYTES_MUCH ||
                q->l2.dirty > q->l2.limit / 2 || q->blocks.dirty > q->blocks.limit / 2;
    pthread_mutex_unlock(&q->lock);
    return much ? qcow2_write_back(q) : 0;
}
