/* SPDX-License-Identifier: MIT
 *
 * See boot.h. Where things go:
 *
 *     RAM base                firmware, if any (bare-metal ELF: where it says)
 *     RAM base + text_offset  kernel Image (its header says; 2 MiB on riscv64)
 *     …
 *     top - FDT - initrd      initrd, page-aligned
 *     top - 2 MiB             device tree, then fw_dynamic_info
 *     top                     end of RAM, or RAM base + 2 GiB if there is more: firmware and
 *                             early kernels map low memory only
 */
#include "vm/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "isa/riscv64/hart.h"
#include "vm/machine.h"

#define FDT_ROOM  (2 * MIB)
#define FDT_MAX   (1 * MIB)
#define TOP_LIMIT (2 * GIB)
/* What Linux needs beside its image to come up at all: page structs, page tables, slabs;
 * found by trying (31 MB image: 96 MiB boots, 80 MiB does not). */
#define KERNEL_SLACK (48 * MIB)

/* ---- files ---- */

static bool take_file(struct boot_file *file, const char *what, const char *path, int fd,
                      struct error **err)
{
    struct stat status;
    *file = (struct boot_file){fd, 0, alloc_string(path)};
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return error_set(err, ERROR_USAGE, "the %s '%s' is not a regular file", what, path);
    if (status.st_size == 0)
        return error_set(err, ERROR_USAGE, "the %s '%s' is empty", what, path);
    file->size = (uint64_t)status.st_size;
    return true;
}

static const char *const file_names[BOOT_FILES] = {
    [BOOT_KERNEL] = "kernel", [BOOT_INITRD] = "initrd", [BOOT_FIRMWARE] = "firmware"};

bool boot_open(struct boot *boot, const struct machine_config *config, struct error **err)
{
    const char *const paths[BOOT_FILES] = {config->kernel, config->initrd, config->firmware};
    int fds[BOOT_FILES] = {-1, -1, -1};
    for (size_t i = 0; i < BOOT_FILES; i++) {
        fds[i] = paths[i] != NULL ? open(paths[i], O_RDONLY | O_CLOEXEC) : -1;
        if (paths[i] == NULL || fds[i] >= 0)
            continue;
        error_set_errno(err, errno, "cannot open the %s '%s'", file_names[i], paths[i]);
        while (i-- > 0)
            if (fds[i] >= 0)
                close(fds[i]);
        return false;
    }
    return boot_take(boot, config, fds, err);
}

bool boot_take(struct boot *boot, const struct machine_config *config, const int fds[BOOT_FILES],
               struct error **err)
{
    const char *const paths[BOOT_FILES] = {config->kernel, config->initrd, config->firmware};
    bool good = true;
    *boot = (struct boot){.sbi = config->firmware == NULL};
    for (size_t i = 0; i < BOOT_FILES; i++)
        if (paths[i] != NULL && fds[i] >= 0)
            good = take_file(&boot->files[i], file_names[i], paths[i], fds[i], good ? err : NULL) &&
                   good;
        else if (paths[i] != NULL && good)
            good = error_set(err, ERROR_INTERNAL, "the %s did not come along", file_names[i]);
    return good;
}

/* NULL: there is none. */
static const struct boot_file *file_of(const struct boot *boot, unsigned which)
{
    return boot->files[which].path != NULL ? &boot->files[which] : NULL;
}

bool boot_read(const struct boot_file *file, uint64_t offset, void *to, size_t size,
               struct error **err)
{
    while (size > 0) {
        ssize_t count = pread(file->fd, to, size, (off_t)offset);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return error_set_errno(err, errno, "cannot read '%s'", file->path);
        if (count == 0)
            return error_set(err, ERROR_HOST, "'%s' is shorter than it was a moment ago",
                             file->path);
        to = (uint8_t *)to + count;
        offset += (uint64_t)count;
        size -= (size_t)count;
    }
    return true;
}

void boot_clear(struct boot *boot)
{
    for (size_t i = 0; i < BOOT_FILES; i++) {
        if (boot->files[i].path != NULL)
            close(boot->files[i].fd);
        free(boot->files[i].path);
    }
    *boot = (struct boot){0};
}

/* ---- the plan ---- */

