/* SPDX-License-Identifier: MIT
 *
 * The x86-64 board's boot plan and what the kernel is told; every damaged, truncated or foreign
 * file gets its sentence.
 */
#include "support.h"


#include "boot_files.h"
#include "config/machine.h"
#include "mem/mem.h"
#include "vm/boot.h"
#include "vm/pc/boot.h"
#include "vm/pc/firmware.h"
#include "vm/pc/load_linux.h"
#include "vm/pc/mp.h"

#define RAM_SIZE (64 * MIB)

struct bench {
    struct boot boot;
    struct machine_config config;
    struct error *err;
    int fds[2];
    char paths[2][32];
};

static void give(struct bench *b, unsigned role, const struct boot_bytes *file)
{
    b->fds[role] = put_file(file->data, file->size, b->paths[role]);
    assert_true(b->fds[role] >= 0);
    *(role == BOOT_KERNEL ? &b->config.kernel : &b->config.initrd) = b->paths[role];
}

static bool plan(struct bench *b, uint64_t ram, const char *command_line)
{
    return boot_open(&b->boot, &b->config, &b->err) &&
           pc_boot_plan(&b->boot, ram, command_line, &b->err);
}

static void done(struct bench *b)
{
    boot_clear(&b->boot);
    error_free(b->err);
    for (unsigned i = 0; i < 2; i++)
        if (b->fds[i] > 0)
            close(b->fds[i]);
}

static void refused(const struct boot_bytes *file, uint64_t ram, const char *command_line,
                    const char *part)
{
    struct bench b = {0};
    give(&b, BOOT_KERNEL, file);
    if (plan(&b, ram, command_line))
        fail_msg("accepted, though '%s' was expected", part);
    assert_error(&b.err, ERROR_USAGE, part);
    done(&b);
}

static uint64_t word(struct mem_space *mem, uint64_t gpa, unsigned size)
{
    uint8_t bytes[8] = {0};
    assert_true(mem_read(mem, gpa, bytes, size));
    return load_le64(bytes);
}

static struct mem_space *written(struct bench *b, const char *command_line)
{
    static const struct pc_memory map[] = {{0, PC_BOOT_LOW_END, PC_MEMORY_RAM},
                                           {0x100000, RAM_SIZE - 0x100000, PC_MEMORY_RAM}};
    struct pc_boot_info info = {.command_line = command_line,
                                .rsdp_gpa = 0xe0000,
                                .memory = map,
                                .memory_count = 2,
                                .seed = {1, 2, 3}};
    struct mem_space *mem = mem_space_new();
    assert_non_null(mem_add_ram(mem, "ram", 0, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, &b->err));
    assert_true(boot_load_segments(&b->boot, mem, &b->err));
    assert_true(pc_boot_write(&b->boot, &info, mem, &b->err));
    return mem;
}

/* Where a linear address leads by the tables. */
static uint64_t walk(struct mem_space *mem, uint64_t address)
{
    uint64_t table = PC_BOOT_PAGES, entry = 0;
    for (unsigned level = 0; level < 3; level++) {
        entry = word(mem, table + 8 * (address >> (39 - 9 * level) & 511), 8);
        assert_int_equal(entry & 3, 3);
        table = entry & UINT64_C(0xffffffffff000);
    }
    assert_int_equal(entry & 0x80, 0x80);
    return table | (address & (2 * MIB - 1));
}

