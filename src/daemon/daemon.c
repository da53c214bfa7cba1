/* SPDX-License-Identifier: MIT
 *
 * See daemon.h. daemon_run() reads like the start order.
 */
#include "daemon/daemon.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "client/signals.h"
#include "client/worker.h"
#include "daemon/api.h"
#include "daemon/catalogue.h"
#include "daemon/http.h"
#include "daemon/logfile.h"
#include "daemon/machine.h"
#include "daemon/migrate_in.h"
#include "daemon/migrate_out.h"
#include "daemon/relay.h"
#include "daemon/restart.h"

enum { LOGS_S = 5 }; /* between two looks at the logs' sizes */

void daemon_event(struct daemon *daemon, const char *instance, const char *type, json_t *detail)
{
    char *text = detail != NULL ? json_dumps(detail, JSON_COMPACT) : NULL;
    catalogue_event(daemon->catalogue, instance, type, detail);
    service_journal(&daemon->service, instance, type, text);
    free(text);
    restart_event(daemon, instance, type, detail);
    json_decref(detail);
    api_events_wake(daemon);
}

/* As of a hang-up: who serves with certificates reads them again. */
static void reload(struct daemon *daemon)
{
    struct error *error = NULL;
    if (remote_reload(daemon->remote, &error))
        log_info(&daemon->log, "certificates were read again");
    else
        log_warning(&daemon->log, "certificates stay as they were: %s", error_message(error));
    error_free(error);
}

/* Of the loop. */
static void end(struct daemon *daemon, bool idle)
{
    daemon->idle_end = idle;
    loop_quit(daemon->loop, 0);
}

static void on_signal(void *opaque, int fd, unsigned events)
{
    struct daemon *daemon = opaque;
    struct signalfd_siginfo info;
    (void)events;
    if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    if (info.ssi_signo == SIGHUP && daemon->remote != NULL &&
        remote_credentials(daemon->remote) != NULL)
        reload(daemon);
    else
        end(daemon, false);
}

/* Plans of restarts are in `restarts`, machines on their way with migrate_in and migrate_out; nothing
 * else happens by itself. */
static bool is_idle(const struct daemon *daemon)
{
    return daemon->machines == NULL && daemon->restarts == NULL && daemon->jobs == NULL &&
           daemon->incoming == NULL && migrate_out_is_idle(daemon) && daemon->relays == NULL &&
           daemon->event_waits == NULL && http_is_idle(daemon->http) &&
           http_is_idle(daemon->remote_http);
}

static void end_if_idle(struct daemon *daemon)
{
    bool idle = is_idle(daemon) && daemon->connections == daemon->idle_connections;
    daemon->idle_connections = daemon->connections;
    daemon->idle_ticks = idle ? daemon->idle_ticks + 1 : 0;
    if (daemon->idle_exit != 0 && daemon->idle_ticks > daemon->idle_exit)
        end(daemon, true);
}

/* Somebody may have connected after the decision. */
static void run_to_the_end(struct daemon *daemon)
{
    do {
        daemon->idle_end = false;
        daemon->idle_ticks = 0;
        loop_run(daemon->loop);
    } while (daemon->idle_end && !is_idle(daemon));
}

/* Once a second: those who wait for events have waited long enough at some time. */
static void on_tick(void *opaque, int fd, unsigned events)
{
    struct daemon *daemon = opaque;
    uint64_t expirations;
    (void)events;
    if (read(fd, &expirations, sizeof(expirations)) != (ssize_t)sizeof(expirations))
        return;
    if (daemon->event_waits != NULL)
        api_events_wake(daemon);
    http_tick(daemon->remote_http);
    machine_tick(daemon);
    migrate_in_tick(daemon);
    migrate_out_tick(daemon);
    if (++daemon->ticks % LOGS_S == 0)
        logfiles_bound(daemon);
    end_if_idle(daemon);
}

/* As listen_in() of launch.c: the path of a socket has little room. */
static int listen_in_store(const struct store *store, struct error **err)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d/daemon.sock", store->folder);
    return client_listen(path, err);
}

static bool serve_remotely(struct daemon *daemon, const struct remote_options *options,
                           struct error **err)
{
    int given = daemon->service.remote;
    daemon->service.remote = -1;
    if (options->listen == NULL && given < 0)
        return true;
    daemon->remote = remote_new(options, given, &daemon->store, &daemon->log, err);
    if (daemon->remote != NULL)
        daemon->remote_http =
            http_new(daemon, remote_take_socket(daemon->remote), daemon->remote, err);
    return daemon->remote_http != NULL;
}

