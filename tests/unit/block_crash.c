/* SPDX-License-Identifier: MIT
 *
 * What a disk holds after the process that wrote to it was killed, wherever it was: each round
 * a child puts a random load on the disk, and is killed after a random number of requests have
 * completed. Then the image has to be free of errors (leaked clusters are none), and every
 * sector has to hold what it held at the last flush that completed, or something that was
 * written later. The next child goes on with the same image, after the leaks are repaired.
 *
 * The journal, in memory shared with the parent: for each sector the version that the last
 * completed flush covers, and all versions written since are larger.
 *
 * A second test cuts power rather than the process: see power_loss_leaves_a_usable_image.
 */
#include "support.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "disk.h"

#define SIZE    (8 * MIB)
#define SECTORS (SIZE / BLOCK_SECTOR)

struct journal {
    uint32_t flushed[SECTORS];    /* version that a completed flush covers */
    uint8_t may_be_zero[SECTORS]; /* zeroed or discarded since */
    uint32_t newest;              /* versions given out */
    _Atomic uint64_t completed;   /* requests, in this round */
};

/* --- the child --- */

struct child {
    struct disk_load load;
    struct journal *journal;
    struct loop *loop;
    /* When the flush under way was submitted: versions, what nobody was changing, the time. */
    uint32_t before[SECTORS];
    uint8_t settled[SECTORS];
    uint64_t flush_at;
    uint64_t time, zeroed_at[SECTORS]; /* in requests */
    struct block_request flush;
    bool flushing;
};

static void flushed(struct block_request *request, int error)
{
    struct child *child = request->opaque;
    struct journal *journal = child->journal;
    if (error != 0)
        _exit(2);
    for (uint64_t i = 0; i < SECTORS; i++) {
        if (journal->flushed[i] != child->before[i])
            journal->flushed[i] = child->before[i];
        if (child->settled[i] && child->zeroed_at[i] <= child->flush_at)
            journal->may_be_zero[i] = 0;
    }
    child->flushing = false;
}

/* A zero or a discard may take effect at once, and so may a newer write; an older one never. */
static void note(void *opaque, const struct disk_slot *slot)
{
    struct child *child = opaque;
    bool zeroes = slot->request.kind == BLOCK_DISCARD || slot->request.kind == BLOCK_WRITE_ZEROES;
    child->journal->newest = child->load.next_version;
    child->time++;
    for (uint64_t i = 0; zeroes && i < slot->count; i++) {
        child->journal->may_be_zero[slot->first + i] = 1;
        child->zeroed_at[slot->first + i] = child->time;
    }
}

static void submit_flush(struct child *child)
{
    struct disk_load *load = &child->load;
    memcpy(child->before, load->version, SECTORS * sizeof(uint32_t));
    for (uint64_t i = 0; i < SECTORS; i++)
        child->settled[i] = !load->changing[i] && !load->unsure[i] && load->version[i] != 0;
    child->flush_at = child->time;
    child->flushing = true;
    child->flush = (struct block_request){.kind = BLOCK_FLUSH, .done = flushed, .opaque = child};
    block_submit(load->disk, &child->flush);
}

static void submit_some(struct child *child)
{
    for (unsigned i = 0; i < LOAD_IN_FLIGHT; i++)
        (void)disk_load_submit(&child->load, 250);
    if (!child->flushing && disk_random(&child->load) % 8 == 0)
        submit_flush(child);
}

static _Noreturn void child_run(int fd, struct journal *journal, uint64_t seed, bool threads_only)
{
    static const struct block_image_options qcow2 = {.format = "qcow2"};
    struct block_options options = {.threads_only = threads_only};
    static struct child child;
    child.journal = journal;
    child.loop = loop_new(NULL);
    struct block_env env = {.loop = child.loop};
    struct block_image *image = disk_open(fd, &qcow2, BLOCK_CACHE_WRITEBACK, NULL);
    struct block *disk = image != NULL ? block_new(image, &options, &env, NULL) : NULL;
    if (disk == NULL)
        _exit(3);
    disk_load_init(&child.load, disk, seed);
    child.load.next_version = journal->newest;
    child.load.before = note;
    child.load.opaque = &child;
    memcpy(child.load.version, journal->flushed, sizeof(journal->flushed));
    /* What was not flushed may be anything: never compared before it is written again. */
    for (;;) {
        unsigned before = child.load.in_flight;
        submit_some(&child);
        unsigned now = child.load.in_flight;
        disk_pump(child.loop);
        atomic_fetch_add(&journal->completed,
                         now > child.load.in_flight ? now - child.load.in_flight : (before == now));
        if (child.load.errors != 0)
            _exit(4);
    }
}

