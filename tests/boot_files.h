/* SPDX-License-Identifier: MIT
 *
 * Files a machine boots from, made in memory: a bare-metal ELF, a Linux Image with its PE
 * view, a newc archive. Small, valid, and laid out so that tests can damage single fields.
 */
#ifndef TRAPEZE_TESTS_BOOT_FILES_H
#define TRAPEZE_TESTS_BOOT_FILES_H

#include <elf.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"

#define BOOT_FILE_MAX 4096

struct boot_bytes {
    uint8_t data[BOOT_FILE_MAX];
    size_t size;
};

/* Where things stand in an ELF of make_elf(). */
enum {
    ELF_PHDR = 64,
    ELF_CODE = 0x100,
    ELF_CODE_SIZE = 64,
    ELF_SYMTAB = 0x180,
    ELF_STRTAB = 0x1e0,
    ELF_SHDR = 0x200,
    ELF_SIZE = ELF_SHDR + 3 * 64
};

#define ELF_LOAD_GPA UINT64_C(0x80000000)
#define ELF_TOHOST   UINT64_C(0x80001000)
#define ELF_FROMHOST UINT64_C(0x80001040)

/* One segment of ELF_CODE_SIZE bytes and as many zeroes, symbols tohost and fromhost. */
static inline void make_elf(struct boot_bytes *file, const void *code, size_t code_size)
{
    Elf64_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                         .e_type = ET_EXEC,
                         .e_machine = EM_RISCV,
                         .e_version = EV_CURRENT,
                         .e_entry = ELF_LOAD_GPA,
                         .e_phoff = ELF_PHDR,
                         .e_shoff = ELF_SHDR,
                         .e_ehsize = sizeof(Elf64_Ehdr),
                         .e_phentsize = sizeof(Elf64_Phdr),
                         .e_phnum = 1,
                         .e_shentsize = sizeof(Elf64_Shdr),
                         .e_shnum = 3};
    Elf64_Phdr segment = {.p_type = PT_LOAD,
                          .p_flags = PF_R | PF_W | PF_X,
                          .p_offset = ELF_CODE,
                          .p_vaddr = ELF_LOAD_GPA,
                          .p_paddr = ELF_LOAD_GPA,
                          .p_filesz = ELF_CODE_SIZE,
                          .p_memsz = 2 * ELF_CODE_SIZE};
    Elf64_Sym symbols[3] = {
        {0}, {.st_name = 1, .st_value = ELF_TOHOST}, {.st_name = 8, .st_value = ELF_FROMHOST}};
    static const char strings[] = "\0tohost\0fromhost";
    Elf64_Shdr sections[3] = {
        {0},
        {.sh_type = SHT_SYMTAB,
         .sh_offset = ELF_SYMTAB,
         .sh_size = sizeof(symbols),
         .sh_link = 2,
         .sh_entsize = sizeof(Elf64_Sym)},
        {.sh_type = SHT_STRTAB, .sh_offset = ELF_STRTAB, .sh_size = sizeof(strings)}};
    *file = (struct boot_bytes){.size = ELF_SIZE};
    memcpy(file->data, &header, sizeof(header));
    memcpy(file->data + ELF_PHDR, &segment, sizeof(segment));
    memcpy(file->data + ELF_CODE, code, code_size < ELF_CODE_SIZE ? code_size : ELF_CODE_SIZE);
    memcpy(file->data + ELF_SYMTAB, symbols, sizeof(symbols));
    memcpy(file->data + ELF_STRTAB, strings, sizeof(strings));
    memcpy(file->data + ELF_SHDR, sections, sizeof(sections));
}

/* Where things stand in an Image of make_image(). */
enum {
    IMAGE_CODE = 64, /* what the jump at 0 leads to */
    IMAGE_PE = 0x400,
    IMAGE_SECTIONS = IMAGE_PE + 24 + 16,
    IMAGE_SIZE = 0x800
};

/* A kernel of IMAGE_SIZE bytes with `code` at IMAGE_CODE, for the start of RAM + 2 MiB; its
 * PE view has one section, which ends with the file. */
static inline void make_image(struct boot_bytes *file, const void *code, size_t code_size)
{
    *file = (struct boot_bytes){.size = IMAGE_SIZE};
    uint8_t *data = file->data;
    /* "MZ" is c.li s4, -13, so that the DOS header can be executed; then jal x0, 62. */
    store_le16(data, 0x5a4d);
    store_le32(data + 2, 0x03e0006f);
    store_le64(data + 8, 2 * MIB);
    store_le64(data + 16, 0x10000);
    memcpy(data + 48, "RISCV\0\0\0RSC\x05", 12);
    store_le32(data + 60, IMAGE_PE);
    memcpy(data + IMAGE_CODE, code, code_size);
    memcpy(data + IMAGE_PE, "PE\0\0", 4);
    store_le16(data + IMAGE_PE + 6, 1);   /* sections */
    store_le16(data + IMAGE_PE + 20, 16); /* size of the optional header */
    store_le32(data + IMAGE_SECTIONS + 16, IMAGE_SIZE - 0x600);
    store_le32(data + IMAGE_SECTIONS + 20, 0x600);
}

