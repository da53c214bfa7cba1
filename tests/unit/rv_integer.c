/* SPDX-License-Identifier: MIT
 *
 * Every integer instruction against tables: operands and the results that the specification
 * gives for them. The last test makes sure that no row of the decoder is without a case here
 * or in the other tables (rv_fp_table, rv_system).
 */
#include "support.h"

#include "hart.h"

#define RAM    UINT64_C(0x80000000)
#define PLACE  (RAM + 0x1000) /* where loads, stores and atomics act */
#define MIN64  (UINT64_C(1) << 63)
#define ONES   UINT64_MAX
#define HIGH32 UINT64_C(0xffffffff00000000)

enum { RD = 5, RS1 = 6, RS2 = 7 };

static const struct rv_row *row_named(const struct rv_decoder *decoder, const char *name)
{
    for (size_t i = 0; i < rv_decoder_row_count(decoder); i++)
        if (strcmp(rv_decoder_row(decoder, i)->name, name) == 0)
            return rv_decoder_row(decoder, i);
    fail_msg("no instruction is called %s", name);
    return NULL;
}

static int setup(void **state)
{
    static struct test_hart test; /* a fixture lives as long as the program */
    test_hart_init(&test, RAM, 64 * KIB);
    *state = &test;
    return 0;
}

static int teardown(void **state)
{
    test_hart_destroy(*state);
    return 0;
}

/* ---- register results ---- */

