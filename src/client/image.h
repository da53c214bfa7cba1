/* SPDX-License-Identifier: MIT
 *
 * Guest images in the user's cache: the contract of images/README.md. A finished image is a
 * read-only folder with a manifest; every run boots a private copy of its disk.
 */
#ifndef TRAPEZE_CLIENT_IMAGE_H
#define TRAPEZE_CLIENT_IMAGE_H

#include <signal.h>
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

/* A private copy of an image's disk. From its making to its removal the signals that end this
 * program wait (client/signals.h), so that none of them leaves it behind; client_run() hears
 * them. What SIGKILL or a power cut leaves is removed by the next run. */
struct image_copy {
    char *path; /* NULL: there is none */
    int hold;   /* a descriptor with a lock: the copy is in use */
    sigset_t before;
};

/* A writable copy of `path` in the cache's runs/ folder, copy-on-write where the file system
 * can. Shows progress if it takes long. A signal that came meanwhile ends it, and this program. */
bool image_copy_make(const char *path, struct image_copy *copy, struct error **err);
void image_copy_remove(struct image_copy *copy); /* one that is not there is fine */

#endif
