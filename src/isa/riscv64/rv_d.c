/* SPDX-License-Identifier: MIT
 *
 * D extension: double-precision floating point (U §D). What it shares with F is in rv_fp.h;
 * here are the moves of 64-bit patterns with their compressed forms (Zcd), and the conversions
 * between the two formats.
 */
#define FP_FORMAT f64
#define FP_LETTER "d"
#define FP_CODE   1
#include "isa/riscv64/rv_fp.h"

static enum rv_result exec_fld(struct rv_hart *hart, const struct rv_insn *insn)
{
    uint64_t value;

    if (!fp_on(hart))
        return rv_raise_illegal(hart, insn);
    if (!rv_load64(hart, hart->x[insn->rs1] + (uint64_t)insn->imm, &value))
        return RV_TRAP;
    fp_write_f64(hart, insn->rd, value);
    return RV_NEXT;
}

static enum rv_result exec_fsd(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (!fp_on(hart))
        return rv_raise_illegal(hart, insn);
    if (!rv_store64(hart, hart->x[insn->rs1] + (uint64_t)insn->imm, hart->f[insn->rs2]))
        return RV_TRAP;
    return RV_NEXT;
}

static enum rv_result exec_fmv_x_d(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (!fp_on(hart))
        return rv_raise_illegal(hart, insn);
    hart->x[insn->rd] = hart->f[insn->rs1];
    return RV_NEXT;
}

static enum rv_result exec_fmv_d_x(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (!fp_on(hart))
        return rv_raise_illegal(hart, insn);
    fp_write_f64(hart, insn->rd, hart->x[insn->rs1]);
    return RV_NEXT;
}

static enum rv_result exec_fcvt_s_d(struct rv_hart *hart, const struct rv_insn *insn)
{
    enum sf_round rm;

    if (!fp_begin(hart, insn, &rm))
        return rv_raise_illegal(hart, insn);
    fp_write_f32(hart, insn->rd, sf_f64_to_f32(fp_read_f64(hart, insn->rs1), rm, &hart->fflags));
    return RV_NEXT;
}

static enum rv_result exec_fcvt_d_s(struct rv_hart *hart, const struct rv_insn *insn)
{
    enum sf_round rm; /* makes no difference, but a reserved one is still illegal */

    if (!fp_begin(hart, insn, &rm))
        return rv_raise_illegal(hart, insn);
    fp_write_f64(hart, insn->rd, sf_f32_to_f64(fp_read_f32(hart, insn->rs1), &hart->fflags));
    return RV_NEXT;
}

#define LOADS  (RV_ROW_FP | RV_ROW_LOAD)
#define STORES (RV_ROW_FP | RV_ROW_STORE)

static const struct rv_row rows[] = {
    FP_SHARED_ROWS,
    {"fld", 0x00003007, 0x0000707f, RV_FORMAT_F_LOAD, exec_fld, LOADS},
    {"fsd", 0x00003027, 0x0000707f, RV_FORMAT_F_STORE, exec_fsd, STORES},
    {"fmv.x.d", 0xe2000053, 0xfff0707f, RV_FORMAT_F_XF_NORM, exec_fmv_x_d, RV_ROW_FP},
    {"fmv.d.x", 0xf2000053, 0xfff0707f, RV_FORMAT_F_FX_NORM, exec_fmv_d_x, RV_ROW_FP},
    {"fcvt.s.d", 0x40100053, 0xfff0007f, RV_FORMAT_F_FF, exec_fcvt_s_d, RV_ROW_FP},
    {"fcvt.d.s", 0x42000053, 0xfff0007f, RV_FORMAT_F_FF, exec_fcvt_d_s, RV_ROW_FP},
    {"c.fld", 0x00002000, 0x0000e003, RV_FORMAT_CFLD, exec_fld, LOADS},
    {"c.fsd", 0x0000a000, 0x0000e003, RV_FORMAT_CFSD, exec_fsd, STORES},
    {"c.fldsp", 0x00002002, 0x0000e003, RV_FORMAT_CFLDSP, exec_fld, LOADS},
    {"c.fsdsp", 0x0000a002, 0x0000e003, RV_FORMAT_CFSDSP, exec_fsd, STORES},
};

const struct rv_extension rv_d = {"d", rows, ARRAY_SIZE(rows)};