/* b is x[rs2], or the immediate (of lui and auipc: its upper 20 bits). */
static const struct {
    const char *name;
    uint64_t a, b, expected;
} results[] = {
    {"lui", 0, 0x12345, 0x12345000},
    {"lui", 0, 0x80000, UINT64_C(0xffffffff80000000)},
    {"auipc", 0, 0x1, RAM + 0x1000},
    {"auipc", 0, 0xfffff, RAM - 0x1000},
    {"addi", 5, 0xfff, 4},
    {"addi", ONES, 1, 0},
    {"addi", 1, 0x7ff, 0x800},
    {"slti", 0, 0xfff, 0},
    {"slti", MIN64, 0, 1},
    {"slti", 4, 5, 1},
    {"slti", 5, 5, 0},
    {"sltiu", 0, 0xfff, 1}, /* the immediate is sign-extended, then unsigned */
    {"sltiu", ONES, 0xfff, 0},
    {"sltiu", 0, 1, 1},
    {"sltiu", 1, 1, 0},
    {"xori", 0x0ff0, 0xfff, ~UINT64_C(0x0ff0)},
    {"xori", 0xff, 0x0f, 0xf0},
    {"ori", 0xf0, 0x0f, 0xff},
    {"ori", 0, 0x800, UINT64_C(0xfffffffffffff800)},
    {"andi", 0xff, 0x0f, 0x0f},
    {"andi", ONES, 0x800, UINT64_C(0xfffffffffffff800)},
    {"slli", 1, 63, MIN64},
    {"slli", ONES, 4, ONES << 4},
    {"slli", 0x1234, 0, 0x1234},
    {"srli", MIN64, 63, 1},
    {"srli", ONES, 4, ONES >> 4},
    {"srai", MIN64, 63, ONES},
    {"srai", UINT64_C(0x4000000000000000), 62, 1},
    {"addiw", 0x7fffffff, 1, UINT64_C(0xffffffff80000000)},
    {"addiw", HIGH32 | 5, 0xfff, 4},
    {"slliw", 1, 31, UINT64_C(0xffffffff80000000)},
    {"slliw", UINT64_C(0xf00000001), 4, 0x10},
    {"srliw", UINT64_C(0xffffffff80000000), 31, 1},
    {"srliw", UINT64_C(0x80000000), 0, UINT64_C(0xffffffff80000000)},
    {"sraiw", UINT64_C(0x80000000), 31, ONES},
    {"sraiw", UINT64_C(0xffffffff40000000), 30, 1},

    {"add", 1, ONES, 0},
    {"add", MIN64, MIN64, 0},
    {"sub", 0, 1, ONES},
    {"sub", MIN64, 1, INT64_MAX},
    {"sll", 1, 64 + 3, 8}, /* six bits of the amount count */
    {"sll", 1, 63, MIN64},
    {"slt", ONES, 0, 1},
    {"slt", 0, ONES, 0},
    {"slt", 7, 7, 0},
    {"sltu", 0, ONES, 1},
    {"sltu", ONES, 0, 0},
    {"xor", 0xff00, 0x0ff0, 0xf0f0},
    {"srl", MIN64, 64 + 63, 1},
    {"srl", ONES, 32, 0xffffffff},
    {"sra", MIN64, 64 + 63, ONES},
    {"sra", UINT64_C(0x7fffffffffffffff), 62, 1},
    {"or", 0xff00, 0x0ff0, 0xfff0},
    {"and", 0xff00, 0x0ff0, 0x0f00},
    {"addw", 0x7fffffff, 1, UINT64_C(0xffffffff80000000)},
    {"addw", HIGH32, 1, 1},
    {"subw", 0, 1, ONES},
    {"subw", UINT64_C(0x80000000), 1, 0x7fffffff},
    {"sllw", 1, 32 + 31, UINT64_C(0xffffffff80000000)}, /* five bits count */
    {"srlw", UINT64_C(0xffffffff80000000), 32 + 31, 1},
    {"srlw", UINT64_C(0x80000000), 32, UINT64_C(0xffffffff80000000)},
    {"sraw", UINT64_C(0x80000000), 32 + 31, ONES},
    {"sraw", UINT64_C(0x7fffffff80000000), 0, UINT64_C(0xffffffff80000000)},

    {"mul", UINT64_C(0x100000001), UINT64_C(0x100000001), UINT64_C(0x200000001)},
    {"mul", ONES, ONES, 1},
    {"mulh", ONES, ONES, 0},
    {"mulh", MIN64, MIN64, UINT64_C(0x4000000000000000)},
    {"mulh", MIN64, 2, ONES},
    {"mulhsu", ONES, ONES, ONES}, /* -1 * (2^64 - 1) = -2^64 + 1 */
    {"mulhsu", 2, MIN64, 1},
    {"mulhsu", MIN64, ONES, MIN64}, /* -2^63 * (2^64 - 1) */
    {"mulhu", ONES, ONES, ONES - 1},
    {"mulhu", MIN64, 2, 1},
    {"div", 7, 2, 3},
    {"div", (uint64_t)-7, 2, (uint64_t)-3},
    {"div", 7, 0, ONES},
    {"div", MIN64, ONES, MIN64},
    {"divu", ONES, 2, INT64_MAX},
    {"divu", 7, 0, ONES},
    {"rem", 7, (uint64_t)-2, 1},
    {"rem", (uint64_t)-7, 2, ONES},
    {"rem", 7, 0, 7},
    {"rem", MIN64, ONES, 0},
    {"remu", ONES, 16, 15},
    {"remu", 7, 0, 7},
    {"mulw", 0x10000, 0x8000, UINT64_C(0xffffffff80000000)},
    {"mulw", HIGH32 | 3, HIGH32 | 5, 15},
    {"divw", UINT64_C(0x80000000), UINT64_C(0xffffffff), UINT64_C(0xffffffff80000000)},
    {"divw", HIGH32 | 7, HIGH32, ONES}, /* by zero in the low word */
    {"divw", UINT64_C(0xfffffff9), 2, (uint64_t)-3},
    {"divuw", UINT64_C(0xffffffff), 1, ONES},
    {"divuw", 7, HIGH32, ONES},
    {"divuw", UINT64_C(0x80000000), 2, 0x40000000},
    {"remw", UINT64_C(0x80000000), UINT64_C(0xffffffff), 0},
    {"remw", UINT64_C(0x80000000), 0, UINT64_C(0xffffffff80000000)},
    {"remw", UINT64_C(0xfffffff9), 2, ONES},
    {"remuw", UINT64_C(0x80000000), HIGH32, UINT64_C(0xffffffff80000000)},
    {"remuw", 0xffffffff, 16, 15},

    {"add.uw", UINT64_C(0x1ffffffff), 1, 0x100000000},
    {"sh1add", 3, 10, 16},
    {"sh2add", 3, 10, 22},
    {"sh3add", UINT64_C(0x2000000000000001), 10, 18},
    {"sh1add.uw", UINT64_C(0xf80000000), 1, UINT64_C(0x100000001)},
    {"sh2add.uw", UINT64_C(0xf80000000), 1, UINT64_C(0x200000001)},
    {"sh3add.uw", UINT64_C(0xf80000000), 1, UINT64_C(0x400000001)},
    {"slli.uw", HIGH32 | 1, 63, MIN64},
    {"slli.uw", ONES, 4, UINT64_C(0xffffffff0)},
    {"andn", 0xff, 0x0f, 0xf0},
    {"orn", 0x0f, 0xf0, UINT64_C(0xffffffffffffff0f)},
    {"xnor", 0xff, 0x0f, UINT64_C(0xffffffffffffff0f)},
    {"clz", 0, 0, 64},
    {"clz", 1, 0, 63},
    {"clz", MIN64, 0, 0},
    {"ctz", 0, 0, 64},
    {"ctz", MIN64, 0, 63},
    {"ctz", 1, 0, 0},
    {"cpop", ONES, 0, 64},
    {"cpop", 0, 0, 0},
    {"cpop", UINT64_C(0x8000000000000001), 0, 2},
    {"clzw", HIGH32, 0, 32},
    {"clzw", HIGH32 | 1, 0, 31},
    {"ctzw", HIGH32, 0, 32},
    {"ctzw", UINT64_C(0x3f70000000000000), 0, 32},
    {"ctzw", UINT64_C(0xf80000000), 0, 31},
    {"cpopw", ONES, 0, 32},
    {"max", ONES, 0, 0},
    {"max", MIN64, INT64_MAX, INT64_MAX},
    {"maxu", ONES, 0, ONES},
    {"min", ONES, 0, ONES},
    {"min", INT64_MAX, MIN64, MIN64},
    {"minu", ONES, 0, 0},
    {"sext.b", 0x80, 0, UINT64_C(0xffffffffffffff80)},
    {"sext.b", 0xff7f, 0, 0x7f},
    {"sext.h", 0x8000, 0, UINT64_C(0xffffffffffff8000)},
    {"sext.h", 0xf7fff, 0, 0x7fff},
    {"zext.h", ONES, 0, 0xffff},
    {"rol", UINT64_C(0x8000000000000001), 1, 3},
    {"rol", 0x1234, 64, 0x1234},
    {"ror", 1, 1, MIN64},
    {"ror", 3, 65, UINT64_C(0x8000000000000001)},
    {"rori", 3, 1, UINT64_C(0x8000000000000001)},
    {"rori", 5, 0, 5},
    {"rolw", UINT64_C(0x80000001), 1, 3},
    {"rolw", UINT64_C(0x40000000), 33, UINT64_C(0xffffffff80000000)},
    {"rorw", 1, 1, UINT64_C(0xffffffff80000000)},
    {"rorw", HIGH32 | 2, 32 + 1, 1},
    {"roriw", 1, 1, UINT64_C(0xffffffff80000000)},
    {"roriw", UINT64_C(0x80000000), 0, UINT64_C(0xffffffff80000000)},
    {"orc.b", UINT64_C(0x0100800000200001), 0, UINT64_C(0xff00ff0000ff00ff)},
    {"orc.b", 0, 0, 0},
    {"rev8", UINT64_C(0x0102030405060708), 0, UINT64_C(0x0807060504030201)},
    {"bclr", ONES, 64 + 63, INT64_MAX},
    {"bext", MIN64, 63, 1},
    {"bext", MIN64, 62, 0},
    {"binv", 1, 0, 0},
    {"binv", 0, 63, MIN64},
    {"bset", 0, 64 + 4, 16},
    {"bclri", ONES, 63, INT64_MAX},
    {"bexti", MIN64, 63, 1},
    {"binvi", 0, 33, UINT64_C(0x200000000)},
    {"bseti", 0, 63, MIN64},
    {"czero.eqz", 5, 0, 0},
    {"czero.eqz", 5, 1, 5},
    {"czero.nez", 5, 0, 5},
    {"czero.nez", 5, ONES, 0},
};

