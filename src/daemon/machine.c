/* SPDX-License-Identifier: MIT
 *
 * See machine.h.
 */
#include "daemon/machine.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/frame.h"
#include "base/loop.h"
#include "client/cgroup.h"
#include "daemon/folder.h"
#include "daemon/job.h"
#include "daemon/logfile.h"

enum {
    STATE_WINDOW_S = 10,
    STATES_TOLD = 30,
    END_MAX = 64 << 10, /* bytes that we read of a worker's report */
    ADOPT_S = 3600      /* a machine that is stopped in a debugger may answer much later */
};

/* A question that the worker has not answered yet. */
struct ask {
    struct ask *next;
    struct machine *machine;
    int timer;
    struct loop_watch *watch;
    json_int_t id;
    machine_answer_fn *fn;
    void *opaque;
};

struct wait {
    struct wait *next;
    struct machine *machine;
    int timer;
    struct loop_watch *watch;
    machine_end_fn *fn;
    void *opaque;
};

struct machine {
    struct machine *next;
    struct daemon *daemon;
    char name[INSTANCE_MAX_NAME + 1];
    json_t *launched; /* of a start that no event tells of yet */
    bool taken;       /* somebody changes it */
    unsigned shared;  /* so many read it */
    int fd;           /* of the link; -1: none */
    bool ending;      /* the link is gone, the worker's process may still be */
    struct loop_watch *watch;
    struct frame_reader reader;
    struct frame_writer writer;
    char state[24];
    time_t window;     /* monotonic: since then… */
    unsigned told;     /* …so many changes of state became events… */
    unsigned left_out; /* …and so many did not */
    struct log_place log; /* of its worker: what the journal has */
    json_int_t last_id;
    struct ask *asks;
    struct wait *waits;
};

struct machine *machine_find(struct daemon *daemon, const char *name)
{
    for (struct machine *machine = daemon->machines; machine != NULL; machine = machine->next)
        if (strcmp(machine->name, name) == 0)
            return machine;
    return NULL;
}

