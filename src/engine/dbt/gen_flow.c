/* SPDX-License-Identifier: MIT
 *
 * Where a block leads: links to other blocks, branches, calls and other jumps.
 */
#include "engine/dbt/internal.h"

/* ---- links ---- */

static struct dbt_link *new_link(struct gen *gen, uint64_t target, unsigned mode)
{
    struct dbt_link *link = dbt_data(gen->dbt, sizeof(*link));
    if (!link) {
        gen->no_memory = true;
        return NULL;
    }
    *link = (struct dbt_link){
        .exit = {.pc = target, .kind = DBT_EXIT_LINK},
        .mode = (uint8_t)mode,
        .from = gen->block,
        .sibling = gen->block->outgoing,
    };
    gen->block->outgoing = link;
    return link;
}

static void cold_link(struct gen *gen, const struct gen_cold *cold)
{
    struct dbt_link *link = cold->link ? cold->link : new_link(gen, cold->pc, cold->arg);
    if (!link || gen->code->full)
        return;
    link->displacement = cold->from;
    link->stub = x86_here(gen->code);
    x86_patch(gen->code->to_run, cold->from, link->stub);
    gen_leave(gen, link);
}

static void add_link(struct gen *gen, uint8_t *jump, uint64_t pc)
{
    struct gen_cold *cold = gen_add_cold(gen, jump);
    cold->emit = cold_link;
    cold->pc = pc;
    cold->arg = gen->mode;
}

static void place_link(struct gen *gen, uint8_t *jump, struct dbt_link *link)
{
    struct gen_cold *cold = gen_add_cold(gen, jump);
    cold->emit = cold_link;
    cold->link = link;
}

void gen_jump_to(struct gen *gen, uint64_t pc)
{
    add_link(gen, x86_jmp(gen->code, NULL), pc);
}

void gen_jump_to_mode(struct gen *gen, uint64_t pc, unsigned mode)
{
    struct gen_cold *cold = gen_add_cold(gen, x86_jmp(gen->code, NULL));
    cold->emit = cold_link;
    cold->pc = pc;
    cold->arg = mode;
}

/* A branch out of the middle of the block: what is behind it does not retire. */
static void cold_side_exit(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    x86_ri(gen->code, X86_G1_ADD, X86_W, X86_R15, (int32_t)cold->arg);
    gen_jump_to(gen, cold->pc);
}

/* ---- instructions ---- */

enum x86_condition gen_compare(struct gen *gen, const struct rv_insn *insn)
{
    struct x86_code *code = gen->code;
    /* Sign extension keeps every order, the unsigned one too. */
    bool low = gen_words_do(gen, insn->rs1, insn->rs2);
    uint32_t width = low ? 0 : X86_W;
    int a = low ? gen_source_low(gen, insn->rs1, X86_RAX) : gen_source(gen, insn->rs1, X86_RAX);
    if (insn->rs2 == 0)
        x86_rr(code, X86_TEST | width, a, a);
    /* test leaves CF and OF clear, as a comparison with 0 does */
    else
        gen_op_x(gen, X86_CMP | width, a, insn->rs2);
    return (enum x86_condition)gen_op_of(gen->dbt, insn)->arg;
}

static void gen_branch(struct gen *gen, const struct rv_insn *insn, uint32_t condition)
{
    struct x86_code *code = gen->code;
    (void)gen_compare(gen, insn);
    uint64_t target = gen_pc(gen, insn) + (uint64_t)insn->imm;
    uint8_t *jump = x86_jcc(code, (enum x86_condition)condition, NULL);
    unsigned behind = gen_behind(gen, insn);
    if (behind == 0) {
        add_link(gen, jump, target);
        return;
    }
    struct gen_cold *cold = gen_add_cold(gen, jump);
    cold->emit = cold_side_exit;
    cold->pc = target;
    cold->arg = behind;
}

