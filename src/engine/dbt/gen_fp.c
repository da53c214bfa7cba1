/* SPDX-License-Identifier: MIT
 *
 * Floating point on the host's SSE unit, exactly as RISC-V defines it.
 *
 * What the two architectures share: IEEE results, tininess detected after rounding, the five
 * flags, which stay in mxcsr until somebody asks (thunks: sync_flags). Where they differ, or
 * might, the instruction's C function does it over: a NaN as result (payloads, and fma's
 * invalid infinity times zero plus NaN), a single that is not NaN-boxed, integers out of range.
 * An operation done twice raises the same flags twice, which is once.
 *
 * A block with FP instructions is entered only with mstatus.FS dirty, and with frm at RNE if
 * any of them rounds dynamically; otherwise the interpreter runs it. So neither is looked at
 * again, except that a write of fcsr within the block sends what is behind it to C.
 *
 * f registers live in memory, but for those that a region keeps in xmm registers: whole ones,
 * used as doubles only.
 */
#include "engine/dbt/internal.h"

#include "isa/riscv64/csr_bits.h"

enum { XMM0, XMM1, XMM2 };
enum { RM_RNE = 0, RM_RTZ = 1, RM_DYNAMIC = 7 };

/* Flags of an op's arg, above the opcode. */
#define DOUBLE      0x100000u
#define W64         0x200000u /* the integer has 64 bits */
#define OPCODE(arg) ((arg)&0x0fffffu)

static struct x86_mem f_low(unsigned reg)
{
    return x86_at(X86_RBP, DBT_HART(f) + 8 * (int32_t)reg);
}

static struct x86_mem f_high(unsigned reg)
{
    return x86_at(X86_RBP, DBT_HART(f) + 8 * (int32_t)reg + 4);
}

static uint32_t scalar(uint32_t arg)
{
    return arg & DOUBLE ? X86_F2 : X86_F3;
}

static bool rounds_to_nearest(const struct gen *gen, const struct rv_insn *insn)
{
    return insn->rm == RM_RNE || (insn->rm == RM_DYNAMIC && !gen->frm_unknown);
}

/* ---- leaving it to C ---- */

static void cold_redo(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    gen_call(gen, cold->insn);
    x86_jmp(gen->code, cold->back);
}

/* Jumps out where `condition` holds; the stub goes on at gen->cold[].back, set by done(). */
static void redo_if(struct gen *gen, const struct rv_insn *insn, enum x86_condition condition)
{
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(gen->code, condition, NULL));
    cold->emit = cold_redo;
    cold->insn = insn;
}

/* The one NaN that RISC-V's arithmetic produces; the flags are what they should be. */
static void cold_nan(struct gen *gen, const struct gen_cold *cold)
{
    struct x86_code *code = gen->code;
    x86_land(code, cold->from);
    x86_mov_imm(code, X86_RAX, cold->arg & DOUBLE ? UINT64_C(0x7ff8) << 48 : 0x7fc00000);
    x86_rr(code, X86_MOVQ_TO, cold->reg, X86_RAX);
    x86_jmp(code, cold->back);
}

/* All of the instruction's stubs that did all of it come back here. */
static void done(struct gen *gen, const struct rv_insn *insn)
{
    for (unsigned i = gen->cold_count; i-- > 0 && gen->cold[i].insn == insn;)
        if (gen->cold[i].emit == cold_redo)
            gen->cold[i].back = x86_here(gen->code);
}

static void check_boxed(struct gen *gen, const struct rv_insn *insn, unsigned reg, uint32_t arg)
{
    if (arg & DOUBLE)
        return;
    x86_mi(gen->code, X86_G1_CMP, 0, f_high(reg), -1);
    redo_if(gen, insn, X86_NE);
}

/* ---- operands ---- */

/* xmm op= f[reg]; for moves and comparisons as well. */
static void op_f(struct gen *gen, uint32_t op, int xmm, unsigned reg)
{
    int mapped = gen->xmm_of[reg];
    if (mapped != X86_NONE)
        x86_rr(gen->code, op, xmm, mapped);
    else
        x86_rm(gen->code, op, xmm, f_low(reg));
}

