/* SPDX-License-Identifier: MIT
 *
 * The queue of block.h. Where a request is, all under one lock that no callback is called
 * with:
 *
 *     throttled ─► [tracked, blocked] ─► ready (for a thread) or the ring ─► finished | held
 *
 * `occupants` keeps apart what may not be carried out at the same time (queue_internal.h).
 *
 * `posted` says that reap() is under way to the loop, so that a burst of completions costs
 * one message.
 */
#include "block/block.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/vclock.h"
#include "block/bitmap_internal.h"
#include "block/queue_internal.h"

#define THREADS_MAX 32
/* Deterministic mode: what an I/O takes in virtual time. About a fast SSD. */
#define VIRTUAL_LATENCY_NS INT64_C(100000)

struct block {
    struct block_image *image;
    struct block_options options;
    struct block_env env;
    uint32_t granule; /* 1: requests need not be kept apart */

    pthread_mutex_t lock;
    pthread_cond_t work; /* something is ready, or quit */
    pthread_cond_t idle; /* no request is before `finished` but those throttled; or, while
                          * `draining`, one went to the ring */
    struct block_fifo throttled, ready, finished, held;
    struct block_occupants occupants;
    unsigned busy; /* ready, in a thread or in the ring */
    unsigned in_ring;
    unsigned plugs, draining;
    unsigned waiting_threads;
    bool posted, quit;
    bool stop_due, stopped; /* the machine has to learn that something is held; it was told */
    enum block_kind stop_kind;
    int stop_error;
    pthread_t threads[THREADS_MAX];
    unsigned thread_count, thread_limit;
    struct limiter limiter;
    struct block_counters counters;
    struct block_bitmaps bitmaps; /* with a lock of its own */

    struct block_ring *ring; /* NULL: none */
    struct loop_watch *ring_watch;
    struct vtimer *timer; /* of `throttled`; deterministic mode: of `finished` */
};

static uint64_t request_length(const struct block_request *request)
{
    uint64_t bytes = request->length;
    if (request->kind == BLOCK_READ || request->kind == BLOCK_WRITE) {
        bytes = 0;
        for (unsigned i = 0; i < request->iov_count; i++)
            bytes += request->iov[i].iov_len;
    }
    return request->kind == BLOCK_FLUSH ? 0 : bytes;
}

static bool request_is_valid(const struct block *block, const struct block_request *request)
{
    return request->kind == BLOCK_FLUSH ||
           (range_within(request->offset, request->length, block->image->size) &&
            (request->kind == BLOCK_READ || !block->image->read_only));
}

/* --- carrying out, with blocking calls and without the lock --- */

static int carry_out(struct block *block, const struct block_request *request)
{
    struct block_image *image = block->image;
    const struct block_format *format = image->format;
    struct block_span span = {request->iov, request->iov_count, 0, request->length};
    switch (request->kind) {
    case BLOCK_READ:
        return format->read(image, request->offset, span);
    case BLOCK_WRITE:
        return format->write(image, request->offset, span);
    case BLOCK_FLUSH:
        return image->read_only ? 0 : format->flush(image);
    case BLOCK_DISCARD:
        return block->options.ignore_discards
                   ? 0
                   : format->discard(image, request->offset, request->length);
    case BLOCK_WRITE_ZEROES:
        return format->zero(image, request->offset, request->length,
                            request->unmap && !block->options.ignore_discards ? BLOCK_ZERO_UNMAP
                                                                              : 0);
    }
    return EINVAL;
}

/* --- starting; all with the lock --- */

static void *io_thread(void *opaque);

static bool add_thread(struct block *block, int *number)
{
    *number = pthread_create(&block->threads[block->thread_count], NULL, io_thread, block);
    if (*number == 0)
        block->thread_count++;
    return *number == 0;
}

