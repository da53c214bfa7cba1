/* SPDX-License-Identifier: MIT
 *
 * An exact floating-point reference for tests, on purpose as unlike isa/riscv64/sf_*.c as it
 * can be: numbers are plain fixed-point integers wide enough (2^-2304 .. 2^2304) to hold every
 * binary64 sum and product exactly, so nothing is aligned, normalised or sticky; rounding looks
 * at the real digits. All five modes and all flags but DZ and NV. Finite operands only.
 */
#ifndef TRAPEZE_TESTS_UNIT_SF_REFERENCE_H
#define TRAPEZE_TESTS_UNIT_SF_REFERENCE_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "isa/riscv64/softfloat.h"

#define REF_WORDS 72
#define REF_LOW   (-2304) /* bit 0 weighs 2^REF_LOW */

struct ref_format {
    int precision, exp_min, exp_max, width;
};
static const struct ref_format ref_f32 = {24, -126, 127, 32};
static const struct ref_format ref_f64 = {53, -1022, 1023, 64};

struct ref_number {
    bool sign;
    uint64_t word[REF_WORDS];
};

__extension__ typedef unsigned __int128 ref_u128;

static inline void ref_or(struct ref_number *r, uint64_t integer, int exp)
{
    int at = exp - REF_LOW;
    assert(at >= 0 && at < 64 * (REF_WORDS - 1));
    r->word[at / 64] |= integer << (at % 64);
    if (at % 64 != 0)
        r->word[at / 64 + 1] |= integer >> (64 - at % 64);
}

static inline bool ref_bit(const struct ref_number *r, int exp)
{
    int at = exp - REF_LOW;
    return at >= 0 && at < 64 * REF_WORDS && (r->word[at / 64] >> (at % 64) & 1);
}

static inline bool ref_any_below(const struct ref_number *r, int exp)
{
    int at = exp - REF_LOW;
    for (int i = 0; i < REF_WORDS && i * 64 < at; i++) {
        uint64_t mask = at - i * 64 >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << (at - i * 64)) - 1;
        if (r->word[i] & mask)
            return true;
    }
    return false;
}

/* Exponent of the highest bit; INT32_MIN for zero. */
static inline int ref_top(const struct ref_number *r)
{
    for (int i = REF_WORDS - 1; i >= 0; i--)
        for (int bit = 63; bit >= 0 && r->word[i] != 0; bit--)
            if (r->word[i] >> bit & 1)
                return REF_LOW + i * 64 + bit;
    return INT32_MIN;
}

/* integer * 2^exp == |bits| */
static inline uint64_t ref_split(const struct ref_format *f, uint64_t bits, int *exp)
{
    uint64_t frac = bits & ((UINT64_C(1) << (f->precision - 1)) - 1);
    int field = (int)(bits >> (f->precision - 1)) & (2 * f->exp_max + 1);
    *exp = (field == 0 ? f->exp_min : field - f->exp_max) - (f->precision - 1);
    return field == 0 ? frac : frac + (UINT64_C(1) << (f->precision - 1));
}

static inline bool ref_sign(const struct ref_format *f, uint64_t bits)
{
    return bits >> (f->width - 1) & 1;
}

static inline void ref_from(const struct ref_format *f, uint64_t bits, struct ref_number *r)
{
    int exp;
    uint64_t integer = ref_split(f, bits, &exp);
    memset(r, 0, sizeof(*r));
    r->sign = ref_sign(f, bits);
    ref_or(r, integer, exp);
}

static inline void ref_product(const struct ref_format *f, uint64_t a, uint64_t b,
                               struct ref_number *r)
{
    int exp_a, exp_b;
    ref_u128 product = (ref_u128)ref_split(f, a, &exp_a) * ref_split(f, b, &exp_b);
    memset(r, 0, sizeof(*r));
    r->sign = ref_sign(f, a) != ref_sign(f, b);
    ref_or(r, (uint64_t)product, exp_a + exp_b);
    ref_or(r, (uint64_t)(product >> 64), exp_a + exp_b + 64);
}

/* x += y, two's complement over the whole width and back. */
static inline void ref_accumulate(struct ref_number *x, const struct ref_number *y)
{
    bool negate = x->sign != y->sign;
    uint64_t carry = negate;
    for (int i = 0; i < REF_WORDS; i++) {
        ref_u128 sum = (ref_u128)x->word[i] + (negate ? ~y->word[i] : y->word[i]) + carry;
        x->word[i] = (uint64_t)sum;
        carry = (uint64_t)(sum >> 64);
    }
    if (negate && !carry) {
        x->sign = y->sign;
        uint64_t borrow = 1;
        for (int i = 0; i < REF_WORDS; i++) {
            x->word[i] = ~x->word[i] + borrow;
            borrow = borrow && x->word[i] == 0;
        }
    }
}

