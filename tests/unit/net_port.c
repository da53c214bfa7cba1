/* SPDX-License-Identifier: MIT
 *
 * Frame sockets and the NIC's end of them: what goes through, what waits, what is lost, what a
 * hostile other end can do; rate limits and captures.
 */
#include "support.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/vclock.h"
#include "net/bucket.h"
#include "net/capture.h"
#include "net/link.h"
#include "net/port.h"

struct fixture {
    struct loop *loop;
    struct vclock *clock;
    struct log log;
    struct net_port *port;
    struct net_link peer;
    int peer_fd;

    bool full; /* the NIC has no room */
    unsigned received, batches, writable, changes, announcements;
    bool up;
    size_t last_size;
    uint8_t last[NET_FRAME_MAX];
};

static bool on_receive(void *user, const struct net_frame *frame)
{
    struct fixture *f = user;
    if (f->full)
        return false;
    f->received++;
    f->last_size = frame->size;
    memcpy(f->last, frame->data, frame->size);
    return true;
}

static void on_received(void *user)
{
    ((struct fixture *)user)->batches++;
}

static void on_writable(void *user)
{
    ((struct fixture *)user)->writable++;
}

static void on_link(void *user, bool up)
{
    struct fixture *f = user;
    f->changes++;
    f->up = up;
}

static void on_announce(void *user, bool first, uint8_t mac[NET_MAC_BYTES])
{
    struct fixture *f = user;
    static const uint8_t own[NET_MAC_BYTES] = {2, 3, 5, 7, 11, 13};
    memcpy(mac, own, sizeof(own));
    assert_int_equal(first, f->announcements == 0);
    f->announcements++;
}

static const struct net_port_user user = {on_receive, on_received, on_writable, on_link,
                                          on_announce};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int pair[2];
    log_init(&f->log, LOG_LEVEL_ERROR, 2, "test");
    f->loop = loop_new(NULL);
    f->clock = vclock_new(VCLOCK_COUNTED, INT64_C(1700000000) * NS_PER_S);
    vclock_resume(f->clock);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    f->port = net_port_new(pair[0], "net0", f->loop, f->clock, &f->log, NULL);
    assert_non_null(f->port);
    net_port_attach(f->port, &user, f);
    f->peer_fd = pair[1];
    net_link_init(&f->peer, pair[1], 1 << 20);
    *state = f;
    return 0;
}

static void leave(struct fixture *f)
{
    if (f->peer_fd >= 0)
        close(f->peer_fd);
    f->peer_fd = -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    net_port_free(f->port);
    leave(f);
    net_link_clear(&f->peer);
    vclock_free(f->clock);
    loop_free(f->loop);
    free(f);
    return 0;
}

static void quit(void *opaque)
{
    loop_quit(opaque, 0);
}

static void pump(struct fixture *f)
{
    for (unsigned i = 0; i < 3; i++) { /* posts come before descriptors */
        loop_post(f->loop, quit, f->loop);
        loop_run(f->loop);
    }
}

static void peer_sends(struct fixture *f, uint8_t mark, size_t size)
{
    uint8_t data[NET_FRAME_MAX];
    memset(data, mark, size);
    struct net_frame frame = {.data = data, .size = size};
    net_link_put(&f->peer, &frame);
}

static bool port_sends(struct fixture *f, uint8_t mark, size_t size)
{
    static uint8_t data[NET_FRAME_MAX];
    const struct net_offload plain = {0};
    memset(data, mark, size);
    const struct iovec iov[] = {{data, 14}, {data + 14, size - 14}};
    return net_port_send(f->port, &plain, iov, 2);
}

static void frames_go_both_ways(void **state)
{
    struct fixture *f = *state;
    struct net_frame frame;
    peer_sends(f, 1, 60);
    peer_sends(f, 2, 65000);
    pump(f);
    assert_int_equal(f->received, 2);
    assert_int_equal(f->last_size, 65000);
    assert_int_equal(f->last[64999], 2);
    assert_true(f->batches > 0);
    assert_true(port_sends(f, 3, 100));
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_int_equal(frame.size, 100);
    assert_int_equal(frame.data[99], 3);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_AGAIN);
    const struct net_port_stats stats = net_port_stats(f->port);
    assert_int_equal(stats.received_bytes, 65060);
    assert_int_equal(stats.sent_frames, 1);
}

