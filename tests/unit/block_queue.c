/* SPDX-License-Identifier: MIT
 *
 * block/block.h beyond what any disk does: errors that stop the machine, limits, bitmaps,
 * exchange of the image, requests that overlap. On a file that does what the test says.
 */
#include "support.h"

#include <errno.h>
#include <pthread.h>

#include "base/vclock.h"
#include "disk.h"

#define SIZE (1 * MIB)

struct fixture {
    struct loop *loop;
    struct vclock *clock;
    struct block *disk;
    int fd;
    unsigned completed, stops;
    int last_error, stop_error;
    enum block_kind stop_kind;
};

static void on_stopped(void *opaque, struct block *block, enum block_kind kind, int error)
{
    struct fixture *f = opaque;
    assert_ptr_equal(block, f->disk);
    f->stops++;
    f->stop_kind = kind;
    f->stop_error = error;
}

static void done(struct block_request *request, int error)
{
    struct fixture *f = request->opaque;
    f->completed++;
    f->last_error = error;
}

/* --- a file that fails on demand --- */

static int fail_writes; /* errno value; 0: they succeed */
static int (*real_write)(struct block_file *file, uint64_t offset, struct block_span from);

static int failing_write(struct block_file *file, uint64_t offset, struct block_span from)
{
    return fail_writes != 0 ? fail_writes : real_write(file, offset, from);
}

static struct block_file_ops failing_ops;

static struct block_image *failing_image(int fd)
{
    struct error *err = NULL;
    static const struct block_image_options raw = {.format = "raw"};
    struct block_image *image = disk_open(fd, &raw, BLOCK_CACHE_WRITEBACK, &err);
    assert_no_error(err);
    failing_ops = *image->file->ops;
    real_write = failing_ops.write;
    failing_ops.write = failing_write;
    image->file->ops = &failing_ops;
    return image;
}

static struct fixture *fixture_new(const struct block_options *options, bool deterministic)
{
    struct error *err = NULL;
    struct fixture *f = calloc(1, sizeof(*f));
    f->fd = disk_memory_file();
    assert_int_equal(ftruncate(f->fd, SIZE), 0);
    f->loop = loop_new(NULL);
    f->clock = vclock_new(VCLOCK_COUNTED, 0);
    vclock_resume(f->clock);
    const struct block_env env = {.loop = f->loop,
                                  .clock = f->clock,
                                  .deterministic = deterministic,
                                  .stopped = on_stopped,
                                  .opaque = f};
    fail_writes = 0;
    f->disk = block_new(failing_image(f->fd), options, &env, &err);
    assert_no_error(err);
    return f;
}

static void fixture_free(struct fixture *f)
{
    block_free(f->disk);
    vclock_free(f->clock);
    loop_free(f->loop);
    close(f->fd);
    free(f);
}

static struct block_request request(struct fixture *f, enum block_kind kind, uint64_t offset,
                                    const struct iovec *iov)
{
    return (struct block_request){.kind = kind,
                                  .offset = offset,
                                  .iov = iov,
                                  .iov_count = 1,
                                  .length = iov->iov_len,
                                  .done = done,
                                  .opaque = f};
}

/* --- errors --- */

static void check_stop(bool deterministic)
{
    const struct block_options options = {.werror = BLOCK_ERROR_ENOSPC, .threads_only = true};
    struct fixture *f = fixture_new(&options, deterministic);
    uint8_t data[2][512] = {{1}, {2}}, back[512];
    struct iovec iov[2] = {{data[0], 512}, {data[1], 512}};
    struct block_request w[2] = {request(f, BLOCK_WRITE, 0, &iov[0]),
                                 request(f, BLOCK_WRITE, 512, &iov[1])};
    fail_writes = ENOSPC;
    block_submit(f->disk, &w[0]);
    block_submit(f->disk, &w[1]);
    block_drain(f->disk);
    assert_int_equal(f->completed, 0); /* held: neither lost nor done */
    assert_int_equal(f->stops, 1);     /* told once */
    assert_int_equal(f->stop_error, ENOSPC);
    assert_int_equal(f->stop_kind, BLOCK_WRITE);
    assert_true(block_is_stopped(f->disk));
    block_retry(f->disk); /* still no space */
    block_drain(f->disk);
    assert_int_equal(f->completed, 0);
    assert_int_equal(f->stops, 2);
    fail_writes = 0;
    block_retry(f->disk);
    block_drain(f->disk);
    assert_int_equal(f->completed, 2);
    assert_int_equal(f->last_error, 0);
    assert_false(block_is_stopped(f->disk));
    assert_int_equal(pread(f->fd, back, 512, 512), 512);
    assert_memory_equal(back, data[1], 512);
    /* Any other error is the guest's to know. */
    fail_writes = EIO;
    block_submit(f->disk, &w[0]);
    block_drain(f->disk);
    assert_int_equal(f->completed, 3);
    assert_int_equal(f->last_error, EIO);
    assert_int_equal(f->stops, 2);
    /* What is held when nobody wants it any more. */
    fail_writes = ENOSPC;
    block_submit(f->disk, &w[0]);
    block_drain(f->disk);
    assert_int_equal(f->completed, 3);
    block_cancel(f->disk);
    assert_int_equal(f->completed, 4);
    assert_int_equal(f->last_error, ECANCELED);
    block_submit(f->disk, &w[0]);
    block_drain(f->disk);
    fixture_free(f); /* frees it as well */
}

