/* SPDX-License-Identifier: MIT
 *
 * Guest images in the user's cache: the contract of images/README.md. A finished image is a
 * read-only folder with a manifest; every run boots a private copy of its disk.
 */
#ifndef TRAPEZE_CLIENT_IMAGE_H
#define TRAPEZE_CLIENT_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

struct error;

/* Strings are owned; image_clear() frees them. Paths are
 * ready to open. */
struct image {
    char *title;
    char *kernel;
    char *initrd; /* NULL: none */
    char *disk;   /* the immutable original; NULL: none */
    char *append;
    char *login;  /* user who logs in without a password; NULL: none */
    uint64_t memory; /* bytes */
    unsigned cpus;
};

/* Finds the image, building it first if it is missing (progress on standard error). */
bool image_find(const char *name, struct image *image, struct error **err);
void image_clear(struct image *image);

bool image_is_built(const char *name);

/* Runs images/build with these arguments (NULL-terminated, without the program), standard
 * input closed. Returns its exit status, or -1 with err. */
int image_builder_run(char *const *arguments, struct error **err);

/* A private, writable copy of `path` in the cache's runs/ folder, copy-on-write where the
 * file system can. Shows progress if it takes long.
 * Returns its path (caller frees and unlinks) and a descriptor to keep open as long as the
 * copy is in use: a copy nobody holds is removed by the next run. NULL: err. */
char *image_private_copy(const char *path, int *hold, struct error **err);

#endif
