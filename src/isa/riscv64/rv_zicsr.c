/* SPDX-License-Identifier: MIT
 *
 * Zicsr (U §Zicsr): atomic read/write of a CSR. What a CSR is lives in csr.c; here is which
 * half of the access happens: csrrw with rd = x0 does not read, csrrs and csrrc with rs1 = x0
 * (the register number, not its value) do not write and may name a read-only CSR.
 */
#include "isa/riscv64/csr_bits.h"
#include "isa/riscv64/exec.h"

/* Storage that no later instruction fetch, translation or interrupt depends on: traps and
 * FP code access these all the time, and the block may go on behind a write. */
static bool is_plain(unsigned csr)
{
    unsigned group = csr & ~3u; /* scratch, epc, cause, tval of S and of M */
    return csr == RV_CSR_FFLAGS || csr == RV_CSR_FRM || csr == RV_CSR_FCSR || group == 0x140 ||
           group == 0x340;
}

static enum rv_result after_write(struct rv_hart *hart, const struct rv_insn *insn, unsigned csr)
{
    return is_plain(csr) ? RV_NEXT : rv_leave_block(hart, insn);
}

static enum rv_result swap(struct rv_hart *hart, const struct rv_insn *insn, uint64_t operand)
{
    unsigned csr = (unsigned)insn->imm;
    uint64_t old = 0;
    if (insn->rd != RV_RD_NONE && !rv_csr_read(hart, insn, csr, true, &old))
        return RV_TRAP;
    if (!rv_csr_write(hart, insn, csr, operand))
        return RV_TRAP;
    hart->x[insn->rd] = old;
    return after_write(hart, insn, csr);
}

enum change { SET, CLEAR };

/* rs1 is a register number or an immediate; 0 means that nothing is written. */
static enum rv_result modify(struct rv_hart *hart, const struct rv_insn *insn, enum change change,
                             uint64_t operand)
{
    unsigned csr = (unsigned)insn->imm;
    bool writes = insn->rs1 != 0;
    uint64_t old;
    if (!rv_csr_read(hart, insn, csr, writes, &old))
        return RV_TRAP;
    if (writes && !rv_csr_write(hart, insn, csr, change == SET ? old | operand : old & ~operand))
        return RV_TRAP;
    hart->x[insn->rd] = old;
    return writes ? after_write(hart, insn, csr) : RV_NEXT;
}

static enum rv_result exec_csrrw(struct rv_hart *hart, const struct rv_insn *insn)
{
    return swap(hart, insn, hart->x[insn->rs1]);
}

static enum rv_result exec_csrrwi(struct rv_hart *hart, const struct rv_insn *insn)
{
    return swap(hart, insn, insn->rs1);
}

static enum rv_result exec_csrrs(struct rv_hart *hart, const struct rv_insn *insn)
{
    return modify(hart, insn, SET, hart->x[insn->rs1]);
}

static enum rv_result exec_csrrc(struct rv_hart *hart, const struct rv_insn *insn)
{
    return modify(hart, insn, CLEAR, hart->x[insn->rs1]);
}

static enum rv_result exec_csrrsi(struct rv_hart *hart, const struct rv_insn *insn)
{
    return modify(hart, insn, SET, insn->rs1);
}

static enum rv_result exec_csrrci(struct rv_hart *hart, const struct rv_insn *insn)
{
    return modify(hart, insn, CLEAR, insn->rs1);
}

/* Not RV_ROW_ENDS_BLOCK: reads and plain writes go on; the others leave the block. */
static const struct rv_row rows[] = {
    {"csrrw", 0x00001073, 0x0000707f, RV_FORMAT_CSR, exec_csrrw, 0},
    {"csrrs", 0x00002073, 0x0000707f, RV_FORMAT_CSR, exec_csrrs, 0},
    {"csrrc", 0x00003073, 0x0000707f, RV_FORMAT_CSR, exec_csrrc, 0},
    {"csrrwi", 0x00005073, 0x0000707f, RV_FORMAT_CSRI, exec_csrrwi, 0},
    {"csrrsi", 0x00006073, 0x0000707f, RV_FORMAT_CSRI, exec_csrrsi, 0},
    {"csrrci", 0x00007073, 0x0000707f, RV_FORMAT_CSRI, exec_csrrci, 0},
};
const struct rv_extension rv_zicsr = {"zicsr", rows, ARRAY_SIZE(rows)};
