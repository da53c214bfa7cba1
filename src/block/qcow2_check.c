/* SPDX-License-Identifier: MIT
 *
 * Whether an image's tables agree: every reference is counted afresh, from the header down,
 * and compared with the refcounts that are stored. Repairing makes the stored ones right;
 * it never touches data and never takes a cluster from two owners.
 */
#include "block/qcow2_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "base/error.h"

#define CLUSTERS_MAX (UINT64_C(1) << 31) /* counters of 4 bytes: 8 GiB, and 128 TiB of image */

struct checker {
    struct qcow2 *q;
    struct block_check *result;
    uint32_t *counted; /* references to each cluster of the file */
    uint64_t clusters;
    uint8_t *table; /* one L2 table */
    bool repair;
};

static void finding(struct checker *c, uint64_t *counter, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void finding(struct checker *c, uint64_t *counter, const char *format, ...)
{
    char text[160];
    (*counter)++;
    if (c->result->report == NULL)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    c->result->report(c->result->opaque, text);
}

/* --- counting --- */

static void count(struct checker *c, uint64_t first, uint64_t number, const char *what)
{
    for (uint64_t i = 0; i < number; i++) {
        uint64_t cluster = first + i;
        if (cluster >= c->clusters) {
            finding(c, &c->result->corruptions, "%s lies behind the end of the file, at %llu", what,
                    (unsigned long long)(cluster << c->q->cluster_bits));
            return;
        }
        if (c->counted[cluster] < UINT32_MAX)
            c->counted[cluster]++;
        if (c->result->file_end < (cluster + 1) << c->q->cluster_bits)
            c->result->file_end = (cluster + 1) << c->q->cluster_bits;
    }
}

static void count_bytes(struct checker *c, uint64_t offset, uint64_t bytes, const char *what)
{
    unsigned bits = c->q->cluster_bits;
    count(c, offset >> bits, (bytes + c->q->cluster_size - 1) >> bits, what);
}

static bool is_good_offset(struct checker *c, uint64_t entry, const char *what)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    if (qcow2_in_cluster(c->q, offset) == 0)
        return true;
    finding(c, &c->result->corruptions, "%s at %llu does not begin at a cluster", what,
            (unsigned long long)offset);
    return false;
}

static void count_blocks(struct checker *c)
{
    for (uint32_t i = 0; i < c->q->table_size; i++)
        if (c->q->table[i] != 0 && is_good_offset(c, c->q->table[i], "a refcount block"))
            count_bytes(c, c->q->table[i] & QCOW2_OFFSET_MASK, 1, "a refcount block");
}

static void count_entry(struct checker *c, uint64_t entry)
{
    if ((entry & QCOW2_COMPRESSED) != 0) {
        struct cluster_run run = qcow2_compressed_run(c->q, entry);
        /* The last sector may be cut short by the end of the file. */
        if (run.first + run.count > c->clusters && run.first < c->clusters)
            run.count = c->clusters - run.first;
        count(c, run.first, run.count, "compressed data");
        c->result->compressed++;
        c->result->allocated++;
        return;
    }
    uint64_t host = entry & QCOW2_OFFSET_MASK;
    if (host == 0)
        return;
    c->result->allocated++;
    if (is_good_offset(c, entry, "data"))
        count_bytes(c, host, 1, "data");
}

/* Reads L2 table `number`; false: there is none to look at. */
static bool load_table(struct checker *c, uint32_t number, int *error)
{
    uint64_t entry = c->q->l1[number], table = entry & QCOW2_OFFSET_MASK;
    if (table == 0 || qcow2_in_cluster(c->q, table) != 0 || table >= c->q->end)
        return false;
    *error = block_file_pread(c->q->file, table, c->table, c->q->cluster_size);
    return *error == 0;
}

