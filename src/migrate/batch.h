/* SPDX-License-Identifier: MIT
 *
 * Pages gathered into a frame of memory (migrate/wire.h) until it is worth sending.
 *
 *     uint8_t *page = batch_room(batch, gpa);         // the page's bytes go there, if it has any
 *     batch_add(batch, batch_copy(page, from) ? WIRE_RUN_ZERO : WIRE_RUN_BYTES, gpa);
 *     if (batch_is_full(batch)) { frame = batch_finish(batch, &size); wire_send(…, frame, size, …);
 * }
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_MIGRATE_BATCH_H
#define TRAPEZE_MIGRATE_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zstd.h>

#include "migrate/wire.h"

struct error;

struct batch {
    uint8_t *frame, *packed; /* WIRE_HEADER, WIRE_MEMORY_HEADER, runs */
    size_t size;             /* bytes of runs */
    uint8_t *run;            /* the last one's header; NULL: none */
    uint64_t run_end;        /* gpa */
    ZSTD_CCtx *zstd;         /* NULL: sent as they are */
};

bool batch_init(struct batch *batch, bool pack, struct error **err);
void batch_clear(struct batch *batch); /* also of one that was never made */
void batch_empty(struct batch *batch);
/* Another page may not fit. */
bool batch_is_full(const struct batch *batch);
uint8_t *batch_room(const struct batch *batch, uint64_t gpa);
void batch_add(struct batch *batch, enum wire_run kind, uint64_t gpa);
/* The page as what has changed in it: `size` bytes. */
void batch_add_delta(struct batch *batch, uint64_t gpa, const uint8_t *delta, size_t size);
/* The frame for wire_send(), with a body of *size bytes, until the next call of anything here. */
uint8_t *batch_finish(struct batch *batch, size_t *size);

/* Copies a page that the guest may be writing to. Tells whether all of it was zeroes. */
bool batch_copy(uint8_t *to, const uint8_t *from);

#endif
