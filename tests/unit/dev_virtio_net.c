/* SPDX-License-Identifier: MIT
 *
 * dev/virtio_net.c as a driver and a network see it.
 */
#include "nic_fixture.h"

#define F_CSUM       (UINT64_C(1) << 0)
#define F_GUEST_CSUM (UINT64_C(1) << 1)
#define F_OFFLOADS   (UINT64_C(1) << 2)
#define F_MTU        (UINT64_C(1) << 3)
#define F_MAC        (UINT64_C(1) << 5)
#define F_GUEST_TSO4 (UINT64_C(1) << 7)
#define F_HOST_TSO4  (UINT64_C(1) << 11)
#define F_MRG        (UINT64_C(1) << 15)
#define F_STATUS     (UINT64_C(1) << 16)
#define F_CTRL       (UINT64_C(1) << 17)
#define F_CTRL_RX    (UINT64_C(1) << 18)
#define F_CTRL_VLAN  (UINT64_C(1) << 19)
#define F_RX_EXTRA   (UINT64_C(1) << 20)
#define F_ANNOUNCE   (UINT64_C(1) << 21)
#define F_MQ         (UINT64_C(1) << 22)
#define F_CTRL_MAC   (UINT64_C(1) << 23)

enum { RECEIVE, TRANSMIT, CONTROL };
enum { HEADER = 12 };
static const uint8_t own_mac[6] = {2, 0, 0, 0, 0, 1};

extern const struct device_ops device_virtio_net;

static struct nic *make(unsigned queues)
{
    return nic_new(
        &device_virtio_net,
        &(struct device_params){.id = "net0", .mac = own_mac, .mtu = 9000, .queues = queues});
}

static int setup(void **state)
{
    *state = make(0);
    return 0;
}

static int setup_pairs(void **state)
{
    *state = make(4);
    return 0;
}

static void network_sends(struct nic *f, const uint8_t *to, uint8_t mark, size_t size)
{
    static uint8_t data[NET_FRAME_MAX];
    memset(data, mark, size);
    memcpy(data, to, 6);
    data[12] = 0x88;
    struct net_frame frame = {.data = data, .size = size};
    net_link_put(&f->peer, &frame);
    nic_pump(f);
}

/* `count` receive buffers of `size` bytes, a page apart. */
static void give_buffers(struct nic *f, unsigned count, uint32_t size)
{
    struct ring *ring = &f->g.rings[RECEIVE];
    for (unsigned i = 0; i < count; i++) {
        ring_desc(ring, i, GUEST_DATA + 0x1000 * i, size, RING_WRITE, 0);
        ring_offer(ring, (uint16_t)i);
    }
    guest_notify(&f->g, RECEIVE);
    nic_pump(f);
}

static uint8_t guest_byte(struct nic *f, uint64_t gpa)
{
    return (uint8_t)ring_get(f->g.mem, gpa, 1);
}

/* A frame of `size` bytes behind this header. */
static void guest_sends(struct nic *f, const uint8_t header[HEADER], uint32_t size)
{
    struct ring *ring = &f->g.rings[TRANSMIT];
    assert_true(mem_write(f->g.mem, GUEST_DATA + 0x80000, header, HEADER));
    ring_desc(ring, 0, GUEST_DATA + 0x80000, HEADER, RING_NEXT, 1);
    ring_desc(ring, 1, GUEST_DATA + 0x81000, size, 0, 0);
    ring_offer(ring, 0);
    guest_notify(&f->g, TRANSMIT);
    nic_pump(f);
}

static uint8_t command_in(struct nic *f, unsigned queue, const void *data, uint32_t size)
{
    struct ring *ring = &f->g.rings[queue];
    assert_true(mem_write(f->g.mem, GUEST_DATA + 0x70000, data, size));
    assert_true(mem_write(f->g.mem, GUEST_DATA + 0x7f000, "\xee", 1));
    ring_desc(ring, 0, GUEST_DATA + 0x70000, size, RING_NEXT, 1);
    ring_desc(ring, 1, GUEST_DATA + 0x7f000, 1, RING_WRITE, 0);
    ring_offer(ring, 0);
    guest_notify(&f->g, queue);
    nic_pump(f);
    return guest_byte(f, GUEST_DATA + 0x7f000);
}

