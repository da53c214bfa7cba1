/* SPDX-License-Identifier: MIT
 *
 * Every row of the F and D tables, through the decoder, on the cases of rv_fp_cases.h. What
 * does not depend on values (FS, reserved rounding modes, NaN boxing, destination) is checked
 * for every row, and a row without a case fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bits.h"
#include "isa/riscv64/csr_bits.h"
#include "isa/riscv64/insn.h"
#include "isa/riscv64/mmu.h"
#include "mem/mem.h"
#include "unit/rv_fp_cases.h"

extern const struct rv_extension rv_f, rv_d;

/* ---- running one instruction ---- */

enum { RD = 3, RS1 = 5, RS2 = 6, RS3 = 7 };
#define OLD UINT64_C(0x5a5a5a5a5a5a5a5a)

struct fixture {
    struct rv_decoder *decoder;
    struct rv_hart *hart;
    bool *tried_f, *tried_d; /* per row */
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (fixture == NULL)
        return -1;
    fixture->decoder = rv_decoder_new();
    fixture->hart = calloc(1, sizeof(*fixture->hart));
    fixture->tried_f = calloc(rv_f.count, sizeof(bool));
    fixture->tried_d = calloc(rv_d.count, sizeof(bool));
    *state = fixture;
    return fixture->decoder && fixture->hart && fixture->tried_f && fixture->tried_d ? 0 : -1;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    rv_decoder_free(fixture->decoder);
    free(fixture->hart);
    free(fixture->tried_f);
    free(fixture->tried_d);
    free(fixture);
    return 0;
}

static void reset(struct fixture *fixture)
{
    struct rv_hart *hart = fixture->hart;
    memset(hart, 0, sizeof(*hart));
    hart->mstatus = UINT64_C(1) << 13; /* FS = Initial */
    hart->privilege = RV_M;
    hart->data_privilege = RV_M;
    for (unsigned i = 0; i < 32; i++)
        hart->f[i] = OLD ^ i;
    for (unsigned i = 1; i < 32; i++)
        hart->x[i] = OLD ^ i << 8;
}

static const struct rv_row *find_row(struct fixture *fixture, const char *name)
{
    for (size_t i = 0; i < rv_f.count; i++) {
        if (strcmp(rv_f.rows[i].name, name) == 0) {
            fixture->tried_f[i] = true;
            return &rv_f.rows[i];
        }
    }
    for (size_t i = 0; i < rv_d.count; i++) {
        if (strcmp(rv_d.rows[i].name, name) == 0) {
            fixture->tried_d[i] = true;
            return &rv_d.rows[i];
        }
    }
    fail_msg("no row %s", name);
    return NULL;
}

static bool x_operand(const struct rv_row *row)
{
    return row->format == RV_FORMAT_F_FX || row->format == RV_FORMAT_F_FX_NORM;
}

static bool x_result(const struct rv_row *row)
{
    return row->format == RV_FORMAT_F_XF || row->format == RV_FORMAT_F_XFF ||
           row->format == RV_FORMAT_F_XF_NORM;
}

static bool is_memory(const struct rv_row *row)
{
    return row->flags & (RV_ROW_LOAD | RV_ROW_STORE);
}

static bool has_rm(const struct rv_row *row)
{
    return !is_memory(row) && !(row->mask & 0x7000);
}

static uint32_t encode(const struct rv_row *row, unsigned rm)
{
    uint32_t fields = RD << 7 | rm << 12 | RS1 << 15 | RS2 << 20 | (uint32_t)RS3 << 27;
    return row->match | (fields & ~row->mask);
}

static enum rv_result run(struct fixture *fixture, const struct rv_row *row, uint32_t bits)
{
    struct rv_insn insn;
    memset(&insn, 0, sizeof(insn));
    rv_decode(fixture->decoder, bits, &insn);
    if (insn.row == UINT16_MAX ||
        strcmp(rv_decoder_row(fixture->decoder, insn.row)->name, row->name) != 0)
        fail_msg("%#x does not decode as %s", bits, row->name);
    return insn.exec(fixture->hart, &insn);
}

