/* SPDX-License-Identifier: MIT
 *
 * migrate/disks.h: disks that are copied through a socket while a random load changes them. The
 * oracles are the load's model of what every sector holds, our own reading of both images, and
 * qemu-img.
 */
#include "support.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "base/vclock.h"
#include "disk_copying.h"
#include "migrate/disks_internal.h"

#define SIZE (6 * MIB + 3 * BLOCK_SECTOR) /* ends within a page and a cluster */

/* --- disks --- */

static struct block_image *open_image(int fd, const char *format, const struct block_opener *opener)
{
    struct error *err = NULL;
    const struct block_image_options options = {.format = format, .opener = opener};
    struct block_image *image = disk_open(fd, &options, BLOCK_CACHE_WRITEBACK, &err);
    assert_no_error(err);
    return image;
}

static int new_file(const char *format, uint64_t size, const char *backing)
{
    struct error *err = NULL;
    int fd = disk_memory_file();
    const struct block_create create = {
        .size = size, .backing = backing, .backing_format = backing != NULL ? "raw" : NULL};
    assert_true(disk_create(fd, format, &create, &err));
    assert_no_error(err);
    return fd;
}

static struct block_file *open_backing(const struct block_opener *opener, const char *above,
                                       const char *name, char **resolved, struct error **err)
{
    const int *fd = opener->opaque;
    (void)above;
    *resolved = strdup(name);
    return block_file_new(fcntl(*fd, F_DUPFD_CLOEXEC, 3), true, BLOCK_CACHE_WRITEBACK, err);
}

/* A disk that a guest uses. */
struct used {
    int fd, base;
    struct block *block;
    struct disk_load load;
};

static void use_image(struct used *u, struct loop *loop, struct block_image *image,
                      const struct block_options *options)
{
    static const struct block_options none;
    struct error *err = NULL;
    const struct block_env env = {.loop = loop};
    u->block = block_new(image, options != NULL ? options : &none, &env, &err);
    assert_no_error(err);
}

/* `layered`: a qcow2 image upon a raw one that has half of the contents. */
static void use(struct used *u, struct loop *loop, const char *format, bool layered, uint64_t seed)
{
    const struct block_opener opener = {open_backing, &u->base};
    u->base = layered ? new_file("raw", SIZE - 7 * BLOCK_SECTOR, NULL) : -1;
    u->fd = new_file(format, SIZE, layered ? "base" : NULL);
    uint8_t sector[BLOCK_SECTOR];
    for (uint64_t i = 0; layered && i < SIZE / BLOCK_SECTOR / 2; i++) {
        disk_sector(sector, i, 1);
        assert_int_equal(pwrite(u->base, sector, BLOCK_SECTOR, (off_t)(i * BLOCK_SECTOR)),
                         BLOCK_SECTOR);
    }
    use_image(u, loop, open_image(u->fd, format, layered ? &opener : NULL), NULL);
    disk_load_init(&u->load, u->block, seed);
    for (uint64_t i = 0; layered && i < SIZE / BLOCK_SECTOR / 2; i++)
        u->load.version[i] = 1;
    u->load.next_version = 1;
}

static void used_free(struct used *u)
{
    block_free(u->block);
    disk_load_free(&u->load);
    close(u->fd);
    if (u->base >= 0)
        close(u->base);
}

static void work(struct used *u, struct loop *loop, unsigned requests)
{
    for (unsigned i = 0; i < requests; i++) {
        (void)disk_load_submit(&u->load, LOAD_MOST);
        disk_pump(loop);
    }
    block_drain(u->block);
}

static void assert_same(struct block_image *one, struct block_image *other)
{
    static uint8_t a[DISKS_PIECE], b[DISKS_PIECE];
    assert_int_equal(one->size, other->size);
    for (uint64_t at = 0; at < one->size; at += sizeof(a)) {
        size_t size = one->size - at < sizeof(a) ? (size_t)(one->size - at) : sizeof(a);
        assert_int_equal(block_image_read(one, at, a, size), 0);
        assert_int_equal(block_image_read(other, at, b, size), 0);
        assert_memory_equal(a, b, size);
    }
}

