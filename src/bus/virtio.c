/* SPDX-License-Identifier: MIT
 *
 * Status and queues of a virtio device, whatever its transport.
 *
 * Invariants: activate() and deactivate() alternate, `active` tells which was last, and it
 * implies DRIVER_OK; `resetting` excludes it and is never set while the machine is quiesced;
 * `accepted` is fixed while FEATURES_OK is set and then a subset
 * of `offered` with VERSION_1; a queue is enabled only after virtqueue_check(), and not while it
 * is being reset.
 */
#include "bus/virtio.h"

#include <assert.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop.h"
#include "base/state.h"

#define TRANSPORT_FEATURES                                                                         \
    (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED)
#define DRIVER_STATUS_BITS                                                                         \
    (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |                  \
     VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED)

static void pass_on_notifications(void *opaque);

/* --- violations and configuration changes --- */

static void fire_config_interrupt(struct virtio *virtio)
{
    if ((virtio->status & VIRTIO_STATUS_DRIVER_OK) != 0 && !virtio->resetting)
        notifier_fire(&virtio->config_interrupt, 0);
}

void virtio_config_changed(struct virtio *virtio)
{
    virtio->config_generation++;
    fire_config_interrupt(virtio);
}

static void needs_reset(struct virtio *virtio, const char *what)
{
    log_guest(virtio->device->env->log, &virtio->log_limit,
              "%s: the driver in the guest broke the rules of virtio: %s; the device stops "
              "until it is reset",
              virtio->device->id, what);
    if ((virtio->status & VIRTIO_STATUS_NEEDS_RESET) != 0)
        return;
    virtio->status |= VIRTIO_STATUS_NEEDS_RESET;
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        virtio->queues[i].broken = true;
    fire_config_interrupt(virtio);
}

void virtio_violation(struct virtio *virtio, const char *what)
{
    needs_reset(virtio, what);
}

static void queue_violation(void *opaque, struct virtqueue *queue, const char *what)
{
    (void)queue;
    needs_reset(opaque, what);
}

/* --- notifications --- */

/* Lock held. True: the device has more to do. */
static bool pass_on(struct virtio *virtio, unsigned index)
{
    struct virtqueue *queue = &virtio->queues[index];
    if (!virtio->active || virtio->quiesced || !virtio->dma || !queue->enabled || queue->broken)
        return false;
    return virtio->ops->notify(virtio, queue);
}

/* Marks queues and makes sure that the loop will look at them. */
static void post_notifications(struct virtio *virtio, uint32_t queues)
{
    if (queues != 0 && atomic_fetch_or(&virtio->notified, queues) == 0)
        loop_post(virtio->device->env->loop, pass_on_notifications, virtio);
}

static void pass_on_notifications(void *opaque)
{
    struct virtio *virtio = opaque;
    uint32_t again = 0, queues = atomic_exchange(&virtio->notified, 0);
    pthread_mutex_lock(&virtio->device->lock);
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        if ((queues & 1u << i) != 0 && pass_on(virtio, i))
            again |= 1u << i;
    }
    pthread_mutex_unlock(&virtio->device->lock);
    post_notifications(virtio, again);
}

void virtio_notified(void *opaque, unsigned queue)
{
    struct virtio *virtio = opaque;
    if (queue >= virtio->queue_count)
        return;
    if (!virtio->device->env->deterministic) {
        post_notifications(virtio, 1u << queue);
        return;
    }
    /* No other vCPU runs, so what there is to do ends. */
    pthread_mutex_lock(&virtio->device->lock);
    while (pass_on(virtio, queue))
        ;
    pthread_mutex_unlock(&virtio->device->lock);
}

/* --- doorbells --- */

