/* SPDX-License-Identifier: MIT
 *
 * Reading the file of a suspended machine; see image.h. The file is hostile: a number that was read is
 * compared with what it must stay below before anything is computed from it.
 */
#include "migrate/image.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "migrate/image_internal.h"

static bool damaged(struct error **err, const char *what)
{
    error_set(err, ERROR_HOST, "%s", what);
    error_hint(err, "The file of the suspended machine is damaged, or none of Trapeze's.");
    return false;
}

static bool read_at(int fd, uint64_t at, void *to, size_t size, struct error **err)
{
    uint8_t *bytes = to;
    while (size > 0) {
        ssize_t count = pread(fd, bytes, size, (off_t)at);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return error_set_errno(err, errno, "cannot read the suspended machine");
        if (count == 0)
            return damaged(err, "the suspended machine ends too early");
        bytes += count;
        at += (uint64_t)count;
        size -= (size_t)count;
    }
    return true;
}

/* ---- the header ---- */

static bool check_start(const uint8_t *header, struct error **err)
{
    static const uint8_t magic[8] = SAVED_MAGIC;
    if (memcmp(header, magic, sizeof(magic)) != 0)
        return damaged(err, "this is no suspended machine");
    if (load_le64(header + HEADER_HASH) != XXH3_64bits(header, HEADER_HASH))
        return damaged(err, "the header of the suspended machine has another checksum");
    uint32_t version = load_le32(header + HEADER_VERSION);
    if (version == SAVED_VERSION)
        return true;
    error_set(err, ERROR_HOST, "the suspended machine's file has version %u, and this Trapeze knows %u",
              version, SAVED_VERSION);
    error_hint(err, "Use the version of Trapeze that suspended it, or a later one.");
    return false;
}

static bool take_regions(struct saved_image *image, const uint8_t *header, uint64_t *ram,
                         struct error **err)
{
    uint32_t count = load_le32(header + HEADER_REGION_COUNT);
    *ram = 0;
    if (count == 0 || count > SAVED_MAX_REGIONS)
        return damaged(err, "the suspended machine has an impossible number of memory regions");
    for (size_t i = 0; i < count; i++) {
        struct saved_region *region = &image->regions[i];
        region->gpa = load_le64(header + HEADER_REGIONS + 16 * i);
        region->size = load_le64(header + HEADER_REGIONS + 16 * i + 8);
        bool ordered = i == 0 || region->gpa >= region[-1].gpa + region[-1].size;
        if (region->gpa % SAVED_PAGE != 0 || region->size % SAVED_PAGE != 0 || region->size == 0 ||
            region->size > SAVED_MAX_RAM || region->gpa > UINT64_MAX - region->size || !ordered)
            return damaged(err, "the suspended machine has an impossible memory region");
        *ram += region->size;
    }
    image->region_count = count;
    return *ram <= SAVED_MAX_RAM || damaged(err, "the suspended machine has too much memory");
}

static uint64_t chunks_of(const struct saved_image *image, size_t region)
{
    return (image->regions[region].size + (image->chunk_size - 1)) / image->chunk_size;
}

static bool take_sections(struct saved_image *image, const uint8_t *header, uint64_t file_size,
                          struct error **err)
{
    for (size_t i = 0; i < SAVED_SECTION_COUNT; i++) {
        const uint8_t *from = header + HEADER_SECTIONS + 24 * i;
        uint64_t at = load_le64(from), size = load_le64(from + 8);
        uint64_t limit =
            i == SAVED_CHUNKS ? image->chunk_count * (uint64_t)CHUNK_BYTES : SAVED_MAX_SECTION;
        if (i == SAVED_NOTES && at == 0 && size == 0)
            continue;
        if (!range_within(at, size, file_size) || at < SAVED_HEADER || size > limit ||
            (i == SAVED_CHUNKS && size != limit))
            return damaged(err, "a part of the suspended machine lies outside of its file");
        image->sections[i].at = at;
        image->sections[i].size = size;
        image->sections[i].hash = load_le64(from + 16);
    }
    return true;
}

