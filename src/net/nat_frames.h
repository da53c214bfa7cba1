/* SPDX-License-Identifier: MIT
 *
 * What makes NAT by a small TCP/IP stack fast: frames of it and of the guest carry as much as TCP
 * lets them, not what Ethernet does.
 *
 * A guest's large TCP packet goes into the stack as it is, with its checksum. In the other
 * direction the guest's SYN is made to say that it takes segments of 16 KiB; what the stack then
 * sends goes to the guest as one frame that is marked for segmentation with the size the guest
 * had asked for, or is cut into such before it gets there (net_adapt).
 *
 * Threads: none of its own.
 */
#ifndef TRAPEZE_NET_NAT_FRAMES_H
#define TRAPEZE_NET_NAT_FRAMES_H

#include "net/frame.h"

struct net_nat_frames {
    unsigned mtu;        /* of the guest's network */
    unsigned mss4, mss6; /* the smallest the guest asked for */
};

void net_nat_frames_init(struct net_nat_frames *frames, unsigned mtu);

/* A frame from the guest, checked: makes it one that the stack takes. */
void net_nat_from_guest(struct net_nat_frames *frames, struct net_frame *frame);

/* A frame of the stack for the guest, in memory that may be changed: emits what the guest's
 * network carries. */
void net_nat_to_guest(const struct net_nat_frames *frames, struct net_frame *frame,
                      net_emit_fn *emit, void *opaque);

#endif
