/* SPDX-License-Identifier: MIT
 *
 * base/error.h: one string that grows at both ends.
 */
#include "support.h"

#include <errno.h>

static void context_and_hint_frame_the_cause(void **state)
{
    (void)state;
    struct error *err = NULL;
    assert_false(error_set_errno(&err, ENOENT, "cannot open it"));
    error_prefix(&err, "disk '%s'", "a.img");
    error_hint(&err, "Check the %s", "path");
    error_prefix(&err, "run");
    assert_string_equal(error_message(err),
                        "run: disk 'a.img': cannot open it: No such file or directory. "
                        "Check the path");
    assert_int_equal(error_kind(err), ERROR_HOST);
    error_free(err);
}

static void a_terminal_obeys_nothing_of_it(void **state)
{
    (void)state;
    struct error *err = NULL;
    error_set(&err, ERROR_HOST, "disk '%s'", "a\033[2J\nb\x7f\t");
    error_prefix(&err, "\r%s",
                 "\xc2\x9b"
                 "31m");
    error_hint(&err, "%s",
               "gr\xc3\xbc\xc3\x9f"
               "e \xe2\x80\x9c\xc2\xa7\a");
    assert_string_equal(error_message(err), "???31m: disk 'a?[2J?b?\?'. "
                                            "gr\xc3\xbc\xc3\x9f"
                                            "e \xe2\x80\x9c\xc2\xa7?");
    error_free(err);
}

static void hint_does_not_double_the_full_stop(void **state)
{
    (void)state;
    struct error *err = NULL;
    error_set(&err, ERROR_USAGE, "That makes no sense.");
    error_hint(&err, "Try less");
    assert_string_equal(error_message(err), "That makes no sense. Try less");
    assert_int_equal(error_kind(err), ERROR_USAGE);
    error_free(err);
}

static void nobody_cares(void **state)
{
    (void)state;
    assert_false(error_set(NULL, ERROR_USAGE, "x"));
    assert_false(error_set_errno(NULL, EIO, "x"));
    error_prefix(NULL, "x");
    error_hint(NULL, "x");
    struct error *err = NULL;
    error_prefix(&err, "x");
    error_hint(&err, "x");
    assert_null(err);
    error_free(NULL);
}

static void propagate_hands_over_or_frees(void **state)
{
    (void)state;
    struct error *inner = NULL, *outer = NULL;
    error_set(&inner, ERROR_INTERNAL, "inner");
    assert_false(error_propagate(&outer, inner));
    assert_ptr_equal(outer, inner);
    assert_error(&outer, ERROR_INTERNAL, "inner");
}

static void propagate_to_nobody_frees(void **state)
{
    (void)state;
    struct error *err = NULL;
    error_set(&err, ERROR_INTERNAL, "leaks unless freed: the sanitizer run tells");
    assert_false(error_propagate(NULL, err));
}

static void long_messages_are_kept_whole(void **state)
{
    (void)state;
    struct error *err = NULL;
    error_set(&err, ERROR_USAGE, "%5000d", 7);
    for (int i = 0; i < 50; i++)
        error_prefix(&err, "%100s", "c");
    assert_int_equal(strlen(error_message(err)), 5000 + 50 * 102);
    error_free(err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(context_and_hint_frame_the_cause),
        cmocka_unit_test(a_terminal_obeys_nothing_of_it),
        cmocka_unit_test(hint_does_not_double_the_full_stop),
        cmocka_unit_test(nobody_cares),
        cmocka_unit_test(propagate_hands_over_or_frees),
        cmocka_unit_test(propagate_to_nobody_frees),
        cmocka_unit_test(long_messages_are_kept_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
