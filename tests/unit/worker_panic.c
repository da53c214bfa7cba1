/* SPDX-License-Identifier: MIT
 *
 * The panic watcher: whatever pieces a line comes in; nothing but a kernel's own line counts.
 */
#include "support.h"

#include <string.h>

#include "worker/panic.h"

/* Feeds the text in pieces of every size; true if each way found the panic exactly once. */
static int count_found(const char *text, size_t piece, struct panic_watcher *watcher)
{
    int found = 0;
    size_t length = strlen(text);
    memset(watcher, 0, sizeof(*watcher));
    for (size_t at = 0; at < length; at += piece)
        found += panic_watch(watcher, (const uint8_t *)text + at,
                             length - at < piece ? length - at : piece);
    return found;
}

static void test_lines(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int found;
    } cases[] = {
        {"[    1.234567] Kernel panic - not syncing: VFS\r\n", 1},
        {"[    1.234567][    T1] Kernel panic - not syncing: VFS\r\n", 1},
        {"Kernel panic - not syncing: no timestamps\n", 1},
        {"boot\r\n[ 1.0] Kernel panic - not syncing: a\n[ 1.1] Kernel panic - not syncing: b\n", 1},
        {"grep says: Kernel panic - not syncing: x\n", 0},
        {"[ 1.0] ---[ end Kernel panic - not syncing: x ]---\n", 0},
        {"Kernel panic - not syncing: unfinished line", 0},
        {"Kernel panic\n", 0},
        {"[    1.2\nKernel panicked\n", 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (size_t piece = 1; piece < 70; piece++) {
            struct panic_watcher watcher;
            assert_int_equal(count_found(cases[i].text, piece, &watcher), cases[i].found);
            if (cases[i].found)
                assert_ptr_equal(strstr(watcher.found, "Kernel panic"), watcher.found);
        }
}

static void test_endless_line(void **state)
{
    (void)state;
    struct panic_watcher watcher = {0};
    for (int i = 0; i < 10000; i++)
        assert_false(panic_watch(&watcher, (const uint8_t *)"aaaaaaaaaaaaaaaaaaaaaaaaaa", 26));
    assert_false(panic_watch(&watcher, (const uint8_t *)"\n", 1));
    assert_true(panic_watch(&watcher, (const uint8_t *)"Kernel panic - not syncing\n", 27));
}

/* The line is shown on the user's terminal, which must not obey a guest. */
static void test_control_characters(void **state)
{
    (void)state;
    struct panic_watcher watcher;
    assert_int_equal(count_found("Kernel panic - not syncing: \033[31m\007\n", 100, &watcher), 1);
    assert_string_equal(watcher.found, "Kernel panic - not syncing: ?[31m?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_endless_line),
        cmocka_unit_test(test_control_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
