/* SPDX-License-Identifier: MIT
 *
 * Registers of the virtio MMIO transport (virtio 1.2, 4.2.2): aligned 32-bit ones below 0x100,
 * the device's configuration space from there on. Accesses of another width to the former read as
 * zero and change nothing (4.2.2.2 obliges the driver, not us).
 *
 * The line is high while InterruptStatus is not 0.
 *
 * Lock: device->lock around each access, except that a notification is fired without it.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "bus/virtio_transport.h"

#define MAGIC   0x74726976u /* "virt" */
#define VERSION 2u
#define VENDOR  0x1af4u

enum mmio_register {
    REGISTER_MAGIC = 0x000,
    REGISTER_VERSION = 0x004,
    REGISTER_DEVICE_ID = 0x008,
    REGISTER_VENDOR_ID = 0x00c,
    REGISTER_OFFERED = 0x010,
    REGISTER_OFFERED_SELECT = 0x014,
    REGISTER_ACCEPTED = 0x020,
    REGISTER_ACCEPTED_SELECT = 0x024,
    REGISTER_QUEUE_SELECT = 0x030,
    REGISTER_QUEUE_SIZE_MAX = 0x034,
    REGISTER_QUEUE_SIZE = 0x038,
    REGISTER_QUEUE_READY = 0x044,
    REGISTER_QUEUE_NOTIFY = 0x050,
    REGISTER_INTERRUPT_STATUS = 0x060,
    REGISTER_INTERRUPT_ACK = 0x064,
    REGISTER_STATUS = 0x070,
    REGISTER_QUEUE_DESC = 0x080, /* each in two halves */
    REGISTER_QUEUE_DRIVER = 0x090,
    REGISTER_QUEUE_DEVICE = 0x0a0,
    REGISTER_SHARED_LENGTH = 0x0b0, /* of the selected shared memory; */
    REGISTER_SHARED_BASE = 0x0b8,   /* all ones: there is none */
    REGISTER_QUEUE_RESET = 0x0c0,
    REGISTER_GENERATION = 0x0fc,
    REGISTER_CONFIG = 0x100
};

/* Which half of which address a register is; NULL: of none. */
static uint64_t *queue_address(struct virtqueue *queue, uint64_t offset, unsigned *shift)
{
    *shift = (unsigned)(8 * (offset & 4));
    switch (offset & ~UINT64_C(4)) {
    case REGISTER_QUEUE_DESC:
        return &queue->desc;
    case REGISTER_QUEUE_DRIVER:
        return &queue->avail;
    case REGISTER_QUEUE_DEVICE:
        return &queue->used;
    default:
        return NULL;
    }
}

static uint32_t register_read(struct virtio_transport *transport, uint64_t offset)
{
    struct virtio *virtio = &transport->virtio;
    const struct virtqueue *queue = virtio_queue(virtio);
    switch (offset) {
    case REGISTER_MAGIC:
        return MAGIC;
    case REGISTER_VERSION:
        return VERSION;
    case REGISTER_DEVICE_ID:
        return virtio->ops->device_id;
    case REGISTER_VENDOR_ID:
        return VENDOR;
    case REGISTER_OFFERED:
        return virtio_offered_half(virtio);
    case REGISTER_QUEUE_SIZE_MAX:
        return queue != NULL ? queue->size_max : 0;
    case REGISTER_QUEUE_READY: /* also while what was under way ends */
        return queue != NULL && (queue->enabled || queue->resetting);
    case REGISTER_QUEUE_RESET:
        return queue != NULL && queue->resetting;
    case REGISTER_INTERRUPT_STATUS:
        return transport->isr;
    case REGISTER_STATUS:
        return virtio->status;
    case REGISTER_SHARED_LENGTH:
    case REGISTER_SHARED_LENGTH + 4:
    case REGISTER_SHARED_BASE:
    case REGISTER_SHARED_BASE + 4:
        return UINT32_MAX;
    case REGISTER_GENERATION:
        return virtio->config_generation;
    default: /* those that can only be written, and none */
        return 0;
    }
}

static void queue_write(struct virtio *virtio, struct virtqueue *queue, uint64_t offset,
                        uint32_t value)
{
    unsigned shift;
    uint64_t *address = queue_address(queue, offset, &shift);
    bool stop = (offset == REGISTER_QUEUE_READY && value == 0) ||
                (offset == REGISTER_QUEUE_RESET && value == 1);
    if (stop) /* of a device that cannot stop a queue QueueReady stays 1 */
        virtio_reset_queue(virtio, queue);
    if (stop || queue->enabled || queue->resetting)
        return;
    if (offset == REGISTER_QUEUE_SIZE)
        queue->size = value <= UINT16_MAX ? (uint16_t)value : 0; /* judged when it is enabled */
    else if (offset == REGISTER_QUEUE_READY && value == 1)
        virtio_enable_queue(virtio, queue);
    else if (address != NULL)
        *address = bits_set(*address, shift, 32, value);
}

static void register_write(struct virtio_transport *transport, uint64_t offset, uint32_t value)
{
    struct virtio *virtio = &transport->virtio;
    struct virtqueue *queue = virtio_queue(virtio);
    if (virtio->resetting) /* 2.4.2: the driver has to wait until it reads status 0 */
        return;
    switch (offset) {
    case REGISTER_OFFERED_SELECT:
        virtio->offered_select = value;
        break;
    case REGISTER_ACCEPTED_SELECT:
        virtio->accepted_select = value;
        break;
    case REGISTER_ACCEPTED:
        virtio_set_accepted(virtio, value);
        break;
    case REGISTER_QUEUE_SELECT: /* what does not fit selects none */
        virtio->queue_select = value < VIRTIO_QUEUE_MAX ? (uint16_t)value : UINT16_MAX;
        break;
    case REGISTER_INTERRUPT_ACK:
        virtio_transport_acknowledge(transport, (uint8_t)value);
        break;
    case REGISTER_STATUS:
        virtio_transport_set_status(transport, (uint8_t)value);
        break;
    default:
        if (queue != NULL)
            queue_write(virtio, queue, offset, value);
    }
}

