/* SPDX-License-Identifier: MIT
 *
 * bus/virtio.h through its transports: status, negotiation, queues, notifications,
 * interrupts, pauses; with the device of virtio_probe.h.
 */
#include "virtio_probe.h"

/* --- finding the device --- */

static void capabilities_lead_to_the_registers(void **state)
{
    struct guest *g = *state;
    assert_int_equal(guest_config_get(g, PCI_REG_VENDOR, 4), 0x106a1af4);
    assert_int_equal(guest_config_get(g, PCI_REG_REVISION, 1), 1);
    /* Type, BAR offset, length; for each vendor-specific capability. */
    static const uint32_t expected[][3] = {
        {1, 0x0000, 0x3c}, {3, 0x1000, 1}, {4, 0x2000, CONFIG_BYTES}, {2, 0x3000, 8}, {5, 0, 0}};
    unsigned seen = 0;
    for (unsigned at = guest_config_get(g, PCI_REG_CAPABILITIES, 1); at != 0;
         at = guest_config_get(g, at + 1, 1), seen++) {
        assert_int_equal(guest_config_get(g, at, 1), 9);
        assert_true(seen < ARRAY_SIZE(expected));
        assert_int_equal(guest_config_get(g, at + 3, 1), expected[seen][0]);
        assert_int_equal(guest_config_get(g, at + 8, 4), expected[seen][1]);
        assert_int_equal(guest_config_get(g, at + 12, 4), expected[seen][2]);
        if (expected[seen][0] == 2)
            assert_int_equal(guest_config_get(g, at + 16, 4), 4); /* notify multiplier */
    }
    assert_int_equal(seen, ARRAY_SIZE(expected));
}

static unsigned find_window(struct guest *g)
{
    unsigned at = guest_config_get(g, PCI_REG_CAPABILITIES, 1);
    while (guest_config_get(g, at + 3, 1) != 5)
        at = guest_config_get(g, at + 1, 1);
    return at;
}

