/* SPDX-License-Identifier: MIT
 *
 * Soft-float arithmetic: add, sub, mul, div, sqrt, fma for both formats.
 *
 * Each operation exists once, over 128-bit integers: exact (or exact but for a sticky bit),
 * then sf_round_pack(). In front of it stands a short cut through the host's FPU.
 *
 * Why the short cut is right. The host is IEEE 754 and at its default control word, so its
 * result is the correctly rounded one for RNE. What it also does to its own flags we never
 * look at; so it may be used exactly where the guest's flags are known without looking:
 * - Inexact: already accrued, so whether this operation is inexact no longer matters. (Nearly
 *   all programs set it within microseconds and never clear it.)
 * - Operands zero or normal: no signalling NaN, no NaN payload to canonicalise, no infinity,
 *   hence no invalid operation once 0/0 and the root of a negative are excluded; and no
 *   subnormal, which is slow on many hosts.
 * - Overflow: with finite operands and a divisor that is not zero, an infinite result means
 *   just that, and RNE overflows to infinity, as the host did.
 * - Underflow: impossible if the result lies strictly above the smallest normal number. At
 *   that number or below (zero included) the integers decide, since the host may detect
 *   tininess before rounding and we must do it after.
 * - A sum of two floating-point numbers that is below the normal range is exact, so for add
 *   and sub a small result needs no second look.
 *
 * Built with -ffp-contract=off; each function below does a single host operation anyway.
 */
#include <float.h>
#include <math.h>

#include "isa/riscv64/sf_internal.h"

/* Where the host computes in a wider format (x87), results would be rounded twice. */
enum { HOST_FPU_USABLE = FLT_EVAL_METHOD == 0 && FLT_MANT_DIG == 24 && DBL_MANT_DIG == 53 };

enum host_op { HOST_ADD, HOST_SUB, HOST_MUL, HOST_DIV, HOST_SQRT, HOST_FMA };

/* One operation of the host's, for a format whose bits are a `word` and whose value is a `real`. */
#define HOST_COMPUTE(name, real, word, root, fused)                                                \
    SF_INLINE uint64_t name(enum host_op op, uint64_t a, uint64_t b, uint64_t c)                   \
    {                                                                                              \
        const word bits[3] = {(word)a, (word)b, (word)c};                                          \
        real x[3], result = 0;                                                                     \
        word result_bits;                                                                          \
                                                                                                   \
        memcpy(x, bits, sizeof(x));                                                                \
        switch (op) {                                                                              \
        case HOST_ADD:                                                                             \
            result = x[0] + x[1];                                                                  \
            break;                                                                                 \
        case HOST_SUB:                                                                             \
            result = x[0] - x[1];                                                                  \
            break;                                                                                 \
        case HOST_MUL:                                                                             \
            result = x[0] * x[1];                                                                  \
            break;                                                                                 \
        case HOST_DIV:                                                                             \
            result = x[0] / x[1];                                                                  \
            break;                                                                                 \
        case HOST_SQRT:                                                                            \
            result = root(x[0]);                                                                   \
            break;                                                                                 \
        case HOST_FMA:                                                                             \
            result = fused(x[0], x[1], x[2]);                                                      \
            break;                                                                                 \
        }                                                                                          \
        memcpy(&result_bits, &result, sizeof(result_bits));                                        \
        return result_bits;                                                                        \
    }

HOST_COMPUTE(host_compute_f32, float, uint32_t, sqrtf, fmaf)
HOST_COMPUTE(host_compute_f64, double, uint64_t, sqrt, fma)

SF_INLINE bool is_normal(const struct sf_format *f, uint64_t bits)
{
    uint64_t field = bits >> f->frac_bits & sf_exp_mask(f);
    return field - 1 < sf_exp_mask(f) - 1;
}

SF_INLINE bool is_zero_or_normal(const struct sf_format *f, uint64_t bits)
{
    return is_normal(f, bits) || sf_magnitude(f, bits) == 0;
}

/* The short cut described above; false: take the long way. Operands that `op` does not have
 * are passed as zero. */
