/* SPDX-License-Identifier: MIT
 *
 * Where things are in the file of a suspended machine, for image.c and image_write.c.
 */
#ifndef TRAPEZE_MIGRATE_IMAGE_INTERNAL_H
#define TRAPEZE_MIGRATE_IMAGE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define SAVED_MAGIC {0x89, 'T', 'Z', 'S', 'A', 'V', 'E', '\n'}

enum {
    SAVED_PAGE = 4096,
    SAVED_HEADER = 4096,
    HEADER_VERSION = 8,
    HEADER_FLAGS = 12,
    HEADER_FILE_SIZE = 16,
    HEADER_SAVED_AT = 24,
    HEADER_CHUNK_SIZE = 32,
    HEADER_REGION_COUNT = 36,
    HEADER_DATA_AT = 40,
    HEADER_DATA_SIZE = 48,
    HEADER_REGIONS = 64,
    HEADER_SECTIONS = 320,
    HEADER_HASH = SAVED_HEADER - 8,
    CHUNK_BYTES = 24,
    CHUNK_MAX = 1 << 20,
    FLAG_COMPRESSED = 1,
    FLAG_APART = 2
};

static inline bool saved_is_zero(const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    return size == 0 || (at[0] == 0 && memcmp(at, at + 1, size - 1) == 0);
}

#endif
