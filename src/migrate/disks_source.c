/* SPDX-License-Identifier: MIT
 *
 * See disks.h: the end that has the disks.
 *
 * One bitmap for each disk says what is still to be sent: at first whatever is not a hole, or all that the
 * top layer has, then
 * what the guest changes. A stretch is taken out of it first and read then, so that what is changed
 * while it is being read is marked again. Reads go through the disk's queue, which keeps them apart
 * from the guest's requests on the same clusters; a few of them are under way while the one before
 * is sent.
 */
#include "migrate/disks.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "block/block.h"
#include "migrate/disks_internal.h"

#define GRANULE_MIN 4096u               /* what is noted of changes: bytes, */
#define BITS_MAX    (UINT64_C(1) << 26) /* or as many as make a bitmap of this many bits */
#define RUN_BYTES   4096u               /* zeros of this length are not sent */
#define STRETCH     (64 * MIB)          /* taken out of a bitmap at once */
#define PIECES      4                   /* reads under way */

struct disk {
    struct block *block; /* NULL: nothing to send */
    struct block_image *image;
    enum disks_how how;
    uint64_t size;
    bool present, read_only;
    struct block_bitmap *todo;
};

/* A read under way. */
struct piece {
    struct block_request request;
    struct disks_source *source;
    struct iovec iov;
    uint16_t disk;
    bool done;
    int error;
};

struct disks_source {
    struct disk disks[DISKS_MAX];
    size_t count;
    disks_send_fn *send;
    void *opaque;
    uint64_t messages;
    _Atomic uint64_t total, looked_at, sent; /* struct disks_progress */

    /* Where the round is: all before `run_end` is not a hole, what was taken ends at `stretch_end`.
     */
    size_t at_disk;
    uint64_t at_offset, run_end, stretch_end;

    pthread_mutex_t lock; /* of what done() tells, and: */
    bool stopped;
    unsigned in_queues; /* pieces */
    pthread_cond_t changed;
    struct piece pieces[PIECES];
    unsigned first, under_way; /* of them */
};

/* --- messages --- */

static bool send_message(struct disks_source *source, const struct iovec *iov, unsigned count,
                         struct error **err)
{
    uint64_t size = 0;
    for (unsigned i = 0; i < count; i++)
        size += iov[i].iov_len;
    if (!source->send(source->opaque, iov, count, err))
        return false;
    source->messages++;
    atomic_fetch_add(&source->sent, size);
    return true;
}

static bool send_bytes(struct disks_source *source, void *bytes, size_t size, struct error **err)
{
    return send_message(source, &(struct iovec){bytes, size}, 1, err);
}

static void put_place(uint8_t *head, enum disks_kind kind, size_t disk, uint64_t offset)
{
    head[0] = (uint8_t)kind;
    store_le16(head + 1, (uint16_t)disk);
    store_le64(head + 3, offset);
}

static bool send_zero(struct disks_source *source, size_t disk, uint64_t offset, uint64_t length,
                      struct error **err)
{
    uint8_t head[DISKS_ZERO_BYTES];
    put_place(head, DISKS_ZERO, disk, offset);
    store_le64(head + 11, length);
    return send_bytes(source, head, sizeof(head), err);
}

static bool send_data(struct disks_source *source, size_t disk, uint64_t offset, uint8_t *data,
                      size_t size, struct error **err)
{
    uint8_t head[DISKS_DATA_BYTES];
    const struct iovec iov[] = {{head, sizeof(head)}, {data, size}};
    put_place(head, DISKS_DATA, disk, offset);
    return send_message(source, iov, 2, err);
}

