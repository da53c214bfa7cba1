/* SPDX-License-Identifier: MIT
 *
 * The process that connects to programs of the host for a guest's vsock (dev/vsock.h), which may
 * not: it alone knows PATH, to which it adds "_PORT".
 *
 *     trapeze vsock-connect STATUS_FD SOCKET_FD PATH
 *
 * SOCKET_FD is a SOCK_SEQPACKET socket: each question is a struct vsock_question, each answer the
 * same one, with the descriptor of a connected stream socket if somebody listens there. The process
 * ends when the other end is closed, and removes PATH if that is still the socket that it found
 * there at its start.
 */
#ifndef TRAPEZE_NET_VSOCK_CONNECTOR_H
#define TRAPEZE_NET_VSOCK_CONNECTOR_H

#include <stdbool.h>
#include <stdint.h>

struct vsock_question {
    uint32_t number; /* the asker's, for the answer */
    uint32_t port;
};

/* Answers one question. False: there is none, or nobody to answer. `flags`: MSG_DONTWAIT or 0. */
bool net_vsock_answer(int socket, const char *path, int flags);

#endif
