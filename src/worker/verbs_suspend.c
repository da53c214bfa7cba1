/* SPDX-License-Identifier: MIT
 *
 * The verb that suspends the machine into a file. Two descriptors come with it: the empty file, and a
 * SOCK_SEQPACKET socket, on which the rest is talked about:
 *
 *     worker   "progress DONE TOTAL" now and then; "saved", or "error SENTENCE"
 *     client   "commit", when the file has its name: the machine ends, as suspended
 *
 * Until then the machine stands still, and goes on when the client hangs up: a client that is killed
 * leaves what was there before.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/frame.h"
#include "base/loop.h"
#include "migrate/save.h"
#include "vm/vm.h"
#include "worker/verbs.h"

struct suspension {
    struct control_target *target;
    int file, talk;
    struct loop_watch *watch;
    struct save *save; /* NULL: it is done, or failed */
    bool was_running, saved;
};

static void say(const struct suspension *suspension, const char *text)
{
    (void)send(suspension->talk, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* On whatever thread; what the client does not take in time it does without. */
static void on_progress(void *opaque, uint64_t done, uint64_t total)
{
    char text[64];
    snprintf(text, sizeof(text), "progress %" PRIu64 " %" PRIu64, done, total);
    say(opaque, text);
}

void suspension_free(struct suspension *suspension)
{
    if (suspension == NULL)
        return;
    save_free(suspension->save);
    loop_watch_remove(suspension->watch);
    close(suspension->file);
    close(suspension->talk);
    suspension->target->suspension = NULL;
    free(suspension);
}

/* It was not to be. */
static void go_on(struct suspension *suspension)
{
    struct vm *vm = suspension->target->vm;
    bool was_running = suspension->was_running;
    suspension_free(suspension);
    if (was_running)
        (void)vm_resume(vm, NULL);
}

static void on_done(void *opaque, const struct error *error)
{
    struct suspension *suspension = opaque;
    char text[1024];
    suspension->saved = error == NULL;
    if (error == NULL) {
        say(suspension, "saved");
        return;
    }
    snprintf(text, sizeof(text), "error %s", error_message(error));
    say(suspension, text);
    go_on(suspension);
}

static void on_talk(void *opaque, int fd, unsigned events)
{
    struct suspension *suspension = opaque;
    struct vm *vm = suspension->target->vm;
    char text[16];
    (void)events;
    ssize_t size = recv(fd, text, sizeof(text), MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    bool commit = size == 6 && memcmp(text, "commit", 6) == 0;
    if (!commit || !suspension->saved) {
        go_on(suspension);
        return;
    }
    suspension_free(suspension);
    vm_quit_suspended(vm);
}

static bool take_descriptors(struct control_target *target, struct suspension *suspension,
                             struct error **err)
{
    int type = 0;
    socklen_t size = sizeof(type);
    struct frame_fds *came = target->fds;
    if (came->count != 2)
        return error_set(err, ERROR_USAGE,
                         "suspending takes two descriptors: 'trapeze suspend' sends them");
    suspension->file = came->fds[0];
    suspension->talk = came->fds[1];
    came->fds[0] = came->fds[1] = -1;
    return (getsockopt(suspension->talk, SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
            type == SOCK_SEQPACKET) ||
           error_set(err, ERROR_USAGE, "the second descriptor is no SOCK_SEQPACKET socket");
}

/* The seed of --hostname and --ssh-key is memory of `trapeze run`. */
static bool disks_last(struct vm *vm, struct error **err)
{
    for (size_t i = 0; i < vm_disk_count(vm); i++) {
        struct vm_disk_status disk;
        if (!vm_get_disk(vm, i, &disk) || strncmp(disk.path, "/proc/", 6) != 0)
            continue;
        error_set(err, ERROR_USAGE,
                  "disk %zu is the seed of --hostname or --ssh-key, which ends with this machine", i);
        error_hint(err, "An instance ('trapeze create') keeps it, and can be suspended.");
        return false;
    }
    return true;
}

static bool begin(struct control_target *target, struct suspension *suspension, bool compress,
                  struct error **err)
{
    const struct save_options options = {.compress = compress,
                                         .folder = target->folder,
                                         .done = on_done,
                                         .progress = on_progress,
                                         .opaque = suspension};
    if (!take_descriptors(target, suspension, err) || !disks_last(target->vm, err))
        return false;
    suspension->watch =
        loop_watch_add(vm_loop(target->vm), suspension->talk, LOOP_READABLE, on_talk, suspension, err);
    if (suspension->watch == NULL)
        return false;
    suspension->save = save_begin(target->vm, suspension->file, &options, err);
    if (suspension->save == NULL)
        return false;
    suspension->was_running = save_was_running(suspension->save);
    return true;
}

/* {"compress": true} and the descriptors. */
json_t *verb_suspend(struct control_target *target, const json_t *arguments, struct error **err)
{
    const json_t *compress = json_object_get(arguments, "compress");
    if (target->suspension != NULL) {
        error_set(err, ERROR_USAGE, "the machine is being suspended already");
        return NULL;
    }
    if (compress != NULL && !json_is_boolean(compress)) {
        error_set(err, ERROR_USAGE, "compress is true or false");
        return NULL;
    }
    struct suspension *suspension = alloc_zeroed(1, sizeof(*suspension));
    suspension->target = target;
    suspension->file = suspension->talk = -1;
    if (begin(target, suspension, json_is_true(compress), err)) {
        target->suspension = suspension;
        return json_object();
    }
    suspension_free(suspension);
    return NULL;
}
