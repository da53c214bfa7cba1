/* SPDX-License-Identifier: MIT
 *
 * A stretch of scattered memory: bytes [at, at + size) of an iovec array. Passed by value;
 * the array is never changed.
 */
#ifndef TRAPEZE_BLOCK_SPAN_H
#define TRAPEZE_BLOCK_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct block_span {
    const struct iovec *iov;
    unsigned count;
    uint64_t at;
    uint64_t size;
};

/* One piece of memory; `iov` is filled in and must live as long as the span. */
static inline struct block_span block_span_of(struct iovec *iov, const void *data, size_t size)
{
    *iov = (struct iovec){(void *)(uintptr_t)data, size};
    return (struct block_span){iov, 1, 0, size};
}

/* Bytes [at, at + size) of the span. */
static inline struct block_span block_span_part(struct block_span span, uint64_t at, uint64_t size)
{
    return (struct block_span){span.iov, span.count, span.at + at, size};
}

/* Fills out[0..max) from the span's start; returns how many entries and, in *bytes, how many
 * bytes they hold: less than span.size if max was too small. */
unsigned block_span_iov(struct block_span span, struct iovec *out, unsigned max, uint64_t *bytes);

void block_span_fill(struct block_span span, const void *from); /* span.size bytes */
void block_span_read(struct block_span span, void *to);
void block_span_zero(struct block_span span);
/* Whether every piece starts and ends at a multiple of `align`, a power of two. */
bool block_span_aligned(struct block_span span, uint32_t align);

#endif
