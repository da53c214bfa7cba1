/* SPDX-License-Identifier: MIT
 *
 * See load_linux.h: bzImages (Linux, Documentation/arch/x86/boot.rst) and the PVH note of ELF files
 * (Xen, xen/include/public/elfnote.h).
 */
#include "vm/pc/load_linux.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "vm/boot.h"

/* Offsets in the file. */
enum {
    SETUP_SECTORS = 0x1f1,
    KERNEL_PARAGRAPHS = 0x1f4,
    JUMP_SIZE = 0x201, /* of the jump that stands behind it, over the header */
    MAGIC = 0x202,
    VERSION = 0x206,
    INITRD_MAX = 0x22c,
    ALIGNMENT = 0x230,
    RELOCATABLE = 0x234,
    EXTENDED_FLAGS = 0x236,
    COMMAND_LINE_MAX = 0x238,
    PREFERRED_GPA = 0x258,
    INIT_SIZE = 0x260
};
enum { SECTOR = 512, PARAGRAPH = 16, OLD_SETUP_SECTORS = 4 };
enum { VERSION_64BIT = 0x20c, HAS_64BIT_ENTRY = 1 };
#define KERNEL_MAX (1 * GIB)

bool bzimage_is(const uint8_t *head, size_t size)
{
    return size >= BZIMAGE_HEADER_END && memcmp(head + MAGIC, "HdrS", 4) == 0;
}

static bool damaged(const struct boot_file *file, const char *what, struct error **err)
{
    error_set(err, ERROR_USAGE, "the kernel '%s' is damaged: %s", file->path, what);
    error_hint(err, "Copy or build it again.");
    return false;
}

bool bzimage_read(const struct boot_file *file, struct bzimage *image, struct error **err)
{
    uint8_t head[BOOT_HEAD_SIZE];
    if (file->size < sizeof(head))
        return damaged(file, "it is shorter than its own header", err);
    if (!boot_read(file, 0, head, sizeof(head), err))
        return false;
    if (load_le16(head + VERSION) < VERSION_64BIT ||
        (load_le16(head + EXTENDED_FLAGS) & HAS_64BIT_ENTRY) == 0) {
        error_set(err, ERROR_USAGE, "the kernel '%s' has no 64-bit entry", file->path);
        error_hint(err, "It is a 32-bit kernel, or older than Linux 3.8.");
        return false;
    }
    uint64_t sectors = head[SETUP_SECTORS] != 0 ? head[SETUP_SECTORS] : OLD_SETUP_SECTORS;
    uint64_t promised = (uint64_t)load_le32(head + KERNEL_PARAGRAPHS) * PARAGRAPH;
    *image = (struct bzimage){
        .kernel_offset = (sectors + 1) * SECTOR,
        .preferred_gpa = load_le64(head + PREFERRED_GPA),
        .alignment = load_le32(head + ALIGNMENT),
        .relocatable = head[RELOCATABLE] != 0,
        .memory_size = load_le32(head + INIT_SIZE),
        .initrd_max = load_le32(head + INITRD_MAX),
        .command_line_max = load_le32(head + COMMAND_LINE_MAX),
        .header_size = MAGIC + (size_t)head[JUMP_SIZE] - BZIMAGE_HEADER,
    };
    if (!range_within(image->kernel_offset, promised, file->size) || promised == 0) {
        error_set(err, ERROR_USAGE,
                  "the kernel '%s' is truncated: it has %llu bytes, and should have %llu or more",
                  file->path, (unsigned long long)file->size,
                  (unsigned long long)(image->kernel_offset + promised));
        error_hint(err, "Copy or download it again.");
        return false;
    }
    uint64_t loaded = file->size - image->kernel_offset;
    if (!is_power_of_two(image->alignment) || image->preferred_gpa % image->alignment != 0 ||
        image->preferred_gpa > 4 * GIB)
        return damaged(file, "its header asks for an impossible place in memory", err);
    if (image->memory_size > KERNEL_MAX || loaded > KERNEL_MAX)
        return damaged(file, "its header says that it is larger than 1 GiB", err);
    if (image->memory_size < loaded)
        image->memory_size = loaded;
    if (image->header_size > sizeof(image->header))
        image->header_size = sizeof(image->header); /* newer than what we know */
    memcpy(image->header, head + BZIMAGE_HEADER, image->header_size);
    return true;
}

/* ---- PVH ---- */

enum { XEN_ELFNOTE_PHYS32_ENTRY = 18, NOTES_MAX = 1 << 20, HEADERS_MAX = 64 };

/* The entry that a segment of notes has; 0: none. */
static uint64_t entry_of(const uint8_t *notes, uint64_t size)
{
    enum { NOTE_SIZE = 12 };
    for (uint64_t at = 0; range_within(at, NOTE_SIZE, size);) {
        uint64_t name_size = load_le32(notes + at), value_size = load_le32(notes + at + 4);
        uint32_t type = load_le32(notes + at + 8);
        uint64_t name = at + NOTE_SIZE, value = name + align_up(name_size, 4);
        if (!range_within(name, name_size, size) || !range_within(value, value_size, size))
            return 0;
        if (type == XEN_ELFNOTE_PHYS32_ENTRY && name_size == 4 &&
            memcmp(notes + name, "Xen", 4) == 0 && value_size >= 4)
            return load_le32(notes + value);
        at = value + align_up(value_size, 4);
    }
    return 0;
}

uint64_t pvh_entry(const struct boot_file *file)
{
    Elf64_Ehdr header;
    uint64_t entry = 0;
    if (file->size < sizeof(header) || !boot_read(file, 0, &header, sizeof(header), NULL) ||
        header.e_phentsize != sizeof(Elf64_Phdr))
        return 0;
    for (unsigned i = 0; entry == 0 && i < header.e_phnum && i < HEADERS_MAX; i++) {
        Elf64_Phdr segment;
        uint64_t at = header.e_phoff + (uint64_t)i * sizeof(segment);
        if (header.e_phoff > file->size || !range_within(at, sizeof(segment), file->size) ||
            !boot_read(file, at, &segment, sizeof(segment), NULL))
            return 0;
        if (segment.p_type != PT_NOTE || segment.p_filesz > NOTES_MAX || segment.p_filesz == 0 ||
            !range_within(segment.p_offset, segment.p_filesz, file->size))
            continue;
        uint8_t *notes = alloc_zeroed(1, segment.p_filesz);
        if (boot_read(file, segment.p_offset, notes, segment.p_filesz, NULL))
            entry = entry_of(notes, segment.p_filesz);
        free(notes);
    }
    return entry;
}
