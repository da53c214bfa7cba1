/* SPDX-License-Identifier: MIT
 *
 * bus/virtqueue.h: the chain reader against polite and hostile drivers.
 */
#include "support.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "queue_watch.h"
#include "ring.h"

#define RAM         UINT64_C(0x80000000)
#define RAM_SIZE    UINT64_C(0x100000)
#define SECOND      (RAM + RAM_SIZE) /* a region that follows without a gap */
#define SECOND_SIZE UINT64_C(0x10000)
#define DATA        (RAM + 0x10000)
#define TABLE       (RAM + 0x8000) /* indirect descriptors */

struct fixture {
    struct mem_space *mem;
    struct ring ring;
    struct virtqueue queue;
    struct virtq_chain chain;
    struct queue_watch watch;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error *err = NULL;
    f->mem = mem_space_new();
    assert_non_null(mem_add_ram(f->mem, "a", RAM, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, &err));
    assert_non_null(mem_add_ram(f->mem, "b", SECOND, SECOND_SIZE, MEM_BACKEND_ANONYMOUS, -1, &err));
    f->ring = ring_at(f->mem, RAM, 8);
    ring_connect(&f->ring, &f->queue);
    f->queue.indirect = true;
    queue_watch_start(&f->watch, &f->queue);
    assert_null(virtqueue_check(&f->queue));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    mem_space_free(f->mem);
    free(f);
    return 0;
}

