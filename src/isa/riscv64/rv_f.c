/* SPDX-License-Identifier: MIT
 *
 * F extension: single-precision floating point (U §F). What it shares with D is in rv_fp.h;
 * here is what moves 32-bit patterns. Those neither look at NaN boxing on the way out nor
 * canonicalise: they move bits.
 */
#define FP_FORMAT f32
#define FP_LETTER "s"
#define FP_CODE   0
#include "isa/riscv64/rv_fp.h"

static enum rv_result exec_flw(struct rv_hart *hart, const struct rv_insn *insn)
{
    uint32_t value;

    if (!fp_on(hart))
        return rv_raise_illegal(hart, insn);
    if (!rv_load32(hart, hart->x[insn->rs1] + (uint64_t)insn->imm, &value))
        return RV_TRAP;
    fp_write_f32(hart, insn->rd, value);
    return RV_NEXT;
}

static enum rv_result exec_fsw(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (!fp_on(hart))
        return rv_raise_illegal(hart, insn);
    if (!rv_store32(hart, hart->x[insn->rs1] + (uint64_t)insn->imm, (uint32_t)hart->f[insn->rs2]))
        return RV_TRAP;
    return RV_NEXT;
}

static enum rv_result exec_fmv_x_w(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (!fp_on(hart))
        return rv_raise_illegal(hart, insn);
    hart->x[insn->rd] = (uint64_t)sign_extend(hart->f[insn->rs1], 32);
    return RV_NEXT;
}

static enum rv_result exec_fmv_w_x(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (!fp_on(hart))
        return rv_raise_illegal(hart, insn);
    fp_write_f32(hart, insn->rd, hart->x[insn->rs1]);
    return RV_NEXT;
}

static const struct rv_row rows[] = {
    FP_SHARED_ROWS,
    {"flw", 0x00002007, 0x0000707f, RV_FORMAT_F_LOAD, exec_flw, RV_ROW_FP | RV_ROW_LOAD},
    {"fsw", 0x00002027, 0x0000707f, RV_FORMAT_F_STORE, exec_fsw, RV_ROW_FP | RV_ROW_STORE},
    {"fmv.x.w", 0xe0000053, 0xfff0707f, RV_FORMAT_F_XF_NORM, exec_fmv_x_w, RV_ROW_FP},
    {"fmv.w.x", 0xf0000053, 0xfff0707f, RV_FORMAT_F_FX_NORM, exec_fmv_w_x, RV_ROW_FP},
};

const struct rv_extension rv_f = {"f", rows, ARRAY_SIZE(rows)};
