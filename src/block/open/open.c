/* SPDX-License-Identifier: MIT
 *
 * See open.h.
 */
#include "block/open/open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "block/open/open_nbd.h"

bool block_name_is_uri(const char *name)
{
    return strncmp(name, "nbd://", 6) == 0 || strncmp(name, "nbds://", 7) == 0 ||
           strncmp(name, "nbd+unix://", 11) == 0 || strncmp(name, "nbds+unix://", 12) == 0;
}

static int open_path(const char *name, bool read_only, struct error **err)
{
    int fd = open(name, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd >= 0)
        return fd;
    error_set_errno(err, errno, "cannot open it%s", read_only ? "" : " for writing");
    if (!read_only && (errno == EACCES || errno == EROFS))
        error_hint(err, "Attach it read-only if it shall only be read");
    return -1;
}

struct block_file *block_open_file(const char *name, const struct block_open_options *options,
                                   struct error **err)
{
    if (block_name_is_uri(name))
        return block_open_nbd(name, options, err);
    int fd = open_path(name, options->read_only, err);
    if (fd < 0)
        return NULL;
    struct block_file *file = block_file_new(fd, options->read_only, options->cache, err);
    if (file == NULL) {
        close(fd);
        return NULL;
    }
    if (!options->no_lock && !block_file_lock(file, err)) {
        block_file_close(file);
        return NULL;
    }
    return file;
}

/* An image chooses this name: no place but the host's files. */
static struct block_file *open_backing(const struct block_opener *opener, const char *above,
                                       const char *name, char **resolved, struct error **err)
{
    struct block_open_options options = *(const struct block_open_options *)opener->opaque;
    if (strncmp(name, "json:", 5) == 0 || strstr(name, "://") != NULL) {
        error_set(err, ERROR_USAGE,
                  "an image may name a file of this host as its backing file, "
                  "and nothing else");
        error_hint(err, "Attach what is meant by itself");
        return NULL;
    }
    options.read_only = true;
    *resolved = block_image_resolve(above, name);
    struct block_file *file = block_open_file(*resolved, &options, err);
    if (file == NULL) {
        free(*resolved);
        *resolved = NULL;
    }
    return file;
}

static struct block_image *open_image(const char *name, const struct block_open_options *options,
                                      bool names_only, struct error **err)
{
    const struct block_opener opener = {open_backing, (void *)(uintptr_t)options};
    const struct block_image_options how = {
        .format = options->format,
        .opener = &opener,
        .alone = options->alone,
        .to_check = options->to_check,
        .names_only = names_only,
        .warn = options->warn,
        .opaque = options->opaque,
    };
    struct block_file *file = block_open_file(name, options, err);
    struct block_image *image = file != NULL ? block_image_open(file, name, &how, err) : NULL;
    if (image == NULL) {
        block_file_close(file);
        error_prefix(err, "disk '%s'", name);
    }
    return image;
}

struct block_image *block_open(const char *name, const struct block_open_options *options,
                               struct error **err)
{
    return open_image(name, options, false, err);
}

struct block_image *block_open_names(const char *name, const struct block_open_options *options,
                                     struct error **err)
{
    return open_image(name, options, true, err);
}

bool block_open_chain(const char *name, const struct block_open_options *options,
                      struct block_chain *chain, struct error **err)
{
    const struct block_format *format =
        options->format != NULL ? block_format_find(options->format) : NULL;
    *chain = (struct block_chain){.fds = {-1}, .count = 1};
    if (block_name_is_uri(name) && format != NULL && format->names == NULL)
        return true;
    struct block_image *top = block_open_names(name, options, err);
    chain->count = 0;
    for (struct block_image *image = top; image != NULL; image = image->backing) {
        image->file->handed_over = true;
        chain->fds[chain->count++] = image->file->fd;
    }
    block_image_close(top);
    return top != NULL;
}
