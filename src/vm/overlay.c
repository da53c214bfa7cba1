/* SPDX-License-Identifier: MIT
 *
 * New images on top of the disks of a machine that stands still, for snapshots and for machines
 * that share what their disks have been until now. First all are opened, which may fail, then all
 * take effect, which does not.
 */
#include <assert.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "block/block.h"
#include "block/chain.h"
#include "vm/machine.h"

static bool can_have(const struct vm *vm, size_t disk, struct error **err)
{
    if (disk >= vm->config.disk_count || vm->disks[disk] == NULL)
        return error_set(err, ERROR_USAGE, "there is no disk %zu", disk);
    if (vm->leaving[disk].active)
        return error_set(err, ERROR_USAGE, "disk %zu is being detached", disk);
    return !block_read_only(vm->disks[disk]) ||
           error_set(err, ERROR_USAGE, "disk %zu is read-only", disk);
}

bool vm_disks_prepare_overlays(struct vm *vm, struct vm_overlay *overlays, size_t count,
                               struct error **err)
{
    for (size_t i = 0; i < count; i++) {
        struct vm_overlay *overlay = &overlays[i];
        if (!can_have(vm, overlay->disk, err))
            return false;
        const struct block_chain_options how =
            vm_disk_chain_options(vm, &vm->config.disks[overlay->disk], "qcow2");
        if (overlay->top == NULL)
            overlay->top = block_chain_open_top(overlay->files, overlay->path, &how, err);
        if (overlay->top == NULL)
            return false;
    }
    return true;
}

void vm_overlays_drop(struct vm_overlay *overlays, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        block_image_close(overlays[i].top);
        overlays[i].top = NULL;
        block_chain_close(overlays[i].files);
    }
}

static bool put_on_top(struct vm *vm, const struct vm_overlay *overlay, struct error **err)
{
    const struct block_chain_options how =
        vm_disk_chain_options(vm, &vm->config.disks[overlay->disk], "qcow2");
    return block_chain_put_on_top(vm_disk_image(vm, overlay->disk), overlay->top, overlay->files,
                                  &how, err);
}

static void replace(char **text, const char *with)
{
    free(*text);
    *text = alloc_string(with);
}

static void put(struct vm *vm, struct vm_overlay *overlay)
{
    struct machine_disk *config = &vm->config.disks[overlay->disk];
    struct block_image *top = overlay->top;
    struct block_image *before = block_swap(vm->disks[overlay->disk], top);
    struct error *error = NULL;
    overlay->top = NULL;
    /* From a writer's to a reader's, of the file as it was opened first, and so at once of both. */
    before->file->read_only = true;
    if (!block_file_lock(before->file, &error) || !block_file_lock(top->backing->file, &error))
        log_warning(vm->log, "disk '%s': %s", config->path, error_message(error));
    error_free(error);
    replace(&config->path, overlay->path);
    replace(&config->format, "qcow2");
    block_image_close(before);
}

bool vm_disks_overlay(struct vm *vm, struct vm_overlay *overlays, size_t count, struct error **err)
{
    assert(atomic_load(&vm->holds) > 0);
    bool good = vm_disks_prepare_overlays(vm, overlays, count, err);
    size_t done = 0;
    while (good && done < count) {
        good = put_on_top(vm, &overlays[done], err);
        done += good;
    }
    for (size_t i = 0; i < done; i++)
        if (good) {
            put(vm, &overlays[i]);
        } else {
            block_chain_drop(overlays[i].top, vm_disk_image(vm, overlays[i].disk));
            overlays[i].top = NULL;
        }
    vm_overlays_drop(overlays, count);
    return good;
}
