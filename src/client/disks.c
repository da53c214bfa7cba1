/* SPDX-License-Identifier: MIT
 *
 * See disks.h.
 */
#include "client/disks.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "block/open/open.h"
#include "client/backend.h"

/* The worker's end of a socket to a new process that connects there; -1: err. */
static int start_connector(const char *uri, struct error **err)
{
    struct backend backend;
    int status[2], pair[2];
    if (!backend_pipe(status, err))
        return -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        close(status[0]);
        close(status[1]);
        error_set_errno(err, errno, "cannot make a socket pair");
        return -1;
    }
    backend_begin(&backend, "nbd-connect", status[1]);
    backend_add_fd(&backend, pair[1]);
    backend_add(&backend, uri);
    /* It may outlive us: a disk can be attached by a command that then ends. */
    bool good = backend_spawn(&backend, status, true, err) >= 0;
    close(pair[1]);
    if (good)
        return pair[0];
    close(pair[0]);
    return -1;
}

bool client_disk_files(const struct machine_disk *disk,
                       void (*tell)(void *opaque, uint64_t device, uint64_t inode), void *opaque,
                       struct error **err)
{
    const struct block_open_options how = {
        .format = disk->format, .read_only = true, .no_lock = true};
    if (disk->path[0] == '\0' || block_name_is_uri(disk->path))
        return true;
    struct block_image *top = block_open_names(disk->path, &how, err);
    for (const struct block_image *image = top; image != NULL; image = image->backing)
        tell(opaque, image->file->device, image->file->inode);
    block_image_close(top);
    return top != NULL;
}

bool client_disk_open(const struct machine_disk *disk, struct block_chain *chain,
                      struct error **err)
{
    const struct block_open_options how = {.format = disk->format,
                                           .read_only = disk->read_only || disk->media != 0};
    *chain = (struct block_chain){.count = 0};
    if (disk->path[0] == '\0') /* an empty drive */
        return true;
    if (!block_open_chain(disk->path, &how, chain, err))
        return false;
    if (!block_name_is_uri(disk->path))
        return true;
    chain->fds[0] = start_connector(disk->path, err);
    if (chain->fds[0] >= 0)
        return true;
    error_prefix(err, "disk '%s'", disk->path);
    block_chain_close(chain);
    return false;
}

bool client_disks_open(const struct machine_config *config, struct client_disks *disks,
                       struct error **err)
{
    disks->count = 0;
    for (size_t i = 0; i < config->disk_count; i++) {
        if (!client_disk_open(&config->disks[i], &disks->chains[i], err)) {
            client_disks_close(disks);
            return false;
        }
        disks->count++;
    }
    return true;
}

void client_disks_close(struct client_disks *disks)
{
    for (size_t i = 0; i < disks->count; i++)
        block_chain_close(&disks->chains[i]);
    disks->count = 0;
}
