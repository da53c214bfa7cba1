/* SPDX-License-Identifier: MIT
 *
 * virtio-net, its port and frame socket between a driver and a network that both do anything.
 *
 * Input: 1 byte (bits 2 and 3: pairs of queues, less one), then records of 12 bytes (enum record).
 * The checks are those of asserts and sanitizers, and: what leaves the machine is a frame that
 * net_offload_check() accepts and the other end said it takes; the state survives save, restore,
 * save unchanged.
 */
#include "fuzz_device.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/state.h"
#include "net/link.h"
#include "net/port.h"
#include "virtio_guest.h"

enum record {
    START,       /* c, d: features */
    PUT_DESC,    /* a: queue and index, b: flags/next, c: address, d: length */
    PUT_HEADER,  /* of a frame to send: a: flags, gso; b: size; c, d: the rest */
    PUT_COMMAND, /* a: class and number, c, d: data */
    OFFER,       /* a: queue, b: head */
    NOTIFY,
    RUN,
    FRAME,   /* from the network: a: flags, b: size, c, d: offload */
    ACCEPTS, /* the network: a */
    DRAIN,   /* the network reads what came */
    LINK,    /* a: up or down */
    RATE,
    PAUSE,
    MACHINE_RESET,
    SAVE_RESTORE,
    GONE,        /* the network ends */
    QUEUE_RESET, /* of one queue, which is set up again; a: which */
    RECORD_COUNT
};

enum { RECEIVE, TRANSMIT, CONTROL, QUEUES, PAIRS_MAX = 4 };

struct target {
    struct guest g;
    struct net_port *port;
    int peer;
    unsigned accepts; /* everything the network ever said it takes */
    unsigned pairs;
};

/* Of the pair that the last bits of `pair` say; the control queue is behind all of them. */
static unsigned queue_at(const struct target *t, uint8_t a, unsigned pair)
{
    unsigned role = (a >> 6) % QUEUES;
    if (t->pairs > 1 && role == CONTROL)
        return 2 * t->pairs;
    return role == CONTROL ? CONTROL : 2 * (pair % t->pairs) + role;
}

static void drain(struct target *t)
{
    struct net_message message;
    static uint8_t data[NET_FRAME_MAX];
    struct iovec iov[] = {{&message, sizeof(message)}, {data, sizeof(data)}};
    struct msghdr header = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t size;
    while (t->peer >= 0 && (size = recvmsg(t->peer, &header, MSG_DONTWAIT)) > 0) {
        fuzz_check(size >= (ssize_t)sizeof(message) && (header.msg_flags & MSG_TRUNC) == 0);
        if (message.kind != NET_MESSAGE_FRAME)
            continue;
        fuzz_check(net_offload_check(&message.offload, (size_t)size - sizeof(message)));
        fuzz_check((message.offload.flags & NET_NEEDS_CHECKSUM) == 0 || t->accepts != 0);
    }
}

static void run(struct target *t)
{
    guest_pump(&t->g);
    vclock_run_timers(t->g.env.clock);
    guest_pump(&t->g);
}

