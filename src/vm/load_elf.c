/* SPDX-License-Identifier: MIT
 *
 * ELF64 executables: bare-metal programs, firmware, vmlinux. Segments go to their
 * physical addresses; the symbols `tohost` and `fromhost` are looked up for the HTIF
 * convention of bare-metal test programs.
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "vm/boot.h"

#ifndef EM_RISCV
#define EM_RISCV 243
#endif

enum { MAX_HEADERS = 1024, MAX_SYMBOLS = 1 << 20, MAX_STRINGS = 64 << 20 };

bool boot_is_elf(const uint8_t *head, size_t size)
{
    return size >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0;
}

static const char *machine_name(unsigned machine)
{
    static const struct {
        unsigned machine;
        const char *name;
    } names[] = {{EM_386, "32-bit x86"}, {EM_X86_64, "x86_64"}, {EM_AARCH64, "ARM64"}, {EM_RISCV, "riscv64"},
                 {EM_ARM, "32-bit ARM"}, {EM_PPC64, "POWER"},   {EM_S390, "s390"}};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (names[i].machine == machine)
            return names[i].name;
    return "another processor";
}

static bool check_header(const struct boot_file *file, const Elf64_Ehdr *header, unsigned machine,
                         struct error **err)
{
    const char *wanted = machine_name(machine);
    if (header->e_machine != machine || header->e_ident[EI_CLASS] != ELFCLASS64 ||
        header->e_ident[EI_DATA] != ELFDATA2LSB) {
        if (header->e_machine == machine)
            error_set(err, ERROR_USAGE, "'%s' is a 32-bit or big-endian program, not one for %s",
                      file->path, wanted);
        else
            error_set(err, ERROR_USAGE, "'%s' is a program for %s, not for %s", file->path,
                      machine_name(header->e_machine), wanted);
        error_hint(err, "This machine is %s: give it a build for that.", wanted);
        return false;
    }
    if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
        return error_set(err, ERROR_USAGE, "'%s' is an ELF object file, not a linked program",
                         file->path);
    if (header->e_phnum == 0 || header->e_phnum > MAX_HEADERS ||
        header->e_phentsize != sizeof(Elf64_Phdr))
        return error_set(err, ERROR_USAGE, "'%s' is a damaged ELF file: its program headers",
                         file->path);
    return true;
}

/* A table of `count` entries of `size` bytes at `offset`; malloc()ed. NULL: absent, damaged
 * or too large. */
static void *read_table(const struct boot_file *file, uint64_t offset, uint64_t count,
                        uint64_t size, uint64_t limit)
{
    uint64_t bytes;
    if (count == 0 || __builtin_mul_overflow(count, size, &bytes) || bytes > limit ||
        !range_within(offset, bytes, file->size))
        return NULL;
    void *table = malloc(bytes);
    if (table != NULL && !boot_read(file, offset, table, bytes, NULL)) {
        free(table);
        table = NULL;
    }
    return table;
}

static void find_symbols(const struct boot_file *file, const Elf64_Shdr *symtab,
                         const Elf64_Shdr *strtab, uint64_t bias, struct elf_result *result)
{
    uint64_t count = symtab->sh_size / sizeof(Elf64_Sym);
    Elf64_Sym *symbols =
        read_table(file, symtab->sh_offset, count, sizeof(Elf64_Sym), MAX_SYMBOLS * 24ull);
    char *strings = read_table(file, strtab->sh_offset, strtab->sh_size, 1, MAX_STRINGS);
    for (uint64_t i = 0; symbols != NULL && strings != NULL && i < count; i++) {
        uint32_t name = symbols[i].st_name;
        if (name >= strtab->sh_size)
            continue;
        size_t room = strtab->sh_size - name;
        if (room >= 7 && memcmp(strings + name, "tohost", 7) == 0)
            result->tohost = symbols[i].st_value + bias;
        else if (room >= 9 && memcmp(strings + name, "fromhost", 9) == 0)
            result->fromhost = symbols[i].st_value + bias;
    }
    free(symbols);
    free(strings);
}

