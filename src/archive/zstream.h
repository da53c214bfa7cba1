/* SPDX-License-Identifier: MIT
 *
 * A descriptor's bytes, compressed on their way: one zstd frame with a checksum of its content.
 * The functions are those that tar.h wants.
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_ARCHIVE_ZSTREAM_H
#define TRAPEZE_ARCHIVE_ZSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct zstream_reader;
struct zstream_writer;

/* Borrows the descriptor: a file, a pipe or a socket. */
struct zstream_writer *zstream_writer_new(int fd, struct error **err);
bool zstream_write(void *writer, const void *bytes, size_t size, struct error **err);
bool zstream_end(struct zstream_writer *writer, struct error **err);
void zstream_writer_free(struct zstream_writer *writer); /* NULL is fine */

/* What it costs in memory is bounded, whatever comes. */
struct zstream_reader *zstream_reader_new(int fd, struct error **err);
/* A frame that is cut off or does not fit its checksum is an error, and so is what follows it. */
bool zstream_read(void *reader, const void **bytes, size_t *size, struct error **err);
void zstream_reader_free(struct zstream_reader *reader); /* NULL is fine */

/* The same for bytes that come from somewhere else: hands on what comes out, in pieces. *ended:
 * the frame is at its end. */
typedef bool zstream_take_fn(void *opaque, const void *bytes, size_t size, struct error **err);
struct zstream_reader *zstream_decoder_new(struct error **err);
bool zstream_decode(struct zstream_reader *reader, const void *bytes, size_t size,
                    zstream_take_fn *take, void *opaque, bool *ended, struct error **err);

#endif