static void a_full_host_holds_requests(void **state)
{
    (void)state;
    check_stop(false);
    check_stop(true);
}

static void errors_are_reported_if_that_is_wanted(void **state)
{
    (void)state;
    const struct block_options options = {.werror = BLOCK_ERROR_REPORT, .threads_only = true};
    struct fixture *f = fixture_new(&options, false);
    uint8_t data[512] = {1};
    struct iovec iov = {data, 512};
    struct block_request w = request(f, BLOCK_WRITE, 0, &iov);
    fail_writes = ENOSPC;
    block_submit(f->disk, &w);
    block_drain(f->disk);
    assert_int_equal(f->completed, 1);
    assert_int_equal(f->last_error, ENOSPC);
    assert_int_equal(f->stops, 0);
    fixture_free(f);
}

/* --- limits --- */

static void submit_reads(struct fixture *f, struct block_request *requests, struct iovec *iov,
                         unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        requests[i] = request(f, BLOCK_READ, 0, iov);
        block_submit(f->disk, &requests[i]);
    }
}

/* Lets virtual time go on until at least `count` are complete, and then a little. */
static void pass(struct fixture *f, int64_t ns, unsigned count)
{
    vclock_advance(f->clock, ns);
    vclock_run_timers(f->clock);
    for (unsigned i = 0; i < 50 || f->completed < count; i++) {
        disk_pump(f->loop);
        usleep(100);
    }
}

static void limits_hold_back_what_is_too_much(void **state)
{
    (void)state;
    static const struct block_limits none;
    const struct block_options options = {.limits = {.iops = 100}};
    struct fixture *f = fixture_new(&options, false);
    static uint8_t data[65536];
    struct iovec iov = {data, sizeof(data)};
    struct block_request r[60];
    submit_reads(f, r, &iov, 60);
    pass(f, 0, 10);
    unsigned burst = f->completed;
    assert_in_range(burst, 10, 12); /* a tenth of a second's worth */
    pass(f, NS_PER_S / 10, burst + 9);
    assert_in_range(f->completed, burst + 9, burst + 11);
    block_set_limits(f->disk, &none); /* at run time */
    pass(f, 0, 60);
    assert_int_equal(f->completed, 60);

    block_set_limits(f->disk, &(struct block_limits){.bytes = 655360});
    submit_reads(f, r, &iov, 20); /* 64 KiB each: 10 per second */
    pass(f, 0, 61);
    assert_in_range(f->completed, 61, 63);
    pass(f, NS_PER_S, 70);
    assert_in_range(f->completed, 70, 73);
    block_drain(f->disk); /* waits for no limit */
    assert_int_equal(f->completed, 80);
    fixture_free(f);
}

static void limits_are_virtual_time_in_deterministic_mode(void **state)
{
    (void)state;
    const struct block_options options = {.limits = {.iops = 100}};
    struct fixture *f = fixture_new(&options, true);
    uint8_t data[512];
    struct iovec iov = {data, 512};
    struct block_request r[30];
    submit_reads(f, r, &iov, 30);
    vclock_advance(f->clock, 1000000);
    vclock_run_timers(f->clock);
    assert_int_equal(f->completed, 11);
    vclock_advance(f->clock, NS_PER_S / 20);
    vclock_run_timers(f->clock);
    assert_int_equal(f->completed, 16);
    block_drain(f->disk);
    assert_int_equal(f->completed, 30);
    fixture_free(f);
}

/* --- bitmaps --- */

