/* SPDX-License-Identifier: MIT
 *
 * dev/e1000.c and its EEPROM and PHY as a driver and a network see them.
 */
#include "nic_fixture.h"

extern const struct device_ops device_e1000;

enum {
    CTRL = 0,
    STATUS = 8,
    EECD = 0x10,
    EERD = 0x14,
    MDIC = 0x20,
    ICR = 0xc0,
    ITR = 0xc4,
    ICS = 0xc8,
    IMS = 0xd0,
    IMC = 0xd8,
    RCTL = 0x100,
    TCTL = 0x400,
    RDBAL = 0x2800,
    RDLEN = 0x2808,
    RDH = 0x2810,
    RDT = 0x2818,
    TDBAL = 0x3800,
    TDLEN = 0x3808,
    TDH = 0x3810,
    TDT = 0x3818,
    GPRC = 0x4074,
    RXCSUM = 0x5000,
    MTA = 0x5200,
    RAL = 0x5400,
    VFTA = 0x5600
};
enum { SLOTS = 8 };
#define TX_RING GUEST_RAM
#define RX_RING (GUEST_RAM + 0x1000)
static const uint8_t own_mac[6] = {2, 0x11, 0x22, 0x33, 0x44, 0x55};

static void set(struct nic *f, uint32_t reg, uint32_t value)
{
    guest_put(&f->g, GUEST_BAR + reg, value, 4);
}

static uint32_t get(struct nic *f, uint32_t reg)
{
    return guest_get(&f->g, GUEST_BAR + reg, 4);
}

