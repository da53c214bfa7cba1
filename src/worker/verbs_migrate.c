/* SPDX-License-Identifier: MIT
 *
 * The verbs by which a machine goes over from one worker to another (migrate/migrate.h).
 * Descriptors come with them: a SOCK_SEQPACKET socket on which the rest is talked about, in objects
 * of JSON, and connected stream sockets.
 *
 *     `migrate`, at the source: the talk, then the streams
 *         worker   {"event": "progress", "stage": …, …} now and then
 *                  {"event": "commit?"}                    record that it is given away, then:
 *         client   {"do": "commit"}, or at any time before {"do": "cancel"}
 *         worker   {"event": "done"}, and it ends as migrated; {"event": "failed", "message": …}:
 * it goes on here; {"event": "uncertain", "message": …}: it stands still until `migrate-resolve`
 *     with "post-copy": true also
 *         client   {"do": "post-copy"}                    not another round
 *         worker   {"event": "switched"}                  it runs there, and memory is sent as before "done"
 *                  {"event": "disconnected", "message": …}: there for good, and some of its memory is
 * here: until `migrate-recover`
 *     `incoming`, at a target that was started for it: the talk, a record, then the streams
 *         worker   progress; {"event": "taken"}; {"event": "done"}, or failed, and it ends
 *                  {"event": "switched"}                  it runs here, and memory is still to come
 *                  {"event": "post-copy-paused", "message": …}: it stands still until `migrate-recover`,
 * and then "switched" comes again
 *         client   {"do": "cancel"}
 *     `migrate-recover`, at both: another talk, then streams
 *
 * A client that hangs up before it has committed calls it off. The record is a file that holds
 * "here", durably, before the machine may run here, whatever becomes of the worker or the host then: who ran
 * it last is known after a loss of power, too. That is one block, written over and flushed while nobody runs
 * the machine; how long it takes is measured before, and part of the source's estimate. (To record "perhaps"
 * early and leave the word to the source would take nothing, but after a loss of power somebody would have to
 * ask a source that may have ended.)
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/frame.h"
#include "base/loop.h"
#include "base/vclock.h"
#include "config/machine.h"
#include "migrate/migrate.h"
#include "vm/vm.h"
#include "worker/verbs.h"

enum { RECORD_SIZE = 4 };
#define RECORD_BLANK "    "
#define RECORD_HERE  "here"

struct migration {
    struct control_target *target;
    int talk, record; /* -1: none */
    struct loop_watch *watch;
    struct migrate_source *source; /* or */
    struct migrate_target *incoming;
    struct migrate_progress progress; /* as it was told last */
    bool uncertain;
    bool switched;     /* post-copy: it runs at the target */
    bool disconnected; /* ... without streams; the target stands still */
    char *message;     /* why; NULL: no error so far */
};

/* ---- the talk ---- */

/* What the client does not take in time it does without; but for what ends it. */
static void say(struct migration *migration, json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT);
    if (migration->talk >= 0 && text != NULL)
        (void)send(migration->talk, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    free(text);
    json_decref(object);
}

static void say_event(struct migration *migration, const char *event, const char *message)
{
    json_t *object = json_pack("{s:s}", "event", event);
    if (message != NULL)
        json_object_set_new(object, "message", control_text(message));
    say(migration, object);
}

static json_t *describe(const struct migrate_progress *progress)
{
    return json_pack("{s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:I}", "stage",
                     migrate_stages[progress->stage].name, "stage-number", (int)progress->stage,
                     "round", (int)progress->round, "total", (json_int_t)progress->total, "left",
                     (json_int_t)progress->left, "disk-total", (json_int_t)progress->disk_total,
                     "disk-left", (json_int_t)progress->disk_left, "sent", (json_int_t)progress->sent, "rate",
                     (json_int_t)progress->rate, "dirty-rate", (json_int_t)progress->dirty_rate,
                     "throttle", (int)progress->throttle, "estimate-ns",
                     (json_int_t)progress->estimate_ns, "downtime-ns",
                     (json_int_t)progress->downtime_ns);
}

static void on_progress(void *opaque, const struct migrate_progress *progress)
{
    struct migration *migration = opaque;
    migration->progress = *progress;
    json_t *object = describe(progress);
    json_object_set_new(object, "event", json_string("progress"));
    say(migration, object);
}

static void note(struct migration *migration, const struct error *error)
{
    free(migration->message);
    migration->message = error != NULL ? alloc_string(error_message(error)) : NULL;
    migration->disconnected = migration->switched && error != NULL;
}