static void send_frame(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d)
{
    static uint8_t data[NET_FRAME_MAX + 100];
    struct net_message message = {.kind = NET_MESSAGE_FRAME,
                                  .offload = {.flags = a & 3,
                                              .gso = a >> 2 & 7,
                                              .gso_size = (uint16_t)(c >> 16),
                                              .checksum_start = (uint16_t)c,
                                              .checksum_offset = (uint16_t)d}};
    struct iovec iov[] = {{&message, sizeof(message)}, {data, b}};
    struct msghdr header = {.msg_iov = iov, .msg_iovlen = 2};
    memset(data, (int)(d >> 16), 64);
    if ((a & 0x40) != 0) { /* IPv4: a flow */
        store_le16(data + 12, 0x0008);
        data[14] = 0x45;
        data[23] = 17;
        store_le16(data + 20, 0);
    }
    if ((a & 0x80) != 0)
        data[0] = 0xff;
    ssize_t sent = sendmsg(t->peer, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent;
}

static void put_desc(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d)
{
    uint64_t gpa = GUEST_DATA + (c & 0xffff);
    if ((c & 0x80000000) != 0)
        gpa = (uint64_t)c << (a & 31);
    ring_put_desc(t->g.mem, GUEST_RING(queue_at(t, a, a >> 3)), a & 0x1f, gpa, d, b & 7, b >> 3);
}

static void put_header(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d)
{
    uint8_t header[12] = {a & 3, a >> 2 & 7};
    store_le16(header + 2, b);
    store_le32(header + 4, c);
    store_le16(header + 8, (uint16_t)d);
    (void)mem_write(t->g.mem, GUEST_DATA, header, sizeof(header));
    for (unsigned pair = 0; pair < t->pairs; pair++) {
        uint64_t table = GUEST_RING(2 * pair + TRANSMIT);
        ring_put_desc(t->g.mem, table, 0, GUEST_DATA, 12, RING_NEXT, 1);
        ring_put_desc(t->g.mem, table, 1, GUEST_DATA + 64, b, 0, 0);
    }
}

static void put_command(struct target *t, uint8_t a, uint32_t c, uint32_t d)
{
    uint8_t command[10] = {a & 7, a >> 3 & 7};
    store_le32(command + 2, c);
    store_le32(command + 6, d);
    (void)mem_write(t->g.mem, GUEST_DATA + 0x4000, command, sizeof(command));
    uint64_t table = GUEST_RING(queue_at(t, CONTROL << 6, 0));
    ring_put_desc(t->g.mem, table, 0, GUEST_DATA + 0x4000, (a & 0x40) != 0 ? 10 : 600, RING_NEXT,
                  1);
    ring_put_desc(t->g.mem, table, 1, GUEST_DATA + 0x5000, 1, RING_WRITE, 0);
}

/* With split rings: those that it writes. */
static void start(struct target *t, uint64_t features)
{
    guest_start(&t->g, guest_offered(&t->g) & features & ~VIRTIO_F_RING_PACKED);
}

static void reset_queue(struct target *t, unsigned queue)
{
    struct guest *g = &t->g;
    struct ring *ring = &g->rings[queue];
    if (ring->size == 0)
        return;
    guest_set_reg(g, REG_QUEUE_SELECT, queue, 2);
    guest_set_reg(g, REG_QUEUE_RESET, 1, 2);
    *ring = ring_at(g->mem, GUEST_RING(queue), ring->size);
    ring_put16(g->mem, ring->avail + 2, 0);
    ring_put16(g->mem, ring->used + 2, 0);
    guest_set_queue(g, queue, ring);
}

static void driver_step(struct target *t, unsigned kind, uint8_t a, uint16_t b, uint32_t c,
                        uint32_t d)
{
    struct guest *g = &t->g;
    unsigned queue = queue_at(t, a, a);
    switch (kind) {
    case START:
        start(t, (uint64_t)d << 32 | c);
        break;
    case PUT_DESC:
        put_desc(t, a, b, c, d);
        break;
    case PUT_HEADER:
        put_header(t, a, b, c, d);
        break;
    case PUT_COMMAND:
        put_command(t, a, c, d);
        break;
    case OFFER:
        if (g->rings[queue].size != 0)
            ring_offer(&g->rings[queue], b);
        break;
    case QUEUE_RESET:
        reset_queue(t, queue);
        break;
    default:
        guest_notify(g, queue);
    }
}

static void step(struct target *t, struct fuzz_input *input)
{
    unsigned kind = (unsigned)fuzz_take(input, 1) % RECORD_COUNT;
    uint8_t a = (uint8_t)fuzz_take(input, 1);
    uint16_t b = (uint16_t)fuzz_take(input, 2);
    uint32_t c = (uint32_t)fuzz_take(input, 4), d = (uint32_t)fuzz_take(input, 4);
    struct device *device = t->g.device;
    const struct net_message accepts = {.kind = NET_MESSAGE_ACCEPTS, .value = a};
    switch (kind) {
    case RUN:
        run(t);
        break;
    case FRAME:
        send_frame(t, a, b, c, d);
        break;
    case ACCEPTS:
        t->accepts |= a & NET_ACCEPT_CHECKSUM;
        (void)!send(t->peer, &accepts, sizeof(accepts), MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    case DRAIN:
        drain(t);
        break;
    case LINK:
        net_port_set_link(t->port, a & 1);
        break;
    case RATE:
        net_port_set_rate(t->port, (uint64_t)c << (a & 15));
        net_port_set_limits(t->port, &(struct net_limits){0, (a & 16) != 0 ? b : 0},
                            &(struct net_limits){(uint64_t)d << (a & 15), (a & 32) != 0 ? b : 0});
        break;
    case PAUSE:
        device->ops->quiesce(device);
        run(t);
        device->ops->unquiesce(device);
        break;
    case MACHINE_RESET:
        fuzz_machine_reset(device);
        guest_map_bar(&t->g);
        break;
    case SAVE_RESTORE:
        fuzz_save_restore(t->g.device, c, a);
        guest_map_bar(&t->g); /* a damaged stream may have moved it */
        break;
    case GONE:
        if (t->peer >= 0)
            close(t->peer);
        t->peer = -1;
        break;
    default:
        driver_step(t, kind, a, b, c, d);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t mac[] = {2, 0, 0, 0, 0, 1};
    struct fuzz_input input = {data, size};
    struct target *t = calloc(1, sizeof(*t));
    int pair[2];
    guest_init(&t->g, false);
    fuzz_check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    t->peer = pair[1];
    t->port = net_port_new(pair[0], "fuzz", t->g.loop, t->g.env.clock, &t->g.log, NULL);
    uint8_t choice = (uint8_t)fuzz_take(&input, 1);
    t->pairs = (choice >> 2) % PAIRS_MAX + 1;
    guest_plug(&t->g, &device_virtio_net,
               &(struct device_params){
                   .id = "fuzz", .net = t->port, .mac = mac, .mtu = 1400, .queues = t->pairs});
    guest_map_bar(&t->g);
    if ((choice & 3) != 0)
        start(t, UINT64_MAX);
    while (input.left > 0)
        step(t, &input);
    run(t);
    drain(t);
    device_free(t->g.device);
    t->g.device = NULL;
    net_port_free(t->port);
    if (t->peer >= 0)
        close(t->peer);
    guest_free(&t->g);
    free(t);
    return 0;
}

/* One thing that a sensible driver or network does. */
static void add_sensible(uint8_t **at, uint64_t r, uint64_t s)
{
    uint8_t flags = (uint8_t)(r >> 20 & 3);
    switch (r >> 32 & 3) {
    case 0: /* sends */
        fuzz_add(at, PUT_HEADER, (uint8_t)(flags | (r >> 22 & 1) << 2), (uint16_t)(s % 3000),
                 (uint32_t)(40 + s % 64) << 16 | 34, 16);
        fuzz_add(at, OFFER, (uint8_t)(TRANSMIT << 6 | (s >> 50 & 3)), 0, 0, 0);
        fuzz_add(at, NOTIFY, (uint8_t)(TRANSMIT << 6 | (s >> 50 & 3)), 0, 0, 0);
        break;
    case 1: /* offers buffers */
        for (unsigned i = 0; i < 4; i++) {
            fuzz_add(at, PUT_DESC, (uint8_t)(RECEIVE << 6 | (r >> 44 & 3) << 3 | i), RING_WRITE,
                     (uint32_t)(i << 12), (uint32_t)(s >> (8 * i) & 0x7ff) + 1);
            fuzz_add(at, OFFER, (uint8_t)(RECEIVE << 6 | (r >> 44 & 3)),
                     (uint16_t)((r >> 44 & 3) << 3 | i), 0, 0);
        }
        fuzz_add(at, NOTIFY, (uint8_t)(RECEIVE << 6 | (r >> 44 & 3)), 0, 0, 0);
        break;
    case 2: /* receives */
        fuzz_add(at, FRAME, (uint8_t)(r >> 40), (uint16_t)(s % 5000 + 14),
                 (uint32_t)(s >> 16) & 0x7ff003f, (uint32_t)(s >> 40));
        break;
    default: /* commands */
        fuzz_add(at, PUT_COMMAND, (uint8_t)(r >> 40), 0, (uint32_t)s & 0xff, (uint32_t)(s >> 32));
        fuzz_add(at, OFFER, CONTROL << 6, 0, 0, 0);
        fuzz_add(at, NOTIFY, CONTROL << 6, 0, 0, 0);
    }
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    uint8_t *at = data;
    *at++ = (uint8_t)fuzz_random(seed);
    unsigned noise = (unsigned)(fuzz_random(seed) % 30);
    for (unsigned i = (unsigned)(fuzz_random(seed) % 30); i > 0; i--) {
        uint64_t r = fuzz_random(seed), s = fuzz_random(seed);
        add_sensible(&at, r, s);
        if ((r >> 52 & 31) == 0)
            fuzz_add(&at, QUEUE_RESET, (uint8_t)(s >> 8), 0, 0, 0);
        if ((r >> 50 & 3) != 0)
            fuzz_add(&at, RUN, 0, 0, 0, 0);
        if (r % 100 < noise)
            fuzz_add(&at, (uint8_t)(r >> 8), (uint8_t)(s >> 8), (uint16_t)(s >> 16),
                     (uint32_t)(s >> 32), (uint32_t)r);
    }
    return (size_t)(at - data);
}
