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

#include "base/state.h"
#include "p9_client.h"

struct fixture {
    char base[64]; /* holds "secret", and the shared folder "in" */
    int own_fds;
    struct p9 *p9;
    struct p9_message m;
};

/* Good until the call after the next one. */
static char *path_of(struct fixture *f, const char *name)
{
    static char paths[2][512];
    static unsigned turn;
    char *path = paths[turn++ % 2];
    snprintf(path, sizeof(paths[0]), "%s/%s", f->base, name);
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
    int folder = open(path_of(f, "in"), O_PATH | O_DIRECTORY | O_CLOEXEC);
    f->p9 = p9_new(folder, f->own_fds, read_only);
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
    f->own_fds = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_true(f->own_fds >= 0);
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
    close(f->own_fds);
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

/* --- saved and restored --- */

static bool restore(struct fixture *f, const struct state_buffer *saved, size_t size,
                    unsigned *lost)
{
    struct error *err = NULL;
    bool good = p9_restore(f->p9, saved->data, size, lost, &err);
    assert_true(good == (err == NULL));
    error_free(err);
    return good;
}

/* Onto a server of its own, as after a restart; what it saves is what it was given. */
static unsigned move_on(struct fixture *f, bool read_only)
{
    struct state_buffer saved = {0}, again = {0};
    unsigned lost;
    p9_save(f->p9, &saved);
    p9_free(f->p9);
    open_server(f, read_only);
    assert_true(restore(f, &saved, saved.size, &lost));
    p9_save(f->p9, &again);
    assert_int_equal(again.size, saved.size);
    if (lost == 0)
        assert_memory_equal(again.data, saved.data, saved.size);
    state_buffer_free(&saved);
    state_buffer_free(&again);
    return lost;
}

enum { FILE_FID = 1, FOLDER_FID, LINK_FID, NEW_FID, DEEP_FID };

static void hold_files(struct fixture *f)
{
    assert_int_equal(walk(f, 0, FILE_FID, "file", NULL), 0);
    assert_int_equal(lopen(f, FILE_FID, 2), 0);
    assert_int_equal(walk(f, 0, FOLDER_FID, "sub", NULL), 0);
    assert_int_equal(lopen(f, FOLDER_FID, 0), 0);
    assert_int_equal(walk(f, 0, LINK_FID, "up", NULL), 0);
    assert_int_equal(walk(f, 0, NEW_FID, "sub", NULL), 0);
    assert_int_equal(make(f, 14, NEW_FID, "new", 01 | 02000 | 01000, 0600), 0); /* append, empty */
    assert_int_equal(transfer(f, 118, NEW_FID, 0, "one ", 4), 4);
    assert_int_equal(walk(f, 0, DEEP_FID, "sub", "new"), 0);
}

static void held_files_are_found_again(void **state)
{
    struct fixture *f = *state;
    hold_files(f);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(move_on(f, false), 0);
        assert_int_equal(transfer(f, 116, FILE_FID, 0, NULL, 8), 8);
        assert_memory_equal(f->m.reply + 11, "contents", 8);
        assert_int_equal(transfer(f, 118, FILE_FID, 0, "contents", 8), 8);
        assert_true(transfer(f, 40, FOLDER_FID, 0, NULL, 1000) > 0);
        assert_int_equal(simple(f, 22, LINK_FID, 0), 0); /* still itself, not what it points to */
        /* Opened for appending, not emptied again; not for reading. */
        assert_int_equal(transfer(f, 118, NEW_FID, 0, "two ", 4), 4);
        assert_int_equal(transfer(f, 116, NEW_FID, 0, NULL, 8), -EBADF);
        assert_int_equal(lopen(f, DEEP_FID, 0), i == 0 ? 0 : EINVAL);
        assert_int_equal(transfer(f, 116, DEEP_FID, 0, NULL, 100), 8 + 4 * (int)i);
        assert_int_equal(walk(f, 0, 9 + i, "file", NULL), 0); /* fid 0 is the folder */
    }
}

static void what_is_gone_is_stale(void **state)
{
    struct fixture *f = *state;
    hold_files(f);
    /* Removed, replaced, and moved to where no client got it from. */
    assert_int_equal(unlink(path_of(f, "in/sub/new")), 0);
    put_file(f, "other", "SECRET");
    assert_int_equal(rename(path_of(f, "other"), path_of(f, "in/file")), 0);
    assert_int_equal(rename(path_of(f, "in/up"), path_of(f, "up")), 0);
    assert_int_equal(move_on(f, false), 4);
    for (uint32_t fid = FILE_FID; fid <= DEEP_FID; fid++) {
        int expected = fid == FOLDER_FID ? 0 : ESTALE;
        assert_int_equal(simple(f, 24, fid, 0), expected);
        assert_int_equal(walk(f, fid, 50, NULL, NULL), fid == FOLDER_FID ? EINVAL : ESTALE);
    }
    assert_int_equal(transfer(f, 116, FILE_FID, 0, NULL, 8), -ESTALE);
    assert_int_equal(transfer(f, 118, FILE_FID, 0, "x", 1), -ESTALE);
    assert_int_equal(move_on(f, false), 4); /* stale they stay */
    for (uint32_t fid = FILE_FID; fid <= DEEP_FID; fid++)
        clunk(f, fid);
    assert_int_equal(move_on(f, false), 0);
}

