/* SPDX-License-Identifier: MIT
 *
 * Intel 82540EM Gigabit Ethernet controller (8086:100e), the NIC that every operating system of
 * its time has a driver for. Section numbers are those of Intel's "PCI/PCI-X Family of Gigabit
 * Ethernet Controllers Software Developer's Manual" (317453).
 *
 * Registers are words of one array; those with side effects are in read_register() and
 * write_register(), all others simply keep what is written. Descriptor rings are walked on the
 * event loop's thread only, in bounded turns: a register write posts the work.
 *
 * A packet to be sent is gathered whole before its descriptors are consumed, so that nothing is
 * half done when the machine is saved. Segmentation and checksums are handed on with the frame
 * (net/frame.h); received frames come finished.
 *
 * params: net, mac, pci_slot. The MTU is the driver's affair.
 */
#include <assert.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/device.h"
#include "bus/pci.h"
#include "dev/e1000_parts.h"
#include "dev/e1000_regs.h"
#include "mem/mem.h"
#include "net/port.h"

enum { BAR_BYTES = 0x20000, REGISTER_BYTES = 0x6000 };
enum { DESCRIPTOR_BYTES = 16, TURN_PACKETS = 64, PACKET_DESCRIPTORS_MAX = 256 };

/* What the last context descriptor said (3.3.6). */
struct context {
    uint8_t ip_start, ip_offset, tcp_start, tcp_offset, command;
    uint16_t ip_end, tcp_end, mss;
};

struct e1000 {
    struct device device;
    struct pci_function function;
    struct net_port *port;
    uint8_t mac[NET_MAC_BYTES];
    uint32_t registers[REGISTER_BYTES / 4];
    uint32_t mask; /* interrupts that are enabled */
    struct e1000_eeprom eeprom;
    struct e1000_phy phy;
    struct context context;
    struct vtimer *throttle;
    int64_t throttled_until; /* of a saved state: its deadline */
    bool quiesced, dma;
    bool fresh;                      /* frames the driver has not been told of */
    bool receive_waits, send_waits;  /* the port holds a frame; takes none */
    struct net_offload held_offload; /* of the frame in `packet` that the port did not take */
    size_t held;                     /* its size, 0: none */
    uint8_t packet[NET_FRAME_MAX];
};

static struct e1000 *e1000_of(struct device *device)
{
    return CONTAINER_OF(device, struct e1000, device);
}

static uint32_t *at(struct e1000 *nic, uint32_t reg)
{
    return &nic->registers[reg / 4];
}

/* ---- interrupts (13.4.17 to 13.4.21) ---- */

static void update_interrupt(struct e1000 *nic)
{
    bool wanted = (*at(nic, ICR) & nic->mask) != 0;
    if (wanted && vtimer_deadline(nic->throttle) != VCLOCK_NEVER)
        return; /* the throttle's end looks again */
    pci_set_intx(&nic->function, wanted);
    uint32_t interval = *at(nic, ITR) & 0xffff; /* in 256 ns */
    if (wanted && interval != 0)
        vtimer_arm(nic->throttle, vclock_now(nic->device.env->clock) + interval * INT64_C(256));
}

static void raise(struct e1000 *nic, uint32_t causes)
{
    *at(nic, ICR) |= causes & CAUSES;
    update_interrupt(nic);
}

static void on_throttle(void *opaque)
{
    struct e1000 *nic = opaque;
    pthread_mutex_lock(&nic->device.lock);
    update_interrupt(nic);
    pthread_mutex_unlock(&nic->device.lock);
}

/* ---- sending (3.3, 3.4) ---- */

struct packet {
    uint32_t descriptors;
    size_t size;
    bool whole, too_large;
    uint8_t command, options, checksum_start, checksum_offset; /* of its first descriptor */
    bool extended;
    uint16_t vlan;
};

static uint32_t ring_size(struct e1000 *nic, uint32_t length_register)
{
    return (*at(nic, length_register) & 0xfff80) / DESCRIPTOR_BYTES;
}

