/* SPDX-License-Identifier: MIT
 *
 * How often each host cluster is referred to, and finding free ones.
 */
#include "block/qcow2_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"

/* --- entries of 1 to 64 bits: below a byte from the low end on, above it big-endian --- */

uint64_t refcount_entry(const uint8_t *data, unsigned order, uint64_t index)
{
    if (order < 3) {
        unsigned bits = 1u << order, each = 8 / bits;
        return (uint64_t)(data[index / each] >> (index % each * bits)) & ((1u << bits) - 1);
    }
    uint64_t value = 0;
    unsigned bytes = 1u << (order - 3);
    for (unsigned i = 0; i < bytes; i++)
        value = value << 8 | data[index * bytes + i];
    return value;
}

void refcount_set_entry(uint8_t *data, unsigned order, uint64_t index, uint64_t value)
{
    if (order < 3) {
        unsigned bits = 1u << order, each = 8 / bits, shift = (unsigned)(index % each) * bits;
        unsigned mask = ((1u << bits) - 1) << shift;
        data[index / each] =
            (uint8_t)((data[index / each] & ~mask) | (((unsigned)value << shift) & mask));
        return;
    }
    unsigned bytes = 1u << (order - 3);
    for (unsigned i = bytes; i-- > 0; value >>= 8)
        data[index * bytes + i] = (uint8_t)value;
}

/* Clusters that a slice of a block counts. */
static uint64_t slice_reach(const struct qcow2 *q)
{
    return ((uint64_t)q->blocks.slice_size * 8) >> q->refcount_order;
}

/* The slice that counts `cluster`; NULL and 0: there is no block. */
static int count_slice(struct qcow2 *q, uint64_t cluster, struct slice **slice, uint64_t *index)
{
    uint64_t number = cluster >> qcow2_block_bits(q);
    uint64_t in_block = cluster & ((UINT64_C(1) << qcow2_block_bits(q)) - 1);
    *slice = NULL;
    if (number >= q->table_size || (q->table[number] & QCOW2_OFFSET_MASK) == 0)
        return 0;
    uint64_t block = q->table[number];
    if (qcow2_in_cluster(q, block) != 0 || (block & ~QCOW2_OFFSET_MASK) != 0 || block >= q->end)
        return qcow2_damaged(q, "entry %llu of the refcount table is impossible",
                             (unsigned long long)number);
    *index = in_block % slice_reach(q);
    return slice_get(q, &q->blocks, block + in_block / slice_reach(q) * q->blocks.slice_size,
                     slice);
}

int qcow2_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *count)
{
    struct slice *slice;
    uint64_t index;
    int error = count_slice(q, cluster, &slice, &index);
    *count =
        error == 0 && slice != NULL ? refcount_entry(slice->data, q->refcount_order, index) : 0;
    return error;
}

int qcow2_set_refcount(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
    struct slice *slice;
    uint64_t index;
    int error = count_slice(q, cluster, &slice, &index);
    if (error != 0 || slice == NULL)
        return error != 0 ? error : ENXIO;
    refcount_set_entry(slice->data, q->refcount_order, index, count);
    slice_dirty(&q->blocks, slice);
    return 0;
}

/* --- more refcount blocks, a larger table --- */

static void use_up_to(struct qcow2 *q, uint64_t cluster)
{
    uint64_t end = cluster << q->cluster_bits;
    if (q->fresh < end)
        q->fresh = end; /* it may be written from now on */
    if (q->end < end)
        q->end = end;
}

/* A block with its first `used` clusters counted once, written to cluster `at`. */
static int write_block(struct qcow2 *q, uint64_t at, uint64_t used)
{
    uint8_t *data = aligned_alloc(4096, align_up(q->cluster_size, 4096));
    if (data == NULL)
        return ENOMEM;
    memset(data, 0, q->cluster_size);
    for (uint64_t i = 0; i < used; i++)
        refcount_set_entry(data, q->refcount_order, i, 1);
    int error = block_file_pwrite(q->file, at << q->cluster_bits, data, q->cluster_size);
    free(data);
    return error;
}

