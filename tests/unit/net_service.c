/* SPDX-License-Identifier: MIT
 *
 * net/service.h against a peer that is written here, segment by segment.
 */
#include "packets.h"

#include "net/service.h"

enum {
    FIN = 1,
    SYN = 2,
    RST = 4,
    PSH = 8,
    ACK = 16,
    PORT = 80,
    TCP_AT = IP4 + 20,
    FRAMES = 64,
    ANSWER = 5000,
    NOW = 1000
};

static const uint8_t guest_mac[6] = {2, 0, 0, 0, 0, 1},
                     service_mac[6] = {6, 1, 0x23, 0x45, 0x67, 1};
static const uint8_t guest_ip[4] = {10, 0, 0, 2}, service_ip[4] = {169, 254, 169, 254};

struct world {
    struct service *service;
    struct made frames[FRAMES]; /* that it sent */
    size_t count, read;
    uint32_t seq, ack; /* of the peer: what it sends next, and has got */
    uint16_t port, window;
    unsigned requests;
    bool last; /* the next answer is */
    int64_t now;
};

static void emit(void *opaque, const struct net_frame *frame)
{
    struct world *w = opaque;
    assert_true(w->count < FRAMES);
    memcpy(w->frames[w->count].bytes, frame->data, frame->size);
    w->frames[w->count++].size = frame->size;
}

/* A request is what ends with '.', '!' is none at all; the answer counts. */
static int request(void *opaque, const uint8_t *data, size_t size, struct service_answer *answer)
{
    struct world *w = opaque;
    const uint8_t *end = memchr(data, '.', size);
    if (memchr(data, '!', size) != NULL)
        return -1;
    if (end == NULL)
        return 0;
    w->requests++;
    *answer = (struct service_answer){.data = malloc(ANSWER), .size = ANSWER, .last = w->last};
    for (size_t i = 0; i < ANSWER; i++)
        answer->data[i] = (uint8_t)(i * 7 + w->requests);
    return (int)(end - data) + 1;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct service_config config = {
        .port = PORT, .request = request, .requests = w, .emit = emit, .opaque = w};
    memcpy(config.address, service_ip, 4);
    memcpy(config.mac, service_mac, 6);
    w->service = service_new(&config);
    w->port = 4000;
    w->window = 65535;
    w->seq = 0xfffffff0; /* numbers wrap */
    w->now = NOW;
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    service_free(w->service);
    free(w);
    return 0;
}

static size_t make(const struct world *w, struct made *made, unsigned flags, const char *payload,
                   bool mss)
{
    size_t size = strlen(payload), header = mss ? 24 : 20;
    uint8_t *at = made->bytes, *tcp = at + TCP_AT, pseudo[12] = {0};
    memset(at, 0, TCP_AT + header);
    memcpy(at, service_mac, 6);
    memcpy(at + 6, guest_mac, 6);
    net_store16(at + 12, 0x0800);
    at[IP4] = 0x45;
    net_store16(at + IP4 + 2, (unsigned)(20 + header + size));
    at[IP4 + 8] = 64;
    at[IP4 + 9] = 6;
    memcpy(at + IP4 + 12, guest_ip, 4);
    memcpy(at + IP4 + 16, service_ip, 4);
    net_store16(at + IP4 + 10, 0xffff & ~plain_sum(at + IP4, 20, 0));
    net_store16(tcp, w->port);
    net_store16(tcp + 2, PORT);
    net_store32(tcp + 4, w->seq);
    net_store32(tcp + 8, (flags & ACK) != 0 ? w->ack : 0);
    tcp[12] = (uint8_t)(header / 4 << 4);
    tcp[13] = (uint8_t)flags;
    net_store16(tcp + 14, w->window);
    if (mss)
        memcpy(tcp + 20, "\x02\x04\x02\x00", 4); /* 512 */
    memcpy(tcp + header, payload, size);
    memcpy(pseudo, at + IP4 + 12, 8);
    pseudo[9] = 6;
    net_store16(pseudo + 10, (unsigned)(header + size));
    net_store16(tcp + 16, 0xffff & ~plain_sum(tcp, header + size, plain_sum(pseudo, 12, 0)));
    return made->size = TCP_AT + header + size;
}

