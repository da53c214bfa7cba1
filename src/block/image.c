/* SPDX-License-Identifier: MIT
 *
 * See image.h: which format an image has, and the chain below it.
 */
#include "block/image.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

#define X(name) extern const struct block_format block_format_##name;
#include "block/formats.inc"
#undef X

static const struct block_format *const formats[] = {
#define X(name) &block_format_##name,
#include "block/formats.inc"
#undef X
};

const struct block_format *block_format_at(size_t index)
{
    return index < ARRAY_SIZE(formats) ? formats[index] : NULL;
}

const struct block_format *block_format_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    return NULL;
}

/* --- which format --- */

/* How the formats begin that others write and we only convert. */
static const struct {
    const char *name;
    const char *driver; /* qemu-img's name */
    unsigned offset;
    const char *magic;
} foreign[] = {
    {"VMDK", "vmdk", 0, "KDMV"},
    {"VMDK", "vmdk", 0, "COWD"},
    {"VMDK", "vmdk", 0, "# Disk Descriptor"},
    {"VHDX", "vhdx", 0, "vhdxfile"},
    {"VHD", "vpc", 0, "conectix"},
    {"VDI", "vdi", 64, "\x7f\x10\xda\xbe"},
    {"QED", "qed", 0, "QED"},
    {"Parallels", "parallels", 0, "WithoutFreeSpace"},
    {"Parallels", "parallels", 0, "WithouFreSpacExt"},
    {"LUKS", "luks", 0, "LUKS\xba\xbe"},
};

/* Index of the foreign format that a file begins like; ARRAY_SIZE(foreign): none. */
static size_t find_foreign(const uint8_t *start, size_t length)
{
    size_t i;
    for (i = 0; i < ARRAY_SIZE(foreign); i++) {
        size_t bytes = strlen(foreign[i].magic);
        if (foreign[i].offset + bytes <= length &&
            memcmp(start + foreign[i].offset, foreign[i].magic, bytes) == 0)
            break;
    }
    return i;
}

static int read_start(struct block_file *file, uint8_t start[512], size_t *length)
{
    uint64_t size;
    int error = file->ops->size(file, &size);
    *length = error == 0 && size < 512 ? (size_t)size : 512;
    return error != 0 || *length == 0 ? error : block_file_pread(file, 0, start, *length);
}

const char *block_file_foreign(struct block_file *file)
{
    uint8_t start[512];
    size_t length, found = ARRAY_SIZE(foreign);
    if (read_start(file, start, &length) == 0)
        found = find_foreign(start, length);
    return found < ARRAY_SIZE(foreign) ? foreign[found].driver : NULL;
}

static bool unknown_format(const char *name, struct error **err)
{
    char list[128] = "";
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        strcat(list, i > 0 ? ", " : "");
        strcat(list, formats[i]->name);
    }
    error_set(err, ERROR_USAGE, "there is no disk format '%s'", name);
    error_hint(err, "There are: %s", list);
    return false;
}

static const struct block_format *guess(struct block_file *file, struct error **err)
{
    uint8_t start[512];
    size_t length;
    int error = read_start(file, start, &length);
    if (error != 0) {
        error_set_errno(err, error, "cannot read its first sector");
        return NULL;
    }
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
        if (formats[i]->claims != NULL && formats[i]->claims(start, length))
            return formats[i];
    size_t found = find_foreign(start, length);
    if (found < ARRAY_SIZE(foreign)) {
        error_set(err, ERROR_USAGE, "it begins like a %s image", foreign[found].name);
        error_hint(err, "Convert it with 'trapeze disk convert', or, if these are the bytes of a "
                        "raw disk, say format=raw");
        return NULL;
    }
    return block_format_find("raw");
}

/* --- the chain --- */

char *block_image_resolve(const char *above, const char *name)
{
    const char *slash = strrchr(above, '/');
    char *path;
    if (strncmp(name, "file:", 5) == 0)
        name += 5;
    if (name[0] == '/' || slash == NULL)
        return alloc_string(name);
    size_t folder = (size_t)(slash - above) + 1;
    path = alloc_zeroed(1, folder + strlen(name) + 1);
    memcpy(path, above, folder);
    strcpy(path + folder, name);
    return path;
}

static bool is_same_file(const struct block_file *one, const struct block_file *other)
{
    return (one->device != 0 || one->inode != 0) && one->device == other->device &&
           one->inode == other->inode;
}

/* Images being opened, from the top down. */
struct chain {
    struct block_file *files[BLOCK_DEPTH_MAX];
    unsigned depth;
};

static struct block_image *open_at(struct chain *chain, struct block_file *file, const char *name,
                                   const struct block_image_options *options, struct error **err);