static void to_threads(struct block *block, struct block_request *request)
{
    int number;
    fifo_add(&block->ready, request);
    if (block->waiting_threads == 0 && block->thread_count < block->thread_limit)
        (void)add_thread(block, &number); /* those that are there do it, later */
    pthread_cond_signal(&block->work);
}

static bool is_aligned(const struct block *block, const struct block_request *request)
{
    uint32_t align = block->image->file->align;
    struct block_span span = {request->iov, request->iov_count, 0, request->length};
    return align <= 1 || (((request->offset | request->length) & (align - 1)) == 0 &&
                          block_span_aligned(span, align));
}

/* Where it lies, if that is known at once; that settles a write's exclusiveness. */
static bool find_place(struct block *block, const struct block_request *request, uint64_t *host)
{
    bool write = request->kind == BLOCK_WRITE;
    return (write || request->kind == BLOCK_READ) && request->length > 0 &&
           is_aligned(block, request) &&
           block->image->format->direct(block->image, write, request->offset, request->length,
                                        host);
}

/* A write into the host's cache is copying, which file systems such as ext4 do not do without
 * being able to wait: io_uring then hands it to a thread of its own, at two switches between
 * threads per request. Ours take several in a row: 128 MiB in pieces of 4 KiB, 32 at a time, took
 * 0.31 s of CPU time in the ring and 0.17 s in threads; 512 MiB in pieces of 128 KiB 0.13 s and
 * 0.09 s. */
static bool suits_ring(const struct block *block, const struct block_request *request)
{
    return request->kind != BLOCK_WRITE || block->image->file->cache == BLOCK_CACHE_NONE;
}

static bool to_ring(struct block *block, struct block_request *request, uint64_t host)
{
    if (block->ring == NULL || !suits_ring(block, request) || block->image->file->fd < 0 ||
        !block_ring_add(block->ring, request, host))
        return false;
    block->in_ring++;
    if (block->plugs == 0)
        block_ring_submit(block->ring);
    if (block->draining > 0)
        pthread_cond_broadcast(&block->idle); /* who waits for the threads has to reap this */
    return true;
}

/* An occupant that nobody is in the way of yet, or a request that occupies nothing. */
static void start(struct block *block, struct block_request *request)
{
    uint64_t host = 0;
    bool placed = find_place(block, request, &host);
    if (request->tracked && request->kind != BLOCK_READ) {
        request->exclusive = !placed;
        if (occupants_block(&block->occupants, request))
            return;
    }
    block->busy++;
    if (placed && to_ring(block, request, host))
        return;
    to_threads(block, request);
}

static void admit(struct block *block, struct block_request *request)
{
    request->tracked = request->blocked = request->exclusive = false;
    if (block->granule > 1 && request->kind != BLOCK_FLUSH) {
        occupants_add(&block->occupants, request, block->granule);
        if (occupants_block(&block->occupants, request))
            return;
    }
    start(block, request);
}

static void unblock(struct block *block)
{
    struct block_request *next;
    for (struct block_request *r = block->occupants.first;
         r != NULL && block->occupants.blocked > 0; r = next) {
        next = r->later;
        if (occupants_unblock(&block->occupants, r))
            start(block, r);
    }
}

/* --- completion --- */

static bool stops_machine(const struct block *block, const struct block_request *request)
{
    enum block_error_policy policy =
        request->kind == BLOCK_READ ? block->options.rerror : block->options.werror;
    return block->env.stopped != NULL && request->result != 0 && !request->background &&
           (policy == BLOCK_ERROR_STOP ||
            (policy == BLOCK_ERROR_ENOSPC && request->result == ENOSPC));
}

/* True: it is held, and not done. */
static bool hold(struct block *block, struct block_request *request)
{
    if (!stops_machine(block, request))
        return false;
    if (!block->stopped && !block->stop_due) {
        block->stop_due = true;
        block->stop_kind = request->kind;
        block->stop_error = request->result;
    }
    fifo_add(&block->held, request);
    return true;
}