static void hang_up(struct migration *migration)
{
    loop_watch_remove(migration->watch);
    migration->watch = NULL;
    if (migration->talk >= 0)
        close(migration->talk);
    migration->talk = -1;
}

void migration_free(struct migration *migration)
{
    if (migration == NULL)
        return;
    hang_up(migration);
    migrate_source_free(migration->source);
    migrate_target_free(migration->incoming);
    if (migration->record >= 0)
        close(migration->record);
    migration->target->migration = NULL;
    free(migration->message);
    free(migration);
}

static void call_off(struct migration *migration)
{
    if (migration->source != NULL)
        (void)migrate_source_cancel(migration->source);
    if (migration->incoming != NULL)
        (void)migrate_target_cancel(migration->incoming);
}

static void on_talk(void *opaque, int fd, unsigned events)
{
    struct migration *migration = opaque;
    char text[64];
    (void)events;
    ssize_t size = recv(fd, text, sizeof(text), MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    json_t *object = size > 0 ? json_loadb(text, (size_t)size, 0, NULL) : NULL;
    const char *what = json_string_value(json_object_get(object, "do"));
    if (what != NULL && strcmp(what, "commit") == 0 && migration->source != NULL) {
        (void)migrate_source_commit(migration->source);
    } else if (what != NULL && strcmp(what, "post-copy") == 0 && migration->source != NULL) {
        (void)migrate_source_postcopy(migration->source);
    } else {
        call_off(migration);
        if (size <= 0)
            hang_up(migration);
    }
    json_decref(object);
}

static bool is_of_type(int fd, int wanted)
{
    int type = 0;
    socklen_t size = sizeof(type);
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == wanted;
}

/* The talk, the record if there is one, and at least one stream. */
static bool check_descriptors(const struct frame_fds *came, size_t before, struct error **err)
{
    struct stat status;
    if (came->count <= before || came->count > before + MIGRATE_MAX_STREAMS)
        return error_set(err, ERROR_USAGE,
                         "a migration takes descriptors: 'trapeze migrate' sends them");
    if (!is_of_type(came->fds[0], SOCK_SEQPACKET))
        return error_set(err, ERROR_USAGE, "the first descriptor is no SOCK_SEQPACKET socket");
    if (before > 1 && (fstat(came->fds[1], &status) != 0 || !S_ISREG(status.st_mode)))
        return error_set(err, ERROR_USAGE, "the second descriptor is no file");
    for (size_t i = before; i < came->count; i++)
        if (!is_of_type(came->fds[i], SOCK_STREAM))
            return error_set(err, ERROR_USAGE, "descriptor %zu is no SOCK_STREAM socket", i + 1);
    return true;
}

/* The first descriptor that came. */
static bool take_talk(struct migration *migration, struct error **err)
{
    struct frame_fds *came = migration->target->fds;
    migration->talk = came->fds[0];
    came->fds[0] = -1;
    migration->watch = loop_watch_add(vm_loop(migration->target->vm), migration->talk,
                                      LOOP_READABLE, on_talk, migration, err);
    return migration->watch != NULL;
}

static struct migration *migration_new(struct control_target *target, size_t before,
                                       struct error **err)
{
    if (target->migration != NULL) {
        error_set(err, ERROR_USAGE, "the machine is being migrated already");
        return NULL;
    }
    if (!check_descriptors(target->fds, before, err))
        return NULL;
    struct migration *migration = alloc_zeroed(1, sizeof(*migration));
    migration->target = target;
    migration->record = -1;
    migration->talk = -1;
    if (before > 1) {
        migration->record = target->fds->fds[1];
        target->fds->fds[1] = -1;
    }
    if (take_talk(migration, err))
        return migration;
    migration_free(migration);
    return NULL;
}

/* The streams were taken over, or it was not to be. */
static json_t *migration_begun(struct migration *migration, size_t before)
{
    struct frame_fds *came = migration->target->fds;
    if (migration->source == NULL && migration->incoming == NULL) {
        migration_free(migration);
        return NULL;
    }
    for (size_t i = before; i < came->count; i++)
        came->fds[i] = -1;
    migration->target->migration = migration;
    return json_object();
}

/* ---- the source ---- */

static void on_commit(void *opaque)
{
    say_event(opaque, "commit?", NULL);
}

static void on_switched(void *opaque)
{
    struct migration *migration = opaque;
    migration->switched = true;
    say_event(migration, "switched", NULL);
}

static void on_left(void *opaque, enum migrate_result result, const struct error *error)
{
    struct migration *migration = opaque;
    struct vm *vm = migration->target->vm;
    const char *message = error != NULL ? error_message(error) : NULL;
    migrate_source_progress(migration->source, &migration->progress);
    migration->uncertain = result == MIGRATE_UNCERTAIN;
    if (migration->uncertain) {
        say_event(migration, "uncertain", message);
        return;
    }
    if (result == MIGRATE_DISCONNECTED) {
        migration->switched = true;
        note(migration, error);
        say_event(migration, "disconnected", message);
        return;
    }
    if (result == MIGRATE_FAILED) {
        say_event(migration, "failed", message);
        migration_free(migration);
        return;
    }
    on_progress(migration, &migration->progress);
    say_event(migration, "done", NULL);
    migration_free(migration);
    vm_quit_migrated(vm);
}

static bool take_number(const json_t *arguments, const char *name, uint64_t limit, uint64_t *number,
                        struct error **err)
{
    const json_t *value = json_object_get(arguments, name);
    if (value == NULL)
        return true;
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > limit)
        return error_set(err, ERROR_USAGE, "%s is a number from 0 to %llu", name,
                         (unsigned long long)limit);
    *number = (uint64_t)json_integer_value(value);
    return true;
}