static uint64_t descriptor_gpa(struct e1000 *nic, uint32_t base_register, uint32_t index)
{
    uint64_t base = (uint64_t)*at(nic, base_register + 4) << 32 | (*at(nic, base_register) & ~15u);
    return base + (uint64_t)index * DESCRIPTOR_BYTES;
}

static void take_context(struct e1000 *nic, const uint8_t raw[DESCRIPTOR_BYTES])
{
    nic->context = (struct context){
        .ip_start = raw[0],
        .ip_offset = raw[1],
        .ip_end = load_le16(raw + 2),
        .tcp_start = raw[4],
        .tcp_offset = raw[5],
        .tcp_end = load_le16(raw + 6),
        .command = raw[11],
        .mss = load_le16(raw + 14),
    };
}

static void start_packet(struct packet *packet, const uint8_t raw[DESCRIPTOR_BYTES])
{
    packet->command = raw[11];
    packet->extended = (raw[11] & TX_DEXT) != 0;
    packet->options = packet->extended ? raw[13] : 0;
    packet->checksum_offset = raw[10];
    packet->checksum_start = raw[13];
}

/* Adds what one data descriptor points to. */
static void gather(struct e1000 *nic, struct packet *packet, const uint8_t raw[DESCRIPTOR_BYTES])
{
    bool extended = (raw[11] & TX_DEXT) != 0;
    uint32_t length = extended ? load_le32(raw + 8) & 0xfffff : load_le16(raw + 8);
    if (packet->descriptors == 0)
        start_packet(packet, raw);
    if (length > sizeof(nic->packet) - packet->size ||
        !mem_read(nic->device.env->mem, load_le64(raw), nic->packet + packet->size, length))
        packet->too_large = true;
    else
        packet->size += length;
    packet->vlan = load_le16(raw + 14);
    packet->whole = (raw[11] & TX_EOP) != 0;
}

/* Reads descriptors from TDH on until a packet is whole; changes nothing but the context, which
 * comes before the packet it is for. */
static void collect(struct e1000 *nic, struct packet *packet)
{
    uint32_t size = ring_size(nic, TDLEN), index = *at(nic, TDH);
    *packet = (struct packet){0};
    while (!packet->whole && index != *at(nic, TDT) && size != 0) {
        uint8_t raw[DESCRIPTOR_BYTES];
        if (!mem_read(nic->device.env->mem, descriptor_gpa(nic, TDBAL, index), raw, sizeof(raw))) {
            packet->too_large = packet->whole = true; /* its ring lies nowhere: skipped */
            packet->descriptors++;
            return;
        }
        bool context = (raw[11] & TX_DEXT) != 0 && (load_le32(raw + 8) >> 20 & 15) == 0;
        if (context && packet->descriptors == 0) {
            take_context(nic, raw);
            packet->whole = packet->too_large = true; /* a packet of nothing */
        } else if (!context) {
            gather(nic, packet, raw);
        }
        packet->descriptors++;
        if (packet->descriptors == PACKET_DESCRIPTORS_MAX)
            packet->whole = packet->too_large = true;
        index = (index + 1) % size;
    }
}

/* Writes back DD where it was asked for and moves TDH; returns the interrupt causes. */
static uint32_t complete(struct e1000 *nic, const struct packet *packet)
{
    uint32_t causes = 0, size = ring_size(nic, TDLEN);
    for (uint32_t i = 0; i < packet->descriptors; i++) {
        uint64_t gpa = descriptor_gpa(nic, TDBAL, *at(nic, TDH));
        uint8_t command, status;
        if (mem_read(nic->device.env->mem, gpa + 11, &command, 1) && (command & TX_RS) != 0 &&
            mem_read(nic->device.env->mem, gpa + 12, &status, 1)) {
            status |= TX_DD;
            (void)mem_write(nic->device.env->mem, gpa + 12, &status, 1);
            causes |= CAUSE_TXDW;
        }
        *at(nic, TDH) = (*at(nic, TDH) + 1) % size;
    }
    return causes;
}

