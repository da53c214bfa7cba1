/* SPDX-License-Identifier: MIT
 *
 * See migrate_in.h.
 */
#include "daemon/migrate_in.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "archive/machine.h"
#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "daemon/catalogue.h"
#include "daemon/folder.h"
#include "daemon/job.h"
#include "daemon/machine.h"
#include "daemon/migrate_disks.h"
#include "daemon/migrate_in_internal.h"
#include "daemon/migrate_tree.h"
#include "daemon/nvram.h"
#include "daemon/owner.h"

enum { PATIENCE_S = 120, STREAMS_S = 10, INCOMING_MAX = 16 };

time_t incoming_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

struct incoming *incoming_find(struct daemon *daemon, const char *id)
{
    for (struct incoming *at = daemon->incoming; at != NULL; at = at->next)
        if (strcmp(at->id, id) == 0)
            return at;
    return NULL;
}

void incoming_forget(struct incoming *incoming)
{
    for (struct incoming **at = &incoming->daemon->incoming; *at != NULL; at = &(*at)->next)
        if (*at == incoming) {
            *at = incoming->next;
            break;
        }
    incoming_hang_up(incoming);
    json_decref(incoming->texts);
    json_decref(incoming->live);
    json_decref(incoming->disks);
    json_decref(incoming->tree);
    json_decref(incoming->stays);
    free(incoming);
}

static json_t *discard(struct daemon *daemon, const char *name, const json_t *arguments,
                       struct error **err)
{
    (void)name;
    return store_discard(&daemon->store, json_string_value(json_object_get(arguments, "staged")),
                         err)
               ? json_true()
               : NULL;
}

static void on_discarded(void *opaque, const json_t *result, const struct error *error)
{
    struct daemon *daemon = opaque;
    (void)result;
    if (error != NULL) /* the next daemon removes it */
        log_warning(&daemon->log, "%s", error_message(error));
}

/* It does not come; nobody is at work for it. */
void incoming_drop(struct incoming *incoming)
{
    struct daemon *daemon = incoming->daemon;
    if (incoming->staged[0] != '\0') {
        json_t *arguments = json_pack("{s:s}", "staged", incoming->staged);
        job_start(daemon, incoming->name, arguments, discard, on_discarded, daemon);
        json_decref(arguments);
    }
    machine_give_back(daemon, incoming->name, false);
    incoming_forget(incoming);
}

struct incoming *incoming_add(struct daemon *daemon, const char *id, const char *name)
{
    struct incoming *incoming = alloc_zeroed(1, sizeof(*incoming));
    *incoming = (struct incoming){.next = daemon->incoming,
                                  .daemon = daemon,
                                  .wanted = 1,
                                  .talk = -1,
                                  .since = incoming_now()};
    snprintf(incoming->id, sizeof(incoming->id), "%s", id);
    snprintf(incoming->name, sizeof(incoming->name), "%s", name);
    daemon->incoming = incoming;
    return incoming;
}

/* ---- reserving ---- */

static bool has_room(struct api_call *call)
{
    unsigned count = 0;
    for (const struct incoming *at = call->daemon->incoming; at != NULL; at = at->next)
        count++;
    if (count < INCOMING_MAX)
        return true;
    api_refuse(call, 429, "too many machines are on their way to this daemon; try again later");
    return false;
}

/* A source whose earlier attempt was cut off has no use for that. */
static void supersede(struct daemon *daemon, const char *name, const char *source)
{
    for (struct incoming *at = daemon->incoming, *next; at != NULL; at = next) {
        next = at->next;
        if (strcmp(at->name, name) != 0 || strcmp(at->source, source) != 0 ||
            at->stage == INCOMING_TAKING || at->stage == INCOMING_SETTLING)
            continue;
        at->dropped = true;
        if (at->stage == INCOMING_ARRIVING)
            incoming_settle(at);
        else if (at->stage != INCOMING_RECEIVING && at->stage != INCOMING_LOOKING)
            incoming_drop(at);
    }
}

