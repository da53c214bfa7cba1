/* SPDX-License-Identifier: MIT
 *
 * See boot.h: Linux, Documentation/arch/x86/boot.rst and zero-page.rst; Xen, docs/misc/pvh.pandoc
 * and xen/include/public/arch-x86/hvm/start_info.h.
 */
#include "vm/pc/boot.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "mem/mem.h"
#include "vm/boot.h"
#include "vm/pc/load_linux.h"
#include "vm/pc/pc.h"

/* What Linux needs beside its image to come up at all. */
#define KERNEL_SLACK (32 * MIB)

/* ---- the plan ---- */

struct plan {
    struct boot *boot;
    uint64_t low_ram, end; /* end: first gpa behind what is loaded */
    uint64_t initrd_max;
};

static bool too_little_memory(const struct boot_file *file, uint64_t needed, uint64_t have,
                              struct error **err)
{
    error_set(err, ERROR_USAGE,
              "the kernel '%s' needs about %llu MiB of memory to start, the guest has %llu MiB",
              file->path, (unsigned long long)((needed + MIB - 1) / MIB),
              (unsigned long long)(have / MIB));
    error_hint(err, "Give it more with --memory %lluM.",
               (unsigned long long)(align_up(needed, 32 * MIB) / MIB));
    return false;
}

static bool check_command_line(const struct bzimage *image, const struct boot_file *file,
                               const char *command_line, struct error **err)
{
    return strlen(command_line) <= image->command_line_max ||
           error_set(err, ERROR_USAGE,
                     "the kernel '%s' takes a command line of %llu bytes, not of %zu", file->path,
                     (unsigned long long)image->command_line_max, strlen(command_line));
}

static bool plan_bzimage(struct plan *plan, const struct boot_file *file, const char *command_line,
                         struct error **err)
{
    struct bzimage image;
    if (!bzimage_read(file, &image, err))
        return false;
    uint64_t gpa = image.preferred_gpa;
    if (image.relocatable && gpa + image.memory_size + KERNEL_SLACK > plan->low_ram)
        gpa = align_up(PC_BOOT_KERNEL_MIN, image.alignment);
    if (gpa + image.memory_size + KERNEL_SLACK > plan->low_ram)
        return too_little_memory(file, gpa + image.memory_size + KERNEL_SLACK, plan->low_ram, err);
    if (gpa < PC_BOOT_KERNEL_MIN)
        return error_set(err, ERROR_USAGE, "the kernel '%s' wants to run below 1 MiB", file->path);
    if (!check_command_line(&image, file, command_line, err))
        return false;
    enum { ENTRY64 = 0x200 };
    plan->boot->protocol = PC_LINUX64;
    plan->boot->entry = gpa + ENTRY64;
    plan->end = gpa + image.memory_size;
    plan->initrd_max = image.initrd_max;
    const struct boot_segment segment = {file, image.kernel_offset,
                                         file->size - image.kernel_offset, gpa, image.memory_size};
    return boot_add_segment(plan->boot, &segment, 0, plan->low_ram, err);
}

static bool plan_elf(struct plan *plan, const struct boot_file *file, struct error **err)
{
    struct elf_result result;
    if (!boot_load_elf(plan->boot, file, EM_X86_64, PC_BOOT_KERNEL_MIN,
                       plan->low_ram - PC_BOOT_KERNEL_MIN, &result, err))
        return false;
    uint64_t pvh = pvh_entry(file);
    plan->boot->protocol = pvh != 0 ? PC_PVH : PC_LINUX64;
    plan->boot->entry = pvh != 0 ? pvh : result.entry;
    plan->end = result.end;
    plan->initrd_max = UINT32_MAX;
    if (plan->boot->entry < PC_BOOT_KERNEL_MIN || plan->boot->entry >= plan->low_ram)
        return error_set(err, ERROR_USAGE, "'%s' starts outside of the guest's memory", file->path);
    return true;
}

static bool plan_kernel(struct plan *plan, const struct boot_file *file, const char *command_line,
                        struct error **err)
{
    uint8_t head[BOOT_HEAD_SIZE] = {0};
    size_t size = file->size < sizeof(head) ? (size_t)file->size : sizeof(head);
    if (!boot_read(file, 0, head, size, err))
        return false;
    if (bzimage_is(head, size))
        return plan_bzimage(plan, file, command_line, err);
    return boot_is_elf(head, size) ? plan_elf(plan, file, err)
                                   : boot_refuse_kernel(file, "x86_64", head, size, err);
}

