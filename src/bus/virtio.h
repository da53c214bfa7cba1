/* SPDX-License-Identifier: MIT
 *
 * A virtio device without its transport (virtio 1.2, 2 and 3.1): status, feature negotiation,
 * queue set-up, configuration space. A transport (bus/virtio_transport.h) turns register accesses
 * into the calls of the second half of this file; a device consists of a struct virtio_ops.
 *
 *     DRIVER_OK  → activate()    the device may use its queues now
 *     queue notification → notify(), on the event-loop thread, several coalesced into one;
 *                          in deterministic mode on the vCPU's thread, before its store ends
 *     reset      → deactivate()  requests end; the driver reads status 0 once nothing of the
 *                          device touches guest memory any more (2.4.2: it has to wait for that)
 *
 * The queue's `notify` object is where a notification comes in that a vCPU's thread brings; its sink
 * is virtio_notified(). Where an engine takes doorbells (mem/mem.h) a queue has one besides, which the
 * transport puts where the driver writes, and for which the loop waits: what comes in there goes the
 * same way, and waits in the same places (a pause, bus mastering). Nothing of it is state, as all queues
 * count as notified after a pause or where they are restored. The queue's `interrupt` and
 * `config_interrupt` are bound by the transport.
 *
 * A driver that breaks the rules gets DEVICE_NEEDS_RESET, a configuration interrupt and a
 * log line; all queues stand still until it resets the device (2.1.2).
 *
 * Threads: everything here is protected by device->lock, held by the caller (exceptions are
 * marked), and by the device while it uses its queues. All ops are called with it held.
 */
#ifndef TRAPEZE_BUS_VIRTIO_H
#define TRAPEZE_BUS_VIRTIO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "bus/device.h"
#include "bus/virtqueue.h"
#include "mem/mem.h"

#define VIRTIO_QUEUE_MAX  32 /* one bit of `notified` each */
#define VIRTIO_CONFIG_MAX 136

enum {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128
};

/* Feature bits every device has (6); devices add their own, from bit 0. */
#define VIRTIO_F_INDIRECT_DESC (UINT64_C(1) << 28)
#define VIRTIO_F_EVENT_IDX     (UINT64_C(1) << 29)
#define VIRTIO_F_VERSION_1     (UINT64_C(1) << 32)
#define VIRTIO_F_RING_PACKED   (UINT64_C(1) << 34)
#define VIRTIO_F_RING_RESET    (UINT64_C(1) << 40)

struct virtio;

struct virtio_activation {
    struct mem_space *mem;
    struct virtqueue *queues; /* those the driver did not enable stay empty */
    unsigned queue_count;
    uint64_t features; /* what was negotiated */
};

struct virtio_ops {
    const char *name;     /* for the log and PCI BARs: "virtio-blk" */
    uint16_t device_id;   /* 5: 1 network, 2 block, 3 console, 4 entropy ... */
    uint32_t class_code;  /* what it is as a PCI function: class, subclass, interface */
    uint16_t queue_count; /* up to VIRTIO_QUEUE_MAX; device_params.queues adds to it ... */
    uint16_t queue_step;  /* ... so many for each queue (pair) beyond the first */
    uint16_t queue_size;  /* of each, a power of two up to VIRTQ_SIZE_MAX */
    unsigned config_size; /* bytes of virtio->config; 0: none */
    /* Both may be NULL: a device that keeps nothing from one notify() to the next. Neither
     * waits for anything. deactivate() returns whether the device is through with guest memory;
     * if not, it calls virtio_deactivated() when it is, and pushes nothing in between. */
    void (*activate)(struct virtio *virtio, const struct virtio_activation *activation);
    bool (*deactivate)(struct virtio *virtio);
    /* The same for one queue (2.6.1), which is not enabled any more; it calls
     * virtio_queue_deactivated(). NULL: the driver is not offered that. */
    bool (*reset_queue)(struct virtio *virtio, struct virtqueue *queue);
    /* There may be something in the queue. True: there is still more, call again soon
     * (whoever has work without end lets others have a turn). May release the lock and take
     * it again, and must then expect a reset in between. */
    bool (*notify)(struct virtio *virtio, struct virtqueue *queue);
    /* The driver writes a byte of the configuration space, offset below config_size. NULL: it
     * has no field that a driver may write. */
    void (*config_write)(struct virtio *virtio, unsigned offset, uint8_t value);
};

