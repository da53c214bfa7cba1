/* SPDX-License-Identifier: MIT
 *
 * What every system call does, without C: ecall from U-mode to S-mode, and sret. Where anything
 * is unusual (not delegated, SUM set, TSR) the instruction's own function does it all: nothing
 * has been changed by then. The meaning is rv_take_trap()'s and trap_return()'s (priv.c,
 * rv_system.c). An interrupt that became takeable is taken at the start of the next block, for
 * which VCPU_ATTENTION_IRQ is raised as rv_mode_changed() would.
 */
#include "engine/dbt/internal.h"

#define FIELD(member) x86_at(X86_RBP, DBT_HART(member))

void gen_test_interrupts(struct x86_code *code)
{
    _Static_assert(RV_IRQ_STI == 5, "the shift below");
    x86_rm(code, X86_MOVZX8, X86_RCX, FIELD(stip_timer));
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, FIELD(vcpu.interrupts));
    x86_shift(code, X86_SHL, 0, X86_RCX, RV_IRQ_STI);
    x86_rm(code, X86_OR | X86_W, X86_RAX, FIELD(mip_software));
    x86_rr(code, X86_OR | X86_W, X86_RAX, X86_RCX);
    x86_rm(code, X86_AND | X86_W, X86_RAX, FIELD(mie));
}

static void recheck_interrupts(struct x86_code *code)
{
    gen_test_interrupts(code);
    uint8_t *none = x86_jcc(code, X86_E, NULL);
    x86_mi(code, X86_G1_OR, X86_LOCK, FIELD(vcpu.attention), VCPU_ATTENTION_IRQ);
    x86_land(code, none);
}

/* Byte members. */
static void store8(struct x86_code *code, struct x86_mem to, int32_t value)
{
    x86_mov_imm(code, X86_RCX, (uint64_t)value);
    x86_rm(code, X86_MOV_STORE8, X86_RCX, to);
}

static void point_at(struct x86_code *code, struct x86_mem pointer, struct x86_mem tlb)
{
    x86_rm(code, X86_LEA, X86_RCX, tlb);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RCX, pointer);
}

static void enter_mode(struct x86_code *code, enum rv_privilege privilege, enum rv_tlb_bank bank)
{
    store8(code, FIELD(privilege), (int32_t)privilege);
    store8(code, FIELD(data_privilege), (int32_t)privilege);
    point_at(code, FIELD(tlb_load), FIELD(tlb[bank][RV_LOAD]));
    point_at(code, FIELD(tlb_store), FIELD(tlb[bank][RV_STORE]));
    point_at(code, FIELD(tlb_fetch), FIELD(tlb[bank][RV_FETCH]));
}

/* rax: a site. What of its block did not retire goes back to the budget, and `more`. */
static void give_back(struct x86_code *code, int32_t more)
{
    x86_rm(code, X86_MOVZX16, X86_RCX,
           x86_at(X86_RAX, (int32_t)offsetof(struct dbt_site, exit.uncount)));
    x86_rm(code, X86_LEA, X86_R15, x86_indexed(X86_R15, X86_RCX, 0, more));
}

/* rax: guest address, in another mode than that of before. */
static void go(struct dbt *dbt, enum rv_tlb_bank bank)
{
    struct x86_code *code = &dbt->code;
    x86_ri(code, X86_G1_OR, X86_W, X86_RSP, DBT_PAIRS_NONE);
    x86_rr(code, X86_MOV_LOAD, X86_RCX, X86_RAX);
    x86_ri(code, X86_G1_AND, 0, X86_RCX, (DBT_JUMP_CACHE - 1) * 2);
    x86_rm(code, X86_LEA, X86_RDX, x86_address(dbt->state->jumps[dbt_mode(bank, bank)]));
    x86_rm(code, X86_CMP | X86_W, X86_RAX, x86_indexed(X86_RDX, X86_RCX, 3, 0));
    x86_jcc(code, X86_NE, dbt->thunks.look_up);
    x86_rm(code, X86_GROUP5, X86_G5_JMP,
           x86_indexed(X86_RDX, X86_RCX, 3, (int32_t)offsetof(struct dbt_jump, code)));
}

