/* SPDX-License-Identifier: MIT
 *
 * See console.h. write() only appends under the lock and, if nothing was queued, tries the
 * descriptor at once, so a line of a running guest costs no thread switch; what remains
 * goes out when the loop says the descriptor is writable.
 */
#include "worker/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "worker/panic.h"

enum { QUEUE_LIMIT = 1 << 20, INPUT_SIZE = 4096 };

struct console {
    struct char_backend backend; /* first */
    struct loop *loop;
    enum console_kind kind;
    void (*on_panic)(void *opaque, const char *line);
    void *opaque;
    int listen_fd;
    struct loop_watch *listen_watch;
    struct loop_watch *watch;

    /* loop thread only */
    uint8_t input[INPUT_SIZE]; /* read but not yet taken by the device */
    size_t input_size;
    bool input_ended;
    int transcript; /* -1: none */
    off_t transcript_size;
    uint64_t transcribed; /* of ring_written */

    pthread_mutex_t lock;
    int fd; /* -1: nobody there */
    struct panic_watcher panic;
    uint8_t *queue;
    size_t queue_start, queue_size; /* circular, QUEUE_LIMIT bytes */
    bool flush_posted, transcript_posted;
    uint8_t *ring;
    uint64_t ring_written; /* bytes ever */
    uint64_t lost;
};

/* ---- output; under the lock ---- */

static void queue_add(struct console *console, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (console->queue_size == QUEUE_LIMIT) {
            console->queue_start = (console->queue_start + 1) % QUEUE_LIMIT;
            console->queue_size--;
            console->lost++;
        }
        console->queue[(console->queue_start + console->queue_size++) % QUEUE_LIMIT] = data[i];
    }
}

static void queue_flush(struct console *console)
{
    while (console->queue_size > 0 && console->fd >= 0) {
        size_t contiguous = QUEUE_LIMIT - console->queue_start;
        if (contiguous > console->queue_size)
            contiguous = console->queue_size;
        const uint8_t *data = console->queue + console->queue_start;
        ssize_t count = console->kind == CONSOLE_FILE
                            ? write(console->fd, data, contiguous)
                            : send(console->fd, data, contiguous, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno == EAGAIN)
            return;
        if (count < 0) { /* gone or full: the ring keeps it */
            count = (ssize_t)contiguous;
            console->lost += console->kind == CONSOLE_FILE ? contiguous : 0;
        }
        console->queue_start = (console->queue_start + (size_t)count) % QUEUE_LIMIT;
        console->queue_size -= (size_t)count;
    }
}

static void ring_add(struct console *console, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        console->ring[console->ring_written++ % CONSOLE_RING_SIZE] = data[i];
}

/* ---- loop thread ---- */

static void update_watch(struct console *console)
{
    pthread_mutex_lock(&console->lock);
    unsigned events = console->queue_size > 0 ? LOOP_WRITABLE : 0;
    pthread_mutex_unlock(&console->lock);
    if (console->input_size == 0 && !console->input_ended)
        events |= LOOP_READABLE;
    /* Who hangs up is noticed whatever else there is to wait for. */
    if (console->watch != NULL)
        loop_watch_set(console->watch, events | LOOP_HANGUP);
}

static void posted_flush(void *opaque)
{
    struct console *console = opaque;
    pthread_mutex_lock(&console->lock);
    console->flush_posted = false;
    queue_flush(console);
    pthread_mutex_unlock(&console->lock);
    update_watch(console);
}

/* The last `size` bytes of the ring up to `end`. */
static void ring_copy(const struct console *console, uint64_t end, uint8_t *out, size_t size)
{
    for (size_t i = 0; i < size; i++)
        out[i] = console->ring[(end - size + i) % CONSOLE_RING_SIZE];
}

