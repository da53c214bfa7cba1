/* SPDX-License-Identifier: MIT
 *
 * pcapng: a section header, one interface description, then an enhanced packet block for each
 * frame. Integers are little-endian whatever the host is; the byte-order magic says so.
 */
#include "net/capture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "net/frame.h"

enum { BLOCK_SECTION = 0x0a0d0d0a, BLOCK_INTERFACE = 1, BLOCK_PACKET = 6 };
enum { OPTION_NAME = 2, OPTION_RESOLUTION = 9, OPTION_FLAGS = 2 };
enum { BYTE_ORDER_MAGIC = 0x1a2b3c4d, LINK_ETHERNET = 1, NANOSECONDS = 9 };
enum { FLAG_INBOUND = 1, FLAG_OUTBOUND = 2 };

#define BUFFER_BYTES (256u << 10)
/* Block header, five words, padding, flags option, end of options, length again. */
#define PACKET_OVERHEAD 60u

struct net_capture {
    int fd;
    struct log *log;
    uint64_t left; /* bytes the file may still grow by */
    bool ended;
    size_t used;
    uint8_t buffer[BUFFER_BYTES];
};

static void end(struct net_capture *capture, const char *why)
{
    if (!capture->ended)
        log_warning(capture->log, "the packet capture ends: %s", why);
    capture->ended = true;
    capture->used = 0;
}

void net_capture_flush(struct net_capture *capture)
{
    size_t done = 0;
    while (done < capture->used) {
        ssize_t count = write(capture->fd, capture->buffer + done, capture->used - done);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0) {
            end(capture, strerror(errno));
            return;
        }
        done += (size_t)count;
    }
    capture->used = 0;
}

static void add(struct net_capture *capture, const void *data, size_t size)
{
    memcpy(capture->buffer + capture->used, data, size);
    capture->used += size;
}

static void add32(struct net_capture *capture, uint32_t value)
{
    store_le32(capture->buffer + capture->used, value);
    capture->used += 4;
}

static void add_option(struct net_capture *capture, uint16_t code, const void *data, uint16_t size)
{
    add32(capture, (uint32_t)size << 16 | code);
    add(capture, data, size);
    add(capture, (const uint8_t[4]){0}, (4u - size % 4u) % 4u);
}

/* A block's length stands at its start and at its end. */
static size_t begin_block(struct net_capture *capture, uint32_t type)
{
    size_t start = capture->used;
    add32(capture, type);
    add32(capture, 0);
    return start;
}

static void end_block(struct net_capture *capture, size_t start)
{
    uint32_t length = (uint32_t)(capture->used - start) + 4;
    store_le32(capture->buffer + start + 4, length);
    add32(capture, length);
    capture->left -= length;
}

struct net_capture *net_capture_new(int fd, const char *name, uint64_t limit, struct log *log,
                                    struct error **err)
{
    struct net_capture *capture = alloc_zeroed(1, sizeof(*capture));
    const uint8_t resolution = NANOSECONDS;
    capture->fd = fd;
    capture->log = log;
    capture->left = limit;
    size_t start = begin_block(capture, BLOCK_SECTION);
    add32(capture, BYTE_ORDER_MAGIC);
    add32(capture, 1); /* version 1.0 */
    add32(capture, UINT32_MAX);
    add32(capture, UINT32_MAX); /* section length: unknown */
    end_block(capture, start);
    start = begin_block(capture, BLOCK_INTERFACE);
    add32(capture, LINK_ETHERNET);
    add32(capture, 0); /* no snapshot length */
    add_option(capture, OPTION_NAME, name, (uint16_t)strnlen(name, 64));
    add_option(capture, OPTION_RESOLUTION, &resolution, 1);
    add32(capture, 0); /* end of options */
    end_block(capture, start);
    net_capture_flush(capture);
    if (!capture->ended)
        return capture;
    error_set(err, ERROR_HOST, "the capture file cannot be written");
    net_capture_free(capture);
    return NULL;
}

void net_capture_free(struct net_capture *capture)
{
    if (capture == NULL)
        return;
    net_capture_flush(capture);
    close(capture->fd);
    free(capture);
}

void net_capture_frame(struct net_capture *capture, int64_t time_ns, bool out,
                       const struct iovec *iov, unsigned count)
{
    uint8_t flags[4];
    size_t size = 0;
    for (unsigned i = 0; i < count; i++)
        size += iov[i].iov_len;
    if (capture->ended || size > NET_FRAME_MAX)
        return;
    if (capture->left < size + PACKET_OVERHEAD) {
        net_capture_flush(capture);
        end(capture, "the file has reached its largest size");
        return;
    }
    if (BUFFER_BYTES - capture->used < size + PACKET_OVERHEAD)
        net_capture_flush(capture);
    size_t start = begin_block(capture, BLOCK_PACKET);
    add32(capture, 0); /* interface */
    add32(capture, (uint32_t)((uint64_t)time_ns >> 32));
    add32(capture, (uint32_t)time_ns);
    add32(capture, (uint32_t)size);
    add32(capture, (uint32_t)size);
    for (unsigned i = 0; i < count; i++)
        add(capture, iov[i].iov_base, iov[i].iov_len);
    add(capture, (const uint8_t[4]){0}, (4 - size % 4) % 4);
    store_le32(flags, out ? FLAG_OUTBOUND : FLAG_INBOUND);
    add_option(capture, OPTION_FLAGS, flags, sizeof(flags));
    add32(capture, 0);
    end_block(capture, start);
}
