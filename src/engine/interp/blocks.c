/* SPDX-License-Identifier: MIT
 *
 * Making, finding and re-checking predecoded blocks (see blocks.h).
 *
 * A 4-byte instruction may straddle two pages, whose translations are unrelated: such an
 * instruction is a block of its own, fetched in halves every time; only its decoding is
 * remembered, by its bits. A page that PMP cuts into parts is run from the scratch block.
 *
 * Memory: blocks are carved from an arena of host memory reserved once. When it is full all
 * of them are dropped: cheaper than keeping account of which are still used, and rare.
 */
#include "engine/interp/blocks.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/error.h"
#include "mem/mem.h"

#define ARENA_SIZE (32 * MIB)
#define WARM_SIZE  (4 * MIB) /* what an idle Linux fills in its first tenth of a second */
#define STRADDLERS 64 /* power of two */
#define CODE_MAX   (BLOCK_MAX_INSNS * 4)
#define BLOCK_BYTES(insns, code)                                                                   \
    (sizeof(struct block) + ((insns) + 1) * sizeof(struct rv_insn) + (code))

/* A decoded instruction that straddles pages. */
struct straddler {
    uint32_t bits; /* 0: none; no 4-byte instruction is 0 */
    struct block *block;
};

static void *reserve(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    /* Of no use in a core dump; and so it stands apart from other memory in /proc/PID/smaps. */
    (void)madvise(memory, size, MADV_DONTDUMP);
    /* A copy of this process (vm/fork.h) decodes for itself. */
    (void)madvise(memory, size, MADV_DONTFORK);
    return memory;
}

bool blocks_init(struct blocks *blocks, struct error **err)
{
    *blocks = (struct blocks){0};
    blocks->arena = reserve(ARENA_SIZE);
    blocks->table = reserve(BLOCK_TABLE * sizeof(struct block *));
    if (!blocks->arena || !blocks->table) {
        blocks_destroy(blocks);
        return error_set(err, ERROR_HOST, "the host has no address space for decoded instructions");
    }
    blocks->decoder = rv_decoder_new();
    blocks->scratch = alloc_zeroed(1, BLOCK_BYTES(BLOCK_MAX_INSNS, CODE_MAX));
    blocks->straddlers = alloc_zeroed(STRADDLERS, sizeof(struct straddler));
    return true;
}

void blocks_destroy(struct blocks *blocks)
{
    if (blocks->arena)
        munmap(blocks->arena, ARENA_SIZE);
    if (blocks->table)
        munmap(blocks->table, BLOCK_TABLE * sizeof(struct block *));
    rv_decoder_free(blocks->decoder);
    free(blocks->scratch);
    for (unsigned i = 0; blocks->straddlers && i < STRADDLERS; i++)
        free(blocks->straddlers[i].block);
    free(blocks->straddlers);
}

void blocks_touch(uint8_t *from, size_t size)
{
    for (size_t at = 0; at < size; at += MEM_PAGE_SIZE) {
        volatile uint8_t *byte = from + at;
        *byte = *byte;
    }
}

void blocks_warm(struct blocks *blocks)
{
    size_t left = ARENA_SIZE - blocks->arena_used;
    blocks_touch((uint8_t *)blocks->table, BLOCK_TABLE * sizeof(struct block *));
    blocks_touch(blocks->arena + blocks->arena_used, left < WARM_SIZE ? left : WARM_SIZE);
}

/* ---- making a block ---- */

/* Stands behind the last instruction of a block: goes on at the address behind it. Its index
 * is the last instruction's, so that it does not count as retired. */
static enum rv_result exec_end(struct rv_hart *hart, const struct rv_insn *insn)
{
    hart->pc += insn->offset;
    return RV_JUMP;
}

static void finish_block(struct block *block, unsigned count, unsigned size)
{
    block->count = (uint16_t)count;
    block->size = (uint16_t)size;
    block->insns[count] = (struct rv_insn){
        .exec = exec_end,
        .offset = (uint16_t)size,
        .index = (uint8_t)(count - 1),
        .row = UINT16_MAX,
    };
}

/* Another vCPU or a device may be writing there: read each 16-bit parcel once. */
static uint16_t read_parcel(const uint8_t *host)
{
    return __atomic_load_n((const uint16_t *)(const void *)host, __ATOMIC_RELAXED);
}

/* A backward branch closes a loop and is most likely taken: what is behind it can wait. */
static bool ends_block(const struct rv_insn *insn)
{
    return (insn->flags & RV_ROW_ENDS_BLOCK) != 0 ||
           ((insn->flags & RV_ROW_BRANCH) != 0 && insn->imm < 0);
}

/* Decodes from `host`, of which `available` bytes (>= 2, even) may be used, into `block`,
 * which has room for BLOCK_MAX_INSNS. `code` receives the bytes. False: not even one whole
 * instruction is there. */
