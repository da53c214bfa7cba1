/* SPDX-License-Identifier: MIT
 *
 * What firmware for a PC looks for beside a host bridge, as far as it does: Intel's PIIX (data
 * sheets 290550 and 290562) with its bridge to ISA, by which firmware finds the serial port, and
 * the function with the power-management registers' address, which is fixed here. In front of both
 * the ports by which configuration space was reached before there was ECAM (PCI Local
 * Bus 3.0, 3.2.2.3.2), with the reset control register among them.
 *
 * params: io_port (the power-management registers', dev/acpi_pm.c), pci_slot.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/device.h"
#include "bus/pci.h"
#include "mem/mem.h"

enum {
    CONFIG_PORT = 0xcf8, /* the address; four ports of data behind it */
    CONFIG_DATA = 4,
    RESET_CONTROL = 1,
    PORTS = 8
};
#define ADDRESS_ENABLE UINT32_C(0x80000000)
enum { RESET_HARD = 1 << 1, RESET_NOW = 1 << 2 };
enum { PM_FUNCTION = 3, PM_BASE = 0x40, PM_BASE_IS_IO = 1, PM_MISC = 0x80, PM_MISC_ENABLED = 1 };
/* Where SMIs by port are switched on. They seem to be, as there is no system management mode:
 * SeaBIOS then takes it as set up, else it would wait for its answer. */
enum { PM_DEVICES = 0x58, PM_DEVICES_SMI = 1 << 25 };

struct piix {
    struct device device;
    struct mem_io io;
    struct pci_function isa, pm;
    uint32_t address;
    uint8_t reset_control;
};

static uint32_t address_of(struct piix *piix)
{
    pthread_mutex_lock(&piix->device.lock);
    uint32_t address = piix->address;
    pthread_mutex_unlock(&piix->device.lock);
    return address;
}

/* The bus's lock comes before a device's. */
static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
    struct piix *piix = opaque;
    uint32_t address = address_of(piix);
    if (offset >= CONFIG_DATA)
        return (address & ADDRESS_ENABLE) == 0
                   ? UINT32_MAX
                   : pci_config_read(piix->device.env->pci, (uint16_t)(address >> 8),
                                     (address & 0xfc) + (unsigned)offset - CONFIG_DATA, size);
    if (size == 4)
        return address;
    return size == 1 && offset == RESET_CONTROL ? piix->reset_control : UINT32_MAX;
}

static void write_reset_control(struct piix *piix, uint8_t value)
{
    const struct device_env *env = piix->device.env;
    bool now = (value & RESET_NOW) != 0;
    pthread_mutex_lock(&piix->device.lock);
    piix->reset_control = value & RESET_HARD;
    pthread_mutex_unlock(&piix->device.lock);
    if (now)
        env->power(env->machine, DEVICE_POWER_RESET, 0);
}

static void ports_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct piix *piix = opaque;
    uint32_t address = address_of(piix);
    if (offset >= CONFIG_DATA) {
        if ((address & ADDRESS_ENABLE) != 0)
            pci_config_write(piix->device.env->pci, (uint16_t)(address >> 8),
                             (address & 0xfc) + (unsigned)offset - CONFIG_DATA, (uint32_t)value,
                             size);
    } else if (size == 4) {
        pthread_mutex_lock(&piix->device.lock);
        piix->address = (uint32_t)value;
        pthread_mutex_unlock(&piix->device.lock);
    } else if (size == 1 && offset == RESET_CONTROL) {
        write_reset_control(piix, (uint8_t)value);
    }
}

static const struct mem_io_ops ports_ops = {ports_read, ports_write, 1, 4};

static void make_functions(struct piix *piix, uint16_t pm_port)
{
    pci_function_init(&piix->isa, &(struct pci_identity){.vendor = 0x8086,
                                                         .device = 0x7000,
                                                         .subsystem_vendor = 0x1af4,
                                                         .subsystem = 0x1100,
                                                         .class_code = 0x060100,
                                                         .multifunction = true});
    pci_function_init(&piix->pm, &(struct pci_identity){.vendor = 0x8086,
                                                        .device = 0x7113,
                                                        .revision = 3,
                                                        .subsystem_vendor = 0x1af4,
                                                        .subsystem = 0x1100,
                                                        .class_code = 0x068000});
    pci_register_add(&piix->pm, PM_BASE, pm_port | PM_BASE_IS_IO, 0);
    pci_register_add(&piix->pm, PM_DEVICES, PM_DEVICES_SMI, 0);
    pci_register_add(&piix->pm, PM_MISC, PM_MISC_ENABLED, 0);
}

static void piix_unrealize(struct device *device)
{
    struct piix *piix = CONTAINER_OF(device, struct piix, device);
    pci_unplug(&piix->pm);
    pci_unplug(&piix->isa);
    mem_io_remove(device->env->ports, &piix->io);
}

static bool piix_realize(struct device *device, const struct device_params *params,
                         struct error **err)
{
    struct piix *piix = CONTAINER_OF(device, struct piix, device);
    make_functions(piix, (uint16_t)params->io_port);
    if (!pci_plug(device->env->pci, &piix->isa, params->pci_slot, err))
        return false;
    pci_plug_further(device->env->pci, &piix->pm, &piix->isa, PM_FUNCTION);
    piix->io = (struct mem_io){
        .name = "pci-config", .gpa = CONFIG_PORT, .size = PORTS, .ops = &ports_ops, .opaque = piix};
    if (mem_io_add(device->env->ports, &piix->io))
        return true;
    piix_unrealize(device);
    return error_set(err, ERROR_INTERNAL, "its ports overlap another device's");
}

static void piix_reset(struct device *device)
{
    struct piix *piix = CONTAINER_OF(device, struct piix, device);
    pci_function_reset(&piix->isa);
    pci_function_reset(&piix->pm);
    piix->address = 0;
    piix->reset_control = 0;
}

static bool piix_restored(void *object, struct error **err)
{
    struct piix *piix = object;
    (void)err;
    piix->reset_control &= RESET_HARD;
    return true;
}

static const struct state_field piix_fields[] = {
    STATE_STRUCT(struct piix, isa, "isa", &pci_function_state),
    STATE_STRUCT(struct piix, pm, "pm", &pci_function_state),
    STATE_UINT(struct piix, address, "address"),
    STATE_UINT(struct piix, reset_control, "reset-control"),
    STATE_END,
};
static const struct state_table piix_state = {"piix", 1, piix_fields, NULL, piix_restored};

const struct device_ops device_piix = {
    .name = "piix",
    .size = sizeof(struct piix),
    .realize = piix_realize,
    .unrealize = piix_unrealize,
    .reset = piix_reset,
    .state = &piix_state,
};
