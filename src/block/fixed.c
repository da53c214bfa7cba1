/* SPDX-License-Identifier: MIT
 *
 * Fixed: raw with all of its space taken when it is made, and never given back: no write ever
 * finds the host's disk full, and the file stays in few pieces.
 */
#include "block/raw_internal.h"

#include <errno.h>
#include <fcntl.h>

#include "base/error.h"

static int fixed_zero(struct block_image *image, uint64_t offset, uint64_t length, unsigned flags)
{
    return image->file->ops->zero(image->file, offset, length, flags & ~(unsigned)BLOCK_ZERO_UNMAP);
}

/* Content is undefined after a discard: what was there is as good as anything. */
static int fixed_discard(struct block_image *image, uint64_t offset, uint64_t length)
{
    (void)image, (void)offset, (void)length;
    return 0;
}

static bool take_space(struct block_file *file, uint64_t from, uint64_t to, struct error **err)
{
    if (from >= to)
        return true;
    int error =
        file->fd >= 0 ? posix_fallocate(file->fd, (off_t)from, (off_t)(to - from)) : EOPNOTSUPP;
    if (error == 0)
        return true;
    error_set_errno(err, error, "cannot take %llu bytes of space", (unsigned long long)(to - from));
    if (error == ENOSPC)
        error_hint(err, "Free some, or use --format raw or qcow2, which grow as they are written");
    return false;
}

static bool fixed_create(struct block_file *file, const struct block_create *create,
                         struct error **err)
{
    return raw_create(file, create, err) && take_space(file, 0, create->size, err);
}

static bool fixed_resize(struct block_image *image, uint64_t size, struct error **err)
{
    return take_space(image->file, image->size, size, err) && raw_resize(image, size, err);
}

const struct block_format block_format_fixed = {
    .name = "fixed",
    .title = "raw, with all of its space taken at once and kept",
    .open = raw_open,
    .direct = raw_direct,
    .read = raw_read,
    .write = raw_write,
    .zero = fixed_zero,
    .discard = fixed_discard,
    .flush = raw_flush,
    .extent = raw_extent,
    .create = fixed_create,
    .resize = fixed_resize,
};