static void configuration_space_reaches_the_registers(void **state)
{
    struct guest *g = *state;
    unsigned at = find_window(g); /* without a mapped BAR */
    guest_config_put(g, at + 4, 0, 1);
    guest_config_put(g, at + 8, REG_STATUS, 4);
    guest_config_put(g, at + 12, 1, 4);
    guest_config_put(g, at + 16, VIRTIO_STATUS_ACKNOWLEDGE, 1);
    assert_int_equal(guest_config_get(g, at + 16, 1), VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(probe(g)->transport.virtio.status, VIRTIO_STATUS_ACKNOWLEDGE);
    guest_config_put(g, at + 8, REG_CONFIG + 4, 4);
    guest_config_put(g, at + 12, 4, 4);
    assert_int_equal(guest_config_get(g, at + 16, 4), 0x17161514);

    /* Targets that do not exist change nothing and read what was written last. */
    static const uint32_t bad[][3] = {{1, 0, 4},          {0, 2, 4},         {0, 0, 3},
                                      {0, 0, 8},          {0, 0, 0},         {0, 0x8000, 4},
                                      {0, 0xfffffffc, 4}, {0, 0, 0xffffffff}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        guest_config_put(g, at + 4, bad[i][0], 1);
        guest_config_put(g, at + 8, bad[i][1], 4);
        guest_config_put(g, at + 12, bad[i][2], 4);
        guest_config_put(g, at + 16, 0x12345678, 4);
        assert_int_equal(guest_config_get(g, at + 16, 4), 0x12345678);
    }
    assert_int_equal(probe(g)->transport.virtio.status, VIRTIO_STATUS_ACKNOWLEDGE);
}

static void registers_have_their_width(void **state)
{
    struct guest *g = *state;
    guest_map_bar(g);
    assert_int_equal(guest_reg(g, REG_QUEUE_COUNT, 2), 2);
    assert_int_equal(guest_reg(g, REG_QUEUE_COUNT, 1), 0);
    assert_int_equal(guest_reg(g, REG_QUEUE_COUNT - 2, 4), 0);
    guest_set_reg(g, REG_STATUS, 1, 4);
    assert_int_equal(status(g), 0);
    assert_int_equal(guest_reg(g, 0x38, 4), 0);
    assert_int_equal(guest_reg(g, 0xffc, 4), 0);
    assert_int_equal(guest_reg(g, REG_NOTIFY, 4), 0);
    guest_set_reg(g, REG_ISR, 1, 1);
    guest_set_reg(g, REG_CONFIG, 0, 4);
    guest_set_reg(g, 0x3ffc, 0, 4);
    /* 64-bit registers in one access, where a driver tries that. */
    guest_set_reg(g, REG_QUEUE_DESC, UINT64_C(0x123456789a), 8);
    assert_int_equal(guest_reg(g, REG_QUEUE_DESC, 4), 0x3456789a);
    assert_int_equal(guest_reg(g, REG_QUEUE_DESC + 4, 4), 0x12);
}

static void configuration_is_read_at_any_width(void **state)
{
    struct guest *g = *state;
    guest_map_bar(g);
    assert_int_equal(guest_reg(g, REG_CONFIG, 1), 0x10);
    assert_int_equal(guest_reg(g, REG_CONFIG + 2, 2), 0x1312);
    assert_int_equal(guest_reg(g, REG_CONFIG + 4, 4), 0x17161514);
    assert_int_equal(guest_reg(g, REG_CONFIG + 8, 4), 0x1918); /* the end */
    assert_int_equal(guest_reg(g, REG_CONFIG + 12, 4), 0);
}

/* --- status and features --- */

static void negotiation_ends_in_activation(void **state)
{
    struct guest *g = *state;
    guest_map_bar(g);
    assert_int_equal(guest_offered(g), FEATURE_A | VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX |
                                           VIRTIO_F_INDIRECT_DESC | VIRTIO_F_RING_PACKED |
                                           VIRTIO_F_RING_RESET);
    guest_set_reg(g, REG_OFFERED_SELECT, 2, 4);
    assert_int_equal(guest_reg(g, REG_OFFERED, 4), 0);
    guest_start(g, FEATURE_A);
    assert_int_equal(status(g), VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |
                                    VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
    assert_int_equal(probe(g)->activations, 1);
    assert_int_equal(probe(g)->features, FEATURE_A | VIRTIO_F_VERSION_1);

    guest_accept(g, VIRTIO_F_VERSION_1); /* too late */
    assert_true(virtio_has(&probe(g)->transport.virtio, FEATURE_A));
    guest_set_reg(g, REG_STATUS, VIRTIO_STATUS_ACKNOWLEDGE, 1); /* bits only come */
    assert_int_equal(status(g) & VIRTIO_STATUS_DRIVER_OK, VIRTIO_STATUS_DRIVER_OK);
    guest_driver_ok(g);
    assert_int_equal(probe(g)->activations, 1);

    guest_set_reg(g, REG_STATUS, 0, 1);
    assert_int_equal(status(g), 0);
    assert_int_equal(probe(g)->deactivations, 1);
    guest_start(g, 0);
    assert_int_equal(probe(g)->activations, 2);
    assert_int_equal(probe(g)->features, VIRTIO_F_VERSION_1);
}

/* 2.4.2: the reset is over when the driver reads status 0, and not before. */
static void a_reset_may_take_time(void **state)
{
    struct guest *g = *state;
    guest_start(g, FEATURE_A);
    probe(g)->slow = true;
    uint8_t before = status(g);
    guest_set_reg(g, REG_STATUS, 0, 1);
    assert_int_equal(status(g), before);

    /* The device is as good as gone: no requests, no interrupts, no new set-up. */
    ring_desc(&g->rings[1], 0, GUEST_DATA, 4, 0, 0);
    ring_offer(&g->rings[1], 0);
    guest_notify(g, 1);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 0);
    virtio_config_changed(&probe(g)->transport.virtio);
    assert_int_equal(guest_isr(g), 0);
    guest_set_reg(g, REG_STATUS, 0, 1);
    guest_set_reg(g, REG_STATUS, VIRTIO_STATUS_FAILED, 1);
    guest_set_reg(g, REG_QUEUE_SELECT, 1, 2);
    assert_int_equal(guest_reg(g, REG_QUEUE_SELECT, 2), 1);
    assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 1);
    assert_int_equal(status(g), before);
    assert_int_equal(probe(g)->deactivations, 1);

    virtio_deactivated(&probe(g)->transport.virtio);
    assert_int_equal(status(g), 0);
    assert_int_equal(guest_reg(g, REG_QUEUE_SELECT, 2), 0);
    assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 0);
    guest_start(g, 0);
    assert_int_equal(probe(g)->activations, 2);
    guest_notify(g, 1);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 1);
}

