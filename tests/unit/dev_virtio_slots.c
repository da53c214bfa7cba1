/* SPDX-License-Identifier: MIT
 *
 * Slots for virtio devices: which inputs of the controller are theirs, and what several at one are.
 */
#include "dev_fixture.h"

#include "bus/virtio_mmio.h"
#include "dev/virtio_slots.h"

struct lines {
    uint32_t high; /* of the controller */
    unsigned changes;
};

static void set_input(void *sink, unsigned input, bool level)
{
    struct lines *lines = sink;
    uint32_t bit = UINT32_C(1) << input;
    lines->changes += level != ((lines->high & bit) != 0);
    lines->high = level ? lines->high | bit : lines->high & ~bit;
}

static struct device *make(struct bench *b, struct lines *lines, const uint8_t *shared,
                           unsigned count)
{
    *lines = (struct lines){0};
    b->params.shared_irqs = shared;
    b->params.inputs = count;
    b->params.irq_number = 5;
    irq_line_bind(&b->params.irq, set_input, lines, 5);
    return device_new(&device_virtio_slots, &b->env, &b->params, NULL);
}

static void set(struct device *device, unsigned slot, bool level)
{
    struct irq_line line = virtio_slots_of(device)->irq;
    line.input += slot;
    irq_line_set(&line, level);
}

static void each_slot_has_an_input(void **state)
{
    struct bench b;
    struct lines lines;
    struct virtio_slot place;
    (void)state;
    bench_open(&b, &device_aclint);
    struct device *device = make(&b, &lines, NULL, 0);
    virtio_slots_of(device)->taken = 1u << 3 | 1u << 26;
    set(device, 3, true);
    assert_int_equal(lines.high, 1u << 8);
    set(device, 26, true);
    assert_int_equal(lines.high, 1u << 8 | 1u << 31);
    set(device, 3, false);
    assert_int_equal(lines.high, 1u << 31);
    assert_true(virtio_slot_at(device, 26, &place));
    assert_true(place.gpa == BENCH_GPA + 26 * VIRTIO_SLOT_SIZE);
    assert_int_equal(place.irq, 31);
    assert_false(place.shared);
    assert_false(virtio_slot_at(device, 2, &place));
    device_free(device);
    bench_close(&b);
}

static void a_shared_input_is_high_while_anybody_raises_it(void **state)
{
    static const uint8_t inputs[] = {5, 10, 23};
    struct bench b;
    struct lines lines;
    struct virtio_slot place;
    (void)state;
    bench_open(&b, &device_aclint);
    struct device *device = make(&b, &lines, inputs, ARRAY_SIZE(inputs));
    virtio_slots_of(device)->taken = 1u << 1 | 1u << 4 | 1u << 5;
    set(device, 1, true);
    assert_int_equal(lines.high, 1u << 10);
    set(device, 4, true);
    set(device, 1, false);
    assert_int_equal(lines.high, 1u << 10);
    set(device, 5, true);
    assert_int_equal(lines.high, 1u << 10 | 1u << 23);
    set(device, 4, false);
    assert_int_equal(lines.high, 1u << 23);
    assert_int_equal(lines.changes, 3);
    set(device, 0, true);
    set(device, 31, true);
    assert_int_equal(lines.high, 1u << 5 | 1u << 10 | 1u << 23);
    assert_true(virtio_slot_at(device, 4, &place) && place.irq == 10 && place.shared);
    assert_true(virtio_slot_at(device, 5, &place) && place.irq == 23 && !place.shared);
    device_free(device);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_slot_has_an_input),
        cmocka_unit_test(a_shared_input_is_high_while_anybody_raises_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
