/* SPDX-License-Identifier: MIT
 *
 * See pack.h.
 */
#include "archive/pack.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/sum.h"
#include "archive/tar.h"
#include "archive/zstream.h"
#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

#define CHUNK_BYTES (1 * MIB)
/* Holes that are shorter are written as zeros: the map of a disk stays short. */
#define HOLE_MIN   (64 * KIB)
#define EXTENT_AIM 32768 /* extents of a disk, at most */

struct file {
    char name[PACK_MAX_NAME + 1];
    const char *format; /* NULL: not a disk */
    struct block_image *image;
    struct block_chain chain; /* until it is looked at */
    char *wanted;             /* the format that it is to have; NULL: it says so itself */
    int fd;
    const char *role; /* NULL: a file that the description names */
    uint64_t size, data;
    struct tar_extent *extents;
    size_t count;
};

struct pack {
    char *name;
    const struct text *text;
    struct file *files;
    size_t count;
    json_t *tree; /* NULL: none */
    int64_t rtc_offset;
    bool has_nvram;
    json_t *notes;
};

bool pack_name_is_plain(const char *name)
{
    size_t length = strlen(name);
    bool good = length > 0 && length <= PACK_MAX_NAME && name[0] != '.';
    for (size_t i = 0; i < length && good; i++)
        good = isalnum((unsigned char)name[i]) || strchr("._-", name[i]) != NULL;
    return good;
}

bool pack_name_is_reserved(const char *name)
{
    static const char *const names[] = {PACK_MANIFEST, PACK_SUMS, PACK_SAVED, PACK_NVRAM};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strcasecmp(name, names[i]) == 0)
            return true;
    return false;
}

struct pack *pack_new(const char *name, const struct text *text)
{
    struct pack *pack = alloc_zeroed(1, sizeof(*pack));
    pack->name = alloc_string(name);
    pack->text = text;
    pack->notes = json_array();
    return pack;
}

void pack_free(struct pack *pack)
{
    if (pack == NULL)
        return;
    for (size_t i = 0; i < pack->count; i++) {
        block_image_close(pack->files[i].image);
        block_chain_close(&pack->files[i].chain);
        free(pack->files[i].wanted);
        if (pack->files[i].fd >= 0)
            close(pack->files[i].fd);
        free(pack->files[i].extents);
    }
    free(pack->files);
    json_decref(pack->tree);
    json_decref(pack->notes);
    free(pack->name);
    free(pack);
}

void pack_note(struct pack *pack, const char *sentence)
{
    json_array_append_new(pack->notes, json_string(sentence));
}

bool pack_has(const struct pack *pack, const char *name)
{
    for (size_t i = 0; i < pack->count; i++)
        if (strcasecmp(pack->files[i].name, name) == 0)
            return true;
    return false;
}

static struct file *new_file(struct pack *pack, const char *name, struct error **err)
{
    assert(pack_name_is_plain(name) && !pack_has(pack, name));
    size_t most = pack->tree != NULL ? PACK_MAX_PARTS : PACK_MAX_FILES;
    if (pack->count == most) {
        error_set(err, ERROR_USAGE, "its archive would have more than %zu files", most);
        return NULL;
    }
    pack->files = alloc_resize(pack->files, pack->count + 1, sizeof(*pack->files));
    struct file *file = &pack->files[pack->count++];
    *file = (struct file){.fd = -1};
    strcpy(file->name, name);
    return file;
}

static void add_extent(struct file *file, uint64_t offset, uint64_t length, uint64_t hole_min)
{
    struct tar_extent *last = file->count > 0 ? &file->extents[file->count - 1] : NULL;
    if (last != NULL && offset - (last->offset + last->length) < hole_min) {
        file->data += offset + length - (last->offset + last->length);
        last->length = offset + length - last->offset;
        return;
    }
    if (file->count % 256 == 0)
        file->extents = alloc_resize(file->extents, file->count + 256, sizeof(*file->extents));
    file->extents[file->count++] = (struct tar_extent){offset, length};
    file->data += length;
}

