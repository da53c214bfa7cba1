/* SPDX-License-Identifier: MIT
 *
 * Log files stay small: one that has grown beyond 1 MiB is copied to NAME.1 and emptied, while
 * whoever writes it (O_APPEND) goes on. A few lines in between may be lost.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_LOGFILE_H
#define TRAPEZE_DAEMON_LOGFILE_H

struct daemon;

/* The daemon's own, if its standard error is one, and those of the workers. */
void logfiles_bound(struct daemon *daemon);

#endif