static bool take_header(struct saved_image *image, const uint8_t *header, uint64_t file_size,
                        struct error **err)
{
    uint32_t flags = load_le32(header + HEADER_FLAGS);
    uint64_t ram;
    image->compressed = (flags & FLAG_COMPRESSED) != 0;
    image->apart = (flags & FLAG_APART) != 0;
    image->saved_at = load_le64(header + HEADER_SAVED_AT);
    image->chunk_size = load_le32(header + HEADER_CHUNK_SIZE);
    image->data_at = load_le64(header + HEADER_DATA_AT);
    image->data_size = load_le64(header + HEADER_DATA_SIZE);
    if (flags > FLAG_APART) /* nor both at once */
        return damaged(err, "the suspended machine has flags that nobody knows");
    if (load_le64(header + HEADER_FILE_SIZE) != file_size)
        return damaged(err, "the file of the suspended machine was cut off, or is too long");
    if (!is_power_of_two(image->chunk_size) || image->chunk_size < SAVED_PAGE ||
        image->chunk_size > CHUNK_MAX)
        return damaged(err, "the suspended machine has chunks of an impossible size");
    if (image->apart ? image->data_at != 0
                     : image->data_at % SAVED_PAGE != 0 || image->data_at < SAVED_HEADER ||
                           !range_within(image->data_at, image->data_size, file_size))
        return damaged(err, "the suspended machine's memory lies outside of its file");
    if (!take_regions(image, header, &ram, err))
        return false;
    if (!image->compressed && image->data_size != ram)
        return damaged(err, "the suspended machine has less memory than it says");
    image->chunk_count = 0;
    for (size_t i = 0; i < image->region_count; i++)
        image->chunk_count += (size_t)chunks_of(image, i);
    return take_sections(image, header, file_size, err);
}

static bool read_section(struct saved_image *image, size_t index, struct error **err)
{
    size_t size = (size_t)image->sections[index].size;
    if (image->sections[index].at == 0) /* there are no notes */
        return true;
    uint8_t *data = malloc(size + 1);
    image->sections[index].data = data;
    if (data == NULL)
        return error_set(err, ERROR_HOST, "the host is out of memory");
    data[size] = 0;
    if (!read_at(image->fd, image->sections[index].at, data, size, err))
        return false;
    return XXH3_64bits(data, size) == image->sections[index].hash ||
           damaged(err, "a part of the suspended machine has another checksum");
}

/* ---- the table of chunks ---- */

uint32_t saved_chunk_size(const struct saved_image *image, size_t index)
{
    for (size_t i = 0; i < image->region_count; i++) {
        uint64_t chunks = chunks_of(image, i);
        if (index < chunks) {
            uint64_t left = image->regions[i].size - (uint64_t)index * image->chunk_size;
            return left < image->chunk_size ? (uint32_t)left : image->chunk_size;
        }
        index -= (size_t)chunks;
    }
    return 0;
}

static bool chunk_is_possible(const struct saved_image *image, const struct saved_chunk *chunk,
                              uint64_t in_place, uint32_t size)
{
    if (chunk->kind == SAVED_ZERO)
        return chunk->at == 0 && chunk->stored == 0 && chunk->hash == 0;
    if (chunk->kind == SAVED_RAW && chunk->stored != size)
        return false;
    if (chunk->kind != SAVED_RAW && (chunk->kind != SAVED_ZSTD || !image->compressed ||
                                     chunk->stored == 0 || chunk->stored >= size))
        return false;
    if (!image->compressed)
        return chunk->at == in_place;
    return chunk->at >= image->data_at &&
           range_within(chunk->at - image->data_at, chunk->stored, image->data_size);
}

static int compare_places(const void *left, const void *right)
{
    const struct saved_chunk *a = left, *b = right;
    return (a->at > b->at) - (a->at < b->at);
}

/* In place nothing can overlap; compressed ones tell where they lie. */
static bool chunks_overlap(const struct saved_image *image)
{
    struct saved_chunk *sorted = alloc_zeroed(image->chunk_count, sizeof(*sorted));
    bool overlap = false;
    memcpy(sorted, image->chunks, image->chunk_count * sizeof(*sorted));
    qsort(sorted, image->chunk_count, sizeof(*sorted), compare_places);
    for (size_t i = 1; i < image->chunk_count; i++)
        overlap = overlap || sorted[i].at < sorted[i - 1].at + sorted[i - 1].stored;
    free(sorted);
    return overlap;
}

static bool take_chunks(struct saved_image *image, struct error **err)
{
    const uint8_t *from = image->sections[SAVED_CHUNKS].data;
    uint64_t in_place = image->data_at;
    image->chunks = calloc(image->chunk_count, sizeof(*image->chunks));
    if (image->chunks == NULL)
        return error_set(err, ERROR_HOST, "the host is out of memory");
    size_t index = 0;
    for (size_t r = 0; r < image->region_count; r++) {
        uint64_t left = image->regions[r].size;
        for (; left > 0; index++, from += CHUNK_BYTES) {
            uint32_t size = left < image->chunk_size ? (uint32_t)left : image->chunk_size;
            struct saved_chunk *chunk = &image->chunks[index];
            *chunk = (struct saved_chunk){load_le64(from), load_le64(from + 8), load_le32(from + 16),
                                          load_le32(from + 20)};
            if (!chunk_is_possible(image, chunk, in_place, size))
                return damaged(err, "a piece of the suspended machine's memory is impossible");
            in_place += size;
            left -= size;
        }
    }
    if (image->compressed && chunks_overlap(image))
        return damaged(err, "pieces of the suspended machine's memory overlap");
    free(image->sections[SAVED_CHUNKS].data);
    image->sections[SAVED_CHUNKS].data = NULL;
    return true;
}

