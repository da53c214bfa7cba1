/* SPDX-License-Identifier: MIT
 *
 * dev/scsi*.c as a host adapter sees it.
 */
#include "support.h"

#include <sys/mman.h>
#include <unistd.h>

#include "dev/scsi.h"
#include "virtio_guest.h"

#define SECTORS 256u

struct fixture {
    struct guest g;
    pthread_mutex_t lock;
    struct block *disk;
    int fd;
    struct scsi_unit unit;
    struct scsi_task task;
    struct iovec iov[2];
    unsigned done;
};

static struct fixture *fixture_new(bool optical, bool read_only)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->g, true);
    pthread_mutex_init(&f->lock, NULL);
    f->fd = memfd_create("disk", MFD_CLOEXEC);
    for (unsigned i = 0; i < SECTORS; i++) {
        uint8_t sector[512];
        memset(sector, (int)i + 1, sizeof(sector));
        assert_int_equal(write(f->fd, sector, sizeof(sector)), sizeof(sector));
    }
    const struct block_env env = {
        .loop = f->g.loop, .clock = f->g.env.clock, .deterministic = true};
    f->disk = block_new_raw(dup(f->fd), read_only || optical, &env, NULL);
    assert_non_null(f->disk);
    scsi_unit_init(&f->unit, &(struct scsi_unit_params){.disk = f->disk,
                                                        .optical = optical,
                                                        .autosense = !optical,
                                                        .id = "disk7",
                                                        .serial = optical ? NULL : "SERIAL-1",
                                                        .log = &f->g.log,
                                                        .lock = &f->lock});
    return f;
}

static int setup_disk(void **state)
{
    *state = fixture_new(false, false);
    return 0;
}

static int setup_read_only(void **state)
{
    *state = fixture_new(false, true);
    return 0;
}

static int setup_cd(void **state)
{
    *state = fixture_new(true, false);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    block_free(f->disk);
    device_free(f->g.bridge);
    vclock_free(f->g.env.clock);
    loop_free(f->g.loop);
    mem_space_free(f->g.mem);
    close(f->fd);
    free(f);
    return 0;
}

static void task_done(struct scsi_task *task)
{
    CONTAINER_OF(task, struct fixture, task)->done++;
}

/* Carries a command out; the buffer is in two pieces. Returns the sense in short, 0: GOOD. */
static uint32_t run(struct fixture *f, struct scsi_unit *unit, const uint8_t *cdb, bool out,
                    void *data, size_t size)
{
    f->task = (struct scsi_task){.unit = unit, .luns = 1, .done = task_done};
    memcpy(f->task.cdb, cdb, SCSI_CDB_SIZE);
    f->iov[0] = (struct iovec){data, size / 3};
    f->iov[1] = (struct iovec){(uint8_t *)data + size / 3, size - size / 3};
    f->done = 0;
    if (out) {
        f->task.out = f->iov;
        f->task.out_count = size > 0 ? 2 : 0;
        f->task.out_size = size;
    } else {
        f->task.in = f->iov;
        f->task.in_count = size > 0 ? 2 : 0;
        f->task.in_size = size;
    }
    pthread_mutex_lock(&f->lock);
    scsi_start(&f->task);
    if (unit != NULL)
        scsi_unplug(unit);
    pthread_mutex_unlock(&f->lock);
    while (f->done == 0) {
        vclock_advance(f->g.env.clock, 1000000);
        vclock_run_timers(f->g.env.clock);
    }
    assert_int_equal(f->done, 1);
    assert_int_equal(f->task.status == SCSI_GOOD, f->task.why == 0);
    return f->task.why;
}

#define CDB(...) ((const uint8_t[SCSI_CDB_SIZE]){__VA_ARGS__})

static uint32_t in(struct fixture *f, const uint8_t *cdb, void *data, size_t size)
{
    return run(f, &f->unit, cdb, false, data, size);
}

