/* SPDX-License-Identifier: MIT
 *
 * The translator of one hart. Nothing is shared between harts, so nothing here is locked but
 * the list of code pages that somebody wrote to.
 *
 * Units of translation are the interpreter's blocks, cut exactly as it cuts them, so that both
 * engines look at interrupts, budget and attention at the same instructions: a deterministic
 * run does not depend on the engine.
 *
 * Invariants
 *   - A translation is entered only where its virtual page is mapped to the host page it was
 *     made from: jumps within a page need no check; all others go to `checked`, which compares
 *     the fetch TLB's entry.
 *   - Mode (privilege and data bank) is the same for a block and all it jumps to directly.
 *   - The fetch TLB and the mode change only outside of translated code or in dbt_call_last(),
 *     and then there are no pairs (thunks.c) of before.
 *   - A page that any translation was made from can be stored to through no TLB entry of any
 *     hart unless it is in `written`, and then its translations go at the next fence.i. (It is put
 *     there before that, too, if another hart has not yet obeyed: cache.c.)
 *   - Whoever keeps the address of translated code outside of translations keeps it in a
 *     dbt_link, in hash or in jumps: those are what dropping a block knows to undo. Blocks are
 *     dropped, and their memory used again, only while no translated code runs.
 *   - In translated code hart->pc is stale and r15 holds what is left of the budget, of which
 *     all instructions of the current block are already taken.
 */
#ifndef TRAPEZE_ENGINE_DBT_INTERNAL_H
#define TRAPEZE_ENGINE_DBT_INTERNAL_H

#include <pthread.h>

#include "engine/emit/x86.h"
#include "engine/interp/step.h"
#include "mem/mem.h"

#define DBT_GENERATIONS 8
#define DBT_CACHE_SIZE  (64 * MIB) /* unless engine_options say otherwise */
#define DBT_HOT         16         /* executions that make a block hot */
#define DBT_REGION_HEAT 1000       /* turns that make a loop a region */
#define DBT_HASH        32768      /* slots; power of two */
#define DBT_JUMP_CACHE  4096       /* entries per mode; power of two */
#define DBT_WRITTEN_MAX 512
#define DBT_WARM_CODE   (1 * MIB) /* engine->warm() */
#define DBT_WARM_DATA   (2 * MIB)
#define DBT_RESTLESS    256 /* pages; power of two */

/* How the emitted code depends on the hart: where it fetches from and where it loads and
 * stores (MPRV, SUM). */
enum { DBT_MODES = RV_BANKS * RV_BANKS };

static inline unsigned dbt_mode(unsigned fetch_bank, unsigned data_bank)
{
    return fetch_bank * RV_BANKS + data_bank;
}

enum dbt_exit_kind {
    DBT_EXIT_ENTRY,  /* not entered: attention, or the budget is too small */
    DBT_EXIT_INTERP, /* not entered: something about the hart's state that interp knows */
    DBT_EXIT_CHECK,  /* not entered: the page may be mapped elsewhere now */
    DBT_EXIT_HOT,    /* not entered: a loop leads here often enough to become a region */
    DBT_EXIT_LINK,   /* goes on at pc, to which the jump may be linked */
    DBT_EXIT_LOOKUP, /* goes on at hart->pc */
    DBT_EXIT_TRAP,   /* hart->trap is set */
    DBT_EXIT_CALLED  /* an instruction's function returned state->result */
};

/* Why and where translated code was left; lives beside the code. */
struct dbt_exit {
    uint64_t pc; /* of the block; of LINK: the target */
    uint8_t kind;
    uint16_t uncount; /* instructions of the block that did not retire */
    uint16_t offset;  /* TRAP, CALLED: of the instruction, from pc */
};

struct dbt_block;

/* A jump from one block to another. Of an indirect jump: the one taken if it leads to exit.pc, an
 * inline cache. */
struct dbt_link {
    struct dbt_exit exit;        /* first */
    uint8_t mode;                /* of the target */
    uint8_t *displacement;       /* of the jump, writable view */
    const uint8_t *stub;         /* where it goes while it is not linked */
    struct dbt_block *from, *to; /* to: NULL while not linked */
    struct dbt_link *next, **at; /* of those that lead to `to` */
    struct dbt_link *sibling;    /* of those that lead out of `from` */
};

