/* SPDX-License-Identifier: MIT
 *
 * Translating a region (region.h): its way in, its blocks, its ways out.
 */
#include "engine/dbt/region.h"

#include <stdlib.h>

#include "base/alloc.h"

struct fixup {
    uint8_t *jump;
    int node;
};

struct scratch {
    struct gen_cold cold[REGION_INSNS * 14 + 8];
    struct gen_group groups[REGION_INSNS / 2];
};

/* One pass of emission. */
struct pass {
    struct region *region;
    struct gen gen;
    unsigned fixup_count;
    struct fixup fixups[2 * REGION_NODES];
};

/* ---- between the region's registers and the static ones ---- */

static struct x86_mem f_at(unsigned reg)
{
    return x86_at(X86_RBP, DBT_HART(f) + 8 * (int32_t)reg);
}

static bool has_own(const struct region *region, unsigned reg)
{
    return region->host_of[reg] != X86_NONE && region->host_of[reg] != dbt_host_of[reg];
}

static bool is_displaced(const struct region *region, unsigned reg)
{
    return dbt_host_of[reg] != X86_NONE && region->host_of[reg] == X86_NONE;
}

static void move_out(const struct region *region, struct x86_code *code)
{
    for (unsigned reg = 1; reg < 32; reg++)
        if (has_own(region, reg) && (region->x_written >> reg & 1))
            x86_rm(code, X86_MOV_STORE | X86_W, region->host_of[reg], dbt_x(reg));
    for (unsigned reg = 1; reg < 32; reg++)
        if (is_displaced(region, reg))
            x86_rm(code, X86_MOV_LOAD | X86_W, dbt_host_of[reg], dbt_x(reg));
    for (unsigned reg = 0; reg < 32; reg++)
        if (region->xmm_of[reg] != X86_NONE && (region->f_written >> reg & 1))
            x86_rm(code, X86_MOVQ_STORE, region->xmm_of[reg], f_at(reg));
}

static void move_in(const struct region *region, struct x86_code *code)
{
    for (unsigned reg = 1; reg < 32; reg++)
        if (has_own(region, reg))
            x86_rm(code, X86_MOV_LOAD | X86_W, region->host_of[reg], dbt_x(reg));
    for (unsigned reg = 0; reg < 32; reg++)
        if (region->xmm_of[reg] != X86_NONE)
            x86_rm(code, X86_MOVQ_LOAD, region->xmm_of[reg], f_at(reg));
}

/* C finds and leaves what blocks keep in memory there: a displaced register needs no store. */
static void make_movers(struct pass *pass)
{
    struct x86_code *code = pass->gen.code;
    pass->gen.to_static = x86_here(code);
    move_out(pass->region, code);
    x86_bytes(code, X86_RET, 1);
    pass->gen.from_static = x86_here(code);
    move_in(pass->region, code);
    x86_bytes(code, X86_RET, 1);
}

/* ---- the way in ---- */

/* Of registers assumed to be narrow at the entry, all low. */
static void check_narrow(struct pass *pass, const uint8_t *fallback)
{
    struct x86_code *code = pass->gen.code;
    uint32_t assumed = pass->region->nodes[0].in.narrow & ~UINT32_C(1);
    for (unsigned reg = 1; reg < 32; reg++) {
        int host = dbt_host_of[reg];
        if (!(assumed >> reg & 1))
            continue;
        if (host == X86_NONE) {
            x86_rm(code, X86_MOVSXD, X86_RAX, dbt_x(reg));
            x86_rm(code, X86_CMP | X86_W, X86_RAX, dbt_x(reg));
        } else {
            x86_rr(code, X86_MOVSXD, X86_RAX, host);
            x86_rr(code, X86_CMP | X86_W, X86_RAX, host);
        }
        x86_jcc(code, X86_NE, fallback);
    }
}