/* Where things stand in a bzImage of make_bzimage(). */
enum { BZIMAGE_KERNEL = 2 * 512, BZIMAGE_SIZE = BZIMAGE_KERNEL + 1024 };
#define BZIMAGE_GPA (UINT64_C(1) << 24)

/* A kernel for 16 MiB, relocatable, with a 64-bit entry at byte 0x200 of its own. */
static inline void make_bzimage(struct boot_bytes *file, const void *code, size_t code_size)
{
    *file = (struct boot_bytes){.size = BZIMAGE_SIZE};
    uint8_t *data = file->data;
    data[0x1f1] = 1; /* sectors of setup, besides the first */
    store_le32(data + 0x1f4, (BZIMAGE_SIZE - BZIMAGE_KERNEL) / 16);
    data[0x200] = 0xeb;
    data[0x201] = 0x6a; /* the header ends at 0x26c */
    memcpy(data + 0x202, "HdrS", 4);
    store_le16(data + 0x206, 0x20f);
    data[0x211] = 1;
    store_le32(data + 0x22c, 0x7fffffff);
    store_le32(data + 0x230, 2 * MIB);
    data[0x234] = 1;
    store_le16(data + 0x236, 1);
    store_le32(data + 0x238, 255);
    store_le64(data + 0x258, BZIMAGE_GPA);
    store_le32(data + 0x260, 4 * MIB);
    memcpy(data + BZIMAGE_KERNEL + 0x200, code, code_size);
}

#define PVH_GPA UINT64_C(0x200000)
enum { PVH_NOTE = 0x180, PVH_NOTE_SIZE = 12 + 4 + 8 };

/* An x86-64 ELF file of one segment, entered at its start or, by its note, 16 bytes behind. */
static inline void make_pvh(struct boot_bytes *file, const void *code, size_t code_size)
{
    make_elf(file, code, code_size);
    Elf64_Ehdr *header = (Elf64_Ehdr *)(void *)file->data;
    Elf64_Phdr *segments = (Elf64_Phdr *)(void *)(file->data + ELF_PHDR);
    header->e_machine = EM_X86_64;
    header->e_entry = segments[0].p_vaddr = segments[0].p_paddr = PVH_GPA;
    header->e_shnum = 0;
    header->e_phnum = 2;
    segments[1] = (Elf64_Phdr){.p_type = PT_NOTE,
                               .p_offset = PVH_NOTE,
                               .p_filesz = PVH_NOTE_SIZE,
                               .p_memsz = PVH_NOTE_SIZE};
    memset(file->data + PVH_NOTE, 0, ELF_SHDR - PVH_NOTE);
    store_le32(file->data + PVH_NOTE, 4);
    store_le32(file->data + PVH_NOTE + 4, 8);
    store_le32(file->data + PVH_NOTE + 8, 18);
    memcpy(file->data + PVH_NOTE + 12, "Xen", 4);
    store_le64(file->data + PVH_NOTE + 16, PVH_GPA + 16);
}

static inline void add_newc(struct boot_bytes *file, const char *name, const char *contents)
{
    size_t name_size = strlen(name) + 1, size = strlen(contents);
    char header[111];
    snprintf(header, sizeof(header), "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
             1u, 0100644u, 0u, 0u, 1u, 0u, (unsigned)size, 0u, 0u, 0u, 0u, (unsigned)name_size, 0u);
    memcpy(file->data + file->size, header, 110);
    memcpy(file->data + file->size + 110, name, name_size);
    file->size = align_up(file->size + 110 + name_size, 4);
    memcpy(file->data + file->size, contents, size);
    file->size = align_up(file->size + size, 4);
}

/* Two files and a trailer, padded to 512 bytes. */
static inline void make_newc(struct boot_bytes *file)
{
    *file = (struct boot_bytes){0};
    add_newc(file, "init", "#!/bin/sh\n");
    add_newc(file, "etc/motd", "hello");
    add_newc(file, "TRAILER!!!", "");
    file->size = align_up(file->size, 512);
}

/* A regular file with these bytes; `path` names it while the descriptor is open. */
static inline int put_file(const void *data, size_t size, char path[32])
{
    int fd = memfd_create("boot", MFD_CLOEXEC);
    bool written = fd >= 0 && write(fd, data, size) == (ssize_t)size;
    snprintf(path, 32, "/proc/self/fd/%d", written ? fd : -1);
    return fd;
}

#endif
