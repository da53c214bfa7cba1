/* SPDX-License-Identifier: MIT
 *
 * dev/virtio_vsock.c and dev/vsock.c between a driver and programs of the host: both ways to a
 * connection, credit, ends of every kind, bounds.
 */
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/state.h"
#include "base/vclock.h"
#include "dev/vsock.h"
#include "virtio_guest.h"
#include "vsock_host.h"

extern const struct device_ops device_virtio_vsock;

enum { RECEIVE, TRANSMIT, EVENT };
enum { HEADER = 44, GUEST_CID = 7, BUFFERS = 64, BUFFER_BYTES = 4096 };
#define OUT (GUEST_DATA + 0x100000) /* what the guest sends */

struct fixture {
    struct guest g;
    struct vsock_host host;
    char path[64];
    uint16_t seen;               /* of the receive queue's used ring */
    unsigned head;               /* receive buffer of the last packet */
    uint32_t length;             /* of its data */
    uint32_t buf_alloc, fwd_cnt; /* what the guest says in all it sends */
    uint64_t src_cid, dst_cid;
    uint16_t type;
    uint32_t told_taken; /* by the last packet */
};

static void pump(struct fixture *f)
{
    for (unsigned i = 0; i < 6; i++) {
        vsock_host_answer(&f->host);
        guest_pump(&f->g);
    }
}

static void give(struct fixture *f, unsigned index)
{
    ring_desc(&f->g.rings[RECEIVE], index, GUEST_DATA + BUFFER_BYTES * index, BUFFER_BYTES,
              RING_WRITE, 0);
    ring_offer(&f->g.rings[RECEIVE], (uint16_t)index);
}

static void start(struct fixture *f)
{
    guest_start(&f->g, 1);
    f->seen = 0;
    for (unsigned i = 0; i < BUFFERS; i++)
        give(f, i);
    guest_notify(&f->g, RECEIVE);
    pump(f);
}

static void plug(struct guest *g, struct vsock_host *host, const char *path)
{
    const struct device_vsock vsock = vsock_host_open(host, path, GUEST_CID);
    guest_init(g, false);
    guest_plug(g, &device_virtio_vsock, &(struct device_params){.id = "vsock0", .vsock = &vsock});
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    snprintf(f->path, sizeof(f->path), "/tmp/trapeze-vsock-%d", (int)getpid());
    plug(&f->g, &f->host, f->path);
    f->buf_alloc = 65536;
    f->src_cid = GUEST_CID;
    f->dst_cid = VSOCK_HOST_CID;
    f->type = VSOCK_TYPE_STREAM;
    start(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    guest_free(&f->g);
    vsock_host_close(&f->host);
    free(f);
    return 0;
}

/* A packet with `size` bytes of data whose header says `said`. */
static void sends_as(struct fixture *f, uint32_t host_port, uint32_t guest_port, uint16_t op,
                     uint32_t flags, const void *data, uint32_t size, uint32_t said)
{
    struct ring *ring = &f->g.rings[TRANSMIT];
    uint8_t header[HEADER] = {0};
    store_le64(header, f->src_cid);
    store_le64(header + 8, f->dst_cid);
    store_le32(header + 16, guest_port);
    store_le32(header + 20, host_port);
    store_le32(header + 24, said);
    store_le16(header + 28, f->type);
    store_le16(header + 30, op);
    store_le32(header + 32, flags);
    store_le32(header + 36, f->buf_alloc);
    store_le32(header + 40, f->fwd_cnt);
    assert_true(mem_write(f->g.mem, OUT, header, HEADER));
    if (data != NULL)
        assert_true(mem_write(f->g.mem, OUT + HEADER, data, size));
    ring_desc(ring, 0, OUT, HEADER + size, 0, 0);
    ring_offer(ring, 0);
    guest_notify(&f->g, TRANSMIT);
    pump(f);
}

static void sends(struct fixture *f, uint32_t host_port, uint32_t guest_port, uint16_t op,
                  uint32_t flags)
{
    sends_as(f, host_port, guest_port, op, flags, NULL, 0, 0);
}

/* The next packet's op, 0 if there is none; its buffer goes back with the next one's. */
static uint16_t receives(struct fixture *f, uint32_t *host_port, uint32_t *guest_port)
{
    struct ring *ring = &f->g.rings[RECEIVE];
    pump(f);
    if (ring_used_index(ring) == f->seen)
        return 0;
    uint64_t at;
    f->head = ring_used_head(ring, f->seen);
    at = GUEST_DATA + BUFFER_BYTES * f->head;
    f->length = (uint32_t)ring_get(f->g.mem, at + 24, 4);
    assert_int_equal(ring_used_length(ring, f->seen), HEADER + f->length);
    assert_int_equal(ring_get(f->g.mem, at + 8, 4), GUEST_CID);
    f->seen++;
    if (host_port != NULL)
        *host_port = (uint32_t)ring_get(f->g.mem, at + 16, 4);
    if (guest_port != NULL)
        *guest_port = (uint32_t)ring_get(f->g.mem, at + 20, 4);
    f->told_taken = (uint32_t)ring_get(f->g.mem, at + 40, 4);
    uint16_t op = (uint16_t)ring_get(f->g.mem, at + 30, 2);
    give(f, f->head);
    guest_notify(&f->g, RECEIVE);
    return op;
}

static uint32_t flags_of(struct fixture *f)
{
    return (uint32_t)ring_get(f->g.mem, GUEST_DATA + BUFFER_BYTES * f->head + 32, 4);
}

static struct sockaddr_un address_of(const char *path, const char *more)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s%s", path, more);
    return address;
}

