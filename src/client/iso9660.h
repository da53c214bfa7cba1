/* SPDX-License-Identifier: MIT
 *
 * Writes a small CD image: ISO 9660 (ECMA-119) level 1 with Rock Ridge names (IEEE P1282), a few
 * files in one directory. Times are zero: same input, same bytes.
 *
 * Threads: none of its own.
 */
#ifndef TRAPEZE_CLIENT_ISO9660_H
#define TRAPEZE_CLIENT_ISO9660_H

#include <stdbool.h>
#include <stddef.h>

struct error;

#define ISO_MAX_FILES 8
#define ISO_MAX_NAME  64

struct iso_file {
    const char *name;
    const void *data;
    size_t size; /* up to 1 GiB */
};

/* `label`: up to 32 bytes, taken as it is. Writes from the descriptor's present position on. */
bool iso_write(int fd, const char *label, const struct iso_file *files, size_t count,
               struct error **err);

#endif
