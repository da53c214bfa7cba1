/* SPDX-License-Identifier: MIT
 *
 * See port.h. Receiving stands still for one of two reasons, a NIC without room or a rate limit;
 * the watch is silent meanwhile, so that the socket fills and the backend feels it.
 */
#include "net/port.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/vclock.h"
#include "net/bucket.h"
#include "net/capture.h"
#include "net/link.h"

/* Frames of one turn: then others of the loop have theirs. */
#define TURN_FRAMES 64
#define QUEUE_LIMIT (256u << 10) /* segments of a large frame that is half sent */
#define MS          (NS_PER_S / 1000)
/* Between announcements: the first ones may come before a switch's port is up. As QEMU does. */
static const int64_t announce_gaps[] = {50 * MS, 150 * MS, 250 * MS, 350 * MS}; /* ns */

/* Of a direction. */
struct meter {
    struct net_limits limits;
    struct net_bucket bytes, frames;
};

struct net_port {
    struct net_link link;
    struct loop *loop;
    struct vclock *clock;
    struct log *log;
    char name[32];
    struct loop_watch *watch;
    const struct net_port_user *user;
    void *opaque;
    struct net_frame held; /* refused by the NIC; size 0: none. Its memory is the link's. */
    bool gone, set_down;
    bool send_waits;  /* the user was told to wait */
    unsigned accepts; /* announced */
    uint64_t rate;    /* bytes per second */
    struct meter sends, receives;
    struct vtimer *send_timer, *receive_timer, *announce_timer;
    unsigned announced; /* times, of this series */
    struct net_capture *capture;
    struct net_port_stats stats;
};

bool net_port_link(const struct net_port *port)
{
    return !port->gone && !port->set_down;
}

static void watch(struct net_port *port)
{
    unsigned events = 0;
    if (port->held.size == 0 && vtimer_deadline(port->receive_timer) == VCLOCK_NEVER)
        events |= LOOP_READABLE;
    if (port->link.first != NULL ||
        (port->send_waits && vtimer_deadline(port->send_timer) == VCLOCK_NEVER))
        events |= LOOP_WRITABLE;
    if (!port->gone)
        loop_watch_set(port->watch, events);
}

static void changed(struct net_port *port, bool before)
{
    if (net_port_link(port) != before && port->user != NULL)
        port->user->link_changed(port->opaque, net_port_link(port));
}

static void writable(struct net_port *port)
{
    bool waits = port->send_waits;
    port->send_waits = false;
    if (waits && port->user != NULL)
        port->user->writable(port->opaque);
}

static void lose(struct net_port *port)
{
    bool before = net_port_link(port);
    if (port->gone)
        return;
    port->gone = true;
    loop_watch_set(port->watch, 0);
    log_warning(port->log,
                "%s: the process behind this network has ended; the guest's link is down for good",
                port->name);
    changed(port, before);
    writable(port); /* what waits is lost, not stuck */
}

static void capture(struct net_port *port, bool out, const struct iovec *iov, unsigned count)
{
    if (port->capture != NULL)
        net_capture_frame(port->capture, vclock_wall_now(port->clock), out, iov, count);
}

/* --- limits --- */

static uint64_t lower(uint64_t one, uint64_t other)
{
    return one == 0 || (other != 0 && other < one) ? other : one;
}

static void set_meter(struct meter *meter, uint64_t rate, int64_t now)
{
    net_bucket_set(&meter->bytes, lower(meter->limits.bytes, rate), now);
    net_bucket_set_of(&meter->frames, meter->limits.frames, 1, now);
}

/* 0: one more may come; else nanoseconds. */
static int64_t meter_wait(struct meter *meter, int64_t now)
{
    int64_t bytes = net_bucket_wait(&meter->bytes, now);
    int64_t frames = net_bucket_wait(&meter->frames, now);
    return bytes > frames ? bytes : frames;
}

static void meter_take(struct meter *meter, uint64_t bytes)
{
    net_bucket_take(&meter->bytes, bytes);
    net_bucket_take(&meter->frames, 1);
}

