/* SPDX-License-Identifier: MIT
 *
 * Tar archives by libarchive, as streams: no seeking, regular files only. libarchive is loaded when
 * it is needed: linked, it would cost every command and every worker, which is the same executable,
 * 2 ms of CPU at its start (measured 2026-11-21).
 *
 * What is read is a stranger's: a member is a regular file in no folder (no '/', no '.' in
 * front, no link, no device, no name twice); what stands between two members' data is bounded.
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_ARCHIVE_TAR_H
#define TRAPEZE_ARCHIVE_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct tar_reader;
struct tar_writer;

#define TAR_MAX_NAME    255 /* bytes of a member's name */
#define TAR_MAX_MEMBERS 4200
#define TAR_MAX_EXTENTS 70000 /* of a sparse member */

/* A stretch of a file that is not a hole. Stretches are sorted and do not touch. */
struct tar_extent {
    uint64_t offset, length; /* bytes */
};

/* Takes all of the bytes; false: err. */
typedef bool tar_write_fn(void *opaque, const void *bytes, size_t size, struct error **err);
/* Some bytes, valid until the next call; *size 0: the end. False: err. */
typedef bool tar_read_fn(void *opaque, const void **bytes, size_t *size, struct error **err);

/* libarchive, which is loaded when it is needed: before, for a process that will not be able to. */
bool tar_load(struct error **err);

struct tar_writer *tar_writer_new(tar_write_fn *fn, void *opaque, struct error **err);
/* A member of `size` bytes; without extents it has no holes. */
bool tar_begin(struct tar_writer *writer, const char *name, uint64_t size,
               const struct tar_extent *extents, size_t count, struct error **err);
/* The member's bytes, one after the other. Those of holes are passed over with tar_skip(). */
bool tar_data(struct tar_writer *writer, const void *bytes, size_t size, struct error **err);
bool tar_skip(struct tar_writer *writer, uint64_t size, struct error **err);
bool tar_end(struct tar_writer *writer, struct error **err); /* of the archive */
void tar_writer_free(struct tar_writer *writer);             /* NULL is fine */

struct tar_member {
    char name[TAR_MAX_NAME + 1];
    uint64_t size;
    const struct tar_extent *extents; /* valid until the next member */
    size_t count;
};

struct tar_reader *tar_reader_new(tar_read_fn *fn, void *opaque, struct error **err);
/* *there false: the archive is at its end. False: err. */
bool tar_next(struct tar_reader *reader, struct tar_member *member, bool *there,
              struct error **err);
/* The member's next bytes, which lie in one of its extents; *size 0: it is at its end, and all of
 * its extents came. False: err. */
bool tar_read(struct tar_reader *reader, const void **bytes, size_t *size, uint64_t *offset,
              struct error **err);
void tar_reader_free(struct tar_reader *reader); /* NULL is fine */

#endif
