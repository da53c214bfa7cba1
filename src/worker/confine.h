/* SPDX-License-Identifier: MIT
 *
 * The worker's sandbox (sandbox/sandbox.h): which parts of it this machine needs, and what is said
 * when the host refuses some.
 *
 * Threads: while there is one only.
 */
#ifndef TRAPEZE_WORKER_CONFINE_H
#define TRAPEZE_WORKER_CONFINE_H

#include <stdbool.h>
#include <stddef.h>

struct error;
struct log;
struct machine_config;
struct vm_files;

/* `how`: "auto:0" and the like, from client/spawn.c: a mode, and what sandbox_fork() said. `text`
 * (of `room` bytes) becomes the list of the parts in force, or "off". False: the mode is "on" and
 * the host refuses something. */
bool worker_confine(const char *how, const struct machine_config *config,
                    const struct vm_files *files, struct log *log, char *text, size_t room,
                    struct error **err);

#endif
