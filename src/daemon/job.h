/* SPDX-License-Identifier: MIT
 *
 * What would keep the loop waiting (copies, starting processes, anything that syncs a disk) runs
 * in a child process and reports through a pipe. A job ends with the daemon, wherever it is then:
 * what it does to the store is whole or not there (store.h).
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_JOB_H
#define TRAPEZE_DAEMON_JOB_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

struct daemon;
struct error;

/* In the child: a new reference, or NULL with err. It has copies of the daemon's descriptors, but of clients'
 * connections only those whose numbers are in the list "fds" of its arguments. */
typedef json_t *job_fn(struct daemon *daemon, const char *instance, const json_t *arguments,
                       struct error **err);
/* In the daemon. `result` is borrowed; NULL: `error` says why (borrowed). */
typedef void job_done_fn(void *opaque, const json_t *result, const struct error *error);

/* In the child, now and then: how far it is, for whoever asks the daemon. A copy_go_on_fn;
 * `daemon` is the job's. */
bool job_step(void *daemon, off_t done, off_t size);

/* The same for what is no size: members that job_list() adds to the job's row. Steals it. */
void job_tell(struct daemon *daemon, json_t *members);
/* What the job that was started with this `opaque` told last; NULL: nothing, or there is none. Borrowed. */
const json_t *job_told(const struct daemon *daemon, const void *opaque);
/* To the job that was started with this `opaque`: SIGTERM calls off one that heeds it, and kills others,
 * whose done() is called as of any that dies. */
void job_signal(const struct daemon *daemon, const void *opaque, int number);

unsigned job_count(const struct daemon *daemon); /* those that are at work */
/* Those that have said how far they are: schema Job. */
json_t *job_list(const struct daemon *daemon);

void job_start(struct daemon *daemon, const char *instance, const json_t *arguments, job_fn *fn,
               job_done_fn *done, void *opaque);

#endif
