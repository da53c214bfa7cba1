/* SPDX-License-Identifier: MIT
 *
 * Where a machine is that moves from one daemon to another: never on both sides, never on neither,
 * whoever dies when. The target's daemon decides, by one atomic step, that it has the machine; from
 * before that step until it knows of it the source does not start the machine but asks.
 *
 *     source, NAME/migration          target
 *     copying ─ what is sent does not count yet ─► a reservation in memory, a staged folder:
 *        │                                         both gone when anything fails or ends
 *     handing-over                                        │
 *        │ ────────────────── take ────────────► the staged folder gets its name: decided.
 *        │ ◄───────────────── here ───────────── NAME/migration in it says "arrived"
 *     gone: STORE/moved/NAME names the target
 *        └ ────────────────── settle ──────────► NAME/migration removed
 *
 * Of one that runs, the source may have memory to send when it is gone already (post-copy): its
 * record stays at "handing-over" until that is there.
 *
 * Without a word after "take" the source asks: the answer is "here", or "not-here" and then never
 * "here" any more. A source that dies goes on from its record: "copying" is called off, "handing-
 * over" asks until it is answered. Migrations have names that the target makes (128 random bits),
 * so that a request that was long on its way finds nothing; and the target's store has one too
 * (STORE/id), so that nobody else answers for it. A target that is gone for good is a person's to
 * know: `trapeze migrate NAME --resolve here|there`.
 *
 * Records are JSON, replaced by rename after fsync. A source's has what it needs to reach the
 * target, secrets among it, and mode 0600:
 *
 *     {"role": "source", "stage": "copying"|"handing-over", "to": {client/remote.h}, "id", "store"}
 *     {"role": "target", "stage": "arriving"|"arrived", "from": "host:/store", "id"}
 *
 * Threads: one at a time for each instance.
 */
#ifndef TRAPEZE_DAEMON_MIGRATION_H
#define TRAPEZE_DAEMON_MIGRATION_H

#include <jansson.h>
#include <stdbool.h>

struct error;
struct instance;
struct store;

#define MIGRATION_RECORD    "migration"
#define MIGRATION_ID        32 /* hexadecimal digits */
#define MIGRATION_ARRIVED   "arrived"
#define MIGRATION_ARRIVING  "arriving"
#define MIGRATION_TAKEN     "taken" /* a file: see migrate_in.h */
#define MIGRATION_HAND_OVER "handing-over"
#define MIGRATION_COPYING   "copying"
#define MIGRATION_PROOF     ".trapeze-" /* and an id: a file beside a disk, see migrate_arrive.c */

/* 128 bits that nobody can guess. False: err. */
bool migration_make_id(char id[MIGRATION_ID + 1], struct error **err);
/* The store's own, made when it is first asked for. False: err. */
bool migration_store_id(const struct store *store, char id[MIGRATION_ID + 1], struct error **err);

/* The record in a folder; NULL: none, or none that makes sense. */
json_t *migration_read(int folder);
bool migration_write(int folder, const json_t *record, struct error **err);
bool migration_remove(int folder, struct error **err); /* fine if there is none */
const char *migration_stage(const json_t *record);     /* "": none */
bool migration_is_at(const json_t *record, const char *stage);
/* For people: the URL of the target, or what the source calls itself. */
const char *migration_peer(const json_t *record);

/* Whether this side may run, change or delete the instance. False: err, with the other side's name.
 * What has arrived may be everything but deleted or sent on before the source knows of it. */
bool migration_permits(const struct instance *instance, bool to_delete, struct error **err);

/* The instance whose record at "arrived" is of this migration; false: none has. */
bool migration_find(const struct store *store, const char *id, char name[64]);

/* ---- what has left ---- */

/* The instance, which the caller has locked, is at the target: takes it away for good, and notes
 * where it went, for people and to settle. False: err; it can be done again. */
bool migration_leave(struct instance *instance, const json_t *record, struct error **err);
/* {"url", "time"} of what has left; NULL: nothing of that name, or nothing any more. */
json_t *migration_moved(const struct store *store, const char *name);
/* The name belongs to somebody else now. */
void migration_forget(const struct store *store, const char *name);
/* Records that are to be settled, by their ids; ends with NULL, store_list_free(). */
char **migration_unsettled(const struct store *store);
json_t *migration_unsettled_read(const struct store *store, const char *id);
void migration_settled(const struct store *store, const char *id);

#endif