static bool take_last_resort(const json_t *arguments, struct migrate_source_options *options,
                             struct error **err)
{
    static const char *const names[] = {[MIGRATE_KEEP_TRYING] = "continue",
                                        [MIGRATE_STOP_ANYWAY] = "stop",
                                        [MIGRATE_GIVE_UP] = "fail"};
    const json_t *value = json_object_get(arguments, "last-resort");
    const char *name = json_string_value(value);
    if (value == NULL)
        return true;
    for (size_t i = 0; name != NULL && i < ARRAY_SIZE(names); i++)
        if (strcmp(name, names[i]) == 0) {
            options->last_resort = (enum migrate_last_resort)i;
            return true;
        }
    return error_set(err, ERROR_USAGE, "last-resort is continue, stop or fail");
}

static bool take_switch(const json_t *arguments, const char *name, bool *on, struct error **err)
{
    const json_t *value = json_object_get(arguments, name);
    *on = json_is_true(value);
    return value == NULL || json_is_boolean(value) ||
           error_set(err, ERROR_USAGE, "%s is true or false", name);
}

/* *disks: `how`, or NULL if nothing is said of them. */
static bool take_disks(const struct vm *vm, const json_t *arguments,
                       enum disks_how how[MACHINE_MAX_DISKS], const enum disks_how **disks,
                       struct error **err)
{
    static const char *const names[] = {
        [DISKS_COPY] = "copy", [DISKS_VERIFY] = "verify", [DISKS_SHARED] = "shared", [DISKS_TOP] = "top"};
    const json_t *list = json_object_get(arguments, "disks");
    size_t order[MACHINE_MAX_DISKS], count = vm_disk_order(vm, order);
    *disks = list != NULL ? how : NULL;
    if (list == NULL)
        return true;
    bool good = json_array_size(list) == count;
    for (size_t i = 0; good && i < count; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        size_t k = 0;
        while (name != NULL && k < ARRAY_SIZE(names) && strcmp(name, names[k]) != 0)
            k++;
        good = name != NULL && k < ARRAY_SIZE(names);
        how[i] = (enum disks_how)k;
    }
    return good || error_set(err, ERROR_USAGE,
                             "disks is a list of copy, top, verify or shared for each of the %zu disks",
                             count);
}

static bool take_options(const json_t *arguments, struct migrate_source_options *options,
                         struct error **err)
{
    const uint64_t hour = UINT64_C(3600000000000);
    uint64_t rounds = 0;
    if (!take_switch(arguments, "compress", &options->compress, err) ||
        !take_switch(arguments, "converge", &options->converge, err) ||
        !take_switch(arguments, "post-copy", &options->postcopy, err) ||
        !take_number(arguments, "downtime-ns", hour, &options->downtime_ns, err) ||
        !take_number(arguments, "bandwidth", UINT64_C(1) << 50, &options->bandwidth, err) ||
        !take_number(arguments, "rounds", 1000000, &rounds, err) ||
        !take_number(arguments, "patience-ns", hour, &options->patience_ns, err))
        return false;
    options->rounds = (unsigned)rounds;
    return take_last_resort(arguments, options, err);
}

