/* SPDX-License-Identifier: MIT
 *
 * Integer arithmetic: I, M and the parts of B and Zicond that compilers use.
 *
 * rax and rcx are free within an instruction. A result is computed in rd's own register unless
 * that would overwrite an operand that is still needed.
 */
#include "engine/dbt/internal.h"

/* The flags of an op's arg above the opcode itself. */
#define WORD        0x100000u /* 32-bit operation, result sign-extended */
#define COMMUTATIVE 0x200000u
#define OPCODE(arg) ((arg)&0x0fffffu)

static uint32_t width_of(uint32_t arg)
{
    return arg & WORD ? 0 : X86_W;
}

/* Where to compute rd = rs1 op rs2, if rs1 is moved there first. */
static int target_sparing(const struct gen *gen, const struct rv_insn *insn, unsigned spared)
{
    int reg = gen_target(gen, insn->rd, X86_RAX);
    return reg != X86_RAX && reg == gen->host_of[spared] ? X86_RAX : reg;
}

static void finish(struct gen *gen, const struct rv_insn *insn, int reg, uint32_t arg)
{
    if (arg & WORD)
        gen_commit_low(gen, insn->rd, reg);
    else
        gen_commit(gen, insn->rd, reg);
}

static void load(struct gen *gen, int reg, unsigned from, uint32_t arg)
{
    if (arg & WORD)
        gen_load_low(gen, reg, from);
    else
        gen_load_x(gen, reg, from);
}

static int source(struct gen *gen, unsigned reg, int scratch, uint32_t arg)
{
    return arg & WORD ? gen_source_low(gen, reg, scratch) : gen_source(gen, reg, scratch);
}

static void copy(struct gen *gen, unsigned rd, unsigned from)
{
    if (rd == from)
        return;
    int reg = gen_target(gen, rd, X86_RAX);
    if (gen_words_do(gen, from, from)) {
        gen_load_low(gen, reg, from);
        gen_commit_low(gen, rd, reg);
        return;
    }
    gen_load_x(gen, reg, from);
    if (gen_is_narrow(gen, from))
        gen_commit_narrow(gen, rd, reg);
    else
        gen_commit(gen, rd, reg);
}

static void constant(struct gen *gen, unsigned rd, uint64_t value)
{
    bool narrow = (int64_t)value == (int32_t)value;
    if (narrow && gen->host_of[rd] == X86_NONE) {
        x86_mov_mi(gen->code, X86_W, dbt_x(rd), (int32_t)value);
        gen->narrow |= UINT32_C(1) << rd;
        return;
    }
    int reg = gen_target(gen, rd, X86_RAX);
    x86_mov_imm(gen->code, reg, value);
    if (narrow)
        gen_commit_narrow(gen, rd, reg);
    else
        gen_commit(gen, rd, reg);
}

static bool is_bitwise(unsigned op)
{
    return op == X86_AND || op == X86_OR || op == X86_XOR;
}

static void gen_rr(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    if (insn->rd == RV_RD_NONE)
        return;
    unsigned a = insn->rs1, b = insn->rs2;
    if (a == 0 && OPCODE(arg) == X86_ADD && !(arg & WORD)) {
        copy(gen, insn->rd, b); /* c.mv */
        return;
    }
    bool narrow = is_bitwise(OPCODE(arg)) && gen_is_narrow(gen, a) && gen_is_narrow(gen, b);
    if (narrow && gen_words_do(gen, a, b))
        arg |= WORD;
    int host = gen->host_of[insn->rd];
    if ((arg & COMMUTATIVE) && insn->rd == b) {
        b = a;
        a = insn->rs2;
    }
    int reg = host != X86_NONE && (insn->rd != b || a == b) ? host : X86_RAX;
    load(gen, reg, a, arg);
    gen_op_x(gen, OPCODE(arg) | width_of(arg), reg, b);
    if (narrow && !(arg & WORD))
        gen_commit_narrow(gen, insn->rd, reg);
    else
        finish(gen, insn, reg, arg);
}

/* addiw rd, rs, 0 */
static void gen_sext_w(struct gen *gen, const struct rv_insn *insn)
{
    if (gen_is_narrow(gen, insn->rs1)) {
        copy(gen, insn->rd, insn->rs1);
        return;
    }
    int from = gen_source_low(gen, insn->rs1, X86_RAX);
    int reg = gen_target(gen, insn->rd, X86_RAX);
    x86_rr(gen->code, X86_MOVSXD, reg, from);
    gen_commit_narrow(gen, insn->rd, reg);
}

