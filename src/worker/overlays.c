/* SPDX-License-Identifier: MIT
 *
 * See overlays.h.
 */
#include "worker/overlays.h"

#include <sys/stat.h>

#include "base/error.h"
#include "base/frame.h"
#include "block/image.h"
#include "worker/verbs.h"

/* The disk whose file it is, under whatever name. */
static bool find_disk(struct vm *vm, int fd, size_t *disk)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return false;
    for (size_t i = 0; i < vm_disk_count(vm); i++) {
        const struct block_image *image = vm_disk_image(vm, i);
        if (image != NULL && image->file->inode != 0 && image->file->inode == status.st_ino &&
            image->file->device == status.st_dev) {
            *disk = i;
            return true;
        }
    }
    return false;
}

static bool is_in(const struct overlays *overlays, size_t disk)
{
    for (size_t i = 0; i < overlays->count; i++)
        if (overlays->list[i].disk == disk)
            return true;
    return false;
}

/* A disk that stayed as it is would go on changing under what is saved. */
static bool all_are_in(struct vm *vm, const struct overlays *overlays, struct error **err)
{
    for (size_t i = 0; i < vm_disk_count(vm); i++) {
        const struct block_image *image = vm_disk_image(vm, i);
        if (image == NULL || image->read_only || is_in(overlays, i))
            continue;
        error_set(err, ERROR_USAGE, "disk %zu is not of the machine's description", i);
        error_hint(err,
                   "It was attached for the time being (--live), or the description was changed "
                   "by hand. Detach it first.");
        return false;
    }
    return true;
}

bool overlays_take(struct control_target *target, const json_t *paths, size_t others,
                   struct overlays *overlays, struct error **err)
{
    struct frame_fds *came = target->fds;
    size_t count = json_array_size(paths);
    *overlays = (struct overlays){.count = 0};
    if (!json_is_array(paths) || count > MACHINE_MAX_DISKS || came->count != 2 * count + others)
        return error_set(err, ERROR_USAGE, "two descriptors for each of 'disks' are missing");
    for (size_t i = 0; i < count; i++) {
        const char *path = json_string_value(json_array_get(paths, i));
        struct vm_overlay *overlay = &overlays->list[i];
        struct block_chain *files = &overlays->files[i];
        *files = (struct block_chain){{came->fds[2 * i], came->fds[2 * i + 1]}, 2};
        came->fds[2 * i] = came->fds[2 * i + 1] = -1;
        *overlay = (struct vm_overlay){.path = path != NULL ? path : "", .files = files};
        overlays->count = i + 1;
        if (!find_disk(target->vm, files->fds[1], &overlay->disk))
            return error_set(
                err, ERROR_USAGE,
                "the machine has no disk on the file below '%.200s': its description was "
                "changed meanwhile",
                overlay->path);
    }
    return all_are_in(target->vm, overlays, err);
}

void overlays_close(struct overlays *overlays)
{
    for (size_t i = 0; i < overlays->count; i++)
        block_chain_close(&overlays->files[i]);
}