/* Where its data are, as the guest sees it. */
static bool map_disk(struct file *file, struct error **err)
{
    struct block_image *image = file->image;
    file->size = image->size;
    uint64_t hole_min = image->size / EXTENT_AIM > HOLE_MIN ? image->size / EXTENT_AIM : HOLE_MIN;
    add_extent(file, 0, BLOCK_SECTOR, hole_min); /* a file that is one hole is nobody's strength */
    for (uint64_t at = BLOCK_SECTOR; at < image->size;) {
        struct block_extent extent;
        unsigned depth;
        int error = block_image_extent(image, at, image->size - at, &extent, &depth);
        if (error != 0)
            return error_set_errno(err, error, "cannot read the disk '%s'", image->name);
        if (extent.kind != BLOCK_EXTENT_ZERO)
            add_extent(file, at, extent.length, hole_min);
        at += extent.length;
    }
    return image->size <= PACK_MAX_SIZE ||
           error_set(err, ERROR_USAGE, "the disk '%s' is too large for an archive", image->name);
}

bool pack_add_disk(struct pack *pack, const char *name, struct block_image *image,
                   const char *format, struct error **err)
{
    struct file *file = new_file(pack, name, err);
    if (file == NULL) {
        block_image_close(image);
        return false;
    }
    file->format = format;
    file->image = image;
    return map_disk(file, err);
}

bool pack_add_chain(struct pack *pack, const char *name, const struct block_chain *chain,
                    const char *format, struct error **err)
{
    struct file *file = new_file(pack, name, err);
    if (file == NULL) {
        struct block_chain unwanted = *chain;
        block_chain_close(&unwanted);
        return false;
    }
    file->chain = *chain;
    file->wanted = format != NULL ? alloc_string(format) : NULL;
    return true;
}

bool pack_look(struct pack *pack, struct error **err)
{
    for (size_t i = 0; i < pack->count; i++) {
        struct file *file = &pack->files[i];
        const struct block_chain_options how = {.format = file->wanted, .read_only = true};
        if (file->chain.count == 0)
            continue;
        file->image = block_chain_open(&file->chain, file->name, &how, err);
        if (file->image == NULL)
            return false;
        file->format = file->image->format->name;
        if (!map_disk(file, err))
            return false;
    }
    return true;
}

size_t pack_fds(const struct pack *pack, int *fds, size_t room)
{
    size_t count = 0;
    for (size_t i = 0; i < pack->count; i++) {
        const struct file *file = &pack->files[i];
        for (size_t k = 0; k < file->chain.count; k++, count++)
            if (count < room)
                fds[count] = file->chain.fds[k];
        if (file->fd >= 0 && count++ < room)
            fds[count - 1] = file->fd;
    }
    return count;
}

bool pack_add_file(struct pack *pack, const char *name, int fd, struct error **err)
{
    struct stat status;
    struct file *file = new_file(pack, name, err);
    if (file == NULL) {
        close(fd);
        return false;
    }
    file->fd = fd;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return error_set(err, ERROR_HOST, "'%s' is no file", name);
    file->size = (uint64_t)status.st_size;
    if (file->size > 0)
        add_extent(file, 0, file->size, 1);
    return true;
}

/* A file that is one hole is nobody's strength: it has data from its beginning on. */
static bool map_holes(struct file *file, struct error **err)
{
    uint64_t hole_min = file->size / EXTENT_AIM > HOLE_MIN ? file->size / EXTENT_AIM : HOLE_MIN;
    off_t at = file->size < BLOCK_SECTOR ? (off_t)file->size : BLOCK_SECTOR, end;
    if (at > 0)
        add_extent(file, 0, (uint64_t)at, hole_min);
    while ((at = lseek(file->fd, at, SEEK_DATA)) >= 0) {
        end = lseek(file->fd, at, SEEK_HOLE);
        if (end < 0)
            break;
        add_extent(file, (uint64_t)at, (uint64_t)(end - at), hole_min);
        at = end;
    }
    return errno == ENXIO || error_set_errno(err, errno, "cannot read '%s'", file->name);
}

