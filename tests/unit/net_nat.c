/* SPDX-License-Identifier: MIT
 *
 * net/nat_frames.c: gathering is the reverse of cutting; net/nat_filter.c: where a guest gets.
 */
#include "packets.h"

#include <limits.h>

#include "base/bits.h"
#include "net/nat_filter.h"
#include "net/nat_frames.h"

enum { ACK = 0x10, ACK_PSH = 0x18, SYN = 2, MSS = 1460, TCP_AT = IP4 + 20 };

/* --- gathering --- */

struct gathered {
    struct net_nat_frames frames;
    unsigned count;
    struct made last;
    struct net_offload offload;
    unsigned fed, end; /* of the segments: those from number `end` on stay away */
};

static void gather(void *opaque, const struct net_frame *frame)
{
    struct gathered *g = opaque;
    memcpy(g->last.bytes, frame->data, frame->size);
    g->last.size = frame->size;
    g->offload = frame->offload;
    g->count++;
}

static void feed(void *opaque, const struct net_frame *segment)
{
    struct gathered *g = opaque;
    if (g->fed++ < g->end)
        net_nat_to_guest(&g->frames, segment, gather, g);
}

static void start(struct gathered *g)
{
    net_nat_frames_init(&g->frames, 1500);
    g->count = g->fed = 0;
    g->end = UINT_MAX;
}

/* Cuts a packet into segments and has them gathered. */
static void cut(struct gathered *g, struct made *made, bool v6, unsigned mss)
{
    struct net_frame frame = {.offload = {.flags = NET_NEEDS_CHECKSUM,
                                          .gso = v6 ? NET_GSO_TCP6 : NET_GSO_TCP4,
                                          .gso_size = (uint16_t)mss},
                              .data = made->bytes,
                              .size = made->size};
    net_adapt(&frame, 0, feed, g);
}

static void what_was_cut_is_gathered(void **state)
{
    (void)state;
    static struct made made;
    static struct gathered g;
    for (unsigned v6 = 0; v6 < 2; v6++)
        for (size_t payload = 1; payload < 61000; payload = payload * 2 + 333) {
            size_t network = make_tcp(&made, v6, 0, 0, payload);
            unsigned mss = v6 ? MSS - 20 : MSS;
            made.bytes[network + (v6 ? 40 : 20) + 13] = payload % 2 ? ACK_PSH : ACK;
            start(&g);
            cut(&g, &made, v6, mss);
            net_nat_flush(&g.frames, gather, &g);
            assert_int_equal(g.count, 1);
            assert_int_equal(g.last.size, made.size);
            assert_int_equal(g.offload.gso_size, payload > mss ? mss : 0);
            struct net_frame frame = {.offload = g.offload, .data = g.last.bytes, g.last.size};
            if (payload > mss) {
                assert_true(net_offload_check(&frame.offload, frame.size));
                net_complete_checksum(&frame);
            }
            check_sums(&frame);
            struct net_tcp tcp;
            assert_true(net_find_tcp(made.bytes, made.size, &tcp));
            assert_memory_equal(g.last.bytes + tcp.payload, made.bytes + tcp.payload, payload);
            assert_memory_equal(g.last.bytes + tcp.transport, made.bytes + tcp.transport, 16);
        }
}

/* A burst that is longer than a frame, and one that pauses in the middle. */
static void frames_end_in_time(void **state)
{
    (void)state;
    static struct made made;
    static struct gathered g;
    make_tcp(&made, false, 0, 0, 44 * MSS);
    made.bytes[TCP_AT + 13] = ACK;
    start(&g);
    cut(&g, &made, false, MSS);
    assert_int_equal(g.count, 1); /* there is no room for another: nothing waits */
    net_store32(made.bytes + TCP_AT + 4, net_load32(made.bytes + TCP_AT + 4) + 44 * MSS);
    g.end = g.fed + 3;
    cut(&g, &made, false, MSS);
    assert_int_equal(g.count, 1);
    net_nat_flush(&g.frames, gather, &g);
    net_nat_flush(&g.frames, gather, &g);
    assert_int_equal(g.count, 2);
    assert_int_equal(g.last.size, 54 + 3 * MSS);
    /* An acknowledgement passes what was gathered before it only behind it. */
    start(&g);
    g.end = 2;
    cut(&g, &made, false, MSS);
    assert_int_equal(g.count, 0);
    make_tcp(&made, false, 0, 0, 0);
    made.bytes[TCP_AT + 13] = ACK;
    const struct net_frame ack = {.data = made.bytes, .size = made.size};
    net_nat_to_guest(&g.frames, &ack, gather, &g);
    assert_int_equal(g.count, 2);
    assert_int_equal(g.last.size, made.size);
    /* Segments too small to be cut again (net_offload_check). */
    make_tcp(&made, false, 0, 0, 3 * 47);
    made.bytes[TCP_AT + 13] = ACK;
    start(&g);
    cut(&g, &made, false, 47);
    assert_int_equal(g.count, 3);
    start(&g);
    make_tcp(&made, false, 0, 0, 3 * 48);
    made.bytes[TCP_AT + 13] = ACK;
    cut(&g, &made, false, 48);
    net_nat_flush(&g.frames, gather, &g);
    assert_int_equal(g.count, 1);
    /* Larger than the network carries: lost. */
    make_tcp(&made, false, 0, 0, 5000);
    const struct net_frame large = {.data = made.bytes, .size = made.size};
    net_nat_to_guest(&g.frames, &large, gather, &g);
    net_nat_flush(&g.frames, gather, &g);
    assert_int_equal(g.count, 1);
}

