/* SPDX-License-Identifier: MIT
 *
 * What of a machine its guest can see, as text: whether a saved state fits another machine is a
 * question of whether this is the same, and the first line that differs says why not.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "block/block.h"
#include "block/image.h"
#include "vm/board.h"
#include "vm/machine.h"

static const char *const bus_names[] = {
    [MACHINE_BUS_AUTO] = "auto",
    [MACHINE_BUS_VIRTIO] = "virtio",
    [MACHINE_BUS_SCSI] = "scsi",
    [MACHINE_BUS_AHCI] = "ahci",
};

static void write_drives(const struct vm *vm, FILE *out)
{
    for (size_t i = 0; i < vm->config.disk_count; i++) {
        const struct machine_disk *disk = &vm->config.disks[i];
        if (disk->path == NULL)
            continue;
        fprintf(out, "disk %zu %s %s%s", i, bus_names[machine_disk_bus(disk)],
                disk->media != 0 ? "cdrom" : "disk", disk->read_only ? " read-only" : "");
        if (disk->media == 0 && vm->disks[i] != NULL)
            fprintf(out, " %" PRIu64, block_size(vm->disks[i]));
        if (disk->address != NULL)
            fprintf(out, " at %s", disk->address);
        fputc('\n', out);
    }
}

char *vm_layout(const struct vm *vm)
{
    char isa[1024], *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert(out != NULL); /* as base/alloc.h */
    vm->board->describe_isa(vm, isa, sizeof(isa));
    fprintf(out, "isa %s\nharts %u\n", isa, vm->cpu_count);
    for (size_t i = 0; i < mem_ram_count(vm->mem); i++) {
        const struct mem_ram *ram = mem_ram_at(vm->mem, i);
        fprintf(out, "ram %#" PRIx64 " %" PRIu64 "\n", ram->gpa, ram->size);
    }
    fprintf(out, "firmware %s\ntime %s\n", vm->files.boot.sbi ? "built-in" : "its own",
            vm->config.deterministic ? "deterministic" : "real");
    for (size_t i = 0; i < vm->device_count; i++)
        fprintf(out, "device %s %s\n", vm->devices[i]->id, vm->devices[i]->ops->name);
    write_drives(vm, out);
    for (size_t i = 0; i < vm->config.nic_count; i++)
        if (vm->nics[i].device != NULL)
            fprintf(out, "nic %zu %s\n", i, vm->config.nics[i].mac);
    for (size_t i = 0; i < vm->config.share_count; i++)
        fprintf(out, "share %s\n", vm->config.shares[i].tag);
    fclose(out);
    return text;
}

char *vm_layout_and_folders(const struct vm *vm)
{
    char *layout = vm_layout(vm), *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert(out != NULL);
    fputs(layout, out);
    for (size_t i = 0; i < vm->config.share_count; i++)
        fprintf(out, "folder %s %#" PRIx64 " %" PRIu64 "\n", vm->config.shares[i].tag,
                vm->folders[i].file_system, vm->folders[i].inode);
    fclose(out);
    free(layout);
    return text;
}

/* Whether every extension of `saved` is in `ours`: a guest does not miss what it never looked for. False
 * with *missing set, of that length: that one is not. */
static bool has_extensions(const char *ours, const char *saved, const char **missing, int *size)
{
    size_t base = strcspn(saved, "_");
    *missing = NULL;
    if (strcspn(ours, "_") != base || strncmp(ours, saved, base) != 0)
        return false;
    for (saved += base; *saved == '_'; saved += strcspn(saved, "_")) {
        size_t length = strcspn(++saved, "_");
        const char *at = ours + base;
        while (*at == '_' && (strcspn(at + 1, "_") != length || strncmp(at + 1, saved, length) != 0))
            at += 1 + strcspn(at + 1, "_");
        if (*at == '\0') {
            *missing = saved;
            *size = (int)length;
            return false;
        }
    }
    return true;
}

/* Up to the address, that is. */
static bool is_same_nic(const char *ours, const char *saved)
{
    const char *end = strrchr(ours, ' ');
    if (end == NULL || strncmp(ours, "nic ", 4) != 0)
        return false;
    size_t length = (size_t)(end - ours);
    return strncmp(ours, saved, length + 1) == 0 && strrchr(saved, ' ') == saved + length;
}

