/* SPDX-License-Identifier: MIT
 *
 * What stands between a guest and the NAT's stack (net/nat_filter.c, net/nat_frames.c), and what
 * answers DHCP beside a tap device (net/dhcp.c).
 *
 * Input: records of 1 byte kind, 1 byte length, and so many bytes of a frame. The checks are those
 * of asserts and sanitizers, and: what passes the filter is ARP or a packet to where the guest may
 * get; a refusal and all that is emitted are frames whose offloads net_offload_check() accepts; as
 * many bytes of payload come out as went in.
 */
#include "fuzz.h"

#include <string.h>

#include "net/dhcp.h"
#include "net/nat_filter.h"
#include "net/nat_frames.h"

enum record { FROM_GUEST, TO_GUEST, FLUSH, RECORD_COUNT };
enum { HEADER = 2, FRAME_AT = 12 };

struct target {
    struct net_nat_filter filter;
    struct net_nat_frames frames;
    struct net_dhcp *dhcp;
    size_t in, out; /* bytes of what is larger than its headers */
};

static size_t payload_of(const struct net_frame *frame)
{
    struct net_tcp tcp;
    return net_find_tcp(frame->data, frame->size, &tcp) ? tcp.end - tcp.payload : 0;
}

static void emitted(void *opaque, const struct net_frame *frame)
{
    struct target *t = opaque;
    fuzz_check(net_offload_check(&frame->offload, frame->size) || frame->size < NET_HEADER_BYTES);
    t->out += payload_of(frame);
}

