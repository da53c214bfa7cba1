/* SPDX-License-Identifier: MIT
 *
 * virtio network device (virtio 1.2, 5.1) on a struct net_port: checksum and TCP segmentation
 * offloads both ways, mergeable receive buffers, MTU, link state, receive filters, several pairs of
 * queues.
 *
 * Sending goes from guest memory into the frame socket without a copy in between; a frame that
 * the socket does not take goes back into the ring, so that nothing is held here when the
 * machine is saved. Receiving takes as many buffers as a frame needs, or gives them all back
 * and asks for the frame again later.
 *
 * Which pair receives a frame (5.1.6.5.6, automatic steering): the one that sent the last frame of
 * the same flow; for a flow that never sent, the pair that its number falls on. `steering` keeps
 * one byte for all flows whose numbers end alike. It is not saved: a guest that goes on elsewhere
 * teaches it anew.
 *
 * params: net, mac, mtu, queues, pci_slot.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/state.h"
#include "bus/virtio_transport.h"
#include "net/port.h"

#define QUEUE_SIZE   256u
#define HEADER_BYTES 12u
/* Buffers that one received frame may be spread over: the largest one in the smallest buffers
 * that make sense. */
#define MERGE_MAX 64u
/* Transmit requests of one turn. */
#define TURN_REQUESTS     64u
#define REQUEST_BYTES_MAX (MIB)
#define MAC_TABLE_MAX     64u
#define VLAN_BYTES        512u

#define F_CSUM                (UINT64_C(1) << 0)
#define F_GUEST_CSUM          (UINT64_C(1) << 1)
#define F_CTRL_GUEST_OFFLOADS (UINT64_C(1) << 2)
#define F_MTU                 (UINT64_C(1) << 3)
#define F_MAC                 (UINT64_C(1) << 5)
#define F_GUEST_TSO4          (UINT64_C(1) << 7)
#define F_GUEST_TSO6          (UINT64_C(1) << 8)
#define F_HOST_TSO4           (UINT64_C(1) << 11)
#define F_HOST_TSO6           (UINT64_C(1) << 12)
#define F_MRG_RXBUF           (UINT64_C(1) << 15)
#define F_STATUS              (UINT64_C(1) << 16)
#define F_CTRL_VQ             (UINT64_C(1) << 17)
#define F_CTRL_RX             (UINT64_C(1) << 18)
#define F_CTRL_VLAN           (UINT64_C(1) << 19)
#define F_CTRL_RX_EXTRA       (UINT64_C(1) << 20)
#define F_GUEST_ANNOUNCE      (UINT64_C(1) << 21)
#define F_MQ                  (UINT64_C(1) << 22)
#define F_CTRL_MAC_ADDR       (UINT64_C(1) << 23)
#define F_GUEST_OFFLOADS      (F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6)

enum { QUEUE_RECEIVE, QUEUE_TRANSMIT, QUEUE_CONTROL, QUEUE_COUNT }; /* with one pair */
#define PAIRS_MAX    ((VIRTIO_QUEUE_MAX - 1) / 2)
#define STEERING_MAX 256u
/* Configuration space (5.1.4). */
enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_PAIRS = 8, CONFIG_MTU = 10, CONFIG_BYTES = 12 };
enum { STATUS_LINK_UP = 1, STATUS_ANNOUNCE = 2 };
/* struct virtio_net_hdr (5.1.6). */
enum {
    HEADER_FLAGS,
    HEADER_GSO,
    HEADER_LENGTH,
    HEADER_GSO_SIZE = 4,
    HEADER_START = 6,
    HEADER_OFFSET = 8,
    HEADER_BUFFERS = 10
};
/* Control commands (5.1.6.5). */
enum { CLASS_RX, CLASS_MAC, CLASS_VLAN, CLASS_ANNOUNCE, CLASS_PAIRS, CLASS_OFFLOADS };
enum {
    RX_PROMISCUOUS,
    RX_ALL_MULTICAST,
    RX_ALL_UNICAST,
    RX_NO_MULTICAST,
    RX_NO_UNICAST,
    RX_NO_BROADCAST,
    RX_MODES
};
enum { CONTROL_OK = 0, CONTROL_ERROR = 1 };

