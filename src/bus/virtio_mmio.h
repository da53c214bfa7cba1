/* SPDX-License-Identifier: MIT
 *
 * The memory-mapped transport of virtio devices (virtio 1.2, 4.2), version 2: a page of registers
 * and one wire for each device, for machines without PCI. A board that has slots for such devices
 * says so in device_env.virtio_slots; dev/virtio_slots.c describes to the guest what is in them.
 * Part of bus/virtio_transport.h.
 *
 * Threads: slots are taken and given back while the machine is quiesced.
 */
#ifndef TRAPEZE_BUS_VIRTIO_MMIO_H
#define TRAPEZE_BUS_VIRTIO_MMIO_H

#include <stdbool.h>
#include <stdint.h>

#include "bus/line.h"
#include "mem/mem.h"

#define VIRTIO_SLOT_COUNT 32
#define VIRTIO_SLOT_SIZE  UINT64_C(0x1000)

/* Slot n: registers at gpa + n * VIRTIO_SLOT_SIZE, input irq.input + n of the same sink. */
struct virtio_slots {
    uint64_t gpa;
    struct irq_line irq;
    uint32_t taken; /* bit for each */
};

struct virtio_mmio {
    struct mem_io io;
    struct irq_line irq;
    unsigned slot;
};

#endif
