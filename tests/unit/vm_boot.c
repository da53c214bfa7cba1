/* SPDX-License-Identifier: MIT
 *
 * The boot plan: what loads where, and every damaged, truncated or foreign file gets its
 * sentence.
 */
#include "support.h"

#include "boot_files.h"
#include "config/machine.h"
#include "mem/mem.h"
#include "vm/boot.h"
#include "vm/virt/virt.h"

#define RAM      UINT64_C(0x80000000)
#define RAM_SIZE (64 * MIB)

enum role { KERNEL, INITRD, FIRMWARE };

struct bench {
    struct boot boot;
    struct machine_config config;
    struct error *err;
    int fds[3];
    char paths[3][32];
};

static void give(struct bench *b, enum role role, const struct boot_bytes *file)
{
    b->fds[role] = put_file(file->data, file->size, b->paths[role]);
    assert_true(b->fds[role] >= 0);
    char **const members[] = {&b->config.kernel, &b->config.initrd, &b->config.firmware};
    *members[role] = b->paths[role];
}

static bool plan(struct bench *b, uint64_t ram_size)
{
    return boot_open(&b->boot, &b->config, &b->err) && virt_boot_plan(&b->boot, RAM, ram_size, &b->err);
}

static void bench_done(struct bench *b)
{
    boot_clear(&b->boot);
    error_free(b->err);
    for (unsigned i = 0; i < 3; i++)
        if (b->fds[i] > 0)
            close(b->fds[i]);
}

static void plan_fails(const struct boot_bytes *file, enum role role, const char *part)
{
    struct bench b = {0};
    struct boot_bytes kernel;
    make_image(&kernel, "", 0);
    if (role == INITRD)
        give(&b, KERNEL, &kernel);
    give(&b, role, file);
    if (plan(&b, RAM_SIZE))
        fail_msg("accepted, though '%s' was expected", part);
    assert_error(&b.err, ERROR_USAGE, part);
    bench_done(&b);
}

static void plan_works(const struct boot_bytes *file, enum role role)
{
    struct bench b = {0};
    struct boot_bytes kernel;
    make_image(&kernel, "", 0);
    if (role == INITRD)
        give(&b, KERNEL, &kernel);
    give(&b, role, file);
    plan(&b, RAM_SIZE);
    assert_no_error(b.err);
    bench_done(&b);
}

/* ---- good files ---- */

static void image_and_initrd_are_placed(void **state)
{
    struct boot_bytes kernel, initrd;
    struct bench b = {0};
    (void)state;
    make_image(&kernel, "code", 4);
    make_newc(&initrd);
    give(&b, KERNEL, &kernel);
    give(&b, INITRD, &initrd);
    assert_true(plan(&b, RAM_SIZE));
    assert_true(b.boot.sbi);
    assert_true(b.boot.entry == RAM + 2 * MIB);
    assert_true(b.boot.initrd_gpa % MEM_PAGE_SIZE == 0);
    assert_true(b.boot.initrd_size == initrd.size);
    assert_true(b.boot.initrd_gpa >= b.boot.entry + 0x10000);
    assert_true(b.boot.initrd_gpa + initrd.size <= b.boot.fdt_gpa);
    assert_true(b.boot.fdt_gpa % 8 == 0);
    assert_true(b.boot.fdt_gpa + b.boot.fdt_limit < RAM + RAM_SIZE);

    struct mem_space *mem = mem_space_new();
    assert_non_null(mem_add_ram(mem, "ram", RAM, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, &b.err));
    uint8_t *at = mem_ram_pointer(mem, RAM + 2 * MIB, 0x10001, MEM_WRITE);
    memset(at, 0xee, 0x10001);
    assert_true(boot_load_segments(&b.boot, mem, &b.err));
    assert_memory_equal(at, kernel.data, kernel.size);
    for (size_t i = kernel.size; i < 0x10000; i++)
        assert_int_equal(at[i], 0); /* bss */
    assert_int_equal(at[0x10000], 0xee);
    at = mem_ram_pointer(mem, b.boot.initrd_gpa, initrd.size, MEM_READ);
    assert_memory_equal(at, initrd.data, initrd.size);
    mem_space_free(mem);
    bench_done(&b);
}

static void take_log(void *opaque, struct mem_ram *ram, uint64_t gpa)
{
    uint64_t bitmap;
    (void)mem_dirty_take(opaque, ram, gpa, MEM_PAGE_SIZE, &bitmap);
}

