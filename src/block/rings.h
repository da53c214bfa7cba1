/* SPDX-License-Identifier: MIT
 *
 * io_uring rings, made while a process still may make some, for disks that come later. What
 * io_uring does, a filter of system calls does not see; so each ring is restricted for good to
 * reads and writes on the one file that is registered with it (IORING_REGISTER_RESTRICTIONS).
 *
 * Threads: one at a time; a ring in use belongs to its disk.
 */
#ifndef TRAPEZE_BLOCK_RINGS_H
#define TRAPEZE_BLOCK_RINGS_H

struct block_rings;

/* Rings for `count` disks, or as many as the host has. */
struct block_rings *block_rings_new(unsigned count);
/* No disk uses one any more. NULL is fine. */
void block_rings_free(struct block_rings *rings);

#endif