static bool has_qemu_img(void)
{
    return system("qemu-img --version > /dev/null 2>&1") == 0;
}

/* What another implementation thinks of the two files. */
static void ask_qemu_img(int fd, const char *format, int other, const char *other_format)
{
    char command[256];
    if (!has_qemu_img())
        return;
    snprintf(command, sizeof(command),
             "qemu-img compare -q -U -f %s -F %s /proc/%d/fd/%d /proc/%d/fd/%d", format,
             other_format, getpid(), fd, getpid(), other);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command), "qemu-img check -q -U -f qcow2 /proc/%d/fd/%d", getpid(),
             other);
    if (strcmp(other_format, "qcow2") == 0)
        assert_int_equal(system(command), 0);
}

/* --- tests --- */

static void copy_in_use(uint64_t seed)
{
    static const struct {
        const char *from, *to;
        bool layered;
    } kinds[DISKS] = {{"raw", "qcow2", false}, {"qcow2", "raw", true}, {"qcow2", "qcow2", false}};
    struct copying c = {.loop = loop_new(NULL), .count = DISKS};
    struct used used[DISKS];
    int targets[DISKS];
    c.budget = seed % 3 == 0 ? 700 * KIB : 0;
    for (size_t i = 0; i < DISKS; i++) {
        use(&used[i], c.loop, kinds[i].from, kinds[i].layered, seed * DISKS + i);
        work(&used[i], c.loop, 100);
        targets[i] = new_file(kinds[i].to, SIZE, NULL);
        c.from[i].block = used[i].block;
        c.to[i].image = open_image(targets[i], kinds[i].to, NULL);
        c.loads[i] = &used[i].load;
    }
    bool finished = copy(&c);
    assert_no_error(c.source_error);
    assert_no_error(c.target_error);
    assert_true(finished);
    for (size_t i = 0; i < DISKS; i++) {
        disk_compare_all(&used[i].load, c.to[i].image);
        assert_int_equal(used[i].load.wrong, 0);
        assert_int_equal(used[i].load.errors, 0);
        assert_same(block_image(used[i].block), c.to[i].image);
        block_image_close(c.to[i].image);
        used_free(&used[i]);
        close(targets[i]);
    }
    loop_free(c.loop);
}

static void what_arrives_is_what_the_guest_wrote(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < tier_count(6, 300); seed++)
        copy_in_use(seed);
}

/* A disk in two layers of which both ends have the lower one: all of the load's sorts of requests, also what
 * hides contents below by zeros, and discards. */
static void top_in_use(uint64_t seed)
{
    struct copying c = {.loop = loop_new(NULL), .count = 1};
    struct used used;
    uint8_t before[BLOCK_SECTOR], after[BLOCK_SECTOR];
    c.budget = seed % 3 == 0 ? 300 * KIB : 0;
    use(&used, c.loop, "qcow2", true, seed + 1000);
    work(&used, c.loop, (unsigned)(seed % 4 * 60));
    const struct block_opener opener = {open_backing, &used.base};
    int target = new_file("qcow2", SIZE, "base");
    disk_sector(before, 0, 1);
    c.from[0] = (struct disks_source_disk){used.block, DISKS_TOP};
    c.to[0] = (struct disks_target_disk){open_image(target, "qcow2", &opener), DISKS_TOP};
    c.loads[0] = seed % 4 != 0 ? &used.load : NULL;
    bool finished = copy(&c);
    assert_no_error(c.source_error);
    assert_no_error(c.target_error);
    assert_true(finished);
    if (seed % 4 == 0) /* nothing is in the top layer */
        assert_true(c.progress.total == 0 && c.progress.sent < 64);
    disk_compare_all(&used.load, c.to[0].image);
    assert_int_equal(used.load.wrong, 0);
    assert_same(block_image(used.block), c.to[0].image);
    assert_int_equal(pread(used.base, after, BLOCK_SECTOR, 0), BLOCK_SECTOR);
    assert_memory_equal(before, after, BLOCK_SECTOR);
    block_image_close(c.to[0].image);
    used_free(&used);
    close(target);
    loop_free(c.loop);
}

