/* SPDX-License-Identifier: MIT
 *
 * The riscv64 board's memory map and wiring, compatible with QEMU's `virt`.
 */
#ifndef TRAPEZE_VM_BOARD_H
#define TRAPEZE_VM_BOARD_H

#include "bus/fdt_node.h"

#define BOARD_TEST_GPA    UINT64_C(0x00100000)
#define BOARD_RTC_GPA     UINT64_C(0x00101000)
#define BOARD_VMGENID_GPA UINT64_C(0x00102000)
#define BOARD_ACLINT_GPA  UINT64_C(0x02000000)
#define BOARD_PLIC_GPA    UINT64_C(0x0c000000)
#define BOARD_APLIC_M_GPA UINT64_C(0x0c000000)
#define BOARD_APLIC_S_GPA UINT64_C(0x0d000000)
#define BOARD_UART_GPA    UINT64_C(0x10000000)
#define BOARD_PCIE_GPA    UINT64_C(0x30000000)

#define BOARD_UART_IRQ 10
#define BOARD_RTC_IRQ  11
#define BOARD_VMGENID_IRQ 12
#define BOARD_PCIE_IRQ 32 /* and the three behind it */
#define BOARD_SOURCES  95

/* Device-tree phandles beside those of bus/fdt_node.h. */
#define BOARD_PHANDLE_TEST       (FDT_PHANDLE_FREE + 0u)
#define BOARD_PHANDLE_HART(hart) (FDT_PHANDLE_FREE + 1u + (hart))

#endif
