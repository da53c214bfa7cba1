/* SPDX-License-Identifier: MIT
 *
 * Environment calls, returns from traps, wfi (P §3.3) and the fences of address translation
 * (P §10.2.1, Svinval P §11).
 */
#include "isa/riscv64/csr_bits.h"
#include "isa/riscv64/exec.h"
#include "isa/riscv64/mmu.h"

/* Neither ecall nor ebreak retires. */
static enum rv_result exec_ecall(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (hart->privilege == RV_S && hart->sbi_calls) {
        hart->pc = rv_insn_pc(hart, insn) + insn->length;
        hart->exit = VCPU_EXIT_ECALL;
        return RV_EXIT;
    }
    return rv_raise(hart, (enum rv_cause)(RV_CAUSE_ECALL_U + hart->privilege), 0);
}

enum rv_result rv_exec_ebreak(struct rv_hart *hart, const struct rv_insn *insn)
{
    return rv_raise(hart, RV_CAUSE_BREAKPOINT, rv_insn_pc(hart, insn));
}

/* Pops one level of the stack of interrupt-enable bits and privileges (P §3.1.6.1). */
static enum rv_result trap_return(struct rv_hart *hart, uint64_t enable, uint64_t previous_enable,
                                  uint64_t previous_privilege, uint8_t privilege, uint64_t pc)
{
    uint64_t status = hart->mstatus & ~(enable | previous_privilege);
    if ((status & previous_enable) != 0)
        status |= enable;
    status |= previous_enable;
    if (privilege != RV_M)
        status &= ~RV_MSTATUS_MPRV;
    hart->mstatus = status;
    hart->privilege = privilege;
    hart->pc = pc;
    rv_mode_changed(hart);
    return RV_JUMP;
}

static enum rv_result exec_mret(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (hart->privilege != RV_M)
        return rv_raise_illegal(hart, insn);
    uint8_t mpp = (uint8_t)((hart->mstatus & RV_MSTATUS_MPP) >> RV_MSTATUS_MPP_SHIFT);
    return trap_return(hart, RV_MSTATUS_MIE, RV_MSTATUS_MPIE, RV_MSTATUS_MPP, mpp, hart->mepc);
}

static enum rv_result exec_sret(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (hart->privilege == RV_U ||
        (hart->privilege == RV_S && (hart->mstatus & RV_MSTATUS_TSR) != 0))
        return rv_raise_illegal(hart, insn);
    uint8_t spp = (hart->mstatus & RV_MSTATUS_SPP) != 0 ? RV_S : RV_U;
    return trap_return(hart, RV_MSTATUS_SIE, RV_MSTATUS_SPIE, RV_MSTATUS_SPP, spp, hart->sepc);
}

/* An interrupt that is enabled in mie ends the wait whether or not it can be taken. */
static enum rv_result exec_wfi(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (hart->privilege == RV_U ||
        (hart->privilege == RV_S && (hart->mstatus & RV_MSTATUS_TW) != 0))
        return rv_raise_illegal(hart, insn);
    if ((rv_mip(hart) & hart->mie) != 0)
        return rv_leave_block(hart, insn);
    hart->pc = rv_insn_pc(hart, insn) + insn->length;
    hart->exit = VCPU_EXIT_WAIT;
    return RV_EXIT;
}

/* P §10.2.1. sinval.vma may act at once. */
static enum rv_result exec_sfence_vma(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (hart->privilege == RV_U ||
        (hart->privilege == RV_S && (hart->mstatus & RV_MSTATUS_TVM) != 0))
        return rv_raise_illegal(hart, insn);
    if (insn->rs1 == 0 && insn->rs2 == 0)
        rv_tlb_flush_all(hart);
    else if (insn->rs1 == 0)
        rv_tlb_flush_asid(hart, hart->x[insn->rs2]);
    else if (insn->rs2 == 0)
        rv_tlb_flush_page(hart, hart->x[insn->rs1]);
    else
        rv_tlb_flush_page_of(hart, hart->x[insn->rs1], hart->x[insn->rs2]);
    return rv_leave_block(hart, insn);
}

/* sfence.w.inval and sfence.inval.ir: order what is already in order; TVM does not apply. */
static enum rv_result exec_sfence_order(struct rv_hart *hart, const struct rv_insn *insn)
{
    if (hart->privilege == RV_U)
        return rv_raise_illegal(hart, insn);
    atomic_thread_fence(memory_order_seq_cst);
    return RV_NEXT;
}

static const struct rv_row rows[] = {
    {"ecall", 0x00000073, 0xffffffff, RV_FORMAT_NONE, exec_ecall, RV_ROW_ENDS_BLOCK},
    {"ebreak", 0x00100073, 0xffffffff, RV_FORMAT_NONE, rv_exec_ebreak, RV_ROW_ENDS_BLOCK},
    {"sret", 0x10200073, 0xffffffff, RV_FORMAT_NONE, exec_sret, RV_ROW_ENDS_BLOCK},
    {"mret", 0x30200073, 0xffffffff, RV_FORMAT_NONE, exec_mret, RV_ROW_ENDS_BLOCK},
    {"wfi", 0x10500073, 0xffffffff, RV_FORMAT_NONE, exec_wfi, RV_ROW_ENDS_BLOCK},
    {"sfence.vma", 0x12000073, 0xfe007fff, RV_FORMAT_SFENCE, exec_sfence_vma, RV_ROW_ENDS_BLOCK},
    {"sinval.vma", 0x16000073, 0xfe007fff, RV_FORMAT_SFENCE, exec_sfence_vma, RV_ROW_ENDS_BLOCK},
    {"sfence.w.inval", 0x18000073, 0xffffffff, RV_FORMAT_NONE, exec_sfence_order, 0},
    {"sfence.inval.ir", 0x18100073, 0xffffffff, RV_FORMAT_NONE, exec_sfence_order, 0},
};
const struct rv_extension rv_system = {"system", rows, ARRAY_SIZE(rows)};
