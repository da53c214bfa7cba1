/* SPDX-License-Identifier: MIT
 *
 * What a guest may ask of the NAT's stack, which connects to whatever address it reads in a
 * packet. In front of the stack, because a guest makes its frames itself: leaving an address out of
 * its routes does not keep it from being written into one.
 *
 * Never passed on: what is neither ARP nor IP, and packets to addresses that mean the host itself
 * (127.0.0.0/8, 0.0.0.0/8, ::/96, ::ffff:0:0/96) and have no place on a wire.
 *
 * The network's own addresses (10.0.2.2, fec0::2, and what the stack takes for them) stand for the
 * host's loopback interface, where programs listen that trust everyone on the machine. Unless that
 * is allowed, a guest opens no connection there and sends datagrams only to who has sent it one
 * through a forwarded port. The name server's address leads to the name server alone.
 *
 * Threads: none of its own.
 */
#ifndef TRAPEZE_NET_NAT_FILTER_H
#define TRAPEZE_NET_NAT_FILTER_H

#include "net/frame.h"

#define NET_NAT_PEERS 64

struct net_nat_peer {
    bool v6;
    uint16_t port, guest_port; /* port 0: none */
};

struct net_nat_filter {
    bool host_loopback;                       /* allowed */
    struct net_nat_peer peers[NET_NAT_PEERS]; /* programs here that sent the guest a datagram */
    unsigned next_peer;
};

enum net_nat_verdict {
    NET_NAT_PASS,
    NET_NAT_DROP,
    NET_NAT_REFUSE /* a connection: the guest is to be told (net_nat_refuse) */
};

void net_nat_filter_init(struct net_nat_filter *filter, bool host_loopback);

/* A frame from the guest. */
enum net_nat_verdict net_nat_filter_judge(const struct net_nat_filter *filter,
                                          const struct net_frame *frame);
/* A frame for the guest, from the stack: remembers who may be answered. */
void net_nat_filter_note(struct net_nat_filter *filter, const struct net_frame *frame);

/* Makes the reset that answers a frame with the verdict NET_NAT_REFUSE. */
#define NET_NAT_REFUSAL_BYTES 74
void net_nat_refuse(const struct net_frame *frame, uint8_t out[NET_NAT_REFUSAL_BYTES],
                    struct net_frame *answer);

#endif
