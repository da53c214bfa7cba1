/* SPDX-License-Identifier: MIT
 *
 * A machine that runs, on its way to another daemon: this job connects the two workers, and follows
 * what ours says (worker/verbs_migrate.c).
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "client/api.h"
#include "client/worker.h"
#include "config/vmx.h"
#include "daemon/job.h"
#include "daemon/migrate_disks.h"
#include "daemon/migrate_in.h"
#include "daemon/migrate_send_internal.h"

enum { STREAMS_MAX = 16, TALK_MAX = 64 << 10 };
/* It is looked whether a worker has ended every so many ns, after so many times every second, and
 * now and then whether it has lost its streams, for which it gets this many new ones. */
enum { END_PAUSE_NS = 10 * 1000 * 1000, END_TRIES = 1000, END_LOOK = 100, RECOVERY_STREAMS = 2 };
/* For how long a target that has the machine without all of its memory may say nothing at all until
 * nobody waits for it here; then it is asked now and then, as any that does not answer. */
enum { SILENCE_S = 30 };
/* Of the first copy of memory, from when on it is recorded that the machine is given away soon: so
 * that it need not be when the machine stands still. */
enum { NEAR_PERCENT = 25 };

/* ---- what the target has to know before ---- */

/* False: err. Either way what "proofs" of `live` names is to be removed. */
static bool describe(struct sending *s, const json_t *arguments, json_int_t streams, json_t *live,
                     struct error **err)
{
    struct machine_config config;
    size_t size = 0;
    machine_config_init(&config);
    json_object_set_new(live, "streams", json_integer(streams));
    json_object_set_new(live, "copy-storage",
                        json_boolean(json_is_true(json_object_get(arguments, "copy-storage"))));
    bool good = instance_config(&s->instance, &config, NULL, err) &&
                migrate_disks_offer(&s->instance, &config, live, err);
    for (size_t i = 0; i < config.nic_count; i++)
        s->over_nat = s->over_nat || config.nics[i].net == MACHINE_NET_NAT;
    char *text = good ? vmx_write(&config, &size) : NULL;
    json_t *vmx = text != NULL ? json_stringn(text, size) : NULL;
    if (good && vmx == NULL)
        good = error_set(err, ERROR_USAGE, "its description is not UTF-8");
    if (good)
        json_object_set_new(live, "vmx", vmx);
    free(text);
    machine_config_clear(&config);
    return good;
}