static void note_change(struct block *block, const struct block_request *request)
{
    if (request->kind != BLOCK_READ && request->kind != BLOCK_FLUSH)
        block_bitmaps_mark(&block->bitmaps, request->offset, request->length);
}

/* Lock held. */
static void complete(struct block *block, struct block_request *request, int result)
{
    request->result = result;
    block->busy--;
    note_change(block, request);
    if (request->tracked) {
        occupants_remove(&block->occupants, request);
        unblock(block);
    }
    if (!hold(block, request))
        fifo_add(&block->finished, request);
    if (block->busy == 0 && block->occupants.blocked == 0)
        pthread_cond_broadcast(&block->idle);
}

/* Lock held. Anything but full success is left to a thread's blocking calls to finish or to
 * find the reason of. */
static void take_from_ring(struct block *block)
{
    struct block_request *request;
    int64_t result;
    while (block->ring != NULL && (request = block_ring_reap(block->ring, &result)) != NULL) {
        block->in_ring--;
        if (result >= 0 && (uint64_t)result == request->length)
            complete(block, request, 0);
        else
            to_threads(block, request); /* its place is known: still not exclusive */
    }
}

static void tell_stopped(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    bool tell = block->stop_due;
    enum block_kind kind = block->stop_kind;
    int error = block->stop_error;
    block->stop_due = false;
    block->stopped = block->stopped || tell;
    pthread_mutex_unlock(&block->lock);
    if (tell)
        block->env.stopped(block->env.opaque, block, kind, error);
}

/* Calls done() for what finished until then. */
static void reap(void *opaque)
{
    struct block *block = opaque;
    pthread_mutex_lock(&block->lock);
    block->posted = false;
    struct block_request *request = block->finished.first;
    fifo_init(&block->finished);
    pthread_mutex_unlock(&block->lock);
    while (request != NULL) {
        struct block_request *next = request->next; /* done() may free or reuse it */
        request->done(request, request->result);
        request = next;
    }
    tell_stopped(block);
}

static void ring_readable(void *opaque, int fd, unsigned events)
{
    struct block *block = opaque;
    (void)fd, (void)events;
    pthread_mutex_lock(&block->lock);
    take_from_ring(block);
    pthread_mutex_unlock(&block->lock);
    reap(block);
}

void block_poll(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    if (block->ring != NULL)
        take_from_ring(block);
    pthread_mutex_unlock(&block->lock);
    reap(block);
}

static void post_reap(struct block *block)
{
    if (block->posted || (block->finished.first == NULL && !block->stop_due))
        return;
    block->posted = true;
    loop_post(block->env.loop, reap, block);
}

static void *io_thread(void *opaque)
{
    struct block *block = opaque;
    pthread_mutex_lock(&block->lock);
    for (;;) {
        struct block_request *request = fifo_take(&block->ready);
        if (request == NULL) {
            if (block->quit)
                break;
            block->waiting_threads++;
            pthread_cond_wait(&block->work, &block->lock);
            block->waiting_threads--;
            continue;
        }
        pthread_mutex_unlock(&block->lock);
        int result = carry_out(block, request);
        pthread_mutex_lock(&block->lock);
        complete(block, request, result);
        post_reap(block);
    }
    pthread_mutex_unlock(&block->lock);
    return NULL;
}

/* --- deterministic mode --- */

/* Completes what is due, or everything. */
static void reap_until(struct block *block, int64_t now)
{
    struct block_request *request;
    while ((request = block->finished.first) != NULL && request->deadline <= now) {
        fifo_take(&block->finished);
        if (hold(block, request))
            tell_stopped(block);
        else
            request->done(request, request->result);
    }
    if (block->finished.first != NULL)
        vtimer_arm(block->timer, block->finished.first->deadline);
}