static void apply_limits(struct net_port *port)
{
    int64_t now = vclock_now(port->clock);
    set_meter(&port->sends, port->rate, now);
    set_meter(&port->receives, port->rate, now);
    vtimer_disarm(port->send_timer);
    vtimer_disarm(port->receive_timer);
    watch(port);
}

/* --- from the network --- */

/* False: the NIC has no room. */
static bool offer(struct net_port *port, const struct net_frame *frame)
{
    if (port->set_down || port->user == NULL)
        return true;
    if (!port->user->receive(port->opaque, frame))
        return false;
    port->stats.received_frames++;
    port->stats.received_bytes += frame->size;
    const struct iovec iov = {frame->data, frame->size};
    capture(port, false, &iov, 1);
    meter_take(&port->receives, frame->size);
    return true;
}

static bool may_receive(struct net_port *port)
{
    int64_t now = vclock_now(port->clock), wait = meter_wait(&port->receives, now);
    if (wait > 0)
        vtimer_arm(port->receive_timer, now + wait);
    return wait == 0;
}

static void receive(struct net_port *port)
{
    enum net_status status = NET_DONE;
    for (unsigned turn = 0; turn < TURN_FRAMES && may_receive(port); turn++) {
        struct net_frame frame;
        status = net_link_receive(&port->link, &frame);
        if (status != NET_DONE)
            break;
        if (!offer(port, &frame)) {
            port->held = frame;
            break;
        }
    }
    if (port->user != NULL)
        port->user->received(port->opaque);
    if (port->capture != NULL && status == NET_AGAIN)
        net_capture_flush(port->capture);
    if (status == NET_GONE)
        lose(port);
}

void net_port_resume(struct net_port *port)
{
    if (port->held.size == 0 || !offer(port, &port->held))
        return;
    port->held.size = 0;
    if (port->user != NULL)
        port->user->received(port->opaque);
    watch(port);
}

static void on_receive_timer(void *opaque)
{
    watch(opaque);
}

/* --- to the network --- */

bool net_port_send(struct net_port *port, const struct net_offload *offload,
                   const struct iovec *iov, unsigned count)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    if (net_port_link(port)) {
        int64_t now = vclock_now(port->clock), wait = meter_wait(&port->sends, now);
        enum net_status status =
            wait > 0 ? NET_AGAIN : net_link_send(&port->link, offload, iov, count);
        if (wait > 0)
            vtimer_arm(port->send_timer, now + wait);
        port->send_waits = status == NET_AGAIN;
        if (port->send_waits || port->link.first != NULL)
            watch(port);
        if (port->send_waits)
            return false;
        /* NET_GONE: the watch will tell; until then the frame is lost like others. */
    }
    meter_take(&port->sends, bytes);
    port->stats.sent_frames++;
    port->stats.sent_bytes += bytes;
    capture(port, true, iov, count);
    return true;
}

static void on_send_timer(void *opaque)
{
    writable(opaque);
    watch(opaque);
}

void net_port_accept(struct net_port *port, unsigned accepts)
{
    if (port->accepts == accepts)
        return;
    port->accepts = accepts;
    net_link_announce(&port->link, accepts);
    watch(port);
}

/* --- announcing --- */

/* A request of RARP (RFC 903) for its own address, which nobody answers: as QEMU and VMware do, for
 * a switch learns from any frame, and this one needs no IP address. */
static void make_rarp(const uint8_t mac[NET_MAC_BYTES], uint8_t frame[60])
{
    static const uint8_t fixed[] = {0x80, 0x35, 0, 1, 8, 0, NET_MAC_BYTES, 4, 0, 3};
    memset(frame, 0, 60);
    memset(frame, 0xff, NET_MAC_BYTES);
    memcpy(frame + NET_MAC_BYTES, mac, NET_MAC_BYTES);
    memcpy(frame + 12, fixed, sizeof(fixed));
    memcpy(frame + 22, mac, NET_MAC_BYTES); /* the sender's, */
    memcpy(frame + 32, mac, NET_MAC_BYTES); /* and whose it asks for */
}

