/* SPDX-License-Identifier: MIT
 *
 * A disk: asynchronous reads, writes and flushes on a file or block device that somebody
 * else opened. block/ opens nothing by name.
 *
 *     struct block *disk = block_new(fd, read_only, &env, &err);     // locks and checks it
 *     request->kind = BLOCK_READ; request->offset = 4096; request->iov = ...;
 *     request->done = disk_done;
 *     block_submit(disk, request);        // disk_done(request, 0 or an errno value) later
 *
 * Ordering: requests in flight at the same time may be carried out in any order. A flush
 * covers every write completed before the flush was submitted.
 *
 * Deterministic mode: I/O is done at once, and completes a fixed virtual time later, in order
 * of submission, so that a guest sees the same in every run.
 *
 * Threads: block_submit() and block_wait_idle() from any thread; done() is called on the
 * event-loop thread (in deterministic mode on the thread that runs the clock's timers),
 * without any lock. Everything else on the event-loop thread.
 */
#ifndef TRAPEZE_BLOCK_BLOCK_H
#define TRAPEZE_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct block;
struct error;
struct loop;
struct vclock;

#define BLOCK_SECTOR 512u

enum block_kind { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH };

/* Owned by the caller, who leaves it alone between submit and done(); done() may free it or
 * submit it again. */
struct block_request {
    enum block_kind kind;
    uint64_t offset;   /* bytes; offset + sum of iov within block_size() */
    struct iovec *iov; /* changed by the I/O; at most IOV_MAX */
    unsigned iov_count;
    void (*done)(struct block_request *request, int error); /* error: errno value or 0 */
    void *opaque;                                           /* the caller's */

    /* kept by block/ */
    struct block_request *next;
    int result;
    int64_t deadline;
};

struct block_env {
    struct loop *loop;    /* where requests complete */
    struct vclock *clock; /* deterministic mode only */
    bool deterministic;
};

/* Takes `fd` over on success. Fails with a sentence if it is not a file or block device, has
 * a size that is no multiple of 512 bytes, is open for reading only though `read_only` is
 * false, or is in use by somebody else: a disk has one writer or several readers. */
struct block *block_new(int fd, bool read_only, const struct block_env *env, struct error **err);
/* Completes what is in flight first; releases the lock, closes the descriptor. NULL is fine. */
void block_free(struct block *block);

uint64_t block_size(const struct block *block); /* bytes */
bool block_read_only(const struct block *block);

/* A write to a read-only disk or a range outside of it is a bug of the caller. */
void block_submit(struct block *block, struct block_request *request);

/* Returns when no submitted request still touches memory or the file; their done() may be
 * still to come. */
void block_wait_idle(struct block *block);
/* Returns when every submitted request has completed and done() has been called for it. */
void block_drain(struct block *block);

/* Takes the I/O threads away (after block_drain()) and brings them back, for a fork(). */
void block_threads_stop(struct block *block);
bool block_threads_start(struct block *block, struct error **err);

#endif
