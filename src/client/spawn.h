/* SPDX-License-Identifier: MIT
 *
 * Starting a worker process: this same executable again, with inherited descriptors. The only way
 * a machine is ever started, by a person's terminal (worker.h) or by the daemon.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_SPAWN_H
#define TRAPEZE_CLIENT_SPAWN_H

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#include "sandbox/sandbox.h"

struct client_disks;
struct client_network;
struct client_vsock;
struct error;
struct machine_config;

/* The worker gets copies of the descriptors; -1: it has none. */
struct client_spawn {
    int console;
    const char *console_kind; /* "stream", "file", "listen", "none" */
    int control; /* connected; when we hang up the machine ends. -1: it lives by itself */
    int listen;  /* accepts further control clients */
    int gdb;
    int report;     /* a file: one line of JSON in the end, how the machine ended */
    int transcript; /* a file for what the guest printed last, 512 KiB at most */
    int nvram;      /* a file: what the hardware remembers without power (config/nvram.h) */
    int hold;       /* kept open while it lives, for the lock on it */
    int resume;     /* the file of a machine that was suspended, */
    int resume_memory; /* and of its memory, if that is apart; 0: it is not */
    bool paused;    /* the machine does not run before it is resumed */
    bool gdb_wait;
    bool incoming; /* it waits for a machine that is migrated here (worker/verbs_migrate.c) */
    bool detach; /* a session of its own */
    const char *group; /* a name for its cgroup (cgroup.h); NULL: it is to have none */
    enum sandbox_mode sandbox;
    int log_level;
    const struct client_network *network;
    const struct client_disks *disks;
    const struct client_vsock *vsock;
    const sigset_t *unblock; /* signals that only we block */
};

/* The worker's process, a child of ours unless it is detached. -1: err. */
pid_t client_spawn(const struct machine_config *config, const struct client_spawn *spawn,
                   struct error **err);

/* An instant clone (worker/hatch.h): `pair[1]` goes to the original's worker with its verb clone, and
 * then, with our end: the copy gets what a worker of this configuration would, but for a debugger, and
 * is ready when this returns. Its process; -1: err, and it ends when the socket is closed. */
bool client_hatch_socket(int pair[2], struct error **err);
pid_t client_hatch(const struct machine_config *config, const struct client_spawn *spawn, int talk,
                   struct error **err);
/* Lets it run. */
bool client_hatch_go(int talk, struct error **err);

#endif