/* Every bit of the second segment's headers: those that differ for a reason may, others part it
 * from the first. */
static void what_differs_stays_apart(void **state)
{
    (void)state;
    static struct made first, second;
    static struct gathered g;
    static const uint8_t may_differ[] = {IP4 + 4,  IP4 + 5,     IP4 + 10,
                                         IP4 + 11, TCP_AT + 16, TCP_AT + 17};
    make_tcp(&first, false, 0, 0, MSS);
    first.bytes[TCP_AT + 13] = ACK;
    for (unsigned bit = 0; bit < (TCP_AT + 20) * 8; bit++) {
        bool may = memchr(may_differ, (int)(bit / 8), sizeof(may_differ)) != NULL ||
                   (bit / 8 == TCP_AT + 13 && 1u << bit % 8 == (ACK_PSH ^ ACK));
        second = first;
        net_store32(second.bytes + TCP_AT + 4, net_load32(first.bytes + TCP_AT + 4) + MSS);
        second.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        const struct net_frame one = {.data = first.bytes, .size = first.size},
                               two = {.data = second.bytes, .size = second.size};
        start(&g);
        net_nat_to_guest(&g.frames, &one, gather, &g);
        net_nat_to_guest(&g.frames, &two, gather, &g);
        net_nat_flush(&g.frames, gather, &g);
        assert_int_equal(g.count, may ? 1 : 2);
        assert_int_equal(g.last.size, may ? first.size + MSS : second.size);
    }
}

/* --- where a guest gets --- */

struct probe {
    bool v6;
    uint8_t protocol, flags;
    uint16_t port;
    const char *to; /* bytes */
    enum net_nat_verdict closed, open;
};

#define HOST4   "\x0a\0\x02\x02"
#define SERVER4 "\x0a\0\x02\x03"
#define HOST6   "\xfe\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02"
#define SERVER6 "\xfe\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03"
enum { TCP = 6, UDP = 17, ICMP = 1 };

/* TCP by make_tcp(), made something else where asked for. */
static struct net_frame make_probe(struct made *made, const struct probe *probe)
{
    size_t network = make_tcp(made, probe->v6, 0, 0, 4);
    uint8_t *ip = made->bytes + network, *transport = ip + (probe->v6 ? 40 : 20);
    ip[probe->v6 ? 6 : 9] = probe->protocol;
    memcpy(ip + (probe->v6 ? 24 : 16), probe->to, probe->v6 ? 16 : 4);
    net_store16(transport, 7); /* from */
    net_store16(transport + 2, probe->port);
    transport[13] = probe->flags;
    return (struct net_frame){.data = made->bytes, .size = made->size};
}