static void test_bzimage(void **state)
{
    struct bench b = {0};
    struct boot_bytes kernel, initrd;
    (void)state;
    make_bzimage(&kernel, "\xf4", 1);
    make_newc(&initrd);
    give(&b, BOOT_KERNEL, &kernel);
    give(&b, BOOT_INITRD, &initrd);
    if (!plan(&b, RAM_SIZE, "console=ttyS0"))
        fail_msg("%s", error_message(b.err));
    assert_int_equal(b.boot.protocol, PC_LINUX64);
    assert_int_equal(b.boot.entry, BZIMAGE_GPA + 0x200);
    assert_int_equal(b.boot.initrd_gpa, RAM_SIZE - align_up(initrd.size, 4096));
    struct mem_space *mem = written(&b, "console=ttyS0");
    assert_int_equal(word(mem, b.boot.entry, 1), 0xf4);
    assert_int_equal(word(mem, PC_BOOT_INFO + 0x202, 4), 0x53726448); /* the header, */
    assert_int_equal(word(mem, PC_BOOT_INFO + 0x258, 8), BZIMAGE_GPA);
    assert_int_equal(word(mem, PC_BOOT_INFO + 0x26c, 4), 0); /* and nothing behind it */
    assert_int_equal(word(mem, PC_BOOT_INFO + 0x070, 8), 0xe0000);
    assert_int_equal(word(mem, PC_BOOT_INFO + 0x1e8, 1), 2);
    assert_int_equal(word(mem, PC_BOOT_INFO + 0x2d0 + 20, 8), 0x100000);
    assert_int_equal(word(mem, PC_BOOT_INFO + 0x2d0 + 28, 8), RAM_SIZE - 0x100000);
    assert_int_equal(word(mem, PC_BOOT_INFO + 0x218, 4), b.boot.initrd_gpa);
    assert_int_equal(word(mem, PC_BOOT_INFO + 0x21c, 4), initrd.size);
    uint64_t line = word(mem, PC_BOOT_INFO + 0x228, 4), seed = word(mem, PC_BOOT_INFO + 0x250, 8);
    assert_memory_equal(mem_ram_pointer(mem, line, 14, MEM_READ), "console=ttyS0", 14);
    assert_int_equal(word(mem, seed + 8, 4), 9);
    assert_int_equal(word(mem, seed + 16, 3), 0x030201);
    for (uint64_t at = 0x1234; at < 4 * GIB; at += 509 * MIB)
        assert_int_equal(walk(mem, at), at);
    assert_int_equal(word(mem, PC_BOOT_GDT + 0x10, 8), 0x00af9b000000ffff);
    mem_space_free(mem);
    done(&b);
}

/* With little memory a relocatable kernel goes lower; one that is not says what it needs. */
static void test_bzimage_in_little_memory(void **state)
{
    struct bench b = {0};
    struct boot_bytes kernel;
    (void)state;
    make_bzimage(&kernel, "", 0);
    give(&b, BOOT_KERNEL, &kernel);
    assert_true(plan(&b, 40 * MIB, ""));
    assert_int_equal(b.boot.entry, 2 * MIB + 0x200);
    done(&b);
    refused(&kernel, 32 * MIB, "", "needs about 38 MiB of memory to start, the guest has 32 MiB");
    kernel.data[0x234] = 0;
    refused(&kernel, 40 * MIB, "", "needs about 52 MiB");
    refused(&kernel, 1 * MIB, "", "needs about");
}

static void test_pvh(void **state)
{
    struct bench b = {0};
    struct boot_bytes kernel, initrd;
    (void)state;
    make_pvh(&kernel, "\xf4", 1);
    make_newc(&initrd);
    give(&b, BOOT_KERNEL, &kernel);
    give(&b, BOOT_INITRD, &initrd);
    if (!plan(&b, RAM_SIZE, "quiet"))
        fail_msg("%s", error_message(b.err));
    assert_int_equal(b.boot.protocol, PC_PVH);
    assert_int_equal(b.boot.entry, PVH_GPA + 16);
    struct mem_space *mem = written(&b, "quiet");
    assert_int_equal(word(mem, PC_BOOT_INFO, 4), 0x336ec578);
    assert_int_equal(word(mem, PC_BOOT_INFO + 12, 4), 1);
    uint64_t modules = word(mem, PC_BOOT_INFO + 16, 8), map = word(mem, PC_BOOT_INFO + 40, 8);
    assert_int_equal(word(mem, modules, 8), b.boot.initrd_gpa);
    assert_int_equal(word(mem, modules + 8, 8), initrd.size);
    assert_int_equal(word(mem, PC_BOOT_INFO + 24, 8), PC_BOOT_COMMAND_LINE);
    assert_int_equal(word(mem, PC_BOOT_INFO + 32, 8), 0xe0000);
    assert_int_equal(word(mem, PC_BOOT_INFO + 48, 4), 2);
    assert_int_equal(word(mem, map + 24, 8), 0x100000);
    assert_int_equal(word(mem, map + 40, 4), PC_MEMORY_RAM);
    assert_int_equal(word(mem, PC_BOOT_GDT + 0x10, 8), 0x00cf9b000000ffff);
    mem_space_free(mem);
    done(&b);
}

