/* SPDX-License-Identifier: MIT
 *
 * The verb that clones the machine while it runs: each socket that comes along is one clone's,
 * whose client talks to it there (worker/hatch.h). All of them begin at the same moment.
 */
#include <stdlib.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/frame.h"
#include "base/state.h"
#include "config/machine.h"
#include "vm/fork.h"
#include "vm/vm.h"
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

static bool are_sockets(const struct frame_fds *came, struct error **err)
{
    for (size_t i = 0; i < came->count; i++) {
        int type = 0;
        socklen_t size = sizeof(type);
        if (getsockopt(came->fds[i], SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
            type != SOCK_SEQPACKET)
            return error_set(err, ERROR_USAGE, "descriptor %zu is no SOCK_SEQPACKET socket", i);
    }
    return came->count > 0 ||
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

static bool fork_all(struct control_target *target, struct error **err)
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
    for (size_t i = 0; good && i < target->fds->count; i++) {
        struct clone clone = {&origin, target->fds->fds[i]};
        const struct vm_fork how = {
            .keep = &clone.talk, .keep_count = 1, .child = be_a_clone, .opaque = &clone};
        good = vm_fork(target->vm, &how, err) > 0;
    }
    state_buffer_free(&state);
    free(layout);
    return good;
}

/* Descriptors alone. Who gets an error closes the other ends: those that are there already end. */
json_t *verb_clone(struct control_target *target, const json_t *arguments, struct error **err)
{
    (void)arguments;
    if (!are_sockets(target->fds, err) || !may_be_cloned(target->vm, err) ||
        !vm_stand_still(target->vm, err))
        return NULL;
    bool good = vm_disks_flush(target->vm, err) && fork_all(target, err);
    vm_go_on(target->vm);
    return good ? json_object() : NULL;
}
