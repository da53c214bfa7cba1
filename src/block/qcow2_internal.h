/* SPDX-License-Identifier: MIT
 *
 * The inside of qcow2 (specification: QEMU's docs/interop/qcow2.rst).
 *
 *     header ─► L1 table ─► L2 tables ─► clusters of data      where a guest cluster lies
 *            └► refcount table ─► refcount blocks              how often a host cluster is used
 *
 * L1 and refcount table are kept in memory; of L2 tables and refcount blocks the slices in
 * use are cached and written back together, by write_back() alone, in an order that leaves a
 * usable image wherever a crash cuts it off:
 *
 *     refcounts, data │ refcount table │ L2 tables │ L1 table │ then what was freed is free
 *
 * with a flush of the file at each bar that something follows. So on disk
 *   1. whatever a table refers to has a refcount of at least 1 and is written itself, and
 *   2. a cluster is used anew only after nothing on disk refers to its former use.
 * A crash leaks clusters at most. Lazy refcounts are not used.
 *
 * Locks: `order` is held while writing back, `lock` while looking at or changing anything
 * below it; order before lock. Data is read and written without either: the caller keeps
 * requests on one guest cluster apart (block_image.granule).
 *
 * Every number in the file is hostile: each offset is checked for alignment and for lying in
 * the file when it is used, and before anything is written there, that it is none of the
 * image's metadata (`places`).
 */
#ifndef TRAPEZE_BLOCK_QCOW2_INTERNAL_H
#define TRAPEZE_BLOCK_QCOW2_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/bits.h"
#include "block/image.h"

#define QCOW2_MAGIC           UINT32_C(0x514649fb) /* "QFI\xfb" */
#define QCOW2_HEADER_V2       72u
#define QCOW2_HEADER_V3       104u
#define QCOW2_HEADER_LENGTH   112u /* what we write */
#define QCOW2_CLUSTER_MIN     9u
#define QCOW2_CLUSTER_MAX     21u
#define QCOW2_L1_BYTES_MAX    (32 * MIB)
#define QCOW2_TABLE_BYTES_MAX (8 * MIB) /* refcount table */
#define QCOW2_NAME_MAX        1023u
#define QCOW2_BACKING_FORMAT  UINT32_C(0xe2792aca) /* type of a header extension */

#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define QCOW2_COPIED      (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED  (UINT64_C(1) << 62)
#define QCOW2_ZERO        UINT64_C(1)

enum {
    QCOW2_DIRTY = 1,
    QCOW2_CORRUPT = 2,
    QCOW2_DATA_FILE = 4,
    QCOW2_COMPRESSION = 8,
    QCOW2_EXTENDED_L2 = 16
};

/* Offsets in the header. */
enum {
    HEADER_MAGIC = 0,
    HEADER_VERSION = 4,
    HEADER_BACKING_OFFSET = 8,
    HEADER_BACKING_SIZE = 16,
    HEADER_CLUSTER_BITS = 20,
    HEADER_SIZE = 24,
    HEADER_CRYPT = 32,
    HEADER_L1_SIZE = 36,
    HEADER_L1_OFFSET = 40,
    HEADER_TABLE_OFFSET = 48,
    HEADER_TABLE_CLUSTERS = 56,
    HEADER_SNAPSHOTS = 60,
    HEADER_SNAPSHOTS_OFFSET = 64,
    HEADER_INCOMPATIBLE = 72,
    HEADER_COMPATIBLE = 80,
    HEADER_AUTOCLEAR = 88,
    HEADER_REFCOUNT_ORDER = 96,
    HEADER_LENGTH = 100,
    HEADER_COMPRESSION_TYPE = 104
};

/* Part of an L2 table or refcount block, as on disk. */
struct slice {
    uint64_t offset; /* in the file */
    uint8_t *data;
    bool dirty;
    bool writing; /* a copy is on its way to the file: what the file has is not yet this */
    bool recent;
    struct slice *next; /* of the same bucket */
};

struct slice_cache {
    uint32_t slice_size;
    struct slice **slices;
    size_t count, room;
    size_t limit; /* more only while all are dirty */
    size_t hand;  /* where the search for one to reuse goes on */
    size_t dirty;
    struct slice **buckets;
    size_t bucket_count; /* power of two */
};

/* What a host cluster of metadata is. */
enum place { PLACE_NONE, PLACE_HEADER, PLACE_L1, PLACE_TABLE, PLACE_BLOCK, PLACE_L2 };

