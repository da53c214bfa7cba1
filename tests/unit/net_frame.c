/* SPDX-License-Identifier: MIT
 *
 * net/frame.c, forward.c and the switch's table: arithmetic on frames, against the
 * plainest way to compute the same.
 */
#include "support.h"

#include <arpa/inet.h>

#include "base/bits.h"
#include "net/forward.h"
#include "net/frame.h"
#include "net/switch_table.h"
#include "packets.h"

static void sums_agree(void **state)
{
    (void)state;
    uint8_t data[600];
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i % 3 == 0 ? 0xff : i * 31);
    for (size_t start = 0; start < 9; start++)
        for (size_t size = 0; size + start <= sizeof(data); size += 1 + size / 16) {
            uint16_t folded = net_sum_fold(net_sum(data + start, size, 0));
            uint8_t bytes[2];
            memcpy(bytes, &folded, 2);
            assert_int_equal(net_load16(bytes), plain_sum(data + start, size, 0));
        }
}

struct collected {
    const struct made *whole;
    size_t network, payload_seen;
    unsigned count, last_flags;
    size_t header;
    uint32_t next_sequence;
};

static void collect(void *opaque, const struct net_frame *frame)
{
    struct collected *c = opaque;
    struct net_tcp tcp;
    assert_int_equal(frame->offload.gso, NET_GSO_NONE);
    assert_int_equal(frame->offload.flags, NET_CHECKSUM_VALID);
    check_sums(frame);
    assert_true(net_find_tcp(frame->data, frame->size, &tcp));
    assert_int_equal(tcp.end, frame->size);
    assert_int_equal(net_load32(frame->data + tcp.transport + 4), c->next_sequence);
    size_t length = tcp.end - tcp.payload;
    assert_memory_equal(frame->data + tcp.payload, c->whole->bytes + c->header + c->payload_seen,
                        length);
    if (!tcp.v6)
        assert_int_equal(net_load16(frame->data + tcp.network + 4), (uint16_t)(0xfffe + c->count));
    assert_int_equal(c->last_flags & 0x09, 0); /* FIN and PSH in the last segment only */
    c->last_flags = frame->data[tcp.transport + 13];
    c->next_sequence += (uint32_t)length;
    c->payload_seen += length;
    c->count++;
}

static void large_packets_are_cut(void **state)
{
    (void)state;
    static struct made made, copy;
    const size_t payloads[] = {1, 1459, 1460, 1461, 2920, 9999, 65000};
    for (unsigned kind = 0; kind < 8; kind++)
        for (unsigned i = 0; i < ARRAY_SIZE(payloads); i++) {
            bool v6 = kind & 1;
            unsigned options = (kind & 4) != 0 ? 12 : 0;
            size_t network = make_tcp(&made, v6, kind >> 1 & 1, options, payloads[i]);
            copy = made;
            struct net_frame frame = {
                .offload = {.flags = NET_NEEDS_CHECKSUM,
                            .gso = v6 ? NET_GSO_TCP6 : NET_GSO_TCP4,
                            .gso_size = 1460,
                            .checksum_start = (uint16_t)(network + (v6 ? 40 : 20)),
                            .checksum_offset = 16},
                .data = made.bytes,
                .size = made.size};
            assert_true(net_offload_check(&frame.offload, frame.size));
            struct collected c = {.whole = &copy,
                                  .network = network,
                                  .header = made.size - payloads[i],
                                  .next_sequence = 0xfffffff0};
            unsigned count = net_adapt(&frame, NET_ACCEPT_CHECKSUM, collect, &c);
            assert_int_equal(count, (payloads[i] + 1459) / 1460);
            assert_int_equal(c.count, count);
            assert_int_equal(c.payload_seen, payloads[i]);
            assert_int_equal(c.last_flags, FIN_PSH_ACK);
        }
}

static void keep(void *opaque, const struct net_frame *frame)
{
    *(struct net_frame *)opaque = *frame;
}

static void frames_fit_their_receiver(void **state)
{
    (void)state;
    static struct made made;
    struct net_frame frame, out = {0};
    struct net_tcp tcp;
    make_tcp(&made, false, 0, 0, 100);
    frame = (struct net_frame){.data = made.bytes, .size = made.size};
    assert_true(net_find_tcp(made.bytes, made.size, &tcp));
    net_start_tcp_checksum(&frame, &tcp);
    memset(made.bytes + IP4 + 10, 0, 2);
    struct net_frame same = frame;
    assert_int_equal(net_adapt(&same, NET_ACCEPT_CHECKSUM, keep, &out), 1);
    assert_int_equal(out.offload.flags, NET_NEEDS_CHECKSUM);
    assert_int_equal(net_adapt(&frame, 0, keep, &out), 1);
    assert_int_equal(out.offload.flags, NET_CHECKSUM_VALID);
    made.bytes[IP4 + 10] = 0; /* the IP header had no sum: give it one for check_sums() */
    unsigned sum = 0xffff ^ plain_sum(made.bytes + IP4, 20, 0);
    net_store16(made.bytes + IP4 + 10, sum);
    check_sums(&out);
}

