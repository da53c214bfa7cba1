/* SPDX-License-Identifier: MIT
 *
 * See firmware.h. Items: QEMU, docs/specs/fw_cfg.rst, include/standard-headers/linux/qemu_fw_cfg.h
 * and hw/acpi/bios-linker-loader.c for their formats; EDK2, OvmfPkg/Library/HardwareInfoLib.
 */
#include "vm/pc/firmware.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/pci.h"
#include "dev/devices.h"
#include "dev/fw_cfg.h"
#include "dev/pcie_host.h"
#include "vm/boot.h"
#include "vm/machine.h"
#include "vm/pc/acpi.h"
#include "vm/pc/load_linux.h"
#include "vm/pc/pc.h"

#define LOW_COPY     (128 * KIB)
#define LOW_COPY_GPA (UINT64_C(0x100000) - LOW_COPY)
#define MEMORY_MIN   (64 * MIB)

/* ---- the plan ---- */

static uint64_t next_power_of_two(uint64_t value)
{
    uint64_t power = 1;
    while (power < value)
        power *= 2;
    return power;
}

uint64_t pc_firmware_flash(const struct boot *boot, uint64_t *gpa)
{
    const struct boot_file *file = boot_file_of(boot, BOOT_FIRMWARE);
    uint64_t whole = file != NULL ? next_power_of_two(file->size) : 0;
    *gpa = PC_FIRMWARE_END - whole;
    return file != NULL ? whole - file->size : 0;
}

/* EDK2, OvmfPkg/VarStore.fdf.inc: a firmware volume (PI 1.7, volume 3, 3.2.1) whose first half is for
 * variables, an event log and the record of writes under way, the other half a spare for the first. */
