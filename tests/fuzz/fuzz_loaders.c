/* SPDX-License-Identifier: MIT
 *
 * The boot loaders of both boards (vm/boot.c, load_elf.c, load_linux.c, vm/pc/) against any file.
 *
 * Input: 1 byte of options (bits 1:0 what the file is given as, bit 2 how much memory there
 * is, bit 3 whether the board is the PC), then the file. Checked: a refusal has a sentence; an accepted plan lies in RAM and
 * inside its files, nothing overlaps the device tree, and loading it succeeds.
 */
#include "fuzz.h"

#include "boot_files.h"

#include "base/error.h"
#include "config/machine.h"
#include "mem/mem.h"
#include "vm/boot.h"
#include "vm/pc/boot.h"
#include "vm/virt/virt.h"

#define RAM UINT64_C(0x80000000)
/* Clearing what a hostile file claims to need is the slow part: beyond this, only checked. */
#define LOAD_LIMIT (1 * MIB)

enum role { AS_KERNEL, AS_INITRD, AS_FIRMWARE, AS_BOTH };

static void check_plan(const struct boot *boot, uint64_t ram_size)
{
    uint64_t total = 0;
    fuzz_check(range_within(boot->fdt_gpa - RAM, boot->fdt_limit, ram_size));
    fuzz_check(boot->segment_count <= BOOT_MAX_SEGMENTS);
    for (size_t i = 0; i < boot->segment_count; i++) {
        const struct boot_segment *segment = &boot->segments[i];
        fuzz_check(segment->gpa >= RAM &&
                   range_within(segment->gpa - RAM, segment->memory_size, ram_size));
        fuzz_check(segment->gpa + segment->memory_size <= boot->fdt_gpa);
        fuzz_check(segment->file_size <= segment->memory_size);
        fuzz_check(range_within(segment->offset, segment->file_size, segment->file->size));
        total += segment->memory_size;
    }
    fuzz_check(range_within(boot->entry - RAM, 1, ram_size));
    if (total > LOAD_LIMIT)
        return;
    struct mem_space *mem = mem_space_new();
    struct error *err = NULL;
    fuzz_check(mem_add_ram(mem, "ram", RAM, ram_size, MEM_BACKEND_ANONYMOUS, -1, &err) != NULL);
    fuzz_check(boot_load_segments(boot, mem, &err));
    mem_space_free(mem);
}

static void check_pc_plan(const struct boot *boot, uint64_t ram_size)
{
    static const struct pc_memory map[] = {{0, PC_BOOT_LOW_END, PC_MEMORY_RAM}};
    const struct pc_boot_info info = {.command_line = "", .memory = map, .memory_count = 1};
    uint64_t total = 0;
    fuzz_check(boot->segment_count <= BOOT_MAX_SEGMENTS);
    for (size_t i = 0; i < boot->segment_count; i++) {
        const struct boot_segment *segment = &boot->segments[i];
        fuzz_check(segment->gpa >= PC_BOOT_KERNEL_MIN &&
                   range_within(segment->gpa, segment->memory_size, ram_size));
        fuzz_check(range_within(segment->offset, segment->file_size, segment->file->size));
        total += segment->memory_size;
    }
    fuzz_check(boot->entry >= PC_BOOT_KERNEL_MIN && boot->entry < ram_size);
    struct mem_space *mem = mem_space_new();
    struct error *err = NULL;
    fuzz_check(mem_add_ram(mem, "ram", 0, ram_size, MEM_BACKEND_ANONYMOUS, -1, &err) != NULL);
    fuzz_check(total > LOAD_LIMIT || boot_load_segments(boot, mem, &err));
    fuzz_check(pc_boot_write(boot, &info, mem, &err));
    mem_space_free(mem);
}