static bool open_header(struct saved_image *image, int fd, uint8_t header[SAVED_HEADER],
                        uint64_t *size, struct error **err)
{
    struct stat status;
    *image = (struct saved_image){.fd = fd, .memory = fd};
    if (fstat(fd, &status) != 0)
        return error_set_errno(err, errno, "cannot look at the suspended machine");
    if (!S_ISREG(status.st_mode) || status.st_size < SAVED_HEADER)
        return damaged(err, "this is no suspended machine");
    *size = (uint64_t)status.st_size;
    return read_at(fd, 0, header, SAVED_HEADER, err) && check_start(header, err) &&
           take_header(image, header, *size, err);
}

static bool write_back(int fd, const void *data, size_t size, uint64_t at, struct error **err)
{
    for (size_t done = 0; done < size;) {
        ssize_t count = pwrite(fd, (const uint8_t *)data + done, size - done, (off_t)(at + done));
        if (count < 0 && errno != EINTR)
            return error_set_errno(err, errno, "cannot write the suspended machine");
        done += count > 0 ? (size_t)count : 0;
    }
    return true;
}

bool saved_replace(int fd, enum saved_section section, const void *data, size_t size,
                   struct error **err)
{
    uint8_t header[SAVED_HEADER], *row = header + HEADER_SECTIONS + 24 * section;
    struct saved_image image;
    uint64_t end;
    assert((section < SAVED_STATE || section == SAVED_NOTES) && size <= SAVED_MAX_SECTION);
    if (!open_header(&image, fd, header, &end, err))
        return false;
    store_le64(row, end);
    store_le64(row + 8, size);
    store_le64(row + 16, XXH3_64bits(data, size));
    store_le64(header + HEADER_FILE_SIZE, end + size);
    store_le64(header + HEADER_HASH, XXH3_64bits(header, HEADER_HASH));
    return write_back(fd, data, size, end, err) && write_back(fd, header, sizeof(header), 0, err) &&
           (fsync(fd) == 0 || error_set_errno(err, errno, "cannot keep the suspended machine"));
}

bool saved_open(struct saved_image *image, int fd, enum saved_part part, struct error **err)
{
    uint8_t header[SAVED_HEADER];
    uint64_t size;
    if (!open_header(image, fd, header, &size, err))
        return false;
    if (image->apart)
        image->memory = -1;
    for (size_t i = 0; i < SAVED_SECTION_COUNT; i++)
        if ((part == SAVED_ALL || i < SAVED_STATE || i == SAVED_NOTES) &&
            !read_section(image, i, err))
            return false;
    return part != SAVED_ALL || take_chunks(image, err);
}

void saved_clear(struct saved_image *image)
{
    for (size_t i = 0; i < SAVED_SECTION_COUNT; i++)
        free(image->sections[i].data);
    free(image->chunks);
    *image = (struct saved_image){.fd = -1, .memory = -1};
}

bool saved_set_memory(struct saved_image *image, int fd, struct error **err)
{
    struct stat status;
    assert(image->apart);
    if (fstat(fd, &status) != 0)
        return error_set_errno(err, errno, "cannot look at the file of the memory");
    if (!S_ISREG(status.st_mode) || (uint64_t)status.st_size != image->data_size)
        return error_set(err, ERROR_HOST,
                         "the file of the memory is not as large as the machine's memory, %llu bytes",
                         (unsigned long long)image->data_size);
    image->memory = fd;
    return true;
}

/* ---- memory ---- */

static bool lost(const struct saved_image *image, size_t index, struct error **err)
{
    error_set(err, ERROR_HOST,
              "piece %zu of %zu of the suspended machine's memory is damaged in its file", index,
              image->chunk_count);
    error_hint(err, "The machine cannot go on from this file; its disks are as they were then.");
    return false;
}

bool saved_check_chunk(const struct saved_image *image, size_t index, const void *at)
{
    const struct saved_chunk *chunk = &image->chunks[index];
    uint32_t size = saved_chunk_size(image, index);
    if (chunk->kind == SAVED_ZERO)
        return saved_is_zero(at, size);
    return XXH3_64bits(at, size) == chunk->hash;
}

bool saved_read_chunk(const struct saved_image *image, size_t index, void *to, void *scratch,
                      struct error **err)
{
    const struct saved_chunk *chunk = &image->chunks[index];
    uint32_t size = saved_chunk_size(image, index);
    if (chunk->kind == SAVED_ZERO) {
        memset(to, 0, size);
        return true;
    }
    void *stored = chunk->kind == SAVED_ZSTD ? scratch : to;
    if (!read_at(image->memory, chunk->at, stored, chunk->stored, err))
        return false;
    /* What is damaged does not even get to the decompressor. */
    if (XXH3_64bits(stored, chunk->stored) != chunk->hash)
        return lost(image, index, err);
    return chunk->kind == SAVED_RAW || ZSTD_decompress(to, size, stored, chunk->stored) == size ||
           lost(image, index, err);
}
