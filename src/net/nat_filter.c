/* SPDX-License-Identifier: MIT
 *
 * See nat_filter.h. Frames are read as the stack reads them: an untagged Ethernet header, IPv4 with
 * options, IPv6 without extension headers (it knows none). A fragment to an address that is guarded
 * is dropped, because a later one may rewrite the ports that an earlier one showed.
 */
#include "net/nat_filter.h"

#include <assert.h>
#include <string.h>

enum { ETHERTYPE_IP4 = 0x0800, ETHERTYPE_ARP = 0x0806, ETHERTYPE_IP6 = 0x86dd };
enum { IP4_BYTES = 20, IP6_BYTES = 40, UDP_BYTES = 8, TCP_BYTES = 20 };
enum {
    IP4_LENGTH = 2,
    IP4_FRAGMENT = 6,
    IP4_HOPS = 8,
    IP4_PROTOCOL = 9,
    IP4_CHECKSUM = 10,
    IP4_FROM = 12,
    IP4_TO = 16
};
enum { IP6_LENGTH = 4, IP6_NEXT = 6, IP6_HOPS = 7, IP6_FROM = 8, IP6_TO = 24 };
enum { PROTOCOL_TCP = 6, PROTOCOL_UDP = 17 };
enum { TCP_SEQUENCE = 4, TCP_ACKNOWLEDGED = 8, TCP_OFFSET = 12, TCP_FLAGS = 13 };
enum { TCP_SYN = 0x02, TCP_RST = 0x04, TCP_ACK = 0x10, HOPS = 64 };
enum { PORT_DNS = 53, PORT_DHCP4 = 67, PORT_DHCP6 = 547 };

/* Whose address a packet carries. */
enum place { PLACE_OUTSIDE, PLACE_HOST, PLACE_SERVER, PLACE_NOWHERE };

struct packet {
    bool v6, fragment;
    uint8_t protocol;
    size_t network, transport; /* offsets */
};

static bool starts(const uint8_t *address, const char *prefix, size_t size)
{
    return memcmp(address, prefix, size) == 0;
}

static enum place place4(const uint8_t *address)
{
    if (address[0] == 127 || address[0] == 0)
        return PLACE_NOWHERE;
    if (starts(address, "\xff\xff\xff\xff", 4))
        return PLACE_HOST;
    if (!starts(address, "\x0a\x00\x02", 3))
        return PLACE_OUTSIDE;
    return address[3] == 3 ? PLACE_SERVER : PLACE_HOST;
}

static enum place place6(const uint8_t *address)
{
    static const char zeros[16] = {0};
    if (starts(address, zeros, 12) ||
        (starts(address, zeros, 10) && starts(address + 10, "\xff\xff", 2)))
        return PLACE_NOWHERE;
    if (address[0] == 0xff) /* of the groups the stack takes all nodes for the host */
        return PLACE_HOST;
    if (!starts(address, "\xfe\xc0\0\0\0\0\0\0", 8))
        return PLACE_OUTSIDE;
    return starts(address + 8, "\0\0\0\0\0\0\0\x03", 8) ? PLACE_SERVER : PLACE_HOST;
}

/* False: too short or of another version than its Ethernet header says. */
static bool find_packet(const struct net_frame *frame, bool v6, struct packet *packet)
{
    const uint8_t *ip = frame->data + NET_HEADER_BYTES;
    *packet = (struct packet){.v6 = v6, .network = NET_HEADER_BYTES};
    size_t room = frame->size - NET_HEADER_BYTES, header = v6 ? IP6_BYTES : IP4_BYTES;
    if (room < header || ip[0] >> 4 != (v6 ? 6 : 4))
        return false;
    if (v6) {
        packet->protocol = ip[IP6_NEXT];
    } else {
        header = (ip[0] & 15u) * 4u;
        packet->protocol = ip[IP4_PROTOCOL];
        packet->fragment = (net_load16(ip + IP4_FRAGMENT) & 0x3fff) != 0;
    }
    packet->transport = packet->network + header;
    size_t least = packet->protocol == PROTOCOL_TCP   ? TCP_BYTES
                   : packet->protocol == PROTOCOL_UDP ? UDP_BYTES
                                                      : 0;
    return header >= IP4_BYTES && room >= header && (packet->fragment || room - header >= least);
}