static void a_full_nic_holds_the_sender(void **state)
{
    struct fixture *f = *state;
    f->full = true;
    for (unsigned i = 0; i < 40; i++)
        peer_sends(f, (uint8_t)i, 60000);
    pump(f);
    assert_int_equal(f->received, 0);
    assert_true(f->peer.waiting > 0 || f->peer.dropped > 0);
    assert_true(f->peer.waiting <= f->peer.limit);
    f->full = false;
    net_port_resume(f->port);
    for (unsigned i = 0; i < 40; i++) {
        pump(f);
        net_link_flush(&f->peer);
    }
    assert_int_equal(f->received, 40 - f->peer.dropped);
    assert_int_equal(f->peer.waiting, 0);
}

static void a_full_socket_holds_the_nic(void **state)
{
    struct fixture *f = *state;
    struct net_frame frame;
    unsigned sent = 0, got = 0;
    while (port_sends(f, (uint8_t)sent, 60000))
        assert_true(++sent < 1000);
    pump(f);
    assert_int_equal(f->writable, 0);
    while (net_link_receive(&f->peer, &frame) == NET_DONE)
        assert_int_equal(frame.data[0], (uint8_t)got++);
    assert_int_equal(got, sent); /* what was refused was not half sent */
    pump(f);
    assert_int_equal(f->writable, 1);
    assert_true(port_sends(f, 9, 60000));
}

static void the_sender_does_what_the_other_end_does_not(void **state)
{
    struct fixture *f = *state;
    struct net_frame frame;
    uint8_t data[4000] = {0};
    data[12] = 8;
    data[14] = 0x45;
    net_store16(data + 16, sizeof(data) - 14);
    data[23] = 6;
    data[46] = 0x50;
    const struct net_offload large = {.flags = NET_NEEDS_CHECKSUM,
                                      .gso = NET_GSO_TCP4,
                                      .gso_size = 1000,
                                      .checksum_start = 34,
                                      .checksum_offset = 16};
    const struct iovec iov = {data, sizeof(data)};
    assert_true(net_port_send(f->port, &large, &iov, 1));
    unsigned count = 0;
    for (; net_link_receive(&f->peer, &frame) == NET_DONE; count++)
        assert_int_equal(frame.offload.gso, NET_GSO_NONE);
    assert_int_equal(count, 4);
    net_link_announce(&f->peer, NET_ACCEPT_CHECKSUM | NET_ACCEPT_TCP4);
    pump(f);
    assert_true(net_port_send(f->port, &large, &iov, 1));
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_int_equal(frame.offload.gso, NET_GSO_TCP4);
    assert_int_equal(frame.size, sizeof(data));
}

static void a_hostile_other_end_is_ignored(void **state)
{
    struct fixture *f = *state;
    uint8_t raw[70000];
    memset(raw, 0xff, sizeof(raw));
    for (size_t size = 1; size < 40; size++)
        assert_int_equal(send(f->peer_fd, raw, size, 0), size);
    for (unsigned kind = 0; kind < 4; kind++) {
        raw[0] = (uint8_t)kind;
        assert_int_equal(send(f->peer_fd, raw, 60, 0), 60);
    }
    memset(raw, 0, sizeof(raw));
    assert_int_equal(send(f->peer_fd, raw, 20, 0), 20);       /* shorter than a header */
    assert_int_equal(send(f->peer_fd, raw, 70000, 0), 70000); /* longer than any frame */
    pump(f);
    assert_int_equal(f->received, 0);
    assert_true(net_port_link(f->port));
    peer_sends(f, 5, 60);
    pump(f);
    assert_int_equal(f->received, 1);
}

static void a_cable_can_be_pulled(void **state)
{
    struct fixture *f = *state;
    struct net_frame frame;
    net_port_set_link(f->port, false);
    assert_int_equal(f->changes, 1);
    assert_false(f->up);
    assert_true(port_sends(f, 1, 60)); /* lost, not stuck */
    peer_sends(f, 1, 60);
    pump(f);
    assert_int_equal(f->received, 0);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_AGAIN);
    net_port_set_link(f->port, true);
    assert_true(f->up);
    peer_sends(f, 2, 60);
    pump(f);
    assert_int_equal(f->received, 1);
    assert_int_equal(f->last[0], 2);
}