struct dbt_block {
    uint64_t pc;
    const uint8_t *host;   /* of the first instruction */
    const uint8_t *second; /* of its second half if that is on the next page, else NULL */
    uint8_t mode;
    bool dead;
    uint16_t count, size;
    const uint8_t *checked, *entry;
    const uint8_t *counted, *counted_checked; /* the same for jumps back */
    int32_t heat;                             /* what is left of dbt.region_heat */
    struct dbt_exit hot;                      /* kind HOT */
    struct dbt_block *region, *fallback;      /* of the same address; each in the other */
    struct dbt_use *uses;                     /* its other pages */
    struct dbt_block *hash_next, *generation_next;
    struct dbt_block *page_next, **page_at;
    struct dbt_page *page;
    struct dbt_link *incoming, *outgoing;
};

/* Translations made from one page of host memory; exists while there are any. */
struct dbt_page {
    const uint8_t *host;
    struct dbt_block *blocks;
    struct dbt_use *uses;
    struct dbt_page *next;
};

/* A region that holds code of this page, which is not its first. */
struct dbt_use {
    struct dbt_block *region;
    struct dbt_page *page;
    struct dbt_use *next, **at, *sibling;
};

/* A page whose translations were dropped because it was written to. */
struct dbt_restless {
    const uint8_t *host;
    uint64_t when; /* hart->fence_i_epoch of the last time */
    unsigned drops;
};

/* A part of the cache that is filled from its front and emptied as a whole. */
struct dbt_generation {
    uint8_t *code, *code_end; /* writable view */
    uint8_t *data, *data_end;
    struct dbt_block *blocks; /* that lie in it, dropped ones included */
};
#define DBT_PAGES 4096 /* hash slots */

struct dbt_jump {
    uint64_t pc; /* 1: none; 0, too, but in the slot of that pc */
    const uint8_t *code;
};

/* What a group of accesses has found in the TLB (gen_group.c); addend 0: nothing. Those of a data
 * bank are forgotten when hart->tlb_generation is another than it was. */
struct dbt_memo {
    uint64_t page, addend;
};
#define DBT_MEMOS 32 /* per data bank and kind of access; [0] is for x2, the stack */

/* state->result beside enum rv_result: a trap was taken, and the guest is wedged. */
#define DBT_WEDGED 100

/* An instruction after which nothing of its block follows: its function says where to go on. */
struct dbt_site {
    struct dbt_exit exit; /* first; kind CALLED, for when it must be left for C */
    struct rv_insn insn;
    uint16_t count; /* instructions of the block */
};

/* At the start of the data area: what emitted code reaches relative to rip. */
struct dbt_state {
    uint64_t limit; /* value of vcpu.retired at which the budget of this entry ends */
    int64_t left;   /* written on exit: what r15 held */
    uint64_t result;
    const struct dbt_exit *why; /* of thunks.leave_why */
    uint32_t mxcsr;             /* scratch of the code that merges flags */
    uint32_t mxcsr_clean;       /* no flags, all masked, to nearest */
    uint64_t signs[2];          /* of a double and of a single */
    uint8_t flags_of[64];       /* fflags for the exception flags of mxcsr */
    uint64_t executed;          /* blocks, if they count (engine_options.count_blocks) */
    struct dbt_memo memos[RV_BANKS][2][DBT_MEMOS]; /* [..][RV_LOAD or RV_STORE] */
    uint32_t memos_used[RV_BANKS][2];              /* not 0: some may hold something */
    struct dbt_jump jumps[DBT_MODES][DBT_JUMP_CACHE];
    struct dbt_exit lookup;
};

struct dbt_stats {
    uint64_t regions, region_instructions, selects, rotations;
    uint64_t entered; /* translated code, from C */
    uint64_t translated, instructions, flushes, fences, pages_dropped;
    uint64_t unsettled; /* pages that were translated from before all harts had obeyed */
    uint64_t evictions, evicted; /* generations emptied, and blocks dropped by that */
    uint64_t linked, inline_caches;
    uint64_t exits[DBT_EXIT_CALLED + 1];
    uint64_t interpreted; /* blocks */
    uint64_t interpreted_instructions;
    uint64_t code_bytes; /* emitted */
};