static void test_elf_without_note_is_entered_in_64_bit_mode(void **state)
{
    struct bench b = {0};
    struct boot_bytes kernel;
    (void)state;
    make_pvh(&kernel, "\xf4", 1);
    kernel.data[PVH_NOTE + 8] = 17; /* another note of Xen's */
    give(&b, BOOT_KERNEL, &kernel);
    assert_true(plan(&b, RAM_SIZE, ""));
    assert_int_equal(b.boot.protocol, PC_LINUX64);
    assert_int_equal(b.boot.entry, PVH_GPA);
    mem_space_free(written(&b, ""));
    done(&b);
}

static void test_refusals(void **state)
{
    struct boot_bytes good, file;
    (void)state;
    make_bzimage(&good, "", 0);
    file = good;
    file.size -= 16;
    refused(&file, RAM_SIZE, "", "truncated");
    file = good;
    store_le16(file.data + 0x206, 0x20b);
    refused(&file, RAM_SIZE, "", "no 64-bit entry");
    file = good;
    store_le16(file.data + 0x236, 0);
    refused(&file, RAM_SIZE, "", "no 64-bit entry");
    file = good;
    store_le32(file.data + 0x230, 3);
    refused(&file, RAM_SIZE, "", "damaged");
    file = good;
    store_le64(file.data + 0x258, UINT64_MAX & ~(2 * MIB - 1));
    refused(&file, RAM_SIZE, "", "damaged");
    file = good;
    store_le32(file.data + 0x260, UINT32_MAX);
    refused(&file, RAM_SIZE, "", "larger than 1 GiB");
    file = good;
    store_le64(file.data + 0x258, 0);
    file.data[0x234] = 0;
    refused(&file, RAM_SIZE, "", "below 1 MiB");
    store_le32(good.data + 0x238, 3);
    refused(&good, RAM_SIZE, "quiet", "command line of 3 bytes, not of 5");
    make_image(&file, "", 0);
    refused(&file, RAM_SIZE, "", "a RISC-V kernel");
    make_elf(&file, "", 0);
    refused(&file, RAM_SIZE, "", "a program for riscv64, not for x86_64");
    make_pvh(&file, "", 0);
    store_le64(file.data + PVH_NOTE + 16, 0x1000);
    refused(&file, RAM_SIZE, "", "outside of the guest's memory");
    make_pvh(&file, "", 0);
    ((Elf64_Phdr *)(void *)(file.data + ELF_PHDR))->p_paddr = 0x8000; /* where our tables are */
    refused(&file, RAM_SIZE, "", "outside of the guest's memory");
    memset(&file.data, 'x', sizeof(file.data));
    refused(&file, RAM_SIZE, "", "not an x86-64 Linux kernel");
}

static void test_initrd_keeps_below_the_kernels_limit(void **state)
{
    struct bench b = {0};
    struct boot_bytes kernel, initrd;
    (void)state;
    make_bzimage(&kernel, "", 0);
    store_le32(kernel.data + 0x22c, 0x1ffffff);
    make_newc(&initrd);
    give(&b, BOOT_KERNEL, &kernel);
    give(&b, BOOT_INITRD, &initrd);
    assert_true(plan(&b, RAM_SIZE, ""));
    assert_int_equal(b.boot.initrd_gpa, 32 * MIB - align_up(initrd.size, 4096));
    done(&b);
    b = (struct bench){0};
    store_le32(kernel.data + 0x22c, BZIMAGE_GPA);
    give(&b, BOOT_KERNEL, &kernel);
    give(&b, BOOT_INITRD, &initrd);
    assert_false(plan(&b, RAM_SIZE, ""));
    assert_error(&b.err, ERROR_USAGE, "does not fit behind the kernel");
    done(&b);
}