/* andi with a positive constant, and logical operations on a word. */
static bool gen_logical_ri(struct gen *gen, const struct rv_insn *insn, unsigned g1)
{
    int32_t imm = (int32_t)insn->imm;
    bool clears = g1 == X86_G1_AND && imm >= 0;
    if (g1 == X86_G1_ADD || (!clears && !gen_is_narrow(gen, insn->rs1)))
        return false;
    bool low = clears || gen_words_do(gen, insn->rs1, insn->rs1);
    int reg = gen_target(gen, insn->rd, X86_RAX);
    load(gen, reg, insn->rs1, low ? WORD : 0);
    x86_ri(gen->code, g1, low ? 0 : X86_W, reg, imm);
    if (clears || !low)
        gen_commit_narrow(gen, insn->rd, reg);
    else
        gen_commit_low(gen, insn->rd, reg);
    return true;
}

static bool gen_addi(struct gen *gen, const struct rv_insn *insn)
{
    int32_t imm = (int32_t)insn->imm;
    if (insn->rs1 == 0) {
        constant(gen, insn->rd, (uint64_t)insn->imm);
        return true;
    }
    if (imm == 0) {
        copy(gen, insn->rd, insn->rs1);
        return true;
    }
    if (gen->host_of[insn->rs1] != X86_NONE && insn->rs1 != insn->rd) {
        int from = gen_source(gen, insn->rs1, X86_RAX);
        int reg = gen_target(gen, insn->rd, X86_RAX);
        x86_rm(gen->code, X86_LEA, reg, x86_at(from, imm));
        gen_commit(gen, insn->rd, reg);
        return true;
    }
    if (gen->host_of[insn->rd] == X86_NONE && insn->rd == insn->rs1) {
        x86_mi(gen->code, X86_G1_ADD, X86_W, dbt_x(insn->rd), imm);
        gen->narrow &= ~(UINT32_C(1) << insn->rd);
        return true;
    }
    return false;
}

static void gen_ri(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    if (insn->rd == RV_RD_NONE)
        return;
    unsigned g1 = OPCODE(arg);
    int32_t imm = (int32_t)insn->imm;
    if (g1 == X86_G1_ADD && !(arg & WORD) && gen_addi(gen, insn))
        return;
    if ((arg & WORD) && imm == 0) {
        gen_sext_w(gen, insn);
        return;
    }
    if (gen_logical_ri(gen, insn, g1))
        return;
    int from = gen->host_of[insn->rs1];
    int reg = gen_target(gen, insn->rd, X86_RAX);
    if ((arg & WORD) && from != X86_NONE && from != reg) {
        x86_rm(gen->code, X86_LEA & ~X86_W, reg, x86_at(from, imm));
    } else {
        load(gen, reg, insn->rs1, arg);
        x86_ri(gen->code, g1, width_of(arg), reg, imm);
    }
    finish(gen, insn, reg, arg);
}

static void gen_shift_ri(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    if (insn->rd == RV_RD_NONE)
        return;
    unsigned count = (unsigned)insn->imm, kind = OPCODE(arg);
    if (kind == X86_SAR && !(arg & WORD) && gen_words_do(gen, insn->rs1, insn->rs1)) {
        arg |= WORD;
        count = count < 31 ? count : 31;
    }
    int reg = gen_target(gen, insn->rd, X86_RAX), from = gen->host_of[insn->rs1];
    if (kind == X86_ROR && gen->dbt->bmi2 && from != X86_NONE && from != reg && count != 0) {
        from = source(gen, insn->rs1, X86_RAX, arg);
        x86_rorx(gen->code, width_of(arg), reg, from, count);
        finish(gen, insn, reg, arg);
        return;
    }
    load(gen, reg, insn->rs1, arg);
    if (count != 0)
        x86_shift(gen->code, kind, width_of(arg), reg, count);
    /* What a logical shift leaves has no sign. */
    if (kind == X86_SHR && count != 0 && ((arg & WORD) || count > 32))
        gen_commit_narrow(gen, insn->rd, reg);
    else
        finish(gen, insn, reg, arg);
}

