/* SPDX-License-Identifier: MIT
 *
 * Control and status registers. Those that are nothing but a field of the hart are moved
 * inline, which trap handlers live on, and so is sstatus; all else is a call, after a write the
 * last of a block.
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

/* rax: mstatus. P §4.1.1: SD says that FS is dirty. Uses all scratch registers. */
static void sstatus_of_rax(struct gen *gen)
{
    struct x86_code *code = gen->code;
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

/* ---- writes of sstatus ----
 *
 * Linux writes it six times in a system call: SIE around what must not be interrupted, SUM
 * around accesses to the user's memory. A change of SUM is one of mode. Only a change of MXR,
 * and an interrupt that setting SIE may let in, are for C. */

/* rdx: what mstatus (in rax) becomes. */
static void compute_sstatus(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    if (arg & IMMEDIATE)
        x86_mov_imm(code, X86_RDX, insn->rs1);
    else
        gen_load_x(gen, X86_RDX, insn->rs1);
    if ((arg & 3) == SWAP)
        x86_rr(code, X86_XOR | X86_W, X86_RDX, X86_RAX);
    x86_ri(code, X86_G1_AND, 0, X86_RDX, (int32_t)RV_SSTATUS_WRITABLE);
    if ((arg & 3) == CLEAR)
        x86_rr(code, X86_GROUP3 | X86_W, X86_G3_NOT, X86_RDX);
    static const uint32_t ops[] = {[SWAP] = X86_XOR, [SET] = X86_OR, [CLEAR] = X86_AND};
    x86_rr(code, ops[arg & 3] | X86_W, X86_RDX, X86_RAX);
}

static void go_behind(struct gen *gen, const struct rv_insn *insn, unsigned mode)
{
    unsigned behind = gen_behind(gen, insn);
    if (behind > 0)
        x86_ri(gen->code, X86_G1_ADD, X86_W, X86_R15, (int32_t)behind);
    gen_jump_to_mode(gen, gen_pc(gen, insn) + insn->length, mode);
}

/* rax: mstatus before, rdx: after. */
static void write_sstatus(struct gen *gen, const struct rv_insn *insn)
{
    x86_rm(gen->code, X86_MOV_STORE | X86_W, X86_RDX, x86_at(X86_RBP, DBT_HART(mstatus)));
    if (insn->rd != RV_RD_NONE) {
        sstatus_of_rax(gen);
        gen_commit(gen, insn->rd, X86_RAX);
    }
}

static void cold_call_last(struct gen *gen, const struct gen_cold *cold)
{
    x86_land(gen->code, cold->from);
    gen_call_last(gen, cold->insn);
}

static void call_last_if(struct gen *gen, const struct rv_insn *insn, enum x86_condition condition)
{
    struct gen_cold *cold = gen_add_cold(gen, x86_jcc(gen->code, condition, NULL));
    cold->emit = cold_call_last;
    cold->insn = insn;
}

static void move_to_bank(struct gen *gen, enum rv_tlb_bank bank)
{
    struct x86_code *code = gen->code;
    x86_rm(code, X86_LEA, X86_RCX, x86_at(X86_RBP, DBT_HART(tlb[bank][RV_LOAD])));
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RCX, x86_at(X86_RBP, DBT_HART(tlb_load)));
    x86_rm(code, X86_LEA, X86_RCX, x86_at(X86_RBP, DBT_HART(tlb[bank][RV_STORE])));
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RCX, x86_at(X86_RBP, DBT_HART(tlb_store)));
}

/* rcx: the bits that change, MXR or SUM among them. */
static void cold_sum(struct gen *gen, const struct gen_cold *cold)
{
    struct x86_code *code = gen->code;
    x86_land(code, cold->from);
    x86_test_ri(code, 0, X86_RCX, (int32_t)(RV_MSTATUS_MXR | RV_MSTATUS_SIE));
    call_last_if(gen, cold->insn, X86_NE);
    enum rv_tlb_bank bank = gen->data_bank == RV_BANK_S ? RV_BANK_S_SUM : RV_BANK_S;
    move_to_bank(gen, bank);
    write_sstatus(gen, cold->insn);
    x86_ri(code, X86_G1_OR, X86_W, X86_RSP, DBT_PAIRS_NONE);
    go_behind(gen, cold->insn, dbt_mode(gen->fetch_bank, bank));
}

