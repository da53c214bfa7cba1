/* SPDX-License-Identifier: MIT
 *
 * dev/virtio_balloon.c as a driver sees it, and what becomes of the host's memory.
 */
#include "support.h"

#include <sys/mman.h>

#include "bus/backend.h"
#include "virtio_guest.h"

extern const struct device_ops device_virtio_balloon;

enum { INFLATE, DEFLATE, STATS, REPORTING };

struct fixture {
    struct guest g;
    struct balloon balloon;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->g, true);
    guest_plug(&f->g, &device_virtio_balloon,
               &(struct device_params){.id = "balloon0", .balloon = &f->balloon});
    guest_start(&f->g, 1u << 1 | 1u << 2 | 1u << 5);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    guest_free(&f->g);
    free(f);
    return 0;
}

static uint8_t *host(struct fixture *f, uint64_t gpa)
{
    return mem_ram_pointer(f->g.mem, gpa, 1, MEM_WRITE);
}

/* Whether the page takes memory of the host. */
static bool resident(struct fixture *f, uint64_t gpa)
{
    unsigned char there = 0;
    assert_int_equal(mincore(host(f, gpa), 4096, &there), 0);
    return there & 1;
}

static void touch(struct fixture *f, uint64_t gpa, unsigned pages)
{
    for (unsigned i = 0; i < pages; i++)
        *host(f, gpa + 0x1000 * i) = 0x77;
}

static void request(struct fixture *f, unsigned queue, uint64_t gpa, uint32_t length,
                    unsigned flags)
{
    ring_desc(&f->g.rings[queue], 0, gpa, length, flags, 0);
    ring_offer(&f->g.rings[queue], 0);
    guest_notify(&f->g, queue);
}

static void inflated_pages_go(void **state)
{
    struct fixture *f = *state;
    /* A run up, a run down, one alone, one outside of memory, one at its end. */
    static const uint32_t numbers[] = {0x80100, 0x80101, 0x80102, 0x80112,    0x80111,
                                       0x80110, 0x80120, 0x12345, 0xffffffff, 0x801ff};
    static const uint32_t kept[] = {0x800ff, 0x80103, 0x8010f, 0x80113, 0x80121, 0x801fe};
    madvise(host(f, GUEST_RAM), GUEST_RAM_SIZE, MADV_NOHUGEPAGE);
    touch(f, GUEST_RAM + 0xff000, 0x101);
    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++)
        store_le32(host(f, GUEST_DATA) + 4 * i, numbers[i]);
    request(f, INFLATE, GUEST_DATA, sizeof(numbers), 0);
    assert_int_equal(ring_used_index(&f->g.rings[INFLATE]), 1);
    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
        uint64_t gpa = (uint64_t)numbers[i] << 12;
        if (gpa < GUEST_RAM || gpa >= GUEST_RAM + GUEST_RAM_SIZE)
            continue;
        assert_false(resident(f, gpa));
        assert_int_equal(*host(f, gpa), 0);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
        assert_int_equal(*host(f, (uint64_t)kept[i] << 12), 0x77);
    request(f, DEFLATE, GUEST_DATA, sizeof(numbers), 0);
    assert_int_equal(ring_used_index(&f->g.rings[DEFLATE]), 1);
}

static void reported_pages_go(void **state)
{
    struct fixture *f = *state;
    madvise(host(f, GUEST_RAM), GUEST_RAM_SIZE, MADV_NOHUGEPAGE);
    touch(f, GUEST_RAM + 0x100000, 16);
    /* Only the whole pages of it. */
    request(f, REPORTING, GUEST_RAM + 0x100800, 0x3800, RING_WRITE);
    assert_int_equal(*host(f, GUEST_RAM + 0x100000), 0x77);
    for (unsigned i = 1; i < 4; i++)
        assert_false(resident(f, GUEST_RAM + 0x100000 + 0x1000 * i));
    assert_int_equal(*host(f, GUEST_RAM + 0x104000), 0x77);
    request(f, REPORTING, GUEST_RAM + 0x108010, 0x100, RING_WRITE); /* none */
    assert_int_equal(*host(f, GUEST_RAM + 0x108000), 0x77);
    assert_int_equal(ring_used_index(&f->g.rings[REPORTING]), 2);
}

static void the_target_and_what_is_there(void **state)
{
    struct fixture *f = *state;
    struct balloon_status status;
    f->balloon.set(f->balloon.device, 0x123456);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG, 4), 0x123);
    assert_int_equal(guest_isr(&f->g), 2);
    guest_set_reg(&f->g, REG_CONFIG + 4, 0x122, 4);
    guest_set_reg(&f->g, REG_CONFIG, 0x999, 4); /* not the driver's */
    assert_int_equal(guest_reg(&f->g, REG_CONFIG, 4), 0x123);
    f->balloon.get(f->balloon.device, &status);
    assert_true(status.driven && status.wanted == 0x123000 && status.actual == 0x122000);
    f->g.device->ops->reset(f->g.device);
    f->balloon.get(f->balloon.device, &status);
    assert_true(!status.driven && status.wanted == 0x123000 && status.actual == 0);
    f->balloon.set(f->balloon.device, UINT64_MAX);
    guest_map_bar(&f->g);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG, 4), 0xffffffff);
}

