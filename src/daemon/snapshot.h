/* SPDX-License-Identifier: MIT
 *
 * Snapshots of an instance. Making one freezes the disks as they are; what is written from then on
 * goes into new images on top of them, of which the instance's .vmx then speaks. Each snapshot is a
 * node of a tree, and the .vmx says upon which one the machine is now:
 *
 *     NAME/NAME.vmx                scsi0:0.fileName = "snapshots/disk-2.qcow2"
 *                                  scsi0:0.trapeze.backing = "snapshots/disk-1.qcow2"
 *                                  trapeze.snapshot = "2"
 *     NAME/disk.img                what was there before the first one
 *     NAME/snapshots/disk-1.qcow2  on disk.img: written between the first and the second
 *     NAME/snapshots/disk-2.qcow2  on disk-1.qcow2: written since
 *     NAME/snapshots/1/            a snapshot: machine.vmx (the .vmx of then: its disks are
 * disk.img), description (name, parent, time), and of one with memory memory.vmss (migrate/image.h)
 *     NAME/snapshots/.new-3/       one that is being made
 *     NAME/snapshots/.gone-1/      one that was deleted, whose disks others still lie upon
 *     NAME/snapshots/merging       which two images are becoming one
 *     NAME/snapshots/restoring     the .vmx of a machine that is going back to a snapshot
 *
 * Every image in NAME/snapshots/ is ours, and named by a .vmx as a disk or as what a disk lies
 * upon; what none names is left over. A number is never smaller than its parent's.
 *
 * A crash at any moment leaves a machine that can be started, with all that was flushed: the .vmx
 * names the new images before the machine begins to write to them, when they are empty and so make
 * no difference; a snapshot has its number's name when all of it is on the disk. What is half-made
 * is found by its name, and removed by snapshot_mend(), which needs a machine that stands still.
 *
 * An instance that others are linked clones of (trapeze.parent) keeps all of its images as they
 * are. Instant clones lie upon images that were frozen as for a snapshot: a node that is ".gone-N"
 * from the start, and merged like others when the clones are no more.
 *
 * Threads: one at a time for each instance; in jobs.
 */
#ifndef TRAPEZE_DAEMON_SNAPSHOT_H
#define TRAPEZE_DAEMON_SNAPSHOT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/instance.h"

#define SNAPSHOT_MAX 1024 /* of one instance */

enum snapshot_state { SNAPSHOT_WHOLE, SNAPSHOT_NEW, SNAPSHOT_GONE };

struct snapshot {
    unsigned id, parent; /* parent 0: none */
    char name[INSTANCE_MAX_NAME + 1];
    int64_t made; /* seconds since 1970 */
    bool memory;  /* it has, or is to have, memory.vmss */
    bool frozen;  /* nobody's: disks of one moment, which instant clones lie upon */
    enum snapshot_state state;
};

/* By number. */
struct snapshots {
    struct snapshot *list;
    size_t count;
    unsigned current; /* upon which the machine is; 0: none */
};

/* None at all is fine. False: err, and there is nothing to clear. */
bool snapshots_read(const struct instance *instance, struct snapshots *all, struct error **err);
void snapshots_clear(struct snapshots *all);
const struct snapshot *snapshots_find(const struct snapshots *all, unsigned id); /* NULL: none */
/* A whole one by its name. NULL: err. */
const struct snapshot *snapshots_named(const struct snapshots *all, const char *name,
                                       struct error **err);
/* The nearest above that is whole; 0: none. `id` itself is one if it is whole. */
unsigned snapshots_whole(const struct snapshots *all, unsigned id);

/* A description's bytes, which may hold anything; id and state are the caller's. */
bool snapshot_parse(const char *bytes, size_t size, unsigned id, struct snapshot *snapshot,
                    struct error **err);
/* "snapshots/.gone-3/machine.vmx" */
void snapshot_path(const struct snapshot *snapshot, const char *file, char path[64]);
/* The description of the machine as it was then. NULL: err. */
struct text *snapshot_text(const struct instance *instance, const struct snapshot *snapshot,
                           struct error **err);