/* The row's encoding with these registers and, if it has one, immediate. */
static uint32_t encode(const struct rv_row *row, uint32_t rd, uint32_t rs1, uint32_t rs2,
                       uint64_t imm)
{
    uint32_t value = (uint32_t)imm, bits = row->match | rd << 7;
    switch (row->format) {
    case RV_FORMAT_R:
        return bits | rs1 << 15 | rs2 << 20;
    case RV_FORMAT_R2:
        return bits | rs1 << 15;
    case RV_FORMAT_I:
    case RV_FORMAT_SHIFT6:
    case RV_FORMAT_SHIFT5:
    case RV_FORMAT_LOAD:
    case RV_FORMAT_JALR:
        return bits | rs1 << 15 | (value & 0xfff) << 20;
    case RV_FORMAT_U:
        return bits | value << 12;
    case RV_FORMAT_S:
        return row->match | rs1 << 15 | rs2 << 20 | (value & 31) << 7 | (value >> 5 & 127) << 25;
    case RV_FORMAT_AMO:
    case RV_FORMAT_LR:
        return bits | rs1 << 15 | (row->format == RV_FORMAT_AMO ? rs2 << 20 : 0);
    default:
        fail_msg("%s: this test does not know its format", row->name);
        return 0;
    }
}

static bool has_immediate(const struct rv_row *row)
{
    return row->format != RV_FORMAT_R && row->format != RV_FORMAT_R2;
}

static void check_result(struct test_hart *test, size_t i, uint32_t rd, uint32_t rs1, uint32_t rs2)
{
    const struct rv_row *row = row_named(test->decoder, results[i].name);
    struct rv_hart *hart = test->hart;
    hart->pc = RAM;
    hart->x[rs1] = results[i].a;
    if (!has_immediate(row))
        hart->x[rs2] = results[i].b;
    hart->x[0] = 0;
    assert_int_equal(test_hart_execute(test, encode(row, rd, rs1, rs2, results[i].b)), RV_NEXT);
    assert_int_equal(hart->x[0], 0);
    assert_int_equal(hart->pc, RAM);
    if (rd != 0 && hart->x[rd] != results[i].expected)
        fail_msg("%s of %llx, %llx: %llx instead of %llx (case %zu)", row->name,
                 (unsigned long long)results[i].a, (unsigned long long)results[i].b,
                 (unsigned long long)hart->x[rd], (unsigned long long)results[i].expected, i);
}