/* --- the parent --- */

static struct block_check checked(int fd, bool repair)
{
    struct error *err = NULL;
    struct block_check result = {.report = NULL};
    const struct block_image_options options = {.format = "qcow2", .to_check = true};
    struct block_image *image = disk_open(fd, &options, BLOCK_CACHE_WRITEBACK, &err);
    assert_no_error(err);
    image->format->check(image, repair, &result, &err);
    assert_no_error(err);
    block_image_close(image);
    return result;
}

/* Every sector is what the last flush covered or something newer; takes over what it is. */
static void compare(int fd, struct journal *journal, uint64_t seed)
{
    struct error *err = NULL;
    const struct block_image_options options = {.format = "qcow2"};
    struct block_image *image = disk_open(fd, &options, BLOCK_CACHE_WRITEBACK, &err);
    assert_no_error(err);
    for (uint64_t i = 0; i < SECTORS; i++) {
        uint8_t got[BLOCK_SECTOR], wanted[BLOCK_SECTOR];
        uint64_t number;
        uint32_t version;
        assert_int_equal(block_image_read(image, i * BLOCK_SECTOR, got, sizeof(got)), 0);
        memcpy(&number, got, 8);
        memcpy(&version, got + 8, 4);
        disk_sector(wanted, number, version);
        bool zero = memcmp(got, (uint8_t[BLOCK_SECTOR]){0}, BLOCK_SECTOR) == 0;
        bool whole = zero || (number == i && memcmp(got, wanted, BLOCK_SECTOR) == 0);
        bool new_enough = zero ? journal->flushed[i] == 0 || journal->may_be_zero[i]
                               : version >= journal->flushed[i] && version <= journal->newest;
        if (!whole || !new_enough)
            fail_msg("seed %llu: sector %llu holds sector %llu version %u, flushed was %u",
                     (unsigned long long)seed, (unsigned long long)i, (unsigned long long)number,
                     version, journal->flushed[i]);
        journal->flushed[i] = zero ? 0 : version;
        journal->may_be_zero[i] = 0;
    }
    block_image_close(image);
}