static void a_chain_becomes_host_memory(void **state)
{
    struct fixture *f = *state;
    assert_true(mem_write(f->mem, DATA, "abc", 3));
    assert_true(mem_write(f->mem, DATA + 0x100, "defg", 4));
    ring_desc(&f->ring, 3, DATA, 3, RING_NEXT, 0);
    ring_desc(&f->ring, 0, DATA + 0x100, 4, RING_NEXT, 7);
    ring_desc(&f->ring, 7, DATA + 0x200, 100, RING_WRITE, 55);
    ring_offer(&f->ring, 3);

    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_int_equal(f->chain.head, 3);
    assert_int_equal(f->chain.out_count, 2);
    assert_int_equal(f->chain.in_count, 1);
    assert_int_equal(f->chain.out_size, 7);
    assert_int_equal(f->chain.in_size, 100);
    char text[8] = "";
    assert_int_equal(virtq_read(&f->chain, 1, text, sizeof(text)), 6);
    assert_memory_equal(text, "bcdefg", 6);
    assert_int_equal(virtq_write(&f->chain, 98, "xyz", 3), 2);

    virtqueue_push(&f->queue, &f->chain, 100);
    assert_int_equal(ring_used_index(&f->ring), 1);
    assert_int_equal(ring_used_head(&f->ring, 0), 3);
    assert_int_equal(ring_used_length(&f->ring, 0), 100);
    char written[3];
    assert_true(mem_read(f->mem, DATA + 0x200 + 98, written, 3));
    assert_memory_equal(written, "xy\0", 3);
    assert_false(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_int_equal(f->watch.violations, 0);
}

static void indirect_tables_follow_direct_descriptors(void **state)
{
    struct fixture *f = *state;
    ring_desc(&f->ring, 0, DATA, 16, RING_NEXT, 1);
    /* Its WRITE flag is to be ignored (2.7.5.3.2). */
    ring_desc(&f->ring, 1, TABLE, 3 * 16, RING_INDIRECT | RING_WRITE, 0);
    ring_put_desc(f->mem, TABLE, 0, DATA + 0x100, 10, RING_NEXT, 2);
    ring_put_desc(f->mem, TABLE, 2, DATA + 0x200, 20, RING_NEXT | RING_WRITE, 1);
    ring_put_desc(f->mem, TABLE, 1, DATA + 0x300, 30, RING_WRITE, 0);
    ring_offer(&f->ring, 0);
    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_int_equal(f->chain.out_count, 2);
    assert_int_equal(f->chain.in_count, 2);
    assert_int_equal(f->chain.out_size, 26);
    assert_int_equal(f->chain.in_size, 50);
}

static void an_indirect_chain_may_be_longer_than_the_ring(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
        ring_put_desc(f->mem, TABLE, i, DATA + i, 1, i + 1 < VIRTQ_SIZE_MAX ? RING_NEXT : 0, i + 1);
    ring_desc(&f->ring, 0, TABLE, VIRTQ_SIZE_MAX * 16, RING_INDIRECT, 0);
    ring_offer(&f->ring, 0);
    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_int_equal(f->chain.out_count, VIRTQ_SIZE_MAX);

    /* ... but not longer than any ring. */
    for (unsigned i = 0; i < 2 * VIRTQ_SIZE_MAX; i++)
        ring_put_desc(f->mem, TABLE, i, DATA + i, 1, RING_NEXT, i + 1);
    ring_desc(&f->ring, 0, TABLE, 2 * VIRTQ_SIZE_MAX * 16, RING_INDIRECT, 0);
    ring_offer(&f->ring, 0);
    assert_false(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_string_equal(f->watch.violation, "a descriptor chain is too long");
}

static void empty_descriptors_are_skipped(void **state)
{
    struct fixture *f = *state;
    ring_desc(&f->ring, 0, 0, 0, RING_NEXT, 1); /* address 0 is no memory */
    ring_desc(&f->ring, 1, DATA, 5, RING_NEXT, 2);
    ring_desc(&f->ring, 2, UINT64_MAX, 0, RING_WRITE, 0);
    ring_offer(&f->ring, 0);
    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_int_equal(f->chain.out_count, 1);
    assert_int_equal(f->chain.in_count, 0);
    virtqueue_push(&f->queue, &f->chain, 0);
    assert_int_equal(f->watch.violations, 0);
}

static void a_buffer_may_span_regions(void **state)
{
    struct fixture *f = *state;
    ring_desc(&f->ring, 0, SECOND - 10, 30, RING_WRITE, 0);
    ring_offer(&f->ring, 0);
    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_int_equal(f->chain.in_count, 2);
    assert_int_equal(f->chain.segment[0].iov_len, 10);
    assert_int_equal(f->chain.segment[1].iov_len, 20);
    uint8_t bytes[30], back[30];
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i + 1);
    assert_int_equal(virtq_write(&f->chain, 0, bytes, 30), 30);
    assert_true(mem_read(f->mem, SECOND - 10, back, 30));
    assert_memory_equal(bytes, back, 30);
}

/* --- hostile descriptors, as data --- */

struct desc {
    uint64_t gpa;
    uint32_t length;
    unsigned flags, next;
};

static const struct hostile {
    const char *what; /* the violation that is reported */
    struct desc direct[4];
    struct desc indirect[4];
    uint16_t head;
} hostile[] = {
    {"a descriptor index is out of range", {{DATA, 1, 0, 0}}, {{0}}, 8},
    {"a descriptor index is out of range", {{DATA, 1, 0, 0}}, {{0}}, 0xffff},
    {"a descriptor index is out of range", {{DATA, 1, RING_NEXT, 8}}, {{0}}, 0},
    {"a descriptor index is out of range",
     {{TABLE, 32, RING_INDIRECT, 0}},
     {{DATA, 1, RING_NEXT, 2}},
     0},
    {"a descriptor chain loops", {{DATA, 1, RING_NEXT, 0}}, {{0}}, 0},
    {"a descriptor chain loops", {{DATA, 1, RING_NEXT, 1}, {DATA, 1, RING_NEXT, 0}}, {{0}}, 1},
    {"a descriptor chain loops",
     {{TABLE, 32, RING_INDIRECT, 0}},
     {{DATA, 1, RING_NEXT, 1}, {DATA, 1, RING_NEXT, 0}},
     0},
    {"a descriptor chain loops", {{DATA, 0, RING_NEXT, 0}}, {{0}}, 0}, /* without any bytes */
    {"a buffer is outside of memory", {{0, 1, 0, 0}}, {{0}}, 0},
    {"a buffer is outside of memory", {{RAM - 1, 2, 0, 0}}, {{0}}, 0},
    {"a buffer is outside of memory", {{SECOND + SECOND_SIZE - 1, 2, 0, 0}}, {{0}}, 0},
    {"a buffer is outside of memory", {{UINT64_MAX, 2, RING_WRITE, 0}}, {{0}}, 0},
    {"a buffer is outside of memory", {{UINT64_MAX - 1, 0xffffffff, 0, 0}}, {{0}}, 0},
    {"a buffer is outside of memory", {{RAM, 0xffffffff, 0, 0}}, {{0}}, 0},
    {"a readable descriptor follows a writable one",
     {{DATA, 1, RING_NEXT | RING_WRITE, 1}, {DATA, 1, 0, 0}},
     {{0}},
     0},
    {"a readable descriptor follows a writable one",
     {{DATA, 1, RING_NEXT | RING_WRITE, 1}, {TABLE, 16, RING_INDIRECT, 0}},
     {{DATA, 1, 0, 0}},
     0},
    {"an indirect table contains an indirect descriptor",
     {{TABLE, 16, RING_INDIRECT, 0}},
     {{TABLE, 16, RING_INDIRECT, 0}},
     0},
    {"an indirect descriptor has a successor",
     {{TABLE, 16, RING_INDIRECT | RING_NEXT, 1}, {DATA, 1, 0, 0}},
     {{DATA, 1, 0, 0}},
     0},
    {"an indirect table has a size that is no multiple of 16",
     {{TABLE, 0, RING_INDIRECT, 0}},
     {{0}},
     0},
    {"an indirect table has a size that is no multiple of 16",
     {{TABLE, 24, RING_INDIRECT, 0}},
     {{DATA, 1, 0, 0}},
     0},
    {"a descriptor table is outside of memory", {{0x1000, 16, RING_INDIRECT, 0}}, {{0}}, 0},
    {"a descriptor table is outside of memory", {{UINT64_MAX - 7, 16, RING_INDIRECT, 0}}, {{0}}, 0},
    {"a descriptor table is outside of memory",
     {{UINT64_MAX - 15, 0xfffffff0, RING_INDIRECT, 0}},
     {{0}},
     0},
};

static void hostile_descriptors_break_the_queue(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < ARRAY_SIZE(hostile); i++) {
        const struct hostile *row = &hostile[i];
        virtqueue_reset(&f->queue);
        f->ring = ring_at(f->mem, RAM, 8);
        ring_connect(&f->ring, &f->queue);
        f->queue.indirect = true;
        f->watch.violations = f->watch.interrupts = 0;
        ring_put16(f->mem, f->ring.used + 2, 0);
        for (unsigned d = 0; d < 4; d++) {
            const struct desc *a = &row->direct[d], *b = &row->indirect[d];
            ring_desc(&f->ring, d, a->gpa, a->length, a->flags, a->next);
            ring_put_desc(f->mem, TABLE, d, b->gpa, b->length, b->flags, b->next);
        }
        ring_offer(&f->ring, row->head);
        if (virtqueue_pop(&f->queue, &f->chain, UINT64_MAX))
            fail_msg("case %zu (%s) was accepted", i, row->what);
        if (f->watch.violations != 1 || strcmp(f->watch.violation, row->what) != 0)
            fail_msg("case %zu: '%s' instead of '%s'", i, f->watch.violation, row->what);

        /* Dead until reset: nothing in, nothing out, nothing reported twice. */
        ring_desc(&f->ring, 0, DATA, 1, 0, 0);
        ring_offer(&f->ring, 0);
        assert_false(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
        f->chain.out_count = f->chain.in_count = 0;
        f->chain.touched = f->chain.in_size = 0;
        virtqueue_push(&f->queue, &f->chain, 0);
        virtqueue_signal(&f->queue);
        assert_int_equal(ring_used_index(&f->ring), 0);
        assert_int_equal(f->watch.interrupts, 0);
        assert_int_equal(f->watch.violations, 1);
    }
}

static void indirect_must_be_negotiated(void **state)
{
    struct fixture *f = *state;
    f->queue.indirect = false;
    ring_desc(&f->ring, 0, TABLE, 16, RING_INDIRECT, 0);
    ring_offer(&f->ring, 0);
    assert_false(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_string_equal(f->watch.violation, "an indirect descriptor was not negotiated");
}

static void the_available_index_may_not_run_ahead(void **state)
{
    struct fixture *f = *state;
    ring_desc(&f->ring, 0, DATA, 1, 0, 0);
    ring_put16(f->mem, f->ring.avail + 2, 8); /* all entries: fine */
    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    ring_put16(f->mem, f->ring.avail + 2, 10);
    assert_false(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_string_equal(f->watch.violation, "the available index runs ahead");
}

static void the_byte_limit_counts_both_parts(void **state)
{
    struct fixture *f = *state;
    ring_desc(&f->ring, 0, DATA, 40, RING_NEXT, 1);
    ring_desc(&f->ring, 1, DATA, 30, RING_NEXT | RING_WRITE, 2);
    ring_desc(&f->ring, 2, DATA, 30, RING_WRITE, 0);
    ring_offer(&f->ring, 0);
    assert_true(virtqueue_pop(&f->queue, &f->chain, 100));
    ring_offer(&f->ring, 0);
    assert_false(virtqueue_pop(&f->queue, &f->chain, 99));
    assert_string_equal(f->watch.violation, "a request has too many bytes");
}

static void a_chain_may_use_every_descriptor_of_the_ring(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 8; i++)
        ring_desc(&f->ring, i, DATA, 1, i > 0 ? RING_NEXT : 0, i - 1);
    ring_offer(&f->ring, 7);
    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_int_equal(f->chain.out_count, 8);
}

static void bad_set_up_is_found(void **state)
{
    struct fixture *f = *state;
    const struct virtqueue good = f->queue;
    static const uint16_t bad_sizes[] = {0, 3, 512, 0xffff};
    for (size_t i = 0; i < ARRAY_SIZE(bad_sizes); i++) {
        f->queue.size = bad_sizes[i];
        assert_non_null(virtqueue_check(&f->queue));
    }
    uint64_t *const members[] = {&f->queue.desc, &f->queue.avail, &f->queue.used};
    static const uint64_t alignment[] = {16, 2, 4};
    for (size_t i = 0; i < 3; i++) {
        const uint64_t bad[] = {RAM + alignment[i] / 2,
                                RAM - alignment[i],
                                UINT64_MAX,
                                0,
                                align_down(UINT64_MAX, 16),
                                SECOND - 16,
                                SECOND + SECOND_SIZE - 16};
        for (size_t b = 0; b < ARRAY_SIZE(bad); b++) {
            f->queue = good;
            *members[i] = bad[b];
            if (virtqueue_check(&f->queue) == NULL)
                fail_msg("ring %zu at 0x%llx was accepted", i, (unsigned long long)bad[b]);
        }
    }
    /* The very end of a region is fine. */
    f->queue = good;
    f->queue.used = SECOND + SECOND_SIZE - 72;
    assert_null(virtqueue_check(&f->queue));
}

/* --- interrupts and notifications --- */

static void serve_one(struct fixture *f)
{
    ring_offer(&f->ring, 0);
    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    virtqueue_push(&f->queue, &f->chain, 0);
}

static void the_interrupt_flag_is_obeyed(void **state)
{
    struct fixture *f = *state;
    ring_desc(&f->ring, 0, DATA, 1, 0, 0);
    virtqueue_signal(&f->queue);
    assert_int_equal(f->watch.interrupts, 0); /* nothing was pushed */
    serve_one(f);
    virtqueue_signal(&f->queue);
    virtqueue_signal(&f->queue);
    assert_int_equal(f->watch.interrupts, 1);
    ring_put16(f->mem, f->ring.avail, 1);
    serve_one(f);
    virtqueue_signal(&f->queue);
    assert_int_equal(f->watch.interrupts, 1);
}

/* With EVENT_IDX, across the wrap of the 16-bit indexes: an interrupt exactly when the used
 * index passes the driver's mark, however many were pushed at once. */
static void event_idx_interrupts_when_the_mark_is_passed(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = 7;
    f->queue.event_idx = true;
    ring_desc(&f->ring, 0, DATA, 1, 0, 0);
    uint32_t used = 0; /* without wrapping */
    while (used < 200000) {
        uint32_t mark = used + (uint32_t)(random_next(&seed) % 12);
        uint32_t batch = 1 + (uint32_t)(random_next(&seed) % 8);
        ring_want_used(&f->ring, (uint16_t)mark);
        for (uint32_t i = 0; i < batch; i++)
            serve_one(f);
        f->watch.interrupts = 0;
        virtqueue_signal(&f->queue);
        used += batch;
        assert_int_equal(f->watch.interrupts, mark < used);
        assert_int_equal(ring_used_index(&f->ring), (uint16_t)used);
    }
    assert_int_equal(f->watch.violations, 0);
}

static void the_device_asks_to_be_notified_when_it_runs_dry(void **state)
{
    struct fixture *f = *state;
    f->queue.event_idx = true;
    ring_desc(&f->ring, 0, DATA, 1, 0, 0);
    serve_one(f);
    serve_one(f);
    assert_int_equal(ring_avail_event(&f->ring), 0); /* busy: do not disturb */
    assert_false(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_int_equal(ring_avail_event(&f->ring), 2);
}

/* --- dirty pages --- */

static bool take_dirty(struct fixture *f, uint64_t gpa)
{
    uint64_t bitmap[1];
    mem_dirty_take(f->mem, mem_ram_find(f->mem, gpa), align_down(gpa, 4096), 4096, bitmap);
    return (bitmap[0] & 1) != 0;
}

static void writes_are_noted_before_and_after(void **state)
{
    struct fixture *f = *state;
    const uint64_t in = DATA + 0x3ffc, out = DATA + 0x8000; /* `in` spans two pages */
    ring_desc(&f->ring, 0, out, 8, RING_NEXT, 1);
    ring_desc(&f->ring, 1, in, 8, RING_WRITE, 0);
    ring_offer(&f->ring, 0);
    (void)take_dirty(f, in);
    assert_false(take_dirty(f, in + 4));
    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_true(take_dirty(f, in));
    assert_true(take_dirty(f, in + 4));
    assert_false(take_dirty(f, out));
    /* The log was read while the I/O was under way; what segments say now does not matter. */
    f->chain.segment[1].iov_len = 0;
    (void)take_dirty(f, f->ring.used);
    virtqueue_push(&f->queue, &f->chain, 8);
    assert_true(take_dirty(f, in));
    assert_true(take_dirty(f, in + 4));
    assert_true(take_dirty(f, f->ring.used));
    assert_false(take_dirty(f, out));

    ring_offer(&f->ring, 0);
    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_true(take_dirty(f, in));
    assert_true(take_dirty(f, in + 4));
    f->chain.touched = 4;
    virtqueue_push(&f->queue, &f->chain, 4);
    assert_true(take_dirty(f, in));
    assert_false(take_dirty(f, in + 4));
}

/* --- slices, against a flat copy --- */

static void slices_and_copies_agree_with_a_flat_buffer(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = 11;
    uint8_t flat[256], piece[256];
    for (unsigned round = 0; round < 2000; round++) {
        struct virtq_chain *chain = &f->chain;
        uint8_t store[256];
        size_t total = 0;
        chain->out_count = (unsigned)(random_next(&seed) % 6);
        chain->in_count = 0;
        for (unsigned i = 0; i < chain->out_count; i++) {
            size_t length = (size_t)(random_next(&seed) % 40);
            chain->segment[i] = (struct iovec){store + total, length};
            total += length;
        }
        for (size_t i = 0; i < total; i++)
            store[i] = (uint8_t)random_next(&seed);
        memcpy(flat, store, total);
        size_t offset = (size_t)(random_next(&seed) % 200);
        size_t size = (size_t)(random_next(&seed) % 200);
        size_t expect = offset >= total ? 0 : (total - offset < size ? total - offset : size);
        assert_int_equal(virtq_read(chain, offset, piece, size), expect);
        if (expect > 0)
            assert_memory_equal(piece, flat + offset, expect);

        struct iovec *iov = chain->segment;
        unsigned count = chain->out_count;
        bool whole = virtq_slice(&iov, &count, offset, size);
        assert_int_equal(whole, expect == size);
        size_t got = 0;
        for (unsigned i = 0; i < count; i++) {
            assert_true(iov[i].iov_len <= expect - got);
            assert_true(iov[i].iov_len == 0 ||
                        memcmp(iov[i].iov_base, flat + offset + got, iov[i].iov_len) == 0);
            got += iov[i].iov_len;
        }
        assert_int_equal(got, expect);
    }
}

/* --- a driver that rewrites its descriptors while they are read --- */

struct rewriter {
    struct fixture *f;
    atomic_bool stop;
};

static void *rewrite(void *opaque)
{
    struct rewriter *rewriter = opaque;
    struct ring ring = rewriter->f->ring;
    uint64_t seed = 3;
    while (!atomic_load(&rewriter->stop)) {
        uint64_t random = random_next(&seed);
        unsigned index = random & 7;
        bool wild = (random >> 8 & 15) == 0;
        ring_desc(&ring, index, wild ? random_next(&seed) : DATA + (random >> 16 & 0xfff),
                  (uint32_t)(random >> 32 & 0x1fff), (unsigned)(random >> 4 & 3),
                  (unsigned)(random >> 12 & 7));
    }
    return NULL;
}

static bool is_ram(const struct fixture *f, const struct iovec *segment)
{
    for (size_t i = 0; i < mem_ram_count(f->mem); i++) {
        const struct mem_ram *ram = mem_ram_at(f->mem, i);
        const uint8_t *base = segment->iov_base;
        if (base >= ram->host && segment->iov_len <= ram->size &&
            (size_t)(base - ram->host) <= ram->size - segment->iov_len)
            return true;
    }
    return false;
}

static void descriptors_are_read_once(void **state)
{
    struct fixture *f = *state;
    struct rewriter rewriter = {.f = f};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, rewrite, &rewriter), 0);
    unsigned long popped = 0;
    for (unsigned long i = 0; i < tier_count(20000, 1000000); i++) {
        ring_offer(&f->ring, (uint16_t)(i % 8));
        f->queue.broken = false;
        f->queue.avail_next = (uint16_t)(f->ring.avail_index - 1);
        if (!virtqueue_pop(&f->queue, &f->chain, UINT64_MAX))
            continue;
        popped++;
        uint64_t out = 0, in = 0;
        for (unsigned s = 0; s < f->chain.out_count + f->chain.in_count; s++) {
            assert_true(is_ram(f, &f->chain.segment[s]));
            *(s < f->chain.out_count ? &out : &in) += f->chain.segment[s].iov_len;
        }
        assert_int_equal(out, f->chain.out_size);
        assert_int_equal(in, f->chain.in_size);
        virtqueue_push(&f->queue, &f->chain, 0);
    }
    atomic_store(&rewriter.stop, true);
    pthread_join(thread, NULL);
    assert_true(popped > 0);
}

/* --- notifications are not lost between two threads --- */

struct server {
    struct fixture *f;
    sem_t kicked;
    atomic_bool stop;
};

static void *serve(void *opaque)
{
    struct server *server = opaque;
    struct fixture *f = server->f;
    for (;;) {
        sem_wait(&server->kicked);
        if (atomic_load(&server->stop))
            return NULL;
        while (virtqueue_pop(&f->queue, &f->chain, UINT64_MAX))
            virtqueue_push(&f->queue, &f->chain, 0);
    }
}

static uint16_t *ring_word(struct fixture *f, uint64_t gpa)
{
    return mem_ram_pointer(f->mem, gpa, 2, MEM_WRITE);
}

/* The driver notifies only if the device asked for it, as it runs dry at the same moment. A
 * lost notification leaves the request where it is: waiting is given up in the end. (Finds a
 * missing second look reliably enough; a missing fence is too rare for any count.) */
static void no_notification_is_lost(void **state)
{
    struct fixture *f = *state;
    struct server server = {.f = f};
    pthread_t thread;
    f->queue.event_idx = true;
    ring_desc(&f->ring, 0, DATA, 1, 0, 0);
    uint16_t *avail = ring_word(f, f->ring.avail + 2), *used = ring_word(f, f->ring.used + 2);
    uint16_t *event = ring_word(f, f->ring.used + 4 + 8u * f->ring.size);
    sem_init(&server.kicked, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, serve, &server), 0);
    bool lost = false;
    for (unsigned long i = 1; i <= tier_count(100000, 2000000) && !lost; i++) {
        uint16_t now = (uint16_t)i;
        __atomic_store_n(avail, now, __ATOMIC_RELEASE); /* ring entries are all 0 */
        atomic_thread_fence(memory_order_seq_cst);
        if (__atomic_load_n(event, __ATOMIC_ACQUIRE) == (uint16_t)(now - 1))
            sem_post(&server.kicked);
        for (unsigned long spin = 0; __atomic_load_n(used, __ATOMIC_ACQUIRE) != now; spin++) {
            if (spin > 1000)
                sched_yield();
            if (spin == 20000000) {
                lost = true;
                break;
            }
        }
    }
    atomic_store(&server.stop, true);
    sem_post(&server.kicked);
    pthread_join(thread, NULL);
    sem_destroy(&server.kicked);
    assert_false(lost);
    assert_int_equal(f->watch.violations, 0);
}