static void impossible_offloads_are_refused(void **state)
{
    (void)state;
    const struct {
        struct net_offload offload;
        size_t size;
        bool good;
    } cases[] = {
        {{0}, 14, true},
        {{0}, 13, false},
        {{0}, NET_FRAME_MAX, true},
        {{0}, NET_FRAME_MAX + 1, false},
        {{.flags = 1, .checksum_start = 34, .checksum_offset = 16}, 52, true},
        {{.flags = 1, .checksum_start = 34, .checksum_offset = 16}, 51, false},
        {{.flags = 1, .checksum_start = 0xffff, .checksum_offset = 0xffff}, 60, false},
        {{.gso = NET_GSO_TCP4, .gso_size = 1460}, 60, false}, /* needs a checksum */
        {{.flags = 1, .gso = NET_GSO_TCP4, .gso_size = 1460}, 60, true},
        {{.flags = 1, .gso = NET_GSO_TCP4, .gso_size = 0}, 60, false},
        {{.flags = 1, .gso = NET_GSO_TCP4, .gso_size = 47}, 60, false},
        {{.flags = 1, .gso = 3, .gso_size = 1460}, 60, false}, /* UDP fragments: not offered */
        {{.flags = 1, .gso = 0x81, .gso_size = 1460}, 60, false},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(net_offload_check(&cases[i].offload, cases[i].size), cases[i].good);
}

static void what_is_no_tcp_is_not_cut(void **state)
{
    (void)state;
    static struct made made;
    struct net_tcp tcp;
    make_tcp(&made, false, 0, 0, 3000);
    const struct {
        size_t at;
        uint8_t value;
    } damages[] = {{IP4, 0x44},  {IP4, 0x4f},     {IP4, 0x65},      {IP4 + 9, 17}, {IP4 + 6, 0x20},
                   {IP4 + 7, 1}, {IP4 + 2, 0xff}, {IP4 + 32, 0x40}, {12, 0x09},    {IP4 + 3, 0x10}};
    assert_true(net_find_tcp(made.bytes, made.size, &tcp));
    for (unsigned i = 0; i < ARRAY_SIZE(damages); i++) {
        uint8_t before = made.bytes[damages[i].at];
        made.bytes[damages[i].at] = damages[i].value;
        if (damages[i].at == IP4 + 3) /* a length that ends in the header */
            made.bytes[IP4 + 2] = 0;
        if (net_find_tcp(made.bytes, made.size, &tcp))
            assert_int_equal(damages[i].at, IP4); /* 0x4f: options may be that long */
        make_tcp(&made, false, 0, 0, 3000);
        assert_int_equal(made.bytes[damages[i].at], before);
    }
    for (size_t size = 0; size < 54; size++)
        assert_false(net_find_tcp(made.bytes, size, &tcp));
}

/* --- forwarding, and the switch --- */

/* The number of a flow is that of its other direction, and no cut or odd frame is read beyond. */
static void flows_have_numbers(void **state)
{
    (void)state;
    static struct made made;
    uint32_t seen[4] = {0};
    for (unsigned v6 = 0; v6 < 2; v6++) {
        for (unsigned tags = 0; tags < 2; tags++) {
            size_t at = make_tcp(&made, v6 != 0, tags, 0, 100), size = made.size;
            size_t from = at + (v6 ? 8 : 12), bytes = v6 ? 16 : 4, ports = at + (v6 ? 40 : 20);
            made.bytes[from] ^= 0x55; /* the ends differ */
            net_store16(made.bytes + ports, 40000);
            net_store16(made.bytes + ports + 2, 22);
            uint32_t flow = net_flow(made.bytes, size), *kept = &seen[2 * v6 + tags];
            *kept = flow;
            assert_int_not_equal(flow, 0);
            assert_int_equal(net_flow(made.bytes, ports + 4), flow);
            assert_int_equal(seen[2 * v6], flow); /* whatever its VLAN */
            for (size_t i = 0; i < bytes; i++) {
                uint8_t byte = made.bytes[from + i];
                made.bytes[from + i] = made.bytes[from + bytes + i];
                made.bytes[from + bytes + i] = byte;
            }
            net_store16(made.bytes + ports, 22);
            net_store16(made.bytes + ports + 2, 40000);
            assert_int_equal(net_flow(made.bytes, size), flow);
            net_store16(made.bytes + ports, 23);
            assert_int_not_equal(net_flow(made.bytes, size), flow);
            if (v6 == 0) { /* fragments have no ports, not even the first one */
                net_store16(made.bytes + at + 6, 0x2000);
                uint32_t fragment = net_flow(made.bytes, size);
                net_store16(made.bytes + ports, 24);
                assert_int_equal(net_flow(made.bytes, size), fragment);
            }
            for (size_t cut = 0; cut <= size; cut++) {
                uint8_t *exact = malloc(cut + 1); /* so that a sanitizer sees */
                memcpy(exact, made.bytes, cut);
                (void)net_flow(exact, cut);
                free(exact);
            }
        }
    }
    net_store16(made.bytes + 12, 0x0806);
    assert_int_equal(net_flow(made.bytes, 60), 0);
}

static void forwardings_are_read(void **state)
{
    (void)state;
    const struct {
        const char *text, *host;
        uint16_t host_port, guest_port;
        bool udp;
    } good[] = {
        {"tcp:2222:22", "127.0.0.1", 2222, 22, false},
        {"udp:5353:53", "127.0.0.1", 5353, 53, true},
        {"tcp:0.0.0.0:80:8080", "0.0.0.0", 80, 8080, false},
        {"tcp:[::1]:2222:22", "::1", 2222, 22, false},
        {"udp:[fe80::1]:1:65535", "fe80::1", 1, 65535, true},
    };
    const char *const bad[] = {"",         "2222:22",   "tcp:",          "tcp:22",
                               "tcp:a:22", "tcp:22:b",  "tcp:0:22",      "tcp:22:65536",
                               "sctp:1:2", "tcp:x:1:2", "tcp:[::1:1:2",  "tcp::1:2",
                               "tcp:1:2:", "tcp:-1:2",  "tcp:1.2.3:1:2", "tcp: 1:2"};
    struct net_forward forward;
    for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
        char text[64];
        struct error *err = NULL;
        assert_true(net_forward_parse(good[i].text, &forward, &err));
        bool v4 = forward.host.ss_family == AF_INET;
        const struct sockaddr_in *a4 = (const struct sockaddr_in *)&forward.host;
        const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *)&forward.host;
        assert_non_null(inet_ntop(forward.host.ss_family,
                                  v4 ? (const void *)&a4->sin_addr : &a6->sin6_addr, text,
                                  sizeof(text)));
        assert_string_equal(text, good[i].host);
        assert_int_equal(ntohs(v4 ? a4->sin_port : a6->sin6_port), good[i].host_port);
        assert_int_equal(forward.guest_port, good[i].guest_port);
        assert_int_equal(forward.udp, good[i].udp);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error *err = NULL;
        assert_false(net_forward_parse(bad[i], &forward, &err));
        assert_non_null(err);
        error_free(err);
    }
}

