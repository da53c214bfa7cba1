/* SPDX-License-Identifier: MIT
 *
 * fs/p9.h: files as a client sees them, and every way out of the folder that is none.
 */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "p9_client.h"

struct fixture {
    char base[64]; /* holds "secret", and the shared folder "in" */
    struct p9 *p9;
    struct p9_message m;
};

static char *path_of(struct fixture *f, const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", f->base, name);
    return path;
}

static void put_file(struct fixture *f, const char *name, const char *text)
{
    FILE *file = fopen(path_of(f, name), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void open_server(struct fixture *f, bool read_only)
{
    struct error *err = NULL;
    int folder = open(path_of(f, "in"), O_PATH | O_DIRECTORY | O_CLOEXEC);
    f->p9 = p9_new(folder, read_only, &err);
    assert_no_error(err);
    p9_begin(&f->m, 104); /* attach as fid 0 */
    p9_u32(&f->m, 0);
    p9_u32(&f->m, ~0u);
    p9_text(&f->m, "root");
    p9_text(&f->m, "");
    p9_u32(&f->m, 0);
    assert_int_equal(p9_call(&f->m, f->p9), 105);
    assert_int_equal(f->m.reply[7], 0x80); /* a folder */
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    strcpy(f->base, "/tmp/trapeze-p9-XXXXXX");
    assert_non_null(mkdtemp(f->base));
    assert_int_equal(mkdir(path_of(f, "in"), 0755), 0);
    assert_int_equal(mkdir(path_of(f, "in/sub"), 0755), 0);
    put_file(f, "secret", "SECRET");
    put_file(f, "in/file", "contents");
    assert_int_equal(symlink("../secret", path_of(f, "in/up")), 0);
    assert_int_equal(symlink("/", path_of(f, "in/root")), 0);
    assert_int_equal(mkfifo(path_of(f, "in/fifo"), 0644), 0);
    open_server(f, false);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];
    p9_free(f->p9);
    snprintf(command, sizeof(command), "rm -rf %s", f->base);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

/* From fid `from` by up to two names; 0, or what it is refused with. */
static int walk(struct fixture *f, uint32_t from, uint32_t to, const char *one, const char *two)
{
    unsigned count = (one != NULL ? 1u : 0u) + (two != NULL ? 1u : 0u);
    p9_begin(&f->m, 110);
    p9_u32(&f->m, from);
    p9_u32(&f->m, to);
    p9_bytes(&f->m, count, 2);
    if (one != NULL)
        p9_text(&f->m, one);
    if (two != NULL)
        p9_text(&f->m, two);
    p9_call(&f->m, f->p9);
    if (p9_error(&f->m) != 0)
        return p9_error(&f->m);
    return load_le16(f->m.reply + 7) == count ? 0 : ENOENT;
}

static int simple(struct fixture *f, uint8_t type, uint32_t fid, uint32_t argument)
{
    p9_begin(&f->m, type);
    p9_u32(&f->m, fid);
    p9_u32(&f->m, argument);
    p9_call(&f->m, f->p9);
    return p9_error(&f->m);
}

static int lopen(struct fixture *f, uint32_t fid, uint32_t flags)
{
    return simple(f, 12, fid, flags);
}

static void clunk(struct fixture *f, uint32_t fid)
{
    assert_int_equal(simple(f, 120, fid, 0), 0);
}

static int transfer(struct fixture *f, uint8_t type, uint32_t fid, uint64_t offset,
                    const char *text, uint32_t count)
{
    p9_begin(&f->m, type);
    p9_u32(&f->m, fid);
    p9_bytes(&f->m, offset, 8);
    p9_u32(&f->m, count);
    for (const char *at = text; at != NULL && *at != '\0'; at++)
        p9_bytes(&f->m, (uint8_t)*at, 1);
    p9_call(&f->m, f->p9);
    return p9_error(&f->m) != 0 ? -p9_error(&f->m) : (int)load_le32(f->m.reply + 7);
}

/* Names with flags and modes: create, mkdir, mknod ... */
static int make(struct fixture *f, uint8_t type, uint32_t folder, const char *name, uint32_t a,
                uint32_t b)
{
    p9_begin(&f->m, type);
    p9_u32(&f->m, folder);
    p9_text(&f->m, name);
    for (unsigned i = 0; i < 4; i++)
        p9_u32(&f->m, i == 0 ? a : i == 1 ? b : 0);
    p9_call(&f->m, f->p9);
    return p9_error(&f->m);
}

static void files_are_read_and_written(void **state)
{
    struct fixture *f = *state;
    struct stat status;
    assert_int_equal(walk(f, 0, 1, "file", NULL), 0);
    assert_int_equal(transfer(f, 116, 1, 0, NULL, 100), -EBADF); /* not open */
    assert_int_equal(lopen(f, 1, O_RDWR), 0);
    assert_int_equal(transfer(f, 116, 1, 2, NULL, 100), 6);
    assert_memory_equal(f->m.reply + 11, "ntents", 6);
    assert_int_equal(transfer(f, 118, 1, 8, "+more", 5), 5);
    assert_int_equal(transfer(f, 116, 1, 0, NULL, 100), 13);
    assert_int_equal(transfer(f, 116, 1, INT64_MAX, NULL, 100), -EINVAL);
    assert_int_equal(transfer(f, 118, 1, 0, "x", 5), -EINVAL); /* promises more than it has */
    clunk(f, 1);
    assert_int_equal(transfer(f, 116, 1, 0, NULL, 100), -EBADF);

    /* A file that its mode would not let us open again. */
    assert_int_equal(walk(f, 0, 2, NULL, NULL), 0);
    assert_int_equal(make(f, 14, 2, "new", O_WRONLY | O_EXCL, 0444), 0);
    assert_int_equal(transfer(f, 118, 2, 0, "abc", 3), 3);
    assert_int_equal(stat(path_of(f, "in/new"), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0444);
    assert_int_equal(status.st_size, 3);
    assert_int_equal(make(f, 14, 0, "new", O_WRONLY | O_EXCL, 0644), EEXIST);
}

static void folders_are_listed_and_changed(void **state)
{
    struct fixture *f = *state;
    unsigned seen = 0;
    uint64_t offset = 0;
    assert_int_equal(make(f, 72, 0, "dir", 0755, 0), 0);
    assert_int_equal(walk(f, 0, 1, NULL, NULL), 0);
    assert_int_equal(lopen(f, 1, O_RDONLY), 0);
    /* A few at a time: an answer has room for about two. */
    for (;;) {
        int bytes = transfer(f, 40, 1, offset, NULL, 64);
        assert_true(bytes >= 0);
        if (bytes == 0)
            break;
        for (const uint8_t *at = f->m.reply + 11; at < f->m.reply + 11 + bytes;) {
            offset = load_le64(at + 13);
            at += 24 + load_le16(at + 22);
            seen++;
        }
    }
    assert_int_equal(seen, 2 + 6); /* . .. sub file up root fifo dir */
    p9_begin(&f->m, 74);           /* rename dir to sub/moved */
    p9_u32(&f->m, 0);
    p9_text(&f->m, "dir");
    assert_int_equal(walk(f, 0, 3, "sub", NULL), 0);
    p9_begin(&f->m, 74);
    p9_u32(&f->m, 0);
    p9_text(&f->m, "dir");
    p9_u32(&f->m, 3);
    p9_text(&f->m, "moved");
    p9_call(&f->m, f->p9);
    assert_int_equal(p9_error(&f->m), 0);
    assert_int_equal(access(path_of(f, "in/sub/moved"), F_OK), 0);
    assert_int_equal(make(f, 76, 3, "moved", 0, 0), EISDIR);
    assert_int_equal(make(f, 76, 3, "moved", 0x200, 0), 0);
    assert_int_equal(make(f, 76, 0, "file", 0, 0), 0);
    assert_int_equal(access(path_of(f, "in/file"), F_OK), -1);
}

/* No name, no link and no kind of file leads out of the folder. */
static void there_is_no_way_out(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"..",         ".", "", "/", "../secret", "sub/../../secret",
                                        "/etc/passwd"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_not_equal(walk(f, 0, 1, names[i], NULL), 0);
        assert_int_not_equal(walk(f, 0, 1, "sub", names[i]), 0);
        assert_int_not_equal(make(f, 14, 0, names[i], O_RDWR, 0644), 0);
        assert_int_not_equal(make(f, 72, 0, names[i], 0755, 0), 0);
        assert_int_not_equal(make(f, 76, 0, names[i], 0, 0), 0);
    }
    /* Links are what they are: to be read, not followed. */
    assert_int_not_equal(walk(f, 0, 1, "root", "etc"), 0);
    assert_int_equal(walk(f, 0, 1, "up", NULL), 0);
    assert_int_equal(lopen(f, 1, O_RDONLY), ELOOP);
    assert_int_equal(simple(f, 22, 1, 0), 0);
    assert_memory_equal(f->m.reply + 9, "../secret", 9);
    clunk(f, 1);
    assert_int_equal(walk(f, 0, 1, NULL, NULL), 0);
    assert_int_equal(make(f, 14, 1, "up", O_RDWR, 0644), ELOOP);
    /* Opening a FIFO would wait for ever. */
    assert_int_equal(walk(f, 0, 2, "fifo", NULL), 0);
    assert_int_equal(lopen(f, 2, O_RDONLY), ENXIO);
    assert_int_equal(make(f, 18, 0, "device", S_IFBLK | 0666, 8), EPERM);
    assert_int_equal(make(f, 18, 0, "char", S_IFCHR | 0666, 1), EPERM);
    assert_int_equal(access(path_of(f, "secret"), F_OK), 0);
}

/* A file that runs as who made it is a gift to everybody else on the host. */
static void no_set_user_id(void **state)
{
    struct fixture *f = *state;
    struct stat status;
    assert_int_equal(walk(f, 0, 1, NULL, NULL), 0);
    assert_int_equal(make(f, 14, 1, "tool", O_WRONLY, 06755), 0);
    assert_int_equal(walk(f, 0, 2, "tool", NULL), 0);
    p9_begin(&f->m, 26);
    p9_u32(&f->m, 2);
    p9_u32(&f->m, 1); /* mode */
    p9_u32(&f->m, 07777);
    for (unsigned i = 0; i < 12; i++)
        p9_u32(&f->m, 0);
    p9_call(&f->m, f->p9);
    assert_int_equal(p9_error(&f->m), 0);
    assert_int_equal(stat(path_of(f, "in/tool"), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0777);
}

static void read_only_is_read_only(void **state)
{
    struct fixture *f = *state;
    p9_free(f->p9);
    open_server(f, true);
    assert_int_equal(walk(f, 0, 1, "file", NULL), 0);
    assert_int_equal(lopen(f, 1, O_RDWR), EROFS);
    assert_int_equal(lopen(f, 1, O_RDONLY | 01000), EROFS); /* truncating */
    static const uint8_t makers[] = {14, 18, 72, 76};
    for (size_t i = 0; i < ARRAY_SIZE(makers); i++)
        assert_int_equal(make(f, makers[i], 0, "file", 0, 0), EROFS);
    p9_begin(&f->m, 26);
    p9_u32(&f->m, 1);
    for (unsigned i = 0; i < 16; i++)
        p9_u32(&f->m, 8);
    p9_call(&f->m, f->p9);
    assert_int_equal(p9_error(&f->m), EROFS);
    assert_int_equal(lopen(f, 1, O_RDONLY), 0);
    assert_int_equal(transfer(f, 116, 1, 0, NULL, 100), 8);
}

static unsigned descriptors(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static void fids_are_bounded_and_forgotten(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(walk(f, 0, 1, "file", NULL), 0);
    unsigned before = descriptors();
    assert_int_equal(walk(f, 0, 1, "sub", NULL), EEXIST);
    assert_int_not_equal(walk(f, 0, 2, "sub", "missing"), 0);
    assert_int_not_equal(walk(f, 9, 2, NULL, NULL), 0);
    assert_int_equal(descriptors(), before);
    assert_int_equal(simple(f, 122, 1, 0), EOPNOTSUPP); /* remove: clunks nevertheless */
    assert_int_equal(simple(f, 120, 1, 0), EBADF);
    for (uint32_t i = 1; i < 200; i++)
        assert_int_equal(walk(f, 0, i, "file", NULL), 0);
    p9_begin(&f->m, 100);
    p9_u32(&f->m, 8192);
    p9_text(&f->m, "9P2000.L");
    assert_int_equal(p9_call(&f->m, f->p9), 101);
    assert_int_equal(load_le32(f->m.reply + 7), 8192);
    assert_int_equal(simple(f, 120, 5, 0), EBADF);
    assert_true(descriptors() < before);
}

static void messages_that_are_none(void **state)
{
    struct fixture *f = *state;
    uint8_t reply[64];
    static const uint8_t bad[][8] = {{0}, {7}, {6, 0, 0, 0, 120, 0, 0}, {9, 0, 0, 0, 120, 0, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(p9_handle(f->p9, bad[i], i, reply, sizeof(reply)), 0);
    static const uint8_t clunk0[] = {11, 0, 0, 0, 120, 5, 6, 0, 0, 0, 0};
    assert_int_equal(p9_handle(f->p9, clunk0, 8, reply, sizeof(reply)), 0);
    assert_int_equal(p9_handle(f->p9, clunk0, sizeof(clunk0), reply, 10), 0);
    assert_int_equal(p9_handle(f->p9, clunk0, sizeof(clunk0), reply, 64), 7);
    assert_memory_equal(reply + 4, "\x79\x05\x06", 3);
    assert_int_equal(simple(f, 30, 0, 0), EOPNOTSUPP); /* extended attributes */
    assert_int_equal(simple(f, 255, 0, 0), EOPNOTSUPP);
    /* An answer that does not fit the room it has. */
    assert_int_equal(walk(f, 0, 0, NULL, NULL), EBADF);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(files_are_read_and_written), TEST(folders_are_listed_and_changed),
        TEST(there_is_no_way_out),        TEST(no_set_user_id),
        TEST(read_only_is_read_only),     TEST(fids_are_bounded_and_forgotten),
        TEST(messages_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
