/* SPDX-License-Identifier: MIT
 *
 * See copy.h.
 */
#include "block/copy.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "block/sparse.h"

#define CHUNK_BYTES (2 * MIB)

struct copy {
    struct block_image *from, *to;
    block_copy_fn *step;
    void *opaque;
    uint8_t *buffer; /* CHUNK_BYTES */
};

static int copy_stretch(const struct copy *copy, uint64_t offset, uint64_t length, bool sparse)
{
    int error = 0;
    for (uint64_t done = 0; error == 0 && done < length;) {
        size_t size = length - done < CHUNK_BYTES ? (size_t)(length - done) : CHUNK_BYTES;
        error = block_image_read(copy->from, offset + done, copy->buffer, size);
        if (error == 0)
            error = sparse ? block_image_write_sparse(copy->to, offset + done, copy->buffer, size)
                           : block_image_write(copy->to, offset + done, copy->buffer, size);
        done += size;
        if (copy->step != NULL)
            copy->step(copy->opaque, offset + done);
    }
    return error;
}

int block_copy(struct block_image *from, struct block_image *to, block_copy_fn *step, void *opaque)
{
    struct copy copy = {from, to, step, opaque, aligned_alloc(4096, CHUNK_BYTES)};
    int error = copy.buffer == NULL ? ENOMEM : 0;
    for (uint64_t at = 0; error == 0 && at < from->size;) {
        struct block_extent extent;
        unsigned depth;
        error = block_image_extent(from, at, from->size - at, &extent, &depth);
        if (error == 0 && extent.kind != BLOCK_EXTENT_ZERO)
            error = copy_stretch(&copy, at, extent.length, true);
        at += extent.length;
    }
    free(copy.buffer);
    return error == 0 ? to->format->flush(to) : error;
}

int block_copy_layer(struct block_image *layer, struct block_image *below, block_copy_fn *step,
                     void *opaque)
{
    struct copy copy = {layer, below, step, opaque, aligned_alloc(4096, CHUNK_BYTES)};
    int error = copy.buffer == NULL ? ENOMEM : 0;
    for (uint64_t at = 0; error == 0 && at < layer->size;) {
        struct block_extent extent;
        error = layer->format->extent(layer, at, layer->size - at, &extent);
        if (error != 0)
            break;
        if (extent.kind == BLOCK_EXTENT_ZERO)
            error = below->format->zero(below, at, extent.length, BLOCK_ZERO_UNMAP);
        else if (extent.kind != BLOCK_EXTENT_ABSENT)
            error = copy_stretch(&copy, at, extent.length, false);
        at += extent.length;
    }
    free(copy.buffer);
    return error == 0 ? below->format->flush(below) : error;
}
