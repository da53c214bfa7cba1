/* SPDX-License-Identifier: MIT
 *
 * Operand layouts, one row each: how the operands are taken out of the encoding and how they
 * are written. Immediates come out complete (scaled, sign-extended); integer rd = x0 comes
 * out as RV_RD_NONE. Encodings: U §"RV32/64G Instruction Set Listings", U §C.
 */
#include "isa/riscv64/formats.h"

#include "base/bits.h"

static inline uint32_t field(uint32_t raw, unsigned low, unsigned length)
{
    return raw >> low & ((1u << length) - 1);
}

/* Moves `length` bits of raw from `from` to `to`. */
static inline uint32_t move(uint32_t raw, unsigned from, unsigned to, unsigned length)
{
    return field(raw, from, length) << to;
}

static inline uint8_t x_rd(uint32_t number)
{
    return (uint8_t)(number == 0 ? RV_RD_NONE : number);
}

/* ---- 32-bit encodings ---- */

static inline void set_registers(uint32_t raw, struct rv_insn *insn)
{
    insn->rs1 = (uint8_t)field(raw, 15, 5);
    insn->rs2 = (uint8_t)field(raw, 20, 5);
    insn->rs3 = (uint8_t)field(raw, 27, 5);
    insn->rm = (uint8_t)field(raw, 12, 3);
}

static bool extract_none(uint32_t raw, struct rv_insn *insn)
{
    (void)raw;
    insn->rd = RV_RD_NONE;
    return true;
}

/* Everything that has some of rd, rs1, rs2, rs3, rm; rd is an x register. */
static bool extract_x(uint32_t raw, struct rv_insn *insn)
{
    set_registers(raw, insn);
    insn->rd = x_rd(field(raw, 7, 5));
    return true;
}

/* The same with rd an f register. */
static bool extract_f(uint32_t raw, struct rv_insn *insn)
{
    set_registers(raw, insn);
    insn->rd = (uint8_t)field(raw, 7, 5);
    return true;
}

static bool extract_i(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = sign_extend(raw >> 20, 12);
    return extract_x(raw, insn);
}

static bool extract_f_load(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = sign_extend(raw >> 20, 12);
    return extract_f(raw, insn);
}

static bool extract_shift6(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = field(raw, 20, 6);
    return extract_x(raw, insn);
}

static bool extract_shift5(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = field(raw, 20, 5);
    return extract_x(raw, insn);
}

static bool extract_s(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = sign_extend(move(raw, 25, 5, 7) | move(raw, 7, 0, 5), 12);
    set_registers(raw, insn);
    insn->rd = RV_RD_NONE;
    return true;
}

static bool extract_b(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = sign_extend(
        move(raw, 31, 12, 1) | move(raw, 7, 11, 1) | move(raw, 25, 5, 6) | move(raw, 8, 1, 4), 13);
    set_registers(raw, insn);
    insn->rd = RV_RD_NONE;
    return true;
}

static bool extract_u(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = sign_extend(raw & 0xfffff000, 32);
    insn->rd = x_rd(field(raw, 7, 5));
    return true;
}

static bool extract_j(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = sign_extend(move(raw, 31, 20, 1) | move(raw, 12, 12, 8) | move(raw, 20, 11, 1) |
                                move(raw, 21, 1, 10),
                            21);
    insn->rd = x_rd(field(raw, 7, 5));
    return true;
}

/* The immediate is a CSR number or the sets of a fence: unsigned. */
static bool extract_csr(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = raw >> 20;
    return extract_x(raw, insn);
}

static bool extract_amo(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = field(raw, 25, 2); /* aq, rl */
    return extract_x(raw, insn);
}

static bool extract_prefetch(uint32_t raw, struct rv_insn *insn)
{
    insn->imm = sign_extend(move(raw, 25, 5, 7), 12);
    insn->rs1 = (uint8_t)field(raw, 15, 5);
    insn->rd = RV_RD_NONE;
    return true;
}