/* Runs with the mode in the instruction and, where there is such a field, in frm. Checks the
 * result, the flags (with none and with others accrued before), FS, and that nothing else has
 * changed. */
static void check_one(struct fixture *fixture, const char *name, unsigned rm, uint64_t a,
                      uint64_t b, uint64_t c, uint64_t result, uint8_t flags)
{
    static const uint8_t accrued[] = {0, NX, NX | UF | OF | DZ | NV};
    const struct rv_row *row = find_row(fixture, name);
    struct rv_hart *hart = fixture->hart;

    for (unsigned variant = 0; variant < 2 * ARRAY_SIZE(accrued); variant++) {
        bool dynamic = variant & 1;
        uint8_t before = accrued[variant / 2];
        reset(fixture);
        if (x_operand(row))
            hart->x[RS1] = a;
        else
            hart->f[RS1] = a;
        hart->f[RS2] = b;
        hart->f[RS3] = c;
        hart->fflags = before;
        hart->frm = (uint8_t)(dynamic ? rm : (rm + 1) % 5);

        uint64_t x_before[33], f_before[32];
        memcpy(x_before, hart->x, sizeof(x_before));
        memcpy(f_before, hart->f, sizeof(f_before));
        enum rv_result way = run(fixture, row, encode(row, dynamic ? 7 : rm));
        uint64_t got = x_result(row) ? hart->x[RD] : hart->f[RD];
        if (way != RV_NEXT || got != result || hart->fflags != (before | flags))
            fail_msg("%s rm %u%s, %#llx %#llx %#llx, fflags %02x: got %#llx fflags %02x, wanted "
                     "%#llx fflags %02x",
                     name, rm, dynamic ? " (frm)" : "", (unsigned long long)a,
                     (unsigned long long)b, (unsigned long long)c, before, (unsigned long long)got,
                     hart->fflags, (unsigned long long)result, before | flags);
        bool dirty = !x_result(row) || (before | flags) != before;
        assert_int_equal(hart->mstatus, UINT64_C(1) << 13 | (dirty ? RV_MSTATUS_FS : 0));
        *(x_result(row) ? &x_before[RD] : &f_before[RD]) = result;
        assert_memory_equal(hart->x, x_before, sizeof(x_before));
        assert_memory_equal(hart->f, f_before, sizeof(f_before));
    }
}

static void name_of(char *name, size_t size, const char *pattern, char letter)
{
    const char *percent = strchr(pattern, '%');
    if (percent != NULL)
        snprintf(name, size, "%.*s%c%s", (int)(percent - pattern), pattern, letter, percent + 1);
    else
        snprintf(name, size, "%s%c", pattern, letter);
}

static void test_arithmetic(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(arithmetic_cases); i++) {
        const struct arithmetic_case *one = &arithmetic_cases[i];
        for (unsigned format = 0; format < 2; format++) {
            char name[16];
            name_of(name, sizeof(name), one->insn, "sd"[format]);
            bool rounds = has_rm(find_row(*state, name));
            for (unsigned rm = 0; rm < (rounds ? 5 : 1); rm++)
                if (one->result[rm] != SKIP)
                    check_one(*state, name, rm, patterns[one->a][format], patterns[one->b][format],
                              patterns[one->c][format], patterns[one->result[rm]][format],
                              one->flags);
        }
    }
}

static void test_to_integer(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(to_integer_cases); i++) {
        const struct to_integer_case *one = &to_integer_cases[i];
        for (unsigned format = 0; format < 2; format++) {
            char name[16];
            name_of(name, sizeof(name), one->insn, "sd"[format]);
            bool rounds = has_rm(find_row(*state, name));
            for (unsigned rm = 0; rm < (rounds ? 5 : 1); rm++)
                check_one(*state, name, rm, patterns[one->a][format], patterns[one->b][format], 0,
                          one->result[rm], one->flags[rm]);
        }
    }
}

static void test_from_integer(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(from_integer_cases); i++) {
        const struct from_integer_case *one = &from_integer_cases[i];
        for (unsigned rm = 0; rm < 5; rm++) {
            char name[16];
            name_of(name, sizeof(name), one->insn, 's');
            check_one(*state, name, rm, one->operand, 0, 0, patterns[one->single[rm]][0],
                      one->single_flags);
            name_of(name, sizeof(name), one->insn, 'd');
            check_one(*state, name, rm, one->operand, 0, 0, patterns[one->twice[rm]][1],
                      one->double_flags);
        }
    }
}