struct dbt_thunks {
    const uint8_t *enter, *leave, *load[4], *store[4], *call, *sync_flags, *call_last, *leave_why,
        *look_up, *return_odd, *trap, *ecall, *sret, *memorize[RV_BANKS][2];
};

/* The pairs of calls on the host's stack: see thunks.c. */
#define DBT_PAIRS_SIZE 0x10000
#define DBT_PAIRS_NONE 0xfff0

struct dbt {
    struct rv_hart *hart;
    struct blocks interp;

    uint8_t *area;          /* as it runs: code (readable, executable), then data */
    uint8_t *code_writable; /* the same code */
    size_t code_size, data_size;
    struct dbt_generation generations[DBT_GENERATIONS];
    unsigned generation; /* the one that is being filled */
    struct x86_code code;
    uint8_t *data, *data_end;
    struct dbt_state *state;
    struct dbt_thunks thunks;
    struct dbt_block **hash;
    struct dbt_page **pages;
    uint32_t jump_modes;      /* bits: those of which state->jumps may hold something */
    struct dbt_link *pending; /* the jump that led out of translated code, to be linked */

    uint16_t *op_of_row; /* what to emit for a row of the decoder: index into dbt_ops */
    bool count_blocks;
    bool bmi2, bmi1, lzcnt, popcnt, fma, avx; /* features.c */

    const struct rv_tlb *mode_fetch, *mode_load; /* what `mode` was computed from */
    unsigned mode;
    unsigned hot;             /* executions after which a block is translated */
    int32_t region_heat;      /* turns after which a loop becomes a region; 0: never */
    uint64_t epoch;           /* hart->fence_i_epoch that was acted on */
    uint64_t rebuilt;         /* hart->rebuild_count likewise */
    uint64_t memo_generation; /* hart->tlb_generation likewise */
    unsigned next_memo;
    struct mem_listener listener;
    struct dbt_restless restless[DBT_RESTLESS];
    pthread_mutex_t lock;                    /* guards: */
    const uint8_t *written[DBT_WRITTEN_MAX]; /* host pages */
    _Atomic unsigned written_count;          /* more than fit: all of them */
    struct dbt_stats stats;
};

/* The host address of va if its page is in the fetch TLB, else NULL. */
static inline const uint8_t *dbt_fetch_host(const struct rv_hart *hart, uint64_t va)
{
    const struct rv_tlb_entry *entry =
        &hart->tlb_fetch->entry[(va >> MEM_PAGE_SHIFT) & (RV_TLB_ENTRIES - 1)];
    if (entry->tag != align_down(va, MEM_PAGE_SIZE))
        return NULL;
    return (const uint8_t *)(uintptr_t)(va + entry->addend);
}

/* ---- cache.c: memory, finding, linking, dropping ---- */

/* `size` bytes for translations; thunks and state come on top. */
bool dbt_cache_init(struct dbt *dbt, uint64_t size, struct error **err);
void dbt_cache_destroy(struct dbt *dbt);
/* From the current generation's data; NULL when it is full. Aligned to 8. */
void *dbt_data(struct dbt *dbt, size_t size);
/* What is written and allocated after a mark is given back by dbt_rewind(). */
struct dbt_mark {
    uint8_t *code, *data;
};
struct dbt_mark dbt_mark(const struct dbt *dbt);
void dbt_rewind(struct dbt *dbt, struct dbt_mark mark);
/* Drops the oldest generation, which becomes the current one: pages are to be watched anew.
 * False: the current one is empty already. */
bool dbt_make_room(struct dbt *dbt);
/* The translation of pc, whose page is in the fetch TLB, at `host`. */
struct dbt_block *dbt_find(struct dbt *dbt, uint64_t pc, const uint8_t *host, unsigned mode);
/* Makes the block findable. */
void dbt_insert(struct dbt *dbt, struct dbt_block *block, struct dbt_page *page);
/* Sees to it that no store to the page at `host` goes unnoticed. What it returns is good until
 * something is dropped. */