static bool give(struct world *w, struct made *made)
{
    const struct net_frame frame = {.data = made->bytes, .size = made->size};
    return service_take(w->service, &frame, w->now);
}

static void send(struct world *w, unsigned flags, const char *payload)
{
    static struct made made;
    make(w, &made, flags, payload, false);
    assert_true(give(w, &made));
}

/* The next segment that it sent, whose sums and addresses are right; its flags. */
static unsigned next(struct world *w, const uint8_t **tcp, size_t *payload)
{
    assert_true(w->read < w->count);
    struct made *made = &w->frames[w->read++];
    uint8_t pseudo[12] = {0}, *ip = made->bytes + IP4;
    size_t size = made->size - TCP_AT;
    assert_memory_equal(made->bytes, guest_mac, 6);
    assert_memory_equal(made->bytes + 6, service_mac, 6);
    assert_int_equal(plain_sum(ip, 20, 0), 0xffff);
    assert_int_equal(net_load16(ip + 2), 20 + size);
    memcpy(pseudo, ip + 12, 8);
    pseudo[9] = 6;
    net_store16(pseudo + 10, (unsigned)size);
    *tcp = made->bytes + TCP_AT;
    assert_int_equal(plain_sum(*tcp, size, plain_sum(pseudo, 12, 0)), 0xffff);
    assert_int_equal(net_load16(*tcp + 2), w->port);
    *payload = size - ((size_t)(*tcp)[12] >> 4) * 4;
    return (*tcp)[13];
}

static void nothing_more(const struct world *w)
{
    assert_int_equal(w->read, w->count);
}

static void connect_to(struct world *w)
{
    static struct made made;
    const uint8_t *tcp;
    size_t payload;
    make(w, &made, SYN, "", true);
    assert_true(give(w, &made));
    assert_int_equal(next(w, &tcp, &payload), SYN | ACK);
    assert_int_equal(net_load32(tcp + 8), w->seq + 1);
    w->seq++;
    w->ack = net_load32(tcp + 4) + 1;
    send(w, ACK, "");
    nothing_more(w);
}

/* Reads `size` bytes of answer `number` from `from` on, acknowledging each segment, or none. */
static size_t read_answer(struct world *w, unsigned number, size_t from, bool acknowledge)
{
    const uint8_t *tcp;
    size_t at = from, payload;
    while (w->read < w->count && at < ANSWER) {
        assert_int_equal(next(w, &tcp, &payload) & (SYN | RST), 0);
        if (payload == 0)
            break;
        assert_true(payload <= 512);
        assert_int_equal(net_load32(tcp + 4), w->ack + (acknowledge ? 0 : at - from));
        for (size_t i = 0; i < payload; i++)
            assert_int_equal(tcp[20 + i], (uint8_t)((at + i) * 7 + number));
        at += payload;
        if (acknowledge) {
            w->ack += (uint32_t)payload;
            send(w, ACK, "");
        }
    }
    return at - from;
}

static void say(struct world *w, const char *text)
{
    send(w, ACK | PSH, text);
    w->seq += (uint32_t)strlen(text);
}

static void who_has_the_address(void **state)
{
    struct world *w = *state;
    static struct made made;
    memset(&made, 0, sizeof(made));
    memset(made.bytes, 0xff, 6);
    memcpy(made.bytes + 6, guest_mac, 6);
    memcpy(made.bytes + 12, "\x08\x06\0\x01\x08\0\x06\x04\0\x01", 10);
    memcpy(made.bytes + 22, guest_mac, 6);
    memcpy(made.bytes + 28, guest_ip, 4);
    memcpy(made.bytes + 38, service_ip, 4);
    made.size = 41;
    assert_false(give(w, &made)); /* cut off */
    made.size = 60;
    assert_true(give(w, &made));
    assert_int_equal(w->count, 1);
    const uint8_t *reply = w->frames[0].bytes;
    assert_memory_equal(reply, guest_mac, 6);
    assert_memory_equal(reply + 12, "\x08\x06\0\x01\x08\0\x06\x04\0\x02", 10);
    assert_memory_equal(reply + 22, service_mac, 6);
    assert_memory_equal(reply + 28, service_ip, 4);
    assert_memory_equal(reply + 32, guest_mac, 6);
    assert_memory_equal(reply + 38, guest_ip, 4);
    made.bytes[41]++; /* another address: not ours */
    assert_false(give(w, &made));
    make(w, &made, SYN, "", false);
    made.bytes[IP4 + 19]++;
    assert_false(give(w, &made));
    made.bytes[12] = 0x86; /* another protocol */
    assert_false(give(w, &made));
    assert_int_equal(w->count, 1);
}

