/* SPDX-License-Identifier: MIT
 *
 * What Linux is started from: its RISC-V Image (Documentation/arch/riscv/
 * boot-image-header.rst), which is a PE file too if it holds the EFI stub, and its initrd. A
 * truncated file is recognised here, where it can be named, not by a guest that hangs.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "mem/mem.h"
#include "vm/boot.h"

enum { IMAGE_HEADER_SIZE = 64, FLAG_BIG_ENDIAN = 1 };
#define IMAGE_ALIGNMENT (2 * MIB) /* the kernel maps itself with pages of this size */
#define IMAGE_MAX       (4 * GIB)

bool boot_is_image(const uint8_t *head, size_t size)
{
    return size >= IMAGE_HEADER_SIZE && memcmp(head + 56, "RSC\x05", 4) == 0 &&
           memcmp(head + 4, "zimg", 4) != 0;
}

static bool damaged(const struct boot_file *file, const char *what, struct error **err)
{
    error_set(err, ERROR_USAGE, "the kernel '%s' is damaged: %s", file->path, what);
    error_hint(err, "Copy or build it again.");
    return false;
}

static bool truncated(const struct boot_file *file, const char *what, uint64_t expected,
                      struct error **err)
{
    error_set(err, ERROR_USAGE,
              "the %s '%s' is truncated: it has %llu bytes, and should have %llu "
              "or more",
              what, file->path, (unsigned long long)file->size, (unsigned long long)expected);
    error_hint(err, "Copy or download it again.");
    return false;
}

/* The size of the whole file, if it says so: sections of its PE view (Microsoft PE/COFF, 3.3
 * and 4). 0: it does not. */
static bool read_pe_size(const struct boot_file *file, const uint8_t *header, uint64_t *end,
                         struct error **err)
{
    enum { COFF_SIZE = 24, SECTION_SIZE = 40 };
    uint8_t coff[COFF_SIZE], section[SECTION_SIZE];
    uint64_t at = load_le32(header + 60);
    *end = 0;
    if (memcmp(header, "MZ", 2) != 0)
        return true;
    if (!range_within(at, sizeof(coff), file->size)) {
        *end = at + sizeof(coff);
        return true;
    }
    if (!boot_read(file, at, coff, sizeof(coff), err))
        return false;
    if (memcmp(coff, "PE\0\0", 4) != 0)
        return true;
    unsigned sections = load_le16(coff + 6);
    at += sizeof(coff) + load_le16(coff + 20);
    for (unsigned i = 0; i < sections; i++, at += sizeof(section)) {
        uint64_t section_end = at + sizeof(section);
        if (range_within(at, sizeof(section), file->size)) {
            if (!boot_read(file, at, section, sizeof(section), err))
                return false;
            section_end = (uint64_t)load_le32(section + 20) + load_le32(section + 16);
        }
        if (section_end > *end)
            *end = section_end;
    }
    return true;
}

bool boot_read_image(const struct boot_file *file, struct linux_image *image, struct error **err)
{
    uint8_t header[IMAGE_HEADER_SIZE];
    uint64_t whole;
    if (!boot_read(file, 0, header, sizeof(header), err) ||
        !read_pe_size(file, header, &whole, err))
        return false;
    if (whole > file->size)
        return truncated(file, "kernel", whole, err);
    *image =
        (struct linux_image){.text_offset = load_le64(header + 8), .size = load_le64(header + 16)};
    if (load_le64(header + 24) & FLAG_BIG_ENDIAN) {
        error_set(err, ERROR_USAGE, "the kernel '%s' is big-endian", file->path);
        error_hint(err, "This machine is little-endian.");
        return false;
    }
    if (image->text_offset % IMAGE_ALIGNMENT != 0 || image->text_offset > IMAGE_MAX)
        return damaged(file, "its header asks for an impossible place in memory", err);
    if (image->size > IMAGE_MAX || file->size > IMAGE_MAX)
        return damaged(file, "its header says that it is larger than 4 GiB", err);
    if (image->size < file->size) /* old kernels say 0 */
        image->size = file->size;
    return true;
}

