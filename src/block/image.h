/* SPDX-License-Identifier: MIT
 *
 * An image: a format on a file, perhaps on top of a backing image that has what it has not.
 *
 *     struct block_file *file = block_file_new(fd, read_only, cache, &err);
 *     struct block_image *image = block_image_open(file, "disk.qcow2", &options, &err);
 *     int error = block_image_read(image, offset, buffer, size);
 *     block_image_close(image);
 *
 * Which format: the one the user names. A guest writes what it likes to a raw disk, a header
 * of another format too, so an image's first bytes are a claim, not a fact:
 *   - a named format is taken at its word, and an image that is not of it is refused;
 *   - without a name, a file that begins like a format that is not ours to read is refused,
 *     one that begins like qcow2 is opened as that, but not what it names as its backing file
 *     (a guest could have named any file of the host), everything else is raw;
 *   - a backing file is opened in the format that the image above records, never guessed.
 *
 * A chain's files come from the caller's opener: block/ opens no name. A chain is at most
 * BLOCK_DEPTH_MAX deep and holds no file twice; backing images are read-only.
 *
 * A format is one const struct block_format in a file of its own and a line in formats.list.
 *
 * Threads: open, close, create, resize, check and info: one at a time for an image. The
 * others from any thread at once; who changes or frees the same cluster at the same time is
 * kept apart by the caller (`granule`): block.h's queue does that.
 */
#ifndef TRAPEZE_BLOCK_IMAGE_H
#define TRAPEZE_BLOCK_IMAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "block/file.h"
#include "block/span.h"

struct block_image;
struct error;

#define BLOCK_SECTOR    512u
#define BLOCK_DEPTH_MAX 16
#define BLOCK_SIZE_MAX  (UINT64_C(1) << 62) /* bytes */

/* Gives the files of a backing chain; called while an image is being opened. */
struct block_opener {
    /* The backing file `name`, as recorded in the image `above`. *resolved: its name for
     * messages and for what it refers to in turn; the caller frees it. NULL: err. */
    struct block_file *(*open)(const struct block_opener *opener, const char *above,
                               const char *name, char **resolved, struct error **err);
    void *opaque;
};

struct block_image_options {
    const char *format;                /* NULL: see above */
    const struct block_opener *opener; /* NULL: an image with a backing file is refused */
    bool alone;    /* leave the backing file alone: for looking at one image of a chain */
    bool to_check; /* open damaged and dirty images too, for check() */
    bool names_only; /* for who opens files on another's behalf: no more is read than the names
                      * of the backing files and the sizes (0: unknown), and nothing can be done
                      * with the images */
    /* Something is wrong with an image in use: a sentence. Any thread; may be NULL. */
    void (*warn)(void *opaque, const char *image, const char *text);
    void *opaque;
};

/* What a stretch of an image is. */
enum block_extent_kind {
    BLOCK_EXTENT_ABSENT, /* not in this image: the backing image has it, or it is zero */
    BLOCK_EXTENT_ZERO,
    BLOCK_EXTENT_DATA,
    BLOCK_EXTENT_COMPRESSED
};

struct block_extent {
    enum block_extent_kind kind;
    uint64_t length; /* bytes, > 0 */
    uint64_t host;   /* DATA: offset in the file; UINT64_MAX: it has none */
};

/* What to create. */
struct block_create {
    uint64_t size;         /* bytes, a multiple of 512 */
    uint32_t cluster_size; /* 0: the format's default */
    const char *backing;   /* recorded name; NULL: none */
    const char *backing_format;
};

struct block_check {
    uint64_t leaks;       /* clusters that nothing refers to: wasted, harmless */
    uint64_t corruptions; /* what endangers data */
    uint64_t leaks_fixed, corruptions_fixed;
    uint64_t allocated, compressed, total; /* guest clusters */
    uint64_t file_end;                     /* bytes of the file that are in use */
    /* Each finding as a sentence; may be NULL. */
    void (*report)(void *opaque, const char *text);
    void *opaque;
};

