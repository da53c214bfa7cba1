/* SPDX-License-Identifier: MIT
 *
 * See disks.h: the end that gets the disks.
 *
 * What is written is flushed by a thread of its own all the while: the source's machine stands
 * still when the last flush is made, and all that the host's cache had gathered would have to be
 * waited for then.
 */
#include "migrate/disks.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "block/image.h"
#include "migrate/disks_internal.h"

#define FLUSH_BYTES (16 * MIB) /* written since the last flush */

struct disks_target {
    struct disks_target_disk disks[DISKS_MAX];
    size_t count;
    uint64_t messages;
    bool begun, finished;
    uint8_t *buffer; /* DISKS_PIECE bytes */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    pthread_t flusher;
    bool has_flusher, quit;
    uint64_t unflushed;
    _Atomic int flush_error;
};

static bool damaged(struct error **err)
{
    return error_set(err, ERROR_USAGE, "what the other end sends of its disks is damaged");
}

static bool is_filled(const struct disks_target_disk *disk)
{
    return disk->how == DISKS_COPY || disk->how == DISKS_TOP;
}

/* --- flushing --- */

static int flush_all(struct disks_target *target)
{
    int error = 0;
    for (size_t i = 0; error == 0 && i < target->count; i++) {
        struct block_image *image = target->disks[i].image;
        if (image != NULL && is_filled(&target->disks[i]))
            error = image->format->flush(image);
    }
    return error;
}

static void *flush_often(void *opaque)
{
    struct disks_target *target = opaque;
    pthread_mutex_lock(&target->lock);
    while (!target->quit) {
        if (target->unflushed < FLUSH_BYTES) {
            pthread_cond_wait(&target->changed, &target->lock);
            continue;
        }
        target->unflushed = 0;
        pthread_mutex_unlock(&target->lock);
        int error = flush_all(target);
        if (error != 0)
            atomic_store(&target->flush_error, error);
        pthread_mutex_lock(&target->lock);
    }
    pthread_mutex_unlock(&target->lock);
    return NULL;
}

static bool start_flusher(struct disks_target *target, struct error **err)
{
    int error = pthread_create(&target->flusher, NULL, flush_often, target);
    target->has_flusher = error == 0;
    return error == 0 || error_set_errno(err, error, "cannot start a thread");
}

static void stop_flusher(struct disks_target *target)
{
    if (!target->has_flusher)
        return;
    pthread_mutex_lock(&target->lock);
    target->quit = true;
    pthread_cond_signal(&target->changed);
    pthread_mutex_unlock(&target->lock);
    pthread_join(target->flusher, NULL);
    target->has_flusher = false;
}

static void count_written(struct disks_target *target, size_t size)
{
    pthread_mutex_lock(&target->lock);
    target->unflushed += size;
    if (target->unflushed >= FLUSH_BYTES)
        pthread_cond_signal(&target->changed);
    pthread_mutex_unlock(&target->lock);
}

/* --- the beginning --- */

/* Also where the host cannot tell holes from data. */
static bool is_zero(struct disks_target *target, struct block_image *image, uint64_t offset,
                    uint64_t length, int *error)
{
    bool zero = true;
    for (uint64_t done = 0; zero && *error == 0 && done < length;) {
        size_t size = length - done < DISKS_PIECE ? (size_t)(length - done) : DISKS_PIECE;
        *error = block_image_read(image, offset + done, target->buffer, size);
        zero = *error == 0 && target->buffer[0] == 0 &&
               memcmp(target->buffer, target->buffer + 1, size - 1) == 0;
        done += size;
    }
    return zero;
}

/* A disk that has been somebody's is not to be lost to a wrong name. */
static bool is_empty(struct disks_target *target, struct block_image *image, int *error)
{
    struct block_extent extent;
    unsigned depth;
    bool empty = true;
    *error = 0;
    for (uint64_t at = 0; empty && at < image->size; at += extent.length) {
        *error = block_image_extent(image, at, image->size - at, &extent, &depth);
        empty = *error == 0 && (extent.kind == BLOCK_EXTENT_ZERO ||
                                is_zero(target, image, at, extent.length, error));
    }
    return empty;
}

/* Nothing of its own hides what is below. */
static bool is_empty_layer(struct block_image *image, int *error)
{
    struct block_extent extent;
    bool empty = image->backing != NULL;
    *error = 0;
    for (uint64_t at = 0; empty && at < image->size; at += extent.length) {
        *error = image->format->extent(image, at, image->size - at, &extent);
        empty = *error == 0 && extent.kind == BLOCK_EXTENT_ABSENT;
    }
    return empty;
}

