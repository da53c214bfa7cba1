/* SPDX-License-Identifier: MIT
 *
 * Writing the file of a suspended machine; see image.h. Threads take one chunk after the other; what
 * they write nothing refers to before the header, which comes last, is there.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "migrate/image.h"
#include "migrate/image_internal.h"

enum { MAX_THREADS = 16, LEVEL = 1 /* what a disk of today takes in as fast as it comes */ };

struct writing {
    int fd;
    const struct saved_source *source;
    uint64_t total;                /* bytes of guest memory */
    struct saved_chunk *chunks;
    size_t chunk_count;
    _Atomic size_t next;           /* chunk to take */
    _Atomic uint64_t end;          /* of what is written; compressed only */
    _Atomic uint64_t done;         /* bytes of guest memory */
    _Atomic bool stop;
    pthread_mutex_t lock;          /* go_on() and error */
    struct error *error;           /* the first */
    bool ended;                    /* go_on() said so */
};

static bool write_at(int fd, uint64_t at, const void *from, size_t size, struct error **err)
{
    const uint8_t *bytes = from;
    while (size > 0) {
        ssize_t count = pwrite(fd, bytes, size, (off_t)at);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0) {
            error_set_errno(err, errno, "cannot write the suspended machine");
            if (errno == ENOSPC || errno == EDQUOT)
                error_hint(err, "Make room, or choose a file elsewhere; --compress needs less.");
            return false;
        }
        bytes += count;
        at += (uint64_t)count;
        size -= (size_t)count;
    }
    return true;
}

/* Where a chunk is: its region and place there, and in the file if it is not compressed. */
struct place {
    size_t region;
    uint64_t offset, at;
    uint32_t size;
};

static struct place locate(const struct writing *writing, size_t index)
{
    const struct saved_source *source = writing->source;
    uint64_t at = source->apart ? 0 : SAVED_HEADER;
    for (size_t r = 0;; r++) {
        uint64_t size = source->regions[r].size;
        uint64_t chunks = (size + (SAVED_CHUNK - 1)) / SAVED_CHUNK;
        if (index < chunks) {
            uint64_t offset = (uint64_t)index * SAVED_CHUNK, left = size - offset;
            return (struct place){r, offset, at + offset,
                                  left < SAVED_CHUNK ? (uint32_t)left : SAVED_CHUNK};
        }
        index -= (size_t)chunks;
        at += size;
    }
}

/* Pages of zeroes stay holes, but where they replace what there was. */
static bool is_wanted(const struct writing *writing, const struct place *place, const uint8_t *bytes,
                      uint32_t from)
{
    if (writing->source->changed == NULL)
        return !saved_is_zero(bytes + from, SAVED_PAGE);
    uint64_t page = (place->offset + from) / SAVED_PAGE;
    return writing->source->changed[place->region][page / 64] >> page % 64 & 1;
}

static bool write_pages(struct writing *writing, const struct place *place, const uint8_t *bytes,
                        struct error **err)
{
    int fd = writing->source->apart ? writing->source->memory_file : writing->fd;
    for (uint32_t from = 0, to; from < place->size; from = to) {
        bool wanted = is_wanted(writing, place, bytes, from);
        for (to = from + SAVED_PAGE;
             to < place->size && is_wanted(writing, place, bytes, to) == wanted; to += SAVED_PAGE)
            ;
        if (wanted && !write_at(fd, place->at + from, bytes + from, to - from, err))
            return false;
    }
    return true;
}

