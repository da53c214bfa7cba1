/* SPDX-License-Identifier: MIT
 *
 * Which pages nobody has ever touched, by the host's account of this process's page tables
 * (Documentation/admin-guide/mm/pagemap.rst): one 64-bit word for each page.
 *
 * It says so of anonymous memory only. Where a file or other processes' memory is mapped, a page
 * that is not in our tables may well have contents.
 */
#include <stdatomic.h>
#include <unistd.h>

#include "base/bits.h"
#include "mem/space.h"

#define PAGEMAP_TOUCHED (UINT64_C(3) << 62) /* in memory, or swapped out (or moved, or broken) */

enum { AT_ONCE = 512 }; /* pages; a multiple of 64 */

/* How many pages' words were read. */
static size_t look_up(int pagemap, const void *host, uint64_t *words, size_t count)
{
    ssize_t size = pread(pagemap, words, count * sizeof(words[0]),
                         (off_t)((uintptr_t)host / MEM_PAGE_SIZE * sizeof(words[0])));
    return size > 0 ? (size_t)size / sizeof(words[0]) : 0;
}

void mem_set_pagemap(struct mem_space *space, int fd)
{
    uint64_t word = 0;
    space->pagemap = fd;
    /* Pages of another size, or an account that does not even know of our stack, are of no use. */
    space->has_pagemap = fd >= 0 && sysconf(_SC_PAGESIZE) == (long)MEM_PAGE_SIZE &&
                         look_up(fd, &word, &word, 1) == 1 && (word & PAGEMAP_TOUCHED) != 0;
}

void mem_drop_untouched(const struct mem_space *space, const struct mem_ram *ram, uint64_t *bitmap)
{
    uint64_t words[AT_ONCE], pages = ram->size >> MEM_PAGE_SHIFT;
    if (!space->has_pagemap || ram->backend != MEM_BACKEND_ANONYMOUS || ram->replaced ||
        atomic_load_explicit(&ram->lazy, memory_order_acquire))
        return;
    for (uint64_t page = 0; page < pages; page += AT_ONCE) {
        size_t count = pages - page < AT_ONCE ? (size_t)(pages - page) : AT_ONCE;
        if (look_up(space->pagemap, ram->host + (page << MEM_PAGE_SHIFT), words, count) != count)
            return;
        for (size_t i = 0; i < count; i++)
            if ((words[i] & PAGEMAP_TOUCHED) == 0)
                bitmap[(page + i) / 64] &= ~(UINT64_C(1) << (page + i) % 64);
    }
}