static bool open_backing(struct chain *chain, struct block_image *image,
                         const struct block_image_options *options, struct error **err)
{
    if (image->guessed) {
        error_set(err, ERROR_USAGE,
                  "it begins like a %s image on top of '%s', which a guest could have written to "
                  "a raw disk",
                  image->format->name, image->backing_name);
        error_hint(err, "If it is one, say format=%s", image->format->name);
        return false;
    }
    if (image->backing_format == NULL) {
        error_set(err, ERROR_USAGE, "it does not record which format its backing file '%s' has",
                  image->backing_name);
        error_hint(err, "Record it: qemu-img rebase -u -b '%s' -F FORMAT '%s'", image->backing_name,
                   image->name);
        return false;
    }
    if (options->opener == NULL)
        return error_set(err, ERROR_USAGE, "it has a backing file, which cannot be opened here");
    if (chain->depth == BLOCK_DEPTH_MAX)
        return error_set(err, ERROR_USAGE, "its chain of backing files is more than %d deep",
                         BLOCK_DEPTH_MAX);
    char *resolved = NULL;
    struct block_file *file =
        options->opener->open(options->opener, image->name, image->backing_name, &resolved, err);
    if (file == NULL) {
        error_prefix(err, "backing file '%s'", image->backing_name);
        return false;
    }
    struct block_image_options below = {.format = image->backing_format,
                                        .opener = options->opener,
                                        .names_only = options->names_only};
    for (unsigned i = 0; i < chain->depth; i++)
        if (is_same_file(chain->files[i], file)) {
            error_set(err, ERROR_USAGE, "backing file '%s': it is also above itself in the chain",
                      resolved);
            goto fail;
        }
    image->backing = open_at(chain, file, resolved, &below, err);
    if (image->backing != NULL) {
        free(resolved);
        return true;
    }
    error_prefix(err, "backing file '%s'", resolved);
fail:
    block_file_close(file);
    free(resolved);
    return false;
}

/* What open_at() made, without the file. */
static void dispose(struct block_image *image)
{
    if (image->state != NULL && image->format->close != NULL)
        image->format->close(image);
    block_image_close(image->backing);
    free(image->name);
    free(image->backing_name);
    free(image->backing_format);
    free(image);
}

/* Whether the size makes sense is for whoever opens the image. */
static bool look_at(struct block_image *image, struct error **err)
{
    if (image->format->names != NULL)
        return image->format->names(image, err);
    if (image->file->ops->size(image->file, &image->size) != 0)
        image->size = 0;
    return true;
}

static struct block_image *open_at(struct chain *chain, struct block_file *file, const char *name,
                                   const struct block_image_options *options, struct error **err)
{
    const struct block_format *format =
        options->format != NULL ? block_format_find(options->format) : guess(file, err);
    if (format == NULL) {
        if (options->format != NULL)
            unknown_format(options->format, err);
        return NULL;
    }
    struct block_image *image = alloc_zeroed(1, sizeof(*image));
    *image = (struct block_image){
        .format = format,
        .file = file,
        .name = alloc_string(name),
        .granule = 1,
        .read_only = file->read_only,
        .guessed = options->format == NULL,
        .warn = options->warn,
        .opaque = options->opaque,
    };
    chain->files[chain->depth++] = file;
    if (!(options->names_only ? look_at(image, err) : format->open(image, options, err)) ||
        (image->backing_name != NULL && !options->alone &&
         !open_backing(chain, image, options, err))) {
        dispose(image);
        return NULL;
    }
    assert(options->names_only ||
           (is_power_of_two(image->granule) && image->size <= BLOCK_SIZE_MAX));
    return image;
}

struct block_image *block_image_open(struct block_file *file, const char *name,
                                     const struct block_image_options *options, struct error **err)
{
    struct chain chain = {.depth = 0};
    return open_at(&chain, file, name, options, err);
}

void block_image_close(struct block_image *image)
{
    if (image == NULL)
        return;
    struct block_file *file = image->file;
    dispose(image);
    block_file_close(file);
}

/* --- I/O --- */

int block_image_read_span(struct block_image *image, uint64_t offset, struct block_span to)
{
    uint64_t there = image == NULL || offset >= image->size ? 0 : image->size - offset;
    if (there > to.size)
        there = to.size;
    if (there < to.size)
        block_span_zero(block_span_part(to, there, to.size - there));
    return there == 0 ? 0 : image->format->read(image, offset, block_span_part(to, 0, there));
}

int block_image_read(struct block_image *image, uint64_t offset, void *data, size_t size)
{
    struct iovec iov;
    return block_image_read_span(image, offset, block_span_of(&iov, data, size));
}

int block_image_write(struct block_image *image, uint64_t offset, const void *data, size_t size)
{
    struct iovec iov;
    assert(!image->read_only && range_within(offset, size, image->size));
    return image->format->write(image, offset, block_span_of(&iov, data, size));
}

int block_image_extent(struct block_image *image, uint64_t offset, uint64_t length,
                       struct block_extent *extent, unsigned *depth)
{
    assert(range_within(offset, length, image->size) && length > 0);
    *depth = 0;
    for (; image != NULL && offset < image->size; image = image->backing, (*depth)++) {
        if (length > image->size - offset)
            length = image->size - offset;
        int error = image->format->extent(image, offset, length, extent);
        if (error != 0)
            return error;
        if (extent->kind != BLOCK_EXTENT_ABSENT)
            return 0;
        length = extent->length; /* alike at this level: further down it may be less */
    }
    *depth = 0;
    *extent = (struct block_extent){BLOCK_EXTENT_ZERO, length, UINT64_MAX};
    return 0;
}
