/* SPDX-License-Identifier: MIT
 *
 * A disk on its way from the process that may open names to the one that may not: descriptors of
 * its file and of all backing files, from the top down. They are open, as read-only as they shall
 * be, and locked; whoever got them needs no name any more.
 *
 *     opens names                                      runs the machine
 *     block_open_chain()  (block/open/open.h)  ──────► block_chain_open()
 *
 * A disk on an NBD server is a socket to a process that connects (block/nbd_socket.h), at every
 * loss of the connection again.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_BLOCK_CHAIN_H
#define TRAPEZE_BLOCK_CHAIN_H

#include "block/image.h"

struct block_chain {
    int fds[BLOCK_DEPTH_MAX];
    size_t count; /* 0: no disk at all, as of an empty drive */
};

struct block_chain_options {
    const char *format; /* NULL: as block/image.h says */
    bool read_only;
    enum block_cache cache;
    unsigned reconnect_s; /* NBD: how long a lost connection may take to come back */
    void (*warn)(void *opaque, const char *image, const char *text); /* may be NULL */
    void *opaque;
};

/* Takes the descriptors over, whatever comes of it. `name` is for messages. */
struct block_image *block_chain_open(struct block_chain *chain, const char *name,
                                     const struct block_chain_options *options, struct error **err);
void block_chain_close(struct block_chain *chain);
/* Whether nbd_library_load() has to be called before nothing can be opened any more. */
bool block_chain_needs_nbd(const struct block_chain *chain);
/* The same image opened anew, by the descriptors that it has: another process has written to it since,
 * and what `image` keeps of it in memory is of before. For files only. NULL: err. */
struct block_image *block_chain_again(const struct block_image *image,
                                      const struct block_chain_options *options,
                                      struct error **err);
/* Whether both are the same file of the host; false if that is not known. */
bool block_chain_is_same(const struct block_image *one, const struct block_image *other);

/* A new image to be put on top of one that is in use. fds[0] is an empty image that names that one as
 * what it lies upon, and is taken over by the new top (options->format: its format); fds[1] is the file
 * of that one again, open for reading only. NULL: err. */
struct block_image *block_chain_open_top(struct block_chain *chain, const char *name,
                                         const struct block_chain_options *options,
                                         struct error **err);
/* Puts it there, at a moment when nothing is in flight; the chain is taken over, whatever comes of it.
 * The top gets what lay under `below`, which is brought to its file, must not be used any more, and is
 * given back by block_chain_drop() if the new top is, or else closed. False: err, `below` is as it was,
 * and the top to be closed. */
bool block_chain_put_on_top(struct block_image *below, struct block_image *top,
                            struct block_chain *chain, const struct block_chain_options *options,
                            struct error **err);
/* Undoes that, as long as nothing was written to the new top, which is closed. */
void block_chain_drop(struct block_image *top, struct block_image *below);

#endif
