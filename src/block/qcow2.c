/* SPDX-License-Identifier: MIT
 *
 * qcow2: the header, opening and closing. How it works inside: qcow2_internal.h.
 *
 * Refused with a sentence: encryption, external data files, extended L2 entries, unknown
 * incompatible features. Read but not written: images with internal snapshots, images marked
 * dirty or corrupt.
 */
#include "block/qcow2_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"

/* As much of a disk's tables as is kept in memory: 16 MiB of L2 map 128 GiB in clusters of
 * 64 KiB. */
#define L2_CACHE_BYTES    (16 * MIB)
#define BLOCK_CACHE_BYTES (2 * MIB)
#define SLICE_BYTES       4096u

enum { EXTENSION_END = 0 };
#define EXTENSION_BYTES_MAX      4096u

static bool claims(const uint8_t *start, size_t size)
{
    return size >= QCOW2_HEADER_V2 && load_be32(start) == QCOW2_MAGIC;
}

/* --- damage --- */

int qcow2_write_header(struct qcow2 *q, unsigned offset, const void *data, size_t size)
{
    return block_file_pwrite(q->file, offset, data, size);
}

int qcow2_damaged(struct qcow2 *q, const char *format, ...)
{
    char text[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    bool known = atomic_exchange(&q->broken, true);
    if (known)
        return EIO;
    if (q->image->warn != NULL)
        q->image->warn(q->image->opaque, q->image->name, text);
    if (!q->file->read_only && q->version >= 3 && !q->to_check) {
        uint8_t field[8];
        q->incompatible |= QCOW2_CORRUPT;
        store_be64(field, q->incompatible);
        (void)qcow2_write_header(q, HEADER_INCOMPATIBLE, field, sizeof(field));
    }
    return EIO;
}

/* --- the header --- */

static bool refuse(struct error **err, const char *what, const char *remedy)
{
    error_set(err, ERROR_USAGE, "it %s", what);
    error_hint(err, "%s", remedy);
    return false;
}

static bool check_features(const struct qcow2 *q, const struct block_image_options *options,
                           struct error **err)
{
    static const char convert[] = "Convert it: qemu-img convert -O qcow2 FILE NEW";
    uint64_t known =
        QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_DATA_FILE | QCOW2_COMPRESSION | QCOW2_EXTENDED_L2;
    if ((q->incompatible & QCOW2_DATA_FILE) != 0)
        return refuse(err, "keeps its data in another file", convert);
    if ((q->incompatible & QCOW2_EXTENDED_L2) != 0)
        return refuse(err, "has extended L2 entries (subclusters)", convert);
    if ((q->incompatible & ~known) != 0)
        return error_set(err, ERROR_USAGE,
                         "it uses features that this version does not know (%#llx)",
                         (unsigned long long)(q->incompatible & ~known));
    if (q->compression > 1)
        return error_set(err, ERROR_USAGE,
                         "it is compressed in a way that this version does not "
                         "know (%u)",
                         q->compression);
    if (options->to_check || q->image->read_only)
        return true;
    if ((q->incompatible & QCOW2_CORRUPT) != 0)
        return refuse(err, "is marked corrupt and may only be read",
                      "Look at it with 'trapeze disk check', save what is readable with 'trapeze "
                      "disk convert'");
    if ((q->incompatible & QCOW2_DIRTY) != 0)
        return refuse(err, "was not closed by the program that wrote it",
                      "Repair it first: trapeze disk check --repair FILE");
    return true;
}

static bool read_numbers(struct qcow2 *q, const uint8_t *header, struct error **err)
{
    struct block_image *image = q->image;
    q->version = load_be32(header + HEADER_VERSION);
    q->cluster_bits = load_be32(header + HEADER_CLUSTER_BITS);
    image->size = load_be64(header + HEADER_SIZE);
    q->l1_size = load_be32(header + HEADER_L1_SIZE);
    q->l1_offset = load_be64(header + HEADER_L1_OFFSET);
    q->table_offset = load_be64(header + HEADER_TABLE_OFFSET);
    q->snapshots = load_be32(header + HEADER_SNAPSHOTS);
    if (q->version != 2 && q->version != 3)
        return error_set(err, ERROR_USAGE, "it is of qcow2's version %u, and there are 2 and 3",
                         q->version);
    if (q->cluster_bits < QCOW2_CLUSTER_MIN || q->cluster_bits > QCOW2_CLUSTER_MAX)
        return error_set(err, ERROR_USAGE, "its clusters would have 2^%u bytes", q->cluster_bits);
    if (load_be32(header + HEADER_CRYPT) != 0)
        return refuse(err, "is encrypted", "Decrypt it with qemu-img convert");
    q->cluster_size = 1u << q->cluster_bits;
    q->refcount_order = 4;
    q->header_length = QCOW2_HEADER_V2;
    if (q->version < 3)
        return true;
    q->incompatible = load_be64(header + HEADER_INCOMPATIBLE);
    q->compatible = load_be64(header + HEADER_COMPATIBLE);
    q->autoclear = load_be64(header + HEADER_AUTOCLEAR);
    q->refcount_order = load_be32(header + HEADER_REFCOUNT_ORDER);
    q->header_length = load_be32(header + HEADER_LENGTH);
    if (q->refcount_order > 6)
        return error_set(err, ERROR_USAGE, "its refcounts would have 2^%u bits", q->refcount_order);
    if (q->header_length < QCOW2_HEADER_V3 || q->header_length > q->cluster_size ||
        q->header_length % 8 != 0)
        return error_set(err, ERROR_USAGE, "its header has an impossible length of %u bytes",
                         q->header_length);
    if ((q->incompatible & QCOW2_COMPRESSION) != 0 && q->header_length > HEADER_COMPRESSION_TYPE)
        q->compression = header[HEADER_COMPRESSION_TYPE];
    return true;
}

/* A table of `bytes` at `offset`: aligned, within what an image may have and within the file. */
static bool check_table(const struct qcow2 *q, const char *what, uint64_t offset, uint64_t bytes,
                        uint64_t most, struct error **err)
{
    if (offset != 0 && qcow2_in_cluster(q, offset) == 0 && bytes > 0 && bytes <= most &&
        range_within(offset, align_up(bytes, q->cluster_size), q->end))
        return true;
    return error_set(
        err, ERROR_USAGE, "it is damaged or truncated: its %s of %llu bytes at %llu %s", what,
        (unsigned long long)bytes, (unsigned long long)offset,
        bytes == 0 || bytes > most ? "has an impossible size" : "does not lie in the file");
}

static bool check_tables(const struct qcow2 *q, uint32_t table_clusters, struct error **err)
{
    uint64_t size = q->image->size, reach = qcow2_l2_reach(q);
    if (size == 0 || size % BLOCK_SECTOR != 0 || size > BLOCK_SIZE_MAX)
        return error_set(err, ERROR_USAGE,
                         "its disk would have %llu bytes, which is no positive "
                         "multiple of %u",
                         (unsigned long long)size, BLOCK_SECTOR);
    if (!check_table(q, "L1 table", q->l1_offset, (uint64_t)q->l1_size * 8, QCOW2_L1_BYTES_MAX,
                     err) ||
        !check_table(q, "refcount table", q->table_offset,
                     (uint64_t)table_clusters << q->cluster_bits, QCOW2_TABLE_BYTES_MAX, err))
        return false;
    if ((size - 1) / reach >= q->l1_size)
        return error_set(err, ERROR_USAGE,
                         "it is damaged: an L1 table of %u entries is too short for %llu bytes",
                         q->l1_size, (unsigned long long)size);
    return true;
}

static bool read_backing(struct qcow2 *q, const uint8_t *header, struct error **err)
{
    uint64_t offset = load_be64(header + HEADER_BACKING_OFFSET);
    uint32_t size = load_be32(header + HEADER_BACKING_SIZE);
    if (offset == 0)
        return true;
    if (size == 0 || size > QCOW2_NAME_MAX || !range_within(offset, size, q->cluster_size))
        return error_set(err, ERROR_USAGE,
                         "it is damaged: the name of its backing file would "
                         "have %u bytes",
                         size);
    char *name = alloc_zeroed(1, size + 1u);
    int error = block_file_pread(q->file, offset, name, size);
    q->image->backing_name = name;
    if (error != 0)
        return error_set_errno(err, error, "cannot read its header");
    if (strlen(name) != size)
        return error_set(err, ERROR_USAGE,
                         "it is damaged: the name of its backing file has a "
                         "zero byte in it");
    return true;
}

/* Header extensions; only the backing file's format matters here. */
static bool read_extensions(struct qcow2 *q, struct error **err)
{
    uint64_t offset = q->header_length;
    uint8_t head[8];
    while (offset + sizeof(head) <= q->cluster_size) {
        int error = block_file_pread(q->file, offset, head, sizeof(head));
        if (error != 0)
            return error_set_errno(err, error, "cannot read its header");
        uint32_t type = load_be32(head), length = load_be32(head + 4);
        offset += sizeof(head);
        if (type == EXTENSION_END)
            return true;
        if (length > q->cluster_size - offset)
            return error_set(err, ERROR_USAGE, "it is damaged: a header extension is too long");
        if (type == QCOW2_BACKING_FORMAT && q->image->backing_format == NULL &&
            length < EXTENSION_BYTES_MAX) {
            q->image->backing_format = alloc_zeroed(1, length + 1u);
            error = block_file_pread(q->file, offset, q->image->backing_format, length);
            if (error != 0)
                return error_set_errno(err, error, "cannot read its header");
        }
        offset += align_up(length, 8);
    }
    return true;
}

/* --- the tables --- */

static bool read_table(struct qcow2 *q, uint64_t offset, uint32_t entries, uint64_t **table,
                       struct error **err)
{
    uint8_t *data = malloc((size_t)entries * 8);
    *table = calloc(entries, 8);
    int error = data == NULL || *table == NULL
                    ? ENOMEM
                    : block_file_pread(q->file, offset, data, (size_t)entries * 8);
    for (uint32_t i = 0; error == 0 && i < entries; i++)
        (*table)[i] = load_be64(data + (size_t)i * 8);
    free(data);
    return error == 0 || error_set_errno(err, error, "cannot read its tables");
}

static bool place_run(struct qcow2 *q, uint64_t offset, uint64_t bytes, enum place kind)
{
    bool free_before = true;
    for (uint64_t at = offset; at < offset + bytes; at += q->cluster_size)
        free_before = place_add(&q->places, at >> q->cluster_bits, kind) && free_before;
    return free_before;
}

static bool place_entries(struct qcow2 *q, const uint64_t *table, uint32_t count, enum place kind)
{
    bool good = true;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t at = table[i] & QCOW2_OFFSET_MASK;
        if (at == 0)
            continue;
        if (qcow2_in_cluster(q, at) != 0 || at >= q->end)
            good = false;
        else
            good = place_add(&q->places, at >> q->cluster_bits, kind) && good;
    }
    return good;
}

