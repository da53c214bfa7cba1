/* SPDX-License-Identifier: MIT
 *
 * Machines that others wrote, on their way into an archive of ours: an OVA (a tar of an OVF
 * description, a manifest of sums and disks), an OVF with its files beside it, a folder with a .vmx
 * of VMware's. All of it is a stranger's: a disk is a file of the same package or folder, or it is
 * left out.
 *
 * Threads: single-threaded.
 */
#ifndef TRAPEZE_ARCHIVE_FOREIGN_H
#define TRAPEZE_ARCHIVE_FOREIGN_H

#include "archive/pack.h"

struct foreign;

/* What `path` is, or what is in it. `scratch` is a folder with space for the disks, which are
 * unpacked into files without names. NULL: err. */
struct foreign *foreign_open(const char *path, const char *scratch, struct error **err);
/* A name for the machine, a plain one. */
const char *foreign_name(const struct foreign *foreign);
/* Whether its disk should boot by a boot loader of its own, on a processor that we have; and what
 * starts that, a file. */
bool foreign_wants_boot_loader(const struct foreign *foreign);
void foreign_use_boot_loader(struct foreign *foreign, const char *path);
/* The machine, for pack_write(); valid until foreign_close(). What cannot be honoured is among its
 * notes. */
struct pack *foreign_pack(struct foreign *foreign, const char *name, struct error **err);
void foreign_close(struct foreign *foreign); /* NULL is fine */

#endif