struct dbt_page *dbt_watch_page(struct dbt *dbt, const uint8_t *host, uint64_t gpa);
/* Makes a region go with the page at `host`, too, which is watched. */
void dbt_insert_use(struct dbt *dbt, struct dbt_block *region, struct dbt_use *use,
                    const uint8_t *host);
/* Leads all jumps that lead to `from` to `to`, a translation of the same address. */
void dbt_relink(struct dbt *dbt, struct dbt_block *from, struct dbt_block *to);
void dbt_link(struct dbt *dbt, struct dbt_link *link, struct dbt_block *to);
void dbt_note_jump(struct dbt *dbt, const struct dbt_block *block);
/* Drops everything. */
void dbt_flush(struct dbt *dbt);
/* After a fence.i or a reset: drops the translations of pages that were written to. */
void dbt_fence(struct dbt *dbt);
/* Does the same if there is nothing to drop; may be called by translated code. */
bool dbt_fence_idle(struct dbt *dbt);
/* How often a block of the page at `host` must be executed to be translated. */
unsigned dbt_hot_enough(const struct dbt *dbt, const uint8_t *host);

struct gen;

/* ---- observe.c: what others can see of us ---- */

/* The block is made, and nothing else since the mark. For traces and perf. */
void dbt_block_made(struct dbt *dbt, const struct dbt_block *block, struct dbt_mark since);
/* Emits what counts a run of the block, if somebody wants to know. Changes flags. */
void dbt_gen_count(struct gen *gen);
void dbt_trace_exit(const struct dbt *dbt, const struct dbt_exit *exit);
/* engine.count */
void dbt_count(const struct vcpu *vcpu, vcpu_count_fn *each, void *opaque);

/* ---- features.c ---- */

/* What may be used: what the host has, changed by a list as --host-cpu-features takes it, or
 * NULL. */
bool dbt_find_features(struct dbt *dbt, const char *list, struct error **err);

/* ---- thunks.c: between C and translated code ---- */

void dbt_make_thunks(struct dbt *dbt);
/* thunks_trap.c */
void dbt_make_trap_thunks(struct dbt *dbt);
/* Sets ZF unless an interrupt that mie enables is pending, which rv_recheck_interrupts() would
 * find. Uses rax and rcx. */
void gen_test_interrupts(struct x86_code *code);
/* The host register that holds x[reg] in translated code, or X86_NONE. */
extern const int8_t dbt_host_of[33];
extern const int8_t dbt_xmm_of[32]; /* f registers: none */

static inline const struct dbt_exit *dbt_enter(struct dbt *dbt, const uint8_t *code, int64_t left)
{
    typedef const struct dbt_exit *enter_fn(const uint8_t *code, void *state, int64_t left);
    enter_fn *enter;
    const uint8_t *address = dbt->thunks.enter;
    memcpy(&enter, &address, sizeof(enter));
    return enter(code, (char *)dbt->hart->x + 128, left);
}

/* Displacement of a member of the hart from rbp, which points into the middle of x[] so that
 * all of x[] can be reached with one byte. */
#define DBT_HART(member)                                                                           \
    ((int32_t)offsetof(struct rv_hart, member) - (int32_t)offsetof(struct rv_hart, x) - 128)
static inline struct x86_mem dbt_x(unsigned reg)
{
    return x86_at(X86_RBP, DBT_HART(x) + 8 * (int32_t)reg);
}

/* ---- dbt.c: what translated code calls ---- */

/* The address to go on at for hart->pc. */
const uint8_t *dbt_look_up(struct dbt *dbt);
/* Runs the function of a site's instruction. */
struct dbt_next {
    const uint8_t *code; /* where to go on */
    uint64_t or_stack;   /* DBT_PAIRS_NONE: the pairs on the stack are void */
};
struct dbt_next dbt_call_last(struct dbt *dbt, const struct dbt_site *site);
/* rv_load_slow() and rv_store_slow(), which may let others flush the TLB. */
bool dbt_load_slow(struct rv_hart *hart, uint64_t va, unsigned size, uint64_t *value);
bool dbt_store_slow(struct rv_hart *hart, uint64_t va, unsigned size, uint64_t value);
/* Delivers hart->trap, raised by the instruction that the exit names. */
const uint8_t *dbt_trap(struct dbt *dbt, const struct dbt_exit *exit);

