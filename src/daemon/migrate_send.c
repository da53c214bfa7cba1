/* SPDX-License-Identifier: MIT
 *
 * See migrate_send.h.
 */
#include "daemon/migrate_send.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "archive/pack.h"
#include "base/error.h"
#include "client/api.h"
#include "client/api_stream.h"
#include "daemon/export.h"
#include "daemon/job.h"
#include "daemon/migrate_disks.h"
#include "daemon/migrate_send_internal.h"
#include "daemon/snapshot.h"

enum { TEXT_MAX = 64 << 10 /* bytes */ };

/* ---- talking to the target ---- */

/* Frees the answer. NULL: err; what the target refuses is the user's affair. */
static json_t *take_answer(const struct sending *s, char *answer, int status, struct error **err)
{
    json_t *value = answer != NULL ? json_loads(answer, 0, NULL) : NULL;
    const char *refusal = json_string_value(json_object_get(value, "error"));
    if (answer != NULL && (status / 100 != 2 || !json_is_object(value))) {
        error_set(err, status / 100 == 4 ? ERROR_USAGE : ERROR_HOST, "%s",
                  refusal != NULL ? refusal : "its answer makes no sense");
        error_prefix(err, "%s", s->remote.url);
        json_decref(value);
        value = NULL;
    }
    free(answer);
    return value;
}

/* POST /v1/migrations[/ID/verb]; `body` is stolen and may be NULL. */
json_t *sending_ask(const struct sending *s, const char *verb, json_t *body, struct error **err)
{
    char *path = NULL, *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL, *answer = NULL;
    int status = 0;
    if (asprintf(&path, "/v1/migrations%s%s%s%s", s->id[0] != '\0' ? "/" : "", s->id,
                 verb[0] != '\0' ? "/" : "", verb) > 0)
        answer = api_call_at(&s->remote, "POST", path, text, &status, err);
    free(path);
    free(text);
    json_decref(body);
    return take_answer(s, answer, status, err);
}

/* Only the store that was to have it can say so. */
enum outcome sending_outcome(const struct sending *s, const char *verb, struct error **err)
{
    json_t *answer = sending_ask(s, verb, NULL, err);
    const char *word = json_string_value(json_object_get(answer, "outcome"));
    const char *store = json_string_value(json_object_get(answer, "store"));
    const char *wanted = json_string_value(json_object_get(s->record, "store"));
    enum outcome outcome = UNKNOWN;
    if (answer != NULL &&
        (word == NULL || store == NULL || wanted == NULL || strcmp(store, wanted) != 0))
        error_set(err, ERROR_HOST, "%s: another daemon answers there, or one with another store",
                  s->remote.url);
    else if (answer != NULL)
        outcome = strcmp(word, "here") == 0 ? HERE : NOT_HERE;
    json_decref(answer);
    return outcome;
}

/* ---- reserving ---- */