static void insert_vlan(struct e1000 *nic, struct packet *packet)
{
    if ((packet->command & TX_VLE) == 0 || (*at(nic, CTRL) & CTRL_VME) == 0 ||
        packet->size < NET_HEADER_BYTES || packet->size + 4 > sizeof(nic->packet))
        return;
    memmove(nic->packet + 16, nic->packet + 12, packet->size - 12);
    net_store16(nic->packet + 12, ETHERTYPE_VLAN);
    net_store16(nic->packet + 14, packet->vlan);
    packet->size += 4;
}

/* A checksum over [start, end] stored at `offset`; end 0: to the end of the packet (3.5). */
static void checksum(struct e1000 *nic, size_t size, size_t start, size_t offset, size_t end)
{
    size_t behind = end == 0 || end >= size ? size : end + 1;
    if (start >= behind || offset + 2 > size)
        return;
    uint16_t sum = (uint16_t)~net_sum_fold(net_sum(nic->packet + start, behind - start, 0));
    memcpy(nic->packet + offset, &sum, 2);
}

/* A packet to be cut: the driver leaves lengths and sums to us (3.5.2). */
static bool prepare_segmentation(struct e1000 *nic, struct net_frame *frame)
{
    const struct context *context = &nic->context;
    struct net_tcp tcp;
    uint8_t *ip = frame->data + context->ip_start;
    bool v4 = (context->command & CONTEXT_IP4) != 0;
    size_t header = v4 ? 20 : 40;
    if (frame->size < context->ip_start + header)
        return false;
    if (v4) {
        net_store16(ip + 2, (unsigned)(frame->size - context->ip_start));
        memset(ip + 10, 0, 2);
        checksum(nic, frame->size, context->ip_start, context->ip_start + 10u,
                 context->ip_start + (ip[0] & 15u) * 4u - 1);
    } else {
        net_store16(ip + 4, (unsigned)(frame->size - context->ip_start - header));
    }
    if (!net_find_tcp(frame->data, frame->size, &tcp) || tcp.v6 == v4)
        return false;
    net_start_tcp_checksum(frame, &tcp);
    frame->offload.gso = v4 ? NET_GSO_TCP4 : NET_GSO_TCP6;
    frame->offload.gso_size = context->mss;
    return true;
}

static void prepare_checksums(struct e1000 *nic, const struct packet *packet)
{
    const struct context *context = &nic->context;
    if (!packet->extended) {
        if ((packet->command & TX_IC) != 0)
            checksum(nic, packet->size, packet->checksum_start, packet->checksum_offset, 0);
        return;
    }
    if ((packet->options & OPTION_IP) != 0) {
        if (context->ip_offset + 2u <= packet->size)
            memset(nic->packet + context->ip_offset, 0, 2);
        checksum(nic, packet->size, context->ip_start, context->ip_offset, context->ip_end);
    }
    if ((packet->options & OPTION_TCP) != 0)
        checksum(nic, packet->size, context->tcp_start, context->tcp_offset, context->tcp_end);
}

/* False: the port takes nothing now; the frame is held. */
static bool send_frame(struct e1000 *nic, const struct net_frame *frame)
{
    const struct iovec iov = {frame->data, frame->size};
    if (!net_port_send(nic->port, &frame->offload, &iov, 1)) {
        nic->held = frame->size;
        nic->held_offload = frame->offload;
        nic->send_waits = true;
        return false;
    }
    nic->held = 0;
    ++*at(nic, GPTC);
    ++*at(nic, TOTAL_SENT);
    return true;
}