static bool serve(struct daemon *daemon, const struct daemon_options *options, int signals,
                  int tick, struct error **err)
{
    bool good = serve_remotely(daemon, &options->remote, err);
    bool given = daemon->service.local >= 0;
    int listen_fd = given  ? daemon->service.local
                    : good ? listen_in_store(&daemon->store, err)
                           : -1;
    daemon->service.local = -1;
    if (!good && given)
        close(listen_fd);
    daemon->http = good && listen_fd >= 0 ? http_new(daemon, listen_fd, NULL, err) : NULL;
    struct loop_watch *ends = NULL, *ticks = NULL;
    good = daemon->http != NULL;
    if (good) {
        ends = loop_watch_add(daemon->loop, signals, LOOP_READABLE, on_signal, daemon, err);
        ticks = ends != NULL
                    ? loop_watch_add(daemon->loop, tick, LOOP_READABLE, on_tick, daemon, err)
                    : NULL;
        good = ticks != NULL;
    }
    if (good) {
        machine_adopt_all(daemon);
        migrate_in_adopt_all(daemon);
        migrate_out_adopt_all(daemon);
        restart_adopt_all(daemon);
        service_notify("READY=1");
        run_to_the_end(daemon);
        service_notify("STOPPING=1");
        if (!given) /* the service manager's listens on, for the next daemon */
            unlinkat(daemon->store.folder, "daemon.sock", 0);
    }
    relay_end_all(daemon, NULL);
    migrate_in_hang_up(daemon);
    http_free(daemon->remote_http);
    http_free(daemon->http);
    remote_free(daemon->remote);
    http_forget_counts(daemon);
    loop_watch_remove(ends);
    loop_watch_remove(ticks);
    return good;
}

/* Whoever connects while it ends finds a socket of its own gone, and one of the service manager's
 * there. */
static bool may_end(const struct daemon *daemon, struct error **err)
{
    if (daemon->idle_exit == 0 || daemon->service.local >= 0)
        return true;
    error_set(err, ERROR_USAGE,
              "--idle-exit is for a daemon that the service manager starts with its socket");
    error_hint(err, "A daemon of your own ends by Ctrl-C or SIGTERM; machines run on.");
    return false;
}

bool daemon_run(const struct daemon_options *options, struct error **err)
{
    struct daemon daemon = {.loop = NULL};
    struct itimerspec every_second = {{1, 0}, {1, 0}};
    sigset_t blocked;
    umask(077);
    daemon.started = time(NULL);
    daemon.accepts_migrations = options->accept_migrations;
    daemon.idle_exit = options->idle_exit;
    log_init(&daemon.log, options->verbose ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, STDERR_FILENO,
             "trapeze daemon");
    if (!service_init(&daemon.service, err) || !may_end(&daemon, err) ||
        !store_open(&daemon.store, options->store, err)) {
        service_close(&daemon.service);
        return false;
    }
    signals_of_the_end(&blocked);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    signal(SIGPIPE, SIG_IGN);
    int signals = signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK);
    int tick = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    timerfd_settime(tick, 0, &every_second, NULL);
    daemon.catalogue = catalogue_open(&daemon.store, &daemon.log, err);
    daemon.loop = daemon.catalogue != NULL ? loop_new(err) : NULL;
    bool good = daemon.loop != NULL && serve(&daemon, options, signals, tick, err);
    restart_free_all(&daemon);
    migrate_in_free_all(&daemon);
    migrate_out_free_all(&daemon);
    machine_free_all(&daemon);
    loop_free(daemon.loop);
    catalogue_close(daemon.catalogue);
    store_close(&daemon.store);
    service_close(&daemon.service);
    close(signals);
    close(tick);
    return good;
}

/* KEY=VALUE; false: it is none of ours. */
static bool take_option(struct daemon_options *options, char *text)
{
    const struct {
        const char *key;
        const char **value;
    } rows[] = {
        {"store", &options->store},
        {"listen", &options->remote.listen},
        {"certificate", &options->remote.certificate},
        {"key", &options->remote.key},
        {"client-ca", &options->remote.client_ca},
    };
    char *value = strchr(text, '=');
    if (sscanf(text, "idle-exit=%u", &options->idle_exit) == 1)
        return true;
    if (strcmp(text, "verbose") == 0)
        return options->verbose = true;
    if (strcmp(text, "insecure") == 0)
        return options->remote.insecure = true;
    if (strcmp(text, "accept-migrations") == 0)
        return options->accept_migrations = true;
    for (size_t i = 0; value != NULL && i < ARRAY_SIZE(rows); i++)
        if (strncmp(text, rows[i].key, (size_t)(value - text)) == 0 &&
            rows[i].key[value - text] == '\0') {
            *rows[i].value = value + 1;
            return true;
        }
    return false;
}

int daemon_main(int argc, char **argv)
{
    struct error *error = NULL;
    struct daemon_options options = {.store = NULL};
    bool good = true;
    for (int i = 1; i < argc; i++)
        good = take_option(&options, argv[i]) && good;
    if (!good || options.store == NULL) {
        fputs("trapeze: 'daemon-server' is started by 'trapeze daemon'\n", stderr);
        return 1;
    }
    if (daemon_run(&options, &error))
        return 0;
    char when[LOG_TIME_BYTES];
    fprintf(stderr, "%strapeze: %s\n", log_time(STDERR_FILENO, when), error_message(error));
    bool usage = error_kind(error) == ERROR_USAGE;
    error_free(error);
    return usage ? 120 : 121; /* cli.h's statuses */
}
