/* SPDX-License-Identifier: MIT
 *
 * A disk as a device sees it: a queue of asynchronous requests on an image (block/image.h).
 *
 *      device     block_submit() ─► limits ─► overlap ─┬─► io_uring   place known at once
 *                       done() ◄─ werror ◄─────────────┴─► threads    everything else
 *      format     raw, fixed, qcow2 … and the images below            block/image.h
 *      protocol   a descriptor of the host, NBD                       block/file.h
 *
 *     struct block *disk = block_new(image, &options, &env, &err);
 *     request->kind = BLOCK_READ; request->offset = 4096; request->iov = ...;
 *     request->done = disk_done;
 *     block_submit(disk, request);        // disk_done(request, 0 or an errno value) later
 *
 * Ordering: requests in flight at the same time may be carried out in any order. A flush
 * covers every write completed before the flush was submitted.
 *
 * A read or write whose place in the file the format knows at once goes to the kernel (io_uring)
 * from the submitting thread, unless it is a write into the host's cache; that, whatever has to wait
 * for something (metadata, a backing chain, decompression, a place for new data), and flushes are
 * carried out by a few threads with blocking calls, and so is everything where the host has no
 * io_uring. Requests that change where data lies (format's `granule`) exclude others on the same
 * clusters meanwhile.
 *
 * Errors go to the guest or stop the machine, by `werror` and `rerror`. A request that stops
 * it is held, neither lost nor done, until block_retry() carries it out again.
 *
 * Deterministic mode: I/O is done at once, and completes a fixed virtual time later (limits
 * make it longer), in order of submission, so that a guest sees the same in every run.
 *
 * Threads: block_submit(), block_plug(), block_unplug() and block_wait_idle() from any thread;
 * done() is called on the event-loop thread (in deterministic mode on the thread that runs the
 * clock's timers), without any lock. Everything else on the event-loop thread. No other lock
 * is taken with the queue's held but the image's own; the clock's is a leaf.
 */
#ifndef TRAPEZE_BLOCK_BLOCK_H
#define TRAPEZE_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "block/image.h"

struct block;
struct block_bitmap;
struct block_rings;
struct error;
struct log;
struct loop;
struct vclock;

enum block_kind { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

/* Owned by the caller, who leaves it alone between submit and done(); done() may free it or
 * submit it again. */
struct block_request {
    enum block_kind kind;
    bool unmap;              /* WRITE_ZEROES: the space may be given back */
    bool background;         /* not the guest's: neither limited nor counted, and an error does not
                              * stop the machine */
    uint64_t offset;         /* bytes; offset + length within block_size() */
    uint64_t length;         /* DISCARD, WRITE_ZEROES; otherwise the sum of iov */
    const struct iovec *iov; /* READ, WRITE; at most IOV_MAX */
    unsigned iov_count;
    void (*done)(struct block_request *request, int error); /* error: errno value or 0 */
    void *opaque;                                           /* the caller's */

