/* SPDX-License-Identifier: MIT
 *
 * Raw disks by a few threads that do preadv, pwritev and fdatasync: enough to keep several
 * requests of a guest in flight, and it works on every kernel and file system.
 *
 * A request is in one of three places: `waiting` (for a thread), being carried out (counted
 * by `busy`), or `finished` (for the event loop). All under one lock that no callback is
 * called with. `posted` says that reap() is under way to the loop, so that a burst of
 * completions costs one message.
 */
#include "block/block.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/vclock.h"

#define THREAD_COUNT 4
/* Deterministic mode: what an I/O takes in virtual time. About a fast SSD. */
#define VIRTUAL_LATENCY_NS INT64_C(100000)

struct queue {
    struct block_request *first;
    struct block_request **last_link;
};

struct block {
    int fd;
    bool read_only;
    uint64_t size;
    struct block_env env;

    pthread_mutex_t lock;
    pthread_cond_t work; /* something is waiting, or stop */
    pthread_cond_t idle; /* nothing is waiting or busy */
    struct queue waiting, finished;
    unsigned busy;
    bool posted, stop;
    pthread_t threads[THREAD_COUNT];
    unsigned thread_count;

    struct vtimer *timer; /* deterministic mode; `finished` is sorted by deadline */
};

static void queue_init(struct queue *queue)
{
    queue->first = NULL;
    queue->last_link = &queue->first;
}

static void queue_add(struct queue *queue, struct block_request *request)
{
    request->next = NULL;
    *queue->last_link = request;
    queue->last_link = &request->next;
}

static struct block_request *queue_take(struct queue *queue)
{
    struct block_request *request = queue->first;
    if (request != NULL) {
        queue->first = request->next;
        if (queue->first == NULL)
            queue->last_link = &queue->first;
    }
    return request;
}

/* --- the file --- */

static bool find_size(int fd, uint64_t *size, struct error **err)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return error_set_errno(err, errno, "cannot examine the disk");
    if (S_ISBLK(status.st_mode)) {
        if (ioctl(fd, BLKGETSIZE64, size) != 0)
            return error_set_errno(err, errno, "cannot find the size of the block device");
    } else if (S_ISREG(status.st_mode)) {
        *size = (uint64_t)status.st_size;
    } else {
        error_set(err, ERROR_USAGE, "this is neither a file nor a block device");
        error_hint(err, "Name a raw disk image or a block device");
        return false;
    }
    if (*size == 0 || *size % BLOCK_SECTOR != 0) {
        error_set(err, ERROR_USAGE,
                  "its size of %llu bytes is not a positive multiple of %u bytes: it is no raw "
                  "disk image, or a truncated one",
                  (unsigned long long)*size, BLOCK_SECTOR);
        error_hint(err, "Check where it came from, or extend it with 'truncate --size=%%%u FILE'",
                   BLOCK_SECTOR);
        return false;
    }
    return true;
}

static bool check_mode(int fd, bool read_only, struct error **err)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return error_set_errno(err, errno, "cannot examine the disk");
    int mode = flags & O_ACCMODE;
    if (mode == O_WRONLY || (mode == O_RDONLY && !read_only)) {
        error_set(err, ERROR_USAGE, "it is open for %s only",
                  mode == O_WRONLY ? "writing" : "reading");
        error_hint(err, "Attach it read-only, or get the right to read and write it");
        return false;
    }
    return true;
}

/* A lock of the open file description: it goes with the last descriptor, not, as POSIX
 * locks do, when anybody in this process closes the same file. */
