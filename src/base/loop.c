/* SPDX-License-Identifier: MIT
 *
 * epoll with three sources: watched descriptors, an eventfd that says "look at the posts",
 * and a timerfd for the attached clock. The timerfd is set by whichever thread makes a
 * deadline earlier, so that a vCPU that arms its timer costs one system call and does not
 * wake the loop's thread. When a deadline moves back the timerfd fires in vain once.
 *
 * A watch removed inside a callback is only marked: events of the same epoll_wait() may
 * still point to it. Marked ones are freed between two turns.
 */
#include "base/loop.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/vclock.h"

#define EVENTS_PER_TURN 32

struct loop_watch {
    struct loop *loop;
    int fd;
    unsigned events;
    loop_fd_fn *fn; /* NULL: removed */
    void *opaque;
    bool always_ready; /* epoll refuses regular files: they never block */
    bool in_epoll;
    struct loop_watch *next;
};

struct post {
    loop_post_fn *fn;
    void *opaque;
    struct post *next;
};

struct loop {
    int epoll_fd, event_fd, timer_fd;
    struct loop_watch *watches;
    bool any_removed;

    pthread_mutex_t lock; /* posts, quit; a leaf */
    struct post *first_post;
    struct post **last_post_link;
    struct post *batch; /* taken off the list and not yet run; own thread */
    bool quit;
    int quit_value;

    struct vclock *clock;
    pthread_mutex_t timer_lock; /* the last to set the timerfd saw the latest deadline */
    bool running;
    pthread_t thread;
};

/* Our own descriptors stand in epoll events by these addresses, watches by theirs. */
#define TAG_EVENT(loop) ((void *)&(loop)->event_fd)
#define TAG_TIMER(loop) ((void *)&(loop)->timer_fd)

static void assert_own_thread(const struct loop *loop)
{
    assert(!loop->running || pthread_equal(loop->thread, pthread_self()));
    (void)loop;
}

static bool open_sources(struct loop *loop, struct error **err)
{
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = TAG_EVENT(loop)};
    struct epoll_event timer = {.events = EPOLLIN, .data.ptr = TAG_TIMER(loop)};
    if (loop->epoll_fd >= 0 && loop->event_fd >= 0 && loop->timer_fd >= 0 &&
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->event_fd, &event) == 0 &&
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->timer_fd, &timer) == 0)
        return true;
    error_set_errno(err, errno, "cannot make an event loop");
    error_hint(err, "Raise the limit of open files (ulimit -n)");
    return false;
}

struct loop *loop_new(struct error **err)
{
    struct loop *loop = alloc_zeroed(1, sizeof(*loop));
    pthread_mutex_init(&loop->lock, NULL);
    pthread_mutex_init(&loop->timer_lock, NULL);
    loop->last_post_link = &loop->first_post;
    if (!open_sources(loop, err)) {
        loop_free(loop);
        return NULL;
    }
    return loop;
}

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    assert(!loop->running);
    if (loop->clock)
        vclock_on_rearm(loop->clock, NULL, NULL);
    while (loop->watches) {
        struct loop_watch *watch = loop->watches;
        loop->watches = watch->next;
        free(watch);
    }
    while (loop->first_post) {
        struct post *post = loop->first_post;
        loop->first_post = post->next;
        free(post);
    }
    close_if_open(loop->epoll_fd);
    close_if_open(loop->event_fd);
    close_if_open(loop->timer_fd);
    pthread_mutex_destroy(&loop->timer_lock);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

/* ---- watches ---- */

static uint32_t to_epoll(unsigned events)
{
    return (events & LOOP_READABLE ? (uint32_t)EPOLLIN : 0) |
           (events & LOOP_WRITABLE ? (uint32_t)EPOLLOUT : 0);
}

static unsigned from_epoll(uint32_t events)
{
    return (events & EPOLLIN ? (unsigned)LOOP_READABLE : 0) |
           (events & EPOLLOUT ? (unsigned)LOOP_WRITABLE : 0) |
           (events & (EPOLLHUP | EPOLLERR) ? (unsigned)LOOP_HANGUP : 0);
}

