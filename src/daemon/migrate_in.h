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
 * A reservation lives in memory and ends with the daemon, when it is asked after, or after two
 * minutes in which nothing came. Meanwhile its name is taken (machine_take()).
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

void migrate_in_tick(struct daemon *daemon); /* once a second */
void migrate_in_free_all(struct daemon *daemon);

#endif