static uint32_t out(struct fixture *f, const uint8_t *cdb, void *data, size_t size)
{
    return run(f, &f->unit, cdb, true, data, size);
}

static uint32_t plain(struct fixture *f, const uint8_t *cdb)
{
    return run(f, &f->unit, cdb, false, NULL, 0);
}

static void ready(struct fixture *f)
{
    assert_int_equal(plain(f, CDB(0x00)), SCSI_POWERED_ON);
    assert_int_equal(plain(f, CDB(0x00)), 0);
}

static uint8_t file_byte(struct fixture *f, unsigned sector)
{
    uint8_t byte;
    assert_int_equal(pread(f->fd, &byte, 1, sector * 512), 1);
    return byte;
}

static void test_says_what_it_is(void **state)
{
    struct fixture *f = *state;
    uint8_t data[255];
    /* Before the unit attention condition has been told, and without taking it. */
    assert_int_equal(in(f, CDB(0x12, 0, 0, 0, 36), data, sizeof(data)), 0);
    assert_int_equal(f->task.moved, 36);
    assert_int_equal(data[0], 0);
    assert_memory_equal(data + 8, "TRAPEZE VIRTUAL DISK", 20);
    assert_int_equal(in(f, CDB(0x12, 1, 0x00, 0, 255), data, sizeof(data)), 0);
    assert_memory_equal(data + 4, "\x00\x80\x83\xb0\xb1\xb2", 6);
    assert_int_equal(in(f, CDB(0x12, 1, 0x80, 0, 255), data, sizeof(data)), 0);
    assert_memory_equal(data, "\x00\x80\x00\x08SERIAL-1", 12);
    assert_int_equal(in(f, CDB(0x12, 1, 0x83, 0, 255), data, sizeof(data)), 0);
    assert_memory_equal(data + 4, "\x02\x01\x00\x10TRAPEZE SERIAL-1", 20);
    assert_int_equal(in(f, CDB(0x12, 1, 0xb2, 0, 255), data, sizeof(data)), 0);
    assert_int_equal(data[5], 0xe0);
    assert_int_equal(in(f, CDB(0x12, 1, 0xc0, 0, 255), data, sizeof(data)), SCSI_SENSE(5, 0x24, 0));
    assert_int_equal(in(f, CDB(0x12, 0, 0x80, 0, 255), data, sizeof(data)), SCSI_SENSE(5, 0x24, 0));
    ready(f);
    assert_int_equal(in(f, CDB(0x25), data, 8), 0);
    assert_memory_equal(data, "\x00\x00\x00\xff\x00\x00\x02\x00", 8);
    assert_int_equal(in(f, CDB(0x9e, 0x10, [13] = 32), data, 32), 0);
    assert_memory_equal(data, "\x00\x00\x00\x00\x00\x00\x00\xff\x00\x00\x02\x00", 12);
    assert_int_equal(data[14], 0x80);
}

static void test_reads_and_writes(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *read, *write;
        size_t size;
    } kinds[] = {
        {"\x08\x00\x00\x05\x02\x00", "\x0a\x00\x00\x05\x02\x00", 6},
        {"\x28\x00\x00\x00\x00\x05\x00\x00\x02\x00", "\x2a\x00\x00\x00\x00\x05\x00\x00\x02\x00",
         10},
        {"\xa8\x00\x00\x00\x00\x05\x00\x00\x00\x02\x00\x00",
         "\xaa\x08\x00\x00\x00\x05\x00\x00\x00\x02\x00\x00", 12},
        {"\x88\x00\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x02\x00\x00",
         "\x8a\x00\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x02\x00\x00", 16},
    };
    ready(f);
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        uint8_t cdb[SCSI_CDB_SIZE] = {0}, data[1024];
        memset(data, 0x40 + (int)i, sizeof(data));
        memcpy(cdb, kinds[i].write, kinds[i].size);
        assert_int_equal(out(f, cdb, data, sizeof(data)), 0);
        assert_int_equal(f->task.moved, 1024);
        assert_int_equal(file_byte(f, 6), 0x40 + i);
        assert_int_equal(file_byte(f, 7), 8);
        memset(data, 0, sizeof(data));
        memset(cdb, 0, sizeof(cdb));
        memcpy(cdb, kinds[i].read, kinds[i].size);
        assert_int_equal(in(f, cdb, data, sizeof(data)), 0);
        assert_int_equal(data[0], 0x40 + i);
        assert_int_equal(data[1023], 0x40 + i);
    }
    assert_int_equal(plain(f, CDB(0x35)), 0);
}

