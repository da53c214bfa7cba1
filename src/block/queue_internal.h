/* SPDX-License-Identifier: MIT
 *
 * The inside of a struct block, and its parts occupants.c, limit.c and ring.c.
 */
#ifndef TRAPEZE_BLOCK_QUEUE_INTERNAL_H
#define TRAPEZE_BLOCK_QUEUE_INTERNAL_H

#include <pthread.h>

#include "block/block.h"

struct block_ring;

struct block_fifo {
    struct block_request *first;
    struct block_request **last_link;
};

static inline void fifo_init(struct block_fifo *fifo)
{
    fifo->first = NULL;
    fifo->last_link = &fifo->first;
}

static inline void fifo_add(struct block_fifo *fifo, struct block_request *request)
{
    request->next = NULL;
    *fifo->last_link = request;
    fifo->last_link = &request->next;
}

static inline struct block_request *fifo_take(struct block_fifo *fifo)
{
    struct block_request *request = fifo->first;
    if (request != NULL) {
        fifo->first = request->next;
        if (fifo->first == NULL)
            fifo->last_link = &fifo->first;
    }
    return request;
}

/* --- occupants.c: all with the queue's lock held --- */

/* Requests that occupy a stretch of the disk, in order of arrival, if the format needs that
 * (granule > 1). A request is blocked while an earlier one overlaps it and either of them is
 * exclusive, or the earlier is itself blocked: nobody starves. Reads, and writes whose place is
 * known, are not exclusive. Only exclusive requests change where data lies, so a place found for a
 * request stays true until it completes. */
struct block_occupants {
    struct block_request *first, *last;
    unsigned blocked;
};

/* `granule`: what a request touches it occupies whole. It is not blocked yet. */
void occupants_add(struct block_occupants *occupants, struct block_request *request,
                   uint32_t granule);
void occupants_remove(struct block_occupants *occupants, struct block_request *request);
/* True: it has to wait for an earlier one, and is blocked. */
bool occupants_block(struct block_occupants *occupants, struct block_request *request);
/* True: it was blocked and is not any more. */
bool occupants_unblock(struct block_occupants *occupants, struct block_request *request);

/* --- limit.c --- */

/* One rate as virtual scheduling: `due` is when everything admitted so far would have been
 * carried out at exactly that rate. */
struct rate {
    uint64_t per_second; /* 0: no limit */
    int64_t due;         /* ns */
};

struct limiter {
    struct rate requests, bytes;
};

void limiter_set(struct limiter *limiter, const struct block_limits *limits, int64_t now);
bool limiter_active(const struct limiter *limiter);
/* When a request of so many bytes may start (ns, perhaps in the past), and accounts for it. */
int64_t limiter_admit(struct limiter *limiter, uint64_t bytes, int64_t now);

/* --- ring.c: all with the queue's lock held, but for the descriptor --- */

/* One of `rings`, or a new one if that is NULL. NULL: there is none left, or the host has no
 * io_uring for us. */
struct block_ring *block_ring_new(struct block_rings *rings);
void block_ring_free(struct block_ring *ring);    /* nothing is in flight */
int block_ring_fd(const struct block_ring *ring); /* readable: something completed */
/* What is added reads and writes this file from now on, which is kept open until another one, or
 * -1, takes its place. Nothing is in flight. False: it cannot. */
bool block_ring_use(struct block_ring *ring, int fd);
/* False: there is no room. `host`: where in the file. */
bool block_ring_add(struct block_ring *ring, struct block_request *request, uint64_t host);
void block_ring_submit(struct block_ring *ring);
/* A completed request and what became of it: bytes or a negative errno. NULL: no more. */
struct block_request *block_ring_reap(struct block_ring *ring, int64_t *result);

#endif
