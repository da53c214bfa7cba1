/* SPDX-License-Identifier: MIT
 *
 * Making and resizing qcow2 images. A new one: header, refcount table, refcount blocks and
 * L1 table in a row.
 */
#include "block/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"

#define DEFAULT_CLUSTER (64u * 1024)
#define REFCOUNT_ORDER  4u

struct layout {
    uint32_t cluster_size;
    unsigned cluster_bits;
    uint64_t l1_entries;
    uint64_t table, blocks, l1, total; /* clusters */
};

static uint64_t clusters_for(const struct layout *layout, uint64_t bytes)
{
    return (bytes + layout->cluster_size - 1) >> layout->cluster_bits;
}

static bool plan(const struct block_create *create, struct layout *layout, struct error **err)
{
    uint32_t size = create->cluster_size != 0 ? create->cluster_size : DEFAULT_CLUSTER;
    if (!is_power_of_two(size) || size < 1u << QCOW2_CLUSTER_MIN || size > 1u << QCOW2_CLUSTER_MAX)
        return error_set(err, ERROR_USAGE,
                         "a cluster has 512 bytes to 2 MiB, a power of two, not %u", size);
    *layout = (struct layout){.cluster_size = size, .cluster_bits = (unsigned)__builtin_ctz(size)};
    uint64_t reach = (uint64_t)(size / 8) << layout->cluster_bits;
    layout->l1_entries = (create->size + reach - 1) / reach;
    if (layout->l1_entries * 8 > QCOW2_L1_BYTES_MAX) {
        error_set(err, ERROR_USAGE, "clusters of %u bytes are too small for so large a disk", size);
        error_hint(err, "Choose larger ones with --cluster-size");
        return false;
    }
    layout->l1 = clusters_for(layout, layout->l1_entries * 8);
    uint64_t per_block = (uint64_t)size * 8 >> REFCOUNT_ORDER;
    do {
        layout->blocks++;
        layout->table = clusters_for(layout, layout->blocks * 8);
        layout->total = 1 + layout->table + layout->blocks + layout->l1;
    } while (layout->blocks * per_block < layout->total);
    return true;
}

static uint32_t put_extension(uint8_t *at, uint32_t type, const char *text)
{
    uint32_t length = (uint32_t)strlen(text);
    store_be32(at, type);
    store_be32(at + 4, length);
    memcpy(at + 8, text, length);
    return 8 + (uint32_t)align_up(length, 8);
}

static bool fill_header(const struct block_create *create, const struct layout *layout,
                        uint8_t *header, struct error **err)
{
    store_be32(header + HEADER_MAGIC, QCOW2_MAGIC);
    store_be32(header + HEADER_VERSION, 3);
    store_be32(header + HEADER_CLUSTER_BITS, layout->cluster_bits);
    store_be64(header + HEADER_SIZE, create->size);
    store_be32(header + HEADER_L1_SIZE, (uint32_t)layout->l1_entries);
    store_be64(header + HEADER_L1_OFFSET, (1 + layout->table + layout->blocks)
                                              << layout->cluster_bits);
    store_be64(header + HEADER_TABLE_OFFSET, layout->cluster_size);
    store_be32(header + HEADER_TABLE_CLUSTERS, (uint32_t)layout->table);
    store_be32(header + HEADER_REFCOUNT_ORDER, REFCOUNT_ORDER);
    store_be32(header + HEADER_LENGTH, QCOW2_HEADER_LENGTH);
    if (create->backing == NULL)
        return true;
    size_t length = strlen(create->backing), format = strlen(create->backing_format);
    size_t at = QCOW2_HEADER_LENGTH;
    if (length > QCOW2_NAME_MAX || at + 8 + format + 8 + 8 + length > layout->cluster_size)
        return error_set(err, ERROR_USAGE, "the name of the backing file has %zu bytes, too many",
                         length);
    at += put_extension(header + at, QCOW2_BACKING_FORMAT, create->backing_format);
    at += 8; /* the end of the extensions */
    store_be64(header + HEADER_BACKING_OFFSET, at);
    store_be32(header + HEADER_BACKING_SIZE, (uint32_t)length);
    memcpy(header + at, create->backing, length);
    return true;
}

