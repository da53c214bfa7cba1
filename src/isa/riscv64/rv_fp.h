/* SPDX-License-Identifier: MIT
 *
 * What the F and D extensions share: every instruction that exists in both, written once.
 * Only rv_f.c and rv_d.c include this, after defining
 *   FP_FORMAT  f32 or f64, which selects the functions of softfloat.h
 *   FP_LETTER  "s" or "d", as in the instruction's name
 *   FP_CODE    0 or 1, the fmt field of the encoding (U table "fmt field encoding")
 * and put FP_SHARED_ROWS into their row table.
 *
 * All of them: illegal while mstatus.FS is Off (P §3.1.6.6), or with a reserved rounding mode,
 * in the instruction or, if that says dynamic, in frm (U §F "Floating-Point Control and Status
 * Register"). FS becomes Dirty when an f register is written or a flag is newly raised.
 */
#ifndef TRAPEZE_ISA_RISCV64_RV_FP_H
#define TRAPEZE_ISA_RISCV64_RV_FP_H

#include "isa/riscv64/csr_bits.h"
#include "isa/riscv64/insn.h"
#include "isa/riscv64/mmu.h"
#include "isa/riscv64/softfloat.h"

#define FP_BOX        UINT64_C(0xffffffff00000000)
#define FP_RM_DYNAMIC 7

#define FP_JOIN_(a, b) a##b
#define FP_JOIN(a, b)  FP_JOIN_(a, b)
#define FP_SF(name)    FP_JOIN(sf_##name##_, FP_FORMAT) /* FP_SF(add) = sf_add_f32 */
#define FP_READ        FP_JOIN(fp_read_, FP_FORMAT)
#define FP_WRITE       FP_JOIN(fp_write_, FP_FORMAT)
#define FP_SIGN        (UINT64_C(1) << (FP_CODE ? 63 : 31)) /* the sign bit */

static inline bool fp_on(const struct rv_hart *hart)
{
    return LIKELY((hart->mstatus & RV_MSTATUS_FS) != 0);
}

static inline void fp_dirty(struct rv_hart *hart)
{
    hart->mstatus |= RV_MSTATUS_FS;
}

/* False: the instruction is illegal. */
static inline bool fp_begin(const struct rv_hart *hart, const struct rv_insn *insn,
                            enum sf_round *rm)
{
    unsigned mode = insn->rm == FP_RM_DYNAMIC ? hart->frm : insn->rm;
    *rm = (enum sf_round)mode;
    return fp_on(hart) && LIKELY(mode <= SF_RMM);
}

/* A single that is not NaN-boxed reads as the canonical NaN (U §D "NaN Boxing"). */
static inline uint64_t fp_read_f32(const struct rv_hart *hart, unsigned reg)
{
    uint64_t value = hart->f[reg];
    return LIKELY(value >= FP_BOX) ? value & ~FP_BOX : SF_NAN_F32;
}

static inline void fp_write_f32(struct rv_hart *hart, unsigned reg, uint64_t value)
{
    hart->f[reg] = value | FP_BOX;
    fp_dirty(hart);
}

static inline uint64_t fp_read_f64(const struct rv_hart *hart, unsigned reg)
{
    return hart->f[reg];
}

static inline void fp_write_f64(struct rv_hart *hart, unsigned reg, uint64_t value)
{
    hart->f[reg] = value;
    fp_dirty(hart);
}

/* Integer results: only the flags can dirty the FP state. `before`: fflags as they were. */
static inline enum rv_result fp_write_x(struct rv_hart *hart, const struct rv_insn *insn,
                                        uint64_t value, uint8_t before)
{
    if (hart->fflags != before)
        fp_dirty(hart);
    hart->x[insn->rd] = value;
    return RV_NEXT;
}

/* ---- arithmetic: `call` sees a, b, c, rm and flags ---- */

#define FP_DEFINE_ARITHMETIC(name, call)                                                           \
    static enum rv_result exec_##name(struct rv_hart *hart, const struct rv_insn *insn)            \
    {                                                                                              \
        enum sf_round rm;                                                                          \
        uint8_t *flags = &hart->fflags;                                                            \
        if (!fp_begin(hart, insn, &rm))                                                            \
            return rv_raise_illegal(hart, insn);                                                   \
        FP_WRITE(hart, insn->rd, call);                                                            \
        return RV_NEXT;                                                                            \
    }
#define FP_A FP_READ(hart, insn->rs1)
#define FP_B FP_READ(hart, insn->rs2)
#define FP_C FP_READ(hart, insn->rs3)

