/* SPDX-License-Identifier: MIT
 *
 * The cases of rv_fp_table.c: operands → result and flags, written from IEEE 754-2019 and
 * U §F, §D, not from the implementation. Values are named, so that one table serves both
 * formats.
 */
#ifndef TRAPEZE_TESTS_UNIT_RV_FP_CASES_H
#define TRAPEZE_TESTS_UNIT_RV_FP_CASES_H

#include <stdint.h>

#include "isa/riscv64/softfloat.h"

#define BOX UINT64_C(0xffffffff00000000)

/* ULP is the last place of 1. LOW and HIGH are the two neighbours of an irrational or
 * periodic value. */
#define VALUES(X)                                                                                  \
    X(ZERO, 0x00000000, 0x0000000000000000)                                                        \
    X(MIN_SUB, 0x00000001, 0x0000000000000001)                                                     \
    X(MAX_SUB, 0x007fffff, 0x000fffffffffffff)                                                     \
    X(HALF_MIN_NORMAL, 0x00400000, 0x0008000000000000)                                             \
    X(MIN_NORMAL, 0x00800000, 0x0010000000000000)                                                  \
    X(ULP_SQUARED, 0x28800000, 0x3970000000000000)                                                 \
    X(HALF_ULP, 0x33800000, 0x3ca0000000000000)                                                    \
    X(EIGHTH, 0x3e000000, 0x3fc0000000000000)                                                      \
    X(THIRD_LOW, 0x3eaaaaaa, 0x3fd5555555555555)                                                   \
    X(THIRD_HIGH, 0x3eaaaaab, 0x3fd5555555555556)                                                  \
    X(HALF, 0x3f000000, 0x3fe0000000000000)                                                        \
    X(BEFORE_ONE, 0x3f7fffff, 0x3fefffffffffffff)                                                  \
    X(ONE, 0x3f800000, 0x3ff0000000000000)                                                         \
    X(ONE_ULP, 0x3f800001, 0x3ff0000000000001)                                                     \
    X(ONE_2ULP, 0x3f800002, 0x3ff0000000000002)                                                    \
    X(ROOT2_LOW, 0x3fb504f3, 0x3ff6a09e667f3bcc)                                                   \
    X(ROOT2_HIGH, 0x3fb504f4, 0x3ff6a09e667f3bcd)                                                  \
    X(ONE_HALF, 0x3fc00000, 0x3ff8000000000000)                                                    \
    X(TWO, 0x40000000, 0x4000000000000000)                                                         \
    X(TWO_HALF, 0x40200000, 0x4004000000000000)                                                    \
    X(THREE, 0x40400000, 0x4008000000000000)                                                       \
    X(FOUR, 0x40800000, 0x4010000000000000)                                                        \
    X(NINE, 0x41100000, 0x4022000000000000)                                                        \
    X(TWO_31, 0x4f000000, 0x41e0000000000000)                                                      \
    X(TWO_32, 0x4f800000, 0x41f0000000000000)                                                      \
    X(TWO_63, 0x5f000000, 0x43e0000000000000)                                                      \
    X(BEFORE_TWO_63, 0x5effffff, 0x43dfffffffffffff)                                               \
    X(TWO_64, 0x5f800000, 0x43f0000000000000)                                                      \
    X(BEFORE_TWO_64, 0x5f7fffff, 0x43efffffffffffff)                                               \
    X(MAX, 0x7f7fffff, 0x7fefffffffffffff)                                                         \
    X(INF, 0x7f800000, 0x7ff0000000000000)                                                         \
    X(SNAN, 0x7f800001, 0x7ff0000000000001)                                                        \
    X(SNAN_TOP, 0x7fbfffff, 0x7ff7ffffffffffff)                                                    \
    X(QNAN, 0x7fc00000, 0x7ff8000000000000)                                                        \
    X(QNAN_PAYLOAD, 0x7fc12345, 0x7ff8000000012345)

