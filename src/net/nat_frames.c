/* SPDX-License-Identifier: MIT
 *
 * See nat_frames.h.
 */
#include "net/nat_frames.h"

#include <string.h>

#include "base/bits.h"

enum { IP4_BYTES = 20, IP6_BYTES = 40, TCP_BYTES = 20 };
enum { IP4_LENGTH = 2, IP4_ID = 4, IP4_FRAGMENT = 6, IP4_CHECKSUM = 10, IP6_LENGTH = 4 };
enum { TCP_SEQUENCE = 4, TCP_ACKNOWLEDGED = 8, TCP_FLAGS = 13, TCP_CHECKSUM = 16, TCP_URGENT = 18 };
enum { TCP_PSH = 0x08, TCP_ACK = 0x10 };

void net_nat_frames_init(struct net_nat_frames *frames, unsigned mtu)
{
    frames->mtu = mtu;
    frames->size = 0;
}

void net_nat_from_guest(struct net_frame *frame)
{
    struct net_tcp tcp;
    if (frame->offload.gso != NET_GSO_NONE && net_find_tcp(frame->data, frame->size, &tcp))
        net_start_tcp_checksum(frame, &tcp); /* the sum of the whole, whatever the driver put */
    if ((frame->offload.flags & NET_NEEDS_CHECKSUM) != 0)
        net_complete_checksum(frame);
}

/* ---- gathering ---- */

/* Whether a frame is a segment with data and nothing that merging would lose. */
static bool is_plain(const struct net_frame *frame, struct net_tcp *tcp)
{
    if (!net_find_tcp(frame->data, frame->size, tcp))
        return false;
    const uint8_t *header = frame->data + tcp->transport;
    return tcp->network == NET_HEADER_BYTES && tcp->end == frame->size &&
           tcp->transport - tcp->network == (tcp->v6 ? IP6_BYTES : IP4_BYTES) &&
           tcp->payload - tcp->transport == TCP_BYTES && tcp->payload < tcp->end &&
           (header[TCP_FLAGS] & ~TCP_PSH) == TCP_ACK;
}

/* The packet is the gathered ones' next: all headers agree but for lengths, sums, the datagram's
 * number, PSH, and the sequence number, which goes on. */
static bool continues(const struct net_nat_frames *frames, const struct net_frame *frame,
                      const struct net_tcp *tcp)
{
    static const struct {
        uint8_t from, to;
    } same[2][4] = {{{0, IP4_LENGTH}, {IP4_FRAGMENT, IP4_CHECKSUM}, {12, IP4_BYTES}, {0, 0}},
                    {{0, IP6_LENGTH}, {6, IP6_BYTES}, {0, 0}, {0, 0}}};
    const uint8_t *a = frames->data, *b = frame->data;
    size_t payload = tcp->end - tcp->payload;
    if (frames->tcp.v6 != tcp->v6 || payload > frames->step ||
        frames->size + payload > UINT16_MAX || memcmp(a, b, NET_HEADER_BYTES) != 0)
        return false;
    a += NET_HEADER_BYTES;
    b += NET_HEADER_BYTES;
    for (unsigned i = 0; i < ARRAY_SIZE(same[0]); i++) {
        uint8_t from = same[tcp->v6][i].from;
        if (memcmp(a + from, b + from, same[tcp->v6][i].to - from) != 0)
            return false;
    }
    a = frames->data + tcp->transport;
    b = frame->data + tcp->transport;
    return memcmp(a, b, TCP_SEQUENCE) == 0 &&
           net_load32(a + TCP_SEQUENCE) + (uint32_t)(frames->size - tcp->payload) ==
               net_load32(b + TCP_SEQUENCE) &&
           memcmp(a + TCP_ACKNOWLEDGED, b + TCP_ACKNOWLEDGED, TCP_FLAGS - TCP_ACKNOWLEDGED) == 0 &&
           memcmp(a + TCP_FLAGS + 1, b + TCP_FLAGS + 1, TCP_CHECKSUM - TCP_FLAGS - 1) == 0 &&
           memcmp(a + TCP_URGENT, b + TCP_URGENT, 2) == 0;
}

static void append(struct net_nat_frames *frames, const struct net_frame *frame,
                   const struct net_tcp *tcp)
{
    size_t payload = tcp->end - tcp->payload;
    memcpy(frames->data + frames->size, frame->data + tcp->payload, payload);
    frames->size += payload;
    frames->data[tcp->transport + TCP_FLAGS] |= frame->data[tcp->transport + TCP_FLAGS];
}

static void start(struct net_nat_frames *frames, const struct net_frame *frame,
                  const struct net_tcp *tcp)
{
    memcpy(frames->data, frame->data, frame->size);
    frames->size = frame->size;
    frames->step = tcp->end - tcp->payload;
    frames->tcp = *tcp;
}

/* True: the segment was the last of a burst, or there is no room for another like it, or it is too
 * small to be one of many. */
static bool is_complete(const struct net_nat_frames *frames)
{
    const struct net_tcp *tcp = &frames->tcp;
    return (frames->data[tcp->transport + TCP_FLAGS] & TCP_PSH) != 0 ||
           (frames->size - tcp->payload) % frames->step != 0 ||
           frames->size + frames->step > UINT16_MAX || frames->step < NET_GSO_SIZE_MIN;
}

void net_nat_flush(struct net_nat_frames *frames, net_emit_fn *emit, void *opaque)
{
    struct net_frame frame = {
        .offload = {.flags = NET_CHECKSUM_VALID}, .data = frames->data, .size = frames->size};
    struct net_tcp *tcp = &frames->tcp;
    if (frames->size == 0)
        return;
    frames->size = 0;
    if (frame.size > tcp->end) {
        uint8_t *ip = frame.data + tcp->network;
        tcp->end = frame.size;
        if (tcp->v6) {
            net_store16(ip + IP6_LENGTH, (unsigned)(frame.size - tcp->transport));
        } else {
            net_store16(ip + IP4_LENGTH, (unsigned)(frame.size - tcp->network));
            memset(ip + IP4_CHECKSUM, 0, 2);
            uint16_t sum = (uint16_t)~net_sum_fold(net_sum(ip, IP4_BYTES, 0));
            memcpy(ip + IP4_CHECKSUM, &sum, 2);
        }
        net_start_tcp_checksum(&frame, tcp);
        frame.offload.gso = tcp->v6 ? NET_GSO_TCP6 : NET_GSO_TCP4;
        frame.offload.gso_size = (uint16_t)frames->step;
    }
    emit(opaque, &frame);
}

void net_nat_to_guest(struct net_nat_frames *frames, const struct net_frame *frame,
                      net_emit_fn *emit, void *opaque)
{
    struct net_tcp tcp;
    if (frame->size > frames->mtu + NET_HEADER_BYTES)
        return;
    bool plain = is_plain(frame, &tcp);
    if (plain && frames->size > 0 && continues(frames, frame, &tcp)) {
        append(frames, frame, &tcp);
    } else {
        net_nat_flush(frames, emit, opaque);
        if (plain)
            start(frames, frame, &tcp);
    }
    if (!plain) {
        struct net_frame whole = *frame;
        whole.offload = (struct net_offload){.flags = NET_CHECKSUM_VALID};
        emit(opaque, &whole);
    } else if (is_complete(frames)) {
        net_nat_flush(frames, emit, opaque);
    }
}
