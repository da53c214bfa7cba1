/* SPDX-License-Identifier: MIT
 *
 * See sparse.h.
 */
#include "block/sparse.h"

#include <string.h>

#define ZERO_BYTES 4096u /* what is looked at for being zero */

static bool is_zero(const uint8_t *data, size_t size)
{
    return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

int block_image_write_sparse(struct block_image *to, uint64_t offset, const uint8_t *data,
                             size_t size)
{
    int error = 0;
    for (size_t at = 0, end; error == 0 && at < size; at = end) {
        size_t piece = size - at < ZERO_BYTES ? size - at : ZERO_BYTES;
        bool zero = is_zero(data + at, piece);
        for (end = at + piece; end < size; end += piece) {
            piece = size - end < ZERO_BYTES ? size - end : ZERO_BYTES;
            if (is_zero(data + end, piece) != zero)
                break;
        }
        if (!zero)
            error = block_image_write(to, offset + at, data + at, end - at);
    }
    return error;
}