static void what_was_written_is_marked(void **state)
{
    (void)state;
    const struct block_options options = {.werror = BLOCK_ERROR_REPORT};
    struct fixture *f = fixture_new(&options, false);
    static uint8_t data[8192];
    struct iovec iov = {data, sizeof(data)};
    uint64_t offset, length;
    struct block_bitmap *bitmap = block_bitmap_new(f->disk, 4096);
    struct block_bitmap *other = block_bitmap_new(f->disk, 65536);
    struct block_request r[] = {
        request(f, BLOCK_READ, 0, &iov), request(f, BLOCK_WRITE, 20480 + 512, &iov),
        request(f, BLOCK_DISCARD, SIZE - 8192, &iov), request(f, BLOCK_WRITE_ZEROES, 65536, &iov)};
    assert_false(block_bitmap_take(f->disk, bitmap, 0, SIZE, &offset, &length));
    for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
        block_submit(f->disk, &r[i]);
    block_drain(f->disk);
    assert_int_equal(block_bitmap_count(f->disk, bitmap), 7 * 4096);
    assert_true(block_bitmap_take(f->disk, bitmap, 0, 8192, &offset, &length));
    assert_int_equal(offset, 20480);
    assert_int_equal(length, 8192); /* `limit`: the third is left */
    assert_true(block_bitmap_take(f->disk, bitmap, 0, SIZE, &offset, &length));
    assert_int_equal(offset, 28672);
    assert_int_equal(length, 4096);
    assert_true(block_bitmap_take(f->disk, bitmap, 40960, SIZE, &offset, &length));
    assert_int_equal(offset, 65536);
    assert_true(block_bitmap_take(f->disk, bitmap, 0, SIZE, &offset, &length));
    assert_int_equal(offset, SIZE - 8192);
    assert_int_equal(length, 8192);
    assert_false(block_bitmap_take(f->disk, bitmap, 0, SIZE, &offset, &length));
    assert_int_equal(block_bitmap_count(f->disk, other), 3 * 65536);
    block_bitmap_free(f->disk, bitmap);
    block_bitmap_mark(f->disk, other, 0, SIZE);
    assert_int_equal(block_bitmap_count(f->disk, other), SIZE);
    fail_writes = EIO; /* who knows what it wrote */
    assert_true(block_bitmap_take(f->disk, other, 0, SIZE, &offset, &length));
    fixture_free(f); /* frees `other` */
}

/* --- another image --- */

static void the_image_is_exchanged_under_way(void **state)
{
    (void)state;
    const struct block_options options = {.threads_only = false};
    struct fixture *f = fixture_new(&options, false);
    int fd = disk_memory_file();
    assert_int_equal(ftruncate(fd, SIZE), 0);
    uint8_t data[512] = {1}, back[512];
    struct iovec iov = {data, 512};
    struct block_request w[64];
    for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
        w[i] = request(f, BLOCK_WRITE, i * 512, &iov);
        block_submit(f->disk, &w[i]);
    }
    struct block_image *before = block_swap(f->disk, failing_image(fd));
    assert_int_equal(f->completed, ARRAY_SIZE(w)); /* all in the old one */
    data[0] = 2;
    block_submit(f->disk, &w[0]);
    block_drain(f->disk);
    assert_int_equal(pread(f->fd, back, 512, 0), 512);
    assert_int_equal(back[0], 1);
    assert_int_equal(pread(fd, back, 512, 0), 512);
    assert_int_equal(back[0], 2);
    block_image_close(before);
    fixture_free(f);
    close(fd);
}

/* --- locks and alignment --- */

static void without_the_cache_nothing_has_to_be_aligned(void **state)
{
    (void)state;
    struct error *err = NULL;
    char path[] = "./trapeze-test-XXXXXX"; /* not /tmp: that may be a tmpfs */
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    static const struct block_image_options raw = {.format = "raw"};
    struct block_image *image = disk_open(fd, &raw, BLOCK_CACHE_NONE, &err);
    if (image == NULL) { /* a file system without O_DIRECT */
        error_free(err);
        close(fd);
        skip();
    }
    struct loop *loop = loop_new(NULL);
    const struct block_env env = {.loop = loop};
    const struct block_options options = {.werror = BLOCK_ERROR_REPORT};
    struct block *disk = block_new(image, &options, &env, &err);
    assert_no_error(err);
    struct disk_load load;
    disk_load_init(&load, disk, 77);
    for (unsigned i = 0; i < 1500;) {
        if (disk_load_submit(&load, 40))
            i++;
        else
            disk_pump(loop);
    }
    block_drain(disk);
    disk_compare_all(&load, block_image(disk));
    assert_int_equal(load.wrong, 0);
    assert_int_equal(load.errors, 0);
    disk_load_free(&load);
    block_free(disk);
    loop_free(loop);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_host_holds_requests),
        cmocka_unit_test(errors_are_reported_if_that_is_wanted),
        cmocka_unit_test(limits_hold_back_what_is_too_much),
        cmocka_unit_test(limits_are_virtual_time_in_deterministic_mode),
        cmocka_unit_test(what_was_written_is_marked),
        cmocka_unit_test(the_image_is_exchanged_under_way),
        cmocka_unit_test(without_the_cache_nothing_has_to_be_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
