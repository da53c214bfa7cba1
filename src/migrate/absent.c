/* SPDX-License-Identifier: MIT
 *
 * See absent.h.
 */
#include "migrate/absent.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "mem/mem.h"
#include "migrate/wire.h"

enum { BYTES = 256 << 10 }; /* of bits in a frame */

static uint64_t pages_of(const struct absent *absent, size_t region)
{
    return mem_ram_at(absent->mem, region)->size >> MEM_PAGE_SHIFT;
}

static size_t words_of(const struct absent *absent, size_t region)
{
    return (size_t)((pages_of(absent, region) + 63) / 64);
}

void absent_init(struct absent *absent, struct mem_space *mem)
{
    *absent = (struct absent){.mem = mem};
    for (size_t i = 0; i < mem_ram_count(mem); i++)
        absent->bits[i] = alloc_zeroed(words_of(absent, i), sizeof(uint64_t));
}

void absent_clear(struct absent *absent)
{
    for (size_t i = 0; i < ABSENT_REGIONS; i++)
        free(absent->bits[i]);
    *absent = (struct absent){.mem = NULL};
}

void absent_empty(struct absent *absent)
{
    for (size_t i = 0; i < mem_ram_count(absent->mem); i++)
        memset(absent->bits[i], 0, words_of(absent, i) * sizeof(uint64_t));
    absent->pages = 0;
}

static void set_word(struct absent *absent, size_t region, uint64_t word, uint64_t bits)
{
    uint64_t *at = &absent->bits[region][word];
    absent->pages += (uint64_t)__builtin_popcountll(bits & ~*at);
    *at |= bits;
}

void absent_set(struct absent *absent, size_t region, const uint64_t *bits)
{
    for (uint64_t word = 0; word < words_of(absent, region); word++)
        set_word(absent, region, word, bits[word]);
}

size_t absent_region(const struct absent *absent, const struct mem_ram *ram)
{
    for (size_t i = 0; i < mem_ram_count(absent->mem); i++)
        if (mem_ram_at(absent->mem, i) == ram)
            return i;
    return SIZE_MAX;
}

bool absent_has(const struct absent *absent, size_t region, uint64_t page)
{
    return (absent->bits[region][page / 64] >> (page % 64) & 1) != 0;
}

bool absent_take(struct absent *absent, size_t region, uint64_t page)
{
    bool was = absent_has(absent, region, page);
    absent->bits[region][page / 64] &= ~(UINT64_C(1) << (page % 64));
    absent->pages -= was;
    return was;
}

bool absent_next(const struct absent *absent, size_t *region, uint64_t *page)
{
    size_t count = mem_ram_count(absent->mem), r = *region;
    uint64_t word = *page / 64, mask = ~UINT64_C(0) << (*page % 64);
    if (absent->pages == 0)
        return false;
    for (size_t turn = 0; turn <= count; turn++) { /* the first one twice: what is before *page */
        for (; word < words_of(absent, r); word++, mask = ~UINT64_C(0)) {
            uint64_t bits = absent->bits[r][word] & mask;
            if (bits == 0)
                continue;
            *region = r;
            *page = word * 64 + (uint64_t)__builtin_ctzll(bits);
            return true;
        }
        r = (r + 1) % count;
        word = 0;
        mask = ~UINT64_C(0);
    }
    return false;
}

static bool send_region(const struct absent *absent, size_t region, uint8_t *frame,
                        struct wire *wire, int64_t patience_ns, struct error **err)
{
    uint8_t *body = frame + WIRE_HEADER;
    size_t words = words_of(absent, region), part;
    bool good = true;
    for (size_t at = 0; good && at < words; at += part) {
        part = words - at < BYTES / 8 ? words - at : BYTES / 8;
        store_le32(body, (uint32_t)region);
        store_le32(body + 4, 0);
        store_le64(body + 8, (uint64_t)at * 64);
        for (size_t i = 0; i < part; i++)
            store_le64(body + WIRE_ABSENT_HEADER + 8 * i, absent->bits[region][at + i]);
        good = wire_send(wire, WIRE_ABSENT, frame, WIRE_ABSENT_HEADER + 8 * part, patience_ns, err);
    }
    return good;
}

bool absent_send(const struct absent *absent, struct wire *wire, int64_t patience_ns,
                 struct error **err)
{
    uint8_t *frame = alloc_zeroed(1, WIRE_HEADER + WIRE_ABSENT_HEADER + BYTES);
    bool good = true;
    for (size_t i = 0; good && i < mem_ram_count(absent->mem); i++)
        good = send_region(absent, i, frame, wire, patience_ns, err);
    free(frame);
    return good;
}

bool absent_receive(struct absent *absent, const struct wire_frame *frame, struct error **err)
{
    if (frame->size < WIRE_ABSENT_HEADER || frame->size % 8 != 0)
        return wire_damaged(err, "a list of pages is cut off");
    uint32_t region = load_le32(frame->body);
    uint64_t first = load_le64(frame->body + 8);
    if (region >= mem_ram_count(absent->mem) || load_le32(frame->body + 4) != 0 || first % 64 != 0)
        return wire_damaged(err, "a list of pages is of memory that is not there");
    uint64_t pages = pages_of(absent, region), words = words_of(absent, region);
    uint64_t count = (frame->size - WIRE_ABSENT_HEADER) / 8;
    if (!range_within(first / 64, count, words))
        return wire_damaged(err, "a list of pages is of memory that is not there");
    for (uint64_t i = 0; i < count; i++) {
        uint64_t bits = load_le64(frame->body + WIRE_ABSENT_HEADER + 8 * i);
        uint64_t left = pages - (first + 64 * i);
        if (left < 64 && bits >> left != 0)
            return wire_damaged(err, "a list of pages is of memory that is not there");
        set_word(absent, region, first / 64 + i, bits);
    }
    return true;
}
