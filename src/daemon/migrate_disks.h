/* SPDX-License-Identifier: MIT
 *
 * What becomes of the disks of a machine that moves while it runs. Of each, in the order of its
 * description, the target's daemon says one of
 *
 *     "shared"   both sides reach the same one: it stays where it is
 *     "copy"     the target makes an empty image, which the workers fill (migrate/disks.h)
 *     "file"     only read, so it comes with the archive
 *     "top"      an empty layer upon what comes with the archive (migrate_tree.h), which the workers
 *                fill
 *
 * It is the same one if the target finds beside each file of it a file of a name that nobody can
 * guess, which the source has just made there: a proof. So a source leads the target to no file
 * beside which it could not write. Whatever else is described is copied, if that was asked for
 * ("copy-storage"), and never opened.
 *
 *     live, of a reservation   {"vmx", "streams", "copy-storage", "proofs": {file: name}, "disks":
 *                              [{"size", "data": bytes, about, that it takes, "top": whether
 *                              it is one}, …]}
 *
 * Threads: the job's.
 */
#ifndef TRAPEZE_DAEMON_MIGRATE_DISKS_H
#define TRAPEZE_DAEMON_MIGRATE_DISKS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct error;
struct instance;
struct machine_config;
struct machine_disk;
struct text;

/* ---- the source ---- */

/* Adds "disks" and "proofs" to `live`, which has the rest. False: err. Either way what "proofs"
 * names is to be removed: migrate_disks_retract(). */
bool migrate_disks_offer(const struct instance *instance, const struct machine_config *config,
                         json_t *live, struct error **err);
void migrate_disks_retract(const json_t *proofs);
/* Makes one proof, and adds it. */
bool migrate_disks_prove(const char *path, json_t *proofs, struct error **err);
/* Whether the target's words make sense of this machine. */
bool migrate_disks_understood(const json_t *words, const json_t *live);
/* For people: what is left where the machine was. Appended to `notes`. */
void migrate_disks_note(const struct instance *instance, const json_t *words, const json_t *live,
                        json_t *notes);

/* ---- the target ---- */

/* {"disks": the words, "bytes": about what will be written}; `reserved`: what others will write.
 * NULL: err. */
json_t *migrate_disks_judge(const char *folder, const json_t *live, uint64_t reserved,
                            struct error **err);
/* Whether a disk, and all that it lies upon, is the same one. */
bool migrate_disks_sees(const struct machine_disk *disk, const json_t *proofs);
bool migrate_disks_has_space(const char *folder, uint64_t bytes, uint64_t reserved,
                             struct error **err);
/* Puts all disks into the description of a machine that came with those that are files: into its
 * folder, if they are to be filled. `tree`: it has all of them already, of which those to be shared and
 * to be copied mean nothing. False: err. */
bool migrate_disks_make(int folder, struct text *text, const json_t *words, const json_t *live,
                        bool tree, struct error **err);

/* ---- both ---- */

bool migrate_disks_is(const json_t *words, size_t disk, const char *word);
/* As the workers' verbs take it. */
json_t *migrate_disks_for_worker(const json_t *words);

#endif
