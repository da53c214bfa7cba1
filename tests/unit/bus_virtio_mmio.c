/* SPDX-License-Identifier: MIT
 *
 * What is the MMIO transport's own (bus/virtio_mmio.h); bus_virtio.c has what every transport does.
 */
#include "virtio_probe.h"

static uint32_t mmio(struct guest *g, unsigned offset)
{
    return guest_get(g, GUEST_BAR + offset, 4);
}

static void mmio_registers(void **state)
{
    struct guest *g = *state;
    assert_int_equal(mmio(g, 0x000), 0x74726976);
    assert_int_equal(mmio(g, 0x004), 2);
    assert_int_equal(mmio(g, 0x008), 42);
    assert_int_equal(mmio(g, 0x034), 16);
    guest_put(g, GUEST_BAR + 0x030, 2, 4); /* no such queue, */
    assert_int_equal(mmio(g, 0x034), 0);
    guest_put(g, GUEST_BAR + 0x030, 0x10000, 4); /* nor by the low half of its number */
    assert_int_equal(mmio(g, 0x034), 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(mmio(g, 0x0b0 + 4 * i), UINT32_MAX); /* no shared memory */
    assert_int_equal(guest_get(g, GUEST_BAR, 2), 0);
    guest_put(g, GUEST_BAR + 0x070, 1, 1);
    assert_int_equal(mmio(g, 0x070), 0);
    assert_int_equal(guest_get(g, GUEST_BAR + 0x100, 1), 0x10);
    assert_int_equal(guest_get(g, GUEST_BAR + 0x104, 4), 0x17161514);
    uint64_t wide;
    assert_true(mem_io_read(g->mem, GUEST_BAR + 0x100, 8, &wide));
    assert_true(wide == UINT64_C(0x1716151413121110));
    assert_int_equal(guest_get(g, GUEST_BAR + 0xffc, 4), 0); /* behind its end */
}

/* 4.2.2.2: the driver writes 0 to QueueReady and waits until it reads that. */
static void a_queue_stops_when_it_is_not_ready(void **state)
{
    struct guest *g = *state;
    guest_start(g, VIRTIO_F_RING_RESET);
    probe(g)->slow = true;
    guest_put(g, GUEST_BAR + 0x030, 1, 4);
    guest_put(g, GUEST_BAR + 0x044, 0, 4);
    assert_int_equal(mmio(g, 0x044), 1);
    assert_int_equal(mmio(g, 0x0c0), 1);
    guest_put(g, GUEST_BAR + 0x044, 0, 4); /* it is under way */
    guest_put(g, GUEST_BAR + 0x0c0, 1, 4);
    assert_int_equal(probe(g)->queue_resets, 1);
    virtio_queue_deactivated(&probe(g)->transport.virtio, &probe(g)->transport.virtio.queues[1]);
    assert_int_equal(mmio(g, 0x044), 0);
    assert_int_equal(mmio(g, 0x0c0), 0);
    guest_set_queue(g, 1, &g->rings[1]);
    assert_int_equal(mmio(g, 0x044), 1);
    probe(g)->slow = false;
    guest_put(g, GUEST_BAR + 0x044, 0, 4);
    assert_int_equal(mmio(g, 0x044), 0);
    assert_int_equal(status(g) & VIRTIO_STATUS_NEEDS_RESET, 0);

    guest_reset(g);
    guest_start(g, 0); /* the driver does not know that a queue can be stopped */
    guest_put(g, GUEST_BAR + 0x030, 1, 4);
    guest_put(g, GUEST_BAR + 0x044, 0, 4);
    assert_int_equal(mmio(g, 0x044), 1);
}

static void a_slow_reset_of_a_slot(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    probe(g)->slow = true;
    uint8_t before = status(g);
    guest_set_reg(g, REG_STATUS, 0, 1);
    guest_set_reg(g, REG_STATUS, VIRTIO_STATUS_FAILED, 1);
    assert_int_equal(status(g), before);
    virtio_deactivated(&probe(g)->transport.virtio);
    assert_int_equal(status(g), 0);
    guest_start(g, 0);
    assert_int_equal(probe(g)->activations, 2);
}

static void interrupts_are_acknowledged_one_by_one(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    ring_desc(&g->rings[1], 0, GUEST_DATA, 4, 0, 0);
    ring_offer(&g->rings[1], 0);
    guest_notify(g, 1);
    guest_pump(g);
    virtio_config_changed(&probe(g)->transport.virtio);
    assert_int_equal(mmio(g, 0x060), 3);
    guest_put(g, GUEST_BAR + 0x064, 1, 4);
    assert_int_equal(mmio(g, 0x060), 2);
    assert_int_equal(g->irq_levels, 1);
    guest_put(g, GUEST_BAR + 0x064, 0xfffffffe, 4);
    assert_int_equal(mmio(g, 0x060), 0);
    assert_int_equal(g->irq_levels, 0);
}

static void slots_run_out(void **state)
{
    struct guest *g = *state;
    struct device *more[VIRTIO_SLOT_COUNT - 1];
    const struct device_params params = {.id = "p"};
    struct error *err = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(more); i++) {
        more[i] = device_new(&probe_device, &g->env, &params, NULL);
        assert_non_null(more[i]);
        assert_int_equal(guest_get(g, GUEST_BAR + 0x1000 * (i + 1), 4), 0x74726976);
    }
    assert_null(device_new(&probe_device, &g->env, &params, &err));
    assert_error(&err, ERROR_USAGE, "room for 32 virtio devices");
    device_free(more[7]);
    more[7] = device_new(&probe_device, &g->env, &params, NULL); /* its place is free again */
    assert_non_null(more[7]);
    assert_int_equal(guest_get(g, GUEST_BAR + 0x8000, 4), 0x74726976);
    for (size_t i = 0; i < ARRAY_SIZE(more); i++)
        device_free(more[i]);
}

static void the_state_of_a_pci_function_fits_into_no_slot(void **state)
{
    struct guest *g = *state, *pci = guest_new(false);
    struct state_buffer buffer = {0};
    struct error *err = NULL;
    size_t at = 0;
    state_save(&virtio_transport_state, pci->device, &buffer);
    assert_false(
        state_restore(&virtio_transport_state, g->device, buffer.data, buffer.size, &at, &err));
    assert_error(&err, ERROR_USAGE, "another kind of PCI device");
    state_buffer_free(&buffer);
    guest_free(pci);
    free(pci);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_mmio, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(mmio_registers),         TEST(a_queue_stops_when_it_is_not_ready),
        TEST(a_slow_reset_of_a_slot), TEST(interrupts_are_acknowledged_one_by_one),
        TEST(slots_run_out),          TEST(the_state_of_a_pci_function_fits_into_no_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
