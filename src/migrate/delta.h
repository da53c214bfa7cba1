/* SPDX-License-Identifier: MIT
 *
 * Pages as what has changed in them since they were sent last, for links that are slower than
 * comparing. The source keeps copies of pages that it has sent more than once, as many as its
 * budget allows; the target has the page itself. A delta is pieces: u16 words that stay, u16 words
 * that follow, these words (of 8 bytes); the rest of the page stays.
 *
 * Threads: a page belongs to one thread at a time; different pages may be any threads'.
 */
#ifndef TRAPEZE_MIGRATE_DELTA_H
#define TRAPEZE_MIGRATE_DELTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct delta_cache;

enum { DELTA_MAX = 2048 }; /* bytes: more is not worth it */

/* For `pages` pages, of which copies of `budget` bytes at most are kept. NULL: the host does not
 * give so many addresses. */
struct delta_cache *delta_cache_new(uint64_t pages, uint64_t budget);
void delta_cache_free(struct delta_cache *cache); /* NULL is fine */

/* Page `number` is about to be sent as it is at `page`; what the target has is its copy from then
 * on. Returns the size of the delta from the last copy at `to`, which has room for DELTA_MAX bytes,
 * or SIZE_MAX: it has to be sent whole. */
size_t delta_next(struct delta_cache *cache, uint64_t number, const uint8_t *page, uint8_t *to);

/* False: these bytes are none; the page may have changed. */
bool delta_apply(uint8_t *page, const uint8_t *delta, size_t size);

#endif
