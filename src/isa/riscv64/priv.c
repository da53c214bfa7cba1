/* SPDX-License-Identifier: MIT
 *
 * Traps, interrupts, modes and the supervisor's timer.
 *
 * Interrupts are looked at only when VCPU_ATTENTION_IRQ says so. Lines raise it from any
 * thread; on the owner's side rv_recheck_interrupts() does after every change of mode, enable
 * or delegation. The pending bits themselves are never cached.
 *
 * Sstc (the supervisor's comparator): a timer of the clock fires at stimecmp and does no more
 * than raise VCPU_ATTENTION_TIMER; the owner compares. So nothing but the owner decides
 * whether STIP is set, and a timer that fires early or late does no harm: early, it is armed
 * again; an armed deadline that has passed fires at once.
 */
#include <assert.h>

#include "isa/riscv64/mmu_internal.h"

/* ---- pending interrupts ---- */

static bool sstc_enabled(const struct rv_hart *hart)
{
    return hart->menvcfg & RV_MENVCFG_STCE;
}

/* With the comparator as last evaluated. engine/dbt/thunks_trap.c tests for the same in host code.
 */
static uint64_t pending(struct rv_hart *hart)
{
    uint64_t bits = (atomic_load(&hart->vcpu.interrupts) | hart->mip_software) & RV_MIP_ALL;
    if (sstc_enabled(hart)) /* then STIP is the comparator and nothing else (P §15.1.2) */
        bits = (bits & ~RV_MIP_STIP) | (hart->stip_timer ? RV_MIP_STIP : 0);
    return bits;
}

static bool compare_time(struct rv_hart *hart)
{
    uint64_t compare = atomic_load_explicit(&hart->stimecmp, memory_order_relaxed);
    return sstc_enabled(hart) && vcpu_time(hart->vcpu.timebase) >= compare;
}

uint64_t rv_mip(struct rv_hart *hart)
{
    bool before = hart->stip_timer;
    hart->stip_timer = compare_time(hart);
    if (hart->stip_timer && !before) /* seen before the timer of the clock fired */
        rv_recheck_interrupts(hart);
    return pending(hart);
}

void rv_recheck_interrupts(struct rv_hart *hart)
{
    if (pending(hart) & hart->mie)
        atomic_fetch_or(&hart->vcpu.attention, (uint32_t)VCPU_ATTENTION_IRQ);
}

void rv_stimer_update(struct rv_hart *hart)
{
    hart->stip_timer = compare_time(hart);
    int64_t deadline = VCLOCK_NEVER;
    if (sstc_enabled(hart) && !hart->stip_timer)
        deadline = vcpu_time_to_deadline(
            hart->vcpu.timebase, atomic_load_explicit(&hart->stimecmp, memory_order_relaxed));
    if (deadline == VCLOCK_NEVER)
        vtimer_disarm(hart->stimer);
    else
        vtimer_arm(hart->stimer, deadline);
    rv_recheck_interrupts(hart);
}

void rv_obey_attention(struct rv_hart *hart)
{
    uint32_t bits = atomic_fetch_and(&hart->vcpu.attention, (uint32_t)VCPU_ATTENTION_KICK) &
                    ~(uint32_t)VCPU_ATTENTION_KICK;
    hart->vcpu.isa->drop(&hart->vcpu, bits);
    if (bits & VCPU_ATTENTION_TIMER)
        rv_stimer_update(hart);
    if ((bits & VCPU_ATTENTION_SAMPLE) && hart->vcpu.sampled)
        hart->vcpu.sampled(&hart->vcpu);
}

/* ---- modes ---- */

void rv_mode_changed(struct rv_hart *hart)
{
    uint64_t status = hart->mstatus;
    hart->data_privilege = hart->privilege;
    if (hart->privilege == RV_M && (status & RV_MSTATUS_MPRV))
        hart->data_privilege = (uint8_t)bits_get(status, RV_MSTATUS_MPP_SHIFT, 2);

    static const uint8_t bank_of[] = {[RV_U] = RV_BANK_U, [RV_S] = RV_BANK_S, [RV_M] = RV_BANK_M};
    unsigned data = bank_of[hart->data_privilege];
    if (data == RV_BANK_S && (status & RV_MSTATUS_SUM))
        data = RV_BANK_S_SUM;
    hart->tlb_load = &hart->tlb[data][RV_LOAD];
    hart->tlb_store = &hart->tlb[data][RV_STORE];
    hart->tlb_fetch = &hart->tlb[bank_of[hart->privilege]][RV_FETCH];
    rv_recheck_interrupts(hart);
}

void rv_enter_supervisor(struct rv_hart *hart, uint64_t pc, uint64_t a0, uint64_t a1)
{
    hart->pc = pc;
    hart->x[10] = a0;
    hart->x[11] = a1;
    hart->privilege = RV_S;
    hart->medeleg = RV_MEDELEG_WRITABLE;
    hart->mideleg = RV_MIP_S;
    hart->mcounteren = RV_COUNTEREN_WRITABLE;
    hart->scounteren = RV_COUNTER_CY | RV_COUNTER_TM | RV_COUNTER_IR;
    hart->menvcfg = RV_MENVCFG_STCE | RV_MENVCFG_PBMTE | RV_MENVCFG_ADUE | RV_ENVCFG_CBZE |
                    RV_ENVCFG_CBCFE | RV_ENVCFG_CBIE;
    /* Without a matching PMP entry S-mode may access nothing: one that matches everything. */
    hart->pmpaddr[0] = RV_PMPADDR_WRITABLE;
    hart->pmpcfg[0] = RV_PMP_NAPOT | RV_PMP_R | RV_PMP_W | RV_PMP_X;
    rv_pmp_update(hart);
    rv_tlb_flush_all(hart);
    rv_stimer_update(hart);
    rv_mode_changed(hart);
}