/* What was rung until now: the count says how often, which nobody asks. */
static void on_doorbell(void *opaque, int fd, unsigned events)
{
    struct virtio_ear *ear = opaque;
    struct virtio *virtio = ear->virtio;
    uint64_t count;
    (void)events;
    if (read(fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
        return;
    /* As if it had been posted, and the loop's turn had come. */
    atomic_fetch_or(&virtio->notified, 1u << (unsigned)(ear - virtio->ears));
    pass_on_notifications(virtio);
}

/* Queues that get none for want of descriptors are heard of by vCPUs' threads. */
static void make_doorbells(struct virtio *virtio)
{
    const struct device_env *env = virtio->device->env;
    if (env->deterministic || !mem_takes_doorbells(env->mem))
        return;
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        struct virtio_ear *ear = &virtio->ears[i];
        ear->virtio = virtio;
        ear->watch =
            fd >= 0 ? loop_watch_add(env->loop, fd, LOOP_READABLE, on_doorbell, ear, NULL) : NULL;
        if (ear->watch == NULL) {
            if (fd >= 0)
                close(fd);
            return;
        }
        virtio->doorbells[i] = (struct mem_doorbell){.fd = fd};
        virtio->doorbell_count = i + 1;
    }
}

static void drop_doorbells(struct virtio *virtio)
{
    for (unsigned i = 0; i < virtio->doorbell_count; i++) {
        loop_watch_remove(virtio->ears[i].watch);
        close(virtio->doorbells[i].fd);
    }
    virtio->doorbell_count = 0;
}

static void notify_all(struct virtio *virtio)
{
    for (unsigned i = 0; i < virtio->queue_count; i++)
        virtio_notified(virtio, i);
}

/* --- life --- */

/* False: it is still under way. */
static bool deactivate(struct virtio *virtio)
{
    if (virtio->active) {
        virtio->active = false;
        virtio->resetting = virtio->ops->deactivate != NULL && !virtio->ops->deactivate(virtio);
    }
    return !virtio->resetting;
}

void virtio_init(struct virtio *virtio, struct device *device, const struct virtio_ops *ops,
                 unsigned queues, uint64_t features)
{
    unsigned count = ops->queue_count + (queues > 1 ? queues - 1 : 0) * ops->queue_step;
    assert(count <= VIRTIO_QUEUE_MAX && ops->queue_size <= VIRTQ_SIZE_MAX);
    assert(ops->config_size <= VIRTIO_CONFIG_MAX);
    *virtio = (struct virtio){.ops = ops,
                              .device = device,
                              .offered = features | TRANSPORT_FEATURES,
                              .queue_count = (uint16_t)count,
                              .saved_queue_count = (uint16_t)count};
    if (ops->reset_queue != NULL)
        virtio->offered |= VIRTIO_F_RING_RESET;
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++) {
        struct virtqueue *queue = &virtio->queues[i];
        queue->mem = device->env->mem;
        queue->index = (uint16_t)i;
        queue->size_max = i < count ? ops->queue_size : 0;
        queue->violation = queue_violation;
        queue->violation_opaque = virtio;
        notifier_bind(&queue->notify, virtio_notified, virtio);
        virtqueue_reset(queue);
    }
    make_doorbells(virtio);
}

void virtio_destroy(struct virtio *virtio)
{
    (void)deactivate(virtio);
    drop_doorbells(virtio);
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        virtqueue_forget(&virtio->queues[i]);
    if (virtio->device->env->loop != NULL)
        loop_cancel(virtio->device->env->loop, pass_on_notifications, virtio);
}

static void clear(struct virtio *virtio)
{
    virtio->accepted = 0;
    virtio->offered_select = virtio->accepted_select = 0;
    virtio->queue_select = 0;
    virtio->status = 0;
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        virtqueue_reset(&virtio->queues[i]);
}

void virtio_reset(struct virtio *virtio)
{
    if (deactivate(virtio))
        clear(virtio);
}

void virtio_deactivated(struct virtio *virtio)
{
    assert(virtio->resetting);
    virtio->resetting = false;
    clear(virtio);
}