static bool send_packet(struct e1000 *nic, struct packet *packet)
{
    struct net_frame frame = {.data = nic->packet};
    bool cut = packet->extended && (packet->command & TX_TSE) != 0, good = true;
    if (packet->too_large)
        return true;
    if (!cut)
        prepare_checksums(nic, packet);
    frame.size = packet->size;
    if (cut)
        good = prepare_segmentation(nic, &frame);
    if ((packet->command & TX_VLE) != 0 && cut && (*at(nic, CTRL) & CTRL_VME) != 0)
        frame.offload.checksum_start = (uint16_t)(frame.offload.checksum_start + 4);
    insert_vlan(nic, packet);
    frame.size = packet->size;
    if (!good || !net_offload_check(&frame.offload, frame.size))
        return true; /* no frame: lost, as on the wire */
    return send_frame(nic, &frame);
}

static bool can_send(struct e1000 *nic)
{
    return nic->dma && !nic->quiesced && !nic->send_waits && (*at(nic, TCTL) & TCTL_EN) != 0 &&
           *at(nic, TDH) < ring_size(nic, TDLEN) && *at(nic, TDT) < ring_size(nic, TDLEN);
}

static void posted_send(void *opaque)
{
    struct e1000 *nic = opaque;
    uint32_t causes = 0;
    bool again = true;
    pthread_mutex_lock(&nic->device.lock);
    for (unsigned turn = 0; again && turn < TURN_PACKETS; turn++) {
        struct packet packet;
        again = can_send(nic) && *at(nic, TDH) != *at(nic, TDT);
        if (!again)
            break;
        collect(nic, &packet);
        again = packet.whole; /* the rest comes with the next TDT */
        if (again) {
            causes |= complete(nic, &packet);
            again = send_packet(nic, &packet);
        }
    }
    if (causes != 0)
        raise(nic, causes);
    pthread_mutex_unlock(&nic->device.lock);
    if (again)
        loop_post(nic->device.env->loop, posted_send, nic);
}

static void on_writable(void *user)
{
    struct e1000 *nic = user;
    pthread_mutex_lock(&nic->device.lock);
    nic->send_waits = false;
    if (nic->held != 0) {
        const struct net_frame frame = {nic->held_offload, nic->packet, nic->held};
        (void)send_frame(nic, &frame);
    }
    pthread_mutex_unlock(&nic->device.lock);
    posted_send(nic);
}

/* ---- receiving (3.2) ---- */

static uint32_t buffer_size(struct e1000 *nic)
{
    uint32_t rctl = *at(nic, RCTL), shift = rctl >> 16 & 3;
    return (rctl & RCTL_BSEX) != 0 && shift != 0 ? 32768u >> shift : 2048u >> shift;
}

static bool in_hash(struct e1000 *nic, const uint8_t *mac)
{
    static const uint8_t shifts[] = {4, 3, 2, 0}; /* RCTL.MO (13.4.22) */
    uint32_t bits = ((uint32_t)mac[5] << 8 | mac[4]) >> shifts[*at(nic, RCTL) >> 12 & 3] & 0xfff;
    return (*at(nic, MTA + (bits >> 5) * 4) >> (bits & 31) & 1) != 0;
}