static void crash_rounds(uint32_t cluster, uint64_t seed, unsigned rounds)
{
    struct error *err = NULL;
    int fd = disk_memory_file();
    struct journal *journal =
        mmap(NULL, sizeof(*journal), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(journal != MAP_FAILED);
    disk_create(fd, "qcow2", &(struct block_create){.size = SIZE, .cluster_size = cluster}, &err);
    assert_no_error(err);
    for (unsigned round = 0; round < rounds; round++) {
        uint64_t one = seed + round, random = one;
        uint64_t wanted = random_next(&random) % 1500;
        atomic_store(&journal->completed, 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            child_run(fd, journal, one, round % 2 != 0);
        int status = 0;
        while (atomic_load(&journal->completed) < wanted && waitpid(pid, &status, WNOHANG) == 0)
            usleep(200);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        if (WIFEXITED(status))
            fail_msg("seed %llu: the child ended with %d", (unsigned long long)one,
                     WEXITSTATUS(status));
        struct block_check result = checked(fd, false);
        if (result.corruptions != 0)
            fail_msg("seed %llu: %llu corruptions", (unsigned long long)one,
                     (unsigned long long)result.corruptions);
        compare(fd, journal, one);
        (void)checked(fd, true);
    }
    munmap(journal, sizeof(*journal));
    close(fd);
}

static void a_killed_writer_loses_nothing_flushed(void **state)
{
    (void)state;
    static const uint32_t clusters[] = {512, 4096, 65536, 1048576};
    unsigned rounds = (unsigned)tier_count(3, 60);
    for (unsigned i = 0; i < ARRAY_SIZE(clusters); i++)
        crash_rounds(clusters[i], 7000 + 1000 * i, rounds);
}

/* --- loss of power --- */

/* A file that forgets: what was written since a flush may reach the platter or not, sector by
 * sector, in no order. */
struct platter {
    struct block_file file;
    uint8_t *stable; /* what survives for certain */
    uint8_t *latest;
    size_t size, room;
    /* Power fails after so many more operations: what is left then. */
    unsigned countdown;
    bool flushes_only, in_flush; /* only operations of the guest's flushes count */
    uint64_t seed;
    uint8_t *left;
    size_t left_size;
    bool lost;
};

static struct platter *platter_of(struct block_file *file)
{
    return CONTAINER_OF(file, struct platter, file);
}

static void platter_need(struct platter *platter, size_t size)
{
    if (size > platter->room)
        fail_msg("the image grew beyond %zu", platter->room);
    if (size > platter->size)
        platter->size = size;
}

/* Any sector that was written since the last flush may be old or new. */
static void lose_power(struct platter *platter)
{
    platter->lost = true;
    platter->left_size = platter->size;
    for (size_t at = 0; at < platter->room; at += BLOCK_SECTOR) {
        bool differs = memcmp(platter->stable + at, platter->latest + at, BLOCK_SECTOR) != 0;
        const uint8_t *from =
            differs && random_next(&platter->seed) % 2 == 0 ? platter->stable : platter->latest;
        memcpy(platter->left + at, from + at, BLOCK_SECTOR);
    }
}

static void operation(struct platter *platter)
{
    if ((platter->in_flush || !platter->flushes_only) && platter->countdown > 0 &&
        --platter->countdown == 0)
        lose_power(platter);
}

static int platter_read(struct block_file *file, uint64_t offset, struct block_span to)
{
    struct platter *platter = platter_of(file);
    if (offset + to.size > platter->room)
        return EIO;
    block_span_fill(to, platter->latest + offset);
    return 0;
}

static int platter_write(struct block_file *file, uint64_t offset, struct block_span from)
{
    struct platter *platter = platter_of(file);
    operation(platter);
    platter_need(platter, (size_t)(offset + from.size));
    block_span_read(from, platter->latest + offset);
    return 0;
}

static int platter_flush(struct block_file *file)
{
    struct platter *platter = platter_of(file);
    operation(platter);
    memcpy(platter->stable, platter->latest, platter->room);
    return 0;
}

static int platter_zero(struct block_file *file, uint64_t offset, uint64_t length, unsigned flags)
{
    struct platter *platter = platter_of(file);
    operation(platter);
    (void)flags;
    platter_need(platter, (size_t)(offset + length));
    memset(platter->latest + offset, 0, (size_t)length);
    return 0;
}

/* What is discarded may become anything. */
static int platter_discard(struct block_file *file, uint64_t offset, uint64_t length)
{
    struct platter *platter = platter_of(file);
    operation(platter);
    memset(platter->latest + offset, 0xdd, (size_t)length);
    return 0;
}

static int platter_truncate(struct block_file *file, uint64_t size)
{
    platter_of(file)->size = (size_t)size;
    return 0;
}

static int platter_size(struct block_file *file, uint64_t *size)
{
    *size = platter_of(file)->size;
    return 0;
}

static void platter_close(struct block_file *file)
{
    (void)file; /* the test's */
}

static const struct block_file_ops platter_ops = {
    .read = platter_read,
    .write = platter_write,
    .flush = platter_flush,
    .zero = platter_zero,
    .discard = platter_discard,
    .truncate = platter_truncate,
    .size = platter_size,
    .close = platter_close,
};

static void platter_init(struct platter *platter)
{
    *platter = (struct platter){.file = {.ops = &platter_ops, .fd = -1, .align = 1, .parallel = 1},
                                .room = 24 * MIB};
    platter->stable = calloc(1, platter->room);
    platter->latest = calloc(1, platter->room);
    platter->left = calloc(1, platter->room);
}

static void platter_free(struct platter *platter)
{
    free(platter->stable);
    free(platter->latest);
    free(platter->left);
}

struct power {
    struct platter platter;
    uint32_t flushed[SECTORS], newest[SECTORS];
    uint8_t may_be_zero[SECTORS];
    uint32_t version;
    uint64_t seed;
};

/* Writes of one sector each, which the platter writes as a whole. */
static void random_request(struct power *p, struct block_image *image)
{
    uint8_t data[BLOCK_SECTOR];
    uint64_t random = random_next(&p->seed), sector = (random >> 16) % SECTORS;
    uint64_t count = 1 + (random >> 40) % 64;
    if (count > SECTORS - sector)
        count = SECTORS - sector;
    unsigned kind = (unsigned)(random % 16);
    if (kind == 0) {
        p->platter.in_flush = true;
        assert_int_equal(image->format->flush(image), 0);
        p->platter.in_flush = false;
        if (p->platter.lost)
            return;
        memcpy(p->flushed, p->newest, sizeof(p->flushed));
        memset(p->may_be_zero, 0, sizeof(p->may_be_zero));
        for (uint64_t i = 0; i < SECTORS; i++)
            p->may_be_zero[i] = p->newest[i] == 0;
    } else if (kind <= 3) {
        if (kind == 1)
            count *= 16;
        if (count > SECTORS - sector)
            count = SECTORS - sector;
        /* Zeroed for certain, so that versions stay known. */
        assert_int_equal(image->format->zero(image, sector * BLOCK_SECTOR, count * BLOCK_SECTOR,
                                             kind == 2 ? 0 : BLOCK_ZERO_UNMAP),
                         0);
        for (uint64_t i = sector; i < sector + count; i++) {
            p->newest[i] = 0;
            p->may_be_zero[i] = 1;
        }
    } else {
        for (uint64_t i = sector; i < sector + count; i++) {
            disk_sector(data, i, ++p->version);
            assert_int_equal(block_image_write(image, i * BLOCK_SECTOR, data, sizeof(data)), 0);
            p->newest[i] = p->version;
        }
    }
}

static void compare_after_loss(struct power *p, struct block_image *image, uint64_t seed)
{
    for (uint64_t i = 0; i < SECTORS; i++) {
        uint8_t got[BLOCK_SECTOR], wanted[BLOCK_SECTOR];
        uint64_t number;
        uint32_t version;
        assert_int_equal(block_image_read(image, i * BLOCK_SECTOR, got, sizeof(got)), 0);
        memcpy(&number, got, 8);
        memcpy(&version, got + 8, 4);
        disk_sector(wanted, number, version);
        bool zero = memcmp(got, (uint8_t[BLOCK_SECTOR]){0}, BLOCK_SECTOR) == 0;
        bool good = zero ? p->flushed[i] == 0 || p->may_be_zero[i]
                         : number == i && version >= p->flushed[i] && version <= p->version &&
                               memcmp(got, wanted, BLOCK_SECTOR) == 0;
        if (!good)
            fail_msg("seed %llu: sector %llu holds sector %llu version %u, flushed was %u",
                     (unsigned long long)seed, (unsigned long long)i, (unsigned long long)number,
                     version, p->flushed[i]);
    }
}

static void power_round(uint32_t cluster, uint64_t seed)
{
    static const struct block_image_options qcow2 = {.format = "qcow2"},
                                            to_check = {.format = "qcow2", .to_check = true};
    struct error *err = NULL;
    struct power *p = calloc(1, sizeof(*p));
    struct block_check result = {.report = NULL};
    p->seed = seed;
    platter_init(&p->platter);
    const struct block_create create = {.size = SIZE, .cluster_size = cluster};
    assert_true(block_format_find("qcow2")->create(&p->platter.file, &create, &err));
    struct block_image *image = block_image_open(&p->platter.file, "platter", &qcow2, &err);
    assert_no_error(err);
    p->platter.seed = random_next(&p->seed);
    p->platter.flushes_only = seed % 4 != 0;
    p->platter.countdown =
        1 + (unsigned)(random_next(&p->seed) % (p->platter.flushes_only ? 60 : 1500));
    while (!p->platter.lost)
        random_request(p, image);
    block_image_close(image);
    memcpy(p->platter.latest, p->platter.left, p->platter.room);
    p->platter.size = p->platter.left_size;
    image = block_image_open(&p->platter.file, "platter", &to_check, &err);
    assert_no_error(err);
    assert_true(image->format->check(image, false, &result, &err));
    assert_no_error(err);
    if (result.corruptions != 0)
        fail_msg("cluster %u, seed %llu: %llu corruptions", cluster, (unsigned long long)seed,
                 (unsigned long long)result.corruptions);
    compare_after_loss(p, image, seed);
    block_image_close(image);
    platter_free(&p->platter);
    free(p);
}

static void power_loss_leaves_a_usable_image(void **state)
{
    (void)state;
    static const uint32_t clusters[] = {512, 4096, 65536};
    unsigned long rounds = tier_count(40, 1000);
    for (unsigned i = 0; i < ARRAY_SIZE(clusters); i++)
        for (unsigned long round = 0; round < rounds; round++)
            power_round(clusters[i], 90000 * i + round);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_writer_loses_nothing_flushed),
        cmocka_unit_test(power_loss_leaves_a_usable_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
