/* SPDX-License-Identifier: MIT
 *
 * bus/pci.h and the host bridge: configuration space, BARs that move, INTx, device tree.
 */
#include "support.h"

#include <libfdt.h>

#include "virtio_guest.h"

#define BAR2_SIZE   UINT64_C(0x10000)
#define HIGH_WINDOW UINT64_C(0x400000000)

/* A function with a 32-bit BAR 0 of 4 KiB and a 64-bit BAR 2 of 64 KiB, which answer with
 * the BAR's number. */
struct probe {
    struct pci_function function;
    unsigned config_writes;
};

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)offset, (void)size;
    return (uint64_t)(uintptr_t)opaque;
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    (void)opaque, (void)offset, (void)value, (void)size;
}

static const struct mem_io_ops bar_ops = {bar_read, bar_write, 1, 8};

static void config_written(struct pci_function *function, unsigned offset, unsigned size)
{
    (void)offset, (void)size;
    CONTAINER_OF(function, struct probe, function)->config_writes++;
}

static const struct pci_function_ops probe_ops = {.config_written = config_written};

static void probe_make(struct guest *g, struct probe *probe, unsigned slot, uint8_t pin)
{
    const uint8_t capability[8] = {0, 0, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};
    const uint8_t writable[8] = {0xff, 0xff, 0x0f}; /* id and link stay fixed nevertheless */
    probe->config_writes = 0;
    pci_function_init(&probe->function, &(struct pci_identity){.vendor = 0x1234,
                                                               .device = 0x5678,
                                                               .subsystem_vendor = 0x9abc,
                                                               .subsystem = 0xdef0,
                                                               .class_code = 0x123456,
                                                               .revision = 0x78,
                                                               .pin = pin});
    probe->function.ops = &probe_ops;
    pci_bar_add(&probe->function, 0, "bar0", 4096, 0, &bar_ops, (void *)1);
    pci_bar_add(&probe->function, 2, "bar2", BAR2_SIZE, PCI_BAR_64BIT | PCI_BAR_PREFETCHABLE,
                &bar_ops, (void *)3);
    assert_int_equal(pci_capability_add(&probe->function, 0x09, capability, NULL, 6), 0x40);
    assert_int_equal(pci_capability_add(&probe->function, 0x0d, capability, writable, 8), 0x48);
    struct error *err = NULL;
    assert_true(pci_plug(g->env.pci, &probe->function, slot, &err));
    pci_function_reset(&probe->function);
}

struct fixture {
    struct guest g;
    struct probe a, b;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->g, false);
    probe_make(&f->g, &f->a, 1, 1);
    probe_make(&f->g, &f->b, 6, 3);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    pci_unplug(&f->a.function);
    pci_unplug(&f->b.function);
    guest_free(&f->g);
    free(f);
    return 0;
}

static uint32_t get(struct fixture *f, unsigned slot, unsigned offset, unsigned size)
{
    return guest_get(&f->g, guest_config_gpa(slot, offset), size);
}

static void put(struct fixture *f, unsigned slot, unsigned offset, uint32_t value, unsigned size)
{
    guest_put(&f->g, guest_config_gpa(slot, offset), value, size);
}

/* Which BAR answers at gpa; 0: nothing is mapped there. */
static uint64_t at(struct fixture *f, uint64_t gpa)
{
    uint64_t value = 0;
    return mem_io_read(f->g.mem, gpa, 4, &value) ? value : 0;
}

