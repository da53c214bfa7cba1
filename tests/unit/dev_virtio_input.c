/* SPDX-License-Identifier: MIT
 *
 * dev/virtio_input.c as a driver and whoever presses the button see it.
 */
#include "support.h"

#include <linux/input.h>

#include "bus/backend.h"
#include "virtio_guest.h"

enum { EVENTS = 0, STATUS = 1 };
/* Configuration space (virtio 1.2, 5.8.4). */
enum {
    SELECT = REG_CONFIG,
    SUBSEL = REG_CONFIG + 1,
    SIZE = REG_CONFIG + 2,
    ANSWER = REG_CONFIG + 8
};
enum {
    ID_NAME = 1,
    ID_SERIAL = 2,
    ID_DEVIDS = 3,
    PROP_BITS = 0x10,
    EV_BITS = 0x11,
    ABS_INFO = 0x12
};

struct fixture {
    struct guest g;
    struct power_button button;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->g, false);
    guest_plug(&f->g, &device_virtio_input,
               &(struct device_params){.id = "button0", .button = &f->button});
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    guest_free(&f->g);
    assert_null(f->button.press);
    free(f);
    return 0;
}

static bool press(struct fixture *f)
{
    return f->button.press(f->button.device);
}

static unsigned select_config(struct fixture *f, unsigned select, unsigned subsel)
{
    guest_set_reg(&f->g, SELECT, select, 1);
    guest_set_reg(&f->g, SUBSEL, subsel, 1);
    return guest_reg(&f->g, SIZE, 1);
}

/* Event buffer `i` to the device. */
static void offer(struct fixture *f, unsigned i)
{
    ring_desc(&f->g.rings[EVENTS], i, GUEST_DATA + 8 * i, 8, RING_WRITE, 0);
    ring_offer(&f->g.rings[EVENTS], (uint16_t)i);
}

/* Event buffer `i` holds this event. */
static void expect_event(struct fixture *f, unsigned i, uint16_t type, uint16_t code,
                         uint32_t value)
{
    assert_int_equal(ring_used_length(&f->g.rings[EVENTS], (uint16_t)i), 8);
    assert_int_equal(ring_get(f->g.mem, GUEST_DATA + 8 * i, 4), (uint32_t)code << 16 | type);
    assert_int_equal(ring_get(f->g.mem, GUEST_DATA + 8 * i + 4, 4), value);
}

static void expect_press(struct fixture *f, unsigned first)
{
    expect_event(f, first, EV_KEY, KEY_POWER, 1);
    expect_event(f, first + 1, EV_SYN, SYN_REPORT, 0);
    expect_event(f, first + 2, EV_KEY, KEY_POWER, 0);
    expect_event(f, first + 3, EV_SYN, SYN_REPORT, 0);
}

static void it_tells_what_it_is(void **state)
{
    struct fixture *f = *state;
    char name[128] = "";
    guest_map_bar(&f->g);
    assert_int_equal(guest_config_get(&f->g, PCI_REG_VENDOR, 4), 0x10521af4);
    assert_int_equal(guest_reg(&f->g, SIZE, 1), 0);
    unsigned length = select_config(f, ID_NAME, 0);
    for (unsigned i = 0; i < length; i++)
        name[i] = (char)guest_reg(&f->g, ANSWER + i, 1);
    assert_string_equal(name, "Trapeze power button");
    assert_int_equal(select_config(f, ID_DEVIDS, 0), 8);
    assert_int_equal(guest_reg(&f->g, ANSWER, 2), BUS_VIRTUAL);
}

/* No key but the power button: a keyboard would mean something else to the guest. */
static void it_has_one_key(void **state)
{
    struct fixture *f = *state;
    guest_map_bar(&f->g);
    unsigned size = select_config(f, EV_BITS, EV_KEY), keys = 0;
    assert_true(size > KEY_POWER / 8 && size <= 128);
    for (unsigned i = 0; i < size * 8; i++)
        if ((guest_reg(&f->g, ANSWER + i / 8, 1) >> (i % 8) & 1) != 0) {
            assert_int_equal(i, KEY_POWER);
            keys++;
        }
    assert_int_equal(keys, 1);
    for (unsigned select = 0; select < 256; select++)
        for (unsigned subsel = 0; subsel < 256; subsel++)
            if (!(select == EV_BITS && subsel == EV_KEY) && !(select == ID_NAME && subsel == 0) &&
                !(select == ID_DEVIDS && subsel == 0))
                assert_int_equal(select_config(f, select, subsel), 0);
    assert_int_equal(guest_reg(&f->g, ANSWER, 4), 0); /* of no former answer */
    guest_set_reg(&f->g, SIZE, 0xff, 1); /* only the selection can be written */
    guest_set_reg(&f->g, ANSWER, 0xffffffff, 4);
    assert_int_equal(guest_reg(&f->g, SIZE, 1), 0);
    assert_int_equal(guest_reg(&f->g, ANSWER, 4), 0);
}