FP_DEFINE_ARITHMETIC(fadd, FP_SF(add)(FP_A, FP_B, rm, flags))
FP_DEFINE_ARITHMETIC(fsub, FP_SF(sub)(FP_A, FP_B, rm, flags))
FP_DEFINE_ARITHMETIC(fmul, FP_SF(mul)(FP_A, FP_B, rm, flags))
FP_DEFINE_ARITHMETIC(fdiv, FP_SF(div)(FP_A, FP_B, rm, flags))
FP_DEFINE_ARITHMETIC(fsqrt, FP_SF(sqrt)(FP_A, rm, flags))

/* The product or the addend negated: exact, and a NaN's sign does not matter. */
FP_DEFINE_ARITHMETIC(fmadd, FP_SF(fma)(FP_A, FP_B, FP_C, rm, flags))
FP_DEFINE_ARITHMETIC(fmsub, FP_SF(fma)(FP_A, FP_B, FP_C ^ FP_SIGN, rm, flags))
FP_DEFINE_ARITHMETIC(fnmsub, FP_SF(fma)(FP_A ^ FP_SIGN, FP_B, FP_C, rm, flags))
FP_DEFINE_ARITHMETIC(fnmadd, FP_SF(fma)(FP_A ^ FP_SIGN, FP_B, FP_C ^ FP_SIGN, rm, flags))

FP_DEFINE_ARITHMETIC(fcvt_w, FP_SF(from_int)(hart->x[insn->rs1], SF_I32, rm, flags))
FP_DEFINE_ARITHMETIC(fcvt_wu, FP_SF(from_int)(hart->x[insn->rs1], SF_U32, rm, flags))
FP_DEFINE_ARITHMETIC(fcvt_l, FP_SF(from_int)(hart->x[insn->rs1], SF_I64, rm, flags))
FP_DEFINE_ARITHMETIC(fcvt_lu, FP_SF(from_int)(hart->x[insn->rs1], SF_U64, rm, flags))

/* ---- no rounding mode, f result ---- */

#define FP_DEFINE_UNROUNDED(name, call)                                                            \
    static enum rv_result exec_##name(struct rv_hart *hart, const struct rv_insn *insn)            \
    {                                                                                              \
        if (!fp_on(hart))                                                                          \
            return rv_raise_illegal(hart, insn);                                                   \
        uint64_t a = FP_A, b = FP_B;                                                               \
        FP_WRITE(hart, insn->rd, call);                                                            \
        return RV_NEXT;                                                                            \
    }

FP_DEFINE_UNROUNDED(fmin, FP_SF(min)(a, b, &hart->fflags))
FP_DEFINE_UNROUNDED(fmax, FP_SF(max)(a, b, &hart->fflags))
FP_DEFINE_UNROUNDED(fsgnj, (a & ~FP_SIGN) | (b & FP_SIGN))
FP_DEFINE_UNROUNDED(fsgnjn, (a & ~FP_SIGN) | (~b & FP_SIGN))
FP_DEFINE_UNROUNDED(fsgnjx, a ^ (b & FP_SIGN))

/* ---- x result ---- */

#define FP_DEFINE_COMPARE(name, call)                                                              \
    static enum rv_result exec_##name(struct rv_hart *hart, const struct rv_insn *insn)            \
    {                                                                                              \
        uint8_t before = hart->fflags;                                                             \
        if (!fp_on(hart))                                                                          \
            return rv_raise_illegal(hart, insn);                                                   \
        return fp_write_x(hart, insn, call, before);                                               \
    }

FP_DEFINE_COMPARE(feq, FP_SF(eq)(FP_A, FP_B, &hart->fflags))
FP_DEFINE_COMPARE(flt, FP_SF(lt)(FP_A, FP_B, &hart->fflags))
FP_DEFINE_COMPARE(fle, FP_SF(le)(FP_A, FP_B, &hart->fflags))
FP_DEFINE_COMPARE(fclass, FP_SF(classify)(FP_A))

static inline enum rv_result fp_to_int(struct rv_hart *hart, const struct rv_insn *insn,
                                       enum sf_int type)
{
    enum sf_round rm;
    uint8_t before = hart->fflags;

    if (!fp_begin(hart, insn, &rm))
        return rv_raise_illegal(hart, insn);
    return fp_write_x(hart, insn, FP_SF(to_int)(FP_A, type, rm, &hart->fflags), before);
}

#define FP_DEFINE_TO_INT(name, type)                                                               \
    static enum rv_result exec_##name(struct rv_hart *hart, const struct rv_insn *insn)            \
    {                                                                                              \
        return fp_to_int(hart, insn, type);                                                        \
    }

FP_DEFINE_TO_INT(fcvt_to_w, SF_I32)
FP_DEFINE_TO_INT(fcvt_to_wu, SF_U32)
FP_DEFINE_TO_INT(fcvt_to_l, SF_I64)
FP_DEFINE_TO_INT(fcvt_to_lu, SF_U64)

