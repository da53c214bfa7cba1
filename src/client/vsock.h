/* SPDX-License-Identifier: MIT
 *
 * What a machine's vsock needs of the host (dev/vsock.h): the socket that its clients connect to,
 * and a process that connects to programs of the host (net/vsock_connector.h).
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_VSOCK_H
#define TRAPEZE_CLIENT_VSOCK_H

#include <stdbool.h>
#include <sys/types.h>

struct error;
struct machine_config;

struct client_vsock {
    int listen, connector; /* the worker's; -1: it has no vsock, or has its copies */
    pid_t pid;             /* 0: none */
};

bool client_vsock_start(const struct machine_config *config, struct client_vsock *vsock,
                        struct error **err);
void client_vsock_close(struct client_vsock *vsock); /* the worker has its copies */
/* The worker is gone: returns when the process is, too, and the socket's name. */
void client_vsock_stop(struct client_vsock *vsock);

#endif