static void apply_features(const struct virtio *virtio, struct virtqueue *queue)
{
    queue->event_idx = virtio_has(virtio, VIRTIO_F_EVENT_IDX);
    queue->indirect = virtio_has(virtio, VIRTIO_F_INDIRECT_DESC);
}

static void activate(struct virtio *virtio)
{
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        apply_features(virtio, &virtio->queues[i]);
    virtio->active = true;
    const struct virtio_activation activation = {.mem = virtio->device->env->mem,
                                                 .queues = virtio->queues,
                                                 .queue_count = virtio->queue_count,
                                                 .features = virtio->accepted};
    if (virtio->ops->activate != NULL)
        virtio->ops->activate(virtio, &activation);
}

void virtio_set_status(struct virtio *virtio, uint8_t status)
{
    /* 2.1.1: the driver never clears a bit other than by reset, so bits only come. */
    uint8_t added = (uint8_t)(status & DRIVER_STATUS_BITS & ~virtio->status);
    if ((added & VIRTIO_STATUS_FEATURES_OK) != 0 &&
        ((virtio->accepted & ~virtio->offered) != 0 || !virtio_has(virtio, VIRTIO_F_VERSION_1)))
        added &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK; /* 2.2.2: the driver sees it missing */
    virtio->status |= added;
    if ((added & VIRTIO_STATUS_DRIVER_OK) == 0)
        return;
    if ((virtio->status & VIRTIO_STATUS_FEATURES_OK) == 0)
        needs_reset(virtio, "DRIVER_OK without FEATURES_OK");
    if ((virtio->status & VIRTIO_STATUS_NEEDS_RESET) == 0)
        activate(virtio);
    else
        fire_config_interrupt(virtio); /* what broke earlier could not be told before */
}

uint32_t virtio_offered_half(const struct virtio *virtio)
{
    if (virtio->offered_select > 1)
        return 0;
    return (uint32_t)(virtio->offered >> (32 * virtio->offered_select));
}

void virtio_set_accepted(struct virtio *virtio, uint32_t half)
{
    if ((virtio->status & VIRTIO_STATUS_FEATURES_OK) != 0)
        return;
    if (virtio->accepted_select > 1) {
        /* Bits 64 and up do not exist: accepting one must not look like success. */
        if (half != 0)
            virtio->accepted |= UINT64_C(1) << 63;
        return;
    }
    unsigned shift = 32 * virtio->accepted_select;
    virtio->accepted &= ~(UINT64_C(0xffffffff) << shift);
    virtio->accepted |= (uint64_t)half << shift;
}

struct virtqueue *virtio_queue(struct virtio *virtio)
{
    return virtio->queue_select < virtio->queue_count ? &virtio->queues[virtio->queue_select]
                                                      : NULL;
}

void virtio_enable_queue(struct virtio *virtio, struct virtqueue *queue)
{
    if (queue->enabled || queue->resetting)
        return;
    queue->packed = virtio_has(virtio, VIRTIO_F_RING_PACKED);
    const char *what = virtqueue_check(queue);
    if (what == NULL && (virtio->status & VIRTIO_STATUS_FEATURES_OK) == 0)
        what = "a queue was enabled before FEATURES_OK";
    if (what == NULL && virtio->active && !virtio_has(virtio, VIRTIO_F_RING_RESET))
        what = "a queue was enabled after DRIVER_OK";
    if (what != NULL) {
        needs_reset(virtio, what);
        return;
    }
    if (virtio->active) /* else activate() does it */
        apply_features(virtio, queue);
    queue->enabled = true;
}

void virtio_reset_queue(struct virtio *virtio, struct virtqueue *queue)
{
    if (!virtio_has(virtio, VIRTIO_F_RING_RESET) || !queue->enabled || !virtio->active)
        return;
    queue->enabled = false;
    queue->resetting = true;
    if (virtio->ops->reset_queue(virtio, queue))
        virtio_queue_deactivated(virtio, queue);
}

