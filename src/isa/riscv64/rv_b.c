/* SPDX-License-Identifier: MIT
 *
 * Zba (address generation), Zbb (basic bit manipulation) and Zbs (single bits) (U §B).
 */
#include "isa/riscv64/exec.h"

static inline uint64_t rotate_right(uint64_t value, uint64_t amount)
{
    amount &= 63;
    return value >> amount | value << ((64 - amount) & 63);
}

static inline uint64_t rotate_right_word(uint64_t value, uint64_t amount)
{
    uint32_t low = (uint32_t)value;
    amount &= 31;
    return rv_word(low >> amount | low << ((32 - amount) & 31));
}

/* 0xff for every byte that is not 0. */
static inline uint64_t or_combine(uint64_t value)
{
    uint64_t low7 = UINT64_C(0x7f7f7f7f7f7f7f7f);
    uint64_t top = (((value & low7) + low7) | value) & ~low7; /* 0x80 where not 0 */
    return (top >> 7) * 0xff;
}

RV_DEFINE_RR(exec_add_uw, (uint32_t)a + b)
RV_DEFINE_RR(exec_sh1add, (a << 1) + b)
RV_DEFINE_RR(exec_sh2add, (a << 2) + b)
RV_DEFINE_RR(exec_sh3add, (a << 3) + b)
RV_DEFINE_RR(exec_sh1add_uw, ((uint64_t)(uint32_t)a << 1) + b)
RV_DEFINE_RR(exec_sh2add_uw, ((uint64_t)(uint32_t)a << 2) + b)
RV_DEFINE_RR(exec_sh3add_uw, ((uint64_t)(uint32_t)a << 3) + b)
RV_DEFINE_RI(exec_slli_uw, (uint64_t)(uint32_t)a << imm)

RV_DEFINE_RR(exec_andn, a & ~b)
RV_DEFINE_RR(exec_orn, a | ~b)
RV_DEFINE_RR(exec_xnor, ~(a ^ b))
RV_DEFINE_RI(exec_clz, a == 0 ? 64 : __builtin_clzll(a))
RV_DEFINE_RI(exec_ctz, a == 0 ? 64 : __builtin_ctzll(a))
RV_DEFINE_RI(exec_cpop, __builtin_popcountll(a))
RV_DEFINE_RI(exec_clzw, (uint32_t)a == 0 ? 32 : __builtin_clz((uint32_t)a))
RV_DEFINE_RI(exec_ctzw, (uint32_t)a == 0 ? 32 : __builtin_ctz((uint32_t)a))
RV_DEFINE_RI(exec_cpopw, __builtin_popcount((uint32_t)a))
RV_DEFINE_RR(exec_max, (int64_t)a > (int64_t)b ? a : b)
RV_DEFINE_RR(exec_maxu, a > b ? a : b)
RV_DEFINE_RR(exec_min, (int64_t)a < (int64_t)b ? a : b)
RV_DEFINE_RR(exec_minu, a < b ? a : b)
RV_DEFINE_RI(exec_sext_b, (int64_t)(int8_t)a)
RV_DEFINE_RI(exec_sext_h, (int64_t)(int16_t)a)
RV_DEFINE_RI(exec_zext_h, (uint16_t)a)
RV_DEFINE_RR(exec_rol, rotate_right(a, 0 - b))
RV_DEFINE_RR(exec_ror, rotate_right(a, b))
RV_DEFINE_RI(exec_rori, rotate_right(a, imm))
RV_DEFINE_RR(exec_rolw, rotate_right_word(a, 0 - b))
RV_DEFINE_RR(exec_rorw, rotate_right_word(a, b))
RV_DEFINE_RI(exec_roriw, rotate_right_word(a, imm))
RV_DEFINE_RI(exec_orc_b, or_combine(a))
RV_DEFINE_RI(exec_rev8, __builtin_bswap64(a))

RV_DEFINE_RR(exec_bclr, a & ~(UINT64_C(1) << (b & 63)))
RV_DEFINE_RR(exec_bext, a >> (b & 63) & 1)
RV_DEFINE_RR(exec_binv, a ^ UINT64_C(1) << (b & 63))
RV_DEFINE_RR(exec_bset, a | UINT64_C(1) << (b & 63))
RV_DEFINE_RI(exec_bclri, a & ~(UINT64_C(1) << imm))
RV_DEFINE_RI(exec_bexti, a >> imm & 1)
RV_DEFINE_RI(exec_binvi, a ^ UINT64_C(1) << imm)
RV_DEFINE_RI(exec_bseti, a | UINT64_C(1) << imm)