static void of_layers_only_the_top_one_comes(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < tier_count(8, 300); seed++)
        top_in_use(seed);
}

/* Zeros in the top layer that hide what is below, large ones as well: they come, and as such. */
static void zeros_of_a_top_hide_what_is_below(void **state)
{
    (void)state;
    struct copying c = {.loop = loop_new(NULL), .count = 1};
    struct used used;
    struct stat status;
    uint8_t sector[BLOCK_SECTOR], zero[BLOCK_SECTOR] = {0};
    use(&used, c.loop, "qcow2", true, 1);
    struct block_image *image = block_image(used.block);
    assert_int_equal(image->format->zero(image, 0, 2 * MIB, BLOCK_ZERO_UNMAP), 0);
    memset(used.load.version, 0, 2 * MIB / BLOCK_SECTOR * sizeof(used.load.version[0]));
    const struct block_opener opener = {open_backing, &used.base};
    int target = new_file("qcow2", SIZE, "base");
    c.from[0] = (struct disks_source_disk){used.block, DISKS_TOP};
    c.to[0] = (struct disks_target_disk){open_image(target, "qcow2", &opener), DISKS_TOP};
    assert_true(copy(&c));
    assert_true(c.progress.sent < 4 * KIB);
    assert_int_equal(block_image_read(c.to[0].image, MIB, sector, BLOCK_SECTOR), 0);
    assert_memory_equal(sector, zero, BLOCK_SECTOR);
    disk_compare_all(&used.load, c.to[0].image);
    assert_int_equal(used.load.wrong, 0);
    assert_int_equal(fstat(target, &status), 0);
    assert_true((uint64_t)status.st_blocks * 512 < MIB);
    block_image_close(c.to[0].image);
    used_free(&used);
    close(target);
    loop_free(c.loop);
}

/* One disk on a file, and an empty target; nothing happens meanwhile unless the test has a load. */
struct pair {
    struct copying c;
    struct used source;
    int target;
};

static void pair_open(struct pair *p, int fd, const char *format, const char *target_format,
                      const struct block_options *options)
{
    *p = (struct pair){.c = {.loop = loop_new(NULL), .count = 1}};
    p->source = (struct used){.fd = fd, .base = -1};
    struct block_image *image = open_image(fd, format, NULL);
    p->target = new_file(target_format, image->size, NULL);
    use_image(&p->source, p->c.loop, image, options);
    disk_load_init(&p->source.load, p->source.block, 1);
    p->c.from[0].block = p->source.block;
    p->c.to[0].image = open_image(p->target, target_format, NULL);
}

static void pair_close(struct pair *p)
{
    error_free(p->c.source_error);
    error_free(p->c.target_error);
    block_image_close(p->c.to[0].image);
    used_free(&p->source);
    close(p->target);
    loop_free(p->c.loop);
}

static int file_with(uint64_t size, uint64_t offset, size_t length)
{
    int fd = new_file("raw", size, NULL);
    uint8_t sector[BLOCK_SECTOR];
    for (size_t done = 0; done < length; done += BLOCK_SECTOR) {
        disk_sector(sector, (offset + done) / BLOCK_SECTOR, 1);
        assert_int_equal(pwrite(fd, sector, BLOCK_SECTOR, (off_t)(offset + done)), BLOCK_SECTOR);
    }
    return fd;
}

