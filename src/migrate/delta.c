/* SPDX-License-Identifier: MIT
 *
 * See delta.h.
 */
#include "migrate/delta.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "mem/mem.h"

enum { WORD = 8, WORDS = MEM_PAGE_SIZE / WORD, PIECE_HEADER = 4, CLOSE = 2 };

struct delta_cache {
    uint8_t *copies; /* of all pages; the host gives memory to those that are kept */
    uint8_t *kept;   /* a byte for each */
    uint64_t pages;
    _Atomic uint64_t left; /* pages that may still be kept */
};

struct delta_cache *delta_cache_new(uint64_t pages, uint64_t budget)
{
    void *copies = mmap(NULL, (size_t)(pages << MEM_PAGE_SHIFT), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (copies == MAP_FAILED)
        return NULL;
    struct delta_cache *cache = alloc_zeroed(1, sizeof(*cache));
    cache->copies = copies;
    cache->kept = alloc_zeroed((size_t)pages, 1);
    cache->pages = pages;
    atomic_store(&cache->left, budget >> MEM_PAGE_SHIFT);
    return cache;
}

void delta_cache_free(struct delta_cache *cache)
{
    if (cache == NULL)
        return;
    munmap(cache->copies, (size_t)(cache->pages << MEM_PAGE_SHIFT));
    free(cache->kept);
    free(cache);
}

static bool same_word(const uint8_t *one, const uint8_t *other, size_t word)
{
    return memcmp(one + WORD * word, other + WORD * word, WORD) == 0;
}

/* The end of the words from `word` on that change; few that stay between them are sent along. */
static size_t end_of_change(const uint8_t *old, const uint8_t *page, size_t word)
{
    size_t end = word;
    for (size_t same = 0; word < WORDS && same <= CLOSE; word++) {
        same = same_word(old, page, word) ? same + 1 : 0;
        if (same == 0)
            end = word + 1;
    }
    return end;
}

static size_t encode(const uint8_t *old, const uint8_t *page, uint8_t *to)
{
    size_t size = 0;
    for (size_t at = 0, first = 0; at < WORDS;) {
        while (at < WORDS && same_word(old, page, at))
            at++;
        if (at == WORDS)
            break;
        size_t end = end_of_change(old, page, at), bytes = WORD * (end - at);
        if (size + PIECE_HEADER + bytes > DELTA_MAX)
            return SIZE_MAX;
        store_le16(to + size, (uint16_t)(at - first));
        store_le16(to + size + 2, (uint16_t)(end - at));
        memcpy(to + size + PIECE_HEADER, page + WORD * at, bytes);
        size += PIECE_HEADER + bytes;
        at = first = end;
    }
    return size;
}

/* Takes one of those that may still be kept. */
static bool reserve(struct delta_cache *cache)
{
    uint64_t left = atomic_load(&cache->left);
    while (left > 0)
        if (atomic_compare_exchange_weak(&cache->left, &left, left - 1))
            return true;
    return false;
}

size_t delta_next(struct delta_cache *cache, uint64_t number, const uint8_t *page, uint8_t *to)
{
    uint8_t *copy = cache->copies + (number << MEM_PAGE_SHIFT);
    size_t size = SIZE_MAX;
    if (cache->kept[number] != 0)
        size = encode(copy, page, to);
    else if (!reserve(cache))
        return SIZE_MAX;
    cache->kept[number] = 1;
    memcpy(copy, page, MEM_PAGE_SIZE);
    return size;
}

bool delta_apply(uint8_t *page, const uint8_t *delta, size_t size)
{
    size_t word = 0;
    while (size > 0) {
        if (size < PIECE_HEADER)
            return false;
        size_t skip = load_le16(delta), count = load_le16(delta + 2), bytes = WORD * count;
        delta += PIECE_HEADER;
        size -= PIECE_HEADER;
        if (count == 0 || skip + count > WORDS - word || bytes > size)
            return false;
        word += skip;
        memcpy(page + WORD * word, delta, bytes);
        word += count;
        delta += bytes;
        size -= bytes;
    }
    return true;
}