/* Who writes has to know where all metadata is; two pieces of it in one place are damage. */
static bool find_places(struct qcow2 *q, struct error **err)
{
    bool good = place_run(q, 0, 1, PLACE_HEADER);
    good = place_run(q, q->l1_offset, (uint64_t)q->l1_size * 8, PLACE_L1) && good;
    good = place_run(q, q->table_offset, (uint64_t)q->table_size * 8, PLACE_TABLE) && good;
    good = place_entries(q, q->table, q->table_size, PLACE_BLOCK) && good;
    good = place_entries(q, q->l1, q->l1_size, PLACE_L2) && good;
    q->overlapping = !good;
    if (good || q->to_check)
        return true;
    (void)qcow2_damaged(q, "its tables lie on top of each other or outside of the file");
    error_set(err, ERROR_USAGE,
              "it is damaged: its tables lie on top of each other or outside of "
              "the file");
    error_hint(err, "'trapeze disk check' tells more; attached read-only, what is left can be "
                    "copied");
    return false;
}

/* --- life --- */

static void qcow2_close(struct block_image *image)
{
    struct qcow2 *q = image->state;
    if (!q->file->read_only && !q->broken && q->places.count > 0 && !q->overlapping) {
        /* Freeing makes refcounts dirty, hence twice. */
        if (qcow2_write_back(q) == 0 && qcow2_write_back(q) == 0)
            (void)q->file->ops->flush(q->file);
    }
    slice_cache_clear(&q->l2);
    slice_cache_clear(&q->blocks);
    places_clear(&q->places);
    free(q->freed.runs);
    free(q->l1);
    free(q->table);
    free(q->inflated);
    free(q->deflated);
    pthread_mutex_destroy(&q->order);
    pthread_mutex_destroy(&q->lock);
    pthread_mutex_destroy(&q->inflate_lock);
    free(q);
    image->state = NULL;
}