/* As high as the kernel lets it. */
static bool plan_initrd(struct plan *plan, const struct boot_file *file, struct error **err)
{
    struct boot *boot = plan->boot;
    uint64_t top = plan->low_ram - 1 < plan->initrd_max ? plan->low_ram : plan->initrd_max + 1;
    if (!boot_check_initrd(file, err))
        return false;
    if (file->size > top || align_down(top - file->size, MEM_PAGE_SIZE) < plan->end) {
        error_set(err, ERROR_USAGE, "the initrd '%s' (%llu MiB) does not fit behind the kernel",
                  file->path, (unsigned long long)((file->size + MIB - 1) / MIB));
        error_hint(err, "Give the guest more memory with --memory.");
        return false;
    }
    boot->initrd_size = file->size;
    boot->initrd_gpa = align_down(top - file->size, MEM_PAGE_SIZE);
    const struct boot_segment segment = {file, 0, file->size, boot->initrd_gpa, file->size};
    return boot_add_segment(boot, &segment, 0, plan->low_ram, err);
}

bool pc_boot_plan(struct boot *boot, uint64_t low_ram, const char *command_line, struct error **err)
{
    struct plan plan = {.boot = boot, .low_ram = low_ram};
    const struct boot_file *kernel = boot_file_of(boot, BOOT_KERNEL),
                           *initrd = boot_file_of(boot, BOOT_INITRD);
    if (kernel == NULL) {
        error_set(err, ERROR_USAGE, "there is nothing to start");
        error_hint(err, "Give it a kernel with --kernel, or an image with --image.");
        return false;
    }
    if (low_ram <= 2 * PC_BOOT_KERNEL_MIN)
        return too_little_memory(kernel, KERNEL_SLACK, low_ram, err);
    if (strlen(command_line) > PC_BOOT_COMMAND_LINE_MAX)
        return error_set(err, ERROR_USAGE, "the kernel's command line has more than %d bytes",
                         PC_BOOT_COMMAND_LINE_MAX);
    return plan_kernel(&plan, kernel, command_line, err) &&
           (initrd == NULL || plan_initrd(&plan, initrd, err));
}

bool pc_boot_acpi(const struct boot *boot, const char *append, bool *looks, struct error **err)
{
    const struct boot_file *kernel = boot_file_of(boot, BOOT_KERNEL);
    uint8_t head[BOOT_HEAD_SIZE];
    *looks = append == NULL || strstr(append, "acpi=off") == NULL;
    if (!*looks || kernel == NULL)
        return true;
    size_t size = kernel->size < sizeof(head) ? (size_t)kernel->size : sizeof(head);
    if (!boot_read(kernel, 0, head, size, err))
        return false;
    return !boot_is_elf(head, size) || boot_kernel_contains(boot, "RSD PTR ", looks, err);
}

/* ---- carrying it out ---- */

/* struct boot_params; the setup header lies in it as in the file. */
enum {
    PARAMS_RSDP = 0x070,
    PARAMS_MEMORY_COUNT = 0x1e8,
    PARAMS_LOADER = 0x210,
    PARAMS_FLAGS = 0x211,
    PARAMS_INITRD = 0x218,
    PARAMS_INITRD_SIZE = 0x21c,
    PARAMS_COMMAND_LINE = 0x228,
    PARAMS_SETUP_DATA = 0x250,
    PARAMS_MEMORY = 0x2d0,
    PARAMS_MEMORY_STEP = 20,
    PARAMS_SIZE = 0x1000
};
enum { LOADER_UNKNOWN = 0xff, FLAG_HIGH = 1, FLAG_HEAP = 0x80 };

static bool write_params(const struct boot *boot, const struct pc_boot_info *info,
                         struct mem_space *mem, struct error **err)
{
    uint8_t params[PARAMS_SIZE] = {0};
    const struct boot_file *kernel = boot_file_of(boot, BOOT_KERNEL);
    uint8_t head[BOOT_HEAD_SIZE];
    struct bzimage image;
    if (kernel->size >= sizeof(head)) {
        if (!boot_read(kernel, 0, head, sizeof(head), err))
            return false;
        if (bzimage_is(head, sizeof(head))) {
            if (!bzimage_read(kernel, &image, err) ||
                !check_command_line(&image, kernel, info->command_line, err))
                return false;
            memcpy(params + BZIMAGE_HEADER, image.header, image.header_size);
        }
    }
    store_le64(params + PARAMS_RSDP, info->rsdp_gpa);
    params[PARAMS_LOADER] = LOADER_UNKNOWN;
    params[PARAMS_FLAGS] = (uint8_t)((params[PARAMS_FLAGS] & ~FLAG_HEAP) | FLAG_HIGH);
    store_le32(params + PARAMS_INITRD, (uint32_t)boot->initrd_gpa);
    store_le32(params + PARAMS_INITRD_SIZE, (uint32_t)boot->initrd_size);
    store_le32(params + PARAMS_COMMAND_LINE, (uint32_t)PC_BOOT_COMMAND_LINE);
    store_le64(params + PARAMS_SETUP_DATA, PC_BOOT_SEED);
    params[PARAMS_MEMORY_COUNT] = (uint8_t)info->memory_count;
    for (size_t i = 0; i < info->memory_count; i++) {
        uint8_t *to = params + PARAMS_MEMORY + i * PARAMS_MEMORY_STEP;
        store_le64(to, info->memory[i].gpa);
        store_le64(to + 8, info->memory[i].size);
        store_le32(to + 16, info->memory[i].type);
    }
    return mem_write(mem, PC_BOOT_INFO, params, sizeof(params));
}