struct block_format {
    const char *name;
    const char *title;
    /* Whether a file that begins so claims to be of this format; NULL: there is no telling. */
    bool (*claims)(const uint8_t *start, size_t size);
    /* Fills in size, granule, backing_name, backing_format and state. */
    bool (*open)(struct block_image *image, const struct block_image_options *options,
                 struct error **err);
    /* Fills in size, backing_name and backing_format, and no more; NULL: it has no names. */
    bool (*names)(struct block_image *image, struct error **err);
    void (*close)(struct block_image *image); /* brings everything to the file; may be NULL */
    /* Where in image->file the whole stretch lies, found without waiting for anything. False:
     * not known at once, or in several places, or (write) it has first to be given a place. */
    bool (*direct)(struct block_image *image, bool write, uint64_t offset, uint64_t length,
                   uint64_t *host);
    int (*read)(struct block_image *image, uint64_t offset, struct block_span to);
    int (*write)(struct block_image *image, uint64_t offset, struct block_span from);
    int (*zero)(struct block_image *image, uint64_t offset, uint64_t length, unsigned flags);
    int (*discard)(struct block_image *image, uint64_t offset, uint64_t length);
    int (*flush)(struct block_image *image);
    int (*extent)(struct block_image *image, uint64_t offset, uint64_t length,
                  struct block_extent *extent);
    bool (*create)(struct block_file *file, const struct block_create *create, struct error **err);
    bool (*resize)(struct block_image *image, uint64_t size, struct error **err);
    /* NULL: there is nothing to check. */
    bool (*check)(struct block_image *image, bool repair, struct block_check *check,
                  struct error **err);
    /* Drops everything this image holds, after it was committed; NULL: cannot. */
    bool (*empty)(struct block_image *image, struct error **err);
    /* Another backing file of the same contents, as the guest sees them; NULL: it has none. */
    bool (*rebase)(struct block_image *image, const char *backing, const char *backing_format,
                   struct error **err);
    /* What a user may want to know, as "name" and text; may be NULL. */
    void (*describe)(struct block_image *image,
                     void (*say)(void *opaque, const char *name, const char *text), void *opaque);
};

struct block_image {
    const struct block_format *format;
    struct block_file *file;     /* owned */
    struct block_image *backing; /* owned; NULL: none (or options.alone) */
    char *name;                  /* for messages */
    char *backing_name;          /* as recorded; NULL: none */
    char *backing_format;
    uint64_t size; /* bytes */
    /* Writes, zeroes and discards whose stretches overlap when widened to multiples of this
     * must not run at the same time, nor beside reads of it; power of two. 1: no such rule. */
    uint32_t granule;
    bool read_only;
    bool guessed;                                                    /* the user named no format */
    void *state;                                                     /* the format's */
    void (*warn)(void *opaque, const char *image, const char *text); /* as in the options */
    void *opaque;
};

const struct block_format *block_format_find(const char *name); /* NULL: there is none */
const struct block_format *block_format_at(size_t index);       /* NULL: no more */

/* The format that others write and the file begins like, as qemu-img calls it; NULL: none. */
const char *block_file_foreign(struct block_file *file);

/* The file that the image `above` means by `name`: relative to its folder. The caller frees it. */
char *block_image_resolve(const char *above, const char *name);

/* Takes the file over on success. Locks are the caller's business. */
struct block_image *block_image_open(struct block_file *file, const char *name,
                                     const struct block_image_options *options, struct error **err);
void block_image_close(struct block_image *image); /* the chain below as well; NULL is fine */

/* Within the image's size; 0 or an errno value. */
int block_image_read(struct block_image *image, uint64_t offset, void *data, size_t size);
int block_image_write(struct block_image *image, uint64_t offset, const void *data, size_t size);

/* From `image` down: zeros where nothing has it, beyond the end of a shorter backing too. */
int block_image_read_span(struct block_image *image, uint64_t offset, struct block_span to);

/* As the guest sees it: the first of the chain that has something. *depth: which; a stretch
 * that nobody has is ZERO. */
int block_image_extent(struct block_image *image, uint64_t offset, uint64_t length,
                       struct block_extent *extent, unsigned *depth);

#endif