static bool knows(const struct net_nat_filter *filter, const struct net_nat_peer *wanted)
{
    for (unsigned i = 0; i < NET_NAT_PEERS; i++) {
        const struct net_nat_peer *peer = &filter->peers[i];
        if (peer->port == wanted->port && peer->guest_port == wanted->guest_port &&
            peer->v6 == wanted->v6)
            return wanted->port != 0;
    }
    return false;
}

/* Where the stack's own DHCP servers are. A datagram to their port at another of its addresses goes
 * on to the host, like any. */
static bool is_dhcp(const struct packet *packet, const uint8_t *to, uint16_t port)
{
    if (packet->v6)
        return port == PORT_DHCP6 && (starts(to, "\xfe\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02", 16) ||
                                      starts(to, "\xff\x02\0\0\0\0\0\0\0\0\0\0\0\x01\0\x02", 16));
    return port == PORT_DHCP4 &&
           (starts(to, "\x0a\x00\x02\x02", 4) || starts(to, "\xff\xff\xff\xff", 4));
}

static bool port_is_open(const struct net_nat_filter *filter, const struct packet *packet,
                         enum place place, const uint8_t *to, const uint8_t *ports)
{
    const struct net_nat_peer peer = {
        .v6 = packet->v6, .port = net_load16(ports + 2), .guest_port = net_load16(ports)};
    if (place == PLACE_SERVER)
        return peer.port == PORT_DNS;
    return packet->protocol == PROTOCOL_UDP &&
           (is_dhcp(packet, to, peer.port) || knows(filter, &peer));
}

static enum net_nat_verdict judge_packet(const struct net_nat_filter *filter,
                                         const struct net_frame *frame, bool v6)
{
    struct packet packet;
    if (!find_packet(frame, v6, &packet))
        return NET_NAT_DROP;
    const uint8_t *ip = frame->data + packet.network, *ports = frame->data + packet.transport;
    const uint8_t *to = ip + (v6 ? IP6_TO : IP4_TO);
    enum place place = v6 ? place6(to) : place4(to);
    if (place == PLACE_NOWHERE)
        return NET_NAT_DROP;
    if (place == PLACE_OUTSIDE || (place == PLACE_HOST && filter->host_loopback) ||
        (packet.protocol != PROTOCOL_TCP && packet.protocol != PROTOCOL_UDP))
        return NET_NAT_PASS;
    if (packet.fragment)
        return NET_NAT_DROP;
    if (port_is_open(filter, &packet, place, to, ports))
        return NET_NAT_PASS;
    if (packet.protocol == PROTOCOL_UDP)
        return NET_NAT_DROP;
    /* Connections that exist were opened from outside. */
    return (ports[TCP_FLAGS] & (TCP_SYN | TCP_ACK)) == TCP_SYN ? NET_NAT_REFUSE : NET_NAT_PASS;
}

void net_nat_filter_init(struct net_nat_filter *filter, bool host_loopback)
{
    *filter = (struct net_nat_filter){.host_loopback = host_loopback};
}

enum net_nat_verdict net_nat_filter_judge(const struct net_nat_filter *filter,
                                          const struct net_frame *frame)
{
    if (frame->size < NET_HEADER_BYTES)
        return NET_NAT_DROP;
    switch (net_load16(frame->data + NET_HEADER_BYTES - 2)) {
    case ETHERTYPE_ARP:
        return NET_NAT_PASS;
    case ETHERTYPE_IP4:
        return judge_packet(filter, frame, false);
    case ETHERTYPE_IP6:
        return judge_packet(filter, frame, true);
    default:
        return NET_NAT_DROP;
    }
}

