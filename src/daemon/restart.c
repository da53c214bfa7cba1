/* SPDX-License-Identifier: MIT
 *
 * See restart.h.
 */
#include "daemon/restart.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "daemon/api.h"
#include "daemon/daemon.h"
#include "daemon/flow.h"
#include "daemon/instance.h"
#include "daemon/job.h"
#include "daemon/machine.h"

/* In units, which are seconds unless a test makes them shorter. */
enum { LONGEST_WAIT = 300, LONG_RUN = 600, UNIT_MS = 1000 };
enum { STATE_MAX = 4096, BUILD_S = 600 };
#define NUMBER_MAX (INT64_C(1) << 53) /* of a plan */

/* NAME/restart. Times are of CLOCK_REALTIME, in milliseconds. */
struct plan {
    int wanted; /* it shall run; a number, as Jansson has it */
    int gave_up;
    json_int_t tries; /* since it last ran for long */
    json_int_t started;
    json_int_t due; /* when it is started again; 0: it is not waiting */
};

/* One that waits, or is being started by us. */
struct restart {
    struct restart *next;
    struct daemon *daemon;
    char name[INSTANCE_MAX_NAME + 1];
    bool starting;
    struct api_call *stop; /* for when the start is done; NULL: none */
    int timer;
    struct loop_watch *watch;
};

static json_int_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* TRAPEZE_RESTART_UNIT_MS is for tests, which have no minutes to wait. */
static json_int_t unit_ms(void)
{
    const char *text = getenv("TRAPEZE_RESTART_UNIT_MS");
    long unit = text != NULL ? strtol(text, NULL, 10) : UNIT_MS;
    return unit > 0 && unit <= UNIT_MS ? unit : UNIT_MS;
}

/* ---- the plan in the folder ---- */

/* What is reckoned with: a file may say anything. */
static bool is_sane(json_int_t number)
{
    return number >= 0 && number < NUMBER_MAX;
}

static bool plan_read(struct daemon *daemon, const char *name, struct plan *plan)
{
    char path[INSTANCE_MAX_NAME + 16], text[STATE_MAX];
    *plan = (struct plan){.wanted = 0};
    snprintf(path, sizeof(path), "%s/restart", name);
    int fd = openat(daemon->store.instances, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof(text)) : 0;
    if (fd >= 0)
        close(fd);
    json_t *state = size > 0 ? json_loadb(text, (size_t)size, 0, NULL) : NULL;
    bool good = json_unpack(state, "{s:b, s:b, s:I, s:I, s:I}", "wanted", &plan->wanted, "gave-up",
                            &plan->gave_up, "tries", &plan->tries, "started", &plan->started, "due",
                            &plan->due) == 0 &&
                is_sane(plan->tries) && is_sane(plan->started) && is_sane(plan->due);
    json_decref(state);
    if (!good)
        *plan = (struct plan){.wanted = 0};
    return good;
}

