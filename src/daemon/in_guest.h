/* SPDX-License-Identifier: MIT
 *
 * What a guest that runs has to do itself (config/settings.h: setting_in_guest): its shell is told
 * by way of its ssh server, on its vsock. A guest is a stranger: it is waited for so long and no
 * longer, and its word counts for nothing.
 *
 * Threads: a job's.
 */
#ifndef TRAPEZE_DAEMON_IN_GUEST_H
#define TRAPEZE_DAEMON_IN_GUEST_H

#include <jansson.h>

struct daemon;
struct error;

/* A job_fn with {"key": K, "value": N, "user": U}: {}, or NULL with err. */
json_t *in_guest_tell(struct daemon *daemon, const char *name, const json_t *arguments,
                      struct error **err);

#endif
