/* SPDX-License-Identifier: MIT
 *
 * The MP tables of the x86-64 board (Intel's MultiProcessor Specification 1.4): vCPUs and
 * interrupts for kernels that know no ACPI.
 */
#ifndef TRAPEZE_VM_PC_MP_H
#define TRAPEZE_VM_PC_MP_H

#include <stddef.h>
#include <stdint.h>

struct pc_mp_setup {
    unsigned cpus;
    uint32_t ioapic_gpa, lapic_gpa;
    uint32_t level; /* bit for each of the I/O APIC's inputs: level-triggered, active high */
};

#define PC_MP_MAX 1024 /* for up to 32 vCPUs */

/* Writes them, for addresses from `gpa` (16-byte aligned), into `bytes`; the floating pointer comes
 * first. Returns how many bytes; 0: they do not fit into `room`. */
size_t pc_mp_build(const struct pc_mp_setup *setup, uint32_t gpa, uint8_t *bytes, size_t room);

#endif