/* ---- gen.c: translation ---- */

/* Where the code of a block is; the second page's part of an instruction that straddles pages,
 * or NULL. All of it is in the fetch TLB. */
struct dbt_place {
    const uint8_t *host, *second;
    uint64_t gpa, second_gpa;
};

/* NULL: not now (memory was reset, or the block is not what memory holds). */
struct dbt_block *dbt_translate(struct dbt *dbt, const struct block *from, uint64_t pc,
                                unsigned mode, const struct dbt_place *place);
/* ---- region.c ---- */

/* Makes a region of the loop around a block; where there is none, ends the counting. May make
 * room. */
void dbt_make_region(struct dbt *dbt, struct dbt_block *block);

/* ---- gen.c again ---- */

/* Fills op_of_row. */
void dbt_map_rows(struct dbt *dbt);

struct gen;
typedef void gen_fn(struct gen *gen, const struct rv_insn *insn, uint32_t arg);

/* One line per instruction that has its own emission; everything else is a call. */
struct gen_op {
    const char *name; /* as in the instruction tables; other rows of that function follow */
    gen_fn *emit;
    uint32_t arg;
};

/* Shifts that have not been emitted yet (gen_later.c): indices into struct gen's insns. */
#define GEN_LATER 7
struct gen_later {
    uint8_t count, index[GEN_LATER];
};

/* Code off the main path, emitted behind the block. */
struct gen_cold {
    void (*emit)(struct gen *gen, const struct gen_cold *cold);
    uint8_t *from, *also; /* the jumps that lead here */
    const uint8_t *back;
    const struct rv_insn *insn;
    uint64_t pc;
    uint32_t arg;
    int reg;
    uint64_t unit_pc; /* gen->pc, count and low where it jumps away */
    unsigned unit_count;
    const struct rv_insn *unit_insns;
    uint32_t low;
    struct gen_later later;
    struct gen_group *group;
    struct dbt_link *link;
};

/* Accesses relative to one register of a group, all to one page: see gen_group.c. */
struct gen_class {
    uint8_t base, access, count;
    int32_t first, end; /* bytes from the register's value at the start of the group */
    struct dbt_memo *memo;
};
#define GEN_CLASSES 4

struct gen_group {
    const struct rv_insn *insns;
    unsigned count; /* of insns */
    unsigned class_count;
    struct gen_class classes[GEN_CLASSES];
    uint32_t narrow, low; /* as struct gen's at its start, */
    bool frm_unknown;
    uint32_t end_narrow, end_low;    /* and behind it */
    struct gen_later later, end_later;
    bool puts_off;
    const uint8_t *one_by_one, *end; /* where that starts, and what is behind the group */
};

#define GEN_UNKNOWN 1 /* no instruction's address */

/* What is being translated: a block, or one block after the other of a region (region.c). */
struct gen {
    struct dbt *dbt;
    struct x86_code *code;
    struct dbt_block *block;
    const struct rv_insn *insns;
    unsigned count;        /* of insns */
    uint64_t pc;           /* of the first */
    uint64_t likely;       /* where it led each of the last times, or GEN_UNKNOWN */
    const int8_t *host_of; /* the host register that holds x[i] here, or X86_NONE */
    const int8_t *xmm_of;  /* the same of f[i] */
    /* In regions only: a narrow register's value is that of its low half, sign-extended; of a
     * low one the host register holds no more than that half. Every low one is narrow. */
    uint32_t narrow, low;
    /* From a region's registers to those of dbt_host_of and back, all but rax, rdx and the flags
     * untouched but those; NULL: they are the same. */
    const uint8_t *to_static, *from_static;
    unsigned mode, fetch_bank, data_bank;
    bool ended;       /* the last instruction emitted goes nowhere by itself */
    bool frm_unknown; /* an instruction before this one may have written frm */
    bool no_memory;
    unsigned cold_count, cold_max;
    struct gen_cold *cold;
    struct gen_group *group; /* whose accesses are being emitted, or NULL */
    int class_in_rcx;        /* of group->classes: rcx holds its addend; -1: none's */
    bool ungrouped;          /* accesses are emitted one by one */
    unsigned group_count, group_max;
    struct gen_group *groups;
    uint32_t steady; /* registers that mostly stay on one page; a region's loop knows */
    bool puts_off;
    struct gen_later later;
    unsigned rotations;
};

