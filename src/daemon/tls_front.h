/* SPDX-License-Identifier: MIT
 *
 * TLS in front of the HTTP server, on the daemon's loop: accepts connections, shakes hands, and
 * gives the server one end of a socket pair for each, at whose other end the bytes are decrypted.
 * (libmicrohttpd has TLS, too; but version 0.9.75 loses sight of upgraded connections that are busy
 * both ways, and its time limits begin anew with every byte.)
 *
 * A client has 10 s for the handshake, and 60 s to take some of what waits for it; there are at
 * most 64, 16 from one address.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_TLS_FRONT_H
#define TRAPEZE_DAEMON_TLS_FRONT_H

#include <stdbool.h>
#include <sys/socket.h>

struct error;
struct loop;
struct remote;
struct tls_front;

/* Takes the descriptor over, where a client of this address speaks plain HTTP. */
typedef void tls_front_fn(void *opaque, int fd, const struct sockaddr *from, socklen_t size);

/* Takes the listening socket over. NULL: err. */
struct tls_front *tls_front_new(struct loop *loop, struct remote *remote, int listen_fd,
                                tls_front_fn *fn, void *opaque, struct error **err);
void tls_front_free(struct tls_front *front); /* sends what it can at once; NULL is fine */
void tls_front_tick(struct tls_front *front); /* once a second; NULL is fine */

/* Whose certificate the client of this descriptor has shown (remote.h: who); NULL: none of ours. */
const char *tls_front_certificate(const struct tls_front *front, int fd);

#endif