static void impossible_features_are_refused(void **state)
{
    struct guest *g = *state;
    assert_false(guest_negotiate(g, FEATURE_A)); /* a legacy driver */
    assert_false(guest_negotiate(g, VIRTIO_F_VERSION_1 | FEATURE_A << 1));
    assert_false(guest_negotiate(g, VIRTIO_F_VERSION_1 | UINT64_C(1) << 35)); /* in order */
    assert_true(guest_negotiate(g, VIRTIO_F_VERSION_1));
    guest_set_reg(g, REG_STATUS, 0, 1);
    guest_accept(g, VIRTIO_F_VERSION_1);
    guest_set_reg(g, REG_ACCEPTED_SELECT, 2, 4);
    guest_set_reg(g, REG_ACCEPTED, 1, 4); /* bit 64 */
    guest_set_reg(g, REG_STATUS, VIRTIO_STATUS_FEATURES_OK, 1);
    assert_int_equal(status(g), 0);
}

static void assert_needs_reset(struct guest *g, bool interrupt)
{
    assert_int_equal(status(g) & VIRTIO_STATUS_NEEDS_RESET, VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(g->irq_levels, interrupt ? 1u << pci_swizzle(4, 1) : 0);
    assert_int_equal(guest_isr(g), interrupt ? 2 : 0);
    assert_int_equal(g->irq_levels, 0);
    guest_set_reg(g, REG_STATUS, 0, 1);
    assert_int_equal(status(g), 0);
    guest_start(g, 0);
    assert_int_equal(status(g) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

static void driver_ok_needs_features_ok(void **state)
{
    struct guest *g = *state;
    guest_map_bar(g);
    guest_driver_ok(g);
    assert_int_equal(probe(g)->activations, 0);
    assert_needs_reset(g, true);
}

static void bad_queues_need_a_reset(void **state)
{
    struct guest *g = *state;
    const struct ring good = ring_at(g->mem, GUEST_RING(0), 16);
    struct ring bad[] = {good, good, good, good};
    bad[0].size = 3;
    bad[1].size = 32;
    bad[2].desc = 0x1000;
    bad[3].used += 2;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_true(guest_negotiate(g, VIRTIO_F_VERSION_1));
        guest_set_queue(g, 0, &bad[i]);
        assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 0);
        assert_needs_reset(g, false);
    }
    /* Told as soon as the driver listens. */
    assert_true(guest_negotiate(g, VIRTIO_F_VERSION_1));
    guest_set_queue(g, 0, &bad[0]);
    unsigned before = probe(g)->activations;
    guest_driver_ok(g);
    assert_int_equal(probe(g)->activations, before);
    assert_needs_reset(g, true);

    guest_set_reg(g, REG_STATUS, 0, 1);
    assert_true(guest_negotiate(g, VIRTIO_F_VERSION_1));
    guest_driver_ok(g);
    guest_set_queue(g, 0, &good); /* after DRIVER_OK */
    assert_needs_reset(g, true);
}

static void queues_are_fixed_once_enabled(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    guest_set_reg(g, REG_QUEUE_SELECT, 1, 2);
    struct virtqueue before = probe(g)->transport.virtio.queues[1];
    guest_set_reg(g, REG_QUEUE_SIZE, 4, 2);
    guest_set_reg(g, REG_QUEUE_USED, 0, 4);
    guest_set_reg(g, REG_QUEUE_ENABLE, 0, 2);
    assert_int_equal(guest_reg(g, REG_QUEUE_SIZE, 2), 16);
    assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 1);
    assert_int_equal(guest_reg(g, REG_QUEUE_USED, 4), before.used);
    static const uint16_t absent[] = {2, 3, 4, 0xffff};
    for (size_t i = 0; i < ARRAY_SIZE(absent); i++) {
        guest_set_reg(g, REG_QUEUE_SELECT, absent[i], 2);
        assert_int_equal(guest_reg(g, REG_QUEUE_SIZE, 2), 0);
        guest_set_reg(g, REG_QUEUE_SIZE, 4, 2);
        guest_set_reg(g, REG_QUEUE_DESC, 0x1000, 4);
        guest_set_reg(g, REG_QUEUE_ENABLE, 1, 2);
        assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 0);
    }
    assert_int_equal(status(g) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

/* As many as the device was made with, each with a place in every structure. */
static void queues_come_in_steps(void **state)
{
    struct guest *g = *state;
    device_free(g->device);
    guest_plug(g, &probe_device, &(struct device_params){.id = "p", .pci_slot = 4, .queues = 11});
    guest_map_bar(g);
    assert_int_equal(guest_reg(g, REG_QUEUE_COUNT, 2), VIRTIO_QUEUE_MAX);
    guest_start(g, 0);
    unsigned last = VIRTIO_QUEUE_MAX - 1;
    ring_desc(&g->rings[last], 0, GUEST_DATA, 4, 0, 0);
    ring_offer(&g->rings[last], 0);
    guest_notify(g, last);
    guest_pump(g);
    assert_int_equal(ring_used_index(&g->rings[last]), 1);
    assert_int_equal(probe(g)->notifications, 1);
    struct guest *other = guest_new(false);
    device_free(other->device);
    guest_plug(other, &probe_device,
               &(struct device_params){.id = "p", .pci_slot = 4, .queues = 11});
    assert_state_round_trip(&virtio_transport_state, g->device, other->device);
    guest_free(other);
    free(other);
}

/* 2.6.1 and 4.1.4.3: at once or when the device is through with it. */
static void one_queue_is_reset(void **state)
{
    struct guest *g = *state;
    guest_start(g, VIRTIO_F_RING_RESET | VIRTIO_F_EVENT_IDX);
    ring_desc(&g->rings[0], 0, GUEST_DATA, 4, 0, 0);
    for (unsigned round = 0; round < 2; round++) {
        probe(g)->slow = round == 1;
        ring_offer(&g->rings[0], 0);
        guest_notify(g, 0);
        guest_pump(g);
        assert_int_equal(ring_used_index(&g->rings[0]), 1);
        guest_set_reg(g, REG_QUEUE_SELECT, 0, 2);
        guest_set_reg(g, REG_QUEUE_RESET, 0, 2); /* nothing */
        assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 1);
        guest_set_reg(g, REG_QUEUE_RESET, 1, 2);
        assert_int_equal(probe(g)->queue_resets, round + 1);
        if (round == 1) {
            assert_int_equal(guest_reg(g, REG_QUEUE_RESET, 2), 1);
            guest_set_reg(g, REG_QUEUE_RESET, 1, 2); /* it is under way */
            guest_set_reg(g, REG_QUEUE_SIZE, 2, 2);
            guest_set_reg(g, REG_QUEUE_ENABLE, 1, 2);
            assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 0);
            assert_int_equal(probe(g)->queue_resets, 2);
            virtio_queue_deactivated(&probe(g)->transport.virtio,
                                     &probe(g)->transport.virtio.queues[0]);
        }
        assert_int_equal(guest_reg(g, REG_QUEUE_RESET, 2), 0);
        assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 0);
        assert_int_equal(guest_reg(g, REG_QUEUE_SIZE, 2), 16);
        assert_int_equal(guest_reg(g, REG_QUEUE_DESC, 4), 0);
        unsigned before = probe(g)->notifications;
        guest_notify(g, 0);
        guest_pump(g);
        assert_int_equal(probe(g)->notifications, before);

        /* The other queue works all the while, and this one again, with another size. */
        ring_desc(&g->rings[1], 0, GUEST_DATA, 4, 0, 0);
        ring_offer(&g->rings[1], 0);
        guest_notify(g, 1);
        guest_pump(g);
        assert_int_equal(ring_used_index(&g->rings[1]), round + 1);
        g->rings[0] = ring_at(g->mem, GUEST_RING(0), 8);
        memset(mem_ram_pointer(g->mem, GUEST_RING(0), RING_BYTES, MEM_WRITE), 0, RING_BYTES);
        ring_desc(&g->rings[0], 0, GUEST_DATA, 4, 0, 0);
        guest_set_queue(g, 0, &g->rings[0]);
        assert_true(probe(g)->transport.virtio.queues[0].event_idx);
    }
    assert_int_equal(status(g) & VIRTIO_STATUS_NEEDS_RESET, 0);

    /* A reset of the device ends it, too. */
    guest_set_reg(g, REG_QUEUE_SELECT, 0, 2);
    guest_set_reg(g, REG_QUEUE_RESET, 1, 2);
    probe(g)->slow = false;
    guest_reset(g);
    guest_start(g, 0);
    guest_set_reg(g, REG_QUEUE_SELECT, 0, 2);
    guest_set_reg(g, REG_QUEUE_RESET, 1, 2); /* not negotiated */
    assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 1);
    assert_int_equal(probe(g)->queue_resets, 3);
}