static void submit_deterministic(struct block *block, struct block_request *request)
{
    int64_t now = vclock_now(block->env.clock), begin = now;
    if (limiter_active(&block->limiter) && !request->background)
        begin = limiter_admit(&block->limiter, request->length, now);
    request->result = carry_out(block, request);
    note_change(block, request);
    request->deadline = (begin > now ? begin : now) + VIRTUAL_LATENCY_NS;
    bool first = block->finished.first == NULL;
    fifo_add(&block->finished, request);
    if (first)
        vtimer_arm(block->timer, request->deadline);
}

/* --- limits --- */

/* Lock held. */
static void admit_throttled(struct block *block, int64_t now)
{
    while (block->throttled.first != NULL && block->throttled.first->deadline <= now)
        admit(block, fifo_take(&block->throttled));
    if (block->throttled.first != NULL)
        vtimer_arm(block->timer, block->throttled.first->deadline);
}

/* Lock held: whatever waits for a limit starts now. */
static void release_throttled(struct block *block)
{
    if (block->throttled.first == NULL)
        return;
    vtimer_disarm(block->timer);
    admit_throttled(block, INT64_MAX);
}

static void timer_fired(void *opaque)
{
    struct block *block = opaque;
    int64_t now = vclock_now(block->env.clock);
    if (block->env.deterministic) {
        reap_until(block, now);
        return;
    }
    pthread_mutex_lock(&block->lock);
    admit_throttled(block, now);
    pthread_mutex_unlock(&block->lock);
}

/* Lock held. True: it has to wait. */
static bool throttle(struct block *block, struct block_request *request)
{
    if (!limiter_active(&block->limiter) || block->draining > 0 || request->background)
        return false;
    int64_t now = vclock_now(block->env.clock);
    request->deadline = limiter_admit(&block->limiter, request->length, now);
    if (request->deadline <= now && block->throttled.first == NULL)
        return false;
    bool first = block->throttled.first == NULL;
    fifo_add(&block->throttled, request);
    if (first)
        vtimer_arm(block->timer, request->deadline);
    return true;
}

void block_set_limits(struct block *block, const struct block_limits *limits)
{
    if (block->env.clock == NULL)
        return;
    pthread_mutex_lock(&block->lock);
    limiter_set(&block->limiter, limits, vclock_now(block->env.clock));
    if (!block->env.deterministic) {
        /* What waits by the old limits does not wait on: at most a queue's worth. */
        release_throttled(block);
    }
    pthread_mutex_unlock(&block->lock);
}

/* --- requests --- */

/* Lock held. */
static void count(struct block *block, const struct block_request *request)
{
    struct block_counters *counters = &block->counters;
    if (request->background)
        return;
    if (request->kind == BLOCK_READ) {
        counters->reads++;
        counters->read_bytes += request->length;
    } else if (request->kind == BLOCK_WRITE || request->kind == BLOCK_WRITE_ZEROES) {
        counters->writes++;
        counters->written_bytes += request->length;
    }
}

void block_get_counters(struct block *block, struct block_counters *counters)
{
    pthread_mutex_lock(&block->lock);
    *counters = block->counters;
    pthread_mutex_unlock(&block->lock);
}

void block_submit(struct block *block, struct block_request *request)
{
    request->length = request_length(request);
    assert(request_is_valid(block, request));
    if (block->env.deterministic) {
        pthread_mutex_lock(&block->lock);
        count(block, request);
        pthread_mutex_unlock(&block->lock);
        submit_deterministic(block, request);
        return;
    }
    pthread_mutex_lock(&block->lock);
    assert(block->thread_count > 0);
    count(block, request);
    if (!throttle(block, request))
        admit(block, request);
    pthread_mutex_unlock(&block->lock);
}

void block_plug(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    block->plugs++;
    pthread_mutex_unlock(&block->lock);
}

void block_unplug(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    if (--block->plugs == 0 && block->ring != NULL)
        block_ring_submit(block->ring);
    pthread_mutex_unlock(&block->lock);
}

/* Lock held; releases it meanwhile. The loop may reap the ring at the same time: hence the
 * bound on the wait. */