static bool connect_streams(const struct sending *s, int *fds, size_t count, struct error **err)
{
    char *path = NULL, *refusal = NULL;
    bool good = asprintf(&path, "/v1/migrations/%s/stream", s->id) > 0;
    for (size_t i = 0; i < count && good; i++) {
        fds[i] = api_upgrade_at(&s->remote, path, MIGRATE_PROTOCOL, &refusal, err);
        good = fds[i] >= 0;
        if (refusal != NULL)
            error_set(err, ERROR_HOST, "%s: it takes no streams: %s", s->remote.url, refusal);
        free(refusal);
        refusal = NULL;
    }
    /* A limit on how long a call may take is none on a stream. */
    const struct timeval none = {.tv_sec = 0};
    for (size_t i = 0; i < count && good; i++) {
        (void)setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
        (void)setsockopt(fds[i], SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
    }
    free(path);
    return good;
}

/* ---- following it ---- */

enum end {
    MOVED,
    STAYS,
    NOT_KNOWN,
    LOST /* post-copy: there for good, and the streams by which its memory follows are gone */
};

struct following {
    struct sending *s;
    int talk, signals;
    bool handed; /* that it is given away is recorded */
};

static bool hand_over(struct following *f, struct error **err)
{
    f->handed = f->handed || sending_set_stage(f->s, MIGRATION_HAND_OVER, err);
    return f->handed;
}

static void tell(const struct following *f, const char *what)
{
    char text[32];
    int size = snprintf(text, sizeof(text), "{\"do\":\"%s\"}", what);
    (void)send(f->talk, text, (size_t)size, MSG_NOSIGNAL);
}

static json_int_t number_of(const json_t *said, const char *key)
{
    return json_integer_value(json_object_get(said, key));
}

static void take_progress(struct following *f, json_t *said)
{
    json_int_t total = number_of(said, "total"), left = number_of(said, "left");
    json_int_t all = total + number_of(said, "disk-total");
    json_int_t all_left = left + number_of(said, "disk-left");
    json_int_t stage = number_of(said, "stage-number"), round = number_of(said, "round");
    json_t *copy = json_copy(said);
    json_object_del(copy, "event");
    json_object_del(copy, "total");
    job_tell(f->s->daemon, json_pack("{s:o}", "migration", copy));
    if (total > 0)
        job_step(f->s->daemon, (off_t)(all > all_left ? all - all_left : 0), (off_t)all);
    /* What cannot be recorded now is tried again when it has to be. */
    if (stage > 2 || round > 1 || (round == 1 && left < total / 100 * NEAR_PERCENT))
        (void)hand_over(f, NULL);
}

/* True: that was the last word. */
static bool take_word(struct following *f, json_t *said, enum end *end, struct error **err)
{
    const char *event = json_string_value(json_object_get(said, "event"));
    const char *message = json_string_value(json_object_get(said, "message"));
    if (event == NULL)
        return false;
    if (strcmp(event, "progress") == 0)
        take_progress(f, said);
    if (strcmp(event, "commit?") == 0)
        tell(f, hand_over(f, NULL) ? "commit" : "cancel");
    if (strcmp(event, "done") == 0)
        *end = MOVED;
    else if (strcmp(event, "failed") == 0)
        *end = STAYS;
    else if (strcmp(event, "uncertain") == 0)
        *end = NOT_KNOWN;
    else if (strcmp(event, "disconnected") == 0)
        *end = LOST;
    else
        return false;
    if (*end != MOVED)
        error_set(err, ERROR_HOST, "%s", message != NULL ? message : "the worker does not say why");
    return true;
}

static enum end follow(struct following *f, struct error **err)
{
    char *text = malloc(TALK_MAX);
    enum end end = NOT_KNOWN;
    for (bool over = false; !over && text != NULL;) {
        struct pollfd ready[] = {{.fd = f->talk, .events = POLLIN},
                                 {.fd = f->signals, .events = POLLIN}};
        struct signalfd_siginfo info;
        if (poll(ready, 2, -1) < 0)
            continue;
        if (ready[1].revents != 0 && read(f->signals, &info, sizeof(info)) > 0)
            tell(f, "cancel");
        if (ready[0].revents == 0)
            continue;
        ssize_t size = recv(f->talk, text, TALK_MAX, 0);
        if (size <= 0) {
            error_set(err, ERROR_HOST, "the machine's worker ended while it was migrated");
            break;
        }
        json_t *said = json_loadb(text, (size_t)size, 0, NULL);
        over = take_word(f, said, &end, err);
        json_decref(said);
    }
    free(text);
    return end;
}

static json_t *pick_options(const json_t *arguments)
{
    static const char *const keys[] = {"downtime-ns", "bandwidth", "compress",    "converge",
                                       "post-copy",   "rounds",    "last-resort", "patience-ns"};
    json_t *options = json_object();
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        json_t *value = json_object_get(arguments, keys[i]);
        if (value != NULL)
            json_object_set(options, keys[i], value);
    }
    return options;
}

/* Gives the worker the streams, with a verb; `options` are stolen. The talk; -1: err. */
static int hand_streams(const struct sending *s, const char *verb, json_t *options,
                        const int *streams, size_t count, struct error **err)
{
    int pair[2], fds[STREAMS_MAX + 1], talk = -1;
    char control[64], *answer = NULL, *text = json_dumps(options, JSON_COMPACT);
    json_decref(options);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0) {
        fds[0] = pair[1];
        memcpy(fds + 1, streams, count * sizeof(*streams));
        snprintf(control, sizeof(control), "/proc/self/fd/%d/control.sock", s->instance.fd);
        answer = client_control_fds(control, verb, text, fds, count + 1, err);
        close(pair[1]);
        if (answer == NULL)
            close(pair[0]);
        else
            talk = pair[0];
    } else {
        error_set_errno(err, errno, "cannot make a socket pair");
    }
    free(answer);
    free(text);
    return talk;
}

