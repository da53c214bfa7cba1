/* SPDX-License-Identifier: MIT
 *
 * Loads and stores: a look-up in the software TLB, inline; what misses calls the slow path.
 */
#include "engine/dbt/internal.h"

/* arg: log2 of the size, and for loads how the value is extended */
enum { SIZE = 3, SIGNED = 4 };

int32_t dbt_tlb_offset(unsigned bank, enum rv_access access)
{
    return DBT_HART(tlb) + (int32_t)((bank * RV_ACCESS_KINDS + access) * sizeof(struct rv_tlb) +
                                     offsetof(struct rv_tlb, entry));
}

static void address_to_rax(struct gen *gen, const struct rv_insn *insn)
{
    struct x86_code *code = gen->code;
    if (gen->host_of[insn->rs1] != X86_NONE && insn->imm != 0) {
        int base = gen_source(gen, insn->rs1, X86_RAX);
        x86_rm(code, X86_LEA, X86_RAX, x86_at(base, (int32_t)insn->imm));
        return;
    }
    gen_load_x(gen, X86_RAX, insn->rs1);
    if (insn->imm != 0)
        x86_ri(code, X86_G1_ADD, X86_W, X86_RAX, (int32_t)insn->imm);
}

/* rcx: va, becomes an entry's offset. rdx: the last byte's va, becomes its page's: an access across
 * pages misses. */
static void index_and_page(struct x86_code *code, int32_t mask)
{
    _Static_assert(sizeof(struct rv_tlb_entry) == 16, "the index is scaled by shifting less");
    x86_shift(code, X86_SHR, 0, X86_RCX, MEM_PAGE_SHIFT - 4);
    x86_ri(code, X86_G1_AND, X86_W, X86_RDX, mask);
    x86_ri(code, X86_G1_AND, 0, X86_RCX, (RV_TLB_ENTRIES - 1) << 4);
}

uint8_t *gen_probe(struct gen *gen, enum rv_access access, unsigned shift)
{
    struct x86_code *code = gen->code;
    int32_t tlb = dbt_tlb_offset(gen->data_bank, access);
    x86_rr(code, X86_MOV_LOAD, X86_RCX, X86_RAX);
    x86_rr(code, X86_MOV_LOAD | X86_W, X86_RDX, X86_RAX);
    index_and_page(code, ~0xfff | ((1 << shift) - 1));
    x86_rm(code, X86_CMP | X86_W, X86_RDX, x86_indexed(X86_RBP, X86_RCX, 0, tlb));
    uint8_t *miss = x86_jcc(code, X86_NE, NULL);
    x86_rm(code, X86_ADD | X86_W, X86_RAX, x86_indexed(X86_RBP, X86_RCX, 0, tlb + 8));
    return miss;
}

static const uint32_t load_ops[] = {
    [0] = X86_MOVZX8,           [1] = X86_MOVZX16,     [2] = X86_MOV_LOAD,
    [3] = X86_MOV_LOAD | X86_W, [SIGNED] = X86_MOVSX8, [SIGNED + 1] = X86_MOVSX16,
    [SIGNED + 2] = X86_MOVSXD,
};

/* rax: the value */
static void call_load(struct gen *gen, const struct gen_cold *cold)
{
    struct x86_code *code = gen->code;
    x86_land(code, cold->from);
    gen_settle(gen, UINT32_MAX);
    address_to_rax(gen, cold->insn);
    gen_to_static(gen);
    x86_call(code, gen->dbt->thunks.load[cold->arg & SIZE]);
    uint8_t *good = x86_jcc(code, X86_NE, NULL);
    gen_trap(gen, cold->insn);
    x86_land(code, good);
    gen_from_static(gen);
}

static void cold_load(struct gen *gen, const struct gen_cold *cold)
{
    call_load(gen, cold);
    uint32_t op = load_ops[cold->arg];
    x86_rr(gen->code, (cold->arg & SIZE) == 0 ? op | X86_BYTE_RM : op, cold->reg, X86_RAX);
    x86_jmp(gen->code, cold->back);
}

static void cold_load_xmm(struct gen *gen, const struct gen_cold *cold)
{
    call_load(gen, cold);
    x86_rr(gen->code, X86_MOVQ_TO, cold->reg, X86_RAX);
    x86_jmp(gen->code, cold->back);
}

/* Looks up, unless a group has. Where the access goes; of a miss: the access without TLB, which
 * goes on where behind() is told. The base's register is not changed. */
static struct x86_mem find(struct gen *gen, const struct rv_insn *insn, enum rv_access access,
                           uint32_t arg, struct gen_cold **cold)
{
    *cold = NULL;
    if (gen->group)
        return gen_group_place(gen, insn, access);
    struct x86_code *code = gen->code;
    int32_t tlb = dbt_tlb_offset(gen->data_bank, access), imm = (int32_t)insn->imm;
    int base = gen_source(gen, insn->rs1, X86_RAX);
    if (imm != 0)
        x86_rm(code, X86_LEA & ~X86_W, X86_RCX, x86_at(base, imm));
    else
        x86_rr(code, X86_MOV_LOAD, X86_RCX, base);
    x86_rm(code, X86_LEA, X86_RDX, x86_at(base, imm + (1 << (arg & SIZE)) - 1));
    index_and_page(code, ~0xfff);
    x86_rm(code, X86_CMP | X86_W, X86_RDX, x86_indexed(X86_RBP, X86_RCX, 0, tlb));
    *cold = gen_add_cold(gen, x86_jcc(code, X86_NE, NULL));
    (*cold)->insn = insn;
    (*cold)->arg = arg;
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RCX, x86_indexed(X86_RBP, X86_RCX, 0, tlb + 8));
    return x86_indexed(base, X86_RCX, 0, imm);
}

