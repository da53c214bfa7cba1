/* SPDX-License-Identifier: MIT
 *
 * What pack.h wrote, as files again. The archive is a stranger's: names, sizes and order are those
 * that its manifest announces, or it is refused; what the manifest announces has to fit onto the
 * file system before any of it is written; no image in it is opened, as disks come as what the
 * guest sees.
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_ARCHIVE_UNPACK_H
#define TRAPEZE_ARCHIVE_UNPACK_H

#include <jansson.h>

#include "archive/pack.h"
#include "archive/tar.h"

struct unpacked {
    char *name; /* a plain one */
    struct text *text;
    json_t *files; /* rows of the manifest, checked */
    json_t *notes; /* an array of strings */
    int64_t rtc_offset; /* as nvram.h has it */
    bool has_saved;     /* PACK_SAVED is there: a stranger's, that nobody has looked at */
    bool has_nvram;     /* so is PACK_NVRAM; of a tree whoever unfolds it knows */
    json_t *tree;       /* what its parts are, which nobody has looked at; NULL: there are none */
};

/* From a file or a socket into an empty folder, by a confined process (sandbox/helper.h), so while
 * there is one thread only. `allowed` says whether a file may have a name.
 * Everything is on stable storage then. False: err, and what is in the folder is worth nothing. */
bool unpack(int fd, int folder, bool (*allowed)(const char *name), struct unpacked *unpacked,
            struct error **err);
/* The same of one that has perhaps a tree: its parts are files by their names then. */
bool unpack_with_tree(int fd, int folder, bool (*allowed)(const char *name),
                      struct unpacked *unpacked, struct error **err);
/* The same from the tar inside, by this process; `tree`: it may have one. */
bool unpack_tar(tar_read_fn *fn, void *opaque, int folder, bool (*allowed)(const char *name),
                bool tree, struct unpacked *unpacked, struct error **err);
void unpacked_clear(struct unpacked *unpacked);

/* The manifest alone, from the beginning of a file, which is left wherever. */
bool unpack_look(int fd, struct unpacked *unpacked, struct error **err);
/* Whether a file begins like one of ours could. */
bool unpack_is_ours(int fd);

#endif
