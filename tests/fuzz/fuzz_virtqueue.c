/* SPDX-License-Identifier: MIT
 *
 * The chain reader (bus/virtqueue.c) against any contents of guest memory.
 *
 * Input: 2 bytes of options (the ring's layout, features, size), then records of 8 bytes, each one thing that driver or device
 * does (enum record). Checked after each pop: segments lie in guest memory, the sums are
 * right, the limit is kept; and after the first violation the queue stays still.
 */
#include "fuzz.h"

#include <string.h>

#include "packed_ring.h"
#include "ring.h"

#define RAM         UINT64_C(0x80000000)
#define RAM_SIZE    UINT64_C(0x8000)
#define SECOND_SIZE UINT64_C(0x1000)
#define TABLE       (RAM + 0x3000)
#define POPPED_MAX  8

enum record {
    PUT_DESC,     /* a: index, b: flags/next, c: page, length */
    PUT_INDIRECT, /* the same in the indirect table */
    PUT_WORD,     /* anywhere in memory */
    OFFER,
    POP,
    PUSH,
    SIGNAL,
    RESET,
    RECORD_COUNT
};

struct target {
    struct mem_space *mem;
    struct ring ring;
    struct virtqueue queue;
    struct packed_ring packed; /* the driver's side, in that layout */
    struct virtq_chain popped[POPPED_MAX];
    unsigned popped_count, violations;
};

static void on_violation(void *opaque, struct virtqueue *queue, const char *what)
{
    struct target *t = opaque;
    fuzz_check(queue == &t->queue && what != NULL);
    fuzz_check(++t->violations == 1);
}

static void on_interrupt(void *opaque, unsigned index)
{
    struct target *t = opaque;
    fuzz_check(index == 0 && t->violations == 0);
}

static void check_segment(const struct target *t, const struct iovec *segment,
                          const struct virtq_range *range)
{
    fuzz_check(segment->iov_len > 0 && segment->iov_len == range->length);
    const struct mem_ram *ram = mem_ram_find(t->mem, range->gpa);
    fuzz_check(ram != NULL && range_within(range->gpa - ram->gpa, range->length, ram->size));
    fuzz_check((uint8_t *)segment->iov_base == ram->host + (range->gpa - ram->gpa));
}

static void pop(struct target *t, uint64_t limit)
{
    if (t->popped_count == POPPED_MAX)
        return;
    struct virtq_chain *chain = &t->popped[t->popped_count];
    bool dead = t->violations > 0;
    if (!virtqueue_pop(&t->queue, chain, limit))
        return;
    fuzz_check(!dead && t->violations == 0);
    t->popped_count++;
    if (t->queue.packed)
        fuzz_check(chain->descriptors > 0 && chain->descriptors <= t->queue.size);
    else
        fuzz_check(chain->head < t->queue.size);
    fuzz_check(chain->out_count + chain->in_count <= VIRTQ_SEGMENT_MAX);
    uint64_t sums[2] = {0, 0};
    for (unsigned i = 0; i < chain->out_count + chain->in_count; i++) {
        check_segment(t, &chain->segment[i], &chain->range[i]);
        sums[i >= chain->out_count] += chain->segment[i].iov_len;
    }
    fuzz_check(sums[0] == chain->out_size && sums[1] == chain->in_size);
    fuzz_check(sums[0] + sums[1] <= limit);
    /* The sanitizer looks over the shoulder of whoever reads and writes all of it. */
    static uint8_t bytes[4 * RAM_SIZE];
    size_t room = sizeof(bytes);
    size_t got = virtq_read(chain, 0, bytes, room);
    fuzz_check(got == (chain->out_size < room ? chain->out_size : room));
    (void)virtq_write(chain, chain->in_size / 2, bytes, 64);

    struct iovec *iov = chain->segment;
    unsigned count = chain->out_count;
    uint64_t from = chain->out_size / 3, length = chain->out_size / 2, sliced = 0;
    fuzz_check(virtq_slice(&iov, &count, from, length));
    for (unsigned i = 0; i < count; i++)
        sliced += iov[i].iov_len;
    fuzz_check(sliced == length);
}

static void push(struct target *t, uint32_t written)
{
    if (t->popped_count == 0)
        return;
    struct virtq_chain *chain = &t->popped[--t->popped_count];
    uint64_t length = chain->in_size < written ? chain->in_size : written;
    chain->touched = length;
    virtqueue_push(&t->queue, chain, (uint32_t)length);
}

static void connect(struct target *t)
{
    bool packed = t->queue.packed;
    virtqueue_reset(&t->queue);
    t->ring.avail_index = 0;
    ring_connect(&t->ring, &t->queue);
    t->queue.packed = packed;
    t->packed = packed_at(t->mem, t->ring.desc, t->ring.size);
    t->violations = 0;
    t->popped_count = 0;
}