static int write_tables(struct block_file *file, const struct layout *layout)
{
    uint64_t bytes = (layout->total - 1) << layout->cluster_bits;
    uint8_t *data = calloc(1, (size_t)bytes);
    if (data == NULL)
        return ENOMEM;
    uint8_t *blocks = data + (layout->table << layout->cluster_bits);
    for (uint64_t i = 0; i < layout->blocks; i++)
        store_be64(data + i * 8, (1 + layout->table + i) << layout->cluster_bits);
    for (uint64_t i = 0; i < layout->total; i++) /* blocks lie in a row: entries do too */
        refcount_set_entry(blocks, REFCOUNT_ORDER, i, 1);
    int error = block_file_pwrite(file, layout->cluster_size, data, (size_t)bytes);
    free(data);
    return error;
}

bool qcow2_create(struct block_file *file, const struct block_create *create, struct error **err)
{
    struct layout layout = {0};
    if (!plan(create, &layout, err))
        return false;
    uint8_t *header = alloc_zeroed(1, layout.cluster_size);
    bool good = fill_header(create, &layout, header, err);
    if (good) {
        int error = file->is_device ? 0 : file->ops->truncate(file, 0);
        if (error == 0)
            error = write_tables(file, &layout);
        if (error == 0)
            error = block_file_pwrite(file, 0, header, layout.cluster_size);
        if (error == 0)
            error = file->ops->flush(file);
        good = error == 0 || error_set_errno(err, error, "cannot write the new image");
    }
    free(header);
    return good;
}

/* --- another backing file --- */

/* All extensions but the backing file's format, from `at` on of both headers, as far as they go; 0: they
 * make no sense. */
static uint32_t keep_extensions(const uint8_t *before, uint8_t *after, uint32_t at, uint32_t size)
{
    uint32_t to = at;
    while (at + 8 <= size && load_be32(before + at) != 0) {
        uint64_t length = 8 + align_up(load_be32(before + at + 4), 8);
        if (length > size - at)
            return 0;
        if (load_be32(before + at) != QCOW2_BACKING_FORMAT) {
            memcpy(after + to, before + at, (size_t)length);
            to += (uint32_t)length;
        }
        at += (uint32_t)length;
    }
    return to;
}

/* One write, and a short one: whoever reads has the name of before or this one. */
bool qcow2_rebase(struct block_image *image, const char *backing, const char *backing_format,
                  struct error **err)
{
    struct qcow2 *q = image->state;
    size_t length = strlen(backing), format = strlen(backing_format), end = 0;
    uint8_t *before = alloc_zeroed(2, q->cluster_size), *after = before + q->cluster_size;
    int error = qcow2_flush(image);
    if (error == 0)
        error = block_file_pread(q->file, 0, before, q->cluster_size);
    uint32_t at = error == 0 && q->version >= 3
                      ? keep_extensions(before, after, q->header_length, q->cluster_size)
                      : 0;
    if (at != 0 && length <= QCOW2_NAME_MAX && at + 8 + format + 8 + 8 + length <= q->cluster_size) {
        memcpy(after, before, q->header_length);
        at += put_extension(after + at, QCOW2_BACKING_FORMAT, backing_format);
        at += 8; /* the end of the extensions */
        store_be64(after + HEADER_BACKING_OFFSET, at);
        store_be32(after + HEADER_BACKING_SIZE, (uint32_t)length);
        memcpy(after + at, backing, length);
        end = at + length;
        error = block_file_pwrite(q->file, 0, after, end);
        if (error == 0)
            error = q->file->ops->flush(q->file);
    }
    free(before);
    if (error == 0 && end == 0)
        return error_set(err, ERROR_USAGE, "its header has no room for another backing file's name");
    return error == 0 || error_set_errno(err, error, "cannot change what it lies on");
}

/* --- resizing --- */

/* Lock held: an L1 table of so many entries in a new place. The old one is the caller's to free
 * once the header says so. */
