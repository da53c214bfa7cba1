/* SPDX-License-Identifier: MIT
 *
 * block/block.h: raw files.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "base/vclock.h"
#include "block/block.h"

#define SIZE (64 * 1024)

struct fixture {
    char path[64];
    struct loop *loop;
    struct vclock *clock;
    struct block_env env;
    struct block *disk;
    unsigned completed;
    int last_error;
    struct block_request *order[16]; /* as they completed */
};

static int open_flags(const struct fixture *f, int flags)
{
    int fd = open(f->path, flags | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static struct fixture *fixture_new(bool deterministic)
{
    struct fixture *f = calloc(1, sizeof(*f));
    strcpy(f->path, "/tmp/trapeze-test-XXXXXX");
    int fd = mkstemp(f->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    close(fd);
    f->loop = loop_new(NULL);
    f->clock = vclock_new(VCLOCK_COUNTED, 0);
    vclock_resume(f->clock);
    f->env = (struct block_env){.loop = f->loop, .clock = f->clock, .deterministic = deterministic};
    struct error *err = NULL;
    f->disk = block_new_raw(open_flags(f, O_RDWR), false, &f->env, &err);
    assert_no_error(err);
    return f;
}

static int setup(void **state)
{
    *state = fixture_new(false);
    return 0;
}

static int setup_deterministic(void **state)
{
    *state = fixture_new(true);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    block_free(f->disk);
    vclock_free(f->clock);
    loop_free(f->loop);
    unlink(f->path);
    free(f);
    return 0;
}

static void done(struct block_request *request, int error)
{
    struct fixture *f = request->opaque;
    if (f->completed < ARRAY_SIZE(f->order))
        f->order[f->completed] = request;
    f->completed++;
    f->last_error = error;
}

static struct block_request request(struct fixture *f, enum block_kind kind, uint64_t offset,
                                    struct iovec *iov, unsigned count)
{
    return (struct block_request){
        .kind = kind, .offset = offset, .iov = iov, .iov_count = count, .done = done, .opaque = f};
}

static void run(struct fixture *f, enum block_kind kind, uint64_t offset, void *data, size_t size)
{
    struct iovec iov = {data, size};
    struct block_request r = request(f, kind, offset, &iov, 1);
    block_submit(f->disk, &r);
    block_drain(f->disk);
}

/* Written in pieces of odd sizes, read back in others. */
static void what_is_written_is_read(void **state)
{
    struct fixture *f = *state;
    uint8_t out[3072], in[3072] = {0}, flat[3072];
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 7 + i / 256);
    struct iovec w[] = {{out, 1}, {out + 1, 0}, {out + 1, 1500}, {out + 1501, 1571}};
    struct iovec r[] = {{in, 512}, {in + 512, 2559}, {in + 3071, 1}};
    struct block_request write = request(f, BLOCK_WRITE, 512, w, 4);
    struct block_request read = request(f, BLOCK_READ, 512, r, 3);
    block_submit(f->disk, &write);
    block_drain(f->disk);
    block_submit(f->disk, &read);
    block_drain(f->disk);
    run(f, BLOCK_FLUSH, 0, NULL, 0);
    assert_int_equal(f->completed, 3);
    assert_int_equal(f->last_error, 0);
    assert_memory_equal(in, out, sizeof(in));

    int fd = open_flags(f, O_RDONLY);
    assert_int_equal(pread(fd, flat, sizeof(flat), 512), sizeof(flat));
    assert_memory_equal(flat, out, sizeof(flat));
    close(fd);
    assert_int_equal(block_size(f->disk), SIZE);
    assert_false(block_read_only(f->disk));
}

struct burst {
    struct fixture *f;
    unsigned left;
};

static void burst_done(struct block_request *r, int error)
{
    struct burst *burst = r->opaque;
    assert_int_equal(error, 0);
    if (--burst->left == 0)
        loop_quit(burst->f->loop, 0);
}

static void completions_arrive_on_the_loop(void **state)
{
    struct fixture *f = *state;
    enum { COUNT = 64 };
    static uint8_t data[COUNT][512];
    struct iovec iov[COUNT];
    struct block_request r[COUNT];
    struct burst burst = {f, COUNT};
    for (unsigned i = 0; i < COUNT; i++) {
        memset(data[i], (int)i, sizeof(data[i]));
        iov[i] = (struct iovec){data[i], sizeof(data[i])};
        r[i] = request(f, BLOCK_WRITE, i * 512u, &iov[i], 1);
        r[i].done = burst_done;
        r[i].opaque = &burst;
        block_submit(f->disk, &r[i]);
    }
    block_wait_idle(f->disk);
    assert_int_equal(burst.left, COUNT); /* done() is the loop's */
    loop_run(f->loop);
    assert_int_equal(burst.left, 0);
    uint8_t back[512];
    run(f, BLOCK_READ, 63 * 512, back, sizeof(back));
    assert_memory_equal(back, data[63], 512);
}

/* A callback that submits: a drain waits for that as well. */
static void resubmit(struct block_request *r, int error)
{
    struct fixture *f = r->opaque;
    assert_int_equal(error, 0);
    if (++f->completed < 5) {
        r->kind = BLOCK_FLUSH;
        block_submit(f->disk, r);
    }
}

static void drain_waits_for_what_callbacks_submit(void **state)
{
    struct fixture *f = *state;
    struct block_request r = request(f, BLOCK_FLUSH, 0, NULL, 0);
    r.done = resubmit;
    block_submit(f->disk, &r);
    block_drain(f->disk);
    assert_int_equal(f->completed, 5);
}

static void a_truncated_file_is_an_error_not_a_loop(void **state)
{
    struct fixture *f = *state;
    uint8_t data[1024];
    assert_int_equal(truncate(f->path, SIZE - 512), 0);
    run(f, BLOCK_READ, SIZE - 1024, data, sizeof(data));
    assert_int_equal(f->last_error, EIO);
}

static void threads_go_and_come(void **state)
{
    struct fixture *f = *state;
    struct error *err = NULL;
    block_threads_stop(f->disk);
    pid_t child = fork(); /* what the threads are stopped for: one thread, no lock held */
    assert_true(child >= 0);
    if (child == 0) {
        bool started = block_threads_start(f->disk, NULL);
        uint8_t data[512] = {42};
        run(f, BLOCK_WRITE, 0, data, sizeof(data));
        block_threads_stop(f->disk);
        _exit(started && f->completed == 1 && f->last_error == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(block_threads_start(f->disk, &err));
    uint8_t data[512];
    run(f, BLOCK_READ, 0, data, sizeof(data));
    assert_int_equal(f->last_error, 0);
    assert_int_equal(data[0], 42);
}

/* --- locks --- */

static void a_writable_disk_has_one_user(void **state)
{
    struct fixture *f = *state;
    struct error *err = NULL;
    int fd = open_flags(f, O_RDWR);
    assert_null(block_new_raw(fd, false, &f->env, &err));
    assert_error(&err, ERROR_HOST, "another process, probably a running VM, is using it");
    assert_null(block_new_raw(fd, true, &f->env, &err));
    assert_error(&err, ERROR_HOST, "is writing to it");
    close(fd); /* must not release the lock of the first one */

    fd = open_flags(f, O_RDONLY);
    assert_null(block_new_raw(fd, true, &f->env, &err));
    error_free(err);
    err = NULL;
    close(fd);

    block_free(f->disk);
    f->disk = block_new_raw(open_flags(f, O_RDWR), false, &f->env, &err);
    assert_no_error(err);
}

static void a_read_only_disk_is_shared_by_readers(void **state)
{
    struct fixture *f = *state;
    struct error *err = NULL;
    block_free(f->disk);
    f->disk = block_new_raw(open_flags(f, O_RDONLY), true, &f->env, &err);
    assert_no_error(err);
    assert_true(block_read_only(f->disk));
    struct block *second = block_new_raw(open_flags(f, O_RDONLY), true, &f->env, &err);
    assert_no_error(err);
    int fd = open_flags(f, O_RDWR);
    assert_null(block_new_raw(fd, false, &f->env, &err));
    assert_error(&err, ERROR_HOST, "attach it read-only");
    close(fd);
    block_free(second);
}

/* --- bad files --- */

static void unusable_files_get_a_sentence(void **state)
{
    struct fixture *f = *state;
    struct error *err = NULL;
    block_free(f->disk);
    f->disk = NULL;

    int fd = open_flags(f, O_RDONLY);
    assert_null(block_new_raw(fd, false, &f->env, &err));
    assert_error(&err, ERROR_USAGE, "open for reading only");
    close(fd);

    assert_int_equal(truncate(f->path, 1000), 0);
    fd = open_flags(f, O_RDWR);
    assert_null(block_new_raw(fd, false, &f->env, &err));
    assert_error(&err, ERROR_USAGE, "1000 bytes is not a positive multiple of 512");
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_null(block_new_raw(fd, false, &f->env, &err));
    assert_error(&err, ERROR_USAGE, "0 bytes is not a positive multiple of 512");
    close(fd);

    fd = open("/tmp", O_RDONLY | O_CLOEXEC);
    assert_null(block_new_raw(fd, true, &f->env, &err));
    assert_error(&err, ERROR_USAGE, "neither a file nor a block device");
    close(fd);
}

/* --- deterministic mode --- */

static void completions_depend_on_virtual_time_alone(void **state)
{
    struct fixture *f = *state;
    uint8_t data[512] = {7}, back[512] = {0};
    struct iovec w = {data, 512}, r = {back, 512};
    struct block_request a = request(f, BLOCK_WRITE, 0, &w, 1);
    struct block_request b = request(f, BLOCK_FLUSH, 0, NULL, 0);
    struct block_request c = request(f, BLOCK_READ, 0, &r, 1);
    block_submit(f->disk, &a);
    block_submit(f->disk, &b);
    int64_t first = vclock_next_deadline(f->clock);
    assert_true(first > 0 && first != VCLOCK_NEVER);
    vclock_advance(f->clock, first / 2);
    vclock_run_timers(f->clock);
    assert_int_equal(f->completed, 0);
    block_submit(f->disk, &c);
    vclock_advance(f->clock, first - first / 2);
    vclock_run_timers(f->clock);
    assert_int_equal(f->completed, 2);
    assert_ptr_equal(f->order[0], &a);
    assert_ptr_equal(f->order[1], &b);
    assert_int_equal(vclock_next_deadline(f->clock), first / 2 + first);
    vclock_advance(f->clock, first);
    vclock_run_timers(f->clock);
    assert_int_equal(f->completed, 3);
    assert_ptr_equal(f->order[2], &c);
    assert_memory_equal(back, data, 512);
}

static void drain_does_not_wait_for_virtual_time(void **state)
{
    struct fixture *f = *state;
    struct block_request r = request(f, BLOCK_FLUSH, 0, NULL, 0);
    r.done = resubmit;
    block_submit(f->disk, &r);
    block_drain(f->disk);
    assert_int_equal(f->completed, 5);
    assert_int_equal(vclock_next_deadline(f->clock), VCLOCK_NEVER);
}

#define TEST(name)          cmocka_unit_test_setup_teardown(name, setup, teardown)
#define DETERMINISTIC(name) cmocka_unit_test_setup_teardown(name, setup_deterministic, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_read),
        TEST(completions_arrive_on_the_loop),
        TEST(drain_waits_for_what_callbacks_submit),
        TEST(a_truncated_file_is_an_error_not_a_loop),
        TEST(threads_go_and_come),
        TEST(a_writable_disk_has_one_user),
        TEST(a_read_only_disk_is_shared_by_readers),
        TEST(unusable_files_get_a_sentence),
        DETERMINISTIC(what_is_written_is_read),
        DETERMINISTIC(completions_depend_on_virtual_time_alone),
        DETERMINISTIC(drain_does_not_wait_for_virtual_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