static void gen_entry(struct pass *pass)
{
    struct gen *gen = &pass->gen;
    const struct region *region = pass->region;
    struct x86_code *code = gen->code;
    const uint8_t *fallback = region->fallback->entry;
    gen->block->checked = gen->block->counted_checked = x86_here(code);
    gen_page_check(gen, gen->block->pc, gen->block->host, region->fallback->checked);
    gen->block->entry = gen->block->counted = x86_here(code);
    for (unsigned i = 1; i < region->page_count; i++)
        gen_page_check(gen, region->pages[i].va, region->pages[i].host, fallback);
    gen_fp_check(gen, region->fp_native, region->fp_dynamic, fallback);
    x86_ri(code, X86_G1_CMP, X86_W, X86_R15, (int32_t)region->nodes[0].longest);
    x86_jcc(code, X86_L, fallback);
    x86_mi(code, X86_G1_CMP, 0, x86_at(X86_RBP, DBT_HART(vcpu.attention)), 0);
    x86_jcc(code, X86_NE, fallback);
    check_narrow(pass, fallback);
    dbt_gen_count(gen);
    for (unsigned reg = 1; reg < 32; reg++)
        if (is_displaced(region, reg))
            x86_rm(code, X86_MOV_STORE | X86_W, dbt_host_of[reg], dbt_x(reg));
    move_in(region, code);
}

/* ---- the ways out ---- */

static void leave_to(struct pass *pass, uint64_t pc)
{
    gen_make_full(&pass->gen, UINT32_MAX);
    move_out(pass->region, pass->gen.code);
    gen_jump_to(&pass->gen, pc);
}

static void cold_exit(struct gen *gen, const struct gen_cold *cold)
{
    struct pass *pass = CONTAINER_OF(gen, struct pass, gen);
    x86_land(gen->code, cold->from);
    if (cold->arg != 0)
        x86_ri(gen->code, X86_G1_ADD, X86_W, X86_R15, (int32_t)cold->arg);
    leave_to(pass, cold->pc);
}

/* `uncount`: instructions that were taken from the budget for nothing. */
static void exit_if(struct pass *pass, enum x86_condition condition, uint64_t pc, unsigned uncount)
{
    struct gen_cold *cold = gen_add_cold(&pass->gen, x86_jcc(pass->gen.code, condition, NULL));
    cold->emit = cold_exit;
    cold->pc = pc;
    cold->arg = uncount;
}

/* ---- blocks ---- */

static void check_budget(struct pass *pass, const struct region_node *node)
{
    struct x86_code *code = pass->gen.code;
    x86_mi(code, X86_G1_CMP, 0, x86_at(X86_RBP, DBT_HART(vcpu.attention)), 0);
    exit_if(pass, X86_NE, node->pc, 0);
    x86_ri(code, X86_G1_SUB, X86_W, X86_R15, (int32_t)node->count);
    if (node->longest != node->count) {
        x86_ri(code, X86_G1_CMP, X86_W, X86_R15, (int32_t)(node->longest - node->count));
        exit_if(pass, X86_L, node->pc, node->count);
    } else {
        exit_if(pass, X86_S, node->pc, node->count);
    }
}

static void note_values(struct pass *pass, int to)
{
    struct region_node *node = &pass->region->nodes[to];
    const struct gen *gen = &pass->gen;
    node->met.narrow &= gen->narrow;
    node->met.low |= gen->low;
    if (node->predecessors == 1 && to != 0)
        node->in = node->met;
}

/* What the nodes that follow want whole is made so now, whichever it will be. */
static void meet(struct pass *pass, int next, int taken)
{
    const struct region_node *nodes = pass->region->nodes;
    uint32_t full = 0;
    if (next >= 0)
        note_values(pass, next);
    if (taken >= 0)
        note_values(pass, taken);
    if (next >= 0)
        full |= ~nodes[next].in.low;
    if (taken >= 0)
        full |= ~nodes[taken].in.low;
    gen_make_full(&pass->gen, full);
}

static void jump_to_node(struct pass *pass, uint8_t *jump, int node)
{
    const uint8_t *label = pass->region->nodes[node].label;
    if (!jump || pass->gen.code->full)
        return;
    if (label)
        x86_patch(pass->gen.code->to_run, jump, label);
    else
        pass->fixups[pass->fixup_count++] = (struct fixup){jump, node};
}

static void branch_to(struct pass *pass, enum x86_condition condition, int node, uint64_t pc)
{
    if (node < 0)
        exit_if(pass, condition, pc, 0);
    else
        jump_to_node(pass, x86_jcc(pass->gen.code, condition, NULL), node);
}

