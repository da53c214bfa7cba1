/* SPDX-License-Identifier: MIT
 *
 * The split ring, and what both layouts share, with a driver that may be hostile and rewrite
 * everything while we look.
 *
 * Everything in guest memory is addressed through mem_ram_pointer() at each access: a look-up
 * in a handful of regions is cheaper than any way of keeping cached pointers right, and it
 * is the bounds check and the dirty note at once. Each descriptor is copied and judged from
 * the copy. Work per chain is bounded: VIRTQ_SIZE_MAX descriptors.
 *
 * Memory order (2.7.6, 2.7.13): an index is loaded with acquire before what it covers, and
 * stored with release after it; between storing our index and loading the driver's wish to
 * be told (and the other way round) there is a full fence on both sides.
 *
 * Choices where the specification leaves room: a descriptor of length zero is skipped; a
 * chain whose descriptors are in an indirect table may have VIRTQ_SIZE_MAX of them, whatever
 * the size the driver chose for the ring (Linux does that).
 */
#include "bus/virtqueue_internal.h"

#include <assert.h>
#include <endian.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "mem/mem.h"

enum { AVAIL_NO_INTERRUPT = 1 };

#define USED_ELEMENT_BYTES 8u
#define CHAIN_BYTES_MAX    (UINT64_C(1) << 32) /* 2.7.5.1: a chain's bytes */

/* Where things are in the available and used rings. */
enum { RING_FLAGS = 0, RING_INDEX = 2, RING_ENTRIES = 4 };

static uint64_t used_event_at(const struct virtqueue *queue)
{
    return queue->avail + RING_ENTRIES + 2u * queue->size;
}

static uint64_t avail_event_at(const struct virtqueue *queue)
{
    return queue->used + RING_ENTRIES + USED_ELEMENT_BYTES * queue->size;
}

bool virtq_fail(struct virtqueue *queue, const char *what)
{
    if (!queue->broken) {
        queue->broken = true;
        if (queue->violation != NULL)
            queue->violation(queue->violation_opaque, queue, what);
    }
    return false;
}

void virtqueue_reset(struct virtqueue *queue)
{
    /* What is bound is not even written: another hart may be firing `notify` right now, which
     * happens without a lock. */
    queue->size = queue->size_max;
    queue->enabled = queue->broken = queue->resetting = false;
    queue->desc = queue->avail = queue->used = 0;
    queue->packed = queue->event_idx = queue->indirect = false;
    queue->avail_next = queue->used_next = queue->signalled = 0;
    queue->avail_wrap = queue->used_wrap = true;
    queue->unsignalled = 0;
}

bool virtq_in_ram(const struct virtqueue *queue, uint64_t gpa, uint64_t size)
{
    const struct mem_ram *ram = mem_ram_find(queue->mem, gpa);
    return ram != NULL && range_within(gpa - ram->gpa, size, ram->size);
}

static void came(void *opaque)
{
    const struct virtqueue *queue = opaque;
    notifier_fire(&queue->notify, queue->index);
}

/* Asks for what is not there. All of a request is asked for before pop gives up. */
bool virtq_ready(struct virtqueue *queue, uint64_t gpa, uint64_t size)
{
    if (mem_ready(queue->mem, gpa, size, &queue->starved))
        return true;
    queue->starving = true;
    return false;
}

static void ring_sizes(const struct virtqueue *queue, uint64_t sizes[3])
{
    sizes[0] = VIRTQ_DESC_BYTES * queue->size;
    sizes[1] = queue->packed ? VIRTQ_EVENT_BYTES : RING_ENTRIES + 2u * queue->size + 2;
    sizes[2] = queue->packed ? VIRTQ_EVENT_BYTES
                             : RING_ENTRIES + USED_ELEMENT_BYTES * queue->size + 2;
}

static bool rings_ready(struct virtqueue *queue)
{
    uint64_t sizes[3];
    queue->starving = false;
    if (!mem_is_late(queue->mem))
        return true;
    if (queue->starved.came == NULL) {
        queue->starved.opaque = queue;
        queue->starved.came = came;
    }
    ring_sizes(queue, sizes);
    (void)virtq_ready(queue, queue->desc, sizes[0]);
    (void)virtq_ready(queue, queue->avail, sizes[1]);
    (void)virtq_ready(queue, queue->used, sizes[2]);
    return !queue->starving;
}

