/* SPDX-License-Identifier: MIT
 *
 * A console over HTTP: carries bytes between a client's connection, which has stopped being HTTP
 * (http.h: upgrades), and a stream to an instance's worker. Neither side is waited for:
 * what one does not take fills 64 KiB, and then the other is not read. The end of either is the
 * end of both, after what the guest has said last.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_RELAY_H
#define TRAPEZE_DAEMON_RELAY_H

struct api_call;
struct daemon;

#define RELAY_PROTOCOL "trapeze-console" /* in the Upgrade header */

/* Answers the call; the console's descriptor is taken over. */
void relay_start(struct api_call *call, int console);
/* Ends those that `who` (remote.h) has begun; NULL: all. */
void relay_end_all(struct daemon *daemon, const char *who);

#endif