static bool is_free(struct api_call *call, const char *name)
{
    struct error *error = NULL;
    char sentence[INSTANCE_MAX_NAME + 100];
    if (!instance_name_check(name, &error)) {
        api_fail(call, 400, error);
        return false;
    }
    if (faccessat(call->daemon->store.instances, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        snprintf(sentence, sizeof(sentence), "there is an instance '%s' already at the target",
                 name);
        api_refuse(call, 409, sentence);
        return false;
    }
    if (machine_take(call->daemon, name, false, &error))
        return true;
    error_prefix(&error, "at the target");
    api_fail(call, 409, error);
    return false;
}

/* In a job, as a file system may keep it waiting. */
static json_t *look(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    uint64_t reserved = (uint64_t)json_integer_value(json_object_get(arguments, "reserved"));
    const json_t *live = json_object_get(arguments, "live");
    const json_t *tree = json_object_get(arguments, "tree");
    bool copies = json_is_true(json_object_get(live, "copy-storage"));
    json_t *result = live != NULL ? migrate_disks_judge(daemon->store.path, live, reserved, err)
                                  : json_pack("{s:I}", "bytes", (json_int_t)0);
    (void)name;
    if (result == NULL || tree == NULL)
        return result;
    json_t *judged = migrate_tree_judge(tree, live != NULL, copies, err);
    json_int_t bytes = json_integer_value(json_object_get(judged, "bytes"));
    json_int_t disks = json_integer_value(json_object_get(result, "bytes"));
    bool good = judged != NULL &&
                migrate_disks_has_space(daemon->store.path, (uint64_t)bytes,
                                        reserved + (uint64_t)disks, err);
    if (good) {
        json_object_set(result, "stays", json_object_get(judged, "stays"));
        json_object_set_new(result, "bytes", json_integer(bytes + disks));
    }
    json_decref(judged);
    if (good)
        return result;
    json_decref(result);
    return NULL;
}

static void admit(struct api_call *call, struct incoming *incoming)
{
    char store[MIGRATION_ID + 1];
    struct error *error = NULL;
    if (!migration_store_id(&call->daemon->store, store, &error)) {
        incoming_drop(incoming);
        api_fail(call, 500, error);
        return;
    }
    json_t *answer = json_pack("{s:s, s:s, s:i}", "id", incoming->id, "store", store, "archive",
                               PACK_VERSION);
    if (incoming->disks != NULL)
        json_object_set(answer, "disks", incoming->disks);
    if (incoming->stays != NULL)
        json_object_set(answer, "stays", incoming->stays);
    incoming->stage = INCOMING_RESERVED;
    incoming->since = incoming_now();
    api_reply(call, answer);
}

/* A job failed (error), or was called off. */
static void refuse(struct api_call *call, struct incoming *incoming, const struct error *error)
{
    incoming_drop(incoming);
    if (error != NULL)
        api_refuse(call, error_kind(error) == ERROR_USAGE ? 400 : 500, error_message(error));
    else
        api_refuse(call, 409, "the migration was called off");
}

static void on_looked(void *opaque, const json_t *result, const struct error *error)
{
    struct incoming *incoming = opaque;
    struct api_call *call = incoming->call;
    incoming->call = NULL;
    if (result != NULL && !incoming->dropped) {
        incoming->disks = json_incref(json_object_get(result, "disks"));
        incoming->stays = json_incref(json_object_get(result, "stays"));
        incoming->bytes = (uint64_t)json_integer_value(json_object_get(result, "bytes"));
        admit(call, incoming);
        return;
    }
    refuse(call, incoming, error);
}

static void look_first(struct api_call *call, struct incoming *incoming)
{
    uint64_t reserved = 0;
    for (const struct incoming *at = call->daemon->incoming; at != NULL; at = at->next)
        reserved += at->bytes; /* 16 of up to 2^63 at the very most, which has_space() refuses */
    json_t *arguments = json_pack("{s:I}", "reserved", (json_int_t)reserved);
    if (incoming->live != NULL)
        json_object_set(arguments, "live", incoming->live);
    if (incoming->tree != NULL)
        json_object_set(arguments, "tree", incoming->tree);
    incoming->stage = INCOMING_LOOKING;
    incoming->call = call;
    job_start(call->daemon, incoming->name, arguments, look, on_looked, incoming);
    json_decref(arguments);
}

void migrate_in_reserve(struct api_call *call)
{
    const char *name, *from, *source;
    json_t *texts = NULL, *live = NULL, *tree = NULL;
    json_int_t streams = 1;
    struct error *error = NULL;
    if (call->who != NULL && !call->daemon->accepts_migrations) {
        api_refuse(call, 403,
                   "this daemon takes no machines over the network. On its host: 'trapeze "
                   "daemon --accept-migrations ...'");
        return;
    }
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:s, s:s, s:s, s?o, s?o, s?o}", "name",
                       &name, "from", &from, "source", &source, "texts", &texts, "live", &live,
                       "tree", &tree) != 0 ||
        strlen(source) != MIGRATION_ID || (texts != NULL && !json_is_object(texts)) ||
        (tree != NULL && !json_is_object(tree)) ||
        (live != NULL && json_unpack(live, "{s:I}", "streams", &streams) != 0) || streams < 1 ||
        streams > INCOMING_STREAMS) {
        api_refuse(call, 400,
                   "a machine on its way has a 'name', comes 'from' somewhere and out of "
                   "the store 'source', and has perhaps 'texts', 'live' and 'tree'");
        return;
    }
    supersede(call->daemon, name, source);
    if (!has_room(call) || !is_free(call, name))
        return;
    char id[MIGRATION_ID + 1];
    if (!migration_make_id(id, &error)) {
        machine_give_back(call->daemon, name, false);
        api_fail(call, 500, error);
        return;
    }
    struct incoming *incoming = incoming_add(call->daemon, id, name);
    incoming->texts = json_incref(texts);
    incoming->live = json_incref(live);
    incoming->tree = json_incref(tree);
    incoming->wanted = (unsigned)streams;
    memcpy(incoming->source, source, sizeof(incoming->source));
    snprintf(incoming->from, sizeof(incoming->from), "%s", from);
    if (live == NULL && tree == NULL)
        admit(call, incoming);
    else
        look_first(call, incoming);
}