/* ---- traps ---- */

/* P §3.1.7: in vectored mode interrupts, and only they, go to base + 4 * cause. */
static uint64_t vector(uint64_t tvec, uint64_t cause)
{
    uint64_t base = tvec & ~UINT64_C(3);
    bool vectored = (tvec & 1) && (cause & RV_CAUSE_INTERRUPT);
    return vectored ? base + 4 * (cause & ~RV_CAUSE_INTERRUPT) : base;
}

static uint64_t move_bit(uint64_t value, uint64_t from, uint64_t to)
{
    return value & from ? value | to : value & ~to;
}

static void enter_machine(struct rv_hart *hart, uint64_t cause, uint64_t tval, uint64_t epc)
{
    hart->mepc = epc;
    hart->mcause = cause;
    hart->mtval = tval;
    uint64_t status = move_bit(hart->mstatus, RV_MSTATUS_MIE, RV_MSTATUS_MPIE) & ~RV_MSTATUS_MIE;
    hart->mstatus = bits_set(status, RV_MSTATUS_MPP_SHIFT, 2, hart->privilege);
    hart->privilege = RV_M;
    hart->pc = vector(hart->mtvec, cause);
}

static void enter_supervisor(struct rv_hart *hart, uint64_t cause, uint64_t tval, uint64_t epc)
{
    hart->sepc = epc;
    hart->scause = cause;
    hart->stval = tval;
    uint64_t status = move_bit(hart->mstatus, RV_MSTATUS_SIE, RV_MSTATUS_SPIE) & ~RV_MSTATUS_SIE;
    status &= ~RV_MSTATUS_SPP;
    if (hart->privilege == RV_S)
        status |= RV_MSTATUS_SPP;
    hart->mstatus = status;
    hart->privilege = RV_S;
    hart->pc = vector(hart->stvec, cause);
}

static void enter(struct rv_hart *hart, bool to_supervisor, uint64_t cause, uint64_t tval,
                  uint64_t epc)
{
    if (to_supervisor)
        enter_supervisor(hart, cause, tval, epc);
    else
        enter_machine(hart, cause, tval, epc);
    rv_mode_changed(hart);
}

void rv_take_trap(struct rv_hart *hart, uint64_t epc)
{
    uint64_t cause = hart->trap.cause;
    unsigned from = hart->privilege;
    if (cause == RV_CAUSE_AGAIN) { /* what called it away is in `attention` */
        hart->pc = epc;
        return;
    }
    assert(cause < 64);
    /* P §3.1.8: never from a mode to a less privileged one. */
    bool to_supervisor = from != RV_M && (hart->medeleg >> cause & 1);
    /* Where the VMM is the SBI there is no M-mode to trap to, and nothing gets there:
     * everything is delegated but ecall from S, which leaves run(). Only a hart that was
     * never started, or a damaged saved state, can be elsewhere: it has crashed. */
    if (hart->sbi_calls && !to_supervisor) {
        hart->wedge_count = RV_WEDGE_LIMIT;
        return;
    }
    enter(hart, to_supervisor, cause, hart->trap.tval, epc);

    /* A handler whose first instruction traps into itself never gets further. */
    bool stuck = hart->pc == epc && hart->privilege == from;
    hart->wedge_count = stuck ? hart->wedge_count + 1 : 0;
}

/* P §3.1.9: from the highest priority. */
static const uint8_t by_priority[] = {
    RV_IRQ_MEI, RV_IRQ_MSI, RV_IRQ_MTI, RV_IRQ_SEI, RV_IRQ_SSI, RV_IRQ_STI,
};

unsigned rv_highest_interrupt(uint64_t bits)
{
    size_t i = 0;
    while (!(bits >> by_priority[i] & 1))
        i++;
    assert(i < ARRAY_SIZE(by_priority));
    return by_priority[i];
}

bool rv_take_interrupt(struct rv_hart *hart)
{
    uint64_t bits = pending(hart) & hart->mie;
    if (bits == 0)
        return false;
    uint64_t machine = bits & ~hart->mideleg, supervisor = bits & hart->mideleg;
    bool m_enabled = hart->privilege < RV_M || (hart->mstatus & RV_MSTATUS_MIE);
    bool s_enabled =
        hart->privilege < RV_S || (hart->privilege == RV_S && (hart->mstatus & RV_MSTATUS_SIE));
    if (machine != 0 && m_enabled)
        enter(hart, false, RV_CAUSE_INTERRUPT | rv_highest_interrupt(machine), 0, hart->pc);
    else if (supervisor != 0 && s_enabled)
        enter(hart, true, RV_CAUSE_INTERRUPT | rv_highest_interrupt(supervisor), 0, hart->pc);
    else
        return false;
    return true;
}
