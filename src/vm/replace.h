/* SPDX-License-Identifier: MIT
 *
 * Another file behind a disk that the guest goes on using.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_VM_REPLACE_H
#define TRAPEZE_VM_REPLACE_H

#include <stdbool.h>
#include <stddef.h>

struct block_chain;
struct device;
struct error;
struct vm;

/* From now on the raw disk `index`, which is a device of its own (bus=virtio), is in this file, or
 * still in the same one, whose size has changed; the guest's driver is told of the size. What the
 * guest had asked for and the host has not begun with is asked of the new file. `files`: the file,
 * not locked; taken over, whatever comes of it. False: err, and the disk is as it was. */
bool vm_disk_replace(struct vm *vm, size_t index, const char *path, struct block_chain *files,
                     struct error **err);

struct device *vm_disk_device(const struct vm *vm, size_t index); /* NULL: it has none of its own */

#endif
