/* SPDX-License-Identifier: MIT
 *
 * See session.h. A request that starts the machine hands its description over to the main thread,
 * and then asks the worker until it answers or the main thread says that there is none.
 */
#include "firecracker/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/frame.h"
#include "client/disk_replace.h"
#include "client/network.h"
#include "client/saved.h"
#include "client/signals.h"
#include "config/machine.h"
#include "firecracker/api.h"
#include "firecracker/server.h"

enum { ASK_AGAIN_NS = 1000000, NOTES_MAX = 1 << 20 };

struct session {
    const struct fc_options *options;
    struct fc fc;     /* the server's thread's, once there is one */
    char *control;    /* path of the worker's socket */
    int log, metrics; /* files; -1: none. The server's thread's */
    int wake;         /* eventfd: there is something to start */

    /* The metadata service, the server's thread's: what it is told, and our and the backends' ends
     * of the sockets to them, -1: there is none. */
    char *metadata, *metadata_address;
    char key[65];
    bool serves[MACHINE_MAX_NICS];
    int talks[MACHINE_MAX_NICS];
    struct client_metadata places;

    pthread_mutex_t requests; /* one at a time; before `lock` */

    pthread_mutex_t lock;               /* what follows */
    struct machine_config config;       /* to start, if `wanted`; the main thread takes it */
    int64_t started_ns, started_cpu_ns; /* when its start was asked for, and our CPU time then */
    bool wanted;
    struct saved_image
        saved; /* that it goes on from; fd -1: it begins. Not changed while `wanted` */
    bool over; /* it has ended, or did not start: */
    struct error *error;
    struct error *failure; /* of the file of resources, or of a snapshot: the session ends */
};

static int64_t time_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* ---- struct fc_host ---- */

static bool is_over(struct session *session)
{
    pthread_mutex_lock(&session->lock);
    bool over = session->over;
    pthread_mutex_unlock(&session->lock);
    return over;
}

/* The main thread is through with it. */
static bool take_failure(struct session *session, struct error **err)
{
    pthread_mutex_lock(&session->lock);
    struct error *error = session->error;
    session->error = NULL;
    pthread_mutex_unlock(&session->lock);
    if (error == NULL)
        return error_set(err, ERROR_HOST, "the machine ended as soon as it had begun");
    return error_propagate(err, error);
}

/* ---- the metadata service ---- */

/* To all of its processes, which say when they have it. */
static bool tell_places(const struct session *session, struct error **err)
{
    char answer = '-';
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++) {
        struct frame_writer writer = {0};
        if (session->talks[i] < 0)
            continue;
        bool good = frame_writer_add(&writer, session->metadata, strlen(session->metadata)) &&
                    frame_writer_flush(&writer, session->talks[i]) == FRAME_MESSAGE &&
                    recv(session->talks[i], &answer, 1, 0) == 1 && answer == '+';
        frame_writer_clear(&writer);
        if (!good)
            return error_set(err, ERROR_HOST,
                             "the metadata service of interface %zu does not answer", i);
    }
    return true;
}

static void close_places(struct session *session)
{
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++) {
        if (session->places.talks[i] >= 0)
            close(session->places.talks[i]);
        session->places.talks[i] = -1;
    }
}

static void close_talks(struct session *session)
{
    close_places(session);
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++) {
        if (session->talks[i] >= 0)
            close(session->talks[i]);
        session->talks[i] = -1;
    }
}

/* A socket for each interface that has the service, at the machine's start. */
static bool open_talks(struct session *session, struct error **err)
{
    session->places.address = session->metadata_address;
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++) {
        int pair[2];
        if (!session->serves[i])
            continue;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
            error_set_errno(err, errno, "cannot make a socket pair");
            close_talks(session);
            return false;
        }
        session->talks[i] = pair[0];
        session->places.talks[i] = pair[1];
    }
    return true;
}

static bool metadata(void *opaque, const struct fc_metadata *what, struct error **err)
{
    struct session *session = opaque;
    json_object_set_new(what->message, "key", json_string(session->key));
    free(session->metadata);
    free(session->metadata_address);
    session->metadata = json_dumps(what->message, JSON_COMPACT);
    session->metadata_address = strdup(what->address);
    memcpy(session->serves, what->nics, sizeof(session->serves));
    return tell_places(session, err);
}

