/* SPDX-License-Identifier: MIT
 *
 * Log files stay small: one that has grown beyond 1 MiB is copied to NAME.1 and emptied, while
 * whoever writes it (O_APPEND) goes on. A few lines in between may be lost.
 *
 * Where events go to the journal, so do workers' lines. They do so through the file, as a worker
 * that was taken over is not to have the journal's socket, and no more than 20 in a second.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_LOGFILE_H
#define TRAPEZE_DAEMON_LOGFILE_H

#include <sys/types.h>

struct daemon;

/* How far a log was read. */
struct log_place {
    off_t at;
};
/* Its end. */
void logfile_skip(int folder, const char *name, struct log_place *place);
/* Calls each() for the whole lines that have come since, without what could steer a terminal;
 * `left_out`: how many bytes in front of this line were too many. */
typedef void logfile_line_fn(void *opaque, const char *line, long long left_out);
void logfile_follow(int folder, const char *name, struct log_place *place, logfile_line_fn *each,
                    void *opaque);
/* What the instance's worker has said since, to the journal. */
void logfile_journal(struct daemon *daemon, const char *instance, struct log_place *place);

/* The daemon's own, if its standard error is one, and those of the workers. */
void logfiles_bound(struct daemon *daemon);

#endif
