/* SPDX-License-Identifier: MIT
 *
 * What the daemon knows of an instance that runs or is worked on: the link to its worker's control
 * socket, and who is at work on it. Instances that neither run nor are worked on have none.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_MACHINE_H
#define TRAPEZE_DAEMON_MACHINE_H

#include <jansson.h>
#include <stdbool.h>

#include "daemon/daemon.h"
#include "daemon/instance.h"

/* `error` is NULL or the sentence of who refused; result is borrowed. */
typedef void machine_answer_fn(void *opaque, const json_t *result, const char *error);
/* `end`: the worker's report (instance.h: NAME/end), borrowed; NULL: it died without one. */
typedef void machine_end_fn(void *opaque, const json_t *end);

/* NULL: there is none. */
struct machine *machine_find(struct daemon *daemon, const char *name);

/* Whoever changes an instance has it for himself meanwhile; who reads it shares it. False: it is
 * taken, err. */
bool machine_take(struct daemon *daemon, const char *name, bool shared, struct error **err);
void machine_give_back(struct daemon *daemon, const char *name, bool shared);

/* Calls each() for those that have a worker. */
typedef void machine_each_fn(void *opaque, const char *name);
void machine_each_linked(struct daemon *daemon, machine_each_fn *each, void *opaque);

/* The worker's word for its state; "stopped" or "suspended" without a worker. */
const char *machine_state(struct daemon *daemon, const char *name);
/* Whether it has a worker, and one whose process is about to be gone. */
bool machine_is_linked(struct daemon *daemon, const char *name);
bool machine_is_ending(struct daemon *daemon, const char *name);

/* The worker's last report; NULL: none. */
json_t *machine_last_end(struct daemon *daemon, const char *name);

/* Connects to the instance's worker, or learns how it has ended meanwhile. `launched` is stolen,
 * may be NULL: the detail of a "start" event, for when the worker has not refused its
 * configuration. */
void machine_link(struct daemon *daemon, const char *name, json_t *launched);
/* Connects to all workers of the store: after the daemon's own start. */
void machine_adopt_all(struct daemon *daemon);
void machine_free_all(struct daemon *daemon);
/* Once a second: tells what was left out. Of a worker's changes of state 30 become events within 10
 * s; then the last one does, with the number of those that were left out. */
void machine_tick(struct daemon *daemon);
/* To a socket in the instance's folder, without waiting; -1: nobody listens there. */
int machine_connect(struct daemon *daemon, const char *name, const char *socket_name);

/* One verb of the worker; fn is called once: with its answer, at its end, or in `seconds`. */
void machine_ask(struct daemon *daemon, const char *name, const char *verb, unsigned seconds,
                 machine_answer_fn *fn, void *opaque);
/* The same with arguments, which are stolen. */
void machine_ask_with(struct daemon *daemon, const char *name, const char *verb, json_t *arguments,
                      unsigned seconds, machine_answer_fn *fn, void *opaque);
/* fn is called when the machine has ended: in `seconds` at most, then with `end` NULL and the
 * machine still linked. */
void machine_await_end(struct daemon *daemon, const char *name, unsigned seconds,
                       machine_end_fn *fn, void *opaque);

/* In a job: kills the instance's worker, which may hear nothing any more. {}, or NULL with err. */
json_t *machine_kill(struct daemon *daemon, const char *name, const json_t *arguments,
                     struct error **err);

/* In a job: writes what the machine is at to its folder, and has the worker end. {}, or NULL with err:
 * the machine goes on. */
json_t *machine_suspend(struct daemon *daemon, const char *name, const json_t *arguments,
                        struct error **err);

/* In a job: starts the instance's worker, where it was if it was suspended. {"pid": N}, or NULL with
 * err. */
json_t *machine_launch(struct daemon *daemon, const char *name, const json_t *arguments,
                       struct error **err);

/* In a job: clones of a running machine, {"to": NAME, "count": N, "expires": ...}. {"clones": [{"name",
 * "pid"}]}, or NULL with err, and then there is none of them. */
json_t *machine_clone_running(struct daemon *daemon, const char *name, const json_t *arguments,
                              struct error **err);
/* For that, in launch.c: the copy of the original's worker that is at `talk` gets what the instance's
 * worker has, and is ready. {"pid": N}, or NULL with err. */
json_t *machine_hatch(const struct daemon *daemon, struct instance_draft *draft, int talk,
                      struct error **err);

#endif
