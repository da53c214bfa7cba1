/* SPDX-License-Identifier: MIT
 *
 * Fences and atomics: one host instruction or a loop around one, behind a TLB look-up.
 */
#include "engine/dbt/internal.h"

/* Of all orders only that of a store before a load needs an instruction (rv_i.c). */
static void gen_fence(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)arg;
    enum { W = 1, R = 2, O = 4, I = 8 };
    unsigned successor = (unsigned)insn->imm & 15, predecessor = (unsigned)insn->imm >> 4 & 15;
    if ((predecessor & (W | O)) && (successor & (R | I)))
        x86_mi(gen->code, X86_G1_OR, X86_LOCK, x86_at(X86_RSP, -8), 0);
}

static void cold_atomic(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    gen_call(gen, cold->insn);
    x86_jmp(gen->code, cold->back);
}

/* rax: x[rs1], becomes the host address; what misses is a call that goes on at cold->back. */
static struct gen_cold *find_host(struct gen *gen, const struct rv_insn *insn,
                                  enum rv_access access, unsigned shift)
{
    gen_load_x(gen, X86_RAX, insn->rs1);
    struct gen_cold *cold = gen_add_cold(gen, gen_probe(gen, access, shift));
    cold->emit = cold_atomic;
    cold->insn = insn;
    return cold;
}

static uint32_t width_of(unsigned shift)
{
    return shift == 3 ? X86_W : 0;
}

/* rd = reg, which holds what memory held. */
static void commit_old(struct gen *gen, const struct rv_insn *insn, int reg, unsigned shift)
{
    if (insn->rd != RV_RD_NONE && shift == 2)
        x86_rr(gen->code, X86_MOVSXD, reg, reg);
    gen_commit(gen, insn->rd, reg);
}

/* arg: log2 of the size. amoadd and amoswap are one host instruction. */
static void gen_amo(struct gen *gen, const struct rv_insn *insn, uint32_t op, unsigned shift)
{
    struct x86_code *code = gen->code;
    struct gen_cold *cold = find_host(gen, insn, RV_STORE, shift);
    gen_load_x(gen, X86_RDX, insn->rs2);
    x86_rm(code, op | width_of(shift), X86_RDX, x86_at(X86_RAX, 0));
    commit_old(gen, insn, X86_RDX, shift);
    cold->back = x86_here(code);
}

static void gen_amoadd(struct gen *gen, const struct rv_insn *insn, uint32_t shift)
{
    gen_amo(gen, insn, X86_XADD | X86_LOCK, shift);
}

static void gen_amoswap(struct gen *gen, const struct rv_insn *insn, uint32_t shift)
{
    gen_amo(gen, insn, X86_XCHG, shift);
}

/* ---- compare and exchange until nobody has come in between ---- */

enum operation { AND, OR, XOR, MIN, MAX, MINU, MAXU };
#define OPERATION(operation, shift) ((operation) << 2 | (shift))

static const struct {
    uint32_t op; /* new op= old; 0: old is the new value if `old condition new` */
    uint32_t to_memory;
    enum x86_condition condition;
} operations[] = {
    [AND] = {X86_AND, X86_AND_TO, 0},
    [OR] = {X86_OR, X86_OR_TO, 0},
    [XOR] = {X86_XOR, X86_XOR_TO, 0},
    [MIN] = {0, 0, X86_L},
    [MAX] = {0, 0, X86_G},
    [MINU] = {0, 0, X86_B},
    [MAXU] = {0, 0, X86_A},
};

static void gen_amo_loop(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    unsigned shift = arg & 3, operation = arg >> 2;
    uint32_t width = width_of(shift), op = operations[operation].op;
    struct gen_cold *cold = find_host(gen, insn, RV_STORE, shift);
    if (op != 0 && insn->rd == RV_RD_NONE) {
        gen_load_x(gen, X86_RDX, insn->rs2);
        x86_rm(code, operations[operation].to_memory | width | X86_LOCK, X86_RDX,
               x86_at(X86_RAX, 0));
        cold->back = x86_here(code);
        return;
    }
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RCX, X86_RAX);
    x86_rm(code, X86_MOV_LOAD | width, X86_RAX, x86_at(X86_RCX, 0));
    const uint8_t *again = x86_here(code);
    gen_load_x(gen, X86_RDX, insn->rs2);
    if (op != 0) {
        x86_rr(code, op | width, X86_RDX, X86_RAX);
    } else {
        x86_rr(code, X86_CMP | width, X86_RAX, X86_RDX);
        x86_rr(code, (X86_CMOV + operations[operation].condition) | width, X86_RDX, X86_RAX);
    }
    x86_rm(code, X86_CMPXCHG | X86_LOCK | width, X86_RDX, x86_at(X86_RCX, 0));
    x86_jcc(code, X86_NE, again);
    commit_old(gen, insn, X86_RAX, shift);
    cold->back = x86_here(code);
}