/* Both architectures take the count modulo the width. */
static void gen_shift_rr(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    static const uint32_t bmi2[] = {
        [X86_SHL] = X86_SHLX, [X86_SHR] = X86_SHRX, [X86_SAR] = X86_SARX};
    struct x86_code *code = gen->code;
    if (insn->rd == RV_RD_NONE)
        return;
    unsigned kind = OPCODE(arg);
    if (gen->dbt->bmi2 && kind >= X86_SHL) {
        int value = source(gen, insn->rs1, X86_RAX, arg);
        int count = gen_source_low(gen, insn->rs2, X86_RCX);
        int reg = gen_target(gen, insn->rd, X86_RAX);
        x86_vrr(code, bmi2[kind] | width_of(arg), reg, count, value);
        finish(gen, insn, reg, arg);
        return;
    }
    int reg = target_sparing(gen, insn, insn->rs2);
    gen_load_low(gen, X86_RCX, insn->rs2);
    load(gen, reg, insn->rs1, arg);
    x86_rr(code, X86_SHIFT_CL | width_of(arg), (int)kind, reg);
    finish(gen, insn, reg, arg);
}

/* rd = flag: through rcx, which no operand is in. */
static void set_flag(struct gen *gen, const struct rv_insn *insn, uint32_t condition)
{
    x86_rr(gen->code, (X86_SET + condition) | X86_BYTE_RM, 0, X86_RCX);
    int reg = gen_target(gen, insn->rd, X86_RCX);
    x86_rr(gen->code, X86_MOVZX8 | X86_BYTE_RM, reg, X86_RCX);
    gen_commit_narrow(gen, insn->rd, reg);
}

static void gen_slt(struct gen *gen, const struct rv_insn *insn, uint32_t condition)
{
    if (insn->rd == RV_RD_NONE)
        return;
    uint32_t arg = gen_words_do(gen, insn->rs1, insn->rs2) ? WORD : 0;
    int a = source(gen, insn->rs1, X86_RAX, arg);
    gen_op_x(gen, X86_CMP | width_of(arg), a, insn->rs2);
    set_flag(gen, insn, condition);
}

static void gen_slti(struct gen *gen, const struct rv_insn *insn, uint32_t condition)
{
    if (insn->rd == RV_RD_NONE)
        return;
    uint32_t arg = gen_words_do(gen, insn->rs1, insn->rs1) ? WORD : 0;
    int a = source(gen, insn->rs1, X86_RAX, arg);
    x86_ri(gen->code, X86_G1_CMP, width_of(arg), a, (int32_t)insn->imm);
    set_flag(gen, insn, condition);
}

static void gen_lui(struct gen *gen, const struct rv_insn *insn, uint32_t from_pc)
{
    if (insn->rd != RV_RD_NONE)
        constant(gen, insn->rd, (uint64_t)insn->imm + (from_pc ? gen_pc(gen, insn) : 0));
}

static void gen_nothing(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)gen, (void)insn, (void)arg;
}

/* ---- pairs ---- */

/* slli and srli that clear upper bits, and perhaps shift what is left. */
static bool gen_zero_extension(struct gen *gen, const struct rv_insn *first,
                               const struct rv_insn *second)
{
    static const uint32_t ops[] = {
        [32] = X86_MOV_LOAD, [48] = X86_MOVZX16, [56] = X86_MOVZX8 | X86_BYTE_RM};
    struct x86_code *code = gen->code;
    unsigned clear = (unsigned)first->imm, right = (unsigned)second->imm;
    if (clear >= ARRAY_SIZE(ops) || ops[clear] == 0 || right > clear ||
        (right < clear && clear != 32))
        return false;
    int from = gen_source_low(gen, first->rs1, X86_RAX);
    int reg = gen_target(gen, first->rd, X86_RAX);
    x86_rr(code, ops[clear], reg, from);
    if (right < clear)
        x86_shift(code, X86_SHL, X86_W, reg, clear - right);
    if (clear > 32)
        gen_commit_narrow(gen, first->rd, reg);
    else
        gen_commit(gen, first->rd, reg);
    return true;
}

static void gen_constant_pair(struct gen *gen, const struct rv_insn *first, bool from_pc,
                              const struct rv_insn *second, bool word)
{
    uint64_t value = (uint64_t)first->imm + (from_pc ? gen_pc(gen, first) : 0);
    value += (uint64_t)second->imm;
    constant(gen, second->rd, word ? (uint64_t)(int64_t)(int32_t)value : value);
}