/* A silenced watch leaves epoll, which otherwise reports hang-ups whatever was asked for. */
static int apply_events(struct loop_watch *watch)
{
    struct loop *loop = watch->loop;
    if (watch->always_ready)
        return 0;
    struct epoll_event event = {.events = to_epoll(watch->events), .data.ptr = watch};
    int operation = EPOLL_CTL_MOD;
    if (!watch->in_epoll)
        operation = EPOLL_CTL_ADD;
    else if (watch->events == 0)
        operation = EPOLL_CTL_DEL;
    if (operation == EPOLL_CTL_ADD && watch->events == 0)
        return 0;
    if (epoll_ctl(loop->epoll_fd, operation, watch->fd, &event) != 0)
        return errno;
    watch->in_epoll = operation != EPOLL_CTL_DEL;
    return 0;
}

struct loop_watch *loop_watch_add(struct loop *loop, int fd, unsigned events, loop_fd_fn *fn,
                                  void *opaque, struct error **err)
{
    assert_own_thread(loop);
    assert(fn);
    struct loop_watch *watch = alloc_zeroed(1, sizeof(*watch));
    *watch = (struct loop_watch){
        .loop = loop, .fd = fd, .events = LOOP_READABLE, .fn = fn, .opaque = opaque};
    /* Asked with an event even if silent: this is where epoll tells what kind of file it is. */
    int number = apply_events(watch);
    if (number == EPERM) {
        watch->always_ready = true;
        number = 0;
    }
    if (number != 0) {
        free(watch);
        error_set_errno(err, number, "cannot watch file descriptor %d", fd);
        return NULL;
    }
    watch->next = loop->watches;
    loop->watches = watch;
    loop_watch_set(watch, events);
    return watch;
}

void loop_watch_set(struct loop_watch *watch, unsigned events)
{
    assert_own_thread(watch->loop);
    assert(watch->fn && "the watch was removed");
    if (events == watch->events)
        return;
    watch->events = events;
    int number = apply_events(watch);
    assert(number == 0 && "a watched descriptor was closed before its watch was removed");
    (void)number;
}

void loop_watch_remove(struct loop_watch *watch)
{
    if (!watch)
        return;
    loop_watch_set(watch, 0);
    watch->fn = NULL;
    watch->loop->any_removed = true;
}

static void free_removed(struct loop *loop)
{
    if (!loop->any_removed)
        return;
    loop->any_removed = false;
    struct loop_watch **link = &loop->watches;
    while (*link) {
        struct loop_watch *watch = *link;
        if (watch->fn) {
            link = &watch->next;
        } else {
            *link = watch->next;
            free(watch);
        }
    }
}

/* ---- posts ---- */

static void wake(struct loop *loop)
{
    uint64_t one = 1;
    ssize_t done;
    do
        done = write(loop->event_fd, &one, sizeof(one));
    while (done < 0 && errno == EINTR);
    /* EAGAIN: the counter is full, so the loop will wake anyway. */
    assert(done == sizeof(one) || errno == EAGAIN);
}

void loop_post(struct loop *loop, loop_post_fn *fn, void *opaque)
{
    struct post *post = alloc_zeroed(1, sizeof(*post));
    post->fn = fn;
    post->opaque = opaque;
    pthread_mutex_lock(&loop->lock);
    *loop->last_post_link = post;
    loop->last_post_link = &post->next;
    pthread_mutex_unlock(&loop->lock);
    wake(loop);
}

void loop_quit(struct loop *loop, int value)
{
    pthread_mutex_lock(&loop->lock);
    loop->quit = true;
    loop->quit_value = value;
    pthread_mutex_unlock(&loop->lock);
    wake(loop);
}

static void drain(int fd)
{
    uint64_t count;
    /* Non-blocking; EAGAIN says that somebody was faster, which is fine. */
    ssize_t done = read(fd, &count, sizeof(count));
    (void)done;
}

/* Runs what has been posted so far; what these post waits a turn, so that files and timers
 * get theirs. */
static void run_posts(struct loop *loop)
{
    drain(loop->event_fd);
    pthread_mutex_lock(&loop->lock);
    loop->batch = loop->first_post;
    loop->first_post = NULL;
    loop->last_post_link = &loop->first_post;
    pthread_mutex_unlock(&loop->lock);
    while (loop->batch) {
        struct post *post = loop->batch;
        loop->batch = post->next;
        post->fn(post->opaque);
        free(post);
    }
}