static bool write_start_info(const struct boot *boot, const struct pc_boot_info *info,
                             struct mem_space *mem)
{
    enum { INFO_SIZE = 56, MODULE_SIZE = 32, MEMORY_STEP = 24 };
    uint8_t bytes[INFO_SIZE + MODULE_SIZE + PC_MEMORY_MAX * MEMORY_STEP] = {0};
    uint8_t *module = bytes + INFO_SIZE, *memory = module + MODULE_SIZE;
    store_le32(bytes, 0x336ec578); /* the magic number */
    store_le32(bytes + 4, 1);      /* version */
    store_le32(bytes + 12, boot->initrd_size != 0);
    store_le64(bytes + 16, PC_BOOT_INFO + INFO_SIZE);
    store_le64(bytes + 24, PC_BOOT_COMMAND_LINE);
    store_le64(bytes + 32, info->rsdp_gpa);
    store_le64(bytes + 40, PC_BOOT_INFO + INFO_SIZE + MODULE_SIZE);
    store_le32(bytes + 48, (uint32_t)info->memory_count);
    store_le64(module, boot->initrd_gpa);
    store_le64(module + 8, boot->initrd_size);
    for (size_t i = 0; i < info->memory_count; i++) {
        store_le64(memory + i * MEMORY_STEP, info->memory[i].gpa);
        store_le64(memory + i * MEMORY_STEP + 8, info->memory[i].size);
        store_le32(memory + i * MEMORY_STEP + 16, info->memory[i].type);
    }
    return mem_write(mem, PC_BOOT_INFO, bytes, sizeof(bytes));
}

/* Four levels; the last are pages of 2 MiB. */
static bool write_page_tables(struct mem_space *mem)
{
    enum { PRESENT_WRITABLE = 3, LARGE = 0x80, DIRECTORIES = 4, ENTRIES = 512 };
    static const uint64_t directory = PC_BOOT_PAGES + 2 * MEM_PAGE_SIZE;
    uint8_t page[MEM_PAGE_SIZE] = {0};
    store_le64(page, (PC_BOOT_PAGES + MEM_PAGE_SIZE) | PRESENT_WRITABLE);
    bool good = mem_write(mem, PC_BOOT_PAGES, page, sizeof(page));
    for (unsigned i = 0; i < DIRECTORIES; i++)
        store_le64(page + (size_t)8 * i, (directory + i * MEM_PAGE_SIZE) | PRESENT_WRITABLE);
    good = mem_write(mem, PC_BOOT_PAGES + MEM_PAGE_SIZE, page, sizeof(page)) && good;
    for (unsigned d = 0; d < DIRECTORIES; d++) {
        for (unsigned i = 0; i < ENTRIES; i++)
            store_le64(page + (size_t)8 * i,
                       ((uint64_t)d * ENTRIES + i) * (2 * MIB) | LARGE | PRESENT_WRITABLE);
        good = mem_write(mem, directory + d * MEM_PAGE_SIZE, page, sizeof(page)) && good;
    }
    return good;
}

/* Selectors 0x10 and 0x18, as the boot protocol wants them. */
static bool write_gdt(const struct boot *boot, struct mem_space *mem)
{
    const uint64_t code =
        boot->protocol == PC_PVH ? UINT64_C(0x00cf9b000000ffff) : UINT64_C(0x00af9b000000ffff);
    const uint64_t entries[4] = {0, 0, code, UINT64_C(0x00cf93000000ffff)};
    uint8_t bytes[sizeof(entries)];
    for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
        store_le64(bytes + 8 * i, entries[i]);
    return mem_write(mem, PC_BOOT_GDT, bytes, sizeof(bytes));
}

/* struct setup_data */
static bool write_seed(const struct pc_boot_info *info, struct mem_space *mem)
{
    enum { RNG_SEED = 9, HEADER = 16 };
    uint8_t bytes[HEADER + sizeof(info->seed)] = {0};
    store_le32(bytes + 8, RNG_SEED);
    store_le32(bytes + 12, sizeof(info->seed));
    memcpy(bytes + HEADER, info->seed, sizeof(info->seed));
    return mem_write(mem, PC_BOOT_SEED, bytes, sizeof(bytes));
}

bool pc_boot_write(const struct boot *boot, const struct pc_boot_info *info, struct mem_space *mem,
                   struct error **err)
{
    struct error *reason = NULL;
    bool good =
        mem_write(mem, PC_BOOT_COMMAND_LINE, info->command_line, strlen(info->command_line) + 1) &&
        write_gdt(boot, mem) && write_page_tables(mem) && write_seed(info, mem) &&
        (boot->protocol == PC_PVH ? write_start_info(boot, info, mem)
                                  : write_params(boot, info, mem, &reason));
    if (reason != NULL)
        return error_propagate(err, reason);
    return good ||
           error_set(err, ERROR_INTERNAL, "what the kernel is told does not fit into memory");
}
