/* SPDX-License-Identifier: MIT
 *
 * See chain.h. Which names the images record is still looked at here, but only to take the next
 * descriptor for each of them.
 */
#include "block/chain.h"

#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "block/nbd_socket.h"

void block_chain_close(struct block_chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        if (chain->fds[i] >= 0)
            close(chain->fds[i]);
    chain->count = 0;
}

static bool is_socket(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

bool block_chain_needs_nbd(const struct block_chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        if (is_socket(chain->fds[i]))
            return true;
    return false;
}

struct taker {
    struct block_chain *chain;
    const struct block_chain_options *options;
    size_t next;
};

static struct block_file *take_file(struct taker *taker, const char *name, bool read_only,
                                    struct error **err)
{
    if (taker->next == taker->chain->count) {
        error_set(err, ERROR_HOST, "whoever attached the disk did not hand this file over");
        error_hint(err, "Has another program changed the image meanwhile? Attach it again");
        return NULL;
    }
    int *fd = &taker->chain->fds[taker->next++];
    struct block_file *file = is_socket(*fd)
                                  ? block_file_nbd_socket(*fd, name, read_only, taker->options, err)
                                  : block_file_new(*fd, read_only, taker->options->cache, err);
    if (file != NULL)
        *fd = -1;
    return file;
}

static struct block_file *take_backing(const struct block_opener *opener, const char *above,
                                       const char *name, char **resolved, struct error **err)
{
    struct block_file *file = take_file(opener->opaque, name, true, err);
    if (file != NULL)
        *resolved = block_image_resolve(above, name);
    return file;
}

struct block_image *block_chain_open(struct block_chain *chain, const char *name,
                                     const struct block_chain_options *options, struct error **err)
{
    struct taker taker = {chain, options, 0};
    const struct block_opener opener = {take_backing, &taker};
    const struct block_image_options how = {
        .format = options->format,
        .opener = &opener,
        .warn = options->warn,
        .opaque = options->opaque,
    };
    struct block_file *file = take_file(&taker, name, options->read_only, err);
    struct block_image *image = file != NULL ? block_image_open(file, name, &how, err) : NULL;
    if (image == NULL) {
        block_file_close(file);
        error_prefix(err, "disk '%s'", name);
    }
    block_chain_close(chain);
    return image;
}

struct block_image *block_chain_again(const struct block_image *image,
                                      const struct block_chain_options *options, struct error **err)
{
    struct block_chain chain = {.count = 0};
    for (const struct block_image *at = image; at != NULL; at = at->backing) {
        int fd = at->file->fd >= 0 ? fcntl(at->file->fd, F_DUPFD_CLOEXEC, 0) : -1;
        if (fd < 0) {
            error_set(err, ERROR_HOST, "disk '%s' cannot be opened again", image->name);
            block_chain_close(&chain);
            return NULL;
        }
        chain.fds[chain.count++] = fd;
    }
    return block_chain_open(&chain, image->name, options, err);
}

bool block_chain_is_same(const struct block_image *one, const struct block_image *other)
{
    return one->file->inode != 0 && one->file->device == other->file->device &&
           one->file->inode == other->file->inode;
}

/* ---- another image on top ---- */

/* An image by itself on the chain's file `index`. */
static struct block_image *open_alone(struct block_chain *chain, size_t index, const char *name,
                                      bool read_only, const struct block_image_options *how,
                                      const struct block_chain_options *options, struct error **err)
{
    struct block_file *file = block_file_new(chain->fds[index], read_only, options->cache, err);
    if (file == NULL)
        return NULL;
    chain->fds[index] = -1;
    struct block_image *image = block_image_open(file, name, how, err);
    if (image == NULL)
        block_file_close(file);
    return image;
}

struct block_image *block_chain_open_top(struct block_chain *chain, const char *name,
                                         const struct block_chain_options *options,
                                         struct error **err)
{
    const struct block_image_options how = {
        .format = options->format, .alone = true, .warn = options->warn, .opaque = options->opaque};
    struct block_image *top =
        chain->count == 2 ? open_alone(chain, 0, name, false, &how, options, err) : NULL;
    if (chain->count != 2)
        error_set(err, ERROR_USAGE, "an image on top takes two descriptors");
    if (top == NULL)
        error_prefix(err, "disk '%s'", name);
    return top;
}

static bool put_on_top(struct block_image *below, struct block_image *top,
                       struct block_chain *chain, const struct block_chain_options *options,
                       struct error **err)
{
    const struct block_image_options again = {.format = below->format->name, .alone = true};
    unsigned depth = 1;
    for (const struct block_image *image = below; image != NULL; image = image->backing)
        depth++;
    if (depth > BLOCK_DEPTH_MAX)
        return error_set(err, ERROR_USAGE, "its chain of backing files would be more than %d deep",
                         BLOCK_DEPTH_MAX);
    /* Twice: what the first gives up, the second counts as free. */
    int error = below->read_only ? 0 : below->format->flush(below);
    error = error != 0 || below->read_only ? error : below->format->flush(below);
    if (error != 0)
        return error_set_errno(err, error, "cannot write it out");
    struct block_image *same = open_alone(chain, 1, below->name, true, &again, options, err);
    if (same != NULL && block_chain_is_same(same, below) && top->size == below->size &&
        top->backing_name != NULL) {
        same->backing = below->backing;
        below->backing = NULL;
        top->backing = same;
        return true;
    }
    if (same != NULL)
        error_set(err, ERROR_USAGE, "what is to lie on top of it was not made for it");
    block_image_close(same);
    return false;
}

bool block_chain_put_on_top(struct block_image *below, struct block_image *top,
                            struct block_chain *chain, const struct block_chain_options *options,
                            struct error **err)
{
    bool good = put_on_top(below, top, chain, options, err);
    if (!good)
        error_prefix(err, "disk '%s'", below->name);
    block_chain_close(chain);
    return good;
}

void block_chain_drop(struct block_image *top, struct block_image *below)
{
    below->backing = top->backing->backing;
    top->backing->backing = NULL;
    block_image_close(top);
}
