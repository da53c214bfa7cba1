/* SPDX-License-Identifier: MIT
 *
 * HTTP for api.h, by libmicrohttpd on the daemon's loop: one server for the unix socket (mode 0600,
 * so its owner's), at which everything may be done, and perhaps one for TCP, whose clients are
 * admitted by remote.h and may do what a verb's row allows them.
 *
 * A client over TCP has 60 s for each request, however its bytes trickle in, and as long to take
 * the answer, of a stream each MiB of it; there are at most 64 connections, 16 from one address.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_HTTP_H
#define TRAPEZE_DAEMON_HTTP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct api_call;
struct daemon;
struct error;
struct http;
struct http_upgrade;
struct remote;

/* Takes the listening socket over. `remote`: who is admitted, borrowed; NULL: whoever connects. */
struct http *http_new(struct daemon *daemon, int listen_fd, struct remote *remote,
                      struct error **err);
/* Calls that are not answered are dropped. No upgraded connection may be left. NULL is fine. */
void http_free(struct http *http);
/* Once a second. */
void http_tick(struct http *http);
bool http_is_idle(const struct http *http); /* nobody is connected */
/* In a job, which has copies of what the daemon has open: nobody is to connect to it when the daemon is
 * dead, and a connection that the daemon closes ends, whoever is at work. Of connections the job keeps
 * those whose descriptors are in `keep`, a list of numbers or NULL. */
void http_leave(struct http *http, const json_t *keep);

/* Ends the call; steals the answer. */
void http_answer(struct api_call *call, int status, json_t *answer);
/* The same with a text of another type, stolen: from malloc(). */
void http_answer_text(struct api_call *call, int status, const char *type, char *text);
/* Ends the call with 101: the connection is no longer HTTP but fn's. It gets a descriptor that
 * does not block and is not closed but given back with http_upgrade_close(), and what the client has
 * sent already; -1 if the client has left before. */
typedef void http_upgrade_fn(void *opaque, struct http_upgrade *upgrade, int fd, const void *early,
                            size_t size);
void http_answer_upgrade(struct api_call *call, const char *protocol, http_upgrade_fn *fn,
                        void *opaque);
void http_upgrade_close(struct http_upgrade *upgrade);
/* Whether the client offers to go on with this protocol. */
bool http_offers(const struct api_call *call, const char *protocol);

/* Answers so far, for each verb and status. */
typedef void http_count_fn(void *opaque, const char *verb, int status, unsigned long long count);
void http_counts(const struct daemon *daemon, http_count_fn *each, void *opaque);
void http_forget_counts(struct daemon *daemon);

const char *http_query(const struct api_call *call, const char *name);

#endif