static bool prepare(struct disks_target *target, size_t number, struct error **err)
{
    struct block_image *image = target->disks[number].image;
    int error;
    if (image->read_only)
        return error_set(err, ERROR_USAGE, "disk %zu ('%s') cannot be written to here", number,
                         image->name);
    if (target->disks[number].how == DISKS_TOP) {
        if (!is_empty_layer(image, &error) && error == 0)
            return error_set(err, ERROR_USAGE,
                             "disk %zu ('%s') here is no empty layer upon another image", number,
                             image->name);
    } else if (image->file->is_device) /* whose content means nothing, and which has no holes */
        error = image->format->zero(image, 0, image->size, BLOCK_ZERO_UNMAP);
    else if (!is_empty(target, image, &error) && error == 0) {
        error_set(err, ERROR_USAGE, "disk %zu ('%s') here is not empty", number, image->name);
        error_hint(
            err, "A copy goes into a new file; if it is the same file, there is nothing to copy.");
        return false;
    }
    return error == 0 ||
           error_set_errno(err, error, "cannot prepare disk %zu ('%s')", number, image->name);
}

static bool begin_disk(struct disks_target *target, size_t number, const uint8_t *row,
                       struct error **err)
{
    const struct disks_target_disk *disk = &target->disks[number];
    static const char *const names[] = {"to be copied", "only read", "shared",
                                        "to be copied in layers"};
    bool present = (row[1] & DISKS_PRESENT) != 0;
    uint64_t size = load_le64(row + 2);
    if (row[0] > DISKS_TOP || row[1] > (DISKS_PRESENT | DISKS_READ_ONLY))
        return damaged(err);
    if (present != (disk->image != NULL))
        return error_set(err, ERROR_USAGE, "there is %s in disk %zu there, and %s here",
                         present ? "something" : "nothing", number,
                         present ? "nothing" : "something");
    if (!present)
        return true;
    if (row[0] != disk->how)
        return error_set(err, ERROR_USAGE, "disk %zu ('%s') is %s there, and %s here", number,
                         disk->image->name, names[row[0]], names[disk->how]);
    if (size != disk->image->size)
        return error_set(err, ERROR_USAGE,
                         "disk %zu ('%s') has %llu bytes here, and %llu where the machine is",
                         number, disk->image->name, (unsigned long long)disk->image->size,
                         (unsigned long long)size);
    if (disk->how == DISKS_VERIFY && (row[1] & DISKS_READ_ONLY) == 0)
        return damaged(err);
    return !is_filled(disk) || prepare(target, number, err);
}

static bool begin(struct disks_target *target, const uint8_t *message, size_t size,
                  struct error **err)
{
    size_t count = size >= DISKS_BEGIN_BYTES ? load_le16(message + 1) : 0;
    if (target->begun || size < DISKS_BEGIN_BYTES ||
        size - DISKS_BEGIN_BYTES != count * DISKS_BEGIN_DISK_BYTES)
        return damaged(err);
    if (count != target->count)
        return error_set(err, ERROR_USAGE, "the machine has %zu disks there, and %zu here", count,
                         target->count);
    for (size_t i = 0; i < count; i++)
        if (!begin_disk(target, i, message + DISKS_BEGIN_BYTES + i * DISKS_BEGIN_DISK_BYTES, err))
            return false;
    target->begun = true;
    return start_flusher(target, err);
}

/* --- contents --- */

/* The disk that a message is about, if it may write to those bytes, or compare them; NULL: err. */
static const struct disks_target_disk *find(const struct disks_target *target,
                                            const uint8_t *message, bool write, uint64_t length,
                                            struct error **err)
{
    size_t number = load_le16(message + 1);
    const struct disks_target_disk *disk = &target->disks[number < DISKS_MAX ? number : 0];
    if (number < target->count && disk->image != NULL &&
        (write ? is_filled(disk) : disk->how == DISKS_VERIFY) && length > 0 &&
        range_within(load_le64(message + 3), length, disk->image->size))
        return disk;
    (void)damaged(err);
    return NULL;
}

static bool cannot_write(const struct disks_target_disk *disk, int error, struct error **err)
{
    error_set_errno(err, error, "cannot write to the target's disk '%s'", disk->image->name);
    if (error == ENOSPC)
        error_hint(err, "Make room there and try again: the machine goes on where it was.");
    return false;
}

