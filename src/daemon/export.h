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

/* To a socket: a line of JSON (pack_describe()), then the archive. Whoever calls has locked it, unless it
 * is to be without its disks. False: err. */
bool export_instance(const struct instance *instance, bool disks, int stream, struct error **err);

#endif
