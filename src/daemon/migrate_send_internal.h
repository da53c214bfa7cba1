/* SPDX-License-Identifier: MIT
 *
 * What migrate_send.c and migrate_live.c (machines that run) share.
 *
 * Threads: the job's.
 */
#ifndef TRAPEZE_DAEMON_MIGRATE_SEND_INTERNAL_H
#define TRAPEZE_DAEMON_MIGRATE_SEND_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/remote.h"
#include "daemon/daemon.h"
#include "daemon/instance.h"
#include "daemon/migrate_tree.h"
#include "daemon/migration.h"

enum outcome { UNKNOWN, HERE, NOT_HERE }; /* at the target */

struct sending {
    struct daemon *daemon;
    struct instance instance;
    struct client_remote remote;
    json_t *record;
    char id[MIGRATION_ID + 1]; /* "": no reservation yet */
    bool live;                 /* a worker has it */
    uint64_t total;            /* bytes, about */
    bool over_nat;             /* a NIC of it is, and it runs */
    json_t *notes;
    struct migrate_tree *tree; /* NULL: it has no snapshots */
    int format;    /* the latest of archives that the target knows */
    json_t *disks; /* of one that runs: what becomes of each (migrate_disks.h) */
};

/* POST /v1/migrations[/ID/verb]; `body` is stolen and may be NULL. NULL: err. */
json_t *sending_ask(const struct sending *s, const char *verb, json_t *body, struct error **err);
/* Of "take" and "ask". UNKNOWN: err. */
enum outcome sending_outcome(const struct sending *s, const char *verb, struct error **err);
/* It may be on either side. Takes over `why`, which is set. False: err. */
bool sending_in_doubt(const struct sending *s, struct error *why, struct error **err);
/* `live`: migrate_disks.h; NULL: it does not run. */
bool sending_reserve(struct sending *s, const json_t *live, struct error **err);
/* Reads its snapshots, if it has some. */
bool sending_read_tree(struct sending *s, bool copies, struct error **err);
bool sending_upload(struct sending *s, struct error **err);
bool sending_set_stage(struct sending *s, const char *stage, struct error **err);
/* It is at the target, and locked by us here: takes it away. */
bool sending_leave(struct sending *s, struct error **err);

/* Brings a machine that runs. */
bool migrate_live(struct sending *s, const json_t *arguments, struct error **err);
/* True: it is at the target, by post-copy, and its streams are lost: what the target lacks is here. */
bool migrate_live_waits(const struct sending *s);
/* Tells the worker, which may stand still because it does not know. If the machine is not here, waits
 * for the worker's end, which has perhaps memory to send yet (post-copy), and locks the instance;
 * false: that takes too long, err. If it is here and was not meanwhile, it goes on; otherwise it ends
 * as by a loss of power. */
bool migrate_live_resolve(struct sending *s, bool here, struct error **err);

#endif
