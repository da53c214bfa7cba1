/* SPDX-License-Identifier: MIT
 *
 * What makes NAT by a small TCP/IP stack fast: frames between it and the guest carry as much as TCP
 * lets them, not what Ethernet does.
 *
 * A guest's large TCP packet goes into the stack as it is, with its checksum. In the other
 * direction consecutive segments of one connection are gathered into one frame that is marked for
 * segmentation; net_adapt() cuts it again for a guest that takes no such frames. The stack itself
 * sends segments of the size that the guest asked for: one that believes in larger ones waits for
 * seconds (its persist timer) whenever the guest's window has room for small segments only, as it
 * has after the guest's kernel ran short of buffers.
 *
 *     net_nat_to_guest(&frames, &frame, emit, opaque);   // for each packet of a turn
 *     net_nat_flush(&frames, emit, opaque);              // before waiting
 *
 * Threads: none of its own.
 */
#ifndef TRAPEZE_NET_NAT_FRAMES_H
#define TRAPEZE_NET_NAT_FRAMES_H

#include "net/frame.h"

struct net_nat_frames {
    unsigned mtu; /* of the guest's network */
    /* What is being gathered: */
    size_t size; /* 0: nothing */
    size_t step; /* payload of each of its segments but the last */
    struct net_tcp tcp;
    uint8_t data[NET_FRAME_MAX];
};

void net_nat_frames_init(struct net_nat_frames *frames, unsigned mtu);

/* A frame from the guest, checked: makes it one that the stack takes. */
void net_nat_from_guest(struct net_frame *frame);

/* A frame of the stack for the guest, complete: gathers it, or emits it behind what was. What the
 * guest's network cannot carry is lost. */
void net_nat_to_guest(struct net_nat_frames *frames, const struct net_frame *frame,
                      net_emit_fn *emit, void *opaque);
void net_nat_flush(struct net_nat_frames *frames, net_emit_fn *emit, void *opaque);

#endif
