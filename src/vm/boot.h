/* SPDX-License-Identifier: MIT
 *
 * What is put into RAM before the first instruction, and where: kernel, initrd, firmware,
 * the board's description. The plan is made once, from files that stay open; every guest reset carries
 * it out again.
 *
 * Files are hostile: every size and address of theirs is checked against the file and RAM
 * before use.
 */
#ifndef TRAPEZE_VM_BOOT_H
#define TRAPEZE_VM_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct machine_config;
struct mem_space;
struct vm;

enum { BOOT_KERNEL, BOOT_INITRD, BOOT_FIRMWARE, BOOT_FILES };
#define BOOT_MAX_SEGMENTS 32

struct boot_file {
    int fd;
    uint64_t size; /* bytes */
    char *path;
};

/* file[offset, offset+file_size) goes to gpa; zeroes follow up to memory_size. */
struct boot_segment {
    const struct boot_file *file;
    uint64_t offset, file_size;
    uint64_t gpa, memory_size;
};

/* What is in read-only memory: all of a file. */
struct boot_rom {
    const struct boot_file *file; /* NULL: there is none */
    uint64_t gpa;
};

struct boot {
    struct boot_file files[BOOT_FILES]; /* without a path: there is none */
    struct boot_segment segments[BOOT_MAX_SEGMENTS];
    size_t segment_count;
    struct boot_rom rom;
    bool sbi;                          /* the VMM is the firmware: the kernel starts in S-mode */
    uint64_t entry;                    /* gpa of the first instruction */
    uint64_t next_entry;               /* with firmware: the kernel's, 0 = none */
    unsigned protocol;                 /* the board's: how the guest is entered */
    uint64_t initrd_gpa, initrd_size;  /* 0, 0: none */
    uint64_t fdt_gpa, fdt_limit;       /* room for the device tree (and fw_dynamic_info) */
    uint64_t tohost_gpa, fromhost_gpa; /* HTIF symbols of a bare-metal ELF; 0 = none */
};

/* Opens what the configuration names; looks at nothing in it. boot_clear() in either case. */
bool boot_open(struct boot *boot, const struct machine_config *config, struct error **err);
/* The same with files that are open (-1: there is none), which are taken over. */
bool boot_take(struct boot *boot, const struct machine_config *config, const int fds[BOOT_FILES],
               struct error **err);
/* One of BOOT_FILES; NULL: there is none. */
const struct boot_file *boot_file_of(const struct boot *boot, unsigned which);
void boot_clear(struct boot *boot);

/* Whether the kernel's file has a string in it, for example the name of a device it has a
 * driver for; false in *contains if there is no kernel. */
bool boot_kernel_contains(const struct boot *boot, const char *string, bool *contains,
                          struct error **err);

/* Writes the segments into RAM. */
bool boot_load_segments(const struct boot *boot, struct mem_space *mem, struct error **err);

/* The whole start: segments, what the board describes itself by, registers. vCPUs stand still. */
bool boot_load(struct vm *vm, struct error **err);
/* Whether there is something to start from: a machine that goes on may have come without. */
bool boot_can_load(const struct vm *vm, struct error **err);

/* load_elf.c */
struct elf_result {
    uint64_t entry, end; /* gpa; end of the highest segment */
    uint64_t tohost, fromhost;
};
bool boot_is_elf(const uint8_t *head, size_t size);
/* `machine`: the processor that it is to be for (EM_RISCV). */
bool boot_load_elf(struct boot *boot, const struct boot_file *file, unsigned machine,
                   uint64_t ram_base, uint64_t ram_size, struct elf_result *result,
                   struct error **err);

/* load_linux.c */
#define BOOT_HEAD_SIZE 1024 /* bytes of a kernel file that say what it is */
struct linux_image {
    uint64_t text_offset; /* from the start of RAM, a multiple of 2 MiB */
    uint64_t size;        /* in memory, at least that of the file */
};
bool boot_is_image(const uint8_t *head, size_t size);
bool boot_read_image(const struct boot_file *file, struct linux_image *image, struct error **err);
/* Says what the file is instead of a kernel for that architecture; false. */
bool boot_refuse_kernel(const struct boot_file *file, const char *arch, const uint8_t *head,
                        size_t size, struct error **err);
bool boot_check_initrd(const struct boot_file *file, struct error **err);

/* boot.c, for the loaders: reads exactly `size` bytes; false with a sentence. */
bool boot_read(const struct boot_file *file, uint64_t offset, void *to, size_t size,
               struct error **err);
bool boot_add_segment(struct boot *boot, const struct boot_segment *segment, uint64_t ram_base,
                      uint64_t ram_size, struct error **err);

#endif