/* What its worker said before is another start's, or the last daemon's. */
static void skip_log(struct machine *machine)
{
    int folder = openat(machine->daemon->store.instances, machine->name,
                        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return;
    logfile_skip(folder, "worker.log", &machine->log);
    close(folder);
}

static struct machine *find_or_make(struct daemon *daemon, const char *name)
{
    struct machine *machine = machine_find(daemon, name);
    if (machine != NULL)
        return machine;
    machine = alloc_zeroed(1, sizeof(*machine));
    machine->daemon = daemon;
    machine->fd = -1;
    snprintf(machine->name, sizeof(machine->name), "%s", name);
    machine->next = daemon->machines;
    daemon->machines = machine;
    skip_log(machine);
    return machine;
}

static void drop_if_idle(struct machine *machine)
{
    if (machine->taken || machine->shared > 0 || machine->fd >= 0 || machine->ending)
        return;
    for (struct machine **at = &machine->daemon->machines; *at != NULL; at = &(*at)->next)
        if (*at == machine) {
            *at = machine->next;
            break;
        }
    logfile_journal(machine->daemon, machine->name, &machine->log);
    json_decref(machine->launched);
    free(machine);
}

bool machine_take(struct daemon *daemon, const char *name, bool shared, struct error **err)
{
    struct machine *machine = find_or_make(daemon, name);
    if (machine->taken || (!shared && machine->shared > 0)) {
        error_set(err, ERROR_USAGE, "somebody else is at work on '%s'", name);
        error_hint(err, "Try again when that is done.");
        return false;
    }
    machine->taken = !shared;
    machine->shared += shared;
    return true;
}

void machine_give_back(struct daemon *daemon, const char *name, bool shared)
{
    struct machine *machine = machine_find(daemon, name);
    if (machine == NULL)
        return;
    if (shared)
        machine->shared--;
    else
        machine->taken = false;
    drop_if_idle(machine);
}

bool machine_is_linked(struct daemon *daemon, const char *name)
{
    const struct machine *machine = machine_find(daemon, name);
    return machine != NULL && (machine->fd >= 0 || machine->ending);
}

void machine_each_linked(struct daemon *daemon, machine_each_fn *each, void *opaque)
{
    for (const struct machine *at = daemon->machines, *next; at != NULL; at = next) {
        next = at->next;
        if (at->fd >= 0)
            each(opaque, at->name);
    }
}

bool machine_is_ending(struct daemon *daemon, const char *name)
{
    const struct machine *machine = machine_find(daemon, name);
    return machine != NULL && machine->ending;
}

enum { SAVED_PATH = INSTANCE_MAX_NAME + sizeof("/" INSTANCE_SAVED) };

static void saved_path(char path[SAVED_PATH], const char *name)
{
    snprintf(path, SAVED_PATH, "%s/%s", name, INSTANCE_SAVED);
}

const char *machine_state(struct daemon *daemon, const char *name)
{
    if (machine_is_ending(daemon, name))
        return "stopping";
    if (machine_is_linked(daemon, name))
        return machine_find(daemon, name)->state;
    char path[SAVED_PATH];
    saved_path(path, name);
    return faccessat(daemon->store.instances, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ? "suspended"
                                                                                    : "stopped";
}

/* ---- the end ---- */

json_t *machine_last_end(struct daemon *daemon, const char *name)
{
    char path[INSTANCE_MAX_NAME + 8];
    snprintf(path, sizeof(path), "%s/end", name);
    int fd = openat(daemon->store.instances, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    char *text = alloc_zeroed(1, END_MAX);
    ssize_t size = fd >= 0 ? read(fd, text, END_MAX) : 0;
    json_t *end = size > 0 ? json_loadb(text, (size_t)size, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    if (fd >= 0)
        close(fd);
    free(text);
    if (json_is_string(json_object_get(end, "end")))
        return end;
    json_decref(end);
    return NULL;
}

/* Nobody listens there any more. */
static void remove_sockets(struct daemon *daemon, const char *name)
{
    int fd = openat(daemon->store.instances, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    unlinkat(fd, "control.sock", 0);
    unlinkat(fd, "console.sock", 0);
    unlinkat(fd, "vsock.sock", 0);
    close(fd);
}

/* Calls fn once, in so many seconds; not at all if the host is out of descriptors. */
static struct loop_watch *arm(struct daemon *daemon, unsigned seconds, loop_fd_fn *fn, void *opaque,
                              int *timer)
{
    struct itimerspec span = {.it_value = {.tv_sec = seconds}};
    *timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return *timer >= 0 && timerfd_settime(*timer, 0, &span, NULL) == 0
               ? loop_watch_add(daemon->loop, *timer, LOOP_READABLE, fn, opaque, NULL)
               : NULL;
}

static void ask_free(struct ask *ask)
{
    loop_watch_remove(ask->watch);
    if (ask->timer >= 0)
        close(ask->timer);
    free(ask);
}

static void wait_free(struct wait *wait)
{
    loop_watch_remove(wait->watch);
    if (wait->timer >= 0)
        close(wait->timer);
    free(wait);
}

/* In a job: the lock is free when the process is gone, and its cgroup then empty. */
static json_t *wait_for_lock(struct daemon *daemon, const char *name, const json_t *arguments,
                             struct error **err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct instance instance;
    char group[INSTANCE_GROUP];
    (void)arguments;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    int fd = openat(instance.fd, "lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    while (fd >= 0 && fcntl(fd, F_OFD_SETLKW, &lock) != 0 && errno == EINTR)
        ;
    instance_group(&instance, group);
    cgroup_forget_machine(group);
    return json_true();
}

/* The worker is gone. Answers and waits may ask for other things of the same machine. */
static void on_gone(void *opaque, const json_t *result, const struct error *error)
{
    struct machine *machine = opaque;
    struct daemon *daemon = machine->daemon;
    struct ask *asks = machine->asks;
    struct wait *waits = machine->waits;
    json_t *launched = machine->launched;
    char name[sizeof(machine->name)];
    (void)result;
    if (error != NULL)
        log_warning(&daemon->log, "%s", error_message(error));
    machine->ending = false;
    machine->launched = NULL;
    machine->asks = NULL;
    machine->waits = NULL;
    snprintf(name, sizeof(name), "%s", machine->name);
    drop_if_idle(machine);

    remove_sockets(daemon, name);
    json_t *end = machine_last_end(daemon, name);
    const char *message = json_string_value(json_object_get(end, "message"));
    const char *word = json_string_value(json_object_get(end, "end"));
    if (launched != NULL && word != NULL && strcmp(word, "refused") == 0)
        json_decref(launched); /* it has never run */
    else if (launched != NULL)
        daemon_event(daemon, name, "start", launched);
    daemon_event(daemon, name, "ended",
                 end != NULL ? json_incref(end)
                             : json_pack("{s:s, s:s}", "end", "died", "message",
                                         "the machine's worker process was killed"));
    for (struct ask *next; asks != NULL; asks = next) {
        next = asks->next;
        asks->fn(asks->opaque, NULL,
                 message != NULL && message[0] != '\0' ? message : "the machine ended");
        ask_free(asks);
    }
    for (struct wait *next; waits != NULL; waits = next) {
        next = waits->next;
        waits->fn(waits->opaque, end);
        wait_free(waits);
    }
    json_decref(end);
}

/* The link ends a moment before the process does, and only then is the instance free. */
static void begin_ending(struct machine *machine)
{
    machine->ending = true;
    job_start(machine->daemon, machine->name, NULL, wait_for_lock, on_gone, machine);
}

static void unlink_machine(struct machine *machine)
{
    loop_watch_remove(machine->watch);
    machine->watch = NULL;
    close(machine->fd);
    machine->fd = -1;
    frame_reader_clear(&machine->reader);
    frame_writer_clear(&machine->writer);
    begin_ending(machine);
}

static void on_timer(void *opaque, int fd, unsigned events)
{
    struct wait *wait = opaque;
    (void)fd, (void)events;
    for (struct wait **at = &wait->machine->waits; *at != NULL; at = &(*at)->next)
        if (*at == wait) {
            *at = wait->next;
            break;
        }
    machine_end_fn *fn = wait->fn;
    void *caller = wait->opaque;
    wait_free(wait);
    fn(caller, NULL);
}

void machine_await_end(struct daemon *daemon, const char *name, unsigned seconds,
                       machine_end_fn *fn, void *opaque)
{
    struct machine *machine = machine_find(daemon, name);
    if (machine == NULL || (machine->fd < 0 && !machine->ending)) {
        json_t *end = machine_last_end(daemon, name);
        fn(opaque, end);
        json_decref(end);
        return;
    }
    struct wait *wait = alloc_zeroed(1, sizeof(*wait));
    *wait = (struct wait){.next = machine->waits, .machine = machine, .fn = fn, .opaque = opaque};
    machine->waits = wait;
    wait->watch = arm(daemon, seconds, on_timer, wait, &wait->timer);
}

/* ---- the link ---- */

static void flush(struct machine *machine)
{
    enum frame_status status = frame_writer_flush(&machine->writer, machine->fd);
    loop_watch_set(machine->watch, LOOP_READABLE | (status == FRAME_MORE ? LOOP_WRITABLE : 0u));
}

/* Takes it off the list, so that fn is called by nobody else. */
static void ask_remove(struct ask *ask)
{
    for (struct ask **at = &ask->machine->asks; *at != NULL; at = &(*at)->next)
        if (*at == ask) {
            *at = ask->next;
            return;
        }
}

static void on_unanswered(void *opaque, int fd, unsigned events)
{
    struct ask *ask = opaque;
    (void)fd, (void)events;
    ask_remove(ask);
    ask->fn(ask->opaque, NULL, "the instance's worker does not answer");
    ask_free(ask);
}

void machine_ask(struct daemon *daemon, const char *name, const char *verb, unsigned seconds,
                 machine_answer_fn *fn, void *opaque)
{
    machine_ask_with(daemon, name, verb, NULL, seconds, fn, opaque);
}

void machine_ask_with(struct daemon *daemon, const char *name, const char *verb, json_t *arguments,
                      unsigned seconds, machine_answer_fn *fn, void *opaque)
{
    struct machine *machine = machine_find(daemon, name);
    if (machine == NULL || (machine->fd < 0 && !machine->ending)) {
        json_decref(arguments);
        fn(opaque, NULL, "the instance is not running");
        return;
    }
    struct ask *ask = alloc_zeroed(1, sizeof(*ask));
    *ask = (struct ask){.next = machine->asks,
                        .machine = machine,
                        .id = ++machine->last_id,
                        .fn = fn,
                        .opaque = opaque};
    machine->asks = ask;
    ask->watch = arm(daemon, seconds, on_unanswered, ask, &ask->timer);
    if (machine->fd < 0) { /* the end is the answer */
        json_decref(arguments);
        return;
    }
    json_t *request = json_pack("{s:I, s:s}", "id", ask->id, "verb", verb);
    if (arguments != NULL)
        json_object_set_new(request, "arguments", arguments);
    char *text = json_dumps(request, JSON_COMPACT);
    frame_writer_add(&machine->writer, text, strlen(text));
    free(text);
    json_decref(request);
    flush(machine);
}

static void take_answer(struct machine *machine, const json_t *message, json_int_t id)
{
    struct ask *ask = machine->asks;
    while (ask != NULL && ask->id != id)
        ask = ask->next;
    if (ask == NULL)
        return;
    ask_remove(ask);
    ask->fn(ask->opaque, json_object_get(message, "result"),
            json_string_value(json_object_get(message, "error")));
    ask_free(ask);
}

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

void machine_tick(struct daemon *daemon)
{
    for (struct machine *at = daemon->machines, *next; at != NULL; at = next) {
        next = at->next;
        logfile_journal(daemon, at->name, &at->log);
        if (at->left_out == 0 || now_s() - at->window < STATE_WINDOW_S)
            continue;
        unsigned left_out = at->left_out;
        at->left_out = 0;
        at->window = now_s();
        at->told = 1;
        daemon_event(daemon, at->name, "state",
                     json_pack("{s:s, s:i}", "state", at->state, "left-out", (int)left_out));
    }
}

/* Its word for its state; what is none, or nothing new, is passed over. */
static void take_state(struct machine *machine, const char *state)
{
    size_t length = state != NULL ? strspn(state, "abcdefghijklmnopqrstuvwxyz-") : 0;
    if (length == 0 || length >= sizeof(machine->state) || state[length] != '\0')
        return;
    if (machine->launched != NULL) {
        daemon_event(machine->daemon, machine->name, "start", machine->launched);
        machine->launched = NULL;
    }
    if (strcmp(machine->state, state) == 0)
        return;
    if (strcmp(state, "running") == 0) { /* what it was at when it was suspended is past */
        char path[SAVED_PATH];
        saved_path(path, machine->name);
        unlinkat(machine->daemon->store.instances, path, 0);
    }
    memcpy(machine->state, state, length + 1);
    if (now_s() - machine->window >= STATE_WINDOW_S && machine->left_out == 0) {
        machine->window = now_s();
        machine->told = 0;
    }
    if (machine->told >= STATES_TOLD) {
        machine->left_out++;
        return;
    }
    machine->told++;
    daemon_event(machine->daemon, machine->name, "state", json_pack("{s:s}", "state", state));
}

static void take_message(struct machine *machine, const json_t *message)
{
    const json_t *id = json_object_get(message, "id"), *result = json_object_get(message, "result");
    const char *event = json_string_value(json_object_get(message, "event"));
    if (event != NULL && strcmp(event, "state") == 0) {
        take_state(machine, json_string_value(json_object_get(message, "state")));
    } else if (json_is_integer(id)) {
        take_state(machine, json_string_value(json_object_get(result, "state"))); /* of "status" */
        take_answer(machine, message, json_integer_value(id));
    }
}

/* A worker is a stranger as soon as its guest has taken it over: bounded, and believed in what
 * concerns itself alone. */
static void on_link(void *opaque, int fd, unsigned events)
{
    struct machine *machine = opaque;
    enum frame_status status = FRAME_MORE;
    if ((events & LOOP_WRITABLE) != 0)
        flush(machine);
    if ((events & (LOOP_READABLE | LOOP_HANGUP)) != 0)
        status = frame_reader_fill(&machine->reader, fd);
    enum frame_status next = FRAME_MESSAGE;
    while (next == FRAME_MESSAGE) {
        const uint8_t *data;
        size_t size;
        next = frame_reader_next(&machine->reader, FRAME_MAX, &data, &size);
        if (next != FRAME_MESSAGE)
            break;
        json_t *message = json_loadb((const char *)data, size, 0, NULL);
        take_message(machine, message);
        json_decref(message);
    }
    if (status != FRAME_MORE || next == FRAME_BROKEN)
        unlink_machine(machine);
}

int machine_connect(struct daemon *daemon, const char *name, const char *socket_name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int folder =
        openat(daemon->store.instances, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", folder,
             socket_name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool good =
        folder >= 0 && fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
    if (folder >= 0)
        close(folder);
    if (good)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

void machine_link(struct daemon *daemon, const char *name, json_t *launched)
{
    struct machine *machine = find_or_make(daemon, name);
    struct error *error = NULL;
    assert(machine->fd < 0 && !machine->ending);
    machine->launched = launched;
    machine->fd = machine_connect(daemon, name, "control.sock");
    if (machine->fd >= 0)
        machine->watch =
            loop_watch_add(daemon->loop, machine->fd, LOOP_READABLE, on_link, machine, &error);
    if (machine->watch != NULL) {
        snprintf(machine->state, sizeof(machine->state), "starting");
        return;
    }
    if (error != NULL)
        log_warning(&daemon->log, "%s", error_message(error));
    error_free(error);
    if (machine->fd >= 0)
        close(machine->fd);
    machine->fd = -1;
    begin_ending(machine); /* it ends just now */
}

struct adoption {
    struct daemon *daemon;
    char name[INSTANCE_MAX_NAME + 1];
};

static void on_adopted(void *opaque, const json_t *result, const char *error)
{
    struct adoption *adoption = opaque;
    (void)result;
    if (error == NULL)
        daemon_event(adoption->daemon, adoption->name, "adopted",
                     json_pack("{s:s}", "state", machine_state(adoption->daemon, adoption->name)));
    free(adoption);
}

void machine_adopt_all(struct daemon *daemon)
{
    char **names = store_list(&daemon->store, NULL);
    for (size_t i = 0; names != NULL && names[i] != NULL; i++) {
        struct instance instance;
        struct error *error = NULL;
        if (!instance_open(&instance, &daemon->store, names[i], &error)) {
            log_warning(&daemon->log, "%s", error_message(error));
            error_free(error);
            continue;
        }
        bool runs = instance_is_locked(&instance);
        instance_close(&instance);
        if (!runs)
            continue;
        machine_link(daemon, names[i], NULL);
        if (!machine_is_linked(daemon, names[i]) || machine_is_ending(daemon, names[i]))
            continue;
        struct adoption *adoption = alloc_zeroed(1, sizeof(*adoption));
        adoption->daemon = daemon;
        snprintf(adoption->name, sizeof(adoption->name), "%s", names[i]);
        strcpy(machine_find(daemon, names[i])->state, "adopting");
        machine_ask(daemon, names[i], "status", ADOPT_S, on_adopted, adoption);
    }
    store_list_free(names);
}

void machine_free_all(struct daemon *daemon)
{
    while (daemon->machines != NULL) {
        struct machine *machine = daemon->machines;
        daemon->machines = machine->next;
        for (struct ask *ask = machine->asks, *next; ask != NULL; ask = next) {
            next = ask->next;
            ask_free(ask);
        }
        for (struct wait *wait = machine->waits, *next; wait != NULL; wait = next) {
            next = wait->next;
            wait_free(wait);
        }
        loop_watch_remove(machine->watch);
        if (machine->fd >= 0)
            close(machine->fd);
        frame_reader_clear(&machine->reader);
        frame_writer_clear(&machine->writer);
        json_decref(machine->launched);
        free(machine);
    }
}
