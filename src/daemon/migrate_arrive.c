/* SPDX-License-Identifier: MIT
 *
 * Machines that arrive running (migrate_in.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "client/worker.h"
#include "daemon/catalogue.h"
#include "daemon/job.h"
#include "daemon/machine.h"
#include "daemon/migrate_disks.h"
#include "daemon/migrate_in.h"
#include "daemon/migrate_in_internal.h"

enum { BUILD_S = 600, END_S = 60, PAUSE_NS = 20 * 1000 * 1000, TALK_MAX = 64 << 10 };

/* ---- whether it can run here ---- */

static bool has_memory(const struct machine_config *config, struct error **err)
{
    char line[128];
    unsigned long long kib, available = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            available = kib << 10;
    if (file != NULL)
        fclose(file);
    return available == 0 || available >= config->memory ||
           error_set(err, ERROR_USAGE,
                     "the machine has %" PRIu64 " MiB of memory, and the target %llu MiB to spare",
                     config->memory >> 20, available >> 20);
}

json_t *incoming_launch(struct daemon *daemon, const char *name, const json_t *live,
                        struct error **err)
{
    struct instance instance;
    struct machine_config config;
    json_t *incoming = json_pack("{s:b}", "incoming", true), *launched = NULL;
    (void)live;
    machine_config_init(&config);
    if (instance_open(&instance, &daemon->store, name, err)) {
        int taken = openat(instance.fd, MIGRATION_TAKEN,
                           O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        /* Its name is durable: what the worker flushes later is its content. */
        bool good = (taken >= 0 && fsync(taken) == 0 && fsync(instance.fd) == 0) ||
                    error_set_errno(err, errno, "cannot write to '%s'", instance.path);
        if (taken >= 0)
            close(taken);
        good = good && instance_config(&instance, &config, NULL, err) && has_memory(&config, err);
        instance_close(&instance);
        if (good)
            launched = machine_launch(daemon, name, incoming, err);
    }
    machine_config_clear(&config);
    json_decref(incoming);
    return launched;
}

/* ---- what became of it ---- */

static bool is_taken(const struct instance *instance)
{
    char word[4] = "";
    int fd = openat(instance->fd, MIGRATION_TAKEN, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool taken = fd >= 0 && pread(fd, word, sizeof(word), 0) == sizeof(word) &&
                 memcmp(word, "here", sizeof(word)) == 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return taken;
}

/* One that was given no streams waits for ever, and can be ended: nobody will give it any. One that
 * has some decides by itself, now that nobody talks with it. */
static void end_if_idle(const char *control)
{
    char *status = client_control(control, "status", NULL, NULL);
    json_t *value = status != NULL ? json_loads(status, 0, NULL) : NULL;
    const json_t *migration = json_object_get(value, "migration");
    if (migration != NULL && json_object_get(migration, "stage") == NULL)
        free(client_control(control, "quit", NULL, NULL));
    json_decref(value);
    free(status);
}

static bool record_arrival(const struct instance *instance, struct error **err)
{
    json_t *record = migration_read(instance->fd);
    bool good = record != NULL;
    if (good && migration_is_at(record, MIGRATION_ARRIVING)) {
        json_object_set_new(record, "stage", json_string(MIGRATION_ARRIVED));
        good = migration_write(instance->fd, record, err);
    }
    json_decref(record);
    return good;
}

/* In a job: {"here": …}; NULL: err. */
static json_t *find_out(struct daemon *daemon, const char *name, const json_t *arguments,
                        struct error **err)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    struct instance instance;
    char control[64];
    bool taken;
    (void)arguments;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    snprintf(control, sizeof(control), "/proc/self/fd/%d/control.sock", instance.fd);
    while (!(taken = is_taken(&instance))) {
        if (instance_lock_as_it_is(&instance, NULL)) {
            taken = is_taken(&instance); /* just before */
            break;
        }
        end_if_idle(control);
        nanosleep(&pause, NULL);
    }
    bool good = !taken || record_arrival(&instance, err);
    instance_close(&instance);
    return good ? json_pack("{s:b}", "here", (int)taken) : NULL;
}

static void answer_all(struct incoming *incoming, bool here)
{
    struct api_call *asks = incoming->asks;
    incoming->asks = NULL;
    while (asks != NULL) {
        struct api_call *ask = asks;
        asks = ask->next;
        incoming_say_outcome(ask, here);
    }
}

/* Its worker is gone: its folder goes, too. */
static void on_ended(void *opaque, const json_t *end)
{
    struct incoming *incoming = opaque;
    (void)end;
    answer_all(incoming, false);
    incoming_drop(incoming);
}

static void on_found_out(void *opaque, const json_t *result, const struct error *error)
{
    struct incoming *incoming = opaque;
    struct daemon *daemon = incoming->daemon;
    if (result == NULL) { /* it is tried again by the next daemon, or the next who asks */
        log_warning(&daemon->log, "%s", error_message(error));
        incoming->stage = INCOMING_ARRIVING;
        incoming->since = incoming_now();
        for (struct api_call *ask = incoming->asks, *next; ask != NULL; ask = next) {
            next = ask->next;
            api_refuse(ask, 500, error_message(error));
        }
        incoming->asks = NULL;
    } else if (json_is_true(json_object_get(result, "here"))) {
        machine_give_back(daemon, incoming->name, false);
        catalogue_sync(daemon->catalogue, &daemon->store);
        daemon_event(daemon, incoming->name, "arrived", json_pack("{s:s}", "from", incoming->from));
        daemon_event(daemon, incoming->name, "start", json_pack("{s:s}", "from", incoming->from));
        answer_all(incoming, true);
        incoming->stage = INCOMING_LATE;
        if (!incoming->switched || incoming->talk < 0)
            incoming_forget(incoming);
    } else {
        machine_await_end(daemon, incoming->name, END_S, on_ended, incoming);
    }
}

void incoming_hang_up(struct incoming *incoming)
{
    loop_watch_remove(incoming->watch);
    incoming->watch = NULL;
    if (incoming->talk >= 0)
        close(incoming->talk);
    incoming->talk = -1;
    for (unsigned i = 0; i < incoming->count; i++)
        if (incoming->upgrades[i] != NULL) {
            http_upgrade_close(incoming->upgrades[i]);
            incoming->upgrades[i] = NULL;
        }
}

static void find_out_soon(struct incoming *incoming)
{
    incoming->stage = INCOMING_SETTLING;
    job_start(incoming->daemon, incoming->name, NULL, find_out, on_found_out, incoming);
}

void incoming_settle(struct incoming *incoming)
{
    incoming->dropped = true;
    if (incoming->handing_in || incoming->call != NULL)
        return; /* soon */
    bool at_it = incoming->stage == INCOMING_SETTLING;
    incoming_hang_up(incoming);
    if (incoming->recovers || incoming->stage == INCOMING_LATE)
        incoming_forget(incoming); /* it is known to be here */
    else if (!at_it)
        find_out_soon(incoming);
}

/* ---- streams ---- */

static void on_talk(void *opaque, int fd, unsigned events)
{
    struct incoming *incoming = opaque;
    static const char *const last[] = {"failed", "done", "post-copy-paused"};
    char *text = alloc_zeroed(1, TALK_MAX);
    (void)events;
    ssize_t size = recv(fd, text, TALK_MAX, MSG_DONTWAIT);
    if (size > 0 || (errno != EAGAIN && errno != EINTR) || size == 0) {
        json_t *said = size > 0 ? json_loadb(text, (size_t)size, 0, NULL) : NULL;
        const char *event = json_string_value(json_object_get(said, "event"));
        const char *message = json_string_value(json_object_get(said, "message"));
        if (message != NULL)
            snprintf(incoming->why, sizeof(incoming->why), "%s", message);
        bool ends = size <= 0;
        for (size_t i = 0; i < sizeof(last) / sizeof(last[0]) && event != NULL; i++)
            ends = ends || strcmp(event, last[i]) == 0;
        bool switches = event != NULL && strcmp(event, "switched") == 0;
        if (ends) {
            incoming_settle(incoming);
        } else if (switches && !incoming->switched) { /* it is ours, and its streams stay */
            incoming->switched = true;
            find_out_soon(incoming);
        }
        json_decref(said);
    }
    free(text);
}

/* In a job, which has copies of all descriptors. */
static json_t *hand_in(struct daemon *daemon, const char *name, const json_t *arguments,
                       struct error **err)
{
    const json_t *list = json_object_get(arguments, "fds");
    struct instance instance;
    char control[64];
    int fds[INCOMING_STREAMS + 2];
    size_t count = 0;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    snprintf(control, sizeof(control), "/proc/self/fd/%d/control.sock", instance.fd);
    bool recovers = json_is_true(json_object_get(arguments, "recovers"));
    fds[count++] = (int)json_integer_value(json_array_get(list, 0));
    if (!recovers)
        fds[count++] = openat(instance.fd, MIGRATION_TAKEN, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    for (size_t i = 1; i < json_array_size(list) && count < INCOMING_STREAMS + 2; i++)
        fds[count++] = (int)json_integer_value(json_array_get(list, i));
    json_t *options = json_object();
    if (!recovers)
        json_object_set_new(options, "disks",
                            migrate_disks_for_worker(json_object_get(arguments, "disks")));
    char *text = json_dumps(options, JSON_COMPACT);
    char *answer = client_control_fds(control, recovers ? "migrate-recover" : "incoming", text, fds,
                                      count, err);
    json_decref(options);
    free(text);
    instance_close(&instance);
    free(answer);
    return answer != NULL ? json_true() : NULL;
}

static void on_handed_in(void *opaque, const json_t *result, const struct error *error)
{
    struct incoming *incoming = opaque;
    incoming->handing_in = false;
    if (result == NULL) {
        snprintf(incoming->why, sizeof(incoming->why), "%s", error_message(error));
        incoming_settle(incoming);
    } else if (incoming->dropped) {
        incoming_settle(incoming);
    } else {
        incoming->watch = loop_watch_add(incoming->daemon->loop, incoming->talk, LOOP_READABLE,
                                         on_talk, incoming, NULL);
        if (incoming->watch == NULL)
            incoming_settle(incoming);
    }
}

static void hand_in_all(struct incoming *incoming)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        incoming_settle(incoming);
        return;
    }
    json_t *fds = json_array();
    json_t *arguments = json_pack("{s:o, s:b}", "fds", fds, "recovers", (int)incoming->recovers);
    if (incoming->disks != NULL)
        json_object_set(arguments, "disks", incoming->disks);
    json_array_append_new(fds, json_integer(pair[1]));
    for (unsigned i = 0; i < incoming->count; i++)
        json_array_append_new(fds, json_integer(incoming->streams[i]));
    incoming->talk = pair[0];
    incoming->handing_in = true;
    job_start(incoming->daemon, incoming->name, arguments, hand_in, on_handed_in, incoming);
    json_decref(arguments);
    close(pair[1]);
}

