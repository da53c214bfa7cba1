/* SPDX-License-Identifier: MIT
 *
 * The verb that clones the machine while it runs: each socket that comes along is one clone's,
 * whose client talks to it there (worker/hatch.h). All of them begin at the same moment, in which
 * the disks that it writes to are frozen: it goes on with new images on top of them, and so do the
 * clones.
 */
#include <stdlib.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/frame.h"
#include "base/state.h"
#include "block/image.h"
#include "config/machine.h"
#include "vm/fork.h"
#include "vm/vm.h"
#include "worker/overlays.h"
#include "worker/verbs.h"
#include "worker/worker.h"

struct clone {
    const struct worker_origin *origin;
    int talk;
};

static void be_a_clone(void *opaque)
{
    const struct clone *clone = opaque;
    worker_hatch(clone->origin, clone->talk);
}

/* Those from `first` on. */
static bool are_sockets(const struct frame_fds *came, size_t first, struct error **err)
{
    for (size_t i = first; i < came->count; i++) {
        int type = 0;
        socklen_t size = sizeof(type);
        if (getsockopt(came->fds[i], SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
            type != SOCK_SEQPACKET)
            return error_set(err, ERROR_USAGE, "descriptor %zu is no SOCK_SEQPACKET socket", i);
    }
    return came->count > first ||
           error_set(err, ERROR_USAGE,
                     "clones take a socket each: 'trapeze clone --instant' sends them");
}

static bool may_be_cloned(const struct vm *vm, struct error **err)
{
    const struct machine_config *config = vm_config(vm);
    if (config->share_count > 0) {
        error_set(err, ERROR_USAGE,
                  "a machine with shared folders cannot be cloned while it runs: "
                  "its open files in there are the original's");
        error_hint(err, "Switch it off for a full clone.");
        return false;
    }
    if (config->deterministic)
        return error_set(err, ERROR_USAGE,
                         "a deterministic machine cannot be cloned while it runs: "
                         "clones are to be different");
    return vm_can_be_saved(vm, err);
}

static bool fork_all(struct control_target *target, size_t first, struct error **err)
{
    struct state_buffer state = {0};
    vm_save_state(target->vm, &state);
    char *layout = vm_layout(target->vm);
    const struct worker_origin origin = {.vm = target->vm,
                                         .state = state.data,
                                         .state_size = state.size,
                                         .layout = layout,
                                         .sandbox = target->sandbox};
    bool good = true;
    for (size_t i = first; good && i < target->fds->count; i++) {
        struct clone clone = {&origin, target->fds->fds[i]};
        const struct vm_fork how = {
            .keep = &clone.talk, .keep_count = 1, .child = be_a_clone, .opaque = &clone};
        good = vm_fork(target->vm, &how, err) > 0;
    }
    state_buffer_free(&state);
    free(layout);
    return good;
}

/* Nothing at all is in the image that the machine writes to, so that a clone can as well lie upon
 * what is below it. */
static bool is_empty(struct block_image *image, bool *empty, struct error **err)
{
    *empty = image->backing != NULL;
    for (uint64_t at = 0; *empty && at < image->size;) {
        struct block_extent extent;
        int error = image->format->extent(image, at, image->size - at, &extent);
        if (error != 0)
            return error_set_errno(err, error, "cannot look at disk '%s'", image->name);
        *empty = extent.kind == BLOCK_EXTENT_ABSENT;
        at += extent.length;
    }
    return true;
}

/* Of all disks that the machine writes to. */
static bool are_empty(struct vm *vm, bool *empty, struct error **err)
{
    bool good = true;
    *empty = true;
    for (size_t i = 0; good && *empty && i < vm_disk_count(vm); i++) {
        struct block_image *image = vm_disk_image(vm, i);
        good = image == NULL || image->read_only || is_empty(image, empty, err);
    }
    return good;
}

struct wish {
    struct overlays overlays;
    bool unwritten; /* only if nothing was written since the last time */
    size_t first;   /* socket */
};

/* What fails has changed nothing: copies that were made for it find that nobody talks to them. */
static bool make(struct control_target *target, struct wish *wish, bool *written,
                 struct error **err)
{
    struct vm *vm = target->vm;
    bool empty = true;
    if (wish->unwritten && !are_empty(vm, &empty, err))
        return false;
    *written = !empty;
    return !empty || (fork_all(target, wish->first, err) &&
                      vm_disks_overlay(vm, wish->overlays.list, wish->overlays.count, err));
}

/* {"disks": [PATH of a new image, …]}, of those that the machine writes to: they are frozen, for
 * the clones to lie upon (overlays.h). Or {"unwritten": true}: the clones lie upon what the disks
 * do; if something was written since, nothing is done, and the answer is {"written": true}, for
 * which one may ask without sockets. Behind the disks' descriptors come the sockets. Who gets an
 * error closes their other ends: clones that are there already end. */
json_t *verb_clone(struct control_target *target, const json_t *arguments, struct error **err)
{
    const json_t *paths = json_object_get(arguments, "disks");
    json_t *none = json_array();
    struct wish wish = {.unwritten = json_is_true(json_object_get(arguments, "unwritten"))};
    bool written = false;
    wish.first = wish.unwritten ? 0 : 2 * json_array_size(paths);
    bool asks = wish.unwritten && target->fds->count == 0;
    bool good =
        (asks || are_sockets(target->fds, wish.first, err)) && may_be_cloned(target->vm, err) &&
        (wish.unwritten || overlays_take(target, paths != NULL ? paths : none,
                                         target->fds->count - wish.first, &wish.overlays, err)) &&
        /* What can be brought to the disks before the machine stands still need not be then. */
        vm_disks_flush(target->vm, err) && vm_stand_still(target->vm, err);
    if (good) {
        good = vm_disks_flush(target->vm, err) && make(target, &wish, &written, err);
        vm_go_on(target->vm);
    }
    overlays_close(&wish.overlays);
    json_decref(none);
    return good ? json_pack("{s:b}", "written", (int)written) : NULL;
}
