/* SPDX-License-Identifier: MIT
 *
 * The PCI transport of virtio devices (virtio 1.2, 4.1), modern only: one 64-bit memory BAR
 * with all register structures, MSI-X where the board has messages, else INTx with the ISR
 * register, and access through configuration space for firmware that maps no BAR.
 *
 *     struct virtio_rng { struct virtio_pci pci; ... };     // first: it begins with the device
 *
 * The functions below that take a struct device fit into struct device_ops as they are, or
 * are called by the device's own. In its state table STATE_STRUCT(..., pci, "pci",
 * &virtio_pci_state) comes last: restoring it activates the device.
 *
 * From its ops on, a device sees nothing but its struct virtio.
 *
 * Threads: as in bus/virtio.h and bus/pci.h. All registers are under the device's lock.
 */
#ifndef TRAPEZE_BUS_VIRTIO_PCI_H
#define TRAPEZE_BUS_VIRTIO_PCI_H

#include "bus/msix.h"
#include "bus/pci.h"
#include "bus/virtio.h"

struct virtio_pci {
    struct device device;
    struct virtio virtio;
    struct pci_function function;
    struct msix msix;
    uint16_t config_vector, queue_vectors[VIRTIO_QUEUE_MAX];
    uint8_t isr;             /* 4.1.4.5: bit 0 queues, bit 1 configuration */
    unsigned pci_cfg_offset; /* of the capability that reaches into the BAR */
};

/* Reads params->queues, params->pci_slot. */
bool virtio_pci_realize(struct virtio_pci *pci, const struct virtio_ops *ops, uint64_t features,
                        const struct device_params *params, struct error **err);
void virtio_pci_unrealize(struct device *device);
void virtio_pci_reset(struct device *device);
void virtio_pci_quiesce(struct device *device);
void virtio_pci_unquiesce(struct device *device);

extern const struct state_table virtio_pci_state;

#endif
