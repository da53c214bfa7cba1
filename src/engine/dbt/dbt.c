/* SPDX-License-Identifier: MIT
 *
 * The engine: what runs rarely is interpreted, what runs often is translated, and this loop
 * is where the two meet. It is left and entered again only for what translated code does not
 * do itself: first visits, interrupts, traps, changes of mode, the end of the budget.
 *
 * Invariant: at the top of the loop the architectural state is exact, vcpu.retired included.
 */
#include "engine/dbt/dbt.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/trace.h"
#include "engine/dbt/internal.h"
#include "isa/riscv64/mmu.h"

static bool dbt_supports(const struct isa *isa)
{
#if defined(__x86_64__)
    return isa == &isa_riscv64;
#else
    (void)isa;
    return false;
#endif
}

static void dbt_detach(struct vcpu *vcpu)
{
    struct dbt *dbt = vcpu->engine_data;
    if (!dbt)
        return;
    blocks_destroy(&dbt->interp);
    dbt_cache_destroy(dbt);
    free(dbt->op_of_row);
    free(dbt);
    vcpu->engine = NULL;
    vcpu->engine_data = NULL;
}

static bool dbt_attach(struct vcpu *vcpu, struct error **err)
{
    struct dbt *dbt = alloc_zeroed(1, sizeof(*dbt));
    dbt->hart = rv_hart_of(vcpu);
    if (!blocks_init(&dbt->interp, err)) {
        free(dbt);
        return false;
    }
    vcpu->engine = &engine_dbt;
    vcpu->engine_data = dbt;
    const struct engine_options *options = vcpu->engine_options;
    uint64_t cache = options && options->code_cache ? options->code_cache : DBT_CACHE_SIZE;
    if (!dbt_cache_init(dbt, cache, err) ||
        !dbt_find_features(dbt, options ? options->host_features : NULL, err)) {
        dbt_detach(vcpu);
        return false;
    }
    dbt->count_blocks = options && options->count_blocks;
    dbt->hot = DBT_HOT;
    /* A deterministic run must not depend on the engine, and regions look up less often. */
    if (!vcpu->timebase || vclock_mode(vcpu->timebase->clock) == VCLOCK_REAL)
        dbt->region_heat = DBT_REGION_HEAT;
    dbt->op_of_row =
        alloc_zeroed(rv_decoder_row_count(dbt->interp.decoder), sizeof(*dbt->op_of_row));
    dbt_map_rows(dbt);
    return true;
}

void dbt_set_hot(struct vcpu *vcpu, unsigned executions)
{
    struct dbt *dbt = vcpu->engine_data;
    dbt->hot = executions;
}

void dbt_set_region_heat(struct vcpu *vcpu, unsigned turns)
{
    struct dbt *dbt = vcpu->engine_data;
    dbt->region_heat = (int32_t)turns;
}

uint64_t dbt_region_count(const struct vcpu *vcpu)
{
    const struct dbt *dbt = vcpu->engine_data;
    return dbt->stats.regions;
}

uint64_t dbt_eviction_count(const struct vcpu *vcpu)
{
    const struct dbt *dbt = vcpu->engine_data;
    return dbt->stats.evictions;
}

/* ---- one round ---- */

static unsigned bank_of(const struct rv_hart *hart, const struct rv_tlb *tlb)
{
    size_t index = ((size_t)((const char *)tlb - (const char *)hart->tlb)) / sizeof(*tlb);
    return (unsigned)index / RV_ACCESS_KINDS;
}

static unsigned mode_of(const struct rv_hart *hart)
{
    return dbt_mode(bank_of(hart, hart->tlb_fetch), bank_of(hart, hart->tlb_load));
}

struct round {
    struct dbt *dbt;
    struct rv_hart *hart;
    uint64_t limit; /* value of vcpu.retired at which the budget is used up */
    enum vcpu_exit exit;
};

/* Interprets one block; false: leave with round->exit. */
static bool interpret(struct round *round, const struct block *block)
{
    struct rv_hart *hart = round->hart;
    struct dbt_stats *stats = &round->dbt->stats;
    uint64_t before = hart->vcpu.retired;
    bool stay = interp_step(hart, block, round->limit - before, &round->exit);
    stats->interpreted++;
    stats->interpreted_instructions += hart->vcpu.retired - before;
    return stay;
}

