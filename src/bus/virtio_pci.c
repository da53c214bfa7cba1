/* SPDX-License-Identifier: MIT
 *
 * Registers of the virtio PCI transport. Each structure has a page of the BAR to itself, so
 * that a page of it can be mapped or trapped on its own:
 *
 *     0x0000 common configuration   0x1000 ISR   0x2000 device configuration   0x3000 notify
 *     0x4000 MSI-X table            0x5000 MSI-X pending bits
 *
 * On a board with message-signalled interrupts each queue and configuration changes have a
 * vector of their own.
 *
 * Queue n is notified at 0x3000 + 4 * n, by any write that begins there. Other accesses of a width
 * that a register does not have read as zero and change nothing (4.1.3.1 obliges the driver, not us).
 *
 * Lock: device->lock around each access, except that a notification is fired without it.
 */
#include "bus/virtio_transport.h"

#include <assert.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"

#define VIRTIO_PCI_VENDOR      0x1af4
#define VIRTIO_PCI_DEVICE_BASE 0x1040
#define CAPABILITY_VENDOR      0x09
#define NO_VECTOR              0xffffu

enum { BAR_INDEX = 0, BAR_SIZE = 0x8000, NOTIFY_MULTIPLIER = 4 };
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI_CFG = 5 };

/* struct virtio_pci_cap (4.1.4): offsets of its members. */
enum {
    CAP_LENGTH = 2,
    CAP_TYPE = 3,
    CAP_BAR = 4,
    CAP_OFFSET = 8,
    CAP_SIZE = 12,
    CAP_EXTRA = 16, /* notify multiplier; data window of CAP_PCI_CFG */
    CAP_BYTES_MAX = 20
};

/* struct virtio_pci_common_cfg (4.1.4.3). */
enum common_register {
    COMMON_OFFERED_SELECT = 0x00,
    COMMON_OFFERED = 0x04,
    COMMON_ACCEPTED_SELECT = 0x08,
    COMMON_ACCEPTED = 0x0c,
    COMMON_CONFIG_VECTOR = 0x10,
    COMMON_QUEUE_COUNT = 0x12,
    COMMON_STATUS = 0x14,
    COMMON_GENERATION = 0x15,
    COMMON_QUEUE_SELECT = 0x16,
    COMMON_QUEUE_SIZE = 0x18,
    COMMON_QUEUE_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY_OFFSET = 0x1e,
    COMMON_QUEUE_DESC = 0x20, /* 64-bit ones in two halves */
    COMMON_QUEUE_AVAIL = 0x28,
    COMMON_QUEUE_USED = 0x30,
    COMMON_QUEUE_NOTIFY_DATA = 0x38, /* not offered: reads as zero */
    COMMON_QUEUE_RESET = 0x3a,
    COMMON_BYTES = 0x3c
};

/* Width of the register that starts at an offset; 0: none does. */
static const uint8_t common_width[COMMON_BYTES] = {
    [COMMON_OFFERED_SELECT] = 4,
    [COMMON_OFFERED] = 4,
    [COMMON_ACCEPTED_SELECT] = 4,
    [COMMON_ACCEPTED] = 4,
    [COMMON_CONFIG_VECTOR] = 2,
    [COMMON_QUEUE_COUNT] = 2,
    [COMMON_STATUS] = 1,
    [COMMON_GENERATION] = 1,
    [COMMON_QUEUE_SELECT] = 2,
    [COMMON_QUEUE_SIZE] = 2,
    [COMMON_QUEUE_VECTOR] = 2,
    [COMMON_QUEUE_ENABLE] = 2,
    [COMMON_QUEUE_NOTIFY_OFFSET] = 2,
    [COMMON_QUEUE_DESC] = 4,
    [COMMON_QUEUE_DESC + 4] = 4,
    [COMMON_QUEUE_AVAIL] = 4,
    [COMMON_QUEUE_AVAIL + 4] = 4,
    [COMMON_QUEUE_USED] = 4,
    [COMMON_QUEUE_USED + 4] = 4,
    [COMMON_QUEUE_NOTIFY_DATA] = 2,
    [COMMON_QUEUE_RESET] = 2,
};

/* --- interrupts --- */

static void queue_interrupt(void *opaque, unsigned queue)
{
    struct virtio_transport *transport = opaque;
    if (msix_enabled(&transport->pci.msix))
        msix_fire(&transport->pci.msix, transport->pci.queue_vectors[queue]);
    else
        virtio_transport_raise(transport, VIRTIO_ISR_QUEUE);
}