/* What the driver has asked for with control commands. */
struct filter {
    uint8_t mode[RX_MODES];
    uint32_t unicast_count, multicast_count; /* unicast ones come first */
    uint8_t table[MAC_TABLE_MAX][NET_MAC_BYTES];
    uint8_t table_full; /* more were asked for: all pass */
    uint8_t vlans[VLAN_BYTES];
};

struct virtio_net {
    struct virtio_transport transport; /* first */
    struct net_port *port;
    uint8_t born_mac[NET_MAC_BYTES], mac[NET_MAC_BYTES]; /* its own, and what the driver made it */
    struct filter filter;
    uint64_t offloads; /* F_GUEST_* in force */
    unsigned pairs_max;
    uint16_t pairs;                 /* in use */
    uint8_t steering[STEERING_MAX]; /* by the end of a flow's number; 0: not known, or pair + 1 */
    uint32_t received;              /* receive queues with frames not yet told of, by pair */
    bool send_waits, receive_waits;
    struct log_limit log_limit;
    struct virtq_chain chain; /* the request being handled */
    struct virtq_chain *merge[MERGE_MAX];
};

static struct virtio_net *net_of(struct virtio *virtio)
{
    return CONTAINER_OF(virtio, struct virtio_net, transport.virtio);
}

/* --- queues --- */

static struct virtqueue *queue_of_pair(struct virtio_net *net, unsigned pair, unsigned which)
{
    return &net->transport.virtio.queues[2 * pair + which];
}

/* What a queue is (5.1.2): the control queue comes behind all pairs that the driver knows of.
 * QUEUE_COUNT: nothing, to this driver. */
static unsigned role_of(const struct virtio_net *net, const struct virtqueue *queue)
{
    unsigned pairs = virtio_has(&net->transport.virtio, F_MQ) ? net->pairs_max : 1;
    if (queue->index < 2 * pairs)
        return queue->index % 2;
    return queue->index == 2 * pairs ? QUEUE_CONTROL : QUEUE_COUNT;
}

static bool is_usable(const struct virtqueue *queue)
{
    return queue->enabled && !queue->broken;
}

static void learn_flow(struct virtio_net *net, const struct virtqueue *queue)
{
    uint8_t head[NET_FLOW_BYTES];
    size_t size = virtq_read(&net->chain, HEADER_BYTES, head, sizeof(head));
    uint32_t flow = net_flow(head, size);
    if (flow != 0)
        net->steering[flow % STEERING_MAX] = (uint8_t)(queue->index / 2 + 1);
}

static unsigned steer(const struct virtio_net *net, const struct net_frame *frame)
{
    if (net->pairs == 1)
        return 0;
    uint32_t flow = net_flow(frame->data, frame->size);
    unsigned known = flow != 0 ? net->steering[flow % STEERING_MAX] : 1;
    return (known != 0 ? known - 1u : flow / STEERING_MAX) % net->pairs;
}

/* --- sending --- */

static struct net_offload parse_header(const uint8_t header[HEADER_BYTES])
{
    return (struct net_offload){
        .flags = header[HEADER_FLAGS] & NET_NEEDS_CHECKSUM,
        .gso = header[HEADER_GSO],
        .header_bytes = load_le16(header + HEADER_LENGTH),
        .gso_size = load_le16(header + HEADER_GSO_SIZE),
        .checksum_start = load_le16(header + HEADER_START),
        .checksum_offset = load_le16(header + HEADER_OFFSET),
    };
}

/* What the driver may ask for is what it has negotiated (5.1.6.2.1). */
static bool may_send(const struct virtio *virtio, const struct net_offload *offload, uint64_t size)
{
    uint64_t needed = (offload->flags & NET_NEEDS_CHECKSUM) != 0 ? F_CSUM : 0;
    if (offload->gso != NET_GSO_NONE)
        needed |= offload->gso == NET_GSO_TCP4 ? F_HOST_TSO4 : F_HOST_TSO6;
    return (virtio->accepted & needed) == needed && size <= NET_FRAME_MAX &&
           net_offload_check(offload, (size_t)size);
}