SF_INLINE bool host_shortcut(const struct sf_format *f, enum host_op op, uint64_t a, uint64_t b,
                             uint64_t c, enum sf_round rm, uint8_t *flags, uint64_t *result)
{
    if (!HOST_FPU_USABLE || UNLIKELY(!(*flags & SF_NX)) || UNLIKELY(rm != SF_RNE))
        return false;
    if (UNLIKELY(!is_zero_or_normal(f, a)) || UNLIKELY(!is_zero_or_normal(f, b)) ||
        UNLIKELY(!is_zero_or_normal(f, c)))
        return false;
    if (op == HOST_DIV && UNLIKELY(sf_magnitude(f, b) == 0))
        return false;
    if (op == HOST_SQRT && UNLIKELY(sf_sign(f, a)))
        return false;

    uint64_t computed =
        f == &sf_format_f32 ? host_compute_f32(op, a, b, c) : host_compute_f64(op, a, b, c);
    uint64_t magnitude = sf_magnitude(f, computed);
    bool may_underflow = op == HOST_MUL || op == HOST_DIV || op == HOST_FMA;
    if (may_underflow && UNLIKELY(magnitude <= UINT64_C(1) << f->frac_bits))
        return false;
    if (UNLIKELY(magnitude == sf_infinity(f, false)))
        *flags |= SF_OF;
    *result = computed;
    return true;
}

/* NaN operands: the result is canonical, and only signalling ones are invalid. */
SF_INLINE uint64_t nan_result(const struct sf_format *f, bool signalling, uint8_t *flags)
{
    if (signalling)
        *flags |= SF_NV;
    return sf_nan(f);
}

/* An exact sum of zero whose operands had different signs (IEEE 754-2019, 6.3). */
SF_INLINE uint64_t zero_difference(const struct sf_format *f, enum sf_round rm)
{
    return sf_zero(f, rm == SF_RDN);
}

/* The sum of two finite numbers sig * 2^(exp - 126) with 0 < sig < 2^127: one bit of room for
 * the carry, and so much below that a bit lost to alignment can only be sticky. That holds
 * because bits are lost only when the operands are more than 21 binary places apart (a product
 * of two binary64 significands ends at bit 21), where subtracting cancels at most one place. */
struct wide {
    bool sign;
    int exp;
    sf_u128 sig;
};

SF_INLINE uint64_t add_wide(const struct sf_format *f, struct wide x, struct wide y,
                            enum sf_round rm, uint8_t *flags)
{
    if (x.exp < y.exp || (x.exp == y.exp && x.sig < y.sig)) {
        struct wide swap = x;
        x = y;
        y = swap;
    }
    y.sig = sf_shift_sticky_wide(y.sig, (unsigned)(x.exp - y.exp));

    sf_u128 sum;
    if (x.sign == y.sign) {
        sum = x.sig + y.sig;
    } else if (x.sig >= y.sig) {
        sum = x.sig - y.sig;
    } else { /* an unnormalised product with the greater exponent and the smaller value */
        sum = y.sig - x.sig;
        x.sign = y.sign;
    }
    if (sum == 0)
        return zero_difference(f, rm);

    int shift =
        sum >> 64 ? __builtin_clzll((uint64_t)(sum >> 64)) : 64 + __builtin_clzll((uint64_t)sum);
    return sf_round_pack(f, x.sign, x.exp + 1 - shift, sf_high_sticky(sum << shift), rm, flags);
}

SF_INLINE struct wide widen(struct sf_value v)
{
    return (struct wide){v.sign, v.exp, (sf_u128)v.sig << 63};
}

SF_INLINE uint64_t pack_finite(const struct sf_format *f, struct sf_value v, enum sf_round rm,
                               uint8_t *flags)
{
    return sf_round_pack(f, v.sign, v.exp, v.sig, rm, flags);
}

SF_INLINE uint64_t soft_add(const struct sf_format *f, uint64_t a, uint64_t b, enum sf_round rm,
                            uint8_t *flags)
{
    struct sf_value x = sf_unpack(f, a), y = sf_unpack(f, b);

    if (sf_value_is_nan(x) || sf_value_is_nan(y))
        return nan_result(f, x.kind == SF_KIND_SIGNALLING || y.kind == SF_KIND_SIGNALLING, flags);
    if (x.kind == SF_KIND_INFINITE && y.kind == SF_KIND_INFINITE && x.sign != y.sign)
        return sf_invalid(f, flags);
    if (x.kind == SF_KIND_INFINITE || y.kind == SF_KIND_INFINITE)
        return sf_infinity(f, x.kind == SF_KIND_INFINITE ? x.sign : y.sign);
    if (x.kind == SF_KIND_ZERO && y.kind == SF_KIND_ZERO)
        return x.sign == y.sign ? sf_zero(f, x.sign) : zero_difference(f, rm);
    if (x.kind == SF_KIND_ZERO || y.kind == SF_KIND_ZERO)
        return pack_finite(f, x.kind == SF_KIND_ZERO ? y : x, rm, flags);
    return add_wide(f, widen(x), widen(y), rm, flags);
}

/* Negating a NaN changes neither whether it signals nor, as results are canonical, the result. */
SF_INLINE uint64_t soft_sub(const struct sf_format *f, uint64_t a, uint64_t b, enum sf_round rm,
                            uint8_t *flags)
{
    return soft_add(f, a, b ^ sf_zero(f, true), rm, flags);
}