static void wait_for_ring(struct block *block)
{
    struct pollfd ready = {.fd = block_ring_fd(block->ring), .events = POLLIN};
    pthread_mutex_unlock(&block->lock);
    (void)poll(&ready, 1, 10);
    pthread_mutex_lock(&block->lock);
    take_from_ring(block);
}

void block_wait_idle(struct block *block)
{
    if (block->env.deterministic)
        return;
    pthread_mutex_lock(&block->lock);
    block->draining++;
    release_throttled(block);
    while (block->busy > 0 || block->occupants.blocked > 0) {
        if (block->in_ring > 0) {
            block_ring_submit(block->ring); /* somebody may have it plugged */
            wait_for_ring(block);
        } else {
            pthread_cond_wait(&block->idle, &block->lock);
        }
    }
    block->draining--;
    post_reap(block);
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
        bool empty = block->busy == 0 && block->occupants.blocked == 0 &&
                     block->throttled.first == NULL && block->finished.first == NULL;
        pthread_mutex_unlock(&block->lock);
        if (empty)
            return;
    }
}

/* --- what is held --- */

static struct block_request *take_all(struct block *block, struct block_fifo *fifo)
{
    pthread_mutex_lock(&block->lock);
    struct block_request *first = fifo->first;
    fifo_init(fifo);
    pthread_mutex_unlock(&block->lock);
    return first;
}

void block_retry(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    block->stopped = block->stop_due = false;
    pthread_mutex_unlock(&block->lock);
    struct block_request *request = take_all(block, &block->held), *next;
    for (; request != NULL; request = next) {
        next = request->next;
        block_submit(block, request);
    }
}

void block_cancel(struct block *block)
{
    struct block_fifo *const lists[] = {&block->held, &block->throttled};
    pthread_mutex_lock(&block->lock);
    block->stopped = block->stop_due = false;
    pthread_mutex_unlock(&block->lock);
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        struct block_request *request = take_all(block, lists[i]), *next;
        for (; request != NULL; request = next) {
            next = request->next;
            request->done(request, ECANCELED);
        }
    }
}

bool block_is_stopped(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    bool stopped = block->held.first != NULL;
    pthread_mutex_unlock(&block->lock);
    return stopped;
}

/* --- threads and the ring --- */

static void drop_ring(struct block *block)
{
    loop_watch_remove(block->ring_watch);
    block_ring_free(block->ring);
    block->ring_watch = NULL;
    block->ring = NULL;
}

void block_threads_stop(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    block->quit = true;
    pthread_cond_broadcast(&block->work);
    pthread_mutex_unlock(&block->lock);
    while (block->thread_count > 0)
        pthread_join(block->threads[--block->thread_count], NULL);
    block->quit = false;
    drop_ring(block);
    for (struct block_image *i = block->image; i != NULL; i = i->backing)
        if (i->file->ops->threads_stop != NULL)
            i->file->ops->threads_stop(i->file);
}

static bool start_ring(struct block *block, struct error **err)
{
    if (block->options.threads_only || block->image->file->fd < 0)
        return true;
    block->ring = block_ring_new(block->env.rings);
    if (block->ring == NULL)
        return true;
    if (!block_ring_use(block->ring, block->image->file->fd)) {
        drop_ring(block);
        return true;
    }
    block->ring_watch = loop_watch_add(block->env.loop, block_ring_fd(block->ring), LOOP_READABLE,
                                       ring_readable, block, err);
    return block->ring_watch != NULL;
}

bool block_threads_start(struct block *block, struct error **err)
{
    for (struct block_image *i = block->image; i != NULL; i = i->backing)
        if (i->file->ops->threads_start != NULL && !i->file->ops->threads_start(i->file, err))
            return false;
    if (block->env.deterministic)
        return true;
    block->thread_limit = block->image->file->parallel;
    if (block->thread_limit > THREADS_MAX)
        block->thread_limit = THREADS_MAX;
    int number = 0;
    if (block->thread_count == 0 && !add_thread(block, &number)) /* more come when needed */
        return error_set_errno(err, number, "cannot start a thread for disk I/O");
    if (block->ring == NULL && !start_ring(block, err)) {
        block_threads_stop(block);
        return false;
    }
    return true;
}

