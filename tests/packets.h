/* SPDX-License-Identifier: MIT
 *
 * For tests: TCP packets, and their checksums computed in the plainest way.
 */
#ifndef TRAPEZE_TESTS_PACKETS_H
#define TRAPEZE_TESTS_PACKETS_H

#include "support.h"

#include "net/frame.h"

enum { IP4 = 14, FIN_PSH_ACK = 0x19 };

struct made {
    uint8_t bytes[NET_FRAME_MAX];
    size_t size;
};

/* RFC 1071 word by word, big-endian. */
static inline unsigned plain_sum(const uint8_t *data, size_t size, uint32_t sum)
{
    for (size_t i = 0; i < size; i++)
        sum += i % 2 == 0 ? (uint32_t)data[i] << 8 : data[i];
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* A TCP packet of `payload` counted bytes behind `tags` VLAN tags and `options` bytes of options.
 */
static inline size_t make_tcp(struct made *made, bool v6, unsigned tags, unsigned options,
                              size_t payload)
{
    uint8_t *at = made->bytes;
    memset(at, 0, sizeof(made->bytes));
    memcpy(at, "\x02\0\0\0\0\x01\x02\0\0\0\0\x02", 12);
    at += 12;
    for (unsigned i = 0; i < tags; i++, at += 4)
        net_store32(at, 0x81000005);
    net_store16(at, v6 ? 0x86dd : 0x0800);
    at += 2;
    size_t network = (size_t)(at - made->bytes), tcp = 20 + options;
    if (v6) {
        at[0] = 0x60;
        net_store16(at + 4, (unsigned)(tcp + payload));
        at[6] = 6;
        memset(at + 8, 0xfe, 32);
        at += 40;
    } else {
        at[0] = 0x45;
        net_store16(at + 2, (unsigned)(20 + tcp + payload));
        net_store16(at + 4, 0xfffe); /* the identification wraps */
        at[8] = 64;
        at[9] = 6;
        memcpy(at + 12, "\x0a\0\x02\x0f\x0a\0\x02\x02", 8);
        at += 20;
    }
    net_store32(at + 4, 0xfffffff0); /* so does the sequence number */
    at[12] = (uint8_t)(tcp / 4 << 4);
    at[13] = FIN_PSH_ACK;
    memset(at + 20, 1, options);
    for (size_t i = 0; i < payload; i++)
        at[tcp + i] = (uint8_t)(i * 7);
    made->size = (size_t)(at - made->bytes) + tcp + payload;
    return network;
}

/* The TCP checksum of a finished frame comes out as 0xffff, and the IPv4 header's too. */
static inline void check_sums(const struct net_frame *frame)
{
    struct net_tcp tcp;
    uint8_t pseudo[40] = {0};
    assert_true(net_find_tcp(frame->data, frame->size, &tcp));
    const uint8_t *ip = frame->data + tcp.network;
    size_t addresses = tcp.v6 ? 32 : 8, length = tcp.end - tcp.transport;
    memcpy(pseudo, tcp.v6 ? ip + 8 : ip + 12, addresses);
    net_store32(pseudo + addresses, (uint32_t)length);
    pseudo[addresses + 7] = 6;
    unsigned sum = plain_sum(pseudo, addresses + 8, 0);
    assert_int_equal(plain_sum(frame->data + tcp.transport, length, sum), 0xffff);
    if (!tcp.v6)
        assert_int_equal(plain_sum(ip, 20, 0), 0xffff);
}

#endif