static bool want_rings(const struct virtqueue *queue)
{
    uint64_t sizes[3];
    ring_sizes(queue, sizes);
    return mem_ram_pointer(queue->mem, queue->desc, sizes[0], MEM_READ) != NULL &&
           mem_ram_pointer(queue->mem, queue->avail, sizes[1], MEM_READ) != NULL &&
           mem_ram_pointer(queue->mem, queue->used, sizes[2], MEM_READ) != NULL;
}

void virtqueue_forget(struct virtqueue *queue)
{
    if (queue->mem != NULL)
        mem_forget_waiter(queue->mem, &queue->starved);
}

const char *virtqueue_check(const struct virtqueue *queue)
{
    if (queue->packed)
        return virtq_packed_check(queue);
    if (!is_power_of_two(queue->size) || queue->size > queue->size_max)
        return "the queue size is not a power of two up to the maximum";
    if (queue->desc % 16 != 0 || queue->avail % 2 != 0 || queue->used % 4 != 0)
        return "a ring is misaligned";
    /* 2.7: sizes include the event fields whether or not they are used. */
    if (!virtq_in_ram(queue, queue->desc, VIRTQ_DESC_BYTES * queue->size) ||
        !virtq_in_ram(queue, queue->avail, RING_ENTRIES + 2u * queue->size + 2) ||
        !virtq_in_ram(queue, queue->used, RING_ENTRIES + USED_ELEMENT_BYTES * queue->size + 2))
        return "a ring is outside of memory";
    return NULL;
}

/* --- guest memory, 16 bits at a time --- */

bool virtq_load16(struct virtqueue *queue, uint64_t gpa, uint16_t *value)
{
    const uint16_t *from = mem_ram_pointer(queue->mem, gpa, 2, MEM_READ);
    if (from == NULL)
        return virtq_fail(queue, "a ring is outside of memory");
    *value = le16toh(__atomic_load_n(from, __ATOMIC_ACQUIRE));
    return true;
}

bool virtq_store16(struct virtqueue *queue, uint64_t gpa, uint16_t value)
{
    uint16_t *to = mem_ram_pointer(queue->mem, gpa, 2, MEM_WRITE);
    if (to == NULL)
        return virtq_fail(queue, "a ring is outside of memory");
    __atomic_store_n(to, htole16(value), __ATOMIC_RELEASE);
    mem_note_range(queue->mem, gpa, 2);
    return true;
}

/* --- reading a chain --- */

bool virtq_load_descriptor(struct virtqueue *queue, const struct virtq_table *table, uint32_t index,
                           struct virtq_descriptor *descriptor)
{
    uint8_t raw[VIRTQ_DESC_BYTES];
    if (table->gpa > UINT64_MAX - (uint64_t)VIRTQ_DESC_BYTES * table->count)
        return virtq_fail(queue, "a descriptor table is outside of memory");
    if (table->indirect &&
        !virtq_ready(queue, table->gpa + (uint64_t)VIRTQ_DESC_BYTES * index, sizeof(raw)))
        return false;
    if (!mem_read(queue->mem, table->gpa + (uint64_t)VIRTQ_DESC_BYTES * index, raw, sizeof(raw)))
        return virtq_fail(queue, "a descriptor table is outside of memory");
    /* The copy must not be fetched again behind the checks that follow. */
    atomic_signal_fence(memory_order_seq_cst);
    *descriptor = (struct virtq_descriptor){.gpa = load_le64(raw),
                                            .length = load_le32(raw + 8),
                                            .flags = load_le16(raw + (queue->packed ? 14 : 12)),
                                            .next = load_le16(raw + (queue->packed ? 12 : 14))};
    return true;
}

/* Adds one piece of host memory; `gpa` lies in `ram`, and there is room. */
static void append_segment(const struct virtqueue *queue, struct virtq_chain *chain,
                           struct mem_ram *ram, uint64_t gpa, uint64_t length, bool writable)
{
    unsigned at = chain->out_count + chain->in_count;
    if (writable) {
        mem_note_range(queue->mem, gpa, length);
        chain->in_count++;
        chain->in_size += length;
    } else {
        chain->out_count++;
        chain->out_size += length;
    }
    chain->segment[at] = (struct iovec){ram->host + (gpa - ram->gpa), (size_t)length};
    chain->range[at] = (struct virtq_range){gpa, length};
}

