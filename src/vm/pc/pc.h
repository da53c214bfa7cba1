/* SPDX-License-Identifier: MIT
 *
 * The x86-64 board: addresses, ports and interrupts (GSIs), and the parts of it that are files of their
 * own. Interrupt controllers and PIT are the engine's.
 */
#ifndef TRAPEZE_VM_PC_PC_H
#define TRAPEZE_VM_PC_PC_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct vm;

/* RAM: [0, 3 GiB) and from 4 GiB on. Tables for the guest lie where a BIOS would have them. */
#define PC_LOW_RAM_MAX  UINT64_C(0xc0000000)
#define PC_HIGH_RAM_GPA UINT64_C(0x100000000)
#define PC_TABLES_GPA   UINT64_C(0xe0000)
#define PC_MP_GPA       UINT64_C(0xf0000) /* where MP tables are looked for */
#define PC_TABLES_END   UINT64_C(0x100000)

#define PC_MMIO32_GPA  UINT64_C(0xc0000000)
#define PC_MMIO32_SIZE UINT64_C(0x20000000)
/* SeaBIOS asks nobody where BARs may be: it puts them below the I/O APIC. */
#define PC_FIRMWARE_MMIO32_GPA  UINT64_C(0xf0000000)
#define PC_FIRMWARE_MMIO32_SIZE (PC_IOAPIC_GPA - PC_FIRMWARE_MMIO32_GPA)
#define PC_BOOT_TIMER_GPA PC_MMIO32_GPA /* as Firecracker 1.17 has it; only where nothing is on PCI */
#define PC_ECAM_GPA    UINT64_C(0xe0000000)
#define PC_SLOTS_GPA   UINT64_C(0xfea00000)
#define PC_VMGENID_GPA UINT64_C(0xfed80000)
#define PC_IOAPIC_GPA  UINT32_C(0xfec00000)
#define PC_LAPIC_GPA   UINT32_C(0xfee00000)

#define PC_I8042_PORT 0x60
#define PC_RTC_PORT   0x70
#define PC_COM1_PORT  0x3f8
#define PC_PM_PORT    0x600

#define PC_KEYBOARD_GSI 1
#define PC_COM1_GSI    4
#define PC_RTC_GSI     8
#define PC_SCI_GSI     9
#define PC_PCI_GSI     16 /* and the three behind it */
#define PC_VMGENID_GSI 20

/* What is left of the I/O APIC's 24 inputs, for virtio's slots. Input 13 was the x87's. */
#define PC_SLOT_GSI_FIRST 5
#define PC_SLOT_GSIS      {PC_SLOT_GSI_FIRST, 6, 7, 10, 11, 12, 14, 15, 21, 22, 23}

#define PC_FW_CFG_PORT 0x510

/* load.c: struct board's plan, load and restored. */
bool pc_plan(struct vm *vm, struct error **err);
bool pc_load(struct vm *vm, struct error **err);
void pc_restored(struct vm *vm);

struct pc_acpi_setup pc_acpi_setup(struct vm *vm);
/* The caller frees it; NULL: err. */
char *pc_command_line(const struct vm *vm, struct error **err);

#endif
