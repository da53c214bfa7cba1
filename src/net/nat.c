/* SPDX-License-Identifier: MIT
 *
 * NAT without rights: libslirp between a frame socket and ordinary sockets of the host. The
 * guest's network is 10.0.2.0/24 and fec0::/64 with the host as .2, a name server as .3 and the
 * guest, by DHCP, as .15: the addresses that people know from QEMU. What lies behind .2, the host's
 * loopback, is closed unless asked for (nat_filter.h).
 *
 * libslirp wants to be asked for its descriptors before each poll(2), so this process has a loop
 * of its own. Frames for a guest that does not keep up wait in the link's queue, which is larger
 * than what TCP's windows let be under way.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "net/backends.h"
#include "net/confine.h"
#include "net/forward.h"
#include "net/link.h"
#include "net/nat_filter.h"
#include "net/nat_frames.h"
#include "net/slirp.h"

#define QUEUE_LIMIT (8u << 20) /* bytes for a guest that does not keep up */
#define TURN_FRAMES 64
#define TIMER_MAX   8

enum { STATUS_FD = 1, LINK_FD, MODE, MTU, MAC, FORWARDS };

struct timer {
    SlirpTimerId id;
    void *opaque;
    int64_t deadline_ms; /* 0: none */
    bool used;
};

struct nat {
    struct slirp_library library;
    Slirp *slirp;
    struct net_link link;
    struct net_nat_frames frames;
    struct net_nat_filter filter;
    struct pollfd *polls;
    size_t poll_count, poll_room;
    struct timer timers[TIMER_MAX];
};

/* --- what libslirp calls --- */

static int64_t now_ns(void *opaque)
{
    struct timespec now;
    (void)opaque;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void put(void *opaque, const struct net_frame *frame)
{
    struct net_frame own = *frame;
    net_link_put(opaque, &own);
}

static ssize_t on_packet(const void *data, size_t size, void *opaque)
{
    struct nat *nat = opaque;
    /* A frame with nothing left to finish is only read. */
    const struct net_frame frame = {.data = (uint8_t *)(uintptr_t)data, .size = size};
    net_nat_filter_note(&nat->filter, &frame);
    net_nat_to_guest(&nat->frames, &frame, put, &nat->link);
    return (ssize_t)size;
}

static void on_guest_error(const char *message, void *opaque)
{
    (void)message, (void)opaque; /* a guest must not be able to fill a log */
}

static void *timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct nat *nat = opaque;
    for (size_t i = 0; i < ARRAY_SIZE(nat->timers); i++)
        if (!nat->timers[i].used) {
            nat->timers[i] = (struct timer){.id = id, .opaque = cb_opaque, .used = true};
            return &nat->timers[i];
        }
    return NULL;
}

static void timer_free(void *timer, void *opaque)
{
    (void)opaque;
    *(struct timer *)timer = (struct timer){0};
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    (void)opaque;
    ((struct timer *)timer)->deadline_ms = expire_ms;
}

static void ignore_fd(int fd, void *opaque)
{
    (void)fd, (void)opaque;
}

static void ignore_notify(void *opaque)
{
    (void)opaque; /* the loop asks for descriptors each turn anyway */
}

static const SlirpCb callbacks = {
    .send_packet = on_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = now_ns,
    .timer_new_opaque = timer_new,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = ignore_fd,
    .unregister_poll_fd = ignore_fd,
    .notify = ignore_notify,
};

/* --- the loop --- */

static int add_poll(int fd, int events, void *opaque)
{
    struct nat *nat = opaque;
    if (nat->poll_count == nat->poll_room) {
        nat->poll_room = nat->poll_room * 2 + 16;
        nat->polls = alloc_resize(nat->polls, nat->poll_room, sizeof(*nat->polls));
    }
    nat->polls[nat->poll_count] =
        (struct pollfd){.fd = fd,
                        .events = (short)(((events & SLIRP_POLL_IN) != 0 ? POLLIN : 0) |
                                          ((events & SLIRP_POLL_OUT) != 0 ? POLLOUT : 0) |
                                          ((events & SLIRP_POLL_PRI) != 0 ? POLLPRI : 0))};
    return (int)nat->poll_count++;
}