static void test_what_cannot_be(void **state)
{
    struct fixture *f = *state;
    uint8_t data[1024];
    ready(f);
    assert_int_equal(in(f, CDB(0x28, 0, 0, 0, 0, 255, 0, 0, 2), data, sizeof(data)),
                     SCSI_SENSE(5, 0x21, 0));
    assert_memory_equal(f->task.sense, "\xf0\x00\x05\x00\x00\x00\xff\x0a", 8);
    assert_int_equal(in(f, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 3), data, sizeof(data)),
                     SCSI_SENSE(0x0b, 0x4b, 0));
    assert_true(f->task.overrun);
    assert_int_equal(in(f, CDB(0x28, 0x20, 0, 0, 0, 0, 0, 0, 1), data, sizeof(data)),
                     SCSI_SENSE(5, 0x24, 0));
    assert_int_equal(plain(f, CDB(0xff)), SCSI_SENSE(5, 0x20, 0));
    assert_int_equal(plain(f, CDB(0x9e, 0x1f)), SCSI_SENSE(5, 0x24, 0));
    assert_int_equal(plain(f, CDB(0x00, [5] = 4)), SCSI_SENSE(5, 0x24, 0)); /* NACA */
    assert_int_equal(plain(f, CDB(0x1b, [4] = 0)), 0);
    assert_int_equal(plain(f, CDB(0x00)), SCSI_SENSE(2, 4, 2));
    assert_int_equal(plain(f, CDB(0x1b, [4] = 1)), 0);
    assert_int_equal(plain(f, CDB(0x00)), 0);
}

static void test_a_read_only_disk(void **state)
{
    struct fixture *f = *state;
    uint8_t data[512] = {0};
    ready(f);
    assert_int_equal(out(f, CDB(0x2a, [8] = 1), data, 512), SCSI_SENSE(7, 0x27, 0));
    assert_int_equal(out(f, CDB(0x93, [13] = 1), data, 512), SCSI_SENSE(7, 0x27, 0));
    assert_int_equal(file_byte(f, 0), 1);
    assert_int_equal(in(f, CDB(0x1a, 8, 0x3f, 0, 255), data, 255), 0);
    assert_int_equal(data[2], 0x90); /* write-protected, DPO and FUA */
}

static void test_gives_space_back(void **state)
{
    struct fixture *f = *state;
    uint8_t list[8 + 32] = {[1] = 38, [3] = 32, [15] = 4, [19] = 2, [31] = 9, [35] = 1};
    uint8_t data[512] = {0};
    ready(f);
    assert_int_equal(out(f, CDB(0x42, [8] = sizeof(list)), list, sizeof(list)), 0);
    for (unsigned i = 3; i < 11; i++)
        assert_int_equal(file_byte(f, i), i == 4 || i == 5 || i == 9 ? 0 : i + 1);
    list[15] = 0xff;
    assert_int_equal(out(f, CDB(0x42, [8] = sizeof(list)), list, sizeof(list)),
                     SCSI_SENSE(5, 0x21, 0));
    assert_int_equal(out(f, CDB(0x42, [8] = 40), list, 24), SCSI_SENSE(5, 0x1a, 0));
    /* WRITE SAME: of zeros, giving space back, of something else, of nothing. */
    assert_int_equal(out(f, CDB(0x93, 0x08, [9] = 20, [13] = 3), data, 512), 0);
    assert_int_equal(file_byte(f, 22), 0);
    assert_int_equal(file_byte(f, 23), 24);
    data[0] = 0x77;
    assert_int_equal(out(f, CDB(0x41, [5] = 30, [8] = 100), data, 512), 0);
    for (unsigned i = 30; i < 130; i++)
        assert_int_equal(file_byte(f, i), 0x77);
    assert_int_equal(file_byte(f, 130), 131);
    assert_int_equal(out(f, CDB(0x93, 0x01, [9] = 40, [13] = 1), NULL, 0), 0); /* no data sent */
    assert_int_equal(file_byte(f, 40), 0);
    assert_int_equal(out(f, CDB(0x93), data, 512), SCSI_SENSE(5, 0x24, 0));
}

