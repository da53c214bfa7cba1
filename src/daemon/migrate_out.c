/* SPDX-License-Identifier: MIT
 *
 * See migrate_out.h. What a job was at when it ended, the instance's record says.
 */
#include "daemon/migrate_out.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "client/remote.h"
#include "daemon/api.h"
#include "daemon/catalogue.h"
#include "daemon/job.h"
#include "daemon/machine.h"
#include "daemon/migrate_send.h"
#include "daemon/migration.h"

enum { FIRST_WAIT_S = 2, LONGEST_WAIT_S = 60, CONNECTIONS_MAX = 16 };

/* One that is being sent, or whose target is asked. */
struct move {
    struct move *next;
    struct daemon *daemon;
    char name[INSTANCE_MAX_NAME + 1];
    struct api_call *call; /* of the sending; NULL: it is asked after */
    bool working;          /* a job is */
    bool cancelled;
    bool live;          /* it runs, and may be called off for longer */
    unsigned wait, due; /* seconds, between two questions and to the next */
};

struct outgoing {
    struct move *moves;
    bool settling;      /* a job is */
    unsigned wait, due; /* as above; wait 0: everybody knows */
};

static struct outgoing *state_of(struct daemon *daemon)
{
    if (daemon->outgoing == NULL)
        daemon->outgoing = alloc_zeroed(1, sizeof(*daemon->outgoing));
    return daemon->outgoing;
}

bool migrate_out_is_idle(const struct daemon *daemon)
{
    const struct outgoing *outgoing = daemon->outgoing;
    return outgoing == NULL ||
           (outgoing->moves == NULL && !outgoing->settling && outgoing->wait == 0);
}

static struct move *find(struct daemon *daemon, const char *name)
{
    for (struct move *move = state_of(daemon)->moves; move != NULL; move = move->next)
        if (strcmp(move->name, name) == 0)
            return move;
    return NULL;
}

static struct move *add(struct daemon *daemon, const char *name)
{
    struct move *move = alloc_zeroed(1, sizeof(*move));
    *move = (struct move){.next = state_of(daemon)->moves,
                          .daemon = daemon,
                          .wait = FIRST_WAIT_S,
                          .due = FIRST_WAIT_S};
    snprintf(move->name, sizeof(move->name), "%s", name);
    state_of(daemon)->moves = move;
    return move;
}

static void forget(struct move *move)
{
    for (struct move **at = &state_of(move->daemon)->moves; *at != NULL; at = &(*at)->next)
        if (*at == move) {
            *at = move->next;
            break;
        }
    free(move);
}

