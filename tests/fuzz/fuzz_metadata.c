/* SPDX-License-Identifier: MIT
 *
 * The metadata service against a guest that sends anything (net/service.c, net/metadata.c).
 *
 * Input: records of 1 byte what and 1 byte how much. SEGMENT: a TCP segment, of 1 byte flags, 1
 * byte where to in our stream and 1 in the other's (signed, from what would be right), 2 bytes
 * window, 1 byte port, and that many bytes of payload. RAW: that many bytes are a frame. PIECE: a
 * segment that is right, with a piece of a request. TIME: so many times 50 ms pass. The checks are
 * those of asserts and sanitizers, and: every frame that comes out is whole, from the service and
 * to the guest; there are never more connections than there may be.
 */
#include "fuzz.h"

#include <string.h>

#include "base/bits.h"
#include "net/metadata.h"

enum what { SEGMENT, RAW, PIECE, TIME, WHATS };
enum { IP = 14, TCP = 34, ARP = 0x0806, PEERS = 20 };

static const uint8_t address[4] = {169, 254, 169, 254}, guest[4] = {10, 0, 0, 2};
static const char *const pieces[] = {
    "GET /latest/meta-data HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.0\r\nAccept: application/json\r\n\r\n",
    "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n",
    "X-aws-ec2-metadata-token: ",
    "X-Forwarded-For: a\r\n",
    "Content-Length: 5\r\n",
    "\r\n",
    "GET /l/1/~0~1 HTTP/1.1\r\n",
    "GET http://a HTTP/1.1\r\n\r\n",
};

struct target {
    struct service *service;
    uint32_t seq[PEERS], ack[PEERS]; /* what the guest would say next */
    int64_t now;
};

static void emitted(void *opaque, const struct net_frame *frame)
{
    struct target *t = opaque;
    const uint8_t *data = frame->data, *tcp = data + TCP;
    struct net_tcp at;
    fuzz_check(frame->size >= 42 && frame->size <= 1514 && data[6] == 6);
    if (net_load16(data + 12) == ARP)
        return;
    fuzz_check(memcmp(data + IP + 12, address, 4) == 0);
    fuzz_check(net_load16(data + IP + 2) == frame->size - IP);
    fuzz_check(net_find_tcp(data, frame->size, &at) && at.end == frame->size);
    size_t peer = net_load16(tcp + 2) % PEERS;
    t->ack[peer] = net_load32(tcp + 4) + (uint32_t)(at.end - at.payload) + ((tcp[13] & 3) != 0);
}

static void give(struct target *t, uint8_t *data, size_t size)
{
    struct net_frame frame = {.offload = {.flags = NET_CHECKSUM_VALID}, .data = data, .size = size};
    if (!net_offload_check(&frame.offload, frame.size))
        return; /* the link lets no such frame pass */
    (void)service_take(t->service, &frame, t->now);
    fuzz_check(service_connections(t->service) <= SERVICE_PEERS);
}

static void give_segment(struct target *t, size_t peer, unsigned flags, int8_t seq, int8_t ack,
                         unsigned window, const uint8_t *payload, size_t size)
{
    uint8_t frame[TCP + 20 + 512] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45},
                             *tcp = frame + TCP;
    net_store16(frame + IP + 2, (unsigned)(40 + size));
    frame[IP + 9] = 6;
    memcpy(frame + IP + 12, guest, 4);
    memcpy(frame + IP + 16, address, 4);
    uint16_t sum = (uint16_t)~net_sum_fold(net_sum(frame + IP, 20, 0));
    memcpy(frame + IP + 10, &sum, sizeof(sum));
    net_store16(tcp, (unsigned)peer);
    net_store16(tcp + 2, 80);
    net_store32(tcp + 4, (uint32_t)((int64_t)t->seq[peer] + seq));
    net_store32(tcp + 8, (uint32_t)((int64_t)t->ack[peer] + ack));
    tcp[12] = 0x50;
    tcp[13] = (uint8_t)flags;
    net_store16(tcp + 14, window);
    memcpy(tcp + 20, payload, size);
    if (seq == 0)
        t->seq[peer] += (uint32_t)size + ((flags & 3) != 0);
    give(t, frame, TCP + 20 + size);
}