static int get_events(int index, void *opaque)
{
    const struct nat *nat = opaque;
    short events = nat->polls[index].revents;
    return ((events & POLLIN) != 0 ? SLIRP_POLL_IN : 0) |
           ((events & POLLOUT) != 0 ? SLIRP_POLL_OUT : 0) |
           ((events & POLLPRI) != 0 ? SLIRP_POLL_PRI : 0) |
           ((events & POLLERR) != 0 ? SLIRP_POLL_ERR : 0) |
           ((events & POLLHUP) != 0 ? SLIRP_POLL_HUP : 0);
}

static int wait_ms(struct nat *nat, uint32_t stack_ms)
{
    int64_t now = now_ns(nat) / 1000000, wait = stack_ms;
    for (size_t i = 0; i < ARRAY_SIZE(nat->timers); i++) {
        const struct timer *timer = &nat->timers[i];
        if (timer->deadline_ms != 0 && timer->deadline_ms - now < wait)
            wait = timer->deadline_ms > now ? timer->deadline_ms - now : 0;
    }
    return stack_ms == UINT32_MAX && wait == UINT32_MAX ? -1 : wait > INT_MAX ? INT_MAX : (int)wait;
}

static void run_timers(struct nat *nat)
{
    int64_t now = now_ns(nat) / 1000000;
    for (size_t i = 0; i < ARRAY_SIZE(nat->timers); i++) {
        struct timer *timer = &nat->timers[i];
        if (timer->deadline_ms == 0 || timer->deadline_ms > now)
            continue;
        timer->deadline_ms = 0;
        nat->library.slirp_handle_timer(nat->slirp, timer->id, timer->opaque);
    }
}

static void take_frame(struct nat *nat, struct net_frame *frame)
{
    uint8_t refusal[NET_NAT_REFUSAL_BYTES];
    struct net_frame answer;
    switch (net_nat_filter_judge(&nat->filter, frame)) {
    case NET_NAT_PASS:
        net_nat_from_guest(frame);
        nat->library.slirp_input(nat->slirp, frame->data, (int)frame->size);
        break;
    case NET_NAT_REFUSE:
        net_nat_refuse(frame, refusal, &answer);
        net_link_put(&nat->link, &answer);
        break;
    case NET_NAT_DROP:
        break;
    }
}

/* False: the machine is gone. */
static bool take_frames(struct nat *nat)
{
    for (unsigned turn = 0; turn < TURN_FRAMES; turn++) {
        struct net_frame frame;
        enum net_status status = net_link_receive(&nat->link, &frame);
        if (status != NET_DONE)
            return status == NET_AGAIN;
        take_frame(nat, &frame);
    }
    return true;
}

static void serve(struct nat *nat)
{
    for (bool alive = true; alive;) {
        uint32_t stack_ms = UINT32_MAX;
        nat->poll_count = 0;
        int own = add_poll(nat->link.fd, SLIRP_POLL_IN, nat);
        if (nat->link.first != NULL)
            nat->polls[own].events |= POLLOUT;
        nat->library.slirp_pollfds_fill(nat->slirp, &stack_ms, add_poll, nat);
        int ready = poll(nat->polls, nat->poll_count, wait_ms(nat, stack_ms));
        if (ready < 0 && errno != EINTR)
            return;
        if (ready >= 0 && nat->polls[own].revents != 0) {
            alive = net_link_flush(&nat->link) != NET_GONE && take_frames(nat);
        }
        nat->library.slirp_pollfds_poll(nat->slirp, ready < 0, get_events, nat);
        run_timers(nat);
        net_nat_flush(&nat->frames, put, &nat->link);
    }
}

/* --- set-up --- */

static struct in_addr v4(const char *text)
{
    struct in_addr address;
    inet_pton(AF_INET, text, &address);
    return address;
}

static struct in6_addr v6(const char *text)
{
    struct in6_addr address;
    inet_pton(AF_INET6, text, &address);
    return address;
}

static Slirp *make_stack(struct nat *nat, bool restricted, unsigned mtu)
{
    SlirpConfig config = {
        .version = 4,
        .restricted = restricted,
        .in_enabled = true,
        .vnetwork = v4("10.0.2.0"),
        .vnetmask = v4("255.255.255.0"),
        .vhost = v4("10.0.2.2"),
        .vdhcp_start = v4("10.0.2.15"),
        .vnameserver = v4("10.0.2.3"),
        .in6_enabled = true,
        .vprefix_addr6 = v6("fec0::"),
        .vprefix_len = 64,
        .vhost6 = v6("fec0::2"),
        .vnameserver6 = v6("fec0::3"),
        .if_mtu = mtu,
        .if_mru = mtu,
    };
    return nat->library.slirp_new(&config, &callbacks, nat);
}