bool pack_add_saved(struct pack *pack, int fd, struct error **err)
{
    struct stat status;
    struct file *file = new_file(pack, PACK_SAVED, err);
    if (file == NULL) {
        close(fd);
        return false;
    }
    file->fd = fd;
    file->role = "suspended";
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0)
        return error_set(err, ERROR_HOST, "'%s' is no file", file->name);
    file->size = (uint64_t)status.st_size;
    return map_holes(file, err);
}

bool pack_add_part(struct pack *pack, int fd, struct error **err)
{
    char name[PACK_MAX_NAME + 1];
    struct stat status;
    snprintf(name, sizeof(name), PACK_PART "%zu", pack->count);
    struct file *file = new_file(pack, name, err);
    if (file == NULL) {
        close(fd);
        return false;
    }
    file->fd = fd;
    file->role = "part";
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return error_set(err, ERROR_HOST, "'%s' is no file", name);
    file->size = (uint64_t)status.st_size;
    return (file->size <= PACK_MAX_SIZE ||
            error_set(err, ERROR_USAGE, "a file of it is too large for an archive")) &&
           map_holes(file, err);
}

bool pack_add_nvram(struct pack *pack, int fd, struct error **err)
{
    bool good;
    if (pack->tree != NULL) {
        json_object_set_new(pack->tree, "nvram", json_integer((json_int_t)pack_parts(pack)));
        good = pack_add_part(pack, fd, err);
    } else {
        good = pack_add_file(pack, PACK_NVRAM, fd, err);
        if (good)
            pack->files[pack->count - 1].role = "nvram";
    }
    pack->has_nvram = true;
    return good;
}

size_t pack_parts(const struct pack *pack)
{
    return pack->count;
}

void pack_set_tree(struct pack *pack, json_t *tree)
{
    pack->tree = tree;
}

void pack_set_clock(struct pack *pack, int64_t rtc_offset)
{
    pack->rtc_offset = rtc_offset;
}

/* ---- writing ---- */

static int read_at(const struct file *file, uint64_t offset, void *buffer, size_t size)
{
    if (file->image != NULL)
        return block_image_read(file->image, offset, buffer, size);
    for (size_t done = 0; done < size;) {
        ssize_t count = pread(file->fd, (char *)buffer + done, size - done, (off_t)(offset + done));
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count < 0 ? errno : EIO; /* it became shorter */
        done += (size_t)count;
    }
    return 0;
}

static bool write_extent(struct tar_writer *tar, const struct file *file, struct tar_extent extent,
                         struct sum *sum, void *buffer, struct error **err)
{
    for (uint64_t done = 0; done < extent.length;) {
        uint64_t left = extent.length - done;
        size_t size = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
        int error = read_at(file, extent.offset + done, buffer, size);
        if (error != 0)
            return error_set_errno(err, error, "cannot read '%s'", file->name);
        sum_add(sum, buffer, size);
        if (!tar_data(tar, buffer, size, err))
            return false;
        done += size;
    }
    return true;
}

static bool write_file(struct tar_writer *tar, const struct file *file, struct sum *sum,
                       struct error **err)
{
    void *buffer = aligned_alloc(4096, CHUNK_BYTES);
    uint64_t at = 0;
    bool good = buffer != NULL || error_set_errno(err, ENOMEM, "cannot read '%s'", file->name);
    bool whole = file->count == 1 && file->extents[0].length == file->size;
    good =
        good && tar_begin(tar, file->name, file->size, file->extents, whole ? 0 : file->count, err);
    sum_add_extents(sum, file->extents, file->count);
    for (size_t i = 0; i < file->count && good; i++) {
        good = tar_skip(tar, file->extents[i].offset - at, err) &&
               write_extent(tar, file, file->extents[i], sum, buffer, err);
        at = file->extents[i].offset + file->extents[i].length;
    }
    free(buffer);
    return good && tar_skip(tar, file->size - at, err);
}