static void test_mode_pages(void **state)
{
    struct fixture *f = *state;
    uint8_t data[255], list[24] = {[4] = 0x08, [5] = 18};
    ready(f);
    assert_int_equal(in(f, CDB(0x5a, 8, 0x08, [8] = 255), data, 255), 0);
    assert_memory_equal(data + 8, "\x08\x12\x04", 3);
    assert_int_equal(in(f, CDB(0x5a, 8, 0x48, [8] = 255), data, 255), 0); /* changeable */
    assert_memory_equal(data + 8, "\x08\x12\x04\x00", 4);
    assert_int_equal(out(f, CDB(0x15, 0x10, [4] = 24), list, 24), 0);
    assert_false(f->unit.write_cache);
    assert_int_equal(f->task.io.kind, BLOCK_FLUSH); /* of what was in it */
    list[6] = 0x05;                                 /* something that cannot change */
    assert_int_equal(out(f, CDB(0x15, 0x10, [4] = 24), list, 24), SCSI_SENSE(5, 0x26, 0));
    assert_false(f->unit.write_cache);
    assert_int_equal(out(f, CDB(0x15, 0x10, [4] = 5), list, 5), SCSI_SENSE(5, 0x1a, 0));
    assert_int_equal(in(f, CDB(0x1a, 8, 0x3e, [4] = 255), data, 255), SCSI_SENSE(5, 0x24, 0));
    assert_int_equal(in(f, CDB(0x1a, 8, 0xc8, [4] = 255), data, 255), SCSI_SENSE(5, 0x39, 0));
    uint8_t block[512] = {0}; /* without a cache a write ends in a flush, and works */
    assert_int_equal(out(f, CDB(0x2a, [5] = 3, [8] = 1), block, 512), 0);
    assert_int_equal(f->task.io.kind, BLOCK_FLUSH);
    for (unsigned value = 0; value < 2; value++) { /* and so does a WRITE SAME */
        block[0] = (uint8_t)value;
        assert_int_equal(out(f, CDB(0x41, [5] = 3, [8] = 1), block, 512), 0);
        assert_int_equal(f->task.io.kind, BLOCK_FLUSH);
    }
    list[6] = 0x04;
    assert_int_equal(out(f, CDB(0x15, 0x10, [4] = 24), list, 24), 0);
    assert_int_equal(out(f, CDB(0x41, [5] = 3, [8] = 1), block, 512), 0);
    assert_int_equal(f->task.io.kind, BLOCK_WRITE);
}

static void test_supported_operations(void **state)
{
    struct fixture *f = *state;
    uint8_t data[1024] = {0};
    ready(f);
    assert_int_equal(in(f, CDB(0xa3, 0x0c, 3, 0x93, [8] = 4), data, 1024), 0);
    assert_int_equal(data[1] & 7, 3);
    assert_int_equal(data[3], 16);
    assert_int_equal(in(f, CDB(0xa3, 0x0c, 3, 0xc1, [8] = 4), data, 1024), 0);
    assert_int_equal(data[1] & 7, 1);
    assert_int_equal(in(f, CDB(0xa3, 0x0c, 2, 0x9e, 0, 0x10, [8] = 4), data, 1024), 0);
    assert_int_equal(data[1] & 7, 3);
    assert_int_equal(in(f, CDB(0xa3, 0x0c, 0, [8] = 4), data, 1024), 0);
    size_t size = 4 + (size_t)data[2] * 256 + data[3];
    assert_int_equal(f->task.moved, size);
    for (size_t at = 4; at < size; at += 8) /* each of them is known */
        assert_int_not_equal(plain(f, CDB(data[at], data[at + 3])), SCSI_SENSE(5, 0x20, 0));
}

