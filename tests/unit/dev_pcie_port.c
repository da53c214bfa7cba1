/* SPDX-License-Identifier: MIT
 *
 * A root port and its slot: the registers of PCIe 5.0, 7.5.3, what is reached behind it, and the
 * events of hot-plug as a driver meets them (hotplug_driver.h).
 */
#include "support.h"

#include "base/state.h"
#include "dev/pcie_port.h"
#include "hotplug_driver.h"
#include "virtio_guest.h"

extern const struct device_ops device_pcie_port;

#define SLOT   5u
#define LINE   2u /* of irq_levels: INTA of slot 5 */
#define BUS    7u
#define WINDOW UINT32_C(0x40000000)
#define HIGH   UINT64_C(0x400000000)
#define RNG    UINT32_C(0x10441af4)
#define ONES   UINT32_MAX

struct fixture {
    struct guest g; /* its device is what is in the slot */
    struct device *port;
    struct hotplug_driver hp;
    unsigned settles, messages;
};

static void on_settle(void *opaque)
{
    ((struct fixture *)opaque)->settles++;
}

static void on_message(void *sink, uint64_t address, uint32_t data)
{
    struct fixture *f = sink;
    assert_int_equal(address, 0x28000000);
    assert_int_equal(data, 9);
    f->messages++;
}

static struct fixture *make(bool messages)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->g, false);
    if (messages)
        f->g.env.pci->msi = (struct msi_sink){on_message, f};
    const struct device_port board = {3, on_settle, f};
    f->port =
        device_new(&device_pcie_port, &f->g.env,
                   &(struct device_params){.id = "port3", .pci_slot = SLOT, .port = &board}, NULL);
    assert_non_null(f->port);
    f->hp = (struct hotplug_driver){f->g.mem, SLOT, BUS, 0};
    return f;
}

static int setup(void **state)
{
    *state = make(false);
    return 0;
}

static int setup_messages(void **state)
{
    *state = make(true);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    device_free(f->g.device);
    f->g.device = NULL;
    device_free(f->port);
    guest_free(&f->g);
    free(f);
    return 0;
}

static void plug(struct fixture *f)
{
    f->g.device =
        device_new(&device_virtio_rng, &f->g.env,
                   &(struct device_params){.id = "rng0", .pci_slot = PCI_SLOT_BEHIND + SLOT}, NULL);
    assert_non_null(f->g.device);
    pcie_port_changed(f->port);
}

static void unplug(struct fixture *f)
{
    device_free(f->g.device);
    f->g.device = NULL;
    pcie_port_changed(f->port);
}

/* As the board does when it was called. */
static void renew(struct fixture *f)
{
    assert_true(pcie_port_stale(f->port));
    f->g.device->ops->reset(f->g.device);
    pcie_port_renewed(f->port);
    assert_false(pcie_port_stale(f->port));
}

static bool line(struct fixture *f)
{
    return (f->g.irq_levels & LINE) != 0;
}