static uint8_t command(struct nic *f, const void *data, uint32_t size)
{
    return command_in(f, CONTROL, data, size);
}

static void configuration_says_what_it_is(void **state)
{
    struct nic *f = *state;
    guest_start(&f->g, F_MAC | F_MTU | F_STATUS);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(guest_reg(&f->g, REG_CONFIG + i, 1), own_mac[i]);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 1);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 10, 2), 9000);
}

static void frames_are_sent(void **state)
{
    struct nic *f = *state;
    struct net_frame frame;
    const uint8_t plain[HEADER] = {0};
    guest_start(&f->g, 0);
    guest_sends(f, plain, 60);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_int_equal(frame.size, 60);
    assert_int_equal(ring_used_index(&f->g.rings[TRANSMIT]), 1);
    assert_int_equal(guest_isr(&f->g), 1);
}

static void frames_that_are_none_are_dropped(void **state)
{
    struct nic *f = *state;
    struct net_frame frame;
    const uint8_t headers[][HEADER] = {
        {1, 0, 0, 0, 0, 0, 34, 0, 16},              /* a checksum that was not negotiated */
        {0, 1, 0, 0, 0xb4, 5},                      /* segmentation likewise */
        {1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, /* a checksum outside */
        {1, 4, 0, 0, 0xb4, 5, 34, 0, 16},
    };
    guest_start(&f->g, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(headers); i++)
        guest_sends(f, headers[i], 60);
    guest_sends(f, (const uint8_t[HEADER]){0}, 13);
    guest_sends(f, (const uint8_t[HEADER]){0}, 70000);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_AGAIN);
    assert_int_equal(ring_used_index(&f->g.rings[TRANSMIT]), 6);
    assert_int_equal(guest_reg(&f->g, REG_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

static void a_network_that_is_full_is_waited_for(void **state)
{
    struct nic *f = *state;
    struct net_frame frame;
    struct ring *ring = &f->g.rings[TRANSMIT];
    guest_start(&f->g, 0);
    for (unsigned i = 0; i < 100; i++) {
        ring_desc(ring, 0, GUEST_DATA, 60000 + HEADER, 0, 0);
        ring_offer(ring, 0);
    }
    guest_notify(&f->g, TRANSMIT);
    nic_pump(f);
    unsigned sent = ring_used_index(ring), got = 0;
    assert_in_range(sent, 1, 99);
    for (unsigned turn = 0; turn < 100 && got < 100; turn++) {
        while (net_link_receive(&f->peer, &frame) == NET_DONE)
            got++;
        nic_pump(f);
    }
    assert_int_equal(got, 100);
    assert_int_equal(ring_used_index(ring), 100);
}

static void frames_are_received(void **state)
{
    struct nic *f = *state;
    struct ring *ring = &f->g.rings[RECEIVE];
    network_sends(f, own_mac, 1, 60); /* nobody there: lost */
    guest_start(&f->g, F_MRG);
    nic_pump(f);
    network_sends(f, own_mac, 2, 100); /* no buffer yet: waits */
    assert_int_equal(ring_used_index(ring), 0);
    give_buffers(f, 8, 0x1000);
    assert_int_equal(ring_used_index(ring), 1);
    assert_int_equal(ring_used_length(ring, 0), 100 + HEADER);
    assert_int_equal(ring_get(f->g.mem, GUEST_DATA + 10, 2), 1);
    assert_int_equal(guest_byte(f, GUEST_DATA + HEADER + 99), 2);
    assert_int_equal(guest_isr(&f->g), 1);

    network_sends(f, own_mac, 3, 9000); /* three buffers */
    assert_int_equal(ring_used_index(ring), 4);
    assert_int_equal(ring_get(f->g.mem, GUEST_DATA + 0x1000 + 10, 2), 3);
    assert_int_equal(ring_used_length(ring, 1), 0x1000);
    assert_int_equal(ring_used_length(ring, 3), 9000 + HEADER - 0x2000);
    assert_int_equal(guest_byte(f, GUEST_DATA + 0x3000 + 9000 + HEADER - 0x2000 - 1), 3);

    network_sends(f, own_mac, 4, 20000); /* five are needed, four are there: all or none */
    assert_int_equal(ring_used_index(ring), 4);
    give_buffers(f, 1, 0x1000);
    assert_int_equal(ring_used_index(ring), 9);
    assert_int_equal(ring_used_head(ring, 4), 4);
    assert_int_equal(ring_used_head(ring, 8), 0);
}

static void buffers_that_will_never_do_cost_the_frame(void **state)
{
    struct nic *f = *state;
    struct ring *ring = &f->g.rings[RECEIVE];
    guest_start(&f->g, 0); /* no merging: a frame has one buffer */
    give_buffers(f, 4, 200);
    network_sends(f, own_mac, 1, 1000);
    network_sends(f, own_mac, 2, 100);
    assert_int_equal(ring_used_index(ring), 1);
    assert_int_equal(guest_byte(f, GUEST_DATA + HEADER + 20), 2);
}

static void offloads_are_told_and_kept(void **state)
{
    struct nic *f = *state;
    struct net_frame frame;
    const uint8_t fewer[10] = {5, 0, 0x02}, more[10] = {5, 0, 0x82, 1};
    guest_start(&f->g, F_GUEST_CSUM | F_GUEST_TSO4 | F_MRG | F_CTRL | F_OFFLOADS);
    nic_pump(f);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_AGAIN);
    assert_int_equal(f->peer.accepts, NET_ACCEPT_CHECKSUM | NET_ACCEPT_TCP4);
    assert_int_equal(command(f, more, 10), 1); /* TSO6 was not negotiated */
    assert_int_equal(command(f, fewer, 10), 0);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_AGAIN);
    assert_int_equal(f->peer.accepts, NET_ACCEPT_CHECKSUM);
    guest_reset(&f->g);
    nic_pump(f);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_AGAIN);
    assert_int_equal(f->peer.accepts, 0);
}