/* What is wrong with a device is not mended by resetting one of its queues. */
static void a_queue_reset_mends_nothing(void **state)
{
    struct guest *g = *state;
    guest_start(g, VIRTIO_F_RING_RESET);
    virtio_violation(&probe(g)->transport.virtio, "a test");
    guest_set_reg(g, REG_QUEUE_SELECT, 0, 2);
    guest_set_reg(g, REG_QUEUE_RESET, 1, 2);
    guest_set_queue(g, 0, &g->rings[0]);
    assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 1);
    guest_notify(g, 0);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 0);
    assert_needs_reset(g, true);
}

/* --- notifications and interrupts --- */

static void notifications_are_coalesced(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    guest_notify(g, 0);
    guest_notify(g, 0);
    guest_notify(g, 1);
    guest_notify(g, 1);
    guest_set_reg(g, REG_NOTIFY + 8, 0, 2);       /* no such queue */
    assert_int_equal(probe(g)->notifications, 0); /* not on the vCPU's thread */
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 2);
    guest_notify(g, 0);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 3);
}

static void a_busy_device_is_called_again(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    probe(g)->busy = 3;
    guest_notify(g, 1);
    for (unsigned i = 0; i < 8; i++)
        guest_pump(g);
    assert_int_equal(probe(g)->notifications, 4);
}