bool gen_pair(struct gen *gen, const struct rv_insn *insns)
{
    const struct rv_insn *first = insns, *second = insns + 1;
    const struct gen_op *a = gen_op_of(gen->dbt, first), *b = gen_op_of(gen->dbt, second);
    if (!a || !b || first->rd == RV_RD_NONE || second->rd != first->rd || second->rs1 != first->rd)
        return false;
    if (a->emit == gen_shift_ri && a->arg == X86_SHL && b->emit == gen_shift_ri &&
        b->arg == X86_SHR)
        return gen_zero_extension(gen, first, second);
    if (a->emit != gen_lui || b->emit != gen_ri || OPCODE(b->arg) != X86_G1_ADD)
        return false;
    gen_constant_pair(gen, first, a->arg != 0, second, b->arg & WORD);
    return true;
}

/* ---- multiplication and division ---- */

/* The upper half of a product: rdx. */
static void gen_mulh(struct gen *gen, const struct rv_insn *insn, uint32_t g3)
{
    struct x86_code *code = gen->code;
    if (insn->rd == RV_RD_NONE)
        return;
    gen_load_x(gen, X86_RAX, insn->rs1);
    int b = gen_source(gen, insn->rs2, X86_RCX);
    x86_rr(code, X86_GROUP3 | X86_W, (int)g3, b);
    gen_commit(gen, insn->rd, X86_RDX);
}

enum { SIGNED = 0x400000, REMAINDER = 0x800000 };

/* By zero: all ones, and the dividend remains. By -1: the negated dividend, 0 remains; the
 * host would trap on the one overflow among these. All others divide. */
static void gen_div(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    if (insn->rd == RV_RD_NONE)
        return;
    uint32_t width = width_of(arg);
    load(gen, X86_RAX, insn->rs1, arg);
    load(gen, X86_RCX, insn->rs2, arg);
    x86_rr(code, X86_TEST | width, X86_RCX, X86_RCX);
    uint8_t *by_zero = x86_jcc(code, X86_E, NULL), *by_minus_one = NULL;
    if (arg & SIGNED) {
        x86_ri(code, X86_G1_CMP, width, X86_RCX, -1);
        by_minus_one = x86_jcc(code, X86_E, NULL);
        if (width)
            x86_bytes(code, X86_CQO, 2);
        else
            x86_bytes(code, X86_CDQ, 1);
    } else {
        x86_rr(code, X86_XOR, X86_RDX, X86_RDX);
    }
    x86_rr(code, X86_GROUP3 | width, arg & SIGNED ? X86_G3_IDIV : X86_G3_DIV, X86_RCX);
    if (arg & REMAINDER)
        x86_rr(code, X86_MOV_LOAD | X86_W, X86_RAX, X86_RDX);
    uint8_t *done = x86_jmp(code, NULL), *done_too = NULL;
    if (arg & SIGNED) {
        x86_land(code, by_minus_one);
        if (arg & REMAINDER)
            x86_rr(code, X86_XOR, X86_RAX, X86_RAX);
        else
            x86_rr(code, X86_GROUP3 | width, X86_G3_NEG, X86_RAX);
        done_too = x86_jmp(code, NULL);
    }
    x86_land(code, by_zero);
    if (!(arg & REMAINDER))
        x86_mov_imm(code, X86_RAX, UINT64_MAX);
    x86_land(code, done);
    x86_land(code, done_too);
    finish(gen, insn, X86_RAX, arg);
}

/* ---- Zba, Zbb, Zbs, Zicond ---- */

/* rd = rs2 + (rs1 << arg) */
static void gen_shadd(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    if (insn->rd == RV_RD_NONE)
        return;
    int a = source(gen, insn->rs1, X86_RAX, arg);
    if (arg & WORD) { /* .uw */
        x86_rr(code, X86_MOV_LOAD, X86_RAX, a);
        a = X86_RAX;
    }
    int b = gen_source(gen, insn->rs2, X86_RCX);
    int reg = gen_target(gen, insn->rd, X86_RAX);
    x86_rm(code, X86_LEA, reg, x86_indexed(b, a, OPCODE(arg), 0));
    gen_commit(gen, insn->rd, reg);
}

static void gen_slli_uw(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)arg;
    if (insn->rd == RV_RD_NONE)
        return;
    int a = gen_source_low(gen, insn->rs1, X86_RAX);
    int reg = gen_target(gen, insn->rd, X86_RAX);
    x86_rr(gen->code, X86_MOV_LOAD, reg, a);
    if (insn->imm != 0)
        x86_shift(gen->code, X86_SHL, X86_W, reg, (unsigned)insn->imm);
    gen_commit(gen, insn->rd, reg);
}

