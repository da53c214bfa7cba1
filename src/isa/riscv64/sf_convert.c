/* SPDX-License-Identifier: MIT
 *
 * Soft-float operations that compute no new digits: conversions, comparisons, minimum and
 * maximum, classification. None of them is hot enough to need the host's FPU; all work on
 * the bit pattern or through sf_round_pack().
 */
#include "isa/riscv64/sf_internal.h"

/* Sets SF_NV for signalling NaNs; true if either operand is a NaN. */
SF_INLINE bool any_nan(const struct sf_format *f, uint64_t a, uint64_t b, uint8_t *flags)
{
    if (LIKELY(!sf_is_nan(f, a) && !sf_is_nan(f, b)))
        return false;
    if (sf_is_signalling(f, a) || sf_is_signalling(f, b))
        *flags |= SF_NV;
    return true;
}

/* A key whose order as a signed integer is the order of the numbers, -0 just below +0. */
SF_INLINE int64_t order_key(const struct sf_format *f, uint64_t bits)
{
    int64_t magnitude = (int64_t)sf_magnitude(f, bits);
    return sf_sign(f, bits) ? -1 - magnitude : magnitude;
}

SF_INLINE bool both_zero(const struct sf_format *f, uint64_t a, uint64_t b)
{
    return (sf_magnitude(f, a) | sf_magnitude(f, b)) == 0;
}

SF_INLINE uint64_t low_bits(const struct sf_format *f, uint64_t bits)
{
    return bits & (~UINT64_C(0) >> (64 - sf_width(f)));
}

SF_INLINE bool equal(const struct sf_format *f, uint64_t a, uint64_t b, uint8_t *flags)
{
    if (any_nan(f, a, b, flags))
        return false;
    return low_bits(f, a) == low_bits(f, b) || both_zero(f, a, b);
}

SF_INLINE bool less(const struct sf_format *f, uint64_t a, uint64_t b, bool or_equal,
                    uint8_t *flags)
{
    if (any_nan(f, a, b, flags)) {
        *flags |= SF_NV; /* quiet NaNs too */
        return false;
    }
    if (both_zero(f, a, b))
        return or_equal;
    int64_t x = order_key(f, a), y = order_key(f, b);
    return or_equal ? x <= y : x < y;
}

SF_INLINE uint64_t extreme(const struct sf_format *f, uint64_t a, uint64_t b, bool greatest,
                           uint8_t *flags)
{
    if (any_nan(f, a, b, flags)) {
        if (!sf_is_nan(f, a))
            return low_bits(f, a);
        return sf_is_nan(f, b) ? sf_nan(f) : low_bits(f, b);
    }
    bool take_a = (order_key(f, a) > order_key(f, b)) == greatest;
    return low_bits(f, take_a ? a : b);
}

SF_INLINE uint32_t classify(const struct sf_format *f, uint64_t a)
{
    struct sf_value v = sf_unpack(f, a);

    switch (v.kind) {
    case SF_KIND_ZERO:
        return v.sign ? SF_CLASS_NEGATIVE_ZERO : SF_CLASS_POSITIVE_ZERO;
    case SF_KIND_INFINITE:
        return v.sign ? SF_CLASS_NEGATIVE_INFINITY : SF_CLASS_POSITIVE_INFINITY;
    case SF_KIND_QUIET:
        return SF_CLASS_QUIET_NAN;
    case SF_KIND_SIGNALLING:
        return SF_CLASS_SIGNALLING_NAN;
    case SF_KIND_FINITE:
        break;
    }
    if (v.exp < sf_exp_min(f))
        return v.sign ? SF_CLASS_NEGATIVE_SUBNORMAL : SF_CLASS_POSITIVE_SUBNORMAL;
    return v.sign ? SF_CLASS_NEGATIVE_NORMAL : SF_CLASS_POSITIVE_NORMAL;
}

/* The integer types as data; `least` is a magnitude. */
struct int_type {
    unsigned bits;
    uint64_t greatest, least;
};

static const struct int_type int_types[] = {
    [SF_I32] = {32, INT32_MAX, UINT64_C(1) << 31},
    [SF_U32] = {32, UINT32_MAX, 0},
    [SF_I64] = {64, INT64_MAX, UINT64_C(1) << 63},
    [SF_U64] = {64, UINT64_MAX, 0},
};

SF_INLINE bool is_signed(const struct int_type *type)
{
    return type->least != 0;
}

/* Integer results of any type as XLEN bits: sign-extended from their own width. */
SF_INLINE uint64_t integer(const struct int_type *type, bool sign, uint64_t magnitude)
{
    return (uint64_t)sign_extend(sign ? -magnitude : magnitude, type->bits);
}

SF_INLINE uint64_t out_of_range(const struct int_type *type, bool sign, uint8_t *flags)
{
    *flags |= SF_NV;
    return integer(type, sign, sign ? type->least : type->greatest);
}