/* A buffer may run from one RAM region into the next; host memory then does not. */
bool virtq_add_buffer(struct virtqueue *queue, struct virtq_chain *chain,
                      const struct virtq_descriptor *descriptor, uint64_t limit)
{
    bool writable = (descriptor->flags & VIRTQ_DESC_WRITE) != 0;
    uint64_t gpa = descriptor->gpa, left = descriptor->length;
    if (!writable && chain->in_count > 0)
        return virtq_fail(queue, "a readable descriptor follows a writable one");
    if (left > limit - chain->out_size - chain->in_size)
        return virtq_fail(queue, "a request has too many bytes");
    if (left > 0 && gpa > UINT64_MAX - (left - 1))
        return virtq_fail(queue, "a buffer is outside of memory");
    while (left > 0) {
        struct mem_ram *ram = mem_ram_find(queue->mem, gpa);
        if (ram == NULL)
            return virtq_fail(queue, "a buffer is outside of memory");
        uint64_t here = ram->size - (gpa - ram->gpa);
        uint64_t part = left < here ? left : here;
        if (chain->out_count + chain->in_count == VIRTQ_SEGMENT_MAX)
            return virtq_fail(queue, "a descriptor chain is too long");
        if (virtq_ready(queue, gpa, part) && !mem_want(queue->mem, ram, gpa, part))
            return virtq_fail(queue, "a buffer's contents were lost");
        append_segment(queue, chain, ram, gpa, part, writable);
        gpa += part;
        left -= part;
    }
    return true;
}

/* 2.7.5.3. Its own WRITE flag means nothing. */
bool virtq_enter_indirect(struct virtqueue *queue, const struct virtq_descriptor *descriptor,
                          struct virtq_table *table)
{
    if (!queue->indirect)
        return virtq_fail(queue, "an indirect descriptor was not negotiated");
    if (table->indirect)
        return virtq_fail(queue, "an indirect table contains an indirect descriptor");
    if ((descriptor->flags & VIRTQ_DESC_NEXT) != 0)
        return virtq_fail(queue, "an indirect descriptor has a successor");
    if (descriptor->length == 0 || descriptor->length % VIRTQ_DESC_BYTES != 0)
        return virtq_fail(queue, "an indirect table has a size that is no multiple of 16");
    *table = (struct virtq_table){
        .gpa = descriptor->gpa, .count = descriptor->length / VIRTQ_DESC_BYTES, .indirect = true};
    return true;
}

static bool walk(struct virtqueue *queue, struct virtq_chain *chain, uint64_t limit)
{
    struct virtq_table table = {.gpa = queue->desc, .count = queue->size};
    uint32_t index = chain->head;
    for (unsigned total = 0;; total++) {
        struct virtq_descriptor descriptor;
        if (index >= table.count)
            return virtq_fail(queue, "a descriptor index is out of range");
        if (table.walked++ == table.count)
            return virtq_fail(queue, "a descriptor chain loops");
        if (total > VIRTQ_SIZE_MAX) /* the descriptor of an indirect table is not counted */
            return virtq_fail(queue, "a descriptor chain is too long");
        if (!virtq_load_descriptor(queue, &table, index, &descriptor))
            return false;
        if ((descriptor.flags & VIRTQ_DESC_INDIRECT) != 0) {
            if (!virtq_enter_indirect(queue, &descriptor, &table))
                return false;
            index = 0;
            continue;
        }
        if (!virtq_add_buffer(queue, chain, &descriptor, limit))
            return false;
        if ((descriptor.flags & VIRTQ_DESC_NEXT) == 0)
            return true;
        index = descriptor.next;
    }
}

/* True if there is something to take. Before it says no, it asks the driver to notify us of
 * the next arrival and looks again: one of the two sees the other (2.7.10). */
static bool available(struct virtqueue *queue)
{
    uint16_t index;
    if (!virtq_load16(queue, queue->avail + RING_INDEX, &index))
        return false;
    if (index == queue->avail_next && queue->event_idx) {
        if (!virtq_store16(queue, avail_event_at(queue), queue->avail_next))
            return false;
        atomic_thread_fence(memory_order_seq_cst);
        if (!virtq_load16(queue, queue->avail + RING_INDEX, &index))
            return false;
    }
    if ((uint16_t)(index - queue->avail_next) > queue->size)
        return virtq_fail(queue, "the available index runs ahead");
    return index != queue->avail_next;
}

