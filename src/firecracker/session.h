/* SPDX-License-Identifier: MIT
 *
 * A process that serves Firecracker's API for one microVM, which is a machine with a worker of its
 * own as any other (client/worker.h). It ends with its machine.
 *
 * Threads: the caller's has the machine and its console, the server's (server.h) the requests.
 */
#ifndef TRAPEZE_FIRECRACKER_SESSION_H
#define TRAPEZE_FIRECRACKER_SESSION_H

#include <stdbool.h>

#include "client/worker.h"

struct error;

struct fc_options {
    const char *socket; /* where the API is; NULL: nowhere */
    const char *id;
    const char *resources; /* a file of JSON: what to configure and start at once; or NULL */
    enum sandbox_mode sandbox;
    bool boot_timer; /* the guest has a register to say that it has booted, and the log says when */
    const char *log_path, *metrics_path; /* NULL: as requests say */
    size_t body_max;                     /* bytes of a request's body */
    size_t store_limit;   /* bytes of the metadata service's document */
    const char *metadata; /* a file of JSON: that document; or NULL */
    int log_level;
};

/* Returns when the machine has ended. False: err. */
bool fc_serve(const struct fc_options *options, struct client_result *result, struct error **err);

#endif