struct growth {
    uint64_t first;    /* cluster where the new blocks begin, the table behind them */
    uint64_t blocks;   /* new blocks, which count from `first` on */
    uint64_t clusters; /* of the new table */
    uint64_t *table;
    uint32_t size;
};

/* Nothing is counted beyond the old table, so all of that is free: new blocks come first
 * there, then the table, and the blocks count both. */
static bool plan_growth(const struct qcow2 *q, uint64_t number, struct growth *growth)
{
    unsigned bits = qcow2_block_bits(q);
    uint64_t per_table = q->cluster_size / 8;
    growth->first = (uint64_t)q->table_size << bits;
    growth->clusters = (number + number / 2 + 1 + per_table - 1) / per_table;
    for (growth->blocks = 1;; growth->blocks++) {
        uint64_t used = growth->blocks + growth->clusters;
        uint64_t entries = growth->clusters * per_table;
        if (q->table_size + growth->blocks > entries)
            growth->clusters++;
        else if (used <= growth->blocks << bits)
            break;
    }
    uint64_t bytes = growth->clusters << q->cluster_bits;
    growth->size = (uint32_t)(bytes / 8);
    return bytes <= QCOW2_TABLE_BYTES_MAX &&
           growth->first + growth->blocks + growth->clusters < BLOCK_SIZE_MAX >> q->cluster_bits;
}

static int write_growth(struct qcow2 *q, const struct growth *growth)
{
    unsigned bits = qcow2_block_bits(q);
    uint64_t left = growth->blocks + growth->clusters;
    int error = 0;
    for (uint64_t i = 0; error == 0 && i < growth->blocks; i++) {
        uint64_t used = left < UINT64_C(1) << bits ? left : UINT64_C(1) << bits;
        error = write_block(q, growth->first + i, used);
        left -= used;
    }
    uint8_t *data = alloc_zeroed(growth->size, 8);
    for (uint32_t i = 0; i < growth->size; i++)
        store_be64(data + (size_t)i * 8, growth->table[i]);
    uint64_t offset = (growth->first + growth->blocks) << q->cluster_bits;
    if (error == 0)
        error = block_file_pwrite(q->file, offset, data, (size_t)growth->size * 8);
    free(data);
    if (error == 0)
        error = q->file->ops->flush(q->file);
    uint8_t fields[12];
    store_be64(fields, offset);
    store_be32(fields + 8, (uint32_t)growth->clusters);
    if (error == 0)
        error = qcow2_write_header(q, HEADER_TABLE_OFFSET, fields, sizeof(fields));
    return error == 0 ? q->file->ops->flush(q->file) : error;
}

static int grow_table(struct qcow2 *q, uint64_t number)
{
    struct growth growth;
    if (!plan_growth(q, number, &growth))
        return EFBIG;
    uint64_t at = growth.first + growth.blocks, old = q->table_offset >> q->cluster_bits;
    uint64_t old_clusters = ((uint64_t)q->table_size * 8) >> q->cluster_bits;
    if (places_overlap(&q->places, growth.first, growth.blocks + growth.clusters) != PLACE_NONE)
        return qcow2_damaged(q, "metadata lies where nothing is counted");
    growth.table = alloc_zeroed(growth.size, 8);
    memcpy(growth.table, q->table, (size_t)q->table_size * 8);
    for (uint64_t i = 0; i < growth.blocks; i++)
        growth.table[q->table_size + i] = (growth.first + i) << q->cluster_bits;
    int error = write_growth(q, &growth);
    if (error != 0) {
        free(growth.table);
        return error;
    }
    for (uint64_t i = 0; i < growth.blocks; i++)
        place_add(&q->places, growth.first + i, PLACE_BLOCK);
    for (uint64_t i = 0; i < growth.clusters; i++)
        place_add(&q->places, at + i, PLACE_TABLE);
    for (uint64_t i = 0; i < old_clusters; i++)
        place_remove(&q->places, old + i);
    qcow2_free_later(q, old, old_clusters);
    free(q->table);
    q->table = growth.table;
    q->table_size = growth.size;
    q->table_offset = at << q->cluster_bits;
    q->table_dirty[0] = q->table_dirty[1] = 0;
    use_up_to(q, at + growth.clusters);
    return 0;
}