static inline uint64_t gen_pc(const struct gen *gen, const struct rv_insn *insn)
{
    return gen->pc + insn->offset;
}

/* How many instructions of the block come after this one. */
static inline unsigned gen_behind(const struct gen *gen, const struct rv_insn *insn)
{
    return gen->count - insn->index - 1u;
}

struct gen_cold *gen_add_cold(struct gen *gen, uint8_t *from);

struct gen gen_of(struct dbt *dbt, struct dbt_block *block);

/* A register that holds x[reg]; `scratch` if it must be loaded. */
int gen_source(struct gen *gen, unsigned reg, int scratch);
/* reg = x[from] */
void gen_load_x(struct gen *gen, int reg, unsigned from);
/* The same where only the low half matters. */
int gen_source_low(struct gen *gen, unsigned reg, int scratch);
void gen_load_low(struct gen *gen, int reg, unsigned from);
/* The register to compute rd in, and what makes it rd's value. */
int gen_target(const struct gen *gen, unsigned rd, int scratch);
void gen_commit(struct gen *gen, unsigned rd, int reg);
/* The same if reg holds a sign-extended word, and if it holds nothing but the word. */
void gen_commit_narrow(struct gen *gen, unsigned rd, int reg);
void gen_commit_low(struct gen *gen, unsigned rd, int reg);
/* Whether an operation on both words is one on both registers, and saves extending one. */
bool gen_words_do(const struct gen *gen, unsigned a, unsigned b);
static inline bool gen_is_narrow(const struct gen *gen, unsigned reg)
{
    return gen->narrow >> reg & 1;
}
/* Extends the registers of a set. */
void gen_make_full(struct gen *gen, uint32_t set);
/* Around what expects the registers where dbt_host_of has them. */
void gen_to_static(struct gen *gen);
void gen_from_static(struct gen *gen);
/* reg op= x[operand] */
void gen_op_x(struct gen *gen, uint32_t op, int reg, unsigned operand);

/* An exit with its descriptor: lea rax, descriptor; jmp leave. */
void gen_leave(struct gen *gen, const void *exit);
/* The instruction has set hart->trap: it and those behind it do not retire. */
void gen_trap(struct gen *gen, const struct rv_insn *insn);
struct dbt_exit *gen_exit(struct gen *gen, enum dbt_exit_kind kind, const struct rv_insn *insn,
                          unsigned uncount);
/* How a row of the decoder is emitted; NULL: by a call. */
const struct gen_op *gen_op_of(const struct dbt *dbt, const struct rv_insn *insn);
/* Compares as a branch does; the condition on which it is taken. */
enum x86_condition gen_compare(struct gen *gen, const struct rv_insn *insn);
/* Compares the fetch TLB's entry with the page at va being mapped to `host`: jumps to `other`,
 * or if that is NULL leaves as DBT_EXIT_CHECK. */
void gen_page_check(struct gen *gen, uint64_t va, const uint8_t *host, const uint8_t *other);
/* What instructions with native floating point need; else jumps to `other` or leaves. */
void gen_fp_check(struct gen *gen, bool native, bool dynamic, const uint8_t *other);
/* Whether it is a plain read or a plain write of fflags, which needs what native floating point
 * needs; and these. */
bool gen_touches_fflags(const struct dbt *dbt, const struct rv_insn *insn);
void gen_read_fflags(struct gen *gen, const struct rv_insn *insn);
void gen_write_fflags(struct gen *gen, const struct rv_insn *insn);
/* These emit several instructions as one, three that compare without a trace in fflags and two
 * integer ones; false: they are others. */
bool gen_quiet_compare(struct gen *gen, const struct rv_insn *insns);
bool gen_pair(struct gen *gen, const struct rv_insn *insns);
/* Emits the instruction at insns[0] of `left`, or several at once; how many. */
unsigned gen_insns(struct gen *gen, const struct rv_insn *insns, unsigned left);
/* What emission left for later. */
void gen_cold_code(struct gen *gen);
void gen_call(struct gen *gen, const struct rv_insn *insn);
/* The same for an instruction that never says RV_NEXT: the block ends with it. */
void gen_call_last(struct gen *gen, const struct rv_insn *insn);
/* The same with another thunk, which expects a struct dbt_site in rax. */
void gen_last_by(struct gen *gen, const struct rv_insn *insn, const uint8_t *thunk);

