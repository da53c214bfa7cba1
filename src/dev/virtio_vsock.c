/* SPDX-License-Identifier: MIT
 *
 * virtio socket device (virtio 1.2, 5.10), stream sockets: packets between the queues and
 * dev/vsock.h, which knows what they mean.
 *
 * The guest's packets wait in its ring while answers to former ones have no room (5.10.6.1.2
 * asks for that, not for buffers without end). Sockets belong to the loop's thread: a reset,
 * which may come on any, leaves a note that connections are void, and whatever the loop's thread
 * does next with the device begins there.
 *
 * Nothing of a connection is saved. A guest that is restored is told to forget its own
 * (5.10.6.7, transport reset), and gets nothing else before it has: Linux takes events and packets
 * on threads of their own, and would forget a connection that it has just agreed to as well,
 * without a word to us. It has when it gives the event's buffer back; one that never does is waited
 * for for a second.
 *
 * params: vsock, pci_slot.
 */
#include <assert.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/virtio_transport.h"
#include "dev/vsock.h"

#define QUEUE_SIZE        128u
#define TURN_PACKETS      64u /* of one turn, then others have theirs */
#define REQUEST_BYTES_MAX MIB
#define LOOK_NS           (NS_PER_S / 500) /* whether the driver has heard of a reset */

#define FEATURE_STREAM (UINT64_C(1) << 0)

enum { QUEUE_RECEIVE, QUEUE_TRANSMIT, QUEUE_EVENT, QUEUE_COUNT };
enum { CONFIG_BYTES = 8 };
enum { EVENT_TRANSPORT_RESET = 0, EVENT_BYTES = 4 };
/* struct virtio_vsock_hdr (5.10.6). */
enum {
    HEADER_SRC_CID = 0,
    HEADER_DST_CID = 8,
    HEADER_SRC_PORT = 16,
    HEADER_DST_PORT = 20,
    HEADER_LENGTH = 24,
    HEADER_TYPE = 28,
    HEADER_OP = 30,
    HEADER_FLAGS = 32,
    HEADER_BUF_ALLOC = 36,
    HEADER_FWD_CNT = 40,
    HEADER_BYTES = 44
};

struct virtio_vsock {
    struct virtio_transport transport; /* first */
    struct vsock *host;
    bool stale;          /* the guest has forgotten the connections that there are */
    bool tell_reset;     /* the guest shall forget its connections */
    int64_t told_until;  /* it was told: how long it is waited for (virtual ns); 0: it has heard */
    unsigned told_left;  /* buffers for events that were left then */
    struct vtimer *look; /* whether it has heard */
    bool transmit_waits; /* for room for answers */
    struct virtq_chain chain;
    struct iovec iov[VIRTQ_SEGMENT_MAX]; /* the data's part of a buffer */
};

static struct virtio_vsock *vsock_of(struct virtio *virtio)
{
    return CONTAINER_OF(virtio, struct virtio_vsock, transport.virtio);
}

static bool usable(const struct virtio *virtio, unsigned index)
{
    const struct virtqueue *queue = &virtio->queues[index];
    return virtio->active && !virtio->quiesced && virtio->dma && queue->enabled && !queue->broken;
}

static void load_packet(struct vsock_packet *packet, const uint8_t *header)
{
    *packet = (struct vsock_packet){.src_cid = load_le64(header + HEADER_SRC_CID),
                                    .dst_cid = load_le64(header + HEADER_DST_CID),
                                    .src_port = load_le32(header + HEADER_SRC_PORT),
                                    .dst_port = load_le32(header + HEADER_DST_PORT),
                                    .length = load_le32(header + HEADER_LENGTH),
                                    .type = load_le16(header + HEADER_TYPE),
                                    .op = load_le16(header + HEADER_OP),
                                    .flags = load_le32(header + HEADER_FLAGS),
                                    .buf_alloc = load_le32(header + HEADER_BUF_ALLOC),
                                    .fwd_cnt = load_le32(header + HEADER_FWD_CNT)};
}

static void store_packet(uint8_t *header, const struct vsock_packet *packet)
{
    store_le64(header + HEADER_SRC_CID, packet->src_cid);
    store_le64(header + HEADER_DST_CID, packet->dst_cid);
    store_le32(header + HEADER_SRC_PORT, packet->src_port);
    store_le32(header + HEADER_DST_PORT, packet->dst_port);
    store_le32(header + HEADER_LENGTH, packet->length);
    store_le16(header + HEADER_TYPE, packet->type);
    store_le16(header + HEADER_OP, packet->op);
    store_le32(header + HEADER_FLAGS, packet->flags);
    store_le32(header + HEADER_BUF_ALLOC, packet->buf_alloc);
    store_le32(header + HEADER_FWD_CNT, packet->fwd_cnt);
}

