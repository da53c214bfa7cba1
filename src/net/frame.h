/* SPDX-License-Identifier: MIT
 *
 * An Ethernet frame and the work that its sender left to others (checksum, segmentation): what
 * NICs, frame sockets (net/link.h) and backends hand to each other.
 *
 * The terms and values are those of virtio's header (virtio 1.2, 5.1.6), which Linux's tap
 * devices share, but in host byte order. Whoever takes a frame from a stranger calls
 * net_frame_check() once; from then on the offsets lie inside the frame.
 *
 * Threads: none of its own.
 */
#ifndef TRAPEZE_NET_FRAME_H
#define TRAPEZE_NET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_MAC_BYTES    6
#define NET_HEADER_BYTES 14 /* Ethernet, untagged */
/* The largest frame: an IP packet of 65,535 bytes behind a tagged Ethernet header. */
#define NET_FRAME_MAX 65553u

enum { NET_NEEDS_CHECKSUM = 1, NET_CHECKSUM_VALID = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCP4 = 1, NET_GSO_TCP6 = 4 };
/* The smallest gso_size: Linux's smallest MSS; less would make one frame thousands. */
#define NET_GSO_SIZE_MIN 48

struct net_offload {
    uint8_t flags;
    uint8_t gso;                              /* NET_GSO_*: to be cut into TCP segments */
    uint16_t header_bytes;                    /* a hint: all headers of a frame to be cut */
    uint16_t gso_size;                        /* TCP payload of one segment */
    uint16_t checksum_start, checksum_offset; /* NET_NEEDS_CHECKSUM: sum from `start` to the end,
                                                 stored at start + offset */
};

struct net_frame {
    struct net_offload offload;
    uint8_t *data;
    size_t size;
};

/* What an end of a link can take besides finished frames. */
enum { NET_ACCEPT_CHECKSUM = 1, NET_ACCEPT_TCP4 = 2, NET_ACCEPT_TCP6 = 4 };

/* Whether a frame of `size` bytes can be what the offload says. */
bool net_offload_check(const struct net_offload *offload, size_t size);

/* The Internet checksum's running sum over data; net_sum_fold() makes 16 bits of it. */
uint64_t net_sum(const void *data, size_t size, uint64_t sum);
uint16_t net_sum_fold(uint64_t sum);

/* Stores the checksum that the sender left out. */
void net_complete_checksum(struct net_frame *frame);

typedef void net_emit_fn(void *opaque, const struct net_frame *frame);

/* Turns a frame into what an end with `accepts` (NET_ACCEPT_*) takes: itself, itself with a
 * checksum, or segments, each handed to emit() in order. Changes frame->data. A frame to be cut
 * that is no plain TCP packet is dropped. Returns the number of frames emitted. */
unsigned net_adapt(struct net_frame *frame, unsigned accepts, net_emit_fn *emit, void *opaque);

/* Where a frame's network header starts, behind VLAN tags, and its EtherType (host order);
 * 0: the frame is too short. */
size_t net_network_offset(const uint8_t *frame, size_t size, uint16_t *ethertype);

/* A number for the flow that a frame belongs to, the same in both directions: from the addresses
 * and, unless it is a fragment, the ports of TCP and UDP. 0: it is no IP packet. The beginning of
 * the frame is enough (NET_FLOW_BYTES). */
#define NET_FLOW_BYTES 80
uint32_t net_flow(const uint8_t *frame, size_t size);

/* A frame's TCP segment: offsets of its headers and payload. False: it is none, or a fragment. */
struct net_tcp {
    size_t network, transport, payload; /* offsets */
    size_t end;                         /* of the IP packet; padding may follow */
    bool v6;
};
bool net_find_tcp(const uint8_t *frame, size_t size, struct net_tcp *tcp);

/* Puts the sum of TCP's pseudo-header where the checksum will be, and says in `offload` that it
 * is to be completed. */
void net_start_tcp_checksum(struct net_frame *frame, const struct net_tcp *tcp);

static inline uint16_t net_load16(const uint8_t *from)
{
    return (uint16_t)(from[0] << 8 | from[1]);
}

static inline uint32_t net_load32(const uint8_t *from)
{
    return (uint32_t)net_load16(from) << 16 | net_load16(from + 2);
}

static inline void net_store16(uint8_t *to, unsigned value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

static inline void net_store32(uint8_t *to, uint32_t value)
{
    net_store16(to, value >> 16);
    net_store16(to + 2, value & 0xffff);
}

#endif