static void pc(struct boot *boot, const struct machine_config *config, uint64_t ram_size)
{
    struct error *err = NULL;
    if (boot_open(boot, config, &err) && pc_boot_plan(boot, ram_size, "quiet", &err)) {
        fuzz_check(err == NULL);
        check_pc_plan(boot, ram_size);
    } else {
        fuzz_check(err != NULL && error_message(err)[0] != '\0');
        error_free(err);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct boot_bytes kernel;
    char kernel_path[32], path[32];
    bool on_pc = (data[0] & 8) != 0;
    if (on_pc)
        make_bzimage(&kernel, "", 0);
    else
        make_image(&kernel, "", 0);
    int kernel_fd = put_file(kernel.data, kernel.size, kernel_path);
    int fd = put_file(data + 1, size - 1, path);
    fuzz_check(kernel_fd >= 0 && fd >= 0);

    enum role role = (enum role)(data[0] & 3);
    uint64_t ram_size = data[0] & 4 ? 64 * MIB : 32 * MIB;
    struct machine_config config = {0};
    config.kernel = role == AS_INITRD ? kernel_path : role == AS_FIRMWARE ? NULL : path;
    config.initrd = role == AS_INITRD ? path : NULL;
    config.firmware = role == AS_FIRMWARE ? path : role == AS_BOTH ? kernel_path : NULL;
    struct boot boot;
    struct error *err = NULL;
    if (on_pc) {
        pc(&boot, &config, ram_size);
    } else if (boot_open(&boot, &config, &err) && virt_boot_plan(&boot, RAM, ram_size, &err)) {
        fuzz_check(err == NULL);
        check_plan(&boot, ram_size);
    } else {
        fuzz_check(err != NULL && error_message(err)[0] != '\0');
        error_free(err);
    }
    boot_clear(&boot);
    close(fd);
    close(kernel_fd);
    return 0;
}

/* Numbers that lie at edges: of the file, of RAM, of the type. */
static uint64_t edge(uint64_t *seed, uint64_t file_size)
{
    const uint64_t bases[] = {
        0,          file_size, RAM, RAM + 32 * MIB, RAM + 64 * MIB, 64 * MIB, UINT64_C(1) << 32,
        UINT64_MAX, 4096};
    uint64_t random = fuzz_random(seed);
    return bases[random % ARRAY_SIZE(bases)] + (random >> 8) % 33 - 16;
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const size_t elf_fields[] = {offsetof(Elf64_Ehdr, e_entry),
                                        offsetof(Elf64_Ehdr, e_phoff),
                                        offsetof(Elf64_Ehdr, e_shoff),
                                        ELF_PHDR + 8,
                                        ELF_PHDR + 16,
                                        ELF_PHDR + 24,
                                        ELF_PHDR + 32,
                                        ELF_PHDR + 40,
                                        ELF_SHDR + 64 + 24,
                                        ELF_SHDR + 64 + 32,
                                        ELF_SHDR + 128 + 24,
                                        ELF_SHDR + 128 + 32,
                                        ELF_SYMTAB + 24};
    static const size_t image_fields[] = {
        8, 16, 24, 60, IMAGE_PE + 6, IMAGE_PE + 20, IMAGE_SECTIONS + 16, IMAGE_SECTIONS + 20};
    static const size_t bzimage_fields[] = {0x1f1, 0x1f4, 0x201, 0x206, 0x22c, 0x230,
                                            0x234, 0x236, 0x238, 0x258, 0x260};
    static const size_t pvh_fields[] = {PVH_NOTE,     PVH_NOTE + 4, PVH_NOTE + 8, PVH_NOTE + 16,
                                        ELF_PHDR + 56 + 8, ELF_PHDR + 56 + 32};
    struct boot_bytes file;
    uint64_t kind = fuzz_random(seed) % 5;
    if (kind == 0)
        make_elf(&file, "", 0);
    else if (kind == 1)
        make_image(&file, "", 0);
    else if (kind == 2)
        make_newc(&file);
    else if (kind == 3)
        make_bzimage(&file, "", 0);
    else
        make_pvh(&file, "", 0);
    for (uint64_t changes = fuzz_random(seed) % 4; changes > 0; changes--) {
        uint64_t random = fuzz_random(seed);
        if (kind == 0)
            store_le64(file.data + elf_fields[random % ARRAY_SIZE(elf_fields)],
                       edge(seed, file.size));
        else if (kind == 1)
            store_le32(file.data + image_fields[random % ARRAY_SIZE(image_fields)],
                       (uint32_t)edge(seed, file.size));
        else if (kind == 3)
            store_le32(file.data + bzimage_fields[random % ARRAY_SIZE(bzimage_fields)],
                       (uint32_t)edge(seed, file.size));
        else if (kind == 4 && random % 3 == 0)
            store_le32(file.data + pvh_fields[random / 3 % ARRAY_SIZE(pvh_fields)],
                       (uint32_t)edge(seed, file.size));
        else if (kind == 4)
            store_le64(file.data + elf_fields[random % ARRAY_SIZE(elf_fields)],
                       edge(seed, file.size));
        else
            file.data[random % file.size] = (uint8_t) "0123456789abcdefx"[(random >> 32) % 17];
    }
    if (fuzz_random(seed) % 4 == 0)
        file.size = fuzz_random(seed) % (file.size + 1);
    data[0] = (uint8_t)(fuzz_random(seed) & ~UINT64_C(8)) | (kind > 2 ? 8 : 0);
    memcpy(data + 1, file.data, file.size < FUZZ_INPUT_MAX ? file.size : FUZZ_INPUT_MAX - 1);
    return 1 + (file.size < FUZZ_INPUT_MAX ? file.size : FUZZ_INPUT_MAX - 1);
}
