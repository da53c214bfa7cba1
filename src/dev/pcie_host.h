/* SPDX-License-Identifier: MIT
 *
 * What a board needs to know of the PCIe host bridge beyond struct device_ops.
 */
#ifndef TRAPEZE_DEV_PCIE_HOST_H
#define TRAPEZE_DEV_PCIE_HOST_H

struct device;
struct pci_host;

#define PCIE_HOST_ECAM_GPA  UINT64_C(0x30000000)
#define PCIE_HOST_ECAM_SIZE UINT64_C(0x10000000) /* 256 buses */
#define PCIE_HOST_IRQ_COUNT 4 /* consecutive interrupt-controller inputs, from irq_number */

/* For device_env.pci, once the bridge is made. Lives as long as the bridge. */
struct pci_host *pcie_host_bus(struct device *device);

#endif
