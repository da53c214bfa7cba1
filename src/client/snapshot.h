/* SPDX-License-Identifier: MIT
 *
 * A snapshot of a machine that runs, made by its worker, or clones of it (client/spawn.h): who asks
 * has the new images ready.
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

struct client_clones {
    const struct client_layer *layers; /* of all disks that the machine writes to */
    size_t layer_count;
    bool unwritten;     /* no layers: the clones have what lies under these disks, if nothing was
                         * written to them since */
    const int *sockets; /* client_hatch_socket()'s other ends, borrowed */
    size_t socket_count;
};
/* Copies of the machine, all of one moment. *done: they are there, and the machine writes to the
 * new images; else it has not been touched, without an error if something was written. */
bool client_clone_running(const char *control_path, const struct client_clones *how, bool *done,
                          struct error **err);
/* How many, of a machine that writes to so many disks; 0: too many of these. */
size_t client_clones_at_once(size_t disks);

#endif