static bool split_pop(struct virtqueue *queue, struct virtq_chain *chain, uint64_t limit)
{
    uint64_t entry = queue->avail + RING_ENTRIES + 2u * (queue->avail_next % queue->size);
    if (!available(queue) || !virtq_load16(queue, entry, &chain->head) ||
        !walk(queue, chain, limit) || queue->starving)
        return false;
    queue->avail_next++;
    return true;
}

bool virtqueue_pop(struct virtqueue *queue, struct virtq_chain *chain, uint64_t limit)
{
    if (!queue->enabled || queue->broken || !rings_ready(queue))
        return false;
    chain->out_count = chain->in_count = 0;
    chain->out_size = chain->in_size = 0;
    if (limit > CHAIN_BYTES_MAX)
        limit = CHAIN_BYTES_MAX;
    if (!(queue->packed ? virtq_packed_pop : split_pop)(queue, chain, limit))
        return false;
    chain->touched = chain->in_size;
    return true;
}

void virtqueue_arm(struct virtqueue *queue)
{
    if (queue->enabled && !queue->broken && rings_ready(queue))
        (void)(queue->packed ? virtq_packed_available : available)(queue);
}

unsigned virtqueue_waiting(struct virtqueue *queue)
{
    uint16_t index;
    if (!queue->enabled || queue->broken || !rings_ready(queue))
        return 0;
    if (queue->packed)
        return virtq_packed_waiting(queue);
    return virtq_load16(queue, queue->avail + RING_INDEX, &index)
               ? (uint16_t)(index - queue->avail_next)
               : 0;
}

/* --- giving back --- */

void virtqueue_note_touched(struct virtqueue *queue, const struct virtq_chain *chain)
{
    uint64_t left = chain->touched;
    unsigned end = chain->out_count + chain->in_count;
    for (unsigned i = chain->out_count; i < end && left > 0; i++) {
        const struct virtq_range *range = &chain->range[i];
        uint64_t part = range->length < left ? range->length : left;
        mem_note_range(queue->mem, range->gpa, part);
        left -= part;
    }
}

/* Fills the next entry of the used ring, which the driver does not see yet. */
static bool split_fill(struct virtqueue *queue, const struct virtq_chain *chain, uint32_t written)
{
    uint64_t gpa =
        queue->used + RING_ENTRIES + USED_ELEMENT_BYTES * (queue->used_next % queue->size);
    uint8_t element[USED_ELEMENT_BYTES];
    store_le32(element, chain->head);
    store_le32(element + 4, written);
    if (!mem_write(queue->mem, gpa, element, sizeof(element)))
        return virtq_fail(queue, "a ring is outside of memory");
    queue->used_next++;
    return true;
}

static void split_push_all(struct virtqueue *queue, struct virtq_chain *const *chains,
                           const uint32_t *written, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (!split_fill(queue, chains[i], written[i]))
            return;
    virtq_store16(queue, queue->used + RING_INDEX, queue->used_next);
}

void virtqueue_push_all(struct virtqueue *queue, struct virtq_chain *const *chains,
                        const uint32_t *written, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        assert(written[i] <= chains[i]->in_size);
        virtqueue_note_touched(queue, chains[i]);
    }
    if (count > 0 && queue->enabled && !queue->broken)
        (queue->packed ? virtq_packed_push_all : split_push_all)(queue, chains, written, count);
}

void virtqueue_push(struct virtqueue *queue, const struct virtq_chain *chain, uint32_t written)
{
    struct virtq_chain *one = (struct virtq_chain *)(uintptr_t)chain;
    virtqueue_push_all(queue, &one, &written, 1);
}

void virtqueue_unpop(struct virtqueue *queue, const struct virtq_chain *chain)
{
    if (queue->packed)
        virtq_packed_unpop(queue, chain);
    else
        queue->avail_next--;
}