static bool make_key(char key[65], struct error **err)
{
    uint8_t bytes[32];
    if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
        return error_set_errno(err, errno, "cannot get random numbers");
    for (size_t i = 0; i < sizeof(bytes); i++)
        snprintf(key + 2 * i, 3, "%02x", bytes[i]);
    return true;
}

/* ---- the machine ---- */

static bool await_start(struct session *session, const struct machine_config *config,
                        struct error **err)
{
    uint64_t one = 1;
    pthread_mutex_lock(&session->lock);
    session->over = false;
    session->started_ns = time_of(CLOCK_MONOTONIC);
    session->started_cpu_ns = time_of(CLOCK_PROCESS_CPUTIME_ID);
    machine_config_copy(&session->config, config);
    session->config.boot_timer = session->options->boot_timer;
    session->wanted = true;
    pthread_mutex_unlock(&session->lock);
    if (write(session->wake, &one, sizeof(one)) != sizeof(one))
        return error_set_errno(err, errno, "cannot wake the main thread");
    while (!is_over(session)) {
        char *status = client_control(session->control, "status", NULL, NULL);
        free(status);
        if (status != NULL)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = ASK_AGAIN_NS}, NULL);
    }
    return take_failure(session, err);
}

static bool start_machine(void *opaque, const struct machine_config *config, struct error **err)
{
    struct session *session = opaque;
    if (!open_talks(session, err))
        return false;
    bool good = await_start(session, config, err);
    close_places(session); /* the backends have theirs */
    if (!good)
        close_talks(session);
    return good && tell_places(session, err);
}

static bool save(void *opaque, const struct fc_snapshot *snapshot, struct error **err)
{
    const struct session *session = opaque;
    const struct client_save_apart how = {.state = snapshot->state,
                                          .memory = snapshot->memory,
                                          .changes = snapshot->changes,
                                          .track = snapshot->track,
                                          .memory_size = snapshot->memory_size,
                                          .notes = snapshot->notes};
    return client_save_apart(session->control, &how, err);
}

static char *open_saved(void *opaque, const char *state, const char *memory,
                        struct machine_config *was, struct error **err)
{
    struct session *session = opaque;
    struct saved_image *saved = &session->saved;
    if (!client_saved_open(AT_FDCWD, state, saved, was, err))
        return NULL;
    if (saved->sections[SAVED_NOTES].data == NULL ||
        saved->sections[SAVED_NOTES].size > NOTES_MAX) {
        error_set(err, ERROR_USAGE, "'%s' is no snapshot of this API's", state);
    } else if (client_saved_open_memory(saved, memory, err)) {
        return strdup((const char *)saved->sections[SAVED_NOTES].data);
    }
    client_saved_close(saved);
    return NULL;
}

static bool go_on(void *opaque, const struct machine_config *config, struct error **err)
{
    struct session *session = opaque;
    bool good = start_machine(session, config, err);
    client_saved_close(&session->saved); /* the worker has its own */
    return good;
}

static json_t *ask_machine(void *opaque, const char *verb, const json_t *arguments,
                           struct error **err)
{
    const struct session *session = opaque;
    char *text = json_dumps(arguments, JSON_COMPACT);
    char *answer = client_control(session->control, verb, text, err);
    json_t *result = answer != NULL ? json_loads(answer, JSON_DECODE_ANY, NULL) : NULL;
    if (answer != NULL && result == NULL)
        error_set(err, ERROR_HOST, "the machine's worker does not answer as it should");
    free(answer);
    free(text);
    return result;
}

static bool replace(void *opaque, size_t drive, const char *path, bool read_only,
                    struct error **err)
{
    const struct session *session = opaque;
    return client_disk_replace(session->control, drive, path, read_only, err);
}

/* A named pipe or a file, which is written to at its end. */
static bool open_file(int *fd, const char *path, struct error **err)
{
    int opened =
        open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
    if (opened < 0)
        return error_set_errno(err, errno, "cannot open '%s'", path);
    if (*fd >= 0)
        close(*fd);
    *fd = opened;
    return true;
}

static bool open_log(void *opaque, const char *path, struct error **err)
{
    return open_file(&((struct session *)opaque)->log, path, err);
}

static bool open_metrics(void *opaque, const char *path, struct error **err)
{
    return open_file(&((struct session *)opaque)->metrics, path, err);
}

static void write_metrics(void *opaque, const char *line)
{
    const struct session *session = opaque;
    dprintf(session->metrics, "%s\n", line); /* a full pipe loses it: nobody reads */
}