static void test_single_format(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(single_cases); i++) {
        const struct single_case *one = &single_cases[i];
        check_one(*state, one->insn, one->rm, one->a, one->b, 0, one->result, one->flags);
    }
}

/* ---- loads and stores ---- */

/* The page of guest memory, mapped where the hart's TLB finds it. */
#define PAGE_VA UINT64_C(0x40001000)

static void map_page(struct fixture *fixture, uint8_t *page)
{
    struct rv_hart *hart = fixture->hart;
    struct rv_tlb *banks[] = {&hart->tlb[RV_BANK_M][RV_LOAD], &hart->tlb[RV_BANK_M][RV_STORE]};
    for (size_t i = 0; i < ARRAY_SIZE(banks); i++) {
        for (size_t entry = 0; entry < RV_TLB_ENTRIES; entry++)
            banks[i]->entry[entry].tag = 1;
        *rv_tlb_slot(banks[i], PAGE_VA) =
            (struct rv_tlb_entry){PAGE_VA, (uint64_t)(uintptr_t)page - PAGE_VA};
    }
    hart->tlb_load = banks[0];
    hart->tlb_store = banks[1];
}

/* Encodings as GNU as writes them; the address is PAGE_VA + 0x40 in every case. */
struct memory_case {
    const char *insn;
    uint32_t bits;
    unsigned base; /* x register */
    int offset;    /* what the encoding adds to it */
    unsigned reg;  /* f register */
    unsigned size;
};
static const struct memory_case memory_cases[] = {
    {"flw", 0xffc2a187, 5, -4, 3, 4},    /* flw ft3, -4(t0) */
    {"flw", 0x7fc2af87, 5, 2044, 31, 4}, /* flw ft11, 2044(t0) */
    {"fsw", 0xfe32ae27, 5, -4, 3, 4},    /* fsw ft3, -4(t0) */
    {"fsw", 0x7ff2ae27, 5, 2044, 31, 4}, /* fsw ft11, 2044(t0) */
    {"fld", 0x8002b187, 5, -2048, 3, 8}, /* fld ft3, -2048(t0) */
    {"fsd", 0x8032b027, 5, -2048, 3, 8}, /* fsd ft3, -2048(t0) */
    {"c.fld", 0x2408, 8, 8, 10, 8},      /* c.fld fa0, 8(s0) */
    {"c.fld", 0x3ffc, 15, 248, 15, 8},   /* c.fld fa5, 248(a5) */
    {"c.fsd", 0xa408, 8, 8, 10, 8},      /* c.fsd fa0, 8(s0) */
    {"c.fsd", 0xbffc, 15, 248, 15, 8},   /* c.fsd fa5, 248(a5) */
    {"c.fldsp", 0x2522, 2, 8, 10, 8},    /* c.fldsp fa0, 8(sp) */
    {"c.fldsp", 0x3ffe, 2, 504, 31, 8},  /* c.fldsp ft11, 504(sp) */
    {"c.fsdsp", 0xa42a, 2, 8, 10, 8},    /* c.fsdsp fa0, 8(sp) */
    {"c.fsdsp", 0xbffe, 2, 504, 31, 8},  /* c.fsdsp ft11, 504(sp) */
};