/* 4.1.4.5.1: the ISR tells of configuration changes in either case. */
static void config_interrupt(void *opaque, unsigned value)
{
    struct virtio_transport *transport = opaque;
    (void)value;
    virtio_transport_raise(transport, VIRTIO_ISR_CONFIG);
    msix_fire(&transport->pci.msix, transport->pci.config_vector);
}

static void forget_vectors(struct virtio_transport *transport)
{
    transport->pci.config_vector = NO_VECTOR;
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        transport->pci.queue_vectors[i] = NO_VECTOR;
}

/* 4.1.5.1.2: the driver reads back whether there is such a vector. */
static uint16_t legal_vector(const struct virtio_transport *transport, uint32_t vector)
{
    return vector < transport->pci.msix.count ? (uint16_t)vector : NO_VECTOR;
}

/* --- common configuration --- */

static uint64_t *queue_address(struct virtqueue *queue, uint64_t offset)
{
    switch (offset & ~UINT64_C(7)) {
    case COMMON_QUEUE_DESC:
        return &queue->desc;
    case COMMON_QUEUE_AVAIL:
        return &queue->avail;
    default:
        return &queue->used;
    }
}

static uint32_t queue_register_read(const struct virtio_transport *transport,
                                    struct virtqueue *queue, uint64_t offset)
{
    switch (offset) {
    case COMMON_QUEUE_SIZE:
        return queue->size;
    case COMMON_QUEUE_VECTOR:
        return transport->pci.queue_vectors[queue->index];
    case COMMON_QUEUE_ENABLE:
        return queue->enabled;
    case COMMON_QUEUE_NOTIFY_OFFSET:
        return queue->index;
    case COMMON_QUEUE_NOTIFY_DATA:
        return 0;
    case COMMON_QUEUE_RESET:
        return queue->resetting;
    default:
        return (uint32_t)(*queue_address(queue, offset) >> (8 * (offset & 4)));
    }
}

static uint32_t common_read(struct virtio_transport *transport, uint64_t offset)
{
    struct virtio *virtio = &transport->virtio;
    struct virtqueue *queue = virtio_queue(virtio);
    switch (offset) {
    case COMMON_OFFERED_SELECT:
        return virtio->offered_select;
    case COMMON_OFFERED:
        return virtio_offered_half(virtio);
    case COMMON_ACCEPTED_SELECT:
        return virtio->accepted_select;
    case COMMON_ACCEPTED:
        return virtio->accepted_select > 1
                   ? 0
                   : (uint32_t)(virtio->accepted >> (32 * virtio->accepted_select));
    case COMMON_CONFIG_VECTOR:
        return transport->pci.config_vector;
    case COMMON_QUEUE_COUNT:
        return virtio->queue_count;
    case COMMON_STATUS:
        return virtio->status;
    case COMMON_GENERATION:
        return virtio->config_generation;
    case COMMON_QUEUE_SELECT:
        return virtio->queue_select;
    default: /* 4.1.4.3.1: a queue that does not exist reads as zero */
        return queue != NULL ? queue_register_read(transport, queue, offset) : 0;
    }
}

static void queue_register_write(struct virtio_transport *transport, struct virtqueue *queue,
                                 uint64_t offset, uint32_t value)
{
    if (offset == COMMON_QUEUE_VECTOR)
        transport->pci.queue_vectors[queue->index] = legal_vector(transport, value);
    if (offset == COMMON_QUEUE_RESET && value == 1 && queue->enabled &&
        virtio_has(&transport->virtio, VIRTIO_F_RING_RESET)) {
        transport->pci.queue_vectors[queue->index] = NO_VECTOR;
        virtio_reset_queue(&transport->virtio, queue);
    }
    if (queue->enabled || queue->resetting || offset == COMMON_QUEUE_VECTOR ||
        offset == COMMON_QUEUE_NOTIFY_OFFSET || offset == COMMON_QUEUE_NOTIFY_DATA ||
        offset == COMMON_QUEUE_RESET)
        return;
    if (offset == COMMON_QUEUE_SIZE) {
        queue->size = (uint16_t)value; /* judged when the queue is enabled */
    } else if (offset == COMMON_QUEUE_ENABLE) {
        if (value == 1)
            virtio_enable_queue(&transport->virtio, queue);
    } else {
        uint64_t *address = queue_address(queue, offset);
        *address = bits_set(*address, (unsigned)(8 * (offset & 4)), 32, value);
    }
}

