/* SPDX-License-Identifier: MIT
 *
 * Guest images in the user's cache: the contract of images/README.md. A finished image is a
 * read-only folder with a manifest; every run boots a private copy of its disk.
 */
#ifndef TRAPEZE_CLIENT_IMAGE_H
#define TRAPEZE_CLIENT_IMAGE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

/* Strings are owned; image_clear() frees them. Paths are
 * ready to open. */
struct image {
    char *title;
    char *isa;    /* "riscv64"; NULL: not known */
    char *kernel; /* NULL: the disk has a boot loader (image_boot_loader()) */
    char *firmware; /* NULL: none */
    char *initrd; /* NULL: none */
    char *disk;   /* the immutable original; NULL: none */
    char *disk_format; /* NULL: raw */
    char *source; /* where it was pulled from; NULL: it was built */
    char *append;
    char *login;  /* user who logs in without a password; NULL: none */
    uint64_t memory; /* bytes */
    unsigned cpus;
};

/* Finds the image, building it first if it is missing (progress on standard error). */
bool image_find(const char *name, struct image *image, struct error **err);
void image_clear(struct image *image);

bool image_is_built(const char *name);
/* Of an image that there is a recipe for, in the order of `index`; NULL: there is none. */
const char *image_recipe_title(const char *name);
const char *image_recipe_at(size_t index);
bool image_recipe_needs_kvm(const char *name); /* for it to be built */

/* What starts the boot loader of a whole disk. riscv64: U-Boot for S-mode, as a kernel ($TRAPEZE_UBOOT, or
 * where Debian's u-boot-qemu has it); x86_64: SeaBIOS, as firmware ($TRAPEZE_SEABIOS, or where Debian's
 * seabios has it), or, for disks that only UEFI boots, OVMF if $TRAPEZE_OVMF names it. The caller frees
 * what comes to *kernel or *firmware, the other one is left alone. False: err. */
bool image_boot_loader(const char *isa, char **kernel, char **firmware, struct error **err);

/* Of image_store.c. A folder of the cache; the caller frees its path, NULL: err. */
char *image_folder(const char *name, struct error **err);
#define IMAGE_MANIFEST_FORMAT 1
bool image_read(const char *folder, struct image *image, struct error **err);

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
/* It stays, and no later run removes it: it belongs to a machine that was suspended. */
void image_copy_keep(struct image_copy *copy);

#endif