static void one_record(struct target *t, struct fuzz_input *input)
{
    uint8_t bytes[256] = {0};
    enum what what = (enum what)(fuzz_take(input, 1) % WHATS);
    size_t size = (size_t)fuzz_take(input, 1);
    if (what == TIME) {
        t->now += (int64_t)size * 50;
        int wait = service_tick(t->service, t->now);
        fuzz_check(wait >= -1 && wait <= 60000);
        return;
    }
    if (what == PIECE) {
        const char *piece = pieces[size % ARRAY_SIZE(pieces)];
        give_segment(t, (size_t)fuzz_take(input, 1) % PEERS, 0x18, 0, 0, 65535,
                     (const uint8_t *)piece, strlen(piece));
        return;
    }
    unsigned flags = (unsigned)fuzz_take(input, 1);
    int8_t seq = (int8_t)fuzz_take(input, 1), ack = (int8_t)fuzz_take(input, 1);
    unsigned window = (unsigned)fuzz_take(input, 2);
    size_t peer = (size_t)fuzz_take(input, 1) % PEERS;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)fuzz_take(input, 1);
    if (what == RAW)
        give(t, bytes, size);
    else
        give_segment(t, peer, flags, seq, ack, window, bytes, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char message[] = "{\"id\": \"fuzz\", \"key\": \"000102030405060708090a0b0c0d0e0f"
                                  "101112131415161718191a1b1c1d1e1f\", \"version\": 1, \"store\": "
                                  "{\"latest\": {\"meta-data\": "
                                  "{\"a\": \"b\"}}, \"l\": [1, {\"~/\": 2}]}}";
    struct fuzz_input input = {data, size};
    struct target target = {.now = 1000};
    struct metadata *metadata = metadata_new(NULL);
    fuzz_check(metadata != NULL && metadata_tell(metadata, message, strlen(message)));
    const struct service_config config = {.address = {169, 254, 169, 254},
                                          .mac = {6, 1, 0x23, 0x45, 0x67, 1},
                                          .port = 80,
                                          .request = metadata_request,
                                          .requests = metadata,
                                          .emit = emitted,
                                          .opaque = &target};
    target.service = service_new(&config);
    while (input.left > 0)
        one_record(&target, &input);
    service_free(target.service);
    metadata_free(metadata);
    return 0;
}

/* Connections that are mostly right, and what comes in between. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    size_t size = 0;
    uint8_t peer = (uint8_t)(fuzz_random(seed) % PEERS);
    for (uint64_t n = fuzz_random(seed) % 40; n > 0 && size + 300 < FUZZ_INPUT_MAX; n--) {
        uint64_t r = fuzz_random(seed);
        enum what what = r % 8 < 4 ? PIECE : r % 8 < 6 ? SEGMENT : r % 8 < 7 ? TIME : RAW;
        uint8_t length = (uint8_t)(what == SEGMENT && r % 3 == 0 ? 0 : r >> 8);
        static const uint8_t flags[] = {2, 0x10, 0x11, 0x18, 4, 0x14, 0x12, 0};
        data[size++] = (uint8_t)what;
        data[size++] = length;
        if (what == TIME)
            continue;
        if ((r >> 16) % 8 == 0)
            peer = (uint8_t)(fuzz_random(seed) % PEERS);
        if (what == PIECE) {
            data[size++] = peer;
            continue;
        }
        data[size++] = flags[(r >> 20) % 8];
        data[size++] = (uint8_t)((r >> 24) % 4 == 0 ? r >> 28 : 0);
        data[size++] = (uint8_t)((r >> 26) % 4 == 0 ? r >> 30 : 0);
        data[size++] = (uint8_t)(r >> 40);
        data[size++] = (uint8_t)(r >> 48);
        data[size++] = peer;
        for (unsigned i = 0; i < length; i++)
            data[size++] = (uint8_t)(fuzz_random(seed) >> 13);
    }
    return size;
}
