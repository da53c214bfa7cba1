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
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "config/machine.h"
#include "worker/panic.h"

enum { QUEUE_LIMIT = 1 << 20, INPUT_SIZE = 4096, WATCHERS = 8 };

/* Who only looks. */
struct watcher {
    struct console *console;
    int fd; /* -1: a free place */
    struct loop_watch *watch;
    uint64_t seen; /* of ring_written; under the lock */
    uint64_t missed;
};

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
    struct watcher watchers[WATCHERS];
    _Atomic unsigned watching; /* so many */
    char who[CONSOLE_WHO];     /* has it, if fd is there */
    time_t since;

    pthread_mutex_t lock;
    int fd; /* -1: nobody there */
    struct panic_watcher panic;
    uint8_t *queue;
    size_t queue_start, queue_size; /* circular, QUEUE_LIMIT bytes */
    bool flush_posted, transcript_posted, watch_posted;
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

/* ---- watchers; loop thread ---- */

static void watcher_leave(struct watcher *watcher)
{
    loop_watch_remove(watcher->watch);
    close(watcher->fd);
    watcher->fd = -1;
    atomic_fetch_sub(&watcher->console->watching, 1);
}

/* The next bytes for him; 0: none. */
static size_t watcher_next(struct watcher *watcher, uint8_t *bytes, size_t room)
{
    struct console *console = watcher->console;
    pthread_mutex_lock(&console->lock);
    uint64_t behind = console->ring_written - watcher->seen;
    if (behind > CONSOLE_RING_SIZE) {
        watcher->missed += behind - CONSOLE_RING_SIZE;
        watcher->seen += behind - CONSOLE_RING_SIZE;
        behind = CONSOLE_RING_SIZE;
    }
    size_t size = behind < room ? (size_t)behind : room;
    ring_copy(console, watcher->seen + size, bytes, size);
    pthread_mutex_unlock(&console->lock);
    return size;
}

