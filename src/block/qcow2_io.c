/* SPDX-License-Identifier: MIT
 *
 * Reading and writing the guest's data. Data goes to the file without the lock; only then
 * does an L2 entry in memory refer to it, and only write_back() brings that to the file.
 */
#include "block/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"

/* Clusters that are looked at without giving others a turn. */
#define TURN 1024

static struct qcow2 *qcow2_of(struct block_image *image)
{
    return image->state;
}

/* Without a backing file, what is absent is zero. */
static bool absent_is_zero(const struct qcow2 *q)
{
    return q->image->backing_name == NULL;
}

static bool reads_as_zero(const struct qcow2 *q, const struct mapping *mapping)
{
    return mapping->kind == MAP_ZERO || (mapping->kind == MAP_ABSENT && absent_is_zero(q));
}

/* --- reading --- */

bool qcow2_direct(struct block_image *image, bool write, uint64_t offset, uint64_t length,
                  uint64_t *host)
{
    struct qcow2 *q = qcow2_of(image);
    struct mapping mapping = {.kind = MAP_ABSENT};
    uint64_t run = 0;
    if (pthread_mutex_trylock(&q->lock) != 0)
        return false;
    bool found = qcow2_map_run(q, offset, length, false, &mapping, &run) == 0 && run == length &&
                 mapping.kind == MAP_DATA;
    if (found && write) {
        uint64_t first = mapping.host >> q->cluster_bits;
        uint64_t count = (qcow2_in_cluster(q, offset) + length - 1) / q->cluster_size + 1;
        found =
            mapping.copied && !q->broken && places_overlap(&q->places, first, count) == PLACE_NONE;
    }
    pthread_mutex_unlock(&q->lock);
    *host = mapping.host + qcow2_in_cluster(q, offset);
    return found;
}

int qcow2_read(struct block_image *image, uint64_t offset, struct block_span to)
{
    struct qcow2 *q = qcow2_of(image);
    int error = 0;
    for (uint64_t done = 0; error == 0 && done < to.size;) {
        struct mapping mapping;
        uint64_t at = offset + done, run = 0;
        pthread_mutex_lock(&q->lock);
        error = qcow2_map_run(q, at, to.size - done, true, &mapping, &run);
        pthread_mutex_unlock(&q->lock);
        if (error != 0)
            return error;
        struct block_span part = block_span_part(to, done, run);
        switch (mapping.kind) {
        case MAP_DATA:
            error = q->file->ops->read(q->file, mapping.host + qcow2_in_cluster(q, at), part);
            break;
        case MAP_COMPRESSED:
            error = qcow2_inflate(q, mapping.entry, qcow2_in_cluster(q, at), part);
            break;
        case MAP_ABSENT:
            if (!absent_is_zero(q) && image->backing == NULL)
                return EIO; /* opened alone */
            error = block_image_read_span(image->backing, at, part);
            break;
        case MAP_ZERO:
            block_span_zero(part);
        }
        done += run;
    }
    return error;
}

/* --- writing --- */

/* Brings guest bytes [from, to), of which `old` tells what they are so far, to `host`. */
static int copy_up(struct qcow2 *q, uint64_t from, uint64_t to, uint64_t host, bool fresh,
                   const struct mapping *old)
{
    bool zero = reads_as_zero(q, old);
    if (from == to || (zero && fresh))
        return 0;
    size_t size = (size_t)(to - from);
    uint8_t *data = aligned_alloc(4096, align_up(size, 4096));
    if (data == NULL)
        return ENOMEM;
    int error = 0;
    if (zero) {
        memset(data, 0, size);
    } else {
        struct iovec iov;
        error = qcow2_read(q->image, from, block_span_of(&iov, data, size));
    }
    if (error == 0)
        error = block_file_pwrite(q->file, host, data, size);
    free(data);
    return error;
}

/* What a write does with the clusters from `start` on: guest bytes [begin, end) in them are new. */
struct piece {
    uint64_t start, begin, end;
    struct allocation place;
    struct mapping old;
};

static int write_piece(struct qcow2 *q, const struct piece *piece, struct block_span from)
{
    uint64_t host = piece->place.host;
    uint64_t whole = piece->start + (piece->place.count << q->cluster_bits);
    int error = copy_up(q, piece->start, piece->begin, host, piece->place.fresh, &piece->old);
    if (error == 0)
        error = q->file->ops->write(q->file, host + (piece->begin - piece->start), from);
    if (error == 0)
        error = copy_up(q, piece->end, whole, host + (piece->end - piece->start),
                        piece->place.fresh, &piece->old);
    return error;
}

