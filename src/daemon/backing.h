/* SPDX-License-Identifier: MIT
 *
 * What a disk may lie upon. An image says so itself, in bytes that a worker may write to: one that
 * its guest has taken over could name any file of this host there, and would find it attached at
 * the next start. So a disk in an instance's folder lies upon what its description names
 * ("scsi0:0.trapeze.backing", which clone.c writes), or on files of the same folder; and what is
 * named so, if it is an instance's, upon what that one's description names, or that of one of its
 * snapshots.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_DAEMON_BACKING_H
#define TRAPEZE_DAEMON_BACKING_H

#include <stdbool.h>

struct client_disks;
struct error;
struct instance;
struct machine_config;

/* Before the files go to a worker. `config` has file names ready to open. False: err. */
bool backing_check(const struct instance *instance, const struct machine_config *config,
                   const struct client_disks *disks, struct error **err);
/* Before their content is read for other purposes, by who has the instance's lock. */
bool backing_check_files(const struct instance *instance, const struct machine_config *config,
                         struct error **err);

#endif