static bool passes(struct nic *f, const uint8_t *to)
{
    struct ring *ring = &f->g.rings[RECEIVE];
    unsigned before = ring_used_index(ring);
    ring_offer(ring, 0);
    guest_notify(&f->g, RECEIVE);
    network_sends(f, to, 1, 60);
    return ring_used_index(ring) != before;
}

static void filters_are_the_drivers_choice(void **state)
{
    struct nic *f = *state;
    const uint8_t other[] = {2, 0, 0, 0, 0, 9}, group[] = {1, 0, 0x5e, 0, 0, 1},
                  all[] = {255, 255, 255, 255, 255, 255};
    guest_start(&f->g, F_CTRL | F_CTRL_RX | F_RX_EXTRA | F_CTRL_MAC | F_CTRL_VLAN);
    give_buffers(f, 1, 0x800);
    assert_true(passes(f, other));                /* nobody asked for less yet */
    assert_int_equal(command(f, "\0\0\0", 3), 0); /* not promiscuous */
    assert_false(passes(f, other));
    assert_false(passes(f, group));
    assert_true(passes(f, own_mac));
    assert_true(passes(f, all));
    assert_int_equal(command(f, "\0\5\1", 3), 0); /* no broadcast */
    assert_false(passes(f, all));
    assert_int_equal(command(f, "\0\1\1", 3), 0); /* all multicast */
    assert_true(passes(f, group));
    assert_int_equal(command(f, "\0\1\0", 3), 0);
    const uint8_t table[] = {1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1};
    assert_int_equal(command(f, table, sizeof(table)), 0);
    assert_true(passes(f, other));
    assert_true(passes(f, group));
    assert_int_equal(command(f, table, sizeof(table) - 1), 1); /* cut: the old one stays */
    assert_true(passes(f, group));
    const uint8_t huge[] = {1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0};
    assert_int_equal(command(f, huge, sizeof(huge)), 1);
    const uint8_t mac[] = {1, 1, 2, 0, 0, 0, 0, 7};
    assert_int_equal(command(f, mac, sizeof(mac)), 0);
    assert_true(passes(f, mac + 2));
    assert_false(passes(f, own_mac));
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 5, 1), 7);
    assert_int_equal(command(f, "\0\6\1", 3), 1);    /* there is no such mode */
    assert_int_equal(command(f, "\7\0\1", 3), 1);    /* nor such a class */
    assert_int_equal(command(f, "\2\0\5\20", 4), 1); /* nor VLAN 4101 */
    assert_int_equal(command(f, "\2\0\5\0", 4), 0);
    guest_reset(&f->g);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 5, 1), 1); /* its own again */
}

