/* SPDX-License-Identifier: MIT
 *
 * The processes that stand between a machine and the host's names and addresses: each is this
 * same executable, started with a few descriptors and nothing else (net/backends.h, block/open/
 * connector.h).
 *
 *     int status[2];
 *     struct backend backend;
 *     if (!backend_pipe(status, err))
 *         return false;
 *     backend_begin(&backend, "net-nat", status[1]);
 *     backend_add_fd(&backend, link);
 *     pid = backend_spawn(&backend, status, false, err);
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_BACKEND_H
#define TRAPEZE_CLIENT_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct error;

#define BACKEND_ARGUMENTS_MAX 40

/* argv[1] is the backend's name, then come the descriptors it keeps (numbers[0..fd_count)). */
struct backend {
    const char *arguments[BACKEND_ARGUMENTS_MAX]; /* borrowed */
    size_t count;
    char numbers[4][16];
    int fds[4];
    size_t fd_count;
};

bool backend_pipe(int status[2], struct error **err);
void backend_begin(struct backend *backend, const char *name, int status_fd);
void backend_add(struct backend *backend, const char *argument);
void backend_add_fd(struct backend *backend, int fd); /* 3 at most beside the status pipe */

/* `orphan`: the process is nobody's child, because others will use it when we are gone. Returns
 * its id, 0 for an orphan, -1 with err: what it wrote to the status pipe. Closes the pipe. */
pid_t backend_spawn(const struct backend *backend, const int status[2], bool orphan,
                    struct error **err);

#endif
