/* SPDX-License-Identifier: MIT
 *
 * Cache-block operations: Zicbom (cbo.inval, clean, flush), Zicboz (cbo.zero) and Zicbop
 * (prefetches, which are hints in the encoding of ori to x0) (U §CMO). Blocks have 64 bytes.
 *
 * Guest memory is coherent by the host's doing, so that the management instructions only
 * check that they are permitted: by menvcfg below M-mode, and by senvcfg too in U-mode.
 */
#include "isa/riscv64/csr_bits.h"
#include "isa/riscv64/exec.h"
#include "isa/riscv64/mmu.h"

#define CBO_BLOCK_SIZE 64

/* True if every envcfg that applies has at least one bit of the field set. CBIE, the one
 * field of two bits, needs no more: what it tells apart, inval and flush, are the same here. */
static bool permitted(const struct rv_hart *hart, uint64_t field)
{
    if (hart->privilege != RV_M && (hart->menvcfg & field) == 0)
        return false;
    return hart->privilege != RV_U || (hart->senvcfg & field) != 0;
}

static enum rv_result manage(struct rv_hart *hart, const struct rv_insn *insn, uint64_t field)
{
    void *host;
    if (!permitted(hart, field))
        return rv_raise_illegal(hart, insn);
    if (!rv_cbo_pointer(hart, hart->x[insn->rs1], false, &host))
        return RV_TRAP;
    atomic_thread_fence(memory_order_seq_cst);
    return RV_NEXT;
}

static enum rv_result exec_cbo_inval(struct rv_hart *hart, const struct rv_insn *insn)
{
    return manage(hart, insn, RV_ENVCFG_CBIE);
}

static enum rv_result exec_cbo_clean(struct rv_hart *hart, const struct rv_insn *insn)
{
    return manage(hart, insn, RV_ENVCFG_CBCFE);
}

static enum rv_result exec_cbo_zero(struct rv_hart *hart, const struct rv_insn *insn)
{
    void *host;
    if (!permitted(hart, RV_ENVCFG_CBZE))
        return rv_raise_illegal(hart, insn);
    if (!rv_cbo_pointer(hart, hart->x[insn->rs1], true, &host))
        return RV_TRAP;
    memset(host, 0, CBO_BLOCK_SIZE);
    return RV_NEXT;
}

static const struct rv_row rows[] = {
    {"cbo.inval", 0x0000200f, 0xfff07fff, RV_FORMAT_CBO, exec_cbo_inval, 0},
    {"cbo.clean", 0x0010200f, 0xfff07fff, RV_FORMAT_CBO, exec_cbo_clean, 0},
    {"cbo.flush", 0x0020200f, 0xfff07fff, RV_FORMAT_CBO, exec_cbo_clean, 0},
    {"cbo.zero", 0x0040200f, 0xfff07fff, RV_FORMAT_CBO, exec_cbo_zero, RV_ROW_STORE},
    {"prefetch.i", 0x00006013, 0x01f07fff, RV_FORMAT_PREFETCH, rv_exec_hint, RV_ROW_SPECIAL},
    {"prefetch.r", 0x00106013, 0x01f07fff, RV_FORMAT_PREFETCH, rv_exec_hint, RV_ROW_SPECIAL},
    {"prefetch.w", 0x00306013, 0x01f07fff, RV_FORMAT_PREFETCH, rv_exec_hint, RV_ROW_SPECIAL},
};
const struct rv_extension rv_zicbo = {"zicbo", rows, ARRAY_SIZE(rows)};