/* False: the network takes nothing now. A request that is no frame is given back unsent. */
static bool transmit_one(struct virtio_net *net, const struct virtqueue *queue)
{
    struct virtq_chain *chain = &net->chain;
    uint8_t header[HEADER_BYTES];
    struct iovec *iov = chain->segment;
    unsigned count = chain->out_count;
    uint64_t size = chain->out_size - HEADER_BYTES;
    if (virtq_read(chain, 0, header, HEADER_BYTES) != HEADER_BYTES)
        return true;
    const struct net_offload offload = parse_header(header);
    if (!may_send(&net->transport.virtio, &offload, size)) {
        log_guest(net->transport.device.env->log, &net->log_limit,
                  "%s: the guest's driver wants to send what is no frame; dropped",
                  net->transport.device.id);
        return true;
    }
    if (net->pairs > 1)
        learn_flow(net, queue);
    virtq_slice(&iov, &count, HEADER_BYTES, size);
    return net_port_send(net->port, &offload, iov, count);
}

static bool transmit(struct virtio_net *net, struct virtqueue *queue)
{
    bool more = true;
    for (unsigned turn = 0; turn < TURN_REQUESTS; turn++) {
        more = virtqueue_pop(queue, &net->chain, REQUEST_BYTES_MAX);
        if (!more)
            break;
        if (!transmit_one(net, queue)) {
            virtqueue_unpop(queue, &net->chain);
            net->send_waits = true;
            more = false;
            break;
        }
        net->chain.touched = 0;
        virtqueue_push(queue, &net->chain, 0);
    }
    virtqueue_signal(queue);
    return more;
}

static void net_writable(void *user)
{
    struct virtio_net *net = user;
    pthread_mutex_lock(&net->transport.device.lock);
    bool waits = net->send_waits;
    net->send_waits = false;
    pthread_mutex_unlock(&net->transport.device.lock);
    for (unsigned pair = 0; waits && pair < net->pairs_max; pair++)
        virtio_notified(&net->transport.virtio, 2 * pair + QUEUE_TRANSMIT);
}

/* --- receiving --- */

static bool can_receive(const struct virtio *virtio)
{
    return virtio->active && virtio->dma && is_usable(&virtio->queues[QUEUE_RECEIVE]);
}

static bool in_table(const struct filter *filter, const uint8_t *mac)
{
    for (uint32_t i = 0; i < filter->unicast_count + filter->multicast_count; i++)
        if (memcmp(filter->table[i], mac, NET_MAC_BYTES) == 0)
            return true;
    return false;
}

static bool vlan_passes(const struct virtio_net *net, const struct net_frame *frame)
{
    if (!virtio_has(&net->transport.virtio, F_CTRL_VLAN) || frame->size < NET_HEADER_BYTES + 4 ||
        net_load16(frame->data + 12) != 0x8100)
        return true;
    unsigned vlan = net_load16(frame->data + 14) & 0xfff;
    return (net->filter.vlans[vlan / 8] >> vlan % 8 & 1) != 0;
}