/* Lock held: where the clusters of [offset, offset + run) are to be. *kept: where they were. */
static int find_place(struct qcow2 *q, uint64_t offset, uint64_t run, const struct mapping *old,
                      struct piece *piece, bool *kept)
{
    piece->old = *old;
    piece->start = align_down(offset, q->cluster_size);
    piece->begin = offset;
    /* An L2 table at a time. */
    uint64_t limit = align_down(offset, qcow2_l2_reach(q)) + qcow2_l2_reach(q);
    if (run > limit - offset)
        run = limit - offset;
    uint64_t wanted = (offset + run - piece->start + q->cluster_size - 1) >> q->cluster_bits;
    int error = qcow2_need_l2(q, offset);
    *kept = old->kind == MAP_ZERO && old->copied;
    if (error == 0 && *kept) {
        piece->place = (struct allocation){old->host, wanted, false};
        if (places_overlap(&q->places, old->host >> q->cluster_bits, wanted) != PLACE_NONE)
            error = qcow2_damaged(q, "guest data lies where metadata is");
    } else if (error == 0) {
        error = qcow2_allocate(q, wanted, false, &piece->place);
    }
    if (error != 0)
        return error;
    piece->end = piece->start + (piece->place.count << q->cluster_bits);
    if (piece->end > offset + run)
        piece->end = offset + run;
    return 0;
}

/* Lock held. */
static int refer_to(struct qcow2 *q, const struct piece *piece)
{
    for (uint64_t i = 0; i < piece->place.count; i++) {
        uint64_t step = i << q->cluster_bits;
        int error =
            qcow2_set_entry(q, piece->start + step, (piece->place.host + step) | QCOW2_COPIED);
        if (error != 0)
            return error;
    }
    return 0;
}

/* Writes from the start of `from` as much as goes at once: *done. */
static int write_some(struct qcow2 *q, uint64_t offset, struct block_span from, uint64_t *done)
{
    struct mapping old;
    struct piece piece;
    uint64_t run = 0;
    bool kept = false;
    pthread_mutex_lock(&q->lock);
    int error = q->broken ? EIO : qcow2_map_run(q, offset, from.size, true, &old, &run);
    bool in_place = error == 0 && old.kind == MAP_DATA && old.copied;
    if (in_place) {
        uint64_t count = (qcow2_in_cluster(q, offset) + run - 1) / q->cluster_size + 1;
        if (places_overlap(&q->places, old.host >> q->cluster_bits, count) != PLACE_NONE)
            error = qcow2_damaged(q, "guest data lies where metadata is");
    } else if (error == 0) {
        error = find_place(q, offset, run, &old, &piece, &kept);
    }
    pthread_mutex_unlock(&q->lock);
    if (error != 0)
        return error;
    if (in_place) {
        *done = run;
        return q->file->ops->write(q->file, old.host + qcow2_in_cluster(q, offset),
                                   block_span_part(from, 0, run));
    }
    *done = piece.end - piece.begin;
    error = write_piece(q, &piece, block_span_part(from, 0, *done));
    pthread_mutex_lock(&q->lock);
    if (error == 0)
        error = refer_to(q, &piece); /* a failure half way leaks the rest */
    else if (!kept)
        qcow2_unallocate(q, piece.place.host, piece.place.count);
    pthread_mutex_unlock(&q->lock);
    return error;
}

int qcow2_write(struct block_image *image, uint64_t offset, struct block_span from)
{
    struct qcow2 *q = qcow2_of(image);
    int error = 0;
    for (uint64_t at = 0, done = 0; error == 0 && at < from.size; at += done)
        error = write_some(q, offset + at, block_span_part(from, at, from.size - at), &done);
    return error != 0 ? error : qcow2_write_back_much(q);
}

/* --- discarding and zeroing --- */

/* Which entry a cluster gets; its own: nothing changes. */
static uint64_t cleared(const struct qcow2 *q, const struct mapping *mapping,
                        enum qcow2_clearing how)
{
    uint64_t zero = q->version >= 3 && !absent_is_zero(q) ? QCOW2_ZERO : 0;
    bool stuck = q->version < 3 && !absent_is_zero(q); /* no entry says zero */
    switch (how) {
    case QCOW2_EMPTY:
        return 0;
    case QCOW2_DISCARD:
        return mapping->kind == MAP_ABSENT || stuck ? mapping->entry : zero;
    case QCOW2_UNMAP:
        return mapping->kind == MAP_ABSENT && absent_is_zero(q) ? mapping->entry : zero;
    case QCOW2_KEEP:
        if (mapping->kind == MAP_ZERO || (mapping->kind == MAP_ABSENT && absent_is_zero(q)))
            return mapping->entry;
        if (mapping->kind == MAP_DATA && mapping->copied && q->version >= 3)
            return mapping->host | QCOW2_COPIED | QCOW2_ZERO;
        return zero;
    }
    return mapping->entry;
}

/* Lock held. *step: how far it went. */
static int clear_one(struct qcow2 *q, uint64_t offset, enum qcow2_clearing how, uint64_t *step)
{
    struct mapping mapping;
    uint64_t reach = qcow2_l2_reach(q);
    bool no_table = (q->l1[offset / reach] & QCOW2_OFFSET_MASK) == 0;
    int error = qcow2_map(q, offset, true, &mapping);
    *step = q->cluster_size;
    if (error != 0)
        return error;
    uint64_t entry = cleared(q, &mapping, how);
    if (entry == mapping.entry) {
        if (no_table)
            *step = reach - offset % reach;
        return 0;
    }
    error = qcow2_need_l2(q, offset);
    return error != 0 ? error : qcow2_set_entry(q, offset, entry);
}