struct arrival {
    struct daemon *daemon;
    char id[MIGRATION_ID + 1];
};

static void on_stream(void *opaque, struct http_upgrade *upgrade, int fd, const void *early,
                      size_t size)
{
    struct arrival *arrival = opaque;
    struct incoming *incoming = incoming_find(arrival->daemon, arrival->id);
    (void)early;
    free(arrival);
    if (upgrade == NULL)
        return;
    if (incoming == NULL || incoming->stage != INCOMING_ARRIVING || incoming->dropped ||
        incoming->count == incoming->wanted || size > 0) {
        http_upgrade_close(upgrade);
        return;
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    incoming->streams[incoming->count] = fd;
    incoming->upgrades[incoming->count++] = upgrade;
    incoming->since = incoming_now();
    if (incoming->count == incoming->wanted)
        hand_in_all(incoming);
}

void migrate_in_stream(struct api_call *call)
{
    struct incoming *incoming = incoming_find(call->daemon, call->name);
    if (!http_offers(call, MIGRATE_PROTOCOL)) {
        api_refuse(call, 426, "this becomes a stream: ask with 'Upgrade: " MIGRATE_PROTOCOL "'");
    } else if (incoming == NULL || incoming->stage != INCOMING_ARRIVING || incoming->dropped ||
               incoming->call != NULL) {
        api_refuse(call, 409, "no machine waits for this stream");
    } else {
        struct arrival *arrival = alloc_zeroed(1, sizeof(*arrival));
        arrival->daemon = call->daemon;
        memcpy(arrival->id, incoming->id, sizeof(arrival->id));
        http_answer_upgrade(call, MIGRATE_PROTOCOL, on_stream, arrival);
    }
}

/* ---- streams that were lost ---- */

void migrate_in_recover(struct api_call *call)
{
    struct incoming *incoming = incoming_find(call->daemon, call->name);
    json_int_t streams = 0;
    char name[INSTANCE_MAX_NAME + 1];
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:I}", "streams", &streams) != 0 ||
        streams < 1 || streams > INCOMING_STREAMS) {
        api_refuse(call, 400, "'streams' is a number from 1 to 16");
        return;
    }
    /* The source has noticed first, or tries again. */
    if (incoming != NULL && (incoming->stage == INCOMING_LATE || incoming->recovers) &&
        !incoming->handing_in) {
        incoming_forget(incoming);
        incoming = NULL;
    }
    if (incoming != NULL) {
        api_refuse(call, 503, "it is just arriving; try again");
    } else if (!migration_find(&call->daemon->store, call->name, name) ||
               !machine_is_linked(call->daemon, name)) {
        api_refuse(call, 409, "there is no machine here that waits for memory");
    } else {
        incoming = incoming_add(call->daemon, call->name, name);
        incoming->stage = INCOMING_ARRIVING;
        incoming->wanted = (unsigned)streams;
        incoming->switched = incoming->recovers = true;
        api_reply(call, json_object());
    }
}

