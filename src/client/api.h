/* SPDX-License-Identifier: MIT
 *
 * The other side of the daemon's API, for the command line: one request on the store's unix
 * socket, and a daemon to answer it, or one to a daemon on another host (remote.h).
 *
 * HTTP by hand, against our own server: libcurl would cost every command and
 * every worker, which is the same executable, 4.5 ms of CPU at its start (6 without; measured
 * 2026-11-21 by preloading it).
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_API_H
#define TRAPEZE_CLIENT_API_H

#include <stdbool.h>
#include <stddef.h>

struct client_remote;
struct error;

/* $TRAPEZE_HOME, $XDG_DATA_HOME/trapeze or ~/.local/share/trapeze, absolute. Caller frees. NULL:
 * err. */
char *api_store_path(struct error **err);

/* As 'mkdir -p'; what is made is private. False: err. */
bool api_make_folders(const char *path, struct error **err);

/* The answer's body (caller frees), also of a call that was refused: *status tells. It goes to the
 * daemon that remote.h's settings name, else to this user's, which is started if none serves the
 * store. `body` may be NULL. NULL: err. */
char *api_call(const char *method, const char *path, const char *body, int *status,
               struct error **err);

/* A daemon that ends just when it is asked is asked once more, or the one that is started then, if
 * nothing came and nothing can have been done: the request changes nothing, or was not read to its
 * end, which recv() tells of a unix socket (`number`: ECONNRESET, as its peer was closed with bytes
 * unread). */
bool api_may_ask_again(const struct client_remote *at, const char *method, int number);

/* Of api_stream.c: a connection to the daemon of api_call() with the head of a request on its way
 * (-1: err), and more bytes. Each of the headers ends with CR LF. */
int api_begin(const char *method, const char *path, const char *headers, struct error **err);
bool api_send(int fd, const char *bytes, size_t size);
/* Asks to go on with `protocol`, and yields the stream that the connection then is, *body NULL; or
 * -1 and *body, the refusal (caller frees); or -1 and NULL: err. */
int api_upgrade(const char *path, const char *protocol, char **body, struct error **err);

/* The same, of a daemon that the settings do not name; one that says nothing for ten minutes has
 * gone. NULL: theirs, without that limit. */
char *api_call_at(const struct client_remote *at, const char *method, const char *path,
                  const char *body, int *status, struct error **err);
int api_begin_at(const struct client_remote *at, const char *method, const char *path,
                 const char *headers, struct error **err);
int api_upgrade_at(const struct client_remote *at, const char *path, const char *protocol,
                   char **body, struct error **err);

/* Whether remote.h's settings name another daemon than this user's. A setting that makes no sense:
 * yes, and the next call says what. */
bool api_is_remote(void);
/* The same; meanwhile `waiting` is called twice a second, and may make calls of its own. */
char *api_call_waiting(const char *method, const char *path, const char *body, int *status,
                       void (*waiting)(void *opaque), void *opaque, struct error **err);

/* Whether one serves the store. */
bool api_is_served(const char *store);

/* Connects to a socket in a folder, however long the folder's path is. -1: err. */
int api_connect_in(const char *folder, const char *name, struct error **err);

#endif