static bool is_zero(const uint8_t *data, size_t size)
{
    return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

/* Zeros by themselves, and what lies between them. */
static bool send_runs(struct disks_source *source, size_t disk, uint64_t offset, uint8_t *data,
                      size_t size, struct error **err)
{
    bool good = true;
    for (size_t at = 0, end; good && at < size; at = end) {
        size_t step = size - at < RUN_BYTES ? size - at : RUN_BYTES;
        bool zero = is_zero(data + at, step);
        for (end = at + step; end < size; end += step) {
            step = size - end < RUN_BYTES ? size - end : RUN_BYTES;
            if (is_zero(data + end, step) != zero)
                break;
        }
        good = zero ? send_zero(source, disk, offset + at, end - at, err)
                    : send_data(source, disk, offset + at, data + at, end - at, err);
    }
    return good;
}

static bool send_contents(struct disks_source *source, size_t disk, uint64_t offset, uint8_t *data,
                          size_t size, struct error **err)
{
    if (source->disks[disk].how != DISKS_VERIFY)
        return send_runs(source, disk, offset, data, size, err);
    uint8_t head[DISKS_SAME_BYTES];
    put_place(head, DISKS_SAME, disk, offset);
    store_le64(head + 11, size);
    store_le64(head + 19, XXH3_64bits(data, size));
    return send_bytes(source, head, sizeof(head), err);
}

static bool cannot_read(const struct disks_source *source, size_t disk, int error,
                        struct error **err)
{
    return error_set_errno(err, error, "cannot read disk %zu ('%s')", disk,
                           source->disks[disk].image->name);
}

/* --- what there is to send --- */

/* What of [offset, offset + length) begins alike, and whether it is zeros; a disk that is compared
 * is read as a whole. */
static int look(const struct disk *disk, uint64_t offset, uint64_t length, uint64_t *alike,
                bool *zero)
{
    struct block_extent extent;
    unsigned depth;
    *alike = length;
    *zero = false;
    if (disk->how == DISKS_VERIFY)
        return 0;
    int error = block_image_extent(disk->image, offset, length, &extent, &depth);
    *zero = extent.kind == BLOCK_EXTENT_ZERO;
    *alike = extent.length;
    return error;
}

/* The same, and whether the top layer has nothing there. */
static int look_at_top(const struct disk *disk, uint64_t offset, uint64_t length, uint64_t *alike,
                       bool *absent)
{
    struct block_extent extent;
    int error = disk->image->format->extent(disk->image, offset, length, &extent);
    *absent = error == 0 && extent.kind == BLOCK_EXTENT_ABSENT;
    *alike = extent.length;
    return error;
}

static bool mark_all(struct disks_source *source, size_t number, struct error **err)
{
    struct disk *disk = &source->disks[number];
    for (uint64_t at = 0, length; at < disk->size; at += length) {
        bool there_already;
        int error = disk->how == DISKS_TOP
                        ? look_at_top(disk, at, disk->size - at, &length, &there_already)
                        : look(disk, at, disk->size - at, &length, &there_already);
        if (error != 0)
            return cannot_read(source, number, error, err);
        if (!there_already)
            block_bitmap_mark(disk->block, disk->todo, at, length);
    }
    return true;
}

bool disks_begin(struct disks_source *source, struct error **err)
{
    uint8_t head[DISKS_BEGIN_BYTES + DISKS_MAX * DISKS_BEGIN_DISK_BYTES];
    head[0] = DISKS_BEGIN;
    store_le16(head + 1, (uint16_t)source->count);
    for (size_t i = 0; i < source->count; i++) {
        const struct disk *disk = &source->disks[i];
        uint8_t *row = head + DISKS_BEGIN_BYTES + i * DISKS_BEGIN_DISK_BYTES;
        row[0] = (uint8_t)disk->how;
        row[1] = (uint8_t)((disk->present ? DISKS_PRESENT : 0) |
                           (disk->read_only ? DISKS_READ_ONLY : 0));
        store_le64(row + 2, disk->size);
    }
    if (!send_bytes(source, head, DISKS_BEGIN_BYTES + source->count * DISKS_BEGIN_DISK_BYTES, err))
        return false;
    for (size_t i = 0; i < source->count; i++)
        if (source->disks[i].todo != NULL && !mark_all(source, i, err))
            return false;
    atomic_store(&source->total, disks_remaining(source));
    return true;
}

uint64_t disks_remaining(struct disks_source *source)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < source->count; i++)
        if (source->disks[i].todo != NULL)
            bytes += block_bitmap_count(source->disks[i].block, source->disks[i].todo);
    return bytes;
}

/* --- reading --- */

static void on_read(struct block_request *request, int error)
{
    struct piece *piece = request->opaque;
    struct disks_source *source = piece->source;
    pthread_mutex_lock(&source->lock);
    piece->done = true;
    piece->error = error;
    source->in_queues--;
    pthread_cond_signal(&source->changed);
    pthread_mutex_unlock(&source->lock);
}

static bool submit(struct disks_source *source, uint64_t offset, size_t size, struct error **err)
{
    struct piece *piece = &source->pieces[(source->first + source->under_way) % PIECES];
    piece->disk = (uint16_t)source->at_disk;
    piece->iov.iov_len = size;
    piece->done = false;
    piece->request = (struct block_request){.kind = BLOCK_READ,
                                            .background = true,
                                            .offset = offset,
                                            .iov = &piece->iov,
                                            .iov_count = 1,
                                            .done = on_read,
                                            .opaque = piece};
    pthread_mutex_lock(&source->lock);
    bool good = !source->stopped;
    if (good) {
        source->in_queues++;
        block_submit(source->disks[source->at_disk].block, &piece->request);
    }
    pthread_mutex_unlock(&source->lock);
    source->under_way += good;
    return good || error_set(err, ERROR_USAGE, "the copying of disks was called off");
}

