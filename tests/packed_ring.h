/* SPDX-License-Identifier: MIT
 *
 * A packed ring written from the driver's side, for tests and fuzz targets (as ring.h for a
 * split one): the table at `desc`, the driver's event area a page behind it, the device's two.
 */
#ifndef TRAPEZE_TESTS_PACKED_RING_H
#define TRAPEZE_TESTS_PACKED_RING_H

#include "ring.h"

enum { PACKED_AVAIL = 1 << 7, PACKED_USED = 1 << 15 };
enum { PACKED_EVENT_ENABLE, PACKED_EVENT_DISABLE, PACKED_EVENT_DESCRIPTOR };

struct packed_ring {
    struct mem_space *mem;
    uint64_t desc, driver, device;
    uint16_t size;
    uint16_t next, used; /* where the next descriptor is offered, and the next used one is */
    bool wrap, used_wrap;
};

static inline struct packed_ring packed_at(struct mem_space *mem, uint64_t gpa, uint16_t size)
{
    return (struct packed_ring){.mem = mem,
                                .desc = gpa,
                                .driver = gpa + 0x1000,
                                .device = gpa + 0x2000,
                                .size = size,
                                .wrap = true,
                                .used_wrap = true};
}

static inline void packed_put_desc(struct mem_space *mem, uint64_t table, unsigned index,
                                   uint64_t gpa, uint32_t length, unsigned flags, unsigned id)
{
    uint8_t bytes[16];
    store_le64(bytes, gpa);
    store_le32(bytes + 8, length);
    store_le16(bytes + 12, (uint16_t)id);
    store_le16(bytes + 14, (uint16_t)flags);
    (void)mem_write(mem, table + 16 * (uint64_t)index, bytes, sizeof(bytes));
}

static inline void packed_step(const struct packed_ring *ring, uint16_t *index, bool *wrap)
{
    if (++*index == ring->size) {
        *index = 0;
        *wrap = !*wrap;
    }
}

/* Descriptor number `ahead` of the request that is offered next; without the two bits. */
static inline void packed_desc(struct packed_ring *ring, unsigned ahead, uint64_t gpa,
                               uint32_t length, unsigned flags, unsigned id)
{
    packed_put_desc(ring->mem, ring->desc, (ring->next + ahead) % ring->size, gpa, length, flags,
                    id);
}

/* Offers the next `count` descriptors, the first one last (2.8.13). */
static inline void packed_offer(struct packed_ring *ring, unsigned count)
{
    uint64_t places[64];
    unsigned bits[64];
    for (unsigned i = 0; i < count && i < 64; i++) {
        places[i] = ring->desc + 16u * ring->next + 14;
        bits[i] = ring->wrap ? PACKED_AVAIL : PACKED_USED;
        packed_step(ring, &ring->next, &ring->wrap);
    }
    for (unsigned i = count; i-- > 0;) {
        unsigned flags = ring_get(ring->mem, places[i], 2) & 0x7f7fu;
        uint16_t *host = mem_ram_pointer(ring->mem, places[i], 2, MEM_WRITE);
        if (host != NULL)
            __atomic_store_n(host, (uint16_t)(flags | bits[i]), __ATOMIC_RELEASE);
    }
}

/* Takes the next used element, of a request with `count` descriptors; false: there is none. */
static inline bool packed_take_used(struct packed_ring *ring, uint16_t *id, uint32_t *length)
{
    uint64_t gpa = ring->desc + 16u * ring->used;
    const uint16_t *host = mem_ram_pointer(ring->mem, gpa + 14, 2, MEM_READ);
    unsigned flags = __atomic_load_n(host, __ATOMIC_ACQUIRE);
    if (((flags & PACKED_AVAIL) != 0) != ring->used_wrap ||
        ((flags & PACKED_USED) != 0) != ring->used_wrap)
        return false;
    *length = ring_get(ring->mem, gpa + 8, 4);
    *id = (uint16_t)ring_get(ring->mem, gpa + 12, 2);
    return true;
}

static inline void packed_used_done(struct packed_ring *ring, unsigned count)
{
    while (count-- > 0)
        packed_step(ring, &ring->used, &ring->used_wrap);
}

/* The driver's wish about interrupts: enum PACKED_EVENT_*, and for DESCRIPTOR the place. */
static inline void packed_want(struct packed_ring *ring, unsigned wish, uint16_t index, bool wrap)
{
    ring_put16(ring->mem, ring->driver, (uint16_t)(index | (wrap ? 0x8000 : 0)));
    ring_put16(ring->mem, ring->driver + 2, (uint16_t)wish);
}

#endif