static const struct probe probes[] = {
    {false, TCP, SYN, 80, "\x08\x08\x08\x08", NET_NAT_PASS, NET_NAT_PASS},
    {false, UDP, 0, 80, "\xc0\xa8\x01\x01", NET_NAT_PASS, NET_NAT_PASS},
    {false, TCP, SYN, 80, HOST4, NET_NAT_REFUSE, NET_NAT_PASS},
    {false, TCP, SYN | ACK, 80, HOST4, NET_NAT_PASS, NET_NAT_PASS},
    {false, TCP, ACK, 80, HOST4, NET_NAT_PASS, NET_NAT_PASS},
    {false, UDP, 0, 80, HOST4, NET_NAT_DROP, NET_NAT_PASS},
    {false, UDP, 0, 67, HOST4, NET_NAT_PASS, NET_NAT_PASS},
    {false, UDP, 0, 67, "\xff\xff\xff\xff", NET_NAT_PASS, NET_NAT_PASS},
    {false, UDP, 0, 67, "\x0a\0\x02\x09", NET_NAT_DROP, NET_NAT_PASS}, /* the host's own, that is */
    {false, UDP, 0, 68, "\xff\xff\xff\xff", NET_NAT_DROP, NET_NAT_PASS},
    {false, ICMP, 0, 0, HOST4, NET_NAT_PASS, NET_NAT_PASS},
    {false, TCP, SYN, 80, "\x0a\0\x02\x09", NET_NAT_REFUSE, NET_NAT_PASS},
    {false, TCP, SYN, 53, SERVER4, NET_NAT_PASS, NET_NAT_PASS},
    {false, TCP, SYN, 80, SERVER4, NET_NAT_REFUSE, NET_NAT_REFUSE},
    {false, UDP, 0, 53, SERVER4, NET_NAT_PASS, NET_NAT_PASS},
    {false, UDP, 0, 54, SERVER4, NET_NAT_DROP, NET_NAT_DROP},
    {false, TCP, SYN, 80, "\x7f\0\0\x01", NET_NAT_DROP, NET_NAT_DROP},
    {false, UDP, 0, 80, "\x7f\1\2\x03", NET_NAT_DROP, NET_NAT_DROP},
    {false, TCP, SYN, 80, "\0\0\0\0", NET_NAT_DROP, NET_NAT_DROP},
    {false, ICMP, 0, 0, "\x7f\0\0\x01", NET_NAT_DROP, NET_NAT_DROP},
    {true, TCP, SYN, 80, "\x20\1\0\0\0\0\0\0\0\0\0\0\0\0\0\x02", NET_NAT_PASS, NET_NAT_PASS},
    {true, TCP, SYN, 80, HOST6, NET_NAT_REFUSE, NET_NAT_PASS},
    {true, TCP, ACK, 80, HOST6, NET_NAT_PASS, NET_NAT_PASS},
    {true, UDP, 0, 80, HOST6, NET_NAT_DROP, NET_NAT_PASS},
    {true, UDP, 0, 547, "\xff\2\0\0\0\0\0\0\0\0\0\0\0\1\0\x02", NET_NAT_PASS, NET_NAT_PASS},
    {true, UDP, 0, 547, HOST6, NET_NAT_PASS, NET_NAT_PASS},
    {true, UDP, 0, 547, "\xfe\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\x09", NET_NAT_DROP, NET_NAT_PASS},
    {true, UDP, 0, 547, "\xff\2\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", NET_NAT_DROP, NET_NAT_PASS},
    {true, TCP, SYN, 80, "\xff\2\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", NET_NAT_REFUSE, NET_NAT_PASS},
    {true, UDP, 0, 53, SERVER6, NET_NAT_PASS, NET_NAT_PASS},
    {true, UDP, 0, 54, SERVER6, NET_NAT_DROP, NET_NAT_DROP},
    {true, 58, 0, 0, HOST6, NET_NAT_PASS, NET_NAT_PASS},
    {true, TCP, SYN, 80, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", NET_NAT_DROP, NET_NAT_DROP},
    {true, TCP, SYN, 80, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", NET_NAT_DROP, NET_NAT_DROP},
    {true, UDP, 0, 80, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01", NET_NAT_DROP, NET_NAT_DROP},
};

static void the_host_is_closed_unless_asked_for(void **state)
{
    (void)state;
    static struct made made;
    struct net_nat_filter closed, open;
    net_nat_filter_init(&closed, false);
    net_nat_filter_init(&open, true);
    for (unsigned i = 0; i < ARRAY_SIZE(probes); i++) {
        const struct net_frame frame = make_probe(&made, &probes[i]);
        assert_int_equal(net_nat_filter_judge(&closed, &frame), probes[i].closed);
        assert_int_equal(net_nat_filter_judge(&open, &frame), probes[i].open);
        /* IPv4's options move the ports, fragments hide them. */
        if (probes[i].v6)
            continue;
        made.bytes[IP4 + 7] = 1;
        if (probes[i].closed == NET_NAT_REFUSE || probes[i].port == 53)
            assert_int_equal(net_nat_filter_judge(&closed, &frame), NET_NAT_DROP);
        made.bytes[IP4 + 7] = 0;
        made.bytes[IP4] = 0x46;
        memmove(made.bytes + TCP_AT + 4, made.bytes + TCP_AT, 24);
        const struct net_frame moved = {.data = made.bytes, .size = made.size + 4};
        assert_int_equal(net_nat_filter_judge(&closed, &moved), probes[i].closed);
        made.bytes[IP4] = 0x44;
        assert_int_equal(net_nat_filter_judge(&closed, &moved), NET_NAT_DROP);
    }
    /* Nothing of a frame that ends early is believed, nor of other protocols. */
    for (unsigned v6 = 0; v6 < 2; v6++) {
        const struct probe probe = {v6,          TCP, SYN, 80, v6 ? HOST6 : HOST4, NET_NAT_REFUSE,
                                    NET_NAT_PASS};
        struct net_frame frame = make_probe(&made, &probe);
        for (frame.size = 0; frame.size < (v6 ? 74u : 54u); frame.size++)
            assert_int_equal(net_nat_filter_judge(&closed, &frame), NET_NAT_DROP);
        assert_int_equal(net_nat_filter_judge(&closed, &frame), NET_NAT_REFUSE);
        net_store16(made.bytes + 12, 0x0806);
        assert_int_equal(net_nat_filter_judge(&closed, &frame), NET_NAT_PASS);
        net_store16(made.bytes + 12, 0x88f8);
        assert_int_equal(net_nat_filter_judge(&open, &frame), NET_NAT_DROP);
        net_store16(made.bytes + 12, v6 ? 0x0800 : 0x86dd);
        assert_int_equal(net_nat_filter_judge(&open, &frame), NET_NAT_DROP);
    }
}

/* Who came through a forwarded UDP port may be answered, on that port and for as long as fewer than
 * 64 others came. */
static void datagrams_may_be_answered(void **state)
{
    (void)state;
    static struct made made;
    struct net_nat_filter filter;
    for (unsigned v6 = 0; v6 < 2; v6++) {
        const struct probe probe = {v6,           UDP,         0, 900, v6 ? HOST6 : HOST4,
                                    NET_NAT_DROP, NET_NAT_PASS};
        net_nat_filter_init(&filter, false);
        for (unsigned peers = 0; peers < NET_NAT_PEERS; peers++) {
            struct net_frame frame = make_probe(&made, &probe);
            uint8_t *ip = made.bytes + IP4, *udp = ip + (v6 ? 40 : 20);
            size_t size = v6 ? 16 : 4, to = v6 ? 24 : 16;
            memcpy(ip + to - size, probe.to, size); /* from the host to the guest */
            memset(ip + to, 0x0a, size);
            net_store16(udp, 900 + peers);
            net_store16(udp + 2, 7);
            for (unsigned twice = 0; twice < 2; twice++)
                net_nat_filter_note(&filter, &frame);
            frame = make_probe(&made, &probe);
            assert_int_equal(net_nat_filter_judge(&filter, &frame), NET_NAT_PASS);
            net_store16(udp, 8);
            assert_int_equal(net_nat_filter_judge(&filter, &frame), NET_NAT_DROP);
            net_store16(udp, 7);
            net_store16(udp + 2, 901 + peers);
            assert_int_equal(net_nat_filter_judge(&filter, &frame), NET_NAT_DROP);
        }
        struct net_frame frame = make_probe(&made, &probe);
        uint8_t *ip = made.bytes + IP4, *udp = ip + (v6 ? 40 : 20);
        memcpy(ip + (v6 ? 8 : 12), probe.to, v6 ? 16 : 4);
        net_store16(udp, 2);
        net_nat_filter_note(&filter, &frame);
        frame = make_probe(&made, &probe);
        assert_int_equal(net_nat_filter_judge(&filter, &frame), NET_NAT_DROP);
    }
}

static void a_refusal_is_a_reset(void **state)
{
    (void)state;
    static struct made made;
    for (unsigned v6 = 0; v6 < 2; v6++) {
        const struct probe probe = {v6,          TCP, SYN, 80, v6 ? HOST6 : HOST4, NET_NAT_REFUSE,
                                    NET_NAT_PASS};
        const struct net_frame frame = make_probe(&made, &probe);
        uint8_t out[NET_NAT_REFUSAL_BYTES];
        struct net_frame answer;
        struct net_tcp tcp;
        net_nat_refuse(&frame, out, &answer);
        assert_true(net_find_tcp(answer.data, answer.size, &tcp));
        assert_int_equal(tcp.end, answer.size);
        check_sums(&answer);
        assert_memory_equal(out, made.bytes + 6, 6);
        assert_memory_equal(out + 6, made.bytes, 6);
        assert_memory_equal(out + IP4 + (v6 ? 8 : 12), made.bytes + IP4 + (v6 ? 24 : 16),
                            v6 ? 16 : 4);
        assert_memory_equal(out + IP4 + (v6 ? 24 : 16), made.bytes + IP4 + (v6 ? 8 : 12),
                            v6 ? 16 : 4);
        assert_int_equal(net_load16(out + tcp.transport), 80);
        assert_int_equal(net_load16(out + tcp.transport + 2), 7);
        assert_int_equal(net_load32(out + tcp.transport + 8), 0xfffffff1);
        assert_int_equal(out[tcp.transport + 13], 0x14);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_cut_is_gathered),
        cmocka_unit_test(frames_end_in_time),
        cmocka_unit_test(what_differs_stays_apart),
        cmocka_unit_test(the_host_is_closed_unless_asked_for),
        cmocka_unit_test(datagrams_may_be_answered),
        cmocka_unit_test(a_refusal_is_a_reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
