/* SPDX-License-Identifier: MIT
 *
 * virtio-vsock between a driver and programs of the host that all do anything.
 *
 * Input: 1 byte (unused), then records of 12 bytes (enum record). The checks are those of
 * asserts and sanitizers, and: everything delivered is a packet for this guest whose length is
 * what the ring says; data never exceeds what the driver gave credit for; the state survives
 * save, restore, save unchanged.
 */
#include "fuzz_device.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/state.h"
#include "dev/vsock.h"
#include "virtio_guest.h"
#include "vsock_host.h"

extern const struct device_ops device_virtio_vsock;

enum record {
    START,
    PUT_DESC, /* a: queue and index, b: flags/next, c: address, d: length */
    OFFER,    /* a: queue, b: head */
    NOTIFY,
    PACKET, /* the guest sends; a: op, b: length and flags, c: ports, d: credit */
    ODD,    /* the same, with c in the header at b */
    BUFFERS,
    RUN,
    CLIENT, /* a: which, connects and says "CONNECT " c; or something else */
    WRITE,  /* a: which, b: bytes */
    READ,
    SHUT,  /* a: which, b: how */
    CLOSE, /* a: which */
    LISTEN,
    PAUSE,
    MACHINE_RESET,
    SAVE_RESTORE,
    RECORD_COUNT
};

enum { RECEIVE, TRANSMIT, EVENT, QUEUES, HEADER = 44, GUEST_CID = 3, PEERS = 8 };
#define OUT (GUEST_DATA + 0x80000)

struct target {
    struct guest g;
    struct vsock_host host;
    struct sockaddr_un other; /* of the host's port 5 */
    int peers[PEERS], listening;
    uint16_t seen, given; /* receive buffers */
    bool tidy;            /* the receive ring has no buffers but ours */
};

static void nonblocking_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* What arrived in buffers of ours. */
static void check_received(struct target *t)
{
    struct ring *ring = &t->g.rings[RECEIVE];
    if (!t->tidy || ring->size == 0)
        return;
    for (; t->seen != ring_used_index(ring); t->seen++) {
        uint64_t at = GUEST_DATA + 0x1000 * ring_used_head(ring, t->seen);
        uint32_t length = ring_get(t->g.mem, at + 24, 4), op = ring_get(t->g.mem, at + 30, 2);
        fuzz_check(ring_used_length(ring, t->seen) == HEADER + length);
        fuzz_check(ring_get(t->g.mem, at + 8, 4) == GUEST_CID);
        fuzz_check(op >= VSOCK_REQUEST && op <= VSOCK_CREDIT_REQUEST);
        fuzz_check((op == VSOCK_RW) == (length > 0));
    }
}

static void run(struct target *t)
{
    for (unsigned i = 0; i < 3; i++) {
        guest_pump(&t->g);
        vsock_host_answer(&t->host);
    }
    check_received(t);
}

static void start(struct target *t, uint32_t features)
{
    guest_start(&t->g, guest_offered(&t->g) & features);
    t->seen = t->given = 0;
    t->tidy = true;
}

static void packet(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d)
{
    uint8_t header[HEADER] = {0};
    store_le64(header, GUEST_CID);
    store_le64(header + 8, VSOCK_HOST_CID);
    store_le32(header + 16, c & 0xf);
    store_le32(header + 20, (c & 0x80) != 0 ? 0x40000000 + (c >> 4 & 7) : 5);
    store_le32(header + 24, b & 0x3fff);
    store_le16(header + 28, VSOCK_TYPE_STREAM);
    store_le16(header + 30, a & 7);
    store_le32(header + 32, b >> 14);
    store_le32(header + 36, d >> 8);
    store_le32(header + 40, d & 0xff);
    (void)mem_write(t->g.mem, OUT, header, HEADER);
    ring_put_desc(t->g.mem, GUEST_RING(TRANSMIT), 0, OUT, HEADER + (b & 0x3fffu), 0, 0);
    if (t->g.rings[TRANSMIT].size != 0)
        ring_offer(&t->g.rings[TRANSMIT], 0);
    guest_notify(&t->g, TRANSMIT);
}

static void odd_packet(struct target *t, uint8_t a, uint16_t b, uint32_t c)
{
    (void)mem_write(t->g.mem, OUT + b % HEADER, &c, 1 + a % 4);
    if (t->g.rings[TRANSMIT].size != 0)
        ring_offer(&t->g.rings[TRANSMIT], 0);
    guest_notify(&t->g, TRANSMIT);
}

static void buffers(struct target *t)
{
    struct ring *ring = &t->g.rings[RECEIVE];
    check_received(t);
    if (ring->size == 0 || (t->tidy && t->seen != t->given))
        return; /* some are still the device's */
    for (unsigned i = 0; i < 16; i++) {
        ring_desc(ring, i, GUEST_DATA + 0x1000 * i, 0x1000, RING_WRITE, 0);
        ring_offer(ring, (uint16_t)i);
        t->given++;
    }
    guest_notify(&t->g, RECEIVE);
}

