/* SPDX-License-Identifier: MIT
 *
 * What the daemon writes to systemd's journal, at a socket of ours in its place.
 */
#include "support.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_event_is_an_entry),
        cmocka_unit_test(test_a_line_end_makes_no_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