static bool is_reading(struct disks_source *source)
{
    pthread_mutex_lock(&source->lock);
    source->stopped = true;
    bool reading = source->in_queues > 0;
    pthread_mutex_unlock(&source->lock);
    return reading;
}

void disks_source_stop(struct disks_source *source)
{
    const struct timespec while_it_reads = {.tv_nsec = 100000};
    while (is_reading(source)) {
        for (size_t i = 0; i < source->count; i++)
            if (source->disks[i].todo != NULL)
                block_poll(source->disks[i].block);
        nanosleep(&while_it_reads, NULL);
    }
}

static struct piece *await_first(struct disks_source *source)
{
    struct piece *piece = &source->pieces[source->first];
    pthread_mutex_lock(&source->lock);
    while (!piece->done)
        pthread_cond_wait(&source->changed, &source->lock);
    pthread_mutex_unlock(&source->lock);
    source->first = (source->first + 1) % PIECES;
    source->under_way--;
    return piece;
}

static bool send_first(struct disks_source *source, struct error **err)
{
    struct piece *piece = await_first(source);
    if (piece->error != 0)
        return cannot_read(source, piece->disk, piece->error, err);
    return send_contents(source, piece->disk, piece->request.offset, piece->iov.iov_base,
                         piece->iov.iov_len, err);
}

/* --- rounds --- */

/* The first marked stretch from where the round is; the disks behind it follow. False: there is
 * none. */
static bool take_stretch(struct disks_source *source, uint64_t most)
{
    for (; source->at_disk < source->count; source->at_disk++, source->at_offset = 0) {
        const struct disk *disk = &source->disks[source->at_disk];
        uint64_t offset, length;
        if (disk->todo == NULL || source->at_offset >= disk->size ||
            !block_bitmap_take(disk->block, disk->todo, source->at_offset, most, &offset, &length))
            continue;
        source->at_offset = source->run_end = offset;
        source->stretch_end = offset + length;
        return true;
    }
    source->at_disk = 0;
    source->at_offset = source->run_end = source->stretch_end = 0;
    return false;
}

/* Goes on in the stretch to what is not a hole. */
static bool skip_holes(struct disks_source *source, struct error **err)
{
    const struct disk *disk = &source->disks[source->at_disk];
    while (source->at_offset == source->run_end && source->at_offset < source->stretch_end) {
        uint64_t alike;
        bool zero;
        int error =
            look(disk, source->at_offset, source->stretch_end - source->at_offset, &alike, &zero);
        if (error != 0)
            return cannot_read(source, source->at_disk, error, err);
        if (zero && !send_zero(source, source->at_disk, source->at_offset, alike, err))
            return false;
        source->run_end += alike;
        if (zero)
            source->at_offset = source->run_end;
    }
    return true;
}

/* The next piece to read, of `size` bytes at the round's place; 0: the round is over. `left`: bytes
 * that it may still look at. */
static bool next_piece(struct disks_source *source, uint64_t left, size_t *size, struct error **err)
{
    *size = 0;
    while (*size == 0 && left > 0) {
        if (source->at_offset == source->stretch_end &&
            !take_stretch(source, left < STRETCH ? align_up(left, DISKS_PIECE) : STRETCH))
            return true;
        if (!skip_holes(source, err))
            return false;
        uint64_t run = source->run_end - source->at_offset;
        *size = run < DISKS_PIECE ? (size_t)run : DISKS_PIECE;
    }
    return true;
}

static void pass(struct disks_source *source, size_t size)
{
    source->at_offset += size;
    atomic_fetch_add(&source->looked_at, size);
}

/* What was taken and not looked at is for another round. */
static void put_back(struct disks_source *source)
{
    const struct disk *disk = &source->disks[source->at_disk];
    if (source->at_offset < source->stretch_end)
        block_bitmap_mark(disk->block, disk->todo, source->at_offset,
                          source->stretch_end - source->at_offset);
    source->run_end = source->stretch_end = source->at_offset;
}

