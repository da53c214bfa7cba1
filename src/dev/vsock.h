/* SPDX-License-Identifier: MIT
 *
 * The host's end of a guest's vsock: streams (virtio 1.2, 5.10) become streams of unix sockets.
 * A program of the host that connects to PATH and writes "CONNECT 1234\n" reaches the guest's
 * port 1234, which answers "OK PORT\n" with the port it was given here; a guest that connects to
 * port 5000 of the host (CID 2) reaches whoever listens on PATH_5000. Names are others' business:
 * a process at the other end of a socket connects when it is asked to (net/vsock_connector.h).
 *
 *     guest ── virtio-vsock ── vsock ═══ unix sockets ═══ programs of the host
 *
 * The device hands over what the guest sends and fetches what there is for it. Data for the guest
 * is read from its socket straight into the guest's buffer, as far as the guest's credit goes;
 * data from the guest goes straight to the socket, what that does not take waits in a buffer that
 * the credit we give is for. So a peer that does not read stops the other one, and nothing else.
 *
 * Guest and clients are strangers: connections, their buffers and resets that wait are bounded; a
 * client that does not say what it wants gives way to newer ones.
 *
 * Threads: everything on the loop's thread; no locks of its own.
 */
#ifndef TRAPEZE_DEV_VSOCK_H
#define TRAPEZE_DEV_VSOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct error;
struct loop;
struct vsock;

#define VSOCK_HOST_CID    2u
#define VSOCK_TYPE_STREAM 1u
#define VSOCK_BUFFER      (128u * 1024u) /* bytes of one connection from the guest */
#define VSOCK_CONNECTIONS 256u
#define VSOCK_STRANGERS   32u /* clients that have not yet said what they want */
#define VSOCK_RESETS      64u /* answers to what belongs to no connection */

enum vsock_op {
    VSOCK_REQUEST = 1,
    VSOCK_RESPONSE,
    VSOCK_RST,
    VSOCK_SHUTDOWN,
    VSOCK_RW,
    VSOCK_CREDIT_UPDATE,
    VSOCK_CREDIT_REQUEST
};
/* Flags of VSOCK_SHUTDOWN: the sender of it will not receive, or send, any more. */
enum { VSOCK_NO_RECEIVE = 1, VSOCK_NO_SEND = 2, VSOCK_NEITHER = 3 };

/* A packet's header (5.10.6), in host order. */
struct vsock_packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, length;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
};

/* `wanted(user)`: there is something to fetch, or to drop if no guest listens. May be called
 * inside of nothing but the loop. `listen_fd`: a listening stream socket; `connector_fd`: that of
 * who connects. Both are taken over, whatever comes of it; -1: nobody reaches the guest, or it
 * reaches nobody. */
struct vsock *vsock_new(int listen_fd, int connector_fd, uint64_t guest_cid, struct loop *loop,
                        void (*wanted)(void *user), void *user, struct error **err);
void vsock_free(struct vsock *vsock); /* NULL is fine */

/* False: fetch first, a packet could need an answer that there is no room for. */
bool vsock_can_send(const struct vsock *vsock);
/* The guest sends; `iov` holds packet->length bytes of data and may be changed. */
void vsock_send(struct vsock *vsock, const struct vsock_packet *packet, struct iovec *iov,
                unsigned count);

bool vsock_has_more(const struct vsock *vsock); /* a fetch may find something */
/* The next packet for the guest, its data in iov, which has room for `room` (> 0) bytes and may
 * be changed. False: there is none. */
bool vsock_fetch(struct vsock *vsock, struct vsock_packet *packet, struct iovec *iov,
                 unsigned count, uint64_t room);

/* The guest has forgotten all connections: so do we, and clients see them end. */
void vsock_drop(struct vsock *vsock);

#endif
