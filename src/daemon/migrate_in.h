/* SPDX-License-Identifier: MIT
 *
 * Machines on their way to this daemon (migration.h), as the source's daemon sees it:
 *
 *     POST /v1/migrations              "web" shall come: refused at once if it cannot; its id
 *     POST /v1/migrations/ID/archive   its description and files (archive/pack.h), into a staged
 * folder POST /v1/migrations/ID/take      the folder gets its name: the machine is here POST
 * /v1/migrations/ID/ask       is it? If not, it never will be under this id POST
 * /v1/migrations/ID/settle    the source knows
 *
 * A machine that runs ("live" in its reservation) gets its name and a worker that waits with the
 * archive; then, instead of take,
 *
 *     GET /v1/migrations/ID/stream     as often as was reserved; each connection becomes a stream
 *                                      between the two workers (migrate/migrate.h)
 *
 * and the target's worker decides, which writes "here" to NAME/taken, durably, before the guest runs. The
 * record says "arriving" until the daemon has seen that. If this daemon dies before, the streams of
 * TLS and the talk with the worker end, and so does the worker, or it has taken the machine: the
 * next daemon finds out.
 *
 * With post-copy it runs here before all of its memory is there, and the streams stay. Streams that
 * were lost are replaced by
 *
 *     POST /v1/migrations/ID/recover   and then as many GET …/stream as that says
 *
 * A reservation lives in memory and ends with the daemon, when it is asked after, or after two
 * minutes (ten seconds for a stream) in which nothing came. Meanwhile its name is taken
 * (machine_take()).
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_MIGRATE_IN_H
#define TRAPEZE_DAEMON_MIGRATE_IN_H

struct api_call;
struct daemon;

/* Carry out the verbs of these names and answer. Of all but the first call->name is an id. */
void migrate_in_reserve(struct api_call *call);
void migrate_in_archive(struct api_call *call);
void migrate_in_take(struct api_call *call);
void migrate_in_ask(struct api_call *call);
void migrate_in_settle(struct api_call *call);

#define MIGRATE_PROTOCOL "trapeze-migration" /* in the Upgrade header */
void migrate_in_stream(struct api_call *call);
void migrate_in_recover(struct api_call *call);

/* After machine_adopt_all(): what was arriving when the last daemon ended. */
void migrate_in_adopt_all(struct daemon *daemon);
/* The end of all connections, before that of the HTTP server. */
void migrate_in_hang_up(struct daemon *daemon);
void migrate_in_tick(struct daemon *daemon); /* once a second */
void migrate_in_free_all(struct daemon *daemon);

#endif
