/* SPDX-License-Identifier: MIT
 *
 * Shared by sf_arith.c and sf_convert.c, and by nothing else: the two formats as data, and
 * the way into and out of the unpacked form in which all arithmetic happens.
 *
 * Every function takes the format as a pointer to one of two constants and is inlined into
 * callers that name it, so the compiler specialises the one description for both formats.
 *
 * Unpacked finite value: sig * 2^(exp - 63), bit 63 of sig set. A significand that lost bits
 * has its bit 0 set instead ("sticky"): with at least 11 bits below the target precision
 * (binary64 has exactly 11) it lies on the same side of every rounding boundary as the exact
 * value.
 */
#ifndef TRAPEZE_ISA_RISCV64_SF_INTERNAL_H
#define TRAPEZE_ISA_RISCV64_SF_INTERNAL_H

#include "base/bits.h"
#include "isa/riscv64/softfloat.h"

#define SF_INLINE static inline __attribute__((always_inline))

__extension__ typedef unsigned __int128 sf_u128;

struct sf_format {
    unsigned frac_bits; /* stored fraction bits; precision is one more */
    unsigned exp_bits;
};

static const struct sf_format sf_format_f32 = {23, 8};
static const struct sf_format sf_format_f64 = {52, 11};

enum sf_kind { SF_KIND_ZERO, SF_KIND_FINITE, SF_KIND_INFINITE, SF_KIND_QUIET, SF_KIND_SIGNALLING };

struct sf_value {
    enum sf_kind kind; /* exp and sig count for SF_KIND_FINITE only */
    bool sign;
    int exp;
    uint64_t sig;
};

SF_INLINE unsigned sf_width(const struct sf_format *f)
{
    return 1 + f->exp_bits + f->frac_bits;
}

SF_INLINE int sf_bias(const struct sf_format *f) /* also the greatest exponent */
{
    return (1 << (f->exp_bits - 1)) - 1;
}

SF_INLINE int sf_exp_min(const struct sf_format *f) /* of normal numbers */
{
    return 1 - sf_bias(f);
}

SF_INLINE uint64_t sf_exp_mask(const struct sf_format *f) /* right-aligned */
{
    return (UINT64_C(1) << f->exp_bits) - 1;
}

SF_INLINE uint64_t sf_infinity(const struct sf_format *f, bool sign)
{
    return (uint64_t)sign << (sf_width(f) - 1) | sf_exp_mask(f) << f->frac_bits;
}

SF_INLINE uint64_t sf_zero(const struct sf_format *f, bool sign)
{
    return (uint64_t)sign << (sf_width(f) - 1);
}

SF_INLINE uint64_t sf_nan(const struct sf_format *f)
{
    return sf_infinity(f, false) | UINT64_C(1) << (f->frac_bits - 1);
}

SF_INLINE uint64_t sf_invalid(const struct sf_format *f, uint8_t *flags)
{
    *flags |= SF_NV;
    return sf_nan(f);
}

SF_INLINE bool sf_sign(const struct sf_format *f, uint64_t bits)
{
    return (bits >> (sf_width(f) - 1)) & 1;
}

SF_INLINE uint64_t sf_magnitude(const struct sf_format *f, uint64_t bits)
{
    return bits & ((UINT64_C(1) << (sf_width(f) - 1)) - 1);
}

SF_INLINE bool sf_is_nan(const struct sf_format *f, uint64_t bits)
{
    return sf_magnitude(f, bits) > sf_infinity(f, false);
}

SF_INLINE bool sf_is_signalling(const struct sf_format *f, uint64_t bits)
{
    return sf_is_nan(f, bits) && !(bits >> (f->frac_bits - 1) & 1);
}

SF_INLINE struct sf_value sf_unpack(const struct sf_format *f, uint64_t bits)
{
    uint64_t frac = bits & ((UINT64_C(1) << f->frac_bits) - 1);
    uint64_t field = bits >> f->frac_bits & sf_exp_mask(f);
    struct sf_value v = {.kind = SF_KIND_FINITE, .sign = sf_sign(f, bits)};

    if (field == sf_exp_mask(f)) {
        if (frac == 0)
            v.kind = SF_KIND_INFINITE;
        else
            v.kind = frac >> (f->frac_bits - 1) ? SF_KIND_QUIET : SF_KIND_SIGNALLING;
    } else if (field != 0) {
        v.exp = (int)field - sf_bias(f);
        v.sig = (frac | UINT64_C(1) << f->frac_bits) << (63 - f->frac_bits);
    } else if (frac != 0) {
        int shift = __builtin_clzll(frac);
        v.exp = sf_exp_min(f) - shift + 63 - (int)f->frac_bits;
        v.sig = frac << shift;
    } else {
        v.kind = SF_KIND_ZERO;
    }
    return v;
}