/* ---- receiving ---- */

static bool is_allowed(const char *name)
{
    return instance_file_check(name, NULL);
}

/* What belongs to the machine and is no file of its description's. */
static bool write_texts(int folder, const char *name, const json_t *texts, struct error **err)
{
    char nvram[INSTANCE_MAX_FILE];
    snprintf(nvram, sizeof(nvram), "%s.nvram", name);
    const struct {
        const char *key, *file;
    } rows[] = {{"nvram", nvram}, {"known-hosts", "known_hosts"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const json_t *text = json_object_get(texts, rows[i].key);
        if (json_is_string(text) &&
            !folder_write_bytes(folder, rows[i].file, json_string_value(text),
                                json_string_length(text), err))
            return false;
    }
    return true;
}

/* Makes the files of what came: with `stays`, of one with snapshots. */
static bool make_files(int folder, const char *name, struct unpacked *unpacked,
                       const json_t *arguments, struct error **err)
{
    const json_t *disks = json_object_get(arguments, "disks");
    const json_t *live = json_object_get(arguments, "live");
    const json_t *stays = json_object_get(arguments, "stays");
    if (stays == NULL)
        return machine_adopt(unpacked, name, MACHINE_KEEP_IDENTITY | MACHINE_KEEP_NETWORKS,
                             is_allowed, err) &&
               migrate_disks_make(folder, unpacked->text, disks, live, false, err);
    return unpacked->tree != NULL
               ? migrate_tree_unfold(folder, name, unpacked, stays, disks, live, err)
               : error_set(err, ERROR_USAGE, "its snapshots did not come");
}

static bool fill(int folder, int stream, const char *name, const json_t *arguments, json_t **notes,
                 struct error **err)
{
    struct unpacked unpacked;
    char file[INSTANCE_MAX_FILE], owner[OWNER_MAX];
    bool tree = json_object_get(arguments, "stays") != NULL;
    bool good = (tree ? unpack_with_tree : unpack)(stream, folder, is_allowed, &unpacked, err) &&
                make_files(folder, name, &unpacked, arguments, err);
    if (good) {
        owner_name(geteuid(), owner);
        text_set(unpacked.text, "trapeze.owner", owner);
        snprintf(file, sizeof(file), "%s.vmx", name);
        good = folder_write(folder, file, unpacked.text, err) &&
               write_texts(folder, name, json_object_get(arguments, "texts"), err) &&
               nvram_place(folder, name, &unpacked, err) &&
               migration_write(folder, json_object_get(arguments, "record"), err);
    }
    *notes = good ? json_incref(unpacked.notes) : NULL;
    unpacked_clear(&unpacked);
    return good;
}

static json_t *receive(struct daemon *daemon, const char *name, const json_t *arguments,
                       struct error **err)
{
    int stream = (int)json_integer_value(json_object_get(arguments, "stream"));
    char staged[32];
    json_t *notes = NULL;
    int folder = instance_stage(&daemon->store, staged, err);
    if (folder < 0)
        return NULL;
    bool good = fill(folder, stream, name, arguments, &notes, err);
    close(folder);
    const json_t *live = json_object_get(arguments, "live");
    if (good && live == NULL)
        return json_pack("{s:s, s:o}", "staged", staged, "notes", notes);
    /* A worker will live there, so it is no staged one: the next daemon would remove it. */
    bool published = good && store_publish(&daemon->store, staged, name, err);
    json_t *launched = published ? incoming_launch(daemon, name, live, err) : NULL;
    if (launched != NULL)
        return json_pack("{s:s, s:o, s:o}", "staged", name, "notes", notes, "launched", launched);
    json_decref(notes);
    store_discard(&daemon->store, published ? name : staged, NULL);
    return NULL;
}

static void on_received(void *opaque, const json_t *result, const struct error *error)
{
    struct incoming *incoming = opaque;
    struct api_call *call = incoming->call;
    const char *staged = json_string_value(json_object_get(result, "staged"));
    incoming->call = NULL;
    incoming->since = incoming_now();
    if (staged != NULL)
        snprintf(incoming->staged, sizeof(incoming->staged), "%s", staged);
    if (result != NULL && incoming->live != NULL) {
        machine_link(incoming->daemon, incoming->name, NULL);
        incoming->call = call;
        json_decref(incoming->texts);
        incoming->texts = json_incref(json_object_get(result, "notes"));
        incoming_arrive(incoming);
        return;
    }
    if (result != NULL && !incoming->dropped) {
        incoming->stage = INCOMING_STAGED;
        api_reply(call, json_pack("{s:s, s:O}", "name", incoming->name, "notes",
                                  json_object_get(result, "notes")));
        return;
    }
    refuse(call, incoming, error);
}

static struct incoming *find_at(struct api_call *call, enum incoming_stage stage)
{
    struct incoming *incoming = incoming_find(call->daemon, call->name);
    if (incoming == NULL || incoming->dropped)
        api_refuse(call, 404, "there is no such migration, or none any more");
    else if (incoming->stage != stage)
        api_refuse(call, 409, "the migration is not that far, or further");
    else
        return incoming;
    return NULL;
}

/* {file: true} of those that stay. */
static json_t *name_stays(const struct incoming *incoming)
{
    json_t *names = json_object();
    const json_t *row;
    size_t index;
    json_array_foreach(json_object_get(incoming->tree, "files"), index, row)
        if (json_is_true(json_array_get(incoming->stays, index)))
            json_object_set(names, json_string_value(json_object_get(row, "file")),
                            json_array_get(incoming->stays, index));
    return names;
}

void migrate_in_archive(struct api_call *call)
{
    struct incoming *incoming = find_at(call, INCOMING_RESERVED);
    if (incoming == NULL)
        return;
    json_object_set_new(call->body, "record",
                        json_pack("{s:s, s:s, s:s, s:s}", "role", "target", "stage",
                                  incoming->live != NULL ? MIGRATION_ARRIVING : MIGRATION_ARRIVED,
                                  "from", incoming->from, "id", incoming->id));
    if (incoming->texts != NULL)
        json_object_set(call->body, "texts", incoming->texts);
    if (incoming->live != NULL)
        json_object_set(call->body, "live", incoming->live);
    if (incoming->disks != NULL)
        json_object_set(call->body, "disks", incoming->disks);
    if (incoming->stays != NULL)
        json_object_set_new(call->body, "stays", name_stays(incoming));
    incoming->stage = INCOMING_RECEIVING;
    incoming->call = call;
    job_start(call->daemon, incoming->name, call->body, receive, on_received, incoming);
}

/* ---- deciding ---- */

void incoming_say_outcome(struct api_call *call, bool here)
{
    char store[MIGRATION_ID + 1];
    struct error *error = NULL;
    if (migration_store_id(&call->daemon->store, store, &error))
        api_reply(call,
                  json_pack("{s:s, s:s}", "outcome", here ? "here" : "not-here", "store", store));
    else
        api_fail(call, 500, error);
}

static json_t *publish(struct daemon *daemon, const char *name, const json_t *arguments,
                       struct error **err)
{
    const char *staged = json_string_value(json_object_get(arguments, "staged"));
    return store_publish(&daemon->store, staged, name, err) ? json_true() : NULL;
}

/* The job may have died behind its decision, too, so what counts is what is there. */
static void on_published(void *opaque, const json_t *result, const struct error *error)
{
    struct incoming *incoming = opaque;
    struct daemon *daemon = incoming->daemon;
    struct api_call *call = incoming->call, *asks = incoming->asks;
    char name[INSTANCE_MAX_NAME + 1];
    bool here = migration_find(&daemon->store, incoming->id, name);
    (void)result;
    if (here) {
        json_t *detail = json_pack("{s:s}", "from", incoming->from);
        machine_give_back(daemon, incoming->name, false);
        catalogue_sync(daemon->catalogue, &daemon->store);
        daemon_event(daemon, incoming->name, "arrived", detail);
        incoming_forget(incoming);
    } else {
        incoming_drop(incoming);
    }
    while (asks != NULL) {
        struct api_call *ask = asks;
        asks = ask->next;
        incoming_say_outcome(ask, here);
    }
    if (here || error == NULL)
        incoming_say_outcome(call, here);
    else
        api_refuse(call, 500, error_message(error));
}

void migrate_in_take(struct api_call *call)
{
    struct incoming *incoming = find_at(call, INCOMING_STAGED);
    if (incoming == NULL)
        return;
    json_t *arguments = json_pack("{s:s}", "staged", incoming->staged);
    incoming->stage = INCOMING_TAKING;
    incoming->call = call;
    job_start(call->daemon, incoming->name, arguments, publish, on_published, incoming);
    json_decref(arguments);
}

void migrate_in_ask(struct api_call *call)
{
    struct incoming *incoming = incoming_find(call->daemon, call->name);
    char name[INSTANCE_MAX_NAME + 1];
    if (incoming != NULL && (incoming->recovers || incoming->stage == INCOMING_LATE)) {
        incoming_say_outcome(call, true);
        return;
    }
    if (incoming != NULL && incoming->stage >= INCOMING_TAKING) {
        call->next = incoming->asks;
        incoming->asks = call;
        if (incoming->stage == INCOMING_ARRIVING)
            incoming_settle(incoming);
        return;
    }
    if (incoming != NULL &&
        (incoming->stage == INCOMING_RECEIVING || incoming->stage == INCOMING_LOOKING))
        incoming->dropped = true;
    else if (incoming != NULL)
        incoming_drop(incoming);
    incoming_say_outcome(call, migration_find(&call->daemon->store, call->name, name));
}

static json_t *settle(struct daemon *daemon, const char *name, const json_t *arguments,
                      struct error **err)
{
    char found[INSTANCE_MAX_NAME + 1];
    struct instance instance;
    (void)name;
    if (!migration_find(&daemon->store, json_string_value(json_object_get(arguments, "id")), found))
        return json_object(); /* it is settled */
    if (!instance_open(&instance, &daemon->store, found, err))
        return NULL;
    bool good = migration_remove(instance.fd, err);
    instance_close(&instance);
    return good ? json_object() : NULL;
}

static void on_settled(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    if (result != NULL)
        api_reply(call, json_object());
    else
        api_refuse(call, 500, error_message(error));
}

void migrate_in_settle(struct api_call *call)
{
    const struct incoming *incoming = incoming_find(call->daemon, call->name);
    if (incoming != NULL && !incoming->recovers && incoming->stage != INCOMING_LATE) {
        api_refuse(call, 409, "it is not known yet that it is here");
        return;
    }
    json_object_set_new(call->body, "id", json_string(call->name));
    job_start(call->daemon, call->name, call->body, settle, on_settled, call);
}

/* ---- life ---- */

void migrate_in_tick(struct daemon *daemon)
{
    for (struct incoming *at = daemon->incoming, *next; at != NULL; at = next) {
        next = at->next;
        if ((at->stage == INCOMING_RESERVED || at->stage == INCOMING_STAGED) &&
            incoming_now() - at->since > PATIENCE_S)
            incoming_drop(at);
        else if (at->stage == INCOMING_ARRIVING && at->count < at->wanted &&
                 incoming_now() - at->since > STREAMS_S)
            incoming_settle(at);
    }
}

void migrate_in_hang_up(struct daemon *daemon)
{
    for (struct incoming *at = daemon->incoming; at != NULL; at = at->next)
        incoming_hang_up(at);
}

void migrate_in_free_all(struct daemon *daemon)
{
    while (daemon->incoming != NULL)
        incoming_forget(daemon->incoming);
}