/* NULL: none. */
static json_t *read_record(struct daemon *daemon, const char *name)
{
    int folder =
        openat(daemon->store.instances, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    json_t *record = folder >= 0 ? migration_read(folder) : NULL;
    if (folder >= 0)
        close(folder);
    return record;
}

static void settle_soon(struct daemon *daemon)
{
    state_of(daemon)->wait = state_of(daemon)->due = 1;
}

/* It is at the target now. */
static void has_moved(struct daemon *daemon, const char *name, const char *to)
{
    catalogue_sync(daemon->catalogue, &daemon->store);
    daemon_event(daemon, name, "moved", json_pack("{s:s}", "to", to));
    settle_soon(daemon);
}

/* ---- sending ---- */

/* What was called off before it counted. */
static json_t *clear_record(struct daemon *daemon, const char *name, const json_t *arguments,
                            struct error **err)
{
    struct instance instance;
    (void)arguments;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    bool good = migration_remove(instance.fd, err);
    instance_close(&instance);
    return good ? json_true() : NULL;
}

static void fail(struct move *move, int status, const char *sentence)
{
    struct api_call *call = move->call;
    machine_give_back(move->daemon, move->name, false);
    forget(move);
    api_refuse(call, status, sentence);
}

/* It is here, as before; `error` is why, if nobody called it off. */
static void has_stayed(struct move *move, const struct error *error)
{
    if (move->cancelled)
        fail(move, 409, "the migration was called off; the machine is here");
    else
        fail(move, error_kind(error) == ERROR_USAGE ? 409 : 500, error_message(error));
}

static void on_cleared(void *opaque, const json_t *result, const struct error *error)
{
    struct move *move = opaque;
    struct error *died = NULL;
    (void)result;
    if (error != NULL) /* it hinders nobody, and goes with the next daemon's start */
        log_warning(&move->daemon->log, "%s", error_message(error));
    error_set(&died, ERROR_HOST,
              "the process that was at it ended without a word; the machine is here");
    has_stayed(move, died);
    error_free(died);
}

/* Not known where it is: nobody waits for the answer any longer, but it is asked for. */
static void become_uncertain(struct move *move, const char *sentence)
{
    struct api_call *call = move->call;
    move->call = NULL;
    move->wait = move->due = FIRST_WAIT_S;
    machine_give_back(move->daemon, move->name, false);
    daemon_event(move->daemon, move->name, "uncertain", NULL);
    api_refuse(call, 500, sentence);
}

static void on_sent(void *opaque, const json_t *result, const struct error *error)
{
    struct move *move = opaque;
    struct daemon *daemon = move->daemon;
    struct api_call *call = move->call;
    move->working = false;
    json_t *record = result == NULL ? read_record(daemon, move->name) : NULL;
    if (result != NULL) {
        machine_give_back(daemon, move->name, false);
        has_moved(daemon, move->name, json_string_value(json_object_get(result, "to")));
        forget(move);
        api_reply(call, json_deep_copy(result));
    } else if (migration_is_at(record, MIGRATION_HAND_OVER)) {
        become_uncertain(move, error_message(error));
    } else if (migration_is_at(record, MIGRATION_COPYING)) {
        job_start(daemon, move->name, NULL, clear_record, on_cleared, move);
    } else {
        struct instance instance;
        bool here = instance_open(&instance, &daemon->store, move->name, NULL);
        if (here) {
            instance_close(&instance);
            has_stayed(move, error);
        } else { /* the job died behind its last step */
            machine_give_back(daemon, move->name, false);
            json_t *moved = migration_moved(&daemon->store, move->name);
            const char *to = json_string_value(json_object_get(moved, "url"));
            has_moved(daemon, move->name, to != NULL ? to : "another daemon");
            json_t *answer = json_pack("{s:s, s:s, s:[]}", "name", move->name, "to",
                                       to != NULL ? to : "", "notes");
            json_decref(moved);
            forget(move);
            api_reply(call, answer);
        }
    }
    json_decref(record);
}

void migrate_out(struct api_call *call)
{
    struct client_remote remote;
    struct error *error = NULL;
    json_t *to;
    json_int_t downtime = 0, bandwidth = 0, connections = 1;
    int compress = 0, converge = 0, copies = 0, late = 0;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:o, s?I, s?I, s?b, s?b, s?b, s?b, s?I}", "to",
                       &to, "downtime-ns", &downtime, "bandwidth", &bandwidth, "compress",
                       &compress, "converge", &converge, "copy-storage", &copies, "post-copy", &late, "connections",
                       &connections) != 0 ||
        downtime < 0 || bandwidth < 0 || connections < 1 || connections > CONNECTIONS_MAX) {
        api_refuse(call, 400,
                   "a machine migrates 'to' a daemon, with a downtime in ns, a bandwidth in "
                   "bytes per second, compressed or not, with its disks or not, over 1 to 16 "
                   "connections");
        return;
    }
    if (!client_remote_unpack(to, &remote, &error)) {
        api_fail(call, 400, error);
        return;
    }
    bool allowed = remote.path == NULL || call->who == NULL;
    client_remote_clear(&remote);
    if (!allowed) {
        api_refuse(call, 403,
                   "a socket is a file of the daemon's host; over the network the target "
                   "is https://NAME:PORT");
    } else if (api_take_existing(call)) {
        if (machine_is_ending(call->daemon, call->name)) {
            machine_give_back(call->daemon, call->name, false);
            api_refuse(call, 409, "the instance is just ending; try again then");
            return;
        }
        bool live = machine_is_linked(call->daemon, call->name);
        json_object_set_new(call->body, "live", json_boolean(live));
        struct move *move = find(call->daemon, call->name);
        if (move != NULL) /* that is still asked after; the job says why not */
            forget(move);
        move = add(call->daemon, call->name);
        move->call = call;
        move->working = true;
        move->live = live;
        job_start(call->daemon, call->name, call->body, migrate_send, on_sent, move);
    }
}

/* By post-copy: it is at the target already. */
static bool has_gone(const struct move *move)
{
    const json_t *migration = json_object_get(job_told(move->daemon, move), "migration");
    const char *stage = json_string_value(json_object_get(migration, "stage"));
    return stage != NULL && strncmp(stage, "post-copy", strlen("post-copy")) == 0;
}

void migrate_out_cancel(struct api_call *call)
{
    struct move *move = find(call->daemon, call->name);
    json_t *record = read_record(call->daemon, call->name);
    if (move == NULL || !move->working || move->call == NULL) {
        api_refuse(call, 409, "the instance is not migrating");
    } else if (!move->live && migration_is_at(record, MIGRATION_HAND_OVER)) {
        api_refuse(call, 409, "it is too late: the machine is being handed over");
    } else if (has_gone(move)) {
        api_refuse(call, 409, "it is too late: the machine is at the target, and its memory follows");
    } else {
        move->cancelled = true;
        job_signal(call->daemon, move, SIGTERM);
        api_reply(call, json_pack("{s:s}", "name", call->name));
    }
    json_decref(record);
}

/* ---- asking ---- */