/* rs1 op ~rs2 */
static void gen_with_not(struct gen *gen, const struct rv_insn *insn, uint32_t op)
{
    struct x86_code *code = gen->code;
    if (insn->rd == RV_RD_NONE)
        return;
    gen_load_x(gen, X86_RAX, insn->rs2);
    x86_rr(code, X86_GROUP3 | X86_W, X86_G3_NOT, X86_RAX);
    gen_op_x(gen, op | X86_W, X86_RAX, insn->rs1);
    gen_commit(gen, insn->rd, X86_RAX);
}

static void gen_minmax(struct gen *gen, const struct rv_insn *insn, uint32_t condition)
{
    if (insn->rd == RV_RD_NONE)
        return;
    gen_load_x(gen, X86_RAX, insn->rs1);
    int b = gen_source(gen, insn->rs2, X86_RCX);
    x86_rr(gen->code, X86_CMP | X86_W, b, X86_RAX);
    x86_rr(gen->code, (X86_CMOV + condition) | X86_W, X86_RAX, b);
    gen_commit(gen, insn->rd, X86_RAX);
}

/* reg = op(rs1): extensions and byte swaps. */
static void gen_extend(struct gen *gen, const struct rv_insn *insn, uint32_t op)
{
    if (insn->rd == RV_RD_NONE)
        return;
    int a = gen_source_low(gen, insn->rs1, X86_RAX);
    int reg = gen_target(gen, insn->rd, X86_RAX);
    x86_rr(gen->code, op, reg, a);
    gen_commit_narrow(gen, insn->rd, reg);
}

static void gen_rev8(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)arg;
    if (insn->rd == RV_RD_NONE)
        return;
    int reg = gen_target(gen, insn->rd, X86_RAX);
    gen_load_x(gen, reg, insn->rs1);
    x86_bswap(gen->code, reg);
    gen_commit(gen, insn->rd, reg);
}

/* clz, ctz, cpop where the host has them with the same meaning of 0. */
static void gen_count(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    bool present = OPCODE(arg) == X86_POPCNT  ? gen->dbt->popcnt
                   : OPCODE(arg) == X86_LZCNT ? gen->dbt->lzcnt
                                              : gen->dbt->bmi1;
    if (!present) {
        gen_call(gen, insn);
        return;
    }
    if (insn->rd == RV_RD_NONE)
        return;
    int a = source(gen, insn->rs1, X86_RAX, arg);
    int reg = gen_target(gen, insn->rd, X86_RAX);
    x86_rr(gen->code, OPCODE(arg) | width_of(arg), reg, a);
    gen_commit_narrow(gen, insn->rd, reg);
}

/* A register's bit operations take the bit number modulo 64, too. */
static void gen_bit_rr(struct gen *gen, const struct rv_insn *insn, uint32_t op)
{
    if (insn->rd == RV_RD_NONE)
        return;
    gen_load_x(gen, X86_RAX, insn->rs1);
    int bit = gen_source(gen, insn->rs2, X86_RCX);
    x86_rr(gen->code, op | X86_W, bit, X86_RAX);
    gen_commit(gen, insn->rd, X86_RAX);
}

static void gen_bit_ri(struct gen *gen, const struct rv_insn *insn, uint32_t op)
{
    if (insn->rd == RV_RD_NONE)
        return;
    gen_load_x(gen, X86_RAX, insn->rs1);
    x86_mov_imm(gen->code, X86_RCX, (uint64_t)insn->imm);
    x86_rr(gen->code, op | X86_W, X86_RCX, X86_RAX);
    gen_commit(gen, insn->rd, X86_RAX);
}

static void gen_bexti(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)arg;
    if (insn->rd == RV_RD_NONE)
        return;
    int reg = gen_target(gen, insn->rd, X86_RAX);
    gen_load_x(gen, reg, insn->rs1);
    if (insn->imm != 0)
        x86_shift(gen->code, X86_SHR, X86_W, reg, (unsigned)insn->imm);
    x86_ri(gen->code, X86_G1_AND, X86_W, reg, 1);
    gen_commit(gen, insn->rd, reg);
}