static size_t cache_limit(uint64_t needed, uint64_t most, uint32_t slice)
{
    uint64_t bytes = needed < most ? needed : most;
    return (size_t)(bytes / slice) + 16; /* some for parallel requests even if tiny */
}

static void make_caches(struct qcow2 *q)
{
    uint32_t slice = q->cluster_size < SLICE_BYTES ? q->cluster_size : SLICE_BYTES;
    slice_cache_init(&q->l2, slice,
                     cache_limit((q->image->size >> q->cluster_bits) * 8, L2_CACHE_BYTES, slice));
    slice_cache_init(&q->blocks, slice, cache_limit(UINT64_MAX, BLOCK_CACHE_BYTES, slice));
}

static bool check_writable(struct qcow2 *q, struct error **err)
{
    if (q->image->read_only)
        return true;
    if (q->file->align > q->cluster_size) {
        error_set(err, ERROR_USAGE,
                  "without the host's cache its clusters of %u bytes had to have "
                  "at least %u",
                  q->cluster_size, q->file->align);
        error_hint(err, "Leave cache=none out");
        return false;
    }
    if (q->snapshots == 0)
        return true;
    error_set(err, ERROR_USAGE, "it has %u internal snapshots, which writing could damage",
              q->snapshots);
    error_hint(err, "Attach it read-only, put a new image on top of it, or remove them with "
                    "qemu-img snapshot -d");
    return false;
}

