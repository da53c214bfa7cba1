/* SPDX-License-Identifier: MIT
 *
 * Raw: byte n of the disk is byte n of the file. What was never written or was discarded is
 * a hole and takes no space, where the file system can.
 */
#include "block/raw_internal.h"

#include <errno.h>

#include "base/error.h"

bool raw_open(struct block_image *image, const struct block_image_options *options,
              struct error **err)
{
    (void)options;
    int error = image->file->ops->size(image->file, &image->size);
    if (error != 0)
        return error_set_errno(err, error, "cannot find the size of the disk");
    if (image->size == 0 || image->size % BLOCK_SECTOR != 0) {
        error_set(err, ERROR_USAGE,
                  "its size of %llu bytes is not a positive multiple of %u bytes: it is no raw "
                  "disk image, or a truncated one",
                  (unsigned long long)image->size, BLOCK_SECTOR);
        error_hint(err, "Check where it came from, or extend it with 'truncate --size=%%%u FILE'",
                   BLOCK_SECTOR);
        return false;
    }
    if (image->size % image->file->align != 0) {
        error_set(err, ERROR_USAGE,
                  "without the host's cache its size of %llu bytes had to be a multiple of %u",
                  (unsigned long long)image->size, image->file->align);
        error_hint(err, "Leave cache=none out, or extend it with 'truncate --size=%%%u FILE'",
                   image->file->align);
        return false;
    }
    image->granule = image->file->align;
    return true;
}

bool raw_direct(struct block_image *image, bool write, uint64_t offset, uint64_t length,
                uint64_t *host)
{
    (void)image, (void)write, (void)length;
    *host = offset;
    return true;
}

int raw_read(struct block_image *image, uint64_t offset, struct block_span to)
{
    return image->file->ops->read(image->file, offset, to);
}

int raw_write(struct block_image *image, uint64_t offset, struct block_span from)
{
    return image->file->ops->write(image->file, offset, from);
}

int raw_flush(struct block_image *image)
{
    return image->file->ops->flush(image->file);
}

static int raw_zero(struct block_image *image, uint64_t offset, uint64_t length, unsigned flags)
{
    return image->file->ops->zero(image->file, offset, length, flags);
}

static int raw_discard(struct block_image *image, uint64_t offset, uint64_t length)
{
    return image->file->ops->discard(image->file, offset, length);
}

int raw_extent(struct block_image *image, uint64_t offset, uint64_t length,
               struct block_extent *extent)
{
    bool data;
    extent->length = length;
    int error = image->file->ops->extent(image->file, offset, &extent->length, &data);
    extent->kind = data ? BLOCK_EXTENT_DATA : BLOCK_EXTENT_ZERO;
    extent->host = offset;
    return error;
}

bool raw_create(struct block_file *file, const struct block_create *create, struct error **err)
{
    if (create->backing != NULL || create->cluster_size != 0) {
        error_set(err, ERROR_USAGE, "a raw disk has no %s",
                  create->backing != NULL ? "backing file" : "clusters");
        error_hint(err, "Use --format qcow2");
        return false;
    }
    /* Through 0, so that nothing of an earlier content shows through. */
    int error = file->ops->truncate(file, 0);
    if (error == 0)
        error = file->ops->truncate(file, create->size);
    return error == 0 || error_set_errno(err, error, "cannot make a file of %llu bytes",
                                         (unsigned long long)create->size);
}

bool raw_resize(struct block_image *image, uint64_t size, struct error **err)
{
    int error = image->file->ops->truncate(image->file, size);
    if (error != 0)
        return error_set_errno(err, error, "cannot change its size");
    image->size = size;
    return true;
}

const struct block_format block_format_raw = {
    .name = "raw",
    .title = "the disk's bytes and nothing else; takes only the space that was written",
    .open = raw_open,
    .direct = raw_direct,
    .read = raw_read,
    .write = raw_write,
    .zero = raw_zero,
    .discard = raw_discard,
    .flush = raw_flush,
    .extent = raw_extent,
    .create = raw_create,
    .resize = raw_resize,
};