static void on_asked(void *opaque, const json_t *result, const struct error *error)
{
    struct move *move = opaque;
    struct daemon *daemon = move->daemon;
    move->working = false;
    machine_give_back(daemon, move->name, false);
    json_t *record = read_record(daemon, move->name);
    bool open = migration_is_at(record, MIGRATION_HAND_OVER);
    json_decref(record);
    if (result != NULL && json_is_true(json_object_get(result, "here"))) {
        has_moved(daemon, move->name, json_string_value(json_object_get(result, "to")));
    } else if (result != NULL) {
        daemon_event(daemon, move->name, "stayed",
                     json_pack("{s:O}", "to", json_object_get(result, "to")));
    } else if (open) {
        move->wait = move->wait * 2 < LONGEST_WAIT_S ? move->wait * 2 : LONGEST_WAIT_S;
        move->due = move->wait;
        log_info(&daemon->log, "'%s' is not known to have arrived: %s", move->name,
                 error_message(error));
        return;
    }
    forget(move);
}

static void ask(struct move *move)
{
    move->due = move->wait;
    if (!machine_take(move->daemon, move->name, false, NULL))
        return;
    move->working = true;
    job_start(move->daemon, move->name, NULL, migrate_ask, on_asked, move);
}

static void on_resolved(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    struct daemon *daemon = call->daemon;
    machine_give_back(daemon, call->name, false);
    if (result == NULL) {
        api_refuse(call, error_kind(error) == ERROR_USAGE ? 409 : 500, error_message(error));
        return;
    }
    struct move *move = find(daemon, call->name);
    if (move != NULL)
        forget(move);
    catalogue_sync(daemon->catalogue, &daemon->store);
    daemon_event(daemon, call->name, "resolved",
                 json_pack("{s:O}", "where", json_object_get(result, "where")));
    settle_soon(daemon);
    api_reply(call, json_deep_copy(result));
}

void migrate_out_resolve(struct api_call *call)
{
    const char *where;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:s}", "where", &where) != 0 ||
        (strcmp(where, "here") != 0 && strcmp(where, "there") != 0))
        api_refuse(call, 400, "where is 'here' or 'there'");
    else if (api_take_existing(call))
        job_start(call->daemon, call->name, call->body, migrate_resolve, on_resolved, call);
}

void migrate_out_describe(struct daemon *daemon, const char *name, json_t *answer)
{
    json_t *record = read_record(daemon, name);
    const char *state = json_string_value(json_object_get(answer, "state"));
    const struct move *move = find(daemon, name);
    bool reserving = record == NULL && move != NULL && move->working && move->call != NULL;
    if (record != NULL || reserving)
        json_object_set_new(
            answer, "migration",
            json_pack("{s:s, s:s}", "stage", reserving ? "reserving" : migration_stage(record), "peer",
                      migration_peer(reserving ? move->call->body : record)));
    bool asked = move != NULL && move->call == NULL;
    if (migration_is_at(record, MIGRATION_HAND_OVER) &&
        (asked || (state != NULL && strcmp(state, "stopped") == 0)))
        json_object_set_new(answer, "state", json_string("uncertain"));
    else if (migration_is_at(record, MIGRATION_ARRIVING))
        json_object_set_new(answer, "state", json_string("arriving"));
    json_decref(record);
}

/* ---- life ---- */

static void on_told(void *opaque, const json_t *result, const struct error *error)
{
    struct outgoing *outgoing = opaque;
    bool left = error != NULL || json_integer_value(json_object_get(result, "left")) > 0;
    unsigned wait = outgoing->wait * 2 < LONGEST_WAIT_S ? outgoing->wait * 2 : LONGEST_WAIT_S;
    outgoing->settling = false;
    outgoing->wait = outgoing->due = left ? wait : 0;
}

void migrate_out_tick(struct daemon *daemon)
{
    struct outgoing *outgoing = state_of(daemon);
    for (struct move *move = outgoing->moves, *next; move != NULL; move = next) {
        next = move->next;
        if (!move->working && (move->due == 0 || --move->due == 0))
            ask(move);
    }
    if (outgoing->wait > 0 && !outgoing->settling && (outgoing->due == 0 || --outgoing->due == 0)) {
        outgoing->settling = true;
        job_start(daemon, "", NULL, migrate_settle, on_told, outgoing);
    }
}

void migrate_out_adopt_all(struct daemon *daemon)
{
    char **names = store_list(&daemon->store, NULL);
    for (size_t i = 0; names != NULL && names[i] != NULL; i++) {
        json_t *record = read_record(daemon, names[i]);
        struct error *error = NULL;
        if (migration_is_at(record, MIGRATION_COPYING))
            json_decref(clear_record(daemon, names[i], NULL, &error));
        else if (migration_is_at(record, MIGRATION_HAND_OVER))
            add(daemon, names[i]);
        if (error != NULL)
            log_warning(&daemon->log, "%s", error_message(error));
        error_free(error);
        json_decref(record);
    }
    store_list_free(names);
    settle_soon(daemon);
}

void migrate_out_free_all(struct daemon *daemon)
{
    if (daemon->outgoing == NULL)
        return;
    while (daemon->outgoing->moves != NULL)
        forget(daemon->outgoing->moves);
    free(daemon->outgoing);
    daemon->outgoing = NULL;
}