static void another_implementation_agrees(void **state)
{
    (void)state;
    static const char *const formats[][2] = {
        {"raw", "raw"}, {"raw", "qcow2"}, {"qcow2", "raw"}, {"qcow2", "qcow2"}};
    if (!has_qemu_img())
        skip();
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        struct pair p;
        pair_open(&p, new_file(formats[i][0], SIZE, NULL), formats[i][0], formats[i][1], NULL);
        p.c.loads[0] = &p.source.load;
        work(&p.source, p.c.loop, 50);
        assert_true(copy(&p.c));
        assert_no_error(p.c.target_error);
        block_free(p.source.block);
        block_image_close(p.c.to[0].image);
        p.source.block = NULL;
        p.c.to[0].image = NULL;
        ask_qemu_img(p.source.fd, formats[i][0], p.target, formats[i][1]);
        pair_close(&p);
    }
}

static void holes_and_zeros_are_not_sent(void **state)
{
    (void)state;
    struct pair p;
    struct stat status;
    static const uint8_t zeros[MIB];
    int fd = file_with(256 * MIB, 64 * MIB, MIB);
    assert_int_equal(pwrite(fd, zeros, MIB, 128 * MIB), MIB); /* no hole, and yet nothing */
    pair_open(&p, fd, "raw", "raw", NULL);
    assert_true(copy(&p.c));
    assert_true(p.c.progress.total == 2 * MIB);
    assert_true(p.c.progress.done == 2 * MIB);
    assert_true(p.c.progress.sent > MIB && p.c.progress.sent < MIB + 4096);
    assert_same(block_image(p.source.block), p.c.to[0].image);
    assert_int_equal(fstat(p.target, &status), 0);
    assert_true((uint64_t)status.st_blocks * 512 <= MIB + 64 * KIB);
    pair_close(&p);
}

static void nothing_done(struct block_request *request, int error)
{
    assert_int_equal(error, 0);
    *(bool *)request->opaque = true;
}

/* What was there in the first round and is discarded before the last. */
struct discarding {
    struct pair p;
    struct block_request request;
    bool done;
};

static void discard_half(void *opaque)
{
    struct discarding *d = opaque;
    d->request = (struct block_request){.kind = BLOCK_DISCARD,
                                        .offset = MIB,
                                        .length = 2 * MIB,
                                        .done = nothing_done,
                                        .opaque = &d->done};
    block_submit(d->p.source.block, &d->request);
}

static void discards_take_the_targets_space_too(void **state)
{
    (void)state;
    struct discarding d = {.done = false};
    struct stat status;
    pair_open(&d.p, file_with(8 * MIB, 0, 4 * MIB), "raw", "raw", NULL);
    d.p.c.budget = 64 * KIB; /* so that it is in the middle of it */
    loop_post(d.p.c.loop, discard_half, &d);
    assert_true(copy(&d.p.c));
    assert_true(d.done);
    assert_same(block_image(d.p.source.block), d.p.c.to[0].image);
    assert_int_equal(fstat(d.p.target, &status), 0);
    assert_true((uint64_t)status.st_blocks * 512 <= 2 * MIB + 64 * KIB);
    pair_close(&d.p);
}

static void reads_of_the_copy_are_not_the_guests(void **state)
{
    (void)state;
    struct pair p;
    struct block_counters counters;
    /* The guest's limit would make it take hours; one that counted would show. */
    static const struct block_options limited = {.limits = {.iops = 1, .bytes = 512}};
    struct vclock *clock = vclock_new(VCLOCK_REAL, 0);
    struct error *err = NULL;
    pair_open(&p, file_with(16 * MIB, 0, 8 * MIB), "raw", "raw", NULL);
    block_free(p.source.block);
    const struct block_env env = {.loop = p.c.loop, .clock = clock};
    p.source.block = block_new(open_image(p.source.fd, "raw", NULL), &limited, &env, &err);
    assert_no_error(err);
    p.c.from[0].block = p.source.block;
    assert_true(copy(&p.c));
    block_get_counters(p.source.block, &counters);
    assert_int_equal(counters.reads, 0);
    assert_int_equal(counters.read_bytes, 0);
    assert_same(block_image(p.source.block), p.c.to[0].image);
    pair_close(&p);
    vclock_free(clock);
}