/* The same, and notes where the block led if it ran to its end. */
static bool interpret_noting(struct round *round, struct block *block)
{
    struct rv_hart *hart = round->hart;
    uint64_t before = hart->vcpu.retired;
    bool stay = interpret(round, block);
    if (hart->vcpu.retired - before == block->count) {
        block->agreed = block->led_to == hart->pc ? block->agreed + 1 : 1;
        block->led_to = hart->pc;
    }
    return stay;
}

/* Where the block's code is, if that can be translated. */
static bool find_place(struct rv_hart *hart, const struct block *block, const uint8_t *host,
                       struct dbt_place *place)
{
    uint64_t pc = hart->pc;
    unsigned in_page;
    const uint8_t *again;
    *place = (struct dbt_place){.host = host};
    /* A hit: the page is in the TLB. */
    if (!rv_fetch_pointer(hart, pc, &again, &in_page, &place->gpa) || again != host)
        return false;
    if (block->code_at != 0)
        return block->host == host;
    if (in_page != 2 || block->size != 4)
        return false;
    place->second = dbt_fetch_host(hart, pc + 2);
    return place->second && rv_fetch_pointer(hart, pc + 2, &again, &in_page, &place->second_gpa) &&
           again == place->second;
}

/* Interprets, or translates what has become hot. `host`: NULL if it cannot be or has been
 * translated. False: leave. */
static bool run_cold(struct round *round, const uint8_t *host, unsigned mode)
{
    struct rv_hart *hart = round->hart;
    struct dbt *dbt = round->dbt;
    struct block *block = blocks_find(&dbt->interp, hart);
    if (!block) {
        round->exit = VCPU_EXIT_WEDGED;
        return interp_deliver_trap(hart, hart->pc);
    }
    if (host && ++block->heat >= dbt->hot && block->heat >= dbt_hot_enough(dbt, host)) {
        struct dbt_place place;
        block->heat = 0;
        if (find_place(hart, block, host, &place) &&
            dbt_translate(dbt, block, hart->pc, mode, &place))
            return true; /* other harts were told: attention is looked at first */
    }
    return interpret_noting(round, block);
}

/* What an instruction's function returned when it was not RV_NEXT. False: leave. */
static bool conclude_call(struct round *round, const struct dbt_exit *exit)
{
    struct rv_hart *hart = round->hart;
    if (round->dbt->state->result == DBT_WEDGED) {
        hart->vcpu.retired--;
        round->exit = VCPU_EXIT_WEDGED;
        return false;
    }
    switch ((enum rv_result)round->dbt->state->result) {
    case RV_TRAP:
        hart->vcpu.retired--;
        hart->pc = exit->pc;
        round->exit = VCPU_EXIT_WEDGED;
        return interp_deliver_trap(hart, exit->pc + exit->offset);
    case RV_EXIT:
        round->exit = hart->exit;
        if (hart->exit == VCPU_EXIT_ECALL) /* an ecall does not retire (P §3.3.1) */
            hart->vcpu.retired--;
        return false;
    case RV_JUMP:
    case RV_NEXT:
        break;
    }
    return true;
}

/* Banks change rarely, and dividing by their size costs more than remembering. */
static unsigned current_mode(struct dbt *dbt)
{
    const struct rv_hart *hart = dbt->hart;
    if (hart->tlb_fetch != dbt->mode_fetch || hart->tlb_load != dbt->mode_load) {
        dbt->mode_fetch = hart->tlb_fetch;
        dbt->mode_load = hart->tlb_load;
        dbt->mode = mode_of(hart);
    }
    return dbt->mode;
}

/* Where to go on at hart->pc without leaving translated code, if possible. */
static const uint8_t *code_at_pc(struct dbt *dbt)
{
    struct rv_hart *hart = dbt->hart;
    uint64_t pc = hart->pc;
    unsigned mode = current_mode(dbt);
    const struct dbt_jump *jump = &dbt->state->jumps[mode][pc >> 1 & (DBT_JUMP_CACHE - 1)];
    if (LIKELY(jump->pc == pc))
        return jump->code;
    const uint8_t *host = dbt_fetch_host(hart, hart->pc);
    const struct dbt_block *block = host ? dbt_find(dbt, pc, host, mode) : NULL;
    if (!block) {
        dbt->state->why = &dbt->state->lookup;
        return dbt->thunks.leave_why;
    }
    dbt_note_jump(dbt, block);
    return block->entry;
}