static void behind(struct gen *gen, struct gen_cold *cold, int reg,
                   void (*emit)(struct gen *gen, const struct gen_cold *cold))
{
    if (!cold)
        return;
    cold->emit = emit;
    cold->reg = reg;
    cold->back = x86_here(gen->code);
}

static void gen_load(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct gen_cold *cold;
    struct x86_mem place = find(gen, insn, RV_LOAD, arg, &cold);
    int reg = insn->rd == RV_RD_NONE ? X86_RAX : gen_target(gen, insn->rd, X86_RAX);
    x86_rm(gen->code, load_ops[arg], reg, place);
    behind(gen, cold, reg, cold_load);
    if (arg == 3 || arg == 2) /* ld, lwu */
        gen_commit(gen, insn->rd, reg);
    else
        gen_commit_narrow(gen, insn->rd, reg);
}

/* rax: va, rdx: value */
static void call_store(struct gen *gen, const struct gen_cold *cold)
{
    struct x86_code *code = gen->code;
    gen_to_static(gen);
    x86_call(code, gen->dbt->thunks.store[cold->arg & SIZE]);
    uint8_t *good = x86_jcc(code, X86_NE, gen->from_static ? NULL : cold->back);
    gen_trap(gen, cold->insn);
    if (gen->from_static) {
        x86_land(code, good);
        gen_from_static(gen);
        x86_jmp(code, cold->back);
    }
}

static void cold_store(struct gen *gen, const struct gen_cold *cold)
{
    struct x86_code *code = gen->code;
    x86_land(code, cold->from);
    gen_settle(gen, UINT32_MAX);
    address_to_rax(gen, cold->insn);
    gen_load_x(gen, X86_RDX, cold->insn->rs2);
    call_store(gen, cold);
}

static const uint32_t store_ops[] = {
    X86_MOV_STORE8,
    X86_MOV_STORE | X86_66,
    X86_MOV_STORE,
    X86_MOV_STORE | X86_W,
};

static void gen_store(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct gen_cold *cold;
    struct x86_mem place = find(gen, insn, RV_STORE, arg, &cold);
    int value = (arg & SIZE) == 3 ? gen_source(gen, insn->rs2, X86_RDX)
                                  : gen_source_low(gen, insn->rs2, X86_RDX);
    x86_rm(gen->code, store_ops[arg & SIZE], value, place);
    behind(gen, cold, value, cold_store);
}

/* ---- f registers (mstatus.FS: see gen_fp.c) ---- */

static struct x86_mem f_at(unsigned reg, int32_t offset)
{
    return x86_at(X86_RBP, DBT_HART(f) + 8 * (int32_t)reg + offset);
}

/* arg 2: NaN-boxed; such f registers are never in xmm registers. */
static void gen_f_load(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    int xmm = gen->xmm_of[insn->rd];
    struct gen_cold *cold;
    struct x86_mem place = find(gen, insn, RV_LOAD, arg, &cold);
    if (xmm != X86_NONE) {
        x86_rm(code, X86_MOVQ_LOAD, xmm, place);
        behind(gen, cold, xmm, cold_load_xmm);
        return;
    }
    x86_rm(code, load_ops[arg], X86_RDX, place);
    behind(gen, cold, X86_RDX, cold_load);
    x86_rm(code, store_ops[arg], X86_RDX, f_at(insn->rd, 0));
    if (arg == 2)
        x86_mov_mi(code, 0, f_at(insn->rd, 4), -1);
}

static void f_to_rdx(struct gen *gen, unsigned reg, uint32_t arg)
{
    int xmm = gen->xmm_of[reg];
    if (xmm != X86_NONE)
        x86_rr(gen->code, X86_MOVQ_FROM, xmm, X86_RDX);
    else
        x86_rm(gen->code, load_ops[arg], X86_RDX, f_at(reg, 0));
}

static void cold_f_store(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    address_to_rax(gen, cold->insn);
    f_to_rdx(gen, cold->insn->rs2, cold->arg);
    call_store(gen, cold);
}

static void gen_f_store(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    int xmm = gen->xmm_of[insn->rs2];
    struct gen_cold *cold;
    struct x86_mem place = find(gen, insn, RV_STORE, arg, &cold);
    if (xmm != X86_NONE) {
        x86_rm(gen->code, X86_MOVQ_STORE, xmm, place);
    } else {
        f_to_rdx(gen, insn->rs2, arg);
        x86_rm(gen->code, store_ops[arg], X86_RDX, place);
    }
    behind(gen, cold, xmm, cold_f_store);
}

int gen_plain_access(const struct gen_op *op, unsigned *size)
{
    if (!op)
        return -1;
    *size = 1u << (op->arg & SIZE);
    if (op->emit == gen_load || op->emit == gen_f_load)
        return RV_LOAD;
    if (op->emit == gen_store || op->emit == gen_f_store)
        return RV_STORE;
    return -1;
}

const struct gen_op gen_mem_ops[] = {
    {"flw", gen_f_load, 2},       {"fld", gen_f_load, 3},
    {"fsw", gen_f_store, 2},      {"fsd", gen_f_store, 3},
    {"lb", gen_load, 0 | SIGNED}, {"lh", gen_load, 1 | SIGNED},
    {"lw", gen_load, 2 | SIGNED}, {"ld", gen_load, 3},
    {"lbu", gen_load, 0},         {"lhu", gen_load, 1},
    {"lwu", gen_load, 2},         {"sb", gen_store, 0},
    {"sh", gen_store, 1},         {"sw", gen_store, 2},
    {"sd", gen_store, 3},         {NULL, NULL, 0},
};
