/* SPDX-License-Identifier: MIT
 *
 * A machine with a PCIe host bridge and one virtio device, and a driver for it that reaches
 * the device as a vCPU would: through ECAM, the BAR and rings in memory. For tests and fuzz
 * targets.
 *
 *     guest_init(&g, false);
 *     guest_plug(&g, &device_virtio_rng, &params);
 *     guest_start(&g, features);          // negotiates, sets up all queues, DRIVER_OK
 *     ring_desc(&g.rings[0], ...); ring_offer(&g.rings[0], 0); guest_notify(&g, 0);
 *     guest_pump(&g);                     // runs the event loop until it has nothing to do
 */
#ifndef TRAPEZE_TESTS_VIRTIO_GUEST_H
#define TRAPEZE_TESTS_VIRTIO_GUEST_H

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/vclock.h"
#include "bus/virtio_transport.h"
#include "dev/pcie_host.h"
#include "ring.h"

extern const struct device_ops device_pcie_host, device_virtio_blk, device_virtio_console,
    device_virtio_balloon, device_virtio_input, device_virtio_net, device_virtio_rng,
    device_virtio_scsi;

#define GUEST_RAM      UINT64_C(0x80000000)
#define GUEST_RAM_SIZE UINT64_C(0x200000)
#define GUEST_BAR      UINT64_C(0x40000000)
#define GUEST_RING(n)  (GUEST_RAM + (n)*UINT64_C(0x4000)) /* rings[n] */
#define GUEST_DATA     GUEST_RING(VIRTIO_QUEUE_MAX)

/* Registers of the BAR (virtio 1.2, 4.1.4.3), as this device lays them out. */
enum {
    REG_OFFERED_SELECT = 0x00,
    REG_OFFERED = 0x04,
    REG_ACCEPTED_SELECT = 0x08,
    REG_ACCEPTED = 0x0c,
    REG_QUEUE_COUNT = 0x12,
    REG_STATUS = 0x14,
    REG_GENERATION = 0x15,
    REG_QUEUE_SELECT = 0x16,
    REG_QUEUE_SIZE = 0x18,
    REG_QUEUE_ENABLE = 0x1c,
    REG_QUEUE_DESC = 0x20,
    REG_QUEUE_AVAIL = 0x28,
    REG_QUEUE_USED = 0x30,
    REG_QUEUE_RESET = 0x3a,
    REG_ISR = 0x1000,
    REG_CONFIG = 0x2000,
    REG_NOTIFY = 0x3000
};

struct guest {
    struct mem_space *mem;
    struct loop *loop;
    struct log log;
    struct entropy entropy;
    uint8_t entropy_next;
    struct device_env env;
    struct device *bridge, *device;
    struct virtio_slots slots; /* in use after guest_without_pci() */
    unsigned slot;
    unsigned irq_levels; /* bit n: interrupt-controller input 32 + n */
    struct ring rings[VIRTIO_QUEUE_MAX];
};

/* Bytes 1, 2, 3 ... so that a test sees what was filled. */
static inline void guest_entropy_fill(struct entropy *entropy, void *data, size_t size)
{
    struct guest *g = CONTAINER_OF(entropy, struct guest, entropy);
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)data)[i] = ++g->entropy_next;
}

static inline void guest_irq(void *sink, unsigned input, bool level)
{
    struct guest *g = sink;
    assert(input >= 32 && input < 64);
    g->irq_levels = (unsigned)bits_set(g->irq_levels, input - 32, 1, level);
}

static inline void guest_init(struct guest *g, bool deterministic)
{
    memset(g, 0, sizeof(*g));
    g->mem = mem_space_new();
    struct mem_ram *ram =
        mem_add_ram(g->mem, "ram", GUEST_RAM, GUEST_RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, NULL);
    assert(ram != NULL);
    (void)ram;
    log_init(&g->log, LOG_LEVEL_ERROR, 2, "test"); /* guest faults are warnings: not shown */
    g->loop = loop_new(NULL);
    g->entropy.fill = guest_entropy_fill;
    g->env =
        (struct device_env){.mem = g->mem,
                            .clock = vclock_new(deterministic ? VCLOCK_COUNTED : VCLOCK_REAL, 0),
                            .loop = g->loop,
                            .log = &g->log,
                            .entropy = &g->entropy,
                            .deterministic = deterministic};
    vclock_resume(g->env.clock);
    struct device_params params = {
        .id = "pcie0", .gpa = PCIE_HOST_ECAM_GPA, .irq_number = 32, .irq_phandle = 3};
    irq_line_bind(&params.irq, guest_irq, g, 32);
    g->bridge = device_new(&device_pcie_host, &g->env, &params, NULL);
    assert(g->bridge != NULL);
    g->env.pci = pcie_host_bus(g->bridge);
}