int qcow2_clear(struct qcow2 *q, uint64_t offset, uint64_t length, enum qcow2_clearing how)
{
    int error = 0;
    uint64_t end = offset + length;
    while (error == 0 && offset < end) {
        pthread_mutex_lock(&q->lock);
        if (q->broken)
            error = EIO;
        for (unsigned turn = 0; error == 0 && turn < TURN && offset < end; turn++) {
            uint64_t step;
            error = clear_one(q, offset, how, &step);
            offset += step;
        }
        pthread_mutex_unlock(&q->lock);
        if (error == 0)
            error = qcow2_write_back_much(q);
    }
    return error;
}

/* The whole clusters of a stretch; the last one of the disk may be a part of one. */
static void whole_clusters(const struct qcow2 *q, uint64_t offset, uint64_t length, uint64_t *first,
                           uint64_t *end)
{
    *first = align_up(offset, q->cluster_size);
    *end = offset + length == q->image->size ? align_up(offset + length, q->cluster_size)
                                             : align_down(offset + length, q->cluster_size);
}

int qcow2_discard(struct block_image *image, uint64_t offset, uint64_t length)
{
    struct qcow2 *q = qcow2_of(image);
    uint64_t first, end;
    whole_clusters(q, offset, length, &first, &end);
    return first < end ? qcow2_clear(q, first, end - first, QCOW2_DISCARD) : 0;
}

/* Zeros as data, cluster by cluster where they do not read as such already. */
static int write_zeros(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    int error = 0;
    uint8_t *zeros = NULL;
    for (uint64_t done = 0; error == 0 && done < length;) {
        struct mapping mapping;
        uint64_t at = offset + done, part = q->cluster_size - qcow2_in_cluster(q, at);
        if (part > length - done)
            part = length - done;
        pthread_mutex_lock(&q->lock);
        error = qcow2_map(q, at, true, &mapping);
        pthread_mutex_unlock(&q->lock);
        if (error == 0 && !reads_as_zero(q, &mapping)) {
            if (zeros == NULL)
                zeros = calloc(1, q->cluster_size);
            struct iovec iov;
            error = zeros == NULL
                        ? ENOMEM
                        : qcow2_write(q->image, at, block_span_of(&iov, zeros, (size_t)part));
        }
        done += part;
    }
    free(zeros);
    return error;
}

int qcow2_zero(struct block_image *image, uint64_t offset, uint64_t length, unsigned flags)
{
    struct qcow2 *q = qcow2_of(image);
    uint64_t first, end;
    whole_clusters(q, offset, length, &first, &end);
    if (first >= end || (q->version < 3 && !absent_is_zero(q)))
        return write_zeros(q, offset, length);
    int error = write_zeros(q, offset, first - offset);
    if (error == 0)
        error = qcow2_clear(q, first, end - first,
                            (flags & BLOCK_ZERO_UNMAP) != 0 ? QCOW2_UNMAP : QCOW2_KEEP);
    if (error == 0 && end < offset + length)
        error = write_zeros(q, end, offset + length - end);
    return error;
}

int qcow2_flush(struct block_image *image)
{
    struct qcow2 *q = qcow2_of(image);
    int error = qcow2_write_back(q);
    return error != 0 ? error : q->file->ops->flush(q->file);
}

/* --- for tools --- */

int qcow2_extent(struct block_image *image, uint64_t offset, uint64_t length,
                 struct block_extent *extent)
{
    static const enum block_extent_kind kinds[] = {
        [MAP_ABSENT] = BLOCK_EXTENT_ABSENT,
        [MAP_ZERO] = BLOCK_EXTENT_ZERO,
        [MAP_DATA] = BLOCK_EXTENT_DATA,
        [MAP_COMPRESSED] = BLOCK_EXTENT_COMPRESSED,
    };
    struct qcow2 *q = qcow2_of(image);
    struct mapping mapping;
    /* A bound on the time that the lock is held. */
    uint64_t most = TURN * (uint64_t)q->cluster_size;
    pthread_mutex_lock(&q->lock);
    int error =
        qcow2_map_run(q, offset, length < most ? length : most, true, &mapping, &extent->length);
    pthread_mutex_unlock(&q->lock);
    extent->kind = kinds[mapping.kind];
    extent->host =
        mapping.kind == MAP_DATA ? mapping.host + qcow2_in_cluster(q, offset) : UINT64_MAX;
    return error;
}

bool qcow2_empty(struct block_image *image, struct error **err)
{
    int error = qcow2_clear(qcow2_of(image), 0, image->size, QCOW2_EMPTY);
    if (error == 0)
        error = qcow2_flush(image);
    return error == 0 || error_set_errno(err, error, "cannot empty it");
}