static void common_write(struct virtio_transport *transport, uint64_t offset, uint32_t value)
{
    struct virtio *virtio = &transport->virtio;
    struct virtqueue *queue = virtio_queue(virtio);
    if (virtio->resetting) /* 2.4.2: the driver has to wait until it reads status 0 */
        return;
    switch (offset) {
    case COMMON_OFFERED_SELECT:
        virtio->offered_select = value;
        break;
    case COMMON_ACCEPTED_SELECT:
        virtio->accepted_select = value;
        break;
    case COMMON_ACCEPTED:
        virtio_set_accepted(virtio, value);
        break;
    case COMMON_STATUS:
        virtio_transport_set_status(transport, (uint8_t)value);
        break;
    case COMMON_QUEUE_SELECT:
        virtio->queue_select = (uint16_t)value;
        break;
    case COMMON_CONFIG_VECTOR:
        transport->pci.config_vector = legal_vector(transport, value);
        break;
    case COMMON_OFFERED:
    case COMMON_QUEUE_COUNT:
    case COMMON_GENERATION:
        break;
    default:
        if (queue != NULL)
            queue_register_write(transport, queue, offset, value);
    }
}

/* --- the structures in the BAR --- */

static uint32_t common_region_read(struct virtio_transport *transport, uint64_t offset,
                                   unsigned size)
{
    return offset < COMMON_BYTES && common_width[offset] == size ? common_read(transport, offset)
                                                                 : 0;
}

static void common_region_write(struct virtio_transport *transport, uint64_t offset, uint32_t value,
                                unsigned size)
{
    if (offset < COMMON_BYTES && common_width[offset] == size)
        common_write(transport, offset, value);
}

static uint32_t isr_region_read(struct virtio_transport *transport, uint64_t offset, unsigned size)
{
    (void)size;
    if (offset != 0)
        return 0;
    uint8_t isr = transport->isr;
    virtio_transport_acknowledge(transport, isr);
    return isr;
}

static uint32_t table_region_read(struct virtio_transport *transport, uint64_t offset,
                                  unsigned size)
{
    return size == 4 ? msix_table_read(&transport->pci.msix, offset) : 0;
}

static void table_region_write(struct virtio_transport *transport, uint64_t offset, uint32_t value,
                               unsigned size)
{
    if (size == 4)
        msix_table_write(&transport->pci.msix, offset, value);
}

static uint32_t pending_region_read(struct virtio_transport *transport, uint64_t offset,
                                    unsigned size)
{
    return size == 4 ? msix_pending_read(&transport->pci.msix, offset) : 0;
}

/* A page of the BAR and the virtio capability that points to it, if one does. */
static const struct region {
    uint32_t offset;
    uint8_t capability;
    uint32_t (*read)(struct virtio_transport *transport, uint64_t offset, unsigned size);
    void (*write)(struct virtio_transport *transport, uint64_t offset, uint32_t value,
                  unsigned size);
} regions[] = {
    {0x0000, CAP_COMMON, common_region_read, common_region_write},
    {0x1000, CAP_ISR, isr_region_read, NULL},
    {0x2000, CAP_DEVICE, virtio_transport_config_read, virtio_transport_config_write},
    {0x3000, CAP_NOTIFY, NULL, NULL}, /* written without the lock: see bar_write() */
    {0x4000, 0, table_region_read, table_region_write},
    {0x5000, 0, pending_region_read, NULL},
    {0x6000, 0, NULL, NULL},
    {0x7000, 0, NULL, NULL},
};
enum { REGION_SHIFT = 12, REGION_SIZE = 0x1000, NOTIFY_REGION = 3, TABLE_REGION, PENDING_REGION };