const uint8_t *dbt_look_up(struct dbt *dbt)
{
    return code_at_pc(dbt);
}

bool dbt_load_slow(struct rv_hart *hart, uint64_t va, unsigned size, uint64_t *value)
{
    bool good = rv_load_slow(hart, va, size, value);
    dbt_check_memos(hart->vcpu.engine_data);
    return good;
}

bool dbt_store_slow(struct rv_hart *hart, uint64_t va, unsigned size, uint64_t value)
{
    bool good = rv_store_slow(hart, va, size, value);
    dbt_check_memos(hart->vcpu.engine_data);
    return good;
}

static const uint8_t *run_last(struct dbt *dbt, const struct dbt_site *site)
{
    struct rv_hart *hart = dbt->hart;
    struct dbt_state *state = dbt->state;
    hart->pc = site->exit.pc;
    hart->vcpu.retired = state->limit - (uint64_t)state->left - site->count;
    enum rv_result result = site->insn.exec(hart, &site->insn);
    unsigned uncount = site->exit.uncount;
    if (result == RV_TRAP) {
        rv_take_trap(hart, rv_insn_pc(hart, &site->insn));
        uncount++;
    }
    state->why = &site->exit; /* which accounts by itself */
    if (result == RV_EXIT || hart->wedge_count >= RV_WEDGE_LIMIT) {
        state->result = result == RV_EXIT ? RV_EXIT : DBT_WEDGED;
        return dbt->thunks.leave_why;
    }
    state->left += uncount;
    if (hart->fence_i_epoch != dbt->epoch && !dbt_fence_idle(dbt)) {
        state->why = &state->lookup;
        return dbt->thunks.leave_why;
    }
    return code_at_pc(dbt);
}

struct dbt_next dbt_call_last(struct dbt *dbt, const struct dbt_site *site)
{
    const struct rv_hart *hart = dbt->hart;
    const struct rv_tlb *fetch = hart->tlb_fetch, *load = hart->tlb_load;
    uint64_t generation = hart->tlb_generation;
    const uint8_t *code = run_last(dbt, site);
    dbt_check_memos(dbt);
    bool same =
        hart->tlb_fetch == fetch && hart->tlb_load == load && hart->tlb_generation == generation;
    return (struct dbt_next){code, same ? 0 : DBT_PAIRS_NONE};
}

const uint8_t *dbt_trap(struct dbt *dbt, const struct dbt_exit *exit)
{
    struct rv_hart *hart = dbt->hart;
    hart->pc = exit->pc;
    rv_take_trap(hart, exit->pc + exit->offset);
    dbt->stats.exits[DBT_EXIT_TRAP]++;
    if (hart->wedge_count >= RV_WEDGE_LIMIT) {
        dbt->state->why = exit;
        return dbt->thunks.leave_why;
    }
    dbt->state->left += exit->uncount;
    return code_at_pc(dbt);
}

/* A loop of blocks has come round often. */
static void found_hot(struct round *round, struct dbt_block *block)
{
    struct dbt *dbt = round->dbt;
    if (!block->dead && block->mode == current_mode(dbt) &&
        block->host == dbt_fetch_host(round->hart, round->hart->pc))
        dbt_make_region(dbt, block);
    else
        block->heat = dbt->region_heat;
}