bool boot_add_segment(struct boot *boot, const struct boot_segment *segment, uint64_t ram_base,
                      uint64_t ram_size, struct error **err)
{
    const char *path = segment->file->path;
    if (!range_within(segment->offset, segment->file_size, segment->file->size) ||
        segment->file_size > segment->memory_size)
        return error_set(err, ERROR_USAGE,
                         "'%s' is truncated or damaged: it promises more bytes "
                         "than it has",
                         path);
    if (segment->gpa < ram_base ||
        !range_within(segment->gpa - ram_base, segment->memory_size, ram_size)) {
        error_set(err, ERROR_USAGE,
                  "'%s' wants to be loaded at 0x%llx (%llu KiB), outside of the guest's memory, "
                  "0x%llx to 0x%llx",
                  path, (unsigned long long)segment->gpa,
                  (unsigned long long)(segment->memory_size / KIB), (unsigned long long)ram_base,
                  (unsigned long long)(ram_base + ram_size));
        error_hint(err, "If it is only too large, give the guest more with --memory.");
        return false;
    }
    if (boot->segment_count == BOOT_MAX_SEGMENTS)
        return error_set(err, ERROR_USAGE, "'%s' has more than %d segments", path,
                         BOOT_MAX_SEGMENTS);
    boot->segments[boot->segment_count++] = *segment;
    return true;
}

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
        return boot_refuse_kernel(file, head, size, err);
    struct elf_result result;
    if (!boot_load_elf(plan->boot, file, plan->ram_base, plan->ram_size, &result, err))
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
        if (!boot_load_elf(boot, file, plan->ram_base, plan->ram_size, &result, err))
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

bool boot_plan(struct boot *boot, uint64_t ram_base, uint64_t ram_size, struct error **err)
{
    struct planner plan = {boot, ram_base, ram_size, ram_base};
    const struct boot_file *firmware = file_of(boot, BOOT_FIRMWARE),
                           *kernel = file_of(boot, BOOT_KERNEL),
                           *initrd = file_of(boot, BOOT_INITRD);
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

bool boot_kernel_contains(const struct boot *boot, const char *string, bool *contains,
                          struct error **err)
{
    enum { CHUNK = 256 * 1024 };
    size_t length = strlen(string), kept = 0;
    uint8_t *bytes = alloc_zeroed(1, CHUNK);
    const struct boot_file *kernel = file_of(boot, BOOT_KERNEL);
    uint64_t size = kernel != NULL ? kernel->size : 0;
    bool good = true;
    *contains = false;
    /* The end of each piece is looked at again in front of the next one. */
    for (uint64_t at = 0; good && !*contains && at < size;) {
        size_t piece = size - at < CHUNK - kept ? (size_t)(size - at) : CHUNK - kept;
        good = boot_read(kernel, at, bytes + kept, piece, err);
        size_t have = kept + piece;
        *contains = good && memmem(bytes, have, string, length) != NULL;
        at += piece;
        kept = have < length - 1 ? have : length - 1;
        memmove(bytes, bytes + have - kept, kept);
    }
    free(bytes);
    return good;
}

/* ---- carrying it out ---- */

bool boot_load_segments(const struct boot *boot, struct mem_space *mem, struct error **err)
{
    for (size_t i = 0; i < boot->segment_count; i++) {
        const struct boot_segment *segment = &boot->segments[i];
        uint8_t *to = mem_ram_pointer(mem, segment->gpa, segment->memory_size, MEM_WRITE);
        if (to == NULL)
            return error_set(err, ERROR_INTERNAL, "'%s' does not fit into one piece of memory",
                             segment->file->path);
        if (!boot_read(segment->file, segment->offset, to, segment->file_size, err))
            return false;
        memset(to + segment->file_size, 0, segment->memory_size - segment->file_size);
        mem_note_range(mem, segment->gpa, segment->memory_size); /* a second time: mem/mem.h */
    }
    return true;
}

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
    void *fdt = vm_fdt_new(vm, &size, err);
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

bool boot_load(struct vm *vm, struct error **err)
{
    const struct boot *boot = &vm->files.boot;
    /* A guest that starts again finds memory as at power-on: nothing of its former life. */
    if (vm->loaded && !mem_clear(vm->mem, vm->ram, err))
        return false;
    if (!boot_load_segments(boot, vm->mem, err) || !load_fdt(vm, err))
        return false;
    vm->loaded = true;
    vm->round = (struct vm_round){.left = VM_SLICE};
    uint64_t info = boot->sbi ? 0 : write_dynamic_info(vm);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct vm_cpu *cpu = &vm->cpus[i];
        struct rv_hart *hart = rv_hart_of(cpu->vcpu);
        vm_cpu_reset(cpu);
        cpu->vcpu->htif_tohost = boot->tohost_gpa;
        cpu->waiting = false;
        cpu->resume_at_start = false;
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
        atomic_store(&cpu->state, boot->sbi && i > 0 ? CPU_STOPPED : CPU_STARTED);
    }
    return true;
}
