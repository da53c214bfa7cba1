/* SPDX-License-Identifier: MIT
 *
 * See span.h.
 */
#include "block/span.h"

#include <string.h>

unsigned block_span_iov(struct block_span span, struct iovec *out, unsigned max, uint64_t *bytes)
{
    unsigned filled = 0;
    uint64_t skip = span.at, left = span.size;
    for (unsigned i = 0; i < span.count && left > 0 && filled < max; i++) {
        size_t length = span.iov[i].iov_len;
        if (skip >= length) {
            skip -= length;
            continue;
        }
        size_t size = length - (size_t)skip;
        if (size > left)
            size = (size_t)left;
        out[filled++] = (struct iovec){(uint8_t *)span.iov[i].iov_base + skip, size};
        left -= size;
        skip = 0;
    }
    *bytes = span.size - left;
    return filled;
}

/* Calls fn for each piece, with the number of bytes before it. */
static void each(struct block_span span,
                 void (*fn)(uint8_t *data, size_t size, void *opaque, uint64_t before),
                 void *opaque)
{
    uint64_t before = 0;
    while (before < span.size) {
        struct iovec pieces[16];
        uint64_t bytes;
        unsigned count =
            block_span_iov(block_span_part(span, before, span.size - before), pieces, 16, &bytes);
        if (count == 0)
            return;
        for (unsigned i = 0; i < count; i++) {
            fn(pieces[i].iov_base, pieces[i].iov_len, opaque, before);
            before += pieces[i].iov_len;
        }
    }
}

static void fill(uint8_t *data, size_t size, void *from, uint64_t before)
{
    memcpy(data, (const uint8_t *)from + before, size);
}

static void read_out(uint8_t *data, size_t size, void *to, uint64_t before)
{
    memcpy((uint8_t *)to + before, data, size);
}

static void clear(uint8_t *data, size_t size, void *opaque, uint64_t before)
{
    (void)opaque, (void)before;
    memset(data, 0, size);
}

struct alignment {
    uintptr_t mask;
    bool good;
};

static void look(uint8_t *data, size_t size, void *opaque, uint64_t before)
{
    struct alignment *alignment = opaque;
    (void)before;
    if ((((uintptr_t)data | size) & alignment->mask) != 0)
        alignment->good = false;
}

void block_span_fill(struct block_span span, const void *from)
{
    each(span, fill, (void *)(uintptr_t)from);
}

void block_span_read(struct block_span span, void *to)
{
    each(span, read_out, to);
}

void block_span_zero(struct block_span span)
{
    each(span, clear, NULL);
}

bool block_span_aligned(struct block_span span, uint32_t align)
{
    struct alignment alignment = {align - 1, true};
    if (align > 1)
        each(span, look, &alignment);
    return alignment.good;
}
