/* SPDX-License-Identifier: MIT
 *
 * The x86-64 board at a start: what the kernel is told of this machine, and the registers of the
 * first vCPU. The others wait for it to start them (SDM 3A, 8.4).
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "bus/aml.h"
#include "bus/virtio_mmio.h"
#include "dev/devices.h"
#include "dev/pcie_host.h"
#include "dev/virtio_slots.h"
#include "isa/x86_64/cpu.h"
#include "vm/machine.h"
#include "vm/pc/acpi.h"
#include "vm/pc/boot.h"
#include "vm/pc/firmware.h"
#include "vm/pc/load_linux.h"
#include "vm/pc/mp.h"
#include "vm/pc/pc.h"

enum { RESET_PORT = PC_I8042_PORT + 4, RESET_VALUE = 0xfe };

/* What is said in front of the user's own words, as those count that come last. */
struct words {
    char text[PC_BOOT_COMMAND_LINE_MAX + 1];
    size_t size;
    bool full;
};

static void add_word(struct words *words, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void add_word(struct words *words, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = sizeof(words->text) - words->size;
    int length = vsnprintf(words->text + words->size, room, format, arguments);
    va_end(arguments);
    words->full = words->full || length < 0 || (size_t)length >= room;
    words->size += words->full ? 0 : (size_t)length;
}

/* For kernels without ACPI (Linux, kernel-parameters.txt). Not for others: a driver that is a module
 * refuses to be loaded if a device is there already. */
static bool add_slots(const struct vm *vm, struct words *words, struct error **err)
{
    struct virtio_slot slot;
    bool knows_acpi = true;
    if (vm->device_env.virtio_slots != NULL &&
        !pc_boot_acpi(&vm->files.boot, vm->config.append, &knows_acpi, err))
        return false;
    for (size_t i = 0; !knows_acpi && i < vm->device_count; i++)
        for (unsigned n = 0; vm->devices[i]->ops == &device_virtio_slots && n < VIRTIO_SLOT_COUNT; n++)
            if (virtio_slot_at(vm->devices[i], n, &slot))
                add_word(words, "virtio_mmio.device=%uK@%#" PRIx64 ":%u ",
                         (unsigned)(VIRTIO_SLOT_SIZE / KIB), slot.gpa, slot.irq);
    return true;
}

/* A kernel starts those vCPUs only that are wished for, and can switch on the others later. */
char *pc_command_line(const struct vm *vm, struct error **err)
{
    struct words *words = alloc_zeroed(1, sizeof(*words));
    if (vm->cpu_count != 0 && vm->config.cpus < vm->cpu_count)
        add_word(words, "maxcpus=%u ", vm->config.cpus);
    bool good = add_slots(vm, words, err);
    add_word(words, "%s", vm->config.append != NULL ? vm->config.append : "");
    if (good && words->full)
        good = error_set(err, ERROR_USAGE, "the kernel's command line has more than %d bytes",
                         PC_BOOT_COMMAND_LINE_MAX);
    char *text = good ? strdup(words->text) : NULL;
    free(words);
    return text;
}

bool pc_plan(struct vm *vm, struct error **err)
{
    uint64_t low = vm->config.memory < PC_LOW_RAM_MAX ? vm->config.memory : PC_LOW_RAM_MAX;
    if (boot_file_of(&vm->files.boot, BOOT_FIRMWARE) != NULL)
        return pc_firmware_plan(&vm->files.boot, low, err);
    char *words = pc_command_line(vm, err);
    bool good = words != NULL && pc_boot_plan(&vm->files.boot, low, words, err);
    free(words);
    return good;
}

/* ---- tables ---- */

static void describe_devices(void *opaque, struct aml *aml)
{
    const struct vm *vm = opaque;
    for (size_t i = 0; i < vm->device_count; i++)
        if (vm->devices[i]->ops->acpi != NULL)
            vm->devices[i]->ops->acpi(vm->devices[i], aml);
}

struct pc_acpi_setup pc_acpi_setup(struct vm *vm)
{
    return (struct pc_acpi_setup){.cpus = vm->cpu_count,
                                  .ecam_gpa = PC_ECAM_GPA,
                                  .ecam_size = PCIE_HOST_ECAM_SIZE,
                                  .pm_port = PC_PM_PORT,
                                  .reset_port = RESET_PORT,
                                  .reset_value = RESET_VALUE,
                                  .sci = PC_SCI_GSI,
                                  .keyboard = vm->config.keyboard,
                                  .ioapic_gpa = PC_IOAPIC_GPA,
                                  .lapic_gpa = PC_LAPIC_GPA,
                                  .devices = describe_devices,
                                  .opaque = vm};
}

static bool write_acpi(struct vm *vm, struct error **err)
{
    const struct pc_acpi_setup setup = pc_acpi_setup(vm);
    uint8_t *tables = alloc_zeroed(1, PC_ACPI_MAX);
    size_t size = pc_acpi_build(&setup, PC_TABLES_GPA, tables, PC_ACPI_MAX);
    bool good = size != 0 && mem_write(vm->mem, PC_TABLES_GPA, tables, size);
    free(tables);
    return good || error_set(err, ERROR_INTERNAL, "the ACPI tables are too large");
}

static bool write_mp(struct vm *vm, struct error **err)
{
    static const uint8_t slots[] = PC_SLOT_GSIS;
    struct pc_mp_setup setup = {
        .cpus = vm->cpu_count, .ioapic_gpa = PC_IOAPIC_GPA, .lapic_gpa = PC_LAPIC_GPA};
    uint8_t tables[PC_MP_MAX];
    for (size_t i = 0; i < ARRAY_SIZE(slots); i++)
        setup.level |= UINT32_C(1) << slots[i];
    size_t size = pc_mp_build(&setup, PC_MP_GPA, tables, sizeof(tables));
    return (size != 0 && mem_write(vm->mem, PC_MP_GPA, tables, size)) ||
           error_set(err, ERROR_INTERNAL, "the MP tables are too large");
}

static size_t memory_map(const struct vm *vm, struct pc_memory map[PC_MEMORY_MAX])
{
    size_t count = 0;
    map[count++] = (struct pc_memory){0, PC_BOOT_LOW_END, PC_MEMORY_RAM};
    map[count++] =
        (struct pc_memory){PC_TABLES_GPA, PC_TABLES_END - PC_TABLES_GPA, PC_MEMORY_RESERVED};
    for (size_t i = 0; i < mem_ram_count(vm->mem) && count < PC_MEMORY_MAX - 1; i++) {
        const struct mem_ram *ram = mem_ram_at(vm->mem, i);
        uint64_t from = ram->gpa < PC_TABLES_END ? PC_TABLES_END : ram->gpa;
        map[count++] = (struct pc_memory){from, ram->gpa + ram->size - from, PC_MEMORY_RAM};
    }
    map[count++] = (struct pc_memory){PC_ECAM_GPA, PCIE_HOST_ECAM_SIZE, PC_MEMORY_RESERVED};
    return count;
}

static bool write_info(struct vm *vm, struct error **err)
{
    struct pc_memory map[PC_MEMORY_MAX];
    char *words = pc_command_line(vm, err);
    if (words == NULL)
        return false;
    struct pc_boot_info info = {.command_line = words,
                                .rsdp_gpa = PC_TABLES_GPA,
                                .memory = map,
                                .memory_count = memory_map(vm, map)};
    vm->entropy->fill(vm->entropy, info.seed, sizeof(info.seed));
    bool good = pc_boot_write(&vm->files.boot, &info, vm->mem, err);
    free(words);
    return good;
}

/* ---- the first vCPU ---- */

enum { CODE = 0x10, DATA = 0x18, GDT_SIZE = 0x20 };

static void set_registers(struct x86_cpu *cpu, const struct boot *boot)
{
    static const enum x86_segment_register data[] = {X86_DS, X86_ES, X86_SS, X86_FS, X86_GS};
    x86_fetch(cpu);
    struct x86_state *state = &cpu->state;
    bool pvh = boot->protocol == PC_PVH;
    state->segments[X86_CS] = x86_flat_code64(CODE);
    state->segments[X86_CS].l = !pvh;
    state->segments[X86_CS].db = pvh;
    for (size_t i = 0; i < ARRAY_SIZE(data); i++)
        state->segments[data[i]] = x86_flat_data(DATA);
    state->gdt = (struct x86_table){PC_BOOT_GDT, GDT_SIZE - 1};
    state->idt = (struct x86_table){0, 0};
    state->cr0 = X86_CR0_PE | X86_CR0_ET | (pvh ? 0 : X86_CR0_NE | X86_CR0_PG);
    state->cr3 = pvh ? 0 : PC_BOOT_PAGES;
    state->cr4 = pvh ? 0 : X86_CR4_PAE;
    state->efer = pvh ? 0 : X86_EFER_LME | X86_EFER_LMA;
    memset(state->gpr, 0, sizeof(state->gpr));
    state->gpr[pvh ? X86_RBX : X86_RSI] = PC_BOOT_INFO;
    state->rip = boot->entry;
    state->rflags = X86_RFLAGS_FIXED;
    x86_changed(cpu);
}

/* Firmware begins with the registers of a reset. */
bool pc_load(struct vm *vm, struct error **err)
{
    if (boot_file_of(&vm->files.boot, BOOT_FIRMWARE) != NULL)
        return pc_firmware_describe(vm, err);
    if (!write_acpi(vm, err) || !write_mp(vm, err) || !write_info(vm, err))
        return false;
    set_registers(x86_cpu_of(vm->vcpus[0]), &vm->files.boot);
    return true;
}

void pc_restored(struct vm *vm)
{
    struct error *err = NULL;
    if (boot_file_of(&vm->files.boot, BOOT_FIRMWARE) == NULL || pc_firmware_describe(vm, &err))
        return;
    log_warning(vm->log, "the guest's firmware is not told all that it should be: %s",
                error_message(err));
    error_free(err);
}
