/* SPDX-License-Identifier: MIT
 *
 * What the formats without a header share: the file is the disk.
 */
#ifndef TRAPEZE_BLOCK_RAW_INTERNAL_H
#define TRAPEZE_BLOCK_RAW_INTERNAL_H

#include "block/image.h"

bool raw_open(struct block_image *image, const struct block_image_options *options,
              struct error **err);
bool raw_direct(struct block_image *image, bool write, uint64_t offset, uint64_t length,
                uint64_t *host);
int raw_read(struct block_image *image, uint64_t offset, struct block_span to);
int raw_write(struct block_image *image, uint64_t offset, struct block_span from);
int raw_flush(struct block_image *image);
int raw_extent(struct block_image *image, uint64_t offset, uint64_t length,
               struct block_extent *extent);
bool raw_create(struct block_file *file, const struct block_create *create, struct error **err);
bool raw_resize(struct block_image *image, uint64_t size, struct error **err);

#endif