static int client(struct fixture *f, const char *line)
{
    struct sockaddr_un address = address_of(f->path, "");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(send(fd, line, strlen(line), 0), (ssize_t)strlen(line));
    pump(f);
    return fd;
}

/* Who listens for the guest's port 5000. */
static int listener(struct fixture *f)
{
    struct sockaddr_un address = address_of(f->path, "_5000");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)unlink(address.sun_path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 1000), 0);
    return fd;
}

static void stop_listening(struct fixture *f, int fd)
{
    struct sockaddr_un address = address_of(f->path, "_5000");
    (void)unlink(address.sun_path);
    close(fd);
}

static void expect_text(int fd, const char *text)
{
    char got[128] = "";
    ssize_t size = recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT);
    assert_int_equal(size, strlen(text));
    assert_string_equal(got, text);
}

static void expect_end(int fd)
{
    char byte;
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
}

/* A client's connection to guest port 80; returns the client, *port: ours. */
static int open_from_host(struct fixture *f, uint32_t *port)
{
    char text[32];
    uint32_t guest_port;
    int fd = client(f, "CONNECT 80\n");
    assert_int_equal(receives(f, port, &guest_port), VSOCK_REQUEST);
    assert_int_equal(guest_port, 80);
    sends(f, *port, 80, VSOCK_RESPONSE, 0);
    snprintf(text, sizeof(text), "OK %u\n", *port);
    expect_text(fd, text);
    return fd;
}

/* The guest's port 900 to the host's 5000; returns the host's end. */
static int open_from_guest(struct fixture *f, int listening)
{
    sends(f, 5000, 900, VSOCK_REQUEST, 0);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RESPONSE);
    int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

static void clients_reach_the_guest(void **state)
{
    struct fixture *f = *state;
    uint32_t port;
    assert_int_equal(guest_reg(&f->g, REG_CONFIG, 4), GUEST_CID);
    int fd = open_from_host(f, &port);
    assert_int_equal(send(fd, "hello", 5, 0), 5);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RW);
    assert_int_equal(f->length, 5);
    assert_int_equal(ring_get(f->g.mem, GUEST_DATA + BUFFER_BYTES * f->head + HEADER, 1), 'h');
    sends_as(f, port, 80, VSOCK_RW, 0, "world", 5, 5);
    expect_text(fd, "world");

    /* Half-close: the client has said all, and still gets the answer. */
    shutdown(fd, SHUT_WR);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_SHUTDOWN);
    assert_int_equal(flags_of(f), VSOCK_NO_SEND);
    sends_as(f, port, 80, VSOCK_RW, 0, "bye", 3, 3);
    expect_text(fd, "bye");
    sends(f, port, 80, VSOCK_SHUTDOWN, VSOCK_NEITHER);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    expect_end(fd);
    close(fd);
}

static void the_guest_reaches_the_host(void **state)
{
    struct fixture *f = *state;
    int listening = listener(f), fd = open_from_guest(f, listening);
    sends_as(f, 5000, 900, VSOCK_RW, 0, "ask", 3, 3);
    expect_text(fd, "ask");
    sends(f, 5000, 900, VSOCK_SHUTDOWN, VSOCK_NO_SEND);
    expect_end(fd);
    assert_int_equal(send(fd, "reply", 5, 0), 5);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RW);
    close(fd);
    uint32_t told = 0;
    while (receives(f, NULL, NULL) == VSOCK_SHUTDOWN)
        told = flags_of(f);
    assert_int_equal(told, VSOCK_NEITHER);
    sends(f, 5000, 900, VSOCK_RST, 0);
    fd = open_from_guest(f, listening); /* the ports are free again */
    sends(f, 5000, 900, VSOCK_RST, 0);
    expect_end(fd);
    close(fd);
    stop_listening(f, listening);
}