/* ---- calls, returns, other jumps ----
 *
 * A call pushes a pair onto the host's stack, the address the guest will return to and, by
 * being a host call, the address behind itself. A return whose address is that of the topmost
 * pair is a host return, which the host predicts; it lands where the call goes on. Any other
 * forgets all pairs and looks up. (thunks.c says how the pairs are bounded and when they go.)
 *
 * Of the other jumps, one that led to the same place while it was interpreted gets an inline
 * cache, a link that is taken if it leads there again. It is never replaced: one that leads
 * elsewhere later pays a compare (and a call two jumps), and one that never was steady has none.
 * CPU time of before (= 1), busy machine, medians of 7 or 8 pairs: a loop of virtual calls of one
 * method 0.78, of two in turn 1.01, of one and then of others for good 1.08; rows of bench/, start
 * of the guest included: sort 0.94, bytecode 0.99 (4 pairs), string 0.99, boot 0.99.
 */

static void set_link_register(struct gen *gen, const struct rv_insn *insn)
{
    if (insn->rd == RV_RD_NONE)
        return;
    uint64_t value = gen_pc(gen, insn) + insn->length;
    int reg = gen_target(gen, insn->rd, X86_RCX);
    x86_mov_imm(gen->code, reg, value);
    gen_commit(gen, insn->rd, reg);
}

/* U §2.5.1: the registers that calls put their return addresses in. */
static bool is_link(unsigned reg)
{
    return reg == 1 || reg == 5;
}

static void cold_pairs_full(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    x86_ri(gen->code, X86_G1_OR, X86_W, X86_RSP, DBT_PAIRS_NONE);
    x86_jmp(gen->code, cold->back);
}

/* The first half of a pair. rax survives. */
static void push_return_address(struct gen *gen, const struct rv_insn *insn)
{
    struct x86_code *code = gen->code;
    set_link_register(gen, insn);
    x86_test_ri(code, 0, X86_RSP, DBT_PAIRS_NONE);
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(code, X86_E, NULL));
    cold->emit = cold_pairs_full;
    cold->back = x86_here(code);
    x86_push(code, gen_target(gen, insn->rd, X86_RCX));
}

/* Behind the call: the second half has been popped by the return. */
static void land_return(struct gen *gen, const struct rv_insn *insn)
{
    x86_rm(gen->code, X86_LEA, X86_RSP, x86_at(X86_RSP, 8));
    gen_jump_to(gen, gen_pc(gen, insn) + insn->length);
}

static void jump_direct(struct gen *gen, const struct rv_insn *insn, uint64_t target)
{
    if (is_link(insn->rd)) {
        push_return_address(gen, insn);
        add_link(gen, x86_call(gen->code, NULL), target);
        land_return(gen, insn);
    } else {
        set_link_register(gen, insn);
        gen_jump_to(gen, target);
    }
}

static void gen_jal(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)arg;
    jump_direct(gen, insn, gen_pc(gen, insn) + (uint64_t)insn->imm);
    gen->ended = true;
}

/* auipc; jalr: a jump of up to 2 GiB. */
static bool is_far_jump(const struct gen *gen, const struct rv_insn *insn, uint64_t *target)
{
    const unsigned auipc = 0x17;
    const struct rv_insn *before = insn - 1;
    if (insn->index == 0 || (before->raw & 0x7f) != auipc || before->rd != insn->rs1)
        return false;
    *target = (gen_pc(gen, before) + (uint64_t)before->imm + (uint64_t)insn->imm) & ~UINT64_C(1);
    return true;
}

static void target_to_rax(struct gen *gen, const struct rv_insn *insn)
{
    gen_load_x(gen, X86_RAX, insn->rs1);
    if (insn->imm != 0)
        x86_ri(gen->code, X86_G1_ADD, X86_W, X86_RAX, (int32_t)insn->imm);
    x86_ri(gen->code, X86_G1_AND, X86_W, X86_RAX, -2);
}

/* rax: target. Finds the jump cache's entry in [rdx + rcx * 8]. A miss goes to `miss`, or where
 * the jump that is returned is patched to go. */
static uint8_t *find_jump(struct gen *gen, const uint8_t *miss)
{
    struct x86_code *code = gen->code;
    x86_rr(code, X86_MOV_LOAD, X86_RCX, X86_RAX);
    x86_ri(code, X86_G1_AND, 0, X86_RCX, (DBT_JUMP_CACHE - 1) * 2);
    x86_rm(code, X86_LEA, X86_RDX, x86_address(gen->dbt->state->jumps[gen->mode]));
    x86_rm(code, X86_CMP | X86_W, X86_RAX, x86_indexed(X86_RDX, X86_RCX, 3, 0));
    return x86_jcc(code, X86_NE, miss);
}