static void client(struct target *t, int *fd, uint16_t b, uint32_t c)
{
    char line[64];
    nonblocking_close(fd);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    fuzz_check(*fd >= 0);
    if (connect(*fd, (struct sockaddr *)&t->host.address, sizeof(t->host.address)) != 0) {
        nonblocking_close(fd);
        return;
    }
    int size = (b & 7) != 0 ? snprintf(line, sizeof(line), "CONNECT %u\nmore", c & 0xf)
                            : snprintf(line, sizeof(line), "%.4s %u\n", (const char *)&c, b);
    (void)!send(*fd, line, (size_t)size, MSG_NOSIGNAL);
}

static void listen_or_accept(struct target *t, int *fd)
{
    if (t->listening < 0) {
        t->listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)unlink(t->other.sun_path);
        fuzz_check(bind(t->listening, (struct sockaddr *)&t->other, sizeof(t->other)) == 0);
        fuzz_check(listen(t->listening, 4) == 0);
        return;
    }
    nonblocking_close(fd);
    *fd = accept4(t->listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static void write_or_read(int fd, bool write, uint16_t size)
{
    static uint8_t data[65536];
    if (fd < 0)
        return;
    if (write)
        (void)!send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    else
        (void)!recv(fd, data, size, MSG_DONTWAIT);
}

static void put_desc(struct target *t, uint8_t a, uint16_t b, uint32_t c, uint32_t d)
{
    uint64_t gpa = GUEST_DATA + (c & 0xffff);
    if ((c & 0x80000000) != 0)
        gpa = (uint64_t)c << (a & 31);
    ring_put_desc(t->g.mem, GUEST_RING((a >> 6) % QUEUES), a & 0x1f, gpa, d, b & 7, b >> 3);
    t->tidy = false;
}

static void save_restore(struct target *t, uint32_t damage, uint8_t byte)
{
    fuzz_save_restore(t->g.device, damage, byte);
    if (byte != 0)
        t->tidy = false;
    guest_map_bar(&t->g); /* a damaged stream may have moved it */
}

static void machine_step(struct target *t, unsigned kind, uint8_t a, uint32_t c)
{
    struct device *device = t->g.device;
    device->ops->quiesce(device);
    if (kind == MACHINE_RESET)
        device->ops->reset(device);
    else
        run(t);
    device->ops->unquiesce(device);
    guest_map_bar(&t->g);
    if (kind == SAVE_RESTORE)
        save_restore(t, c, a);
}

static void step(struct target *t, struct fuzz_input *input)
{
    unsigned kind = (unsigned)fuzz_take(input, 1) % RECORD_COUNT;
    uint8_t a = (uint8_t)fuzz_take(input, 1);
    uint16_t b = (uint16_t)fuzz_take(input, 2);
    uint32_t c = (uint32_t)fuzz_take(input, 4), d = (uint32_t)fuzz_take(input, 4);
    unsigned queue = (a >> 6) % QUEUES;
    int *peer = &t->peers[a % PEERS];
    switch (kind) {
    case START:
        start(t, c);
        break;
    case PUT_DESC:
        put_desc(t, a, b, c, d);
        break;
    case OFFER:
        if (t->g.rings[queue].size != 0)
            ring_offer(&t->g.rings[queue], b);
        t->tidy = false;
        break;
    case NOTIFY:
        guest_notify(&t->g, queue);
        break;
    case PACKET:
        packet(t, a, b, c, d);
        break;
    case ODD:
        odd_packet(t, a, b, c);
        break;
    case BUFFERS:
        buffers(t);
        break;
    case RUN:
        run(t);
        break;
    case CLIENT:
        client(t, peer, b, c);
        break;
    case WRITE:
    case READ:
        write_or_read(*peer, kind == WRITE, b);
        break;
    case SHUT:
        if (*peer >= 0)
            (void)shutdown(*peer, b % 3);
        break;
    case CLOSE:
        nonblocking_close(peer);
        break;
    case LISTEN:
        listen_or_accept(t, peer);
        break;
    default:
        machine_step(t, kind, a, c);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct target *t = calloc(1, sizeof(*t));
    char path[64];
    snprintf(path, sizeof(path), "/tmp/trapeze-fuzz-%d", (int)getpid());
    t->other.sun_family = AF_UNIX;
    snprintf(t->other.sun_path, sizeof(t->other.sun_path), "/tmp/trapeze-fuzz-%d_5", (int)getpid());
    t->listening = -1;
    for (unsigned i = 0; i < PEERS; i++)
        t->peers[i] = -1;
    const struct device_vsock vsock = vsock_host_open(&t->host, path, GUEST_CID);
    guest_init(&t->g, false);
    guest_plug(&t->g, &device_virtio_vsock, &(struct device_params){.id = "fuzz", .vsock = &vsock});
    guest_map_bar(&t->g);
    if ((fuzz_take(&input, 1) & 7) != 0)
        start(t, 1);
    while (input.left > 0)
        step(t, &input);
    run(t);
    guest_free(&t->g);
    for (unsigned i = 0; i < PEERS; i++)
        nonblocking_close(&t->peers[i]);
    nonblocking_close(&t->listening);
    (void)unlink(t->other.sun_path);
    vsock_host_close(&t->host);
    free(t);
    return 0;
}

/* Many at a time, with no turn of the loop in between: what has limits reaches them. */
static void add_burst(uint8_t **at, uint64_t r, uint64_t s)
{
    static const uint8_t ops[] = {VSOCK_RST,      VSOCK_REQUEST,        VSOCK_RW,
                                  VSOCK_RESPONSE, VSOCK_CREDIT_REQUEST, VSOCK_SHUTDOWN};
    unsigned kind = (unsigned)(r >> 36) % (ARRAY_SIZE(ops) + 2);
    for (unsigned i = 0; i < 4 + (r >> 40) % 28; i++, s = s >> 3 | s << 61) {
        uint32_t ports = (s & 0x40) != 0 ? (uint32_t)(s & 0x3f) : 0x80u | (uint32_t)(s & 0x7f);
        if (kind < ARRAY_SIZE(ops))
            fuzz_add(at, PACKET, ops[kind], (uint16_t)(kind == 2 ? s & 0x3ff : s & 0xc000), ports,
                     UINT32_MAX & ~0xffu);
        else if (kind == ARRAY_SIZE(ops))
            fuzz_add(at, CLIENT, (uint8_t)i, 1, (uint32_t)(s & 0xf), 0);
        else
            fuzz_add(at, i % 2 == 0 ? WRITE : CLOSE, (uint8_t)(s & 7), (uint16_t)(s >> 8), 0, 0);
    }
}

/* A driver and programs that mostly mean it. */
static void add_sensible(uint8_t **at, uint64_t r, uint64_t s)
{
    uint8_t peer = r & 7;
    uint32_t ports = (r >> 8 & 1) != 0 ? 0x80u | (uint32_t)(s & 0x7f) : (uint32_t)(s & 0xf);
    switch ((r >> 32) % 10) {
    case 0:
        fuzz_add(at, CLIENT, peer, 1, (uint32_t)(s & 0xf), 0);
        break;
    case 1: /* opens */
        fuzz_add(at, LISTEN, peer, 0, 0, 0);
        fuzz_add(at, PACKET, VSOCK_REQUEST, 0, (uint32_t)(s & 0xf), UINT32_MAX);
        fuzz_add(at, RUN, 0, 0, 0, 0);
        fuzz_add(at, LISTEN, peer, 0, 0, 0);
        break;
    case 2: /* accepts */
        fuzz_add(at, PACKET, VSOCK_RESPONSE, 0, ports | 0x80, (uint32_t)(s >> 16) & 0xffff00);
        break;
    case 3:
        fuzz_add(at, WRITE, peer, (uint16_t)(s >> 8), 0, 0);
        break;
    case 4:
        fuzz_add(at, READ, peer, (uint16_t)(s >> 8), 0, 0);
        break;
    case 5:
        fuzz_add(at, BUFFERS, 0, 0, 0, 0);
        break;
    case 6: /* shuts, closes */
        fuzz_add(at, (uint8_t)((s >> 20 & 1) != 0 ? SHUT : CLOSE), peer, (uint16_t)(s >> 30), 0, 0);
        fuzz_add(at, PACKET, VSOCK_SHUTDOWN, (uint16_t)(s >> 8 & 0xc000), ports, UINT32_MAX);
        break;
    case 7:
        fuzz_add(at, PACKET, VSOCK_RST, 0, ports, 0);
        break;
    case 8:
        add_burst(at, r, s);
        break;
    default:
        fuzz_add(at, PACKET, VSOCK_RW, (uint16_t)(s >> 8 & 0x3fff), ports, UINT32_MAX & ~0xffu);
    }
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    uint8_t *at = data;
    *at++ = (uint8_t)fuzz_random(seed);
    unsigned noise = (unsigned)(fuzz_random(seed) % 30);
    fuzz_add(&at, BUFFERS, 0, 0, 0, 0);
    const uint8_t *end = data + FUZZ_INPUT_MAX - 40 * 12; /* room for a burst and more */
    for (unsigned i = (unsigned)(fuzz_random(seed) % 50); i > 0 && at < end; i--) {
        uint64_t r = fuzz_random(seed), s = fuzz_random(seed);
        add_sensible(&at, r, s);
        if ((r >> 50 & 3) != 0)
            fuzz_add(&at, RUN, 0, 0, 0, 0);
        if (r % 100 < noise)
            fuzz_add(&at, (uint8_t)(r >> 8), (uint8_t)(s >> 8), (uint16_t)(s >> 16),
                     (uint32_t)(s >> 32), (uint32_t)r);
    }
    return (size_t)(at - data);
}