static bool write_chunk(struct writing *writing, size_t index, ZSTD_CCtx *context, uint8_t *scratch,
                        struct error **err)
{
    struct saved_chunk *chunk = &writing->chunks[index];
    const struct place place = locate(writing, index);
    const uint32_t size = place.size;
    const uint8_t *bytes = writing->source->memory(
        writing->source->opaque, writing->source->regions[place.region].gpa + place.offset, size);
    if (bytes == NULL)
        return error_set(err, ERROR_HOST, "the guest's memory cannot be read");
    bool zero = saved_is_zero(bytes, size);
    if (!zero && context == NULL)
        *chunk = (struct saved_chunk){place.at, XXH3_64bits(bytes, size), size, SAVED_RAW};
    if (context == NULL || zero)
        return write_pages(writing, &place, bytes, err);
    size_t stored = ZSTD_compressCCtx(context, scratch, size, bytes, size, LEVEL);
    bool shorter = !ZSTD_isError(stored) && stored < size;
    if (!shorter) {
        stored = size;
        memcpy(scratch, bytes, size);
    }
    *chunk = (struct saved_chunk){atomic_fetch_add(&writing->end, stored),
                                  XXH3_64bits(scratch, stored), (uint32_t)stored,
                                  shorter ? SAVED_ZSTD : SAVED_RAW};
    return write_at(writing->fd, chunk->at, scratch, stored, err);
}

static void note_error(struct writing *writing, struct error *error)
{
    pthread_mutex_lock(&writing->lock);
    if (writing->error == NULL)
        writing->error = error;
    else
        error_free(error);
    pthread_mutex_unlock(&writing->lock);
    atomic_store(&writing->stop, true);
}

/* One thread tells, the others go on meanwhile. */
static void tell(struct writing *writing)
{
    const struct saved_source *source = writing->source;
    if (source->go_on == NULL || pthread_mutex_trylock(&writing->lock) != 0)
        return;
    if (!writing->ended && !source->go_on(source->opaque, atomic_load(&writing->done), writing->total)) {
        writing->ended = true;
        atomic_store(&writing->stop, true);
    }
    pthread_mutex_unlock(&writing->lock);
}

static void *write_chunks(void *opaque)
{
    struct writing *writing = opaque;
    ZSTD_CCtx *context = writing->source->compress ? ZSTD_createCCtx() : NULL;
    uint8_t *scratch = context != NULL ? alloc_zeroed(1, SAVED_CHUNK) : NULL;
    struct error *error = NULL;
    if (writing->source->compress && context == NULL)
        error_set(&error, ERROR_HOST, "the host is out of memory");
    while (error == NULL && !atomic_load(&writing->stop)) {
        size_t index = atomic_fetch_add(&writing->next, 1);
        if (index >= writing->chunk_count ||
            !write_chunk(writing, index, context, scratch, &error))
            break;
        atomic_fetch_add(&writing->done, SAVED_CHUNK);
        if (index % 64 == 0)
            tell(writing);
    }
    if (error != NULL)
        note_error(writing, error);
    ZSTD_freeCCtx(context);
    free(scratch);
    return NULL;
}

static void run_threads(struct writing *writing)
{
    pthread_t threads[MAX_THREADS];
    unsigned wish = writing->source->threads, count = 0;
    /* This one works too; those that the host refuses are done without. */
    while (count + 1 < wish && count < MAX_THREADS &&
           pthread_create(&threads[count], NULL, write_chunks, writing) == 0)
        count++;
    write_chunks(writing);
    while (count > 0)
        pthread_join(threads[--count], NULL);
}

static uint8_t *chunk_table(const struct writing *writing)
{
    uint8_t *table = alloc_zeroed(writing->chunk_count, CHUNK_BYTES);
    for (size_t i = 0; i < writing->chunk_count; i++) {
        const struct saved_chunk *chunk = &writing->chunks[i];
        store_le64(table + CHUNK_BYTES * i, chunk->at);
        store_le64(table + CHUNK_BYTES * i + 8, chunk->hash);
        store_le32(table + CHUNK_BYTES * i + 16, chunk->stored);
        store_le32(table + CHUNK_BYTES * i + 20, chunk->kind);
    }
    return table;
}

