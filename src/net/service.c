/* SPDX-License-Identifier: MIT
 *
 * See service.h. Names of variables are those of RFC 9293.
 */
#include "net/service.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"

enum {
    ETHERTYPE_IP4 = 0x0800,
    ETHERTYPE_ARP = 0x0806,
    ARP_BYTES = 28,
    IP4_BYTES = 20,
    IP4_PROTOCOL = 9,
    IP4_FROM = 12,
    IP4_TO = 16,
    TCP_BYTES = 20,
    PROTOCOL_TCP = 6,
    FIN = 1,
    SYN = 2,
    RST = 4,
    PSH = 8,
    ACK = 16,
    MSS_DEFAULT = 536, /* RFC 9293, 3.7.1 */
    MSS_LEAST = 64,
    MSS_OURS = 1460,
    SEGMENTS_AT_ONCE = 16,
    RETRY_MS = 200, /* doubled each time */
    RETRIES = 8,
    QUIET_MS = 60000 /* then a connection is given up */
};

enum state { CLOSED, SYN_RECEIVED, ESTABLISHED };

struct peer {
    enum state state;
    uint8_t address[4], mac[NET_MAC_BYTES];
    uint16_t port, mss;
    uint32_t rcv_nxt;
    uint32_t snd_una, snd_nxt, snd_max; /* snd_max: the highest that was sent */
    uint32_t snd_wnd;
    uint8_t request[SERVICE_REQUEST_MAX];
    size_t request_size;
    struct service_answer
        answer; /* its first byte has the number snd_una, once the SYN is acknowledged */
    bool fin_received, fin_acknowledged;
    bool closing;                 /* a FIN follows the answer */
    int64_t last_ms, retry_at_ms; /* 0: nothing to retry */
    unsigned retries;
};

struct service {
    struct service_config config;
    struct peer peers[SERVICE_PEERS];
    uint16_t ip_id;
};

/* A segment that came. */
struct segment {
    const uint8_t *frame, *ip, *tcp, *payload;
    size_t size; /* of the payload */
    uint32_t seq, ack;
    uint16_t window;
    uint8_t flags;
};

