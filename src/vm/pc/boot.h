/* SPDX-License-Identifier: MIT
 *
 * What starts a guest on the x86-64 board, without the board: where a kernel and its initrd go, and
 * what the kernel finds beside them. Below 1 MiB, of which no kernel is loaded into anything:
 *
 *     PC_BOOT_GDT           the GDT that the first instructions run with
 *     PC_BOOT_INFO          struct boot_params, or struct hvm_start_info with its lists
 *     PC_BOOT_PAGES         page tables that map the first 4 GiB to themselves
 *     PC_BOOT_SEED          random bytes for the kernel's generator
 *     PC_BOOT_COMMAND_LINE  up to PC_BOOT_COMMAND_LINE_MAX bytes and a zero
 *     PC_TABLES_GPA         ACPI
 */
#ifndef TRAPEZE_VM_PC_BOOT_H
#define TRAPEZE_VM_PC_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct boot;
struct error;
struct mem_space;

#define PC_BOOT_GDT              UINT64_C(0x500)
#define PC_BOOT_INFO             UINT64_C(0x7000)
#define PC_BOOT_PAGES            UINT64_C(0x9000)
#define PC_BOOT_SEED             UINT64_C(0x1f000)
#define PC_BOOT_COMMAND_LINE     UINT64_C(0x20000)
#define PC_BOOT_COMMAND_LINE_MAX 0x7fff
#define PC_BOOT_LOW_END          UINT64_C(0x9fc00) /* of RAM below the hole for a PC's ROMs */
#define PC_BOOT_KERNEL_MIN       UINT64_C(0x100000)

enum pc_memory_type { PC_MEMORY_RAM = 1, PC_MEMORY_RESERVED = 2 };
struct pc_memory {
    uint64_t gpa, size;
    uint32_t type; /* enum pc_memory_type */
};
#define PC_MEMORY_MAX 8

/* For `low_ram` bytes of RAM at 0. */
bool pc_boot_plan(struct boot *boot, uint64_t low_ram, const char *command_line,
                  struct error **err);

/* Whether the kernel will look at ACPI's tables: what they are found by is in its file, and nobody says
 * acpi=off. A bzImage, which is compressed, is believed to. `append` may be NULL. */
bool pc_boot_acpi(const struct boot *boot, const char *append, bool *looks, struct error **err);

struct pc_boot_info {
    const char *command_line;
    uint64_t rsdp_gpa;
    const struct pc_memory *memory;
    size_t memory_count; /* up to PC_MEMORY_MAX */
    uint8_t seed[32];
};
/* Writes everything but ACPI. */
bool pc_boot_write(const struct boot *boot, const struct pc_boot_info *info, struct mem_space *mem,
                   struct error **err);

#endif
