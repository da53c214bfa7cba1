/* SPDX-License-Identifier: MIT
 *
 * The predecoded blocks of one vCPU: straight-line runs of instructions within one page.
 *
 * A block is found by the host address of its first instruction, which stands for the
 * guest-physical one: neither the virtual address nor the privilege matter to what it holds.
 * It is believed as long as the hart has executed no fence.i since it was made or last
 * compared with memory (U §5: until then the guest may see old instructions).
 *
 * Threads: the vCPU's owner only.
 */
#ifndef TRAPEZE_ENGINE_INTERP_BLOCKS_H
#define TRAPEZE_ENGINE_INTERP_BLOCKS_H

#include "base/bits.h"
#include "isa/riscv64/mmu.h"

#define BLOCK_MAX_INSNS 32
#define BLOCK_TABLE     65536 /* hash slots; power of two */

struct block {
    const uint8_t *host;    /* of the first instruction */
    uint64_t epoch;         /* hart->fence_i_epoch up to which it is known to be good */
    struct block *next;     /* in its hash slot */
    uint16_t count;         /* instructions, the end marker not counted */
    uint16_t size;          /* bytes of code */
    uint32_t code_at;       /* offset in this struct of the bytes it was made from; 0: the block
                               is not kept */
    uint32_t heat;          /* for an engine that translates what runs often: how often it ran, */
    uint32_t agreed;        /* how many times in a row it led to the same place, */
    uint64_t led_to;        /* and to which */
    struct rv_insn insns[]; /* count of them and the end marker */
};

struct blocks {
    struct block **table; /* BLOCK_TABLE slots */
    uint8_t *arena;       /* blocks one after the other; emptied as a whole when full */
    size_t arena_used;
    struct rv_decoder *decoder;
    struct block *scratch; /* room for one block that is not kept */
    struct straddler *straddlers;
};

bool blocks_init(struct blocks *blocks, struct error **err);
void blocks_destroy(struct blocks *blocks);

/* struct engine's warm(). */
void blocks_warm(struct blocks *blocks);
/* Has the host give memory for [from, from+size), which nobody else is writing to. */
void blocks_touch(uint8_t *from, size_t size);

static inline size_t block_slot(const uint8_t *host)
{
    uintptr_t key = (uintptr_t)host >> 1;
    return (key ^ key >> 16) & (BLOCK_TABLE - 1);
}

/* The block at hart->pc, whatever it takes: fetch, compare, decode. Valid until the next
 * call. NULL: the fetch trapped, hart->trap is set. */
struct block *blocks_find_slowly(struct blocks *blocks, struct rv_hart *hart);

static inline struct block *blocks_find(struct blocks *blocks, struct rv_hart *hart)
{
    uint64_t pc = hart->pc;
    const struct rv_tlb_entry *entry = rv_tlb_slot(hart->tlb_fetch, pc);
    if (LIKELY((pc & ~UINT64_C(0xfff)) == entry->tag)) {
        const uint8_t *host = (const uint8_t *)(uintptr_t)(pc + entry->addend);
        struct block *block = blocks->table[block_slot(host)];
        if (LIKELY(block && block->host == host && block->epoch == hart->fence_i_epoch))
            return block;
    }
    return blocks_find_slowly(blocks, hart);
}

#endif
