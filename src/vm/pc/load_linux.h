/* SPDX-License-Identifier: MIT
 *
 * Kernels for the x86-64 board: what a file says of how it wants to be loaded and entered.
 *
 * Files are hostile: every size and address of theirs is checked before use (see vm/boot.h).
 */
#ifndef TRAPEZE_VM_PC_LOAD_LINUX_H
#define TRAPEZE_VM_PC_LOAD_LINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct boot_file;
struct error;

/* boot.protocol */
enum pc_protocol {
    PC_LINUX64, /* 64-bit mode, RSI = struct boot_params (Linux, arch/x86/boot.rst, "64-bit") */
    PC_PVH      /* 32-bit, no paging, EBX = struct hvm_start_info (Xen, docs/misc/pvh.pandoc) */
};

/* Where the setup header lies, in a bzImage and in struct boot_params. */
#define BZIMAGE_HEADER     0x1f1
#define BZIMAGE_HEADER_END 0x290 /* it ends here at the latest */

struct bzimage {
    uint64_t kernel_offset;    /* in the file, of what is loaded */
    uint64_t preferred_gpa;    /* where the kernel wants to run, */
    uint64_t alignment;        /* or anywhere that is a multiple of this, */
    bool relocatable;          /* if this is true */
    uint64_t memory_size;      /* from there on, at least that of what is loaded */
    uint64_t initrd_max;       /* the highest address that an initrd may have */
    uint64_t command_line_max; /* bytes, without the zero */
    uint8_t header[BZIMAGE_HEADER_END - BZIMAGE_HEADER];
    size_t header_size;
};

bool bzimage_is(const uint8_t *head, size_t size);
bool bzimage_read(const struct boot_file *file, struct bzimage *image, struct error **err);

/* Of an ELF file: the entry of its note XEN_ELFNOTE_PHYS32_ENTRY; 0: it has none. */
uint64_t pvh_entry(const struct boot_file *file);

#endif