static const struct rv_row rows[] = {
    {"add.uw", 0x0800003b, 0xfe00707f, RV_FORMAT_R, exec_add_uw, 0},
    {"sh1add", 0x20002033, 0xfe00707f, RV_FORMAT_R, exec_sh1add, 0},
    {"sh2add", 0x20004033, 0xfe00707f, RV_FORMAT_R, exec_sh2add, 0},
    {"sh3add", 0x20006033, 0xfe00707f, RV_FORMAT_R, exec_sh3add, 0},
    {"sh1add.uw", 0x2000203b, 0xfe00707f, RV_FORMAT_R, exec_sh1add_uw, 0},
    {"sh2add.uw", 0x2000403b, 0xfe00707f, RV_FORMAT_R, exec_sh2add_uw, 0},
    {"sh3add.uw", 0x2000603b, 0xfe00707f, RV_FORMAT_R, exec_sh3add_uw, 0},
    {"slli.uw", 0x0800101b, 0xfc00707f, RV_FORMAT_SHIFT6, exec_slli_uw, 0},

    {"andn", 0x40007033, 0xfe00707f, RV_FORMAT_R, exec_andn, 0},
    {"orn", 0x40006033, 0xfe00707f, RV_FORMAT_R, exec_orn, 0},
    {"xnor", 0x40004033, 0xfe00707f, RV_FORMAT_R, exec_xnor, 0},
    {"clz", 0x60001013, 0xfff0707f, RV_FORMAT_R2, exec_clz, 0},
    {"ctz", 0x60101013, 0xfff0707f, RV_FORMAT_R2, exec_ctz, 0},
    {"cpop", 0x60201013, 0xfff0707f, RV_FORMAT_R2, exec_cpop, 0},
    {"clzw", 0x6000101b, 0xfff0707f, RV_FORMAT_R2, exec_clzw, 0},
    {"ctzw", 0x6010101b, 0xfff0707f, RV_FORMAT_R2, exec_ctzw, 0},
    {"cpopw", 0x6020101b, 0xfff0707f, RV_FORMAT_R2, exec_cpopw, 0},
    {"max", 0x0a006033, 0xfe00707f, RV_FORMAT_R, exec_max, 0},
    {"maxu", 0x0a007033, 0xfe00707f, RV_FORMAT_R, exec_maxu, 0},
    {"min", 0x0a004033, 0xfe00707f, RV_FORMAT_R, exec_min, 0},
    {"minu", 0x0a005033, 0xfe00707f, RV_FORMAT_R, exec_minu, 0},
    {"sext.b", 0x60401013, 0xfff0707f, RV_FORMAT_R2, exec_sext_b, 0},
    {"sext.h", 0x60501013, 0xfff0707f, RV_FORMAT_R2, exec_sext_h, 0},
    {"zext.h", 0x0800403b, 0xfff0707f, RV_FORMAT_R2, exec_zext_h, 0},
    {"rol", 0x60001033, 0xfe00707f, RV_FORMAT_R, exec_rol, 0},
    {"ror", 0x60005033, 0xfe00707f, RV_FORMAT_R, exec_ror, 0},
    {"rori", 0x60005013, 0xfc00707f, RV_FORMAT_SHIFT6, exec_rori, 0},
    {"rolw", 0x6000103b, 0xfe00707f, RV_FORMAT_R, exec_rolw, 0},
    {"rorw", 0x6000503b, 0xfe00707f, RV_FORMAT_R, exec_rorw, 0},
    {"roriw", 0x6000501b, 0xfe00707f, RV_FORMAT_SHIFT5, exec_roriw, 0},
    {"orc.b", 0x28705013, 0xfff0707f, RV_FORMAT_R2, exec_orc_b, 0},
    {"rev8", 0x6b805013, 0xfff0707f, RV_FORMAT_R2, exec_rev8, 0},

    {"bclr", 0x48001033, 0xfe00707f, RV_FORMAT_R, exec_bclr, 0},
    {"bext", 0x48005033, 0xfe00707f, RV_FORMAT_R, exec_bext, 0},
    {"binv", 0x68001033, 0xfe00707f, RV_FORMAT_R, exec_binv, 0},
    {"bset", 0x28001033, 0xfe00707f, RV_FORMAT_R, exec_bset, 0},
    {"bclri", 0x48001013, 0xfc00707f, RV_FORMAT_SHIFT6, exec_bclri, 0},
    {"bexti", 0x48005013, 0xfc00707f, RV_FORMAT_SHIFT6, exec_bexti, 0},
    {"binvi", 0x68001013, 0xfc00707f, RV_FORMAT_SHIFT6, exec_binvi, 0},
    {"bseti", 0x28001013, 0xfc00707f, RV_FORMAT_SHIFT6, exec_bseti, 0},
};
const struct rv_extension rv_b = {"b", rows, ARRAY_SIZE(rows)};