static void test_units_that_are_not_there(void **state)
{
    struct fixture *f = *state;
    uint8_t data[64];
    assert_int_equal(run(f, NULL, CDB(0x12, 0, 0, 0, 36), false, data, 64), 0);
    assert_int_equal(data[0], 0x7f);
    assert_int_equal(run(f, NULL, CDB(0x28), false, data, 64), SCSI_SENSE(5, 0x25, 0));
    assert_int_equal(run(f, NULL, CDB(0x03, [4] = 18), false, data, 64), 0);
    assert_int_equal(data[12], 0x25);
    assert_int_equal(run(f, NULL, CDB(0xa0, [9] = 64), false, data, 64), 0);
    assert_int_equal(data[3], 8);
}

static void test_a_disc(void **state)
{
    struct fixture *f = *state;
    uint8_t data[4096];
    assert_int_equal(in(f, CDB(0x12, [4] = 96), data, 96), 0);
    assert_memory_equal(data, "\x05\x80", 2);
    ready(f);
    assert_int_equal(in(f, CDB(0x25), data, 8), 0);
    assert_memory_equal(data, "\x00\x00\x00\x3f\x00\x00\x08\x00", 8);
    assert_int_equal(in(f, CDB(0x28, [5] = 1, [8] = 2), data, 4096), 0);
    assert_int_equal(data[0], 5);
    assert_int_equal(in(f, CDB(0xbe, [5] = 2, [8] = 1, [9] = 0x10), data, 2048), 0);
    assert_int_equal(data[0], 9);
    assert_int_equal(in(f, CDB(0xbe, 0x04, [8] = 1, [9] = 0x10), data, 2048),
                     SCSI_SENSE(5, 0x64, 0)); /* audio */
    assert_int_equal(in(f, CDB(0xbe, [8] = 1, [9] = 0xf8), data, 2352), SCSI_SENSE(5, 0x24, 0));
    assert_int_equal(in(f, CDB(0x43, 0x02, [8] = 20), data, 20), 0); /* in minutes and seconds */
    assert_memory_equal(data,
                        "\x00\x12\x01\x01\x00\x14\x01\x00\x00\x00\x02\x00"
                        "\x00\x14\xaa\x00\x00\x00\x02\x40",
                        20);
    assert_int_equal(in(f, CDB(0x43, [6] = 2, [8] = 20), data, 20), SCSI_SENSE(5, 0x24, 0));
    assert_int_equal(in(f, CDB(0x46, [8] = 255), data, 255), 0);
    assert_int_equal(data[7], 0x08); /* a CD-ROM */
    assert_int_equal(in(f, CDB(0x51, [8] = 34), data, 34), 0);
    assert_int_equal(in(f, CDB(0x5a, 0, 0x2a, [8] = 64), data, 64), 0);
    assert_int_equal(data[8], 0x2a);
    assert_int_equal(out(f, CDB(0x2a, [8] = 1), data, 2048), SCSI_SENSE(5, 0x20, 0));
}