/* `following`: the node emitted behind this one, -1 if none is. */
static void gen_end(struct pass *pass, const struct region_node *node, int following)
{
    struct x86_code *code = pass->gen.code;
    int next = node->next;
    uint64_t next_pc = node->next_pc;
    const struct rv_insn *last = &pass->gen.insns[node->count - 1];
    if (node->selects) {
        const struct region_node *skipped = &pass->region->nodes[next];
        gen_select(&pass->gen, last, &pass->region->insns[skipped->first], skipped->count);
        next = node->taken;
        meet(pass, next, -1);
    } else {
        meet(pass, next, node->taken);
    }
    if (node->branches && !node->selects) {
        enum x86_condition condition = gen_compare(&pass->gen, last);
        if (node->taken >= 0 && node->taken == following) {
            branch_to(pass, condition ^ 1, next, next_pc);
            return;
        }
        branch_to(pass, condition, node->taken, node->taken_pc);
    }
    if (next < 0)
        leave_to(pass, next_pc);
    else if (next != following)
        jump_to_node(pass, x86_jmp(code, NULL), next);
}

/* The only instruction of a region that ends a block without being a branch, but for those of
 * fflags. */
static bool is_jump(const struct gen *gen, const struct rv_insn *insn)
{
    return (insn->flags & RV_ROW_ENDS_BLOCK) && !gen_touches_fflags(gen->dbt, insn);
}

static void gen_node(struct pass *pass, int number, int following)
{
    struct region_node *node = &pass->region->nodes[number];
    struct gen *gen = &pass->gen;
    gen->pc = node->pc;
    gen->insns = &pass->region->insns[node->first];
    gen->count = node->count;
    gen->narrow = node->in.narrow;
    gen->low = node->in.low;
    gen->steady = node->steady;
    node->label = x86_here(gen->code);
    if (node->head)
        check_budget(pass, node);
    else
        x86_ri(gen->code, X86_G1_SUB, X86_W, X86_R15, (int32_t)node->count);
    const struct rv_insn *last = &gen->insns[node->count - 1];
    unsigned count = node->count;
    if (node->branches || is_jump(gen, last)) /* a jump goes without saying */
        count--;
    gen->puts_off = true;
    for (unsigned i = 0; i < count;) {
        i += gen_insns(gen, &gen->insns[i], count - i);
        gen->frm_unknown = false; /* what writes it is not in a region */
    }
    gen_settle(gen, UINT32_MAX);
    gen->puts_off = false;
    gen_end(pass, node, following);
}

/* ---- passes ---- */

static void emit(struct pass *pass, struct dbt_block *block, struct scratch *scratch)
{
    struct region *region = pass->region;
    pass->gen = gen_of(region->dbt, block);
    pass->gen.cold = scratch->cold;
    pass->gen.cold_max = ARRAY_SIZE(scratch->cold);
    pass->gen.groups = scratch->groups;
    pass->gen.group_max = ARRAY_SIZE(scratch->groups);
    pass->fixup_count = 0;
    for (unsigned i = 0; i < region->node_count; i++) {
        region->nodes[i].label = NULL;
        region->nodes[i].met = (struct region_values){.narrow = UINT32_MAX};
    }
    make_movers(pass);
    gen_entry(pass);
    pass->gen.host_of = region->host_of;
    pass->gen.xmm_of = region->xmm_of;
    for (unsigned i = 0; i < region->order_count;) {
        int number = region->order[i];
        i += region->nodes[number].selects ? 2 : 1;
        gen_node(pass, number, i < region->order_count ? region->order[i] : -1);
    }
    for (unsigned i = 0; i < pass->fixup_count; i++)
        x86_patch(pass->gen.code->to_run, pass->fixups[i].jump,
                  region->nodes[pass->fixups[i].node].label);
    gen_cold_code(&pass->gen);
}

static void assume_at_first(struct region *region)
{
    const struct rv_hart *hart = region->dbt->hart;
    for (unsigned i = 0; i < region->node_count; i++)
        region->nodes[i].in = (struct region_values){.narrow = UINT32_MAX};
    /* The entry must be sure, by looking: only at what the loop writes, and what is true now. */
    uint32_t entry = 1;
    for (unsigned reg = 1; reg < 32; reg++)
        if ((region->x_written >> reg & 1) && region->host_of[reg] != X86_NONE &&
            (int64_t)hart->x[reg] == (int32_t)hart->x[reg])
            entry |= UINT32_C(1) << reg;
    region->nodes[0].in.narrow = entry;
}

