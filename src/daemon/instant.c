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
 *
 * Disks that the original writes to are frozen in that moment (snapshot_freeze()): it goes on with
 * new images on top of them, and so do the clones.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "client/snapshot.h"
#include "client/spawn.h"
#include "daemon/machine.h"
#include "daemon/snapshot.h"

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

/* Sooner than it must be known, so that nothing is begun for clones that cannot be. */
static bool is_free(const struct clones *clones, const char *name, struct error **err)
{
    return faccessat(clones->original.store->instances, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0 ||
           error_set(err, ERROR_USAGE, "there is an instance '%s' already", name);
}

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
        if (!instance_name_check(clone->name, err) || !is_free(clones, clone->name, err))
            return false;
    }
    return true;
}

/* Some of them, which are made at the same moment. */
struct batch {
    struct clones *clones;
    struct clone *list;
    size_t count;
    bool frozen; /* they lie upon what was frozen for others before */
};

static bool draft_them(const struct batch *batch, struct error **err)
{
    for (size_t i = 0; i < batch->count; i++) {
        struct clone *clone = &batch->list[i];
        const struct instance_plan plan = {.name = clone->name,
                                           .expires = batch->clones->expires,
                                           .linked = true,
                                           .running = true,
                                           .frozen = batch->frozen};
        clone->drafted = instance_clone_begin(&batch->clones->original, &plan, &clone->draft, err);
        if (!clone->drafted)
            return false;
    }
    return true;
}

static void discard(const struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        struct clone *clone = &batch->list[i];
        if (clone->talk >= 0)
            close(clone->talk); /* what has not gone ends */
        if (clone->drafted)
            instance_clone_end(&clone->draft, false, NULL);
        clone->talk = -1;
        clone->drafted = false;
    }
}

/* ---- their processes ---- */

static void control_of(const struct clones *clones, char path[64])
{
    snprintf(path, 64, "/proc/self/fd/%d/control.sock", clones->original.fd);
}

static bool copy_them(const struct batch *batch, const struct client_layer *layers, size_t count,
                      bool *done, struct error **err)
{
    int *theirs = alloc_zeroed(batch->count, sizeof(theirs[0]));
    char path[64];
    struct client_clones how = {
        .layers = layers, .layer_count = count, .unwritten = batch->frozen, .sockets = theirs};
    while (how.socket_count < batch->count) {
        int pair[2];
        if (!client_hatch_socket(pair, err))
            break;
        batch->list[how.socket_count].talk = pair[0];
        theirs[how.socket_count++] = pair[1];
    }
    control_of(batch->clones, path);
    bool good = how.socket_count == batch->count && client_clone_running(path, &how, done, err);
    for (size_t i = 0; i < how.socket_count; i++)
        close(theirs[i]);
    free(theirs);
    return good;
}

static bool copy_and_freeze(void *opaque, const struct client_layer *layers, size_t count,
                            bool *swapped, struct error **err)
{
    return copy_them(opaque, layers, count, swapped, err);
}

/* Disks that were frozen for clones before, and not written to since, need not be frozen again: of
 * a machine that is paused they never are, however many clones it gets. */
static bool try_frozen(struct batch *batch, const struct machine_config *config, bool *done,
                       struct error **err)
{
    struct machine_config lower;
    char path[64];
    const struct client_clones question = {.unwritten = true};
    *done = false;
    machine_config_init(&lower);
    struct text *text = instance_read(&batch->clones->original, err);
    batch->frozen = text != NULL && vmx_read(text, &lower, NULL, NULL) && config->snapshot != 0 &&
                    snapshot_frozen_disks(&batch->clones->original, &lower);
    machine_config_clear(&lower);
    text_free(text);
    if (!batch->frozen)
        return text != NULL;
    control_of(batch->clones, path);
    bool good = client_clone_running(path, &question, done, err);
    if (good && *done)
        good = draft_them(batch, err) && copy_them(batch, NULL, 0, done, err);
    if (good && !*done)
        discard(batch);
    batch->frozen = false;
    return good;
}

static size_t count_written(const struct machine_config *config)
{
    size_t count = 0;
    for (size_t i = 0; i < config->disk_count; i++) {
        const struct machine_disk *disk = &config->disks[i];
        count += !disk->read_only && disk->media == 0 && disk->path[0] != '\0';
    }
    return count;
}

/* As many as one request takes. */
static bool make_some(struct clones *clones, size_t *made, struct error **err)
{
    struct machine_config config;
    machine_config_init(&config);
    bool good = instance_config(&clones->original, &config, NULL, err), done = false;
    size_t written = count_written(&config), most = client_clones_at_once(written);
    struct batch batch = {clones, &clones->list[*made], clones->count - *made, false};
    if (batch.count > most)
        batch.count = most;
    if (good && most == 0)
        good = error_set(err, ERROR_USAGE, "a machine with %zu disks cannot have instant clones",
                         written);
    if (good && written > 0)
        good = try_frozen(&batch, &config, &done, err);
    machine_config_clear(&config);
    if (good && !done)
        good = draft_them(&batch, err) &&
               (written > 0 ? snapshot_freeze(&clones->original, copy_and_freeze, &batch, err)
                            : copy_them(&batch, NULL, 0, &done, err));
    *made += batch.count;
    return good;
}

static bool make_all(struct clones *clones, struct error **err)
{
    size_t made = 0;
    while (made < clones->count)
        if (!make_some(clones, &made, err))
            return false;
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
    const struct batch all = {clones, clones->list, clones->count, false};
    discard(&all);
    for (size_t i = 0; i < clones->count; i++)
        json_decref(clones->list[i].launched);
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
        make_all(&clones, err) && make_ready(daemon, &clones, err) && give_names(&clones, err))
        result = let_go(&clones);
    clear(&clones);
    instance_close(&clones.original);
    return result;
}
