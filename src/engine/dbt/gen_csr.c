/* SPDX-License-Identifier: MIT
 *
 * Control and status registers. Those that are nothing but a field of the hart are moved
 * inline, which trap handlers live on; all else is a call, after a write the last of a block.
 *
 * A block's privilege is known: whether an access is allowed at all mostly is, too.
 */
#include "engine/dbt/internal.h"

#include "isa/riscv64/csr_bits.h"

static struct x86_mem field(const struct rv_csr_field *csr)
{
    return x86_at(X86_RBP, (int32_t)csr->offset - (int32_t)offsetof(struct rv_hart, x) - 128);
}

static unsigned privilege_of(const struct gen *gen)
{
    return gen->fetch_bank == RV_BANK_U ? RV_U : gen->fetch_bank == RV_BANK_M ? RV_M : RV_S;
}

/* Scratch, epc, cause and tval: no instruction behind a write can tell (rv_zicsr.c). */
static bool is_trap_state(unsigned number)
{
    return (number & ~3u) == 0x140 || (number & ~3u) == 0x340;
}

static bool is_fp_state(unsigned number)
{
    return number >= RV_CSR_FFLAGS && number <= RV_CSR_FCSR;
}

/* P §4.1.1: SD says that FS is dirty. Uses all scratch registers; the result is in rax. */
static void read_sstatus(struct gen *gen)
{
    struct x86_code *code = gen->code;
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, x86_at(X86_RBP, DBT_HART(mstatus)));
    x86_mov_imm(code, X86_RDX, RV_SSTATUS_VISIBLE & ~RV_MSTATUS_SD);
    x86_rr(code, X86_MOV_LOAD, X86_RCX, X86_RAX);
    x86_rr(code, X86_AND | X86_W, X86_RAX, X86_RDX);
    x86_rr(code, X86_GROUP3, X86_G3_NOT, X86_RCX);
    x86_rr(code, X86_XOR, X86_RDX, X86_RDX);
    x86_test_ri(code, 0, X86_RCX, (int32_t)RV_MSTATUS_FS);
    x86_rr(code, (X86_SET + X86_E) | X86_BYTE_RM, 0, X86_RDX);
    x86_shift(code, X86_SHL, X86_W, X86_RDX, 63);
    x86_rr(code, X86_OR | X86_W, X86_RAX, X86_RDX);
}

enum change { SWAP, SET, CLEAR, IMMEDIATE = 4 };

static void write_field(struct gen *gen, const struct rv_insn *insn, uint32_t arg,
                        const struct rv_csr_field *csr)
{
    struct x86_code *code = gen->code;
    if (arg & IMMEDIATE)
        x86_mov_imm(code, X86_RCX, insn->rs1);
    else
        gen_load_x(gen, X86_RCX, insn->rs1);
    if ((arg & 3) == CLEAR)
        x86_rr(code, X86_GROUP3 | X86_W, X86_G3_NOT, X86_RCX);
    if ((arg & 3) != SWAP)
        x86_rr(code, ((arg & 3) == SET ? X86_OR : X86_AND) | X86_W, X86_RCX, X86_RAX);
    if (csr->mask != UINT64_MAX)
        x86_ri(code, X86_G1_AND, X86_W, X86_RCX, (int32_t)csr->mask);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RCX, field(csr));
}

/* The bits that no write changes are 0, and the mask is an immediate operand. */
static bool is_simple_mask(uint64_t mask)
{
    return mask == UINT64_MAX || mask == ~UINT64_C(1);
}

static void gen_csr(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    unsigned number = (unsigned)insn->imm;
    struct rv_csr_field csr;
    bool writes = (arg & 3) == SWAP || insn->rs1 != 0;
    bool allowed = privilege_of(gen) >= ((number >> 8) & 3);
    if (!writes && allowed && number == RV_CSR_SSTATUS) {
        read_sstatus(gen);
        gen_commit(gen, insn->rd, X86_RAX);
    } else if (allowed && rv_csr_field(number, &csr) &&
               (!writes ||
                (is_trap_state(number) && csr.plain_writes && is_simple_mask(csr.mask)))) {
        x86_rm(gen->code, X86_MOV_LOAD | X86_W, X86_RAX, field(&csr));
        if (writes)
            write_field(gen, insn, arg, &csr);
        gen_commit(gen, insn->rd, X86_RAX);
    } else if (writes && !is_trap_state(number) && !is_fp_state(number)) {
        gen_call_last(gen, insn);
    } else {
        gen_call(gen, insn);
    }
}

const struct gen_op gen_csr_ops[] = {
    {"csrrw", gen_csr, SWAP},
    {"csrrs", gen_csr, SET},
    {"csrrc", gen_csr, CLEAR},
    {"csrrwi", gen_csr, SWAP | IMMEDIATE},
    {"csrrsi", gen_csr, SET | IMMEDIATE},
    {"csrrci", gen_csr, CLEAR | IMMEDIATE},
    {NULL, NULL, 0},
};