static void put_desc(struct target *t, uint64_t table, uint8_t a, uint16_t b, uint32_t c)
{
    /* Mostly inside of memory, sometimes at its ends, sometimes nowhere. */
    uint64_t gpa = RAM + (c & 0xffff);
    if ((b & 0x8000) != 0)
        gpa = RAM + RAM_SIZE + SECOND_SIZE - (c & 0x1f);
    if ((b & 0x4000) != 0)
        gpa = (uint64_t)c << 32 | 0xffffff80;
    if (t->queue.packed)
        packed_put_desc(t->mem, table, a & 0x3f, gpa, c >> 16, b & 7, b >> 3 & 0xff);
    else
        ring_put_desc(t->mem, table, a & 0x3f, gpa, c >> 16, b & 7, b >> 3 & 0xff);
}

static void step(struct target *t, struct fuzz_input *input)
{
    uint8_t kind = (uint8_t)fuzz_take(input, 1), a = (uint8_t)fuzz_take(input, 1);
    uint16_t b = (uint16_t)fuzz_take(input, 2);
    uint32_t c = (uint32_t)fuzz_take(input, 4);
    uint8_t word[4];
    switch (kind % RECORD_COUNT) {
    case PUT_DESC:
        put_desc(t, t->ring.desc, a, b, c);
        break;
    case PUT_INDIRECT:
        put_desc(t, TABLE, a, b, c);
        break;
    case PUT_WORD:
        store_le32(word, c);
        (void)mem_write(t->mem, RAM + b, word, sizeof(word));
        break;
    case OFFER:
        if (t->queue.packed)
            packed_offer(&t->packed, 1 + a % 4);
        else
            ring_offer(&t->ring, b);
        break;
    case POP:
        pop(t, (a & 1) != 0 ? UINT64_MAX : c);
        break;
    case PUSH:
        push(t, c);
        break;
    case SIGNAL:
        virtqueue_signal(&t->queue);
        break;
    case RESET:
        connect(t);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct target *t = calloc(1, sizeof(*t));
    t->mem = mem_space_new();
    fuzz_check(mem_add_ram(t->mem, "a", RAM, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, NULL) != NULL);
    fuzz_check(mem_add_ram(t->mem, "b", RAM + RAM_SIZE, SECOND_SIZE, MEM_BACKEND_ANONYMOUS, -1,
                           NULL) != NULL);
    uint8_t options = (uint8_t)fuzz_take(&input, 1), shape = (uint8_t)fuzz_take(&input, 1);
    t->ring = ring_at(t->mem, RAM, (uint16_t)(1u << (shape % 7)));
    t->queue.violation = on_violation;
    t->queue.violation_opaque = t;
    notifier_bind(&t->queue.interrupt, on_interrupt, t);
    t->queue.packed = (options & 4) != 0;
    connect(t);
    fuzz_check(virtqueue_check(&t->queue) == NULL);
    while (input.left > 0) {
        t->queue.event_idx = (options & 1) != 0;
        t->queue.indirect = (options & 2) != 0;
        step(t, &input);
    }
    while (t->popped_count > 0)
        push(t, UINT32_MAX);
    mem_space_free(t->mem);
    free(t);
    return 0;
}

/* Chains that are right but for a little noise, offered and served. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    size_t size = 0;
    data[size++] = (uint8_t)fuzz_random(seed);
    data[size++] = (uint8_t)(2 + fuzz_random(seed) % 5);
    unsigned noise = (unsigned)(fuzz_random(seed) % 30);
    unsigned rounds = 1 + (unsigned)(fuzz_random(seed) % 60);
    for (unsigned i = 0; i < rounds && size + 8 * 12 < FUZZ_INPUT_MAX; i++) {
        unsigned length = 1 + (unsigned)(fuzz_random(seed) % 6);
        unsigned first = (unsigned)(fuzz_random(seed) % 8);
        unsigned table =
            (fuzz_random(seed) % 3 == 0 && (data[0] & 2) != 0) ? PUT_INDIRECT : PUT_DESC;
        unsigned base = table == PUT_INDIRECT ? 0 : first;
        for (unsigned d = 0; d < length; d++) {
            uint64_t random = fuzz_random(seed);
            unsigned flags = (d + 1 < length ? RING_NEXT : 0u) |
                             (2 * d >= length ? RING_WRITE : 0u) | (base + d + 1) << 3;
            if (random % 100 < noise)
                flags ^= 1u << (random >> 8) % 16;
            data[size++] = (uint8_t)table;
            data[size++] = (uint8_t)(base + d);
            store_le16(data + size, (uint16_t)flags);
            store_le32(data + size + 2, (uint32_t)(random >> 32 & 0x0fff7fff));
            size += 6;
        }
        if (table == PUT_INDIRECT) {
            data[size++] = PUT_DESC;
            data[size++] = (uint8_t)first;
            store_le16(data + size, RING_INDIRECT);
            store_le32(data + size + 2, length * 16 << 16 | (TABLE - RAM));
            size += 6;
        }
        static const uint8_t then[] = {OFFER, POP, PUSH, SIGNAL};
        for (unsigned r = 0; r < 4; r++) {
            data[size++] = fuzz_random(seed) % 100 < noise ? (uint8_t)fuzz_random(seed) : then[r];
            data[size++] = fuzz_random(seed) % 8 != 0; /* POP: without limit */
            store_le16(data + size, (uint16_t)first);
            store_le32(data + size + 2, (uint32_t)fuzz_random(seed));
            size += 6;
        }
    }
    return size;
}