static const struct fc_host host = {
    .start = start_machine,
    .verb = ask_machine,
    .replace = replace,
    .open_log = open_log,
    .open_metrics = open_metrics,
    .write_metrics = write_metrics,
    .save = save,
    .open_saved = open_saved,
    .go_on = go_on,
    .metadata = metadata,
};

/* ---- requests ---- */

static void log_request(const struct session *session, const char *method, const char *path,
                        const struct fc_answer *answer)
{
    const json_t *logger = json_object_get(session->fc.resources, "logger");
    const char *level = json_string_value(json_object_get(logger, "level"));
    const char *why = json_string_value(json_object_get(answer->body, "fault_message"));
    char when[32], plain[128];
    time_t now = time(NULL);
    struct tm utc;
    if (session->log < 0 ||
        (level != NULL &&
         (strcasecmp(level, "off") == 0 || (why == NULL && (strcasecmp(level, "error") == 0 ||
                                                            strncasecmp(level, "warn", 4) == 0)))))
        return;
    strftime(when, sizeof(when), "%FT%TZ", gmtime_r(&now, &utc));
    snprintf(plain, sizeof(plain), "%s %s", method, path);
    error_plain(plain);
    dprintf(session->log, "%s [%s] %s: %d%s%s\n", when, session->fc.id, plain, answer->status,
            why != NULL ? " " : "", why != NULL ? why : "");
}

static void on_request(void *opaque, const char *method, const char *path, const char *body,
                       size_t size, struct fc_answer *answer)
{
    struct session *session = opaque;
    pthread_mutex_lock(&session->requests);
    fc_request(&session->fc, method, path, body, size, answer);
    log_request(session, method, path, answer);
    pthread_mutex_unlock(&session->requests);
}

static void fail(struct session *session, struct error *error)
{
    uint64_t one = 1;
    pthread_mutex_lock(&session->lock);
    if (session->failure == NULL)
        session->failure = error;
    else
        error_free(error);
    pthread_mutex_unlock(&session->lock);
    (void)!write(session->wake, &one, sizeof(one));
}

/* An answer is on its way. */
static void on_answered(void *opaque)
{
    struct session *session = opaque;
    struct error *error = NULL;
    pthread_mutex_lock(&session->requests);
    bool failed = session->fc.failed;
    session->fc.failed = false;
    pthread_mutex_unlock(&session->requests);
    if (!failed)
        return;
    error_set(&error, ERROR_HOST, "a snapshot could not be loaded; its client was told why");
    fail(session, error);
}

/* ---- a file of resources ---- */

/* What the file has under a name is put, each entry of a list by its id; in this order, as some
 * need others. */
static const struct {
    const char *name, *path, *id; /* id NULL: no list */
} sections[] = {
    {"logger", "/logger", NULL},
    {"metrics", "/metrics", NULL},
    {"machine-config", "/machine-config", NULL},
    {"boot-source", "/boot-source", NULL},
    {"drives", "/drives/", "drive_id"},
    {"network-interfaces", "/network-interfaces/", "iface_id"},
    {"vsock", "/vsock", NULL},
    {"balloon", "/balloon", NULL},
    {"entropy", "/entropy", NULL},
    {"serial", "/serial", NULL},
    {"cpu-config", "/cpu-config", NULL},
    {"mmds-config", "/mmds/config", NULL},
};

static bool put(struct session *session, const char *path, const json_t *body, struct error **err)
{
    struct fc_answer answer;
    char *text = json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY);
    on_request(session, "PUT", path, text, strlen(text), &answer);
    const char *why = json_string_value(json_object_get(answer.body, "fault_message"));
    bool good = why == NULL || error_set(err, ERROR_USAGE, "%s: %s", path + 1, why);
    json_decref(answer.body);
    free(text);
    return good;
}

static bool are_known(json_t *all, struct error **err)
{
    const char *name;
    json_t *value;
    json_object_foreach(all, name, value)
    {
        size_t i = 0;
        while (i < ARRAY_SIZE(sections) && strcmp(sections[i].name, name) != 0)
            i++;
        if (i == ARRAY_SIZE(sections))
            return error_set(err, ERROR_USAGE, "there is no resource '%s'", name);
    }
    return true;
}

/* Of a template the file has the path of another. */
static bool put_template(struct session *session, const char *path, struct error **err)
{
    json_error_t error;
    json_t *template = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (template == NULL)
        return error_set(err, ERROR_USAGE, "'%s' is no CPU template: %s", path, error.text);
    bool good = put(session, "/cpu-config", template, err);
    json_decref(template);
    return good;
}