static void put_stat(struct fixture *f, unsigned index, uint16_t tag, uint64_t value)
{
    store_le16(host(f, GUEST_DATA) + 10 * index, tag);
    store_le64(host(f, GUEST_DATA) + 10 * index + 2, value);
}

/* A question returns the driver's buffer; what it fills in then is told the next time. */
static void statistics(void **state)
{
    struct fixture *f = *state;
    struct balloon_status status;
    const struct ring *ring = &f->g.rings[STATS];
    put_stat(f, 0, BALLOON_STAT_FREE, 1);
    request(f, STATS, GUEST_DATA, 10, 0); /* what every driver begins with */
    assert_int_equal(ring_used_index(ring), 0);
    f->balloon.get(f->balloon.device, &status);
    assert_true(status.stats[BALLOON_STAT_FREE] == UINT64_MAX);
    assert_int_equal(ring_used_index(ring), 1);
    put_stat(f, 0, BALLOON_STAT_FREE, 1234);
    put_stat(f, 1, 999, 5);
    put_stat(f, 2, BALLOON_STAT_TOTAL, 5678);
    put_stat(f, 3, 15, 9); /* the last that Linux has */
    request(f, STATS, GUEST_DATA, 44, 0); /* the last one is cut */
    assert_int_equal(ring_used_index(ring), 2);
    request(f, STATS, GUEST_DATA, 40, 0); /* the driver's answer to the buffer's return: kept */
    assert_int_equal(ring_used_index(ring), 2);
    f->balloon.get(f->balloon.device, &status);
    assert_true(status.stats[BALLOON_STAT_FREE] == 1234);
    assert_true(status.stats[BALLOON_STAT_TOTAL] == 5678);
    assert_true(status.stats[BALLOON_STAT_DIRECT_RECLAIMS] == 9);
    assert_true(status.stats[BALLOON_STAT_CACHES] == UINT64_MAX);
    assert_int_equal(ring_used_index(ring), 3);
}

/* With EVENT_IDX the driver notifies only of what was asked for: the buffer that comes back. */
static void statistics_are_waited_for(void **state)
{
    struct fixture *f = *state;
    struct balloon_status status;
    const struct ring *ring = &f->g.rings[STATS];
    guest_start(&f->g, 1u << 1 | VIRTIO_F_EVENT_IDX);
    for (unsigned asked = 0; asked < 2; asked++) {
        f->balloon.get(f->balloon.device, &status); /* without a buffer at first */
        assert_int_equal(ring_avail_event(ring), ring->avail_index);
        put_stat(f, 0, BALLOON_STAT_FREE, 100 + asked);
        request(f, STATS, GUEST_DATA, 10, 0);
    }
    f->balloon.get(f->balloon.device, &status);
    assert_true(status.stats[BALLOON_STAT_FREE] == 101);
}

static void state_survives(void **state)
{
    struct fixture *f = *state, *other;
    struct balloon_status status;
    f->balloon.set(f->balloon.device, 0x400000);
    guest_set_reg(&f->g, REG_CONFIG + 4, 7, 4);
    request(f, STATS, GUEST_DATA, 10, 0);
    f->balloon.get(f->balloon.device, &status);
    setup((void **)&other);
    assert_state_round_trip(f->g.device->ops->state, f->g.device, other->g.device);
    other->balloon.get(other->balloon.device, &status);
    assert_true(status.wanted == 0x400000 && status.actual == 0x7000);
    teardown((void **)&other);
}

/* Who takes memory back by itself is only who is offered to. */
static void what_is_lent_may_be_kept(void **state)
{
    struct fixture *f = *state, keeps = {.balloon = {.keeps = true}};
    assert_int_equal(guest_offered(&f->g) & 1u << 2, 1u << 2);
    guest_init(&keeps.g, true);
    guest_plug(&keeps.g, &device_virtio_balloon,
               &(struct device_params){.id = "balloon0", .balloon = &keeps.balloon});
    guest_map_bar(&keeps.g);
    assert_int_equal(guest_offered(&keeps.g) & (1u << 1 | 1u << 2 | 1u << 5), 1u << 1 | 1u << 5);
    assert_non_null(keeps.balloon.set);
    guest_free(&keeps.g);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(inflated_pages_go),
        TEST(reported_pages_go),
        TEST(the_target_and_what_is_there),
        TEST(statistics),
        TEST(statistics_are_waited_for),
        TEST(state_survives),
        TEST(what_is_lent_may_be_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