static void what_nobody_listens_to_is_reset(void **state)
{
    struct fixture *f = *state;
    uint32_t port;
    sends(f, 6000, 900, VSOCK_REQUEST, 0); /* no such socket */
    assert_int_equal(receives(f, &port, NULL), VSOCK_RST);
    assert_int_equal(port, 6000);
    sends(f, 6000, 900, VSOCK_RW, 0); /* no such connection */
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    sends(f, 6000, 900, VSOCK_RST, 0); /* a reset has no answer */
    assert_int_equal(receives(f, NULL, NULL), 0);
    f->type = 2;
    sends(f, 6000, 900, VSOCK_REQUEST, 0);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    assert_int_equal(ring_get(f->g.mem, GUEST_DATA + BUFFER_BYTES * f->head + 28, 2), 2);
    f->type = VSOCK_TYPE_STREAM;
    f->dst_cid = 99;
    sends(f, 6000, 900, VSOCK_REQUEST, 0);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    f->src_cid = 99; /* who is that? */
    sends(f, 6000, 900, VSOCK_REQUEST, 0);
    assert_int_equal(receives(f, NULL, NULL), 0);

    int fd = client(f, "CONNECT 81\n");
    f->src_cid = GUEST_CID;
    f->dst_cid = VSOCK_HOST_CID;
    assert_int_equal(receives(f, &port, NULL), VSOCK_REQUEST);
    sends(f, port, 81, VSOCK_RST, 0);
    expect_end(fd);
    close(fd);
}

static void bad_clients_are_sent_away(void **state)
{
    struct fixture *f = *state;
    static const char *const lines[] = {"HELLO\n",
                                        "CONNECT \n",
                                        "CONNECT -1\n",
                                        "CONNECT 80 \n",
                                        "CONNECT 8x\n",
                                        "CONNECT 4294967295\n",
                                        "CONNECT 99999999999999999999\n",
                                        "0123456789012345678901234567890123456789"};
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        char byte;
        int fd = client(f, lines[i]);
        assert_true(recv(fd, &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET);
        close(fd);
    }
    assert_int_equal(receives(f, NULL, NULL), 0);
    /* A line in pieces, and data right behind it. */
    uint32_t port;
    int fd = client(f, "CONN");
    assert_int_equal(send(fd, "ECT 80\nearly", 12, 0), 12);
    assert_int_equal(receives(f, &port, NULL), VSOCK_REQUEST);
    assert_int_equal(receives(f, NULL, NULL), 0);
    sends(f, port, 80, VSOCK_RESPONSE, 0);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RW);
    assert_int_equal(f->length, 5);
    close(fd);
}

/* The guest's credit is all that it gets. */
static void credit_is_kept(void **state)
{
    struct fixture *f = *state;
    static uint8_t data[40000];
    uint32_t port, got = 0;
    uint16_t op;
    f->buf_alloc = 10000;
    int fd = open_from_host(f, &port);
    assert_int_equal(send(fd, data, sizeof(data), 0), sizeof(data));
    while ((op = receives(f, NULL, NULL)) == VSOCK_RW)
        got += f->length;
    assert_int_equal(got, 10000);
    assert_int_equal(op, VSOCK_CREDIT_REQUEST);
    assert_int_equal(receives(f, NULL, NULL), 0);
    f->fwd_cnt = 5000;
    sends(f, port, 80, VSOCK_CREDIT_UPDATE, 0);
    while (receives(f, NULL, NULL) == VSOCK_RW)
        got += f->length;
    assert_int_equal(got, 15000);
    f->fwd_cnt = 1u << 30; /* more than it ever got: no credit */
    sends(f, port, 80, VSOCK_CREDIT_UPDATE, 0);
    while ((op = receives(f, NULL, NULL)) != 0)
        assert_int_not_equal(op, VSOCK_RW);
    f->fwd_cnt = 15000;
    f->buf_alloc = 1u << 31;
    sends(f, port, 80, VSOCK_CREDIT_UPDATE, 0);
    while (receives(f, NULL, NULL) == VSOCK_RW)
        got += f->length;
    assert_int_equal(got, sizeof(data));
    close(fd);
}