/* 5.1.6.5.1 */
static bool passes(const struct virtio_net *net, const struct net_frame *frame)
{
    static const uint8_t broadcast[NET_MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const struct filter *filter = &net->filter;
    const uint8_t *mac = frame->data;
    if (filter->mode[RX_PROMISCUOUS])
        return true;
    if (!vlan_passes(net, frame))
        return false;
    if (memcmp(mac, broadcast, NET_MAC_BYTES) == 0)
        return !filter->mode[RX_NO_BROADCAST];
    if (mac[0] & 1)
        return !filter->mode[RX_NO_MULTICAST] &&
               (filter->mode[RX_ALL_MULTICAST] || filter->table_full || in_table(filter, mac));
    return !filter->mode[RX_NO_UNICAST] &&
           (filter->mode[RX_ALL_UNICAST] || filter->table_full || in_table(filter, mac) ||
            memcmp(mac, net->mac, NET_MAC_BYTES) == 0);
}

/* Takes buffers for `size` bytes. 0: there are not enough (*enough: there never will be). */
static unsigned take_buffers(struct virtio_net *net, struct virtqueue *queue, uint64_t size,
                             bool *enough)
{
    unsigned most = virtio_has(&net->transport.virtio, F_MRG_RXBUF) ? MERGE_MAX : 1, count = 0;
    uint64_t room = 0;
    while (room < size && count < most) {
        if (net->merge[count] == NULL)
            net->merge[count] = alloc_zeroed(1, sizeof(struct virtq_chain));
        if (!virtqueue_pop(queue, net->merge[count], REQUEST_BYTES_MAX))
            break;
        room += net->merge[count++]->in_size;
    }
    *enough = count < most || room >= size;
    if (room >= size && net->merge[0]->in_size >= HEADER_BYTES)
        return count;
    while (count > 0)
        virtqueue_unpop(queue, net->merge[--count]);
    return 0;
}

static void make_header(const struct net_offload *offload, unsigned buffers,
                        uint8_t header[HEADER_BYTES])
{
    header[HEADER_FLAGS] = offload->flags;
    header[HEADER_GSO] = offload->gso;
    store_le16(header + HEADER_LENGTH, offload->header_bytes);
    store_le16(header + HEADER_GSO_SIZE, offload->gso_size);
    store_le16(header + HEADER_START, offload->checksum_start);
    store_le16(header + HEADER_OFFSET, offload->checksum_offset);
    store_le16(header + HEADER_BUFFERS, (uint16_t)buffers);
}

static void put_frame(struct virtio_net *net, struct virtqueue *queue, unsigned count,
                      const struct net_frame *frame)
{
    uint8_t header[HEADER_BYTES];
    uint32_t written[MERGE_MAX];
    struct net_offload offload = frame->offload;
    if ((net->offloads & F_GUEST_CSUM) == 0)
        offload.flags = 0;
    make_header(&offload, count, header);
    virtq_write(net->merge[0], 0, header, HEADER_BYTES);
    size_t done = 0;
    for (unsigned i = 0; i < count; i++) {
        uint64_t skip = i == 0 ? HEADER_BYTES : 0;
        size_t part = virtq_write(net->merge[i], skip, frame->data + done, frame->size - done);
        written[i] = (uint32_t)(skip + part);
        net->merge[i]->touched = written[i];
        done += part;
    }
    virtqueue_push_all(queue, net->merge, written, count);
}

/* What the driver takes (NET_ACCEPT_*). */
static unsigned accepts(const struct virtio_net *net)
{
    unsigned result = 0;
    if (!net->transport.virtio.active || (net->offloads & F_GUEST_CSUM) == 0)
        return 0;
    result |= NET_ACCEPT_CHECKSUM;
    result |= (net->offloads & F_GUEST_TSO4) != 0 ? NET_ACCEPT_TCP4 : 0u;
    result |= (net->offloads & F_GUEST_TSO6) != 0 ? NET_ACCEPT_TCP6 : 0u;
    return result;
}

/* What was sent before the backend heard of a change is lost, as on any network. */
static bool understood(const struct virtio_net *net, const struct net_offload *offload)
{
    unsigned needed = (offload->flags & NET_NEEDS_CHECKSUM) != 0 ? NET_ACCEPT_CHECKSUM : 0;
    if (offload->gso != NET_GSO_NONE)
        needed |= offload->gso == NET_GSO_TCP4 ? NET_ACCEPT_TCP4 : NET_ACCEPT_TCP6;
    return (accepts(net) & needed) == needed;
}

/* False: no room now. */
static bool receive(struct virtio_net *net, const struct net_frame *frame)
{
    struct virtio *virtio = &net->transport.virtio;
    bool enough;
    if (!can_receive(virtio))
        return true;
    if (virtio->quiesced)
        return false;
    if (!understood(net, &frame->offload) || !passes(net, frame))
        return true;
    unsigned pair = steer(net, frame);
    struct virtqueue *queue = queue_of_pair(net, pair, QUEUE_RECEIVE);
    if (!is_usable(queue)) { /* the driver resets it, say */
        pair = 0;
        queue = queue_of_pair(net, 0, QUEUE_RECEIVE);
    }
    net->received |= 1u << pair;
    unsigned count = take_buffers(net, queue, frame->size + HEADER_BYTES, &enough);
    if (count > 0)
        put_frame(net, queue, count, frame);
    else if (enough && !queue->broken)
        return false;
    return true;
}

static bool net_receive(void *user, const struct net_frame *frame)
{
    struct virtio_net *net = user;
    pthread_mutex_lock(&net->transport.device.lock);
    bool taken = receive(net, frame);
    net->receive_waits = !taken;
    pthread_mutex_unlock(&net->transport.device.lock);
    return taken;
}

static void net_received(void *user)
{
    struct virtio_net *net = user;
    pthread_mutex_lock(&net->transport.device.lock);
    if (!net->transport.virtio.quiesced) {
        for (uint32_t left = net->received; left != 0; left &= left - 1)
            virtqueue_signal(queue_of_pair(net, (unsigned)__builtin_ctz(left), QUEUE_RECEIVE));
        net->received = 0;
    }
    pthread_mutex_unlock(&net->transport.device.lock);
}

/* --- control commands (5.1.6.5) --- */

struct command {
    const struct virtq_chain *chain;
    uint64_t at; /* of the command's data not yet read */
};

static bool take(struct command *command, void *to, size_t size)
{
    bool good = virtq_read(command->chain, command->at, to, size) == size;
    command->at += size;
    return good;
}

static bool set_mode(struct virtio_net *net, unsigned mode, struct command *command)
{
    uint8_t on;
    uint64_t feature = mode <= RX_ALL_MULTICAST ? F_CTRL_RX : F_CTRL_RX_EXTRA;
    if (mode >= RX_MODES || !virtio_has(&net->transport.virtio, feature) || !take(command, &on, 1))
        return false;
    net->filter.mode[mode] = on != 0;
    return true;
}

/* One half of the MAC table: a count, and so many addresses. */
static bool take_macs(struct filter *filter, struct command *command, uint32_t *used)
{
    uint8_t raw[4], mac[NET_MAC_BYTES];
    if (!take(command, raw, sizeof(raw)))
        return false;
    uint32_t count = load_le32(raw), have = filter->unicast_count + filter->multicast_count;
    if ((uint64_t)count * NET_MAC_BYTES > command->chain->out_size - command->at)
        return false;
    if (count > MAC_TABLE_MAX - have) {
        command->at += (uint64_t)count * NET_MAC_BYTES;
        filter->table_full = 1;
        return true;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!take(command, mac, sizeof(mac)))
            return false;
        memcpy(filter->table[have + i], mac, NET_MAC_BYTES);
    }
    *used = count;
    return true;
}

