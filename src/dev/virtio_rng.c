/* SPDX-License-Identifier: MIT
 *
 * virtio entropy device (virtio 1.2, 5.4): fills the driver's buffers from env->entropy. A
 * request gets at most a page, which the specification allows and no driver minds: it bounds
 * what a guest can make the host compute before others have their turn. Requests that a limit holds
 * back stay in the ring.
 *
 * params: pci_slot.
 */
#include "base/bits.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/backend.h"
#include "bus/virtio_transport.h"
#include "dev/virtio_rng.h"
#include "net/bucket.h"

#define QUEUE_SIZE        8u
#define REQUEST_BYTES_MAX 4096u

struct virtio_rng {
    struct virtio_transport transport; /* first */
    struct virtq_chain chain;          /* the request being handled */
    struct net_bucket bytes, requests; /* limits; no part of its state */
    struct vtimer *timer;              /* when there is credit again */
};

static struct virtio_rng *rng_of(struct device *device)
{
    return CONTAINER_OF(device, struct virtio_rng, transport.device);
}

/* False: not yet. */
static bool may_go_on(struct virtio_rng *rng)
{
    int64_t now = vclock_now(rng->transport.device.env->clock);
    int64_t wait = net_bucket_wait(&rng->bytes, now);
    int64_t other = net_bucket_wait(&rng->requests, now);
    wait = wait > other ? wait : other;
    if (wait > 0)
        vtimer_arm(rng->timer, now + wait);
    return wait == 0;
}

static void on_timer(void *opaque)
{
    struct virtio_rng *rng = opaque;
    virtio_notified(&rng->transport.virtio, 0);
}

void virtio_rng_limit(struct device *device, uint64_t bytes, uint64_t requests)
{
    struct virtio_rng *rng = rng_of(device);
    int64_t now = vclock_now(device->env->clock);
    pthread_mutex_lock(&device->lock);
    net_bucket_set_of(&rng->bytes, bytes, 1, now);
    net_bucket_set_of(&rng->requests, requests, 1, now);
    vtimer_arm(rng->timer, now); /* what has waited is looked at again */
    pthread_mutex_unlock(&device->lock);
}

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
    net_bucket_take(&rng->bytes, bytes);
    net_bucket_take(&rng->requests, 1);
    virtqueue_push(queue, chain, bytes);
}

static bool rng_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_rng *rng = CONTAINER_OF(virtio, struct virtio_rng, transport.virtio);
    bool more = true;
    for (unsigned turn = 0; more && turn < QUEUE_SIZE; turn++) {
        if (!may_go_on(rng)) {
            more = false;
            break;
        }
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
    struct virtio_rng *rng = rng_of(device);
    rng->timer = vtimer_new(device->env->clock, on_timer, rng);
    if (virtio_transport_realize(&rng->transport, &rng_ops, 0, params, err))
        return true;
    vtimer_free(rng->timer);
    return false;
}

static void rng_unrealize(struct device *device)
{
    vtimer_free(rng_of(device)->timer);
    virtio_transport_unrealize(device);
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
    .unrealize = rng_unrealize,
    .reset = virtio_transport_reset,
    .state = &rng_state,
    .quiesce = virtio_transport_quiesce,
    .unquiesce = virtio_transport_unquiesce,
};