/* --- to the guest; lock held, loop's thread --- */

static void tell_reset(struct virtio_vsock *vsock)
{
    struct virtqueue *queue = &vsock->transport.virtio.queues[QUEUE_EVENT];
    uint8_t event[EVENT_BYTES] = {EVENT_TRANSPORT_RESET};
    vsock->tell_reset &= queue->enabled; /* a driver may do without */
    if (!vsock->tell_reset || !usable(&vsock->transport.virtio, QUEUE_EVENT) ||
        !virtqueue_pop(queue, &vsock->chain, REQUEST_BYTES_MAX))
        return;
    if (vsock->chain.in_size < EVENT_BYTES) {
        virtio_violation(&vsock->transport.virtio, "a buffer for events has no room for one");
        return;
    }
    vsock->tell_reset = false;
    vsock->chain.touched = virtq_write(&vsock->chain, 0, event, EVENT_BYTES);
    vsock->told_left = virtqueue_waiting(queue);
    vsock->told_until = vclock_now(vsock->transport.device.env->clock) + NS_PER_S;
    virtqueue_push(queue, &vsock->chain, EVENT_BYTES);
    virtqueue_signal(queue);
}

/* False: it will be looked again. */
static bool has_heard(struct virtio_vsock *vsock)
{
    if (vsock->told_until == 0)
        return true;
    int64_t now = vclock_now(vsock->transport.device.env->clock);
    if (now < vsock->told_until &&
        virtqueue_waiting(&vsock->transport.virtio.queues[QUEUE_EVENT]) <= vsock->told_left) {
        vtimer_arm(vsock->look, now + LOOK_NS);
        return false;
    }
    vsock->told_until = 0;
    return true;
}

/* False: there is nothing more, or no buffer for it. */
static bool deliver_one(struct virtio_vsock *vsock, struct virtqueue *queue)
{
    struct virtq_chain *chain = &vsock->chain;
    struct vsock_packet packet;
    uint8_t header[HEADER_BYTES];
    if (!vsock_has_more(vsock->host) || !virtqueue_pop(queue, chain, REQUEST_BYTES_MAX))
        return false;
    if (chain->in_size <= HEADER_BYTES) {
        virtio_violation(&vsock->transport.virtio, "a buffer for packets has no room for data");
        return false;
    }
    struct iovec *iov = vsock->iov;
    unsigned count = chain->in_count;
    uint64_t room = chain->in_size - HEADER_BYTES;
    memcpy(iov, virtq_in(chain), count * sizeof(*iov));
    (void)virtq_slice(&iov, &count, HEADER_BYTES, room);
    if (!vsock_fetch(vsock->host, &packet, iov, count, room)) {
        virtqueue_unpop(queue, chain);
        return false;
    }
    store_packet(header, &packet);
    virtq_write(chain, 0, header, HEADER_BYTES);
    chain->touched = HEADER_BYTES + packet.length;
    virtqueue_push(queue, chain, HEADER_BYTES + packet.length);
    return true;
}

/* True: the turn is over, but there is more. */
static bool deliver(struct virtio_vsock *vsock)
{
    struct virtio *virtio = &vsock->transport.virtio;
    if (vsock->stale || !virtio->active) {
        vsock->stale = false;
        vsock_drop(vsock->host);
    }
    tell_reset(vsock);
    if (!usable(virtio, QUEUE_RECEIVE) || vsock->tell_reset || !has_heard(vsock))
        return false;
    unsigned turn = 0;
    while (turn < TURN_PACKETS && deliver_one(vsock, &virtio->queues[QUEUE_RECEIVE]))
        turn++;
    virtqueue_signal(&virtio->queues[QUEUE_RECEIVE]);
    if (vsock->transmit_waits && vsock_can_send(vsock->host)) {
        vsock->transmit_waits = false;
        virtio_notified(virtio, QUEUE_TRANSMIT);
    }
    return turn == TURN_PACKETS;
}

/* On the loop, without the lock: the host has something, or the driver has changed. */
static void look_again(void *opaque)
{
    struct virtio_vsock *vsock = opaque;
    pthread_mutex_lock(&vsock->transport.device.lock);
    bool more = deliver(vsock);
    pthread_mutex_unlock(&vsock->transport.device.lock);
    if (more)
        virtio_notified(&vsock->transport.virtio, QUEUE_RECEIVE);
}

/* --- from the guest --- */