static void requests_are_answered(void **state)
{
    struct world *w = *state;
    const uint8_t *tcp;
    size_t payload;
    connect_to(w);
    say(w, "a ");
    assert_int_equal(next(w, &tcp, &payload), ACK); /* there is more to come */
    assert_int_equal(net_load32(tcp + 8), w->seq);
    say(w, "question.");
    assert_int_equal(read_answer(w, 1, 0, true), ANSWER);
    say(w, "two.at once.");
    assert_int_equal(read_answer(w, 2, 0, true), ANSWER);
    assert_int_equal(read_answer(w, 3, 0, true), ANSWER);
    assert_int_equal(w->requests, 3);
    send(w, ACK | FIN, "");
    w->seq++;
    assert_int_equal(next(w, &tcp, &payload), ACK | FIN);
    assert_int_equal(net_load32(tcp + 8), w->seq);
    w->ack++;
    send(w, ACK, "");
    nothing_more(w);
    assert_int_equal(service_connections(w->service), 0);
    assert_int_equal(service_tick(w->service, w->now), -1);
}

static void the_last_answer_ends_with_the_connection(void **state)
{
    struct world *w = *state;
    const uint8_t *tcp;
    size_t payload;
    connect_to(w);
    w->last = true;
    say(w, "bye.");
    assert_int_equal(read_answer(w, 1, 0, true), ANSWER);
    assert_int_equal(next(w, &tcp, &payload), ACK | FIN);
    w->ack++;
    send(w, ACK, "");
    say(w, "more."); /* nobody listens any more */
    assert_int_equal(next(w, &tcp, &payload), ACK);
    send(w, ACK | FIN, "");
    w->seq++;
    assert_int_equal(next(w, &tcp, &payload), ACK);
    assert_int_equal(w->requests, 1);
    assert_int_equal(service_connections(w->service), 0);
}

static void what_is_lost_comes_again(void **state)
{
    struct world *w = *state;
    const uint8_t *tcp;
    size_t payload;
    static struct made made;
    connect_to(w);
    say(w, "question.");
    assert_int_equal(read_answer(w, 1, 0, false), ANSWER); /* nothing acknowledged */
    int wait = service_tick(w->service, w->now);
    assert_true(wait > 0 && wait <= 200);
    w->now += wait;
    service_tick(w->service, w->now);
    assert_int_equal(read_answer(w, 1, 0, false), ANSWER);
    w->ack += 700; /* some of it came */
    send(w, ACK, "");
    nothing_more(w);
    w->now += service_tick(w->service, w->now);
    service_tick(w->service, w->now);
    assert_int_equal(read_answer(w, 1, 700, true), ANSWER - 700);
    /* What comes twice, or too early, is acknowledged as it was. */
    w->seq -= 4;
    send(w, ACK, "on.?");
    assert_int_equal(next(w, &tcp, &payload), ACK);
    w->seq += 4;
    w->seq += 100;
    send(w, ACK, "later.");
    assert_int_equal(next(w, &tcp, &payload), ACK);
    w->seq -= 100;
    assert_int_equal(net_load32(tcp + 8), w->seq);
    assert_int_equal(w->requests, 1);
    /* A peer that is silent is given up. */
    say(w, "again.");
    w->read = w->count;
    unsigned tries = 0;
    while (service_connections(w->service) > 0 && tries < 20) {
        w->now += service_tick(w->service, w->now);
        w->count = w->read = 0;
        service_tick(w->service, w->now);
        tries++;
    }
    assert_true(tries >= 8 && tries < 20);
    w->read = w->count - 1;
    assert_int_equal(next(w, &tcp, &payload) & RST, RST);
    make(w, &made, ACK, "", false);
    assert_true(give(w, &made));
    assert_int_equal(next(w, &tcp, &payload), RST);
}