static void test_results(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(results); i++) {
        check_result(*state, i, RD, RS1, RS2);
        /* rd the same register as a source, and no register at all */
        check_result(*state, i, RS1, RS1, RS2);
        check_result(*state, i, RS2, RS1, RS2);
        check_result(*state, i, 0, RS1, RS2);
    }
}

/* ---- loads and stores ---- */

static const struct {
    const char *name;
    uint64_t expected; /* of the bytes 80 81 .. 87 */
} loads[] = {
    {"lb", UINT64_C(0xffffffffffffff80)},
    {"lh", UINT64_C(0xffffffffffff8180)},
    {"lw", UINT64_C(0xffffffff83828180)},
    {"ld", UINT64_C(0x8786858483828180)},
    {"lbu", 0x80},
    {"lhu", 0x8180},
    {"lwu", 0x83828180},
};

static void test_loads(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    for (size_t i = 0; i < ARRAY_SIZE(loads); i++) {
        const struct rv_row *row = row_named(test->decoder, loads[i].name);
        /* Aligned, misaligned, misaligned across a page; each with both signs of offset. */
        static const uint64_t places[] = {PLACE, PLACE + 5, PLACE + 0x1000 - 1};
        for (size_t j = 0; j < ARRAY_SIZE(places); j++) {
            for (unsigned byte = 0; byte < 8; byte++)
                *test_hart_at(test, places[j] + byte) = (uint8_t)(0x80 + byte);
            for (int offset = -2048; offset <= 2047; offset += 4095) {
                hart->x[RS1] = places[j] - (uint64_t)(int64_t)offset;
                uint32_t bits = encode(row, RD, RS1, 0, (uint64_t)(int64_t)offset);
                assert_int_equal(test_hart_execute(test, bits), RV_NEXT);
                if (hart->x[RD] != loads[i].expected)
                    fail_msg("%s: %llx", row->name, (unsigned long long)hart->x[RD]);
            }
        }
        /* Nothing is there: the register keeps its value. */
        hart->x[RD] = 77;
        hart->x[RS1] = 0x1000;
        assert_int_equal(test_hart_execute(test, encode(row, RD, RS1, 0, 0)), RV_TRAP);
        assert_int_equal(hart->trap.cause, RV_CAUSE_LOAD_ACCESS);
        assert_int_equal(hart->trap.tval, 0x1000);
        assert_int_equal(hart->x[RD], 77);
    }
}

static const struct {
    const char *name;
    unsigned size;
} stores[] = {{"sb", 1}, {"sh", 2}, {"sw", 4}, {"sd", 8}};

static void test_stores(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    for (size_t i = 0; i < ARRAY_SIZE(stores); i++) {
        const struct rv_row *row = row_named(test->decoder, stores[i].name);
        static const uint64_t places[] = {PLACE, PLACE + 5, PLACE + 0x1000 - 1};
        for (size_t j = 0; j < ARRAY_SIZE(places); j++) {
            uint8_t *memory = test_hart_at(test, places[j] - 1);
            memset(memory, 0xee, 10);
            hart->x[RS1] = places[j] + 33;
            hart->x[RS2] = UINT64_C(0x8786858483828180);
            uint32_t bits = encode(row, 0, RS1, RS2, (uint64_t)-33);
            assert_int_equal(test_hart_execute(test, bits), RV_NEXT);
            for (unsigned byte = 0; byte < 8; byte++)
                assert_int_equal(memory[1 + byte], byte < stores[i].size ? 0x80 + byte : 0xee);
            assert_int_equal(memory[0], 0xee);
        }
        hart->x[RS1] = 0x1000;
        assert_int_equal(test_hart_execute(test, encode(row, 0, RS1, RS2, 0)), RV_TRAP);
        assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_ACCESS);
        assert_int_equal(hart->trap.tval, 0x1000);
    }
}

/* ---- atomics ---- */