static bool set_macs(struct virtio_net *net, struct command *command)
{
    struct filter *filter = &net->filter, fresh = *filter;
    fresh.unicast_count = fresh.multicast_count = 0;
    fresh.table_full = 0;
    if (!take_macs(&fresh, command, &fresh.unicast_count) ||
        !take_macs(&fresh, command, &fresh.multicast_count))
        return false;
    *filter = fresh;
    return true;
}

static void show_mac(struct virtio_net *net, const uint8_t mac[NET_MAC_BYTES])
{
    memcpy(net->mac, mac, NET_MAC_BYTES);
    memcpy(net->transport.virtio.config + CONFIG_MAC, mac, NET_MAC_BYTES);
}

static bool set_mac(struct virtio_net *net, struct command *command)
{
    uint8_t mac[NET_MAC_BYTES];
    if (!virtio_has(&net->transport.virtio, F_CTRL_MAC_ADDR) || !take(command, mac, sizeof(mac)))
        return false;
    show_mac(net, mac);
    return true;
}

static bool set_vlan(struct virtio_net *net, bool on, struct command *command)
{
    uint8_t raw[2];
    if (!virtio_has(&net->transport.virtio, F_CTRL_VLAN) || !take(command, raw, sizeof(raw)))
        return false;
    unsigned vlan = load_le16(raw);
    if (vlan >= VLAN_BYTES * 8)
        return false;
    uint8_t bit = (uint8_t)(1u << vlan % 8), *byte = &net->filter.vlans[vlan / 8];
    *byte = on ? *byte | bit : *byte & (uint8_t)~bit;
    return true;
}