/* Linux' vmlinux: segments are linked to high addresses, and the entry is a physical one. */
static void test_elf_of_linux(void **state)
{
    struct boot_bytes file;
    (void)state;
    for (unsigned note = 0; note < 2; note++) {
        struct bench b = {0};
        make_pvh(&file, "", 0);
        Elf64_Ehdr *header = (Elf64_Ehdr *)(void *)file.data;
        Elf64_Phdr *segments = (Elf64_Phdr *)(void *)(file.data + ELF_PHDR);
        segments[0].p_vaddr = UINT64_C(0xffffffff81000000);
        header->e_entry = PVH_GPA + 8;
        if (note == 0)
            header->e_phnum = 1;
        give(&b, BOOT_KERNEL, &file);
        if (!plan(&b, RAM_SIZE, ""))
            fail_msg("%s", error_message(b.err));
        assert_int_equal(b.boot.protocol, note == 0 ? PC_LINUX64 : PC_PVH);
        assert_int_equal(b.boot.entry, note == 0 ? PVH_GPA + 8 : PVH_GPA + 16);
        assert_int_equal(b.boot.segments[0].gpa, PVH_GPA);
        done(&b);
    }
}

static void test_who_looks_at_acpi(void **state)
{
    struct boot_bytes file;
    bool looks;
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct bench b = {0};
        if (i == 0)
            make_bzimage(&file, "", 0);
        else
            make_pvh(&file, "", 0);
        if (i == 2)
            memcpy(file.data + file.size - 8, "RSD PTR ", 8);
        give(&b, BOOT_KERNEL, &file);
        assert_true(plan(&b, RAM_SIZE, ""));
        assert_true(pc_boot_acpi(&b.boot, "quiet", &looks, &b.err));
        assert_int_equal(looks, i != 1);
        assert_true(pc_boot_acpi(&b.boot, "console=ttyS0 acpi=off", &looks, &b.err));
        assert_false(looks);
        assert_true(pc_boot_acpi(&b.boot, NULL, &looks, &b.err));
        assert_int_equal(looks, i != 1);
        done(&b);
    }
}

/* ---- MP tables (MultiProcessor Specification 1.4) ---- */

static unsigned sum_of(const uint8_t *bytes, size_t size)
{
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += bytes[i];
    return sum & 0xff;
}

static void test_mp_tables(void **state)
{
    static const size_t sizes[] = {20, 8, 8, 8, 8};
    const struct pc_mp_setup setup = {3, 0xfec00000, 0xfee00000, 1u << 5 | 1u << 23};
    uint8_t bytes[PC_MP_MAX];
    unsigned seen[5] = {0}, entries = 0;
    (void)state;
    size_t size = pc_mp_build(&setup, 0xf0000, bytes, sizeof(bytes));
    assert_memory_equal(bytes, "_MP_", 4);
    assert_int_equal(sum_of(bytes, 16), 0);
    assert_int_equal(load_le32(bytes + 4), 0xf0010);
    const uint8_t *table = bytes + 16, *at = table + 44;
    assert_memory_equal(table, "PCMP", 4);
    assert_int_equal(load_le16(table + 4), size - 16);
    assert_int_equal(sum_of(table, size - 16), 0);
    assert_int_equal(load_le32(table + 36), 0xfee00000);
    for (; at < bytes + size; at += sizes[at[0]], entries++) {
        assert_in_range(at[0], 0, 4);
        unsigned number = seen[at[0]]++;
        if (at[0] == 0) {
            assert_int_equal(at[1], number);
            assert_int_equal(at[3], number == 0 ? 3 : 1);
        } else if (at[0] == 2) {
            assert_int_equal(at[1], 3); /* no CPU's ID */
            assert_int_equal(load_le32(at + 4), 0xfec00000);
        } else if (at[0] == 3) {
            assert_int_equal(at[5], number);
            assert_int_equal(at[6], 3);
            assert_int_equal(at[7], number);
            assert_int_equal(load_le16(at + 2), number == 5 || number == 23 ? 0xd : 0);
        }
    }
    assert_ptr_equal(at, bytes + size);
    assert_int_equal(entries, load_le16(table + 34));
    const unsigned expected[5] = {3, 1, 1, 24, 2};
    assert_memory_equal(seen, expected, sizeof(seen));
    assert_int_equal(pc_mp_build(&setup, 0xf0000, bytes, size - 1), 0);
}