/* Sections behind the data, then the header in front of it. */
static bool finish(struct writing *writing, struct error **err)
{
    static const uint8_t magic[8] = SAVED_MAGIC;
    const struct saved_source *source = writing->source;
    uint8_t header[SAVED_HEADER] = {0};
    struct timespec now;
    uint64_t at = source->compress ? atomic_load(&writing->end)
                  : source->apart  ? SAVED_HEADER
                                   : SAVED_HEADER + writing->total;
    uint64_t data_size = source->apart ? writing->total : at - SAVED_HEADER;
    uint8_t *table = chunk_table(writing);
    bool good = true;
    for (size_t i = 0; good && i < SAVED_SECTION_COUNT; i++) {
        const void *data = i == SAVED_CHUNKS ? table : source->sections[i].data;
        size_t size =
            i == SAVED_CHUNKS ? writing->chunk_count * CHUNK_BYTES : source->sections[i].size;
        uint8_t *row = header + HEADER_SECTIONS + 24 * i;
        if (i == SAVED_NOTES && size == 0)
            continue;
        store_le64(row, at);
        store_le64(row + 8, size);
        store_le64(row + 16, XXH3_64bits(data, size));
        good = write_at(writing->fd, at, data, size, err);
        at += size;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    memcpy(header, magic, sizeof(magic));
    store_le32(header + HEADER_VERSION, SAVED_VERSION);
    store_le32(header + HEADER_FLAGS, source->compress ? FLAG_COMPRESSED
                                      : source->apart  ? FLAG_APART
                                                       : 0);
    store_le64(header + HEADER_FILE_SIZE, at);
    store_le64(header + HEADER_SAVED_AT,
               (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec);
    store_le32(header + HEADER_CHUNK_SIZE, SAVED_CHUNK);
    store_le32(header + HEADER_REGION_COUNT, (uint32_t)source->region_count);
    store_le64(header + HEADER_DATA_AT, source->apart ? 0 : SAVED_HEADER);
    store_le64(header + HEADER_DATA_SIZE, data_size);
    for (size_t i = 0; i < source->region_count; i++) {
        store_le64(header + HEADER_REGIONS + 16 * i, source->regions[i].gpa);
        store_le64(header + HEADER_REGIONS + 16 * i + 8, source->regions[i].size);
    }
    store_le64(header + HEADER_HASH, XXH3_64bits(header, HEADER_HASH));
    free(table);
    if (!good || !write_at(writing->fd, 0, header, sizeof(header), err))
        return false;
    return (fsync(writing->fd) == 0 && (!source->apart || fsync(source->memory_file) == 0)) ||
           error_set_errno(err, errno, "cannot write the suspended machine");
}

/* It is as large as the memory, whatever it was. */
static bool size_memory(const struct saved_source *source, uint64_t total, struct error **err)
{
    bool whole = source->changed == NULL;
    assert(!source->compress);
    return (!whole || ftruncate(source->memory_file, 0) == 0) &&
                   ftruncate(source->memory_file, (off_t)total) == 0
               ? true
               : error_set_errno(err, errno, "cannot write the machine's memory");
}

bool saved_write(int fd, const struct saved_source *source, struct error **err)
{
    struct writing writing = {.fd = fd, .source = source, .end = SAVED_HEADER};
    for (size_t i = 0; i < source->region_count; i++) {
        writing.total += source->regions[i].size;
        writing.chunk_count +=
            (size_t)((source->regions[i].size + (SAVED_CHUNK - 1)) / SAVED_CHUNK);
    }
    writing.chunks = alloc_zeroed(writing.chunk_count, sizeof(*writing.chunks));
    pthread_mutex_init(&writing.lock, NULL);
    bool good = !source->apart || size_memory(source, writing.total, &writing.error);
    if (good)
        run_threads(&writing);
    good = false;
    if (writing.error != NULL)
        error_propagate(err, writing.error);
    else if (writing.ended)
        error_set(err, ERROR_HOST, "suspending was called off");
    else
        good = finish(&writing, err);
    free(writing.chunks);
    pthread_mutex_destroy(&writing.lock);
    return good;
}
