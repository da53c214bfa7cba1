/* SPDX-License-Identifier: MIT
 *
 * A disk of a machine's clone: an overlay on the original, which then must never change, or a full
 * copy. Of the original no more is looked at than headers, unless it lies on another image and is
 * to be copied: then what a guest would see of it is written to a new image that stands alone.
 *
 * The original is locked for reading meanwhile (block/file.h).
 *
 * Threads: any.
 */
#ifndef TRAPEZE_CLIENT_DISK_CLONE_H
#define TRAPEZE_CLIENT_DISK_CLONE_H

#include <stdbool.h>
#include <stdint.h>

#include "client/copy.h"
#include "config/machine.h"

struct client_disk_clone {
    int folder;          /* where the clone's file goes */
    const char *name;    /* the file, which is not there yet */
    const char *backing; /* what an overlay calls its original; NULL: a full copy */
    bool in_use;         /* of an overlay: by a machine that will lie upon it from then on */
    copy_go_on_fn *step; /* of a copy, in bytes; returns true. May be NULL */
    void *opaque;
};

/* Makes the file and brings it to stable storage. `from` is opened by its path; *format is that of
 * the clone's file, NULL if it is as unknown as the original's. False: err, and there is no file. */
bool client_disk_clone(const struct machine_disk *from, const struct client_disk_clone *clone,
                       const char **format, struct error **err);

/* An empty image of `size` bytes in a folder that has no such file, on stable storage: upon a file of
 * which nothing but its beginning is looked at, and which it calls `backing`. False: err, and there
 * is none. */
bool client_disk_put_upon(const struct machine_disk *below, int folder, const char *name,
                          const char *backing, uint64_t size, struct error **err);

#endif
