/* SPDX-License-Identifier: MIT
 *
 * See wire.h.
 */
#include "migrate/wire.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

enum { SMALL_MAX = 4096, NS_PER_MS = 1000000 };

int64_t wire_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void wire_open(struct wire *wire, int fd)
{
    *wire = (struct wire){.fd = fd, .body = alloc_zeroed(1, WIRE_BODY_MAX + 1)};
}

void wire_close(struct wire *wire)
{
    if (wire->fd >= 0)
        close(wire->fd);
    free(wire->body);
    *wire = (struct wire){.fd = -1};
}

void wire_cut(struct wire *wire)
{
    (void)shutdown(wire->fd, SHUT_RDWR);
}

void wire_cut_reading(struct wire *wire)
{
    (void)shutdown(wire->fd, SHUT_RD);
}

bool wire_damaged(struct error **err, const char *what)
{
    return error_set(err, ERROR_HOST, "the migration's stream is damaged: %s", what);
}

static bool lost(struct error **err, int number)
{
    return error_set_errno(err, number, "the connection to the other side is lost");
}

/* Until the socket is ready or `deadline` has come. */
static bool wait_for(const struct wire *wire, short events, int64_t deadline, struct error **err)
{
    struct pollfd wait = {.fd = wire->fd, .events = events};
    int64_t left = (deadline - wire_now() + NS_PER_MS - 1) / NS_PER_MS;
    int count = poll(&wait, 1, left < 0 ? 0 : left > INT32_MAX ? INT32_MAX : (int)left);
    if (count > 0 || (count < 0 && errno == EINTR))
        return true;
    if (count < 0)
        return lost(err, errno);
    return error_set(err, ERROR_HOST, "the other side does not answer any more");
}

static uint64_t hash_of(const uint8_t *header, const void *body, size_t size)
{
    return XXH3_64bits_withSeed(body, size, XXH3_64bits(header, 16));
}

static bool send_all(struct wire *wire, const uint8_t *bytes, size_t size, int64_t patience_ns,
                     struct error **err)
{
    int64_t deadline = wire_now() + patience_ns;
    while (size > 0) {
        ssize_t count = send(wire->fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count > 0) {
            bytes += count;
            size -= (size_t)count;
            atomic_fetch_add_explicit(&wire->sent_bytes, (uint64_t)count, memory_order_relaxed);
            deadline = wire_now() + patience_ns;
        } else if (errno != EAGAIN && errno != EINTR) {
            return lost(err, errno);
        } else if (!wait_for(wire, POLLOUT, deadline, err)) {
            return false;
        }
    }
    return true;
}

bool wire_send(struct wire *wire, enum wire_type type, uint8_t *frame, size_t size,
               int64_t patience_ns, struct error **err)
{
    assert(size <= WIRE_BODY_MAX);
    store_le32(frame, (uint32_t)type);
    store_le32(frame + 4, (uint32_t)size);
    store_le64(frame + 8, wire->sent++);
    store_le64(frame + 16, hash_of(frame, frame + WIRE_HEADER, size));
    return send_all(wire, frame, WIRE_HEADER + size, patience_ns, err);
}

bool wire_put(struct wire *wire, enum wire_type type, const void *body, size_t size,
              int64_t patience_ns, struct error **err)
{
    uint8_t frame[WIRE_HEADER + SMALL_MAX];
    assert(size <= SMALL_MAX);
    if (size > 0)
        memcpy(frame + WIRE_HEADER, body, size);
    return wire_send(wire, type, frame, size, patience_ns, err);
}

static bool receive_all(struct wire *wire, uint8_t *bytes, size_t size, int64_t patience_ns,
                        struct error **err)
{
    int64_t deadline = wire_now() + patience_ns;
    while (size > 0) {
        ssize_t count = recv(wire->fd, bytes, size, MSG_DONTWAIT);
        if (count > 0) {
            bytes += count;
            size -= (size_t)count;
            deadline = wire_now() + patience_ns;
        } else if (count == 0) {
            return error_set(err, ERROR_HOST, "the other side has closed the connection");
        } else if (errno != EAGAIN && errno != EINTR) {
            return lost(err, errno);
        } else if (!wait_for(wire, POLLIN, deadline, err)) {
            return false;
        }
    }
    return true;
}

bool wire_receive(struct wire *wire, struct wire_frame *frame, int64_t patience_ns,
                  struct error **err)
{
    uint8_t header[WIRE_HEADER];
    if (!receive_all(wire, header, sizeof(header), patience_ns, err))
        return false;
    *frame = (struct wire_frame){load_le32(header), load_le32(header + 4), wire->body};
    if (frame->size > WIRE_BODY_MAX)
        return wire_damaged(err, "a frame is too large");
    if (load_le64(header + 8) != wire->received++)
        return wire_damaged(err, "a frame is missing");
    if (!receive_all(wire, wire->body, frame->size, patience_ns, err))
        return false;
    wire->body[frame->size] = 0;
    return load_le64(header + 16) == hash_of(header, wire->body, frame->size) ||
           wire_damaged(err, "a frame has another checksum");
}

bool wire_is_quiet(const struct wire *wire)
{
    char byte;
    ssize_t count = recv(wire->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    return count < 0 && (errno == EAGAIN || errno == EINTR);
}