void virtio_queue_deactivated(struct virtio *virtio, struct virtqueue *queue)
{
    bool broken = (virtio->status & VIRTIO_STATUS_NEEDS_RESET) != 0;
    assert(queue->resetting);
    virtqueue_reset(queue);
    queue->broken = broken; /* only a reset of the device mends it */
}

void virtio_set_dma(struct virtio *virtio, bool allowed)
{
    pthread_mutex_lock(&virtio->device->lock);
    bool missed = allowed && !virtio->dma && virtio->active;
    virtio->dma = allowed;
    pthread_mutex_unlock(&virtio->device->lock);
    if (missed)
        notify_all(virtio);
}

void virtio_quiesce(struct virtio *virtio)
{
    pthread_mutex_lock(&virtio->device->lock);
    virtio->quiesced = true;
    pthread_mutex_unlock(&virtio->device->lock);
}

void virtio_unquiesce(struct virtio *virtio)
{
    pthread_mutex_lock(&virtio->device->lock);
    virtio->quiesced = false;
    pthread_mutex_unlock(&virtio->device->lock);
    notify_all(virtio);
}

/* --- state --- */

bool virtio_restored(struct virtio *virtio, struct error **err)
{
    const uint8_t status = virtio->status;
    bool in_use =
        (status & VIRTIO_STATUS_DRIVER_OK) != 0 && (status & VIRTIO_STATUS_NEEDS_RESET) == 0;
    if ((status & ~(DRIVER_STATUS_BITS | VIRTIO_STATUS_NEEDS_RESET)) != 0 ||
        (in_use && (status & VIRTIO_STATUS_FEATURES_OK) == 0) ||
        ((status & VIRTIO_STATUS_FEATURES_OK) != 0 &&
         ((virtio->accepted & ~virtio->offered) != 0 || !virtio_has(virtio, VIRTIO_F_VERSION_1))))
        return error_set(err, ERROR_USAGE,
                         "the saved state of '%s' does not fit this device: status 0x%02x, "
                         "features 0x%llx of 0x%llx",
                         virtio->device->id, status, (unsigned long long)virtio->accepted,
                         (unsigned long long)virtio->offered);
    for (unsigned i = virtio->queue_count; i < VIRTIO_QUEUE_MAX; i++) {
        if (virtio->queues[i].enabled)
            return error_set(err, ERROR_USAGE, "the saved state of '%s' has too many queues",
                             virtio->device->id);
    }
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        const struct virtqueue *queue = &virtio->queues[i];
        if (queue->enabled && queue->packed != virtio_has(virtio, VIRTIO_F_RING_PACKED))
            return error_set(err, ERROR_USAGE,
                             "the saved state of '%s' has a queue of another layout",
                             virtio->device->id);
    }
    bool through = deactivate(virtio);
    assert(through && "nothing is in flight in a quiesced machine");
    (void)through;
    if (in_use)
        activate(virtio);
    return true;
}

static bool virtio_post_restore(void *object, struct error **err)
{
    const struct virtio *virtio = object;
    if (virtio->saved_queue_count == virtio->queue_count)
        return true;
    return error_set(
        err, ERROR_USAGE,
        "the saved state of '%s' is of a device with %u queues, and it has %u: give it "
        "as many as it had",
        virtio->device->id, virtio->saved_queue_count, virtio->queue_count);
}

static const struct state_field virtio_fields[] = {
    STATE_UINT(struct virtio, accepted, "accepted"),
    STATE_UINT(struct virtio, offered_select, "offered_select"),
    STATE_UINT(struct virtio, accepted_select, "accepted_select"),
    STATE_UINT(struct virtio, queue_select, "queue_select"),
    STATE_UINT(struct virtio, status, "status"),
    STATE_UINT(struct virtio, config_generation, "config_generation"),
    STATE_UINT(struct virtio, saved_queue_count, "queue_count"),
    STATE_STRUCTS(struct virtio, queues, "queues", &virtqueue_state),
    STATE_END,
};

const struct state_table virtio_state = {"virtio", 2, virtio_fields, NULL, virtio_post_restore};