static void in_deterministic_mode_notifications_are_immediate(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    probe(g)->busy = 2;
    guest_notify(g, 1);
    assert_int_equal(probe(g)->notifications, 3);
    ring_desc(&g->rings[0], 0, GUEST_DATA, 4, 0, 0);
    ring_offer(&g->rings[0], 0);
    guest_notify(g, 0);
    assert_int_equal(ring_used_index(&g->rings[0]), 1);
}

static void a_completion_interrupts_until_isr_is_read(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    ring_desc(&g->rings[1], 0, GUEST_DATA, 4, 0, 0);
    ring_offer(&g->rings[1], 0);
    guest_notify(g, 1);
    guest_pump(g);
    assert_int_equal(ring_used_index(&g->rings[1]), 1);
    assert_int_equal(g->irq_levels, 1u << pci_swizzle(4, 1));
    assert_int_equal(guest_isr(g), 1);
    assert_int_equal(g->irq_levels, 0);
    assert_int_equal(guest_isr(g), 0);
}

static void a_hostile_chain_needs_a_reset(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    ring_desc(&g->rings[0], 0, 0, 4, 0, 0);
    ring_offer(&g->rings[0], 0);
    guest_notify(g, 0);
    guest_pump(g);
    assert_int_equal(ring_used_index(&g->rings[0]), 0);
    unsigned before = probe(g)->notifications;
    guest_notify(g, 1); /* the other queue stands still, too */
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, before);
    assert_needs_reset(g, true);
    ring_desc(&g->rings[0], 0, GUEST_DATA, 4, 0, 0);
    ring_offer(&g->rings[0], 0);
    guest_notify(g, 0);
    guest_pump(g);
    assert_int_equal(ring_used_index(&g->rings[0]), 1);
}