/* Who waits for a queue's doorbell. */
struct virtio_ear {
    struct virtio *virtio;
    struct loop_watch *watch;
};

struct virtio {
    const struct virtio_ops *ops;
    struct device *device; /* its lock and env; the device that embeds this */
    uint64_t offered;      /* features; constant once realized */
    uint64_t accepted;
    uint32_t offered_select, accepted_select;
    uint16_t queue_select;
    uint8_t status;
    uint8_t config_generation;
    uint16_t queue_count, saved_queue_count; /* constant; of the saved state */
    bool active;    /* between activate() and deactivate() */
    bool resetting; /* between deactivate() and virtio_deactivated(); registers ignore writes */
    bool quiesced; /* the machine is paused: notifications wait for unquiesce */
    bool dma;      /* the transport lets the device use memory (PCI bus master) */
    uint8_t config[VIRTIO_CONFIG_MAX]; /* the device's, little-endian */
    struct virtqueue queues[VIRTIO_QUEUE_MAX];
    struct notifier config_interrupt;
    _Atomic uint32_t notified; /* queues with a notification not yet passed on; any thread */
    /* Of the first queues, all if nothing is lacking: where they are is the transport's to say, before it
     * maps its registers. */
    unsigned doorbell_count;
    struct mem_doorbell doorbells[VIRTIO_QUEUE_MAX];
    struct virtio_ear ears[VIRTIO_QUEUE_MAX];
    struct log_limit log_limit;
};

/* --- for devices --- */

/* Another version of the configuration space is in virtio->config: tells the driver. */
void virtio_config_changed(struct virtio *virtio);
/* What deactivate() left under way has ended: completes the reset. */
void virtio_deactivated(struct virtio *virtio);
void virtio_queue_deactivated(struct virtio *virtio, struct virtqueue *queue);
/* The driver broke a rule that only the device can see; `what` completes "the driver: ...". */
void virtio_violation(struct virtio *virtio, const char *what);
static inline bool virtio_has(const struct virtio *virtio, uint64_t feature)
{
    return (virtio->accepted & feature) != 0;
}

/* --- for transports --- */

/* `features`: the device's own bits; `queues`: as in struct device_params. The loop's thread. */
void virtio_init(struct virtio *virtio, struct device *device, const struct virtio_ops *ops,
                 unsigned queues, uint64_t features);
void virtio_destroy(struct virtio *virtio); /* the loop's thread, machine quiesced */
/* May take until virtio_deactivated(); the status is not 0 before. */
void virtio_reset(struct virtio *virtio);
void virtio_set_status(struct virtio *virtio, uint8_t status);  /* not 0: that is a reset */
void virtio_set_accepted(struct virtio *virtio, uint32_t half); /* by accepted_select */
uint32_t virtio_offered_half(const struct virtio *virtio);
/* The selected queue, or NULL if there is no such queue. */
struct virtqueue *virtio_queue(struct virtio *virtio);
void virtio_enable_queue(struct virtio *virtio, struct virtqueue *queue);
/* May take until virtio_queue_deactivated(): then `resetting` is false again. */
void virtio_reset_queue(struct virtio *virtio, struct virtqueue *queue);
/* Around a pause (struct device_ops.quiesce); without the lock. After quiesce no notify()
 * runs until unquiesce, which passes on what was missed. */
void virtio_quiesce(struct virtio *virtio);
void virtio_unquiesce(struct virtio *virtio);
/* Checks what virtio_state restored and activates a device that was in use. */
bool virtio_restored(struct virtio *virtio, struct error **err);
void virtio_set_dma(struct virtio *virtio, bool allowed); /* without the lock */

/* Sink of virtqueue.notify; opaque: the struct virtio. Any thread, without the lock. */
void virtio_notified(void *opaque, unsigned queue);

extern const struct state_table virtio_state;

#endif