static void the_link_state_is_shown(void **state)
{
    struct nic *f = *state;
    guest_start(&f->g, F_STATUS);
    net_port_set_link(f->port, false);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 0);
    assert_int_equal(guest_isr(&f->g), 2);
    net_port_set_link(f->port, true);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 1);
    close(f->fd);
    f->fd = -1;
    nic_pump(f);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 0);
    guest_sends(f, (const uint8_t[HEADER]){0}, 60);
    assert_int_equal(ring_used_index(&f->g.rings[TRANSMIT]), 1);
}

static uint8_t announced_address(struct nic *f)
{
    struct net_frame frame;
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_int_equal(frame.size, 60);
    assert_int_equal(frame.data[12] << 8 | frame.data[13], 0x8035);
    assert_memory_equal(frame.data + 6, frame.data + 22, 6);
    return frame.data[11];
}

/* virtio 1.2, 5.1.6.5.4 */
static void the_guest_announces_itself(void **state)
{
    struct nic *f = *state;
    guest_start(&f->g, F_STATUS | F_CTRL | F_ANNOUNCE);
    net_port_announce(f->port);
    assert_int_equal(announced_address(f), own_mac[5]);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 3);
    assert_int_equal(guest_isr(&f->g), 2);
    net_port_set_link(f->port, false); /* which leaves the request alone */
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 2);
    net_port_set_link(f->port, true);
    (void)guest_isr(&f->g);
    assert_int_equal(command(f, "\3\1", 2), 1); /* no such command */
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 3);
    assert_int_equal(command(f, "\3\0", 2), 0);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 1);
    net_port_announce(f->port); /* another move */
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 3);
    guest_start(&f->g, F_STATUS | F_CTRL | F_ANNOUNCE); /* another driver */
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 1);
}

/* With a driver that cannot, and with none: the network learns it all the same. */
static void others_are_announced(void **state)
{
    struct nic *f = *state;
    const uint8_t mac[] = {1, 1, 2, 0, 0, 0, 0, 7};
    net_port_announce(f->port);
    assert_int_equal(announced_address(f), own_mac[5]);
    guest_start(&f->g, F_STATUS | F_CTRL | F_CTRL_MAC);
    assert_int_equal(command(f, mac, sizeof(mac)), 0);
    net_port_announce(f->port);
    assert_int_equal(announced_address(f), 7); /* what the driver made it */
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 6, 2), 1);
    assert_int_equal(command(f, "\3\0", 2), 1);
}

static void a_paused_machine_receives_later(void **state)
{
    struct nic *f = *state;
    struct ring *ring = &f->g.rings[RECEIVE];
    guest_start(&f->g, F_MRG);
    give_buffers(f, 4, 0x1000);
    f->g.device->ops->quiesce(f->g.device);
    network_sends(f, own_mac, 1, 60);
    network_sends(f, own_mac, 2, 60);
    assert_int_equal(ring_used_index(ring), 0);
    f->g.device->ops->unquiesce(f->g.device);
    nic_pump(f);
    assert_int_equal(ring_used_index(ring), 2);
}

/* --- several pairs --- */

/* A UDP packet of IPv4 between two stations, one of which is the guest. */
static void make_udp(uint8_t frame[60], unsigned guest_port, unsigned far_port, bool to_guest)
{
    static const uint8_t here[] = {10, 0, 2, 15}, there[] = {10, 0, 2, 2};
    memset(frame, 0, 60);
    memcpy(frame, own_mac, 6);
    frame[12] = 8;
    frame[14] = 0x45;
    frame[23] = 17;
    memcpy(frame + 26, to_guest ? there : here, 4);
    memcpy(frame + 30, to_guest ? here : there, 4);
    net_store16(frame + 34, to_guest ? far_port : guest_port);
    net_store16(frame + 36, to_guest ? guest_port : far_port);
}