/* What is added to a file's addresses. A position-independent program (OpenSBI since 1.3 is
 * linked at 0 and relocates itself) lies where RAM begins unless it was linked for RAM. */
static uint64_t load_bias(const Elf64_Ehdr *header, const Elf64_Phdr *headers, uint64_t ram_base)
{
    const uint64_t page = 4096;
    uint64_t lowest = UINT64_MAX;
    for (unsigned i = 0; i < header->e_phnum; i++)
        if (headers[i].p_type == PT_LOAD && headers[i].p_memsz > 0 && headers[i].p_paddr < lowest)
            lowest = headers[i].p_paddr;
    return header->e_type == ET_DYN && lowest < ram_base ? ram_base - lowest / page * page : 0;
}

/* A file without (usable) symbols is fine: then there is no HTIF. */
static void find_htif(const struct boot_file *file, const Elf64_Ehdr *header, uint64_t bias,
                      struct elf_result *result)
{
    if (header->e_shentsize != sizeof(Elf64_Shdr))
        return;
    Elf64_Shdr *sections = read_table(file, header->e_shoff, header->e_shnum, sizeof(Elf64_Shdr),
                                      UINT16_MAX * sizeof(Elf64_Shdr));
    for (unsigned i = 0; sections != NULL && i < header->e_shnum; i++)
        if (sections[i].sh_type == SHT_SYMTAB && sections[i].sh_link < header->e_shnum)
            find_symbols(file, &sections[i], &sections[sections[i].sh_link], bias, result);
    free(sections);
}

/* A kernel's entry is a virtual address; before paging it is found by its segment. Linux' on x86 is a
 * physical one (vmlinux.lds.S: phys_startup_64). */
static bool find_entry(const Elf64_Ehdr *header, const Elf64_Phdr *segment, uint64_t gpa,
                       uint64_t *entry)
{
    bool physical = header->e_machine == EM_X86_64 &&
                    header->e_entry - segment->p_paddr < segment->p_memsz;
    uint64_t offset = header->e_entry - (physical ? segment->p_paddr : segment->p_vaddr);
    if (offset >= segment->p_memsz)
        return false;
    *entry = gpa + offset;
    return true;
}

bool boot_load_elf(struct boot *boot, const struct boot_file *file, unsigned machine,
                   uint64_t ram_base, uint64_t ram_size, struct elf_result *result,
                   struct error **err)
{
    Elf64_Ehdr header;
    *result = (struct elf_result){0};
    if (file->size < sizeof(header))
        return error_set(err, ERROR_USAGE, "'%s' is a truncated ELF file", file->path);
    if (!boot_read(file, 0, &header, sizeof(header), err) || !check_header(file, &header, machine, err))
        return false;
    Elf64_Phdr *headers = read_table(file, header.e_phoff, header.e_phnum, sizeof(Elf64_Phdr),
                                     MAX_HEADERS * sizeof(Elf64_Phdr));
    if (headers == NULL)
        return error_set(err, ERROR_USAGE, "'%s' is a truncated ELF file", file->path);
    bool good = true, entry_found = false;
    uint64_t bias = load_bias(&header, headers, ram_base);
    result->entry = header.e_entry;
    for (unsigned i = 0; good && i < header.e_phnum; i++) {
        const Elf64_Phdr *segment = &headers[i];
        if (segment->p_type != PT_LOAD || segment->p_memsz == 0)
            continue;
        uint64_t gpa = segment->p_paddr + bias;
        struct boot_segment wanted = {file, segment->p_offset, segment->p_filesz, gpa,
                                      segment->p_memsz};
        good = boot_add_segment(boot, &wanted, ram_base, ram_size, err);
        if (good && gpa + segment->p_memsz > result->end)
            result->end = gpa + segment->p_memsz;
        if (!entry_found)
            entry_found = find_entry(&header, segment, gpa, &result->entry);
    }
    free(headers);
    if (good && !entry_found)
        good = error_set(err, ERROR_USAGE, "'%s' starts outside of its own segments", file->path);
    if (good)
        find_htif(file, &header, bias, result);
    return good;
}