/* ---- gen_int.c ---- */

/* Whether it is quick, cannot trap and uses no other scratch than rax and rcx. */
bool gen_only_computes(const struct dbt *dbt, const struct rv_insn *insn);
/* x[to] = x[from], or a constant */
struct gen_move {
    unsigned to, from;
    bool constant;
    uint64_t value;
};
bool gen_moves(const struct dbt *dbt, const struct rv_insn *insn, struct gen_move *move);

/* x[to] = x[from] shifted by a constant that is neither 0 nor the width */
struct gen_shift {
    unsigned to, from, by;
    bool left, word;
};
bool gen_shifts(const struct dbt *dbt, const struct rv_insn *insn, struct gen_shift *shift);
/* Whether it puts two values without common bits together. */
bool gen_joins(const struct dbt *dbt, const struct rv_insn *insn);
/* x[to] = x[from] rotated right */
void gen_rotate(struct gen *gen, unsigned to, unsigned from, unsigned by, bool word);

/* ---- gen_later.c, for regions ---- */

/* Whether the shift waits now. */
bool gen_put_off(struct gen *gen, const struct rv_insn *insn);
/* Emits what joins two that wait; false: it does not. */
bool gen_rotation(struct gen *gen, const struct rv_insn *insn);
/* Around every other instruction. */
void gen_before(struct gen *gen, const struct rv_insn *insn);
void gen_behind_insn(struct gen *gen, const struct rv_insn *insn);
/* Emits those whose results are in the set. Uses rax. */
void gen_settle(struct gen *gen, uint32_t set);

/* ---- gen_select.c, for regions ---- */

/* Whether a branch over these can do without a jump; and the branch and these. */
bool gen_can_select(const struct dbt *dbt, const struct rv_insn *branch, const struct rv_insn *insns,
                    unsigned count);
void gen_select(struct gen *gen, const struct rv_insn *branch, const struct rv_insn *insns,
                unsigned count);

/* ---- gen_mem.c ---- */

/* The TLB look-up of an atomic, which misses if it is not aligned. rax: va, becomes the host
 * address; uses rcx and rdx. Returns the jump of a miss, where rax is still va. */
uint8_t *gen_probe(struct gen *gen, enum rv_access access, unsigned shift);
/* From rbp to the entries that loads or stores of a data bank look at. */
int32_t dbt_tlb_offset(unsigned bank, enum rv_access access);

/* What the instruction accesses if it is a plain load or store: RV_LOAD, RV_STORE, or -1. */
int gen_plain_access(const struct gen_op *op, unsigned *size);

/* ---- gen_group.c ---- */

/* Emits a group of accesses that starts here; how many instructions, 0 if there is none. */
unsigned gen_group_at(struct gen *gen, const struct rv_insn *insns, unsigned left);
/* Within a group: where the access goes. Uses rcx, and rax if the base is not in a register. */
struct x86_mem gen_group_place(struct gen *gen, const struct rv_insn *insn, enum rv_access access);
/* rax: va, rdx: memo, rcx: size - 1. ZF: the memo is filled, rcx is the addend. All change. */
void dbt_make_memorize(struct dbt *dbt, unsigned bank, enum rv_access access);
/* Forgets all memos if the TLB has been flushed since. */
void dbt_check_memos(struct dbt *dbt);

/* ---- gen_flow.c ---- */

/* A jump to guest address pc; the caller has accounted. */
void gen_jump_to(struct gen *gen, uint64_t pc);
/* The same into another mode, with which no pair of a call is left. */
void gen_jump_to_mode(struct gen *gen, uint64_t pc, unsigned mode);

extern const struct gen_op gen_int_ops[], gen_bit_ops[], gen_mem_ops[], gen_atomic_ops[],
    gen_flow_ops[], gen_fp_ops[], gen_csr_ops[];

#endif
