/* SPDX-License-Identifier: MIT
 *
 * A snapshot of a machine that runs, made by its worker: who asks has the new images ready.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_SNAPSHOT_H
#define TRAPEZE_CLIENT_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

struct client_layer {
    const char *path;  /* of the new image, an empty qcow2 */
    const char *below; /* of the image that the disk has been until now */
};

struct client_snapshot {
    const struct client_layer *layers; /* of all disks that the machine writes to */
    size_t layer_count;
    int memory; /* an empty file for it; -1: not wanted. Whole and on the disk when all is done */
    bool compress;
    bool (*progress)(void *opaque, uint64_t done,
                     uint64_t total); /* false calls it off; may be NULL */
    void *opaque;
};

/* *swapped: the machine writes to the new images from now on, also if saving its memory failed.
 * Else it has not been touched. False: err. */
bool client_snapshot(const char *control_path, const struct client_snapshot *how, bool *swapped,
                     int64_t *paused_us, struct error **err);

#endif
