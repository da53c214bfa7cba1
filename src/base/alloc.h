/* SPDX-License-Identifier: MIT
 *
 * Small allocations of the VMM itself. They never return NULL: a host that cannot give a few
 * kilobytes cannot be recovered from sensibly, so the process says so and aborts. Sizes that
 * a guest, an image or a user chooses do not belong here: use malloc/mmap and a struct error.
 * Free with free(). Any thread.
 */
#ifndef TRAPEZE_BASE_ALLOC_H
#define TRAPEZE_BASE_ALLOC_H

#include <stddef.h>

/* count * size zeroed bytes; the product is checked. */
void *alloc_zeroed(size_t count, size_t size) __attribute__((returns_nonnull, malloc));
/* As realloc(); new bytes are not zeroed. */
void *alloc_resize(void *old, size_t count, size_t size) __attribute__((returns_nonnull));
char *alloc_string(const char *from) __attribute__((returns_nonnull, malloc));

/* Zeroed memory by pages, for tables and rings that are large and mostly empty: a page takes memory
 * when it is first written to, which malloc() promises of no size. For alloc_pages_free() with the
 * same size (NULL is fine). */
void *alloc_pages(size_t size) __attribute__((returns_nonnull));
void alloc_pages_free(void *memory, size_t size);

#endif
