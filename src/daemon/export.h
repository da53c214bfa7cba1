/* SPDX-License-Identifier: MIT
 *
 * An instance as one file.
 *
 * Threads: a job's.
 */
#ifndef TRAPEZE_DAEMON_EXPORT_H
#define TRAPEZE_DAEMON_EXPORT_H

#include <stdbool.h>

#include "daemon/instance.h"

struct error;

/* To a socket: a line of JSON (pack_describe()), then the archive. Whoever calls has locked it, or `takes`
 * says that those disks are left out that its machine writes to: a flag for each disk of its description;
 * NULL: all go, what it was at and what its hardware remembers. `format`: nvram.h. False: err. */
bool export_instance(const struct instance *instance, const bool *takes, int format, int stream,
                     struct error **err);

#endif