/* Between saving and restoring. */
static void what_changes_meanwhile_is_stale(void **state)
{
    struct fixture *f = *state;
    struct state_buffer saved = {0};
    unsigned lost;
    hold_files(f);
    p9_save(f->p9, &saved);
    assert_int_equal(rename(path_of(f, "in/sub"), path_of(f, "in/moved")), 0);
    assert_int_equal(symlink("moved", path_of(f, "in/sub")), 0); /* is not followed */
    assert_true(restore(f, &saved, saved.size, &lost));
    assert_int_equal(lost, 3);
    assert_int_equal(transfer(f, 116, FILE_FID, 0, NULL, 8), 8);
    assert_int_equal(transfer(f, 40, FOLDER_FID, 0, NULL, 1000), -ESTALE);
    /* A folder that is shared read-only by now: what was open for writing is lost. */
    p9_free(f->p9);
    open_server(f, true);
    assert_true(restore(f, &saved, saved.size, &lost));
    assert_int_equal(lost, 4);
    state_buffer_free(&saved);
}

/* The same paths and inode numbers on another file system are other files; what was saved before file
 * systems had been noted is believed as it was then. */
static void another_file_system_has_other_files(void **state)
{
    struct fixture *f = *state;
    struct state_buffer saved = {0}, other = {0}, old = {0};
    unsigned lost, files = 0;
    uint8_t first[4];
    hold_files(f);
    p9_save(f->p9, &saved);
    store_le32(first, load_le32(saved.data) & INT32_MAX);
    state_buffer_add(&other, saved.data, saved.size);
    state_buffer_add(&old, first, sizeof(first));
    for (size_t at = 4, length; at < saved.size; at += 24 + length, files++) {
        length = load_le16(saved.data + at + 22);
        other.data[at + 14] ^= 1;
        state_buffer_add(&old, saved.data + at, 14);
        state_buffer_add(&old, saved.data + at + 22, 2 + length);
    }
    assert_true(restore(f, &old, old.size, &lost));
    assert_int_equal(lost, 0);
    assert_int_equal(transfer(f, 116, FILE_FID, 0, NULL, 8), 8);
    assert_true(restore(f, &other, other.size, &lost));
    assert_int_equal(lost, files);
    assert_int_equal(transfer(f, 116, FILE_FID, 0, NULL, 8), -ESTALE);
    state_buffer_free(&saved);
    state_buffer_free(&other);
    state_buffer_free(&old);
}

static void saved_state_is_not_believed(void **state)
{
    struct fixture *f = *state;
    struct state_buffer saved = {0};
    struct stat secret;
    unsigned lost;
    hold_files(f);
    p9_save(f->p9, &saved);
    for (size_t size = 0; size < saved.size; size++)
        (void)restore(f, &saved, size, &lost);
    /* A fid twice; flags that no open file has; a message that is too large. */
    struct state_buffer twice = {0};
    state_buffer_add(&twice, saved.data, saved.size);
    state_buffer_add(&twice, saved.data + 4, saved.size - 4);
    assert_false(restore(f, &twice, twice.size, &lost));
    assert_int_equal(simple(f, 24, FILE_FID, 0), EBADF);
    state_buffer_free(&twice);
    saved.data[4 + 5] ^= 0x40;
    assert_false(restore(f, &saved, saved.size, &lost));
    saved.data[4 + 5] ^= 0x40;
    saved.data[3] = 0xff;
    assert_false(restore(f, &saved, saved.size, &lost));
    state_buffer_free(&saved);
    /* Ways out, with the right inode. */
    assert_int_equal(stat(path_of(f, "secret"), &secret), 0);
    const char *const ways[] = {"../secret", "up",   "sub/../../secret", "/tmp", "root/etc",
                                "./file",    "file/"};
    for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
        uint8_t record[20 + 32] = {0};
        size_t length = strlen(ways[i]);
        store_le32(record, 8192);
        store_le32(record + 4, 7);
        store_le64(record + 10, secret.st_ino);
        store_le16(record + 18, (uint16_t)length);
        memcpy(record + 20, ways[i], length);
        const struct state_buffer made = {record, 20 + length, 0};
        assert_true(restore(f, &made, made.size, &lost));
        assert_int_equal(lost, 1);
        assert_int_equal(transfer(f, 116, 7, 0, NULL, 8), -ESTALE);
    }
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
        TEST(files_are_read_and_written),  TEST(folders_are_listed_and_changed),
        TEST(there_is_no_way_out),         TEST(no_set_user_id),
        TEST(read_only_is_read_only),      TEST(fids_are_bounded_and_forgotten),
        TEST(another_file_system_has_other_files),
        TEST(saved_state_is_not_believed), TEST(what_changes_meanwhile_is_stale),
        TEST(what_is_gone_is_stale),       TEST(held_files_are_found_again),
        TEST(messages_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
