/* SPDX-License-Identifier: MIT
 *
 * What systemd and the daemon say to each other: sockets that were opened before the daemon was
 * started (sd_listen_fds(3)), whether it serves (sd_notify(3)), and events and workers' lines as
 * journal entries with fields of their own (systemd's "native journal protocol"). Nothing happens
 * where there is none.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_SERVICE_H
#define TRAPEZE_DAEMON_SERVICE_H

#include <stdbool.h>

struct error;

struct service {
    int local, remote; /* listening sockets: unix, TCP; -1: none. Taken by whoever uses them */
    int journal;       /* -1: standard error is not the journal */
};

/* False: err, a socket that makes no sense. Once, as it clears the environment. */
bool service_init(struct service *service, struct error **err);
void service_close(struct service *service);

void service_notify(const char *state); /* "READY=1" */

/* An event of an instance; `detail` may be NULL. */
void service_journal(const struct service *service, const char *instance, const char *type,
                     const char *detail);
/* A line of its worker's log. */
void service_journal_line(const struct service *service, const char *instance, const char *line);
/* The same to a socket at this path: for service_init(), and for tests. -1: nobody there. */
int service_journal_open(const char *path);

#endif