/* ---- firmware ---- */

static bool plan_firmware(struct bench *b, size_t size, const struct boot_bytes *kernel)
{
    static uint8_t bytes[2 * MIB];
    *b = (struct bench){0};
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i / KIB);
    b->fds[1] = put_file(bytes, size, b->paths[1]);
    assert_true(b->fds[1] >= 0);
    b->config.firmware = b->paths[1];
    if (kernel != NULL)
        give(b, BOOT_KERNEL, kernel);
    return boot_open(&b->boot, &b->config, &b->err) &&
           pc_firmware_plan(&b->boot, RAM_SIZE, &b->err);
}

static void test_firmware_ends_where_a_processor_begins(void **state)
{
    static const struct {
        uint64_t size, flash;
    } rows[] = {{256 * KIB, 0}, {1920 * KIB, 128 * KIB}, {1100 * KIB, 948 * KIB}};
    struct bench b;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint64_t gpa;
        assert_true(plan_firmware(&b, rows[i].size, NULL));
        assert_int_equal(b.boot.rom.gpa, 4 * GIB - rows[i].size);
        assert_int_equal(pc_firmware_flash(&b.boot, &gpa), rows[i].flash);
        assert_int_equal(gpa + rows[i].flash, b.boot.rom.gpa);
        assert_int_equal(b.boot.segment_count, 1); /* its end, in RAM */
        assert_int_equal(b.boot.segments[0].gpa, 0xe0000);
        assert_int_equal(b.boot.segments[0].offset, rows[i].size - 128 * KIB);
        done(&b);
    }
    assert_true(plan_firmware(&b, 64 * KIB, NULL));
    assert_int_equal(b.boot.segments[0].gpa, 0xf0000);
    done(&b);
}

/* As Debian's package has it, in both sizes. */
static void test_new_flash_has_an_empty_store_of_variables(void **state)
{
    static const struct {
        const char *path;
        size_t size;
    } rows[] = {{"/usr/share/OVMF/OVMF_VARS_4M.fd", 0x84000}, {"/usr/share/OVMF/OVMF_VARS.fd", 0x20000}};
    static uint8_t wanted[0x84000], flash[0x84000];
    unsigned seen = 0;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        FILE *file = fopen(rows[i].path, "rb");
        if (file == NULL)
            continue;
        assert_int_equal(fread(wanted, 1, sizeof(wanted), file), rows[i].size);
        fclose(file);
        memset(flash, 0xff, sizeof(flash));
        pc_firmware_format(flash, rows[i].size);
        assert_memory_equal(flash, wanted, rows[i].size);
        seen++;
    }
    if (seen == 0)
        skip(); /* Debian's ovmf is not installed */
    memset(flash, 0xff, sizeof(flash));
    pc_firmware_format(flash, 948 * KIB - 1); /* of no size that there is */
    assert_int_equal(flash[0], 0xff);
}

static void test_firmware_that_is_none(void **state)
{
    static const size_t sizes[] = {4096, 64 * KIB + 1, 256 * KIB - 512};
    struct bench b;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        assert_false(plan_firmware(&b, sizes[i], NULL));
        assert_error(&b.err, ERROR_USAGE, "no image for x86_64 machines");
        done(&b);
    }
    const struct boot_bytes kernel = {.size = 4096};
    assert_false(plan_firmware(&b, 256 * KIB, &kernel));
    assert_error(&b.err, ERROR_USAGE, "bzImages only");
    done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bzimage),
        cmocka_unit_test(test_bzimage_in_little_memory),
        cmocka_unit_test(test_pvh),
        cmocka_unit_test(test_elf_without_note_is_entered_in_64_bit_mode),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_initrd_keeps_below_the_kernels_limit),
        cmocka_unit_test(test_elf_of_linux),
        cmocka_unit_test(test_who_looks_at_acpi),
        cmocka_unit_test(test_mp_tables),
        cmocka_unit_test(test_firmware_ends_where_a_processor_begins),
        cmocka_unit_test(test_new_flash_has_an_empty_store_of_variables),
        cmocka_unit_test(test_firmware_that_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