/* Assumes less, or that more is low; false: the assumptions held and nothing is to be gained. */
static bool assume_again(struct region *region, unsigned pass)
{
    bool again = false;
    for (unsigned i = 0; i < region->order_count; i++) {
        struct region_node *node = &region->nodes[region->order[i]];
        if (node->predecessors == 1 && region->order[i] != 0)
            continue;
        struct region_values in = node->in;
        in.narrow &= node->met.narrow;
        if (region->order[i] == 0)
            in.narrow &= node->met.low | 1;
        in.low = node->met.low & in.narrow;
        bool wrong = in.narrow != node->in.narrow;
        if (wrong || (in.low != node->in.low && pass < REGION_PASSES / 2)) {
            node->in = in;
            again = true;
        } else {
            node->in.low &= in.narrow;
        }
    }
    return again;
}

static void assume_nothing(struct region *region)
{
    for (unsigned i = 0; i < region->node_count; i++)
        region->nodes[i].in = (struct region_values){.narrow = 1};
}

static bool translate(struct region *region, struct dbt_block *block, struct scratch *scratch)
{
    struct dbt *dbt = region->dbt;
    struct pass pass = {.region = region};
    struct dbt_mark mark = dbt_mark(dbt);
    assume_at_first(region);
    for (unsigned i = 0;; i++) {
        dbt_rewind(dbt, mark);
        block->outgoing = NULL;
        emit(&pass, block, scratch);
        if (pass.gen.no_memory || dbt->code.full)
            return false;
        if (i == REGION_PASSES)
            break;
        if (!assume_again(region, i))
            break;
        if (i == REGION_PASSES - 1)
            assume_nothing(region);
    }
    dbt->stats.rotations += pass.gen.rotations;
    return true;
}

/* ---- a region ---- */

/* NULL: it does not fit. */
static struct dbt_block *make(struct region *region)
{
    struct dbt *dbt = region->dbt;
    struct dbt_block *fallback = region->fallback;
    struct dbt_mark mark = dbt_mark(dbt);
    struct dbt_block *block = dbt_data(dbt, sizeof(*block));
    struct dbt_use *uses = dbt_data(dbt, REGION_PAGES * sizeof(*uses));
    struct scratch *scratch = alloc_zeroed(1, sizeof(*scratch));
    bool good = false;
    if (block && uses) {
        *block = (struct dbt_block){
            .pc = fallback->pc,
            .host = fallback->host,
            .mode = fallback->mode,
            .count = fallback->count,
            .size = fallback->size,
            .fallback = fallback,
        };
        good = translate(region, block, scratch);
    }
    free(scratch);
    if (!good) {
        dbt_rewind(dbt, mark);
        return NULL;
    }
    dbt_block_made(dbt, block, mark);
    fallback->region = block;
    dbt_insert(dbt, block, fallback->page);
    for (unsigned i = 1; i < region->page_count; i++)
        dbt_insert_use(dbt, block, &uses[i], region->pages[i].host);
    return block;
}

/* False: there is no loop, or no room for it. */
static bool try_region(struct dbt *dbt, struct dbt_block *fallback, bool *no_room)
{
    struct region *region = alloc_zeroed(1, sizeof(*region));
    struct dbt_block *block = NULL;
    region->dbt = dbt;
    region->fallback = fallback;
    if (region_find(region)) {
        region_map(region);
        block = make(region);
        *no_room = !block;
    }
    if (block) {
        dbt_relink(dbt, fallback, block);
        dbt->stats.regions++;
        dbt->stats.region_instructions += region->insn_count;
        for (unsigned i = 0; i < region->order_count; i++)
            dbt->stats.selects += region->nodes[region->order[i]].selects;
    }
    free(region);
    return block != NULL;
}

void dbt_make_region(struct dbt *dbt, struct dbt_block *fallback)
{
    bool no_room = false;
    if (try_region(dbt, fallback, &no_room))
        return;
    if (no_room && dbt_make_room(dbt)) {
        /* The block may be among what made room. */
        if (fallback->dead || try_region(dbt, fallback, &no_room))
            return;
    }
    fallback->counted = fallback->entry;
    fallback->counted_checked = fallback->checked;
    dbt_relink(dbt, fallback, fallback);
}
