/* SPDX-License-Identifier: MIT
 *
 * Soft-float against two independent judges over random operands, biased towards where
 * mistakes live (neighbouring exponents, subnormals, powers of two, ties, cancellation):
 * - exact arithmetic (sf_reference.h): all five rounding modes, finite operands;
 * - the host FPU through fenv: four modes, all operands.
 * Every case runs twice, without and with accrued flags: the long way and the short cut.
 */
#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/bits.h"
#include "unit/sf_reference.h"

enum op { ADD, SUB, MUL, DIV, SQRT, FMA, OPS };
static const char *const op_names[OPS] = {"add", "sub", "mul", "div", "sqrt", "fma"};
static const unsigned op_arity[OPS] = {2, 2, 2, 2, 1, 3};

/* ---- operands ---- */

static uint64_t random_next(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static unsigned cases(unsigned quick, unsigned full)
{
    const char *tier = getenv("TRAPEZE_TIER");
    return tier != NULL && strcmp(tier, "full") == 0 ? full : quick;
}

/* Fractions whose rounding is interesting: few bits, runs of ones, anything. */
static uint64_t random_fraction(uint64_t *state, int bits)
{
    uint64_t mask = (UINT64_C(1) << bits) - 1, random = random_next(state);
    unsigned a = (unsigned)random % (unsigned)bits, b = (unsigned)(random >> 8) % (unsigned)bits;

    switch (random >> 32 & 7) {
    case 0:
        return 0;
    case 1:
        return mask;
    case 2:
        return UINT64_C(1) << a;
    case 3:
        return (UINT64_C(1) << a | UINT64_C(1) << b) & mask;
    case 4:
        return (mask << a) & mask;
    case 5:
        return mask >> a;
    default:
        return random_next(state) & mask;
    }
}

static uint64_t random_operand(const struct ref_format *f, uint64_t *state, uint64_t near)
{
    int fraction_bits = f->precision - 1;
    uint64_t random = random_next(state);
    uint64_t field_max = 2 * (uint64_t)f->exp_max + 1, field;
    uint64_t near_field = near >> fraction_bits & field_max;

    switch (random >> 16 & 15) {
    case 0:
        field = 0;
        break;
    case 1:
        field = random % 4;
        break;
    case 2:
        field = field_max - random % 4; /* infinities and NaNs included */
        break;
    case 3:
    case 4:
    case 5:
        field = (uint64_t)f->exp_max - 4 + random % 8;
        break;
    case 6:
    case 7:
    case 8: /* near another operand: alignment and cancellation */
        field = near_field + random % 8 - 4;
        break;
    case 9: /* the product or quotient with `near` is at the edge of the normal range */
        field = (uint64_t)f->exp_max - near_field + random % 4;
        break;
    case 10:
        field = (uint64_t)f->exp_max + random % 70 - 3; /* integers */
        break;
    default:
        field = random;
    }
    return (random >> 63) << (f->width - 1) | (field & field_max) << fraction_bits |
           random_fraction(state, fraction_bits);
}

static bool is_finite(const struct ref_format *f, uint64_t bits)
{
    uint64_t field_max = 2 * (uint64_t)f->exp_max + 1;
    return (bits >> (f->precision - 1) & field_max) != field_max;
}

static bool is_nan(const struct ref_format *f, uint64_t bits)
{
    return !is_finite(f, bits) && (bits & ((UINT64_C(1) << (f->precision - 1)) - 1)) != 0;
}

static bool is_zero(const struct ref_format *f, uint64_t bits)
{
    return (bits & (~UINT64_C(0) >> (65 - f->width))) == 0;
}

/* ---- the three implementations ---- */

static uint64_t ours(const struct ref_format *f, enum op op, const uint64_t *x, enum sf_round rm,
                     uint8_t *flags)
{
    bool single = f == &ref_f32;

    switch (op) {
    case ADD:
        return (single ? sf_add_f32 : sf_add_f64)(x[0], x[1], rm, flags);
    case SUB:
        return (single ? sf_sub_f32 : sf_sub_f64)(x[0], x[1], rm, flags);
    case MUL:
        return (single ? sf_mul_f32 : sf_mul_f64)(x[0], x[1], rm, flags);
    case DIV:
        return (single ? sf_div_f32 : sf_div_f64)(x[0], x[1], rm, flags);
    case SQRT:
        return (single ? sf_sqrt_f32 : sf_sqrt_f64)(x[0], rm, flags);
    case FMA:
        return (single ? sf_fma_f32 : sf_fma_f64)(x[0], x[1], x[2], rm, flags);
    case OPS:
        break;
    }
    abort();
}

/* False: the operation is not one on finite numbers with a finite exact result. */
static bool exact(const struct ref_format *f, enum op op, const uint64_t *x, enum sf_round rm,
                  uint64_t *result, uint8_t *flags)
{
    struct ref_number r, addend;
    bool sign_product = ref_sign(f, x[0]) != ref_sign(f, x[1]), zero_sign = false;
    bool down = rm == SF_RDN;

    for (unsigned i = 0; i < op_arity[op]; i++)
        if (!is_finite(f, x[i]))
            return false;
    switch (op) {
    case ADD:
    case SUB: {
        uint64_t y = x[1] ^ (uint64_t)(op == SUB) << (f->width - 1);
        ref_from(f, x[0], &r);
        ref_from(f, y, &addend);
        ref_accumulate(&r, &addend);
        zero_sign = ref_sign(f, x[0]) == ref_sign(f, y) ? ref_sign(f, y) : down;
        break;
    }
    case MUL:
        ref_product(f, x[0], x[1], &r);
        zero_sign = sign_product;
        break;
    case DIV:
        if (is_zero(f, x[1]))
            return false;
        ref_quotient(f, x[0], x[1], &r);
        zero_sign = sign_product;
        break;
    case SQRT:
        if (ref_sign(f, x[0]) && !is_zero(f, x[0]))
            return false;
        ref_root(f, x[0], &r);
        zero_sign = ref_sign(f, x[0]);
        break;
    case FMA:
        ref_product(f, x[0], x[1], &r);
        ref_from(f, x[2], &addend);
        ref_accumulate(&r, &addend);
        zero_sign = sign_product == ref_sign(f, x[2]) ? sign_product : down;
        break;
    case OPS:
        abort();
    }
    *result = ref_round(f, &r, zero_sign, rm, flags);
    return true;
}

static uint8_t host_flags(void)
{
    int raised = fetestexcept(FE_ALL_EXCEPT);
    return (uint8_t)((raised & FE_INVALID ? SF_NV : 0) | (raised & FE_DIVBYZERO ? SF_DZ : 0) |
                     (raised & FE_OVERFLOW ? SF_OF : 0) | (raised & FE_UNDERFLOW ? SF_UF : 0) |
                     (raised & FE_INEXACT ? SF_NX : 0));
}

static const int host_modes[] = {
    [SF_RNE] = FE_TONEAREST,
    [SF_RTZ] = FE_TOWARDZERO,
    [SF_RDN] = FE_DOWNWARD,
    [SF_RUP] = FE_UPWARD,
};

/* volatile keeps each operation between the calls that set the mode and read the flags. */
#define DEFINE_HOST(name, type, bits_type, sqrt_function, fma_function)                            \
    static uint64_t name(enum op op, const uint64_t *operands)                                     \
    {                                                                                              \
        volatile type x[3], result = 0;                                                            \
        for (int i = 0; i < 3; i++) {                                                              \
            bits_type bits = (bits_type)operands[i];                                               \
            memcpy((void *)(uintptr_t)&x[i], &bits, sizeof(bits));                                 \
        }                                                                                          \
        switch (op) {                                                                              \
        case ADD:                                                                                  \
            result = x[0] + x[1];                                                                  \
            break;                                                                                 \
        case SUB:                                                                                  \
            result = x[0] - x[1];                                                                  \
            break;                                                                                 \
        case MUL:                                                                                  \
            result = x[0] * x[1];                                                                  \
            break;                                                                                 \
        case DIV:                                                                                  \
            result = x[0] / x[1];                                                                  \
            break;                                                                                 \
        case SQRT:                                                                                 \
            result = sqrt_function(x[0]);                                                          \
            break;                                                                                 \
        case FMA:                                                                                  \
            result = fma_function(x[0], x[1], x[2]);                                               \
            break;                                                                                 \
        case OPS:                                                                                  \
            abort();                                                                               \
        }                                                                                          \
        bits_type result_bits;                                                                     \
        memcpy(&result_bits, (const void *)(uintptr_t)&result, sizeof(result_bits));               \
        return result_bits;                                                                        \
    }
DEFINE_HOST(host_f32, float, uint32_t, sqrtf, fmaf)
DEFINE_HOST(host_f64, double, uint64_t, sqrt, fma)

/* ---- the comparison ---- */

static void check(const struct ref_format *f, enum op op, const uint64_t *x, enum sf_round rm,
                  const char *judge, uint64_t result, uint8_t flags)
{
    static const uint8_t accrued[] = {0, SF_NX, SF_NX | SF_UF | SF_OF | SF_DZ | SF_NV};

    for (size_t i = 0; i < ARRAY_SIZE(accrued); i++) {
        uint8_t our_flags = accrued[i];
        uint64_t our_result = ours(f, op, x, rm, &our_flags);
        if (our_result == result && our_flags == (accrued[i] | flags))
            continue;
        fail_msg("%s.%d rm=%d flags=%02x: %#llx %#llx %#llx: got %#llx flags %02x, %s says %#llx "
                 "flags %02x",
                 op_names[op], f->width, (int)rm, accrued[i], (unsigned long long)x[0],
                 (unsigned long long)x[1], (unsigned long long)x[2], (unsigned long long)our_result,
                 our_flags, judge, (unsigned long long)result, flags);
    }
}

static void random_operands(const struct ref_format *f, uint64_t *state, uint64_t *x)
{
    x[0] = random_operand(f, state, 0);
    x[1] = random_operand(f, state, x[0]);
    x[2] = random_operand(f, state, x[random_next(state) & 1]);
}

/* For fma: an addend that cancels the product but for its last bits, or is a tie away. */
static void cancel_product(const struct ref_format *f, uint64_t *state, uint64_t *x)
{
    uint8_t ignored = 0;
    uint64_t product;
    uint64_t sign = UINT64_C(1) << (f->width - 1);

    if (exact(f, MUL, x, SF_RNE, &product, &ignored))
        x[2] = (product ^ sign) + random_next(state) % 3 - 1;
    x[2] &= ~UINT64_C(0) >> (64 - f->width);
}

static void test_exact(void **unused)
{
    uint64_t state = 1;
    unsigned count = cases(60000, 1500000);
    (void)unused;

    for (int width = 0; width < 2; width++) {
        const struct ref_format *f = width ? &ref_f64 : &ref_f32;
        for (unsigned i = 0; i < count; i++) {
            uint64_t x[3], result;
            random_operands(f, &state, x);
            if (i % 4 == 0)
                cancel_product(f, &state, x);
            enum sf_round rm = (enum sf_round)(random_next(&state) % 5);
            for (enum op op = ADD; op < OPS; op++) {
                uint8_t flags = 0;
                if (exact(f, op, x, rm, &result, &flags))
                    check(f, op, x, rm, "exact arithmetic", result, flags);
            }
        }
    }
}

static bool host_has_fma(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("fma"); /* else libm emulates it, not its flags */
#else
    return true;
#endif
}

/* IEEE 754 leaves to the implementation when tininess is detected (x86: after rounding, as
 * RISC-V) and whether infinity times zero plus a quiet NaN is invalid (x86: no). */
static bool host_comparable(const struct ref_format *f, enum op op, const uint64_t *x)
{
#if !defined(__x86_64__)
    return false;
#endif
    if (op != FMA)
        return true;
    return host_has_fma() && !is_nan(f, x[2]);
}

static void test_host(void **unused)
{
    uint64_t state = 2;
    unsigned count = cases(60000, 3000000);
    (void)unused;

    for (int width = 0; width < 2; width++) {
        const struct ref_format *f = width ? &ref_f64 : &ref_f32;
        for (unsigned i = 0; i < count; i++) {
            uint64_t x[3];
            random_operands(f, &state, x);
            enum sf_round rm = (enum sf_round)(random_next(&state) % 4);
            for (enum op op = ADD; op < OPS; op++) {
                if (!host_comparable(f, op, x))
                    continue;
                fesetround(host_modes[rm]);
                feclearexcept(FE_ALL_EXCEPT);
                uint64_t result = (width ? host_f64 : host_f32)(op, x);
                uint8_t flags = host_flags();
                fesetround(FE_TONEAREST);
                if (is_nan(f, result))
                    result = width ? SF_NAN_F64 : SF_NAN_F32;
                check(f, op, x, rm, "the host", result, flags);
            }
        }
    }
}

/* ---- conversions ---- */

static void expect(const char *what, uint64_t operand, enum sf_round rm, uint64_t got,
                   uint8_t got_flags, uint64_t wanted, uint8_t wanted_flags)
{
    if (got == wanted && got_flags == wanted_flags)
        return;
    fail_msg("%s rm=%d %#llx: got %#llx flags %02x, exact arithmetic says %#llx flags %02x", what,
             (int)rm, (unsigned long long)operand, (unsigned long long)got, got_flags,
             (unsigned long long)wanted, wanted_flags);
}

static void check_to_int(const struct ref_format *f, uint64_t x, enum sf_int type, enum sf_round rm)
{
    static const char *const names[] = {"to i32", "to u32", "to i64", "to u64"};
    __extension__ typedef __int128 wide;
    const wide least[] = {INT32_MIN, 0, INT64_MIN, 0};
    const wide greatest[] = {INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX};
    struct ref_number r;
    bool inexact = false;

    ref_from(f, x, &r);
    wide value = ref_top(&r) >= 64 ? (wide)1 << 100 : (wide)ref_round_to_unit(&r, 0, rm, &inexact);
    if (r.sign)
        value = -value;
    uint8_t wanted_flags = inexact ? SF_NX : 0, flags = 0;
    if (value < least[type] || value > greatest[type]) {
        wanted_flags = SF_NV;
        value = value < least[type] ? least[type] : greatest[type];
    }
    uint64_t wanted =
        type <= SF_U32 ? (uint64_t)(int64_t)(int32_t)(uint32_t)value : (uint64_t)value;
    uint64_t got = (f == &ref_f32 ? sf_to_int_f32 : sf_to_int_f64)(x, type, rm, &flags);
    expect(names[type], x, rm, got, flags, wanted, wanted_flags);
}

static void check_from_int(const struct ref_format *f, uint64_t x, enum sf_int type,
                           enum sf_round rm)
{
    static const char *const names[] = {"from i32", "from u32", "from i64", "from u64"};
    struct ref_number r;
    uint8_t wanted_flags = 0, flags = 0;
    uint64_t magnitude = type == SF_I32   ? (uint64_t)(int64_t)(int32_t)(uint32_t)x
                         : type == SF_U32 ? (uint32_t)x
                                          : x;

    memset(&r, 0, sizeof(r));
    if ((type == SF_I32 || type == SF_I64) && (int64_t)magnitude < 0) {
        r.sign = true;
        magnitude = 0 - magnitude;
    }
    ref_or(&r, magnitude, 0);
    uint64_t wanted = ref_round(f, &r, false, rm, &wanted_flags);
    uint64_t got = (f == &ref_f32 ? sf_from_int_f32 : sf_from_int_f64)(x, type, rm, &flags);
    expect(names[type], x, rm, got, flags, wanted, wanted_flags);
}

static void test_conversions(void **unused)
{
    uint64_t state = 3;
    unsigned count = cases(60000, 1500000);
    (void)unused;

    for (unsigned i = 0; i < count; i++) {
        uint64_t single = random_operand(&ref_f32, &state, 0);
        uint64_t twice = random_operand(&ref_f64, &state, 0);
        uint64_t integer = random_fraction(&state, 63) << (i & 1);
        enum sf_round rm = (enum sf_round)(random_next(&state) % 5);
        struct ref_number r;

        integer >>= random_next(&state) & 63;
        if (random_next(&state) & 1)
            integer = -integer;
        for (enum sf_int type = SF_I32; type <= SF_U64; type++) {
            check_from_int(&ref_f32, integer, type, rm);
            check_from_int(&ref_f64, integer, type, rm);
            if (is_finite(&ref_f32, single))
                check_to_int(&ref_f32, single, type, rm);
            if (is_finite(&ref_f64, twice))
                check_to_int(&ref_f64, twice, type, rm);
        }
        if (is_finite(&ref_f64, twice)) {
            uint8_t flags = 0, wanted_flags = 0;
            ref_from(&ref_f64, twice, &r);
            uint64_t wanted = ref_round(&ref_f32, &r, r.sign, rm, &wanted_flags);
            uint64_t got = sf_f64_to_f32(twice, rm, &flags);
            expect("f64 to f32", twice, rm, got, flags, wanted, wanted_flags);
        }
        if (is_finite(&ref_f32, single)) {
            uint8_t flags = 0, wanted_flags = 0;
            ref_from(&ref_f32, single, &r);
            uint64_t wanted = ref_round(&ref_f64, &r, r.sign, rm, &wanted_flags);
            uint64_t got = sf_f32_to_f64(single, &flags);
            expect("f32 to f64", single, rm, got, flags, wanted, wanted_flags);
        }
    }
}

/* ---- comparisons, against the host's ---- */

static double host_double(const struct ref_format *f, uint64_t bits)
{
    if (f == &ref_f32) {
        uint32_t low = (uint32_t)bits;
        float value;
        memcpy(&value, &low, sizeof(value));
        return (double)value;
    }
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static void check_compare(const struct ref_format *f, uint64_t a, uint64_t b)
{
    bool single = f == &ref_f32;
    double x = host_double(f, a), y = host_double(f, b);
    uint64_t quiet = UINT64_C(1) << (f->precision - 2);
    bool signalling = (is_nan(f, a) && !(a & quiet)) || (is_nan(f, b) && !(b & quiet));
    uint8_t quiet_flags = signalling ? SF_NV : 0;
    uint8_t nan_flags = is_nan(f, a) || is_nan(f, b) ? SF_NV : 0;
    uint8_t flags;

    flags = 0;
    assert_int_equal((single ? sf_eq_f32 : sf_eq_f64)(a, b, &flags), x == y);
    assert_int_equal(flags, quiet_flags);
    flags = 0;
    assert_int_equal((single ? sf_lt_f32 : sf_lt_f64)(a, b, &flags), isless(x, y));
    assert_int_equal(flags, nan_flags);
    flags = 0;
    assert_int_equal((single ? sf_le_f32 : sf_le_f64)(a, b, &flags), islessequal(x, y));
    assert_int_equal(flags, nan_flags);

    /* minimum: the smaller one; of equal zeros the negative; of number and NaN the number. */
    bool a_first = isless(x, y) || (x == y && signbit(x)) || is_nan(f, b);
    bool no_number = is_nan(f, a) && is_nan(f, b);
    uint64_t nan = single ? SF_NAN_F32 : SF_NAN_F64;
    if (is_nan(f, a))
        a_first = false;
    flags = 0;
    assert_int_equal((single ? sf_min_f32 : sf_min_f64)(a, b, &flags), no_number ? nan
                                                                       : a_first ? a
                                                                                 : b);
    assert_int_equal(flags, quiet_flags);
    if (nan_flags == 0)
        a_first = !a_first;
    flags = 0;
    assert_int_equal((single ? sf_max_f32 : sf_max_f64)(a, b, &flags), no_number ? nan
                                                                       : a_first ? a
                                                                                 : b);
    assert_int_equal(flags, quiet_flags);
}

static void test_comparisons(void **unused)
{
    uint64_t state = 4;
    unsigned count = cases(200000, 3000000);
    (void)unused;

    for (unsigned i = 0; i < count; i++) {
        for (int width = 0; width < 2; width++) {
            const struct ref_format *f = width ? &ref_f64 : &ref_f32;
            uint64_t sign = UINT64_C(1) << (f->width - 1);
            uint64_t x[3];
            random_operands(f, &state, x);
            check_compare(f, x[0], x[1]);
            check_compare(f, x[0], x[0] ^ sign);
            check_compare(f, x[0], x[0]);
            check_compare(f, x[0], x[0] ^ 1);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_conversions),
        cmocka_unit_test(test_comparisons),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