/* --- disks that are not copied --- */

static void read_only_disks_are_compared(void **state)
{
    (void)state;
    for (int differ = 0; differ < 2; differ++) {
        struct pair p;
        struct error *err = NULL;
        char path[64];
        int fd = file_with(4 * MIB, MIB, MIB);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        pair_open(&p, open(path, O_RDONLY | O_CLOEXEC), "raw", "raw", NULL);
        int same = file_with(4 * MIB, MIB, MIB);
        if (differ != 0)
            assert_int_equal(pwrite(same, "x", 1, 3 * MIB + 5), 1);
        block_image_close(p.c.to[0].image);
        p.c.to[0] = (struct disks_target_disk){open_image(same, "raw", NULL), DISKS_VERIFY};
        p.c.from[0].how = DISKS_VERIFY;
        assert_int_equal(copy(&p.c), differ == 0);
        if (differ != 0)
            assert_error(&p.c.target_error, ERROR_USAGE,
                         "differs in the 512 KiB from byte 3145728 on");
        else
            assert_no_error(p.c.target_error);
        /* One that can be written to will not do. */
        struct used writable;
        use(&writable, p.c.loop, "raw", false, 1);
        const struct disks_source_disk wrong = {writable.block, DISKS_VERIFY};
        assert_null(disks_source_new(&wrong, 1, send_message, &p.c, &err));
        assert_error(&err, ERROR_USAGE, "can be written to");
        used_free(&writable);
        pair_close(&p);
        close(same);
        close(fd);
    }
}

/* Several of each kind; what is shared is only measured, what is not there is not there. */
static void shared_disks_and_empty_drives(void **state)
{
    (void)state;
    struct copying c = {.loop = loop_new(NULL), .count = DISKS};
    struct used shared, copied;
    use(&shared, c.loop, "raw", false, 1);
    use(&copied, c.loop, "qcow2", false, 2);
    work(&shared, c.loop, 40);
    work(&copied, c.loop, 40);
    int target = new_file("raw", SIZE, NULL);
    c.from[0] = (struct disks_source_disk){shared.block, DISKS_SHARED};
    c.to[0] = (struct disks_target_disk){open_image(shared.fd, "raw", NULL), DISKS_SHARED};
    c.from[2] = (struct disks_source_disk){copied.block, DISKS_COPY};
    c.to[2] = (struct disks_target_disk){open_image(target, "raw", NULL), DISKS_COPY};
    assert_true(copy(&c));
    assert_same(block_image(copied.block), c.to[2].image);
    disk_compare_all(&shared.load, c.to[0].image);
    assert_int_equal(shared.load.wrong, 0);
    block_image_close(c.to[0].image);
    block_image_close(c.to[2].image);
    used_free(&shared);
    used_free(&copied);
    close(target);
    loop_free(c.loop);
}

static void refused(struct pair *p, const char *says)
{
    assert_false(copy(&p->c));
    assert_error(&p->c.target_error, ERROR_USAGE, says);
    pair_close(p);
}