static bool read_header(struct block_image *image, uint8_t header[QCOW2_HEADER_LENGTH],
                        struct error **err)
{
    image->file->pad_end = true;
    int error = block_file_pread(image->file, 0, header, QCOW2_HEADER_LENGTH);
    if (error != 0)
        return error_set_errno(err, error, "cannot read its header");
    if (load_be32(header) == QCOW2_MAGIC)
        return true;
    error_set(err, ERROR_USAGE, "it is no qcow2 image");
    error_hint(err, "Say format=raw if it is the disk itself");
    return false;
}

static bool qcow2_names(struct block_image *image, struct error **err)
{
    uint8_t header[QCOW2_HEADER_LENGTH] = {0};
    struct qcow2 q = {.image = image, .file = image->file};
    return read_header(image, header, err) && read_numbers(&q, header, err) &&
           read_backing(&q, header, err) && read_extensions(&q, err);
}

static bool qcow2_open(struct block_image *image, const struct block_image_options *options,
                       struct error **err)
{
    uint8_t header[QCOW2_HEADER_LENGTH] = {0};
    uint64_t file_size;
    if (!read_header(image, header, err))
        return false;
    int error = image->file->ops->size(image->file, &file_size);
    if (error != 0)
        return error_set_errno(err, error, "cannot read its header");
    struct qcow2 *q = alloc_zeroed(1, sizeof(*q));
    q->image = image;
    q->file = image->file;
    q->to_check = options->to_check;
    pthread_mutex_init(&q->order, NULL);
    pthread_mutex_init(&q->lock, NULL);
    pthread_mutex_init(&q->inflate_lock, NULL);
    image->state = q; /* from here on qcow2_close() cleans up */
    if (!read_numbers(q, header, err) || !check_features(q, options, err))
        return false;
    image->granule = q->cluster_size;
    q->end = align_up(file_size, q->cluster_size);
    q->fresh = image->file->is_device ? UINT64_MAX : q->end;
    uint32_t clusters = load_be32(header + HEADER_TABLE_CLUSTERS);
    if (!check_tables(q, clusters, err) || !read_backing(q, header, err) ||
        !read_extensions(q, err) || !check_writable(q, err))
        return false;
    q->table_size = (uint32_t)(((uint64_t)clusters << q->cluster_bits) / 8);
    make_caches(q);
    if (!read_table(q, q->l1_offset, q->l1_size, &q->l1, err) ||
        !read_table(q, q->table_offset, q->table_size, &q->table, err))
        return false;
    if (image->read_only && !q->to_check)
        return true;
    if (!find_places(q, err))
        return false;
    /* Who does not know what these bits stand for clears them before changing anything. */
    if (q->autoclear != 0 && !image->read_only && !q->to_check) {
        q->autoclear = 0;
        error = qcow2_write_header(q, HEADER_AUTOCLEAR, &q->autoclear, sizeof(q->autoclear));
        if (error != 0)
            return error_set_errno(err, error, "cannot write its header");
    }
    return true;
}

static void qcow2_describe(struct block_image *image,
                           void (*say)(void *opaque, const char *name, const char *text),
                           void *opaque)
{
    const struct qcow2 *q = image->state;
    char text[32];
    snprintf(text, sizeof(text), "%u", q->version);
    say(opaque, "version", text);
    snprintf(text, sizeof(text), "%u", q->cluster_size);
    say(opaque, "cluster-size", text);
    snprintf(text, sizeof(text), "%u", 1u << q->refcount_order);
    say(opaque, "refcount-bits", text);
    say(opaque, "compression", q->compression == 1 ? "zstd" : "zlib");
    snprintf(text, sizeof(text), "%u", q->snapshots);
    say(opaque, "snapshots", text);
    say(opaque, "state",
        (q->incompatible & QCOW2_CORRUPT) != 0 ? "corrupt"
        : (q->incompatible & QCOW2_DIRTY) != 0 ? "not closed"
                                               : "good");
}

const struct block_format block_format_qcow2 = {
    .name = "qcow2",
    .title = "grows as it is written; can lie on top of a backing file",
    .claims = claims,
    .open = qcow2_open,
    .names = qcow2_names,
    .close = qcow2_close,
    .direct = qcow2_direct,
    .read = qcow2_read,
    .write = qcow2_write,
    .zero = qcow2_zero,
    .discard = qcow2_discard,
    .flush = qcow2_flush,
    .extent = qcow2_extent,
    .create = qcow2_create,
    .resize = qcow2_resize,
    .check = qcow2_check,
    .empty = qcow2_empty,
    .rebase = qcow2_rebase,
    .describe = qcow2_describe,
};