/* The device will have registers of the MMIO transport, and everything below means those: the ISR
 * is acknowledged when it is read, a queue's size reads as the largest that it can have. */
static inline void guest_without_pci(struct guest *g)
{
    g->slots.gpa = GUEST_BAR;
    irq_line_bind(&g->slots.irq, guest_irq, g, 32);
    g->env.virtio_slots = &g->slots;
}

static inline void guest_plug(struct guest *g, const struct device_ops *ops,
                              const struct device_params *params)
{
    g->device = device_new(ops, &g->env, params, NULL);
    assert(g->device != NULL);
    g->slot = params->pci_slot != 0 ? params->pci_slot : 1;
}

static inline void guest_free(struct guest *g)
{
    device_free(g->device);
    device_free(g->bridge);
    vclock_free(g->env.clock);
    loop_free(g->loop);
    mem_space_free(g->mem);
}

static inline struct virtio_transport *guest_virtio(struct guest *g)
{
    return CONTAINER_OF(g->device, struct virtio_transport, device);
}

/* --- accesses --- */

static inline uint32_t guest_get(struct guest *g, uint64_t gpa, unsigned size)
{
    uint64_t value = 0;
    bool found = mem_io_read(g->mem, gpa, size, &value);
    assert(found);
    (void)found;
    return (uint32_t)value;
}

static inline void guest_put(struct guest *g, uint64_t gpa, uint64_t value, unsigned size)
{
    bool found = mem_io_write(g->mem, gpa, size, value);
    assert(found);
    (void)found;
}

static inline uint64_t guest_config_gpa(unsigned slot, unsigned offset)
{
    return PCIE_HOST_ECAM_GPA + (slot << 15) + offset;
}

static inline uint32_t guest_config_get(struct guest *g, unsigned offset, unsigned size)
{
    return guest_get(g, guest_config_gpa(g->slot, offset), size);
}

static inline void guest_config_put(struct guest *g, unsigned offset, uint32_t value, unsigned size)
{
    guest_put(g, guest_config_gpa(g->slot, offset), value, size);
}

/* Where the MMIO transport (4.2.2) has a register of the BAR, and its width there. */
static inline unsigned guest_mmio_reg(unsigned reg, bool write, unsigned *size)
{
    if (reg >= REG_CONFIG && reg < REG_NOTIFY)
        return 0x100 + reg - REG_CONFIG;
    *size = 4;
    if (reg >= REG_NOTIFY)
        return 0x50;
    switch (reg) {
    case REG_OFFERED_SELECT:
        return 0x14;
    case REG_OFFERED:
        return 0x10;
    case REG_ACCEPTED_SELECT:
        return 0x24;
    case REG_ACCEPTED:
        return 0x20;
    case REG_STATUS:
        return 0x70;
    case REG_GENERATION:
        return 0xfc;
    case REG_QUEUE_SELECT:
        return 0x30;
    case REG_QUEUE_SIZE:
        return write ? 0x38 : 0x34;
    case REG_QUEUE_ENABLE:
        return 0x44;
    case REG_QUEUE_RESET:
        return 0xc0;
    case REG_ISR:
        return 0x60;
    default:
        assert(reg >= REG_QUEUE_DESC && reg < REG_QUEUE_USED + 8);
        return 0x80 + (reg - REG_QUEUE_DESC) / 8 * 16 + (reg & 4);
    }
}

static inline uint32_t guest_reg(struct guest *g, unsigned reg, unsigned size)
{
    if (g->env.virtio_slots == NULL)
        return guest_get(g, GUEST_BAR + reg, size);
    if (reg == REG_QUEUE_COUNT) {
        unsigned count = 0;
        do
            guest_put(g, GUEST_BAR + 0x30, count, 4);
        while (guest_get(g, GUEST_BAR + 0x34, 4) != 0 && ++count > 0);
        return count;
    }
    unsigned at = guest_mmio_reg(reg, false, &size);
    uint32_t value = guest_get(g, GUEST_BAR + at, size);
    if (reg == REG_ISR)
        guest_put(g, GUEST_BAR + 0x64, value, 4);
    return value;
}

static inline void guest_set_reg(struct guest *g, unsigned reg, uint64_t value, unsigned size)
{
    if (g->env.virtio_slots != NULL)
        reg = guest_mmio_reg(reg, true, &size);
    guest_put(g, GUEST_BAR + reg, value, size);
}