/* --- state and reset --- */

static void state_survives_a_round_trip(void **state)
{
    struct fixture *f = *state;
    f->queue.avail_next = 65535;
    f->queue.used_next = 65533;
    f->queue.signalled = 65530;
    struct virtqueue blank = f->queue;
    virtqueue_reset(&blank);
    assert_false(blank.enabled);
    assert_ptr_equal(blank.mem, f->mem);
    assert_state_round_trip(&virtqueue_state, &f->queue, &blank);
    assert_int_equal(blank.avail_next, 65535);
    assert_int_equal(blank.signalled, 65530);
}

static void a_saved_ring_outside_of_memory_is_refused(void **state)
{
    struct fixture *f = *state;
    struct state_buffer buffer = {0};
    struct virtqueue blank = f->queue;
    struct error *err = NULL;
    size_t at = 0;
    f->queue.used = 0x1000;
    state_save(&virtqueue_state, &f->queue, &buffer);
    assert_false(state_restore(&virtqueue_state, &blank, buffer.data, buffer.size, &at, &err));
    assert_error(&err, ERROR_USAGE, "a ring is outside of memory");
    state_buffer_free(&buffer);
}

/* Another hart may be reading what is bound: a reset does not write it, not even with the same
 * value. It stands on a page that cannot be written. */
