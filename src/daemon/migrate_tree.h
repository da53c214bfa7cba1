/* SPDX-License-Identifier: MIT
 *
 * Snapshots of a machine that moves (snapshot.h: what there is of them). All files that its tree
 * consists of go into the archive as they are, layer by layer: memory, descriptions, and of every
 * disk of the machine and of its snapshots each image of the chain, a template's among them. They
 * do not change any more, so that a machine runs on meanwhile. Of such a one the uppermost layers,
 * which it writes to, are left out: the workers fill these (migrate/disks.h, DISKS_TOP).
 *
 * What both sides reach (migrate_disks.h: proofs) stays where it is, all that it lies upon too.
 *
 *     "tree" of a reservation   {"data": bytes of the rest, about, "proofs": {file: name},
 *                               "files": [{"file", "format", "data"}, …] that could stay}
 *     "stays" of the answer     [for each of "files" whether it does]
 *     "tree" of the archive     {"current": number, "files": [{"part", "as": "snapshots/a-1.qcow2",
 *                               "below": "a.img"}, …],
 *                               "snapshots": [{"id", "parent", "name", "created", "gone",
 *                               "vmx": part, "memory": part}, …], "nvram": part, or none}
 *
 * "as" is a name in the instance's folder or in its snapshots' folder. With "below" the image's
 * header gets another name of what it lies upon, because that has another one at the target.
 *
 * The target believes none of it: names are checked before anything gets one, a description names
 * nothing but files of the tree, what the source has proved to reach and servers, and images are
 * looked into as those of a worker that its guest has taken over: confined, and not before
 * backing.h has found that a description says upon what they lie.
 *
 * Threads: the job's.
 */
#ifndef TRAPEZE_DAEMON_MIGRATE_TREE_H
#define TRAPEZE_DAEMON_MIGRATE_TREE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct error;
struct instance;
struct machine_config;
struct machine_disk;
struct migrate_tree;
struct unpacked;

#define MIGRATE_TREE_NAME 120 /* bytes of a name, with its end */

/* Whether a file of a tree may be called so: "disk.img", "snapshots/disk-1.qcow2". */
bool migrate_tree_name_check(const char *name);

/* ---- the source ---- */

/* Reads what there is of an instance's snapshots, locks its files and keeps them open. `runs`: its
 * machine does. `copies`: what is in its folder may travel though the machine runs. *tree NULL:
 * there are no snapshots. False: err. */
bool migrate_tree_read(const struct instance *instance, bool runs, bool copies,
                       struct migrate_tree **tree, struct error **err);
void migrate_tree_free(struct migrate_tree *tree); /* NULL is fine */
/* "tree" of the reservation. NULL: err. Either way what proofs there are is in *proofs, to be
 * removed (migrate_disks_retract()). */
json_t *migrate_tree_offer(const struct migrate_tree *tree, json_t *proofs, struct error **err);
/* The target's "stays". False: it makes no sense. */
bool migrate_tree_agree(struct migrate_tree *tree, const json_t *stays, struct error **err);
/* The archive. `format`: nvram.h. */
bool migrate_tree_send(struct migrate_tree *tree, int format, int stream, struct error **err);
/* Whether a disk of a running machine's description is a layer that the workers fill. */
bool migrate_tree_is_top(const struct instance *instance, const struct machine_disk *disk);

/* ---- the target ---- */

/* {"stays": […], "bytes": about what will be written}; NULL: err. */
json_t *migrate_tree_judge(const json_t *tree, bool runs, bool copies, struct error **err);
/* Makes files and snapshots of the parts in a staged folder, and a description of this host of
 * unpacked->text. `stays`: the files that do, by their names. `words`, `live`: migrate_disks.h;
 * NULL: it does not run. False: err. */
bool migrate_tree_unfold(int folder, const char *name, struct unpacked *unpacked,
                         const json_t *stays, const json_t *words, const json_t *live,
                         struct error **err);

#endif