static bool lock_file(int fd, bool read_only, struct error **err)
{
    struct flock lock = {.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return true;
    if (errno == EAGAIN || errno == EACCES) {
        error_set(err, ERROR_HOST, "another process, probably a running VM, %s",
                  read_only ? "is writing to it" : "is using it");
        error_hint(err, "Stop that VM, or use a copy%s",
                   read_only ? "" : "; several VMs may share a disk if all attach it read-only");
        return false;
    }
    error_set_errno(err, errno, "cannot lock the disk");
    error_hint(err, "Put it on a file system that supports locks");
    return false;
}

/* Reads or writes everything. Returns an errno value. */
static int transfer(struct block *block, struct block_request *request)
{
    struct iovec *iov = request->iov;
    unsigned count = request->iov_count;
    off_t offset = (off_t)request->offset;
    while (count > 0) {
        ssize_t done = request->kind == BLOCK_READ ? preadv(block->fd, iov, (int)count, offset)
                                                   : pwritev(block->fd, iov, (int)count, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return errno;
        offset += done;
        size_t left = (size_t)done;
        while (count > 0 && left >= iov->iov_len) {
            left -= iov->iov_len;
            iov++;
            count--;
        }
        if (count == 0)
            break;
        if (done == 0)
            return EIO; /* somebody truncated the file */
        iov->iov_base = (uint8_t *)iov->iov_base + left;
        iov->iov_len -= left;
    }
    return 0;
}

static int carry_out(struct block *block, struct block_request *request)
{
    if (request->kind != BLOCK_FLUSH)
        return transfer(block, request);
    int result;
    do
        result = fdatasync(block->fd);
    while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
}

/* --- completion --- */

/* Calls done() for what finished until then. */
static void reap(void *opaque)
{
    struct block *block = opaque;
    pthread_mutex_lock(&block->lock);
    block->posted = false;
    struct block_request *request = block->finished.first;
    queue_init(&block->finished);
    pthread_mutex_unlock(&block->lock);
    while (request != NULL) {
        struct block_request *next = request->next; /* done() may free or reuse it */
        request->done(request, request->result);
        request = next;
    }
}

/* Deterministic mode: completes what is due, or everything. */
static void reap_until(struct block *block, int64_t now)
{
    struct block_request *request;
    while ((request = block->finished.first) != NULL && request->deadline <= now) {
        queue_take(&block->finished);
        request->done(request, request->result);
    }
    if (block->finished.first != NULL)
        vtimer_arm(block->timer, block->finished.first->deadline);
}

static void timer_fired(void *opaque)
{
    struct block *block = opaque;
    reap_until(block, vclock_now(block->env.clock));
}

/* --- threads --- */

static void *io_thread(void *opaque)
{
    struct block *block = opaque;
    pthread_mutex_lock(&block->lock);
    for (;;) {
        struct block_request *request = queue_take(&block->waiting);
        if (request == NULL) {
            if (block->stop)
                break;
            pthread_cond_wait(&block->work, &block->lock);
            continue;
        }
        block->busy++;
        pthread_mutex_unlock(&block->lock);
        request->result = carry_out(block, request);
        pthread_mutex_lock(&block->lock);
        block->busy--;
        queue_add(&block->finished, request);
        if (!block->posted) {
            block->posted = true;
            loop_post(block->env.loop, reap, block);
        }
        if (block->busy == 0 && block->waiting.first == NULL)
            pthread_cond_broadcast(&block->idle);
    }
    pthread_mutex_unlock(&block->lock);
    return NULL;
}

void block_threads_stop(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    block->stop = true;
    pthread_cond_broadcast(&block->work);
    pthread_mutex_unlock(&block->lock);
    while (block->thread_count > 0)
        pthread_join(block->threads[--block->thread_count], NULL);
    block->stop = false;
}

bool block_threads_start(struct block *block, struct error **err)
{
    if (block->env.deterministic)
        return true;
    while (block->thread_count < THREAD_COUNT) {
        int number = pthread_create(&block->threads[block->thread_count], NULL, io_thread, block);
        if (number != 0) {
            block_threads_stop(block);
            return error_set_errno(err, number, "cannot start a thread for disk I/O");
        }
        block->thread_count++;
    }
    return true;
}

/* --- requests --- */

static bool request_is_valid(const struct block *block, const struct block_request *request)
{
    if (request->kind == BLOCK_FLUSH)
        return true;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < request->iov_count; i++)
        bytes += request->iov[i].iov_len;
    return range_within(request->offset, bytes, block->size) &&
           (request->kind == BLOCK_READ || !block->read_only);
}

void block_submit(struct block *block, struct block_request *request)
{
    assert(request_is_valid(block, request));
    if (block->env.deterministic) {
        request->result = carry_out(block, request);
        request->deadline = vclock_now(block->env.clock) + VIRTUAL_LATENCY_NS;
        bool first = block->finished.first == NULL;
        queue_add(&block->finished, request);
        if (first)
            vtimer_arm(block->timer, request->deadline);
        return;
    }
    pthread_mutex_lock(&block->lock);
    assert(block->thread_count > 0);
    queue_add(&block->waiting, request);
    pthread_cond_signal(&block->work);
    pthread_mutex_unlock(&block->lock);
}

void block_wait_idle(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    while (block->busy > 0 || block->waiting.first != NULL)
        pthread_cond_wait(&block->idle, &block->lock);
    pthread_mutex_unlock(&block->lock);
}

void block_drain(struct block *block)
{
    if (block->env.deterministic) {
        reap_until(block, INT64_MAX);
        vtimer_disarm(block->timer);
        return;
    }
    for (;;) {
        block_wait_idle(block);
        reap(block);
        /* done() may have submitted more. */
        pthread_mutex_lock(&block->lock);
        bool empty =
            block->busy == 0 && block->waiting.first == NULL && block->finished.first == NULL;
        pthread_mutex_unlock(&block->lock);
        if (empty)
            return;
    }
}

/* --- life --- */

struct block *block_new(int fd, bool read_only, const struct block_env *env, struct error **err)
{
    uint64_t size;
    if (!find_size(fd, &size, err) || !check_mode(fd, read_only, err) ||
        !lock_file(fd, read_only, err))
        return NULL;
    struct block *block = alloc_zeroed(1, sizeof(*block));
    *block = (struct block){.fd = fd, .read_only = read_only, .size = size, .env = *env};
    pthread_mutex_init(&block->lock, NULL);
    pthread_cond_init(&block->work, NULL);
    pthread_cond_init(&block->idle, NULL);
    queue_init(&block->waiting);
    queue_init(&block->finished);
    if (env->deterministic)
        block->timer = vtimer_new(env->clock, timer_fired, block);
    if (!block_threads_start(block, err)) {
        struct flock unlock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
        (void)fcntl(fd, F_OFD_SETLK, &unlock);
        block->fd = -1; /* the caller's again */
        block_free(block);
        return NULL;
    }
    return block;
}

void block_free(struct block *block)
{
    if (block == NULL)
        return;
    block_drain(block);
    block_threads_stop(block);
    if (!block->env.deterministic)
        loop_cancel(block->env.loop, reap, block);
    vtimer_free(block->timer);
    if (block->fd >= 0)
        close(block->fd);
    pthread_cond_destroy(&block->work);
    pthread_cond_destroy(&block->idle);
    pthread_mutex_destroy(&block->lock);
    free(block);
}

uint64_t block_size(const struct block *block)
{
    return block->size;
}

bool block_read_only(const struct block *block)
{
    return block->read_only;
}
