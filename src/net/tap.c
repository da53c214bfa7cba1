/* SPDX-License-Identifier: MIT
 *
 * Between a frame socket and a tap device of the host: frames are passed on as they are, the
 * kernel's offload header being the link's, but for those that are for a service of our own. The
 * tap's descriptor comes from whoever had the right to open it; this process needs none.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/frame.h"
#include "net/backends.h"
#include "net/confine.h"
#include "net/dhcp.h"
#include "net/link.h"
#include "net/metadata.h"

#define QUEUE_LIMIT (8u << 20)
#define TURN_FRAMES 64

enum { STATUS_FD = 1, LINK_FD, TAP_FD, LEAST, ADDRESS = LEAST, LENGTH, TALK_FD };

struct tap {
    struct net_link link;
    int fd;
    unsigned accepts;          /* what the kernel was told that the guest takes */
    struct net_dhcp *dhcp;     /* NULL: others see to addresses */
    struct metadata *metadata; /* NULL: there is none */
    struct service *service;
    int talk; /* of the metadata's; -1: nobody says more of it */
    struct frame_reader reader;
    uint8_t frame[NET_FRAME_MAX];
};

static void tell_kernel(struct tap *tap)
{
    unsigned offload = 0;
    if (tap->accepts == tap->link.accepts)
        return;
    tap->accepts = tap->link.accepts;
    offload |= (tap->accepts & NET_ACCEPT_CHECKSUM) != 0 ? TUN_F_CSUM : 0u;
    offload |= (tap->accepts & NET_ACCEPT_TCP4) != 0 ? TUN_F_TSO4 : 0u;
    offload |= (tap->accepts & NET_ACCEPT_TCP6) != 0 ? TUN_F_TSO6 : 0u;
    ioctl(tap->fd, TUNSETOFFLOAD, offload);
}

static void answer(void *opaque, const struct net_frame *frame)
{
    struct tap *tap = opaque;
    struct net_frame own = *frame;
    net_link_put(&tap->link, &own);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

/* Who talks waits for the byte. */
static void hear(struct tap *tap)
{
    const uint8_t *data;
    size_t size;
    enum frame_status status = frame_reader_fill(&tap->reader, tap->talk), next;
    while ((next = frame_reader_next(&tap->reader, FRAME_MAX, &data, &size)) == FRAME_MESSAGE) {
        char answer = metadata_tell(tap->metadata, data, size) ? '+' : '-';
        (void)!write(tap->talk, &answer, 1);
    }
    if (status == FRAME_MORE && next == FRAME_MORE)
        return;
    close(tap->talk);
    tap->talk = -1;
}

/* False: that end is gone. */
static bool to_tap(struct tap *tap)
{
    for (unsigned turn = 0; turn < TURN_FRAMES; turn++) {
        struct net_frame frame;
        enum net_status status = net_link_receive(&tap->link, &frame);
        tell_kernel(tap);
        if (status != NET_DONE)
            return status == NET_AGAIN;
        if ((tap->dhcp != NULL && net_dhcp_take(tap->dhcp, &frame)) ||
            (tap->service != NULL && service_take(tap->service, &frame, now_ms())))
            continue;
        struct iovec iov[] = {{&frame.offload, sizeof(frame.offload)}, {frame.data, frame.size}};
        if (writev(tap->fd, iov, 2) < 0 && errno != EAGAIN && errno != EINVAL && errno != EIO &&
            errno != ENOBUFS)
            return false;
    }
    return true;
}

static bool from_tap(struct tap *tap)
{
    for (unsigned turn = 0; turn < TURN_FRAMES; turn++) {
        struct net_frame frame = {.data = tap->frame};
        struct iovec iov[] = {{&frame.offload, sizeof(frame.offload)},
                              {tap->frame, sizeof(tap->frame)}};
        ssize_t got = readv(tap->fd, iov, 2);
        if (got < 0)
            return errno == EAGAIN || errno == EINTR || errno == EIO;
        if ((size_t)got < sizeof(frame.offload))
            return true;
        frame.size = (size_t)got - sizeof(frame.offload);
        if (net_offload_check(&frame.offload, frame.size))
            net_link_put(&tap->link, &frame);
    }
    return true;
}

static void serve(struct tap *tap)
{
    for (bool alive = true; alive;) {
        struct pollfd polls[] = {{.fd = tap->link.fd, .events = POLLIN},
                                 {.fd = tap->fd, .events = POLLIN},
                                 {.fd = tap->talk, .events = POLLIN}};
        int wait = tap->service != NULL ? service_tick(tap->service, now_ms()) : -1;
        /* The guest does not keep up: the kernel's own queue is the next to fill. */
        if (tap->link.first != NULL) {
            polls[0].events |= POLLOUT;
            polls[1].events = 0;
        }
        if (poll(polls, ARRAY_SIZE(polls), wait) < 0) {
            alive = errno == EINTR;
            continue;
        }
        if (polls[2].revents != 0)
            hear(tap);
        if (polls[0].revents != 0)
            alive = net_link_flush(&tap->link) != NET_GONE && to_tap(tap);
        if (alive && polls[1].revents != 0)
            alive = from_tap(tap);
    }
}

static bool begin_service(struct tap *tap, const char *address, int talk, struct error **err)
{
    struct service_config config = {
        .mac = {0x06, 0x01, 0x23, 0x45, 0x67, 0x01}, /* as Firecracker's */
        .port = 80,
        .request = metadata_request,
        .emit = answer,
        .opaque = tap};
    if (inet_pton(AF_INET, address, config.address) != 1)
        return error_set(err, ERROR_INTERNAL, "'%s' is no IPv4 address", address);
    tap->talk = talk;
    tap->metadata = metadata_new(err);
    if (tap->metadata == NULL)
        return false;
    config.requests = tap->metadata;
    tap->service = service_new(&config);
    return true;
}

int net_tap_main(int argc, char **argv)
{
    bool serves = argc == TALK_FD + 1 && strcmp(argv[LENGTH], "metadata") == 0;
    struct error *error = NULL;
    if (argc != LEAST && argc != TALK_FD && !serves) {
        fputs("trapeze: 'net-tap' is started by 'trapeze run', not by hand\n", stderr);
        return 1;
    }
    struct tap *tap = alloc_zeroed(1, sizeof(*tap));
    net_link_init(&tap->link, atoi(argv[LINK_FD]), QUEUE_LIMIT);
    tap->fd = atoi(argv[TAP_FD]);
    fcntl(tap->fd, F_SETFL, fcntl(tap->fd, F_GETFL) | O_NONBLOCK);
    tap->talk = -1;
    tap->accepts = ~0u;
    tell_kernel(tap);
    net_link_announce(&tap->link, NET_ACCEPT_CHECKSUM | NET_ACCEPT_TCP4 | NET_ACCEPT_TCP6);
    if (argc == TALK_FD)
        tap->dhcp = net_dhcp_new(argv[ADDRESS], (unsigned)atoi(argv[LENGTH]), answer, tap, &error);
    bool good =
        error == NULL && (!serves || begin_service(tap, argv[ADDRESS], atoi(argv[TALK_FD]), &error));
    net_confine(NULL);
    int status = net_backend_ready(atoi(argv[STATUS_FD]), error);
    if (good)
        serve(tap);
    net_dhcp_free(tap->dhcp);
    service_free(tap->service);
    metadata_free(tap->metadata);
    frame_reader_clear(&tap->reader);
    net_link_clear(&tap->link);
    free(tap);
    return status;
}
