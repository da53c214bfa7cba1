/* SPDX-License-Identifier: MIT
 *
 * The e1000 between a driver and a network that both do anything.
 *
 * Input: records of 12 bytes (enum record). The checks are those of asserts and sanitizers, and:
 * what leaves the machine is a frame that net_offload_check() accepts; the state survives save,
 * restore, save unchanged.
 */
#include "fuzz_device.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/state.h"
#include "net/link.h"
#include "net/port.h"
#include "virtio_guest.h"

extern const struct device_ops device_e1000;

enum record {
    WRITE,   /* register b, value c */
    READ,    /* register b */
    TX_RING, /* descriptor a: c, d: its second half; its buffer is at b * 16 */
    RX_RING, /* the same */
    MEMORY,  /* GUEST_DATA + b: c, d */
    TX_TAIL, /* a */
    RX_TAIL, /* a */
    FRAME,   /* from the network: b bytes, a, c, d its start */
    RUN,
    DRAIN,
    LINK,
    PAUSE,
    MACHINE_RESET,
    SAVE_RESTORE,
    SET_UP, /* as a driver would */
    RECORD_COUNT
};

enum {
    RCTL = 0x100,
    TCTL = 0x400,
    RDBAL = 0x2800,
    RDLEN = 0x2808,
    RDT = 0x2818,
    TDBAL = 0x3800,
    TDLEN = 0x3808,
    TDT = 0x3818,
    IMS = 0xd0,
    RING_SLOTS = 32
};
#define TX_RING_GPA GUEST_RAM
#define RX_RING_GPA (GUEST_RAM + 0x4000)

struct target {
    struct guest g;
    struct net_port *port;
    int peer;
};

static void set(struct target *t, uint32_t reg, uint32_t value)
{
    (void)mem_io_write(t->g.mem, GUEST_BAR + reg, 4, value);
}