static void add_text(const struct sending *s, json_t *texts, const char *key, const char *file)
{
    char *text = NULL;
    int fd = openat(s->instance.fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t size = fd >= 0 && (text = malloc(TEXT_MAX)) != NULL ? read(fd, text, TEXT_MAX) : 0;
    size = size > 0 ? (ssize_t)strnlen(text, (size_t)size) : 0; /* an .nvram has more behind it */
    if (size > 0)
        json_object_set_new(texts, key, json_stringn(text, (size_t)size));
    free(text);
    if (fd >= 0)
        close(fd);
}

bool sending_read_tree(struct sending *s, bool copies, struct error **err)
{
    return migrate_tree_read(&s->instance, s->live, copies, &s->tree, err);
}

static bool ask_for_place(struct sending *s, json_t *body, const json_t *live, struct error **err)
{
    json_t *answer = sending_ask(s, "", body, err);
    const char *id = json_string_value(json_object_get(answer, "id"));
    const char *store = json_string_value(json_object_get(answer, "store"));
    json_t *disks = json_object_get(answer, "disks");
    bool good = id != NULL && store != NULL && strlen(id) == MIGRATION_ID &&
                (live == NULL || migrate_disks_understood(disks, live));
    if (good) {
        json_int_t format = json_integer_value(json_object_get(answer, "archive"));
        s->format = format <= 0              ? PACK_HAS_NVRAM - 1 /* older ones say nothing */
                    : format >= PACK_VERSION ? PACK_VERSION
                                             : (int)format;
        s->disks = json_incref(disks);
        memcpy(s->id, id, sizeof(s->id));
        json_object_set_new(s->record, "id", json_string(id));
        json_object_set_new(s->record, "store", json_string(store));
        good =
            s->tree == NULL || migrate_tree_agree(s->tree, json_object_get(answer, "stays"), err);
    } else if (answer != NULL) {
        error_set(err, ERROR_HOST, "%s: its answer makes no sense", s->remote.url);
    }
    json_decref(answer);
    return good;
}

bool sending_reserve(struct sending *s, const json_t *live, struct error **err)
{
    char host[256] = "", nvram[INSTANCE_MAX_FILE], own[MIGRATION_ID + 1];
    json_t *texts = json_object();
    if (!migration_store_id(s->instance.store, own, err)) {
        json_decref(texts);
        return false;
    }
    gethostname(host, sizeof(host) - 1);
    snprintf(nvram, sizeof(nvram), "%s.nvram", s->instance.name);
    add_text(s, texts, "nvram", nvram);
    add_text(s, texts, "known-hosts", "known_hosts");
    json_t *body = json_pack("{s:s, s:s++, s:s, s:o}", "name", s->instance.name, "from", host, ":",
                             s->instance.store->path, "source", own, "texts", texts);
    if (live != NULL)
        json_object_set(body, "live", (json_t *)(uintptr_t)live);
    if (s->tree == NULL)
        return ask_for_place(s, body, live, err);
    json_t *proofs = live != NULL ? json_incref(json_object_get(live, "proofs")) : json_object();
    json_t *tree = migrate_tree_offer(s->tree, proofs, err);
    bool good = tree != NULL;
    if (good)
        json_object_set_new(body, "tree", tree);
    else
        json_decref(body);
    good = good && ask_for_place(s, body, live, err);
    migrate_disks_retract(proofs);
    json_decref(proofs);
    return good;
}

/* ---- the archive, made by a process of its own while it is sent ---- */

struct archive {
    pid_t pid;
    int stream, report; /* what comes from there; the report is why it failed */
};

static _Noreturn void make_archive(const struct sending *s, int stream, int report, pid_t parent)
{
    struct error *error = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    /* The report is there before the stream ends. */
    bool takes[MACHINE_MAX_DISKS];
    for (size_t i = 0; i < MACHINE_MAX_DISKS; i++)
        takes[i] = migrate_disks_is(s->disks, i, "file");
    if (s->tree != NULL
            ? !migrate_tree_send(s->tree, s->format, stream, &error)
            : !export_instance(&s->instance, s->live ? takes : NULL, s->format, stream, &error))
        dprintf(report, "%s", error_message(error));
    _exit(0);
}

static bool start_archive(const struct sending *s, struct archive *archive, struct error **err)
{
    int pair[2], pipe[2];
    pid_t parent = getpid();
    *archive = (struct archive){.pid = -1, .stream = -1, .report = -1};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return error_set_errno(err, errno, "cannot make a socket");
    archive->stream = pair[0];
    bool good = pipe2(pipe, O_CLOEXEC) == 0;
    if (good) {
        archive->report = pipe[0];
        archive->pid = fork();
        if (archive->pid == 0) {
            close(pair[0]);
            make_archive(s, pair[1], pipe[1], parent);
        }
        close(pipe[1]);
    }
    close(pair[1]);
    return archive->pid > 0 || error_set_errno(err, errno, "cannot start a process");
}

/* True: it failed by itself, not because nobody took it. */
static bool has_failed(const struct archive *archive, struct error **err)
{
    char sentence[2048];
    struct pollfd there = {.fd = archive->report, .events = POLLIN}; /* -1 is fine */
    ssize_t size =
        poll(&there, 1, 0) > 0 ? read(archive->report, sentence, sizeof(sentence) - 1) : 0;
    if (size <= 0)
        return false;
    sentence[size] = '\0';
    return !error_set(err, ERROR_USAGE, "%s", sentence);
}

static void end_archive(struct archive *archive)
{
    const int fds[] = {archive->stream, archive->report};
    if (archive->pid > 0)
        kill(archive->pid, SIGKILL);
    while (archive->pid > 0 && waitpid(archive->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* The line in front; false: it did not come. */
static bool read_about(struct sending *s, int stream)
{
    enum { LINE = 16 << 10 };
    char line[LINE + 1];
    size_t size = 0;
    while (size < LINE && recv(stream, line + size, 1, 0) == 1 && line[size] != '\n')
        size++;
    line[size] = '\0';
    json_t *about = json_loads(line, 0, NULL);
    s->total = (uint64_t)json_integer_value(json_object_get(about, "bytes"));
    bool good = about != NULL;
    json_decref(about);
    return good;
}

static void on_sent(void *opaque, uint64_t bytes)
{
    struct sending *s = opaque;
    job_step(s->daemon, (off_t)(bytes < s->total ? bytes : s->total), (off_t)s->total);
}

/* What the target says; NULL: err. */
static json_t *send_archive(struct sending *s, const struct archive *archive, struct error **err)
{
    char *path = NULL, *answer = NULL;
    int status = 0;
    if (!read_about(s, archive->stream)) {
        error_set(err, ERROR_HOST, "the process that makes the archive ended without a word");
        return NULL;
    }
    if (asprintf(&path, "/v1/migrations/%s/archive", s->id) > 0)
        answer = api_upload_at(&s->remote, path, archive->stream, on_sent, s, &status, err);
    free(path);
    return take_answer(s, answer, status, err);
}

bool sending_upload(struct sending *s, struct error **err)
{
    struct archive archive;
    struct error *error = NULL, *own = NULL;
    json_t *value = NULL;
    if (start_archive(s, &archive, &error))
        value = send_archive(s, &archive, &error);
    if (value == NULL && has_failed(&archive, &own)) { /* what else is said is what came of that */
        error_free(error);
        error = own;
    }
    end_archive(&archive);
    if (value != NULL)
        s->notes = json_incref(json_object_get(value, "notes"));
    else
        error_propagate(err, error);
    json_decref(value);
    return value != NULL;
}

/* ---- what there is to do ---- */

bool sending_set_stage(struct sending *s, const char *stage, struct error **err)
{
    json_object_set_new(s->record, "stage", json_string(stage));
    return migration_write(s->instance.fd, s->record, err);
}

/* It is at the target. That it learns that we know may wait. */
bool sending_leave(struct sending *s, struct error **err)
{
    if (!migration_leave(&s->instance, s->record, err))
        return false;
    json_t *answer = sending_ask(s, "settle", NULL, NULL);
    if (answer != NULL)
        migration_settled(&s->daemon->store, s->id);
    json_decref(answer);
    return true;
}

/* Instant clones lie upon images of its snapshots' folder. */
static bool has_no_clones(const struct sending *s, struct error **err)
{
    char **clones = instance_clones(&s->instance, err);
    bool good = clones != NULL && clones[0] == NULL;
    if (clones != NULL && !good) {
        error_set(err, ERROR_USAGE, "the instance '%s' lies upon disks of '%s', which so stays",
                  clones[0], s->instance.name);
        error_hint(err, "Delete it first, or make a full clone of it.");
    }
    store_list_free(clones);
    return good;
}

/* A copy of the machine would do without these, and who moves it does not expect that. */
static bool sending_can_leave(struct sending *s, struct error **err)
{
    struct machine_config config;
    const char *name = s->instance.name;
    machine_config_init(&config);
    bool good = migration_permits(&s->instance, true, err) &&
                instance_check_not_suspended(&s->instance, err) &&
                instance_config(&s->instance, &config, NULL, err);
    if (good && s->instance.is_template) {
        good = error_set(err, ERROR_USAGE, "'%s' is a template, which stays where its clones are",
                         name);
        error_hint(err, "'trapeze export' makes a file of it, for another host.");
    } else if (good && !has_no_clones(s, err)) {
        good = false;
    } else if (good && config.share_count > 0) {
        good = error_set(err, ERROR_USAGE, "'%s' has the shared folder '%s', which is of this host",
                         name, config.shares[0].path);
        error_hint(err, "Take it out of its .vmx first.");
    }
    machine_config_clear(&config);
    return good;
}

bool sending_in_doubt(const struct sending *s, struct error *why, struct error **err)
{
    error_prefix(&why, "'%s' was handed over, and it is not known whether it arrived",
                 s->instance.name);
    error_hint(&why,
               "The target is asked until it answers%s. If you know that it will not: 'trapeze "
               "migrate %s --resolve here|there'.",
               s->live ? "; the machine stands still meanwhile" : "", s->instance.name);
    return error_propagate(err, why);
}

static enum outcome hand_over(struct sending *s, struct error **err)
{
    struct error *error = NULL;
    enum outcome outcome = sending_outcome(s, "take", &error);
    if (outcome == UNKNOWN)
        outcome = sending_outcome(s, "ask", NULL);
    if (outcome == NOT_HERE && error == NULL)
        error_set(&error, ERROR_HOST, "%s does not take it", s->remote.url);
    if (outcome == UNKNOWN)
        sending_in_doubt(s, error, err);
    else if (outcome == HERE)
        error_free(error);
    else
        error_propagate(err, error);
    return outcome;
}

static bool bring(struct sending *s, struct error **err)
{
    if (!sending_set_stage(s, MIGRATION_COPYING, err))
        return false;
    bool good = snapshot_tidy(&s->instance, err) && sending_read_tree(s, true, err) &&
                sending_reserve(s, NULL, err) && sending_upload(s, err);
    bool handed = good && sending_set_stage(s, MIGRATION_HAND_OVER, err);
    enum outcome outcome = handed ? hand_over(s, err) : NOT_HERE;
    if (!handed && s->id[0] != '\0') /* so that it need not wait for what does not come */
        json_decref(sending_ask(s, "ask", NULL, NULL));
    if (outcome == NOT_HERE)
        migration_remove(s->instance.fd, NULL);
    return outcome == HERE && sending_leave(s, err);
}

static void begin(struct sending *s, struct daemon *daemon)
{
    *s = (struct sending){.daemon = daemon, .instance = {.fd = -1, .lock = -1}};
}

static void finish(struct sending *s)
{
    client_remote_clear(&s->remote);
    instance_close(&s->instance);
    json_decref(s->record);
    json_decref(s->notes);
    json_decref(s->disks);
    migrate_tree_free(s->tree);
}

json_t *migrate_send(struct daemon *daemon, const char *name, const json_t *arguments,
                     struct error **err)
{
    json_t *to = json_object_get(arguments, "to"), *result = NULL;
    struct sending s;
    begin(&s, daemon);
    s.live = json_is_true(json_object_get(arguments, "live"));
    if (client_remote_unpack(to, &s.remote, err) &&
        (s.live ? instance_open(&s.instance, &daemon->store, name, err)
                : instance_open_locked(&s.instance, &daemon->store, name, err))) {
        s.record =
            json_pack("{s:s, s:s, s:O}", "role", "source", "stage", MIGRATION_COPYING, "to", to);
        if (sending_can_leave(&s, err) &&
            (s.live ? migrate_live(&s, arguments, err) : bring(&s, err)))
            result = json_pack("{s:s, s:s, s:o}", "name", name, "to", s.remote.url, "notes",
                               s.notes != NULL ? json_incref(s.notes) : json_array());
    }
    finish(&s);
    return result;
}

/* ---- later ---- */

/* From the record of an instance, or of one that has left. */
static bool use_record(struct sending *s, json_t *record, struct error **err)
{
    const char *id = json_string_value(json_object_get(record, "id"));
    s->record = record;
    if (id == NULL || strlen(id) != MIGRATION_ID)
        return error_set(err, ERROR_HOST, "its record of a migration makes no sense");
    memcpy(s->id, id, sizeof(s->id));
    return client_remote_unpack(json_object_get(record, "to"), &s->remote, err);
}

static bool open_moving(struct sending *s, struct daemon *daemon, const char *name,
                        struct error **err)
{
    begin(s, daemon);
    if (!instance_open(&s->instance, &daemon->store, name, err))
        return false;
    s->record = migration_read(s->instance.fd);
    s->live = !instance_lock_as_it_is(&s->instance, NULL); /* its worker may wait for the answer */
    return true;
}

json_t *migrate_ask(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    struct sending s;
    json_t *result = NULL;
    (void)arguments;
    if (open_moving(&s, daemon, name, err) && use_record(&s, s.record, err)) {
        enum outcome outcome = sending_outcome(&s, "ask", err);
        bool known =
            outcome != UNKNOWN && (!s.live || migrate_live_resolve(&s, outcome == NOT_HERE, err));
        bool good = known && (outcome == HERE ? sending_leave(&s, err)
                                              : migration_remove(s.instance.fd, err));
        if (good)
            result = json_pack("{s:b, s:s}", "here", outcome == HERE, "to", s.remote.url);
    }
    finish(&s);
    return result;
}

static bool resolve(struct sending *s, bool here, struct error **err)
{
    if (migration_is_at(s->record, MIGRATION_HAND_OVER)) {
        enum outcome outcome =
            use_record(s, s->record, NULL) ? sending_outcome(s, "ask", NULL) : UNKNOWN;
        if (outcome == (here ? HERE : NOT_HERE)) /* who has it knows better */
            return error_set(err, ERROR_USAGE, "%s answers: '%s' is %s", s->remote.url,
                             s->instance.name, here ? "there" : "not there");
        if (!here && s->live && migrate_live_waits(s)) {
            error_set(err, ERROR_USAGE,
                      "memory that '%s' lacks at %s is still here: without it that machine is lost",
                      s->instance.name, s->remote.url);
            error_hint(
                err,
                "It is sent as soon as the other side answers. If that never will: "
                "'trapeze migrate %s --resolve here'; the machine then begins anew, as after a "
                "loss of power.",
                s->instance.name);
            return false;
        }
        if (s->live && !migrate_live_resolve(s, here, err))
            return false;
        if (here)
            migration_settled(&s->daemon->store, s->id);
        return here ? migration_remove(s->instance.fd, err)
                    : migration_leave(&s->instance, s->record, err);
    }
    if (!here && s->live)
        return error_set(err, ERROR_USAGE, "the instance '%s' is running", s->instance.name);
    if (migration_is_at(s->record, MIGRATION_ARRIVED))
        return here ? migration_remove(s->instance.fd, err)
                    : store_discard(&s->daemon->store, s->instance.name, err);
    return error_set(err, ERROR_USAGE, "it is known where '%s' is: here", s->instance.name);
}

json_t *migrate_resolve(struct daemon *daemon, const char *name, const json_t *arguments,
                        struct error **err)
{
    const char *where = json_string_value(json_object_get(arguments, "where"));
    struct sending s;
    bool good = open_moving(&s, daemon, name, err) && resolve(&s, strcmp(where, "here") == 0, err);
    finish(&s);
    return good ? json_pack("{s:s, s:s}", "name", name, "where", where) : NULL;
}

json_t *migrate_settle(struct daemon *daemon, const char *name, const json_t *arguments,
                       struct error **err)
{
    char **ids = migration_unsettled(&daemon->store);
    json_int_t left = 0;
    (void)name, (void)arguments, (void)err;
    for (size_t i = 0; ids[i] != NULL; i++) {
        struct sending s;
        begin(&s, daemon);
        json_t *answer = use_record(&s, migration_unsettled_read(&daemon->store, ids[i]), NULL)
                             ? sending_ask(&s, "settle", NULL, NULL)
                             : NULL;
        if (answer != NULL)
            migration_settled(&daemon->store, ids[i]);
        left += answer == NULL;
        json_decref(answer);
        finish(&s);
    }
    store_list_free(ids);
    return json_pack("{s:I}", "left", left);
}