static int count_data(struct checker *c)
{
    int error = 0;
    for (uint32_t i = 0; error == 0 && i < c->q->l1_size; i++) {
        if ((c->q->l1[i] & QCOW2_OFFSET_MASK) != 0 && is_good_offset(c, c->q->l1[i], "an L2 table"))
            count_bytes(c, c->q->l1[i] & QCOW2_OFFSET_MASK, 1, "an L2 table");
        if (!load_table(c, i, &error))
            continue;
        for (uint32_t k = 0; k < c->q->cluster_size / 8; k++)
            count_entry(c, load_be64(c->table + (size_t)k * 8));
    }
    return error;
}

/* --- comparing --- */

static int compare_one(struct checker *c, uint64_t cluster, uint64_t stored)
{
    uint64_t counted = cluster < c->clusters ? c->counted[cluster] : 0;
    if (stored == counted)
        return 0;
    uint64_t *fixed = &c->result->leaks_fixed;
    if (stored > counted) {
        finding(c, &c->result->leaks, "cluster %llu is counted %llu times and used %llu times",
                (unsigned long long)cluster, (unsigned long long)stored,
                (unsigned long long)counted);
    } else {
        fixed = &c->result->corruptions_fixed;
        finding(c, &c->result->corruptions,
                "cluster %llu is used %llu times and counted only %llu times",
                (unsigned long long)cluster, (unsigned long long)counted,
                (unsigned long long)stored);
    }
    if (!c->repair || counted > qcow2_refcount_max(c->q))
        return 0;
    int error = qcow2_set_refcount(c->q, cluster, counted);
    if (error == ENXIO) /* no block counts it: making one here could overwrite something */
        return 0;
    if (error == 0)
        (*fixed)++;
    return error;
}

/* Everything that blocks count, and what of the file none counts. */
static int compare(struct checker *c)
{
    struct qcow2 *q = c->q;
    uint64_t per_block = UINT64_C(1) << qcow2_block_bits(q);
    uint64_t blocks = (c->clusters + per_block - 1) / per_block;
    if (blocks < q->table_size)
        blocks = q->table_size;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t entry = i < q->table_size ? q->table[i] & QCOW2_OFFSET_MASK : 0;
        bool usable = entry != 0 && qcow2_in_cluster(q, entry) == 0 && entry < q->end;
        for (uint64_t k = 0; k < per_block; k++) {
            uint64_t cluster = i * per_block + k, stored = 0;
            if (!usable && cluster >= c->clusters)
                break;
            int error = usable ? qcow2_refcount(q, cluster, &stored) : 0;
            if (error == 0)
                error = compare_one(c, cluster, stored);
            if (error == 0 && q->blocks.dirty > q->blocks.limit / 2) {
                pthread_mutex_unlock(&q->lock);
                error = qcow2_write_back(q);
                pthread_mutex_lock(&q->lock);
            }
            if (error != 0)
                return error;
        }
    }
    return 0;
}

static bool flag_is_right(const struct checker *c, uint64_t entry)
{
    uint64_t host = entry & QCOW2_OFFSET_MASK, cluster = host >> c->q->cluster_bits;
    if (host == 0 || qcow2_in_cluster(c->q, host) != 0 || cluster >= c->clusters)
        return true; /* or reported already */
    return ((entry & QCOW2_COPIED) != 0) == (c->counted[cluster] == 1);
}

static void flag_finding(struct checker *c, const char *what, uint64_t number)
{
    finding(c, &c->result->corruptions,
            "the flag of %s %llu is wrong: it says whether the cluster "
            "is used once",
            what, (unsigned long long)number);
    if (c->repair)
        c->result->corruptions_fixed++;
}

static int check_l2_flags(struct checker *c, uint32_t number)
{
    int error = 0;
    struct qcow2 *q = c->q;
    if (!load_table(c, number, &error))
        return error;
    for (uint32_t k = 0; error == 0 && k < q->cluster_size / 8; k++) {
        uint64_t entry = load_be64(c->table + (size_t)k * 8);
        uint64_t offset = number * qcow2_l2_reach(q) + ((uint64_t)k << q->cluster_bits);
        if ((entry & QCOW2_COMPRESSED) != 0 || flag_is_right(c, entry))
            continue;
        flag_finding(c, "guest offset", offset);
        struct slice *slice;
        unsigned index;
        if (c->repair)
            error = qcow2_l2_slice(q, offset, true, &slice, &index);
        if (c->repair && error == 0) {
            store_be64(slice->data + (size_t)index * 8, entry ^ QCOW2_COPIED);
            slice_dirty(&q->l2, slice);
        }
    }
    return error;
}