static void the_header_is_as_declared(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(get(f, 1, PCI_REG_VENDOR, 4), 0x56781234);
    assert_int_equal(get(f, 1, PCI_REG_DEVICE, 2), 0x5678);
    assert_int_equal(get(f, 1, PCI_REG_REVISION, 4), 0x12345678);
    assert_int_equal(get(f, 1, PCI_REG_SUBSYSTEM_VENDOR, 4), 0xdef09abc);
    assert_int_equal(get(f, 1, PCI_REG_INTERRUPT_PIN, 1), 1);
    assert_int_equal(get(f, 6, PCI_REG_INTERRUPT_PIN, 1), 3);
    assert_int_equal(get(f, 1, PCI_REG_HEADER_TYPE, 1), 0);
    assert_int_equal(get(f, 0, PCI_REG_CLASS, 1) | get(f, 0, PCI_REG_CLASS + 1, 2) << 8, 0x060000);
    /* Capabilities are linked in order. */
    assert_int_equal(get(f, 1, PCI_REG_STATUS, 2), PCI_STATUS_CAPABILITIES);
    assert_int_equal(get(f, 1, PCI_REG_CAPABILITIES, 1), 0x40);
    assert_int_equal(get(f, 1, 0x40, 2), 0x4809);
    assert_int_equal(get(f, 1, 0x48, 2), 0x000d);
    assert_int_equal(get(f, 1, 0x4c, 4), 0xffeeddcc);
}

static void what_is_absent_reads_as_ones(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(get(f, 2, 0, 4), 0xffffffff);
    assert_int_equal(get(f, 2, 0, 2), 0xffff);
    assert_int_equal(get(f, 2, 3, 1), 0xff);
    assert_int_equal(guest_get(&f->g, guest_config_gpa(1, 0) + (1 << 12), 4), 0xffffffff);
    assert_int_equal(guest_get(&f->g, guest_config_gpa(1, 0) + (1 << 20), 4), 0xffffffff);
    assert_int_equal(guest_get(&f->g, PCIE_HOST_ECAM_GPA + PCIE_HOST_ECAM_SIZE - 4, 4), 0xffffffff);
    assert_int_equal(get(f, 1, 0x100, 4), 0xffffffff); /* no extended space */
    assert_int_equal(get(f, 1, 0xffc, 4), 0xffffffff);
    assert_int_equal(guest_get(&f->g, 0x03000000, 1), 0xff); /* I/O ports */
    guest_put(&f->g, guest_config_gpa(1, 0) + (1 << 20), 0, 4);
    put(f, 2, PCI_REG_COMMAND, 0xffff, 2);
}

static void bars_tell_their_size(void **state)
{
    struct fixture *f = *state;
    put(f, 1, PCI_REG_BAR0, 0xffffffff, 4);
    assert_int_equal(get(f, 1, PCI_REG_BAR0, 4), 0xfffff000);
    put(f, 1, PCI_REG_BAR0 + 8, 0xffffffff, 4);
    put(f, 1, PCI_REG_BAR0 + 12, 0xffffffff, 4);
    assert_int_equal(get(f, 1, PCI_REG_BAR0 + 8, 4), 0xffff000c);
    assert_int_equal(get(f, 1, PCI_REG_BAR0 + 12, 4), 0xffffffff);
    put(f, 1, PCI_REG_BAR0 + 4, 0xffffffff, 4);
    assert_int_equal(get(f, 1, PCI_REG_BAR0 + 4, 4), 0);
    put(f, 1, 0x30, 0xffffffff, 4); /* expansion ROM */
    assert_int_equal(get(f, 1, 0x30, 4), 0);
}

static void bars_appear_move_and_vanish(void **state)
{
    struct fixture *f = *state;
    put(f, 1, PCI_REG_BAR0, 0x40001000, 4);
    put(f, 1, PCI_REG_BAR0 + 8, 0x10000, 4);
    put(f, 1, PCI_REG_BAR0 + 12, HIGH_WINDOW >> 32, 4);
    assert_int_equal(at(f, 0x40001000), 0);
    put(f, 1, PCI_REG_COMMAND, PCI_COMMAND_MEMORY, 2);
    assert_int_equal(at(f, 0x40001000), 1);
    assert_int_equal(at(f, 0x40001ffc), 1);
    assert_int_equal(at(f, 0x40002000), 0);
    assert_int_equal(at(f, HIGH_WINDOW + 0x10000), 3);

    put(f, 1, PCI_REG_BAR0, 0x7ffff000, 4); /* the end of the window */
    assert_int_equal(at(f, 0x40001000), 0);
    assert_int_equal(at(f, 0x7ffff000), 1);
    put(f, 1, PCI_REG_BAR0 + 12, 0, 4); /* 0x10000: no window, no longer mapped */
    assert_int_equal(at(f, HIGH_WINDOW + 0x10000), 0);
    put(f, 1, PCI_REG_BAR0 + 8, 0x50000000, 4);
    assert_int_equal(at(f, 0x50000000), 3);

    put(f, 1, PCI_REG_COMMAND, 0, 2);
    assert_int_equal(at(f, 0x7ffff000), 0);
    assert_int_equal(at(f, 0x50000000), 0);
    put(f, 1, PCI_REG_COMMAND, PCI_COMMAND_MEMORY, 2);
    pci_function_reset(&f->a.function);
    assert_int_equal(at(f, 0x7ffff000), 0);
    assert_int_equal(get(f, 1, PCI_REG_BAR0, 4), 0);
}