    /* kept by block/ */
    struct block_request *next;
    struct block_request *later, *earlier; /* in the list of those that occupy a stretch */
    uint64_t begin, end;                   /* which */
    int64_t deadline;
    int result;
    bool tracked, blocked, exclusive;
};

/* What happens to a request that fails. */
enum block_error_policy {
    BLOCK_ERROR_REPORT, /* the guest learns of it */
    BLOCK_ERROR_STOP,   /* the machine stops, and the request is tried again when it goes on */
    BLOCK_ERROR_ENOSPC  /* STOP if the host's disk is full, otherwise REPORT */
};

struct block_limits {
    uint64_t iops;  /* requests per second; 0: no limit */
    uint64_t bytes; /* bytes per second; 0: no limit */
};

struct block_options {
    enum block_error_policy werror, rerror; /* of reads; of everything else */
    struct block_limits limits;
    bool ignore_discards; /* they succeed and do nothing */
    bool threads_only;    /* no io_uring */
};

struct block_env {
    struct loop *loop;    /* where requests complete */
    struct vclock *clock; /* for limits (NULL: there are none) and in deterministic mode */
    bool deterministic;
    struct block_rings *rings; /* where its ring comes from; NULL: it makes one */
    /* A request is held: the machine has to stop. NULL: nobody can, so errors are reported.
     * Event-loop thread (deterministic: see above), once until block_retry(). */
    void (*stopped)(void *opaque, struct block *block, enum block_kind kind, int error);
    void *opaque;
};

/* Takes the image over on success. */
struct block *block_new(struct block_image *image, const struct block_options *options,
                        const struct block_env *env, struct error **err);
/* A raw disk on a descriptor, locked; takes `fd` over on success. */
struct block *block_new_raw(int fd, bool read_only, const struct block_env *env,
                            struct error **err);
/* Completes what is in flight first (what is held: with ECANCELED). NULL is fine. */
void block_free(struct block *block);

uint64_t block_size(const struct block *block); /* bytes */
bool block_read_only(const struct block *block);
/* Whether a discard may do something. */
bool block_can_discard(const struct block *block);
/* Which clusters a discard or write-zeroes handles well: bytes, a power of two >= 512. */
uint32_t block_cluster_size(const struct block *block);
bool block_uses_ring(const struct block *block); /* io_uring, rather than threads alone */

/* A write to a read-only disk or a range outside of it is a bug of the caller. */
void block_submit(struct block *block, struct block_request *request);
/* Requests submitted in between may wait for the last unplug: one system call for all. */
void block_plug(struct block *block);
void block_unplug(struct block *block);

/* Calls done() for what has completed by now, as the loop would. */
void block_poll(struct block *block);
/* Returns when no submitted request still touches memory or the image, those that limits hold
 * back included; their done() may be still to come. */
void block_wait_idle(struct block *block);
/* Returns when every submitted request has completed and done() has been called for it, but
 * for those that are held. */
void block_drain(struct block *block);

/* Carries out again what is held; the machine is about to go on. */
void block_retry(struct block *block);
/* Completes what is held, and what waits for a limit, with ECANCELED: nobody wants it any
 * more. done() is called from here. */
void block_cancel(struct block *block);
bool block_is_stopped(struct block *block); /* something is held */

/* Requests that were submitted, and their bytes: reads, and writes (zeroes without data, too). */
struct block_counters {
    uint64_t reads, writes, read_bytes, written_bytes;
};
void block_get_counters(struct block *block, struct block_counters *counters); /* any thread */

void block_set_limits(struct block *block, const struct block_limits *limits);

/* Another image, as read-only and, if there are bitmaps, as large; returns the old one. Drains. */
struct block_image *block_swap(struct block *block, struct block_image *image);
struct block_image *block_image(struct block *block); /* only while drained */

/* Takes the threads and the ring away (after block_drain()) and brings them back, for a
 * fork(). */
void block_threads_stop(struct block *block);
bool block_threads_start(struct block *block, struct error **err);

/* What was changed since: one bit per `granule` bytes (a power of two >= 512), set before
 * done() of a write, discard or write-zeroes is called, also of one that failed. Several may
 * exist; block_free() frees those that are left. Any thread. NULL: the host has not so much
 * memory. */
struct block_bitmap *block_bitmap_new(struct block *block, uint32_t granule);
void block_bitmap_free(struct block *block, struct block_bitmap *bitmap);
/* The first marked stretch from `from` on, of at most `limit` bytes, which is unmarked. False:
 * there is none. */
bool block_bitmap_take(struct block *block, struct block_bitmap *bitmap, uint64_t from,
                       uint64_t limit, uint64_t *offset, uint64_t *length);
void block_bitmap_mark(struct block *block, struct block_bitmap *bitmap, uint64_t offset,
                       uint64_t length);
uint64_t block_bitmap_count(struct block *block, const struct block_bitmap *bitmap); /* bytes */

#endif