static bool put_section(struct session *session, size_t i, const json_t *value, struct error **err)
{
    size_t index;
    const json_t *entry;
    if (json_is_string(value) && strcmp(sections[i].name, "cpu-config") == 0)
        return put_template(session, json_string_value(value), err);
    if (sections[i].id == NULL)
        return json_is_null(value) || put(session, sections[i].path, value, err);
    json_array_foreach(value, index, entry)
    {
        const char *id = json_string_value(json_object_get(entry, sections[i].id));
        char path[128];
        snprintf(path, sizeof(path), "%s%s", sections[i].path, id != NULL ? id : "");
        if (!put(session, path, entry, err))
            return false;
    }
    return true;
}

static bool put_resources(struct session *session, const char *path, struct error **err)
{
    json_error_t error;
    json_t *all = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(all)) {
        json_decref(all);
        return error_set(err, ERROR_USAGE, "'%s' is no file of resources: %s", path, error.text);
    }
    bool good = are_known(all, err);
    for (size_t i = 0; good && i < ARRAY_SIZE(sections); i++) {
        const json_t *value = json_object_get(all, sections[i].name);
        good = value == NULL || put_section(session, i, value, err);
    }
    json_decref(all);
    return good;
}

static bool put_files(struct session *session, struct error **err)
{
    const struct fc_options *options = session->options;
    json_t *log = json_pack("{s:s?}", "log_path", options->log_path);
    json_t *metrics = json_pack("{s:s?}", "metrics_path", options->metrics_path);
    bool good = (options->log_path == NULL || put(session, "/logger", log, err)) &&
                (options->metrics_path == NULL || put(session, "/metrics", metrics, err));
    json_decref(log);
    json_decref(metrics);
    return good;
}

static bool put_metadata(struct session *session, const char *path, struct error **err)
{
    json_error_t error;
    if (path == NULL)
        return true;
    json_t *document = json_load_file(path, JSON_DECODE_ANY, &error);
    if (document == NULL)
        return error_set(err, ERROR_USAGE, "'%s' is no JSON: %s", path, error.text);
    bool good = put(session, "/mmds", document, err);
    json_decref(document);
    return good;
}

/* A thread: configures and starts what options->resources says. */
static void *configure(void *opaque)
{
    struct session *session = opaque;
    struct error *error = NULL;
    json_t *start = json_pack("{s:s}", "action_type", "InstanceStart");
    if (!put_resources(session, session->options->resources, &error) ||
        !put(session, "/actions", start, &error))
        fail(session, error);
    json_decref(start);
    return NULL;
}

/* ---- the main thread ---- */

static void report(struct session *session, const struct client_result *result, struct error *error)
{
    pthread_mutex_lock(&session->lock);
    session->over = true;
    session->error = error;
    if (error == NULL && result->end == CLIENT_END_REFUSED)
        error_set(&session->error, result->usage ? ERROR_USAGE : ERROR_HOST, "%s", result->message);
    pthread_mutex_unlock(&session->lock);
}

/* In the words that clients look for. CPU time is ours and the worker's. */
static void on_booted(void *opaque, int64_t at_ns, int64_t cpu_ns)
{
    struct session *session = opaque;
    pthread_mutex_lock(&session->lock);
    long long us = (at_ns - session->started_ns) / 1000;
    long long cpu_us =
        (cpu_ns + time_of(CLOCK_PROCESS_CPUTIME_ID) - session->started_cpu_ns) / 1000;
    pthread_mutex_unlock(&session->lock);
    pthread_mutex_lock(&session->requests);
    dprintf(session->log >= 0 ? session->log : STDERR_FILENO,
            "Guest-boot-time = %6lld us %lld ms, %6lld CPU us %lld CPU ms\n", us, us / 1000, cpu_us,
            cpu_us / 1000);
    pthread_mutex_unlock(&session->requests);
}