bool disks_round(struct disks_source *source, uint64_t most, struct error **err)
{
    bool good = true, more = true;
    uint64_t begin = atomic_load(&source->looked_at);
    while (good && (more || source->under_way > 0)) {
        uint64_t done = atomic_load(&source->looked_at) - begin;
        size_t size = 0;
        if (more && source->under_way < PIECES) {
            good = next_piece(source, done < most ? most - done : 0, &size, err);
            more = size > 0;
            good = good && (!more || submit(source, source->at_offset, size, err));
            if (good && more)
                pass(source, size);
        } else {
            good = send_first(source, err);
        }
    }
    while (source->under_way > 0)
        (void)await_first(source);
    put_back(source);
    return good;
}

/* Nothing else touches the disks: their images are read without the queue, whose loop may stand
 * still. */
bool disks_final(struct disks_source *source, struct error **err)
{
    uint8_t *buffer = source->pieces[0].iov.iov_base;
    source->at_disk = 0;
    source->at_offset = source->run_end = source->stretch_end = 0;
    for (size_t size;;) {
        if (!next_piece(source, UINT64_MAX, &size, err))
            return false;
        if (size == 0)
            break;
        struct block_image *image = source->disks[source->at_disk].image;
        int error = block_image_read(image, source->at_offset, buffer, size);
        if (error != 0)
            return cannot_read(source, source->at_disk, error, err);
        if (!send_contents(source, source->at_disk, source->at_offset, buffer, size, err))
            return false;
        pass(source, size);
    }
    uint8_t tail[DISKS_END_BYTES] = {DISKS_END};
    store_le64(tail + 1, source->messages);
    return send_bytes(source, tail, sizeof(tail), err);
}

void disks_get_progress(const struct disks_source *source, struct disks_progress *progress)
{
    *progress = (struct disks_progress){.total = atomic_load(&source->total),
                                        .done = atomic_load(&source->looked_at),
                                        .sent = atomic_load(&source->sent)};
}

/* --- life --- */

static uint32_t granule_of(uint64_t size)
{
    uint64_t granule = GRANULE_MIN;
    while (size / granule > BITS_MAX)
        granule *= 2;
    return (uint32_t)granule; /* sizes end at 2^62 */
}

static bool add_disk(struct disks_source *source, const struct disks_source_disk *from,
                     struct error **err)
{
    struct disk *disk = &source->disks[source->count++];
    if (from->block == NULL)
        return true;
    *disk = (struct disk){.block = from->block,
                          .image = block_image(from->block),
                          .how = from->how,
                          .size = block_size(from->block),
                          .present = true,
                          .read_only = block_read_only(from->block)};
    if (from->how == DISKS_SHARED)
        return true;
    if (from->how == DISKS_VERIFY && !disk->read_only)
        return error_set(err, ERROR_USAGE,
                         "disk %zu ('%s') can be written to: the target needs a copy of it, or the "
                         "same file",
                         source->count - 1, disk->image->name);
    disk->todo = block_bitmap_new(disk->block, granule_of(disk->size));
    return disk->todo != NULL || error_set_errno(err, ENOMEM,
                                                 "no memory to note what the guest "
                                                 "changes on its disks");
}

static bool make_pieces(struct disks_source *source, struct error **err)
{
    for (size_t i = 0; i < PIECES; i++) {
        source->pieces[i].source = source;
        source->pieces[i].iov.iov_base = aligned_alloc(4096, DISKS_PIECE);
        if (source->pieces[i].iov.iov_base == NULL)
            return error_set_errno(err, ENOMEM, "no memory to copy disks with");
    }
    return true;
}

struct disks_source *disks_source_new(const struct disks_source_disk *disks, size_t count,
                                      disks_send_fn *send, void *opaque, struct error **err)
{
    assert(count <= DISKS_MAX);
    struct disks_source *source = alloc_zeroed(1, sizeof(*source));
    source->send = send;
    source->opaque = opaque;
    pthread_mutex_init(&source->lock, NULL);
    pthread_cond_init(&source->changed, NULL);
    bool good = make_pieces(source, err);
    for (size_t i = 0; good && i < count; i++)
        good = add_disk(source, &disks[i], err);
    if (good)
        return source;
    disks_source_free(source);
    return NULL;
}

void disks_source_free(struct disks_source *source)
{
    if (source == NULL)
        return;
    for (size_t i = 0; i < source->count; i++)
        if (source->disks[i].todo != NULL)
            block_bitmap_free(source->disks[i].block, source->disks[i].todo);
    for (size_t i = 0; i < PIECES; i++)
        free(source->pieces[i].iov.iov_base);
    pthread_cond_destroy(&source->changed);
    pthread_mutex_destroy(&source->lock);
    free(source);
}
