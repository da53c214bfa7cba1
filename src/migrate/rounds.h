/* SPDX-License-Identifier: MIT
 *
 * The source's memory on its way: one round sends every page that is marked, on all streams at once.
 *
 *     rounds = rounds_new(mem, wires, count, how, &err);         // notes all writes from now on
 *     rounds_mark_all(rounds); rounds_send(rounds, …);           // round 1
 *     rounds_mark_dirty(rounds); rounds_send(rounds, …);         // what has been written to since
 *
 * The guest may run meanwhile: what it writes to while it is being copied is dirty again.
 *
 * Threads: these functions the migration's own; one more for each stream but the first.
 */
#ifndef TRAPEZE_MIGRATE_ROUNDS_H
#define TRAPEZE_MIGRATE_ROUNDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/wire.h"

struct error;
struct mem_space;
struct rounds;

enum rounds_how {
    ROUNDS_PACKED = 1, /* zstd */
    ROUNDS_DELTAS = 2  /* pages that are sent again as what has changed in them; takes memory */
};
/* `how`: bits of enum rounds_how. */
struct rounds *rounds_new(struct mem_space *mem, struct wire *wires, size_t count, unsigned how,
                          struct error **err);
void rounds_free(struct rounds *rounds); /* streams are cut if a round is under way; NULL is fine */

/* Which pages the next round is of. */
void rounds_mark_all(struct rounds *rounds); /* but for those that are zero, as nobody has touched them */
void rounds_mark_dirty(struct rounds *rounds);
/* They are somebody else's to send, and the next round is of none. */
typedef void rounds_marked_fn(void *opaque, size_t region, const uint64_t *marked);
void rounds_hand_over(struct rounds *rounds, rounds_marked_fn *fn, void *opaque);
uint64_t rounds_dirty(const struct rounds *rounds); /* bytes that are dirty now: not marked yet */
uint64_t rounds_total(const struct rounds *rounds); /* bytes of guest memory */

struct round_options {
    unsigned number;
    enum wire_last last;
    bool fresh;         /* the target has nothing but zeroes yet */
    uint64_t bandwidth; /* bytes per second, of all streams; 0: no limit */
    int64_t patience_ns;
};
/* Returns when the kernel has all of it, or a stream has failed. */
bool rounds_send(struct rounds *rounds, const struct round_options *options, struct error **err);
/* Of the round that is or was last: bytes of marked pages that are still to be sent, and those of pages
 * that were sent and not of zeroes. Any thread. */
uint64_t rounds_left(const struct rounds *rounds);
uint64_t rounds_copied(const struct rounds *rounds);
/* No thread of ours waits any longer (with the streams cut). Any thread. */
void rounds_stop(struct rounds *rounds);

#endif
