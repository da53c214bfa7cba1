/* SPDX-License-Identifier: MIT
 *
 * A NIC's end of a link: what every NIC needs of its network, whatever the guest sees of it. It
 * knows nothing but the frame socket it is given, counts, limits the rate, captures, and has a
 * cable that can be pulled.
 *
 *     guest ── NIC device ── net_port ═══ frame socket ═══ backend process
 *
 * The link is up while the other end exists and nobody has set it down. What a backend sends
 * while the NIC has no room waits in the socket; what it sends while the link is down is lost.
 *
 * Threads: everything on the loop's thread. The user's functions are called there too, without
 * any lock, and must not free the port.
 */
#ifndef TRAPEZE_NET_PORT_H
#define TRAPEZE_NET_PORT_H

#include <sys/uio.h>

#include "net/frame.h"

struct error;
struct log;
struct loop;
struct net_capture;
struct net_port;
struct vclock;

struct net_port_user {
    /* False: the NIC has no room; the frame is kept and offered again after
     * net_port_resume(). A NIC that is not in use takes and forgets it. */
    bool (*receive)(void *user, const struct net_frame *frame);
    void (*received)(void *user); /* no more frames for now: a good time for an interrupt */
    void (*writable)(void *user); /* net_port_send() would work again */
    void (*link_changed)(void *user, bool up);
    /* The machine goes on somewhere else: which address is its, and (`first` of several times) that
     * the guest may have to say so itself. */
    void (*announce)(void *user, bool first, uint8_t mac[NET_MAC_BYTES]);
};

struct net_port_stats {
    uint64_t sent_frames, sent_bytes, received_frames, received_bytes;
};

/* Takes the descriptor over. `name`: of the NIC, for messages. */
struct net_port *net_port_new(int fd, const char *name, struct loop *loop, struct vclock *clock,
                              struct log *log, struct error **err);
void net_port_free(struct net_port *port); /* NULL is fine */

/* One user at a time, NULL: none. */
void net_port_attach(struct net_port *port, const struct net_port_user *user, void *opaque);

/* What the guest's driver takes (NET_ACCEPT_*). */
void net_port_accept(struct net_port *port, unsigned accepts);

/* False: nothing was taken, writable() will be called. A frame for a link that is down counts
 * as sent and is lost. The offload has been checked. At most NET_LINK_IOV_MAX segments. */
bool net_port_send(struct net_port *port, const struct net_offload *offload,
                   const struct iovec *iov, unsigned count);
/* After receive() returned false: there is room now. */
void net_port_resume(struct net_port *port);

/* Tells the network where the NIC's address is from now on, a few times: switches then send there
 * what they have learnt to send elsewhere. */
void net_port_announce(struct net_port *port);

bool net_port_link(const struct net_port *port);
void net_port_set_link(struct net_port *port, bool up); /* the cable, not the other end */
/* Bytes per second of each direction, 0: no limit. */
void net_port_set_rate(struct net_port *port, uint64_t rate);
/* Besides, and of each direction by itself: bytes and frames per second, 0: no limit. A large frame
 * that is cut elsewhere is one. */
struct net_limits {
    uint64_t bytes, frames;
};
void net_port_set_limits(struct net_port *port, const struct net_limits *send,
                         const struct net_limits *receive);
void net_port_get_limits(const struct net_port *port, struct net_limits *send,
                         struct net_limits *receive);
/* Takes the capture over. */
void net_port_set_capture(struct net_port *port, struct net_capture *capture);
struct net_port_stats net_port_stats(const struct net_port *port);

#endif