SF_INLINE uint64_t soft_mul(const struct sf_format *f, uint64_t a, uint64_t b, enum sf_round rm,
                            uint8_t *flags)
{
    struct sf_value x = sf_unpack(f, a), y = sf_unpack(f, b);
    bool sign = x.sign != y.sign;

    if (sf_value_is_nan(x) || sf_value_is_nan(y))
        return nan_result(f, x.kind == SF_KIND_SIGNALLING || y.kind == SF_KIND_SIGNALLING, flags);
    if (x.kind == SF_KIND_INFINITE || y.kind == SF_KIND_INFINITE) {
        if (x.kind == SF_KIND_ZERO || y.kind == SF_KIND_ZERO)
            return sf_invalid(f, flags);
        return sf_infinity(f, sign);
    }
    if (x.kind == SF_KIND_ZERO || y.kind == SF_KIND_ZERO)
        return sf_zero(f, sign);

    sf_u128 product = (sf_u128)x.sig * y.sig; /* bit 126 or 127 is its highest */
    int carry = (int)(product >> 127);
    product <<= 1 - carry;
    return sf_round_pack(f, sign, x.exp + y.exp + carry, sf_high_sticky(product), rm, flags);
}

SF_INLINE uint64_t soft_div(const struct sf_format *f, uint64_t a, uint64_t b, enum sf_round rm,
                            uint8_t *flags)
{
    struct sf_value x = sf_unpack(f, a), y = sf_unpack(f, b);
    bool sign = x.sign != y.sign;

    if (sf_value_is_nan(x) || sf_value_is_nan(y))
        return nan_result(f, x.kind == SF_KIND_SIGNALLING || y.kind == SF_KIND_SIGNALLING, flags);
    if (x.kind == y.kind && x.kind != SF_KIND_FINITE) /* 0/0, inf/inf */
        return sf_invalid(f, flags);
    if (x.kind == SF_KIND_INFINITE)
        return sf_infinity(f, sign);
    if (x.kind == SF_KIND_ZERO || y.kind == SF_KIND_INFINITE)
        return sf_zero(f, sign);
    if (y.kind == SF_KIND_ZERO) {
        *flags |= SF_DZ;
        return sf_infinity(f, sign);
    }

    /* Scaled so that the quotient has exactly 64 bits. */
    bool less = x.sig < y.sig;
    sf_u128 dividend = (sf_u128)x.sig << (less ? 64 : 63);
    uint64_t quotient = (uint64_t)(dividend / y.sig);
    bool inexact = (sf_u128)quotient * y.sig != dividend;
    return sf_round_pack(f, sign, x.exp - y.exp - less, quotient | inexact, rm, flags);
}

SF_INLINE uint64_t soft_sqrt(const struct sf_format *f, uint64_t a, enum sf_round rm,
                             uint8_t *flags)
{
    struct sf_value x = sf_unpack(f, a);

    if (sf_value_is_nan(x))
        return nan_result(f, x.kind == SF_KIND_SIGNALLING, flags);
    if (x.kind == SF_KIND_ZERO)
        return sf_zero(f, x.sign);
    if (x.sign)
        return sf_invalid(f, flags);
    if (x.kind == SF_KIND_INFINITE)
        return sf_infinity(f, false);

    /* sig * 2^(exp - 63) = radicand * 2^(even - 126) with the radicand in [2^126, 2^128), so
     * its root has 64 bits. Of these the first `digits` are computed, one after the other
     * (try to set a bit; keep it if the square still fits); they include a guard bit, and
     * the remainder is the sticky bit. */
    bool odd = x.exp & 1;
    sf_u128 rest = (sf_u128)x.sig << (odd ? 64 : 63);
    const unsigned digits = f->frac_bits + 3;
    uint64_t root = 0;
    for (unsigned i = 0; i < digits; i++) {
        unsigned place = 63 - i;
        /* (root + 2^place)^2 - root^2 */
        sf_u128 step = ((sf_u128)root << (place + 1)) + ((sf_u128)1 << (2 * place));
        if (rest >= step) {
            rest -= step;
            root |= UINT64_C(1) << place;
        }
    }
    return sf_round_pack(f, false, (x.exp - odd) / 2, root | (rest != 0), rm, flags);
}