/* False: the driver broke the rules. */
static bool transmit_one(struct virtio_vsock *vsock)
{
    struct virtq_chain *chain = &vsock->chain;
    struct vsock_packet packet;
    uint8_t header[HEADER_BYTES];
    if (virtq_read(chain, 0, header, HEADER_BYTES) == HEADER_BYTES) {
        load_packet(&packet, header);
        struct iovec *iov = chain->segment;
        unsigned count = chain->out_count;
        if (virtq_slice(&iov, &count, HEADER_BYTES, packet.length)) {
            vsock_send(vsock->host, &packet, iov, count);
            return true;
        }
    }
    virtio_violation(&vsock->transport.virtio, "a packet is shorter than it says");
    return false;
}

static bool transmit(struct virtio_vsock *vsock, struct virtqueue *queue)
{
    unsigned turn = 0;
    for (; turn < TURN_PACKETS; turn++) {
        vsock->transmit_waits = !vsock_can_send(vsock->host);
        if (vsock->transmit_waits || !virtqueue_pop(queue, &vsock->chain, REQUEST_BYTES_MAX))
            break;
        if (!transmit_one(vsock))
            return false;
        vsock->chain.touched = 0;
        virtqueue_push(queue, &vsock->chain, 0);
    }
    virtqueue_signal(queue);
    return turn == TURN_PACKETS;
}

static bool vsock_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_vsock *vsock = vsock_of(virtio);
    bool more = deliver(vsock); /* first: what is stale must not be seen by a new driver */
    if (queue->index != QUEUE_TRANSMIT)
        return more;
    bool again = usable(virtio, QUEUE_TRANSMIT) && transmit(vsock, queue);
    if (deliver(vsock)) /* answers and credit */
        virtio_notified(virtio, QUEUE_RECEIVE);
    return again;
}

/* --- life --- */

static void forget_driver(struct virtio_vsock *vsock)
{
    vsock->stale = true;
    vsock->tell_reset = vsock->transmit_waits = false;
    vsock->told_until = 0;
    loop_post(vsock->transport.device.env->loop, look_again, vsock);
}

static void vsock_activate(struct virtio *virtio, const struct virtio_activation *activation)
{
    (void)activation;
    forget_driver(vsock_of(virtio)); /* one restored in need of a reset was never deactivated */
}

static bool vsock_deactivate(struct virtio *virtio)
{
    forget_driver(vsock_of(virtio));
    return true;
}

static const struct virtio_ops vsock_ops = {
    .name = "virtio-vsock",
    .device_id = 19,
    .class_code = 0x078000, /* communication controller, other */
    .queue_count = QUEUE_COUNT,
    .queue_size = QUEUE_SIZE,
    .config_size = CONFIG_BYTES,
    .activate = vsock_activate,
    .deactivate = vsock_deactivate,
    .notify = vsock_notify,
};

static bool vsock_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    struct virtio_vsock *vsock = CONTAINER_OF(device, struct virtio_vsock, transport.device);
    const struct device_vsock *what = params->vsock;
    assert(!device->env->deterministic);
    vsock->host = vsock_new(what->listen_fd, what->connector_fd, what->cid, device->env->loop,
                            look_again, vsock, err);
    if (vsock->host == NULL)
        return false;
    if (!virtio_transport_realize(&vsock->transport, &vsock_ops, FEATURE_STREAM, params, err)) {
        vsock_free(vsock->host);
        return false;
    }
    vsock->look = vtimer_new(device->env->clock, look_again, vsock);
    store_le64(vsock->transport.virtio.config, what->cid);
    return true;
}

static void vsock_unrealize(struct device *device)
{
    struct virtio_vsock *vsock = CONTAINER_OF(device, struct virtio_vsock, transport.device);
    vtimer_free(vsock->look);
    virtio_transport_unrealize(device);
    loop_cancel(device->env->loop, look_again, vsock);
    vsock_free(vsock->host);
}

static bool vsock_restored(void *object, struct error **err)
{
    struct virtio_vsock *vsock = object;
    (void)err;
    forget_driver(vsock);
    vsock->tell_reset = vsock->transport.virtio.active;
    return true;
}

static const struct state_field vsock_fields[] = {
    STATE_STRUCT(struct virtio_vsock, transport, "pci", &virtio_transport_state),
    STATE_END,
};
static const struct state_table vsock_state = {"virtio-vsock", 1, vsock_fields, NULL,
                                               vsock_restored};

const struct device_ops device_virtio_vsock = {
    .name = "virtio-vsock",
    .size = sizeof(struct virtio_vsock),
    .realize = vsock_realize,
    .unrealize = vsock_unrealize,
    .reset = virtio_transport_reset,
    .state = &vsock_state,
    .quiesce = virtio_transport_quiesce,
    .unquiesce = virtio_transport_unquiesce,
};
