/* SPDX-License-Identifier: MIT
 *
 * The board's side of a PCIe root port with a hot-plug slot (PCIe 5.0, 6.7).
 *
 *     pcie_port_changed(port);          a device was put into the slot, or taken out of it
 *     pcie_port_eject(port);            asks the guest to let go of it
 *
 * What the guest does to the slot may need the whole machine to stand still: `settle` of the
 * parameters says so, on the vCPU's thread. The board then looks at each port, when nothing runs:
 * a device that is to leave and has no power is taken out; one that lost its link
 * (pcie_port_stale()) is reset, and pcie_port_renewed() brings the link up again.
 *
 * Threads: settle with the PCI bus's lock held; all functions while the machine is quiesced, but
 * ejecting(), heeded() and secondary() at any time.
 */
#ifndef TRAPEZE_DEV_PCIE_PORT_H
#define TRAPEZE_DEV_PCIE_PORT_H

#include <stdbool.h>

struct device;

/* For device_params.port. */
struct device_port {
    unsigned number; /* of the slot, as the guest is told: 1 ... */
    void (*settle)(void *opaque);
    void *opaque;
};

/* The presence of a device is as the bus says; the guest is told if that changed. */
void pcie_port_changed(struct device *device);
/* Presses the attention button; a device in the slot is to leave from now on. */
void pcie_port_eject(struct device *device);
void pcie_port_attention(struct device *device); /* presses it alone: a device has come */
bool pcie_port_ejecting(struct device *device);
/* A driver for hot-plug is at work in the guest. */
bool pcie_port_heeded(struct device *device);
bool pcie_port_powered(struct device *device);
bool pcie_port_stale(struct device *device);
void pcie_port_renewed(struct device *device);
unsigned pcie_port_secondary(struct device *device); /* bus number; 0: the guest gave none */
unsigned pcie_port_slot(struct device *device);      /* where it sits on the root bus */

#endif