void pc_firmware_format(uint8_t *flash, uint64_t size)
{
    enum { BLOCK = 4096, VOLUME_HEADER = 0x48, CHECKSUM = 0x32 };
    static const uint8_t volume[] = {0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c,
                                     0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50};
    static const uint8_t variables[] = {0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43,
                                        0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92};
    static const uint8_t record[] = {0x2b, 0x29, 0x58, 0x9e, 0x68, 0x7c, 0x7d, 0x49, 0xa0, 0xce, 0x65,
                                     0x00, 0xfd, 0x9f, 0x1b, 0x95, 0x2c, 0xaf, 0x2c, 0x64, 0xfe, 0xff,
                                     0xff, 0xff, 0xe0, 0x0f, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
    uint16_t sum = 0;
    if (size < 8 * BLOCK || size % (2 * BLOCK) != 0 || size > PC_FIRMWARE_MAX)
        return;
    memset(flash, 0, VOLUME_HEADER + 28);
    memcpy(flash + 16, volume, sizeof(volume));
    store_le64(flash + 0x20, size);
    memcpy(flash + 0x28, "_FVH", 4);
    store_le32(flash + 0x2c, 0x4feff); /* attributes */
    store_le16(flash + 0x30, VOLUME_HEADER);
    flash[0x37] = 2; /* revision */
    store_le32(flash + 0x38, (uint32_t)(size / BLOCK));
    store_le32(flash + 0x3c, BLOCK);
    for (unsigned i = 0; i < VOLUME_HEADER; i += 2)
        sum = (uint16_t)(sum + load_le16(flash + i));
    store_le16(flash + CHECKSUM, (uint16_t)(0 - sum));
    memcpy(flash + VOLUME_HEADER, variables, sizeof(variables));
    store_le32(flash + VOLUME_HEADER + 16, (uint32_t)(size / 2 - 2 * BLOCK - VOLUME_HEADER));
    flash[VOLUME_HEADER + 20] = 0x5a; /* formatted, */
    flash[VOLUME_HEADER + 21] = 0xfe; /* and healthy */
    memcpy(flash + size / 2 - BLOCK, record, sizeof(record));
}

static bool check_image(const struct boot_file *file, struct error **err)
{
    uint8_t head[16];
    if (file->size % MEM_PAGE_SIZE != 0 || file->size < 64 * KIB || file->size > PC_FIRMWARE_MAX) {
        error_set(err, ERROR_USAGE,
                  "the firmware '%s' is no image for x86_64 machines: its size is %llu bytes, no "
                  "multiple of 4 KiB between 64 KiB and 16 MiB",
                  file->path, (unsigned long long)file->size);
        error_hint(err, "Debian's packages ovmf (/usr/share/OVMF/OVMF_CODE_4M.fd) and seabios "
                        "(/usr/share/seabios/bios-256k.bin) have some.");
        return false;
    }
    if (!boot_read(file, 0, head, sizeof(head), err))
        return false;
    return !boot_is_elf(head, sizeof(head)) ||
           error_set(err, ERROR_USAGE,
                     "the firmware '%s' is a program (ELF), not an image for x86_64 machines",
                     file->path);
}

static bool check_kernel(const struct boot *boot, struct error **err)
{
    const struct boot_file *kernel = boot_file_of(boot, BOOT_KERNEL),
                           *initrd = boot_file_of(boot, BOOT_INITRD);
    uint8_t head[BOOT_HEAD_SIZE] = {0};
    struct bzimage image;
    if (kernel == NULL)
        return initrd == NULL ||
               error_set(err, ERROR_USAGE, "the initrd '%s' has no kernel to start it",
                         initrd->path);
    size_t size = kernel->size < sizeof(head) ? (size_t)kernel->size : sizeof(head);
    if (!boot_read(kernel, 0, head, size, err))
        return false;
    if (!bzimage_is(head, size))
        return error_set(err, ERROR_USAGE, "firmware starts bzImages only, and '%s' is none",
                         kernel->path);
    return bzimage_read(kernel, &image, err) && (initrd == NULL || boot_check_initrd(initrd, err));
}

bool pc_firmware_plan(struct boot *boot, uint64_t low_ram, struct error **err)
{
    const struct boot_file *file = boot_file_of(boot, BOOT_FIRMWARE);
    if (!check_image(file, err) || !check_kernel(boot, err))
        return false;
    if (low_ram < MEMORY_MIN) {
        error_set(err, ERROR_USAGE, "firmware needs %llu MiB of memory, the guest has %llu MiB",
                  (unsigned long long)(MEMORY_MIN / MIB), (unsigned long long)(low_ram / MIB));
        error_hint(err, "Give it more with --memory 256M.");
        return false;
    }
    uint64_t copied = file->size < LOW_COPY ? file->size : LOW_COPY;
    const struct boot_segment low = {file, file->size - copied, copied,
                                     LOW_COPY_GPA + LOW_COPY - copied, copied};
    boot->rom = (struct boot_rom){file, PC_FIRMWARE_END - file->size};
    return boot_add_segment(boot, &low, 0, low_ram, err);
}

/* ---- what it is told ---- */

static struct device *find_fw_cfg(const struct vm *vm)
{
    for (size_t i = 0; i < vm->device_count; i++)
        if (vm->devices[i]->ops == &device_fw_cfg)
            return vm->devices[i];
    assert(false && "it is a part of the board");
    return NULL;
}

static void put(struct state_buffer *to, uint64_t value, unsigned size)
{
    uint8_t bytes[8];
    store_le64(bytes, value);
    state_buffer_add(to, bytes, size);
}

static void add_file(struct device *fw_cfg, const char *name, struct state_buffer *bytes)
{
    fw_cfg_add_file(fw_cfg, name, bytes->data, bytes->size);
    state_buffer_free(bytes);
}

/* Entries as the BIOS call has them. */
static void add_memory(struct device *fw_cfg, const struct vm *vm)
{
    enum { TYPE_RAM = 1 };
    struct state_buffer map = {0};
    for (size_t i = 0; i < mem_ram_count(vm->mem); i++) {
        const struct mem_ram *ram = mem_ram_at(vm->mem, i);
        put(&map, ram->gpa, 8);
        put(&map, ram->size, 8);
        put(&map, TYPE_RAM, 4);
    }
    add_file(fw_cfg, "etc/e820", &map);
}

/* The windows that BARs may be in: OVMF would choose others. HOST_BRIDGE_INFO, version 0. */
static void add_windows(struct device *fw_cfg, const struct vm *vm)
{
    enum { TYPE_HOST_BRIDGE = 1, SIZE = 112, NO_EXTENDED_CONFIG = 1 << 1, COMBINED = 1 << 2 };
    enum { IO_FIRST = 0xc000, IO_SIZE = 0x4000, LAST_BUS = 255 };
    enum { ATTRIBUTES = 0x70069 }; /* what OVMF gives the bus otherwise: ISA, VGA and IDE */
    const struct pci_window *low = &vm->device_env.pci->windows[0],
                            *high = &vm->device_env.pci->windows[1];
    const uint64_t ranges[][2] = {{IO_FIRST, IO_SIZE},
                                  {low->gpa, low->size},
                                  {0, 0},
                                  {high->gpa, high->size},
                                  {0, 0},
                                  {0, 0}};
    struct state_buffer info = {0};
    put(&info, TYPE_HOST_BRIDGE, 8);
    put(&info, 8 + 8 + 8 + sizeof(ranges), 8);
    put(&info, 0, 8);
    put(&info, ATTRIBUTES, 8);
    put(&info, NO_EXTENDED_CONFIG | COMBINED, 4);
    put(&info, LAST_BUS << 8, 4);
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        put(&info, ranges[i][0], 8);
        put(&info, ranges[i][1], 8);
    }
    add_file(fw_cfg, "etc/hardware-info", &info);
}

