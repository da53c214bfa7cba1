/* SPDX-License-Identifier: MIT
 *
 * See disk_merge.h.
 */
#include "client/disk_merge.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "block/copy.h"
#include "block/open/open.h"

static bool merge(struct block_image *layer, struct block_image *below, struct error **err)
{
    if (below->size != layer->size &&
        (below->format->resize == NULL || !below->format->resize(below, layer->size, err)))
        return false;
    int error = block_copy_layer(layer, below, NULL, NULL);
    return error == 0 || error_set_errno(err, error, "cannot write '%s' into it", layer->name);
}

bool client_disk_merge(const char *upper, const char *lower, char **format, struct error **err)
{
    const struct block_open_options top = {.format = "qcow2", .alone = true, .read_only = true};
    struct block_image *layer = block_open(upper, &top, err), *below = NULL;
    if (layer == NULL)
        return false;
    bool good = layer->backing_format != NULL ||
                error_set(err, ERROR_HOST, "'%s' does not record what it lies on", upper);
    if (good) {
        const struct block_open_options bottom = {.format = layer->backing_format};
        below = block_open(lower, &bottom, err);
        good = below != NULL && merge(layer, below, err);
        *format = good ? alloc_string(layer->backing_format) : NULL;
    }
    block_image_close(below);
    block_image_close(layer);
    if (!good)
        error_prefix(err, "disk '%s'", lower);
    return good;
}

bool client_disk_retarget(const char *path, const char *backing, const char *format,
                          struct error **err)
{
    const struct block_open_options how = {.format = "qcow2", .alone = true};
    struct block_image *image = block_open(path, &how, err);
    bool good = image != NULL && image->format->rebase(image, backing, format, err);
    block_image_close(image);
    if (!good)
        error_prefix(err, "disk '%s'", path);
    return good;
}
