/* SPDX-License-Identifier: MIT
 *
 * The target of a post-copy: which pages are still to come, asking for those that somebody waits
 * for, and letting each in once. The machine runs meanwhile; who waits, and who must not:
 * mem/mem.h.
 *
 *     demand = demand_new(mem);
 *     demand_add(demand, frame, &err);            // WIRE_ABSENT, as often as it comes
 *     demand_begin(demand);                       // those pages are absent from now on
 *     demand_connect(demand, wire, patience_ns, &err);
 *     intake: demand_claim(), contents, demand_arrived()
 *     demand_disconnect(demand);                  // the link is lost; all wait until it is
 * connected again
 *
 * Threads: connect, disconnect, add and begin one at a time; the rest any. One of its own, which
 * alone writes to the stream. Lock: its own, a leaf.
 */
#ifndef TRAPEZE_MIGRATE_DEMAND_H
#define TRAPEZE_MIGRATE_DEMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/wire.h"

struct demand;
struct error;
struct mem_ram;
struct mem_space;

struct demand *demand_new(struct mem_space *mem);
/* When nobody asks for anything any more (a hold on the machine); NULL is fine. All is there, then,
 * or the machine will not run any more. */
void demand_free(struct demand *demand);

bool demand_add(struct demand *demand, const struct wire_frame *absent, struct error **err);
void demand_begin(struct demand *demand);
/* What is absent, for a source that has been found again. */
bool demand_send_list(struct demand *demand, struct wire *wire, int64_t patience_ns,
                      struct error **err);

/* From now on pages are asked for there, those first that were before; when nothing is absent any
 * more and demand_runs() was said, WIRE_ALL is sent, and the streams' reading ends (`finish`, its
 * thread). */
bool demand_connect(struct demand *demand, struct wire *wire, int64_t patience_ns,
                    void (*finish)(void *opaque), void *opaque, struct error **err);
void demand_disconnect(struct demand *demand);
/* Whoever waits in the loading of state gives up. Any thread. */
void demand_give_up(struct demand *demand);
/* A word without a body, before what is asked for. */
void demand_say(struct demand *demand, enum wire_type type);
/* The machine runs: nobody waits who cannot be called away, and WIRE_ALL may be said. */
void demand_runs(struct demand *demand);

/* Whole pages of a region, which are absent and nobody else's: the caller writes them, and says so.
 * False: they are not. */
bool demand_claim(struct demand *demand, struct mem_ram *ram, uint64_t offset, uint64_t size);
void demand_arrived(struct demand *demand, struct mem_ram *ram, uint64_t offset, uint64_t size);
uint64_t demand_left(struct demand *demand); /* bytes */
bool demand_is_over(struct demand *demand);  /* all is there; the source is being told, or was */

#endif