static bool on_data(struct disks_target *target, const uint8_t *message, size_t size,
                    struct error **err)
{
    if (size <= DISKS_DATA_BYTES)
        return damaged(err);
    size -= DISKS_DATA_BYTES;
    const struct disks_target_disk *disk = find(target, message, true, size, err);
    if (disk == NULL)
        return false;
    int error =
        block_image_write(disk->image, load_le64(message + 3), message + DISKS_DATA_BYTES, size);
    count_written(target, size);
    return error == 0 || cannot_write(disk, error, err);
}

static bool on_zero(struct disks_target *target, const uint8_t *message, size_t size,
                    struct error **err)
{
    if (size != DISKS_ZERO_BYTES)
        return damaged(err);
    uint64_t length = load_le64(message + 11);
    const struct disks_target_disk *disk = find(target, message, true, length, err);
    if (disk == NULL)
        return false;
    int error =
        disk->image->format->zero(disk->image, load_le64(message + 3), length, BLOCK_ZERO_UNMAP);
    return error == 0 || cannot_write(disk, error, err);
}

static bool on_same(struct disks_target *target, const uint8_t *message, size_t size,
                    struct error **err)
{
    uint64_t length = size == DISKS_SAME_BYTES ? load_le64(message + 11) : 0;
    if (length > DISKS_PIECE)
        return damaged(err);
    const struct disks_target_disk *disk = find(target, message, false, length, err);
    if (disk == NULL)
        return false;
    uint64_t offset = load_le64(message + 3);
    int error = block_image_read(disk->image, offset, target->buffer, (size_t)length);
    if (error != 0)
        return error_set_errno(err, error, "cannot read the target's disk '%s'", disk->image->name);
    if (XXH3_64bits(target->buffer, (size_t)length) == load_le64(message + 19))
        return true;
    error_set(err, ERROR_USAGE,
              "the target's disk '%s' is another one: it differs in the %u KiB from byte %llu on",
              disk->image->name, (unsigned)(length / 1024), (unsigned long long)offset);
    error_hint(err, "Give it the same file, or have it copied.");
    return false;
}

static bool finish(struct disks_target *target, const uint8_t *message, size_t size,
                   struct error **err)
{
    if (size != DISKS_END_BYTES || load_le64(message + 1) != target->messages)
        return damaged(err);
    stop_flusher(target);
    int error = flush_all(target);
    if (error == 0) /* what the first gives up, the second counts as free */
        error = flush_all(target);
    if (error != 0)
        return error_set_errno(err, error, "cannot write the target's disks out");
    target->finished = true;
    return true;
}

bool disks_target_message(struct disks_target *target, const void *message, size_t size,
                          struct error **err)
{
    const uint8_t *bytes = message;
    bool good;
    if (size == 0 || size > DISKS_MESSAGE_MAX || target->finished ||
        (bytes[0] != DISKS_BEGIN && !target->begun))
        return damaged(err);
    int error = atomic_load(&target->flush_error);
    if (error != 0)
        return error_set_errno(err, error, "cannot write the target's disks out");
    switch (bytes[0]) {
    case DISKS_BEGIN:
        good = begin(target, bytes, size, err);
        break;
    case DISKS_DATA:
        good = on_data(target, bytes, size, err);
        break;
    case DISKS_ZERO:
        good = on_zero(target, bytes, size, err);
        break;
    case DISKS_SAME:
        good = on_same(target, bytes, size, err);
        break;
    case DISKS_END:
        good = finish(target, bytes, size, err);
        break;
    default:
        good = damaged(err);
    }
    target->messages++;
    return good;
}

bool disks_target_finished(const struct disks_target *target)
{
    return target->finished;
}

/* --- life --- */

struct disks_target *disks_target_new(const struct disks_target_disk *disks, size_t count,
                                      struct error **err)
{
    assert(count <= DISKS_MAX);
    struct disks_target *target = alloc_zeroed(1, sizeof(*target));
    memcpy(target->disks, disks, count * sizeof(*disks));
    target->count = count;
    pthread_mutex_init(&target->lock, NULL);
    pthread_cond_init(&target->changed, NULL);
    target->buffer = aligned_alloc(4096, DISKS_PIECE);
    if (target->buffer != NULL)
        return target;
    error_set_errno(err, ENOMEM, "no memory to compare disks with");
    disks_target_free(target);
    return NULL;
}

void disks_target_free(struct disks_target *target)
{
    if (target == NULL)
        return;
    stop_flusher(target);
    pthread_cond_destroy(&target->changed);
    pthread_mutex_destroy(&target->lock);
    free(target->buffer);
    free(target);
}
