/* SPDX-License-Identifier: MIT
 *
 * An image and the one that it lies on become one.
 *
 * Threads: call it while there is one only.
 */
#ifndef TRAPEZE_CLIENT_DISK_MERGE_H
#define TRAPEZE_CLIENT_DISK_MERGE_H

#include <stdbool.h>

struct error;

/* Writes all that `upper`, a qcow2 image, has to `lower`, which it lies on, and brings it to stable
 * storage. What a guest sees of `upper` is the same at every moment. The files that `lower` lies on are
 * those that it names: the caller has made sure that they may be. *format: which one the lower one is, as
 * the upper one has recorded it; the caller frees it. False: err. */
bool client_disk_merge(const char *upper, const char *lower, char **format, struct error **err);

/* From now on the qcow2 image lies on `backing`, a name as it is recorded; `format` NULL: of the same
 * format as before. Its data stay as they are. */
bool client_disk_retarget(const char *path, const char *backing, const char *format,
                          struct error **err);

#endif
