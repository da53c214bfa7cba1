/* SPDX-License-Identifier: MIT
 *
 * See dhcp.h.
 */
#include "net/dhcp.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "net/nat_frames.h"
#include "net/slirp.h"

enum { FIRST = 16, CLIENTS = 16 }; /* places of addresses in the network */
enum { ETHERTYPE_IP4 = 0x0800, IP4_BYTES = 20, IP4_PROTOCOL = 9, IP4_FRAGMENT = 6, IP4_TO = 16 };
enum { PROTOCOL_UDP = 17, UDP_BYTES = 8, UDP_TO = 2, PORT_SERVER = 67 };

struct net_dhcp {
    struct slirp_library library;
    Slirp *slirp;
    struct in_addr host;
    net_emit_fn *emit;
    void *opaque;
};

static ssize_t on_packet(const void *data, size_t size, void *opaque)
{
    const struct net_dhcp *dhcp = opaque;
    const struct net_frame frame = {.offload = {.flags = NET_CHECKSUM_VALID},
                                    .data = (uint8_t *)(uintptr_t)data, /* is only read */
                                    .size = size};
    dhcp->emit(dhcp->opaque, &frame);
    return (ssize_t)size;
}

static void on_guest_error(const char *message, void *opaque)
{
    (void)message, (void)opaque; /* a guest must not be able to fill a log */
}

static int64_t now_ns(void *opaque)
{
    struct timespec now;
    (void)opaque;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* What it is asked here needs neither timers nor descriptors. */
static void *no_timer(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    (void)id, (void)cb_opaque, (void)opaque;
    return NULL;
}

static void ignore_timer(void *timer, void *opaque)
{
    (void)timer, (void)opaque;
}

static void ignore_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    (void)timer, (void)expire_ms, (void)opaque;
}

static void ignore_fd(int fd, void *opaque)
{
    (void)fd, (void)opaque;
}

static void ignore_notify(void *opaque)
{
    (void)opaque;
}

static const SlirpCb callbacks = {
    .send_packet = on_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = now_ns,
    .timer_new_opaque = no_timer,
    .timer_free = ignore_timer,
    .timer_mod = ignore_timer_mod,
    .register_poll_fd = ignore_fd,
    .unregister_poll_fd = ignore_fd,
    .notify = ignore_notify,
};

struct net_dhcp *net_dhcp_new(const char *host, unsigned length, net_emit_fn *emit, void *opaque,
                              struct error **err)
{
    struct net_dhcp *dhcp = alloc_zeroed(1, sizeof(*dhcp));
    *dhcp = (struct net_dhcp){.emit = emit, .opaque = opaque};
    bool good = length >= 8 && length <= 26 && inet_pton(AF_INET, host, &dhcp->host) == 1;
    uint32_t mask = good ? ~0u << (32 - length) : 0, at = ntohl(dhcp->host.s_addr) & ~mask;
    uint32_t network = ntohl(dhcp->host.s_addr) & mask;
    /* The clients' addresses lie together, clear of the host's; the name server, which nobody hears
     * of, wants one as well. */
    uint32_t first = at >= FIRST && at < FIRST + CLIENTS ? FIRST + CLIENTS : FIRST;
    const SlirpConfig config = {
        .version = 4,
        .restricted = true,
        .in_enabled = true,
        .vnetwork = {htonl(network)},
        .vnetmask = {htonl(mask)},
        .vhost = dhcp->host,
        .vdhcp_start = {htonl(network + first)},
        .vnameserver = {htonl(network + (at == 1 ? 2u : 1u))},
    };
    if (good && slirp_load(&dhcp->library, err)) {
        dhcp->slirp = dhcp->library.slirp_new(&config, &callbacks, dhcp);
        if (dhcp->slirp != NULL)
            return dhcp;
    }
    free(dhcp);
    return NULL;
}

void net_dhcp_free(struct net_dhcp *dhcp)
{
    if (dhcp == NULL)
        return;
    dhcp->library.slirp_cleanup(dhcp->slirp);
    free(dhcp);
}

/* A whole datagram for this server, or for any. */
static bool is_request(const struct net_dhcp *dhcp, const struct net_frame *frame)
{
    const uint8_t *ip = frame->data + NET_HEADER_BYTES;
    if (frame->size < NET_HEADER_BYTES + IP4_BYTES ||
        net_load16(frame->data + NET_HEADER_BYTES - 2) != ETHERTYPE_IP4 || ip[0] >> 4 != 4)
        return false;
    size_t header = (ip[0] & 15u) * 4u;
    return header >= IP4_BYTES && frame->size >= NET_HEADER_BYTES + header + UDP_BYTES &&
           ip[IP4_PROTOCOL] == PROTOCOL_UDP && (net_load16(ip + IP4_FRAGMENT) & 0x3fff) == 0 &&
           net_load16(ip + header + UDP_TO) == PORT_SERVER &&
           (memcmp(ip + IP4_TO, "\xff\xff\xff\xff", 4) == 0 ||
            memcmp(ip + IP4_TO, &dhcp->host, 4) == 0);
}

bool net_dhcp_take(struct net_dhcp *dhcp, struct net_frame *frame)
{
    if (!is_request(dhcp, frame))
        return false;
    net_nat_from_guest(frame);
    dhcp->library.slirp_input(dhcp->slirp, frame->data, (int)frame->size);
    return true;
}