static void the_end_of_the_backend_is_the_end_of_the_link(void **state)
{
    struct fixture *f = *state;
    f->log.level = LOG_LEVEL_ERROR;
    peer_sends(f, 1, 60);
    leave(f);
    pump(f);
    pump(f);
    assert_int_equal(f->received, 1); /* what came before the end */
    assert_int_equal(f->changes, 1);
    assert_false(net_port_link(f->port));
    for (unsigned i = 0; i < 1000; i++)
        assert_true(port_sends(f, 1, 60000));
    net_port_set_link(f->port, true);
    assert_false(net_port_link(f->port));
}

static void rates_are_kept(void **state)
{
    struct fixture *f = *state;
    struct net_frame frame;
    uint64_t sent = 0;
    net_port_set_rate(f->port, 1000000); /* bytes per second */
    for (unsigned ms = 0; ms < 2000; ms++) {
        while (port_sends(f, 1, 1500))
            sent += 1500;
        peer_sends(f, 2, 1500);
        peer_sends(f, 2, 1500);
        vclock_advance(f->clock, NS_PER_S / 1000);
        vclock_run_timers(f->clock);
        pump(f);
        while (net_link_receive(&f->peer, &frame) == NET_DONE)
            ;
    }
    /* Two seconds and a burst, in each direction. */
    uint64_t expected = 2000000 + NET_BUCKET_BURST_MIN,
             got = net_port_stats(f->port).received_bytes;
    assert_in_range(sent, expected * 95 / 100, expected * 105 / 100);
    assert_in_range(got, expected * 95 / 100, expected * 105 / 100);
    net_port_set_rate(f->port, 0);
    pump(f);
    for (unsigned i = 0; i < 20; i++)
        assert_true(port_sends(f, 1, 1500));
}

/* Each direction by itself, and whatever the frames' sizes. */
static void frames_are_counted(void **state)
{
    struct fixture *f = *state;
    const struct net_limits send = {.frames = 100}, receive = {.bytes = 10000000, .frames = 250};
    struct net_limits told_send, told_receive;
    struct net_frame frame;
    unsigned sent = 0;
    net_port_set_limits(f->port, &send, &receive);
    net_port_set_rate(f->port, 5000000); /* besides */
    net_port_get_limits(f->port, &told_send, &told_receive);
    assert_true(told_send.frames == 100 && told_receive.bytes == 10000000);
    for (unsigned ms = 0; ms < 2000; ms++) {
        while (port_sends(f, 1, sent % 2 == 0 ? 60 : 1500))
            sent++;
        peer_sends(f, 2, ms % 2 == 0 ? 60 : 1500);
        vclock_advance(f->clock, NS_PER_S / 1000);
        vclock_run_timers(f->clock);
        pump(f);
        while (net_link_receive(&f->peer, &frame) == NET_DONE)
            ;
    }
    assert_in_range(sent, 195, 210);
    assert_in_range(f->received, 490, 515);
    net_port_set_limits(f->port, &(struct net_limits){0}, &(struct net_limits){0});
    pump(f);
    for (unsigned i = 0; i < 20; i++)
        assert_true(port_sends(f, 1, 1500));
}

static void a_bucket_of_any_rate_fills(void **state)
{
    (void)state;
    const uint64_t rates[] = {1, 125, 12500, 1250000000, UINT64_C(125) << 40};
    for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
        struct net_bucket bucket;
        int64_t now = 0, wait;
        net_bucket_set(&bucket, rates[i], now);
        net_bucket_take(&bucket, NET_BUCKET_BURST_MIN + 65536);
        unsigned waits = 0;
        while ((wait = net_bucket_wait(&bucket, now)) > 0) {
            now += wait;
            assert_true(++waits < 4);
        }
        double exact = 65536e9 / (double)rates[i];
        assert_true((double)now >= exact &&
                    (double)now <= exact * 1.01 + 2e9 / (double)rates[i] + 2);
    }
}

static size_t read_capture(int fd, uint8_t *data, size_t room)
{
    ssize_t size = pread(fd, data, room, 0);
    assert_true(size > 0 && size % 4 == 0);
    return (size_t)size;
}