static const struct {
    const char *name;
    uint64_t memory, operand, old, stored; /* .w: the upper word of memory must stay */
} atomics[] = {
    {"amoswap.w", UINT64_C(0x1111111180000000), 5, UINT64_C(0xffffffff80000000),
     UINT64_C(0x1111111100000005)},
    {"amoadd.w", UINT64_C(0x11111111ffffffff), 2, ONES, UINT64_C(0x1111111100000001)},
    {"amoxor.w", 0xff00, 0x0ff0, 0xff00, 0xf0f0},
    {"amoand.w", 0xff00, 0x0ff0, 0xff00, 0x0f00},
    {"amoor.w", 0xff00, 0x0ff0, 0xff00, 0xfff0},
    {"amomin.w", 0xffffffff, 1, ONES, 0xffffffff},
    {"amomin.w", 1, ONES, 1, 0xffffffff},
    {"amomax.w", 0xffffffff, 1, ONES, 1},
    {"amomax.w", 1, ONES, 1, 1},
    {"amominu.w", 0xffffffff, HIGH32 | 1, ONES, 1},
    {"amomaxu.w", 1, 0xffffffff, 1, 0xffffffff},
    {"amoswap.d", MIN64, 5, MIN64, 5},
    {"amoadd.d", ONES, 2, ONES, 1},
    {"amoxor.d", MIN64, ONES, MIN64, INT64_MAX},
    {"amoand.d", MIN64 | 1, ONES << 1, MIN64 | 1, MIN64},
    {"amoor.d", MIN64, 1, MIN64, MIN64 | 1},
    {"amomin.d", ONES, 1, ONES, ONES},
    {"amomax.d", ONES, 1, ONES, 1},
    {"amominu.d", ONES, 1, ONES, 1},
    {"amomaxu.d", 1, ONES, 1, ONES},
};

static void test_atomics(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    uint8_t *memory = test_hart_at(test, PLACE);
    for (size_t i = 0; i < ARRAY_SIZE(atomics); i++) {
        const struct rv_row *row = row_named(test->decoder, atomics[i].name);
        for (uint32_t order = 0; order < 4; order++) { /* aq, rl */
            /* rd = rs1 and rd = rs2 as well: operands are read before rd is written */
            static const uint32_t destinations[] = {RD, RS1, RS2};
            for (size_t j = 0; j < ARRAY_SIZE(destinations); j++) {
                uint32_t rd = destinations[j];
                store_le64(memory, atomics[i].memory);
                hart->x[RS1] = PLACE;
                hart->x[RS2] = atomics[i].operand;
                uint32_t bits = encode(row, rd, RS1, RS2, 0) | order << 25;
                assert_int_equal(test_hart_execute(test, bits), RV_NEXT);
                if (hart->x[rd] != atomics[i].old || load_le64(memory) != atomics[i].stored)
                    fail_msg("%s (case %zu): rd %llx, memory %llx", row->name, i,
                             (unsigned long long)hart->x[rd],
                             (unsigned long long)load_le64(memory));
            }
        }
        hart->x[RS1] = PLACE + 2;
        assert_int_equal(test_hart_execute(test, encode(row, RD, RS1, RS2, 0)), RV_TRAP);
        assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_MISALIGNED);
        hart->x[RS1] = 0x1000; /* also where an LR would be a load */
        assert_int_equal(test_hart_execute(test, encode(row, RD, RS1, RS2, 0)), RV_TRAP);
        assert_int_equal(hart->trap.cause, RV_CAUSE_STORE_ACCESS);
    }
}

static uint64_t run_row(struct test_hart *test, const char *name, uint64_t address,
                        uint64_t operand)
{
    test->hart->x[RS1] = address;
    test->hart->x[RS2] = operand;
    uint32_t bits = encode(row_named(test->decoder, name), RD, RS1, RS2, 0);
    assert_int_equal(test_hart_execute(test, bits), RV_NEXT);
    return test->hart->x[RD];
}

static void test_reservations(void **state)
{
    struct test_hart *test = *state;
    static const struct {
        const char *load, *store;
        unsigned size;
    } widths[] = {{"lr.w", "sc.w", 4}, {"lr.d", "sc.d", 8}};
    uint8_t *memory = test_hart_at(test, PLACE);
    for (size_t i = 0; i < ARRAY_SIZE(widths); i++) {
        const char *load = widths[i].load, *store = widths[i].store;
        unsigned size = widths[i].size;
        uint64_t value = size == 4 ? UINT64_C(0xffffffff80000001) : UINT64_C(0x1234567880000001);
        store_le64(memory, UINT64_C(0x1234567880000001));
        assert_int_equal(run_row(test, load, PLACE, 0), value);
        assert_int_equal(run_row(test, store, PLACE, UINT64_C(0x99999999aaaaaaaa)), 0);
        assert_int_equal(load_le64(memory),
                         size == 4 ? UINT64_C(0x12345678aaaaaaaa) : UINT64_C(0x99999999aaaaaaaa));
        /* The reservation is used up, whether the SC succeeds or fails. */
        assert_int_equal(run_row(test, store, PLACE, 1), 1);
        run_row(test, load, PLACE, 0);
        assert_int_equal(run_row(test, store, PLACE + size, 1), 1);
        assert_int_equal(run_row(test, store, PLACE, 1), 1);
        /* Somebody wrote there meanwhile. */
        run_row(test, load, PLACE, 0);
        store_le64(memory, 42);
        assert_int_equal(run_row(test, store, PLACE, 1), 1);
        assert_int_equal(load_le64(memory), 42);
        /* Another width. */
        run_row(test, load, PLACE, 0);
        assert_int_equal(run_row(test, widths[1 - i].store, PLACE, 1), 1);

        test->hart->x[RS1] = PLACE + 1;
        const struct rv_row *row = row_named(test->decoder, load);
        assert_int_equal(test_hart_execute(test, encode(row, RD, RS1, 0, 0)), RV_TRAP);
        assert_int_equal(test->hart->trap.cause, RV_CAUSE_LOAD_MISALIGNED);
        row = row_named(test->decoder, store);
        assert_int_equal(test_hart_execute(test, encode(row, RD, RS1, 0, 0)), RV_TRAP);
        assert_int_equal(test->hart->trap.cause, RV_CAUSE_STORE_MISALIGNED);
    }
}

