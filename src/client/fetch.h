/* SPDX-License-Identifier: MIT
 *
 * A file from an http or https server, by libcurl, which is loaded when it is needed: linked, it
 * would cost every command and every worker 4.5 ms of CPU at its start (client/api.h).
 *
 * The server is a stranger: it may redirect ten times (never from https to http), and send as much
 * as it has announced and there is space for.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_FETCH_H
#define TRAPEZE_CLIENT_FETCH_H

#include <stdbool.h>
#include <stdint.h>

struct error;

#define FETCH_MAX_VALIDATOR 256

struct fetch {
    const char *url;
    int fd; /* what has come so far; what comes is added to it */
    /* Which file that is of, as the server has named it (ETag or Last-Modified): it goes on only if
     * it still is. "": from the beginning. Both are changed as it goes. */
    char validator[FETCH_MAX_VALIDATOR];
    uint64_t space;                                            /* bytes that `fd` may have */
    void (*step)(void *opaque, uint64_t done, uint64_t total); /* total 0: not known */
    void *opaque;
};

bool fetch_is_url(const char *name);
/* Connections that break are made again: five times, and again so often for each MiB more that there
 * is than ever before. One that brings less than 1 KiB/s for 30 s is broken, too. False: err; what
 * has come is there. */
bool fetch(struct fetch *fetch, struct error **err);

#endif