static bool set_pairs(struct virtio_net *net, struct command *command)
{
    uint8_t raw[2];
    if (!virtio_has(&net->transport.virtio, F_MQ) || !take(command, raw, sizeof(raw)) ||
        load_le16(raw) == 0 || load_le16(raw) > net->pairs_max)
        return false;
    net->pairs = load_le16(raw);
    return true;
}

static bool set_offloads(struct virtio_net *net, struct command *command)
{
    uint8_t raw[8];
    if (!virtio_has(&net->transport.virtio, F_CTRL_GUEST_OFFLOADS) ||
        !take(command, raw, sizeof(raw)) ||
        (load_le64(raw) & ~(net->transport.virtio.accepted & F_GUEST_OFFLOADS)) != 0)
        return false;
    net->offloads = load_le64(raw);
    return true;
}

/* 5.1.6.5.4: it has heard, and does it. */
static bool end_announcement(struct virtio_net *net)
{
    uint8_t *status = net->transport.virtio.config + CONFIG_STATUS;
    store_le16(status, load_le16(status) & (uint16_t)~STATUS_ANNOUNCE);
    return virtio_has(&net->transport.virtio, F_GUEST_ANNOUNCE);
}

static bool carry_out(struct virtio_net *net, unsigned class, unsigned number,
                      struct command *command)
{
    switch (class) {
    case CLASS_RX:
        return set_mode(net, number, command);
    case CLASS_MAC:
        return number == 0 ? set_macs(net, command) : number == 1 && set_mac(net, command);
    case CLASS_VLAN:
        return number <= 1 && set_vlan(net, number == 0, command);
    case CLASS_ANNOUNCE:
        return number == 0 && end_announcement(net);
    case CLASS_PAIRS:
        return number == 0 && set_pairs(net, command);
    case CLASS_OFFLOADS:
        return number == 0 && set_offloads(net, command);
    default:
        return false;
    }
}

static bool control(struct virtio_net *net, struct virtqueue *queue)
{
    struct virtq_chain *chain = &net->chain;
    bool more = false;
    for (unsigned turn = 0; turn < TURN_REQUESTS; turn++) {
        uint8_t header[2];
        struct command command = {chain, 0};
        more = virtqueue_pop(queue, chain, REQUEST_BYTES_MAX);
        if (!more)
            break;
        if (!take(&command, header, sizeof(header)) || chain->in_size == 0) {
            virtio_violation(&net->transport.virtio,
                             "a control command has no room for its answer");
            return false;
        }
        uint8_t answer =
            carry_out(net, header[0], header[1], &command) ? CONTROL_OK : CONTROL_ERROR;
        virtq_write(chain, 0, &answer, 1);
        chain->touched = 1;
        virtqueue_push(queue, chain, 1);
    }
    virtqueue_signal(queue);
    net_port_accept(net->port, accepts(net));
    return more;
}

/* --- queues and link --- */

static bool net_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_net *net = net_of(virtio);
    switch (role_of(net, queue)) {
    case QUEUE_TRANSMIT:
        return !net->send_waits && transmit(net, queue);
    case QUEUE_CONTROL:
        return virtio_has(virtio, F_CTRL_VQ) && control(net, queue);
    case QUEUE_RECEIVE:
        if (net->receive_waits) {
            net->receive_waits = false;
            /* The port offers what it holds at once. */
            pthread_mutex_unlock(&net->transport.device.lock);
            net_port_resume(net->port);
            pthread_mutex_lock(&net->transport.device.lock);
        }
        return false;
    default:
        return false;
    }
}

/* Nothing is kept from a queue: what was popped has been given back, or put back. */
static bool net_reset_queue(struct virtio *virtio, struct virtqueue *queue)
{
    (void)virtio, (void)queue;
    return true;
}

/* Lock held. `announce`: STATUS_ANNOUNCE or 0. */
static void show_status(struct virtio_net *net, unsigned announce)
{
    uint8_t *config = net->transport.virtio.config;
    unsigned before = load_le16(config + CONFIG_STATUS),
             now = (net_port_link(net->port) ? STATUS_LINK_UP : 0) | announce |
                   (before & STATUS_ANNOUNCE);
    store_le16(config + CONFIG_STATUS, (uint16_t)now);
    if (before != now && virtio_has(&net->transport.virtio, F_STATUS))
        virtio_config_changed(&net->transport.virtio);
}

