/* SPDX-License-Identifier: MIT
 *
 * The files in an instance's folder (instance.h): made, replaced, copied there, told apart.
 * `folder` is a descriptor of it.
 *
 * Threads: one at a time for each folder.
 */
#ifndef TRAPEZE_DAEMON_FOLDER_H
#define TRAPEZE_DAEMON_FOLDER_H

#include <stdbool.h>
#include <stddef.h>

#include "client/copy.h"

#define INSTANCE_SAVED "suspended.vmss"

struct error;
struct text;

/* All at once: whoever reads sees the old content or the new one. To stable storage, the folder's
 * own entry too. */
bool folder_write(int folder, const char *name, const struct text *text, struct error **err);
bool folder_write_bytes(int folder, const char *name, const char *bytes, size_t size,
                        struct error **err);
/* `name` must be free. `parent` is where a relative `source` begins, or AT_FDCWD. */
bool folder_copy(int parent, const char *source, int folder, const char *name,
                 copy_go_on_fn *go_on, void *opaque, struct error **err);

/* "NAME.vmx", "NAME.vmtx": `ending` has its dot. */
bool folder_is_description(const char *name, const char *ending);
/* In a folder, but not of the machine: a copy of it does without them. */
bool folder_is_private(const char *name);

#endif
