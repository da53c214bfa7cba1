/* SPDX-License-Identifier: MIT
 *
 * See nbd.h. Callers' threads hand commands to libnbd and wait; one thread moves the bytes
 * (libnbd's handle is thread-safe, but only one thread may wait for its socket), and makes
 * the next connection when one is lost.
 *
 * A command belongs to the connection it was issued on; when that is lost, its handle is
 * closed, which retires all commands, and their callers issue them again.
 *
 * Locks: libnbd's own, of the handle, is held around callbacks: so it comes before ours, and
 * nothing of libnbd is called with ours held.
 */
#include "block/nbd.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "block/nbd_library.h"

#define TRANSFER_BYTES (1 * MIB) /* of one command; servers take up to 32 MiB */
#define ZERO_BYTES     (1 * GIB)
#define NS_PER_S       INT64_C(1000000000)
#define RETRY_S        1
#define NEGOTIATE_S    10
#define PARALLEL       16

struct nbd_file {
    struct block_file file;
    struct block_nbd_connector connector;
    struct nbd_library library;
    pthread_mutex_t lock;
    pthread_cond_t changed;    /* a command is through, or `handle` changed */
    struct nbd_handle *handle; /* NULL: no connection */
    uint64_t size;
    int64_t lost_at; /* CLOCK_MONOTONIC; when there is no connection */
    unsigned users;  /* threads that are handing a command to `handle` */
    bool stop, running;
    bool can_flush, can_trim, can_zero;
    int wake; /* eventfd: there is something to send */
    pthread_t thread;
};

enum command_kind { READ, WRITE, FLUSH, ZERO, TRIM };

struct command {
    struct nbd_file *nbd;
    enum command_kind kind;
    uint8_t *data;
    uint64_t offset, length;
    unsigned flags;
    bool through;
    int error; /* errno value; ENOTCONN: the connection was lost */
};