static void transcribe(struct console *console)
{
    pthread_mutex_lock(&console->lock);
    console->transcript_posted = false;
    uint64_t end = console->ring_written, fresh = end - console->transcribed;
    bool anew = fresh > CONSOLE_RING_SIZE ||
                (uint64_t)console->transcript_size + fresh > 2 * CONSOLE_RING_SIZE;
    size_t size = !anew ? (size_t)fresh : end < CONSOLE_RING_SIZE ? (size_t)end : CONSOLE_RING_SIZE;
    uint8_t *bytes = alloc_zeroed(1, size);
    ring_copy(console, end, bytes, size);
    pthread_mutex_unlock(&console->lock);
    if (anew && ftruncate(console->transcript, 0) == 0)
        console->transcript_size = 0;
    ssize_t count = pwrite(console->transcript, bytes, size, console->transcript_size);
    console->transcript_size += count > 0 ? count : 0;
    console->transcribed = end;
    free(bytes);
}

static void posted_transcript(void *opaque)
{
    transcribe(opaque);
}

static void posted_panic(void *opaque)
{
    struct console *console = opaque;
    console->on_panic(console->opaque, console->panic.found);
}

static void console_write(struct char_backend *backend, const uint8_t *data, size_t size)
{
    struct console *console = (struct console *)backend;
    pthread_mutex_lock(&console->lock);
    ring_add(console, data, size);
    bool panicked = panic_watch(&console->panic, data, size);
    if (console->fd >= 0) {
        queue_add(console, data, size);
        queue_flush(console);
    } else if (console->kind == CONSOLE_FILE) {
        console->lost += size; /* a FIFO whose reader has left */
    }
    bool post = console->queue_size > 0 && !console->flush_posted;
    console->flush_posted = console->flush_posted || post;
    bool write_down = console->transcript >= 0 && !console->transcript_posted;
    console->transcript_posted = console->transcript_posted || write_down;
    pthread_mutex_unlock(&console->lock);
    if (write_down)
        loop_post(console->loop, posted_transcript, console);
    if (post)
        loop_post(console->loop, posted_flush, console);
    if (panicked)
        loop_post(console->loop, posted_panic, console);
}

static void offer_input(struct console *console)
{
    struct char_backend *backend = &console->backend;
    if (backend->on_input == NULL || console->input_size == 0)
        return;
    size_t taken = backend->on_input(backend->device, console->input, console->input_size);
    console->input_size -= taken;
    memmove(console->input, console->input + taken, console->input_size);
}

static void posted_input(void *opaque)
{
    offer_input(opaque);
    update_watch(opaque);
}

static void console_resume_input(struct char_backend *backend)
{
    struct console *console = (struct console *)backend;
    loop_post(console->loop, posted_input, console);
}

static void disconnect(struct console *console)
{
    loop_watch_remove(console->watch);
    console->watch = NULL;
    pthread_mutex_lock(&console->lock);
    close(console->fd);
    console->fd = -1;
    console->lost += console->kind == CONSOLE_FILE ? console->queue_size : 0;
    console->queue_size = 0;
    pthread_mutex_unlock(&console->lock);
    if (console->listen_watch != NULL)
        loop_watch_set(console->listen_watch, LOOP_READABLE);
}

/* Reads what there is room for. False at the end of the input. */
static bool read_input(struct console *console, int fd)
{
    while (console->input_size < sizeof(console->input)) {
        ssize_t count = read(fd, console->input + console->input_size,
                             sizeof(console->input) - console->input_size);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count < 0 && errno == EAGAIN;
        console->input_size += (size_t)count;
    }
    return true;
}

static void on_ready(void *opaque, int fd, unsigned events)
{
    struct console *console = opaque;
    if ((events & LOOP_WRITABLE) != 0) {
        pthread_mutex_lock(&console->lock);
        queue_flush(console);
        pthread_mutex_unlock(&console->lock);
    }
    /* The end of input is not the end of output: a pipe that feeds commands may end long before
     * the guest does. Only a hang-up is. */
    if ((events & (LOOP_READABLE | LOOP_HANGUP)) != 0 && !console->input_ended) {
        console->input_ended = !read_input(console, fd);
        offer_input(console);
    }
    if ((events & LOOP_HANGUP) != 0)
        disconnect(console);
    update_watch(console);
}