static void reset_leaves_what_is_bound_alone(void **state)
{
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *pages =
        mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    struct virtqueue *queue =
        (struct virtqueue *)(void *)(pages + page - offsetof(struct virtqueue, index));
    *queue = (struct virtqueue){.size_max = 16, .size = 4, .enabled = true, .avail_next = 7};
    notifier_bind(&queue->notify, queue_watch_interrupt, queue);
    assert_int_equal(mprotect(pages, page, PROT_READ), 0);
    virtqueue_reset(queue);
    assert_ptr_equal(queue->notify.sink, queue);
    assert_int_equal(queue->size, 16);
    assert_int_equal(queue->avail_next, 0);
    assert_false(queue->enabled);
    munmap(pages, 2 * page);
}

/* ---- memory that is still to come from another host ---- */

struct late {
    uint64_t asked[64]; /* gpa, each once */
    unsigned count, notified;
};

static bool fetch(void *opaque, struct mem_ram *ram, uint64_t offset)
{
    (void)opaque;
    fail_msg("the queue waits for page %llx", (unsigned long long)(ram->gpa + offset));
    return false;
}

static void ask(void *opaque, struct mem_ram *ram, uint64_t offset)
{
    struct late *late = opaque;
    for (unsigned i = 0; i < late->count; i++)
        if (late->asked[i] == ram->gpa + offset)
            return;
    assert_int_not_equal(late->count, ARRAY_SIZE(late->asked));
    late->asked[late->count++] = ram->gpa + offset;
}