/* ---- ACPI: files, and a script that says what to do with them ---- */

#define RSDP   "etc/acpi/rsdp"
#define TABLES "etc/acpi/tables"

enum { SCRIPT_ALLOCATE = 1, SCRIPT_POINTER, SCRIPT_CHECKSUM };
enum { SCRIPT_NAME = 56, SCRIPT_COMMAND = 128 };
enum { ZONE_HIGH = 1, ZONE_LOW = 2 };

static uint8_t *add_command(struct state_buffer *script, uint32_t type, const char *name)
{
    static const uint8_t empty[SCRIPT_COMMAND];
    state_buffer_add(script, empty, sizeof(empty));
    uint8_t *command = script->data + script->size - SCRIPT_COMMAND;
    store_le32(command, type);
    memcpy(command + 4, name, strlen(name));
    return command + 4 + SCRIPT_NAME;
}

static void add_allocation(struct state_buffer *script, const char *name, uint8_t zone)
{
    enum { ALIGNMENT = 64 };
    uint8_t *rest = add_command(script, SCRIPT_ALLOCATE, name);
    store_le32(rest, ALIGNMENT);
    rest[4] = zone;
}

/* What lies in the first bytes is in the one file, the rest in the other, at the same offsets. */
static const char *file_at(uint32_t at)
{
    return at < PC_ACPI_RSDP_SIZE ? RSDP : TABLES;
}

static void add_links(struct state_buffer *script, const struct pc_acpi_links *links)
{
    for (size_t i = 0; i < links->pointer_count; i++) {
        uint8_t *rest = add_command(script, SCRIPT_POINTER, file_at(links->pointers[i].at));
        memcpy(rest, TABLES, strlen(TABLES));
        store_le32(rest + SCRIPT_NAME, links->pointers[i].at);
        rest[SCRIPT_NAME + 4] = (uint8_t)links->pointers[i].size;
    }
    for (size_t i = 0; i < links->sum_count; i++) {
        uint8_t *rest = add_command(script, SCRIPT_CHECKSUM, file_at(links->sums[i].at));
        store_le32(rest, links->sums[i].at);
        store_le32(rest + 4, links->sums[i].from);
        store_le32(rest + 8, links->sums[i].size);
    }
}

