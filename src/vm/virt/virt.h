/* SPDX-License-Identifier: MIT
 *
 * The riscv64 board's memory map and wiring, compatible with QEMU's `virt`, and the parts of it that
 * are files of their own.
 */
#ifndef TRAPEZE_VM_VIRT_VIRT_H
#define TRAPEZE_VM_VIRT_VIRT_H

#include "bus/fdt_node.h"
#include "vm/boot.h"

struct vm;
struct vm_cpu;

#define VIRT_RAM_GPA     UINT64_C(0x80000000)
#define VIRT_TIMEBASE_HZ 10000000
#define VIRT_TEST_GPA    UINT64_C(0x00100000)
#define VIRT_RTC_GPA     UINT64_C(0x00101000)
#define VIRT_VMGENID_GPA UINT64_C(0x00102000)
#define VIRT_BOOT_TIMER_GPA UINT64_C(0x00103000)
#define VIRT_ACLINT_GPA  UINT64_C(0x02000000)
#define VIRT_PLIC_GPA    UINT64_C(0x0c000000)
#define VIRT_APLIC_M_GPA UINT64_C(0x0c000000)
#define VIRT_APLIC_S_GPA UINT64_C(0x0d000000)
#define VIRT_UART_GPA    UINT64_C(0x10000000)
#define VIRT_SLOTS_GPA   UINT64_C(0x10010000)
#define VIRT_PCIE_GPA    UINT64_C(0x30000000)

#define VIRT_UART_IRQ 10
#define VIRT_RTC_IRQ  11
#define VIRT_VMGENID_IRQ 12
#define VIRT_PCIE_IRQ 32 /* and the three behind it */
#define VIRT_SLOTS_IRQ 64 /* to 95 */
#define VIRT_SOURCES  95

/* Device-tree phandles beside those of bus/fdt_node.h. */
#define VIRT_PHANDLE_TEST       (FDT_PHANDLE_FREE + 0u)
#define VIRT_PHANDLE_HART(hart) (FDT_PHANDLE_FREE + 1u + (hart))

/* boot.c: where what is in the files goes, for RAM [ram_base, ram_base+ram_size). */
bool virt_boot_plan(struct boot *boot, uint64_t ram_base, uint64_t ram_size, struct error **err);
/* The whole start: segments, device tree, registers of every hart. */
bool virt_load(struct vm *vm, struct error **err);

/* fdt.c: the whole tree, malloc()ed; its size in *size. NULL: err. */
void *virt_fdt_new(struct vm *vm, size_t *size, struct error **err);

#endif
