/* SPDX-License-Identifier: MIT
 *
 * Data from one image to another, without what is zero.
 *
 * Threads: any; the images are the caller's alone meanwhile.
 */
#ifndef TRAPEZE_BLOCK_COPY_H
#define TRAPEZE_BLOCK_COPY_H

#include "block/image.h"

/* How far it is, in bytes of the disk. */
typedef void block_copy_fn(void *opaque, uint64_t done);

/* All that a guest would see of `from`, its backing images' data too, into `to`, which is as large
 * and reads as zeros so far; flushed. `step` may be NULL. 0 or an errno value. */
int block_copy(struct block_image *from, struct block_image *to, block_copy_fn *step, void *opaque);

/* What `layer` has itself, into the image below it; flushed. */
int block_copy_layer(struct block_image *layer, struct block_image *below, block_copy_fn *step,
                     void *opaque);

#endif
