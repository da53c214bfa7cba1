/* SPDX-License-Identifier: MIT
 *
 * The generation of a virtual machine (Microsoft, "Virtual Machine Generation ID"; device tree
 * binding microsoft,vmgenid): sixteen bytes that are others when the machine is one that has been
 * before, a clone or one that was restored, and an interrupt that says so. Linux reseeds its random
 * numbers from them, and sends the uevent NEW_VMGENID=1.
 *
 * The line is high from a change until the bytes are read, so that no acknowledgement is needed, of
 * which the binding has none.
 *
 * params: gpa, irq, irq_number, irq_phandle, generation.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/aml.h"
#include "bus/backend.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "mem/mem.h"

#define REGION_SIZE 0x1000

enum { ID_SIZE = 16 };

struct vmgenid {
    struct device device;
    struct mem_io io;
    struct irq_line irq;
    unsigned irq_number;
    uint32_t irq_phandle;

    uint8_t id[ID_SIZE];
    bool changed; /* and not read since */
};

static void set_changed(struct vmgenid *genid, bool changed)
{
    genid->changed = changed;
    irq_line_set(&genid->irq, changed);
}

static uint64_t vmgenid_read(void *opaque, uint64_t offset, unsigned size)
{
    struct vmgenid *genid = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&genid->device.lock);
    for (unsigned i = 0; i < size && offset + i < ID_SIZE; i++)
        value |= (uint64_t)genid->id[offset + i] << (8 * i);
    if (offset < ID_SIZE && genid->changed)
        set_changed(genid, false);
    pthread_mutex_unlock(&genid->device.lock);
    return value;
}

static void vmgenid_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    (void)opaque, (void)offset, (void)value, (void)size; /* read-only */
}

static const struct mem_io_ops io_ops = {vmgenid_read, vmgenid_write, 1, 8};

static void renew(void *device)
{
    struct vmgenid *genid = CONTAINER_OF(device, struct vmgenid, device);
    struct entropy *entropy = genid->device.env->entropy;
    pthread_mutex_lock(&genid->device.lock);
    entropy->fill(entropy, genid->id, sizeof(genid->id));
    set_changed(genid, true);
    pthread_mutex_unlock(&genid->device.lock);
}

/* The same machine starts again: that is no other generation. */
static void vmgenid_reset(struct device *device)
{
    struct vmgenid *genid = CONTAINER_OF(device, struct vmgenid, device);
    set_changed(genid, false);
}

static bool vmgenid_realize(struct device *device, const struct device_params *params,
                            struct error **err)
{
    struct vmgenid *genid = CONTAINER_OF(device, struct vmgenid, device);
    genid->irq = params->irq;
    genid->irq_number = params->irq_number;
    genid->irq_phandle = params->irq_phandle;
    genid->io = (struct mem_io){.name = "vmgenid",
                                .gpa = params->gpa,
                                .size = REGION_SIZE,
                                .ops = &io_ops,
                                .opaque = genid};
    if (!mem_io_add(device->env->mem, &genid->io))
        return error_set(err, ERROR_INTERNAL, "its registers overlap another device's");
    device->env->entropy->fill(device->env->entropy, genid->id, sizeof(genid->id));
    if (params->generation != NULL)
        *params->generation = (struct generation){renew, device};
    return true;
}

static void vmgenid_unrealize(struct device *device)
{
    struct vmgenid *genid = CONTAINER_OF(device, struct vmgenid, device);
    mem_io_remove(device->env->mem, &genid->io);
}

static bool vmgenid_fdt(struct device *device, void *fdt)
{
    struct vmgenid *genid = CONTAINER_OF(device, struct vmgenid, device);
    int error = fdt_begin_unit(fdt, "rng", genid->io.gpa); /* as the binding's example has it */
    error |= fdt_put_string(fdt, "compatible", "microsoft,vmgenid");
    error |= fdt_put_reg(fdt, genid->io.gpa, ID_SIZE);
    error |= fdt_put_interrupt(fdt, genid->irq_phandle, genid->irq_number);
    error |= fdt_end_node(fdt);
    return error == 0;
}

/* ACPI's form (Microsoft, as above). Fixed hardware has no interrupt for it, so it brings a generic
 * event device, to which a change of the line is the event (ACPI 6.5, 5.6.9). */
static void vmgenid_acpi(struct device *device, struct aml *aml)
{
    enum { GENERATION_CHANGED = 0x80 };
    struct vmgenid *genid = CONTAINER_OF(device, struct vmgenid, device);
    aml_device_begin(aml, "VGEN");
    aml_name_text(aml, "_HID", "TRPZ0001");
    aml_name_text(aml, "_CID", "VM_GEN_COUNTER"); /* Linux looks at the case */
    aml_name_text(aml, "_DDN", "VM_Gen_Counter");
    aml_name(aml, "ADDR");
    aml_package_begin(aml, 2);
    aml_integer(aml, (uint32_t)genid->io.gpa);
    aml_integer(aml, genid->io.gpa >> 32);
    aml_end(aml);
    aml_end(aml);
    aml_device_begin(aml, "VGED");
    aml_name_text(aml, "_HID", "ACPI0013");
    aml_name_text(aml, "_UID", "VGEN");
    aml_resources_begin(aml, "_CRS");
    aml_interrupt(aml, genid->irq_number, AML_EDGE);
    aml_resources_end(aml);
    aml_method_begin(aml, "_EVT", 1);
    aml_op(aml, AML_NOTIFY);
    aml_reference(aml, "\\_SB.VGEN");
    aml_integer(aml, GENERATION_CHANGED);
    aml_end(aml);
    aml_end(aml);
}

static bool vmgenid_restored(void *object, struct error **err)
{
    struct vmgenid *genid = object;
    (void)err;
    set_changed(genid, genid->changed);
    return true;
}

static const struct state_field vmgenid_fields[] = {
    STATE_BYTES(struct vmgenid, id, "id"),
    STATE_BOOL(struct vmgenid, changed, "changed"),
    STATE_END,
};
static const struct state_table vmgenid_state = {"vmgenid", 1, vmgenid_fields, NULL,
                                                 vmgenid_restored};

const struct device_ops device_vmgenid = {
    .name = "vmgenid",
    .size = sizeof(struct vmgenid),
    .realize = vmgenid_realize,
    .unrealize = vmgenid_unrealize,
    .reset = vmgenid_reset,
    .fdt = vmgenid_fdt,
    .acpi = vmgenid_acpi,
    .state = &vmgenid_state,
};
