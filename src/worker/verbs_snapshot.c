/* SPDX-License-Identifier: MIT
 *
 * The verb that makes a snapshot of the machine: from one moment on its disks are new images on top
 * of what they were until then, which nobody writes to any more, and what the machine was at in
 * that moment goes into a file, if that is wanted: a copy of this process (vm/fork.h) writes it,
 * while the machine runs on.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/frame.h"
#include "block/chain.h"
#include "block/image.h"
#include "config/machine.h"
#include "migrate/save.h"
#include "vm/fork.h"
#include "vm/vm.h"
#include "worker/verbs.h"

struct wish {
    struct vm_overlay overlays[MACHINE_MAX_DISKS];
    struct block_chain files[MACHINE_MAX_DISKS];
    size_t count;
    bool memory, compress;
    int file, talk; /* of memory; the request's */
    int64_t paused_us;
};

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

static bool is_in(const struct wish *wish, size_t disk)
{
    for (size_t i = 0; i < wish->count; i++)
        if (wish->overlays[i].disk == disk)
            return true;
    return false;
}

/* A disk that stayed as it is would go on changing under what is saved. */
static bool all_are_in(struct vm *vm, const struct wish *wish, struct error **err)
{
    for (size_t i = 0; i < vm_disk_count(vm); i++) {
        const struct block_image *image = vm_disk_image(vm, i);
        if (image == NULL || image->read_only || is_in(wish, i))
            continue;
        error_set(err, ERROR_USAGE, "disk %zu is not of the machine's description", i);
        error_hint(err,
                   "It was attached for the time being (--live), or the description was changed "
                   "by hand. Detach it first.");
        return false;
    }
    return true;
}

static bool take_disks(struct control_target *target, const json_t *paths, struct wish *wish,
                       struct error **err)
{
    struct frame_fds *came = target->fds;
    size_t count = json_array_size(paths);
    if (!json_is_array(paths) || count > MACHINE_MAX_DISKS ||
        came->count != 2 * count + (wish->memory ? 2 : 0))
        return error_set(err, ERROR_USAGE, "'trapeze snapshot' sends what a snapshot takes");
    for (size_t i = 0; i < count; i++) {
        const char *path = json_string_value(json_array_get(paths, i));
        struct vm_overlay *overlay = &wish->overlays[i];
        struct block_chain *files = &wish->files[i];
        *files = (struct block_chain){{came->fds[2 * i], came->fds[2 * i + 1]}, 2};
        came->fds[2 * i] = came->fds[2 * i + 1] = -1;
        *overlay = (struct vm_overlay){.path = path != NULL ? path : "", .files = files};
        wish->count = i + 1;
        if (!find_disk(target->vm, files->fds[1], &overlay->disk))
            return error_set(
                err, ERROR_USAGE,
                "the machine has no disk on the file below '%.200s': its description was "
                "changed meanwhile",
                overlay->path);
    }
    return all_are_in(target->vm, wish, err);
}

/* ---- in the copy of this process that writes memory ---- */

static void say(const struct wish *wish, const char *text, int flags)
{
    /* Nobody wants it any more: the copy is of no use. */
    if (send(wish->talk, text, strlen(text), MSG_NOSIGNAL | flags) < 0 && errno != EAGAIN)
        _exit(1);
}

static void on_progress(void *opaque, uint64_t done, uint64_t total)
{
    char text[64];
    snprintf(text, sizeof(text), "progress %" PRIu64 " %" PRIu64, done, total);
    say(opaque, text, MSG_DONTWAIT);
}

static void on_done(void *opaque, const struct error *error)
{
    char text[1024];
    snprintf(text, sizeof(text), error == NULL ? "saved" : "error %s",
             error != NULL ? error_message(error) : "");
    say(opaque, text, 0);
}

/* ---- the machine's side ---- */

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static bool take_memory(struct control_target *target, struct wish *wish, struct error **err)
{
    struct frame_fds *came = target->fds;
    int type = 0;
    socklen_t size = sizeof(type);
    if (!wish->memory)
        return true;
    wish->file = came->fds[came->count - 2];
    wish->talk = came->fds[came->count - 1];
    return (getsockopt(wish->talk, SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
            type == SOCK_SEQPACKET) ||
           error_set(err, ERROR_USAGE, "the last descriptor is no SOCK_SEQPACKET socket");
}

/* What fails has changed nothing: a copy that was made for it finds that nobody listens. */
static bool make(struct control_target *target, struct wish *wish, struct error **err)
{
    struct vm *vm = target->vm;
    const struct save_options options = {.compress = wish->compress,
                                         .folder = target->folder,
                                         .done = on_done,
                                         .progress = on_progress,
                                         .opaque = wish};
    int64_t begun = now_us();
    if (!vm_stand_still(vm, err))
        return false;
    bool good = (!wish->memory || save_by_copy(vm, wish->file, wish->talk, &options, err)) &&
                vm_disks_overlay(vm, wish->overlays, wish->count, err);
    vm_go_on(vm);
    wish->paused_us = now_us() - begun;
    return good;
}

/* {"disks": [PATH of a new image, …], "memory": true, "compress": true}; descriptors: the new image
 * and what it lies on for each of the disks (block_chain_put_on_top()); then, with memory, an empty
 * file and a socket, on which is said what verbs_suspend.c says, up to "saved". */
json_t *verb_snapshot(struct control_target *target, const json_t *arguments, struct error **err)
{
    struct wish wish = {.memory = json_is_true(json_object_get(arguments, "memory")),
                        .compress = json_is_true(json_object_get(arguments, "compress"))};
    /* What can be brought to the disks before the machine stands still need not be then. */
    bool good = take_disks(target, json_object_get(arguments, "disks"), &wish, err) &&
                take_memory(target, &wish, err) && vm_disks_flush(target->vm, err) &&
                make(target, &wish, err);
    for (size_t i = 0; i < wish.count; i++)
        block_chain_close(&wish.files[i]);
    return good ? json_pack("{s:I}", "paused-us", (json_int_t)wish.paused_us) : NULL;
}
