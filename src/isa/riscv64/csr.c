/* SPDX-License-Identifier: MIT
 *
 * What reading and writing a CSR does (P §2, §3.1, §10.1). csr_table.c says which CSRs there
 * are; the functions here are the ones whose register is more than a field with a mask.
 *
 * Every write that may make an interrupt takeable ends in rv_recheck_interrupts(), and every
 * one that changes what an address means drops the translations it invalidates.
 */
#include "isa/riscv64/csr_internal.h"

#include <assert.h>

#include "isa/riscv64/mmu_internal.h"

/* ---- access ---- */

/* The row, if the hart may access it now; else NULL with the trap set. */
static const struct rv_csr_row *find(struct rv_hart *hart, const struct rv_insn *insn,
                                     unsigned number, bool write)
{
    assert(number < RV_CSR_NUMBERS);
    const struct rv_csr_row *row = &rv_csr_rows[number];
    unsigned least = (number >> 8) & 3;
    bool read_only = number >> 10 == 3;
    if (row->name && hart->privilege >= least && !(write && read_only) &&
        (!row->check || row->check(hart, number)))
        return row;
    hart->trap.cause = RV_CAUSE_ILLEGAL;
    hart->trap.tval = insn ? insn->raw : 0;
    return NULL;
}

static uint64_t *field_of(struct rv_hart *hart, const struct rv_csr_row *row)
{
    return (uint64_t *)(void *)((char *)hart + row->offset);
}

bool rv_csr_read(struct rv_hart *hart, const struct rv_insn *insn, unsigned csr, bool will_write,
                 uint64_t *value)
{
    const struct rv_csr_row *row = find(hart, insn, csr, will_write);
    if (!row)
        return false;
    const struct rv_csr_access access = {hart, insn, csr};
    if (row->read)
        *value = row->read(&access);
    else
        *value = row->offset ? *field_of(hart, row) : row->value;
    return true;
}

bool rv_csr_write(struct rv_hart *hart, const struct rv_insn *insn, unsigned csr, uint64_t value)
{
    const struct rv_csr_row *row = find(hart, insn, csr, true);
    if (!row)
        return false;
    const struct rv_csr_access access = {hart, insn, csr};
    if (row->write) {
        row->write(&access, value);
    } else if (row->offset) {
        uint64_t *field = field_of(hart, row);
        *field = (*field & ~row->mask) | (value & row->mask);
    }
    return true;
}

const char *rv_csr_name(unsigned csr)
{
    return csr < RV_CSR_NUMBERS ? rv_csr_rows[csr].name : NULL;
}

bool rv_csr_field(unsigned csr, struct rv_csr_field *field)
{
    const struct rv_csr_row *row = &rv_csr_rows[csr & (RV_CSR_NUMBERS - 1)];
    if (!row->name || row->read || row->check || !row->offset)
        return false;
    *field = (struct rv_csr_field){row->offset, row->mask, !row->write};
    return true;
}

/* csrrs and csrrc must not write back the other bits that they read: an interrupt line may
 * have changed them in between, and what mip shows of a line is not what software wrote
 * (P §3.1.9). */
void rv_csr_changed_bits(const struct rv_csr_access *access, uint64_t value, uint64_t *set,
                         uint64_t *clear)
{
    const struct rv_insn *insn = access->insn;
    unsigned funct3 = insn ? (insn->raw >> 12) & 7 : 1;
    uint64_t operand = 0;
    if (insn)
        operand = funct3 & 4 ? bits_get(insn->raw, 15, 5) : access->hart->x[insn->rs1];
    switch (funct3 & 3) {
    case 2: /* csrrs */
        *set = operand;
        *clear = 0;
        break;
    case 3: /* csrrc */
        *set = 0;
        *clear = operand;
        break;
    default:
        *set = value;
        *clear = ~value;
        break;
    }
}

/* ---- floating point ---- */

bool rv_csr_check_fp(const struct rv_hart *hart, unsigned number)
{
    (void)number;
    return hart->mstatus & RV_MSTATUS_FS;
}

uint64_t rv_csr_read_fflags(const struct rv_csr_access *access)
{
    return access->hart->fflags;
}