/* A machine that is loaded anew while somebody copies its memory. */
static void what_is_loaded_is_in_the_dirty_log(void **state)
{
    struct boot_bytes kernel;
    struct bench b = {0};
    uint64_t bitmap;
    (void)state;
    make_image(&kernel, "code", 4);
    give(&b, KERNEL, &kernel);
    assert_true(plan(&b, RAM_SIZE));
    struct mem_space *mem = mem_space_new();
    struct mem_ram *ram =
        mem_add_ram(mem, "ram", RAM, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, &b.err);
    struct mem_listener listener = {.code_written = take_log, .opaque = mem};
    mem_listen(mem, &listener);
    mem_note_code(mem, ram, RAM + 2 * MIB);
    assert_true(boot_load_segments(&b.boot, mem, &b.err));
    assert_int_equal(mem_dirty_take(mem, ram, RAM + 2 * MIB, MEM_PAGE_SIZE, &bitmap), 1);
    mem_space_free(mem);
    bench_done(&b);
}

static void elf_is_placed(void **state)
{
    struct boot_bytes program;
    struct bench b = {0};
    (void)state;
    make_elf(&program, "code", 4);
    give(&b, FIRMWARE, &program);
    assert_true(plan(&b, 32 * MIB));
    assert_false(b.boot.sbi);
    assert_true(b.boot.entry == ELF_LOAD_GPA);
    assert_true(b.boot.tohost_gpa == ELF_TOHOST);
    assert_true(b.boot.fromhost_gpa == ELF_FROMHOST);
    assert_int_equal(b.boot.segment_count, 1);
    assert_int_equal(b.boot.segments[0].memory_size, 2 * ELF_CODE_SIZE);
    bench_done(&b);
}

/* Linked at 0x1000 (e_type DYN) it lies where RAM begins, offsets within a page kept; linked
 * for RAM it lies where it was linked. A program that is not position-independent is refused. */
