/* SPDX-License-Identifier: MIT
 *
 * virtio console (virtio 1.2, 5.3): one port, with the terminal's size.
 *
 * Nothing is buffered here: input the guest has no buffer for is left with the backend, which
 * offers it again once the guest has put buffers into the receive queue.
 *
 * params: chr, pci_slot.
 */
#include <assert.h>

#include "base/bits.h"
#include "base/state.h"
#include "bus/backend.h"
#include "bus/virtio_transport.h"

#define QUEUE_SIZE 64u
/* Far more than any driver writes at once; keeps one request from holding up the rest. */
#define REQUEST_BYTES_MAX MIB

#define VIRTIO_CONSOLE_F_SIZE (UINT64_C(1) << 0)

enum { QUEUE_RECEIVE = 0, QUEUE_TRANSMIT = 1, QUEUE_COUNT = 2 };
/* Configuration space (5.3.4). */
enum { CONFIG_COLUMNS = 0, CONFIG_ROWS = 2, CONFIG_PORTS = 4, CONFIG_BYTES = 12 };

struct virtio_console {
    struct virtio_transport transport; /* first */
    struct char_backend *chr;
    bool input_waits;         /* the backend was refused and must be told when there is room */
    struct virtq_chain chain; /* the request being handled */
};

static struct virtio_console *console_of(struct virtio *virtio)
{
    return CONTAINER_OF(virtio, struct virtio_console, transport.virtio);
}

static bool can_receive(const struct virtio *virtio)
{
    return virtio->active && !virtio->quiesced && virtio->dma;
}

/* Event-loop thread. */
static size_t console_input(void *opaque, const uint8_t *data, size_t size)
{
    struct virtio_console *console = opaque;
    struct virtqueue *queue = &console->transport.virtio.queues[QUEUE_RECEIVE];
    size_t taken = 0;
    pthread_mutex_lock(&console->transport.device.lock);
    for (unsigned turn = 0; turn < QUEUE_SIZE && taken < size; turn++) {
        if (!can_receive(&console->transport.virtio) ||
            !virtqueue_pop(queue, &console->chain, REQUEST_BYTES_MAX))
            break;
        size_t part = virtq_write(&console->chain, 0, data + taken, size - taken);
        console->chain.touched = part;
        virtqueue_push(queue, &console->chain, (uint32_t)part);
        taken += part;
    }
    console->input_waits = taken < size;
    virtqueue_signal(queue);
    pthread_mutex_unlock(&console->transport.device.lock);
    return taken;
}

/* Any thread. */
static void console_resize(void *opaque, uint16_t columns, uint16_t rows)
{
    struct virtio_console *console = opaque;
    struct virtio *virtio = &console->transport.virtio;
    pthread_mutex_lock(&console->transport.device.lock);
    store_le16(virtio->config + CONFIG_COLUMNS, columns);
    store_le16(virtio->config + CONFIG_ROWS, rows);
    if (virtio_has(virtio, VIRTIO_CONSOLE_F_SIZE))
        virtio_config_changed(virtio);
    pthread_mutex_unlock(&console->transport.device.lock);
}

static bool transmit(struct virtio_console *console, struct virtqueue *queue)
{
    struct virtq_chain *chain = &console->chain;
    for (unsigned turn = 0; turn < QUEUE_SIZE; turn++) {
        if (!virtqueue_pop(queue, chain, REQUEST_BYTES_MAX)) {
            virtqueue_signal(queue);
            return false;
        }
        for (unsigned i = 0; i < chain->out_count; i++)
            console->chr->write(console->chr, chain->segment[i].iov_base,
                                chain->segment[i].iov_len);
        chain->touched = 0;
        virtqueue_push(queue, chain, 0);
    }
    virtqueue_signal(queue);
    return true;
}

static bool console_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_console *console = console_of(virtio);
    if (queue->index == QUEUE_TRANSMIT)
        return transmit(console, queue);
    if (console->input_waits && console->chr->resume_input != NULL) {
        console->input_waits = false;
        /* The backend may call console_input() before it returns. */
        pthread_mutex_unlock(&console->transport.device.lock);
        console->chr->resume_input(console->chr);
        pthread_mutex_lock(&console->transport.device.lock);
    }
    return false;
}

static const struct virtio_ops console_ops = {
    .name = "virtio-console",
    .device_id = 3,
    .class_code = 0x078000, /* communication controller, other */
    .queue_count = QUEUE_COUNT,
    .queue_size = QUEUE_SIZE,
    .config_size = CONFIG_BYTES,
    .notify = console_notify,
};

static bool console_realize(struct device *device, const struct device_params *params,
                            struct error **err)
{
    struct virtio_console *console = CONTAINER_OF(device, struct virtio_console, transport.device);
    assert(params->chr != NULL);
    if (!virtio_transport_realize(&console->transport, &console_ops, VIRTIO_CONSOLE_F_SIZE, params,
                                  err))
        return false;
    store_le16(console->transport.virtio.config + CONFIG_COLUMNS, 80);
    store_le16(console->transport.virtio.config + CONFIG_ROWS, 24);
    store_le32(console->transport.virtio.config + CONFIG_PORTS, 1);
    console->chr = params->chr;
    console->chr->device = console;
    console->chr->on_input = console_input;
    console->chr->on_resize = console_resize;
    return true;
}

static void console_unrealize(struct device *device)
{
    struct virtio_console *console = CONTAINER_OF(device, struct virtio_console, transport.device);
    console->chr->on_input = NULL;
    console->chr->on_resize = NULL;
    console->chr->device = NULL;
    virtio_transport_unrealize(device);
}

static const struct state_field console_fields[] = {
    STATE_STRUCT(struct virtio_console, transport, "pci", &virtio_transport_state),
    STATE_END,
};

static const struct state_table console_state = {"virtio-console", 1, console_fields, NULL, NULL};

const struct device_ops device_virtio_console = {
    .name = "virtio-console",
    .size = sizeof(struct virtio_console),
    .realize = console_realize,
    .unrealize = console_unrealize,
    .reset = virtio_transport_reset,
    .state = &console_state,
    .quiesce = virtio_transport_quiesce,
    .unquiesce = virtio_transport_unquiesce,
};
