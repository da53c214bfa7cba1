/* SPDX-License-Identifier: MIT
 *
 * base/log.h: lines through a pipe, as a reader of the log sees them.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"

struct fixture {
    int read_fd, write_fd;
    struct log log;
    char text[1 << 16];
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    int ends[2];
    if (!fixture || pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return -1;
    fixture->read_fd = ends[0];
    fixture->write_fd = ends[1];
    log_init(&fixture->log, LOG_LEVEL_INFO, ends[1], "vm");
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    close(fixture->read_fd);
    close(fixture->write_fd);
    free(fixture);
    return 0;
}

/* Everything written since the last call. */
static const char *take_text(struct fixture *fixture)
{
    ssize_t length = read(fixture->read_fd, fixture->text, sizeof(fixture->text) - 1);
    fixture->text[length > 0 ? length : 0] = '\0';
    return fixture->text;
}

static unsigned count_lines(const char *text)
{
    unsigned lines = 0;
    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

static void levels_have_words_and_a_threshold(void **state)
{
    struct fixture *fixture = *state;
    log_error(&fixture->log, "disk %d", 1);
    log_warning(&fixture->log, "two");
    log_info(&fixture->log, "three");
    log_debug(&fixture->log, "four");
    assert_string_equal(take_text(fixture), "vm: error: disk 1\nvm: warning: two\nvm: three\n");
    log_init(&fixture->log, LOG_LEVEL_ERROR, fixture->write_fd, NULL);
    log_error(&fixture->log, "nameless");
    log_warning(&fixture->log, "left out");
    assert_string_equal(take_text(fixture), "error: nameless\n");
}

static void raw_terminals_get_carriage_returns(void **state)
{
    struct fixture *fixture = *state;
    fixture->log.raw_terminal = true;
    log_info(&fixture->log, "x");
    assert_string_equal(take_text(fixture), "vm: x\r\n");
}

static void control_characters_do_not_reach_the_terminal(void **state)
{
    struct fixture *fixture = *state;
    log_info(&fixture->log, "a%sb\nc\x7f", "\x1b[2J");
    assert_string_equal(take_text(fixture), "vm: a?[2Jb?c?\n");
}

static void long_lines_are_cut_and_say_so(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned length = 1000; length < 1040; length++) {
        char text[1100];
        memset(text, 'x', length);
        text[length] = '\0';
        log_info(&fixture->log, "%s", text);
        const char *line = take_text(fixture);
        size_t end = strlen(line);
        assert_int_equal(count_lines(line), 1);
        assert_int_equal(line[end - 1], '\n');
        /* A line has 1023 bytes and its end; "vm: " is four of them. */
        bool cut = length > 1019;
        assert_int_equal(end, cut ? 1024 : length + 5);
        assert_int_equal(strcmp(line + end - 4, "...\n") == 0, cut);
    }
}

static void logging_keeps_errno_and_survives_a_closed_reader(void **state)
{
    struct fixture *fixture = *state;
    errno = ENOTTY;
    log_info(&fixture->log, "x");
    assert_int_equal(errno, ENOTTY);
    fixture->log.fd = -1;
    log_info(&fixture->log, "nowhere");
    assert_int_equal(errno, ENOTTY);
}

static void guest_messages_are_limited_and_counted(void **state)
{
    struct fixture *fixture = *state;
    struct log_limit limit = {0};
    for (int i = 0; i < 100; i++)
        log_guest(&fixture->log, &limit, "odd");
    assert_int_equal(count_lines(take_text(fixture)), 8);

    /* As if the window had begun long ago: the next one opens, and tells what was left out. */
    atomic_store(&limit.window_start_ns, 1);
    atomic_store(&limit.count, 100);
    log_guest(&fixture->log, &limit, "odd %d", 2);
    assert_string_equal(take_text(fixture),
                        "vm: warning: 92 more lines like the next one were left out\n"
                        "vm: warning: odd 2\n");
    for (int i = 0; i < 100; i++)
        log_guest(&fixture->log, &limit, "odd");
    assert_int_equal(count_lines(take_text(fixture)), 7);

    struct log_limit other = {0};
    log_guest(&fixture->log, &other, "another message has its own limit");
    assert_int_equal(count_lines(take_text(fixture)), 1);

    fixture->log.level = LOG_LEVEL_ERROR;
    struct log_limit quiet = {0};
    log_guest(&fixture->log, &quiet, "not shown");
    assert_string_equal(take_text(fixture), "");
}

