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

#include "block/image.h"

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
/* The file alone, locked unless told otherwise. */
struct block_file *block_open_file(const char *name, const struct block_open_options *options,
                                   struct error **err);
bool block_name_is_uri(const char *name);

/* `name` as the image `above` means it; the caller frees it. */
char *block_open_resolve(const char *above, const char *name);

#endif
