/* SPDX-License-Identifier: MIT
 *
 * io_uring: reads and writes of one disk, submitted and reaped under its lock.
 */
#include "block/queue_internal.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

#include "base/alloc.h"

/* As many as a device keeps in flight; beyond that threads take over. */
#define ENTRIES 256u

struct block_ring {
    struct io_uring uring;
    unsigned in_flight;
};

struct block_ring *block_ring_new(void)
{
    struct block_ring *ring = alloc_zeroed(1, sizeof(*ring));
    if (io_uring_queue_init(ENTRIES, &ring->uring, 0) != 0) {
        free(ring);
        return NULL;
    }
    io_uring_ring_dontfork(&ring->uring);
    return ring;
}

void block_ring_free(struct block_ring *ring)
{
    if (ring == NULL)
        return;
    io_uring_queue_exit(&ring->uring);
    free(ring);
}

int block_ring_fd(const struct block_ring *ring)
{
    return ring->uring.ring_fd;
}

bool block_ring_add(struct block_ring *ring, struct block_request *request, int fd, uint64_t host)
{
    /* Never more than the completion queue holds (twice as many), so that none overflows. */
    struct io_uring_sqe *sqe = ring->in_flight < ENTRIES ? io_uring_get_sqe(&ring->uring) : NULL;
    if (sqe == NULL)
        return false;
    assert(request->kind == BLOCK_READ || request->kind == BLOCK_WRITE);
    if (request->kind == BLOCK_READ)
        io_uring_prep_readv(sqe, fd, request->iov, request->iov_count, host);
    else
        io_uring_prep_writev(sqe, fd, request->iov, request->iov_count, host);
    io_uring_sqe_set_data(sqe, request);
    ring->in_flight++;
    return true;
}

void block_ring_submit(struct block_ring *ring)
{
    /* The kernel may take fewer, for want of memory: it is asked again until it has all. */
    while (io_uring_sq_ready(&ring->uring) > 0) {
        int taken = io_uring_submit(&ring->uring);
        assert(taken >= 0 || taken == -EINTR || taken == -EAGAIN || taken == -EBUSY);
        (void)taken;
    }
}

struct block_request *block_ring_reap(struct block_ring *ring, int64_t *result)
{
    struct io_uring_cqe *cqe;
    if (io_uring_peek_cqe(&ring->uring, &cqe) != 0)
        return NULL;
    struct block_request *request = io_uring_cqe_get_data(cqe);
    *result = cqe->res;
    io_uring_cqe_seen(&ring->uring, cqe);
    ring->in_flight--;
    return request;
}