static bool add_acpi(struct device *fw_cfg, struct vm *vm, struct error **err)
{
    struct pc_acpi_links links = {.pointer_count = 0};
    struct pc_acpi_setup setup = pc_acpi_setup(vm);
    struct state_buffer script = {0};
    uint8_t *tables = alloc_zeroed(1, PC_ACPI_MAX);
    setup.links = &links;
    size_t size = pc_acpi_build(&setup, 0, tables, PC_ACPI_MAX);
    if (size != 0) {
        fw_cfg_add_file(fw_cfg, RSDP, tables, PC_ACPI_RSDP_SIZE);
        memset(tables, 0, PC_ACPI_RSDP_SIZE);
        fw_cfg_add_file(fw_cfg, TABLES, tables, size);
        add_allocation(&script, RSDP, ZONE_LOW);
        add_allocation(&script, TABLES, ZONE_HIGH);
        add_links(&script, &links);
        add_file(fw_cfg, "etc/table-loader", &script);
    }
    free(tables);
    return size != 0 || error_set(err, ERROR_INTERNAL, "the ACPI tables are too large");
}

/* ---- a kernel that it is to start ---- */

static void add_part(struct device *fw_cfg, uint16_t size_key, uint16_t key,
                     const struct boot_file *file, uint64_t offset, uint64_t size)
{
    fw_cfg_add_number(fw_cfg, size_key, size, 4);
    fw_cfg_add_part(fw_cfg, key, file->fd, offset, size);
}

static bool add_kernel(struct device *fw_cfg, const struct vm *vm, struct error **err)
{
    const struct boot *boot = &vm->files.boot;
    const struct boot_file *kernel = boot_file_of(boot, BOOT_KERNEL),
                           *initrd = boot_file_of(boot, BOOT_INITRD);
    struct bzimage image;
    if (kernel == NULL)
        return true;
    if (!bzimage_read(kernel, &image, err))
        return false;
    char *words = pc_command_line(vm, err);
    if (words == NULL)
        return false;
    add_part(fw_cfg, FW_CFG_SETUP_SIZE, FW_CFG_SETUP, kernel, 0, image.kernel_offset);
    add_part(fw_cfg, FW_CFG_KERNEL_SIZE, FW_CFG_KERNEL, kernel, image.kernel_offset,
             kernel->size - image.kernel_offset);
    if (initrd != NULL)
        add_part(fw_cfg, FW_CFG_INITRD_SIZE, FW_CFG_INITRD, initrd, 0, initrd->size);
    fw_cfg_add_number(fw_cfg, FW_CFG_COMMAND_LINE_SIZE, strlen(words) + 1, 4);
    fw_cfg_add(fw_cfg, FW_CFG_COMMAND_LINE, words, strlen(words) + 1);
    free(words);
    return true;
}

bool pc_firmware_describe(struct vm *vm, struct error **err)
{
    static const uint8_t serial_port[2] = {PC_COM1_PORT & 0xff, PC_COM1_PORT >> 8};
    struct device *fw_cfg = find_fw_cfg(vm);
    fw_cfg_clear(fw_cfg);
    fw_cfg_add_number(fw_cfg, FW_CFG_CPUS, vm->cpu_count, 2);
    fw_cfg_add_number(fw_cfg, FW_CFG_MAX_CPUS, vm->cpu_count, 2);
    fw_cfg_add_file(fw_cfg, "etc/sercon-port", serial_port, sizeof(serial_port)); /* SeaBIOS */
    add_memory(fw_cfg, vm);
    add_windows(fw_cfg, vm);
    return add_acpi(fw_cfg, vm, err) && add_kernel(fw_cfg, vm, err);
}