static int setup(void **state)
{
    struct nic *f = nic_new(&device_e1000, &(struct device_params){.id = "net0", .mac = own_mac});
    guest_config_put(&f->g, PCI_REG_BAR0, (uint32_t)GUEST_BAR, 4);
    guest_config_put(&f->g, PCI_REG_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    set(f, TDBAL, (uint32_t)TX_RING);
    set(f, TDLEN, SLOTS * 16);
    set(f, RDBAL, (uint32_t)RX_RING);
    set(f, RDLEN, SLOTS * 16);
    *state = f;
    return 0;
}

static void put_descriptor(struct nic *f, uint64_t gpa, uint64_t low, uint32_t c, uint32_t d)
{
    uint8_t raw[16];
    store_le64(raw, low);
    store_le32(raw + 8, c);
    store_le32(raw + 12, d);
    assert_true(mem_write(f->g.mem, gpa, raw, sizeof(raw)));
}

static void transmit(struct nic *f, uint64_t low, uint32_t c, uint32_t d)
{
    put_descriptor(f, TX_RING + 16 * f->tx, low, c, d);
    f->tx = (f->tx + 1) % SLOTS;
}

static void start_transmit(struct nic *f)
{
    set(f, TCTL, 2);
    set(f, TDT, f->tx);
    nic_pump(f);
}

static void identity_and_eeprom(void **state)
{
    struct nic *f = *state;
    assert_int_equal(guest_config_get(&f->g, 0, 4), 0x100e8086);
    uint16_t sum = 0;
    for (uint32_t word = 0; word < 64; word++) {
        set(f, EERD, word << 8 | 1);
        uint32_t value = get(f, EERD);
        assert_true((value & 0x10) != 0);
        sum = (uint16_t)(sum + (value >> 16));
        if (word < 3)
            assert_int_equal(value >> 16, load_le16(own_mac + 2 * word));
    }
    assert_int_equal(sum, 0xbaba);
    assert_int_equal(get(f, RAL), load_le32(own_mac));
    assert_int_equal(get(f, RAL + 4), 0x80005544);
    assert_int_equal(get(f, STATUS) & 2, 2);
}

static void clock_in(struct nic *f, bool bit)
{
    uint32_t pins = 2u | (bit ? 4u : 0u);
    set(f, EECD, pins);
    set(f, EECD, pins | 1);
    set(f, EECD, pins);
}

/* As Linux does it: chip select, start bit and operation, address, then sixteen bits out. */
static void the_eeprom_is_read_bit_by_bit(void **state)
{
    struct nic *f = *state;
    set(f, EECD, 0x40);
    assert_true((get(f, EECD) & 0x80) != 0); /* granted */
    for (unsigned word = 0; word < 3; word++) {
        unsigned command = 6u << 6 | word, value = 0;
        set(f, EECD, 0);
        for (int bit = 8; bit >= 0; bit--)
            clock_in(f, command >> bit & 1);
        for (unsigned i = 0; i < 16; i++) {
            set(f, EECD, 3);
            value = value << 1 | (get(f, EECD) >> 3 & 1);
            set(f, EECD, 2);
        }
        assert_int_equal(value, load_le16(own_mac + 2 * word));
    }
}

static void the_phy_answers(void **state)
{
    struct nic *f = *state;
    set(f, MDIC, 2u << 26 | 1u << 21 | 2u << 16);
    assert_int_equal(get(f, MDIC) & 0x1000ffff, 0x10000141);
    set(f, MDIC, 1u << 26 | 1u << 21 | 4u << 16 | 0x1234);
    set(f, MDIC, 2u << 26 | 1u << 21 | 4u << 16);
    assert_int_equal(get(f, MDIC) & 0xffff, 0x1234);
    set(f, MDIC, 2u << 26 | 1u << 21 | 1u << 16);
    assert_true((get(f, MDIC) & 4) != 0);
    net_port_set_link(f->port, false);
    set(f, MDIC, 2u << 26 | 1u << 21 | 1u << 16);
    assert_true((get(f, MDIC) & 4) == 0);
    assert_int_equal(get(f, STATUS) & 2, 0);
    assert_int_equal(get(f, ICR) & 4, 4);
    set(f, MDIC, 2u << 26 | 7u << 21 | 1u << 16);
    assert_true((get(f, MDIC) & 1u << 30) != 0); /* nobody at this address */
}

static void interrupts_are_caused_masked_and_cleared(void **state)
{
    struct nic *f = *state;
    set(f, ICS, 0x10);
    assert_int_equal(f->g.irq_levels, 0);
    set(f, IMS, 0x90);
    assert_int_not_equal(f->g.irq_levels, 0);
    set(f, IMC, 0x10);
    assert_int_equal(f->g.irq_levels, 0);
    set(f, IMS, 0x10);
    assert_int_equal(get(f, ICR), 0x10);
    assert_int_equal(f->g.irq_levels, 0);
    assert_int_equal(get(f, ICR), 0);
    /* Throttled: the second one waits. */
    set(f, ITR, 0xffff);
    set(f, ICS, 0x10);
    assert_int_not_equal(f->g.irq_levels, 0);
    (void)get(f, ICR);
    set(f, ICS, 0x10);
    assert_int_equal(f->g.irq_levels, 0);
    while (f->g.irq_levels == 0) { /* 16.7 ms */
        usleep(1000);
        vclock_run_timers(f->g.env.clock);
    }
}

static void packets_are_sent(void **state)
{
    struct nic *f = *state;
    struct net_frame frame;
    uint8_t status;
    assert_true(mem_write(f->g.mem, GUEST_DATA, "destinsource88payload", 21));
    set(f, IMS, 1);
    transmit(f, GUEST_DATA, 14, 0); /* legacy, in two parts */
    transmit(f, GUEST_DATA + 14, 0x09u << 24 | 50, 0);
    start_transmit(f);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_int_equal(frame.size, 64);
    assert_memory_equal(frame.data, "destinsource88payload", 21);
    assert_int_equal(get(f, TDH), 2);
    assert_true(mem_read(f->g.mem, TX_RING + 12, &status, 1));
    assert_int_equal(status & 1, 0);
    assert_true(mem_read(f->g.mem, TX_RING + 28, &status, 1));
    assert_int_equal(status & 1, 1);
    assert_int_equal(get(f, ICR) & 1, 1);
    /* Half a packet is not taken before the rest is there; the ring wraps. */
    for (unsigned i = 0; i < 7; i++)
        transmit(f, GUEST_DATA, (i == 6 ? 0x01u << 24 : 0) | 20, 0);
    unsigned end = f->tx;
    f->tx = 4;
    start_transmit(f);
    assert_int_equal(get(f, TDH), 2);
    f->tx = end;
    start_transmit(f);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_int_equal(frame.size, 140);
    assert_int_equal(get(f, TDH), end);
}

/* An IPv4 TCP packet with what Linux leaves undone. */
static void make_tcp(struct nic *f, size_t payload, bool cut)
{
    static uint8_t packet[0x10000];
    memset(packet, 0, sizeof(packet));
    memcpy(packet, own_mac, 6);
    net_store16(packet + 12, 0x0800);
    packet[14] = 0x45;
    net_store16(packet + 16, cut ? 0 : (unsigned)(40 + payload));
    packet[22] = 64;
    packet[23] = 6;
    memcpy(packet + 26, "\x0a\0\x02\x0f\x0a\0\x02\x02", 8);
    packet[46] = 0x50;
    packet[47] = 0x18;
    for (size_t i = 0; i < payload; i++)
        packet[54 + i] = (uint8_t)i;
    assert_true(mem_write(f->g.mem, GUEST_DATA, packet, 54 + payload));
}

static uint64_t context_low(void)
{
    uint8_t raw[8] = {14, 24, 33, 0, 34, 50, 0, 0};
    return load_le64(raw);
}

static void large_packets_and_checksums_are_handed_on(void **state)
{
    struct nic *f = *state;
    struct net_frame frame;
    struct net_tcp tcp;
    net_link_announce(&f->peer, NET_ACCEPT_CHECKSUM | NET_ACCEPT_TCP4);
    nic_pump(f);
    make_tcp(f, 5000, true);
    transmit(f, context_low(), (0x20u | 7u) << 24 | 5000, 1460u << 16 | 54u << 8);
    transmit(f, GUEST_DATA, (0x20u | 4u | 9u) << 24 | 1u << 20 | 5054, 3u << 8);
    start_transmit(f);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_int_equal(frame.offload.gso, NET_GSO_TCP4);
    assert_int_equal(frame.offload.gso_size, 1460);
    assert_true(net_find_tcp(frame.data, frame.size, &tcp));
    assert_int_equal(tcp.end, 5054);
    assert_int_equal(net_sum_fold(net_sum(frame.data + 14, 20, 0)), 0xffff);
    assert_int_equal(get(f, TDH), 2);

    make_tcp(f, 100, false); /* checksums only; the pseudo-header's sum is the driver's: 0 here */
    transmit(f, context_low(), 0x20u << 24, 0);
    transmit(f, GUEST_DATA, (0x20u | 9u) << 24 | 1u << 20 | 154, 3u << 8);
    start_transmit(f);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_int_equal(net_sum_fold(net_sum(frame.data + 14, 20, 0)), 0xffff);
    assert_int_equal(net_sum_fold(net_sum(frame.data + 34, 120, 0)), 0xffff);

    transmit(f, GUEST_DATA, (0x20u | 4u | 9u) << 24 | 1u << 20 | 30, 3u << 8); /* no TCP in 30 */
    start_transmit(f);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_AGAIN);
    assert_int_equal(get(f, TDH), f->tx);
}

