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

/* Called now and then; false ends the copy with neither success nor an error. */
typedef bool copy_go_on_fn(void *opaque, off_t done, off_t size);

/* All of `from` into `to`, an empty file. `go_on` may be NULL. */
bool copy_file(int from, int to, copy_go_on_fn *go_on, void *opaque, struct error **err);

#endif
