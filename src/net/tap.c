/* SPDX-License-Identifier: MIT
 *
 * Between a frame socket and a tap device of the host: frames are passed on as they are, the
 * kernel's offload header being the link's. The tap's descriptor comes from whoever had the right
 * to open it; this process needs none.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "net/backends.h"
#include "net/confine.h"
#include "net/dhcp.h"
#include "net/link.h"

#define QUEUE_LIMIT (8u << 20)
#define TURN_FRAMES 64

enum { STATUS_FD = 1, LINK_FD, TAP_FD, LEAST, ADDRESS = LEAST, LENGTH, MOST };

struct tap {
    struct net_link link;
    int fd;
    unsigned accepts;      /* what the kernel was told that the guest takes */
    struct net_dhcp *dhcp; /* NULL: others see to addresses */
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

/* False: that end is gone. */
static bool to_tap(struct tap *tap)
{
    for (unsigned turn = 0; turn < TURN_FRAMES; turn++) {
        struct net_frame frame;
        enum net_status status = net_link_receive(&tap->link, &frame);
        tell_kernel(tap);
        if (status != NET_DONE)
            return status == NET_AGAIN;
        if (tap->dhcp != NULL && net_dhcp_take(tap->dhcp, &frame))
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
                                 {.fd = tap->fd, .events = POLLIN}};
        /* The guest does not keep up: the kernel's own queue is the next to fill. */
        if (tap->link.first != NULL) {
            polls[0].events |= POLLOUT;
            polls[1].events = 0;
        }
        if (poll(polls, 2, -1) < 0) {
            alive = errno == EINTR;
            continue;
        }
        if (polls[0].revents != 0)
            alive = net_link_flush(&tap->link) != NET_GONE && to_tap(tap);
        if (alive && polls[1].revents != 0)
            alive = from_tap(tap);
    }
}

int net_tap_main(int argc, char **argv)
{
    if (argc != LEAST && argc != MOST) {
        fputs("trapeze: 'net-tap' is started by 'trapeze run', not by hand\n", stderr);
        return 1;
    }
    struct error *error = NULL;
    struct tap *tap = alloc_zeroed(1, sizeof(*tap));
    net_link_init(&tap->link, atoi(argv[LINK_FD]), QUEUE_LIMIT);
    tap->fd = atoi(argv[TAP_FD]);
    fcntl(tap->fd, F_SETFL, fcntl(tap->fd, F_GETFL) | O_NONBLOCK);
    tap->accepts = ~0u;
    tell_kernel(tap);
    net_link_announce(&tap->link, NET_ACCEPT_CHECKSUM | NET_ACCEPT_TCP4 | NET_ACCEPT_TCP6);
    if (argc == MOST)
        tap->dhcp = net_dhcp_new(argv[ADDRESS], (unsigned)atoi(argv[LENGTH]), answer, tap, &error);
    bool good = error == NULL;
    net_confine(NULL);
    int status = net_backend_ready(atoi(argv[STATUS_FD]), error);
    if (good)
        serve(tap);
    net_dhcp_free(tap->dhcp);
    net_link_clear(&tap->link);
    free(tap);
    return status;
}