/* ---- control flow ---- */

static const struct {
    const char *name;
    uint64_t a, b;
    bool taken;
} branches[] = {
    {"beq", 5, 5, true},      {"beq", 5, 6, false},    {"bne", 5, 6, true},
    {"bne", 5, 5, false},     {"blt", ONES, 0, true},  {"blt", 0, ONES, false},
    {"blt", 0, 0, false},     {"bge", 0, ONES, true},  {"bge", 0, 0, true},
    {"bge", ONES, 0, false},  {"bltu", 0, ONES, true}, {"bltu", ONES, 0, false},
    {"bltu", 3, 3, false},    {"bgeu", ONES, 0, true}, {"bgeu", 3, 3, true},
    {"bgeu", 0, ONES, false},
};

static void test_branches(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    for (size_t i = 0; i < ARRAY_SIZE(branches); i++) {
        uint32_t match = row_named(test->decoder, branches[i].name)->match;
        uint32_t bits = match | RS1 << 15 | RS2 << 20;
        /* Displacements +4094 and -4096: all immediate bits. */
        static const struct {
            uint32_t bits;
            uint64_t target;
        } ways[] = {{0x7e000f80, RAM + 4094}, {0x80000000, RAM - 4096}};
        for (size_t j = 0; j < ARRAY_SIZE(ways); j++) {
            hart->pc = RAM;
            hart->x[RS1] = branches[i].a;
            hart->x[RS2] = branches[i].b;
            enum rv_result result = test_hart_execute(test, bits | ways[j].bits);
            if (result != (branches[i].taken ? RV_JUMP : RV_NEXT))
                fail_msg("%s, case %zu: %d", branches[i].name, i, (int)result);
            assert_int_equal(hart->pc, branches[i].taken ? ways[j].target : RAM);
        }
    }
}

static void test_jumps(void **state)
{
    struct test_hart *test = *state;
    struct rv_hart *hart = test->hart;
    hart->pc = RAM;
    assert_int_equal(test_hart_execute(test, 0x7ffff0ef), RV_JUMP); /* jal ra, +0xffffe */
    assert_int_equal(hart->pc, RAM + 0xffffe);
    assert_int_equal(hart->x[1], RAM + 4);
    hart->pc = RAM;
    assert_int_equal(test_hart_execute(test, 0x8000006f), RV_JUMP); /* jal zero, -0x100000 */
    assert_int_equal(hart->pc, RAM - 0x100000);
    assert_int_equal(hart->x[0], 0);
    /* jalr ra, -1(ra): the register is read first, bit 0 of the sum is dropped. */
    hart->pc = RAM;
    hart->x[1] = RAM + 0x104;
    assert_int_equal(test_hart_execute(test, 0xfff080e7), RV_JUMP);
    assert_int_equal(hart->pc, RAM + 0x102);
    assert_int_equal(hart->x[1], RAM + 4);
    /* The link of a compressed jump is 2 bytes on: c.jalr a5 */
    hart->pc = RAM;
    hart->x[15] = RAM + 0x200;
    assert_int_equal(test_hart_execute(test, 0x9782), RV_JUMP);
    assert_int_equal(hart->pc, RAM + 0x200);
    assert_int_equal(hart->x[1], RAM + 2);
}

/* ---- compressed forms ---- */

