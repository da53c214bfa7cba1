/* SPDX-License-Identifier: MIT
 *
 * Memory that a guest cannot write, see mem.h.
 */
#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

#include "base/error.h"
#include "mem/mem.h"
#include "mem/space.h"

static bool overlaps(uint64_t gpa, uint64_t size, uint64_t other, uint64_t other_size)
{
    return gpa <= other + (other_size - 1) && other <= gpa + (size - 1);
}

static bool is_free(const struct mem_space *space, uint64_t gpa, uint64_t size)
{
    for (size_t i = 0; i < space->ram_count; i++)
        if (overlaps(gpa, size, space->ram[i]->gpa, space->ram[i]->size))
            return false;
    for (size_t i = 0; i < space->rom_count; i++)
        if (overlaps(gpa, size, space->rom[i].gpa, space->rom[i].size))
            return false;
    return true;
}

bool mem_shows_rom(const struct mem_space *space)
{
    const struct mem_listener *listener = space->listeners;
    while (listener != NULL && listener->rom == NULL)
        listener = listener->next;
    return listener != NULL;
}

static bool show(const struct mem_space *space, const struct mem_rom *rom, struct error **err)
{
    for (const struct mem_listener *listener = space->listeners; listener != NULL;
         listener = listener->next)
        if (listener->rom != NULL && !listener->rom(listener->opaque, rom, err))
            return false;
    return true;
}

struct mem_rom *mem_add_rom(struct mem_space *space, uint64_t gpa, uint64_t size,
                            struct error **err)
{
    if (size == 0 || gpa % MEM_PAGE_SIZE != 0 || size % MEM_PAGE_SIZE != 0 ||
        gpa + (size - 1) < gpa || space->rom_count == MEM_ROM_MAX || !is_free(space, gpa, size)) {
        error_set(
            err, ERROR_USAGE,
            "read-only memory (%llu bytes at %#llx) is empty, not made of whole pages of 4096 "
            "bytes, or overlaps other memory",
            (unsigned long long)size, (unsigned long long)gpa);
        return NULL;
    }
    void *host =
        mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (host == MAP_FAILED) {
        error_set_errno(err, errno, "cannot get memory for the guest's firmware");
        return NULL;
    }
    struct mem_rom *rom = &space->rom[space->rom_count++];
    *rom = (struct mem_rom){gpa, size, host};
    if (show(space, rom, err))
        return rom;
    space->rom_count--;
    munmap(host, (size_t)size);
    return NULL;
}

size_t mem_rom_count(const struct mem_space *space)
{
    return space->rom_count;
}

const struct mem_rom *mem_rom_at(const struct mem_space *space, size_t index)
{
    assert(index < space->rom_count);
    return &space->rom[index];
}

void mem_rom_destroy(struct mem_space *space)
{
    while (space->rom_count > 0) {
        const struct mem_rom *rom = &space->rom[--space->rom_count];
        munmap(rom->host, (size_t)rom->size);
    }
}
