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

/* To a socket: a line of JSON (pack_describe()), then the archive. Whoever calls has locked it. False:
 * err. */
bool export_instance(const struct instance *instance, int stream, struct error **err);

#endif