/* What the assembler makes of both spellings. */
static const struct {
    uint32_t compressed, expansion;
    const char *name;
} pairs[] = {
    {0x1ff4, 0x3fc10693, "c.addi4spn"},                                 /* a3, sp, 1020 */
    {0x0040, 0x00410413, "c.addi4spn"},                                 /* s0, sp, 4 */
    {0x5ce8, 0x07c4a503, "c.lw"},                                       /* a0, 124(s1) */
    {0x435c, 0x00472783, "c.lw"},                                       /* a5, 4(a4) */
    {0x7ff0, 0x0f87b603, "c.ld"},                                       /* a2, 248(a5) */
    {0x6400, 0x00843403, "c.ld"},                                       /* s0, 8(s0) */
    {0xc124, 0x04952023, "c.sw"},                                       /* s1, 64(a0) */
    {0xe07c, 0x0cf43023, "c.sd"},                                       /* a5, 192(s0) */
    {0x0001, 0x00000013, "c.nop"},      {0x1f81, 0xfe0f8f93, "c.addi"}, /* t6, -32 */
    {0x057d, 0x01f50513, "c.addi"},                                     /* a0, 31 */
    {0x397d, 0xfff9091b, "c.addiw"},                                    /* s2, -1 */
    {0x5281, 0xfe000293, "c.li"},                                       /* t0, -32 */
    {0x7101, 0xe0010113, "c.addi16sp"},                                 /* sp, -512 */
    {0x617d, 0x1f010113, "c.addi16sp"},                                 /* sp, 496 */
    {0x6dfd, 0x0001fdb7, "c.lui"},                                      /* s11, 0x1f */
    {0x7581, 0xfffe05b7, "c.lui"},                                      /* a1, 0xfffe0 */
    {0x917d, 0x03f55513, "c.srli"},                                     /* a0, 63 */
    {0x8485, 0x4014d493, "c.srai"},                                     /* s1, 1 */
    {0x9b01, 0xfe077713, "c.andi"},                                     /* a4, -32 */
    {0x8c1d, 0x40f40433, "c.sub"},                                      /* s0, a5 */
    {0x8db1, 0x00c5c5b3, "c.xor"},                                      /* a1, a2 */
    {0x8ec5, 0x0096e6b3, "c.or"},                                       /* a3, s1 */
    {0x8fe9, 0x00a7f7b3, "c.and"},                                      /* a5, a0 */
    {0x9d0d, 0x40b5053b, "c.subw"},                                     /* a0, a1 */
    {0x9ca1, 0x008484bb, "c.addw"},                                     /* s1, s0 */
    {0xb001, 0x801ff06f, "c.j"},                                        /* -2048 */
    {0xaffd, 0x7fe0006f, "c.j"},                                        /* +2046 */
    {0xd101, 0xf00500e3, "c.beqz"},                                     /* a0, -256 */
    {0xecfd, 0x0e049f63, "c.bnez"},                                     /* s1, +254 */
    {0x1e7e, 0x03fe1e13, "c.slli"},                                     /* t3, 63 */
    {0x50fe, 0x0fc12083, "c.lwsp"},                                     /* ra, 252(sp) */
    {0x7ffe, 0x1f813f83, "c.ldsp"},                                     /* t6, 504(sp) */
    {0x8302, 0x00030067, "c.jr"},                                       /* t1 */
    {0x857e, 0x01f00533, "c.mv"},                                       /* a0, t6 */
    {0x9782, 0x000780e7, "c.jalr"},                                     /* a5 */
    {0x9002, 0x00100073, "c.ebreak"},   {0x9d76, 0x01dd0d33, "c.add"},  /* s10, t4 */
    {0xc146, 0x09112023, "c.swsp"},                                     /* a7, 128(sp) */
    {0xe3a2, 0x1c813023, "c.sdsp"},                                     /* s0, 448(sp) */
};

static void test_compressed(void **state)
{
    struct test_hart *test = *state;
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        struct rv_insn narrow, wide;
        rv_decode(test->decoder, pairs[i].compressed, &narrow);
        rv_decode(test->decoder, pairs[i].expansion, &wide);
        if (narrow.row == UINT16_MAX ||
            strcmp(rv_decoder_row(test->decoder, narrow.row)->name, pairs[i].name) != 0)
            fail_msg("%04x is not %s", pairs[i].compressed, pairs[i].name);
        assert_int_equal(narrow.length, 2);
        assert_int_equal(narrow.raw, pairs[i].compressed);
        if (strcmp(pairs[i].name, "c.nop") == 0)
            continue; /* no operation either way, but by another function */
        assert_ptr_equal(narrow.exec, wide.exec);
        if (narrow.rd != wide.rd || narrow.imm != wide.imm || narrow.rs1 != wide.rs1)
            fail_msg("%s (%04x): operands differ", pairs[i].name, pairs[i].compressed);
        enum rv_format format = rv_decoder_row(test->decoder, wide.row)->format;
        if (format == RV_FORMAT_R || format == RV_FORMAT_S || format == RV_FORMAT_B)
            assert_int_equal(narrow.rs2, wide.rs2);
    }
}

/* ---- what is illegal ---- */

