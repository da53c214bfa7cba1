/* SPDX-License-Identifier: MIT
 *
 * Work in a confined child: what it reports comes back, what it may not do is its end, and what it
 * claims is taken as a stranger's word.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sandbox/helper.h"

struct scene {
    int given, kept_back;
    uint64_t steps, last;
};

static void on_step(void *opaque, uint64_t number)
{
    struct scene *scene = opaque;
    scene->steps++;
    scene->last = number;
}

static int on_open(void *opaque, const char *name);

static bool help(struct scene *scene,
                 bool (*work)(void *, struct sandbox_teller *, struct error **), struct error **err)
{
    const struct sandbox_helper helper = {.work = work,
                                          .step = on_step,
                                          .open = on_open,
                                          .opaque = scene,
                                          .fds = {scene->given},
                                          .fd_count = scene->given >= 0};
    scene->steps = scene->last = 0;
    return sandbox_help(&helper, err);
}

static bool count_up(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    struct scene *scene = opaque;
    (void)err;
    for (uint64_t i = 1; i <= 1000; i++)
        sandbox_tell(teller, i << 32);
    scene->steps = 7; /* its own memory, nobody else's */
    return pwrite(scene->given, "done", 4, 0) == 4;
}

static bool look_around(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    const struct scene *scene = opaque;
    char name[64];
    (void)teller;
    if (fcntl(scene->given, F_GETFD) < 0)
        return error_set(err, ERROR_HOST, "what it was given is gone");
    if (fcntl(scene->kept_back, F_GETFD) >= 0 || errno != EBADF)
        return error_set(err, ERROR_HOST, "it has what it was not given");
    if (open("/etc/passwd", O_RDONLY) >= 0)
        return error_set(err, ERROR_HOST, "it opens files");
    for (int fd = 0; fd < 1024; fd++) {
        snprintf(name, sizeof(name), "../../../../etc/passwd");
        if (openat(fd, name, O_RDONLY) >= 0)
            return error_set(err, ERROR_HOST, "it opens files from %d", fd);
    }
    return true;
}

/* What it gets by name, and what it does not. */
static bool ask_for_files(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    (void)opaque;
    for (int i = 0; i < 100; i++) {
        int fd = sandbox_ask(teller, "good");
        if (fd < 0 || pwrite(fd, "asked", 5, i * 5) != 5)
            return error_set_errno(err, errno, "it does not get what it may have");
        close(fd);
    }
    if (sandbox_ask(teller, "bad") >= 0 || errno != EXDEV)
        return error_set(err, ERROR_HOST, "it gets what it may not have");
    return true;
}

static int on_open(void *opaque, const char *name)
{
    const struct scene *scene = opaque;
    errno = EXDEV;
    return strcmp(name, "good") == 0 ? fcntl(scene->kept_back, F_DUPFD_CLOEXEC, 0) : -1;
}

static bool fail_by_mistake(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    (void)opaque, (void)teller;
    return error_set(err, ERROR_USAGE, "no such\nthing \033[31m%0600d", 1);
}

static bool reach_out(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    (void)opaque, (void)teller, (void)err;
    return socket(AF_INET, SOCK_STREAM, 0) >= 0;
}

static bool run_a_program(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    (void)opaque, (void)teller, (void)err;
    return execl("/bin/true", "true", (char *)NULL) == 0;
}

static bool go_without_a_word(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    (void)opaque, (void)teller, (void)err;
    _exit(0);
}

/* It closes what it reports through, and stays. */
static bool stay_silent(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    (void)opaque, (void)teller, (void)err;
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    while (sched_yield() == 0)
        ;
    return false;
}

static void test_its_work_is_done(void **state)
{
    struct scene *scene = *state;
    struct error *err = NULL;
    char bytes[8] = "";
    assert_true(help(scene, count_up, &err));
    assert_int_equal(scene->steps, 1000);
    assert_int_equal(scene->last, UINT64_C(1000) << 32);
    assert_int_equal(pread(scene->given, bytes, 8, 0), 4);
    assert_string_equal(bytes, "done");
}

static void test_it_has_what_it_was_given(void **state)
{
    struct error *err = NULL;
    help(*state, look_around, &err);
    assert_no_error(err);
}

static void test_it_gets_what_it_asks_for(void **state)
{
    const struct scene *scene = *state;
    struct error *err = NULL;
    int before = dup(0);
    close(before);
    help(*state, ask_for_files, &err);
    assert_no_error(err);
    assert_int_equal(lseek(scene->kept_back, 0, SEEK_END), 500);
    int after = dup(0);
    close(after);
    assert_int_equal(before, after); /* none is left open here */
}

static void test_its_words_are_one_line(void **state)
{
    struct error *err = NULL;
    assert_false(help(*state, fail_by_mistake, &err));
    assert_null(strchr(error_message(err), '\n'));
    assert_null(strchr(error_message(err), '\033'));
    assert_true(strlen(error_message(err)) <= 500);
    assert_error(&err, ERROR_USAGE, "no such?thing ?[31m0000");
}

static void test_what_it_may_not_do_is_its_end(void **state)
{
    struct error *err = NULL;
    assert_false(help(*state, reach_out, &err));
    assert_error(&err, ERROR_HOST, "The log says which system call");
    assert_false(help(*state, run_a_program, &err));
    assert_error(&err, ERROR_HOST, "The log says which system call");
    assert_false(help(*state, go_without_a_word, &err));
    assert_error(&err, ERROR_INTERNAL, "without a word");
    assert_false(help(*state, stay_silent, &err));
    assert_error(&err, ERROR_HOST, "killed");
}

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    scene->kept_back = memfd_create("other", MFD_CLOEXEC);
    scene->given = memfd_create("given", MFD_CLOEXEC);
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;
    close(scene->given);
    close(scene->kept_back);
    free(scene);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_its_work_is_done),
        cmocka_unit_test(test_it_has_what_it_was_given),
        cmocka_unit_test(test_it_gets_what_it_asks_for),
        cmocka_unit_test(test_its_words_are_one_line),
        cmocka_unit_test(test_what_it_may_not_do_is_its_end),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