struct places {
    uint64_t *keys; /* cluster + 1; 0: empty */
    uint8_t *kinds;
    size_t count, room; /* room: power of two */
};

struct cluster_run {
    uint64_t first, count; /* host clusters */
};

struct freed {
    struct cluster_run *runs;
    size_t count, room;
    uint64_t clusters; /* in all runs */
};

enum mapping_kind { MAP_ABSENT, MAP_ZERO, MAP_DATA, MAP_COMPRESSED };

struct mapping {
    enum mapping_kind kind;
    uint64_t entry; /* of the L2 table */
    uint64_t host;  /* DATA: of the cluster; ZERO: of the cluster it keeps, or 0 */
    bool copied;    /* the cluster is this entry's alone */
};

struct qcow2 {
    struct block_image *image;
    struct block_file *file;
    unsigned version, cluster_bits, refcount_order, compression;
    uint32_t cluster_size, header_length;
    uint64_t incompatible, compatible, autoclear;
    uint32_t snapshots;

    pthread_mutex_t order, lock;
    uint64_t l1_offset, *l1;
    uint32_t l1_size; /* entries */
    uint64_t table_offset, *table;
    uint32_t table_size;                  /* entries */
    uint64_t l1_dirty[2], table_dirty[2]; /* entries [0, 1) */
    struct slice_cache l2, blocks;
    struct places places; /* empty if read-only */
    bool overlapping;     /* metadata lies on top of metadata; only with to_check */
    struct freed freed;   /* to be freed by the next write_back() */
    uint64_t free_hint;   /* no free cluster lies before it */
    uint64_t fresh;       /* bytes: from here on the file was never written */
    uint64_t end;         /* bytes: no used cluster lies beyond */
    _Atomic bool broken;  /* found damaged: nothing is written any more */
    bool to_check;

    pthread_mutex_t inflate_lock;
    uint64_t inflated_entry; /* which compressed cluster `inflated` holds; 0: none */
    uint8_t *inflated, *deflated;
};

/* --- qcow2.c --- */

/* The image is damaged: says so, marks it, stops writing to it. Returns EIO. Lock held or
 * not. */
int qcow2_damaged(struct qcow2 *q, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Changes fields of the header at once. */
int qcow2_write_header(struct qcow2 *q, unsigned offset, const void *data, size_t size);

/* --- qcow2_cache.c; lock held unless it says otherwise --- */

void slice_cache_init(struct slice_cache *cache, uint32_t slice_size, size_t limit);
void slice_cache_clear(struct slice_cache *cache);
struct slice *slice_find(struct slice_cache *cache, uint64_t offset); /* NULL: not in memory */
int slice_get(struct qcow2 *q, struct slice_cache *cache, uint64_t offset, struct slice **slice);
void slice_dirty(struct slice_cache *cache, struct slice *slice);
void qcow2_mark_entry(uint64_t dirty[2], uint64_t index);
/* Without the lock. Brings all metadata to the file, in order; then frees what was given up. */
int qcow2_write_back(struct qcow2 *q);
/* The same if much has gathered. */
int qcow2_write_back_much(struct qcow2 *q);

/* --- qcow2_places.c --- */

enum place place_find(const struct places *places, uint64_t cluster);
bool place_add(struct places *places, uint64_t cluster, enum place kind); /* false: taken */
void place_remove(struct places *places, uint64_t cluster);
void places_clear(struct places *places);
/* What of the metadata lies in these clusters of the host; PLACE_NONE: nothing. */
enum place places_overlap(const struct places *places, uint64_t cluster, uint64_t count);

/* --- qcow2_refcount.c; lock held --- */

uint64_t refcount_entry(const uint8_t *data, unsigned order, uint64_t index);
void refcount_set_entry(uint8_t *data, unsigned order, uint64_t index, uint64_t value);
int qcow2_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *count);
/* Fails with ENXIO if no block counts that cluster. */
int qcow2_set_refcount(struct qcow2 *q, uint64_t cluster, uint64_t count);
struct allocation {
    uint64_t host;  /* offset of the first cluster */
    uint64_t count; /* clusters */
    bool fresh;     /* never written before: they read as zeros */
};
/* Up to `wanted` (exact: precisely so many) clusters in a row, with refcount 1 from now on. */
int qcow2_allocate(struct qcow2 *q, uint64_t wanted, bool exact, struct allocation *got);
/* Undoes an allocation that nothing has referred to. */
void qcow2_unallocate(struct qcow2 *q, uint64_t host, uint64_t count);
/* One reference less, after the next write_back(). */
void qcow2_free_later(struct qcow2 *q, uint64_t cluster, uint64_t count);
/* The clusters that a compressed one lies in. */
struct cluster_run qcow2_compressed_run(const struct qcow2 *q, uint64_t entry);
/* Where its data begins, and how long it may be. */
void qcow2_compressed_place(const struct qcow2 *q, uint64_t entry, uint64_t *offset,
                            uint64_t *size);
