/* SPDX-License-Identifier: MIT
 *
 * M: multiplication and division (U §M). Division never traps: by zero it gives all ones and
 * the dividend as remainder; the one signed overflow gives the dividend and remainder 0.
 */
#include "isa/riscv64/exec.h"

static inline uint64_t mulh(uint64_t a, uint64_t b)
{
    return (uint64_t)(((__int128)(int64_t)a * (int64_t)b) >> 64);
}

static inline uint64_t mulhu(uint64_t a, uint64_t b)
{
    return (uint64_t)(((unsigned __int128)a * b) >> 64);
}

/* a signed, b unsigned. */
static inline uint64_t mulhsu(uint64_t a, uint64_t b)
{
    return mulhu(a, b) - ((int64_t)a < 0 ? b : 0);
}

static inline int64_t divide(int64_t a, int64_t b)
{
    if (b == 0)
        return -1;
    return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
}

static inline int64_t remainder_of(int64_t a, int64_t b)
{
    if (b == 0)
        return a;
    return b == -1 ? 0 : a % b;
}

static inline uint64_t divide_unsigned(uint64_t a, uint64_t b)
{
    return b == 0 ? UINT64_MAX : a / b;
}

static inline uint64_t remainder_unsigned(uint64_t a, uint64_t b)
{
    return b == 0 ? a : a % b;
}

RV_DEFINE_RR(exec_mul, a *b)
RV_DEFINE_RR(exec_mulh, mulh(a, b))
RV_DEFINE_RR(exec_mulhsu, mulhsu(a, b))
RV_DEFINE_RR(exec_mulhu, mulhu(a, b))
RV_DEFINE_RR(exec_div, divide((int64_t)a, (int64_t)b))
RV_DEFINE_RR(exec_divu, divide_unsigned(a, b))
RV_DEFINE_RR(exec_rem, remainder_of((int64_t)a, (int64_t)b))
RV_DEFINE_RR(exec_remu, remainder_unsigned(a, b))
RV_DEFINE_RR(exec_mulw, rv_word(a *b))
RV_DEFINE_RR(exec_divw, rv_word((uint64_t)divide((int32_t)a, (int32_t)b)))
RV_DEFINE_RR(exec_divuw, rv_word(divide_unsigned((uint32_t)a, (uint32_t)b)))
RV_DEFINE_RR(exec_remw, rv_word((uint64_t)remainder_of((int32_t)a, (int32_t)b)))
RV_DEFINE_RR(exec_remuw, rv_word(remainder_unsigned((uint32_t)a, (uint32_t)b)))

static const struct rv_row rows[] = {
    {"mul", 0x02000033, 0xfe00707f, RV_FORMAT_R, exec_mul, 0},
    {"mulh", 0x02001033, 0xfe00707f, RV_FORMAT_R, exec_mulh, 0},
    {"mulhsu", 0x02002033, 0xfe00707f, RV_FORMAT_R, exec_mulhsu, 0},
    {"mulhu", 0x02003033, 0xfe00707f, RV_FORMAT_R, exec_mulhu, 0},
    {"div", 0x02004033, 0xfe00707f, RV_FORMAT_R, exec_div, 0},
    {"divu", 0x02005033, 0xfe00707f, RV_FORMAT_R, exec_divu, 0},
    {"rem", 0x02006033, 0xfe00707f, RV_FORMAT_R, exec_rem, 0},
    {"remu", 0x02007033, 0xfe00707f, RV_FORMAT_R, exec_remu, 0},
    {"mulw", 0x0200003b, 0xfe00707f, RV_FORMAT_R, exec_mulw, 0},
    {"divw", 0x0200403b, 0xfe00707f, RV_FORMAT_R, exec_divw, 0},
    {"divuw", 0x0200503b, 0xfe00707f, RV_FORMAT_R, exec_divuw, 0},
    {"remw", 0x0200603b, 0xfe00707f, RV_FORMAT_R, exec_remw, 0},
    {"remuw", 0x0200703b, 0xfe00707f, RV_FORMAT_R, exec_remuw, 0},
};
const struct rv_extension rv_m = {"m", rows, ARRAY_SIZE(rows)};
