/* SPDX-License-Identifier: MIT
 *
 * IEEE 754-2019 binary32 and binary64 arithmetic as the RISC-V unprivileged ISA defines it
 * (chapters "F" and "D"): five rounding modes, five accrued flags, tininess detected after
 * rounding, every NaN result canonical.
 *
 *     uint8_t flags = 0;
 *     uint64_t third = sf_div_f64(one, three, SF_RNE, &flags);    // flags == SF_NX
 *
 * Values are bit patterns in a uint64_t. The _f32 functions look at the low 32 bits of their
 * operands only and return zero-extended results: NaN boxing is the caller's affair. `flags`
 * is only ever ORed into; bits that are already set let an operation skip work (see
 * sf_arith.c), so hand in the guest's accrued flags rather than a fresh variable.
 *
 * Pure functions: any thread, no state, no errors, no host floating-point exceptions that
 * matter. They expect the thread's host floating-point control at its C default (round to
 * nearest, no flush to zero, exceptions masked): an engine that changes it restores it first.
 */
#ifndef TRAPEZE_ISA_RISCV64_SOFTFLOAT_H
#define TRAPEZE_ISA_RISCV64_SOFTFLOAT_H

#include <stdbool.h>
#include <stdint.h>

/* As encoded in an instruction's rm field and in fcsr.frm. */
enum sf_round {
    SF_RNE = 0, /* to nearest, ties to even */
    SF_RTZ = 1, /* towards zero */
    SF_RDN = 2, /* down */
    SF_RUP = 3, /* up */
    SF_RMM = 4, /* to nearest, ties away from zero */
};

/* As laid out in fcsr.fflags. */
#define SF_NX 0x01u /* inexact */
#define SF_UF 0x02u /* underflow */
#define SF_OF 0x04u /* overflow */
#define SF_DZ 0x08u /* division by zero */
#define SF_NV 0x10u /* invalid operation */

#define SF_NAN_F32 UINT64_C(0x7fc00000)
#define SF_NAN_F64 UINT64_C(0x7ff8000000000000)

/* What fclass returns: exactly one of these. */
#define SF_CLASS_NEGATIVE_INFINITY  (1u << 0)
#define SF_CLASS_NEGATIVE_NORMAL    (1u << 1)
#define SF_CLASS_NEGATIVE_SUBNORMAL (1u << 2)
#define SF_CLASS_NEGATIVE_ZERO      (1u << 3)
#define SF_CLASS_POSITIVE_ZERO      (1u << 4)
#define SF_CLASS_POSITIVE_SUBNORMAL (1u << 5)
#define SF_CLASS_POSITIVE_NORMAL    (1u << 6)
#define SF_CLASS_POSITIVE_INFINITY  (1u << 7)
#define SF_CLASS_SIGNALLING_NAN     (1u << 8)
#define SF_CLASS_QUIET_NAN          (1u << 9)

/* Integer types of the conversions: what fcvt calls w, wu, l and lu. */
enum sf_int { SF_I32, SF_U32, SF_I64, SF_U64 };

/* One set of operations per format:
 *
 * add, sub, mul, div, sqrt  correctly rounded.
 * fma       a * b + c, rounded once; infinity times zero is invalid even if c is a quiet NaN.
 * min, max  minimumNumber and maximumNumber: a number beats a NaN, -0 < +0, signalling NaNs
 *           are invalid.
 * eq        quiet comparison; lt, le: signalling (any NaN is invalid). False with a NaN.
 * classify  one SF_CLASS_ bit.
 * to_int    NaN and what lies above give the greatest integer, what lies below the least;
 *           both are SF_NV without SF_NX. 32-bit results are sign-extended, unsigned too.
 * from_int  takes the low 32 or 64 bits of `value`. */
#define SF_DECLARE(F)                                                                              \
    uint64_t sf_add_##F(uint64_t a, uint64_t b, enum sf_round rm, uint8_t *flags);                 \
    uint64_t sf_sub_##F(uint64_t a, uint64_t b, enum sf_round rm, uint8_t *flags);                 \
    uint64_t sf_mul_##F(uint64_t a, uint64_t b, enum sf_round rm, uint8_t *flags);                 \
    uint64_t sf_div_##F(uint64_t a, uint64_t b, enum sf_round rm, uint8_t *flags);                 \
    uint64_t sf_sqrt_##F(uint64_t a, enum sf_round rm, uint8_t *flags);                            \
    uint64_t sf_fma_##F(uint64_t a, uint64_t b, uint64_t c, enum sf_round rm, uint8_t *flags);     \
    uint64_t sf_min_##F(uint64_t a, uint64_t b, uint8_t *flags);                                   \
    uint64_t sf_max_##F(uint64_t a, uint64_t b, uint8_t *flags);                                   \
    bool sf_eq_##F(uint64_t a, uint64_t b, uint8_t *flags);                                        \
    bool sf_lt_##F(uint64_t a, uint64_t b, uint8_t *flags);                                        \
    bool sf_le_##F(uint64_t a, uint64_t b, uint8_t *flags);                                        \
    uint32_t sf_classify_##F(uint64_t a);                                                          \
    uint64_t sf_to_int_##F(uint64_t a, enum sf_int type, enum sf_round rm, uint8_t *flags);        \
    uint64_t sf_from_int_##F(uint64_t value, enum sf_int type, enum sf_round rm, uint8_t *flags);
SF_DECLARE(f32)
SF_DECLARE(f64)
#undef SF_DECLARE

uint64_t sf_f64_to_f32(uint64_t a, enum sf_round rm, uint8_t *flags);
uint64_t sf_f32_to_f64(uint64_t a, uint8_t *flags); /* exact; a signalling NaN is invalid */

#endif