static void net_link_changed(void *user, bool up)
{
    struct virtio_net *net = user;
    (void)up;
    pthread_mutex_lock(&net->transport.device.lock);
    show_status(net, 0);
    pthread_mutex_unlock(&net->transport.device.lock);
}

static void net_announce(void *user, bool first, uint8_t mac[NET_MAC_BYTES])
{
    struct virtio_net *net = user;
    pthread_mutex_lock(&net->transport.device.lock);
    memcpy(mac, net->mac, NET_MAC_BYTES);
    if (first && net->transport.virtio.active &&
        virtio_has(&net->transport.virtio, F_GUEST_ANNOUNCE))
        show_status(net, STATUS_ANNOUNCE);
    pthread_mutex_unlock(&net->transport.device.lock);
}

static const struct net_port_user port_user = {net_receive, net_received, net_writable,
                                               net_link_changed, net_announce};

/* --- life --- */

/* On a vCPU's thread or the loop's: the port is the loop's alone. */
static void posted_accepts(void *opaque)
{
    struct virtio_net *net = opaque;
    pthread_mutex_lock(&net->transport.device.lock);
    unsigned now = accepts(net);
    bool waits = net->receive_waits && !net->transport.virtio.quiesced;
    net->receive_waits &= !waits;
    pthread_mutex_unlock(&net->transport.device.lock);
    net_port_accept(net->port, now);
    if (waits)
        net_port_resume(net->port); /* what the former driver left is taken and forgotten */
}

/* Until the driver asks for less, everything passes: simple drivers never ask. */
static void forget_driver(struct virtio_net *net)
{
    net->filter = (struct filter){.mode = {[RX_PROMISCUOUS] = 1}};
    net->offloads = 0;
    net->pairs = 1;
    memset(net->steering, 0, sizeof(net->steering));
    net->received = 0;
    net->send_waits = false;
    show_mac(net, net->born_mac);
    (void)end_announcement(net);
}

static void net_activate(struct virtio *virtio, const struct virtio_activation *activation)
{
    struct virtio_net *net = net_of(virtio);
    forget_driver(net); /* a device restored in need of a reset was never deactivated */
    net->offloads = activation->features & F_GUEST_OFFLOADS;
    loop_post(net->transport.device.env->loop, posted_accepts, net);
}

static bool net_deactivate(struct virtio *virtio)
{
    struct virtio_net *net = net_of(virtio);
    forget_driver(net);
    loop_post(net->transport.device.env->loop, posted_accepts, net);
    return true;
}

static const struct virtio_ops net_ops = {
    .name = "virtio-net",
    .device_id = 1,
    .class_code = 0x020000, /* network controller, Ethernet */
    .queue_count = QUEUE_COUNT,
    .queue_step = 2,
    .queue_size = QUEUE_SIZE,
    .config_size = CONFIG_BYTES,
    .activate = net_activate,
    .deactivate = net_deactivate,
    .reset_queue = net_reset_queue,
    .notify = net_notify,
};

static bool net_realize(struct device *device, const struct device_params *params,
                        struct error **err)
{
    struct virtio_net *net = CONTAINER_OF(device, struct virtio_net, transport.device);
    uint64_t features = F_CSUM | F_GUEST_CSUM | F_CTRL_GUEST_OFFLOADS | F_MAC | F_GUEST_TSO4 |
                        F_GUEST_TSO6 | F_HOST_TSO4 | F_HOST_TSO6 | F_MRG_RXBUF | F_STATUS |
                        F_CTRL_VQ | F_CTRL_RX | F_CTRL_VLAN | F_CTRL_RX_EXTRA | F_CTRL_MAC_ADDR |
                        F_GUEST_ANNOUNCE;
    assert(params->net != NULL && params->mac != NULL);
    if (params->mtu != 0)
        features |= F_MTU;
    if (params->queues > 1)
        features |= F_MQ;
    if (!virtio_transport_realize(&net->transport, &net_ops, features, params, err))
        return false;
    net->port = params->net;
    net->pairs_max = (net->transport.virtio.queue_count - 1u) / 2;
    assert(net->pairs_max <= PAIRS_MAX);
    memcpy(net->born_mac, params->mac, NET_MAC_BYTES);
    forget_driver(net);
    uint8_t *config = net->transport.virtio.config;
    store_le16(config + CONFIG_PAIRS, (uint16_t)net->pairs_max);
    store_le16(config + CONFIG_MTU, (uint16_t)params->mtu);
    store_le16(config + CONFIG_STATUS, net_port_link(net->port) ? STATUS_LINK_UP : 0);
    net_port_attach(net->port, &port_user, net);
    return true;
}

