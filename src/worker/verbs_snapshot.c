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
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/frame.h"
#include "migrate/save.h"
#include "vm/fork.h"
#include "vm/vm.h"
#include "worker/overlays.h"
#include "worker/verbs.h"

struct wish {
    struct overlays overlays;
    bool memory, compress;
    int file, talk; /* of memory; the request's */
    int64_t paused_us;
};

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
static bool make_still(struct vm *vm, struct wish *wish, struct save *save, struct error **err)
{
    int64_t begun = now_us();
    if (!vm_stand_still(vm, err))
        return false;
    bool good = (save == NULL || save_copy(save, wish->talk, err)) &&
                vm_disks_overlay(vm, wish->overlays.list, wish->overlays.count, err);
    vm_go_on(vm);
    wish->paused_us = now_us() - begun;
    return good;
}

/* What can be done before the machine stands still is. */
static bool make(struct control_target *target, struct wish *wish, struct error **err)
{
    struct vm *vm = target->vm;
    const struct save_options options = {.compress = wish->compress,
                                         .folder = target->folder,
                                         .done = on_done,
                                         .progress = on_progress,
                                         .opaque = wish};
    struct save *save = wish->memory ? save_prepare(vm, wish->file, &options, err) : NULL;
    bool good = (save != NULL || !wish->memory) &&
                vm_disks_prepare_overlays(vm, wish->overlays.list, wish->overlays.count, err) &&
                vm_disks_flush(vm, err) && make_still(vm, wish, save, err);
    vm_overlays_drop(wish->overlays.list, wish->overlays.count);
    save_free(save);
    return good;
}

/* {"disks": [PATH of a new image, …], "memory": true, "compress": true}; descriptors: the new image
 * and what it lies on for each of the disks (block_chain_put_on_top()); then, with memory, an empty
 * file and a socket, on which is said what verbs_suspend.c says, up to "saved". */
json_t *verb_snapshot(struct control_target *target, const json_t *arguments, struct error **err)
{
    struct wish wish = {.memory = json_is_true(json_object_get(arguments, "memory")),
                        .compress = json_is_true(json_object_get(arguments, "compress"))};
    bool good = overlays_take(target, json_object_get(arguments, "disks"), wish.memory ? 2 : 0,
                              &wish.overlays, err) &&
                take_memory(target, &wish, err) && make(target, &wish, err);
    overlays_close(&wish.overlays);
    return good ? json_pack("{s:I}", "paused-us", (json_int_t)wish.paused_us) : NULL;
}
