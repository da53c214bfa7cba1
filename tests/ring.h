/* SPDX-License-Identifier: MIT
 *
 * A split ring written from the driver's side, for tests and fuzz targets. Guest memory is
 * touched through mem_write() and mem_read() only, and nothing is checked: a test may want
 * nonsense.
 */
#ifndef TRAPEZE_TESTS_RING_H
#define TRAPEZE_TESTS_RING_H

#include <stdint.h>

#include "base/bits.h"
#include "bus/virtqueue.h"
#include "mem/mem.h"

enum { RING_NEXT = 1, RING_WRITE = 2, RING_INDIRECT = 4 };

struct ring {
    struct mem_space *mem;
    uint64_t desc, avail, used;
    uint16_t size;
    uint16_t avail_index;
};

#define RING_BYTES UINT64_C(0x3000)

static inline struct ring ring_at(struct mem_space *mem, uint64_t gpa, uint16_t size)
{
    return (struct ring){
        .mem = mem, .desc = gpa, .avail = gpa + 0x1000, .used = gpa + 0x2000, .size = size};
}

static inline void ring_put16(struct mem_space *mem, uint64_t gpa, uint16_t value)
{
    uint8_t bytes[2];
    store_le16(bytes, value);
    (void)mem_write(mem, gpa, bytes, sizeof(bytes));
}

static inline uint32_t ring_get(struct mem_space *mem, uint64_t gpa, unsigned size)
{
    uint8_t bytes[4] = {0};
    (void)mem_read(mem, gpa, bytes, size);
    return load_le32(bytes);
}

/* Entry `index` of the descriptor table at `table`. */
static inline void ring_put_desc(struct mem_space *mem, uint64_t table, unsigned index,
                                 uint64_t gpa, uint32_t length, unsigned flags, unsigned next)
{
    uint8_t bytes[16];
    store_le64(bytes, gpa);
    store_le32(bytes + 8, length);
    store_le16(bytes + 12, (uint16_t)flags);
    store_le16(bytes + 14, (uint16_t)next);
    (void)mem_write(mem, table + 16 * (uint64_t)index, bytes, sizeof(bytes));
}

static inline void ring_desc(struct ring *ring, unsigned index, uint64_t gpa, uint32_t length,
                             unsigned flags, unsigned next)
{
    ring_put_desc(ring->mem, ring->desc, index, gpa, length, flags, next);
}

static inline void ring_offer(struct ring *ring, uint16_t head)
{
    ring_put16(ring->mem, ring->avail + 4 + 2u * (ring->avail_index % ring->size), head);
    ring_put16(ring->mem, ring->avail + 2, ++ring->avail_index);
}

static inline uint16_t ring_used_index(const struct ring *ring)
{
    return (uint16_t)ring_get(ring->mem, ring->used + 2, 2);
}

static inline uint32_t ring_used_head(const struct ring *ring, uint16_t index)
{
    return ring_get(ring->mem, ring->used + 4 + 8u * (index % ring->size), 4);
}

static inline uint32_t ring_used_length(const struct ring *ring, uint16_t index)
{
    return ring_get(ring->mem, ring->used + 8 + 8u * (index % ring->size), 4);
}

/* Driver's wish with EVENT_IDX: interrupt when the used index passes `index`. */
static inline void ring_want_used(struct ring *ring, uint16_t index)
{
    ring_put16(ring->mem, ring->avail + 4 + 2u * ring->size, index);
}

/* Device's wish: notify when the available index passes this. */
static inline uint16_t ring_avail_event(const struct ring *ring)
{
    return (uint16_t)ring_get(ring->mem, ring->used + 4 + 8u * ring->size, 2);
}

/* Binds a queue to the ring, as a transport would. */
static inline void ring_connect(const struct ring *ring, struct virtqueue *queue)
{
    queue->mem = ring->mem;
    queue->size_max = VIRTQ_SIZE_MAX;
    queue->size = ring->size;
    queue->desc = ring->desc;
    queue->avail = ring->avail;
    queue->used = ring->used;
    queue->enabled = true;
}

#endif