static void position_independent_programs_go_to_ram(void **state)
{
    static const struct {
        uint64_t linked;
        uint16_t type;
        uint64_t loaded; /* 0: refused */
    } cases[] = {
        {0x1000, ET_DYN, RAM},
        {0x1010, ET_DYN, RAM + 0x10},
        {0, ET_DYN, RAM},
        {RAM + 0x2000, ET_DYN, RAM + 0x2000},
        {UINT64_C(0xffffffff80000000), ET_DYN, 0},
        {0x1000, ET_EXEC, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct boot_bytes program;
        struct bench b = {0};
        uint64_t linked = cases[i].linked;
        make_elf(&program, "code", 4);
        store_le16(program.data + offsetof(Elf64_Ehdr, e_type), cases[i].type);
        store_le64(program.data + offsetof(Elf64_Ehdr, e_entry), linked + 4);
        store_le64(program.data + ELF_PHDR + offsetof(Elf64_Phdr, p_vaddr), linked);
        store_le64(program.data + ELF_PHDR + offsetof(Elf64_Phdr, p_paddr), linked);
        store_le64(program.data + ELF_SYMTAB + sizeof(Elf64_Sym) + offsetof(Elf64_Sym, st_value),
                   linked + 64);
        give(&b, FIRMWARE, &program);
        bool planned = plan(&b, 32 * MIB);
        assert_int_equal(planned, cases[i].loaded != 0);
        if (planned) {
            assert_true(b.boot.segments[0].gpa == cases[i].loaded);
            assert_true(b.boot.entry == cases[i].loaded + 4);
            assert_true(b.boot.tohost_gpa == cases[i].loaded + 64);
        } else {
            assert_error(&b.err, ERROR_USAGE, "outside of the guest's memory");
        }
        bench_done(&b);
    }
}

/* A kernel's addresses are virtual: entry and symbols follow its segment. */
static void virtual_addresses_become_physical(void **state)
{
    struct boot_bytes program;
    struct bench b = {0};
    const uint64_t base = UINT64_C(0xffffffff80000000);
    (void)state;
    make_elf(&program, "code", 4);
    store_le64(program.data + offsetof(Elf64_Ehdr, e_entry), base + 16);
    store_le64(program.data + ELF_PHDR + offsetof(Elf64_Phdr, p_vaddr), base);
    store_le64(program.data + ELF_PHDR + offsetof(Elf64_Phdr, p_paddr), RAM + 4 * MIB);
    give(&b, KERNEL, &program);
    assert_true(plan(&b, RAM_SIZE));
    assert_true(b.boot.entry == RAM + 4 * MIB + 16);
    bench_done(&b);
}

static void firmware_hands_over_to_kernel(void **state)
{
    struct boot_bytes kernel, firmware = {.size = 512};
    struct bench b = {0};
    (void)state;
    make_image(&kernel, "", 0);
    give(&b, KERNEL, &kernel);
    give(&b, FIRMWARE, &firmware);
    assert_true(plan(&b, RAM_SIZE));
    assert_false(b.boot.sbi);
    assert_true(b.boot.entry == RAM);
    assert_true(b.boot.next_entry == RAM + 2 * MIB);
    bench_done(&b);

    struct bench overlap = {0};
    uint8_t *large = calloc(1, 3 * MIB);
    make_image(&kernel, "", 0);
    give(&overlap, KERNEL, &kernel);
    overlap.fds[FIRMWARE] = put_file(large, 3 * MIB, overlap.paths[FIRMWARE]);
    overlap.config.firmware = overlap.paths[FIRMWARE];
    assert_false(plan(&overlap, RAM_SIZE));
    assert_error(&overlap.err, ERROR_USAGE, "overlap");
    free(large);
    bench_done(&overlap);
}

/* ---- what people give by mistake ---- */

static void foreign_files_are_named(void **state)
{
    static const struct {
        size_t offset;
        const char *bytes;
        size_t size;
        const char *part;
    } cases[] = {
        {0, "\x1f\x8b", 2, "gzip"},
        {0,
         "\xfd"
         "7zXZ",
         5, "xz"},
        {0, "\x28\xb5\x2f\xfd", 4, "zstd"},
        {0, "MZ\0\0zimg", 8, "zboot"},
        {0x202, "HdrS", 4, "x86"},
        {56, "ARM\x64", 4, "ARM64"},
        {0, "MZ", 2, "EFI"},
        {0, "hello", 5, "not a RISC-V Linux kernel"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct boot_bytes file = {.size = 1024};
        memcpy(file.data + cases[i].offset, cases[i].bytes, cases[i].size);
        plan_fails(&file, KERNEL, cases[i].part);
    }
    struct boot_bytes empty = {0}, tiny = {.data = "short", .size = 5};
    plan_fails(&empty, KERNEL, "is empty");
    plan_fails(&empty, INITRD, "is empty");
    plan_fails(&tiny, KERNEL, "not a RISC-V Linux kernel");
}

/* A field of a good file changed; what the sentence must mention. */
struct damage {
    size_t offset;
    unsigned size;
    uint64_t value;
    const char *part;
};

static void apply(struct boot_bytes *file, const struct damage *damage)
{
    uint8_t bytes[8];
    store_le64(bytes, damage->value);
    memcpy(file->data + damage->offset, bytes, damage->size);
}

#define EHDR(member) offsetof(Elf64_Ehdr, member)
#define PHDR(member) (ELF_PHDR + offsetof(Elf64_Phdr, member))

static void damaged_elf_is_refused(void **state)
{
    static const struct damage cases[] = {
        {EHDR(e_machine), 2, EM_X86_64, "x86_64"},
        {EHDR(e_machine), 2, EM_AARCH64, "ARM64"},
        {EHDR(e_machine), 2, 4711, "another processor"},
        {EI_CLASS, 1, ELFCLASS32, "32-bit"},
        {EI_DATA, 1, ELFDATA2MSB, "big-endian"},
        {EHDR(e_type), 2, ET_REL, "object file"},
        {EHDR(e_phnum), 2, 0, "program headers"},
        {EHDR(e_phnum), 2, 0xffff, "program headers"},
        {EHDR(e_phnum), 2, 1000, "truncated"},
        {EHDR(e_phentsize), 2, 32, "program headers"},
        {EHDR(e_phoff), 8, UINT64_MAX, "truncated"},
        {EHDR(e_phoff), 8, UINT64_MAX - 55, "truncated"},
        {EHDR(e_phoff), 8, ELF_SIZE - 55, "truncated"},
        {EHDR(e_entry), 8, 0x1000, "outside of its own segments"},
        {PHDR(p_type), 4, PT_NOTE, "outside of its own segments"},
        {PHDR(p_offset), 8, ELF_SIZE, "truncated"},
        {PHDR(p_offset), 8, UINT64_MAX, "truncated"},
        {PHDR(p_filesz), 8, 2 * ELF_CODE_SIZE + 1, "truncated or damaged"},
        {PHDR(p_filesz), 8, UINT64_MAX, "truncated or damaged"},
        {PHDR(p_memsz), 8, UINT64_MAX, "outside of the guest's memory"},
        {PHDR(p_memsz), 8, RAM_SIZE + 1, "outside of the guest's memory"},
        {PHDR(p_paddr), 8, 0, "outside of the guest's memory"},
        {PHDR(p_paddr), 8, RAM - 1, "outside of the guest's memory"},
        {PHDR(p_paddr), 8, RAM + RAM_SIZE - 1, "outside of the guest's memory"},
        {PHDR(p_paddr), 8, UINT64_MAX - 8, "outside of the guest's memory"},
        {PHDR(p_memsz), 8, RAM_SIZE, "no room for the device tree"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct boot_bytes file;
        make_elf(&file, "", 0);
        apply(&file, &cases[i]);
        plan_fails(&file, FIRMWARE, cases[i].part);
    }
    for (size_t size = 4; size < ELF_CODE + ELF_CODE_SIZE; size++) {
        struct boot_bytes file;
        make_elf(&file, "", 0);
        file.size = size;
        plan_fails(&file, FIRMWARE, "truncated");
    }
}

/* Without usable symbols a program still runs; there is no HTIF then. */
static void damaged_symbols_are_ignored(void **state)
{
    static const struct damage cases[] = {
        {EHDR(e_shnum), 2, 0xffff, NULL},
        {EHDR(e_shoff), 8, UINT64_MAX, NULL},
        {EHDR(e_shentsize), 2, 1, NULL},
        {ELF_SHDR + 64 + 24, 8, UINT64_MAX, NULL}, /* symbols elsewhere */
        {ELF_SHDR + 64 + 32, 8, UINT64_MAX, NULL}, /* too many */
        {ELF_SHDR + 64 + 40, 4, 77, NULL},         /* no such string table */
        {ELF_SHDR + 128 + 32, 8, UINT64_MAX, NULL},
        {ELF_SYMTAB + 24, 4, 0xffffffff, NULL}, /* a name behind the strings' end */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct boot_bytes file;
        struct bench b = {0};
        make_elf(&file, "", 0);
        apply(&file, &cases[i]);
        give(&b, FIRMWARE, &file);
        assert_true(plan(&b, RAM_SIZE));
        assert_true(b.boot.tohost_gpa == 0);
        bench_done(&b);
    }
}

static void damaged_image_is_refused(void **state)
{
    static const struct damage cases[] = {
        {8, 8, 1 * MIB, "impossible place"},
        {8, 8, 0xfffffffffffe0000, "impossible place"},
        {8, 8, 64 * GIB, "impossible place"},
        {16, 8, UINT64_MAX, "larger than"},
        {16, 8, 32 * MIB, "needs about 82 MiB"},
        {24, 8, 1, "big-endian"},
        {60, 4, IMAGE_SIZE - 8, "truncated"},
        {60, 4, 0xffffffff, "truncated"},
        {IMAGE_PE + 6, 2, 0xffff, "truncated"},
        {IMAGE_PE + 20, 2, 0xffff, "truncated"},
        {IMAGE_SECTIONS + 16, 4, 0xffffffff, "truncated"},
        {IMAGE_SECTIONS + 20, 4, 0xffffffff, "truncated"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct boot_bytes file;
        make_image(&file, "", 0);
        apply(&file, &cases[i]);
        plan_fails(&file, KERNEL, cases[i].part);
    }
    for (size_t size = 64; size < IMAGE_SIZE; size += 7) {
        struct boot_bytes file;
        make_image(&file, "", 0);
        file.size = size;
        plan_fails(&file, KERNEL, "truncated");
    }
}

static void truncated_initrd_is_refused(void **state)
{
    struct boot_bytes whole;
    (void)state;
    make_newc(&whole);
    size_t end = whole.size; /* of the trailer's name, which is what must not be missing */
    while (whole.data[end - 1] == 0)
        end--;
    for (size_t size = 6; size <= end; size++) {
        struct boot_bytes file = whole;
        file.size = size;
        plan_fails(&file, INITRD, "truncated or damaged");
    }
    static const struct damage cases[] = {
        {54, 1, 'x', NULL},
        {94, 1, ' ', NULL},
        {54, 8, 0x6666666666666666, NULL},
        {94, 8, 0x6666666666666666, NULL},
        {110 + 5 + 1 + 12, 1, '?', NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct boot_bytes file = whole;
        apply(&file, &cases[i]);
        plan_fails(&file, INITRD, "truncated or damaged");
    }
}

static void other_initrds_are_taken_as_they_are(void **state)
{
    struct boot_bytes twice, one, compressed = {.data = "\x1f\x8b\x08", .size = 100};
    (void)state;
    make_newc(&one);
    twice = one;
    memcpy(twice.data + one.size, one.data, one.size);
    twice.size = 2 * one.size;
    plan_works(&twice, INITRD);
    memcpy(twice.data + one.size, compressed.data, compressed.size); /* microcode, then gzip */
    plan_works(&twice, INITRD);
    plan_works(&compressed, INITRD);
    struct boot_bytes one_byte = {.data = "x", .size = 1};
    plan_works(&one_byte, INITRD);
    make_newc(&twice); /* the second archive breaks off */
    memcpy(twice.data + one.size, one.data, 200);
    twice.size = one.size + 200;
    plan_fails(&twice, INITRD, "breaks off");
}

static void initrd_must_fit(void **state)
{
    struct boot_bytes kernel;
    struct bench b = {0};
    (void)state;
    make_image(&kernel, "", 0);
    give(&b, KERNEL, &kernel);
    b.fds[INITRD] = memfd_create("large", MFD_CLOEXEC);
    assert_int_equal(ftruncate(b.fds[INITRD], (off_t)(61 * MIB)), 0);
    snprintf(b.paths[INITRD], 32, "/proc/self/fd/%d", b.fds[INITRD]);
    b.config.initrd = b.paths[INITRD];
    assert_false(plan(&b, RAM_SIZE));
    assert_error(&b.err, ERROR_USAGE, "does not fit");
    bench_done(&b);
}

/* The file shrinks between the plan and a later start. */
/* Wherever it stands, also across the pieces in which a file is read; and not half of it. */
static void a_string_in_a_kernel(void **state)
{
    enum { SIZE = 700 * 1024 };
    static const char string[] = "riscv,imsics";
    static const size_t places[] = {0, 262130, 262137, 262144, 524270, SIZE - 12};
    char path[32];
    bool found;
    struct error *err = NULL;
    uint8_t *bytes = calloc(1, SIZE);
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        memset(bytes, 'r', SIZE);
        memcpy(bytes + places[i], string, sizeof(string) - 1);
        struct boot_file file = {put_file(bytes, SIZE, path), SIZE, path};
        struct boot boot = {.files = {[BOOT_KERNEL] = file}};
        assert_true(boot_kernel_contains(&boot, string, &found, &err) && found);
        assert_true(boot_kernel_contains(&boot, "riscv,imsicsx", &found, &err) && !found);
        close(file.fd);
    }
    assert_true(boot_kernel_contains(&(struct boot){0}, string, &found, &err) && !found);
    free(bytes);
}

static void file_may_shrink(void **state)
{
    struct boot_bytes kernel;
    struct bench b = {0};
    (void)state;
    make_image(&kernel, "", 0);
    give(&b, KERNEL, &kernel);
    assert_true(plan(&b, RAM_SIZE));
    assert_int_equal(ftruncate(b.fds[KERNEL], 100), 0);
    struct mem_space *mem = mem_space_new();
    assert_non_null(mem_add_ram(mem, "ram", RAM, RAM_SIZE, MEM_BACKEND_ANONYMOUS, -1, &b.err));
    assert_false(boot_load_segments(&b.boot, mem, &b.err));
    assert_error(&b.err, ERROR_HOST, "shorter");
    mem_space_free(mem);
    bench_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_and_initrd_are_placed),
        cmocka_unit_test(what_is_loaded_is_in_the_dirty_log),
        cmocka_unit_test(elf_is_placed),
        cmocka_unit_test(position_independent_programs_go_to_ram),
        cmocka_unit_test(virtual_addresses_become_physical),
        cmocka_unit_test(firmware_hands_over_to_kernel),
        cmocka_unit_test(foreign_files_are_named),
        cmocka_unit_test(damaged_elf_is_refused),
        cmocka_unit_test(damaged_symbols_are_ignored),
        cmocka_unit_test(damaged_image_is_refused),
        cmocka_unit_test(truncated_initrd_is_refused),
        cmocka_unit_test(other_initrds_are_taken_as_they_are),
        cmocka_unit_test(initrd_must_fit),
        cmocka_unit_test(a_string_in_a_kernel),
        cmocka_unit_test(file_may_shrink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