static void place_bar(struct fixture *f, uint64_t gpa)
{
    hp_put(&f->hp, BUS, 0, PCI_REG_BAR0, (uint32_t)gpa, 4);
    hp_put(&f->hp, BUS, 0, PCI_REG_BAR0 + 4, (uint32_t)(gpa >> 32), 4);
    hp_put(&f->hp, BUS, 0, PCI_REG_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

/* What a driver of the device reads there: 1, its number of queues, or ones. */
static uint32_t queues_at(struct fixture *f, uint64_t gpa)
{
    return guest_get(&f->g, gpa + REG_QUEUE_COUNT, 2);
}

static void the_header_is_a_bridges(void **state)
{
    struct fixture *f = *state;
    hp_start(&f->hp, WINDOW);
    assert_int_equal(hp_port(&f->hp, PCI_REG_HEADER_TYPE, 1), 1);
    assert_int_equal(hp_port(&f->hp, PCI_REG_REVISION, 4), 0x06040000);
    assert_int_equal(hp_port(&f->hp, PCI_REG_PRIMARY_BUS, 4), BUS << 16 | BUS << 8);
    hp_set_port(&f->hp, 0x1c, 0xe0f0, 2); /* no I/O window: Linux tries this */
    assert_int_equal(hp_port(&f->hp, 0x1c, 2), 0);
    hp_set_port(&f->hp, PCI_REG_WINDOW, 0xffffffff, 4);
    assert_int_equal(hp_port(&f->hp, PCI_REG_WINDOW, 4), 0xfff0fff0);
    hp_set_port(&f->hp, PCI_REG_PREFETCHABLE, 0xffffffff, 4);
    assert_int_equal(hp_port(&f->hp, PCI_REG_PREFETCHABLE, 4), 0xfff1fff1);
    hp_set_port(&f->hp, PCI_REG_PREFETCHABLE_HIGH, 0x12345678, 4);
    assert_int_equal(hp_port(&f->hp, PCI_REG_PREFETCHABLE_HIGH, 4), 0x12345678);
    hp_set_port(&f->hp, PCI_REG_BAR0, 0xffffffff, 4);
    assert_int_equal(hp_port(&f->hp, PCI_REG_BAR0, 4), 0xfffff000);
    assert_int_equal(hp_reg(&f->hp, PCI_EXPRESS_FLAGS), 0x0142);
    assert_true((hp_port(&f->hp, f->hp.express + PCI_EXPRESS_LINK, 4) & 1 << 20) != 0);
    assert_int_equal(hp_port(&f->hp, f->hp.express + PCI_EXPRESS_SLOT, 4), 3 << 19 | 0x4007b);
    assert_int_equal(hp_port(&f->hp, 0x100, 4), 0); /* no extended capability, not no space */
}

static void only_device_0_of_its_bus_is_behind_it(void **state)
{
    struct fixture *f = *state;
    plug(f);
    assert_int_equal(hp_device(&f->hp, 0, 4), ONES); /* no bus has a number yet */
    assert_int_equal(hp_get(&f->hp, 0, 0, 0, 4), 0x00081b36);
    hp_start(&f->hp, WINDOW);
    assert_int_equal(hp_device(&f->hp, 0, 4), RNG);
    assert_int_equal(hp_device(&f->hp, 0x100, 4), 0);
    assert_int_equal(hp_get(&f->hp, BUS, 1, 0, 4), ONES);
    assert_int_equal(hp_get(&f->hp, BUS, 0, 1 << 12, 4), ONES);
    assert_int_equal(hp_get(&f->hp, BUS + 1, 0, 0, 4), ONES);
    hp_set_port(&f->hp, PCI_REG_PRIMARY_BUS, (BUS + 2) << 16 | (BUS + 1) << 8, 4);
    assert_int_equal(hp_device(&f->hp, 0, 4), ONES);
    assert_int_equal(hp_get(&f->hp, BUS + 1, 0, 0, 4), RNG);
    assert_int_equal(hp_get(&f->hp, BUS + 2, 0, 0, 4), ONES);
    /* It is an endpoint of PCI Express there. */
    unsigned at = hp_get(&f->hp, BUS + 1, 0, PCI_REG_CAPABILITIES, 1);
    while (hp_get(&f->hp, BUS + 1, 0, at, 1) != 0x10 && at != 0)
        at = hp_get(&f->hp, BUS + 1, 0, at + 1, 1);
    assert_int_equal(hp_get(&f->hp, BUS + 1, 0, at + PCI_EXPRESS_FLAGS, 2), 0x0002);
}

static void windows_forward(void **state)
{
    struct fixture *f = *state;
    plug(f);
    struct pci_function *function = &CONTAINER_OF(f->g.device, struct virtio_transport, device)->pci.function;
    hp_start(&f->hp, WINDOW);
    assert_int_equal(queues_at(f, WINDOW), 0xffff); /* an abort, no fault */
    guest_put(&f->g, WINDOW, 0, 8);
    place_bar(f, WINDOW + 0xf8000);
    assert_int_equal(queues_at(f, WINDOW + 0xf8000), 1);
    assert_true(pci_may_master(function));
    place_bar(f, WINDOW + 0x100000); /* behind the window */
    assert_int_equal(queues_at(f, WINDOW + 0x100000), 0xffff);
    hp_set_port(&f->hp, PCI_REG_WINDOW, 0x40104000, 4);
    assert_int_equal(queues_at(f, WINDOW + 0x100000), 1);
    hp_set_port(&f->hp, PCI_REG_WINDOW, 0x40004010, 4); /* base above limit: none */
    assert_int_equal(queues_at(f, WINDOW + 0x100000), 0xffff);
    /* The other window, beyond 4 GiB. */
    place_bar(f, HIGH + 0x8000);
    assert_int_equal(queues_at(f, HIGH + 0x8000), 0xffff);
    hp_set_port(&f->hp, PCI_REG_PREFETCHABLE, 0, 4);
    hp_set_port(&f->hp, PCI_REG_PREFETCHABLE_HIGH, HIGH >> 32, 4);
    assert_int_equal(queues_at(f, HIGH + 0x8000), 0xffff); /* the limit is still low */
    hp_set_port(&f->hp, PCI_REG_PREFETCHABLE_LIMIT_HIGH, HIGH >> 32, 4);
    assert_int_equal(queues_at(f, HIGH + 0x8000), 1);
    hp_set_port(&f->hp, PCI_REG_COMMAND, PCI_COMMAND_MASTER, 2);
    assert_int_equal(queues_at(f, HIGH + 0x8000), 0xffff);
    assert_true(pci_may_master(function));
    hp_set_port(&f->hp, PCI_REG_COMMAND, PCI_COMMAND_MEMORY, 2);
    assert_int_equal(queues_at(f, HIGH + 0x8000), 1);
    assert_false(pci_may_master(function));
}

static uint64_t answer(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset, (void)size;
    return 0x42;
}

static void ignore(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    (void)opaque, (void)offset, (void)value, (void)size;
}

static void a_bar_has_to_fit_into_a_window(void **state)
{
    static const struct mem_io_ops ops = {answer, ignore, 1, 8};
    struct fixture *f = *state;
    struct pci_function big;
    pci_function_init(&big, &(struct pci_identity){.vendor = 0x1234, .device = 0x5678});
    pci_bar_add(&big, 0, "big", 2 * MIB, PCI_BAR_64BIT, &ops, NULL);
    assert_true(pci_plug(f->g.env.pci, &big, PCI_SLOT_BEHIND + SLOT, NULL));
    pcie_port_changed(f->port);
    hp_start(&f->hp, WINDOW); /* 1 MiB */
    place_bar(f, WINDOW);
    assert_int_equal(guest_get(&f->g, WINDOW, 4), ONES);
    hp_set_port(&f->hp, PCI_REG_WINDOW, 0x40104000, 4); /* 2 MiB */
    assert_int_equal(guest_get(&f->g, WINDOW, 4), 0x42);
    hp_set_port(&f->hp, PCI_REG_WINDOW, 0x40104010, 4); /* without the first */
    assert_int_equal(guest_get(&f->g, WINDOW + MIB, 4), ONES);
    pci_unplug(&big);
    pcie_port_changed(f->port);
}

static void interrupts_pass_while_there_is_a_link(void **state)
{
    struct fixture *f = *state;
    plug(f);
    hp_start(&f->hp, WINDOW);
    struct pci_function *function = &CONTAINER_OF(f->g.device, struct virtio_transport, device)->pci.function;
    hp_events(&f->hp);
    assert_false(line(f));
    pci_set_intx(function, true);
    assert_true(line(f)); /* device 0's INTA is the port's slot's */
    hp_command(&f->hp, 0, HP_HPIE);
    hp_command(&f->hp, HP_OFF, HP_OFF);
    assert_false(line(f));
    pci_set_intx(function, false);
    pci_set_intx(function, true);
    assert_false(line(f));
    pci_set_intx(function, false);
}

static void a_device_comes_and_goes(void **state)
{
    struct fixture *f = *state;
    hp_start(&f->hp, WINDOW);
    assert_true(pcie_port_heeded(f->port));
    assert_false(pcie_port_powered(f->port));
    for (unsigned turn = 0; turn < 3; turn++) {
        f->settles = 0;
        plug(f);
        assert_false(line(f)); /* presence alone is no event that the driver asked for */
        pcie_port_attention(f->port);
        assert_true(line(f));
        assert_int_equal(hp_device(&f->hp, 0, 4), ONES); /* no power */
        assert_int_equal(hp_events(&f->hp), HP_BUTTON | HP_PRESENCE);
        assert_false(line(f));
        assert_int_equal(hp_add(&f->hp), RNG);
        assert_false(line(f));
        place_bar(f, WINDOW);
        assert_int_equal(queues_at(f, WINDOW), 1);
        assert_int_equal(f->settles, 0);

        pcie_port_eject(f->port);
        assert_true(line(f) && pcie_port_ejecting(f->port));
        assert_int_equal(hp_events(&f->hp), HP_BUTTON);
        hp_remove(&f->hp);
        assert_int_equal(f->settles, 1);
        assert_false(pcie_port_powered(f->port));
        assert_int_equal(hp_reg(&f->hp, PCI_EXPRESS_LINK_STATUS), 0);
        assert_int_equal(queues_at(f, WINDOW), 0xffff);
        assert_int_equal(hp_device(&f->hp, 0, 4), ONES);
        unplug(f);
        assert_false(pcie_port_ejecting(f->port) || pcie_port_stale(f->port));
        assert_int_equal(hp_events(&f->hp), HP_PRESENCE | HP_LINK);
        assert_int_equal(hp_reg(&f->hp, PCI_EXPRESS_SLOT_STATUS), 0);
    }
}

static void pulled_out(void **state)
{
    struct fixture *f = *state;
    plug(f);
    hp_start(&f->hp, WINDOW);
    hp_events(&f->hp);
    place_bar(f, WINDOW);
    assert_int_equal(queues_at(f, WINDOW), 1);
    unplug(f);
    assert_true(line(f));
    assert_int_equal(hp_events(&f->hp), HP_PRESENCE | HP_LINK);
    assert_int_equal(hp_device(&f->hp, 0, 4), ONES);
    assert_int_equal(queues_at(f, WINDOW), 0xffff);
    guest_put(&f->g, WINDOW + REG_STATUS, 0, 1);
    hp_put(&f->hp, BUS, 0, PCI_REG_COMMAND, 6, 2);
    assert_int_equal(f->settles, 0);
    /* With the power left on, the next one has a link at once. */
    plug(f);
    assert_int_equal(hp_events(&f->hp), HP_PRESENCE | HP_LINK);
    assert_int_equal(hp_device(&f->hp, 0, 4), RNG);
    assert_int_equal(hp_device(&f->hp, PCI_REG_COMMAND, 2), 0);
}

/* Each way to take the link away, and how to give it back. */
static void who_lost_the_link_starts_anew(void **state)
{
    struct fixture *f = *state;
    plug(f);
    hp_start(&f->hp, WINDOW);
    const struct {
        unsigned offset, bit;
    } ways[] = {{f->hp.express + PCI_EXPRESS_SLOT_CONTROL, HP_OFF},
                {f->hp.express + PCI_EXPRESS_LINK_CONTROL, 1 << 4},
                {PCI_REG_BRIDGE_CONTROL, PCI_BRIDGE_RESET}};
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        hp_events(&f->hp);
        f->settles = 0;
        place_bar(f, WINDOW);
        guest_put(&f->g, WINDOW + REG_STATUS, 3, 1);
        assert_int_equal(guest_get(&f->g, WINDOW + REG_STATUS, 1), 3);
        uint32_t before = hp_port(&f->hp, ways[i].offset, 2);
        hp_set_port(&f->hp, ways[i].offset, before | ways[i].bit, 2);
        assert_int_equal(f->settles, 1);
        assert_int_equal(hp_events(&f->hp), HP_LINK);
        assert_int_equal(hp_device(&f->hp, 0, 4), ONES);
        hp_set_port(&f->hp, ways[i].offset, before | ways[i].bit, 2);
        hp_set_port(&f->hp, ways[i].offset, before, 2);
        assert_int_equal(f->settles, 1);
        assert_int_equal(hp_device(&f->hp, 0, 4), ONES); /* not before it is reset */
        assert_int_equal(hp_events(&f->hp), 0);
        renew(f);
        assert_int_equal(hp_events(&f->hp), HP_LINK);
        assert_int_equal(hp_device(&f->hp, 0, 4), RNG);
        assert_int_equal(hp_device(&f->hp, PCI_REG_COMMAND, 2), 0);
        place_bar(f, WINDOW);
        assert_int_equal(guest_get(&f->g, WINDOW + REG_STATUS, 1), 0);
    }
}

static void messages_are_sent_for_news(void **state)
{
    struct fixture *f = *state;
    hp_start(&f->hp, 0x40100000);
    unsigned at = hp_port(&f->hp, PCI_REG_CAPABILITIES, 1);
    while (hp_port(&f->hp, at, 1) != 0x11 && at != 0)
        at = hp_port(&f->hp, at + 1, 1);
    assert_int_not_equal(at, 0);
    hp_set_port(&f->hp, PCI_REG_BAR0, 0x40000000, 4);
    guest_put(&f->g, 0x40000000, 0x28000000, 8);
    guest_put(&f->g, 0x40000008, 9, 8);
    assert_int_equal(guest_get(&f->g, 0x40000008, 4), 9);
    hp_set_port(&f->hp, at + 2, 0x8000, 2);
    plug(f);
    pcie_port_attention(f->port);
    assert_int_equal(f->messages, 1);
    pcie_port_attention(f->port); /* no news while the first is not seen (6.7.3.4) */
    assert_int_equal(f->messages, 1);
    hp_events(&f->hp);
    assert_int_equal(f->messages, 1);
    pcie_port_attention(f->port);
    assert_int_equal(f->messages, 2);
    assert_false(line(f));
}

static void a_reset_is_a_cold_start(void **state)
{
    struct fixture *f = *state;
    plug(f);
    hp_start(&f->hp, WINDOW);
    hp_command(&f->hp, HP_OFF, HP_OFF);
    assert_true(pcie_port_stale(f->port));
    f->g.device->ops->reset(f->g.device);
    f->port->ops->reset(f->port);
    assert_int_equal(hp_events(&f->hp), 0);
    assert_int_equal(hp_reg(&f->hp, PCI_EXPRESS_SLOT_STATUS), HP_PRESENT);
    assert_int_equal(hp_reg(&f->hp, PCI_EXPRESS_LINK_STATUS) & HP_ACTIVE, HP_ACTIVE);
    assert_int_equal(hp_device(&f->hp, 0, 4), ONES); /* the number of its bus is gone */
    hp_start(&f->hp, WINDOW);
    assert_int_equal(hp_device(&f->hp, 0, 4), RNG);
}

static void assert_same_state(struct fixture *f, struct fixture *other)
{
    struct state_buffer first = {0}, second = {0};
    size_t at = 0;
    state_save(device_pcie_port.state, f->port, &first);
    assert_true(
        state_restore(device_pcie_port.state, other->port, first.data, first.size, &at, NULL));
    state_save(device_pcie_port.state, other->port, &second);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    state_buffer_free(&first);
    state_buffer_free(&second);
}

static void the_slot_is_saved(void **state)
{
    struct fixture *f = *state, *other = make(false);
    hp_start(&f->hp, WINDOW);
    assert_same_state(f, other); /* empty and switched off */
    assert_false(pcie_port_powered(other->port));
    plug(f);
    plug(other);
    pcie_port_eject(f->port);
    hp_command(&f->hp, 0, HP_OFF);
    assert_same_state(f, other); /* a link, and events that were not seen */
    assert_true(line(other) && pcie_port_ejecting(other->port));
    assert_int_equal(hp_device(&other->hp, 0, 4), RNG);
    assert_int_equal(other->settles, 0);
    hp_command(&f->hp, HP_OFF, HP_OFF);
    assert_same_state(f, other); /* what the board was yet to do, it does here */
    assert_int_equal(other->settles, 1);
    assert_true(pcie_port_stale(other->port));
    assert_int_equal(hp_device(&other->hp, 0, 4), ONES);

    struct state_buffer buffer = {0};
    struct error *err = NULL;
    size_t at = 0;
    state_save(device_pcie_port.state, f->port, &buffer);
    unplug(other);
    assert_false(
        state_restore(device_pcie_port.state, other->port, buffer.data, buffer.size, &at, &err));
    assert_error(&err, ERROR_USAGE, "a device in PCIe slot 3");
    state_buffer_free(&buffer);
    void *gone = other;
    teardown(&gone);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_header_is_a_bridges),
        TEST(only_device_0_of_its_bus_is_behind_it),
        TEST(windows_forward),
        TEST(a_bar_has_to_fit_into_a_window),
        TEST(interrupts_pass_while_there_is_a_link),
        TEST(a_device_comes_and_goes),
        TEST(pulled_out),
        TEST(who_lost_the_link_starts_anew),
        cmocka_unit_test_setup_teardown(messages_are_sent_for_news, setup_messages, teardown),
        TEST(a_reset_is_a_cold_start),
        TEST(the_slot_is_saved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
