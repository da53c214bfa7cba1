/* SPDX-License-Identifier: MIT
 *
 * The process that connects to an NBD server for a machine, which may not: it knows the address,
 * waits at the other end of the machine's socket (block/nbd_socket.h), and makes a connection
 * whenever it is asked to. If the server wants TLS, it goes on to carry each connection's bytes
 * between the server and the machine, which so needs neither keys nor certificates.
 *
 *     trapeze nbd-connect STATUS_FD SOCKET_FD URI
 *
 * It makes the first connection before it serves, so that whoever starts it waits for the server,
 * and not the machine. It says why it cannot start as the backends of NICs do (net/backends.h), and
 * ends when the machine's end of the socket is closed.
 */
#ifndef TRAPEZE_BLOCK_OPEN_CONNECTOR_H
#define TRAPEZE_BLOCK_OPEN_CONNECTOR_H

#include "block/open/nbd_uri.h"

int block_connector_main(int argc, char **argv); /* argv[0] is "nbd-connect" */

/* A connected stream socket on which the server speaks plain NBD; takes a few seconds at most.
 * -1: err. Any thread. */
int block_connect(const struct nbd_uri *uri, struct error **err);
/* The same of a TCP port. */
int block_connect_tcp(const char *host, const char *port, struct error **err);

#endif