static int move_l1(struct qcow2 *q, uint32_t entries, struct cluster_run *before)
{
    uint64_t bytes = (uint64_t)entries * 8;
    uint64_t clusters = (bytes + q->cluster_size - 1) >> q->cluster_bits;
    struct allocation got;
    int error = qcow2_allocate(q, clusters, true, &got);
    if (error != 0)
        return error;
    uint8_t *data = calloc((size_t)clusters, q->cluster_size);
    uint64_t *l1 = calloc(entries, 8);
    if (data == NULL || l1 == NULL)
        error = ENOMEM;
    for (uint32_t i = 0; error == 0 && i < q->l1_size; i++) {
        l1[i] = q->l1[i];
        store_be64(data + (size_t)i * 8, l1[i]);
    }
    if (error == 0)
        error = block_file_pwrite(q->file, got.host, data, (size_t)clusters << q->cluster_bits);
    free(data);
    if (error != 0) {
        free(l1);
        qcow2_unallocate(q, got.host, clusters);
        return error;
    }
    uint64_t old = q->l1_offset >> q->cluster_bits;
    uint64_t old_clusters = ((uint64_t)q->l1_size * 8 + q->cluster_size - 1) >> q->cluster_bits;
    for (uint64_t i = 0; i < old_clusters; i++)
        place_remove(&q->places, old + i);
    for (uint64_t i = 0; i < clusters; i++)
        place_add(&q->places, (got.host >> q->cluster_bits) + i, PLACE_L1);
    free(q->l1);
    q->l1 = l1;
    q->l1_size = entries;
    q->l1_offset = got.host;
    *before = (struct cluster_run){old, old_clusters};
    return 0;
}

/* Size, L1 size and offset are neighbours in the header: one write changes all. */
static int write_size(struct qcow2 *q, uint64_t size)
{
    uint8_t fields[HEADER_TABLE_OFFSET - HEADER_SIZE] = {0};
    store_be64(fields, size);
    store_be32(fields + (HEADER_L1_SIZE - HEADER_SIZE), q->l1_size);
    store_be64(fields + (HEADER_L1_OFFSET - HEADER_SIZE), q->l1_offset);
    int error = qcow2_write_header(q, HEADER_SIZE, fields, sizeof(fields));
    return error == 0 ? q->file->ops->flush(q->file) : error;
}

static int shrink(struct block_image *image, uint64_t size)
{
    struct qcow2 *q = image->state;
    uint64_t from = align_up(size, q->cluster_size), end = align_up(image->size, q->cluster_size);
    /* What lies behind the new end of its last cluster must not come back when it grows. */
    int error = size < from && from <= image->size ? qcow2_zero(image, size, from - size, 0) : 0;
    if (error == 0 && from < end)
        error = qcow2_clear(q, from, end - from, QCOW2_EMPTY);
    return error == 0 ? qcow2_flush(image) : error;
}

/* What comes to light must be zero, whatever a larger backing file has there. */
static int clear_new(struct block_image *image, uint64_t old_size)
{
    if (image->backing_name == NULL || image->size <= old_size)
        return 0;
    int error = qcow2_zero(image, old_size, image->size - old_size, BLOCK_ZERO_UNMAP);
    return error == 0 ? qcow2_flush(image) : error;
}

bool qcow2_resize(struct block_image *image, uint64_t size, struct error **err)
{
    struct qcow2 *q = image->state;
    struct cluster_run before = {0, 0};
    uint64_t reach = qcow2_l2_reach(q), entries = (size + reach - 1) / reach;
    uint64_t old_size = image->size;
    if (entries * 8 > QCOW2_L1_BYTES_MAX)
        return error_set(err, ERROR_USAGE,
                         "its clusters of %u bytes are too small for so large a "
                         "disk",
                         q->cluster_size);
    int error = size < old_size ? shrink(image, size) : qcow2_flush(image);
    if (error == 0 && entries > q->l1_size) {
        pthread_mutex_lock(&q->lock);
        error = move_l1(q, (uint32_t)entries, &before);
        pthread_mutex_unlock(&q->lock);
        if (error == 0)
            error = qcow2_flush(image); /* refcounts of the new table */
    }
    if (error == 0) {
        image->size = size;
        /* A table that is not yet the header's may already be written to. */
        error = clear_new(image, old_size);
    }
    if (error == 0)
        error = write_size(q, size);
    if (error != 0) {
        image->size = old_size;
        return error_set_errno(err, error, "cannot change its size");
    }
    if (before.count > 0) {
        pthread_mutex_lock(&q->lock);
        qcow2_free_later(q, before.first, before.count);
        pthread_mutex_unlock(&q->lock);
        error = qcow2_flush(image);
    }
    return error == 0 || error_set_errno(err, error, "cannot free what it used before");
}
