/* SPDX-License-Identifier: MIT
 *
 * The daemon: names, persistence and policy for machines that run in workers of their own. One
 * thread and one event loop own everything below. What may take long or block is a job: a child
 * process (job.h). A worker is nobody's child and lives on when the daemon ends; the next daemon
 * finds it by its lock and talks to it through its control socket (machine.h).
 *
 *     HTTP request ─► http.c ─► api.c: the verb's row ─► api_VERB.c ─► job, or worker ─► reply
 */
#ifndef TRAPEZE_DAEMON_DAEMON_H
#define TRAPEZE_DAEMON_DAEMON_H

#include <jansson.h>
#include <time.h>

#include "base/log.h"
#include "daemon/remote.h"
#include "daemon/service.h"
#include "daemon/store.h"

struct catalogue;
struct error;
struct http;
struct incoming;
struct job;
struct loop;
struct machine;
struct outgoing;

struct daemon {
    struct loop *loop;
    struct log log;
    struct store store;
    struct catalogue *catalogue;
    struct http *http;        /* at the unix socket */
    struct remote *remote;    /* NULL: not served over TCP */
    struct http *remote_http; /* there */
    struct relay *relays;
    struct service service; /* what systemd gave us */
    struct http_count *answers;
    uint64_t all_jobs; /* since the start */
    time_t started;
    unsigned ticks;            /* seconds */
    uint64_t connections;      /* since the start */
    unsigned idle_exit;        /* seconds; 0: it does not end by itself */
    unsigned idle_ticks;       /* since something was going on */
    uint64_t idle_connections; /* as of the last tick */
    bool idle_end;
    struct machine *machines;     /* those that run or are worked on */
    struct api_call *event_waits; /* calls that wait for an event */
    struct restart *restarts;     /* machines that wait to be started again */
    struct incoming *incoming;    /* migrate_in.c */
    struct outgoing *outgoing;    /* migrate_out.c */
    bool accepts_migrations;      /* over TCP */
    struct job *jobs;             /* in a job's own process: it alone */
};

struct daemon_options {
    const char *store;
    bool verbose;
    struct remote_options remote; /* no `listen`: not served over TCP */
    bool accept_migrations;       /* there */
    unsigned idle_exit; /* seconds without anything to do, after which it ends; 0: never */
};
/* Serves the store until a signal of the end; the machines go on. Or until it has been idle for so
 * long: nobody is connected, nothing runs or waits, no machine needs looking after. The service
 * manager, whose socket it has then, starts the next one when somebody connects. False: err. */
bool daemon_run(const struct daemon_options *options, struct error **err);
/* `trapeze daemon` as a process: argv is "daemon-server" and KEY=VALUE for each of the options. */
int daemon_main(int argc, char **argv);

/* Something happened: into the catalogue, and to those who wait for it. `detail` is stolen and
 * may be NULL. */
void daemon_event(struct daemon *daemon, const char *instance, const char *type, json_t *detail);

#endif
