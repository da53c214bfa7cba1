/* SPDX-License-Identifier: MIT
 *
 * CSRs of Smaia and Ssaia (A §2, §3.9, §5). They exist in harts that have an IMSIC.
 *
 * Choices that the specification leaves: the priorities of major interrupts are fixed (the
 * iprio arrays read as zero, A §5.2.1), so *topi says 1 for the priority; interrupt filtering
 * is not there (mvien reads as zero, A §5.3), and mvip is a view of the writable bits of mip.
 */
#include "isa/riscv64/csr_internal.h"

#define SELECT_IPRIO_FIRST 0x30
#define SELECT_IPRIO_LAST  0x3f

static enum rv_imsic_level level_of(unsigned number)
{
    return (number >> 8 & 3) == RV_M ? RV_IMSIC_M : RV_IMSIC_S;
}

bool rv_csr_check_aia(const struct rv_hart *hart, unsigned number)
{
    (void)number;
    return hart->imsic.present;
}

/* ---- the window to the interrupt file ---- */

static unsigned selected(const struct rv_hart *hart, unsigned number)
{
    return (unsigned)(level_of(number) == RV_IMSIC_M ? hart->miselect : hart->siselect);
}

/* True if an access of *ireg reaches something. */
bool rv_csr_check_ireg(const struct rv_hart *hart, unsigned number)
{
    if (!hart->imsic.present)
        return false;
    unsigned select = selected(hart, number);
    if (select >= SELECT_IPRIO_FIRST && select <= SELECT_IPRIO_LAST)
        return select % 2 == 0;
    return rv_imsic_exists(select);
}

uint64_t rv_csr_read_ireg(const struct rv_csr_access *access)
{
    unsigned select = selected(access->hart, access->number);
    return select <= SELECT_IPRIO_LAST
               ? 0
               : rv_imsic_read(access->hart, level_of(access->number), select);
}

void rv_csr_write_ireg(const struct rv_csr_access *access, uint64_t value)
{
    unsigned select = selected(access->hart, access->number);
    uint64_t set, clear;
    rv_csr_changed_bits(access, value, &set, &clear);
    if (select > SELECT_IPRIO_LAST)
        rv_imsic_write(access->hart, level_of(access->number), select, set, clear);
}

/* ---- top interrupts ---- */

uint64_t rv_csr_read_topei(const struct rv_csr_access *access)
{
    return rv_imsic_top(access->hart, level_of(access->number));
}

void rv_csr_write_topei(const struct rv_csr_access *access, uint64_t value)
{
    (void)value;
    /* Of the forms that write, only csrrw with rd = x0 does not read (U §Zicsr). */
    const struct rv_insn *insn = access->insn;
    bool was_read = insn && ((insn->raw >> 12 & 3) != 1 || insn->rd != RV_RD_NONE);
    rv_imsic_claim(access->hart, level_of(access->number), was_read);
}

uint64_t rv_csr_read_topi(const struct rv_csr_access *access)
{
    struct rv_hart *hart = access->hart;
    uint64_t bits = rv_mip(hart) & hart->mie;
    bits &= level_of(access->number) == RV_IMSIC_M ? ~hart->mideleg : hart->mideleg;
    return bits ? (uint64_t)rv_highest_interrupt(bits) << 16 | 1 : 0;
}

/* ---- mvip ---- */

/* SSIP and, where it is writable, STIP are those of mip; SEIP is the writable part alone. */
uint64_t rv_csr_read_mvip(const struct rv_csr_access *access)
{
    struct rv_hart *hart = access->hart;
    uint64_t bits = (rv_mip(hart) & RV_MIP_SSIP) | (hart->mip_software & RV_MIP_SEIP);
    if (!(hart->menvcfg & RV_MENVCFG_STCE))
        bits |= rv_mip(hart) & RV_MIP_STIP;
    return bits;
}