static void net_unrealize(struct device *device)
{
    struct virtio_net *net = CONTAINER_OF(device, struct virtio_net, transport.device);
    net_port_attach(net->port, NULL, NULL);
    virtio_transport_unrealize(device);
    loop_cancel(device->env->loop, posted_accepts, net);
    for (unsigned i = 0; i < MERGE_MAX; i++)
        free(net->merge[i]);
}

static void net_unquiesce(struct device *device)
{
    struct virtio_net *net = CONTAINER_OF(device, struct virtio_net, transport.device);
    virtio_transport_unquiesce(device);
    pthread_mutex_lock(&device->lock);
    net->received = (1u << net->pairs_max) - 1; /* also what was before it was saved */
    pthread_mutex_unlock(&device->lock);
    net_received(net);
}

/* --- state --- */

static bool filter_post_restore(void *object, struct error **err)
{
    struct filter *filter = object;
    if (filter->unicast_count <= MAC_TABLE_MAX &&
        filter->multicast_count <= MAC_TABLE_MAX - filter->unicast_count)
        return true;
    return error_set(err, ERROR_USAGE, "the saved state has an impossible MAC table");
}

static const struct state_field filter_fields[] = {
    STATE_BYTES(struct filter, mode, "mode"),
    STATE_UINT(struct filter, unicast_count, "unicast_count"),
    STATE_UINT(struct filter, multicast_count, "multicast_count"),
    STATE_BYTES(struct filter, table, "table"),
    STATE_UINT(struct filter, table_full, "table_full"),
    STATE_BYTES(struct filter, vlans, "vlans"),
    STATE_END,
};
static const struct state_table filter_state = {"virtio-net-filter", 1, filter_fields, NULL,
                                                filter_post_restore};

static bool net_post_restore(void *object, struct error **err)
{
    struct virtio_net *net = object;
    if (net->pairs == 0 || net->pairs > net->pairs_max ||
        (net->pairs > 1 && !virtio_has(&net->transport.virtio, F_MQ)))
        return error_set(err, ERROR_USAGE, "the saved state of '%s' uses %u of %u pairs of queues",
                         net->transport.device.id, net->pairs, net->pairs_max);
    if ((net->offloads & ~F_GUEST_OFFLOADS) != 0)
        return error_set(err, ERROR_USAGE, "the saved state of '%s' has impossible offloads",
                         net->transport.device.id);
    show_mac(net, net->mac);
    return true;
}

/* `transport` comes first: activating starts with a fresh filter. */
static const struct state_field net_fields[] = {
    STATE_STRUCT(struct virtio_net, transport, "pci", &virtio_transport_state),
    STATE_BYTES(struct virtio_net, mac, "mac"),
    STATE_UINT(struct virtio_net, offloads, "offloads"),
    STATE_UINT(struct virtio_net, pairs, "pairs"),
    STATE_STRUCT(struct virtio_net, filter, "filter", &filter_state),
    STATE_END,
};
static const struct state_table net_state = {"virtio-net", 2, net_fields, NULL, net_post_restore};

const struct device_ops device_virtio_net = {
    .name = "virtio-net",
    .size = sizeof(struct virtio_net),
    .realize = net_realize,
    .unrealize = net_unrealize,
    .reset = virtio_transport_reset,
    .state = &net_state,
    .quiesce = virtio_transport_quiesce,
    .unquiesce = net_unquiesce,
};
