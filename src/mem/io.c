/* SPDX-License-Identifier: MIT
 *
 * Guest-physical memory: I/O regions. A sorted array under a read-write lock, held for the
 * binary search alone: the region's callback may take as long as it likes, and may add and
 * remove regions (a write to a PCI BAR does).
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "mem/mem.h"
#include "mem/space.h"

void mem_io_init(struct mem_space *space)
{
    pthread_rwlock_init(&space->io_lock, NULL);
}

void mem_io_destroy(struct mem_space *space)
{
    for (size_t i = 0; i < space->io_count; i++)
        space->io[i]->mapped = false;
    for (size_t i = 0; i < MEM_MAX_BACKGROUNDS; i++)
        if (space->backgrounds[i] != NULL)
            space->backgrounds[i]->mapped = false;
    free(space->io);
    pthread_rwlock_destroy(&space->io_lock);
}

static uint64_t last_byte(const struct mem_io *io)
{
    return io->gpa + (io->size - 1);
}

/* Lock held. Index of the first region that ends at or behind gpa. */
static size_t lower_bound(const struct mem_space *space, uint64_t gpa)
{
    size_t low = 0;
    size_t high = space->io_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (last_byte(space->io[middle]) < gpa)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void insert_at(struct mem_space *space, size_t at, struct mem_io *io)
{
    if (space->io_count == space->io_capacity) {
        space->io_capacity = space->io_capacity > 0 ? 2 * space->io_capacity : 16;
        space->io = alloc_resize(space->io, space->io_capacity, sizeof(*space->io));
    }
    memmove(&space->io[at + 1], &space->io[at], (space->io_count - at) * sizeof(*space->io));
    space->io[at] = io;
    space->io_count++;
}

bool mem_takes_doorbells(const struct mem_space *space)
{
    const struct mem_listener *listener = space->listeners;
    while (listener != NULL && listener->doorbell == NULL)
        listener = listener->next;
    return listener != NULL;
}

/* Lock held: so a region's doorbells come and go in the order in which it does. */
static void set_doorbells(struct mem_space *space, const struct mem_io *io, bool on)
{
    for (struct mem_listener *listener = space->listeners; listener != NULL;
         listener = listener->next)
        for (unsigned i = 0; listener->doorbell != NULL && i < io->doorbell_count; i++)
            listener->doorbell(listener->opaque, io->gpa, &io->doorbells[i], on);
}

bool mem_io_add(struct mem_space *space, struct mem_io *io)
{
    assert(!io->mapped);
    assert(is_power_of_two(io->ops->min_size) && is_power_of_two(io->ops->max_size) &&
           io->ops->min_size <= io->ops->max_size && io->ops->max_size <= 8);
    if (io->size == 0 || last_byte(io) < io->gpa)
        return false;
    pthread_rwlock_wrlock(&space->io_lock);
    size_t at = lower_bound(space, io->gpa);
    bool fits = at == space->io_count || space->io[at]->gpa > last_byte(io);
    if (fits) {
        insert_at(space, at, io);
        io->mapped = true;
        set_doorbells(space, io, true);
    }
    pthread_rwlock_unlock(&space->io_lock);
    return fits;
}

bool mem_io_add_background(struct mem_space *space, struct mem_io *io)
{
    assert(!io->mapped);
    if (io->size == 0 || last_byte(io) < io->gpa)
        return false;
    pthread_rwlock_wrlock(&space->io_lock);
    struct mem_io **place = NULL;
    bool fits = true;
    for (size_t i = 0; i < MEM_MAX_BACKGROUNDS; i++) {
        const struct mem_io *other = space->backgrounds[i];
        if (other == NULL)
            place = &space->backgrounds[i];
        else
            fits = fits && (other->gpa > last_byte(io) || last_byte(other) < io->gpa);
    }
    fits = fits && place != NULL;
    if (fits) {
        *place = io;
        io->mapped = true;
    }
    pthread_rwlock_unlock(&space->io_lock);
    return fits;
}

/* Lock held. */
static bool remove_background(struct mem_space *space, struct mem_io *io)
{
    for (size_t i = 0; i < MEM_MAX_BACKGROUNDS; i++)
        if (space->backgrounds[i] == io) {
            space->backgrounds[i] = NULL;
            io->mapped = false;
            return true;
        }
    return false;
}

void mem_io_remove(struct mem_space *space, struct mem_io *io)
{
    pthread_rwlock_wrlock(&space->io_lock);
    if (io->mapped && !remove_background(space, io)) {
        size_t at = lower_bound(space, io->gpa);
        assert(at < space->io_count && space->io[at] == io && "gpa changed while mapped");
        set_doorbells(space, io, false);
        space->io_count--;
        memmove(&space->io[at], &space->io[at + 1], (space->io_count - at) * sizeof(*space->io));
        io->mapped = false;
    }
    pthread_rwlock_unlock(&space->io_lock);
}

/* Lock held. The region that answers at gpa; NULL: none does. */
static const struct mem_io *region_at(const struct mem_space *space, uint64_t gpa)
{
    size_t at = lower_bound(space, gpa);
    if (at < space->io_count && space->io[at]->gpa <= gpa)
        return space->io[at];
    for (size_t i = 0; i < MEM_MAX_BACKGROUNDS; i++) {
        const struct mem_io *io = space->backgrounds[i];
        if (io != NULL && io->gpa <= gpa && gpa <= last_byte(io))
            return io;
    }
    return NULL;
}

struct found_io {
    const struct mem_io_ops *ops;
    void *opaque;
    uint64_t offset;
};

/* Copies out what the access needs, because the region may be moved once the lock is gone. */
static bool find_io(struct mem_space *space, uint64_t gpa, unsigned size, struct found_io *found)
{
    if (!is_power_of_two(size) || size > 8 || gpa % size != 0)
        return false;
    if (mem_ram_find(space, gpa))
        return false; /* RAM wins */
    bool inside = false;
    pthread_rwlock_rdlock(&space->io_lock);
    const struct mem_io *io = region_at(space, gpa);
    if (io != NULL) {
        *found = (struct found_io){io->ops, io->opaque, gpa - io->gpa};
        inside = range_within(found->offset, size, io->size);
    }
    pthread_rwlock_unlock(&space->io_lock);
    return inside && size >= found->ops->min_size && size <= found->ops->max_size;
}

bool mem_io_at(struct mem_space *space, uint64_t gpa)
{
    pthread_rwlock_rdlock(&space->io_lock);
    bool inside = region_at(space, gpa) != NULL;
    pthread_rwlock_unlock(&space->io_lock);
    return inside && !mem_ram_find(space, gpa);
}

bool mem_io_read(struct mem_space *space, uint64_t gpa, unsigned size, uint64_t *value)
{
    struct found_io found;
    if (!find_io(space, gpa, size, &found))
        return false;
    *value = bits_get(found.ops->read(found.opaque, found.offset, size), 0, 8 * size);
    return true;
}

bool mem_io_write(struct mem_space *space, uint64_t gpa, unsigned size, uint64_t value)
{
    struct found_io found;
    if (!find_io(space, gpa, size, &found))
        return false;
    found.ops->write(found.opaque, found.offset, bits_get(value, 0, 8 * size), size);
    return true;
}