/* True: it has ended and we do, too. False: it did not start, and whoever asked for it is told. */
static bool run_machine(struct session *session, const struct machine_config *config,
                        struct client_result *result)
{
    struct client_options options = {.console = CLIENT_CONSOLE_STDIO,
                                     .console_path = config->serial_path,
                                     .control_path = session->control,
                                     .booted = on_booted,
                                     .opaque = session,
                                     .log_level = session->options->log_level,
                                     .sandbox = session->options->sandbox};
    struct error *error = NULL;
    if (options.console_path != NULL)
        options.console = CLIENT_CONSOLE_FILE;
    options.metadata = &session->places;
    if (session->saved.fd >= 0) {
        options.resume = &session->saved;
        options.resume_anyway = true; /* disks are the client's affair */
        options.paused = true;
    }
    bool ran = client_run(config, &options, result, &error);
    report(session, result, error);
    return ran && result->end != CLIENT_END_REFUSED;
}

/* False: a signal came, or there is a failure. */
static bool wait_for_start(struct session *session, int signals, struct machine_config *config)
{
    uint64_t count;
    struct signalfd_siginfo
        taken; /* or it would come again, and end us before we have cleaned up */
    struct pollfd set[] = {{.fd = session->wake, .events = POLLIN},
                           {.fd = signals, .events = POLLIN}};
    while (poll(set, 2, -1) < 0 && errno == EINTR)
        ;
    if ((set[1].revents != 0 && read(signals, &taken, sizeof(taken)) > 0) ||
        read(session->wake, &count, sizeof(count)) != sizeof(count))
        return false;
    pthread_mutex_lock(&session->lock);
    bool wanted = session->wanted && session->failure == NULL;
    if (wanted)
        *config = session->config;
    session->wanted = false;
    pthread_mutex_unlock(&session->lock);
    return wanted;
}

static bool serve(struct session *session, int signals, struct client_result *result,
                  struct error **err)
{
    struct machine_config config;
    bool ended = false;
    while (!ended && wait_for_start(session, signals, &config)) {
        ended = run_machine(session, &config, result);
        machine_config_clear(&config);
    }
    pthread_mutex_lock(&session->lock);
    struct error *failure = session->failure;
    session->failure = NULL;
    pthread_mutex_unlock(&session->lock);
    if (failure != NULL)
        return error_propagate(err, failure);
    if (!ended)
        result->end = CLIENT_END_QUIT;
    return true;
}

static bool listen_for_requests(struct session *session, struct fc_server **server,
                                struct error **err)
{
    const char *path = session->options->socket;
    if (path == NULL)
        return true;
    int fd = client_listen(path, err);
    if (fd >= 0)
        *server =
            fc_server_new(fd, session->options->body_max, on_request, on_answered, session, err);
    return *server != NULL;
}

bool fc_serve(const struct fc_options *options, struct client_result *result, struct error **err)
{
    struct session session = {.options = options,
                              .saved = {.fd = -1},
                              .log = -1,
                              .metrics = -1,
                              .wake = eventfd(0, EFD_CLOEXEC),
                              .requests = PTHREAD_MUTEX_INITIALIZER,
                              .lock = PTHREAD_MUTEX_INITIALIZER};
    struct fc_server *server = NULL;
    pthread_t thread;
    sigset_t blocked, before;
    *result = (struct client_result){.end = CLIENT_END_QUIT};
    char *folder = client_runtime_folder(err);
    if (folder == NULL || asprintf(&session.control, "%s/%d.sock", folder, (int)getpid()) < 0)
        session.control = NULL;
    free(folder);
    fc_init(&session.fc, options->id, &host, &session);
    session.fc.store_limit = options->store_limit;
    for (size_t i = 0; i < MACHINE_MAX_NICS; i++)
        session.talks[i] = session.places.talks[i] = -1;
    signals_of_the_end(&blocked);
    pthread_sigmask(SIG_BLOCK, &blocked, &before); /* for the threads, too */
    int signals = signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK);
    bool good = session.control != NULL && make_key(session.key, err) && put_files(&session, err) &&
                put_metadata(&session, options->metadata, err) &&
                listen_for_requests(&session, &server, err);
    bool configures = good && options->resources != NULL;
    if (configures && pthread_create(&thread, NULL, configure, &session) != 0)
        good = configures = error_set(err, ERROR_HOST, "cannot start a thread");
    good = good && serve(&session, signals, result, err);
    if (configures)
        pthread_join(thread, NULL);
    fc_server_free(server);
    if (server != NULL)
        unlink(options->socket);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    client_saved_close(&session.saved);
    close_talks(&session);
    free(session.metadata);
    free(session.metadata_address);
    error_free(session.error);
    error_free(session.failure);
    fc_clear(&session.fc);
    const int fds[] = {signals, session.wake, session.log, session.metrics};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(session.control);
    return good;
}