/* rd = condition on rs2 ? 0 : rs1 */
static void gen_czero(struct gen *gen, const struct rv_insn *insn, uint32_t condition)
{
    struct x86_code *code = gen->code;
    if (insn->rd == RV_RD_NONE)
        return;
    gen_load_x(gen, X86_RAX, insn->rs1);
    x86_rr(code, X86_XOR, X86_RDX, X86_RDX);
    int b = gen_source(gen, insn->rs2, X86_RCX);
    x86_rr(code, X86_TEST | X86_W, b, b);
    x86_rr(code, (X86_CMOV + condition) | X86_W, X86_RAX, X86_RDX);
    gen_commit(gen, insn->rd, X86_RAX);
}

/* ---- what others want to know of these ---- */

bool gen_moves(const struct dbt *dbt, const struct rv_insn *insn, struct gen_move *move)
{
    const struct gen_op *op = gen_op_of(dbt, insn);
    *move = (struct gen_move){.to = insn->rd, .from = insn->rs1};
    if (op && op->emit == gen_lui && op->arg == 0) {
        move->constant = true;
        move->value = (uint64_t)insn->imm;
        return true;
    }
    if (op && op->emit == gen_ri && op->arg == X86_G1_ADD) {
        move->constant = insn->rs1 == 0;
        move->value = (uint64_t)insn->imm;
        return insn->rs1 == 0 || insn->imm == 0;
    }
    if (!op || op->emit != gen_rr || OPCODE(op->arg) != X86_ADD || (op->arg & WORD))
        return false;
    if (insn->rs1 == 0)
        move->from = insn->rs2;
    return insn->rs1 == 0 || insn->rs2 == 0;
}

bool gen_shifts(const struct dbt *dbt, const struct rv_insn *insn, struct gen_shift *shift)
{
    const struct gen_op *op = gen_op_of(dbt, insn);
    if (!op || op->emit != gen_shift_ri || insn->rd == RV_RD_NONE || insn->imm == 0 ||
        insn->rs1 == 0 || (OPCODE(op->arg) != X86_SHL && OPCODE(op->arg) != X86_SHR))
        return false;
    *shift = (struct gen_shift){
        .to = insn->rd,
        .from = insn->rs1,
        .by = (unsigned)insn->imm,
        .left = OPCODE(op->arg) == X86_SHL,
        .word = op->arg & WORD,
    };
    return true;
}

/* A word's halves are sign-extended together as the left one is alone. */
bool gen_joins(const struct dbt *dbt, const struct rv_insn *insn)
{
    const struct gen_op *op = gen_op_of(dbt, insn);
    if (!op || op->emit != gen_rr || (op->arg & WORD))
        return false;
    unsigned opcode = OPCODE(op->arg);
    return opcode == X86_OR || opcode == X86_XOR || opcode == X86_ADD;
}

void gen_rotate(struct gen *gen, unsigned to, unsigned from, unsigned by, bool word)
{
    const struct rv_insn insn = {.rd = (uint8_t)to, .rs1 = (uint8_t)from, .imm = by};
    gen_shift_ri(gen, &insn, X86_ROR | (word ? WORD : 0));
}

bool gen_only_computes(const struct dbt *dbt, const struct rv_insn *insn)
{
    static gen_fn *const simple[] = {gen_rr,   gen_ri,    gen_shift_ri, gen_shift_rr,
                                     gen_slt,  gen_slti,  gen_shadd,    gen_slli_uw,
                                     gen_rev8, gen_extend};
    const struct gen_op *op = gen_op_of(dbt, insn);
    if (!op || insn->rd == RV_RD_NONE || OPCODE(op->arg) == X86_IMUL)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(simple); i++)
        if (op->emit == simple[i])
            return true;
    return op->emit == gen_lui && op->arg == 0;
}

