/* SPDX-License-Identifier: MIT
 *
 * The messages of migrate/disks.h, for both of its ends.
 */
#ifndef TRAPEZE_MIGRATE_DISKS_INTERNAL_H
#define TRAPEZE_MIGRATE_DISKS_INTERNAL_H

enum disks_kind { DISKS_BEGIN = 1, DISKS_DATA, DISKS_ZERO, DISKS_SAME, DISKS_END };

enum {
    DISKS_BEGIN_BYTES = 3,
    DISKS_BEGIN_DISK_BYTES = 10, /* for each disk */
    DISKS_DATA_BYTES = 11,       /* before the contents */
    DISKS_ZERO_BYTES = 19,
    DISKS_SAME_BYTES = 27,
    DISKS_END_BYTES = 9
};

enum { DISKS_PRESENT = 1, DISKS_READ_ONLY = 2 };

#endif