static bool passes(struct e1000 *nic, const struct net_frame *frame)
{
    static const uint8_t broadcast[NET_MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    uint32_t rctl = *at(nic, RCTL);
    const uint8_t *mac = frame->data;
    if (frame->size > FRAME_SHORT_MAX - CRC_BYTES && (rctl & RCTL_LPE) == 0)
        return false;
    if ((rctl & RCTL_VFE) != 0 && frame->size >= NET_HEADER_BYTES + 4 &&
        net_load16(mac + 12) == ETHERTYPE_VLAN) {
        unsigned vlan = net_load16(mac + 14) & 0xfff;
        if ((*at(nic, VFTA + vlan / 32 * 4) >> vlan % 32 & 1) == 0)
            return false;
    }
    if (memcmp(mac, broadcast, NET_MAC_BYTES) == 0)
        return (rctl & RCTL_BAM) != 0 || (rctl & RCTL_MPE) != 0;
    if ((rctl & ((mac[0] & 1) != 0 ? RCTL_MPE : RCTL_UPE)) != 0)
        return true;
    for (uint32_t entry = RAL; entry < RAL_END; entry += 8) {
        uint8_t own[8];
        store_le32(own, *at(nic, entry));
        store_le32(own + 4, *at(nic, entry + 4));
        if (own[7] >> 7 != 0 && memcmp(own, mac, NET_MAC_BYTES) == 0)
            return true;
    }
    return (mac[0] & 1) != 0 && in_hash(nic, mac);
}

static uint32_t free_descriptors(struct e1000 *nic)
{
    uint32_t size = ring_size(nic, RDLEN), head = *at(nic, RDH), tail = *at(nic, RDT);
    if (head >= size || tail >= size)
        return 0;
    return (tail + size - head) % size;
}

/* One descriptor's worth of a frame. */
static void put_part(struct e1000 *nic, const uint8_t *data, size_t length, uint8_t status,
                     uint16_t vlan)
{
    uint64_t gpa = descriptor_gpa(nic, RDBAL, *at(nic, RDH));
    uint8_t raw[DESCRIPTOR_BYTES];
    if (mem_read(nic->device.env->mem, gpa, raw, sizeof(raw)) &&
        mem_write(nic->device.env->mem, load_le64(raw), data, length)) {
        store_le16(raw + 8, (uint16_t)length);
        store_le16(raw + 10, 0);
        raw[13] = 0;
        store_le16(raw + 14, vlan);
        (void)mem_write(nic->device.env->mem, gpa + 8, raw + 8, 4);
        (void)mem_write(nic->device.env->mem, gpa + 13, raw + 13, 3);
        /* The driver looks at the status: it comes last. */
        atomic_thread_fence(memory_order_release);
        (void)mem_write(nic->device.env->mem, gpa + 12, &status, 1);
    }
    *at(nic, RDH) = (*at(nic, RDH) + 1) % ring_size(nic, RDLEN);
}

static void put_frame(struct e1000 *nic, const uint8_t *data, size_t size, uint8_t status,
                      uint16_t vlan)
{
    uint32_t part_max = buffer_size(nic);
    for (size_t done = 0; done < size;) {
        size_t part = size - done < part_max ? size - done : part_max;
        bool last = done + part == size;
        put_part(nic, data + done, part, (uint8_t)(RX_DD | (last ? RX_EOP | status : 0)),
                 last ? vlan : 0);
        done += part;
    }
    nic->fresh = true;
    ++*at(nic, GPRC);
    ++*at(nic, TOTAL_RECEIVED);
}

/* False: no room now. */
static bool receive(struct e1000 *nic, const struct net_frame *frame)
{
    static const uint8_t crc[CRC_BYTES] = {0};
    uint8_t data[NET_FRAME_MAX + CRC_BYTES + 60];
    uint8_t status = RX_IXSM;
    uint16_t vlan = 0;
    size_t size = frame->size;
    if (nic->quiesced)
        return false;
    if (!nic->dma || (*at(nic, RCTL) & RCTL_EN) == 0 || ring_size(nic, RDLEN) == 0 ||
        !passes(nic, frame))
        return true;
    memcpy(data, frame->data, size);
    if ((*at(nic, CTRL) & CTRL_VME) != 0 && size >= NET_HEADER_BYTES + 4 &&
        net_load16(data + 12) == ETHERTYPE_VLAN) {
        vlan = net_load16(data + 14);
        status |= RX_VP;
        memmove(data + 12, data + 16, size - 16);
        size -= 4;
    }
    if ((frame->offload.flags & NET_CHECKSUM_VALID) != 0 && (*at(nic, RXCSUM) & RXCSUM_TUOFL) != 0)
        status = (uint8_t)((status & ~RX_IXSM) | RX_TCPCS | RX_IPCS);
    if (size < 60) { /* what Ethernet pads, drivers expect to be padded */
        memset(data + size, 0, 60 - size);
        size = 60;
    }
    if ((*at(nic, RCTL) & RCTL_SECRC) == 0) {
        memcpy(data + size, crc, CRC_BYTES);
        size += CRC_BYTES;
    }
    uint32_t needed = (uint32_t)((size + buffer_size(nic) - 1) / buffer_size(nic));
    if (needed >= ring_size(nic, RDLEN))
        return true; /* never */
    if (free_descriptors(nic) < needed) {
        raise(nic, CAUSE_RXO);
        return false;
    }
    put_frame(nic, data, size, status, vlan);
    return true;
}

static bool on_receive(void *user, const struct net_frame *frame)
{
    struct e1000 *nic = user;
    pthread_mutex_lock(&nic->device.lock);
    bool taken = receive(nic, frame);
    nic->receive_waits = !taken;
    pthread_mutex_unlock(&nic->device.lock);
    return taken;
}

static void on_received(void *user)
{
    struct e1000 *nic = user;
    pthread_mutex_lock(&nic->device.lock);
    uint32_t threshold = ring_size(nic, RDLEN) >> (1 + (*at(nic, RCTL) >> 8 & 3));
    if (nic->fresh)
        raise(nic, CAUSE_RXT0 | (free_descriptors(nic) < threshold ? CAUSE_RXDMT0 : 0));
    nic->fresh = false;
    pthread_mutex_unlock(&nic->device.lock);
}

static void posted_receive(void *opaque)
{
    struct e1000 *nic = opaque;
    net_port_resume(nic->port);
}

static void show_link(struct e1000 *nic)
{
    uint32_t before = *at(nic, STATUS);
    bool up = net_port_link(nic->port);
    *at(nic, STATUS) = STATUS_FIXED | (up ? STATUS_LINK : 0u);
    e1000_phy_set_link(&nic->phy, up);
    if (before != *at(nic, STATUS))
        raise(nic, CAUSE_LSC);
}

static void on_link(void *user, bool up)
{
    struct e1000 *nic = user;
    (void)up;
    pthread_mutex_lock(&nic->device.lock);
    show_link(nic);
    pthread_mutex_unlock(&nic->device.lock);
}

static void on_announce(void *opaque, bool first, uint8_t mac[NET_MAC_BYTES])
{
    struct e1000 *nic = opaque;
    (void)first; /* nothing tells its driver */
    pthread_mutex_lock(&nic->device.lock);
    store_le32(mac, *at(nic, RAL));
    store_le16(mac + 4, (uint16_t)*at(nic, RAL + 4));
    pthread_mutex_unlock(&nic->device.lock);
}

static const struct net_port_user port_user = {on_receive, on_received, on_writable, on_link,
                                               on_announce};

/* ---- registers ---- */

/* Power-on state (14.4); lock held. */
static void reset_registers(struct e1000 *nic)
{
    memset(nic->registers, 0, sizeof(nic->registers));
    nic->mask = 0;
    nic->context = (struct context){0};
    nic->held = 0;
    nic->send_waits = false;
    e1000_eeprom_init(&nic->eeprom, nic->mac);
    e1000_phy_init(&nic->phy);
    vtimer_disarm(nic->throttle);
    *at(nic, RAL) = load_le32(nic->mac);
    *at(nic, RAL + 4) = load_le16(nic->mac + 4) | 1u << 31;
    show_link(nic);
    *at(nic, ICR) = 0;
    update_interrupt(nic);
}

static uint32_t read_register(struct e1000 *nic, uint32_t reg)
{
    uint32_t value = *at(nic, reg);
    switch (reg) {
    case ICR: /* reading takes the causes */
        *at(nic, ICR) = 0;
        update_interrupt(nic);
        break;
    case EECD:
        return e1000_eeprom_pins(&nic->eeprom);
    case IMS:
        return nic->mask;
    default:
        if (reg >= STATISTICS && reg < STATISTICS_END)
            *at(nic, reg) = 0; /* 13.7: cleared by reading */
    }
    return value;
}

static void write_control(struct e1000 *nic, uint32_t value)
{
    if ((value & CTRL_RST) != 0)
        reset_registers(nic);
    if ((value & (uint32_t)CTRL_PHY_RST) != 0) {
        e1000_phy_init(&nic->phy);
        e1000_phy_set_link(&nic->phy, net_port_link(nic->port));
    }
    *at(nic, CTRL) = value & ~((uint32_t)CTRL_RST | (uint32_t)CTRL_PHY_RST);
}

static void write_register(struct e1000 *nic, uint32_t reg, uint32_t value)
{
    switch (reg) {
    case CTRL:
        write_control(nic, value);
        return;
    case STATUS:
        return;
    case EECD:
        e1000_eeprom_set_pins(&nic->eeprom, value);
        return;
    case EERD:
        *at(nic, EERD) = e1000_eeprom_read(&nic->eeprom, value);
        return;
    case MDIC:
        *at(nic, MDIC) = e1000_phy_access(&nic->phy, value);
        return;
    case ICR: /* ones clear */
        *at(nic, ICR) &= ~value;
        update_interrupt(nic);
        return;
    case ICS:
        raise(nic, value);
        return;
    case IMS:
        nic->mask |= value & CAUSES;
        update_interrupt(nic);
        return;
    case IMC:
        nic->mask &= ~value;
        update_interrupt(nic);
        return;
    case RDH:
    case RDT:
    case TDH:
    case TDT:
        value &= 0xffff;
        break;
    default:
        break;
    }
    *at(nic, reg) = value;
    if (reg == TDT || reg == TCTL)
        loop_post(nic->device.env->loop, posted_send, nic);
    if ((reg == RDT || reg == RCTL) && nic->receive_waits)
        loop_post(nic->device.env->loop, posted_receive, nic);
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    struct e1000 *nic = opaque;
    if (size != 4 || offset >= REGISTER_BYTES)
        return 0;
    pthread_mutex_lock(&nic->device.lock);
    uint32_t value = read_register(nic, (uint32_t)offset);
    pthread_mutex_unlock(&nic->device.lock);
    return value;
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct e1000 *nic = opaque;
    if (size != 4 || offset >= REGISTER_BYTES)
        return;
    pthread_mutex_lock(&nic->device.lock);
    write_register(nic, (uint32_t)offset, (uint32_t)value);
    pthread_mutex_unlock(&nic->device.lock);
}

static const struct mem_io_ops bar_ops = {bar_read, bar_write, 4, 4};

static void config_written(struct pci_function *function, unsigned offset, unsigned size)
{
    struct e1000 *nic = function->opaque;
    if (offset > PCI_REG_COMMAND || offset + size <= PCI_REG_COMMAND)
        return;
    pthread_mutex_lock(&nic->device.lock);
    bool before = nic->dma;
    nic->dma = pci_may_master(function);
    bool allowed = nic->dma && !before;
    pthread_mutex_unlock(&nic->device.lock);
    if (allowed)
        loop_post(nic->device.env->loop, posted_send, nic);
}

static const struct pci_function_ops function_ops = {NULL, config_written};

/* ---- life ---- */

static bool e1000_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    struct e1000 *nic = e1000_of(device);
    assert(params->net != NULL && params->mac != NULL);
    if (device->env->pci == NULL)
        return error_set(err, ERROR_INTERNAL, "this machine has no PCI host bridge to plug into");
    nic->port = params->net;
    memcpy(nic->mac, params->mac, NET_MAC_BYTES);
    pci_function_init(&nic->function, &(struct pci_identity){.vendor = 0x8086,
                                                             .device = 0x100e,
                                                             .subsystem_vendor = 0x8086,
                                                             .subsystem = 0x001e,
                                                             .class_code = 0x020000,
                                                             .revision = 2,
                                                             .pin = 1});
    nic->function.ops = &function_ops;
    nic->function.opaque = nic;
    pci_bar_add(&nic->function, 0, "e1000", BAR_BYTES, 0, &bar_ops, nic);
    if (!pci_plug(device->env->pci, &nic->function, params->pci_slot, err))
        return false;
    nic->throttle = vtimer_new(device->env->clock, on_throttle, nic);
    net_port_attach(nic->port, &port_user, nic);
    net_port_accept(nic->port, 0);
    return true;
}

