/* SPDX-License-Identifier: MIT
 *
 * What a virtio device is plugged into, chosen when the machine is made: a PCI function
 * (bus/virtio_pci.h) or a slot of registers in guest-physical memory (bus/virtio_mmio.h). A
 * device has one of these, and from its ops on sees nothing but its struct virtio.
 *
 *     struct virtio_rng { struct virtio_transport transport; ... };  // first: begins with the
 * device
 *
 * Slots are taken where the board has them (device_env.virtio_slots) and the device is not given
 * a place on the PCI bus. The functions below that take a struct device fit into struct device_ops
 * as they are, or are called by the device's own. In its state table
 * STATE_STRUCT(..., transport, "pci", &virtio_transport_state) comes last: restoring it activates
 * the device. (Of one in a slot, what belongs to PCI is saved as zeros.)
 *
 * Threads: as in bus/virtio.h and bus/pci.h. All registers are under the device's lock.
 */
#ifndef TRAPEZE_BUS_VIRTIO_TRANSPORT_H
#define TRAPEZE_BUS_VIRTIO_TRANSPORT_H

#include "bus/virtio.h"
#include "bus/virtio_mmio.h"
#include "bus/virtio_pci.h"

struct virtio_transport {
    struct device device;
    struct virtio virtio;
    const struct virtio_transport_ops *ops; /* constant once realized */
    uint8_t isr;                            /* 4.1.4.5, 4.2.2: enum virtio_isr */
    struct virtio_pci pci;
    struct virtio_mmio mmio;
};

/* Reads params->queues, params->pci_slot. */
bool virtio_transport_realize(struct virtio_transport *transport, const struct virtio_ops *ops,
                              uint64_t features, const struct device_params *params,
                              struct error **err);
void virtio_transport_unrealize(struct device *device);
void virtio_transport_reset(struct device *device);
void virtio_transport_quiesce(struct device *device);
void virtio_transport_unquiesce(struct device *device);

extern const struct state_table virtio_transport_state;

/* --- for the transports --- */

enum virtio_isr { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2 };

struct virtio_transport_ops {
    /* virtio_init() has been called; binds the interrupts' notifiers. */
    bool (*plug)(struct virtio_transport *transport, const struct device_params *params,
                 struct error **err);
    void (*unplug)(struct virtio_transport *transport);  /* no access arrives any more */
    void (*destroy)(struct virtio_transport *transport); /* after virtio_destroy(); or NULL */
    void (*set_line)(struct virtio_transport *transport, bool level); /* `isr` is not 0 */
    /* The driver's settings that a reset of the device ends; lock held. NULL: none. */
    void (*forget)(struct virtio_transport *transport);
    void (*reset)(struct virtio_transport *transport); /* of the machine; or NULL */
    /* Checks and derives; before the device is activated. */
    bool (*restored)(struct virtio_transport *transport, struct error **err);
};
extern const struct virtio_transport_ops virtio_pci_transport, virtio_mmio_transport;

/* Lock held, all of them. */
void virtio_transport_raise(struct virtio_transport *transport, uint8_t isr);
void virtio_transport_acknowledge(struct virtio_transport *transport, uint8_t isr);
/* The driver writes the status register: 0 is a reset. */
void virtio_transport_set_status(struct virtio_transport *transport, uint8_t status);
/* The device's configuration space, 1 to 4 bytes; what is not there reads as 0. */
uint32_t virtio_transport_config_read(struct virtio_transport *transport, uint64_t offset,
                                      unsigned size);
void virtio_transport_config_write(struct virtio_transport *transport, uint64_t offset,
                                   uint32_t value, unsigned size);

#endif
