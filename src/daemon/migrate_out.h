/* SPDX-License-Identifier: MIT
 *
 * Machines on their way from this daemon to another (migration.h).
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_MIGRATE_OUT_H
#define TRAPEZE_DAEMON_MIGRATE_OUT_H

#include <jansson.h>
#include <stdbool.h>

struct api_call;
struct daemon;

/* Answers the call when the machine is at the target, or is here as if nothing had been, or when it
 * is not known which: then the target is asked until it is. */
void migrate_out(struct api_call *call);
/* Calls it off, if that is still possible. */
void migrate_out_cancel(struct api_call *call);
/* What a person knows of a target that does not answer: call->body's "where". */
void migrate_out_resolve(struct api_call *call);

/* Adds "migration" to what is told of an instance that moves. */
void migrate_out_describe(struct daemon *daemon, const char *name, json_t *answer);

/* After machine_adopt_all(): what was under way when the last daemon ended. */
void migrate_out_adopt_all(struct daemon *daemon);
void migrate_out_tick(struct daemon *daemon); /* once a second */
bool migrate_out_is_idle(const struct daemon *daemon); /* nothing is under way, nobody to be told */
void migrate_out_free_all(struct daemon *daemon);

#endif
