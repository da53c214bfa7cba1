/* SPDX-License-Identifier: MIT
 *
 * Disks in memory files, and a random load on one that knows what every sector may hold.
 *
 * The model: each sector has a `version`, a number that says what was last written there (0:
 * zeros). While a request that changes a sector is in flight the sector may hold either; a
 * read that was submitted in between is not compared. No two requests in flight change the
 * same sector: what that would leave is the guest's own business.
 */
#ifndef TRAPEZE_TESTS_DISK_H
#define TRAPEZE_TESTS_DISK_H

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "block/block.h"

#define LOAD_IN_FLIGHT 16
#define LOAD_BYTES_MAX (96 * 1024)

/* What sector `number` holds at `version`. */
static inline void disk_sector(uint8_t *data, uint64_t number, uint32_t version)
{
    uint64_t x = number * UINT64_C(0x9e3779b97f4a7c15) + version * UINT64_C(0xbf58476d1ce4e5b9);
    for (unsigned i = 0; i < BLOCK_SECTOR; i += 8) {
        x ^= x >> 29;
        x *= UINT64_C(0x94d049bb133111eb);
        memcpy(data + i, &x, 8);
        if (version == 0)
            memset(data + i, 0, 8);
    }
    if (version != 0) { /* so that a finding can be read */
        memcpy(data, &number, 8);
        memcpy(data + 8, &version, 4);
    }
}

struct disk_load;

struct disk_slot {
    struct block_request request;
    struct disk_load *load;
    struct iovec iov[4];
    uint8_t *data;
    uint64_t first, count; /* sectors */
    uint32_t version;
    bool used, compare;
};

struct disk_load {
    struct block *disk;
    uint64_t sectors;
    uint32_t *version; /* of each sector */
    uint8_t *changing; /* a request in flight changes it */
    uint8_t *unsure;   /* discarded: old content, or zeros, until written again */
    uint64_t seed;
    uint32_t next_version;
    struct disk_slot slots[LOAD_IN_FLIGHT];
    unsigned in_flight;
    uint64_t wrong; /* sectors that held what they must not */
    unsigned errors;
    int last_error;
    /* Called before a request is submitted; may be NULL. */
    void (*before)(void *opaque, const struct disk_slot *slot);
    void *opaque;
};