static const struct x86_mem found_code = {
    .base = X86_RDX, .index = X86_RCX, .scale = 3, .disp = offsetof(struct dbt_jump, code)};

static void cold_look_up(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    if (cold->back) {
        x86_call(gen->code, gen->dbt->thunks.look_up);
        x86_jmp(gen->code, cold->back);
    } else {
        x86_jmp(gen->code, gen->dbt->thunks.look_up);
    }
}

/* rax: target. Goes where the jump cache leads; a call comes back behind this. */
static void jump_by_cache(struct gen *gen, bool call)
{
    struct gen_cold *cold = gen_add_cold(gen, find_jump(gen, NULL));
    cold->emit = cold_look_up;
    x86_rm(gen->code, X86_GROUP5, call ? X86_G5_CALL : X86_G5_JMP, found_code);
    if (call)
        cold->back = x86_here(gen->code);
}

static void cold_unlikely(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    jump_by_cache(gen, true);
    x86_jmp(gen->code, cold->back);
}

/* rax: target. As jump_by_cache(), but where it likely leads there is a link. */
static void jump_by_inline_cache(struct gen *gen, bool call)
{
    struct x86_code *code = gen->code;
    struct dbt_link *link = new_link(gen, gen->likely, gen->mode);
    if (!link)
        return;
    gen->dbt->stats.inline_caches++;
    x86_rm(code, X86_CMP | X86_W, X86_RAX, x86_address(&link->exit.pc));
    if (call) {
        struct gen_cold *cold = gen_add_cold(gen, x86_jcc(code, X86_NE, NULL));
        cold->emit = cold_unlikely;
        place_link(gen, x86_call(code, NULL), link);
        cold->back = x86_here(code);
    } else {
        place_link(gen, x86_jcc(code, X86_E, NULL), link);
        jump_by_cache(gen, false);
    }
}

static void jump_indirect(struct gen *gen, const struct rv_insn *insn)
{
    bool call = is_link(insn->rd);
    target_to_rax(gen, insn);
    if (call)
        push_return_address(gen, insn);
    else
        set_link_register(gen, insn);
    if (gen->likely != GEN_UNKNOWN)
        jump_by_inline_cache(gen, call);
    else
        jump_by_cache(gen, call);
    if (call)
        land_return(gen, insn);
}

/* Not the topmost pair's address. */
static void cold_return(struct gen *gen, const struct gen_cold *cold)
{
    struct x86_code *code = gen->code;
    x86_land(code, cold->from);
    x86_ri(code, X86_G1_OR, X86_W, X86_RSP, DBT_PAIRS_NONE);
    target_to_rax(gen, cold->insn);
    find_jump(gen, gen->dbt->thunks.look_up);
    x86_rm(code, X86_GROUP5, X86_G5_JMP, found_code);
}

static void jump_back(struct gen *gen, const struct rv_insn *insn)
{
    struct x86_code *code = gen->code;
    int reg = gen_source(gen, insn->rs1, X86_RAX);
    x86_rm(code, X86_CMP | X86_W, reg, x86_at(X86_RSP, 8));
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(code, X86_NE, NULL));
    cold->emit = cold_return;
    cold->insn = insn;
    x86_bytes(code, X86_RET, 1);
}

static void gen_jalr(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)arg;
    uint64_t target;
    if (is_far_jump(gen, insn, &target))
        jump_direct(gen, insn, target);
    else if (insn->rd == RV_RD_NONE && is_link(insn->rs1) && insn->imm == 0)
        jump_back(gen, insn);
    else
        jump_indirect(gen, insn);
    gen->ended = true;
}

const struct gen_op gen_flow_ops[] = {
    {"beq", gen_branch, X86_E},  {"bne", gen_branch, X86_NE}, {"blt", gen_branch, X86_L},
    {"bge", gen_branch, X86_GE}, {"bltu", gen_branch, X86_B}, {"bgeu", gen_branch, X86_AE},
    {"jal", gen_jal, 0},         {"jalr", gen_jalr, 0},       {NULL, NULL, 0},
};