static bool another_folder(const char *tag, struct error **err)
{
    error_set(err, ERROR_USAGE, "the shared folder '%.*s' is another one", (int)strcspn(tag, " "),
              tag);
    error_hint(err, "The guest has its files open: it has to be the same folder of a file system that "
                    "both hosts reach. Otherwise stop the machine, or suspend it.");
    return false;
}

static bool line_fits(const char *ours, const char *saved, bool clone, struct error **err)
{
    const char *missing = NULL;
    int size = 0;
    bool isa = strncmp(ours, "isa ", 4) == 0 && strncmp(saved, "isa ", 4) == 0;
    if (isa ? has_extensions(ours + 4, saved + 4, &missing, &size)
            : strcmp(ours, saved) == 0 || (clone && is_same_nic(ours, saved)))
        return true;
    if (missing != NULL)
        return error_set(err, ERROR_USAGE,
                         "the guest may use '%.*s', which the CPU that it would get does not have",
                         size > 200 ? 200 : size, missing);
    if (strncmp(ours, "folder ", 7) == 0 && strncmp(saved, "folder ", 7) == 0)
        return another_folder(saved + 7, err);
    return error_set(err, ERROR_USAGE, "where there was '%.200s' there is '%.200s'",
                     saved[0] != '\0' ? saved : "nothing", ours[0] != '\0' ? ours : "nothing");
}

static bool fits(const char *layout, const char *saved, bool clone, struct error **err)
{
    char *ours = alloc_string(layout), *theirs = alloc_string(saved);
    char *our_rest = ours, *their_rest = theirs;
    bool good = true;
    while (good && (our_rest != NULL || their_rest != NULL)) {
        const char *our_line = our_rest != NULL ? strsep(&our_rest, "\n") : "";
        const char *their_line = their_rest != NULL ? strsep(&their_rest, "\n") : "";
        /* Machines were without it, and their guests do not miss it. */
        if (our_rest != NULL && strcmp(our_line, "device vmgenid vmgenid") == 0 &&
            strcmp(their_line, our_line) != 0)
            our_line = strsep(&our_rest, "\n");
        good = line_fits(our_line, their_line, clone, err);
    }
    free(ours);
    free(theirs);
    return good;
}

bool vm_fits_layout(const char *layout, const char *saved, struct error **err)
{
    return fits(layout, saved, false, err);
}

bool vm_fits_layout_of_clone(const char *layout, const char *saved, struct error **err)
{
    return fits(layout, saved, true, err);
}

bool vm_can_be_saved(const struct vm *vm, struct error **err)
{
    for (size_t i = 0; i < vm->config.disk_count; i++)
        if (vm->leaving[i].active) {
            error_set(err, ERROR_USAGE, "disk %zu is being detached", i);
            error_hint(err, "Try again when it is gone ('trapeze disk list' tells).");
            return false;
        }
    char *now = vm_layout(vm);
    bool same = vm_fits_layout(now, vm->first_layout, err);
    free(now);
    if (same)
        return true;
    error_prefix(err, "a disk or NIC has come or gone since the machine was started, and would not be "
                      "found again");
    error_hint(err, "Detach what was attached, in the reverse order.");
    return false;
}

const struct machine_config *vm_config(const struct vm *vm)
{
    return &vm->config;
}

bool vm_uses_aia(const struct vm *vm)
{
    return vm->aia;
}

struct mem_space *vm_memory(struct vm *vm)
{
    return vm->mem;
}

struct loop *vm_loop(struct vm *vm)
{
    return vm->env.loop;
}

struct block *vm_disk(struct vm *vm, size_t index)
{
    return vm->disks[index];
}

struct block_image *vm_disk_image(struct vm *vm, size_t index)
{
    return vm->disks[index] != NULL ? block_image(vm->disks[index]) : NULL;
}

bool vm_disks_flush(struct vm *vm, struct error **err)
{
    for (size_t i = 0; i < vm->config.disk_count; i++) {
        struct block_image *image = vm_disk_image(vm, i);
        bool writes = image != NULL && !image->read_only;
        /* Twice: what the first gives up, the second counts as free. */
        int error = writes ? image->format->flush(image) : 0;
        error = error == 0 && writes ? image->format->flush(image) : error;
        if (error != 0)
            return error_set_errno(err, error, "cannot write disk '%s' out", vm->config.disks[i].path);
    }
    return true;
}
