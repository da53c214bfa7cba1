/* SPDX-License-Identifier: MIT
 *
 * SHA-256 of what goes by, in hexadecimal.
 *
 * Threads: one at a time for a sum.
 */
#ifndef TRAPEZE_ARCHIVE_SUM_H
#define TRAPEZE_ARCHIVE_SUM_H

#include <stddef.h>

#include "archive/tar.h"

#define SUM_TEXT_MAX 129 /* bytes, of SHA-512 with its 0 */

struct sum;

/* "sha1", "sha256" or "sha512"; NULL: none of these. */
struct sum *sum_new(const char *algorithm);
void sum_add(struct sum *sum, const void *bytes, size_t size);
void sum_add_extents(struct sum *sum, const struct tar_extent *extents, size_t count);
void sum_end(struct sum *sum, char text[SUM_TEXT_MAX]); /* frees it */
void sum_free(struct sum *sum);                         /* unfinished; NULL is fine */

#endif