static bool begin(const struct sending *s, const json_t *arguments, const int *streams,
                  size_t count, int *talk, struct error **err)
{
    json_t *options = pick_options(arguments);
    json_object_set_new(options, "disks", migrate_disks_for_worker(s->disks));
    *talk = hand_streams(s, "migrate", options, streams, count, err);
    return *talk >= 0;
}

/* ---- memory that is still here (post-copy) ---- */

static void close_streams(const int *streams)
{
    for (size_t i = 0; i < STREAMS_MAX; i++)
        if (streams[i] >= 0)
            close(streams[i]);
}

/* A verb without an answer that matters; the value is to be freed. */
static char *ask_worker(const struct sending *s, const char *verb, const char *arguments)
{
    char control[64];
    snprintf(control, sizeof(control), "/proc/self/fd/%d/control.sock", s->instance.fd);
    return client_control(control, verb, arguments, NULL);
}

bool migrate_live_waits(const struct sending *s)
{
    char *answer = ask_worker(s, "status", NULL);
    json_t *status = answer != NULL ? json_loads(answer, 0, NULL) : NULL;
    const json_t *migration = json_object_get(status, "migration");
    const char *stage = json_string_value(json_object_get(migration, "stage"));
    bool lost = stage != NULL && strcmp(stage, "post-copy-disconnected") == 0;
    json_decref(status);
    free(answer);
    return lost;
}

/* New streams, and follows what comes of them. What the target said first. */
static enum outcome reconnect(struct sending *s, int signals, struct error **err)
{
    struct following f = {.s = s, .talk = -1, .signals = signals, .handed = true};
    struct error *error = NULL;
    int streams[STREAMS_MAX];
    for (size_t i = 0; i < STREAMS_MAX; i++)
        streams[i] = -1;
    enum outcome outcome = sending_outcome(s, "ask", err);
    if (outcome != HERE)
        return outcome;
    json_t *answer =
        sending_ask(s, "recover", json_pack("{s:i}", "streams", (int)RECOVERY_STREAMS), &error);
    if (answer != NULL && connect_streams(s, streams, RECOVERY_STREAMS, NULL))
        f.talk = hand_streams(s, "migrate-recover", json_object(), streams, RECOVERY_STREAMS, NULL);
    else if (answer == NULL && error_kind(error) == ERROR_USAGE) /* it has ended there */
        free(ask_worker(s, "quit", NULL));
    error_free(error);
    json_decref(answer);
    close_streams(streams);
    if (f.talk >= 0) {
        (void)follow(&f, NULL);
        close(f.talk);
    }
    return HERE;
}

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* It is at the target. Until the worker here has given away all that it has, which is when it ends
 * and gives back its lock. False: the target does not answer any more, or has not got it; err. */
static bool serve(struct sending *s, int signals, struct error **err)
{
    struct timespec pause = {.tv_nsec = END_PAUSE_NS};
    time_t heard = now_s();
    for (unsigned tries = 1; !instance_lock_as_it_is(&s->instance, NULL); tries++) {
        if (tries > END_TRIES)
            pause = (struct timespec){.tv_sec = 1};
        if ((tries > END_TRIES || tries % END_LOOK == 0) && migrate_live_waits(s)) {
            struct error *error = NULL;
            enum outcome outcome = reconnect(s, signals, &error);
            if (outcome == HERE)
                heard = now_s();
            if (outcome == NOT_HERE)
                return error_set(err, ERROR_HOST, "%s has lost it, and what was written there",
                                 s->remote.url);
            if (outcome == UNKNOWN && now_s() - heard >= SILENCE_S)
                return error_propagate(err, error);
            error_free(error);
        }
        nanosleep(&pause, NULL);
    }
    return true;
}

/* ---- the end ---- */

/* It ran elsewhere since, so that it cannot go on from what is here. False: its worker does not
 * end, and would go on; err. */
