/* SPDX-License-Identifier: MIT
 *
 * dev/virtio_rng.c as a driver sees it; the fixture's entropy counts 1, 2, 3 ...
 */
#include "support.h"

#include "dev/virtio_rng.h"
#include "virtio_guest.h"

static int setup(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));
    guest_init(g, false);
    guest_plug(g, &device_virtio_rng, &(struct device_params){.id = "rng0"});
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    guest_free(*state);
    free(*state);
    return 0;
}

static void serve(struct guest *g)
{
    guest_notify(g, 0);
    guest_pump(g);
}

static void buffers_are_filled(void **state)
{
    struct guest *g = *state;
    struct ring *ring = &g->rings[0];
    guest_start(g, 0);
    ring_desc(ring, 0, GUEST_DATA, 3, RING_WRITE | RING_NEXT, 1);
    ring_desc(ring, 1, GUEST_DATA + 0x100, 5, RING_WRITE, 0);
    ring_offer(ring, 0);
    serve(g);
    assert_int_equal(ring_used_length(ring, 0), 8);
    static const uint8_t expected[] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t bytes[9];
    assert_true(mem_read(g->mem, GUEST_DATA, bytes, 3));
    assert_true(mem_read(g->mem, GUEST_DATA + 0x100, bytes + 3, 6));
    assert_memory_equal(bytes, expected, 8);
    assert_int_equal(bytes[8], 0);
    assert_int_equal(guest_isr(g), 1);
}

static void one_request_gets_a_page(void **state)
{
    struct guest *g = *state;
    struct ring *ring = &g->rings[0];
    guest_start(g, 0);
    ring_desc(ring, 0, GUEST_DATA, 0x10000, RING_WRITE, 0);
    ring_offer(ring, 0);
    serve(g);
    assert_int_equal(ring_used_length(ring, 0), 4096);
    assert_int_equal(ring_get(g->mem, GUEST_DATA + 4092, 4) >> 24, 4096 & 0xff);
    assert_int_equal(ring_get(g->mem, GUEST_DATA + 4096, 4), 0);
}

static void a_request_may_have_no_room(void **state)
{
    struct guest *g = *state;
    struct ring *ring = &g->rings[0];
    guest_start(g, 0);
    ring_desc(ring, 0, GUEST_DATA, 8, 0, 0);
    for (unsigned i = 0; i < ring->size; i++)
        ring_offer(ring, 0);
    serve(g);
    assert_int_equal(ring_used_index(ring), ring->size);
    assert_int_equal(ring_used_length(ring, 0), 0);
    assert_int_equal(g->entropy_next, 0);
}

/* Requests and bytes of two seconds; what has to wait is served later, and at once without limits.
 */
static void limits_are_kept(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes, requests;
        unsigned least, most; /* of requests of 8 bytes, in two seconds */
    } rows[] = {{0, 3, 6, 7}, {20, 0, 5, 6}, {8000, 2, 4, 5}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct guest *g = calloc(1, sizeof(*g));
        guest_init(g, true);
        guest_plug(g, &device_virtio_rng, &(struct device_params){.id = "rng0"});
        struct ring *ring = &g->rings[0];
        guest_start(g, 0);
        virtio_rng_limit(g->device, rows[i].bytes, rows[i].requests);
        ring_desc(ring, 0, GUEST_DATA, 8, RING_WRITE, 0);
        for (unsigned k = 0; k < ring->size; k++)
            ring_offer(ring, 0);
        guest_notify(g, 0);
        for (unsigned k = 0; k < 2000; k++)
            guest_wait(g); /* a millisecond */
        unsigned served = ring_used_index(ring), wanted = ring->avail_index;
        assert_in_range(served, rows[i].least, rows[i].most);
        virtio_rng_limit(g->device, 0, 0);
        guest_wait(g);
        assert_int_equal(ring_used_index(ring), wanted);
        guest_free(g);
        free(g);
    }
}

static void state_survives_a_round_trip(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    void *other;
    setup(&other);
    assert_state_round_trip(device_virtio_rng.state, g->device, ((struct guest *)other)->device);
    teardown(&other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(buffers_are_filled),          TEST(one_request_gets_a_page),
        TEST(a_request_may_have_no_room),  cmocka_unit_test(limits_are_kept),
        TEST(state_survives_a_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