/* The same, meaning and all; `config` was initialised by the caller, file names are as they stand
 * there. */
bool snapshot_config(const struct instance *instance, const struct snapshot *snapshot,
                     struct machine_config *config, struct error **err);
/* All descriptions of an instance: of each of all.list, and, last, of the machine itself. */
struct snapshot_family {
    const struct instance *instance;
    struct snapshots all;
    struct machine_config *configs; /* file names as they stand there */
};
/* False: err, and there is nothing to clear. */
bool snapshot_family_read(const struct instance *instance, struct snapshot_family *family,
                          struct error **err);
void snapshot_family_clear(struct snapshot_family *family);
size_t snapshot_family_size(const struct snapshot_family *family);

/* NAME/snapshots, made if it is missing. -1: err. */
int snapshots_folder(const struct instance *instance, struct error **err);
bool snapshot_write(int folder, const struct snapshot *snapshot, struct error **err);

/* Whether the machine was suspended, or has been brought back to a snapshot with memory. */
bool snapshot_is_suspended(const struct instance *instance);

/* What was written to a disk that lies elsewhere, since a snapshot froze it, is in the instance's
 * folder alone: false, err. What makes no sense is nothing to be lost. */
bool snapshot_check_nothing_lost(const struct instance *instance, struct error **err);

/* Whether it will go on from the memory of the snapshot with that number, and on its disks. */
bool snapshot_is_resumed(const struct instance *instance, unsigned id);

/* New images for the disks that the machine writes to, on top of those of `from`, the description
 * of a machine by names as they stand in a .vmx: the names in it are the new ones then. Of a
 * machine that runs the disks are in use. False: err, and none is left. */
bool snapshot_put_on_top(const struct instance *instance, struct machine_config *from,
                         const struct snapshot *snapshot, bool in_use, struct error **err);

/* What an image in NAME/snapshots/ calls a file that a .vmx calls `name`. Caller frees. */
char *snapshot_name_below(const char *name);
/* "restoring" says which .vmx the machine shall have from now on. */
bool snapshot_finish_restoring(const struct instance *instance, struct error **err);

/* The verbs. Whether the machine runs is the caller's to know: it does not begin or end meanwhile
 * but by itself. Answers, or NULL with err. */
struct snapshot_plan {
    const char *name; /* NULL: one is made up */
    bool memory, compress;
    bool runs;
    bool (*progress)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
};
json_t *snapshot_create(struct instance *instance, const struct snapshot_plan *plan,
                        struct error **err);
/* Freezes the disks of a machine that runs, for clones that are made of it in the same moment.
 * take() has its worker do both, with a layer for each disk that the machine writes to; *swapped:
 * it writes to the new images from now on. False: err. */
struct client_layer;
typedef bool snapshot_take_fn(void *opaque, const struct client_layer *layers, size_t count,
                              bool *swapped, struct error **err);
bool snapshot_freeze(struct instance *instance, snapshot_take_fn *take, void *opaque,
                     struct error **err);
/* What lies under the images of a machine's disks since they were frozen last. `config`, the
 * machine's, file names as they stand there, gets these instead. False: they were not frozen, or
 * something else has changed since; there is no error. */
bool snapshot_frozen_disks(const struct instance *instance, struct machine_config *config);
/* Before a machine starts (wants the lock): what was frozen for clones that are no more is tidied
 * away. A machine can start without that. */
void snapshot_thaw(const struct instance *instance);
json_t *snapshot_list(const struct instance *instance, struct error **err);
json_t *snapshot_restore(struct instance *instance, const char *name, struct error **err);
json_t *snapshot_delete(struct instance *instance, const char *name, bool runs, struct error **err);

/* Before anything is done with an instance whose machine stands still (wants the lock): finishes
 * what was begun and must be, quickly. */
bool snapshot_mend(const struct instance *instance, struct error **err);
/* The same, and removes what nobody needs any more, which may take as long as copying it. */
bool snapshot_tidy(const struct instance *instance, struct error **err);

#endif