static uint32_t region_bytes(const struct virtio *virtio, uint8_t capability)
{
    switch (capability) {
    case CAP_COMMON:
        return COMMON_BYTES;
    case CAP_ISR:
        return 1;
    case CAP_NOTIFY:
        return NOTIFY_MULTIPLIER * virtio->queue_count;
    default:
        return virtio->ops->config_size;
    }
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    struct virtio_transport *transport = opaque;
    if (size == 8)
        return bar_read(opaque, offset, 4) | bar_read(opaque, offset + 4, 4) << 32;
    const struct region *region = &regions[offset >> REGION_SHIFT];
    if (region->read == NULL)
        return 0;
    pthread_mutex_lock(&transport->device.lock);
    uint32_t value = region->read(transport, offset % REGION_SIZE, size);
    pthread_mutex_unlock(&transport->device.lock);
    return value;
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio_transport *transport = opaque;
    unsigned index = (unsigned)(offset >> REGION_SHIFT);
    if (index == NOTIFY_REGION) {
        uint64_t queue = offset % REGION_SIZE / NOTIFY_MULTIPLIER;
        if (offset % NOTIFY_MULTIPLIER == 0 && queue < transport->virtio.queue_count)
            notifier_fire(&transport->virtio.queues[queue].notify, (unsigned)queue);
        return;
    }
    if (size == 8) {
        bar_write(opaque, offset, (uint32_t)value, 4);
        bar_write(opaque, offset + 4, value >> 32, 4);
        return;
    }
    if (regions[index].write == NULL)
        return;
    pthread_mutex_lock(&transport->device.lock);
    regions[index].write(transport, offset % REGION_SIZE, (uint32_t)value, size);
    pthread_mutex_unlock(&transport->device.lock);
}

static const struct mem_io_ops bar_ops = {bar_read, bar_write, 1, 8};

/* --- configuration space --- */

/* Where VIRTIO_PCI_CAP_PCI_CFG points (4.1.4.9), if that is an access the BAR can take. */
static bool window_target(const struct virtio_transport *transport, uint32_t *offset,
                          unsigned *size)
{
    const uint8_t *cap = transport->pci.function.config + transport->pci.cfg_offset;
    *offset = load_le32(cap + CAP_OFFSET);
    uint32_t length = load_le32(cap + CAP_SIZE);
    *size = (unsigned)length;
    return cap[CAP_BAR] == BAR_INDEX && (length == 1 || length == 2 || length == 4) &&
           *offset % length == 0 && range_within(*offset, length, BAR_SIZE);
}

static bool touches_window(const struct virtio_transport *transport, unsigned offset, unsigned size)
{
    unsigned data = transport->pci.cfg_offset + CAP_EXTRA;
    return offset < data + 4 && offset + size > data && size <= 4;
}

static void config_read(struct pci_function *function, unsigned offset, unsigned size)
{
    struct virtio_transport *transport = function->opaque;
    uint32_t target;
    unsigned width;
    if (touches_window(transport, offset, size) && window_target(transport, &target, &width))
        store_le32(function->config + transport->pci.cfg_offset + CAP_EXTRA,
                   (uint32_t)bar_read(transport, target, width));
}

static void config_written(struct pci_function *function, unsigned offset, unsigned size)
{
    struct virtio_transport *transport = function->opaque;
    uint32_t target;
    unsigned width;
    if (offset <= PCI_REG_COMMAND && offset + size > PCI_REG_COMMAND)
        virtio_set_dma(&transport->virtio, pci_may_master(function));
    msix_config_written(&transport->pci.msix);
    if (touches_window(transport, offset, size) && window_target(transport, &target, &width)) {
        uint32_t data = load_le32(function->config + transport->pci.cfg_offset + CAP_EXTRA);
        bar_write(transport, target, bits_get(data, 0, 8 * width), width);
    }
}

static const struct pci_function_ops function_ops = {config_read, config_written};

static void add_capabilities(struct virtio_transport *transport)
{
    for (size_t i = 0; i < ARRAY_SIZE(regions); i++) {
        uint8_t cap[CAP_BYTES_MAX] = {0};
        uint32_t bytes = region_bytes(&transport->virtio, regions[i].capability);
        unsigned length = regions[i].capability == CAP_NOTIFY ? CAP_EXTRA + 4 : CAP_EXTRA;
        if (bytes == 0 || regions[i].capability == 0)
            continue;
        cap[CAP_LENGTH] = (uint8_t)length;
        cap[CAP_TYPE] = regions[i].capability;
        cap[CAP_BAR] = BAR_INDEX;
        store_le32(cap + CAP_OFFSET, regions[i].offset);
        store_le32(cap + CAP_SIZE, bytes);
        if (regions[i].capability == CAP_NOTIFY)
            store_le32(cap + CAP_EXTRA, NOTIFY_MULTIPLIER);
        pci_capability_add(&transport->pci.function, CAPABILITY_VENDOR, cap, NULL, length);
    }
    uint8_t cap[CAP_BYTES_MAX] = {[CAP_LENGTH] = CAP_BYTES_MAX, [CAP_TYPE] = CAP_PCI_CFG};
    uint8_t writable[CAP_BYTES_MAX] = {[CAP_BAR] = 0xff};
    memset(writable + CAP_OFFSET, 0xff, CAP_BYTES_MAX - CAP_OFFSET);
    transport->pci.cfg_offset = pci_capability_add(&transport->pci.function, CAPABILITY_VENDOR, cap,
                                                   writable, CAP_BYTES_MAX);
}

