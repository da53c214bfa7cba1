/* SPDX-License-Identifier: MIT
 *
 * The ACPI tables of the x86-64 board (ACPI 6.5): what it has instead of a device tree.
 *
 * Fixed hardware, not the hardware-reduced kind: the latter has no PIT, PIC and power-management
 * timer, and Linux then has no clock to calibrate others by; the button and the way to switch off
 * are a register each, which every system knows. What came later than fixed hardware (the VM
 * generation ID) has a generic event device of its own.
 */
#ifndef TRAPEZE_VM_PC_ACPI_H
#define TRAPEZE_VM_PC_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml;

struct pc_acpi_setup {
    unsigned cpus;
    uint64_t ecam_gpa, ecam_size;
    uint16_t pm_port, reset_port;
    uint8_t reset_value;
    unsigned sci; /* GSI */
    bool keyboard; /* there is one, and its controller */
    uint32_t ioapic_gpa, lapic_gpa;
    /* Adds the devices' objects, inside \_SB. */
    void (*devices)(void *opaque, struct aml *aml);
    void *opaque;
    struct pc_acpi_links *links; /* NULL: the tables stay where they are written */
};

/* What somebody who puts the tables elsewhere has to do: to add their address to the pointers, and to
 * sum up then (checksums are zero until then). The RSDP is the first RSDP_SIZE bytes. */
#define PC_ACPI_RSDP_SIZE 36
#define PC_ACPI_LINKS_MAX 16
struct pc_acpi_links {
    struct {
        uint32_t at, size; /* bytes */
    } pointers[PC_ACPI_LINKS_MAX];
    struct {
        uint32_t at, from, size; /* where the checksum is, and of what */
    } sums[PC_ACPI_LINKS_MAX];
    size_t pointer_count, sum_count;
};

#define PC_ACPI_MAX 0x10000

/* Writes all tables, for addresses from `gpa` (16-byte aligned), into `bytes`; the first is the
 * RSDP. Returns how many bytes; 0: they do not fit into `room`. */
size_t pc_acpi_build(const struct pc_acpi_setup *setup, uint64_t gpa, uint8_t *bytes, size_t room);

#endif