static void test_memory(void **state)
{
    static const uint64_t contents[] = {UINT64_C(0x7ff0000000000001), UINT64_C(0x123456787f800001),
                                        UINT64_C(0xffffffffbf800000)};
    struct fixture *fixture = *state;
    struct rv_hart *hart = fixture->hart;
    uint8_t *page = aligned_alloc(MEM_PAGE_SIZE, MEM_PAGE_SIZE), wanted[MEM_PAGE_SIZE];

    assert_non_null(page);
    for (size_t i = 0; i < ARRAY_SIZE(memory_cases) * ARRAY_SIZE(contents); i++) {
        const struct memory_case *one = &memory_cases[i / ARRAY_SIZE(contents)];
        uint64_t value = contents[i % ARRAY_SIZE(contents)];
        const struct rv_row *row = find_row(fixture, one->insn);
        bool load = row->flags & RV_ROW_LOAD;

        reset(fixture);
        map_page(fixture, page);
        memset(page, 0xa5, MEM_PAGE_SIZE);
        if (load)
            store_le64(page + 0x40, value);
        else
            hart->f[one->reg] = value;
        memcpy(wanted, page, MEM_PAGE_SIZE);
        if (!load && one->size == 8)
            store_le64(wanted + 0x40, value);
        else if (!load)
            store_le32(wanted + 0x40, (uint32_t)value);
        hart->x[one->base] = PAGE_VA + 0x40 - (uint64_t)(int64_t)one->offset;

        uint64_t f_wanted[32];
        memcpy(f_wanted, hart->f, sizeof(f_wanted));
        if (load)
            f_wanted[one->reg] = one->size == 8 ? value : BOX | (uint32_t)value;
        if (run(fixture, row, one->bits) != RV_NEXT ||
            memcmp(hart->f, f_wanted, sizeof(f_wanted)) != 0 ||
            memcmp(page, wanted, MEM_PAGE_SIZE) != 0)
            fail_msg("%s (%#x) of %#llx", one->insn, one->bits, (unsigned long long)value);
        assert_int_equal(hart->mstatus, load ? RV_MSTATUS_FS : UINT64_C(1) << 13);
    }
    free(page);
}

/* Where there is no memory: a trap, and neither register nor FS has changed. */
static void test_memory_faults(void **state)
{
    struct fixture *fixture = *state;
    struct rv_hart *hart = fixture->hart;
    struct mem_space *nothing = mem_space_new();
    uint8_t unused[8] = {0};

    for (size_t i = 0; i < ARRAY_SIZE(memory_cases); i++) {
        const struct memory_case *one = &memory_cases[i];
        const struct rv_row *row = find_row(fixture, one->insn);
        uint64_t va = PAGE_VA + 2 * MEM_PAGE_SIZE, f_before[32];

        reset(fixture);
        map_page(fixture, unused);
        hart->vcpu.mem = nothing;
        hart->x[one->base] = va - (uint64_t)(int64_t)one->offset;
        memcpy(f_before, hart->f, sizeof(f_before));
        assert_int_equal(run(fixture, row, one->bits), RV_TRAP);
        assert_int_equal(hart->trap.cause,
                         row->flags & RV_ROW_LOAD ? RV_CAUSE_LOAD_ACCESS : RV_CAUSE_STORE_ACCESS);
        assert_int_equal(hart->trap.tval, va);
        assert_memory_equal(hart->f, f_before, sizeof(f_before));
        assert_int_equal(hart->mstatus, UINT64_C(1) << 13);
    }
    mem_space_free(nothing);
}

/* ---- what holds for every row ---- */

static uint32_t any_encoding(const struct rv_row *row)
{
    for (size_t i = 0; i < ARRAY_SIZE(memory_cases); i++)
        if (strcmp(memory_cases[i].insn, row->name) == 0)
            return memory_cases[i].bits;
    return encode(row, SF_RNE);
}

static void check_illegal(struct fixture *fixture, const struct rv_row *row, uint32_t bits,
                          const char *why)
{
    struct rv_hart *hart = fixture->hart;
    uint64_t x_before[33], f_before[32], mstatus = hart->mstatus;

    memcpy(x_before, hart->x, sizeof(x_before));
    memcpy(f_before, hart->f, sizeof(f_before));
    if (run(fixture, row, bits) != RV_TRAP || hart->trap.cause != RV_CAUSE_ILLEGAL ||
        hart->trap.tval != bits)
        fail_msg("%s with %s is not illegal", row->name, why);
    assert_memory_equal(hart->x, x_before, sizeof(x_before));
    assert_memory_equal(hart->f, f_before, sizeof(f_before));
    assert_int_equal(hart->mstatus, mstatus);
    assert_int_equal(hart->fflags, 0);
}

