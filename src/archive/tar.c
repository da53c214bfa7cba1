/* SPDX-License-Identifier: MIT
 *
 * See tar.h. An error of the caller's functions crosses libarchive in the reader or writer.
 */
#include "archive/tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/library.h"

/* Between two members' data there are headers, and a sparse file's map. */
#define HEADERS_MAX (8 * MIB)
#define ZEROS_BYTES (4 * MIB)

#define CALLS(X)                                                                                   \
    X(archive_error_string)                                                                        \
    X(archive_read_new)                                                                            \
    X(archive_read_support_format_tar)                                                             \
    X(archive_read_open)                                                                           \
    X(archive_read_next_header)                                                                    \
    X(archive_read_data_block)                                                                     \
    X(archive_read_free)                                                                           \
    X(archive_write_new)                                                                           \
    X(archive_write_set_format_pax_restricted)                                                     \
    X(archive_write_set_bytes_in_last_block)                                                       \
    X(archive_write_open)                                                                          \
    X(archive_write_header)                                                                        \
    X(archive_write_data)                                                                          \
    X(archive_write_close)                                                                         \
    X(archive_write_free)                                                                          \
    X(archive_entry_new)                                                                           \
    X(archive_entry_free)                                                                          \
    X(archive_entry_set_pathname)                                                                  \
    X(archive_entry_set_size)                                                                      \
    X(archive_entry_set_filetype)                                                                  \
    X(archive_entry_set_perm)                                                                      \
    X(archive_entry_set_mtime)                                                                     \
    X(archive_entry_sparse_add_entry)                                                              \
    X(archive_entry_pathname)                                                                      \
    X(archive_entry_size)                                                                          \
    X(archive_entry_size_is_set)                                                                   \
    X(archive_entry_filetype)                                                                      \
    X(archive_entry_hardlink)                                                                      \
    X(archive_entry_sparse_reset)                                                                  \
    X(archive_entry_sparse_next)

struct library {
    CALLS(LIBRARY_MEMBER)
};

static bool load(struct library *library, struct error **err)
{
    static const char *const names[] = {"libarchive.so.13", NULL}, *const calls[] = {
                                                                       CALLS(LIBRARY_NAME_OF) NULL};
    const char *why;
    if (library_load(names, calls, library, &why))
        return true;
    error_set(err, ERROR_HOST, "archives need libarchive, which cannot be loaded: %s",
              why != NULL ? why : "?");
    error_hint(err, "Install it: apt-get install libarchive13 (or libarchive13t64)");
    return false;
}

bool tar_load(struct error **err)
{
    struct library library;
    return load(&library, err);
}

/* ---- writing ---- */

struct tar_writer {
    struct library library;
    struct archive *archive;
    tar_write_fn *fn;
    void *opaque;
    struct error *error;
    bool closed;
    char *zeros;
};

static la_ssize_t write_some(struct archive *archive, void *opaque, const void *bytes, size_t size)
{
    struct tar_writer *writer = opaque;
    (void)archive;
    return !writer->closed && writer->error == NULL &&
                   writer->fn(writer->opaque, bytes, size, &writer->error)
               ? (la_ssize_t)size
               : -1;
}

static bool write_failed(struct tar_writer *writer, struct error **err)
{
    struct error *error = writer->error;
    writer->error = NULL;
    if (error != NULL)
        return error_propagate(err, error);
    const char *text = writer->library.archive_error_string(writer->archive);
    return error_set(err, ERROR_HOST, "cannot write the archive: %s", text != NULL ? text : "?");
}

struct tar_writer *tar_writer_new(tar_write_fn *fn, void *opaque, struct error **err)
{
    struct tar_writer *writer = alloc_zeroed(1, sizeof(*writer));
    const struct library *library = &writer->library;
    if (!load(&writer->library, err)) {
        free(writer);
        return NULL;
    }
    writer->fn = fn;
    writer->opaque = opaque;
    writer->zeros = alloc_zeroed(1, ZEROS_BYTES);
    writer->archive = library->archive_write_new();
    if (writer->archive != NULL &&
        library->archive_write_set_format_pax_restricted(writer->archive) == ARCHIVE_OK &&
        library->archive_write_set_bytes_in_last_block(writer->archive, 1) == ARCHIVE_OK &&
        library->archive_write_open(writer->archive, writer, NULL, write_some, NULL) == ARCHIVE_OK)
        return writer;
    error_set(err, ERROR_HOST, "cannot begin an archive");
    tar_writer_free(writer);
    return NULL;
}

