/* SPDX-License-Identifier: MIT
 *
 * The PCI transport of virtio devices (virtio 1.2, 4.1), modern only: one 64-bit memory BAR
 * with all register structures, MSI-X where the board has messages, else INTx with the ISR
 * register, and access through configuration space for firmware that maps no BAR. Part of
 * bus/virtio_transport.h.
 */
#ifndef TRAPEZE_BUS_VIRTIO_PCI_H
#define TRAPEZE_BUS_VIRTIO_PCI_H

#include "bus/msix.h"
#include "bus/pci.h"
#include "bus/virtio.h"

struct virtio_pci {
    struct pci_function function;
    struct msix msix;
    uint16_t config_vector, queue_vectors[VIRTIO_QUEUE_MAX];
    unsigned cfg_offset; /* of the capability that reaches into the BAR */
};

#endif