static bool split_wants_interrupt(struct virtqueue *queue)
{
    uint16_t before = queue->signalled, now = queue->used_next, wish;
    if (now == before)
        return false;
    queue->signalled = now;
    if (!queue->event_idx)
        return virtq_load16(queue, queue->avail + RING_FLAGS, &wish) &&
               (wish & AVAIL_NO_INTERRUPT) == 0;
    /* Did the index pass used_event since last time? */
    return virtq_load16(queue, used_event_at(queue), &wish) &&
           (uint16_t)(now - wish - 1) < (uint16_t)(now - before);
}

void virtqueue_signal(struct virtqueue *queue)
{
    if (!queue->enabled || queue->broken)
        return;
    /* What was pushed is visible before we look whether the driver wants to hear of it
     * (2.7.7.2, 2.8.21.3.1). */
    atomic_thread_fence(memory_order_seq_cst);
    if ((queue->packed ? virtq_packed_wants_interrupt : split_wants_interrupt)(queue))
        notifier_fire(&queue->interrupt, queue->index);
}

/* --- segments --- */

bool virtq_slice(struct iovec **iov, unsigned *count, uint64_t offset, uint64_t size)
{
    while (*count > 0 && offset >= (*iov)->iov_len) {
        offset -= (*iov)->iov_len;
        ++*iov;
        --*count;
    }
    if (*count > 0) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + offset;
        (*iov)->iov_len -= (size_t)offset;
    }
    unsigned used = 0;
    while (used < *count && size > 0) {
        struct iovec *segment = &(*iov)[used++];
        if (segment->iov_len > size)
            segment->iov_len = (size_t)size;
        size -= segment->iov_len;
    }
    *count = used;
    return size == 0;
}

/* Calls for each piece of [offset, offset+size) in iov[0..count): one loop for both ways. */
static size_t copy(const struct iovec *iov, unsigned count, uint64_t offset, uint8_t *to,
                   const uint8_t *from, size_t size)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t part = iov[i].iov_len - (size_t)offset;
        if (part > size - done)
            part = size - done;
        uint8_t *guest = (uint8_t *)iov[i].iov_base + offset;
        if (to != NULL)
            memcpy(to + done, guest, part);
        else
            memcpy(guest, from + done, part);
        done += part;
        offset = 0;
    }
    return done;
}

size_t virtq_read(const struct virtq_chain *chain, uint64_t offset, void *to, size_t size)
{
    size_t done = copy(chain->segment, chain->out_count, offset, to, NULL, size);
    atomic_signal_fence(memory_order_seq_cst);
    return done;
}

size_t virtq_write(const struct virtq_chain *chain, uint64_t offset, const void *from, size_t size)
{
    return copy(chain->segment + chain->out_count, chain->in_count, offset, NULL, from, size);
}

/* --- state --- */

struct saved_chain {
    uint16_t queue, head, descriptors;
    uint32_t out_count, in_count;
    struct state_buffer ranges; /* address and length of each, 64 bits */
};

#define RANGE_BYTES 16u

static const struct state_field chain_fields[] = {
    STATE_UINT(struct saved_chain, queue, "queue"),
    STATE_UINT(struct saved_chain, head, "head"),
    STATE_UINT(struct saved_chain, descriptors, "descriptors"),
    STATE_UINT(struct saved_chain, out_count, "out_count"),
    STATE_UINT(struct saved_chain, in_count, "in_count"),
    STATE_BUFFER(struct saved_chain, ranges, "ranges"),
    STATE_END,
};
static const struct state_table chain_state = {"virtqueue-chain", 1, chain_fields, NULL, NULL};

void virtqueue_save_chain(const struct virtqueue *queue, const struct virtq_chain *chain,
                          struct state_buffer *out)
{
    struct saved_chain saved = {.queue = queue->index,
                                .head = chain->head,
                                .descriptors = queue->packed ? chain->descriptors : 0,
                                .out_count = chain->out_count,
                                .in_count = chain->in_count};
    for (unsigned i = 0; i < chain->out_count + chain->in_count; i++) {
        uint8_t raw[RANGE_BYTES];
        store_le64(raw, chain->range[i].gpa);
        store_le64(raw + 8, chain->range[i].length);
        state_buffer_add(&saved.ranges, raw, sizeof(raw));
    }
    state_save(&chain_state, &saved, out);
    state_buffer_free(&saved.ranges);
}

