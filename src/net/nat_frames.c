/* SPDX-License-Identifier: MIT
 *
 * See nat_frames.h.
 */
#include "net/nat_frames.h"

#include <string.h>

#include "base/bits.h"

enum { IP4_BYTES = 20, IP6_BYTES = 40, TCP_BYTES = 20 };
enum { TCP_FLAGS = 13, TCP_SYN = 2, TCP_CHECKSUM = 16 };
enum { OPTION_END = 0, OPTION_NOTHING = 1, OPTION_MSS = 2, OPTION_MSS_BYTES = 4 };
enum { IP4_LENGTH = 2, IP4_FRAGMENT = 6, IP4_CHECKSUM = 10, MORE_FRAGMENTS = 0x2000 };

/* What the stack is told that the guest takes in one segment: as much as it sends (net/nat.c). */
#define STACK_MSS 16384u
#define MSS_MIN   216u

void net_nat_frames_init(struct net_nat_frames *frames, unsigned mtu)
{
    *frames = (struct net_nat_frames){
        .mtu = mtu, .mss4 = mtu - IP4_BYTES - TCP_BYTES, .mss6 = mtu - IP6_BYTES - TCP_BYTES};
}

/* The MSS option's value in a SYN; NULL if there is none. */
static uint8_t *find_mss(uint8_t *frame, const struct net_tcp *tcp)
{
    uint8_t *at = frame + tcp->transport + TCP_BYTES, *end = frame + tcp->payload;
    while (at < end && *at != OPTION_END) {
        if (*at == OPTION_NOTHING) {
            at++;
            continue;
        }
        if (end - at < 2 || at[1] < 2 || at[1] > end - at)
            return NULL;
        if (at[0] == OPTION_MSS && at[1] == OPTION_MSS_BYTES)
            return at + 2;
        at += at[1];
    }
    return NULL;
}

static void raise_mss(struct net_nat_frames *frames, struct net_frame *frame,
                      const struct net_tcp *tcp)
{
    uint8_t *option = find_mss(frame->data, tcp);
    unsigned *mss = tcp->v6 ? &frames->mss6 : &frames->mss4;
    if (option == NULL)
        return;
    unsigned asked = net_load16(option);
    if (asked < *mss)
        *mss = asked < MSS_MIN ? MSS_MIN : asked;
    net_store16(option, STACK_MSS);
    net_start_tcp_checksum(frame, tcp);
}

void net_nat_from_guest(struct net_nat_frames *frames, struct net_frame *frame)
{
    struct net_tcp tcp;
    if (net_find_tcp(frame->data, frame->size, &tcp)) {
        if ((frame->data[tcp.transport + TCP_FLAGS] & TCP_SYN) != 0)
            raise_mss(frames, frame, &tcp);
        else if (frame->offload.gso != NET_GSO_NONE)
            net_start_tcp_checksum(frame, &tcp); /* the sum of the whole, whatever the driver put */
    }
    if ((frame->offload.flags & NET_NEEDS_CHECKSUM) != 0)
        net_complete_checksum(frame);
}

/* An IPv4 packet that is no TCP, or a fragment of one, and larger than the MTU: RFC 791, without
 * options. */
static void fragment(const struct net_nat_frames *frames, const struct net_frame *frame,
                     net_emit_fn *emit, void *opaque)
{
    uint8_t out[NET_HEADER_BYTES + 65536];
    const size_t start = NET_HEADER_BYTES + IP4_BYTES;
    size_t step = (frames->mtu - IP4_BYTES) & ~(size_t)7;
    unsigned field = net_load16(frame->data + NET_HEADER_BYTES + IP4_FRAGMENT);
    for (size_t at = start; at < frame->size; at += step) {
        size_t length = frame->size - at < step ? frame->size - at : step;
        bool more = at + length < frame->size || (field & MORE_FRAGMENTS) != 0;
        uint8_t *ip = out + NET_HEADER_BYTES;
        memcpy(out, frame->data, start);
        memcpy(out + start, frame->data + at, length);
        net_store16(ip + IP4_LENGTH, (unsigned)(IP4_BYTES + length));
        net_store16(ip + IP4_FRAGMENT,
                    (more ? MORE_FRAGMENTS : 0u) |
                        (((field & 0x1fff) + (unsigned)((at - start) / 8)) & 0x1fff));
        memset(ip + IP4_CHECKSUM, 0, 2);
        uint16_t sum = (uint16_t)~net_sum_fold(net_sum(ip, IP4_BYTES, 0));
        memcpy(ip + IP4_CHECKSUM, &sum, 2);
        const struct net_frame made = {
            .offload = {.flags = NET_CHECKSUM_VALID}, .data = out, .size = start + length};
        emit(opaque, &made);
    }
}

void net_nat_to_guest(const struct net_nat_frames *frames, struct net_frame *frame,
                      net_emit_fn *emit, void *opaque)
{
    struct net_tcp tcp;
    frame->offload = (struct net_offload){.flags = NET_CHECKSUM_VALID};
    if (frame->size <= frames->mtu + NET_HEADER_BYTES) {
        emit(opaque, frame);
    } else if (net_find_tcp(frame->data, frame->size, &tcp)) {
        net_start_tcp_checksum(frame, &tcp);
        frame->offload.gso = tcp.v6 ? NET_GSO_TCP6 : NET_GSO_TCP4;
        frame->offload.gso_size = (uint16_t)(tcp.v6 ? frames->mss6 : frames->mss4);
        emit(opaque, frame);
    } else if (net_load16(frame->data + 12) == 0x0800 && frame->data[NET_HEADER_BYTES] == 0x45) {
        fragment(frames, frame, emit, opaque);
    } /* else: larger than the network carries, and nobody may cut it: lost */
}