bool block_uses_ring(const struct block *block)
{
    return block->ring != NULL;
}

/* --- life --- */

static void find_granule(struct block *block)
{
    uint32_t align = block->image->file->align;
    block->granule = block->image->granule > align ? block->image->granule : align;
}

struct block *block_new(struct block_image *image, const struct block_options *options,
                        const struct block_env *env, struct error **err)
{
    struct block *block = alloc_zeroed(1, sizeof(*block));
    block->image = image;
    block->options = *options;
    block->env = *env;
    find_granule(block);
    pthread_mutex_init(&block->lock, NULL);
    pthread_cond_init(&block->work, NULL);
    pthread_cond_init(&block->idle, NULL);
    fifo_init(&block->throttled);
    fifo_init(&block->ready);
    fifo_init(&block->finished);
    fifo_init(&block->held);
    block_bitmaps_init(&block->bitmaps);
    if (env->clock != NULL)
        block->timer = vtimer_new(env->clock, timer_fired, block);
    block_set_limits(block, &options->limits);
    if (!block_threads_start(block, err)) {
        block->image = NULL; /* the caller's again */
        block_free(block);
        return NULL;
    }
    return block;
}

struct block *block_new_raw(int fd, bool read_only, const struct block_env *env, struct error **err)
{
    static const struct block_options options;
    static const struct block_image_options raw = {.format = "raw"};
    struct block_file *file = block_file_new(fd, read_only, BLOCK_CACHE_WRITEBACK, err);
    if (file == NULL)
        return NULL;
    struct block_image *image =
        block_file_lock(file, err) ? block_image_open(file, "disk", &raw, err) : NULL;
    struct block *block = image != NULL ? block_new(image, &options, env, err) : NULL;
    file->borrowed = block == NULL;
    if (image == NULL)
        block_file_close(file);
    else if (block == NULL)
        block_image_close(image);
    return block;
}

void block_free(struct block *block)
{
    if (block == NULL)
        return;
    block_cancel(block);
    if (block->image != NULL)
        block_drain(block);
    block_cancel(block); /* what the drain had to hold */
    if (block->image != NULL)
        block_threads_stop(block);
    if (!block->env.deterministic)
        loop_cancel(block->env.loop, reap, block);
    vtimer_free(block->timer);
    block_bitmaps_destroy(&block->bitmaps);
    block_image_close(block->image);
    pthread_cond_destroy(&block->work);
    pthread_cond_destroy(&block->idle);
    pthread_mutex_destroy(&block->lock);
    free(block);
}

struct block_image *block_swap(struct block *block, struct block_image *image)
{
    assert(image->read_only == block->image->read_only);
    assert(image->size == block->image->size || block->bitmaps.first == NULL);
    block_drain(block);
    pthread_mutex_lock(&block->lock);
    struct block_image *before = block->image;
    block->image = image;
    find_granule(block);
    if (block->ring != NULL && !block_ring_use(block->ring, image->file->fd))
        drop_ring(block);
    pthread_mutex_unlock(&block->lock);
    return before;
}

struct block_image *block_image(struct block *block)
{
    return block->image;
}

uint64_t block_size(const struct block *block)
{
    return block->image->size;
}

bool block_read_only(const struct block *block)
{
    return block->image->read_only;
}

bool block_can_discard(const struct block *block)
{
    return !block->options.ignore_discards && !block->image->read_only;
}

uint32_t block_cluster_size(const struct block *block)
{
    return block->granule > BLOCK_SECTOR ? block->granule : BLOCK_SECTOR;
}

struct block_bitmaps *block_bitmaps(struct block *block)
{
    return &block->bitmaps;
}
