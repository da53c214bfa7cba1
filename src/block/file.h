/* SPDX-License-Identifier: MIT
 *
 * The protocol layer: where the bytes of an image are. A file or block device of the host,
 * known by its descriptor, or a server that speaks NBD (block/nbd.h). Nothing here knows a
 * format, and nothing opens a name.
 *
 * Calls block, return 0 or an errno value, and may be made from any thread at once. What
 * overlapping writes leave is undefined; so is, with `align` > 1, what two writes leave that
 * overlap when they are widened to multiples of it.
 */
#ifndef TRAPEZE_BLOCK_FILE_H
#define TRAPEZE_BLOCK_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "block/span.h"

struct block_file;
struct error;

/* What the host may keep in its memory.
 *   WRITEBACK  the host caches; a flush brings everything to stable storage
 *   NONE       as WRITEBACK without the host's cache (O_DIRECT)
 *   UNSAFE     flushes are ignored: fast, and lost when the host crashes */
enum block_cache { BLOCK_CACHE_WRITEBACK, BLOCK_CACHE_NONE, BLOCK_CACHE_UNSAFE };

enum { BLOCK_ZERO_UNMAP = 1 /* the space may be given back */ };

struct block_file_ops {
    int (*read)(struct block_file *file, uint64_t offset, struct block_span to);
    int (*write)(struct block_file *file, uint64_t offset, struct block_span from);
    int (*flush)(struct block_file *file);
    int (*zero)(struct block_file *file, uint64_t offset, uint64_t length, unsigned flags);
    int (*discard)(struct block_file *file, uint64_t offset, uint64_t length); /* a hint */
    int (*truncate)(struct block_file *file, uint64_t size);
    /* Whether [offset, offset + *length) begins with data or a hole, and how much of it is
     * alike: *length becomes that, > 0. */
    int (*extent)(struct block_file *file, uint64_t offset, uint64_t *length, bool *data);
    int (*size)(struct block_file *file, uint64_t *size);
    /* Around a fork(): no thread of its own in between. Both may be NULL. */
    void (*threads_stop)(struct block_file *file);
    bool (*threads_start)(struct block_file *file, struct error **err);
    void (*close)(struct block_file *file); /* frees it */
};

struct block_file {
    const struct block_file_ops *ops;
    int fd;         /* for I/O past this layer (io_uring); -1: there is none */
    uint32_t align; /* what O_DIRECT demands of offset, length and memory; 1: nothing */
    enum block_cache cache;
    bool read_only;
    bool borrowed;          /* closing it leaves the descriptor open */
    bool handed_over;       /* ... and locked: it is somebody else's now */
    bool pad_end;           /* what lies behind the end reads as zeros; otherwise EIO */
    bool is_device;         /* of the host: its size cannot be changed */
    uint64_t device, inode; /* which file it is; 0, 0: unknown */
    unsigned parallel;      /* how many threads it makes sense to wait in */
};

/* Takes `fd` over on success. With BLOCK_CACHE_NONE O_DIRECT is set on it. Fails with a
 * sentence if it is neither a file nor a block device or is not open for what is wanted. */
struct block_file *block_file_new(int fd, bool read_only, enum block_cache cache,
                                  struct error **err);
/* A disk has one writer or several readers: locks the open file (not the process). Waits for up to
 * a second. */
bool block_file_lock(struct block_file *file, struct error **err);
void block_file_unlock(struct block_file *file);
void block_file_close(struct block_file *file); /* releases the lock too; NULL is fine */

/* read() and write() of one piece of memory. */
int block_file_pread(struct block_file *file, uint64_t offset, void *data, size_t size);
int block_file_pwrite(struct block_file *file, uint64_t offset, const void *data, size_t size);

#endif
