/* SPDX-License-Identifier: MIT
 *
 * Checksums and TCP segmentation in software, for the end of a link that wants finished frames.
 *
 * Everything here works on a private copy of the frame: no guest changes it meanwhile. Headers
 * are read with bounds checks even so, because what they say is the guest's word.
 */
#include "net/frame.h"

#include <string.h>

#include "base/bits.h"

enum {
    ETHERTYPE_IP4 = 0x0800,
    ETHERTYPE_IP6 = 0x86dd,
    ETHERTYPE_VLAN = 0x8100,
    ETHERTYPE_QINQ = 0x88a8
};
enum {
    IP4_BYTES = 20,
    IP6_BYTES = 40,
    TCP_BYTES = 20,
    TCP_HEADER_MAX = 60,
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17
};
enum {
    IP4_LENGTH = 2,
    IP4_ID = 4,
    IP4_FRAGMENT = 6,
    IP4_PROTOCOL = 9,
    IP4_CHECKSUM = 10,
    IP4_SOURCE = 12
};
enum { IP6_LENGTH = 4, IP6_NEXT = 6, IP6_SOURCE = 8 };
enum { TCP_SEQUENCE = 4, TCP_OFFSET = 12, TCP_FLAGS = 13, TCP_CHECKSUM = 16 };
enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

/* Ethernet with two tags, IP and TCP headers of the largest size. */
#define SEGMENT_HEADER_MAX (NET_HEADER_BYTES + 8 + 60 + TCP_HEADER_MAX)

bool net_offload_check(const struct net_offload *offload, size_t size)
{
    bool needs = (offload->flags & NET_NEEDS_CHECKSUM) != 0;
    if (size < NET_HEADER_BYTES || size > NET_FRAME_MAX)
        return false;
    if (needs && (size_t)offload->checksum_start + offload->checksum_offset + 2 > size)
        return false;
    if (offload->gso == NET_GSO_NONE)
        return true;
    return (offload->gso == NET_GSO_TCP4 || offload->gso == NET_GSO_TCP6) && needs &&
           offload->gso_size >= NET_GSO_SIZE_MIN;
}

/* --- checksums (RFC 1071) --- */

uint64_t net_sum(const void *data, size_t size, uint64_t sum)
{
    const uint8_t *at = data;
    for (; size >= 8; at += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        sum += word;
        sum += sum < word;
    }
    if (size > 0) {
        uint64_t word = 0;
        memcpy(&word, at, size);
        sum += word;
        sum += sum < word;
    }
    return sum;
}

uint16_t net_sum_fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum; /* in memory order: store it with memcpy */
}

static void store_sum(uint8_t *to, uint64_t sum, bool complement)
{
    uint16_t folded = net_sum_fold(sum);
    if (complement)
        folded = (uint16_t)~folded;
    memcpy(to, &folded, 2);
}

void net_complete_checksum(struct net_frame *frame)
{
    const struct net_offload *offload = &frame->offload;
    uint8_t *start = frame->data + offload->checksum_start;
    store_sum(start + offload->checksum_offset,
              net_sum(start, frame->size - offload->checksum_start, 0), true);
    frame->offload = (struct net_offload){.flags = NET_CHECKSUM_VALID};
}

static uint64_t pseudo_sum(const uint8_t *frame, const struct net_tcp *tcp, size_t length)
{
    uint8_t tail[8] = {0};
    net_store32(tail, (uint32_t)length);
    tail[7] = PROTOCOL_TCP;
    const uint8_t *ip = frame + tcp->network;
    uint64_t sum = net_sum(tail, sizeof(tail), 0);
    return tcp->v6 ? net_sum(ip + IP6_SOURCE, 32, sum) : net_sum(ip + IP4_SOURCE, 8, sum);
}

void net_start_tcp_checksum(struct net_frame *frame, const struct net_tcp *tcp)
{
    store_sum(frame->data + tcp->transport + TCP_CHECKSUM,
              pseudo_sum(frame->data, tcp, tcp->end - tcp->transport), false);
    frame->offload = (struct net_offload){
        .flags = NET_NEEDS_CHECKSUM,
        .header_bytes = (uint16_t)tcp->payload,
        .checksum_start = (uint16_t)tcp->transport,
        .checksum_offset = TCP_CHECKSUM,
    };
}

/* --- headers --- */

size_t net_network_offset(const uint8_t *frame, size_t size, uint16_t *ethertype)
{
    size_t at = NET_HEADER_BYTES;
    *ethertype = 0;
    if (size < at)
        return 0;
    *ethertype = net_load16(frame + at - 2);
    for (unsigned tags = 0;
         tags < 2 && (*ethertype == ETHERTYPE_VLAN || *ethertype == ETHERTYPE_QINQ); tags++) {
        at += 4;
        if (size < at)
            return 0;
        *ethertype = net_load16(frame + at - 2);
    }
    return at;
}

static bool find_ip4(const uint8_t *frame, size_t size, struct net_tcp *tcp)
{
    const uint8_t *ip = frame + tcp->network;
    if (size < tcp->network + IP4_BYTES)
        return false;
    size_t header = (ip[0] & 15u) * 4u, length = net_load16(ip + IP4_LENGTH);
    if (ip[0] >> 4 != 4 || header < IP4_BYTES || ip[IP4_PROTOCOL] != PROTOCOL_TCP ||
        (net_load16(ip + IP4_FRAGMENT) & 0x3fff) != 0)
        return false;
    tcp->transport = tcp->network + header;
    tcp->end = tcp->network + length;
    return true;
}

