/* SPDX-License-Identifier: MIT
 *
 * The parts list of the x86-64 board. Interrupt controllers and PIT are the engine's: devices drive the
 * inputs of its I/O APIC, and messages go to its local APICs.
 */
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "bus/pci.h"
#include "dev/devices.h"
#include "dev/pcie_host.h"
#include "dev/virtio_slots.h"
#include "isa/x86_64/cpu.h"
#include "isa/x86_64/guest_cpu.h"
#include "vm/board.h"
#include "vm/boot.h"
#include "vm/machine.h"
#include "vm/pc/firmware.h"
#include "vm/pc/pc.h"

#define TIMEBASE_HZ 1000000000 /* nobody on this board reads it */

static const struct pci_window window = {PC_MMIO32_GPA, PC_MMIO32_SIZE},
                               firmware_window = {PC_FIRMWARE_MMIO32_GPA, PC_FIRMWARE_MMIO32_SIZE};

static const uint8_t slot_gsis[] = PC_SLOT_GSIS;

/* What firmware takes the board for: QEMU's `pc`. */
static const struct pci_identity i440fx = {.vendor = 0x8086,
                                           .device = 0x1237,
                                           .revision = 2,
                                           .subsystem_vendor = 0x1af4,
                                           .subsystem = 0x1100,
                                           .class_code = 0x060000};

/* A part is there if the machine has what it is for: virtio devices in slots, firmware. */
enum when { ALWAYS, WITH_SLOTS, WITH_FIRMWARE };

static const struct part {
    const struct device_ops *ops;
    const char *id;
    uint64_t gpa, port;
    unsigned gsi; /* 0: none */
    enum when when;
} parts[] = {
    {&device_acpi_pm, "pm", 0, PC_PM_PORT, PC_SCI_GSI, ALWAYS},
    {&device_cmos_rtc, "rtc", 0, PC_RTC_PORT, PC_RTC_GSI, ALWAYS},
    {&device_i8042, "i8042", 0, PC_I8042_PORT, PC_KEYBOARD_GSI, ALWAYS},
    {&device_uart16550, "uart0", 0, PC_COM1_PORT, PC_COM1_GSI, ALWAYS},
    {&device_pcie_host, "pcie", PC_ECAM_GPA, 0, PC_PCI_GSI, ALWAYS},
    {&device_virtio_slots, "virtio", PC_SLOTS_GPA, 0, PC_SLOT_GSI_FIRST, WITH_SLOTS},
    {&device_vmgenid, "vmgenid", PC_VMGENID_GPA, 0, PC_VMGENID_GSI, ALWAYS},
    {&device_piix, "piix", 0, PC_PM_PORT, 0, WITH_FIRMWARE},
    {&device_fw_cfg, "fw-cfg", 0, PC_FW_CFG_PORT, 0, WITH_FIRMWARE},
};

static bool add_flash(struct vm *vm, struct error **err)
{
    uint64_t gpa, size = pc_firmware_flash(&vm->files.boot, &gpa);
    const struct flash_store store = {size, pc_firmware_format, vm->env.load_variables,
                                      vm->env.save_variables, vm->env.opaque};
    const struct device_params params = {.id = "flash0", .gpa = gpa, .flash = &store};
    return size == 0 || vm_board_add(vm, &device_nor_flash, &params, err) != NULL;
}

static bool pc_parts(struct vm *vm, struct error **err)
{
    const struct engine_irqchip *irqchip = vm->machine->irqchip;
    bool firmware = boot_file_of(&vm->files.boot, BOOT_FIRMWARE) != NULL;
    bool below_ioapic = firmware && vm->config.virtio == MACHINE_VIRTIO_PCI; /* else slots are there */
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        const struct part *part = &parts[i];
        if ((part->when == WITH_SLOTS && vm->config.virtio != MACHINE_VIRTIO_MMIO) ||
            (part->when == WITH_FIRMWARE && !firmware))
            continue;
        struct device_params params = {
            .id = part->id,
            .gpa = part->gpa,
            .io_port = part->port,
            .irq_number = part->gsi,
            .shared_irqs = slot_gsis,
            .inputs = ARRAY_SIZE(slot_gsis),
            .window = below_ioapic ? &firmware_window : &window,
            .bridge = firmware ? &i440fx : NULL,
            .msi = {irqchip->send, vm->machine},
            .button = &vm->button,
            .keyboard = vm->config.keyboard ? &vm->keyboard : NULL,
            .generation = &vm->generation,
            .chr = part->ops == &device_uart16550 ? vm->env.console : NULL,
        };
        if (part->gsi != 0)
            irq_line_bind(&params.irq, irqchip->set_input, vm->machine, part->gsi);
        struct device *device = vm_board_add(vm, part->ops, &params, err);
        if (device == NULL)
            return false;
        if (part->ops == &device_pcie_host)
            vm->device_env.pci = pcie_host_bus(device);
        else if (part->ops == &device_virtio_slots)
            vm->device_env.virtio_slots = virtio_slots_of(device);
    }
    return add_flash(vm, err);
}

/* With messages each vCPU's queue has an interrupt of its own; one wire serves all of a device's. */
static unsigned pc_queues(const struct vm *vm)
{
    return vm->config.virtio == MACHINE_VIRTIO_PCI ? vm->cpu_count : 1;
}

static unsigned pc_ram(uint64_t memory, struct board_ram ram[BOARD_MAX_RAM])
{
    uint64_t low = memory < PC_LOW_RAM_MAX ? memory : PC_LOW_RAM_MAX;
    ram[0] = (struct board_ram){0, low};
    ram[1] = (struct board_ram){PC_HIGH_RAM_GPA, memory - low};
    return memory > low ? 2 : 1;
}

/* What its first vCPU was told; the others were told the same, but for their places. */
static void pc_describe_isa(const struct vm *vm, char *text, size_t size)
{
    const struct x86_cpu *cpu = x86_cpu_of(vm->vcpus[0]);
    size_t at = (size_t)snprintf(text, size, "x86_64");
    x86_cpu_describe(cpu->cpuid, cpu->cpuid_count, cpu->arch_capabilities, text + at, size - at);
}

static bool pc_cpu_is_on(const struct vm_cpu *cpu)
{
    return x86_is_on(cpu->vcpu);
}

const struct board board_pc = {
    .name = "pc",
    .isa = &isa_x86_64,
    .timebase_hz = TIMEBASE_HZ,
    .boot_timer_gpa = PC_BOOT_TIMER_GPA,
    .ram = pc_ram,
    .plan = pc_plan,
    .parts = pc_parts,
    .queues = pc_queues,
    .load = pc_load,
    .restored = pc_restored,
    .cpu_is_on = pc_cpu_is_on,
    .describe_isa = pc_describe_isa,
};
