/* SPDX-License-Identifier: MIT
 *
 * What the daemon writes to systemd's journal, at a socket of ours in its place, and how it follows
 * a worker's log for that.
 */
#include "support.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/logfile.h"
#include "daemon/service.h"

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void test_an_event_is_an_entry(void **state)
{
    char path[64], text[1000];
    (void)state;
    snprintf(path, sizeof(path), "/tmp/trapeze-journal-%d", (int)getpid());
    int journal = listen_at(path);
    const struct service service = {
        .local = -1, .remote = -1, .journal = service_journal_open(path)};
    assert_true(service.journal >= 0);
    service_journal(&service, "web", "state", "{\"state\":\"paused\"}");
    ssize_t size = recv(journal, text, sizeof(text) - 1, 0);
    assert_true(size > 0);
    text[size] = '\0';
    assert_string_equal(text, "MESSAGE=web: state {\"state\":\"paused\"}\nPRIORITY=6\n"
                              "SYSLOG_IDENTIFIER=trapeze\nTRAPEZE_INSTANCE=web\n"
                              "TRAPEZE_EVENT=state\nTRAPEZE_DETAIL={\"state\":\"paused\"}\n");
    service_journal(&service, "web", "deleted", NULL);
    size = recv(journal, text, sizeof(text) - 1, 0);
    assert_true(size > 0);
    text[size] = '\0';
    assert_null(strstr(text, "DETAIL"));
    close(journal);
    /* Nobody there: it is left out, and nothing waits. */
    service_journal(&service, "web", "state", NULL);
    close(service.journal);
    unlink(path);
    assert_int_equal(service_journal_open(path), -1);
}

static void test_a_line_end_makes_no_field(void **state)
{
    static const char expected[] = "TRAPEZE_DETAIL\n\3\0\0\0\0\0\0\0a\nb\n";
    char path[64], text[1000];
    (void)state;
    snprintf(path, sizeof(path), "/tmp/trapeze-journal-%d", (int)getpid());
    int journal = listen_at(path);
    const struct service service = {
        .local = -1, .remote = -1, .journal = service_journal_open(path)};
    service_journal(&service, "web", "state", "a\nb");
    ssize_t size = recv(journal, text, sizeof(text), 0);
    assert_true(size > (ssize_t)sizeof(expected));
    assert_non_null(memmem(text, (size_t)size, expected, sizeof(expected) - 1));
    close(journal);
    close(service.journal);
    unlink(path);
}

static void test_a_line_of_a_worker_is_an_entry(void **state)
{
    static const struct {
        const char *line;
        int priority;
    } rows[] = {
        {"2026-11-22T02:55:01.042Z trapeze: warning: odd", 4},
        {"trapeze: error: bad", 3},
        {"2026-11-22T02:55:01.042Z trapeze: said", 6},
        {"anything", 6},
    };
    char path[64], text[1000], expected[1000];
    (void)state;
    snprintf(path, sizeof(path), "/tmp/trapeze-journal-%d", (int)getpid());
    int journal = listen_at(path);
    const struct service service = {
        .local = -1, .remote = -1, .journal = service_journal_open(path)};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        service_journal_line(&service, "web", rows[i].line);
        ssize_t size = recv(journal, text, sizeof(text) - 1, 0);
        assert_true(size > 0);
        text[size] = '\0';
        snprintf(expected, sizeof(expected),
                 "MESSAGE=%s\nPRIORITY=%d\nSYSLOG_IDENTIFIER=trapeze\nTRAPEZE_INSTANCE=web\n"
                 "TRAPEZE_SOURCE=worker\n",
                 rows[i].line, rows[i].priority);
        assert_string_equal(text, expected);
    }
    close(journal);
    close(service.journal);
    unlink(path);
}

struct followed {
    char text[8192];
    unsigned lines;
    long long left_out;
};

static void take_line(void *opaque, const char *line, long long left_out)
{
    struct followed *f = opaque;
    size_t used = strlen(f->text);
    snprintf(f->text + used, sizeof(f->text) - used, "%.300s|", line);
    f->lines++;
    f->left_out += left_out;
}

static void append(int fd, const char *text, size_t size)
{
    assert_int_equal(write(fd, text, size), (ssize_t)size);
}

/* The file is a stranger's: a worker's that was taken over. */
static void test_a_log_is_followed(void **state)
{
    char name[] = "/tmp/trapeze-log-XXXXXX";
    struct log_place place;
    struct followed f = {.lines = 0};
    static char many[100000];
    (void)state;
    int fd = mkostemp(name, O_APPEND | O_CLOEXEC);
    assert_true(fd >= 0);
    append(fd, "before\n", 7);
    logfile_skip(AT_FDCWD, name, &place);
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    assert_int_equal(f.lines, 0);
    append(fd, "one\ntwo\x1b[2J\0x\nthr", 17);
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    assert_string_equal(f.text, "one|two?[2J?x|");
    append(fd, "ee\n", 3);
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    assert_string_equal(f.text, "one|two?[2J?x|three|");
    assert_int_equal(f.left_out, 0);

    /* Too many lines, too long a line, and one without end. */
    f = (struct followed){.lines = 0};
    for (unsigned i = 0; i < 30; i++)
        append(fd, "ab\n", 3);
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    assert_int_equal(f.lines, 20);
    assert_int_equal(f.left_out, 30);
    memset(many, 'x', sizeof(many));
    append(fd, many, sizeof(many));
    f = (struct followed){.lines = 0};
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    assert_int_equal(f.lines, 1);
    assert_int_equal(f.left_out, (long long)sizeof(many) - (16 << 10));

    /* Emptied: from the start. */
    f = (struct followed){.lines = 0};
    assert_int_equal(ftruncate(fd, 0), 0);
    append(fd, "anew\n", 5);
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    assert_string_equal(f.text, "anew|");

    /* A size that nobody could read, and no file at all. */
    assert_int_equal(ftruncate(fd, (off_t)1 << 40), 0);
    f = (struct followed){.lines = 0};
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    assert_int_equal(f.lines, 1);
    close(fd);
    unlink(name);
    assert_int_equal(mkfifo(name, 0600), 0);
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    unlink(name);
    assert_int_equal(symlink("/etc/passwd", name), 0);
    logfile_skip(AT_FDCWD, name, &place);
    assert_int_equal(place.at, 0);
    logfile_follow(AT_FDCWD, name, &place, take_line, &f);
    unlink(name);
    assert_int_equal(f.lines, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_event_is_an_entry),
        cmocka_unit_test(test_a_line_of_a_worker_is_an_entry),
        cmocka_unit_test(test_a_log_is_followed),
        cmocka_unit_test(test_a_line_end_makes_no_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