/* The host does not read: the guest's data waits, as far as its credit goes. */
static void a_guest_that_overruns_is_reset(void **state)
{
    struct fixture *f = *state;
    static uint8_t data[32768], back[32768];
    uint32_t port, sent = 0, read = 0;
    memset(data, 0x3c, sizeof(data));
    int fd = open_from_host(f, &port);
    for (;;) { /* heeds its credit */
        uint16_t op;
        sends_as(f, port, 80, VSOCK_RW, 0, data, sizeof(data), sizeof(data));
        sent += (uint32_t)sizeof(data);
        while ((op = receives(f, NULL, NULL)) != 0)
            assert_int_equal(op, VSOCK_CREDIT_UPDATE);
        sends(f, port, 80, VSOCK_CREDIT_REQUEST, 0);
        assert_int_equal(receives(f, NULL, NULL), VSOCK_CREDIT_UPDATE);
        if (sent - f->told_taken + sizeof(data) > VSOCK_BUFFER)
            break;
    }
    /* It closes and goes; everything arrives nevertheless. */
    sends(f, port, 80, VSOCK_SHUTDOWN, VSOCK_NEITHER);
    assert_int_equal(receives(f, NULL, NULL), 0); /* not all is delivered */
    sends(f, port, 80, VSOCK_RST, 0);
    for (;;) {
        ssize_t size = recv(fd, back, sizeof(back), MSG_DONTWAIT);
        pump(f);
        if (size <= 0)
            break;
        for (ssize_t i = 0; i < size; i++)
            assert_int_equal(back[i], 0x3c);
        read += (uint32_t)size;
    }
    assert_int_equal(read, sent);
    close(fd);

    fd = open_from_host(f, &port);
    unsigned count = 0;
    while (receives(f, NULL, NULL) != VSOCK_RST) { /* heeds nothing */
        assert_true(++count < 100);
        sends_as(f, port, 80, VSOCK_RW, 0, data, sizeof(data), sizeof(data));
    }
    close(fd);
}

static void what_is_out_of_order_is_reset(void **state)
{
    struct fixture *f = *state;
    static const uint16_t bad[] = {0, VSOCK_REQUEST, VSOCK_RESPONSE, 8, 65535};
    uint32_t port;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        int fd = open_from_host(f, &port);
        sends(f, port, 80, bad[i], 0);
        assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
        expect_end(fd);
        close(fd);
    }
    int fd = client(f, "CONNECT 80\n");
    assert_int_equal(receives(f, &port, NULL), VSOCK_REQUEST);
    sends_as(f, port, 80, VSOCK_RW, 0, "x", 1, 1); /* not yet connected */
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    close(fd);
    fd = open_from_host(f, &port);
    sends(f, port, 80, VSOCK_SHUTDOWN, VSOCK_NO_SEND);
    sends_as(f, port, 80, VSOCK_RW, 0, "x", 1, 1); /* after its end */
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    close(fd);
}

static void floods_are_bounded(void **state)
{
    struct fixture *f = *state;
    int listening = listener(f), strangers[VSOCK_STRANGERS + 8];
    unsigned open = 0, refused = 0;
    for (uint32_t i = 0; i < VSOCK_CONNECTIONS + 20; i++) {
        sends(f, 5000, 2000 + i, VSOCK_REQUEST, 0);
        uint16_t op = receives(f, NULL, NULL);
        open += op == VSOCK_RESPONSE;
        refused += op == VSOCK_RST;
    }
    assert_int_equal(open, VSOCK_CONNECTIONS);
    assert_int_equal(refused, 20);
    for (uint32_t i = 0; i < VSOCK_CONNECTIONS; i++)
        sends(f, 5000, 2000 + i, VSOCK_RST, 0);
    stop_listening(f, listening);
    /* Strangers make way for new ones, and a client that speaks gets in. */
    for (size_t i = 0; i < ARRAY_SIZE(strangers); i++)
        strangers[i] = client(f, "CON");
    uint32_t port;
    int fd = open_from_host(f, &port);
    close(fd);
    for (size_t i = 0; i < ARRAY_SIZE(strangers); i++)
        close(strangers[i]);
    while (receives(f, NULL, NULL) != 0)
        ;
    /* Without buffers for answers, what the guest sends waits in its ring. */
    struct ring *ring = &f->g.rings[TRANSMIT];
    guest_reset(&f->g);
    guest_start(&f->g, 1);
    uint16_t before = ring_used_index(ring);
    for (unsigned i = 0; i < VSOCK_RESETS + 20; i++)
        sends(f, 6000, 900, VSOCK_RW, 0); /* of no connection */
    assert_int_equal((uint16_t)(ring_used_index(ring) - before), VSOCK_RESETS);
    f->seen = 0;
    for (unsigned i = 0; i < BUFFERS; i++)
        give(f, i);
    guest_notify(&f->g, RECEIVE);
    for (unsigned i = 0; i < VSOCK_RESETS + 20; i++)
        assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    assert_int_equal((uint16_t)(ring_used_index(ring) - before), VSOCK_RESETS + 20);
}

