/* SPDX-License-Identifier: MIT
 *
 * The source after the machine has gone, for post-copy: its memory, which nobody writes any more,
 * is sent page by page: at once what the target asks for, on the first stream; everything else
 * meanwhile, on the others (or between, if there are none). Each page is sent once.
 *
 *     server = server_new(mem);
 *     server_add(server, region, bits);               // what the target does not have
 *     server_start(server, wires, count, &options, &err);
 *     server_want(server, frame, &err);               // WIRE_WANT came
 *     server_stop(server);                            // the streams are cut, or of no more use
 *
 * Threads: these functions any, one at a time; one of its own for each stream, which alone writes
 * to it.
 */
#ifndef TRAPEZE_MIGRATE_SERVE_H
#define TRAPEZE_MIGRATE_SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/wire.h"

struct error;
struct mem_space;
struct server;

struct server_options {
    bool pack;
    uint64_t bandwidth;  /* bytes per second, of what was not asked for; 0: no limit */
    int64_t patience_ns; /* of a stream; it says WIRE_ALIVE often enough for that */
};

struct server *server_new(struct mem_space *mem);
void server_free(struct server *server); /* NULL is fine; stops it */

/* While it is stopped: from now on the target has all but what is added. */
void server_forget(struct server *server);
void server_add(struct server *server, size_t region, const uint64_t *bits);
bool server_add_frame(struct server *server, const struct wire_frame *absent, struct error **err);
bool server_send_list(struct server *server, struct wire *wire, int64_t patience_ns,
                      struct error **err);

bool server_start(struct server *server, struct wire *wires, size_t count,
                  const struct server_options *options, struct error **err);
void server_stop(struct server *server); /* cuts the streams if it is started */
/* A word without a body, on the first stream, before whatever else is to be sent there. Returns
 * when the kernel has it; false: it has not, for the stream is dead. */
bool server_say(struct server *server, enum wire_type type);
bool server_want(struct server *server, const struct wire_frame *frame, struct error **err);
uint64_t server_left(struct server *server); /* bytes; any thread */

#endif
