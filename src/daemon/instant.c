/* SPDX-License-Identifier: MIT
 *
 * Instant clones: instances that go on from where another one's machine is, and share its memory
 * until one of them writes. In a job's process, in this order:
 *
 *     folders    staged (store.h): description with an identity of its own, sockets, log
 *     copies     of the original's worker, all at the same moment (worker/hatch.h)
 *     ready      each copy has got its own descriptors, and is built; none runs
 *     names      the folders become instances
 *     go
 *
 * Whatever fails before that, or the end of this job, leaves nothing. A folder without a copy that
 * runs is an instance that is switched off.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/frame.h"
#include "client/spawn.h"
#include "client/worker.h"
#include "daemon/machine.h"

enum { CLONES_MAX = 256 };

struct clone {
    char name[INSTANCE_MAX_NAME + 1];
    struct instance_draft draft;
    bool drafted, named;
    int talk; /* to its worker; -1: none yet */
    json_t *launched;
};

struct clones {
    struct instance original;
    struct clone *list;
    size_t count;
    const char *expires;
};

/* "web", or "web-1", "web-2" … */
static bool name_them(struct clones *clones, const char *to, struct error **err)
{
    for (size_t i = 0; i < clones->count; i++) {
        struct clone *clone = &clones->list[i];
        int length = clones->count == 1
                         ? snprintf(clone->name, sizeof(clone->name), "%s", to)
                         : snprintf(clone->name, sizeof(clone->name), "%s-%zu", to, i + 1);
        if (length >= (int)sizeof(clone->name))
            return instance_name_check(to, err) &&
                   error_set(err, ERROR_USAGE, "the name '%s' is too long for %zu clones", to,
                             clones->count);
    }
    return true;
}

static bool draft_them(struct clones *clones, struct error **err)
{
    for (size_t i = 0; i < clones->count; i++) {
        struct clone *clone = &clones->list[i];
        const struct instance_plan plan = {
            .name = clone->name, .expires = clones->expires, .linked = true, .running = true};
        clone->drafted = instance_clone_begin(&clones->original, &plan, &clone->draft, err);
        if (!clone->drafted)
            return false;
    }
    return true;
}

/* As many as one request takes, of one moment. */
static bool copy_some(struct clones *clones, size_t first, size_t count, struct error **err)
{
    int theirs[FRAME_FD_MAX];
    char path[64];
    size_t made = 0;
    while (made < count) {
        int pair[2];
        if (!client_hatch_socket(pair, err))
            break;
        clones->list[first + made].talk = pair[0];
        theirs[made++] = pair[1];
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d/control.sock", clones->original.fd);
    char *answer =
        made == count ? client_control_fds(path, "clone", NULL, theirs, count, err) : NULL;
    for (size_t i = 0; i < made; i++)
        close(theirs[i]);
    free(answer);
    return answer != NULL;
}

static bool copy_them(struct clones *clones, struct error **err)
{
    for (size_t i = 0; i < clones->count; i += FRAME_FD_MAX) {
        size_t rest = clones->count - i;
        if (!copy_some(clones, i, rest < FRAME_FD_MAX ? rest : FRAME_FD_MAX, err))
            return false;
    }
    return true;
}

static bool make_ready(const struct daemon *daemon, struct clones *clones, struct error **err)
{
    for (size_t i = 0; i < clones->count; i++) {
        struct clone *clone = &clones->list[i];
        clone->launched = machine_hatch(daemon, &clone->draft, clone->talk, err);
        if (clone->launched == NULL)
            return false;
    }
    return true;
}

/* All of them, or none. */
static bool give_names(struct clones *clones, struct error **err)
{
    bool good = true;
    for (size_t i = 0; good && i < clones->count; i++) {
        struct clone *clone = &clones->list[i];
        clone->drafted = false;
        good = clone->named = instance_clone_end(&clone->draft, true, err);
    }
    for (size_t i = 0; !good && i < clones->count; i++)
        if (clones->list[i].named)
            store_discard(clones->original.store, clones->list[i].name, NULL);
    return good;
}

static json_t *let_go(const struct clones *clones)
{
    json_t *list = json_array();
    for (size_t i = 0; i < clones->count; i++) {
        const struct clone *clone = &clones->list[i];
        /* One that has ended meanwhile is an instance whose machine did. */
        (void)client_hatch_go(clone->talk, NULL);
        json_array_append_new(list, json_pack("{s:s, s:O}", "name", clone->name, "pid",
                                              json_object_get(clone->launched, "pid")));
    }
    return json_pack("{s:o}", "clones", list);
}

static void clear(struct clones *clones)
{
    for (size_t i = 0; i < clones->count; i++) {
        struct clone *clone = &clones->list[i];
        if (clone->talk >= 0)
            close(clone->talk); /* what has not gone ends */
        if (clone->drafted)
            instance_clone_end(&clone->draft, false, NULL);
        json_decref(clone->launched);
    }
    free(clones->list);
}

json_t *machine_clone_running(struct daemon *daemon, const char *name, const json_t *arguments,
                              struct error **err)
{
    const json_t *count = json_object_get(arguments, "count");
    json_int_t number = count != NULL ? json_integer_value(count) : 1;
    struct clones clones = {.expires = json_string_value(json_object_get(arguments, "expires"))};
    json_t *result = NULL;
    if (number < 1 || number > CLONES_MAX) {
        error_set(err, ERROR_USAGE, "count is a number of clones from 1 to %d", CLONES_MAX);
        return NULL;
    }
    if (!instance_open(&clones.original, &daemon->store, name, err))
        return NULL;
    clones.count = (size_t)number;
    clones.list = alloc_zeroed(clones.count, sizeof(clones.list[0]));
    for (size_t i = 0; i < clones.count; i++)
        clones.list[i].talk = -1;
    if (name_them(&clones, json_string_value(json_object_get(arguments, "to")), err) &&
        draft_them(&clones, err) && copy_them(&clones, err) && make_ready(daemon, &clones, err) &&
        give_names(&clones, err))
        result = let_go(&clones);
    clear(&clones);
    instance_close(&clones.original);
    return result;
}