/* {"downtime-ns": N, "bandwidth": bytes per second, "compress": true, "converge": true, "post-copy": true,
 * "rounds": N, "last-resort": "continue", "stop" or "fail", "patience-ns": N, "disks": ["copy", "top", "verify"
 * or "shared", … for each (migrate/disks.h), in the order in which they came]}, all of which may be missing,
 * and descriptors. */
json_t *verb_migrate(struct control_target *target, const json_t *arguments, struct error **err)
{
    struct migrate_source_options options = {
        .progress = on_progress, .commit = on_commit, .switched = on_switched, .done = on_left};
    enum disks_how how[MACHINE_MAX_DISKS];
    if (!take_options(arguments, &options, err) ||
        !take_disks(target->vm, arguments, how, &options.disks, err))
        return NULL;
    struct migration *migration = migration_new(target, 1, err);
    if (migration == NULL)
        return NULL;
    options.opaque = migration;
    migration->source = migrate_source_begin(target->vm, target->fds->fds + 1,
                                             target->fds->count - 1, &options, err);
    return migration_begun(migration, 1);
}

/* {"where": "here"} or {"where": "there"} */
json_t *verb_migrate_resolve(struct control_target *target, const json_t *arguments,
                             struct error **err)
{
    const char *where = json_string_value(json_object_get(arguments, "where"));
    if (where == NULL || (strcmp(where, "here") != 0 && strcmp(where, "there") != 0)) {
        error_set(err, ERROR_USAGE, "where is here or there");
        return NULL;
    }
    if (target->migration == NULL || !target->migration->uncertain) {
        error_set(err, ERROR_USAGE, "it is known where the machine is");
        return NULL;
    }
    return migrate_source_resolve(target->migration->source, strcmp(where, "here") == 0, err)
               ? json_object()
               : NULL;
}

/* ---- streams that were lost ---- */

/* {}, and descriptors. */
json_t *verb_migrate_recover(struct control_target *target, const json_t *arguments,
                             struct error **err)
{
    struct migration *migration = target->migration;
    struct frame_fds *came = target->fds;
    (void)arguments;
    if (migration == NULL || !migration->switched) {
        error_set(err, ERROR_USAGE, "no machine waits for memory here");
        return NULL;
    }
    if (!check_descriptors(came, 1, err))
        return NULL;
    hang_up(migration);
    if (!take_talk(migration, err))
        return NULL;
    if (!(migration->source != NULL
              ? migrate_source_recover(migration->source, came->fds + 1, came->count - 1, err)
              : migrate_target_recover(migration->incoming, came->fds + 1, came->count - 1, err)))
        return NULL;
    for (size_t i = 1; i < came->count; i++)
        came->fds[i] = -1;
    note(migration, NULL);
    return json_object();
}

/* ---- the target ---- */

static bool write_record(int record, const char word[RECORD_SIZE])
{
    return pwrite(record, word, RECORD_SIZE, 0) == RECORD_SIZE && fdatasync(record) == 0;
}

static bool cannot_record(struct error **err)
{
    return error_set_errno(err, errno, "it cannot be recorded that the machine is here");
}

/* What on_taken() will write to has its place on the disk before: the second time is as long as that will be. */
static bool prepare_record(const struct migration *migration, uint64_t *took_ns, struct error **err)
{
    for (unsigned i = 0; i < 2; i++) {
        struct timespec begun, now;
        clock_gettime(CLOCK_MONOTONIC, &begun);
        if (!write_record(migration->record, RECORD_BLANK))
            return cannot_record(err);
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t took = (now.tv_sec - begun.tv_sec) * NS_PER_S + (now.tv_nsec - begun.tv_nsec);
        *took_ns = (uint64_t)took;
    }
    return true;
}

static bool on_taken(void *opaque, struct error **err)
{
    struct migration *migration = opaque;
    struct error *error = NULL;
    if (!write_record(migration->record, RECORD_HERE)) {
        (void)cannot_record(&error);
        if (pwrite(migration->record, RECORD_BLANK, RECORD_SIZE, 0) == RECORD_SIZE)
            return error_propagate(err, error);
        error_free(error); /* what cannot be taken back is read as it stands, so it holds */
    }
    say_event(migration, "taken", NULL);
    return true;
}

static void on_late(void *opaque, const struct error *error)
{
    struct migration *migration = opaque;
    migration->switched = true;
    migration->target->incoming = false;
    note(migration, error);
    if (error == NULL)
        say_event(migration, "switched", NULL);
    else
        say_event(migration, "post-copy-paused", error_message(error));
}