/* ---- rows ---- */

/* Under OP-FP (0x53) and the four fused opcodes; bits 26:25 are fmt. */
#define FP_ROW(name, match, mask, format, exec)                                                    \
    {                                                                                              \
        name, (match) | (uint32_t)FP_CODE << 25, mask, format, exec, RV_ROW_FP                     \
    }

#define FP_SHARED_ROWS                                                                             \
    FP_ROW("fmadd." FP_LETTER, 0x00000043, 0x0600007f, RV_FORMAT_F_FFFF, exec_fmadd),              \
        FP_ROW("fmsub." FP_LETTER, 0x00000047, 0x0600007f, RV_FORMAT_F_FFFF, exec_fmsub),          \
        FP_ROW("fnmsub." FP_LETTER, 0x0000004b, 0x0600007f, RV_FORMAT_F_FFFF, exec_fnmsub),        \
        FP_ROW("fnmadd." FP_LETTER, 0x0000004f, 0x0600007f, RV_FORMAT_F_FFFF, exec_fnmadd),        \
        FP_ROW("fadd." FP_LETTER, 0x00000053, 0xfe00007f, RV_FORMAT_F_FFF, exec_fadd),             \
        FP_ROW("fsub." FP_LETTER, 0x08000053, 0xfe00007f, RV_FORMAT_F_FFF, exec_fsub),             \
        FP_ROW("fmul." FP_LETTER, 0x10000053, 0xfe00007f, RV_FORMAT_F_FFF, exec_fmul),             \
        FP_ROW("fdiv." FP_LETTER, 0x18000053, 0xfe00007f, RV_FORMAT_F_FFF, exec_fdiv),             \
        FP_ROW("fsqrt." FP_LETTER, 0x58000053, 0xfff0007f, RV_FORMAT_F_FF, exec_fsqrt),            \
        FP_ROW("fsgnj." FP_LETTER, 0x20000053, 0xfe00707f, RV_FORMAT_F_FFF_NORM, exec_fsgnj),      \
        FP_ROW("fsgnjn." FP_LETTER, 0x20001053, 0xfe00707f, RV_FORMAT_F_FFF_NORM, exec_fsgnjn),    \
        FP_ROW("fsgnjx." FP_LETTER, 0x20002053, 0xfe00707f, RV_FORMAT_F_FFF_NORM, exec_fsgnjx),    \
        FP_ROW("fmin." FP_LETTER, 0x28000053, 0xfe00707f, RV_FORMAT_F_FFF_NORM, exec_fmin),        \
        FP_ROW("fmax." FP_LETTER, 0x28001053, 0xfe00707f, RV_FORMAT_F_FFF_NORM, exec_fmax),        \
        FP_ROW("fle." FP_LETTER, 0xa0000053, 0xfe00707f, RV_FORMAT_F_XFF, exec_fle),               \
        FP_ROW("flt." FP_LETTER, 0xa0001053, 0xfe00707f, RV_FORMAT_F_XFF, exec_flt),               \
        FP_ROW("feq." FP_LETTER, 0xa0002053, 0xfe00707f, RV_FORMAT_F_XFF, exec_feq),               \
        FP_ROW("fclass." FP_LETTER, 0xe0001053, 0xfff0707f, RV_FORMAT_F_XF_NORM, exec_fclass),     \
        FP_ROW("fcvt.w." FP_LETTER, 0xc0000053, 0xfff0007f, RV_FORMAT_F_XF, exec_fcvt_to_w),       \
        FP_ROW("fcvt.wu." FP_LETTER, 0xc0100053, 0xfff0007f, RV_FORMAT_F_XF, exec_fcvt_to_wu),     \
        FP_ROW("fcvt.l." FP_LETTER, 0xc0200053, 0xfff0007f, RV_FORMAT_F_XF, exec_fcvt_to_l),       \
        FP_ROW("fcvt.lu." FP_LETTER, 0xc0300053, 0xfff0007f, RV_FORMAT_F_XF, exec_fcvt_to_lu),     \
        FP_ROW("fcvt." FP_LETTER ".w", 0xd0000053, 0xfff0007f, RV_FORMAT_F_FX, exec_fcvt_w),       \
        FP_ROW("fcvt." FP_LETTER ".wu", 0xd0100053, 0xfff0007f, RV_FORMAT_F_FX, exec_fcvt_wu),     \
        FP_ROW("fcvt." FP_LETTER ".l", 0xd0200053, 0xfff0007f, RV_FORMAT_F_FX, exec_fcvt_l),       \
        FP_ROW("fcvt." FP_LETTER ".lu", 0xd0300053, 0xfff0007f, RV_FORMAT_F_FX, exec_fcvt_lu)

#endif
