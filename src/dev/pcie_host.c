/* SPDX-License-Identifier: MIT
 *
 * Generic PCIe host bridge: configuration space mapped into memory (ECAM) and nothing to
 * program, as on QEMU's "virt" board ("pci-host-ecam-generic"). The operating system assigns
 * the BARs itself.
 *
 * One root bus with conventional functions, and what is behind its root ports (dev/pcie_port.c).
 * The I/O-port window exists because operating systems expect one; nothing answers in it. Where the
 * architecture has ports, it is some of those.
 *
 * The 64-bit window begins at 16 GiB, or behind RAM if there is more of that.
 *
 * params: gpa (ECAM), window, bridge, irq (the first of four consecutive inputs of its sink), irq_number,
 * irq_phandle, msi (then functions have MSI-X).
 */
#include "dev/pcie_host.h"

#include <libfdt.h>
#include <stdio.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/aml.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "bus/pci.h"

#define PIO_GPA        UINT64_C(0x03000000)
#define PIO_SIZE       UINT64_C(0x10000)
#define PORTS_FIRST    0x1000 /* those below are the board's */
#define MMIO32_GPA     UINT64_C(0x40000000)
#define MMIO32_SIZE    UINT64_C(0x40000000)
#define MMIO64_SIZE    UINT64_C(0x400000000)
#define MMIO64_GPA_MIN UINT64_C(0x400000000)

struct pcie_host {
    struct device device;
    struct pci_host bus;
    struct pci_function bridge; /* 00:00.0, so that the bus is not headless */
    struct mem_io ecam, pio;
    unsigned irq_number;
    uint32_t irq_phandle;
};

struct pci_host *pcie_host_bus(struct device *device)
{
    return &CONTAINER_OF(device, struct pcie_host, device)->bus;
}

/* ECAM offset: bus 27:20, device and function 19:12, register 11:0 (PCIe 5.0, 7.2.2). */
static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pcie_host *host = opaque;
    return pci_config_read(&host->bus, (uint16_t)(offset >> 12), (unsigned)(offset & 0xfff), size);
}

static void ecam_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pcie_host *host = opaque;
    pci_config_write(&host->bus, (uint16_t)(offset >> 12), (unsigned)(offset & 0xfff),
                     (uint32_t)value, size);
}

static uint64_t pio_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset, (void)size;
    return UINT32_MAX;
}

static void pio_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    (void)opaque, (void)offset, (void)value, (void)size;
}

static const struct mem_io_ops ecam_ops = {ecam_read, ecam_write, 1, 4};
static const struct mem_io_ops pio_ops = {pio_read, pio_write, 1, 4};

static uint64_t end_of_ram(const struct mem_space *mem)
{
    uint64_t end = 0;
    for (size_t i = 0; i < mem_ram_count(mem); i++) {
        const struct mem_ram *ram = mem_ram_at(mem, i);
        if (ram->gpa + ram->size > end)
            end = ram->gpa + ram->size;
    }
    return end;
}

static void pcie_host_unrealize(struct device *device)
{
    struct pcie_host *host = CONTAINER_OF(device, struct pcie_host, device);
    pci_unplug(&host->bridge);
    mem_io_remove(device->env->mem, &host->ecam);
    mem_io_remove(device->env->mem, &host->pio);
    pci_host_destroy(&host->bus);
}

static bool pcie_host_realize(struct device *device, const struct device_params *params,
                              struct error **err)
{
    struct pcie_host *host = CONTAINER_OF(device, struct pcie_host, device);
    const struct device_env *env = device->env;
    host->irq_number = params->irq_number;
    host->irq_phandle = params->irq_phandle;

    pci_host_init(&host->bus, env->mem, env->log);
    uint64_t mmio64 = align_up(end_of_ram(env->mem), MMIO64_SIZE);
    host->bus.msi = params->msi;
    host->bus.windows[0] = params->window != NULL ? *params->window
                                                  : (struct pci_window){MMIO32_GPA, MMIO32_SIZE};
    host->bus.windows[1] =
        (struct pci_window){mmio64 > MMIO64_GPA_MIN ? mmio64 : MMIO64_GPA_MIN, MMIO64_SIZE};
    for (unsigned i = 0; i < PCI_PIN_COUNT; i++)
        irq_line_bind(&host->bus.pins[i], params->irq.set, params->irq.sink, params->irq.input + i);

    static const struct pci_identity generic = {
        .vendor = 0x1b36, /* as QEMU's generic bridge */
        .device = 0x0008,
        .subsystem_vendor = 0x1af4,
        .subsystem = 0x1100,
        .class_code = 0x060000,
    };
    pci_function_init(&host->bridge, params->bridge != NULL ? params->bridge : &generic);
    pci_plug_bridge(&host->bus, &host->bridge);

