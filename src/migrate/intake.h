/* SPDX-License-Identifier: MIT
 *
 * What the target does with a frame of memory. The frame is a stranger's: nothing outside of the guest's
 * memory is reached, whatever is in it.
 *
 * Threads: any, each with an intake of its own.
 */
#ifndef TRAPEZE_MIGRATE_INTAKE_H
#define TRAPEZE_MIGRATE_INTAKE_H

#include <stdbool.h>
#include <stdint.h>

struct demand;
struct error;
struct mem_space;
struct wire_frame;

struct intake {
    struct mem_space *mem;
    struct demand *demand; /* NULL: the machine has not run yet; else pages that are absent only */
    uint8_t *unpacked;     /* NULL: not needed yet */
};

/* Writes what the frame says into memory. */
bool intake_take(struct intake *intake, const struct wire_frame *frame, struct error **err);
void intake_clear(struct intake *intake);

#endif