/* Which pair gets the flow's next frame. */
static unsigned pair_of(struct nic *f, unsigned guest_port)
{
    uint16_t before[4];
    uint8_t frame[60];
    for (unsigned pair = 0; pair < 4; pair++) {
        struct ring *ring = &f->g.rings[2 * pair];
        before[pair] = ring_used_index(ring);
        ring_desc(ring, 0, GUEST_DATA + 0x1000 * pair, 0x1000, RING_WRITE, 0);
        if (ring->avail_index == before[pair]) { /* its buffer was used */
            ring_offer(ring, 0);
            guest_notify(&f->g, 2 * pair);
        }
    }
    nic_pump(f);
    make_udp(frame, guest_port, 53, true);
    struct net_frame sent = {.data = frame, .size = sizeof(frame)};
    net_link_put(&f->peer, &sent);
    nic_pump(f);
    unsigned found = 4;
    for (unsigned pair = 0; pair < 4; pair++) {
        if (ring_used_index(&f->g.rings[2 * pair]) == before[pair])
            continue;
        assert_int_equal(found, 4);
        found = pair;
    }
    assert_true(found < 4);
    return found;
}

static void send_udp(struct nic *f, unsigned pair, unsigned guest_port)
{
    struct ring *ring = &f->g.rings[2 * pair + TRANSMIT];
    struct net_frame frame;
    uint8_t data[HEADER + 60] = {0};
    make_udp(data + HEADER, guest_port, 53, false);
    assert_true(mem_write(f->g.mem, GUEST_DATA + 0x80000, data, sizeof(data)));
    ring_desc(ring, 0, GUEST_DATA + 0x80000, sizeof(data), 0, 0);
    ring_offer(ring, 0);
    guest_notify(&f->g, 2 * pair + TRANSMIT);
    nic_pump(f);
    assert_int_equal(ring_used_index(ring), ring->avail_index);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_int_equal(frame.size, 60);
}

static void frames_come_where_their_flow_sends(void **state)
{
    struct nic *f = *state;
    const uint8_t four[] = {4, 0, 4, 0}, two[] = {4, 0, 2, 0}, five[] = {4, 0, 5, 0},
                  none[] = {4, 0, 0, 0}, other[] = {4, 1, 2, 0};
    guest_map_bar(&f->g);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 8, 2), 4);
    assert_int_equal(guest_reg(&f->g, REG_QUEUE_COUNT, 2), 9);
    guest_start(&f->g, F_CTRL | F_MQ);
    for (unsigned port = 1000; port < 1020; port++)
        assert_int_equal(pair_of(f, port), 0); /* until the driver says that it uses more */
    assert_int_equal(command_in(f, 8, five, 4), 1);
    assert_int_equal(command_in(f, 8, none, 4), 1);
    assert_int_equal(command_in(f, 8, other, 4), 1);
    assert_int_equal(command_in(f, 8, four, 3), 1);
    assert_int_equal(command_in(f, 8, four, 4), 0);
    unsigned seen = 0;
    for (unsigned port = 1000; port < 1064; port++) {
        unsigned pair = pair_of(f, port);
        assert_int_equal(pair_of(f, port), pair); /* a flow stays together */
        seen |= 1u << pair;
    }
    assert_int_equal(seen, 15);
    for (unsigned pair = 4; pair-- > 0;) {
        send_udp(f, pair, 2000);
        assert_int_equal(pair_of(f, 2000), pair);
    }
    send_udp(f, 3, 2000);
    assert_int_equal(command_in(f, 8, two, 4), 0);
    assert_true(pair_of(f, 2000) < 2);

    /* A queue that is being reset has its frames received by the first pair. */
    guest_start(&f->g, F_CTRL | F_MQ | VIRTIO_F_RING_RESET);
    assert_int_equal(command_in(f, 8, four, 4), 0);
    send_udp(f, 2, 2000);
    assert_int_equal(pair_of(f, 2000), 2);
    guest_set_reg(&f->g, REG_QUEUE_SELECT, 4, 2);
    guest_set_reg(&f->g, REG_QUEUE_RESET, 1, 2);
    assert_int_equal(guest_reg(&f->g, REG_QUEUE_ENABLE, 2), 0);
    assert_int_equal(pair_of(f, 2000), 0);
}

/* 5.1.2: then the control queue is the third one, and those behind it are nothing. */
static void a_driver_without_pairs_sees_one(void **state)
{
    struct nic *f = *state;
    guest_start(&f->g, F_CTRL | F_CTRL_RX);
    assert_int_equal(command(f, "\0\0\1", 3), 0);
    assert_int_equal(command(f, "\4\0\2\0", 4), 1);
    assert_int_equal(command_in(f, 8, "\0\0\1", 3), 0xee);
    give_buffers(f, 1, 0x800);
    assert_true(passes(f, own_mac));
}