uint64_t rv_csr_read_frm(const struct rv_csr_access *access)
{
    return access->hart->frm;
}

uint64_t rv_csr_read_fcsr(const struct rv_csr_access *access)
{
    return (uint64_t)access->hart->frm << 5 | access->hart->fflags;
}

void rv_csr_write_fflags(const struct rv_csr_access *access, uint64_t value)
{
    access->hart->fflags = (uint8_t)(value & 0x1f);
    access->hart->mstatus |= RV_MSTATUS_FS;
}

void rv_csr_write_frm(const struct rv_csr_access *access, uint64_t value)
{
    /* Reserved modes are kept and make the instructions that use them illegal. */
    access->hart->frm = (uint8_t)(value & 7);
    access->hart->mstatus |= RV_MSTATUS_FS;
}

void rv_csr_write_fcsr(const struct rv_csr_access *access, uint64_t value)
{
    rv_csr_write_fflags(access, value);
    rv_csr_write_frm(access, value >> 5);
}

/* ---- counters and time ---- */

bool rv_csr_check_counter(const struct rv_hart *hart, unsigned number)
{
    uint64_t bit = UINT64_C(1) << (number & 31);
    if (hart->privilege < RV_M && !(hart->mcounteren & bit))
        return false;
    return hart->privilege != RV_U || (hart->scounteren & bit);
}

/* Instructions retired before this one. One cycle passes per instruction. */
static uint64_t retired_before(const struct rv_csr_access *access)
{
    return access->hart->vcpu.retired + (access->insn ? access->insn->index : 0);
}

uint64_t rv_csr_read_cycle(const struct rv_csr_access *access)
{
    const struct rv_hart *hart = access->hart;
    return hart->mcountinhibit & RV_COUNTER_CY ? hart->cycle_frozen
                                               : retired_before(access) + hart->cycle_offset;
}

uint64_t rv_csr_read_instret(const struct rv_csr_access *access)
{
    const struct rv_hart *hart = access->hart;
    return hart->mcountinhibit & RV_COUNTER_IR ? hart->instret_frozen
                                               : retired_before(access) + hart->instret_offset;
}

/* The written value is what the next instruction reads: the write comes instead of the
 * increment of the instruction that writes (P §3.1.10, U §7.1.1). */
void rv_csr_write_cycle(const struct rv_csr_access *access, uint64_t value)
{
    access->hart->cycle_frozen = value;
    access->hart->cycle_offset = value - (retired_before(access) + 1);
}

void rv_csr_write_instret(const struct rv_csr_access *access, uint64_t value)
{
    access->hart->instret_frozen = value;
    access->hart->instret_offset = value - (retired_before(access) + 1);
}

void rv_csr_write_mcountinhibit(const struct rv_csr_access *access, uint64_t value)
{
    struct rv_hart *hart = access->hart;
    uint64_t cycle = rv_csr_read_cycle(access), instret = rv_csr_read_instret(access);
    uint64_t next = retired_before(access) + 1;
    uint64_t old = hart->mcountinhibit;
    hart->mcountinhibit = value & RV_COUNTINHIBIT_WRITABLE;
    /* A counter that was running still counts this instruction; one that was not, does not. */
    hart->cycle_frozen = cycle + (old & RV_COUNTER_CY ? 0 : 1);
    hart->instret_frozen = instret + (old & RV_COUNTER_IR ? 0 : 1);
    hart->cycle_offset = hart->cycle_frozen - next;
    hart->instret_offset = hart->instret_frozen - next;
}

uint64_t rv_csr_read_time(const struct rv_csr_access *access)
{
    return vcpu_time(access->hart->vcpu.timebase);
}

bool rv_csr_check_stimecmp(const struct rv_hart *hart, unsigned number)
{
    (void)number;
    return hart->privilege == RV_M ||
           ((hart->menvcfg & RV_MENVCFG_STCE) && (hart->mcounteren & RV_COUNTER_TM));
}

uint64_t rv_csr_read_stimecmp(const struct rv_csr_access *access)
{
    return atomic_load_explicit(&access->hart->stimecmp, memory_order_relaxed);
}