static struct nbd_file *nbd_of(struct block_file *file)
{
    return CONTAINER_OF(file, struct nbd_file, file);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static void say(struct nbd_file *nbd, const char *text)
{
    if (nbd->connector.say != NULL)
        nbd->connector.say(nbd->connector.opaque, text);
}

/* libnbd says "nbd_connect_socket: …": the function's name is of no use to users. */
static const char *reason(const struct nbd_library *library)
{
    const char *text = library->nbd_get_error();
    if (text == NULL)
        return "no reason given";
    const char *colon = strstr(text, ": ");
    return colon != NULL && strncmp(text, "nbd_", 4) == 0 ? colon + 2 : text;
}

/* False: it failed, or *late. A server that falls silent must not keep the machine waiting. */
static bool negotiate(const struct nbd_library *library, struct nbd_handle *handle, int fd,
                      bool *late)
{
    int64_t end = now_ns() + NEGOTIATE_S * NS_PER_S, left = NEGOTIATE_S * NS_PER_S;
    bool good =
        library->nbd_aio_connect_socket(handle, fd) == 0; /* whose socket it is, come what may */
    while (good && library->nbd_aio_is_connecting(handle) == 1 && left > 0) {
        good = library->nbd_poll(handle, (int)(left / 1000000) + 1) >= 0;
        left = end - now_ns();
    }
    *late = good && library->nbd_aio_is_connecting(handle) == 1;
    return good && library->nbd_aio_is_ready(handle) == 1;
}

struct nbd_handle *block_nbd_negotiate(const struct nbd_library *library, int fd,
                                       const char *export, struct error **err)
{
    struct nbd_handle *handle = library->nbd_create();
    bool named = handle != NULL && library->nbd_set_export_name(handle, export) == 0, late = false;
    if (!named)
        close(fd);
    else if (negotiate(library, handle, fd, &late))
        return handle;
    error_set(err, ERROR_HOST, "cannot connect: %s",
              late ? "the server falls silent" : reason(library));
    error_hint(err, "Is the server running, and is this its address?");
    if (handle != NULL)
        library->nbd_close(handle);
    return NULL;
}

/* --- the connection's thread --- */

static bool take_properties(struct nbd_file *nbd, struct nbd_handle *handle, bool first,
                            struct error **err)
{
    int64_t size = nbd->library.nbd_get_size(handle);
    if (size < 0)
        return error_set(err, ERROR_HOST, "the server does not tell the size: %s",
                         nbd->library.nbd_get_error());
    if (!first && (uint64_t)size != nbd->size)
        return error_set(err, ERROR_HOST, "the disk on the server has another size now");
    if (!nbd->file.read_only && nbd->library.nbd_is_read_only(handle) == 1) {
        error_set(err, ERROR_USAGE, "the server lets nobody write to it");
        error_hint(err, "Attach it read-only");
        return false;
    }
    nbd->size = (uint64_t)size;
    nbd->can_flush = nbd->library.nbd_can_flush(handle) == 1;
    nbd->can_trim = nbd->library.nbd_can_trim(handle) == 1;
    nbd->can_zero = nbd->library.nbd_can_zero(handle) == 1;
    return true;
}

/* Lock held; releases it meanwhile. */
static void lose(struct nbd_file *nbd)
{
    struct nbd_handle *handle = nbd->handle;
    nbd->handle = NULL;
    nbd->lost_at = now_ns();
    while (nbd->users > 0)
        pthread_cond_wait(&nbd->changed, &nbd->lock);
    pthread_mutex_unlock(&nbd->lock);
    /* Fails what is still under way: callbacks run in here. */
    nbd->library.nbd_close(handle);
    say(nbd, "the connection to the server is lost; trying to get it back");
    pthread_mutex_lock(&nbd->lock);
    pthread_cond_broadcast(&nbd->changed);
}

static void sleep_until_woken(struct nbd_file *nbd, int timeout_ms)
{
    struct pollfd wake = {.fd = nbd->wake, .events = POLLIN};
    uint64_t count;
    if (poll(&wake, 1, timeout_ms) > 0 && read(nbd->wake, &count, sizeof(count)) < 0)
        return;
}

/* Lock held; releases it meanwhile. */
static void reconnect(struct nbd_file *nbd)
{
    pthread_mutex_unlock(&nbd->lock);
    struct error *error = NULL;
    struct nbd_handle *handle =
        nbd->connector.connect(nbd->connector.opaque, &nbd->library, &error);
    if (handle != NULL && !take_properties(nbd, handle, false, &error)) {
        nbd->library.nbd_close(handle);
        handle = NULL;
    }
    error_free(error);
    if (handle == NULL)
        sleep_until_woken(nbd, RETRY_S * 1000);
    else
        say(nbd, "the connection to the server is back");
    pthread_mutex_lock(&nbd->lock);
    nbd->handle = handle;
    if (handle != NULL)
        pthread_cond_broadcast(&nbd->changed);
}

static bool is_dead(const struct nbd_library *library, struct nbd_handle *handle)
{
    return library->nbd_aio_is_dead(handle) == 1 || library->nbd_aio_is_closed(handle) == 1;
}

/* One turn of the connection; false: it is lost. Without the lock. */
static bool move(struct nbd_file *nbd, struct nbd_handle *handle)
{
    if (is_dead(&nbd->library, handle))
        return false;
    unsigned direction = nbd->library.nbd_aio_get_direction(handle);
    short events = (short)(((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                           ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0));
    struct pollfd set[] = {{.fd = nbd->library.nbd_aio_get_fd(handle), .events = events},
                           {.fd = nbd->wake, .events = POLLIN}};
    uint64_t count;
    if (poll(set, 2, -1) < 0)
        return errno == EINTR;
    if (set[1].revents != 0 && read(nbd->wake, &count, sizeof(count)) < 0)
        return false;
    direction = nbd->library.nbd_aio_get_direction(handle);
    int result = 0;
    if ((set[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
        (direction & LIBNBD_AIO_DIRECTION_READ) != 0)
        result = nbd->library.nbd_aio_notify_read(handle);
    else if ((set[0].revents & (POLLOUT | POLLERR)) != 0 &&
             (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0)
        result = nbd->library.nbd_aio_notify_write(handle);
    return result == 0 || !is_dead(&nbd->library, handle);
}

static void *connection_thread(void *opaque)
{
    struct nbd_file *nbd = opaque;
    pthread_mutex_lock(&nbd->lock);
    while (!nbd->stop) {
        struct nbd_handle *handle = nbd->handle;
        if (handle == NULL) {
            reconnect(nbd);
            continue;
        }
        pthread_mutex_unlock(&nbd->lock);
        bool alive = move(nbd, handle);
        pthread_mutex_lock(&nbd->lock);
        if (!alive)
            lose(nbd);
    }
    pthread_mutex_unlock(&nbd->lock);
    return NULL;
}

static void wake(struct nbd_file *nbd)
{
    uint64_t one = 1;
    ssize_t written = write(nbd->wake, &one, sizeof(one));
    (void)written;
}

/* --- commands --- */

/* On the connection's thread (or in nbd_close()), with libnbd's lock held. */
static int command_done(void *opaque, int *error)
{
    struct command *command = opaque;
    struct nbd_file *nbd = command->nbd;
    pthread_mutex_lock(&nbd->lock);
    command->error = *error;
    command->through = true;
    pthread_cond_broadcast(&nbd->changed);
    pthread_mutex_unlock(&nbd->lock);
    return 1; /* retire it */
}

static int64_t issue(struct nbd_handle *handle, struct command *command)
{
    const struct nbd_library *library = &command->nbd->library;
    nbd_completion_callback callback = {.callback = command_done, .user_data = command};
    switch (command->kind) {
    case READ:
        return library->nbd_aio_pread(handle, command->data, (size_t)command->length,
                                      command->offset, callback, 0);
    case WRITE:
        return library->nbd_aio_pwrite(handle, command->data, (size_t)command->length,
                                       command->offset, callback, 0);
    case FLUSH:
        return library->nbd_aio_flush(handle, callback, 0);
    case ZERO:
        return library->nbd_aio_zero(handle, command->length, command->offset, callback,
                                     command->flags);
    case TRIM:
        return library->nbd_aio_trim(handle, command->length, command->offset, callback, 0);
    }
    return -1;
}

/* Lock held. Waits for a connection, up to the limit; false: there is none. */
static bool await_connection(struct nbd_file *nbd)
{
    while (nbd->handle == NULL && !nbd->stop) {
        int64_t end = nbd->lost_at + nbd->connector.reconnect_ns;
        if (now_ns() >= end)
            return false;
        struct timespec until = {end / NS_PER_S, end % NS_PER_S};
        pthread_cond_timedwait(&nbd->changed, &nbd->lock, &until);
    }
    return nbd->handle != NULL;
}

/* Issues it on the connection of now and waits. ENOTCONN: that was lost. */
static int issue_once(struct nbd_file *nbd, struct command *command)
{
    pthread_mutex_lock(&nbd->lock);
    if (!await_connection(nbd)) {
        pthread_mutex_unlock(&nbd->lock);
        return EIO;
    }
    struct nbd_handle *handle = nbd->handle;
    nbd->users++;
    pthread_mutex_unlock(&nbd->lock);
    command->nbd = nbd;
    command->through = false;
    bool issued = issue(handle, command) >= 0;
    bool lost =
        !issued && (nbd->library.nbd_get_errno() == ENOTCONN || is_dead(&nbd->library, handle));
    pthread_mutex_lock(&nbd->lock);
    nbd->users--;
    pthread_cond_broadcast(&nbd->changed);
    wake(nbd);
    if (issued)
        while (!command->through)
            pthread_cond_wait(&nbd->changed, &nbd->lock);
    else if (lost)
        while (nbd->handle == handle && !nbd->stop)
            pthread_cond_wait(&nbd->changed, &nbd->lock);
    pthread_mutex_unlock(&nbd->lock);
    if (!issued)
        return lost ? ENOTCONN : EIO;
    return command->error;
}

static int carry_out(struct nbd_file *nbd, struct command *command)
{
    int error;
    do
        error = issue_once(nbd, command);
    while (error == ENOTCONN);
    return error;
}

static int transfer(struct nbd_file *nbd, enum command_kind kind, uint64_t offset,
                    struct block_span span)
{
    uint8_t *buffer = NULL;
    int error = 0;
    for (uint64_t done = 0; error == 0 && done < span.size;) {
        struct iovec iov;
        uint64_t size = span.size - done, bytes;
        if (size > TRANSFER_BYTES)
            size = TRANSFER_BYTES;
        struct block_span part = block_span_part(span, done, size);
        (void)block_span_iov(part, &iov, 1, &bytes);
        bool scattered = bytes < size;
        if (scattered && buffer == NULL && (buffer = malloc(TRANSFER_BYTES)) == NULL)
            return ENOMEM;
        struct command command = {.kind = kind,
                                  .data = scattered ? buffer : iov.iov_base,
                                  .offset = offset + done,
                                  .length = size};
        if (scattered && kind == WRITE)
            block_span_read(part, buffer);
        error = carry_out(nbd, &command);
        if (error == 0 && scattered && kind == READ)
            block_span_fill(part, buffer);
        done += size;
    }
    free(buffer);
    return error;
}

/* --- the operations --- */

static int nbd_file_read(struct block_file *file, uint64_t offset, struct block_span to)
{
    struct nbd_file *nbd = nbd_of(file);
    uint64_t there = offset < nbd->size ? nbd->size - offset : 0;
    if (there > to.size)
        there = to.size;
    if (there < to.size && !file->pad_end)
        return EIO;
    if (there < to.size)
        block_span_zero(block_span_part(to, there, to.size - there));
    return transfer(nbd, READ, offset, block_span_part(to, 0, there));
}

static int nbd_file_write(struct block_file *file, uint64_t offset, struct block_span from)
{
    struct nbd_file *nbd = nbd_of(file);
    return range_within(offset, from.size, nbd->size) ? transfer(nbd, WRITE, offset, from) : ENOSPC;
}

static int nbd_file_flush(struct block_file *file)
{
    struct nbd_file *nbd = nbd_of(file);
    struct command command = {.kind = FLUSH};
    if (file->cache == BLOCK_CACHE_UNSAFE || !nbd->can_flush)
        return 0;
    return carry_out(nbd, &command);
}

static int each_part(struct nbd_file *nbd, struct command command, uint64_t length)
{
    int error = 0;
    while (error == 0 && length > 0) {
        command.length = length < ZERO_BYTES ? length : ZERO_BYTES;
        error = carry_out(nbd, &command);
        command.offset += command.length;
        length -= command.length;
    }
    return error;
}

static int write_zeros(struct nbd_file *nbd, uint64_t offset, uint64_t length)
{
    uint8_t *zeros = calloc(1, TRANSFER_BYTES);
    int error = zeros == NULL ? ENOMEM : 0;
    while (error == 0 && length > 0) {
        size_t part = length < TRANSFER_BYTES ? (size_t)length : TRANSFER_BYTES;
        error = block_file_pwrite(&nbd->file, offset, zeros, part);
        offset += part;
        length -= part;
    }
    free(zeros);
    return error;
}

static int nbd_file_zero(struct block_file *file, uint64_t offset, uint64_t length, unsigned flags)
{
    struct nbd_file *nbd = nbd_of(file);
    if (!nbd->can_zero)
        return write_zeros(nbd, offset, length);
    struct command command = {.kind = ZERO,
                              .offset = offset,
                              .flags =
                                  (flags & BLOCK_ZERO_UNMAP) != 0 ? 0 : LIBNBD_CMD_FLAG_NO_HOLE};
    return each_part(nbd, command, length);
}

static int nbd_file_discard(struct block_file *file, uint64_t offset, uint64_t length)
{
    struct nbd_file *nbd = nbd_of(file);
    struct command command = {.kind = TRIM, .offset = offset};
    return nbd->can_trim ? each_part(nbd, command, length) : 0;
}

static int nbd_file_truncate(struct block_file *file, uint64_t size)
{
    (void)file, (void)size;
    return EOPNOTSUPP;
}

static int nbd_file_extent(struct block_file *file, uint64_t offset, uint64_t *length, bool *data)
{
    (void)file, (void)offset, (void)length;
    *data = true;
    return 0;
}

static int nbd_file_size(struct block_file *file, uint64_t *size)
{
    *size = nbd_of(file)->size;
    return 0;
}

/* --- life --- */

static void threads_stop(struct block_file *file)
{
    struct nbd_file *nbd = nbd_of(file);
    if (!nbd->running)
        return;
    pthread_mutex_lock(&nbd->lock);
    nbd->stop = true;
    pthread_cond_broadcast(&nbd->changed);
    pthread_mutex_unlock(&nbd->lock);
    wake(nbd);
    pthread_join(nbd->thread, NULL);
    nbd->stop = nbd->running = false;
}

static bool threads_start(struct block_file *file, struct error **err)
{
    struct nbd_file *nbd = nbd_of(file);
    if (nbd->running)
        return true;
    int number = pthread_create(&nbd->thread, NULL, connection_thread, nbd);
    nbd->running = number == 0;
    return nbd->running || error_set_errno(err, number, "cannot start a thread for NBD");
}

static void nbd_file_close(struct block_file *file)
{
    struct nbd_file *nbd = nbd_of(file);
    threads_stop(file);
    if (nbd->handle != NULL) {
        (void)nbd->library.nbd_shutdown(nbd->handle, 0);
        nbd->library.nbd_close(nbd->handle);
    }
    if (nbd->connector.free != NULL)
        nbd->connector.free(nbd->connector.opaque);
    close(nbd->wake);
    pthread_cond_destroy(&nbd->changed);
    pthread_mutex_destroy(&nbd->lock);
    free(nbd);
}

static const struct block_file_ops nbd_ops = {
    .read = nbd_file_read,
    .write = nbd_file_write,
    .flush = nbd_file_flush,
    .zero = nbd_file_zero,
    .discard = nbd_file_discard,
    .truncate = nbd_file_truncate,
    .extent = nbd_file_extent,
    .size = nbd_file_size,
    .threads_stop = threads_stop,
    .threads_start = threads_start,
    .close = nbd_file_close,
};

static void init_lock(struct nbd_file *nbd)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&nbd->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&nbd->lock, NULL);
}

struct block_file *block_file_nbd(const struct block_nbd_connector *connector,
                                  const struct nbd_library *library, bool read_only,
                                  enum block_cache cache, struct error **err)
{
    struct nbd_file *nbd = alloc_zeroed(1, sizeof(*nbd));
    nbd->file = (struct block_file){.ops = &nbd_ops,
                                    .fd = -1,
                                    .align = 1,
                                    .cache = cache,
                                    .read_only = read_only,
                                    .is_device = true,
                                    .parallel = PARALLEL};
    nbd->connector = *connector;
    nbd->library = *library;
    nbd->connector.free = NULL; /* not before this is a success */
    nbd->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    init_lock(nbd);
    nbd->handle = connector->connect(connector->opaque, &nbd->library, err);
    if (nbd->handle != NULL && take_properties(nbd, nbd->handle, true, err) &&
        threads_start(&nbd->file, err)) {
        nbd->connector.free = connector->free;
        return &nbd->file;
    }
    nbd_file_close(&nbd->file);
    return NULL;
}