bool tar_begin(struct tar_writer *writer, const char *name, uint64_t size,
               const struct tar_extent *extents, size_t count, struct error **err)
{
    const struct library *library = &writer->library;
    struct archive_entry *entry = library->archive_entry_new();
    library->archive_entry_set_pathname(entry, name);
    library->archive_entry_set_size(entry, (la_int64_t)size);
    library->archive_entry_set_filetype(entry, AE_IFREG);
    library->archive_entry_set_perm(entry, 0600);
    library->archive_entry_set_mtime(entry, 0, 0);
    for (size_t i = 0; i < count; i++)
        library->archive_entry_sparse_add_entry(entry, (la_int64_t)extents[i].offset,
                                                (la_int64_t)extents[i].length);
    int result = library->archive_write_header(writer->archive, entry);
    library->archive_entry_free(entry);
    return (result == ARCHIVE_OK && writer->error == NULL) || write_failed(writer, err);
}

bool tar_data(struct tar_writer *writer, const void *bytes, size_t size, struct error **err)
{
    for (size_t done = 0; done < size;) {
        la_ssize_t count = writer->library.archive_write_data(
            writer->archive, (const char *)bytes + done, size - done);
        if (count <= 0 || writer->error != NULL)
            return write_failed(writer, err);
        done += (size_t)count;
    }
    return true;
}

bool tar_skip(struct tar_writer *writer, uint64_t size, struct error **err)
{
    bool good = true;
    for (size_t piece; good && size > 0; size -= piece) {
        piece = size < ZEROS_BYTES ? (size_t)size : ZEROS_BYTES;
        good = tar_data(writer, writer->zeros, piece, err);
    }
    return good;
}

bool tar_end(struct tar_writer *writer, struct error **err)
{
    int result = writer->library.archive_write_close(writer->archive);
    writer->closed = true;
    return (result == ARCHIVE_OK && writer->error == NULL) || write_failed(writer, err);
}

void tar_writer_free(struct tar_writer *writer)
{
    if (writer == NULL)
        return;
    writer->closed = true; /* it would write its end now */
    if (writer->archive != NULL)
        writer->library.archive_write_free(writer->archive);
    error_free(writer->error);
    free(writer->zeros);
    free(writer);
}

/* ---- reading ---- */

struct tar_reader {
    struct library library;
    struct archive *archive;
    tar_read_fn *fn;
    void *opaque;
    struct error *error;
    uint64_t allowed; /* bytes that may be read before the member's data must have moved on */
    struct tar_extent *extents;
    size_t count, current;
    uint64_t position; /* in the current extent */
    char **names;
    size_t name_count;
};

static la_ssize_t read_some(struct archive *archive, void *opaque, const void **bytes)
{
    struct tar_reader *reader = opaque;
    size_t size = 0;
    (void)archive;
    *bytes = NULL;
    if (reader->error != NULL || !reader->fn(reader->opaque, bytes, &size, &reader->error))
        return -1;
    if (size > reader->allowed) {
        error_set(&reader->error, ERROR_HOST, "the archive's headers are unreasonably long");
        return -1;
    }
    reader->allowed -= size;
    return (la_ssize_t)size;
}

static bool read_failed(struct tar_reader *reader, struct error **err)
{
    struct error *error = reader->error;
    reader->error = NULL;
    if (error != NULL)
        return error_propagate(err, error);
    const char *text = reader->library.archive_error_string(reader->archive);
    return error_set(err, ERROR_HOST, "the archive is damaged: %s", text != NULL ? text : "?");
}

struct tar_reader *tar_reader_new(tar_read_fn *fn, void *opaque, struct error **err)
{
    struct tar_reader *reader = alloc_zeroed(1, sizeof(*reader));
    const struct library *library = &reader->library;
    if (!load(&reader->library, err)) {
        free(reader);
        return NULL;
    }
    reader->fn = fn;
    reader->opaque = opaque;
    reader->allowed = HEADERS_MAX;
    reader->archive = library->archive_read_new();
    if (reader->archive != NULL &&
        library->archive_read_support_format_tar(reader->archive) == ARCHIVE_OK &&
        library->archive_read_open(reader->archive, reader, NULL, read_some, NULL) == ARCHIVE_OK)
        return reader;
    if (reader->archive != NULL)
        read_failed(reader, err);
    else
        error_set(err, ERROR_HOST, "cannot read archives");
    tar_reader_free(reader);
    return NULL;
}

static bool is_safe(const char *name)
{
    size_t length = strlen(name);
    bool good = length > 0 && length <= TAR_MAX_NAME && name[0] != '.';
    for (size_t i = 0; i < length && good; i++)
        good =
            name[i] != '/' && name[i] != '\\' && (unsigned char)name[i] >= ' ' && name[i] != 0x7f;
    return good;
}