void rv_csr_write_stimecmp(const struct rv_csr_access *access, uint64_t value)
{
    atomic_store_explicit(&access->hart->stimecmp, value, memory_order_relaxed);
    rv_stimer_update(access->hart);
}

/* ---- status ---- */

static uint64_t status_with_sd(const struct rv_hart *hart)
{
    bool dirty = (hart->mstatus & RV_MSTATUS_FS) == RV_MSTATUS_FS;
    return hart->mstatus | (dirty ? RV_MSTATUS_SD : 0);
}

static void write_status(struct rv_hart *hart, uint64_t value, uint64_t writable)
{
    uint64_t old = hart->mstatus;
    uint64_t now = (old & ~writable) | (value & writable);
    if (bits_get(now, RV_MSTATUS_MPP_SHIFT, 2) == 2) /* no such mode: MPP keeps its value */
        now = (now & ~RV_MSTATUS_MPP) | (old & RV_MSTATUS_MPP);
    hart->mstatus = now;
    if ((old ^ now) & RV_MSTATUS_MXR)
        rv_tlb_flush_loads(hart);
    rv_mode_changed(hart);
}

uint64_t rv_csr_read_mstatus(const struct rv_csr_access *access)
{
    return status_with_sd(access->hart);
}

void rv_csr_write_mstatus(const struct rv_csr_access *access, uint64_t value)
{
    write_status(access->hart, value, RV_MSTATUS_WRITABLE);
}

uint64_t rv_csr_read_sstatus(const struct rv_csr_access *access)
{
    return status_with_sd(access->hart) & RV_SSTATUS_VISIBLE;
}

void rv_csr_write_sstatus(const struct rv_csr_access *access, uint64_t value)
{
    write_status(access->hart, value, RV_SSTATUS_WRITABLE);
}

uint64_t rv_csr_read_mhartid(const struct rv_csr_access *access)
{
    return access->hart->vcpu.index;
}

/* ---- interrupts ---- */

uint64_t rv_csr_read_mip(const struct rv_csr_access *access)
{
    return rv_mip(access->hart);
}

uint64_t rv_csr_read_sip(const struct rv_csr_access *access)
{
    return rv_mip(access->hart) & access->hart->mideleg;
}

static void write_pending(const struct rv_csr_access *access, uint64_t value, uint64_t writable)
{
    struct rv_hart *hart = access->hart;
    uint64_t set, clear;
    rv_csr_changed_bits(access, value, &set, &clear);
    hart->mip_software = (hart->mip_software | (set & writable)) & ~(clear & writable);
    /* SSI has one flip-flop, which the machine's IPI sets as software does: clearing it clears
     * the machine's share too. */
    if (clear & writable & RV_MIP_SSIP)
        atomic_fetch_and(&hart->vcpu.interrupts, ~RV_MIP_SSIP);
    rv_recheck_interrupts(hart);
}

void rv_csr_write_mip(const struct rv_csr_access *access, uint64_t value)
{
    bool sstc = access->hart->menvcfg & RV_MENVCFG_STCE;
    write_pending(access, value, sstc ? RV_MIP_S & ~RV_MIP_STIP : RV_MIP_S);
}

void rv_csr_write_sip(const struct rv_csr_access *access, uint64_t value)
{
    write_pending(access, value, RV_MIP_SSIP & access->hart->mideleg);
}

uint64_t rv_csr_read_sie(const struct rv_csr_access *access)
{
    return access->hart->mie & access->hart->mideleg;
}

void rv_csr_write_mie(const struct rv_csr_access *access, uint64_t value)
{
    access->hart->mie = value & RV_MIP_ALL;
    rv_recheck_interrupts(access->hart);
}

void rv_csr_write_sie(const struct rv_csr_access *access, uint64_t value)
{
    struct rv_hart *hart = access->hart;
    hart->mie = (hart->mie & ~hart->mideleg) | (value & hart->mideleg);
    rv_recheck_interrupts(hart);
}

void rv_csr_write_mideleg(const struct rv_csr_access *access, uint64_t value)
{
    access->hart->mideleg = value & RV_MIP_S;
    rv_recheck_interrupts(access->hart);
}

/* ---- environment configuration ---- */