static void on_notified(void *opaque, unsigned value)
{
    struct late *late = opaque;
    assert_int_equal(value, 0);
    late->notified++;
}

/* All that was asked for is there now. */
static void come(struct fixture *f, struct late *late)
{
    for (; late->count > 0; late->count--) {
        uint64_t gpa = late->asked[late->count - 1];
        struct mem_ram *ram = mem_ram_find(f->mem, gpa);
        mem_set_present(ram, gpa - ram->gpa, MEM_PAGE_SIZE);
    }
    mem_came(f->mem);
}

static void a_request_waits_for_its_memory_and_nobody_else_does(void **state)
{
    struct fixture *f = *state;
    struct late late = {.count = 0};
    const struct mem_source source = {.fetch = fetch, .ask = ask, .opaque = &late};
    ring_desc(&f->ring, 0, TABLE, 2 * 16, RING_INDIRECT, 0);
    ring_put_desc(f->mem, TABLE, 0, DATA + 0xf00, 0x200, RING_NEXT, 1); /* two pages */
    ring_put_desc(f->mem, TABLE, 1, SECOND, 4096, RING_WRITE, 0);
    ring_offer(&f->ring, 0);
    notifier_bind(&f->queue.notify, on_notified, &late);
    mem_set_source(f->mem, &source);
    for (size_t i = 0; i < mem_ram_count(f->mem); i++)
        mem_set_absent(mem_ram_at(f->mem, i), 0, mem_ram_at(f->mem, i)->size);

    const unsigned pages[] = {3, 1, 3}; /* the rings, the table, what it names */
    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
        assert_false(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
        assert_false(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
        assert_int_equal(late.count, pages[i]);
        assert_int_equal(late.notified, i);
        come(f, &late);
    }
    assert_int_equal(late.notified, 3);
    assert_true(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    assert_int_equal(f->chain.out_size, 0x200);
    assert_int_equal(f->chain.in_size, 4096);
    virtqueue_push(&f->queue, &f->chain, 1);
    virtqueue_signal(&f->queue);
    assert_int_equal(ring_used_index(&f->ring), 1);
    assert_int_equal(late.count, 0);

    /* A queue that goes away is not called. */
    ring_put_desc(f->mem, TABLE, 1, SECOND + 4096, 1, RING_WRITE, 0);
    ring_offer(&f->ring, 0);
    assert_false(virtqueue_pop(&f->queue, &f->chain, UINT64_MAX));
    virtqueue_forget(&f->queue);
    come(f, &late);
    assert_int_equal(late.notified, 3);
    assert_int_equal(f->watch.violations, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset_leaves_what_is_bound_alone),
        TEST(a_chain_becomes_host_memory),
        TEST(indirect_tables_follow_direct_descriptors),
        TEST(an_indirect_chain_may_be_longer_than_the_ring),
        TEST(empty_descriptors_are_skipped),
        TEST(a_buffer_may_span_regions),
        TEST(hostile_descriptors_break_the_queue),
        TEST(indirect_must_be_negotiated),
        TEST(the_available_index_may_not_run_ahead),
        TEST(the_byte_limit_counts_both_parts),
        TEST(a_chain_may_use_every_descriptor_of_the_ring),
        TEST(bad_set_up_is_found),
        TEST(the_interrupt_flag_is_obeyed),
        TEST(event_idx_interrupts_when_the_mark_is_passed),
        TEST(the_device_asks_to_be_notified_when_it_runs_dry),
        TEST(writes_are_noted_before_and_after),
        TEST(slices_and_copies_agree_with_a_flat_buffer),
        TEST(descriptors_are_read_once),
        TEST(no_notification_is_lost),
        TEST(state_survives_a_round_trip),
        TEST(a_saved_ring_outside_of_memory_is_refused),
        TEST(a_request_waits_for_its_memory_and_nobody_else_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