static void bars_stay_in_the_windows(void **state)
{
    struct fixture *f = *state;
    static const uint64_t outside[] = {
        0x1000,         0x30000000,         0x3fff0000,         0x80000000,
        0x10000000,     0x7fffffffffff0000, 0xffffffffffff0000, HIGH_WINDOW - 0x10000,
        2 * HIGH_WINDOW};
    put(f, 1, PCI_REG_COMMAND, PCI_COMMAND_MEMORY, 2);
    for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
        put(f, 1, PCI_REG_BAR0 + 8, (uint32_t)outside[i], 4);
        put(f, 1, PCI_REG_BAR0 + 12, (uint32_t)(outside[i] >> 32), 4);
        assert_false(f->a.function.bars[2].io.mapped);
    }
}

/* The first to come stays; the other one is mapped as soon as the place is free. */
static void overlapping_bars_wait(void **state)
{
    struct fixture *f = *state;
    put(f, 1, PCI_REG_COMMAND, PCI_COMMAND_MEMORY, 2);
    put(f, 6, PCI_REG_COMMAND, PCI_COMMAND_MEMORY, 2);
    put(f, 6, PCI_REG_BAR0 + 8, 0x40000000, 4);
    assert_int_equal(at(f, 0x40008000), 3);
    put(f, 1, PCI_REG_BAR0, 0x40008000, 4);
    assert_int_equal(at(f, 0x40008000), 3);
    put(f, 6, PCI_REG_BAR0 + 8, 0x60000000, 4);
    assert_int_equal(at(f, 0x40008000), 1);
    assert_int_equal(at(f, 0x60008000), 3);
    put(f, 1, PCI_REG_BAR0, 0x60000000, 4);
    assert_int_equal(at(f, 0x60000000), 3);
    pci_unplug(&f->b.function);
    put(f, 1, PCI_REG_BAR0, 0x60000000, 4);
    assert_int_equal(at(f, 0x60000000), 1);
}

/* Whatever a guest writes: fixed bits stay, reads give what reads back, and a mapped BAR is
 * where its register says. */
static void hostile_writes_are_harmless(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = 5;
    for (unsigned long i = 0; i < tier_count(50000, 2000000); i++) {
        uint64_t random = random_next(&seed);
        unsigned size = 1u << (random % 3);
        unsigned slot = (random >> 2 & 1) != 0 ? 1 : 6;
        unsigned offset = (unsigned)(random >> 8) & (0xffu & ~(size - 1));
        if ((random >> 3 & 3) == 0)
            offset = PCI_REG_COMMAND & ~(size - 1);
        else if ((random >> 3 & 3) == 1)
            offset = (PCI_REG_BAR0 + ((unsigned)(random >> 16) & 15)) & ~(size - 1);
        uint32_t value = (uint32_t)random_next(&seed);
        if ((random >> 32 & 1) != 0)
            value = (value & 0x3f000) | 0x40000000;
        put(f, slot, offset, value, size);
        struct probe *const probes[] = {&f->a, &f->b};
        for (unsigned p = 0; p < 2; p++) {
            const struct pci_function *function = &probes[p]->function;
            for (unsigned b = 0; b < PCI_CONFIG_SIZE; b++)
                assert_int_equal(
                    (function->config[b] ^ function->power_on[b]) & ~function->writable[b], 0);
            const struct pci_bar *bar = &function->bars[2];
            if (bar->io.mapped)
                assert_int_equal(bar->io.gpa,
                                 load_le64(function->config + PCI_REG_BAR0 + 8) & ~(BAR2_SIZE - 1));
        }
    }
    assert_int_equal(get(f, 1, 0x48, 2), 0x000d);
    assert_true(f->a.config_writes > 0);
}