static void load_f(struct gen *gen, int xmm, unsigned reg, uint32_t arg)
{
    if (gen->xmm_of[reg] != X86_NONE)
        x86_rr(gen->code, X86_MOVAPS, xmm, gen->xmm_of[reg]);
    else
        x86_rm(gen->code, arg & DOUBLE ? X86_MOVQ_LOAD : X86_MOVD_LOAD, xmm, f_low(reg));
}

static int f_source(struct gen *gen, unsigned reg, int scratch, uint32_t arg)
{
    if (gen->xmm_of[reg] != X86_NONE)
        return gen->xmm_of[reg];
    load_f(gen, scratch, reg, arg);
    return scratch;
}

static int f_target(const struct gen *gen, unsigned rd, int scratch)
{
    return gen->xmm_of[rd] != X86_NONE ? gen->xmm_of[rd] : scratch;
}

static void store_f(struct gen *gen, unsigned reg, int xmm, uint32_t arg)
{
    int mapped = gen->xmm_of[reg];
    if (mapped != X86_NONE) {
        if (mapped != xmm)
            x86_rr(gen->code, X86_MOVAPS, mapped, xmm);
        return;
    }
    x86_rm(gen->code, arg & DOUBLE ? X86_MOVQ_STORE : X86_MOVD_STORE, xmm, f_low(reg));
    if (!(arg & DOUBLE))
        x86_mov_mi(gen->code, 0, f_high(reg), -1);
}

/* Stores a result. */
static void finish(struct gen *gen, const struct rv_insn *insn, int xmm, uint32_t arg)
{
    x86_rr(gen->code, X86_UCOMIS | (arg & DOUBLE ? X86_66 : 0), xmm, xmm);
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(gen->code, X86_P, NULL));
    cold->emit = cold_nan;
    cold->insn = insn;
    cold->arg = arg;
    cold->reg = xmm;
    cold->back = x86_here(gen->code);
    store_f(gen, insn->rd, xmm, arg);
    done(gen, insn);
}

/* ---- arithmetic ---- */

static void gen_f_rr(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    uint32_t op = OPCODE(arg) | scalar(arg);
    if (!rounds_to_nearest(gen, insn)) {
        gen_call(gen, insn);
        return;
    }
    check_boxed(gen, insn, insn->rs1, arg);
    check_boxed(gen, insn, insn->rs2, arg);
    int to = f_target(gen, insn->rd, XMM0), b = gen->xmm_of[insn->rs2];
    if (gen->dbt->avx && gen->xmm_of[insn->rs1] != X86_NONE) {
        int a = gen->xmm_of[insn->rs1];
        x86_vrr(gen->code, op, to, a, f_source(gen, insn->rs2, XMM1, arg));
    } else {
        if (to == b)
            to = XMM0;
        load_f(gen, to, insn->rs1, arg);
        op_f(gen, op, to, insn->rs2);
    }
    finish(gen, insn, to, arg);
}

static void gen_f_sqrt(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    if (!rounds_to_nearest(gen, insn)) {
        gen_call(gen, insn);
        return;
    }
    check_boxed(gen, insn, insn->rs1, arg);
    int from = f_source(gen, insn->rs1, XMM1, arg), to = f_target(gen, insn->rd, XMM0);
    x86_rr(gen->code, X86_SQRT | scalar(arg), to, from);
    finish(gen, insn, to, arg);
}

/* Infinity times zero plus a quiet NaN is invalid to RISC-V, and perhaps not to the host. */
static void gen_f_fma(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    if (!gen->dbt->fma || !rounds_to_nearest(gen, insn)) {
        gen_call(gen, insn);
        return;
    }
    check_boxed(gen, insn, insn->rs1, arg);
    check_boxed(gen, insn, insn->rs2, arg);
    check_boxed(gen, insn, insn->rs3, arg);
    load_f(gen, XMM0, insn->rs3, arg);
    int a = f_source(gen, insn->rs1, XMM1, arg), b = f_source(gen, insn->rs2, XMM2, arg);
    x86_vrr(gen->code, OPCODE(arg) | (arg & DOUBLE ? X86_W : 0), XMM0, a, b);
    x86_rr(gen->code, X86_UCOMIS | (arg & DOUBLE ? X86_66 : 0), XMM0, XMM0);
    redo_if(gen, insn, X86_P);
    store_f(gen, insn->rd, XMM0, arg);
    done(gen, insn);
}

/* ---- signs and moves ---- */

enum { SIGN_COPY, SIGN_NEGATE, SIGN_CLEAR }; /* fmv, fneg, fabs */