static void configuration_changes_are_told(void **state)
{
    struct guest *g = *state;
    guest_map_bar(g);
    uint32_t generation = guest_reg(g, REG_GENERATION, 1);
    virtio_config_changed(&probe(g)->transport.virtio);
    assert_int_equal(g->irq_levels, 0); /* nobody listens yet */
    guest_start(g, 0);
    virtio_config_changed(&probe(g)->transport.virtio);
    assert_int_equal(guest_reg(g, REG_GENERATION, 1), generation + 2);
    assert_int_equal(guest_isr(g), 2);
}

static void without_bus_mastering_nothing_happens(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    guest_config_put(g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY, 2);
    guest_notify(g, 0);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 0);
    guest_config_put(g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 2); /* every queue may have something */
}

static void a_pause_defers_notifications(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    guest_notify(g, 0);
    g->device->ops->quiesce(g->device);
    guest_pump(g);
    guest_notify(g, 1);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 0);
    g->device->ops->unquiesce(g->device);
    guest_pump(g);
    assert_int_equal(probe(g)->notifications, 2);
}

static void a_device_can_go_with_a_notification_under_way(void **state)
{
    struct guest *g = *state;
    guest_start(g, 0);
    guest_notify(g, 0);
    device_free(g->device);
    g->device = NULL;
    guest_pump(g); /* a sanitizer would tell */
}

static void machine_reset_returns_to_power_on(void **state)
{
    struct guest *g = *state;
    guest_start(g, FEATURE_A);
    virtio_config_changed(&probe(g)->transport.virtio);
    g->device->ops->reset(g->device);
    assert_int_equal(g->irq_levels, 0);
    assert_int_equal(probe(g)->deactivations, 1);
    assert_int_equal(guest_config_get(g, PCI_REG_COMMAND, 2), 0);
    guest_map_bar(g);
    assert_int_equal(status(g), 0);
    assert_int_equal(guest_isr(g), 0);
    assert_int_equal(guest_reg(g, REG_GENERATION, 1), 0);
    guest_set_reg(g, REG_QUEUE_SELECT, 0, 2);
    assert_int_equal(guest_reg(g, REG_QUEUE_ENABLE, 2), 0);
    assert_int_equal(guest_reg(g, REG_QUEUE_SIZE, 2), 16);
    assert_int_equal(guest_reg(g, REG_QUEUE_DESC, 4), 0);
}

/* --- state --- */

static void state_survives_a_round_trip(void **state)
{
    struct guest *g = *state;
    guest_start(g, FEATURE_A | VIRTIO_F_EVENT_IDX);
    ring_desc(&g->rings[1], 0, GUEST_DATA, 4, 0, 0);
    ring_offer(&g->rings[1], 0);
    guest_notify(g, 1);
    guest_pump(g);
    virtio_config_changed(&probe(g)->transport.virtio);
    g->device->ops->quiesce(g->device);

    struct guest *other = guest_like(g);
    other->device->ops->quiesce(other->device);
    assert_state_round_trip(&virtio_transport_state, g->device, other->device);
    assert_int_equal(probe(other)->activations, 1);
    assert_int_equal(probe(other)->features, FEATURE_A | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1);
    assert_true(probe(other)->transport.virtio.queues[1].event_idx);
    assert_int_equal(other->irq_levels, g->irq_levels);
    assert_int_equal(guest_isr(other), 3);

    /* It goes on where the other one stopped: the next entry is number 1. */
    struct ring ring = ring_at(other->mem, GUEST_RING(1), 16);
    ring.avail_index = 1;
    ring_desc(&ring, 5, GUEST_DATA, 4, 0, 0);
    ring_offer(&ring, 5);
    ring_want_used(&ring, 1);
    other->device->ops->unquiesce(other->device); /* no notification was saved */
    guest_pump(other);
    assert_int_equal(ring_used_index(&ring), 2);
    assert_int_equal(ring_used_head(&ring, 1), 5);
    assert_int_equal(guest_isr(other), 1);
    guest_free(other);
    free(other);
}