/* ---- 16-bit encodings ---- */

static inline uint8_t low_register(uint32_t raw, unsigned low) /* x8..x15 in three bits */
{
    return (uint8_t)(8 + field(raw, low, 3));
}

static inline int64_t imm6(uint32_t raw)
{
    return sign_extend(move(raw, 12, 5, 1) | move(raw, 2, 0, 5), 6);
}

static bool extract_ci(uint32_t raw, struct rv_insn *insn)
{
    insn->rs1 = (uint8_t)field(raw, 7, 5);
    insn->rd = x_rd(insn->rs1);
    insn->imm = imm6(raw);
    return true;
}

static bool extract_caddiw(uint32_t raw, struct rv_insn *insn)
{
    return extract_ci(raw, insn) && insn->rd != RV_RD_NONE;
}

static bool extract_cli(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = x_rd(field(raw, 7, 5));
    insn->imm = imm6(raw);
    return true;
}

static bool extract_clui(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = x_rd(field(raw, 7, 5));
    insn->imm = imm6(raw) * 4096;
    return insn->imm != 0;
}

static bool extract_caddi16sp(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = insn->rs1 = 2;
    insn->imm = sign_extend(move(raw, 12, 9, 1) | move(raw, 6, 4, 1) | move(raw, 5, 6, 1) |
                                move(raw, 3, 7, 2) | move(raw, 2, 5, 1),
                            10);
    return insn->imm != 0;
}

static bool extract_caddi4spn(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = low_register(raw, 2);
    insn->rs1 = 2;
    insn->imm = move(raw, 11, 4, 2) | move(raw, 7, 6, 4) | move(raw, 6, 2, 1) | move(raw, 5, 3, 1);
    return insn->imm != 0;
}

static bool extract_cshift(uint32_t raw, struct rv_insn *insn)
{
    extract_ci(raw, insn);
    insn->imm &= 63;
    return true;
}

static bool extract_cbandi(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = insn->rs1 = low_register(raw, 7);
    insn->imm = imm6(raw);
    return true;
}

static bool extract_cbshift(uint32_t raw, struct rv_insn *insn)
{
    extract_cbandi(raw, insn);
    insn->imm &= 63;
    return true;
}

static bool extract_ca(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = insn->rs1 = low_register(raw, 7);
    insn->rs2 = low_register(raw, 2);
    return true;
}

static bool extract_cmv(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = x_rd(field(raw, 7, 5));
    insn->rs2 = (uint8_t)field(raw, 2, 5);
    return true;
}

static bool extract_cadd(uint32_t raw, struct rv_insn *insn)
{
    insn->rs1 = (uint8_t)field(raw, 7, 5);
    return extract_cmv(raw, insn);
}

static bool extract_cj(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = RV_RD_NONE;
    insn->imm = sign_extend(move(raw, 12, 11, 1) | move(raw, 11, 4, 1) | move(raw, 9, 8, 2) |
                                move(raw, 8, 10, 1) | move(raw, 7, 6, 1) | move(raw, 6, 7, 1) |
                                move(raw, 3, 1, 3) | move(raw, 2, 5, 1),
                            12);
    return true;
}

static bool extract_cb(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = RV_RD_NONE;
    insn->rs1 = low_register(raw, 7);
    insn->imm = sign_extend(move(raw, 12, 8, 1) | move(raw, 10, 3, 2) | move(raw, 5, 6, 2) |
                                move(raw, 3, 1, 2) | move(raw, 2, 5, 1),
                            9);
    return true;
}

static bool extract_cjr(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = RV_RD_NONE;
    insn->rs1 = (uint8_t)field(raw, 7, 5);
    return insn->rs1 != 0;
}

static bool extract_cjalr(uint32_t raw, struct rv_insn *insn)
{
    insn->rs1 = (uint8_t)field(raw, 7, 5);
    insn->rd = 1;
    return true; /* rs1 = 0 is c.ebreak */
}