/* A block that counts the clusters around `cluster`. It takes the first of them. */
static int need_block(struct qcow2 *q, uint64_t cluster)
{
    uint64_t number = cluster >> qcow2_block_bits(q);
    if (number >= q->table_size) {
        int error = grow_table(q, number);
        if (error != 0)
            return error;
    }
    if ((q->table[number] & QCOW2_OFFSET_MASK) != 0)
        return 0;
    uint64_t at = number << qcow2_block_bits(q);
    if (place_find(&q->places, at) != PLACE_NONE)
        return qcow2_damaged(q, "metadata lies where nothing is counted");
    int error = write_block(q, at, 1);
    if (error != 0)
        return error;
    place_add(&q->places, at, PLACE_BLOCK);
    q->table[number] = at << q->cluster_bits;
    qcow2_mark_entry(q->table_dirty, number);
    use_up_to(q, at + 1);
    return 0;
}

/* Blocks that count themselves and `count` more clusters behind them. */
static uint64_t blocks_for(const struct qcow2 *q, uint64_t count)
{
    uint64_t blocks = 1;
    while (blocks + count > blocks << qcow2_block_bits(q))
        blocks++;
    return blocks;
}

/* A run that is longer than what lies between one block and the next: behind everything that
 * is counted, with its blocks before it. */
static int allocate_long(struct qcow2 *q, uint64_t count, struct allocation *got)
{
    unsigned bits = qcow2_block_bits(q);
    uint64_t blocks = blocks_for(q, count), number = q->table_size;
    while (number > 0 && q->table[number - 1] == 0)
        number--;
    if (number + blocks > q->table_size) {
        int error = grow_table(q, number + blocks);
        if (error != 0)
            return error;
        for (number = q->table_size; number > 0 && q->table[number - 1] == 0;)
            number--;
        if (number + blocks > q->table_size)
            return EFBIG;
    }
    uint64_t first = number << bits, left = blocks + count;
    if (places_overlap(&q->places, first, blocks + count) != PLACE_NONE)
        return qcow2_damaged(q, "metadata lies where nothing is counted");
    int error = 0;
    for (uint64_t i = 0; error == 0 && i < blocks; i++) {
        uint64_t used = left < UINT64_C(1) << bits ? left : UINT64_C(1) << bits;
        error = write_block(q, first + i, used);
        left -= used;
    }
    if (error != 0)
        return error;
    for (uint64_t i = 0; i < blocks; i++) {
        place_add(&q->places, first + i, PLACE_BLOCK);
        q->table[number + i] = (first + i) << q->cluster_bits;
        qcow2_mark_entry(q->table_dirty, number + i);
    }
    *got = (struct allocation){(first + blocks) << q->cluster_bits, count, false};
    use_up_to(q, first + blocks + count);
    return 0;
}

/* --- allocation --- */

/* The first run of free clusters from `from` on: of `wanted`, or (not exact) up to so many. */
static int find_free(struct qcow2 *q, uint64_t from, uint64_t wanted, bool exact, uint64_t *first,
                     uint64_t *count)
{
    uint64_t limit = BLOCK_SIZE_MAX >> q->cluster_bits;
    *count = 0;
    for (uint64_t cluster = from; cluster < limit;) {
        struct slice *slice;
        uint64_t index;
        int error = count_slice(q, cluster, &slice, &index);
        if (error == 0 && slice == NULL) {
            if (*count > 0 && !exact)
                return 0;
            error = need_block(q, cluster);
            if (error == 0)
                continue;
        }
        if (error != 0)
            return error;
        for (; index < slice_reach(q); index++, cluster++) {
            if (refcount_entry(slice->data, q->refcount_order, index) == 0) {
                if ((*count)++ == 0)
                    *first = cluster;
                if (*count == wanted)
                    return 0;
            } else if (*count > 0 && !exact) {
                return 0;
            } else {
                *count = 0;
            }
        }
    }
    return EFBIG;
}

