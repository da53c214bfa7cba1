/* SPDX-License-Identifier: MIT
 *
 * Another file behind a disk of a machine that runs.
 *
 * Threads: any, one at a time for each machine.
 */
#ifndef TRAPEZE_CLIENT_DISK_REPLACE_H
#define TRAPEZE_CLIENT_DISK_REPLACE_H

#include <stdbool.h>
#include <stddef.h>

struct error;

/* The file becomes the raw disk `number` of the machine behind the control socket, or is that
 * already and has another size. False: err, and nothing has changed. */
bool client_disk_replace(const char *control, size_t number, const char *path, bool read_only,
                         struct error **err);

#endif