static void e1000_unrealize(struct device *device)
{
    struct e1000 *nic = e1000_of(device);
    net_port_attach(nic->port, NULL, NULL);
    pci_unplug(&nic->function);
    loop_cancel(device->env->loop, posted_send, nic);
    loop_cancel(device->env->loop, posted_receive, nic);
    vtimer_free(nic->throttle);
}

static void e1000_reset(struct device *device)
{
    struct e1000 *nic = e1000_of(device);
    pthread_mutex_lock(&device->lock);
    reset_registers(nic);
    pthread_mutex_unlock(&device->lock);
    pci_function_reset(&nic->function);
}

static void e1000_quiesce(struct device *device)
{
    pthread_mutex_lock(&device->lock);
    e1000_of(device)->quiesced = true;
    pthread_mutex_unlock(&device->lock);
}

static void e1000_unquiesce(struct device *device)
{
    struct e1000 *nic = e1000_of(device);
    pthread_mutex_lock(&device->lock);
    nic->quiesced = false;
    pthread_mutex_unlock(&device->lock);
    loop_post(device->env->loop, posted_send, nic);
    loop_post(device->env->loop, posted_receive, nic);
}

/* ---- state ---- */

/* A frame that the port has not taken is lost, as one on the wire would be. */
static bool e1000_post_restore(void *object, struct error **err)
{
    struct e1000 *nic = object;
    (void)err;
    nic->held = 0;
    nic->send_waits = false;
    nic->mask &= CAUSES;
    *at(nic, ICR) &= CAUSES;
    *at(nic, STATUS) = STATUS_FIXED | (net_port_link(nic->port) ? STATUS_LINK : 0u);
    bool wanted = (*at(nic, ICR) & nic->mask) != 0;
    vtimer_arm(nic->throttle, nic->throttled_until);
    if (!wanted || nic->throttled_until == VCLOCK_NEVER)
        pci_set_intx(&nic->function, wanted);
    nic->throttled_until = VCLOCK_NEVER;
    return true;
}

