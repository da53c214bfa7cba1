/* SPDX-License-Identifier: MIT
 *
 * The optimised tier: a region is the loop around a hot block, with the loops inside and
 * around it, translated as one piece in which the most used guest registers have host registers.
 *
 *     while (*p)                     1: cmp r15, K; jl 9f         K instructions to here at most
 *         sum = sum * 31 + *p++;        cmp dword [attention], 0; jne 9f
 *                                       sub r15, 3; ...; je 8f
 *                                       sub r15, 6; ...; jmp 1b
 *                                    8: to the static registers; jmp (link)
 *                                    9: the same, to 1's own block
 *
 * Invariants
 *   - A region has one entry, and beside it the ordinary block of the same address: wherever
 *     something that the region relies on does not hold, its entry goes there.
 *   - It is entered only while all its pages are mapped as they were when it was made. Nothing
 *     in it changes mappings, modes, CSRs or the code itself; calls of C may let others do it,
 *     who then raise attention.
 *   - Every cycle in it passes a check of budget and attention, behind which the budget lasts to
 *     the next one; between them it is only counted.
 *   - Outside of it, at traps and in C, all registers are where blocks have them.
 *
 * Word operations leave the upper half of a host register undefined ("low") until somebody
 * needs it. What is known of registers where paths meet is found by translating again until the
 * assumptions hold: emission itself is the data flow analysis.
 */
#ifndef TRAPEZE_ENGINE_DBT_REGION_H
#define TRAPEZE_ENGINE_DBT_REGION_H

#include "engine/dbt/internal.h"

#define REGION_NODES  64
#define REGION_INSNS  512
#define REGION_PAGES  4
#define REGION_PASSES 8

/* See struct gen. */
struct region_values {
    uint32_t narrow, low;
};

/* A basic block. */
struct region_node {
    uint64_t pc;
    uint64_t next_pc, taken_pc; /* taken: of the conditional branch at its end */
    int next, taken;            /* the nodes there; -1: outside */
    unsigned first, count;      /* in region.insns */
    bool branches, stops;       /* stops: what is at next_pc does not belong into a region */
    bool kept;                  /* the entry can be reached from it */
    bool placed, head;          /* head: a jump leads back to it */
    bool selects, selected;     /* its branch needs no jump over the next node; it is that one */
    unsigned predecessors, position, depth;
    uint64_t loop_first, loop_last; /* of the smallest loop around it: its first and last node */
    uint32_t steady;                /* registers that change there by little, if at all */
    unsigned longest;               /* instructions from here to the next check or exit, at most */
    struct region_values in, met;   /* assumed at its start; what paths to it brought */
    const uint8_t *label;
};

struct region_page {
    uint64_t va;
    const uint8_t *host;
};

struct region {
    struct dbt *dbt;
    struct dbt_block *fallback;
    unsigned page_count, node_count, insn_count, order_count;
    struct region_page pages[REGION_PAGES]; /* [0]: the entry's */
    struct region_node nodes[REGION_NODES]; /* [0]: the entry */
    struct rv_insn insns[REGION_INSNS];
    uint8_t order[REGION_NODES]; /* of nodes in the code */
    bool fp_native, fp_dynamic;
    uint32_t x_written, f_written;
    int8_t host_of[33], xmm_of[32];
};

/* region_find.c: the loop around the fallback's address. False: there is none. */
bool region_find(struct region *region);
/* regmap.c: who gets a register. */
void region_map(struct region *region);

#endif
