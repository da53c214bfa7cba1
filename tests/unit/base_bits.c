/* SPDX-License-Identifier: MIT
 *
 * base/bits.h against the slow way of saying the same, and base/alloc.h.
 */
#include "support.h"

#include "base/alloc.h"
#include "base/bits.h"

static void fields_match_bit_by_bit(void **state)
{
    (void)state;
    uint64_t seed = 3;
    for (unsigned low = 0; low < 64; low++) {
        for (unsigned length = 1; length <= 64 - low; length++) {
            uint64_t value = random_next(&seed), field = random_next(&seed);
            uint64_t got = bits_get(value, low, length);
            uint64_t set = bits_set(value, low, length, field);
            for (unsigned bit = 0; bit < 64; bit++) {
                uint64_t in_got = bit < length ? value >> (low + bit) & 1 : 0;
                assert_int_equal(got >> bit & 1, in_got);
                bool inside = bit >= low && bit - low < length;
                uint64_t in_set = inside ? field >> (bit - low) & 1 : value >> bit & 1;
                assert_int_equal(set >> bit & 1, in_set);
            }
        }
    }
}

static void sign_extension(void **state)
{
    (void)state;
    assert_int_equal(sign_extend(0x800, 12), -2048);
    assert_int_equal(sign_extend(0x7ff, 12), 2047);
    assert_int_equal(sign_extend(UINT64_C(0xffffffff00000001), 32), 1);
    assert_int_equal(sign_extend(1, 1), -1);
    assert_int_equal(sign_extend(UINT64_MAX, 64), -1);
    assert_int_equal(sign_extend(UINT64_C(1) << 63, 64), INT64_MIN);
}

static void alignment_and_ranges(void **state)
{
    (void)state;
    assert_int_equal(align_down(0x1fff, 0x1000), 0x1000);
    assert_int_equal(align_up(0x1001, 0x1000), 0x2000);
    assert_int_equal(align_up(0x1000, 0x1000), 0x1000);
    assert_true(is_power_of_two(1) && is_power_of_two(UINT64_C(1) << 63));
    assert_false(is_power_of_two(0) || is_power_of_two(3));

    assert_true(range_within(0, 10, 10));
    assert_true(range_within(10, 0, 10));
    assert_true(range_within(0, 0, 0));
    assert_false(range_within(1, 10, 10));
    assert_false(range_within(11, 0, 10));
    assert_false(range_within(UINT64_MAX, 2, 10));
    assert_false(range_within(2, UINT64_MAX, 10));
    assert_true(range_within(0, UINT64_MAX, UINT64_MAX));
}

static void little_endian_at_any_address(void **state)
{
    (void)state;
    for (unsigned shift = 0; shift < 8; shift++) {
        uint8_t bytes[16] = {0};
        store_le64(bytes + shift, UINT64_C(0x0807060504030201));
        for (unsigned i = 0; i < 16; i++)
            assert_int_equal(bytes[i], i >= shift && i < shift + 8 ? i - shift + 1 : 0);
        assert_int_equal(load_le64(bytes + shift), UINT64_C(0x0807060504030201));
        assert_int_equal(load_le32(bytes + shift + 1), 0x05040302);
        assert_int_equal(load_le16(bytes + shift + 6), 0x0807);
        store_le16(bytes + shift, 0xaabb);
        store_le32(bytes + shift + 3, 0xccddeeff);
        assert_int_equal(load_le64(bytes + shift), UINT64_C(0x08ccddeeff03aabb));
    }
}

static void allocations_are_zero_and_never_null(void **state)
{
    (void)state;
    uint8_t *bytes = alloc_zeroed(100, 3);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(bytes[i], 0);
    memset(bytes, 7, 300);
    bytes = alloc_resize(bytes, 1000, 2);
    assert_int_equal(bytes[299], 7);
    free(bytes);
    free(alloc_zeroed(0, 8));
    free(alloc_zeroed(8, 0));
    free(alloc_resize(NULL, 0, 8));
    char *text = alloc_string("text");
    assert_string_equal(text, "text");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_match_bit_by_bit),
        cmocka_unit_test(sign_extension),
        cmocka_unit_test(alignment_and_ranges),
        cmocka_unit_test(little_endian_at_any_address),
        cmocka_unit_test(allocations_are_zero_and_never_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
