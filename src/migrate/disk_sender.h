/* SPDX-License-Identifier: MIT
 *
 * The disks of a machine that leaves (migrate/disks.h) on a stream of its migration
 * (migrate/wire.h), at the rate that it may take.
 *
 * Threads: those of migrate/disks.h.
 */
#ifndef TRAPEZE_MIGRATE_DISK_SENDER_H
#define TRAPEZE_MIGRATE_DISK_SENDER_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/disks.h"

struct disk_sender;
struct vm;
struct wire;

struct disk_sender_options {
    const enum disks_how *how; /* of each disk of the machine; NULL: all are shared */
    uint64_t bandwidth;        /* bytes per second while the machine runs; 0: no limit */
    int64_t patience_ns;       /* how long the stream may take nothing */
};

/* The loop's thread. What the guest changes is noted from now on. */
struct disk_sender *disk_sender_new(struct vm *vm, struct wire *wire,
                                    const struct disk_sender_options *options, struct error **err);
void disk_sender_stop(struct disk_sender *sender); /* disks_source_stop() */
void disk_sender_free(struct disk_sender *sender); /* NULL is fine */

bool disk_sender_begin(struct disk_sender *sender, struct error **err);
/* Sends for a while; *more: there is so much left that another time is worth it. */
bool disk_sender_go_on(struct disk_sender *sender, bool *more, struct error **err);
/* What was changed since, once. */
bool disk_sender_round(struct disk_sender *sender, struct error **err);
/* The machine stands still: what is left. */
bool disk_sender_final(struct disk_sender *sender, int64_t patience_ns, struct error **err);

/* Any thread: bytes that were there to be sent, and that still are. */
void disk_sender_progress(struct disk_sender *sender, uint64_t *total, uint64_t *left);
uint64_t disk_sender_sent(struct disk_sender *sender); /* bytes */

#endif