static uint64_t envcfg_warl(uint64_t old, uint64_t value, uint64_t writable)
{
    if (bits_get(value, RV_ENVCFG_CBIE_SHIFT, 2) == 2) /* reserved: CBIE keeps its value */
        value = (value & ~RV_ENVCFG_CBIE) | (old & RV_ENVCFG_CBIE);
    return value & writable;
}

void rv_csr_write_senvcfg(const struct rv_csr_access *access, uint64_t value)
{
    access->hart->senvcfg = envcfg_warl(access->hart->senvcfg, value, RV_SENVCFG_WRITABLE);
}

void rv_csr_write_menvcfg(const struct rv_csr_access *access, uint64_t value)
{
    struct rv_hart *hart = access->hart;
    uint64_t old = hart->menvcfg;
    hart->menvcfg = envcfg_warl(old, value, RV_MENVCFG_WRITABLE);
    if ((old ^ hart->menvcfg) & (RV_MENVCFG_PBMTE | RV_MENVCFG_ADUE))
        rv_tlb_flush_translated(hart);
    if ((old ^ hart->menvcfg) & RV_MENVCFG_STCE)
        rv_stimer_update(hart);
}

/* ---- address translation and protection ---- */

bool rv_csr_check_satp(const struct rv_hart *hart, unsigned number)
{
    (void)number;
    return hart->privilege != RV_S || !(hart->mstatus & RV_MSTATUS_TVM);
}

void rv_csr_write_satp(const struct rv_csr_access *access, uint64_t value)
{
    uint64_t mode = value >> RV_SATP_MODE_SHIFT;
    bool supported = mode == RV_SATP_BARE || (mode >= RV_SATP_SV39 && mode <= RV_SATP_SV57);
    /* P §10.1.11: a mode that is not there makes the whole write have no effect. */
    if (!supported || value == access->hart->satp)
        return;
    rv_tlb_change_space(access->hart, value);
}

static void pmp_changed(struct rv_hart *hart)
{
    rv_pmp_update(hart);
    rv_tlb_flush_all(hart);
}

static bool pmp_locked(const struct rv_hart *hart, unsigned i)
{
    return hart->pmpcfg[i] & RV_PMP_L;
}

uint64_t rv_csr_read_pmpcfg(const struct rv_csr_access *access)
{
    unsigned first = (access->number - RV_CSR_PMPCFG0) * 4;
    return first < RV_PMP_COUNT ? load_le64(&access->hart->pmpcfg[first]) : 0;
}

void rv_csr_write_pmpcfg(const struct rv_csr_access *access, uint64_t value)
{
    struct rv_hart *hart = access->hart;
    unsigned first = (access->number - RV_CSR_PMPCFG0) * 4;
    if (first >= RV_PMP_COUNT)
        return;
    for (unsigned i = 0; i < 8; i++) {
        uint8_t config = (uint8_t)(value >> (8 * i)) & RV_PMP_WRITABLE;
        if (!(config & RV_PMP_R)) /* W without R is reserved */
            config = (uint8_t)(config & ~RV_PMP_W);
        if (!pmp_locked(hart, first + i))
            hart->pmpcfg[first + i] = config;
    }
    pmp_changed(hart);
}

uint64_t rv_csr_read_pmpaddr(const struct rv_csr_access *access)
{
    unsigned i = access->number - RV_CSR_PMPADDR0;
    return i < RV_PMP_COUNT ? access->hart->pmpaddr[i] : 0;
}

void rv_csr_write_pmpaddr(const struct rv_csr_access *access, uint64_t value)
{
    struct rv_hart *hart = access->hart;
    unsigned i = access->number - RV_CSR_PMPADDR0;
    if (i >= RV_PMP_COUNT || pmp_locked(hart, i))
        return;
    /* A locked TOR entry locks the address below it as well (P §3.7.1.2). */
    if (i + 1 < RV_PMP_COUNT && pmp_locked(hart, i + 1) &&
        (hart->pmpcfg[i + 1] & RV_PMP_A) == RV_PMP_TOR)
        return;
    hart->pmpaddr[i] = value & RV_PMPADDR_WRITABLE;
    pmp_changed(hart);
}