/* rax: the site of an ecall in U-mode. P §10.1.1, §3.3.1: it does not retire. */
static void make_ecall(struct dbt *dbt)
{
    struct x86_code *code = &dbt->code;
    dbt->thunks.ecall = x86_here(code);
    x86_rm(code, X86_MOV_LOAD, X86_RCX, FIELD(medeleg));
    x86_test_ri(code, 0, X86_RCX, 1 << RV_CAUSE_ECALL_U);
    x86_jcc(code, X86_E, dbt->thunks.call_last);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RDX, FIELD(mstatus));
    x86_test_ri(code, 0, X86_RDX, (int32_t)RV_MSTATUS_SUM);
    x86_jcc(code, X86_NE, dbt->thunks.call_last);

    give_back(code, 1);
    x86_rm(code, X86_MOVZX16, X86_RCX,
           x86_at(X86_RAX, (int32_t)offsetof(struct dbt_site, exit.offset)));
    x86_rm(code, X86_ADD | X86_W, X86_RCX,
           x86_at(X86_RAX, (int32_t)offsetof(struct dbt_site, exit.pc)));
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RCX, FIELD(sepc));
    x86_mov_mi(code, X86_W, FIELD(scause), RV_CAUSE_ECALL_U);
    x86_mov_mi(code, X86_W, FIELD(stval), 0);
    x86_mov_mi(code, 0, FIELD(wedge_count), 0);
    /* SPIE = SIE, SIE = 0, SPP = U */
    x86_rr(code, X86_MOV_LOAD, X86_RCX, X86_RDX);
    x86_ri(code, X86_G1_AND, 0, X86_RCX, (int32_t)RV_MSTATUS_SIE);
    x86_shift(code, X86_SHL, 0, X86_RCX, 4);
    x86_ri(code, X86_G1_AND, X86_W, X86_RDX,
           ~(int32_t)(RV_MSTATUS_SIE | RV_MSTATUS_SPIE | RV_MSTATUS_SPP));
    x86_rr(code, X86_OR | X86_W, X86_RDX, X86_RCX);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RDX, FIELD(mstatus));
    enter_mode(code, RV_S, RV_BANK_S);
    recheck_interrupts(code);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, FIELD(stvec));
    x86_ri(code, X86_G1_AND, X86_W, X86_RAX, -4);
    go(dbt, RV_BANK_S);
}

/* rax: the site of an sret in S-mode. */
static void make_sret(struct dbt *dbt)
{
    struct x86_code *code = &dbt->code;
    dbt->thunks.sret = x86_here(code);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RDX, FIELD(mstatus));
    x86_test_ri(code, 0, X86_RDX, (int32_t)(RV_MSTATUS_SUM | RV_MSTATUS_TSR));
    x86_jcc(code, X86_NE, dbt->thunks.call_last);

    give_back(code, 0);
    /* SIE = SPIE, SPIE = 1, SPP = U, MPRV = 0 */
    x86_rr(code, X86_MOV_LOAD, X86_RCX, X86_RDX);
    x86_rr(code, X86_MOV_LOAD, X86_RAX, X86_RDX);
    x86_ri(code, X86_G1_AND, 0, X86_RCX, (int32_t)RV_MSTATUS_SPIE);
    x86_shift(code, X86_SHR, 0, X86_RCX, 4);
    x86_ri(code, X86_G1_AND, X86_W, X86_RDX,
           ~(int32_t)(RV_MSTATUS_SIE | RV_MSTATUS_SPP | RV_MSTATUS_MPRV));
    x86_rr(code, X86_OR | X86_W, X86_RDX, X86_RCX);
    x86_ri(code, X86_G1_OR, X86_W, X86_RDX, (int32_t)RV_MSTATUS_SPIE);
    x86_rm(code, X86_MOV_STORE | X86_W, X86_RDX, FIELD(mstatus));
    x86_test_ri(code, 0, X86_RAX, (int32_t)RV_MSTATUS_SPP);
    uint8_t *to_supervisor = x86_jcc(code, X86_NE, NULL);

    enter_mode(code, RV_U, RV_BANK_U);
    recheck_interrupts(code);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, FIELD(sepc));
    go(dbt, RV_BANK_U);

    x86_land(code, to_supervisor);
    recheck_interrupts(code);
    x86_rm(code, X86_MOV_LOAD | X86_W, X86_RAX, FIELD(sepc));
    go(dbt, RV_BANK_S);
}

void dbt_make_trap_thunks(struct dbt *dbt)
{
    make_ecall(dbt);
    make_sret(dbt);
}