/* Returns the link that ends what is left of the list. */
static struct post **remove_posts(struct post **link, loop_post_fn *fn, const void *opaque)
{
    while (*link) {
        struct post *post = *link;
        if (post->fn == fn && post->opaque == opaque) {
            *link = post->next;
            free(post);
        } else {
            link = &post->next;
        }
    }
    return link;
}

void loop_cancel(struct loop *loop, loop_post_fn *fn, void *opaque)
{
    assert_own_thread(loop);
    remove_posts(&loop->batch, fn, opaque);
    pthread_mutex_lock(&loop->lock);
    loop->last_post_link = remove_posts(&loop->first_post, fn, opaque);
    pthread_mutex_unlock(&loop->lock);
}

static bool take_quit(struct loop *loop, int *value)
{
    pthread_mutex_lock(&loop->lock);
    bool quit = loop->quit;
    *value = loop->quit_value;
    loop->quit = false;
    pthread_mutex_unlock(&loop->lock);
    return quit;
}

/* ---- the clock ---- */

/* Any thread. */
static void set_timer(void *opaque)
{
    struct loop *loop = opaque;
    pthread_mutex_lock(&loop->timer_lock);
    int64_t deadline = vclock_next_deadline(loop->clock);
    int64_t delay = vclock_host_delay(loop->clock, deadline);
    struct itimerspec when = {0}; /* zero disarms, so "now" is one nanosecond */
    if (delay != INT64_MAX) {
        when.it_value.tv_sec = (time_t)(delay / NS_PER_S);
        when.it_value.tv_nsec = (long)(delay % NS_PER_S) + (delay == 0);
    }
    int result = timerfd_settime(loop->timer_fd, 0, &when, NULL);
    assert(result == 0);
    (void)result;
    pthread_mutex_unlock(&loop->timer_lock);
}

void loop_attach_clock(struct loop *loop, struct vclock *clock)
{
    assert_own_thread(loop);
    assert(!loop->clock && vclock_mode(clock) == VCLOCK_REAL);
    loop->clock = clock;
    vclock_on_rearm(clock, set_timer, loop);
    set_timer(loop);
}

void loop_detach_clock(struct loop *loop)
{
    assert_own_thread(loop);
    if (!loop->clock)
        return;
    vclock_on_rearm(loop->clock, NULL, NULL);
    loop->clock = NULL;
}

static void run_timers(struct loop *loop)
{
    drain(loop->timer_fd);
    if (!loop->clock)
        return;
    vclock_run_timers(loop->clock);
    set_timer(loop);
}

/* ---- turns ---- */

static void dispatch(struct loop_watch *watch, unsigned ready)
{
    if (watch->fn && watch->events != 0 && ready != 0)
        watch->fn(watch->opaque, watch->fd, ready);
}

static bool has_always_ready(const struct loop *loop)
{
    for (const struct loop_watch *watch = loop->watches; watch; watch = watch->next)
        if (watch->always_ready && watch->events != 0)
            return true;
    return false;
}

static void turn(struct loop *loop)
{
    struct epoll_event events[EVENTS_PER_TURN];
    bool polled = has_always_ready(loop);
    int count = epoll_wait(loop->epoll_fd, events, EVENTS_PER_TURN, polled ? 0 : -1);
    assert(count >= 0 || errno == EINTR);
    for (int i = 0; i < count; i++) {
        void *source = events[i].data.ptr;
        if (source == TAG_EVENT(loop))
            run_posts(loop);
        else if (source == TAG_TIMER(loop))
            run_timers(loop);
        else
            dispatch(source, from_epoll(events[i].events));
    }
    /* New watches go in front, removed ones stay linked: the walk is safe. */
    for (struct loop_watch *watch = polled ? loop->watches : NULL; watch; watch = watch->next)
        if (watch->always_ready)
            dispatch(watch, watch->events);
    free_removed(loop);
}

int loop_run(struct loop *loop)
{
    assert(!loop->running);
    loop->running = true;
    loop->thread = pthread_self();
    int value;
    while (!take_quit(loop, &value))
        turn(loop);
    loop->running = false;
    return value;
}
