/* SPDX-License-Identifier: MIT
 *
 * See open_nbd.h. libnbd finds the host, speaks TLS and negotiates; block/nbd.c gets what
 * comes of it.
 */
#include "block/open/open_nbd.h"

#include <errno.h>
#include <libnbd.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "block/nbd.h"

struct server {
    char *uri;
    void (*warn)(void *opaque, const char *image, const char *text);
    void *opaque;
};

/* libnbd says "nbd_connect_uri: getaddrinfo: …": the function's name is of no use to users. */
static const char *reason(void)
{
    const char *text = nbd_get_error();
    if (text == NULL)
        return "no reason given";
    const char *colon = strstr(text, ": ");
    return colon != NULL && strncmp(text, "nbd_", 4) == 0 ? colon + 2 : text;
}

static struct nbd_handle *connect_server(void *opaque, struct error **err)
{
    const struct server *server = opaque;
    struct nbd_handle *handle = nbd_create();
    if (handle != NULL && nbd_set_uri_allow_local_file(handle, true) == 0 &&
        nbd_connect_uri(handle, server->uri) == 0)
        return handle;
    error_set(err, ERROR_HOST, "cannot connect: %s", reason());
    error_hint(err, "Is the server running, and is this its address?");
    if (handle != NULL)
        nbd_close(handle);
    return NULL;
}

static void free_server(void *opaque)
{
    struct server *server = opaque;
    free(server->uri);
    free(server);
}

static void say(void *opaque, const char *text)
{
    const struct server *server = opaque;
    if (server->warn != NULL)
        server->warn(server->opaque, server->uri, text);
}

struct block_file *block_open_nbd(const char *uri, const struct block_open_options *options,
                                  struct error **err)
{
    struct server *server = alloc_zeroed(1, sizeof(*server));
    *server = (struct server){alloc_string(uri), options->warn, options->opaque};
    const struct block_nbd_connector connector = {
        .connect = connect_server,
        .free = free_server,
        .opaque = server,
        .reconnect_ns = (int64_t)options->reconnect_s * INT64_C(1000000000),
        .say = say,
    };
    struct block_file *file = block_file_nbd(
        &connector, options->read_only,
        options->cache == BLOCK_CACHE_NONE ? BLOCK_CACHE_WRITEBACK : options->cache, err);
    if (file == NULL)
        free_server(server);
    return file;
}
