/* SPDX-License-Identifier: MIT
 *
 * See disk_clone.h.
 */
#include "client/disk_clone.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/error.h"
#include "block/copy.h"
#include "block/open/open.h"

static const struct block_format *overlay_format(void)
{
    return block_format_find("qcow2");
}

static bool too_deep(const struct block_image *image, struct error **err)
{
    unsigned depth = 1;
    for (; image != NULL; image = image->backing)
        depth++;
    if (depth <= BLOCK_DEPTH_MAX)
        return false;
    error_set(err, ERROR_USAGE, "its chain of backing files would be more than %d deep",
              BLOCK_DEPTH_MAX);
    error_hint(err, "A full clone stands alone.");
    return true;
}

/* An empty image as large as `original`. */
static bool make_image(const struct block_image *original, const char *backing,
                       struct block_file *file, struct error **err)
{
    const struct block_create create = {
        .size = original->size,
        .backing = backing,
        .backing_format = backing != NULL ? original->format->name : NULL,
    };
    if (original->size == 0 || original->size % BLOCK_SECTOR != 0)
        return error_set(err, ERROR_USAGE,
                         "its size of %llu bytes is not a positive multiple of %u bytes",
                         (unsigned long long)original->size, BLOCK_SECTOR);
    return overlay_format()->create(file, &create, err);
}

struct progress {
    const struct client_disk_clone *clone;
    uint64_t size;
};

static void on_step(void *opaque, uint64_t done)
{
    struct progress *progress = opaque;
    if (progress->clone->step != NULL)
        progress->clone->step(progress->clone->opaque, (off_t)done, (off_t)progress->size);
}

/* What a guest sees of the whole chain, which `names` keeps locked. Takes the file over. */
static bool flatten(const struct machine_disk *from, const struct block_image *names,
                    struct block_file *file, const struct client_disk_clone *clone,
                    struct error **err)
{
    const struct block_open_options how = {.format = from->format, .read_only = true};
    const struct block_image_options target = {.format = overlay_format()->name};
    struct block_image *copy = make_image(names, NULL, file, err)
                                   ? block_image_open(file, clone->name, &target, err)
                                   : NULL;
    if (copy == NULL) {
        block_file_close(file);
        return false;
    }
    struct block_image *image = block_open(from->path, &how, err);
    struct progress progress = {clone, image != NULL ? image->size : 0};
    int error = image != NULL ? block_copy(image, copy, on_step, &progress) : 0;
    bool good = image != NULL && (error == 0 || error_set_errno(err, error, "cannot copy it"));
    block_image_close(image);
    block_image_close(copy);
    return good;
}

static bool copy_bytes(const struct block_image *image, int to,
                       const struct client_disk_clone *clone, struct error **err)
{
    return copy_file(image->file->fd, to, clone->step, clone->opaque, err) &&
           (fsync(to) == 0 || error_set_errno(err, errno, "cannot keep the copy"));
}

static bool fill(const struct machine_disk *from, const struct block_image *names, int fd,
                 const struct client_disk_clone *clone, struct error **err)
{
    if (clone->backing == NULL && names->backing == NULL)
        return copy_bytes(names, fd, clone, err);
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    struct block_file *file =
        own >= 0 ? block_file_new(own, false, BLOCK_CACHE_WRITEBACK, err) : NULL;
    if (file == NULL) {
        if (own < 0)
            return error_set_errno(err, errno, "cannot open the copy");
        close(own);
        return false;
    }
    if (clone->backing == NULL)
        return flatten(from, names, file, clone, err);
    bool good = make_image(names, clone->backing, file, err);
    block_file_close(file);
    return good;
}

bool client_disk_clone(const struct machine_disk *from, const struct client_disk_clone *clone,
                       const char **format, struct error **err)
{
    const struct block_open_options look = {
        .format = from->format, .read_only = true, .no_lock = clone->in_use};
    struct block_image *names = block_open_names(from->path, &look, err);
    if (names == NULL)
        return false;
    bool good = clone->backing == NULL || !too_deep(names, err);
    int fd = good ? openat(clone->folder, clone->name,
                           O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)
                  : -1;
    if (good && fd < 0)
        good = error_set_errno(err, errno, "cannot make '%s'", clone->name);
    good = good && fill(from, names, fd, clone, err);
    *format =
        clone->backing != NULL || names->backing != NULL ? overlay_format()->name : from->format;
    if (!good)
        error_prefix(err, "disk '%s'", from->path);
    if (fd >= 0) {
        close(fd);
        if (!good)
            unlinkat(clone->folder, clone->name, 0);
    }
    block_image_close(names);
    return good;
}
