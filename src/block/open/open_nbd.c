/* SPDX-License-Identifier: MIT
 *
 * See open_nbd.h: a disk whose connections this process makes itself.
 */
#include "block/open/open_nbd.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "block/nbd.h"
#include "block/nbd_library.h"
#include "block/open/connector.h"

struct server {
    char *name;
    struct nbd_uri uri;
    void (*warn)(void *opaque, const char *image, const char *text);
    void *opaque;
};

static struct nbd_handle *connect_server(void *opaque, const struct nbd_library *library,
                                         struct error **err)
{
    const struct server *server = opaque;
    int fd = block_connect(&server->uri, err);
    if (fd >= 0)
        return block_nbd_negotiate(library, fd, server->uri.export, err);
    error_prefix(err, "cannot connect");
    return NULL;
}

static void free_server(void *opaque)
{
    struct server *server = opaque;
    nbd_uri_clear(&server->uri);
    free(server->name);
    free(server);
}

static void say(void *opaque, const char *text)
{
    const struct server *server = opaque;
    if (server->warn != NULL)
        server->warn(server->opaque, server->name, text);
}

struct block_file *block_open_nbd(const char *uri, const struct block_open_options *options,
                                  struct error **err)
{
    struct nbd_uri address;
    struct nbd_library library;
    if (!nbd_library_load(&library, err) || !nbd_uri_parse(uri, &address, err))
        return NULL;
    struct server *server = alloc_zeroed(1, sizeof(*server));
    *server = (struct server){alloc_string(uri), address, options->warn, options->opaque};
    const struct block_nbd_connector connector = {
        .connect = connect_server,
        .free = free_server,
        .opaque = server,
        .reconnect_ns = (int64_t)options->reconnect_s * INT64_C(1000000000),
        .say = say,
    };
    struct block_file *file = block_file_nbd(
        &connector, &library, options->read_only,
        options->cache == BLOCK_CACHE_NONE ? BLOCK_CACHE_WRITEBACK : options->cache, err);
    if (file == NULL)
        free_server(server);
    return file;
}
