/* SPDX-License-Identifier: MIT
 *
 * What starts a guest on the riscv64 board. Where things go:
 *
 *     RAM base                firmware, if any (bare-metal ELF: where it says)
 *     RAM base + text_offset  kernel Image (its header says; 2 MiB on riscv64)
 *     …
 *     top - FDT - initrd      initrd, page-aligned
 *     top - 2 MiB             device tree, then fw_dynamic_info
 *     top                     end of RAM, or RAM base + 2 GiB if there is more: firmware and
 *                             early kernels map low memory only
 */
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "isa/riscv64/hart.h"
#include "vm/machine.h"
#include "vm/virt/virt.h"

#define FDT_ROOM  (2 * MIB)
#define FDT_MAX   (1 * MIB)
#define TOP_LIMIT (2 * GIB)
/* What Linux needs beside its image to come up at all: page structs, page tables, slabs;
 * found by trying (31 MB image: 96 MiB boots, 80 MiB does not). */
#define KERNEL_SLACK (48 * MIB)

struct planner {
    struct boot *boot;
    uint64_t ram_base, ram_size;
    uint64_t loaded_end; /* first gpa behind what is loaded low */
};

/* Memory, in the guest's own terms, that a kernel of this size cannot do without. */
static bool enough_memory(const struct planner *plan, const struct boot_file *file,
                          uint64_t kernel_size, struct error **err)
{
    uint64_t needed = kernel_size + KERNEL_SLACK;
    if (needed <= plan->ram_size)
        return true;
    error_set(err, ERROR_USAGE,
              "the kernel '%s' needs about %llu MiB of memory to start, the guest has %llu MiB",
              file->path, (unsigned long long)((needed + MIB - 1) / MIB),
              (unsigned long long)(plan->ram_size / MIB));
    error_hint(err, "Give it more with --memory %lluM.",
               (unsigned long long)(align_up(needed, 32 * MIB) / MIB));
    return false;
}

static bool plan_image(struct planner *plan, const struct boot_file *file, uint64_t *entry,
                       struct error **err)
{
    struct linux_image image;
    if (!boot_read_image(file, &image, err) ||
        !enough_memory(plan, file, image.text_offset + image.size, err))
        return false;
    struct boot_segment segment = {file, 0, file->size, plan->ram_base + image.text_offset,
                                   image.size};
    *entry = segment.gpa;
    plan->loaded_end = segment.gpa + image.size;
    return boot_add_segment(plan->boot, &segment, plan->ram_base, plan->ram_size, err);
}

static bool plan_kernel(struct planner *plan, const struct boot_file *file, uint64_t *entry,
                        struct error **err)
{
    uint8_t head[BOOT_HEAD_SIZE] = {0};
    size_t size = file->size < sizeof(head) ? (size_t)file->size : sizeof(head);
    if (!boot_read(file, 0, head, size, err))
        return false;
    if (boot_is_image(head, size))
        return plan_image(plan, file, entry, err);
    if (!boot_is_elf(head, size))
        return boot_refuse_kernel(file, "riscv64", head, size, err);
    struct elf_result result;
    if (!boot_load_elf(plan->boot, file, EM_RISCV, plan->ram_base, plan->ram_size, &result, err))
        return false;
    *entry = result.entry;
    plan->loaded_end = result.end;
    return true;
}

/* M-mode firmware: an ELF, or a raw binary for the start of RAM. */
static bool plan_firmware(struct planner *plan, const struct boot_file *file, struct error **err)
{
    struct boot *boot = plan->boot;
    uint8_t head[16] = {0};
    size_t size = file->size < sizeof(head) ? (size_t)file->size : sizeof(head);
    if (!boot_read(file, 0, head, size, err))
        return false;
    if (boot_is_elf(head, size)) {
        struct elf_result result;
        if (!boot_load_elf(boot, file, EM_RISCV, plan->ram_base, plan->ram_size, &result, err))
            return false;
        boot->entry = result.entry;
        boot->tohost_gpa = result.tohost;
        boot->fromhost_gpa = result.fromhost;
        plan->loaded_end = result.end;
        return true;
    }
    boot->entry = plan->ram_base;
    plan->loaded_end = plan->ram_base + file->size;
    struct boot_segment segment = {file, 0, file->size, plan->ram_base, file->size};
    return boot_add_segment(boot, &segment, plan->ram_base, plan->ram_size, err);
}

static bool plan_initrd(struct planner *plan, const struct boot_file *file, struct error **err)
{
    struct boot *boot = plan->boot;
    if (!boot_check_initrd(file, err))
        return false;
    if (file->size > boot->fdt_gpa - plan->ram_base ||
        align_down(boot->fdt_gpa - file->size, MEM_PAGE_SIZE) < plan->loaded_end) {
        error_set(err, ERROR_USAGE, "the initrd '%s' (%llu MiB) does not fit behind the kernel",
                  file->path, (unsigned long long)((file->size + MIB - 1) / MIB));
        error_hint(err, "Give the guest more memory with --memory.");
        return false;
    }
    boot->initrd_size = file->size;
    boot->initrd_gpa = align_down(boot->fdt_gpa - file->size, MEM_PAGE_SIZE);
    struct boot_segment segment = {file, 0, file->size, boot->initrd_gpa, file->size};
    return boot_add_segment(boot, &segment, plan->ram_base, plan->ram_size, err);
}