static void targets_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    struct pair p;
    char path[64];
    pair_open(&p, file_with(4 * MIB, MIB, MIB), "raw", "raw", NULL);
    assert_int_equal(ftruncate(p.target, 4 * MIB + 512), 0);
    block_image_close(p.c.to[0].image);
    p.c.to[0].image = open_image(p.target, "raw", NULL);
    refused(&p, "has 4194816 bytes here, and 4194304 where the machine is");

    pair_open(&p, file_with(4 * MIB, MIB, MIB), "raw", "raw", NULL);
    assert_int_equal(pwrite(p.target, "x", 1, 3 * MIB), 1);
    refused(&p, "not empty");

    /* What is no hole may be empty. */
    pair_open(&p, file_with(4 * MIB, MIB, MIB), "raw", "raw", NULL);
    assert_int_equal(pwrite(p.target, "", 1, 3 * MIB), 1);
    assert_true(copy(&p.c));
    pair_close(&p);

    pair_open(&p, file_with(4 * MIB, MIB, MIB), "raw", "raw", NULL);
    p.c.to[0].how = DISKS_SHARED;
    refused(&p, "is to be copied there, and shared here");

    pair_open(&p, file_with(4 * MIB, MIB, MIB), "raw", "raw", NULL);
    block_image_close(p.c.to[0].image);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", p.target);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    p.c.to[0].image = open_image(fd, "raw", NULL);
    close(fd);
    refused(&p, "cannot be written to");

    /* It lies upon nothing. */
    pair_open(&p, file_with(4 * MIB, MIB, MIB), "raw", "qcow2", NULL);
    p.c.from[0].how = p.c.to[0].how = DISKS_TOP;
    refused(&p, "no empty layer upon another image");

    pair_open(&p, file_with(4 * MIB, MIB, MIB), "raw", "raw", NULL);
    struct block_image *image = p.c.to[0].image;
    p.c.to[0].image = NULL;
    assert_false(copy(&p.c));
    assert_error(&p.c.target_error, ERROR_USAGE, "something in disk 0 there, and nothing here");
    p.c.to[0].image = image;
    pair_close(&p);
}

/* --- what goes wrong --- */

static struct block_file_ops failing_ops;
static int (*real_write)(struct block_file *file, uint64_t offset, struct block_span from);
static int (*real_flush)(struct block_file *file);
static _Atomic uint64_t room; /* bytes */
static _Atomic int flush_fails;

static int write_while_there_is_room(struct block_file *file, uint64_t offset,
                                     struct block_span from)
{
    if (from.size > room)
        return ENOSPC;
    room -= from.size;
    return real_write(file, offset, from);
}

static int flush_or_fail(struct block_file *file)
{
    return flush_fails != 0 ? flush_fails : real_flush(file);
}

static void make_it_fail(struct block_image *image)
{
    failing_ops = *image->file->ops;
    real_write = failing_ops.write;
    real_flush = failing_ops.flush;
    failing_ops.write = write_while_there_is_room;
    failing_ops.flush = flush_or_fail;
    image->file->ops = &failing_ops;
}

/* The source's machine does not notice. */
static void assert_goes_on(struct pair *p)
{
    work(&p->source, p->c.loop, 50);
    disk_compare_all(&p->source.load, block_image(p->source.block));
    assert_int_equal(p->source.load.wrong, 0);
    assert_int_equal(p->source.load.errors, 0);
}

static void a_full_target_is_a_sentence(void **state)
{
    (void)state;
    for (int qcow2 = 0; qcow2 < 2; qcow2++) {
        struct pair p;
        pair_open(&p, new_file("raw", SIZE, NULL), "raw", qcow2 ? "qcow2" : "raw", NULL);
        work(&p.source, p.c.loop, 100);
        p.c.loads[0] = &p.source.load;
        room = 128 * KIB;
        make_it_fail(p.c.to[0].image);
        assert_false(copy(&p.c));
        assert_error(&p.c.target_error, ERROR_HOST, "No space left on device");
        if (p.c.source_error != NULL) /* it may have had all in the socket by then */
            assert_error(&p.c.source_error, ERROR_HOST, "connection is lost");
        assert_goes_on(&p);
        room = UINT64_MAX;
        pair_close(&p);
    }
}