    host->ecam = (struct mem_io){.name = "pcie-ecam",
                                 .gpa = params->gpa,
                                 .size = PCIE_HOST_ECAM_SIZE,
                                 .ops = &ecam_ops,
                                 .opaque = host};
    host->pio = (struct mem_io){
        .name = "pcie-pio", .gpa = PIO_GPA, .size = PIO_SIZE, .ops = &pio_ops, .opaque = host};
    if (mem_io_add(env->mem, &host->ecam) &&
        (env->ports != NULL || mem_io_add(env->mem, &host->pio)))
        return true;
    pcie_host_unrealize(device);
    return error_set(err, ERROR_INTERNAL, "its address ranges overlap another device");
}

static void pcie_host_reset(struct device *device)
{
    pci_function_reset(&CONTAINER_OF(device, struct pcie_host, device)->bridge);
}

/* --- device tree (Open Firmware PCI bus binding 2.1; devicetree host-generic-pci) --- */

/* phys.hi of a PCI address: space code and, for memory, nothing else here. */
enum { SPACE_IO = 0x01000000, SPACE_MEM32 = 0x02000000, SPACE_MEM64 = 0x03000000 };

static void put_cells(fdt32_t *cells, unsigned *count, const uint32_t *values, unsigned number)
{
    for (unsigned i = 0; i < number; i++)
        cells[(*count)++] = cpu_to_fdt32(values[i]);
}

static void put_range(fdt32_t *cells, unsigned *count, uint32_t space, uint64_t bus, uint64_t cpu,
                      uint64_t size)
{
    const uint32_t range[] = {
        space,         (uint32_t)(bus >> 32),  (uint32_t)bus, (uint32_t)(cpu >> 32),
        (uint32_t)cpu, (uint32_t)(size >> 32), (uint32_t)size};
    put_cells(cells, count, range, ARRAY_SIZE(range));
}

static bool put_ranges(const struct pcie_host *host, void *fdt)
{
    fdt32_t cells[3 * 7];
    unsigned count = 0;
    const struct pci_window *low = &host->bus.windows[0], *high = &host->bus.windows[1];
    put_range(cells, &count, SPACE_IO, 0, PIO_GPA, PIO_SIZE);
    put_range(cells, &count, SPACE_MEM32, low->gpa, low->gpa, low->size);
    put_range(cells, &count, SPACE_MEM64, high->gpa, high->gpa, high->size);
    return fdt_property(fdt, "ranges", cells, (int)(count * sizeof(cells[0]))) == 0;
}

/* Slots 0..3 stand for all: the mask keeps two bits of the slot and the pin. The parent (the
 * interrupt controller) has no address cells. */
static bool put_interrupt_map(const struct pcie_host *host, void *fdt)
{
    fdt32_t cells[PCI_PIN_COUNT * PCI_PIN_COUNT * (5 + FDT_INTERRUPT_CELLS_MAX)];
    unsigned count = 0;
    for (uint32_t slot = 0; slot < PCI_PIN_COUNT; slot++) {
        for (uint32_t pin = 1; pin <= PCI_PIN_COUNT; pin++) {
            uint32_t entry[5 + FDT_INTERRUPT_CELLS_MAX] = {slot << 11, 0, 0, pin,
                                                           host->irq_phandle};
            unsigned size =
                5 + fdt_interrupt_cells(host->irq_phandle,
                                        host->irq_number + pci_swizzle(slot, pin), entry + 5);
            put_cells(cells, &count, entry, size);
        }
    }
    const fdt32_t mask[] = {cpu_to_fdt32((PCI_PIN_COUNT - 1) << 11), 0, 0, cpu_to_fdt32(7)};
    return fdt_property(fdt, "interrupt-map", cells, (int)(count * sizeof(cells[0]))) == 0 &&
           fdt_property(fdt, "interrupt-map-mask", mask, sizeof(mask)) == 0;
}

static bool pcie_host_fdt(struct device *device, void *fdt)
{
    const struct pcie_host *host = CONTAINER_OF(device, struct pcie_host, device);
    const fdt64_t reg[] = {cpu_to_fdt64(host->ecam.gpa), cpu_to_fdt64(host->ecam.size)};
    const fdt32_t buses[] = {cpu_to_fdt32(0),
                             cpu_to_fdt32((uint32_t)(PCIE_HOST_ECAM_SIZE >> 20) - 1)};
    char name[32];
    snprintf(name, sizeof(name), "pci@%llx", (unsigned long long)host->ecam.gpa);
    return fdt_begin_node(fdt, name) == 0 &&
           fdt_property_string(fdt, "compatible", "pci-host-ecam-generic") == 0 &&
           fdt_property_string(fdt, "device_type", "pci") == 0 &&
           fdt_property(fdt, "reg", reg, sizeof(reg)) == 0 &&
           fdt_property(fdt, "bus-range", buses, sizeof(buses)) == 0 &&
           fdt_property_u32(fdt, "linux,pci-domain", 0) == 0 &&
           fdt_property_u32(fdt, "#address-cells", 3) == 0 &&
           fdt_property_u32(fdt, "#size-cells", 2) == 0 &&
           fdt_property_u32(fdt, "#interrupt-cells", 1) == 0 &&
           fdt_property(fdt, "dma-coherent", NULL, 0) == 0 &&
           (host->bus.msi.send == NULL ||
            fdt_property_u32(fdt, "msi-parent", FDT_PHANDLE_IMSIC_S) == 0) &&
           put_ranges(host, fdt) && put_interrupt_map(host, fdt) && fdt_end_node(fdt) == 0;
}