static uint64_t mmio_read(void *opaque, uint64_t offset, unsigned size)
{
    struct virtio_transport *transport = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&transport->device.lock);
    if (offset >= REGISTER_CONFIG) {
        unsigned half = size == 8 ? 4 : size;
        value = virtio_transport_config_read(transport, offset - REGISTER_CONFIG, half);
        if (size == 8)
            value |=
                (uint64_t)virtio_transport_config_read(transport, offset - REGISTER_CONFIG + 4, 4)
                << 32;
    } else if (size == 4) {
        value = register_read(transport, offset);
    }
    pthread_mutex_unlock(&transport->device.lock);
    return value;
}

static void mmio_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio_transport *transport = opaque;
    if (offset == REGISTER_QUEUE_NOTIFY) {
        if (size == 4 && value < transport->virtio.queue_count)
            notifier_fire(&transport->virtio.queues[value].notify, (unsigned)value);
        return;
    }
    pthread_mutex_lock(&transport->device.lock);
    if (offset >= REGISTER_CONFIG) {
        virtio_transport_config_write(transport, offset - REGISTER_CONFIG, (uint32_t)value,
                                      size == 8 ? 4 : size);
        if (size == 8)
            virtio_transport_config_write(transport, offset - REGISTER_CONFIG + 4,
                                          (uint32_t)(value >> 32), 4);
    } else if (size == 4) {
        register_write(transport, offset, (uint32_t)value);
    }
    pthread_mutex_unlock(&transport->device.lock);
}

static const struct mem_io_ops io_ops = {mmio_read, mmio_write, 1, 8};

/* --- interrupts --- */

static void queue_interrupt(void *opaque, unsigned queue)
{
    (void)queue;
    virtio_transport_raise(opaque, VIRTIO_ISR_QUEUE);
}

static void config_interrupt(void *opaque, unsigned value)
{
    (void)value;
    virtio_transport_raise(opaque, VIRTIO_ISR_CONFIG);
}

static void mmio_transport_set_line(struct virtio_transport *transport, bool level)
{
    irq_line_set(&transport->mmio.irq, level);
}

/* --- life --- */

/* QueueNotify is one register for all queues, which tells them apart by what is written. */
static void place_doorbells(struct virtio_transport *transport)
{
    struct virtio *virtio = &transport->virtio;
    for (unsigned i = 0; i < virtio->doorbell_count; i++) {
        virtio->doorbells[i].offset = REGISTER_QUEUE_NOTIFY;
        virtio->doorbells[i].size = 4;
        virtio->doorbells[i].value = i;
    }
}

static bool mmio_transport_plug(struct virtio_transport *transport,
                                const struct device_params *params, struct error **err)
{
    const struct device_env *env = transport->device.env;
    struct virtio_slots *slots = env->virtio_slots;
    struct virtio_mmio *mmio = &transport->mmio;
    (void)params;
    unsigned slot = 0;
    while (slot < VIRTIO_SLOT_COUNT && (slots->taken & 1u << slot) != 0)
        slot++;
    if (slot == VIRTIO_SLOT_COUNT)
        return error_set(err, ERROR_USAGE,
                         "a machine without PCI has room for %d virtio devices: use fewer, or "
                         "leave --virtio mmio out",
                         VIRTIO_SLOT_COUNT);
    mmio->slot = slot;
    irq_line_bind(&mmio->irq, slots->irq.set, slots->irq.sink, slots->irq.input + slot);
    mmio->io = (struct mem_io){.name = transport->virtio.ops->name,
                               .gpa = slots->gpa + slot * VIRTIO_SLOT_SIZE,
                               .size = VIRTIO_SLOT_SIZE,
                               .ops = &io_ops,
                               .opaque = transport,
                               .doorbells = transport->virtio.doorbells,
                               .doorbell_count = transport->virtio.doorbell_count};
    place_doorbells(transport);
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        notifier_bind(&transport->virtio.queues[i].interrupt, queue_interrupt, transport);
    notifier_bind(&transport->virtio.config_interrupt, config_interrupt, transport);
    transport->virtio.dma =
        true; /* nothing forbids it, as a PCI function's command register does */
    if (!mem_io_add(env->mem, &mmio->io))
        return error_set(err, ERROR_INTERNAL, "its registers overlap another device's");
    slots->taken |= 1u << slot;
    return true;
}

static void mmio_transport_unplug(struct virtio_transport *transport)
{
    const struct device_env *env = transport->device.env;
    mem_io_remove(env->mem, &transport->mmio.io);
    irq_line_set(&transport->mmio.irq, false);
    env->virtio_slots->taken &= ~(1u << transport->mmio.slot);
}

/* The interrupt controller may have been restored before or after: it is told what holds. */
static bool mmio_transport_restored(struct virtio_transport *transport, struct error **err)
{
    (void)err;
    transport->isr &= VIRTIO_ISR_QUEUE | VIRTIO_ISR_CONFIG;
    irq_line_set(&transport->mmio.irq, transport->isr != 0);
    return true;
}

const struct virtio_transport_ops virtio_mmio_transport = {
    .plug = mmio_transport_plug,
    .unplug = mmio_transport_unplug,
    .set_line = mmio_transport_set_line,
    .restored = mmio_transport_restored,
};