/* ---- load-reserved, store-conditional: as rv_a.c does it ---- */

#define HART(member) x86_at(X86_RBP, DBT_HART(member))

/* rcx = gpa of the host address in rax. */
static void gpa_to_rcx(struct gen *gen)
{
    const struct mem_ram *ram = mem_ram_at(gen->dbt->hart->vcpu.mem, 0);
    x86_mov_imm(gen->code, X86_RCX, ram->gpa - (uint64_t)(uintptr_t)ram->host);
    x86_rr(gen->code, X86_ADD | X86_W, X86_RCX, X86_RAX);
}

/* Else the region would have to be found. */
static bool has_one_region(const struct gen *gen)
{
    return mem_ram_count(gen->dbt->hart->vcpu.mem) == 1;
}

static void gen_lr(struct gen *gen, const struct rv_insn *insn, uint32_t shift)
{
    struct x86_code *code = gen->code;
    if (!has_one_region(gen)) {
        gen_call(gen, insn);
        return;
    }
    struct gen_cold *cold = find_host(gen, insn, RV_LOAD, shift);
    gpa_to_rcx(gen);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RCX, HART(reservation_gpa));
    x86_rm(code, X86_MOV_LOAD | width_of(shift), X86_RDX, x86_at(X86_RAX, 0));
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RDX, HART(reservation_value));
    x86_mov_imm(code, X86_RCX, UINT64_C(1) << shift);
    x86_rm(code, X86_MOV_STORE8, X86_RCX, HART(reservation_size));
    commit_old(gen, insn, X86_RDX, shift);
    cold->back = x86_here(code);
}

static void gen_sc(struct gen *gen, const struct rv_insn *insn, uint32_t shift)
{
    struct x86_code *code = gen->code;
    if (!has_one_region(gen)) {
        gen_call(gen, insn);
        return;
    }
    struct gen_cold *cold = find_host(gen, insn, RV_STORE, shift);
    gen_load_x(gen, X86_RDX, insn->rs2);
    gpa_to_rcx(gen);
    x86_rm(code, X86_CMP | X86_W, X86_RCX, HART(reservation_gpa));
    uint8_t *other_address = x86_jcc(code, X86_NE, NULL);
    x86_rm(code, X86_MOVZX8, X86_RCX, HART(reservation_size));
    x86_ri(code, X86_G1_CMP, 0, X86_RCX, 1 << shift);
    uint8_t *other_size = x86_jcc(code, X86_NE, NULL);
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RCX, X86_RAX);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, HART(reservation_value));
    x86_rm(code, X86_CMPXCHG | X86_LOCK | width_of(shift), X86_RDX, x86_at(X86_RCX, 0));
    /* All three with the answer in ZF; moves leave it alone. */
    x86_land(code, other_address);
    x86_land(code, other_size);
    x86_mov_imm(code, X86_RCX, 0);
    x86_rm(code, X86_MOV_STORE8, X86_RCX, HART(reservation_size));
    x86_rr(code, (X86_SET + X86_NE) | X86_BYTE_RM, 0, X86_RCX);
    gen_commit(gen, insn->rd, X86_RCX);
    cold->back = x86_here(code);
}

#define BOTH(name, emit, operation)                                                                \
    {name ".w", emit, OPERATION(operation, 2)},                                                    \
    {                                                                                              \
        name ".d", emit, OPERATION(operation, 3)                                                   \
    }

const struct gen_op gen_atomic_ops[] = {
    {"fence", gen_fence, 0},
    BOTH("amoadd", gen_amoadd, 0),
    BOTH("amoswap", gen_amoswap, 0),
    BOTH("amoand", gen_amo_loop, AND),
    BOTH("amoor", gen_amo_loop, OR),
    BOTH("amoxor", gen_amo_loop, XOR),
    BOTH("amomin", gen_amo_loop, MIN),
    BOTH("amomax", gen_amo_loop, MAX),
    BOTH("amominu", gen_amo_loop, MINU),
    BOTH("amomaxu", gen_amo_loop, MAXU),
    BOTH("lr", gen_lr, 0),
    BOTH("sc", gen_sc, 0),
    {NULL, NULL, 0},
};
