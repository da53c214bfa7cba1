/* SPDX-License-Identifier: MIT
 *
 * See boot.h: what the boards' loaders share.
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
#include "vm/board.h"
#include "vm/machine.h"

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

const struct boot_file *boot_file_of(const struct boot *boot, unsigned which)
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

bool boot_kernel_contains(const struct boot *boot, const char *string, bool *contains,
                          struct error **err)
{
    enum { CHUNK = 256 * 1024 };
    size_t length = strlen(string), kept = 0;
    uint8_t *bytes = alloc_zeroed(1, CHUNK);
    const struct boot_file *kernel = boot_file_of(boot, BOOT_KERNEL);
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

bool boot_can_load(const struct vm *vm, struct error **err)
{
    if (boot_file_of(&vm->files.boot, BOOT_KERNEL) != NULL ||
        boot_file_of(&vm->files.boot, BOOT_FIRMWARE) != NULL)
        return true;
    error_set(err, ERROR_USAGE,
              "the machine went on from a snapshot without its kernel's file and cannot start anew");
    error_hint(err, "End it, and load the snapshot again or start it from its kernel.");
    return false;
}

bool boot_load(struct vm *vm, struct error **err)
{
    if (!boot_can_load(vm, err))
        return false;
    /* A guest that starts again finds memory as at power-on: nothing of its former life. */
    for (size_t i = 0; vm->loaded && i < mem_ram_count(vm->mem); i++)
        if (!mem_clear(vm->mem, mem_ram_at(vm->mem, i), err))
            return false;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct vm_cpu *cpu = &vm->cpus[i];
        vm_cpu_reset(cpu);
        cpu->vcpu->htif_tohost = vm->files.boot.tohost_gpa;
        cpu->waiting = false;
        cpu->resume_at_start = false;
        atomic_store(&cpu->state, CPU_STARTED);
    }
    if (!boot_load_segments(&vm->files.boot, vm->mem, err) || !vm->board->load(vm, err))
        return false;
    vm->loaded = true;
    vm->round = (struct vm_round){.left = VM_SLICE};
    return true;
}
