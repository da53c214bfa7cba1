/* SPDX-License-Identifier: MIT
 *
 * virtio entropy device (virtio 1.2, 5.4): fills the driver's buffers from env->entropy. A
 * request gets at most a page, which the specification allows and no driver minds: it bounds
 * what a guest can make the host compute before others have their turn.
 *
 * params: pci_slot.
 */
#include "base/bits.h"
#include "base/state.h"
#include "bus/backend.h"
#include "bus/virtio_transport.h"

#define QUEUE_SIZE        8u
#define REQUEST_BYTES_MAX 4096u

struct virtio_rng {
    struct virtio_transport transport; /* first */
    struct virtq_chain chain;          /* the request being handled */
};

static void fill(struct virtio_rng *rng, struct virtqueue *queue)
{
    struct entropy *entropy = rng->transport.device.env->entropy;
    struct virtq_chain *chain = &rng->chain;
    struct iovec *iov = virtq_in(chain);
    unsigned count = chain->in_count;
    uint32_t bytes =
        chain->in_size < REQUEST_BYTES_MAX ? (uint32_t)chain->in_size : REQUEST_BYTES_MAX;
    virtq_slice(&iov, &count, 0, bytes);
    for (unsigned i = 0; i < count; i++)
        entropy->fill(entropy, iov[i].iov_base, iov[i].iov_len);
    chain->touched = bytes;
    virtqueue_push(queue, chain, bytes);
}

static bool rng_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_rng *rng = CONTAINER_OF(virtio, struct virtio_rng, transport.virtio);
    bool more = true;
    for (unsigned turn = 0; more && turn < QUEUE_SIZE; turn++) {
        more = virtqueue_pop(queue, &rng->chain, UINT32_MAX);
        if (more)
            fill(rng, queue);
    }
    virtqueue_signal(queue);
    return more;
}

static const struct virtio_ops rng_ops = {
    .name = "virtio-rng",
    .device_id = 4,
    .class_code = 0xff0000,
    .queue_count = 1,
    .queue_size = QUEUE_SIZE,
    .config_size = 0,
    .notify = rng_notify,
};

static bool rng_realize(struct device *device, const struct device_params *params,
                        struct error **err)
{
    struct virtio_rng *rng = CONTAINER_OF(device, struct virtio_rng, transport.device);
    return virtio_transport_realize(&rng->transport, &rng_ops, 0, params, err);
}

static const struct state_field rng_fields[] = {
    STATE_STRUCT(struct virtio_rng, transport, "pci", &virtio_transport_state),
    STATE_END,
};

static const struct state_table rng_state = {"virtio-rng", 1, rng_fields, NULL, NULL};

const struct device_ops device_virtio_rng = {
    .name = "virtio-rng",
    .size = sizeof(struct virtio_rng),
    .realize = rng_realize,
    .unrealize = virtio_transport_unrealize,
    .reset = virtio_transport_reset,
    .state = &rng_state,
    .quiesce = virtio_transport_quiesce,
    .unquiesce = virtio_transport_unquiesce,
};