static inline uint64_t disk_random(struct disk_load *load)
{
    uint64_t z = (load->seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline void disk_load_init(struct disk_load *load, struct block *disk, uint64_t seed)
{
    memset(load, 0, sizeof(*load));
    load->disk = disk;
    load->sectors = block_size(disk) / BLOCK_SECTOR;
    load->version = calloc(load->sectors, sizeof(uint32_t));
    load->changing = calloc(load->sectors, 1);
    load->unsure = calloc(load->sectors, 1);
    load->seed = seed;
    for (unsigned i = 0; i < LOAD_IN_FLIGHT; i++)
        load->slots[i].data = aligned_alloc(4096, LOAD_BYTES_MAX);
}

static inline void disk_load_free(struct disk_load *load)
{
    for (unsigned i = 0; i < LOAD_IN_FLIGHT; i++)
        free(load->slots[i].data);
    free(load->version);
    free(load->changing);
    free(load->unsure);
}

static inline void disk_compare(struct disk_load *load, const uint8_t *data, uint64_t first,
                                uint64_t count)
{
    uint8_t wanted[BLOCK_SECTOR];
    static const uint8_t zeros[BLOCK_SECTOR];
    for (uint64_t i = 0; i < count; i++) {
        uint64_t sector = first + i;
        const uint8_t *got = data + i * BLOCK_SECTOR;
        if (load->changing[sector])
            continue;
        disk_sector(wanted, sector, load->version[sector]);
        if (memcmp(got, wanted, BLOCK_SECTOR) == 0 ||
            (load->unsure[sector] && memcmp(got, zeros, BLOCK_SECTOR) == 0))
            continue;
        if (load->wrong++ == 0) {
            uint64_t number;
            uint32_t version;
            memcpy(&number, got, 8);
            memcpy(&version, got + 8, 4);
            fprintf(stderr, "# sector %llu version %u: found sector %llu version %u\n",
                    (unsigned long long)sector, load->version[sector], (unsigned long long)number,
                    version);
        }
    }
}

static inline void disk_slot_done(struct block_request *request, int error)
{
    struct disk_slot *slot = request->opaque;
    struct disk_load *load = slot->load;
    bool changes = request->kind != BLOCK_READ && request->kind != BLOCK_FLUSH;
    if (error != 0) {
        load->errors++;
        load->last_error = error;
    }
    for (uint64_t i = 0; changes && i < slot->count; i++) {
        uint64_t sector = slot->first + i;
        load->changing[sector] = 0;
        if (request->kind == BLOCK_DISCARD) {
            load->unsure[sector] = 1;
        } else if (error == 0) {
            load->version[sector] = slot->version;
            load->unsure[sector] = 0;
        }
    }
    if (request->kind == BLOCK_READ && error == 0 && slot->compare)
        disk_compare(load, slot->data, slot->first, slot->count);
    slot->used = false;
    load->in_flight--;
}

/* What a read was submitted before must not be what it is compared with. */
static inline void disk_spoil_reads(struct disk_load *load, uint64_t first, uint64_t count)
{
    for (unsigned i = 0; i < LOAD_IN_FLIGHT; i++) {
        struct disk_slot *slot = &load->slots[i];
        if (slot->used && slot->request.kind == BLOCK_READ && slot->first < first + count &&
            first < slot->first + slot->count)
            slot->compare = false;
    }
}

static inline void disk_fill(struct disk_slot *slot)
{
    for (uint64_t i = 0; i < slot->count; i++)
        disk_sector(slot->data + i * BLOCK_SECTOR, slot->first + i, slot->version);
    /* In pieces, of odd sizes too. */
    size_t size = (size_t)slot->count * BLOCK_SECTOR, half = size / 2 + 3;
    slot->iov[0] = (struct iovec){slot->data, 1};
    slot->iov[1] = (struct iovec){slot->data + 1, half - 1};
    slot->iov[2] = (struct iovec){slot->data + half, size - half};
    slot->request.iov = slot->iov;
    slot->request.iov_count = 3;
}

/* Submits a random request if a slot is free and it is allowed. `most`: sectors. */
static inline bool disk_load_submit(struct disk_load *load, uint64_t most)
{
    struct disk_slot *slot = NULL;
    for (unsigned i = 0; i < LOAD_IN_FLIGHT && slot == NULL; i++)
        if (!load->slots[i].used)
            slot = &load->slots[i];
    if (slot == NULL)
        return false;
    static const enum block_kind kinds[16] = {
        BLOCK_READ,  BLOCK_READ,    BLOCK_READ,         BLOCK_READ,        BLOCK_READ,  BLOCK_WRITE,
        BLOCK_WRITE, BLOCK_WRITE,   BLOCK_WRITE,        BLOCK_WRITE,       BLOCK_WRITE, BLOCK_WRITE,
        BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES, BLOCK_WRITE_ZEROES};
    enum block_kind kind = kinds[disk_random(load) % 16];
    bool data = kind == BLOCK_READ || kind == BLOCK_WRITE;
    uint64_t limit = data ? LOAD_BYTES_MAX / BLOCK_SECTOR : load->sectors;
    uint64_t first = disk_random(load) % load->sectors, count = 1 + disk_random(load) % most;
    if (disk_random(load) % 2 == 0)
        count = 1 + count % 8; /* most are small */
    if (count > limit)
        count = limit;
    if (count > load->sectors - first)
        count = load->sectors - first;
    bool changes = kind != BLOCK_READ && kind != BLOCK_FLUSH;
    for (uint64_t i = 0; changes && i < count; i++)
        if (load->changing[first + i])
            return false;
    slot->load = load;
    slot->first = first;
    slot->count = count;
    slot->version = kind == BLOCK_WRITE ? ++load->next_version : 0;
    slot->used = slot->compare = true;
    for (uint64_t i = 0; kind == BLOCK_READ && i < count; i++)
        if (load->changing[first + i])
            slot->compare = false; /* it may see what was there before, and complete after */
    slot->request = (struct block_request){.kind = kind,
                                           .offset = first * BLOCK_SECTOR,
                                           .length = count * BLOCK_SECTOR,
                                           .unmap = disk_random(load) % 2 == 0,
                                           .done = disk_slot_done,
                                           .opaque = slot};
    if (data)
        disk_fill(slot);
    if (changes) {
        disk_spoil_reads(load, first, count);
        memset(load->changing + first, 1, (size_t)count);
    }
    load->in_flight++;
    if (load->before != NULL)
        load->before(load->opaque, slot);
    block_submit(load->disk, &slot->request);
    return true;
}

static inline void disk_quit(void *opaque)
{
    loop_quit(opaque, 0);
}

/* Lets the loop run for what has completed. */
static inline void disk_pump(struct loop *loop)
{
    loop_post(loop, disk_quit, loop);
    loop_run(loop);
}

/* Compares the whole disk; nothing is in flight. */
static inline void disk_compare_all(struct disk_load *load, struct block_image *image)
{
    uint8_t *data = aligned_alloc(4096, LOAD_BYTES_MAX);
    uint64_t step = LOAD_BYTES_MAX / BLOCK_SECTOR;
    for (uint64_t at = 0; at < load->sectors; at += step) {
        uint64_t count = load->sectors - at < step ? load->sectors - at : step;
        int error = block_image_read(image, at * BLOCK_SECTOR, data, (size_t)count * BLOCK_SECTOR);
        if (error != 0) {
            load->errors++;
            load->last_error = error;
        } else {
            disk_compare(load, data, at, count);
        }
    }
    free(data);
}

/* An empty file in memory. */
static inline int disk_memory_file(void)
{
    int fd = memfd_create("disk", MFD_CLOEXEC);
    assert(fd >= 0);
    return fd;
}

static inline bool disk_create(int fd, const char *format, const struct block_create *create,
                               struct error **err)
{
    struct block_file *file =
        block_file_new(fcntl(fd, F_DUPFD_CLOEXEC, 3), false, BLOCK_CACHE_WRITEBACK, err);
    bool good = file != NULL && block_format_find(format)->create(file, create, err);
    block_file_close(file);
    return good;
}

static inline struct block_image *disk_open(int fd, const struct block_image_options *options,
                                            enum block_cache cache, struct error **err)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    bool read_only = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
    struct block_file *file = block_file_new(copy, read_only, cache, err);
    if (file == NULL) {
        close(copy);
        return NULL;
    }
    struct block_image *image = block_image_open(file, "test disk", options, err);
    if (image == NULL)
        block_file_close(file);
    return image;
}

#endif