const struct gen_op gen_int_ops[] = {
    {"add", gen_rr, X86_ADD | COMMUTATIVE},
    {"sub", gen_rr, X86_SUB},
    {"and", gen_rr, X86_AND | COMMUTATIVE},
    {"or", gen_rr, X86_OR | COMMUTATIVE},
    {"xor", gen_rr, X86_XOR | COMMUTATIVE},
    {"mul", gen_rr, X86_IMUL | COMMUTATIVE},
    {"addw", gen_rr, X86_ADD | COMMUTATIVE | WORD},
    {"subw", gen_rr, X86_SUB | WORD},
    {"mulw", gen_rr, X86_IMUL | COMMUTATIVE | WORD},
    {"addi", gen_ri, X86_G1_ADD},
    {"addiw", gen_ri, X86_G1_ADD | WORD},
    {"andi", gen_ri, X86_G1_AND},
    {"ori", gen_ri, X86_G1_OR},
    {"xori", gen_ri, X86_G1_XOR},
    {"slli", gen_shift_ri, X86_SHL},
    {"srli", gen_shift_ri, X86_SHR},
    {"srai", gen_shift_ri, X86_SAR},
    {"slliw", gen_shift_ri, X86_SHL | WORD},
    {"srliw", gen_shift_ri, X86_SHR | WORD},
    {"sraiw", gen_shift_ri, X86_SAR | WORD},
    {"rori", gen_shift_ri, X86_ROR},
    {"roriw", gen_shift_ri, X86_ROR | WORD},
    {"sll", gen_shift_rr, X86_SHL},
    {"srl", gen_shift_rr, X86_SHR},
    {"sra", gen_shift_rr, X86_SAR},
    {"sllw", gen_shift_rr, X86_SHL | WORD},
    {"srlw", gen_shift_rr, X86_SHR | WORD},
    {"sraw", gen_shift_rr, X86_SAR | WORD},
    {"rol", gen_shift_rr, X86_ROL},
    {"ror", gen_shift_rr, X86_ROR},
    {"rolw", gen_shift_rr, X86_ROL | WORD},
    {"rorw", gen_shift_rr, X86_ROR | WORD},
    {"slt", gen_slt, X86_L},
    {"sltu", gen_slt, X86_B},
    {"slti", gen_slti, X86_L},
    {"sltiu", gen_slti, X86_B},
    {"lui", gen_lui, 0},
    {"auipc", gen_lui, 1},
    {"c.nop", gen_nothing, 0},
    {"mulh", gen_mulh, X86_G3_IMUL},
    {"mulhu", gen_mulh, X86_G3_MUL},
    {"div", gen_div, SIGNED},
    {"divu", gen_div, 0},
    {"rem", gen_div, SIGNED | REMAINDER},
    {"remu", gen_div, REMAINDER},
    {"divw", gen_div, SIGNED | WORD},
    {"divuw", gen_div, WORD},
    {"remw", gen_div, SIGNED | REMAINDER | WORD},
    {"remuw", gen_div, REMAINDER | WORD},
    {NULL, NULL, 0},
};

const struct gen_op gen_bit_ops[] = {
    {"sh1add", gen_shadd, 1},
    {"sh2add", gen_shadd, 2},
    {"sh3add", gen_shadd, 3},
    {"add.uw", gen_shadd, 0 | WORD},
    {"sh1add.uw", gen_shadd, 1 | WORD},
    {"sh2add.uw", gen_shadd, 2 | WORD},
    {"sh3add.uw", gen_shadd, 3 | WORD},
    {"slli.uw", gen_slli_uw, 0},
    {"andn", gen_with_not, X86_AND},
    {"orn", gen_with_not, X86_OR},
    {"xnor", gen_with_not, X86_XOR},
    {"max", gen_minmax, X86_G},
    {"maxu", gen_minmax, X86_A},
    {"min", gen_minmax, X86_L},
    {"minu", gen_minmax, X86_B},
    {"sext.b", gen_extend, X86_MOVSX8 | X86_BYTE_RM},
    {"sext.h", gen_extend, X86_MOVSX16},
    {"zext.h", gen_extend, X86_MOVZX16},
    {"rev8", gen_rev8, 0},
    {"clz", gen_count, X86_LZCNT},
    {"ctz", gen_count, X86_TZCNT},
    {"cpop", gen_count, X86_POPCNT},
    {"clzw", gen_count, X86_LZCNT | WORD},
    {"ctzw", gen_count, X86_TZCNT | WORD},
    {"cpopw", gen_count, X86_POPCNT | WORD},
    {"bset", gen_bit_rr, X86_BTS},
    {"bclr", gen_bit_rr, X86_BTR},
    {"binv", gen_bit_rr, X86_BTC},
    {"bseti", gen_bit_ri, X86_BTS},
    {"bclri", gen_bit_ri, X86_BTR},
    {"binvi", gen_bit_ri, X86_BTC},
    {"bexti", gen_bexti, 0},
    {"czero.eqz", gen_czero, X86_E},
    {"czero.nez", gen_czero, X86_NE},
    {NULL, NULL, 0},
};
