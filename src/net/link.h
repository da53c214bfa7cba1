/* SPDX-License-Identifier: MIT
 *
 * A frame socket: what lies between a NIC in a machine's process and the network backend in
 * another one. A SOCK_SEQPACKET unix socket on which every message is a struct net_message and
 * what belongs to it, most often a frame. It carries frames up to NET_FRAME_MAX bytes with the
 * checksum and segmentation that their sender left undone, as far as the other end has said
 * (NET_MESSAGE_ACCEPTS) that it takes such; otherwise the sending end does the work.
 *
 *     struct net_link link;
 *     net_link_init(&link, fd, 1 << 20);
 *     while (net_link_receive(&link, &frame) == NET_DONE) ...;
 *     if (net_link_send(&link, &offload, iov, count) == NET_AGAIN)   // wait for LOOP_WRITABLE,
 *         ...                                                        // net_link_flush(), again
 *
 * Back-pressure is the socket's: who can wait (a NIC's transmit ring, a TCP window) sends when
 * it is told that there is room; who cannot (a switch) puts, which queues up to `limit` bytes
 * and then drops, as networks do.
 *
 * Both ends are strangers to each other: messages are checked, and one that is wrong is ignored.
 *
 * Threads: none of its own; a struct belongs to one thread.
 */
#ifndef TRAPEZE_NET_LINK_H
#define TRAPEZE_NET_LINK_H

#include <sys/uio.h>

#include "net/frame.h"

enum { NET_MESSAGE_FRAME = 0, NET_MESSAGE_ACCEPTS = 1, NET_MESSAGE_JOIN = 2 };

struct net_message {
    uint8_t kind;
    uint8_t value; /* ACCEPTS: NET_ACCEPT_* */
    struct net_offload offload;
    uint16_t vlan; /* JOIN: the port's VLAN, 0: none */
};

enum net_status {
    NET_DONE,
    NET_AGAIN, /* nothing there, or no room */
    NET_GONE   /* the other end is */
};

/* Most segments of memory that one frame may be sent from. */
#define NET_LINK_IOV_MAX 512

struct net_queued;

struct net_link {
    int fd;
    unsigned accepts; /* what the other end takes: NET_ACCEPT_* */
    uint16_t vlan;    /* what it asked for with JOIN */
    size_t limit;     /* bytes that may wait in the queue */
    size_t waiting;
    uint64_t dropped; /* frames that the queue had no room for */
    struct net_queued *first, **last;
    uint8_t *buffer; /* the frame received last */
    uint8_t *copy;   /* a frame being adapted */
};

/* Borrows the descriptor, makes it non-blocking and its buffers large. */
void net_link_init(struct net_link *link, int fd, size_t limit);
void net_link_clear(struct net_link *link);

/* Takes the whole frame, or nothing of it (NET_AGAIN). The offload has been checked. */
enum net_status net_link_send(struct net_link *link, const struct net_offload *offload,
                              const struct iovec *iov, unsigned count);
/* Sends, queues or drops it. May change frame->data if the other end wants it finished. */
void net_link_put(struct net_link *link, struct net_frame *frame);
/* Sends what is queued. NET_AGAIN: not all of it; wait until the descriptor is writable. */
enum net_status net_link_flush(struct net_link *link);

/* Tells the other end what this one takes, or which VLAN its port shall belong to. */
void net_link_announce(struct net_link *link, unsigned accepts);
bool net_link_join(int fd, uint16_t vlan);

/* The next frame, checked; its memory belongs to the link until the next call. */
enum net_status net_link_receive(struct net_link *link, struct net_frame *frame);

#endif