static void nothing_is_finished_that_is_not_on_the_disk(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, file_with(4 * MIB, MIB, MIB), "raw", "raw", NULL);
    make_it_fail(p.c.to[0].image);
    room = UINT64_MAX;
    flush_fails = EIO;
    assert_false(copy(&p.c));
    assert_error(&p.c.target_error, ERROR_HOST, "cannot write the target's disks out");
    flush_fails = 0;
    pair_close(&p);
}

static void no_machine_stops(void *opaque, struct block *block, enum block_kind kind, int error)
{
    (void)opaque, (void)block, (void)kind, (void)error;
    fail_msg("the machine was stopped");
}

static int no_read(struct block_file *file, uint64_t offset, struct block_span to)
{
    (void)file, (void)offset, (void)to;
    return EIO;
}

static void a_source_that_cannot_be_read_is_a_sentence(void **state)
{
    (void)state;
    struct pair p;
    struct error *err = NULL;
    pair_open(&p, file_with(4 * MIB, MIB, 2 * MIB), "raw", "raw", NULL);
    block_free(p.source.block);
    const struct block_env env = {.loop = p.c.loop, .stopped = no_machine_stops};
    struct block_image *image = open_image(p.source.fd, "raw", NULL);
    failing_ops = *image->file->ops;
    failing_ops.read = no_read;
    image->file->ops = &failing_ops;
    const struct block_options threads = {.rerror = BLOCK_ERROR_STOP, .threads_only = true};
    p.source.block = block_new(image, &threads, &env, &err);
    assert_no_error(err);
    p.c.from[0].block = p.source.block;
    assert_false(copy(&p.c));
    assert_error(&p.c.source_error, ERROR_HOST, "cannot read disk 0");
    assert_false(block_is_stopped(p.source.block));
    pair_close(&p);
}

/* Wherever the stream ends, both ends say so, and nothing is finished. */
static void cut_anywhere(void **state)
{
    (void)state;
    uint64_t whole = 0, seed = 7;
    unsigned long cuts = tier_count(60, 4000);
    for (unsigned long i = 0; i <= cuts; i++) {
        struct pair p;
        pair_open(&p, file_with(64 * KIB, 8 * KIB, 4 * KIB), "raw", "qcow2", NULL);
        for (size_t n = 16; n < 24; n++)
            p.source.load.version[n] = 1;
        p.c.cut = i == 0   ? 0
                  : i < 40 ? i
                  : i < 50 ? whole - (50 - i)
                           : 1 + random_next(&seed) % (whole - 1);
        bool finished = copy(&p.c);
        assert_int_equal(finished, i == 0);
        if (i == 0)
            whole = p.c.written;
        else
            assert_error(&p.c.source_error, ERROR_HOST, "connection is lost");
        assert_no_error(p.c.target_error); /* the stream is its reader's affair */
        assert_goes_on(&p);
        pair_close(&p);
    }
}

/* --- messages that no source of ours sends --- */

