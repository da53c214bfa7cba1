/* SPDX-License-Identifier: MIT
 *
 * See chain.h. Which names the images record is still looked at here, but only to take the next
 * descriptor for each of them.
 */
#include "block/chain.h"

#include <string.h>
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

struct taker {
    struct block_chain *chain;
    const struct block_chain_options *options;
    size_t next;
};

static struct block_file *take_file(struct taker *taker, const char *name, bool read_only,
                                    struct error **err)
{
    struct stat status;
    if (taker->next == taker->chain->count) {
        error_set(err, ERROR_HOST, "whoever attached the disk did not hand this file over");
        error_hint(err, "Has another program changed the image meanwhile? Attach it again");
        return NULL;
    }
    int *fd = &taker->chain->fds[taker->next++];
    bool socket = fstat(*fd, &status) == 0 && S_ISSOCK(status.st_mode);
    struct block_file *file = socket
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
