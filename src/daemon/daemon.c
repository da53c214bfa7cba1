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

#include "base/error.h"
#include "base/loop.h"
#include "client/signals.h"
#include "client/worker.h"
#include "daemon/api.h"
#include "daemon/catalogue.h"
#include "daemon/http.h"
#include "daemon/machine.h"
#include "daemon/restart.h"

void daemon_event(struct daemon *daemon, const char *instance, const char *type, json_t *detail)
{
    catalogue_event(daemon->catalogue, instance, type, detail);
    restart_event(daemon, instance, type, detail);
    json_decref(detail);
    api_events_wake(daemon);
}

static void on_signal(void *opaque, int fd, unsigned events)
{
    struct daemon *daemon = opaque;
    struct signalfd_siginfo info;
    (void)events;
    if (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        loop_quit(daemon->loop, 0);
}

/* Once a second: those who wait for events have waited long enough at some time. */
static void on_tick(void *opaque, int fd, unsigned events)
{
    struct daemon *daemon = opaque;
    uint64_t expirations;
    (void)events;
    if (read(fd, &expirations, sizeof(expirations)) == (ssize_t)sizeof(expirations) &&
        daemon->event_waits != NULL)
        api_events_wake(daemon);
}

/* As listen_in() of launch.c: the path of a socket has little room. */
static int listen_in_store(const struct store *store, struct error **err)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d/daemon.sock", store->folder);
    return client_listen(path, err);
}

static bool serve(struct daemon *daemon, int signals, int tick, struct error **err)
{
    int listen_fd = listen_in_store(&daemon->store, err);
    daemon->http = listen_fd >= 0 ? http_new(daemon, listen_fd, err) : NULL;
    struct loop_watch *ends = NULL, *ticks = NULL;
    bool good = daemon->http != NULL;
    if (good) {
        ends = loop_watch_add(daemon->loop, signals, LOOP_READABLE, on_signal, daemon, err);
        ticks = ends != NULL
                    ? loop_watch_add(daemon->loop, tick, LOOP_READABLE, on_tick, daemon, err)
                    : NULL;
        good = ticks != NULL;
    }
    if (good) {
        machine_adopt_all(daemon);
        restart_adopt_all(daemon);
        loop_run(daemon->loop);
        unlinkat(daemon->store.folder, "daemon.sock", 0);
    }
    http_free(daemon->http);
    loop_watch_remove(ends);
    loop_watch_remove(ticks);
    return good;
}

bool daemon_run(const char *store_path, int log_level, struct error **err)
{
    struct daemon daemon = {.loop = NULL};
    struct itimerspec every_second = {{1, 0}, {1, 0}};
    sigset_t blocked;
    umask(077);
    log_init(&daemon.log, (enum log_level)log_level, STDERR_FILENO, "trapeze daemon");
    if (!store_open(&daemon.store, store_path, err))
        return false;
    signals_of_the_end(&blocked);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    signal(SIGPIPE, SIG_IGN);
    int signals = signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK);
    int tick = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    timerfd_settime(tick, 0, &every_second, NULL);
    daemon.catalogue = catalogue_open(&daemon.store, &daemon.log, err);
    daemon.loop = daemon.catalogue != NULL ? loop_new(err) : NULL;
    bool good = daemon.loop != NULL && serve(&daemon, signals, tick, err);
    restart_free_all(&daemon);
    machine_free_all(&daemon);
    loop_free(daemon.loop);
    catalogue_close(daemon.catalogue);
    store_close(&daemon.store);
    close(signals);
    close(tick);
    return good;
}

int daemon_main(int argc, char **argv)
{
    struct error *error = NULL;
    if (argc != 3) {
        fputs("trapeze: 'daemon-server' is started by 'trapeze daemon'\n", stderr);
        return 1;
    }
    int level = strcmp(argv[2], "verbose") == 0 ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING;
    if (daemon_run(argv[1], level, &error))
        return 0;
    fprintf(stderr, "trapeze: %s\n", error_message(error));
    bool usage = error_kind(error) == ERROR_USAGE;
    error_free(error);
    return usage ? 120 : 121; /* cli.h's statuses */
}