/* Of doubles. */
static void sign_in_xmm(struct gen *gen, const struct rv_insn *insn, unsigned kind)
{
    int to = gen->xmm_of[insn->rd];
    load_f(gen, kind == SIGN_COPY ? to : XMM0, insn->rs1, DOUBLE);
    if (kind == SIGN_COPY)
        return;
    x86_rm(gen->code, X86_MOVQ_LOAD, XMM1, x86_address(&gen->dbt->state->signs[0]));
    x86_rr(gen->code, kind == SIGN_NEGATE ? X86_XORPS : X86_ANDNPS, XMM1, XMM0);
    x86_rr(gen->code, X86_MOVAPS, to, XMM1);
}

static void gen_f_sign(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    if (insn->rs1 != insn->rs2) {
        gen_call(gen, insn);
        return;
    }
    check_boxed(gen, insn, insn->rs1, arg);
    if (gen->xmm_of[insn->rd] != X86_NONE) {
        sign_in_xmm(gen, insn, OPCODE(arg));
        return;
    }
    if (gen->xmm_of[insn->rs1] != X86_NONE)
        x86_rr(code, X86_MOVQ_FROM, gen->xmm_of[insn->rs1], X86_RAX);
    else
        x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, f_low(insn->rs1));
    if (OPCODE(arg) != SIGN_COPY) {
        x86_mov_imm(code, X86_RCX, arg & DOUBLE ? 63 : 31);
        x86_rr(code, (OPCODE(arg) == SIGN_NEGATE ? X86_BTC : X86_BTR) | X86_W, X86_RCX, X86_RAX);
    }
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RAX, f_low(insn->rd));
    done(gen, insn);
}

static void gen_fmv_to_x(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    if (insn->rd == RV_RD_NONE)
        return;
    int reg = gen_target(gen, insn->rd, X86_RAX);
    if (gen->xmm_of[insn->rs1] != X86_NONE)
        x86_rr(gen->code, X86_MOVQ_FROM, gen->xmm_of[insn->rs1], reg);
    else
        x86_rm(gen->code, arg & DOUBLE ? X86_MOV_LOAD | X86_W : X86_MOVSXD, reg, f_low(insn->rs1));
    gen_commit(gen, insn->rd, reg);
}

static void gen_fmv_from_x(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    int reg = gen_source(gen, insn->rs1, X86_RAX);
    if (gen->xmm_of[insn->rd] != X86_NONE) {
        x86_rr(gen->code, X86_MOVQ_TO, gen->xmm_of[insn->rd], reg);
        return;
    }
    x86_rm(gen->code, X86_MOV_STORE | (arg & DOUBLE ? X86_W : 0), reg, f_low(insn->rd));
    if (!(arg & DOUBLE))
        x86_mov_mi(gen->code, 0, f_high(insn->rd), -1);
}

/* ---- comparisons: false with a NaN ---- */

enum { COMPARE_EQ, COMPARE_LT, COMPARE_LE };

static void gen_f_compare(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    uint32_t prefix = arg & DOUBLE ? X86_66 : 0;
    unsigned kind = OPCODE(arg);
    check_boxed(gen, insn, insn->rs1, arg);
    check_boxed(gen, insn, insn->rs2, arg);
    if (kind == COMPARE_EQ) {
        int a = f_source(gen, insn->rs1, XMM0, arg);
        op_f(gen, X86_UCOMIS | prefix, a, insn->rs2);
        x86_rr(code, (X86_SET + X86_NP) | X86_BYTE_RM, 0, X86_RAX);
        x86_rr(code, (X86_SET + X86_E) | X86_BYTE_RM, 0, X86_RCX);
        x86_rr(code, X86_AND, X86_RCX, X86_RAX);
    } else {
        /* The other way round: "above" is false when unordered, "below" is not. */
        int b = f_source(gen, insn->rs2, XMM0, arg);
        op_f(gen, X86_COMIS | prefix, b, insn->rs1);
        x86_rr(code, (X86_SET + (kind == COMPARE_LT ? X86_A : X86_AE)) | X86_BYTE_RM, 0, X86_RCX);
    }
    if (insn->rd != RV_RD_NONE) {
        int reg = gen_target(gen, insn->rd, X86_RCX);
        x86_rr(code, X86_MOVZX8 | X86_BYTE_RM, reg, X86_RCX);
        gen_commit_narrow(gen, insn->rd, reg);
    }
    done(gen, insn);
}