/* All at once, though not for good: after a power cut an older plan does, too. */
static void plan_write(struct daemon *daemon, const char *name, const struct plan *plan)
{
    char path[INSTANCE_MAX_NAME + 16], fresh[INSTANCE_MAX_NAME + 16];
    snprintf(path, sizeof(path), "%s/restart", name);
    snprintf(fresh, sizeof(fresh), "%s/.restart.new", name);
    json_t *state =
        json_pack("{s:b, s:b, s:I, s:I, s:I}", "wanted", plan->wanted, "gave-up", plan->gave_up,
                  "tries", plan->tries, "started", plan->started, "due", plan->due);
    int fd = openat(daemon->store.instances, fresh,
                    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = fd >= 0 && json_dumpfd(state, fd, JSON_COMPACT) == 0;
    if (fd >= 0)
        close(fd);
    if (good)
        good = renameat(daemon->store.instances, fresh, daemon->store.instances, path) == 0;
    if (!good)
        log_warning(&daemon->log,
                    "cannot write '%s/instances/%s': it will not be started again by "
                    "the next daemon",
                    daemon->store.path, path);
    json_decref(state);
}

/* ---- those that wait ---- */

static struct restart *find(struct daemon *daemon, const char *name)
{
    for (struct restart *restart = daemon->restarts; restart != NULL; restart = restart->next)
        if (strcmp(restart->name, name) == 0)
            return restart;
    return NULL;
}

static void disarm(struct restart *restart)
{
    loop_watch_remove(restart->watch);
    restart->watch = NULL;
    if (restart->timer >= 0)
        close(restart->timer);
    restart->timer = -1;
}

/* Not while a start of ours is under way: its end needs to find it. */
static void drop(struct restart *restart)
{
    disarm(restart);
    if (restart->starting)
        return;
    for (struct restart **at = &restart->daemon->restarts; *at != NULL; at = &(*at)->next)
        if (*at == restart) {
            *at = restart->next;
            break;
        }
    free(restart);
}

static void on_due(void *opaque, int fd, unsigned events);

static void arm(struct daemon *daemon, const char *name, json_int_t wait_ms)
{
    struct restart *restart = find(daemon, name);
    if (restart == NULL) {
        restart = alloc_zeroed(1, sizeof(*restart));
        restart->daemon = daemon;
        restart->timer = -1;
        snprintf(restart->name, sizeof(restart->name), "%s", name);
        restart->next = daemon->restarts;
        daemon->restarts = restart;
    }
    disarm(restart);
    json_int_t ms = wait_ms > 0 ? wait_ms : 1;
    struct itimerspec span = {
        .it_value = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000}};
    restart->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (restart->timer >= 0 && timerfd_settime(restart->timer, 0, &span, NULL) == 0)
        restart->watch =
            loop_watch_add(daemon->loop, restart->timer, LOOP_READABLE, on_due, restart, NULL);
    if (restart->watch == NULL)
        log_warning(&daemon->log, "'%s' is not started again: no more descriptors", name);
}

/* The policy as the .vmx has it now; false: there is no such instance, or no sense in it. */
static bool read_config(struct daemon *daemon, const char *name, struct machine_config *config)
{
    struct instance instance;
    bool good = false;
    machine_config_init(config);
    if (instance_open(&instance, &daemon->store, name, NULL)) {
        good = !instance.is_template && instance_config(&instance, config, NULL, NULL);
        instance_close(&instance);
    }
    return good;
}

static void try_again(struct daemon *daemon, const char *name, struct plan *plan, unsigned limit)
{
    if (limit != 0 && plan->tries >= (json_int_t)limit) {
        plan->wanted = 0;
        plan->gave_up = 1;
        plan->due = 0;
        plan_write(daemon, name, plan);
        daemon_event(daemon, name, "gave-up", json_pack("{s:I}", "tries", plan->tries));
        return;
    }
    json_int_t units = 1;
    for (json_int_t i = 0; i < plan->tries && units < LONGEST_WAIT; i++)
        units *= 2;
    json_int_t wait = (units < LONGEST_WAIT ? units : LONGEST_WAIT) * unit_ms();
    plan->tries++;
    plan->due = now_ms() + wait;
    plan_write(daemon, name, plan);
    arm(daemon, name, wait);
    daemon_event(daemon, name, "restarting",
                 json_pack("{s:I, s:I}", "try", plan->tries, "wait-ms", wait));
}

static bool is_failure(const json_t *end)
{
    const char *word = json_string_value(json_object_get(end, "end"));
    if (word == NULL || strcmp(word, "exit-code") == 0)
        return word == NULL || json_integer_value(json_object_get(end, "code")) != 0;
    return strcmp(word, "crash") == 0 || strcmp(word, "died") == 0 ||
           strcmp(word, "refused") == 0 || strcmp(word, "lost") == 0;
}

/* Somebody meant it. */
static bool is_wanted(const char *word)
{
    return word != NULL && (strcmp(word, "quit") == 0 || strcmp(word, "suspended") == 0 ||
                            strcmp(word, "migrated") == 0);
}

