/* SPDX-License-Identifier: MIT
 *
 * A machine's disks, opened for its worker, which opens no names: files with all their backing
 * files, locked, and for a disk on an NBD server a process that connects when the worker asks
 * (block/open/connector.h).
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_DISKS_H
#define TRAPEZE_CLIENT_DISKS_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "block/chain.h"
#include "config/machine.h"

struct client_disks {
    struct block_chain chains[MACHINE_MAX_DISKS];
    size_t count;
};

/* Tells of every file that the disk consists of, from the top down, with the name by which it was
 * found; none of one on a server and of an empty drive. Nothing is locked, and no more read than
 * names. False: err. */
typedef void client_disk_file_fn(void *opaque, const char *path, const struct stat *status);
bool client_disk_files(const struct machine_disk *disk, client_disk_file_fn *tell, void *opaque,
                       struct error **err);

/* A new disk that reads as zeros, in a folder that has no file of that name; on stable storage.
 * False: err, and there is none. */
bool client_disk_create(int folder, const char *name, const char *format, uint64_t size,
                        struct error **err);

bool client_disk_open(const struct machine_disk *disk, struct block_chain *chain,
                      struct error **err);
/* All or none of the config's disks. */
bool client_disks_open(const struct machine_config *config, struct client_disks *disks,
                       struct error **err);
/* The same for a machine that is still elsewhere: nothing is locked. */
bool client_disks_open_unlocked(const struct machine_config *config, struct client_disks *disks,
                                struct error **err);
/* Starts a process that locks them as soon as they are free, which is when the machine has come; it
 * ends then, or with the worker. */
bool client_disks_lock_later(const struct client_disks *disks, pid_t worker, struct error **err);
void client_disks_close(struct client_disks *disks); /* the worker has its copies */

#endif
