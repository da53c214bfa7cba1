/* SPDX-License-Identifier: MIT
 *
 * What goes into an archive of a machine, and what of an archive becomes one.
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_ARCHIVE_MACHINE_H
#define TRAPEZE_ARCHIVE_MACHINE_H

#include "archive/pack.h"
#include "archive/unpack.h"
#include "config/machine.h"

/* Opens disks for machine_pack() that are not simply opened by their names. */
struct machine_opener {
    /* `name`: of the disk's file, as the description has it. NULL: err. */
    struct block_image *(*open)(const struct machine_opener *opener, const char *name,
                                struct error **err);
    void *opaque;
};

/* The machine in `folder` whose .vmx is `text`: with every file that it reads, wherever that lies,
 * and every disk as its guest sees it. `text` is changed to name the files as they are in the
 * archive, and borrowed until pack_free(). What is locked by the reading stays so until then. Without
 * `opener` nobody has looked at the disks yet (pack_look()). NULL: err. */
struct pack *machine_pack(const char *name, const char *folder, struct text *text,
                          const struct machine_opener *opener, struct error **err);

enum machine_keep {
    MACHINE_KEEP_IDENTITY = 1, /* its addresses; otherwise they are new ones (config/identity.h) */
    MACHINE_KEEP_NETWORKS = 2  /* of this host and of other machines, and ports of this host */
};

/* Makes of a stranger's description one that reaches nothing of this host but the archive's files
 * (which are in the folder of the .vmx) and what any guest gets; what is taken away is noted. Files
 * that the machine itself makes have names that are `allowed` (NULL: any). Its name becomes
 * `name`. `keep`: what its user wants all the same. False: err, it describes no machine. */
bool machine_adopt(struct unpacked *unpacked, const char *name, unsigned keep,
                   bool (*allowed)(const char *name), struct error **err);

#endif