static void nonsense_is_not_sent(void **state)
{
    struct nic *f = *state;
    struct net_frame frame;
    transmit(f, UINT64_C(1) << 40, 0x09u << 24 | 64, 0); /* nowhere */
    transmit(f, GUEST_DATA, 0x09u << 24 | 13, 0);        /* too short */
    transmit(f, GUEST_DATA, (0x20u | 9u) << 24 | 1u << 20 | 0xfffff, 0);
    transmit(f, GUEST_DATA, 0x09u << 24 | 60, 0);
    start_transmit(f);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_int_equal(frame.size, 60);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_AGAIN);
    set(f, TDLEN, 0); /* no ring at all, or one that lies nowhere */
    set(f, TDT, 3);
    nic_pump(f);
    set(f, TDLEN, 128);
    set(f, TDBAL + 4, 0x1000);
    set(f, TDT, 7);
    nic_pump(f);
    assert_int_equal(get(f, TDH), 7);
}

static void network_sends(struct nic *f, const uint8_t *to, uint8_t mark, size_t size)
{
    static uint8_t data[NET_FRAME_MAX];
    memset(data, mark, size);
    memcpy(data, to, 6);
    struct net_frame frame = {.data = data, .size = size};
    net_link_put(&f->peer, &frame);
    nic_pump(f);
}

static void give_buffers(struct nic *f, unsigned tail)
{
    for (unsigned i = 0; i < SLOTS; i++)
        put_descriptor(f, RX_RING + 16 * i, GUEST_DATA + 0x1000 * i, 0, 0);
    set(f, RDT, tail);
    nic_pump(f);
}

static uint32_t rx_word(struct nic *f, unsigned slot, unsigned offset, unsigned size)
{
    return ring_get(f->g.mem, RX_RING + 16 * slot + offset, size);
}

static void frames_are_received(void **state)
{
    struct nic *f = *state;
    set(f, IMS, 0x80);
    network_sends(f, own_mac, 1, 100); /* not enabled: lost */
    set(f, RCTL, 2 | 0x20);
    network_sends(f, own_mac, 2, 100); /* no buffers: waits, and says so */
    assert_int_equal(get(f, ICR) & 0x40, 0x40);
    give_buffers(f, 7);
    assert_int_equal(get(f, RDH), 1);
    assert_int_equal(rx_word(f, 0, 8, 2), 104); /* with the CRC */
    assert_int_equal(rx_word(f, 0, 12, 1) & 3, 3);
    assert_int_equal(ring_get(f->g.mem, GUEST_DATA + 99, 1), 2);
    assert_int_equal(get(f, ICR) & 0x80, 0x80);
    network_sends(f, own_mac, 3, 5000); /* three buffers of 2 KiB */
    assert_int_equal(get(f, RDH), 4);
    assert_int_equal(rx_word(f, 1, 12, 1) & 3, 1);
    assert_int_equal(rx_word(f, 3, 12, 1) & 3, 3);
    assert_int_equal(rx_word(f, 3, 8, 2), 5004 - 4096);
    set(f, RCTL, 2 | 1u << 26); /* no long packets, and the CRC taken off */
    network_sends(f, own_mac, 4, 5000);
    network_sends(f, own_mac, 5, 14);
    assert_int_equal(get(f, RDH), 5);
    assert_int_equal(rx_word(f, 4, 8, 2), 60); /* padded */
    assert_int_equal(get(f, GPRC), 3);
    assert_int_equal(get(f, GPRC), 0);
}

