/* SPDX-License-Identifier: MIT
 *
 * The images in the user's cache (client/image.h) as things that come and go. One that was pulled
 * is a folder like one that was built: made under another name and renamed, so that it is whole or
 * not there.
 *
 *     CACHE/images/NAME/      an image
 *     CACHE/images/.new-…     one that is being made; whoever makes it holds a lock on it
 *     CACHE/pull/HASH         what has come of a download, locked while it is worked on
 *     CACHE/pull/HASH.from    its URL and what the server called it (client/fetch.h)
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_CLIENT_IMAGE_STORE_H
#define TRAPEZE_CLIENT_IMAGE_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct error;

struct image_entry {
    char *name, *title;
    char *uses;     /* names of instances that have a file of it, or below a disk: "a, b"; NULL */
    uint64_t bytes; /* on disk */
    time_t made;
    bool pulled; /* not built by a recipe */
};

/* Sorted; *count. NULL with *count 0: there are none. */
struct image_entry *image_list(size_t *count, struct error **err);
void image_list_free(struct image_entry *list, size_t count);

/* Of image_pull.c: calls fn with each name in a folder that does not begin with a dot; removes a
 * folder with its files; removes what killed processes left of images in the making. */
void image_each(const char *path, void (*fn)(void *opaque, int folder, const char *name),
                void *opaque);
void image_remove_stage(const char *path);
void image_clean_stages(const char *images);

/* Refused while an instance uses it. */
bool image_remove(const char *name, struct error **err);

struct image_pull {
    const char *source; /* a URL or a file */
    const char *name;   /* NULL: made of the source's */
    const char *sha256; /* 64 hexadecimal digits that the source must have; NULL: not known */
    void (*step)(void *opaque, uint64_t done, uint64_t total); /* total 0: not known */
    void *opaque;
};

/* Removes what downloads have left that nobody goes on with just now. */
void image_clean_pulls(void);

/* The image's name, which the caller frees; NULL: err. */
char *image_pull(const struct image_pull *pull, struct error **err);

#endif