SF_INLINE uint64_t to_int(const struct sf_format *f, uint64_t a, enum sf_int int_type,
                          enum sf_round rm, uint8_t *flags)
{
    const struct int_type *type = &int_types[int_type];
    struct sf_value v = sf_unpack(f, a);

    if (sf_value_is_nan(v))
        return out_of_range(type, false, flags);
    if (v.kind == SF_KIND_ZERO)
        return 0;
    if (v.kind == SF_KIND_INFINITE || v.exp > 63)
        return out_of_range(type, v.sign, flags);

    /* 64 integer bits, 64 fraction bits. */
    sf_u128 fixed = sf_shift_sticky_wide((sf_u128)v.sig << 64, (unsigned)(63 - v.exp));
    uint64_t whole = (uint64_t)(fixed >> 64);
    uint64_t fraction = (uint64_t)fixed;
    /* Cannot wrap: a significand that reaches bit 63 leaves no fraction. */
    whole += sf_rounds_up(rm, v.sign, whole & 1, fraction, UINT64_C(1) << 63);

    if (whole > (v.sign ? type->least : type->greatest))
        return out_of_range(type, v.sign, flags);
    if (fraction != 0)
        *flags |= SF_NX;
    return integer(type, v.sign, whole);
}

SF_INLINE uint64_t from_int(const struct sf_format *f, uint64_t value, enum sf_int int_type,
                            enum sf_round rm, uint8_t *flags)
{
    const struct int_type *type = &int_types[int_type];
    uint64_t extended =
        is_signed(type) ? (uint64_t)sign_extend(value, type->bits) : bits_get(value, 0, type->bits);
    bool sign = is_signed(type) && extended >> 63;
    uint64_t magnitude = sign ? -extended : extended;

    if (magnitude == 0)
        return 0;
    int shift = __builtin_clzll(magnitude);
    return sf_round_pack(f, sign, 63 - shift, magnitude << shift, rm, flags);
}

SF_INLINE uint64_t convert(const struct sf_format *from, const struct sf_format *to, uint64_t a,
                           enum sf_round rm, uint8_t *flags)
{
    struct sf_value v = sf_unpack(from, a);

    switch (v.kind) {
    case SF_KIND_ZERO:
        return sf_zero(to, v.sign);
    case SF_KIND_INFINITE:
        return sf_infinity(to, v.sign);
    case SF_KIND_QUIET:
        return sf_nan(to);
    case SF_KIND_SIGNALLING:
        return sf_invalid(to, flags);
    case SF_KIND_FINITE:
        break;
    }
    return sf_round_pack(to, v.sign, v.exp, v.sig, rm, flags);
}

#define DEFINE_CONVERT(F)                                                                          \
    uint64_t sf_min_##F(uint64_t a, uint64_t b, uint8_t *flags)                                    \
    {                                                                                              \
        return extreme(&sf_format_##F, a, b, false, flags);                                        \
    }                                                                                              \
    uint64_t sf_max_##F(uint64_t a, uint64_t b, uint8_t *flags)                                    \
    {                                                                                              \
        return extreme(&sf_format_##F, a, b, true, flags);                                         \
    }                                                                                              \
    bool sf_eq_##F(uint64_t a, uint64_t b, uint8_t *flags)                                         \
    {                                                                                              \
        return equal(&sf_format_##F, a, b, flags);                                                 \
    }                                                                                              \
    bool sf_lt_##F(uint64_t a, uint64_t b, uint8_t *flags)                                         \
    {                                                                                              \
        return less(&sf_format_##F, a, b, false, flags);                                           \
    }                                                                                              \
    bool sf_le_##F(uint64_t a, uint64_t b, uint8_t *flags)                                         \
    {                                                                                              \
        return less(&sf_format_##F, a, b, true, flags);                                            \
    }                                                                                              \
    uint32_t sf_classify_##F(uint64_t a)                                                           \
    {                                                                                              \
        return classify(&sf_format_##F, a);                                                        \
    }                                                                                              \
    uint64_t sf_to_int_##F(uint64_t a, enum sf_int type, enum sf_round rm, uint8_t *flags)         \
    {                                                                                              \
        return to_int(&sf_format_##F, a, type, rm, flags);                                         \
    }                                                                                              \
    uint64_t sf_from_int_##F(uint64_t value, enum sf_int type, enum sf_round rm, uint8_t *flags)   \
    {                                                                                              \
        return from_int(&sf_format_##F, value, type, rm, flags);                                   \
    }

DEFINE_CONVERT(f32)
DEFINE_CONVERT(f64)

uint64_t sf_f64_to_f32(uint64_t a, enum sf_round rm, uint8_t *flags)
{
    return convert(&sf_format_f64, &sf_format_f32, a, rm, flags);
}

uint64_t sf_f32_to_f64(uint64_t a, uint8_t *flags)
{
    /* Every binary32 number is a binary64 number: the mode does not matter. */
    return convert(&sf_format_f32, &sf_format_f64, a, SF_RNE, flags);
}
