/* SPDX-License-Identifier: MIT
 *
 * A virtio device that records what it is told, in a machine of tests/virtio_guest.h: on the PCI
 * bus, or in a slot of the MMIO transport.
 */
#ifndef TRAPEZE_TESTS_VIRTIO_PROBE_H
#define TRAPEZE_TESTS_VIRTIO_PROBE_H

#include "support.h"

#include "virtio_guest.h"

#define FEATURE_A    (UINT64_C(1) << 3)
#define CONFIG_BYTES 10

struct probe {
    struct virtio_transport transport;
    unsigned activations, deactivations, notifications;
    bool slow;       /* deactivate() and reset_queue() leave something under way */
    unsigned queues; /* that there should be */
    unsigned queue_resets;
    unsigned busy; /* so many more times notify() says that there is more */
    uint64_t features;
    struct virtq_chain chain;
};

static inline struct probe *probe_of(struct virtio *virtio)
{
    return CONTAINER_OF(virtio, struct probe, transport.virtio);
}

static inline void probe_activate(struct virtio *virtio, const struct virtio_activation *activation)
{
    probe_of(virtio)->activations++;
    probe_of(virtio)->features = activation->features;
    assert_int_equal(activation->queue_count, probe_of(virtio)->queues);
    assert_ptr_equal(activation->queues, virtio->queues);
}

static inline bool probe_deactivate(struct virtio *virtio)
{
    probe_of(virtio)->deactivations++;
    return !probe_of(virtio)->slow;
}

static inline bool probe_reset_queue(struct virtio *virtio, struct virtqueue *queue)
{
    assert_false(queue->enabled);
    probe_of(virtio)->queue_resets++;
    return !probe_of(virtio)->slow;
}

static inline bool probe_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct probe *probe = probe_of(virtio);
    probe->notifications++;
    while (virtqueue_pop(queue, &probe->chain, UINT64_MAX))
        virtqueue_push(queue, &probe->chain, 0);
    virtqueue_signal(queue);
    return probe->busy > 0 && probe->busy-- > 0;
}

static const struct virtio_ops probe_virtio = {
    .name = "probe",
    .device_id = 42,
    .class_code = 0x123456,
    .queue_count = 2,
    .queue_step = 3,
    .queue_size = 16,
    .config_size = CONFIG_BYTES,
    .activate = probe_activate,
    .deactivate = probe_deactivate,
    .reset_queue = probe_reset_queue,
    .notify = probe_notify,
};

static inline bool probe_realize(struct device *device, const struct device_params *params,
                                 struct error **err)
{
    struct probe *probe = CONTAINER_OF(device, struct probe, transport.device);
    probe->queues = 2 + (params->queues > 1 ? 3 * (params->queues - 1) : 0);
    if (!virtio_transport_realize(&probe->transport, &probe_virtio, FEATURE_A, params, err))
        return false;
    for (unsigned i = 0; i < VIRTIO_CONFIG_MAX; i++)
        probe->transport.virtio.config[i] = (uint8_t)(0x10 + i);
    return true;
}

static const struct device_ops probe_device = {
    .name = "probe",
    .size = sizeof(struct probe),
    .realize = probe_realize,
    .unrealize = virtio_transport_unrealize,
    .reset = virtio_transport_reset,
    .state = &virtio_transport_state,
    .quiesce = virtio_transport_quiesce,
    .unquiesce = virtio_transport_unquiesce,
};

static const struct device_params probe_params = {.id = "probe0", .pci_slot = 4};

static inline struct guest *guest_new(bool deterministic)
{
    struct guest *g = calloc(1, sizeof(*g));
    guest_init(g, deterministic);
    guest_plug(g, &probe_device, &probe_params);
    return g;
}

static inline struct guest *guest_new_mmio(void)
{
    struct guest *g = calloc(1, sizeof(*g));
    guest_init(g, false);
    guest_without_pci(g);
    guest_plug(g, &probe_device, &(struct device_params){.id = "probe0"});
    return g;
}

/* Another one of the same kind. */
static inline struct guest *guest_like(const struct guest *g)
{
    return g->env.virtio_slots != NULL ? guest_new_mmio() : guest_new(false);
}

static inline int setup(void **state)
{
    *state = guest_new(false);
    return 0;
}

static inline int setup_mmio(void **state)
{
    *state = guest_new_mmio();
    return 0;
}

static inline int setup_deterministic(void **state)
{
    *state = guest_new(true);
    return 0;
}

static inline int teardown(void **state)
{
    guest_free(*state);
    free(*state);
    return 0;
}

static inline struct probe *probe(struct guest *g)
{
    return CONTAINER_OF(g->device, struct probe, transport.device);
}

static inline uint8_t status(struct guest *g)
{
    return (uint8_t)guest_reg(g, REG_STATUS, 1);
}

#endif