static bool give_up(struct sending *s, struct error **err)
{
    const struct timespec pause = {.tv_nsec = END_PAUSE_NS};
    free(ask_worker(s, "quit", NULL));
    for (unsigned tries = 1; tries < END_TRIES; tries++) {
        if (instance_lock_as_it_is(&s->instance, NULL))
            return true;
        nanosleep(&pause, NULL);
    }
    return instance_lock_as_it_is(&s->instance, err);
}

bool migrate_live_resolve(struct sending *s, bool here, struct error **err)
{
    if (here && migrate_live_waits(s))
        return give_up(s, err);
    /* One that has not got as far, or has been told, knows it anyway. */
    free(ask_worker(s, "migrate-resolve",
                    here ? "{\"where\": \"here\"}" : "{\"where\": \"there\"}"));
    return here || serve(s, -1, err);
}

/* What the worker's last word leads to. */
static bool conclude(struct sending *s, struct following *f, enum end end, struct error *why,
                     struct error **err)
{
    enum outcome outcome = f->handed || end == MOVED ? sending_outcome(s, "ask", NULL) : NOT_HERE;
    if (end == STAYS && s->id[0] != '\0' && !f->handed)
        json_decref(sending_ask(s, "ask", NULL, NULL));
    if (end == STAYS) /* it runs here, whatever the target says */
        outcome = NOT_HERE;
    bool there = end == MOVED || end == LOST;
    if (outcome == HERE || (outcome == UNKNOWN && there)) {
        error_free(why);
        why = NULL;
        return migrate_live_resolve(s, false, &why) ? sending_leave(s, err)
                                                    : sending_in_doubt(s, why, err);
    }
    if (outcome == NOT_HERE && !there) {
        (void)migrate_live_resolve(s, true, NULL);
        migration_remove(s->instance.fd, NULL);
        return error_propagate(err, why);
    }
    if (why == NULL)
        error_set(&why, ERROR_HOST, "%s says that it does not have it", s->remote.url);
    return sending_in_doubt(s, why, err);
}

static bool send_live(struct sending *s, const json_t *arguments, const int *streams, size_t count,
                      struct error **err)
{
    struct following f = {.s = s, .talk = -1};
    struct error *why = NULL;
    enum end end = STAYS;
    sigset_t calls_off;
    sigemptyset(&calls_off);
    sigaddset(&calls_off, SIGTERM);
    sigprocmask(SIG_BLOCK, &calls_off, NULL);
    f.signals = signalfd(-1, &calls_off, SFD_CLOEXEC | SFD_NONBLOCK);
    if (begin(s, arguments, streams, count, &f.talk, &why))
        end = follow(&f, &why);
    bool good = conclude(s, &f, end, why, err);
    if (f.talk >= 0)
        close(f.talk);
    if (f.signals >= 0)
        close(f.signals);
    return good;
}

bool migrate_live(struct sending *s, const json_t *arguments, struct error **err)
{
    json_int_t count = json_integer_value(json_object_get(arguments, "connections"));
    int streams[STREAMS_MAX];
    json_t *live = json_object();
    for (size_t i = 0; i < STREAMS_MAX; i++)
        streams[i] = -1;
    count = count > 0 && count <= STREAMS_MAX ? count : 1;
    bool copies = json_is_true(json_object_get(arguments, "copy-storage"));
    bool good = sending_set_stage(s, MIGRATION_COPYING, err) && sending_read_tree(s, copies, err) &&
                describe(s, arguments, count, live, err) && sending_reserve(s, live, err);
    migrate_disks_retract(json_object_get(live, "proofs"));
    good = good && sending_upload(s, err);
    bool connected = good && connect_streams(s, streams, (size_t)count, err);
    if (!connected) {
        if (s->id[0] != '\0')
            json_decref(sending_ask(s, "ask", NULL, NULL));
        migration_remove(s->instance.fd, NULL);
    }
    good = connected && send_live(s, arguments, streams, (size_t)count, err);
    if (good) {
        migrate_disks_note(&s->instance, s->disks, live, s->notes);
        if (s->over_nat)
            json_array_append_new(s->notes,
                                  json_string("its guest's connections through NAT have ended, as "
                                              "they were this host's; others last"));
    }
    json_decref(live);
    close_streams(streams);
    return good;
}