/* What is wrong with it, or NULL. */
static const char *rebuild(const struct virtqueue *queue, const struct saved_chain *saved,
                           struct virtq_chain *chain, uint64_t limit)
{
    uint64_t count = (uint64_t)saved->out_count + saved->in_count;
    if (count > VIRTQ_SEGMENT_MAX || saved->ranges.size != count * RANGE_BYTES ||
        (!queue->packed && saved->head >= queue->size) || saved->descriptors > queue->size ||
        queue->packed != (saved->descriptors > 0))
        return "has an impossible shape";
    chain->head = saved->head;
    chain->descriptors = saved->descriptors;
    chain->out_count = chain->in_count = 0;
    chain->out_size = chain->in_size = 0;
    for (unsigned i = 0; i < count; i++) {
        uint64_t gpa = load_le64(saved->ranges.data + RANGE_BYTES * i);
        uint64_t length = load_le64(saved->ranges.data + RANGE_BYTES * i + 8);
        struct mem_ram *ram = mem_ram_find(queue->mem, gpa);
        if (ram == NULL || length == 0 || !range_within(gpa - ram->gpa, length, ram->size))
            return "has a buffer outside of memory";
        if (!mem_want(queue->mem, ram, gpa, length))
            return "has a buffer whose contents were lost";
        if (length > limit - chain->out_size - chain->in_size)
            return "has too many bytes";
        append_segment(queue, chain, ram, gpa, length, i >= saved->out_count);
    }
    chain->touched = chain->in_size;
    return NULL;
}

struct virtqueue *virtqueue_restore_chain(struct virtqueue *queues, unsigned count,
                                          struct virtq_chain *chain, uint64_t limit,
                                          const struct state_buffer *from, size_t *at,
                                          struct error **err)
{
    struct saved_chain saved = {0};
    struct virtqueue *queue = NULL;
    const char *what = "has an unknown queue";
    if (!state_restore(&chain_state, &saved, from->data, from->size, at, err)) {
        state_buffer_free(&saved.ranges);
        return NULL;
    }
    if (saved.queue < count && queues[saved.queue].enabled) {
        queue = &queues[saved.queue];
        what = rebuild(queue, &saved, chain, limit);
    }
    state_buffer_free(&saved.ranges);
    if (what == NULL)
        return queue;
    error_set(err, ERROR_USAGE, "a request in the saved state %s", what);
    return NULL;
}

static bool virtqueue_post_restore(void *object, struct error **err)
{
    struct virtqueue *queue = object;
    const char *what = queue->enabled && !queue->broken ? virtqueue_check(queue) : NULL;
    if (what == NULL && queue->packed && queue->enabled && !queue->broken &&
        (queue->avail_next >= queue->size || queue->used_next >= queue->size))
        what = "an index is out of range";
    /* Requests that are in flight are given back to rings that have to be there. */
    if (what == NULL && queue->enabled && !queue->broken && !want_rings(queue))
        what = "its rings were lost";
    if (what == NULL)
        return true;
    return error_set(err, ERROR_USAGE, "the saved state of virtqueue %u is invalid: %s",
                     queue->index, what);
}

static const struct state_field virtqueue_fields[] = {
    STATE_UINT(struct virtqueue, size, "size"),
    STATE_BOOL(struct virtqueue, enabled, "enabled"),
    STATE_UINT(struct virtqueue, desc, "desc"),
    STATE_UINT(struct virtqueue, avail, "avail"),
    STATE_UINT(struct virtqueue, used, "used"),
    STATE_BOOL(struct virtqueue, broken, "broken"),
    STATE_UINT(struct virtqueue, avail_next, "avail_next"),
    STATE_UINT(struct virtqueue, used_next, "used_next"),
    STATE_UINT(struct virtqueue, signalled, "signalled"),
    STATE_BOOL(struct virtqueue, packed, "packed"),
    STATE_BOOL(struct virtqueue, avail_wrap, "avail_wrap"),
    STATE_BOOL(struct virtqueue, used_wrap, "used_wrap"),
    STATE_UINT(struct virtqueue, unsignalled, "unsignalled"),
    STATE_END,
};

const struct state_table virtqueue_state = {"virtqueue", 1, virtqueue_fields, NULL,
                                            virtqueue_post_restore};
