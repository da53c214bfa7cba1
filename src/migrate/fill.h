/* SPDX-License-Identifier: MIT
 *
 * Memory that comes late: what gives a machine that goes on its memory from the image, chunk by chunk,
 * when it is wanted or in the background. A chunk is given by whoever wants it first; others wait for
 * that one.
 *
 * Threads: mem's for what is wanted, one of its own for the rest. Lock: its own, a leaf.
 */
#ifndef TRAPEZE_MIGRATE_FILL_H
#define TRAPEZE_MIGRATE_FILL_H

#include <stdbool.h>

#include "migrate/image.h"

struct error;
struct fill;
struct mem_space;

struct fill_options {
    bool map; /* see migrate/save.h */
    /* Any thread, once: contents are lost, and `error` (its own) says which. */
    void (*lost)(void *opaque, struct error *error);
    /* The filling thread's: all is there. */
    void (*complete)(void *opaque);
    void *opaque;
};

/* The regions of `mem` are those of the image, which is borrowed. From now on memory is there. */
struct fill *fill_new(struct mem_space *mem, const struct saved_image *image,
                      const struct fill_options *options, struct error **err);
bool fill_start(struct fill *fill, struct error **err); /* the thread for the rest */
void fill_stop(struct fill *fill);                      /* ... which is gone */
/* Memory is what it is by now: of a machine that will not run after all. */
void fill_abandon(struct fill *fill);
void fill_free(struct fill *fill); /* when nobody wants anything any more; NULL is fine */

#endif