static bool take_name(struct tar_reader *reader, struct tar_member *member, const char *name,
                      struct error **err)
{
    if (name != NULL && strncmp(name, "./", 2) == 0)
        name += 2;
    if (name == NULL || !is_safe(name))
        return error_set(err, ERROR_HOST, "the archive has a file of the name '%.80s'",
                         name != NULL ? name : "?");
    for (size_t i = 0; i < reader->name_count; i++)
        if (strcasecmp(reader->names[i], name) == 0)
            return error_set(err, ERROR_HOST, "the archive has '%s' twice", name);
    if (reader->name_count == TAR_MAX_MEMBERS)
        return error_set(err, ERROR_HOST, "the archive has more than %d files", TAR_MAX_MEMBERS);
    reader->names = alloc_resize(reader->names, reader->name_count + 1, sizeof(*reader->names));
    reader->names[reader->name_count++] = alloc_string(name);
    strcpy(member->name, name);
    return true;
}

static bool take_extents(struct tar_reader *reader, struct archive_entry *entry, uint64_t size,
                         struct error **err)
{
    la_int64_t offset, length;
    uint64_t end = 0;
    bool any = false;
    reader->count = reader->current = 0;
    reader->position = 0;
    reader->library.archive_entry_sparse_reset(entry);
    while (reader->library.archive_entry_sparse_next(entry, &offset, &length) == ARCHIVE_OK) {
        any = true;
        if (offset < 0 || length < 0 || (uint64_t)offset < end || (uint64_t)offset > size ||
            (uint64_t)length > size - (uint64_t)offset || reader->count == TAR_MAX_EXTENTS)
            return error_set(err, ERROR_HOST, "the archive's map of a sparse file makes no sense");
        end = (uint64_t)(offset + length);
        if (length == 0)
            continue;
        if (reader->count % 1024 == 0)
            reader->extents =
                alloc_resize(reader->extents, reader->count + 1024, sizeof(*reader->extents));
        reader->extents[reader->count++] = (struct tar_extent){(uint64_t)offset, (uint64_t)length};
    }
    if (!any && size > 0) {
        reader->extents = alloc_resize(reader->extents, 1024, sizeof(*reader->extents));
        reader->extents[reader->count++] = (struct tar_extent){0, size};
    }
    return true;
}

bool tar_next(struct tar_reader *reader, struct tar_member *member, bool *there, struct error **err)
{
    const struct library *library = &reader->library;
    struct archive_entry *entry = NULL;
    reader->allowed = HEADERS_MAX;
    int result = library->archive_read_next_header(reader->archive, &entry);
    *there = result == ARCHIVE_OK;
    if (result == ARCHIVE_EOF && reader->error == NULL)
        return true;
    if (result != ARCHIVE_OK || reader->error != NULL)
        return read_failed(reader, err);
    if (!take_name(reader, member, library->archive_entry_pathname(entry), err))
        return false;
    if (library->archive_entry_filetype(entry) != AE_IFREG ||
        library->archive_entry_hardlink(entry) != NULL ||
        !library->archive_entry_size_is_set(entry) || library->archive_entry_size(entry) < 0)
        return error_set(err, ERROR_HOST, "'%s' in the archive is no plain file", member->name);
    member->size = (uint64_t)library->archive_entry_size(entry);
    if (!take_extents(reader, entry, member->size, err))
        return false;
    member->extents = reader->extents;
    member->count = reader->count;
    return true;
}

/* libarchive may hand out a run that spans neighbouring extents, or a piece of one. */
static bool follow(struct tar_reader *reader, uint64_t offset, uint64_t size)
{
    while (size > 0) {
        if (reader->current == reader->count)
            return false;
        const struct tar_extent *extent = &reader->extents[reader->current];
        uint64_t left = extent->length - reader->position;
        uint64_t piece = size < left ? size : left;
        if (offset != extent->offset + reader->position)
            return false;
        reader->position += piece;
        offset += piece;
        size -= piece;
        if (reader->position == extent->length) {
            reader->current++;
            reader->position = 0;
        }
    }
    return true;
}

bool tar_read(struct tar_reader *reader, const void **bytes, size_t *size, uint64_t *offset,
              struct error **err)
{
    la_int64_t at = 0;
    do {
        *size = 0;
        reader->allowed = HEADERS_MAX;
        int result = reader->library.archive_read_data_block(reader->archive, bytes, size, &at);
        if (result == ARCHIVE_EOF) {
            *size = 0;
            return reader->current == reader->count ||
                   error_set(err, ERROR_HOST, "the archive lacks a part of a file");
        }
        if (result != ARCHIVE_OK || reader->error != NULL)
            return read_failed(reader, err);
    } while (*size == 0);
    *offset = (uint64_t)at;
    return follow(reader, *offset, *size) ||
           error_set(err, ERROR_HOST, "the archive's map of a sparse file is not what follows");
}

void tar_reader_free(struct tar_reader *reader)
{
    if (reader == NULL)
        return;
    if (reader->archive != NULL)
        reader->library.archive_read_free(reader->archive);
    error_free(reader->error);
    for (size_t i = 0; i < reader->name_count; i++)
        free(reader->names[i]);
    free(reader->names);
    free(reader->extents);
    free(reader);
}