static void map(struct target *t)
{
    guest_config_put(&t->g, PCI_REG_BAR0, (uint32_t)GUEST_BAR, 4);
    guest_config_put(&t->g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

static void set_up(struct target *t, uint32_t rctl)
{
    map(t);
    set(t, TDBAL, (uint32_t)TX_RING_GPA);
    set(t, TDLEN, RING_SLOTS * 16);
    set(t, RDBAL, (uint32_t)RX_RING_GPA);
    set(t, RDLEN, RING_SLOTS * 16);
    set(t, IMS, 0xffff);
    set(t, RCTL, rctl | 2);
    set(t, TCTL, 2);
}

static void put_descriptor(struct target *t, uint64_t ring, uint8_t a, uint16_t b, uint32_t c,
                           uint32_t d)
{
    uint8_t raw[16];
    store_le64(raw, (a & 0x80) != 0 ? (uint64_t)c << 16 | b : GUEST_DATA + 16u * b);
    store_le32(raw + 8, c);
    store_le32(raw + 12, d);
    (void)mem_write(t->g.mem, ring + 16u * (a % RING_SLOTS), raw, sizeof(raw));
}

static void drain(struct target *t)
{
    static uint8_t data[NET_FRAME_MAX];
    struct net_message message;
    struct iovec iov[] = {{&message, sizeof(message)}, {data, sizeof(data)}};
    struct msghdr header = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t size;
    while ((size = recvmsg(t->peer, &header, MSG_DONTWAIT)) > 0) {
        fuzz_check(size >= (ssize_t)sizeof(message) && (header.msg_flags & MSG_TRUNC) == 0);
        if (message.kind == NET_MESSAGE_FRAME)
            fuzz_check(net_offload_check(&message.offload, (size_t)size - sizeof(message)));
    }
}

static void send_frame(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d)
{
    static uint8_t data[NET_FRAME_MAX];
    const struct net_message message = {.kind = NET_MESSAGE_FRAME, .offload.flags = a & 2};
    struct iovec iov[] = {{(void *)(uintptr_t)&message, sizeof(message)}, {data, b}};
    struct msghdr header = {.msg_iov = iov, .msg_iovlen = 2};
    memset(data, a & 1 ? 0xff : 0x02, 12);
    store_le32(data + 12, c);
    store_le32(data + 16, d);
    (void)!sendmsg(t->peer, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void run(struct target *t)
{
    for (unsigned i = 0; i < 3; i++)
        guest_pump(&t->g);
    vclock_run_timers(t->g.env.clock);
}

static void step(struct target *t, struct fuzz_input *input)
{
    unsigned kind = (unsigned)fuzz_take(input, 1) % RECORD_COUNT;
    uint8_t a = (uint8_t)fuzz_take(input, 1);
    uint16_t b = (uint16_t)fuzz_take(input, 2);
    uint32_t c = (uint32_t)fuzz_take(input, 4), d = (uint32_t)fuzz_take(input, 4);
    uint64_t wide = (uint64_t)d << 32 | c;
    struct device *device = t->g.device;
    switch (kind) {
    case WRITE:
        set(t, b & ~3u, c);
        break;
    case READ:
        (void)mem_io_read(t->g.mem, GUEST_BAR + (b & ~3u), 4, &wide);
        break;
    case TX_RING:
        put_descriptor(t, TX_RING_GPA, a, b, c, d);
        break;
    case RX_RING:
        put_descriptor(t, RX_RING_GPA, a, b, c, d);
        break;
    case MEMORY:
        (void)mem_write(t->g.mem, GUEST_DATA + b, &wide, sizeof(wide));
        break;
    case TX_TAIL:
        set(t, TDT, a % (RING_SLOTS + 2));
        break;
    case RX_TAIL:
        set(t, RDT, a % (RING_SLOTS + 2));
        break;
    case FRAME:
        send_frame(t, a, b, c, d);
        break;
    case RUN:
        run(t);
        break;
    case DRAIN:
        drain(t);
        break;
    case LINK:
        net_port_set_link(t->port, a & 1);
        break;
    case PAUSE:
        device->ops->quiesce(device);
        run(t);
        device->ops->unquiesce(device);
        break;
    case MACHINE_RESET:
        fuzz_machine_reset(device);
        map(t);
        break;
    case SAVE_RESTORE:
        fuzz_save_restore(t->g.device, c, a);
        map(t);
        break;
    default:
        set_up(t, c);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t mac[] = {2, 2, 2, 2, 2, 2};
    struct fuzz_input input = {data, size};
    struct target *t = calloc(1, sizeof(*t));
    int pair[2];
    guest_init(&t->g, false);
    fuzz_check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    t->peer = pair[1];
    t->port = net_port_new(pair[0], "fuzz", t->g.loop, t->g.env.clock, &t->g.log, NULL);
    guest_plug(&t->g, &device_e1000,
               &(struct device_params){.id = "fuzz", .net = t->port, .mac = mac});
    set_up(t, 0x8018);
    while (input.left > 0)
        step(t, &input);
    run(t);
    drain(t);
    device_free(t->g.device);
    t->g.device = NULL;
    net_port_free(t->port);
    close(t->peer);
    guest_free(&t->g);
    free(t);
    return 0;
}

/* A packet of one to three descriptors, some with a context, and its tail. */
static unsigned add_packet(uint8_t **at, unsigned slot, uint64_t r, uint64_t s)
{
    uint32_t command = 0x20u | (uint32_t)(r >> 20 & 0x4c), options = (uint32_t)(r >> 8 & 3);
    if (r >> 30 & 1) /* a context */
        fuzz_add(at, TX_RING, (uint8_t)(slot++ & 31), (uint16_t)s,
                 (0x20u | (uint32_t)(r >> 12 & 7)) << 24 | (uint32_t)(s >> 20 & 0xffff),
                 (uint32_t)(s & 0xfff) << 16 | 54u << 8);
    for (unsigned parts = 1 + (unsigned)(r % 3); parts > 0; parts--)
        fuzz_add(at, TX_RING, (uint8_t)(slot++ & 31), (uint16_t)(s & 0xff),
                 (command | (parts == 1 ? 9u : 0u)) << 24 | 1u << 20 | (uint32_t)(s >> 32 & 0x1fff),
                 (uint32_t)options << 8);
    fuzz_add(at, TX_TAIL, (uint8_t)(slot & 31), 0, 0, 0);
    return slot;
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    uint8_t *at = data;
    unsigned noise = (unsigned)(fuzz_random(seed) % 30), tx = 0, rx = 0;
    for (unsigned i = (unsigned)(fuzz_random(seed) % 30); i > 0; i--) {
        uint64_t r = fuzz_random(seed), s = fuzz_random(seed);
        switch (r >> 60) {
        case 0:
            fuzz_add(&at, MEMORY, 0, (uint16_t)(s & 0x3f), (uint32_t)s, (uint32_t)r);
            break;
        case 1 ... 6:
            tx = add_packet(&at, tx, r, s);
            break;
        case 7 ... 10:
            for (unsigned k = 0; k < 4; k++, rx++)
                fuzz_add(&at, RX_RING, (uint8_t)(rx & 31), (uint16_t)(k << 8), 0, 0);
            fuzz_add(&at, RX_TAIL, (uint8_t)(rx & 31), 0, 0, 0);
            break;
        default:
            fuzz_add(&at, FRAME, (uint8_t)r, (uint16_t)(14 + s % 3000), (uint32_t)(s >> 32),
                     (uint32_t)(r >> 8));
        }
        if ((r >> 50 & 3) != 0)
            fuzz_add(&at, RUN, 0, 0, 0, 0);
        if (r % 100 < noise)
            fuzz_add(&at, (uint8_t)(r >> 8), (uint8_t)(s >> 8), (uint16_t)(s >> 16) & 0x5fff,
                     (uint32_t)(s >> 32), (uint32_t)r);
    }
    return (size_t)(at - data);
}
