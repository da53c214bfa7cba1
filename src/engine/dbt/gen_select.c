/* SPDX-License-Identifier: MIT
 *
 * A branch over a few instructions that only compute, without a jump: they are done in any case,
 * and a conditional move keeps or takes back what they did.
 *
 *     beqz a4, 1f             mov edx, s0
 *     xor  s0, s0, s1         xor s0, s1; movzx s0, s0w
 *     slli s0, s0, 48         test a4, a4; cmove s0, edx
 *     srli s0, s0, 48         lea rcx, [r15-3]; cmovne r15, rcx
 *   1:
 *
 * RISC-V has no conditional move (Zicond has come too late for most programs): where a compiler for
 * other machines emits one, a guest has such a branch, and many are taken every other time.
 *
 * The instructions either all copy, registers or constants, each by a conditional move; or they
 * have a single result, and no part in the comparison.
 */
#include "engine/dbt/internal.h"

enum { MAX_SKIPPED = 4 };

static uint32_t bit(unsigned reg)
{
    return UINT32_C(1) << (reg & 31);
}

static bool all_move(const struct dbt *dbt, const struct rv_insn *insns, unsigned count)
{
    struct gen_move move;
    for (unsigned i = 0; i < count; i++)
        if (!gen_moves(dbt, &insns[i], &move))
            return false;
    return true;
}

bool gen_can_select(const struct dbt *dbt, const struct rv_insn *branch,
                    const struct rv_insn *insns, unsigned count)
{
    if (count == 0 || count > MAX_SKIPPED)
        return false;
    if (all_move(dbt, insns, count))
        return true;
    for (unsigned i = 0; i < count; i++)
        if (!gen_only_computes(dbt, &insns[i]) || insns[i].rd != insns[0].rd)
            return false;
    return insns[0].rd != branch->rs1 && insns[0].rd != branch->rs2;
}

/* Of the two values that rd may get: a narrow one is low if either is, and none is otherwise. */
static void note_value(struct gen *gen, unsigned rd, bool narrow, bool low)
{
    gen->narrow = (gen->narrow & ~bit(rd)) | (narrow ? bit(rd) : 0);
    gen->low = (gen->low & ~bit(rd)) | (low ? bit(rd) : 0);
}

static void move_if(struct gen *gen, const struct gen_move *move, enum x86_condition condition)
{
    struct x86_code *code = gen->code;
    unsigned rd = move->to, from = move->from;
    int host = gen->host_of[rd], source = gen->host_of[from];
    if (rd == RV_RD_NONE || (!move->constant && rd == from))
        return;
    bool narrow =
        gen_is_narrow(gen, rd) &&
        (move->constant ? (int64_t)move->value == (int32_t)move->value : gen_is_narrow(gen, from));
    bool low = ((gen->low & bit(rd)) || (!move->constant && (gen->low & bit(from))));
    if (!narrow || host == X86_NONE) {
        gen_make_full(gen, bit(rd) | (move->constant ? 0 : bit(from)));
        low = false;
    }
    if (move->constant) {
        x86_mov_imm(code, X86_RDX, move->value);
        source = X86_RDX;
    }
    uint32_t op = (X86_CMOV + condition) | (low ? 0 : X86_W);
    int target = host == X86_NONE ? X86_RAX : host;
    if (host == X86_NONE)
        x86_rm(code, X86_MOV_LOAD | X86_W, target, dbt_x(rd));
    if (source == X86_NONE)
        x86_rm(code, op, target, dbt_x(from));
    else
        x86_rr(code, op, target, source);
    if (host == X86_NONE)
        x86_rm(code, X86_MOV_STORE | X86_W, target, dbt_x(rd));
    note_value(gen, rd, narrow, low);
}

/* rdx: what rd was, of which only the low half if was_low. */
static void choose(struct gen *gen, const struct rv_insn *branch, unsigned rd, bool was_narrow,
                   bool was_low)
{
    struct x86_code *code = gen->code;
    int host = gen->host_of[rd];
    bool narrow = was_narrow && gen_is_narrow(gen, rd);
    if (!narrow) {
        gen_make_full(gen, bit(rd));
        if (was_low)
            x86_rr(code, X86_MOVSXD, X86_RDX, X86_RDX);
    }
    bool low = narrow && (was_low || (gen->low & bit(rd)));
    enum x86_condition skipped = gen_compare(gen, branch);
    if (host != X86_NONE) {
        x86_rr(code, (X86_CMOV + skipped) | (low ? 0 : X86_W), host, X86_RDX);
    } else {
        x86_rm(code, (X86_CMOV + (skipped ^ 1)) | X86_W, X86_RDX, dbt_x(rd));
        x86_rm(code, X86_MOV_STORE | X86_W, X86_RDX, dbt_x(rd));
    }
    note_value(gen, rd, narrow, low);
}

static void compute_and_choose(struct gen *gen, const struct rv_insn *branch,
                               const struct rv_insn *insns, unsigned count)
{
    unsigned rd = insns[0].rd;
    bool was_narrow = gen_is_narrow(gen, rd), was_low = gen->low & bit(rd);
    if (was_low)
        gen_load_low(gen, X86_RDX, rd);
    else
        gen_load_x(gen, X86_RDX, rd);
    for (unsigned i = 0; i < count;)
        i += gen_insns(gen, &insns[i], count - i);
    choose(gen, branch, rd, was_narrow, was_low);
}

void gen_select(struct gen *gen, const struct rv_insn *branch, const struct rv_insn *insns,
                unsigned count)
{
    struct x86_code *code = gen->code;
    enum x86_condition skipped = (enum x86_condition)gen_op_of(gen->dbt, branch)->arg;
    if (all_move(gen->dbt, insns, count)) {
        (void)gen_compare(gen, branch);
        for (unsigned i = 0; i < count; i++) {
            struct gen_move move;
            (void)gen_moves(gen->dbt, &insns[i], &move);
            move_if(gen, &move, skipped ^ 1);
        }
    } else {
        compute_and_choose(gen, branch, insns, count);
    }
    x86_rm(code, X86_LEA, X86_RCX, x86_at(X86_R15, -(int32_t)count));
    x86_rr(code, (X86_CMOV + (skipped ^ 1)) | X86_W, X86_R15, X86_RCX);
}