/* Walks the blocks of a pcapng file; returns how many packets there are. */
static unsigned parse_capture(const uint8_t *data, size_t size, unsigned *out_bound)
{
    unsigned packets = 0;
    for (size_t at = 0; at < size;) {
        uint32_t type = load_le32(data + at), length = load_le32(data + at + 4);
        assert_true(length >= 12 && length % 4 == 0 && length <= size - at);
        assert_int_equal(load_le32(data + at + length - 4), length);
        if (at == 0)
            assert_int_equal(type, 0x0a0d0d0a);
        if (type == 6) {
            uint32_t captured = load_le32(data + at + 20);
            assert_int_equal(captured, load_le32(data + at + 24));
            const uint8_t *option = data + at + 28 + align_up(captured, 4);
            assert_int_equal(load_le32(option), 4u << 16 | 2);
            *out_bound += load_le32(option + 4) == 2;
            uint64_t time = (uint64_t)load_le32(data + at + 12) << 32 | load_le32(data + at + 16);
            assert_int_equal(time / NS_PER_S, 1700000000);
            packets++;
        }
        at += length;
    }
    return packets;
}

static void captures_are_whole_and_bounded(void **state)
{
    struct fixture *f = *state;
    static uint8_t data[1 << 20];
    unsigned out_bound = 0;
    int fd = memfd_create("capture", MFD_CLOEXEC);
    struct net_capture *capture = net_capture_new(dup(fd), "net0", 300000, &f->log, NULL);
    assert_non_null(capture);
    net_port_set_capture(f->port, capture);
    for (unsigned i = 0; i < 4; i++) {
        peer_sends(f, 1, 61 + i);
        pump(f);
        assert_true(port_sends(f, 2, 1000));
    }
    pump(f);
    net_port_set_link(f->port, false);
    f->log.level = LOG_LEVEL_ERROR;
    for (unsigned i = 0; i < 100; i++)
        assert_true(port_sends(f, 3, 60000));
    net_port_set_capture(f->port, NULL);
    size_t size = read_capture(fd, data, sizeof(data));
    assert_true(size <= 300000 && size > 240000);
    assert_int_equal(parse_capture(data, size, &out_bound), 8 + 4);
    assert_int_equal(out_bound, 8);
    close(fd);
}

/* A RARP request (RFC 903) for its own address; five, at 0, 50, 200, 450 and 800 ms. */
static void it_is_announced_some_times(void **state)
{
    struct fixture *f = *state;
    struct net_frame frame;
    static const uint8_t rarp[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 3, 5, 7, 11, 13, 0x80,
                                     0x35, 0,    1,    8,    0,    6,    4, 0, 3, 2, 3,  5,  7,
                                     11,   13,   0,    0,    0,    0,    2, 3, 5, 7, 11, 13};
    static const unsigned moments[] = {0, 50, 200, 450, 800};
    unsigned seen = 0;
    net_port_announce(f->port);
    for (unsigned ms = 0; ms < 3000; ms += 10) {
        pump(f);
        bool came = net_link_receive(&f->peer, &frame) == NET_DONE;
        assert_int_equal(came, seen < 5 && moments[seen] == ms);
        if (came) {
            assert_int_equal(frame.size, sizeof(rarp));
            assert_memory_equal(frame.data, rarp, sizeof(rarp));
            seen++;
        }
        vclock_advance(f->clock, 10 * (NS_PER_S / 1000));
        vclock_run_timers(f->clock);
    }
    assert_int_equal(f->announcements, 5);
    /* Who waits to send is still told when it can. */
    uint8_t big[1500] = {0};
    const struct iovec iov = {big, sizeof(big)};
    const struct net_offload none = {.gso = NET_GSO_NONE};
    while (net_port_send(f->port, &none, &iov, 1))
        ;
    while (net_link_receive(&f->peer, &frame) == NET_DONE)
        ;
    f->announcements = 0;
    net_port_announce(f->port);
    pump(f);
    assert_true(f->writable > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(frames_go_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_nic_holds_the_sender, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_socket_holds_the_nic, setup, teardown),
        cmocka_unit_test_setup_teardown(the_sender_does_what_the_other_end_does_not, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_hostile_other_end_is_ignored, setup, teardown),
        cmocka_unit_test_setup_teardown(a_cable_can_be_pulled, setup, teardown),
        cmocka_unit_test_setup_teardown(the_end_of_the_backend_is_the_end_of_the_link, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(it_is_announced_some_times, setup, teardown),
        cmocka_unit_test_setup_teardown(rates_are_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(frames_are_counted, setup, teardown),
        cmocka_unit_test(a_bucket_of_any_rate_fills),
        cmocka_unit_test_setup_teardown(captures_are_whole_and_bounded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
