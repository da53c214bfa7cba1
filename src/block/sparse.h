/* SPDX-License-Identifier: MIT
 *
 * Writing into a new image, which reads as zeros so far.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_BLOCK_SPARSE_H
#define TRAPEZE_BLOCK_SPARSE_H

#include "block/image.h"

/* As block_image_write(), but stretches of zeros stay holes. */
int block_image_write_sparse(struct block_image *to, uint64_t offset, const uint8_t *data,
                             size_t size);

#endif
