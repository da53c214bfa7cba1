/* SPDX-License-Identifier: MIT
 *
 * The bitmaps of one disk.
 */
#ifndef TRAPEZE_BLOCK_BITMAP_INTERNAL_H
#define TRAPEZE_BLOCK_BITMAP_INTERNAL_H

#include <pthread.h>

#include "block/block.h"

struct block_bitmaps {
    pthread_mutex_t lock; /* a leaf */
    struct block_bitmap *first;
};

void block_bitmaps_init(struct block_bitmaps *bitmaps);
void block_bitmaps_destroy(struct block_bitmaps *bitmaps);
void block_bitmaps_mark(struct block_bitmaps *bitmaps, uint64_t offset, uint64_t length);

struct block_bitmaps *block_bitmaps(struct block *block); /* block.c */

#endif
