/* SPDX-License-Identifier: MIT
 *
 * Which pages of a machine that runs already are still to come: a bit for each, of each region, and
 * how the two sides tell each other (WIRE_ABSENT).
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_MIGRATE_ABSENT_H
#define TRAPEZE_MIGRATE_ABSENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct mem_ram;
struct mem_space;
struct wire;
struct wire_frame;

enum { ABSENT_REGIONS = 16 };

struct absent {
    struct mem_space *mem; /* borrowed */
    uint64_t *bits[ABSENT_REGIONS];
    uint64_t pages; /* how many bits are set */
};

void absent_init(struct absent *absent, struct mem_space *mem); /* none is */
void absent_clear(struct absent *absent);
void absent_empty(struct absent *absent);
/* All of a region's bits. */
void absent_set(struct absent *absent, size_t region, const uint64_t *bits);
/* SIZE_MAX: no region of this space. */
size_t absent_region(const struct absent *absent, const struct mem_ram *ram);
bool absent_has(const struct absent *absent, size_t region, uint64_t page);
/* Whether it was. */
bool absent_take(struct absent *absent, size_t region, uint64_t page);
/* The first one at or behind *page of *region, in a circle; false: there is none. */
bool absent_next(const struct absent *absent, size_t *region, uint64_t *page);

bool absent_send(const struct absent *absent, struct wire *wire, int64_t patience_ns,
                 struct error **err);
/* A frame's worth, in addition to what there was; it is a stranger's. */
bool absent_receive(struct absent *absent, const struct wire_frame *frame, struct error **err);

#endif
