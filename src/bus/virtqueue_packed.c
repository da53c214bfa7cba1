/* SPDX-License-Identifier: MIT
 *
 * The packed ring (virtio 1.2, 2.8): one table of descriptors that driver and device both
 * write. queue->desc is the table, queue->avail the driver's wishes about interrupts (2.8.14),
 * queue->used ours about notifications.
 *
 * avail_next and used_next are places in the ring; the wrap counters tell one time round from
 * the next. A driver that offers a descriptor again which was not given back yet breaks the
 * rules: requests in flight never have more descriptors than the ring.
 */
#include "bus/virtqueue_internal.h"

#include <stdatomic.h>

#include "base/bits.h"
#include "mem/mem.h"

/* In a descriptor: offsets and flags (2.8.1, 2.8.13). */
enum { DESC_LENGTH = 8, DESC_ID = 12, DESC_FLAGS = 14 };
enum { FLAG_AVAIL = 1 << 7, FLAG_USED = 1 << 15 };

/* struct pvirtq_event_suppress (2.8.14). */
enum { EVENT_WHERE = 0, EVENT_FLAGS = 2 };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_AT_DESCRIPTOR = 2, EVENT_FLAGS_MASK = 3 };
#define WHERE_WRAP 0x8000u

const char *virtq_packed_check(const struct virtqueue *queue)
{
    if (queue->size == 0 || queue->size > queue->size_max)
        return "the queue size is not from 1 up to the maximum";
    if (queue->desc % 16 != 0 || queue->avail % 4 != 0 || queue->used % 4 != 0)
        return "a ring is misaligned";
    if (!virtq_in_ram(queue, queue->desc, VIRTQ_DESC_BYTES * queue->size) ||
        !virtq_in_ram(queue, queue->avail, VIRTQ_EVENT_BYTES) ||
        !virtq_in_ram(queue, queue->used, VIRTQ_EVENT_BYTES))
        return "a ring is outside of memory";
    return NULL;
}

static uint64_t descriptor_at(const struct virtqueue *queue, uint16_t index)
{
    return queue->desc + (uint64_t)VIRTQ_DESC_BYTES * index;
}

/* Twice round the ring is a circle of its own: a place with its wrap counter. */
static unsigned position(const struct virtqueue *queue, uint16_t index, bool wrap)
{
    return index + (wrap ? 0u : queue->size);
}

static unsigned distance(const struct virtqueue *queue, unsigned from, unsigned to)
{
    return to >= from ? to - from : to + 2u * queue->size - from;
}

static void advance(const struct virtqueue *queue, uint16_t *index, bool *wrap, unsigned count)
{
    unsigned next = *index + count;
    if (next >= queue->size) {
        next -= queue->size;
        *wrap = !*wrap;
    }
    *index = (uint16_t)next;
}

/* ---- taking ---- */

static bool is_available(struct virtqueue *queue, uint16_t index, bool wrap, bool *available)
{
    uint16_t flags;
    if (!virtq_load16(queue, descriptor_at(queue, index) + DESC_FLAGS, &flags))
        return false;
    *available = ((flags & FLAG_AVAIL) != 0) == wrap && ((flags & FLAG_USED) != 0) != wrap;
    return true;
}

static bool next_is_available(struct virtqueue *queue, bool *available)
{
    return is_available(queue, queue->avail_next, queue->avail_wrap, available);
}

unsigned virtq_packed_waiting(struct virtqueue *queue)
{
    uint16_t index = queue->avail_next;
    bool wrap = queue->avail_wrap, there;
    unsigned count = 0;
    while (count < queue->size && is_available(queue, index, wrap, &there) && there) {
        advance(queue, &index, &wrap, 1);
        count++;
    }
    return count;
}

/* Before it says no, it asks to be notified of the next descriptor and looks again. */
bool virtq_packed_available(struct virtqueue *queue)
{
    bool there;
    if (!next_is_available(queue, &there) || there || !queue->event_idx)
        return !queue->broken && there;
    uint16_t where = (uint16_t)(queue->avail_next | (queue->avail_wrap ? WHERE_WRAP : 0));
    if (!virtq_store16(queue, queue->used + EVENT_WHERE, where) ||
        !virtq_store16(queue, queue->used + EVENT_FLAGS, EVENT_AT_DESCRIPTOR))
        return false;
    atomic_thread_fence(memory_order_seq_cst);
    return next_is_available(queue, &there) && there;
}

/* All of an indirect table is the request, in order; flags but WRITE mean nothing (2.8.8). */
static bool walk_indirect(struct virtqueue *queue, struct virtq_chain *chain,
                          struct virtq_table *table, uint64_t limit)
{
    if (table->count > VIRTQ_SIZE_MAX)
        return virtq_fail(queue, "a descriptor chain is too long");
    for (uint32_t i = 0; i < table->count; i++) {
        struct virtq_descriptor descriptor;
        if (!virtq_load_descriptor(queue, table, i, &descriptor) ||
            !virtq_add_buffer(queue, chain, &descriptor, limit))
            return false;
    }
    return true;
}

