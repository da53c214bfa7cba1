/* SPDX-License-Identifier: MIT
 *
 * The new images that come with a request to freeze the machine's disks, for a snapshot or for
 * clones: of each of them two descriptors, itself and what it lies on (block_chain_put_on_top()),
 * and its path in the list "disks".
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_WORKER_OVERLAYS_H
#define TRAPEZE_WORKER_OVERLAYS_H

#include <jansson.h>
#include <stdbool.h>

#include "block/chain.h"
#include "config/machine.h"
#include "vm/vm.h"

struct control_target;

struct overlays {
    struct vm_overlay list[MACHINE_MAX_DISKS];
    struct block_chain files[MACHINE_MAX_DISKS];
    size_t count;
};

/* Takes them from the request's descriptors, of which they are the first; there are `others` behind
 * them. All disks that the machine writes to must be among them. Borrows the paths. False: err;
 * overlays_close() anyway. */
bool overlays_take(struct control_target *target, const json_t *paths, size_t others,
                   struct overlays *overlays, struct error **err);
/* What was not put on top of a disk. */
void overlays_close(struct overlays *overlays);

#endif
