/* SPDX-License-Identifier: MIT
 *
 * The packed layout: what bus_virtqueue.c says of split rings, where the layouts differ.
 */
#include "support.h"

#include <pthread.h>
#include <semaphore.h>

#include "packed_ring.h"
#include "queue_watch.h"

#define RAM      UINT64_C(0x80000000)
#define RAM_SIZE UINT64_C(0x100000)
#define DATA     (RAM + 0x10000)
#define TABLE    (RAM + 0x8000)
#define SIZE     8

struct fixture {
    struct mem_space *mem;
    struct packed_ring ring;
    struct virtqueue queue;
    struct virtq_chain chain;
    struct queue_watch watch;
};

static void connect(struct fixture *f, uint16_t size)
{
    memset(mem_ram_pointer(f->mem, RAM, 0x3000, MEM_WRITE), 0, 0x3000);
    f->ring = packed_at(f->mem, RAM, size);
    virtqueue_reset(&f->queue);
    f->queue.mem = f->mem;
    f->queue.size_max = VIRTQ_SIZE_MAX;
    f->queue.size = size;
    f->queue.desc = f->ring.desc;
    f->queue.avail = f->ring.driver;
    f->queue.used = f->ring.device;
    f->queue.packed = f->queue.indirect = true;
    assert_null(virtqueue_check(&f->queue));
    f->queue.enabled = true;
    f->watch.violations = f->watch.interrupts = 0;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error *err = NULL;
    f->mem = mem_space_new();
    assert_non_null(mem_add_ram(f->mem, "a", RAM, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, &err));
    queue_watch_start(&f->watch, &f->queue);
    connect(f, SIZE);
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

static bool pop(struct fixture *f)
{
    return virtqueue_pop(&f->queue, &f->chain, UINT64_MAX);
}

static void a_chain_becomes_host_memory(void **state)
{
    struct fixture *f = *state;
    uint16_t id;
    uint32_t length;
    assert_false(pop(f));
    assert_true(mem_write(f->mem, DATA, "abc", 3));
    assert_true(mem_write(f->mem, DATA + 0x100, "defg", 4));
    packed_desc(&f->ring, 0, DATA, 3, RING_NEXT, 55);
    packed_desc(&f->ring, 1, DATA + 0x100, 4, RING_NEXT, 56);
    packed_desc(&f->ring, 2, DATA + 0x200, 100, RING_WRITE, 4711);
    packed_offer(&f->ring, 3);
    assert_true(pop(f));
    assert_int_equal(f->chain.head, 4711); /* the last one's id */
    assert_int_equal(f->chain.descriptors, 3);
    assert_int_equal(f->chain.out_size, 7);
    assert_int_equal(f->chain.in_size, 100);
    char text[8] = "";
    assert_int_equal(virtq_read(&f->chain, 1, text, sizeof(text)), 6);
    assert_memory_equal(text, "bcdefg", 6);
    assert_false(packed_take_used(&f->ring, &id, &length));
    virtqueue_push(&f->queue, &f->chain, 77);
    assert_true(packed_take_used(&f->ring, &id, &length));
    assert_int_equal(id, 4711);
    assert_int_equal(length, 77);
    packed_used_done(&f->ring, 3);
    assert_false(packed_take_used(&f->ring, &id, &length));
    assert_int_equal(f->watch.violations, 0);
}

/* The table's flags but WRITE mean nothing, nor do ids in it (2.8.8). */
static void all_of_an_indirect_table(void **state)
{
    struct fixture *f = *state;
    packed_put_desc(f->mem, TABLE, 0, DATA, 10, 0, 1);
    packed_put_desc(f->mem, TABLE, 1, DATA + 0x100, 20, RING_WRITE | RING_INDIRECT, 2);
    packed_put_desc(f->mem, TABLE, 2, DATA + 0x200, 30, RING_WRITE, 3);
    packed_desc(&f->ring, 0, TABLE, 48, RING_INDIRECT, 9);
    packed_offer(&f->ring, 1);
    assert_true(pop(f));
    assert_int_equal(f->chain.head, 9);
    assert_int_equal(f->chain.descriptors, 1);
    assert_int_equal(f->chain.out_size, 10);
    assert_int_equal(f->chain.in_size, 50);
}

static void hostile_descriptors(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *what;
        uint64_t gpa;
        uint32_t length;
        unsigned flags;
    } rows[] = {
        {"a buffer is outside of memory", 0x1000, 4, 0},
        {"a buffer is outside of memory", RAM + RAM_SIZE - 2, 4, RING_WRITE},
        {"an indirect descriptor has a successor", TABLE, 16, RING_INDIRECT | RING_NEXT},
        {"an indirect table has a size that is no multiple of 16", TABLE, 17, RING_INDIRECT},
        {"a descriptor chain is too long", TABLE, 16 * 300, RING_INDIRECT},
        {"a descriptor table is outside of memory", RAM + RAM_SIZE - 16, 32, RING_INDIRECT},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        connect(f, SIZE);
        packed_desc(&f->ring, 0, rows[i].gpa, rows[i].length, rows[i].flags, 0);
        packed_offer(&f->ring, 1);
        assert_false(pop(f));
        assert_int_equal(f->watch.violations, 1);
        assert_string_equal(f->watch.violation, rows[i].what);
        assert_false(pop(f));
    }
    connect(f, SIZE);
    f->queue.indirect = false;
    packed_desc(&f->ring, 0, TABLE, 16, RING_INDIRECT, 0);
    packed_offer(&f->ring, 1);
    assert_false(pop(f));
    assert_string_equal(f->watch.violation, "an indirect descriptor was not negotiated");
    /* Every descriptor says that there is another one. */
    connect(f, SIZE);
    for (unsigned i = 0; i < SIZE; i++)
        packed_desc(&f->ring, i, DATA, 1, RING_NEXT, 0);
    packed_offer(&f->ring, SIZE);
    assert_false(pop(f));
    assert_string_equal(f->watch.violation, "more descriptors are offered than the ring has");
}

