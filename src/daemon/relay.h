/* SPDX-License-Identifier: MIT
 *
 * A console, or a connection to a guest's vsock, over HTTP: carries bytes between a client's connection, which has stopped being HTTP
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

/* In the Upgrade header. */
#define RELAY_CONSOLE "trapeze-console"
#define RELAY_VSOCK   "trapeze-vsock"

/* Answers the call, going on with the protocol; the stream's descriptor is taken over. */
void relay_start(struct api_call *call, const char *protocol, int console);
/* Ends those that `who` (remote.h) has begun; NULL: all. */
void relay_end_all(struct daemon *daemon, const char *who);

#endif
