/* SPDX-License-Identifier: MIT
 *
 * Fences and atomics: what is one host instruction behind a TLB look-up; the rest is a call.
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

static void cold_amo(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    gen_call(gen, cold->insn);
    x86_jmp(gen->code, cold->back);
}

/* arg: log2 of the size. amoadd and amoswap are one host instruction. */
static void gen_amo(struct gen *gen, const struct rv_insn *insn, uint32_t op, unsigned shift)
{
    struct x86_code *code = gen->code;
    gen_load_x(gen, X86_RAX, insn->rs1);
    struct gen_cold *cold = gen_add_cold(gen, gen_probe(gen, RV_STORE, shift, true));
    gen_load_x(gen, X86_RDX, insn->rs2);
    x86_rm(code, op | (shift == 3 ? X86_W : 0), X86_RDX, x86_at(X86_RAX, 0));
    if (shift == 2)
        x86_rr(code, X86_MOVSXD, X86_RDX, X86_RDX);
    gen_commit(gen, insn->rd, X86_RDX);
    cold->emit = cold_amo;
    cold->insn = insn;
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

const struct gen_op gen_atomic_ops[] = {
    {"fence", gen_fence, 0},       {"amoadd.w", gen_amoadd, 2},   {"amoadd.d", gen_amoadd, 3},
    {"amoswap.w", gen_amoswap, 2}, {"amoswap.d", gen_amoswap, 3}, {NULL, NULL, 0},
};