/* --- interrupts --- */

static void pins_are_swizzled_and_shared(void **state)
{
    struct fixture *f = *state;
    /* Slot 1 INTA → (1 + 0) % 4 = 1; slot 6 INTC → (6 + 2) % 4 = 0. */
    pci_set_intx(&f->a.function, true);
    assert_int_equal(f->g.irq_levels, 1 << 1);
    assert_int_equal(get(f, 1, PCI_REG_STATUS, 2), PCI_STATUS_CAPABILITIES | PCI_STATUS_INTX);
    pci_set_intx(&f->b.function, true);
    assert_int_equal(f->g.irq_levels, 1 << 1 | 1 << 0);
    pci_set_intx(&f->a.function, false);
    pci_set_intx(&f->b.function, false);
    assert_int_equal(f->g.irq_levels, 0);
    assert_int_equal(get(f, 1, PCI_REG_STATUS, 2), PCI_STATUS_CAPABILITIES);

    struct probe c; /* slot 5 INTA: shares the pin of slot 1 */
    probe_make(&f->g, &c, 5, 1);
    pci_set_intx(&f->a.function, true);
    pci_set_intx(&c.function, true);
    pci_set_intx(&f->a.function, false);
    assert_int_equal(f->g.irq_levels, 1 << 1);
    pci_unplug(&c.function);
    assert_int_equal(f->g.irq_levels, 0);
}