#define AS_ENUM(name, single, twice) name, M_##name,
enum value { VALUES(AS_ENUM) SKIP };
#define SINGLE_SIGN UINT64_C(0x80000000)
#define DOUBLE_SIGN UINT64_C(0x8000000000000000)
#define AS_PATTERN(name, single, twice)                                                            \
    [name] = {BOX | (single), UINT64_C(twice)},                                                    \
    [M_##name] = {BOX | (single) | SINGLE_SIGN, UINT64_C(twice) | DOUBLE_SIGN},
static const uint64_t patterns[][2] = {VALUES(AS_PATTERN)};

enum { NX = SF_NX, UF = SF_UF, OF = SF_OF, DZ = SF_DZ, NV = SF_NV };
#define ALL(value)                                                                                 \
    {                                                                                              \
        value, value, value, value, value                                                          \
    }

/* ---- operands → f register; results for RNE RTZ RDN RUP RMM ---- */

struct arithmetic_case {
    const char *insn; /* without the format letter */
    enum value a, b, c;
    enum value result[5]; /* SKIP: not in this mode */
    uint8_t flags;
};
static const struct arithmetic_case arithmetic_cases[] = {
    {"fadd.", ONE, TWO, 0, ALL(THREE), 0},
    {"fadd.", ONE, HALF_ULP, 0, {ONE, ONE, ONE, ONE_ULP, ONE_ULP}, NX},
    {"fadd.", M_ONE, M_HALF_ULP, 0, {M_ONE, M_ONE, M_ONE_ULP, M_ONE, M_ONE_ULP}, NX},
    {"fadd.", ONE_ULP, HALF_ULP, 0, {ONE_2ULP, ONE_ULP, ONE_ULP, ONE_2ULP, ONE_2ULP}, NX},
    {"fadd.", ONE, MIN_SUB, 0, {ONE, ONE, ONE, ONE_ULP, ONE}, NX},
    {"fadd.", ONE, M_MIN_SUB, 0, {ONE, BEFORE_ONE, BEFORE_ONE, ONE, ONE}, NX},
    {"fadd.", MAX, MAX, 0, {INF, MAX, MAX, INF, INF}, OF | NX},
    {"fadd.", M_MAX, M_MAX, 0, {M_INF, M_MAX, M_INF, M_MAX, M_INF}, OF | NX},
    {"fadd.", MAX, ONE, 0, {MAX, MAX, MAX, SKIP, MAX}, NX},
    {"fadd.", MAX, ONE, 0, {SKIP, SKIP, SKIP, INF, SKIP}, OF | NX},
    {"fadd.", ONE, M_ONE, 0, {ZERO, ZERO, M_ZERO, ZERO, ZERO}, 0},
    {"fadd.", ZERO, M_ZERO, 0, {ZERO, ZERO, M_ZERO, ZERO, ZERO}, 0},
    {"fadd.", M_ZERO, M_ZERO, 0, ALL(M_ZERO), 0},
    {"fadd.", ZERO, ZERO, 0, ALL(ZERO), 0},
    {"fadd.", MIN_SUB, MAX_SUB, 0, ALL(MIN_NORMAL), 0},
    {"fadd.", MIN_NORMAL, M_MIN_SUB, 0, ALL(MAX_SUB), 0},
    {"fadd.", INF, ONE, 0, ALL(INF), 0},
    {"fadd.", INF, INF, 0, ALL(INF), 0},
    {"fadd.", INF, M_INF, 0, ALL(QNAN), NV},
    {"fadd.", QNAN_PAYLOAD, ONE, 0, ALL(QNAN), 0},
    {"fadd.", ONE, M_QNAN_PAYLOAD, 0, ALL(QNAN), 0},
    {"fadd.", SNAN, ONE, 0, ALL(QNAN), NV},
    {"fadd.", ONE, M_SNAN_TOP, 0, ALL(QNAN), NV},
    {"fadd.", QNAN, SNAN, 0, ALL(QNAN), NV},

    {"fsub.", THREE, TWO, 0, ALL(ONE), 0},
    {"fsub.", ONE, ONE, 0, {ZERO, ZERO, M_ZERO, ZERO, ZERO}, 0},
    {"fsub.", ZERO, M_ZERO, 0, ALL(ZERO), 0},
    {"fsub.", M_ZERO, ZERO, 0, ALL(M_ZERO), 0},
    {"fsub.", INF, INF, 0, ALL(QNAN), NV},
    {"fsub.", INF, M_INF, 0, ALL(INF), 0},
    {"fsub.", M_ONE, HALF_ULP, 0, {M_ONE, M_ONE, M_ONE_ULP, M_ONE, M_ONE_ULP}, NX},
    {"fsub.", ONE, QNAN_PAYLOAD, 0, ALL(QNAN), 0},
    {"fsub.", ONE, SNAN, 0, ALL(QNAN), NV},

    {"fmul.", TWO, ONE_HALF, 0, ALL(THREE), 0},
    {"fmul.", MIN_NORMAL, HALF, 0, ALL(HALF_MIN_NORMAL), 0},
    {"fmul.", MIN_SUB, HALF, 0, {ZERO, ZERO, ZERO, MIN_SUB, MIN_SUB}, UF | NX},
    {"fmul.", M_MIN_SUB, HALF, 0, {M_ZERO, M_ZERO, M_MIN_SUB, M_ZERO, M_MIN_SUB}, UF | NX},
    {"fmul.", MIN_SUB, MIN_SUB, 0, {ZERO, ZERO, ZERO, MIN_SUB, ZERO}, UF | NX},
    /* A full-precision number just below the normal range: tiny even where it ends up at the
     * smallest normal. */
    {"fmul.",
     MIN_NORMAL,
     BEFORE_ONE,
     0,
     {MIN_NORMAL, MAX_SUB, MAX_SUB, MIN_NORMAL, MIN_NORMAL},
     UF | NX},
    {"fmul.", MAX, TWO, 0, {INF, MAX, MAX, INF, INF}, OF | NX},
    {"fmul.", M_MAX, TWO, 0, {M_INF, M_MAX, M_INF, M_MAX, M_INF}, OF | NX},
    {"fmul.", ZERO, M_ONE, 0, ALL(M_ZERO), 0},
    {"fmul.", M_ZERO, M_ONE, 0, ALL(ZERO), 0},
    {"fmul.", INF, M_TWO, 0, ALL(M_INF), 0},
    {"fmul.", INF, ZERO, 0, ALL(QNAN), NV},
    {"fmul.", M_ZERO, INF, 0, ALL(QNAN), NV},
    {"fmul.", M_QNAN_PAYLOAD, ZERO, 0, ALL(QNAN), 0},
    {"fmul.", ZERO, SNAN, 0, ALL(QNAN), NV},

    {"fdiv.", THREE, TWO, 0, ALL(ONE_HALF), 0},
    {"fdiv.", ONE, THREE, 0, {SKIP, THIRD_LOW, THIRD_LOW, THIRD_HIGH, SKIP}, NX},
    {"fdiv.", M_ONE, THREE, 0, {SKIP, M_THIRD_LOW, M_THIRD_HIGH, M_THIRD_LOW, SKIP}, NX},
    {"fdiv.", ONE, ZERO, 0, ALL(INF), DZ},
    {"fdiv.", ONE, M_ZERO, 0, ALL(M_INF), DZ},
    {"fdiv.", MIN_SUB, ZERO, 0, ALL(INF), DZ},
    {"fdiv.", INF, ZERO, 0, ALL(INF), 0},
    {"fdiv.", ZERO, M_INF, 0, ALL(M_ZERO), 0},
    {"fdiv.", ONE, INF, 0, ALL(ZERO), 0},
    {"fdiv.", ZERO, ZERO, 0, ALL(QNAN), NV},
    {"fdiv.", INF, M_INF, 0, ALL(QNAN), NV},
    {"fdiv.", MIN_SUB, TWO, 0, {ZERO, ZERO, ZERO, MIN_SUB, MIN_SUB}, UF | NX},
    {"fdiv.", MAX, HALF, 0, {INF, MAX, MAX, INF, INF}, OF | NX},
    {"fdiv.", MAX_SUB, MAX_SUB, 0, ALL(ONE), 0},
    {"fdiv.", QNAN_PAYLOAD, ZERO, 0, ALL(QNAN), 0},
    {"fdiv.", SNAN, ZERO, 0, ALL(QNAN), NV},

    {"fsqrt.", FOUR, 0, 0, ALL(TWO), 0},
    {"fsqrt.", NINE, 0, 0, ALL(THREE), 0},
    {"fsqrt.", TWO, 0, 0, {SKIP, ROOT2_LOW, ROOT2_LOW, ROOT2_HIGH, SKIP}, NX},
    {"fsqrt.", ZERO, 0, 0, ALL(ZERO), 0},
    {"fsqrt.", M_ZERO, 0, 0, ALL(M_ZERO), 0},
    {"fsqrt.", M_ONE, 0, 0, ALL(QNAN), NV},
    {"fsqrt.", M_MIN_SUB, 0, 0, ALL(QNAN), NV},
    {"fsqrt.", INF, 0, 0, ALL(INF), 0},
    {"fsqrt.", M_INF, 0, 0, ALL(QNAN), NV},
    {"fsqrt.", M_QNAN_PAYLOAD, 0, 0, ALL(QNAN), 0},
    {"fsqrt.", M_SNAN, 0, 0, ALL(QNAN), NV},

    {"fmadd.", ONE_HALF, TWO, ONE, ALL(FOUR), 0},
    {"fmadd.", TWO, ONE_HALF, M_THREE, {ZERO, ZERO, M_ZERO, ZERO, ZERO}, 0},
    {"fmadd.", ZERO, M_ONE, M_ZERO, ALL(M_ZERO), 0},
    {"fmadd.", ZERO, ONE, M_ZERO, {ZERO, ZERO, M_ZERO, ZERO, ZERO}, 0},
    {"fmadd.", ZERO, ONE, MIN_SUB, ALL(MIN_SUB), 0},
    {"fmadd.", MIN_SUB, HALF, M_ZERO, {ZERO, ZERO, ZERO, MIN_SUB, MIN_SUB}, UF | NX},
    /* One rounding: the square of 1 + ulp is 1 + 2 ulp + ulp^2. */
    {"fmadd.", ONE_ULP, ONE_ULP, M_ONE_2ULP, ALL(ULP_SQUARED), 0},
    /* Tininess after rounding: an eighth of the least step below the smallest normal rounds
     * up to it in full precision already, unless the mode forbids. */
    {"fmadd.", M_MIN_SUB, EIGHTH, MIN_NORMAL, {MIN_NORMAL, SKIP, SKIP, MIN_NORMAL, MIN_NORMAL}, NX},
    {"fmadd.", M_MIN_SUB, EIGHTH, MIN_NORMAL, {SKIP, MAX_SUB, MAX_SUB, SKIP, SKIP}, UF | NX},
    {"fmadd.", MAX, TWO, M_MAX, ALL(MAX), 0},
    {"fmadd.", MAX, TWO, MAX, {INF, MAX, MAX, INF, INF}, OF | NX},
    {"fmadd.", MAX, MAX, M_INF, ALL(M_INF), 0},
    {"fmadd.", INF, ONE, M_INF, ALL(QNAN), NV},
    {"fmadd.", INF, ONE, INF, ALL(INF), 0},
    {"fmadd.", INF, ZERO, ONE, ALL(QNAN), NV},
    {"fmadd.", INF, ZERO, QNAN, ALL(QNAN), NV}, /* U §F: invalid in spite of the quiet NaN */
    {"fmadd.", ZERO, M_INF, M_QNAN_PAYLOAD, ALL(QNAN), NV},
    {"fmadd.", INF, QNAN, ONE, ALL(QNAN), 0},
    {"fmadd.", ONE, ONE, QNAN_PAYLOAD, ALL(QNAN), 0},
    {"fmadd.", ONE, ONE, SNAN, ALL(QNAN), NV},
    {"fmadd.", ONE, SNAN, QNAN, ALL(QNAN), NV},

    {"fmsub.", THREE, ONE, ONE, ALL(TWO), 0},
    {"fmsub.", TWO, ONE_HALF, THREE, {ZERO, ZERO, M_ZERO, ZERO, ZERO}, 0},
    {"fmsub.", ONE_ULP, ONE_ULP, ONE_2ULP, ALL(ULP_SQUARED), 0},
    {"fmsub.", INF, ONE, INF, ALL(QNAN), NV},
    {"fmsub.", ZERO, ONE, ZERO, {ZERO, ZERO, M_ZERO, ZERO, ZERO}, 0},
    {"fmsub.", ONE, ONE, SNAN, ALL(QNAN), NV},

    {"fnmsub.", TWO, ONE, THREE, ALL(ONE), 0},
    {"fnmsub.", ONE, ONE, ONE, {ZERO, ZERO, M_ZERO, ZERO, ZERO}, 0},
    {"fnmsub.", ONE_ULP, ONE_ULP, ONE_2ULP, ALL(M_ULP_SQUARED), 0},
    {"fnmsub.", INF, ONE, INF, ALL(QNAN), NV},
    {"fnmsub.", MIN_SUB, EIGHTH, MIN_NORMAL, {SKIP, MAX_SUB, MAX_SUB, SKIP, SKIP}, UF | NX},

    {"fnmadd.", TWO, ONE, ONE, ALL(M_THREE), 0},
    {"fnmadd.", ONE, ONE, M_ONE, {ZERO, ZERO, M_ZERO, ZERO, ZERO}, 0},
    {"fnmadd.", ONE, HALF_ULP, ONE, {M_ONE, M_ONE, M_ONE_ULP, M_ONE, M_ONE_ULP}, NX},
    {"fnmadd.", INF, M_ONE, INF, ALL(QNAN), NV},
    {"fnmadd.", INF, ZERO, QNAN, ALL(QNAN), NV},
    {"fnmadd.", ZERO, ONE, ZERO, ALL(M_ZERO), 0},

    /* No arithmetic: NaNs keep their payload, signalling ones raise nothing. */
    {"fsgnj.", ONE, M_TWO, 0, ALL(M_ONE), 0},
    {"fsgnj.", M_ONE, TWO, 0, ALL(ONE), 0},
    {"fsgnj.", QNAN_PAYLOAD, M_ZERO, 0, ALL(M_QNAN_PAYLOAD), 0},
    {"fsgnj.", SNAN, M_SNAN, 0, ALL(M_SNAN), 0},
    {"fsgnjn.", ONE, M_TWO, 0, ALL(ONE), 0},
    {"fsgnjn.", ONE, TWO, 0, ALL(M_ONE), 0},
    {"fsgnjn.", SNAN, SNAN, 0, ALL(M_SNAN), 0},
    {"fsgnjx.", M_ONE, M_TWO, 0, ALL(ONE), 0},
    {"fsgnjx.", M_ONE, TWO, 0, ALL(M_ONE), 0},
    {"fsgnjx.", INF, M_QNAN, 0, ALL(M_INF), 0},

    {"fmin.", ONE, TWO, 0, ALL(ONE), 0},
    {"fmin.", M_ONE, M_TWO, 0, ALL(M_TWO), 0},
    {"fmin.", M_INF, M_MAX, 0, ALL(M_INF), 0},
    {"fmin.", ZERO, M_ZERO, 0, ALL(M_ZERO), 0},
    {"fmin.", M_ZERO, ZERO, 0, ALL(M_ZERO), 0},
    {"fmin.", ONE, QNAN_PAYLOAD, 0, ALL(ONE), 0},
    {"fmin.", M_QNAN, INF, 0, ALL(INF), 0},
    {"fmin.", SNAN, ONE, 0, ALL(ONE), NV},
    {"fmin.", QNAN_PAYLOAD, M_QNAN_PAYLOAD, 0, ALL(QNAN), 0},
    {"fmin.", SNAN, QNAN, 0, ALL(QNAN), NV},
    {"fmax.", ONE, TWO, 0, ALL(TWO), 0},
    {"fmax.", M_ONE, M_TWO, 0, ALL(M_ONE), 0},
    {"fmax.", MIN_SUB, M_MAX, 0, ALL(MIN_SUB), 0},
    {"fmax.", ZERO, M_ZERO, 0, ALL(ZERO), 0},
    {"fmax.", M_ZERO, ZERO, 0, ALL(ZERO), 0},
    {"fmax.", M_INF, QNAN, 0, ALL(M_INF), 0},
    {"fmax.", ONE, SNAN_TOP, 0, ALL(ONE), NV},
    {"fmax.", SNAN, SNAN, 0, ALL(QNAN), NV},
    {"fmax.", M_QNAN_PAYLOAD, QNAN, 0, ALL(QNAN), 0},
};

/* ---- operands → x register; results and flags by mode ---- */

struct to_integer_case {
    const char *insn;
    enum value a, b;
    uint64_t result[5];
    uint8_t flags[5];
};
#define IS(value)            ALL(value), ALL(0)
#define RAISES(value, flags) ALL(value), ALL(flags)
#define INT(value)           ((uint64_t)(int64_t)(value))
#define W_MAX                INT(INT32_MAX)
#define W_MIN                INT(INT32_MIN)
#define L_MAX                INT(INT64_MAX)
#define L_MIN                INT(INT64_MIN)
#define ONES                 UINT64_MAX /* the greatest wu (sign-extended) and lu */
static const struct to_integer_case to_integer_cases[] = {
    {"feq.", ONE, ONE, IS(1)},
    {"feq.", ZERO, M_ZERO, IS(1)},
    {"feq.", ONE, M_ONE, IS(0)},
    {"feq.", ONE, ONE_ULP, IS(0)},
    {"feq.", QNAN, QNAN, IS(0)},
    {"feq.", INF, INF, IS(1)},
    {"feq.", SNAN, ONE, RAISES(0, NV)},
    {"feq.", QNAN, M_SNAN_TOP, RAISES(0, NV)},
    {"flt.", ONE, TWO, IS(1)},
    {"flt.", ONE, ONE, IS(0)},
    {"flt.", M_TWO, M_ONE, IS(1)},
    {"flt.", M_ONE, M_TWO, IS(0)},
    {"flt.", M_ZERO, ZERO, IS(0)},
    {"flt.", M_INF, INF, IS(1)},
    {"flt.", M_MIN_SUB, MIN_SUB, IS(1)},
    {"flt.", QNAN, ONE, RAISES(0, NV)},
    {"flt.", ONE, SNAN, RAISES(0, NV)},
    {"fle.", ONE, ONE, IS(1)},
    {"fle.", ZERO, M_ZERO, IS(1)},
    {"fle.", TWO, ONE, IS(0)},
    {"fle.", M_TWO, M_ONE, IS(1)},
    {"fle.", INF, MAX, IS(0)},
    {"fle.", QNAN_PAYLOAD, QNAN_PAYLOAD, RAISES(0, NV)},
    {"fle.", SNAN, ONE, RAISES(0, NV)},

    {"fclass.", M_INF, 0, IS(1 << 0)},
    {"fclass.", M_MIN_NORMAL, 0, IS(1 << 1)},
    {"fclass.", M_MAX_SUB, 0, IS(1 << 2)},
    {"fclass.", M_ZERO, 0, IS(1 << 3)},
    {"fclass.", ZERO, 0, IS(1 << 4)},
    {"fclass.", MIN_SUB, 0, IS(1 << 5)},
    {"fclass.", MAX, 0, IS(1 << 6)},
    {"fclass.", INF, 0, IS(1 << 7)},
    {"fclass.", SNAN_TOP, 0, IS(1 << 8)},
    {"fclass.", M_SNAN, 0, IS(1 << 8)},
    {"fclass.", M_QNAN, 0, IS(1 << 9)},

    {"fcvt.w.", THREE, 0, IS(3)},
    {"fcvt.w.", M_ZERO, 0, IS(0)},
    {"fcvt.w.", ONE_HALF, 0, {2, 1, 1, 2, 2}, ALL(NX)},
    {"fcvt.w.", TWO_HALF, 0, {2, 2, 2, 3, 3}, ALL(NX)},
    {"fcvt.w.", M_ONE_HALF, 0, {INT(-2), INT(-1), INT(-2), INT(-1), INT(-2)}, ALL(NX)},
    {"fcvt.w.", HALF, 0, {0, 0, 0, 1, 1}, ALL(NX)},
    {"fcvt.w.", M_MIN_SUB, 0, {0, 0, INT(-1), 0, 0}, ALL(NX)},
    {"fcvt.w.", TWO_31, 0, RAISES(W_MAX, NV)},
    {"fcvt.w.", M_TWO_31, 0, IS(W_MIN)},
    {"fcvt.w.", M_TWO_32, 0, RAISES(W_MIN, NV)},
    {"fcvt.w.", INF, 0, RAISES(W_MAX, NV)},
    {"fcvt.w.", M_INF, 0, RAISES(W_MIN, NV)},
    {"fcvt.w.", M_QNAN, 0, RAISES(W_MAX, NV)},
    {"fcvt.w.", SNAN, 0, RAISES(W_MAX, NV)},
    {"fcvt.wu.", THREE, 0, IS(3)},
    {"fcvt.wu.", TWO_31, 0, IS(UINT64_C(0xffffffff80000000))},
    {"fcvt.wu.", TWO_32, 0, RAISES(ONES, NV)},
    {"fcvt.wu.", M_ONE, 0, RAISES(0, NV)},
    {"fcvt.wu.", M_HALF, 0, ALL(0), {NX, NX, NV, NX, NV}},
    {"fcvt.wu.", M_INF, 0, RAISES(0, NV)},
    {"fcvt.wu.", M_QNAN_PAYLOAD, 0, RAISES(ONES, NV)},
    {"fcvt.l.", M_THREE, 0, IS(INT(-3))},
    {"fcvt.l.", M_TWO_HALF, 0, {INT(-2), INT(-2), INT(-3), INT(-2), INT(-3)}, ALL(NX)},
    {"fcvt.l.", TWO_32, 0, IS(INT64_C(1) << 32)},
    {"fcvt.l.", TWO_63, 0, RAISES(L_MAX, NV)},
    {"fcvt.l.", M_TWO_63, 0, IS(L_MIN)},
    {"fcvt.l.", M_TWO_64, 0, RAISES(L_MIN, NV)},
    {"fcvt.l.", MAX, 0, RAISES(L_MAX, NV)},
    {"fcvt.l.", M_QNAN, 0, RAISES(L_MAX, NV)},
    {"fcvt.lu.", TWO_63, 0, IS(UINT64_C(1) << 63)},
    {"fcvt.lu.", TWO_64, 0, RAISES(ONES, NV)},
    {"fcvt.lu.", M_ONE, 0, RAISES(0, NV)},
    {"fcvt.lu.", M_MIN_SUB, 0, ALL(0), {NX, NX, NV, NX, NX}},
    {"fcvt.lu.", M_ZERO, 0, IS(0)},
    {"fcvt.lu.", M_SNAN, 0, RAISES(ONES, NV)},
};

/* ---- x register → f register ---- */

struct from_integer_case {
    const char *insn; /* the letter goes where the percent sign is */
    uint64_t operand;
    enum value single[5];
    uint8_t single_flags;
    enum value twice[5];
    uint8_t double_flags;
};
#define BOTH(value) ALL(value), 0, ALL(value), 0
static const struct from_integer_case from_integer_cases[] = {
    {"fcvt.%.w", 0, BOTH(ZERO)},
    {"fcvt.%.w", 3, BOTH(THREE)},
    {"fcvt.%.w", UINT64_MAX, BOTH(M_ONE)},
    {"fcvt.%.w", UINT64_C(0x7654321000000001), BOTH(ONE)}, /* the upper half is ignored */
    {"fcvt.%.w", UINT64_C(0x80000000), BOTH(M_TWO_31)},
    {"fcvt.%.wu", UINT64_C(0xffffffff80000000), BOTH(TWO_31)},
    {"fcvt.%.wu", UINT64_C(0xabcdef0000000009), BOTH(NINE)},
    {"fcvt.%.l", UINT64_MAX, BOTH(M_ONE)},
    {"fcvt.%.l", UINT64_C(1) << 63, BOTH(M_TWO_63)},
    {"fcvt.%.l", UINT64_C(1) << 32, BOTH(TWO_32)},
    {"fcvt.%.l",
     INT64_MAX,
     {TWO_63, BEFORE_TWO_63, BEFORE_TWO_63, TWO_63, TWO_63},
     NX,
     {TWO_63, BEFORE_TWO_63, BEFORE_TWO_63, TWO_63, TWO_63},
     NX},
    {"fcvt.%.lu", UINT64_C(1) << 63, BOTH(TWO_63)},
    {"fcvt.%.lu",
     UINT64_MAX,
     {TWO_64, BEFORE_TWO_64, BEFORE_TWO_64, TWO_64, TWO_64},
     NX,
     {TWO_64, BEFORE_TWO_64, BEFORE_TWO_64, TWO_64, TWO_64},
     NX},
    {"fcvt.%.lu", 0, BOTH(ZERO)},
};

/* ---- only in one of the two: whole registers → whole register, one mode ---- */

struct single_case {
    const char *insn;
    enum sf_round rm;
    uint64_t a, b, result;
    uint8_t flags;
};
static const struct single_case single_cases[] = {
    /* Where the two formats round differently. */
    {"fdiv.s", SF_RNE, BOX | 0x3f800000, BOX | 0x40400000, BOX | 0x3eaaaaab, NX},
    {"fdiv.s", SF_RMM, BOX | 0x3f800000, BOX | 0x40400000, BOX | 0x3eaaaaab, NX},
    {"fdiv.d", SF_RNE, 0x3ff0000000000000, 0x4008000000000000, 0x3fd5555555555555, NX},
    {"fdiv.d", SF_RMM, 0x3ff0000000000000, 0x4008000000000000, 0x3fd5555555555555, NX},
    {"fsqrt.s", SF_RNE, BOX | 0x40000000, 0, BOX | 0x3fb504f3, NX},
    {"fsqrt.d", SF_RMM, 0x4000000000000000, 0, 0x3ff6a09e667f3bcd, NX},
    {"fcvt.s.w", SF_RNE, 0x01000001, 0, BOX | 0x4b800000, NX}, /* 2^24 + 1 */
    {"fcvt.s.w", SF_RMM, 0x01000001, 0, BOX | 0x4b800001, NX},
    {"fcvt.s.w", SF_RDN, INT(-0x01000001), 0, BOX | 0xcb800001, NX},
    {"fcvt.s.wu", SF_RNE, 0xffffffff, 0, BOX | 0x4f800000, NX},
    {"fcvt.s.wu", SF_RTZ, 0xffffffff, 0, BOX | 0x4f7fffff, NX},
    {"fcvt.d.wu", SF_RNE, 0xffffffff, 0, 0x41efffffffe00000, 0},
    {"fcvt.d.w", SF_RUP, 0x7fffffff, 0, 0x41dfffffffc00000, 0},
    {"fcvt.w.d", SF_RTZ, 0x41dfffffffe00000, 0, W_MAX, NX}, /* 2^31 - 0.5 */
    {"fcvt.w.d", SF_RNE, 0x41dfffffffe00000, 0, W_MAX, NV},
    {"fcvt.w.d", SF_RTZ, 0xc1e00000001fffff, 0, W_MIN, NX},
    {"fcvt.w.d", SF_RDN, 0xc1e00000001fffff, 0, W_MIN, NV},
    {"fcvt.wu.d", SF_RTZ, 0x41effffffff00000, 0, ONES, NX}, /* 2^32 - 0.5 */
    {"fcvt.wu.d", SF_RUP, 0x41effffffff00000, 0, ONES, NV},

    {"fcvt.s.d", SF_RNE, 0x3fd5555555555555, 0, BOX | 0x3eaaaaab, NX},
    {"fcvt.s.d", SF_RTZ, 0x3fd5555555555555, 0, BOX | 0x3eaaaaaa, NX},
    {"fcvt.s.d", SF_RNE, 0x47efffffe0000000, 0, BOX | 0x7f7fffff, 0},
    {"fcvt.s.d", SF_RNE, 0x47effffff0000000, 0, BOX | 0x7f800000, OF | NX}, /* tie */
    {"fcvt.s.d", SF_RNE, 0x47efffffefffffff, 0, BOX | 0x7f7fffff, NX},
    {"fcvt.s.d", SF_RTZ, 0x47effffff0000000, 0, BOX | 0x7f7fffff, NX},
    {"fcvt.s.d", SF_RTZ, 0x47f0000000000000, 0, BOX | 0x7f7fffff, OF | NX},
    {"fcvt.s.d", SF_RDN, 0xffefffffffffffff, 0, BOX | 0xff800000, OF | NX},
    {"fcvt.s.d", SF_RNE, 0x36a0000000000000, 0, BOX | 0x00000001, 0},       /* 2^-149 */
    {"fcvt.s.d", SF_RNE, 0x3690000000000000, 0, BOX | 0x00000000, UF | NX}, /* 2^-150 */
    {"fcvt.s.d", SF_RMM, 0x3690000000000000, 0, BOX | 0x00000001, UF | NX},
    {"fcvt.s.d", SF_RUP, 0x0000000000000001, 0, BOX | 0x00000001, UF | NX},
    {"fcvt.s.d", SF_RNE, 0x380ffffff0000000, 0, BOX | 0x00800000, NX}, /* not tiny: rounds up */
    {"fcvt.s.d", SF_RNE, 0x380fffffe0000000, 0, BOX | 0x00800000, UF | NX}, /* 24 bits: tiny */
    {"fcvt.s.d", SF_RNE, 0x8000000000000000, 0, BOX | 0x80000000, 0},
    {"fcvt.s.d", SF_RNE, 0xfff0000000000000, 0, BOX | 0xff800000, 0},
    {"fcvt.s.d", SF_RNE, 0xfff8000000012345, 0, BOX | 0x7fc00000, 0},
    {"fcvt.s.d", SF_RNE, 0x7ff0000000000001, 0, BOX | 0x7fc00000, NV},
    {"fcvt.d.s", SF_RNE, BOX | 0x00000001, 0, 0x36a0000000000000, 0},
    {"fcvt.d.s", SF_RTZ, BOX | 0x807fffff, 0, 0xb80fffffc0000000, 0},
    {"fcvt.d.s", SF_RNE, BOX | 0x3eaaaaab, 0, 0x3fd5555560000000, 0},
    {"fcvt.d.s", SF_RNE, BOX | 0xff800000, 0, 0xfff0000000000000, 0},
    {"fcvt.d.s", SF_RNE, BOX | 0xffc12345, 0, SF_NAN_F64, 0},
    {"fcvt.d.s", SF_RNE, BOX | 0x7f800001, 0, SF_NAN_F64, NV},
    {"fcvt.d.s", SF_RNE, 0x3f800000, 0, SF_NAN_F64, 0}, /* not boxed */

    {"fmv.x.w", SF_RNE, BOX | 0x3f800000, 0, 0x3f800000, 0},
    {"fmv.x.w", SF_RNE, BOX | 0xff800001, 0, 0xffffffffff800001, 0},
    {"fmv.x.w", SF_RNE, 0x4010000012345678, 0, 0x12345678, 0}, /* boxed or not */
    {"fmv.w.x", SF_RNE, 0x123456787f800001, 0, BOX | 0x7f800001, 0},
    {"fmv.x.d", SF_RNE, 0x7ff0000000000001, 0, 0x7ff0000000000001, 0},
    {"fmv.d.x", SF_RNE, 0xfff0000000000001, 0, 0xfff0000000000001, 0},
    {"fsgnj.d", SF_RNE, BOX | 0x3f800000, 0x4008000000000000, 0x7fffffff3f800000, 0},
};

#endif
