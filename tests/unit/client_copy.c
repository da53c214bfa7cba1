/* SPDX-License-Identifier: MIT
 *
 * Copies of files: within a file system and between two, with holes that stay.
 */
#include "support.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/copy.h"

enum { SIZE = 24 << 20, DATA_AT = 9 << 20, DATA = (3 << 20) + 77 };

/* A file that is gone with its descriptor. */
static int new_file(void)
{
    char name[] = "/tmp/trapeze-copy-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    unlink(name);
    return fd;
}

static void fill(int fd)
{
    unsigned char *bytes = malloc(DATA);
    for (size_t i = 0; i < DATA; i++)
        bytes[i] = (unsigned char)(1 + i * 7 % 251);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    assert_int_equal(pwrite(fd, bytes, DATA, DATA_AT), DATA);
    free(bytes);
}

static void assert_same(int from, int to)
{
    struct stat a, b;
    assert_int_equal(fstat(from, &a), 0);
    assert_int_equal(fstat(to, &b), 0);
    assert_int_equal(a.st_size, b.st_size);
    if (a.st_size == 0)
        return;
    void *left = mmap(NULL, (size_t)a.st_size, PROT_READ, MAP_SHARED, from, 0);
    void *right = mmap(NULL, (size_t)a.st_size, PROT_READ, MAP_SHARED, to, 0);
    assert_true(left != MAP_FAILED && right != MAP_FAILED);
    assert_true(memcmp(left, right, (size_t)a.st_size) == 0);
    munmap(left, (size_t)a.st_size);
    munmap(right, (size_t)a.st_size);
    assert_true(b.st_blocks * 512 < SIZE / 2); /* the holes are holes */
}

static void copy(int from)
{
    struct error *err = NULL;
    int to = new_file();
    copy_file(from, to, NULL, NULL, &err);
    assert_no_error(err);
    assert_same(from, to);
    close(to);
}

static void test_within_a_file_system(void **state)
{
    (void)state;
    int from = new_file();
    copy(from);
    fill(from);
    copy(from);
    close(from);
}

/* A memfd, as the seed's disk is, lies on a file system of its own. */
static void test_between_file_systems(void **state)
{
    (void)state;
    int from = memfd_create("copy", MFD_CLOEXEC);
    assert_true(from >= 0);
    copy(from);
    fill(from);
    copy(from);
    close(from);
}

static bool not_on(void *opaque, off_t done, off_t size)
{
    assert_int_equal(done, DATA_AT);
    assert_int_equal(size, SIZE);
    ++*(int *)opaque;
    return false;
}

static void test_ends_when_told_to(void **state)
{
    (void)state;
    struct error *err = NULL;
    int from = memfd_create("copy", MFD_CLOEXEC), to = new_file(), calls = 0;
    fill(from);
    assert_false(copy_file(from, to, not_on, &calls, &err));
    assert_null(err);
    assert_int_equal(calls, 1);
    close(from);
    close(to);
}

static void test_no_room(void **state)
{
    (void)state;
    struct error *err = NULL;
    int from = new_file(), to = memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    fill(from);
    assert_int_equal(ftruncate(to, SIZE), 0);
    assert_int_equal(fcntl(to, F_ADD_SEALS, F_SEAL_WRITE), 0);
    assert_false(copy_file(from, to, NULL, NULL, &err));
    assert_error(&err, ERROR_HOST, "not permitted");
    close(from);
    close(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_within_a_file_system),
        cmocka_unit_test(test_between_file_systems),
        cmocka_unit_test(test_ends_when_told_to),
        cmocka_unit_test(test_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