int qcow2_allocate(struct qcow2 *q, uint64_t wanted, bool exact, struct allocation *got)
{
    uint64_t first = 0, count;
    if (q->broken)
        return EIO;
    if (exact && wanted >= UINT64_C(1) << qcow2_block_bits(q))
        return allocate_long(q, wanted, got);
    int error = find_free(q, q->free_hint, wanted, exact, &first, &count);
    if (error != 0)
        return error;
    if (places_overlap(&q->places, first, count) != PLACE_NONE)
        return qcow2_damaged(q,
                             "cluster %llu or one behind it holds metadata and is counted as "
                             "free",
                             (unsigned long long)first);
    for (uint64_t i = 0; i < count; i++) {
        error = qcow2_set_refcount(q, first + i, 1);
        if (error != 0) {
            qcow2_unallocate(q, first << q->cluster_bits, i);
            return error;
        }
    }
    if (!exact || first == q->free_hint)
        q->free_hint = first + count;
    *got =
        (struct allocation){first << q->cluster_bits, count, first << q->cluster_bits >= q->fresh};
    use_up_to(q, first + count);
    return 0;
}

void qcow2_unallocate(struct qcow2 *q, uint64_t host, uint64_t count)
{
    uint64_t first = host >> q->cluster_bits;
    for (uint64_t i = 0; i < count; i++)
        (void)qcow2_set_refcount(q, first + i, 0); /* else it leaks */
    if (first < q->free_hint)
        q->free_hint = first;
}

/* --- freeing --- */

void freed_add(struct freed *freed, uint64_t cluster, uint64_t count)
{
    freed->clusters += count;
    struct cluster_run *last = freed->count > 0 ? &freed->runs[freed->count - 1] : NULL;
    if (last != NULL && last->first + last->count == cluster) {
        last->count += count;
        return;
    }
    if (freed->count == freed->room) {
        freed->room = freed->room > 0 ? freed->room * 2 : 64;
        freed->runs = alloc_resize(freed->runs, freed->room, sizeof(struct cluster_run));
    }
    freed->runs[freed->count++] = (struct cluster_run){cluster, count};
}

void qcow2_free_later(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
    freed_add(&q->freed, cluster, count);
}

int qcow2_release(struct qcow2 *q, const struct cluster_run *run, struct freed *freed)
{
    for (uint64_t cluster = run->first; cluster < run->first + run->count; cluster++) {
        uint64_t count;
        int error = qcow2_refcount(q, cluster, &count);
        if (error != 0)
            return error;
        if (count == 0)
            return qcow2_damaged(q, "cluster %llu was in use and is counted as free",
                                 (unsigned long long)cluster);
        if (count == 1 && place_find(&q->places, cluster) != PLACE_NONE)
            return qcow2_damaged(q, "cluster %llu holds metadata and was used for data",
                                 (unsigned long long)cluster);
        error = qcow2_set_refcount(q, cluster, count - 1);
        if (error != 0)
            return error;
        if (count == 1) {
            freed_add(freed, cluster, 1);
            if (cluster < q->free_hint)
                q->free_hint = cluster;
        }
    }
    return 0;
}

void qcow2_compressed_place(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *size)
{
    unsigned bits = 62 - (q->cluster_bits - 8);
    *offset = entry & ((UINT64_C(1) << bits) - 1);
    uint64_t sectors = ((entry & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> bits) + 1;
    *size = sectors * 512 - (*offset & 511);
}

struct cluster_run qcow2_compressed_run(const struct qcow2 *q, uint64_t entry)
{
    uint64_t offset, size;
    qcow2_compressed_place(q, entry, &offset, &size);
    uint64_t first = offset >> q->cluster_bits;
    return (struct cluster_run){first, ((offset + size - 1) >> q->cluster_bits) - first + 1};
}