static void a_press_is_four_events(void **state)
{
    struct fixture *f = *state;
    assert_false(press(f));
    guest_start(&f->g, 0);
    for (unsigned i = 0; i < 8; i++)
        offer(f, i);
    assert_true(press(f));
    assert_int_equal(ring_used_index(&f->g.rings[EVENTS]), 4);
    expect_press(f, 0);
    assert_int_equal(guest_isr(&f->g), 1);
    assert_true(press(f));
    assert_int_equal(ring_used_index(&f->g.rings[EVENTS]), 8);
    expect_press(f, 4);
}

static void a_press_waits_for_buffers(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, 0);
    offer(f, 0);
    assert_true(press(f));
    assert_int_equal(ring_used_index(&f->g.rings[EVENTS]), 1);
    assert_true(press(f)); /* impatience does not help */
    for (unsigned i = 1; i < 6; i++)
        offer(f, i);
    guest_notify(&f->g, EVENTS);
    guest_pump(&f->g);
    assert_int_equal(ring_used_index(&f->g.rings[EVENTS]), 4);
    expect_press(f, 0);
}

static void a_reset_forgets_a_press(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, 0);
    assert_true(press(f));
    guest_reset(&f->g);
    assert_false(press(f));
    guest_start(&f->g, 0);
    offer(f, 0);
    guest_notify(&f->g, EVENTS);
    guest_pump(&f->g);
    assert_int_equal(ring_used_index(&f->g.rings[EVENTS]), 0);
}

static void bad_drivers(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, 0);
    ring_desc(&f->g.rings[EVENTS], 0, GUEST_DATA, 7, RING_WRITE, 0);
    ring_offer(&f->g.rings[EVENTS], 0);
    assert_true(press(f));
    assert_int_equal(guest_reg(&f->g, REG_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET,
                     VIRTIO_STATUS_NEEDS_RESET);
    assert_false(press(f));
    guest_start(&f->g, 0);
    guest_config_put(&f->g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY, 2); /* no bus master */
    assert_false(press(f));
}

static void leds_are_given_back(void **state)
{
    struct fixture *f = *state;
    guest_start(&f->g, 0);
    ring_desc(&f->g.rings[STATUS], 0, GUEST_DATA, 8, 0, 0);
    for (unsigned i = 0; i < 64; i++)
        ring_offer(&f->g.rings[STATUS], 0);
    guest_notify(&f->g, STATUS);
    guest_pump(&f->g);
    assert_int_equal(ring_used_index(&f->g.rings[STATUS]), 64);
}

/* A press that waits, and what is selected, go along. */
static void state_survives_a_round_trip(void **state)
{
    struct fixture *f = *state, *other;
    guest_start(&f->g, 0);
    offer(f, 0);
    assert_true(press(f));
    select_config(f, ID_DEVIDS, 0);
    void *other_state;
    setup(&other_state);
    other = other_state;
    guest_start(&other->g, 0); /* was in use for something else */
    f->g.device->ops->quiesce(f->g.device);
    other->g.device->ops->quiesce(other->g.device);
    assert_state_round_trip(device_virtio_input.state, f->g.device, other->g.device);
    assert_int_equal(guest_reg(&other->g, SIZE, 1), 8);
    ring_put16(other->g.mem, other->g.rings[EVENTS].used + 2, 1);
    other->g.rings[EVENTS].avail_index = f->g.rings[EVENTS].avail_index;
    for (unsigned i = 1; i < 8; i++)
        offer(other, i);
    other->g.device->ops->unquiesce(other->g.device);
    guest_pump(&other->g);
    assert_int_equal(ring_used_index(&other->g.rings[EVENTS]), 4);
    expect_event(other, 3, EV_SYN, SYN_REPORT, 0);
    teardown(&other_state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(it_tells_what_it_is),     TEST(it_has_one_key),
        TEST(a_press_is_four_events),  TEST(a_press_waits_for_buffers),
        TEST(a_reset_forgets_a_press), TEST(bad_drivers),
        TEST(leds_are_given_back),     TEST(state_survives_a_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
