/* SPDX-License-Identifier: MIT
 *
 * The parts list of the riscv64 board and how the parts are wired. Order matters: interrupt
 * controllers before what they serve, the PCIe host before its functions.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "bus/pci.h"
#include "dev/devices.h"
#include "dev/imsic.h"
#include "dev/pcie_host.h"
#include "dev/virtio_slots.h"
#include "isa/riscv64/hart.h"
#include "vm/board.h"
#include "vm/machine.h"
#include "vm/sbi/sbi.h"
#include "vm/virt/virt.h"

/* DRIVES_HARTS: an interrupt controller in front of the harts' local ones. ONLY_*: a part of
 * a board with that kind of interrupts, or of places for virtio devices. */
enum part_flag {
    USES_CONSOLE = 1,
    DRIVES_HARTS = 2,
    ONLY_PLIC = 4,
    ONLY_AIA = 8,
    ONLY_MMIO = 16
};

struct part {
    const struct device_ops *ops;
    const char *id;
    uint64_t gpa, gpa_machine;
    unsigned irq;     /* interrupt controller's input, 0: none */
    uint32_t phandle; /* 0: nobody refers to it */
    unsigned flags;   /* enum part_flag */
};

static const struct part parts[] = {
    {&device_aclint, "aclint", VIRT_ACLINT_GPA, 0, 0, 0, DRIVES_HARTS},
    {&device_plic, "plic", VIRT_PLIC_GPA, 0, 0, FDT_PHANDLE_PLIC, DRIVES_HARTS | ONLY_PLIC},
    {&device_imsic, "imsic", IMSIC_S_GPA, IMSIC_M_GPA, 0, 0, DRIVES_HARTS | ONLY_AIA},
    {&device_aplic, "aplic", VIRT_APLIC_S_GPA, VIRT_APLIC_M_GPA, 0, 0, ONLY_AIA},
    {&device_sifive_test, "test", VIRT_TEST_GPA, 0, 0, VIRT_PHANDLE_TEST, 0},
    {&device_goldfish_rtc, "rtc", VIRT_RTC_GPA, 0, VIRT_RTC_IRQ, 0, 0},
    {&device_uart16550, "uart0", VIRT_UART_GPA, 0, VIRT_UART_IRQ, 0, USES_CONSOLE},
    {&device_pcie_host, "pcie", VIRT_PCIE_GPA, 0, VIRT_PCIE_IRQ, 0, 0},
    {&device_virtio_slots, "virtio", VIRT_SLOTS_GPA, 0, VIRT_SLOTS_IRQ, 0, ONLY_MMIO},
    {&device_vmgenid, "vmgenid", VIRT_VMGENID_GPA, 0, VIRT_VMGENID_IRQ, 0, 0},
};

static struct device *find_device(struct vm *vm, const struct device_ops *ops)
{
    for (size_t i = 0; i < vm->device_count; i++)
        if (vm->devices[i]->ops == ops)
            return vm->devices[i];
    return NULL;
}

/* A queue for each vCPU serves it best if each has an interrupt of its own; on one wire every
 * interrupt would have the driver look at all of them. */
static unsigned virt_queues(const struct vm *vm)
{
    return vm->aia && vm->config.virtio == MACHINE_VIRTIO_PCI ? vm->cpu_count : 1;
}

static bool virt_parts(struct vm *vm, struct error **err)
{
    const struct device_ops *wired = vm->aia ? &device_aplic : &device_plic;
    uint32_t wired_phandle = vm->aia ? FDT_PHANDLE_APLIC_S : FDT_PHANDLE_PLIC;
    unsigned absent = (vm->aia ? ONLY_PLIC : ONLY_AIA) |
                      (vm->config.virtio == MACHINE_VIRTIO_MMIO ? 0 : ONLY_MMIO);
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        const struct part *part = &parts[i];
        if ((part->flags & absent) != 0)
            continue;
        struct device_params params = {
            .id = part->id,
            .gpa = part->gpa,
            .gpa_machine = vm->files.boot.sbi ? 0 : part->gpa_machine,
            .irq_number = part->irq,
            .irq_phandle = (part->flags & DRIVES_HARTS) != 0 ? FDT_PHANDLE_CPU_INTC : wired_phandle,
            .phandle = part->phandle,
            .inputs = VIRT_SOURCES,
            .generation = &vm->generation,
            .chr = (part->flags & USES_CONSOLE) != 0 ? vm->env.console : NULL,
        };
        if (part->irq != 0)
            irq_line_bind(&params.irq, wired->set_input, find_device(vm, wired), part->irq);
        if (vm->aia)
            params.msi = (struct msi_sink){imsic_send, find_device(vm, &device_imsic)};
        struct device *device = vm_board_add(vm, part->ops, &params, err);
        if (device == NULL)
            return false;
        if (part->ops == &device_pcie_host)
            vm->device_env.pci = pcie_host_bus(device);
        else if (part->ops == &device_virtio_slots)
            vm->device_env.virtio_slots = virtio_slots_of(device);
    }
    return true;
}

static unsigned virt_ram(uint64_t memory, struct board_ram ram[BOARD_MAX_RAM])
{
    ram[0] = (struct board_ram){VIRT_RAM_GPA, memory};
    return 1;
}

/* Which interrupt controller serves the guest best: messages, if its kernel has a driver for
 * them. Software that is no kernel of Linux finds the controller that there always was. */
static bool choose_interrupts(struct vm *vm, struct error **err)
{
    const char *wish = vm->config.interrupts;
    if (strcmp(wish, "auto") != 0)
        vm->aia = strcmp(wish, "aia") == 0;
    else
        return boot_kernel_contains(&vm->files.boot, "riscv,imsics", &vm->aia, err);
    return true;
}

static bool virt_plan(struct vm *vm, struct error **err)
{
    return virt_boot_plan(&vm->files.boot, VIRT_RAM_GPA, vm->config.memory, err) &&
           choose_interrupts(vm, err);
}

/* Of the lines, devices drive theirs; the one that an SBI drives is ours to lower. */
static void virt_reset_cpu(struct vm_cpu *cpu)
{
    vcpu_set_interrupt(cpu->vcpu, RV_IRQ_SSI, false);
}

/* As SBI 2.0 (9.1, table 25) says. */
static void virt_begin_cpu(struct vm_cpu *cpu)
{
    rv_enter_supervisor(rv_hart_of(cpu->vcpu), cpu->start_pc, cpu->vcpu->index, cpu->start_opaque);
}

static void virt_restored(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++)
        rv_hart_of(vm->vcpus[i])->sbi_calls = vm->files.boot.sbi;
}

static void virt_describe_isa(const struct vm *vm, char *text, size_t size)
{
    rv_isa_string(vm->aia, text, size);
}

/* Harts that firmware of the guest's own starts are none of ours. */
static bool virt_cpu_is_on(const struct vm_cpu *cpu)
{
    return cpu->vm->files.boot.sbi && atomic_load(&cpu->state) != CPU_STOPPED;
}

const struct board board_virt = {
    .name = "virt",
    .isa = &isa_riscv64,
    .timebase_hz = VIRT_TIMEBASE_HZ,
    .boot_timer_gpa = VIRT_BOOT_TIMER_GPA,
    .ram = virt_ram,
    .plan = virt_plan,
    .parts = virt_parts,
    .queues = virt_queues,
    .load = virt_load,
    .restored = virt_restored,
    .reset_cpu = virt_reset_cpu,
    .begin_cpu = virt_begin_cpu,
    .cpu_is_on = virt_cpu_is_on,
    .call = sbi_call,
    .describe_isa = virt_describe_isa,
};