/* --- ACPI (PCI Firmware Specification 3.3, 4.1 to 4.5) --- */

/* Grants what is asked for, but what there is not: root ports have hot-plug, and PME and AER nobody. */
static void put_osc(struct aml *aml)
{
    enum { UNKNOWN_UUID = 4, NATIVE_HOTPLUG = 1 << 0, CAPABILITY_STRUCTURE = 1 << 4 };
    aml_method_begin(aml, "_OSC", 4);
    aml_op(aml, AML_DWORD_FIELD);
    aml_arg(aml, 3);
    aml_integer(aml, 0);
    aml_reference(aml, "CDW1");
    aml_if_begin(aml);
    aml_op(aml, AML_EQUAL);
    aml_arg(aml, 0);
    aml_uuid(aml, "33db4d5b-1ff7-401c-9657-7441c03dd766");
    aml_op(aml, AML_DWORD_FIELD);
    aml_arg(aml, 3);
    aml_integer(aml, 8);
    aml_reference(aml, "CDW3");
    aml_op(aml, AML_AND);
    aml_reference(aml, "CDW3");
    aml_integer(aml, NATIVE_HOTPLUG | CAPABILITY_STRUCTURE);
    aml_reference(aml, "CDW3");
    aml_end(aml);
    aml_else_begin(aml);
    aml_op(aml, AML_OR);
    aml_reference(aml, "CDW1");
    aml_integer(aml, UNKNOWN_UUID);
    aml_reference(aml, "CDW1");
    aml_end(aml);
    aml_op(aml, AML_RETURN);
    aml_arg(aml, 3);
    aml_end(aml);
}

/* Every slot's pins, as the device tree's map has them. */
static void put_prt(const struct pcie_host *host, struct aml *aml)
{
    enum { SLOTS = 32, ANY_FUNCTION = 0xffff };
    aml_name(aml, "_PRT");
    aml_package_begin(aml, SLOTS * PCI_PIN_COUNT);
    for (unsigned slot = 0; slot < SLOTS; slot++)
        for (unsigned pin = 0; pin < PCI_PIN_COUNT; pin++) {
            aml_package_begin(aml, 4);
            aml_integer(aml, slot << 16 | ANY_FUNCTION);
            aml_integer(aml, pin);
            aml_integer(aml, 0); /* no link device: */
            aml_integer(aml, host->irq_number + pci_swizzle(slot, pin + 1));
            aml_end(aml);
        }
    aml_end(aml);
}

static void pcie_host_acpi(struct device *device, struct aml *aml)
{
    const struct pcie_host *host = CONTAINER_OF(device, struct pcie_host, device);
    const struct pci_window *low = &host->bus.windows[0], *high = &host->bus.windows[1];
    aml_device_begin(aml, "PCI0");
    aml_name_eisa(aml, "_HID", "PNP0A08");
    aml_name_eisa(aml, "_CID", "PNP0A03");
    aml_name_integer(aml, "_UID", 0);
    aml_name_integer(aml, "_SEG", 0);
    aml_name_integer(aml, "_BBN", 0);
    aml_name_integer(aml, "_CCA", 1);
    aml_resources_begin(aml, "_CRS");
    aml_window(aml, AML_BUS, 0, PCIE_HOST_ECAM_SIZE >> 20);
    aml_window(aml, AML_IO, PORTS_FIRST, PIO_SIZE - PORTS_FIRST);
    aml_window(aml, AML_MEMORY, low->gpa, low->size);
    aml_window(aml, AML_MEMORY, high->gpa, high->size);
    aml_resources_end(aml);
    put_prt(host, aml);
    put_osc(aml);
    aml_end(aml);
    /* Nobody else is to use the configuration space (4.1.2, note 2). */
    aml_device_begin(aml, "ECAM");
    aml_name_eisa(aml, "_HID", "PNP0C02");
    aml_resources_begin(aml, "_CRS");
    aml_memory(aml, (uint32_t)host->ecam.gpa, (uint32_t)host->ecam.size);
    aml_resources_end(aml);
    aml_end(aml);
}

static const struct state_field pcie_host_fields[] = {
    STATE_STRUCT(struct pcie_host, bridge, "bridge", &pci_function_state),
    STATE_END,
};

static const struct state_table pcie_host_state = {"pcie-host", 1, pcie_host_fields, NULL, NULL};

const struct device_ops device_pcie_host = {
    .name = "pcie-host",
    .size = sizeof(struct pcie_host),
    .realize = pcie_host_realize,
    .unrealize = pcie_host_unrealize,
    .reset = pcie_host_reset,
    .fdt = pcie_host_fdt,
    .acpi = pcie_host_acpi,
    .state = &pcie_host_state,
};