/* What never keeps a writer waiting, or gives no word when it has room again, is not watched. */
static bool can_be_watched(const struct console *console, int fd)
{
    struct stat status;
    return console->kind != CONSOLE_FILE ||
           (fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || isatty(fd)));
}

static bool connect_fd(struct console *console, int fd, struct error **err)
{
    if (can_be_watched(console, fd)) {
        console->watch = loop_watch_add(console->loop, fd, LOOP_HANGUP, on_ready, console, err);
        if (console->watch == NULL)
            return false;
    }
    pthread_mutex_lock(&console->lock);
    console->fd = fd;
    pthread_mutex_unlock(&console->lock);
    console->input_ended = console->kind == CONSOLE_FILE;
    update_watch(console);
    return true;
}

static void on_connection(void *opaque, int listen_fd, unsigned events)
{
    struct console *console = opaque;
    (void)events;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (connect_fd(console, fd, NULL))
        loop_watch_set(console->listen_watch, 0); /* the next one waits its turn */
    else
        close(fd);
}

/* ---- life ---- */

struct console *console_new(struct loop *loop, enum console_kind kind, int fd,
                            void (*on_panic)(void *opaque, const char *line), void *opaque,
                            struct error **err)
{
    struct console *console = alloc_zeroed(1, sizeof(*console));
    console->backend.write = console_write;
    console->backend.resume_input = console_resume_input;
    console->loop = loop;
    console->kind = kind;
    console->on_panic = on_panic;
    console->opaque = opaque;
    console->fd = -1;
    console->listen_fd = -1;
    console->transcript = -1;
    console->queue = alloc_zeroed(1, QUEUE_LIMIT);
    console->ring = alloc_zeroed(1, CONSOLE_RING_SIZE);
    pthread_mutex_init(&console->lock, NULL);
    bool good = true;
    if (kind == CONSOLE_LISTEN) {
        console->listen_fd = fd;
        console->listen_watch =
            loop_watch_add(loop, fd, LOOP_READABLE, on_connection, console, err);
        good = console->listen_watch != NULL;
    } else if (kind == CONSOLE_NONE) {
        close(fd);
    } else {
        good = connect_fd(console, fd, err);
    }
    if (good)
        return console;
    console_free(console);
    return NULL;
}

void console_transcribe(struct console *console, int fd)
{
    console->transcript = fd;
}

void console_flush(struct console *console)
{
    if (console->transcript >= 0)
        transcribe(console);
    pthread_mutex_lock(&console->lock);
    for (int tries = 0; tries < 10 && console->queue_size > 0 && console->fd >= 0; tries++) {
        struct pollfd wait = {.fd = console->fd, .events = POLLOUT};
        poll(&wait, 1, 100);
        queue_flush(console);
    }
    console->lost += console->queue_size;
    console->queue_size = 0;
    pthread_mutex_unlock(&console->lock);
}

void console_free(struct console *console)
{
    if (console == NULL)
        return;
    loop_watch_remove(console->watch);
    loop_watch_remove(console->listen_watch);
    if (console->fd >= 0)
        close(console->fd);
    if (console->listen_fd >= 0)
        close(console->listen_fd);
    if (console->transcript >= 0)
        close(console->transcript);
    pthread_mutex_destroy(&console->lock);
    free(console->queue);
    free(console->ring);
    free(console);
}

struct char_backend *console_backend(struct console *console)
{
    return &console->backend;
}

size_t console_ring(struct console *console, uint8_t *out)
{
    pthread_mutex_lock(&console->lock);
    uint64_t written = console->ring_written;
    size_t size = written < CONSOLE_RING_SIZE ? (size_t)written : CONSOLE_RING_SIZE;
    ring_copy(console, written, out, size);
    pthread_mutex_unlock(&console->lock);
    return size;
}

uint64_t console_lost(struct console *console)
{
    pthread_mutex_lock(&console->lock);
    uint64_t lost = console->lost;
    pthread_mutex_unlock(&console->lock);
    return lost;
}

void console_resize(struct console *console, uint16_t columns, uint16_t rows)
{
    if (console->backend.on_resize != NULL)
        console->backend.on_resize(console->backend.device, columns, rows);
}
