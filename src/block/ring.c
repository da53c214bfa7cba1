/* SPDX-License-Identifier: MIT
 *
 * io_uring: reads and writes of one disk, submitted and reaped under its lock.
 *
 * A ring is made disabled, with a table of one registered file, and restricted before it is
 * enabled. The table may be changed later, as disks come and go.
 */
#include "block/queue_internal.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "block/rings.h"

/* As many as a device keeps in flight; beyond that threads take over. */
#define ENTRIES 256u

struct block_ring {
    struct io_uring uring;
    unsigned in_flight;
    struct block_rings *pool; /* where it came from; NULL: made for its disk */
    struct block_ring *next;  /* there */
};

struct block_rings {
    struct block_ring *first;
};

/* Debian 12's liburing declares functions for these two operations and has none. */
static bool set_up(const struct io_uring *uring, unsigned operation, void *data, unsigned count)
{
    return syscall(SYS_io_uring_register, uring->ring_fd, operation, data, count) == 0;
}

static bool restrict_ring(struct io_uring *uring)
{
    int none = -1;
    struct io_uring_restriction allowed[] = {
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
        {.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE},
        {.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_REGISTER_FILES_UPDATE},
    };
    return io_uring_register_files(uring, &none, 1) == 0 &&
           set_up(uring, IORING_REGISTER_RESTRICTIONS, allowed, ARRAY_SIZE(allowed)) &&
           set_up(uring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

static struct block_ring *make_ring(void)
{
    struct block_ring *ring = alloc_zeroed(1, sizeof(*ring));
    if (io_uring_queue_init(ENTRIES, &ring->uring, IORING_SETUP_R_DISABLED) != 0) {
        free(ring);
        return NULL;
    }
    if (!restrict_ring(&ring->uring)) {
        io_uring_queue_exit(&ring->uring);
        free(ring);
        return NULL;
    }
    io_uring_ring_dontfork(&ring->uring);
    return ring;
}

static void destroy_ring(struct block_ring *ring)
{
    io_uring_queue_exit(&ring->uring);
    free(ring);
}

bool block_ring_use(struct block_ring *ring, int fd)
{
    return io_uring_register_files_update(&ring->uring, 0, &fd, 1) >= 0;
}

struct block_ring *block_ring_new(struct block_rings *rings)
{
    if (rings == NULL)
        return make_ring();
    struct block_ring *ring = rings->first;
    if (ring != NULL)
        rings->first = ring->next;
    return ring;
}

void block_ring_free(struct block_ring *ring)
{
    if (ring == NULL)
        return;
    assert(ring->in_flight == 0);
    if (ring->pool == NULL) {
        destroy_ring(ring);
        return;
    }
    bool closed = block_ring_use(ring, -1);
    assert(closed);
    (void)closed;
    ring->next = ring->pool->first;
    ring->pool->first = ring;
}

struct block_rings *block_rings_new(unsigned count)
{
    struct block_rings *rings = alloc_zeroed(1, sizeof(*rings));
    for (; count > 0; count--) {
        struct block_ring *ring = make_ring();
        if (ring == NULL)
            break;
        ring->pool = rings;
        ring->next = rings->first;
        rings->first = ring;
    }
    return rings;
}

void block_rings_free(struct block_rings *rings)
{
    if (rings == NULL)
        return;
    for (struct block_ring *ring = rings->first, *next; ring != NULL; ring = next) {
        next = ring->next;
        destroy_ring(ring);
    }
    free(rings);
}

int block_ring_fd(const struct block_ring *ring)
{
    return ring->uring.ring_fd;
}

bool block_ring_add(struct block_ring *ring, struct block_request *request, uint64_t host)
{
    /* Never more than the completion queue holds (twice as many), so that none overflows. */
    struct io_uring_sqe *sqe = ring->in_flight < ENTRIES ? io_uring_get_sqe(&ring->uring) : NULL;
    if (sqe == NULL)
        return false;
    assert(request->kind == BLOCK_READ || request->kind == BLOCK_WRITE);
    if (request->kind == BLOCK_READ)
        io_uring_prep_readv(sqe, 0, request->iov, request->iov_count, host);
    else
        io_uring_prep_writev(sqe, 0, request->iov, request->iov_count, host);
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
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