static void test_a_tray(void **state)
{
    struct fixture *f = *state;
    uint8_t data[8];
    ready(f);
    assert_int_equal(plain(f, CDB(0x1e, [4] = 1)), 0);
    assert_false(scsi_unit_press_eject(&f->unit));
    assert_int_equal(in(f, CDB(0x4a, 1, [4] = 0x10, [8] = 8), data, 8), 0);
    assert_memory_equal(data, "\x00\x06\x04\x10\x01\x02", 6); /* somebody wants it out */
    assert_int_equal(in(f, CDB(0x4a, 1, [4] = 0x10, [8] = 8), data, 8), 0);
    assert_int_equal(data[4], 0); /* told once */
    assert_int_equal(plain(f, CDB(0x1b, [4] = 2)), SCSI_SENSE(5, 0x53, 2));
    assert_int_equal(plain(f, CDB(0x1e, [4] = 0)), 0);
    assert_int_equal(plain(f, CDB(0x1b, [4] = 2)), 0);
    assert_int_equal(plain(f, CDB(0x00)), SCSI_SENSE(2, 0x3a, 2));
    assert_int_equal(in(f, CDB(0x03, [4] = 18), data, 8), 0); /* without autosense: kept */
    assert_int_equal(data[2], 2);
    assert_int_equal(plain(f, CDB(0x1b, [4] = 3)), 0);
    assert_int_equal(plain(f, CDB(0x00)), SCSI_MEDIUM_CHANGED);
    assert_int_equal(plain(f, CDB(0x00)), 0);
    scsi_unit_insert(&f->unit, NULL);
    assert_int_equal(plain(f, CDB(0x00)), SCSI_SENSE(2, 0x3a, 1));
    scsi_unit_insert(&f->unit, f->disk);
    assert_int_equal(plain(f, CDB(0x00)), SCSI_MEDIUM_CHANGED);
    assert_int_equal(in(f, CDB(0x4a, 1, [4] = 0x10, [8] = 8), data, 8), 0);
    assert_memory_equal(data + 4, "\x02\x02", 2); /* a new medium */
}

/* Whatever is asked for, with whatever buffer: an answer, once, and nothing behind the buffer. */
static void test_every_operation_with_little_room(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = 1;
    for (unsigned round = 0; round < 20000; round++) {
        uint8_t cdb[SCSI_CDB_SIZE];
        for (unsigned i = 0; i < sizeof(cdb); i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
            cdb[i] =
                (seed >> 40 & 3) != 0 && i > 0 ? (uint8_t)(seed >> 33 & 9) : (uint8_t)(seed >> 33);
        }
        size_t size = (size_t)(seed >> 50) % 600;
        uint8_t *data = calloc(1, size + 1);
        data[size] = 0xa5;
        run(f, &f->unit, cdb, (seed >> 47 & 1) != 0, data, size);
        assert_true(f->task.moved <= size);
        assert_int_equal(data[size], 0xa5);
        free(data);
    }
}

static void test_state(void **state)
{
    struct fixture *f = *state;
    struct scsi_unit other;
    ready(f);
    assert_int_equal(plain(f, CDB(0x1b, [4] = 0)), 0);
    scsi_unit_init(&other, &(struct scsi_unit_params){.disk = f->disk, .id = "other"});
    assert_state_round_trip(&scsi_unit_state, &f->unit, &other);
    assert_true(other.stopped);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define DISK_TEST(name) cmocka_unit_test_setup_teardown(name, setup_disk, teardown)
#define CD_TEST(name)   cmocka_unit_test_setup_teardown(name, setup_cd, teardown)
        DISK_TEST(test_says_what_it_is),
        DISK_TEST(test_reads_and_writes),
        DISK_TEST(test_what_cannot_be),
        cmocka_unit_test_setup_teardown(test_a_read_only_disk, setup_read_only, teardown),
        DISK_TEST(test_gives_space_back),
        DISK_TEST(test_mode_pages),
        DISK_TEST(test_supported_operations),
        DISK_TEST(test_units_that_are_not_there),
        CD_TEST(test_a_disc),
        CD_TEST(test_a_tray),
        DISK_TEST(test_every_operation_with_little_room),
        CD_TEST(test_every_operation_with_little_room),
        DISK_TEST(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
