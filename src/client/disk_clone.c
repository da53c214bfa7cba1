/* SPDX-License-Identifier: MIT
 *
 * See disk_clone.h.
 */
#include "client/disk_clone.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "block/copy.h"
#include "block/open/open.h"
#include "sandbox/helper.h"

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

/* What the copying process has. */
struct flattening {
    const struct machine_disk *from;
    const struct block_image *names; /* keeps it locked */
    const struct client_disk_clone *clone;
    struct block_file *file;
    struct sandbox_teller *teller;
};

/* In the copying process. */
static void tell_step(void *opaque, uint64_t done)
{
    struct flattening *f = opaque;
    sandbox_tell(f->teller, done);
}

static bool copy_chain(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    struct flattening *f = opaque;
    const struct block_chain_options how = {.format = f->from->format, .read_only = true};
    const struct block_image_options target = {.format = overlay_format()->name};
    struct block_chain chain = {.count = 0};
    f->teller = teller;
    for (const struct block_image *image = f->names; image != NULL; image = image->backing)
        chain.fds[chain.count++] = image->file->fd;
    struct block_image *copy = make_image(f->names, NULL, f->file, err)
                                   ? block_image_open(f->file, f->clone->name, &target, err)
                                   : NULL;
    struct block_image *image =
        copy != NULL ? block_chain_open(&chain, f->from->path, &how, err) : NULL;
    if (image == NULL)
        return false;
    if (image->size != copy->size)
        return error_set(err, ERROR_HOST, "it changes while it is copied");
    int error = block_copy(image, copy, tell_step, f);
    block_image_close(copy); /* and not the other, whose locks are the parent's, too */
    return error == 0 || error_set_errno(err, error, "cannot copy it");
}

/* A number of a process that the image may have taken over. */
static void on_step(void *opaque, uint64_t done)
{
    const struct flattening *f = opaque;
    uint64_t size = f->names->size;
    if (f->clone->step != NULL)
        f->clone->step(f->clone->opaque, (off_t)(done < size ? done : size), (off_t)size);
}

/* What a guest sees of the whole chain: its tables are the guest's work if it has taken its worker
 * over, so that it is a confined process that follows them. Takes the file over. */
static bool flatten(const struct machine_disk *from, const struct block_image *names,
                    struct block_file *file, const struct client_disk_clone *clone,
                    struct error **err)
{
    struct flattening f = {.from = from, .names = names, .clone = clone, .file = file};
    struct sandbox_helper helper = {
        .work = copy_chain, .step = on_step, .opaque = &f, .fds = {file->fd}, .fd_count = 1};
    for (const struct block_image *image = names; image != NULL; image = image->backing)
        helper.fds[helper.fd_count++] = image->file->fd;
    bool good = sandbox_help(&helper, err);
    block_file_close(file);
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

bool client_disk_put_upon(const struct machine_disk *below, int folder, const char *name,
                          const char *backing, uint64_t size, struct error **err)
{
    const struct block_open_options look = {
        .format = below->format, .read_only = true, .no_lock = true, .alone = true};
    struct block_image *head = block_open_names(below->path, &look, err);
    const struct block_create create = {.size = size,
                                        .backing = backing,
                                        .backing_format = head != NULL ? head->format->name : NULL};
    if (head == NULL)
        return false;
    int fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct block_file *file =
        fd >= 0 ? block_file_new(fd, false, BLOCK_CACHE_WRITEBACK, err) : NULL;
    bool good = fd >= 0 || error_set_errno(err, errno, "cannot make '%s'", name);
    good = good && file != NULL &&
           (size > 0 && size % BLOCK_SECTOR == 0
                ? overlay_format()->create(file, &create, err)
                : error_set(err, ERROR_USAGE, "a disk of %llu bytes cannot be made",
                            (unsigned long long)size)) &&
           (fsync(fd) == 0 || error_set_errno(err, errno, "cannot keep '%s'", name));
    if (file == NULL && fd >= 0)
        close(fd);
    block_file_close(file);
    if (!good && fd >= 0)
        unlinkat(folder, name, 0);
    block_image_close(head);
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