static void check_row(struct fixture *fixture, const struct rv_row *row)
{
    struct rv_hart *hart = fixture->hart;

    reset(fixture);
    hart->mstatus = 0;
    check_illegal(fixture, row, any_encoding(row), "FS off");
    assert_true(row->flags & RV_ROW_FP);
    if (!has_rm(row))
        return;
    for (unsigned rm = 5; rm < 8; rm++) {
        reset(fixture);
        hart->frm = (uint8_t)rm;
        check_illegal(fixture, row, encode(row, 7), "a reserved frm");
        reset(fixture);
        if (rm != 7)
            check_illegal(fixture, row, encode(row, rm), "a reserved rm");
        /* A static mode does not care about frm. */
        reset(fixture);
        hart->frm = (uint8_t)rm;
        assert_int_equal(run(fixture, row, encode(row, SF_RTZ)), RV_NEXT);
    }
}

static void test_every_row(void **state)
{
    struct fixture *fixture = *state;

    for (size_t i = 0; i < rv_f.count; i++)
        check_row(fixture, &rv_f.rows[i]);
    for (size_t i = 0; i < rv_d.count; i++)
        check_row(fixture, &rv_d.rows[i]);
}

/* Each f operand of a single-precision instruction, not boxed, is a canonical NaN (U §D). */
static void test_boxing(void **state)
{
    struct fixture *fixture = *state;
    struct rv_hart *hart = fixture->hart;

    for (size_t i = 0; i < rv_f.count; i++) {
        const struct rv_row *row = &rv_f.rows[i];
        if (is_memory(row) || x_operand(row) || strcmp(row->name, "fmv.x.w") == 0)
            continue;
        for (unsigned reg = RS1; reg <= RS3; reg++) {
            uint64_t result[2];
            uint8_t flags[2];
            for (unsigned boxed = 0; boxed < 2; boxed++) {
                reset(fixture);
                for (unsigned other = RS1; other <= RS3; other++)
                    hart->f[other] = BOX | 0x3f800000;
                hart->f[reg] = boxed ? BOX | SF_NAN_F32 : UINT64_C(0xfffffffe3f800000);
                assert_int_equal(run(fixture, row, encode(row, SF_RNE)), RV_NEXT);
                result[boxed] = x_result(row) ? hart->x[RD] : hart->f[RD];
                flags[boxed] = hart->fflags;
            }
            if (result[0] != result[1] || flags[0] != flags[1])
                fail_msg("%s: f%u not boxed gives %#llx", row->name, reg,
                         (unsigned long long)result[0]);
        }
    }
}

/* rd = x0: the result goes nowhere. */
static void test_x0(void **state)
{
    struct fixture *fixture = *state;
    static const char *const names[] = {"feq.s", "fclass.d", "fcvt.w.s", "fmv.x.w", "fmv.x.d"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const struct rv_row *row = find_row(fixture, names[i]);
        reset(fixture);
        fixture->hart->f[RS1] = BOX | 0x40400000;
        fixture->hart->f[RS2] = BOX | 0x40400000;
        uint32_t bits = encode(row, SF_RNE) & ~(UINT32_C(31) << 7);
        assert_int_equal(run(fixture, row, bits), RV_NEXT);
        assert_int_equal(fixture->hart->x[0], 0);
    }
}

/* Last: the tables above name every row. */
static void test_nothing_left_out(void **state)
{
    struct fixture *fixture = *state;

    for (size_t i = 0; i < rv_f.count; i++)
        if (!fixture->tried_f[i])
            fail_msg("no case for %s", rv_f.rows[i].name);
    for (size_t i = 0; i < rv_d.count; i++)
        if (!fixture->tried_d[i])
            fail_msg("no case for %s", rv_d.rows[i].name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arithmetic),   cmocka_unit_test(test_to_integer),
        cmocka_unit_test(test_from_integer), cmocka_unit_test(test_single_format),
        cmocka_unit_test(test_memory),       cmocka_unit_test(test_memory_faults),
        cmocka_unit_test(test_every_row),    cmocka_unit_test(test_boxing),
        cmocka_unit_test(test_x0),           cmocka_unit_test(test_nothing_left_out),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