/* rcx: the bits that change, SIE among them. */
static void cold_sie(struct gen *gen, const struct gen_cold *cold)
{
    struct x86_code *code = gen->code;
    x86_land(code, cold->from);
    gen_test_interrupts(code);
    call_last_if(gen, cold->insn, X86_NE);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, x86_at(X86_RBP, DBT_HART(mstatus)));
    x86_jmp(code, cold->back);
}

static void gen_write_sstatus(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    struct x86_code *code = gen->code;
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, x86_at(X86_RBP, DBT_HART(mstatus)));
    compute_sstatus(gen, insn, arg);
    struct gen_cold *cold;
    if (!(arg & IMMEDIATE)) {
        x86_rr(code, X86_MOV_LOAD, X86_RCX, X86_RDX);
        x86_rr(code, X86_XOR, X86_RCX, X86_RAX);
        x86_test_ri(code, 0, X86_RCX, (int32_t)(RV_MSTATUS_MXR | RV_MSTATUS_SUM));
        cold = gen_add_cold(gen, x86_jcc(code, X86_NE, NULL));
        cold->emit = cold_sum;
        cold->insn = insn;
    }
    if ((arg & 3) != CLEAR) {
        x86_test_ri(code, 0, X86_RDX, (int32_t)RV_MSTATUS_SIE);
        cold = gen_add_cold(gen, x86_jcc(code, X86_NE, NULL));
        cold->emit = cold_sie;
        cold->insn = insn;
        cold->back = x86_here(code);
    }
    write_sstatus(gen, insn);
    go_behind(gen, insn, gen->mode);
    gen->ended = true;
}

/* ---- fields ---- */

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
    if (gen_touches_fflags(gen->dbt, insn)) {
        if ((arg & 3) == SWAP)
            gen_write_fflags(gen, insn);
        else
            gen_read_fflags(gen, insn);
        return;
    }
    struct rv_csr_field csr;
    bool writes = (arg & 3) == SWAP || insn->rs1 != 0;
    bool allowed = privilege_of(gen) >= ((number >> 8) & 3);
    if (!writes && allowed && number == RV_CSR_SSTATUS) {
        x86_rm(gen->code, X86_MOV_LOAD | X86_W, X86_RAX, x86_at(X86_RBP, DBT_HART(mstatus)));
        sstatus_of_rax(gen);
        gen_commit(gen, insn->rd, X86_RAX);
    } else if (privilege_of(gen) == RV_S && number == RV_CSR_SSTATUS) {
        gen_write_sstatus(gen, insn, arg);
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

/* ---- traps and returns from them ---- */

static void gen_ecall(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)arg;
    const struct dbt_thunks *thunks = &gen->dbt->thunks;
    gen_last_by(gen, insn, privilege_of(gen) == RV_U ? thunks->ecall : thunks->call_last);
}

static void gen_sret(struct gen *gen, const struct rv_insn *insn, uint32_t arg)
{
    (void)arg;
    const struct dbt_thunks *thunks = &gen->dbt->thunks;
    gen_last_by(gen, insn, privilege_of(gen) == RV_S ? thunks->sret : thunks->call_last);
}

const struct gen_op gen_csr_ops[] = {
    {"csrrw", gen_csr, SWAP},
    {"csrrs", gen_csr, SET},
    {"csrrc", gen_csr, CLEAR},
    {"csrrwi", gen_csr, SWAP | IMMEDIATE},
    {"csrrsi", gen_csr, SET | IMMEDIATE},
    {"csrrci", gen_csr, CLEAR | IMMEDIATE},
    {"ecall", gen_ecall, 0},
    {"sret", gen_sret, 0},
    {NULL, NULL, 0},
};

bool gen_touches_fflags(const struct dbt *dbt, const struct rv_insn *insn)
{
    const struct gen_op *op = gen_op_of(dbt, insn);
    if (!op || op->emit != gen_csr || insn->imm != RV_CSR_FFLAGS)
        return false;
    return op->arg == SWAP ? insn->rd == RV_RD_NONE
                           : op->arg == SET && insn->rs1 == 0 && insn->rd != RV_RD_NONE;
}