void net_nat_filter_note(struct net_nat_filter *filter, const struct net_frame *frame)
{
    struct packet packet;
    if (filter->host_loopback || frame->size < NET_HEADER_BYTES)
        return;
    unsigned kind = net_load16(frame->data + NET_HEADER_BYTES - 2);
    if ((kind != ETHERTYPE_IP4 && kind != ETHERTYPE_IP6) ||
        !find_packet(frame, kind == ETHERTYPE_IP6, &packet) || packet.protocol != PROTOCOL_UDP)
        return;
    const uint8_t *ip = frame->data + packet.network, *udp = frame->data + packet.transport;
    /* Of several fragments the first has the ports. */
    bool first = packet.v6 || (net_load16(ip + IP4_FRAGMENT) & 0x1fff) == 0;
    if (!first || frame->size < packet.transport + UDP_BYTES ||
        (packet.v6 ? place6(ip + IP6_FROM) : place4(ip + IP4_FROM)) != PLACE_HOST)
        return;
    const struct net_nat_peer peer = {
        .v6 = packet.v6, .port = net_load16(udp), .guest_port = net_load16(udp + 2)};
    if (knows(filter, &peer))
        return;
    filter->peers[filter->next_peer] = peer;
    filter->next_peer = (filter->next_peer + 1) % NET_NAT_PEERS;
}

/* RFC 9293, 3.10.7.1: to a segment without ACK. */
void net_nat_refuse(const struct net_frame *frame, uint8_t out[NET_NAT_REFUSAL_BYTES],
                    struct net_frame *answer)
{
    struct packet packet;
    struct net_tcp tcp;
    bool v6 = net_load16(frame->data + NET_HEADER_BYTES - 2) == ETHERTYPE_IP6;
    bool found = find_packet(frame, v6, &packet);
    assert(found && packet.protocol == PROTOCOL_TCP);
    (void)found;
    const uint8_t *ip = frame->data + packet.network, *asked = frame->data + packet.transport;
    size_t address = v6 ? 16 : 4, at = v6 ? IP6_FROM : IP4_FROM,
           header = v6 ? IP6_BYTES : IP4_BYTES;
    uint8_t *out_ip = out + NET_HEADER_BYTES, *out_tcp = out_ip + header;
    memset(out, 0, NET_NAT_REFUSAL_BYTES);
    memcpy(out, frame->data + NET_MAC_BYTES, NET_MAC_BYTES);
    memcpy(out + NET_MAC_BYTES, frame->data, NET_MAC_BYTES);
    net_store16(out + NET_HEADER_BYTES - 2, v6 ? ETHERTYPE_IP6 : ETHERTYPE_IP4);
    out_ip[0] = v6 ? 0x60 : 0x45;
    net_store16(out_ip + (v6 ? IP6_LENGTH : IP4_LENGTH), v6 ? TCP_BYTES : IP4_BYTES + TCP_BYTES);
    out_ip[v6 ? IP6_NEXT : IP4_PROTOCOL] = PROTOCOL_TCP;
    out_ip[v6 ? IP6_HOPS : IP4_HOPS] = HOPS;
    memcpy(out_ip + at, ip + at + address, address);
    memcpy(out_ip + at + address, ip + at, address);
    if (!v6) {
        uint16_t sum = (uint16_t)~net_sum_fold(net_sum(out_ip, IP4_BYTES, 0));
        memcpy(out_ip + IP4_CHECKSUM, &sum, 2);
    }
    memcpy(out_tcp, asked + 2, 2);
    memcpy(out_tcp + 2, asked, 2);
    net_store32(out_tcp + TCP_ACKNOWLEDGED, net_load32(asked + TCP_SEQUENCE) + 1);
    out_tcp[TCP_OFFSET] = TCP_BYTES / 4 << 4;
    out_tcp[TCP_FLAGS] = TCP_RST | TCP_ACK;
    *answer = (struct net_frame){.data = out, .size = NET_HEADER_BYTES + header + TCP_BYTES};
    found = net_find_tcp(out, answer->size, &tcp);
    assert(found);
    net_start_tcp_checksum(answer, &tcp);
    net_complete_checksum(answer);
}
