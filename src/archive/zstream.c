/* SPDX-License-Identifier: MIT
 *
 * See zstream.h.
 */
#include "archive/zstream.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

enum { LEVEL = 3, THREADS_MAX = 4, WINDOW_LOG_MAX = 27 /* 128 MiB, zstd's own limit unasked */ };
#define BUFFER_BYTES ((size_t)128 * KIB)

/* ---- writing ---- */

struct zstream_writer {
    int fd;
    ZSTD_CCtx *context;
    char *buffer;
};

struct zstream_writer *zstream_writer_new(int fd, struct error **err)
{
    struct zstream_writer *writer = alloc_zeroed(1, sizeof(*writer));
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    writer->fd = fd;
    writer->buffer = alloc_zeroed(1, BUFFER_BYTES);
    writer->context = ZSTD_createCCtx();
    if (writer->context == NULL) {
        error_set_errno(err, ENOMEM, "cannot begin to compress");
        zstream_writer_free(writer);
        return NULL;
    }
    ZSTD_CCtx_setParameter(writer->context, ZSTD_c_compressionLevel, LEVEL);
    ZSTD_CCtx_setParameter(writer->context, ZSTD_c_checksumFlag, 1);
    /* A libzstd without threads refuses, and does without. */
    ZSTD_CCtx_setParameter(writer->context, ZSTD_c_nbWorkers,
                           cpus < 1 ? 1 : (cpus < THREADS_MAX ? (int)cpus : THREADS_MAX));
    return writer;
}

/* To a socket or a file; who does not read any more is told by an error, not a signal. */
static bool put(int fd, const char *bytes, size_t size, struct error **err)
{
    while (size > 0) {
        ssize_t count = send(fd, bytes, size, MSG_NOSIGNAL);
        if (count < 0 && errno == ENOTSOCK)
            count = write(fd, bytes, size);
        if (count < 0 && errno != EINTR)
            return error_set_errno(err, errno, "cannot write the archive");
        bytes += count > 0 ? count : 0;
        size -= count > 0 ? (size_t)count : 0;
    }
    return true;
}

static bool compress_some(struct zstream_writer *writer, ZSTD_inBuffer *in, ZSTD_EndDirective how,
                          struct error **err)
{
    size_t left;
    do {
        ZSTD_outBuffer out = {writer->buffer, BUFFER_BYTES, 0};
        left = ZSTD_compressStream2(writer->context, &out, in, how);
        if (ZSTD_isError(left))
            return error_set(err, ERROR_HOST, "cannot compress: %s", ZSTD_getErrorName(left));
        if (!put(writer->fd, writer->buffer, out.pos, err))
            return false;
    } while (how == ZSTD_e_end ? left > 0 : in->pos < in->size);
    return true;
}

bool zstream_write(void *opaque, const void *bytes, size_t size, struct error **err)
{
    ZSTD_inBuffer in = {bytes, size, 0};
    return compress_some(opaque, &in, ZSTD_e_continue, err);
}

bool zstream_end(struct zstream_writer *writer, struct error **err)
{
    ZSTD_inBuffer in = {NULL, 0, 0};
    return compress_some(writer, &in, ZSTD_e_end, err);
}

void zstream_writer_free(struct zstream_writer *writer)
{
    if (writer == NULL)
        return;
    ZSTD_freeCCtx(writer->context);
    free(writer->buffer);
    free(writer);
}

/* ---- reading ---- */

struct zstream_reader {
    int fd;
    ZSTD_DCtx *context;
    char *in_buffer, *out_buffer;
    ZSTD_inBuffer in;
    bool more_out; /* the output was full: there may be more without input */
    bool ended;    /* the frame is */
};

struct zstream_reader *zstream_reader_new(int fd, struct error **err)
{
    struct zstream_reader *reader = alloc_zeroed(1, sizeof(*reader));
    reader->fd = fd;
    reader->in_buffer = alloc_zeroed(1, BUFFER_BYTES);
    reader->out_buffer = alloc_zeroed(1, BUFFER_BYTES);
    reader->context = ZSTD_createDCtx();
    if (reader->context == NULL) {
        error_set_errno(err, ENOMEM, "cannot begin to decompress");
        zstream_reader_free(reader);
        return NULL;
    }
    ZSTD_DCtx_setParameter(reader->context, ZSTD_d_windowLogMax, WINDOW_LOG_MAX);
    return reader;
}

struct zstream_reader *zstream_decoder_new(struct error **err)
{
    return zstream_reader_new(-1, err);
}

/* One step from `in` to the output buffer. */
static bool decompress(struct zstream_reader *reader, ZSTD_inBuffer *in, size_t *size,
                       struct error **err)
{
    ZSTD_outBuffer out = {reader->out_buffer, BUFFER_BYTES, 0};
    size_t left = ZSTD_decompressStream(reader->context, &out, in);
    if (ZSTD_isError(left))
        return error_set(err, ERROR_HOST, "the archive is damaged: %s", ZSTD_getErrorName(left));
    reader->ended = left == 0;
    reader->more_out = out.pos == out.size;
    *size = out.pos;
    return true;
}

static bool fill(struct zstream_reader *reader, struct error **err)
{
    ssize_t count;
    do
        count = read(reader->fd, reader->in_buffer, BUFFER_BYTES);
    while (count < 0 && errno == EINTR);
    if (count < 0)
        return error_set_errno(err, errno, "cannot read the archive");
    if (count == 0)
        return error_set(err, ERROR_HOST, "the archive is cut off");
    reader->in = (ZSTD_inBuffer){reader->in_buffer, (size_t)count, 0};
    return true;
}

/* Nothing may stand behind the frame. */
static bool is_at_end(struct zstream_reader *reader, struct error **err)
{
    char byte;
    ssize_t count = 0;
    if (reader->in.pos == reader->in.size)
        do
            count = read(reader->fd, &byte, 1);
        while (count < 0 && errno == EINTR);
    return (reader->in.pos == reader->in.size && count == 0) ||
           error_set(err, ERROR_HOST, "something follows the archive in its file");
}

bool zstream_read(void *opaque, const void **bytes, size_t *size, struct error **err)
{
    struct zstream_reader *reader = opaque;
    *bytes = reader->out_buffer;
    for (*size = 0; *size == 0;) {
        if (reader->ended)
            return is_at_end(reader, err);
        if (reader->in.pos == reader->in.size && !reader->more_out && !fill(reader, err))
            return false;
        if (!decompress(reader, &reader->in, size, err))
            return false;
    }
    return true;
}

bool zstream_decode(struct zstream_reader *reader, const void *bytes, size_t size,
                    zstream_take_fn *take, void *opaque, bool *ended, struct error **err)
{
    ZSTD_inBuffer in = {bytes, size, 0};
    while (in.pos < in.size || (reader->more_out && !reader->ended)) {
        size_t count;
        if (reader->ended)
            return error_set(err, ERROR_HOST, "something follows the archive");
        if (!decompress(reader, &in, &count, err) || !take(opaque, reader->out_buffer, count, err))
            return false;
    }
    *ended = reader->ended;
    return true;
}

void zstream_reader_free(struct zstream_reader *reader)
{
    if (reader == NULL)
        return;
    ZSTD_freeDCtx(reader->context);
    free(reader->in_buffer);
    free(reader->out_buffer);
    free(reader);
}