/* Recognises what people give by mistake. */
bool boot_refuse_kernel(const struct boot_file *file, const char *arch, const uint8_t *head,
                        size_t size, struct error **err)
{
    bool riscv = strcmp(arch, "riscv64") == 0;
    static const struct {
        size_t offset;
        const char *bytes;
        size_t length;
        const char *what, *remedy;
    } kinds[] = {
        {0, "\x1f\x8b", 2, "compressed with gzip", "Unpack it first: gunzip."},
        {0,
         "\xfd"
         "7zXZ",
         5, "compressed with xz", "Unpack it first: unxz."},
        {0, "\x28\xb5\x2f\xfd", 4, "compressed with zstd", "Unpack it first: unzstd."},
        {4, "zimg", 4, "a compressed EFI kernel (zboot)",
         "Give it the uncompressed arch/riscv/boot/Image."},
        {0x202, "HdrS", 4, "an x86 kernel (bzImage)", "Start it with --arch x86_64."},
        {56, "RSC\x05", 4, "a RISC-V kernel", "Start it with --arch riscv64."},
        {56, "ARM\x64", 4, "an ARM64 kernel", "This machine has another processor."},
        {0, "MZ", 2, "an EFI program without a kernel's header", "Give it a Linux kernel."},
    };
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        if (kinds[i].offset + kinds[i].length <= size &&
            memcmp(head + kinds[i].offset, kinds[i].bytes, kinds[i].length) == 0) {
            error_set(err, ERROR_USAGE, "the kernel '%s' is %s", file->path, kinds[i].what);
            error_hint(err, "%s", kinds[i].remedy);
            return false;
        }
    if (riscv) {
        error_set(err, ERROR_USAGE, "'%s' is not a RISC-V Linux kernel (Image or ELF)", file->path);
        error_hint(err, "Debian's is in the package linux-image-riscv64; a bare-metal program is "
                        "given with --firmware.");
    } else {
        error_set(err, ERROR_USAGE, "'%s' is not an x86-64 Linux kernel (bzImage or ELF)",
                  file->path);
        error_hint(err, "Debian's is in the package linux-image-amd64.");
    }
    return false;
}

/* ---- initrd ---- */

/* An archive of cpio's "new ASCII" format: files behind each other, the last one's name is
 * TRAILER!!! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst). */
enum { NEWC_SIZE = 110, NEWC_FILE_SIZE = 54, NEWC_NAME_SIZE = 94 };
static const char newc_trailer[] = "TRAILER!!!";

static bool is_newc(const uint8_t *header)
{
    return memcmp(header, "070701", 6) == 0 || memcmp(header, "070702", 6) == 0;
}

static bool read_hex(const uint8_t *digits, uint64_t *value)
{
    char text[9] = {0}, *end;
    memcpy(text, digits, 8);
    if (strspn(text, "0123456789abcdefABCDEF") != 8)
        return false;
    *value = strtoull(text, &end, 16);
    return true;
}

struct newc_entry {
    uint64_t next; /* offset behind it */
    bool last;
};

/* The entry at `at`; false without an error set: there is none. */
static bool read_newc(const struct boot_file *file, uint64_t at, struct newc_entry *entry,
                      struct error **err)
{
    uint8_t header[NEWC_SIZE], name[sizeof(newc_trailer)] = {0};
    uint64_t file_size, name_size;
    if (!range_within(at, sizeof(header), file->size) ||
        !boot_read(file, at, header, sizeof(header), err) || !is_newc(header) ||
        !read_hex(header + NEWC_FILE_SIZE, &file_size) ||
        !read_hex(header + NEWC_NAME_SIZE, &name_size))
        return false;
    uint64_t name_at = at + sizeof(header);
    if (!range_within(name_at, name_size, file->size) ||
        (name_size == sizeof(name) && !boot_read(file, name_at, name, sizeof(name), err)))
        return false;
    entry->next = align_up(align_up(name_at + name_size, 4) + file_size, 4);
    entry->last = memcmp(name, newc_trailer, sizeof(newc_trailer)) == 0;
    return true;
}

/* Skips zero padding; the end of the file if nothing else follows. */
static bool skip_zeroes(const struct boot_file *file, uint64_t *at, struct error **err)
{
    uint8_t bytes[4096];
    for (; *at < file->size; *at += sizeof(bytes)) {
        uint64_t left = file->size - *at;
        size_t size = left < sizeof(bytes) ? (size_t)left : sizeof(bytes);
        if (!boot_read(file, *at, bytes, size, err))
            return false;
        for (size_t i = 0; i < size; i++)
            if (bytes[i] != 0) {
                *at += i;
                return true;
            }
    }
    *at = file->size;
    return true;
}

/* Several archives may stand behind each other; a compressed one ends what can be checked. */
bool boot_check_initrd(const struct boot_file *file, struct error **err)
{
    uint8_t magic[6];
    uint64_t at = 0;
    while (at < file->size) {
        if (file->size - at < sizeof(magic))
            return true;
        if (!boot_read(file, at, magic, sizeof(magic), err))
            return false;
        if (!is_newc(magic))
            return true;
        for (struct newc_entry entry = {0}; !entry.last; at = entry.next) {
            struct error *reason = NULL;
            if (read_newc(file, at, &entry, &reason))
                continue;
            if (reason != NULL)
                return error_propagate(err, reason);
            error_set(err, ERROR_USAGE,
                      "the initrd '%s' is truncated or damaged: its archive breaks off at byte "
                      "%llu of %llu",
                      file->path, (unsigned long long)(at < file->size ? at : file->size),
                      (unsigned long long)file->size);
            error_hint(err, "Copy or build it again.");
            return false;
        }
        if (!skip_zeroes(file, &at, err))
            return false;
    }
    return true;
}
