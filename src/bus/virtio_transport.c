/* SPDX-License-Identifier: MIT
 *
 * What virtio's transports have in common.
 */
#include "bus/virtio_transport.h"

#include <assert.h>

#include "base/bits.h"
#include "base/state.h"

static struct virtio_transport *transport_of(struct device *device)
{
    return CONTAINER_OF(device, struct virtio_transport, device);
}

/* --- interrupts, status, configuration space --- */

void virtio_transport_raise(struct virtio_transport *transport, uint8_t isr)
{
    transport->isr |= isr;
    transport->ops->set_line(transport, true);
}

void virtio_transport_acknowledge(struct virtio_transport *transport, uint8_t isr)
{
    transport->isr &= (uint8_t)~isr;
    transport->ops->set_line(transport, transport->isr != 0);
}

static void forget(struct virtio_transport *transport)
{
    if (transport->ops->forget != NULL)
        transport->ops->forget(transport);
    virtio_transport_acknowledge(transport, transport->isr);
}

void virtio_transport_set_status(struct virtio_transport *transport, uint8_t status)
{
    if (status != 0) {
        virtio_set_status(&transport->virtio, status);
    } else {
        virtio_reset(&transport->virtio);
        forget(transport);
    }
}

uint32_t virtio_transport_config_read(struct virtio_transport *transport, uint64_t offset,
                                      unsigned size)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        if (offset + i < transport->virtio.ops->config_size)
            value |= (uint32_t)transport->virtio.config[offset + i] << (8 * i);
    }
    return value;
}

void virtio_transport_config_write(struct virtio_transport *transport, uint64_t offset,
                                   uint32_t value, unsigned size)
{
    const struct virtio_ops *ops = transport->virtio.ops;
    for (unsigned i = 0; ops->config_write != NULL && i < size; i++) {
        if (offset + i < ops->config_size)
            ops->config_write(&transport->virtio, (unsigned)offset + i,
                              (uint8_t)(value >> (8 * i)));
    }
}

/* --- life --- */

bool virtio_transport_realize(struct virtio_transport *transport, const struct virtio_ops *ops,
                              uint64_t features, const struct device_params *params,
                              struct error **err)
{
    struct device *device = &transport->device;
    bool slot = device->env->virtio_slots != NULL && params->pci_slot == PCI_SLOT_ANY;
    transport->ops = slot ? &virtio_mmio_transport : &virtio_pci_transport;
    virtio_init(&transport->virtio, device, ops, params->queues, features);
    if (transport->ops->plug(transport, params, err))
        return true;
    virtio_destroy(&transport->virtio);
    return false;
}

void virtio_transport_unrealize(struct device *device)
{
    struct virtio_transport *transport = transport_of(device);
    transport->ops->unplug(transport);
    pthread_mutex_lock(&device->lock);
    virtio_destroy(&transport->virtio);
    pthread_mutex_unlock(&device->lock);
    if (transport->ops->destroy != NULL)
        transport->ops->destroy(transport);
}

void virtio_transport_reset(struct device *device)
{
    struct virtio_transport *transport = transport_of(device);
    pthread_mutex_lock(&device->lock);
    virtio_reset(&transport->virtio);
    assert(!transport->virtio.resetting && "a machine is quiesced when it is reset");
    transport->virtio.config_generation = 0;
    forget(transport);
    pthread_mutex_unlock(&device->lock);
    if (transport->ops->reset != NULL)
        transport->ops->reset(transport);
}

void virtio_transport_quiesce(struct device *device)
{
    virtio_quiesce(&transport_of(device)->virtio);
}

void virtio_transport_unquiesce(struct device *device)
{
    virtio_unquiesce(&transport_of(device)->virtio);
}

/* --- state --- */

static bool transport_restored(void *object, struct error **err)
{
    struct virtio_transport *transport = object;
    return transport->ops->restored(transport, err) && virtio_restored(&transport->virtio, err);
}

static const struct state_field transport_fields[] = {
    STATE_STRUCT(struct virtio_transport, virtio, "virtio", &virtio_state),
    STATE_STRUCT(struct virtio_transport, pci.msix, "msix", &msix_state),
    STATE_STRUCT(struct virtio_transport, pci.function, "function", &pci_function_state),
    STATE_UINT(struct virtio_transport, pci.config_vector, "config-vector"),
    STATE_UINTS(struct virtio_transport, pci.queue_vectors, "queue-vectors"),
    STATE_UINT(struct virtio_transport, isr, "isr"),
    STATE_END,
};

const struct state_table virtio_transport_state = {"virtio-pci", 2, transport_fields, NULL,
                                                   transport_restored};
