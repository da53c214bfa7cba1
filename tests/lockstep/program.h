/* SPDX-License-Identifier: MIT
 *
 * Random programs of user-level instructions, made from the instruction tables: a row that is
 * added to them is tried here without anybody asking.
 *
 * A program is a list of items: straight-line code with forward branches only, so it ends.
 * Registers with a purpose: x2 and x8 point into the scratch buffer and are never written; x9
 * is a pointer that some items set before they use it. Everything else is fair game.
 */
#ifndef TRAPEZE_TESTS_LOCKSTEP_PROGRAM_H
#define TRAPEZE_TESTS_LOCKSTEP_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

#include "isa/riscv64/insn.h"

#define PROGRAM_MAX_ITEMS 256
#define ITEM_MAX_PARTS    4
#define SCRATCH_SIZE      2048 /* bytes; x8 and x2 point to its start */

/* What a part's displacement to the item's target is written into. */
enum link_kind {
    LINK_NONE,
    LINK_BRANCH,       /* B format, relative to the part itself */
    LINK_JAL,          /* J format */
    LINK_COMPRESSED_J, /* c.j */
    LINK_COMPRESSED_B, /* c.beqz, c.bnez */
    LINK_FROM_FIRST    /* I format, relative to the item's first part (an auipc) */
};

struct part {
    uint32_t bits;
    uint8_t length; /* 2 or 4 */
    uint8_t link;   /* enum link_kind */
};

struct item {
    struct part parts[ITEM_MAX_PARTS];
    unsigned count;
    unsigned target; /* index of an item behind this one, if a part has a link */
};

struct program {
    uint64_t seed;
    struct item items[PROGRAM_MAX_ITEMS];
    unsigned count;
    uint64_t x[32];
    uint64_t f[32];
    uint64_t fcsr;
    uint8_t scratch[SCRATCH_SIZE];
};

struct generator;
struct generator *generator_new(const struct rv_decoder *decoder);
void generator_free(struct generator *generator);
/* How many different rows it draws from; their names, for the record. */
size_t generator_row_count(const struct generator *generator);

void generate(const struct generator *generator, uint64_t seed, struct program *program);

/* Bytes of an item; its code at `out` with its target `displacement` bytes behind its start. */
unsigned item_size(const struct item *item);
void item_encode(const struct item *item, int64_t displacement, uint8_t *out);

#endif