static void impossible_states_are_refused(void **state)
{
    struct guest *g = *state;
    struct guest *other = guest_like(g);
    guest_start(g, 0);
    struct virtio *virtio = &probe(g)->transport.virtio;
    const struct virtio good = *virtio;
    for (unsigned i = 0; i < 6; i++) {
        memcpy(virtio, &good, sizeof(good));
        switch (i) {
        case 0:
            virtio->accepted |= UINT64_C(1) << 50;
            break;
        case 1:
            virtio->accepted = 0;
            break;
        case 2:
            virtio->status = VIRTIO_STATUS_DRIVER_OK;
            break;
        case 3:
            virtio->queues[2] = virtio->queues[1];
            break;
        case 4:
            virtio->queues[1].avail = 3;
            break;
        case 5:
            virtio->saved_queue_count = 5; /* of a device with more */
            break;
        }
        struct state_buffer buffer = {0};
        struct error *err = NULL;
        size_t at = 0;
        state_save(&virtio_transport_state, g->device, &buffer);
        assert_false(state_restore(&virtio_transport_state, other->device, buffer.data, buffer.size,
                                   &at, &err));
        assert_error(&err, ERROR_USAGE, "the saved state of");
        state_buffer_free(&buffer);
    }
    memcpy(virtio, &good, sizeof(good));
    assert_int_equal(probe(other)->activations, 0);
    guest_free(other);
    free(other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define MMIO(name) {"mmio: " #name, name, setup_mmio, teardown, NULL}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(capabilities_lead_to_the_registers),
        TEST(configuration_space_reaches_the_registers),
        TEST(registers_have_their_width),
        TEST(configuration_is_read_at_any_width),
        TEST(negotiation_ends_in_activation),
        TEST(a_reset_may_take_time),
        TEST(impossible_features_are_refused),
        TEST(driver_ok_needs_features_ok),
        TEST(bad_queues_need_a_reset),
        TEST(queues_are_fixed_once_enabled),
        TEST(queues_come_in_steps),
        TEST(one_queue_is_reset),
        TEST(a_queue_reset_mends_nothing),
        TEST(notifications_are_coalesced),
        TEST(a_busy_device_is_called_again),
        cmocka_unit_test_setup_teardown(in_deterministic_mode_notifications_are_immediate,
                                        setup_deterministic, teardown),
        TEST(a_completion_interrupts_until_isr_is_read),
        TEST(a_hostile_chain_needs_a_reset),
        TEST(configuration_changes_are_told),
        TEST(without_bus_mastering_nothing_happens),
        TEST(a_pause_defers_notifications),
        TEST(a_device_can_go_with_a_notification_under_way),
        TEST(machine_reset_returns_to_power_on),
        TEST(state_survives_a_round_trip),
        TEST(impossible_states_are_refused),
        MMIO(negotiation_ends_in_activation),
        MMIO(impossible_features_are_refused),
        MMIO(driver_ok_needs_features_ok),
        MMIO(bad_queues_need_a_reset),
        MMIO(a_queue_reset_mends_nothing),
        MMIO(notifications_are_coalesced),
        MMIO(a_busy_device_is_called_again),
        MMIO(a_completion_interrupts_until_isr_is_read),
        MMIO(a_hostile_chain_needs_a_reset),
        MMIO(configuration_changes_are_told),
        MMIO(a_pause_defers_notifications),
        MMIO(a_device_can_go_with_a_notification_under_way),
        MMIO(state_survives_a_round_trip),
        MMIO(impossible_states_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