static bool before(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

/* ---- sending ---- */

static void store_sum(uint8_t *to, uint64_t sum)
{
    uint16_t folded = (uint16_t)~net_sum_fold(sum); /* in memory's order */
    memcpy(to, &folded, sizeof(folded));
}

static void emit_ip(struct service *service, uint8_t *frame, const uint8_t *to_mac,
                    const uint8_t *to, size_t tcp_size)
{
    uint8_t *ip = frame + NET_HEADER_BYTES, *tcp = ip + IP4_BYTES;
    uint8_t pseudo[12] = {0};
    memcpy(frame, to_mac, NET_MAC_BYTES);
    memcpy(frame + NET_MAC_BYTES, service->config.mac, NET_MAC_BYTES);
    net_store16(frame + 2 * NET_MAC_BYTES, ETHERTYPE_IP4);
    memset(ip, 0, IP4_BYTES);
    ip[0] = 0x45;
    net_store16(ip + 2, (unsigned)(IP4_BYTES + tcp_size));
    net_store16(ip + 4, service->ip_id++);
    ip[8] = 1; /* it goes no further than this link */
    ip[IP4_PROTOCOL] = PROTOCOL_TCP;
    memcpy(ip + IP4_FROM, service->config.address, 4);
    memcpy(ip + IP4_TO, to, 4);
    store_sum(ip + 10, net_sum(ip, IP4_BYTES, 0));
    memcpy(pseudo, ip + IP4_FROM, 8);
    pseudo[9] = PROTOCOL_TCP;
    net_store16(pseudo + 10, (unsigned)tcp_size);
    net_store16(tcp + 16, 0);
    store_sum(tcp + 16, net_sum(tcp, tcp_size, net_sum(pseudo, sizeof(pseudo), 0)));
    const struct net_frame out = {.data = frame, .size = NET_HEADER_BYTES + IP4_BYTES + tcp_size};
    service->config.emit(service->config.opaque, &out);
}

static void put_tcp(const struct service *service, uint8_t *tcp, uint16_t to_port, uint32_t seq,
                    uint32_t ack, unsigned flags, unsigned words, uint16_t window)
{
    memset(tcp, 0, words * 4);
    net_store16(tcp, service->config.port);
    net_store16(tcp + 2, to_port);
    net_store32(tcp + 4, seq);
    net_store32(tcp + 8, ack);
    tcp[12] = (uint8_t)(words << 4);
    tcp[13] = (uint8_t)flags;
    net_store16(tcp + 14, window);
}

static uint16_t room(const struct peer *peer)
{
    return (uint16_t)(SERVICE_REQUEST_MAX - peer->request_size);
}

static void send_segment(struct service *service, const struct peer *peer, uint32_t seq,
                         unsigned flags, const uint8_t *data, size_t size)
{
    uint8_t frame[NET_HEADER_BYTES + IP4_BYTES + TCP_BYTES + 4 + MSS_OURS];
    uint8_t *tcp = frame + NET_HEADER_BYTES + IP4_BYTES;
    bool syn = (flags & SYN) != 0;
    unsigned words = syn ? 6 : 5;
    put_tcp(service, tcp, peer->port, seq, peer->rcv_nxt, flags, words, room(peer));
    if (syn) {
        tcp[TCP_BYTES] = 2; /* the option MSS */
        tcp[TCP_BYTES + 1] = 4;
        net_store16(tcp + TCP_BYTES + 2, MSS_OURS);
    }
    if (size > 0)
        memcpy(tcp + words * 4, data, size);
    emit_ip(service, frame, peer->mac, peer->address, words * 4 + size);
}

static void send_ack(struct service *service, const struct peer *peer)
{
    send_segment(service, peer, peer->snd_nxt, ACK, NULL, 0);
}

/* RFC 9293, 3.5.2: to one that no connection is for. */
static void refuse(struct service *service, const struct segment *segment)
{
    uint8_t frame[NET_HEADER_BYTES + IP4_BYTES + TCP_BYTES];
    bool has_ack = (segment->flags & ACK) != 0;
    uint32_t length =
        (uint32_t)segment->size + ((segment->flags & SYN) != 0) + ((segment->flags & FIN) != 0);
    if ((segment->flags & RST) != 0)
        return;
    put_tcp(service, frame + NET_HEADER_BYTES + IP4_BYTES, net_load16(segment->tcp),
            has_ack ? segment->ack : 0, has_ack ? 0 : segment->seq + length,
            has_ack ? RST : RST | ACK, 5, 0);
    emit_ip(service, frame, segment->frame + NET_MAC_BYTES, segment->ip + IP4_FROM, TCP_BYTES);
}

static void forget(struct peer *peer)
{
    free(peer->answer.data);
    *peer = (struct peer){.state = CLOSED};
}

static void reset(struct service *service, struct peer *peer)
{
    send_segment(service, peer, peer->snd_nxt, RST | ACK, NULL, 0);
    forget(peer);
}

static uint32_t end_of_answer(const struct peer *peer)
{
    return peer->snd_una + (uint32_t)peer->answer.size;
}

/* Whether the FIN, which has the number behind the answer, is all that is left or wanted. */
static bool wants_fin(const struct peer *peer)
{
    return peer->closing && peer->state == ESTABLISHED && !peer->fin_acknowledged;
}

static void arm(struct peer *peer, int64_t now_ms)
{
    peer->retry_at_ms = now_ms + ((int64_t)RETRY_MS << peer->retries);
}

/* What may be sent; `least` bytes whatever the window says. */
static void send_answer(struct service *service, struct peer *peer, uint32_t least, int64_t now_ms)
{
    uint32_t end = end_of_answer(peer), window = peer->snd_wnd;
    if (window > (uint32_t)peer->mss * SEGMENTS_AT_ONCE)
        window = (uint32_t)peer->mss * SEGMENTS_AT_ONCE;
    uint32_t limit = peer->snd_una + (window > least ? window : least);
    while (before(peer->snd_nxt, end) && before(peer->snd_nxt, limit)) {
        uint32_t from = peer->snd_nxt - peer->snd_una, size = end - peer->snd_nxt;
        if (size > limit - peer->snd_nxt)
            size = limit - peer->snd_nxt;
        if (size > peer->mss)
            size = peer->mss;
        send_segment(service, peer, peer->snd_nxt, ACK | PSH, peer->answer.data + from, size);
        peer->snd_nxt += size;
    }
    if (wants_fin(peer) && peer->snd_nxt == end) {
        send_segment(service, peer, peer->snd_nxt, ACK | FIN, NULL, 0);
        peer->snd_nxt++;
    }
    if (before(peer->snd_max, peer->snd_nxt))
        peer->snd_max = peer->snd_nxt;
    if (peer->snd_una != peer->snd_max || before(peer->snd_nxt, end)) {
        if (peer->retry_at_ms == 0)
            arm(peer, now_ms);
    } else {
        peer->retry_at_ms = 0;
    }
}

/* ---- receiving ---- */

static struct peer *find(struct service *service, const uint8_t *address, uint16_t port)
{
    for (size_t i = 0; i < SERVICE_PEERS; i++) {
        struct peer *peer = &service->peers[i];
        if (peer->state != CLOSED && peer->port == port && memcmp(peer->address, address, 4) == 0)
            return peer;
    }
    return NULL;
}

static struct peer *make_place(struct service *service)
{
    struct peer *quiet = &service->peers[0];
    for (size_t i = 0; i < SERVICE_PEERS; i++) {
        struct peer *peer = &service->peers[i];
        if (peer->state == CLOSED)
            return peer;
        if (peer->last_ms < quiet->last_ms)
            quiet = peer;
    }
    reset(service, quiet);
    return quiet;
}

/* What the peer's option says; RFC 9293, 3.1. */
static uint16_t mss_of(const struct segment *segment)
{
    const uint8_t *at = segment->tcp + TCP_BYTES, *end = segment->payload;
    uint16_t mss = MSS_DEFAULT;
    while (at < end && at[0] != 0) {
        if (at[0] == 1) {
            at++;
            continue;
        }
        if (end - at < 2 || at[1] < 2 || at[1] > end - at)
            break;
        if (at[0] == 2 && at[1] == 4)
            mss = net_load16(at + 2);
        at += at[1];
    }
    return mss < MSS_LEAST ? MSS_LEAST : mss > MSS_OURS ? MSS_OURS : mss;
}

static void begin(struct service *service, const struct segment *segment, int64_t now_ms)
{
    uint32_t iss = 0;
    struct peer *peer = make_place(service);
    if (getrandom(&iss, sizeof(iss), 0) != sizeof(iss))
        return;
    *peer = (struct peer){.state = SYN_RECEIVED,
                          .port = net_load16(segment->tcp),
                          .mss = mss_of(segment),
                          .rcv_nxt = segment->seq + 1,
                          .snd_una = iss,
                          .snd_nxt = iss + 1,
                          .snd_max = iss + 1,
                          .snd_wnd = segment->window,
                          .last_ms = now_ms};
    memcpy(peer->address, segment->ip + IP4_FROM, 4);
    memcpy(peer->mac, segment->frame + NET_MAC_BYTES, NET_MAC_BYTES);
    send_segment(service, peer, iss, SYN | ACK, NULL, 0);
    arm(peer, now_ms);
}

/* False: it is of another time, and has been answered. */
static bool take_ack(struct service *service, struct peer *peer, const struct segment *segment)
{
    uint32_t acked = segment->ack - peer->snd_una;
    if (before(peer->snd_max, segment->ack)) {
        if (peer->state == SYN_RECEIVED)
            refuse(service, segment);
        else
            send_ack(service, peer);
        return false;
    }
    if (before(segment->ack, peer->snd_una))
        return true; /* an old one */
    peer->snd_wnd = segment->window;
    if (acked == 0)
        return true;
    if (peer->state == SYN_RECEIVED) { /* the SYN has a number, too */
        peer->state = ESTABLISHED;
        acked--;
        peer->snd_una++;
    }
    uint32_t bytes = acked < peer->answer.size ? acked : (uint32_t)peer->answer.size;
    if (bytes > 0)
        memmove(peer->answer.data, peer->answer.data + bytes, peer->answer.size - bytes);
    peer->answer.size -= bytes;
    peer->fin_acknowledged |= acked > bytes; /* nothing else has a number */
    peer->snd_una = segment->ack;
    if (before(peer->snd_nxt, peer->snd_una))
        peer->snd_nxt = peer->snd_una;
    peer->retries = 0;
    peer->retry_at_ms = 0;
    return true;
}

/* True: there was something, which has to be acknowledged. */
static bool take_data(struct peer *peer, const struct segment *segment)
{
    uint32_t skip = peer->rcv_nxt - segment->seq;
    bool fin = (segment->flags & FIN) != 0;
    if (segment->size == 0 && !fin)
        return segment->seq != peer->rcv_nxt; /* what keeps a connection alive is answered */
    if (before(peer->rcv_nxt, segment->seq) || skip > segment->size || peer->fin_received)
        return true;
    size_t size = segment->size - skip;
    bool whole = size <= room(peer);
    if (!whole)
        size = room(peer);
    memcpy(peer->request + peer->request_size, segment->payload + skip, size);
    peer->request_size += size;
    peer->rcv_nxt += (uint32_t)size;
    if (fin && whole) {
        peer->rcv_nxt++;
        peer->fin_received = true;
    }
    return true;
}

/* False: the connection is no more. */
static bool serve(struct service *service, struct peer *peer)
{
    while (peer->answer.size == 0 && !peer->closing && peer->request_size > 0) {
        struct service_answer answer = {0};
        int taken = service->config.request(service->config.requests, peer->request,
                                            peer->request_size, &answer);
        if (taken < 0 || (taken == 0 && room(peer) == 0)) {
            free(answer.data);
            reset(service, peer);
            return false;
        }
        if (taken == 0)
            break;
        peer->request_size -= (size_t)taken;
        memmove(peer->request, peer->request + taken, peer->request_size);
        free(peer->answer.data);
        peer->answer = answer;
        peer->closing = answer.last;
    }
    if (peer->fin_received && peer->answer.size == 0)
        peer->closing = true;
    return true;
}

static void take_segment(struct service *service, const struct segment *segment, int64_t now_ms)
{
    struct peer *peer = find(service, segment->ip + IP4_FROM, net_load16(segment->tcp));
    bool ours = net_load16(segment->tcp + 2) == service->config.port;
    if (!ours || peer == NULL) {
        if (ours && (segment->flags & (SYN | ACK | RST)) == SYN)
            begin(service, segment, now_ms);
        else
            refuse(service, segment);
        return;
    }
    if ((segment->flags & RST) != 0) {
        if (segment->seq - peer->rcv_nxt < SERVICE_REQUEST_MAX)
            forget(peer);
        return;
    }
    if ((segment->flags & SYN) != 0) { /* lost, or of another connection: RFC 5961 */
        if (peer->state == SYN_RECEIVED && segment->seq + 1 == peer->rcv_nxt)
            send_segment(service, peer, peer->snd_una, SYN | ACK, NULL, 0);
        else
            send_ack(service, peer);
        return;
    }
    if ((segment->flags & ACK) == 0 || !take_ack(service, peer, segment) ||
        peer->state != ESTABLISHED)
        return;
    peer->last_ms = now_ms;
    memcpy(peer->mac, segment->frame + NET_MAC_BYTES, NET_MAC_BYTES);
    bool acknowledge = take_data(peer, segment);
    uint32_t sent = peer->snd_nxt;
    if (!serve(service, peer))
        return;
    send_answer(service, peer, 0, now_ms);
    if (acknowledge && peer->snd_nxt == sent)
        send_ack(service, peer);
    if (peer->fin_received && peer->fin_acknowledged)
        forget(peer);
}

/* ---- frames ---- */

static void answer_arp(struct service *service, const uint8_t *question)
{
    uint8_t frame[NET_HEADER_BYTES + ARP_BYTES], *arp = frame + NET_HEADER_BYTES;
    const uint8_t *asked = question + NET_HEADER_BYTES;
    memcpy(frame, question + NET_MAC_BYTES, NET_MAC_BYTES);
    memcpy(frame + NET_MAC_BYTES, service->config.mac, NET_MAC_BYTES);
    net_store16(frame + 2 * NET_MAC_BYTES, ETHERTYPE_ARP);
    memcpy(arp, asked, 6);
    net_store16(arp + 6, 2); /* a reply */
    memcpy(arp + 8, service->config.mac, NET_MAC_BYTES);
    memcpy(arp + 14, service->config.address, 4);
    memcpy(arp + 18, asked + 8, 10); /* whoever asked */
    const struct net_frame out = {.data = frame, .size = sizeof(frame)};
    service->config.emit(service->config.opaque, &out);
}

static bool take_arp(struct service *service, const struct net_frame *frame)
{
    static const uint8_t request[] = {0, 1, 8, 0, 6, 4, 0, 1}; /* Ethernet, IPv4, a question */
    const uint8_t *arp = frame->data + NET_HEADER_BYTES;
    if (frame->size < NET_HEADER_BYTES + ARP_BYTES || memcmp(arp, request, sizeof(request)) != 0 ||
        memcmp(arp + 24, service->config.address, 4) != 0)
        return false;
    answer_arp(service, frame->data);
    return true;
}

static bool sums_are_right(const struct net_frame *frame, const struct net_tcp *at)
{
    const uint8_t *ip = frame->data + at->network;
    uint8_t pseudo[12] = {0};
    size_t size = at->end - at->transport;
    if (net_sum_fold(net_sum(ip, at->transport - at->network, 0)) != 0xffff)
        return false;
    if ((frame->offload.flags & (NET_NEEDS_CHECKSUM | NET_CHECKSUM_VALID)) != 0)
        return true;
    memcpy(pseudo, ip + IP4_FROM, 8);
    pseudo[9] = PROTOCOL_TCP;
    net_store16(pseudo + 10, (unsigned)size);
    return net_sum_fold(net_sum(frame->data + at->transport, size, net_sum(pseudo, 12, 0))) ==
           0xffff;
}

bool service_take(struct service *service, const struct net_frame *frame, int64_t now_ms)
{
    const uint8_t *ip = frame->data + NET_HEADER_BYTES;
    struct net_tcp at;
    if (frame->size < NET_HEADER_BYTES + IP4_BYTES)
        return false;
    uint16_t type = net_load16(frame->data + 2 * NET_MAC_BYTES);
    if (type == ETHERTYPE_ARP)
        return take_arp(service, frame);
    if (type != ETHERTYPE_IP4 || memcmp(ip + IP4_TO, service->config.address, 4) != 0)
        return false;
    /* Whatever else goes there has no other place to go to. */
    if (!net_find_tcp(frame->data, frame->size, &at) || at.v6 || !sums_are_right(frame, &at))
        return true;
    const uint8_t *tcp = frame->data + at.transport;
    const struct segment segment = {.frame = frame->data,
                                    .ip = ip,
                                    .tcp = tcp,
                                    .payload = frame->data + at.payload,
                                    .size = at.end - at.payload,
                                    .seq = net_load32(tcp + 4),
                                    .ack = net_load32(tcp + 8),
                                    .window = net_load16(tcp + 14),
                                    .flags = tcp[13]};
    take_segment(service, &segment, now_ms);
    return true;
}

/* ---- time ---- */

static void retry(struct service *service, struct peer *peer, int64_t now_ms)
{
    if (peer->retries == RETRIES) {
        reset(service, peer);
        return;
    }
    peer->retries++;
    peer->retry_at_ms = 0;
    if (peer->state == SYN_RECEIVED) {
        send_segment(service, peer, peer->snd_una, SYN | ACK, NULL, 0);
        arm(peer, now_ms);
        return;
    }
    peer->snd_nxt = peer->snd_una;
    send_answer(service, peer, 1, now_ms); /* a window of nothing is tried, too */
}

int service_tick(struct service *service, int64_t now_ms)
{
    int64_t next = INT64_MAX;
    for (size_t i = 0; i < SERVICE_PEERS; i++) {
        struct peer *peer = &service->peers[i];
        if (peer->state != CLOSED && now_ms - peer->last_ms >= QUIET_MS)
            reset(service, peer);
        if (peer->state != CLOSED && peer->retry_at_ms != 0 && peer->retry_at_ms <= now_ms)
            retry(service, peer, now_ms);
        if (peer->state == CLOSED)
            continue;
        int64_t at = peer->last_ms + QUIET_MS;
        if (peer->retry_at_ms != 0 && peer->retry_at_ms < at)
            at = peer->retry_at_ms;
        if (at < next)
            next = at;
    }
    return next == INT64_MAX ? -1 : (int)(next > now_ms ? next - now_ms : 0);
}

/* ---- beginning and end ---- */

struct service *service_new(const struct service_config *config)
{
    struct service *service = alloc_zeroed(1, sizeof(*service));
    service->config = *config;
    return service;
}

void service_free(struct service *service)
{
    if (service == NULL)
        return;
    for (size_t i = 0; i < SERVICE_PEERS; i++)
        free(service->peers[i].answer.data);
    free(service);
}

size_t service_connections(const struct service *service)
{
    size_t count = 0;
    for (size_t i = 0; i < SERVICE_PEERS; i++)
        count += service->peers[i].state != CLOSED;
    return count;
}
