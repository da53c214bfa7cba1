/* SPDX-License-Identifier: MIT
 *
 * Opening images by name, for callers that may: the command line, and a worker until its
 * sandbox closes. The rest of block/ opens nothing by name and does not include this.
 *
 * A name is a path of the host, or (for what a user names, never for what an image names)
 * nbd://HOST[:PORT]/EXPORT, nbds://… with TLS, nbd+unix:///EXPORT?socket=PATH. A backing
 * file's name is relative to the folder of the image that records it.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_BLOCK_OPEN_OPEN_H
#define TRAPEZE_BLOCK_OPEN_OPEN_H

#include "block/chain.h"

struct block_open_options {
    const char *format; /* NULL: as block/image.h says */
    bool read_only;
    enum block_cache cache;
    bool no_lock;         /* for a look at an image that a machine may be using */
    bool alone;           /* without its backing file */
    bool to_check;        /* damaged ones too */
    unsigned reconnect_s; /* NBD: how long a lost connection may take to come back */
    void (*warn)(void *opaque, const char *image, const char *text); /* may be NULL */
    void *opaque;
};

/* The whole chain: its backing files read-only, locked for reading. Sentences name files. */
struct block_image *block_open(const char *name, const struct block_open_options *options,
                               struct error **err);
/* The same for another process: opens and locks what the disk consists of, and reads no more of it
 * than the names of the backing files. fds[0] of a disk on an NBD server is -1: block/open/
 * connector.h makes what belongs there. */
bool block_open_chain(const char *name, const struct block_open_options *options,
                      struct block_chain *chain, struct error **err);
/* For a look: no more of the images is read than names, formats and sizes, and nothing else can be
 * done with them; what is locked stays so until they are closed. */
struct block_image *block_open_names(const char *name, const struct block_open_options *options,
                                     struct error **err);
/* The file alone, locked unless told otherwise. */
struct block_file *block_open_file(const char *name, const struct block_open_options *options,
                                   struct error **err);
bool block_name_is_uri(const char *name);

#endif