static void frames_are_filtered_and_tags_taken_off(void **state)
{
    struct nic *f = *state;
    const uint8_t other[] = {2, 0, 0, 0, 0, 9}, all[] = {255, 255, 255, 255, 255, 255},
                  group[] = {1, 0, 0x5e, 0, 0x12, 0x34};
    give_buffers(f, 7);
    set(f, RCTL, 2);
    network_sends(f, other, 1, 60);
    network_sends(f, all, 1, 60);
    network_sends(f, group, 1, 60);
    assert_int_equal(get(f, RDH), 0);
    set(f, RCTL, 2 | 0x8000);
    network_sends(f, all, 1, 60);
    assert_int_equal(get(f, RDH), 1);
    unsigned bit = (0x3412u >> 4) & 0xfff; /* bytes 5 and 4 of the address */
    set(f, MTA + (bit >> 5) * 4, 1u << (bit & 31));
    network_sends(f, group, 1, 60);
    assert_int_equal(get(f, RDH), 2);
    set(f, RCTL, 2 | 8);
    network_sends(f, other, 1, 60);
    assert_int_equal(get(f, RDH), 3);

    uint8_t tagged[64] = {0};
    memcpy(tagged, own_mac, 6);
    memcpy(tagged + 12, "\x81\x00\x00\x07\x08\x00", 6);
    struct net_frame frame = {.data = tagged, .size = sizeof(tagged)};
    set(f, CTRL, 1u << 30);
    set(f, RCTL, 2 | 1u << 18 | 1u << 26); /* filtered by VLAN */
    net_link_put(&f->peer, &frame);
    nic_pump(f);
    assert_int_equal(get(f, RDH), 3);
    set(f, VFTA, 1u << 7);
    net_link_put(&f->peer, &frame);
    nic_pump(f);
    assert_int_equal(get(f, RDH), 4);
    assert_int_equal(rx_word(f, 3, 14, 2), 7);
    assert_int_equal(rx_word(f, 3, 12, 1) & 8, 8);
    assert_int_equal(ring_get(f->g.mem, GUEST_DATA + 0x3000 + 12, 2), 0x0008);
    /* The same the other way: the tag is put in. */
    struct net_frame out;
    transmit(f, GUEST_DATA + 0x3000, 0x49u << 24 | 60, 9u << 16);
    start_transmit(f);
    assert_int_equal(net_link_receive(&f->peer, &out), NET_DONE);
    assert_int_equal(out.size, 64);
    assert_int_equal(net_load32(out.data + 12), 0x81000009);
}

static void its_state_survives(void **state)
{
    struct nic *f = *state;
    struct state_buffer saved = {0}, again = {0};
    size_t at = 0;
    set(f, IMS, 0x85);
    set(f, ICS, 0x80);
    set(f, RCTL, 0x8002);
    transmit(f, context_low(), 0x27u << 24 | 5000, 1460u << 16);
    start_transmit(f);
    clock_in(f, true);
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
    assert_int_not_equal(f->g.irq_levels, 0);
    assert_int_equal(get(f, ICR), 0x80);
    assert_int_equal(get(f, RCTL), 0x8002);
    state_buffer_free(&saved);
    state_buffer_free(&again);
}

static void its_address_is_announced(void **state)
{
    struct nic *f = *state;
    struct net_frame frame;
    set(f, RAL, 0x44332202);
    set(f, RAL + 4, UINT32_C(0x80006655));
    net_port_announce(f->port);
    assert_int_equal(net_link_receive(&f->peer, &frame), NET_DONE);
    assert_memory_equal(frame.data + 6, "\2\x22\x33\x44\x55\x66\x80\x35", 8);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, nic_free)
    const struct CMUnitTest tests[] = {
        TEST(identity_and_eeprom),
        TEST(the_eeprom_is_read_bit_by_bit),
        TEST(the_phy_answers),
        TEST(interrupts_are_caused_masked_and_cleared),
        TEST(packets_are_sent),
        TEST(large_packets_and_checksums_are_handed_on),
        TEST(nonsense_is_not_sent),
        TEST(frames_are_received),
        TEST(frames_are_filtered_and_tags_taken_off),
        TEST(its_address_is_announced),
        TEST(its_state_survives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