SF_INLINE uint64_t soft_fma(const struct sf_format *f, uint64_t a, uint64_t b, uint64_t c,
                            enum sf_round rm, uint8_t *flags)
{
    struct sf_value x = sf_unpack(f, a), y = sf_unpack(f, b), z = sf_unpack(f, c);
    bool sign = x.sign != y.sign;
    bool invalid_product = (x.kind == SF_KIND_INFINITE && y.kind == SF_KIND_ZERO) ||
                           (x.kind == SF_KIND_ZERO && y.kind == SF_KIND_INFINITE);

    if (sf_value_is_nan(x) || sf_value_is_nan(y) || sf_value_is_nan(z) || invalid_product) {
        bool signalling = x.kind == SF_KIND_SIGNALLING || y.kind == SF_KIND_SIGNALLING ||
                          z.kind == SF_KIND_SIGNALLING;
        return nan_result(f, signalling || invalid_product, flags);
    }
    if (x.kind == SF_KIND_INFINITE || y.kind == SF_KIND_INFINITE) {
        if (z.kind == SF_KIND_INFINITE && z.sign != sign)
            return sf_invalid(f, flags);
        return sf_infinity(f, sign);
    }
    if (z.kind == SF_KIND_INFINITE)
        return sf_infinity(f, z.sign);
    if (x.kind == SF_KIND_ZERO || y.kind == SF_KIND_ZERO) {
        if (z.kind == SF_KIND_FINITE)
            return pack_finite(f, z, rm, flags);
        return sign == z.sign ? sf_zero(f, sign) : zero_difference(f, rm);
    }

    /* Bit 0 of the product is zero: 2 * 11 bits at least were appended to the significands. */
    struct wide product = {sign, x.exp + y.exp + 1, (sf_u128)x.sig * y.sig >> 1};
    if (z.kind == SF_KIND_ZERO) {
        int shift = __builtin_clzll((uint64_t)(product.sig >> 64));
        return sf_round_pack(f, sign, product.exp + 1 - shift, sf_high_sticky(product.sig << shift),
                             rm, flags);
    }
    return add_wide(f, product, widen(z), rm, flags);
}

/* The public functions: the short cut, else the long way. The latter stays out of line, so that
 * the former needs no stack frame. */
#define LONG_WAY static __attribute__((noinline)) uint64_t

#define DEFINE_BINARY(name, op, F)                                                                 \
    LONG_WAY long_##name##_##F(uint64_t a, uint64_t b, enum sf_round rm, uint8_t *flags)           \
    {                                                                                              \
        return soft_##name(&sf_format_##F, a, b, rm, flags);                                       \
    }                                                                                              \
    uint64_t sf_##name##_##F(uint64_t a, uint64_t b, enum sf_round rm, uint8_t *flags)             \
    {                                                                                              \
        uint64_t result;                                                                           \
        if (LIKELY(host_shortcut(&sf_format_##F, op, a, b, 0, rm, flags, &result)))                \
            return result;                                                                         \
        return long_##name##_##F(a, b, rm, flags);                                                 \
    }

#define DEFINE_ARITHMETIC(F)                                                                       \
    DEFINE_BINARY(add, HOST_ADD, F)                                                                \
    DEFINE_BINARY(sub, HOST_SUB, F)                                                                \
    DEFINE_BINARY(mul, HOST_MUL, F)                                                                \
    DEFINE_BINARY(div, HOST_DIV, F)                                                                \
    LONG_WAY long_sqrt_##F(uint64_t a, enum sf_round rm, uint8_t *flags)                           \
    {                                                                                              \
        return soft_sqrt(&sf_format_##F, a, rm, flags);                                            \
    }                                                                                              \
    uint64_t sf_sqrt_##F(uint64_t a, enum sf_round rm, uint8_t *flags)                             \
    {                                                                                              \
        uint64_t result;                                                                           \
        if (LIKELY(host_shortcut(&sf_format_##F, HOST_SQRT, a, 0, 0, rm, flags, &result)))         \
            return result;                                                                         \
        return long_sqrt_##F(a, rm, flags);                                                        \
    }                                                                                              \
    LONG_WAY long_fma_##F(uint64_t a, uint64_t b, uint64_t c, enum sf_round rm, uint8_t *flags)    \
    {                                                                                              \
        return soft_fma(&sf_format_##F, a, b, c, rm, flags);                                       \
    }                                                                                              \
    uint64_t sf_fma_##F(uint64_t a, uint64_t b, uint64_t c, enum sf_round rm, uint8_t *flags)      \
    {                                                                                              \
        uint64_t result;                                                                           \
        if (LIKELY(host_shortcut(&sf_format_##F, HOST_FMA, a, b, c, rm, flags, &result)))          \
            return result;                                                                         \
        return long_fma_##F(a, b, c, rm, flags);                                                   \
    }

DEFINE_ARITHMETIC(f32)
DEFINE_ARITHMETIC(f64)