static void e1000_pre_save(void *object)
{
    struct e1000 *nic = object;
    nic->throttled_until = vtimer_deadline(nic->throttle);
}

static const struct state_field context_fields[] = {
    STATE_UINT(struct context, ip_start, "ip_start"),
    STATE_UINT(struct context, ip_offset, "ip_offset"),
    STATE_UINT(struct context, ip_end, "ip_end"),
    STATE_UINT(struct context, tcp_start, "tcp_start"),
    STATE_UINT(struct context, tcp_offset, "tcp_offset"),
    STATE_UINT(struct context, tcp_end, "tcp_end"),
    STATE_UINT(struct context, command, "command"),
    STATE_UINT(struct context, mss, "mss"),
    STATE_END,
};
static const struct state_table context_state = {"e1000-context", 1, context_fields, NULL, NULL};

static const struct state_field e1000_fields[] = {
    STATE_UINTS(struct e1000, registers, "registers"),
    STATE_UINT(struct e1000, mask, "mask"),
    STATE_STRUCT(struct e1000, eeprom, "eeprom", &e1000_eeprom_state),
    STATE_STRUCT(struct e1000, phy, "phy", &e1000_phy_state),
    STATE_STRUCT(struct e1000, context, "context", &context_state),
    STATE_STRUCT(struct e1000, function, "function", &pci_function_state),
    STATE_UINT(struct e1000, throttled_until, "throttled_until"),
    STATE_END,
};
static const struct state_table e1000_state = {"e1000", 1, e1000_fields, e1000_pre_save,
                                               e1000_post_restore};

const struct device_ops device_e1000 = {
    .name = "e1000",
    .size = sizeof(struct e1000),
    .realize = e1000_realize,
    .unrealize = e1000_unrealize,
    .reset = e1000_reset,
    .state = &e1000_state,
    .direct_dma = true,
    .quiesce = e1000_quiesce,
    .unquiesce = e1000_unquiesce,
};
