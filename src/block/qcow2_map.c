/* SPDX-License-Identifier: MIT
 *
 * From guest clusters to host clusters.
 */
#include "block/qcow2_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static int l2_table(struct qcow2 *q, uint64_t offset, uint64_t *table)
{
    uint64_t number = offset / qcow2_l2_reach(q);
    assert(number < q->l1_size);
    *table = q->l1[number] & QCOW2_OFFSET_MASK;
    if (qcow2_in_cluster(q, *table) != 0 || *table >= q->end)
        return qcow2_damaged(q, "entry %llu of the L1 table is impossible",
                             (unsigned long long)number);
    return 0;
}

int qcow2_l2_slice(struct qcow2 *q, uint64_t offset, bool load, struct slice **slice,
                   unsigned *index)
{
    uint64_t table;
    int error = l2_table(q, offset, &table);
    *slice = NULL;
    if (error != 0 || table == 0)
        return error;
    uint32_t byte = (uint32_t)((offset >> q->cluster_bits) & (q->cluster_size / 8 - 1)) * 8;
    uint64_t at = table + align_down(byte, q->l2.slice_size);
    *index = byte % q->l2.slice_size / 8;
    if (load)
        return slice_get(q, &q->l2, at, slice);
    *slice = slice_find(&q->l2, at);
    return *slice != NULL ? 0 : EAGAIN;
}

static int decode(struct qcow2 *q, uint64_t offset, uint64_t entry, struct mapping *mapping)
{
    *mapping = (struct mapping){.kind = MAP_ABSENT, .entry = entry};
    if ((entry & QCOW2_COMPRESSED) != 0) {
        uint64_t size;
        mapping->kind = MAP_COMPRESSED;
        qcow2_compressed_place(q, entry, &mapping->host, &size);
        if (mapping->host >= q->end || mapping->host == 0)
            goto impossible;
        return 0;
    }
    mapping->host = entry & QCOW2_OFFSET_MASK;
    mapping->copied = (entry & QCOW2_COPIED) != 0 && mapping->host != 0;
    if (mapping->host != 0)
        mapping->kind = MAP_DATA;
    if (q->version >= 3 && (entry & QCOW2_ZERO) != 0)
        mapping->kind = MAP_ZERO;
    if (qcow2_in_cluster(q, mapping->host) == 0 && mapping->host < q->end)
        return 0;
impossible:
    return qcow2_damaged(q, "the L2 entry of guest offset %llu is impossible",
                         (unsigned long long)align_down(offset, q->cluster_size));
}

int qcow2_map(struct qcow2 *q, uint64_t offset, bool load, struct mapping *mapping)
{
    struct slice *slice;
    unsigned index;
    *mapping = (struct mapping){.kind = MAP_ABSENT};
    int error = qcow2_l2_slice(q, offset, load, &slice, &index);
    if (error != 0 || slice == NULL)
        return error;
    return decode(q, offset, load_be64(slice->data + (size_t)index * 8), mapping);
}

static bool goes_on(const struct qcow2 *q, const struct mapping *first, const struct mapping *next,
                    uint64_t distance)
{
    if (next->kind != first->kind || next->copied != first->copied || first->kind == MAP_COMPRESSED)
        return false;
    (void)q;
    return first->host == 0 ? next->host == 0 : next->host == first->host + distance;
}

int qcow2_map_run(struct qcow2 *q, uint64_t offset, uint64_t length, bool load,
                  struct mapping *mapping, uint64_t *run)
{
    int error = qcow2_map(q, offset, load, mapping);
    if (error != 0)
        return error;
    uint64_t start = align_down(offset, q->cluster_size), next = start + q->cluster_size;
    while (next < offset + length) {
        struct mapping other;
        /* An error there is the next call's. */
        if (qcow2_map(q, next, load, &other) != 0 || !goes_on(q, mapping, &other, next - start))
            break;
        next += q->cluster_size;
    }
    *run = next - offset < length ? next - offset : length;
    return 0;
}

static int new_table(struct qcow2 *q, uint64_t number)
{
    struct allocation got;
    int error = qcow2_allocate(q, 1, true, &got);
    if (error != 0)
        return error;
    uint8_t *zeros = aligned_alloc(4096, align_up(q->cluster_size, 4096));
    if (zeros == NULL)
        error = ENOMEM;
    if (error == 0) {
        memset(zeros, 0, q->cluster_size);
        error = block_file_pwrite(q->file, got.host, zeros, q->cluster_size);
    }
    free(zeros);
    if (error != 0) {
        qcow2_unallocate(q, got.host, 1);
        return error;
    }
    place_add(&q->places, got.host >> q->cluster_bits, PLACE_L2);
    q->l1[number] = got.host | QCOW2_COPIED;
    qcow2_mark_entry(q->l1_dirty, number);
    return 0;
}

int qcow2_need_l2(struct qcow2 *q, uint64_t offset)
{
    uint64_t number = offset / qcow2_l2_reach(q), table, count;
    int error = l2_table(q, offset, &table);
    if (error != 0)
        return error;
    if (table == 0)
        return new_table(q, number);
    if ((q->l1[number] & QCOW2_COPIED) != 0)
        return 0;
    /* Without snapshots nobody shares a table: then only the flag is wrong. */
    error = qcow2_refcount(q, table >> q->cluster_bits, &count);
    if (error != 0)
        return error;
    if (count != 1)
        return qcow2_damaged(q, "L2 table %llu is in use %llu times", (unsigned long long)number,
                             (unsigned long long)count);
    q->l1[number] |= QCOW2_COPIED;
    qcow2_mark_entry(q->l1_dirty, number);
    return 0;
}

int qcow2_set_entry(struct qcow2 *q, uint64_t offset, uint64_t entry)
{
    struct slice *slice;
    struct mapping old;
    unsigned index;
    int error = qcow2_l2_slice(q, offset, true, &slice, &index);
    if (error != 0)
        return error;
    assert(slice != NULL);
    uint8_t *at = slice->data + (size_t)index * 8;
    error = decode(q, offset, load_be64(at), &old);
    if (error != 0)
        return error;
    if (old.kind == MAP_COMPRESSED) {
        struct cluster_run run = qcow2_compressed_run(q, old.entry);
        qcow2_free_later(q, run.first, run.count);
    } else if (old.host != 0 && old.host != (entry & QCOW2_OFFSET_MASK)) {
        qcow2_free_later(q, old.host >> q->cluster_bits, 1);
    }
    store_be64(at, entry);
    slice_dirty(&q->l2, slice);
    return 0;
}