static bool write_bytes(struct tar_writer *tar, const char *name, const char *bytes, size_t size,
                        json_t *sums, struct error **err)
{
    const struct tar_extent all = {0, size};
    char text[SUM_TEXT_MAX];
    if (sums != NULL) {
        struct sum *sum = sum_new("sha256");
        sum_add_extents(sum, &all, size > 0);
        sum_add(sum, bytes, size);
        sum_end(sum, text);
        json_object_set_new(sums, name, json_string(text));
    }
    return tar_begin(tar, name, size, NULL, 0, err) && tar_data(tar, bytes, size, err);
}

static bool write_json(struct tar_writer *tar, const char *name, const json_t *value,
                       struct error **err)
{
    char *bytes = json_dumps(value, JSON_INDENT(2));
    bool good = bytes != NULL ? write_bytes(tar, name, bytes, strlen(bytes), NULL, err)
                              : error_set(err, ERROR_HOST, "cannot write '%s'", name);
    free(bytes);
    return good;
}

static bool write_manifest(const struct pack *pack, struct tar_writer *tar, const char *description,
                           struct error **err)
{
    json_t *files = json_array();
    for (size_t i = 0; i < pack->count; i++) {
        const struct file *file = &pack->files[i];
        json_t *row = json_pack("{s:s, s:I, s:I}", "name", file->name, "size",
                                (json_int_t)file->size, "data", (json_int_t)file->data);
        if (file->format != NULL)
            json_object_set_new(row, "format", json_string(file->format));
        if (file->role != NULL)
            json_object_set_new(row, "role", json_string(file->role));
        json_array_append_new(files, row);
    }
    int version = pack->has_nvram              ? PACK_HAS_NVRAM
                  : pack->tree != NULL         ? 3
                  : pack_has(pack, PACK_SAVED) ? 2
                                               : 1;
    json_t *manifest =
        json_pack("{s:i, s:s, s:s, s:o, s:O}", "trapeze-archive", version, "name", pack->name,
                  "description", description, "files", files, "notes", pack->notes);
    if (pack->tree != NULL)
        json_object_set(manifest, "tree", pack->tree);
    if (pack->rtc_offset != 0)
        json_object_set_new(manifest, "rtc-offset", json_integer(pack->rtc_offset));
    bool good = write_json(tar, PACK_MANIFEST, manifest, err);
    json_decref(manifest);
    return good;
}

static bool write_members(const struct pack *pack, struct tar_writer *tar, struct error **err)
{
    char description[PACK_MAX_NAME + 8];
    json_t *sums = json_object();
    size_t size;
    char *text = text_write(pack->text, &size);
    snprintf(description, sizeof(description), "%s.vmx", pack->name);
    bool good = write_manifest(pack, tar, description, err) &&
                write_bytes(tar, description, text, size, sums, err);
    for (size_t i = 0; i < pack->count && good; i++) {
        char hex[SUM_TEXT_MAX];
        struct sum *sum = sum_new("sha256");
        good = write_file(tar, &pack->files[i], sum, err);
        sum_end(sum, hex);
        json_object_set_new(sums, pack->files[i].name, json_string(hex));
    }
    good = good && write_json(tar, PACK_SUMS, sums, err) && tar_end(tar, err);
    json_decref(sums);
    free(text);
    return good;
}

char *pack_describe(const struct pack *pack)
{
    uint64_t bytes = 16 * KIB;
    for (size_t i = 0; i < pack->count; i++)
        bytes += pack->files[i].data + KIB;
    json_t *about = json_pack("{s:I, s:O}", "bytes", (json_int_t)bytes, "notes", pack->notes);
    char *text = json_dumps(about, JSON_COMPACT | JSON_ENSURE_ASCII);
    json_decref(about);
    return text;
}

bool pack_write(struct pack *pack, int fd, struct error **err)
{
    struct zstream_writer *stream = zstream_writer_new(fd, err);
    struct tar_writer *tar = stream != NULL ? tar_writer_new(zstream_write, stream, err) : NULL;
    bool good = tar != NULL && write_members(pack, tar, err) && zstream_end(stream, err);
    tar_writer_free(tar);
    zstream_writer_free(stream);
    return good;
}
