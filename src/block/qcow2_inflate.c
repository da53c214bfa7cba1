/* SPDX-License-Identifier: MIT
 *
 * Compressed clusters, for reading: deflate without a header (as qemu-img writes it) or zstd.
 * The last one is kept, for guests that read it piece by piece.
 */
#include "block/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

static bool inflate_zlib(uint8_t *to, size_t to_size, uint8_t *from, size_t from_size)
{
    z_stream stream = {
        .next_in = from,
        .avail_in = (uInt)from_size,
        .next_out = to,
        .avail_out = (uInt)to_size,
    };
    if (inflateInit2(&stream, -12) != Z_OK)
        return false;
    int result = inflate(&stream, Z_FINISH);
    bool whole = (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.avail_out == 0;
    inflateEnd(&stream);
    return whole;
}

static bool inflate_zstd(uint8_t *to, size_t to_size, const uint8_t *from, size_t from_size)
{
    ZSTD_DStream *stream = ZSTD_createDStream();
    ZSTD_outBuffer out = {to, to_size, 0};
    ZSTD_inBuffer in = {from, from_size, 0};
    bool good = stream != NULL;
    while (good && out.pos < out.size) {
        size_t out_before = out.pos, in_before = in.pos;
        good = !ZSTD_isError(ZSTD_decompressStream(stream, &out, &in)) &&
               (out.pos > out_before || in.pos > in_before);
    }
    ZSTD_freeDStream(stream);
    return good;
}

static int fill(struct qcow2 *q, uint64_t entry)
{
    uint64_t offset, size;
    qcow2_compressed_place(q, entry, &offset, &size);
    if (q->inflated == NULL) {
        q->inflated = malloc(q->cluster_size);
        q->deflated = malloc((size_t)q->cluster_size * 2 + 1024);
    }
    if (q->inflated == NULL || q->deflated == NULL)
        return ENOMEM;
    q->inflated_entry = 0;
    int error = block_file_pread(q->file, offset, q->deflated, (size_t)size);
    if (error != 0)
        return error;
    bool good = q->compression == 1
                    ? inflate_zstd(q->inflated, q->cluster_size, q->deflated, (size_t)size)
                    : inflate_zlib(q->inflated, q->cluster_size, q->deflated, (size_t)size);
    if (!good)
        return EIO;
    q->inflated_entry = entry;
    return 0;
}

int qcow2_inflate(struct qcow2 *q, uint64_t entry, uint64_t at, struct block_span to)
{
    pthread_mutex_lock(&q->inflate_lock);
    int error = q->inflated_entry == entry ? 0 : fill(q, entry);
    if (error == 0)
        block_span_fill(to, q->inflated + at);
    pthread_mutex_unlock(&q->inflate_lock);
    return error;
}