static void pairs_are_part_of_the_state(void **state)
{
    struct nic *f = *state;
    const uint8_t three[] = {4, 0, 3, 0};
    struct state_buffer saved = {0}, again = {0};
    struct error *err = NULL;
    size_t at = 0;
    guest_start(&f->g, F_CTRL | F_MQ);
    assert_int_equal(command_in(f, 8, three, 4), 0);
    f->g.device->ops->quiesce(f->g.device);
    state_save(f->g.device->ops->state, f->g.device, &saved);
    f->g.device->ops->reset(f->g.device);
    assert_true(
        state_restore(f->g.device->ops->state, f->g.device, saved.data, saved.size, &at, &err));
    state_save(f->g.device->ops->state, f->g.device, &again);
    assert_int_equal(saved.size, again.size);
    assert_memory_equal(saved.data, again.data, saved.size);
    f->g.device->ops->unquiesce(f->g.device);
    unsigned seen = 0;
    for (unsigned port = 1000; port < 1064; port++)
        seen |= 1u << pair_of(f, port);
    assert_int_equal(seen, 7);

    struct nic *more = make(8);
    at = 0;
    assert_false(state_restore(more->g.device->ops->state, more->g.device, saved.data, saved.size,
                               &at, &err));
    assert_error(&err, ERROR_USAGE, "is of a device with 9 queues, and it has 17");
    state_buffer_free(&saved);
    state_buffer_free(&again);
    void *own = more;
    nic_free(&own);
}

static void its_state_survives(void **state)
{
    struct nic *f = *state;
    const uint8_t mac[] = {1, 1, 2, 0, 0, 0, 0, 7}, fewer[10] = {5, 0, 0x02};
    struct state_buffer saved = {0}, again = {0};
    size_t at = 0;
    guest_start(&f->g, F_CTRL | F_CTRL_RX | F_CTRL_MAC | F_OFFLOADS | F_GUEST_CSUM | F_GUEST_TSO4);
    assert_int_equal(command(f, "\0\0\0", 3), 0);
    assert_int_equal(command(f, mac, sizeof(mac)), 0);
    assert_int_equal(command(f, fewer, 10), 0);
    f->g.device->ops->quiesce(f->g.device);
    state_save(f->g.device->ops->state, f->g.device, &saved);
    f->g.device->ops->reset(f->g.device);
    assert_true(
        state_restore(f->g.device->ops->state, f->g.device, saved.data, saved.size, &at, NULL));
    state_save(f->g.device->ops->state, f->g.device, &again);
    assert_int_equal(saved.size, again.size);
    assert_memory_equal(saved.data, again.data, saved.size);
    f->g.device->ops->unquiesce(f->g.device);
    nic_pump(f);
    assert_int_equal(guest_reg(&f->g, REG_CONFIG + 5, 1), 7);
    give_buffers(f, 1, 0x800);
    assert_false(passes(f, own_mac));
    assert_true(passes(f, mac + 2));
    state_buffer_free(&saved);
    state_buffer_free(&again);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, nic_free)
    const struct CMUnitTest tests[] = {
        TEST(configuration_says_what_it_is),
        TEST(frames_are_sent),
        TEST(frames_that_are_none_are_dropped),
        TEST(a_network_that_is_full_is_waited_for),
        TEST(frames_are_received),
        TEST(buffers_that_will_never_do_cost_the_frame),
        TEST(offloads_are_told_and_kept),
        TEST(filters_are_the_drivers_choice),
        TEST(the_link_state_is_shown),
        TEST(the_guest_announces_itself),
        TEST(others_are_announced),
        TEST(a_paused_machine_receives_later),
        TEST(its_state_survives),
        cmocka_unit_test_setup_teardown(frames_come_where_their_flow_sends, setup_pairs, nic_free),
        cmocka_unit_test_setup_teardown(a_driver_without_pairs_sees_one, setup_pairs, nic_free),
        cmocka_unit_test_setup_teardown(pairs_are_part_of_the_state, setup_pairs, nic_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
