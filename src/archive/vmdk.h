/* SPDX-License-Identifier: MIT
 *
 * VMware's disks (VMDK), read by qemu-img if that is installed. An image of a stranger's names
 * other files: its extents, and what it lies on. Only those next to it are let through, and none
 * below it.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_ARCHIVE_VMDK_H
#define TRAPEZE_ARCHIVE_VMDK_H

#include "block/image.h"

/* The disk in `fd` (borrowed) as an image of ours: a VMDK is converted into a file without a name
 * in `scratch`, other formats are opened as they are. `path` is where it lies, for one whose
 * extents are files beside it; NULL: it has to be complete. `capacity` in bytes is what it may
 * have; 0: anything. NULL: err. */
struct block_image *vmdk_open(int fd, const char *name, const char *path, const char *scratch,
                              uint64_t capacity, struct error **err);

/* A file without a name. -1: err. */
int vmdk_scratch(const char *folder, struct error **err);

#endif