/* Loads and stores: offsets of words and doublewords, from rs1' and from sp. A register
 * number in `rd` (loads) or `rs2` (stores) is x or f as the template says. */
static inline int64_t word_offset(uint32_t raw)
{
    return move(raw, 10, 3, 3) | move(raw, 6, 2, 1) | move(raw, 5, 6, 1);
}

static inline int64_t double_offset(uint32_t raw)
{
    return move(raw, 10, 3, 3) | move(raw, 5, 6, 2);
}

static inline bool load_near(uint32_t raw, struct rv_insn *insn, int64_t offset)
{
    insn->rd = low_register(raw, 2);
    insn->rs1 = low_register(raw, 7);
    insn->imm = offset;
    return true;
}

static inline bool store_near(uint32_t raw, struct rv_insn *insn, int64_t offset)
{
    insn->rd = RV_RD_NONE;
    insn->rs1 = low_register(raw, 7);
    insn->rs2 = low_register(raw, 2);
    insn->imm = offset;
    return true;
}

static bool extract_clw(uint32_t raw, struct rv_insn *insn)
{
    return load_near(raw, insn, word_offset(raw));
}

static bool extract_cld(uint32_t raw, struct rv_insn *insn)
{
    return load_near(raw, insn, double_offset(raw));
}

static bool extract_csw(uint32_t raw, struct rv_insn *insn)
{
    return store_near(raw, insn, word_offset(raw));
}

static bool extract_csd(uint32_t raw, struct rv_insn *insn)
{
    return store_near(raw, insn, double_offset(raw));
}

static bool extract_clwsp(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = (uint8_t)field(raw, 7, 5);
    insn->rs1 = 2;
    insn->imm = move(raw, 12, 5, 1) | move(raw, 4, 2, 3) | move(raw, 2, 6, 2);
    return insn->rd != 0;
}

static bool extract_cfldsp(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = (uint8_t)field(raw, 7, 5);
    insn->rs1 = 2;
    insn->imm = move(raw, 12, 5, 1) | move(raw, 5, 3, 2) | move(raw, 2, 6, 3);
    return true;
}

static bool extract_cldsp(uint32_t raw, struct rv_insn *insn)
{
    return extract_cfldsp(raw, insn) && insn->rd != 0;
}

static bool extract_cswsp(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = RV_RD_NONE;
    insn->rs1 = 2;
    insn->rs2 = (uint8_t)field(raw, 2, 5);
    insn->imm = move(raw, 9, 2, 4) | move(raw, 7, 6, 2);
    return true;
}

static bool extract_csdsp(uint32_t raw, struct rv_insn *insn)
{
    insn->rd = RV_RD_NONE;
    insn->rs1 = 2;
    insn->rs2 = (uint8_t)field(raw, 2, 5);
    insn->imm = move(raw, 10, 3, 3) | move(raw, 7, 6, 3);
    return true;
}

