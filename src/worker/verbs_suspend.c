/* SPDX-License-Identifier: MIT
 *
 * The verb that suspends the machine into a file. Two descriptors come with it: the empty file, and a
 * SOCK_SEQPACKET socket, on which the rest is talked about:
 *
 *     worker   "progress DONE TOTAL" now and then; "saved", or "error SENTENCE"
 *     client   "commit", when the file has its name: the machine ends, as suspended
 *     or       "keep", with memory in a file of its own: it is what changes are counted from
 *
 * Until then the machine stands still, and goes on (or stays paused) when the client hangs up: a client
 * that is killed leaves what was there before. When all is over the worker hangs up.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/frame.h"
#include "base/loop.h"
#include "migrate/save.h"
#include "vm/vm.h"
#include "worker/verbs.h"

struct suspension {
    struct control_target *target;
    int file, talk, memory; /* the latter: -1: it is in the file as well */
    bool track;
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
    if (suspension->memory >= 0)
        close(suspension->memory);
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
    if (size == 4 && memcmp(text, "keep", 4) == 0 && suspension->saved && suspension->memory >= 0)
        save_keep(suspension->save, suspension->track);
    if (!commit || !suspension->saved) {
        go_on(suspension);
        return;
    }
    suspension_free(suspension);
    vm_quit_suspended(vm);
}

static bool take_descriptors(struct control_target *target, struct suspension *suspension,
                             bool apart, struct error **err)
{
    int type = 0;
    socklen_t size = sizeof(type);
    struct frame_fds *came = target->fds;
    size_t count = apart ? 3 : 2;
    if (came->count != count)
        return error_set(err, ERROR_USAGE,
                         "suspending takes %zu descriptors: 'trapeze suspend' sends them", count);
    suspension->file = came->fds[0];
    suspension->talk = came->fds[1];
    if (apart)
        suspension->memory = came->fds[2];
    for (size_t i = 0; i < count; i++)
        came->fds[i] = -1;
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

static bool begin(struct control_target *target, struct suspension *suspension,
                  const json_t *arguments, struct error **err)
{
    struct save_options options = {
        .compress = json_is_true(json_object_get(arguments, "compress")),
        .folder = target->folder,
        .apart = json_is_true(json_object_get(arguments, "apart")),
        .changes = json_is_true(json_object_get(arguments, "changes")),
        .done = on_done,
        .progress = on_progress,
        .opaque = suspension};
    if (!take_descriptors(target, suspension, options.apart, err) || !disks_last(target->vm, err))
        return false;
    options.memory_file = suspension->memory;
    suspension->track = json_is_true(json_object_get(arguments, "track"));
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

static bool are_flags(const json_t *arguments, struct error **err)
{
    static const char *const names[] = {"compress", "apart", "changes", "track"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const json_t *value = json_object_get(arguments, names[i]);
        if (value != NULL && !json_is_boolean(value))
            return error_set(err, ERROR_USAGE, "%s is true or false", names[i]);
    }
    if (json_is_true(json_object_get(arguments, "apart")))
        return !json_is_true(json_object_get(arguments, "compress")) ||
               error_set(err, ERROR_USAGE, "a file of memory alone is not compressed");
    return !json_is_true(json_object_get(arguments, "changes")) ||
           error_set(err, ERROR_USAGE, "changes of memory go to a file of their own");
}

/* {"compress": true}, and the file and the socket; or {"apart": true}, and a file of the memory as well, to
 * which with "changes": true goes only what has changed since the last one that was kept. "track": there
 * will be such a one next. */
json_t *verb_suspend(struct control_target *target, const json_t *arguments, struct error **err)
{
    if (target->suspension != NULL) {
        error_set(err, ERROR_USAGE, "the machine is being suspended already");
        return NULL;
    }
    if (!are_flags(arguments, err))
        return NULL;
    struct suspension *suspension = alloc_zeroed(1, sizeof(*suspension));
    suspension->target = target;
    suspension->file = suspension->talk = suspension->memory = -1;
    if (begin(target, suspension, arguments, err)) {
        target->suspension = suspension;
        return json_object();
    }
    suspension_free(suspension);
    return NULL;
}
