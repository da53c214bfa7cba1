/* SPDX-License-Identifier: MIT
 *
 * Copies of files: copy-on-write where the file system can, else data only; holes stay holes.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_CLIENT_COPY_H
#define TRAPEZE_CLIENT_COPY_H

#include <stdbool.h>
#include <sys/types.h>

struct error;

/* All of `from` into `to`, an empty file. `go_on` (may be NULL) is called now and then; false
 * ends the copy with neither success nor an error. */
bool copy_file(int from, int to, bool (*go_on)(void *opaque, off_t done, off_t size), void *opaque,
               struct error **err);

#endif