bool virt_boot_plan(struct boot *boot, uint64_t ram_base, uint64_t ram_size, struct error **err)
{
    struct planner plan = {boot, ram_base, ram_size, ram_base};
    const struct boot_file *firmware = boot_file_of(boot, BOOT_FIRMWARE),
                           *kernel = boot_file_of(boot, BOOT_KERNEL),
                           *initrd = boot_file_of(boot, BOOT_INITRD);
    uint64_t *kernel_entry = boot->sbi ? &boot->entry : &boot->next_entry;
    uint64_t firmware_end = ram_base;
    if (firmware != NULL && !plan_firmware(&plan, firmware, err))
        return false;
    firmware_end = plan.loaded_end;
    if (kernel != NULL && !plan_kernel(&plan, kernel, kernel_entry, err))
        return false;
    if (firmware != NULL && kernel != NULL && *kernel_entry < firmware_end)
        return error_set(err, ERROR_USAGE,
                         "the firmware '%s' and the kernel '%s' overlap in memory", firmware->path,
                         kernel->path);
    uint64_t top = ram_base + (ram_size < TOP_LIMIT ? ram_size : TOP_LIMIT);
    boot->fdt_gpa = align_down(top - FDT_ROOM, FDT_ROOM);
    boot->fdt_limit = FDT_MAX;
    if (boot->fdt_gpa < plan.loaded_end) {
        error_set(err, ERROR_USAGE, "there is no room for the device tree behind what is loaded");
        error_hint(err, "Give the guest more memory with --memory.");
        return false;
    }
    return initrd == NULL || plan_initrd(&plan, initrd, err);
}

/* ---- carrying it out ---- */

/* What OpenSBI's fw_dynamic reads at a2 (its include/sbi/fw_dynamic.h). */
static uint64_t write_dynamic_info(struct vm *vm)
{
    const struct boot *boot = &vm->files.boot;
    uint64_t gpa = boot->fdt_gpa + FDT_MAX;
    const uint64_t info[6] = {
        UINT64_C(0x4942534f), /* "OSBI" */
        2,                    /* version */
        boot->next_entry,
        RV_S,      /* next mode */
        0,         /* options */
        UINT64_MAX /* any boot hart */
    };
    for (size_t i = 0; i < ARRAY_SIZE(info); i++) {
        uint8_t bytes[8];
        store_le64(bytes, info[i]);
        bool written = mem_write(vm->mem, gpa + 8 * i, bytes, sizeof(bytes));
        (void)written; /* inside RAM by the plan */
    }
    return gpa;
}

/* At every start anew. */
static void dump_fdt(struct vm *vm, const void *fdt, size_t size)
{
    int fd = vm->files.dump_fdt;
    errno = vm->files.dump_error;
    if (fd >= 0 && lseek(fd, 0, SEEK_SET) == 0)
        (void)!ftruncate(fd, 0);
    if (fd < 0 || write(fd, fdt, size) != (ssize_t)size)
        log_warning(vm->log, "cannot write the device tree to '%s': %s", vm->config.dump_fdt,
                    strerror(errno));
}

static bool load_fdt(struct vm *vm, struct error **err)
{
    size_t size;
    void *fdt = virt_fdt_new(vm, &size, err);
    if (fdt == NULL)
        return false;
    bool good =
        size <= vm->files.boot.fdt_limit && mem_write(vm->mem, vm->files.boot.fdt_gpa, fdt, size);
    if (!good)
        error_set(err, ERROR_INTERNAL, "the device tree is too large (%zu bytes)", size);
    if (good && vm->config.dump_fdt != NULL)
        dump_fdt(vm, fdt, size);
    free(fdt);
    return good;
}

bool virt_load(struct vm *vm, struct error **err)
{
    const struct boot *boot = &vm->files.boot;
    if (!load_fdt(vm, err))
        return false;
    uint64_t info = boot->sbi ? 0 : write_dynamic_info(vm);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct vm_cpu *cpu = &vm->cpus[i];
        struct rv_hart *hart = rv_hart_of(cpu->vcpu);
        hart->sbi_calls = boot->sbi;
        if (boot->sbi) {
            rv_enter_supervisor(hart, boot->entry, i, boot->fdt_gpa);
        } else {
            hart->pc = boot->entry;
            hart->x[10] = i;
            hart->x[11] = boot->fdt_gpa;
            hart->x[12] = info;
        }
        /* An SBI starts the boot hart; the kernel starts the others through HSM. */
        if (boot->sbi && i > 0)
            atomic_store(&cpu->state, CPU_STOPPED);
    }
    return true;
}
