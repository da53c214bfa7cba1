/* SPDX-License-Identifier: MIT
 *
 * What nobody may need any more: instances whose time is over or that nobody has used for long,
 * and disk images in the folders that no description names and no image lies upon. Looking for
 * them changes nothing. What runs is left alone, as is a template that has clones.
 *
 * From the folders alone, without the catalogue: in a job.
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_DAEMON_PRUNE_H
#define TRAPEZE_DAEMON_PRUNE_H

#include <jansson.h>

#include "daemon/store.h"

/* {"items": [{"kind", "name", "path", "why", "since", "size"}], "unknown": sentence}; `unused`:
 * seconds. "unknown" is there if images were not looked for, because some description or disk
 * cannot be read: what that lies upon could be one of them. NULL: err. */
json_t *prune_find(const struct store *store, long long unused, struct error **err);

/* Removes those of the files (an array of paths) that prune_find() would name now:
 * {"deleted": [path], "kept": [path]}. NULL: err. */
json_t *prune_files(const struct store *store, const json_t *files, struct error **err);

#endif
