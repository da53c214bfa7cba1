/* SPDX-License-Identifier: MIT
 *
 * See disk_merge.h. What the images hold may be the work of a worker that its guest has taken over:
 * files are opened here, no more is read of them than names, and a confined process does the work.
 */
#include "client/disk_merge.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "block/copy.h"
#include "block/open/open.h"
#include "sandbox/helper.h"

/* ---- in the confined process ---- */

struct merging {
    const char *upper, *lower;
    const char *format; /* of the lower one */
    int fd;             /* of the upper one */
    struct block_chain *chain;
};

static struct block_image *open_alone(int fd, const char *name, bool read_only, struct error **err)
{
    const struct block_image_options how = {.format = "qcow2", .alone = true};
    struct block_file *file = block_file_new(fd, read_only, BLOCK_CACHE_WRITEBACK, err);
    return file != NULL ? block_image_open(file, name, &how, err) : NULL;
}

static bool merge(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    const struct merging *merging = opaque;
    const struct block_chain_options how = {.format = merging->format};
    (void)teller;
    struct block_image *layer = open_alone(merging->fd, merging->upper, true, err);
    struct block_image *below =
        layer != NULL ? block_chain_open(merging->chain, merging->lower, &how, err) : NULL;
    if (below == NULL)
        return false;
    if (below->size != layer->size &&
        (below->format->resize == NULL || !below->format->resize(below, layer->size, err)))
        return false;
    int error = block_copy_layer(layer, below, NULL, NULL);
    block_image_close(below);
    return error == 0 || error_set_errno(err, error, "cannot write '%s' into it", merging->upper);
}

struct retargeting {
    const char *path, *backing, *format;
    int fd;
};

static bool retarget(void *opaque, struct sandbox_teller *teller, struct error **err)
{
    const struct retargeting *r = opaque;
    (void)teller;
    struct block_image *image = open_alone(r->fd, r->path, false, err);
    const char *format =
        r->format != NULL || image == NULL ? r->format : image->backing_format;
    if (image != NULL && format == NULL)
        error_set(err, ERROR_HOST, "it does not record of which format what it lies on is");
    bool good = format != NULL && image != NULL && image->format->rebase(image, r->backing, format, err);
    block_image_close(image);
    return good;
}

/* ---- outside ---- */

static bool merge_into(const struct block_image *layer, const char *lower, struct error **err)
{
    const struct block_open_options bottom = {.format = layer->backing_format};
    struct block_chain chain;
    struct merging merging = {.upper = layer->name,
                              .lower = lower,
                              .format = layer->backing_format,
                              .fd = layer->file->fd,
                              .chain = &chain};
    struct sandbox_helper helper = {.work = merge, .opaque = &merging};
    if (!block_open_chain(lower, &bottom, &chain, err))
        return false;
    helper.fds[helper.fd_count++] = layer->file->fd;
    for (size_t i = 0; i < chain.count; i++)
        helper.fds[helper.fd_count++] = chain.fds[i];
    bool good = sandbox_help(&helper, err);
    block_chain_close(&chain);
    return good;
}

bool client_disk_merge(const char *upper, const char *lower, char **format, struct error **err)
{
    const struct block_open_options top = {.format = "qcow2", .alone = true, .read_only = true};
    struct block_image *layer = block_open_names(upper, &top, err);
    if (layer == NULL)
        return false;
    bool good = layer->backing_format != NULL ||
                error_set(err, ERROR_HOST, "'%s' does not record what it lies on", upper);
    good = good && merge_into(layer, lower, err);
    if (good)
        *format = alloc_string(layer->backing_format);
    else
        error_prefix(err, "disk '%s'", lower);
    block_image_close(layer);
    return good;
}

bool client_disk_retarget(const char *path, const char *backing, const char *format,
                          struct error **err)
{
    const struct block_open_options how = {.format = "qcow2"};
    struct block_file *file = block_open_file(path, &how, err);
    struct retargeting r = {path, backing, format, file != NULL ? file->fd : -1};
    const struct sandbox_helper helper = {
        .work = retarget, .opaque = &r, .fds = {r.fd}, .fd_count = 1};
    bool good = file != NULL && sandbox_help(&helper, err);
    block_file_close(file);
    if (!good)
        error_prefix(err, "disk '%s'", path);
    return good;
}
