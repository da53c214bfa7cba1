/* SPDX-License-Identifier: MIT
 *
 * HTTP on a unix socket for Firecracker's API: one request after the other, on a thread of its own.
 */
#ifndef TRAPEZE_FIRECRACKER_SERVER_H
#define TRAPEZE_FIRECRACKER_SERVER_H

#include <stddef.h>

struct error;
struct fc_answer;
struct fc_server;

/* On the server's thread. body NULL: there is none. */
typedef void fc_request_fn(void *opaque, const char *method, const char *path, const char *body,
                           size_t size, struct fc_answer *answer);

typedef void
fc_answered_fn(void *opaque); /* the answer to a request has been sent, as far as it was */

/* Takes the listening socket over. A body of more than `limit` bytes is refused. NULL: err. */
struct fc_server *fc_server_new(int listen_fd, size_t limit, fc_request_fn *request,
                                fc_answered_fn *answered, void *opaque, struct error **err);
/* Returns when no request is under way any more. NULL is fine. */
void fc_server_free(struct fc_server *server);

#endif