/* ---- the worker ---- */

/* It is built, or says why it cannot be. */
static void on_built(void *opaque, const json_t *result, const char *error)
{
    struct incoming *incoming = opaque;
    struct api_call *call = incoming->call;
    (void)result;
    incoming->call = NULL;
    incoming->since = incoming_now();
    if (error == NULL && !incoming->dropped) {
        api_reply(call, json_pack("{s:s, s:O}", "name", incoming->name, "notes", incoming->texts));
        return;
    }
    api_refuse(call, 409, error != NULL ? error : "the migration was called off");
    incoming_settle(incoming);
}

void incoming_arrive(struct incoming *incoming)
{
    incoming->stage = INCOMING_ARRIVING;
    catalogue_sync(incoming->daemon->catalogue, &incoming->daemon->store);
    machine_ask(incoming->daemon, incoming->name, "status", BUILD_S, on_built, incoming);
}

void migrate_in_adopt_all(struct daemon *daemon)
{
    char **names = store_list(&daemon->store, NULL);
    for (size_t i = 0; names != NULL && names[i] != NULL; i++) {
        int folder = openat(daemon->store.instances, names[i],
                            O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        json_t *record = folder >= 0 ? migration_read(folder) : NULL;
        const char *id = json_string_value(json_object_get(record, "id"));
        if (migration_is_at(record, MIGRATION_ARRIVING) && id != NULL &&
            machine_take(daemon, names[i], false, NULL)) {
            struct incoming *incoming = incoming_add(daemon, id, names[i]);
            snprintf(incoming->from, sizeof(incoming->from), "%s", migration_peer(record));
            snprintf(incoming->staged, sizeof(incoming->staged), "%s", names[i]);
            incoming->stage = INCOMING_ARRIVING;
            incoming_settle(incoming);
        }
        json_decref(record);
        if (folder >= 0)
            close(folder);
    }
    store_list_free(names);
}