static void strange_messages_are_refused(void **state)
{
    (void)state;
    struct error *err = NULL;
    int fds[2] = {new_file("raw", MIB, NULL), new_file("raw", MIB, NULL)};
    const struct disks_target_disk disks[] = {{open_image(fds[0], "raw", NULL), DISKS_COPY},
                                              {open_image(fds[1], "raw", NULL), DISKS_SHARED},
                                              {NULL, DISKS_COPY}};
    uint8_t begin[DISKS_BEGIN_BYTES + 3 * DISKS_BEGIN_DISK_BYTES] = {DISKS_BEGIN, 3};
    begin[3] = DISKS_COPY;
    begin[13] = DISKS_SHARED;
    begin[4] = begin[14] = DISKS_PRESENT;
    store_le64(begin + 5, MIB);
    store_le64(begin + 15, MIB);
    static const struct {
        uint8_t kind;
        uint16_t disk;
        uint64_t offset, length;
        size_t size;
    } cases[] = {
        {DISKS_DATA, 0, MIB - 8, 0, DISKS_DATA_BYTES + 9},
        {DISKS_DATA, 0, UINT64_MAX - 3, 0, DISKS_DATA_BYTES + 8},
        {DISKS_DATA, 0, 0, 0, DISKS_DATA_BYTES},
        {DISKS_DATA, 1, 0, 0, DISKS_DATA_BYTES + 8}, /* which is not to be written to */
        {DISKS_DATA, 2, 0, 0, DISKS_DATA_BYTES + 8},
        {DISKS_DATA, 3, 0, 0, DISKS_DATA_BYTES + 8},
        {DISKS_DATA, 65535, 0, 0, DISKS_DATA_BYTES + 8},
        {DISKS_ZERO, 0, 512, MIB, DISKS_ZERO_BYTES},
        {DISKS_ZERO, 0, 0, 0, DISKS_ZERO_BYTES},
        {DISKS_ZERO, 0, 0, MIB, DISKS_ZERO_BYTES + 1},
        {DISKS_ZERO, 1, 0, MIB, DISKS_ZERO_BYTES},
        {DISKS_SAME, 0, 0, 4096, DISKS_SAME_BYTES},
        {DISKS_SAME, 1, 0, 4096, DISKS_SAME_BYTES},
        {DISKS_END, 7, 0, 0, DISKS_END_BYTES},
        {DISKS_BEGIN, 3, 0, 0, DISKS_BEGIN_BYTES},
        {0, 0, 0, 0, 20},
        {6, 0, 0, 0, 20},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t message[64] = {cases[i].kind};
        struct disks_target *target = disks_target_new(disks, 3, &err);
        store_le16(message + 1, cases[i].disk);
        store_le64(message + 3, cases[i].offset);
        store_le64(message + 11, cases[i].length);
        assert_false(disks_target_message(target, message, cases[i].size, &err)); /* too early */
        assert_error(&err, ERROR_USAGE, "damaged");
        assert_true(disks_target_message(target, begin, sizeof(begin), &err));
        assert_false(disks_target_message(target, message, cases[i].size, &err));
        assert_error(&err, ERROR_USAGE, "damaged");
        disks_target_free(target);
    }
    struct disks_target *target = disks_target_new(disks, 3, &err);
    assert_false(disks_target_message(target, begin, sizeof(begin) - 1, &err));
    assert_error(&err, ERROR_USAGE, "damaged");
    assert_false(disks_target_message(target, begin, DISKS_MESSAGE_MAX + 1, &err));
    assert_error(&err, ERROR_USAGE, "damaged");
    assert_false(disks_target_message(target, begin, 0, &err));
    assert_error(&err, ERROR_USAGE, "damaged");
    begin[14] = 4;
    assert_false(disks_target_message(target, begin, sizeof(begin), &err));
    assert_error(&err, ERROR_USAGE, "damaged");
    disks_target_free(target);
    for (size_t i = 0; i < 2; i++) {
        block_image_close(disks[i].image);
        close(fds[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_arrives_is_what_the_guest_wrote),
        cmocka_unit_test(of_layers_only_the_top_one_comes),
        cmocka_unit_test(zeros_of_a_top_hide_what_is_below),
        cmocka_unit_test(another_implementation_agrees),
        cmocka_unit_test(holes_and_zeros_are_not_sent),
        cmocka_unit_test(discards_take_the_targets_space_too),
        cmocka_unit_test(reads_of_the_copy_are_not_the_guests),
        cmocka_unit_test(read_only_disks_are_compared),
        cmocka_unit_test(shared_disks_and_empty_drives),
        cmocka_unit_test(targets_that_do_not_fit_are_refused),
        cmocka_unit_test(a_full_target_is_a_sentence),
        cmocka_unit_test(nothing_is_finished_that_is_not_on_the_disk),
        cmocka_unit_test(a_source_that_cannot_be_read_is_a_sentence),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(strange_messages_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