static void lies_about_lengths_break_the_device(void **state)
{
    struct fixture *f = *state;
    sends_as(f, 5000, 900, VSOCK_RW, 0, "abc", 3, 4);
    assert_int_equal(guest_reg(&f->g, REG_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET,
                     VIRTIO_STATUS_NEEDS_RESET);
    guest_reset(&f->g);
    start(f);
    ring_desc(&f->g.rings[TRANSMIT], 0, OUT, HEADER - 1, 0, 0);
    ring_offer(&f->g.rings[TRANSMIT], 0);
    guest_notify(&f->g, TRANSMIT);
    pump(f);
    assert_int_equal(guest_reg(&f->g, REG_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET,
                     VIRTIO_STATUS_NEEDS_RESET);
    guest_reset(&f->g);
    guest_start(&f->g, 1);
    ring_desc(&f->g.rings[RECEIVE], 0, GUEST_DATA, HEADER, RING_WRITE, 0);
    ring_offer(&f->g.rings[RECEIVE], 0);
    int fd = client(f, "CONNECT 80\n");
    assert_int_equal(guest_reg(&f->g, REG_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET,
                     VIRTIO_STATUS_NEEDS_RESET);
    close(fd);
}

static void resets_end_connections(void **state)
{
    struct fixture *f = *state;
    uint32_t port;
    int fd = open_from_host(f, &port);
    guest_reset(&f->g);
    pump(f);
    expect_end(fd);
    close(fd);
    fd = client(f, "CONNECT 80\n"); /* nobody there */
    expect_end(fd);
    close(fd);
    start(f);
    fd = open_from_host(f, &port);
    f->g.device->ops->quiesce(f->g.device);
    assert_int_equal(send(fd, "later", 5, 0), 5);
    assert_int_equal(receives(f, NULL, NULL), 0);
    f->g.device->ops->unquiesce(f->g.device);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RW);
    close(fd);
}

static void time_passes(struct fixture *f, int64_t ns)
{
    struct vclock *clock = f->g.env.clock;
    vclock_pause(clock);
    vclock_set_now(clock, vclock_now(clock) + ns);
    vclock_resume(clock);
    vclock_run_timers(clock);
    pump(f);
}

/* `gives_back`: the driver does, as Linux', the event's buffer when it has forgotten its
 * connections. */
static void check_restored(struct fixture *f, bool gives_back)
{
    struct guest other;
    char path[80];
    uint32_t port;
    struct ring *events = &f->g.rings[EVENT];
    int fd = open_from_host(f, &port);
    assert_true(mem_write(f->g.mem, OUT + 0x1000, "\xff\xff\xff\xff", 4));
    ring_desc(events, 0, OUT + 0x1000, 4, RING_WRITE, 0);
    ring_offer(events, 0);
    guest_notify(&f->g, EVENT);
    pump(f);
    assert_int_equal(ring_used_index(events), 0);
    snprintf(path, sizeof(path), "%s-other", f->path);
    struct vsock_host other_host;
    plug(&other, &other_host, path);
    f->g.device->ops->quiesce(f->g.device);
    other.device->ops->quiesce(other.device);
    assert_state_round_trip(f->g.device->ops->state, f->g.device, other.device);
    guest_free(&other);
    vsock_host_close(&other_host);

    struct state_buffer saved = {0};
    size_t at = 0;
    state_save(f->g.device->ops->state, f->g.device, &saved);
    assert_true(
        state_restore(f->g.device->ops->state, f->g.device, saved.data, saved.size, &at, NULL));
    state_buffer_free(&saved);
    f->g.device->ops->unquiesce(f->g.device);
    pump(f);
    expect_end(fd);
    close(fd);
    assert_int_equal(ring_used_index(events), 1);
    assert_int_equal(ring_used_length(events, 0), 4);
    assert_int_equal(ring_get(f->g.mem, OUT + 0x1000, 4), 0);
    /* It gets nothing else before it has heard. */
    fd = client(f, "CONNECT 80\n");
    assert_int_equal(receives(f, NULL, NULL), 0);
    time_passes(f, NS_PER_S / 2);
    assert_int_equal(receives(f, NULL, NULL), 0);
    if (gives_back)
        ring_offer(events, 0);
    time_passes(f, gives_back ? NS_PER_S / 100 : NS_PER_S / 2);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_REQUEST);
    close(fd);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    sends(f, port, 80, VSOCK_RW, 0);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    fd = open_from_host(f, &port);
    close(fd);
}

static void a_restored_guest_is_told(void **state)
{
    check_restored(*state, true);
}

static void one_that_does_not_say_that_it_heard_is_not_waited_for_long(void **state)
{
    check_restored(*state, false);
}

/* What it does before it is connected, and what comes of an answer that is not wanted any more. */
static void a_guest_does_not_wait_for_the_answer(void **state)
{
    struct fixture *f = *state;
    int listening = listener(f), questions = f->host.questions;
    f->host.questions = -1; /* it takes its time */
    sends(f, 5000, 900, VSOCK_REQUEST, 0);
    assert_int_equal(receives(f, NULL, NULL), 0);
    sends(f, 5000, 900, VSOCK_RST, 0);
    sends(f, 5000, 901, VSOCK_REQUEST, 0);
    sends_as(f, 5000, 901, VSOCK_RW, 0, "early", 5, 5);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    sends(f, 5000, 902, VSOCK_REQUEST, 0);
    f->host.questions = questions;
    pump(f);
    uint32_t guest_port;
    assert_int_equal(receives(f, NULL, &guest_port), VSOCK_RESPONSE);
    assert_int_equal(guest_port, 902);
    assert_int_equal(receives(f, NULL, NULL), 0);
    for (unsigned i = 0; i < 3; i++) { /* the first two were connected in vain */
        int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        assert_true(fd >= 0);
        if (i < 2)
            expect_end(fd);
        close(fd);
    }
    stop_listening(f, listening);
}

static void the_connector_goes(void **state)
{
    struct fixture *f = *state;
    int listening = listener(f), questions = f->host.questions;
    f->host.questions = -1;
    sends(f, 5000, 900, VSOCK_REQUEST, 0);
    assert_int_equal(receives(f, NULL, NULL), 0);
    f->host.questions = questions;
    vsock_host_leave(&f->host);
    pump(f);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    sends(f, 5000, 901, VSOCK_REQUEST, 0);
    assert_int_equal(receives(f, NULL, NULL), VSOCK_RST);
    uint32_t port;
    close(open_from_host(f, &port)); /* the other way still works */
    stop_listening(f, listening);
}

/* As instances have it: programs here reach the guest, and it reaches nobody. */
static void a_guest_may_reach_nobody(void **state)
{
    struct fixture *f = *state;
    uint32_t port;
    guest_free(&f->g);
    vsock_host_close(&f->host);
    struct device_vsock vsock = vsock_host_open(&f->host, f->path, GUEST_CID);
    close(vsock.connector_fd);
    vsock.connector_fd = -1;
    guest_init(&f->g, false);
    guest_plug(&f->g, &device_virtio_vsock, &(struct device_params){.id = "v", .vsock = &vsock});
    start(f);
    close(open_from_host(f, &port));
    pump(f);
    while (receives(f, NULL, NULL) != 0)
        ;
    sends(f, 6000, 900, VSOCK_REQUEST, 0);
    assert_int_equal(receives(f, &port, NULL), VSOCK_RST);
    assert_int_equal(port, 6000);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(clients_reach_the_guest),
        TEST(the_guest_reaches_the_host),
        TEST(what_nobody_listens_to_is_reset),
        TEST(bad_clients_are_sent_away),
        TEST(credit_is_kept),
        TEST(a_guest_that_overruns_is_reset),
        TEST(what_is_out_of_order_is_reset),
        TEST(floods_are_bounded),
        TEST(lies_about_lengths_break_the_device),
        TEST(resets_end_connections),
        TEST(a_restored_guest_is_told),
        TEST(one_that_does_not_say_that_it_heard_is_not_waited_for_long),
        TEST(a_guest_does_not_wait_for_the_answer),
        TEST(the_connector_goes),
        TEST(a_guest_may_reach_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