/* Where the guest is: DHCP's first address, or what it makes of our prefix and its MAC (RFC 4291,
 * appendix A). */
static socklen_t guest_address(const struct net_forward *forward, const uint8_t *mac,
                               struct sockaddr_storage *guest)
{
    *guest = (struct sockaddr_storage){.ss_family = forward->host.ss_family};
    if (guest->ss_family == AF_INET) {
        struct sockaddr_in *address = (struct sockaddr_in *)guest;
        address->sin_addr = v4("10.0.2.15");
        address->sin_port = htons(forward->guest_port);
        return sizeof(*address);
    }
    struct sockaddr_in6 *address = (struct sockaddr_in6 *)guest;
    address->sin6_addr = v6("fec0::ff:fe00:0");
    address->sin6_port = htons(forward->guest_port);
    uint8_t *id = address->sin6_addr.s6_addr + 8;
    id[0] = mac[0] ^ 2;
    memcpy(id + 1, mac + 1, 2);
    memcpy(id + 5, mac + 3, 3);
    return sizeof(*address);
}

static bool add_forward(struct nat *nat, const char *text, const uint8_t *mac, struct error **err)
{
    struct net_forward forward;
    struct sockaddr_storage guest;
    if (!net_forward_parse(text, &forward, err))
        return false;
    socklen_t size = guest_address(&forward, mac, &guest);
    if (nat->library.slirp_add_hostxfwd(nat->slirp, (const struct sockaddr *)&forward.host, size,
                                        (const struct sockaddr *)&guest, size,
                                        forward.udp ? SLIRP_HOSTFWD_UDP : 0) == 0)
        return true;
    int number = errno;
    error_set_errno(err, number, "--forward %s: the port cannot be used", text);
    if (number == EADDRINUSE)
        error_hint(err, "Something listens there already; choose another port of this host.");
    else if (number == EACCES)
        error_hint(err, "Ports below 1024 are the administrator's; choose a larger one.");
    return false;
}

/* The directory that holds the host's resolv.conf, which libslirp reads again when it changes. */
static void confine(void)
{
    char path[PATH_MAX];
    if (realpath("/etc/resolv.conf", path) != NULL && strrchr(path, '/') > path)
        *strrchr(path, '/') = '\0';
    else
        snprintf(path, sizeof(path), "/etc");
    net_confine(path);
}

static bool parse_mac(const char *text, uint8_t mac[NET_MAC_BYTES])
{
    return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &mac[0], &mac[1], &mac[2], &mac[3],
                  &mac[4], &mac[5]) == NET_MAC_BYTES;
}

int net_nat_main(int argc, char **argv)
{
    uint8_t mac[NET_MAC_BYTES];
    struct error *error = NULL;
    if (argc < FORWARDS || !parse_mac(argv[MAC], mac)) {
        fputs("trapeze: 'net-nat' is started by 'trapeze run', not by hand\n", stderr);
        return 1;
    }
    struct nat *nat = alloc_zeroed(1, sizeof(*nat));
    int status_fd = atoi(argv[STATUS_FD]);
    net_link_init(&nat->link, atoi(argv[LINK_FD]), QUEUE_LIMIT);
    unsigned mtu = (unsigned)atoi(argv[MTU]);
    net_nat_frames_init(&nat->frames, mtu);
    net_nat_filter_init(&nat->filter, strcmp(argv[MODE], "host") == 0);
    bool good = slirp_load(&nat->library, &error);
    if (good) {
        nat->slirp = make_stack(nat, strcmp(argv[MODE], "restricted") == 0, mtu);
        good = nat->slirp != NULL ||
               error_set(&error, ERROR_INTERNAL, "libslirp refused the network's addresses");
    }
    for (int i = FORWARDS; good && i < argc; i++)
        good = add_forward(nat, argv[i], mac, &error);
    if (good) {
        confine();
        net_link_announce(&nat->link, NET_ACCEPT_CHECKSUM | NET_ACCEPT_TCP4 | NET_ACCEPT_TCP6);
    }
    int status = net_backend_ready(status_fd, error);
    if (good)
        serve(nat);
    if (good) /* confined: what else looks at a process's end (LeakSanitizer) would try for ever */
        _exit(status);
    if (nat->slirp != NULL)
        nat->library.slirp_cleanup(nat->slirp);
    net_link_clear(&nat->link);
    free(nat->polls);
    free(nat);
    return status;
}