/* ---- fflags ---- */

void gen_read_fflags(struct gen *gen, const struct rv_insn *insn)
{
    struct x86_code *code = gen->code;
    struct dbt_state *state = gen->dbt->state;
    int reg = gen_target(gen, insn->rd, X86_RAX);
    x86_rm(code, X86_STMXCSR, 3, x86_address(&state->mxcsr));
    x86_rm(code, X86_MOV_LOAD, X86_RAX, x86_address(&state->mxcsr));
    x86_rm(code, X86_MOVZX8, X86_RDX, x86_at(X86_RBP, DBT_HART(fflags)));
    x86_ri(code, X86_G1_AND, 0, X86_RAX, 0x3f);
    x86_rm(code, X86_LEA, X86_RCX, x86_address(state->flags_of));
    x86_rm(code, X86_MOVZX8, reg, x86_indexed(X86_RCX, X86_RAX, 0, 0));
    x86_rr(code, X86_OR, reg, X86_RDX);
    gen_commit_narrow(gen, insn->rd, reg);
}

void gen_write_fflags(struct gen *gen, const struct rv_insn *insn)
{
    struct x86_code *code = gen->code;
    gen_load_low(gen, X86_RAX, insn->rs1);
    x86_ri(code, X86_G1_AND, 0, X86_RAX, 0x1f);
    x86_rm(code, X86_MOV_STORE8, X86_RAX, x86_at(X86_RBP, DBT_HART(fflags)));
    x86_rm(code, X86_LDMXCSR, 2, x86_address(&gen->dbt->state->mxcsr_clean));
}

/* The comparison may have raised a flag that was not to be seen. */
static void cold_quiet(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    gen_write_fflags(gen, cold->insn);
    x86_jmp(gen->code, cold->back);
}

/* What compilers make of isless() and its like: fflags are read, doubles compared, and the old
 * fflags written back, which costs most and is needed with a NaN only. */
bool gen_quiet_compare(struct gen *gen, const struct rv_insn *insns)
{
    struct x86_code *code = gen->code;
    const struct rv_insn *read = insns, *compare = insns + 1, *write = insns + 2;
    const struct gen_op *op = gen_op_of(gen->dbt, compare);
    if (!gen_touches_fflags(gen->dbt, read) || read->rd == RV_RD_NONE || !op ||
        op->emit != gen_f_compare || !(op->arg & DOUBLE) || OPCODE(op->arg) == COMPARE_EQ ||
        compare->rd == RV_RD_NONE || compare->rd == read->rd ||
        !gen_touches_fflags(gen->dbt, write) || write->rd != RV_RD_NONE || write->rs1 != read->rd)
        return false;
    gen_read_fflags(gen, read);
    int b = f_source(gen, compare->rs2, XMM0, DOUBLE);
    op_f(gen, X86_UCOMIS | X86_66, b, compare->rs1);
    x86_rr(code, (X86_SET + (OPCODE(op->arg) == COMPARE_LT ? X86_A : X86_AE)) | X86_BYTE_RM, 0,
           X86_RCX);
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(code, X86_P, NULL));
    cold->emit = cold_quiet;
    cold->insn = write;
    cold->back = x86_here(code);
    int reg = gen_target(gen, compare->rd, X86_RCX);
    x86_rr(code, X86_MOVZX8 | X86_BYTE_RM, reg, X86_RCX);
    gen_commit_narrow(gen, compare->rd, reg);
    return true;
}

/* ---- conversions ---- */

static void gen_f_from_int(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    if (!rounds_to_nearest(gen, insn)) {
        gen_call(gen, insn);
        return;
    }
    int reg =
        arg & W64 ? gen_source(gen, insn->rs1, X86_RAX) : gen_source_low(gen, insn->rs1, X86_RAX);
    int to = f_target(gen, insn->rd, XMM0);
    x86_rr(code, X86_XORPS, to, to); /* the conversion keeps the upper bits: no dependency */
    x86_rr(code, X86_CVTSI | scalar(arg) | (arg & W64 ? X86_W : 0), to, reg);
    store_f(gen, insn->rd, to, arg);
}