static const uint32_t illegal[] = {
    0x0000, /* defined to be illegal */
    0x001c, /* c.addi4spn a5, sp, 0 */
    0x8000, /* quadrant 0, reserved */
    0x2001, /* c.addiw zero */
    0x6001, /* c.lui zero, 0 */
    0x6081, /* c.lui ra, 0 */
    0x6101, /* c.addi16sp 0 */
    0x9c41, /* c.subw's reserved neighbours */
    0x9c61,
    0x4002,              /* c.lwsp zero */
    0x6002,              /* c.ldsp zero */
    0x8002,              /* c.jr zero */
    0xffffffff,          /* defined to be illegal */
    0x00002063,          /* BRANCH, funct3 2 */
    0x00003063,          /* BRANCH, funct3 3 */
    0x00007003,          /* LOAD, funct3 7 */
    0x00004023,          /* STORE, funct3 4 */
    0x0000001f,          /* a longer encoding */
    0x00001067,          /* JALR, funct3 1 */
    0x08001013,          /* SLLI, reserved upper bits */
    0x0200101b,          /* SLLIW with bit 25 */
    0x0c000033,          /* OP, funct7 6 */
    0x0000402f,          /* AMO, width 4 */
    0x1010202f,          /* LR with rs2 */
    0x00004073,          /* SYSTEM, funct3 4 (hlv and the like: no H) */
    0x22000073,          /* hfence.vvma */
    0x62000073,          /* hfence.gvma */
    0x7b200073,          /* dret: no debug mode */
    0x0050200f,          /* cbo with a reserved operation */
    0x0000200f | 1 << 7, /* cbo.inval with rd */
    0x1000702b,          /* custom-1 */
};

static void test_illegal(void **state)
{
    struct test_hart *test = *state;
    for (size_t i = 0; i < ARRAY_SIZE(illegal); i++) {
        if (test_hart_execute(test, illegal[i]) != RV_TRAP)
            fail_msg("%08x did not trap", illegal[i]);
        assert_int_equal(test->hart->trap.cause, RV_CAUSE_ILLEGAL);
        assert_int_equal(test->hart->trap.tval, illegal[i]);
    }
    /* Bits above a 16-bit encoding are the next instruction's. */
    assert_int_equal(test_hart_execute(test, 0xabcd0000), RV_TRAP);
    assert_int_equal(test->hart->trap.tval, 0);
}

static void test_hints(void **state)
{
    struct test_hart *test = *state;
    static const uint32_t hints[] = {
        0x0100000f, /* pause */
        0x0ff0000f, /* fence */
        0x8330000f, /* fence.tso */
        0x00006013, /* prefetch.i 0(zero) */
        0x00106013, /* prefetch.r */
        0x00306013, /* prefetch.w */
        0x0005,     /* c.addi zero, 1 */
        0x4005,     /* c.li zero, 1 */
        0x6005,     /* c.lui zero, 1 */
        0x8006,     /* c.mv zero, ra */
        0x9006,     /* c.add zero, ra */
        0x0006,     /* c.slli zero, 1 */
        0x00100013, /* addi zero, zero, 1 */
    };
    for (size_t i = 0; i < ARRAY_SIZE(hints); i++) {
        uint64_t before[32];
        for (unsigned j = 1; j < 32; j++)
            test->hart->x[j] = j * UINT64_C(0x1111111111111111);
        memcpy(before, test->hart->x, sizeof(before));
        if (test_hart_execute(test, hints[i]) != RV_NEXT)
            fail_msg("%08x is a hint", hints[i]);
        assert_memory_equal(before, test->hart->x, sizeof(before));
    }
}

/* ---- completeness ---- */

static bool is_listed(const char *name)
{
    static const char *const elsewhere[] = {
        /* here, outside of tables */
        "jal", "jalr", "lr.w", "lr.d", "sc.w", "sc.d", "fence", "fence.tso", "pause", "prefetch.i",
        "prefetch.r", "prefetch.w", "fence.i", /* interp_blocks */
        /* rv_system */
        "csrrw", "csrrs", "csrrc", "csrrwi", "csrrsi", "csrrci", "ecall", "ebreak", "mret", "sret",
        "wfi", "sfence.vma", "sinval.vma", "sfence.w.inval", "sfence.inval.ir", "wrs.nto",
        "wrs.sto", "cbo.zero", "cbo.clean", "cbo.flush", "cbo.inval"};
    for (size_t i = 0; i < ARRAY_SIZE(elsewhere); i++)
        if (strcmp(name, elsewhere[i]) == 0)
            return true;
#define LOOK_IN(table)                                                                             \
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)                                                 \
        if (strcmp(name, (table)[i].name) == 0)                                                    \
            return true;
    LOOK_IN(results)
    LOOK_IN(loads)
    LOOK_IN(stores)
    LOOK_IN(atomics)
    LOOK_IN(branches)
    LOOK_IN(pairs)
    return false;
}

static void test_completeness(void **state)
{
    struct test_hart *test = *state;
    for (size_t i = 0; i < rv_decoder_row_count(test->decoder); i++) {
        const struct rv_row *row = rv_decoder_row(test->decoder, i);
        if ((row->flags & RV_ROW_FP) == 0 && !is_listed(row->name))
            fail_msg("%s has no case in any table", row->name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results),      cmocka_unit_test(test_loads),
        cmocka_unit_test(test_stores),       cmocka_unit_test(test_atomics),
        cmocka_unit_test(test_reservations), cmocka_unit_test(test_branches),
        cmocka_unit_test(test_jumps),        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_illegal),      cmocka_unit_test(test_hints),
        cmocka_unit_test(test_completeness),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