static void on_arrived(void *opaque, const struct error *error)
{
    struct migration *migration = opaque;
    struct control_target *target = migration->target;
    if (error == NULL) {
        say_event(migration, "done", NULL);
        migration_free(migration);
        target->incoming = false;
        return;
    }
    say_event(migration, "failed", error_message(error));
    target->failed(target, error);
    migration_free(migration);
}

/* {"patience-ns": N, "disks": as the source has them}, which may be missing, and descriptors. */
json_t *verb_incoming(struct control_target *target, const json_t *arguments, struct error **err)
{
    struct migrate_target_options options = {
        .taken = on_taken, .late = on_late, .done = on_arrived, .progress = on_progress};
    if (!target->incoming) {
        error_set(err, ERROR_USAGE, "this machine was not started to become another one");
        return NULL;
    }
    enum disks_how how[MACHINE_MAX_DISKS];
    if (!take_number(arguments, "patience-ns", UINT64_C(3600000000000), &options.patience_ns,
                     err) ||
        !take_disks(target->vm, arguments, how, &options.disks, err))
        return NULL;
    struct migration *migration = migration_new(target, 2, err);
    if (migration == NULL)
        return NULL;
    options.opaque = migration;
    if (!prepare_record(migration, &options.record_ns, err)) {
        migration_free(migration);
        return NULL;
    }
    migration->incoming = migrate_target_begin(target->vm, target->fds->fds + 2,
                                               target->fds->count - 2, &options, err);
    return migration_begun(migration, 2);
}

/* ---- everybody else ---- */

bool migration_is_away(const struct migration *migration)
{
    return migration != NULL && migration->source != NULL &&
           migrate_source_holds(migration->source);
}

/* It runs here without all of its memory, or stands still for want of it. */
static bool allows_late(const struct migration *migration, const struct control_verb *verb,
                        struct error **err)
{
    if (migration->disconnected) {
        error_set(err, ERROR_USAGE, "some of the machine's memory is where it ran before, and the connection "
                                    "is lost (post-copy)");
        error_hint(err, "It goes on when it is connected again; if what ran it there is gone, it is lost.");
        return false;
    }
    if (verb->while_copied)
        return true;
    error_set(err, ERROR_USAGE, "the machine's memory is still on its way (post-copy)");
    error_hint(err, "Try again when its migration has ended.");
    return false;
}

bool migration_allows(const struct control_target *target, const struct control_verb *verb,
                      struct error **err)
{
    const struct migration *migration = target->migration;
    bool ends = strcmp(verb->name, "quit") == 0;
    if (migration != NULL && migration->uncertain && strcmp(verb->name, "migrate-resolve") != 0 &&
        (ends || !verb->only_looks)) {
        error_set(err, ERROR_USAGE,
                  "whether the machine runs here or where it was migrated to is not "
                  "known");
        error_hint(err, "Find out, and say so ('migrate-resolve').");
        return false;
    }
    if (verb->only_looks || (migration == NULL && !target->incoming))
        return true;
    if (target->incoming)
        return strcmp(verb->name, "incoming") == 0 ||
               error_set(err, ERROR_USAGE, "the machine has not arrived here yet");
    if (strcmp(verb->name, "migrate-recover") == 0)
        return true;
    if (migration->switched && migration->incoming != NULL)
        return allows_late(migration, verb, err);
    return (verb->while_copied && !migration_is_away(migration)) ||
           strcmp(verb->name, "migrate-resolve") == 0 ||
           error_set(err, ERROR_USAGE, "the machine is being migrated");
}

json_t *migration_status(const struct control_target *target)
{
    struct migration *migration = target->migration;
    if (migration == NULL)
        return target->incoming ? json_pack("{s:s}", "role", "target") : NULL;
    if (migration->source != NULL)
        migrate_source_progress(migration->source, &migration->progress);
    else
        migrate_target_progress(migration->incoming, &migration->progress);
    json_t *status = describe(&migration->progress);
    json_object_set_new(status, "role",
                        json_string(migration->source != NULL ? "source" : "target"));
    json_object_set_new(status, "uncertain", json_boolean(migration->uncertain));
    if (migration->disconnected) {
        json_object_set_new(status, "stage",
                            json_string(migration->source != NULL ? "post-copy-disconnected"
                                                                  : "post-copy-paused"));
        json_object_set_new(status, "message", control_text(migration->message));
    }
    return status;
}