/* Offered again before it was used: in flight is never more than the ring. */
static void descriptors_are_not_offered_twice(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < SIZE; i++) {
        packed_desc(&f->ring, 0, DATA, 1, 0, i);
        packed_offer(&f->ring, 1);
        assert_true(pop(f));
    }
    assert_false(pop(f));
    packed_offer(&f->ring, 1);
    assert_false(pop(f));
    assert_string_equal(f->watch.violation, "more descriptors are offered than the ring has");
}

static void set_up_is_checked(void **state)
{
    struct fixture *f = *state;
    struct virtqueue *queue = &f->queue;
    static const struct {
        uint16_t size;
        uint64_t desc, avail, used;
        bool good;
    } rows[] = {
        {5, RAM, RAM + 0x1000, RAM + 0x2000, true}, /* any size */
        {1, RAM, RAM + 0x1004, RAM + 0x2004, true},
        {0, RAM, RAM + 0x1000, RAM + 0x2000, false},
        {257, RAM, RAM + 0x1000, RAM + 0x2000, false},
        {8, RAM + 8, RAM + 0x1000, RAM + 0x2000, false},
        {8, RAM, RAM + 0x1002, RAM + 0x2000, false},
        {8, RAM, RAM + 0x1000, RAM + 0x2001, false},
        {8, RAM + RAM_SIZE - 112, RAM + 0x1000, RAM + 0x2000, false},
        {8, RAM + RAM_SIZE - 128, RAM + RAM_SIZE - 4, RAM, true},
        {8, RAM, RAM + RAM_SIZE, RAM + 0x2000, false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        queue->size = rows[i].size;
        queue->desc = rows[i].desc;
        queue->avail = rows[i].avail;
        queue->used = rows[i].used;
        assert_int_equal(virtqueue_check(queue) == NULL, rows[i].good);
    }
}

static void wishes_about_interrupts(void **state)
{
    struct fixture *f = *state;
    static const struct {
        bool event_idx;
        unsigned wish;
        uint16_t index;
        bool wrap;
        bool interrupt; /* after descriptors 6, 7, 0 and 1 were used, 0 and 1 in the next round */
    } rows[] = {
        {false, PACKED_EVENT_ENABLE, 0, false, true},
        {false, PACKED_EVENT_DISABLE, 0, false, false},
        {true, PACKED_EVENT_ENABLE, 0, false, true},
        {true, PACKED_EVENT_DISABLE, 6, true, false},
        {true, PACKED_EVENT_DESCRIPTOR, 5, true, false},
        {true, PACKED_EVENT_DESCRIPTOR, 6, true, true},
        {true, PACKED_EVENT_DESCRIPTOR, 7, true, true},
        {true, PACKED_EVENT_DESCRIPTOR, 0, false, true},
        {true, PACKED_EVENT_DESCRIPTOR, 1, false, true},
        {true, PACKED_EVENT_DESCRIPTOR, 2, false, false},
        {true, PACKED_EVENT_DESCRIPTOR, 0, true, false},
        {true, PACKED_EVENT_DESCRIPTOR, 7, false, false},
        {true, PACKED_EVENT_DESCRIPTOR, 100, true, false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        connect(f, SIZE);
        f->queue.event_idx = rows[i].event_idx;
        for (unsigned n = 0; n < 10; n++) {
            packed_desc(&f->ring, 0, DATA, 1, 0, n);
            packed_offer(&f->ring, 1);
            assert_true(pop(f));
            virtqueue_push(&f->queue, &f->chain, 0);
            if (n == 5) {
                virtqueue_signal(&f->queue);
                f->watch.interrupts = 0;
            }
        }
        packed_want(&f->ring, rows[i].wish, rows[i].index, rows[i].wrap);
        virtqueue_signal(&f->queue);
        assert_int_equal(f->watch.interrupts, rows[i].interrupt);
        virtqueue_signal(&f->queue); /* nothing new */
        assert_int_equal(f->watch.interrupts, rows[i].interrupt);
    }
}

/* A driver and a device at random, requests answered in any order, against what was asked. */
static void random_rounds(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = 17;
    enum { IN_FLIGHT_MAX = 13 };
    struct virtq_chain *taken[IN_FLIGHT_MAX];
    unsigned taken_count = 0, sizes[64] = {0}, lengths[64], offered = 0, in_ring = 0;
    bool busy[64] = {false};
    connect(f, IN_FLIGHT_MAX);
    for (unsigned long step = 0; step < tier_count(20000, 1000000); step++) {
        switch (random_next(&seed) % 3) {
        case 0: {
            unsigned id = (unsigned)(random_next(&seed) % 64);
            unsigned count = 1 + (unsigned)(random_next(&seed) % 4);
            if (busy[id] || in_ring + count > IN_FLIGHT_MAX)
                break;
            for (unsigned i = 0; i < count; i++)
                packed_desc(&f->ring, i, DATA + 0x100 * id, 8 + id,
                            RING_WRITE | (i + 1 < count ? RING_NEXT : 0), id);
            packed_offer(&f->ring, count);
            busy[id] = true;
            sizes[id] = count;
            in_ring += count;
            offered++;
            break;
        }
        case 1:
            if (!pop(f))
                break;
            if (random_next(&seed) % 4 == 0) { /* taken back, and found again */
                uint16_t head = f->chain.head;
                virtqueue_unpop(&f->queue, &f->chain);
                assert_true(pop(f));
                assert_int_equal(f->chain.head, head);
            }
            assert_true(busy[f->chain.head]);
            assert_int_equal(f->chain.in_size, sizes[f->chain.head] * (8 + f->chain.head));
            taken[taken_count] = malloc(sizeof(f->chain));
            *taken[taken_count++] = f->chain;
            break;
        default:
            if (taken_count > 0) {
                unsigned which = (unsigned)(random_next(&seed) % taken_count);
                struct virtq_chain *chain = taken[which];
                uint32_t written = (uint32_t)(random_next(&seed) % (chain->in_size + 1));
                taken[which] = taken[--taken_count];
                lengths[chain->head] = written;
                virtqueue_push(&f->queue, chain, written);
                uint16_t id = 0;
                uint32_t length = 0;
                assert_true(packed_take_used(&f->ring, &id, &length));
                assert_int_equal(id, chain->head);
                assert_int_equal(length, lengths[id]);
                packed_used_done(&f->ring, sizes[id]);
                busy[id] = false;
                in_ring -= sizes[id];
                free(chain);
            }
            break;
        }
    }
    while (taken_count > 0)
        free(taken[--taken_count]);
    assert_int_equal(f->watch.violations, 0);
    assert_true(offered > 1000);
}

/* Over the ring's end and back, with each chain in turn as the first. */
static void several_go_back_together(void **state)
{
    struct fixture *f = *state;
    enum { RING = 7, CHAINS = 3 };
    static const unsigned sizes[CHAINS] = {2, 1, 3};
    struct virtq_chain *chains[CHAINS];
    connect(f, RING);
    for (unsigned i = 0; i < CHAINS; i++)
        chains[i] = malloc(sizeof(f->chain));
    for (unsigned round = 0; round < 40; round++) {
        uint32_t written[CHAINS], length = 0;
        uint16_t id = 0;
        for (unsigned i = 0; i < CHAINS; i++) {
            unsigned which = (round + i) % CHAINS;
            for (unsigned k = 0; k < sizes[which]; k++)
                packed_desc(&f->ring, k, DATA, 10,
                            RING_WRITE | (k + 1 < sizes[which] ? RING_NEXT : 0), which);
            packed_offer(&f->ring, sizes[which]);
            assert_true(pop(f));
            *chains[i] = f->chain;
            written[i] = round % 10 + i % 2;
        }
        assert_false(packed_take_used(&f->ring, &id, &length));
        virtqueue_push_all(&f->queue, chains, written, CHAINS);
        for (unsigned i = 0; i < CHAINS; i++) {
            assert_true(packed_take_used(&f->ring, &id, &length));
            assert_int_equal(id, (round + i) % CHAINS);
            assert_int_equal(length, written[i]);
            packed_used_done(&f->ring, sizes[id]);
        }
    }
    for (unsigned i = 0; i < CHAINS; i++)
        free(chains[i]);
    assert_int_equal(f->watch.violations, 0);
}

/* ---- two threads ---- */

struct racing {
    struct fixture *f;
    sem_t notified;
    unsigned served;
    unsigned target;
};

static void *serve(void *opaque)
{
    struct racing *r = opaque;
    while (r->served < r->target) {
        while (pop(r->f)) {
            virtqueue_push(&r->f->queue, &r->f->chain, 0);
            r->served++;
        }
        if (r->served < r->target)
            sem_wait(&r->notified);
    }
    return NULL;
}

/* Notifies only where the device asked to be (2.8.21): none is missed, or this never ends. */
static void no_notification_is_lost(void **state)
{
    struct fixture *f = *state;
    struct racing r = {.f = f, .target = (unsigned)tier_count(20000, 300000)};
    pthread_t thread;
    uint16_t id;
    uint32_t length;
    f->queue.event_idx = true;
    sem_init(&r.notified, 0, 0);
    for (unsigned i = 0; i < SIZE; i++)
        packed_desc(&f->ring, i, DATA, 1, 0, i);
    pthread_create(&thread, NULL, serve, &r);
    for (unsigned n = 0, used = 0; used < r.target;) {
        if (n < r.target && n - used < SIZE) {
            uint16_t place = f->ring.next;
            bool wrap = f->ring.wrap;
            packed_desc(&f->ring, 0, DATA, 1, 0, n % SIZE);
            packed_offer(&f->ring, 1);
            n++;
            atomic_thread_fence(memory_order_seq_cst);
            const uint16_t *event = mem_ram_pointer(f->mem, f->ring.device, 4, MEM_READ);
            uint16_t where = __atomic_load_n(event, __ATOMIC_ACQUIRE);
            if (where == (place | (wrap ? 0x8000 : 0)) || event[1] == PACKED_EVENT_ENABLE)
                sem_post(&r.notified);
        }
        while (packed_take_used(&f->ring, &id, &length)) {
            packed_used_done(&f->ring, 1);
            used++;
        }
    }
    pthread_join(thread, NULL);
    sem_destroy(&r.notified);
    assert_int_equal(f->watch.violations, 0);
}

/* ---- state ---- */

static void state_survives(void **state)
{
    struct fixture *f = *state;
    struct virtqueue blank = {.mem = f->mem, .size_max = VIRTQ_SIZE_MAX};
    for (unsigned i = 0; i < SIZE + 3; i++) {
        packed_desc(&f->ring, 0, DATA, 1, 0, i);
        packed_offer(&f->ring, 1);
        assert_true(pop(f));
        if (i != SIZE + 2)
            virtqueue_push(&f->queue, &f->chain, 0);
    }
    assert_state_round_trip(&virtqueue_state, &f->queue, &blank);
    assert_int_equal(blank.avail_next, 3);
    assert_false(blank.avail_wrap);
    assert_int_equal(blank.unsignalled, SIZE + 2);

    struct state_buffer saved = {0};
    struct error *err = NULL;
    size_t at = 0;
    f->queue.avail_next = SIZE;
    state_save(&virtqueue_state, &f->queue, &saved);
    assert_false(state_restore(&virtqueue_state, &blank, saved.data, saved.size, &at, &err));
    assert_error(&err, ERROR_USAGE, "an index is out of range");
    state_buffer_free(&saved);
}

/* The place in the ring of a request that is kept may hold another one's answer long since. */
static void a_kept_request_is_saved(void **state)
{
    struct fixture *f = *state;
    struct state_buffer saved = {0};
    struct error *err = NULL;
    struct virtq_chain *kept = calloc(1, sizeof(*kept));
    uint16_t id;
    uint32_t length;
    size_t at = 0;
    packed_desc(&f->ring, 0, DATA, 3, RING_NEXT, 0);
    packed_desc(&f->ring, 1, DATA + 0x100, 40, RING_WRITE, 4711);
    packed_offer(&f->ring, 2);
    packed_desc(&f->ring, 0, DATA + 0x200, 5, RING_NEXT | RING_WRITE, 0);
    packed_desc(&f->ring, 1, DATA + 0x300, 6, RING_WRITE, 17);
    packed_offer(&f->ring, 2);
    assert_true(virtqueue_pop(&f->queue, kept, UINT64_MAX));
    assert_true(pop(f));
    virtqueue_push(&f->queue, &f->chain, 11);
    virtqueue_save_chain(&f->queue, kept, &saved);
    memset(kept, 0xff, sizeof(*kept));

    assert_ptr_equal(virtqueue_restore_chain(&f->queue, 1, kept, 43, &saved, &at, &err), &f->queue);
    assert_no_error(err);
    assert_int_equal(at, saved.size);
    assert_int_equal(kept->out_count, 1);
    assert_int_equal(kept->in_count, 1);
    assert_int_equal(kept->in_size, 40);
    assert_int_equal(kept->touched, 40);
    assert_ptr_equal(virtq_in(kept)->iov_base, mem_ram_pointer(f->mem, DATA + 0x100, 40, MEM_READ));
    virtqueue_push(&f->queue, kept, 40);
    assert_true(packed_take_used(&f->ring, &id, &length));
    assert_int_equal(id, 17);
    packed_used_done(&f->ring, 2);
    assert_true(packed_take_used(&f->ring, &id, &length));
    assert_int_equal(id, 4711);
    assert_int_equal(length, 40);

    /* Any byte of it changed: refused, or a request within memory and limits all the same. */
    for (size_t i = 0; i < saved.size; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            saved.data[i] ^= (uint8_t)(1u << bit);
            at = 0;
            if (virtqueue_restore_chain(&f->queue, 1, kept, 43, &saved, &at, &err) != NULL) {
                assert_true(kept->in_size + kept->out_size <= 43);
                assert_true(kept->descriptors > 0 && kept->descriptors <= SIZE);
                for (unsigned s = 0; s < kept->out_count + kept->in_count; s++)
                    assert_non_null(mem_ram_pointer(f->mem, kept->range[s].gpa,
                                                    kept->range[s].length, MEM_READ));
            } else {
                assert_non_null(err);
            }
            error_free(err);
            err = NULL;
            saved.data[i] ^= (uint8_t)(1u << bit);
        }
    }
    at = 0;
    assert_null(virtqueue_restore_chain(&f->queue, 1, kept, 42, &saved, &at, &err));
    assert_error(&err, ERROR_USAGE, "has too many bytes");
    f->queue.enabled = false;
    at = 0;
    assert_null(virtqueue_restore_chain(&f->queue, 1, kept, 43, &saved, &at, &err));
    assert_error(&err, ERROR_USAGE, "has an unknown queue");
    state_buffer_free(&saved);
    free(kept);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_chain_becomes_host_memory),
        TEST(all_of_an_indirect_table),
        TEST(hostile_descriptors),
        TEST(descriptors_are_not_offered_twice),
        TEST(set_up_is_checked),
        TEST(wishes_about_interrupts),
        TEST(random_rounds),
        TEST(several_go_back_together),
        TEST(no_notification_is_lost),
        TEST(state_survives),
        TEST(a_kept_request_is_saved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