static void the_command_register_masks_intx(void **state)
{
    struct fixture *f = *state;
    put(f, 1, PCI_REG_COMMAND, PCI_COMMAND_NO_INTX, 2);
    pci_set_intx(&f->a.function, true);
    assert_int_equal(f->g.irq_levels, 0);
    assert_int_equal(get(f, 1, PCI_REG_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
    put(f, 1, PCI_REG_COMMAND, 0, 2);
    assert_int_equal(f->g.irq_levels, 1 << 1);
    put(f, 1, PCI_REG_COMMAND + 1, PCI_COMMAND_NO_INTX >> 8, 1);
    assert_int_equal(f->g.irq_levels, 0);
}

static void slots_are_found_or_refused(void **state)
{
    struct fixture *f = *state;
    struct pci_function others[31];
    struct error *err = NULL;
    unsigned plugged = 0;
    for (; plugged < 31; plugged++) {
        pci_function_init(&others[plugged], &(struct pci_identity){.vendor = 1});
        if (!pci_plug(f->g.env.pci, &others[plugged], PCI_SLOT_ANY, &err))
            break;
    }
    assert_int_equal(plugged, 29);
    assert_error(&err, ERROR_USAGE, "all 31 PCI slots are taken");
    assert_false(pci_plug(f->g.env.pci, &others[plugged], 6, &err));
    assert_error(&err, ERROR_USAGE, "PCI slot 6 is taken");
    assert_false(pci_plug(f->g.env.pci, &others[plugged], 32, &err));
    assert_error(&err, ERROR_USAGE, "PCI slot 32 does not exist");
    for (unsigned i = 0; i < plugged; i++)
        pci_unplug(&others[i]);
}

/* --- state --- */

static void state_survives_a_round_trip(void **state)
{
    struct fixture *f = *state;
    put(f, 1, PCI_REG_BAR0, 0x40001000, 4);
    put(f, 1, PCI_REG_COMMAND, PCI_COMMAND_MEMORY, 2);
    put(f, 1, 0x4a, 0xff, 1);
    pci_set_intx(&f->a.function, true);

    struct guest other;
    struct probe blank;
    guest_init(&other, false);
    probe_make(&other, &blank, 1, 1);
    assert_state_round_trip(&pci_function_state, &f->a.function, &blank.function);
    uint64_t value = 0;
    assert_true(mem_io_read(other.mem, 0x40001000, 4, &value));
    assert_int_equal(value, 1);
    assert_int_equal(other.irq_levels, 1 << 1);
    assert_int_equal(blank.function.config[0x4a], 0xaf);
    assert_state_round_trip(device_pcie_host.state, f->g.bridge, other.bridge);
    pci_unplug(&blank.function);
    guest_free(&other);
}

static void another_devices_state_is_refused(void **state)
{
    struct fixture *f = *state;
    struct state_buffer buffer = {0};
    struct error *err = NULL;
    size_t position = 0;
    f->a.function.config[PCI_REG_DEVICE] ^= 1;
    state_save(&pci_function_state, &f->a.function, &buffer);
    assert_false(state_restore(&pci_function_state, &f->b.function, buffer.data, buffer.size,
                               &position, &err));
    assert_error(&err, ERROR_USAGE, "another kind of PCI device");
    state_buffer_free(&buffer);
    f->a.function.config[PCI_REG_DEVICE] ^= 1;
}

/* --- device tree --- */

static uint32_t cell(const void *fdt, int node, const char *name, unsigned index)
{
    int length;
    const fdt32_t *cells = fdt_getprop(fdt, node, name, &length);
    assert_non_null(cells);
    assert_true((int)(4 * index) < length);
    return fdt32_to_cpu(cells[index]);
}

static void the_device_tree_describes_the_bridge(void **state)
{
    struct fixture *f = *state;
    uint8_t fdt[8192];
    assert_int_equal(fdt_create(fdt, sizeof(fdt)), 0);
    assert_int_equal(fdt_finish_reservemap(fdt), 0);
    assert_int_equal(fdt_begin_node(fdt, ""), 0);
    assert_true(device_pcie_host.fdt(f->g.bridge, fdt));
    assert_int_equal(fdt_end_node(fdt), 0);
    assert_int_equal(fdt_finish(fdt), 0);

    int node = fdt_path_offset(fdt, "/pci@30000000");
    assert_true(node >= 0);
    assert_int_equal(fdt_node_check_compatible(fdt, node, "pci-host-ecam-generic"), 0);
    assert_int_equal(cell(fdt, node, "reg", 1), 0x30000000);
    assert_int_equal(cell(fdt, node, "reg", 3), 0x10000000);
    assert_int_equal(cell(fdt, node, "bus-range", 1), 255);
    static const uint32_t ranges[] = {0x01000000, 0, 0,          0, 0x03000000, 0, 0x10000,
                                      0x02000000, 0, 0x40000000, 0, 0x40000000, 0, 0x40000000,
                                      0x03000000, 4, 0,          4, 0,          4, 0};
    for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++)
        assert_int_equal(cell(fdt, node, "ranges", i), ranges[i]);
    static const uint32_t mask[] = {0x1800, 0, 0, 7};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(cell(fdt, node, "interrupt-map-mask", i), mask[i]);
    for (unsigned slot = 0; slot < 4; slot++) {
        for (unsigned pin = 1; pin <= 4; pin++) {
            const uint32_t entry[] = {slot << 11, 0, 0, pin, 3, 32 + (slot + pin - 1) % 4};
            for (unsigned i = 0; i < 6; i++)
                assert_int_equal(cell(fdt, node, "interrupt-map", 6 * (4 * slot + pin - 1) + i),
                                 entry[i]);
        }
    }

    uint8_t small[64];
    assert_int_equal(fdt_create(small, sizeof(small)), 0);
    assert_int_equal(fdt_finish_reservemap(small), 0);
    assert_false(device_pcie_host.fdt(f->g.bridge, small));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_header_is_as_declared),
        TEST(what_is_absent_reads_as_ones),
        TEST(bars_tell_their_size),
        TEST(bars_appear_move_and_vanish),
        TEST(bars_stay_in_the_windows),
        TEST(overlapping_bars_wait),
        TEST(hostile_writes_are_harmless),
        TEST(pins_are_swizzled_and_shared),
        TEST(the_command_register_masks_intx),
        TEST(slots_are_found_or_refused),
        TEST(state_survives_a_round_trip),
        TEST(another_devices_state_is_refused),
        TEST(the_device_tree_describes_the_bridge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
