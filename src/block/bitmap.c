/* SPDX-License-Identifier: MIT
 *
 * Which parts of a disk were changed.
 */
#include "block/bitmap_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"

struct block_bitmap {
    struct block_bitmap *next;
    uint64_t *words;
    uint64_t bits;
    uint64_t size; /* of the disk */
    unsigned shift;
};

static size_t word_count(const struct block_bitmap *bitmap)
{
    return (size_t)(bitmap->bits + 63) / 64;
}

static void mark(struct block_bitmap *bitmap, uint64_t offset, uint64_t length)
{
    if (length == 0)
        return;
    uint64_t last = (offset + length - 1) >> bitmap->shift;
    for (uint64_t bit = offset >> bitmap->shift; bit <= last; bit++)
        if (bit % 64 == 0 && bit + 63 <= last) {
            bitmap->words[bit / 64] = ~UINT64_C(0);
            bit += 63;
        } else {
            bitmap->words[bit / 64] |= UINT64_C(1) << (bit % 64);
        }
}

static uint64_t next_set(const struct block_bitmap *bitmap, uint64_t bit)
{
    while (bit < bitmap->bits) {
        uint64_t word = bitmap->words[bit / 64] >> (bit % 64);
        if (word != 0)
            return bit + (unsigned)__builtin_ctzll(word);
        bit = (bit / 64 + 1) * 64;
    }
    return bitmap->bits;
}

static bool take(struct block_bitmap *bitmap, uint64_t from, uint64_t limit, uint64_t *offset,
                 uint64_t *length)
{
    uint64_t first = next_set(bitmap, from >> bitmap->shift), bit = first;
    uint64_t most = limit >> bitmap->shift;
    for (; bit < bitmap->bits && (bit == first || bit - first < most); bit++) {
        uint64_t mask = UINT64_C(1) << (bit % 64);
        if ((bitmap->words[bit / 64] & mask) == 0)
            break;
        bitmap->words[bit / 64] &= ~mask;
    }
    uint64_t end = bit << bitmap->shift;
    *offset = first << bitmap->shift;
    if (bit > first)
        *length = (end < bitmap->size ? end : bitmap->size) - *offset;
    return bit > first;
}

/* --- the queue's side --- */

void block_bitmaps_init(struct block_bitmaps *bitmaps)
{
    bitmaps->first = NULL;
    pthread_mutex_init(&bitmaps->lock, NULL);
}

static void discard(struct block_bitmap *bitmap)
{
    free(bitmap->words);
    free(bitmap);
}

void block_bitmaps_destroy(struct block_bitmaps *bitmaps)
{
    while (bitmaps->first != NULL) {
        struct block_bitmap *bitmap = bitmaps->first;
        bitmaps->first = bitmap->next;
        discard(bitmap);
    }
    pthread_mutex_destroy(&bitmaps->lock);
}

void block_bitmaps_mark(struct block_bitmaps *bitmaps, uint64_t offset, uint64_t length)
{
    pthread_mutex_lock(&bitmaps->lock);
    for (struct block_bitmap *bitmap = bitmaps->first; bitmap != NULL; bitmap = bitmap->next)
        mark(bitmap, offset, length);
    pthread_mutex_unlock(&bitmaps->lock);
}

/* --- the user's --- */

struct block_bitmap *block_bitmap_new(struct block *block, uint32_t granule)
{
    assert(is_power_of_two(granule) && granule >= BLOCK_SECTOR);
    struct block_bitmaps *bitmaps = block_bitmaps(block);
    struct block_bitmap *bitmap = alloc_zeroed(1, sizeof(*bitmap));
    bitmap->shift = (unsigned)__builtin_ctz(granule);
    bitmap->size = block_size(block);
    bitmap->bits = (bitmap->size + granule - 1) >> bitmap->shift;
    bitmap->words = calloc(word_count(bitmap), sizeof(uint64_t));
    if (bitmap->words == NULL) {
        free(bitmap);
        return NULL;
    }
    pthread_mutex_lock(&bitmaps->lock);
    bitmap->next = bitmaps->first;
    bitmaps->first = bitmap;
    pthread_mutex_unlock(&bitmaps->lock);
    return bitmap;
}

void block_bitmap_free(struct block *block, struct block_bitmap *bitmap)
{
    struct block_bitmaps *bitmaps = block_bitmaps(block);
    pthread_mutex_lock(&bitmaps->lock);
    struct block_bitmap **link = &bitmaps->first;
    while (*link != bitmap)
        link = &(*link)->next;
    *link = bitmap->next;
    pthread_mutex_unlock(&bitmaps->lock);
    discard(bitmap);
}

bool block_bitmap_take(struct block *block, struct block_bitmap *bitmap, uint64_t from,
                       uint64_t limit, uint64_t *offset, uint64_t *length)
{
    struct block_bitmaps *bitmaps = block_bitmaps(block);
    pthread_mutex_lock(&bitmaps->lock);
    bool found = take(bitmap, from, limit, offset, length);
    pthread_mutex_unlock(&bitmaps->lock);
    return found;
}

void block_bitmap_mark(struct block *block, struct block_bitmap *bitmap, uint64_t offset,
                       uint64_t length)
{
    struct block_bitmaps *bitmaps = block_bitmaps(block);
    assert(range_within(offset, length, bitmap->size));
    pthread_mutex_lock(&bitmaps->lock);
    mark(bitmap, offset, length);
    pthread_mutex_unlock(&bitmaps->lock);
}

uint64_t block_bitmap_count(struct block *block, const struct block_bitmap *bitmap)
{
    struct block_bitmaps *bitmaps = block_bitmaps(block);
    uint64_t count = 0;
    pthread_mutex_lock(&bitmaps->lock);
    for (size_t i = 0; i < word_count(bitmap); i++)
        count += (uint64_t)__builtin_popcountll(bitmap->words[i]);
    pthread_mutex_unlock(&bitmaps->lock);
    return count << bitmap->shift;
}