struct shouter {
    struct log *log;
    struct log_limit *limit;
    char letter;
};

static void *shout(void *opaque)
{
    struct shouter *shouter = opaque;
    char text[200];
    memset(text, shouter->letter, sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int i = 0; i < 50; i++) {
        log_info(shouter->log, "%s", text);
        log_guest(shouter->log, shouter->limit, "%s", text);
    }
    return NULL;
}

static void threads_do_not_mix_lines(void **state)
{
    struct fixture *fixture = *state;
    enum { THREADS = 4 };
    struct log_limit limit = {0};
    pthread_t threads[THREADS];
    struct shouter shouters[THREADS];
    for (int i = 0; i < THREADS; i++) {
        shouters[i] = (struct shouter){&fixture->log, &limit, (char)('a' + i)};
        assert_int_equal(pthread_create(&threads[i], NULL, shout, &shouters[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    const char *text = take_text(fixture);
    assert_int_equal(count_lines(text), THREADS * 50 + 8);
    while (*text) {
        const char *end = strchr(text, '\n');
        for (const char *c = end - 199; c < end; c++)
            assert_int_equal(*c, end[-1]);
        text = end + 1;
    }
}

static void files_get_the_time(void **state)
{
    struct fixture *fixture = *state;
    FILE *file = tmpfile();
    assert_non_null(file);
    int fd = fileno(file);
    struct timespec before, after; /* time() is behind by up to a tick */
    clock_gettime(CLOCK_REALTIME, &before);
    log_init(&fixture->log, LOG_LEVEL_INFO, fd, "vm");
    log_info(&fixture->log, "three");
    clock_gettime(CLOCK_REALTIME, &after);
    ssize_t length = pread(fd, fixture->text, sizeof(fixture->text) - 1, 0);
    assert_true(length > 0);
    fixture->text[length] = '\0';
    struct tm tm = {0};
    const char *end = strptime(fixture->text, "%Y-%m-%dT%H:%M:%S", &tm);
    assert_non_null(end);
    assert_true(timegm(&tm) >= before.tv_sec && timegm(&tm) <= after.tv_sec);
    assert_int_equal(*end, '.');
    assert_int_equal(strspn(end + 1, "0123456789"), 3);
    assert_string_equal(end + 4, "Z vm: three\n");
    char when[LOG_TIME_BYTES];
    assert_string_equal(log_time(fixture->write_fd, when), "");
    assert_int_equal(strlen(log_time(fd, when)), strlen("2026-11-22T02:55:01.042Z "));
    fclose(file);
}

/* Every day of 1970 to 2400, against the C library. */
static void the_calendar_is_right(void **state)
{
    (void)state;
    for (time_t day = 0; day < 157057; day++) {
        struct timespec moment = {day * 86400 + day % 86400, (day % 1000) * 1000000 + 999999};
        char ours[LOG_TIME_BYTES], theirs[64];
        struct tm tm;
        gmtime_r(&moment.tv_sec, &tm);
        strftime(theirs, sizeof(theirs), "%Y-%m-%dT%H:%M:%S", &tm);
        snprintf(theirs + strlen(theirs), 16, ".%03dZ ", (int)(day % 1000));
        log_format_time(moment, ours);
        if (strcmp(ours, theirs) != 0)
            assert_string_equal(ours, theirs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(levels_have_words_and_a_threshold, set_up, tear_down),
        cmocka_unit_test_setup_teardown(raw_terminals_get_carriage_returns, set_up, tear_down),
        cmocka_unit_test_setup_teardown(control_characters_do_not_reach_the_terminal, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(long_lines_are_cut_and_say_so, set_up, tear_down),
        cmocka_unit_test_setup_teardown(logging_keeps_errno_and_survives_a_closed_reader, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(guest_messages_are_limited_and_counted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(files_get_the_time, set_up, tear_down),
        cmocka_unit_test(the_calendar_is_right),
        cmocka_unit_test_setup_teardown(threads_do_not_mix_lines, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