SF_INLINE bool sf_value_is_nan(struct sf_value v)
{
    return v.kind >= SF_KIND_QUIET;
}

/* Shifts right; what falls off is remembered in bit 0. */
SF_INLINE uint64_t sf_shift_sticky(uint64_t value, unsigned count)
{
    if (count == 0)
        return value;
    if (count > 63)
        return value != 0;
    return value >> count | (value << (64 - count) != 0);
}

SF_INLINE sf_u128 sf_shift_sticky_wide(sf_u128 value, unsigned count)
{
    if (count == 0)
        return value;
    if (count > 127)
        return value != 0;
    return value >> count | (value << (128 - count) != 0);
}

SF_INLINE uint64_t sf_high_sticky(sf_u128 value)
{
    return (uint64_t)(value >> 64) | ((uint64_t)value != 0);
}

/* Does the magnitude grow when the bits below its last one are `rest`, `half` being the weight
 * of half that bit? */
SF_INLINE bool sf_rounds_up(enum sf_round rm, bool sign, bool odd, uint64_t rest, uint64_t half)
{
    switch (rm) {
    case SF_RNE:
        return rest > half || (rest == half && odd);
    case SF_RTZ:
        return false;
    case SF_RDN:
        return sign && rest != 0;
    case SF_RUP:
        return !sign && rest != 0;
    case SF_RMM:
        return rest >= half;
    }
    return false;
}

/* Overflow goes to infinity unless the mode points away from it. */
SF_INLINE uint64_t sf_overflow(const struct sf_format *f, bool sign, enum sf_round rm,
                               uint8_t *flags)
{
    bool to_infinity = rm == SF_RNE || rm == SF_RMM || rm == (sign ? SF_RDN : SF_RUP);

    *flags |= SF_OF | SF_NX;
    return sf_infinity(f, sign) - !to_infinity;
}

/* The one place where results are rounded. `sig` is normalised (bit 63) and may be sticky. */
SF_INLINE uint64_t sf_round_pack(const struct sf_format *f, bool sign, int exp, uint64_t sig,
                                 enum sf_round rm, uint8_t *flags)
{
    const unsigned drop = 63 - f->frac_bits;
    const uint64_t half = UINT64_C(1) << (drop - 1);
    const uint64_t rest_mask = (UINT64_C(1) << drop) - 1;
    bool tiny = false;
    uint64_t field = 0;

    if (exp >= sf_exp_min(f)) {
        if (exp > sf_bias(f))
            return sf_overflow(f, sign, rm, flags);
        field = (uint64_t)(exp + sf_bias(f) - 1); /* the hidden bit adds the missing one */
    } else {
        /* Tiny after rounding (F chapter): what matters is the result rounded to full
         * precision with an unbounded exponent, not the subnormal one. Only a carry out of
         * an all-ones significand just below the smallest normal number escapes. */
        bool carries = sf_rounds_up(rm, sign, sig >> drop & 1, sig & rest_mask, half) &&
                       sig >> drop == UINT64_MAX >> drop;
        tiny = !(exp == sf_exp_min(f) - 1 && carries);
        sig = sf_shift_sticky(sig, (unsigned)(sf_exp_min(f) - exp));
    }

    uint64_t rest = sig & rest_mask;
    uint64_t kept = sig >> drop;
    if (rest != 0)
        *flags |= tiny ? SF_UF | SF_NX : SF_NX;
    kept += sf_rounds_up(rm, sign, kept & 1, rest, half);
    /* A carry out of the fraction runs into the exponent field, which is what it must do. */
    uint64_t magnitude = (field << f->frac_bits) + kept;
    if (magnitude >= sf_infinity(f, false))
        return sf_overflow(f, sign, rm, flags);
    return sf_zero(f, sign) | magnitude;
}

#endif