static void has_ended(struct daemon *daemon, const char *name, const json_t *end)
{
    struct plan plan;
    struct machine_config config;
    const char *word = json_string_value(json_object_get(end, "end"));
    if (!plan_read(daemon, name, &plan) || !plan.wanted)
        return;
    bool known = read_config(daemon, name, &config);
    bool again = known && !is_wanted(word) &&
                 (config.restart == MACHINE_RESTART_ALWAYS ||
                  (config.restart == MACHINE_RESTART_ON_FAILURE && is_failure(end)));
    if (plan.due == 0 && now_ms() - plan.started >= LONG_RUN * unit_ms())
        plan.tries = 0;
    if (again) {
        try_again(daemon, name, &plan, config.restart_tries);
    } else {
        plan.wanted = 0;
        plan.due = 0;
        plan_write(daemon, name, &plan);
    }
    machine_config_clear(&config);
}

/* ---- starting ---- */

static void finish(struct restart *restart)
{
    struct api_call *stop = restart->stop;
    restart->starting = false;
    restart->stop = NULL;
    machine_give_back(restart->daemon, restart->name, false);
    if (restart->watch == NULL) /* else it waits again */
        drop(restart);
    if (stop != NULL && api_take(stop))
        flow_stop(stop, false);
}

bool restart_stop_later(struct api_call *call)
{
    struct restart *restart = find(call->daemon, call->name);
    if (restart == NULL || !restart->starting || restart->stop != NULL)
        return false;
    restart->stop = call;
    return true;
}

/* Of a worker that refuses, "ended" has told us already. */
static void on_status(void *opaque, const json_t *result, const char *error)
{
    (void)result, (void)error;
    finish(opaque);
}

static void on_launched(void *opaque, const json_t *result, const struct error *error)
{
    struct restart *restart = opaque;
    if (result == NULL) {
        json_t *end = json_pack("{s:s, s:s}", "end", "refused", "message", error_message(error));
        daemon_event(restart->daemon, restart->name, "ended", end);
        finish(restart);
        return;
    }
    machine_link(restart->daemon, restart->name, json_deep_copy(result));
    machine_ask(restart->daemon, restart->name, "status", BUILD_S, on_status, restart);
}

/* Whether 'set' has taken the policy away meanwhile; what starts with the host needs none. */
static bool is_called_off(struct daemon *daemon, const char *name, struct plan *plan)
{
    struct machine_config config;
    bool off = read_config(daemon, name, &config) && plan->tries > 0 &&
               config.restart == MACHINE_RESTART_NO;
    machine_config_clear(&config);
    if (off) {
        *plan = (struct plan){.started = plan->started};
        plan_write(daemon, name, plan);
    }
    return off;
}

static void on_due(void *opaque, int fd, unsigned events)
{
    struct restart *restart = opaque;
    struct daemon *daemon = restart->daemon;
    struct plan plan;
    (void)fd, (void)events;
    disarm(restart);
    if (machine_is_linked(daemon, restart->name) || !plan_read(daemon, restart->name, &plan) ||
        !plan.wanted || is_called_off(daemon, restart->name, &plan)) {
        drop(restart);
    } else if (!machine_take(daemon, restart->name, false, NULL)) {
        arm(daemon, restart->name, unit_ms()); /* somebody is at work on it */
    } else {
        restart->starting = true;
        job_start(daemon, restart->name, NULL, machine_launch, on_launched, restart);
    }
}

/* ---- what others tell and ask ---- */

static void has_started(struct daemon *daemon, const char *name)
{
    struct restart *restart = find(daemon, name);
    struct plan plan;
    plan_read(daemon, name, &plan);
    bool by_us = restart != NULL && restart->starting;
    if (restart != NULL)
        drop(restart);
    plan = (struct plan){.wanted = 1, .tries = by_us ? plan.tries : 0, .started = now_ms()};
    plan_write(daemon, name, &plan);
}

/* One that no daemon has looked after: as it is now. */
static void look(struct daemon *daemon, const char *name)
{
    struct plan plan;
    if (machine_is_linked(daemon, name) || !plan_read(daemon, name, &plan) || !plan.wanted)
        return;
    if (plan.due != 0) {
        json_int_t wait = plan.due - now_ms();
        arm(daemon, name, wait < LONGEST_WAIT * unit_ms() ? wait : LONGEST_WAIT * unit_ms());
    } else {
        json_t *end = machine_last_end(daemon, name);
        has_ended(daemon, name, end);
        json_decref(end);
    }
}

