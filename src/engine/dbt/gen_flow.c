/* SPDX-License-Identifier: MIT
 *
 * Where a block leads: links to other blocks, branches, calls and other jumps.
 */
#include "engine/dbt/internal.h"

/* ---- links ---- */

static struct dbt_link *new_link(struct gen *gen, uint64_t target)
{
    struct dbt_link *link = dbt_data(gen->dbt, sizeof(*link));
    if (!link) {
        gen->no_memory = true;
        return NULL;
    }
    *link = (struct dbt_link){
        .exit = {.pc = target, .kind = DBT_EXIT_LINK},
        .from = gen->block,
        .sibling = gen->block->outgoing,
    };
    gen->block->outgoing = link;
    return link;
}

static void cold_link(struct gen *gen, const struct gen_cold *cold)
{
    struct dbt_link *link = new_link(gen, cold->pc);
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
}

void gen_jump_to(struct gen *gen, uint64_t pc)
{
    add_link(gen, x86_jmp(gen->code, NULL), pc);
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

static void set_link_register(struct gen *gen, const struct rv_insn *insn)
{
    if (insn->rd == RV_RD_NONE)
        return;
    uint64_t value = gen_pc(gen, insn) + insn->length;
    int reg = gen_target(gen, insn->rd, X86_RCX);
    x86_mov_imm(gen->code, reg, value);
    gen_commit(gen, insn->rd, reg);
}

static void gen_jal(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)arg;
    set_link_register(gen, insn);
    gen_jump_to(gen, gen_pc(gen, insn) + (uint64_t)insn->imm);
    gen->ended = true;
}

static void cold_lookup(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    x86_jmp(gen->code, gen->dbt->thunks.look_up);
}

static void gen_jalr(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)arg;
    struct x86_code *code = gen->code;
    gen_load_x(gen, X86_RAX, insn->rs1);
    if (insn->imm != 0)
        x86_ri(code, X86_G1_ADD, X86_W, X86_RAX, (int32_t)insn->imm);
    x86_ri(code, X86_G1_AND, X86_W, X86_RAX, -2);
    set_link_register(gen, insn);
    x86_rr(code, X86_MOV_LOAD, X86_RCX, X86_RAX);
    x86_ri(code, X86_G1_AND, 0, X86_RCX, (DBT_JUMP_CACHE - 1) * 2);
    x86_rm(code, X86_LEA, X86_RDX, x86_address(gen->dbt->state->jumps[gen->mode]));
    x86_rm(code, X86_CMP | X86_W, X86_RAX, x86_indexed(X86_RDX, X86_RCX, 3, 0));
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(code, X86_NE, NULL));
    cold->emit = cold_lookup;
    x86_rm(code, X86_GROUP5, X86_G5_JMP,
           x86_indexed(X86_RDX, X86_RCX, 3, (int32_t)offsetof(struct dbt_jump, code)));
    gen->ended = true;
}

const struct gen_op gen_flow_ops[] = {
    {"beq", gen_branch, X86_E},  {"bne", gen_branch, X86_NE}, {"blt", gen_branch, X86_L},
    {"bge", gen_branch, X86_GE}, {"bltu", gen_branch, X86_B}, {"bgeu", gen_branch, X86_AE},
    {"jal", gen_jal, 0},         {"jalr", gen_jalr, 0},       {NULL, NULL, 0},
};