static bool walk(struct virtqueue *queue, struct virtq_chain *chain, uint64_t limit)
{
    struct virtq_table ring = {.gpa = queue->desc, .count = queue->size};
    unsigned in_flight = distance(queue, position(queue, queue->used_next, queue->used_wrap),
                                  position(queue, queue->avail_next, queue->avail_wrap));
    uint32_t index = queue->avail_next;
    for (unsigned count = 1;; count++) {
        struct virtq_descriptor descriptor;
        if (in_flight + count > queue->size)
            return virtq_fail(queue, "more descriptors are offered than the ring has");
        if (!virtq_load_descriptor(queue, &ring, index, &descriptor))
            return false;
        chain->head = descriptor.next;
        chain->descriptors = (uint16_t)count;
        if ((descriptor.flags & VIRTQ_DESC_INDIRECT) != 0) {
            struct virtq_table table = ring;
            return virtq_enter_indirect(queue, &descriptor, &table) &&
                   walk_indirect(queue, chain, &table, limit);
        }
        if (!virtq_add_buffer(queue, chain, &descriptor, limit))
            return false;
        if ((descriptor.flags & VIRTQ_DESC_NEXT) == 0)
            return true;
        index = index + 1 == queue->size ? 0 : index + 1;
    }
}

bool virtq_packed_pop(struct virtqueue *queue, struct virtq_chain *chain, uint64_t limit)
{
    if (!virtq_packed_available(queue) || !walk(queue, chain, limit) || queue->starving)
        return false;
    advance(queue, &queue->avail_next, &queue->avail_wrap, chain->descriptors);
    return true;
}

/* ---- giving back ---- */

static void push(struct virtqueue *queue, const struct virtq_chain *chain, uint32_t written)
{
    uint64_t at = descriptor_at(queue, queue->used_next);
    uint8_t middle[DESC_FLAGS - DESC_LENGTH];
    store_le32(middle, written);
    store_le16(middle + (DESC_ID - DESC_LENGTH), chain->head);
    if (!mem_write(queue->mem, at + DESC_LENGTH, middle, sizeof(middle))) {
        virtq_fail(queue, "a ring is outside of memory");
        return;
    }
    unsigned flags = chain->in_count > 0 ? VIRTQ_DESC_WRITE : 0;
    if (queue->used_wrap)
        flags |= FLAG_AVAIL | FLAG_USED;
    if (!virtq_store16(queue, at + DESC_FLAGS, (uint16_t)flags))
        return;
    advance(queue, &queue->used_next, &queue->used_wrap, chain->descriptors);
    queue->unsignalled += chain->descriptors;
}

/* The driver looks at one place until it changes: the first chain's is written last. */
void virtq_packed_push_all(struct virtqueue *queue, struct virtq_chain *const *chains,
                           const uint32_t *written, unsigned count)
{
    uint16_t first = queue->used_next;
    bool first_wrap = queue->used_wrap;
    if (count > 1) {
        advance(queue, &queue->used_next, &queue->used_wrap, chains[0]->descriptors);
        for (unsigned i = 1; i < count; i++)
            push(queue, chains[i], written[i]);
    }
    uint16_t end = queue->used_next;
    bool end_wrap = queue->used_wrap;
    queue->used_next = first;
    queue->used_wrap = first_wrap;
    push(queue, chains[0], written[0]);
    if (count > 1) {
        queue->used_next = end;
        queue->used_wrap = end_wrap;
    }
}

void virtq_packed_unpop(struct virtqueue *queue, const struct virtq_chain *chain)
{
    if (queue->avail_next < chain->descriptors) {
        queue->avail_next = (uint16_t)(queue->avail_next + queue->size);
        queue->avail_wrap = !queue->avail_wrap;
    }
    queue->avail_next = (uint16_t)(queue->avail_next - chain->descriptors);
}

bool virtq_packed_wants_interrupt(struct virtqueue *queue)
{
    uint32_t pushed = queue->unsignalled;
    uint16_t flags, where;
    if (pushed == 0)
        return false;
    queue->unsignalled = 0;
    if (!virtq_load16(queue, queue->avail + EVENT_FLAGS, &flags))
        return false;
    flags &= EVENT_FLAGS_MASK;
    if (flags != EVENT_AT_DESCRIPTOR || !queue->event_idx)
        return flags != EVENT_DISABLE;
    if (!virtq_load16(queue, queue->avail + EVENT_WHERE, &where))
        return false;
    /* Was the place among the descriptors used since? One that does not exist never is. */
    unsigned wanted = where & ~WHERE_WRAP;
    if (wanted >= queue->size)
        return false;
    unsigned back = distance(queue, position(queue, (uint16_t)wanted, (where & WHERE_WRAP) != 0),
                             position(queue, queue->used_next, queue->used_wrap));
    return back > 0 && back <= pushed;
}