static const struct rv_format_row format_rows[RV_FORMATS] = {
    [RV_FORMAT_NONE] = {extract_none, ""},
    [RV_FORMAT_R] = {extract_x, "d, s, t"},
    [RV_FORMAT_R2] = {extract_x, "d, s"},
    [RV_FORMAT_I] = {extract_i, "d, s, i"},
    [RV_FORMAT_SHIFT6] = {extract_shift6, "d, s, x"},
    [RV_FORMAT_SHIFT5] = {extract_shift5, "d, s, x"},
    [RV_FORMAT_LOAD] = {extract_i, "d, i(s)"},
    [RV_FORMAT_S] = {extract_s, "t, i(s)"},
    [RV_FORMAT_B] = {extract_b, "s, t, p"},
    [RV_FORMAT_U] = {extract_u, "d, u"},
    [RV_FORMAT_J] = {extract_j, "d, p"},
    [RV_FORMAT_JALR] = {extract_i, "d, i(s)"},
    [RV_FORMAT_CSR] = {extract_csr, "d, c, s"},
    [RV_FORMAT_CSRI] = {extract_csr, "d, c, z"},
    [RV_FORMAT_FENCE] = {extract_csr, "f"},
    [RV_FORMAT_AMO] = {extract_amo, ".d, t, (s)"},
    [RV_FORMAT_LR] = {extract_amo, ".d, (s)"},
    [RV_FORMAT_SFENCE] = {extract_x, "s, t"},
    [RV_FORMAT_CBO] = {extract_x, "(s)"},
    [RV_FORMAT_PREFETCH] = {extract_prefetch, "i(s)"},

    [RV_FORMAT_F_FFF] = {extract_f, "D, S, Tm"},
    [RV_FORMAT_F_FFFF] = {extract_f, "D, S, T, Rm"},
    [RV_FORMAT_F_FF] = {extract_f, "D, Sm"},
    [RV_FORMAT_F_XF] = {extract_x, "d, Sm"},
    [RV_FORMAT_F_FX] = {extract_f, "D, sm"},
    [RV_FORMAT_F_FFF_NORM] = {extract_f, "D, S, T"},
    [RV_FORMAT_F_XFF] = {extract_x, "d, S, T"},
    [RV_FORMAT_F_XF_NORM] = {extract_x, "d, S"},
    [RV_FORMAT_F_FX_NORM] = {extract_f, "D, s"},
    [RV_FORMAT_F_LOAD] = {extract_f_load, "D, i(s)"},
    [RV_FORMAT_F_STORE] = {extract_s, "T, i(s)"},

    [RV_FORMAT_CI] = {extract_ci, "d, i"},
    [RV_FORMAT_CADDIW] = {extract_caddiw, "d, i"},
    [RV_FORMAT_CLI] = {extract_cli, "d, i"},
    [RV_FORMAT_CLUI] = {extract_clui, "d, u"},
    [RV_FORMAT_CADDI16SP] = {extract_caddi16sp, "d, i"},
    [RV_FORMAT_CADDI4SPN] = {extract_caddi4spn, "d, s, i"},
    [RV_FORMAT_CSHIFT] = {extract_cshift, "d, x"},
    [RV_FORMAT_CBSHIFT] = {extract_cbshift, "d, x"},
    [RV_FORMAT_CBANDI] = {extract_cbandi, "d, i"},
    [RV_FORMAT_CA] = {extract_ca, "d, t"},
    [RV_FORMAT_CMV] = {extract_cmv, "d, t"},
    [RV_FORMAT_CADD] = {extract_cadd, "d, t"},
    [RV_FORMAT_CJ] = {extract_cj, "p"},
    [RV_FORMAT_CB] = {extract_cb, "s, p"},
    [RV_FORMAT_CJR] = {extract_cjr, "s"},
    [RV_FORMAT_CJALR] = {extract_cjalr, "s"},
    [RV_FORMAT_CLW] = {extract_clw, "d, i(s)"},
    [RV_FORMAT_CLD] = {extract_cld, "d, i(s)"},
    [RV_FORMAT_CSW] = {extract_csw, "t, i(s)"},
    [RV_FORMAT_CSD] = {extract_csd, "t, i(s)"},
    [RV_FORMAT_CLWSP] = {extract_clwsp, "d, i(s)"},
    [RV_FORMAT_CLDSP] = {extract_cldsp, "d, i(s)"},
    [RV_FORMAT_CSWSP] = {extract_cswsp, "t, i(s)"},
    [RV_FORMAT_CSDSP] = {extract_csdsp, "t, i(s)"},
    [RV_FORMAT_CFLD] = {extract_cld, "D, i(s)"},
    [RV_FORMAT_CFSD] = {extract_csd, "T, i(s)"},
    [RV_FORMAT_CFLDSP] = {extract_cfldsp, "D, i(s)"},
    [RV_FORMAT_CFSDSP] = {extract_csdsp, "T, i(s)"},
};

const struct rv_format_row *rv_format_row(enum rv_format format)
{
    return &format_rows[format];
}
