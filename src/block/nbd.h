/* SPDX-License-Identifier: MIT
 *
 * A disk on a server that speaks NBD, over a connection that somebody else makes, and makes
 * again when it is lost.
 *
 * Requests that a lost connection took with it are sent again over the next one, as every
 * NBD client does; a server that crashes loses what was not flushed. Without a connection
 * they wait for up to `reconnect_ns`, then fail with EIO, and so does every further one at
 * once until the server is back.
 */
#ifndef TRAPEZE_BLOCK_NBD_H
#define TRAPEZE_BLOCK_NBD_H

#include "block/file.h"

struct nbd_handle; /* libnbd's */
struct nbd_library;

struct block_nbd_connector {
    /* A connected, negotiated handle; takes a few seconds at most. NULL: err. Any thread, one
     * at a time. */
    struct nbd_handle *(*connect)(void *opaque, const struct nbd_library *library,
                                  struct error **err);
    void (*free)(void *opaque); /* nobody connects any more; may be NULL */
    void *opaque;
    int64_t reconnect_ns; /* how long requests wait for a new connection */
    /* The connection was lost, or is back: a sentence. Any thread; may be NULL. */
    void (*say)(void *opaque, const char *text);
};

/* Makes the first connection. On failure the connector stays the caller's. */
struct block_file *block_file_nbd(const struct block_nbd_connector *connector,
                                  const struct nbd_library *library, bool read_only,
                                  enum block_cache cache, struct error **err);

/* Negotiates on a connected socket, which is taken over. NULL: err. */
struct nbd_handle *block_nbd_negotiate(const struct nbd_library *library, int fd,
                                       const char *export, struct error **err);

#endif