static bool find_ip6(const uint8_t *frame, size_t size, struct net_tcp *tcp)
{
    const uint8_t *ip = frame + tcp->network;
    if (size < tcp->network + IP6_BYTES || ip[0] >> 4 != 6 || ip[IP6_NEXT] != PROTOCOL_TCP)
        return false;
    tcp->v6 = true;
    tcp->transport = tcp->network + IP6_BYTES;
    tcp->end = tcp->transport + net_load16(ip + IP6_LENGTH);
    return true;
}

/* Both ends of a flow, in either order, give the same. */
static uint32_t flow_of(const uint8_t *from, const uint8_t *to, size_t bytes, const uint8_t *ports)
{
    uint32_t mix = ports != NULL ? net_load16(ports) ^ net_load16(ports + 2) : 0;
    for (size_t i = 0; i < bytes; i += 4)
        mix = (mix ^ net_load32(from + i) ^ net_load32(to + i)) * UINT32_C(0x9e3779b1);
    mix ^= mix >> 15;
    return mix != 0 ? mix : 1;
}

static bool has_ports(uint8_t protocol)
{
    return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP;
}

uint32_t net_flow(const uint8_t *frame, size_t size)
{
    uint16_t type;
    size_t at = net_network_offset(frame, size, &type);
    const uint8_t *ip = frame + at;
    if (at == 0)
        return 0;
    size_t left = size - at;
    if (type == ETHERTYPE_IP4 && left >= 20) {
        size_t header = 4u * (ip[0] & 15u);
        bool fragment = (net_load16(ip + 6) & 0x3fff) != 0;
        bool ports = !fragment && has_ports(ip[9]) && header >= 20 && left >= header + 4;
        return flow_of(ip + 12, ip + 16, 4, ports ? ip + header : NULL);
    }
    if (type == ETHERTYPE_IP6 && left >= 40) {
        bool ports = has_ports(ip[6]) && left >= 44;
        return flow_of(ip + 8, ip + 24, 16, ports ? ip + 40 : NULL);
    }
    return 0;
}

bool net_find_tcp(const uint8_t *frame, size_t size, struct net_tcp *tcp)
{
    uint16_t ethertype;
    *tcp = (struct net_tcp){.network = net_network_offset(frame, size, &ethertype)};
    if (tcp->network == 0 || (ethertype != ETHERTYPE_IP4 && ethertype != ETHERTYPE_IP6) ||
        !(ethertype == ETHERTYPE_IP4 ? find_ip4(frame, size, tcp) : find_ip6(frame, size, tcp)))
        return false;
    if (tcp->end > size || tcp->end < tcp->transport + TCP_BYTES)
        return false;
    size_t header = (size_t)(frame[tcp->transport + TCP_OFFSET] >> 4) * 4;
    tcp->payload = tcp->transport + header;
    return header >= TCP_BYTES && tcp->payload <= tcp->end;
}

/* --- segmentation --- */

/* One segment: headers copied from the frame, then made those of `length` bytes at `offset` of
 * its payload. */
static void make_segment(uint8_t *out, const struct net_frame *frame, const struct net_tcp *tcp,
                         size_t offset, size_t length, unsigned number)
{
    bool last = tcp->payload + offset + length == tcp->end;
    size_t packet = tcp->payload - tcp->network + length;
    memcpy(out, frame->data, tcp->payload);
    memcpy(out + tcp->payload, frame->data + tcp->payload + offset, length);
    uint8_t *ip = out + tcp->network, *header = out + tcp->transport;
    if (tcp->v6) {
        net_store16(ip + IP6_LENGTH, (unsigned)(packet - IP6_BYTES));
    } else {
        net_store16(ip + IP4_LENGTH, (unsigned)packet);
        net_store16(ip + IP4_ID, net_load16(ip + IP4_ID) + number);
        memset(ip + IP4_CHECKSUM, 0, 2);
        store_sum(ip + IP4_CHECKSUM, net_sum(ip, tcp->transport - tcp->network, 0), true);
    }
    net_store32(header + TCP_SEQUENCE, net_load32(header + TCP_SEQUENCE) + (uint32_t)offset);
    if (!last)
        header[TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
    if (offset > 0)
        header[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
}

static unsigned segment(const struct net_frame *frame, net_emit_fn *emit, void *opaque)
{
    struct net_tcp tcp;
    uint8_t out[SEGMENT_HEADER_MAX + UINT16_MAX];
    if (!net_find_tcp(frame->data, frame->size, &tcp) ||
        tcp.v6 != (frame->offload.gso == NET_GSO_TCP6))
        return 0;
    unsigned number = 0;
    size_t offset = 0, total = tcp.end - tcp.payload;
    do {
        size_t length = total - offset;
        if (length > frame->offload.gso_size)
            length = frame->offload.gso_size;
        make_segment(out, frame, &tcp, offset, length, number++);
        struct net_frame made = {.data = out, .size = tcp.payload + length};
        struct net_tcp place = tcp;
        place.end = made.size;
        net_start_tcp_checksum(&made, &place);
        net_complete_checksum(&made);
        emit(opaque, &made);
        offset += length;
    } while (offset < total);
    return number;
}

unsigned net_adapt(struct net_frame *frame, unsigned accepts, net_emit_fn *emit, void *opaque)
{
    struct net_offload *offload = &frame->offload;
    unsigned wanted = offload->gso == NET_GSO_TCP4   ? NET_ACCEPT_TCP4
                      : offload->gso == NET_GSO_TCP6 ? NET_ACCEPT_TCP6
                                                     : 0;
    if ((accepts & wanted) != wanted)
        return segment(frame, emit, opaque);
    if ((offload->flags & NET_NEEDS_CHECKSUM) != 0 && (accepts & NET_ACCEPT_CHECKSUM) == 0)
        net_complete_checksum(frame);
    emit(opaque, frame);
    return 1;
}