static void a_switch_learns_and_forgets(void **state)
{
    (void)state;
    struct net_table *table = malloc(sizeof(*table));
    const uint8_t a[] = {2, 0, 0, 0, 0, 1}, b[] = {2, 0, 0, 0, 0, 2}, group[] = {1, 0, 0, 0, 0, 1};
    net_table_init(table);
    assert_int_equal(net_table_find(table, a, 0, 0), -1);
    net_table_learn(table, a, 0, 3, 1000);
    net_table_learn(table, b, 7, 4, 1000);
    net_table_learn(table, group, 0, 5, 1000);
    assert_int_equal(net_table_find(table, a, 0, 2000), 3);
    assert_int_equal(net_table_find(table, a, 7, 2000), -1); /* another VLAN is another network */
    assert_int_equal(net_table_find(table, b, 7, 2000), 4);
    assert_int_equal(net_table_find(table, group, 0, 2000), -1);
    net_table_learn(table, a, 0, 6, 3000); /* it moved */
    assert_int_equal(net_table_find(table, a, 0, 4000), 6);
    assert_int_equal(net_table_find(table, a, 0, 3001 + NET_TABLE_AGE_NS), -1);
    net_table_forget(table, 4);
    assert_int_equal(net_table_find(table, b, 7, 2000), -1);
    free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_agree),
        cmocka_unit_test(large_packets_are_cut),
        cmocka_unit_test(frames_fit_their_receiver),
        cmocka_unit_test(impossible_offloads_are_refused),
        cmocka_unit_test(what_is_no_tcp_is_not_cut),
        cmocka_unit_test(flows_have_numbers),
        cmocka_unit_test(forwardings_are_read),
        cmocka_unit_test(a_switch_learns_and_forgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