static inline uint8_t guest_isr(struct guest *g)
{
    return (uint8_t)guest_reg(g, REG_ISR, 1);
}

static inline void guest_notify(struct guest *g, unsigned queue)
{
    guest_set_reg(g, REG_NOTIFY + 4 * queue, queue, 2);
}

/* --- the driver --- */

static inline void guest_map_bar(struct guest *g)
{
    if (g->env.virtio_slots != NULL)
        return;
    guest_config_put(g, PCI_REG_BAR0, (uint32_t)GUEST_BAR, 4);
    guest_config_put(g, PCI_REG_BAR0 + 4, (uint32_t)(GUEST_BAR >> 32), 4);
    guest_config_put(g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

static inline uint64_t guest_offered(struct guest *g)
{
    guest_set_reg(g, REG_OFFERED_SELECT, 1, 4);
    uint64_t high = guest_reg(g, REG_OFFERED, 4);
    guest_set_reg(g, REG_OFFERED_SELECT, 0, 4);
    return high << 32 | guest_reg(g, REG_OFFERED, 4);
}

static inline void guest_accept(struct guest *g, uint64_t features)
{
    for (unsigned half = 0; half < 2; half++) {
        guest_set_reg(g, REG_ACCEPTED_SELECT, half, 4);
        guest_set_reg(g, REG_ACCEPTED, (uint32_t)(features >> (32 * half)), 4);
    }
}

static inline void guest_set_queue(struct guest *g, unsigned queue, const struct ring *ring)
{
    guest_set_reg(g, REG_QUEUE_SELECT, queue, 2);
    guest_set_reg(g, REG_QUEUE_SIZE, ring->size, 2);
    const uint64_t addresses[] = {ring->desc, ring->avail, ring->used};
    for (unsigned i = 0; i < 3; i++) {
        guest_set_reg(g, REG_QUEUE_DESC + 8 * i, (uint32_t)addresses[i], 4);
        guest_set_reg(g, REG_QUEUE_DESC + 8 * i + 4, addresses[i] >> 32, 4);
    }
    guest_set_reg(g, REG_QUEUE_ENABLE, 1, 2);
}

static inline void guest_quit_loop(void *opaque)
{
    loop_quit(opaque, 0);
}

/* Everything posted before this has run when it returns. */
static inline void guest_pump(struct guest *g)
{
    loop_post(g->loop, guest_quit_loop, g->loop);
    loop_run(g->loop);
}

/* A little time goes by for the device. */
static inline void guest_wait(struct guest *g)
{
    if (g->env.deterministic)
        vclock_advance(g->env.clock, 1000000);
    else
        guest_pump(g);
    vclock_run_timers(g->env.clock);
}

/* As a driver has to (virtio 1.2, 2.4.2): what is in flight ends first. */
static inline void guest_reset(struct guest *g)
{
    guest_set_reg(g, REG_STATUS, 0, 1);
    while (guest_reg(g, REG_STATUS, 1) != 0)
        guest_wait(g);
}

/* Everything up to FEATURES_OK; returns whether the device agreed. */
static inline bool guest_negotiate(struct guest *g, uint64_t features)
{
    guest_map_bar(g);
    guest_reset(g);
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
    guest_set_reg(g, REG_STATUS, status, 1);
    guest_accept(g, features);
    guest_set_reg(g, REG_STATUS, status | VIRTIO_STATUS_FEATURES_OK, 1);
    return (guest_reg(g, REG_STATUS, 1) & VIRTIO_STATUS_FEATURES_OK) != 0;
}

static inline void guest_driver_ok(struct guest *g)
{
    guest_set_reg(g, REG_STATUS, guest_reg(g, REG_STATUS, 1) | VIRTIO_STATUS_DRIVER_OK, 1);
}

static inline void guest_start(struct guest *g, uint64_t features)
{
    bool agreed = guest_negotiate(g, features | VIRTIO_F_VERSION_1);
    assert(agreed);
    (void)agreed;
    unsigned count = guest_reg(g, REG_QUEUE_COUNT, 2);
    for (unsigned i = 0; i < count; i++) {
        guest_set_reg(g, REG_QUEUE_SELECT, i, 2);
        g->rings[i] = ring_at(g->mem, GUEST_RING(i), (uint16_t)guest_reg(g, REG_QUEUE_SIZE, 2));
        memset(mem_ram_pointer(g->mem, GUEST_RING(i), RING_BYTES, MEM_WRITE), 0, RING_BYTES);
        guest_set_queue(g, i, &g->rings[i]);
    }
    guest_driver_ok(g);
}

#endif
