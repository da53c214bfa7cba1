/* SPDX-License-Identifier: MIT
 *
 * A row of places for virtio devices beside each other in guest-physical memory
 * (bus/virtio_mmio.h). The device tree and ACPI name those that are taken: an empty one would only
 * cost each guest a look.
 *
 * Where a board has fewer inputs than slots, several slots share one, which is high while any of
 * them is: a device keeps its line up until the driver has acknowledged, so the interrupt has to be
 * a level.
 *
 * params: gpa, irq (of the first input), irq_number, irq_phandle; shared_irqs, inputs.
 *
 * Lock: device.lock guards `raised`, and is held while the controller is told.
 */
#include "dev/virtio_slots.h"

#include <stdio.h>

#include "base/bits.h"
#include "base/state.h"
#include "bus/aml.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "bus/virtio_mmio.h"

struct slots {
    struct device device;
    struct virtio_slots slots;
    struct irq_line irq; /* the controller's; its input is the first slot's, if there is no list */
    unsigned irq_number;
    uint32_t irq_phandle;
    const uint8_t *shared_irqs;
    unsigned shared_count;
    uint32_t raised; /* bit for each slot */
};

struct virtio_slots *virtio_slots_of(struct device *device)
{
    return &CONTAINER_OF(device, struct slots, device)->slots;
}

static unsigned number_of(const struct slots *slots, unsigned slot)
{
    return slots->shared_irqs != NULL ? slots->shared_irqs[slot % slots->shared_count]
                                      : slots->irq_number + slot;
}

/* Those that have the same input as this one, itself as well. */
static uint32_t sharers(const struct slots *slots, unsigned slot)
{
    uint32_t mask = 0;
    if (slots->shared_irqs == NULL)
        return UINT32_C(1) << slot;
    for (unsigned i = slot % slots->shared_count; i < VIRTIO_SLOT_COUNT; i += slots->shared_count)
        mask |= UINT32_C(1) << i;
    return mask;
}

static void set_slot(void *opaque, unsigned slot, bool level)
{
    struct slots *slots = opaque;
    struct irq_line line = slots->irq;
    line.input += number_of(slots, slot) - slots->irq_number;
    pthread_mutex_lock(&slots->device.lock);
    uint32_t bit = UINT32_C(1) << slot;
    slots->raised = level ? slots->raised | bit : slots->raised & ~bit;
    irq_line_set(&line, (slots->raised & sharers(slots, slot)) != 0);
    pthread_mutex_unlock(&slots->device.lock);
}

static bool slots_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    struct slots *slots = CONTAINER_OF(device, struct slots, device);
    (void)err;
    slots->slots.gpa = params->gpa;
    irq_line_bind(&slots->slots.irq, set_slot, slots, 0);
    slots->irq = params->irq;
    slots->irq_number = params->irq_number;
    slots->irq_phandle = params->irq_phandle;
    slots->shared_irqs = params->shared_irqs;
    slots->shared_count = params->inputs;
    return true;
}

static void slots_reset(struct device *device)
{
    (void)device; /* what is in them is reset by itself, and lowers its line */
}

bool virtio_slot_at(struct device *device, unsigned slot, struct virtio_slot *place)
{
    const struct slots *slots = CONTAINER_OF(device, struct slots, device);
    if ((slots->slots.taken & UINT32_C(1) << slot) == 0)
        return false;
    place->gpa = slots->slots.gpa + slot * VIRTIO_SLOT_SIZE;
    place->irq = number_of(slots, slot);
    place->shared = (sharers(slots, slot) & slots->slots.taken) != UINT32_C(1) << slot;
    return true;
}

static bool slots_fdt(struct device *device, void *fdt)
{
    const struct slots *slots = CONTAINER_OF(device, struct slots, device);
    struct virtio_slot place;
    int error = 0;
    for (unsigned i = 0; i < VIRTIO_SLOT_COUNT; i++) {
        if (!virtio_slot_at(device, i, &place))
            continue;
        error |= fdt_begin_unit(fdt, "virtio_mmio", place.gpa);
        error |= fdt_put_string(fdt, "compatible", "virtio,mmio");
        error |= fdt_put_reg(fdt, place.gpa, VIRTIO_SLOT_SIZE);
        error |= fdt_put_interrupt(fdt, slots->irq_phandle, place.irq);
        error |= fdt_put_empty(fdt, "dma-coherent");
        error |= fdt_end_node(fdt);
    }
    return error == 0;
}

static void slots_acpi(struct device *device, struct aml *aml)
{
    struct virtio_slot place;
    char name[8];
    for (unsigned i = 0; i < VIRTIO_SLOT_COUNT; i++) {
        if (!virtio_slot_at(device, i, &place))
            continue;
        snprintf(name, sizeof(name), "VR%02X", i & 0xff);
        aml_device_begin(aml, name);
        aml_name_text(aml, "_HID", "LNRO0005"); /* as Linux' driver knows it */
        aml_name_integer(aml, "_UID", i);
        aml_name_integer(aml, "_CCA", 1); /* its DMA is coherent */
        aml_resources_begin(aml, "_CRS");
        aml_memory(aml, (uint32_t)place.gpa, VIRTIO_SLOT_SIZE);
        aml_interrupt(aml, place.irq, place.shared ? AML_LEVEL_SHARED : AML_LEVEL);
        aml_resources_end(aml);
        aml_end(aml);
    }
}

static const struct state_field slots_fields[] = {STATE_END};
static const struct state_table slots_state = {"virtio-slots", 1, slots_fields, NULL, NULL};

const struct device_ops device_virtio_slots = {
    .name = "virtio-slots",
    .size = sizeof(struct slots),
    .realize = slots_realize,
    .reset = slots_reset,
    .fdt = slots_fdt,
    .acpi = slots_acpi,
    .state = &slots_state,
};