static void announce(void *opaque)
{
    struct net_port *port = opaque;
    const struct net_offload none = {.gso = NET_GSO_NONE};
    uint8_t mac[NET_MAC_BYTES], frame[60];
    const struct iovec iov = {frame, sizeof(frame)};
    if (port->user == NULL)
        return;
    port->user->announce(port->opaque, port->announced == 0, mac);
    make_rarp(mac, frame);
    bool waits = port->send_waits;
    (void)net_port_send(port, &none, &iov, 1); /* there is another time */
    port->send_waits |= waits;
    watch(port);
    if (port->announced < ARRAY_SIZE(announce_gaps))
        vtimer_arm(port->announce_timer,
                   vclock_now(port->clock) + announce_gaps[port->announced++]);
}

void net_port_announce(struct net_port *port)
{
    port->announced = 0;
    announce(port);
}

/* --- events --- */

static void on_ready(void *opaque, int fd, unsigned events)
{
    struct net_port *port = opaque;
    (void)fd;
    if ((events & LOOP_WRITABLE) != 0 && net_link_flush(&port->link) == NET_DONE)
        writable(port);
    if ((events & LOOP_READABLE) != 0 && port->held.size == 0)
        receive(port);
    /* What was sent before the end has been read by then, or has no room any more. */
    if ((events & LOOP_HANGUP) != 0 && ((events & LOOP_READABLE) == 0 || port->held.size > 0))
        lose(port);
    watch(port);
}

/* --- settings --- */

void net_port_set_link(struct net_port *port, bool up)
{
    bool before = net_port_link(port);
    port->set_down = !up;
    if (!up) {
        port->held.size = 0;
        writable(port);
    }
    changed(port, before);
    watch(port);
}

void net_port_set_rate(struct net_port *port, uint64_t rate)
{
    port->rate = rate;
    apply_limits(port);
}

void net_port_set_limits(struct net_port *port, const struct net_limits *send,
                         const struct net_limits *receive)
{
    port->sends.limits = *send;
    port->receives.limits = *receive;
    apply_limits(port);
}

void net_port_get_limits(const struct net_port *port, struct net_limits *send,
                         struct net_limits *receive)
{
    *send = port->sends.limits;
    *receive = port->receives.limits;
}

void net_port_set_capture(struct net_port *port, struct net_capture *capture_file)
{
    net_capture_free(port->capture);
    port->capture = capture_file;
}

struct net_port_stats net_port_stats(const struct net_port *port)
{
    return port->stats;
}

void net_port_attach(struct net_port *port, const struct net_port_user *user, void *opaque)
{
    port->user = user;
    port->opaque = opaque;
}

struct net_port *net_port_new(int fd, const char *name, struct loop *loop, struct vclock *clock,
                              struct log *log, struct error **err)
{
    struct net_port *port = alloc_zeroed(1, sizeof(*port));
    port->loop = loop;
    port->clock = clock;
    port->log = log;
    snprintf(port->name, sizeof(port->name), "%s", name);
    net_link_init(&port->link, fd, QUEUE_LIMIT);
    port->send_timer = vtimer_new(clock, on_send_timer, port);
    port->receive_timer = vtimer_new(clock, on_receive_timer, port);
    port->announce_timer = vtimer_new(clock, announce, port);
    port->watch = loop_watch_add(loop, fd, LOOP_READABLE, on_ready, port, err);
    if (port->watch != NULL)
        return port;
    error_prefix(err, "%s", name);
    net_port_free(port);
    return NULL;
}

void net_port_free(struct net_port *port)
{
    if (port == NULL)
        return;
    loop_watch_remove(port->watch);
    vtimer_free(port->send_timer);
    vtimer_free(port->receive_timer);
    vtimer_free(port->announce_timer);
    net_capture_free(port->capture);
    close(port->link.fd);
    net_link_clear(&port->link);
    free(port);
}