static void from_guest(struct target *t, struct net_frame *frame)
{
    uint8_t refusal[NET_NAT_REFUSAL_BYTES];
    struct net_frame answer;
    if (!net_offload_check(&frame->offload, frame->size))
        return; /* the link lets no such frame pass */
    if (t->dhcp != NULL) {
        (void)net_dhcp_take(t->dhcp, frame);
        return;
    }
    enum net_nat_verdict verdict = net_nat_filter_judge(&t->filter, frame);
    if (verdict == NET_NAT_REFUSE) {
        net_nat_refuse(frame, refusal, &answer);
        fuzz_check(net_offload_check(&answer.offload, answer.size) && payload_of(&answer) == 0);
    }
    if (verdict != NET_NAT_PASS)
        return;
    const uint8_t *ip = frame->data + NET_HEADER_BYTES;
    if (net_load16(frame->data + FRAME_AT) == 0x0800)
        fuzz_check(frame->size >= NET_HEADER_BYTES + 20 && ip[16] != 127 && ip[16] != 0);
    else if (net_load16(frame->data + FRAME_AT) == 0x86dd)
        fuzz_check(frame->size >= NET_HEADER_BYTES + 40 &&
                   memcmp(ip + 24, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", 16) != 0);
    else
        fuzz_check(net_load16(frame->data + FRAME_AT) == 0x0806);
    net_nat_from_guest(frame);
}

static void to_guest(struct target *t, const struct net_frame *frame)
{
    net_nat_filter_note(&t->filter, frame);
    if (frame->size <= t->frames.mtu + NET_HEADER_BYTES)
        t->in += payload_of(frame);
    net_nat_to_guest(&t->frames, frame, emitted, t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct target t;
    struct fuzz_input input = {data, size};
    t.in = t.out = 0;
    unsigned how = (unsigned)fuzz_take(&input, 1);
    net_nat_filter_init(&t.filter, how % 2 != 0);
    t.dhcp = how % 8 == 7 ? net_dhcp_new("10.0.2.2", 24, emitted, &t, NULL) : NULL;
    net_nat_frames_init(&t.frames, 576);
    while (input.left > HEADER) {
        enum record record = fuzz_take(&input, 1) % RECORD_COUNT;
        size_t length = fuzz_take(&input, 1) * 4;
        /* Exactly as large as it is, for the address sanitizer. */
        uint8_t *bytes = calloc(1, length + 1);
        length = length < input.left ? length : input.left;
        memcpy(bytes, input.data, length);
        input.data += length;
        input.left -= length;
        struct net_frame frame = {.data = bytes, .size = length};
        if (record == FROM_GUEST && length > 16)
            frame.offload = (struct net_offload){.flags = bytes[0] & 1,
                                                 .gso = bytes[0] >> 1 & 5,
                                                 .gso_size = bytes[1] * 8u,
                                                 .checksum_start = bytes[2],
                                                 .checksum_offset = bytes[3]};
        if (record == FROM_GUEST)
            from_guest(&t, &frame);
        else if (record == TO_GUEST)
            to_guest(&t, &frame);
        else
            net_nat_flush(&t.frames, emitted, &t);
        free(bytes);
    }
    net_nat_flush(&t.frames, emitted, &t);
    fuzz_check(t.in == t.out);
    net_dhcp_free(t.dhcp);
    return 0;
}

/* ---- generating ---- */

static const char *const addresses[] = {"\x7f\0\0\x01", "\x0a\0\x02\x02", "\x0a\0\x02\x03",
                                        "\x08\x08\x08\x08", "\xff\xff\xff\xff"};
static const char *const addresses6[] = {
    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", "\xfe\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02",
    "\xfe\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03", "\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x01",
    "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01"};

/* A packet of `size` bytes with its Ethernet header, the next of a stream if its data goes on. */
static void make_packet(uint64_t *seed, uint8_t *out, size_t size, bool v6, uint32_t *sequence)
{
    size_t header = v6 ? 40 : 20;
    uint64_t r = fuzz_random(seed);
    uint8_t *ip = out + NET_HEADER_BYTES, *transport = ip + header;
    memset(out, 0, size);
    net_store16(out + FRAME_AT, v6 ? 0x86dd : 0x0800);
    ip[0] = v6 ? 0x60 : 0x45;
    net_store16(ip + (v6 ? 4 : 2), (unsigned)(size - NET_HEADER_BYTES - (v6 ? 40 : 0)));
    ip[v6 ? 6 : 9] = r % 4 == 0 ? 17 : 6;
    const char *to = v6 ? addresses6[r >> 8 & 3] : addresses[(r >> 8) % 5];
    memcpy(ip + (v6 ? 24 : 16), to, v6 ? 16 : 4);
    memcpy(ip + (v6 ? 8 : 12), to, v6 ? 16 : 4);
    net_store16(transport, (unsigned)(r >> 16 & 3) + 52);
    net_store16(transport + 2, (r >> 40 & 3) == 0 ? 67 : (unsigned)(r >> 18 & 3) + 52);
    net_store32(transport + 4, *sequence);
    transport[12] = 5 << 4;
    transport[13] = (r >> 20 & 7) == 0 ? (uint8_t)(r >> 24) : (r >> 20 & 7) == 1 ? 2 : 0x10;
    if (!v6 && ip[9] == 17 && size >= NET_HEADER_BYTES + 28 + 244) { /* DISCOVER, of BOOTP's size */
        uint8_t *bootp = transport + 8;
        net_store16(transport + 4, (unsigned)(size - NET_HEADER_BYTES - 20));
        net_store16(transport + 6, 0);
        memcpy(bootp, "\x01\x01\x06\0", 4);
        memcpy(bootp + 236, "\x63\x82\x53\x63\x35\x01", 6);
        bootp[242] = r >> 48 & 7;
        bootp[243] = r >> 51 & 1 ? 0xff : (uint8_t)(r >> 52);
    }
    *sequence += (uint32_t)(size - NET_HEADER_BYTES - header - 20);
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    size_t size = 1;
    uint32_t sequence = 0;
    bool v6 = fuzz_random(seed) % 2 != 0;
    data[0] = (uint8_t)fuzz_random(seed);
    uint8_t words = (uint8_t)(20 + fuzz_random(seed) % 60);
    while (size + HEADER + 4 * 255 < FUZZ_INPUT_MAX) {
        uint64_t r = fuzz_random(seed);
        if (r % 8 == 0)
            words = (uint8_t)(r >> 8);
        if (words < 20)
            words = 20;
        data[size] = r >> 16 & 1 ? TO_GUEST : (uint8_t)(r >> 17);
        data[size + 1] = words;
        make_packet(seed, data + size + HEADER, 4 * (size_t)words, v6, &sequence);
        if ((r >> 32) % 4 == 0) /* damaged */
            data[size + HEADER + (r >> 34) % (4u * words)] ^= (uint8_t)(1u << (r >> 60));
        size += HEADER + 4 * (size_t)words;
    }
    return size;
}
