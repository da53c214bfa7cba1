/* SPDX-License-Identifier: MIT
 *
 * dev/virtio_console.c as a driver and a backend see it.
 */
#include "support.h"

#include "bus/backend.h"
#include "virtio_guest.h"

#define F_SIZE (UINT64_C(1) << 0)
enum { RECEIVE = 0, TRANSMIT = 1 };

struct fixture {
    struct guest g;
    struct char_backend chr;
    char output[256];
    size_t output_size;
    unsigned resumed;
    const char *pending; /* offered again when the device resumes input */
};

static void backend_write(struct char_backend *backend, const uint8_t *data, size_t size)
{
    struct fixture *f = CONTAINER_OF(backend, struct fixture, chr);
    assert_true(f->output_size + size <= sizeof(f->output));
    memcpy(f->output + f->output_size, data, size);
    f->output_size += size;
}

static size_t input(struct fixture *f, const char *text)
{
    return f->chr.on_input(f->chr.device, (const uint8_t *)text, strlen(text));
}

static void backend_resume(struct char_backend *backend)
{
    struct fixture *f = CONTAINER_OF(backend, struct fixture, chr);
    f->resumed++;
    if (f->pending != NULL) {
        const char *text = f->pending;
        f->pending = NULL;
        assert_int_equal(input(f, text), strlen(text)); /* before resume_input() returns */
    }
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->chr.write = backend_write;
    f->chr.resume_input = backend_resume;
    guest_init(&f->g, false);
    guest_plug(&f->g, &device_virtio_console,
               &(struct device_params){.id = "hvc0", .chr = &f->chr});
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    guest_free(&f->g);
    assert_null(f->chr.on_input);
    free(f);
    return 0;
}

static void output_reaches_the_backend(void **state)
{
    struct fixture *f = *state;
    struct ring *ring = &f->g.rings[TRANSMIT];
    guest_start(&f->g, 0);
    assert_true(mem_write(f->g.mem, GUEST_DATA, "hello world", 11));
    ring_desc(ring, 0, GUEST_DATA, 6, RING_NEXT, 1);
    ring_desc(ring, 1, GUEST_DATA + 6, 5, 0, 0);
    ring_offer(ring, 0);
    ring_offer(ring, 1);
    guest_notify(&f->g, TRANSMIT);
    guest_pump(&f->g);
    assert_int_equal(f->output_size, 16);
    assert_memory_equal(f->output, "hello worldworld", 16);
    assert_int_equal(ring_used_index(ring), 2);
    assert_int_equal(ring_used_length(ring, 0), 0);
    assert_int_equal(guest_isr(&f->g), 1);
}

static void input_fills_buffers_and_waits_for_more(void **state)
{
    struct fixture *f = *state;
    struct ring *ring = &f->g.rings[RECEIVE];
    assert_int_equal(input(f, "early"), 0); /* no driver yet */
    guest_start(&f->g, 0);
    ring_desc(ring, 0, GUEST_DATA, 4, RING_WRITE, 0);
    ring_desc(ring, 1, GUEST_DATA + 0x100, 4, RING_WRITE, 0);
    ring_offer(ring, 0);
    ring_offer(ring, 1);
    assert_int_equal(input(f, "abcdefXYZ"), 8);
    assert_int_equal(ring_used_index(ring), 2);
    assert_int_equal(ring_used_length(ring, 0), 4);
    char text[4];
    assert_true(mem_read(f->g.mem, GUEST_DATA + 0x100, text, 4));
    assert_memory_equal(text, "efXY", 4);
    assert_int_equal(guest_isr(&f->g), 1);

    f->pending = "Z";
    ring_offer(ring, 0);
    guest_notify(&f->g, RECEIVE);
    guest_pump(&f->g);
    assert_int_equal(f->resumed, 1);
    assert_int_equal(ring_used_index(ring), 3);
    assert_int_equal(ring_used_length(ring, 2), 1);
    ring_offer(ring, 1);
    guest_notify(&f->g, RECEIVE);
    guest_pump(&f->g);
    assert_int_equal(f->resumed, 1); /* nobody waits: not disturbed */
}

static void input_waits_while_paused(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, 0);
    ring_desc(&f->g.rings[RECEIVE], 0, GUEST_DATA, 4, RING_WRITE, 0);
    ring_offer(&f->g.rings[RECEIVE], 0);
    f->g.device->ops->quiesce(f->g.device);
    assert_int_equal(input(f, "a"), 0);
    f->pending = "a";
    f->g.device->ops->unquiesce(f->g.device);
    guest_pump(&f->g);
    assert_int_equal(ring_used_index(&f->g.rings[RECEIVE]), 1);
}

static void the_terminal_size_is_told(void **state)
{
    struct fixture *f = *state;
    f->chr.on_resize(f->chr.device, 100, 50);
    guest_start(&f->g, F_SIZE);
    assert_int_equal(guest_isr(&f->g), 0);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG, 2), 100);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 2, 2), 50);
    f->chr.on_resize(f->chr.device, 132, 43);
    assert_int_equal(guest_isr(&f->g), 2);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG, 4), 43 << 16 | 132);

    guest_start(&f->g, 0); /* a driver that does not care */
    f->chr.on_resize(f->chr.device, 80, 24);
    assert_int_equal(guest_isr(&f->g), 0);
}

static void absurd_requests_are_refused(void **state)
{
    struct fixture *f = *state;
    struct ring *ring = &f->g.rings[TRANSMIT];
    guest_start(&f->g, 0);
    for (unsigned i = 0; i < 3; i++)
        ring_desc(ring, i, GUEST_RAM, 0x80000, i < 2 ? RING_NEXT : 0, i + 1);
    ring_offer(ring, 0);
    guest_notify(&f->g, TRANSMIT);
    guest_pump(&f->g);
    assert_int_equal(f->output_size, 0);
    assert_int_equal(guest_reg(&f->g, REG_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET,
                     VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(input(f, "a"), 0);
}

static void empty_buffers_do_not_hang_input(void **state)
{
    struct fixture *f = *state;
    struct ring *ring = &f->g.rings[RECEIVE];
    guest_start(&f->g, 0);
    ring_desc(ring, 0, GUEST_DATA, 4, 0, 0); /* nothing to write into */
    for (unsigned i = 0; i < ring->size; i++)
        ring_offer(ring, 0);
    assert_int_equal(input(f, "a"), 0);
    assert_int_equal(ring_used_index(ring), ring->size);
}

static void state_survives_a_round_trip(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, F_SIZE);
    output_reaches_the_backend(state);
    void *other;
    setup(&other);
    struct fixture *o = other;
    assert_state_round_trip(device_virtio_console.state, f->g.device, o->g.device);
    teardown(&other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(output_reaches_the_backend),  TEST(input_fills_buffers_and_waits_for_more),
        TEST(input_waits_while_paused),    TEST(the_terminal_size_is_told),
        TEST(absurd_requests_are_refused), TEST(empty_buffers_do_not_hang_input),
        TEST(state_survives_a_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