static void the_peers_window_is_kept(void **state)
{
    struct world *w = *state;
    connect_to(w);
    w->window = 100;
    say(w, "question.");
    assert_int_equal(read_answer(w, 1, 0, false), 100);
    w->ack += 100;
    w->window = 0;
    send(w, ACK, "");
    nothing_more(w);
    w->now += service_tick(w->service, w->now);
    service_tick(w->service, w->now);
    assert_int_equal(read_answer(w, 1, 100, false), 1); /* it asks */
    w->window = 65535;
    w->ack++;
    send(w, ACK, "");
    assert_int_equal(read_answer(w, 1, 101, false), ANSWER - 101);
}

static void what_is_none_of_its_own(void **state)
{
    struct world *w = *state;
    const uint8_t *tcp;
    size_t payload;
    static struct made made;
    send(w, ACK, "hello.");
    assert_int_equal(next(w, &tcp, &payload), RST);
    assert_int_equal(net_load32(tcp + 4), w->ack);
    make(w, &made, SYN, "", false);
    net_store16(made.bytes + TCP_AT + 2, 81); /* nobody is there; the sum is wrong, too */
    assert_true(give(w, &made));
    nothing_more(w);
    make(w, &made, SYN, "", false);
    made.bytes[IP4 + 9] = 17; /* not TCP: there is nowhere else for it to go */
    assert_true(give(w, &made));
    nothing_more(w);
    connect_to(w);
    make(w, &made, ACK, "question.", false);
    made.bytes[made.size - 1] ^= 1;
    assert_true(give(w, &made));
    nothing_more(w);
    assert_int_equal(w->requests, 0);
    w->ack += 1000; /* of what was never sent */
    send(w, ACK, "question.");
    assert_int_equal(next(w, &tcp, &payload), ACK);
    w->ack -= 1000;
    say(w, "no!");
    assert_int_equal(next(w, &tcp, &payload), RST | ACK);
    assert_int_equal(service_connections(w->service), 0);
    /* More than a request may have. */
    static char large[1001];
    memset(large, 'x', 1000);
    w->port++;
    connect_to(w);
    for (unsigned i = 0; i < 4; i++) {
        say(w, large);
        assert_int_equal(next(w, &tcp, &payload), ACK);
    }
    say(w, large);
    assert_int_equal(next(w, &tcp, &payload), RST | ACK);
    /* A reset that nobody could know of, and one of its own. */
    w->port++;
    connect_to(w);
    w->seq += 100000;
    send(w, RST, "");
    assert_int_equal(service_connections(w->service), 1);
    w->seq -= 100000;
    send(w, SYN, ""); /* of another connection: it is asked */
    assert_int_equal(next(w, &tcp, &payload), ACK);
    send(w, RST, "");
    assert_int_equal(service_connections(w->service), 0);
    nothing_more(w);
}

static void many_peers(void **state)
{
    struct world *w = *state;
    const uint8_t *tcp;
    size_t payload;
    for (unsigned i = 0; i < SERVICE_PEERS; i++) {
        connect_to(w);
        w->port++;
        w->now += 1000;
    }
    assert_int_equal(service_connections(w->service), SERVICE_PEERS);
    static struct made made;
    make(w, &made, SYN, "", false);
    assert_true(give(w, &made));
    uint16_t newest = w->port;
    w->port = 4000; /* has been quiet longest */
    assert_int_equal(next(w, &tcp, &payload), RST | ACK);
    w->port = newest;
    assert_int_equal(next(w, &tcp, &payload), SYN | ACK);
    assert_int_equal(service_connections(w->service), SERVICE_PEERS);
    w->now += 120000;
    w->count = w->read = 0;
    service_tick(w->service, w->now);
    assert_int_equal(service_connections(w->service), 0);
    assert_int_equal(w->count, SERVICE_PEERS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(who_has_the_address, setup, teardown),
        cmocka_unit_test_setup_teardown(requests_are_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(the_last_answer_ends_with_the_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_lost_comes_again, setup, teardown),
        cmocka_unit_test_setup_teardown(the_peers_window_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_none_of_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(many_peers, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