/* Schoolbook division, one quotient bit at a time; the rest becomes one low bit. */
static inline void ref_quotient(const struct ref_format *f, uint64_t a, uint64_t b,
                                struct ref_number *r)
{
    int exp_a, exp_b;
    uint64_t dividend = ref_split(f, a, &exp_a), divisor = ref_split(f, b, &exp_b);
    uint64_t rest = dividend % divisor;
    memset(r, 0, sizeof(*r));
    r->sign = ref_sign(f, a) != ref_sign(f, b);
    int exp = exp_a - exp_b;
    ref_or(r, dividend / divisor, exp);
    for (int i = 0; i < 120 && rest != 0; i++) {
        exp--;
        rest *= 2;
        if (rest >= divisor) {
            rest -= divisor;
            ref_or(r, 1, exp);
        }
    }
    if (rest != 0)
        ref_or(r, 1, exp - 1);
}

/* Binary search for the root of an even-scaled integer. */
static inline void ref_root(const struct ref_format *f, uint64_t a, struct ref_number *r)
{
    int exp;
    ref_u128 square = ref_split(f, a, &exp);
    memset(r, 0, sizeof(*r));
    if (square == 0)
        return;
    while (square >> 124 == 0 || exp % 2 != 0) {
        square <<= 1;
        exp--;
    }
    uint64_t low = 0, high = UINT64_MAX; /* low^2 <= square < high^2 */
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if ((ref_u128)middle * middle <= square)
            low = middle;
        else
            high = middle;
    }
    ref_or(r, low, exp / 2);
    if ((ref_u128)low * low != square)
        ref_or(r, 1, exp / 2 - 1);
}

/* |r| in units of 2^unit, rounded; r < 2^(unit + 64). Adds to *inexact. */
static inline uint64_t ref_round_to_unit(const struct ref_number *r, int unit, enum sf_round rm,
                                         bool *inexact)
{
    uint64_t kept = 0;
    for (int i = 63; i >= 0; i--)
        kept = kept << 1 | ref_bit(r, unit + i);
    bool half = ref_bit(r, unit - 1), more = ref_any_below(r, unit - 1);
    bool up = false;

    if (rm == SF_RNE)
        up = half && (more || (kept & 1));
    else if (rm == SF_RMM)
        up = half;
    else if (rm == SF_RUP)
        up = !r->sign && (half || more);
    else if (rm == SF_RDN)
        up = r->sign && (half || more);
    *inexact = half || more;
    return kept + up;
}

/* `zero_sign`: of an exact zero. */
static inline uint64_t ref_round(const struct ref_format *f, const struct ref_number *r,
                                 bool zero_sign, enum sf_round rm, uint8_t *flags)
{
    int top = ref_top(r);
    if (top == INT32_MIN)
        return (uint64_t)zero_sign << (f->width - 1);

    bool inexact, unused;
    int p = f->precision;
    int unbounded_unit = top - (p - 1), least_unit = f->exp_min - (p - 1);
    int unit = unbounded_unit > least_unit ? unbounded_unit : least_unit;
    bool carry = ref_round_to_unit(r, unbounded_unit, rm, &unused) == UINT64_C(1) << p;
    bool tiny = top + carry < f->exp_min;

    uint64_t kept = ref_round_to_unit(r, unit, rm, &inexact);
    if (kept == UINT64_C(1) << p) {
        kept /= 2;
        unit++;
    }
    if (unit + p - 1 > f->exp_max) {
        bool infinite =
            rm == SF_RNE || rm == SF_RMM || (rm == SF_RUP && !r->sign) || (rm == SF_RDN && r->sign);
        *flags |= SF_OF | SF_NX;
        kept = (UINT64_C(1) << (p - 1)) + (infinite ? 0 : (UINT64_C(1) << (p - 1)) - 1);
        unit = (infinite ? f->exp_max + 1 : f->exp_max) - (p - 1);
    } else {
        if (inexact)
            *flags |= SF_NX;
        if (inexact && tiny)
            *flags |= SF_UF;
    }
    bool normal = kept >> (p - 1) != 0;
    uint64_t field = normal ? (uint64_t)(unit + p - 1 + f->exp_max) : 0;
    uint64_t frac = kept & ((UINT64_C(1) << (p - 1)) - 1);
    return (uint64_t)r->sign << (f->width - 1) | field << (p - 1) | frac;
}

#endif
