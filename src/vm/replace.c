/* SPDX-License-Identifier: MIT
 *
 * See replace.h. The locks of a file belong to its description, so the file that is there already
 * is opened again by the descriptor that has the lock, and whatever else came is locked here.
 */
#include "vm/replace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "block/block.h"
#include "block/chain.h"
#include "dev/virtio_blk.h"
#include "vm/machine.h"

struct device *vm_disk_device(const struct vm *vm, size_t index)
{
    char id[32];
    snprintf(id, sizeof(id), "disk%zu", index);
    for (size_t i = 0; i < vm->device_count; i++)
        if (strcmp(vm->devices[i]->id, id) == 0)
            return vm->devices[i];
    return NULL;
}

static bool is_replaceable(struct vm *vm, size_t index, struct error **err)
{
    if (index >= vm->config.disk_count || vm->config.disks[index].path == NULL)
        return error_set(err, ERROR_USAGE, "there is no disk %zu", index);
    return (vm_disk_device(vm, index) != NULL &&
            strcmp(block_image(vm->disks[index])->format->name, "raw") == 0) ||
           error_set(err, ERROR_USAGE, "disk %zu is no raw disk on bus=virtio", index);
}

static struct block_image *open_file(struct vm *vm, size_t index, const char *path,
                                     struct block_chain *files, bool *same, struct error **err)
{
    const struct block_image *before = block_image(vm->disks[index]);
    const struct block_chain_options how =
        vm_disk_chain_options(vm, &vm->config.disks[index], "raw");
    struct block_image *image = block_chain_open(files, path, &how, err);
    if (image == NULL)
        return NULL;
    *same = block_chain_is_same(image, before);
    if (!*same && block_file_lock(image->file, err))
        return image;
    block_image_close(image);
    if (*same)
        return block_chain_again(before, &how, err);
    error_prefix(err, "disk '%s'", path);
    return NULL;
}

/* `same`: the lock stays with the other descriptor. */
static void close_file(struct block_image *image, bool same)
{
    int fd = image->file->fd;
    image->file->handed_over = same;
    block_image_close(image);
    if (same)
        close(fd);
}

static struct block_image *put(struct vm *vm, size_t index, struct block_image *image)
{
    struct device *device = vm_disk_device(vm, index);
    bool running = vm->state == VM_RUNNING; /* otherwise nothing is under way, or has begun */
    vm_hold(vm);
    if (running)
        device->ops->quiesce(device);
    struct block_image *before = block_swap(vm->disks[index], image);
    virtio_blk_changed(device);
    if (running)
        device->ops->unquiesce(device);
    vm_release(vm);
    return before;
}

bool vm_disk_replace(struct vm *vm, size_t index, const char *path, struct block_chain *files,
                     struct error **err)
{
    struct block_image *image = NULL;
    bool same = false;
    if (is_replaceable(vm, index, err))
        image = open_file(vm, index, path, files, &same, err);
    block_chain_close(files);
    if (image == NULL)
        return false;
    close_file(put(vm, index, image), same);
    char *name = alloc_string(path);
    free(vm->config.disks[index].path);
    vm->config.disks[index].path = name;
    return true;
}