void restart_event(struct daemon *daemon, const char *name, const char *type, const json_t *detail)
{
    struct restart *restart = find(daemon, name);
    if (strcmp(type, "start") == 0) {
        has_started(daemon, name);
    } else if (strcmp(type, "ended") == 0) {
        has_ended(daemon, name, detail);
    } else if (strcmp(type, "delete") == 0 && restart != NULL) {
        drop(restart);
    } else if (strcmp(type, "rename") == 0) {
        const char *to = json_string_value(json_object_get(detail, "name"));
        if (restart != NULL)
            drop(restart);
        if (to != NULL)
            look(daemon, to);
    }
}

bool restart_stop(struct daemon *daemon, const char *name)
{
    struct restart *restart = find(daemon, name);
    struct plan plan;
    bool waited = plan_read(daemon, name, &plan) && plan.wanted && plan.due != 0;
    if (restart != NULL)
        drop(restart);
    if (plan.wanted || plan.gave_up) {
        plan = (struct plan){.started = plan.started};
        plan_write(daemon, name, &plan);
    }
    return waited;
}

void restart_describe(struct daemon *daemon, const char *name, const struct machine_config *config,
                      json_t *answer)
{
    static const char *const words[] = {
        [MACHINE_RESTART_NO] = "no",
        [MACHINE_RESTART_ON_FAILURE] = "on-failure",
        [MACHINE_RESTART_ALWAYS] = "always",
    };
    const char *state = json_string_value(json_object_get(answer, "state"));
    struct plan plan;
    json_object_set_new(answer, "autostart", json_boolean(config->autostart));
    json_object_set_new(answer, "restart", json_string(words[config->restart]));
    if (!plan_read(daemon, name, &plan) || (plan.tries == 0 && !plan.gave_up))
        return;
    json_t *restarts = json_pack("{s:I, s:b}", "tries", plan.tries, "gave-up", plan.gave_up);
    if (plan.due != 0 && strcmp(state, "stopped") == 0) {
        json_object_set_new(restarts, "next", json_integer(plan.due / 1000));
        json_object_set_new(answer, "state", json_string("restarting"));
    }
    json_object_set_new(answer, "restarts", restarts);
}

/* ---- the daemon's start and end ---- */

/* Whether this is the first daemon of the store since the host started, and not any more. */
static bool is_new_boot(struct daemon *daemon)
{
    char boot[64] = "", before[64] = "";
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, boot, sizeof(boot) - 1) : 0;
    if (fd >= 0)
        close(fd);
    fd = openat(daemon->store.folder, "autostarted", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
                0600);
    bool fresh =
        fd >= 0 && size > 0 &&
        (read(fd, before, sizeof(before) - 1) != size || memcmp(before, boot, (size_t)size) != 0);
    fresh = fresh && ftruncate(fd, 0) == 0 && pwrite(fd, boot, (size_t)size, 0) == size;
    if (fd >= 0)
        close(fd);
    return fresh;
}

void restart_adopt_all(struct daemon *daemon)
{
    bool new_boot = is_new_boot(daemon);
    char **names = store_list(&daemon->store, NULL);
    for (size_t i = 0; names != NULL && names[i] != NULL; i++) {
        struct machine_config config;
        look(daemon, names[i]);
        if (!new_boot || machine_is_linked(daemon, names[i]))
            continue;
        if (read_config(daemon, names[i], &config) && config.autostart) {
            struct plan plan = {.wanted = 1, .due = now_ms()};
            plan_write(daemon, names[i], &plan);
            arm(daemon, names[i], 0);
        }
        machine_config_clear(&config);
    }
    store_list_free(names);
}

void restart_free_all(struct daemon *daemon)
{
    while (daemon->restarts != NULL) {
        daemon->restarts->starting = false;
        drop(daemon->restarts);
    }
}
