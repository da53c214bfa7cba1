/* SPDX-License-Identifier: MIT
 *
 * A machine with a disk adapter on a disk in memory, for tests that look at the file
 * behind the device's back.
 */
#ifndef TRAPEZE_TESTS_DISK_FIXTURE_H
#define TRAPEZE_TESTS_DISK_FIXTURE_H

#include "support.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "disk.h"
#include "virtio_guest.h"

struct fixture {
    struct guest g;
    struct block *disk, *disc; /* disc: NULL unless the test has one */
    int fd;
    unsigned sectors;
};

/* A machine that stops, in the end: the tests quiesce the device themselves. */
static inline void fixture_on_stopped(void *opaque, struct block *block, enum block_kind kind,
                                      int error)
{
    (void)opaque, (void)block, (void)kind, (void)error;
}

/* One more queue on the file. `options` NULL: errors go to the guest. */
static inline struct block *fixture_disk(struct fixture *f, bool read_only,
                                         const struct block_options *options)
{
    static const struct block_image_options raw = {.format = "raw"};
    const struct block_env env = {.loop = f->g.loop,
                                  .clock = f->g.env.clock,
                                  .deterministic = f->g.env.deterministic,
                                  .stopped = options != NULL ? fixture_on_stopped : NULL};
    struct error *err = NULL;
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
    int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    struct block *disk;
    if (options == NULL) {
        disk = block_new_raw(fd, read_only, &env, &err);
    } else {
        disk = block_new(disk_open(fd, &raw, BLOCK_CACHE_WRITEBACK, &err), options, &env, &err);
        close(fd);
    }
    assert_no_error(err);
    return disk;
}

/* The file's content: sector i is full of bytes of i & 0x7f. */
static inline void fixture_mend(struct fixture *f)
{
    for (unsigned i = 0; i < f->sectors; i++) {
        uint8_t sector[BLOCK_SECTOR];
        memset(sector, (int)(i & 0x7f), sizeof(sector));
        assert_int_equal(pwrite(f->fd, sector, sizeof(sector), BLOCK_SECTOR * i), sizeof(sector));
    }
}

/* What lies behind the first sector is gone: an I/O error. */
static inline void fixture_damage(struct fixture *f)
{
    assert_int_equal(ftruncate(f->fd, BLOCK_SECTOR), 0);
}

static inline struct fixture *fixture_begin(unsigned sectors, bool deterministic)
{
    struct fixture *f = calloc(1, sizeof(*f));
    guest_init(&f->g, deterministic);
    f->sectors = sectors;
    f->fd = memfd_create("disk", MFD_CLOEXEC);
    fixture_mend(f);
    return f;
}

/* cmocka's teardown. */
static inline int fixture_end(void **state)
{
    struct fixture *f = *state;
    device_free(f->g.device);
    f->g.device = NULL;
    block_free(f->disk);
    block_free(f->disc);
    guest_free(&f->g);
    close(f->fd);
    free(f);
    return 0;
}

static inline uint8_t *ram(struct fixture *f, uint64_t gpa)
{
    return mem_ram_pointer(f->g.mem, gpa, 1, MEM_WRITE);
}

/* Time for what is on its way. */
static inline void settle(struct fixture *f)
{
    for (unsigned i = 0; i < 200; i++)
        guest_wait(&f->g);
}

static inline uint8_t file_byte(struct fixture *f, unsigned sector)
{
    uint8_t byte;
    assert_int_equal(pread(f->fd, &byte, 1, sector * BLOCK_SECTOR), 1);
    return byte;
}

#endif
