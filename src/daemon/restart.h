/* SPDX-License-Identifier: MIT
 *
 * Machines that shall run without being asked for: started with the host (trapeze.autostart), and
 * again when they have ended (trapeze.restart = "on-failure" or "always"):
 *
 *     ended ──► waits 1, 2, 4 … 300 s ──► started ──► runs for 10 min: the next wait is 1 s again
 *                 trapeze.restartTries times without that: given up
 *
 * A failure is a crash, an exit code other than 0, a worker that died, and a start that failed. Who
 * stops or suspends a machine (stop, the quit verb) means it: it stays off. A start by hand begins anew.
 *
 * What is going on is in the instance's folder, NAME/restart, so that the next daemon goes on where
 * this one stopped: it looks at what ended meanwhile as if it had seen it end. Autostart is once
 * for each boot of the host, which STORE/autostarted names.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_RESTART_H
#define TRAPEZE_DAEMON_RESTART_H

#include <jansson.h>
#include <stdbool.h>

struct api_call;
struct daemon;
struct machine_config;

/* Of daemon_event(): "start", "ended", "rename" and "delete" concern us. */
void restart_event(struct daemon *daemon, const char *name, const char *type, const json_t *detail);
/* A stop while we are starting it, and so have it taken: carried out after that. False: we are not,
 * or another one waits already. */
bool restart_stop_later(struct api_call *call);
/* Somebody wants it to be off. True: it was only waiting to be started again. */
bool restart_stop(struct daemon *daemon, const char *name);
/* Adds autostart, restart and, if there is something to tell, restarts; a state "stopped" may be
 * "restarting". */
void restart_describe(struct daemon *daemon, const char *name, const struct machine_config *config,
                      json_t *answer);

/* After machine_adopt_all(). */
void restart_adopt_all(struct daemon *daemon);
void restart_free_all(struct daemon *daemon);

#endif