static int check_flags(struct checker *c)
{
    int error = 0;
    for (uint32_t i = 0; error == 0 && i < c->q->l1_size; i++) {
        if (!flag_is_right(c, c->q->l1[i])) {
            flag_finding(c, "L2 table", i);
            if (c->repair) {
                c->q->l1[i] ^= QCOW2_COPIED;
                qcow2_mark_entry(c->q->l1_dirty, i);
            }
        }
        error = check_l2_flags(c, i);
    }
    return error;
}

/* --- all of it --- */

static int run(struct checker *c)
{
    struct qcow2 *q = c->q;
    pthread_mutex_lock(&q->lock);
    count_bytes(c, 0, 1, "the header");
    count_bytes(c, q->l1_offset, (uint64_t)q->l1_size * 8, "the L1 table");
    count_bytes(c, q->table_offset, (uint64_t)q->table_size * 8, "the refcount table");
    count_blocks(c);
    int error = count_data(c);
    if (error == 0)
        error = compare(c);
    if (error == 0)
        error = check_flags(c);
    pthread_mutex_unlock(&q->lock);
    return error;
}

/* What the header says about the image is true again. */
static int clear_marks(struct qcow2 *q)
{
    uint8_t field[8];
    if ((q->incompatible & (QCOW2_DIRTY | QCOW2_CORRUPT)) == 0)
        return 0;
    q->incompatible &= ~(uint64_t)(QCOW2_DIRTY | QCOW2_CORRUPT);
    store_be64(field, q->incompatible);
    int error = qcow2_write_header(q, HEADER_INCOMPATIBLE, field, sizeof(field));
    return error == 0 ? q->file->ops->flush(q->file) : error;
}

static bool can_check(const struct qcow2 *q, bool repair, struct error **err)
{
    const char *what = q->snapshots > 0 ? "internal snapshots" : "persistent bitmaps";
    if (q->snapshots > 0 || (q->autoclear & 1) != 0) {
        error_set(err, ERROR_USAGE, "it has %s, which this check does not understand", what);
        error_hint(err, "Use qemu-img check");
        return false;
    }
    if (q->end >> q->cluster_bits > CLUSTERS_MAX)
        return error_set(err, ERROR_INTERNAL, "its file is too large to check: %llu clusters",
                         (unsigned long long)(q->end >> q->cluster_bits));
    if (repair && q->overlapping) {
        error_set(err, ERROR_USAGE,
                  "its tables lie on top of each other or outside of the file: "
                  "repairing could destroy more");
        error_hint(err, "Save what is readable with 'trapeze disk convert'");
        return false;
    }
    return true;
}

bool qcow2_check(struct block_image *image, bool repair, struct block_check *check,
                 struct error **err)
{
    struct qcow2 *q = image->state;
    if (!can_check(q, repair, err))
        return false;
    struct checker c = {.q = q, .result = check, .repair = repair};
    c.clusters = q->end >> q->cluster_bits;
    c.counted = calloc((size_t)c.clusters, sizeof(uint32_t));
    c.table = malloc(q->cluster_size);
    check->total = (image->size + q->cluster_size - 1) >> q->cluster_bits;
    int error = c.counted == NULL || c.table == NULL ? ENOMEM : run(&c);
    if (q->overlapping)
        finding(&c, &check->corruptions, "tables lie on top of each other or outside of the file");
    free(c.counted);
    free(c.table);
    if (error == 0 && repair)
        error = qcow2_flush(image);
    if (error == 0 && repair && check->corruptions == check->corruptions_fixed)
        error = clear_marks(q);
    return error == 0 || error_set_errno(err, error, "cannot %s it", repair ? "repair" : "check");
}