/* An unsigned word is a 64-bit integer. */
static void gen_f_from_wu(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    if (!rounds_to_nearest(gen, insn)) {
        gen_call(gen, insn);
        return;
    }
    int reg = gen_source_low(gen, insn->rs1, X86_RAX);
    x86_rr(code, X86_MOV_LOAD, X86_RAX, reg);
    x86_rr(code, X86_XORPS, XMM0, XMM0);
    x86_rr(code, X86_CVTSI | scalar(arg) | X86_W, XMM0, X86_RAX);
    store_f(gen, insn->rd, XMM0, arg);
}

/* The host's answer to what does not fit is the least integer, which may also be right. */
static void gen_f_to_int(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    bool truncates = insn->rm == RM_RTZ;
    if (!truncates && !rounds_to_nearest(gen, insn)) {
        gen_call(gen, insn);
        return;
    }
    uint32_t width = arg & W64 ? X86_W : 0;
    check_boxed(gen, insn, insn->rs1, arg);
    op_f(gen, (truncates ? X86_CVTTF : X86_CVTF_INT) | scalar(arg) | width, X86_RAX, insn->rs1);
    /* The only number from which 1 can be subtracted with an overflow. */
    x86_ri(code, X86_G1_CMP, width, X86_RAX, 1);
    redo_if(gen, insn, X86_O);
    if (width)
        gen_commit(gen, insn->rd, X86_RAX);
    else
        gen_commit_low(gen, insn->rd, X86_RAX);
    done(gen, insn);
}

/* arg: the precision of the result */
static void gen_f_convert(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    if (!rounds_to_nearest(gen, insn)) {
        gen_call(gen, insn);
        return;
    }
    uint32_t from = arg ^ DOUBLE;
    check_boxed(gen, insn, insn->rs1, from);
    x86_rr(gen->code, X86_XORPS, XMM0, XMM0);
    op_f(gen, X86_CVTF | scalar(from), XMM0, insn->rs1);
    finish(gen, insn, XMM0, arg);
}

#define BOTH(name, emit, arg)                                                                      \
    {name ".s", emit, arg},                                                                        \
    {                                                                                              \
        name ".d", emit, (arg) | DOUBLE                                                            \
    }
const struct gen_op gen_fp_ops[] = {
    BOTH("fadd", gen_f_rr, X86_ADDF),
    BOTH("fsub", gen_f_rr, X86_SUBF),
    BOTH("fmul", gen_f_rr, X86_MULF),
    BOTH("fdiv", gen_f_rr, X86_DIVF),
    BOTH("fsqrt", gen_f_sqrt, 0),
    BOTH("fmadd", gen_f_fma, X86_FMADD231),
    BOTH("fmsub", gen_f_fma, X86_FMSUB231),
    BOTH("fnmsub", gen_f_fma, X86_FNMADD231), /* -(a * b) + c */
    BOTH("fnmadd", gen_f_fma, X86_FNMSUB231), /* -(a * b) - c */
    BOTH("fsgnj", gen_f_sign, SIGN_COPY),
    BOTH("fsgnjn", gen_f_sign, SIGN_NEGATE),
    BOTH("fsgnjx", gen_f_sign, SIGN_CLEAR),
    BOTH("feq", gen_f_compare, COMPARE_EQ),
    BOTH("flt", gen_f_compare, COMPARE_LT),
    BOTH("fle", gen_f_compare, COMPARE_LE),
    BOTH("fcvt.w", gen_f_to_int, 0),
    BOTH("fcvt.l", gen_f_to_int, W64),
    {"fcvt.s.w", gen_f_from_int, 0},
    {"fcvt.d.w", gen_f_from_int, DOUBLE},
    {"fcvt.s.l", gen_f_from_int, W64},
    {"fcvt.d.l", gen_f_from_int, W64 | DOUBLE},
    {"fcvt.s.wu", gen_f_from_wu, 0},
    {"fcvt.d.wu", gen_f_from_wu, DOUBLE},
    {"fcvt.s.d", gen_f_convert, 0},
    {"fcvt.d.s", gen_f_convert, DOUBLE},
    {"fmv.x.w", gen_fmv_to_x, 0},
    {"fmv.x.d", gen_fmv_to_x, DOUBLE},
    {"fmv.w.x", gen_fmv_from_x, 0},
    {"fmv.d.x", gen_fmv_from_x, DOUBLE},
    {NULL, NULL, 0},
};