static bool run_translated(struct round *round, const struct dbt_block *block, uint64_t left)
{
    struct dbt *dbt = round->dbt;
    struct rv_hart *hart = round->hart;
    struct vcpu *vcpu = &hart->vcpu;
    int64_t budget = left > INT64_MAX ? INT64_MAX : (int64_t)left;
    uint64_t limit = vcpu->retired + (uint64_t)budget;
    dbt->state->limit = limit;
    dbt_check_memos(dbt);
    const struct dbt_exit *exit = dbt_enter(dbt, block->entry, budget);
    vcpu->retired = limit - (uint64_t)dbt->state->left - exit->uncount;
    dbt->stats.entered++;
    if (exit->kind != DBT_EXIT_TRAP) /* counted when it was delivered */
        dbt->stats.exits[exit->kind]++;
    if (trace_on(vcpu->trace, TRACE_EXITS))
        dbt_trace_exit(dbt, exit);
    switch ((enum dbt_exit_kind)exit->kind) {
    case DBT_EXIT_ENTRY:
    case DBT_EXIT_CHECK:
        hart->pc = exit->pc;
        return true;
    case DBT_EXIT_LINK:
        hart->pc = exit->pc;
        dbt->pending = CONTAINER_OF((struct dbt_exit *)(uintptr_t)exit, struct dbt_link, exit);
        return true;
    case DBT_EXIT_LOOKUP:
        return true;
    case DBT_EXIT_HOT:
        hart->pc = exit->pc;
        found_hot(round, CONTAINER_OF((struct dbt_exit *)(uintptr_t)exit, struct dbt_block, hot));
        return true;
    case DBT_EXIT_INTERP: {
        hart->pc = exit->pc;
        const struct block *cold = blocks_find(&dbt->interp, hart);
        return !cold || interpret(round, cold); /* no block: found out again above */
    }
    case DBT_EXIT_TRAP: /* delivered already: the last one was one too many */
        round->exit = VCPU_EXIT_WEDGED;
        return false;
    case DBT_EXIT_CALLED:
        return conclude_call(round, exit);
    }
    return true;
}

/* The translation of hart->pc, linked to the jump that led here. */
static struct dbt_block *find(struct round *round, const uint8_t *host, unsigned mode)
{
    struct dbt *dbt = round->dbt;
    struct dbt_block *block = host ? dbt_find(dbt, round->hart->pc, host, mode) : NULL;
    struct dbt_link *link = dbt->pending;
    dbt->pending = NULL;
    if (!block)
        return NULL;
    dbt_note_jump(dbt, block);
    /* An interrupt may have come in between. */
    if (link && !link->to && link->exit.pc == block->pc && link->mode == mode && !link->from->dead)
        dbt_link(dbt, link, block);
    return block;
}

static enum vcpu_exit run_loop(struct dbt *dbt, struct rv_hart *hart, uint64_t budget)
{
    struct vcpu *vcpu = &hart->vcpu;
    struct round round = {.dbt = dbt, .hart = hart, .limit = vcpu->retired + budget};
    if (round.limit < budget)
        round.limit = UINT64_MAX;
    /* What was pending when the hart last left, or was made so by the machine. */
    rv_take_interrupt(hart);
    for (;;) {
        if (UNLIKELY(atomic_load(&vcpu->attention) != 0) && !interp_look_up(hart, &round.exit))
            return round.exit;
        uint64_t left = round.limit - vcpu->retired;
        if (UNLIKELY(left == 0))
            return VCPU_EXIT_BUDGET;
        if (UNLIKELY(hart->fence_i_epoch != dbt->epoch))
            dbt_fence(dbt);
        const uint8_t *host = dbt_fetch_host(hart, hart->pc);
        unsigned mode = current_mode(dbt);
        const struct dbt_block *block = find(&round, host, mode);
        bool stay;
        if (block && block->count <= left)
            stay = run_translated(&round, block, left);
        else
            stay = run_cold(&round, block ? NULL : host, mode);
        if (!stay)
            return round.exit;
    }
}

static enum vcpu_exit dbt_run(struct vcpu *vcpu, uint64_t budget)
{
    if (vcpu->debug != NULL)
        return vcpu->isa->debug->run(vcpu, budget);
    /* seq_cst, and attention is read behind it: see isa/vcpu.c. */
    atomic_store(&vcpu->in_guest, true);
    enum vcpu_exit exit = run_loop(vcpu->engine_data, rv_hart_of(vcpu), budget);
    atomic_store(&vcpu->in_guest, false);
    return exit;
}

/* Page faults were a third of what a migrated guest's first tick took: 1,500 of them. */
static void dbt_warm(struct vcpu *vcpu)
{
    struct dbt *dbt = vcpu->engine_data;
    size_t code = (size_t)(dbt->code.end - dbt->code.at), data = (size_t)(dbt->data_end - dbt->data);
    blocks_warm(&dbt->interp);
    blocks_touch(dbt->code.at, code < DBT_WARM_CODE ? code : DBT_WARM_CODE);
    blocks_touch(dbt->data, data < DBT_WARM_DATA ? data : DBT_WARM_DATA);
}

const struct engine engine_dbt = {
    .name = "dbt",
    .supports = dbt_supports,
    .attach = dbt_attach,
    .detach = dbt_detach,
    .run = dbt_run,
    .count = dbt_count,
    .warm = dbt_warm,
};
