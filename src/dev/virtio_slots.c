/* SPDX-License-Identifier: MIT
 *
 * A row of places for virtio devices beside each other in guest-physical memory
 * (bus/virtio_mmio.h). The device tree names those that are taken: an empty one would only cost
 * each guest a look.
 *
 * params: gpa, irq (of the first; the others' follow), irq_number, irq_phandle.
 */
#include "dev/virtio_slots.h"

#include "base/bits.h"
#include "base/state.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "bus/virtio_mmio.h"

struct slots {
    struct device device;
    struct virtio_slots slots;
    unsigned irq_number;
    uint32_t irq_phandle;
};

struct virtio_slots *virtio_slots_of(struct device *device)
{
    return &CONTAINER_OF(device, struct slots, device)->slots;
}

static bool slots_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    struct slots *slots = CONTAINER_OF(device, struct slots, device);
    (void)err;
    slots->slots = (struct virtio_slots){.gpa = params->gpa, .irq = params->irq};
    slots->irq_number = params->irq_number;
    slots->irq_phandle = params->irq_phandle;
    return true;
}

static void slots_reset(struct device *device)
{
    (void)device; /* what is in them is reset by itself */
}

static bool slots_fdt(struct device *device, void *fdt)
{
    const struct slots *slots = CONTAINER_OF(device, struct slots, device);
    int error = 0;
    for (unsigned i = 0; i < VIRTIO_SLOT_COUNT; i++) {
        if ((slots->slots.taken & 1u << i) == 0)
            continue;
        uint64_t gpa = slots->slots.gpa + i * VIRTIO_SLOT_SIZE;
        error |= fdt_begin_unit(fdt, "virtio_mmio", gpa);
        error |= fdt_put_string(fdt, "compatible", "virtio,mmio");
        error |= fdt_put_reg(fdt, gpa, VIRTIO_SLOT_SIZE);
        error |= fdt_put_interrupt(fdt, slots->irq_phandle, slots->irq_number + i);
        error |= fdt_put_empty(fdt, "dma-coherent");
        error |= fdt_end_node(fdt);
    }
    return error == 0;
}

static const struct state_field slots_fields[] = {STATE_END};
static const struct state_table slots_state = {"virtio-slots", 1, slots_fields, NULL, NULL};

const struct device_ops device_virtio_slots = {
    .name = "virtio-slots",
    .size = sizeof(struct slots),
    .realize = slots_realize,
    .reset = slots_reset,
    .fdt = slots_fdt,
    .state = &slots_state,
};