/* --- life --- */

/* Wherever the BAR goes, they go with it. */
static void place_doorbells(struct virtio_transport *transport)
{
    struct virtio *virtio = &transport->virtio;
    struct mem_io *io = &transport->pci.function.bars[BAR_INDEX].io;
    for (unsigned i = 0; i < virtio->doorbell_count; i++)
        virtio->doorbells[i].offset = regions[NOTIFY_REGION].offset + NOTIFY_MULTIPLIER * i;
    io->doorbells = virtio->doorbells;
    io->doorbell_count = virtio->doorbell_count;
}

static bool pci_transport_plug(struct virtio_transport *transport,
                               const struct device_params *params, struct error **err)
{
    struct virtio_pci *pci = &transport->pci;
    const struct device_env *env = transport->device.env;
    const struct virtio_ops *ops = transport->virtio.ops;
    if (env->pci == NULL)
        return error_set(err, ERROR_INTERNAL, "this machine has no PCI host bridge to plug into");
    pci_function_init(&pci->function,
                      &(struct pci_identity){
                          .vendor = VIRTIO_PCI_VENDOR,
                          .device = (uint16_t)(VIRTIO_PCI_DEVICE_BASE + ops->device_id),
                          .subsystem_vendor = VIRTIO_PCI_VENDOR,
                          .subsystem = (uint16_t)(0x40 + ops->device_id),
                          .class_code = ops->class_code,
                          .revision = 1, /* 4.1.2.1: not transitional */
                          .pin = 1,
                      });
    pci->function.ops = &function_ops;
    pci->function.opaque = transport;
    pci_bar_add(&pci->function, BAR_INDEX, ops->name, BAR_SIZE, PCI_BAR_64BIT, &bar_ops, transport);
    place_doorbells(transport);
    add_capabilities(transport);
    msix_init(&pci->msix, &pci->function,
              env->pci->msi.send != NULL ? transport->virtio.queue_count + 1u : 0, BAR_INDEX,
              regions[TABLE_REGION].offset, regions[PENDING_REGION].offset);
    forget_vectors(transport);
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        notifier_bind(&transport->virtio.queues[i].interrupt, queue_interrupt, transport);
    notifier_bind(&transport->virtio.config_interrupt, config_interrupt, transport);
    if (pci_plug(env->pci, &pci->function, params->pci_slot, err))
        return true;
    msix_destroy(&pci->msix);
    return false;
}

static void pci_transport_unplug(struct virtio_transport *transport)
{
    pci_unplug(&transport->pci.function);
}

static void pci_transport_destroy(struct virtio_transport *transport)
{
    msix_destroy(&transport->pci.msix);
}

static void pci_transport_set_line(struct virtio_transport *transport, bool level)
{
    pci_set_intx(&transport->pci.function, level);
}

static void pci_transport_reset(struct virtio_transport *transport)
{
    msix_reset(&transport->pci.msix);
    pci_function_reset(&transport->pci.function);
}

static bool pci_transport_restored(struct virtio_transport *transport, struct error **err)
{
    struct virtio_pci *pci = &transport->pci;
    (void)err;
    pci->config_vector = legal_vector(transport, pci->config_vector);
    for (unsigned i = 0; i < VIRTIO_QUEUE_MAX; i++)
        pci->queue_vectors[i] = legal_vector(transport, pci->queue_vectors[i]);
    return true;
}

const struct virtio_transport_ops virtio_pci_transport = {
    .plug = pci_transport_plug,
    .unplug = pci_transport_unplug,
    .destroy = pci_transport_destroy,
    .set_line = pci_transport_set_line,
    .forget = forget_vectors,
    .reset = pci_transport_reset,
    .restored = pci_transport_restored,
};