static bool decode_block(const struct rv_decoder *decoder, const uint8_t *host, unsigned available,
                         struct block *block, uint8_t *code)
{
    unsigned count = 0, size = 0;
    while (count < BLOCK_MAX_INSNS && available - size >= 2) {
        uint32_t bits = read_parcel(host + size);
        if ((bits & 3) == 3) {
            if (available - size < 4)
                break;
            bits |= (uint32_t)read_parcel(host + size + 2) << 16;
        }
        struct rv_insn *insn = &block->insns[count];
        rv_decode(decoder, bits, insn);
        insn->offset = (uint16_t)size;
        insn->index = (uint8_t)count;
        store_le16(code + size, (uint16_t)bits);
        if (insn->length == 4)
            store_le16(code + size + 2, (uint16_t)(bits >> 16));
        size += insn->length;
        count++;
        if (ends_block(insn))
            break;
    }
    if (count == 0)
        return false;
    block->host = host;
    finish_block(block, count, size);
    return true;
}

static void drop_all(struct blocks *blocks)
{
    memset(blocks->table, 0, BLOCK_TABLE * sizeof(struct block *));
    blocks->arena_used = 0;
}

/* Copies the scratch block into the arena and the table. */
static struct block *keep(struct blocks *blocks, const struct block *scratch, const uint8_t *code)
{
    size_t bytes = align_up(BLOCK_BYTES(scratch->count, scratch->size), 64);
    if (ARENA_SIZE - blocks->arena_used < bytes)
        drop_all(blocks);
    struct block *block = (struct block *)(void *)(blocks->arena + blocks->arena_used);
    blocks->arena_used += bytes;

    size_t insns = sizeof(*block) + (scratch->count + 1u) * sizeof(struct rv_insn);
    memcpy(block, scratch, insns);
    memcpy((uint8_t *)block + insns, code, scratch->size);
    block->code_at = (uint32_t)insns;
    struct block **slot = &blocks->table[block_slot(block->host)];
    block->next = *slot;
    *slot = block;
    return block;
}

/* ---- the one instruction that straddles pages ---- */

static struct block *find_straddler(struct blocks *blocks, struct rv_hart *hart,
                                    const uint8_t *first_half)
{
    uint64_t pc = hart->pc, gpa;
    const uint8_t *second_half;
    unsigned in_page;
    uint32_t bits = read_parcel(first_half);
    /* A fault here reports the address of the second half in tval (P §3.1.16), the
     * instruction's in epc. */
    if (!rv_fetch_pointer(hart, pc + 2, &second_half, &in_page, &gpa))
        return NULL;
    bits |= (uint32_t)read_parcel(second_half) << 16;

    struct straddler *straddler = &blocks->straddlers[pc >> MEM_PAGE_SHIFT & (STRADDLERS - 1)];
    if (!straddler->block)
        straddler->block = alloc_zeroed(1, BLOCK_BYTES(1, 0));
    if (straddler->bits != bits) {
        straddler->bits = bits;
        rv_decode(blocks->decoder, bits, &straddler->block->insns[0]);
        finish_block(straddler->block, 1, 4);
    }
    return straddler->block;
}

/* ---- finding ---- */

/* The block if it is in its slot and still what memory holds; a stale one is unlinked (its
 * memory waits for the arena to be emptied). A block that is found comes first next time. */
static struct block *find_kept(struct blocks *blocks, const uint8_t *host, uint64_t epoch)
{
    struct block **slot = &blocks->table[block_slot(host)];
    for (struct block **link = slot; *link; link = &(*link)->next) {
        struct block *block = *link;
        if (block->host != host)
            continue;
        *link = block->next;
        if (block->epoch != epoch) {
            if (memcmp((const uint8_t *)block + block->code_at, host, block->size) != 0)
                return NULL;
            block->epoch = epoch;
        }
        block->next = *slot;
        *slot = block;
        return block;
    }
    return NULL;
}

struct block *blocks_find_slowly(struct blocks *blocks, struct rv_hart *hart)
{
    const uint8_t *host;
    unsigned in_page;
    uint64_t gpa, pc = hart->pc;
    if (!rv_fetch_pointer(hart, pc, &host, &in_page, &gpa))
        return NULL;
    /* The TLB has the page only if all of it may be executed alike. */
    bool whole_page = rv_tlb_slot(hart->tlb_fetch, pc)->tag == (pc & ~UINT64_C(0xfff));
    if (whole_page) {
        struct block *block = find_kept(blocks, host, hart->fence_i_epoch);
        if (block)
            return block;
    }

    uint8_t code[CODE_MAX];
    if (!decode_block(blocks->decoder, host, in_page, blocks->scratch, code))
        return find_straddler(blocks, hart, host);
    if (!whole_page)
        return blocks->scratch;
    blocks->scratch->epoch = hart->fence_i_epoch;
    mem_note_code(hart->vcpu.mem, mem_ram_find(hart->vcpu.mem, gpa), gpa);
    return keep(blocks, blocks->scratch, code);
}
