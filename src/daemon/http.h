/* SPDX-License-Identifier: MIT
 *
 * HTTP for api.h, by libmicrohttpd on the daemon's loop. Who can connect to the socket (mode 0600,
 * so its owner) may do everything.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_HTTP_H
#define TRAPEZE_DAEMON_HTTP_H

#include <jansson.h>

struct api_call;
struct daemon;
struct error;
struct http;

/* Takes the listening socket over. */
struct http *http_new(struct daemon *daemon, int listen_fd, struct error **err);
/* Calls that are not answered are dropped. */
void http_free(struct http *http);

/* Ends the call; steals the answer. */
void http_answer(struct api_call *call, int status, json_t *answer);
const char *http_query(const struct api_call *call, const char *name);

#endif