/* As much as he takes. */
static void watcher_serve(struct watcher *watcher)
{
    uint8_t bytes[4096];
    char line[80];
    ssize_t sent = 0;
    size_t size, length = 0;
    while ((size = watcher_next(watcher, bytes, sizeof(bytes))) > 0) {
        if (watcher->missed > 0)
            length = (size_t)snprintf(line, sizeof(line), "\r\n[trapeze: %llu bytes left out]\r\n",
                                      (unsigned long long)watcher->missed);
        if (length > 0 && send(watcher->fd, line, length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
            sent = -1;
            break;
        }
        watcher->missed = length = 0;
        sent = send(watcher->fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0)
            break;
        watcher->seen += (uint64_t)sent; /* only this thread moves it */
    }
    bool waits = sent < 0 && (errno == EAGAIN || errno == EINTR);
    if (sent < 0 && !waits)
        watcher_leave(watcher);
    else
        loop_watch_set(watcher->watch, LOOP_READABLE | LOOP_HANGUP | (waits ? LOOP_WRITABLE : 0u));
}

static void posted_watch(void *opaque)
{
    struct console *console = opaque;
    pthread_mutex_lock(&console->lock);
    console->watch_posted = false;
    pthread_mutex_unlock(&console->lock);
    for (size_t i = 0; i < WATCHERS; i++)
        if (console->watchers[i].fd >= 0)
            watcher_serve(&console->watchers[i]);
}

static void on_watcher(void *opaque, int fd, unsigned events)
{
    struct watcher *watcher = opaque;
    char bytes[4096]; /* nobody wants them */
    ssize_t count = (events & LOOP_READABLE) != 0 ? recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) : 1;
    if ((events & LOOP_HANGUP) != 0 || count == 0 ||
        (count < 0 && errno != EAGAIN && errno != EINTR))
        watcher_leave(watcher);
    else
        watcher_serve(watcher);
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
    bool show = atomic_load(&console->watching) > 0 && !console->watch_posted;
    console->watch_posted = console->watch_posted || show;
    pthread_mutex_unlock(&console->lock);
    if (write_down)
        loop_post(console->loop, posted_transcript, console);
    if (show)
        loop_post(console->loop, posted_watch, console);
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
        ssize_t count = recv(fd, console->input + console->input_size,
                             sizeof(console->input) - console->input_size, MSG_DONTWAIT);
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
    console->since = time(NULL);
    snprintf(console->who, sizeof(console->who), "a client of its socket");
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

/* ---- those who come by the control socket ---- */

/* What others are told of him is nothing that a terminal would obey. */
static void note_owner(struct console *console, const char *who)
{
    size_t length = 0;
    for (; who[length] != '\0' && length < CONSOLE_WHO - 1; length++)
        console->who[length] = who[length] >= ' ' && who[length] <= '~' ? who[length] : '?';
    console->who[length] = '\0';
}

static bool watch(struct console *console, int fd, struct error **err)
{
    struct watcher *place = NULL;
    for (size_t i = 0; i < WATCHERS && place == NULL; i++)
        if (console->watchers[i].fd < 0)
            place = &console->watchers[i];
    if (place == NULL)
        return error_set(err, ERROR_USAGE, "%d watch this console already", WATCHERS);
    place->watch = loop_watch_add(console->loop, fd, LOOP_READABLE, on_watcher, place, err);
    if (place->watch == NULL)
        return false;
    pthread_mutex_lock(&console->lock);
    place->seen = console->ring_written;
    pthread_mutex_unlock(&console->lock);
    place->missed = 0;
    place->fd = fd;
    atomic_fetch_add(&console->watching, 1);
    return true;
}

static void let_go(struct console *console, const char *who)
{
    char line[CONSOLE_WHO + 60];
    int size = snprintf(line, sizeof(line), "\r\n[trapeze: %s took the console]\r\n", who);
    pthread_mutex_lock(&console->lock);
    queue_flush(console);
    (void)send(console->fd, line, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT);
    pthread_mutex_unlock(&console->lock);
    disconnect(console);
}

static bool own(struct console *console, int fd, bool steal, const char *who, struct error **err)
{
    char since[24];
    if (console->kind != CONSOLE_LISTEN) {
        error_set(err, ERROR_USAGE, "%s",
                  console->kind == CONSOLE_STREAM ? "the console belongs to who started the machine"
                                                  : "the console goes nowhere that it could be taken from");
        error_hint(err, "--watch shows what the guest prints.");
        return false;
    }
    if (console->fd >= 0 && !steal) {
        machine_print_time(console->since, since);
        error_set(err, ERROR_USAGE, "the console is taken: %s has it since %s", console->who, since);
        error_hint(err, "--watch shows it beside them, --steal takes it from them.");
        return false;
    }
    if (console->fd >= 0) {
        note_owner(console, who);
        let_go(console, console->who);
    }
    if (!connect_fd(console, fd, err))
        return false;
    loop_watch_set(console->listen_watch, 0);
    note_owner(console, who);
    return true;
}

bool console_attach(struct console *console, int fd, enum console_role role, const char *who,
                    struct error **err)
{
    struct stat status;
    bool good = fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
    if (!good)
        error_set(err, ERROR_USAGE, "what shall become the console is no socket");
    else if (role == CONSOLE_WATCHES)
        good = watch(console, fd, err);
    else
        good = own(console, fd, role == CONSOLE_STEALS, who, err);
    if (!good)
        close(fd);
    return good;
}

const char *console_owner(const struct console *console, time_t *since)
{
    *since = console->since;
    return console->fd >= 0 ? console->who : NULL;
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
    for (size_t i = 0; i < WATCHERS; i++)
        console->watchers[i] = (struct watcher){.console = console, .fd = -1};
    console->queue = alloc_pages(QUEUE_LIMIT);
    console->ring = alloc_pages(CONSOLE_RING_SIZE);
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
    posted_watch(console); /* what they take at once */
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
    for (size_t i = 0; i < WATCHERS; i++)
        if (console->watchers[i].fd >= 0)
            watcher_leave(&console->watchers[i]);
    loop_watch_remove(console->watch);
    loop_watch_remove(console->listen_watch);
    if (console->fd >= 0)
        close(console->fd);
    if (console->listen_fd >= 0)
        close(console->listen_fd);
    if (console->transcript >= 0)
        close(console->transcript);
    pthread_mutex_destroy(&console->lock);
    alloc_pages_free(console->queue, QUEUE_LIMIT);
    alloc_pages_free(console->ring, CONSOLE_RING_SIZE);
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