/* One reference less at once; `freed` is where a cluster that became free is noted. */
int qcow2_release(struct qcow2 *q, const struct cluster_run *run, struct freed *freed);
void freed_add(struct freed *freed, uint64_t cluster, uint64_t count);

/* --- qcow2_map.c; lock held --- */

/* The L2 entry of a guest offset. NULL slice and error 0: there is no table. */
int qcow2_l2_slice(struct qcow2 *q, uint64_t offset, bool load, struct slice **slice,
                   unsigned *index);
int qcow2_map(struct qcow2 *q, uint64_t offset, bool load, struct mapping *mapping);
/* As qcow2_map(), and how many bytes from `offset` on are alike and, for DATA, in a row. */
int qcow2_map_run(struct qcow2 *q, uint64_t offset, uint64_t length, bool load,
                  struct mapping *mapping, uint64_t *run);
/* Makes sure that there is an L2 table of this image's own. */
int qcow2_need_l2(struct qcow2 *q, uint64_t offset);
/* Puts another entry there; the table exists. What the old one referred to is freed later,
 * unless the new one keeps it. */
int qcow2_set_entry(struct qcow2 *q, uint64_t offset, uint64_t entry);

/* --- qcow2_io.c, the operations of block_format --- */

bool qcow2_direct(struct block_image *image, bool write, uint64_t offset, uint64_t length,
                  uint64_t *host);
int qcow2_read(struct block_image *image, uint64_t offset, struct block_span to);
int qcow2_write(struct block_image *image, uint64_t offset, struct block_span from);
int qcow2_zero(struct block_image *image, uint64_t offset, uint64_t length, unsigned flags);
int qcow2_discard(struct block_image *image, uint64_t offset, uint64_t length);
int qcow2_flush(struct block_image *image);
int qcow2_extent(struct block_image *image, uint64_t offset, uint64_t length,
                 struct block_extent *extent);
bool qcow2_empty(struct block_image *image, struct error **err);
/* Makes [offset, offset + length) absent or zero; whole clusters. */
enum qcow2_clearing { QCOW2_DISCARD, QCOW2_UNMAP, QCOW2_KEEP, QCOW2_EMPTY };
int qcow2_clear(struct qcow2 *q, uint64_t offset, uint64_t length, enum qcow2_clearing how);

/* --- qcow2_inflate.c; no lock held --- */

/* Copies [at, at + to.size) of a compressed cluster. */
int qcow2_inflate(struct qcow2 *q, uint64_t entry, uint64_t at, struct block_span to);

/* --- qcow2_create.c, qcow2_check.c --- */

bool qcow2_create(struct block_file *file, const struct block_create *create, struct error **err);
bool qcow2_resize(struct block_image *image, uint64_t size, struct error **err);
bool qcow2_rebase(struct block_image *image, const char *backing, const char *backing_format,
                  struct error **err);
bool qcow2_check(struct block_image *image, bool repair, struct block_check *check,
                 struct error **err);

/* --- small things --- */

static inline uint64_t load_be64(const void *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof(value));
    return __builtin_bswap64(value);
}

static inline uint32_t load_be32(const void *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof(value));
    return __builtin_bswap32(value);
}

static inline void store_be64(void *to, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(to, &value, sizeof(value));
}

static inline void store_be32(void *to, uint32_t value)
{
    value = __builtin_bswap32(value);
    memcpy(to, &value, sizeof(value));
}

/* Guest bytes that one L2 table maps. */
static inline uint64_t qcow2_l2_reach(const struct qcow2 *q)
{
    return (uint64_t)(q->cluster_size / 8) << q->cluster_bits;
}

/* Host clusters that one refcount block counts: log2. */
static inline unsigned qcow2_block_bits(const struct qcow2 *q)
{
    return q->cluster_bits + 3 - q->refcount_order;
}

static inline uint64_t qcow2_refcount_max(const struct qcow2 *q)
{
    return q->refcount_order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << q->refcount_order)) - 1;
}

static inline uint32_t qcow2_in_cluster(const struct qcow2 *q, uint64_t offset)
{
    return (uint32_t)(offset & (q->cluster_size - 1));
}

#endif
