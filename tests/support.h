/* SPDX-License-Identifier: MIT
 *
 * What test programs share; include it first. cmocka wants its four headers in this order.
 */
#ifndef TRAPEZE_TESTS_SUPPORT_H
#define TRAPEZE_TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/state.h"

/* In place of cmocka's, which says "not ok" of what was skipped: a failure to Meson. To be used in the
 * case itself; scripts/count_tests.py counts by what it prints. */
#undef skip
#define skip()                                                                                     \
    do {                                                                                           \
        print_message("# SKIP %s\n", __func__);                                                    \
        return;                                                                                    \
    } while (0)

/* How many random cases to try in this tier (see scripts/test.sh). */
static inline unsigned long tier_count(unsigned long quick, unsigned long full)
{
    const char *tier = getenv("TRAPEZE_TIER");
    return tier && strcmp(tier, "full") == 0 ? full : quick;
}

/* splitmix64: every case is made from a seed that a failure message can name. */
static inline uint64_t random_next(uint64_t *seed)
{
    uint64_t z = (*seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Fails the test if *err is set, showing its message. */
static inline void assert_no_error(struct error *err)
{
    if (err)
        fail_msg("unexpected error: %s", error_message(err));
}

/* Asserts that the error is set, is of this kind and mentions `part`; frees and clears it. */
static inline void assert_error(struct error **err, enum error_kind kind, const char *part)
{
    assert_non_null(*err);
    assert_int_equal(error_kind(*err), kind);
    if (!strstr(error_message(*err), part))
        fail_msg("error '%s' does not mention '%s'", error_message(*err), part);
    error_free(*err);
    *err = NULL;
}

/* The rule that every state table keeps: save, restore into `blank` (an object just made),
 * save again, and the bytes are the same; and no truncated stream is accepted. The blank
 * object is restored last from the whole stream. */
static inline void assert_state_round_trip(const struct state_table *table, void *object,
                                           void *blank)
{
    struct error *err = NULL;
    struct state_buffer first = {0}, second = {0};
    state_save(table, object, &first);
    for (size_t size = 0; size < first.size; size++) {
        size_t at = 0;
        assert_false(state_restore(table, blank, first.data, size, &at, &err));
        assert_non_null(err);
        assert_int_equal(at, 0);
        error_free(err);
        err = NULL;
    }
    size_t at = 0;
    bool restored = state_restore(table, blank, first.data, first.size, &at, &err);
    assert_no_error(err);
    assert_true(restored);
    assert_int_equal(at, first.size);
    state_save(table, blank, &second);
    assert_int_equal(second.size, first.size);
    assert_memory_equal(second.data, first.data, first.size);
    state_buffer_free(&first);
    state_buffer_free(&second);
}

#endif
